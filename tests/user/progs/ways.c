/* x86-64. Calls and jumps by pointer often enough that a translator makes code for where they went, and then elsewhere:
 * all registers and flags, where they return to, faults and signals on the way, and code that changes. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, ALL = 10, FLAGS = 0x8d5 };

/* What a call is made with and comes back with: the registers by their numbers, then flags. */
struct state {
    uint64_t r[16], flags;
} in, out;
void (*volatile target)(void), (*volatile tail)(void);
uint64_t scratch, saved_rsp, base_rsp;
void probe_memory(void), probe_home(void), probe_rbx(void), probe_thunk(void);
void f0(void), f1(void), f2(void), f3(void), f4(void), f5(void), f6(void), f7(void), f8(void), f9(void), thunk(void);
uint64_t faulty_run(const uint64_t *p, uint64_t way, const void *fn), storm_run(uint64_t n, const void *fn),
    homes_run(uint64_t n, const void *fn), edge_run(void *sp, const void *fn);
extern char faulty[], faulty_back[], homes_fn[], storm_fn[], storm_end[], storm_back[], edge_call[], edge_out[];

#define EACH(x)                                                                                                        \
    x("rax", 0) x("rcx", 1) x("rdx", 2) x("rbx", 3) x("rbp", 5) x("rsi", 6) x("rdi", 7) x("r8", 8) x("r9", 9)          \
        x("r10", 10) x("r11", 11) x("r12", 12) x("r13", 13) x("r14", 14) x("r15", 15)
#define LOAD(reg, n)  "  mov in+8*" #n "(%rip), %" reg "\n"
#define STORE(reg, n) "  mov %" reg ", out+8*" #n "(%rip)\n"
/* A return to two bytes further on adds to RAX. */
#define PROBE(name, load, how)                                                                                         \
    "probe_" name ":\n"                                                                                                \
    "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"                                   \
    "  pushq in+128(%rip)\n  popfq\n" EACH(LOAD) load                                                                  \
        "  call " how "\n"                                                                                             \
        "  jmp 1f\n  lea 77(%rax), %rax\n1:\n" EACH(                                                                   \
            STORE) "  pushfq\n  popq out+128(%rip)\n"                                                                  \
                   "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n  ret\n"

__asm__(".text\n" PROBE("memory", "", "*target(%rip)") PROBE("home", "mov target(%rip), %r11\n", "*%r11")
            PROBE("rbx", "mov target(%rip), %rbx\n", "*%rbx") PROBE("thunk", "", "thunk"));
__asm__(".text\n"
        "thunk:\n"
        "  jmp *tail(%rip)\n"
        "f0:\n" /* reads flags */
        "  setc %al\n"
        "  lahf\n"
        "  lea 1(%rdx,%rcx), %r9\n"
        "  xor %r9, %r10\n"
        "  ret\n"
        "f1:\n" /* ways */
        "  test $1, %dil\n"
        "  jz 1f\n"
        "  add %rsi, %rax\n"
        "  ret\n"
        "1: sub %r8, %r10\n"
        "  test $2, %dil\n"
        "  jnz 2f\n"
        "  imul $3, %rcx, %rcx\n"
        "  ret\n"
        "2: mov %rax, scratch(%rip)\n"
        "  push %rcx\n"
        "  pop %r9\n"
        "  ret\n"
        "f2:\n" /* seldom elsewhere */
        "  cmp $7, %edi\n"
        "  je 3f\n"
        "  lea (%rdi,%r9), %rdx\n"
        "  ret\n"
        "3: addq $2, (%rsp)\n"
        "  ret\n"
        "f3:\n"
        "  mov %edi, %eax\n"
        "  and $2, %eax\n"
        "  add %rax, (%rsp)\n"
        "  ret\n"
        "f4:\n" /* a loop */
        "  mov $3, %ecx\n"
        "4: add %rcx, %rax\n"
        "  dec %ecx\n"
        "  jnz 4b\n"
        "  ret\n"
        "f6:\n" /* too long */
        "  .rept 40\n"
        "  add %rdi, %rax\n"
        "  rol $1, %rax\n"
        "  .endr\n"
        "  ret\n"
        "f5:\n" /* back and forth */
        "  jmp 6f\n"
        "5: inc %r9\n"
        "  ret\n"
        "6: stc\n"
        "  test $4, %dil\n"
        "  jnz 5b\n"
        "  adc %r10, %rax\n"
        "  jmp 5b\n"
        "f7:\n" /* a short way out */
        "  test $8, %dil\n"
        "  jz 7f\n"
        "  push %rbx\n"
        "  mov %rdi, %rbx\n"
        "  lea (%rbx,%rbx,4), %rax\n"
        "  pop %rbx\n"
        "7: ret\n"
        "f8:\n" /* flags at entry */
        "  pushfq\n"
        "  pop %rax\n"
        "  and $0x8d5, %eax\n"
        "  ret\n"
        "f9:\n" /* many ways */
        "  .irp bit, 0, 1, 2, 3, 4, 5, 6, 7\n"
        "  bt $\\bit, %edi\n"
        "  jnc 1f\n"
        "  lea \\bit+1(%rax,%rax), %rax\n"
        "1:\n"
        "  .endr\n"
        "  ret\n"
        "faulty_run:\n"
        "  mov %rsp, base_rsp(%rip)\n"
        "  call *%rdx\n"
        "faulty_back:\n"
        "  ret\n"
        "faulty:\n"
        "  lea 3(%rsi), %rcx\n"
        "  lea 5(%rsi), %r10\n"
        "  test $1, %esi\n"
        "  jnz 1f\n"
        "  mov (%rdi), %rax\n"
        "  add %rcx, %rax\n"
        "  ret\n"
        "1: mov 8(%rdi), %r11\n"
        "  lea (%r11,%r10), %rax\n"
        "  ret\n"
        "homes_run:\n"
        "  push %rbx\n"
        "  mov %rsi, %rbx\n"
        "  xor %eax, %eax\n"
        "1: call *%rbx\n"
        "  mov %rdi, %r9\n"
        "  lea 1(%rdi), %r10\n"
        "  add %r9, %rax\n"
        "  add %r10, %rax\n"
        "  rol $1, %rax\n"
        "  add %r11, %rax\n"
        "  sub $1, %rdi\n"
        "  jnz 1b\n"
        "  pop %rbx\n"
        "  ret\n"
        "homes_fn:\n"
        "  mov %rdi, %r11\n"
        "  mov %rax, %r9\n"
        "  test $15, %dil\n"
        "  jz 2f\n"
        "  push %rdi\n"
        "  pop %r9\n"
        "  ret\n"
        "2: lea 5(%rdi), %r10\n"
        "  ret\n"
        "storm_run:\n"
        "  push %rbx\n"
        "  mov %rsi, %rbx\n"
        "  xor %eax, %eax\n"
        "  mov %rsp, base_rsp(%rip)\n"
        "1: call *%rbx\n"
        "storm_back:\n"
        "  add %rdx, %rax\n"
        "  sub $1, %rdi\n"
        "  jnz 1b\n"
        "  pop %rbx\n"
        "  ret\n"
        "storm_fn:\n"
        "  imul $7, %rdi, %rdx\n"
        "  test $64, %dil\n"
        "  jz 2f\n"
        "  xor %rdi, %rdx\n"
        "  ret\n"
        "2: imul %rdx, %rdx\n"
        "  ret\n"
        "storm_end:\n"
        "edge_run:\n"
        "  push %rbx\n"
        "  mov %rsp, saved_rsp(%rip)\n"
        "  mov %rdi, %rsp\n"
        "  mov %rsi, %rbx\n"
        "  mov $9, %edi\n"
        "edge_call:\n"
        "  call *%rbx\n"
        "edge_out:\n"
        "  mov saved_rsp(%rip), %rsp\n"
        "  pop %rbx\n"
        "  ret\n");

static void (*const fn[ALL])(void) = {f0, f1, f2, f3, f4, f5, f6, f7, f8, f9};
static void (*const probe[])(void) = {probe_memory, probe_home, probe_rbx, probe_thunk};
static uint64_t sum, seed;

static uint64_t next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void add(uint64_t v)
{
    sum = (sum ^ v) * UINT64_C(0x100000001b3);
}

/* Some registers hold where code lies, which differs from run to run. */
static void once(unsigned p, unsigned f, uint64_t bits)
{
    for (unsigned i = 0; i < 16; i++)
        in.r[i] = next();
    in.r[7] = bits;
    in.flags = (next() & FLAGS) | 0x202;
    target = tail = fn[f];
    probe[p]();
    for (unsigned i = 0; i < 16; i++)
        if (i != 4 && out.r[i] - (uintptr_t)fn[f] > 4096)
            add(out.r[i]);
    add(out.flags & FLAGS);
    add(scratch);
}

/* AF is what the instructions leave undefined least alike. */
static void phases(void)
{
    for (unsigned p = 0; p < 4; p++)
        for (unsigned f = 0; f < ALL; f++) {
            sum = 1;
            seed = 88172645463325252u + f;
            for (unsigned i = 0; i < 12000; i++) /* one way, then mostly, then any */
                once(p, f, i < 4000 ? 1 : i < 8000 ? (i % 50 ? 0 : next() & 15) : next() & 15);
            printf("%u calls f%u: %016llx\n", p, f, (unsigned long long)sum);
        }
    printf("homes: %016llx\n", (unsigned long long)homes_run(50000, homes_fn));
    for (unsigned p = 0; p < 4; p++) {
        sum = 1;
        seed = 99;
        for (unsigned i = 0; i < 60000; i++)
            once(p,
                 i < 5000    ? 0
                 : i < 10000 ? 1
                 : i < 30000 ? i & 1
                 : i < 40000 ? (i % 100 ? 2 : 5)
                             : next() % ALL,
                 next() & 15);
        printf("%u calls all: %016llx\n", p, (unsigned long long)sum);
    }
}

/* ---- faults ---- */

static const uint64_t value[2] = {40, 50};
static sigjmp_buf back;
static volatile int jumps, faults;

static void on_fault(int sig, siginfo_t *i, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

    if ((char *)(uintptr_t)g[REG_RIP] == edge_call) {
        add((uint64_t)g[REG_RSP] & (PAGE - 1));
        g[REG_RSP] = (greg_t)saved_rsp;
        g[REG_RIP] = (greg_t)(uintptr_t)edge_out;
        g[REG_RAX] = 1;
        faults++;
        return;
    }
    add((uint64_t)sig);
    add((uint64_t)g[REG_RIP] - (uintptr_t)faulty);
    add((uint64_t)g[REG_RSP] - base_rsp);
    add(*(uint64_t *)(uintptr_t)g[REG_RSP] - (uintptr_t)faulty_back);
    add((uint64_t)g[REG_RCX]);
    add((uint64_t)g[REG_R10]);
    add((uint64_t)g[REG_EFL] & (FLAGS & ~0x10));
    add((uintptr_t)i->si_addr);
    faults++;
    g[REG_RDI] = (greg_t)(uintptr_t)value;
    if (jumps && faults % 7 == 0)
        siglongjmp(back, 1);
}

static volatile int rounds;

static void faulty_calls(void)
{
    static uint64_t stack[1024] __attribute__((aligned(PAGE)));
    static char other[65536] __attribute__((aligned(16)));
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t ss = {.ss_sp = other, .ss_size = sizeof other};
    char *edge;

    sigaltstack(&ss, NULL);
    sigaction(SIGSEGV, &sa, NULL);
    sum = 1;
    for (jumps = 0; jumps < 2; jumps++)
        for (rounds = 0; rounds < 20000; rounds++)
            if (!sigsetjmp(back, 1))
                add(faulty_run(rounds % 97 && rounds < 19000 ? value : (const uint64_t *)8,
                               (uint64_t)(rounds < 8000    ? 0
                                          : rounds < 16000 ? 1
                                                           : rounds),
                               faulty));
    printf("faults: %d, %016llx\n", faults, (unsigned long long)sum);
    sum = 1;
    faults = 0;
    edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(edge, PAGE, PROT_NONE);
    for (int i = 0; i < 9000; i++)
        add(edge_run(i % 1000 == 999 ? edge + PAGE : (void *)(stack + 1024),
                     (const void *)(uintptr_t)(i < 6000 ? f4 : f6)) == 1);
    printf("no stack: %d, %016llx\n", faults, (unsigned long long)sum);
}

/* ---- signals ---- */

static volatile sig_atomic_t seen, inside, wrong;

static void on_alarm(int sig, siginfo_t *i, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    const char *rip = (const char *)(uintptr_t)g[REG_RIP];

    (void)sig;
    (void)i;
    seen++;
    if (rip < storm_fn || rip >= storm_end)
        return;
    inside++;
    if ((uint64_t)g[REG_RSP] != base_rsp - 8 || *(uint64_t *)(uintptr_t)g[REG_RSP] != (uintptr_t)storm_back)
        wrong++;
}

static void storm(void)
{
    struct sigaction sa = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval t = {{0, 200}, {0, 200}}, off = {{0, 0}, {0, 0}};
    uint64_t got = 0;

    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &t, NULL);
    while (seen < 500 || inside < 20)
        got = storm_run(100000, storm_fn);
    setitimer(ITIMER_REAL, &off, NULL);
    printf("storm: %llx, wrong %d\n", (unsigned long long)got, (int)wrong);
}

/* ---- code that changes, and threads ---- */

static uint8_t code[PAGE] __attribute__((aligned(4096))), *also; /* executable near us, and the same to be written */

static void put(uint8_t *at, int v) /* test edi, edi; jz 1f; mov eax, v; ret; 1: mov eax, -v; ret */
{
    uint8_t b[] = {0x85, 0xff, 0x74, 0x06, 0xb8, 0, 0, 0, 0, 0xc3, 0xb8, 0, 0, 0, 0, 0xc3};
    int32_t minus = -v;

    memcpy(b + 5, &v, 4);
    memcpy(b + 11, &minus, 4);
    memcpy(at, b, sizeof b);
}

static __attribute__((noinline)) int call(int (*f)(int), int with)
{
    unsigned a = 0, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory"); /* nothing fetched before counts */
    return f(with);
}

static long often(int (*volatile f)(int))
{
    long v = 0;

    for (int i = 0; i < 3000; i++)
        v += f(i < 2500);
    return v;
}

static atomic_int told, heard;

static void *writer(void *arg)
{
    for (int i = 1; i <= 300; i++) {
        put(also, i);
        atomic_store(&told, i);
        while (atomic_load(&heard) != i)
            sched_yield();
    }
    return arg;
}

/* push rbx; mov rbx, rdi; call rbx; mov ecx, K; lea eax, [rax + rcx]; pop rbx; ret */
static const uint8_t caller[] = {0x53, 0x48, 0x89, 0xfb, 0xff, 0xd3, 0xb9, 1, 0, 0, 0, 0x8d, 0x04, 0x08, 0x5b, 0xc3};
enum { CALLER = 256, OF_CALLER = 7 };

static int five(void)
{
    return 5;
}

static int five_or(void) /* five, and its caller changed meanwhile */
{
    also[CALLER + OF_CALLER]++;
    __asm__ volatile("" ::: "memory");
    return 5;
}

static void while_called(void)
{
    int (*volatile f)(int (*)(void)) = (int (*)(int (*)(void)))(uintptr_t)(code + CALLER);
    long v = 0;

    memcpy(also + CALLER, caller, sizeof caller);
    for (int i = 0; i < 20000; i++)
        v += f(five);
    for (int i = 0; i < 100; i++) {
        v = v * 3 + f(five_or);
        for (int k = 0; k < 5000; k++)
            v += f(five);
    }
    printf("while it calls: %ld\n", v);
}

static void changes(void)
{
    int fd = memfd_create("code", 0);
    int (*f)(int);
    pthread_t t;
    long v = 0, bad = 0;

    if (fd < 0 || ftruncate(fd, PAGE))
        return;
    also = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    mmap(code, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
    f = (int (*)(int))(uintptr_t)code;
    for (int i = 0; i < 30; i++) {
        put(also, i);
        v += often(f);
        for (int k = 0; k < 20; k++) {
            put(also, k + i);
            v = v * 3 + call(f, k & 1);
        }
    }
    printf("by the other mapping: %ld\n", v);
    while_called();
    for (int i = 0; i < 30; i++) {
        mprotect(code, PAGE, PROT_READ | PROT_WRITE | (i & 1 ? PROT_EXEC : 0));
        put(code, i);
        if (i & 1)
            v = v * 3 + often(f);
        mprotect(code, PAGE, PROT_READ | PROT_EXEC);
        v = v * 5 + often(f);
    }
    printf("in place: %ld\n", v);
    mmap(code, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
    pthread_create(&t, NULL, writer, NULL);
    for (int i = 1; i <= 300; i++) {
        while (atomic_load(&told) != i)
            v += often((int (*)(int))(uintptr_t)f4) != 0;
        bad += call(f, 1) != i;
        atomic_store(&heard, i);
    }
    pthread_join(t, NULL);
    printf("by another thread: wrong %ld\n", bad);
}

static int plus(int v)
{
    return v + 1;
}
static int times(int v)
{
    return v & 1 ? v * 3 : v / 2;
}

static void *worker(void *arg)
{
    int (*volatile f[2])(int) = {plus, times};
    uintptr_t n = (uintptr_t)arg, v = 0;

    for (unsigned i = 0; i < 300000; i++)
        v = v * 31 + (unsigned)f[i < 50000 ? n & 1 : i < 200000 ? 1 : i >> n & 1]((int)(i & 0xff));
    return (void *)v;
}

static void threads(void)
{
    pthread_t t[4];
    void *v[4];

    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, worker, (void *)i);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(t[i], &v[i]);
    printf("threads: %llx %llx %llx %llx\n", (unsigned long long)(uintptr_t)v[0], (unsigned long long)(uintptr_t)v[1],
           (unsigned long long)(uintptr_t)v[2], (unsigned long long)(uintptr_t)v[3]);
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    phases();
    faulty_calls();
    storm();
    changes();
    threads();
    return 0;
}
