/* "pvpanic" (ISA port 505h) and "pvpanic-pci" (1b36:0011, one register in BAR 0): the guest says that it crashed.
 *
 * The register reads as the set of events the host understands; writing an event reports it. */
#include "base/json.h"
#include "hw/pci/pci.h"

enum { PANICKED = 1, CRASH_LOADED = 2 };

static void report(struct machine *m, uint8_t ev, uint8_t understood)
{
    if (ev & ~understood)
        log_guest("pvpanic: unknown event %#x", ev);
    if (ev & understood & PANICKED)
        machine_request_shutdown(m, CAUSE_GUEST_PANIC);
    else if (ev & understood & CRASH_LOADED)
        run_event(m->run, "GUEST_CRASHLOADED", json_make("s:action", "run", NULL));
}

/* ---- ISA ---- */

struct pvpanic {
    struct dev dev; /* first */
    struct mem_region io;
    uint16_t port;
    uint8_t events;
};
static uint64_t isa_read(void *opaque, gpa_t off, unsigned size)
{
    return ((struct pvpanic *)opaque)->events;
}
static void isa_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pvpanic *p = opaque;

    report(dev_machine(&p->dev), (uint8_t)val, p->events);
}
static const struct mem_ops isa_ops = {.read = isa_read, .write = isa_write, .impl_max = 1};
static bool isa_realize(struct dev *d, struct err **errp)
{
    struct pvpanic *p = container_of(d, struct pvpanic, dev);

    mem_region_init_io(&p->io, dev_machine(d)->mem_sys, &isa_ops, p, "pvpanic", 1);
    dev_map_io(d, &p->io, p->port);
    return true;
}
static void isa_unrealize(struct dev *d)
{
    mem_region_free(&container_of(d, struct pvpanic, dev)->io);
}
static const struct prop isa_props[] = {
    PROP("ioport", u16, struct pvpanic, port, .dflt = "0x505"),
    PROP("events", u8, struct pvpanic, events, .dflt = "3", .max = 3),
    PROP_END,
};
static const struct dev_class pvpanic_class = {.name = "pvpanic",
                                               .parent = "isa-device",
                                               .desc = "guest crash notification port",
                                               .size = sizeof(struct pvpanic),
                                               .props = isa_props,
                                               .bus_type = "ISA",
                                               .category = DEV_CAT_MISC,
                                               .state_desc = &state_none,
                                               .realize = isa_realize,
                                               .unrealize = isa_unrealize};
DEV_REGISTER(pvpanic_class)

/* ---- PCI ---- */

struct pvpanic_pci {
    struct pci_dev pci; /* first */
    struct mem_region io;
    uint8_t events;
};
static uint64_t pci_read(void *opaque, gpa_t off, unsigned size)
{
    return off ? 0 : ((struct pvpanic_pci *)opaque)->events;
}
static void pci_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pvpanic_pci *p = opaque;

    if (!off)
        report(dev_machine(&p->pci.dev), (uint8_t)val, p->events);
}
static const struct mem_ops pci_ops = {.read = pci_read, .write = pci_write, .impl_max = 1};
static bool pci_realize(struct dev *d, struct err **errp)
{
    struct pvpanic_pci *p = container_of(d, struct pvpanic_pci, pci.dev);

    mem_region_init_io(&p->io, dev_machine(d)->mem_sys, &pci_ops, p, "pvpanic-pci", 16);
    pci_add_bar(&p->pci, 0, PCI_BAR_MEM, &p->io);
    return true;
}
static void pci_unrealize(struct dev *d)
{
    mem_region_free(&container_of(d, struct pvpanic_pci, pci.dev)->io);
}
static const struct prop pci_props_own[] = {PROP("events", u8, struct pvpanic_pci, events, .dflt = "3", .max = 3),
                                            PROP_END};
static const struct state_field pci_fields[] = {STATE_STRUCT(struct pvpanic_pci, pci, pci_dev_state), STATE_END};
static const struct pci_class pvpanic_pci_class = {.name = "pvpanic-pci",
                                                   .parent = "pci-device",
                                                   .desc = "guest crash notification function",
                                                   .size = sizeof(struct pvpanic_pci),
                                                   .props = pci_props_own,
                                                   .more_props = pci_props,
                                                   .bus_type = "PCI",
                                                   .category = DEV_CAT_MISC,
                                                   .hotplug = true,
                                                   .realize = pci_realize,
                                                   .unrealize = pci_unrealize,
                                                   .state_version = 1,
                                                   .state = pci_fields,
                                                   .vendor_id = 0x1b36,
                                                   .device_id = 0x0011,
                                                   .revision = 1,
                                                   .class_id = 0x0800};
PCI_REGISTER(pvpanic_pci_class)
