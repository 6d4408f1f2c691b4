/* 82371SB (PIIX3) function 0: PCI-to-ISA bridge with PIRQ routing and reset control; puts the whole south bridge of
 * `pc` together.
 *
 * Intel 82371SB data sheet (290550-002) chapter 2. X-bus chip select, ISA clock and DMA controller options are stored
 * without effect. */
#include "hw/south/parts.h"

#include "base/bytes.h"

enum { PIRQRCA = 0x60, PIRQ_DISABLE = 0x80 };

struct piix3 {
    struct pci_dev pci; /* first */
    struct isa_bus isa;
    struct irq_line *lines[16];
    uint8_t pirq_level; /* bit n: PIRQ n asserted */
    uint16_t driven;    /* ISA lines this router holds up */
    uint8_t rcr;
};

static void route(struct piix3 *p)
{
    uint16_t want = 0, change;

    for (unsigned n = 0; n < 4; n++) {
        uint8_t rc = p->pci.config[PIRQRCA + n];

        if ((p->pirq_level >> n & 1) && !(rc & PIRQ_DISABLE))
            want |= (uint16_t)(1 << (rc & 0xf));
    }
    change = want ^ p->driven;
    p->driven = want;
    for (unsigned i = 0; i < 16; i++)
        if (change >> i & 1)
            irq_set(p->lines[i], want >> i & 1);
}

static int map_irq(struct pci_bus *b, uint8_t devfn, int pin)
{
    return (pin + (devfn >> 3) - 1) & 3;
}
static void set_pirq(void *opaque, int n, int level)
{
    struct piix3 *p = opaque;

    p->pirq_level = (uint8_t)(level ? p->pirq_level | 1 << n : p->pirq_level & ~(1 << n));
    route(p);
}

static void piix3_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    pci_default_cfg_write(d, off, val, size);
    if (off < PIRQRCA + 4 && off + size > PIRQRCA)
        route(container_of(d, struct piix3, pci));
}

static uint8_t rcr_read(void *opaque)
{
    return ((struct piix3 *)opaque)->rcr;
}
static void rcr_write(void *opaque, uint8_t val)
{
    struct piix3 *p = opaque;

    p->rcr = south_reset_control(dev_machine(&p->pci.dev), p->rcr, val);
}

static void piix3_reset(struct dev *dev)
{
    struct piix3 *p = container_of(dev, struct piix3, pci.dev);
    uint8_t *c = p->pci.config;

    put_le16(c + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    put_le16(c + PCI_STATUS, 0x0200);
    memset(c + 0x4c, 0, 0x100 - 0x4c);
    c[0x4c] = 0x4d;
    c[0x4e] = 0x03;
    memset(c + PIRQRCA, PIRQ_DISABLE, 4);
    c[0x69] = 0x02;
    c[0x70] = 0x80;
    c[0x76] = c[0x77] = 0x0c;
    put_le16(c + 0x82, 0);
    c[0xa0] = 0x08;
    c[0xa8] = 0x0f;
    p->rcr = 0;
    route(p);
}

static bool piix3_realize(struct dev *dev, struct err **errp)
{
    struct piix3 *p = container_of(dev, struct piix3, pci.dev);

    put_le16(p->pci.wmask + PCI_COMMAND, 0x0108);
    memset(p->pci.wmask + 0x4c, 0xff, 0x100 - 0x4c);
    isa_bus_init(&p->isa, dev);
    return true;
}

static bool piix3_loaded(void *obj, struct err **errp)
{
    route(obj);
    return true;
}
static void piix3_unrealize(struct dev *dev)
{
    struct pci_bus *b = pci_dev_bus(container_of(dev, struct pci_dev, dev));

    b->map_irq = NULL;
    b->set_irq = NULL;
}
static const struct state_field piix3_fields[] = {STATE_STRUCT(struct piix3, pci, pci_dev_state),
                                                  STATE_U8(struct piix3, pirq_level), STATE_U16(struct piix3, driven),
                                                  STATE_U8(struct piix3, rcr), STATE_END};
static const struct state_desc piix3_state = {
    .name = "PIIX3", .version = 1, .fields = piix3_fields, .post_load = piix3_loaded};
static const struct pci_class piix3_class = {.name = "PIIX3",
                                             .parent = "pci-device",
                                             .desc = "ISA bridge",
                                             .size = sizeof(struct piix3),
                                             .more_props = pci_props,
                                             .bus_type = "PCI",
                                             .category = DEV_CAT_BRIDGE,
                                             .board_only = true,
                                             .realize = piix3_realize,
                                             .unrealize = piix3_unrealize,
                                             .reset = piix3_reset,
                                             .state_version = 1,
                                             .state_desc = &piix3_state,
                                             .vendor_id = 0x8086,
                                             .device_id = 0x7000,
                                             .class_id = 0x0601,
                                             .cfg_write = piix3_write};
PCI_REGISTER(piix3_class)

bool piix3_create(struct machine *m, struct pci_bus *bus, const struct south_cfg *cfg, struct south *out,
                  struct err **errp)
{
    struct pci_dev *d = south_function(m, bus, PCI_DEVFN(1, 0), "PIIX3", true, errp);
    struct piix3 *p;

    if (!d)
        return false;
    p = container_of(d, struct piix3, pci);
    *out = (struct south){.isa = &p->isa, .lpc = d};
    if (!south_parts_create(m, cfg, out, errp))
        return false;
    memcpy(p->lines, out->isa->irq, sizeof p->lines);
    bus->map_irq = map_irq;
    bus->set_irq = set_pirq;
    bus->irq_opaque = p;
    bus->cf9_read = rcr_read;
    bus->cf9_write = rcr_write;
    bus->cf9_opaque = p;
    if (cfg->no_acpi)
        return true;
    out->pm = south_function(m, bus, PCI_DEVFN(1, 3), "PIIX4_PM", false, errp);
    if (!out->pm)
        return false;
    dev_connect(&out->pm->dev, "sci", 0, out->gsi[ACPI_SCI_IRQ]);
    out->acpi = piix4_pm_setup(out->pm, bus, cfg->smm);
    return true;
}
