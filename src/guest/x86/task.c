/* Hardware task switching (16- and 32-bit TSS). After the Intel SDM vol. 3 chapter 8. */
#include "guest/x86/x86_int.h"

enum { TSS32_SIZE = 104, TSS16_SIZE = 44 };

struct task {
    uint64_t base;
    bool wide;
    uint32_t cr3, eip, eflags, reg[8];
    uint16_t seg[6], ldt, link;
    bool trap;
};

static uint32_t ld(struct x86_cpu *c, uint64_t base, unsigned off, unsigned size)
{
    return (uint32_t)x86_ld_sys(c, base + off, size);
}

static void read_task(struct x86_cpu *c, struct task *t)
{
    unsigned n = t->wide ? 4 : 2;

    t->link = (uint16_t)ld(c, t->base, 0, 2);
    t->cr3 = t->wide ? ld(c, t->base, 28, 4) : 0;
    t->eip = ld(c, t->base, t->wide ? 32 : 14, n);
    t->eflags = ld(c, t->base, t->wide ? 36 : 16, n);
    for (unsigned i = 0; i < 8; i++)
        t->reg[i] = ld(c, t->base, (t->wide ? 40 : 18) + i * n, n) | (t->wide ? 0 : 0xffff0000);
    for (unsigned i = 0; i < (t->wide ? 6u : 4u); i++)
        t->seg[i] = (uint16_t)ld(c, t->base, (t->wide ? 72 : 34) + i * n, 2);
    t->ldt = (uint16_t)ld(c, t->base, t->wide ? 96 : 42, 2);
    t->trap = t->wide && ld(c, t->base, 100, 2) & 1;
}

static void save_task(struct x86_cpu *c, uint64_t eip, uint32_t eflags)
{
    uint64_t b = c->seg[X86_TR].base;
    bool wide = c->seg[X86_TR].flags >> 8 & 8;
    unsigned n = wide ? 4 : 2;

    x86_st_sys(c, b + (wide ? 32 : 14), n, eip);
    x86_st_sys(c, b + (wide ? 36 : 16), n, eflags);
    for (unsigned i = 0; i < 8; i++)
        x86_st_sys(c, b + (wide ? 40 : 18) + i * n, n, c->regs[i]);
    for (unsigned i = 0; i < (wide ? 6u : 4u); i++)
        x86_st_sys(c, b + (wide ? 72 : 34) + i * n, 2, c->seg[i].sel);
}

static void set_busy(struct x86_cpu *c, uint16_t sel, bool busy)
{
    struct x86_desc d;

    if (!x86_desc_read(c, sel, &d))
        return;
    x86_st_sys(c, d.at + 4, 4, busy ? d.hi | 2 << 8 : d.hi & ~(2u << 8));
}

/* Loads CS and SS with the checks that belong to the new task: faults are reported as #TS there. */
static void load_code(struct x86_cpu *c, uint16_t sel)
{
    struct x86_desc d;

    if (!x86_desc_read(c, sel, &d) || (d.hi & (X86_SEG_S | X86_SEG_CODE)) != (X86_SEG_S | X86_SEG_CODE))
        x86_raise_err(c, X86_TS, sel & ~3u);
    if (d.hi & X86_SEG_C ? x86_desc_dpl(d.hi) > (sel & 3u) : x86_desc_dpl(d.hi) != (sel & 3u))
        x86_raise_err(c, X86_TS, sel & ~3u);
    if (!(d.hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, sel & ~3u);
    x86_desc_mark(c, &d, X86_SEG_A);
    x86_desc_seg(&d, sel, &c->seg[X86_CS]);
    c->cpl = sel & 3;
}

/* Loads a data segment or the LDT of the new task: what would be #GP elsewhere is #TS here (and a missing LDT too). */
static void load_as_task(struct x86_cpu *c, int seg, uint16_t sel)
{
    sigjmp_buf here, *volatile outer = c->fault_jmp;

    if (!sigsetjmp(here, 0)) {
        c->fault_jmp = &here;
        if (seg == X86_LDTR)
            x86_load_ldt(c, sel);
        else
            x86_load_seg(c, seg, sel);
        c->fault_jmp = outer;
        return;
    }
    c->fault_jmp = outer;
    if (c->exc.vec == X86_GP || (seg == X86_LDTR && c->exc.vec == X86_NP))
        c->exc.vec = X86_TS;
    siglongjmp(*outer, 1);
}

/* Until a segment is loaded it keeps its old hidden part, so that a fault here finds a stack. */
static void enter_task(struct x86_cpu *c, const struct task *t)
{
    static const int data[] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};

    for (unsigned i = 0; i < 6; i++)
        c->seg[i].sel = t->seg[i];
    if (t->eflags & X86_VM) {
        for (int i = 0; i < 6; i++)
            x86_seg_v86(c, i, t->seg[i]);
        c->cpl = 3;
        load_as_task(c, X86_LDTR, t->ldt);
    } else {
        load_as_task(c, X86_LDTR, t->ldt);
        load_code(c, t->seg[X86_CS]);
        for (size_t i = 0; i < ARRAY_LEN(data); i++)
            load_as_task(c, data[i], t->seg[data[i]]);
    }
    x86_update_mode(c);
}

void x86_task_switch(struct x86_cpu *c, uint16_t sel, enum x86_task_why why, uint64_t next, bool has_err, uint32_t err)
{
    uint16_t old = c->seg[X86_TR].sel;
    bool iret = why == X86_TASK_IRET, nest = why == X86_TASK_CALL || why == X86_TASK_GATE;
    uint32_t flags = (uint32_t)c->rflags;
    struct x86_desc d;
    struct x86_seg tr;
    struct task t = {0};
    unsigned type;

    if (sel & 4 || !x86_desc_read(c, sel, &d))
        x86_raise_err(c, iret ? X86_TS : X86_GP, sel & ~3u);
    type = d.hi >> 8 & 0x1f;
    if ((type & ~8u) != (iret ? 3u : 1u))
        x86_raise_err(c, iret ? X86_TS : X86_GP, sel & ~3u);
    if (!(d.hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, sel & ~3u);
    x86_desc_seg(&d, sel, &tr);
    t.wide = type & 8;
    if (tr.limit < (t.wide ? TSS32_SIZE - 1u : TSS16_SIZE - 1u))
        x86_raise_err(c, X86_TS, sel & ~3u);
    t.base = tr.base;
    read_task(c, &t);
    if (iret)
        flags &= ~(uint32_t)X86_NT;
    save_task(c, next, flags);
    if (why == X86_TASK_JMP || iret)
        set_busy(c, old, false);
    if (nest) {
        x86_st_sys(c, t.base, 2, old);
        t.eflags |= X86_NT;
    }
    if (!iret)
        set_busy(c, sel, true);
    tr.flags |= 2 << 8;
    c->seg[X86_TR] = tr;
    c->cr0 |= X86_CR0_TS;
    if (t.wide && c->cr0 & X86_CR0_PG)
        x86_set_cr3(c, t.cr3);
    c->rflags = t.eflags | 2;
    c->rip = t.eip;
    for (unsigned i = 0; i < 8; i++)
        c->regs[i] = t.reg[i];
    c->dr[7] &= ~UINT64_C(0x155); /* local breakpoints */
    enter_task(c, &t);
    if (has_err)
        x86_push(c, t.wide ? 4 : 2, err);
    if (t.trap) {
        c->dr[6] |= 1 << 15;
        x86_raise(c, X86_DB);
    }
}
