/* Reference semantics of every pure op, lane by lane in C: what the back end falls back to and what tests compare its
 * code with. FP arithmetic is the host's scalar instruction under the current MXCSR; NaN results are replaced by rule.
 */
#include "jit/ir_int.h"

#include <immintrin.h>
#include <math.h>

typedef union ir_vec vec;

static unsigned bits_of(enum ir_type t)
{
    return t == IR_I32 || t == IR_F32 ? 32 : 64;
}

static uint64_t mask_of(unsigned w)
{
    return w >= 64 ? UINT64_MAX : (UINT64_C(1) << w) - 1;
}

static int64_t sx(uint64_t v, unsigned w)
{
    return (int64_t)(v << (64 - w)) >> (64 - w);
}

static uint64_t lane(const vec *v, unsigned l, unsigned i)
{
    switch (l) {
    case IR_B:
        return v->b[i];
    case IR_H:
        return v->h[i];
    case IR_S:
        return v->s[i];
    default:
        return v->d[i];
    }
}

static void set_lane(vec *v, unsigned l, unsigned i, uint64_t x)
{
    switch (l) {
    case IR_B:
        v->b[i] = (uint8_t)x;
        break;
    case IR_H:
        v->h[i] = (uint16_t)x;
        break;
    case IR_S:
        v->s[i] = (uint32_t)x;
        break;
    default:
        v->d[i] = x;
        break;
    }
}

/* --- Integers --- */
static uint64_t bitrev(uint64_t v, unsigned w)
{
    uint64_t r = 0;

    for (unsigned i = 0; i < w; i++)
        r |= (v >> i & 1) << (w - 1 - i);
    return r;
}

static unsigned __int128 clmul(uint64_t a, uint64_t b)
{
    unsigned __int128 r = 0;

    for (unsigned i = 0; i < 64; i++)
        if (b >> i & 1)
            r ^= (unsigned __int128)a << i;
    return r;
}

static uint32_t crc_step(uint32_t crc, uint64_t v, unsigned bits, uint32_t poly)
{
    crc ^= (uint32_t)(v & mask_of(bits < 32 ? bits : 32));
    for (unsigned i = 0; i < (bits < 32 ? bits : 32); i++)
        crc = crc >> 1 ^ (crc & 1 ? poly : 0);
    if (bits == 64)
        crc = crc_step(crc, v >> 32, 32, poly);
    return crc;
}

static uint64_t divide(const struct ir_op *o, uint64_t a, uint64_t b, unsigned w)
{
    int64_t sa = sx(a, w), sb = sx(b, w);
    uint64_t by0 = o->attr == IR_DIV0_ONES ? UINT64_MAX : 0;

    switch (o->op) {
    case IR_DIVU:
        return b ? a / b : by0;
    case IR_REMU:
        return b ? a % b : a;
    case IR_DIVS:
        return !b ? by0 : sb == -1 ? -a : (uint64_t)(sa / sb);
    default:
        return !b ? a : sb == -1 ? 0 : (uint64_t)(sa % sb);
    }
}

static uint64_t mulh(const struct ir_op *o, uint64_t a, uint64_t b, unsigned w)
{
    __int128 x = o->op == IR_MULHU ? (__int128)a : sx(a, w), y = o->op == IR_MULHS ? sx(b, w) : (__int128)b;

    return (uint64_t)((unsigned __int128)x * (unsigned __int128)y >> w);
}

static bool compare(unsigned cc, uint64_t a, uint64_t b, unsigned w)
{
    int64_t sa = sx(a, w), sb = sx(b, w);

    switch (cc) {
    case IR_EQ:
        return a == b;
    case IR_NE:
        return a != b;
    case IR_LTU:
        return a < b;
    case IR_GEU:
        return a >= b;
    case IR_LEU:
        return a <= b;
    case IR_GTU:
        return a > b;
    case IR_LTS:
        return sa < sb;
    case IR_GES:
        return sa >= sb;
    case IR_LES:
        return sa <= sb;
    case IR_GTS:
        return sa > sb;
    case IR_TSTZ:
        return !(a & b);
    default:
        return a & b;
    }
}

static uint64_t rotate(uint64_t a, unsigned n, unsigned w)
{
    return n ? a >> n | a << (w - n) : a;
}

static uint64_t int_unary(const struct ir_op *o, uint64_t a, unsigned w)
{
    uint64_t r = 0;

    switch (o->op) {
    case IR_NOT:
        return ~a;
    case IR_NEG:
        return -a;
    case IR_CLZ:
        return a ? (uint64_t)__builtin_clzll(a) - (64 - w) : w;
    case IR_CTZ:
        return a ? (uint64_t)__builtin_ctzll(a) : w;
    case IR_POPCNT:
        return (uint64_t)__builtin_popcountll(a);
    case IR_BSWAP:
        return __builtin_bswap64(a) >> (64 - w);
    case IR_REV16:
        return (a >> 8 & UINT64_C(0xff00ff00ff00ff)) | (a & UINT64_C(0xff00ff00ff00ff)) << 8;
    case IR_BITREV:
        return bitrev(a, w);
    case IR_UBFX:
        return a >> o->imm & mask_of(o->attr);
    case IR_SBFX:
        return (uint64_t)sx(a >> o->imm, o->attr);
    case IR_ORCB:
        for (unsigned i = 0; i < 8; i++)
            r |= (a >> 8 * i & 0xff ? UINT64_C(0xff) : 0) << 8 * i;
        return r;
    default:
        return a;
    }
}

static uint64_t int_op(const struct ir_op *o, const vec *v, unsigned w)
{
    uint64_t m = mask_of(w), a = v[0].d[0] & m, b = v[1].d[0] & m;
    unsigned n = (unsigned)v[1].d[0] & (w - 1);

    switch (o->op) {
    case IR_ADD:
        return a + b;
    case IR_SUB:
        return a - b;
    case IR_AND:
        return a & b;
    case IR_OR:
        return a | b;
    case IR_XOR:
        return a ^ b;
    case IR_ANDN:
        return a & ~b;
    case IR_MUL:
        return a * b;
    case IR_MULHU:
    case IR_MULHS:
    case IR_MULHSU:
        return mulh(o, a, b, w);
    case IR_DIVU ... IR_REMS:
        return divide(o, a, b, w);
    case IR_SHL:
        return a << n;
    case IR_SHR:
        return a >> n;
    case IR_SAR:
        return (uint64_t)(sx(a, w) >> n);
    case IR_ROR:
        return rotate(a, n, w);
    case IR_EXTR:
        return o->imm ? b >> o->imm | a << (w - (unsigned)o->imm) : b;
    case IR_BFI:
        m = mask_of(o->attr) << o->imm;
        return (a & ~m) | (b << o->imm & m);
    case IR_CRC32C:
        return crc_step((uint32_t)a, v[1].d[0], 8u << o->attr, 0x82f63b78);
    case IR_CRC32:
        return crc_step((uint32_t)a, v[1].d[0], 8u << o->attr, 0xedb88320);
    case IR_CLMUL:
        return (uint64_t)clmul(a, b);
    case IR_CLMULH:
        return (uint64_t)(clmul(a, b) >> 64);
    default:
        return int_unary(o, a, w);
    }
}

/* --- Scalar FP: F32 in the low bits of a 64-bit word --- */
enum { MX_IE = 1, MX_DE = 2, MX_PE = 32 };
static const uint64_t dnan[2] = {0x7fc00000, UINT64_C(0x7ff8000000000000)};
static const uint64_t qbit[2] = {0x400000, UINT64_C(0x8000000000000)};
static const uint64_t inf[2] = {0x7f800000, UINT64_C(0x7ff0000000000000)};
static const uint64_t sign[2] = {0x80000000, UINT64_C(0x8000000000000000)};

static bool is_nan(uint64_t a, bool d)
{
    return (a & ~sign[d]) > inf[d] && (d || a >> 32 == 0);
}
static bool is_snan(uint64_t a, bool d)
{
    return is_nan(a, d) && !(a & qbit[d]);
}
static void raise_flag(unsigned f)
{
    _mm_setcsr(_mm_getcsr() | f);
}
static double as_d(uint64_t a)
{
    double x;

    memcpy(&x, &a, 8);
    return x;
}
static float as_f(uint64_t a)
{
    uint32_t b = (uint32_t)a;
    float x;

    memcpy(&x, &b, 4);
    return x;
}
static uint64_t of_d(double x)
{
    uint64_t a;

    memcpy(&a, &x, 8);
    return a;
}
static uint64_t of_f(float x)
{
    uint32_t a;

    memcpy(&a, &x, 4);
    return a;
}

#define SSE2OP(name, insn)                                                                                             \
    static uint64_t name(uint64_t a, uint64_t b, bool d)                                                               \
    {                                                                                                                  \
        if (d) {                                                                                                       \
            double x = as_d(a);                                                                                        \
            __asm__ volatile(insn "d %1, %0" : "+x"(x) : "x"(as_d(b)));                                                \
            return of_d(x);                                                                                            \
        } else {                                                                                                       \
            float x = as_f(a);                                                                                         \
            __asm__ volatile(insn "s %1, %0" : "+x"(x) : "x"(as_f(b)));                                                \
            return of_f(x);                                                                                            \
        }                                                                                                              \
    }
SSE2OP(f_add, "adds")
SSE2OP(f_sub, "subs")
SSE2OP(f_mul, "muls")
SSE2OP(f_div, "divs")

static uint64_t f_sqrt(uint64_t b, bool d)
{
    if (d) {
        double x;
        __asm__ volatile("sqrtsd %1, %0" : "=x"(x) : "x"(as_d(b)));
        return of_d(x);
    } else {
        float x;
        __asm__ volatile("sqrtss %1, %0" : "=x"(x) : "x"(as_f(b)));
        return of_f(x);
    }
}

static uint64_t f_fma(uint64_t a, uint64_t b, uint64_t c, bool d)
{
    if (d) {
        double x = as_d(a);
        __asm__ volatile("vfmadd213sd %2, %1, %0" : "+x"(x) : "x"(as_d(b)), "x"(as_d(c)));
        return of_d(x);
    } else {
        float x = as_f(a);
        __asm__ volatile("vfmadd213ss %2, %1, %0" : "+x"(x) : "x"(as_f(b)), "x"(as_f(c)));
        return of_f(x);
    }
}

/* The NaN an operation with these operands, in order of priority, gives. */
static uint64_t pick_nan(enum ir_nan rule, const uint64_t *a, unsigned n, bool d)
{
    if (rule == IR_NAN_DEFAULT)
        return dnan[d];
    for (unsigned i = 0; i < n; i++)
        if (is_snan(a[i], d))
            return a[i] | qbit[d];
    for (unsigned i = 0; i < n; i++)
        if (is_nan(a[i], d))
            return a[i];
    return dnan[d];
}

static uint64_t fma_op(unsigned neg, enum ir_nan rule, uint64_t a, uint64_t b, uint64_t c, bool d)
{
    uint64_t r, in[3];

    if (neg & 1)
        a ^= sign[d];
    if (neg & 2)
        c ^= sign[d];
    r = f_fma(a, b, c, d);
    if (!is_nan(r, d))
        return r;
    in[0] = c;
    in[1] = a;
    in[2] = b;
    if (is_nan(c, d) && !is_snan(c, d) && !is_nan(a, d) && !is_nan(b, d) &&
        (((a & ~sign[d]) == inf[d] && !(b & ~sign[d])) || ((b & ~sign[d]) == inf[d] && !(a & ~sign[d])))) {
        raise_flag(MX_IE); /* infinity times zero wins over a quiet addend */
        return dnan[d];
    }
    return pick_nan(rule, in, 3, d);
}

static uint64_t minmax(bool max, unsigned how, enum ir_nan rule, uint64_t a, uint64_t b, bool d)
{
    uint64_t in[2] = {a, b};
    bool na = is_nan(a, d), nb = is_nan(b, d), less;

    if (is_snan(a, d) || is_snan(b, d)) {
        raise_flag(MX_IE);
        if (how != IR_MM_RISCV)
            return pick_nan(rule, in, 2, d);
    }
    if (na && nb)
        return pick_nan(rule, in, 2, d);
    if (na || nb)
        return how == IR_MM_NAN ? pick_nan(rule, in, 2, d) : na ? b : a;
    if (!((a | b) & ~sign[d])) /* zeros: -0 < +0 */
        less = a > b;
    else
        less = d ? as_d(a) < as_d(b) : as_f(a) < as_f(b);
    return less != max ? a : b;
}

static bool fcompare(unsigned cc, bool sig, uint64_t a, uint64_t b, bool d)
{
    double x = d ? as_d(a) : 0, y = d ? as_d(b) : 0;

    if (is_nan(a, d) || is_nan(b, d)) {
        if (sig || is_snan(a, d) || is_snan(b, d))
            raise_flag(MX_IE);
        return cc == IR_FUN;
    }
    if (!d) {
        x = as_f(a);
        y = as_f(b);
    }
    switch (cc) {
    case IR_FEQ:
        return x == y;
    case IR_FLT:
        return x < y;
    case IR_FLE:
        return x <= y;
    case IR_FGT:
        return x > y;
    case IR_FGE:
        return x >= y;
    default:
        return false;
    }
}

/* Runs with rounding rm (IR_RDYN: as it is); give back what was set before. */
static unsigned round_begin(unsigned rm)
{
    static const uint8_t rc[] = {0, 3, 1, 2, 0};
    unsigned old = _mm_getcsr();

    if (rm <= IR_RNA)
        _mm_setcsr((old & ~0x6000u) | (unsigned)rc[rm] << 13);
    return old;
}
static void round_end(unsigned rm, unsigned old)
{
    if (rm <= IR_RNA)
        _mm_setcsr((_mm_getcsr() & ~0x6000u) | (old & 0x6000));
}

/* To integral without raising anything. */
static double to_integral(double x, unsigned rm)
{
    unsigned csr = _mm_getcsr();
    double r;

    if (rm == IR_RNA) {
        r = trunc(x);
        if (fabs(x - r) >= 0.5)
            r += copysign(1, x);
        r = copysign(r, x);
    } else {
        round_begin(rm);
        __asm__ volatile("roundsd $4, %1, %0" : "=x"(r) : "x"(x));
    }
    _mm_setcsr(csr);
    return r;
}

/* A float as a double, exactly and silently. */
static double widen(uint64_t a, bool d)
{
    unsigned csr = _mm_getcsr();
    double x = d ? as_d(a) : 0;

    if (!d) {
        float f = as_f(a);
        __asm__ volatile("cvtss2sd %1, %0" : "=x"(x) : "x"(f));
        _mm_setcsr(csr);
    }
    return x;
}

static uint64_t ftoi(uint64_t a, bool d, unsigned rm, bool uns, bool nan_max, unsigned w)
{
    double lo = uns ? 0 : -ldexp(1, (int)w - 1), hi = ldexp(1, (int)(uns ? w : w - 1)), x, r;
    uint64_t max = uns ? mask_of(w) : mask_of(w - 1), min = uns ? 0 : UINT64_C(1) << (w - 1);

    if (is_nan(a, d)) {
        raise_flag(MX_IE);
        return nan_max ? max : 0;
    }
    x = widen(a, d);
    r = to_integral(x, rm);
    if (r < lo || r >= hi) {
        raise_flag(MX_IE);
        return r < lo ? min : max;
    }
    if (r != x)
        raise_flag(MX_PE);
    return uns ? (uint64_t)r : (uint64_t)(int64_t)r & mask_of(w);
}

static uint64_t itof(uint64_t a, unsigned w, bool uns, unsigned rm, bool d)
{
    unsigned old = round_begin(rm);
    int64_t v = uns ? (int64_t)a : sx(a, w);
    bool big = uns && (int64_t)a < 0;
    uint64_t r;

    if (big) /* halve it, keeping what decides the rounding */
        v = (int64_t)(a >> 1 | (a & 1));
    if (d) {
        double x;
        __asm__ volatile("cvtsi2sdq %1, %0" : "=x"(x) : "r"(v));
        r = of_d(big ? x + x : x);
    } else {
        float x;
        __asm__ volatile("cvtsi2ssq %1, %0" : "=x"(x) : "r"(v));
        r = of_f(big ? x + x : x);
    }
    round_end(rm, old);
    return r;
}

static uint64_t fround(uint64_t a, bool d, unsigned rm, bool inexact, enum ir_nan rule)
{
    double x, r;

    if (is_nan(a, d)) {
        if (is_snan(a, d))
            raise_flag(MX_IE);
        return pick_nan(rule, &a, 1, d);
    }
    x = widen(a, d);
    r = to_integral(x, rm);
    if (inexact && r != x)
        raise_flag(MX_PE);
    return d ? of_d(r) : of_f((float)r);
}

static uint64_t fconvert(uint64_t a, bool to_d, unsigned rm, enum ir_nan rule)
{
    unsigned old;
    uint64_t r;

    if (is_nan(a, !to_d)) {
        if (is_snan(a, !to_d))
            raise_flag(MX_IE);
        if (rule == IR_NAN_DEFAULT)
            return dnan[to_d];
        return to_d ? (a & 0x80000000) << 32 | inf[1] | qbit[1] | (a & 0x3fffff) << 29
                    : (a >> 32 & 0x80000000) | inf[0] | qbit[0] | (a >> 29 & 0x3fffff);
    }
    old = round_begin(rm);
    if (to_d) {
        double x;
        __asm__ volatile("cvtss2sd %1, %0" : "=x"(x) : "x"(as_f(a)));
        r = of_d(x);
    } else {
        float x;
        __asm__ volatile("cvtsd2ss %1, %0" : "=x"(x) : "x"(as_d(a)));
        r = of_f(x);
    }
    round_end(rm, old);
    return r;
}

static unsigned fclass(uint64_t a, bool d)
{
    uint64_t m = a & ~sign[d];
    bool neg = a & sign[d];

    if (is_nan(a, d))
        return is_snan(a, d) ? 256 : 512;
    if (m == inf[d])
        return neg ? 1 : 128;
    if (!m)
        return neg ? 8 : 16;
    if (m < (d ? UINT64_C(1) << 52 : UINT64_C(1) << 23))
        return neg ? 4 : 32;
    return neg ? 2 : 64;
}

static uint64_t arith(unsigned op, enum ir_nan rule, uint64_t a, uint64_t b, bool d)
{
    uint64_t in[2] = {a, b}, r;

    switch (op) {
    case IR_FADD:
        r = f_add(a, b, d);
        break;
    case IR_FSUB:
        r = f_sub(a, b, d);
        break;
    case IR_FMUL:
        r = f_mul(a, b, d);
        break;
    case IR_FDIV:
        r = f_div(a, b, d);
        break;
    default:
        r = f_sqrt(a, d);
        return is_nan(r, d) ? pick_nan(rule, in, 1, d) : r;
    }
    return is_nan(r, d) ? pick_nan(rule, in, 2, d) : r;
}

static uint64_t fp_op(const struct ir_op *o, enum ir_nan rule, const vec *v)
{
    bool d = o->t == IR_F64;
    uint64_t m = mask_of(d ? 64 : 32), a = v[0].d[0] & m, b = v[1].d[0] & m, c = v[2].d[0] & m, r;
    unsigned rm = o->attr >> 4 ? (unsigned)(o->attr >> 4) - 1 : IR_RDYN, old;

    switch (o->op) {
    case IR_FADD ... IR_FSQRT:
        old = round_begin(rm);
        r = arith(o->op, rule, a, b, d);
        round_end(rm, old);
        return r;
    case IR_FMA:
        old = round_begin(rm);
        r = fma_op(o->attr & 3, rule, a, b, c, d);
        round_end(rm, old);
        return r;
    case IR_FMIN:
    case IR_FMAX:
        return minmax(o->op == IR_FMAX, o->attr, rule, a, b, d);
    case IR_FNEG:
        return a ^ sign[d];
    case IR_FABS:
        return a & ~sign[d];
    case IR_FCOPYSIGN:
        return o->attr == 2 ? a ^ (b & sign[d]) : (a & ~sign[d]) | ((o->attr ? ~b : b) & sign[d]);
    case IR_FCVT:
        return fconvert(v[0].d[0] & mask_of(d ? 32 : 64), d, rm, rule);
    case IR_FROUND:
        return fround(a, d, o->attr & 7, o->attr & 8, rule);
    case IR_ITOF:
        return itof(v[0].d[0] & mask_of(o->attr & 32 ? 64 : 32), o->attr & 32 ? 64 : 32, o->attr & 8, o->attr & 7, d);
    case IR_FUNBOX:
        return v[0].s[1] == UINT32_MAX ? v[0].s[0] : dnan[0];
    default: /* FMOV_I, FLOW */
        return a;
    }
}

/* --- Vectors --- */
static uint64_t sat_s(__int128 v, unsigned w)
{
    __int128 hi = ((__int128)1 << (w - 1)) - 1, lo = -hi - 1;

    return (uint64_t)(v > hi ? hi : v < lo ? lo : v);
}
static uint64_t sat_u(__int128 v, unsigned w)
{
    __int128 hi = ((__int128)1 << w) - 1;

    return (uint64_t)(v > hi ? hi : v < 0 ? 0 : v);
}

static uint64_t shift_by(uint64_t a, int8_t n, bool arith_shift, unsigned w)
{
    if (n >= 0)
        return n >= (int)w ? 0 : a << n;
    if (arith_shift)
        return (uint64_t)(sx(a, w) >> (-n >= (int)w ? (int)w - 1 : -n));
    return -n >= (int)w ? 0 : a >> -n;
}

static uint64_t shift_imm(const struct ir_op *o, uint64_t a, unsigned w)
{
    unsigned n = (unsigned)o->imm;

    switch (o->op) {
    case IR_VSHLI:
        return n >= w ? 0 : a << n;
    case IR_VSHRI:
        return n >= w ? 0 : a >> n;
    case IR_VSARI:
        return (uint64_t)(sx(a, w) >> (n >= w ? w - 1 : n));
    case IR_VRSHRI:
        return (uint64_t)(((unsigned __int128)a + ((unsigned __int128)1 << (n - 1))) >> n);
    default:
        return (uint64_t)(((__int128)sx(a, w) + ((__int128)1 << (n - 1))) >> n);
    }
}

static uint64_t qdmulh(int64_t a, int64_t b, bool round, unsigned w)
{
    __int128 p = (__int128)a * b * 2 + (round ? (__int128)1 << (w - 1) : 0);

    return sat_s(p >> w, w);
}

/* Ops that work on each lane (pair) by itself. */
static uint64_t lane_op(const struct ir_op *o, uint64_t a, uint64_t b, unsigned w)
{
    int64_t sa = sx(a, w), sb = sx(b, w);
    __int128 ua = (__int128)a, ub = (__int128)b, rnd = o->attr & 4 ? 1 : 0;

    switch (o->op) {
    case IR_VADD:
    case IR_VPADD:
        return a + b;
    case IR_VSUB:
        return a - b;
    case IR_VMUL:
        return a * b;
    case IR_VNEG:
        return -a;
    case IR_VABS:
        return sa < 0 ? -a : a;
    case IR_VSMIN:
    case IR_VPSMIN:
        return sa < sb ? a : b;
    case IR_VSMAX:
    case IR_VPSMAX:
        return sa > sb ? a : b;
    case IR_VUMIN:
    case IR_VPUMIN:
        return a < b ? a : b;
    case IR_VUMAX:
    case IR_VPUMAX:
        return a > b ? a : b;
    case IR_VQADDS:
        return sat_s((__int128)sa + sb, w);
    case IR_VQADDU:
        return sat_u(ua + ub, w);
    case IR_VQSUBS:
        return sat_s((__int128)sa - sb, w);
    case IR_VQSUBU:
        return sat_u(ua - ub, w);
    case IR_VHADDS:
        return (uint64_t)(((__int128)sa + sb + rnd) >> 1);
    case IR_VHADDU:
        return (uint64_t)((ua + ub + rnd) >> 1);
    case IR_VHSUBS:
        return (uint64_t)(((__int128)sa - sb) >> 1);
    case IR_VHSUBU:
        return (uint64_t)((ua - ub) >> 1);
    case IR_VABDS:
        return sa > sb ? a - b : b - a;
    case IR_VABDU:
        return a > b ? a - b : b - a;
    case IR_VCMPEQ:
        return a == b ? UINT64_MAX : 0;
    case IR_VCMPGTS:
        return sa > sb ? UINT64_MAX : 0;
    case IR_VCMPGES:
        return sa >= sb ? UINT64_MAX : 0;
    case IR_VCMPGTU:
        return a > b ? UINT64_MAX : 0;
    case IR_VCMPGEU:
        return a >= b ? UINT64_MAX : 0;
    case IR_VTST:
        return a & b ? UINT64_MAX : 0;
    case IR_VSHLI ... IR_VRSARI:
        return shift_imm(o, a, w);
    case IR_VSHLV:
        return shift_by(a, (int8_t)b, false, w);
    case IR_VSALV:
        return shift_by(a, (int8_t)b, true, w);
    case IR_VCNT:
        return (uint64_t)__builtin_popcountll(a);
    case IR_VCLZ:
        return a ? (uint64_t)__builtin_clzll(a) - (64 - w) : w;
    case IR_VRBIT:
        return bitrev(a, 8);
    default: /* VQDMULH */
        return qdmulh(sa, sb, o->attr & 4, w);
    }
}

static uint64_t narrow(unsigned op, uint64_t a, unsigned w) /* w: of the source */
{
    switch (op) {
    case IR_VNARROWSS:
        return sat_s(sx(a, w), w / 2);
    case IR_VNARROWSU:
        return sat_u(sx(a, w), w / 2);
    case IR_VNARROWUU:
        return sat_u((__int128)a, w / 2);
    default:
        return a;
    }
}

static void vec_bits(const struct ir_op *o, const vec *a, vec *r)
{
    for (unsigned i = 0; i < 2; i++) {
        uint64_t x = a[0].d[i], y = a[1].d[i];

        switch (o->op) {
        case IR_VAND:
            r->d[i] = x & y;
            break;
        case IR_VOR:
            r->d[i] = x | y;
            break;
        case IR_VXOR:
            r->d[i] = x ^ y;
            break;
        case IR_VANDN:
            r->d[i] = x & ~y;
            break;
        case IR_VNOT:
            r->d[i] = ~x;
            break;
        default:
            r->d[i] = (x & y) | (~x & a[2].d[i]);
            break;
        }
    }
}

/* Lanes moved between places. */
static void permute(const struct ir_op *o, const vec *a, vec *r)
{
    unsigned l = o->attr & 3, n = 16u >> l, h = n / 2, group;

    for (unsigned i = 0; i < n; i++) {
        const vec *from = a;
        unsigned at = i;

        switch (o->op) {
        case IR_VZIP1:
        case IR_VZIP2:
            from = &a[i & 1];
            at = i / 2 + (o->op == IR_VZIP2 ? h : 0);
            break;
        case IR_VUZP1:
        case IR_VUZP2:
            from = &a[i >= h];
            at = 2 * (i % h) + (o->op == IR_VUZP2);
            break;
        case IR_VTRN1:
        case IR_VTRN2:
            from = &a[i & 1];
            at = (i & ~1u) + (o->op == IR_VTRN2);
            break;
        case IR_VREV:
            group = (2u << (o->attr >> 2 & 3)) >> l;
            at = (i / group) * group + (group - 1 - i % group);
            break;
        case IR_VDUPL:
            at = (unsigned)o->imm;
            break;
        }
        set_lane(r, l, i, lane(from, l, at));
    }
}

static void pairwise(const struct ir_op *o, const vec *a, vec *r)
{
    unsigned l = o->attr & 3, n = 16u >> l, h = n / 2;

    for (unsigned i = 0; i < n; i++) {
        const vec *v = &a[i >= h];
        unsigned k = 2 * (i % h);

        set_lane(r, l, i, lane_op(o, lane(v, l, k), lane(v, l, k + 1), 8u << l));
    }
}

static void resize(const struct ir_op *o, const vec *a, vec *r)
{
    unsigned l = o->attr & 3, w = 8u << l, n = 8u >> l, base = o->attr & 4 ? n : 0;

    *r = (vec){.d = {0, 0}};
    if (o->op >= IR_VNARROW && o->op <= IR_VNARROWUU) {
        for (unsigned i = 0; i < 16u >> l; i++)
            set_lane(r, l - 1, i, narrow(o->op, lane(a, l, i), w));
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        uint64_t x = lane(a, l, base + i), y = lane(a + 1, l, base + i);

        switch (o->op) {
        case IR_VWIDENS:
            x = (uint64_t)sx(x, w);
            break;
        case IR_VMULLS:
            x = (uint64_t)(sx(x, w) * sx(y, w));
            break;
        case IR_VMULLU:
            x *= y;
            break;
        }
        set_lane(r, l + 1, i, x);
    }
}

static void bytes_op(const struct ir_op *o, const vec *a, vec *r)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned k = (unsigned)o->imm + i;

        if (o->op == IR_VEXT)
            r->b[i] = k < 16 ? a[0].b[k] : k < 32 ? a[1].b[k - 16] : 0;
        else
            r->b[i] = a[1].b[i] < 16 ? a[0].b[a[1].b[i]] : 0;
    }
}

__attribute__((target("aes,sse4.1"))) static void aes(unsigned op, const vec *a, vec *r)
{
    __m128i x = _mm_loadu_si128((const __m128i *)a), z = _mm_setzero_si128();

    switch (op) {
    case IR_VAESENC:
        x = _mm_aesenclast_si128(x, z);
        break;
    case IR_VAESDEC:
        x = _mm_aesdeclast_si128(x, z);
        break;
    case IR_VAESMC:
        x = _mm_aesenc_si128(_mm_aesdeclast_si128(x, z), z);
        break;
    default:
        x = _mm_aesimc_si128(x);
        break;
    }
    _mm_storeu_si128((__m128i *)r, x);
}

static uint64_t fp_lane(const struct ir_op *o, enum ir_nan rule, uint64_t a, uint64_t b, uint64_t c, bool d)
{
    switch (o->op) {
    case IR_VFADD:
    case IR_VFPADD:
        return arith(IR_FADD, rule, a, b, d);
    case IR_VFSUB:
        return arith(IR_FSUB, rule, a, b, d);
    case IR_VFMUL:
        return arith(IR_FMUL, rule, a, b, d);
    case IR_VFDIV:
        return arith(IR_FDIV, rule, a, b, d);
    case IR_VFSQRT:
        return arith(IR_FSQRT, rule, a, b, d);
    case IR_VFMA:
        return fma_op(o->attr >> 2 & 3, rule, a, b, c, d);
    case IR_VFMIN:
    case IR_VFMAX:
        return minmax(o->op == IR_VFMAX, o->attr >> 2 & 1, rule, a, b, d);
    case IR_VFNEG:
        return a ^ sign[d];
    case IR_VFABS:
        return a & ~sign[d];
    case IR_VFCMP:
        return fcompare(o->attr >> 4 & 7, o->attr & 8, a, b, d) ? UINT64_MAX : 0;
    case IR_VFTOI:
        return ftoi(a, d, o->attr >> 4 & 7, o->attr & 8, false, d ? 64 : 32);
    case IR_VITOF:
        return itof(a, d ? 64 : 32, o->attr & 8, IR_RDYN, d);
    default: /* VFROUND */
        return fround(a, d, o->attr >> 4 & 7, o->attr & 8, rule);
    }
}

static void fp_vec(const struct ir_op *o, enum ir_nan rule, const vec *a, vec *r)
{
    unsigned l = o->attr & 3, n = 16u >> l;

    if (o->op == IR_VFCVTL || o->op == IR_VFCVTN) {
        *r = (vec){.d = {0, 0}};
        for (unsigned i = 0; i < 2; i++)
            if (o->op == IR_VFCVTL)
                r->d[i] = fconvert(a->s[i + (o->attr & 4 ? 2 : 0)], true, IR_RDYN, rule);
            else
                r->s[i] = (uint32_t)fconvert(a->d[i], false, IR_RDYN, rule);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        const vec *v = a;
        unsigned k = i, m = i;

        if (o->op == IR_VFPADD) {
            v = &a[i >= n / 2];
            k = 2 * (i % (n / 2));
            m = k + 1;
        }
        set_lane(
            r, l, i,
            fp_lane(o, rule, lane(v, l, k), lane(o->op == IR_VFPADD ? v : a + 1, l, m), lane(a + 2, l, i), l == IR_D));
    }
}

static void vec_op(const struct ir_op *o, enum ir_nan rule, const vec *a, vec *r)
{
    unsigned l = o->attr & 3, n = 16u >> l, w = 8u << l;
    unsigned __int128 p;
    uint64_t sum = 0;

    switch (o->op) {
    case IR_VAND ... IR_VBSL:
        vec_bits(o, a, r);
        return;
    case IR_VLOW:
        *r = (vec){.d = {a->d[0], 0}};
        return;
    case IR_VNARROW ... IR_VWIDENU:
    case IR_VMULLU:
    case IR_VMULLS:
        resize(o, a, r);
        return;
    case IR_VPADD ... IR_VPUMIN:
        pairwise(o, a, r);
        return;
    case IR_VZIP1 ... IR_VTRN2:
    case IR_VREV:
    case IR_VDUPL:
        permute(o, a, r);
        return;
    case IR_VEXT:
    case IR_VTBL:
        bytes_op(o, a, r);
        return;
    case IR_VDUP:
        for (unsigned i = 0; i < n; i++)
            set_lane(r, l, i, a->d[0]);
        return;
    case IR_VINS:
        *r = a[0];
        set_lane(r, l, (unsigned)o->imm, a[1].d[0]);
        return;
    case IR_VINSL:
        *r = a[0];
        set_lane(r, l, (unsigned)o->imm & 15, lane(&a[1], l, (unsigned)(o->imm >> 4)));
        return;
    case IR_VADDV:
        for (unsigned i = 0; i < n; i++)
            sum += lane(a, l, i);
        *r = (vec){.d = {sum & mask_of(w), 0}};
        return;
    case IR_VCLMULL:
        p = clmul(a[0].d[o->attr & 1], a[1].d[o->attr & 1]);
        *r = (vec){.d = {(uint64_t)p, (uint64_t)(p >> 64)}};
        return;
    case IR_VAESENC ... IR_VAESIMC:
        aes(o->op, a, r);
        return;
    case IR_VFADD ... IR_VFMUL:
        fp_vec(o, o->attr & 16 ? IR_NAN_DEFAULT : rule, a, r);
        return;
    case IR_VFDIV ... IR_VFCVTN:
        fp_vec(o, rule, a, r);
        return;
    default:
        for (unsigned i = 0; i < n; i++)
            set_lane(r, l, i, lane_op(o, lane(a, l, i), lane(a + 1, l, i), w));
        return;
    }
}

void ir_eval_op(const struct ir_op *o, enum ir_nan rule, const union ir_vec *a, union ir_vec *r)
{
    unsigned w = bits_of((enum ir_type)o->t), l = o->attr & 3;
    vec out = {.d = {0, 0}};

    switch (o->op) {
    case IR_CONST:
        out.d[0] = (uint64_t)o->imm;
        break;
    case IR_VCONST:
        out.d[0] = (uint64_t)o->imm;
        out.d[1] = o->attr ? (uint64_t)o->imm : 0;
        break;
    case IR_ADD ... IR_BFI:
    case IR_CRC32C ... IR_CLMULH:
        out.d[0] = int_op(o, a, w) & mask_of(w);
        break;
    case IR_TRUNC:
    case IR_ZEXT:
        out.d[0] = a->s[0];
        break;
    case IR_SEXT:
        out.d[0] = (uint64_t)(int64_t)(int32_t)a->s[0];
        break;
    case IR_CMP: /* imm2: width of the operands, set by who calls */
        out.d[0] = compare(o->attr, a[0].d[0], a[1].d[0], 64);
        break;
    case IR_SELECT:
        out = a[0].s[0] ? a[1] : a[2];
        break;
    case IR_FCMP:
    case IR_FCLASS:
    case IR_FTOI:
    case IR_IMOV_F:
    case IR_VGETU:
    case IR_VGETS:
    case IR_VMSKB:
        if (o->op == IR_FCMP) /* attr & 16: F64, set by who calls */
            out.d[0] = fcompare(o->attr & 7, o->attr & 8, a[0].d[0] & mask_of(o->attr & 16 ? 64 : 32),
                                a[1].d[0] & mask_of(o->attr & 16 ? 64 : 32), o->attr & 16);
        else if (o->op == IR_FCLASS)
            out.d[0] = fclass(a->d[0] & mask_of(o->attr ? 64 : 32), o->attr);
        else if (o->op == IR_FTOI)
            out.d[0] = ftoi(a->d[0] & mask_of(o->attr & 64 ? 64 : 32), o->attr & 64, o->attr & 7, o->attr & 8,
                            o->attr & 16, w);
        else if (o->op == IR_IMOV_F)
            out.d[0] = a->d[0] & mask_of(w);
        else if (o->op == IR_VGETU)
            out.d[0] = lane(a, l, (unsigned)o->imm);
        else if (o->op == IR_VGETS)
            out.d[0] = (uint64_t)sx(lane(a, l, (unsigned)o->imm), 8u << l) & mask_of(w);
        else
            for (unsigned i = 0; i < 16; i++)
                out.d[0] |= (uint64_t)(a->b[i] >> 7) << i;
        break;
    case IR_VFSMALL:
        for (unsigned i = 0; i < 8; i++) {
            uint32_t m = a[i / 4].s[i % 4] << 1;

            out.d[0] |= (uint64_t)(m && m < 0x40000000) << i % 4;
        }
        break;
    case IR_VFLOW:
        out.d[0] = a->d[0] & mask_of(o->attr ? 64 : 32);
        break;
    case IR_FBOX:
        out.d[0] = a->s[0] | (uint64_t)UINT32_MAX << 32;
        break;
    case IR_FADD ... IR_FCOPYSIGN:
    case IR_FCVT:
    case IR_ITOF:
    case IR_FROUND:
    case IR_FMOV_I:
    case IR_FLOW:
    case IR_FUNBOX:
        out.d[0] = fp_op(o, rule, a);
        break;
    default:
        vec_op(o, rule, a, &out);
        break;
    }
    *r = out;
}
