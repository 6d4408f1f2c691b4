/* The ISA bus: devices on it map their own ports and borrow its interrupt lines. Nothing is routed or probed here. */
#include "hw/isa/isa.h"
#include "base/str.h"
#include <stdlib.h>

/* "fdc@03f0": the class without its prefix, and the port where it has one. */
static char *isa_fw_path(struct dev *d)
{
    const char *name = d->obj.cls->name;
    char AUTOFREE *port = obj_prop_find(d->obj.cls, "iobase") ? obj_get(&d->obj, "iobase", NULL) : NULL;

    name += str_starts(name, "isa-") ? 4 : 0;
    return port ? xasprintf("%s@%04x", name, (unsigned)strtoul(port, NULL, 0)) : xstrdup(name);
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
