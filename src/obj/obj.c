/* Class registry, object life and the object tree. */
#include "obj/obj.h"
#include "base/json.h"
#include "base/str.h"

#include <stdio.h>

/* Filled by constructors before main, read-only afterwards. */
static struct obj_reg *registry;
static struct family {
    const char *name, *parent;
    struct family *next;
} * families;
/* -global settings: filled while the command line is read. */
static struct list globals = LIST_INIT(globals);
struct global {
    struct list link;
    char *driver, *prop, *val;
    bool used;
};

void obj_register(struct obj_reg *r)
{
    struct obj_reg **at = &registry;

    while (*at && strcmp((*at)->cls->name, r->cls->name) < 0)
        at = &(*at)->next;
    r->next = *at;
    *at = r;
}

void obj_register_family(const char *name, const char *parent)
{
    struct family *f = xnew(struct family);

    *f = (struct family){name, parent, families};
    families = f;
}

const struct obj_class *obj_class_find(const char *name)
{
    for (struct obj_reg *r = registry; r; r = r->next) {
        if (!strcmp(r->cls->name, name))
            return r->cls;
        for (const char *const *a = r->cls->aliases; a && *a; a++)
            if (!strcmp(*a, name))
                return r->cls;
    }
    return NULL;
}

const struct obj_class *obj_class_next(const struct obj_class *prev)
{
    struct obj_reg *r = registry;

    if (!prev)
        return r ? r->cls : NULL;
    while (r && r->cls != prev)
        r = r->next;
    return r && r->next ? r->next->cls : NULL;
}

static const char *family_parent(const char *name)
{
    for (struct family *f = families; f; f = f->next)
        if (!strcmp(f->name, name))
            return f->parent;
    return NULL;
}

/* The family a class belongs to by how it was registered. */
static const char *kind_family(const struct obj_class *c)
{
    for (struct obj_reg *r = registry; r; r = r->next)
        if (r->cls == c)
            return !strcmp(r->kind, "obj") ? "object" : !strcmp(r->kind, "board") ? "machine" : "device";
    return "object";
}

bool obj_class_is(const struct obj_class *c, const char *family)
{
    const char *name = c->name, *up = c->parent;

    for (;;) {
        const struct obj_class *k;

        if (!strcmp(name, family))
            return true;
        if (!up)
            return !strcmp(family, "object") || !strcmp(family, kind_family(c));
        name = up;
        k = obj_class_find(name);
        up = k && k->parent && strcmp(k->parent, name) ? k->parent : family_parent(name);
    }
}

/* ---- life ---- */

static const struct prop *table_find(const struct prop *t, const char *name)
{
    for (; t && t->name; t++)
        if (!strcmp(t->name, name))
            return t;
    return NULL;
}

const struct prop *obj_prop_find(const struct obj_class *c, const char *name)
{
    const struct prop *p = table_find(c->props, name);

    return p ? p : table_find(c->more_props, name);
}

const struct prop *obj_prop_next(const struct obj_class *c, const struct prop *prev)
{
    const struct prop *own = c->props, *more = c->more_props;

    if (!prev)
        return own && own->name ? own : more && more->name ? more : NULL;
    if (prev[1].name)
        return prev + 1;
    for (const struct prop *p = own; p && p->name; p++)
        if (p == prev)
            return more && more->name ? more : NULL;
    return NULL;
}

static void *field(struct obj *o, const struct prop *p)
{
    return (char *)o + p->off;
}

static void apply_defaults(struct obj *o)
{
    for (const struct prop *p = obj_prop_next(o->cls, NULL); p; p = obj_prop_next(o->cls, p)) {
        struct err *e = NULL;

        if (p->dflt && !p->type->set(o, p, field(o, p), p->dflt, &e)) {
            fprintf(stderr, "class %s: default of %s: %s\n", o->cls->name, p->name, e ? e->msg : "refused");
            assert(!"a class default its own property refuses");
        }
    }
}

static void apply_globals(struct obj *o)
{
    struct global *g;

    list_each (g, &globals, link)
        if (obj_class_is(o->cls, g->driver) || obj_class_find(g->driver) == o->cls) {
            struct err *e = NULL;

            g->used = true;
            if (!obj_set(o, g->prop, g->val, &e)) {
                err_prefix(&e, "-global %s.%s=%s: ", g->driver, g->prop, g->val);
                warn_report("%s", e->msg);
                err_free(e);
            }
        }
}

struct obj *obj_new(const struct obj_class *c, void *ctx)
{
    struct obj *o = xcalloc(1, max_u64(c->size, sizeof *o));

    o->cls = c;
    o->refs = 1;
    o->ctx = ctx;
    list_init(&o->children);
    list_init(&o->sibling);
    if (c->init)
        c->init(o);
    apply_defaults(o);
    apply_globals(o);
    return o;
}

void obj_ref(struct obj *o)
{
    o->refs++;
}

void obj_unref(struct obj *o)
{
    if (!o || --o->refs)
        return;
    while (!list_empty(&o->children))
        obj_unparent(list_first(&o->children, struct obj, sibling));
    if (o->cls->free)
        o->cls->free(o);
    for (const struct prop *p = obj_prop_next(o->cls, NULL); p; p = obj_prop_next(o->cls, p))
        if (p->type->release)
            p->type->release(o, p, field(o, p));
    free(o->name);
    free(o);
}

bool obj_ready(struct obj *o, struct err **errp)
{
    if (o->is_ready)
        return true;
    if (o->cls->ready && !o->cls->ready(o, errp))
        return false;
    o->is_ready = true;
    return true;
}

/* ---- properties ---- */

static bool unknown_prop(struct obj *o, const char *name, struct err **errp)
{
    struct str_nearest n;

    err_set(errp, "Property '%s.%s' not found", o->cls->name, name);
    str_nearest_init(&n, name);
    for (const struct prop *p = obj_prop_next(o->cls, NULL); p; p = obj_prop_next(o->cls, p))
        str_nearest_try(&n, p->name);
    if (n.best)
        err_hint(errp, "Did you mean '%s'?", n.best);
    return false;
}

/* The property a dotted name is an entry of, or NULL. */
static const struct prop *list_prop(const struct obj *o, const char *name, const char **key)
{
    const char *dot = strchr(name, '.');
    char *head AUTOFREE = dot ? xstrndup(name, (size_t)(dot - name)) : NULL;
    const struct prop *p = dot ? obj_prop_find(o->cls, head) : NULL;

    *key = dot ? dot + 1 : NULL;
    return p && p->type->set_part ? p : NULL;
}

bool obj_set(struct obj *o, const char *name, const char *val, struct err **errp)
{
    const struct prop *p = obj_prop_find(o->cls, name);

    const char *key;

    if (!p && (p = list_prop(o, name, &key)))
        return p->type->set_part(o, p, field(o, p), key, val, errp);
    if (!p)
        return unknown_prop(o, name, errp);
    return p->type->set(o, p, field(o, p), val, errp);
}

bool obj_set_all(struct obj *o, struct opts *opts, const char *const *skip, struct err **errp)
{
    struct opt *e;

    opts_each (e, opts) {
        bool skipped = false;

        for (const char *const *s = skip; s && *s; s++)
            skipped |= !strcmp(*s, e->key);
        if (!skipped && !obj_set(o, e->key, e->val, errp))
            return false;
        e->used |= !skipped;
    }
    return true;
}

char *obj_get(struct obj *o, const char *name, struct err **errp)
{
    const struct prop *p = obj_prop_find(o->cls, name);
    char *s;

    if (!p) {
        unknown_prop(o, name, errp);
        return NULL;
    }
    s = p->type->get ? p->type->get(o, p, field(o, p)) : NULL;
    return s ? s : xstrdup("");
}

struct json_object *obj_get_json(struct obj *o, const char *name, struct err **errp)
{
    const struct prop *p = obj_prop_find(o->cls, name);
    struct json_object *v;
    char *s;

    if (!p) {
        unknown_prop(o, name, errp);
        return NULL;
    }
    if (p->type->get_json)
        return p->type->get_json(o, p, field(o, p));
    s = obj_get(o, name, errp);
    v = s ? json_object_new_string(s) : NULL;
    free(s);
    return v;
}

void obj_global_add(const char *driver, const char *prop, const char *val)
{
    struct global *g = xnew(struct global);

    g->driver = xstrdup(driver);
    g->prop = xstrdup(prop);
    g->val = xstrdup(val);
    list_add(&globals, &g->link);
}

void obj_global_unused(void (*fn)(const char *, const char *, const char *, void *), void *opaque)
{
    struct global *g;

    list_each (g, &globals, link)
        if (!g->used)
            fn(g->driver, g->prop, g->val, opaque);
}

/* ---- tree ---- */

struct obj *obj_child(struct obj *parent, const char *name)
{
    struct obj *c;

    list_each (c, &parent->children, sibling)
        if (!strcmp(c->name, name))
            return c;
    return NULL;
}

void obj_add_child(struct obj *parent, const char *name, struct obj *child)
{
    size_t n = strlen(name);

    assert(!child->parent);
    if (n > 3 && !strcmp(name + n - 3, "[*]")) {
        unsigned i = 0;

        do {
            free(child->name);
            child->name = xasprintf("%.*s[%u]", (int)(n - 3), name, i++);
        } while (obj_child(parent, child->name));
    } else {
        assert(!obj_child(parent, name));
        child->name = xstrdup(name);
    }
    child->parent = parent;
    list_add(&parent->children, &child->sibling);
}

void obj_unparent(struct obj *o)
{
    if (!o->parent)
        return;
    list_del(&o->sibling);
    o->parent = NULL;
    obj_unref(o);
}

static struct obj *home_of(void *machine_ctx)
{
    struct obj *m = machine_ctx;

    return m && m->parent ? m->parent : m;
}

void obj_put_beside(void *machine_ctx, const char *name, struct obj *o)
{
    if (!home_of(machine_ctx) || o->parent)
        return;
    obj_ref(o);
    obj_add_child(home_of(machine_ctx), name, o);
}

struct obj *obj_beside(void *machine_ctx, const char *name, const struct obj_class *cls)
{
    struct obj *home = home_of(machine_ctx), *o = home ? obj_child(home, name) : NULL;

    return o && o->cls == cls ? o : NULL;
}

static struct obj *resolve_parts(struct obj *o, const char *path)
{
    while (o && *path) {
        size_t n = strcspn(path, "/");
        char *part = xstrndup(path, n);

        if (n)
            o = obj_child(o, part);
        free(part);
        path += n + (path[n] == '/');
    }
    return o;
}

static unsigned resolve_anywhere(struct obj *o, const char *path, struct obj **hit)
{
    struct obj *c, *r = resolve_parts(o, path);
    unsigned n = 0;

    if (r && r != o) {
        *hit = r;
        n++;
    }
    list_each (c, &o->children, sibling)
        n += resolve_anywhere(c, path, hit);
    return n;
}

struct obj *obj_resolve(struct obj *root, const char *path)
{
    struct obj *hit = NULL;

    if (*path == '/')
        return resolve_parts(root, path + 1);
    return resolve_anywhere(root, path, &hit) == 1 ? hit : NULL;
}

char *obj_path(const struct obj *o)
{
    char *up, *s;

    if (!o->parent)
        return xstrdup("/");
    up = obj_path(o->parent);
    s = xasprintf("%s%s%s", up, up[1] ? "/" : "", o->name);
    free(up);
    return s;
}

static const struct obj_class container_class = {.name = "container", .size = sizeof(struct obj)};
OBJ_REGISTER(container_class)

struct obj *obj_container(struct obj *parent, const char *name)
{
    struct obj *c = obj_child(parent, name);

    if (!c) {
        c = obj_new(&container_class, parent->ctx);
        obj_add_child(parent, name, c);
    }
    return c;
}
