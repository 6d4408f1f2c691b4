/* Rewriter: the string instructions in 64-bit code, alone or with REP, going up (translated code runs with DF = 0).
 *
 * REP goes page by page: both sides are checked, the host's own REP instruction does as many elements as fit, and the
 * registers are exact again before the next page, where the vCPU can be stopped. SCAS and CMPS end earlier by ZF.
 * Whatever the checks do not settle (MMIO, a page fault, an element across two pages) restarts the instruction in the
 * interpreter. */
#include "guest/x86/rw_int.h"

enum { OP_MOVS = 0xa4, OP_CMPS = 0xa6, OP_STOS = 0xaa, OP_LODS = 0xac, OP_SCAS = 0xae };

bool rw_find_string(const struct rw *r, const struct x86_insn *in)
{
    unsigned op = in->opcode & ~1u;

    if (!(in->row->attr & X86_A_STRING) || !r->m64 || r->flat || in->map != X86_MAP_1 || in->enc != X86_ENC_LEGACY ||
        in->adsz != 8 || in->lock || in->seg == X86_FS || in->seg == X86_GS)
        return false;
    if (op == OP_SCAS || op == OP_CMPS)
        return true;
    if (in->rep)
        return in->rep == 0xf3 && (op == OP_MOVS || op == OP_STOS);
    return op == OP_MOVS || op == OP_STOS || op == OP_LODS;
}

static unsigned element(const struct x86_insn *in)
{
    return in->opcode & 1 ? in->opsz : 1;
}

/* op reg, [m] of the element's size; op is the byte form, + 1 the others. */
static void move(struct rw *r, unsigned size, unsigned op, unsigned reg, struct jit_mem m)
{
    unsigned f = size == 8 ? JIT_W : size == 2 ? JIT_66 : size == 1 ? JIT_B8 : 0;

    jit_op_mem(r->b, f, op + (size > 1), reg, m, 0);
}

static void single(struct rw *r, const struct x86_insn *in)
{
    unsigned s = element(in), op = in->opcode & ~1u;
    struct jit_buf *b = r->b;
    struct jit_mem m;

    if (op != OP_STOS) {
        m = rw_at_reg(r, JR_RSI, s, false);
        move(r, s, 0x8a, op == OP_LODS ? JR_RAX : T0, m);
    }
    if (op == OP_MOVS)
        jit_store(b, JIT_GS(X86_CTX(tmp)), T0);
    if (op != OP_LODS) {
        m = rw_at_reg(r, JR_RDI, s, true);
        if (op == OP_MOVS)
            jit_load(b, T0, JIT_GS(X86_CTX(tmp)));
        move(r, s, 0x88, op == OP_MOVS ? T0 : JR_RAX, m);
        jit_lea(b, JR_RDI, JIT_BASE(JR_RDI, (int32_t)s));
    }
    if (op != OP_STOS)
        jit_lea(b, JR_RSI, JIT_BASE(JR_RSI, (int32_t)s));
}

static void single_compare(struct rw *r, const struct x86_insn *in)
{
    bool cmps = (in->opcode & ~1u) == OP_CMPS;
    unsigned s = element(in);
    struct jit_buf *b = r->b;
    struct jit_mem m;

    if (cmps) {
        m = rw_at_reg(r, JR_RSI, s, false);
        move(r, s, 0x8a, T0, m);
        jit_store(b, JIT_GS(X86_CTX(tmp)), T0);
    }
    m = rw_at_reg(r, JR_RDI, s, false);
    if (cmps)
        jit_load(b, T0, JIT_GS(X86_CTX(tmp)));
    move(r, s, 0x3a, cmps ? T0 : JR_RAX, m); /* cmp */
    jit_lea(b, JR_RDI, JIT_BASE(JR_RDI, (int32_t)s));
    if (cmps)
        jit_lea(b, JR_RSI, JIT_BASE(JR_RSI, (int32_t)s));
}

/* T0 = elements from the address in reg to the end of its page; T1 is kept. */
static void room_in_page(struct rw *r, unsigned reg, unsigned log)
{
    jit_mov_rr(r->b, T0, reg);
    jit_op_reg(r->b, JIT_W, 0xf7, 2, T0); /* not */
    jit_pext_mem(r->b, T0, T0, JIT_GS(X86_CTX(page_mask)));
    jit_lea(r->b, T0, JIT_BASE(T0, 1));
    jit_pext_mem(r->b, T0, T0, JIT_GS(X86_CTX(count_mask) + 8 * (int)log));
}

static void cmp_min(struct rw *r, unsigned dst, unsigned src) /* dst = the lesser, unsigned */
{
    jit_op_reg(r->b, JIT_W, 0x39, dst, src);   /* cmp src, dst */
    jit_op_reg(r->b, JIT_W, 0x0f42, dst, src); /* cmovb dst, src */
}

static void save_flags(struct rw *r)
{
    jit_store(r->b, JIT_GS(X86_CTX(save_rax)), JR_RAX);
    jit_8(r->b, 0x9f);                      /* lahf */
    jit_op_reg(r->b, 0, 0x0f90, 0, JR_RAX); /* seto al */
    jit_store(r->b, JIT_GS(X86_CTX(tmp_flags)), JR_RAX);
    jit_load(r->b, JR_RAX, JIT_GS(X86_CTX(save_rax)));
}

static void restore_flags(struct rw *r)
{
    jit_store(r->b, JIT_GS(X86_CTX(save_rax)), JR_RAX);
    jit_load(r->b, JR_RAX, JIT_GS(X86_CTX(tmp_flags)));
    jit_8(r->b, 0x04); /* add al, 0x7f */
    jit_8(r->b, 0x7f);
    jit_8(r->b, 0x9e); /* sahf */
    jit_load(r->b, JR_RAX, JIT_GS(X86_CTX(save_rax)));
}

/* The elements of one page. T1 = what to add to RDI, add_rsi in the context for RSI. */
static void burst(struct rw *r, const struct x86_insn *in, bool movs)
{
    unsigned s = element(in), log = (unsigned)__builtin_ctz(s);
    struct jit_buf *b = r->b;

    room_in_page(r, JR_RDI, log);
    if (rw_flags_live(r))
        save_flags(r);
    cmp_min(r, T0, JR_RCX);
    jit_store(b, JIT_GS(X86_CTX(tmp)), JR_RCX);
    if (movs) {
        jit_mov_rr(b, JR_RCX, T0);
        room_in_page(r, JR_RSI, log);
        cmp_min(r, T0, JR_RCX);
    }
    jit_mov_rr(b, JR_RCX, T0);
    jit_lea(b, JR_RDI, JIT_SUM(JR_RDI, T1));
    if (movs) {
        jit_store(b, JIT_GS(X86_CTX(tmp2)), T1);
        jit_load(b, T1, JIT_GS(X86_CTX(add_rsi)));
        jit_lea(b, JR_RSI, JIT_SUM(JR_RSI, T1));
    }
    if (s == 2)
        jit_8(b, 0x66);
    jit_8(b, 0xf3);
    if (s == 8)
        jit_8(b, 0x48);
    jit_8(b, in->opcode);
    if (movs) {
        jit_op_reg(b, JIT_W, 0x29, T1, JR_RSI); /* sub */
        jit_load(b, T1, JIT_GS(X86_CTX(tmp2)));
    }
    jit_op_reg(b, JIT_W, 0x29, T1, JR_RDI);
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(tmp)));
    jit_op_reg(b, JIT_W, 0x29, T0, JR_RCX);
    if (rw_flags_live(r))
        restore_flags(r);
}

/* Binds to here a jump for RCX = 0, longer than JRCXZ reaches. */
static uint8_t *if_zero(struct rw *r)
{
    uint8_t *zero = jit_jrcxz_fwd(r->b), *go = jit_jmp_fwd(r->b), *end;

    jit_patch8(r->b, zero);
    end = jit_jmp_fwd(r->b);
    jit_patch32(r->b, go);
    return end;
}

static void repeated(struct rw *r, const struct x86_insn *in)
{
    bool movs = (in->opcode & ~1u) == OP_MOVS;
    uint8_t *none = if_zero(r), *done;
    const uint8_t *again = jit_here(r->b);

    if (movs) {
        rw_at_reg(r, JR_RSI, element(in), false);
        jit_store(r->b, JIT_GS(X86_CTX(add_rsi)), T1);
    }
    rw_at_reg(r, JR_RDI, element(in), true);
    burst(r, in, movs);
    done = if_zero(r);
    rw_poll(r);
    jit_jmp(r->b, again);
    jit_patch32(r->b, none);
    jit_patch32(r->b, done);
}

/* The elements of one page, RCX not 0: flags as they stood before are lost. Leaves those of the last comparison. */
static void compare_burst(struct rw *r, const struct x86_insn *in, bool cmps)
{
    unsigned s = element(in), log = (unsigned)__builtin_ctz(s);
    struct jit_buf *b = r->b;

    room_in_page(r, JR_RDI, log);
    cmp_min(r, T0, JR_RCX);
    jit_store(b, JIT_GS(X86_CTX(tmp)), JR_RCX);
    if (cmps) {
        jit_mov_rr(b, JR_RCX, T0);
        room_in_page(r, JR_RSI, log);
        cmp_min(r, T0, JR_RCX);
    }
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(tmp)));
    jit_op_reg(b, JIT_W, 0x29, T0, JR_RCX); /* sub: those that are left for other pages */
    jit_store(b, JIT_GS(X86_CTX(tmp)), JR_RCX);
    jit_mov_rr(b, JR_RCX, T0);
    jit_lea(b, JR_RDI, JIT_SUM(JR_RDI, T1));
    jit_op_reg(b, JIT_W, 0xf7, 3, T1); /* neg */
    if (cmps) {
        jit_load(b, T0, JIT_GS(X86_CTX(add_rsi)));
        jit_lea(b, JR_RSI, JIT_SUM(JR_RSI, T0));
        jit_op_reg(b, JIT_W, 0xf7, 3, T0);
    }
    if (s == 2)
        jit_8(b, 0x66);
    jit_8(b, in->rep);
    if (s == 8)
        jit_8(b, 0x48);
    jit_8(b, in->opcode);
    if (cmps)
        jit_lea(b, JR_RSI, JIT_SUM(JR_RSI, T0));
    jit_lea(b, JR_RDI, JIT_SUM(JR_RDI, T1));
    jit_load(b, T0, JIT_GS(X86_CTX(tmp)));
    jit_lea(b, JR_RCX, JIT_SUM(JR_RCX, T0));
}

static void repeated_compare(struct rw *r, const struct x86_insn *in)
{
    bool cmps = (in->opcode & ~1u) == OP_CMPS;
    uint8_t *none = if_zero(r), *found, *done;
    const uint8_t *again = jit_here(r->b);

    if (cmps) {
        rw_at_reg(r, JR_RSI, element(in), false);
        jit_store(r->b, JIT_GS(X86_CTX(add_rsi)), T1);
    }
    rw_at_reg(r, JR_RDI, element(in), false);
    compare_burst(r, in, cmps);
    found = jit_jcc_fwd(r->b, in->rep == 0xf2 ? JCC_E : JCC_NE);
    done = if_zero(r);
    rw_poll(r);
    jit_jmp(r->b, again);
    jit_patch32(r->b, none);
    jit_patch32(r->b, found);
    jit_patch32(r->b, done);
}

void rw_string(struct rw *r, const struct x86_insn *in)
{
    unsigned op = in->opcode & ~1u;

    if (op == OP_SCAS || op == OP_CMPS) {
        (in->rep ? repeated_compare : single_compare)(r, in);
        return;
    }
    if (in->rep)
        repeated(r, in);
    else
        single(r, in);
}
