/* System instructions (SDM vol. 2): segments, descriptor tables, control and debug registers, MSRs, ports, interrupts,
 * far transfers (which far.c carries out), state saving, CPUID and clocks. Privilege by CPL is checked by the caller
 * from the row's PRIV attribute. */
#include "base/log.h"
#include "guest/x86/interp_int.h"
#include <sched.h>

/* ---- segments ---- */
static void mov_from_seg(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_wr(c, in, 0, in->ops[0].size, c->seg[in->ops[1].reg].sel);
}
static void mov_to_seg(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned seg = in->ops[0].reg;

    x86_load_seg(c, seg, (uint16_t)x86_rd(c, in, 1, 2));
    if (seg == X86_SS)
        c->int_shadow = 2;
}
static void push_seg(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t sp = x86_sp_after(c, in->opsz);
    unsigned n = in->opsz == 4 ? 2 : in->opsz; /* CPUs write the low half only, for 32-bit pushes */

    x86_wr_lin(c, x86_lin(c, X86_SS, sp, in->opsz, X86_WRITE), n, c->seg[in->ops[0].reg].sel);
    x86_sp_set(c, sp);
}
static void pop_seg(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned seg = in->ops[0].reg;
    uint64_t sp = x86_sp_after(c, -(int64_t)in->opsz);
    unsigned width = x86_stack_size(c);

    x86_load_seg(c, seg, (uint16_t)x86_top(c, in->opsz));
    if (seg == X86_SS)
        c->int_shadow = 2;
    x86_gpr_set(c, X86_RSP, width, sp);
}
static void load_far(struct x86_cpu *c, const struct x86_insn *in)
{
    static const uint8_t segs[] = {X86_ES, X86_DS, X86_SS, X86_FS, X86_GS};
    unsigned seg = segs[in->op == X86_I_LES   ? 0
                        : in->op == X86_I_LDS ? 1
                        : in->op == X86_I_LSS ? 2
                        : in->op == X86_I_LFS ? 3
                                              : 4];
    unsigned n = in->opsz;
    uint64_t ea = x86_ea_in(c, in), off = x86_rd_lin(c, x86_lin(c, in->seg, ea, n, X86_READ), n);
    uint16_t sel = (uint16_t)x86_rd_lin(c, x86_lin(c, in->seg, (ea + n) & x86_mask(in->adsz), 2, X86_READ), 2);

    x86_load_seg(c, seg, sel);
    x86_gpr_set(c, in->ops[0].reg, n, off);
}

/* ---- descriptor tables ---- */
static void no_umip(struct x86_cpu *c)
{
    if (c->cr4 & X86_CR4_UMIP && c->cpl)
        x86_raise_err(c, X86_GP, 0);
}
static void only_protected(struct x86_cpu *c)
{
    if (!x86_pm(c))
        x86_raise(c, X86_UD);
}
static void sldt_str(struct x86_cpu *c, const struct x86_insn *in)
{
    only_protected(c);
    no_umip(c);
    x86_wr(c, in, 0, in->ops[0].size, c->seg[in->op == X86_I_STR ? X86_TR : X86_LDTR].sel);
}
static void lldt(struct x86_cpu *c, const struct x86_insn *in)
{
    only_protected(c);
    x86_load_ldt(c, (uint16_t)x86_rd(c, in, 0, 2));
}
static void ltr(struct x86_cpu *c, const struct x86_insn *in)
{
    only_protected(c);
    x86_load_tr(c, (uint16_t)x86_rd(c, in, 0, 2));
}
static void store_table(struct x86_cpu *c, const struct x86_insn *in)
{
    bool wide = c->mode == X86_MODE_64;
    uint64_t ea = x86_ea_in(c, in), base = in->op == X86_I_SGDT ? c->gdt.base : c->idt.base;
    uint32_t limit = in->op == X86_I_SGDT ? c->gdt.limit : c->idt.limit;

    no_umip(c);
    x86_wr_lin(c, x86_lin(c, in->seg, ea, 2, X86_WRITE), 2, limit);
    ea = (ea + 2) & x86_mask(in->adsz);
    x86_wr_lin(c, x86_lin(c, in->seg, ea, wide ? 8 : 4, X86_WRITE), wide ? 8 : 4, base);
}
static void load_table(struct x86_cpu *c, const struct x86_insn *in)
{
    bool wide = c->mode == X86_MODE_64;
    uint64_t ea = x86_ea_in(c, in), base;
    uint32_t limit = (uint32_t)x86_rd_lin(c, x86_lin(c, in->seg, ea, 2, X86_READ), 2);

    ea = (ea + 2) & x86_mask(in->adsz);
    base = x86_rd_lin(c, x86_lin(c, in->seg, ea, wide ? 8 : 4, X86_READ), wide ? 8 : 4);
    if (in->opsz == 2)
        base &= 0xffffff;
    if (wide && !x86_canonical(c, base))
        x86_raise_err(c, X86_GP, 0);
    if (in->op == X86_I_LGDT) {
        c->gdt.base = base;
        c->gdt.limit = limit;
    } else {
        c->idt.base = base;
        c->idt.limit = limit;
    }
}
/* LAR, LSL, VERR, VERW: the descriptor sel names as this CPL and RPL see it; false when it may not be looked at. */
static bool visible(struct x86_cpu *c, uint16_t sel, struct x86_desc *d)
{
    unsigned dpl;

    if (!(sel & ~3u) || !x86_desc_read(c, sel, d))
        return false;
    dpl = x86_desc_dpl(d->hi);
    if ((d->hi & (X86_SEG_S | X86_SEG_CODE | X86_SEG_C)) == (X86_SEG_S | X86_SEG_CODE | X86_SEG_C))
        return true;
    return dpl >= c->cpl && dpl >= (sel & 3u);
}
static bool lar_type_ok(const struct x86_cpu *c, uint32_t hi, bool lsl)
{
    unsigned t = hi >> 8 & 15;

    if (hi & X86_SEG_S)
        return true;
    if (c->long_mode)
        return t == 2 || t == 9 || t == 11 || (!lsl && t == 12);
    return t == 1 || t == 2 || t == 3 || t == 9 || t == 11 || (!lsl && (t == 4 || t == 5 || t == 12));
}
static void lar_lsl(struct x86_cpu *c, const struct x86_insn *in)
{
    bool lsl = in->op == X86_I_LSL, ok;
    uint16_t sel;
    struct x86_desc d;
    uint64_t v = 0;

    only_protected(c);
    sel = (uint16_t)x86_rd(c, in, 1, 2);
    ok = visible(c, sel, &d) && lar_type_ok(c, d.hi, lsl);
    if (ok && lsl) {
        uint32_t limit = (d.lo & 0xffff) | (d.hi & 0xf0000);

        v = d.hi & X86_SEG_G ? limit << 12 | 0xfff : limit;
    } else if (ok) {
        v = d.hi & 0xf0ff00;
    }
    x86_flags_set(c, X86_ZF, ok ? X86_ZF : 0);
    if (ok)
        x86_gpr_set(c, in->ops[0].reg, in->opsz, v);
}
static void verr_verw(struct x86_cpu *c, const struct x86_insn *in)
{
    struct x86_desc d;
    bool ok;

    only_protected(c);
    ok = visible(c, (uint16_t)x86_rd(c, in, 0, 2), &d) && d.hi & X86_SEG_S;
    if (ok && in->op == X86_I_VERR)
        ok = !(d.hi & X86_SEG_CODE) || d.hi & X86_SEG_R;
    else if (ok)
        ok = !(d.hi & X86_SEG_CODE) && d.hi & X86_SEG_W;
    x86_flags_set(c, X86_ZF, ok ? X86_ZF : 0);
}
static void arpl(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned d, s = (unsigned)x86_gpr(c, &in->ops[1]) & 3;

    only_protected(c);
    d = (unsigned)x86_rd(c, in, 0, 2);
    if ((d & 3) < s)
        x86_wr(c, in, 0, 2, (d & ~3u) | s);
    x86_flags_set(c, X86_ZF, (d & 3) < s ? X86_ZF : 0);
}

/* ---- control and debug registers ---- */
static void smsw(struct x86_cpu *c, const struct x86_insn *in)
{
    no_umip(c);
    x86_wr(c, in, 0, in->ops[0].size, c->cr0);
}
static void lmsw(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = x86_rd(c, in, 0, 2);

    x86_set_cr0(c, (c->cr0 & ~UINT64_C(0xe)) | (v & 0xf)); /* PE can be set, not cleared */
}
static void clts(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_set_cr0(c, c->cr0 & ~(uint64_t)X86_CR0_TS);
}
static void mov_from_cr(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size;
    uint64_t v;

    switch (in->ops[1].reg) {
    case 0:
        v = c->cr0;
        break;
    case 2:
        v = c->cr2;
        break;
    case 3:
        v = c->cr3;
        break;
    case 4:
        v = c->cr4;
        break;
    default:
        v = c->port.apic ? c->port.tpr_get(c->port.apic) : 0;
        break;
    }
    x86_gpr_set(c, in->ops[0].reg, s, v);
}
static void mov_to_cr(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = c->regs[in->ops[1].reg] & x86_mask(in->ops[1].size);

    switch (in->ops[0].reg) {
    case 0:
        x86_set_cr0(c, v);
        break;
    case 2:
        c->cr2 = v;
        break;
    case 3:
        x86_set_cr3(c, v);
        break;
    case 4:
        x86_set_cr4(c, v);
        break;
    default:
        if (v >> 4)
            x86_raise_err(c, X86_GP, 0);
        if (c->port.apic)
            c->port.tpr_set(c->port.apic, (uint8_t)v);
        break;
    }
}
/* DR4 and DR5 are DR6 and DR7 unless CR4.DE; DR7.GD traps every access. */
static unsigned dr_number(struct x86_cpu *c, unsigned n)
{
    if (n == 4 || n == 5) {
        if (c->cr4 & X86_CR4_DE)
            x86_raise(c, X86_UD);
        n += 2;
    }
    if (c->dr[7] & 1 << 13) {
        c->dr[6] |= 1 << 13;
        c->dr[7] &= ~UINT64_C(0x2000);
        x86_raise(c, X86_DB);
    }
    return n;
}
static void mov_from_dr(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_gpr_set(c, in->ops[0].reg, in->ops[0].size, c->dr[dr_number(c, in->ops[1].reg)]);
}
static void mov_to_dr(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned n = dr_number(c, in->ops[0].reg);
    uint64_t v = c->regs[in->ops[1].reg] & x86_mask(in->ops[1].size);

    if (n >= 6 && v >> 32)
        x86_raise_err(c, X86_GP, 0);
    if (n == 6)
        v = (v & 0xe00f) | 0xffff0ff0;
    else if (n == 7)
        v = (v & 0xffff2bff) | 0x400;
    c->dr[n & 7] = v;
    if (n != 6)
        x86_tlb_flush(c, true); /* pages with breakpoints stay out of the TLBs */
}

/* ---- MSRs, clocks, identification ---- */
static void set_edx_eax(struct x86_cpu *c, uint64_t v)
{
    c->regs[X86_RAX] = (uint32_t)v;
    c->regs[X86_RDX] = v >> 32;
}
static uint64_t edx_eax(const struct x86_cpu *c)
{
    return (uint32_t)c->regs[X86_RAX] | c->regs[X86_RDX] << 32;
}
static void rdmsr(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = 0;

    if (!x86_rdmsr(c, (uint32_t)c->regs[X86_RCX], &v))
        x86_raise_err(c, X86_GP, 0);
    set_edx_eax(c, v);
}
static void wrmsr(struct x86_cpu *c, const struct x86_insn *in)
{
    if (!x86_wrmsr(c, (uint32_t)c->regs[X86_RCX], edx_eax(c)))
        x86_raise_err(c, X86_GP, 0);
}
static void rdtsc(struct x86_cpu *c, const struct x86_insn *in)
{
    if (c->cr4 & X86_CR4_TSD && c->cpl)
        x86_raise_err(c, X86_GP, 0);
    if (in->op == X86_I_RDTSCP) /* waits for all before it */
        __builtin_ia32_lfence();
    set_edx_eax(c, x86_tsc(c));
    if (in->op == X86_I_RDTSCP)
        c->regs[X86_RCX] = (uint32_t)c->tsc_aux;
}
static void rdpmc(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_raise_err(c, X86_GP, 0); /* no counters */
}
static void rdpid(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_gpr_set(c, in->ops[0].reg, in->ops[0].size, (uint32_t)c->tsc_aux);
}
static void cpuid(struct x86_cpu *c, const struct x86_insn *in)
{
    uint32_t r[4];

    x86_cpuid(c, (uint32_t)c->regs[X86_RAX], (uint32_t)c->regs[X86_RCX], r);
    c->regs[X86_RAX] = r[0];
    c->regs[X86_RBX] = r[1];
    c->regs[X86_RCX] = r[2];
    c->regs[X86_RDX] = r[3];
}
/* From the host's generator, which is at least as good as ours. */
static void rdrand(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v;
    uint8_t ok = 0;

    for (int i = 0; i < 10 && !ok; i++)
        __asm__ volatile("rdrand %0; setc %1" : "=r"(v), "=qm"(ok) : : "cc");
    x86_gpr_set(c, in->ops[0].reg, in->ops[0].size, ok ? v : 0);
    x86_flags_set(c, X86_ARITH, ok ? X86_CF : 0);
}
static void xgetbv(struct x86_cpu *c, const struct x86_insn *in)
{
    uint32_t n = (uint32_t)c->regs[X86_RCX];

    if (!(c->cr4 & X86_CR4_OSXSAVE))
        x86_raise(c, X86_UD);
    if (n > 1 || (n == 1 && !x86_has(&c->feat, X86_F_XGETBV1)))
        x86_raise_err(c, X86_GP, 0);
    set_edx_eax(c, c->xcr0);
}
static void xsetbv(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = edx_eax(c), zmm = v & 0xe0;

    if (!(c->cr4 & X86_CR4_OSXSAVE))
        x86_raise(c, X86_UD);
    if ((uint32_t)c->regs[X86_RCX] || !(v & 1) || v & ~x86_xcr0_mask(&c->feat) || ((v & 4) && !(v & 2)) ||
        (zmm && (zmm != 0xe0 || !(v & 4))))
        x86_raise_err(c, X86_GP, 0);
    c->xcr0 = v;
    x86_update_mode(c); /* translated code depends on it */
}
static void pkru(struct x86_cpu *c, const struct x86_insn *in)
{
    bool wr = in->op == X86_I_WRPKRU;

    if (!(c->cr4 & X86_CR4_PKE))
        x86_raise(c, X86_UD);
    if ((uint32_t)c->regs[X86_RCX] || (wr && (uint32_t)c->regs[X86_RDX]))
        x86_raise_err(c, X86_GP, 0);
    if (wr) {
        c->pkru = (uint32_t)c->regs[X86_RAX];
        x86_tlb_flush(c, true);
    } else {
        set_edx_eax(c, c->pkru);
    }
}
static void fsgsbase(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned seg = in->op == X86_I_RDFSBASE || in->op == X86_I_WRFSBASE ? X86_FS : X86_GS, s = in->ops[0].size;
    bool wr = in->op == X86_I_WRFSBASE || in->op == X86_I_WRGSBASE;

    if (!(c->cr4 & X86_CR4_FSGSBASE))
        x86_raise(c, X86_UD);
    if (wr) {
        uint64_t v = c->regs[in->ops[0].reg] & x86_mask(s);

        if (!x86_canonical(c, v))
            x86_raise_err(c, X86_GP, 0);
        c->seg[seg].base = v;
    } else {
        x86_gpr_set(c, in->ops[0].reg, s, c->seg[seg].base);
    }
}
static void swapgs(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t t = c->kernel_gs_base;

    c->kernel_gs_base = c->seg[X86_GS].base;
    c->seg[X86_GS].base = t;
}

/* ---- TLB, caches ---- */
static void invlpg(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t ea = x86_ea_in(c, in), lin = c->mode == X86_MODE_64 && in->seg < X86_FS ? ea : ea + c->seg[in->seg].base;

    x86_tlb_flush_page(c, c->mode == X86_MODE_64 ? lin : (uint32_t)lin);
}
static void invpcid(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t type = c->regs[in->ops[0].reg] & x86_mask(in->ops[0].size), lin = x86_mem_lin(c, in, 16, X86_READ);
    uint64_t pcid = x86_ld(c, lin, 8), addr = x86_ld(c, lin + 8, 8);

    if (x86_v86(c) || type > 3 || (type < 2 && pcid >> 12) || (type == 0 && !x86_canonical(c, addr)) ||
        (type < 2 && pcid && !(c->cr4 & X86_CR4_PCIDE)))
        x86_raise_err(c, X86_GP, 0);
    if (type == 0)
        x86_tlb_flush_page(c, addr);
    else
        x86_tlb_flush(c, type == 2);
}
static void cache_op(struct x86_cpu *c, const struct x86_insn *in)
{
}
static void clflush(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_rd_lin(c, x86_mem_lin(c, in, 1, X86_READ), 1); /* faults like a load */
}
static void clzero(struct x86_cpu *c, const struct x86_insn *in)
{
    static const uint8_t zero[64];
    uint64_t lin = x86_lin(c, X86_DS, c->regs[X86_RAX] & x86_mask(in->adsz) & ~UINT64_C(63), 64, X86_WRITE);

    x86_st_bytes(c, lin, zero, 64);
}

/* ---- interrupts, halting ---- */
static void cli_sti(struct x86_cpu *c, bool on)
{
    if (c->cpl > x86_iopl(c)) {
        bool virt = x86_v86(c) ? c->cr4 & X86_CR4_VME : c->cpl == 3 && c->cr4 & X86_CR4_PVI;

        if (x86_real(c))
            virt = false;
        else if (!virt || (on && c->rflags & X86_VIP))
            x86_raise_err(c, X86_GP, 0);
        if (virt) {
            x86_flags_set(c, X86_VIF, on ? X86_VIF : 0);
            return;
        }
    }
    if (on && !(c->rflags & X86_IF))
        c->int_shadow = 1;
    x86_flags_set(c, X86_IF, on ? X86_IF : 0);
}
static void cli(struct x86_cpu *c, const struct x86_insn *in)
{
    cli_sti(c, false);
}
static void sti(struct x86_cpu *c, const struct x86_insn *in)
{
    cli_sti(c, true);
}
static void stac_clac(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_flags_set(c, X86_AC, in->op == X86_I_STAC ? X86_AC : 0);
}
static void hlt(struct x86_cpu *c, const struct x86_insn *in)
{
    c->vcpu.halted = true;
}
static void monitor(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t ea = c->regs[X86_RAX] & x86_mask(in->adsz);

    if ((uint32_t)c->regs[X86_RCX])
        x86_raise_err(c, X86_GP, 0);
    x86_rd_lin(c, x86_lin(c, in->seg_override ? in->seg : X86_DS, ea, 1, X86_READ), 1);
}
/* Stores by other CPUs are not watched, so waiting could last too long: the wait ends at once, politely. */
static void mwait(struct x86_cpu *c, const struct x86_insn *in)
{
    sched_yield();
}
static void int_n(struct x86_cpu *c, const struct x86_insn *in)
{
    if (in->op == X86_I_INTO && !(c->rflags & X86_OF))
        return;
    if (in->op == X86_I_INT)
        x86_int_n(c, (uint8_t)in->imm, c->next_rip, false);
    else
        x86_int_n(c, in->op == X86_I_INT3 ? X86_BP : X86_VEC_OF, c->next_rip, true);
    c->next_rip = c->rip;
}
static void int1(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_deliver(c, X86_DB, false, 0, false, false, c->next_rip);
    c->next_rip = c->rip;
}
static void bound(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned n = in->opsz;
    uint64_t ea = x86_ea_in(c, in);
    int64_t v = sext64(c->regs[in->ops[0].reg], n * 8), lo, hi;

    lo = sext64(x86_rd_lin(c, x86_lin(c, in->seg, ea, n, X86_READ), n), n * 8);
    hi = sext64(x86_rd_lin(c, x86_lin(c, in->seg, (ea + n) & x86_mask(in->adsz), n, X86_READ), n), n * 8);
    if (v < lo || v > hi)
        x86_raise(c, X86_BR);
}
static void ud(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_raise(c, X86_UD);
}

/* ---- far transfers ---- */
static void far_pointer(struct x86_cpu *c, const struct x86_insn *in, uint16_t *sel, uint64_t *off)
{
    uint64_t ea;

    if (in->ops[0].kind == X86_OP_FAR) {
        *sel = (uint16_t)in->imm2;
        *off = in->imm;
        return;
    }
    ea = x86_ea_in(c, in);
    *off = x86_rd_lin(c, x86_lin(c, in->seg, ea, in->opsz, X86_READ), in->opsz);
    *sel = (uint16_t)x86_rd_lin(c, x86_lin(c, in->seg, (ea + in->opsz) & x86_mask(in->adsz), 2, X86_READ), 2);
}
/* AMD has no SYSENTER in long mode, Intel no SYSCALL outside 64-bit code. */
static void fast_call_exists(struct x86_cpu *c, const struct x86_insn *in)
{
    bool enter = in->op == X86_I_SYSENTER || in->op == X86_I_SYSEXIT, amd = !strcmp(c->feat.vendor, "AuthenticAMD");

    if (enter ? amd && c->long_mode : !strcmp(c->feat.vendor, "GenuineIntel") && c->mode != X86_MODE_64)
        x86_raise(c, X86_UD);
}
static void far(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t off = 0;
    uint16_t sel = 0;

    if (in->op == X86_I_SYSENTER || in->op == X86_I_SYSEXIT || in->op == X86_I_SYSCALL || in->op == X86_I_SYSRET)
        fast_call_exists(c, in);
    switch (in->op) {
    case X86_I_CALL_FAR:
    case X86_I_CALL_FARM:
        far_pointer(c, in, &sel, &off);
        x86_far_call(c, sel, off, in->opsz, c->next_rip);
        break;
    case X86_I_JMP_FAR:
    case X86_I_JMP_FARM:
        far_pointer(c, in, &sel, &off);
        x86_far_jmp(c, sel, off, in->opsz);
        break;
    case X86_I_RETF:
        x86_far_ret(c, in->opsz, in->nr_ops ? (uint16_t)in->imm : 0);
        break;
    case X86_I_IRET:
        x86_iret(c, in->opsz);
        break;
    case X86_I_SYSCALL:
        x86_syscall(c, c->next_rip);
        break;
    case X86_I_SYSRET:
        x86_sysret(c, in->opsz);
        break;
    case X86_I_SYSENTER:
        x86_sysenter(c);
        break;
    case X86_I_SYSEXIT:
        x86_sysexit(c, in->opsz);
        break;
    default:
        x86_rsm(c);
        break;
    }
    c->next_rip = c->rip;
}

/* ---- ports ---- */
static void in_port(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size;
    uint16_t port = in->ops[1].kind == X86_OP_IMM ? (uint16_t)in->imm : (uint16_t)c->regs[X86_RDX];

    x86_check_io(c, port, s);
    x86_gpr_set(c, X86_RAX, s, x86_io_in(c, port, s));
}
static void out_port(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[1].size;
    uint16_t port = in->ops[0].kind == X86_OP_IMM ? (uint16_t)in->imm : (uint16_t)c->regs[X86_RDX];

    x86_check_io(c, port, s);
    x86_io_out(c, port, s, (uint32_t)(c->regs[X86_RAX] & x86_mask(s)));
}

/* ---- saved states ---- */
static void need_xsave(struct x86_cpu *c, const struct x86_insn *in)
{
    bool fx = in->op == X86_I_FXSAVE || in->op == X86_I_FXRSTOR;

    if (fx ? c->cr0 & X86_CR0_EM : !(c->cr4 & X86_CR4_OSXSAVE))
        x86_raise(c, X86_UD);
    if (c->cr0 & X86_CR0_TS)
        x86_raise(c, X86_NM);
}
static void save_state(struct x86_cpu *c, const struct x86_insn *in)
{
    need_xsave(c, in);
    x86_xsave(c, in, x86_mem_lin(c, in, in->mem_size, X86_WRITE));
}
static void load_state(struct x86_cpu *c, const struct x86_insn *in)
{
    need_xsave(c, in);
    x86_xrstor(c, in, x86_mem_lin(c, in, in->mem_size, X86_READ));
}

#define ALL(fn) ALL_SIZES(fn)
const struct x86_handler x86_ops_sys[X86_I_NR] = {
    [X86_I_MOV_FROM_SEG] = ALL(mov_from_seg),
    [X86_I_MOV_TO_SEG] = ALL(mov_to_seg),
    [X86_I_PUSH_SEG] = ALL(push_seg),
    [X86_I_POP_SEG] = ALL(pop_seg),
    [X86_I_PUSH_FSGS] = ALL(push_seg),
    [X86_I_POP_FSGS] = ALL(pop_seg),
    [X86_I_LES] = ALL(load_far),
    [X86_I_LDS] = ALL(load_far),
    [X86_I_LSS] = ALL(load_far),
    [X86_I_LFS] = ALL(load_far),
    [X86_I_LGS] = ALL(load_far),
    [X86_I_SLDT] = ALL(sldt_str),
    [X86_I_STR] = ALL(sldt_str),
    [X86_I_LLDT] = ALL(lldt),
    [X86_I_LTR] = ALL(ltr),
    [X86_I_SGDT] = ALL(store_table),
    [X86_I_SIDT] = ALL(store_table),
    [X86_I_LGDT] = ALL(load_table),
    [X86_I_LIDT] = ALL(load_table),
    [X86_I_LAR] = ALL(lar_lsl),
    [X86_I_LSL] = ALL(lar_lsl),
    [X86_I_VERR] = ALL(verr_verw),
    [X86_I_VERW] = ALL(verr_verw),
    [X86_I_ARPL] = ALL(arpl),
    [X86_I_SMSW] = ALL(smsw),
    [X86_I_LMSW] = ALL(lmsw),
    [X86_I_CLTS] = ALL(clts),
    [X86_I_MOV_FROM_CR] = ALL(mov_from_cr),
    [X86_I_MOV_TO_CR] = ALL(mov_to_cr),
    [X86_I_MOV_FROM_DR] = ALL(mov_from_dr),
    [X86_I_MOV_TO_DR] = ALL(mov_to_dr),
    [X86_I_RDMSR] = ALL(rdmsr),
    [X86_I_WRMSR] = ALL(wrmsr),
    [X86_I_RDTSC] = ALL(rdtsc),
    [X86_I_RDTSCP] = ALL(rdtsc),
    [X86_I_RDPMC] = ALL(rdpmc),
    [X86_I_RDPID] = ALL(rdpid),
    [X86_I_CPUID] = ALL(cpuid),
    [X86_I_RDRAND] = ALL(rdrand),
    [X86_I_RDSEED] = ALL(rdrand),
    [X86_I_XGETBV] = ALL(xgetbv),
    [X86_I_XSETBV] = ALL(xsetbv),
    [X86_I_RDPKRU] = ALL(pkru),
    [X86_I_WRPKRU] = ALL(pkru),
    [X86_I_RDFSBASE] = ALL(fsgsbase),
    [X86_I_RDGSBASE] = ALL(fsgsbase),
    [X86_I_WRFSBASE] = ALL(fsgsbase),
    [X86_I_WRGSBASE] = ALL(fsgsbase),
    [X86_I_SWAPGS] = ALL(swapgs),
    [X86_I_INVLPG] = ALL(invlpg),
    [X86_I_INVPCID] = ALL(invpcid),
    [X86_I_INVD] = ALL(cache_op),
    [X86_I_WBINVD] = ALL(cache_op),
    [X86_I_SERIALIZE] = ALL(cache_op),
    [X86_I_CLFLUSH] = ALL(clflush),
    [X86_I_CLFLUSHOPT] = ALL(clflush),
    [X86_I_CLWB] = ALL(clflush),
    [X86_I_CLZERO] = ALL(clzero),
    [X86_I_CLI] = ALL(cli),
    [X86_I_STI] = ALL(sti),
    [X86_I_STAC] = ALL(stac_clac),
    [X86_I_CLAC] = ALL(stac_clac),
    [X86_I_HLT] = ALL(hlt),
    [X86_I_MONITOR] = ALL(monitor),
    [X86_I_MWAIT] = ALL(mwait),
    [X86_I_INT3] = ALL(int_n),
    [X86_I_INT] = ALL(int_n),
    [X86_I_INTO] = ALL(int_n),
    [X86_I_INT1] = ALL(int1),
    [X86_I_BOUND] = ALL(bound),
    [X86_I_UD0] = ALL(ud),
    [X86_I_UD1] = ALL(ud),
    [X86_I_UD2] = ALL(ud),
    [X86_I_VMCALL] = ALL(ud),
    [X86_I_VMMCALL] = ALL(ud),
    [X86_I_CALL_FAR] = ALL(far),
    [X86_I_CALL_FARM] = ALL(far),
    [X86_I_JMP_FAR] = ALL(far),
    [X86_I_JMP_FARM] = ALL(far),
    [X86_I_RETF] = ALL(far),
    [X86_I_IRET] = ALL(far),
    [X86_I_SYSCALL] = ALL(far),
    [X86_I_SYSRET] = ALL(far),
    [X86_I_SYSENTER] = ALL(far),
    [X86_I_SYSEXIT] = ALL(far),
    [X86_I_RSM] = ALL(far),
    [X86_I_IN] = ALL(in_port),
    [X86_I_OUT] = ALL(out_port),
    [X86_I_FXSAVE] = ALL(save_state),
    [X86_I_FXRSTOR] = ALL(load_state),
    [X86_I_XSAVE] = ALL(save_state),
    [X86_I_XRSTOR] = ALL(load_state),
    [X86_I_XSAVEOPT] = ALL(save_state),
    [X86_I_XSAVEC] = ALL(save_state),
    [X86_I_XSAVES] = ALL(save_state),
    [X86_I_XRSTORS] = ALL(load_state),
};
