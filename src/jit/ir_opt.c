/* Passes over a superblock: constant folding and copy propagation with forwarding of guest state (op by op as it is
 * built, or one forward pass), removal of dead PUTs, FL_PUTs and pure ops (one backward pass). */
#include "jit/ir_int.h"

static void know_nothing(struct ir_known *k)
{
    if (++k->gen < UINT16_MAX - IR_MAX_OPS) /* a block has fewer ops than are left then */
        return;
    memset(k->slot, 0, sizeof k->slot);
    k->gen = 1;
}

static void forget_all(struct ir_known *k)
{
    k->gen++;
}

static void forget(struct ir_known *k, int64_t off)
{
    uint64_t *x = ir_known_slot(k, off);

    if (*x >> 16 == ir_known_key(k, off))
        *x = 0;
}

static bool konst(const struct ir *s, ir_val v, uint64_t *x)
{
    const struct ir_op *o = v == IR_NO ? NULL : &s->op[v];

    if (!o || o->op != IR_CONST)
        return false;
    *x = (uint64_t)o->imm;
    return true;
}

static void make_const(struct ir_op *o, uint64_t v)
{
    o->op = IR_CONST;
    o->imm = o->t == IR_I32 ? (int64_t)(uint32_t)v : (int64_t)v;
    o->a[0] = o->a[1] = o->a[2] = o->a[3] = IR_NO;
}

/* Both operands known. */
static bool fold2(struct ir_op *o, uint64_t a, uint64_t b)
{
    unsigned w = o->t == IR_I32 ? 32 : 64, n = (unsigned)b & (w - 1);
    int64_t sa = w == 32 ? (int32_t)a : (int64_t)a;

    switch (o->op) {
    case IR_ADD:
        make_const(o, a + b);
        return true;
    case IR_SUB:
        make_const(o, a - b);
        return true;
    case IR_AND:
        make_const(o, a & b);
        return true;
    case IR_OR:
        make_const(o, a | b);
        return true;
    case IR_XOR:
        make_const(o, a ^ b);
        return true;
    case IR_SHL:
        make_const(o, a << n);
        return true;
    case IR_SHR:
        make_const(o, a >> n);
        return true;
    case IR_SAR:
        make_const(o, (uint64_t)(sa >> n));
        return true;
    default:
        return false;
    }
}

static bool fold1(struct ir_op *o, uint64_t a)
{
    switch (o->op) {
    case IR_TRUNC:
    case IR_ZEXT:
        make_const(o, (uint32_t)a);
        return true;
    case IR_SEXT:
        make_const(o, (uint64_t)(int64_t)(int32_t)a);
        return true;
    case IR_NOT:
        make_const(o, ~a);
        return true;
    case IR_NEG:
        make_const(o, -a);
        return true;
    default:
        return false;
    }
}

/* x op constant that is x again. */
static bool is_identity(const struct ir_op *o, uint64_t b)
{
    unsigned w = o->t == IR_I32 ? 32 : 64;

    switch (o->op) {
    case IR_ADD:
    case IR_SUB:
    case IR_OR:
    case IR_XOR:
        return b == 0;
    case IR_SHL:
    case IR_SHR:
    case IR_SAR:
    case IR_ROR:
        return (b & (w - 1)) == 0;
    case IR_AND:
        return b == (w == 32 ? UINT32_MAX : UINT64_MAX);
    default:
        return false;
    }
}

static bool commutes(unsigned op)
{
    return op == IR_ADD || op == IR_AND || op == IR_OR || op == IR_XOR || op == IR_MUL;
}

struct lane {
    ir_val v;
    unsigned n;
};

/* Where lane n (of kind l, S or D) of v was put together: that lane of another value, or lane 0 for a scalar. */
static struct lane lane_of(const struct ir *s, ir_val v, unsigned l, unsigned n)
{
    for (;;) {
        const struct ir_op *o = &s->op[v];
        enum ir_type scalar = l == IR_D ? IR_F64 : IR_F32;

        if (o->op == IR_VINSL && (o->attr & 3) == l) {
            bool here = (o->imm & 15) == n;

            v = o->a[here];
            n = here ? (unsigned)o->imm >> 4 : n;
        } else if (o->op == IR_VDUPL && (o->attr & 3) == l) {
            v = o->a[0];
            n = (unsigned)o->imm;
        } else if ((o->op == IR_VFLOW || o->op == IR_VCAST) && !n && s->op[o->a[0]].t == scalar) {
            v = o->a[0];
        } else {
            return (struct lane){v, n};
        }
    }
}

/* Two D lanes, of which only one comes from the base. */
static void simplify_pair(const struct ir *s, struct ir_op *o)
{
    unsigned to = (unsigned)o->imm & 15, from = (unsigned)o->imm >> 4;
    struct lane other = lane_of(s, o->a[0], IR_D, 1 - to);

    if (other.n == 1 - to) {
        o->a[0] = other.v;
    } else if (!to && !from) { /* the lower from lane 0 as it lies, the upper put behind it */
        o->a[0] = o->a[1];
        o->a[1] = other.v;
        o->imm = 1;
    }
}

/* Registers that are halves or quarters of others do not wait for their neighbours. */
static ir_val simplify_lanes(struct ir *s, unsigned n)
{
    struct ir_op *o = &s->op[n];
    unsigned l = o->attr & 3;
    struct lane from;

    if (o->op == IR_FLOW) {
        from = lane_of(s, o->a[0], o->t == IR_F64 ? IR_D : IR_S, 0);
        if (s->op[from.v].t == o->t)
            return from.v;
        if (!from.n)
            o->a[0] = from.v;
        return (ir_val)n;
    }
    if (l < IR_S)
        return (ir_val)n;
    if (o->op == IR_VDUPL) {
        from = lane_of(s, o->a[0], l, (unsigned)o->imm);
        o->a[0] = from.v;
        o->imm = from.n;
        return (ir_val)n;
    }
    from = lane_of(s, o->a[1], l, (unsigned)o->imm >> 4);
    o->a[1] = from.v;
    o->imm = (o->imm & 15) | from.n << 4;
    if (l == IR_D)
        simplify_pair(s, o);
    else if (s->op[o->a[0]].op == IR_VINSL && (s->op[o->a[0]].attr & 3) == l && !((s->op[o->a[0]].imm ^ o->imm) & 15))
        o->a[0] = s->op[o->a[0]].a[0];
    return (ir_val)n;
}

/* The I32 that v is the sign-extension of, shifted by *n one way or the other; IR_NO: it is none. */
static ir_val shifted_word(const struct ir *s, ir_val v, unsigned op, uint64_t *n)
{
    const struct ir_op *o = &s->op[v];

    if (o->op != IR_SEXT || s->op[o->a[0]].op != op || !konst(s, s->op[o->a[0]].a[1], n))
        return IR_NO;
    *n &= 31;
    return s->op[o->a[0]].a[0];
}

static bool same_word(const struct ir *s, ir_val x, ir_val y)
{
    return x == y || (s->op[x].op == IR_TRUNC && s->op[y].op == IR_TRUNC && s->op[x].a[0] == s->op[y].a[0]);
}

/* RV64 without Zbb rotates words by two shifts and an OR. */
static bool fold_rotate(const struct ir *s, struct ir_op *o)
{
    for (unsigned k = 0; k < 2; k++) {
        uint64_t left = 0, right = 0;
        ir_val x = shifted_word(s, o->a[k], IR_SHL, &left), y = shifted_word(s, o->a[1 - k], IR_SHR, &right);

        if (x != IR_NO && y != IR_NO && same_word(s, x, y) && right && left + right == 32) {
            o->op = IR_RORSX;
            o->a[0] = x;
            o->a[1] = IR_NO;
            o->imm = (int64_t)right;
            return true;
        }
    }
    return false;
}

/* Returns the value that replaces this one, or itself. */
static ir_val simplify(struct ir *s, unsigned n)
{
    struct ir_op *o = &s->op[n];
    uint64_t a, b;

    if (o->op == IR_FUNBOX && s->op[o->a[0]].op == IR_FBOX) { /* known to be boxed */
        o->op = IR_FLOW;
        return (ir_val)n;
    }
    if (o->op == IR_FLOW || o->op == IR_VDUPL || o->op == IR_VINSL)
        return simplify_lanes(s, n);
    if (o->op < IR_ADD || o->op > IR_SELECT)
        return (ir_val)n;
    if (o->op == IR_OR && o->t == IR_I64 && fold_rotate(s, o))
        return (ir_val)n;
    if (o->op == IR_CLZ && s->op[o->a[0]].op == IR_BITREV &&
        s->op[o->a[0]].t == o->t) { /* Arm counts trailing zeros so */
        o->op = IR_CTZ;
        o->a[0] = s->op[o->a[0]].a[0];
    }
    if (commutes(o->op) && konst(s, o->a[0], &a) && !konst(s, o->a[1], &b)) {
        ir_val t = o->a[0];

        o->a[0] = o->a[1];
        o->a[1] = t;
    }
    if (ir_op_nargs((enum ir_opcode)o->op) == 1 && konst(s, o->a[0], &a)) {
        fold1(o, a);
        return (ir_val)n;
    }
    if (ir_op_nargs((enum ir_opcode)o->op) == 2 && konst(s, o->a[1], &b)) {
        if (konst(s, o->a[0], &a)) {
            fold2(o, a, b);
            return (ir_val)n;
        }
        if (is_identity(o, b))
            return o->a[0];
    }
    if (o->op == IR_SELECT && s->op[o->a[0]].op == IR_CMP) {
        struct ir_op *cmp = &s->op[o->a[0]];

        o->op = IR_CMPSEL;
        o->attr = cmp->attr;
        o->a[3] = o->a[2];
        o->a[2] = o->a[1];
        o->a[1] = cmp->a[1];
        o->a[0] = cmp->a[0];
        o->imm2 = s->op[cmp->a[0]].t;
    }
    return (ir_val)n;
}

static bool is_scale(const struct ir *s, ir_val v)
{
    uint64_t n;

    return s->op[v].op == IR_SHL && s->op[v].t == IR_I64 && konst(s, s->op[v].a[1], &n) && (n & 63) <= 3;
}

static void fold_address(struct ir *s, struct ir_op *o)
{
    for (unsigned k = 0; k < 3; k++) {
        const struct ir_op *d = &s->op[o->a[0]];
        uint64_t x;
        int64_t sum;

        if (d->op != IR_ADD || d->t != IR_I64)
            return;
        if (konst(s, d->a[1], &x)) {
            if (__builtin_add_overflow(o->imm, (int64_t)x, &sum) || sum != (int32_t)sum)
                return;
            o->imm = sum;
            o->a[0] = d->a[0];
        } else if (o->a[2] == IR_NO) {
            unsigned second = !is_scale(s, d->a[0]); /* which of the two is the index */
            const struct ir_op *i = &s->op[d->a[second]];

            if (is_scale(s, d->a[second]) && konst(s, i->a[1], &x)) {
                o->a[2] = i->a[0];
                o->imm2 = x & 63;
            } else {
                o->a[2] = d->a[1];
                o->imm2 = 0;
            }
            o->a[0] = d->a[1 - second];
        } else {
            return;
        }
    }
}

static void fold_exit_if(struct ir *s, struct ir_op *o)
{
    uint64_t z;

    if ((o->attr == IR_NE || o->attr == IR_EQ) && konst(s, o->a[1], &z) && !z && s->op[o->a[0]].op == IR_CMP) {
        const struct ir_op *cmp = &s->op[o->a[0]];

        o->attr = o->attr == IR_NE ? cmp->attr : cmp->attr ^ 1;
        o->a[0] = cmp->a[0];
        o->a[1] = cmp->a[1];
        o->t = s->op[cmp->a[0]].t;
    }
}

/* What asks for the outcome of an FP comparison compares by itself: packing NZCV from the host's flags is long. The
 * operands are a[1] and a[2] of EXIT_IF_FL and FL_COND then. FL_FCMP stays, for the exceptions. */
static void fold_fcmp(const struct ir *s, struct ir_op *o)
{
    const struct ir_op *f = o->a[0] == IR_NO ? NULL : &s->op[o->a[0]];

    if (!f || f->op != IR_FL_FCMP)
        return;
    if (o->op == IR_EXIT_IF_FL || o->op == IR_FL_COND) {
        o->a[1] = f->a[0];
        o->a[2] = f->a[1];
    } else if (o->op == IR_FL_SELECT) {
        o->op = IR_FCMPSEL;
        o->a[3] = o->a[2];
        o->a[2] = o->a[1];
        o->a[0] = f->a[0];
        o->a[1] = f->a[1];
    }
}

static ir_val trunc_of(struct ir *s, struct ir_op *o, unsigned n)
{
    const struct ir_op *d = &s->op[o->a[0]];

    if (d->op == IR_ZEXT || d->op == IR_SEXT)
        return d->a[0];
    if (d->op == IR_CONST)
        make_const(o, (uint32_t)d->imm);
    return (ir_val)n;
}

/* What GET stands for. */
static ir_val get(struct ir *s, const struct ir_op *o, unsigned n)
{
    unsigned v = ir_known_look(&s->state, o->imm);

    if (v != IR_NO && s->op[v].t == o->t)
        return (ir_val)v;
    ir_known_learn(&s->state, o->imm, n);
    return (ir_val)n;
}

static ir_val fl_get(struct ir *s, unsigned n)
{
    if (s->flags == IR_NO)
        s->flags = (ir_val)n;
    return s->flags;
}

static void forward_state(struct ir *s, const struct ir_op *o)
{
    switch (o->op) {
    case IR_FL_PUT:
        s->flags = o->a[0];
        s->put_since_skip = true;
        break;
    case IR_CALL:
        if (o->attr == IR_CALL_PURE)
            break;
        /* fall through */
    case IR_CALL_ON:
    case IR_CALL_ON_IND:
        forget_all(&s->state);
        s->flags = IR_NO;
        s->put_since_skip = true;
        break;
    case IR_SKIP_IF: /* values made before it stay good inside */
    case IR_SKIP_IF_FL:
        s->skip_flags = s->flags;
        s->put_since_skip = false;
        break;
    case IR_LABEL:
        forget_all(&s->state);
        if (s->put_since_skip || s->flags != s->skip_flags)
            s->flags = IR_NO;
        break;
    }
}

void ir_forward_begin(struct ir *s)
{
    know_nothing(&s->state);
    s->flags = s->skip_flags = IR_NO;
    s->put_since_skip = false;
}

ir_val ir_forward(struct ir *s, unsigned n)
{
    struct ir_op *o = &s->op[n];

    o->gf = s->flags;
    switch (o->op) {
    case IR_GET:
        return get(s, o, n);
    case IR_PUT:
        ir_known_learn(&s->state, o->imm, o->a[0]);
        break;
    case IR_LOAD:
    case IR_STORE:
        fold_address(s, o);
        break;
    case IR_EXIT_IF:
        fold_exit_if(s, o);
        break;
    case IR_EXIT_IF_FL:
    case IR_FL_COND:
    case IR_FL_SELECT:
        fold_fcmp(s, o);
        break;
    case IR_FL_GET:
        return fl_get(s, n);
    case IR_FL_PUT:
    case IR_CALL:
    case IR_CALL_ON:
    case IR_CALL_ON_IND:
    case IR_SKIP_IF:
    case IR_SKIP_IF_FL:
    case IR_LABEL:
        forward_state(s, o);
        break;
    case IR_TRUNC:
        return trunc_of(s, o, n);
    case IR_ADD ... IR_TRUNC - 1:
    case IR_TRUNC + 1 ... IR_SELECT:
    case IR_FUNBOX:
    case IR_FLOW:
    case IR_VDUPL:
    case IR_VINSL:
        return simplify(s, n);
    default:
        break;
    }
    return (ir_val)n;
}

/* For blocks that were built without it. */
static void forward(struct ir *s, ir_val *rep)
{
    ir_forward_begin(s);
    for (unsigned n = 0; n < s->nr; n++) {
        struct ir_op *o = &s->op[n];

        if (ir_has_args(o))
            for (unsigned i = 0; i < 4; i++)
                if (o->a[i] != IR_NO)
                    o->a[i] = rep[o->a[i]];
        rep[n] = ir_forward(s, n);
    }
}

struct back {
    struct ir *s;
    struct ir_flow *f;
    bool *all_flags;       /* somebody looks at more than N and Z of it */
    bool live_at_label;    /* NZCV, behind the last LABEL met */
    struct ir_known *over; /* guest state replaced later with no one looking before */
};

static bool used(const struct back *k, unsigned n)
{
    return k->f->first[n] != IR_NO;
}

/* A PUT or GET: false when nobody sees it. Updates what is known about guest state before it. */
static bool put_seen(struct back *k, const struct ir_op *o)
{
    if (ir_known_look(k->over, o->imm) == o->t)
        return false;
    ir_known_learn(k->over, o->imm, o->t);
    return true;
}

static bool get_seen(struct back *k, const struct ir_op *o, unsigned n)
{
    if (!used(k, n))
        return false;
    forget(k->over, o->imm);
    return true;
}

/* The same for any other op, of this effect. */
static bool seen(struct back *k, const struct ir_op *o, unsigned n, char effect, bool *fl_live)
{
    if (effect == 'P')
        return used(k, n);
    if (effect == 'F')
        return true;
    switch (o->op) {
    case IR_FL_PUT:
        if (!*fl_live)
            return false;
        *fl_live = false;
        return true;
    case IR_FL_GET:
        if (!used(k, n))
            return false;
        *fl_live = true;
        return true;
    case IR_CALL:
        if (o->attr == IR_CALL_PURE)
            return true;
        forget_all(k->over);
        *fl_live = true;
        return true;
    default:
        break;
    }
    forget_all(k->over);
    if (effect == 'M' && o->gf != IR_NO && used(k, o->gf))
        *fl_live = true; /* done again from here it needs them */
    if (effect == 'X') {
        if (o->op == IR_LABEL)
            k->live_at_label = *fl_live;
        else if (ir_is_skip(o->op))
            *fl_live |= k->live_at_label;
        else if (ir_is_call_on(o->op))
            *fl_live = !o->dead;
        else if (o->op >= IR_EXIT && o->op <= IR_EXIT_CODE) {
            bool final = o->op != IR_EXIT_IF && o->op != IR_EXIT_IF_FL;

            k->f->closes |= ir_is_link(o->op) && (uint64_t)o->imm == k->s->pc;
            *fl_live = final ? !o->dead : *fl_live || !o->dead;
        }
    }
    return true;
}

/* Does op o look at more of the flags in its argument i than N and Z? */
static bool needs_all_flags(const struct ir_op *o, unsigned i)
{
    unsigned cond = o->attr >> 1 & 7;

    if (i || (o->op != IR_EXIT_IF_FL && o->op != IR_SKIP_IF_FL && o->op != IR_FL_COND && o->op != IR_FL_SELECT))
        return true;
    return cond != 0 && cond != 2; /* EQ NE, MI PL */
}

static void simplify_flags(const struct back *k, struct ir_op *o, unsigned n)
{
    if ((o->op != IR_FL_NZ && o->op != IR_FL_NZC) || k->all_flags[n])
        return;
    o->op = IR_FL_LOGIC;
    o->a[1] = o->a[2] = IR_NO;
}

/* May one of the op's arguments be FLAGS? */
static bool takes_flags(unsigned op)
{
    switch (op) {
    case IR_ADC:
    case IR_SBC:
    case IR_EXIT_IF_FL:
    case IR_SKIP_IF_FL:
    case IR_FL_PUT ... IR_FL_SELECT:
        return true;
    default:
        return false;
    }
}

/* The next uses of the op's arguments. The same value twice: both see what is behind the op. */
static void note_uses(struct back *k, const struct ir_op *o, unsigned n)
{
    uint16_t *next = k->f->next[n], *first = k->f->first;

    if (takes_flags(o->op))
        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO)
                k->all_flags[o->a[i]] |= needs_all_flags(o, i);
    if (ir_one_arg(o)) {
        next[0] = first[o->a[0]];
        first[o->a[0]] = (uint16_t)n;
        return;
    }
    if (ir_two_args(o)) {
        next[0] = first[o->a[0]];
        next[1] = first[o->a[1]];
        first[o->a[0]] = first[o->a[1]] = (uint16_t)n;
        return;
    }
    for (unsigned i = 0; i < 4; i++)
        if (o->a[i] != IR_NO)
            next[i] = first[o->a[i]];
    for (unsigned i = 0; i < 4; i++)
        if (o->a[i] != IR_NO)
            first[o->a[i]] = (uint16_t)n;
}

static void make_nop(struct ir_op *o)
{
    o->op = IR_NOP;
    memset(o->a, 0xff, sizeof o->a); /* IR_NO */
}

/* True: the op stays. */
static bool backward_op(struct back *k, unsigned n, bool *live)
{
    struct ir_op *o = &k->s->op[n];
    char effect = ir_op_effect[o->op];
    bool was = *live;

    if (o->op == IR_NOP || !seen(k, o, n, effect, live)) {
        make_nop(o);
        return false;
    }
    k->f->fl_live[n] = (effect == 'M' || ir_is_skip(o->op) ? *live : was) && !ir_is_call_on(o->op);
    simplify_flags(k, o, n);
    if (ir_has_args(o))
        note_uses(k, o, n);
    return true;
}

static void backward(struct back *k)
{
    struct ir *s = k->s;
    uint16_t *first = k->f->first;
    unsigned at = s->nr;
    bool live = false; /* NZCV; the last op says */

    k->f->nr_puts = 0;
    for (unsigned n = s->nr; n-- > 0;) {
        struct ir_op *o = &s->op[n];

        switch (o->op) {
        case IR_INSN:
            break;
        case IR_CONST:
            if (used(k, n))
                break;
            o->op = IR_NOP;
            continue;
        case IR_GET:
            k->f->fl_live[n] = live;
            if (get_seen(k, o, n))
                break;
            o->op = IR_NOP;
            continue;
        case IR_PUT:
            k->f->fl_live[n] = live;
            if (!put_seen(k, o)) {
                make_nop(o);
                continue;
            }
            k->f->next[n][0] = first[o->a[0]];
            first[o->a[0]] = (uint16_t)n;
            k->f->put[k->f->nr_puts++] = (uint16_t)n;
            break;
        default:
            if (!backward_op(k, n, &live))
                continue;
            break;
        }
        k->f->live[--at] = (uint16_t)n;
    }
    k->f->first_live = at;
}

void ir_optimise(struct ir *s, struct ir_flow *flow)
{
    struct back k = {.s = s, .f = flow, .over = &s->over, .all_flags = flow->all_flags, .live_at_label = true};

    if (!s->forwards)
        forward(s, flow->put);
    know_nothing(k.over);
    flow->closes = false;
    memset(flow->first, 0xff, s->nr * sizeof flow->first[0]);
    memset(k.all_flags, 0, s->nr * sizeof k.all_flags[0]);
    backward(&k);
}
