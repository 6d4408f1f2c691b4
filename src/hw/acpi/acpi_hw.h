/* The ACPI hardware of both PC chipsets as firmware and our ACPI tables see it: addresses, bits and hot-plug registers.
 *
 * Fixed hardware follows ACPI 6.x chapter 4.8 with the bits that the 82371AB (PIIX4) and ICH9 data sheets name. The two
 * hot-plug blocks are plain I/O registers driven by AML methods of the DSDT and (CPU block) by OVMF. The board writes
 * the tables, this room answers the registers; both include this header. */
#ifndef HW_ACPI_ACPI_HW_H
#define HW_ACPI_ACPI_HW_H

#include "dev/machine.h"

struct pci_bus;
enum { ACPI_PM_TIMER_HZ = 3579545, ACPI_SCI_IRQ = 9 };

/* Offsets from the PM base (PIIX4 and ICH9 alike). */
enum { PM1_STS = 0x00, PM1_EN = 0x02, PM1_CNT = 0x04, PM_TMR = 0x08 };
/* pc: the PM base is what firmware puts into PIIX4 register 40h (SeaBIOS 600h, OVMF B000h); GPE0 sits apart, always
 * decoded. q35: PMBASE from ICH9 LPC register 40h (600h); GPE0 at PMBASE+20h. Register the table builder's values from
 * acpi_pm_base() when the guest selects the tables. */
enum { PIIX4_GPE0_BLK = 0xafe0, PIIX4_GPE0_LEN = 4, ICH9_GPE0_OFF = 0x20, ICH9_GPE0_LEN = 16, ICH9_SMI_EN_OFF = 0x30 };
enum { /* PM1_STS / PM1_EN */
       PM1_TMR_STS = 1 << 0,
       PM1_BM_STS = 1 << 4,
       PM1_GBL_STS = 1 << 5,
       PM1_PWRBTN_STS = 1 << 8,
       PM1_SLPBTN_STS = 1 << 9,
       PM1_RTC_STS = 1 << 10,
       PM1_PCIEXP_WAKE_DIS = 1 << 14,
       PM1_WAK_STS = 1 << 15,
};
enum { PM1_SCI_EN = 1 << 0, PM1_BM_RLD = 1 << 1, PM1_GBL_RLS = 1 << 2, PM1_SLP_TYP_SHIFT = 10, PM1_SLP_EN = 1 << 13 };
/* SLP_TYP values, for \_S3, \_S4 and \_S5. */
enum {
    PIIX4_SLP_TYP_S5 = 0,
    PIIX4_SLP_TYP_S3 = 1,
    PIIX4_SLP_TYP_S4 = 2,
    ICH9_SLP_TYP_S0 = 0,
    ICH9_SLP_TYP_S3 = 5,
    ICH9_SLP_TYP_S4 = 6,
    ICH9_SLP_TYP_S5 = 7,
};
/* SMI command port and the values that hand the fixed hardware to the OS and back (FADT SMI_CMD, ACPI_ENABLE,
 * ACPI_DISABLE). The chipset itself sets and clears SCI_EN on them. */
enum { APM_CNT_PORT = 0xb2, APM_STS_PORT = 0xb3 };
enum { PIIX4_ACPI_ENABLE = 0xf1, PIIX4_ACPI_DISABLE = 0xf0, ICH9_ACPI_ENABLE = 0x02, ICH9_ACPI_DISABLE = 0x03 };
/* GPE0 bits: event n runs \_GPE._Enn (edge). */
enum { GPE_PCIHP = 1, GPE_CPUHP = 2, GPE_MEMHP = 3, GPE_VMGENID = 5 };

/* PCI hot-plug (GPE 1), 32-bit registers, slot n is bit n of the selected bus. Reading UP or DOWN clears it. */
enum {
    PCIHP_PC_BASE = 0xae00,
    PCIHP_Q35_BASE = 0x0cc0,
    PCIHP_LEN = 0x18,
    PCIHP_UP = 0x00,      /* R: slots with a new device */
    PCIHP_DOWN = 0x04,    /* R: slots whose device shall go */
    PCIHP_EJECT = 0x08,   /* W: remove these slots' devices now.  R: bit 1 = UP and DOWN are as described here */
    PCIHP_RMV = 0x0c,     /* R: slots that may be removed (_RMV) */
    PCIHP_BUS_SEL = 0x10, /* RW: which bus the others speak of: pci_bus.hp_nr, 0 = root */
    PCIHP_AIDX = 0x14,    /* RW: select a slot mask, read its acpi-index */
};
/* CPU hot-plug (GPE 2): the register file OVMF and DSDT methods use. The block starts in a legacy mode (bitmap of
 * present CPUs in bytes 0-31); writing 0 to offset 0 switches it over. */
enum {
    CPUHP_PC_BASE = 0xaf00,
    CPUHP_Q35_BASE = 0x0cd8,
    CPUHP_LEN = 12,
    CPUHP_R_DATA2 = 0x0,  /* R dword: second result of the last command */
    CPUHP_R_STATUS = 0x4, /* R byte: below */
    CPUHP_R_DATA = 0x8,   /* R dword: result of the last command */
    CPUHP_W_SEL = 0x0,    /* W dword: CPU index */
    CPUHP_W_CTRL = 0x4,   /* W byte: below */
    CPUHP_W_CMD = 0x5,    /* W byte: below */
    CPUHP_W_DATA = 0x8,   /* W dword: argument of the OST commands */
};
enum { CPUHP_ST_ENABLED = 1, CPUHP_ST_INSERT = 2, CPUHP_ST_REMOVE = 4, CPUHP_ST_FW_REMOVE = 16 };
enum { CPUHP_CTL_CLR_INSERT = 2, CPUHP_CTL_CLR_REMOVE = 4, CPUHP_CTL_EJECT = 8, CPUHP_CTL_FW_EJECT = 16 };
enum { CPUHP_CMD_NEXT_EVENT = 0, CPUHP_CMD_OST_EVENT = 1, CPUHP_CMD_OST_STATUS = 2, CPUHP_CMD_GET_ID = 3 };

/* The fixed hardware of a machine. One per machine; owned by the PIIX4_PM or ICH9-LPC function. Machine lock held. */
struct acpi_pm;
struct acpi_pm *acpi_pm_find(struct machine *m); /* NULL when the board has none */
uint16_t acpi_pm_base(const struct acpi_pm *p);  /* as firmware programmed it; 0 = not decoded */
bool acpi_pm_has_s3(const struct acpi_pm *p);    /* property disable_s3 */
bool acpi_pm_has_s4(const struct acpi_pm *p);
void acpi_gpe_raise(struct acpi_pm *p, unsigned n); /* sets GPE0 status bit n, SCI follows */
/* CPU `index` appeared. CPUs do not go: nothing asks the guest to give one up. */
void acpi_cpu_plugged(struct acpi_pm *p, unsigned index);

#endif
