/* Rewriter: small loops of the second tier, their checks taken out (64-bit code, system mode).
 *
 * A block that jumps back to its own beginning has a second form, the variant X86_RWM_LOOP, which its back edge leads
 * to. It holds the instructions from the beginning to that jump, for loops where every access is at [base + index *
 * scale + disp] with registers that a round leaves alone or moves by a constant, and starts with a preheader:
 *
 *   - for each group of accesses that move alike, the TLB is probed for all of them as they are in the next round, and
 *     how many rounds they stay in that page is computed; the addend is put into the context (loop_add);
 *   - the smallest of these numbers, at most ROUNDS, goes to T0, which counts rounds down in the only test left;
 *   - what fails (not in the TLB, over the end of a page, too few rounds) goes on in the block itself, whose checks do
 *     what there is to do, at the access: nothing faults or fills earlier than without this.
 *
 * Why what a check saw stays true while the loop runs without one:
 *   - Only this vCPU drops what it may read or write (INVLPG, CR3, a flush another vCPU asks for by an interrupt, a
 *     change of the memory map, the beginning of dirty logging), outside of translated code, and nothing in the loop
 *     leaves it but for good: no stub is called. Each entry starts with a preheader, which keeps nothing from the last.
 *     So it comes to an interrupt that waits after ROUNDS rounds at most: then comes a poll.
 *   - But when a page becomes code, another vCPU takes the permission to write it away (dbt_page_is_code): it empties
 *     the TLB's entry, then clears loop_go, which loops with stores look at in each round. The preheader sets it, then
 *     (a fence between, where there are other vCPUs) looks into the TLB: one of the two sees the other.
 *   - Code that is written, also code of the loop itself, by another vCPU kills the block: the way back to the
 *     preheader is a link, and leads away then. This vCPU cannot write code here: no such page may be written by the
 *     TLB.
 *
 * The preheader costs as much as some rounds gain. One that has brought few rounds is left out for a while: struct
 * x86_loop counts.
 *
 * Not taken: accesses whose address is computed in another way, or by 32-bit registers; operands in the context (guest
 * R9 to R11) beside or within a memory operand; loops closed by LOOP; loops at whose beginning flags are live. */
#include "guest/x86/ops.h"
#include "guest/x86/rw_int.h"

enum { ROUNDS = 511, FEW = 3, MAX_BYTES = 1024 /* of one group */, MAX_STRIDE = 128, PAGE = 4096 };
enum { AFTER_FAIL = 3, AFTER_FEW = 63, STRIKES = 3 }; /* back edges until the preheader is tried again; few in a row */
enum { PAGES = 24 /* per entry, beyond those at its beginning */, CHANCES = 6 };

static bool is_access(const struct x86_insn *in)
{
    return in->mem_op >= 0 && !(in->row->attr & X86_A_NOP_MEM);
}

static uint64_t jcc_target(const struct rw *r, unsigned i)
{
    return rw_pc(r, i) + r->in[i].len + r->in[i].imm;
}

static bool spilled(unsigned guest)
{
    return guest < 16 && rw_map(guest) & SPILLED;
}

/* Constant change of one 64-bit register by an instruction that does nothing else but flags. */
static bool moves_by(const struct x86_insn *in, unsigned *reg, int64_t *by)
{
    const struct x86_operand *d = &in->ops[0];

    if (in->enc != X86_ENC_LEGACY || !in->nr_ops || d->kind != X86_OP_GPR || d->high8 || d->size != 8)
        return false;
    *reg = d->reg;
    switch (in->op) {
    case X86_I_ADD:
    case X86_I_SUB:
        if (in->ops[1].kind != X86_OP_IMM)
            return false;
        *by = in->op == X86_I_ADD ? (int64_t)in->imm : -(int64_t)in->imm;
        return *by > -PAGE && *by < PAGE;
    case X86_I_INC:
    case X86_I_DEC:
        *by = in->op == X86_I_INC ? 1 : -1;
        return true;
    case X86_I_LEA:
        *by = (int64_t)in->disp;
        return in->adsz == 8 && in->base == d->reg && in->index == X86_NO_REG && *by > -PAGE && *by < PAGE;
    default:
        return false;
    }
}

/* Can it be emitted with T1 for its only scratch register? */
static bool fits(const struct rw *r, const struct x86_insn *in)
{
    if (rw_is_sys(r, in) || rw_is_string(r, in) || rw_is_stack_op(r, in) || in->row->attr & X86_A_ENDS ||
        !rw_can_copy(r, in))
        return false;
    if (in->has_modrm && (in->modrm >> 6) != 3) {
        if (in->map == X86_MAP_0F && in->enc == X86_ENC_LEGACY && (in->opcode & 0xe7) == 0xa3)
            return false; /* BT and its kin, elsewhere than the address says */
        if (!is_access(in) && in->op != X86_I_LEA)
            return true; /* NOP */
        return in->adsz == 8 && (is_access(in) || in->opsz != 2) && !spilled(in->base) && !spilled(in->index) &&
               !rw_spilled(r, in);
    }
    return !is_access(in) && rw_spilled(r, in) <= 1;
}

static bool same_place(const struct rw_group *g, const struct x86_insn *in)
{
    return g->base == in->base && g->index == in->index && (g->index == X86_NO_REG || g->scale == in->scale);
}

/* Adds an access to a group that moves alike, or to a new one. at: relative to the registers as a round begins. */
static bool add_access(struct rw_loop *l, unsigned i, const struct x86_insn *in, int64_t at)
{
    bool write = in->ops[in->mem_op].acc & X86_ACC_W;
    struct rw_group *g;

    for (unsigned n = 0; n < l->nr; n++) {
        int64_t lo = min_i64(l->group[n].lo, at), hi = max_i64(l->group[n].hi, at + in->mem_size);

        g = &l->group[n];
        if (!same_place(g, in) || hi - lo > MAX_BYTES)
            continue;
        g->lo = lo;
        g->hi = hi;
        g->write |= write;
        l->of[i] = (uint8_t)n;
        return true;
    }
    if (l->nr == X86_LOOP_GROUPS)
        return false;
    l->of[i] = (uint8_t)l->nr;
    g = &l->group[l->nr++];
    *g = (struct rw_group){.base = in->base, .index = in->index, .scale = in->scale ? in->scale : 1, .write = write};
    g->lo = at;
    g->hi = at + in->mem_size;
    return true;
}

/* Where an access is, relative to its registers as the round begins: a position in the address space when it has none.
 */
static int64_t place_of(const struct rw *r, unsigned i, const int64_t *moved)
{
    const struct x86_insn *in = &r->in[i];
    int64_t at = (int64_t)in->disp;

    if (in->base == X86_REG_RIP)
        return at + (int64_t)rw_pc(r, i) + in->len;
    if (in->base < 16)
        at += moved[in->base];
    if (in->index < 16)
        at += moved[in->index] * (in->scale ? in->scale : 1);
    return at;
}

/* Checks within the loop lose flags. */
static bool may_check(const struct rw *r, const struct rw_loop *l, unsigned last, unsigned n)
{
    for (unsigned i = 0; i < last; i++)
        if (is_access(&r->in[i]) && l->of[i] == n && r->live[i] & X86_ARITH)
            return false;
    return true;
}

static bool strides(const struct rw *r, unsigned last, struct rw_loop *l, const int64_t *moved, uint32_t other,
                    uint32_t touched)
{
    for (unsigned n = 0; n < l->nr; n++) {
        struct rw_group *g = &l->group[n];
        bool regs = g->base < 16 || g->index < 16;
        int64_t stride;

        g->base_stays = g->base < 16 && !(touched >> g->base & 1);
        g->index_stays = g->index < 16 && !(touched >> g->index & 1);
        if ((g->base < 16 && other >> g->base & 1) || (g->index < 16 && other >> g->index & 1)) {
            if (!may_check(r, l, last, n))
                return false;
            g->checked = g->anyhow = true;
            continue;
        }
        if (regs && (g->lo < -(1 << 30) || g->hi > 1 << 30))
            return false;
        g->by_base = g->base < 16 ? moved[g->base] : 0;
        g->by_index = g->index < 16 ? moved[g->index] * g->scale : 0;
        stride = g->by_base + g->by_index;
        g->checked = (stride > MAX_STRIDE || stride < -MAX_STRIDE) && may_check(r, l, last, n);
        if (!g->checked && (stride >= PAGE || stride <= -PAGE))
            return false;
    }
    return true;
}

/* It has a variant already, which was not worth it. */
static bool out_of_favour(const struct rw *r)
{
    unsigned bit = x86_loop_bit(r->env->place, r->env->code, r->env->avail);

    return !(r->env->mode & X86_RWM_LOOP) && r->env->no_loop[bit / 8] >> (bit & 7) & 1;
}

bool rw_loop_find(const struct rw *r, unsigned last, struct rw_loop *l)
{
    int64_t moved[16] = {0}, by;
    uint32_t other = 0, touched = 0; /* registers written otherwise; written */
    unsigned reg;

    *l = (struct rw_loop){0};
    if (!r->env->tier2 || !r->env->loops || !r->m64 || r->flat || r->env->tail_id ||
        r->env->mode & (X86_RWM_ONE | X86_RWM_SPLIT | X86_RWM_FLAGS) || out_of_favour(r) || r->live[0] & X86_ARITH ||
        last < 1 || !rw_is_jcc(&r->in[last]) || jcc_target(r, last) != r->env->pc)
        return false;
    for (unsigned i = 0; i < last; i++) {
        const struct x86_insn *in = &r->in[i];

        if (rw_is_jcc(in)) {
            if (jcc_target(r, i) <= rw_pc(r, i))
                return false;
            continue;
        }
        if (!fits(r, in))
            return false;
        l->spilled |= rw_spilled(r, in) != 0;
        if (is_access(in)) {
            if (in->seg == X86_FS || in->seg == X86_GS || !add_access(l, i, in, place_of(r, i, moved)))
                return false;
            l->write |= in->ops[in->mem_op].acc & X86_ACC_W;
        }
        touched |= rw_writes(in);
        if (moves_by(in, &reg, &by))
            moved[reg] += by;
        else
            other |= rw_writes(in);
    }
    return strides(r, last, l, moved, other, touched);
}

/* ---- emission ---- */

static struct jit_mem counter(const struct rw *r, unsigned field)
{
    unsigned h = x86_loop_bit(r->env->place, r->env->code, r->env->avail) % X86_LOOPS;

    return JIT_GS(X86_CTX(loop) + (int)(h * sizeof(struct x86_loop) + field));
}
#define COUNTER(r, f) counter(r, offsetof(struct x86_loop, f))

/* op reg32, [m] */
static void op32(struct rw *r, unsigned opcode, unsigned reg, struct jit_mem m)
{
    jit_op_mem(r->b, 0, opcode, reg, m, 0);
}

static void op_imm8(struct rw *r, unsigned digit, struct jit_mem m, unsigned v)
{
    jit_op_mem(r->b, 0, 0x83, digit, m, 1);
    jit_8(r->b, v);
}

/* What loop_add of the group includes besides the addend, so that one register does for it. */
static enum rw_folded folded(const struct rw_group *g)
{
    if (g->base >= 16 && g->index >= 16)
        return RW_ADDRESS;
    if (g->base >= 16 || g->index >= 16)
        return RW_NOTHING;
    return g->base_stays ? RW_BASE : g->index_stays ? RW_INDEX : RW_NOTHING;
}

static struct jit_mem start_of(const struct rw_group *g)
{
    return (struct jit_mem){g->base < 16 ? (uint8_t)rw_map(g->base) : JR_NONE,
                            g->index < 16 ? (uint8_t)rw_map(g->index) : JR_NONE, (uint8_t)g->scale, false,
                            (int32_t)g->lo};
}

/* T0 = offset of the group's next bytes in the page that the TLB has, or something large; T1 = the TLB's entry. */
static void look_up(struct rw *r, const struct rw_group *g, struct jit_mem at)
{
    struct jit_buf *b = r->b;

    if (at.base == JR_NONE && at.index == JR_NONE)
        jit_mov_ri(b, T0, (uint64_t)g->lo);
    else
        jit_lea(b, T0, at);
    x86_rw_tlb_offset(b, T1, T0);
    jit_op_mem(b, JIT_W, 0x03, T0, JIT_GSX(T1, 1, g->write ? X86_CTX(tlb[0].w) : X86_CTX(tlb[0].r)), 0);
}

static struct jit_mem loop_add(unsigned n)
{
    return JIT_GS(X86_CTX(loop_add) + 8 * (int)n);
}

static struct jit_mem loop_neg(unsigned n)
{
    return JIT_GS(X86_CTX(loop_neg) + 8 * (int)n);
}

/* loop_add from T1, the addend. T0 is lost where there are no registers. */
static void fold(struct rw *r, const struct rw_group *g, unsigned n)
{
    struct jit_buf *b = r->b;

    switch (folded(g)) {
    case RW_ADDRESS:
        jit_mov_ri(b, T0, (uint64_t)g->lo);
        jit_lea(b, T1, JIT_SUM(T0, T1));
        break;
    case RW_BASE:
        jit_lea(b, T1, JIT_SUM(rw_map(g->base), T1));
        break;
    case RW_INDEX:
        jit_lea(b, T1, (struct jit_mem){T1, (uint8_t)rw_map(g->index), (uint8_t)g->scale, false, 0});
        break;
    default:
        break;
    }
    jit_store(b, loop_add(n), T1);
}

/* T1 = the TLB's entry: what checks in the loop compare with and add. */
static void remember(struct rw *r, const struct rw_group *g, unsigned n)
{
    jit_load(r->b, T0, JIT_GSX(T1, 1, g->write ? X86_CTX(tlb[0].w) : X86_CTX(tlb[0].r)));
    jit_load(r->b, T1, JIT_GSX(T1, 1, X86_CTX(tlb[0].add)));
    jit_store(r->b, loop_neg(n), T0);
    fold(r, g, n);
}

/* T1 = how many more rounds a group stays in its page when it is at offset T0, which may be less by one. */
static void rounds_of(struct rw *r, const struct rw_group *g, unsigned room)
{
    int64_t stride = g->by_base + g->by_index;
    struct jit_buf *b = r->b;

    if (stride > 0) {
        jit_mov_ri(b, T1, room);
        jit_op_reg(b, 0, 0x29, T0, T1); /* sub */
    } else {
        jit_mov_rr32(b, T1, T0);
        stride = -stride;
    }
    jit_op_reg(b, 0, 0x69, T1, T1); /* imul: divided by the stride, or a little less */
    jit_32(b, (1u << 19) / (uint32_t)stride);
    jit_op_reg(b, 0, 0xc1, 5, T1); /* shr */
    jit_8(b, 19);
}

/* The smallest number of rounds so far: in T1, and in the context. */
static void smallest(struct rw *r, const struct rw_group *g, bool first)
{
    struct jit_buf *b = r->b;

    if (first && g->by_base + g->by_index >= -7 && g->by_base + g->by_index <= 7) {
        jit_mov_ri(b, T0, ROUNDS);
        jit_op_reg(b, 0, 0x3b, T1, T0);
        jit_op_reg(b, 0, 0x0f47, T1, T0); /* cmova */
    } else if (!first) {
        op32(r, 0x3b, T1, COUNTER(r, rounds));
        op32(r, 0x0f47, T1, COUNTER(r, rounds));
    }
    jit_store32(b, COUNTER(r, rounds), T1);
}

/* Looks at the page of one group; *fail: where it leaves, or NULL. */
static void probe(struct rw *r, const struct rw_group *g, unsigned n, uint8_t **fail)
{
    unsigned room = PAGE - (unsigned)(g->hi - g->lo);
    struct jit_buf *b = r->b;

    *fail = NULL;
    if (g->anyhow) {
        jit_mov_ri(b, T0, UINT64_C(1) << 51); /* no page */
        jit_store(b, loop_neg(n), T0);
        return;
    }
    look_up(r, g, start_of(g));
    if (g->checked) { /* whatever is there: the check will see */
        remember(r, g, n);
        return;
    }
    jit_load(b, T1, JIT_GSX(T1, 1, X86_CTX(tlb[0].add)));
    jit_cmp_imm(b, T0, (int32_t)room);
    *fail = jit_jcc_fwd(b, JCC_A);
    fold(r, g, n); /* keeps T0 where there is a stride */
    if (g->by_base + g->by_index)
        rounds_of(r, g, room);
}

/* All groups, those last that say how many rounds there may be: T0 = that number. */
static void probe_all(struct rw *r, const struct rw_loop *l, uint8_t **fail)
{
    bool any = false;

    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < l->nr; i++) {
            const struct rw_group *g = &l->group[i];
            bool counts = !g->checked && (g->by_base + g->by_index) != 0;

            if (counts != pass)
                continue;
            probe(r, g, i, &fail[i]);
            if (counts)
                smallest(r, g, !any);
            any |= counts;
        }
    if (any)
        jit_mov_rr32(r->b, T0, T1);
    else
        jit_mov_ri(r->b, T0, ROUNDS);
}

static void align(struct jit_buf *b)
{
    while ((uintptr_t)jit_here(b) % 32) {
        unsigned left = 32 - (unsigned)((uintptr_t)jit_here(b) % 32);

        if (left >= 8) { /* nop [rax + rax + 0] */
            jit_32(b, 0x00841f0f);
            jit_32(b, 0);
        } else if (left >= 3) {
            jit_8(b, 0x0f);
            jit_8(b, 0x1f);
            jit_8(b, 0x00);
        } else {
            jit_8(b, 0x90);
        }
    }
}

static struct jit_mem operand(const struct x86_insn *in)
{
    return (struct jit_mem){in->base < 16 ? (uint8_t)rw_map(in->base) : JR_NONE,
                            in->index < 16 ? (uint8_t)rw_map(in->index) : JR_NONE, in->scale ? in->scale : 1, false,
                            (int32_t)in->disp};
}

/* The check of one access, with one register. */
static void check_in_loop(struct rw *r, const struct x86_insn *in, unsigned n)
{
    struct rw_loop *l = r->loop;
    struct jit_buf *b = r->b;

    jit_lea(b, T1, operand(in));
    jit_op_mem(b, JIT_W, 0x03, T1, loop_neg(n), 0);
    jit_cmp_imm(b, T1, PAGE - (int)in->mem_size);
    l->cold[l->nr_cold].insn = r->cur;
    l->cold[l->nr_cold].from = jit_jcc_fwd(b, JCC_A);
    l->cold[l->nr_cold++].back = jit_here(b);
    r->t1 = 0;
}

static void leave(struct rw *r, uint64_t to)
{
    jit_store32(r->b, COUNTER(r, rest), T0);
    rw_link_jmp(r, to, JIT_LINK_CONT, 0);
}

/* Counts as an entry that brought nothing. */
static void skip_some(struct rw *r, unsigned n)
{
    jit_store32_imm(r->b, COUNTER(r, skip), n);
    jit_store32_imm(r->b, COUNTER(r, rounds), ROUNDS);
    jit_store32_imm(r->b, COUNTER(r, rest), ROUNDS);
}

/* It was no use: not for a while. */
static void give_up(struct rw *r, unsigned strikes)
{
    skip_some(r, AFTER_FEW);
    jit_store32_imm(r->b, COUNTER(r, strikes), strikes);
    op_imm8(r, 0, COUNTER(r, given_up), 1); /* add */
}

/* The same before the loop: after some times in a row never again. */
static void give_up_before(struct rw *r)
{
    struct jit_buf *b = r->b;
    uint8_t *again;

    give_up(r, STRIKES - 1);
    op_imm8(r, 7, COUNTER(r, given_up), CHANCES); /* cmp */
    again = jit_jcc8_fwd(b, JCC_B);
    jit_store32_imm(b, COUNTER(r, given_up), 0);
    jit_mov_ri(b, T0, r->env->pc);
    jit_jmp(b, r->env->stubs->exit_no_loop);
    jit_patch8(b, again);
}

/* A check of the body has met another page: takes it from the TLB, or leaves the loop before the instruction. */
static void other_page(struct rw *r, unsigned i)
{
    const struct rw_loop *l = r->loop;
    unsigned insn = l->cold[i].insn, n = l->of[insn];
    const struct rw_group *g = &l->group[n];
    const struct x86_insn *in = &r->in[insn];
    struct jit_buf *b = r->b;
    uint8_t *fail, *poor;

    jit_patch32(b, l->cold[i].from);
    op_imm8(r, 5, COUNTER(r, credit), 1); /* sub */
    poor = jit_jcc_fwd(b, JCC_B);
    jit_store(b, JIT_GS(X86_CTX(tmp)), T0);
    look_up(r, g, operand(in));
    jit_cmp_imm(b, T0, PAGE - (int)in->mem_size);
    fail = jit_jcc_fwd(b, JCC_A);
    remember(r, g, n);
    jit_load(b, T0, JIT_GS(X86_CTX(tmp)));
    jit_jmp(b, l->cold[i].back);
    jit_patch32(b, fail);
    jit_load(b, T0, JIT_GS(X86_CTX(tmp)));
    leave(r, rw_pc(r, insn));
    jit_patch32(b, poor);
    give_up(r, STRIKES); /* and the next time */
    rw_link_jmp(r, rw_pc(r, insn), JIT_LINK_CONT, 0);
}

struct jit_mem rw_loop_access(struct rw *r, const struct x86_insn *in)
{
    unsigned n = r->loop->of[r->cur];
    const struct rw_group *g = &r->loop->group[n];
    int32_t at = X86_CTX(loop_add) + 8 * (int)n;
    struct jit_mem m = start_of(g);
    enum rw_folded f = folded(g);

    if (g->checked)
        check_in_loop(r, in, n);
    if (r->t1 != at)
        jit_load(r->b, T1, JIT_GS(at));
    r->t1 = at;
    m.disp = (int32_t)in->disp;
    switch (f) {
    case RW_ADDRESS:
        return JIT_BASE(T1, (int32_t)(place_of(r, r->cur, NULL) - g->lo));
    case RW_BASE:
        m.base = T1;
        return m;
    case RW_INDEX:
        m.index = T1;
        m.scale = 1;
        return m;
    default:
        break;
    }
    if (m.index == JR_NONE) {
        m.index = T1;
        m.scale = 1;
    } else if (m.base == JR_NONE) {
        m.base = T1;
    } else {
        jit_lea(r->b, T1, JIT_SUM(m.base, T1));
        m.base = T1;
        r->t1 = 0;
    }
    return m;
}

/* Ways out of the loop, and what they need. */
struct exits {
    uint8_t *from[JIT_BLOCK_MAX_INSN];
    uint64_t to[JIT_BLOCK_MAX_INSN];
    unsigned nr;
};

static void body(struct rw *r, struct exits *e, uint8_t **out)
{
    const struct rw_loop *l = r->loop;
    bool one = l->nr == 1 && !l->spilled && !l->group[0].checked &&
               (folded(&l->group[0]) != RW_NOTHING || l->group[0].index >= 16 || l->group[0].base >= 16);
    struct jit_buf *b = r->b;
    const uint8_t *head;

    r->t1 = 0;
    if (one) { /* T1 is that of the only group all the time */
        r->t1 = X86_CTX(loop_add);
        jit_load(b, T1, JIT_GS(r->t1));
    }
    align(b);
    head = jit_here(b);
    jit_op_reg(b, 0, 0x83, 5, T0); /* sub */
    jit_8(b, 1);
    out[0] = jit_jcc_fwd(b, JCC_B);
    out[1] = NULL;
    if (l->write) {
        op_imm8(r, 7, JIT_GS(X86_CTX(loop_go)), 0); /* cmp */
        out[1] = jit_jcc_fwd(b, JCC_E);
    }
    for (r->cur = 0; r->cur < r->nr - 1; r->cur++) {
        const struct x86_insn *in = &r->in[r->cur];

        r->out->host_off[r->cur] = (uint16_t)(b->p - b->start);
        if (rw_is_jcc(in)) {
            e->to[e->nr] = jcc_target(r, r->cur);
            e->from[e->nr++] = jit_jcc_fwd(b, in->opcode & 15);
        } else {
            rw_copy(r, in);
        }
    }
    r->out->host_off[r->cur] = (uint16_t)(b->p - b->start);
    jit_jcc(b, r->in[r->cur].opcode & 15, head);
}

/* Is it time to try? Leaves to the places returned in *not when it is not. */
static void judge(struct rw *r, uint8_t * * not, uint8_t **too_many)
{
    struct jit_buf *b = r->b;
    uint8_t *good, *once;

    op_imm8(r, 5, COUNTER(r, skip), 1); /* sub */
    *not = jit_jcc_fwd(b, JCC_NS);
    jit_load32(b, T0, COUNTER(r, rounds));
    op32(r, 0x2b, T0, COUNTER(r, rest)); /* sub */
    jit_op_reg(b, 0, 0x83, 7, T0);       /* cmp */
    jit_8(b, FEW);
    good = jit_jcc8_fwd(b, JCC_GE);
    op_imm8(r, 0, COUNTER(r, strikes), 1); /* add */
    op_imm8(r, 7, COUNTER(r, strikes), STRIKES);
    *too_many = jit_jcc_fwd(b, JCC_A);
    once = jit_jmp8_fwd(b);
    jit_patch8(b, good);
    jit_store32_imm(b, COUNTER(r, strikes), 0);
    jit_store32_imm(b, COUNTER(r, given_up), 0);
    jit_patch8(b, once);
    jit_store32_imm(b, COUNTER(r, skip), 0);
    jit_store32_imm(b, COUNTER(r, credit), PAGES);
    jit_store32_imm(b, COUNTER(r, rounds), ROUNDS);
}

/* The ways out, after the body. fail: places that leave because a preheader is no good. */
static void ends(struct rw *r, const struct exits *e, uint8_t **out, uint8_t **fail, unsigned nr_fail, uint8_t *few,
                 uint8_t *too_many, uint8_t * not )
{
    struct jit_buf *b = r->b;
    uint8_t *plain;
    unsigned n;

    leave(r, rw_pc(r, r->nr));
    for (unsigned i = 0; i < e->nr; i++) {
        jit_patch32(b, e->from[i]);
        leave(r, e->to[i]);
    }
    jit_patch32(b, out[0]);
    if (out[1])
        jit_patch32(b, out[1]);
    jit_store32_imm(b, COUNTER(r, rest), 0);
    n = r->out->nr_links;
    rw_link_jmp(r, r->env->pc, JIT_LINK_JMP, 0);
    if (n < JIT_BLOCK_MAX_LINKS)
        r->out->link[n].mode_or = X86_RWM_LOOP;
    for (unsigned i = 0; i < nr_fail; i++)
        if (fail[i])
            jit_patch32(b, fail[i]);
    skip_some(r, AFTER_FAIL);
    plain = jit_jmp_fwd(b);
    jit_patch32(b, few);
    jit_patch32(b, too_many);
    give_up_before(r);
    jit_patch32(b, plain);
    jit_patch32(b, not );
    rw_link_jmp(r, r->env->pc, JIT_LINK_CONT, 0);
}

void rw_loop_cut(struct rw *r)
{
    for (unsigned i = 0; i < r->nr; i++)
        if (rw_is_jcc(&r->in[i]) && jcc_target(r, i) == r->env->pc) {
            r->nr = i + 1;
            r->out->guest_len = r->out->guest_off[r->nr];
            return;
        }
}

/* What rw_wide is about is in the host's registers: the block proper leads here, and its body has been run. */
void rw_loop_block(struct rw *r)
{
    uint8_t *fail[X86_LOOP_GROUPS], *few, *not, *too_many, *out[2];
    struct exits e = {.nr = 0};
    struct jit_buf *b = r->b;
    struct rw_loop l;

    r->out->nr_insn = r->nr;
    if (!rw_loop_find(r, r->nr - 1, &l)) { /* what follows it looked otherwise then */
        for (unsigned i = 0; i <= r->nr; i++)
            r->out->host_off[i] = (uint16_t)(b->p - b->start);
        rw_link_jmp(r, r->env->pc, JIT_LINK_CONT, 0);
        return;
    }
    r->loop = &l;
    judge(r, &not, &too_many);
    if (l.write) {
        jit_mov_ri(b, T0, 1);
        if (r->env->smp)
            op32(r, 0x87, T0, JIT_GS(X86_CTX(loop_go))); /* xchg: a fence too */
        else
            jit_store32(b, JIT_GS(X86_CTX(loop_go)), T0);
    }
    probe_all(r, &l, fail);
    jit_op_reg(b, 0, 0x83, 7, T0); /* cmp */
    jit_8(b, FEW);
    few = jit_jcc_fwd(b, JCC_B);
    jit_lea(b, T0, JIT_BASE(T0, 1));
    body(r, &e, out);
    r->t1 = 0;
    ends(r, &e, out, fail, l.nr, few, too_many, not );
    for (unsigned i = 0; i < l.nr_cold; i++)
        other_page(r, i);
    r->loop = NULL;
    r->out->host_off[r->nr] = (uint16_t)(b->p - b->start);
}
