/* Host code for integer ops. */
#include "jit/ir_int.h"

static unsigned w_of(unsigned t)
{
    return t == IR_I64 ? JIT_W : 0;
}

void ir_vex(struct jit_buf *b, unsigned pp, unsigned map, unsigned w, unsigned op, unsigned reg, unsigned vvvv,
            unsigned rm)
{
    if (map == 1 && !w && !(rm & 8)) {
        jit_8(b, 0xc5);
        jit_8(b, (reg & 8 ? 0u : 0x80u) | (~vvvv & 15) << 3 | pp);
    } else {
        jit_8(b, 0xc4);
        jit_8(b, (reg & 8 ? 0u : 0x80u) | 0x40 | (rm & 8 ? 0u : 0x20u) | map);
        jit_8(b, w << 7 | (~vvvv & 15) << 3 | pp);
    }
    jit_8(b, op);
    jit_8(b, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void ir_vex_m(struct jit_buf *b, unsigned pp, unsigned map, unsigned w, unsigned op, unsigned reg, unsigned vvvv,
              struct jit_mem m)
{
    if (m.gs)
        jit_8(b, 0x65);
    jit_8(b, 0xc4);
    jit_8(b, (reg & 8 ? 0u : 0x80u) | (m.index != JR_NONE && m.index & 8 ? 0u : 0x40u) |
                 (m.base != JR_NONE && m.base & 8 ? 0u : 0x20u) | map);
    jit_8(b, w << 7 | (~vvvv & 15) << 3 | pp);
    jit_8(b, op);
    jit_modrm_mem(b, reg, m);
}

static void alu_imm(struct irc *c, unsigned w, unsigned ext, unsigned reg, int32_t v)
{
    bool small = v == (int8_t)v;

    jit_op_reg(c->b, w, small ? 0x83 : 0x81, ext, reg);
    if (small)
        jit_8(c->b, (uint8_t)v);
    else
        jit_32(c->b, (uint32_t)v);
}

static void shift_imm(struct irc *c, unsigned w, unsigned ext, unsigned reg, unsigned n)
{
    jit_op_reg(c->b, w, 0xc1, ext, reg);
    jit_8(c->b, n);
}

/* True when operand b is best used from memory. */
static bool from_mem(const struct irc *c, ir_val v, struct jit_mem *m)
{
    return !ir_live(c, v) && ir_mem_of(c, v, m);
}

static const struct {
    uint8_t op, ext;
} alu[] = {[IR_ADD - IR_ADD] = {0x03, 0},
           [IR_SUB - IR_ADD] = {0x2b, 5},
           [IR_AND - IR_ADD] = {0x23, 4},
           [IR_OR - IR_ADD] = {0x0b, 1},
           [IR_XOR - IR_ADD] = {0x33, 6}};

static bool lea_form(struct irc *c, const struct ir_op *o)
{
    ir_val n = (ir_val)c->cur;
    unsigned ra, d;
    struct jit_mem m;

    if (o->op == IR_SUB && !ir_const32(c, o->a[1]))
        return false;
    if (o->op == IR_SUB && (int32_t)c->s->op[o->a[1]].imm == INT32_MIN)
        return false;
    ra = ir_use(c, o->a[0]);
    if (ir_const32(c, o->a[1])) {
        int32_t k = (int32_t)c->s->op[o->a[1]].imm;

        m = JIT_BASE(ra, o->op == IR_SUB ? -k : k);
    } else {
        m = JIT_SUM(ra, ir_use(c, o->a[1]));
    }
    d = ir_dst(c, n, 0);
    if (m.index == JR_NONE && d == ra && c->ef == IR_NO)
        alu_imm(c, w_of(o->t), 0, d, m.disp);
    else if (m.index != JR_NONE && (d == m.base || d == m.index) && c->ef == IR_NO)
        jit_op_reg(c->b, w_of(o->t), 0x03, d, d == m.base ? m.index : m.base);
    else if (o->t == IR_I64)
        jit_lea(c->b, d, m);
    else
        jit_lea32(c->b, d, m);
    if (c->ef == IR_NO)
        c->ef_logic = IR_NO;
    ir_made(c, n, d);
    return true;
}

static void two_operand(struct irc *c, const struct ir_op *o)
{
    unsigned k = o->op - IR_ADD, w = w_of(o->t), ra, rb, d;
    ir_val n = (ir_val)c->cur;
    struct jit_mem m;

    if (!c->pair && (o->op == IR_ADD || o->op == IR_SUB) && !ir_mem_of(c, o->a[1], &m) && lea_form(c, o))
        return;
    ir_clobber_flags(c);
    ra = ir_use(c, o->a[0]);
    if (ir_const32(c, o->a[1])) {
        d = ir_dst(c, n, 0);
        ir_mov(c, d, ra, (enum ir_type)o->t);
        alu_imm(c, w, alu[k].ext, d, (int32_t)c->s->op[o->a[1]].imm);
    } else if (from_mem(c, o->a[1], &m)) {
        d = ir_dst(c, n, 0);
        ir_mov(c, d, ra, (enum ir_type)o->t);
        jit_op_mem(c->b, w, alu[k].op, d, m, 0);
    } else {
        rb = ir_use(c, o->a[1]);
        d = ir_dst(c, n, o->op == IR_SUB && ra != rb ? 1u << rb : 0);
        if (d == rb && d != ra) {
            rb = ra;
        } else {
            ir_mov(c, d, ra, (enum ir_type)o->t);
            if (d == rb) /* ra == rb == d or just copied over */
                rb = d;
        }
        jit_op_reg(c->b, w, alu[k].op, d, rb);
    }
    ir_made(c, n, d);
    if (o->op >= IR_AND)
        c->ef_logic = n;
}

/* dst = a op, by mov and a one-operand instruction. */
static unsigned copy_dst(struct irc *c, const struct ir_op *o)
{
    unsigned ra = ir_use(c, o->a[0]), d = ir_dst(c, (ir_val)c->cur, 0);

    ir_mov(c, d, ra, (enum ir_type)o->t);
    return d;
}

static void shift(struct irc *c, const struct ir_op *o)
{
    unsigned w = w_of(o->t), d, ra, rb, bits = w ? 64 : 32;
    static const uint8_t ext[] = {4, 5, 7, 1}, pp[] = {1, 3, 2};
    unsigned k = o->op - IR_SHL;

    if (ir_is_const(c, o->a[1])) {
        unsigned n = (unsigned)c->s->op[o->a[1]].imm & (bits - 1);

        if (o->op == IR_ROR) { /* rorx */
            ra = ir_use(c, o->a[0]);
            d = ir_dst(c, (ir_val)c->cur, 0);
            ir_vex(c->b, 3, 3, w ? 1 : 0, 0xf0, d, 0, ra);
            jit_8(c->b, n);
        } else {
            ir_clobber_flags(c);
            d = copy_dst(c, o);
            if (n)
                shift_imm(c, w, ext[k], d, n);
        }
    } else if (o->op == IR_ROR) {
        ir_clobber_flags(c);
        ir_take(c, JR_RCX);
        ir_fetch(c, JR_RCX,
                 o->a[1]); /* not in a register of its own besides: of four that are free the rest need three */
        ra = ir_use(c, o->a[0]);
        d = ir_dst(c, (ir_val)c->cur, 0);
        ir_mov(c, d, ra, (enum ir_type)o->t);
        jit_op_reg(c->b, w, 0xd3, 1, d);
    } else {
        ra = ir_use(c, o->a[0]);
        rb = ir_use(c, o->a[1]);
        d = ir_dst(c, (ir_val)c->cur, 0);
        ir_vex(c->b, pp[k], 2, w ? 1 : 0, 0xf7, d, rb, ra);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void rotate_word(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), d = ir_dst(c, (ir_val)c->cur, 0);

    ir_vex(c->b, 3, 3, 0, 0xf0, d, 0, a); /* rorx */
    jit_8(c->b, (uint8_t)o->imm);
    jit_op_reg(c->b, JIT_W, 0x63, d, d);
    ir_made(c, (ir_val)c->cur, d);
}

static void mul(struct irc *c, const struct ir_op *o)
{
    unsigned w = w_of(o->t), ra, rb, d;

    ir_clobber_flags(c);
    ra = ir_use(c, o->a[0]);
    if (ir_const32(c, o->a[1])) {
        d = ir_dst(c, (ir_val)c->cur, 0);
        jit_op_reg(c->b, w, 0x69, d, ra);
        jit_32(c->b, (uint32_t)c->s->op[o->a[1]].imm);
    } else {
        rb = ir_use(c, o->a[1]);
        d = ir_dst(c, (ir_val)c->cur, 0);
        if (d == rb)
            rb = ra;
        else
            ir_mov(c, d, ra, (enum ir_type)o->t);
        jit_op_reg(c->b, w, 0x0faf, d, rb);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void mulh32(struct irc *c, const struct ir_op *o)
{
    unsigned ra = ir_use(c, o->a[0]), rb = ir_use(c, o->a[1]), x = ir_tmp(c, false), d;

    if (o->op == IR_MULHU)
        jit_mov_rr32(c->b, x, ra);
    else
        jit_op_reg(c->b, JIT_W, 0x63, x, ra);
    d = ir_dst(c, (ir_val)c->cur, 0);
    if (o->op == IR_MULHS)
        jit_op_reg(c->b, JIT_W, 0x63, d, rb);
    else
        jit_mov_rr32(c->b, d, rb);
    jit_op_reg(c->b, JIT_W, 0x0faf, d, x);
    shift_imm(c, JIT_W, 5, d, 32);
    ir_made(c, (ir_val)c->cur, d);
}

static void mulh(struct irc *c, const struct ir_op *o)
{
    unsigned rb, d;

    ir_clobber_flags(c);
    if (o->t == IR_I32) {
        mulh32(c, o);
        return;
    }
    if (o->op == IR_MULHS) {
        ir_take(c, JR_RAX);
        ir_take(c, JR_RDX);
        ir_fetch(c, JR_RAX, o->a[0]); /* three registers must do */
        rb = ir_use(c, o->a[1]);
        jit_op_reg(c->b, JIT_W, 0xf7, 5, rb);
        ir_made(c, (ir_val)c->cur, JR_RDX);
        return;
    }
    ir_take(c, JR_RDX);
    ir_fetch(c, JR_RDX, o->a[0]);
    rb = ir_use(c, o->a[1]);
    d = ir_dst(c, (ir_val)c->cur, 1u << rb);
    ir_vex(c->b, 3, 2, 1, 0xf6, d, d, rb); /* mulx d, d, rb */
    if (o->op == IR_MULHSU) {
        shift_imm(c, JIT_W, 7, JR_RDX, 63); /* RDX = a < 0 ? -1 : 0 */
        jit_op_reg(c->b, JIT_W, 0x23, JR_RDX, rb);
        jit_op_reg(c->b, JIT_W, 0x2b, d, JR_RDX);
    }
    ir_made(c, (ir_val)c->cur, d);
}

/* Divisor 0, and -1 for signed division, are sorted out beside the host's instruction, which would trap. */
static void divide(struct irc *c, const struct ir_op *o)
{
    bool sgn = o->op == IR_DIVS || o->op == IR_REMS, rem = o->op == IR_REMU || o->op == IR_REMS;
    unsigned w = w_of(o->t), ra, rb, res = rem ? JR_RDX : JR_RAX;
    uint8_t *special, *done, *done2, *minus1 = NULL, *wide = NULL, *done3 = NULL;

    ir_clobber_flags(c);
    ir_take(c, JR_RAX);
    ir_take(c, JR_RDX);
    rb = ir_use(c, o->a[1]);
    ra = ir_use(c, o->a[0]);
    if (sgn) {
        jit_lea(c->b, JR_RAX, JIT_BASE(rb, 1));
        jit_op_reg(c->b, w, 0x83, 7, JR_RAX); /* cmp, 1 */
        jit_8(c->b, 1);
        special = jit_jcc_fwd(c->b, JCC_BE);
    } else {
        jit_op_reg(c->b, w, 0x85, rb, rb);
        special = jit_jcc_fwd(c->b, JCC_E);
    }
    jit_op_reg(c->b, w, 0x8b, JR_RAX, ra);
    if (w) { /* small numbers divide faster */
        jit_mov_rr(c->b, JR_RDX, ra);
        jit_op_reg(c->b, JIT_W, 0x0b, JR_RDX, rb);
        shift_imm(c, JIT_W, 5, JR_RDX, 31);
        wide = jit_jcc8_fwd(c->b, JCC_NE);
        jit_op_reg(c->b, 0, 0xf7, 6, rb); /* RDX is 0 */
        done3 = jit_jmp_fwd(c->b);
        jit_patch8(c->b, wide);
    }
    if (sgn) {
        if (w)
            jit_8(c->b, 0x48);
        jit_8(c->b, 0x99); /* cdq, cqo */
    } else {
        jit_mov_ri(c->b, JR_RDX, 0);
    }
    jit_op_reg(c->b, w, 0xf7, sgn ? 7 : 6, rb);
    done = jit_jmp_fwd(c->b);
    jit_patch32(c->b, special);
    if (sgn) {
        jit_op_reg(c->b, w, 0x85, rb, rb);
        minus1 = jit_jcc8_fwd(c->b, JCC_NE);
    }
    if (rem)
        ir_mov(c, JR_RDX, ra, (enum ir_type)o->t);
    else
        jit_mov_ri(c->b, JR_RAX, o->attr == IR_DIV0_ONES ? w ? UINT64_MAX : UINT32_MAX : 0);
    if (sgn) {
        done2 = jit_jmp_fwd(c->b);
        jit_patch8(c->b, minus1);
        if (rem) {
            jit_mov_ri(c->b, JR_RDX, 0);
        } else {
            ir_mov(c, JR_RAX, ra, (enum ir_type)o->t);
            jit_op_reg(c->b, w, 0xf7, 3, JR_RAX); /* neg */
        }
        jit_patch32(c->b, done2);
    }
    jit_patch32(c->b, done);
    if (done3)
        jit_patch32(c->b, done3);
    ir_made(c, (ir_val)c->cur, res);
}

static const uint8_t host_cc[] = {
    [IR_EQ] = JCC_E,  [IR_NE] = JCC_NE,  [IR_LTU] = JCC_B,  [IR_GEU] = JCC_AE, [IR_LEU] = JCC_BE, [IR_GTU] = JCC_A,
    [IR_LTS] = JCC_L, [IR_GES] = JCC_GE, [IR_LES] = JCC_LE, [IR_GTS] = JCC_G,  [IR_TSTZ] = JCC_E, [IR_TSTNZ] = JCC_NE};
static const uint8_t swapped[] = {IR_EQ,  IR_NE,  IR_GTU, IR_LEU, IR_GEU,  IR_LTU,
                                  IR_GTS, IR_LES, IR_GES, IR_LTS, IR_TSTZ, IR_TSTNZ};

unsigned ir_code_cmp(struct irc *c, unsigned cc, enum ir_type t, ir_val a, ir_val b)
{
    unsigned w = w_of(t), ra;
    bool tst = cc >= IR_TSTZ;
    struct jit_mem m;

    ir_clobber_flags(c);
    c->ef_logic = IR_NO;
    if (ir_is_const(c, a) && !ir_is_const(c, b)) {
        ir_val x = a;

        a = b;
        b = x;
        cc = swapped[cc];
    }
    if (!tst && ir_const32(c, b) && !ir_live(c, a) && ir_mem_of(c, a, &m)) {
        int32_t k = (int32_t)c->s->op[b].imm;

        jit_op_mem(c->b, w, k == (int8_t)k ? 0x83 : 0x81, 7, m, k == (int8_t)k ? 1 : 4);
        if (k == (int8_t)k)
            jit_8(c->b, (uint8_t)k);
        else
            jit_32(c->b, (uint32_t)k);
        return host_cc[cc];
    }
    ra = ir_use(c, a);
    if (ir_const32(c, b)) {
        int32_t k = (int32_t)c->s->op[b].imm;

        if (tst) {
            jit_op_reg(c->b, w, 0xf7, 0, ra);
            jit_32(c->b, (uint32_t)k);
        } else if (!k) {
            jit_op_reg(c->b, w, 0x85, ra, ra);
        } else {
            alu_imm(c, w, 7, ra, k);
        }
    } else if (from_mem(c, b, &m)) {
        jit_op_mem(c->b, w, tst ? 0x85 : 0x3b, ra, m, 0);
    } else {
        jit_op_reg(c->b, w, tst ? 0x85 : 0x3b, ra, ir_use(c, b));
    }
    return host_cc[cc];
}

void ir_code_setcc(struct irc *c, unsigned cc)
{
    unsigned d = ir_dst(c, (ir_val)c->cur, 0);

    jit_op_reg(c->b, JIT_RM8, 0x0f90 | cc, 0, d);
    jit_op_reg(c->b, JIT_RM8, 0x0fb6, d, d);
    ir_made(c, (ir_val)c->cur, d);
}

void ir_code_select(struct irc *c, unsigned cc, ir_val yes, ir_val no)
{
    enum ir_type t = (enum ir_type)c->s->op[c->cur].t;
    unsigned rn, ry, d;

    c->lock = 0; /* what the condition was made from is not needed any more */
    if (!ir_is_vec(t)) {
        struct jit_mem m;

        if (from_mem(c, yes, &m)) {
            rn = ir_use(c, no);
            d = ir_dst(c, (ir_val)c->cur, 0);
            ir_mov(c, d, rn, t);
            jit_op_mem(c->b, w_of(t), 0x0f40 | cc, d, m, 0);
            ir_made(c, (ir_val)c->cur, d);
            return;
        }
    }
    ry = ir_use(c, yes);
    rn = ir_use(c, no);
    d = ir_dst(c, (ir_val)c->cur, ry != rn ? 1u << ry : 0);
    ir_mov(c, d, rn, t);
    if (ir_is_vec(t)) {
        uint8_t *over = jit_jcc8_fwd(c->b, cc ^ 1);

        ir_mov(c, d, ry, t);
        jit_patch8(c->b, over);
    } else {
        jit_op_reg(c->b, w_of(t), 0x0f40 | cc, d, ry);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void ubfx(struct irc *c, const struct ir_op *o)
{
    unsigned w = w_of(o->t), bits = w ? 64 : 32, pos = (unsigned)o->imm, len = o->attr, ra, d;

    if (!pos && (len == 8 || len == 16 || len == 32)) {
        ra = ir_use(c, o->a[0]);
        d = ir_dst(c, (ir_val)c->cur, 0);
        if (len == 32)
            jit_mov_rr32(c->b, d, ra);
        else
            jit_op_reg(c->b, JIT_RM8, len == 8 ? 0x0fb6 : 0x0fb7, d, ra);
    } else {
        ir_clobber_flags(c);
        d = copy_dst(c, o);
        if (len < 32) {
            if (pos)
                shift_imm(c, w, 5, d, pos);
            if (pos + len < bits)
                alu_imm(c, 0, 4, d, (int32_t)((1u << len) - 1));
        } else {
            if (pos + len < bits)
                shift_imm(c, w, 4, d, bits - pos - len);
            if (len < bits)
                shift_imm(c, w, 5, d, bits - len);
        }
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void sbfx(struct irc *c, const struct ir_op *o)
{
    unsigned w = w_of(o->t), bits = w ? 64 : 32, pos = (unsigned)o->imm, len = o->attr, ra, d;

    if (!pos && (len == 8 || len == 16 || (len == 32 && w))) {
        ra = ir_use(c, o->a[0]);
        d = ir_dst(c, (ir_val)c->cur, 0);
        jit_op_reg(c->b, JIT_RM8 | w, len == 8 ? 0x0fbe : len == 16 ? 0x0fbf : 0x63, d, ra);
    } else {
        ir_clobber_flags(c);
        d = copy_dst(c, o);
        if (pos + len < bits)
            shift_imm(c, w, 4, d, bits - pos - len);
        if (len < bits)
            shift_imm(c, w, 7, d, bits - len);
        else if (!w) /* nothing else clears the upper half */
            jit_mov_rr32(c->b, d, d);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void bfi(struct irc *c, const struct ir_op *o)
{
    unsigned w = w_of(o->t), bits = w ? 64 : 32, pos = (unsigned)o->imm, len = o->attr, t, ra, d;
    uint64_t hole = len == 64 ? 0 : ~(((UINT64_C(1) << len) - 1) << pos);

    ir_clobber_flags(c);
    t = ir_use(c, o->a[1]);
    d = ir_tmp(c, false);
    ir_mov(c, d, t, (enum ir_type)o->t);
    t = d;
    if (len < bits)
        shift_imm(c, w, 4, t, bits - len);
    if (bits - len - pos)
        shift_imm(c, w, 5, t, bits - len - pos);
    ra = ir_use(c, o->a[0]);
    d = ir_dst(c, (ir_val)c->cur, 0);
    if (!w || (int64_t)hole == (int32_t)hole) {
        ir_mov(c, d, ra, (enum ir_type)o->t);
        alu_imm(c, w, 4, d, (int32_t)hole);
    } else if (d != ra) {
        jit_mov_ri(c->b, d, hole);
        jit_op_reg(c->b, w, 0x23, d, ra);
    } else {
        unsigned k = ir_tmp(c, false);

        jit_mov_ri(c->b, k, hole);
        jit_op_reg(c->b, w, 0x23, d, k);
    }
    jit_op_reg(c->b, w, 0x0b, d, t);
    ir_made(c, (ir_val)c->cur, d);
}

/* The value itself under another type, without code when it can be. */
static void retype(struct irc *c, const struct ir_op *o)
{
    struct irv *x = &c->v[o->a[0]], *y = &c->v[c->cur];
    unsigned d;

    if (c->hint[c->cur] < 0 || (x->loc == L_PIN && x->reg == c->hint[c->cur])) {
        if (x->loc == L_PIN || x->loc == L_HOME) {
            *y = *x;
            y->spill = -1;
            y->next = c->f.first[c->cur];
            ir_alias_add(c, (ir_val)c->cur);
            return;
        }
        if (x->loc == L_REG && !ir_live(c, o->a[0])) {
            c->reg[x->reg] = IR_NO;
            ir_made(c, (ir_val)c->cur, x->reg);
            return;
        }
    }
    d = ir_use(c, o->a[0]);
    if (ir_is_vec(o->t)) {
        unsigned r = ir_dst(c, (ir_val)c->cur, 0);

        ir_mov(c, r, d, IR_V128);
        ir_made(c, (ir_val)c->cur, r);
        return;
    }
    d = copy_dst(c, o);
    ir_made(c, (ir_val)c->cur, d);
}

void ir_code_retype(struct irc *c, const struct ir_op *o)
{
    retype(c, o);
}

/* An I32 made by an instruction that cleared the upper half. */
static bool is_zero_extended(const struct irc *c, ir_val v)
{
    switch (c->s->op[v].op) {
    case IR_TRUNC:
    case IR_COPY:
    case IR_CALL:
    case IR_GET:
        return false;
    default:
        return true;
    }
}

static void zext(struct irc *c, const struct ir_op *o)
{
    struct irv *x = &c->v[o->a[0]];
    struct jit_mem m;
    unsigned ra, d;

    if (is_zero_extended(c, o->a[0]) && x->loc != L_HOME && x->loc != L_CONST) {
        retype(c, o);
        return;
    }
    if (from_mem(c, o->a[0], &m)) {
        d = ir_dst(c, (ir_val)c->cur, 0);
        jit_load32(c->b, d, m);
    } else {
        ra = ir_use(c, o->a[0]);
        d = ir_dst(c, (ir_val)c->cur, 0);
        jit_mov_rr32(c->b, d, ra);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void sext(struct irc *c, const struct ir_op *o)
{
    struct jit_mem m;
    unsigned ra, d;

    if (from_mem(c, o->a[0], &m)) {
        d = ir_dst(c, (ir_val)c->cur, 0);
        jit_op_mem(c->b, JIT_W, 0x63, d, m, 0);
    } else {
        ra = ir_use(c, o->a[0]);
        d = ir_dst(c, (ir_val)c->cur, 0);
        jit_op_reg(c->b, JIT_W, 0x63, d, ra);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void count(struct irc *c, const struct ir_op *o)
{
    unsigned op = o->op == IR_CLZ ? 0x0fbd : o->op == IR_CTZ ? 0x0fbc : 0x0fb8, ra, d;

    ir_clobber_flags(c);
    ra = ir_use(c, o->a[0]);
    d = ir_dst(c, (ir_val)c->cur, 0);
    jit_op_reg(c->b, JIT_F3 | w_of(o->t), op, d, ra);
    ir_made(c, (ir_val)c->cur, d);
}

static void bswap(struct irc *c, const struct ir_op *o)
{
    unsigned d;

    if (o->op == IR_REV16 && o->t == IR_I64) {
        ir_code_eval(c, o);
        return;
    }
    d = copy_dst(c, o);
    if (o->t == IR_I64 || d & 8)
        jit_8(c->b, 0x40 | (o->t == IR_I64 ? 8u : 0u) | (d & 8 ? 1u : 0u));
    jit_8(c->b, 0x0f);
    jit_8(c->b, 0xc8 | (d & 7));
    if (o->op == IR_REV16) {
        ir_vex(c->b, 3, 3, 0, 0xf0, d, 0, d); /* rorx */
        jit_8(c->b, 16);
    }
    ir_made(c, (ir_val)c->cur, d);
}

/* Bytes reversed, then nibbles, pairs and bits of each swapped. */
static void bit_reverse(struct irc *c, const struct ir_op *o)
{
    static const uint64_t mask[] = {UINT64_C(0x0f0f0f0f0f0f0f0f), UINT64_C(0x3333333333333333),
                                    UINT64_C(0x5555555555555555)};
    unsigned w = w_of(o->t), d, t, m;

    ir_clobber_flags(c);
    d = copy_dst(c, o);
    t = ir_tmp(c, false);
    m = ir_tmp(c, false);
    if (w || d & 8)
        jit_8(c->b, 0x40 | (w ? 8u : 0u) | (d & 8 ? 1u : 0u));
    jit_8(c->b, 0x0f);
    jit_8(c->b, 0xc8 | (d & 7));
    for (unsigned k = 0; k < 3; k++) {
        jit_mov_ri(c->b, m, w ? mask[k] : (uint32_t)mask[k]);
        jit_op_reg(c->b, w, 0x8b, t, d);
        jit_op_reg(c->b, w, 0xc1, 5, t); /* shr */
        jit_8(c->b, 4u >> k);
        jit_op_reg(c->b, w, 0x23, t, m);
        jit_op_reg(c->b, w, 0x23, d, m);
        jit_op_reg(c->b, w, 0xc1, 4, d); /* shl */
        jit_8(c->b, 4u >> k);
        jit_op_reg(c->b, w, 0x0b, d, t);
    }
    ir_made(c, (ir_val)c->cur, d);
}

static void extr(struct irc *c, const struct ir_op *o)
{
    unsigned hi, lo, d;

    ir_clobber_flags(c);
    hi = ir_use(c, o->a[0]);
    lo = ir_use(c, o->a[1]);
    d = ir_dst(c, (ir_val)c->cur, hi != lo ? 1u << hi : 0);
    ir_mov(c, d, lo, (enum ir_type)o->t);
    jit_op_reg(c->b, w_of(o->t), 0x0fac, hi == lo ? d : hi, d); /* shrd */
    jit_8(c->b, (unsigned)o->imm);
    ir_made(c, (ir_val)c->cur, d);
}

static void andn(struct irc *c, const struct ir_op *o)
{
    unsigned ra, rb, d;

    ir_clobber_flags(c);
    ra = ir_use(c, o->a[0]);
    rb = ir_use(c, o->a[1]);
    d = ir_dst(c, (ir_val)c->cur, 0);
    ir_vex(c->b, 0, 2, o->t == IR_I64, 0xf2, d, rb, ra);
    ir_made(c, (ir_val)c->cur, d);
    c->ef_logic = IR_NO;
}

static void crc32c(struct irc *c, const struct ir_op *o)
{
    unsigned ra = ir_use(c, o->a[0]), rb = ir_use(c, o->a[1]), d = ir_dst(c, (ir_val)c->cur, ra != rb ? 1u << rb : 0);

    if (ra == rb && d == ra) { /* needs both */
        unsigned x = ir_tmp(c, false);

        jit_mov_rr(c->b, x, rb);
        rb = x;
    }
    ir_mov(c, d, ra, IR_I32);
    jit_op_reg(c->b, JIT_F2 | (o->attr == 3 ? (unsigned)JIT_W : 0) | (o->attr == 1 ? (unsigned)JIT_66 : 0) | JIT_RM8,
               o->attr ? 0x0f38f1 : 0x0f38f0, d, rb);
    ir_made(c, (ir_val)c->cur, d);
}

/* The IEEE polynomial has no instruction: Barrett reduction by two carry-less products. The step's bits stand at the
 * top of 64, whose quotient by the polynomial is the low half of the first product; what the second has above 64 is
 * left. */
static void crc32(struct irc *c, const struct ir_op *o)
{
    unsigned ra, rb, t, u = 0, x, bits = 8u << o->attr;

    ir_clobber_flags(c);
    ra = ir_use(c, o->a[0]);
    rb = ir_use(c, o->a[1]);
    t = ir_tmp(c, false);
    x = ir_tmp(c, true) - XMM0;
    jit_mov_rr32(c->b, t, ra);
    if (bits < 32) { /* bits of the old value that stay */
        u = ir_tmp(c, false);
        jit_mov_rr32(c->b, u, t);
        jit_op_reg(c->b, 0, 0xc1, 5, u);
        jit_8(c->b, bits);
    }
    jit_op_reg(c->b, bits == 64 ? JIT_W : 0, 0x33, t, rb);
    if (bits < 64) {
        jit_op_reg(c->b, JIT_W, 0xc1, 4, t);
        jit_8(c->b, 64 - bits);
    }
    ir_vex(c->b, 1, 1, 1, 0x6e, x, 0, t);
    for (unsigned k = 0; k < 2; k++) {
        ir_vex_m(c->b, 1, 3, 0, 0x44, x, x, JIT_GS(IRX(konst) + 16 * 5)); /* vpclmulqdq: by its low, by its high half */
        jit_8(c->b, k << 4);
    }
    ir_vex(c->b, 1, 3, 0, 0x16, x, 0, t); /* vpextrd t, x, 2 */
    jit_8(c->b, 2);
    if (bits < 32)
        jit_op_reg(c->b, 0, 0x33, t, u);
    ir_made(c, (ir_val)c->cur, t);
}

bool ir_code_int(struct irc *c, const struct ir_op *o)
{
    unsigned d;

    switch (o->op) {
    case IR_ADD ... IR_XOR:
        two_operand(c, o);
        return true;
    case IR_ANDN:
        andn(c, o);
        return true;
    case IR_NOT:
        d = copy_dst(c, o);
        jit_op_reg(c->b, w_of(o->t), 0xf7, 2, d);
        ir_made(c, (ir_val)c->cur, d);
        return true;
    case IR_NEG:
        ir_clobber_flags(c);
        d = copy_dst(c, o);
        jit_op_reg(c->b, w_of(o->t), 0xf7, 3, d);
        ir_made(c, (ir_val)c->cur, d);
        return true;
    case IR_MUL:
        mul(c, o);
        return true;
    case IR_MULHU ... IR_MULHSU:
        mulh(c, o);
        return true;
    case IR_DIVU ... IR_REMS:
        divide(c, o);
        return true;
    case IR_SHL ... IR_ROR:
        shift(c, o);
        return true;
    case IR_EXTR:
        extr(c, o);
        return true;
    case IR_CLZ ... IR_POPCNT:
        count(c, o);
        return true;
    case IR_BSWAP:
    case IR_REV16:
        bswap(c, o);
        return true;
    case IR_BITREV:
        bit_reverse(c, o);
        return true;
    case IR_UBFX:
        ubfx(c, o);
        return true;
    case IR_SBFX:
        sbfx(c, o);
        return true;
    case IR_BFI:
        bfi(c, o);
        return true;
    case IR_TRUNC:
    case IR_COPY:
        retype(c, o);
        return true;
    case IR_ZEXT:
        zext(c, o);
        return true;
    case IR_RORSX:
        rotate_word(c, o);
        return true;
    case IR_SEXT:
        sext(c, o);
        return true;
    case IR_CMP:
        ir_code_setcc(c, ir_code_cmp(c, o->attr, (enum ir_type)c->s->op[o->a[0]].t, o->a[0], o->a[1]));
        return true;
    case IR_CMPSEL:
        ir_code_select(c, ir_code_cmp(c, o->attr, (enum ir_type)o->imm2, o->a[0], o->a[1]), o->a[2], o->a[3]);
        return true;
    case IR_SELECT:
        ir_clobber_flags(c);
        c->ef_logic = IR_NO;
        d = ir_use(c, o->a[0]);
        jit_op_reg(c->b, 0, 0x85, d, d);
        ir_code_select(c, JCC_NE, o->a[1], o->a[2]);
        return true;
    case IR_CRC32C:
        crc32c(c, o);
        return true;
    case IR_CRC32:
        crc32(c, o);
        return true;
    default:
        return false;
    }
}
