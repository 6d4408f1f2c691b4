/* Calls that nest to every depth around what a translator keeps return addresses for, and at each depth something done
 * for the first time: code never run, a jump in it never taken; and code run before that has changed since. Who leaves
 * translated code by a call needs one word more than the guest's calls do. */
#define _GNU_SOURCE
#include "t.h"

#include <sys/mman.h>

enum { DEPTH = 31400, NR = 8000, ROUNDS = 6, LEN = 32 /* so that a jump table holds all */ };
typedef uint32_t (*fn)(uint32_t);
static uint8_t *code;

/* test edi, edi; je 1f; mov eax, 7; ret; 1: mov eax, v; ret. No call, which would go deeper than what leaves by one. */
static void put(unsigned n, uint32_t v)
{
    static const uint8_t f[LEN] = {0x85, 0xff, 0x74, 6, 0xb8, 7, 0, 0, 0, 0xc3, 0xb8, 0, 0, 0, 0, 0xc3};
    uint8_t *p = code + n * LEN;

    memcpy(p, f, LEN);
    memcpy(p + 11, &v, 4);
}

static uint32_t run(unsigned n, uint32_t arg)
{
    return ((fn)(uintptr_t)(code + n * LEN))(arg);
}

/* Sum of all functions, each called one level further down. */
__attribute__((noinline)) static uint32_t down(unsigned n)
{
    uint32_t r = run(n, 0);

    if (n + 1 < NR)
        r += down(n + 1);
    __asm__ volatile("" : "+r"(r));
    return r;
}

/* The same, `more` levels further down. */
__attribute__((noinline)) static uint32_t from(unsigned more)
{
    uint32_t r = more ? from(more - 1) : down(0);

    __asm__ volatile("" : "+r"(r));
    return r;
}

static void all(uint32_t k)
{
    for (unsigned n = 0; n < NR; n++)
        put(n, n * k);
}

static uint32_t sum(uint32_t k)
{
    return k * (NR * (NR - 1) / 2);
}

/* The rounds are at different depths: a system may have nested calls before us. */
static void check(uint32_t k, unsigned round, const char *what)
{
    uint32_t got = from((DEPTH - NR) / (ROUNDS - 1) * round);

    claim(got == sum(k), what, "%08x, wanted %08x", got, sum(k));
}

static void each(uint32_t arg)
{
    for (unsigned n = 0; n < NR; n++)
        run(n, arg);
}

int main(void)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint32_t k = 2 * round + 1;

        code = mmap(NULL, NR * LEN, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        all(k);
        check(k, round, "new code at every depth");
        all(k + 1);
        each(1);
        check(k + 1, round, "a jump never taken, at every depth");
        each(0);
        all(k);
        check(k, round, "changed code at every depth");
        munmap(code, NR * LEN);
    }
    return t_end();
}
