/* Far transfers: jumps, calls, returns, interrupts by instruction, task switches, fast system calls.
 *
 * After the Intel SDM vol. 2 (each instruction's operation) and vol. 3 chapters 5-8; SYSCALL as in the AMD APM. Each
 * function checks everything it can before it changes registers, so that a fault finds the instruction undone. */
#include "guest/x86/x86_int.h"

static NORETURN void gp(struct x86_cpu *c, uint32_t sel)
{
    x86_raise_err(c, X86_GP, sel & 0xfffcu);
}

static uint64_t clip(unsigned opsz, uint64_t v)
{
    return opsz == 8 ? v : opsz == 4 ? (uint32_t)v : (uint16_t)v;
}

static bool is_code(uint32_t hi)
{
    return (hi & (X86_SEG_S | X86_SEG_CODE)) == (X86_SEG_S | X86_SEG_CODE);
}

/* Target of a transfer to code with this descriptor: must lie within the segment. */
static void check_target(struct x86_cpu *c, const struct x86_desc *d, uint64_t off)
{
    struct x86_seg s;

    if (c->long_mode && d->hi & X86_SEG_L) {
        if (!x86_canonical(c, off))
            gp(c, 0);
        return;
    }
    x86_desc_seg(d, 0, &s);
    if (off > s.limit)
        gp(c, 0);
}

static void set_cs(struct x86_cpu *c, struct x86_desc *d, uint16_t sel, unsigned cpl, uint64_t off)
{
    x86_desc_mark(c, d, X86_SEG_A);
    x86_desc_seg(d, (uint16_t)((sel & ~3u) | cpl), &c->seg[X86_CS]);
    c->cpl = (uint8_t)cpl;
    c->rip = off;
    x86_update_mode(c);
}

static void real_jump(struct x86_cpu *c, uint16_t sel, uint64_t off)
{
    if (off > 0xffff && off > c->seg[X86_CS].limit)
        x86_raise_err(c, X86_GP, 0);
    if (x86_v86(c))
        x86_seg_v86(c, X86_CS, sel);
    else
        x86_seg_real(c, X86_CS, sel);
    c->rip = off;
    x86_update_mode(c);
}

/* A direct far transfer to a code segment: privilege rules of JMP and CALL. */
static void check_direct(struct x86_cpu *c, const struct x86_desc *d, uint16_t sel)
{
    unsigned dpl = x86_desc_dpl(d->hi);

    if (d->hi & X86_SEG_C ? dpl > c->cpl : dpl != c->cpl || (sel & 3u) > c->cpl)
        gp(c, sel);
    if (!(d->hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, sel & ~3u);
    if (c->long_mode && d->hi & X86_SEG_L && d->hi & X86_SEG_DB)
        gp(c, sel);
}

struct gate {
    uint16_t sel;
    uint64_t off;
    unsigned size; /* 2, 4, 8: of what is pushed */
    unsigned params;
};

static void read_gate(struct x86_cpu *c, const struct x86_desc *d, uint16_t sel, struct gate *g)
{
    unsigned dpl = x86_desc_dpl(d->hi);

    if (dpl < c->cpl || dpl < (sel & 3u))
        gp(c, sel);
    if (!(d->hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, sel & ~3u);
    g->sel = (uint16_t)(d->lo >> 16);
    g->off = (d->lo & 0xffff) | (d->hi & 0xffff0000);
    g->size = d->hi >> 8 & 8 ? 4 : 2;
    g->params = d->hi & 0x1f;
    if (g->size == 2)
        g->off &= 0xffff;
    if (c->long_mode) {
        uint64_t up = x86_ld_sys(c, d->at + 8, 8);

        if (up >> 40 & 0x1f)
            gp(c, sel);
        g->off |= up << 32;
        g->size = 8;
        g->params = 0;
    }
}

/* The code segment behind a call gate. */
static void gate_target(struct x86_cpu *c, const struct gate *g, struct x86_desc *d)
{
    if (!x86_desc_read(c, g->sel, d) || !is_code(d->hi) || x86_desc_dpl(d->hi) > c->cpl)
        gp(c, g->sel);
    if (c->long_mode && (!(d->hi & X86_SEG_L) || d->hi & X86_SEG_DB))
        gp(c, g->sel);
    if (!(d->hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, g->sel & ~3u);
    check_target(c, d, g->off);
}

void x86_far_jmp(struct x86_cpu *c, uint16_t sel, uint64_t off, unsigned opsz)
{
    struct x86_desc d;
    struct gate g;

    off = clip(opsz, off);
    if (!x86_pm(c)) {
        real_jump(c, sel, off);
        return;
    }
    if (!x86_desc_read(c, sel, &d))
        gp(c, sel);
    if (is_code(d.hi)) {
        check_direct(c, &d, sel);
        check_target(c, &d, off);
        set_cs(c, &d, sel, c->cpl, off);
        return;
    }
    switch (d.hi >> 8 & 0x1f) {
    case 1:
    case 9:
    case 5:
        if (c->long_mode)
            gp(c, sel);
        if (x86_desc_dpl(d.hi) < c->cpl || x86_desc_dpl(d.hi) < (sel & 3u))
            gp(c, sel);
        if (!(d.hi & X86_SEG_P))
            x86_raise_err(c, X86_NP, sel & ~3u);
        x86_task_switch(c, (d.hi >> 8 & 0x1f) == 5 ? (uint16_t)(d.lo >> 16) : sel, X86_TASK_JMP, c->next_rip, false, 0);
        return;
    case 4:
        if (c->long_mode)
            gp(c, sel);
        FALLTHROUGH;
    case 12:
        read_gate(c, &d, sel, &g);
        gate_target(c, &g, &d);
        if (!(d.hi & X86_SEG_C) && x86_desc_dpl(d.hi) != c->cpl)
            gp(c, g.sel);
        set_cs(c, &d, g.sel, c->cpl, g.off);
        return;
    default:
        gp(c, sel);
    }
}

static void call_gate_inner(struct x86_cpu *c, const struct gate *g, struct x86_desc *d, uint64_t next)
{
    const struct x86_seg *tr = &c->seg[X86_TR];
    unsigned dpl = x86_desc_dpl(d->hi);
    struct x86_seg old_ss = c->seg[X86_SS], ss;
    uint64_t old_sp = c->regs[X86_RSP], sp, params[32];
    struct x86_desc sd;
    uint32_t mask;

    if (c->long_mode) {
        if (4 + dpl * 8 + 7 > tr->limit)
            x86_raise_err(c, X86_TS, tr->sel & ~3u);
        sp = x86_ld_sys(c, tr->base + 4 + dpl * 8, 8);
        x86_st_sys(c, sp - 8, 8, old_ss.sel);
        x86_st_sys(c, sp - 16, 8, old_sp);
        x86_st_sys(c, sp - 24, 8, c->seg[X86_CS].sel);
        x86_st_sys(c, sp - 32, 8, next);
        c->seg[X86_SS] = (struct x86_seg){.sel = (uint16_t)dpl, .flags = dpl << X86_SEG_DPL_SHIFT};
        c->regs[X86_RSP] = sp - 32;
        set_cs(c, d, g->sel, dpl, g->off);
        return;
    }
    {
        bool wide = tr->flags >> 8 & 8;
        uint32_t at = wide ? 4 + dpl * 8 : 2 + dpl * 4;
        uint16_t sel;

        if (at + (wide ? 5u : 3u) > tr->limit)
            x86_raise_err(c, X86_TS, tr->sel & ~3u);
        sp = x86_ld_sys(c, tr->base + at, wide ? 4 : 2);
        sel = (uint16_t)x86_ld_sys(c, tr->base + at + (wide ? 4 : 2), 2);
        if (!x86_desc_read(c, sel, &sd) || (sel & 3u) != dpl || x86_desc_dpl(sd.hi) != dpl ||
            (sd.hi & (X86_SEG_S | X86_SEG_CODE | X86_SEG_W)) != (X86_SEG_S | X86_SEG_W))
            x86_raise_err(c, X86_TS, sel & ~3u);
        if (!(sd.hi & X86_SEG_P))
            x86_raise_err(c, X86_VEC_SS, sel & ~3u);
        x86_desc_seg(&sd, sel, &ss);
    }
    mask = old_ss.flags & X86_SEG_DB ? UINT32_MAX : 0xffff;
    for (unsigned i = 0; i < g->params; i++)
        params[i] = x86_ld(c, (uint32_t)(old_ss.base + ((uint32_t)(old_sp + i * g->size) & mask)), g->size);
    mask = ss.flags & X86_SEG_DB ? UINT32_MAX : 0xffff;
#define PUSH(v) (sp = (sp - g->size) & mask, x86_st_sys(c, (uint32_t)(ss.base + sp), g->size, (v)))
    PUSH(old_ss.sel);
    PUSH(old_sp);
    for (unsigned i = g->params; i-- > 0;)
        PUSH(params[i]);
    PUSH(c->seg[X86_CS].sel);
    PUSH(next);
#undef PUSH
    x86_desc_mark(c, &sd, X86_SEG_A);
    c->seg[X86_SS] = ss;
    c->regs[X86_RSP] = sp;
    set_cs(c, d, g->sel, dpl, g->off);
}

/* Both pushes or none: the lower one is tried first. */
static void push_pair(struct x86_cpu *c, unsigned size, uint64_t first, uint64_t second)
{
    uint64_t sp = c->regs[X86_RSP];

    x86_set_rsp(c, sp - size);
    x86_push(c, size, second);
    c->regs[X86_RSP] = sp;
    x86_push(c, size, first);
    x86_push(c, size, second);
}

void x86_far_call(struct x86_cpu *c, uint16_t sel, uint64_t off, unsigned opsz, uint64_t next)
{
    struct x86_desc d;
    struct gate g;

    off = clip(opsz, off);
    if (!x86_pm(c)) {
        push_pair(c, opsz, c->seg[X86_CS].sel, next);
        real_jump(c, sel, off);
        return;
    }
    if (!x86_desc_read(c, sel, &d))
        gp(c, sel);
    if (is_code(d.hi)) {
        check_direct(c, &d, sel);
        check_target(c, &d, off);
        push_pair(c, opsz, c->seg[X86_CS].sel, next);
        set_cs(c, &d, sel, c->cpl, off);
        return;
    }
    switch (d.hi >> 8 & 0x1f) {
    case 1:
    case 9:
    case 5:
        if (c->long_mode || x86_desc_dpl(d.hi) < c->cpl || x86_desc_dpl(d.hi) < (sel & 3u))
            gp(c, sel);
        if (!(d.hi & X86_SEG_P))
            x86_raise_err(c, X86_NP, sel & ~3u);
        x86_task_switch(c, (d.hi >> 8 & 0x1f) == 5 ? (uint16_t)(d.lo >> 16) : sel, X86_TASK_CALL, next, false, 0);
        return;
    case 4:
        if (c->long_mode)
            gp(c, sel);
        FALLTHROUGH;
    case 12:
        read_gate(c, &d, sel, &g);
        gate_target(c, &g, &d);
        if (!(d.hi & X86_SEG_C) && x86_desc_dpl(d.hi) < c->cpl) {
            call_gate_inner(c, &g, &d, next);
            return;
        }
        push_pair(c, g.size, c->seg[X86_CS].sel, next);
        set_cs(c, &d, g.sel, c->cpl, g.off);
        return;
    default:
        gp(c, sel);
    }
}

/* ---- returns ---- */

/* Reads from the stack without moving it. */
static uint64_t peek(struct x86_cpu *c, unsigned at, unsigned size)
{
    unsigned n = x86_stack_size(c);
    uint64_t sp = c->regs[X86_RSP] + at;

    sp = n == 8 ? sp : n == 4 ? (uint32_t)sp : (uint16_t)sp;
    return x86_ld(c, x86_seg_lin(c, X86_SS, sp, size, X86_READ), size);
}

/* Data segments an outer level may not keep. */
static void drop_inner_segments(struct x86_cpu *c)
{
    static const int segs[] = {X86_ES, X86_DS, X86_FS, X86_GS};

    for (size_t i = 0; i < ARRAY_LEN(segs); i++) {
        struct x86_seg *s = &c->seg[segs[i]];
        bool conforming = (s->flags & (X86_SEG_CODE | X86_SEG_C)) == (X86_SEG_CODE | X86_SEG_C);

        if (s->flags & X86_SEG_P && !conforming && (s->flags >> X86_SEG_DPL_SHIFT & 3) < c->cpl)
            *s = (struct x86_seg){.sel = 0, .base = c->long_mode ? s->base : 0};
    }
}

static void check_return_cs(struct x86_cpu *c, uint16_t sel, struct x86_desc *d)
{
    unsigned rpl = sel & 3, dpl;

    if (!x86_desc_read(c, sel, d) || !is_code(d->hi) || rpl < c->cpl)
        gp(c, sel);
    dpl = x86_desc_dpl(d->hi);
    if (d->hi & X86_SEG_C ? dpl > rpl : dpl != rpl)
        gp(c, sel);
    if (!(d->hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, sel & ~3u);
}

static void check_return_ss(struct x86_cpu *c, uint16_t sel, unsigned rpl, const struct x86_desc *cs,
                            struct x86_seg *ss)
{
    struct x86_desc d;

    if (!(sel & ~3u)) {
        if (!c->long_mode || !(cs->hi & X86_SEG_L) || rpl == 3)
            gp(c, 0);
        *ss = (struct x86_seg){.sel = sel, .flags = rpl << X86_SEG_DPL_SHIFT};
        return;
    }
    if (!x86_desc_read(c, sel, &d) || (sel & 3u) != rpl || x86_desc_dpl(d.hi) != rpl ||
        (d.hi & (X86_SEG_S | X86_SEG_CODE | X86_SEG_W)) != (X86_SEG_S | X86_SEG_W))
        gp(c, sel);
    if (!(d.hi & X86_SEG_P))
        x86_raise_err(c, X86_VEC_SS, sel & ~3u);
    x86_desc_mark(c, &d, X86_SEG_A);
    x86_desc_seg(&d, sel, ss);
}

static void set_outer_sp(struct x86_cpu *c, uint64_t sp, unsigned opsz)
{
    if (c->mode == X86_MODE_64)
        c->regs[X86_RSP] = sp;
    else if (c->seg[X86_SS].flags & X86_SEG_DB)
        c->regs[X86_RSP] = (uint32_t)sp;
    else
        c->regs[X86_RSP] = (c->regs[X86_RSP] & ~UINT64_C(0xffff)) | (sp & 0xffff);
    (void)opsz;
}

void x86_far_ret(struct x86_cpu *c, unsigned opsz, unsigned imm)
{
    uint64_t off = peek(c, 0, opsz);
    uint16_t sel = (uint16_t)peek(c, opsz, opsz);
    unsigned rpl = sel & 3;
    struct x86_desc d;

    if (!x86_pm(c)) {
        x86_set_rsp(c, c->regs[X86_RSP] + 2 * opsz + imm);
        real_jump(c, sel, off);
        return;
    }
    check_return_cs(c, sel, &d);
    check_target(c, &d, off);
    if (rpl == c->cpl) {
        x86_set_rsp(c, c->regs[X86_RSP] + 2 * opsz + imm);
        set_cs(c, &d, sel, rpl, off);
    } else {
        uint64_t sp = peek(c, 2 * opsz + imm, opsz);
        uint16_t ss_sel = (uint16_t)peek(c, 3 * opsz + imm, opsz);
        struct x86_seg ss;

        check_return_ss(c, ss_sel, rpl, &d, &ss);
        set_cs(c, &d, sel, rpl, off);
        c->seg[X86_SS] = ss;
        set_outer_sp(c, sp + imm, opsz);
        drop_inner_segments(c);
        x86_update_mode(c);
    }
}

/* Flags IRET may change from the level it runs at. */
static uint64_t iret_mask(const struct x86_cpu *c, unsigned opsz, unsigned cpl)
{
    uint64_t m = X86_ARITH | X86_TF | X86_DF | X86_NT;

    if (opsz > 2)
        m |= X86_RF | X86_AC | X86_ID;
    if (cpl <= x86_iopl(c))
        m |= X86_IF;
    if (!cpl) {
        m |= X86_IOPL;
        if (opsz > 2)
            m |= X86_VIF | X86_VIP;
    }
    return m;
}

static void set_flags(struct x86_cpu *c, uint64_t v, uint64_t mask)
{
    c->rflags = (c->rflags & ~mask) | (v & mask) | 2;
}

static void iret_real(struct x86_cpu *c, unsigned opsz)
{
    uint64_t off = peek(c, 0, opsz), flags = peek(c, 2 * opsz, opsz), mask;
    uint16_t sel = (uint16_t)peek(c, opsz, opsz);

    if (x86_v86(c)) {
        if (x86_iopl(c) < 3) {
            if (!(c->cr4 & X86_CR4_VME) || opsz != 2 || (flags & X86_IF && c->rflags & X86_VIP) || flags & X86_TF)
                x86_raise_err(c, X86_GP, 0);
            /* VME: IF goes to VIF. */
            mask = X86_ARITH | X86_DF | X86_NT | X86_TF;
            set_flags(c, flags, mask);
            set_flags(c, flags & X86_IF ? X86_VIF : 0, X86_VIF);
            x86_set_rsp(c, c->regs[X86_RSP] + 3 * opsz);
            real_jump(c, sel, off);
            return;
        }
        mask = X86_ARITH | X86_TF | X86_IF | X86_DF | X86_NT | (opsz > 2 ? X86_RF | X86_AC | X86_ID : 0);
    } else {
        mask = X86_ARITH | X86_TF | X86_IF | X86_DF | X86_NT | X86_IOPL | (opsz > 2 ? X86_RF | X86_AC | X86_ID : 0);
    }
    if (off > c->seg[X86_CS].limit && off > 0xffff)
        x86_raise_err(c, X86_GP, 0);
    x86_set_rsp(c, c->regs[X86_RSP] + 3 * opsz);
    set_flags(c, flags, mask);
    real_jump(c, sel, off);
}

static void iret_to_v86(struct x86_cpu *c, uint64_t off, uint16_t sel, uint64_t flags)
{
    uint64_t sp = peek(c, 12, 4);
    uint16_t ss = (uint16_t)peek(c, 16, 4), es = (uint16_t)peek(c, 20, 4), ds = (uint16_t)peek(c, 24, 4);
    uint16_t fs = (uint16_t)peek(c, 28, 4), gs = (uint16_t)peek(c, 32, 4);

    set_flags(c, flags, iret_mask(c, 4, 0) | X86_VM);
    x86_seg_v86(c, X86_CS, sel);
    x86_seg_v86(c, X86_SS, ss);
    x86_seg_v86(c, X86_ES, es);
    x86_seg_v86(c, X86_DS, ds);
    x86_seg_v86(c, X86_FS, fs);
    x86_seg_v86(c, X86_GS, gs);
    c->cpl = 3;
    c->regs[X86_RSP] = sp;
    c->rip = off & 0xffff;
    x86_update_mode(c);
}

void x86_iret(struct x86_cpu *c, unsigned opsz)
{
    bool mode64 = c->mode == X86_MODE_64;
    unsigned cpl = c->cpl, rpl;
    uint64_t off, flags, mask;
    struct x86_desc d;
    uint16_t sel;

    c->nmi_blocked = false;
    if (!x86_pm(c)) {
        iret_real(c, opsz);
        return;
    }
    if (c->rflags & X86_NT) {
        if (c->long_mode)
            gp(c, 0);
        x86_task_switch(c, (uint16_t)x86_ld_sys(c, c->seg[X86_TR].base, 2), X86_TASK_IRET, c->next_rip, false, 0);
        return;
    }
    off = peek(c, 0, opsz);
    sel = (uint16_t)peek(c, opsz, opsz);
    flags = peek(c, 2 * opsz, opsz);
    if (flags & X86_VM && !cpl && opsz == 4 && !c->long_mode) {
        iret_to_v86(c, off, sel, flags);
        return;
    }
    check_return_cs(c, sel, &d);
    check_target(c, &d, off);
    rpl = sel & 3;
    mask = iret_mask(c, opsz, cpl);
    if (mode64 || rpl != cpl) {
        uint64_t sp = peek(c, 3 * opsz, opsz);
        uint16_t ss_sel = (uint16_t)peek(c, 4 * opsz, opsz);
        struct x86_seg ss;

        check_return_ss(c, ss_sel, rpl, &d, &ss);
        set_flags(c, flags, mask);
        set_cs(c, &d, sel, rpl, off);
        c->seg[X86_SS] = ss;
        set_outer_sp(c, sp, opsz);
        if (rpl != cpl)
            drop_inner_segments(c);
        x86_update_mode(c);
    } else {
        x86_set_rsp(c, c->regs[X86_RSP] + 3 * opsz);
        set_flags(c, flags, mask);
        set_cs(c, &d, sel, rpl, off);
    }
}

/* ---- INT n ---- */

/* VME: does the TSS bitmap send this interrupt to the virtual-8086 program's own vector table? */
static bool redirected(struct x86_cpu *c, uint8_t vec)
{
    const struct x86_seg *tr = &c->seg[X86_TR];
    uint32_t map;

    if (!(tr->flags >> 8 & 8) || tr->limit < 103)
        return false;
    map = (uint32_t)x86_ld_sys(c, tr->base + 102, 2);
    if (map < 32 || map - 32 + vec / 8 > tr->limit)
        return false;
    return !(x86_ld_sys(c, tr->base + map - 32 + vec / 8, 1) >> (vec & 7) & 1);
}

static void int_v86_direct(struct x86_cpu *c, uint8_t vec, uint64_t next)
{
    uint32_t v = (uint32_t)x86_ld(c, (uint32_t)vec * 4, 4);
    uint64_t flags = c->rflags & 0xffff;
    bool high = x86_iopl(c) == 3;

    if (!high) {
        flags = (flags & ~(uint64_t)X86_IF) | X86_IOPL;
        if (c->rflags & X86_VIF)
            flags |= X86_IF;
    }
    x86_push(c, 2, flags);
    x86_push(c, 2, c->seg[X86_CS].sel);
    x86_push(c, 2, next);
    x86_seg_v86(c, X86_CS, (uint16_t)(v >> 16));
    c->rip = v & 0xffff;
    c->rflags &= ~(uint64_t)(X86_TF | X86_NT | (high ? X86_IF : X86_VIF));
}

void x86_int_n(struct x86_cpu *c, uint8_t vec, uint64_t next, bool int3_or_into)
{
    if (x86_v86(c) && !int3_or_into) {
        if (c->cr4 & X86_CR4_VME && redirected(c, vec)) {
            int_v86_direct(c, vec, next);
            return;
        }
        if (x86_iopl(c) < 3)
            x86_raise_err(c, X86_GP, 0);
    }
    x86_deliver(c, vec, false, 0, true, false, next);
}

/* ---- fast system calls ---- */

static struct x86_seg flat(uint16_t sel, uint32_t flags)
{
    return (struct x86_seg){
        .sel = sel, .limit = UINT32_MAX, .flags = flags | X86_SEG_P | X86_SEG_S | X86_SEG_G | X86_SEG_A};
}

static void flat_pair(struct x86_cpu *c, uint16_t cs, uint16_t ss, unsigned cpl, bool is64)
{
    uint32_t dpl = cpl << X86_SEG_DPL_SHIFT;

    c->seg[X86_CS] = flat(cs, X86_SEG_CODE | X86_SEG_R | dpl | (is64 ? X86_SEG_L : X86_SEG_DB));
    c->seg[X86_SS] = flat(ss, X86_SEG_W | dpl | X86_SEG_DB);
    c->cpl = (uint8_t)cpl;
}

void x86_syscall(struct x86_cpu *c, uint64_t next)
{
    uint16_t cs = (uint16_t)(c->star >> 32) & 0xfffc;

    if (!(c->efer & X86_EFER_SCE) || !(c->cr0 & X86_CR0_PE))
        x86_raise(c, X86_UD);
    if (!c->long_mode) {
        c->regs[X86_RCX] = (uint32_t)next;
        c->rip = (uint32_t)c->star;
        c->rflags &= ~(uint64_t)(X86_VM | X86_IF | X86_RF);
        flat_pair(c, cs, (uint16_t)(cs + 8), 0, false);
        x86_update_mode(c);
        return;
    }
    c->regs[X86_RCX] = next;
    c->regs[11] = c->rflags & ~(uint64_t)X86_RF;
    c->rip = c->mode == X86_MODE_64 ? c->lstar : c->cstar;
    c->rflags = (c->rflags & ~(c->fmask | X86_RF)) | 2;
    flat_pair(c, cs, (uint16_t)(cs + 8), 0, true);
    x86_update_mode(c);
}

void x86_sysret(struct x86_cpu *c, unsigned opsz)
{
    uint16_t base = (uint16_t)(c->star >> 48);

    if (!(c->efer & X86_EFER_SCE) || !(c->cr0 & X86_CR0_PE))
        x86_raise(c, X86_UD);
    if (c->cpl)
        gp(c, 0);
    if (opsz == 8 && !x86_canonical(c, c->regs[X86_RCX]))
        gp(c, 0);
    if (c->long_mode)
        c->rflags = (c->regs[11] & UINT64_C(0x3c7fd7)) | 2;
    else
        c->rflags |= X86_IF;
    if (opsz == 8) {
        c->rip = c->regs[X86_RCX];
        flat_pair(c, (uint16_t)((base + 16) | 3), (uint16_t)((base + 8) | 3), 3, true);
    } else {
        c->rip = (uint32_t)c->regs[X86_RCX];
        flat_pair(c, base | 3, (uint16_t)((base + 8) | 3), 3, false);
    }
    x86_update_mode(c);
}

void x86_sysenter(struct x86_cpu *c)
{
    uint16_t cs = (uint16_t)c->sysenter_cs & 0xfffc;

    if (x86_real(c) || !cs)
        gp(c, 0);
    c->rflags &= ~(uint64_t)(X86_VM | X86_IF | X86_RF);
    c->regs[X86_RSP] = c->long_mode ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
    c->rip = c->long_mode ? c->sysenter_eip : (uint32_t)c->sysenter_eip;
    flat_pair(c, cs, (uint16_t)(cs + 8), 0, c->long_mode);
    x86_update_mode(c);
}

void x86_sysexit(struct x86_cpu *c, unsigned opsz)
{
    uint16_t cs = (uint16_t)c->sysenter_cs;

    if (x86_real(c) || !(cs & 0xfffc) || c->cpl)
        gp(c, 0);
    if (opsz == 8) {
        if (!x86_canonical(c, c->regs[X86_RCX]) || !x86_canonical(c, c->regs[X86_RDX]))
            gp(c, 0);
        c->regs[X86_RSP] = c->regs[X86_RCX];
        c->rip = c->regs[X86_RDX];
        flat_pair(c, (uint16_t)((cs + 32) | 3), (uint16_t)((cs + 40) | 3), 3, true);
    } else {
        c->regs[X86_RSP] = (uint32_t)c->regs[X86_RCX];
        c->rip = (uint32_t)c->regs[X86_RDX];
        flat_pair(c, (uint16_t)((cs + 16) | 3), (uint16_t)((cs + 24) | 3), 3, false);
    }
    x86_update_mode(c);
}
