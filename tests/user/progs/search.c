/* The loops by which string functions search with vectors: what is left in registers after each, for every place of
 * the byte looked for, and when a store changes an instruction of the loop. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static unsigned char buf[4096] __attribute__((aligned(64)));
static uint64_t sum = 14695981039346656037u;

static void note(const void *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        sum = (sum ^ ((const unsigned char *)p)[i]) * 1099511628211u;
}

/* Runs FOLD on Q1 and Q2 of each 32 bytes until X3 is not 0; left: where it stopped, X3, V0. */
#define SEARCH(name, fold)                                                                                             \
    static void name(const unsigned char *from)                                                                        \
    {                                                                                                                  \
        uint64_t at = (uint64_t)from, x3, v[2];                                                                        \
        __asm__ volatile("1: ldp q1, q2, [%0], #32\n" fold "fmov x3, d0\n cbz x3, 1b\n mov %1, x3\n str q0, [%2]\n"    \
                         : "+r"(at), "=&r"(x3)                                                                         \
                         : "r"(v)                                                                                      \
                         : "x3", "v0", "v1", "v2", "v3", "memory");                                                    \
        at -= (uint64_t)from;                                                                                          \
        note(&at, 8);                                                                                                  \
        note(&x3, 8);                                                                                                  \
        note(v, 16);                                                                                                   \
    }
SEARCH(uminp2, "uminp v0.16b, v1.16b, v2.16b\n uminp v0.16b, v0.16b, v0.16b\n cmeq v0.8b, v0.8b, #0\n")
SEARCH(uminp1, "uminp v0.16b, v1.16b, v1.16b\n cmeq v0.8b, v0.8b, #0\n")
SEARCH(umaxp1, "cmeq v1.16b, v1.16b, #0\n umaxp v0.16b, v1.16b, v1.16b\n")
SEARCH(
    umaxp2,
    "cmeq v1.16b, v1.16b, #0\n cmeq v2.16b, v2.16b, #0\n umaxp v0.16b, v1.16b, v2.16b\n umaxp v0.16b, v0.16b, v0.16b\n")
SEARCH(
    addp2,
    "cmeq v1.16b, v1.16b, #0\n cmeq v2.16b, v2.16b, #0\n addp v0.16b, v1.16b, v2.16b\n addp v0.16b, v0.16b, v0.16b\n")
SEARCH(addp_wraps,
       "movi v3.16b, #0x80\n cmeq v1.16b, v1.16b, #0\n and v1.16b, v1.16b, v3.16b\n addp v0.16b, v1.16b, v1.16b\n")
SEARCH(shrn4, "cmeq v1.16b, v1.16b, #0\n shrn v0.8b, v1.8h, #4\n")
SEARCH(same, "cmeq v0.16b, v1.16b, #0\n umaxp v0.16b, v0.16b, v0.16b\n")

/* The same words by hand, so that one can be replaced: CMEQ #0 by CMLT #0, in a page that is written and executed. */
static const uint32_t words[] = {0xacc10801 /* ldp q1, q2, [x0], #32 */,
                                 0x6e22ac20 /* uminp */,
                                 0x6e20ac00,
                                 0x0e209800 /* cmeq */,
                                 0x9e660003,
                                 0xb4ffff63 /* cbz x3 */,
                                 0xaa0303e1 /* mov x1, x3 */,
                                 0xd65f03c0};
struct two {
    uint64_t at, x3;
};

static void changed(void)
{
    uint32_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memcpy(code, words, sizeof words);
    for (unsigned i = 0; i < 6; i++) {
        struct two (*fn)(const void *) = (struct two(*)(const void *))code;
        struct two r;

        code[3] = i & 1 ? 0x0e20a800 /* cmlt v0.8b, v0.8b, #0 */ : words[3];
        __builtin___clear_cache((char *)code, (char *)code + sizeof words);
        memset(buf, 1, sizeof buf);
        buf[i & 1 ? 200 : 100] = 0;
        memset(buf + 500 + 32 * i, 0x90, 64);
        r = fn(buf);
        r.at -= (uint64_t)buf;
        printf("changed %u: %d %016llx\n", i, (int)r.at, (unsigned long long)r.x3);
    }
}

/* strlen's and strcmp's loops as they are in the C library, what they leave in registers, at the end of mapped memory.
 */
static uint64_t k01 = 0x0101010101010101;

static void length(const unsigned char *from)
{
    uint64_t at = (uint64_t)from - 32, x3, v[6];

    __asm__ volatile(
        "1: ldp q1, q2, [%0, #32]!\n uminp v0.16b, v1.16b, v2.16b\n uminp v0.16b, v0.16b, v0.16b\n"
        "cmeq v0.8b, v0.8b, #0\n fmov x3, d0\n cbz x3, 1b\n mov %1, x3\n stp q0, q1, [%2]\n str q2, [%2, #32]\n"
        : "+r"(at), "=&r"(x3)
        : "r"(v)
        : "x3", "v0", "v1", "v2", "memory");
    at -= (uint64_t)from;
    note(&at, 8);
    note(&x3, 8);
    note(v, 48);
}

static void compare(const unsigned char *a, const unsigned char *b)
{
    uint64_t r[5];

    __asm__ volatile(
        "mov x0, %0\n mov x10, %1\n mov x8, %2\n 1: ldr x3, [x0, x10]\n ldr x2, [x0], #8\n sub x4, x2, x8\n"
        "orr x6, x2, #0x7f7f7f7f7f7f7f7f\n bics x4, x4, x6\n ccmp x2, x3, #0, eq\n b.eq 1b\n"
        "mrs x5, nzcv\n sub x0, x0, %0\n stp x0, x2, [%3]\n stp x3, x4, [%3, #16]\n eor x6, x6, x5\n str x6, [%3, "
        "#32]\n"
        :
        : "r"(a), "r"(b - a), "r"(k01), "r"(r)
        : "x0", "x2", "x3", "x4", "x5", "x6", "x8", "x10", "memory", "cc");
    note(r, sizeof r);
}

static sigjmp_buf out;
static int comparing;
static void on_fault(int sig, siginfo_t *i, void *context)
{
    const ucontext_t *u = context;
    uint64_t w[2] = {(uint64_t)i->si_addr & 4095, u->uc_mcontext.regs[0] & 4095};

    note(w, comparing ? 16 : 8);
    siglongjmp(out, 1);
}

static void at_the_end(void)
{
    unsigned char *p = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                  *a = p + 2 * 4096;
    unsigned char *b = p + 6 * 4096;
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

    sigaction(SIGSEGV, &sa, NULL);
    mprotect(a, 4096, PROT_NONE);
    mprotect(b, 4096, PROT_NONE);
    memset(p, 'x', 8192);
    memset(p + 4 * 4096, 'x', 8192);
    for (unsigned from = 32; from < 700; from += 32)
        for (unsigned zero = 0; zero <= from; zero += 5) { /* 0: none, it runs into what is not mapped */
            if (zero)
                a[-(int)zero] = 0;
            if (!sigsetjmp(out, 1))
                length(a - from);
            if (zero)
                a[-(int)zero] = 'x';
        }
    comparing = 1;
    for (unsigned from = 8; from < 200; from += 8)
        for (unsigned other = 8; other < 200; other += 24)
            for (unsigned at = 0; at <= from && at <= other; at++) {
                unsigned char *x = a - from + at - (at != 0), was = 'x';

                if (at && at % 3)
                    *x = at % 3 == 1 ? 0 : 'y';
                if (at && at % 5 == 1)
                    b[(int)(x - a) + (int)from - (int)other] = *x;
                k01 = at % 7 == 2 && at % 3 ? 0x0101010101010100 : 0x0101010101010101;
                if (!sigsetjmp(out, 1))
                    compare(a - from, b - other);
                if (at)
                    *x = was;
                if (at)
                    b[(int)(x - a) + (int)from - (int)other] = was;
            }
    printf("at the end %016llx\n", (unsigned long long)sum);
    for (unsigned n = 0; n < 300; n++) {
        a[-1 - (int)n] = 0;
        for (unsigned m = n; m < 300; m += 7)
            sum = sum * 31 + strlen((char *)a - 1 - m);
        memcpy(b - 1 - n, a - 1 - n, n + 1);
        for (unsigned m = n; m < 300; m += 9)
            sum = sum * 31 + (strcmp((char *)a - 1 - m, (char *)b - 1 - m) > 0);
        a[-1 - (int)n] = b[-1 - (int)n] = 'x';
    }
    printf("by the library %016llx\n", (unsigned long long)sum);
}

int main(void)
{
    static void (*const all[])(const unsigned char *) = {uminp2, uminp1, umaxp1, umaxp2, addp2, shrn4, same};

    for (unsigned f = 0; f < sizeof all / sizeof *all; f++) {
        for (unsigned at = 0; at < 300; at++) {
            memset(buf, 0x41 + at % 7, sizeof buf);
            for (unsigned i = 0; i < 64; i += 3) /* behind it, and enough that every search ends */
                buf[at + i * (1 + f)] = 0;
            for (unsigned i = 2048; i < 4096; i += 5)
                buf[i] = 0;
            all[f](buf);
        }
        printf("%u: %016llx\n", f, (unsigned long long)sum);
    }
    memset(buf, 0x41, sizeof buf);
    memset(buf + 64, 0, 16); /* 16 times 0x80: each pair's sum is 0 */
    buf[200] = 0;
    addp_wraps(buf);
    printf("wraps: %016llx\n", (unsigned long long)sum);
    changed();
    at_the_end();
    return 0;
}
