/* System control port A at 92h: fast A20 (output "a20") and fast reset. 82371SB data sheet chapter 2.6.2. */
#include "dev/dev.h"
#include "hw/misc/misc.h"

enum { FAST_INIT = 1, ALT_A20 = 2 };

struct port92 {
    struct dev dev; /* first */
    struct mem_region io;
    struct irq_line *a20;
    uint8_t val;
};

static uint64_t p92_read(void *opaque, gpa_t off, unsigned size)
{
    return ((struct port92 *)opaque)->val;
}
static void p92_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct port92 *p = opaque;
    bool reset = (val & FAST_INIT) && !(p->val & FAST_INIT);

    p->val = (uint8_t)val;
    irq_set(p->a20, !!(val & ALT_A20));
    if (reset)
        machine_request_reset(dev_machine(&p->dev), CAUSE_GUEST_RESET);
}
static const struct mem_ops p92_ops = {.read = p92_read, .write = p92_write, .impl_max = 1};

void port92_set_a20(struct dev *d, bool on)
{
    struct port92 *p = container_of(d, struct port92, dev);

    p->val = (uint8_t)((p->val & ~ALT_A20) | (on ? ALT_A20 : 0));
}

static void p92_reset(struct dev *d)
{
    struct port92 *p = container_of(d, struct port92, dev);

    p->val = ALT_A20;
    irq_set(p->a20, 1);
}
static bool p92_realize(struct dev *d, struct err **errp)
{
    struct port92 *p = container_of(d, struct port92, dev);

    mem_region_init_io(&p->io, dev_machine(d)->mem_sys, &p92_ops, p, "port92", 1);
    dev_map_io(d, &p->io, 0x92);
    dev_add_irq_out(d, "a20", &p->a20, 1);
    return true;
}
static void p92_unrealize(struct dev *d)
{
    mem_region_free(&container_of(d, struct port92, dev)->io);
}
static const struct state_field p92_fields[] = {STATE_U8(struct port92, val), STATE_END};
static const struct dev_class p92_class = {.name = "port92",
                                           .parent = "isa-device",
                                           .size = sizeof(struct port92),
                                           .board_only = true,
                                           .realize = p92_realize,
                                           .unrealize = p92_unrealize,
                                           .reset = p92_reset,
                                           .state_version = 1,
                                           .state = p92_fields};
DEV_REGISTER(p92_class)
