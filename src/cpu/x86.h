/* The contract between an x86 vCPU and its interrupt controllers, so that hw/ needs no guest/ and guest/ no hw/. */
#ifndef CPU_X86_H
#define CPU_X86_H

#include "cpu/cpu.h"

enum x86_pin {
    X86_PIN_INTR = 1 << 0, /* a maskable interrupt may be pending: ask intr_ack */
    X86_PIN_NMI = 1 << 1,  /* edge: the CPU clears it when taken */
    X86_PIN_SMI = 1 << 2,  /* edge */
    X86_PIN_INIT = 1 << 3, /* edge */
    X86_PIN_SIPI = 1 << 4, /* edge; vector in x86_port.sipi_vector */
    X86_PIN_MCE = 1 << 5,
    X86_PIN_FLUSH = 1 << 6, /* private to the CPU: deferred work such as TLB shoot-down */
    X86_PIN_A20 = 1 << 7,   /* the A20 gate changed */
};

/* Each x86 CPU object offers this to its local APIC and chipset. Found with x86_port(vcpu). */
struct x86_port {
    /* Set by the local APIC when it is realized; NULL without one (isapc). All called on the vCPU's thread unless
     * noted. */
    void *apic;
    int (*intr_ack)(void *apic);                   /* vector to take now (also asks the i8259 for ExtINT), or -1 */
    bool (*intr_pending)(void *apic);              /* would intr_ack give one? */
    uint64_t (*apic_base_get)(void *apic);         /* IA32_APIC_BASE */
    bool (*apic_base_set)(void *apic, uint64_t v); /* false: #GP */
    uint8_t (*tpr_get)(void *apic);                /* CR8: bits 7:4 of TPR */
    void (*tpr_set)(void *apic, uint8_t cr8);
    bool (*x2apic_read)(void *apic, uint32_t msr, uint64_t *v); /* 0x800..0x8ff; false: #GP */
    bool (*x2apic_write)(void *apic, uint32_t msr, uint64_t v);
    uint64_t (*tsc_deadline_get)(void *apic);
    void (*tsc_deadline_set)(void *apic, uint64_t v);
    void (*apic_init_reset)(void *apic); /* INIT received */
    /* No local APIC: the i8259 answers directly. */
    int (*pic_ack)(void *pic);
    void *pic;
    /* Set by the CPU. */
    uint32_t apic_id;
    bool bsp;
    _Atomic uint8_t sipi_vector;
    uint64_t tsc_hz;
    _Atomic bool a20;                      /* true: address bit 20 passes */
    void (*ferr)(void *opaque, int level); /* FERR#/IRQ13 wire, set by the board */
    void *ferr_opaque;
    uint64_t (*tsc_now)(struct vcpu *c); /* guest TSC, any thread */
    struct mem_region *smram_root;       /* the board's view of memory in SMM: a container over system memory */
};
struct x86_port *x86_port(struct vcpu *c);

#endif
