/* Ports 80h (power-on self-test codes, kept and readable, often written for its delay) and F0h/F1h (coprocessor error
 * latch).
 *
 * 82371SB data sheet 2.7 (coprocessor error: a write clears the latched FERR# and lowers IRQ 13; output unnamed 0). */
#include "dev/dev.h"

struct postcode {
    struct dev dev; /* first */
    struct mem_region p80, pf0;
    struct irq_line *irq13;
    uint8_t code;
};

static uint64_t p80_read(void *opaque, gpa_t off, unsigned size)
{
    return ((struct postcode *)opaque)->code;
}
static void p80_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    ((struct postcode *)opaque)->code = (uint8_t)val;
}
static const struct mem_ops p80_ops = {.read = p80_read, .write = p80_write, .impl_max = 1};

static uint64_t pf0_read(void *opaque, gpa_t off, unsigned size)
{
    return 0xff;
}
static void pf0_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    irq_set(((struct postcode *)opaque)->irq13, 0);
}
static const struct mem_ops pf0_ops = {.read = pf0_read, .write = pf0_write, .impl_max = 1};

static bool post_realize(struct dev *d, struct err **errp)
{
    struct postcode *p = container_of(d, struct postcode, dev);

    mem_region_init_io(&p->p80, dev_machine(d)->mem_sys, &p80_ops, p, "ioport80", 1);
    mem_region_init_io(&p->pf0, dev_machine(d)->mem_sys, &pf0_ops, p, "ioportF0", 2);
    dev_map_io(d, &p->p80, 0x80);
    dev_map_io(d, &p->pf0, 0xf0);
    dev_add_irq(d, &p->irq13);
    return true;
}
static void post_unrealize(struct dev *d)
{
    struct postcode *p = container_of(d, struct postcode, dev);

    mem_region_free(&p->p80);
    mem_region_free(&p->pf0);
}
static const struct state_field post_fields[] = {STATE_U8(struct postcode, code), STATE_END};
static const struct dev_class post_class = {.name = "pc-ports",
                                            .parent = "isa-device",
                                            .size = sizeof(struct postcode),
                                            .board_only = true,
                                            .realize = post_realize,
                                            .unrealize = post_unrealize,
                                            .state_version = 1,
                                            .state = post_fields};
DEV_REGISTER(post_class)
