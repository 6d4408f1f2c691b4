/* Rewriter: the shared code that its blocks jump to, apart from what belongs to a runtime. */
#include "guest/x86/rw_int.h"
#include "guest/x86/state.h"

void x86_rw_tlb_offset(struct jit_buf *b, unsigned dst, unsigned address)
{
    jit_rorx(b, dst, address, X86_TLB_SHIFT);
    jit_op_mem(b, 0, 0x23, dst, JIT_GS(X86_CTX(tlb_offset)), 0); /* and */
}

void x86_rw_tlb_index(struct jit_buf *b, unsigned dst, unsigned address)
{
    jit_pext_mem(b, dst, address, JIT_GS(X86_CTX(tlb_mask)));
    jit_lea(b, dst, (struct jit_mem){JR_NONE, (uint8_t)dst, 4, false, 0});
}

void x86_rw_jc(struct jit_buf *b)
{
    jit_lea(b, T1, (struct jit_mem){T0, T0, 8, false, 0});
    jit_pext_mem(b, T1, T1, JIT_GS(X86_CTX(jc_mask)));
}

#define CPU(f) ((int32_t)offsetof(struct x86_cpu, f))

enum x86_rw_vec x86_rw_host_vec(void)
{
    struct x86_features f;

    x86_features_max(&f);
    return x86_has(&f, X86_F_AVX512F)      ? X86_RWV_AVX512 /* with DQ, BW and VL */
           : __builtin_cpu_supports("avx") ? X86_RWV_AVX
                                           : X86_RWV_SSE;
}

static const struct {
    uint8_t host, guest;
} pinned[] = {{JR_RAX, 0}, {JR_RCX, 1}, {JR_RDX, 2},  {JR_RBX, 3},  {HSP, 4},     {JR_RBP, 5}, {JR_RSI, 6},
              {JR_RDI, 7}, {JR_R8, 8},  {JR_R12, 12}, {JR_R13, 13}, {JR_R14, 14}, {JR_R15, 15}};
static const uint8_t callee_saved[] = {JR_RBX, JR_RBP, JR_R12, JR_R13, JR_R14, JR_R15};

static struct jit_mem vec_half(unsigned n, bool upper)
{
    return JIT_BASE(T0, CPU(v) + (int32_t)(n * sizeof(union x86_vreg)) + (upper ? 16 : 0));
}

/* VEX 0F op reg, xmm0, [m] with m based on T0; last: the third byte of the prefix but for vvvv. */
static void vex_mem(struct jit_buf *b, unsigned last, unsigned op, unsigned reg, unsigned vvvv, struct jit_mem m)
{
    jit_8(b, 0xc4);
    jit_8(b, (reg & 8 ? 0u : 0x80u) | 0x40 | 1);
    jit_8(b, (~vvvv & 15) << 3 | last);
    jit_8(b, op);
    jit_modrm_mem(b, reg, m);
}

enum { VEX_128 = 0, VEX_66 = 1, VEX_256 = 4, V_LOAD = 0x10, V_STORE = 0x11, V_POR = 0xeb };

static void vzeroupper(struct jit_buf *b)
{
    jit_8(b, 0xc5);
    jit_8(b, 0xf8);
    jit_8(b, 0x77);
}

/* While the host takes upper halves to be in use, each SSE instruction waits for the old value of what it writes (AMD,
 * 2022: loops of SSE code are up to three times as slow), and loads of 32 bytes put them in use, zeros too. So halves
 * that are all zero are not loaded. */
static void load_vectors(struct jit_buf *b, enum x86_rw_vec vec)
{
    uint8_t *zero, *over;

    if (vec == X86_RWV_SSE) {
        for (unsigned i = 0; i < 16; i++)
            jit_op_mem(b, 0, 0x0f10, i, vec_half(i, false), 0);
        return;
    }
    vex_mem(b, VEX_128, V_LOAD, 0, 0, vec_half(0, true));
    for (unsigned i = 1; i < 16; i++)
        vex_mem(b, VEX_128 | VEX_66, V_POR, 0, 0, vec_half(i, true));
    for (unsigned i = 0; i < 5; i++)
        jit_8(b, (const uint8_t[]){0xc4, 0xe2, 0x79, 0x17, 0xc0}[i]); /* vptest xmm0, xmm0 */
    zero = jit_jcc_fwd(b, JCC_E);
    for (unsigned i = 0; i < 16; i++)
        vex_mem(b, VEX_256, V_LOAD, i, 0, vec_half(i, false));
    over = jit_jmp_fwd(b);
    jit_patch32(b, zero);
    for (unsigned i = 0; i < 16; i++)
        vex_mem(b, VEX_128, V_LOAD, i, 0, vec_half(i, false));
    vzeroupper(b);
    jit_patch32(b, over);
}

static void store_vectors(struct jit_buf *b, enum x86_rw_vec vec)
{
    for (unsigned i = 0; i < 16; i++)
        if (vec != X86_RWV_SSE)
            vex_mem(b, VEX_256, V_STORE, i, 0, vec_half(i, false));
        else
            jit_op_mem(b, 0, 0x0f11, i, vec_half(i, false), 0);
}

/* ---- AVX-512 ---- */

enum { L_128 = 0, L_256 = 1, L_512 = 2 };

/* VMOVUPD between a register, its low half (ymm) or all of it (zmm), and its place. */
static void move_wide(struct jit_buf *b, unsigned op, unsigned l, unsigned reg)
{
    int32_t n = 16 << l, at = CPU(v) + (int32_t)(reg * sizeof(union x86_vreg));

    jit_evex(b, JIT_W, 1, 1, l, reg, 0, T0);
    jit_8(b, op);
    if (at % n == 0 && at / n < 128) { /* an 8-bit displacement counts operands */
        jit_8(b, 0x40 | (reg & 7) << 3 | (T0 & 7));
        jit_8(b, (unsigned)(at / n));
    } else {
        jit_8(b, 0x80 | (reg & 7) << 3 | (T0 & 7));
        jit_32(b, (uint32_t)at);
    }
}

static void move_masks(struct jit_buf *b, unsigned op) /* KMOVQ */
{
    for (unsigned i = 0; i < 8; i++) {
        struct jit_mem m = JIT_BASE(T0, CPU(k) + 8 * (int32_t)i);

        jit_8(b, 0xc4);
        jit_8(b, 0x80 | 0x40 | 1);
        jit_8(b, 0xf8);
        jit_8(b, op);
        jit_modrm_mem(b, i, m);
    }
}
enum { K_LOAD = 0x90, K_STORE = 0x91 };

static void cmp_word(struct jit_buf *b, struct jit_mem m, int imm)
{
    jit_op_mem(b, 0, 0x83, 7, m, 1);
    jit_8(b, (unsigned)imm);
}

/* Registers 16 to 31, which no SSE instruction waits for, and masks. */
static void load_away(struct jit_buf *b)
{
    for (unsigned i = 16; i < 32; i++)
        move_wide(b, V_LOAD, L_512, i);
    move_masks(b, K_LOAD);
    jit_store32_imm(b, JIT_GS(X86_CTX(wide_away)), 0);
}

/* Registers 0 to 15 are the guest's to the last bit, the others where they are not away. */
static void load_wide(struct jit_buf *b)
{
    uint8_t *upper, *away, *here;

    cmp_word(b, JIT_BASE(T0, CPU(upper)), 0);
    upper = jit_jcc_fwd(b, JCC_NE);
    load_vectors(b, X86_RWV_AVX);
    cmp_word(b, JIT_GS(X86_CTX(wide_away)), 0);
    away = jit_jcc_fwd(b, JCC_NE);
    here = jit_jmp_fwd(b);
    jit_patch32(b, upper);
    for (unsigned i = 0; i < 16; i++)
        move_wide(b, V_LOAD, L_512, i);
    jit_patch32(b, here);
    load_away(b);
    jit_patch32(b, away);
}

/* ymm0 becomes what registers 0 to 15 have above bit 255, three inputs a step (VPTERNLOGQ). */
static void gather_upper(struct jit_buf *b)
{
    static const uint8_t extract[16] = {0x62, 0xf3, 0xfd, 0x48, 0x3b, 0xc0, 1}; /* vextracti64x4 ymm0, zmm0, 1 */

    for (unsigned i = 1; i < 16; i += 2) {
        unsigned last = i < 15 ? i + 1 : i;

        jit_evex(b, JIT_W, 3, 1, L_512, 0, i, last);
        jit_8(b, 0x25);
        jit_8(b, 0xc0 | (last & 7));
        jit_8(b, 0xfe);
    }
    jit_bytes(b, extract, 7);
}

static void test_ymm0(struct jit_buf *b)
{
    static const uint8_t vptest[16] = {0xc4, 0xe2, 0x7d, 0x17, 0xc0};

    jit_bytes(b, vptest, 5);
}

/* What is away has not changed, and nothing is above bit 255 then: only code that has met load_away writes there. Upper
 * halves that are zero, and are in memory, are not written. */
static void store_wide(struct jit_buf *b)
{
    uint8_t *here, *some, *none, *over;

    cmp_word(b, JIT_GS(X86_CTX(wide_away)), 0);
    here = jit_jcc_fwd(b, JCC_E);
    store_vectors(b, X86_RWV_AVX);
    over = jit_jmp_fwd(b);
    jit_patch32(b, here);
    move_masks(b, K_STORE);
    for (unsigned i = 0; i < 32; i++)
        move_wide(b, V_STORE, i && i < 16 ? L_256 : L_512, i);
    gather_upper(b);
    test_ymm0(b);
    some = jit_jcc_fwd(b, JCC_NE);
    cmp_word(b, JIT_BASE(T0, CPU(upper)), 0);
    none = jit_jcc_fwd(b, JCC_E);
    jit_patch32(b, some);
    for (unsigned i = 1; i < 16; i++)
        move_wide(b, V_STORE, L_512, i);
    test_ymm0(b);
    jit_op_mem(b, 0, 0x0f95, 0, JIT_BASE(T0, CPU(upper)), 0); /* setne */
    jit_patch32(b, none);
    jit_patch32(b, over);
}

/* For code that is about to use them: flags and all registers but T0 are kept. */
const uint8_t *x86_rw_load_wide_stub(struct jit_buf *b)
{
    const uint8_t *at = jit_here(b);

    jit_load(b, T0, JIT_GS(X86_CTX(cpu)));
    load_away(b);
    jit_8(b, 0xc3);
    return at;
}

void x86_rw_enter_frame(struct jit_buf *b, enum x86_rw_vec vec)
{
    for (unsigned i = 0; i < ARRAY_LEN(callee_saved); i++)
        jit_push(b, callee_saved[i]);
    jit_op_mem(b, 0, 0x0fae, 3, JIT_GS(X86_CTX(host_mxcsr)), 0); /* stmxcsr */
    jit_store(b, JIT_GS(X86_CTX(host_rsp)), JR_RSP);
    jit_load(b, T0, JIT_GS(X86_CTX(cpu)));
    if (vec == X86_RWV_AVX512)
        load_wide(b);
    else
        load_vectors(b, vec);
    jit_op_mem(b, 0, 0x0fae, 2, JIT_BASE(T0, CPU(fx.mxcsr)), 0); /* ldmxcsr */
    for (unsigned i = 0; i < 3; i++) {
        jit_load(b, T1, JIT_BASE(T0, CPU(regs) + 8 * (int)(9 + i)));
        jit_store(b, JIT_GS(X86_CTX(home) + 8 * (int)i), T1);
    }
}

void x86_rw_load_pinned(struct jit_buf *b)
{
    for (unsigned i = 0; i < ARRAY_LEN(pinned); i++)
        jit_load(b, pinned[i].host, JIT_BASE(T0, CPU(regs) + 8 * pinned[i].guest));
}

void x86_rw_store_pinned(struct jit_buf *b)
{
    for (unsigned i = 0; i < ARRAY_LEN(pinned); i++)
        jit_store(b, JIT_BASE(T0, CPU(regs) + 8 * pinned[i].guest), pinned[i].host);
}

void x86_rw_leave_frame(struct jit_buf *b, enum x86_rw_vec vec)
{
    for (unsigned i = 0; i < 3; i++) {
        jit_load(b, JR_RAX, JIT_GS(X86_CTX(home) + 8 * (int)i));
        jit_store(b, JIT_BASE(T0, CPU(regs) + 8 * (int)(9 + i)), JR_RAX);
    }
    if (vec == X86_RWV_AVX512)
        store_wide(b);
    else
        store_vectors(b, vec);
    jit_op_mem(b, 0, 0x0fae, 3, JIT_BASE(T0, CPU(fx.mxcsr)), 0);
    jit_op_mem(b, 0, 0x0fae, 2, JIT_GS(X86_CTX(host_mxcsr)), 0);
    if (vec != X86_RWV_SSE)
        vzeroupper(b);
    jit_load(b, JR_RSP, JIT_GS(X86_CTX(host_rsp)));
    jit_mov_rr32(b, JR_RAX, T1);
    for (unsigned i = ARRAY_LEN(callee_saved); i-- > 0;)
        jit_pop(b, callee_saved[i]);
    jit_8(b, 0xc3);
}

const uint8_t *x86_rw_called_stub(struct jit_buf *b, const uint8_t *exit, bool keep)
{
    const uint8_t *at = jit_here(b);

    if (keep)
        jit_load(b, T1, JIT_BASE(JR_RSP, 0));
    else
        jit_pop(b, T1);
    jit_jmp(b, exit);
    return at;
}

/* T0 = pc. Looks in the context's jump table without touching flags. For returns gone astray; jumps have their own. */
const uint8_t *x86_rw_jump_stub(struct jit_buf *b, const uint8_t *dispatch)
{
    const uint8_t *at = jit_here(b);
    uint8_t *hit;

    jit_store(b, JIT_GS(X86_CTX(save_rcx)), JR_RCX);
    x86_rw_jc(b);
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
const uint8_t *x86_rw_ret_stub(struct jit_buf *b, const uint8_t *exit_ret)
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
    x86_rw_tlb_index(b, JR_RCX, HSP);
    jit_load(b, JR_RCX, JIT_GSX(JR_RCX, 8, X86_CTX(tlb[0].r)));
    jit_lea(b, JR_RCX, JIT_SUM(HSP, JR_RCX));
    jit_pext_mem(b, JR_RCX, JR_RCX, JIT_GS(X86_CTX(mask) + 8 * 3));
    known = jit_jrcxz_fwd(b);
    jit_mov_rr(b, JR_RCX, T1);
    jit_jmp(b, exit_ret);
    jit_patch8(b, known);
    x86_rw_tlb_index(b, JR_RCX, HSP);
    jit_load(b, T0, JIT_GSX(JR_RCX, 8, X86_CTX(tlb[0].add)));
    jit_store(b, JIT_GS(add), T0);
    jit_load(b, T0, JIT_GSX(JR_RCX, 8, X86_CTX(tlb[0].r)));
    jit_store(b, JIT_GS(slot), T0);
    jit_patch8(b, hit);
    jit_load(b, JR_RCX, JIT_GS(add));
    jit_load(b, T0, JIT_SUM(HSP, JR_RCX));
    jit_lea(b, HSP, JIT_BASE(HSP, 8));
    jit_8(b, 0xc3);
    return at;
}

const uint8_t *x86_rw_ret_miss_stub(struct jit_buf *b, const uint8_t *jump)
{
    const uint8_t *at = jit_here(b);

    jit_mov_rr(b, JR_RCX, T1);
    jit_jmp(b, jump);
    return at;
}

const uint8_t *x86_rw_ret_bottom_stub(struct jit_buf *b, const uint8_t *ret_miss)
{
    const uint8_t *at = jit_here(b);

    jit_lea(b, JR_RSP, JIT_BASE(JR_RSP, -8));
    jit_jmp(b, ret_miss);
    return at;
}
