/* Emitting IR: VFP. Arithmetic is that of A64 on scratch registers: operands are taken out of the Q registers, the A64
 * instruction is emitted by guest/arm64 (inline in the default mode, soft-float when FPSCR asks for flushing or default
 * NaNs), the result is put back. */
#include "guest/arm/xlat_int.h"

/* ---- D and S registers ---- */
ir_val get_d(struct arm_xlat *x, unsigned d)
{
    ir_val q = get_q(x, d >> 1);

    return d & 1 ? ir_un_x(x->s, IR_VDUPL, IR_V128, IR_D, q, 1) : q;
}

void put_d(struct arm_xlat *x, unsigned d, ir_val v)
{
    put_q(x, d >> 1, ir_bin_x(x->s, IR_VINSL, IR_V128, IR_D, get_q(x, d >> 1), v, d & 1));
}

ir_val get_s(struct arm_xlat *x, unsigned n)
{
    ir_val q = get_q(x, n >> 2);

    return n & 3 ? ir_un_x(x->s, IR_VDUPL, IR_V128, IR_S, q, n & 3) : q;
}

void put_s(struct arm_xlat *x, unsigned n, ir_val v)
{
    put_q(x, n >> 2, ir_bin_x(x->s, IR_VINSL, IR_V128, IR_S, get_q(x, n >> 2), v, n & 3));
}

ir_val get_si(struct arm_xlat *x, unsigned n)
{
    return ir_un_x(x->s, IR_VGETU, IR_I32, IR_S, get_q(x, n >> 2), n & 3);
}

void put_si(struct arm_xlat *x, unsigned n, ir_val v)
{
    put_q(x, n >> 2, ir_bin_x(x->s, IR_VINS, IR_V128, IR_S, get_q(x, n >> 2), v, n & 3));
}

/* ---- scratch registers ---- */
/* Number of a scratch place, or -1. */
static int scratch_of(int64_t off)
{
    if (off >= (int64_t)AX_OFF(ARM_SCR) && off < (int64_t)AX_OFF(ARM_SCR + 5))
        return (int)(off - (int64_t)AX_OFF(ARM_SCR)) / 8;
    if (off >= (int64_t)AV_OFF(ARM_SCR) && off < (int64_t)AV_OFF(ARM_SCR + 8))
        return 5 + (int)(off - (int64_t)AV_OFF(ARM_SCR)) / 16;
    return -1;
}

static bool has_call(const struct ir *s, unsigned begin)
{
    for (unsigned n = begin; n < s->nr; n++)
        if (s->op[n].op == IR_CALL && s->op[n].attr != IR_CALL_PURE)
            return true;
    return false;
}

enum { MAX_SPAN = 256 };
void scratch_done(struct arm_xlat *x, unsigned begin, const size_t *off, ir_val *out, unsigned nr, enum ir_type t)
{
    struct ir *s = x->s;
    ir_val now[16], rep[MAX_SPAN];

    if (s->full || s->nr - begin > MAX_SPAN || has_call(s, begin)) {
        for (unsigned k = 0; k < nr; k++)
            out[k] = ir_get(s, t, off[k]);
        return;
    }
    for (unsigned k = 0; k < 16; k++)
        now[k] = IR_NO;
    for (unsigned n = begin; n < s->nr; n++) {
        struct ir_op *o = &s->op[n];
        int at = o->op == IR_GET || o->op == IR_PUT ? scratch_of(o->imm) : -1;

        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO && o->a[i] >= begin)
                o->a[i] = rep[o->a[i] - begin];
        rep[n - begin] = (ir_val)n;
        if (at >= 0 && o->op == IR_GET && now[at] != IR_NO)
            rep[n - begin] = now[at];
        if (at >= 0 && o->op == IR_PUT) {
            now[at] = o->a[0];
            *o = (struct ir_op){.op = IR_NOP, .t = IR_VOID, .a = {IR_NO, IR_NO, IR_NO, IR_NO}};
        }
    }
    for (unsigned k = 0; k < nr; k++) {
        ir_val v = now[scratch_of((int64_t)off[k])];

        out[k] = v != IR_NO ? v : ir_get(s, t, off[k]);
    }
}

ir_val scratch_result(struct arm_xlat *x, unsigned begin, unsigned k)
{
    size_t off = AV_OFF(ARM_SCR + k);
    ir_val v;

    scratch_done(x, begin, &off, &v, 1, IR_V128);
    return v;
}

/* ---- arithmetic ---- */
static unsigned reg(unsigned sz, uint32_t v, uint32_t bit) /* number of a D (sz 1) or S register */
{
    return sz ? bit << 4 | v : v << 1 | bit;
}
static ir_val get_f(struct arm_xlat *x, unsigned sz, unsigned r)
{
    return sz ? get_d(x, r) : get_s(x, r);
}
static void put_f(struct arm_xlat *x, unsigned sz, unsigned r, ir_val v)
{
    if (sz)
        put_d(x, r, v);
    else
        put_s(x, r, v);
}
static void a64(struct arm_xlat *x, uint32_t w)
{
    a64_emit(x->s, w, x->fp_special);
}
#define SCR(d, n, m) ((uint32_t)(ARM_SCR + (m)) << 16 | (uint32_t)(ARM_SCR + (n)) << 5 | (ARM_SCR + (d)))

bool gen_vfp1(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned begin = x->s->nr;

    if (i->kind == ARM_VMOV) {
        put_f(x, i->sz, reg(i->sz, i->Vd, i->D), get_f(x, i->sz, reg(i->sz, i->Vm, i->M)));
        return true;
    }
    scratch_v(x, 0, get_f(x, i->sz, reg(i->sz, i->Vm, i->M)));
    a64(x, i->row->a64 | i->sz << 22 | (SCR(1, 0, 0) & 0x3ff));
    put_f(x, i->sz, reg(i->sz, i->Vd, i->D), scratch_result(x, begin, 1));
    return true;
}

bool gen_vfp2(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned begin = x->s->nr;

    scratch_v(x, 0, get_f(x, i->sz, reg(i->sz, i->Vn, i->N)));
    scratch_v(x, 1, get_f(x, i->sz, reg(i->sz, i->Vm, i->M)));
    a64(x, i->row->a64 | i->sz << 22 | SCR(2, 0, 1));
    put_f(x, i->sz, reg(i->sz, i->Vd, i->D), scratch_result(x, begin, 2));
    return true;
}

/* Fused: Ra is Vd. */
bool gen_vfp3(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned begin = x->s->nr;

    scratch_v(x, 0, get_f(x, i->sz, reg(i->sz, i->Vn, i->N)));
    scratch_v(x, 1, get_f(x, i->sz, reg(i->sz, i->Vm, i->M)));
    scratch_v(x, 2, get_f(x, i->sz, reg(i->sz, i->Vd, i->D)));
    a64(x, i->row->a64 | i->sz << 22 | SCR(3, 0, 1) | (ARM_SCR + 2) << 10);
    put_f(x, i->sz, reg(i->sz, i->Vd, i->D), scratch_result(x, begin, 3));
    return true;
}

/* Multiply and add with two roundings. */
bool gen_vmla(struct arm_xlat *x, const struct arm_insn *i)
{
    enum { FMUL = 0x1e200800, FADD = 0x1e202800, FNEG = 0x1e214000 };
    unsigned begin = x->s->nr;
    uint32_t t = i->sz << 22;

    scratch_v(x, 0, get_f(x, i->sz, reg(i->sz, i->Vn, i->N)));
    scratch_v(x, 1, get_f(x, i->sz, reg(i->sz, i->Vm, i->M)));
    scratch_v(x, 2, get_f(x, i->sz, reg(i->sz, i->Vd, i->D)));
    a64(x, FMUL | t | SCR(3, 0, 1));
    if (i->kind == ARM_VMLS || i->kind == ARM_VNMLA)
        a64(x, FNEG | t | (SCR(3, 3, 0) & 0x3ff));
    if (i->kind == ARM_VNMLA || i->kind == ARM_VNMLS)
        a64(x, FNEG | t | (SCR(2, 2, 0) & 0x3ff));
    a64(x, FADD | t | SCR(4, 2, 3));
    put_f(x, i->sz, reg(i->sz, i->Vd, i->D), scratch_result(x, begin, 4));
    return true;
}

bool gen_vmov_fi(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned begin = x->s->nr;

    a64(x, 0x1e201000 | i->sz << 22 | (i->imm4h << 4 | i->imm4) << 13 | ARM_SCR);
    put_f(x, i->sz, reg(i->sz, i->Vd, i->D), scratch_result(x, begin, 0));
    return true;
}

bool gen_vsel(struct arm_xlat *x, const struct arm_insn *i)
{
    static const uint8_t cond[4] = {0, 6, 10, 12}; /* EQ VS GE GT */
    struct ir *s = x->s;
    ir_val a = get_f(x, i->sz, reg(i->sz, i->Vn, i->N)), b = get_f(x, i->sz, reg(i->sz, i->Vm, i->M));

    put_f(x, i->sz, reg(i->sz, i->Vd, i->D), ir_fl_select(s, ir_fl_get(s), cond[i->cc], a, b));
    return true;
}

/* ---- compare; FPSCR ---- */
struct fpu_env arm_fpu(const struct arm_cpu *c, bool standard)
{
    uint32_t v = c->a.fpcr;

    if (standard)
        v = (v & A64_FPCR_AHP) | A64_FPCR_DN | A64_FPCR_FZ;
    return (struct fpu_env){
        .round = v >> 22 & 3, .default_nan = v & A64_FPCR_DN, .flush = v & A64_FPCR_FZ, .alt_half = v & A64_FPCR_AHP};
}

static struct fpu_fmt fmt(unsigned sz)
{
    return sz ? fpu_d : fpu_s;
}
static uint64_t reg_value(const struct arm_cpu *c, unsigned sz, unsigned r)
{
    return sz ? c->a.v[r >> 1].d[r & 1] : c->a.v[r >> 2].s[r & 3];
}
static void set_reg_value(struct arm_cpu *c, unsigned sz, unsigned r, uint64_t v)
{
    if (sz)
        c->a.v[r >> 1].d[r & 1] = v;
    else
        c->a.v[r >> 2].s[r & 3] = (uint32_t)v;
}

/* what: sz, E << 1, with zero << 2, Vd << 8, Vm << 16 (register numbers). */
static uint64_t help_vcmp(void *ctx, uint64_t what)
{
    static const uint32_t nzcv[] = {
        [FPU_LESS] = 8u << 28, [FPU_EQUAL] = 6u << 28, [FPU_GREATER] = 2u << 28, [FPU_UNORDERED] = 3u << 28};
    struct arm_cpu *c = ctx;
    struct fpu_env e = arm_fpu(c, false);
    unsigned sz = what & 1;
    uint64_t b = what & 4 ? 0 : reg_value(c, sz, what >> 16 & 31);

    c->fpnzcv = nzcv[fpu_cmp(&e, fmt(sz), reg_value(c, sz, what >> 8 & 31), b, what & 2)];
    c->a.fpsr |= e.flags;
    return 0;
}

bool gen_vcmp(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    bool zero = i->row->value & 1 << 16;
    unsigned d = reg(i->sz, i->Vd, i->D), m = reg(i->sz, i->Vm, i->M);
    enum ir_type t = i->sz ? IR_F64 : IR_F32;
    ir_val a, b, f;

    x->fpflags = IR_NO;
    if (x->fp_special) {
        ir_call(s, IR_VOID, IR_CALL_STATE, (void *)help_vcmp,
                ir_c64(s, i->sz | i->E << 1 | (zero ? 4u : 0u) | d << 8 | m << 16), IR_NO, IR_NO, IR_NO);
        return true;
    }
    a = ir_un_t(s, IR_FLOW, t, get_f(x, i->sz, d));
    b = ir_un_t(s, IR_FLOW, t, zero ? ir_vconst(s, 0, true) : get_f(x, i->sz, m));
    f = ir_emit(s, IR_FL_FCMP, IR_FLAGS, i->E, a, b, IR_NO, 0);
    ir_put(s, AC_OFF(fpnzcv), ir_un_t(s, IR_FL_TO_BITS, IR_I32, f));
    x->fpflags = f;
    return true;
}

static uint64_t help_vmrs(void *ctx)
{
    return arm_fpscr(ctx);
}

static uint64_t help_vmsr(void *ctx, uint64_t v)
{
    struct arm_cpu *c = ctx;
    bool was = a64_fp_special(c->a.fpcr);

    arm_set_fpscr(c, (uint32_t)v);
    return was != a64_fp_special(c->a.fpcr) ? ARM_EXIT_MODE + 1 : 0;
}

bool gen_vmrs(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;

    if (i->reg != 1)
        return false;
    if (i->Rt != ARM_PC)
        put_r(x, i->Rt, ir_call(s, IR_I32, IR_CALL_STATE, (void *)help_vmrs, IR_NO, IR_NO, IR_NO, IR_NO));
    else if (x->fpflags != IR_NO)
        ir_fl_put(s, x->fpflags);
    else
        ir_fl_put(s, ir_fl(s, IR_FL_BITS, ir_get(s, IR_I32, AC_OFF(fpnzcv)), IR_NO, IR_NO));
    return true;
}

bool gen_vmsr(struct arm_xlat *x, const struct arm_insn *i)
{
    if (i->reg != 1 || i->Rt == ARM_PC)
        return false;
    x->fpflags = IR_NO;
    ir_call(x->s, IR_I64, IR_CALL_STATE | IR_CALL_LEAVES, (void *)help_vmsr, get_r(x, i, i->Rt), IR_NO, IR_NO, IR_NO);
    return true;
}

/* ---- conversions ---- */
/* what: sz, unsigned << 1, Vd << 8 (S), Vm << 16: to an integer as FPSCR rounds. */
static uint64_t help_vcvtr(void *ctx, uint64_t what)
{
    struct arm_cpu *c = ctx;
    struct fpu_env e = arm_fpu(c, false);
    uint64_t v = fpu_to_int(&e, fmt(what & 1), reg_value(c, what & 1, what >> 16 & 31), 0, 32, !(what & 2),
                            (enum fpu_round)e.round);

    set_reg_value(c, 0, what >> 8 & 31, v);
    c->a.fpsr |= e.flags;
    return 0;
}

bool gen_vcvt_int(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned begin, d = reg(0, i->Vd, i->D), m = reg(i->sz, i->Vm, i->M);
    size_t off = AX_OFF(ARM_SCR);
    ir_val v;

    if (i->row->mask >> 28 != 15 && !i->rz) { /* VCVTR */
        if (x->fp_special) {
            ir_call(s, IR_VOID, IR_CALL_STATE, (void *)help_vcvtr,
                    ir_c64(s, i->sz | (i->s ? 0u : 2u) | d << 8 | m << 16), IR_NO, IR_NO, IR_NO);
            return true;
        }
        v = ir_un_t(s, IR_FLOW, i->sz ? IR_F64 : IR_F32, get_f(x, i->sz, m));
        put_si(x, d, ir_un_x(s, IR_FTOI, IR_I32, IR_RDYN | (i->s ? 0u : 8u) | (i->sz ? 64u : 0u), v, 0));
        return true;
    }
    begin = s->nr;
    scratch_v(x, 0, get_f(x, i->sz, m));
    a64(x, i->row->a64 | i->sz << 22 | (i->s ? 0u : 1u << 16) | (SCR(0, 0, 0) & 0x3ff));
    scratch_done(x, begin, &off, &v, 1, IR_I64);
    put_si(x, d, ir_trunc(s, v));
    return true;
}

bool gen_vcvt_fi(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned begin = x->s->nr;

    scratch_x(x, 0, ir_zext(x->s, get_si(x, reg(0, i->Vm, i->M))));
    a64(x, (i->s ? 0x1e220000 : 0x1e230000) | i->sz << 22 | (SCR(0, 0, 0) & 0x3ff));
    put_f(x, i->sz, reg(i->sz, i->Vd, i->D), scratch_result(x, begin, 0));
    return true;
}

bool gen_vcvt_ds(struct arm_xlat *x, const struct arm_insn *i) /* sz: of the source */
{
    unsigned begin = x->s->nr;

    scratch_v(x, 0, get_f(x, i->sz, reg(i->sz, i->Vm, i->M)));
    a64(x, (i->sz ? 0x1e624000 : 0x1e22c000) | (SCR(1, 0, 0) & 0x3ff));
    put_f(x, !i->sz, reg(!i->sz, i->Vd, i->D), scratch_result(x, begin, 1));
    return true;
}

bool gen_vcvt_half(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    bool to_half = i->row->value & 1 << 16;
    unsigned begin = s->nr;
    ir_val v;

    if (!to_half) {
        v = ir_ubfx(s, get_si(x, reg(0, i->Vm, i->M)), i->T ? 16 : 0, 16);
        scratch_v(x, 0, ir_bin_x(s, IR_VINS, IR_V128, IR_S, ir_vconst(s, 0, false), v, 0));
        a64(x, (i->sz ? 0x1ee2c000 : 0x1ee24000) | (SCR(1, 0, 0) & 0x3ff));
        put_f(x, i->sz, reg(i->sz, i->Vd, i->D), scratch_result(x, begin, 1));
        return true;
    }
    scratch_v(x, 0, get_f(x, i->sz, reg(i->sz, i->Vm, i->M)));
    a64(x, (i->sz ? 0x1e63c000 : 0x1e23c000) | (SCR(1, 0, 0) & 0x3ff));
    v = ir_un_x(s, IR_VGETU, IR_I32, IR_H, scratch_result(x, begin, 1), 0);
    put_si(x, reg(0, i->Vd, i->D), ir_bfi(s, get_si(x, reg(0, i->Vd, i->D)), v, i->T ? 16 : 0, 16));
    return true;
}

/* what: sz, unsigned << 1, to fixed << 2, 32 bits << 3, Vd << 8, fraction bits << 16. In place. */
static uint64_t help_fixed(void *ctx, uint64_t what)
{
    struct arm_cpu *c = ctx;
    struct fpu_env e = arm_fpu(c, false);
    unsigned sz = what & 1, bits = what & 8 ? 32 : 16, d = what >> 8 & 31, frac = what >> 16 & 63;
    bool uns = what & 2;
    uint64_t v = reg_value(c, sz, d);

    if (what & 4) {
        v = fpu_to_int(&e, fmt(sz), v, frac, bits, !uns, FPU_RTZ);
        v = uns ? v & ((UINT64_C(1) << bits) - 1) : (uint64_t)((int64_t)(v << (64 - bits)) >> (64 - bits));
    } else {
        v = uns ? v & ((UINT64_C(1) << bits) - 1) : (uint64_t)((int64_t)(v << (64 - bits)) >> (64 - bits));
        e.round = FPU_RNE;
        v = fpu_from_int(&e, fmt(sz), v, frac, !uns);
    }
    set_reg_value(c, sz, d, v);
    c->a.fpsr |= e.flags;
    return 0;
}

bool gen_vcvt_fix(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned bits = i->sx ? 32 : 16, n = i->imm4 << 1 | i->i;

    if (n > bits)
        return false;
    ir_call(s, IR_VOID, IR_CALL_STATE, (void *)help_fixed,
            ir_c64(s, i->sz | i->u << 1 | i->tofx << 2 | i->sx << 3 | reg(i->sz, i->Vd, i->D) << 8 | (bits - n) << 16),
            IR_NO, IR_NO, IR_NO);
    return true;
}

/* ---- moves between core and vector registers ---- */
bool gen_vmov_s(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned n = reg(0, i->Vn, i->N);

    if (i->Rt == ARM_PC)
        return false;
    if (i->L)
        put_r(x, i->Rt, get_si(x, n));
    else
        put_si(x, n, get_r(x, i, i->Rt));
    return true;
}

bool gen_vmov_rr(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned m = reg(i->sz, i->Vm, i->M), lane = i->sz ? 2 * (m & 1) : 0;
    ir_val v;

    if (i->Rt == ARM_PC || i->Rt2 == ARM_PC || (!i->sz && m == 31))
        return false;
    if (!i->sz && i->L) {
        ir_val lo = get_si(x, m), hi = get_si(x, m + 1);

        put_r(x, i->Rt, lo);
        put_r(x, i->Rt2, hi);
    } else if (!i->sz) {
        put_si(x, m, get_r(x, i, i->Rt));
        put_si(x, m + 1, get_r(x, i, i->Rt2));
    } else if (i->L) {
        v = get_q(x, m >> 1);
        put_r(x, i->Rt, ir_un_x(s, IR_VGETU, IR_I32, IR_S, v, lane));
        put_r(x, i->Rt2, ir_un_x(s, IR_VGETU, IR_I32, IR_S, v, lane + 1));
    } else {
        v = ir_bin_x(s, IR_VINS, IR_V128, IR_S, get_q(x, m >> 1), get_r(x, i, i->Rt), lane);
        put_q(x, m >> 1, ir_bin_x(s, IR_VINS, IR_V128, IR_S, v, get_r(x, i, i->Rt2), lane + 1));
    }
    return true;
}

/* Lane of a Q register by opc1:opc2; false: none. */
static bool scalar_lane(const struct arm_insn *i, unsigned *l, unsigned *index)
{
    unsigned opc = i->opc1 << 2 | i->opc2;

    if (opc & 8)
        *l = 0, *index = opc & 7;
    else if (opc & 1)
        *l = 1, *index = opc >> 1 & 3;
    else if (!(opc & 2))
        *l = 2, *index = opc >> 2 & 1;
    else
        return false;
    *index += (i->N << 4 | i->Vn) & 1 ? 8u >> *l : 0;
    return true;
}

bool gen_vmov_x(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned l, index, q = (i->N << 4 | i->Vn) >> 1;

    if (i->Rt == ARM_PC || !scalar_lane(i, &l, &index))
        return false;
    if (!(i->row->value & 1 << 20)) {
        put_q(x, q, ir_bin_x(s, IR_VINS, IR_V128, l, get_q(x, q), get_r(x, i, i->Rt), index));
        return true;
    }
    if (l == 2 && i->U)
        return false;
    put_r(x, i->Rt, ir_un_x(s, i->U || l == 2 ? IR_VGETU : IR_VGETS, IR_I32, l, get_q(x, q), index));
    return true;
}

bool gen_vdup_r(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned l = i->B ? 0 : i->E ? 1 : 2, d = i->N << 4 | i->Vn;
    ir_val v;

    if (i->Rt == ARM_PC || (i->B && i->E) || (i->Q && d & 1))
        return false;
    v = ir_un_x(x->s, IR_VDUP, IR_V128, l, get_r(x, i, i->Rt), 0);
    if (i->Q)
        put_q(x, d >> 1, v);
    else
        put_d(x, d, v);
    return true;
}

/* ---- loads and stores ---- */
static void load_one(struct arm_xlat *x, unsigned sz, unsigned r, ir_val a, int64_t disp)
{
    if (sz)
        put_d(x, r, ir_load(x->s, IR_V128, IR_M64, a, disp));
    else
        put_s(x, r, ir_load(x->s, IR_V128, IR_M32, a, disp));
}

static void store_one(struct arm_xlat *x, unsigned sz, unsigned r, ir_val a, int64_t disp)
{
    ir_store(x->s, sz ? IR_M64 : IR_M32, a, disp, get_f(x, sz, r));
}

bool gen_vldr(struct arm_xlat *x, const struct arm_insn *i)
{
    int64_t off = (int64_t)i->imm8 * 4;
    unsigned d = reg(i->sz, i->Vd, i->D);
    ir_val a = get_a(x, i, i->Rn);

    if (i->kind == ARM_VLDR)
        load_one(x, i->sz, d, a, i->U ? off : -off);
    else
        store_one(x, i->sz, d, a, i->U ? off : -off);
    return true;
}

bool gen_vldm(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned n = i->sz ? i->imm8 / 2 : i->imm8, d = reg(i->sz, i->Vd, i->D), step = i->sz ? 8 : 4;
    int64_t size = (int64_t)i->imm8 * 4, at = i->U ? 0 : -size;
    ir_val a = get_a(x, i, i->Rn);

    if (i->P == i->U || (i->P && !i->W) || !n || n > 32 || d + n > 32 || (i->W && i->Rn == ARM_PC) || (i->sz && n > 16))
        return false;
    for (unsigned k = 0; k < n; k++, at += step) {
        if (i->sz && !((d + k) & 1) && k + 1 < n) { /* a whole Q register */
            if (i->kind == ARM_VLDM)
                put_q(x, (d + k) >> 1, ir_load(s, IR_V128, IR_M128, a, at));
            else
                ir_store(s, IR_M128, a, at, get_q(x, (d + k) >> 1));
            k++;
            at += step;
        } else if (i->kind == ARM_VLDM) {
            load_one(x, i->sz, d + k, a, at);
        } else {
            store_one(x, i->sz, d + k, a, at);
        }
    }
    if (i->W)
        put_r(x, i->Rn, ir_trunc(s, ir_bin_i(s, IR_ADD, a, (uint64_t)(i->U ? size : -size))));
    return true;
}
