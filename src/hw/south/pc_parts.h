/* What the x86 boards ask of the chipset models beyond the generic device calls (dev/dev.h): class names, wires, properties
 * and the few functions that need more than a wire. Boards (src/board/x86) include this; the models implement it.
 *
 * Class names are those users type (-global, -device, info qtree). Wires, "name"[count], NULL = unnamed group:
 *
 *   class            on        outputs                              inputs             remarks
 *   isa-i8259        isa       through i8259_create
 *   ioapic           sysbus    -                                    NULL[24]           mmio 0, mapped at 0xfec00000; property version
 *   apic             -         through apic_create                  NULL[2] LINT0,1
 *   isa-pit          isa       NULL[1] OUT0                         "gate0"[1] HPET legacy replacement: 0 silences OUT0
 *   hpet             sysbus    NULL[32] GSI lines                   NULL[2]: OUT0 of the PIT, IRQ8 of the RTC, passed on unless
 *                              "pit-enabled"[1]                     legacy replacement; mmio 0 at 0xfed00000; property hpet-intcap
 *   mc146818rtc      isa       NULL[1] IRQ8                         -                  base_year=, lost_tick_policy=
 *   i8042            isa       NULL[2] IRQ1, IRQ12; "a20"[1]        -                  A20 output: level; reset is its own business
 *   port92           isa       "a20"[1]                             -
 *   i8257            isa       -                                    -                  both controllers; fills isa_bus.dma
 *   isa-serial, isa-parallel, isa-fdc, isa-pcspk, isa-debugcon, vmport, pvpanic ...: users' names and properties; they take
 *                    their interrupt through isa_irq()
 *   i440FX-pcihost, q35-pcihost: through pc_bridge_create
 *   PIIX3 (1.0), piix3-ide (1.1), piix3-usb-uhci (1.2), PIIX4_PM (1.3); ICH9-LPC (1f.0), ich9-ahci (1f.2), ICH9-SMB (1f.3):
 *                    PCI functions made with pci_create
 *   PIIX3, ICH9-LPC: embed the bus "isa.0" (pc_south_isa); PIRQs drive isa_bus.irq[] by their route registers, and on ICH9 also
 *                    the outputs "gsi"[24], of which 16..23 are used (PIRQA..PIRQH)
 *   PIIX4_PM, ICH9-LPC: outputs NULL[1] SCI, "smi-irq"[1]; properties disable_s3, disable_s4, s4_val, smm-enabled,
 *                    acpi-pci-hotplug-with-bridge-support ...; register blocks: hw/acpi/acpi_hw.h
 */
#ifndef HW_SOUTH_PC_PARTS_H
#define HW_SOUTH_PC_PARTS_H

#include "cpu/x86.h"
#include "hw/isa/isa.h"
#include "hw/pci/pci.h"

/* The pair of 8259s at 0x20, 0xa0 and 0x4d0: returns the master. int_out (borrowed) follows INT. */
struct dev *i8259_create(struct isa_bus *b, struct irq_line *int_out, struct err **errp);
struct irq_line *i8259_irq_in(struct dev *master, unsigned n); /* IR0..IR15; borrowed */
int i8259_ack(void *master);      /* INTA cycle: the vector (spurious: IR7's) */
bool i8259_pending(void *master); /* INT is asserted */

/* The local APIC of one CPU; fills x86_port(c), maps the APIC page once per machine and delivers MSI writes. pic may be NULL.
 * LINT0 of every APIC is tied to INT by the board. */
struct dev *apic_create(struct vcpu *c, struct dev *pic, struct err **errp);

/* North bridges. The board gives RAM and where it ends; the bridge maps RAM, the PCI hole, PAM, SMRAM (and MMCONFIG). */
struct pc_bridge_cfg {
    struct mem_region *ram;        /* all of RAM, borrowed */
    uint64_t below_4g, above_4g;   /* ram[0, below) at 0, the rest at 4 GiB */
};
struct pc_bridge {
    struct dev *host;              /* i440FX-pcihost or q35-pcihost */
    struct pci_bus *bus;           /* pci.0 or pcie.0 */
    struct mem_region *pci_mem;    /* PCI memory space: ROMs are mapped here, so that PAM can shadow them */
    struct mem_region *smram;      /* container a CPU in SMM sees over system memory (compatible SMRAM, TSEG) */
};
bool pc_bridge_create(struct machine *m, const char *cls, const struct pc_bridge_cfg *cfg, struct pc_bridge *out, struct err **errp);

/* South bridges. */
struct isa_bus *pc_south_isa(struct pci_dev *south);

/* Clock chip: battery-backed bytes (index 0..127) and where its time starts. base 0: UTC, 1: local time, 2: offset seconds
 * from the host's clock. */
void rtc_set_cmos(struct dev *rtc, unsigned index, uint8_t val);
uint8_t rtc_get_cmos(struct dev *rtc, unsigned index);
void rtc_set_base(struct dev *rtc, int base, int64_t offset);

#endif
