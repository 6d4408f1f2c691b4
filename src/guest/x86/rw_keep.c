/* Rewriter, user mode: loops that keep guest R10 and R11 in the host's registers of that name.
 *
 * Else these are T0 and T1 and the guest's lie in the context, so that a value which goes round through one of them
 * takes the way through memory each time. A block whose beginning is a loop, up to a conditional jump back to its first
 * instruction, and whose code needs neither T0 nor T1 loads both in front of it; the jump back goes behind the loads
 * (a link with `inner`). Whatever leads out of the loop stores those that it writes. The mark of its instructions says
 * where the registers are when a fault or a signal comes (X86_RW_KEEPS). */
#include "guest/x86/rw_int.h"

enum { R9 = 9, R10, R11 }; /* the guest's */
enum { KEPT = 1u << R10 | 1u << R11, WORTH = 2 /* instructions that use them */ };

static bool is_kept(int guest)
{
    return guest == R10 || guest == R11;
}

static bool uses_kept(const struct rw *r, const struct x86_insn *in)
{
    const struct rw_gprs *g = rw_gprs(r, in);

    return is_kept(g->reg) || is_kept(g->rm) || is_kept(g->vvvv) || is_kept(g->opc) || is_kept(in->base) ||
           is_kept(in->index);
}

static bool is_spilled(unsigned guest)
{
    return guest < 16 && rw_map(guest) & SPILLED && !is_kept((int)guest);
}

static bool is_lea(const struct x86_insn *in)
{
    return in->map == X86_MAP_1 && in->opcode == 0x8d;
}

/* Does its code take neither T0 nor T1, as it is classified with them kept? */
static bool fits(const struct rw *r, const struct x86_insn *in)
{
    if (in->found & RW_COND)
        return rw_is_jcc(in);
    if ((in->found & ~(uint32_t)RW_AS_IT_IS) != RW_CAN_COPY)
        return false;
    if (in->found & RW_AS_IT_IS || (in->row->attr & X86_A_NOP_MEM && !is_lea(in)))
        return true;
    if (in->mem_op < 0 && !is_lea(in))
        return !rw_spilled(r, in) || rw_reads_home(r, in);
    return in->has_modrm && (in->modrm >> 6) != 3 && !rw_spilled(r, in) && in->seg != X86_FS && in->seg != X86_GS &&
           in->base != X86_REG_RIP && (in->base != X86_NO_REG || in->index != X86_NO_REG) && !is_spilled(in->base) &&
           !is_spilled(in->index) && (!is_lea(in) || in->opsz != 2);
}

static bool jumps_back(const struct rw *r, unsigned i)
{
    const struct x86_insn *in = &r->in[i];

    return rw_is_jcc(in) && rw_pc(r, i) + in->len + in->imm == r->env->pc;
}

static void classify(struct rw *r, unsigned from, unsigned to, bool keeps)
{
    r->keeps = keeps;
    for (unsigned i = from; i < to; i++)
        rw_classify(r, &r->in[i], &r->gprs[i]);
}

void rw_keep_find(struct rw *r)
{
    unsigned end = 0, last = 0, uses = 0;

    if (!r->m64 || r->env->mode & X86_RWM_ONE)
        return;
    for (unsigned i = 0; i < r->nr && !rw_of_leaf(r, i); i++) {
        uses += uses_kept(r, &r->in[i]);
        if (uses >= WORTH && jumps_back(r, i))
            end = i;
    }
    if (!end)
        return;
    classify(r, 0, end + 1, true);
    for (unsigned i = 0; i <= end && fits(r, &r->in[i]); i++)
        if (jumps_back(r, i))
            last = i;
    classify(r, last ? last + 1 : 0, end + 1, false);
    r->keeps_to = last;
    for (unsigned i = 0; i < last; i++)
        r->keeps_written |= rw_writes(&r->in[i]) & KEPT;
}

static struct jit_mem home(unsigned guest)
{
    return JIT_GS(X86_CTX(home) + 8 * ((int)guest - R9));
}

void rw_keep_begin(struct rw *r)
{
    jit_load(r->b, JR_R10, home(R10));
    jit_load(r->b, JR_R11, home(R11));
    r->keeps = true;
    r->keeps_at = (uint32_t)(r->b->p - r->b->start);
}

void rw_keep_out(struct rw *r)
{
    if (r->keeps_written >> R10 & 1)
        jit_store(r->b, home(R10), JR_R10);
    if (r->keeps_written >> R11 & 1)
        jit_store(r->b, home(R11), JR_R11);
}

void rw_keep_jcc(struct rw *r, const struct x86_insn *in)
{
    unsigned n = r->out->nr_links;
    struct cold *c;

    if (jumps_back(r, r->cur)) {
        rw_link_jmp(r, r->env->pc, JIT_LINK_JCC, in->opcode & 15);
        if (n < JIT_BLOCK_MAX_LINKS)
            r->out->link[n].inner = r->keeps_at;
    } else {
        c = rw_new_cold(r, COLD_OUT);
        c->from = jit_jcc_fwd(r->b, in->opcode & 15);
        c->link = r->cur;
    }
    if (r->cur != r->keeps_to)
        return;
    rw_keep_out(r);
    r->keeps = r->t1_zero = false;
}

void rw_keep_cold(struct rw *r, const struct cold *c)
{
    const struct x86_insn *in = &r->in[c->link];

    rw_keep_out(r);
    rw_link_jmp(r, rw_pc(r, c->link) + in->len + in->imm, JIT_LINK_CONT, 0);
}
