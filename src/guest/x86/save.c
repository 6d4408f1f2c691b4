/* What of a CPU belongs to a saved machine: every register the guest can read or feel. CPUID is not saved but must be
 * the same, and so must the rate of the TSC: what the guest has measured stays true. Registers of AVX-512 are part of
 * v[] and k[]. Left out: debug-store and performance monitoring, which are not modelled. */
#include "guest/x86/x86_int.h"

static const struct state_field seg_fields[] = {STATE_U16(struct x86_seg, sel), STATE_U64(struct x86_seg, base),
                                                STATE_U32(struct x86_seg, limit), STATE_U32(struct x86_seg, flags),
                                                STATE_END};
static const struct state_desc seg_state = {.name = "segment", .version = 1, .fields = seg_fields};

static const struct state_field fx_fields[] = {
    STATE_U16(struct x86_fx, fcw),   STATE_U16(struct x86_fx, fsw),  STATE_U8(struct x86_fx, ftw),
    STATE_U16(struct x86_fx, fop),   STATE_U64(struct x86_fx, fip),  STATE_U64(struct x86_fx, fdp),
    STATE_U32(struct x86_fx, mxcsr), STATE_BYTES(struct x86_fx, st), STATE_END};
static const struct state_desc fx_state = {.name = "x87", .version = 1, .fields = fx_fields};

static const struct state_field cpu_fields[] = {STATE_INT(struct x86_cpu, vcpu.pins),
                                                STATE_BOOL(struct x86_cpu, vcpu.halted),
                                                STATE_INT(struct x86_cpu, port.sipi_vector),
                                                STATE_BOOL(struct x86_cpu, port.a20),
                                                STATE_ARRAY(struct x86_cpu, regs),
                                                STATE_U64(struct x86_cpu, rip),
                                                STATE_U64(struct x86_cpu, rflags),
                                                STATE_STRUCTS(struct x86_cpu, seg, seg_state),
                                                STATE_U64(struct x86_cpu, gdt.base),
                                                STATE_U32(struct x86_cpu, gdt.limit),
                                                STATE_U64(struct x86_cpu, idt.base),
                                                STATE_U32(struct x86_cpu, idt.limit),
                                                STATE_U64(struct x86_cpu, cr0),
                                                STATE_U64(struct x86_cpu, cr2),
                                                STATE_U64(struct x86_cpu, cr3),
                                                STATE_U64(struct x86_cpu, cr4),
                                                STATE_U64(struct x86_cpu, xcr0),
                                                STATE_ARRAY(struct x86_cpu, dr),
                                                STATE_U64(struct x86_cpu, efer),
                                                STATE_U64(struct x86_cpu, star),
                                                STATE_U64(struct x86_cpu, lstar),
                                                STATE_U64(struct x86_cpu, cstar),
                                                STATE_U64(struct x86_cpu, fmask),
                                                STATE_U64(struct x86_cpu, kernel_gs_base),
                                                STATE_U64(struct x86_cpu, tsc_aux),
                                                STATE_U64(struct x86_cpu, pat),
                                                STATE_U64(struct x86_cpu, sysenter_cs),
                                                STATE_U64(struct x86_cpu, sysenter_esp),
                                                STATE_U64(struct x86_cpu, sysenter_eip),
                                                STATE_U64(struct x86_cpu, mtrr_deftype),
                                                STATE_ARRAY(struct x86_cpu, mtrr_fixed),
                                                STATE_ARRAY(struct x86_cpu, mtrr_base),
                                                STATE_ARRAY(struct x86_cpu, mtrr_mask),
                                                STATE_U64(struct x86_cpu, misc_enable),
                                                STATE_U64(struct x86_cpu, mcg_status),
                                                STATE_U64(struct x86_cpu, mcg_ctl),
                                                STATE_ARRAY(struct x86_cpu, mce_banks),
                                                STATE_U64(struct x86_cpu, spec_ctrl),
                                                STATE_U64(struct x86_cpu, xss),
                                                STATE_U64(struct x86_cpu, feature_control),
                                                STATE_U64(struct x86_cpu, debugctl),
                                                STATE_I64(struct x86_cpu, tsc_offset),
                                                STATE_I64(struct x86_cpu, tsc_adjust),
                                                STATE_U32(struct x86_cpu, pkru),
                                                STATE_U32(struct x86_cpu, smbase),
                                                STATE_BOOL(struct x86_cpu, smm),
                                                STATE_BOOL(struct x86_cpu, nmi_blocked),
                                                STATE_BOOL(struct x86_cpu, wait_sipi),
                                                STATE_U8(struct x86_cpu, int_shadow),
                                                STATE_U8(struct x86_cpu, cpl),
                                                STATE_STRUCT(struct x86_cpu, fx, fx_state),
                                                STATE_BYTES(struct x86_cpu, v),
                                                STATE_ARRAY(struct x86_cpu, k),
                                                STATE_U64(struct x86_cpu, hv.guest_os_id),
                                                STATE_U64(struct x86_cpu, hv.hypercall),
                                                STATE_U64(struct x86_cpu, hv.ref_tsc),
                                                STATE_U64(struct x86_cpu, hv.vp_assist),
                                                STATE_U64(struct x86_cpu, saved_tsc_hz),
                                                STATE_U64(struct x86_cpu, saved_cpuid),
                                                STATE_END};

/* A number that differs when CPUID shows the guest anything else. */
static uint64_t cpuid_sum(struct x86_cpu *c)
{
    uint64_t sum = 1;

    for (unsigned half = 0; half < 2; half++) {
        for (uint32_t n = 0; n <= 0x1f; n++) {
            uint32_t leaf = n | half << 31, r[4] = {0};

            if (leaf == 0xd || leaf == 0xb || leaf == 0x1f) /* follow from XCR0, OSXSAVE and the place of the CPU */
                continue;
            x86_cpuid(c, leaf, 0, r);
            if (leaf == 1) /* CR4 shows in OSXSAVE, the APIC's state in APIC */
                r[2] &= ~(1u << 27), r[3] &= ~(1u << 9);
            if (leaf == 7)
                r[2] &= ~(1u << 4); /* OSPKE */
            for (unsigned i = 0; i < 4; i++)
                sum = (sum ^ r[i]) * UINT64_C(0x9fb21c651e98df25) + (sum >> 29);
        }
    }
    return sum;
}

static void sync_x87(struct vcpu *v, void *arg)
{
    x86_x87_sync(x86_cpu(v));
}

static bool pre_save(void *obj, struct err **errp)
{
    struct x86_cpu *c = obj;

    vcpu_call(&c->vcpu, sync_x87, NULL);
    c->saved_tsc_hz = c->port.tsc_hz;
    c->saved_cpuid = cpuid_sum(c);
    return true;
}

static bool post_load(void *obj, struct err **errp)
{
    struct x86_cpu *c = obj;

    if (c->saved_tsc_hz != c->port.tsc_hz) {
        err_set(errp, "its time stamp counter ran at %" PRIu64 " Hz when it was saved, here it runs at %" PRIu64,
                c->saved_tsc_hz, c->port.tsc_hz);
        err_hint(errp, "Start with the same -cpu ...,tsc-frequency=.");
        return false;
    }
    if (c->saved_cpuid != cpuid_sum(c)) {
        err_set(errp, "the saved processor is of another model or has other features");
        err_hint(errp, "Start with the same -cpu, -smp and -accel.");
        return false;
    }
    if ((c->cr0 & X86_CR0_PG && !(c->cr0 & X86_CR0_PE)) || c->fx.mxcsr & ~c->fx.mxcsr_mask || c->int_shadow > 3 ||
        c->cpl > 3 || (c->efer & X86_EFER_LMA && !(c->cr0 & X86_CR0_PG && c->cr4 & X86_CR4_PAE)))
        return false;
    if (c->xcr0 & 0xe0)
        x86_note_upper(c);
    c->x87_live = false;
    c->rflags |= 2;
    c->a20_mask = c->port.a20 ? ~UINT64_C(0) : ~(UINT64_C(1) << 20);
    c->injecting = -1;
    c->shutdown = false;
    x86_tlb_flush(c, true);
    x86_update_mode(c);
    return true;
}

const struct state_desc x86_cpu_state = {
    .name = "x86-cpu", .version = 1, .fields = cpu_fields, .pre_save = pre_save, .post_load = post_load};
