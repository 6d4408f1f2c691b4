/* The hand-made code every block relies on: entry, exits, TLB probe, indirect jumps. */
#include "accel/dbt/dbt_int.h"

enum { T0 = JR_R10, T1 = JR_R11, HSP = JR_R9 };
#define CPU(f)  ((int32_t)offsetof(struct x86_cpu, f))
#define SLOT(f) (X86_CTX(slot) + (int32_t)offsetof(struct x86_slot, f))
static_assert(sizeof(struct x86_slot) == 16, "the TLB stub scales slot numbers");

static void save_flags(struct jit_buf *b) /* AH = SF ZF AF PF CF, AL = OF; RAX must be free */
{
    jit_8(b, 0x9f);                      /* lahf */
    jit_op_reg(b, 0, 0x0f90, 0, JR_RAX); /* seto al */
}

static void restore_flags(struct jit_buf *b)
{
    jit_8(b, 0x04); /* add al, 0x7f */
    jit_8(b, 0x7f);
    jit_8(b, 0x9e); /* sahf */
}

static const uint8_t *make_enter(struct jit_buf *b, enum x86_rw_vec vec)
{
    const uint8_t *at = jit_here(b);

    x86_rw_enter_frame(b, vec);
    jit_load32(b, JR_RAX, JIT_GS(X86_CTX(flags)));
    restore_flags(b);
    x86_rw_load_pinned(b);
    jit_load(b, JR_RSP, JIT_GS(X86_CTX(ss_rsp)));
    jit_load(b, T0, JIT_GS(X86_CTX(t0)));
    jit_load(b, T1, JIT_GS(X86_CTX(t1)));
    jit_jmp_mem(b, JIT_GS(X86_CTX(enter_target)));
    return at;
}

/* The common way out: T0, T1 saved by the caller of this piece, the reason in T1. */
static const uint8_t *make_exit(struct jit_buf *b, enum x86_rw_vec vec)
{
    const uint8_t *at = jit_here(b);

    jit_store(b, JIT_GS(X86_CTX(ss_rsp)), JR_RSP);
    jit_load(b, T0, JIT_GS(X86_CTX(cpu)));
    x86_rw_store_pinned(b);
    save_flags(b);
    jit_store32(b, JIT_GS(X86_CTX(flags)), JR_RAX);
    x86_rw_leave_frame(b, vec);
    return at;
}

static const uint8_t *make_reason(struct jit_buf *b, const uint8_t *exit, enum dbt_exit why)
{
    const uint8_t *at = jit_here(b);

    jit_store(b, JIT_GS(X86_CTX(t0)), T0);
    jit_store(b, JIT_GS(X86_CTX(t1)), T1);
    jit_mov_ri(b, T1, why);
    jit_jmp(b, exit);
    return at;
}

static void reload(struct jit_buf *b, bool flags) /* what the TLB stubs borrowed */
{
    if (flags) {
        jit_load32(b, JR_RAX, JIT_GS(X86_CTX(flags)));
        restore_flags(b);
    }
    jit_load(b, JR_RAX, JIT_GS(X86_CTX(save_rax)));
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(save_rcx)));
    jit_load(b, JR_RDX, JIT_GS(X86_CTX(save_rdx)));
}

static void op_imm32(struct jit_buf *b, unsigned digit, unsigned reg, uint32_t imm) /* and, cmp ... of 32 bits */
{
    jit_op_reg(b, 0, 0x81, digit, reg);
    jit_32(b, imm);
}

/* T0 = address, T1 = info, return address on the stack. All registers but T1 are preserved, and flags if wanted. */
static const uint8_t *make_tlb(struct jit_buf *b, const struct dbt *d, bool write, bool flags, const uint8_t *slow)
{
    const uint8_t *at = jit_here(b);
    uint8_t *miss, *hot, *fits, *alone, *known, *same;

    jit_store(b, JIT_GS(X86_CTX(save_rax)), JR_RAX);
    jit_store(b, JIT_GS(X86_CTX(save_rcx)), JR_RCX);
    jit_store(b, JIT_GS(X86_CTX(save_rdx)), JR_RDX);
    if (flags) {
        save_flags(b);
        jit_store32(b, JIT_GS(X86_CTX(flags)), JR_RAX);
    }
    jit_mov_rr32(b, JR_RDX, T1);
    op_imm32(b, 4, JR_RDX, X86_SLOTS - 1);                           /* and: the slot */
    jit_op_mem(b, 0, 0x80, 0, JIT_GSX(JR_RDX, 1, X86_CTX(miss)), 1); /* add miss, 1 */
    jit_8(b, 1);
    hot = jit_jcc_fwd(b, JCC_B);
    x86_rw_tlb_offset(b, JR_RCX, T0);
    jit_mov_rr32(b, JR_RAX, T1);
    jit_op_reg(b, 0, 0xc1, 5, JR_RAX); /* shr eax, 16 */
    jit_8(b, 16);
    jit_op_reg(b, JIT_RM8, 0x0fb6, JR_RAX, JR_RAX); /* movzx eax, al: the size */
    /* (address - page) + size must not exceed 4096. */
    jit_op_reg(b, JIT_W, 0x01, T0, JR_RAX); /* add rax, r10 */
    jit_op_mem(b, JIT_W, 0x03, JR_RAX, JIT_GSX(JR_RCX, 1, write ? X86_CTX(tlb[0].w) : X86_CTX(tlb[0].r)), 0);
    jit_cmp_imm(b, JR_RAX, 4096);
    miss = jit_jcc_fwd(b, JCC_A);
    /* Refill the slot, and note it in the log if it was empty. */
    jit_op_reg(b, 0, 0x01, JR_RDX, JR_RDX); /* 16-byte slots by index * 2 * 8 */
    jit_op_mem(b, 0, 0x81, 7, JIT_GSX(JR_RDX, 8, SLOT(neg_page) + 4), 4);
    jit_32(b, DBT_EMPTY >> 32);
    known = jit_jcc8_fwd(b, JCC_NE);
    jit_load32(b, JR_RAX, JIT_GS(X86_CTX(nr_slot_log)));
    op_imm32(b, 4, T1, X86_SLOTS - 1);
    jit_op_mem(b, JIT_66, 0x89, T1, JIT_GSX(JR_RAX, 2, X86_CTX(slot_log)), 0);
    op_imm32(b, 7, JR_RAX, ARRAY_LEN(((struct x86_ctx *)0)->slot_log) - 1); /* cmp */
    jit_op_reg(b, 0, 0x83, 2, JR_RAX); /* adc eax, 0: stops at the last entry, which means "too many" */
    jit_8(b, 0);
    jit_store32(b, JIT_GS(X86_CTX(nr_slot_log)), JR_RAX);
    jit_patch8(b, known);
    jit_load(b, T1, JIT_GSX(JR_RCX, 1, X86_CTX(tlb[0].add)));
    jit_load(b, JR_RAX, JIT_GSX(JR_RCX, 1, write ? X86_CTX(tlb[0].w) : X86_CTX(tlb[0].r)));
    jit_store(b, JIT_GSX(JR_RDX, 8, SLOT(add)), T1);
    if (write &&
        d->m->max_cpus > 1) { /* see dbt_page_is_code: one that emptied the TLB meanwhile may have missed the slot */
        jit_op_mem(b, JIT_W, 0x87, JR_RAX, JIT_GSX(JR_RDX, 8, SLOT(neg_page)), 0); /* xchg: a fence too */
        jit_load(b, JR_RAX, JIT_GSX(JR_RCX, 1, X86_CTX(tlb[0].w)));
        jit_op_mem(b, JIT_W, 0x3b, JR_RAX, JIT_GSX(JR_RDX, 8, SLOT(neg_page)), 0);
        same = jit_jcc8_fwd(b, JCC_E);
        jit_store(b, JIT_GSX(JR_RDX, 8, SLOT(neg_page)), JR_RAX);
        jit_patch8(b, same);
    } else {
        jit_store(b, JIT_GSX(JR_RDX, 8, SLOT(neg_page)), JR_RAX);
    }
    reload(b, flags);
    jit_8(b, 0xc3);
    jit_patch32(b, hot);
    op_imm32(b, 1, T1, X86_RWI_HOT); /* or */
    jit_patch32(b, miss);
    jit_op_reg(b, 0, 0x85, T1, T1); /* test: sign = X86_RWI_SPAN */
    alone = jit_jcc8_fwd(b, JCC_NS);
    /* A span over the end of the page returns behind the usual place. */
    jit_mov_rr32(b, JR_RAX, T1);
    jit_op_reg(b, 0, 0xc1, 5, JR_RAX); /* shr eax, 16 */
    jit_8(b, 16);
    jit_op_reg(b, JIT_RM8, 0x0fb6, JR_RAX, JR_RAX);
    jit_mov_rr32(b, JR_RCX, T0);
    op_imm32(b, 4, JR_RCX, 0xfff);
    jit_op_reg(b, 0, 0x01, JR_RCX, JR_RAX);
    op_imm32(b, 7, JR_RAX, 4096);
    fits = jit_jcc8_fwd(b, JCC_BE);
    jit_load(b, JR_RCX, JIT_BASE(JR_RSP, 0));
    jit_lea(b, JR_RCX, JIT_BASE(JR_RCX, 5));
    jit_store(b, JIT_BASE(JR_RSP, 0), JR_RCX);
    reload(b, flags);
    jit_8(b, 0xc3);
    jit_patch8(b, alone);
    jit_patch8(b, fits);
    reload(b, flags);
    jit_jmp(b, slow);
    return at;
}

static void name_stubs(struct dbt *d, const uint8_t *end)
{
    const struct x86_stubs *s = &d->stubs;
    const struct {
        const uint8_t *at;
        const char *name;
    } part[] = {{s->enter, "enter_and_exits"},
                {s->tlb_read, "tlb_read"},
                {s->tlb_write, "tlb_write"},
                {s->tlb_read_lost, "tlb_read_lost"},
                {s->tlb_write_lost, "tlb_write_lost"},
                {s->jump, "jump"},
                {s->ret_miss, "ret_miss"},
                {s->ret, "ret"},
                {end, NULL}};

    for (unsigned i = 0; i + 1 < ARRAY_LEN(part); i++)
        jit_cache_perf_name(&d->cache, part[i].at, part[i + 1].at, part[i].name);
}

bool dbt_make_stubs(struct dbt *d, struct err **errp)
{
    struct jit_arena *a = &d->cache.arena;
    struct jit_buf b = {.start = a->w, .p = a->w, .end = a->w + 16384, .delta = a->x - a->w};
    const uint8_t *exit, *link, *slow;

    d->stubs.enter = make_enter(&b, d->host_vec);
    exit = make_exit(&b, d->host_vec);
    d->stubs.exit_interp = make_reason(&b, exit, DBT_EXIT_INTERP);
    d->stubs.exit_dispatch = make_reason(&b, exit, DBT_EXIT_DISPATCH);
    link = make_reason(&b, exit, DBT_EXIT_LINK);
    d->stubs.exit_link = x86_rw_called_stub(&b, link, false);
    d->stubs.exit_call = x86_rw_called_stub(&b, link, true);
    d->stubs.exit_leave = x86_rw_called_stub(&b, make_reason(&b, exit, DBT_EXIT_LEAVE), false);
    d->stubs.exit_ret = make_reason(&b, exit, DBT_EXIT_RET);
    d->stubs.exit_no_loop = make_reason(&b, exit, DBT_EXIT_NO_LOOP);
    d->stubs.exit_signal = make_reason(&b, exit, DBT_EXIT_SIGNAL);
    slow = make_reason(&b, exit, DBT_EXIT_SLOW);
    d->stubs.tlb_read = make_tlb(&b, d, false, true, slow);
    d->stubs.tlb_write = make_tlb(&b, d, true, true, slow);
    d->stubs.tlb_read_lost = make_tlb(&b, d, false, false, slow);
    d->stubs.tlb_write_lost = make_tlb(&b, d, true, false, slow);
    d->stubs.jump = x86_rw_jump_stub(&b, d->stubs.exit_dispatch);
    d->stubs.ret_miss = x86_rw_ret_miss_stub(&b, d->stubs.jump);
    d->stubs.ret_bottom = x86_rw_ret_bottom_stub(&b, d->stubs.ret_miss);
    d->stubs.load_wide = d->host_vec == X86_RWV_AVX512 ? x86_rw_load_wide_stub(&b) : NULL;
    d->stubs.ret = x86_rw_ret_stub(&b, d->stubs.exit_ret);
    if (!jit_ok(&b))
        return err_set(errp, "translator: its shared code does not fit");
    d->cache.leave = d->stubs.exit_dispatch;
    d->cache.leave_reg = JR_R10;
    d->cache.leave_call = d->stubs.exit_leave;
    d->cache.call_out = d->stubs.exit_call;
    name_stubs(d, jit_here(&b));
    a->used = a->keep = align_up((uint64_t)(b.p - b.start), 64);
    return true;
}
