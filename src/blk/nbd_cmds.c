/* Exports of a running machine: nbd-server-start, -add, -remove, -stop, block-export-add, -del,
 * query-block-exports. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/export.h"
#include "blk/job_int.h"
#include "blk/nbd.h"
#include <unistd.h>

static bool parse_addr(struct json_object *a, struct nbd_addr *out, struct err **errp)
{
    struct json_object *addr = json_get(a, "addr"), *d = addr ? json_get(addr, "data") : NULL;
    const char *type = addr ? json_get_str(addr, "type") : NULL;

    if (!d) { /* the flat form */
        d = addr;
    }
    if (!type || !d)
        return err_set(errp, "Parameter 'addr' is missing or incomplete");
    if (!strcmp(type, "unix") && json_get_str(d, "path")) {
        out->path = xstrdup(json_get_str(d, "path"));
        return true;
    }
    if (!strcmp(type, "inet") && json_get_str(d, "port")) {
        out->host = xstrdup(json_get_str(d, "host") ? json_get_str(d, "host") : "");
        out->port = xstrdup(json_get_str(d, "port"));
        return true;
    }
    return err_set(errp, "address type '%s' needs path (unix) or host and port (inet)", type);
}

bool nbd_cmd_start(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    const char *tls = json_get_str(a, "tls-creds");
    struct nbd_creds *creds = NULL;
    struct nbd_addr addr = {0};
    int fd;

    if (s->nbd)
        return err_set(errp, "NBD server already running");
    if (tls && !(creds = nbd_creds_find(s, tls, true, errp)))
        return false;
    if (!parse_addr(a, &addr, errp))
        return false;
    fd = nbd_listen(&addr, errp);
    if (fd >= 0) {
        s->nbd = nbd_server_new(s, fd, (unsigned)json_get_int(a, "max-connections", 100));
        nbd_server_set_creds(s->nbd, creds);
        s->nbd->unix_path = addr.path ? xstrdup(addr.path) : NULL;
    }
    nbd_addr_clear(&addr);
    return fd >= 0;
}

bool nbd_cmd_stop(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    if (!s->nbd)
        return err_set(errp, "NBD server not running");
    nbd_server_free(s->nbd);
    s->nbd = NULL;
    return true;
}

static const char *id_of(const struct nbd_export *e)
{
    return e->id ? e->id : e->name;
}

static struct nbd_export *find(struct blk_set *s, const char *id)
{
    struct nbd_export *e;

    list_each (e, &s->nbd->exports, link)
        if (!strcmp(id_of(e), id))
            return e;
    return NULL;
}

/* Contexts for clients: "bitmaps" holds names or {"node": ..., "name": ...}, "bitmap" (nbd-server-add) one name. */
static bool add_contexts(struct blk_set *s, struct nbd_export *e, struct json_object *a, struct err **errp)
{
    struct json_object *v = json_get(a, "bitmaps");
    const char *one = json_get_str(a, "bitmap");

    e->depth = json_get_bool(a, "allocation-depth", false);
    if (one && !nbd_export_add_bitmap(e, NULL, one, errp))
        return false;
    for (size_t i = 0; v && i < json_object_array_length(v); i++) {
        struct json_object *b = json_object_array_get_idx(v, i);
        bool object = json_object_is_type(b, json_type_object);
        const char *name = object ? json_get_str(b, "name") : json_object_get_string(b);
        struct blk_node *n = object ? blk_cmd_node(s, json_get_str(b, "node"), errp) : NULL;

        if ((object && !n) || (!name && !err_set(errp, "a bitmap needs a name")) ||
            !nbd_export_add_bitmap(e, n, name, errp))
            return false;
    }
    return true;
}

static bool export(struct blk_set *s, const char *dev, const char *id, const char *name, struct json_object *a,
                   struct err **errp)
{
    bool writable = json_get_bool(a, "writable", false);
    struct nbd_export *e;
    struct blk *b = dev ? blk_find(s, dev) : NULL;
    struct blk_node *n = b && b->root ? b->root->node : dev ? blk_node_find(s, dev) : NULL;

    if (!s->nbd)
        return err_set(errp, "NBD server not running");
    if (!n)
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Cannot find device='%s' nor node-name='%s'", dev ? dev : "",
                             dev ? dev : "");
    if (writable && blk_node_readonly(n))
        return err_set(errp, "the node '%s' is read-only and cannot be exported writable", dev);
    if (id && find(s, id))
        return err_set(errp, "Block export id '%s' is already in use", id);
    e = nbd_export_add(s->nbd, name ? name : dev, json_get_str(a, "description"), n, writable, errp);
    if (e && !add_contexts(s, e, a, errp)) {
        nbd_export_remove(s->nbd, e);
        return false;
    }
    if (e && id)
        e->id = xstrdup(id);
    return e;
}

bool nbd_cmd_add(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return export(s, json_get_str(a, "device"), NULL, json_get_str(a, "name"), a, errp);
}

static bool drop(struct blk_set *s, const char *id, struct err **errp)
{
    struct nbd_export *e;

    if (!s->nbd)
        return err_set(errp, "NBD server not running");
    e = id ? find(s, id) : NULL;
    if (e)
        nbd_export_remove(s->nbd, e);
    return e || err_set(errp, "Export '%s' is not found", id ? id : "");
}

bool nbd_cmd_remove(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return drop(s, json_get_str(a, "name"), errp);
}

static const struct blk_export_type *const others[] = {&blk_export_vhost_user, &blk_export_fuse};

bool nbd_cmd_export_add(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    const char *type = json_get_str(a, "type"), *id = json_get_str(a, "id"), *name = json_get_str(a, "name");

    if (!type || !id)
        return err_set(errp, "Parameter '%s' is missing", type ? "id" : "type");
    if (blk_export_find(s, id) || (s->nbd && find(s, id)))
        return err_set(errp, "Block export id '%s' is already in use", id);
    if (json_get_str(a, "iothread"))
        return err_set(errp, "exports on an iothread are not available");
    for (unsigned i = 0; i < ARRAY_LEN(others); i++)
        if (!strcmp(type, others[i]->name))
            return blk_export_add(s, others[i], a, errp);
    if (strcmp(type, "nbd") != 0)
        return err_set(errp, "export type '%s' is not available: there are nbd, vhost-user-blk and fuse", type);
    return export(s, json_get_str(a, "node-name"), id, name ? name : json_get_str(a, "node-name"), a, errp);
}

bool nbd_cmd_export_del(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    const char *id = json_get_str(a, "id");
    struct blk_export *e = id ? blk_export_find(s, id) : NULL;

    if (!e)
        return s->nbd ? drop(s, id, errp) : err_set(errp, "Export '%s' is not found", id ? id : "");
    if (e->running && strcmp(json_get_str(a, "mode") ? json_get_str(a, "mode") : "safe", "hard"))
        return err_set(errp, "export '%s' still in use", id);
    blk_export_remove(e);
    return true;
}

bool nbd_cmd_query(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct nbd_export *e;
    struct blk_export *o;

    *ret = json_object_new_array();
    if (s->nbd)
        list_each (e, &s->nbd->exports, link)
            json_object_array_add(*ret, json_make("s:id", id_of(e), "s:type", "nbd", "s:node-name", e->root->node->name,
                                                  "b:shutting-down", 0, NULL));
    list_each (o, &s->exports, link)
        json_object_array_add(*ret, json_make("s:id", o->id, "s:type", o->type->name, "s:node-name",
                                              o->root->node->name, "b:shutting-down", 0, NULL));
    return true;
}
