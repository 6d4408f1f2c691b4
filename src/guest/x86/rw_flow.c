/* Rewriter: jumps, calls and returns.
 *
 * A guest RET takes its target in T0 and returns on the host at once; the code behind the call compares T0 with the
 * address it stands for and leaves to the jump lookup when they differ. Who is returned to then may want the flags:
 * the comparison uses none, and so needs RCX, which RET has put into T1 (in user mode the code behind the call does:
 * calls cost 3 per cent less so). */
#include "guest/x86/rw_int.h"

void rw_exit_interp(struct rw *r, uint64_t pc)
{
    jit_mov_ri(r->b, T0, pc);
    jit_jmp(r->b, r->env->stubs->exit_interp);
}

static uint64_t target_of(const struct rw *r, const struct x86_insn *in)
{
    uint64_t t = rw_pc(r, r->cur) + in->len + in->imm;

    return r->m64 ? t : (uint32_t)t;
}

static uint64_t next_of(const struct rw *r, const struct x86_insn *in)
{
    uint64_t t = rw_pc(r, r->cur) + in->len;

    return r->m64 ? t : (uint32_t)t;
}

bool rw_is_jcc(const struct x86_insn *in)
{
    return in->enc == X86_ENC_LEGACY && !in->opsize_pfx && !in->lock &&
           ((in->map == X86_MAP_0F && (in->opcode & 0xf0) == 0x80) ||
            (in->map == X86_MAP_1 && (in->opcode & 0xf0) == 0x70));
}

static void jcc(struct rw *r, const struct x86_insn *in)
{
    uint64_t t = target_of(r, in);
    unsigned cc = in->opcode & 15, n = r->out->nr_links;
    struct rw_loop l;

    if (r->keeps) {
        rw_keep_jcc(r, in);
        return;
    }
    if (t <= rw_pc(r, r->cur) && !r->polled) /* a loop: an interrupt finds the guest before the jump */
        rw_poll(r);
    r->polled = false;
    rw_link_jmp(r, t, JIT_LINK_JCC, cc);
    if (n < JIT_BLOCK_MAX_LINKS && t == r->env->pc && rw_loop_find(r, r->cur, &l))
        r->out->link[n].mode_or = X86_RWM_LOOP;
}

/* The host joins a comparison and the jump behind it when nothing lies between: the poll of a loop goes before both,
 * and so does what aligns the jump. */
void rw_before_jcc(struct rw *r)
{
    const struct x86_insn *in = &r->in[r->cur], *next = in + 1;

    if (r->cur + 1 >= r->nr || r->pending >= 0 || !(in->row->flags_w & X86_ARITH) || in->row->attr & X86_A_ENDS ||
        rw_is_sys(r, in) || rw_is_string(r, in) || rw_is_flat_op(r, in) || !rw_is_jcc(next))
        return;
    if (in->mem_op < 0 && !rw_is_stack_op(r, in) && !rw_spilled(r, in))
        rw_join(r, r->cur + 1);
    if (next->len + (int64_t)next->imm <= 0) {
        rw_poll(r);
        r->polled = true;
    }
}

/* JRCXZ/JECXZ and LOOP; RCX stands for itself. */
static void loop(struct rw *r, const struct x86_insn *in)
{
    uint8_t *zero;

    if (in->opcode == 0xe2) {
        if (in->adsz == 8)
            jit_lea(r->b, JR_RCX, JIT_BASE(JR_RCX, -1));
        else
            jit_lea32(r->b, JR_RCX, JIT_BASE(JR_RCX, -1));
    }
    if (in->adsz == 4)
        jit_8(r->b, 0x67);
    zero = jit_jrcxz_fwd(r->b);
    if (in->opcode == 0xe2) {
        rw_link_jmp(r, target_of(r, in), JIT_LINK_JMP, 0);
        jit_patch8(r->b, zero);
    } else {
        uint8_t *over;

        over = jit_jmp_fwd(r->b);
        jit_patch8(r->b, zero);
        rw_link_jmp(r, target_of(r, in), JIT_LINK_JMP, 0);
        jit_patch32(r->b, over);
    }
}

/* Guest return address onto the guest stack. T0 and T1 are lost. */
static void push_return(struct rw *r, uint64_t ret)
{
    unsigned s = r->m64 ? 8 : 4;
    bool free0;
    struct jit_mem m = rw_stack(r, HSP, -(int32_t)s, s, true, &free0);

    if (!r->m64 || (int64_t)ret == (int32_t)ret) {
        jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0xc7, 0, m, 4);
        jit_32(r->b, (uint32_t)ret);
    } else {
        jit_mov_ri(r->b, T0, ret);
        jit_store(r->b, m, T0);
    }
    if (r->m64)
        jit_lea(r->b, HSP, JIT_BASE(HSP, -8));
    else
        jit_lea32(r->b, HSP, JIT_BASE(HSP, -4));
}

struct jit_mem rw_t0_less(struct rw *r, uint64_t v)
{
    if ((int64_t)-v == (int32_t)-v)
        return JIT_BASE(T0, (int32_t)-v);
    jit_mov_ri(r->b, JR_RCX, -v);
    return JIT_SUM(T0, JR_RCX);
}

uint8_t *rw_unless_zero(struct rw *r, struct jit_mem sum)
{
    uint8_t *zero, *miss;

    if (r->env->loop && sum.disp != INT32_MAX) {
        sum.disp++;
        jit_lea(r->b, JR_RCX, sum);
        return jit_loop_fwd(r->b);
    }
    jit_lea(r->b, JR_RCX, sum);
    zero = jit_jrcxz_fwd(r->b);
    miss = jit_jmp8_fwd(r->b);
    jit_patch8(r->b, zero);
    return miss;
}

void rw_hide_jmp(struct rw *r)
{
    jit_8(r->b, 0x0f); /* nop [rcx + rbp*8 + disp32], of which the last five bytes are a JMP */
    jit_8(r->b, 0x1f);
    jit_8(r->b, 0x84);
}

/* One jump to ret_miss serves those that reach it. */
static void away(struct rw *r, uint8_t *miss)
{
    struct jit_buf *b = r->b;

    if (r->away && miss + 1 - r->away <= 128) {
        *miss = (uint8_t)(r->away - (miss + 1));
        return;
    }
    rw_hide_jmp(r);
    r->away = b->p;
    jit_patch8(b, miss);
    jit_jmp(b, r->env->stubs->ret_miss);
}

bool rw_is_call(const struct rw *r, const struct x86_insn *in)
{
    return r->env->calls && in->map == X86_MAP_1 && in->enc == X86_ENC_LEGACY && !in->lock && !in->opsize_pfx &&
           ((in->opcode == 0xe8 && in->imm) || (in->opcode == 0xff && (in->modrm >> 3 & 7) == 2));
}

bool rw_calls_on(const struct rw *r, const struct x86_insn *in)
{
    return rw_is_call(r, in) && r->cur + 1 < r->nr;
}

void rw_continuation(struct rw *r, uint64_t ret, bool go_on)
{
    struct jit_buf *b = r->b;
    uint8_t *miss = rw_unless_zero(r, rw_t0_less(r, ret));

    jit_mov_rr(b, JR_RCX, T1);
    if (!go_on) {
        rw_link_jmp(r, ret, JIT_LINK_CONT, 0);
        jit_patch8(b, miss);
        jit_jmp(b, r->env->stubs->ret_miss);
        return;
    }
    rw_span_forget(r); /* other code has used the slots and the context's places since */
    r->wide = false;   /* or has left, and come back here with them away */
    away(r, miss);
    if (miss[-1] == 0xe2) /* LOOP: a JMP */
        rw_goes_on(r, ret, miss - 1, 0xeb);
    else
        rw_goes_on(r, ret, miss - 2, 0); /* JRCXZ skips nothing */
}

static void ret(struct rw *r, const struct x86_insn *in)
{
    int32_t s = (r->m64 ? 8 : 4) + (in->opcode == 0xc2 ? (int32_t)(in->imm & 0xffff) : 0);
    struct jit_mem m;
    bool free0;

    if (r->m64 && in->opcode == 0xc3 && !rw_span_find(r, HSP, 0, 8, false)) {
        jit_mov_ri(r->b, T0, rw_pc(r, r->cur));
        jit_jmp(r->b, r->env->stubs->ret);
        return;
    }
    m = rw_stack(r, HSP, 0, r->m64 ? 8 : 4, false, &free0);
    jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0x8b, T0, m, 0);
    if (r->m64)
        jit_lea(r->b, HSP, JIT_BASE(HSP, s));
    else
        jit_lea32(r->b, HSP, JIT_BASE(HSP, s));
    jit_mov_ri(r->b, T1, rw_pc(r, r->cur));
    jit_store(r->b, JIT_GS(X86_CTX(branch_pc)), T1);
    jit_mov_rr(r->b, T1, JR_RCX);
    jit_8(r->b, 0xc3);
}

/* T0 = target of an indirect jump or call. False: a form left to the interpreter. */
static bool load_target(struct rw *r, const struct x86_insn *in)
{
    if ((in->modrm >> 6) == 3) {
        unsigned h = rw_map((in->modrm & 7u) | (in->rex & 1 ? 8u : 0u));

        if (h & SPILLED)
            rw_load_home(r, T0, h);
        else if (r->m64)
            jit_mov_rr(r->b, T0, h);
        else
            jit_mov_rr32(r->b, T0, h);
    } else {
        bool free0;
        struct jit_mem m = rw_access(r, in, r->m64 ? 8 : 4, false, &free0);

        rw_op_mem(r, r->m64 ? JIT_W : 0, 0x8b, T0, m, 0);
    }
    return true;
}

uint8_t *rw_look_up(struct rw *r)
{
    const struct jit_mem times9 = {T0, T0, 8, false, 0};
    struct jit_buf *b = r->b;
    uint8_t *miss;

    jit_mov_rr(b, T1, JR_RCX);
    jit_lea(b, JR_RCX, times9);
    jit_pext_mem(b, JR_RCX, JR_RCX, JIT_GS(X86_CTX(jc_mask)));
    jit_load(b, JR_RCX, JIT_GSX(JR_RCX, 8, X86_CTX(jc_neg)));
    miss = rw_unless_zero(r, JIT_SUM(JR_RCX, T0));
    jit_mov_rr(b, JR_RCX, T1);
    jit_lea(b, T1, times9);
    jit_pext_mem(b, T1, T1, JIT_GS(X86_CTX(jc_mask_hit))); /* the other one may have become 0 since */
    return miss;
}

static void jump_ind(struct rw *r, const struct x86_insn *in)
{
    uint8_t *miss;

    load_target(r, in);
    miss = rw_look_up(r);
    jit_jmp_mem(r->b, JIT_GSX(T1, 8, X86_CTX(jc_host)));
    jit_patch8(r->b, miss);
    jit_mov_rr(r->b, JR_RCX, T1);
    jit_mov_ri(r->b, T1, rw_pc(r, r->cur));
    jit_jmp(r->b, r->env->stubs->exit_dispatch);
}

static void call_ind(struct rw *r, const struct x86_insn *in, bool go_on)
{
    struct cold *c = rw_new_cold(r, COLD_CALL);
    uint8_t *miss;

    load_target(r, in);
    miss = rw_look_up(r); /* first: a call to an address that is none stores nothing */
    jit_load(r->b, T1, JIT_GSX(T1, 8, X86_CTX(jc_host)));
    jit_store(r->b, JIT_GS(X86_CTX(tmp)), T1);
    jit_store(r->b, JIT_GS(X86_CTX(tmp2)), T0);
    rw_hide_jmp(r);
    jit_patch8(r->b, miss);
    c->from = jit_jmp_fwd(r->b);
    c->info = r->cur;
    r->t1 = 0;
    push_return(r, next_of(r, in));
    jit_load(r->b, T0, JIT_GS(X86_CTX(tmp2))); /* it may be exit_dispatch: x86_jc_stop came behind the comparison */
    jit_op_mem(r->b, 0, 0xff, 2, JIT_GS(X86_CTX(tmp)), 0);
    rw_continuation(r, next_of(r, in), go_on);
}

static void call(struct rw *r, const struct x86_insn *in, bool go_on)
{
    bool back = target_of(r, in) <= rw_pc(r, r->cur);
    uint32_t poll = back ? rw_poll(r) : 0; /* before anything is pushed: the call is started again */
    unsigned n;

    push_return(r, next_of(r, in));
    r->moved -= 8;
    rw_pending_flags(r);
    if (!in->imm) { /* call next; pop: how code finds itself. Nothing returns from it. */
        rw_link_jmp(r, next_of(r, in), JIT_LINK_CONT, 0);
        return;
    }
    n = r->out->nr_links;
    rw_link_jmp(r, target_of(r, in), JIT_LINK_CALL, 0);
    if (n < JIT_BLOCK_MAX_LINKS) {
        r->out->link[n].poll = poll;
        r->out->link[n].poll_pc = rw_pc(r, r->cur);
    }
    rw_continuation(r, next_of(r, in), go_on);
}

bool rw_flow(struct rw *r, const struct x86_insn *in, bool *go_on)
{
    unsigned reg = in->modrm >> 3 & 7;

    *go_on = false;
    if (in->enc != X86_ENC_LEGACY || in->lock || (in->opsize_pfx && !(r->flat && r->m64 && in->opsz == 8)))
        return false;
    if (r->flat && rw_is_flat_op(r, in)) {
        *go_on = rw_flat_op(r, in);
        return true;
    }
    if (r->flat && rw_flat_flow(r, in, go_on))
        return true;
    if (in->map == X86_MAP_0F && (in->opcode & 0xf0) == 0x80) {
        jcc(r, in);
        *go_on = true;
        return true;
    }
    if (in->map != X86_MAP_1)
        return false;
    switch (in->opcode) {
    case 0x70 ... 0x7f:
        jcc(r, in);
        *go_on = true;
        return true;
    case 0xe2:
    case 0xe3:
        if (in->adsz == 2)
            return false;
        loop(r, in);
        *go_on = true;
        return true;
    case 0xe9:
    case 0xeb:
        rw_link_jmp(r, target_of(r, in), JIT_LINK_JMP, 0);
        return true;
    case 0xe8:
        *go_on = rw_calls_on(r, in);
        call(r, in, *go_on);
        return true;
    case 0xc2:
    case 0xc3:
        ret(r, in);
        return true;
    case 0xff:
        if (((in->modrm >> 6) != 3 && !rw_mem_ok(r, in)) || (reg != 2 && reg != 4))
            return false;
        *go_on = rw_calls_on(r, in);
        if (reg == 2)
            call_ind(r, in, *go_on);
        else
            jump_ind(r, in);
        return true;
    default:
        return false;
    }
}
