/* AVX-512 of a process: registers over system calls, signals, forks and threads, suppressed faults, XSAVE, addresses.
 * Prints what must be the same on the processor itself. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq")

struct regs {
    uint8_t z[32][64];
    uint64_t k[8];
} __attribute__((aligned(64)));

#define LOADZ(i)  #i "*64(%0), %%zmm" #i "\n"
#define STOREZ(i) "%%zmm" #i ", " #i "*64(%0)\n"
#define LZ(i)     "vmovdqu64 " LOADZ(i)
#define SZ(i)     "vmovdqu64 " STOREZ(i)
#define LK(i)     "kmovq 2048+" #i "*8(%0), %%k" #i "\n"
#define SK(i)     "kmovq %%k" #i ", 2048+" #i "*8(%0)\n"
#define ALL8(m)   m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7)
#define ALL32(m)                                                                                                       \
    ALL8(m)                                                                                                            \
    m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26)    \
        m(27) m(28) m(29) m(30) m(31)

static struct regs in, out;

static void fill(struct regs *r, uint64_t seed)
{
    uint8_t *p = (uint8_t *)r;

    for (size_t i = 0; i < sizeof *r; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        p[i] = (uint8_t)(seed >> 56);
    }
}

static unsigned differ(const struct regs *a, const struct regs *b)
{
    unsigned n = 0;

    for (int i = 0; i < 32; i++)
        n += memcmp(a->z[i], b->z[i], 64) != 0;
    for (int i = 0; i < 8; i++)
        n += a->k[i] != b->k[i];
    return n;
}

/* Loads all, makes a system call, stores all. */
static __attribute__((noinline)) long over_call(long nr, long a, long b, struct regs *from, struct regs *to)
{
    long r;

    __asm__ volatile("mov %[from], %%rbx\n"
#define LZB(i) "vmovdqu64 " #i "*64(%%rbx), %%zmm" #i "\n"
#define SZB(i) "vmovdqu64 %%zmm" #i ", " #i "*64(%%r12)\n"
#define LKB(i) "kmovq 2048+" #i "*8(%%rbx), %%k" #i "\n"
#define SKB(i) "kmovq %%k" #i ", 2048+" #i "*8(%%r12)\n"
                     "mov %[to], %%r12\n" ALL32(LZB) ALL8(LKB) "syscall\n" ALL32(SZB) ALL8(SKB) "vzeroupper\n"
                     : "=a"(r)
                     : "0"(nr), "D"(a), "S"(b), [from] "r"(from), [to] "r"(to)
                     : "rbx", "r12", "rcx", "r11", "memory");
    return r;
}

static void calls(void)
{
    fill(&in, 1);
    over_call(SYS_getppid, 0, 0, &in, &out);
    printf("over a system call: %u differ\n", differ(&in, &out));
    for (int i = 0; i < 32; i++)
        memset(in.z[i] + 32, 0, 32);
    over_call(SYS_getppid, 0, 0, &in, &out);
    printf("upper halves zero: %u differ\n", differ(&in, &out));
    in.z[31][63] = 1;
    over_call(SYS_getppid, 0, 0, &in, &out);
    printf("one bit of one upper half: %u differ\n", differ(&in, &out));
    in.z[31][63] = 0;
    over_call(SYS_getppid, 0, 0, &in, &out);
    printf("and without it: %u differ\n", differ(&in, &out));
    memset(&in, 0, sizeof in);
    in.z[3][40] = 7;
    over_call(SYS_getppid, 0, 0, &in, &out);
    printf("one of the first sixteen: %u differ\n", differ(&in, &out));
}

/* A function that leaves translated code in its middle and uses none of it, called with values in zmm20, k5 and zmm4;
 * what comes behind the call uses them. carries: with flags that must live on into that. */
static void over_return(void)
{
    uint64_t k = 0, carries = 0, bad = 0;

    fill(&in, 8);
    for (int i = 0; i < 200; i++) {
        in.k[5]++;
        __asm__ volatile("vmovdqu64 20*64(%3), %%zmm20\nvmovdqu64 4*64(%3), %%zmm4\nkmovq 2088(%3), %%k5\n"
                         "call 1f\n"
                         "vmovdqu64 %%zmm20, 20*64(%4)\nadc $0, %1\nkmovq %%k5, %0\nvmovdqu64 %%zmm4, 4*64(%4)\n"
                         "vzeroupper\njmp 2f\n"
                         "1: push %%rbx\nmov $1, %%eax\ncpuid\npop %%rbx\nbt $0, %2\nret\n2:"
                         : "=&r"(k), "+r"(carries)
                         : "S"((uint64_t)i), "r"(&in), "r"(&out)
                         : "rax", "rcx", "rdx", "xmm4", "xmm20", "k5", "memory", "cc");
        bad += k != in.k[5] || memcmp(in.z[20], out.z[20], 64) || memcmp(in.z[4], out.z[4], 64);
    }
    printf("over a return: %d wrong, %d carries\n", (int)bad, (int)carries);
}

/* ---- signals ---- */

static volatile int handled;
static uint32_t offset[10];
static int change;

static void clobber(void)
{
    struct regs r;

    fill(&r, 99);
    __asm__ volatile(ALL32(LZ) ALL8(LK) "vzeroupper" ::"r"(&r) : "memory");
}

static void handler(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
    uint32_t *sw = (uint32_t *)(fp + 464);

    handled++;
    if (sig == SIGUSR1) {
        uint64_t have = *(uint64_t *)(fp + 512);

        printf("magic %x, features %d, room %d, end %x, states %d\n", sw[0], (sw[2] & 0xe0) == 0xe0,
               sw[4] >= offset[7] + 1024, *(uint32_t *)(fp + sw[1] - 4), (have & 0xe0) == 0xe0);
        printf("k7 %d, zmm31 %d, zmm5 upper %d\n", !memcmp(fp + offset[5] + 56, &in.k[7], 8),
               !memcmp(fp + offset[7] + 15 * 64, in.z[31], 64), !memcmp(fp + offset[6] + 5 * 32, in.z[5] + 32, 32));
        if (change) {
            fp[offset[7] + 15 * 64 + 63] ^= 0xff;
            fp[offset[5] + 8] ^= 0xff;
        }
    }
    clobber();
    (void)info;
}

static void signals(void)
{
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    unsigned a, b, c, d;

    for (unsigned i = 2; i < 10; i++) {
        __cpuid_count(0xd, i, a, b, c, d);
        offset[i] = b;
    }
    sigaction(SIGUSR1, &sa, NULL);
    sigaction(SIGUSR2, &sa, NULL);
    fill(&in, 2);
    for (int i = 0; i < 3; i++) {
        change = i == 2;
        over_call(SYS_kill, getpid(), i == 1 ? SIGUSR2 : SIGUSR1, &in, &out);
        if (change) {
            in.z[31][63] ^= 0xff;
            in.k[1] ^= 0xff;
        }
        printf("signal %d: %d handled, %u differ\n", i, handled, differ(&in, &out));
    }
    printf("least stack is enough: %d\n", getauxval(AT_MINSIGSTKSZ) >= offset[7] + 1024);
}

static void itimer(void)
{
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    struct regs *f = &in;
    unsigned bad = 0;

    sigaction(SIGALRM, &sa, NULL);
    fill(&in, 3);
    handled = 0;
    ualarm(500, 500);
    while (handled < 50) {
        /* in a loop that makes no calls */
        __asm__ volatile("mov $20000, %%ecx\n" ALL32(LZ)
                             ALL8(LK) "1: vpaddq %%zmm30, %%zmm29, %%zmm29\n"
                                      "vpsubq %%zmm30, %%zmm29, %%zmm29\n dec %%ecx\n jnz 1b\n mov %1, %0\n" ALL32(SZ)
                                          ALL8(SK) "vzeroupper"
                         : "+r"(f)
                         : "r"(&out)
                         : "rcx", "memory");
        f = &in;
        bad += differ(&in, &out);
    }
    ualarm(0, 0);
    printf("interrupted: %u differ\n", bad);
}

/* ---- processes and threads ---- */

static void forks(void)
{
    int status;
    long pid;

    fill(&in, 4);
    memset(&out, 0, sizeof out);
    pid = over_call(SYS_fork, 0, 0, &in, &out);
    if (!pid)
        _exit(differ(&in, &out) ? 1 : 7);
    waitpid((int)pid, &status, 0);
    printf("fork: parent %u differ, child %d\n", differ(&in, &out), WEXITSTATUS(status));
}

static void *yielder(void *arg)
{
    struct regs a, b;
    uintptr_t bad = 0;

    fill(&a, (uintptr_t)arg);
    for (int i = 0; i < 3000; i++) {
        over_call(SYS_sched_yield, 0, 0, &a, &b);
        bad += differ(&a, &b);
    }
    return (void *)bad;
}

static void threads(void)
{
    pthread_t t[4];
    uintptr_t bad = 0;
    void *r;

    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, yielder, (void *)(i + 10));
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], &r);
        bad += (uintptr_t)r;
    }
    printf("threads: %d differ\n", (int)bad);
}

/* ---- masks and memory ---- */

static sigjmp_buf jmp;
static uint8_t *fault_at;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    fault_at = info->si_addr;
    siglongjmp(jmp, sig);
}

static void masks(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    uint8_t *p = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t got[64] __attribute__((aligned(64)));
    volatile uint64_t m;
    int sig;

    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    for (int i = 0; i < 3 * 4096; i++)
        p[i] = (uint8_t)(i * 7);
    mprotect(p + 4096, 4096, PROT_NONE);
    mprotect(p + 8192, 4096, PROT_READ);
    for (unsigned n = 0; n <= 24; n += 8) { /* the last n bytes of the page */
        memset(got, 0xee, sizeof got);
        m = n ? (UINT64_C(1) << n) - 1 : 0;
        __asm__ volatile("kmovq %1, %%k3\nvmovdqu8 (%0), %%zmm17%{%%k3%}%{z%}\nvmovdqu8 %%zmm17, %2\n"
                         "vmovdqu8 %%zmm17, (%0)%{%%k3%}"
                         :
                         : "r"(p + 4096 - n), "r"(m), "m"(got)
                         : "memory", "xmm17", "k3");
        printf("last %u bytes: %02x %02x %02x %02x\n", n, got[0], got[n ? n - 1 : 0], got[n], got[63]);
    }
    m = 0;
    __asm__ volatile("kmovq %1, %%k3\nvmovdqu8 %%zmm17, (%0)%{%%k3%}" : : "r"(p + 8192), "r"(m) : "memory", "k3");
    printf("a store of nothing to a page that is read-only\n");
    m = UINT64_C(1) << 20;
    sig = sigsetjmp(jmp, 1);
    if (!sig)
        __asm__ volatile("kmovq %1, %%k3\nvmovdqu8 %%zmm17, (%0)%{%%k3%}" : : "r"(p + 8192), "r"(m) : "memory", "k3");
    printf("a store of one byte there: signal %d at +%ld\n", sig, (long)(fault_at - (p + 8192)) & ~31L);
    sig = sigsetjmp(jmp, 1);
    if (!sig)
        __asm__ volatile("vmovdqu8 (%0), %%zmm18" : : "r"(p + 4096 - 3) : "xmm18");
    printf("a load over the end: signal %d at +%ld\n", sig, (long)(fault_at - (p + 4096)));
    sig = sigsetjmp(jmp, 1);
    if (!sig)
        __asm__ volatile("vmovdqa64 (%0), %%zmm18" : : "r"(p + 32) : "xmm18");
    printf("unaligned: signal %d\n", sig);
    m = 0xf0f;
    memset(got, 0, sizeof got);
    __asm__ volatile("kmovq %1, %%k2\nvmovdqu32 (%0), %%zmm20\nvpcompressd %%zmm20, %2%{%%k2%}"
                     :
                     : "r"(p), "r"(m), "m"(got)
                     : "memory", "xmm20", "k2");
    for (int i = 0; i < 64; i++)
        printf("%02x", got[i]);
    printf("\n");
    munmap(p, 3 * 4096);
}

static void gathers(void)
{
    uint32_t *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), got[16];
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    uint32_t index[16];
    uint16_t left = 0;
    int sig;

    sigaction(SIGSEGV, &sa, NULL);
    for (int i = 0; i < 2048; i++)
        p[i] = (uint32_t)i * 3;
    mprotect(p + 1024, 4096, PROT_NONE);
    for (int i = 0; i < 16; i++)
        index[i] = (uint32_t)(i * 37 % 1024);
#define GATHER(base)                                                                                                   \
    __asm__ volatile("kxnorw %%k0, %%k0, %%k1\nvmovdqu32 %1, %%zmm21\nmov %0, %%" base "\n"                            \
                     "vpgatherdd (%%" base ",%%zmm21,4), %%zmm22%{%%k1%}\nvmovdqu32 %%zmm22, %2"                       \
                     :                                                                                                 \
                     : "r"(p), "m"(index), "m"(got)                                                                    \
                     : base, "memory", "xmm21", "xmm22", "k1")
    GATHER("rsi");
    for (int i = 0; i < 16; i++)
        printf("%u ", got[i]);
    GATHER("r10");
    for (int i = 0; i < 16; i++)
        printf("%u ", got[i]);
    printf("\n");
    index[9] = 1500;
    memset(got, 0, sizeof got);
    sig = sigsetjmp(jmp, 1);
    if (!sig)
        GATHER("rsi");
    printf("a gather: signal %d at +%ld\n", sig, (long)((uint32_t *)fault_at - p));
    __asm__ volatile("kxnorw %%k0, %%k0, %%k1\nkshiftrw $7, %%k1, %%k1\nvmovdqu32 %1, %%zmm21\n"
                     "vpscatterdd %%zmm21, (%0,%%zmm21,4)%{%%k1%}\nkmovw %%k1, %%eax\nmov %%ax, %2"
                     :
                     : "r"(p), "m"(index), "m"(left)
                     : "rax", "memory", "xmm21", "k1");
    printf("scattered: %u %u, left %u\n", p[index[3]], p[index[8]], left);
    munmap(p, 8192);
}

/* ---- addresses and general registers ---- */

static const uint32_t table[32] __attribute__((aligned(64))) = {1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610};

static void addresses(void)
{
    uint32_t got[6][16] = {0};
    uint64_t a, b, c, d;

    __asm__ volatile("vmovdqu32 table(%%rip), %%zmm23\nvmovdqu32 %%zmm23, %0" : "=m"(got[0]) : : "xmm23");
    __asm__ volatile("lea %1, %%r9\nmov $2, %%r10\nvmovdqu32 4(%%r9,%%r10,4), %%ymm24\nvmovdqu32 %%zmm24, %0"
                     : "=m"(got[1])
                     : "m"(table)
                     : "r9", "r10", "xmm24");
    __asm__ volatile("lea %1, %%r11\nvpaddd 16(%%r11)%{1to16%}, %%zmm23, %%zmm25\nvmovdqu32 %%zmm25, %0"
                     : "=m"(got[2])
                     : "m"(table)
                     : "r11", "xmm25");
    __asm__ volatile("sub $256, %%rsp\nvmovdqu32 %%zmm23, 64(%%rsp)\nvpsubd 68(%%rsp), %%zmm23, %%zmm26\n"
                     "add $256, %%rsp\nvmovdqu32 %%zmm26, %0"
                     : "=m"(got[3])
                     :
                     : "xmm26", "memory");
    __asm__ volatile("mov $0xa5a5, %%r9d\nkmovd %%r9d, %%k4\nvpbroadcastd %%r9d, %%zmm27%{%%k4%}%{z%}\n"
                     "vmovdqu32 %%zmm27, %0\nkmovq %%k4, %%r10\nkaddw %%k4, %%k4, %%k5\nkmovw %%k5, %%r11d\n"
                     "mov %%r10, %1\nmov %%r11, %2"
                     : "=m"(got[4]), "=m"(a), "=m"(b)
                     :
                     : "r9", "r10", "r11", "xmm27", "k4", "k5");
    __asm__ volatile("kxorw %%k6, %%k6, %%k6\nkortestw %%k6, %%k6\nsetz %%al\nkxnorw %%k6, %%k6, %%k6\n"
                     "kortestw %%k6, %%k6\nsetc %%ah\nmovzx %%ax, %%rax\nmov %%rax, %0\n"
                     "vcvtsd2usi %{rz-sae%}, %%xmm0, %%r10\nmov %%r10, %1"
                     : "=m"(c), "=m"(d)
                     :
                     : "rax", "r10", "k6");
    __asm__ volatile("vpcmpud $1, table(%%rip), %%zmm23, %%k1\nvmovdqu32 %%zmm23, %0%{%%k1%}" : "+m"(got[5]) : : "k1");
    (void)d;
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < 16; j++)
            printf("%u ", got[i][j]);
        printf("\n");
    }
    printf("%lx %lx %lx\n", (unsigned long)a, (unsigned long)b, (unsigned long)c);
}

static void uppers(void)
{
    fill(&in, 5);
    __asm__ volatile(ALL32(LZ) "vmovups %%ymm1, %%ymm2\nvaddps %%xmm4, %%xmm4, %%xmm3\nvpxor %%xmm5, %%xmm5, %%xmm5\n"
                               "movaps %%xmm6, %%xmm7\n" ALL32(SZ)::"r"(&in)
                     : "memory");
    for (int i = 0; i < 8; i++)
        printf("zmm%d %02x %02x %02x\n", i, in.z[i][15], in.z[i][31], in.z[i][63]);
    __asm__ volatile(ALL32(LZ) "vzeroupper\n" ALL32(SZ)::"r"(&in) : "memory");
    printf("zeroed: %02x %02x %02x, not: %02x\n", in.z[15][15], in.z[15][31], in.z[15][63],
           in.z[16][63] | in.z[31][63]);
}

static void xsave(void)
{
    static uint8_t area[8192] __attribute__((aligned(64)));
    unsigned lo, hi, a, b, c, d;

    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    __cpuid_count(0xd, 0, a, b, c, d);
    printf("XCR0 has it: %d, size fits: %d\n", (lo & 0xe6) == 0xe6, b >= offset[7] + 1024 && (a & 0xe6) == 0xe6);
    for (int form = 0; form < 2; form++) {
        fill(&in, 6 + form);
        memset(area, 0, sizeof area);
        __asm__ volatile(ALL32(LZ) ALL8(LK)::"r"(&in) : "memory");
        if (form)
            __asm__ volatile("xsavec %0" : "=m"(area) : "a"(0xe6), "d"(0) : "memory");
        else
            __asm__ volatile("xsave %0" : "=m"(area) : "a"(0xe6), "d"(0) : "memory");
        clobber();
        __asm__ volatile("xrstor %0" : : "m"(area), "a"(0xe6), "d"(0) : "memory");
        __asm__ volatile(ALL32(SZ) ALL8(SK) "vzeroupper" ::"r"(&out) : "memory");
        printf("form %d: %u differ, states %x, k7 in its place %d\n", form, differ(&in, &out), area[512],
               form || !memcmp(area + offset[5] + 56, &in.k[7], 8));
    }
    memset(area, 0, sizeof area);
    __asm__ volatile("xrstor %0" : : "m"(area), "a"(0xe0), "d"(0) : "memory");
    __asm__ volatile(ALL32(SZ) ALL8(SK)::"r"(&out) : "memory");
    memset(&in, 0, sizeof in);
    for (int i = 0; i < 16; i++)
        memcpy(in.z[i], out.z[i], 32);
    printf("initial state: %u differ\n", differ(&in, &out));
}

static void strings(void)
{
    static char text[20000];
    unsigned sum = 0;

    for (int i = 0; i < 19999; i++)
        text[i] = (char)('a' + i % 26);
    for (int i = 0; i < 300; i++) {
        text[5000 + i] = 0;
        sum = sum * 31 + (unsigned)strlen(text + i) + (unsigned)(strchr(text + i, 'q') - text) +
              (memcmp(text, text + 26, (size_t)i * 7) != 0) + (unsigned)(uintptr_t)(strstr(text, "zabd") == NULL);
        memmove(text + 6000 + i, text + i, (size_t)i * 11);
        text[5000 + i] = 'x';
        for (int j = 0; j < 40; j++)
            sum = sum * 33 + (unsigned char)text[6000 + i * j];
    }
    printf("strings %u\n", sum);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!__builtin_cpu_supports("avx512vl")) {
        printf("no AVX-512\n");
        return 0;
    }
    strings();
    calls();
    over_return();
    signals();
    itimer();
    forks();
    threads();
    masks();
    gathers();
    addresses();
    uppers();
    xsave();
    return 0;
}
