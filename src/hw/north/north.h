/* Host bridges: what a board calls to get a PCI root with PAM and SMRAM over its RAM. */
#ifndef HW_NORTH_NORTH_H
#define HW_NORTH_NORTH_H

#include "hw/pci/pci.h"

struct north_cfg {
    struct mem_region *ram; /* all guest RAM from offset 0, borrowed; the board maps it below and above 4 GiB itself */
    uint64_t below_4g, above_4g; /* bytes mapped at 0 and at 4 GiB */
    uint64_t hole64_size;        /* 64-bit PCI window the firmware may use; 0 = default (pc 2 GiB, q35 32 GiB) */
    bool smm;                    /* SMRAM can be opened and seen */
    const char *const
        *rom_dirs; /* where option ROM files are searched, NULL-terminated, borrowed for the machine's life */
};
struct north {
    struct dev *host;
    struct pci_bus *bus; /* "pci.0" / "pcie.0" */
    struct mem_region
        *pci_mem; /* PCI memory space, below RAM in priority: ROM at the top of 4 GiB and 0xe0000 go here */
    struct mem_region *smram_root;      /* for x86_port.smram_root of each vCPU */
    uint64_t hole64_start, hole64_size; /* read with north_hole64 */
};
bool i440fx_create(struct machine *m, const struct north_cfg *cfg, struct north *out, struct err **errp);
bool q35_create(struct machine *m, const struct north_cfg *cfg, struct north *out, struct err **errp);
/* q35: PCIEXBAR as firmware programmed it; false while off. */
bool q35_mmcfg(const struct north *n, uint64_t *base, uint64_t *size);
/* Where PCI memory windows are now, for _CRS: [lo32, 4 GiB - firmware) and the 64-bit window behind RAM. */
void north_hole64(const struct north *n, uint64_t *start, uint64_t *end /* exclusive */);

#endif
