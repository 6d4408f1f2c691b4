/* Local APICs, the IOAPIC and the path between them, for boards, bridges and anything that sends an MSI.
 * Intel SDM volume 3 chapter 10; 82093AA data sheet. */
#ifndef HW_INTC_APIC_H
#define HW_INTC_APIC_H

#include "cpu/x86.h"
#include "dev/dev.h"

/* Creates the local APIC of c (class "apic"): fills in x86_port(c), which must already hold apic_id, bsp, tsc_hz and
 * tsc_now. The first one also maps the interrupt message window at 0xfee00000 into the machine's memory. */
struct dev *apic_create(struct machine *m, struct vcpu *c, struct err **errp);
/* An interrupt message: addr 0xfeeXXXXX, data as a device writes it. Any thread, no lock needed. Lost when there is no
 * APIC. */
void x86_msi_deliver(struct machine *m, uint64_t addr, uint32_t data);
/* A message without its encoding, as the IOAPIC sends it. */
enum apic_mode { APIC_FIXED, APIC_LOWPRI, APIC_SMI, APIC_NMI = 4, APIC_INIT, APIC_SIPI, APIC_EXTINT };
struct apic_msg {
    uint32_t dest;
    bool logical, level;
    uint8_t vector, mode; /* enum apic_mode */
};
void apic_bus_send(struct machine *m, const struct apic_msg *msg); /* any thread */
/* A line that presents the i8259's INTR to the processor: LINT0 of CPU 0, or its INTR pin when it has no APIC. Also
 * makes c acknowledge at `pic` (an i8259 from pic_create). Call once per vCPU; connect the returned line of CPU 0. */
struct irq_line *x86_intr_line(struct machine *m, struct vcpu *c, struct dev *pic);
/* SMI#: one CPU, or all of them when c is NULL. */
void x86_smi(struct machine *m, struct vcpu *c);

#endif
