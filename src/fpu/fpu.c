/* Soft-float, see fpu.h. Every finite value is taken apart into a 64-bit significand with its top bit set and a power
 * of two; sums and products are made in 128 bits, exact or with a sticky last bit, and rounded once. */
#include "fpu/fpu.h"

typedef unsigned __int128 u128;
const struct fpu_fmt fpu_h = {5, 10}, fpu_s = {8, 23}, fpu_d = {11, 52};

enum cls { ZERO, NORM, INF, QNAN, SNAN };
struct num {
    enum cls cls;
    bool sign;
    int exp;      /* value = sig * 2^(exp - 63) */
    uint64_t sig; /* top bit set for NORM */
};

static int bias(struct fpu_fmt f)
{
    return (1 << (f.ebits - 1)) - 1;
}
static uint64_t fmask(struct fpu_fmt f)
{
    return (UINT64_C(1) << f.fbits) - 1;
}
static uint64_t emax(struct fpu_fmt f) /* the exponent field of infinities */
{
    return (UINT64_C(1) << f.ebits) - 1;
}
static uint64_t signed_zero(struct fpu_fmt f, bool sign)
{
    return sign ? fpu_signbit(f) : 0;
}
static uint64_t inf(struct fpu_fmt f, bool sign)
{
    return signed_zero(f, sign) | emax(f) << f.fbits;
}

static struct num unpack_alt(struct fpu_env *e, struct fpu_fmt f, uint64_t a, bool alt, bool flush)
{
    uint64_t exp = a >> f.fbits & emax(f), frac = a & fmask(f);
    struct num n = {NORM, a >> (f.fbits + f.ebits) & 1, 0, 0};

    if (exp == emax(f) && !alt) {
        n.cls = !frac ? INF : frac >> (f.fbits - 1) ? QNAN : SNAN;
        n.sig = frac;
    } else if (exp) {
        n.exp = (int)exp - bias(f);
        n.sig = (frac | UINT64_C(1) << f.fbits) << (63 - f.fbits);
    } else if (!frac) {
        n.cls = ZERO;
    } else if (flush) {
        n.cls = ZERO;
        if (f.fbits != fpu_h.fbits)
            e->flags |= FPU_DENORMAL;
    } else {
        int lead = __builtin_clzll(frac);

        n.sig = frac << lead;
        n.exp = 1 - bias(f) + (63 - f.fbits) - lead;
    }
    return n;
}

static bool flushes(const struct fpu_env *e, struct fpu_fmt f)
{
    return f.fbits == fpu_h.fbits ? e->flush_h : e->flush;
}

static struct num unpack(struct fpu_env *e, struct fpu_fmt f, uint64_t a)
{
    return unpack_alt(e, f, a, false, flushes(e, f));
}

/* sig >> n rounded; *inexact is set when bits were lost. */
static uint64_t shift_round(uint64_t sig, unsigned n, bool sign, enum fpu_round r, bool *inexact)
{
    uint64_t q, rest, half;
    bool up = false;

    if (n > 64) {
        sig = sig != 0;
        n = 2;
    }
    if (!n)
        return sig;
    q = n == 64 ? 0 : sig >> n;
    rest = n == 64 ? sig : sig & ((UINT64_C(1) << n) - 1);
    half = UINT64_C(1) << (n - 1);
    if (!rest)
        return q;
    *inexact = true;
    switch (r) {
    case FPU_RNE:
        up = rest > half || (rest == half && (q & 1));
        break;
    case FPU_RNA:
        up = rest >= half;
        break;
    case FPU_RUP:
        up = !sign;
        break;
    case FPU_RDN:
        up = sign;
        break;
    case FPU_RODD:
        q |= 1;
        break;
    default:
        break;
    }
    return q + up;
}

static uint64_t overflow(struct fpu_env *e, struct fpu_fmt f, bool sign, enum fpu_round r)
{
    bool to_inf = r == FPU_RNE || r == FPU_RNA || (r == FPU_RUP && !sign) || (r == FPU_RDN && sign);

    e->flags |= FPU_OVERFLOW | FPU_INEXACT;
    return to_inf ? inf(f, sign) : inf(f, sign) - 1;
}

static uint64_t pack_alt(struct fpu_env *e, struct fpu_fmt f, bool sign, int exp, uint64_t sig, enum fpu_round r,
                         bool alt, bool flush)
{
    int emin = 1 - bias(f), field = exp + bias(f);
    unsigned drop = 63u - f.fbits;
    bool inexact = false, tiny = exp < emin;
    uint64_t q;

    if (tiny) {
        if (flush) {
            e->flags |= FPU_UNDERFLOW;
            return signed_zero(f, sign);
        }
        if (e->tiny_after && exp == emin - 1) {
            bool ignored = false;

            tiny = shift_round(sig, drop, sign, r, &ignored) >> (f.fbits + 1) == 0;
        }
        drop += (unsigned)(emin - exp);
        field = 1;
    }
    q = shift_round(sig, drop, sign, r, &inexact);
    q += (uint64_t)(field - 1) << f.fbits; /* a carry moves into the exponent by itself */
    if (alt) {
        if (q >> (f.fbits + f.ebits)) {
            e->flags |= FPU_INVALID;
            return signed_zero(f, sign) | (fpu_signbit(f) - 1);
        }
    } else if (field >= (int)emax(f) || q >= emax(f) << f.fbits) {
        return overflow(e, f, sign, r);
    }
    if (inexact)
        e->flags |= FPU_INEXACT | (tiny ? FPU_UNDERFLOW : 0);
    return q | signed_zero(f, sign);
}

static uint64_t pack(struct fpu_env *e, struct fpu_fmt f, bool sign, int exp, uint64_t sig)
{
    return pack_alt(e, f, sign, exp, sig, e->round, false, flushes(e, f));
}

/* From 128 bits: value = sig * 2^(exp - 127), any sig but zero. */
static uint64_t pack128(struct fpu_env *e, struct fpu_fmt f, bool sign, int exp, u128 sig)
{
    int lead = sig >> 64 ? __builtin_clzll((uint64_t)(sig >> 64)) : 64 + __builtin_clzll((uint64_t)sig);

    sig <<= lead;
    return pack(e, f, sign, exp - lead, (uint64_t)(sig >> 64) | ((uint64_t)sig != 0));
}

/* ---- NaNs ---- */
static uint64_t quiet(struct fpu_env *e, struct fpu_fmt f, uint64_t a)
{
    return e->default_nan ? fpu_nan(f) : a | UINT64_C(1) << (f.fbits - 1);
}

static uint64_t invalid(struct fpu_env *e, struct fpu_fmt f)
{
    e->flags |= FPU_INVALID;
    return fpu_nan(f);
}

static bool is_nan(struct num n)
{
    return n.cls >= QNAN;
}

/* True: the result is a NaN, in *r: the first signalling one, else the first quiet one. */
static bool nans(struct fpu_env *e, struct fpu_fmt f, const struct num *n, const uint64_t *raw, int nr, uint64_t *r)
{
    for (int i = 0; i < nr; i++)
        if (n[i].cls == SNAN) {
            e->flags |= FPU_INVALID;
            *r = quiet(e, f, raw[i]);
            return true;
        }
    for (int i = 0; i < nr; i++)
        if (n[i].cls == QNAN) {
            *r = quiet(e, f, raw[i]);
            return true;
        }
    return false;
}

static bool nans2(struct fpu_env *e, struct fpu_fmt f, struct num a, struct num b, uint64_t ra, uint64_t rb,
                  uint64_t *r)
{
    return nans(e, f, (struct num[]){a, b}, (uint64_t[]){ra, rb}, 2, r);
}

/* ---- sums and products ---- */
static u128 shr_sticky(u128 v, int n)
{
    if (n <= 0)
        return v;
    if (n > 127)
        return v != 0;
    return v >> n | ((v & (((u128)1 << n) - 1)) != 0);
}

/* Two finite addends, values sig * 2^(exp - 126) with sig < 2^127. */
static uint64_t sum(struct fpu_env *e, struct fpu_fmt f, bool sa, int ea, u128 a, bool sb, int eb, u128 b)
{
    int ex = ea > eb ? ea : eb;

    if (!a)
        ex = eb;
    if (!b)
        ex = ea;
    a = shr_sticky(a, a ? ex - ea : 0);
    b = shr_sticky(b, b ? ex - eb : 0);
    if (sa == sb) {
        a += b;
    } else if (a >= b) {
        a -= b;
    } else {
        a = b - a;
        sa = sb;
    }
    if (!a) /* exact zero: both signs equal, else plus, or minus when rounding down */
        return signed_zero(f, sa == sb ? sa : e->round == FPU_RDN);
    return pack128(e, f, sa, ex + 1, a);
}

static uint64_t add(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, uint64_t rb, bool neg)
{
    struct num a = unpack(e, f, ra), b = unpack(e, f, rb);
    uint64_t r;

    if (nans2(e, f, a, b, ra, rb, &r))
        return r;
    b.sign ^= neg;
    if (a.cls == INF && b.cls == INF && a.sign != b.sign)
        return invalid(e, f);
    if (a.cls == INF || b.cls == INF)
        return inf(f, a.cls == INF ? a.sign : b.sign);
    if (a.cls == ZERO && b.cls == ZERO)
        return signed_zero(f, a.sign == b.sign ? a.sign : e->round == FPU_RDN);
    return sum(e, f, a.sign, a.exp, (u128)a.sig << 63, b.sign, b.exp, (u128)b.sig << 63);
}

uint64_t fpu_add(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b)
{
    return add(e, f, a, b, false);
}

uint64_t fpu_sub(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b)
{
    return add(e, f, a, b, true);
}

static uint64_t mul(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, uint64_t rb, bool x)
{
    struct num a = unpack(e, f, ra), b = unpack(e, f, rb);
    bool sign = a.sign != b.sign;
    uint64_t r;

    if (nans2(e, f, a, b, ra, rb, &r))
        return r;
    if ((a.cls == INF && b.cls == ZERO) || (a.cls == ZERO && b.cls == INF))
        return x ? signed_zero(f, sign) | (uint64_t)(bias(f) + 1) << f.fbits : invalid(e, f);
    if (a.cls == INF || b.cls == INF)
        return inf(f, sign);
    if (a.cls == ZERO || b.cls == ZERO)
        return signed_zero(f, sign);
    return pack128(e, f, sign, a.exp + b.exp + 1, (u128)a.sig * b.sig);
}

uint64_t fpu_mul(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b)
{
    return mul(e, f, a, b, false);
}

uint64_t fpu_mulx(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b)
{
    return mul(e, f, a, b, true);
}

/* halve: the result is divided by two before rounding (FRSQRTS). */
static uint64_t fma_half(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, uint64_t rb, uint64_t rc, bool halve)
{
    struct num a = unpack(e, f, ra), b = unpack(e, f, rb), c = unpack(e, f, rc);
    bool sign = a.sign != b.sign;
    bool bad = (a.cls == INF && b.cls == ZERO) || (a.cls == ZERO && b.cls == INF);
    uint64_t r;

    if (bad && c.cls == QNAN)
        return invalid(e, f);
    if (nans(e, f, (struct num[]){c, a, b}, (uint64_t[]){rc, ra, rb}, 3, &r))
        return r;
    if (bad)
        return invalid(e, f);
    if (a.cls == INF || b.cls == INF)
        return c.cls == INF && c.sign != sign ? invalid(e, f) : inf(f, sign);
    if (c.cls == INF)
        return inf(f, c.sign);
    if (a.cls == ZERO || b.cls == ZERO) {
        if (c.cls == ZERO)
            return signed_zero(f, sign == c.sign ? sign : e->round == FPU_RDN);
        return pack(e, f, c.sign, c.exp - halve, c.sig);
    }
    return sum(e, f, sign, a.exp + b.exp + 1 - halve, (u128)a.sig * b.sig >> 1, c.sign, c.exp - halve,
               c.cls == ZERO ? 0 : (u128)c.sig << 63);
}

uint64_t fpu_fma(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b, uint64_t c)
{
    return fma_half(e, f, a, b, c, false);
}

uint64_t fpu_div(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, uint64_t rb)
{
    struct num a = unpack(e, f, ra), b = unpack(e, f, rb);
    bool sign = a.sign != b.sign;
    u128 n, q;
    uint64_t r;

    if (nans2(e, f, a, b, ra, rb, &r))
        return r;
    if ((a.cls == INF && b.cls == INF) || (a.cls == ZERO && b.cls == ZERO))
        return invalid(e, f);
    if (a.cls == INF || b.cls == ZERO) {
        if (a.cls != INF)
            e->flags |= FPU_DIVZERO;
        return inf(f, sign);
    }
    if (a.cls == ZERO || b.cls == INF)
        return signed_zero(f, sign);
    n = (u128)a.sig << 63;
    q = n / b.sig;
    return pack128(e, f, sign, a.exp - b.exp + 63, q << 1 | (q * b.sig != n));
}

uint64_t fpu_sqrt(struct fpu_env *e, struct fpu_fmt f, uint64_t ra)
{
    struct num a = unpack(e, f, ra);
    u128 v, root = 0;
    uint64_t r;

    if (nans(e, f, &a, &ra, 1, &r))
        return r;
    if (a.cls == ZERO)
        return signed_zero(f, a.sign);
    if (a.sign)
        return invalid(e, f);
    if (a.cls == INF)
        return inf(f, false);
    /* v = sig * 2^62 or 2^63, so that v * 2^even is the value. */
    v = (u128)a.sig << (a.exp & 1 ? 62 : 63);
    for (u128 bit = (u128)1 << 126; bit; bit >>= 2) {
        if (v >= root + bit) {
            v -= root + bit;
            root = root >> 1 | bit;
        } else {
            root >>= 1;
        }
    }
    return pack128(e, f, false, a.exp & 1 ? (a.exp - 1) / 2 + 64 : a.exp / 2 + 63, root << 1 | (v != 0));
}

/* ---- choosing and comparing ---- */
static int order(struct num a, struct num b)
{
    int r;

    if (a.cls == ZERO && b.cls == ZERO)
        return 0;
    if (a.cls == ZERO)
        return b.sign ? 1 : -1;
    if (b.cls == ZERO || a.sign != b.sign)
        return a.sign ? -1 : 1;
    if (a.cls == INF || b.cls == INF)
        r = (a.cls == INF) - (b.cls == INF);
    else if (a.exp != b.exp)
        r = a.exp > b.exp ? 1 : -1;
    else
        r = a.sig > b.sig ? 1 : a.sig < b.sig ? -1 : 0;
    return a.sign ? -r : r;
}

uint64_t fpu_minmax(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, uint64_t rb, bool max, bool num)
{
    struct num a = unpack(e, f, ra), b = unpack(e, f, rb);
    uint64_t r;
    int o;

    if (num && a.cls == QNAN && !is_nan(b))
        ra = inf(f, max), a = unpack(e, f, ra);
    else if (num && b.cls == QNAN && !is_nan(a))
        rb = inf(f, max), b = unpack(e, f, rb);
    if (nans2(e, f, a, b, ra, rb, &r))
        return r;
    if (a.cls == ZERO && b.cls == ZERO)
        return signed_zero(f, max ? a.sign && b.sign : a.sign || b.sign);
    o = order(a, b);
    if (max ? o < 0 : o > 0)
        a = b, ra = rb;
    return a.cls == ZERO ? signed_zero(f, a.sign) : ra;
}

enum fpu_order fpu_cmp(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, uint64_t rb, bool signal)
{
    struct num a = unpack(e, f, ra), b = unpack(e, f, rb);
    int o;

    if (is_nan(a) || is_nan(b)) {
        if (signal || a.cls == SNAN || b.cls == SNAN)
            e->flags |= FPU_INVALID;
        return FPU_UNORDERED;
    }
    o = order(a, b);
    return o < 0 ? FPU_LESS : o > 0 ? FPU_GREATER : FPU_EQUAL;
}

/* ---- integers ---- */
/* |a| * 2^frac rounded to an integer; UINT64_MAX with *huge when it has more than 64 bits. */
static uint64_t magnitude(struct num a, unsigned frac, enum fpu_round r, bool *inexact, bool *huge)
{
    int exp = a.exp + (int)frac;
    uint64_t v;

    if (exp > 63) {
        *huge = true;
        return UINT64_MAX;
    }
    if (exp == 63)
        return a.sig;
    v = shift_round(a.sig, exp < -2 ? 66u : (unsigned)(63 - exp), a.sign, r, inexact);
    return v;
}

uint64_t fpu_to_int(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, unsigned frac, unsigned bits, bool is_signed,
                    enum fpu_round r)
{
    struct num a = unpack(e, f, ra);
    bool inexact = false, huge = false;
    uint64_t v, top, all = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;

    if (is_nan(a)) {
        e->flags |= FPU_INVALID;
        return 0;
    }
    if (a.cls == ZERO)
        return 0;
    if (a.cls == INF)
        huge = true, v = UINT64_MAX;
    else
        v = magnitude(a, frac, r, &inexact, &huge);
    top = is_signed ? (all >> 1) + a.sign : a.sign ? 0 : all; /* largest magnitude that fits */
    if (huge || v > top) {
        e->flags |= FPU_INVALID;
        v = top;
    } else if (inexact) {
        e->flags |= FPU_INEXACT;
    }
    return (a.sign ? -v : v) & all;
}

uint64_t fpu_from_int(struct fpu_env *e, struct fpu_fmt f, uint64_t v, unsigned frac, bool is_signed)
{
    bool sign = is_signed && v >> 63;
    int lead;

    if (!v)
        return 0;
    if (sign)
        v = -v;
    lead = __builtin_clzll(v);
    return pack_alt(e, f, sign, 63 - lead - (int)frac, v << lead, e->round, false, flushes(e, f));
}

static uint64_t rint_num(struct fpu_env *e, struct fpu_fmt f, struct num a, uint64_t ra, enum fpu_round r,
                         bool *inexact)
{
    bool huge = false;
    uint64_t v;
    int lead;

    if (a.exp >= (int)f.fbits)
        return ra;
    v = magnitude(a, 0, r, inexact, &huge);
    if (!v)
        return signed_zero(f, a.sign);
    lead = __builtin_clzll(v);
    return pack_alt(e, f, a.sign, 63 - lead, v << lead, FPU_RTZ, false, false);
}

uint64_t fpu_rint(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, enum fpu_round r, bool exact)
{
    struct num a = unpack(e, f, ra);
    bool inexact = false;
    uint64_t v;

    if (nans(e, f, &a, &ra, 1, &v))
        return v;
    if (a.cls == INF)
        return ra;
    if (a.cls == ZERO)
        return signed_zero(f, a.sign);
    v = rint_num(e, f, a, ra, r, &inexact);
    if (inexact && exact)
        e->flags |= FPU_INEXACT;
    return v;
}

uint64_t fpu_rint_in(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, enum fpu_round r, unsigned bits)
{
    struct num a = unpack(e, f, ra), v;
    uint64_t limit = fpu_signbit(f) | (uint64_t)(bias(f) + (int)bits - 1) << f.fbits, res;
    bool inexact = false;

    if (a.cls == ZERO)
        return signed_zero(f, a.sign);
    if (is_nan(a) || a.cls == INF) {
        e->flags |= FPU_INVALID;
        return limit;
    }
    res = rint_num(e, f, a, ra, r, &inexact);
    v = unpack(e, f, res);
    if (v.cls == NORM && v.exp >= (int)bits - 1 && res != limit) {
        e->flags |= FPU_INVALID;
        return limit;
    }
    if (inexact)
        e->flags |= FPU_INEXACT;
    return res;
}

/* ---- between formats ---- */
static uint64_t cvt_nan(struct fpu_env *e, struct fpu_fmt from, struct fpu_fmt to, struct num a, bool alt)
{
    uint64_t frac = a.sig;

    if (a.cls == SNAN)
        e->flags |= FPU_INVALID;
    if (alt) {
        e->flags |= FPU_INVALID;
        return signed_zero(to, a.sign);
    }
    if (e->default_nan)
        return fpu_nan(to);
    frac = to.fbits > from.fbits ? frac << (to.fbits - from.fbits) : frac >> (from.fbits - to.fbits);
    return signed_zero(to, a.sign) | fpu_nan(to) | frac;
}

uint64_t fpu_cvt(struct fpu_env *e, struct fpu_fmt from, struct fpu_fmt to, uint64_t ra, enum fpu_round r)
{
    bool alt_in = e->alt_half && from.fbits == fpu_h.fbits, alt_out = e->alt_half && to.fbits == fpu_h.fbits;
    struct num a = unpack_alt(e, from, ra, alt_in, from.fbits != fpu_h.fbits && e->flush);

    if (is_nan(a))
        return cvt_nan(e, from, to, a, alt_out);
    if (a.cls == INF) {
        if (!alt_out)
            return inf(to, a.sign);
        e->flags |= FPU_INVALID;
        return signed_zero(to, a.sign) | (fpu_signbit(to) - 1);
    }
    if (a.cls == ZERO)
        return signed_zero(to, a.sign);
    return pack_alt(e, to, a.sign, a.exp, a.sig, r, alt_out, to.fbits != fpu_h.fbits && e->flush);
}

/* ---- Arm's reciprocals ---- */
static unsigned recip_estimate(unsigned a) /* 256..511: 9 bits of 0.5 .. 1 */
{
    unsigned b = (1u << 19) / (a * 2 + 1);

    return (b + 1) / 2; /* 256..511 */
}

static unsigned rsqrt_estimate(unsigned a) /* 128..511 */
{
    unsigned b = 512;

    if (a < 256)
        a = a * 2 + 1;
    else
        a = ((a >> 1 << 1) + 1) * 2;
    while (a * (b + 1) * (b + 1) < 1u << 28)
        b++;
    return (b + 1) / 2;
}

uint64_t fpu_recpe(struct fpu_env *e, struct fpu_fmt f, uint64_t ra)
{
    struct num a = unpack(e, f, ra);
    uint64_t r, sig;
    int exp;

    if (nans(e, f, &a, &ra, 1, &r))
        return r;
    if (a.cls == INF)
        return signed_zero(f, a.sign);
    if (a.cls == ZERO) {
        e->flags |= FPU_DIVZERO;
        return inf(f, a.sign);
    }
    if (a.exp < -bias(f) - 1) /* the reciprocal is too large */
        return overflow(e, f, a.sign, e->round);
    if (flushes(e, f) && a.exp >= bias(f) - 1) { /* it would be subnormal */
        e->flags |= FPU_UNDERFLOW;
        return signed_zero(f, a.sign);
    }
    sig = recip_estimate((unsigned)(a.sig >> 55)) & 0xff;
    exp = -1 - a.exp; /* of the estimate 1.sig */
    sig = (sig | 0x100) << 55;
    return pack_alt(&(struct fpu_env){.round = FPU_RTZ}, f, a.sign, exp, sig, FPU_RTZ, false, false);
}

uint64_t fpu_rsqrte(struct fpu_env *e, struct fpu_fmt f, uint64_t ra)
{
    struct num a = unpack(e, f, ra);
    uint64_t r, sig;
    int exp;

    if (nans(e, f, &a, &ra, 1, &r))
        return r;
    if (a.cls == ZERO) {
        e->flags |= FPU_DIVZERO;
        return inf(f, a.sign);
    }
    if (a.sign)
        return invalid(e, f);
    if (a.cls == INF)
        return 0;
    /* Even exponents: eight leading bits at half weight. */
    sig = rsqrt_estimate((unsigned)(a.sig >> (a.exp & 1 ? 55 : 56)));
    exp = a.exp & 1 ? -(a.exp + 1) / 2 : -a.exp / 2 - 1;
    return pack_alt(&(struct fpu_env){.round = FPU_RTZ}, f, false, exp,
                    (uint64_t)(sig & 0xff) << 55 | UINT64_C(1) << 63, FPU_RTZ, false, false);
}

uint64_t fpu_recpx(struct fpu_env *e, struct fpu_fmt f, uint64_t ra)
{
    struct num a = unpack(e, f, ra);
    uint64_t exp = ra >> f.fbits & emax(f), r;

    if (nans(e, f, &a, &ra, 1, &r))
        return r;
    return signed_zero(f, a.sign) | (a.cls == ZERO || !exp ? emax(f) - 1 : ~exp & emax(f)) << f.fbits;
}

static uint64_t step(struct fpu_env *e, struct fpu_fmt f, uint64_t ra, uint64_t rb, uint64_t c, bool halve)
{
    struct num a, b;
    uint64_t r;

    ra ^= fpu_signbit(f);
    a = unpack(e, f, ra);
    b = unpack(e, f, rb);
    if (nans2(e, f, a, b, ra, rb, &r))
        return r;
    if ((a.cls == INF && b.cls == ZERO) || (a.cls == ZERO && b.cls == INF))
        return c;
    return fma_half(e, f, ra, rb, c, halve);
}

uint64_t fpu_recps(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b)
{
    return step(e, f, a, b, (uint64_t)(bias(f) + 1) << f.fbits, false);
}

uint64_t fpu_rsqrts(struct fpu_env *e, struct fpu_fmt f, uint64_t a, uint64_t b)
{
    uint64_t three = (uint64_t)(bias(f) + 1) << f.fbits | UINT64_C(1) << (f.fbits - 1);
    struct num x = unpack(e, f, a), y = unpack(e, f, b);

    if ((x.cls == INF && y.cls == ZERO) || (x.cls == ZERO && y.cls == INF)) /* 1.5 */
        return (uint64_t)bias(f) << f.fbits | UINT64_C(1) << (f.fbits - 1);
    return step(e, f, a, b, three, true);
}

uint32_t fpu_urecpe(uint32_t a)
{
    return a >> 31 ? recip_estimate(a >> 23) << 23 : UINT32_MAX;
}

uint32_t fpu_ursqrte(uint32_t a)
{
    return a >> 30 ? rsqrt_estimate(a >> 23) << 23 : UINT32_MAX;
}
