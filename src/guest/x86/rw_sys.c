/* Rewriter: the system instructions a kernel executes all the time: CLI, STI, PUSHF, POPF, SWAPGS, RDTSC, MOV from a
 * segment register.
 *
 * While translated code runs, RFLAGS is in three places: the arithmetic flags in the host's, IF in the context's
 * if_flag (0 or 0x200), the rest in sys_flags (never changed by code here: a POPF that would change it goes to the
 * interpreter). */
#include "guest/x86/ops.h"
#include "guest/x86/rw_int.h"
#include "guest/x86/state.h"

enum { OP_PUSHF = 0x9c, OP_POPF = 0x9d, OP_CLI = 0xfa, OP_STI = 0xfb };
#define CPU(f) ((int32_t)offsetof(struct x86_cpu, f))

static bool is_swapgs(const struct x86_insn *in)
{
    return in->map == X86_MAP_0F && in->opcode == 0x01 && in->modrm == 0xf8 && !in->lock && !in->pp;
}

static bool is_rdtsc(const struct x86_insn *in)
{
    return in->op == X86_I_RDTSC || in->op == X86_I_RDTSCP;
}

/* Into a register; the upper half becomes zero. */
static bool is_mov_sreg(const struct rw *r, const struct x86_insn *in)
{
    return in->map == X86_MAP_1 && in->opcode == 0x8c && (in->modrm >> 6) == 3 && !r->flat &&
           in->enc == X86_ENC_LEGACY && !in->opsize_pfx && !in->lock && (in->modrm >> 3 & 7) < 6;
}

bool rw_find_sys(const struct rw *r, const struct x86_insn *in)
{
    if (is_mov_sreg(r, in))
        return true;
    if (is_rdtsc(in))
        return r->env->mode & X86_RWM_TSC && !in->lock && x86_insn_offered(r->env->feat, in);
    if (r->env->mode & X86_RWM_USER || in->enc != X86_ENC_LEGACY || in->opsize_pfx || in->lock)
        return false;
    if (r->m64 && is_swapgs(in))
        return true;
    return in->map == X86_MAP_1 &&
           (in->opcode == OP_PUSHF || in->opcode == OP_POPF || in->opcode == OP_CLI || in->opcode == OP_STI);
}

/* Leaves through the stub with T0 = pc when a pin is up, so that a newly enabled interrupt is taken. Flags are kept. */
static void check_pins(struct rw *r, uint64_t pc, const uint8_t *stub)
{
    struct jit_buf *b = r->b;
    uint8_t *none;

    jit_mov_rr(b, T1, JR_RCX);
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(cpu)));
    jit_load32(b, JR_RCX, JIT_BASE(JR_RCX, CPU(vcpu.pins)));
    none = jit_jrcxz_fwd(b);
    jit_mov_rr(b, JR_RCX, T1);
    jit_mov_ri(b, T0, pc);
    jit_jmp(b, stub);
    jit_patch8(b, none);
    jit_mov_rr(b, JR_RCX, T1);
}

static void rorx32(struct jit_buf *b, unsigned dst, unsigned src, unsigned by) /* VEX.LZ.F2.0F3A.W0 F0 /r ib */
{
    jit_8(b, 0xc4);
    jit_8(b, (dst & 8 ? 0u : 0x80u) | 0x40 | (src & 8 ? 0u : 0x20u) | 3);
    jit_8(b, 0x7b);
    jit_8(b, 0xf0);
    jit_8(b, 0xc0 | (dst & 7) << 3 | (src & 7));
    jit_8(b, by);
}

static void rorx64_32(struct jit_buf *b, unsigned dst, unsigned src) /* by 32: VEX.LZ.F2.0F3A.W1 F0 /r ib */
{
    jit_8(b, 0xc4);
    jit_8(b, (dst & 8 ? 0u : 0x80u) | 0x40 | (src & 8 ? 0u : 0x20u) | 3);
    jit_8(b, 0xfb);
    jit_8(b, 0xf0);
    jit_8(b, 0xc0 | (dst & 7) << 3 | (src & 7));
    jit_8(b, 32);
}

static void pushf(struct rw *r)
{
    struct jit_buf *b = r->b;
    unsigned s = r->m64 ? 8 : 4, t;
    struct jit_mem m;
    bool free0;

    jit_mov_rr(b, T1, JR_RAX);
    jit_mov_ri(b, JR_RAX, 0);
    jit_8(b, 0x9f);                      /* lahf */
    jit_op_reg(b, 0, 0x0f90, 0, JR_RAX); /* seto al */
    jit_op_reg(b, JIT_RM8, 0x0fb6, T0, JR_RAX);
    rorx32(b, JR_RAX, JR_RAX, 8);
    jit_op_reg(b, JIT_RM8, 0x0fb6, JR_RAX, JR_RAX);
    rorx32(b, T0, T0, 32 - 11);
    jit_lea(b, T0, JIT_SUM(T0, JR_RAX));
    jit_load(b, JR_RAX, JIT_GS(X86_CTX(sys_flags)));
    jit_lea(b, T0, JIT_SUM(T0, JR_RAX));
    jit_load(b, JR_RAX, JIT_GS(X86_CTX(if_flag)));
    jit_lea(b, T0, JIT_SUM(T0, JR_RAX));
    jit_mov_rr(b, JR_RAX, T1);
    jit_store(b, JIT_GS(X86_CTX(tmp)), T0);
    m = rw_stack(r, HSP, -(int32_t)s, s, true, &free0);
    t = rw_scratch(r, &m, free0);
    jit_load(b, t, JIT_GS(X86_CTX(tmp)));
    jit_op_mem(b, r->m64 ? JIT_W : 0, 0x89, t, m, 0);
    if (r->m64)
        jit_lea(b, HSP, JIT_BASE(HSP, -8));
    else
        jit_lea32(b, HSP, JIT_BASE(HSP, -4));
}

static void popf(struct rw *r)
{
    struct jit_buf *b = r->b;
    unsigned s = r->m64 ? 8 : 4;
    struct jit_mem m;
    uint8_t *same;
    bool free0;

    m = rw_stack(r, HSP, 0, s, false, &free0);
    jit_op_mem(b, r->m64 ? JIT_W : 0, 0x8b, T0, m, 0);
    jit_mov_rr32(b, T1, T0);
    jit_op_mem(b, 0, 0x33, T1, JIT_GS(X86_CTX(sys_flags)), 0);      /* xor */
    jit_op_reg(b, 0, 0xf7, 0, T1);                                  /* test */
    jit_32(b, 0x3fffff & ~(uint32_t)(X86_ARITH | X86_IF | 0x802a)); /* without the reserved bits 1, 3, 5, 15 */
    same = jit_jcc_fwd(b, JCC_E);
    rw_exit_interp(r, rw_pc(r, r->cur));
    jit_patch32(b, same);
    if (r->m64)
        jit_lea(b, HSP, JIT_BASE(HSP, 8));
    else
        jit_lea32(b, HSP, JIT_BASE(HSP, 4));
    jit_mov_rr32(b, T1, T0);
    jit_op_reg(b, 0, 0x81, 4, T1); /* and r11d, IF */
    jit_32(b, X86_IF);
    jit_store(b, JIT_GS(X86_CTX(if_flag)), T1);
    jit_mov_rr(b, T1, JR_RAX);
    jit_mov_rr32(b, JR_RAX, T0);
    jit_op_reg(b, 0, 0xc1, 4, JR_RAX); /* shl eax, 8 */
    jit_8(b, 8);
    jit_op_reg(b, 0, 0xc1, 5, T0); /* shr r10d, 11 */
    jit_8(b, 11);
    jit_op_reg(b, 0, 0x83, 4, T0); /* and r10d, 1 */
    jit_8(b, 1);
    jit_op_reg(b, JIT_B8, 0x88, T0, JR_RAX); /* mov al, r10b */
    jit_8(b, 0x04);                          /* add al, 0x7f */
    jit_8(b, 0x7f);
    jit_8(b, 0x9e); /* sahf */
    jit_mov_rr(b, JR_RAX, T1);
    check_pins(r, rw_pc(r, r->cur) + r->in[r->cur].len, r->env->stubs->exit_dispatch);
}

static void swapgs(struct rw *r)
{
    struct jit_buf *b = r->b;
    int32_t base = CPU(seg) + X86_GS * (int32_t)sizeof(struct x86_seg) + (int32_t)offsetof(struct x86_seg, base);

    jit_load(b, T0, JIT_GS(X86_CTX(cpu)));
    jit_load(b, T1, JIT_BASE(T0, CPU(kernel_gs_base)));
    jit_op_mem(b, JIT_W, 0x87, T1, JIT_BASE(T0, base), 0); /* xchg */
    jit_store(b, JIT_BASE(T0, CPU(kernel_gs_base)), T1);
    jit_load(b, T1, JIT_BASE(T0, base));
    jit_store(b, JIT_GS(X86_CTX(seg_base) + 8 * X86_GS), T1);
}

/* Flags are kept: additions by LEA, shifts by RORX, MULX for the product. */
static void rdtsc(struct rw *r, const struct x86_insn *in)
{
    struct jit_buf *b = r->b;

    if (in->op == X86_I_RDTSCP) { /* waits for all before it: LFENCE */
        jit_8(b, 0x0f);
        jit_8(b, 0xae);
        jit_8(b, 0xe8);
    }
    jit_8(b, 0x0f);
    jit_8(b, 0x31);
    rorx64_32(b, T1, JR_RDX);
    jit_lea(b, T0, JIT_SUM(JR_RAX, T1));
    jit_load(b, T1, JIT_GS(X86_CTX(tsc_neg_base)));
    jit_lea(b, T0, JIT_SUM(T0, T1));
    jit_load(b, JR_RDX, JIT_GS(X86_CTX(tsc_mult)));
    for (unsigned i = 0; i < 5; i++) /* mulx r11, rax, r10: VEX.LZ.F2.0F38.W1 F6 /r */
        jit_8(b, ((const uint8_t[]){0xc4, 0x42, 0xfb, 0xf6, 0xda})[i]);
    jit_load(b, JR_RAX, JIT_GS(X86_CTX(tsc_add)));
    jit_lea(b, T1, JIT_SUM(T1, JR_RAX));
    jit_mov_rr32(b, JR_RAX, T1);
    rorx64_32(b, JR_RDX, T1);
    jit_mov_rr32(b, JR_RDX, JR_RDX);
    if (in->op == X86_I_RDTSCP) {
        jit_load(b, T0, JIT_GS(X86_CTX(cpu)));
        jit_load32(b, JR_RCX, JIT_BASE(T0, CPU(tsc_aux)));
    }
}

static void set_if(struct rw *r, uint32_t v)
{
    jit_op_mem(r->b, JIT_W, 0xc7, 0, JIT_GS(X86_CTX(if_flag)), 4);
    jit_32(r->b, v);
}

static void mov_sreg(struct rw *r, const struct x86_insn *in)
{
    int32_t sel =
        CPU(seg) + (in->modrm >> 3 & 7) * (int32_t)sizeof(struct x86_seg) + (int32_t)offsetof(struct x86_seg, sel);
    unsigned to = rw_map((in->modrm & 7u) | (in->rex & 1 ? 8u : 0u)), dst = to & SPILLED ? T0 : to;

    jit_load(r->b, T0, JIT_GS(X86_CTX(cpu)));
    jit_op_mem(r->b, 0, 0x0fb7, dst, JIT_BASE(T0, sel), 0); /* movzx */
    if (to & SPILLED)
        rw_store_home(r, to, T0);
}

bool rw_sys(struct rw *r, const struct x86_insn *in)
{
    if (is_mov_sreg(r, in)) {
        mov_sreg(r, in);
        return true;
    }
    if (is_rdtsc(in)) {
        rdtsc(r, in);
        return true;
    }
    if (in->map == X86_MAP_0F) {
        swapgs(r);
        return true;
    }
    switch (in->opcode) {
    case OP_PUSHF:
        pushf(r);
        return true;
    case OP_POPF:
        popf(r);
        return true;
    case OP_CLI:
        set_if(r, 0);
        return true;
    default: /* STI holds off interrupts for one more instruction: with one waiting the interpreter sees to that, and
              * one that comes later is noticed later */
        check_pins(r, rw_pc(r, r->cur), r->env->stubs->exit_interp);
        set_if(r, X86_IF);
        return true;
    }
}
