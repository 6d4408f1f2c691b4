/* Calls and jumps by pointer while other processors interrupt: what stops a translator's look-up half-way must not lose
 * where it was going. Functions lie at multiples of 2^18 from each other, so that many of them share each place of a
 * table, the first place among them; far up, as programs do. */
#define _GNU_SOURCE
#include "t.h"

#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STEP = 1 << 18, NR = 4 };
static uint8_t *const base = (uint8_t *)UINT64_C(0x700000000000);
static _Atomic int done;

static void *interrupter(void *arg)
{
    unsigned long n = 0;

    (void)arg;
    while (!done) {
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
        n++;
    }
    return (void *)n;
}

/* n times: call rsi; the function adds 1 to eax. From memory of its own, at an address no 32 bits hold. */
static const uint8_t caller[] = {0x53,             /* push rbx */
                                 0x31, 0xc0,       /* xor eax, eax */
                                 0x48, 0x89, 0xfb, /* mov rbx, rdi */
                                 0xff, 0xd6,       /* 1: call rsi */
                                 0x48, 0xff, 0xcb, /* dec rbx */
                                 0x75, 0xf9,       /* jnz 1b */
                                 0x5b, 0xc3};
static const uint8_t leaf[] = {0x48, 0xff, 0xc0, 0xc3};                            /* inc rax; ret */
static const uint8_t jumper[] = {0x48, 0x8d, 0x15, 3,   0, 0, 0, 0xff, 0xe2, 0xf4, /* lea rdx, 1f; jmp rdx; hlt */
                                 0x48, 0xff, 0xc0, 0xc3};                          /* 1: inc rax; ret */

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 0) : 20000000;
    uint8_t *p = mmap(base, (NR + 1) * STEP, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
    pthread_t other;
    void *n;

    t_must(p == base);
    memcpy(p + 64, caller, sizeof caller);
    for (unsigned i = 1; i <= NR; i++)
        memcpy(p + i * STEP, i & 1 ? leaf : jumper, i & 1 ? sizeof leaf : sizeof jumper);
    t_must(!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
    pthread_create(&other, NULL, interrupter, NULL);
    for (unsigned i = 1; i <= NR; i++) {
        uint64_t got = ((uint64_t(*)(uint64_t, void *))(uintptr_t)(p + 64))(rounds, p + i * STEP);
        claim(got == rounds, i & 1 ? "calls" : "calls and jumps", "%llu of %llu came back", (unsigned long long)got,
              (unsigned long long)rounds);
    }
    done = 1;
    pthread_join(other, &n);
    printf("%lu interruptions\n", (unsigned long)(uintptr_t)n);
    return t_end();
}
