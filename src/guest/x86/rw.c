/* Rewriter: one block from decoding to host code. */
#include "guest/x86/rw_int.h"

/* Jcc, LOOP and JRCXZ: the block goes on behind them. */
static bool is_cond(const struct x86_insn *in)
{
    return (in->map == X86_MAP_0F && (in->opcode & 0xf0) == 0x80 && in->enc == X86_ENC_LEGACY) ||
           (in->map == X86_MAP_1 && ((in->opcode & 0xf0) == 0x70 || in->opcode == 0xe2 || in->opcode == 0xe3));
}

/* What it is, for the rest of the translation. */
void rw_classify(const struct rw *r, struct x86_insn *in, struct rw_gprs *g)
{
    uint32_t found = rw_find_sys(r, in) ? RW_SYS : 0;

    if (in->row->attr & X86_A_ENDS && !found)
        found = RW_ENDS | (is_cond(in) ? RW_COND : 0);
    else if (rw_find_can_copy(r, in, g))
        found |= RW_CAN_COPY;
    if (rw_find_stack_op(r, in))
        found |= RW_STACK_OP;
    if (rw_find_string(r, in))
        found |= RW_STRING;
    if (r->flat && rw_find_flat_op(r, in))
        found |= RW_FLAT_OP;
    if (found == RW_CAN_COPY && rw_find_as_it_is(r, in, g))
        found |= RW_AS_IT_IS;
    in->found = found;
}

static bool rewritable(const struct x86_insn *in)
{
    return in->found & (RW_ENDS | RW_SYS | RW_PLAIN);
}

/* Where conditional jumps of the block lead, ahead of it: most often where two paths meet. */
struct joins {
    uint64_t at[8];
    unsigned nr;
};

static void note_join(struct rw *r, struct joins *j, const struct x86_insn *in, size_t end)
{
    if (in->found & RW_COND && (int64_t)in->imm > 0)
        j->at[j->nr++ % ARRAY_LEN(j->at)] = r->env->pc + end + in->imm;
}

static bool is_join(const struct joins *j, uint64_t pc)
{
    for (unsigned i = 0; i < min_u64(j->nr, ARRAY_LEN(j->at)); i++)
        if (j->at[i] == pc)
            return true;
    return false;
}

/* Decodes until the block must end. The last instruction may be one that is left to the interpreter. What follows a
 * join is a block of its own, which both paths share: their code would be twice as much. Where speed counts more, the
 * block goes on. */
static void decode(struct rw *r)
{
    const struct x86_rw_env *e = r->env;
    unsigned max = e->mode & X86_RWM_ONE || e->tail_id ? 1 : JIT_BLOCK_MAX_INSN;
    struct joins joins = {.nr = 0};
    size_t at = 0;

    while (r->nr < max && at < e->avail && (e->tier2 || !is_join(&joins, e->pc + at))) {
        struct x86_insn *in = &r->in[r->nr];

        if (x86_decode(e->code + at, e->avail - at, r->m64 ? X86_MODE_64 : X86_MODE_32, in) != X86_DECODE_OK)
            break; /* invalid, or it continues on the next page */
        rw_classify(r, in, &r->gprs[r->nr]);
        r->out->guest_off[r->nr++] = (uint16_t)at;
        at += in->len;
        if (!rewritable(in) || ((in->found & (RW_ENDS | RW_COND)) == RW_ENDS && !rw_is_call(r, in)))
            break;
        if (max > 1)
            rw_take_leaf(r);
        note_join(r, &joins, in, at);
    }
    r->out->guest_off[r->nr] = (uint16_t)at;
    r->out->guest_len = (uint32_t)at;
}

/* Remembers that the code depends on bytes [first, last] of the page beyond its own. */
void rw_note_peek(struct rw *r, unsigned first, unsigned last)
{
    struct jit_block_out *o = r->out;

    if (!o->peek_last) {
        o->peek_first = (uint16_t)first;
        o->peek_last = (uint16_t)last;
        return;
    }
    o->peek_first = (uint16_t)min_u64(o->peek_first, first);
    o->peek_last = (uint16_t)max_u64(o->peek_last, last);
}

/* Flags that the instruction writes for certain: a repeated one may do nothing. */
uint32_t rw_flags_written(const struct x86_insn *in)
{
    return in->rep && in->row->attr & X86_A_STRING ? 0 : in->row->flags_w;
}

/* Which arithmetic flags the code at pc may read before it writes them: a look at a few instructions, as far as they
 * lie in this page. Flags found dead may hold anything there, which only an interrupt's frame can show. */
static uint16_t flags_needed(struct rw *r, uint64_t pc)
{
    const struct x86_rw_env *e = r->env;
    unsigned off = (unsigned)(e->pc & 4095);
    uint16_t needed = 0, open = X86_ARITH;

    if (e->mode & X86_RWM_ONE || e->tail_id)
        return X86_ARITH;
    for (unsigned n = 0; n < 8 && open; n++) {
        unsigned at = (unsigned)(pc & 4095);
        struct x86_insn in;

        if ((pc ^ e->pc) >> 12 ||
            x86_decode(e->code - off + at, 4096 - at, r->m64 ? X86_MODE_64 : X86_MODE_32, &in) != X86_DECODE_OK)
            break;
        rw_note_peek(r, at, at + in.len - 1);
        pc += in.len;
        if (in.map == X86_MAP_1 && in.enc == X86_ENC_LEGACY && (in.opcode == 0xe9 || in.opcode == 0xeb) &&
            !in.opsize_pfx) {
            pc += in.imm;
            continue;
        }
        if (in.row->attr & (X86_A_ENDS | X86_A_SYS))
            break;
        needed |= in.row->flags_r & open;
        open &= (uint16_t) ~(rw_flags_written(&in) | needed);
    }
    return needed | open;
}

/* Flags that matter after the transfer `in`, given those that matter behind it. */
static uint16_t live_at_transfer(struct rw *r, const struct x86_insn *in, uint16_t behind)
{
    uint64_t to = rw_pc(r, r->cur) + in->len + in->imm;

    if (in->enc != X86_ENC_LEGACY || in->opsize_pfx || in->lock)
        return X86_ARITH;
    if (in->found & RW_COND)
        return behind | flags_needed(r, to);
    if (in->map == X86_MAP_1 && (in->opcode == 0xe8 || in->opcode == 0xe9 || in->opcode == 0xeb))
        return flags_needed(r, to);
    return X86_ARITH;
}

/* Executed in place without looking at or changing arithmetic flags. */
static bool keeps_flags(const struct rw *r, const struct x86_insn *in)
{
    return rw_is_sys(r, in) && !((in->row->flags_r | in->row->flags_w) & X86_ARITH);
}

/* May what follows it run without another transfer? */
static bool goes_on(const struct x86_insn *in)
{
    return rewritable(in) && (in->found & (RW_ENDS | RW_COND)) != RW_ENDS;
}

/* Which arithmetic flags matter before each instruction. All do wherever it is not known where the code goes on. */
static void liveness(struct rw *r)
{
    uint16_t always = r->env->mode & X86_RWM_FLAGS ? X86_ARITH : 0, live = X86_ARITH;

    if (goes_on(&r->in[r->nr - 1]))
        live = flags_needed(r, rw_pc(r, r->nr));
    for (unsigned i = r->nr; i-- > 0;) {
        const struct x86_insn *in = &r->in[i];

        r->cur = i;
        if (in->found & RW_ENDS)
            live = live_at_transfer(r, in, live);
        else if (!rewritable(in) || (rw_is_sys(r, in) && !keeps_flags(r, in)))
            live = X86_ARITH; /* the block may be left here */
        r->live_after[i] = live;
        live = (uint16_t)((live & ~rw_flags_written(in)) | in->row->flags_r | always) & X86_ARITH;
        /* An access that writes flags itself is checked before it: what is live then is what it reads. A conditional
         * writer (shift by CL) lists the flags it may leave alone in flags_r. */
        r->live[i] = live;
    }
    r->cur = 0;
}

static void guard(struct rw *r, uint64_t page, uint64_t id)
{
    unsigned h = (unsigned)page % X86_ISLOTS;
    struct cold *c = rw_new_cold(r, COLD_GUARD);
    int32_t at = X86_CTX(islot) + 8 * (int)h;

    if (!rw_flags_live(r)) {
        jit_op_mem(r->b, 0, 0x81, 7, JIT_GS(at), 4); /* cmp dword */
        jit_32(r->b, -(uint32_t)id);
        c->from = jit_jcc_fwd(r->b, JCC_NE);
        return;
    }
    jit_mov_rr(r->b, T1, JR_RCX);
    jit_load(r->b, JR_RCX, JIT_GS(at));
    c->from = rw_leave_unless_zero(r, JIT_BASE(JR_RCX, (int32_t)id), false);
    c->rcx_in_t1 = true;
}

void rw_wide(struct rw *r)
{
    const struct x86_insn *in = &r->in[r->cur];
    struct jit_mem away = JIT_GS(X86_CTX(wide_away));
    struct cold *c;

    if (r->flat || r->wide || !(in->row->attr & X86_A_AVX512) || !rw_can_copy(r, in))
        return;
    r->wide = true;
    c = rw_new_cold(r, COLD_WIDE);
    if (rw_flags_live(r)) {
        r->t1 = 0;
        jit_mov_rr(r->b, T1, JR_RCX);
        jit_load(r->b, JR_RCX, away);
        c->from = rw_leave_unless_zero(r, JIT_BASE(JR_RCX, 0), false);
        c->rcx_in_t1 = true;
    } else {
        jit_op_mem(r->b, 0, 0x83, 7, away, 1); /* cmp dword */
        jit_8(r->b, 0);
        c->from = jit_jcc_fwd(r->b, JCC_NE);
    }
    c->op = jit_here(r->b);
}

static void count(struct rw *r)
{
    jit_load(r->b, T1, JIT_GS(X86_CTX(insns)));
    jit_lea(r->b, T1, JIT_BASE(T1, (int32_t)r->nr));
    jit_store(r->b, JIT_GS(X86_CTX(insns)), T1);
}

/* True when the block goes on after this instruction. */
static bool emit_one(struct rw *r, const struct x86_insn *in)
{
    bool go_on = true;

    if (in->found & RW_AS_IT_IS)
        return rw_copy(r, in);
    if (in->found & RW_ENDS) {
        if (!rw_flow(r, in, &go_on)) {
            rw_exit_interp(r, rw_pc(r, r->cur));
            go_on = false;
        }
        return go_on;
    }
    if (rw_is_sys(r, in)) {
        r->t1 = 0;
        if (rw_sys(r, in))
            return true;
    }
    if (rw_is_flat_op(r, in))
        return rw_flat_op(r, in);
    if (rw_is_stack_op(r, in))
        return rw_stack_op(r, in);
    if (rw_is_string(r, in)) {
        r->t1 = 0;
        rw_string(r, in);
        return true;
    }
    if (rw_can_copy(r, in))
        return rw_copy(r, in);
    rw_exit_interp(r, rw_pc(r, r->cur));
    return false;
}

static void after(struct rw *r, const struct x86_insn *in)
{
    int32_t by;

    rw_span_after(r, in);
    if (r->pending != r->pending_next) {
        r->pending = r->pending_next;
        r->moved = 0;
    } else if (r->pending >= 0 && rw_rsp_change(in, &by)) {
        r->moved += by;
    }
}

static bool emit_block(struct rw *r)
{
    bool go_on = true;
    unsigned n;

    r->pending = -1;
    if (!r->flat) {
        guard(r, r->env->pc >> 12, r->env->page_id);
        r->out->entry = (uint32_t)(r->b->p - r->b->start);
        if (r->env->tail_id)
            guard(r, (r->env->pc >> 12) + 1, r->env->tail_id);
    }
    if (r->env->count)
        count(r);
    if (r->env->mode & X86_RWM_LOOP) {
        rw_loop_block(r);
        rw_cold(r);
        return jit_ok(r->b) && !r->failed;
    }
    if (r->keeps_to)
        rw_keep_begin(r);
    for (r->cur = 0; r->cur < r->nr && go_on; r->cur++) {
        if (r->pending >= 0 && r->cur == r->make_at) {
            rw_join(r, r->cur);
            rw_pending_flags(r);
        }
        r->out->host_off[r->cur] = (uint16_t)(r->b->p - r->b->start);
        rw_wide(r);
        rw_before_jcc(r);
        if (r->flat) { /* nothing is put off or put together there */
            rw_sp_mark(r);
            rw_home_begin(r);
            go_on = emit_one(r, &r->in[r->cur]);
            rw_sp_settle(r);
            continue;
        }
        r->pending_next = r->pending;
        n = rw_stack_run(r);
        if (!n) {
            n = 1;
            if (rw_defer(r))
                ;
            else if (r->pending_next < 0 && rw_pair(r))
                n = 2;
            else
                go_on = emit_one(r, &r->in[r->cur]);
        }
        for (unsigned i = 0; i < n; i++)
            after(r, &r->in[r->cur + i]);
        r->cur += n - 1;
    }
    r->out->nr_insn = r->cur;
    r->out->host_off[r->cur] = (uint16_t)(r->b->p - r->b->start);
    if (go_on) {
        uint64_t next = rw_pc(r, r->nr);

        r->cur = r->nr - 1;
        rw_pending_flags(r);
        rw_link_jmp(r, r->m64 ? next : (uint32_t)next, JIT_LINK_CONT, 0);
    }
    rw_cold(r);
    return jit_ok(r->b) && !r->failed;
}

/* What is known of a block before it is decoded or, once more, before it is emitted. */
static void begin(struct rw *r, struct jit_buf *b, const struct x86_rw_env *env, struct jit_block_out *out)
{
    memset(r, 0, offsetof(struct rw, live));
    r->b = b;
    r->env = env;
    r->out = out;
    r->in = r->insn;
    r->m64 = env->mode & X86_RWM_64;
    r->flat = env->mode & X86_RWM_FLAT;
    memset(out, 0, offsetof(struct jit_block_out, host_off));
}

static void again(struct rw *r, struct jit_buf *b, const struct x86_rw_env *env, struct jit_block_out *out)
{
    b->p = b->start;
    b->nr_rel = 0;
    begin(r, b, env, out);
}

static bool translate(struct rw *r)
{
    if (r->flat)
        rw_keep_find(r);
    else /* user mode checks nothing, so that it never matters */
        liveness(r);
    return emit_block(r);
}

bool x86_rw_block(struct jit_buf *b, const struct x86_rw_env *env, struct jit_block_out *out)
{
    struct rw *r = xmalloc(sizeof *r);
    bool ok;

    begin(r, b, env, out);
    decode(r);
    if (env->mode & X86_RWM_LOOP)
        rw_loop_cut(r);
    ok = r->nr; /* a first instruction left to the interpreter makes a block that just leaves, so that it can be linked
                   to */
    if (ok) {
        ok = translate(r);
        if (!ok && rw_has_leaf(r) && jit_ok(b)) {
            again(r, b, env, out);
            r->no_leaf = true;
            decode(r);
            ok = translate(r);
        }
        /* Too many links or accesses: half the block. */
        while (!ok && r->nr > 1 && jit_ok(b)) {
            unsigned nr = r->nr / 2;

            again(r, b, env, out);
            r->nr = nr;
            for (unsigned i = 0; i < nr; i++) /* it may have been otherwise for a loop */
                rw_classify(r, &r->in[i], &r->gprs[i]);
            out->guest_len = jit_off_of(out->guest_off[nr]);
            ok = translate(r);
        }
        out->len = (uint32_t)(b->p - b->start);
    }
    free(r);
    return ok;
}
