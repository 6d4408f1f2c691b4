/* What the local APICs and IOAPICs of a machine share. Private to hw/intc. */
#ifndef HW_INTC_APIC_INT_H
#define HW_INTC_APIC_INT_H

#include "hw/intc/apic.h"

struct ioapic;
/* The message bus: created with the first APIC or IOAPIC, found through either. */
struct apic_bus {
    struct dev dev;           /* first; class "apic-bus" */
    struct mem_region window; /* 0xfee00000: registers of the accessing CPU, messages of everybody else */
    struct ioapic *ioapics[8];
    unsigned nr_ioapics;
};
struct apic_bus *apic_bus_get(struct machine *m, struct err **errp);
void ioapic_eoi(struct ioapic *io, uint8_t vector); /* takes the machine lock */

#endif
