/* Device life cycle. */
#include "base/json.h"
#include "base/str.h"
#include "dev/dev_int.h"

#include <stdio.h>

static const struct obj_class *find_class(const char *name, struct err **errp)
{
    const struct obj_class *c = obj_class_find(name);
    struct str_nearest n;

    if (c && obj_class_is(c, "device"))
        return c;
    err_set(errp, "'%s' is not a valid device model name", name);
    str_nearest_init(&n, name);
    for (c = obj_class_next(NULL); c; c = obj_class_next(c))
        if (obj_class_is(c, "device")) {
            str_nearest_try(&n, c->name);
            for (const char *const *a = c->aliases; a && *a; a++)
                str_nearest_try(&n, *a);
        }
    if (n.best)
        err_hint(errp, "Did you mean '%s'?", n.best);
    else
        err_hint(errp, "-device help lists the models.");
    return NULL;
}

struct dev *dev_new(struct machine *m, const char *name, struct err **errp)
{
    const struct obj_class *c = find_class(name, errp);
    struct dev *d;

    if (!c)
        return NULL;
    assert(c->size >= sizeof *d);
    d = (struct dev *)obj_new(c, m);
    if (!d->buses.next) { /* the class's init may have begun already */
        list_init(&d->buses);
        list_init(&d->wires);
    }
    list_init(&d->link);
    return d;
}

void dev_prop(struct dev *d, const char *prop, const char *val)
{
    struct err *e = NULL;

    if (!obj_set(&d->obj, prop, val, &e)) {
        fprintf(stderr, "%s\n", e->msg);
        err_free(e);
        assert(!"a board set a property its device refuses");
    }
}

void dev_prop_u64(struct dev *d, const char *prop, uint64_t v)
{
    char s[24];

    snprintf(s, sizeof s, "%" PRIu64, v);
    dev_prop(d, prop, s);
}

static struct bus *choose_bus(struct dev *d, struct bus *bus, struct err **errp)
{
    const char *type = dev_class(d)->bus_type;

    if (!type)
        return bus ? bus : dev_machine(d)->sysbus;
    if (!bus)
        return bus_find(dev_machine(d), NULL, type, errp);
    if (!strcmp(bus->cls->type, type))
        return bus;
    err_set(errp, "device '%s' needs a %s bus, but '%s' is a %s bus", d->obj.cls->name, type, bus->name,
            bus->cls->type);
    return NULL;
}

static void unwind(struct dev *d)
{
    list_del(&d->link);
    if (d->bus && d->bus->cls->unplug)
        d->bus->cls->unplug(d->bus, d);
    d->bus = NULL;
}

static void dispose(struct dev *d)
{
    struct machine *m = dev_machine(d);

    mem_region_drop_within(&m->sysmem, d, d->obj.cls->size);
    mem_region_drop_within(&m->sysio, d, d->obj.cls->size);
    while (!list_empty(&d->buses))
        bus_fini(list_first(&d->buses, struct bus, sib));
    dev_wires_free(d);
    free(d->id);
    d->id = NULL;
    if (d->obj.parent)
        obj_unparent(&d->obj);
    else
        obj_unref(&d->obj);
}

static bool realize(struct dev *d, struct bus *bus, const char *id, struct obj *home, const char *name,
                    struct err **errp)
{
    const struct dev_class *c = dev_class(d);

    if (id && !d->id)
        d->id = xstrdup(id);
    d->bus = choose_bus(d, bus, errp);
    if (!d->bus)
        goto fail;
    bus = d->bus;
    if (bus->cls->plug && !bus->cls->plug(bus, d, errp)) {
        d->bus = NULL;
        goto fail;
    }
    obj_add_child(home, name, &d->obj);
    list_add(&bus->devs, &d->link);
    if (c->realize && !c->realize(d, errp)) {
        unwind(d);
        goto fail;
    }
    if (bus->cls->plugged && !bus->cls->plugged(bus, d, errp)) {
        if (c->unrealize)
            c->unrealize(d);
        unwind(d);
        goto fail;
    }
    d->realized = true;
    if (dev_machine(d)->state != RS_PRELAUNCH) {
        d->hotplugged = true;
        dev_reset_tree(d);
    }
    return true;
fail:
    dispose(d);
    return false;
}

bool dev_realize(struct dev *d, struct bus *bus, const char *id, struct err **errp)
{
    struct machine *m = dev_machine(d);

    if (id && obj_child(m->peripheral, id)) {
        err_set(errp, "Duplicate device ID '%s'", id);
        dispose(d);
        return false;
    }
    return realize(d, bus, id, id ? m->peripheral : m->unattached, id ? id : "device[*]", errp);
}

static bool check_creatable(const struct dev_class *c, struct machine *m, struct err **errp)
{
    if (c->board_only) {
        err_set(errp, "device '%s' is part of the machine and cannot be added with -device", c->name);
        return false;
    }
    if (m->state != RS_PRELAUNCH && !c->hotplug)
        return err_set(errp, "Device '%s' does not support hotplugging", c->name);
    return true;
}

struct dev *dev_create(struct machine *m, struct opts *o, struct err **errp)
{
    static const char *const skip[] = {"driver", "id", "bus", NULL};
    const char *driver = opts_get(o, "driver"), *id = opts_get(o, "id"), *busname = opts_get(o, "bus");
    const struct obj_class *c;
    struct bus *bus = NULL;
    struct dev *d;

    if (!driver) {
        err_set(errp, "-device needs a model name");
        err_hint(errp, "-device help lists the models.");
        return NULL;
    }
    c = find_class(driver, errp);
    if (!c || !check_creatable((const struct dev_class *)c, m, errp))
        return NULL;
    if (id && obj_child(m->peripheral, id)) {
        err_set(errp, "Duplicate device ID '%s'", id);
        return NULL;
    }
    if (busname && !(bus = bus_find(m, busname, ((const struct dev_class *)c)->bus_type, errp)))
        return NULL;
    d = dev_new(m, driver, errp);
    if (!d)
        return NULL;
    if (!obj_set_all(&d->obj, o, skip, errp)) {
        dispose(d);
        return NULL;
    }
    if (!realize(d, bus, id, id ? m->peripheral : m->peripheral_anon, id ? id : "device[*]", errp))
        return NULL;
    return d;
}

struct dev *dev_by_id(struct machine *m, const char *id)
{
    return (struct dev *)obj_child(m->peripheral, id);
}

void dev_remove(struct dev *d)
{
    struct machine *m = dev_machine(d);
    char *path = d->obj.parent ? obj_path(&d->obj) : NULL;
    char *id = d->id ? xstrdup(d->id) : NULL;
    bool announce = d->realized && d->hotplugged;

    while (!list_empty(&d->buses)) {
        struct bus *b = list_first(&d->buses, struct bus, sib);

        while (!list_empty(&b->devs))
            dev_remove(list_first(&b->devs, struct dev, link));
        list_del(&b->sib);
        free(b->name);
        b->name = NULL;
    }
    if (d->realized && dev_class(d)->unrealize)
        dev_class(d)->unrealize(d);
    d->realized = false;
    unwind(d);
    dispose(d);
    if (announce || id)
        run_event(m->run, "DEVICE_DELETED", json_make("s:device", id, "s:path", path, NULL));
    free(path);
    free(id);
}

bool dev_unplug(struct dev *d, struct err **errp)
{
    if (!dev_class(d)->hotplug)
        return err_set(errp, "Device '%s' does not support hotplugging", d->id ? d->id : d->obj.cls->name);
    if (d->bus && !d->bus->hotplug)
        return err_set(errp, "Bus '%s' does not support hotplugging", d->bus->name);
    if (d->bus && d->bus->cls->unplug_request)
        return d->bus->cls->unplug_request(d->bus, d, errp);
    dev_remove(d);
    return true;
}

void dev_reset_tree(struct dev *d)
{
    struct bus *b;

    if (dev_class(d)->reset)
        dev_class(d)->reset(d);
    list_each (b, &d->buses, sib)
        bus_reset_tree(b);
}

static void each_on(struct bus *b, void (*fn)(struct dev *, void *), void *opaque)
{
    struct dev *d, *tmp;
    struct bus *sub;

    list_each_safe (d, tmp, &b->devs, link) {
        fn(d, opaque);
        list_each (sub, &d->buses, sib)
            each_on(sub, fn, opaque);
    }
}

void machine_each_dev(struct machine *m, void (*fn)(struct dev *d, void *opaque), void *opaque)
{
    each_on(m->sysbus, fn, opaque);
}

char *dev_fw_path(struct dev *d)
{
    char *up = NULL, *here, *s;

    if (d->bus && d->bus->owner)
        up = dev_fw_path(d->bus->owner);
    here = d->bus && d->bus->cls->fw_path ? d->bus->cls->fw_path(d) : NULL;
    s = xasprintf("%s%s%s", up ? up : "", here ? "/" : "", here ? here : "");
    free(up);
    free(here);
    return s;
}

void dev_add_mmio(struct dev *d, struct mem_region *r)
{
    assert(d->nr_mmio < DEV_MAX_MMIO);
    d->mmio[d->nr_mmio++] = r;
}

void dev_map_mmio(struct dev *d, unsigned n, gpa_t addr)
{
    assert(n < d->nr_mmio);
    mem_region_add(&dev_machine(d)->sysmem, addr, d->mmio[n]);
}

void dev_map_io(struct dev *d, struct mem_region *r, uint16_t port)
{
    mem_region_add(&dev_machine(d)->sysio, port, r);
}
