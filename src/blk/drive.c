/* Drives and nodes by command: -drive, -blockdev, media change, and the set that holds them all. */
#include "base/json.h"
#include "blk/aio.h"
#include "blk/blk_int.h"
#include "blk/export.h"
#include "blk/host.h"
#include "blk/job_int.h"
#include "blk/nbd.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

/* Which set belongs to which machine: a registry of owners, looked up by properties. */
static pthread_mutex_t sets_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list sets = LIST_INIT(sets);

struct blk_set *blk_set_new(struct run *r)
{
    struct blk_set *s = xnew(struct blk_set);

    s->run = r;
    s->loop = r->loop;
    s->next_auto = 100;
    s->thread = (unsigned long)pthread_self();
    list_init(&s->nodes);
    list_init(&s->drives);
    list_init(&s->jobs);
    list_init(&s->exports);
    list_init(&s->throttle_groups);
    list_init(&s->in_registry);
    ev_bh_init(&s->home_bh, s->loop, blk_home_run, s);
    return s;
}

struct ev_loop *blk_set_loop(struct blk_set *s)
{
    struct iothread *t = iothread_self();

    return t ? t->loop : s->loop;
}

void blk_set_free(struct blk_set *s)
{
    struct blk_node *n, *tmp;

    if (!s)
        return;
    blk_home_begin(s); /* for good */
    blk_jobs_stop(s);
    nbd_server_free(s->nbd);
    s->nbd = NULL;
    blk_exports_stop(s);
    while (!list_empty(&s->drives)) {
        struct blk *b = list_first(&s->drives, struct blk, in_set);

        while (b->quiesced)
            blk_unquiesce(b);
        blk_handle_free(b);
    }
again:
    list_each_safe (n, tmp, &s->nodes, in_set)
        if (n->named) {
            n->named = false;
            blk_node_unref(n);
            goto again; /* closing one may have closed others */
        }
    pthread_mutex_lock(&sets_lock);
    list_del(&s->in_registry);
    pthread_mutex_unlock(&sets_lock);
    for (unsigned i = 0; i < ARRAY_LEN(s->aio); i++)
        blk_aio_free(s->aio[i]);
    blk_pool_free(s->pool);
    blk_comp_free(s);
    obj_unref(s->own_objects);
    ev_bh_cancel(&s->home_bh);
    free(s);
}

void blk_set_bind(struct blk_set *s, void *machine_ctx)
{
    pthread_mutex_lock(&sets_lock);
    s->machine = machine_ctx;
    list_del(&s->in_registry);
    list_add(&sets, &s->in_registry);
    pthread_mutex_unlock(&sets_lock);
}

struct blk_set *blk_set_of(void *machine_ctx)
{
    struct blk_set *s, *found = NULL;

    pthread_mutex_lock(&sets_lock);
    list_each (s, &sets, in_registry)
        if (s->machine == machine_ctx)
            found = s;
    pthread_mutex_unlock(&sets_lock);
    return found;
}

/* ---- options of -drive ---- */

static const struct cache_mode {
    const char *name;
    bool direct, no_flush, writethrough;
} cache_modes[] = {
    {"none", true, false, false},   {"off", true, false, false},       {"writeback", false, false, false},
    {"unsafe", false, true, false}, {"directsync", true, false, true}, {"writethrough", false, false, true},
};

bool blk_parse_cache(const char *name, unsigned *flags, bool *writethrough)
{
    for (size_t i = 0; i < ARRAY_LEN(cache_modes); i++) {
        const struct cache_mode *m = &cache_modes[i];

        if (strcmp(m->name, name) != 0)
            continue;
        *flags = (*flags & ~(unsigned)(BLK_O_DIRECT | BLK_O_NO_FLUSH)) | (m->direct ? BLK_O_DIRECT : 0) |
                 (m->no_flush ? BLK_O_NO_FLUSH : 0);
        *writethrough = m->writethrough;
        return true;
    }
    return false;
}

static bool parse_on_error(const char *v, bool is_read, enum blk_on_error *out, struct err **errp)
{
    if (!v)
        return true;
    if (!strcmp(v, "report"))
        *out = BLK_ERR_REPORT;
    else if (!strcmp(v, "ignore"))
        *out = BLK_ERR_IGNORE;
    else if (!strcmp(v, "stop"))
        *out = BLK_ERR_STOP;
    else if (!strcmp(v, "enospc") && !is_read)
        *out = BLK_ERR_ENOSPC;
    else
        return err_set(errp, "'%s' invalid %s error action", v, is_read ? "read" : "write");
    return true;
}

static bool parse_cache_opts(struct blk *b, struct opts *o, unsigned *flags, struct err **errp)
{
    const char *v = opts_get(o, "cache");
    bool wb = true;

    if (v && !blk_parse_cache(v, flags, &b->writethrough))
        return err_set(errp, "invalid cache option '%s': use none, writeback, writethrough, directsync or unsafe", v);
    wb = !b->writethrough;
    if (!opts_bool(o, "cache.writeback", &wb, errp))
        return false;
    b->writethrough = !wb;
    return true;
}

static const char *const drive_keys[] = {"cache",    "cache.writeback", "werror", "rerror", "snapshot", "copy-on-read",
                                         "readonly", "format",          "aio",    "id",     NULL};

/* Reads what belongs to the handle; the rest of o goes to the node. */
static bool take_drive_opts(struct blk *b, struct opts *o, unsigned *flags, bool *snapshot, bool *cor,
                            struct err **errp)
{
    bool ro = false;

    if (!parse_cache_opts(b, o, flags, errp) || !parse_on_error(opts_get(o, "werror"), false, &b->werror, errp) ||
        !parse_on_error(opts_get(o, "rerror"), true, &b->rerror, errp) || !opts_bool(o, "snapshot", snapshot, errp) ||
        !opts_bool(o, "copy-on-read", cor, errp) || !opts_bool(o, "readonly", &ro, errp) ||
        !opts_bool(o, "read-only", &ro, errp))
        return false;
    b->readonly = ro;
    if (ro)
        *flags &= ~(unsigned)BLK_O_RDWR;
    opts_del(o, "read-only");
    return true;
}

/* Options the node understands, made from those of the drive. */
static struct opts *node_opts(struct opts *o, bool plain_file)
{
    struct opts *n = opts_dup(o);
    const char *fmt = opts_peek(o, "format"), *aio = opts_peek(o, "aio");

    if (fmt && !opts_peek(o, "driver"))
        opts_set(n, "driver", fmt);
    if (aio && plain_file)
        opts_set(n, "file.aio", aio);
    for (const char *const *k = drive_keys; *k; k++)
        opts_del(n, *k);
    return n;
}

struct blk_node *blk_node_throwaway(struct blk_set *s, struct blk_node *base, struct err **errp)
{
    const char *dir = getenv("TMPDIR");
    char *path AUTOFREE = xasprintf("%s/vl.XXXXXX", dir && *dir ? dir : "/tmp");
    struct opts *o = opts_new(), *oo = opts_new();
    struct blk_node *n = NULL;
    char num[24];
    int r = blk_host_temporary(s, path);

    if (r < 0) {
        err_set_errno(errp, -r, "Could not create temporary overlay '%s'", path);
        opts_free(oo);
    } else {
        snprintf(num, sizeof num, "%" PRIu64, base->size);
        opts_set(o, "size", num);
        opts_set(oo, "backing", base->name);
        if (!blk_create(s, path, "qcow2", o, errp))
            opts_free(oo);
        else
            n = blk_node_open(s, path, "qcow2", BLK_O_RDWR | BLK_O_NO_FLUSH | BLK_O_UNMAP, oo, errp);
        if (n)
            n->throwaway = true;
        blk_host_unlink(s, path);
    }
    opts_free(o);
    return n;
}

bool blk_cache_mode(const char *name, unsigned *flags)
{
    static const struct {
        const char *name;
        unsigned flags;
    } modes[] = {{"none", BLK_O_DIRECT},
                 {"off", BLK_O_DIRECT},
                 {"writeback", 0},
                 {"unsafe", BLK_O_NO_FLUSH},
                 {"directsync", BLK_O_DIRECT | BLK_O_WRITETHROUGH},
                 {"writethrough", BLK_O_WRITETHROUGH}};

    for (size_t i = 0; i < ARRAY_LEN(modes); i++)
        if (!strcmp(modes[i].name, name)) {
            *flags |= modes[i].flags;
            return true;
        }
    return false;
}

bool blk_discard_mode(const char *name, unsigned *flags)
{
    bool ignore = !strcmp(name, "ignore") || !strcmp(name, "off");

    if (!ignore && strcmp(name, "unmap") != 0 && strcmp(name, "on") != 0)
        return false;
    *flags = ignore ? *flags & ~(unsigned)BLK_O_UNMAP : *flags | BLK_O_UNMAP;
    return true;
}

struct blk_node *blk_node_filtered(struct blk_set *s, const char *driver, struct blk_node *below, struct opts *extra,
                                   struct err **errp)
{
    struct opts *o = blk_opts_or_new(extra);
    struct blk_node *n;

    opts_set(o, "file", below->name);
    n = blk_node_open(s, NULL, driver, below->open_flags & (BLK_O_RDWR | BLK_O_UNMAP), o, errp);
    blk_node_unref(below);
    return n;
}

static bool has_throttle(struct opts *o)
{
    struct opt *e;

    opts_each (e, o)
        if (str_starts(e->key, "throttling.") || str_starts(e->key, "bps") || str_starts(e->key, "iops"))
            return true;
    return false;
}

/* Moves throttling.* (and their short forms) out of o. */
static struct opts *take_throttle(struct opts *o)
{
    struct opts *t = opts_sub(o, "throttling");
    struct opt *e, *tmp;

    list_each_safe (e, tmp, &o->all, link)
        if (str_starts(e->key, "bps") || str_starts(e->key, "iops")) {
            opts_set(t, e->key, e->val);
            opts_del(o, e->key);
            tmp = container_of(o->all.next, struct opt, link);
        }
    return t;
}

static struct blk_node *drive_open(struct blk *b, const char *file, struct opts *o, unsigned flags, bool snapshot,
                                   bool cor, struct err **errp)
{
    bool plain = file && !blk_driver_by_name_prefix(file);
    struct opts *no = node_opts(o, plain || opts_peek(o, "file.filename"));
    struct opts *throttle = has_throttle(no) ? take_throttle(no) : NULL;
    struct blk_node *n, *t;

    if (snapshot)
        flags &= ~(unsigned)BLK_O_RDWR;
    n = blk_node_open(b->set, file, NULL, flags, no, errp);
    if (n && snapshot) {
        t = blk_node_throwaway(b->set, n, errp);
        blk_node_unref(n);
        n = t;
    }
    if (n && cor)
        n = blk_node_filtered(b->set, "copy-on-read", n, NULL, errp);
    if (n && throttle) {
        n = blk_node_filtered(b->set, "throttle", n, throttle, errp);
        throttle = NULL;
    }
    opts_free(throttle);
    return n;
}

/* "file" is a name here, not a node reference, unless no file name prefix or path like it exists. */
static char *take_file(struct opts *o)
{
    const char *v = opts_get(o, "file");
    char *file = v && *v ? xstrdup(v) : NULL;

    opts_del(o, "file");
    return file;
}

static bool names_something(struct opts *o)
{
    struct opt *e;

    opts_each (e, o)
        if (!strcmp(e->key, "driver") || str_starts(e->key, "file."))
            return true;
    return false;
}

struct blk *blk_drive_add(struct blk_set *s, const char *id, struct opts *o, struct err **errp)
{
    BLK_HOME_SCOPE(s);
    char *name AUTOFREE = id ? xstrdup(id) : xasprintf("drive%u", s->next_auto++);
    char *file AUTOFREE = NULL;
    unsigned flags = BLK_O_RDWR | BLK_O_AUTO_RO;
    bool snapshot = false, cor = false;
    struct blk_node *n;
    struct blk *b;

    if (blk_find(s, name)) {
        err_set(errp, "Duplicate ID '%s' for drive", name);
        return NULL;
    }
    o = opts_dup(o);
    b = blk_handle_new(s, name, true);
    file = take_file(o);
    if (!take_drive_opts(b, o, &flags, &snapshot, &cor, errp))
        goto fail;
    b->template_ = opts_dup(o);
    b->template_flags = flags;
    if (!file && !names_something(o)) {
        opts_free(o);
        return b; /* an empty drive */
    }
    n = drive_open(b, file, o, flags, snapshot, cor, errp);
    if (!n)
        goto fail;
    if (!blk_handle_insert(b, n, errp)) {
        blk_node_unref(n);
        goto fail;
    }
    blk_node_unref(n);
    opts_free(o);
    return b;
fail:
    opts_free(o);
    blk_handle_free(b);
    return NULL;
}

/* ---- -blockdev ---- */

bool blk_node_add(struct blk_set *s, struct opts *o, struct err **errp)
{
    BLK_HOME_SCOPE(s);
    struct blk_node *n;

    if (!opts_peek(o, "driver"))
        return err_set(errp, "Parameter 'driver' is missing");
    if (!opts_peek(o, "node-name"))
        return err_set(errp, "'node-name' must be specified for the root node");
    n = blk_node_open(s, NULL, NULL, BLK_O_RDWR, opts_dup(o), errp);
    if (!n)
        return false;
    n->named = true;
    return true;
}

bool blk_node_del(struct blk_set *s, const char *node, struct err **errp)
{
    BLK_HOME_SCOPE(s);
    struct blk_node *n = blk_node_find(s, node);
    struct blk_child *c;

    if (!n)
        return err_set(errp, "Failed to find node with node-name='%s'", node);
    c = list_first(&n->parents, struct blk_child, in_node);
    if (c)
        return err_set(errp, "Node '%s' is busy: node is used as '%s' of '%s'", node, c->role,
                       c->parent ? c->parent->name : c->who);
    if (!n->named)
        return err_set(errp, "Node %s is not owned by the monitor", node);
    n->named = false;
    blk_node_unref(n);
    return true;
}

/* ---- removable media ---- */

static bool tray_opens(struct blk *b, bool force, struct err **errp)
{
    if (!b->ops || !b->ops->is_tray_open)
        return true;
    if (b->ops->is_tray_open(b->ops_opaque))
        return true;
    if (b->ops->is_locked && b->ops->is_locked(b->ops_opaque) && !force) {
        if (b->ops->eject_request)
            b->ops->eject_request(b->ops_opaque, false);
        return err_set(errp, "Device '%s' is locked and force was not specified, wait for tray to open and try again",
                       blk_who(b));
    }
    return true;
}

void blk_tray_moved(struct blk *b, bool open)
{
    char *path AUTOFREE = b->dev ? obj_path(b->dev) : NULL;

    if (b->set->run)
        run_event(b->set->run, "DEVICE_TRAY_MOVED",
                  json_make("s:device", b->is_drive ? b->id : "", "s:id", path ? path : "", "b:tray-open", open, NULL));
}

static bool has_tray(const struct blk *b)
{
    return b->ops && b->ops->is_tray_open;
}

static void take_medium_out(struct blk *b)
{
    struct blk_child *old = b->root;

    if (!old)
        return;
    blk_quiesce(b);
    b->root = NULL;
    if (b->ops && b->ops->media_changed)
        b->ops->media_changed(b->ops_opaque, false);
    blk_child_detach(old);
    blk_unquiesce(b);
}

static bool free_of_jobs(struct blk *b, struct err **errp)
{
    struct blk_job *j;

    list_each (j, &b->set->jobs, link)
        if (b->root && j->status != JOB_CONCLUDED && j->status != JOB_NULL &&
            (j->source == b->root->node || j->target == b->root->node))
            return err_set(errp, "Node '%s' is busy: block device is in use by block job: %s", b->root->node->name,
                           j->id);
    return true;
}

bool blk_drive_del(struct blk_set *s, const char *id, struct err **errp)
{
    BLK_HOME_SCOPE(s);
    struct blk *b = blk_find(s, id);

    if (!b && blk_node_find(s, id))
        return blk_node_del(s, id, errp);
    if (!b)
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    if (!free_of_jobs(b, errp))
        return false;
    if (!b->dev) {
        blk_handle_free(b);
        return true;
    }
    take_medium_out(b);
    b->werror = b->rerror = BLK_ERR_REPORT; /* nobody can mend what a stopped machine would wait for */
    b->is_drive = false;                    /* from here on the device's own: it goes with the device */
    *b->id = 0;
    return true;
}

/* What the drive is opened with from now on; false: no such mode. */
static bool media_mode(struct blk *b, const char *mode, bool *ro, struct err **errp)
{
    *ro = b->readonly;
    if (!mode || !strcmp(mode, "retain"))
        return true;
    *ro = !strcmp(mode, "read-only");
    return *ro || !strcmp(mode, "read-write") ||
           err_set(errp, "Invalid parameter '%s': read-only-mode is one of retain, read-only, read-write", mode);
}

bool blk_change_medium(struct blk *b, const char *file, const char *format, const char *mode, bool force,
                       struct err **errp)
{
    BLK_HOME_SCOPE(b->set);
    struct opts *o = b->template_ ? opts_dup(b->template_) : opts_new();
    struct blk_node *n;
    unsigned flags = b->template_flags;
    bool ok, ro;

    if (!media_mode(b, mode, &ro, errp)) {
        opts_free(o);
        return false;
    }
    if (b->ops && !b->ops->media_changed) {
        opts_free(o);
        return err_set(errp, "Device '%s' is not removable", blk_who(b));
    }
    opts_del(o, "format");
    opts_del(o, "driver");
    opts_del(o, "node-name");
    if (format)
        opts_set(o, "driver", format);
    if (ro != b->readonly)
        flags = ro ? flags & ~(unsigned)BLK_O_RDWR : flags | BLK_O_RDWR;
    n = drive_open(b, file, o, flags | (ro || mode ? 0 : BLK_O_AUTO_RO), false, false, errp);
    opts_free(o);
    if (!n)
        return false;
    ok = tray_opens(b, force, errp);
    if (ok) {
        bool shut = has_tray(b) && !b->ops->is_tray_open(b->ops_opaque);

        take_medium_out(b);
        if (shut)
            blk_tray_moved(b, true);
        b->readonly = ro;
        ok = blk_handle_insert(b, n, errp);
        if (ok && b->ops && b->ops->media_changed)
            b->ops->media_changed(b->ops_opaque, true);
        if (has_tray(b))
            blk_tray_moved(b, false);
    }
    blk_node_unref(n);
    return ok;
}

bool blk_eject(struct blk *b, bool force, struct err **errp)
{
    BLK_HOME_SCOPE(b->set);
    if (b->ops && !b->ops->media_changed && !force)
        return err_set(errp, "Device '%s' is not removable", blk_who(b));
    if (!tray_opens(b, force, errp))
        return false;
    if (has_tray(b) && b->root && !b->ops->is_tray_open(b->ops_opaque))
        blk_tray_moved(b, true);
    take_medium_out(b);
    return true;
}

/* ---- the same in steps ---- */

static bool removable(struct blk *b, struct err **errp)
{
    return !b->ops || b->ops->media_changed || err_set(errp, "Device '%s' is not removable", blk_who(b));
}

bool blk_open_tray(struct blk *b, bool force, struct err **errp)
{
    bool locked = b->ops && b->ops->is_locked && b->ops->is_locked(b->ops_opaque);

    if (!removable(b, errp))
        return false;
    if (!has_tray(b) || b->ops->is_tray_open(b->ops_opaque))
        return true;
    if (locked && b->ops->eject_request)
        b->ops->eject_request(b->ops_opaque, force);
    if (locked && !force)
        return true; /* the guest opens it, which DEVICE_TRAY_MOVED tells */
    b->ops->move_tray(b->ops_opaque, true);
    blk_tray_moved(b, true);
    return true;
}

bool blk_close_tray(struct blk *b, struct err **errp)
{
    if (!removable(b, errp))
        return false;
    if (!has_tray(b) || !b->ops->is_tray_open(b->ops_opaque))
        return true;
    b->ops->move_tray(b->ops_opaque, false);
    blk_tray_moved(b, false);
    return true;
}

static bool tray_is_open(struct blk *b, struct err **errp)
{
    return !has_tray(b) || b->ops->is_tray_open(b->ops_opaque) ||
           err_set(errp, "Tray of device '%s' is not open", blk_who(b));
}

bool blk_remove_medium(struct blk *b, struct err **errp)
{
    BLK_HOME_SCOPE(b->set);
    if (!removable(b, errp) || !tray_is_open(b, errp))
        return false;
    take_medium_out(b);
    return true;
}

bool blk_insert_medium(struct blk *b, const char *node, struct err **errp)
{
    BLK_HOME_SCOPE(b->set);
    struct blk_node *n = blk_node_find(b->set, node);
    struct blk_child *c;

    if (!n)
        return err_set(errp, "Node '%s' not found", node);
    list_each (c, &n->parents, in_node)
        if (c->handle)
            return err_set(errp, "Node '%s' is already in use", node);
    if (!removable(b, errp) || !tray_is_open(b, errp))
        return false;
    if (b->root)
        return err_set(errp, "There already is a medium in device '%s'", blk_who(b));
    if (!blk_handle_insert(b, n, errp))
        return false;
    if (!has_tray(b) && b->ops && b->ops->media_changed)
        b->ops->media_changed(b->ops_opaque, true);
    return true;
}
