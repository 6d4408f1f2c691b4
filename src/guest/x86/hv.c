/* Hyper-V enlightenments: the synthetic MSRs that hv_* of -cpu switches on (Hypervisor Top-Level Functional
 * Specification).
 *
 * hv-time: reference counter and TSC page; hv-vapic: EOI, ICR and TPR, assist page; hv-vpindex, hv-runtime,
 * hv-frequencies, hv-reset. The hypercall page answers every call with "invalid hypercall code". Left out: synthetic
 * interrupts and timers, hypercalls. */
#include "base/bytes.h"
#include "guest/x86/state.h"

enum {
    HV_GUEST_OS_ID = 0x40000000,
    HV_HYPERCALL,
    HV_VP_INDEX,
    HV_RESET,
    HV_VP_RUNTIME = 0x40000010,
    HV_TIME_REF_COUNT = 0x40000020,
    HV_REFERENCE_TSC,
    HV_TSC_FREQUENCY,
    HV_APIC_FREQUENCY,
    HV_EOI = 0x40000070,
    HV_ICR,
    HV_TPR,
    HV_VP_ASSIST_PAGE
};
enum { ENABLE = 1, PAGE = 4096, APIC_HZ = 1000000000, TICK_NS = 100 };
enum { APIC_TPR = 0x80, APIC_EOI = 0xb0, APIC_ICR = 0x300, APIC_ICR2 = 0x310 };

static uint64_t ref_count(struct x86_cpu *c)
{
    return (uint64_t)clk_now(c->vcpu.m->run->virt) / TICK_NS;
}

static uint64_t apic_at(struct x86_cpu *c, unsigned reg)
{
    return (c->port.apic_base_get(c->port.apic) & ~UINT64_C(0xfff)) + reg;
}

/* mov eax, 2 (HV_STATUS_INVALID_HYPERCALL_CODE); xor edx, edx; ret */
static void put_hypercall_page(struct x86_cpu *c, uint64_t v)
{
    static const uint8_t code[] = {0xb8, 2, 0, 0, 0, 0x31, 0xd2, 0xc3};

    if (v & ENABLE)
        mem_write(x86_as(c), v & ~UINT64_C(0xfff), code, sizeof code);
}

/* time = (tsc * scale >> 64) + offset, in units of 100 ns. */
static void put_tsc_page(struct x86_cpu *c, uint64_t v)
{
    uint8_t b[24] = {0};
    uint64_t scale, tsc = x86_tsc(c);

    if (!(v & ENABLE) || !c->port.tsc_hz)
        return;
    scale = (uint64_t)(((unsigned __int128)10000000 << 64) / c->port.tsc_hz);
    put_le32(b, 1);
    put_le64(b + 8, scale);
    put_le64(b + 16, ref_count(c) - (uint64_t)((unsigned __int128)tsc * scale >> 64));
    mem_write(x86_as(c), v & ~UINT64_C(0xfff), b, sizeof b);
}

/* Which switch an MSR hangs on. */
static bool msr_there(const struct x86_features *f, uint32_t msr)
{
    if (!*f->hv_vendor)
        return false;
    switch (msr) {
    case HV_GUEST_OS_ID:
    case HV_HYPERCALL:
        return true;
    case HV_VP_INDEX:
        return f->hv_vpindex;
    case HV_RESET:
        return f->hv_reset;
    case HV_VP_RUNTIME:
        return f->hv_runtime;
    case HV_TIME_REF_COUNT:
    case HV_REFERENCE_TSC:
        return f->hv_time;
    case HV_TSC_FREQUENCY:
    case HV_APIC_FREQUENCY:
        return f->hv_frequencies;
    case HV_EOI:
    case HV_ICR:
    case HV_TPR:
    case HV_VP_ASSIST_PAGE:
        return f->hv_vapic;
    default:
        return false;
    }
}

bool x86_hv_rdmsr(struct x86_cpu *c, uint32_t msr, uint64_t *v)
{
    if (!msr_there(&c->feat, msr))
        return false;
    switch (msr) {
    case HV_GUEST_OS_ID:
        *v = c->hv.guest_os_id;
        return true;
    case HV_HYPERCALL:
        *v = c->hv.hypercall;
        return true;
    case HV_VP_INDEX:
        *v = c->vcpu.index;
        return true;
    case HV_RESET:
        *v = 0;
        return true;
    case HV_VP_RUNTIME:
    case HV_TIME_REF_COUNT:
        *v = ref_count(c);
        return true;
    case HV_REFERENCE_TSC:
        *v = c->hv.ref_tsc;
        return true;
    case HV_TSC_FREQUENCY:
        *v = c->port.tsc_hz;
        return true;
    case HV_APIC_FREQUENCY:
        *v = APIC_HZ;
        return true;
    case HV_VP_ASSIST_PAGE:
        *v = c->hv.vp_assist;
        return true;
    case HV_ICR:
        if (!c->port.apic)
            return false;
        *v = mem_ld(x86_as(c), apic_at(c, APIC_ICR), 4) | mem_ld(x86_as(c), apic_at(c, APIC_ICR2), 4) << 32;
        return true;
    case HV_TPR:
        if (!c->port.apic)
            return false;
        *v = mem_ld(x86_as(c), apic_at(c, APIC_TPR), 4);
        return true;
    default:
        return false; /* EOI is write-only */
    }
}

static bool write_apic(struct x86_cpu *c, uint32_t msr, uint64_t v)
{
    struct mem_space *as = x86_as(c);

    if (!c->port.apic)
        return false;
    if (msr == HV_EOI) {
        mem_store(as, apic_at(c, APIC_EOI), 4, 0);
    } else if (msr == HV_TPR) {
        mem_store(as, apic_at(c, APIC_TPR), 4, v & 0xff);
    } else {
        mem_store(as, apic_at(c, APIC_ICR2), 4, v >> 32);
        mem_store(as, apic_at(c, APIC_ICR), 4, (uint32_t)v);
    }
    return true;
}

bool x86_hv_wrmsr(struct x86_cpu *c, uint32_t msr, uint64_t v)
{
    if (!msr_there(&c->feat, msr))
        return false;
    switch (msr) {
    case HV_GUEST_OS_ID:
        c->hv.guest_os_id = v;
        if (!v)
            c->hv.hypercall &= ~(uint64_t)ENABLE;
        return true;
    case HV_HYPERCALL:
        if (!c->hv.guest_os_id)
            v &= ~(uint64_t)ENABLE;
        c->hv.hypercall = v;
        put_hypercall_page(c, v);
        return true;
    case HV_RESET:
        if (v & 1)
            machine_request_reset(c->vcpu.m, CAUSE_GUEST_RESET);
        return true;
    case HV_REFERENCE_TSC:
        c->hv.ref_tsc = v;
        put_tsc_page(c, v);
        return true;
    case HV_VP_ASSIST_PAGE:
        c->hv.vp_assist = v;
        return true;
    case HV_EOI:
    case HV_ICR:
    case HV_TPR:
        return write_apic(c, msr, v);
    default:
        return false; /* counters and frequencies are read-only */
    }
}
