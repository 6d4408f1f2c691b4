/* "isa-debugcon": a port that writes bytes to a character device and reads as a constant, for firmware logs. */
#include "chr/chr.h"
#include "dev/dev.h"

struct debugcon {
    struct dev dev; /* first */
    struct mem_region io;
    struct chr_fe chr;
    uint32_t iobase, readback; /* properties */
};

static uint64_t con_read(void *opaque, gpa_t off, unsigned size)
{
    return ((struct debugcon *)opaque)->readback;
}
static void con_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    uint8_t b = (uint8_t)val;

    chr_fe_write(&((struct debugcon *)opaque)->chr, &b, 1);
}
static const struct mem_ops con_ops = {.read = con_read, .write = con_write, .valid_max = 1, .impl_max = 1};

static bool con_realize(struct dev *d, struct err **errp)
{
    struct debugcon *c = container_of(d, struct debugcon, dev);

    if (!c->chr.chr)
        return err_set(errp, "isa-debugcon: no chardev given; add chardev=ID");
    if (c->iobase > 0xffff)
        return err_set(errp, "isa-debugcon: iobase %#x is out of range", c->iobase);
    chr_fe_set(&c->chr, NULL, NULL);
    mem_region_init_io(&c->io, dev_machine(d)->mem_sys, &con_ops, c, "debugcon", 1);
    dev_map_io(d, &c->io, (uint16_t)c->iobase);
    return true;
}
static void con_unrealize(struct dev *d)
{
    struct debugcon *c = container_of(d, struct debugcon, dev);

    chr_fe_fini(&c->chr);
    mem_region_free(&c->io);
}
static const struct prop con_props[] = {
    PROP("iobase", u32, struct debugcon, iobase, .dflt = "0xe9"),
    PROP("readback", u32, struct debugcon, readback, .dflt = "0xe9"),
    PROP_CHR("chardev", struct debugcon, chr),
    PROP_END,
};
static const struct dev_class con_class = {.name = "isa-debugcon",
                                           .parent = "isa-device",
                                           .desc = "debug console port",
                                           .size = sizeof(struct debugcon),
                                           .props = con_props,
                                           .bus_type = "ISA",
                                           .category = DEV_CAT_MISC,
                                           .state_desc = &state_none,
                                           .realize = con_realize,
                                           .unrealize = con_unrealize};
DEV_REGISTER(con_class)
