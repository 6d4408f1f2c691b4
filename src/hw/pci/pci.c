/* PCI functions and buses: configuration space, BAR decoding, INTx routing, DMA gating.
 *
 * PCI Local Bus 3.0 (chapters 2.2.6, 6), PCI-to-PCI Bridge 1.2 for interrupt swizzling. Every function sees memory
 * through a space of its own whose only window is open while bus mastering is enabled. Not modelled: parity and system
 * errors (status bits never set), cache line and latency effects, dual address cycles. */
#include "base/bytes.h"
#include "base/str.h"
#include "hw/pci/pci_int.h"

#include <stdio.h>

/* ---- properties ---- */

static bool addr_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    int32_t *f = field;
    unsigned slot, fn = 0;
    int end = 0;

    if (!strcmp(val, "-1")) {
        *f = -1;
        return true;
    }
    if (sscanf(val, "%x%n", &slot, &end) == 1 && val[end] == '.') {
        int more = 0;

        if (sscanf(val + end + 1, "%x%n", &fn, &more) == 1)
            end += 1 + more;
    }
    if (!end || val[end] || slot > 31 || fn > 7)
        return err_set(errp, "Property '%s.%s': '%s' is not a PCI address (SLOT or SLOT.FUNCTION in hex, to 1f.7)",
                       o->cls->name, p->name, val);
    *f = PCI_DEVFN(slot, fn);
    return true;
}
static char *addr_get(struct obj *o, const struct prop *p, const void *field)
{
    int32_t v = *(const int32_t *)field;

    return v < 0 ? xstrdup("-1") : xasprintf("%02x.%x", v >> 3, v & 7);
}
static const struct prop_type prop_pci_addr = {"str", addr_set, addr_get, NULL, NULL};

const struct prop pci_props[] = {
    {.name = "addr",
     .type = &prop_pci_addr,
     .off = offsetof(struct pci_dev, addr),
     .dflt = "-1",
     .help = "Slot and optional function number, example: 06.0 or 06"},
    PROP("multifunction", bool, struct pci_dev, multifunction),
    PROP("romfile", str, struct pci_dev, romfile, .help = "option ROM file, empty for none"),
    PROP("rombar", i32, struct pci_dev, rombar, .dflt = "1"),
    PROP("bootindex", i32, struct pci_dev, bootindex, .dflt = "-1"),
    PROP_END,
};

static bool pci_state_loaded(void *obj, struct err **errp)
{
    struct pci_dev *d = obj;

    d->config[PCI_INTERRUPT_PIN] = d->pin; /* it picks an input of the router */
    d->intx_level = !!d->intx_level;
    d->intx_out = !!d->intx_out;
    pci_update_bars(d);
    mem_region_set_enabled(&d->bm_alias, get_le16(d->config + PCI_COMMAND) & PCI_COMMAND_MASTER);
    return true;
}
static const struct state_field pci_fields[] = {
    {.name = "config",
     .kind = STATE_K_VARBYTES,
     .off = offsetof(struct pci_dev, config),
     .size = 1,
     .count = 1,
     .len_off = offsetof(struct pci_dev, config_len)},
    STATE_PTR(struct pci_dev, msix, pci_msix_state),
    STATE_ONE_(struct pci_dev, intx_level, STATE_K_INT),
    STATE_ONE_(struct pci_dev, intx_out, STATE_K_INT),
    STATE_END,
};
const struct state_desc pci_dev_state = {
    .name = "pci-dev", .version = 1, .fields = pci_fields, .post_load = pci_state_loaded};

static void CONSTRUCTOR pci_families(void)
{
    obj_register_family("pci-device", "device");
}

/* ---- BARs ---- */

static unsigned bar_off(const struct pci_dev *d, unsigned n)
{
    if (n == PCI_ROM_BAR)
        return pci_class(d)->is_bridge ? 0x38 : PCI_ROM_ADDRESS;
    return PCI_BAR0 + 4 * n;
}

/* Where BAR n decodes now, UINT64_MAX when it does not. */
static gpa_t bar_decode(const struct pci_dev *d, unsigned n)
{
    const uint8_t *c = d->config + bar_off(d, n);
    uint16_t cmd = get_le16(d->config + PCI_COMMAND);
    uint64_t size = d->bar[n]->size, addr, last;

    if (d->bar_type[n] & PCI_BAR_IO) {
        addr = get_le32(c) & ~3u;
        last = addr + size - 1;
        return (cmd & PCI_COMMAND_IO) && addr && last <= 0xffff ? addr : UINT64_MAX;
    }
    if (!(cmd & PCI_COMMAND_MEMORY))
        return UINT64_MAX;
    if (n == PCI_ROM_BAR && !(get_le32(c) & 1))
        return UINT64_MAX;
    addr = d->bar_type[n] & PCI_BAR_MEM64 ? get_le64(c) : get_le32(c);
    addr &= ~(size - 1);
    if (!addr || !add_ok_u64(addr, size - 1, &last) || last == UINT64_MAX)
        return UINT64_MAX;
    if (!(d->bar_type[n] & PCI_BAR_MEM64) && last >= UINT32_MAX)
        return UINT64_MAX; /* the pattern that sizes a BAR */
    return addr;
}

void pci_update_bars(struct pci_dev *d)
{
    struct pci_bus *b = pci_dev_bus(d);
    struct mem_sys *s = dev_machine(&d->dev)->mem_sys;

    mem_begin(s);
    for (unsigned n = 0; n <= PCI_ROM_BAR; n++) {
        gpa_t to;

        if (!d->bar[n] || (to = bar_decode(d, n)) == d->bar_addr[n])
            continue;
        if (d->bar_addr[n] != UINT64_MAX)
            mem_region_del(d->bar[n]);
        d->bar_addr[n] = to;
        if (to != UINT64_MAX)
            mem_region_add_prio(d->bar_type[n] & PCI_BAR_IO ? b->io : b->mem, to, d->bar[n], 1);
    }
    mem_commit(s);
}

static void unmap_bars(struct pci_dev *d)
{
    for (unsigned n = 0; n <= PCI_ROM_BAR; n++)
        if (d->bar[n] && d->bar_addr[n] != UINT64_MAX) {
            mem_region_del(d->bar[n]);
            d->bar_addr[n] = UINT64_MAX;
        }
}

void pci_add_bar(struct pci_dev *d, unsigned n, unsigned type, struct mem_region *r)
{
    unsigned off = bar_off(d, n);

    assert(n <= PCI_ROM_BAR && !d->bar[n] && is_pow2(r->size));
    assert(r->size >= (type & PCI_BAR_IO ? 4 : 16));
    d->bar[n] = r;
    d->bar_type[n] = (uint8_t)type;
    d->bar_addr[n] = UINT64_MAX;
    put_le32(d->config + off, n == PCI_ROM_BAR ? 0 : type);
    put_le32(d->wmask + off, (uint32_t) ~(r->size - 1) | (n == PCI_ROM_BAR));
    if (type & PCI_BAR_MEM64)
        put_le32(d->wmask + off + 4, (uint32_t)(~(r->size - 1) >> 32));
}

/* ---- INTx ---- */

/* The router input of a function's pin: swizzled through the bridges above it. */
static int route_irq(struct pci_dev *d, struct pci_bus **root)
{
    struct pci_bus *b = pci_dev_bus(d);
    uint8_t devfn = d->devfn;
    int pin = d->config[PCI_INTERRUPT_PIN] - 1;

    while (b->parent) {
        pin = (pin + (devfn >> 3)) & 3;
        devfn = container_of(b->bus.owner, struct pci_dev, dev)->devfn;
        b = b->parent;
    }
    *root = b;
    return b->map_irq ? b->map_irq(b, devfn, pin) : pin;
}

static void intx_count(struct pci_dev *d, int change)
{
    struct pci_bus *root;
    int n = route_irq(d, &root);

    if (n < 0 || n >= (int)ARRAY_LEN(root->irq_count))
        return;
    root->irq_count[n] += change;
    if (root->set_irq)
        root->set_irq(root->irq_opaque, n, root->irq_count[n] > 0);
}

static void intx_update(struct pci_dev *d)
{
    int out = d->intx_level && !(get_le16(d->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);

    if (d->intx_level)
        d->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    else
        d->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
    if (out == d->intx_out || !d->config[PCI_INTERRUPT_PIN])
        return;
    d->intx_out = out;
    intx_count(d, out ? 1 : -1);
}

void pci_set_intx(struct pci_dev *d, int level)
{
    d->intx_level = !!level;
    intx_update(d);
}

static void recount(struct pci_dev *d, void *opaque)
{
    struct pci_bus *root;
    int n;

    if (d->intx_out && (n = route_irq(d, &root)) >= 0 && n < (int)ARRAY_LEN(root->irq_count))
        root->irq_count[n]++;
}

void pci_bus_remap_irqs(struct pci_bus *root)
{
    int old[ARRAY_LEN(root->irq_count)];

    memcpy(old, root->irq_count, sizeof old);
    memset(root->irq_count, 0, sizeof root->irq_count);
    pci_each(root, recount, NULL);
    for (int n = 0; n < (int)ARRAY_LEN(old); n++)
        if (!old[n] != !root->irq_count[n] && root->set_irq)
            root->set_irq(root->irq_opaque, n, root->irq_count[n] > 0);
}

void pci_set_pin(struct pci_dev *d, unsigned pin)
{
    d->pin = d->config[PCI_INTERRUPT_PIN] = (uint8_t)pin;
}

/* ---- configuration space ---- */

unsigned pci_config_size(const struct pci_dev *d)
{
    return d->exp_cap ? PCIE_CFG_SIZE : PCI_CFG_SIZE;
}

uint32_t pci_default_cfg_read(struct pci_dev *d, unsigned off, unsigned size)
{
    if (off + size > pci_config_size(d))
        return UINT32_MAX;
    return (uint32_t)get_le(d->config + off, size);
}

static bool overlaps(unsigned off, unsigned size, unsigned at, unsigned len)
{
    return off < at + len && at < off + size;
}

void pci_default_cfg_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    uint16_t cmd;

    if (off + size > pci_config_size(d))
        return;
    for (unsigned i = 0; i < size; i++) {
        uint8_t v = (uint8_t)(val >> 8 * i), w = d->wmask[off + i], c = d->w1cmask[off + i];

        d->config[off + i] = (uint8_t)((d->config[off + i] & ~w & ~(v & c)) | (v & w));
    }
    cmd = get_le16(d->config + PCI_COMMAND);
    if (overlaps(off, size, PCI_COMMAND, 2) && d->bm_alias.enabled != !!(cmd & PCI_COMMAND_MASTER))
        mem_region_set_enabled(&d->bm_alias, cmd & PCI_COMMAND_MASTER);
    if (overlaps(off, size, PCI_COMMAND, 2) || overlaps(off, size, PCI_BAR0, 24) ||
        overlaps(off, size, bar_off(d, PCI_ROM_BAR), 4))
        pci_update_bars(d);
    if (overlaps(off, size, PCI_COMMAND, 2))
        intx_update(d);
    pci_msi_cfg_written(d, off, size);
}

/* Each cap's next pointer leads to the one added before it; the newest is first. */
uint8_t pci_add_cap(struct pci_dev *d, uint8_t id, uint8_t at, uint8_t size)
{
    unsigned off = at;

    if (!off)
        off = (unsigned)align_up(d->cap_end, 4);
    if (off < 0x40 || off + size > PCI_CFG_SIZE)
        return 0;
    if (off + size > d->cap_end)
        d->cap_end = (uint16_t)(off + size);
    d->config[off] = id;
    d->config[off + 1] = d->config[PCI_CAPABILITY_LIST];
    memset(d->wmask + off, 0, size);
    memset(d->w1cmask + off, 0, size);
    d->config[PCI_CAPABILITY_LIST] = (uint8_t)off;
    d->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    return (uint8_t)off;
}

static void header_init(struct pci_dev *d)
{
    const struct pci_class *k = pci_class(d);
    uint8_t *c = d->config, *w = d->wmask;

    put_le16(c + PCI_VENDOR_ID, k->vendor_id);
    put_le16(c + PCI_DEVICE_ID, k->device_id);
    c[PCI_REVISION_ID] = k->revision;
    c[PCI_CLASS_PROG] = k->prog_if;
    put_le16(c + PCI_CLASS_DEVICE, k->class_id);
    c[PCI_HEADER_TYPE] = (uint8_t)((k->is_bridge ? 1 : 0) | (d->multifunction ? 0x80 : 0));
    if (!k->is_bridge) {
        put_le16(c + PCI_SUBSYSTEM_VENDOR_ID, k->subsystem_vendor_id ? k->subsystem_vendor_id : 0x1af4);
        put_le16(c + PCI_SUBSYSTEM_ID, k->subsystem_vendor_id ? k->subsystem_id : 0x1100);
    }
    put_le16(w + PCI_COMMAND,
             PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | 0x140 | PCI_COMMAND_INTX_DISABLE);
    put_le16(d->w1cmask + PCI_STATUS, 0xf900);
    w[PCI_CACHE_LINE_SIZE] = 0xff;
    w[PCI_INTERRUPT_LINE] = 0xff;
    d->cap_end = 0x40;
    d->ext_cap_end = PCI_CFG_SIZE;
}

void pci_default_reset(struct pci_dev *d)
{
    uint8_t *c = d->config;

    pci_set_intx(d, 0);
    put_le16(c + PCI_COMMAND, 0);
    put_le16(c + PCI_STATUS, get_le16(c + PCI_STATUS) & (PCI_STATUS_CAP_LIST | 0x20 | 0x80 | 0x600));
    c[PCI_CACHE_LINE_SIZE] = 0;
    c[PCI_INTERRUPT_LINE] = 0;
    for (unsigned n = 0; n <= PCI_ROM_BAR; n++) {
        if (!d->bar[n])
            continue;
        put_le32(c + bar_off(d, n), n == PCI_ROM_BAR ? 0 : d->bar_type[n]);
        if (d->bar_type[n] & PCI_BAR_MEM64)
            put_le32(c + bar_off(d, n) + 4, 0);
    }
    if (d->bm_alias.enabled)
        mem_region_set_enabled(&d->bm_alias, false);
    pci_msi_reset(d);
    pci_update_bars(d);
}

/* ---- buses ---- */

static bool slot_usable(struct pci_bus *b, uint8_t devfn)
{
    return devfn >= b->devfn_min && (!b->single_slot || devfn < 8);
}

static bool place(struct pci_bus *b, struct pci_dev *d, struct err **errp)
{
    const char *cls = d->dev.obj.cls->name;
    struct pci_dev *fn0, *there;

    if (d->addr < 0) {
        for (unsigned devfn = 0; devfn < 256 && d->addr < 0; devfn += 8)
            if (slot_usable(b, (uint8_t)devfn) && !b->slot[devfn])
                d->addr = (int32_t)devfn;
        if (d->addr < 0)
            return err_set(errp, "PCI: no slot/function available for %s, all in use on bus '%s'", cls, b->bus.name);
    }
    d->devfn = (uint8_t)d->addr;
    there = b->slot[d->devfn];
    fn0 = b->slot[d->devfn & ~7];
    if (there)
        return err_set(errp, "PCI: slot %d function %d not available for %s, in use by %s,id=%s", d->devfn >> 3,
                       d->devfn & 7, cls, there->dev.obj.cls->name, there->dev.id ? there->dev.id : "");
    if (!slot_usable(b, d->devfn))
        return err_set(errp, "PCI: slot %d function %d not available for %s, reserved on bus '%s'", d->devfn >> 3,
                       d->devfn & 7, cls, b->bus.name);
    if ((d->devfn & 7) && fn0 && !fn0->multifunction)
        return err_set(errp, "PCI: %x.0 indicates single function, but %x.%x is already populated or wanted",
                       d->devfn >> 3, d->devfn >> 3, d->devfn & 7);
    if (!(d->devfn & 7) && !d->multifunction)
        for (unsigned f = 1; f < 8; f++)
            if (b->slot[d->devfn + f])
                return err_set(errp, "PCI: %x.0 indicates single function, but %x.%x is already populated",
                               d->devfn >> 3, d->devfn >> 3, f);
    return true;
}

static bool pci_plug(struct bus *bus, struct dev *dev, struct err **errp)
{
    struct pci_bus *b = container_of(bus, struct pci_bus, bus);
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);
    struct machine *m = dev_machine(dev);

    if (m->state != RS_PRELAUNCH && !bus->hotplug)
        return err_set(errp, "Bus '%s' does not support hotplugging", bus->name);
    if (!place(b, d, errp))
        return false;
    d->config_len = PCIE_CFG_SIZE;
    d->config = xcalloc(3, PCIE_CFG_SIZE);
    d->wmask = d->config + PCIE_CFG_SIZE;
    d->w1cmask = d->wmask + PCIE_CFG_SIZE;
    for (unsigned n = 0; n <= PCI_ROM_BAR; n++)
        d->bar_addr[n] = UINT64_MAX;
    header_init(d);
    mem_region_init(&d->bm_root, m->mem_sys, "bus master", UINT64_MAX);
    mem_region_init_alias(&d->bm_alias, m->mem_sys, "bus master window", &m->sysmem, 0, UINT64_MAX);
    d->bm_alias.enabled = false;
    mem_region_add(&d->bm_root, 0, &d->bm_alias);
    d->dma = mem_space_new(m->mem_sys, dev->obj.cls->name, &d->bm_root);
    b->slot[d->devfn] = d;
    return true;
}

static bool pci_plugged(struct bus *bus, struct dev *dev, struct err **errp)
{
    struct pci_bus *b = container_of(bus, struct pci_bus, bus);
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);

    if (!pci_rom_load(d, errp))
        return false;
    if (dev_machine(dev)->state != RS_PRELAUNCH && b->hp_plugged && !(d->devfn & 7))
        b->hp_plugged(b->hp_opaque, d);
    return true;
}

static void pci_unplug(struct bus *bus, struct dev *dev)
{
    struct pci_bus *b = container_of(bus, struct pci_bus, bus);
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);

    if (!d->config)
        return;
    pci_set_intx(d, 0);
    unmap_bars(d);
    pci_msi_free(d);
    if (d->rom.size) {
        mem_region_free(&d->rom);
        d->rom.size = 0;
    }
    mem_space_free(d->dma);
    mem_region_del(&d->bm_alias);
    mem_region_free(&d->bm_alias);
    mem_region_free(&d->bm_root);
    if (b->slot[d->devfn] == d)
        b->slot[d->devfn] = NULL;
    free(d->config);
    d->config = d->wmask = d->w1cmask = NULL;
    memset(d->bar, 0, sizeof d->bar);
}

static bool pci_unplug_request(struct bus *bus, struct dev *dev, struct err **errp)
{
    struct pci_bus *b = container_of(bus, struct pci_bus, bus);

    if (b->hp_unplug)
        return b->hp_unplug(b->hp_opaque, container_of(dev, struct pci_dev, dev), errp);
    return err_set(errp, "Bus '%s' does not support hotplugging", b->bus.name);
}

static void pci_reset_one(struct pci_bus *b)
{
    for (unsigned i = 0; i < 256; i++)
        if (b->slot[i] && b->slot[i]->config)
            pci_default_reset(b->slot[i]);
}
static void pci_bus_reset(struct bus *bus)
{
    pci_reset_one(container_of(bus, struct pci_bus, bus));
}

/* Open Firmware names by class; others are named by their ids, which OVMF expects of AHCI. */
static char *pci_fw_path(struct dev *dev)
{
    static const struct {
        uint16_t class_id;
        const char *name;
    } names[] = {
        {0x0100, "scsi"},          {0x0101, "ide"},     {0x0102, "fdc"},
        {0x0200, "ethernet"},      {0x0300, "display"}, {0x0401, "multimedia-audio"},
        {0x0600, "host"},          {0x0601, "isa"},     {0x0604, "pci-bridge"},
        {0x0780, "communication"}, {0x0c03, "usb"},
    };
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);
    const struct pci_class *k = pci_class(d);
    AUTOFREE char *name = xasprintf("pci%04x,%04x", k->vendor_id, k->device_id);

    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (names[i].class_id == k->class_id) {
            free(name);
            name = xstrdup(names[i].name);
        }
    return d->devfn & 7 ? xasprintf("%s@%x,%x", name, d->devfn >> 3, d->devfn & 7)
                        : xasprintf("%s@%x", name, d->devfn >> 3);
}

static char *pci_dev_path(struct dev *dev)
{
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);

    return xasprintf("%02x.%x", d->devfn >> 3, d->devfn & 7);
}

static const struct bus_class pci_bus_class = {
    .type = "PCI",
    .plug = pci_plug,
    .plugged = pci_plugged,
    .unplug = pci_unplug,
    .reset = pci_bus_reset,
    .unplug_request = pci_unplug_request,
    .fw_path = pci_fw_path,
    .dev_path = pci_dev_path,
};

void pci_bus_init(struct pci_bus *b, struct dev *owner, const char *name, struct mem_region *mem, struct mem_region *io,
                  uint8_t devfn_min, bool express)
{
    bus_init(&b->bus, &pci_bus_class, owner, name);
    b->mem = mem;
    b->io = io;
    b->devfn_min = devfn_min;
    b->express = express;
    list_init(&b->child_buses);
    list_init(&b->sib);
}

static bool root_loaded(void *obj, struct err **errp)
{
    struct pci_bus *b = obj;

    for (unsigned i = 0; i < ARRAY_LEN(b->irq_count); i++)
        if (b->irq_count[i] < 0 || b->irq_count[i] > 65536)
            return false;
    return true;
}
static const struct state_field root_fields[] = {STATE_ARRAY(struct pci_bus, irq_count), STATE_END};
const struct state_desc pci_root_state = {
    .name = "pci-root", .version = 1, .fields = root_fields, .post_load = root_loaded};

void pci_bus_fini(struct pci_bus *b)
{
    list_del(&b->sib);
    bus_fini(&b->bus);
}

void pci_each(struct pci_bus *b, void (*fn)(struct pci_dev *d, void *opaque), void *opaque)
{
    struct pci_bus *c;

    for (unsigned i = 0; i < 256; i++)
        if (b->slot[i])
            fn(b->slot[i], opaque);
    list_each (c, &b->child_buses, sib)
        pci_each(c, fn, opaque);
}

struct pci_dev *pci_find(struct pci_bus *root, uint8_t bus_nr, uint8_t devfn)
{
    struct pci_bus *b = root, *c;

    while (b->nr != bus_nr) {
        struct pci_bus *next = NULL;

        list_each (c, &b->child_buses, sib) {
            const uint8_t *cfg = container_of(c->bus.owner, struct pci_dev, dev)->config;

            if (cfg && cfg[PCI_SECONDARY_BUS] && bus_nr >= cfg[PCI_SECONDARY_BUS] &&
                bus_nr <= cfg[PCI_SUBORDINATE_BUS]) {
                c->nr = cfg[PCI_SECONDARY_BUS];
                next = c;
            }
        }
        if (!next)
            return NULL;
        b = next;
    }
    return b->slot[devfn];
}

uint32_t pci_cfg_read(struct pci_bus *root, uint8_t bus_nr, uint8_t devfn, unsigned off, unsigned size)
{
    struct pci_dev *d = pci_find(root, bus_nr, devfn);
    uint32_t v = UINT32_MAX;

    if (d && d->config && d->dev.realized && off + size <= pci_config_size(d)) {
        const struct pci_class *k = pci_class(d);

        v = k->cfg_read ? k->cfg_read(d, off, size) : pci_default_cfg_read(d, off, size);
    }
    return size == 4 ? v : v & ((1u << 8 * size) - 1);
}

void pci_cfg_write(struct pci_bus *root, uint8_t bus_nr, uint8_t devfn, unsigned off, uint32_t val, unsigned size)
{
    struct pci_dev *d = pci_find(root, bus_nr, devfn);
    const struct pci_class *k;

    if (!d || !d->config || !d->dev.realized || off + size > pci_config_size(d))
        return;
    k = pci_class(d);
    if (k->cfg_write)
        k->cfg_write(d, off, val, size);
    else
        pci_default_cfg_write(d, off, val, size);
}

struct pci_dev *pci_create(struct machine *m, struct pci_bus *b, int devfn, const char *cls, const char *id,
                           struct err **errp)
{
    struct dev *dev = dev_new(m, cls, errp);
    struct pci_dev *d;

    if (!dev)
        return NULL;
    d = container_of(dev, struct pci_dev, dev);
    d->addr = devfn;
    return dev_realize(dev, &b->bus, id, errp) ? d : NULL;
}
