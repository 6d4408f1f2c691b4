/* Values worth trying, for the differential testers of the IR guests: a generator and floating-point patterns. */
#ifndef TESTS_DIFF_VALUES_H
#define TESTS_DIFF_VALUES_H

#include <stdint.h>

/* xorshift64*; *rng not 0. */
static inline uint64_t val_rnd(uint64_t *rng)
{
    *rng ^= *rng << 13;
    *rng ^= *rng >> 7;
    *rng ^= *rng << 17;
    return *rng * UINT64_C(0x2545f4914f6cdd1d);
}

/* A number of 64, 32 or 16 bits: zeros, denormals, both NaNs, infinities, the edges of the ranges, powers of two, and
 * mostly values near one. */
static inline uint64_t val_fp(uint64_t *rng, unsigned bits)
{
    unsigned e = bits == 64 ? 11 : bits == 32 ? 8 : 5, f = bits - 1 - e;
    uint64_t r = val_rnd(rng), frac = val_rnd(rng) & ((UINT64_C(1) << f) - 1), max = (UINT64_C(1) << e) - 1, exp;

    switch (r & 15) {
    case 0:
        exp = 0, frac = 0;
        break;
    case 1:
        exp = 0;
        break;
    case 2:
        exp = 0, frac = (r >> 8 & 3) + 1;
        break;
    case 3:
        exp = max, frac = 0;
        break;
    case 4:
        exp = max, frac |= UINT64_C(1) << (f - 1);
        break;
    case 5:
        exp = max, frac = (frac & ~(UINT64_C(1) << (f - 1))) | 1;
        break;
    case 6:
        exp = 1, frac &= 3;
        break;
    case 7:
        exp = max - 1, frac |= ~UINT64_C(3) & ((UINT64_C(1) << f) - 1);
        break;
    case 8:
        exp = max / 2 + (r >> 8 & 1), frac = 0;
        break;
    case 9:
    case 10:
        exp = max / 2 + (r >> 8) % 66 - 2;
        break;
    case 11:
        exp = max / 2 + (r >> 8) % 34 - 1, frac &= UINT64_C(7) << (f - 3);
        break;
    case 12:
        exp = r >> 8 & max;
        break;
    default:
        exp = max / 2 + (r >> 8) % 8 - 4;
        break;
    }
    if (exp > max)
        exp = max;
    return (r >> 4 & 1) << (bits - 1) | exp << f | frac;
}

#endif
