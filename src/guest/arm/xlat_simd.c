/* Emitting IR: Advanced SIMD. Most instructions are those of A64 on V registers, of which the Q registers are the first
 * sixteen; an operand in the upper half of one (an odd D register) and every 64-bit result go through scratch
 * registers. Floating point uses the "standard FPSCR" (flush to zero, default NaN, round to nearest): sums, differences
 * and products are inline when no operand is smaller than 2^-63 and FPSCR rounds to nearest, so that nothing can be
 * flushed; the rest is done by soft-float. */
#include "guest/arm/xlat_int.h"

#define DN(i) ((i)->N << 4 | (i)->Vn)
#define DM(i) ((i)->M << 4 | (i)->Vm)
#define DD(i) ((i)->D << 4 | (i)->Vd)
#define QBIT  (UINT32_C(1) << 30)
enum { SHAPE_D, SHAPE_Q };

/* Number of the V register an operand of that shape is in; -1: it must be a Q register and is not. */
static int operand(struct arm_xlat *x, unsigned d, unsigned shape, unsigned k)
{
    if (shape == SHAPE_Q)
        return d & 1 ? -1 : (int)(d >> 1);
    if (!(d & 1))
        return (int)(d >> 1); /* its low half is what A64 looks at */
    scratch_v(x, k, get_d(x, d));
    return (int)(ARM_SCR + k);
}

/* FADD, FSUB, FMUL and FMUL by an element: the op, and the second operand. */
static bool simple_fp(struct ir *s, uint32_t w, enum ir_opcode *op, ir_val *b)
{
    unsigned m = w >> 16 & 31;

    switch (w & 0xbfe0fc00) {
    case 0x0e20d400:
        *op = IR_VFADD;
        break;
    case 0x0ea0d400:
        *op = IR_VFSUB;
        break;
    case 0x2e20dc00:
        *op = IR_VFMUL;
        break;
    default:
        if ((w & 0xbfc0f400) != 0x0f809000)
            return false;
        *op = IR_VFMUL;
        *b = ir_un_x(s, IR_VDUPL, IR_V128, IR_S, ir_get(s, IR_V128, AV_OFF(m)), (w >> 10 & 2) | (w >> 21 & 1));
        return true;
    }
    *b = ir_get(s, IR_V128, AV_OFF(m));
    return true;
}

/* The word inline, unless it is a rare case. Returns not 0 (I32) where it was not done; IR_NO: nothing was emitted. */
static ir_val plain_fp(struct arm_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    enum ir_opcode op;
    ir_val a, b, rare;

    if (x->skipping || !simple_fp(s, w, &op, &b))
        return IR_NO;
    a = ir_get(s, IR_V128, AV_OFF(w >> 5 & 31));
    if (!(w & QBIT)) {
        a = ir_un_t(s, IR_VLOW, IR_V128, a);
        b = ir_un_t(s, IR_VLOW, IR_V128, b);
    }
    rare = ir_bin(s, IR_OR, ir_bin_x(s, IR_VFSMALL, IR_I32, 0, a, b, 0),
                  ir_bin_i(s, IR_AND, ir_get(s, IR_I32, AC_OFF(a.fpcr)), A64_FPCR_RMODE));
    ir_skip_if(s, rare);
    ir_put(s, AV_OFF(w & 31), ir_bin_x(s, op, IR_V128, IR_S | 16, a, b, 0));
    ir_label(s);
    return rare;
}

static void emit(struct arm_xlat *x, uint32_t w, bool fp)
{
    struct ir *s = x->s;
    ir_val old = IR_NO, rare = fp ? plain_fp(x, w) : IR_NO;

    if (rare != IR_NO)
        ir_skip_if(s, ir_cmp(s, IR_EQ, rare, ir_c32(s, 0)));
    if (fp) {
        old = ir_get(s, IR_I32, AC_OFF(a.fpcr));
        ir_put(s, AC_OFF(a.fpcr),
               ir_bin_i(s, IR_OR, ir_bin_i(s, IR_AND, old, A64_FPCR_AHP), A64_FPCR_DN | A64_FPCR_FZ));
    }
    a64_emit(s, w, fp);
    if (fp)
        ir_put(s, AC_OFF(a.fpcr), old);
    if (rare != IR_NO)
        ir_label(s);
}

/* Vd, Vn, Vm of these shapes; n, m: -1: the word has none. */
struct ops {
    unsigned d, dq;
    int n, m;
    unsigned nq, mq;
    bool fp;
};

static bool common(struct arm_xlat *x, uint32_t w, const struct ops *o)
{
    unsigned begin = x->s->nr;
    int n = o->n < 0 ? 0 : operand(x, (unsigned)o->n, o->nq, 0),
        m = o->m < 0 ? 0 : operand(x, (unsigned)o->m, o->mq, 1);

    if (n < 0 || m < 0 || (o->dq == SHAPE_Q && o->d & 1))
        return false;
    w |= (uint32_t)n << 5 | (uint32_t)m << 16;
    if (o->dq == SHAPE_Q) {
        emit(x, w | o->d >> 1, o->fp);
        scratch_done(x, begin, NULL, NULL, 0, IR_V128);
        return true;
    }
    scratch_v(x, 2, get_d(x, o->d));
    emit(x, w | (ARM_SCR + 2), o->fp);
    put_d(x, o->d, scratch_result(x, begin, 2));
    return true;
}

/* Vector form of 16 or 8 bytes; one element of 64 bits is the scalar form. */
static uint32_t width(uint32_t w, unsigned q, unsigned size)
{
    return q ? w | QBIT : size == 3 ? w | 0x50000000 : w;
}

static bool three(struct arm_xlat *x, const struct arm_insn *i, bool fp, uint32_t w)
{
    bool swap = i->row->form == ARM_FORM_N_SWAP;
    struct ops o = {.d = DD(i),
                    .dq = i->Q,
                    .n = (int)(swap ? DM(i) : DN(i)),
                    .m = (int)(swap ? DN(i) : DM(i)),
                    .nq = i->Q,
                    .mq = i->Q,
                    .fp = fp};

    return common(x, w, &o);
}

static uint32_t ubit(const struct arm_insn *i)
{
    return (i->U | (i->row->value >> 24 & 1)) << 29;
}

bool gen_n3(struct arm_xlat *x, const struct arm_insn *i)
{
    return three(x, i, false, width(i->row->a64, i->Q, i->size) | ubit(i) | i->size << 22);
}

bool gen_nf3(struct arm_xlat *x, const struct arm_insn *i)
{
    return three(x, i, true, width(i->row->a64, i->Q, 0));
}

static bool two(struct arm_xlat *x, const struct arm_insn *i, uint32_t w, unsigned dq, unsigned mq, bool fp)
{
    struct ops o = {.d = DD(i), .dq = dq, .n = (int)DM(i), .m = -1, .nq = mq, .fp = fp};

    return common(x, w, &o);
}

bool gen_n2(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned size = i->size | i->sz1 | (i->row->value >> 18 & 3);

    return two(x, i, width(i->row->a64, i->Q, 0) | i->U << 29 | size << 22, i->Q, i->Q, false);
}

bool gen_nf2(struct arm_xlat *x, const struct arm_insn *i)
{
    return two(x, i, width(i->row->a64, i->Q, 0) | i->U << 29, i->Q, i->Q, i->kind != ARM_VABS && i->kind != ARM_VNEG);
}

bool gen_nxtn(struct arm_xlat *x, const struct arm_insn *i)
{
    return two(x, i, i->row->a64 | i->size << 22, SHAPE_D, SHAPE_Q, false);
}

bool gen_nshll_max(struct arm_xlat *x, const struct arm_insn *i)
{
    return two(x, i, i->row->a64 | i->size << 22, SHAPE_Q, SHAPE_D, false);
}

bool gen_ncvt_h(struct arm_xlat *x, const struct arm_insn *i)
{
    bool narrow = !(i->row->a64 & 0x1000);

    return two(x, i, i->row->a64, narrow ? SHAPE_D : SHAPE_Q, narrow ? SHAPE_Q : SHAPE_D, true);
}

/* AES and SHA: Q registers throughout. */
bool gen_ncrypt(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ops o = {.d = DD(i), .dq = SHAPE_Q, .nq = SHAPE_Q, .mq = SHAPE_Q};

    o.n = i->row->a64 & 1 << 21 ? (int)DM(i) : (int)DN(i);
    o.m = i->row->a64 & 1 << 21 ? -1 : (int)DM(i);
    return common(x, i->row->a64, &o);
}

static bool lengths(struct arm_xlat *x, const struct arm_insn *i, unsigned dq, unsigned nq, unsigned mq)
{
    struct ops o = {.d = DD(i), .dq = dq, .n = (int)DN(i), .m = (int)DM(i), .nq = nq, .mq = mq};

    return common(x, i->row->a64 | ubit(i) | i->size << 22, &o);
}

bool gen_nlong(struct arm_xlat *x, const struct arm_insn *i)
{
    return lengths(x, i, SHAPE_Q, SHAPE_D, SHAPE_D);
}

bool gen_nwide(struct arm_xlat *x, const struct arm_insn *i)
{
    return lengths(x, i, SHAPE_Q, SHAPE_Q, SHAPE_D);
}

bool gen_nnarrow(struct arm_xlat *x, const struct arm_insn *i)
{
    return lengths(x, i, SHAPE_D, SHAPE_Q, SHAPE_Q);
}

/* ---- by scalar: the element is one of a V register in A64 too ---- */
static uint32_t scalar(const struct arm_insn *i, unsigned size)
{
    unsigned d, index, m;

    if (size == 1) {
        d = i->Vm & 7;
        index = (i->M << 1 | i->Vm >> 3) + (d & 1) * 4;
        m = (d >> 1) | (index & 1) << 4;
        return m << 16 | (index >> 1 & 1) << 21 | (index >> 2) << 11;
    }
    d = i->Vm;
    index = i->M + (d & 1) * 2;
    return (d >> 1) << 16 | (index & 1) << 21 | (index >> 1) << 11;
}

bool gen_nx(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ops o = {.d = DD(i), .dq = i->Q, .n = (int)DN(i), .m = -1, .nq = i->Q};

    return common(x, width(i->row->a64, i->Q, 0) | i->size << 22 | scalar(i, i->size), &o);
}

bool gen_nxl(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ops o = {.d = DD(i), .dq = SHAPE_Q, .n = (int)DN(i), .m = -1, .nq = SHAPE_D};

    return common(x, i->row->a64 | i->U << 29 | i->size << 22 | scalar(i, i->size), &o);
}

bool gen_nfx(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ops o = {.d = DD(i), .dq = i->Q, .n = (int)DN(i), .m = -1, .nq = i->Q, .fp = true};

    return common(x, width(i->row->a64, i->Q, 0) | scalar(i, 2), &o);
}

/* ---- multiply and add with two roundings ---- */
static bool mul_add(struct arm_xlat *x, const struct arm_insn *i, uint32_t mul, int m, bool sub)
{
    unsigned begin = x->s->nr, q = i->Q, d = DD(i);
    int rn = operand(x, DN(i), q, 0), rm = m < 0 ? 0 : operand(x, (unsigned)m, q, 1);
    uint32_t add = (sub ? 0x0ea0d400 : 0x0e20d400) | (uint32_t)(ARM_SCR + 2) << 16, rd = q ? d >> 1 : ARM_SCR + 3;

    if (rn < 0 || rm < 0 || (q && d & 1))
        return false;
    emit(x, width(mul, q, 0) | (uint32_t)rm << 16 | (uint32_t)rn << 5 | (ARM_SCR + 2), true);
    if (!q)
        scratch_v(x, 3, get_d(x, d));
    emit(x, width(add, q, 0) | rd << 5 | rd, true);
    if (!q)
        put_d(x, d, scratch_result(x, begin, 3));
    return true;
}

bool gen_nfmla(struct arm_xlat *x, const struct arm_insn *i)
{
    return mul_add(x, i, 0x2e20dc00, (int)DM(i), i->kind == ARM_VMLS);
}

bool gen_nfmla_x(struct arm_xlat *x, const struct arm_insn *i)
{
    return mul_add(x, i, 0x0f809000 | scalar(i, 2), -1, i->kind == ARM_VMLS);
}

/* VRECPS (2 - a b), VRSQRTS ((3 - a b) / 2), the product rounded. what: Vd, Vn << 8, Vm << 16 (D numbers), words << 24,
 * rsqrt << 28 */
static uint64_t help_step(void *ctx, uint64_t what)
{
    struct arm_cpu *c = ctx;
    struct fpu_env e = arm_fpu(c, true);
    uint32_t *v = c->a.v[0].s;
    uint32_t r[4];
    unsigned n = what >> 24 & 15, d = 2 * (what & 31), an = 2 * (what >> 8 & 31), am = 2 * (what >> 16 & 31);

    for (unsigned k = 0; k < n; k++) {
        uint32_t a = v[an + k], b = v[am + k], za = a << 1, zb = b << 1;
        bool zero_inf = (za == 0xff000000 && zb < 0x01000000) || (zb == 0xff000000 && za < 0x01000000);
        uint64_t p = zero_inf ? 0 : fpu_mul(&e, fpu_s, a, b);

        if (zero_inf && ((za && za < 0x01000000) || (zb && zb < 0x01000000)))
            e.flags |= FPU_DENORMAL;
        if (what >> 28 & 1)
            r[k] = (uint32_t)fpu_mul(&e, fpu_s, fpu_sub(&e, fpu_s, 0x40400000, p), 0x3f000000);
        else
            r[k] = (uint32_t)fpu_sub(&e, fpu_s, 0x40000000, p);
    }
    for (unsigned k = 0; k < n; k++)
        v[d + k] = r[k];
    c->a.fpsr |= e.flags;
    return 0;
}

bool gen_nstep(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;

    if (i->Q && (DD(i) | DN(i) | DM(i)) & 1)
        return false;
    ir_call(
        s, IR_VOID, IR_CALL_STATE, (void *)help_step,
        ir_c64(s, DD(i) | DN(i) << 8 | DM(i) << 16 | (i->Q ? 4u : 2u) << 24 | (i->kind == ARM_VRSQRTS ? 1u << 28 : 0)),
        IR_NO, IR_NO, IR_NO);
    return true;
}

/* ---- immediates and shifts ---- */
bool gen_nimm(struct arm_xlat *x, const struct arm_insn *i)
{
    uint32_t imm8 = i->ia << 7 | i->imm3 << 4 | i->imm4;
    struct ops o = {.d = DD(i), .dq = i->Q, .n = -1, .m = -1};

    if (i->cmode == 15 && i->op)
        return false;
    return common(
        x, 0x0f000400 | (i->Q ? QBIT : 0) | i->op << 29 | (imm8 >> 5) << 16 | i->cmode << 12 | (imm8 & 31) << 5, &o);
}

static uint32_t immh(const struct arm_insn *i)
{
    return (i->L << 6 | i->imm6) << 16;
}

bool gen_nshift(struct arm_xlat *x, const struct arm_insn *i)
{
    return two(x, i, width(i->row->a64, i->Q, i->L ? 3 : 0) | ubit(i) | immh(i), i->Q, i->Q, false);
}

bool gen_nshrn(struct arm_xlat *x, const struct arm_insn *i)
{
    return two(x, i, i->row->a64 | ubit(i) | immh(i), SHAPE_D, SHAPE_Q, false);
}

bool gen_nshll(struct arm_xlat *x, const struct arm_insn *i)
{
    return two(x, i, i->row->a64 | ubit(i) | immh(i), SHAPE_Q, SHAPE_D, false);
}

bool gen_nfshift(struct arm_xlat *x, const struct arm_insn *i)
{
    if (!(i->imm6 & 32))
        return false;
    return two(x, i, width(i->row->a64, i->Q, 0) | ubit(i) | immh(i), i->Q, i->Q, true);
}

/* ---- moving elements ---- */
bool gen_next(struct arm_xlat *x, const struct arm_insn *i)
{
    if (!i->Q && i->imm4 > 7)
        return false;
    return three(x, i, false, i->row->a64 | (i->Q ? QBIT : 0) | i->imm4 << 11);
}

bool gen_vdup_x(struct arm_xlat *x, const struct arm_insn *i)
{
    unsigned l, index, d = DD(i), m = DM(i);
    ir_val v;

    if (!(i->imm4 & 7) || (i->Q && d & 1))
        return false;
    l = (unsigned)__builtin_ctz(i->imm4);
    index = (i->imm4 >> (l + 1)) + (m & 1 ? 8u >> l : 0);
    v = ir_un_x(x->s, IR_VDUPL, IR_V128, l, get_q(x, m >> 1), index);
    if (i->Q)
        put_q(x, d >> 1, v);
    else
        put_d(x, d, v);
    return true;
}

/* VSWP VTRN VUZP VZIP: both registers change. */
bool gen_nswap(struct arm_xlat *x, const struct arm_insn *i)
{
    uint32_t w = i->kind == ARM_VTRN ? 0x0e002800 : i->kind == ARM_VUZP ? 0x0e001800 : 0x0e003800, regs;
    unsigned begin, d = DD(i), m = DM(i);
    size_t off[2] = {AV_OFF(ARM_SCR + 2), AV_OFF(ARM_SCR + 3)};
    ir_val v[2];
    int rd, rm;

    if ((i->Q && (d | m) & 1) || (!i->Q && i->size == 2 && (i->kind == ARM_VUZP || i->kind == ARM_VZIP)))
        return false;
    if (i->kind == ARM_VSWP) {
        v[0] = i->Q ? get_q(x, m >> 1) : get_d(x, m);
        v[1] = i->Q ? get_q(x, d >> 1) : get_d(x, d);
    } else {
        begin = x->s->nr;
        rd = operand(x, d, i->Q, 0);
        rm = operand(x, m, i->Q, 1);
        regs = (i->Q ? QBIT : 0) | i->size << 22 | (uint32_t)rm << 16 | (uint32_t)rd << 5;
        emit(x, w | regs | (ARM_SCR + 2), false);
        emit(x, w | 0x4000 | regs | (ARM_SCR + 3), false);
        scratch_done(x, begin, off, v, 2, IR_V128);
    }
    if (i->Q) {
        put_q(x, d >> 1, v[0]);
        put_q(x, m >> 1, v[1]);
    } else {
        put_d(x, d, v[0]);
        put_d(x, m, v[1]);
    }
    return true;
}

/* D registers n and n + 1 in one vector. */
static ir_val pair(struct arm_xlat *x, unsigned n)
{
    if (!(n & 1))
        return get_q(x, n >> 1);
    return ir_bin_x(x->s, IR_VEXT, IR_V128, 0, get_q(x, n >> 1), get_q(x, (n >> 1) + 1), 8);
}

static ir_val bytes(struct arm_xlat *x, unsigned v)
{
    return ir_vconst(x->s, v * UINT64_C(0x0101010101010101), true);
}

bool gen_vtbl(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned n = DN(i), count = i->tlen + 1;
    ir_val index = get_d(x, DM(i)), r = IR_NO, in;

    if (n + count > 32)
        return false;
    for (unsigned k = 0; k < count; k += 2) {
        ir_val t = k + 1 < count ? pair(x, n + k) : ir_un(s, IR_VLOW, get_d(x, n + k));
        ir_val at = k ? ir_bin_x(s, IR_VSUB, IR_V128, IR_B, index, bytes(x, 8 * k), 0) : index;

        t = ir_bin_x(s, IR_VTBL, IR_V128, 0, t, at, 0);
        r = k ? ir_bin(s, IR_VOR, r, t) : t;
    }
    if (i->op) {
        in = ir_bin_x(s, IR_VCMPGTU, IR_V128, IR_B, bytes(x, 8 * count), index, 0);
        r = ir_tri(s, IR_VBSL, in, r, get_d(x, DD(i)));
    }
    put_d(x, DD(i), r);
    return true;
}

/* ---- structures ---- */
static void write_back(struct arm_xlat *x, const struct arm_insn *i, ir_val a, unsigned size)
{
    struct ir *s = x->s;

    if (i->Rm == ARM_PC)
        return;
    a = ir_trunc(s, a);
    put_r(x, i->Rn, i->Rm == ARM_SP ? ir_bin_i(s, IR_ADD, a, size) : ir_bin(s, IR_ADD, a, get_r(x, i, i->Rm)));
}

struct list { /* of a multiple structure access */
    unsigned d, regs /* of each member */, inc, n /* members */, log2;
};

static uint64_t list_code(const struct list *l)
{
    return l->d | l->regs << 8 | l->inc << 12 | l->n << 16 | l->log2 << 20;
}

/* tmp[] <-> D registers. */
static void deal(struct arm_cpu *c, uint64_t what, bool load)
{
    unsigned d = what & 31, regs = what >> 8 & 15, inc = what >> 12 & 15, n = what >> 16 & 15,
             size = 1u << (what >> 20 & 3);
    uint8_t *at = c->a.tmp[0].b;

    for (unsigned r = 0; r < regs; r++)
        for (unsigned e = 0; e < 8; e += size)
            for (unsigned k = 0; k < n; k++, at += size) {
                unsigned dr = (d + r + k * inc) & 31;
                uint8_t *v = (uint8_t *)&c->a.v[dr >> 1].d[dr & 1] + e;

                memcpy(load ? v : at, load ? at : v, size);
            }
}

static uint64_t help_deal(void *ctx, uint64_t what)
{
    deal(ctx, what, true);
    return 0;
}

static uint64_t help_gather(void *ctx, uint64_t what)
{
    deal(ctx, what, false);
    return 0;
}

static void linear(struct arm_xlat *x, bool load, unsigned d, unsigned n, ir_val a)
{
    struct ir *s = x->s;

    for (unsigned k = 0; k < n; k++) {
        if (load)
            put_d(x, d + k, ir_load(s, IR_V128, IR_M64, a, 8 * k));
        else
            ir_store(s, IR_M64, a, 8 * k, get_d(x, d + k));
    }
}

static void interleaved(struct arm_xlat *x, bool load, const struct list *l, unsigned size, ir_val a)
{
    struct ir *s = x->s;
    ir_val v[4];

    if (load) {
        for (unsigned k = 0; k < size; k += 16)
            v[k / 16] = ir_load(s, IR_V128, size - k >= 16 ? IR_M128 : IR_M64, a, k);
        for (unsigned k = 0; k < size; k += 16)
            ir_put(s, AC_OFF(a.tmp) + k, v[k / 16]);
        ir_call(s, IR_VOID, IR_CALL_STATE, (void *)help_deal, ir_c64(s, list_code(l)), IR_NO, IR_NO, IR_NO);
    } else {
        ir_call(s, IR_VOID, IR_CALL_STATE, (void *)help_gather, ir_c64(s, list_code(l)), IR_NO, IR_NO, IR_NO);
        for (unsigned k = 0; k < size; k += 16)
            ir_store(s, size - k >= 16 ? IR_M128 : IR_M64, a, k, ir_get(s, IR_V128, AC_OFF(a.tmp) + k));
    }
}

bool gen_vst_multi(struct arm_xlat *x, const struct arm_insn *i)
{
    /* by the type field: members, registers of each, distance */
    static const uint8_t kinds[16][3] = {
        [0] = {4, 1, 1}, [1] = {4, 1, 2}, [2] = {1, 4, 1}, [3] = {2, 2, 2}, [4] = {3, 1, 1}, [5] = {3, 1, 2},
        [6] = {1, 3, 1}, [7] = {1, 1, 1}, [8] = {2, 1, 1}, [9] = {2, 1, 2}, [10] = {1, 2, 1}};
    /* values of the alignment field that are not allocated, as bits */
    static const uint8_t no_align[16] = {[4] = 12, [5] = 12, [6] = 12, [7] = 12, [8] = 8, [9] = 8, [10] = 8};
    unsigned type = i->row->value >> 8 & 15;
    const uint8_t *k = kinds[type];
    struct list l = {.d = DD(i), .n = k[0], .regs = k[1], .inc = k[2], .log2 = i->size};
    bool load = i->row->value & 1 << 21;
    unsigned size = 8 * l.n * l.regs, last = l.d + (l.n - 1) * l.inc + l.regs - 1;
    ir_val a = get_a(x, i, i->Rn);

    if (i->Rn == ARM_PC || last > 31 || (l.n > 1 && i->size == 3) || no_align[type] >> i->al & 1)
        return false;
    if (l.n == 1)
        linear(x, load, l.d, l.regs, a);
    else
        interleaved(x, load, &l, size, a);
    write_back(x, i, a, size);
    return true;
}

/* Values of the index and alignment field that are not allocated, for n members. */
static bool bad_index(unsigned n, unsigned l, unsigned ia)
{
    switch (n) {
    case 1:
        return l == 0 ? ia & 1 : l == 1 ? ia & 2 : ia & 4 || ((ia & 3) != 0 && (ia & 3) != 3);
    case 2:
        return l == 2 && ia & 2;
    case 3:
        return l == 2 ? ia & 3 : ia & 1;
    default:
        return l == 2 && (ia & 3) == 3;
    }
}

bool gen_vst_one(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned n = (i->row->value >> 8 & 3) + 1, l = i->size, index = i->ia >> (l + 1), inc = l && i->ia >> l & 1 ? 2 : 1;
    unsigned d = DD(i);
    ir_val a = get_a(x, i, i->Rn), v[4];

    if (l == 3 || i->Rn == ARM_PC || d + (n - 1) * inc > 31 || bad_index(n, l, i->ia))
        return false;
    for (unsigned k = 0; k < n; k++) {
        unsigned r = d + k * inc, at = index + (r & 1 ? 8u >> l : 0);

        if (i->row->value & 1 << 21)
            v[k] = ir_load(s, IR_I32, l, a, (int64_t)k << l);
        else
            ir_store(s, l, a, (int64_t)k << l, ir_un_x(s, IR_VGETU, IR_I32, l, get_q(x, r >> 1), at));
    }
    for (unsigned k = 0; k < n && i->row->value & 1 << 21; k++) {
        unsigned r = d + k * inc, at = index + (r & 1 ? 8u >> l : 0);

        put_q(x, r >> 1, ir_bin_x(s, IR_VINS, IR_V128, l, get_q(x, r >> 1), v[k], at));
    }
    write_back(x, i, a, n << l);
    return true;
}

bool gen_vld_rep(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned n = (i->row->value >> 8 & 3) + 1, l = i->size, regs = n == 1 && i->T ? 2 : 1, inc = n > 1 && i->T ? 2 : 1;
    unsigned d = DD(i);
    ir_val a = get_a(x, i, i->Rn), v[4];

    if (l == 3 && n == 4 && i->al)
        l = 2;
    if (l == 3 || i->Rn == ARM_PC || d + (n - 1) * inc + regs - 1 > 31 || (i->al && (n == 3 || (n == 1 && l == 0))))
        return false;
    for (unsigned k = 0; k < n; k++)
        v[k] = ir_load(s, IR_I32, l, a, (int64_t)k << l);
    for (unsigned k = 0; k < n; k++)
        for (unsigned r = 0; r < regs; r++)
            put_d(x, d + k * inc + r, ir_un_x(s, IR_VDUP, IR_V128, l, v[k], 0));
    write_back(x, i, a, n << l);
    return true;
}
