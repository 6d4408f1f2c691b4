/* x86-64. Calls of functions of a few instructions, which a translator may put where they are called: faults and
 * signals in them, where they return to changed by a handler, and their code changed in every way. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, DEPTHS = 7 };

extern char leaf[], leaf_ret[], other_way[], far_leaf[], storm_leaf[], storm_back[];
uint64_t base_rsp;
uint64_t run_0(const uint64_t *p, uint64_t v), run_1(const uint64_t *p, uint64_t v),
    run_2(const uint64_t *p, uint64_t v), run_3(const uint64_t *p, uint64_t v), run_4(const uint64_t *p, uint64_t v),
    run_5(const uint64_t *p, uint64_t v), run_6(const uint64_t *p, uint64_t v), run_far(void), turn_0(void),
    turn_1(void), turn_2(void), run_storm(uint64_t n);

/* N pushes, and the call while RSP may not have moved yet. */
#define RUN(n)                                                                                                         \
    "run_" #n ":\n"                                                                                                    \
    "  mov %rsp, base_rsp(%rip)\n"                                                                                     \
    "  .rept " #n "\n  push %rdi\n  .endr\n"                                                                           \
    "  call leaf\n"                                                                                                    \
    "  .rept " #n "\n  pop %rdx\n  .endr\n"                                                                            \
    "  ret\n"

__asm__(".text\n" RUN(0) RUN(1) RUN(2) RUN(3) RUN(4) RUN(5)
            RUN(6) "leaf:\n"
                   "  lea 3(%rsi), %rcx\n"
                   "  mov (%rdi), %rax\n"
                   "  add %rcx, %rax\n"
                   "  xor %rsi, %rax\n"
                   "leaf_ret:\n"
                   "  ret\n"
                   "other_way:\n" /* where the handler makes it return to, with its own caller's address on the stack */
                   "  mov $1000, %eax\n"
                   "  ret\n"
                   /* Three that change where they return to, or from. */
                   "turn_0:\n"
                   "  lea other_way(%rip), %rsi\n"
                   "  lea -8(%rsp), %rdi\n"
                   "  call 1f\n"
                   "  mov $1, %eax\n"
                   "  ret\n"
                   "1: mov %rsi, (%rdi)\n"
                   "  ret\n"
                   "turn_1:\n"
                   "  lea other_way(%rip), %rsi\n"
                   "  call 2f\n"
                   "  mov $1, %eax\n"
                   "  ret\n"
                   "2: mov %rsi, (%rsp)\n"
                   "  ret\n"
                   "turn_2:\n"
                   "  mov $77, %eax\n"
                   "  call 3f\n"
                   "  mov $1, %eax\n"
                   "  ret\n"
                   "3: add $8, %rsp\n"
                   "  ret\n"
                   "run_far:\n"
                   "  call far_leaf\n"
                   "  add $1, %rax\n"
                   "  ret\n"
                   "run_storm:\n"
                   "  push %rbx\n"
                   "  xor %eax, %eax\n"
                   "  mov %rsp, base_rsp(%rip)\n"
                   "storm_run:\n"
                   "  push %rdi\n"
                   "  push %rbx\n"
                   "  call storm_leaf\n"
                   "storm_back:\n"
                   "  pop %rbx\n"
                   "  add %rdx, %rax\n"
                   "  pop %rdi\n"
                   "  sub $1, %rdi\n"
                   "  jnz storm_run\n"
                   "  pop %rbx\n"
                   "  ret\n"
                   "storm_leaf:\n"
                   "  imul $7, %rdi, %rdx\n"
                   "  xor %rdi, %rdx\n"
                   "  imul %rdx, %rdx\n"
                   "  ret\n"
                   ".balign 4096\n"
                   "far_leaf:\n"
                   "  mov $5, %eax\n"
                   "  lea (%rax,%rax), %rax\n"
                   "  ret\n"
                   ".balign 4096\n");

static uint64_t (*const run[DEPTHS])(const uint64_t *, uint64_t) = {run_0, run_1, run_2, run_3, run_4, run_5, run_6};
static volatile int way, depth;
static uint64_t value = 40;

static void on_fault(int sig, siginfo_t *i, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t *sp = (uint64_t *)(uintptr_t)g[REG_RSP];
    const char *to = (const char *)(uintptr_t)sp[0];

    if ((uint64_t)g[REG_RIP] - (uintptr_t)leaf > 16) {
        puts(" out of the leaf");
        _exit(3);
    }
    printf(" signal %d at +%d, rsp %+d, back in %d bytes of code, rcx %d", sig,
           (int)((const char *)(uintptr_t)g[REG_RIP] - leaf), (int)((uint64_t)g[REG_RSP] - base_rsp),
           (int)(to > (const char *)run_0 && to < (const char *)leaf), (int)g[REG_RCX]);
    (void)i;
    g[REG_RDI] = (greg_t)(uintptr_t)&value;
    if (way == 1) { /* it returns elsewhere: behind what its caller pushed */
        sp[depth] = (uintptr_t)other_way;
        g[REG_RSP] += 8 * depth;
    } else if (way == 2) {
        g[REG_RIP] = (greg_t)(uintptr_t)leaf_ret;
        g[REG_RAX] = 7;
    }
}

static volatile sig_atomic_t seen, inside, wrong;

static void on_alarm(int sig, siginfo_t *i, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    const char *rip = (const char *)(uintptr_t)g[REG_RIP];

    (void)sig;
    (void)i;
    seen++;
    if (rip < storm_leaf || rip >= storm_leaf + 12)
        return;
    inside++;
    if ((uint64_t)g[REG_RSP] != base_rsp - 24 || *(uint64_t *)(uintptr_t)g[REG_RSP] != (uintptr_t)storm_back)
        wrong++;
}

static void faults(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

    sigaction(SIGSEGV, &sa, NULL);
    for (way = 0; way < 3; way++)
        for (depth = 0; depth < DEPTHS; depth++) {
            printf("way %d, depth %d:", way, depth);
            printf(" %d\n", (int)run[depth]((const uint64_t *)8, 5));
        }
    for (depth = 0; depth < DEPTHS; depth++)
        printf("depth %d: %d\n", depth, (int)run[depth](&value, 6));
}

static void storm(void)
{
    struct sigaction sa = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval t = {{0, 200}, {0, 200}}, off = {{0, 0}, {0, 0}};
    uint64_t sum = 0;

    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &t, NULL);
    while (seen < 500 || inside < 20)
        sum = run_storm(100000);
    setitimer(ITIMER_REAL, &off, NULL);
    printf("storm: %llx, wrong %d\n", (unsigned long long)sum, (int)wrong);
}

/* ---- code that changes ---- */

static uint8_t *code, *also; /* executable, and the same to be written */
static int fd;
enum {
    CALLER = 0,
    CROSS = 64,
    EMPTY = 128,
    LEAF = PAGE + 32,
    CROSSING = 3 * PAGE - 2,
    NOTHING = 4 * PAGE,
    SIZE = 5 * PAGE
};

static void put_call(unsigned at, unsigned to)
{
    static const uint8_t call[] = {0x83, 0xc8, 0xff, 0x90, 0xe8, 0, 0, 0, 0, 0x83, 0xc0, 0, 0xc3}; /* or eax, -1 ... */
    int32_t by = (int32_t)(to - (at + 9));

    memcpy(also + at, call, sizeof call);
    memcpy(also + at + 5, &by, 4);
}

static void put_leaf(uint8_t *at, int v)
{
    at[0] = 0xb8; /* mov eax, v; ret */
    memcpy(at + 1, &v, 4);
    at[5] = 0xc3;
}

static int call(unsigned at)
{
    unsigned a = 0, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory"); /* nothing fetched before counts */
    return ((int (*)(void))(uintptr_t)(code + at))();
}

static atomic_int told, heard;

static void *writer(void *arg)
{
    for (int i = 1; i <= 300; i++) {
        put_leaf(also + LEAF, i);
        atomic_store(&told, i);
        while (atomic_load(&heard) != i)
            sched_yield();
    }
    return arg;
}

static void changes(void)
{
    pthread_t t;
    long sum = 0, bad = 0;

    fd = memfd_create("code", 0);
    if (fd < 0 || ftruncate(fd, SIZE + PAGE))
        return;
    also = mmap(NULL, SIZE + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    code = mmap(NULL, SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    put_call(CALLER, LEAF);
    put_call(CROSS, CROSSING);
    put_call(EMPTY, NOTHING);
    put_leaf(also + LEAF, 1);
    put_leaf(also + CROSSING, 2);
    also[NOTHING] = 0xc3;
    printf("at first: %d %d %d\n", call(CALLER), call(CROSS), call(EMPTY));
    for (int i = 0; i < 200; i++) { /* through the other mapping */
        put_leaf(also + LEAF, i);
        put_leaf(also + CROSSING, 2 * i);
        sum += call(CALLER) + call(CROSS);
    }
    printf("by the other mapping: %ld\n", sum);
    for (int i = 0; i < 50; i++) { /* in place */
        mprotect(code + PAGE, PAGE, PROT_READ | PROT_WRITE);
        put_leaf(code + LEAF, i);
        mprotect(code + PAGE, PAGE, PROT_READ | PROT_EXEC);
        sum += call(CALLER);
    }
    printf("in place: %ld\n", sum);
    for (int i = 0; i < 50; i++) { /* in place, never without being executable */
        mprotect(code + PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
        put_leaf(code + LEAF, 3 * i);
        sum += call(CALLER);
        put_leaf(code + LEAF, 4 * i);
        mprotect(code + PAGE, PAGE, PROT_READ | PROT_EXEC);
        sum += call(CALLER);
    }
    printf("while it may be written: %ld\n", sum);
    for (int i = 0; i < 50; i++) { /* another page in its place */
        put_leaf(also + SIZE + 32, 5 * i);
        mmap(code + PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, i & 1 ? SIZE : PAGE);
        sum += call(CALLER);
    }
    printf("another page: %ld\n", sum);
    mmap(code + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    put_leaf(code + LEAF, 6);
    mprotect(code + PAGE, PAGE, PROT_READ | PROT_EXEC);
    printf("nobody's page: %d\n", call(CALLER));
    mmap(code + PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, PAGE);
    pthread_create(&t, NULL, writer, NULL);
    for (int i = 1; i <= 300; i++) {
        while (atomic_load(&told) != i)
            bad += call(EMPTY) != -1;
        bad += call(CALLER) != i;
        atomic_store(&heard, i);
    }
    pthread_join(t, NULL);
    printf("by another thread: wrong %ld\n", bad);
}

/* The page behind the end of its file has no bytes: only who calls there meets that. */
static void no_bytes(void)
{
    static const uint8_t may_call[] = {0xb8, 9, 0, 0, 0, 0x85, 0xff, 0x74, 5, 0xe8, 0, 0, 0, 0, 0xc3};
    int32_t by = PAGE - 14;

    memcpy(also + SIZE, may_call, sizeof may_call);
    memcpy(also + SIZE + 10, &by, 4);
    if (mmap(code, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, SIZE) != code)
        return;
    printf("no bytes there: %d\n", ((int (*)(int))(uintptr_t)code)(0));
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("far: %d\n", (int)run_far());
    printf("turns: %d %d %d\n", (int)turn_0(), (int)turn_1(), (int)turn_2());
    faults();
    storm();
    changes();
    no_bytes();
    return 0;
}
