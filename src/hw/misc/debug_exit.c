/* "isa-debug-exit": a write of v ends the program with status (v << 1) | 1, for tests that run on bare metal. */
#include "dev/dev.h"

struct debug_exit {
    struct dev dev; /* first */
    struct mem_region io;
    uint32_t iobase, iosize; /* properties */
};

static uint64_t exit_read(void *opaque, gpa_t off, unsigned size)
{
    return 0;
}
static void exit_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct machine *m = dev_machine(&((struct debug_exit *)opaque)->dev);

    m->exit_code = (int)(val << 1 | 1);
    m->no_shutdown = false;
    machine_request_shutdown(m, CAUSE_GUEST_SHUTDOWN);
}
static const struct mem_ops exit_ops = {.read = exit_read, .write = exit_write, .valid_max = 4, .impl_max = 4};

static bool exit_realize(struct dev *d, struct err **errp)
{
    struct debug_exit *e = container_of(d, struct debug_exit, dev);

    if (!e->iosize || e->iosize > 0x100 || e->iobase > 0x10000 - e->iosize)
        return err_set(errp, "isa-debug-exit: ports %#x, %u of them, are out of range", e->iobase, e->iosize);
    mem_region_init_io(&e->io, dev_machine(d)->mem_sys, &exit_ops, e, "isa-debug-exit", e->iosize);
    dev_map_io(d, &e->io, (uint16_t)e->iobase);
    return true;
}
static void exit_unrealize(struct dev *d)
{
    mem_region_free(&container_of(d, struct debug_exit, dev)->io);
}
static const struct prop exit_props[] = {
    PROP("iobase", u32, struct debug_exit, iobase, .dflt = "0x501"),
    PROP("iosize", u32, struct debug_exit, iosize, .dflt = "2"),
    PROP_END,
};
static const struct dev_class exit_class = {.name = "isa-debug-exit",
                                            .parent = "isa-device",
                                            .desc = "ends the program with a chosen status",
                                            .size = sizeof(struct debug_exit),
                                            .props = exit_props,
                                            .bus_type = "ISA",
                                            .category = DEV_CAT_MISC,
                                            .state_desc = &state_none,
                                            .realize = exit_realize,
                                            .unrealize = exit_unrealize};
DEV_REGISTER(exit_class)
