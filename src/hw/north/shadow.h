/* What both host bridges do to memory below 1 MiB: PAM shadow areas and the SMRAM window. Private to hw/north. */
#ifndef HW_NORTH_SHADOW_H
#define HW_NORTH_SHADOW_H

#include "hw/north/north.h"

enum { NR_PAM = 13 };
struct pam_area {
    struct shadow *sh; /* borrowed */
    unsigned n;
    uint8_t mode;                 /* bit 0 read, bit 1 write: from DRAM instead of PCI */
    struct mem_region ram, split; /* alias of RAM; reads from one side and writes to the other */
    struct mem_region *shown;     /* which is mapped: NULL, &ram or &split */
    gpa_t base;
    uint32_t size;
};
struct shadow {
    struct mem_region *sysmem, *pci_mem, *ram; /* borrowed */
    struct mem_space *pci_space;               /* for areas that read from PCI and write to RAM */
    struct pam_area pam[NR_PAM];
    struct mem_region smram_open; /* the RAM at a0000 for everybody while SMRAM is open */
    struct mem_region smram_hide; /* PCI over the SMRAM RAM at a0000 for everybody outside SMM */
    struct mem_region nothing;
    struct mem_region low_pci; /* PCI over the RAM at c0000-fffff */
    struct mem_region smm_root, smm_all, smm_a0000;
    bool smm;
};
void shadow_init(struct shadow *s, struct machine *m, const struct north_cfg *cfg, struct mem_region *pci_mem);
void shadow_fini(struct shadow *s);
/* True in the reset that a wake-up from S3 makes: SeaBIOS resumes from its shadowed copy and goes on using MMCONFIG, so
 * PAM and PCIEXBAR must be as they were then. */
static inline bool shadow_survives(const struct machine *m)
{
    return m->state == RS_SUSPENDED;
}
/* pam: the seven PAM register bytes. */
void shadow_set_pam(struct shadow *s, const uint8_t pam[7]);
/* SMRAM register of both chips: D_OPEN 40h, D_CLS 20h, D_LCK 10h, G_SMRAME 08h. */
enum { SMRAM_D_OPEN = 0x40, SMRAM_D_CLS = 0x20, SMRAM_D_LCK = 0x10, SMRAM_G_SMRAME = 0x08 };
void shadow_set_smram(struct shadow *s, uint8_t smram);

#endif
