/* The registry of ways to run a vCPU. Filled before main, read-only afterwards. */
#include "accel/accel.h"

static struct accel_reg *first; /* sorted by name */

void accel_register(struct accel_reg *r)
{
    struct accel_reg **p = &first;

    while (*p && strcmp((*p)->cls->name, r->cls->name) < 0)
        p = &(*p)->next;
    r->next = *p;
    *p = r;
}

const struct accel_class *accel_find(const char *name)
{
    for (struct accel_reg *r = first; r; r = r->next) {
        if (!strcmp(r->cls->name, name))
            return r->cls;
        for (unsigned i = 0; r->cls->aliases && r->cls->aliases[i]; i++)
            if (!strcmp(r->cls->aliases[i], name))
                return r->cls;
    }
    return NULL;
}

const struct accel_class *accel_next(const struct accel_class *prev)
{
    struct accel_reg *r = first;

    while (prev && r && r->cls != prev)
        r = r->next;
    if (prev && r)
        r = r->next;
    return r ? r->cls : NULL;
}
