/* Shared by kvm.c (device and memory), run.c (the loop) and x86.c (registers). */
#ifndef ACCEL_KVM_KVM_INT_H
#define ACCEL_KVM_KVM_INT_H

#include "accel/accel.h"
#include "accel/kvm/kvm.h"
#include "guest/x86/state.h"
#include <linux/kvm.h>

/* One KVM memory slot. */
struct kvm_slot {
    struct kvm_userspace_memory_region r; /* slot number without the address space */
    struct mem_ram *ram;
    uint64_t ram_off;
    bool used, seen;
};
/* The slots that mirror one address space. */
struct kvm_view {
    struct kvm_vm *vm;
    struct mem_space *as;
    unsigned id;           /* KVM address space: 1 is SMM */
    struct kvm_slot *slot; /* owned, nr_slots of the machine */
};
struct kvm_vm {
    struct machine *m;
    int fd, vm;
    unsigned nr_slots, run_size, xsave_size;
    bool cap_readonly, cap_xsave, cap_xcrs, cap_debugregs, cap_events, cap_nmi, cap_smm;
    struct kvm_view mem, smm;
    struct clk_timer dirty_timer;
    bool logging;              /* some slot is dirty-logged */
    struct kvm_cpuid2 *cpuid;  /* owned: what the kernel supports */
    struct kvm_msr_list *msrs; /* owned: which MSRs it knows */
    unsigned nr_cpus;
    _Atomic uint64_t slot_changes;
};
struct kvm_vcpu {
    struct kvm_vm *vm;
    int fd;
    struct kvm_run *run;
    struct kvm_vcpu_events events;
    struct kvm_xsave *xsave; /* owned, page-aligned */
    bool in_kernel;          /* the kernel's registers are newer than the struct's */
    bool sig_ready;
    _Atomic uint64_t exits[64]; /* by reason */
};
static inline struct kvm_vcpu *kvm_vcpu(struct vcpu *c)
{
    return c->accel_data;
}

/* ---- kvm.c ---- */
bool kvm_view_start(struct kvm_vm *vm, struct kvm_view *v, struct mem_space *as, unsigned id, struct err **errp);

/* ---- run.c ---- */
enum vcpu_exit kvm_run(struct vcpu *c);
void kvm_kick(struct vcpu *c);

/* ---- x86.c ---- */
bool kvm_x86_vcpu_init(struct vcpu *c, struct err **errp);
/* Registers between the struct and the kernel; each refusal of the kernel is logged with what was refused. */
void kvm_x86_put(struct vcpu *c);
void kvm_x86_get(struct vcpu *c);
/* Before entering: lines, TPR, APIC base. True when the loop should look at things again instead of entering. */
bool kvm_x86_pre_run(struct vcpu *c);
void kvm_x86_post_run(struct vcpu *c);
/* One line of what the guest was doing, for error messages. Caller frees. */
char *kvm_x86_where(struct vcpu *c);

#endif
