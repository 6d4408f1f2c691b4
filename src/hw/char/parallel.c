/* "isa-parallel": a standard (SPP) printer port that writes what is strobed to a character device.
 *
 * IEEE 1284-1994 compatibility mode and the IBM PC register layout. The peer is always ready. Not modelled: EPP, ECP,
 * reading the other side's data in the bidirectional mode. */
#include "chr/chr.h"
#include "hw/isa/isa.h"

enum { DATA, STATUS, CONTROL };
enum { STS_NOT_BUSY = 0x80, STS_NOT_ACK = 0x40, STS_SELECT = 0x10, STS_NOT_ERROR = 0x08 };
enum { CTL_STROBE = 0x01, CTL_INIT = 0x04, CTL_SELECT = 0x08, CTL_IRQ = 0x10 };
static const uint16_t lpt_base[3] = {0x378, 0x278, 0x3bc};

struct parallel {
    struct dev dev; /* first */
    struct mem_region io;
    struct chr_fe chr;
    uint8_t data, control;
    uint32_t index, iobase, irq; /* properties; ~0 = choose */
};

static uint64_t lpt_read(void *opaque, gpa_t off, unsigned size)
{
    struct parallel *p = opaque;

    switch (off) {
    case DATA:
        return p->data;
    case STATUS:
        return STS_NOT_BUSY | STS_NOT_ACK | STS_SELECT | STS_NOT_ERROR;
    case CONTROL:
        return p->control | 0xc0;
    }
    return 0xff;
}

static void control(struct parallel *p, uint8_t v)
{
    bool strobe = (v & CTL_STROBE) && !(p->control & CTL_STROBE);

    p->control = v & 0x3f;
    if (!strobe)
        return;
    chr_fe_write(&p->chr, &p->data, 1);
    if (v & CTL_IRQ)
        irq_pulse(isa_irq(&p->dev, p->irq)); /* the acknowledge */
}
static void lpt_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct parallel *p = opaque;

    if (off == DATA)
        p->data = (uint8_t)val;
    else if (off == CONTROL)
        control(p, (uint8_t)val);
}
static const struct mem_ops lpt_ops = {.read = lpt_read, .write = lpt_write, .impl_max = 1};

static uint32_t free_index(struct dev *d)
{
    uint32_t used = 0;
    struct dev *it;

    list_each (it, &d->bus->devs, link)
        if (it != d && dev_class(it) == dev_class(d) && container_of(it, struct parallel, dev)->index < 32)
            used |= 1u << container_of(it, struct parallel, dev)->index;
    return (uint32_t)__builtin_ctz(~used);
}

static void lpt_reset(struct dev *d)
{
    struct parallel *p = container_of(d, struct parallel, dev);

    p->data = 0xff;
    p->control = CTL_SELECT | CTL_INIT;
}
static bool lpt_realize(struct dev *d, struct err **errp)
{
    struct parallel *p = container_of(d, struct parallel, dev);

    if (p->index == UINT32_MAX)
        p->index = free_index(d);
    if (p->index >= 3 && p->iobase == UINT32_MAX)
        return err_set(errp, "Max. supported number of parallel ports is 3");
    if (p->iobase == UINT32_MAX)
        p->iobase = lpt_base[p->index];
    if (p->iobase > 0xfff8 || p->irq > 15)
        return err_set(errp, "isa-parallel: iobase %#x or irq %u is out of range", p->iobase, p->irq);
    chr_fe_set(&p->chr, NULL, NULL);
    mem_region_init_io(&p->io, dev_machine(d)->mem_sys, &lpt_ops, p, "parallel", 8);
    dev_map_io(d, &p->io, (uint16_t)p->iobase);
    lpt_reset(d);
    return true;
}
static void lpt_unrealize(struct dev *d)
{
    struct parallel *p = container_of(d, struct parallel, dev);

    chr_fe_fini(&p->chr);
    mem_region_free(&p->io);
}
static const struct prop lpt_props[] = {
    PROP("index", u32, struct parallel, index, .dflt = "4294967295"),
    PROP("iobase", u32, struct parallel, iobase, .dflt = "4294967295"),
    PROP("irq", u32, struct parallel, irq, .dflt = "7"),
    PROP_CHR("chardev", struct parallel, chr),
    PROP_END,
};
static const struct state_field lpt_fields[] = {STATE_U8(struct parallel, data), STATE_U8(struct parallel, control),
                                                STATE_END};
static const struct dev_class lpt_class = {.name = "isa-parallel",
                                           .parent = "isa-device",
                                           .desc = "ISA parallel port (SPP)",
                                           .size = sizeof(struct parallel),
                                           .props = lpt_props,
                                           .bus_type = "ISA",
                                           .category = DEV_CAT_INPUT,
                                           .realize = lpt_realize,
                                           .unrealize = lpt_unrealize,
                                           .reset = lpt_reset,
                                           .state_version = 1,
                                           .state = lpt_fields};
DEV_REGISTER(lpt_class)
