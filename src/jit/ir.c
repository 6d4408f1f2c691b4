/* Building, checking and printing the superblock IR. */
#include "jit/ir_int.h"

#include <inttypes.h>

const char *const ir_op_names[IR_NR_OPS] = {
#define IR_OP(name, n, eff, doc) [IR_##name] = #name,
#include "jit/ir.def"
#undef IR_OP
};

static const uint8_t op_args[IR_NR_OPS] = {
#define IR_OP(name, n, eff, doc) [IR_##name] = n,
#include "jit/ir.def"
#undef IR_OP
};

const char ir_op_effect[IR_NR_OPS] = {
#define IR_OP(name, n, eff, doc) [IR_##name] = (eff)[0],
#include "jit/ir.def"
#undef IR_OP
};

unsigned ir_op_nargs(enum ir_opcode op)
{
    return op_args[op];
}

void ir_begin(struct ir *s, uint64_t pc)
{
    s->nr = 0;
    s->full = s->next_dead = false;
    s->pc = pc;
    s->guest_len = 0;
    s->peek_first = s->peek_last = 0;
    if (s->forwards)
        ir_forward_begin(s);
}

void ir_peek(struct ir *s, uint64_t first, uint64_t last)
{
    uint16_t a = first & 4095, b = last & 4095;

    s->peek_first = s->peek_last && s->peek_first < a ? s->peek_first : a;
    s->peek_last = s->peek_last > b ? s->peek_last : b;
}

/* Room for one op; NULL: there is none. */
static inline struct ir_op *append(struct ir *s)
{
    if (likely(s->nr < IR_MAX_OPS))
        return &s->op[s->nr];
    s->full = true;
    return NULL;
}

static inline void fill(struct ir_op *o, enum ir_opcode op, enum ir_type t, ir_val a, int64_t imm)
{
    *o = (struct ir_op){.op = (uint8_t)op, .t = (uint8_t)t, .a = {a, IR_NO, IR_NO, IR_NO}, .gf = IR_NO, .imm = imm};
}

ir_val ir_emit(struct ir *s, enum ir_opcode op, enum ir_type t, unsigned attr, ir_val a, ir_val b, ir_val c,
               int64_t imm)
{
    struct ir_op *o = append(s);

    if (unlikely(!o))
        return 0;
    *o = (struct ir_op){.op = (uint8_t)op, .t = (uint8_t)t, .attr = (uint8_t)attr, .a = {a, b, c, IR_NO}, .imm = imm};
    if (op >= IR_CALL_ON && op <= IR_EXIT_CODE) {
        o->dead = s->next_dead;
        s->next_dead = false;
    }
    if (s->forwards) {
        ir_val v = ir_forward(s, s->nr);

        if (v != s->nr)
            return v;
    }
    return (ir_val)s->nr++;
}

/* Most ops are one of the following, which forwarding leaves alone, or these do what it would. */
ir_val ir_const(struct ir *s, enum ir_type t, uint64_t v)
{
    struct ir_op *o = append(s);

    if (unlikely(!o))
        return 0;
    fill(o, IR_CONST, t, IR_NO, t == IR_I32 ? (int64_t)(uint32_t)v : (int64_t)v);
    return (ir_val)s->nr++;
}

ir_val ir_get(struct ir *s, enum ir_type t, size_t off)
{
    struct ir_op *o = append(s);
    unsigned v;

    if (unlikely(!o))
        return 0; /* before s->nr, which is no op then, is learned */
    if (s->forwards) {
        v = ir_known_look(&s->state, (int64_t)off);
        if (v != IR_NO && s->op[v].t == t)
            return (ir_val)v;
        ir_known_learn(&s->state, (int64_t)off, s->nr);
    }
    fill(o, IR_GET, t, IR_NO, (int64_t)off);
    return (ir_val)s->nr++;
}

void ir_put(struct ir *s, size_t off, ir_val v)
{
    struct ir_op *o = append(s);

    if (unlikely(!o))
        return;
    fill(o, IR_PUT, ir_type_of(s, v), v, (int64_t)off);
    if (s->forwards)
        ir_known_learn(&s->state, (int64_t)off, v);
    s->nr++;
}

static struct ir_op *last(struct ir *s)
{
    return &s->op[s->nr ? s->nr - 1 : 0];
}

void ir_insn(struct ir *s, uint64_t pc)
{
    struct ir_op *o = append(s);

    if (unlikely(!o))
        return;
    fill(o, IR_INSN, IR_VOID, IR_NO, (int64_t)(pc - s->pc));
    s->nr++;
}

bool ir_finish(struct ir *s, uint32_t guest_len)
{
    s->guest_len = guest_len;
    return !s->full;
}

ir_val ir_cas_if(struct ir *s, unsigned mop, ir_val addr, ir_val cond, ir_val old, ir_val new_v)
{
    ir_val v = ir_emit(s, IR_CAS_IF, IR_I32, mop, addr, cond, old, 0);

    last(s)->a[3] = new_v;
    return v;
}

void ir_exit_call(struct ir *s, uint64_t target, uint64_t ret)
{
    ir_emit(s, IR_EXIT_CALL, IR_VOID, 0, IR_NO, IR_NO, IR_NO, (int64_t)target);
    last(s)->imm2 = ret;
}

void ir_exit_call_ind(struct ir *s, ir_val target, uint64_t ret)
{
    ir_emit(s, IR_EXIT_CALL_IND, IR_VOID, 0, target, IR_NO, IR_NO, 0);
    last(s)->imm2 = ret;
}

void ir_call_on(struct ir *s, uint64_t target, uint64_t ret)
{
    ir_emit(s, IR_CALL_ON, IR_VOID, 0, IR_NO, IR_NO, IR_NO, (int64_t)target);
    last(s)->imm2 = ret;
}

void ir_call_on_ind(struct ir *s, ir_val target, uint64_t ret)
{
    ir_emit(s, IR_CALL_ON_IND, IR_VOID, 0, target, IR_NO, IR_NO, 0);
    last(s)->imm2 = ret;
}

ir_val ir_call(struct ir *s, enum ir_type t, unsigned how, void *fn, ir_val a, ir_val b, ir_val c, ir_val d)
{
    ir_val v = ir_emit(s, IR_CALL, t, how, a, b, c, 0);

    last(s)->a[3] = d;
    last(s)->imm2 = (uintptr_t)fn;
    return v;
}

/* --- Checking --- */
/* The type an argument must have; IR_VOID: that of the op; IR_NR..: see arg_ok. */
static const char *check_args(const struct ir *s, unsigned n)
{
    const struct ir_op *o = &s->op[n];
    enum ir_type t[4] = {0};

    for (unsigned i = 0; i < 4; i++) {
        if (o->op == IR_CALL ? o->a[i] == IR_NO : i >= op_args[o->op])
            continue;
        if (o->a[i] >= n)
            return "an argument is not made before its use";
        t[i] = (enum ir_type)s->op[o->a[i]].t;
        if (t[i] == IR_VOID)
            return "an argument has no value";
    }
    switch (o->op) {
    case IR_ADD ... IR_ROR:
    case IR_EXTR ... IR_BFI:
        if (o->t != IR_I32 && o->t != IR_I64)
            return "an integer op of another type";
        if (o->op >= IR_SHL && o->op <= IR_ROR ? t[1] != IR_I32 && t[1] != IR_I64 : op_args[o->op] > 1 && t[1] != o->t)
            return "operand types differ";
        return t[0] != o->t ? "operand types differ" : NULL;
    case IR_TRUNC:
        return t[0] != IR_I64 || o->t != IR_I32 ? "TRUNC is from I64 to I32" : NULL;
    case IR_ZEXT:
    case IR_SEXT:
        return t[0] != IR_I32 || o->t != IR_I64 ? "an extension is from I32 to I64" : NULL;
    case IR_CMP:
        return t[0] != t[1] ? "operand types differ" : NULL;
    case IR_SELECT:
        return t[0] != IR_I32 ? "a condition is not I32" : t[1] != t[2] || t[1] != o->t ? "operand types differ" : NULL;
    case IR_SCAN:
    case IR_LOAD ... IR_FETCH_UMIN:
        return o->op != IR_FENCE && t[0] != IR_I64 ? "an address is not I64" : NULL;
    case IR_EXIT_IF:
        return t[0] != o->t || t[1] != o->t ? "operand types differ" : NULL;
    case IR_CALL_ON_IND:
    case IR_EXIT_CALL_IND ... IR_EXIT_IND:
        return t[0] != IR_I64 ? "an address is not I64" : NULL;
    case IR_FL_PUT:
    case IR_FL_COND:
    case IR_FL_SELECT:
    case IR_FL_TO_BITS:
    case IR_FL_CCMP:
    case IR_EXIT_IF_FL:
    case IR_SKIP_IF_FL:
        return t[0] != IR_FLAGS ? "a FLAGS operand is something else" : NULL;
    case IR_FADD ... IR_FCOPYSIGN:
        return t[0] != o->t || (o->t != IR_F32 && o->t != IR_F64) ? "an FP op of another type" : NULL;
    case IR_VAND ... IR_VDUPL - 2:
        return t[0] != IR_V128 || o->t != IR_V128 ? "a vector op of another type" : NULL;
    default:
        return NULL;
    }
}

const char *ir_verify(const struct ir *s, unsigned *at)
{
    bool in_skip = false;
    unsigned skip_at = 0, label_at = 0, call_at = 0;

    for (unsigned n = 0; n < s->nr; n++) {
        const struct ir_op *o = &s->op[n];
        const char *why = o->op < IR_NR_OPS ? check_args(s, n) : "no such op";

        *at = n;
        if (why)
            return why;
        for (unsigned i = 0; i < 4 && label_at; i++)
            if (o->a[i] != IR_NO && o->a[i] > skip_at && o->a[i] < label_at)
                return "a value made under SKIP_IF is used after its LABEL";
        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO && o->a[i] < call_at && s->op[o->a[i]].op != IR_CONST)
                return "a value is used behind a call";
        if (ir_is_call_on(o->op)) {
            if (in_skip)
                return "a call under SKIP_IF";
            call_at = n;
        }
        if (ir_is_skip(o->op) && in_skip)
            return "SKIP_IF within SKIP_IF";
        if (o->op == IR_LABEL && !in_skip)
            return "LABEL without SKIP_IF";
        if (ir_is_skip(o->op)) {
            in_skip = true;
            skip_at = n;
            label_at = 0;
        } else if (o->op == IR_LABEL) {
            in_skip = false;
            label_at = n;
        } else if (ir_is_final(o->op) && !in_skip && n + 1 != s->nr) {
            return "ops after the end";
        }
    }
    *at = s->nr;
    if (!s->nr || !ir_is_final(s->op[s->nr - 1].op))
        return "the block does not end with an exit";
    return in_skip ? "SKIP_IF without LABEL" : NULL;
}

void ir_print(const struct ir *s, FILE *f)
{
    static const char type[] = " ijfdvF";

    for (unsigned n = 0; n < s->nr; n++) {
        const struct ir_op *o = &s->op[n];

        if (o->op == IR_NOP)
            continue;
        fprintf(f, "%4u%c %s", n, o->t < sizeof type - 1 ? type[o->t] : '?',
                o->op < IR_NR_OPS ? ir_op_names[o->op] : "?");
        if (o->attr)
            fprintf(f, ".%u", o->attr);
        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO)
                fprintf(f, " %%%u", o->a[i]);
        if (o->imm)
            fprintf(f, " %#" PRIx64, (uint64_t)o->imm);
        if (o->imm2)
            fprintf(f, " %#" PRIx64, o->imm2);
        fprintf(f, "%s\n", o->dead ? " (flags dead)" : "");
    }
}
