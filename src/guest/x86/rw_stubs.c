/* Rewriter: the shared code that its blocks jump to, apart from what belongs to a runtime. */
#include "guest/x86/rw_int.h"

/* T0 = pc. Looks in the context's jump table without touching flags. For returns gone astray; jumps have their own. */
const uint8_t *x86_rw_jump_stub(struct jit_buf *b, const uint8_t *dispatch)
{
    const uint8_t *at = jit_here(b);
    uint8_t *hit;

    jit_store(b, JIT_GS(X86_CTX(save_rcx)), JR_RCX);
    jit_pext_mem(b, T1, T0, JIT_GS(X86_CTX(jc_mask)));
    jit_load(b, JR_RCX, JIT_GSX(T1, 8, X86_CTX(jc_neg)));
    jit_lea(b, JR_RCX, JIT_SUM(JR_RCX, T0));
    hit = jit_jrcxz_fwd(b);
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(save_rcx)));
    jit_load(b, T1, JIT_GS(X86_CTX(branch_pc)));
    jit_jmp(b, dispatch);
    jit_patch8(b, hit);
    jit_store(b, JIT_GS(X86_CTX(t0)), T0);      /* where a poll that faults finds the pc */
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(poll))); /* it may close a loop */
    jit_load(b, JR_RCX, JIT_BASE(JR_RCX, 0));
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(save_rcx)));
    jit_jmp_mem(b, JIT_GSX(T1, 8, X86_CTX(jc_host)));
    return at;
}

/* RET, shared by all: code of many functions is bound by how much of it fits the host's cache. The host predicts its
 * own RET by the shadow stack, wherever it stands. */
const uint8_t *x86_rw_ret_stub(struct jit_buf *b, const struct x86_stubs *s)
{
    int32_t slot = X86_CTX(ret_slot.neg_page), add = X86_CTX(ret_slot.add);
    const uint8_t *at = jit_here(b);
    uint8_t *hit, *known;

    jit_store(b, JIT_GS(X86_CTX(branch_pc)), T0);
    jit_mov_rr(b, T1, JR_RCX);
    jit_load(b, JR_RCX, JIT_GS(slot));
    jit_lea(b, JR_RCX, JIT_SUM(HSP, JR_RCX));
    jit_pext_mem(b, JR_RCX, JR_RCX, JIT_GS(X86_CTX(mask) + 8 * 3));
    hit = jit_jrcxz_fwd(b);
    /* Another page, or a misaligned stack: what the TLB knows becomes the slot. */
    jit_pext_mem(b, JR_RCX, HSP, JIT_GS(X86_CTX(tlb_mask)));
    jit_load(b, JR_RCX, JIT_GSX(JR_RCX, 8, X86_CTX(tlb_r)));
    jit_lea(b, JR_RCX, JIT_SUM(HSP, JR_RCX));
    jit_pext_mem(b, JR_RCX, JR_RCX, JIT_GS(X86_CTX(mask) + 8 * 3));
    known = jit_jrcxz_fwd(b);
    jit_mov_rr(b, JR_RCX, T1);
    jit_jmp(b, s->exit_ret);
    jit_patch8(b, known);
    jit_pext_mem(b, JR_RCX, HSP, JIT_GS(X86_CTX(tlb_mask)));
    jit_load(b, T0, JIT_GSX(JR_RCX, 8, X86_CTX(tlb_add)));
    jit_store(b, JIT_GS(add), T0);
    jit_load(b, T0, JIT_GSX(JR_RCX, 8, X86_CTX(tlb_r)));
    jit_store(b, JIT_GS(slot), T0);
    jit_patch8(b, hit);
    jit_load(b, T0, JIT_GS(add));
    jit_load(b, T0, JIT_SUM(HSP, T0));
    jit_lea(b, HSP, JIT_BASE(HSP, 8));
    jit_load(b, JR_RCX, JIT_BASE(JR_RSP, 8));
    jit_lea(b, JR_RCX, JIT_SUM(JR_RCX, T0));
    hit = jit_jrcxz_fwd(b);
    jit_mov_rr(b, JR_RCX, T1);
    jit_load(b, T1, JIT_GS(X86_CTX(branch_pc)));
    jit_jmp(b, s->ret_miss);
    jit_patch8(b, hit);
    jit_mov_rr(b, JR_RCX, T1);
    jit_8(b, 0xc3);
    return at;
}

/* The top pair did not predict this return: drop it (unless the stack is empty) and look the target up. */
const uint8_t *x86_rw_ret_miss_stub(struct jit_buf *b, const uint8_t *jump)
{
    const uint8_t *at = jit_here(b);
    uint8_t *empty;

    jit_store(b, JIT_GS(X86_CTX(branch_pc)), T1);
    jit_mov_rr(b, T1, JR_RCX);
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(neg_ss_top)));
    jit_lea(b, JR_RCX, JIT_SUM(JR_RSP, JR_RCX));
    empty = jit_jrcxz_fwd(b);
    jit_lea(b, JR_RSP, JIT_BASE(JR_RSP, 16));
    jit_patch8(b, empty);
    jit_mov_rr(b, JR_RCX, T1);
    jit_jmp(b, jump);
    return at;
}
