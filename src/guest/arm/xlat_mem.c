/* Emitting IR: loads and stores of core registers. A fault leaves the base register as it was, so the instruction can
 * be executed again; registers a multiple load has already read may have changed, as the architecture allows. Unaligned
 * accesses work everywhere but in exclusives and ordered accesses, as Linux makes it look. */
#include "guest/arm/xlat_int.h"

/* The offset as I64 with its sign. */
static ir_val offset(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val v;

    if (i->op2 == ARM_OP_IMM)
        return ir_c64(s, i->U ? (uint64_t)i->imm : -(uint64_t)i->imm);
    if (i->shift == ARM_SH_LSL) /* an address: what lies above bit 31 does not count */
        v = i->amount ? ir_bin_i(s, IR_SHL, get_a(x, i, i->Rm), i->amount) : get_a(x, i, i->Rm);
    else
        v = ir_zext(s, operand2(x, i, NULL));
    return i->U ? v : ir_un(s, IR_NEG, v);
}

static void write_back(struct arm_xlat *x, const struct arm_insn *i, ir_val addr64)
{
    put_r(x, i->Rn, ir_trunc(x->s, addr64));
}

static unsigned mop_of(unsigned kind)
{
    switch (kind) {
    case ARM_STRB:
    case ARM_LDRB:
        return IR_M8;
    case ARM_STRH:
    case ARM_LDRH:
        return IR_M16;
    case ARM_LDRSB:
        return IR_M8 | IR_MSIGN;
    case ARM_LDRSH:
        return IR_M16 | IR_MSIGN;
    default:
        return IR_M32;
    }
}

bool gen_ldst(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    bool load = i->kind != ARM_STR && i->kind != ARM_STRB && i->kind != ARM_STRH, wback = !i->P || i->W;
    unsigned mop = mop_of(i->kind);
    ir_val base = get_a(x, i, i->Rn), sum = ir_bin(s, IR_ADD, base, offset(x, i)), at = i->P ? sum : base, v;

    if (i->Rn == ARM_PC && (wback || (i->thumb && !load)))
        return false;
    if (!load) {
        ir_store(s, mop, at, 0, get_r(x, i, i->Rt));
        if (wback)
            write_back(x, i, sum);
        return true;
    }
    v = ir_load(s, IR_I32, mop, at, 0);
    if (wback)
        write_back(x, i, sum);
    if (i->Rt != ARM_PC) {
        put_r(x, i->Rt, v);
        return true;
    }
    if (mop != IR_M32)
        return false;
    put_pc_bx(x, v, i->Rn == ARM_SP && wback);
    return true;
}

bool gen_ldrd(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    bool wback = !i->P || i->W;
    ir_val base = get_a(x, i, i->Rn), sum = ir_bin(s, IR_ADD, base, offset(x, i)), at = i->P ? sum : base, lo = IR_NO,
           hi = IR_NO;

    if ((wback && i->Rn == ARM_PC) || i->Rt2 == ARM_PC || i->Rt == ARM_PC)
        return false;
    if (i->kind == ARM_STRD) {
        ir_store(s, IR_M32, at, 0, get_r(x, i, i->Rt));
        ir_store(s, IR_M32, at, 4, get_r(x, i, i->Rt2));
    } else {
        lo = ir_load(s, IR_I32, IR_M32, at, 0);
        hi = ir_load(s, IR_I32, IR_M32, at, 4);
    }
    if (wback)
        write_back(x, i, sum);
    if (i->kind == ARM_LDRD) {
        put_r(x, i->Rt, lo);
        put_r(x, i->Rt2, hi);
    }
    return true;
}

static void load_multiple(struct arm_xlat *x, const struct arm_insn *i, ir_val base, int64_t from, ir_val end)
{
    struct ir *s = x->s;
    ir_val pc = IR_NO, n = IR_NO;
    int64_t at = from;

    for (unsigned r = 0; r < 16; r++) {
        ir_val v;

        if (!(i->list >> r & 1))
            continue;
        v = ir_load(s, IR_I32, IR_M32, base, at);
        at += 4;
        if (r == ARM_PC)
            pc = v;
        else if (r == i->Rn)
            n = v; /* last, so that the instruction can be done again */
        else
            put_r(x, r, v);
    }
    if (n != IR_NO)
        put_r(x, i->Rn, n);
    else if (i->W)
        write_back(x, i, end);
    if (pc != IR_NO) {
        put_pc_bx(x, pc, i->Rn == ARM_SP);
    }
}

bool gen_ldm(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned n = (unsigned)__builtin_popcount(i->list);
    int64_t from = i->U ? (i->P ? 4 : 0) : -4 * (int64_t)n + (i->P ? 0 : 4);
    ir_val base, end;

    if (!n || i->Rn == ARM_PC)
        return false;
    base = get_a(x, i, i->Rn);
    end = ir_bin_i(s, IR_ADD, base, (uint64_t)(i->U ? 4 * (int64_t)n : -4 * (int64_t)n));
    if (i->kind == ARM_LDM) {
        load_multiple(x, i, base, from, end);
        return true;
    }
    for (unsigned r = 0; r < 16; r++) {
        if (!(i->list >> r & 1))
            continue;
        /* The base is stored as it was when it is the lowest register; else its value is unknown: as it was, too. */
        ir_store(s, IR_M32, base, from, get_r(x, i, r));
        from += 4;
    }
    if (i->W)
        write_back(x, i, end);
    return true;
}

/* ---- exclusive and ordered ---- */
static ir_val excl_addr(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val a = get_a(x, i, i->Rn);

    return i->imm ? ir_zext(s, ir_trunc(s, ir_bin_i(s, IR_ADD, a, i->imm))) : a;
}

bool gen_ldrex(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val a = excl_addr(x, i), v;

    if (i->Rn == ARM_PC || i->Rt == ARM_PC || (i->log2 == 3 && i->Rt2 >= ARM_PC))
        return false;
    v = ir_load(s, IR_I64, i->log2 | (i->log2 ? IR_MALIGN : 0u), a, 0);
    ir_put(s, AC_OFF(a.ex_val[0]), v);
    ir_put(s, AC_OFF(a.ex_addr), a);
    put_r(x, i->Rt, ir_trunc(s, v));
    if (i->log2 == 3)
        put_r(x, i->Rt2, ir_trunc(s, ir_bin_i(s, IR_SHR, v, 32)));
    return true;
}

bool gen_strex(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val a = excl_addr(x, i), cond = ir_cmp(s, IR_EQ, a, ir_get(s, IR_I64, AC_OFF(a.ex_addr))), old, v, done;

    if (i->Rn == ARM_PC || i->Rt == ARM_PC || i->Rd == ARM_PC || (i->log2 == 3 && i->Rt2 >= ARM_PC))
        return false;
    old = ir_get(s, IR_I64, AC_OFF(a.ex_val[0]));
    if (i->log2 == 3) {
        v = ir_bin(s, IR_OR, ir_zext(s, get_r(x, i, i->Rt)), ir_bin_i(s, IR_SHL, ir_zext(s, get_r(x, i, i->Rt2)), 32));
    } else {
        old = ir_trunc(s, old);
        v = get_r(x, i, i->Rt);
    }
    done = ir_cas_if(s, i->log2, a, cond, old, v); /* what a load exclusive armed is aligned */
    ir_put(s, AC_OFF(a.ex_addr), ir_c64(s, UINT64_MAX));
    put_r(x, i->Rd, ir_bin_i(s, IR_XOR, done, 1));
    return true;
}

bool gen_ldst_ord(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned mop = i->log2 | (i->log2 ? IR_MALIGN : 0u);
    ir_val a = get_a(x, i, i->Rn);

    if (i->Rn == ARM_PC || i->Rt == ARM_PC)
        return false;
    if (i->kind == ARM_STL)
        ir_store(s, mop | IR_MREL, a, 0, get_r(x, i, i->Rt));
    else
        put_r(x, i->Rt, ir_load(s, IR_I32, mop, a, 0));
    return true;
}

bool gen_swp(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned mop = i->B ? (unsigned)IR_M8 : IR_M32 | IR_MALIGN;

    if (i->Rn == ARM_PC || i->Rt == ARM_PC || i->Rm == ARM_PC)
        return false;
    put_r(x, i->Rt, ir_atomic(s, IR_XCHG, IR_I32, mop, get_a(x, i, i->Rn), get_r(x, i, i->Rm)));
    return true;
}
