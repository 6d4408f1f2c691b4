/* South bridges and what they contain: the call a board makes to get a wired PC.
 *
 * Each create function builds, realizes and wires the bridge function(s), the ISA bus and every part that the real chip
 * (and the glue around it) has: two 8259, IOAPIC, 8254 with speaker gate, 146818, two 8237, 8042, ports
 * 61h/70h/80h/92h/CF9h, HPET, ACPI fixed hardware, SMBus. It connects SCI (GSI 9), SMI#, A20 and the reset lines. vCPUs
 * and their APICs must exist. */
#ifndef HW_SOUTH_SOUTH_H
#define HW_SOUTH_SOUTH_H

#include "hw/acpi/acpi_hw.h"
#include "hw/isa/isa.h"
#include "hw/pci/pci.h"

struct south_cfg {
    bool no_ioapic, hpet, no_i8042, no_pit, no_acpi;
    bool smm; /* the CPUs have SMM: APM commands raise SMI# */
    struct {
        int base;
        int64_t offset;
        bool slew;
    } rtc; /* as board_cfg.rtc: 0 utc, 1 localtime, 2 given: offset = seconds from host UTC */
};
struct south {
    struct isa_bus *isa;      /* its irq[n] are gsi[n] */
    struct irq_line *gsi[24]; /* level in -> i8259 input (n < 16) and IOAPIC input (0 goes to input 2) */
    struct dev *pic, *ioapic, *pit, *spk, *rtc, *kbc, *hpet, *dma; /* NULL: absent */
    struct pci_dev *lpc, *pm;                                      /* ISA bridge function; PIIX4_PM (pc only) */
    struct acpi_pm *acpi;
};
/* pc: PIIX3 at slot 1 function 0, PIIX4_PM at function 3 (function 1 IDE and 2 USB are the board's). */
bool piix3_create(struct machine *m, struct pci_bus *bus, const struct south_cfg *cfg, struct south *out,
                  struct err **errp);
/* q35: ICH9 LPC at 1f.0, SMBus at 1f.3 (1f.2 AHCI is the board's). */
bool ich9_create(struct machine *m, struct pci_bus *bus, const struct south_cfg *cfg, struct south *out,
                 struct err **errp);
/* isapc: the same parts on an ISA bus of their own, no PCI, no ACPI. */
bool isa_south_create(struct machine *m, const struct south_cfg *cfg, struct south *out, struct err **errp);
/* SMI features firmware may ask for (ICH9 only; fw_cfg etc/smi/...): bit 0 broadcast, 1 CPU hot-plug, 2 hot-unplug. */
uint64_t ich9_smi_features(struct south *s);
void ich9_smi_negotiate(struct south *s, uint64_t features);

/* An ISA bus without PCI owner, for isapc; and ISA devices by class: serial ports, parallel ports, debugcon ... are
 * created by the board with dev_new/dev_prop/dev_realize(d, &isa->bus, id): "isa-serial" (index, chardev),
 * "isa-parallel", "isa-debugcon", "isa-debug-exit", "pvpanic", "pc-testdev". */

#endif
