/* "pc-testdev": ports and memory that bare-metal test programs use to poke the machine from outside.
 *
 * E0h: four bytes that read back what was written. E4h: a doubleword names a page that is dropped from translation
 * caches (by a write to it through the memory core). 2000h-2017h: a byte sets ISA interrupt line n. Memory ff000000h,
 * 64 KiB: a buffer. */
#include "base/bytes.h"
#include "hw/isa/isa.h"

enum { TEST_MEM = 0x10000, TEST_LINES = 24 };

struct testdev {
    struct dev dev; /* first */
    struct mem_region echo, flush, irqs, mem;
    uint8_t port[4], buf[TEST_MEM];
};

static uint64_t echo_read(void *opaque, gpa_t off, unsigned size)
{
    return ((struct testdev *)opaque)->port[off];
}
static void echo_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    ((struct testdev *)opaque)->port[off] = (uint8_t)val;
}
static const struct mem_ops echo_ops = {.read = echo_read, .write = echo_write, .impl_max = 1};

static void flush_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct testdev *t = opaque;
    struct mem_space *as = dev_machine(&t->dev)->mem;
    uint8_t b;

    if (mem_read(as, val, &b, 1) == MEM_OK)
        mem_write(as, val, &b, 1);
}
static const struct mem_ops flush_ops = {
    .write = flush_write, .valid_min = 4, .valid_max = 4, .impl_min = 4, .impl_max = 4};

static void irq_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct testdev *t = opaque;

    if (off < 16)
        irq_set(isa_irq(&t->dev, (unsigned)off), val & 1);
}
static const struct mem_ops irq_ops = {.write = irq_write, .impl_max = 1};

static uint64_t buf_read(void *opaque, gpa_t off, unsigned size)
{
    return get_le(((struct testdev *)opaque)->buf + off, size);
}
static void buf_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    put_le(((struct testdev *)opaque)->buf + off, val, size);
}
static const struct mem_ops buf_ops = {.read = buf_read, .write = buf_write, .impl_max = 8};

static bool test_realize(struct dev *d, struct err **errp)
{
    struct testdev *t = container_of(d, struct testdev, dev);
    struct mem_sys *s = dev_machine(d)->mem_sys;

    mem_region_init_io(&t->echo, s, &echo_ops, t, "pc-testdev-ioport", 4);
    mem_region_init_io(&t->flush, s, &flush_ops, t, "pc-testdev-flush", 4);
    mem_region_init_io(&t->irqs, s, &irq_ops, t, "pc-testdev-irq", TEST_LINES);
    mem_region_init_io(&t->mem, s, &buf_ops, t, "pc-testdev-iomem", TEST_MEM);
    dev_map_io(d, &t->echo, 0xe0);
    dev_map_io(d, &t->flush, 0xe4);
    dev_map_io(d, &t->irqs, 0x2000);
    dev_add_mmio(d, &t->mem);
    dev_map_mmio(d, 0, 0xff000000);
    return true;
}
static void test_unrealize(struct dev *d)
{
    struct testdev *t = container_of(d, struct testdev, dev);

    mem_region_free(&t->echo);
    mem_region_free(&t->flush);
    mem_region_free(&t->irqs);
    mem_region_free(&t->mem);
}
static const struct state_field test_fields[] = {STATE_BYTES(struct testdev, port), STATE_BYTES(struct testdev, buf),
                                                 STATE_END};
static const struct dev_class test_class = {.name = "pc-testdev",
                                            .parent = "isa-device",
                                            .desc = "ports for bare-metal tests",
                                            .size = sizeof(struct testdev),
                                            .bus_type = "ISA",
                                            .category = DEV_CAT_MISC,
                                            .state_version = 1,
                                            .state = test_fields,
                                            .realize = test_realize,
                                            .unrealize = test_unrealize};
DEV_REGISTER(test_class)
