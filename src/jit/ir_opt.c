/* Passes over a superblock: constant folding and copy propagation with forwarding of guest state (one forward pass),
 * removal of dead PUTs, FL_PUTs and pure ops (one backward pass). */
#include "jit/ir_int.h"

/* What is known about pieces of guest state, found by their offset. A piece that takes another's place makes it
 * forgotten, which is always safe; so is forgetting all by a new generation. */
enum { STATE_SLOTS = 256 };
struct slot {
    int64_t off;
    uint32_t gen;
    uint16_t v; /* forward: its value, IR_NO: not known; backward: the type it is replaced with */
};
static struct slot *slot_of(struct slot *t, int64_t off)
{
    return &t[(uint64_t)off >> 3 & (STATE_SLOTS - 1)];
}

struct fwd {
    struct ir *s;
    ir_val *rep; /* what stands for each value */
    struct slot state[STATE_SLOTS];
    uint32_t gen;
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
    if (o->op != IR_LOAD && o->op != IR_STORE)
        return;
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

    if (o->op == IR_EXIT_IF && (o->attr == IR_NE || o->attr == IR_EQ) && konst(s, o->a[1], &z) && !z &&
        s->op[o->a[0]].op == IR_CMP) {
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

static ir_val *state_of(struct fwd *f, int64_t off)
{
    struct slot *s = slot_of(f->state, off);

    if (s->off != off || s->gen != f->gen)
        *s = (struct slot){.off = off, .gen = f->gen, .v = IR_NO};
    return &s->v;
}

static void forward(struct fwd *f, ir_val *gf_at)
{
    struct ir *s = f->s;

    f->flags = IR_NO;
    for (unsigned n = 0; n < s->nr; n++) {
        struct ir_op *o = &s->op[n];
        ir_val *v;

        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO)
                o->a[i] = f->rep[o->a[i]];
        f->rep[n] = simplify(f, n);
        fold_address(s, o);
        fold_exit_if(s, o);
        fold_fcmp(s, o);
        gf_at[n] = f->flags;
        switch (o->op) {
        case IR_GET:
            v = state_of(f, o->imm);
            if (*v != IR_NO && s->op[*v].t == o->t)
                f->rep[n] = *v;
            else
                *v = (ir_val)n;
            break;
        case IR_PUT:
            *state_of(f, o->imm) = o->a[0];
            break;
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
            f->gen++;
            f->flags = IR_NO;
            f->put_since_skip = true;
            break;
        case IR_SKIP_IF: /* values made before it stay good inside */
        case IR_SKIP_IF_FL:
            f->skip_flags = f->flags;
            f->put_since_skip = false;
            break;
        case IR_LABEL:
            f->gen++;
            if (f->put_since_skip || f->flags != f->skip_flags)
                f->flags = IR_NO;
            break;
        }
    }
}

struct back {
    struct ir *s;
    const ir_val *gf_at;
    uint16_t *uses;
    bool *all_flags;               /* somebody looks at more than N and Z of it */
    bool live_at_label;            /* NZCV, behind the last LABEL met */
    struct slot over[STATE_SLOTS]; /* guest state replaced later with no one looking before */
    uint32_t gen;
};

static bool overwritten(const struct back *k, int64_t off, unsigned t)
{
    const struct slot *s = slot_of((struct slot *)k->over, off);

    return s->off == off && s->gen == k->gen && s->v == t;
}

static void forget(struct back *k, int64_t off)
{
    struct slot *s = slot_of(k->over, off);

    if (s->off == off)
        s->gen = 0;
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
        if (overwritten(k, o->imm, o->t))
            return true;
        *slot_of(k->over, o->imm) = (struct slot){.off = o->imm, .gen = k->gen, .v = o->t};
        return false;
    case IR_GET:
        if (!k->uses[n])
            return true;
        forget(k, o->imm);
        return false;
    case IR_FL_PUT:
        if (!*fl_live)
            return true;
        *fl_live = false;
        return false;
    case IR_FL_GET:
        if (!k->uses[n])
            return true;
        *fl_live = true;
        return false;
    case IR_CALL:
        if (o->attr == IR_CALL_PURE)
            return false;
        k->gen++;
        *fl_live = true;
        return false;
    default:
        break;
    }
    if (ir_op_effect[o->op] == 'P' || ir_op_effect[o->op] == 'F')
        return !k->uses[n] && ir_op_effect[o->op] == 'P';
    k->gen++;
    if (ir_op_effect[o->op] == 'M' && k->gf_at[n] != IR_NO && k->uses[k->gf_at[n]])
        *fl_live = true; /* done again from here it needs them */
    if (ir_op_effect[o->op] == 'X') {
        if (o->op == IR_LABEL)
            k->live_at_label = *fl_live;
        else if (ir_is_skip(o->op))
            *fl_live |= k->live_at_label;
        else if (o->op >= IR_EXIT && o->op <= IR_EXIT_CODE) {
            bool final = o->op != IR_EXIT_IF && o->op != IR_EXIT_IF_FL;

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

static void backward(struct back *k)
{
    struct ir *s = k->s;
    bool fl_live = true;

    for (unsigned n = s->nr; n-- > 0;) {
        struct ir_op *o = &s->op[n];

        if (unseen(k, o, n, &fl_live)) {
            o->op = IR_NOP;
            o->a[0] = o->a[1] = o->a[2] = o->a[3] = IR_NO;
            continue;
        }
        simplify_flags(k, o, n);
        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO) {
                k->uses[o->a[i]]++;
                k->all_flags[o->a[i]] |= needs_all_flags(o, i);
            }
    }
}

void ir_optimise(struct ir *s, struct ir_flow *flow)
{
    uint16_t *mem = xmalloc(s->nr * (2 * sizeof *mem + sizeof(bool)));
    struct fwd f;
    struct back k;

    f.s = k.s = s;
    f.gen = k.gen = 1;
    memset(f.state, 0, sizeof f.state);
    memset(k.over, 0, sizeof k.over);
    f.rep = mem;
    k.uses = mem + s->nr;
    k.all_flags = (bool *)(mem + 2 * s->nr);
    k.gf_at = flow->gf_at;
    k.live_at_label = true;
    memset(k.uses, 0, s->nr * (sizeof k.uses[0] + sizeof(bool)));
    f.skip_flags = IR_NO;
    f.put_since_skip = false;
    forward(&f, flow->gf_at);
    backward(&k);
    free(mem);
}

void ir_find_uses(const struct ir *s, struct ir_flow *f)
{
    bool live = false, behind = false;

    for (unsigned n = 0; n < s->nr; n++)
        f->first[n] = IR_NO;
    for (unsigned n = s->nr; n-- > 0;) {
        const struct ir_op *o = &s->op[n];

        if (o->op == IR_LABEL)
            behind = live;
        live |= ir_is_skip(o->op) && behind;
        live |= ir_op_effect[o->op] == 'M' && f->gf_at[n] != IR_NO && f->first[f->gf_at[n]] != IR_NO;
        f->fl_live[n] = live;
        if (o->op >= IR_EXIT && o->op <= IR_EXIT_CODE)
            live = !o->dead || ((o->op == IR_EXIT_IF || o->op == IR_EXIT_IF_FL) && live);
        else if (o->op == IR_FL_PUT)
            live = false;
        else if (o->op == IR_FL_GET || (o->op == IR_CALL && o->attr != IR_CALL_PURE))
            live = true;
        if (o->a[0] == IR_NO && o->op != IR_CALL) /* then the others are not there either */
            continue;
        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO)
                f->next[n][i] = f->first[o->a[i]];
        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO)
                f->first[o->a[i]] = (uint16_t)n;
    }
}
