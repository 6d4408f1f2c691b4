/* Tight loops: a block that jumps to its own start.
 *
 * Only some of the guest's registers are pinned; the others are context memory. A loop that uses many of the others,
 * and not all pins, gets them into the pins it does not use for as long as it runs, and pins nobody needs as more
 * temporaries. On the way in the pins' values go to ctx->moved_save, on each way out they come back. The jump back to
 * the start (a link with `inner`) stays behind the way in, so an iteration pays nothing.
 *
 * In between, the context says what is where (moved), so that a fault, whose exit stores all registers as if nothing
 * had moved, can be put right by ir_fix. Blocks that call C functions or leave otherwise than by links are left alone:
 * those would see the wrong state.
 *
 * The way in and out cost as much as some rounds gain. How many rounds there will be nobody knows; a loop that has
 * other ways out, as heapsort's, mostly makes few. */
#include "jit/ir_int.h"

enum { MIN_USES = 1, MIN_GAIN = 2, EXIT_GAIN = 12, MANY_OPS = 100, EXTRA_TEMPS = 2, MAX_CAND = 48 };
#define HEAD ((uint32_t)sizeof(struct ir_ctx))

struct cand { /* a piece of guest state that the block uses */
    uint32_t off;
    uint16_t uses;
    bool vec, bad, put;
};
struct plan {
    struct cand v[MAX_CAND];
    unsigned nr;
    int exits; /* by which it may end, beside one that has to be */
    bool loops, fits;
};

static struct cand *cand_of(struct plan *p, uint32_t off)
{
    for (unsigned i = 0; i < p->nr; i++)
        if (p->v[i].off == off)
            return &p->v[i];
    if (p->nr == MAX_CAND) {
        p->fits = false;
        return &p->v[0];
    }
    p->v[p->nr] = (struct cand){.off = off};
    return &p->v[p->nr++];
}

static void look_at(struct plan *p, const struct ir_op *o)
{
    struct cand *k = cand_of(p, (uint32_t)o->imm);

    k->uses++;
    k->put |= o->op == IR_PUT;
    if (o->t == IR_V128)
        k->vec = true;
    else if (o->t != IR_I64 && (o->op == IR_PUT || o->t != IR_I32))
        k->bad = true;
}

static void look_at_link(struct plan *p, const struct ir_op *o, bool back)
{
    p->loops |= back;
    if (back && o->op == IR_EXIT)
        p->exits--;
    else if (!back && o->op != IR_EXIT)
        p->exits++;
}

static bool leaves_only_by_links(const struct ir_op *o)
{
    char e = ir_op_effect[o->op];

    if (e == 'X')
        return ir_is_link(o->op) || ir_is_skip(o->op) || o->op == IR_LABEL;
    return o->op != IR_CALL && !(e == 'M' && o->attr & IR_MALIGN);
}

static void scan(const struct irc *c, struct plan *p)
{
    p->fits = true;
    for (unsigned i = 0; i < c->s->nr && p->fits; i++) {
        const struct ir_op *o = &c->s->op[i];

        if (o->op == IR_GET || o->op == IR_PUT)
            look_at(p, o);
        if (ir_is_link(o->op))
            look_at_link(p, o, (uint64_t)o->imm == c->s->pc);
        p->fits &= leaves_only_by_links(o);
    }
}

/* Pieces that overlap others stay where they are. */
static void drop_mixed(struct plan *p)
{
    for (unsigned i = 0; i < p->nr; i++)
        for (unsigned j = 0; j < p->nr; j++)
            if (p->v[i].off > p->v[j].off && p->v[i].off < p->v[j].off + (p->v[j].vec ? 16 : 8))
                p->v[i].bad = p->v[j].bad = true;
}

static bool nameable(uint32_t off)
{
    return off >= HEAD && !((off - HEAD) & 7) && (off - HEAD) / 8 < IR_MOVED_NONE;
}

static bool is_pinned(const struct irc *c, uint32_t off)
{
    for (unsigned i = 0; i < c->env->nr_pins; i++)
        if (c->env->pin[i].off == off)
            return true;
    return false;
}

/* The most used of the class that is not pinned; NULL: none is worth it. */
static struct cand *best(const struct irc *c, struct plan *p, bool vec)
{
    struct cand *k = NULL;

    for (unsigned i = 0; i < p->nr; i++) {
        struct cand *v = &p->v[i];

        if (!v->bad && v->vec == vec && v->uses >= MIN_USES && nameable(v->off) && !is_pinned(c, v->off) &&
            (!k || v->uses > k->uses))
            k = v;
    }
    return k;
}

static bool pin_free(const struct plan *p, const struct ir_pin *pin)
{
    uint32_t size = pin->vec ? 16 : 8;

    for (unsigned i = 0; i < p->nr; i++)
        if (p->v[i].off < pin->off + size && pin->off < p->v[i].off + (p->v[i].vec ? 16 : 8))
            return false;
    return nameable(pin->off);
}

static void note_move(struct irc *c, const struct ir_pin *pin, uint32_t off, bool put)
{
    c->moved[c->nr_moved].pin = *pin;
    c->moved[c->nr_moved].off = off;
    c->moved[c->nr_moved++].put = put;
}

/* Uses that will be of a register. */
static unsigned assign(struct irc *c, struct plan *p)
{
    unsigned gain = 0, keep = 0;

    for (unsigned i = 0; i < c->env->nr_pins; i++)
        keep += !c->env->pin[i].vec && pin_free(p, &c->env->pin[i]);
    keep = keep > 2 * EXTRA_TEMPS ? EXTRA_TEMPS : 0; /* for temporaries */
    for (unsigned i = 0; i < c->env->nr_pins && c->nr_moved < IR_MAX_MOVED; i++) {
        const struct ir_pin *pin = &c->env->pin[i];
        struct cand *k;

        if (!pin_free(p, pin) || (keep && !pin->vec && keep--))
            continue;
        k = best(c, p, pin->vec);

        if (!k)
            continue;
        gain += k->uses;
        k->bad = true; /* taken */
        note_move(c, pin, k->off, k->put);
        c->loop_pin[i].off = k->off;
    }
    return gain;
}

static void free_some(struct irc *c, const struct plan *p)
{
    unsigned n = 0, left = c->s->nr >= MANY_OPS ? EXTRA_TEMPS : 0;

    for (unsigned i = 0; i < c->env->nr_pins; i++) {
        const struct ir_pin *was = &c->env->pin[i];

        if (left && c->nr_moved < IR_MAX_MOVED && !was->vec && c->loop_pin[i].off == was->off && pin_free(p, was)) {
            note_move(c, was, 0, false);
            left--;
        } else {
            c->loop_pin[n++] = c->loop_pin[i];
        }
    }
    c->loop_env.nr_pins = n;
}

void ir_loop_plan(struct irc *c)
{
    struct plan p = {.nr = 0};

    if (!c->f.closes || !c->env->loops || c->env->nr_pins > IR_MAX_PINS)
        return;
    scan(c, &p);
    if (!p.fits || !p.loops)
        return;
    drop_mixed(&p);
    c->loop_env = *c->env;
    memcpy(c->loop_pin, c->env->pin, c->env->nr_pins * sizeof c->loop_pin[0]);
    if ((int)assign(c, &p) < MIN_GAIN + p.exits * EXIT_GAIN) {
        c->nr_moved = 0;
        return;
    }
    free_some(c, &p);
    c->loop_env.pin = c->loop_pin;
    c->env = &c->loop_env;
}

/* A place of the context by RCX, which is zero: see ir_store_place. No block holds anything in it on its ways in and
 * out. */
static struct jit_mem place(uint32_t off)
{
    struct jit_mem m = JIT_GS(off);

    m.base = JR_RCX;
    return m;
}

static void move_one(struct irc *c, bool store, const struct ir_pin *pin, uint32_t at)
{
    if (pin->vec)
        ir_vex_m(c->b, 0, 1, 0, store ? 0x11 : 0x10, pin->reg, 0, place(at));
    else if (store)
        jit_store(c->b, place(at), pin->reg);
    else
        jit_load(c->b, pin->reg, place(at));
}

static uint32_t saved_at(unsigned i)
{
    return (uint32_t)offsetof(struct ir_ctx, moved_save) + 16 * i;
}

static uint32_t word_at(unsigned i)
{
    return (uint32_t)offsetof(struct ir_ctx, moved) + 8 * i;
}

static uint64_t move_word(const struct irc *c, unsigned i)
{
    uint64_t w = 0;

    for (unsigned k = 4 * i; k < c->nr_moved && k < 4 * i + 4; k++) {
        const struct ir_pin *pin = &c->moved[k].pin;
        uint32_t off = c->moved[k].off, one = off ? (off - HEAD) / 8 : IR_MOVED_NONE;

        one |= IR_MOVED_ONE | (pin->vec ? IR_MOVED_VEC : 0u) | (pin->off - HEAD) / 8 << IR_MOVED_PIN;
        w |= (uint64_t)one << 16 * (k & 3);
    }
    return w;
}

void ir_loop_enter(struct irc *c)
{
    if (!c->nr_moved)
        return;
    jit_mov_ri(c->b, JR_RCX, 0);
    for (unsigned i = 0; i < c->nr_moved; i++) {
        move_one(c, true, &c->moved[i].pin, saved_at(i));
        if (c->moved[i].off)
            move_one(c, false, &c->moved[i].pin, c->moved[i].off);
    }
    for (unsigned i = 0; 4 * i < c->nr_moved; i++) {
        jit_mov_ri(c->b, JR_RAX, move_word(c, i));
        jit_store(c->b, place(word_at(i)), JR_RAX);
    }
    c->loop_at = (uint32_t)(c->b->p - c->b->start);
}

void ir_loop_leave(struct irc *c)
{
    if (!c->nr_moved)
        return;
    jit_mov_ri(c->b, JR_RCX, 0);
    for (unsigned i = 0; i < c->nr_moved; i++) {
        if (c->moved[i].put)
            move_one(c, true, &c->moved[i].pin, c->moved[i].off);
        move_one(c, false, &c->moved[i].pin, saved_at(i));
    }
    for (unsigned i = 0; 4 * i < c->nr_moved; i++)
        jit_store(c->b, place(word_at(i)), JR_RCX);
}

static void unmove(struct ir_ctx *ctx)
{
    uint8_t *state = (uint8_t *)(ctx + 1);

    for (unsigned i = 0; i < IR_MAX_MOVED; i++) {
        unsigned one = ctx->moved[i / 4] >> 16 * (i & 3) & 0xffff;
        uint8_t *pin = state + 8 * (one >> IR_MOVED_PIN & IR_MOVED_NONE);

        if (!one)
            break;
        if ((one & IR_MOVED_NONE) != IR_MOVED_NONE)
            memcpy(state + 8 * (one & IR_MOVED_NONE), pin, one & IR_MOVED_VEC ? 16 : 8);
        memcpy(pin, &ctx->moved_save[i], one & IR_MOVED_VEC ? 16 : 8);
    }
    memset(ctx->moved, 0, sizeof ctx->moved);
}

void ir_fix(struct ir_ctx *ctx, unsigned mark, uint64_t eflags)
{
    enum { CF = 1, ZF = 0x40, SF = 0x80, OF = 0x800 };

    if (mark)
        ctx->flags = (eflags & SF ? 0x8000u : 0) | (eflags & ZF ? 0x4000u : 0) |
                     (!(eflags & CF) == (mark == IR_MARK_FLAGS_INV) ? 0x100u : 0) | (eflags & OF ? 1u : 0);
    unmove(ctx);
}
