/* The micro-suite: small loops, each one thing a processor does. A workload is a function that does n units of its work
 * and returns a value that depends on all of it, so that nothing is left out by the compiler and every run can be
 * compared. */
#ifndef BENCH_MICRO_H
#define BENCH_MICRO_H

#include <stddef.h>
#include <stdint.h>

struct work {
    const char *name;
    const char *row;             /* row of the table of speeds: int, call, fp, simd, x87, chase, bulk, sys, ... */
    uint64_t (*run)(uint64_t n); /* does n units, rounded up to a multiple of grain */
    uint64_t grain;
    uint64_t check;   /* units for the value that all runs must agree on; 0 = it has none */
    int (*can)(void); /* NULL, or whether this processor has what it takes */
};
extern const struct work works_int[], works_call[], works_fp[], works_simd[], works_mem[], works_sys[];

/* Hides a value from the optimiser. */
#define HIDE(x) __asm__ volatile("" : "+r"(x))
/* A fixed pseudo-random step: every run sees the same data. */
static inline uint64_t mix(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93u;
    return z ^ (z >> 29);
}

#endif
