/* Interpreter: scalar floating point, and floating point on vectors (Arm ARM C7.2), by the soft-float of fpu/.
 *
 * Group functions take an operation (kind) and work on elements of 2, 4 or 8 bytes; scalar forms are vectors of one
 * element whose result clears the rest of the register. */
#include "guest/arm64/sem.h"
#include "guest/arm64/vec.h"

struct fpu_env a64_fpu(const struct a64_cpu *c)
{
    return (struct fpu_env){.round = c->fpcr >> 22 & 3,
                            .default_nan = c->fpcr & A64_FPCR_DN,
                            .flush = c->fpcr & A64_FPCR_FZ,
                            .flush_h = c->fpcr & A64_FPCR_FZ16,
                            .alt_half = c->fpcr & A64_FPCR_AHP};
}

static struct fpu_fmt fmt_of(unsigned log2)
{
    return log2 == 1 ? fpu_h : log2 == 2 ? fpu_s : fpu_d;
}

/* Element size of a scalar instruction by its type field. */
static unsigned type_log2(uint32_t w)
{
    static const uint8_t log2[4] = {2, 3, 4, 1};

    return log2[a64_bits(w, 23, 22)];
}

static uint64_t scalar(const struct a64_cpu *c, unsigned r, unsigned log2)
{
    return a64_el(&c->v[r], 0, log2);
}

static void set_scalar(struct a64_cpu *c, unsigned r, unsigned log2, uint64_t v)
{
    c->v[r].d[0] = log2 == 3 ? v : v & ((UINT64_C(1) << (8 << log2)) - 1);
    c->v[r].d[1] = 0;
}

static uint64_t neg(struct fpu_fmt f, uint64_t a)
{
    return a ^ fpu_signbit(f);
}

/* Compare and give all ones or zero. */
static uint64_t compare(struct fpu_env *e, struct fpu_fmt f, unsigned kind, uint64_t a, uint64_t b)
{
    enum fpu_order o = fpu_cmp(e, f, a, b, kind != A64_FCMEQ && kind != A64_FCMEQZ);
    bool yes;

    switch (kind) {
    case A64_FCMEQ:
    case A64_FCMEQZ:
        yes = o == FPU_EQUAL;
        break;
    case A64_FCMGE:
    case A64_FACGE:
    case A64_FCMGEZ:
        yes = o == FPU_GREATER || o == FPU_EQUAL;
        break;
    case A64_FCMLEZ:
        yes = o == FPU_LESS || o == FPU_EQUAL;
        break;
    case A64_FCMLTZ:
        yes = o == FPU_LESS;
        break;
    default:
        yes = o == FPU_GREATER;
        break;
    }
    return yes ? ~UINT64_C(0) : 0;
}

/* Operations of two elements; d is the destination's element where it is read. */
static uint64_t op2(struct fpu_env *e, struct fpu_fmt f, unsigned kind, uint64_t a, uint64_t b, uint64_t d)
{
    uint64_t abs = ~fpu_signbit(f);

    switch (kind) {
    case A64_FADD:
    case A64_FADDP:
        return fpu_add(e, f, a, b);
    case A64_FSUB:
        return fpu_sub(e, f, a, b);
    case A64_FMUL:
        return fpu_mul(e, f, a, b);
    case A64_FNMUL:
        return neg(f, fpu_mul(e, f, a, b));
    case A64_FMULX:
        return fpu_mulx(e, f, a, b);
    case A64_FDIV:
        return fpu_div(e, f, a, b);
    case A64_FABD:
        return fpu_sub(e, f, a, b) & abs;
    case A64_FMLA:
        return fpu_fma(e, f, a, b, d);
    case A64_FMLS:
        return fpu_fma(e, f, neg(f, a), b, d);
    case A64_FMAX:
    case A64_FMAXP:
    case A64_FMAXV:
        return fpu_minmax(e, f, a, b, true, false);
    case A64_FMIN:
    case A64_FMINP:
    case A64_FMINV:
        return fpu_minmax(e, f, a, b, false, false);
    case A64_FMAXNM:
    case A64_FMAXNMP:
    case A64_FMAXNMV:
        return fpu_minmax(e, f, a, b, true, true);
    case A64_FMINNM:
    case A64_FMINNMP:
    case A64_FMINNMV:
        return fpu_minmax(e, f, a, b, false, true);
    case A64_FRECPS:
        return fpu_recps(e, f, a, b);
    case A64_FRSQRTS:
        return fpu_rsqrts(e, f, a, b);
    case A64_FACGE:
    case A64_FACGT:
        return compare(e, f, kind, a & abs, b & abs);
    default:
        return compare(e, f, kind, a, b);
    }
}

static enum fpu_round round_of(const struct fpu_env *e, unsigned kind)
{
    switch (kind) {
    case A64_FRINTN:
    case A64_FCVTNS:
    case A64_FCVTNU:
        return FPU_RNE;
    case A64_FRINTP:
    case A64_FCVTPS:
    case A64_FCVTPU:
        return FPU_RUP;
    case A64_FRINTM:
    case A64_FCVTMS:
    case A64_FCVTMU:
        return FPU_RDN;
    case A64_FRINTA:
    case A64_FCVTAS:
    case A64_FCVTAU:
        return FPU_RNA;
    case A64_FRINTX:
    case A64_FRINTI:
    case A64_FRINT32X:
    case A64_FRINT64X:
        return (enum fpu_round)e->round;
    default:
        return FPU_RTZ;
    }
}

static bool to_signed(unsigned kind)
{
    return kind == A64_FCVTNS || kind == A64_FCVTPS || kind == A64_FCVTMS || kind == A64_FCVTAS || kind == A64_FCVTZS;
}

static uint64_t op1(struct fpu_env *e, struct fpu_fmt f, unsigned kind, uint64_t a)
{
    unsigned bits = 1u + f.ebits + f.fbits;

    switch (kind) {
    case A64_FMOV:
        return a;
    case A64_FABS:
        return a & ~fpu_signbit(f);
    case A64_FNEG:
        return neg(f, a);
    case A64_FSQRT:
        return fpu_sqrt(e, f, a);
    case A64_FRINTN:
    case A64_FRINTP:
    case A64_FRINTM:
    case A64_FRINTZ:
    case A64_FRINTA:
    case A64_FRINTI:
    case A64_FRINTX:
        return fpu_rint(e, f, a, round_of(e, kind), kind == A64_FRINTX);
    case A64_FRINT32Z:
    case A64_FRINT32X:
        return fpu_rint_in(e, f, a, round_of(e, kind), 32);
    case A64_FRINT64Z:
    case A64_FRINT64X:
        return fpu_rint_in(e, f, a, round_of(e, kind), 64);
    case A64_FRECPE:
        return fpu_recpe(e, f, a);
    case A64_FRSQRTE:
        return fpu_rsqrte(e, f, a);
    case A64_FRECPX:
        return fpu_recpx(e, f, a);
    case A64_SCVTF:
        return fpu_from_int(e, f, (uint64_t)((int64_t)(a << (64 - bits)) >> (64 - bits)), 0, true);
    case A64_UCVTF:
        return fpu_from_int(e, f, a, 0, false);
    case A64_FCMGTZ:
    case A64_FCMGEZ:
    case A64_FCMEQZ:
    case A64_FCMLEZ:
    case A64_FCMLTZ:
        return compare(e, f, kind, a, 0);
    default:
        return fpu_to_int(e, f, a, 0, bits, to_signed(kind), round_of(e, kind));
    }
}

/* ---- scalar ---- */
enum a64_res sem_fp1(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w);
    struct fpu_env e = a64_fpu(c);

    set_scalar(c, A64_RD(w), l, op1(&e, fmt_of(l), kind, scalar(c, A64_RN(w), l)));
    c->fpsr |= e.flags;
    return A64_OK;
}

enum a64_res sem_fp2(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w);
    struct fpu_env e = a64_fpu(c);
    uint64_t a = scalar(c, A64_RN(w), l), b = scalar(c, A64_RM(w), l);

    set_scalar(c, A64_RD(w), l, op2(&e, fmt_of(l), kind, a, b, 0));
    c->fpsr |= e.flags;
    return A64_OK;
}

enum a64_res sem_fp3(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w);
    struct fpu_env e = a64_fpu(c);
    struct fpu_fmt f = fmt_of(l);
    uint64_t n = scalar(c, A64_RN(w), l), m = scalar(c, A64_RM(w), l), a = scalar(c, A64_RA(w), l);

    if (kind == A64_FNMADD || kind == A64_FNMSUB)
        a = neg(f, a);
    if (kind == A64_FMSUB || kind == A64_FNMADD)
        n = neg(f, n);
    set_scalar(c, A64_RD(w), l, fpu_fma(&e, f, n, m, a));
    c->fpsr |= e.flags;
    return A64_OK;
}

static uint32_t fp_nzcv(struct a64_cpu *c, uint32_t w, unsigned l, uint64_t b, bool signal)
{
    static const uint32_t nzcv[] = {
        [FPU_LESS] = 8u << 28, [FPU_EQUAL] = 6u << 28, [FPU_GREATER] = 2u << 28, [FPU_UNORDERED] = 3u << 28};
    struct fpu_env e = a64_fpu(c);
    uint32_t r = nzcv[fpu_cmp(&e, fmt_of(l), scalar(c, A64_RN(w), l), b, signal)];

    c->fpsr |= e.flags;
    return r;
}

enum a64_res sem_fcmp(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w);
    uint64_t b = A64_BIT(w, 3) ? 0 : scalar(c, A64_RM(w), l);

    a64_set_nzcv(c, fp_nzcv(c, w, l, b, A64_BIT(w, 4)));
    return A64_OK;
}

enum a64_res sem_fccmp(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w);

    if (a64_cond(a64_nzcv(c), a64_bits(w, 15, 12)))
        a64_set_nzcv(c, fp_nzcv(c, w, l, scalar(c, A64_RM(w), l), A64_BIT(w, 4)));
    else
        a64_set_nzcv(c, (w & 15) << 28);
    return A64_OK;
}

enum a64_res sem_fcsel(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w);
    bool yes = a64_cond(a64_nzcv(c), a64_bits(w, 15, 12));

    set_scalar(c, A64_RD(w), l, scalar(c, yes ? A64_RN(w) : A64_RM(w), l));
    return A64_OK;
}

/* VFPExpandImm. */
uint64_t a64_fp_imm(unsigned imm8, unsigned log2)
{
    struct fpu_fmt f = fmt_of(log2);
    uint64_t exp = (imm8 & 0x40 ? (UINT64_C(1) << (f.ebits - 3)) - 1 : 0) << 2 | (imm8 >> 4 & 3);

    exp |= imm8 & 0x40 ? 0 : UINT64_C(1) << (f.ebits - 1);
    return (imm8 & 0x80 ? fpu_signbit(f) : 0) | exp << f.fbits | (uint64_t)(imm8 & 15) << (f.fbits - 4);
}

enum a64_res sem_fmov_imm(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w);

    set_scalar(c, A64_RD(w), l, a64_fp_imm(a64_bits(w, 20, 13), l));
    return A64_OK;
}

enum a64_res sem_fmov_gen(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w), n = A64_RN(w), d = A64_RD(w);
    bool to_vec = A64_BIT(w, 16);

    if (l == 4 && to_vec)
        c->v[d].d[1] = a64_x(c, n);
    else if (l == 4)
        a64_set_x(c, d, c->v[n].d[1]);
    else if (to_vec)
        set_scalar(c, d, l, a64_x(c, n));
    else
        a64_set_x(c, d, scalar(c, n, l));
    return A64_OK;
}

enum a64_res sem_fcvt(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    static const uint8_t log2[4] = {2, 3, 0, 1};
    unsigned from = type_log2(w), to = log2[a64_bits(w, 16, 15)];
    struct fpu_env e = a64_fpu(c);

    set_scalar(c, A64_RD(w), to,
               fpu_cvt(&e, fmt_of(from), fmt_of(to), scalar(c, A64_RN(w), from), (enum fpu_round)e.round));
    c->fpsr |= e.flags;
    return A64_OK;
}

enum a64_res sem_fcvt_int(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w), frac = A64_BIT(w, 21) ? 0 : 64 - a64_bits(w, 15, 10);
    struct fpu_env e = a64_fpu(c);
    uint64_t v = fpu_to_int(&e, fmt_of(l), scalar(c, A64_RN(w), l), frac, w >> 31 ? 64 : 32, to_signed(kind),
                            round_of(&e, kind));

    a64_set_x(c, A64_RD(w), v);
    c->fpsr |= e.flags;
    return A64_OK;
}

enum a64_res sem_cvtf_int(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = type_log2(w), frac = A64_BIT(w, 21) ? 0 : 64 - a64_bits(w, 15, 10);
    struct fpu_env e = a64_fpu(c);
    uint64_t v = a64_x(c, A64_RN(w));

    if (!(w >> 31))
        v = kind == A64_SCVTF ? (uint64_t)(int32_t)v : (uint32_t)v;
    set_scalar(c, A64_RD(w), l, fpu_from_int(&e, fmt_of(l), v, frac, kind == A64_SCVTF));
    c->fpsr |= e.flags;
    return A64_OK;
}

/* FPToFixedJS: to 32 bits modulo 2^32; Z says that nothing was lost. */
enum a64_res sem_fjcvtzs(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t a = c->v[A64_RN(w)].d[0], frac = (a & (UINT64_C(0xfffffffffffff))) | UINT64_C(1) << 52, v = 0;
    int exp = (int)(a >> 52 & 0x7ff) - 1023;
    bool exact = true, sign = a >> 63;

    if (exp == -1023) {
        bool denormal = a << 1;

        exact = a == 0;
        if (denormal)
            c->fpsr |= c->fpcr & A64_FPCR_FZ ? A64_FPSR_IDC : A64_FPSR_IXC;
        exact = exact && !denormal;
    } else if (exp == 1024) {
        exact = false;
        c->fpsr |= A64_FPSR_IOC;
    } else {
        bool lost;

        if (exp < 0) {
            lost = true;
        } else if (exp <= 52) {
            v = frac >> (52 - exp);
            lost = frac & ((UINT64_C(1) << (52 - exp)) - 1);
        } else {
            v = exp < 116 ? frac << (exp - 52) : 0;
            lost = false;
        }
        if (exp > 31 || (exp == 31 && (!sign || v > UINT64_C(0x80000000)))) {
            exact = false;
            c->fpsr |= A64_FPSR_IOC;
        } else if (lost) {
            exact = false;
            c->fpsr |= A64_FPSR_IXC;
        }
        if (sign)
            v = -v;
    }
    a64_set_x(c, A64_RD(w), (uint32_t)v);
    a64_set_nzcv(c, exact ? 4u << 28 : 0);
    return A64_OK;
}

/* ---- vectors ---- */
enum a64_res sem_fp_3same(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = A64_BIT(w, 21) ? 2 + A64_BIT(w, 22) : 1, n = a64_lanes(w, l);
    struct fpu_env e = a64_fpu(c);
    const union ir_vec *a = &c->v[A64_RN(w)], *b = &c->v[A64_RM(w)], *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++)
        a64_set_el(&r, i, l, op2(&e, fmt_of(l), kind, a64_el(a, i, l), a64_el(b, i, l), a64_el(d, i, l)));
    c->v[A64_RD(w)] = r;
    c->fpsr |= e.flags;
    return A64_OK;
}

enum a64_res sem_fp_pair(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = A64_BIT(w, 21) ? 2 + A64_BIT(w, 22) : 1, n = a64_lanes(w, l);
    struct fpu_env e = a64_fpu(c);
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        const union ir_vec *s = &c->v[i < n / 2 ? A64_RN(w) : A64_RM(w)];
        unsigned at = 2 * i % n;

        a64_set_el(&r, i, l, op2(&e, fmt_of(l), kind, a64_el(s, at, l), a64_el(s, at + 1, l), 0));
    }
    c->v[A64_RD(w)] = r;
    c->fpsr |= e.flags;
    return A64_OK;
}

enum a64_res sem_fp_2misc(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 20, 19) == 3 ? 1 : 2 + A64_BIT(w, 22), n = a64_lanes(w, l);
    struct fpu_env e = a64_fpu(c);
    const union ir_vec *a = &c->v[A64_RN(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++)
        a64_set_el(&r, i, l, op1(&e, fmt_of(l), kind, a64_el(a, i, l)));
    c->v[A64_RD(w)] = r;
    c->fpsr |= e.flags;
    return A64_OK;
}

enum a64_res sem_fp_fixed(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned immh = a64_bits(w, 22, 19), l = immh & 8 ? 3 : immh & 4 ? 2 : 1, n = a64_lanes(w, l), bits = 8u << l;
    unsigned frac = 2 * bits - a64_bits(w, 22, 16);
    struct fpu_env e = a64_fpu(c);
    const union ir_vec *a = &c->v[A64_RN(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        uint64_t v = a64_el(a, i, l);

        if (kind == A64_SCVTF || kind == A64_UCVTF)
            v = fpu_from_int(&e, fmt_of(l), kind == A64_SCVTF ? a64_sx(v, l) : v, frac, kind == A64_SCVTF);
        else
            v = fpu_to_int(&e, fmt_of(l), v, frac, bits, kind == A64_FCVTZS, FPU_RTZ);
        a64_set_el(&r, i, l, v);
    }
    c->v[A64_RD(w)] = r;
    c->fpsr |= e.flags;
    return A64_OK;
}

enum a64_res sem_fp_idx(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = A64_BIT(w, 23) ? 2 + A64_BIT(w, 22) : 1, n = a64_lanes(w, l), idx, m = a64_bits(w, 19, 16);
    struct fpu_env e = a64_fpu(c);
    const union ir_vec *a = &c->v[A64_RN(w)], *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};
    uint64_t b;

    if (l == 1) {
        idx = A64_BIT(w, 11) << 2 | A64_BIT(w, 21) << 1 | A64_BIT(w, 20);
    } else {
        m |= A64_BIT(w, 20) << 4;
        idx = l == 3 ? A64_BIT(w, 11) : A64_BIT(w, 11) << 1 | A64_BIT(w, 21);
    }
    b = a64_el(&c->v[m], idx, l);
    for (unsigned i = 0; i < n; i++)
        a64_set_el(&r, i, l, op2(&e, fmt_of(l), kind, a64_el(a, i, l), b, a64_el(d, i, l)));
    c->v[A64_RD(w)] = r;
    c->fpsr |= e.flags;
    return A64_OK;
}

/* Pairs of one register, and reductions of all lanes in a tree. */
enum a64_res sem_fp_across(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    bool single = A64_BIT(w, 28), half = !A64_BIT(w, 29);
    unsigned l = half ? 1 : 2 + (single && A64_BIT(w, 22)), n = single ? 2 : a64_lanes(w, l);
    struct fpu_env e = a64_fpu(c);
    union ir_vec v = c->v[A64_RN(w)];

    for (; n > 1; n /= 2)
        for (unsigned i = 0; i < n / 2; i++)
            a64_set_el(&v, i, l, op2(&e, fmt_of(l), kind, a64_el(&v, 2 * i, l), a64_el(&v, 2 * i + 1, l), 0));
    set_scalar(c, A64_RD(w), l, a64_el(&v, 0, l));
    c->fpsr |= e.flags;
    return A64_OK;
}

/* FCVTN FCVTL FCVTXN: between a size and the next. */
enum a64_res sem_fcvt_nl(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = 1 + A64_BIT(w, 22), q = A64_BIT(w, 30), n = A64_BIT(w, 28) ? 1 : 8u >> l;
    struct fpu_env e = a64_fpu(c);
    const union ir_vec *a = &c->v[A64_RN(w)];
    union ir_vec r = {{0}};

    if (kind == A64_FCVTL) {
        for (unsigned i = 0; i < n; i++)
            a64_set_el(&r, i, l + 1, fpu_cvt(&e, fmt_of(l), fmt_of(l + 1), a64_el(a, i + q * n, l), FPU_RNE));
    } else {
        enum fpu_round rm = kind == A64_FCVTXN ? FPU_RODD : (enum fpu_round)e.round;
        bool high = q && !A64_BIT(w, 28);

        if (high)
            r.d[0] = c->v[A64_RD(w)].d[0];
        for (unsigned i = 0; i < n; i++)
            a64_set_el(&r, i + high * n, l, fpu_cvt(&e, fmt_of(l + 1), fmt_of(l), a64_el(a, i, l + 1), rm));
    }
    c->v[A64_RD(w)] = r;
    c->fpsr |= e.flags;
    return A64_OK;
}

/* FCMLA (vector and by element) and FCADD: complex numbers as pairs of elements. */
enum a64_res sem_fcma(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    bool elem = A64_BIT(w, 24);
    unsigned l = a64_bits(w, 23, 22), n = a64_lanes(w, l), rot, m = A64_RM(w), idx = 0;
    struct fpu_env e = a64_fpu(c);
    struct fpu_fmt f = fmt_of(l);
    const union ir_vec *a = &c->v[A64_RN(w)], *b, *d = &c->v[A64_RD(w)];
    union ir_vec r = {{0}};

    rot = elem ? a64_bits(w, 14, 13) : kind == A64_FCADD ? A64_BIT(w, 12) : a64_bits(w, 12, 11);
    if (elem)
        idx = l == 1 ? A64_BIT(w, 11) << 1 | A64_BIT(w, 21) : A64_BIT(w, 11);
    b = &c->v[m];
    for (unsigned i = 0; i < n; i += 2) {
        unsigned j = elem ? 2 * idx : i;
        uint64_t ar = a64_el(a, i, l), ai = a64_el(a, i + 1, l), br = a64_el(b, j, l), bi = a64_el(b, j + 1, l);
        uint64_t re, im;

        if (kind == A64_FCADD) {
            re = fpu_add(&e, f, ar, rot ? bi : neg(f, bi));
            im = fpu_add(&e, f, ai, rot ? neg(f, br) : br);
        } else {
            uint64_t x = rot & 1 ? ai : ar, y = rot & 1 ? bi : br, z = rot & 1 ? br : bi;

            if (rot == 1 || rot == 2)
                y = neg(f, y);
            if (rot >= 2)
                z = neg(f, z);
            re = fpu_fma(&e, f, x, y, a64_el(d, i, l));
            im = fpu_fma(&e, f, x, z, a64_el(d, i + 1, l));
        }
        a64_set_el(&r, i, l, re);
        a64_set_el(&r, i + 1, l, im);
    }
    c->v[A64_RD(w)] = r;
    c->fpsr |= e.flags;
    return A64_OK;
}
