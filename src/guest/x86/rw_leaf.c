/* Rewriter, user mode: functions that are made part of the block that calls them.
 *
 * A leaf stores nothing, so that the return address which the call has stored is what its RET would read: there is
 * nothing to compare, RSP need not move, and the host calls nobody. A direct call takes a straight one of a few
 * instructions as soon as it is translated. Where a call by pointer has been found to go most often to one function
 * (x86_rw_env.way), that is taken as far as it is a leaf along the way its conditional jumps go most often; each
 * jump the other way calls the rest of the function, with its return behind the part taken in. */
#include "guest/x86/rw_int.h"

enum { LEAF_MAX = 8, WAY_MAX = 32, WAY_JUMPS = 6 }; /* instructions, the return included; conditional jumps */

/* One that has nothing to do with the stack, and so cannot change where its function returns to. */
static bool fits_leaf(const struct x86_insn *in)
{
    if ((in->found & ~(uint32_t)RW_AS_IT_IS) != RW_CAN_COPY || in->row->attr & X86_A_STACK || in->base == X86_RSP ||
        in->row->gpr_w >> X86_RSP & 1)
        return false;
    for (unsigned i = 0; i < in->nr_ops; i++) {
        const struct x86_operand *o = &in->ops[i];

        if (o->kind == X86_OP_GPR ? o->reg == X86_RSP && !o->high8
                                  : (int)i == in->mem_op && o->acc & X86_ACC_W && !(in->row->attr & X86_A_NOP_MEM))
            return false;
    }
    return true;
}

static bool is_plain_ret(const struct x86_insn *in)
{
    return in->map == X86_MAP_1 && in->enc == X86_ENC_LEGACY && in->opcode == 0xc3 && !in->opsize_pfx && !in->lock;
}

static bool is_jmp(const struct x86_insn *in)
{
    return in->map == X86_MAP_1 && in->enc == X86_ENC_LEGACY && (in->opcode == 0xe9 || in->opcode == 0xeb) &&
           !in->opsize_pfx && !in->lock;
}

/* What most functions begin with, which are no leaves: PUSH, a smaller RSP, a jump by a table. */
static bool begins_large(const uint8_t *p, size_t len)
{
    if (len >= 4 && get_le32(p) == UINT32_C(0xfa1e0ff3)) { /* endbr64 */
        p += 4;
        len -= 4;
    }
    return len < 3 || (p[0] & 0xf8) == 0x50 || (p[0] == 0x41 && (p[1] & 0xf8) == 0x50) || p[0] == 0xff ||
           (p[0] == 0x48 && (p[1] == 0x83 || p[1] == 0x81) && p[2] == 0xec) || (p[0] == 0xf2 && p[1] == 0xff);
}

uint64_t rw_way(const struct rw *r, uint64_t pc, bool *count)
{
    *count = false;
    return r->env->way && r->m64 && !(r->env->mode & X86_RWM_ONE) ? r->env->way(r->env->arg, pc, count) : 0;
}

/* A function while it is decoded. */
struct leaf {
    uint64_t to;         /* its first instruction */
    const uint8_t *page; /* where that lies */
    unsigned end;        /* of what may be read of it */
    unsigned nr, max;
    bool straight;          /* no jumps */
    unsigned cut, nr_jumps; /* behind the last conditional jump; how many there are */
};

/* No loop is gone round. */
static bool has(const struct rw *r, const struct leaf *l, uint64_t pc)
{
    for (unsigned i = 0; i <= l->nr; i++)
        if (rw_pc(r, r->nr + i) == pc)
            return true;
    return false;
}

/* The next one, at *at of the page, which becomes where its function goes on. False: it does not fit. */
static bool take_one(struct rw *r, struct leaf *l, unsigned *at)
{
    unsigned n = r->nr + l->nr;
    struct x86_insn *in = &r->in[n];
    uint64_t target;
    bool count;

    if (l->nr == l->max || *at >= l->end || x86_decode(l->page + *at, l->end - *at, X86_MODE_64, in) != X86_DECODE_OK)
        return false;
    rw_classify(r, in, &r->gprs[n]);
    r->out->guest_off[n] = (uint16_t)(JIT_OFF_PEEK + *at);
    target = (l->to & ~UINT64_C(4095)) + *at + in->len + in->imm;
    *at += in->len;
    if (!l->straight && (rw_is_jcc(in) || is_jmp(in))) {
        bool near = !((target ^ l->to) >> 12) && !has(r, l, target);

        if (rw_is_jcc(in)) {
            if (l->nr_jumps++ == WAY_JUMPS)
                return false;
            l->cut = l->nr + 1;
            near = near && rw_way(r, rw_pc(r, n), &count) == target;
        } else if (!near) {
            return false;
        }
        if (near)
            *at = (unsigned)(target & 4095);
    } else if (!is_plain_ret(in) && !fits_leaf(in)) {
        return false;
    }
    l->nr++;
    return true;
}

/* Asks for its bytes to be watched, and whether they are still what was decoded. */
static bool keep(struct rw *r, const struct leaf *l)
{
    unsigned first = 4095, last = 0;

    if (!r->env->reach(r->env->arg, l->to, true)) /* only now: most functions are no leaves */
        return false;
    for (unsigned i = r->nr; i < r->nr + l->nr; i++) {
        unsigned at = r->out->guest_off[i] & 4095;

        if (memcmp(l->page + at, r->in[i].bytes, r->in[i].len) != 0)
            return false;
        first = (unsigned)min_u64(first, at);
        last = (unsigned)max_u64(last, at + r->in[i].len - 1u);
    }
    if (!last) /* 0 is none */
        return false;
    rw_note_peek(r, first, last);
    return true;
}

/* All leaves of a block lie in one page. */
void rw_take_leaf(struct rw *r)
{
    const struct x86_rw_env *e = r->env;
    const struct x86_insn *call = &r->in[r->nr - 1];
    uint64_t pc = rw_pc(r, r->nr - 1);
    struct leaf l = {.straight = call->opcode == 0xe8};
    int64_t by;
    int32_t peek_by = r->out->peek_by;
    unsigned at;
    bool count;

    if (r->no_leaf || !e->reach || !r->m64 || !rw_is_call(r, call))
        return;
    l.max = l.straight ? LEAF_MAX : WAY_MAX;
    l.to = l.straight ? pc + call->len + call->imm : rw_way(r, pc, &count);
    by = (int64_t)((l.to >> 12) - (e->pc >> 12));
    if (!l.to || r->nr + l.max >= JIT_BLOCK_MAX_INSN || (r->out->peek_last && by != peek_by) ||
        by != (int32_t)((uint32_t)by << 8) >> 8)
        return;
    at = (unsigned)(l.to & 4095);
    l.page = (const uint8_t *)(uintptr_t)(l.to - at);
    l.end = at + (unsigned)e->reach(e->arg, l.to, false);
    if (l.end <= at || (l.straight && begins_large(l.page + at, l.end - at)))
        return;
    r->out->peek_by = (int32_t)by;
    do {
        if (!take_one(r, &l, &at)) {
            l.nr = l.cut;
            break;
        }
    } while (!is_plain_ret(&r->in[r->nr + l.nr - 1]));
    if (l.nr && keep(r, &l))
        r->nr += l.nr;
    else
        r->out->peek_by = peek_by;
}

/* ---- its code ---- */

/* The call to which the present instruction's leaf belongs. */
static unsigned call_of(const struct rw *r)
{
    unsigned i = r->cur;

    while (rw_of_leaf(r, i))
        i--;
    return i;
}

static struct cold *aside(struct rw *r, bool taken)
{
    struct cold *c = rw_new_cold(r, COLD_ASIDE);

    c->info = call_of(r);
    c->link = r->cur;
    c->write = taken;
    c->moved = r->sp;
    return c;
}

/* What leaves its way comes back behind it. */
static void end(struct rw *r)
{
    unsigned call = call_of(r);

    r->sp += 8;
    r->t1_zero = false;
    for (unsigned i = 0; i < r->nr_cold; i++)
        if ((r->cold[i].kind == COLD_ASIDE || r->cold[i].kind == COLD_OTHER) && r->cold[i].info == call)
            r->cold[i].op = r->b->p;
}

static uint64_t behind(const struct rw *r, unsigned i)
{
    return rw_pc(r, i) + r->in[i].len;
}

void rw_leaf_flow(struct rw *r, const struct x86_insn *in)
{
    uint64_t target = behind(r, r->cur) + in->imm;
    bool last = !rw_of_leaf(r, r->cur + 1), taken;
    struct cold *c;

    if (is_jmp(in))
        return;
    if (!rw_is_jcc(in)) {
        end(r);
        return;
    }
    taken = !last && rw_pc(r, r->cur + 1) == target;
    c = aside(r, !taken);
    c->from = jit_jcc_fwd(r->b, taken ? (in->opcode & 15) ^ 1 : in->opcode & 15);
    if (!last)
        return;
    c = aside(r, false);
    c->from = jit_jmp_fwd(r->b);
    end(r);
}

struct cold *rw_count_way(struct rw *r, unsigned call, unsigned at)
{
    unsigned n = (unsigned)(rw_pc(r, at) * UINT64_C(0x9e3779b97f4a7c15) >> 32) % X86_WAYS;
    struct jit_mem way = JIT_GS(X86_CTX(way) + 4 * (int)n);
    struct cold *c = rw_new_cold(r, COLD_HOT);
    uint8_t *hot;

    jit_load32(r->b, JR_RCX, way);
    jit_lea32(r->b, JR_RCX, JIT_BASE(JR_RCX, (int32_t)(UINT32_MAX / X86_WAY_HOT + 1)));
    jit_store32(r->b, way, JR_RCX);
    hot = jit_jrcxz_fwd(r->b);
    jit_mov_rr(r->b, JR_RCX, T1);
    rw_hide_jmp(r);
    jit_patch8(r->b, hot);
    c->from = jit_jmp_fwd(r->b);
    c->info = call;
    c->link = at;
    return c;
}

/* A conditional jump has left the way: the rest of its function is called. */
static void cold_aside(struct rw *r, const struct cold *c)
{
    uint64_t ret = behind(r, c->info), pc = behind(r, c->link);
    bool count;

    if (c->write)
        pc += r->in[c->link].imm;
    if (c->moved)
        jit_lea(r->b, HSP, JIT_BASE(HSP, c->moved));
    rw_link_jmp(r, pc, JIT_LINK_CALL, 0);
    jit_mov_rr(r->b, T1, JR_RCX);
    rw_continuation(r, ret, true);
    (void)rw_way(r, rw_pc(r, c->link), &count);
    if (count) {
        jit_mov_rr(r->b, T1, JR_RCX);
        rw_count_way(r, c->info, c->link)->write = c->write;
    }
    jit_jmp(r->b, c->op);
}

/* The jump at c->link is hot: T0 = where it went. One in a leaf has gone all its way, and the call has returned. */
static void cold_hot(struct rw *r, const struct cold *c)
{
    uint64_t pc = rw_pc(r, c->link), on = pc;
    struct jit_link_out *l;

    jit_mov_rr(r->b, JR_RCX, T1);
    if (rw_of_leaf(r, c->link)) {
        on = behind(r, c->info);
        jit_mov_ri(r->b, T0, behind(r, c->link) + (c->write ? r->in[c->link].imm : 0));
    }
    jit_mov_ri(r->b, T1, on);
    jit_store(r->b, JIT_GS(X86_CTX(branch_pc)), T1);
    l = rw_new_link(r, pc, JIT_LINK_CALL);
    if (!l)
        return;
    l->mode_or = JIT_HOT;
    l->inner = rw_of_leaf(r, c->link);
    l->stub = (uint32_t)(r->b->p - r->b->start);
    jit_call(r->b, r->env->stubs->exit_link);
}

/* T1 = RCX, which has its value again behind it. */
static void elsewhere(struct rw *r, const struct cold *c)
{
    bool count;

    (void)rw_way(r, rw_pc(r, c->link), &count);
    if (count)
        rw_count_way(r, c->link, c->link);
    else
        jit_mov_rr(r->b, JR_RCX, T1);
}

/* A call by pointer goes elsewhere; T1 = RCX, the return address is stored. */
static void cold_other(struct rw *r, const struct cold *c)
{
    uint8_t *miss, *call;

    elsewhere(r, c);
    jit_lea(r->b, HSP, JIT_BASE(HSP, -8));
    miss = rw_look_up(r);
    jit_op_mem(r->b, 0, 0xff, 2, JIT_GSX(T1, 8, X86_CTX(jc_host)), 0);
    call = jit_jmp8_fwd(r->b);
    jit_patch8(r->b, miss);
    jit_mov_rr(r->b, JR_RCX, T1);
    jit_call(r->b, r->env->stubs->exit_dispatch);
    jit_patch8(r->b, call);
    if (c->write) { /* no leaf: as the other comes back */
        jit_jmp(r->b, c->op);
        return;
    }
    jit_mov_rr(r->b, T1, JR_RCX);
    rw_continuation(r, behind(r, c->link), true);
    jit_jmp(r->b, c->op);
}

/* So does a jump. */
static void cold_jump(struct rw *r, const struct cold *c)
{
    elsewhere(r, c);
    rw_jump_t0(r);
}

void rw_leaf_cold(struct rw *r, const struct cold *c)
{
    switch (c->kind) {
    case COLD_ASIDE:
        cold_aside(r, c);
        break;
    case COLD_OTHER:
        cold_other(r, c);
        break;
    case COLD_JUMP:
        cold_jump(r, c);
        break;
    default:
        cold_hot(r, c);
        break;
    }
}
