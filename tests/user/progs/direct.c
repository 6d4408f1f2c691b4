/* System calls a kernel takes as they are: what they leave of the registers, signals before, in and behind them, a
 * buffer that is code, and a filter that comes later to loops that have made the call before. Prints what any kernel
 * makes of it. */
#include "said.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>

/* ---- registers: in[] before, out[] behind a call ---- */
enum { NR = 32 };
static uint64_t in[NR], out[NR];

#if defined(__x86_64__)
enum { LOST = 1 << 0 | 1 << 1 | 1 << 10, FLAGS = 0x8d5 };
static const char *const names[] = {"ax", "cx", "dx", "si", "di", "8", "9", "10", "bx", "12", "11", "13", "14", "15"};
enum { REGS = 14 };
static void call_with(long nr)
{
    uint64_t flags = 0, behind = 0;

    in[0] = (uint64_t)nr;
    __asm__ volatile("push %%rbp; lea in(%%rip), %%rbp\n"
                     "mov 16(%%rbp), %%rdx; mov 24(%%rbp), %%rsi; mov 32(%%rbp), %%rdi; mov 40(%%rbp), %%r8\n"
                     "mov 48(%%rbp), %%r9; mov 56(%%rbp), %%r10; mov 64(%%rbp), %%rbx; mov 72(%%rbp), %%r12\n"
                     "mov 88(%%rbp), %%r13; mov 96(%%rbp), %%r14; mov 104(%%rbp), %%r15; mov (%%rbp), %%rax\n"
                     "stc; syscall\n1: lea out(%%rip), %%rbp\n"
                     "mov %%rax, (%%rbp); mov %%rcx, 8(%%rbp); mov %%rdx, 16(%%rbp); mov %%rsi, 24(%%rbp)\n"
                     "mov %%rdi, 32(%%rbp); mov %%r8, 40(%%rbp); mov %%r9, 48(%%rbp); mov %%r10, 56(%%rbp)\n"
                     "mov %%rbx, 64(%%rbp); mov %%r12, 72(%%rbp); mov %%r11, 80(%%rbp); mov %%r13, 88(%%rbp)\n"
                     "mov %%r14, 96(%%rbp); mov %%r15, 104(%%rbp); pushf; pop 112(%%rbp)\n"
                     "lea 1b(%%rip), %%rcx; mov %%rcx, 120(%%rbp); pop %%rbp"
                     :
                     :
                     : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
                       "memory", "cc");
    flags = out[14];
    behind = out[15];
    printf("carry %d, pc in cx %d, flags in 11 %d\n", (int)(flags & 1), out[1] == behind,
           (out[10] & FLAGS) == (flags & FLAGS));
}
#elif defined(__aarch64__)
enum { LOST = 1 << 0, REGS = 29 };
static void call_with(long nr)
{
    in[8] = (uint64_t)nr;
#define PAIRS(op, r)                                                                                                   \
    op " x1, [" r ", #8]\n" op " x2, [" r ", #16]\n" op " x3, [" r ", #24]\n" op " x4, [" r ", #32]\n" op " x5, [" r   \
       ", #40]\n" op " x6, [" r ", #48]\n" op " x7, [" r ", #56]\n" op " x8, [" r ", #64]\n" op " x9, [" r             \
       ", #72]\n" op " x10, [" r ", #80]\n" op " x11, [" r ", #88]\n" op " x12, [" r ", #96]\n" op " x13, [" r         \
       ", #104]\n" op " x14, [" r ", #112]\n" op " x15, [" r ", #120]\n" op " x16, [" r ", #128]\n" op " x17, [" r     \
       ", #136]\n" op " x18, [" r ", #144]\n" op " x19, [" r ", #152]\n" op " x20, [" r ", #160]\n" op " x21, [" r     \
       ", #168]\n" op " x22, [" r ", #176]\n" op " x23, [" r ", #184]\n" op " x24, [" r ", #192]\n" op " x25, [" r     \
       ", #200]\n" op " x26, [" r ", #208]\n" op " x27, [" r ", #216]\n" op " x28, [" r ", #224]\n"
    __asm__ volatile("adrp x30, in\n add x30, x30, :lo12:in\n" PAIRS(
                         "ldr", "x30") "cmp xzr, xzr\n svc #0\n"
                                       "adrp x30, out\n add x30, x30, :lo12:out\n str x0, [x30]\n" PAIRS(
                                           "str", "x30") "cset x1, eq\n str x1, [x30, #232]\n"
                     :
                     :
                     : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
                       "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28",
                       "x30", "memory", "cc");
    printf("equal %d\n", (int)out[29]);
}
#else /* RISC-V: x18 and up, which a0 to a7 are saved beside */
enum { LOST = 1 << 10, REGS = 29 };
static void call_with(long nr)
{
    in[17] = (uint64_t)nr;
#define ALL(op)                                                                                                        \
    op " x5, 40(ra)\n" op " x6, 48(ra)\n" op " x7, 56(ra)\n" op " x9, 72(ra)\n" op " x10, 80(ra)\n" op                 \
       " x11, 88(ra)\n" op " x12, 96(ra)\n" op " x13, 104(ra)\n" op " x14, 112(ra)\n" op " x15, 120(ra)\n" op          \
       " x16, 128(ra)\n" op " x17, 136(ra)\n" op " x18, 144(ra)\n" op " x19, 152(ra)\n" op " x20, 160(ra)\n" op        \
       " x21, 168(ra)\n" op " x22, 176(ra)\n" op " x23, 184(ra)\n" op " x24, 192(ra)\n" op " x25, 200(ra)\n" op        \
       " x26, 208(ra)\n" op " x27, 216(ra)\n" op " x28, 224(ra)\n"
    __asm__ volatile("la ra, in\n" ALL("ld") "ecall\n la ra, out\n" ALL("sd")
                     :
                     :
                     : "ra", "x5", "x6", "x7", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18",
                       "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "memory");
    in[0] = in[1] = in[2] = in[3] = in[4] = in[8] = 0;
}
#endif

static void registers(void)
{
    unsigned changed = 0;

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < NR; i++)
            in[i] = UINT64_C(0x123456789abcdef) * (uint64_t)(i + 1) + (uint64_t)round;
        call_with(SYS_getppid);
        for (int i = 0; i < REGS; i++)
            changed |= (unsigned)(in[i] != out[i] && !(LOST >> i & 1)) << i;
        out[29] = 0;
    }
    printf("changed %x, parent %d\n", changed, syscall(SYS_getppid) == getppid());
}

/* ---- signals ---- */
static int to[2], back[2];
static volatile unsigned ticks, writes;

static void on_tick(int sig)
{
    ticks++;
    if (writes) {
        writes--;
        if (write(to[1], "t", 1) != 1)
            _exit(8);
    }
}

static void tick_in(int flags, unsigned us, unsigned every)
{
    struct sigaction act = {.sa_handler = on_tick, .sa_flags = flags};
    struct itimerval t = {.it_value = {.tv_usec = us}, .it_interval = {.tv_usec = every}};

    sigaction(SIGALRM, &act, NULL);
    setitimer(ITIMER_REAL, &t, NULL);
}

static void interrupted(void)
{
    struct pollfd p = {.fd = to[0], .events = POLLIN};
    char c = 0;

    ticks = 0;
    tick_in(0, 20000, 0);
    SAY(syscall(SYS_read, to[0], &c, 1));
    printf("ticks %u\n", ticks);
    writes = 1;
    tick_in(SA_RESTART, 20000, 0);
    SAY(syscall(SYS_read, to[0], &c, 1));
    printf("ticks %u, read %c\n", ticks, c);
    tick_in(SA_RESTART, 20000, 0); /* not this one */
    SAY(poll(&p, 1, -1));
    printf("ticks %u\n", ticks);
}

/* A byte to a child and back, with a signal every now and then in both: none is lost, none comes twice. */
static void storm(unsigned rounds)
{
    unsigned sum = 0, want = 0;
    pid_t kid = fork();
    unsigned char c;
    int status;

    ticks = 0;
    tick_in(SA_RESTART, 100, 150);
    if (!kid) {
        close(to[1]);
        while (read(to[0], &c, 1) == 1)
            if (write(back[1], &c, 1) != 1)
                _exit(7);
        _exit(ticks ? 5 : 6);
    }
    close(to[0]);
    for (unsigned i = 0; i < rounds || ticks < 20; i++) {
        c = (unsigned char)(i * 7);
        want += c;
        if (write(to[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
            _exit(9);
        sum += c;
    }
    tick_in(SA_RESTART, 0, 0);
    close(to[1]);
    waitpid(kid, &status, 0);
    printf("sum right %d, child %d\n", sum == want, WEXITSTATUS(status));
}

/* ---- a buffer that is code ---- */
#if defined(__x86_64__)
static const uint8_t one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3};
#elif defined(__aarch64__)
static const uint32_t one[] = {0x52800020, 0xd65f03c0}, two[] = {0x52800040, 0xd65f03c0};
#else
static const uint32_t one[] = {0x00100513, 0x00008067}, two[] = {0x00200513, 0x00008067};
#endif

static void code(void)
{
    uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd[2];

    if (pipe(fd) < 0)
        _exit(10);
    for (int i = 0; i < 6; i++) {
        const void *from = i & 1 ? (const void *)two : (const void *)one;

        if (write(fd[1], from, sizeof one) != sizeof one)
            _exit(11);
        SAY(syscall(SYS_read, fd[0], p, sizeof one) == sizeof one);
        __builtin___clear_cache((char *)p, (char *)p + 64);
        printf("gives %d\n", ((int (*)(void))(uintptr_t)p)());
    }
    SAY(syscall(SYS_read, fd[0], p, 0));
    SAY(syscall(SYS_write, fd[1], (void *)8, 4));
    SAY(syscall(SYS_getppid + 5000));
    SAY(syscall(-1L));
}

/* ---- a filter ---- */
static _Atomic int refused;

static void *asks(void *arg)
{
    while (syscall(SYS_getppid) != -1 || errno != EPERM)
        ;
    refused++;
    return NULL;
}

static void filtered(void)
{
    struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                              BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
                              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog prog = {4, f};
    pthread_t t;

    pthread_create(&t, NULL, asks, NULL);
    for (int i = 0; i < 100; i++)
        syscall(SYS_getppid);
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    SAY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog));
    SAY(syscall(SYS_getppid));
    pthread_join(t, NULL);
    printf("refused %d\n", refused);
}

int main(int argc, char **argv)
{
    if (pipe(to) < 0 || pipe(back) < 0)
        return 1;
    registers();
    interrupted();
    storm(argc > 1 ? (unsigned)atoi(argv[1]) : 2000);
    code();
    filtered();
    return 0;
}
