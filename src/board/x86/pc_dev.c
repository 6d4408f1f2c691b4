/* Devices a PC board has without being asked, and those of the short options: serial and parallel ports, floppies,
 * display, NICs, IDE, SATA and virtio drives.
 *
 * Every device is made by its class name, so a model that this program was built without gives one clear error when it
 * was asked for, and is left out when it would only have been a default. */
#include "board/x86/pc_int.h"

#include "base/str.h"
#include "hw/rtc/rtc.h"

#include <stdio.h>

enum { IDE_BUSES = 2, IDE_UNITS = 2, AHCI_PORTS = 6, CDROM_INDEX = 2, MAX_FLOPPIES = 2 };
enum { SLOT_VGA_PC = 2, SLOT_VGA_Q35 = 1 };

static bool have_class(const char *name)
{
    const struct obj_class *c = obj_class_find(name);

    return c && obj_class_is(c, "device");
}

/* ---- ISA ports ---- */

static bool isa_chr_dev(struct pc *p, const char *cls, int index, const char *chardev, struct err **errp)
{
    struct dev *d = dev_new(p->m, cls, errp);

    if (!d)
        return false;
    if (index >= 0)
        dev_prop_u64(d, "index", (uint64_t)index);
    if (chardev)
        dev_prop(d, "chardev", chardev);
    return dev_realize(d, &p->south.isa->bus, NULL, errp);
}

static bool create_ports(struct pc *p, struct err **errp)
{
    struct board_cfg *c = p->cfg;

    for (unsigned i = 0; i < c->nr_serial && i < ARRAY_LEN(c->serial); i++) {
        if (i >= 4 && c->serial[i])
            return err_set(errp, "a PC has four serial ports; -serial was given for port %u", i + 1);
        if (c->serial[i] && !isa_chr_dev(p, "isa-serial", (int)i, chr_id(c->serial[i]), errp))
            return false;
    }
    for (unsigned i = 0; i < c->nr_parallel && i < ARRAY_LEN(c->parallel); i++) {
        if (i >= 3 && c->parallel[i])
            return err_set(errp, "a PC has three parallel ports; -parallel was given for port %u", i + 1);
        if (c->parallel[i] && !isa_chr_dev(p, "isa-parallel", (int)i, chr_id(c->parallel[i]), errp))
            return false;
    }
    return !c->debugcon || isa_chr_dev(p, "isa-debugcon", -1, chr_id(c->debugcon), errp);
}

/* ---- drives ---- */

/* The drive at a place of an interface, or NULL. */
static struct drive_cfg *drive_at(struct pc *p, enum drive_if iface, int bus, int unit)
{
    for (unsigned i = 0; i < p->cfg->nr_drives; i++) {
        struct drive_cfg *d = &p->cfg->drives[i];

        if (d->iface == iface && d->bus == bus && d->unit == unit)
            return d;
    }
    return NULL;
}

static bool is_iface(const struct drive_cfg *d, enum drive_if iface)
{
    return d->iface == iface;
}

/* Gives every drive of the interface a bus and a unit: those with index= or unit= first, the others fill the gaps. */
static bool place_drives(struct pc *p, enum drive_if iface, int buses, int units, struct err **errp)
{
    struct board_cfg *c = p->cfg;

    for (unsigned i = 0; i < c->nr_drives; i++) {
        struct drive_cfg *d = &c->drives[i];

        if (!is_iface(d, iface) || (d->index < 0 && d->bus < 0 && d->unit < 0))
            continue;
        if (d->index >= 0 && d->bus < 0 && d->unit < 0) {
            d->bus = d->index / units;
            d->unit = d->index % units;
        }
        d->bus = d->bus < 0 ? 0 : d->bus;
        d->unit = d->unit < 0 ? 0 : d->unit;
        if (d->bus >= buses || d->unit >= units)
            return err_set(errp, "drive '%s': bus %d unit %d does not exist (there are %d buses with %d units)",
                           d->id ? d->id : blk_id(d->blk), d->bus, d->unit, buses, units);
        for (unsigned j = 0; j < i; j++)
            if (is_iface(&c->drives[j], iface) && c->drives[j].bus == d->bus && c->drives[j].unit == d->unit)
                return err_set(errp, "two drives are at bus %d unit %d", d->bus, d->unit);
    }
    for (unsigned i = 0; i < c->nr_drives; i++) {
        struct drive_cfg *d = &c->drives[i];

        if (!is_iface(d, iface) || d->bus >= 0)
            continue;
        for (int n = 0; n < buses * units && d->bus < 0; n++)
            if (!drive_at(p, iface, n / units, n % units)) {
                d->bus = n / units;
                d->unit = n % units;
            }
        if (d->bus < 0)
            return err_set(errp, "no place for drive '%s': this machine has %d of its kind",
                           d->id ? d->id : blk_id(d->blk), buses * units);
    }
    return true;
}

/* Leftover -drive keys (serial=, ...) are properties of the device. */
static bool drive_props(struct dev *d, struct drive_cfg *cfg, struct err **errp)
{
    return !cfg->opts || obj_set_all(&d->obj, cfg->opts, NULL, errp);
}

static bool ide_unit(struct pc *p, struct drive_cfg *cfg, const char *bus_name, int unit, struct err **errp)
{
    struct bus *bus = bus_find(p->m, bus_name, "IDE", errp);
    struct dev *d = bus ? dev_new(p->m, cfg->cdrom ? "ide-cd" : "ide-hd", errp) : NULL;

    if (!d)
        return false;
    if (cfg->blk)
        dev_prop(d, "drive", blk_id(cfg->blk));
    dev_prop_u64(d, "unit", (uint64_t)unit);
    cfg->used = true;
    return drive_props(d, cfg, errp) && dev_realize(d, bus, NULL, errp);
}

/* An empty CD-ROM drive, so that media can be inserted later. */
static bool default_cdrom(struct pc *p, const char *bus_name, struct err **errp)
{
    struct blk_set *set = blk_set_of(p->m);
    struct opts *o = opts_new();
    struct drive_cfg cfg = {.cdrom = true};

    cfg.blk = set ? blk_drive_add(set, p->kind == PC_Q35 ? "ide2-cd0" : "ide1-cd0", o, NULL) : NULL;
    opts_free(o);
    return !cfg.blk || ide_unit(p, &cfg, bus_name, 0, errp);
}

static bool create_ide(struct pc *p, int buses, int units, struct err **errp)
{
    int cd_bus = CDROM_INDEX / units, cd_unit = CDROM_INDEX % units;
    char name[16];

    if (!place_drives(p, IF_IDE, buses, units, errp))
        return false;
    for (int b = 0; b < buses; b++)
        for (int u = 0; u < units; u++) {
            struct drive_cfg *d = drive_at(p, IF_IDE, b, u);

            snprintf(name, sizeof name, "ide.%d", b);
            if (d && !ide_unit(p, d, name, u, errp))
                return false;
            if (!d && b == cd_bus && u == cd_unit && p->cfg->default_cdrom && have_class("ide-cd") &&
                !default_cdrom(p, name, errp))
                return false;
        }
    return true;
}

/* Is there a drive that needs this interface? When its models are absent, empty default drives are dropped. */
static bool any_drive(struct pc *p, enum drive_if iface, bool models_known)
{
    bool any = false;

    for (unsigned i = 0; i < p->cfg->nr_drives; i++) {
        struct drive_cfg *d = &p->cfg->drives[i];

        if (d->iface == iface && !models_known && d->blk && !blk_has_medium(d->blk))
            d->used = true;
        else
            any |= d->iface == iface;
    }
    return any;
}

static bool create_storage(struct pc *p, struct err **errp)
{
    bool q35 = p->kind == PC_Q35;
    const char *cls = q35 ? "ich9-ahci" : "piix3-ide";
    bool known = have_class(cls) && have_class("ide-cd"), wanted = any_drive(p, IF_IDE, known);

    if (!known && !wanted)
        return true;
    if (q35 && !p->sata)
        return !wanted || err_set(errp, "the machine's SATA controller is off (sata=off), but drives need it");
    if (!pci_create(p->m, p->north.bus, q35 ? PCI_DEVFN(0x1f, 2) : PCI_DEVFN(1, 1), cls, NULL, errp))
        return false;
    return create_ide(p, q35 ? AHCI_PORTS : IDE_BUSES, q35 ? 1 : IDE_UNITS, errp);
}

static bool create_virtio_drives(struct pc *p, struct err **errp)
{
    for (unsigned i = 0; i < p->cfg->nr_drives; i++) {
        struct drive_cfg *cfg = &p->cfg->drives[i];
        struct dev *d;

        if (cfg->iface != IF_VIRTIO)
            continue;
        d = dev_new(p->m, "virtio-blk-pci", errp);
        if (!d)
            return false;
        dev_prop(d, "drive", blk_id(cfg->blk));
        cfg->used = true;
        if (!drive_props(d, cfg, errp) || !dev_realize(d, &p->north.bus->bus, NULL, errp))
            return false;
    }
    return true;
}

/* ---- floppies ---- */

static bool floppy_unit(struct pc *p, struct bus *bus, struct drive_cfg *cfg, int unit, struct err **errp)
{
    struct dev *d = dev_new(p->m, "floppy", errp);

    if (!d)
        return false;
    if (cfg && cfg->blk)
        dev_prop(d, "drive", blk_id(cfg->blk));
    dev_prop_u64(d, "unit", (uint64_t)unit);
    if (cfg)
        cfg->used = true;
    return (!cfg || drive_props(d, cfg, errp)) && dev_realize(d, bus, NULL, errp);
}

/* A drive without a disk, so that one can be inserted later. */
static bool default_floppy(struct pc *p, struct bus *bus, struct err **errp)
{
    struct blk_set *set = blk_set_of(p->m);
    struct opts *o = opts_new();
    struct drive_cfg cfg = {.iface = IF_FLOPPY};

    cfg.blk = set ? blk_drive_add(set, "floppy0", o, NULL) : NULL;
    opts_free(o);
    return floppy_unit(p, bus, &cfg, 0, errp);
}

static bool create_floppies(struct pc *p, struct err **errp)
{
    bool known = have_class("isa-fdc") && have_class("floppy"), wanted = any_drive(p, IF_FLOPPY, known);
    struct bus *bus;

    if (!wanted && (!known || !p->cfg->default_floppy || p->kind == PC_Q35))
        return true;
    if (!known) {
        err_set(errp, "this program has no floppy controller");
        err_hint(errp, "leave out -fda, -fdb and if=floppy; a disk (-hda) or a CD (-cdrom) can carry the same files");
        return false;
    }
    if (!place_drives(p, IF_FLOPPY, 1, MAX_FLOPPIES, errp))
        return false;
    p->floppy = dev_new(p->m, "isa-fdc", errp);
    if (!p->floppy || !dev_realize(p->floppy, &p->south.isa->bus, NULL, errp))
        return false;
    bus = bus_find(p->m, NULL, "floppy-bus", errp);
    if (!bus)
        return false;
    for (int u = 0; u < MAX_FLOPPIES; u++) {
        struct drive_cfg *d = drive_at(p, IF_FLOPPY, 0, u);

        if (d ? !floppy_unit(p, bus, d, u, errp) : !u && p->cfg->default_floppy && !default_floppy(p, bus, errp))
            return false;
    }
    return true;
}

/* ---- display and network ---- */

static const struct {
    const char *opt, *cls;
} vga_classes[] = {
    {"std", "VGA"}, {"cirrus", "cirrus-vga"}, {"vmware", "vmware-svga"}, {"qxl", "qxl-vga"}, {"virtio", "virtio-vga"}};

static bool create_vga(struct pc *p, struct err **errp)
{
    const char *want = p->cfg->vga ? p->cfg->vga : p->cls->default_display, *cls = NULL;

    if (!want || !strcmp(want, "none"))
        return true;
    for (unsigned i = 0; i < ARRAY_LEN(vga_classes); i++)
        if (!strcmp(want, vga_classes[i].opt))
            cls = vga_classes[i].cls;
    if (cls && p->kind == PC_ISA)
        cls = "isa-vga";
    if (!cls || !have_class(cls)) {
        if (!p->cfg->vga)
            return true;
        err_set(errp, "display card '%s' is not available", want);
        err_hint(errp, "-vga help lists the display cards.");
        return false;
    }
    if (p->kind == PC_ISA) {
        struct dev *d = dev_new(p->m, cls, errp);

        return d && dev_realize(d, &p->south.isa->bus, NULL, errp);
    }
    return pci_create(p->m, p->north.bus, PCI_DEVFN(p->kind == PC_Q35 ? SLOT_VGA_Q35 : SLOT_VGA_PC, 0), cls, NULL,
                      errp) != NULL;
}

static bool create_nic(struct pc *p, struct nic_cfg *n, struct err **errp)
{
    const char *model = n->model ? n->model : p->cls->default_nic;
    struct bus *bus = p->kind == PC_ISA ? &p->south.isa->bus : &p->north.bus->bus;
    char mac[18];
    struct dev *d;

    if (!strcmp(model, "virtio"))
        model = "virtio-net-pci";
    if (!have_class(model)) {
        err_set(errp, "network card model '%s' is not available", model);
        err_hint(errp, "-nic model=help lists the models.");
        return false;
    }
    d = dev_new(p->m, model, errp);
    if (!d)
        return false;
    snprintf(mac, sizeof mac, "%02x:%02x:%02x:%02x:%02x:%02x", n->mac.a[0], n->mac.a[1], n->mac.a[2], n->mac.a[3],
             n->mac.a[4], n->mac.a[5]);
    if (strcmp(mac, "00:00:00:00:00:00"))
        dev_prop(d, "mac", mac);
    if (n->backend)
        dev_prop(d, "netdev", n->backend->id);
    n->used = true;
    return dev_realize(d, bus, n->id, errp);
}

static bool create_nics(struct pc *p, struct err **errp)
{
    for (unsigned i = 0; i < p->cfg->nr_nics; i++) {
        struct nic_cfg *n = &p->cfg->nics[i];
        bool only_default = p->cfg->default_net && !n->model && !have_class(p->cls->default_nic);

        if (!n->used && !only_default && !create_nic(p, n, errp))
            return false;
    }
    return true;
}

/* ---- entry points ---- */

bool pc_create_io(struct pc *p, struct err **errp)
{
    if (!create_ports(p, errp) || !create_floppies(p, errp))
        return false;
    if (p->vmport != OOA_OFF && p->kind != PC_ISA && have_class("vmport")) {
        struct dev *d = dev_new(p->m, "vmport", errp);

        return d && dev_realize(d, &p->south.isa->bus, NULL, errp);
    }
    return p->vmport != OOA_ON || err_set(errp, "vmport=on: this program has no VMware port");
}

/* The companions of ICH9's EHCI at slot 1dh; a program without an EHCI has full-speed ports only. */
static bool create_usb(struct pc *p, struct err **errp)
{
    static const struct {
        uint8_t devfn;
        const char *cls;
    } ich9[] = {{PCI_DEVFN(0x1d, 0), "ich9-usb-uhci1"},
                {PCI_DEVFN(0x1d, 1), "ich9-usb-uhci2"},
                {PCI_DEVFN(0x1d, 2), "ich9-usb-uhci3"},
                {PCI_DEVFN(0x1d, 7), "ich9-usb-ehci1"}};

    if (!p->usb)
        return true;
    if (p->kind != PC_Q35)
        return pci_create(p->m, p->north.bus, PCI_DEVFN(1, 2), "piix3-usb-uhci", NULL, errp) != NULL;
    for (unsigned i = 0; i < ARRAY_LEN(ich9); i++) {
        struct dev *d = have_class(ich9[i].cls) ? dev_new(p->m, ich9[i].cls, errp) : NULL;

        if (!d)
            continue;
        dev_prop(d, "multifunction", "on");
        container_of(d, struct pci_dev, dev)->addr = ich9[i].devfn;
        if (!dev_realize(d, &p->north.bus->bus, NULL, errp))
            return false;
    }
    return true;
}

bool pc_create_pci_devs(struct pc *p, struct err **errp)
{
    return create_vga(p, errp) && create_storage(p, errp) && create_usb(p, errp) && create_nics(p, errp) &&
           create_virtio_drives(p, errp);
}

bool pc_create_isa_devs(struct pc *p, struct err **errp)
{
    return create_vga(p, errp) && create_nics(p, errp) &&
           (!any_drive(p, IF_IDE, false) || err_set(errp, "the isapc machine has no IDE controller in this program"));
}
