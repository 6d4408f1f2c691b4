/* Soft-float: IEEE 754 binary16, binary32 and binary64 with every result, exception flag and NaN choice explicit.
 *
 * Pure: no host floating point, no state but struct fpu_env. Values are bit patterns in the low bits of a uint64_t.
 * Written from IEEE 754-2008 and the shared pseudocode of the Arm ARM (DDI 0487, J1.3) for what the standard leaves
 * open: which NaN wins, tininess, flushing. Other rules are chosen by fields of fpu_env. */
#ifndef FPU_FPU_H
#define FPU_FPU_H

#include "base/util.h"

/* The formats: exponent bits, fraction bits. */
struct fpu_fmt {
    uint8_t ebits, fbits;
};
extern const struct fpu_fmt fpu_h, fpu_s, fpu_d;

enum fpu_round { FPU_RNE, FPU_RUP, FPU_RDN, FPU_RTZ, FPU_RNA /* nearest, ties away */, FPU_RODD };
/* Exceptions, at the places of Arm's FPSR. */
enum { FPU_INVALID = 1, FPU_DIVZERO = 2, FPU_OVERFLOW = 4, FPU_UNDERFLOW = 8, FPU_INEXACT = 16, FPU_DENORMAL = 128 };
struct fpu_env {
    uint8_t round;    /* enum fpu_round */
    bool default_nan; /* NaN results are the positive quiet NaN with no payload */
    bool flush;       /* subnormals in and out are zero (binary32, binary64) */
    bool flush_h;     /* the same for binary16, inputs without FPU_DENORMAL */
    bool alt_half;    /* binary16 without infinities and NaNs, in conversions only */
    bool tiny_after;  /* tininess is detected after rounding */
    uint32_t flags;   /* exceptions are added here */
};
enum fpu_order { FPU_LESS, FPU_EQUAL, FPU_GREATER, FPU_UNORDERED };

uint64_t fpu_add(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b);
uint64_t fpu_sub(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b);
uint64_t fpu_mul(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b);
/* As mul, but zero times infinity is 2 with the product's sign and no exception (FMULX). */
uint64_t fpu_mulx(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b);
uint64_t fpu_div(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b);
uint64_t fpu_sqrt(struct fpu_env *e, struct fpu_fmt f, uint64_t a);
/* a * b + c rounded once. NaN priority: c, a, b. */
uint64_t fpu_fma(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b, uint64_t c);
/* max: the larger. num: a quiet NaN loses to a number. */
uint64_t fpu_minmax(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b, bool max, bool num);
/* signal: any NaN is invalid, not only signalling ones. */
enum fpu_order fpu_cmp(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b, bool signal);
/* To an integral value of the same format. exact: raises inexact when it changes the value. */
uint64_t fpu_rint(struct fpu_env *e, struct fpu_fmt f, uint64_t a, enum fpu_round r, bool exact);
/* The same, and what does not fit a signed integer of `bits` is the smallest of them, invalid (FRINT32Z ...). */
uint64_t fpu_rint_in(struct fpu_env *e, struct fpu_fmt f, uint64_t a, enum fpu_round r, unsigned bits);
uint64_t fpu_cvt(struct fpu_env *e, struct fpu_fmt from, struct fpu_fmt to, uint64_t a, enum fpu_round r);
/* a * 2^frac as an integer of `bits` (8..64), saturating; NaN: 0. */
uint64_t fpu_to_int(struct fpu_env *e, struct fpu_fmt f, uint64_t a, unsigned frac, unsigned bits, bool is_signed,
                    enum fpu_round r);
/* v / 2^frac. */
uint64_t fpu_from_int(struct fpu_env *e, struct fpu_fmt f, uint64_t v, unsigned frac, bool is_signed);
/* Arm's estimates and steps: FRECPE FRSQRTE FRECPX FRECPS FRSQRTS, and URECPE URSQRTE on 32-bit fractions. */
uint64_t fpu_recpe(struct fpu_env *e, struct fpu_fmt f, uint64_t a);
uint64_t fpu_rsqrte(struct fpu_env *e, struct fpu_fmt f, uint64_t a);
uint64_t fpu_recpx(struct fpu_env *e, struct fpu_fmt f, uint64_t a);
uint64_t fpu_recps(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b);
uint64_t fpu_rsqrts(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b);
uint32_t fpu_urecpe(uint32_t a);
uint32_t fpu_ursqrte(uint32_t a);

static inline uint64_t fpu_signbit(struct fpu_fmt f)
{
    return UINT64_C(1) << (f.ebits + f.fbits);
}
/* The positive quiet NaN without payload. */
static inline uint64_t fpu_nan(struct fpu_fmt f)
{
    return ((UINT64_C(2) << f.ebits) - 1) << (f.fbits - 1);
}

#endif
