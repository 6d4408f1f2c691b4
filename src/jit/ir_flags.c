/* Arm condition flags on host flags. A FLAGS value is in EFLAGS (c->ef; CF = C, or CF = !C: inv), or packed somewhere
 * (its loc): what LAHF and SETO AL leave in AX, with CF = C; or both. L_EFLAGS: only in EFLAGS. The context's flags
 * word is the guest's, written only when someone may look (gf_saved). */
#include "jit/ir_int.h"

static bool guest_flags_wanted(const struct irc *c)
{
    const struct ir_op *o = &c->s->op[c->cur];

    return c->f.fl_live[c->cur] || (o->op >= IR_CALL_ON && o->op <= IR_EXIT_CODE && !o->dead) ||
           (o->op == IR_CALL && o->attr != IR_CALL_PURE);
}

void ir_mark(struct irc *c, unsigned mark)
{
    struct jit_block_out *out = c->out;
    unsigned n = out->nr_insn - 1, off = (unsigned)(c->b->p - c->b->start);

    if (mark == c->mark)
        return;
    c->mark = mark;
    if (out->host_off[n] != off) {
        if (out->nr_insn == JIT_BLOCK_TOP_INSN) {
            c->failed = true;
            return;
        }
        out->nr_insn++;
        out->host_off[n + 1] = (uint16_t)off;
        out->guest_off[n + 1] = out->guest_off[n];
        n++;
    }
    out->guest_off[n] = jit_marked(out->guest_off[n], mark);
}

static void cmc(struct irc *c, bool want_inv)
{
    if (c->v[c->ef].inv != want_inv) {
        jit_8(c->b, 0xf5);
        c->v[c->ef].inv = want_inv;
        if (c->mark)
            ir_mark(c, want_inv ? IR_MARK_FLAGS_INV : IR_MARK_FLAGS);
    }
}

/* RAX = EFLAGS packed, CF is C; RAX is the caller's. */
static void pack_c(struct irc *c)
{
    jit_8(c->b, 0x9f);                      /* lahf */
    jit_op_reg(c->b, 0, 0x0f90, 0, JR_RAX); /* seto al */
}

static void pack(struct irc *c)
{
    cmc(c, false);
    pack_c(c);
}

static void detach_word(struct irc *c, ir_val except)
{
    for (unsigned i = 0; i < c->nr_alias; i++) {
        ir_val v = c->alias[i];
        struct irv *x = &c->v[v];

        if (v != except && x->loc == L_HOME && x->home == IRX(flags) && x->next != IR_NO) {
            uint32_t lock = c->lock;

            ir_use(c, v);
            c->lock = lock;
        }
    }
}

void ir_store_eflags(struct irc *c)
{
    pack(c);
    jit_store(c->b, GSX(flags), JR_RAX); /* all of the word: part of one cannot be read back fast */
}

void ir_store_flags_of(struct irc *c, bool inv)
{
    if (inv)
        jit_8(c->b, 0xf5);
    pack_c(c);
    jit_store(c->b, GSX(flags), JR_RAX);
}

void ir_commit_flags(struct irc *c)
{
    if (guest_flags_wanted(c))
        ir_save_flags(c);
}

void ir_flags_for_fault(struct irc *c, const struct ir_op *o)
{
    const struct irv *x;

    if (c->gf == IR_NO || c->gf_saved || !guest_flags_wanted(c))
        return;
    x = &c->v[c->gf];
    if (c->env->loops && c->ef == c->gf && x->loc == L_EFLAGS && (o->op == IR_LOAD || o->op == IR_STORE) &&
        !(o->attr & (IR_MALIGN | IR_MSWAP | IR_MREL)))
        ir_mark(c, x->inv ? IR_MARK_FLAGS_INV : IR_MARK_FLAGS);
    else
        ir_save_flags(c);
}

void ir_save_flags(struct irc *c)
{
    uint32_t lock = c->lock;
    struct irv *x;
    unsigned r;

    if (c->gf == IR_NO || c->gf_saved)
        return;
    x = &c->v[c->gf];
    detach_word(c, c->gf);
    if (x->loc == L_EFLAGS) {
        ir_take(c, JR_RAX);
        ir_store_eflags(c);
        c->reg[JR_RAX] = IR_NO;
    } else {
        r = ir_use(c, c->gf);
        jit_store(c->b, GSX(flags), r);
    }
    c->lock = lock;
    c->gf_saved = true;
}

/* Moves v, which lies in EFLAGS, to where it outlives them. */
static void out_of_eflags(struct irc *c, ir_val v)
{
    struct irv *x = &c->v[v];

    if (v == c->gf && c->gf_saved) {
        x->loc = L_HOME;
        x->home = IRX(flags);
        ir_alias_add(c, v);
    } else {
        ir_take(c, JR_RAX);
        pack(c);
        x->loc = L_REG;
        x->reg = JR_RAX;
        c->reg[JR_RAX] = v;
        c->lock &= ~(1u << JR_RAX);
    }
}

void ir_clobber_flags(struct irc *c)
{
    ir_val v = c->ef;
    struct irv *x;

    c->ef_logic = IR_NO;
    if (v == IR_NO)
        return;
    x = &c->v[v];
    if (v == c->gf && !c->gf_saved)
        ir_commit_flags(c);
    ir_mark(c, 0);
    if (x->loc == L_EFLAGS && x->next != IR_NO)
        out_of_eflags(c, v);
    c->ef = IR_NO;
}

void ir_need_flags(struct irc *c, ir_val v, unsigned inv)
{
    struct irv *x = &c->v[v];
    uint32_t lock = c->lock;

    if (c->ef != v) {
        ir_clobber_flags(c);
        if (x->loc == L_REG && x->reg == JR_RAX && !ir_live(c, v)) {
            x->loc = L_EFLAGS;
        } else {
            ir_take(c, JR_RAX);
            ir_fetch(c, JR_RAX, v);
        }
        jit_8(c->b, 0x04); /* add al, 0x7f */
        jit_8(c->b, 0x7f);
        jit_8(c->b, 0x9e); /* sahf */
        c->reg[JR_RAX] = IR_NO;
        c->ef = v;
        x->inv = 0;
        c->lock = lock;
    }
    if (inv < 2)
        cmc(c, inv);
}

void ir_made_flags(struct irc *c, ir_val v, bool inv)
{
    struct irv *x = &c->v[v];

    x->next = c->f.first[v];
    x->spill = -1;
    x->also = 0;
    x->inv = inv;
    x->loc = L_EFLAGS;
    c->ef = x->next == IR_NO ? IR_NO : v;
}

unsigned ir_flag_cc(struct irc *c, ir_val v, unsigned cond)
{
    static const uint8_t cc[] = {JCC_E, 0, JCC_S, JCC_O, JCC_A, JCC_GE, JCC_G};
    unsigned k = cond >> 1 & 7;

    ir_need_flags(c, v, k == 4 ? 1 : 2);
    return (k == 1 ? c->v[v].inv ? JCC_AE : JCC_B : cc[k]) ^ (cond & 1);
}

/* a op b for its flags only. */
static void compare(struct irc *c, bool add, ir_val a, ir_val b)
{
    unsigned w = c->s->op[a].t == IR_I64 ? JIT_W : 0, ra;

    if (add) {
        unsigned rb = ir_use(c, b);

        ra = ir_tmp(c, false);
        ir_fetch(c, ra, a);
        jit_op_reg(c->b, w, 0x03, ra, rb);
        return;
    }
    ra = ir_use(c, a);
    if (ir_const32(c, b)) {
        int32_t k = (int32_t)c->s->op[b].imm;
        bool small = k == (int8_t)k;

        jit_op_reg(c->b, w, small ? 0x83 : 0x81, 7, ra);
        if (small)
            jit_8(c->b, (uint8_t)k);
        else
            jit_32(c->b, (uint32_t)k);
    } else {
        jit_op_reg(c->b, w, 0x3b, ra, ir_use(c, b));
    }
}

/* v's flags are about to be replaced in EFLAGS by code that reads them there: saves what is still wanted. */
static void keep_flags(struct irc *c, ir_val v)
{
    struct irv *x = &c->v[v];

    if (c->ef != v) {
        ir_clobber_flags(c);
        return;
    }
    if (v == c->gf)
        ir_commit_flags(c);
    ir_mark(c, 0);
    if (ir_live(c, v) && x->loc == L_EFLAGS)
        out_of_eflags(c, v);
}

static void with_carry(struct irc *c, const struct ir_op *o, bool sub, bool value)
{
    enum ir_type t = (enum ir_type)c->s->op[o->a[0]].t;
    unsigned ra, rb, d;

    keep_flags(c, o->a[2]);
    ir_need_flags(c, o->a[2], sub);
    ra = ir_use(c, o->a[0]);
    rb = ir_use(c, o->a[1]);
    d = value ? ir_dst(c, (ir_val)c->cur, ra != rb ? 1u << rb : 0) : ir_tmp(c, false);
    ir_mov(c, d, ra, t);
    jit_op_reg(c->b, t == IR_I64 ? JIT_W : 0, sub ? 0x1b : 0x13, d, rb);
    c->ef = c->ef_logic = IR_NO;
    if (value)
        ir_made(c, (ir_val)c->cur, d);
}

/* Where the condition is not met EFLAGS stay as they are. */
static void cond_compare(struct irc *c, const struct ir_op *o, bool add)
{
    unsigned cc, ra, t = 0, w = c->s->op[o->a[1]].t == IR_I64 ? JIT_W : 0;
    uint8_t *no;

    ir_flag_cc(c, o->a[0], o->attr & 15);
    ir_need_flags(c, o->a[0], !add);
    cc = ir_flag_cc(c, o->a[0], o->attr & 15); /* CS, CC: as CF is now */
    ra = ir_use(c, o->a[1]);                   /* behind the jump nothing may move a value */
    if (add || !ir_const32(c, o->a[2]))
        ir_use(c, o->a[2]);
    if (add)
        t = ir_tmp(c, false);
    no = jit_jcc8_fwd(c->b, cc ^ 1);
    if (add) {
        jit_mov_rr(c->b, t, ra);
        jit_op_reg(c->b, w, 0x03, t, c->v[o->a[2]].reg);
    } else {
        compare(c, false, o->a[1], o->a[2]);
    }
    jit_patch8(c->b, no);
    c->ef = c->ef_logic = IR_NO;
    ir_made_flags(c, (ir_val)c->cur, !add);
}

void ir_load_flags(struct irc *c, uint32_t packed)
{
    jit_mov_ri(c->b, JR_RAX, packed);
    jit_8(c->b, 0x04); /* add al, 0x7f */
    jit_8(c->b, 0x7f);
    jit_8(c->b, 0x9e); /* sahf */
}

/* EFLAGS where the condition is not met are made in cold code: mostly it is a && b with a true. */
static void ccmp(struct irc *c, const struct ir_op *o)
{
    unsigned cc, n = (unsigned)o->imm, ra = 0, w = c->s->op[o->a[1]].t == IR_I64 ? JIT_W : 0;
    bool add = o->attr & 16;
    struct ir_cold *k;
    uint64_t packed = ir_flags_of(n << 28);

    if (!add)
        packed ^= 0x100; /* CF is the inverse of C after CMP */
    keep_flags(c, o->a[0]);
    if (o->attr & 32) {
        cond_compare(c, o, add);
        return;
    }
    cc = ir_flag_cc(c, o->a[0], o->attr & 15);
    ir_take(c, JR_RAX); /* from here to the end of the fork nothing may move a value */
    ir_use(c, o->a[1]);
    if (add || !ir_const32(c, o->a[2]))
        ir_use(c, o->a[2]);
    if (add)
        ra = ir_tmp(c, false);
    k = ir_new_cold(c, COLD_FLAGS);
    k->n = (uint32_t)packed;
    k->from = jit_jcc_fwd(c->b, cc ^ 1);
    if (add) {
        jit_mov_rr(c->b, ra, c->v[o->a[1]].reg);
        jit_op_reg(c->b, w, 0x03, ra, c->v[o->a[2]].reg);
    } else {
        compare(c, false, o->a[1], o->a[2]);
    }
    k->back = c->b->p;
    c->ef_logic = IR_NO;
    ir_made_flags(c, (ir_val)c->cur, !add);
}

/* A FLAGS value made of integers: packed in d. */
static void made_packed(struct irc *c, unsigned d)
{
    ir_made(c, (ir_val)c->cur, d);
}

static void and_imm(struct irc *c, unsigned r, uint32_t mask)
{
    jit_op_reg(c->b, 0, 0x81, 4, r);
    jit_32(c->b, mask);
}

static unsigned flags_reg(struct irc *c, ir_val v)
{
    ir_clobber_flags(c);
    return ir_use(c, v);
}

/* N and Z of a, C (and V) from elsewhere: FL_NZ, FL_NZC. */
static void nz(struct irc *c, const struct ir_op *o)
{
    ir_val from = o->op == IR_FL_NZ ? o->a[1] : o->a[2];
    unsigned f, ra, w = c->s->op[o->a[0]].t == IR_I64 ? JIT_W : 0, t;

    ir_clobber_flags(c);
    ir_take(c, JR_RAX);
    f = ir_use(c, from);
    t = ir_tmp(c, false);
    jit_mov_rr32(c->b, t, f);
    c->lock &= ~(1u << f);
    and_imm(c, t, o->op == IR_FL_NZ ? 0x101 : 1);
    if (o->op == IR_FL_NZC && !ir_is_const(c, o->a[1])) {
        f = ir_use(c, o->a[1]);
        jit_mov_rr32(c->b, JR_RAX, f);
        c->lock &= ~(1u << f);
        and_imm(c, JR_RAX, 1);
        jit_op_reg(c->b, 0, 0xc1, 4, JR_RAX);
        jit_8(c->b, 8);
        jit_op_reg(c->b, 0, 0x0b, t, JR_RAX);
    }
    ra = ir_use(c, o->a[0]);
    jit_op_reg(c->b, w, 0x85, ra, ra);
    jit_8(c->b, 0x9f); /* lahf */
    and_imm(c, JR_RAX, 0xc000);
    if (o->op == IR_FL_NZC && ir_is_const(c, o->a[1]) && c->s->op[o->a[1]].imm & 1) {
        jit_op_reg(c->b, 0, 0x81, 1, JR_RAX);
        jit_32(c->b, 0x100);
    }
    jit_op_reg(c->b, 0, 0x0b, JR_RAX, t);
    made_packed(c, JR_RAX);
}

unsigned ir_code_fcc(struct irc *c, unsigned cond, ir_val va, ir_val vb)
{
    static const struct {
        uint8_t cc;
        bool swap; /* b with a */
    } how[] = {{0, false},    {JCC_BE, true},  {JCC_A, true}, {JCC_P, false},
               {JCC_B, true}, {JCC_AE, false}, {JCC_A, false}};
    unsigned k = cond >> 1 & 7, d = c->s->op[va].t == IR_F64, a, b, t, r;

    ir_clobber_flags(c);
    a = ir_use(c, va) - XMM0;
    b = ir_use(c, vb) - XMM0;
    if (k) {
        ir_vex(c->b, d, 1, 0, 0x2e, how[k].swap ? b : a, 0, how[k].swap ? a : b);
        return how[k].cc ^ (cond & 1);
    }
    t = ir_tmp(c, true) - XMM0; /* equal: no one flag says it */
    r = ir_tmp(c, false);
    ir_vex(c->b, d ? 3 : 2, 1, 0, 0xc2, t, a, b);
    jit_8(c->b, 0);
    ir_vex(c->b, 1, 1, 0, 0x7e, t, 0, r);
    jit_op_reg(c->b, 0, 0x85, r, r);
    return JCC_NE ^ (cond & 1);
}

/* Does anybody want the packed flags? */
static bool fcmp_is_asked(const struct irc *c)
{
    for (unsigned n = c->f.first[c->cur]; n != IR_NO; n = c->f.next[n][0]) {
        const struct ir_op *o = &c->s->op[n];

        if ((o->op != IR_EXIT_IF_FL && o->op != IR_FL_COND) || o->a[1] == IR_NO || o->a[0] != c->cur)
            return true;
    }
    return false;
}

/* ucomis leaves ZF PF CF: unordered 111, greater 000, less 001, equal 100. A table of nibbles gives NZCV. */
static void fcmp(struct irc *c, const struct ir_op *o)
{
    unsigned pp = c->s->op[o->a[0]].t == IR_F64 ? 1 : 0, a, b, t;
    /* index ZF PF CF; entries N Z C V */
    static const uint8_t nzcv[8] = {2, 8, 3, 3, 6, 6, 3, 3};
    uint32_t table = 0;

    for (unsigned i = 0; i < 8; i++)
        table |= (uint32_t)nzcv[i] << 4 * i;
    ir_clobber_flags(c);
    if (!fcmp_is_asked(c)) {
        a = ir_use(c, o->a[0]);
        b = ir_use(c, o->a[1]);
        ir_vex(c->b, pp, 1, 0, o->attr & 1 ? 0x2f : 0x2e, a - XMM0, 0, b - XMM0);
        return;
    }
    ir_take(c, JR_RAX);
    a = ir_use(c, o->a[0]);
    b = ir_use(c, o->a[1]);
    t = ir_tmp(c, false);
    ir_vex(c->b, pp, 1, 0, o->attr & 1 ? 0x2f : 0x2e, a - XMM0, 0, b - XMM0);
    jit_8(c->b, 0x9f); /* lahf */
    jit_mov_ri(c->b, t, 0x4500);
    ir_vex(c->b, 2, 2, 0, 0xf5, JR_RAX, JR_RAX, t); /* pext eax, eax, t */
    jit_op_reg(c->b, 0, 0xc1, 4, JR_RAX);
    jit_8(c->b, 2);
    jit_mov_ri(c->b, t, table);
    ir_vex(c->b, 3, 2, 0, 0xf7, JR_RAX, JR_RAX, t); /* shrx eax, t, eax */
    jit_mov_ri(c->b, t, 0xc101);
    ir_vex(c->b, 3, 2, 0, 0xf5, JR_RAX, JR_RAX, t); /* pdep eax, eax, t */
    made_packed(c, JR_RAX);
}

static void bits(struct irc *c, const struct ir_op *o)
{
    unsigned d, t, r;

    if (o->op == IR_FL_TO_BITS) {
        r = flags_reg(c, o->a[0]);
        ir_clobber_flags(c);
        t = ir_tmp(c, false);
        d = ir_tmp(c, false);
        jit_mov_ri(c->b, t, 0xc101);
        ir_vex(c->b, 2, 2, 0, 0xf5, d, r, t);
        jit_op_reg(c->b, 0, 0xc1, 4, d);
        jit_8(c->b, 28);
        ir_made(c, (ir_val)c->cur, d);
        return;
    }
    ir_clobber_flags(c);
    r = ir_use(c, o->a[0]);
    t = ir_tmp(c, false);
    d = ir_tmp(c, false);
    jit_mov_rr32(c->b, d, r);
    jit_op_reg(c->b, 0, 0xc1, 5, d);
    jit_8(c->b, 28);
    jit_mov_ri(c->b, t, 0xc101);
    ir_vex(c->b, 3, 2, 0, 0xf5, d, d, t);
    made_packed(c, d);
}

static void fl_get(struct irc *c)
{
    struct irv *x = &c->v[c->cur];

    ir_commit_flags(c);
    x->next = c->f.first[c->cur];
    x->spill = -1;
    x->loc = L_HOME;
    x->home = IRX(flags);
    ir_alias_add(c, (ir_val)c->cur);
    c->gf = (ir_val)c->cur;
    c->gf_saved = true;
}

bool ir_code_flags(struct irc *c, const struct ir_op *o)
{
    unsigned r;

    switch (o->op) {
    case IR_FL_GET:
        fl_get(c);
        return true;
    case IR_FL_PUT:
        if (c->gf != o->a[0] || !c->gf_saved) {
            c->gf = o->a[0];
            c->gf_saved = c->v[c->gf].loc == L_HOME; /* the word itself */
            if (c->v[c->gf].loc != L_EFLAGS) {       /* packed: stored now, its register may go */
                ir_commit_flags(c);
                c->gf_saved = true;
            }
        }
        return true;
    case IR_FL_ADD:
    case IR_FL_SUB:
        ir_clobber_flags(c);
        compare(c, o->op == IR_FL_ADD, o->a[0], o->a[1]);
        ir_made_flags(c, (ir_val)c->cur, o->op == IR_FL_SUB);
        return true;
    case IR_FL_ADC:
    case IR_FL_SBC:
        with_carry(c, o, o->op == IR_FL_SBC, false);
        ir_made_flags(c, (ir_val)c->cur, o->op == IR_FL_SBC);
        return true;
    case IR_ADC:
    case IR_SBC:
        with_carry(c, o, o->op == IR_SBC, true);
        return true;
    case IR_FL_LOGIC:
        if (c->ef_logic != o->a[0]) {
            ir_clobber_flags(c);
            r = ir_use(c, o->a[0]);
            jit_op_reg(c->b, c->s->op[o->a[0]].t == IR_I64 ? JIT_W : 0, 0x85, r, r);
        }
        ir_made_flags(c, (ir_val)c->cur, false);
        return true;
    case IR_FL_NZ:
    case IR_FL_NZC:
        nz(c, o);
        return true;
    case IR_FL_FCMP:
        fcmp(c, o);
        return true;
    case IR_FL_BITS:
    case IR_FL_TO_BITS:
        bits(c, o);
        return true;
    case IR_FL_CCMP:
        ccmp(c, o);
        return true;
    case IR_FCMPSEL:
        ir_code_select(c, ir_code_fcc(c, o->attr, o->a[0], o->a[1]), o->a[2], o->a[3]);
        return true;
    case IR_FL_COND:
        if (o->a[1] != IR_NO) {
            ir_code_setcc(c, ir_code_fcc(c, o->attr, o->a[1], o->a[2]));
            return true;
        }
        ir_code_setcc(c, ir_flag_cc(c, o->a[0], o->attr));
        return true;
    case IR_FL_SELECT:
        ir_code_select(c, ir_flag_cc(c, o->a[0], o->attr), o->a[1], o->a[2]);
        return true;
    default:
        return false;
    }
}
