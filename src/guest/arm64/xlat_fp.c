/* Emitting IR: floating point in the default mode (no flushing, NaNs propagate), single and double; the rounding mode
 * is MXCSR's. Half precision, estimates and the like go to the interpreter's functions, and so does all FP in the other
 * modes (A64_MODE_FP). Differs from the architecture in one thing: an inexact result that rounding lifts from below the
 * normal range onto its edge does not raise UFC (the host detects tininess after rounding). */
#include "guest/arm64/sem.h"
#include "guest/arm64/vec.h"
#include "guest/arm64/xlat_int.h"

#define V(op, attr, a, b)    ir_bin_x(x->s, (op), IR_V128, (attr), (a), (b), 0)
#define V1(op, attr, a, imm) ir_un_x(x->s, (op), IR_V128, (attr), (a), (imm))

static enum ir_type ftype(uint32_t w)
{
    return A64_BIT(w, 22) ? IR_F64 : IR_F32;
}
static ir_val get_f(struct a64_xlat *x, enum ir_type t, unsigned r)
{
    return ir_un_t(x->s, IR_FLOW, t, get_v(x, r));
}
static void put_f(struct a64_xlat *x, unsigned r, ir_val v)
{
    put_v(x, r, ir_un_x(x->s, IR_VFLOW, IR_V128, ir_type_of(x->s, v) == IR_F64, v, 0));
}

static enum ir_round round_of(unsigned kind)
{
    switch (kind) {
    case A64_FRINTN:
    case A64_FCVTNS:
    case A64_FCVTNU:
        return IR_RNE;
    case A64_FRINTP:
    case A64_FCVTPS:
    case A64_FCVTPU:
        return IR_RUP;
    case A64_FRINTM:
    case A64_FCVTMS:
    case A64_FCVTMU:
        return IR_RDN;
    case A64_FRINTA:
    case A64_FCVTAS:
    case A64_FCVTAU:
        return IR_RNA;
    case A64_FRINTX:
    case A64_FRINTI:
        return IR_RDYN;
    default:
        return IR_RTZ;
    }
}

/* FCVT*U, UCVTF. */
static bool is_unsigned(unsigned kind)
{
    switch (kind) {
    case A64_FCVTNU:
    case A64_FCVTPU:
    case A64_FCVTMU:
    case A64_FCVTAU:
    case A64_FCVTZU:
    case A64_UCVTF:
        return true;
    default:
        return false;
    }
}

static bool is_round(unsigned kind)
{
    return kind == A64_FRINTN || kind == A64_FRINTP || kind == A64_FRINTM || kind == A64_FRINTZ || kind == A64_FRINTA ||
           kind == A64_FRINTX || kind == A64_FRINTI;
}

static bool is_to_int(unsigned kind)
{
    switch (kind) {
    case A64_FCVTNS:
    case A64_FCVTPS:
    case A64_FCVTMS:
    case A64_FCVTAS:
    case A64_FCVTZS:
        return true;
    default:
        return kind != A64_UCVTF && is_unsigned(kind);
    }
}

static bool gen_fp1(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    enum ir_type t = ftype(w);
    ir_val a = get_f(x, t, A64_RN(w)), v;

    switch (kind) {
    case A64_FMOV:
        v = a;
        break;
    case A64_FABS:
        v = ir_un(s, IR_FABS, a);
        break;
    case A64_FNEG:
        v = ir_un(s, IR_FNEG, a);
        break;
    case A64_FSQRT:
        v = ir_un(s, IR_FSQRT, a);
        break;
    default:
        if (!is_round(kind))
            return false;
        v = ir_un_x(s, IR_FROUND, t, round_of(kind) | (kind == A64_FRINTX ? 8u : 0), a, 0);
        break;
    }
    put_f(x, A64_RD(w), v);
    return true;
}

static bool gen_fp2(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    enum ir_type t = ftype(w);
    ir_val a = get_f(x, t, A64_RN(w)), b = get_f(x, t, A64_RM(w)), v;

    switch (kind) {
    case A64_FMUL:
        v = ir_bin(s, IR_FMUL, a, b);
        break;
    case A64_FDIV:
        v = ir_bin(s, IR_FDIV, a, b);
        break;
    case A64_FADD:
        v = ir_bin(s, IR_FADD, a, b);
        break;
    case A64_FSUB:
        v = ir_bin(s, IR_FSUB, a, b);
        break;
    case A64_FMAX:
        v = ir_bin_x(s, IR_FMAX, t, IR_MM_NAN, a, b, 0);
        break;
    case A64_FMIN:
        v = ir_bin_x(s, IR_FMIN, t, IR_MM_NAN, a, b, 0);
        break;
    case A64_FMAXNM:
        v = ir_bin_x(s, IR_FMAX, t, IR_MM_NUM, a, b, 0);
        break;
    case A64_FMINNM:
        v = ir_bin_x(s, IR_FMIN, t, IR_MM_NUM, a, b, 0);
        break;
    case A64_FNMUL:
        v = ir_un(s, IR_FNEG, ir_bin(s, IR_FMUL, a, b));
        break;
    default:
        return false;
    }
    put_f(x, A64_RD(w), v);
    return true;
}

/* The sign flips are on operands, as the architecture has them: a NaN among them flips too. */
static bool gen_fp3(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    enum ir_type t = ftype(w);
    ir_val n = get_f(x, t, A64_RN(w)), m = get_f(x, t, A64_RM(w)), a = get_f(x, t, A64_RA(w));

    if (kind == A64_FNMADD || kind == A64_FNMSUB)
        a = ir_un(s, IR_FNEG, a);
    if (kind == A64_FMSUB || kind == A64_FNMADD)
        n = ir_un(s, IR_FNEG, n);
    put_f(x, A64_RD(w), ir_tri(s, IR_FMA, n, m, a));
    return true;
}

static bool gen_fcmp(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    enum ir_type t = ftype(w);
    ir_val a = get_f(x, t, A64_RN(w)), b;

    b = A64_BIT(w, 3) ? ir_un_t(s, IR_FLOW, t, ir_vconst(s, 0, true)) : get_f(x, t, A64_RM(w));
    ir_fl_put(s, ir_emit(s, IR_FL_FCMP, IR_FLAGS, A64_BIT(w, 4), a, b, IR_NO, 0));
    return true;
}

static bool gen_fcsel(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    enum ir_type t = ftype(w);
    unsigned cond = a64_bits(w, 15, 12);
    ir_val a = get_f(x, t, A64_RN(w));

    if (cond < 14)
        a = ir_fl_select(s, ir_fl_get(s), cond, a, get_f(x, t, A64_RM(w)));
    put_f(x, A64_RD(w), a);
    return true;
}

static bool gen_fmov_gen(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned type = a64_bits(w, 23, 22), n = A64_RN(w), d = A64_RD(w);
    bool to_vec = A64_BIT(w, 16);

    if (type == 3)
        return false;
    if (type == 2 && to_vec)
        put_v(x, d, ir_bin_x(s, IR_VINS, IR_V128, IR_D, get_v(x, d), get_x(x, n), 1));
    else if (type == 2)
        put_x(x, d, ir_un_x(s, IR_VGETU, IR_I64, IR_D, get_v(x, n), 1));
    else if (to_vec)
        put_f(x, d, ir_un_t(s, IR_FMOV_I, type ? IR_F64 : IR_F32, get_t(x, type ? IR_I64 : IR_I32, n)));
    else
        put_x(x, d, ir_un_t(s, IR_IMOV_F, type ? IR_I64 : IR_I32, get_f(x, type ? IR_F64 : IR_F32, n)));
    return true;
}

static bool gen_fcvt_int(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    enum ir_type t = ftype(w);

    if (!A64_BIT(w, 21)) /* fixed point */
        return false;
    put_x(x, A64_RD(w),
          ir_un_x(s, IR_FTOI, width(w), round_of(kind) | (is_unsigned(kind) ? 8u : 0) | (t == IR_F64 ? 64u : 0),
                  get_f(x, t, A64_RN(w)), 0));
    return true;
}

static bool gen_cvtf_int(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;

    if (!A64_BIT(w, 21))
        return false;
    put_f(x, A64_RD(w),
          ir_un_x(s, IR_ITOF, ftype(w), IR_RDYN | (kind == A64_UCVTF ? 8u : 0) | (w >> 31 ? 32u : 0),
                  get_t(x, width(w), A64_RN(w)), 0));
    return true;
}

static bool gen_scalar(struct a64_xlat *x, a64_sem_fn *g, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;

    if (g == sem_fmov_gen)
        return gen_fmov_gen(x, w);
    if (A64_BIT(w, 23)) /* half precision */
        return false;
    if (g == sem_fp1)
        return gen_fp1(x, kind, w);
    if (g == sem_fp2)
        return gen_fp2(x, kind, w);
    if (g == sem_fp3)
        return gen_fp3(x, kind, w);
    if (g == sem_fcmp)
        return gen_fcmp(x, w);
    if (g == sem_fcsel)
        return gen_fcsel(x, w);
    if (g == sem_fcvt_int)
        return gen_fcvt_int(x, kind, w);
    if (g == sem_cvtf_int)
        return gen_cvtf_int(x, kind, w);
    if (g == sem_fmov_imm) {
        put_v(x, A64_RD(w), ir_vconst(s, a64_fp_imm(a64_bits(w, 20, 13), 2 + A64_BIT(w, 22)), false));
        return true;
    }
    if (g == sem_fcvt && a64_bits(w, 16, 15) < 2) {
        put_f(x, A64_RD(w), ir_un_t(s, IR_FCVT, A64_BIT(w, 15) ? IR_F64 : IR_F32, get_f(x, ftype(w), A64_RN(w))));
        return true;
    }
    return false;
}

/* ---- vectors of single and double ---- */
/* The low half alone: what lies above must not raise exceptions. */
static ir_val low_if(struct a64_xlat *x, uint32_t w, ir_val v)
{
    return A64_BIT(w, 30) ? v : ir_un(x->s, IR_VLOW, v);
}

static unsigned cmp_attr(unsigned lane, enum ir_fcond cc, bool quiet)
{
    return lane | (unsigned)cc << 4 | (quiet ? 0 : 8u);
}

static bool vec_op2(struct a64_xlat *x, unsigned kind, unsigned l, ir_val a, ir_val b, ir_val d, ir_val *r)
{
    struct ir *s = x->s;

    switch (kind) {
    case A64_FADD:
        *r = V(IR_VFADD, l, a, b);
        break;
    case A64_FSUB:
        *r = V(IR_VFSUB, l, a, b);
        break;
    case A64_FMUL:
        *r = V(IR_VFMUL, l, a, b);
        break;
    case A64_FDIV:
        *r = V(IR_VFDIV, l, a, b);
        break;
    case A64_FABD:
        *r = V1(IR_VFABS, l, V(IR_VFSUB, l, a, b), 0);
        break;
    case A64_FMLS:
        a = V1(IR_VFNEG, l, a, 0); /* fall through */
    case A64_FMLA:
        *r = ir_tri_x(s, IR_VFMA, IR_V128, l, a, b, d, 0);
        break;
    case A64_FMAX:
        *r = V(IR_VFMAX, l | 4, a, b);
        break;
    case A64_FMIN:
        *r = V(IR_VFMIN, l | 4, a, b);
        break;
    case A64_FMAXNM:
        *r = V(IR_VFMAX, l, a, b);
        break;
    case A64_FMINNM:
        *r = V(IR_VFMIN, l, a, b);
        break;
    case A64_FCMEQ:
        *r = V(IR_VFCMP, cmp_attr(l, IR_FEQ, true), a, b);
        break;
    case A64_FCMGE:
        *r = V(IR_VFCMP, cmp_attr(l, IR_FGE, false), a, b);
        break;
    case A64_FCMGT:
        *r = V(IR_VFCMP, cmp_attr(l, IR_FGT, false), a, b);
        break;
    case A64_FACGE:
    case A64_FACGT:
        a = V1(IR_VFABS, l, a, 0);
        b = V1(IR_VFABS, l, b, 0);
        *r = V(IR_VFCMP, cmp_attr(l, kind == A64_FACGE ? IR_FGE : IR_FGT, false), a, b);
        break;
    default:
        return false;
    }
    return true;
}

static bool gen_3same(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    unsigned l = 2 + A64_BIT(w, 22);
    ir_val a, b, d, r;

    if (!A64_BIT(w, 21) || A64_BIT(w, 28) || (kind == A64_FDIV && !A64_BIT(w, 30)))
        return false;
    a = low_if(x, w, get_v(x, A64_RN(w)));
    b = low_if(x, w, get_v(x, A64_RM(w)));
    d = kind == A64_FMLA || kind == A64_FMLS ? low_if(x, w, get_v(x, A64_RD(w))) : a;
    if (!vec_op2(x, kind, l, a, b, d, &r))
        return false;
    put_v(x, A64_RD(w), low_if(x, w, r));
    return true;
}

static bool gen_2misc(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    unsigned l = 2 + A64_BIT(w, 22);
    struct ir *s = x->s;
    enum ir_type t = ftype(w);
    ir_val a, z, r;

    if (a64_bits(w, 20, 19) == 3)
        return false;
    if (A64_BIT(w, 28)) { /* scalars: conversions only */
        enum ir_type it = t == IR_F64 ? IR_I64 : IR_I32;

        if (kind == A64_SCVTF || kind == A64_UCVTF) {
            r = ir_un_t(s, IR_IMOV_F, it, get_f(x, t, A64_RN(w)));
            put_f(x, A64_RD(w),
                  ir_un_x(s, IR_ITOF, t, IR_RDYN | (kind == A64_UCVTF ? 8u : 0) | (l == 3 ? 32u : 0), r, 0));
            return true;
        }
        if (!is_to_int(kind))
            return false;
        r = ir_un_x(s, IR_FTOI, it, round_of(kind) | (is_unsigned(kind) ? 8u : 0) | (l == 3 ? 64u : 0),
                    get_f(x, t, A64_RN(w)), 0);
        put_f(x, A64_RD(w), ir_un_t(s, IR_FMOV_I, t, r));
        return true;
    }
    a = low_if(x, w, get_v(x, A64_RN(w)));
    z = ir_vconst(s, 0, true);
    switch (kind) {
    case A64_FABS:
        r = V1(IR_VFABS, l, a, 0);
        break;
    case A64_FNEG:
        r = V1(IR_VFNEG, l, a, 0);
        break;
    case A64_FSQRT:
        r = V1(IR_VFSQRT, l, a, 0);
        break;
    case A64_FCMGTZ:
        r = V(IR_VFCMP, cmp_attr(l, IR_FGT, false), a, z);
        break;
    case A64_FCMGEZ:
        r = V(IR_VFCMP, cmp_attr(l, IR_FGE, false), a, z);
        break;
    case A64_FCMEQZ:
        r = V(IR_VFCMP, cmp_attr(l, IR_FEQ, true), a, z);
        break;
    case A64_FCMLEZ:
        r = V(IR_VFCMP, cmp_attr(l, IR_FLE, false), a, z);
        break;
    case A64_FCMLTZ:
        r = V(IR_VFCMP, cmp_attr(l, IR_FLT, false), a, z);
        break;
    case A64_SCVTF:
        r = V1(IR_VITOF, l, a, 0);
        break;
    case A64_UCVTF:
        r = V1(IR_VITOF, l | 8, a, 0);
        break;
    default:
        if (is_round(kind))
            r = V1(IR_VFROUND, l | (kind == A64_FRINTX ? 8u : 0) | (unsigned)round_of(kind) << 4, a, 0);
        else if (is_to_int(kind))
            r = V1(IR_VFTOI, l | (is_unsigned(kind) ? 8u : 0) | (unsigned)round_of(kind) << 4, a, 0);
        else
            return false;
        break;
    }
    put_v(x, A64_RD(w), low_if(x, w, r));
    return true;
}

static bool gen_idx(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned l = 2 + A64_BIT(w, 22), m = A64_RM(w);
    unsigned idx = l == 3 ? A64_BIT(w, 11) : A64_BIT(w, 11) << 1 | A64_BIT(w, 21);
    enum ir_type t = ftype(w);
    ir_val a, b, d, r;

    if (!A64_BIT(w, 23) || kind == A64_FMULX)
        return false;
    b = V1(IR_VDUPL, l, get_v(x, m), idx);
    a = get_v(x, A64_RN(w));
    d = get_v(x, A64_RD(w));
    if (A64_BIT(w, 28)) {
        a = ir_un_t(s, IR_FLOW, t, a);
        b = ir_un_t(s, IR_FLOW, t, b);
        if (kind == A64_FMLS)
            a = ir_un(s, IR_FNEG, a);
        put_f(x, A64_RD(w),
              kind == A64_FMUL ? ir_bin(s, IR_FMUL, a, b) : ir_tri(s, IR_FMA, a, b, ir_un_t(s, IR_FLOW, t, d)));
        return true;
    }
    if (!vec_op2(x, kind, l, low_if(x, w, a), low_if(x, w, b), kind == A64_FMUL ? a : low_if(x, w, d), &r))
        return false;
    put_v(x, A64_RD(w), low_if(x, w, r));
    return true;
}

static bool gen_across(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    enum ir_type t = ftype(w);
    struct ir *s = x->s;
    ir_val a, lo, hi;

    if (kind != A64_FADDP || !A64_BIT(w, 29))
        return false;
    a = get_v(x, A64_RN(w));
    lo = ir_un_t(s, IR_FLOW, t, a);
    hi = ir_un_t(s, IR_FLOW, t, V1(IR_VDUPL, 2 + A64_BIT(w, 22), a, 1));
    put_f(x, A64_RD(w), ir_bin(s, IR_FADD, lo, hi));
    return true;
}

static bool gen_nl(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    bool q = A64_BIT(w, 30);
    ir_val a = get_v(x, A64_RN(w)), r;

    if (!A64_BIT(w, 22) || A64_BIT(w, 28) || kind == A64_FCVTXN)
        return false;
    if (kind == A64_FCVTL) {
        r = V1(IR_VFCVTL, q ? 4 : 0, a, 0);
    } else {
        r = V1(IR_VFCVTN, 0, a, 0);
        if (q)
            r = ir_bin_x(s, IR_VINSL, IR_V128, IR_D, get_v(x, A64_RD(w)), r, 1);
    }
    put_v(x, A64_RD(w), r);
    return true;
}

bool xlat_fp(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w)
{
    a64_sem_fn *g = r->sem;

    if (x->fp_special)
        return (g == sem_fmov_gen || g == sem_fmov_imm || g == sem_fcsel) && gen_scalar(x, g, kind, w);
    if (g == sem_fp_3same)
        return gen_3same(x, kind, w);
    if (g == sem_fp_2misc)
        return gen_2misc(x, kind, w);
    if (g == sem_fp_idx)
        return gen_idx(x, kind, w);
    if (g == sem_fp_across)
        return gen_across(x, kind, w);
    if (g == sem_fcvt_nl)
        return gen_nl(x, kind, w);
    if (g == sem_fp_pair && kind == A64_FADDP && A64_BIT(w, 30) && A64_BIT(w, 21)) {
        put_v(x, A64_RD(w), V(IR_VFPADD, 2 + A64_BIT(w, 22), get_v(x, A64_RN(w)), get_v(x, A64_RM(w))));
        return true;
    }
    return gen_scalar(x, g, kind, w);
}
