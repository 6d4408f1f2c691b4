/* The ISA bus: devices on it map their own ports and borrow its interrupt lines. Nothing is routed or probed here. */
#include "hw/isa/isa.h"

static char *isa_fw_path(struct dev *d)
{
    return xasprintf("%s", d->obj.cls->name);
}

static const struct bus_class isa_bus_class = {.type = "ISA", .fw_path = isa_fw_path};

static void CONSTRUCTOR isa_families(void)
{
    obj_register_family("isa-device", "device");
}

void isa_bus_init(struct isa_bus *b, struct dev *owner)
{
    bus_init(&b->bus, &isa_bus_class, owner, "isa.0");
}
