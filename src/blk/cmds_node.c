/* Commands on single nodes, by their QMP names: new options for a node in use, image creation as a job, the write
 * threshold. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"
#include <stdio.h>

/* ---- blockdev-reopen ---- */

/* What may differ from how the node was opened; everything else must be what it is. */
enum { MAX_EDGES = 8 };
struct edge {
    struct blk_child *c;
    struct blk_node *to, *from; /* one reference each */
};
struct reopen {
    struct blk_node *n;
    unsigned flags, was_flags;
    bool set_backing;
    struct blk_node *backing;     /* borrowed */
    struct blk_node *was_backing; /* one reference, NULL = none */
    bool detect_zeroes, detect_unmap, was_zeroes, was_unmap;
    struct edge e[MAX_EDGES];
    unsigned nr, moved; /* edges to change, and changed */
    bool backing_moved, switched;
};

/* A child by another node's name: the edge is to lead there. */
static bool plan_child(struct reopen *r, const char *role, struct json_object *v, struct err **errp)
{
    struct blk_child *c;
    struct blk_node *to;

    list_each (c, &r->n->children, in_parent) {
        if (strcmp(c->role, role) != 0 || !json_object_is_type(v, json_type_string))
            continue;
        to = blk_cmd_node(r->n->set, json_object_get_string(v), errp);
        if (!to)
            return false;
        if (to == c->node)
            return true;
        if (r->nr == MAX_EDGES)
            return err_set(errp, "too many children of '%s' are to change", r->n->name);
        blk_node_ref(to);
        blk_node_ref(c->node);
        r->e[r->nr++] = (struct edge){c, to, c->node};
        return true;
    }
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

    flag_to(&r->flags, BLK_O_DIRECT, direct);
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
    return plan_child(r, key, v, errp);
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

/* Read-only or not, direct or not: a leaf opens its file anew for either. */
static bool switch_mode(struct blk_node *n, unsigned flags, struct err **errp)
{
    unsigned was = n->open_flags;

    if ((was ^ flags) & BLK_O_DIRECT && n->drv->kind == BLK_PROTOCOL && n->drv->reopen) {
        n->open_flags = (was & ~(unsigned)BLK_O_DIRECT) | (flags & BLK_O_DIRECT);
        if (!n->drv->reopen(n, was & BLK_O_RDWR, errp)) {
            n->open_flags = was;
            return false;
        }
    }
    return blk_node_reopen(n, flags & BLK_O_RDWR, errp);
}

static bool reopen_steps(struct reopen *r, struct err **errp)
{
    struct blk_node *n = r->n;

    for (; r->moved < r->nr; r->moved++)
        if (!blk_child_retarget(r->e[r->moved].c, r->e[r->moved].to, errp))
            return false;
    if (r->set_backing && (n->backing ? n->backing->node : NULL) != r->backing) {
        r->was_backing = n->backing ? n->backing->node : NULL;
        if (r->was_backing)
            blk_node_ref(r->was_backing);
        if (!blk_node_set_backing(n, r->backing, errp))
            return false;
        r->backing_moved = true;
    }
    r->was_flags = n->open_flags;
    r->was_zeroes = n->detect_zeroes;
    r->was_unmap = n->detect_unmap;
    r->switched = true;
    if (!switch_mode(n, r->flags, errp))
        return false;
    n->open_flags = (r->flags & ~(unsigned)BLK_O_RDWR) | (n->open_flags & BLK_O_RDWR);
    n->detect_zeroes = r->detect_zeroes;
    n->detect_unmap = r->detect_unmap;
    return true;
}

static bool reopen_one(struct reopen *r, struct err **errp)
{
    bool ok;

    blk_cmd_hold(r->n, true);
    blk_node_drain(r->n);
    if (r->nr)
        blk_node_flush_sync(r->n);
    ok = reopen_steps(r, errp);
    blk_cmd_hold(r->n, false);
    return ok;
}

/* As it was, as far as it had come. */
static void reopen_undo(struct reopen *r)
{
    blk_cmd_hold(r->n, true);
    blk_node_drain(r->n);
    if (r->switched) {
        switch_mode(r->n, r->was_flags, NULL);
        r->n->open_flags = r->was_flags;
        r->n->detect_zeroes = r->was_zeroes;
        r->n->detect_unmap = r->was_unmap;
    }
    if (r->backing_moved)
        blk_node_set_backing(r->n, r->was_backing, NULL);
    while (r->moved)
        r->moved--, blk_child_retarget(r->e[r->moved].c, r->e[r->moved].from, NULL);
    blk_cmd_hold(r->n, false);
}

static void reopen_free(struct reopen *r)
{
    for (unsigned i = 0; i < r->nr; i++) {
        blk_node_unref(r->e[i].to);
        blk_node_unref(r->e[i].from);
    }
    if (r->was_backing)
        blk_node_unref(r->was_backing);
}

/* Those that become read-only first: what they held may be what others are to get. */
static bool reopen_all(struct reopen *r, size_t nr, struct err **errp)
{
    size_t *order AUTOFREE = xcalloc(nr, sizeof *order), k = 0;

    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < nr; i++)
            if (!!(r[i].flags & BLK_O_RDWR) == pass)
                order[k++] = i;
    for (k = 0; k < nr; k++) {
        if (reopen_one(&r[order[k]], errp))
            continue;
        for (k++; k-- > 0;)
            reopen_undo(&r[order[k]]);
        return false;
    }
    return true;
}

bool blk_cmd_reopen(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct json_object *list = json_get(a, "options");
    size_t nr = json_object_array_length(list);
    struct reopen *r AUTOFREE = xcalloc(nr ? nr : 1, sizeof *r);
    bool ok = true;

    for (size_t i = 0; ok && i < nr; i++)
        ok = plan_one(s, json_object_array_get_idx(list, i), &r[i], errp);
    for (size_t i = 0; ok && i < nr; i++)
        for (size_t k = 0; ok && k < i; k++)
            if (r[k].n == r[i].n)
                ok = err_set(errp, "node '%s' is named twice", r[i].n->name);
    ok = ok && (!nr || reopen_all(r, nr, errp));
    for (size_t i = 0; i < nr; i++)
        reopen_free(&r[i]);
    return ok;
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

/* ---- x-debug-query-block-graph ---- */

/* Numbers of what stands in the graph: nodes, handles, and other owners of edges (one each). */
struct graph {
    struct json_object *nodes, *edges; /* owned until returned */
    const void *of[4096];              /* number less 1 -> whom */
    unsigned nr;
};

static int64_t graph_id(struct graph *g, const void *who, const char *type, const char *name)
{
    for (unsigned i = 0; i < g->nr; i++)
        if (g->of[i] == who)
            return i + 1;
    if (g->nr == ARRAY_LEN(g->of))
        return 0;
    g->of[g->nr++] = who;
    json_object_array_add(g->nodes,
                          json_make("i:id", (int64_t)g->nr, "s:type", type, "s:name", name ? name : "", NULL));
    return g->nr;
}

static struct json_object *perm_list(unsigned perm)
{
    static const char *const names[] = {"consistent-read", "write", "write-unchanged", "resize"};
    struct json_object *a = json_object_new_array();

    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (perm >> i & 1)
            json_object_array_add(a, json_object_new_string(names[i]));
    return a;
}

static void graph_edge(struct graph *g, const struct blk_child *c)
{
    int64_t parent = c->parent   ? graph_id(g, c->parent, "block-driver", c->parent->name)
                     : c->handle ? graph_id(g, c->handle, "block-backend", c->who)
                                 : graph_id(g, c, "block-job", c->who);
    struct json_object *e = json_make("i:parent", parent, "s:name", c->role, "i:child",
                                      graph_id(g, c->node, "block-driver", c->node->name), NULL);

    json_object_object_add(e, "perm", perm_list(c->perm));
    json_object_object_add(e, "shared-perm", perm_list(c->shared));
    json_object_array_add(g->edges, e);
}

bool blk_cmd_graph(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct graph *g AUTOFREE = xnew(struct graph);
    struct blk_node *n = NULL;
    struct blk_child *c;

    g->nr = 0;
    g->nodes = json_object_new_array();
    g->edges = json_object_new_array();
    while ((n = blk_node_next(s, n))) {
        graph_id(g, n, "block-driver", n->name);
        list_each (c, &n->parents, in_node)
            graph_edge(g, c);
    }
    *ret = json_object_new_object();
    json_object_object_add(*ret, "nodes", g->nodes);
    json_object_object_add(*ret, "edges", g->edges);
    return true;
}
