/* Seccomp filters over fork, exec and threads; every line is the same natively and under a translator. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(v, y, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, v, y, n)
#define ANSWER(v)   BPF_STMT(BPF_RET | BPF_K, v)
#define N(a)        (sizeof(a) / sizeof(a)[0])

static long install(struct sock_filter *f, unsigned short n, unsigned flags)
{
    struct sock_fprog p = {.len = n, .filter = f};

    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}

static long deny(int nr, unsigned answer, unsigned flags)
{
    struct sock_filter f[] = {LOAD(nr), IF(nr, 0, 1), ANSWER(answer), ANSWER(SECCOMP_RET_ALLOW)};

    return install(f, N(f), flags);
}

static void show(const char *what, long r)
{
    printf("%s %ld errno %d\n", what, r < 0 ? -1L : (long)(r > 0), r < 0 ? errno : 0);
    fflush(stdout);
}

static void child(const char *what, void (*fn)(void))
{
    int s;
    pid_t p = fork();

    if (!p) {
        fn();
        _exit(7);
    }
    waitpid(p, &s, 0);
    printf("%s: %s %d\n", what, WIFSIGNALED(s) ? "signal" : "status", WIFSIGNALED(s) ? WTERMSIG(s) : WEXITSTATUS(s));
    fflush(stdout);
}

static volatile sig_atomic_t seen, right;

static void on_sys(int sig, siginfo_t *i, void *c)
{
    seen = i->si_errno;
    right = sig == SIGSYS && i->si_code == 1 && i->si_syscall == SYS_getppid && i->si_call_addr && i->si_arch;
}

static void killed(void)
{
    deny(SYS_getppid, SECCOMP_RET_KILL_PROCESS, 0);
    getppid();
}

static void strict(void)
{
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    if (write(1, "strict\n", 7) == 7)
        getppid();
}

static void *waits(void *arg)
{
    pthread_barrier_wait(arg);
    pthread_barrier_wait(arg);
    errno = 0;
    return (void *)(long)(syscall(SYS_getuid) == -1 ? errno : 0);
}

static void threads(void)
{
    pthread_barrier_t b;
    pthread_t t;
    void *r;

    pthread_barrier_init(&b, NULL, 2);
    pthread_create(&t, NULL, waits, &b);
    pthread_barrier_wait(&b);
    show("tsync", deny(SYS_getuid, SECCOMP_RET_ERRNO | 99, SECCOMP_FILTER_FLAG_TSYNC));
    pthread_barrier_wait(&b);
    pthread_join(t, &r);
    printf("thread sees %ld\n", (long)r);
}

static void arguments(void)
{
    struct sock_filter f[] = {LOAD(nr),
                              IF(SYS_dup3, 0, 3),
                              LOAD(args[0]),
                              IF(1000000, 0, 1),
                              ANSWER(SECCOMP_RET_ERRNO | 77),
                              ANSWER(SECCOMP_RET_ALLOW)};

    install(f, N(f), 0);
    errno = 0;
    show("dup of 1000000", dup3(1000000, 5, 0));
    show("dup of 1000001", dup3(1000001, 5, 0));
}

int main(int argc, char **argv)
{
    struct sock_filter bad[] = {LOAD(nr), BPF_STMT(BPF_JMP | BPF_JA, 5), ANSWER(0)}, fall[] = {LOAD(nr)};
    struct sigaction sa = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    unsigned action = SECCOMP_RET_TRAP, unknown = 0x12340000;

    if (argc > 1) {
        printf("executed: %d ", prctl(PR_GET_SECCOMP));
        show("getsid", getsid(0));
        return 3;
    }
    printf("before %d\n", prctl(PR_GET_SECCOMP));
    child("strict", strict);
    show("available", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
    show("unknown", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &unknown));
    show("no new privileges", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    show("jump out", install(bad, N(bad), 0));
    show("no end", install(fall, N(fall), 0));
    show("flags", install(bad, N(bad), 0x8000));
    show("deny getsid", deny(SYS_getsid, SECCOMP_RET_ERRNO | 55, 0));
    printf("mode %d\n", prctl(PR_GET_SECCOMP));
    show("getsid", getsid(0));
    deny(SYS_getsid, SECCOMP_RET_ERRNO | 66, 0); /* of equal answers the newer */
    show("getsid", getsid(0));
    child("killed", killed);
    child("arguments", arguments);
    sigaction(SIGSYS, &sa, NULL);
    deny(SYS_getppid, SECCOMP_RET_TRAP | 44, 0);
    getppid();
    printf("trap %d %d\n", (int)seen, (int)right);
    threads();
    fflush(stdout);
    if (!fork()) {
        execl(argv[0], argv[0], "again", NULL);
        _exit(1);
    }
    wait(&(int){0});
    return 0;
}
