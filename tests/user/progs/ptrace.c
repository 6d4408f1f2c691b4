#define _GNU_SOURCE
/* A tracer and its tracees: stops, memory, registers by set, signals, system calls, single steps, children, attaching.
 */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile long word = 5;
static volatile int got;

static void on_usr1(int s)
{
    got = s;
}

static void show(const char *what, int s)
{
    printf("%s: %s %d event %d\n", what,
           WIFSTOPPED(s)    ? "stopped"
           : WIFSIGNALED(s) ? "killed"
                            : "exited",
           WIFSTOPPED(s)    ? WSTOPSIG(s)
           : WIFSIGNALED(s) ? WTERMSIG(s)
                            : WEXITSTATUS(s),
           WIFSTOPPED(s) ? s >> 16 : 0);
    fflush(stdout);
}

static int next(pid_t p, int how, int sig)
{
    int s = 0;

    if (ptrace(how, p, 0, sig) < 0)
        printf("ptrace %d: %d\n", how, errno);
    waitpid(p, &s, __WALL);
    return s;
}

static pid_t start(void (*fn)(void))
{
    pid_t p = fork();
    int s;

    if (!p) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        fn();
        _exit((int)word);
    }
    waitpid(p, &s, 0);
    show("start", s);
    return p;
}

static void plain(void)
{
    signal(SIGUSR1, on_usr1);
    raise(SIGUSR1);
    raise(SIGUSR2);
    word += got;
}

static void one_call(void)
{
    syscall(SYS_getpgid, 0);
}

static void blocked_fault(void)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    *(volatile int *)16 = 0;
}

static void forks(void)
{
    if (!fork())
        _exit(9);
    wait(&(int){0});
}

static void waits(void)
{
    for (;;)
        pause();
}

/* A floating-point register across a stop: SIGUSR1 is sent to itself without a function call in between. */
#if defined(__x86_64__)
enum { FP_NOTE = NT_PRFPREG, FP_AT = 160 + 16 * 5 };
#define SEND      "movsd %2, %%xmm5\n syscall\n movsd %%xmm5, %0"
#define SEND_REGS "=m"(v), "+a"(nr) : "m"(v), "D"(pid), "S"(SIGUSR1) : "rcx", "r11", "xmm5", "memory"
#elif defined(__i386__)
enum { FP_NOTE = NT_PRXFPREG, FP_AT = 160 + 16 * 5 };
#define SEND      "movsd %2, %%xmm5\n int $0x80\n movsd %%xmm5, %0"
#define SEND_REGS "=m"(v), "+a"(nr) : "m"(v), "b"(pid), "c"(SIGUSR1) : "memory"
#elif defined(__aarch64__)
enum { FP_NOTE = NT_PRFPREG, FP_AT = 16 * 9 };
#define SEND      "ldr d9, %2\n mov x8, %1\n mov x0, %3\n mov x1, %4\n svc #0\n str d9, %0"
#define SEND_REGS "=m"(v), "+r"(nr) : "m"(v), "r"((long)pid), "r"((long)SIGUSR1) : "x0", "x1", "x8", "d9", "memory"
#elif defined(__arm__)
enum { FP_NOTE = NT_ARM_VFP, FP_AT = 8 * 9 };
#define SEND      "vldr d9, %2\n push {r7}\n mov r7, %1\n mov r0, %3\n mov r1, %4\n svc #0\n pop {r7}\n vstr d9, [%5]"
#define SEND_REGS "=m"(v), "+r"(nr) : "m"(*&v), "r"(pid), "r"(SIGUSR1), "r"(&v) : "r0", "r1", "d9", "memory"
#else
enum { FP_NOTE = NT_PRFPREG, FP_AT = 8 * 9 };
#define SEND      "fld fs1, %2\n mv a7, %1\n mv a0, %3\n mv a1, %4\n ecall\n fsd fs1, %0"
#define SEND_REGS "=m"(v), "+r"(nr) : "m"(v), "r"((long)pid), "r"((long)SIGUSR1) : "a0", "a1", "a7", "fs1", "memory"
#endif

static void floats(void)
{
    static volatile double v = 1.5;
    long nr = SYS_kill;
    int pid = getpid();

    __asm__ volatile(SEND : SEND_REGS);
    _exit(v == -2.25 ? 44 : 1);
}

static void float_registers(void)
{
    static char all[4096];
    struct iovec v = {all, sizeof all};
    double d;
    pid_t p = start(floats);
    int s = next(p, PTRACE_CONT, 0);

    show("sent", s);
    ptrace(PTRACE_GETREGSET, p, FP_NOTE, &v);
    memcpy(&d, all + FP_AT, 8);
    printf("float %f\n", d);
    d = -2.25;
    memcpy(all + FP_AT, &d, 8);
    printf("set %d\n", ptrace(PTRACE_SETREGSET, p, FP_NOTE, &v) == 0);
    show("end", next(p, PTRACE_CONT, 0));
}

static int ends[2];
static volatile int *child, *at_wait4; /* seen by all */

static void on_signal_write(int sig)
{
    if (write(ends[1], "x", 1) != 1)
        _exit(99);
    got = sig;
}

/* Both calls meet a signal that comes while the tracer holds them at their beginning. */
static void interrupted(void)
{
    struct sigaction sa = {.sa_handler = on_signal_write, .sa_flags = SA_RESTART};
    char c;
    pid_t p;

    sigaction(SIGUSR1, &sa, NULL);
    sigaction(SIGCHLD, &sa, NULL);
    syscall(SYS_read, ends[0], &c, 1);
    p = fork();
    if (!p) {
        *child = getpid();
        while (!*at_wait4) /* its parent is stopped there */
            usleep(1000);
        _exit(4);
    }
    word = syscall(SYS_wait4, p, NULL, 0, NULL) == p ? 6 : 7;
}

/* The tracee's child has ended, and told the tracee so. */
static void let_it_end(void)
{
    char path[32], text[64] = "";

    *at_wait4 = 1;
    for (int i = 0; i < 10000 && !strstr(text, ") Z"); i++) {
        FILE *f;

        usleep(2000);
        sprintf(path, "/proc/%d/stat", *child);
        f = fopen(path, "r");
        if (f) {
            text[fread(text, 1, sizeof text - 1, f)] = 0;
            fclose(f);
        }
    }
}

static void meets_signals(void)
{
    struct __ptrace_syscall_info i;
    int s, n = 0;
    long nr = -1;
    pid_t p;

    if (pipe(ends) < 0)
        return;
    child = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    at_wait4 = child + 1;
    p = start(interrupted);
    ptrace(PTRACE_SETOPTIONS, p, 0, PTRACE_O_TRACESYSGOOD);
    while (s = next(p, PTRACE_SYSCALL, n), WIFSTOPPED(s)) {
        n = WSTOPSIG(s) & 0x80 ? 0 : WSTOPSIG(s);
        if (n) {
            show("meets", s);
            continue;
        }
        ptrace(PTRACE_GET_SYSCALL_INFO, p, sizeof i, &i);
        if (i.op == PTRACE_SYSCALL_INFO_ENTRY) {
            nr = (long)i.entry.nr;
            if (nr == SYS_read && !got++)
                kill(p, SIGUSR1);
            if (nr == SYS_wait4 && !*at_wait4)
                let_it_end();
        }
        if (nr == SYS_read)
            printf("read: op %d %ld\n", i.op, i.op == PTRACE_SYSCALL_INFO_EXIT ? (long)i.exit.rval : 0);
        else if (nr == SYS_wait4)
            printf("wait4: op %d %d\n", i.op, i.op == PTRACE_SYSCALL_INFO_EXIT && i.exit.rval > 0);
        else if (nr == SYS_write)
            printf("write: op %d\n", i.op);
    }
    show("met", s);
}

int main(void)
{
    char regs[1024];
    struct iovec v = {regs, sizeof regs};
    siginfo_t info;
    pid_t p, c;
    int s, n;
    unsigned long msg;

    p = start(plain);
    errno = 0;
    printf("peeked %ld\n", ptrace(PTRACE_PEEKDATA, p, &word, 0));
    ptrace(PTRACE_POKEDATA, p, &word, 77L);
    printf("poked %ld here %ld\n", ptrace(PTRACE_PEEKDATA, p, &word, 0), word);
    printf("registers %d\n", ptrace(PTRACE_GETREGSET, p, NT_PRSTATUS, &v) == 0 && v.iov_len > 60 && v.iov_len < 400);
    printf("set %d\n", ptrace(PTRACE_SETREGSET, p, NT_PRSTATUS, &v) == 0);
    show("usr1", next(p, PTRACE_CONT, 0));
    ptrace(PTRACE_GETSIGINFO, p, 0, &info);
    printf("info %d code %d\n", info.si_signo, info.si_code);
    show("usr2", next(p, PTRACE_CONT, SIGUSR1)); /* delivered */
    show("end", next(p, PTRACE_CONT, 0));        /* not delivered */

    p = start(blocked_fault);
    show("fault", next(p, PTRACE_CONT, 0));
    show("end", next(p, PTRACE_CONT, SIGSEGV));

    float_registers();
    p = start(one_call);
    ptrace(PTRACE_SETOPTIONS, p, 0, PTRACE_O_TRACESYSGOOD);
    for (n = 0; s = next(p, PTRACE_SYSCALL, 0), WIFSTOPPED(s) && WSTOPSIG(s) == (SIGTRAP | 0x80); n++)
        ;
    printf("system calls %d\n", n >= 3 && n % 2 == 1);
    show("end", s);

    p = start(one_call);
    for (n = 0; n < 10 && (s = next(p, PTRACE_SINGLESTEP, 0), WIFSTOPPED(s) && WSTOPSIG(s) == SIGTRAP); n++)
        ;
    printf("steps %d\n", n);
    show("end", next(p, PTRACE_CONT, 0));

    p = start(forks);
    ptrace(PTRACE_SETOPTIONS, p, 0, PTRACE_O_TRACEFORK);
    show("fork", next(p, PTRACE_CONT, 0));
    ptrace(PTRACE_GETEVENTMSG, p, 0, &msg);
    c = (pid_t)msg;
    waitpid(c, &s, __WALL);
    show("child", s);
    show("child's end", next(c, PTRACE_CONT, 0));
    show("chld", next(p, PTRACE_CONT, 0));
    show("end", next(p, PTRACE_CONT, 0));

    if (!(p = fork()))
        waits();
    usleep(50000);
    printf("attach %ld\n", (long)ptrace(PTRACE_ATTACH, p, 0, 0));
    waitpid(p, &s, 0);
    show("attached", s);
    ptrace(PTRACE_DETACH, p, 0, 0);
    kill(p, SIGTERM);
    waitpid(p, &s, 0);
    show("detached", s);
    meets_signals();
    return 0;
}
