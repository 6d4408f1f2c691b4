/* Rewriter, user mode: guest addresses are host addresses, so operands need no check and most of what system mode
 * leaves to the interpreter runs as it is. 32-bit guests: operands carry an address-size prefix, which makes them wrap
 * at 4 GiB. Not taken here (the interpreter does it): gathers, ENTER, PUSHA, segment registers, FS or GS overrides of
 * string instructions. */
#include "guest/x86/ops.h"
#include "guest/x86/rw_int.h"

enum { KEEP_POPF = X86_ARITH | X86_DF | X86_ID | X86_AC };

void rw_op_mem(struct rw *r, unsigned flags, unsigned opcode, unsigned reg, struct jit_mem m, unsigned imm_len)
{
    if (r->a32)
        jit_8(r->b, 0x67);
    r->a32 = false;
    jit_op_mem(r->b, flags, opcode, reg, m, imm_len);
}

static struct jit_mem constant(struct rw *r, uint64_t a, bool *t0_free)
{
    *t0_free = a <= INT32_MAX;
    if (*t0_free)
        return JIT_BASE(JR_NONE, (int32_t)a);
    jit_mov_ri(r->b, T0, a);
    return JIT_BASE(T0, 0);
}

static struct jit_mem segmented(struct rw *r, const struct x86_insn *in, bool *t0_free)
{
    bool bare = in->base == X86_NO_REG && in->index == X86_NO_REG;
    struct jit_mem seg = JIT_GS(X86_CTX(seg_base) + 8 * in->seg);

    *t0_free = bare && r->m64;
    if (*t0_free) {
        jit_load(r->b, T1, seg);
        return JIT_BASE(T1, (int32_t)in->disp);
    }
    if (bare)
        jit_mov_ri(r->b, T0, (uint32_t)in->disp);
    else
        rw_ea(r, in, T0);
    jit_load(r->b, T1, seg);
    if (r->m64)
        return JIT_SUM(T0, T1);
    jit_lea32(r->b, T0, JIT_SUM(T0, T1));
    return JIT_BASE(T0, 0);
}

struct jit_mem rw_flat_access(struct rw *r, const struct x86_insn *in, bool *t0_free)
{
    struct jit_mem m = {JR_NONE, JR_NONE, in->scale ? in->scale : 1, false, (int32_t)in->disp};
    unsigned h;

    r->a32 = false;
    if (in->seg == X86_FS || in->seg == X86_GS)
        return segmented(r, in, t0_free);
    if (!in->has_modrm || (in->base == X86_NO_REG && in->index == X86_NO_REG))
        return constant(r, r->m64 && in->adsz == 8 ? (uint64_t)in->disp : (uint32_t)in->disp, t0_free);
    if (in->base == X86_REG_RIP)
        return constant(r, (uint64_t)in->disp + rw_pc(r, r->cur) + in->len, t0_free);
    *t0_free = true;
    r->a32 = in->adsz == 4;
    if (in->base != X86_NO_REG) {
        h = rw_at(r, in->base);
        if (h & SPILLED) {
            rw_load_home(r, T0, h);
            h = T0;
            *t0_free = false;
        }
        m.base = (uint8_t)h;
    }
    if (in->index != X86_NO_REG) {
        h = rw_at(r, in->index);
        if (h & SPILLED) {
            unsigned t = *t0_free && !rw_spilled(r, in) ? T0 : T1;

            rw_load_home(r, t, h);
            *t0_free &= t != T0;
            h = t;
        }
        m.index = (uint8_t)h;
    }
    return m;
}

static bool is_string(const struct x86_insn *in)
{
    return in->row->attr & X86_A_STRING && !(in->row->attr & X86_A_IO) && in->adsz != 2 && in->seg != X86_FS &&
           in->seg != X86_GS && !in->lock;
}

static bool is_state(const struct x86_insn *in)
{
    switch (in->op) {
    case X86_I_FXSAVE:
    case X86_I_FXRSTOR:
        return true;
    case X86_I_XSAVE:
    case X86_I_XSAVEC:
    case X86_I_XSAVEOPT:
    case X86_I_XRSTOR:
        return true;
    default:
        return false;
    }
}

/* May XSAVE and its like run as they are? The host's registers are the guest's then, those of AVX-512 in wide CPUs. */
static bool state_is_host(const struct rw *r)
{
    return r->env->native_xsave && (r->env->mode & X86_RWM_AVX512 || !x86_has(r->env->feat, X86_F_AVX512F));
}

bool rw_find_flat_op(const struct rw *r, const struct x86_insn *in)
{
    if (!r->flat || in->enc != X86_ENC_LEGACY)
        return false;
    if (is_string(in))
        return true;
    if (is_state(in))
        return (state_is_host(r) || in->op == X86_I_FXSAVE || in->op == X86_I_FXRSTOR) && rw_mem_ok(r, in) &&
               x86_insn_offered(r->env->feat, in);
    switch (in->op) {
    case X86_I_PUSHF:
    case X86_I_POPF:
        return !in->opsize_pfx;
    case X86_I_SYSCALL:
        return r->m64;
    case X86_I_INT:
        return !r->m64 && in->imm == 0x80;
    case X86_I_XLAT:
        return in->adsz != 2 && in->seg != X86_FS && in->seg != X86_GS;
    case X86_I_CLD:
    case X86_I_STD:
    case X86_I_RDTSC:
    case X86_I_RDTSCP:
        return !in->lock;
    case X86_I_XGETBV:
        return state_is_host(r);
    default:
        return false;
    }
}

static void string_op(struct rw *r, const struct x86_insn *in)
{
    if (in->adsz == 4)
        jit_8(r->b, 0x67);
    if (in->rep)
        jit_8(r->b, in->rep);
    if (in->opsize_pfx)
        jit_8(r->b, 0x66);
    if (in->rex & 8)
        jit_8(r->b, 0x48);
    jit_8(r->b, in->opcode);
}

static void pushf_flat(struct rw *r)
{
    int32_t s = r->m64 ? 8 : 4;

    jit_8(r->b, 0x9c);
    jit_pop(r->b, T0);
    jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0x89, T0, JIT_BASE(HSP, -s), 0);
    if (r->m64)
        jit_lea(r->b, HSP, JIT_BASE(HSP, -s));
    else
        jit_lea32(r->b, HSP, JIT_BASE(HSP, -s));
}

static void popf_flat(struct rw *r)
{
    int32_t s = r->m64 ? 8 : 4;

    jit_op_mem(r->b, 0, 0x8b, T0, JIT_BASE(HSP, 0), 0);
    if (r->m64)
        jit_lea(r->b, HSP, JIT_BASE(HSP, s));
    else
        jit_lea32(r->b, HSP, JIT_BASE(HSP, s));
    jit_op_reg(r->b, 0, 0x81, 4, T0); /* and */
    jit_32(r->b, KEEP_POPF);
    jit_op_reg(r->b, 0, 0x81, 1, T0); /* or */
    jit_32(r->b, X86_IF | 2);
    jit_push(r->b, T0);
    jit_8(r->b, 0x9d);
}

static void xlat(struct rw *r, const struct x86_insn *in)
{
    jit_op_reg(r->b, JIT_RM8, 0x0fb6, T0, JR_RAX);
    if (in->adsz == 4)
        jit_8(r->b, 0x67);
    jit_op_mem(r->b, 0, 0x8a, JR_RAX, JIT_SUM(JR_RBX, T0), 0);
}

/* True: the block may go on. */
bool rw_flat_op(struct rw *r, const struct x86_insn *in)
{
    if (is_string(in)) {
        string_op(r, in);
        return true;
    }
    if (is_state(in))
        return rw_copy(r, in);
    switch (in->op) {
    case X86_I_PUSHF:
        pushf_flat(r);
        return true;
    case X86_I_POPF:
        popf_flat(r);
        return true;
    case X86_I_XLAT:
        xlat(r, in);
        return true;
    case X86_I_SYSCALL:
    case X86_I_INT:
        jit_mov_ri(r->b, T0, rw_pc(r, r->cur) + in->len);
        jit_jmp(r->b, r->env->stubs->exit_syscall);
        return false;
    case X86_I_CLD:
    case X86_I_STD:
        jit_8(r->b, in->opcode);
        return true;
    case X86_I_RDTSC:
        jit_8(r->b, 0x0f);
        jit_8(r->b, 0x31);
        return true;
    default: /* 0F 01 xx */
        jit_8(r->b, 0x0f);
        jit_8(r->b, 0x01);
        jit_8(r->b, in->modrm);
        return true;
    }
}
