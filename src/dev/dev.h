/* Devices and buses: life cycle, wiring, reset.
 *
 * Life: dev_new -> properties set -> dev_realize (plugs into a bus, maps nothing yet seen by the guest until it returns
 * true) -> reset -> ... -> dev_unplug -> dev unrealized and freed. All under the machine lock. A device never sees its
 * board; the board (or the bus) maps its regions and connects its wires. */
#ifndef DEV_DEV_H
#define DEV_DEV_H

#include "base/log.h"
#include "dev/irq.h"
#include "dev/machine.h"
#include "obj/obj.h"
#include "obj/state.h"

enum { DEV_MAX_MMIO = 16 };
enum dev_category {
    DEV_CAT_MISC,
    DEV_CAT_BRIDGE,
    DEV_CAT_USB,
    DEV_CAT_STORAGE,
    DEV_CAT_NETWORK,
    DEV_CAT_INPUT,
    DEV_CAT_DISPLAY,
    DEV_CAT_SOUND,
    DEV_CAT_CPU,
    DEV_CAT_WATCHDOG,
    DEV_CAT_NR
};

struct dev;
struct bus;

struct dev_class {
    struct obj_class; /* name, desc, size, props ... */
    const char
        *bus_type; /* "PCI", "ISA", "virtio-bus", "SCSI", "USB", ... ; NULL: sits on the system bus, board only */
    enum dev_category category;
    bool board_only; /* not creatable with -device */
    bool hotplug;    /* may come and go while the machine runs */
    bool (*realize)(struct dev *d, struct err **errp);
    void (*unrealize)(struct dev *d);
    void (*reset)(struct dev *d);
    unsigned state_version;
    const struct state_field *state;
    const struct state_desc *state_desc; /* instead of `state` when hooks are needed */
};
#define DEV_REGISTER(cls_) OBJ_REGISTER_AS(cls_, dev)

struct dev_wire;
struct dev {
    struct obj obj;   /* must be first */
    struct bus *bus;  /* where it is plugged; borrowed */
    struct list link; /* in bus->devs */
    char *id;         /* owned; NULL when anonymous */
    bool realized;
    bool hotplugged;
    struct list buses;                     /* of struct bus: what this device offers */
    struct mem_region *mmio[DEV_MAX_MMIO]; /* borrowed: embedded in the device */
    unsigned nr_mmio;
    struct list wires; /* of struct dev_wire: named inputs and outputs */
};
static inline const struct dev_class *dev_class(const struct dev *d)
{
    return (const struct dev_class *)d->obj.cls;
}
static inline struct machine *dev_machine(const struct dev *d)
{
    return d->obj.ctx;
}
static inline struct clk *dev_vclk(const struct dev *d)
{
    return dev_machine(d)->run->virt;
}

/* What a kind of bus does when devices come and go. */
struct bus_class {
    const char *type; /* matches dev_class.bus_type */
    /* Checks the device's place and wires it up; runs before the device's own realize. */
    bool (*plug)(struct bus *b, struct dev *d, struct err **errp);
    bool (*plugged)(struct bus *b, struct dev *d, struct err **errp); /* after its realize */
    void (*unplug)(struct bus *b, struct dev *d);
    void (*reset)(struct bus *b); /* before the devices on it */
    /* A guest-cooperative unplug request; NULL = removed at once. */
    bool (*unplug_request)(struct bus *b, struct dev *d, struct err **errp);
    /* Firmware path component for bootindex ("scsi@1,0"), caller frees; may be NULL. */
    char *(*fw_path)(struct dev *d);
    char *(*dev_path)(struct dev *d);
    unsigned max_devs; /* 0 = no limit */
};
struct bus {
    const struct bus_class *cls;
    char *name;        /* owned: "pci.0", "ide.0", "scsi.0" */
    struct dev *owner; /* the device that offers it; NULL for the system bus */
    struct machine *machine;
    struct list devs; /* of struct dev */
    struct list sib;  /* in owner->buses */
    bool hotplug;     /* accepts devices after start */
};
/* name NULL: "<owner id>.N" or "<type lower case>.N". The bus is embedded in the owner. */
void bus_init(struct bus *b, const struct bus_class *c, struct dev *owner, const char *name);
void bus_fini(struct bus *b);
/* First bus of the type with room (breadth first), or by name / device id / path; errors list what exists. */
struct bus *bus_find(struct machine *m, const char *name, const char *type, struct err **errp);

/* Creates (not realized). NULL + error with the nearest name when the class is unknown. */
struct dev *dev_new(struct machine *m, const char *cls, struct err **errp);
/* Convenience for boards; the value is text as in obj_set; aborts only on a programming error (unknown property). */
void dev_prop(struct dev *d, const char *prop, const char *val);
void dev_prop_u64(struct dev *d, const char *prop, uint64_t v);
/* Plugs into bus (NULL: system bus or the class's default), realizes, enters the tree under `id` (may be NULL). Takes
 * over the reference also on failure. */
bool dev_realize(struct dev *d, struct bus *bus, const char *id, struct err **errp);
/* -device: class from opts "driver", bus=, id=, the rest properties. */
struct dev *dev_create(struct machine *m, struct opts *o, struct err **errp);
struct dev *dev_by_id(struct machine *m, const char *id);
/* Removes now: unrealize children first, unparent, DEVICE_DELETED event. */
void dev_remove(struct dev *d);
bool dev_unplug(struct dev *d, struct err **errp); /* device_del: asks the bus */
void dev_reset_tree(struct dev *d);                /* d and everything below it, children last */
void bus_reset_tree(struct bus *b);
void machine_each_dev(struct machine *m, void (*fn)(struct dev *d, void *opaque), void *opaque); /* tree order */
char *dev_fw_path(struct dev *d); /* Open Firmware path for fw_cfg "bootorder"; caller frees */

/* Regions: in realize, declare; the board or bus maps. */
void dev_add_mmio(struct dev *d, struct mem_region *r);
void dev_map_mmio(struct dev *d, unsigned n, gpa_t addr); /* into the machine's memory */
/* Ports go straight to the machine's I/O space. */
void dev_map_io(struct dev *d, struct mem_region *r, uint16_t port);

/* Wires. name NULL is the unnamed group. */
void dev_add_irq_out(struct dev *d, const char *name, struct irq_line **pins, unsigned nr);
void dev_add_irq_in(struct dev *d, const char *name, irq_fn *fn, unsigned nr);        /* fn's opaque is d */
struct irq_line *dev_irq_in(struct dev *d, const char *name, unsigned n);             /* borrowed */
void dev_connect(struct dev *d, const char *name, unsigned n, struct irq_line *line); /* output n -> line */
#define dev_add_irq(d, pin) dev_add_irq_out(d, NULL, pin, 1)
/* Test channel: report changes of every wire in the group, then pass them on (in) or not (out). */
typedef void dev_irq_watch_fn(void *opaque, int n, int level);
bool dev_watch_irqs(struct dev *d, const char *name, bool out, dev_irq_watch_fn *fn, void *opaque);

#endif
