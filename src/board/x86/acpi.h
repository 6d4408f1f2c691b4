/* ACPI tables of the PC boards: from a plain description to the three fw_cfg blobs firmware installs.
 *
 * No machine is needed, so tests build tables for any description. Document: ACPI 6.4; MCFG: PCI Firmware 3.2; HPET:
 * IA-PC HPET 1.0a; loader commands: the firmware projects' table loader interface. */
#ifndef BOARD_X86_ACPI_H
#define BOARD_X86_ACPI_H

#include "board/x86/aml.h"

enum { ACPI_MAX_CPUS = 255, ACPI_MAX_NODES = 128, ACPI_MAX_MEM = 2 * ACPI_MAX_NODES + 2 };
struct acpi_info {
    bool q35;
    char oem_id[6], oem_table_id[8]; /* space-padded */
    unsigned nr_cpus;                /* possible ones */
    uint8_t apic_id[ACPI_MAX_CPUS], node[ACPI_MAX_CPUS];
    bool present[ACPI_MAX_CPUS];
    /* Fixed hardware. */
    uint16_t pm_base, gpe0_blk;
    uint8_t gpe0_len, enable, disable;
    bool s3, s4;
    uint8_t s3_typ, s4_typ, s5_typ;
    uint16_t pcihp_base, cpuhp_base; /* 0: none */
    /* Address space. */
    uint32_t lo_start;               /* PCI memory from here to the IOAPIC */
    uint64_t hi_start, hi_end;       /* 64-bit window, end exclusive; equal = none */
    uint64_t mmcfg_base, mmcfg_size; /* 0: none */
    /* Devices. */
    bool hpet, kbc, rtc, fw_cfg, floppy;
    uint8_t serial_mask, parallel_mask; /* bit n: port n at its usual address */
    uint16_t pvpanic_port;              /* 0: none */
    uint32_t hotplug_slots;             /* root bus slots that may be filled and emptied */
    /* NUMA. */
    unsigned nr_nodes;
    struct {
        uint64_t base, len;
        uint8_t node;
        bool hotplug;
    } mem[ACPI_MAX_MEM];
    unsigned nr_mem;
    /* The user's own tables, complete with headers, one after the other. Borrowed. */
    const uint8_t *user;
    size_t user_len;
};
struct acpi_blobs {
    struct aml tables, rsdp, loader;
};
void acpi_build(const struct acpi_info *in, struct acpi_blobs *out); /* out zeroed before */
void acpi_blobs_free(struct acpi_blobs *b);
/* The definition block's body, without table header. */
void acpi_dsdt(const struct acpi_info *in, struct aml *a);

#endif
