/* Buses: finding one, walking them. */
#include "base/str.h"
#include "dev/dev_int.h"

#include <ctype.h>

const struct bus_class sysbus_class = {.type = "System"};

void bus_init(struct bus *b, const struct bus_class *c, struct dev *owner, const char *name)
{
    b->cls = c;
    b->owner = owner;
    list_init(&b->devs);
    list_init(&b->sib);
    if (name) {
        b->name = xstrdup(name);
    } else if (owner && owner->id) {
        unsigned n = 0;
        struct bus *it;

        list_each (it, &owner->buses, sib)
            n++;
        b->name = xasprintf("%s.%u", owner->id, n);
    } else {
        b->name = xasprintf("%s.0", c->type);
        for (char *p = b->name; *p; p++)
            *p = (char)tolower((unsigned char)*p);
    }
    if (owner) {
        b->machine = dev_machine(owner);
        list_add(&owner->buses, &b->sib);
    }
}

void bus_fini(struct bus *b)
{
    while (!list_empty(&b->devs))
        dev_remove(list_first(&b->devs, struct dev, link));
    list_del(&b->sib);
    free(b->name);
    b->name = NULL;
}

static unsigned count(const struct bus *b)
{
    unsigned n = 0;

    for (const struct list *l = b->devs.next; l != &b->devs; l = l->next)
        n++;
    return n;
}

/* Depth-first search that prefers the shallowest hit. depth of the hit in *best. */
static void search_type(struct bus *b, const char *type, unsigned depth, struct bus **hit, unsigned *best)
{
    struct dev *d;
    struct bus *sub;

    if (!strcmp(b->cls->type, type) && depth < *best && (!b->cls->max_devs || count(b) < b->cls->max_devs)) {
        *hit = b;
        *best = depth;
    }
    list_each (d, &b->devs, link)
        list_each (sub, &d->buses, sib)
            search_type(sub, type, depth + 1, hit, best);
}

static struct bus *search_name(struct bus *b, const char *name)
{
    struct dev *d;
    struct bus *sub, *hit;

    if (!strcmp(b->name, name))
        return b;
    list_each (d, &b->devs, link) {
        if (d->id && !strcmp(d->id, name) && !list_empty(&d->buses))
            return list_first(&d->buses, struct bus, sib);
        list_each (sub, &d->buses, sib)
            if ((hit = search_name(sub, name)))
                return hit;
    }
    return NULL;
}

static void list_names(struct bus *b, const char *type, struct strbuf *out)
{
    struct dev *d;
    struct bus *sub;

    if (!type || !strcmp(b->cls->type, type))
        str_addf(out, "%s%s", out->len ? ", " : "", b->name);
    list_each (d, &b->devs, link)
        list_each (sub, &d->buses, sib)
            list_names(sub, type, out);
}

struct bus *bus_find(struct machine *m, const char *name, const char *type, struct err **errp)
{
    struct strbuf names = {0};
    struct bus *hit = NULL;
    unsigned best = UINT32_MAX;

    if (name)
        hit = search_name(m->sysbus, name);
    else
        search_type(m->sysbus, type, 0, &hit, &best);
    if (hit && name && type && strcmp(hit->cls->type, type)) {
        err_set(errp, "bus '%s' is a %s bus, not a %s bus", name, hit->cls->type, type);
        hit = NULL;
    } else if (!hit && name) {
        err_set(errp, "there is no bus '%s'", name);
    } else if (!hit) {
        err_set(errp, "no '%s' bus found for the device", type);
        err_hint(errp, "Add a controller that offers a %s bus, or choose a machine that has one.", type);
        return NULL;
    }
    if (!hit) {
        list_names(m->sysbus, type, &names);
        if (names.len)
            err_hint(errp, "Buses it could use: %s", names.s);
        str_free(&names);
    }
    return hit;
}

void bus_reset_tree(struct bus *b)
{
    struct dev *d, *tmp;

    if (b->cls->reset)
        b->cls->reset(b);
    list_each_safe (d, tmp, &b->devs, link)
        dev_reset_tree(d);
}
