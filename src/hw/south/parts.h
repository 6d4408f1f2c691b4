/* The parts every PC south bridge contains, and the wires between them. Private to hw/south. */
#ifndef HW_SOUTH_PARTS_H
#define HW_SOUTH_PARTS_H

#include "hw/south/south.h"

/* Fills out->gsi, pic, ioapic, pit, spk, rtc, kbc, hpet, dma; out->isa is given. */
bool south_parts_create(struct machine *m, const struct south_cfg *cfg, struct south *out, struct err **errp);
/* Creates a device on the system bus under /machine/unattached with a readable name. */
struct dev *south_part(struct machine *m, const char *cls, struct err **errp);
/* PIIX4_PM after realize: hot-plug of the bus, SMI. */
struct acpi_pm *piix4_pm_setup(struct pci_dev *d, struct pci_bus *bus, bool smm);
/* Creates one function of the bridge at a fixed place. */
struct pci_dev *south_function(struct machine *m, struct pci_bus *bus, int devfn, const char *cls, bool multi,
                               struct err **errp);
struct acpi_pm *piix4_pm_acpi(struct dev *d); /* the fixed hardware inside a PIIX4_PM */
struct acpi_pm *ich9_lpc_acpi(struct dev *d); /* the fixed hardware inside an ICH9-LPC */
/* CF9h of both bridges: a full reset when RST_CPU goes 0 -> 1. Returns the value to keep. */
uint8_t south_reset_control(struct machine *m, uint8_t old, uint8_t val);

#endif
