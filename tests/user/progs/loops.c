/* Loops with more live values than a translator keeps in registers: integer, floating point and mixed; values are
 * checked after faults in the middle (the handler looks at them through what the loop goes on to compute), with timer
 * signals all the time, and after leaving by siglongjmp. Prints sums that any correct machine prints. */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

static volatile unsigned ticks;
static unsigned char *page; /* three pages, the middle one comes and goes */
static volatile unsigned faults;
static sigjmp_buf away;
static volatile int leave;
static volatile uint64_t sink;

static void on_tick(int sig)
{
    ticks++;
}

static void on_fault(int sig, siginfo_t *info, void *ctx)
{
    faults++;
    if (leave)
        siglongjmp(away, 1);
    mprotect(page + 4096, 4096, PROT_READ | PROT_WRITE);
}

#define ROT(x, n) ((x) >> (n) | (x) << (32 - (n)))

__attribute__((noinline)) static uint64_t many(uint64_t n, const unsigned char *p)
{
    uint32_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8, k = 9, l = 10, m = 11, o = 12, q = 13;

    for (uint64_t i = 0; i < n; i++) {
        uint32_t t = ROT(a, 3) ^ ROT(e, 11), u = (b & c) | (~b & d);

        a = b + t, b = c ^ u, c = d + p[i], d = e - f, e = f ^ g, f = g + h, g = h ^ k, h = k + l, k = l ^ m, l = m + o;
        m = o ^ q, o = q + a, q = t ^ u;
    }
    return ((uint64_t)(a ^ b ^ c ^ d ^ e) << 32) | (f ^ g ^ h ^ k ^ l ^ m ^ o ^ q);
}

__attribute__((noinline)) static double reals(uint64_t n, const double *x)
{
    double s[14] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, r = 0;
    double a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8, k = 9, l = 10, m = 11, o = 12, p = 13, q = 14;

    for (uint64_t i = 0; i < n; i++) {
        double v = x[i & 511];

        a = a * 0.5 + b, b = b * 0.25 + c, c = c * 0.5 + d, d = d * 0.125 + e, e = e * 0.5 + f, f = f * 0.25 + g;
        g = g * 0.5 + h, h = h * 0.25 + k, k = k * 0.5 + l, l = l * 0.125 + m, m = m * 0.5 + o, o = o * 0.25 + p;
        p = p * 0.5 + q, q = q * 0.25 + v;
    }
    r = a + b + c + d + e + f + g + h + k + l + m + o + p + q;
    return r + s[0];
}

/* Stores in the middle: the value that faults is among the many. */
__attribute__((noinline)) static uint64_t stores(uint64_t n, unsigned char *p)
{
    uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8, k = 9, l = 10, m = 11, o = 12;

    for (uint64_t i = 0; i < n; i++) {
        a += b ^ i, b += c, c ^= d + 5, d += e, e ^= f;
        p[i] = (unsigned char)(a + e);
        f += g, g ^= h + 1, h += k, k ^= l, l += m, m ^= o, o += a;
    }
    return a ^ b * 3 ^ c * 5 ^ d * 7 ^ e * 9 ^ f * 11 ^ g * 13 ^ h * 15 ^ k * 17 ^ l * 19 ^ m * 21 ^ o * 23;
}

int main(void)
{
    struct itimerval it = {{0, 300}, {0, 300}};
    struct sigaction sa;
    static double x[512];
    uint64_t sum;

    page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < 3 * 4096; i++)
        page[i] = (unsigned char)(i * 7 + (i >> 8));
    for (unsigned i = 0; i < 512; i++)
        x[i] = i * 0.75 - 100;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_tick;
    sa.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &sa, NULL);
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = on_fault;
    sa.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &sa, NULL);
    for (unsigned round = 0; round < 3; round++) {
        if (round == 1)
            setitimer(ITIMER_REAL, &it, NULL);
        printf("many %llx\n", (unsigned long long)many(10000, page));
        printf("reals %.17g\n", reals(200000, x));
        printf("stores %llx\n", (unsigned long long)stores(12288, page));
        mprotect(page + 4096, 4096, PROT_NONE);
        printf("many, one fault: %llx\n", (unsigned long long)many(12288, page));
        mprotect(page + 4096, 4096, PROT_READ);
        printf("stores, one fault: %llx\n", (unsigned long long)stores(12288, page));
        sum = 0;
        for (unsigned i = 0; i < 12288; i++)
            sum = sum * 31 + page[i];
        printf("bytes %llx, faults %u\n", (unsigned long long)sum, faults);
        leave = 1;
        mprotect(page + 4096, 4096, PROT_NONE);
        if (!sigsetjmp(away, 1))
            sink += many(12288, page);
        leave = 0;
        mprotect(page + 4096, 4096, PROT_READ | PROT_WRITE);
    }
    for (unsigned i = 0; i < 100000 && ticks < 20; i++)
        sink += many(10000, page);
    printf("faults %u, ticks %s\n", faults, ticks >= 20 ? "many" : "few");
    return 0;
}
