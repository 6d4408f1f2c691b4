/* The loops by which string functions search with vectors: what is left in registers after each, for every place of
 * the byte looked for, and when a store changes an instruction of the loop. */
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
    return 0;
}
