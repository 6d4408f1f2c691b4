/* I/O APIC, for boards and south bridges. */
#ifndef HW_INTC_IOAPIC_H
#define HW_INTC_IOAPIC_H

#include "dev/dev.h"

/* Class "ioapic": 24 unnamed inputs, registers at `base` (normally 0xfec00000). */
struct dev *ioapic_create(struct machine *m, gpa_t base, const char *id, struct err **errp);
char *ioapic_info(struct dev *d); /* for `info pic`, caller frees */

#endif
