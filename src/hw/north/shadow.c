/* PAM shadow areas (c0000-fffff) and the compatible SMRAM window (a0000-bffff), as 82441FX (chapter 3.2.13, 3.2.19) and
 * the 3 Series MCH (chapters 5.1.16, 5.1.22) have them.
 *
 * RAM itself is mapped by the board at priority 0, PCI memory lies below everything at -1 and shows through these
 * aliases. */
#include "hw/north/shadow.h"
#include "base/bytes.h"

enum { PAM_READ = 1, PAM_WRITE = 2 };

/* Reads from PCI, writes to RAM (mode 2), or the other way round is a read-only alias. */
static uint64_t split_read(void *opaque, gpa_t off, unsigned size)
{
    struct pam_area *a = opaque;

    return mem_ld(a->sh->pci_space, a->base + off, size);
}
static void split_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pam_area *a = opaque;

    put_le(a->sh->ram->ram->host + a->base + off, val, size);
    mem_ram_written(a->sh->ram->ram, a->base + off, size);
}
static const struct mem_ops split_ops = {.read = split_read, .write = split_write, .impl_max = 8, .unaligned = true};

/* Addresses of PCI that no device claims must not fall through to the RAM behind them. */
static const struct mem_ops nothing_ops = {.impl_max = 8, .unaligned = true};

static void pam_show(struct pam_area *a, struct mem_region *r)
{
    if (a->shown == r)
        return;
    if (a->shown)
        mem_region_del(a->shown);
    a->shown = r;
    if (r)
        mem_region_add_prio(a->sh->sysmem, a->base, r, 2);
}

static void pam_set(struct pam_area *a, uint8_t mode)
{
    a->mode = mode;
    if (mode & PAM_READ) {
        mem_region_set_readonly(&a->ram, !(mode & PAM_WRITE));
        pam_show(a, &a->ram);
    } else {
        pam_show(a, mode & PAM_WRITE ? &a->split : NULL);
    }
}

void shadow_set_pam(struct shadow *s, const uint8_t pam[7])
{
    mem_begin(s->sysmem->sys);
    pam_set(&s->pam[12], pam[0] >> 4 & 3); /* f0000 */
    for (unsigned i = 0; i < 12; i++)
        pam_set(&s->pam[i], pam[1 + i / 2] >> 4 * (i & 1) & 3);
    mem_commit(s->sysmem->sys);
}

void shadow_set_smram(struct shadow *s, uint8_t v)
{
    bool enabled = s->smm && (v & SMRAM_G_SMRAME), open = enabled && (v & SMRAM_D_OPEN);

    mem_begin(s->sysmem->sys);
    mem_region_set_enabled(&s->smram_hide, !open);
    mem_region_set_enabled(&s->smram_open, open);
    mem_region_set_enabled(&s->smm_a0000, enabled);
    mem_commit(s->sysmem->sys);
}

void shadow_init(struct shadow *s, struct machine *m, const struct north_cfg *cfg, struct mem_region *pci_mem)
{
    struct mem_sys *sys = m->mem_sys;

    s->sysmem = &m->sysmem;
    s->pci_mem = pci_mem;
    s->ram = cfg->ram;
    s->smm = cfg->smm;
    s->pci_space = mem_space_new(sys, "pci-below-ram", pci_mem);
    for (unsigned i = 0; i < NR_PAM; i++) {
        struct pam_area *a = &s->pam[i];

        *a = (struct pam_area){
            .sh = s, .n = i, .base = i == 12 ? 0xf0000 : 0xc0000 + i * 0x4000, .size = i == 12 ? 0x10000 : 0x4000};
        mem_region_init_alias(&a->ram, sys, "pam-ram", cfg->ram, a->base, a->size);
        mem_region_init_io(&a->split, sys, &split_ops, a, "pam-split", a->size);
    }
    mem_region_init_io(&s->nothing, sys, &nothing_ops, NULL, "pci-nothing", 0x60000);
    mem_region_add_prio(pci_mem, 0xa0000, &s->nothing, -100);
    /* Without shadowing the whole of c0000-fffff belongs to PCI, above the board's RAM. */
    mem_region_init_alias(&s->low_pci, sys, "pci-c0000", pci_mem, 0xc0000, 0x40000);
    mem_region_add_prio(s->sysmem, 0xc0000, &s->low_pci, 1);
    mem_region_init_alias(&s->smram_hide, sys, "pci-a0000", pci_mem, 0xa0000, 0x20000);
    mem_region_add_prio(s->sysmem, 0xa0000, &s->smram_hide, 1);
    mem_region_init_alias(&s->smram_open, sys, "smram-open", cfg->ram, 0xa0000, 0x20000);
    s->smram_open.enabled = false;
    mem_region_add_prio(s->sysmem, 0xa0000, &s->smram_open, 3); /* above a VGA window, which sits beside the PCI one */
    mem_region_init(&s->smm_root, sys, "smm", UINT64_MAX);
    mem_region_init_alias(&s->smm_all, sys, "smm-system", s->sysmem, 0, UINT64_MAX);
    mem_region_init_alias(&s->smm_a0000, sys, "smm-a0000", cfg->ram, 0xa0000, 0x20000);
    s->smm_a0000.enabled = false;
    mem_region_add_prio(&s->smm_root, 0, &s->smm_all, 0);
    mem_region_add_prio(&s->smm_root, 0xa0000, &s->smm_a0000, 1);
}

void shadow_fini(struct shadow *s)
{
    for (unsigned i = 0; i < NR_PAM; i++) {
        mem_region_del(&s->pam[i].ram);
        mem_region_del(&s->pam[i].split);
    }
    mem_region_del(&s->smram_hide);
    mem_region_del(&s->smram_open);
    mem_region_del(&s->low_pci);
    mem_region_del(&s->nothing);
    mem_region_del(&s->smm_all);
    mem_region_del(&s->smm_a0000);
    mem_space_free(s->pci_space);
}
