/* Control registers, model-specific registers, time stamp, port permissions.
 *
 * After the Intel SDM vol. 3 chapters 2 and 12 and vol. 4, and the AMD APM vol. 2 for EFER and SYSCFG. An MSR that
 * neither is architectural nor read by firmware and kernels at start faults with #GP. */
#include "base/log.h"
#include "guest/x86/interp_int.h"

/* ---- control registers ---- */
static NORETURN void gp0(struct x86_cpu *c)
{
    x86_raise_err(c, X86_GP, 0);
}
static void check_cr0(struct x86_cpu *c, uint64_t v)
{
    if (v >> 32 || ((v & X86_CR0_PG) && !(v & X86_CR0_PE)) || ((v & X86_CR0_NW) && !(v & X86_CR0_CD)))
        gp0(c);
    if ((v & X86_CR0_PG) && !(c->cr0 & X86_CR0_PG) && (c->efer & X86_EFER_LME) &&
        (!(c->cr4 & X86_CR4_PAE) || c->seg[X86_CS].flags & X86_SEG_L))
        gp0(c);
    if (!(v & X86_CR0_PG) && (c->cr0 & X86_CR0_PG) && (c->mode == X86_MODE_64 || c->cr4 & X86_CR4_PCIDE))
        gp0(c);
}
void x86_set_cr0(struct x86_cpu *c, uint64_t v)
{
    uint64_t old = c->cr0;

    check_cr0(c, v);
    c->cr0 = v | X86_CR0_ET;
    if (c->efer & X86_EFER_LME && (old ^ v) & X86_CR0_PG)
        c->efer = v & X86_CR0_PG ? c->efer | X86_EFER_LMA : c->efer & ~(uint64_t)X86_EFER_LMA;
    if ((old ^ v) & (X86_CR0_PG | X86_CR0_WP | X86_CR0_PE))
        x86_tlb_flush(c, true);
    x86_update_mode(c);
}
void x86_set_cr3(struct x86_cpu *c, uint64_t v)
{
    bool pcide = c->cr4 & X86_CR4_PCIDE, keep = pcide && v >> 63;

    if (pcide)
        v &= ~(UINT64_C(1) << 63);
    if (c->long_mode && c->feat.phys_bits && v >> c->feat.phys_bits)
        gp0(c);
    c->cr3 = v;
    if (pcide)
        x86_tlb_flush_pcid(c, v & 0xfff, keep);
    else
        x86_tlb_flush(c, false);
    if (c->hooks.mode_changed)
        c->hooks.mode_changed(c);
}
static uint64_t cr4_allowed(const struct x86_cpu *c)
{
    const struct x86_features *f = &c->feat;
    uint64_t m = X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE |
                 X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    uint32_t b7 = f->w[X86_FW_7_EBX], c7 = f->w[X86_FW_7_ECX];

    m |= c7 & 1 << 2 ? X86_CR4_UMIP : 0;
    m |= c7 & 1 << 16 ? X86_CR4_LA57 : 0;
    m |= x86_has(f, X86_F_FSGSBASE) ? X86_CR4_FSGSBASE : 0;
    m |= f->w[X86_FW_1_ECX] & 1 << 17 ? X86_CR4_PCIDE : 0;
    m |= x86_has(f, X86_F_XSAVE) ? X86_CR4_OSXSAVE : 0;
    m |= b7 & 1 << 7 ? X86_CR4_SMEP : 0;
    m |= x86_has(f, X86_F_SMAP) ? X86_CR4_SMAP : 0;
    m |= x86_has(f, X86_F_PKU) ? X86_CR4_PKE : 0;
    return m;
}
void x86_set_cr4(struct x86_cpu *c, uint64_t v)
{
    uint64_t old = c->cr4, diff = old ^ v;

    if (v & ~cr4_allowed(c))
        gp0(c);
    if (c->long_mode && (!(v & X86_CR4_PAE) || diff & X86_CR4_LA57))
        gp0(c);
    if (v & X86_CR4_PCIDE && !(old & X86_CR4_PCIDE) && (!c->long_mode || c->cr3 & 0xfff))
        gp0(c);
    c->cr4 = v;
    if (diff & (X86_CR4_PGE | X86_CR4_PAE | X86_CR4_PSE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PCIDE | X86_CR4_LA57 |
                X86_CR4_PKE))
        x86_tlb_flush(c, true);
    x86_update_mode(c);
}
void x86_set_rflags(struct x86_cpu *c, uint64_t v, uint64_t mask)
{
    c->rflags = (((c->rflags & ~mask) | (v & mask)) & UINT64_C(0x3f7fd5)) | 2;
}

/* ---- time ---- */
uint64_t x86_tsc(struct x86_cpu *c)
{
    return c->port.tsc_now(&c->vcpu);
}
static void set_tsc(struct x86_cpu *c, uint64_t v)
{
    int64_t by = (int64_t)(v - x86_tsc(c));

    c->tsc_offset += by;
    c->tsc_adjust += by;
}

/* ---- MSRs ---- */
enum {
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_BIOS_UPDT = 0x79,
    MSR_BIOS_SIGN = 0x8b,
    MSR_SMBASE = 0x9e,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRRCAP = 0xfe,
    MSR_ARCH_CAPS = 0x10a,
    MSR_FLUSH_CMD = 0x10b,
    MSR_MISC_FEATURES = 0x140,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP,
    MSR_SYSENTER_EIP,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS,
    MSR_MCG_CTL,
    MSR_PERF_STATUS = 0x198,
    MSR_THERM_STATUS = 0x19c,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_ENERGY_BIAS = 0x1b0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_MTRR_BASE0 = 0x200,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K = 0x258,
    MSR_MTRR_FIX4K = 0x268,
    MSR_PAT = 0x277,
    MSR_MTRR_DEFTYPE = 0x2ff,
    MSR_MC0_CTL = 0x400,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC = 0x800,
    MSR_XSS = 0xda0
};
#define MSR_EFER        0xc0000080u
#define MSR_STAR        0xc0000081u
#define MSR_LSTAR       0xc0000082u
#define MSR_CSTAR       0xc0000083u
#define MSR_FMASK       0xc0000084u
#define MSR_FS_BASE     0xc0000100u
#define MSR_GS_BASE     0xc0000101u
#define MSR_KERNEL_GS   0xc0000102u
#define MSR_TSC_AUX     0xc0000103u
#define MSR_AMD_SYSCFG  0xc0010010u
#define MSR_AMD_HWCR    0xc0010015u
#define MSR_AMD_PATCH   0xc0010020u
#define MSR_AMD_INTPEND 0xc0010055u
#define MSR_AMD_TSEG    0xc0010113u
#define MSR_AMD_DE_CFG  0xc0011029u
#define MSR_AMD_NB_CFG  0xc001001fu
#define MSR_AMD_IC_CFG  0xc0011021u
#define MSR_AMD_DC_CFG  0xc0011022u
#define MSR_AMD_BU_CFG2 0xc001102au
#define MSR_AMD_LS_CFG  0xc0011020u
#define MSR_AMD_FP_CFG  0xc0011028u
enum { NR_MTRR = 8, NR_MC_BANKS = 10 };

/* MSRs that are a field and nothing more; canon: the value must be a canonical address. */
static uint64_t *plain_msr(struct x86_cpu *c, uint32_t msr, bool *canon)
{
    *canon = false;
    switch (msr) {
    case MSR_SPEC_CTRL:
        return &c->spec_ctrl;
    case MSR_SYSENTER_CS:
        return &c->sysenter_cs;
    case MSR_SYSENTER_ESP:
        *canon = true;
        return &c->sysenter_esp;
    case MSR_SYSENTER_EIP:
        *canon = true;
        return &c->sysenter_eip;
    case MSR_MCG_STATUS:
        return &c->mcg_status;
    case MSR_MCG_CTL:
        return &c->mcg_ctl;
    case MSR_MISC_ENABLE:
        return &c->misc_enable;
    case MSR_DEBUGCTL:
        return &c->debugctl;
    case MSR_FEATURE_CONTROL:
        return &c->feature_control;
    case MSR_STAR:
        return &c->star;
    case MSR_LSTAR:
        *canon = true;
        return &c->lstar;
    case MSR_CSTAR:
        *canon = true;
        return &c->cstar;
    case MSR_FMASK:
        return &c->fmask;
    case MSR_FS_BASE:
        *canon = true;
        return &c->seg[X86_FS].base;
    case MSR_GS_BASE:
        *canon = true;
        return &c->seg[X86_GS].base;
    case MSR_KERNEL_GS:
        *canon = true;
        return &c->kernel_gs_base;
    case MSR_TSC_AUX:
        return &c->tsc_aux;
    case MSR_MTRR_DEFTYPE:
        return &c->mtrr_deftype;
    case MSR_PAT:
        return &c->pat;
    case MSR_MTRR_FIX64K:
        return &c->mtrr_fixed[0];
    case MSR_MTRR_FIX16K:
        return &c->mtrr_fixed[1];
    case MSR_MTRR_FIX16K + 1:
        return &c->mtrr_fixed[2];
    }
    if (msr >= MSR_MTRR_FIX4K && msr < MSR_MTRR_FIX4K + 8)
        return &c->mtrr_fixed[3 + msr - MSR_MTRR_FIX4K];
    if (msr >= MSR_MTRR_BASE0 && msr < MSR_MTRR_BASE0 + 2 * NR_MTRR)
        return msr & 1 ? &c->mtrr_mask[(msr - MSR_MTRR_BASE0) / 2] : &c->mtrr_base[(msr - MSR_MTRR_BASE0) / 2];
    if (msr >= MSR_MC0_CTL && msr < MSR_MC0_CTL + 4 * NR_MC_BANKS)
        return &c->mce_banks[msr - MSR_MC0_CTL];
    return NULL;
}
/* MSRs that read as a constant and whose writes are dropped. */
static bool fixed_msr(const struct x86_cpu *c, uint32_t msr, uint64_t *v)
{
    switch (msr) {
    case MSR_PLATFORM_ID:
    case MSR_BIOS_UPDT:
    case MSR_PRED_CMD:
    case MSR_FLUSH_CMD:
    case MSR_MISC_FEATURES:
    case MSR_THERM_STATUS:
    case MSR_ENERGY_BIAS:
    case MSR_AMD_SYSCFG:
    case MSR_AMD_HWCR:
    case MSR_AMD_INTPEND:
    case MSR_AMD_TSEG:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_IC_CFG:
    case MSR_AMD_DC_CFG:
    case MSR_AMD_BU_CFG2:
    case MSR_AMD_LS_CFG:
    case MSR_AMD_FP_CFG:
    case MSR_AMD_PATCH:
    case 0xe2:
    case 0x1a2:
    case 0x1a4:
    case 0x1aa:
    case 0x1ad:
    case 0x1fc:
    case 0x2a:
    case 0xcd:
    case 0x34:
    case 0xc0010140u:
    case 0xc0010141u:
        *v = 0;
        return true;
    case MSR_AMD_DE_CFG:
        *v = 2;
        return true; /* LFENCE serialises */
    case MSR_BIOS_SIGN:
        *v = UINT64_C(0x100000000);
        return true;
    case MSR_PLATFORM_INFO:
        *v = c->port.tsc_hz / 100000000 << 8;
        return true;
    case MSR_MTRRCAP:
        *v = 0x500 | NR_MTRR;
        return true;
    case MSR_ARCH_CAPS:
        *v = 0xff & ~4u;
        return true;
    case MSR_MCG_CAP:
        *v = 0x100 | NR_MC_BANKS;
        return true;
    case MSR_PERF_STATUS:
        *v = UINT64_C(1000) | UINT64_C(4) << 40;
        return true;
    default:
        return false;
    }
}
bool x86_rdmsr(struct x86_cpu *c, uint32_t msr, uint64_t *v)
{
    struct x86_port *p = &c->port;
    bool canon;
    const uint64_t *f = plain_msr(c, msr, &canon);

    if (f) {
        *v = *f;
        return true;
    }
    switch (msr) {
    case MSR_TSC:
        *v = x86_tsc(c);
        return true;
    case MSR_TSC_ADJUST:
        *v = (uint64_t)c->tsc_adjust;
        return true;
    case MSR_EFER:
        *v = c->efer;
        return true;
    case MSR_SMBASE:
        *v = c->smbase;
        return c->smm;
    case MSR_XSS:
        *v = c->xss;
        return x86_has(&c->feat, X86_F_XSAVES);
    case MSR_APIC_BASE:
        if (!p->apic)
            return false;
        *v = p->apic_base_get(p->apic);
        return true;
    case MSR_TSC_DEADLINE:
        if (!p->apic)
            return false;
        *v = p->tsc_deadline_get(p->apic);
        return true;
    }
    if (msr >= MSR_X2APIC && msr < MSR_X2APIC + 0x100)
        return p->apic && p->x2apic_read(p->apic, msr, v);
    if (msr >= 0x40000000 && msr < 0x40000100)
        return x86_hv_rdmsr(c, msr, v);
    if (fixed_msr(c, msr, v))
        return true;
    log_unimp("x86: read of MSR %#x at %#" PRIx64, msr, c->rip);
    return false;
}
static bool write_efer(struct x86_cpu *c, uint64_t v)
{
    uint64_t can = 0;

    if (x86_has(&c->feat, X86_F_SYSCALL))
        can |= X86_EFER_SCE;
    if (x86_has(&c->feat, X86_F_LM))
        can |= X86_EFER_LME | X86_EFER_LMA;
    if (c->feat.w[X86_FW_80000001_EDX] & 1 << 20)
        can |= X86_EFER_NXE;
    if (c->feat.w[X86_FW_80000001_EDX] & 1 << 25)
        can |= X86_EFER_FFXSR;
    if (v & ~can || ((v ^ c->efer) & X86_EFER_LME && c->cr0 & X86_CR0_PG))
        return false;
    v = (v & ~(uint64_t)X86_EFER_LMA) | (c->efer & X86_EFER_LMA);
    if ((v ^ c->efer) & X86_EFER_NXE) {
        c->efer = v;
        x86_tlb_flush(c, true);
    }
    c->efer = v;
    x86_update_mode(c);
    return true;
}
static bool pat_valid(uint64_t v)
{
    for (int i = 0; i < 8; i++) {
        unsigned t = v >> (8 * i) & 0xff;

        if (t > 7 || t == 2 || t == 3)
            return false;
    }
    return true;
}
bool x86_wrmsr(struct x86_cpu *c, uint32_t msr, uint64_t v)
{
    struct x86_port *p = &c->port;
    uint64_t ignored;
    bool canon;
    uint64_t *f = plain_msr(c, msr, &canon);

    if (f) {
        if ((canon && !x86_canonical(c, v)) || (msr == MSR_PAT && !pat_valid(v)) || (msr == MSR_TSC_AUX && v >> 32))
            return false;
        *f = v;
        return true;
    }
    switch (msr) {
    case MSR_TSC:
        set_tsc(c, v);
        return true;
    case MSR_TSC_ADJUST:
        c->tsc_offset += (int64_t)v - c->tsc_adjust;
        c->tsc_adjust = (int64_t)v;
        return true;
    case MSR_EFER:
        return write_efer(c, v);
    case MSR_XSS:
        if (v)
            return false;
        c->xss = v;
        return x86_has(&c->feat, X86_F_XSAVES);
    case MSR_APIC_BASE:
        return p->apic && p->apic_base_set(p->apic, v);
    case MSR_TSC_DEADLINE:
        if (p->apic)
            p->tsc_deadline_set(p->apic, v);
        return p->apic;
    }
    if (msr >= MSR_X2APIC && msr < MSR_X2APIC + 0x100)
        return p->apic && p->x2apic_write(p->apic, msr, v);
    if (msr >= 0x40000000 && msr < 0x40000100)
        return x86_hv_wrmsr(c, msr, v);
    if (fixed_msr(c, msr, &ignored))
        return true;
    log_unimp("x86: write of MSR %#x = %#" PRIx64 " at %#" PRIx64, msr, v, c->rip);
    return false;
}

/* ---- ports ---- */
void x86_check_io(struct x86_cpu *c, uint16_t port, unsigned size)
{
    const struct x86_seg *tr = &c->seg[X86_TR];
    uint32_t base, bits;

    if (x86_real(c) || (!x86_v86(c) && c->cpl <= x86_iopl(c)))
        return;
    if (!(tr->flags & X86_SEG_P) || (tr->flags >> 8 & 0xd) != 9 || tr->limit < 0x67)
        gp0(c);
    base = (uint32_t)x86_ld_sys(c, tr->base + 0x66, 2) + port / 8;
    if (base + 1 > tr->limit)
        gp0(c);
    bits = (uint32_t)x86_ld_sys(c, tr->base + base, 2) >> (port & 7);
    if (bits & ((1u << size) - 1))
        gp0(c);
}
uint32_t x86_io_in(struct x86_cpu *c, uint16_t port, unsigned size)
{
    uint64_t v = 0;

    if (unlikely(c->dr[7] & 0xff) && c->cr4 & X86_CR4_DE)
        x86_watch(c, port, size, true, true);
    mem_load(c->vcpu.m->io, port, size, &v);
    return (uint32_t)(v & x86_mask(size));
}
void x86_io_out(struct x86_cpu *c, uint16_t port, unsigned size, uint32_t v)
{
    if (unlikely(c->dr[7] & 0xff) && c->cr4 & X86_CR4_DE)
        x86_watch(c, port, size, true, true);
    mem_store(c->vcpu.m->io, port, size, v);
}
