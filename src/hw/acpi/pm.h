/* ACPI fixed hardware, PCI and CPU hot-plug registers, SMI command port: embedded by PIIX4_PM and ICH9-LPC.
 *
 * The embedding function owns chip-specific registers (where the block is mapped, SMI enables) and tells this part. */
#ifndef HW_ACPI_PM_H
#define HW_ACPI_PM_H

#include "dev/dev.h"
#include "hw/acpi/acpi_hw.h"
#include "hw/pci/pci.h"

enum { ACPI_GPE_BYTES = 16, ACPI_MAX_HP_BUSES = 256, ACPI_MAX_CPUS = 1024 };

struct acpi_pcihp { /* hw/acpi/pcihp.c */
    struct mem_region io;
    struct acpi_pm *pm;   /* borrowed */
    struct pci_bus *root; /* borrowed */
    uint32_t sel, up[ACPI_MAX_HP_BUSES], down[ACPI_MAX_HP_BUSES];
    uint32_t aidx;
    uint32_t pending_eject; /* slots of bus eject_bus, removed from the main loop */
    uint32_t eject_bus;
    struct ev_bh eject_bh;
};
struct acpi_cpuhp { /* hw/acpi/cpuhp.c */
    struct mem_region io;
    struct acpi_pm *pm; /* borrowed */
    bool legacy;
    uint32_t sel;
    uint8_t cmd;
    uint8_t inserting[ACPI_MAX_CPUS / 8], removing[ACPI_MAX_CPUS / 8], fw_remove[ACPI_MAX_CPUS / 8];
    uint32_t ost_event[ACPI_MAX_CPUS];
};
struct acpi_pm {
    struct dev *owner;               /* borrowed */
    struct mem_region evt, cnt, tmr; /* PM1 event block, control, timer: 4, 2 and 4 bytes in the owner's container */
    struct mem_region gpe_io;        /* gpe_len bytes: status half, enable half */
    struct mem_region apm_io;        /* B2h, B3h */
    struct irq_line *sci;            /* output of the owner */
    uint16_t pm1_sts, pm1_en, pm1_cnt, base;
    uint8_t gpe[ACPI_GPE_BYTES];
    unsigned gpe_len; /* whole block */
    uint8_t apmc, apms;
    int64_t ovf_at; /* tick count of the last timer wrap that was reported */
    struct clk_timer overflow;
    uint8_t disable_s3, disable_s4;
    uint8_t slp_s3, slp_s4, slp_s5, acpi_on, acpi_off;
    /* A value was written to the command port: the owner raises SMI# as its enables say. */
    void (*apm_smi)(void *opaque, uint8_t cmd);
    void *opaque;
    struct machine_hook powerdown, wakeup;
    struct acpi_pcihp pcihp;
    struct acpi_cpuhp cpuhp;
};
void acpi_pm_init(struct acpi_pm *p, struct dev *owner, unsigned gpe_len);
void acpi_pm_fini(struct acpi_pm *p);
void acpi_pm_reset(struct acpi_pm *p);
void acpi_pm_update_sci(struct acpi_pm *p);
void acpi_pcihp_init(struct acpi_pcihp *h, struct acpi_pm *p, struct pci_bus *root, uint16_t port);
void acpi_pcihp_fini(struct acpi_pcihp *h);
void acpi_cpuhp_init(struct acpi_cpuhp *h, struct acpi_pm *p, uint16_t port);
void acpi_cpuhp_fini(struct acpi_cpuhp *h);
extern const struct state_desc acpi_pm_state;

#endif
