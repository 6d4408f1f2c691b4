/* Host code for scalar FP. The host's NaN results differ from every guest's, so each op that can make one looks for it
 * (ucomis, jp) and leaves the rare case to the reference or loads the canonical NaN. */
#include "jit/ir_int.h"

#define XR(r) ((r)-XMM0)
enum { K_SIGN64 = 0, K_SIGN32 = 1, K_ABS64 = 2, K_ABS32 = 3, K_BOX = 4 };
#define KONST(n) JIT_GS(IRX(konst) + 16 * (n))

static bool commutes(unsigned op)
{
    return op == IR_FADD || op == IR_FMUL;
}

/* Is what lies above a scalar's source zero? */
static bool flows_alone(const struct ir_op *from, unsigned t)
{
    unsigned size = from->attr & IR_MSIZE;

    return from->op == IR_LOAD && from->t == IR_V128 && size <= (t == IR_F64 ? IR_M64 : IR_M32);
}

/* Scalar instructions take what is above from one of their sources, and most of what programs reckon with was loaded.
 */
static bool zero_above(const struct ir *s, ir_val v, unsigned depth)
{
    const struct ir_op *o = &s->op[v];
    unsigned nr = 1;

    switch (o->op) {
    case IR_LOAD:
    case IR_FMOV_I:
    case IR_ITOF:
        return true;
    case IR_FLOW:
        return flows_alone(&s->op[o->a[0]], o->t);
    case IR_FADD:
    case IR_FMUL:
        nr = 2;
        break;
    case IR_FMA:
        nr = 3;
        break;
    case IR_FSUB:
    case IR_FDIV:
    case IR_FSQRT:
    case IR_FROUND:
    case IR_FABS:
        break;
    case IR_FCVT:
        nr = o->t == IR_F64;
        break;
    default:
        return false;
    }
    for (unsigned i = 0; i < nr && depth; i++)
        if (zero_above(s, o->a[i], depth - 1))
            return true;
    return false;
}

bool ir_zero_above(const struct ir *s, ir_val v)
{
    enum { FAR_ENOUGH = 5 };

    return zero_above(s, v, FAR_ENOUGH);
}

static bool is_d(unsigned t)
{
    return t == IR_F64;
}
static unsigned sd(bool d) /* scalar prefix */
{
    return d ? 3 : 2;
}

static void ucomis(struct irc *c, bool d, bool signalling, unsigned a, unsigned b)
{
    ir_vex(c->b, d ? 1 : 0, 1, 0, signalling ? 0x2f : 0x2e, XR(a), 0, XR(b));
}

/* The op again by the reference, entered by the jump just emitted at `from`. */
static void cold_eval(struct irc *c, uint8_t *from, unsigned d, const unsigned *arg, unsigned n)
{
    struct ir_cold *k = ir_new_cold(c, COLD_EVAL);

    k->from = from;
    k->back = c->b->p;
    k->n = c->cur;
    k->dst = (uint8_t)d;
    for (unsigned i = 0; i < n; i++)
        k->reg[i] = (uint8_t)arg[i];
}

static void cold_cnan(struct irc *c, uint8_t *from, unsigned d, unsigned t)
{
    struct ir_cold *k = ir_new_cold(c, COLD_CNAN);

    k->from = from;
    k->back = c->b->p;
    k->n = t;
    k->dst = (uint8_t)d;
}

/* d, just made, may be a NaN. */
static void check_nan(struct irc *c, unsigned d, const unsigned *arg, unsigned n)
{
    unsigned t = c->s->op[c->cur].t;
    uint8_t *from;

    ucomis(c, is_d(t), false, d, d);
    from = jit_jcc_fwd(c->b, JCC_P);
    if (c->env->nan == IR_NAN_DEFAULT)
        cold_cnan(c, from, d, t);
    else
        cold_eval(c, from, d, arg, n);
}

/* Operands must outlive the op where the cold path reads them. */
static uint32_t keep(const struct irc *c, const unsigned *arg, unsigned n)
{
    uint32_t m = 0;

    for (unsigned i = 0; i < n && c->env->nan != IR_NAN_DEFAULT; i++)
        m |= 1u << arg[i];
    return m;
}

static void arith(struct irc *c, const struct ir_op *o)
{
    static const uint8_t op[] = {0x58, 0x5c, 0x59, 0x5e, 0x51};
    unsigned arg[2], n = o->op == IR_FSQRT ? 1 : 2, d, first;

    ir_clobber_flags(c);
    for (unsigned i = 0; i < n; i++)
        arg[i] = ir_use(c, o->a[i]);
    d = ir_dst(c, (ir_val)c->cur, keep(c, arg, n));
    first = commutes(o->op) && !ir_zero_above(c->s, o->a[0]) && ir_zero_above(c->s, o->a[1]);
    ir_vex(c->b, sd(is_d(o->t)), 1, 0, op[o->op - IR_FADD], XR(d), XR(arg[first]), XR(arg[first ^ (n - 1)]));
    check_nan(c, d, arg, n);
    ir_made(c, (ir_val)c->cur, d);
}

static void fma_op(struct irc *c, const struct ir_op *o)
{
    static const uint8_t op[] = {0xa9, 0xad, 0xab, 0xaf}; /* d * x + y; 0x10 more: x * y + d */
    unsigned arg[3], d, first = 0;
    uint8_t *from;

    ir_clobber_flags(c);
    for (unsigned i = 0; i < 3; i++)
        arg[i] = ir_use(c, o->a[i]);
    d = ir_dst(c, (ir_val)c->cur, 1u << arg[0] | 1u << arg[1] | 1u << arg[2]);
    while (first < 2 && !ir_zero_above(c->s, o->a[first]))
        first++;
    ir_mov(c, d, arg[first], IR_V128);
    ir_vex(c->b, 1, 2, is_d(o->t), op[o->attr & 3] + (first == 2 ? 0x10 : 0), XR(d), XR(arg[first == 1 ? 0 : 1]),
           XR(arg[first == 2 ? 0 : 2]));
    ucomis(c, is_d(o->t), false, d, d); /* the reference knows what infinity times zero plus NaN raises */
    from = jit_jcc_fwd(c->b, JCC_P);
    cold_eval(c, from, d, arg, 3);
    ir_made(c, (ir_val)c->cur, d);
}

/* Numbers: min(a, b) | min(b, a) orders zeros too; NaNs are for the reference. */
static void minmax(struct irc *c, const struct ir_op *o)
{
    bool max = o->op == IR_FMAX, d64 = is_d(o->t);
    unsigned arg[2], d, t;
    uint8_t *from;

    ir_clobber_flags(c);
    arg[0] = ir_use(c, o->a[0]);
    arg[1] = ir_use(c, o->a[1]);
    t = ir_tmp(c, true);
    d = ir_dst(c, (ir_val)c->cur, 1u << arg[0] | 1u << arg[1]);
    ucomis(c, d64, false, arg[0], arg[1]);
    from = jit_jcc_fwd(c->b, JCC_P);
    ir_vex(c->b, sd(d64), 1, 0, max ? 0x5f : 0x5d, XR(d), XR(arg[0]), XR(arg[1]));
    ir_vex(c->b, sd(d64), 1, 0, max ? 0x5f : 0x5d, XR(t), XR(arg[1]), XR(arg[0]));
    ir_vex(c->b, 0, 1, 0, max ? 0x54 : 0x56, XR(d), XR(d), XR(t));
    cold_eval(c, from, d, arg, 2);
    ir_made(c, (ir_val)c->cur, d);
}

static void fcmp(struct irc *c, const struct ir_op *o)
{
    bool d64 = is_d(c->s->op[o->a[0]].t), sig = o->attr & 8;
    unsigned a, b, d, t, cc = o->attr & 7;

    ir_clobber_flags(c);
    a = ir_use(c, o->a[0]);
    b = ir_use(c, o->a[1]);
    if (cc == IR_FLT || cc == IR_FLE) {
        t = a;
        a = b;
        b = t;
    }
    ucomis(c, d64, sig, a, b);
    if (cc != IR_FEQ) {
        ir_code_setcc(c, cc == IR_FUN ? JCC_P : cc == IR_FLT || cc == IR_FGT ? JCC_A : JCC_AE);
        return;
    }
    t = ir_tmp(c, false);
    d = ir_dst(c, (ir_val)c->cur, 0);
    jit_op_reg(c->b, JIT_RM8, 0x0f90 | JCC_NP, 0, t);
    jit_op_reg(c->b, JIT_RM8, 0x0f90 | JCC_E, 0, d);
    jit_op_reg(c->b, 0, 0x23, d, t);
    jit_op_reg(c->b, JIT_RM8, 0x0fb6, d, d);
    ir_made(c, (ir_val)c->cur, d);
}

static void sign_ops(struct irc *c, const struct ir_op *o)
{
    bool d64 = is_d(o->t);
    unsigned a = ir_use(c, o->a[0]), d, t, b;
    struct jit_mem sign = KONST(d64 ? K_SIGN64 : K_SIGN32), mag = KONST(d64 ? K_ABS64 : K_ABS32);

    if (o->op != IR_FCOPYSIGN) {
        d = ir_dst(c, (ir_val)c->cur, 0);
        if (o->op == IR_FNEG)
            ir_vex_m(c->b, 0, 1, 0, 0x57, XR(d), XR(a), sign);
        else
            ir_vex_m(c->b, 0, 1, 0, 0x54, XR(d), XR(a), mag);
        ir_made(c, (ir_val)c->cur, d);
        return;
    }
    b = ir_use(c, o->a[1]);
    t = ir_tmp(c, true);
    d = ir_dst(c, (ir_val)c->cur, 0);
    ir_vex_m(c->b, 0, 1, 0, o->attr == 1 ? 0x55 : 0x54, XR(t), XR(b), sign); /* andnps, andps */
    if (o->attr == 2) {
        ir_vex(c->b, 0, 1, 0, 0x57, XR(d), XR(a), XR(t));
    } else {
        ir_vex_m(c->b, 0, 1, 0, 0x54, XR(d), XR(a), mag);
        ir_vex(c->b, 0, 1, 0, 0x56, XR(d), XR(d), XR(t));
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void convert(struct irc *c, const struct ir_op *o)
{
    unsigned a, d;

    ir_clobber_flags(c);
    a = ir_use(c, o->a[0]);
    d = ir_dst(c, (ir_val)c->cur, 0);
    ir_vex(c->b, is_d(o->t) ? 2 : 3, 1, 0, 0x5a, XR(d), XR(a), XR(a));
    if (c->env->nan == IR_NAN_DEFAULT) /* else the host keeps payloads as Arm does */
        check_nan(c, d, NULL, 0);
    ir_made(c, (ir_val)c->cur, d);
}

/* Bits of a as unsigned below those of 2^n: a is a number from 0 up to it. */
static uint8_t *range_check(struct irc *c, bool d64, unsigned a, unsigned n, unsigned t)
{
    unsigned k;

    ir_vex(c->b, 1, 1, d64, 0x7e, XR(a), 0, t);
    if (!d64) {
        jit_op_reg(c->b, 0, 0x81, 7, t);
        jit_32(c->b, (127 + n) << 23);
    } else {
        k = ir_tmp(c, false);
        jit_mov_ri(c->b, k, (uint64_t)(1023 + n) << 52);
        jit_op_reg(c->b, JIT_W, 0x3b, t, k);
    }
    return jit_jcc_fwd(c->b, JCC_AE);
}

static bool ftoi(struct irc *c, const struct ir_op *o)
{
    unsigned rm = o->attr & 7, a, d, w = o->t == IR_I64 ? JIT_W : 0, x;
    bool d64 = o->attr & 64, uns = o->attr & 8;
    uint8_t *from;

    if (rm == IR_RNA || (rm != IR_RTZ && rm != IR_RDYN && (uns || !w)) || (uns && rm != IR_RTZ))
        return false;
    ir_clobber_flags(c);
    a = x = ir_use(c, o->a[0]);
    d = ir_dst(c, (ir_val)c->cur, 0);
    if (rm != IR_RTZ && rm != IR_RDYN) {
        static const uint8_t mode[] = {0, 3, 1, 2};

        x = ir_tmp(c, true);
        ir_vex(c->b, 1, 3, 0, d64 ? 0x0b : 0x0a, XR(x), XR(a), XR(a));
        jit_8(c->b, mode[rm]);
    }
    if (uns) {
        from = range_check(c, d64, a, w ? 63 : 32, d);
        ir_vex(c->b, sd(d64), 1, 1, 0x2c, d, 0, XR(a));
    } else {
        ir_vex(c->b, sd(d64), 1, w ? 1 : 0, rm == IR_RDYN ? 0x2d : 0x2c, d, 0, XR(x));
        jit_op_reg(c->b, w, 0x83, 7, d); /* cmp d, 1: overflows for the smallest only */
        jit_8(c->b, 1);
        from = jit_jcc_fwd(c->b, JCC_O);
    }
    cold_eval(c, from, d, &a, 1);
    ir_made(c, (ir_val)c->cur, d);
    return true;
}

static bool itof(struct irc *c, const struct ir_op *o)
{
    unsigned rm = o->attr & 7, a, d, t;
    bool wide = o->attr & 32, uns = o->attr & 8, d64 = is_d(o->t);
    uint8_t *from = NULL;

    if (rm != IR_RDYN && !(d64 && !wide))
        return false;
    ir_clobber_flags(c);
    a = ir_use(c, o->a[0]);
    if (uns && !wide) {
        t = ir_tmp(c, false);
        jit_mov_rr32(c->b, t, a);
        a = t;
        wide = true;
    } else if (uns) {
        jit_op_reg(c->b, JIT_W, 0x85, a, a);
        from = jit_jcc_fwd(c->b, JCC_S);
    }
    d = ir_dst(c, (ir_val)c->cur, 0);
    ir_vex(c->b, 0, 1, 0, 0x57, XR(d), XR(d), XR(d));
    ir_vex(c->b, sd(d64), 1, wide, 0x2a, XR(d), XR(d), a);
    if (from)
        cold_eval(c, from, d, &a, 1);
    ir_made(c, (ir_val)c->cur, d);
    return true;
}

static bool fround(struct irc *c, const struct ir_op *o)
{
    static const uint8_t mode[] = {0, 3, 1, 2, 0, 0, 0, 4};
    unsigned a, d;

    if ((o->attr & 7) == IR_RNA)
        return false;
    ir_clobber_flags(c);
    a = ir_use(c, o->a[0]);
    d = ir_dst(c, (ir_val)c->cur, 0);
    ir_vex(c->b, 1, 3, 0, is_d(o->t) ? 0x0b : 0x0a, XR(d), XR(a), XR(a));
    jit_8(c->b, mode[o->attr & 7] | (o->attr & 8 ? 0u : 8u));
    if (c->env->nan == IR_NAN_DEFAULT)
        check_nan(c, d, NULL, 0);
    ir_made(c, (ir_val)c->cur, d);
    return true;
}

static void moves(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), d = ir_dst(c, (ir_val)c->cur, 0);

    if (o->op == IR_FMOV_I)
        ir_vex(c->b, 1, 1, is_d(o->t), 0x6e, XR(d), 0, a);
    else
        ir_vex(c->b, 1, 1, o->t == IR_I64, 0x7e, XR(a), 0, d);
    ir_made(c, (ir_val)c->cur, d);
}

/* A scalar and what belongs above it. By vmovss and vmovsd: integer moves of what FP instructions made cost three times
 * as much. */
static void with_above(struct irc *c, const struct ir_op *o)
{
    bool box = o->op == IR_FBOX;
    unsigned a = ir_use(c, o->a[0]), d = ir_dst(c, (ir_val)c->cur, 0), t = d == a ? ir_tmp(c, true) : d;

    if (box)
        ir_vex_m(c->b, 0, 1, 0, 0x10, XR(t), 0, KONST(K_BOX));
    else
        ir_vex(c->b, 0, 1, 0, 0x57, XR(t), XR(t), XR(t));
    ir_vex(c->b, sd(!box && o->attr), 1, 0, 0x10, XR(d), XR(t), XR(a));
    ir_made(c, (ir_val)c->cur, d);
}

static void unbox(struct irc *c, const struct ir_op *o)
{
    unsigned a, d, t;

    ir_clobber_flags(c);
    a = ir_use(c, o->a[0]);
    t = ir_tmp(c, false);
    d = ir_dst(c, (ir_val)c->cur, 0);
    ir_vex(c->b, 1, 3, 0, 0x16, XR(a), 0, t); /* vpextrd t, a, 1 */
    jit_8(c->b, 1);
    ir_mov(c, d, a, IR_V128);
    jit_op_reg(c->b, 0, 0x83, 7, t);
    jit_8(c->b, 0xff);
    cold_cnan(c, jit_jcc_fwd(c->b, JCC_NE), d, IR_F32);
    ir_made(c, (ir_val)c->cur, d);
}

static void csr(struct irc *c, const struct ir_op *o)
{
    unsigned r;
    uint8_t *same;

    if (o->op == IR_FPSET) { /* loading and storing are slow, and most often nothing has changed */
        ir_clobber_flags(c);
        r = ir_use(c, o->a[0]);
        jit_op_mem(c->b, 0, 0x3b, r, GSX(mxcsr), 0); /* as FPGET stored it */
        same = jit_jcc8_fwd(c->b, JCC_E);
        jit_store32(c->b, GSX(mxcsr), r);
        jit_op_mem(c->b, 0, 0x0fae, 2, GSX(mxcsr), 0); /* ldmxcsr */
        jit_patch8(c->b, same);
        return;
    }
    jit_op_mem(c->b, 0, 0x0fae, 3, GSX(mxcsr), 0); /* stmxcsr */
    r = ir_dst(c, (ir_val)c->cur, 0);
    jit_load32(c->b, r, GSX(mxcsr));
    ir_made(c, (ir_val)c->cur, r);
}

bool ir_code_fp(struct irc *c, const struct ir_op *o)
{
    switch (o->op) {
    case IR_FADD ... IR_FSQRT:
        if (o->attr >> 4)
            return false;
        arith(c, o);
        return true;
    case IR_FMA:
        if (o->attr >> 4)
            return false;
        fma_op(c, o);
        return true;
    case IR_FMIN:
    case IR_FMAX:
        minmax(c, o);
        return true;
    case IR_FCMP:
        fcmp(c, o);
        return true;
    case IR_FNEG ... IR_FCOPYSIGN:
        sign_ops(c, o);
        return true;
    case IR_FCVT:
        if (o->attr >> 4)
            return false;
        convert(c, o);
        return true;
    case IR_FTOI:
        return ftoi(c, o);
    case IR_ITOF:
        return itof(c, o);
    case IR_FROUND:
        return fround(c, o);
    case IR_FMOV_I:
    case IR_IMOV_F:
        moves(c, o);
        return true;
    case IR_VFLOW:
        if (ir_zero_above(c->s, o->a[0]) && (c->v[o->a[0]].loc == L_REG || c->v[o->a[0]].loc == L_PIN)) {
            ir_code_retype(c, o);
            return true;
        }
        FALLTHROUGH;
    case IR_FBOX:
        with_above(c, o);
        return true;
    case IR_FUNBOX:
        unbox(c, o);
        return true;
    case IR_FPGET:
    case IR_FPSET:
        csr(c, o);
        return true;
    case IR_FLOW:
    case IR_VCAST:
        ir_code_retype(c, o);
        return true;
    default:
        return false;
    }
}
