/* Commands on single nodes, by their QMP names: new options for a node in use, image creation as a job, the write
 * threshold. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"
#include <stdio.h>

/* ---- blockdev-reopen ---- */

/* What may differ from how the node was opened; everything else must be what it is. */
struct reopen {
    struct blk_node *n;
    unsigned flags;
    bool set_backing;
    struct blk_node *backing;
    bool detect_zeroes, detect_unmap;
};

static bool same_child(struct blk_node *n, const char *role, struct json_object *v, struct err **errp)
{
    struct blk_child *c;

    list_each (c, &n->children, in_parent)
        if (!strcmp(c->role, role) && json_object_is_type(v, json_type_string) &&
            !strcmp(json_object_get_string(v), c->node->name))
            return true;
    return err_set(errp, "Cannot change the option '%s'", role);
}

static bool plan_backing(struct reopen *r, struct json_object *v, struct err **errp)
{
    struct blk_node *n = r->n;

    r->set_backing = true;
    r->backing = NULL;
    if (!n->drv->backing_ok)
        return err_set(errp, "Driver '%s' of node '%s' does not support backing files", n->drv->name, n->name);
    if (!v)
        return true;
    if (!json_object_is_type(v, json_type_string))
        return err_set(errp, "Cannot change the option 'backing': name a node, or null");
    r->backing = blk_cmd_node(n->set, json_object_get_string(v), errp);
    return r->backing;
}

static bool bool_of(struct json_object *v, const char *key, bool *out, struct err **errp)
{
    if (!json_object_is_type(v, json_type_boolean))
        return err_set(errp, "Invalid parameter type for '%s', expected: boolean", key);
    *out = json_object_get_boolean(v);
    return true;
}

static void flag_to(unsigned *flags, unsigned bit, bool on)
{
    *flags = on ? *flags | bit : *flags & ~bit;
}

static bool plan_cache(struct reopen *r, struct json_object *v, struct err **errp)
{
    bool direct = json_get_bool(v, "direct", false), no_flush = json_get_bool(v, "no-flush", false);

    if (direct != !!(r->flags & BLK_O_DIRECT))
        return err_set(errp, "Cannot change the option 'cache.direct'");
    flag_to(&r->flags, BLK_O_NO_FLUSH, no_flush);
    return true;
}

static bool plan_word(struct reopen *r, const char *key, const char *v, struct err **errp)
{
    if (!strcmp(key, "discard") && (!strcmp(v, "unmap") || !strcmp(v, "ignore"))) {
        flag_to(&r->flags, BLK_O_UNMAP, *v == 'u');
        return true;
    }
    if (!strcmp(key, "detect-zeroes") && (!strcmp(v, "off") || !strcmp(v, "on") || !strcmp(v, "unmap"))) {
        r->detect_unmap = *v == 'u';
        r->detect_zeroes = strcmp(v, "off") != 0;
        return true;
    }
    return err_set(errp, "Invalid parameter '%s'", v);
}

static bool plan_member(struct reopen *r, const char *key, struct json_object *v, struct err **errp)
{
    const char *text = v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
    bool on = false;

    if (!strcmp(key, "node-name"))
        return true;
    if (!strcmp(key, "driver"))
        return !strcmp(text, r->n->drv->name) || err_set(errp, "Cannot change the option 'driver'");
    if (!strcmp(key, "read-only") || !strcmp(key, "auto-read-only")) {
        if (!bool_of(v, key, &on, errp))
            return false;
        if (*key == 'a')
            flag_to(&r->flags, BLK_O_AUTO_RO, on);
        else
            flag_to(&r->flags, BLK_O_RDWR, !on);
        return true;
    }
    if (!strcmp(key, "backing"))
        return plan_backing(r, v, errp);
    if (!strcmp(key, "cache"))
        return plan_cache(r, v, errp);
    if (!strcmp(key, "discard") || !strcmp(key, "detect-zeroes"))
        return plan_word(r, key, text, errp);
    if (!strcmp(key, "filename"))
        return !strcmp(text, blk_node_filename(r->n)) || err_set(errp, "Cannot change the option 'filename'");
    return same_child(r->n, key, v, errp);
}

static bool plan_one(struct blk_set *s, struct json_object *x, struct reopen *r, struct err **errp)
{
    const char *name = json_get_str(x, "node-name");

    if (!name)
        return err_set(errp, "node-name not specified");
    r->n = blk_node_find(s, name);
    if (!r->n)
        return err_set(errp, "Failed to find node with node-name='%s'", name);
    r->flags = (r->n->open_flags | BLK_O_RDWR) & ~(unsigned)(BLK_O_NO_FLUSH | BLK_O_UNMAP | BLK_O_AUTO_RO);
    json_object_object_foreach(x, key, v)
    {
        if (!plan_member(r, key, v, errp))
            return false;
    }
    if (r->n->drv->backing_ok && r->n->backing && !r->set_backing)
        return err_set(errp, "backing is missing for '%s'", name);
    if (r->detect_unmap && !(r->flags & BLK_O_UNMAP))
        return err_set(errp,
                       "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    return true;
}

static bool reopen_one(struct reopen *r, struct err **errp)
{
    struct blk_node *n = r->n;

    blk_cmd_hold(n, true);
    blk_node_drain(n);
    if (r->set_backing && (n->backing ? n->backing->node : NULL) != r->backing &&
        !blk_node_set_backing(n, r->backing, errp)) {
        blk_cmd_hold(n, false);
        return false;
    }
    if (!blk_node_reopen(n, r->flags & BLK_O_RDWR, errp)) {
        blk_cmd_hold(n, false);
        return false;
    }
    n->open_flags = (r->flags & ~(unsigned)BLK_O_RDWR) | (n->open_flags & BLK_O_RDWR);
    n->detect_zeroes = r->detect_zeroes;
    n->detect_unmap = r->detect_unmap;
    blk_cmd_hold(n, false);
    return true;
}

bool blk_cmd_reopen(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct json_object *list = json_get(a, "options");
    size_t nr = json_object_array_length(list);
    struct reopen *r AUTOFREE = xcalloc(nr ? nr : 1, sizeof *r);

    for (size_t i = 0; i < nr; i++)
        if (!plan_one(s, json_object_array_get_idx(list, i), &r[i], errp))
            return false;
    for (size_t i = 0; i < nr; i++)
        if (!reopen_one(&r[i], errp))
            return false;
    return true;
}

/* ---- blockdev-create ---- */

/* The creation option a member of the QMP form stands for; NULL with an error. */
static char *option_name(const char *key)
{
    char *k = xstrdup(key);

    for (char *p = k; *p; p++)
        if (*p == '-')
            *p = '_';
    return k;
}

static bool take_create_member(struct blk_set *s, struct blk_job *j, const char *key, struct json_object *v,
                               struct err **errp)
{
    bool boolean = json_object_is_type(v, json_type_boolean);
    const char *text = boolean ? (json_object_get_boolean(v) ? "on" : "off") : json_object_get_string(v);
    char *name AUTOFREE = option_name(key);

    if (!strcmp(key, "driver"))
        return true;
    if (!strcmp(key, "filename")) {
        j->create_file = xstrdup(text);
        return true;
    }
    if (!strcmp(key, "file") || !strcmp(key, "data-file")) {
        struct blk_node *n = json_object_is_type(v, json_type_string)
                                 ? blk_cmd_node(s, text, errp)
                                 : (err_set(errp, "'%s' must be the name of a node", key), NULL);

        if (!n)
            return false;
        job_keep(j, n);
        if (*key == 'f') {
            j->create_file = xstrdup(blk_node_filename(n));
            j->target = n;
        } else {
            opts_set(j->create_opts, name, blk_node_filename(n));
        }
        return true;
    }
    if (!strcmp(key, "version"))
        opts_set(j->create_opts, "compat", !strcmp(text, "v2") ? "0.10" : "1.1");
    else
        opts_set(j->create_opts, name, text);
    return true;
}

bool blk_cmd_create(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct json_object *o = json_get(a, "options");
    const char *fmt = json_get_str(o, "driver");
    const struct blk_driver *d = fmt ? blk_driver_find(fmt) : NULL;
    struct blk_job *j;
    bool ok = true;

    if (!fmt)
        return err_set(errp, "Parameter 'driver' is missing");
    if (!d || !d->create)
        return err_set(errp, "Driver '%s' does not support blockdev-create", fmt);
    j = job_new(s, JOB_CREATE, json_get_str(a, "job-id"), NULL, errp);
    if (!j)
        return false;
    j->auto_dismiss = false;
    j->create_fmt = xstrdup(fmt);
    j->create_opts = opts_new();
    json_object_object_foreach(o, key, v) ok = ok && take_create_member(s, j, key, v, errp);
    if (ok && !j->create_file)
        ok = err_set(errp, "Parameter '%s' is missing", d->kind == BLK_PROTOCOL ? "filename" : "file");
    if (ok && d->kind != BLK_PROTOCOL && d->create_opts)
        ok = blk_create_opts_check(d, j->create_opts, errp);
    if (!ok) {
        job_drop(j);
        return false;
    }
    return job_start(j, errp);
}

/* ---- block-set-write-threshold ---- */

bool blk_cmd_write_threshold(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    const char *name = json_get_str(a, "node-name");
    struct blk_node *n = blk_node_find(s, name);

    if (!n)
        return err_set(errp, "Device '%s' not found", name);
    n->write_threshold = (uint64_t)json_get_int(a, "write-threshold", 0);
    return true;
}
