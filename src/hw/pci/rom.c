/* Option ROM files: found in the folders the board names, shown through the expansion ROM BAR.
 *
 * PCI Firmware Specification 3.0 chapter 5. One ROM file serves several device ids (iPXE's list), but firmware compares
 * only the id in the header: a class's own ROM gets the device's, a file the user named is left as it is. A file is at
 * most 16 MiB. */
#include "base/bytes.h"
#include "hw/pci/pci_int.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

enum { ROM_MAX = 16 << 20, ROM_MIN = 2048 };

static struct pci_bus *root_of(struct pci_dev *d)
{
    struct pci_bus *b = pci_dev_bus(d);

    while (b->parent)
        b = b->parent;
    return b;
}

static FILE *open_file(const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "rbe");

    if (f && (fstat(fileno(f), &st) || !S_ISREG(st.st_mode))) {
        fclose(f);
        errno = EISDIR;
        return NULL;
    }
    return f;
}

static FILE *rom_open(struct pci_dev *d, const char *name)
{
    const char *const *dir = root_of(d)->rom_dirs;
    FILE *f;

    if (strchr(name, '/') && (f = open_file(name)))
        return f;
    for (; dir && *dir; dir++) {
        AUTOFREE char *path = xasprintf("%s/%s", *dir, name);

        f = open_file(path);
        if (f)
            return f;
    }
    return open_file(name);
}

static bool rom_fill(struct pci_dev *d, const char *name, FILE *f, struct err **errp)
{
    struct stat st;
    uint64_t size = ROM_MIN;

    if (fstat(fileno(f), &st) || st.st_size <= 0 || st.st_size > ROM_MAX)
        return err_set(errp, "romfile \"%s\": size must be 1 byte to 16 MiB", name);
    while (size < (uint64_t)st.st_size)
        size *= 2;
    if (!mem_region_init_rom(&d->rom, dev_machine(&d->dev)->mem_sys, d->dev.obj.cls->name, max_u64(size, 4096), errp))
        return false;
    if (fread(mem_region_ptr(&d->rom), 1, (size_t)st.st_size, f) != (size_t)st.st_size)
        return err_set(errp, "failed to load romfile \"%s\"", name);
    if (get_le16(mem_region_ptr(&d->rom)) != 0xaa55) {
        err_set(errp, "romfile \"%s\" is no option ROM: it does not begin with 55 AA", name);
        err_hint(errp, "romfile= with nothing behind it starts the device without a ROM");
        return false;
    }
    pci_add_bar(d, PCI_ROM_BAR, PCI_BAR_MEM, &d->rom);
    return true;
}

/* The first image's PCI data structure names this device; byte 6 of the header is free to keep the sum. */
static void rom_set_ids(struct pci_dev *d)
{
    uint8_t *rom = mem_region_ptr(&d->rom), *pcir;
    uint16_t at = get_le16(rom + 0x18);
    uint8_t old = 0;

    if (d->rom.size < 0x20 || get_le16(rom) != 0xaa55 || at > d->rom.size - 0x18 || memcmp(rom + at, "PCIR", 4))
        return;
    pcir = rom + at;
    for (unsigned i = 4; i < 8; i++)
        old += pcir[i];
    memcpy(pcir + 4, d->config + PCI_VENDOR_ID, 4);
    for (unsigned i = 4; i < 8; i++)
        old -= pcir[i];
    rom[6] += old;
}

bool pci_rom_load(struct pci_dev *d, struct err **errp)
{
    const char *name = d->romfile ? d->romfile : pci_class(d)->romfile;
    FILE *f;
    bool ok;

    if (!name || !*name || !d->rombar || d->bar[PCI_ROM_BAR])
        return true;
    f = rom_open(d, name);
    if (!f) {
        if (d->romfile)
            return err_set_errno(errp, errno, "failed to find romfile \"%s\"", name);
        log_trace("%s: no option ROM: %s is in none of the firmware folders", d->dev.obj.cls->name, name);
        return true;
    }
    ok = rom_fill(d, name, f, errp);
    fclose(f);
    if (ok && !d->romfile)
        rom_set_ids(d);
    return ok;
}
