/* The PC boards' private state: one struct for pc, q35 and isapc. */
#ifndef BOARD_X86_PC_INT_H
#define BOARD_X86_PC_INT_H

#include "board/board.h"
#include "guest/x86/state.h"
#include "hw/north/north.h"
#include "hw/nvram/fw_cfg.h"
#include "hw/south/south.h"

#include <stdio.h>

enum pc_kind { PC_I440FX, PC_Q35, PC_ISA };
enum { PC_MAX_CPUS = 255, PC_GSIS = 24 };
#define PC_FLASH_TOP   (4 * GIB)
#define Q35_MMCFG_BASE UINT64_C(0xb0000000)
#define IOAPIC_BASE    UINT32_C(0xfec00000)
#define APIC_BASE      UINT32_C(0xfee00000)
#define HPET_BASE      UINT32_C(0xfed00000)

struct pc_kernel;
struct pc {
    struct obj obj; /* first: of the board class; child "board" of the machine */
    enum pc_kind kind;
    struct machine *m;     /* borrowed */
    struct board_cfg *cfg; /* borrowed; NULL once finish has returned */
    const struct board_class *cls;

    /* -machine properties. */
    int acpi, smm, vmport; /* enum onoffauto */
    bool hpet, pit, i8042, sata, smbus, usb, graphics, fd_bootchk, dump_guest_core, mem_merge, suppress_vmdesc, nvdimm;
    uint64_t max_ram_below_4g, max_fw_size;
    int smbios_ep; /* index into pc_smbios_ep_names */
    char *oem_id, *oem_table_id, *firmware, *kernel, *initrd, *append, *kernel_irqchip, *pcspk_audiodev;

    /* Memory. */
    uint64_t below_4g, above_4g;
    struct mem_region ram, ram_below, ram_above, bios, isa_bios, option_rom;
    struct mem_region numa_ram[128];
    struct mem_space *smm_as; /* what CPUs in SMM see; NULL without SMM */
    struct dev *flash[2];

    /* CPUs. */
    struct {
        unsigned sockets, dies, cores, threads;
    } topo;
    unsigned max_cpus, apic_id_limit;
    uint32_t *apic_id; /* owned: max_cpus entries */
    uint8_t *cpu_node; /* owned: max_cpus entries */
    struct x86_features feat;
    const struct x86_model *model;

    struct north north;
    struct south south;
    struct fw_cfg *fw; /* NULL: isapc has none in 1990, ours has */
    struct dev *floppy;
    bool has_smm;
    char *vga_class; /* owned */

    struct {
        unsigned nodes;
        uint64_t mem[128];
        uint8_t dist[128][128];
    } numa;
    const char *kernel_rom;   /* option ROM that boots -kernel; static; NULL = none */
    uint8_t smi_requested[8]; /* written by firmware: etc/smi/requested-features */
    uint8_t *user_tables;     /* owned: -acpitable tables, one after the other */
    size_t user_tables_len;
    struct machine_hook reset_hook;
    char boot_order[4];
    bool boot_once, boot_once_done; /* -boot once= is in force; the first reset is over */
};
extern const char *const pc_smbios_ep_names[];
static inline struct pc *pc_of(struct machine *m)
{
    return m->board;
}

/* pc_cpu.c */
bool pc_create_cpus(struct pc *p, struct err **errp);
bool pc_plug_cpu(struct machine *m, unsigned index, struct err **errp);
/* pc_mem.c */
bool pc_create_ram(struct pc *p, struct err **errp); /* splits and maps RAM */
bool pc_create_rom(struct pc *p, struct err **errp); /* flash or -bios, option ROM window; needs north */
/* pc_dev.c */
bool pc_create_io(struct pc *p, struct err **errp); /* serial, parallel, floppy, debug ports, flash back ends ... */
bool pc_create_pci_devs(struct pc *p, struct err **errp); /* VGA, NICs, IDE or AHCI, USB, virtio drives */
bool pc_create_isa_devs(struct pc *p, struct err **errp);
/* cmos.c: what firmware reads from the clock chip's RAM. */
bool pc_boot_order_valid(const char *order, struct err **errp);
bool pc_setup_cmos(struct pc *p, struct err **errp);
void pc_reset_boot_once(struct pc *p); /* at each reset */
/* fwcfg_tables.c: e820, boot order, NUMA, user items ... */
bool pc_setup_fw_cfg(struct pc *p, struct err **errp);
/* boot_kernel.c: -kernel; boot_elf.c: multiboot and PVH. */
bool pc_setup_kernel(struct pc *p, struct err **errp);
/* acpi_build.c */
bool pc_setup_acpi(struct pc *p, struct err **errp);
bool pc_load_acpi_tables(struct pc *p, struct opts **list, struct err **errp); /* -acpitable */
/* smbios.c */
bool pc_setup_smbios(struct pc *p, struct err **errp);

/* Whole file into memory the caller frees; at most max bytes. NULL with *errp. */
uint8_t *pc_read_file(const char *path, const char *what, size_t max, size_t *len, struct err **errp);

#endif
