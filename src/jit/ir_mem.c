/* Host code for memory ops: loads, stores, atomics, fences. x86-64 memory order is stronger than any guest's here but
 * for a store before a later load. */
#include "jit/ir_int.h"

static unsigned w_of(unsigned t)
{
    return t == IR_I64 ? JIT_W : 0;
}

static void addr32(struct irc *c)
{
    if (c->env->addr32)
        jit_8(c->b, 0x67);
}

static void int_load(struct irc *c, unsigned mop, enum ir_type t, unsigned d, struct jit_mem m)
{
    unsigned w = mop & IR_MSIGN ? w_of(t) : 0;

    addr32(c);
    switch (mop & IR_MSIZE) {
    case IR_M8:
        jit_op_mem(c->b, w, mop & IR_MSIGN ? 0x0fbe : 0x0fb6, d, m, 0);
        break;
    case IR_M16:
        jit_op_mem(c->b, w, mop & IR_MSIGN ? 0x0fbf : 0x0fb7, d, m, 0);
        break;
    case IR_M32:
        jit_op_mem(c->b, w, w ? 0x63 : 0x8b, d, m, 0);
        break;
    default:
        jit_op_mem(c->b, JIT_W, 0x8b, d, m, 0);
        break;
    }
}

/* op8 op: opcodes of the byte and the wider forms. */
static void sized(struct irc *c, unsigned size, unsigned op8, unsigned op, unsigned r, struct jit_mem m)
{
    addr32(c);
    jit_op_mem(c->b,
               size == IR_M8    ? (unsigned)JIT_B8
               : size == IR_M16 ? JIT_66
               : size == IR_M64 ? JIT_W
                                : 0,
               size == IR_M8 ? op8 : op, r, m, 0);
}

static void locked(struct irc *c)
{
    jit_8(c->b, 0xf0);
}

/* The operand of the current op, checked for alignment when it must be. */
static struct jit_mem operand(struct irc *c, const struct ir_op *o)
{
    struct jit_mem m = JIT_BASE(JR_NONE, 0);

    if (ir_is_const(c, o->a[0]) && c->v[o->a[0]].loc == L_CONST && o->a[0] != IR_NO) {
        int64_t at = c->s->op[o->a[0]].imm + o->imm;

        if (at == (int32_t)at && at >= 0 && (o->op != IR_LOAD || o->a[2] == IR_NO) && o->op != IR_STORE) {
            m.disp = (int32_t)at;
            return m;
        }
    }
    m.base = (uint8_t)ir_use(c, o->a[0]);
    if ((o->op == IR_LOAD || o->op == IR_STORE) && o->a[2] != IR_NO) {
        m.index = (uint8_t)ir_use(c, o->a[2]);
        m.scale = (uint8_t)(1u << o->imm2);
    }
    if (o->imm == (int32_t)o->imm) {
        m.disp = (int32_t)o->imm;
    } else {
        unsigned t = ir_tmp(c, false);

        jit_mov_ri(c->b, t, (uint64_t)o->imm);
        jit_lea(c->b, t, JIT_SUM(t, m.base));
        m.base = (uint8_t)t;
    }
    if (o->attr & IR_MALIGN && (o->attr & IR_MSIZE)) {
        bool plain = m.index == JR_NONE && !m.disp;
        unsigned t = plain ? m.base : ir_tmp(c, false);
        struct ir_cold *k;

        if (!plain)
            jit_lea(c->b, t, m);
        jit_op_reg(c->b, 0, 0xf7, 0, t);
        jit_32(c->b, (1u << (o->attr & IR_MSIZE)) - 1);
        k = ir_new_cold(c, COLD_CODE);
        k->from = jit_jcc_fwd(c->b, JCC_NE);
        k->n = IR_CODE_ALIGN;
        k->pc = c->pc;
        if (!plain)
            c->lock &= ~(1u << t);
    }
    return m;
}

static void swap_reg(struct irc *c, unsigned size, bool sign, enum ir_type t, unsigned d)
{
    if (size == IR_M8)
        return;
    jit_8(c->b, 0x40 | (size == IR_M64 ? 8u : 0u) | (d & 8 ? 1u : 0u));
    jit_8(c->b, 0x0f);
    jit_8(c->b, 0xc8 | (d & 7));
    if (size == IR_M16) {
        jit_op_reg(c->b, 0, 0xc1, sign ? 7 : 5, d);
        jit_8(c->b, 16);
    }
    if (sign && t == IR_I64 && size != IR_M64)
        jit_op_reg(c->b, JIT_W, 0x63, d, d);
}

static void vec_load(struct irc *c, const struct ir_op *o)
{
    struct jit_mem m = operand(c, o);
    unsigned size = o->attr & IR_MSIZE, d = ir_dst(c, (ir_val)c->cur, 0);

    if (size < IR_M32 || o->attr & IR_MSWAP) {
        unsigned t = ir_tmp(c, false);

        int_load(c, size, IR_I64, t, m);
        if (o->attr & IR_MSWAP)
            swap_reg(c, size, false, IR_I64, t);
        ir_vex(c->b, 1, 1, 1, 0x6e, d - XMM0, 0, t); /* vmovq */
    } else {
        addr32(c);
        if (size == IR_M128)
            ir_vex_m(c->b, 0, 1, 0, 0x10, d - XMM0, 0, m);
        else
            ir_vex_m(c->b, size == IR_M32 ? 2 : 3, 1, 0, 0x10, d - XMM0, 0, m);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void load(struct irc *c, const struct ir_op *o)
{
    struct jit_mem m;
    unsigned d;

    if (o->attr & (IR_MSWAP | IR_MALIGN))
        ir_clobber_flags(c);
    if (ir_is_vec(o->t)) {
        vec_load(c, o);
        return;
    }
    m = operand(c, o);
    d = ir_dst(c, (ir_val)c->cur, 0);
    if (o->attr & IR_MSWAP && (o->attr & IR_MSIZE) != IR_M8) {
        int_load(c, o->attr & IR_MSIZE, (enum ir_type)o->t, d, m);
        swap_reg(c, o->attr & IR_MSIZE, o->attr & IR_MSIGN, (enum ir_type)o->t, d);
    } else {
        int_load(c, o->attr, (enum ir_type)o->t, d, m);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void vec_store(struct irc *c, const struct ir_op *o)
{
    unsigned size = o->attr & IR_MSIZE, r;
    struct jit_mem m = operand(c, o);

    r = ir_use(c, o->a[1]) - XMM0;
    addr32(c);
    if (size == IR_M128)
        ir_vex_m(c->b, 0, 1, 0, 0x11, r, 0, m);
    else if (size == IR_M64)
        ir_vex_m(c->b, 3, 1, 0, 0x11, r, 0, m);
    else if (size == IR_M32)
        ir_vex_m(c->b, 2, 1, 0, 0x11, r, 0, m);
    else { /* vpextrw, vpextrb */
        ir_vex_m(c->b, 1, 3, 0, size == IR_M16 ? 0x15 : 0x14, r, 0, m);
        jit_8(c->b, 0);
    }
}

/* Is the next op the store of the 16 bytes behind this one's, by the same instruction? */
bool ir_stores_join(const struct irc *c, unsigned n)
{
    const struct ir_op *o = &c->s->op[n], *f = o + 1;

    return n + 1 < c->s->nr && o->op == IR_STORE && f->op == IR_STORE && o->attr == IR_M128 && f->attr == IR_M128 &&
           o->t == IR_V128 && f->t == IR_V128 && o->a[0] == f->a[0] && o->a[2] == f->a[2] && o->imm2 == f->imm2 &&
           f->imm == o->imm + 16;
}

void ir_code_stores(struct irc *c, const struct ir_op *o)
{
    struct jit_mem m;
    unsigned a, b, t;

    ir_flags_for_fault(c, o);
    m = operand(c, o);
    a = ir_use(c, o->a[1]) - XMM0;
    b = ir_use(c, o[1].a[1]) - XMM0;
    t = ir_tmp(c, true) - XMM0;
    ir_vex(c->b, 1 | IR_VEX_L, 3, 0, 0x38, t, a, b); /* vinserti128 */
    jit_8(c->b, 1);
    addr32(c);
    ir_vex_m(c->b, IR_VEX_L, 1, 0, 0x11, t, 0, m);
}

static void store_const(struct irc *c, unsigned size, int32_t v, struct jit_mem m)
{
    addr32(c);
    switch (size) {
    case IR_M8:
        jit_op_mem(c->b, 0, 0xc6, 0, m, 1);
        jit_8(c->b, (uint8_t)v);
        break;
    case IR_M16:
        jit_op_mem(c->b, JIT_66, 0xc7, 0, m, 2);
        jit_8(c->b, (uint8_t)v);
        jit_8(c->b, (uint8_t)(v >> 8));
        break;
    default:
        jit_op_mem(c->b, size == IR_M64 ? JIT_W : 0, 0xc7, 0, m, 4);
        jit_32(c->b, (uint32_t)v);
        break;
    }
}

static void store(struct irc *c, const struct ir_op *o)
{
    unsigned size = o->attr & IR_MSIZE, r;
    struct jit_mem m;

    if (o->attr & (IR_MREL | IR_MALIGN | IR_MSWAP))
        ir_clobber_flags(c);
    if (ir_is_vec(o->t)) {
        vec_store(c, o);
        if (o->attr & IR_MREL) { /* lock or dword [rsp], 0 */
            locked(c);
            jit_op_mem(c->b, 0, 0x83, 1, JIT_BASE(JR_RSP, 0), 1);
            jit_8(c->b, 0);
        }
        return;
    }
    m = operand(c, o);
    if (!(o->attr & (IR_MSWAP | IR_MREL)) && ir_const32(c, o->a[1])) {
        store_const(c, size, (int32_t)c->s->op[o->a[1]].imm, m);
        return;
    }
    if (!(o->attr & (IR_MSWAP | IR_MREL))) {
        r = ir_use(c, o->a[1]);
        sized(c, size, 0x88, 0x89, r, m);
        return;
    }
    r = ir_tmp(c, false);
    ir_fetch(c, r, o->a[1]);
    if (o->attr & IR_MSWAP)
        swap_reg(c, size, false, IR_I64, r);
    if (o->attr & IR_MREL)
        sized(c, size, 0x86, 0x87, r, m); /* xchg */
    else
        sized(c, size, 0x88, 0x89, r, m);
}

static void narrow_result(struct irc *c, unsigned size, unsigned r)
{
    if (size == IR_M8 || size == IR_M16)
        jit_op_reg(c->b, JIT_RM8, size == IR_M8 ? 0x0fb6 : 0x0fb7, r, r);
}

static void exchange(struct irc *c, const struct ir_op *o)
{
    unsigned size = o->attr & IR_MSIZE, r;
    struct jit_mem m;

    ir_clobber_flags(c);
    m = operand(c, o);
    r = ir_tmp(c, false);
    ir_fetch(c, r, o->a[1]);
    if (o->op == IR_XCHG) {
        sized(c, size, 0x86, 0x87, r, m);
    } else {
        locked(c);
        sized(c, size, 0x0fc0, 0x0fc1, r, m);
    }
    narrow_result(c, size, r);
    ir_made(c, (ir_val)c->cur, r);
}

/* lock and/or/xor [m], b: nobody wants the old value. */
static bool fetch_simple(struct irc *c, const struct ir_op *o)
{
    static const uint8_t op[] = {0x20, 0x08, 0x30};
    unsigned k = o->op - IR_FETCH_AND, r;
    struct jit_mem m;

    if (o->op > IR_FETCH_XOR || c->f.first[c->cur] != IR_NO)
        return false;
    ir_clobber_flags(c);
    m = operand(c, o);
    r = ir_use(c, o->a[1]);
    locked(c);
    sized(c, o->attr & IR_MSIZE, op[k], op[k] | 1u, r, m);
    return true;
}

static void fetch_loop(struct irc *c, const struct ir_op *o)
{
    static const uint8_t op[] = {0x23, 0x0b, 0x33};
    static const uint8_t cc[] = {JCC_L, JCC_G, JCC_B, JCC_A};
    unsigned size = o->attr & IR_MSIZE, rb, t, w = size == IR_M64 ? JIT_W : 0;
    struct jit_mem m;
    uint8_t *again;

    ir_clobber_flags(c);
    ir_take(c, JR_RAX);
    m = operand(c, o);
    rb = ir_use(c, o->a[1]);
    t = ir_tmp(c, false);
    int_load(c, size, IR_I64, JR_RAX, m);
    again = c->b->p;
    jit_mov_rr(c->b, t, JR_RAX);
    if (o->op <= IR_FETCH_XOR) {
        jit_op_reg(c->b, w, op[o->op - IR_FETCH_AND], t, rb);
    } else {
        jit_op_reg(c->b, w | (size == IR_M16 ? (unsigned)JIT_66 : 0) | (size == IR_M8 ? (unsigned)JIT_RM8 : 0),
                   size == IR_M8 ? 0x3a : 0x3b, JR_RAX, rb);
        jit_op_reg(c->b, w, 0x0f40 | cc[o->op - IR_FETCH_SMAX], t, rb);
    }
    locked(c);
    sized(c, size, 0x0fb0, 0x0fb1, t, m);
    jit_8(c->b, 0x75);
    jit_8(c->b, (uint8_t)(again - (c->b->p + 1)));
    ir_made(c, (ir_val)c->cur, JR_RAX);
}

static void cas16(struct irc *c, const struct ir_op *o, ir_val old, ir_val new_v, bool cond);

static void cas(struct irc *c, const struct ir_op *o)
{
    unsigned size = o->attr & IR_MSIZE, r;
    struct jit_mem m;

    ir_clobber_flags(c);
    if (size == IR_M128) {
        cas16(c, o, o->a[1], o->a[2], false);
        return;
    }
    ir_take(c, JR_RAX);
    m = operand(c, o);
    r = ir_use(c, o->a[2]);
    ir_fetch(c, JR_RAX, o->a[1]);
    locked(c);
    sized(c, size, 0x0fb0, 0x0fb1, r, m);
    if (size == IR_M32)
        jit_mov_rr32(c->b, JR_RAX, JR_RAX);
    narrow_result(c, size, JR_RAX);
    ir_made(c, (ir_val)c->cur, JR_RAX);
}

static void cas_if(struct irc *c, const struct ir_op *o)
{
    unsigned size = o->attr & IR_MSIZE, r;
    struct jit_mem m;
    uint8_t *no, *done;

    ir_clobber_flags(c);
    if (size == IR_M128) {
        cas16(c, o, o->a[2], o->a[3], true);
        return;
    }
    ir_take(c, JR_RAX);
    m = operand(c, o); /* may test the alignment: before the flags are those of the condition */
    ir_fetch(c, JR_RAX, o->a[1]);
    jit_op_reg(c->b, 0, 0x85, JR_RAX, JR_RAX);
    r = ir_use(c, o->a[3]); /* moves only from here to the jump */
    ir_fetch(c, JR_RAX, o->a[2]);
    no = jit_jcc8_fwd(c->b, JCC_E);
    locked(c);
    sized(c, size, 0x0fb0, 0x0fb1, r, m);
    jit_op_reg(c->b, 0, 0x0f90 | JCC_E, 0, JR_RAX);
    jit_op_reg(c->b, 0, 0x0fb6, JR_RAX, JR_RAX);
    done = jit_jmp_fwd(c->b);
    jit_patch8(c->b, no);
    jit_mov_ri(c->b, JR_RAX, 0);
    jit_patch32(c->b, done);
    ir_made(c, (ir_val)c->cur, JR_RAX);
}

/* 16 bytes: RDX:RAX is compared, RCX:RBX stored. RBX may be pinned: then the access is tried first, so that the
 * instruction itself does not fault while RBX is not the guest's. */
static void cas16(struct irc *c, const struct ir_op *o, ir_val old, ir_val new_v, bool cond)
{
    bool keep = c->pinned & 1u << JR_RBX;
    unsigned ro, rn, d;
    uint8_t *no = NULL, *done;
    struct jit_mem m;

    ir_take(c, JR_RAX);
    ir_take(c, JR_RDX);
    ir_take(c, JR_RCX);
    if (!keep)
        ir_take(c, JR_RBX);
    m = operand(c, o);
    if (m.base == JR_RBX) {
        unsigned t = ir_tmp(c, false);

        jit_mov_rr(c->b, t, JR_RBX);
        m.base = (uint8_t)t;
    }
    ro = ir_use(c, old) - XMM0;
    rn = ir_use(c, new_v) - XMM0;
    if (cond) {
        ir_fetch(c, JR_RAX, o->a[1]);
        jit_op_reg(c->b, 0, 0x85, JR_RAX, JR_RAX);
        jit_mov_ri(c->b, JR_RAX, 0);
        no = jit_jcc_fwd(c->b, JCC_E);
    }
    if (keep) {
        locked(c);
        sized(c, IR_M32, 0, 0x83, 1, m); /* or dword, 0 */
        jit_8(c->b, 0);
        jit_store(c->b, GSX(save_gpr[9]), JR_RBX);
    }
    ir_vex(c->b, 1, 1, 1, 0x7e, ro, 0, JR_RAX);
    ir_vex(c->b, 1, 3, 1, 0x16, ro, 0, JR_RDX);
    jit_8(c->b, 1);
    ir_vex(c->b, 1, 1, 1, 0x7e, rn, 0, JR_RBX);
    ir_vex(c->b, 1, 3, 1, 0x16, rn, 0, JR_RCX);
    jit_8(c->b, 1);
    locked(c);
    sized(c, IR_M64, 0, 0x0fc7, 1, m); /* cmpxchg16b */
    if (keep)
        jit_load(c->b, JR_RBX, GSX(save_gpr[9]));
    if (cond) {
        jit_op_reg(c->b, 0, 0x0f90 | JCC_E, 0, JR_RAX);
        jit_op_reg(c->b, 0, 0x0fb6, JR_RAX, JR_RAX);
        done = no;
        jit_patch32(c->b, done);
        ir_made(c, (ir_val)c->cur, JR_RAX);
        return;
    }
    d = ir_tmp(c, true);
    ir_vex(c->b, 1, 1, 1, 0x6e, d - XMM0, 0, JR_RAX);
    ir_vex(c->b, 1, 3, 1, 0x22, d - XMM0, d - XMM0, JR_RDX); /* vpinsrq */
    jit_8(c->b, 1);
    ir_made(c, (ir_val)c->cur, d);
}

bool ir_code_mem(struct irc *c, const struct ir_op *o)
{
    switch (o->op) {
    case IR_LOAD:
        load(c, o);
        return true;
    case IR_STORE:
        store(c, o);
        return true;
    case IR_FENCE:
        if (o->attr != 2)
            return true;
        ir_clobber_flags(c);
        locked(c);
        jit_op_mem(c->b, 0, 0x83, 1, JIT_BASE(JR_RSP, 0), 1);
        jit_8(c->b, 0);
        return true;
    case IR_CAS:
        cas(c, o);
        return true;
    case IR_CAS_IF:
        cas_if(c, o);
        return true;
    case IR_XCHG:
    case IR_FETCH_ADD:
        exchange(c, o);
        return true;
    case IR_FETCH_AND ... IR_FETCH_UMIN:
        if (!fetch_simple(c, o))
            fetch_loop(c, o);
        return true;
    case IR_SCAN:
        ir_code_scan(c, o);
        return true;
    default:
        return false;
    }
}
