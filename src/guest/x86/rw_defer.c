/* Rewriter: flags made later than the guest makes them.
 *
 * A check of an access is dearer where flags are live across it. Most flags come from the like of CMP with registers or
 * ADD of a constant, whose operands are still there when somebody reads the flags: such an instruction is left out (or
 * done for its result only) and the flags are made right before the reader, while the checks between may lose them.
 * Where such a check is left, its cold path makes the flags first, so that the guest's state is whole there. Only plain
 * integer instructions may lie between: nothing that could fault anywhere but in a check.
 */
#include "guest/x86/ops.h"
#include "guest/x86/rw_int.h"

enum how {
    NOT,
    LATER,  /* has no result but flags: done at the reader */
    RESULT, /* flags are those of TEST of the result */
    AGAIN   /* flags are those of the same on a copy of what it was before */
};

static uint32_t gprs_read(const struct x86_insn *in)
{
    uint32_t m = in->row->gpr_r;

    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->ops[i].kind == X86_OP_GPR)
            m |= 1u << (in->ops[i].high8 ? in->ops[i].reg & 3 : in->ops[i].reg);
    return m;
}

static bool is_reg(const struct x86_operand *o)
{
    return o->kind == X86_OP_GPR && !o->high8;
}

/* d = d op s with flags that can be had from d and s afterwards. */
static enum how by_result(const struct x86_insn *in, uint16_t wanted)
{
    const struct x86_operand *d = &in->ops[0], *s = &in->ops[1];

    if (in->lock || !in->nr_ops || !is_reg(d))
        return NOT;
    switch (in->op) {
    case X86_I_AND:
    case X86_I_OR:
    case X86_I_XOR:
        return RESULT;
    case X86_I_INC:
    case X86_I_DEC:
        return d->size >= 4 && !(wanted & X86_CF) ? AGAIN : NOT;
    case X86_I_ADD:
    case X86_I_SUB:
        if (d->size < 4)
            return NOT;
        if (s->kind == X86_OP_IMM)
            return (int64_t)in->imm > -4096 && (int64_t)in->imm < 4096 ? AGAIN : NOT;
        return is_reg(s) && s->reg != d->reg && !(rw_map(s->reg) & SPILLED) ? AGAIN : NOT;
    default:
        return NOT;
    }
}

static enum how how_to(const struct rw *r, const struct x86_insn *in, uint16_t wanted)
{
    if (in->row->flags_r & X86_ARITH || wanted & ~rw_flags_written(in) ||
        in->row->attr & (X86_A_FPU | X86_A_MMX | X86_A_SSE | X86_A_AVX | X86_A_STRING) || !rw_can_copy(r, in))
        return NOT;
    if (in->mem_op < 0 && !rw_writes(in) && rw_spilled(r, in) <= 1)
        return LATER;
    return by_result(in, wanted);
}

/* May it lie between an instruction and its flags? */
static bool between(const struct rw *r, const struct x86_insn *in)
{
    if ((in->row->flags_r | in->row->flags_w) & X86_ARITH ||
        in->row->attr & (X86_A_FPU | X86_A_MMX | X86_A_SSE | X86_A_AVX | X86_A_ENDS) || rw_is_sys(r, in) ||
        rw_is_string(r, in))
        return false;
    return rw_is_stack_op(r, in) || rw_can_copy(r, in);
}

static bool is_checked(const struct rw *r, const struct x86_insn *in)
{
    return rw_is_stack_op(r, in) || (in->mem_op >= 0 && !(in->row->attr & X86_A_NOP_MEM));
}

/* Can the flags still be had when RSP has moved by a known distance? */
static bool follows_rsp(const struct rw *r, const struct x86_insn *in, enum how how)
{
    return r->m64 && how == AGAIN && in->ops[0].reg == X86_RSP && in->ops[1].kind == X86_OP_IMM;
}

/* A direct call that does not poll. */
static bool is_call_ahead(const struct x86_insn *in)
{
    return in->map == X86_MAP_1 && in->enc == X86_ENC_LEGACY && in->opcode == 0xe8 && !in->opsize_pfx && !in->lock &&
           (int64_t)in->imm >= 0;
}

bool rw_defer(struct rw *r)
{
    const struct x86_insn *in = &r->in[r->cur];
    uint16_t wanted = r->live_after[r->cur] & X86_ARITH;
    unsigned i = r->cur + 1, checks = 0;
    uint32_t needs;
    enum how how;
    int32_t by;

    if (!wanted || r->flat || r->pending >= 0 || i >= r->nr || !(rw_flags_written(in) & X86_ARITH) ||
        (!between(r, &r->in[i]) && !is_call_ahead(&r->in[i]))) /* most often their reader is next */
        return false;
    how = how_to(r, in, wanted);
    if (how == NOT)
        return false;
    needs = gprs_read(in);
    for (; i < r->nr && between(r, &r->in[i]); i++) {
        uint32_t w = rw_writes(&r->in[i]) & needs;

        if (w && (w != 1u << X86_RSP || !follows_rsp(r, in, how) || !rw_rsp_change(&r->in[i], &by)))
            break;
        checks += is_checked(r, &r->in[i]);
    }
    /* A call stores its return address first. */
    if (i < r->nr && is_call_ahead(&r->in[i]) && (!(needs >> X86_RSP & 1) || follows_rsp(r, in, how))) {
        checks++;
        i++;
    }
    if (!checks)
        return false;
    r->how[r->cur] = (uint8_t)how;
    r->pending_next = (int)r->cur;
    r->make_at = i;
    return how == LATER;
}

/* tmp op= what `in` has for a source. digit: of opcode 81. */
static void alu(struct rw *r, const struct x86_insn *in, unsigned digit, unsigned tmp)
{
    unsigned w = in->ops[0].size == 8 ? JIT_W : 0;

    if (in->ops[1].kind == X86_OP_IMM) {
        jit_op_reg(r->b, w, 0x81, digit, tmp);
        jit_32(r->b, (uint32_t)in->imm);
    } else {
        jit_op_reg(r->b, w, 0x01 | digit << 3, rw_map(in->ops[1].reg), tmp);
    }
}

/* ADD, SUB, INC, DEC once more, on a copy of the register as it was before. */
static void again(struct rw *r, const struct x86_insn *in, int32_t moved, unsigned tmp)
{
    unsigned d = rw_map(in->ops[0].reg), w = in->ops[0].size == 8 ? JIT_W : 0;
    bool minus = in->op == X86_I_SUB || in->op == X86_I_DEC, imm = in->nr_ops > 1 && in->ops[1].kind == X86_OP_IMM;
    int32_t by = in->nr_ops == 1 ? 1 : imm ? (int32_t)in->imm : 0;

    if (d != HSP)
        moved = 0;
    if (d & SPILLED) {
        rw_load_home(r, tmp, d);
        d = tmp;
    }
    jit_lea(r->b, tmp, JIT_BASE(d, (minus ? by : -by) - moved));
    if (in->nr_ops == 1) {
        jit_op_reg(r->b, w, 0xff, minus, tmp);
        return;
    }
    if (!imm)
        alu(r, in, minus ? 0 : 5, tmp);
    alu(r, in, minus ? 5 : 0, tmp);
}

void rw_make_flags(struct rw *r, unsigned i, int32_t moved, unsigned tmp)
{
    const struct x86_insn *in = &r->in[i];
    const struct x86_operand *d = &in->ops[0];
    unsigned h, size = d->size;

    switch (r->how[i]) {
    case LATER:
        rw_copy_by(r, in, tmp);
        break;
    case RESULT:
        h = rw_map(d->reg);
        if (h & SPILLED) {
            rw_load_home(r, tmp, h);
            h = tmp;
        }
        jit_op_reg(r->b,
                   size == 8   ? JIT_W
                   : size == 2 ? JIT_66
                   : size == 1 ? JIT_B8 | JIT_RM8
                               : 0,
                   size == 1 ? 0x84 : 0x85, h, h);
        break;
    default: /* AGAIN */
        again(r, in, moved, tmp);
        break;
    }
}

void rw_pending_flags(struct rw *r)
{
    if (r->pending < 0)
        return;
    rw_make_flags(r, (unsigned)r->pending, r->moved, T0);
    r->pending = r->pending_next = -1;
}
