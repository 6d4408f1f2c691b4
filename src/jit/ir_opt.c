/* Passes over a superblock: constant folding and copy propagation with forwarding of guest state (one forward pass),
 * removal of dead PUTs, FL_PUTs and pure ops (one backward pass). */
#include "jit/ir_int.h"

/* What is known about pieces of guest state, found by their offset. A piece that takes another's place makes it
 * forgotten, which is always safe; so is forgetting all, by a new generation. A slot is one word: the offset in its
 * upper half, then the generation, then forward: the value, backward: the type it is replaced with. */
enum { STATE_SLOTS = 256 };
struct known {
    uint16_t gen;
    uint64_t slot[STATE_SLOTS];
};
static void know_nothing(struct known *k)
{
    k->gen = 1;
    memset(k->slot, 0, sizeof k->slot);
}

static void forget_all(struct known *k)
{
    k->gen++; /* a block has fewer ops than there are generations */
}

static uint64_t *slot_of(struct known *k, int64_t off)
{
    return &k->slot[off >> 3 & (STATE_SLOTS - 1)];
}

static uint64_t key_of(const struct known *k, int64_t off)
{
    return (uint64_t)off << 16 | k->gen;
}

static void learn(struct known *k, int64_t off, unsigned v)
{
    *slot_of(k, off) = key_of(k, off) << 16 | v;
}

/* IR_NO: nothing. */
static unsigned look(struct known *k, int64_t off)
{
    uint64_t x = *slot_of(k, off);

    return x >> 16 == key_of(k, off) ? (uint16_t)x : IR_NO;
}

static void forget(struct known *k, int64_t off)
{
    uint64_t *x = slot_of(k, off);

    if (*x >> 16 == key_of(k, off))
        *x = 0;
}

struct fwd {
    struct ir *s;
    ir_val *rep; /* what stands for each value */
    struct known state;
    ir_val flags, skip_flags; /* at the last SKIP */
    bool put_since_skip;
};

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
static ir_val simplify(struct fwd *f, unsigned n)
{
    struct ir *s = f->s;
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
    if (o->op == IR_TRUNC && (s->op[o->a[0]].op == IR_ZEXT || s->op[o->a[0]].op == IR_SEXT))
        return s->op[o->a[0]].a[0];
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

/* What GET stands for. */
static ir_val get(struct fwd *f, const struct ir_op *o, unsigned n)
{
    unsigned v = look(&f->state, o->imm);

    if (v != IR_NO && f->s->op[v].t == o->t)
        return (ir_val)v;
    learn(&f->state, o->imm, n);
    return (ir_val)n;
}

static void forward_state(struct fwd *f, const struct ir_op *o, unsigned n)
{
    switch (o->op) {
    case IR_FL_GET:
        if (f->flags != IR_NO)
            f->rep[n] = f->flags;
        else
            f->flags = (ir_val)n;
        break;
    case IR_FL_PUT:
        f->flags = o->a[0];
        f->put_since_skip = true;
        break;
    case IR_CALL:
        if (o->attr == IR_CALL_PURE)
            break;
        /* fall through */
    case IR_CALL_ON:
    case IR_CALL_ON_IND:
        forget_all(&f->state);
        f->flags = IR_NO;
        f->put_since_skip = true;
        break;
    case IR_SKIP_IF: /* values made before it stay good inside */
    case IR_SKIP_IF_FL:
        f->skip_flags = f->flags;
        f->put_since_skip = false;
        break;
    case IR_LABEL:
        forget_all(&f->state);
        if (f->put_since_skip || f->flags != f->skip_flags)
            f->flags = IR_NO;
        break;
    }
}

static void forward_args(const struct fwd *f, struct ir_op *o)
{
    if (o->a[0] != IR_NO)
        o->a[0] = f->rep[o->a[0]];
    if (ir_one_arg(o))
        return;
    for (unsigned i = 1; i < 4; i++)
        if (o->a[i] != IR_NO)
            o->a[i] = f->rep[o->a[i]];
}

static void forward(struct fwd *f, ir_val *gf_at)
{
    struct ir *s = f->s;

    f->flags = IR_NO;
    for (unsigned n = 0; n < s->nr; n++) {
        struct ir_op *o = &s->op[n];

        f->rep[n] = (ir_val)n;
        switch (o->op) { /* most ops are one of these */
        case IR_INSN:
        case IR_CONST:
            continue;
        case IR_GET:
            f->rep[n] = get(f, o, n);
            continue;
        case IR_PUT:
            o->a[0] = f->rep[o->a[0]];
            learn(&f->state, o->imm, o->a[0]);
            continue;
        default:
            break;
        }
        forward_args(f, o);
        gf_at[n] = f->flags;
        switch (o->op) {
        case IR_LOAD:
        case IR_STORE:
            fold_address(s, o);
            continue;
        case IR_EXIT_IF:
            fold_exit_if(s, o);
            continue;
        case IR_EXIT_IF_FL:
        case IR_FL_COND:
        case IR_FL_SELECT:
            fold_fcmp(s, o);
            continue;
        case IR_FL_GET:
        case IR_FL_PUT:
        case IR_CALL:
        case IR_CALL_ON:
        case IR_CALL_ON_IND:
        case IR_SKIP_IF:
        case IR_SKIP_IF_FL:
        case IR_LABEL:
            forward_state(f, o, n);
            continue;
        default:
            f->rep[n] = simplify(f, n);
            continue;
        }
    }
}

struct back {
    struct ir *s;
    struct ir_flow *f;
    bool *all_flags;    /* somebody looks at more than N and Z of it */
    bool live_at_label; /* NZCV, behind the last LABEL met */
    struct known over;  /* guest state replaced later with no one looking before */
};

static bool used(const struct back *k, unsigned n)
{
    return k->f->first[n] != IR_NO;
}

/* True: nobody sees this op. Updates what is known about guest state before it. */
static bool unseen(struct back *k, const struct ir_op *o, unsigned n, bool *fl_live)
{
    switch (o->op) {
    case IR_NOP:
        return true;
    case IR_INSN:
        return false;
    case IR_PUT:
        if (look(&k->over, o->imm) == o->t)
            return true;
        learn(&k->over, o->imm, o->t);
        return false;
    case IR_GET:
        if (!used(k, n))
            return true;
        forget(&k->over, o->imm);
        return false;
    case IR_FL_PUT:
        if (!*fl_live)
            return true;
        *fl_live = false;
        return false;
    case IR_FL_GET:
        if (!used(k, n))
            return true;
        *fl_live = true;
        return false;
    case IR_CALL:
        if (o->attr == IR_CALL_PURE)
            return false;
        forget_all(&k->over);
        *fl_live = true;
        return false;
    default:
        break;
    }
    if (ir_op_effect[o->op] == 'P' || ir_op_effect[o->op] == 'F')
        return !used(k, n) && ir_op_effect[o->op] == 'P';
    forget_all(&k->over);
    if (ir_op_effect[o->op] == 'M' && k->f->gf_at[n] != IR_NO && used(k, k->f->gf_at[n]))
        *fl_live = true; /* done again from here it needs them */
    if (ir_op_effect[o->op] == 'X') {
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
    return false;
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
    for (unsigned i = 0; i < 4; i++)
        if (o->a[i] != IR_NO)
            next[i] = first[o->a[i]];
    for (unsigned i = 0; i < 4; i++)
        if (o->a[i] != IR_NO)
            first[o->a[i]] = (uint16_t)n;
}

static void backward(struct back *k)
{
    struct ir *s = k->s;
    unsigned at = s->nr;
    bool live = false; /* NZCV; the last op says */

    for (unsigned n = s->nr; n-- > 0;) {
        struct ir_op *o = &s->op[n];
        bool was = live;

        if (o->op == IR_INSN) {
            k->f->live[--at] = (uint16_t)n;
            continue;
        }
        if (o->op == IR_CONST) {
            if (used(k, n))
                k->f->live[--at] = (uint16_t)n;
            else
                o->op = IR_NOP;
            continue;
        }
        if (unseen(k, o, n, &live)) {
            o->op = IR_NOP;
            o->a[0] = o->a[1] = o->a[2] = o->a[3] = IR_NO;
            continue;
        }
        k->f->live[--at] = (uint16_t)n;
        k->f->fl_live[n] = (ir_op_effect[o->op] == 'M' || ir_is_skip(o->op) ? live : was) && !ir_is_call_on(o->op);
        simplify_flags(k, o, n);
        if (ir_has_args(o))
            note_uses(k, o, n);
    }
    k->f->first_live = at;
}

void ir_optimise(struct ir *s, struct ir_flow *flow)
{
    struct fwd f;
    struct back k;

    f.s = k.s = s;
    know_nothing(&f.state);
    know_nothing(&k.over);
    f.rep = flow->rep;
    f.skip_flags = IR_NO;
    f.put_since_skip = false;
    forward(&f, flow->gf_at);
    k.f = flow;
    k.all_flags = flow->all_flags;
    k.live_at_label = true;
    flow->closes = false;
    memset(flow->first, 0xff, s->nr * sizeof flow->first[0]);
    memset(k.all_flags, 0, s->nr * sizeof k.all_flags[0]);
    backward(&k);
}
