/* Where values live: one forward pass hands out host registers; what is needed furthest from now is spilled first.
 * Values read from guest state are not copied: they are the pin or the context memory until that is overwritten. */
#include "jit/ir_int.h"

static bool reg_is_vec(unsigned r)
{
    return r >= XMM0;
}

static unsigned pin_slot(int64_t off)
{
    return (unsigned)(off >> 3) & (IR_PIN_SLOTS - 1);
}

void ir_pins_map(const struct ir_env *env, struct ir_pin_map *m)
{
    *m = (struct ir_pin_map){.pin = env->pin, .nr = env->nr_pins};
    for (unsigned i = 0; i < m->nr; i++) {
        const struct ir_pin *p = &m->pin[i];

        m->regs |= 1u << (p->reg + (p->vec ? XMM0 : 0));
        m->at[pin_slot(p->off)] = (uint8_t)(i + 1);
    }
}

void ir_pins_init(struct irc *c)
{
    const struct ir_pin_map *m = &c->env->stubs->pins;

    if (m->pin != c->env->pin || m->nr != c->env->nr_pins) { /* moved for a loop */
        ir_pins_map(c->env, &c->loop_pins);
        m = &c->loop_pins;
    }
    c->pins = m;
    c->pinned = m->regs;
}

int ir_pin_of(const struct irc *c, int64_t off)
{
    const struct ir_pin_map *m = c->pins;
    unsigned i = m->at[pin_slot(off)];

    if (!i)
        return -1;
    if (m->pin[i - 1].off != off) /* two in one place */
        for (i = m->nr; i && m->pin[i - 1].off != off; i--)
            ;
    return i ? m->pin[i - 1].reg + (m->pin[i - 1].vec ? XMM0 : 0) : -1;
}

void ir_mov(struct irc *c, unsigned dst, unsigned src, enum ir_type t)
{
    if (dst == src)
        return;
    if (reg_is_vec(dst))
        ir_vex(c->b, 0, 1, 0, 0x28, dst - XMM0, 0, src - XMM0); /* vmovaps */
    else if (t == IR_I32)
        jit_mov_rr32(c->b, dst, src);
    else
        jit_mov_rr(c->b, dst, src);
}

static void mem_move(struct irc *c, bool store, unsigned reg, enum ir_type t, struct jit_mem m)
{
    switch (t) {
    case IR_I32:
        jit_op_mem(c->b, 0, store ? 0x89 : 0x8b, reg, m, 0);
        break;
    case IR_F32:
        ir_vex_m(c->b, 2, 1, 0, store ? 0x11 : 0x10, reg - XMM0, 0, m);
        break;
    case IR_F64:
        ir_vex_m(c->b, 3, 1, 0, store ? 0x11 : 0x10, reg - XMM0, 0, m);
        break;
    case IR_V128:
        ir_vex_m(c->b, 0, 1, 0, store ? 0x11 : 0x10, reg - XMM0, 0, m);
        break;
    default:
        jit_op_mem(c->b, JIT_W, store ? 0x89 : 0x8b, reg, m, 0);
        break;
    }
}

void ir_load_home(struct irc *c, unsigned reg, enum ir_type t, int32_t off)
{
    mem_move(c, false, reg, t, JIT_GS(off));
}

void ir_store_home(struct irc *c, unsigned reg, enum ir_type t, int32_t off)
{
    mem_move(c, true, reg, t, JIT_GS(off));
}

static enum ir_type spill_type(const struct irc *c, ir_val v)
{
    enum ir_type t = (enum ir_type)c->s->op[v].t;

    return ir_is_vec(t) ? IR_V128 : IR_I64;
}

static struct jit_mem spill_mem(const struct irc *c, ir_val v)
{
    int n = c->v[v].spill;

    return ir_is_vec(c->s->op[v].t) ? JIT_GS(IRX(vspill) + 16 * n) : JIT_GS(IRX(spill) + 8 * n);
}

static bool spill_slot(struct irc *c, ir_val v)
{
    bool vec = ir_is_vec(c->s->op[v].t);
    uint64_t *used = vec ? &c->vspill_used : &c->spill_used;
    uint64_t all = vec ? (UINT64_C(1) << IR_VSPILLS) - 1 : UINT64_MAX;

    if ((*used & all) == all) {
        c->failed = true;
        return false;
    }
    c->v[v].spill = (int8_t)__builtin_ctzll(~*used);
    *used |= *used + 1;
    return true;
}

static void spill_free(struct irc *c, ir_val v)
{
    if (c->v[v].spill < 0)
        return;
    if (ir_is_vec(c->s->op[v].t))
        c->vspill_used &= ~(UINT64_C(1) << c->v[v].spill);
    else
        c->spill_used &= ~(UINT64_C(1) << c->v[v].spill);
    c->v[v].spill = -1;
}

/* v, in register r, to its spill slot. */
static void spill(struct irc *c, ir_val v, unsigned r)
{
    if (c->v[v].also) {
        c->v[v].loc = L_HOME;
        c->v[v].home = c->v[v].also;
        c->v[v].also = 0;
        return;
    }
    if (c->v[v].spill < 0) {
        if (!spill_slot(c, v))
            return;
        mem_move(c, true, r, spill_type(c, v), spill_mem(c, v));
    }
    c->v[v].loc = L_SPILL;
}

static void evict(struct irc *c, unsigned r)
{
    ir_val v = c->reg[r];

    c->reg[r] = IR_NO;
    if (v == IR_NO || c->v[v].next == IR_NO || c->v[v].loc != L_REG || c->v[v].reg != r)
        return;
    if (ir_is_const(c, v))
        c->v[v].loc = L_CONST;
    else
        spill(c, v, r);
}

static uint32_t temps(const struct irc *c, bool vec)
{
    uint32_t all = vec ? 0xffff0000u : 0xffffu & ~(1u << JR_RSP);

    return all & ~c->pinned & ~c->lock;
}

struct jit_mem ir_store_place(struct irc *c, unsigned src, int32_t off)
{
    uint32_t m = temps(c, false) & ~(1u << JR_RAX | 1u << src); /* packed flags go to RAX unasked */
    struct jit_mem at = JIT_GS(off);

    for (uint32_t k = m; k && !c->zero; k &= k - 1) {
        unsigned r = (unsigned)__builtin_ctz(k);
        ir_val v = c->reg[r];

        if (v == IR_NO || c->v[v].next == IR_NO || c->v[v].loc != L_REG || c->v[v].reg != r) {
            c->reg[r] = IR_NO;
            c->zero = 1u << r;
            jit_mov_ri(c->b, r, 0);
        }
    }
    if (c->zero)
        at.base = (uint8_t)__builtin_ctz(c->zero);
    return at;
}

unsigned ir_tmp(struct irc *c, bool vec)
{
    uint32_t m = temps(c, vec);
    unsigned best = 0, furthest = 0;

    if (unlikely(!m)) { /* too many at once: our own mistake, shown by the test of it */
        c->failed = true;
        return vec ? XMM0 + 15 : JR_RAX;
    }
    for (uint32_t k = m; k;) {
        unsigned r = 31 - (unsigned)__builtin_clz(k);

        k &= ~(1u << r);
        if (c->reg[r] == IR_NO || c->v[c->reg[r]].next == IR_NO || c->v[c->reg[r]].reg != r ||
            c->v[c->reg[r]].loc != L_REG) {
            c->reg[r] = IR_NO;
            c->lock |= 1u << r;
            c->zero &= ~(1u << r);
            return r;
        }
        if (c->v[c->reg[r]].next >= furthest) {
            furthest = c->v[c->reg[r]].next;
            best = r;
        }
    }
    evict(c, best);
    c->lock |= 1u << best;
    return best;
}

void ir_take(struct irc *c, unsigned r)
{
    ir_val v = c->reg[r];

    if (c->lock & 1u << r) { /* someone in this op holds it already */
        c->failed = true;
        return;
    }
    c->lock |= 1u << r;
    c->zero &= ~(1u << r);
    if (v != IR_NO && c->v[v].next != IR_NO && c->v[v].loc == L_REG && c->v[v].reg == r && !ir_is_const(c, v)) {
        uint32_t m = temps(c, reg_is_vec(r));

        for (unsigned n = 0; n < NR_REGS; n++)
            if (m & 1u << n && (c->reg[n] == IR_NO || c->v[c->reg[n]].next == IR_NO)) {
                ir_mov(c, n, r, spill_type(c, v));
                c->zero &= ~(1u << n);
                c->reg[n] = v;
                c->v[v].reg = (uint8_t)n;
                c->reg[r] = IR_NO;
                return;
            }
    }
    evict(c, r);
}

bool ir_mem_of(const struct irc *c, ir_val v, struct jit_mem *m)
{
    if (c->v[v].loc == L_HOME)
        *m = JIT_GS(c->v[v].home);
    else if (c->v[v].loc == L_SPILL)
        *m = spill_mem(c, v);
    else
        return false;
    return true;
}

void ir_fetch(struct irc *c, unsigned r, ir_val v)
{
    struct irv *x = &c->v[v];

    switch (x->loc) {
    case L_REG:
    case L_PIN:
        ir_mov(c, r, x->reg, spill_type(c, v));
        break;
    case L_SPILL:
        mem_move(c, false, r, spill_type(c, v), spill_mem(c, v));
        break;
    case L_HOME:
        mem_move(c, false, r, (enum ir_type)c->s->op[v].t, JIT_GS(x->home));
        break;
    case L_CONST:
        jit_mov_ri(c->b, r, (uint64_t)c->s->op[v].imm);
        break;
    default:
        c->failed = true;
        break;
    }
}

unsigned ir_use(struct irc *c, ir_val v)
{
    struct irv *x = &c->v[v];

    if (x->loc != L_REG && x->loc != L_PIN) {
        unsigned r = ir_tmp(c, ir_is_vec(c->s->op[v].t));

        ir_fetch(c, r, v);
        x->also = x->loc == L_HOME && c->s->op[v].t != IR_FLAGS ? x->home : 0;
        x->loc = L_REG;
        x->reg = (uint8_t)r;
        c->reg[r] = v;
    }
    c->lock |= 1u << x->reg;
    return x->reg;
}

unsigned ir_own(struct irc *c, ir_val v)
{
    unsigned r;

    if (c->v[v].loc == L_REG && !ir_live(c, v) && !(c->lock & 1u << c->v[v].reg)) {
        c->lock |= 1u << c->v[v].reg;
        return c->v[v].reg;
    }
    r = ir_tmp(c, ir_is_vec(c->s->op[v].t));
    ir_fetch(c, r, v);
    return r;
}

void ir_alias_add(struct irc *c, ir_val v)
{
    unsigned k = 0;

    if (c->nr_alias == ARRAY_LEN(c->alias)) {
        for (unsigned i = 0; i < c->nr_alias; i++)
            if (c->v[c->alias[i]].next != IR_NO && (c->v[c->alias[i]].loc == L_PIN || c->v[c->alias[i]].loc == L_HOME ||
                                                    (c->v[c->alias[i]].loc == L_REG && c->v[c->alias[i]].also)))
                c->alias[k++] = c->alias[i];
        c->nr_alias = k;
        if (k == ARRAY_LEN(c->alias)) {
            c->failed = true;
            return;
        }
    }
    c->alias[c->nr_alias++] = v;
}

/* The pin or home is about to be overwritten: gives values that are used later a register of their own. */
static void detach(struct irc *c, int pin, int32_t home, ir_val except)
{
    unsigned k = 0;

    for (unsigned i = 0; i < c->nr_alias; i++) {
        ir_val v = c->alias[i];
        struct irv *x = &c->v[v];

        if (x->next == IR_NO || (x->loc != L_PIN && x->loc != L_HOME && !(x->loc == L_REG && x->also)))
            continue;
        if (x->loc == L_REG) {
            if (pin < 0 && x->also == home)
                x->also = 0;
            else
                c->alias[k++] = v;
            continue;
        }
        if (v != except &&
            ((pin >= 0 && x->loc == L_PIN && x->reg == pin) || (pin < 0 && x->loc == L_HOME && x->home == home))) {
            if (ir_live(c, v)) {
                unsigned r = ir_tmp(c, ir_is_vec(c->s->op[v].t));

                ir_fetch(c, r, v);
                x->loc = L_REG;
                x->reg = (uint8_t)r;
                x->also = 0;
                c->reg[r] = v;
                continue;
            }
        }
        c->alias[k++] = v;
    }
    c->nr_alias = k;
}

unsigned ir_dst(struct irc *c, ir_val v, uint32_t avoid)
{
    const struct ir_op *o = &c->s->op[c->cur];
    bool vec = ir_is_vec(c->s->op[v].t);
    int h = c->hint[v];

    if (h >= 0 && !(avoid & 1u << h)) {
        detach(c, h, 0, IR_NO);
        return (unsigned)h;
    }
    for (unsigned i = 0; i < 4; i++)
        if (o->a[i] != IR_NO && c->v[o->a[i]].loc == L_REG && reg_is_vec(c->v[o->a[i]].reg) == vec &&
            c->reg[c->v[o->a[i]].reg] == o->a[i] && !(avoid & 1u << c->v[o->a[i]].reg) && !ir_live(c, o->a[i])) {
            c->lock |= 1u << c->v[o->a[i]].reg;
            return c->v[o->a[i]].reg;
        }
    return ir_tmp(c, vec);
}

void ir_made(struct irc *c, ir_val v, unsigned r)
{
    struct irv *x = &c->v[v];

    x->reg = (uint8_t)r;
    x->spill = -1;
    x->also = 0;
    x->next = c->f.first[v];
    if (c->pinned & 1u << r) {
        x->loc = L_PIN;
        ir_alias_add(c, v);
    } else {
        x->loc = L_REG;
        c->reg[r] = x->next == IR_NO ? IR_NO : v;
    }
}

static void consume_one(struct irc *c, ir_val v, uint16_t next)
{
    struct irv *x = &c->v[v];

    x->next = next;
    if (next != IR_NO)
        return;
    if (x->spill >= 0 && x->loc != L_NONE) /* FL_FCMP is not always made: its slot is no slot */
        spill_free(c, v);
    if (x->loc == L_REG && c->reg[x->reg] == v)
        c->reg[x->reg] = IR_NO;
}

void ir_consume(struct irc *c, unsigned n)
{
    const struct ir_op *o = &c->s->op[n];
    const uint16_t *next = c->f.next[n];

    c->lock = 0;
    if (o->a[0] != IR_NO)
        consume_one(c, o->a[0], next[0]);
    if (ir_one_arg(o))
        return;
    for (unsigned i = 1; i < 4; i++)
        if (o->a[i] != IR_NO)
            consume_one(c, o->a[i], next[i]);
}

static void put_pin(struct irc *c, unsigned p, ir_val v)
{
    struct irv *x = &c->v[v];

    if (x->loc == L_PIN && x->reg == p)
        return;
    detach(c, (int)p, 0, v);
    ir_fetch(c, p, v);
    if (x->loc != L_CONST && x->loc != L_PIN && ir_live(c, v)) {
        if (x->loc == L_REG && c->reg[x->reg] == v)
            c->reg[x->reg] = IR_NO;
        x->loc = L_PIN;
        x->reg = (uint8_t)p;
        x->also = 0;
        ir_alias_add(c, v);
    }
}

void ir_put_state(struct irc *c, const struct ir_op *o)
{
    ir_val v = o->a[0];
    int p = ir_pin_of(c, o->imm);
    int32_t off = (int32_t)o->imm;
    unsigned r;

    if (p >= 0) {
        put_pin(c, (unsigned)p, v);
        return;
    }
    if (c->v[v].loc == L_HOME && c->v[v].home == off)
        return;
    detach(c, -1, off, IR_NO);
    if (c->v[v].loc == L_CONST && ir_const32(c, v)) {
        jit_op_mem(c->b, o->t == IR_I64 ? JIT_W : 0, 0xc7, 0, JIT_GS(off), 4);
        jit_32(c->b, (uint32_t)c->s->op[v].imm);
        return;
    }
    r = ir_use(c, v);
    mem_move(c, true, r, (enum ir_type)o->t, reg_is_vec(r) ? JIT_GS(off) : ir_store_place(c, r, off));
    if (c->v[v].loc == L_REG && !c->v[v].also && ir_live(c, v) && o->t == c->s->op[v].t) {
        c->v[v].also = off;
        ir_alias_add(c, v);
    }
}

/* Puts v where nothing but its spill slot (or nothing at all, for constants) is needed. */
static void park(struct irc *c, ir_val v)
{
    struct irv *x = &c->v[v];
    unsigned r;

    if (ir_is_const(c, v)) {
        if (x->loc == L_REG && c->reg[x->reg] == v)
            c->reg[x->reg] = IR_NO;
        x->loc = L_CONST;
        return;
    }
    if (x->loc == L_SPILL)
        return;
    r = ir_use(c, v);
    c->lock &= ~(1u << r);
    x->also = 0; /* that may be overwritten on one of two ways */
    if (x->loc == L_REG && c->reg[r] == v)
        c->reg[r] = IR_NO;
    spill(c, v, r);
}

void ir_evict_all(struct irc *c, bool with_state)
{
    for (unsigned r = 0; r < NR_REGS; r++)
        if (c->reg[r] != IR_NO && !(c->pinned & 1u << r) && c->v[c->reg[r]].loc == L_REG && ir_live(c, c->reg[r]))
            park(c, c->reg[r]);
    if (!with_state)
        return;
    for (unsigned i = 0; i < c->nr_alias; i++) {
        struct irv *x = &c->v[c->alias[i]];

        if ((x->loc == L_PIN || x->loc == L_HOME) && x->next != IR_NO && ir_live(c, c->alias[i]))
            park(c, c->alias[i]);
    }
    c->nr_alias = 0;
}

/* Values used behind the LABEL get one place both ways agree on. */
void ir_skip_begin(struct irc *c)
{
    for (unsigned v = 0; v < c->cur; v++) {
        struct irv *x = &c->v[v];

        if (x->loc == L_NONE || x->loc == L_EFLAGS || !ir_live(c, (ir_val)v) || c->s->op[v].t == IR_VOID)
            continue;
        park(c, (ir_val)v);
    }
}

void ir_skip_end(struct irc *c)
{
    for (unsigned v = 0; v < c->cur; v++) {
        struct irv *x = &c->v[v];

        if (x->loc == L_NONE || x->next == IR_NO || c->s->op[v].t == IR_VOID)
            continue;
        if (ir_is_const(c, (ir_val)v))
            x->loc = L_CONST;
        else if (x->spill >= 0)
            x->loc = L_SPILL;
    }
    for (unsigned r = 0; r < NR_REGS; r++)
        c->reg[r] = IR_NO;
    c->nr_alias = 0;
}
