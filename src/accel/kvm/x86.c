/* x86 registers, CPUID, MSRs and interrupts of a vCPU under KVM.
 *
 * The struct x86_cpu is the truth while the loop is not running, the kernel while it is; put and get move everything. A
 * register or MSR the kernel refuses is logged by name and left as it is: hosts differ in what they let through. INIT,
 * SIPI and (where the kernel has no SMM) nothing else are handled by our own code on the struct. */
#include "accel/kvm/kvm_int.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/str.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

/* ---- segments and system registers ---- */

static struct kvm_segment seg_to_kvm(const struct x86_seg *s)
{
    uint32_t f = s->flags;

    return (struct kvm_segment){.base = s->base,
                                .limit = s->limit,
                                .selector = s->sel,
                                .type = f >> 8 & 15,
                                .s = f >> 12 & 1,
                                .dpl = f >> 13 & 3,
                                .present = f >> 15 & 1,
                                .avl = f >> 20 & 1,
                                .l = f >> 21 & 1,
                                .db = f >> 22 & 1,
                                .g = f >> 23 & 1,
                                .unusable = !(f >> 15 & 1)};
}

static struct x86_seg seg_from_kvm(const struct kvm_segment *k)
{
    uint32_t f = (uint32_t)k->type << 8 | (uint32_t)k->s << 12 | (uint32_t)k->dpl << 13 |
                 (uint32_t)(k->present && !k->unusable) << 15 | (uint32_t)k->avl << 20 | (uint32_t)k->l << 21 |
                 (uint32_t)k->db << 22 | (uint32_t)k->g << 23;

    return (struct x86_seg){.sel = k->selector, .base = k->base, .limit = k->limit, .flags = f};
}

/* Where each segment stands in struct kvm_sregs. */
static struct kvm_segment *kvm_seg(struct kvm_sregs *s, unsigned i)
{
    struct kvm_segment *const t[X86_NR_SEG] = {
        [X86_ES] = &s->es, [X86_CS] = &s->cs, [X86_SS] = &s->ss,    [X86_DS] = &s->ds,
        [X86_FS] = &s->fs, [X86_GS] = &s->gs, [X86_LDTR] = &s->ldt, [X86_TR] = &s->tr};

    return t[i];
}

/* A call that the kernel may refuse: said in the log, never fatal. */
static bool call(struct kvm_vcpu *k, unsigned long req, void *arg, const char *name)
{
    if (ioctl(k->fd, req, arg) >= 0)
        return true;
    log_unimp("kvm: %s refused: %s\n", name, strerror(errno));
    return false;
}

static void put_sregs(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_sregs s = {0};

    if (!call(k, KVM_GET_SREGS, &s, "KVM_GET_SREGS"))
        return;
    for (unsigned i = 0; i < X86_NR_SEG; i++)
        *kvm_seg(&s, i) = seg_to_kvm(&c->seg[i]);
    s.tr.unusable = 0;
    s.gdt.base = c->gdt.base;
    s.gdt.limit = (uint16_t)c->gdt.limit;
    s.idt.base = c->idt.base;
    s.idt.limit = (uint16_t)c->idt.limit;
    s.cr0 = c->cr0;
    s.cr2 = c->cr2;
    s.cr3 = c->cr3;
    s.cr4 = c->cr4;
    s.efer = c->efer;
    if (c->port.apic) {
        s.cr8 = c->port.tpr_get(c->port.apic);
        s.apic_base = c->port.apic_base_get(c->port.apic);
    }
    memset(s.interrupt_bitmap, 0, sizeof s.interrupt_bitmap);
    call(k, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
}

static void get_sregs(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_sregs s = {0};

    if (!call(k, KVM_GET_SREGS, &s, "KVM_GET_SREGS"))
        return;
    for (unsigned i = 0; i < X86_NR_SEG; i++)
        c->seg[i] = seg_from_kvm(kvm_seg(&s, i));
    c->gdt.base = s.gdt.base;
    c->gdt.limit = s.gdt.limit;
    c->idt.base = s.idt.base;
    c->idt.limit = s.idt.limit;
    c->cr0 = s.cr0;
    c->cr2 = s.cr2;
    c->cr3 = s.cr3;
    c->cr4 = s.cr4;
    c->efer = s.efer;
}

static void put_regs(struct x86_cpu *c, struct kvm_vcpu *k)
{
    const uint64_t *r = c->regs;
    struct kvm_regs g = {.rax = r[0],
                         .rcx = r[1],
                         .rdx = r[2],
                         .rbx = r[3],
                         .rsp = r[4],
                         .rbp = r[5],
                         .rsi = r[6],
                         .rdi = r[7],
                         .r8 = r[8],
                         .r9 = r[9],
                         .r10 = r[10],
                         .r11 = r[11],
                         .r12 = r[12],
                         .r13 = r[13],
                         .r14 = r[14],
                         .r15 = r[15],
                         .rip = c->rip,
                         .rflags = c->rflags | 2};

    call(k, KVM_SET_REGS, &g, "KVM_SET_REGS");
}

static void get_regs(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_regs g;

    if (!call(k, KVM_GET_REGS, &g, "KVM_GET_REGS"))
        return;
    {
        const uint64_t r[16] = {g.rax, g.rcx, g.rdx, g.rbx, g.rsp, g.rbp, g.rsi, g.rdi,
                                g.r8,  g.r9,  g.r10, g.r11, g.r12, g.r13, g.r14, g.r15};

        memcpy(c->regs, r, sizeof r);
    }
    c->rip = g.rip;
    c->rflags = g.rflags;
}

/* ---- vector and x87 state: the standard XSAVE image ---- */

enum { XSTATE_BV = 512, AT_XMM = 160, AT_YMM = 576, AVX512 = 0xe0, C_K = 5, C_ZMM_HI = 6, C_HI16 = 7 };

static uint8_t *part(const struct x86_cpu *c, struct kvm_vcpu *k, unsigned component)
{
    uint32_t size, off;

    x86_xsave_component(&c->feat, component, &size, &off);
    return (uint8_t *)k->xsave->region + off;
}

static void put_fpu(struct x86_cpu *c, struct kvm_vcpu *k)
{
    uint8_t *b = (uint8_t *)k->xsave->region;

    if (!k->vm->cap_xsave)
        return;
    memset(b, 0, k->vm->xsave_size);
    memcpy(b, &c->fx, offsetof(struct x86_fx, xmm_unused));
    put_le32(b + 28, 0);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(b + AT_XMM + 16 * i, c->v[i].b, 16);
        if (x86_has(&c->feat, X86_F_AVX))
            memcpy(b + AT_YMM + 16 * i, c->v[i].b + 16, 16);
    }
    put_le64(b + XSTATE_BV, x86_has(&c->feat, X86_F_AVX512F) ? 7 | AVX512 : x86_has(&c->feat, X86_F_AVX) ? 7 : 3);
    if (x86_has(&c->feat, X86_F_AVX512F)) {
        memcpy(part(c, k, C_K), c->k, sizeof c->k);
        for (unsigned i = 0; i < 16; i++)
            memcpy(part(c, k, C_ZMM_HI) + 32 * i, c->v[i].b + 32, 32);
        memcpy(part(c, k, C_HI16), c->v + 16, 16 * sizeof c->v[0]);
    }
    call(k, KVM_SET_XSAVE, k->xsave, "KVM_SET_XSAVE");
}

static void get_fpu(struct x86_cpu *c, struct kvm_vcpu *k)
{
    const uint8_t *b = (const uint8_t *)k->xsave->region;
    uint32_t mask = c->fx.mxcsr_mask;
    uint64_t bv;

    if (!k->vm->cap_xsave || !call(k, KVM_GET_XSAVE, k->xsave, "KVM_GET_XSAVE"))
        return;
    bv = get_le64(b + XSTATE_BV);
    if (bv & 1)
        memcpy(&c->fx, b, offsetof(struct x86_fx, xmm_unused));
    if (bv & 6)
        c->fx.mxcsr = get_le32(b + 24);
    c->fx.mxcsr_mask = mask;
    for (unsigned i = 0; i < 16; i++) {
        memset(c->v[i].b, 0, 64);
        if (bv & 2)
            memcpy(c->v[i].b, b + AT_XMM + 16 * i, 16);
        if (bv & 4)
            memcpy(c->v[i].b + 16, b + AT_YMM + 16 * i, 16);
        if (bv & 1 << C_ZMM_HI)
            memcpy(c->v[i].b + 32, part(c, k, C_ZMM_HI) + 32 * i, 32);
    }
    memset(c->k, 0, sizeof c->k);
    memset(c->v + 16, 0, 16 * sizeof c->v[0]);
    if (bv & 1 << C_K)
        memcpy(c->k, part(c, k, C_K), sizeof c->k);
    if (bv & 1 << C_HI16)
        memcpy(c->v + 16, part(c, k, C_HI16), 16 * sizeof c->v[0]);
}

static void put_xcr0(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = c->xcr0 ? c->xcr0 : 1}}};

    if (k->vm->cap_xcrs && x86_has(&c->feat, X86_F_XSAVE))
        call(k, KVM_SET_XCRS, &x, "KVM_SET_XCRS");
}

static void get_xcr0(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_xcrs x = {0};

    if (!k->vm->cap_xcrs || !x86_has(&c->feat, X86_F_XSAVE) || !call(k, KVM_GET_XCRS, &x, "KVM_GET_XCRS"))
        return;
    for (unsigned i = 0; i < x.nr_xcrs && i < KVM_MAX_XCRS; i++)
        if (x.xcrs[i].xcr == 0)
            c->xcr0 = x.xcrs[i].value;
}

static void put_debug(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_debugregs d = {.db = {c->dr[0], c->dr[1], c->dr[2], c->dr[3]}, .dr6 = c->dr[6], .dr7 = c->dr[7]};

    if (k->vm->cap_debugregs)
        call(k, KVM_SET_DEBUGREGS, &d, "KVM_SET_DEBUGREGS");
}

static void get_debug(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_debugregs d;

    if (!k->vm->cap_debugregs || !call(k, KVM_GET_DEBUGREGS, &d, "KVM_GET_DEBUGREGS"))
        return;
    memcpy(c->dr, d.db, sizeof d.db);
    c->dr[6] = d.dr6;
    c->dr[7] = d.dr7;
}

/* ---- MSRs ---- */

struct msr_map {
    uint32_t index;
    uint16_t off; /* of the uint64_t in struct x86_cpu */
};
#define MSR(i, field)                                                                                                  \
    {                                                                                                                  \
        (i), offsetof(struct x86_cpu, field)                                                                           \
    }
static const struct msr_map msr_map[] = {
    MSR(0x174, sysenter_cs),   MSR(0x175, sysenter_esp),        MSR(0x176, sysenter_eip),  MSR(0x277, pat),
    MSR(0x1a0, misc_enable),   MSR(0xc0000081, star),           MSR(0xc0000082, lstar),    MSR(0xc0000083, cstar),
    MSR(0xc0000084, fmask),    MSR(0xc0000102, kernel_gs_base), MSR(0xc0000103, tsc_aux),  MSR(0x2ff, mtrr_deftype),
    MSR(0x250, mtrr_fixed[0]), MSR(0x258, mtrr_fixed[1]),       MSR(0x259, mtrr_fixed[2]), MSR(0x268, mtrr_fixed[3]),
    MSR(0x269, mtrr_fixed[4]), MSR(0x26a, mtrr_fixed[5]),       MSR(0x26b, mtrr_fixed[6]), MSR(0x26c, mtrr_fixed[7]),
    MSR(0x26d, mtrr_fixed[8]), MSR(0x26e, mtrr_fixed[9]),       MSR(0x26f, mtrr_fixed[10])};
enum { NR_MSR = ARRAY_LEN(msr_map), NR_VAR_MTRR = 8, MAX_MSRS = NR_MSR + 2 * NR_VAR_MTRR };

struct msr_buf {
    struct kvm_msrs h;
    struct kvm_msr_entry e[MAX_MSRS];
};

static bool msr_known(const struct kvm_vm *vm, uint32_t index)
{
    for (unsigned i = 0; i < vm->msrs->nmsrs; i++)
        if (vm->msrs->indices[i] == index)
            return true;
    return index >= 0x200 && index < 0x300; /* MTRRs are not in the list and always there */
}

static uint64_t *msr_field(struct x86_cpu *c, unsigned i)
{
    if (i < NR_MSR)
        return (uint64_t *)((char *)c + msr_map[i].off);
    i -= NR_MSR;
    return i & 1 ? &c->mtrr_mask[i / 2] : &c->mtrr_base[i / 2];
}

static uint32_t msr_index(unsigned i)
{
    return i < NR_MSR ? msr_map[i].index : 0x200 + i - NR_MSR;
}

/* The kernel stops at the first MSR it refuses: name it and go on behind it. */
static void put_msrs(struct x86_cpu *c, struct kvm_vcpu *k)
{
    for (unsigned i = 0; i < MAX_MSRS;) {
        struct msr_buf b = {0};
        unsigned from = i;
        int done;

        for (; i < MAX_MSRS; i++)
            if (msr_known(k->vm, msr_index(i)))
                b.e[b.h.nmsrs++] = (struct kvm_msr_entry){.index = msr_index(i), .data = *msr_field(c, i)};
        done = b.h.nmsrs ? ioctl(k->fd, KVM_SET_MSRS, &b) : 0;
        if (done < 0 || done >= (int)b.h.nmsrs)
            return;
        log_unimp("kvm: MSR %#x = %#llx refused\n", b.e[done].index, b.e[done].data);
        for (i = from; msr_index(i) != b.e[done].index; i++)
            ;
        i++;
    }
}

static void get_msrs(struct x86_cpu *c, struct kvm_vcpu *k)
{
    for (unsigned i = 0; i < MAX_MSRS; i++) {
        struct msr_buf b = {.h.nmsrs = 1};

        if (!msr_known(k->vm, msr_index(i)))
            continue;
        b.e[0].index = msr_index(i);
        if (ioctl(k->fd, KVM_GET_MSRS, &b) == 1)
            *msr_field(c, i) = b.e[0].data;
    }
}

/* ---- events ---- */

static bool at_reset_vector(const struct x86_cpu *c)
{
    return c->rip == 0xfff0 && c->seg[X86_CS].base == 0xffff0000;
}

static void put_events(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_vcpu_events *e = &k->events;

    if (!k->vm->cap_events)
        return;
    if (at_reset_vector(c))
        memset(e, 0, sizeof *e);
    e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    e->interrupt.shadow = c->int_shadow & 2 ? KVM_X86_SHADOW_INT_MOV_SS : c->int_shadow ? KVM_X86_SHADOW_INT_STI : 0;
    e->nmi.masked = c->nmi_blocked;
    if (k->vm->cap_smm) {
        e->flags |= KVM_VCPUEVENT_VALID_SMM;
        e->smi.smm = c->smm;
    }
    call(k, KVM_SET_VCPU_EVENTS, e, "KVM_SET_VCPU_EVENTS");
}

static void get_events(struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_vcpu_events *e = &k->events;

    if (!k->vm->cap_events || !call(k, KVM_GET_VCPU_EVENTS, e, "KVM_GET_VCPU_EVENTS"))
        return;
    c->nmi_blocked = e->nmi.masked;
    c->int_shadow = e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? 2 : e->interrupt.shadow ? 1 : 0;
    if (k->vm->cap_smm)
        c->smm = e->smi.smm;
}

/* ---- whole state ---- */

void kvm_x86_put(struct vcpu *vc)
{
    struct x86_cpu *c = x86_cpu(vc);
    struct kvm_vcpu *k = kvm_vcpu(vc);

    if (k->in_kernel)
        return;
    put_regs(c, k);
    put_xcr0(c, k);
    put_fpu(c, k);
    put_sregs(c, k);
    put_msrs(c, k);
    put_debug(c, k);
    put_events(c, k);
    k->in_kernel = true;
}

void kvm_x86_get(struct vcpu *vc)
{
    struct x86_cpu *c = x86_cpu(vc);
    struct kvm_vcpu *k = kvm_vcpu(vc);

    if (!k->in_kernel)
        return;
    get_events(c, k);
    get_regs(c, k);
    get_sregs(c, k);
    get_xcr0(c, k);
    get_fpu(c, k);
    get_msrs(c, k);
    get_debug(c, k);
    c->cpl = c->seg[X86_SS].flags >> X86_SEG_DPL_SHIFT & 3;
    x86_update_mode(c);
    k->in_kernel = false;
}

/* ---- CPUID ---- */

enum { MAX_CPUID = 128 };
struct cpuid_buf {
    struct kvm_cpuid2 h;
    struct kvm_cpuid_entry2 e[MAX_CPUID];
};

static bool cpuid_add(struct x86_cpu *c, struct cpuid_buf *b, uint32_t leaf, uint32_t sub, bool indexed)
{
    struct kvm_cpuid_entry2 *e = &b->e[b->h.nent];
    uint32_t r[4];

    if (b->h.nent == MAX_CPUID)
        return false;
    x86_cpuid(c, leaf, sub, r);
    *e = (struct kvm_cpuid_entry2){.function = leaf,
                                   .index = sub,
                                   .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
                                   .eax = r[0],
                                   .ebx = r[1],
                                   .ecx = r[2],
                                   .edx = r[3]};
    b->h.nent++;
    return r[0] | r[1] | r[2] | r[3];
}

static void cpuid_leaf(struct x86_cpu *c, struct cpuid_buf *b, uint32_t leaf)
{
    switch (leaf) {
    case 4:
    case 0x8000001d:
        for (uint32_t s = 0; s < 4; s++)
            cpuid_add(c, b, leaf, s, true);
        break;
    case 7:
        cpuid_add(c, b, leaf, 0, true);
        cpuid_add(c, b, leaf, 1, true);
        break;
    case 0xb:
    case 0x1f:
        for (uint32_t s = 0; s < 4; s++)
            cpuid_add(c, b, leaf, s, true);
        break;
    case 0xd:
        for (uint32_t s = 0; s < 10; s++)
            cpuid_add(c, b, leaf, s, true);
        break;
    default:
        cpuid_add(c, b, leaf, 0, false);
        break;
    }
}

/* Some kernels put words of their own in the place of what they were given: the guest then sees those, which must be
 * said. */
static void cpuid_check(struct vcpu *vc, struct kvm_vcpu *k, const struct cpuid_buf *set)
{
    enum { LIVE_ECX = 1u << 27, LIVE_EDX = 1u << 9 }; /* OSXSAVE, APIC */
    struct cpuid_buf got = {.h.nent = MAX_CPUID};
    const struct kvm_cpuid_entry2 *a = NULL, *b = NULL;

    if (vc->index || ioctl(k->fd, KVM_GET_CPUID2, &got) < 0)
        return;
    for (unsigned i = 0; i < set->h.nent && !a; i++)
        a = set->e[i].function == 1 ? &set->e[i] : NULL;
    for (unsigned i = 0; i < got.h.nent && i < MAX_CPUID && !b; i++)
        b = got.e[i].function == 1 ? &got.e[i] : NULL;
    if (a && b && (((a->ecx ^ b->ecx) & ~LIVE_ECX) || ((a->edx ^ b->edx) & ~LIVE_EDX)))
        warn_report("KVM: the kernel shows features %#x:%#x in CPUID leaf 1 where the model has %#x:%#x", b->ecx,
                    b->edx, a->ecx, a->edx);
}

bool kvm_x86_vcpu_init(struct vcpu *vc, struct err **errp)
{
    struct x86_cpu *c = x86_cpu(vc);
    struct kvm_vcpu *k = kvm_vcpu(vc);
    struct cpuid_buf b = {0};

    x86_xsave_as_host(&c->feat); /* the guest's XSAVE is the processor's */
    for (uint32_t l = 0; l <= c->feat.level; l++)
        cpuid_leaf(c, &b, l);
    for (uint32_t l = 0x40000000; c->feat.hypervisor && l <= 0x40000005; l++)
        cpuid_leaf(c, &b, l);
    for (uint32_t l = 0x80000000; l <= c->feat.xlevel; l++)
        cpuid_leaf(c, &b, l);
    if (ioctl(k->fd, KVM_SET_CPUID2, &b) < 0)
        return err_set_errno(errp, errno, "KVM: the kernel refused the CPUID of CPU %u", vc->index);
    cpuid_check(vc, k, &b);
    return true;
}

/* ---- lines ---- */

static bool take_pin(struct vcpu *c, uint32_t pin)
{
    return atomic_fetch_and(&c->pins, ~pin) & pin;
}

/* INIT, SIPI and what comes with them change so much that our own code does it on the struct. */
static bool own_pins(struct vcpu *vc)
{
    uint32_t pins = atomic_load(&vc->pins);

    if (!(pins & (X86_PIN_INIT | X86_PIN_SIPI)))
        return false;
    kvm_x86_get(vc);
    x86_service_pins(x86_cpu(vc));
    kvm_x86_put(vc);
    return true;
}

static void inject_irq(struct vcpu *vc, struct x86_cpu *c, struct kvm_vcpu *k)
{
    struct kvm_interrupt irq;
    int vec = -1;

    if (!k->run->ready_for_interrupt_injection || !k->run->if_flag)
        return;
    if (c->port.apic)
        vec = c->port.intr_ack(c->port.apic);
    else if (c->port.pic)
        vec = c->port.pic_ack(c->port.pic);
    if (vec < 0)
        return;
    irq.irq = (uint32_t)vec;
    call(k, KVM_INTERRUPT, &irq, "KVM_INTERRUPT");
}

bool kvm_x86_pre_run(struct vcpu *vc)
{
    struct x86_cpu *c = x86_cpu(vc);
    struct kvm_vcpu *k = kvm_vcpu(vc);

    if (own_pins(vc))
        return true;
    if (c->wait_sipi) {
        vc->halted = true;
        return true;
    }
    if (k->vm->cap_nmi && take_pin(vc, X86_PIN_NMI))
        call(k, KVM_NMI, NULL, "KVM_NMI");
    if (take_pin(vc, X86_PIN_SMI)) {
        if (k->vm->cap_smm)
            call(k, KVM_SMI, NULL, "KVM_SMI");
        else
            log_unimp("kvm: SMI ignored: this kernel offers no SMM\n");
    }
    take_pin(vc, X86_PIN_A20 | X86_PIN_FLUSH);
    if (atomic_load(&vc->pins) & X86_PIN_INTR)
        inject_irq(vc, c, k);
    k->run->request_interrupt_window = (atomic_load(&vc->pins) & X86_PIN_INTR) != 0;
    if (c->port.apic) {
        k->run->cr8 = c->port.tpr_get(c->port.apic);
        k->run->apic_base = c->port.apic_base_get(c->port.apic);
    }
    return false;
}

void kvm_x86_post_run(struct vcpu *vc)
{
    struct x86_cpu *c = x86_cpu(vc);
    struct kvm_run *r = kvm_vcpu(vc)->run;

    c->rflags = (c->rflags & ~(uint64_t)X86_IF) | (r->if_flag ? X86_IF : 0); /* has_work asks for it */
    if (!c->port.apic)
        return;
    if (r->cr8 != c->port.tpr_get(c->port.apic))
        c->port.tpr_set(c->port.apic, (uint8_t)r->cr8);
    if (r->apic_base != c->port.apic_base_get(c->port.apic))
        c->port.apic_base_set(c->port.apic, r->apic_base);
}

char *kvm_x86_where(struct vcpu *vc)
{
    struct x86_cpu *c = x86_cpu(vc);
    struct strbuf b = {0};
    uint8_t code[15];
    uint64_t lin;
    gpa_t pa;
    unsigned n = 0;

    kvm_x86_get(vc);
    lin = c->seg[X86_CS].base + c->rip;
    str_addf(&b, "CS:RIP %#x:%#" PRIx64 " (linear %#" PRIx64 "), code", c->seg[X86_CS].sel, c->rip, lin);
    while (n < sizeof code && vc->arch->debug_translate && vc->arch->debug_translate(vc, lin + n, &pa) &&
           mem_read(vc->as, pa, code + n, 1) == MEM_OK)
        str_addf(&b, " %02x", code[n++]);
    if (!n)
        str_add(&b, " unreadable");
    return str_take(&b);
}
