/* PCI-to-PCI bridges and PCI Express ports: "pci-bridge", "pcie-root-port", "ioh3420", "pcie-pci-bridge",
 * "i82801b11-bridge", "x3130-upstream", "xio3130-downstream".
 *
 * PCI-to-PCI Bridge Architecture 1.2 chapter 3; ports with slots after PCI Express Base 4.0 chapter 6.7 (hot-plug with
 * attention button, power control and presence detect). Ids of the first, second and fourth are of the virtual vendor
 * 1b36. Not modelled: error forwarding, ISA enable bit, secondary status errors, latency timer, standard hot-plug
 * controller. */
#include "base/bytes.h"
#include "hw/pci/pci_int.h"
#include "hw/pci/pcie.h"

enum {
    IO_BASE = 0x1c,
    IO_LIMIT = 0x1d,
    SEC_STATUS = 0x1e,
    MEM_BASE = 0x20,
    MEM_LIMIT = 0x22,
    PREF_BASE = 0x24,
    PREF_LIMIT = 0x26,
    PREF_BASE_HI = 0x28,
    PREF_LIMIT_HI = 0x2c,
    IO_BASE_HI = 0x30,
    IO_LIMIT_HI = 0x32,
    BRIDGE_CONTROL = 0x3e,
};
enum { BRIDGE_CTL_VGA = 8, BRIDGE_CTL_RESET = 0x40 };
enum { WIN_IO, WIN_MEM, WIN_PREF, WIN_VGA_MEM, WIN_VGA_IO_LO, WIN_VGA_IO_HI, NR_WIN };

struct pci_bridge {
    struct pci_dev pci; /* first */
    struct pci_bus sec;
    struct mem_region mem, io;     /* the secondary side */
    struct mem_region win[NR_WIN]; /* aliases of it on the primary side */
    bool win_on[NR_WIN];
    uint8_t chassis, port;
    uint16_t slot;
    bool hotplug; /* property: the slot takes part in hot-plug */
    bool has_slot;
    struct ev_bh eject_bh;
};
struct bridge_class {
    struct pci_class;
    uint8_t port_type; /* of the PCIe capability; 0xff = none */
    bool has_slot, sec_express, io32;
    const char *bus_name;
};
static const struct bridge_class *bridge_class(const struct pci_bridge *b)
{
    return (const struct bridge_class *)b->pci.dev.obj.cls;
}

/* ---- windows ---- */

static void window_set(struct pci_bridge *b, unsigned n, bool on, uint64_t base, uint64_t limit)
{
    struct mem_region *w = &b->win[n];
    struct pci_bus *up = pci_dev_bus(&b->pci);
    bool io = n == WIN_IO || n == WIN_VGA_IO_LO || n == WIN_VGA_IO_HI;

    if (b->win_on[n])
        mem_region_del(w);
    b->win_on[n] = on && base <= limit;
    if (!b->win_on[n])
        return;
    mem_region_set_alias_off(w, base);
    mem_region_set_size(w, limit - base + 1);
    mem_region_add_prio(io ? up->io : up->mem, base, w, n >= WIN_VGA_MEM ? 2 : 1);
}

static uint64_t wide(const uint8_t *c, unsigned lo, unsigned hi, uint64_t fill)
{
    return (uint64_t)(get_le16(c + lo) & 0xfff0) << 16 | (uint64_t)get_le32(c + hi) << 32 | fill;
}

static void windows_update(struct pci_bridge *b)
{
    const uint8_t *c = b->pci.config;
    uint16_t cmd = get_le16(c + PCI_COMMAND);
    bool io = cmd & PCI_COMMAND_IO, mem = cmd & PCI_COMMAND_MEMORY, vga = get_le16(c + BRIDGE_CONTROL) & BRIDGE_CTL_VGA;

    mem_begin(b->mem.sys);
    window_set(b, WIN_IO, io, (uint64_t)(c[IO_BASE] & 0xf0) << 8, (uint64_t)(c[IO_LIMIT] & 0xf0) << 8 | 0xfff);
    window_set(b, WIN_MEM, mem, (uint64_t)(get_le16(c + MEM_BASE) & 0xfff0) << 16,
               (uint64_t)(get_le16(c + MEM_LIMIT) & 0xfff0) << 16 | 0xfffff);
    window_set(b, WIN_PREF, mem, wide(c, PREF_BASE, PREF_BASE_HI, 0), wide(c, PREF_LIMIT, PREF_LIMIT_HI, 0xfffff));
    window_set(b, WIN_VGA_MEM, mem && vga, 0xa0000, 0xbffff);
    window_set(b, WIN_VGA_IO_LO, io && vga, 0x3b0, 0x3bb);
    window_set(b, WIN_VGA_IO_HI, io && vga, 0x3c0, 0x3df);
    mem_commit(b->mem.sys);
}

/* ---- PCIe slot ---- */

static uint8_t *slot_regs(struct pci_bridge *b)
{
    return b->pci.config + b->pci.exp_cap;
}

static void slot_irq(struct pci_bridge *b)
{
    uint16_t ctl = get_le16(slot_regs(b) + PCIE_SLTCTL), sta = get_le16(slot_regs(b) + PCIE_SLTSTA);
    bool on = (ctl & SLTCTL_HPIE) &&
              (((ctl & SLTCTL_ABPE) && (sta & SLTSTA_ABP)) || ((ctl & SLTCTL_PDCE) && (sta & SLTSTA_PDC)) ||
               ((ctl & SLTCTL_CCIE) && (sta & SLTSTA_CC)) || ((ctl & SLTCTL_DLLSCE) && (sta & SLTSTA_DLLSC)));

    if (!pci_msi_enabled(&b->pci))
        pci_set_intx(&b->pci, on);
    else if (on)
        pci_msi_notify(&b->pci, 0);
}

static void slot_event(struct pci_bridge *b, uint16_t set, uint16_t clear)
{
    uint8_t *s = slot_regs(b) + PCIE_SLTSTA;

    put_le16(s, (uint16_t)((get_le16(s) & ~clear) | set));
    slot_irq(b);
}

static void slot_plugged(void *opaque, struct pci_dev *d)
{
    slot_event(opaque, SLTSTA_PDS | SLTSTA_PDC | SLTSTA_ABP, 0);
}

static bool slot_unplug(void *opaque, struct pci_dev *d, struct err **errp)
{
    struct pci_bridge *b = opaque;

    if (!b->hotplug)
        return err_set(errp, "Hot-unplug is disabled on port '%s'", b->sec.bus.name);
    if (get_le16(slot_regs(b) + PCIE_SLTCTL) & SLTCTL_PCC)
        ev_bh_schedule(&b->eject_bh); /* no power, nobody uses it */
    else
        slot_event(b, SLTSTA_ABP, 0);
    return true;
}

/* Removes what sits in the slot, outside the configuration write that asked for it. */
static void slot_eject(void *opaque)
{
    struct pci_bridge *b = opaque;

    for (int fn = 7; fn >= 0; fn--)
        if (b->sec.slot[fn])
            dev_remove(&b->sec.slot[fn]->dev);
    slot_event(b, SLTSTA_PDC | SLTSTA_DLLSC, SLTSTA_PDS);
}

/* Power off and its indicator too, in whatever order they were written: the device may be taken out. */
static bool slot_off(uint16_t ctl)
{
    return (ctl & SLTCTL_PCC) && (ctl & SLTCTL_PIC) == SLTCTL_PIC_OFF;
}

static void slot_written(struct pci_bridge *b, uint16_t old_ctl, unsigned off, unsigned size)
{
    unsigned at = b->pci.exp_cap + PCIE_SLTCTL;
    uint16_t ctl = get_le16(slot_regs(b) + PCIE_SLTCTL);

    if (off >= at + 4 || off + size <= at)
        return;
    if (off < at + 2) {
        slot_event(b, SLTSTA_CC, 0);
        if (slot_off(ctl) && !slot_off(old_ctl) && (get_le16(slot_regs(b) + PCIE_SLTSTA) & SLTSTA_PDS))
            ev_bh_schedule(&b->eject_bh);
    }
    slot_irq(b);
}

static void slot_init(struct pci_bridge *b)
{
    uint8_t *c = slot_regs(b), cap = b->pci.exp_cap;
    uint32_t caps = (uint32_t)b->slot << 19 | SLTCAP_EIP;

    if (b->hotplug)
        caps |= SLTCAP_ABP | SLTCAP_PCP | SLTCAP_AIP | SLTCAP_PIP | SLTCAP_HPS | SLTCAP_HPC;
    put_le16(c + PCIE_FLAGS, get_le16(c + PCIE_FLAGS) | 0x100);
    put_le32(c + PCIE_SLTCAP, caps);
    put_le16(b->pci.wmask + cap + PCIE_SLTCTL, 0x1fff & ~0x0800);
    put_le16(b->pci.w1cmask + cap + PCIE_SLTSTA, 0x011f);
    put_le16(b->pci.wmask + cap + PCIE_RTCTL, 0x1f);
    b->sec.hp_plugged = slot_plugged;
    b->sec.hp_unplug = slot_unplug;
    b->sec.hp_opaque = b;
    b->sec.bus.hotplug = b->hotplug;
    ev_bh_init(&b->eject_bh, dev_machine(&b->pci.dev)->run->loop, slot_eject, b);
}

/* ---- function ---- */

static void bridge_cfg_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    struct pci_bridge *b = container_of(d, struct pci_bridge, pci);
    uint16_t old_bc = get_le16(d->config + BRIDGE_CONTROL);
    uint16_t old_ctl = b->has_slot ? get_le16(slot_regs(b) + PCIE_SLTCTL) : 0;

    pci_default_cfg_write(d, off, val, size);
    if (off < PCI_COMMAND + 2 || (off < IO_LIMIT_HI + 2 && off + size > IO_BASE) ||
        (off < BRIDGE_CONTROL + 2 && off + size > BRIDGE_CONTROL))
        windows_update(b);
    if ((get_le16(d->config + BRIDGE_CONTROL) & ~old_bc) & BRIDGE_CTL_RESET)
        bus_reset_tree(&b->sec.bus);
    if (b->has_slot)
        slot_written(b, old_ctl, off, size);
}

static void bridge_masks(struct pci_bridge *b)
{
    uint8_t *c = b->pci.config, *w = b->pci.wmask;

    w[PCI_PRIMARY_BUS] = w[PCI_SECONDARY_BUS] = w[PCI_SUBORDINATE_BUS] = 0xff;
    w[IO_BASE] = w[IO_LIMIT] = 0xf0;
    put_le16(w + MEM_BASE, 0xfff0);
    put_le16(w + MEM_LIMIT, 0xfff0);
    put_le16(w + PREF_BASE, 0xfff0);
    put_le16(w + PREF_LIMIT, 0xfff0);
    put_le16(c + PREF_BASE, 1);
    put_le16(c + PREF_LIMIT, 1);
    put_le32(w + PREF_BASE_HI, ~0u);
    put_le32(w + PREF_LIMIT_HI, ~0u);
    put_le16(w + BRIDGE_CONTROL, 0x0f7f & ~0x0400);
    put_le16(b->pci.w1cmask + SEC_STATUS, 0xf900);
}

static bool bridge_realize(struct dev *d, struct err **errp)
{
    struct pci_bridge *b = container_of(d, struct pci_bridge, pci.dev);
    const struct bridge_class *k = bridge_class(b);
    struct mem_sys *s = dev_machine(d)->mem_sys;
    struct pci_bus *up = pci_dev_bus(&b->pci);

    bridge_masks(b);
    mem_region_init(&b->mem, s, "pci-bridge-mem", UINT64_MAX);
    mem_region_init(&b->io, s, "pci-bridge-io", 0x10000);
    for (unsigned n = 0; n < NR_WIN; n++)
        mem_region_init_alias(&b->win[n], s, "pci-bridge-window", n == WIN_IO || n >= WIN_VGA_IO_LO ? &b->io : &b->mem,
                              0, 0);
    pci_bus_init(&b->sec, d, d->id, &b->mem, &b->io, 0, k->sec_express);
    b->sec.parent = up;
    b->sec.rom_dirs = up->rom_dirs;
    list_add(&up->child_buses, &b->sec.sib);
    b->pci.child = &b->sec;
    if (k->port_type != 0xff)
        pcie_add_exp_cap(&b->pci, k->port_type);
    b->has_slot = k->has_slot && b->pci.exp_cap;
    if (b->has_slot) {
        b->sec.single_slot = true;
        pci_set_pin(&b->pci, 1);
        slot_init(b);
    }
    return pci_add_msi(&b->pci, 1, errp);
}

static void bridge_unrealize(struct dev *d)
{
    struct pci_bridge *b = container_of(d, struct pci_bridge, pci.dev);

    if (b->has_slot)
        ev_bh_cancel(&b->eject_bh);
    for (unsigned n = 0; n < NR_WIN; n++) {
        mem_region_del(&b->win[n]);
        mem_region_free(&b->win[n]);
    }
    pci_bus_fini(&b->sec);
    mem_region_free(&b->mem);
    mem_region_free(&b->io);
}

static void bridge_reset(struct dev *d)
{
    struct pci_bridge *b = container_of(d, struct pci_bridge, pci.dev);
    uint8_t *c = b->pci.config;

    memset(c + PCI_PRIMARY_BUS, 0, 3);
    memset(c + IO_BASE, 0, IO_LIMIT_HI + 2 - IO_BASE);
    put_le16(c + PREF_BASE, 1);
    put_le16(c + PREF_LIMIT, 1);
    put_le16(c + BRIDGE_CONTROL, 0);
    if (b->has_slot) {
        uint16_t present = b->sec.slot[0] ? SLTSTA_PDS : 0;

        put_le16(slot_regs(b) + PCIE_SLTCTL, b->hotplug ? (uint16_t)(present ? 0x01c0 : 0x07c0) : 0);
        put_le16(slot_regs(b) + PCIE_SLTSTA, present);
    }
    windows_update(b);
}

static const struct prop bridge_props[] = {
    PROP("chassis_nr", u8, struct pci_bridge, chassis),
    PROP("chassis", u8, struct pci_bridge, chassis),
    PROP("slot", u16, struct pci_bridge, slot),
    PROP("port", u8, struct pci_bridge, port),
    PROP("hotplug", bool, struct pci_bridge, hotplug, .dflt = "true"),
    PROP_END,
};
static bool bridge_loaded(void *obj, struct err **errp)
{
    struct pci_bridge *b = obj;

    b->sec.nr = b->pci.config[PCI_SECONDARY_BUS];
    windows_update(b);
    return true;
}
static const struct state_field bridge_fields[] = {STATE_STRUCT(struct pci_bridge, pci, pci_dev_state), STATE_END};
static const struct state_desc bridge_state = {
    .name = "pci-bridge", .version = 1, .fields = bridge_fields, .post_load = bridge_loaded};

#define BRIDGE_CLASS(var, cls_name, text, vid, did, rev, ptype, slot_, secx)                                           \
    static const struct bridge_class var = {.name = cls_name,                                                          \
                                            .parent = "pci-device",                                                    \
                                            .desc = text,                                                              \
                                            .size = sizeof(struct pci_bridge),                                         \
                                            .props = bridge_props,                                                     \
                                            .more_props = pci_props,                                                   \
                                            .bus_type = "PCI",                                                         \
                                            .category = DEV_CAT_BRIDGE,                                                \
                                            .realize = bridge_realize,                                                 \
                                            .unrealize = bridge_unrealize,                                             \
                                            .reset = bridge_reset,                                                     \
                                            .state_desc = &bridge_state,                                               \
                                            .vendor_id = vid,                                                          \
                                            .device_id = did,                                                          \
                                            .revision = rev,                                                           \
                                            .class_id = 0x0604,                                                        \
                                            .is_bridge = true,                                                         \
                                            .is_express = (ptype) != 0xff,                                             \
                                            .cfg_write = bridge_cfg_write,                                             \
                                            .port_type = ptype,                                                        \
                                            .has_slot = slot_,                                                         \
                                            .sec_express = secx};                                                      \
    PCI_REGISTER(var)
BRIDGE_CLASS(class_pci_bridge, "pci-bridge", "Standard PCI Bridge", 0x1b36, 0x0001, 0, 0xff, false, false)
BRIDGE_CLASS(class_root_port, "pcie-root-port", "PCI Express Root Port", 0x1b36, 0x000c, 0, PCIE_TYPE_ROOT_PORT, true,
             true)
BRIDGE_CLASS(class_ioh3420, "ioh3420", "Intel IOH device id 3420 PCIE Root Port", 0x8086, 0x3420, 2,
             PCIE_TYPE_ROOT_PORT, true, true)
BRIDGE_CLASS(class_pcie_pci, "pcie-pci-bridge", "PCI Express to PCI Bridge", 0x1b36, 0x000e, 0, PCIE_TYPE_PCI_BRIDGE,
             false, false)
BRIDGE_CLASS(class_dmi_pci, "i82801b11-bridge", "Intel 82801 DMI-to-PCI Bridge", 0x8086, 0x244e, 0x92, 0xff, false,
             false)
BRIDGE_CLASS(class_upstream, "x3130-upstream", "TI X3130 Upstream Port of PCI Express Switch", 0x104c, 0x8232, 2,
             PCIE_TYPE_UPSTREAM, false, true)
BRIDGE_CLASS(class_downstream, "xio3130-downstream", "TI X3130 Downstream Port of PCI Express Switch", 0x104c, 0x8233,
             1, PCIE_TYPE_DOWNSTREAM, true, true)
