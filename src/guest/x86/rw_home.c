/* Rewriter, user mode: stores to the context's places of guest R9, R10 and R11.
 *
 * A load that follows such a store soon gets the value from it. AMD's Zen 4 does that at no cost when it may guess that
 * the two belong together, and it never guesses where both addresses are a number alone: 8 cycles, and the way through
 * memory decides how fast the loop is (`mul` of the micro-suite: 2.2 ns against 1.4). One register in one of the
 * addresses is enough. So stores go by T1, which is zero: it is made that once for a run of instructions that leave it
 * alone, and as the displacement is a byte then, three stores take fewer bytes than before. Loads may stay as they are.
 */
#include "guest/x86/ops.h"
#include "guest/x86/rw_int.h"

struct jit_mem rw_home(const struct rw *r, unsigned mapped)
{
    struct jit_mem m = JIT_GS(X86_CTX(home) + 8 * (int)(mapped & 3));

    if (r->t1_zero)
        m.base = T1;
    return m;
}

static bool spilled(unsigned guest)
{
    return guest < 16 && rw_map(guest) & SPILLED;
}

/* Does its code leave T1 alone, apart from stores here? */
static bool leaves_t1(const struct rw *r, const struct x86_insn *in)
{
    if (in->found & RW_AS_IT_IS || rw_is_jcc(in))
        return true;
    if (in->found == RW_STACK_OP) /* PUSH and POP of a register */
        return in->opcode >= 0x50 && in->opcode <= 0x5f;
    if (in->found != RW_CAN_COPY || rw_spilled(r, in) > 1)
        return false;
    if (!in->has_modrm || (in->modrm >> 6) == 3)
        return in->mem_op < 0;
    if (in->seg == X86_FS || in->seg == X86_GS || in->base >= 16)
        return false;
    if (in->row->attr & X86_A_NOP_MEM) /* LEA */
        return !(spilled(in->base) && spilled(in->index));
    return rw_spilled(r, in) ? !spilled(in->base) && !spilled(in->index) : !(spilled(in->base) && spilled(in->index));
}

void rw_load_home(struct rw *r, unsigned dst, unsigned mapped)
{
    jit_load(r->b, dst, rw_home(r, mapped));
}

void rw_store_home(struct rw *r, unsigned mapped, unsigned src)
{
    jit_store(r->b, src == T1 ? rw_home(r, mapped) : rw_home_to(r, mapped), src);
}

void rw_home_begin(struct rw *r)
{
    r->t1_zero = r->t1_zero && leaves_t1(r, &r->in[r->cur]);
}

struct jit_mem rw_home_to(struct rw *r, unsigned mapped)
{
    if (r->flat && !r->t1_zero) {
        jit_mov_ri(r->b, T1, 0);
        r->t1_zero = true;
    }
    return rw_home(r, mapped);
}
