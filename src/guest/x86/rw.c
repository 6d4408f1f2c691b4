/* Rewriter: one block from decoding to host code. */
#include "guest/x86/rw_int.h"

static bool ends_block(const struct x86_insn *in)
{
    return in->row->attr & X86_A_ENDS;
}

/* Jcc, LOOP and JRCXZ: the block goes on behind them. */
static bool is_cond(const struct x86_insn *in)
{
    return (in->map == X86_MAP_0F && (in->opcode & 0xf0) == 0x80 && in->enc == X86_ENC_LEGACY) ||
           (in->map == X86_MAP_1 && ((in->opcode & 0xf0) == 0x70 || in->opcode == 0xe2 || in->opcode == 0xe3));
}

bool rw_plain(const struct rw *r, const struct x86_insn *in)
{
    return !ends_block(in) && (rw_is_stack_op(r, in) || rw_can_copy(r, in) || rw_is_flat_op(r, in));
}

static bool rewritable(const struct rw *r, const struct x86_insn *in)
{
    return ends_block(in) || rw_is_sys(r, in) || rw_plain(r, in);
}

/* Decodes until the block must end. The last instruction may be one that is left to the interpreter. */
static void decode(struct rw *r)
{
    const struct x86_rw_env *e = r->env;
    unsigned max = e->mode & X86_RWM_ONE ? 1 : JIT_BLOCK_MAX_INSN;
    size_t at = 0;

    while (r->nr < max && at < e->avail) {
        struct x86_insn *in = &r->in[r->nr];

        if (x86_decode(e->code + at, e->avail - at, r->m64 ? X86_MODE_64 : X86_MODE_32, in) != X86_DECODE_OK)
            break; /* invalid, or it continues on the next page */
        r->out->guest_off[r->nr++] = (uint16_t)at;
        at += in->len;
        if (!rewritable(r, in) || (ends_block(in) && !is_cond(in)))
            break;
    }
    r->out->guest_off[r->nr] = (uint16_t)at;
    r->out->guest_len = (uint32_t)at;
}

/* Which arithmetic flags matter before each instruction. All do at the end and wherever the block may be left for good.
 */
static void liveness(struct rw *r)
{
    uint16_t live = X86_ARITH;

    for (unsigned i = r->nr; i-- > 0;) {
        const struct x86_insn *in = &r->in[i];

        if (ends_block(in) || !rewritable(r, in) || rw_is_sys(r, in) || (i && rw_is_sti(&r->in[i - 1])))
            live = X86_ARITH; /* the block may be left here */
        r->live_after[i] = live;
        live = (uint16_t)((live & ~in->row->flags_w) | in->row->flags_r) & X86_ARITH;
        /* An access that writes flags itself is checked before it: what is live then is what it reads. A conditional
         * writer (shift by CL) lists the flags it may leave alone in flags_r. */
        r->live[i] = live;
    }
}

static void guard(struct rw *r)
{
    const struct x86_rw_env *e = r->env;
    unsigned h = (unsigned)(e->pc >> 12) % X86_ISLOTS;
    uint8_t *ok;

    jit_mov_rr(r->b, T1, JR_RCX);
    jit_load(r->b, JR_RCX, JIT_GS(X86_CTX(islot) + 8 * (int)h));
    jit_lea(r->b, JR_RCX, JIT_BASE(JR_RCX, (int32_t)e->page_id));
    ok = jit_jrcxz_fwd(r->b);
    jit_mov_rr(r->b, JR_RCX, T1);
    jit_mov_ri(r->b, T0, e->pc);
    jit_jmp(r->b, e->stubs->exit_dispatch);
    jit_patch8(r->b, ok);
    jit_mov_rr(r->b, JR_RCX, T1);
}

/* True when the block goes on after this instruction. */
static bool emit_one(struct rw *r, const struct x86_insn *in)
{
    bool go_on = true;

    if (ends_block(in)) {
        if (!rw_flow(r, in, &go_on)) {
            rw_exit_interp(r, rw_pc(r, r->cur));
            go_on = false;
        }
        return go_on;
    }
    if (rw_is_sys(r, in) && rw_sys(r, in))
        return true;
    if (rw_is_flat_op(r, in))
        return rw_flat_op(r, in);
    if (rw_is_stack_op(r, in))
        return rw_stack_op(r, in);
    if (rw_can_copy(r, in))
        return rw_copy(r, in);
    rw_exit_interp(r, rw_pc(r, r->cur));
    return false;
}

static bool emit_block(struct rw *r)
{
    bool go_on = true, ends;
    unsigned n;

    if (!r->flat) {
        guard(r);
        r->out->entry = (uint32_t)(r->b->p - r->b->start);
    }
    for (r->cur = 0; r->cur < r->nr && go_on; r->cur++) {
        r->out->host_off[r->cur] = (uint16_t)(r->b->p - r->b->start);
        n = r->sti_at < 0 ? rw_stack_run(r, &ends) : 0;
        if (n) {
            r->cur += n - 1;
            go_on = !ends;
        } else {
            go_on = emit_one(r, &r->in[r->cur]);
        }
        if (r->sti_at >= 0 && (int)r->cur == r->sti_at + 1) {
            r->sti_at = -1;
            rw_check_pins(r, rw_pc(r, r->cur + 1));
        }
    }
    r->out->nr_insn = r->cur;
    r->out->host_off[r->cur] = (uint16_t)(r->b->p - r->b->start);
    if (go_on) {
        uint64_t next = rw_pc(r, r->nr);

        r->cur = r->nr - 1;
        rw_link_jmp(r, r->m64 ? next : (uint32_t)next, JIT_LINK_CONT, 0);
    }
    rw_cold(r);
    while (r->b->p - r->b->start < JIT_LEAVE_ROOM)
        jit_8(r->b, 0x90);
    return jit_ok(r->b) && !r->failed;
}

bool x86_rw_block(struct jit_buf *b, const struct x86_rw_env *env, struct jit_block_out *out)
{
    struct x86_insn in[JIT_BLOCK_MAX_INSN + 1];
    struct rw *r = xnew(struct rw);
    bool ok;

    *out = (struct jit_block_out){0};
    *r = (struct rw){.b = b,
                     .env = env,
                     .out = out,
                     .in = in,
                     .m64 = env->mode & X86_RWM_64,
                     .flat = env->mode & X86_RWM_FLAT,
                     .stack_rslot = -1,
                     .stack_wslot = -1,
                     .sti_at = -1};
    decode(r);
    ok = r->nr; /* a first instruction left to the interpreter makes a block that just leaves, so that it can be linked
                   to */
    if (ok) {
        liveness(r);
        ok = emit_block(r);
        while (!ok && r->nr > 1 && jit_ok(b)) { /* too many links or accesses: half the block */
            unsigned nr = r->nr / 2;
            struct jit_block_out keep = *out;

            b->p = b->start;
            *r = (struct rw){.b = b,
                             .env = env,
                             .out = out,
                             .in = in,
                             .m64 = r->m64,
                             .flat = r->flat,
                             .nr = nr,
                             .stack_rslot = -1,
                             .stack_wslot = -1,
                             .sti_at = -1};
            *out = (struct jit_block_out){0};
            memcpy(out->guest_off, keep.guest_off, sizeof out->guest_off);
            out->guest_len = out->guest_off[nr];
            liveness(r);
            ok = emit_block(r);
        }
        out->len = (uint32_t)(b->p - b->start);
    }
    free(r);
    return ok;
}
