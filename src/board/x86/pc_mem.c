/* Guest memory of the PC boards: RAM split around the 4 GiB hole, BIOS ROM or flash below 4 GiB, the low copy at
 * 0xe0000.
 *
 *   pc:  RAM reaches up to 3.5 GiB, or 3 GiB when there is more of it;   q35: 2.75 GiB or 2 GiB (MMCONFIG starts
 * at 2.75 GiB). The rest follows at 4 GiB. -machine max-ram-below-4g= lowers the split. */
#include "board/x86/pc_int.h"
#include "hw/mem/backend.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum { BIOS_ALIGN = 4096, BIOS_MAX = 16 << 20, LOW_BIOS_MAX = 128 << 10, FLASH_SECTOR = 4096 };
enum { OPTION_ROM_BASE = 0xc0000, OPTION_ROM_LEN = 0x20000, ONE_MIB = 1 << 20 };

/* ---- RAM ---- */

static uint64_t low_limit(const struct pc *p)
{
    uint64_t ram = p->cfg->ram_size, lim;

    if (p->kind == PC_Q35)
        lim = ram >= Q35_MMCFG_BASE ? 2 * GIB : Q35_MMCFG_BASE;
    else
        lim = ram >= UINT64_C(0xe0000000) ? 3 * GIB : UINT64_C(0xe0000000);
    return p->max_ram_below_4g ? min_u64(p->max_ram_below_4g, lim) : lim;
}

static bool check_ram(struct pc *p, struct err **errp)
{
    if (p->max_ram_below_4g && p->max_ram_below_4g < ONE_MIB)
        return err_set(errp, "max-ram-below-4g must be at least 1 MiB");
    if (p->max_ram_below_4g > 4 * GIB)
        return err_set(errp, "max-ram-below-4g=%" PRIu64 " is above 4 GiB", p->max_ram_below_4g);
    if (p->kind == PC_ISA && p->cfg->ram_size > UINT64_C(0xe0000000))
        return err_set(errp, "the isapc machine takes at most 3584 MiB of memory");
    if (p->cfg->ram_size < ONE_MIB)
        return err_set(errp, "%" PRIu64 " bytes of memory are too few: a PC needs at least 1 MiB", p->cfg->ram_size);
    return true;
}

/* Each node's own backend, one after the other. */
static bool numa_ram(struct pc *p, struct err **errp)
{
    struct numa_cfg *n = &p->cfg->numa;
    uint64_t at = 0;

    mem_region_init(&p->ram, p->m->mem_sys, "pc.ram", p->cfg->ram_size);
    for (unsigned i = 0; i < n->nodes; i++) {
        struct mem_ram *ram;

        if (!n->node[i].memdev)
            return err_set(errp, "numa node %u has no memdev= though others have: give it to all nodes or to none", i);
        ram = mem_backend_claim(n->node[i].memdev, errp);
        if (!ram)
            return false;
        if (ram->size > p->cfg->ram_size - at)
            return err_set(errp, "the memory backends of the NUMA nodes are larger than the machine's memory");
        mem_region_init_ram_from(&p->numa_ram[i], p->m->mem_sys, ram->name, ram);
        mem_region_add(&p->ram, at, &p->numa_ram[i]);
        at += ram->size;
    }
    return at == p->cfg->ram_size ||
           err_set(errp, "the NUMA nodes' memory backends hold %" PRIu64 " MiB, the machine has %" PRIu64, at >> 20,
                   p->cfg->ram_size >> 20);
}

static bool make_ram(struct pc *p, struct err **errp)
{
    struct board_cfg *c = p->cfg;
    struct obj *o = c->memdev;
    struct mem_ram *ram;

    for (unsigned i = 0; i < c->numa.nodes; i++)
        if (c->numa.node[i].memdev)
            return numa_ram(p, errp);
    if (!o)
        o = mem_backend_new(p->m, "pc.ram", c->ram_size, c->mem_path, c->mem_prealloc, p->mem_merge, p->dump_guest_core,
                            errp);
    if (!o || !(ram = mem_backend_claim(o, errp)))
        return false;
    if (ram->size != c->ram_size) {
        err_set(errp, "memory backend '%s' has %" PRIu64 " MiB, the machine needs %" PRIu64, ram->name, ram->size >> 20,
                c->ram_size >> 20);
        err_hint(errp, "-m %" PRIu64 " fits it", ram->size >> 20);
        return false;
    }
    mem_region_init_ram_from(&p->ram, p->m->mem_sys, "pc.ram", ram);
    return true;
}

bool pc_create_ram(struct pc *p, struct err **errp)
{
    struct machine *m = p->m;

    if (!check_ram(p, errp) || !make_ram(p, errp))
        return false;
    p->below_4g = min_u64(p->cfg->ram_size, low_limit(p));
    p->above_4g = p->cfg->ram_size - p->below_4g;
    mem_region_init_alias(&p->ram_below, m->mem_sys, "ram-below-4g", &p->ram, 0, p->below_4g);
    mem_region_add(&m->sysmem, 0, &p->ram_below);
    if (p->above_4g) {
        mem_region_init_alias(&p->ram_above, m->mem_sys, "ram-above-4g", &p->ram, p->below_4g, p->above_4g);
        mem_region_add(&m->sysmem, 4 * GIB, &p->ram_above);
    }
    return true;
}

/* ---- firmware ---- */

/* ROMs lie in PCI memory space, where PAM finds them; without PCI over RAM. */
static struct mem_region *rom_space(struct pc *p)
{
    return p->north.pci_mem ? p->north.pci_mem : &p->m->sysmem;
}

static bool init_rom_region(struct pc *p, struct mem_region *r, const char *name, uint64_t size, struct err **errp)
{
    if (p->kind == PC_ISA) /* no PAM: firmware must be able to write its own segment */
        return mem_region_init_ram(r, p->m->mem_sys, name, size, errp);
    return mem_region_init_rom(r, p->m->mem_sys, name, size, errp);
}

/* The end of the image once more at 1 MiB - size, where the CPU starts in real mode. */
static bool map_low_bios(struct pc *p, const uint8_t *image, uint64_t size, struct err **errp)
{
    uint64_t len = min_u64(size, LOW_BIOS_MAX);

    if (!init_rom_region(p, &p->isa_bios, "isa-bios", len, errp))
        return false;
    memcpy(mem_region_ptr(&p->isa_bios), image + size - len, len);
    mem_region_add_prio(rom_space(p), ONE_MIB - len, &p->isa_bios, 1);
    return true;
}

static bool map_bios_file(struct pc *p, struct err **errp)
{
    const char *name = p->cfg->bios ? p->cfg->bios : p->kind == PC_ISA ? "bios.bin" : "bios-256k.bin";
    char AUTOFREE *path = board_find_file(p->cfg, name);
    uint8_t AUTOFREE *image = NULL;
    size_t size;

    if (!path && !access(name, F_OK))
        return err_set_errno(errp, EACCES, "cannot open firmware '%s'", name);
    if (!path) {
        err_set_errno(errp, ENOENT, "could not find firmware '%s'", name);
        err_hint(errp, p->cfg->bios ? "Give -bios an existing file."
                                    : "Install SeaBIOS (Debian: seabios), or name a folder with -L.");
        return false;
    }
    image = pc_read_file(path, "firmware", BIOS_MAX, &size, errp);
    if (!image)
        return false;
    if (!size || size % BIOS_ALIGN)
        return err_set(errp, "firmware '%s' has %zu bytes: the size must be a multiple of 4 KiB", path, size);
    if (!mem_region_init_rom(&p->bios, p->m->mem_sys, "pc.bios", size, errp))
        return false;
    memcpy(mem_region_ptr(&p->bios), image, size);
    mem_region_add(rom_space(p), PC_FLASH_TOP - size, &p->bios);
    return map_low_bios(p, image, size, errp);
}

/* Flash unit n: -machine pflashN=, else the pflash drive with that index. */
static struct blk *flash_blk(struct pc *p, unsigned n)
{
    struct board_cfg *c = p->cfg;

    for (unsigned i = 0; i < c->nr_drives; i++) {
        struct drive_cfg *d = &c->drives[i];
        int unit = d->unit >= 0 ? d->unit : d->index;

        if (d->iface == IF_PFLASH && unit == (int)n) {
            d->used = true;
            return c->pflash[n] ? c->pflash[n] : d->blk;
        }
    }
    return c->pflash[n];
}

/* pflash drives without an index take the free units in order. */
static void number_flash_drives(struct pc *p)
{
    int next = 0;

    for (unsigned i = 0; i < p->cfg->nr_drives; i++) {
        struct drive_cfg *d = &p->cfg->drives[i];

        if (d->iface == IF_PFLASH && d->unit < 0 && d->index < 0)
            d->unit = next++;
        else if (d->iface == IF_PFLASH)
            next = (d->unit >= 0 ? d->unit : d->index) + 1;
    }
}

static bool create_flash(struct pc *p, unsigned n, struct blk *blk, uint64_t *top, struct err **errp)
{
    uint64_t size = blk_size(blk);
    char AUTOFREE *id = xstrdup(blk_id(blk));
    struct dev *d;

    if (p->cfg->pflash[n] == blk) /* held for us until the device takes it */
        blk_detach(blk, p->m);
    if (!size || size % FLASH_SECTOR) {
        err_set(errp, "flash image '%s' has %" PRIu64 " bytes: the size must be a multiple of 4 KiB", id, size);
        err_hint(errp, "Use an OVMF image as it is shipped.");
        return false;
    }
    if (PC_FLASH_TOP - *top + size > p->max_fw_size)
        return err_set(errp, "flash images are larger than %" PRIu64 " KiB together: raise -machine max-fw-size=",
                       p->max_fw_size >> 10);
    d = dev_new(p->m, "cfi.pflash01", errp);
    if (!d)
        return false;
    dev_prop(d, "drive", id);
    dev_prop(d, "name", n ? "system.flash1" : "system.flash0");
    dev_prop_u64(d, "num-blocks", size / FLASH_SECTOR);
    dev_prop_u64(d, "sector-length", FLASH_SECTOR);
    if (!dev_realize(d, NULL, NULL, errp))
        return false;
    *top -= size;
    mem_region_add(&p->m->sysmem, *top, d->mmio[0]);
    if (d->nr_mmio > 1 && p->north.smram_root)
        mem_region_add_prio(p->north.smram_root, *top, d->mmio[1], 1);
    p->flash[n] = d;
    return true;
}

static bool map_flash(struct pc *p, struct err **errp)
{
    uint64_t top = PC_FLASH_TOP;
    struct blk *b[2] = {flash_blk(p, 0), flash_blk(p, 1)};

    if (b[1] && !b[0])
        return err_set(errp, "flash unit 1 is given but unit 0, which holds the firmware, is not");
    if (p->cfg->bios) {
        err_set(errp, "-bios and a flash drive both name the firmware");
        err_hint(errp, "Leave one of them out.");
        return false;
    }
    if (!create_flash(p, 0, b[0], &top, errp) || (b[1] && !create_flash(p, 1, b[1], &top, errp)))
        return false;
    return map_low_bios(p, mem_region_ptr(p->flash[0]->mmio[0]), p->flash[0]->mmio[0]->size, errp);
}

bool pc_create_rom(struct pc *p, struct err **errp)
{
    number_flash_drives(p);
    if (p->kind != PC_ISA && (flash_blk(p, 0) || flash_blk(p, 1))) {
        if (!map_flash(p, errp))
            return false;
    } else if (!map_bios_file(p, errp)) {
        return false;
    }
    if (!init_rom_region(p, &p->option_rom, "pc.rom", OPTION_ROM_LEN, errp))
        return false;
    mem_region_add_prio(rom_space(p), OPTION_ROM_BASE, &p->option_rom, 1);
    return true;
}
