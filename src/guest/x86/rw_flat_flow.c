/* Rewriter, user mode: calls, behind which the block goes on, returns and indirect jumps. */
#include "guest/x86/rw_int.h"

static int32_t word(const struct rw *r)
{
    return r->m64 ? 8 : 4;
}

void rw_sp_add(struct rw *r, int32_t by)
{
    if (r->flat && r->m64)
        r->sp += by;
    else if (r->m64)
        jit_lea(r->b, HSP, JIT_BASE(HSP, by));
    else
        jit_lea32(r->b, HSP, JIT_BASE(HSP, by));
}

static void move_now(struct rw *r)
{
    if (r->sp)
        jit_lea(r->b, HSP, JIT_BASE(HSP, r->sp));
    r->sp = 0;
}

/* Its code asks rw_stack where RSP points. */
static bool of_run(const struct x86_insn *in)
{
    if (in->map != X86_MAP_1 || in->enc != X86_ENC_LEGACY || in->opsize_pfx || in->lock)
        return false;
    switch (in->opcode) {
    case 0x50 ... 0x5f: /* not RSP */
        return (in->opcode & 7) != X86_RSP || in->rex & 1;
    case 0x68:
    case 0x6a:
    case 0xc2:
    case 0xc3:
    case 0xe8:
        return true;
    default:
        return false;
    }
}

void rw_sp_mark(struct rw *r)
{
    uint16_t *at = &r->out->guest_off[r->cur];

    *at = jit_marked(*at, r->keeps ? X86_RW_KEEPS : x86_rw_mark_of(r->sp));
}

void rw_sp_settle(struct rw *r)
{
    unsigned i = r->cur + 1;

    if (!r->sp || rw_of_leaf(r, i))
        return;
    while (i < r->nr && i < r->cur + 3 && r->in[i].found & RW_AS_IT_IS)
        i++;
    if (i >= r->nr || !of_run(&r->in[i]) || x86_rw_sp_of(x86_rw_mark_of(r->sp)) != r->sp)
        move_now(r);
}

/* Stores the return address; scratch is T0 or T1. */
static void store_return(struct rw *r, uint64_t ret, unsigned scratch)
{
    int32_t s = word(r);

    if (!r->m64 || (int64_t)ret == (int32_t)ret) {
        jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0xc7, 0, JIT_BASE(HSP, r->sp - s), 4);
        jit_32(r->b, (uint32_t)ret);
    } else {
        jit_mov_ri(r->b, scratch, ret);
        jit_store(r->b, JIT_BASE(HSP, r->sp - s), scratch);
    }
}

static void push_return(struct rw *r, uint64_t ret, unsigned scratch)
{
    store_return(r, ret, scratch);
    rw_sp_add(r, -word(r));
    move_now(r);
}

static uint64_t next_of(const struct rw *r, const struct x86_insn *in)
{
    uint64_t t = rw_pc(r, r->cur) + in->len;

    return r->m64 ? t : (uint32_t)t;
}

/* A call of a leaf, which follows: the address is stored, and RSP moves when it has returned. */
static void call_leaf(struct rw *r, const struct x86_insn *in)
{
    store_return(r, next_of(r, in), T0);
    rw_sp_add(r, -word(r));
    if (x86_rw_sp_of(x86_rw_mark_of(r->sp)) != r->sp)
        move_now(r);
}

/* T0 = target of FF /2 or /4. */
static void load_target(struct rw *r, const struct x86_insn *in)
{
    struct jit_mem m;
    bool free0;

    if ((in->modrm >> 6) == 3) {
        unsigned h = rw_map((in->modrm & 7u) | (in->rex & 1 ? 8u : 0u));

        if (h & SPILLED)
            rw_load_home(r, T0, h);
        else if (r->m64)
            jit_mov_rr(r->b, T0, h);
        else
            jit_mov_rr32(r->b, T0, h);
        return;
    }
    m = rw_access(r, in, (unsigned)word(r), false, &free0);
    rw_op_mem(r, r->m64 ? JIT_W : 0, 0x8b, T0, m, 0);
}

void rw_jump_t0(struct rw *r)
{
    uint8_t *miss = rw_look_up(r);

    jit_jmp_mem(r->b, JIT_GSX(T1, 8, X86_CTX(jc_host)));
    jit_patch8(r->b, miss);
    jit_mov_rr(r->b, JR_RCX, T1);
    jit_jmp(r->b, r->env->stubs->exit_dispatch);
}

/* Falls through where T0 is `to`. T1 is lost, but where it is not: RCX. */
static struct cold *only(struct rw *r, uint64_t to, enum cold_kind k)
{
    struct cold *c = rw_new_cold(r, k);
    uint8_t *miss;

    jit_mov_rr(r->b, T1, JR_RCX);
    miss = rw_unless_zero(r, rw_t0_less(r, to));
    jit_mov_rr(r->b, JR_RCX, T1);
    rw_hide_jmp(r);
    jit_patch8(r->b, miss);
    c->from = jit_jmp_fwd(r->b);
    c->info = c->link = r->cur;
    return c;
}

static void count(struct rw *r)
{
    jit_mov_rr(r->b, T1, JR_RCX);
    rw_count_way(r, r->cur, r->cur);
}

/* Those that jump by [rip + x] go to one place for long, but for the first time: calls between libraries. */
static void jump_ind(struct rw *r, const struct x86_insn *in)
{
    bool counted;
    uint64_t to = rw_way(r, rw_pc(r, r->cur), &counted);

    load_target(r, in);
    if (to) {
        only(r, to, COLD_JUMP);
        rw_link_jmp(r, to, JIT_LINK_CONT, 0);
        return;
    }
    if (counted && in->base == X86_REG_RIP)
        count(r);
    rw_jump_t0(r);
}

/* A call by pointer that most often goes `to`. */
static void call_known(struct rw *r, const struct x86_insn *in, uint64_t to, bool go_on)
{
    uint64_t ret = next_of(r, in);
    struct cold *c;

    load_target(r, in);
    store_return(r, ret, T1); /* here, where a fault finds the call */
    c = only(r, to, COLD_OTHER);
    if (rw_of_leaf(r, r->cur + 1)) {
        r->sp -= 8;
        return;
    }
    c->write = true;
    jit_lea(r->b, HSP, JIT_BASE(HSP, -8));
    rw_link_jmp(r, to, JIT_LINK_CALL, 0);
    c->op = r->b->p;
    jit_mov_rr(r->b, T1, JR_RCX);
    rw_continuation(r, ret, go_on);
}

static void call_ind(struct rw *r, const struct x86_insn *in, bool counted, bool go_on)
{
    uint64_t ret = next_of(r, in);
    struct cold *c = rw_new_cold(r, COLD_CALL);
    uint8_t *miss;

    load_target(r, in);
    if (counted)
        count(r);
    push_return(r, ret, T1);
    miss = rw_look_up(r);
    jit_op_mem(r->b, 0, 0xff, 2, JIT_GSX(T1, 8, X86_CTX(jc_host)), 0);
    rw_hide_jmp(r);
    jit_patch8(r->b, miss);
    c->from = jit_jmp_fwd(r->b);
    c->op = jit_here(r->b);
    jit_mov_rr(r->b, T1, JR_RCX);
    rw_continuation(r, ret, go_on);
}

static void call_near(struct rw *r, const struct x86_insn *in, bool go_on)
{
    uint64_t ret = next_of(r, in), to = ret + in->imm;

    push_return(r, ret, T0);
    if (!in->imm) { /* call next; pop: how 32-bit code finds itself. Nothing returns from it. */
        rw_link_jmp(r, ret, JIT_LINK_CONT, 0);
        return;
    }
    rw_link_jmp(r, r->m64 ? to : (uint32_t)to, JIT_LINK_CALL, 0);
    jit_mov_rr(r->b, T1, JR_RCX);
    rw_continuation(r, ret, go_on);
}

static void ret_near(struct rw *r, const struct x86_insn *in)
{
    jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0x8b, T0, JIT_BASE(HSP, r->sp), 0);
    rw_sp_add(r, word(r) + (in->opcode == 0xc2 ? (int32_t)(in->imm & 0xffff) : 0));
    move_now(r);
    jit_8(r->b, 0xc3);
}

bool rw_flat_flow(struct rw *r, const struct x86_insn *in, bool *go_on)
{
    unsigned reg = in->modrm >> 3 & 7;
    bool more = rw_calls_on(r, in), counted;
    uint64_t to;

    if (rw_of_leaf(r, r->cur)) {
        rw_leaf_flow(r, in);
        *go_on = true;
        return true;
    }
    if (in->map != X86_MAP_1)
        return false;
    switch (in->opcode) {
    case 0xe8:
        *go_on = more;
        if (rw_of_leaf(r, r->cur + 1))
            call_leaf(r, in);
        else
            call_near(r, in, more);
        return true;
    case 0xc2:
    case 0xc3:
        ret_near(r, in);
        return true;
    case 0xff:
        if (((in->modrm >> 6) != 3 && !rw_mem_ok(r, in)) || (reg != 2 && reg != 4))
            return false;
        *go_on = more;
        to = reg == 2 ? rw_way(r, rw_pc(r, r->cur), &counted) : 0;
        if (to)
            call_known(r, in, to, more);
        else if (reg == 2)
            call_ind(r, in, counted, more);
        else
            jump_ind(r, in);
        return true;
    default:
        return false;
    }
}
