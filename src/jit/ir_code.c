/* Compiling a superblock: passes, then one walk that allocates and emits. */
#include "base/log.h"
#include "jit/ir_int.h"

/* True when nobody between the ops d and j can see the pin for offset off, or replaces it. */
static bool unseen_between(const struct ir *s, unsigned d, unsigned j, int64_t off)
{
    for (unsigned k = d + 1; k < j; k++) {
        const struct ir_op *o = &s->op[k];

        if (o->op == IR_INSN)
            continue;
        if (ir_op_effect[o->op] == 'M' || ir_op_effect[o->op] == 'X' || o->op == IR_CALL)
            return false;
        if ((o->op == IR_GET || o->op == IR_PUT) && o->imm == off)
            return false;
    }
    return true;
}

/* Ops that are their argument in another guise when that was made in the right place. */
static bool is_guise(const struct ir *s, const struct ir_op *o)
{
    return o->op == IR_ZEXT || o->op == IR_VCAST || (o->op == IR_VFLOW && ir_zero_above(s, o->a[0]));
}

/* A value that a PUT takes to a pin may be made there at once. */
static void find_hints(struct irc *c)
{
    const struct ir_op *op = c->s->op;

    memset(c->hint, 0xff, c->s->nr * sizeof c->hint[0]);
    for (unsigned i = c->f.nr_puts; i-- > 0;) {
        unsigned j = c->f.put[i], d = op[j].a[0];
        int p;

        if (j - d > 16 || op[d].op == IR_CONST || op[d].op == IR_GET)
            continue;
        p = ir_pin_of(c, op[j].imm);
        if (p < 0 || c->hint[d] >= 0 || !unseen_between(c->s, d, j, op[j].imm))
            continue;
        c->hint[d] = (int16_t)p;
        if (!is_guise(c->s, &op[d]))
            continue;
        d = op[d].a[0];
        if (j - d <= 20 && op[d].op != IR_CONST && op[d].op != IR_GET && op[d].op != IR_TRUNC && op[d].op != IR_FLOW &&
            c->hint[d] < 0 && unseen_between(c->s, d, j, op[j].imm))
            c->hint[d] = (int16_t)p;
    }
}

static bool same_args(const struct ir_op *a, const struct ir_op *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (a->a[i] != b->a[i])
            return false;
    return true;
}

/* Value and flags by one host instruction. */
static bool is_pair(const struct irc *c, unsigned n)
{
    const struct ir_op *o = &c->s->op[n], *f = o + 1;

    if (n + 1 >= c->s->nr)
        return false;
    switch (o->op) {
    case IR_ADD:
        return f->op == IR_FL_ADD && same_args(o, f, 2);
    case IR_SUB:
        return f->op == IR_FL_SUB && same_args(o, f, 2);
    case IR_ADC:
        return f->op == IR_FL_ADC && same_args(o, f, 3);
    case IR_SBC:
        return f->op == IR_FL_SBC && same_args(o, f, 3);
    default:
        return false;
    }
}

static void get(struct irc *c, const struct ir_op *o)
{
    struct irv *x = &c->v[c->cur];
    int p = ir_pin_of(c, o->imm);

    x->next = c->f.first[c->cur];
    x->spill = -1;
    if (p >= 0) {
        x->loc = L_PIN;
        x->reg = (uint8_t)p;
    } else {
        x->loc = L_HOME;
        x->home = (int32_t)o->imm;
    }
    ir_alias_add(c, (ir_val)c->cur);
}

static void insn(struct irc *c, const struct ir_op *o)
{
    struct jit_block_out *out = c->out;

    if (out->nr_insn == JIT_BLOCK_TOP_INSN) {
        c->failed = true;
        return;
    }
    c->pc = c->s->pc + (uint64_t)o->imm;
    c->mark = 0;
    out->host_off[out->nr_insn] = (uint16_t)(c->b->p - c->b->start);
    out->guest_off[out->nr_insn++] = (uint16_t)o->imm;
}

static bool vconst(struct irc *c, const struct ir_op *o)
{
    unsigned d, t;

    if (o->op != IR_VCONST)
        return false;
    d = ir_dst(c, (ir_val)c->cur, 0) - XMM0;
    if (!o->imm) {
        ir_vex(c->b, 1, 1, 0, 0xef, d, d, d);
    } else if (o->imm == -1 && o->attr) {
        ir_vex(c->b, 1, 1, 0, 0x76, d, d, d);
    } else {
        t = ir_tmp(c, false);
        jit_mov_ri(c->b, t, (uint64_t)o->imm);
        ir_vex(c->b, 1, 1, 1, 0x6e, d, 0, t);
        if (o->attr)
            ir_vex(c->b, 1, 1, 0, 0x6c, d, d, d); /* vpunpcklqdq */
    }
    ir_made(c, (ir_val)c->cur, d + XMM0);
    return true;
}

static void emit(struct irc *c, const struct ir_op *o)
{
    char effect = ir_op_effect[o->op];

    if (effect != 'P')
        c->zero = 0;
    if (o->op >= IR_FL_GET && o->op <= IR_SBC) {
        if (ir_code_flags(c, o))
            return;
    } else if (effect == 'M') {
        ir_flags_for_fault(c, o);
        if (ir_code_mem(c, o))
            return;
    } else if (effect == 'X' && ir_code_flow(c, o)) {
        return;
    }
    if (!ir_code_int(c, o) && !ir_code_mem(c, o) && !ir_code_flow(c, o) && !ir_code_flags(c, o) && !vconst(c, o) &&
        !ir_code_fp(c, o) && !ir_code_vec(c, o))
        ir_code_eval(c, o);
}

/* Ops without an argument that make no code. */
static bool nothing_to_do(struct irc *c, const struct ir_op *o)
{
    switch (o->op) {
    case IR_CONST:
        c->v[c->cur].loc = L_CONST;
        c->v[c->cur].spill = -1;
        c->v[c->cur].next = c->f.first[c->cur];
        return true;
    case IR_GET:
        get(c, o);
        return true;
    case IR_INSN:
        insn(c, o);
        return true;
    default:
        return false;
    }
}

static void walk(struct irc *c)
{
    const struct ir *s = c->s;

    for (unsigned i = c->f.first_live; i < s->nr && !c->failed; i++) {
        const struct ir_op *o = &s->op[c->f.live[i]];

        c->cur = c->f.live[i];
        if (nothing_to_do(c, o))
            continue;
        if (o->op == IR_PUT) {
            ir_put_state(c, o);
            ir_consume(c, c->cur);
            continue;
        }
        if (o->op == IR_STORE && ir_stores_join(c, c->cur)) {
            ir_code_stores(c, o);
            ir_consume(c, c->cur++);
            ir_consume(c, c->cur);
            i++;
            continue;
        }
        c->pair = is_pair(c, c->cur);
        emit(c, o);
        if (c->pair) {
            c->pair = 0;
            ir_consume(c, c->cur);
            c->cur++;
            i++;
            ir_made_flags(c, (ir_val)c->cur, o->op == IR_SUB || o->op == IR_SBC);
        }
        ir_consume(c, c->cur);
    }
}

static void init(struct irc *c)
{
    for (unsigned i = 0; i < NR_REGS; i++)
        c->reg[i] = IR_NO;
    ir_pins_init(c);
    memset(c->v, 0, c->s->nr * sizeof c->v[0]); /* L_NONE */
    c->ef = c->gf = c->ef_logic = IR_NO;
    c->pc = c->s->pc;
}

/* The compiler's state and its tables for nr ops. Not zeroed beyond the head: the tables are filled before use. */
static struct irc *new_irc(unsigned nr)
{
    size_t head = align_up(sizeof(struct irc), 16), cold = (IR_MAX_COLD + 1) * sizeof(struct ir_cold);
    size_t per_op =
        sizeof(struct irv) + 4 * sizeof(uint16_t) + 3 * sizeof(uint16_t) + sizeof(int16_t) + 2 * sizeof(bool);
    uint8_t *p = xmalloc(head + cold + nr * per_op);
    struct irc *c = (struct irc *)p;

    memset(c, 0, offsetof(struct irc, alias));
    p += head;
    c->cold = (struct ir_cold *)p;
    p += cold;
    c->v = (struct irv *)p;
    p += nr * sizeof(struct irv);
    c->f.next = (uint16_t(*)[4])p;
    p += nr * 4 * sizeof(uint16_t);
    c->f.first = (uint16_t *)p;
    p += nr * sizeof(uint16_t);
    c->f.live = (uint16_t *)p;
    p += nr * sizeof(uint16_t);
    c->f.put = (uint16_t *)p;
    p += nr * sizeof(uint16_t);
    c->hint = (int16_t *)p;
    p += nr * sizeof(int16_t);
    c->f.fl_live = (bool *)p;
    c->f.all_flags = c->f.fl_live + nr;
    return c;
}

/* -d op, -d op_opt. */
static void show(const struct ir *s, unsigned log_class, const char *how)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return;
    ir_print(s, f);
    fclose(f);
    log_write(log_class, "IR %s: block at %016" PRIx64 "\n%s\n", how, s->pc, text);
    free(text);
}

bool ir_compile(struct jit_buf *b, struct ir *s, const struct ir_env *env, struct jit_block_out *out)
{
    struct irc *c;
    bool ok;

    if (s->full || !s->nr)
        return false;
    c = new_irc(s->nr);
    b->nr_rel = 0;
    b->rel_lost = false;
    c->b = b;
    c->s = s;
    c->env = env;
    c->out = out;
    memset(out, 0, offsetof(struct jit_block_out, host_off)); /* the tables are filled as far as they are counted */
    out->guest_len = s->guest_len;
    if (log_on(LOG_OP))
        show(s, LOG_OP, "as made");
    if (s->peek_first < (s->pc & 4095) || s->peek_last >= (s->pc & 4095) + s->guest_len) {
        out->peek_first = s->peek_first;
        out->peek_last = s->peek_last;
    }
    ir_optimise(s, &c->f);
    if (log_on(LOG_OP_OPT))
        show(s, LOG_OP_OPT, "as compiled");
    ir_loop_plan(c);
    init(c);
    find_hints(c);
    ir_loop_enter(c);
    walk(c);
    out->host_off[out->nr_insn] = (uint16_t)(b->p - b->start);
    out->guest_off[out->nr_insn] = (uint16_t)s->guest_len;
    ir_emit_cold(c);
    out->len = (uint32_t)(b->p - b->start);
    ok = !c->failed && jit_ok(b) && out->len <= JIT_BLOCK_ROOM;
    free(c);
    return ok;
}
