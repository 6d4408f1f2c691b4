/* Serial ports around the 16550A: "isa-serial" (COM1 to COM4) and "pci-serial" (one port, virtual vendor 1b36:0002). */
#include "hw/char/uart.h"
#include "hw/isa/isa.h"
#include "hw/pci/pci.h"

/* ---- ISA ---- */

static const uint16_t com_base[4] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
static const uint8_t com_irq[4] = {4, 3, 4, 3};

struct isa_serial {
    struct dev dev; /* first */
    struct uart uart;
    uint32_t index, iobase, irq; /* properties; ~0 = choose */
};

static void isa_irq_level(void *opaque, int level)
{
    struct isa_serial *s = opaque;

    irq_set(isa_irq(&s->dev, s->irq), level);
}

/* The first COM number that no other port on the bus has. */
static uint32_t free_index(struct dev *d)
{
    uint32_t used = 0;
    struct dev *it;

    list_each (it, &d->bus->devs, link)
        if (it != d && dev_class(it) == dev_class(d)) {
            struct isa_serial *s = container_of(it, struct isa_serial, dev);

            if (s->index < 32)
                used |= 1u << s->index;
        }
    return (uint32_t)__builtin_ctz(~used);
}

static bool isa_serial_realize(struct dev *d, struct err **errp)
{
    struct isa_serial *s = container_of(d, struct isa_serial, dev);

    if (s->index == UINT32_MAX)
        s->index = free_index(d);
    if (s->index >= 4 && (s->iobase == UINT32_MAX || s->irq == UINT32_MAX))
        return err_set(errp, "Max. supported number of ISA serial ports is 4");
    if (s->iobase == UINT32_MAX)
        s->iobase = com_base[s->index];
    if (s->irq == UINT32_MAX)
        s->irq = com_irq[s->index];
    if (s->iobase > 0xfff8 || s->irq > 15)
        return err_set(errp, "isa-serial: iobase %#x or irq %u is out of range", s->iobase, s->irq);
    uart_init(&s->uart, d, isa_irq_level, s);
    dev_map_io(d, &s->uart.io, (uint16_t)s->iobase);
    return true;
}
static void isa_serial_unrealize(struct dev *d)
{
    uart_fini(&container_of(d, struct isa_serial, dev)->uart);
}
static void isa_serial_reset(struct dev *d)
{
    uart_reset(&container_of(d, struct isa_serial, dev)->uart);
}

static const struct prop isa_serial_props[] = {
    PROP("index", u32, struct isa_serial, index, .dflt = "4294967295"),
    PROP("iobase", u32, struct isa_serial, iobase, .dflt = "4294967295"),
    PROP("irq", u32, struct isa_serial, irq, .dflt = "4294967295"),
    PROP_CHR("chardev", struct isa_serial, uart.chr),
    PROP_END,
};
static const struct state_field isa_serial_fields[] = {STATE_STRUCT(struct isa_serial, uart, uart_state), STATE_END};
static const struct dev_class isa_serial_class = {.name = "isa-serial",
                                                  .parent = "isa-device",
                                                  .desc = "ISA serial port (16550A)",
                                                  .size = sizeof(struct isa_serial),
                                                  .props = isa_serial_props,
                                                  .bus_type = "ISA",
                                                  .category = DEV_CAT_INPUT,
                                                  .realize = isa_serial_realize,
                                                  .unrealize = isa_serial_unrealize,
                                                  .reset = isa_serial_reset,
                                                  .state_version = 1,
                                                  .state = isa_serial_fields};
DEV_REGISTER(isa_serial_class)

/* ---- PCI ---- */

struct pci_serial {
    struct pci_dev pci; /* first */
    struct uart uart;
};

static void pci_irq_level(void *opaque, int level)
{
    pci_set_intx(&((struct pci_serial *)opaque)->pci, level);
}
static bool pci_serial_realize(struct dev *d, struct err **errp)
{
    struct pci_serial *s = container_of(d, struct pci_serial, pci.dev);

    uart_init(&s->uart, d, pci_irq_level, s);
    pci_set_pin(&s->pci, 1);
    pci_add_bar(&s->pci, 0, PCI_BAR_IO, &s->uart.io);
    return true;
}
static void pci_serial_unrealize(struct dev *d)
{
    uart_fini(&container_of(d, struct pci_serial, pci.dev)->uart);
}
static void pci_serial_reset(struct dev *d)
{
    uart_reset(&container_of(d, struct pci_serial, pci.dev)->uart);
}
static const struct prop pci_serial_props[] = {PROP_CHR("chardev", struct pci_serial, uart.chr), PROP_END};
static const struct state_field pci_serial_fields[] = {STATE_STRUCT(struct pci_serial, pci, pci_dev_state),
                                                       STATE_STRUCT(struct pci_serial, uart, uart_state), STATE_END};
static const struct pci_class pci_serial_class = {.name = "pci-serial",
                                                  .parent = "pci-device",
                                                  .desc = "PCI serial port (16550A)",
                                                  .size = sizeof(struct pci_serial),
                                                  .props = pci_serial_props,
                                                  .more_props = pci_props,
                                                  .bus_type = "PCI",
                                                  .category = DEV_CAT_INPUT,
                                                  .hotplug = true,
                                                  .realize = pci_serial_realize,
                                                  .unrealize = pci_serial_unrealize,
                                                  .reset = pci_serial_reset,
                                                  .state_version = 1,
                                                  .state = pci_serial_fields,
                                                  .vendor_id = 0x1b36,
                                                  .device_id = 0x0002,
                                                  .revision = 1,
                                                  .prog_if = 2,
                                                  .class_id = 0x0700};
PCI_REGISTER(pci_serial_class)
