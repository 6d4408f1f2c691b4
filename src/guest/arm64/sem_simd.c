/* Interpreter: Advanced SIMD on integers: arithmetic, shifts, narrowing and widening, saturation (Arm ARM C7.2). */
#include "guest/arm64/sem.h"
#include "guest/arm64/vec.h"

typedef __int128 i128;

/* Clamps to an element of the given size; QC when that changed it. */
static uint64_t sat(struct a64_cpu *c, i128 v, unsigned log2, bool uns)
{
    unsigned bits = 8u << log2;
    i128 hi = uns ? ((i128)1 << bits) - 1 : ((i128)1 << (bits - 1)) - 1, lo = uns ? 0 : -((i128)1 << (bits - 1));

    if (v > hi || v < lo) {
        c->fpsr |= A64_FPSR_QC;
        v = v > hi ? hi : lo;
    }
    return (uint64_t)v;
}

/* SSHL and its kin: shift by the signed low byte of b; rounds right shifts, saturates left ones. */
static uint64_t shift_var(struct a64_cpu *c, uint64_t a, uint64_t b, unsigned l, bool uns, bool round, bool satur)
{
    int n = (int8_t)b, bits = 8 << l;
    i128 v = uns ? (i128)a : (i128)(int64_t)a64_sx(a, l);

    if (n < 0) {
        n = -n;
        if (n > bits)
            n = bits + 1;
        if (round)
            v += (i128)1 << (n - 1);
        v >>= n;
        return satur ? sat(c, v, l, uns) : (uint64_t)v;
    }
    if (n >= bits)
        n = bits;
    if (satur && v && n == bits) /* beyond any range */
        v = v > 0 ? (i128)1 << 100 : -((i128)1 << 100);
    else
        v = (i128)((unsigned __int128)v << n);
    return satur ? sat(c, v, l, uns) : (uint64_t)v;
}

static uint64_t mulh(struct a64_cpu *c, uint64_t a, uint64_t b, unsigned l, bool round)
{
    i128 p = 2 * (i128)(int64_t)a64_sx(a, l) * (int64_t)a64_sx(b, l);

    if (round)
        p += (i128)1 << ((8 << l) - 1);
    return sat(c, p >> (8 << l), l, false);
}

static uint64_t rdm(struct a64_cpu *c, uint64_t a, uint64_t b, uint64_t d, unsigned l, bool sub)
{
    unsigned bits = 8u << l;
    i128 p = 2 * (i128)(int64_t)a64_sx(a, l) * (int64_t)a64_sx(b, l),
         acc = (i128)(int64_t)a64_sx(d, l) * ((i128)1 << bits);

    acc = (sub ? acc - p : acc + p) + ((i128)1 << (bits - 1));
    return sat(c, acc >> bits, l, false);
}

static uint64_t pmul8(uint64_t a, uint64_t b)
{
    uint64_t r = 0;

    for (int i = 0; i < 8; i++)
        if (b >> i & 1)
            r ^= a << i;
    return r;
}

static uint64_t ones(bool yes)
{
    return yes ? ~UINT64_C(0) : 0;
}

/* a, b, d: elements zero-extended; the result is cut to size by the caller. */
static uint64_t op2(struct a64_cpu *c, unsigned kind, uint64_t a, uint64_t b, uint64_t d, unsigned l)
{
    int64_t sa = (int64_t)a64_sx(a, l), sb = (int64_t)a64_sx(b, l);

    switch (kind) {
    case A64_ADD:
    case A64_ADDP:
        return a + b;
    case A64_SUB:
        return a - b;
    case A64_SHADD:
        return (uint64_t)((sa + sb) >> 1);
    case A64_UHADD:
        return (a + b) >> 1;
    case A64_SRHADD:
        return (uint64_t)((sa + sb + 1) >> 1);
    case A64_URHADD:
        return (a + b + 1) >> 1;
    case A64_SHSUB:
        return (uint64_t)((sa - sb) >> 1);
    case A64_UHSUB:
        return (uint64_t)((int64_t)(a - b) >> 1);
    case A64_SQADD:
        return sat(c, (i128)sa + sb, l, false);
    case A64_UQADD:
        return sat(c, (i128)a + b, l, true);
    case A64_SQSUB:
        return sat(c, (i128)sa - sb, l, false);
    case A64_UQSUB:
        return sat(c, (i128)a - b, l, true);
    case A64_CMGT:
        return ones(sa > sb);
    case A64_CMGE:
        return ones(sa >= sb);
    case A64_CMHI:
        return ones(a > b);
    case A64_CMHS:
        return ones(a >= b);
    case A64_CMEQ:
        return ones(a == b);
    case A64_CMTST:
        return ones(a & b);
    case A64_SMAX:
    case A64_SMAXP:
    case A64_SMAXV:
        return sa > sb ? a : b;
    case A64_SMIN:
    case A64_SMINP:
    case A64_SMINV:
        return sa < sb ? a : b;
    case A64_UMAX:
    case A64_UMAXP:
    case A64_UMAXV:
        return a > b ? a : b;
    case A64_UMIN:
    case A64_UMINP:
    case A64_UMINV:
        return a < b ? a : b;
    case A64_SABD:
        return (uint64_t)(sa > sb ? sa - sb : sb - sa);
    case A64_UABD:
        return a > b ? a - b : b - a;
    case A64_SABA:
        return d + (uint64_t)(sa > sb ? sa - sb : sb - sa);
    case A64_UABA:
        return d + (a > b ? a - b : b - a);
    case A64_MUL:
        return a * b;
    case A64_MLA:
        return d + a * b;
    case A64_MLS:
        return d - a * b;
    case A64_PMUL:
        return pmul8(a, b);
    case A64_SQDMULH:
        return mulh(c, a, b, l, false);
    case A64_SQRDMULH:
        return mulh(c, a, b, l, true);
    case A64_SQRDMLAH:
        return rdm(c, a, b, d, l, false);
    case A64_SQRDMLSH:
        return rdm(c, a, b, d, l, true);
    case A64_SSHL:
        return shift_var(c, a, b, l, false, false, false);
    case A64_USHL:
        return shift_var(c, a, b, l, true, false, false);
    case A64_SRSHL:
        return shift_var(c, a, b, l, false, true, false);
    case A64_URSHL:
        return shift_var(c, a, b, l, true, true, false);
    case A64_SQSHL:
        return shift_var(c, a, b, l, false, false, true);
    case A64_UQSHL:
        return shift_var(c, a, b, l, true, false, true);
    case A64_SQRSHL:
        return shift_var(c, a, b, l, false, true, true);
    default:
        return shift_var(c, a, b, l, true, true, true); /* UQRSHL */
    }
}

enum a64_res sem_simd_3same(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = a64_lanes(w, l);
    const union ir_vec *a = &c->v[A64_RN(w)], *b = &c->v[A64_RM(w)], *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++)
        a64_set_el(&r, i, l, op2(c, kind, a64_el(a, i, l), a64_el(b, i, l), a64_el(d, i, l), l));
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_simd_pair(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = a64_lanes(w, l);
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        const union ir_vec *s = &c->v[i < n / 2 ? A64_RN(w) : A64_RM(w)];
        unsigned at = 2 * i % n;

        a64_set_el(&r, i, l, op2(c, kind, a64_el(s, at, l), a64_el(s, at + 1, l), 0, l));
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_simd_logic(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    const union ir_vec *a = &c->v[A64_RN(w)], *b = &c->v[A64_RM(w)], *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < (A64_BIT(w, 30) ? 2u : 1u); i++) {
        uint64_t n = a->d[i], m = b->d[i], o = d->d[i];

        switch (kind) {
        case A64_AND:
            r.d[i] = n & m;
            break;
        case A64_BIC:
            r.d[i] = n & ~m;
            break;
        case A64_ORR:
            r.d[i] = n | m;
            break;
        case A64_ORN:
            r.d[i] = n | ~m;
            break;
        case A64_EOR:
            r.d[i] = n ^ m;
            break;
        case A64_BSL:
            r.d[i] = m ^ ((m ^ n) & o);
            break;
        case A64_BIT:
            r.d[i] = o ^ ((o ^ n) & m);
            break;
        default:
            r.d[i] = o ^ ((o ^ n) & ~m);
            break;
        }
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

/* Long operations on sign- or zero-extended elements of log2 l; the result has twice the size. */
static uint64_t wide_op(struct a64_cpu *c, unsigned kind, uint64_t a, uint64_t b, uint64_t d, unsigned l)
{
    i128 p = 2 * (i128)(int64_t)a * (int64_t)b;

    switch (kind) {
    case A64_SADDL:
    case A64_UADDL:
    case A64_SADDW:
    case A64_UADDW:
        return a + b;
    case A64_SSUBL:
    case A64_USUBL:
    case A64_SSUBW:
    case A64_USUBW:
        return a - b;
    case A64_SABAL:
        return d + ((int64_t)a > (int64_t)b ? a - b : b - a);
    case A64_UABAL:
        return d + (a > b ? a - b : b - a);
    case A64_SABDL:
        return (int64_t)a > (int64_t)b ? a - b : b - a;
    case A64_UABDL:
        return a > b ? a - b : b - a;
    case A64_SMLAL:
    case A64_UMLAL:
        return d + a * b;
    case A64_SMLSL:
    case A64_UMLSL:
        return d - a * b;
    case A64_SMULL:
    case A64_UMULL:
        return a * b;
    case A64_PMULL:
        return pmul8(a, b);
    case A64_SQDMULL:
        return sat(c, p, l + 1, false);
    case A64_SQDMLAL:
        p = (i128)(int64_t)sat(c, p, l + 1, false);
        return sat(c, (i128)(int64_t)a64_sx(d, l + 1) + (int64_t)a64_sx((uint64_t)p, l + 1), l + 1, false);
    default: /* SQDMLSL */
        p = (i128)(int64_t)sat(c, p, l + 1, false);
        return sat(c, (i128)(int64_t)a64_sx(d, l + 1) - (int64_t)a64_sx((uint64_t)p, l + 1), l + 1, false);
    }
}

static bool wide_unsigned(unsigned kind)
{
    switch (kind) {
    case A64_UADDL:
    case A64_UADDW:
    case A64_USUBL:
    case A64_USUBW:
    case A64_UABAL:
    case A64_UABDL:
    case A64_UMLAL:
    case A64_UMLSL:
    case A64_UMULL:
    case A64_PMULL:
        return true;
    default:
        return false;
    }
}

static void pmull64(union ir_vec *r, uint64_t a, uint64_t b)
{
    r->d[0] = r->d[1] = 0;
    for (int i = 0; i < 64; i++)
        if (b >> i & 1) {
            r->d[0] ^= a << i;
            if (i)
                r->d[1] ^= a >> (64 - i);
        }
}

enum a64_res sem_simd_wide3(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = A64_BIT(w, 28) ? 1 : 8u >> l,
             high = !A64_BIT(w, 28) && A64_BIT(w, 30) ? n : 0;
    bool uns = wide_unsigned(kind);
    bool wide_a = kind == A64_SADDW || kind == A64_UADDW || kind == A64_SSUBW || kind == A64_USUBW;
    const union ir_vec *a = &c->v[A64_RN(w)], *b = &c->v[A64_RM(w)], *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};

    if (l == 3) { /* PMULL of 64 bits */
        pmull64(&r, a->d[high], b->d[high]);
        c->v[A64_RD(w)] = r;
        return A64_OK;
    }
    for (unsigned i = 0; i < n; i++) {
        uint64_t x = wide_a ? a64_el(a, i, l + 1) : a64_el(a, i + high, l), y = a64_el(b, i + high, l);

        if (!uns) {
            x = a64_sx(x, wide_a ? l + 1 : l);
            y = a64_sx(y, l);
        }
        a64_set_el(&r, i, l + 1, wide_op(c, kind, x, y, a64_el(d, i, l + 1), l));
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

/* Writes the low or (Q) the high half of the destination. */
static void put_half(struct a64_cpu *c, uint32_t w, uint64_t half)
{
    union ir_vec *d = &c->v[A64_RD(w)];

    if (!A64_BIT(w, 28) && A64_BIT(w, 30)) {
        d->d[1] = half;
    } else {
        d->d[0] = half;
        d->d[1] = 0;
    }
}

enum a64_res sem_simd_narrow3(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), bits = 8u << l;
    bool sub = kind == A64_SUBHN || kind == A64_RSUBHN, round = kind == A64_RADDHN || kind == A64_RSUBHN;
    const union ir_vec *a = &c->v[A64_RN(w)], *b = &c->v[A64_RM(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < 8u >> l; i++) {
        uint64_t x = a64_el(a, i, l + 1), y = a64_el(b, i, l + 1);

        x = (sub ? x - y : x + y) + (round ? UINT64_C(1) << (bits - 1) : 0);
        a64_set_el(&r, i, l, x >> bits);
    }
    put_half(c, w, r.d[0]);
    return A64_OK;
}

static unsigned lead_zeros(uint64_t v, unsigned bits)
{
    return v ? (unsigned)__builtin_clzll(v) - (64 - bits) : bits;
}

static uint64_t reverse_bits8(uint64_t v)
{
    uint64_t r = 0;

    for (int i = 0; i < 8; i++)
        r |= (v >> i & 1) << (7 - i);
    return r;
}

static uint64_t op1(struct a64_cpu *c, unsigned kind, uint64_t a, uint64_t d, unsigned l)
{
    int64_t s = (int64_t)a64_sx(a, l);
    unsigned bits = 8u << l;

    switch (kind) {
    case A64_ABS:
        return (uint64_t)(s < 0 ? -(uint64_t)s : (uint64_t)s);
    case A64_NEG:
        return -a;
    case A64_SQABS:
        return sat(c, s < 0 ? -(i128)s : s, l, false);
    case A64_SQNEG:
        return sat(c, -(i128)s, l, false);
    case A64_SUQADD:
        return sat(c, (i128)(int64_t)a64_sx(d, l) + a, l, false);
    case A64_USQADD:
        return sat(c, (i128)d + s, l, true);
    case A64_CMGTZ:
        return ones(s > 0);
    case A64_CMGEZ:
        return ones(s >= 0);
    case A64_CMEQZ:
        return ones(s == 0);
    case A64_CMLEZ:
        return ones(s <= 0);
    case A64_CMLTZ:
        return ones(s < 0);
    case A64_CLZ:
        return lead_zeros(a, bits);
    case A64_CLS:
        s ^= s >> 63;
        return lead_zeros((uint64_t)s, bits) - 1;
    case A64_CNT:
        return (uint64_t)__builtin_popcountll(a);
    case A64_URECPE:
        return fpu_urecpe((uint32_t)a);
    case A64_URSQRTE:
        return fpu_ursqrte((uint32_t)a);
    case A64_NOT:
        return ~a;
    default:
        return reverse_bits8(a); /* RBIT */
    }
}

enum a64_res sem_simd_2misc(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = kind == A64_NOT || kind == A64_RBIT ? 0 : a64_bits(w, 23, 22), n = a64_lanes(w, l), flip = 0;
    const union ir_vec *a = &c->v[A64_RN(w)], *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};

    if (kind == A64_REV64 || kind == A64_REV32 || kind == A64_REV16)
        flip = (kind == A64_REV64 ? 8u >> l : kind == A64_REV32 ? 4u >> l : 2u) - 1;
    for (unsigned i = 0; i < n; i++)
        a64_set_el(&r, i, l, flip ? a64_el(a, i ^ flip, l) : op1(c, kind, a64_el(a, i, l), a64_el(d, i, l), l));
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_simd_addlp(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = a64_lanes(w, l + 1);
    bool uns = kind == A64_UADDLP || kind == A64_UADALP, acc = kind == A64_SADALP || kind == A64_UADALP;
    const union ir_vec *a = &c->v[A64_RN(w)], *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        uint64_t x = a64_el(a, 2 * i, l), y = a64_el(a, 2 * i + 1, l);

        if (!uns)
            x = a64_sx(x, l), y = a64_sx(y, l);
        a64_set_el(&r, i, l + 1, x + y + (acc ? a64_el(d, i, l + 1) : 0));
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_simd_xtn(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = A64_BIT(w, 28) ? 1 : 8u >> l;
    const union ir_vec *a = &c->v[A64_RN(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        uint64_t x = a64_el(a, i, l + 1);

        if (kind == A64_UQXTN)
            x = sat(c, x, l, true);
        else if (kind != A64_XTN)
            x = sat(c, (int64_t)a64_sx(x, l + 1), l, kind == A64_SQXTUN);
        a64_set_el(&r, i, l, x);
    }
    put_half(c, w, r.d[0]);
    return A64_OK;
}

static enum a64_res widen_shift(struct a64_cpu *c, uint32_t w, unsigned l, unsigned n, bool uns)
{
    const union ir_vec *a = &c->v[A64_RN(w)];
    union ir_vec r = {{0}};
    unsigned lanes = 8u >> l;

    for (unsigned i = 0; i < lanes; i++) {
        uint64_t x = a64_el(a, i + (A64_BIT(w, 30) ? lanes : 0), l);

        a64_set_el(&r, i, l + 1, (uns ? x : a64_sx(x, l)) << n);
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_simd_shll(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l;

    if (kind == A64_SHLL) {
        l = a64_bits(w, 23, 22);
        return widen_shift(c, w, l, 8u << l, true);
    }
    l = 31u - (unsigned)__builtin_clz(a64_bits(w, 22, 19));
    return widen_shift(c, w, l, a64_bits(w, 22, 16) - (8u << l), kind == A64_USHLL);
}

static uint64_t shift_right(uint64_t v, unsigned n, unsigned l, bool uns, bool round)
{
    i128 x = uns ? (i128)v : (i128)(int64_t)a64_sx(v, l);

    if (round)
        x += (i128)1 << (n - 1);
    return (uint64_t)(x >> n);
}

enum a64_res sem_simd_shift(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = 31u - (unsigned)__builtin_clz(a64_bits(w, 22, 19)), n = a64_lanes(w, l), bits = 8u << l;
    unsigned right = 2 * bits - a64_bits(w, 22, 16), left = a64_bits(w, 22, 16) - bits;
    uint64_t all = bits == 64 ? ~UINT64_C(0) : (UINT64_C(1) << bits) - 1, m;
    const union ir_vec *a = &c->v[A64_RN(w)], *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        uint64_t x = a64_el(a, i, l), o = a64_el(d, i, l), v;

        switch (kind) {
        case A64_SSHR:
            v = shift_right(x, right, l, false, false);
            break;
        case A64_USHR:
            v = shift_right(x, right, l, true, false);
            break;
        case A64_SSRA:
            v = o + shift_right(x, right, l, false, false);
            break;
        case A64_USRA:
            v = o + shift_right(x, right, l, true, false);
            break;
        case A64_SRSHR:
            v = shift_right(x, right, l, false, true);
            break;
        case A64_URSHR:
            v = shift_right(x, right, l, true, true);
            break;
        case A64_SRSRA:
            v = o + shift_right(x, right, l, false, true);
            break;
        case A64_URSRA:
            v = o + shift_right(x, right, l, true, true);
            break;
        case A64_SRI:
            m = right == bits ? 0 : all >> right;
            v = (o & ~m) | (right == 64 ? 0 : x >> right);
            break;
        case A64_SHL:
            v = x << left;
            break;
        case A64_SLI:
            v = (o & ~(all << left)) | x << left;
            break;
        case A64_SQSHLU:
            v = sat(c, (i128)(int64_t)a64_sx(x, l) * ((i128)1 << left), l, true);
            break;
        case A64_SQSHL:
            v = sat(c, (i128)(int64_t)a64_sx(x, l) * ((i128)1 << left), l, false);
            break;
        default:
            v = sat(c, (i128)((unsigned __int128)x << left), l, true);
            break;
        }
        a64_set_el(&r, i, l, v);
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_simd_shrn(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = 31u - (unsigned)__builtin_clz(a64_bits(w, 22, 19)), n = A64_BIT(w, 28) ? 1 : 8u >> l;
    unsigned right = (16u << l) - a64_bits(w, 22, 16);
    bool round = A64_BIT(w, 11), in_uns = kind == A64_UQSHRN || kind == A64_UQRSHRN;
    bool out_uns = in_uns || kind == A64_SQSHRUN || kind == A64_SQRSHRUN;
    const union ir_vec *a = &c->v[A64_RN(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        uint64_t x = a64_el(a, i, l + 1);
        i128 v = in_uns || kind == A64_SHRN || kind == A64_RSHRN ? (i128)x : (i128)(int64_t)a64_sx(x, l + 1);

        v = (v + (round ? (i128)1 << (right - 1) : 0)) >> right;
        a64_set_el(&r, i, l, kind == A64_SHRN || kind == A64_RSHRN ? (uint64_t)v : sat(c, v, l, out_uns));
    }
    put_half(c, w, r.d[0]);
    return A64_OK;
}

enum a64_res sem_simd_across(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = A64_BIT(w, 28) ? 2 : a64_lanes(w, l);
    const union ir_vec *a = &c->v[A64_RN(w)];
    bool longer = kind == A64_SADDLV || kind == A64_UADDLV;
    uint64_t v = a64_el(a, 0, l);
    union ir_vec r = {{0}};

    if (kind == A64_SADDLV)
        v = a64_sx(v, l);
    for (unsigned i = 1; i < n; i++) {
        uint64_t x = a64_el(a, i, l);

        if (longer)
            v += kind == A64_SADDLV ? a64_sx(x, l) : x;
        else
            v = op2(c, kind == A64_ADDV ? A64_ADD : kind, v, x, 0, l);
    }
    a64_set_el(&r, 0, longer ? l + 1 : l, v);
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

/* The element of an indexed form. */
static uint64_t indexed(const struct a64_cpu *c, uint32_t w, unsigned l)
{
    unsigned m = a64_bits(w, 19, 16), idx;

    if (l == 1) {
        idx = A64_BIT(w, 11) << 2 | A64_BIT(w, 21) << 1 | A64_BIT(w, 20);
    } else {
        m |= A64_BIT(w, 20) << 4;
        idx = A64_BIT(w, 11) << 1 | A64_BIT(w, 21);
    }
    return a64_el(&c->v[m], idx, l);
}

enum a64_res sem_simd_idx(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = a64_lanes(w, l);
    const union ir_vec *a = &c->v[A64_RN(w)], *d = &c->v[A64_RD(w)];
    uint64_t b = indexed(c, w, l);
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++)
        a64_set_el(&r, i, l, op2(c, kind, a64_el(a, i, l), b, a64_el(d, i, l), l));
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_simd_idxw(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = A64_BIT(w, 28) ? 1 : 8u >> l,
             high = !A64_BIT(w, 28) && A64_BIT(w, 30) ? n : 0;
    const union ir_vec *a = &c->v[A64_RN(w)], *d = &c->v[A64_RD(w)];
    bool uns = wide_unsigned(kind);
    uint64_t b = indexed(c, w, l);
    union ir_vec r = {{0}};

    if (!uns)
        b = a64_sx(b, l);
    for (unsigned i = 0; i < n; i++) {
        uint64_t x = a64_el(a, i + high, l);

        a64_set_el(&r, i, l + 1, wide_op(c, kind, uns ? x : a64_sx(x, l), b, a64_el(d, i, l + 1), l));
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_dot(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    bool elem = A64_BIT(w, 24);
    unsigned n = a64_lanes(w, 2), m = A64_RM(w), idx = A64_BIT(w, 11) << 1 | A64_BIT(w, 21);
    const union ir_vec *a = &c->v[A64_RN(w)], *b = &c->v[m];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        uint32_t v = c->v[A64_RD(w)].s[i];

        for (unsigned j = 0; j < 4; j++) {
            uint8_t x = a->b[4 * i + j], y = b->b[4 * (elem ? idx : i) + j];

            v += kind == A64_UDOT ? (uint32_t)x * y : (uint32_t)((int8_t)x * (int8_t)y);
        }
        r.s[i] = v;
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}
