/* RISC-V F and D to IR, and the floating-point CSRs. Single precision lives NaN-boxed in 64-bit registers. */
#include "guest/riscv/emit_int.h"

#include <time.h>

static bool is_d(const struct rv_emit *e)
{
    return e->in >> 25 & 1;
}
static enum ir_type type(const struct rv_emit *e)
{
    return is_d(e) ? IR_F64 : IR_F32;
}

static ir_val get_f(struct rv_emit *e, unsigned r, bool d)
{
    ir_val v = ir_get(e->s, IR_V128, RV_F(r));

    return d ? ir_un_t(e->s, IR_FLOW, IR_F64, v) : ir_un_t(e->s, IR_FUNBOX, IR_F32, v);
}

static void put_f(struct rv_emit *e, ir_val v)
{
    bool d = ir_type_of(e->s, v) == IR_F64;

    ir_put(e->s, RV_F(RV_RD(e)), d ? ir_un_t(e->s, IR_VCAST, IR_V128, v) : ir_un_t(e->s, IR_FBOX, IR_V128, v));
}

/* The instruction's rounding mode; false: reserved. */
static bool rounding(const struct rv_emit *e, unsigned *rm)
{
    *rm = e->in >> 12 & 7;
    return *rm != 5 && *rm != 6;
}
/* As an attribute of arithmetic ops. */
static unsigned arith_round(unsigned rm)
{
    return rm == IR_RDYN ? 0 : (1 + rm) << 4;
}

static void fma_op(struct rv_emit *e, unsigned rm)
{
    static const uint8_t neg[] = {0, 2, 1, 3};
    bool d = is_d(e);

    put_f(e, ir_tri_x(e->s, IR_FMA, type(e), arith_round(rm) | neg[e->op - RV_FMADD], get_f(e, RV_RS1(e), d),
                      get_f(e, RV_RS2(e), d), get_f(e, RV_RS3(e), d), 0));
}

static void memory(struct rv_emit *e)
{
    ir_val a = rv_get(e, RV_RS1(e));

    switch (e->op) {
    case RV_FLW:
        put_f(e, ir_load(e->s, IR_F32, IR_M32, a, rv_imm_i(e)));
        break;
    case RV_FLD:
        put_f(e, ir_load(e->s, IR_F64, IR_M64, a, rv_imm_i(e)));
        break;
    default:
        ir_store(e->s, e->op == RV_FSW ? IR_M32 : IR_M64, a, rv_imm_s(e), ir_get(e->s, IR_V128, RV_F(RV_RS2(e))));
        break;
    }
}

static void compare(struct rv_emit *e)
{
    static const uint8_t cc[] = {IR_FLE | 8, IR_FLT | 8, IR_FEQ};
    bool d = is_d(e);

    rv_put(e, ir_zext(e->s, ir_bin_x(e->s, IR_FCMP, IR_I32, cc[e->op - RV_FLE], get_f(e, RV_RS1(e), d),
                                     get_f(e, RV_RS2(e), d), 0)));
}

static void to_int(struct rv_emit *e, unsigned rm)
{
    unsigned k = e->op - RV_FCVT_W;
    bool wide = k >= 2, uns = k & 1;
    ir_val v = ir_un_x(e->s, IR_FTOI, wide ? IR_I64 : IR_I32, rm | (uns ? 8u : 0) | 16 | (is_d(e) ? 64u : 0),
                       get_f(e, RV_RS1(e), is_d(e)), 0);

    rv_put(e, wide ? v : ir_sext(e->s, v));
}

static void from_int(struct rv_emit *e, unsigned rm)
{
    unsigned k = e->op - RV_FCVT_F_W;
    bool wide = k >= 2, uns = k & 1;
    ir_val v = rv_get(e, RV_RS1(e));

    put_f(e, ir_un_x(e->s, IR_ITOF, type(e), rm | (uns ? 8u : 0) | (wide ? 32u : 0), wide ? v : ir_trunc(e->s, v), 0));
}

static void move(struct rv_emit *e)
{
    if (e->op == RV_FMV_X) {
        ir_val v = ir_get(e->s, IR_V128, RV_F(RV_RS1(e)));

        if (is_d(e))
            rv_put(e, ir_un_x(e->s, IR_VGETU, IR_I64, IR_D, v, 0));
        else
            rv_put(e, ir_sext(e->s, ir_un_x(e->s, IR_VGETU, IR_I32, IR_S, v, 0)));
    } else {
        ir_val v = rv_get(e, RV_RS1(e));

        put_f(e, ir_un_t(e->s, IR_FMOV_I, type(e), is_d(e) ? v : ir_trunc(e->s, v)));
    }
}

bool rv_emit_fp(struct rv_emit *e)
{
    static const uint8_t bin[] = {IR_FADD, IR_FSUB, IR_FMUL, IR_FDIV};
    unsigned rm;
    bool d = is_d(e), ok = rounding(e, &rm);

    switch (e->op) {
    case RV_FLW ... RV_FSD:
        memory(e);
        return true;
    case RV_FMADD ... RV_FNMADD:
        if (ok)
            fma_op(e, rm);
        return ok;
    case RV_FADD ... RV_FDIV:
        if (ok)
            put_f(e, ir_bin_x(e->s, (enum ir_opcode)bin[e->op - RV_FADD], type(e), arith_round(rm),
                              get_f(e, RV_RS1(e), d), get_f(e, RV_RS2(e), d), 0));
        return ok;
    case RV_FSQRT:
        if (ok)
            put_f(e, ir_un_x(e->s, IR_FSQRT, type(e), arith_round(rm), get_f(e, RV_RS1(e), d), 0));
        return ok;
    case RV_FSGNJ ... RV_FSGNJX:
        put_f(e, ir_bin_x(e->s, IR_FCOPYSIGN, type(e), e->op - RV_FSGNJ, get_f(e, RV_RS1(e), d), get_f(e, RV_RS2(e), d),
                          0));
        return true;
    case RV_FMIN:
    case RV_FMAX:
        put_f(e, ir_bin_x(e->s, e->op == RV_FMIN ? IR_FMIN : IR_FMAX, type(e), IR_MM_RISCV, get_f(e, RV_RS1(e), d),
                          get_f(e, RV_RS2(e), d), 0));
        return true;
    case RV_FLE ... RV_FEQ:
        compare(e);
        return true;
    case RV_FCLASS:
        rv_put(e, ir_zext(e->s, ir_un_x(e->s, IR_FCLASS, IR_I32, d, get_f(e, RV_RS1(e), d), 0)));
        return true;
    case RV_FMV_X:
    case RV_FMV_F:
        move(e);
        return true;
    case RV_FCVT_S_D:
        if (ok)
            put_f(e, ir_un_x(e->s, IR_FCVT, IR_F32, arith_round(rm), get_f(e, RV_RS1(e), true), 0));
        return ok;
    case RV_FCVT_D_S:
        if (ok)
            put_f(e, ir_un_x(e->s, IR_FCVT, IR_F64, 0, get_f(e, RV_RS1(e), false), 0));
        return ok;
    case RV_FCVT_W ... RV_FCVT_LU:
        if (ok)
            to_int(e, rm);
        return ok;
    default:
        if (ok)
            from_int(e, rm);
        return ok;
    }
}

/* --- CSRs --- */
enum { CSR_FFLAGS = 1, CSR_FRM = 2, CSR_FCSR = 3, CSR_CYCLE = 0xc00, CSR_TIME = 0xc01, CSR_INSTRET = 0xc02 };

uint32_t rv_get_fcsr(const struct rv_state *s)
{
    uint32_t m = s->ir.mxcsr;

    /* MXCSR: IE 0, DE 1, ZE 2, OE 3, UE 4, PE 5; fflags: NX 0, UF 1, OF 2, DZ 3, NV 4 */
    return (m >> 5 & 1) | (m >> 4 & 1) << 1 | (m >> 3 & 1) << 2 | (m >> 2 & 1) << 3 | (m & 1) << 4 | s->frm << 5;
}

void rv_set_fcsr(struct rv_state *s, uint32_t v)
{
    static const uint8_t rc[8] = {0, 3, 1, 2, 0, 0, 0, 0};
    uint32_t f = (v & 1) << 5 | (v >> 1 & 1) << 4 | (v >> 2 & 1) << 3 | (v >> 3 & 1) << 2 | (v >> 4 & 1);

    s->frm = v >> 5 & 7;
    s->ir.mxcsr = 0x1f80 | f | (uint32_t)rc[s->frm] << 13;
}

void rv_reset(struct rv_state *s)
{
    rv_set_fcsr(s, 0);
    s->res_addr = UINT64_MAX;
}

static uint64_t read_csr(const struct rv_state *s, unsigned csr)
{
    struct timespec t;

    switch (csr) {
    case CSR_FFLAGS:
        return rv_get_fcsr(s) & 31;
    case CSR_FRM:
        return s->frm;
    case CSR_FCSR:
        return rv_get_fcsr(s);
    default: /* counters: nanoseconds are as good as any unit */
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
}

/* how: funct3 & 3 (1 write, 2 set, 3 clear), 0 = only read. Returns the old value. */
static uint64_t csr_helper(void *ctx, uint64_t csr, uint64_t how, uint64_t v)
{
    struct rv_state *s = ctx;
    uint64_t old = read_csr(s, (unsigned)csr), now = how == 1 ? v : how == 2 ? old | v : old & ~v;

    if (!how)
        return old;
    if (csr == CSR_FFLAGS)
        now = (now & 31) | s->frm << 5;
    else if (csr == CSR_FRM)
        now = (now & 7) << 5 | (rv_get_fcsr(s) & 31);
    rv_set_fcsr(s, (uint32_t)now);
    return old;
}

/* fflags of the low six bits of MXCSR, and back. */
static const uint8_t flags_of[64] = {
#define F(m)  ((m) >> 5 & 1) | ((m) >> 4 & 1) << 1 | ((m) >> 3 & 1) << 2 | ((m) >> 2 & 1) << 3 | ((m)&1) << 4
#define F8(m) F(m), F((m) + 1), F((m) + 2), F((m) + 3), F((m) + 4), F((m) + 5), F((m) + 6), F((m) + 7)
    F8(0),  F8(8),  F8(16), F8(24), F8(32),
    F8(40), F8(48), F8(56)
#undef F8
#undef F
};
static const uint8_t mxcsr_of[32] = {0, 32, 16, 48, 8, 40, 24, 56, 4, 36, 20, 52, 12, 44, 28, 60,
                                     1, 33, 17, 49, 9, 41, 25, 57, 5, 37, 21, 53, 13, 45, 29, 61};

static ir_val lookup(struct rv_emit *e, const uint8_t *table, ir_val i)
{
    return ir_load(e->s, IR_I32, IR_M8, ir_bin(e->s, IR_ADD, ir_zext(e->s, i), ir_c64(e->s, (uintptr_t)table)), 0);
}

/* fflags without a call: the C library saves and restores it around comparisons. how as in csr_helper. */
static void fflags(struct rv_emit *e, unsigned how, ir_val v)
{
    ir_val m = ir_emit(e->s, IR_FPGET, IR_I32, 0, IR_NO, IR_NO, IR_NO, 0);
    ir_val old = lookup(e, flags_of, ir_bin_i(e->s, IR_AND, m, 63)), now = ir_trunc(e->s, v);

    if (how) {
        if (how == 2)
            now = ir_bin(e->s, IR_OR, old, now);
        else if (how == 3)
            now = ir_bin(e->s, IR_ANDN, old, now);
        now = lookup(e, mxcsr_of, ir_bin_i(e->s, IR_AND, now, 31));
        ir_emit(e->s, IR_FPSET, IR_VOID, 0, ir_bin(e->s, IR_OR, ir_bin_i(e->s, IR_AND, m, ~UINT64_C(63)), now), IR_NO,
                IR_NO, 0);
    }
    rv_put(e, ir_zext(e->s, old));
}

bool rv_emit_csr(struct rv_emit *e)
{
    unsigned csr = e->in >> 20, how = e->in >> 12 & 3, src = RV_RS1(e);
    bool imm = e->in >> 12 & 4;
    ir_val v;

    if (how != 1 && !src)
        how = 0; /* sets or clears nothing: a read */
    if (!(csr >= CSR_FFLAGS && csr <= CSR_FCSR) && !(csr >= CSR_CYCLE && csr <= CSR_INSTRET && !how))
        return false;
    v = imm ? ir_c64(e->s, src) : rv_get(e, src);
    if (csr == CSR_FFLAGS) {
        fflags(e, how, v);
        return true;
    }
    rv_put(e, ir_call(e->s, IR_I64, IR_CALL_STATE, (void *)csr_helper, ir_c64(e->s, csr), ir_c64(e->s, how), v, IR_NO));
    return true;
}
