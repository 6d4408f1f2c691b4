/* Commands on the graph of a running machine, by their QMP names. Each checks everything first, then acts. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>

/* ---- naming things ---- */

/* The node behind "device" (a drive's id or a device's) or "node-name". */
struct blk_node *blk_cmd_node(struct blk_set *s, const char *name, struct err **errp)
{
    struct blk *b = name ? blk_find(s, name) : NULL;
    struct blk_node *n;

    if (!name) {
        err_set(errp, "Parameter 'device' is missing");
        return NULL;
    }
    if (b && !b->root) {
        err_set(errp, "Device '%s' has no medium", name);
        return NULL;
    }
    n = b ? b->root->node : blk_node_find(s, name);
    if (!n)
        err_set(errp, "Cannot find device='%s' nor node-name='%s'", name, name);
    return n;
}

/* The node of a command that has both ways to name one; an unknown name is told as it was given. */
static struct blk_node *either_node(struct blk_set *s, const char *dev, const char *node, struct err **errp)
{
    struct blk_node *n = blk_cmd_node(s, node ? node : dev, errp);

    if (!n && errp && *errp && str_starts((*errp)->msg, "Cannot find device=")) {
        err_free(*errp);
        *errp = NULL;
        err_set(errp, "Cannot find device='%s' nor node-name='%s'", dev && !node ? dev : "", node ? node : "");
    }
    return n;
}

static struct blk_node *arg_node(struct blk_set *s, struct json_object *a, struct err **errp)
{
    const char *d = json_get_str(a, "device"), *n = json_get_str(a, "node-name");

    return n || d ? either_node(s, d, n, errp) : blk_cmd_node(s, json_get_str(a, "node"), errp);
}

/* One file by two names, of which one may be relative to where the program was started? */
static bool same_path(const char *a, const char *b)
{
    char *x, *y;
    bool same;

    if (!strcmp(a, b))
        return true;
    x = realpath(a, NULL);
    y = x ? realpath(b, NULL) : NULL;
    same = y && !strcmp(x, y);
    free(x);
    free(y);
    return same;
}

/* The layer of top's chain that a file name, as recorded or in full, means. */
static struct blk_node *in_chain(struct blk_node *top, const char *file)
{
    for (struct blk_node *n = top; n; n = blk_node_cow(n)) {
        char *path AUTOFREE = blk_path_combine(blk_node_filename(top), file);

        if (!strcmp(n->name, file) || !strcmp(blk_node_filename(n), path) || same_path(blk_node_filename(n), file))
            return n;
    }
    return NULL;
}

static struct blk_node *overlay_of(struct blk_node *top, const struct blk_node *below)
{
    for (; top; top = blk_node_cow(top))
        if (blk_node_cow(top) == below)
            return top;
    return NULL;
}

void blk_cmd_hold(struct blk_node *n, bool hold)
{
    struct blk_child *c, *tmp;

    list_each_safe (c, tmp, &n->parents, in_node) {
        if (c->handle && hold)
            blk_quiesce(c->handle);
        else if (c->handle)
            blk_unquiesce(c->handle);
        else if (c->parent)
            blk_cmd_hold(c->parent, hold);
        else if (hold)
            c->held++;
        else
            c->held--;
    }
}

/* ---- overlays ---- */

/* `over`, opened without a backing file, goes on top of `n` for everybody above n. */
static bool put_on_top(struct blk_node *n, struct blk_node *over, struct err **errp)
{
    bool ok;

    blk_cmd_hold(n, true);
    blk_node_drain(n);
    ok = blk_node_set_backing(over, n, errp) && blk_node_replace(n, over, NULL, errp);
    blk_cmd_hold(ok ? over : n, false);
    if (!ok)
        blk_node_set_backing(over, NULL, NULL);
    else
        blk_node_reopen(n, false, NULL);
    return ok;
}

/* The file of an overlay, made unless "mode" says it exists, opened without its backing file; NULL with an error. */
static struct blk_node *open_overlay(struct blk_set *s, struct json_object *a, struct blk_node *n, struct err **errp)
{
    const char *file = json_get_str(a, "snapshot-file"), *fmt = json_get_str(a, "format"),
               *mode = json_get_str(a, "mode");
    struct blk_node *u = blk_node_unfiltered(n);
    struct opts *o;
    char num[24];
    bool ok;

    if (!fmt)
        fmt = "qcow2";
    if (blk_node_readonly(n)) {
        err_set(errp, "Device '%s' is read only", n->name);
        return NULL;
    }
    if (!strcmp(blk_node_filename(u), file)) {
        err_set(errp, "the new overlay '%s' is the image in use", file);
        return NULL;
    }
    if (json_get_str(a, "snapshot-node-name") && blk_node_find(s, json_get_str(a, "snapshot-node-name"))) {
        err_set(errp, "New overlay node-name already in use");
        return NULL;
    }
    if (!mode || strcmp(mode, "existing") != 0) {
        o = opts_new();
        snprintf(num, sizeof num, "%" PRIu64, n->size);
        opts_set(o, "size", num);
        opts_set(o, "backing_file", blk_node_filename(u));
        opts_set(o, "backing_fmt", u->drv->name);
        ok = blk_create(s, file, fmt, o, errp);
        opts_free(o);
        if (!ok)
            return NULL;
    }
    o = opts_new();
    if (json_get_str(a, "snapshot-node-name"))
        opts_set(o, "node-name", json_get_str(a, "snapshot-node-name"));
    return blk_node_open(s, file, fmt, (n->open_flags & ~(unsigned)BLK_O_FROM_IMAGE) | BLK_O_NO_BACKING, o, errp);
}

bool blk_cmd_overlay(struct blk_set *s, const char *cmd, struct json_object *a, struct blk_node **base,
                     struct blk_node **over, struct err **errp)
{
    bool sync = !strcmp(cmd, "blockdev-snapshot-sync"), ok = false;
    struct blk_node *n = sync ? arg_node(s, a, errp) : blk_cmd_node(s, json_get_str(a, "node"), errp), *o;

    if (!n)
        return false;
    if (sync) {
        o = open_overlay(s, a, n, errp);
    } else {
        o = blk_cmd_node(s, json_get_str(a, "overlay"), errp);
        if (o)
            blk_node_ref(o);
    }
    if (!o)
        return false;
    if (o->backing)
        err_set(errp, "The overlay already has a backing image");
    else if (!o->drv->backing_ok)
        err_set(errp,
                sync ? "Driver '%s' does not support backing files" : "The overlay does not support backing images",
                o->drv->name);
    else if (!list_empty(&o->parents))
        err_set(errp, "The overlay is already in use");
    else
        ok = put_on_top(n, o, errp);
    *base = n;
    *over = o;
    if (!ok)
        blk_node_unref(o);
    return ok;
}

static bool cmd_snapshot_sync(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n, *over;
    bool ok = blk_cmd_overlay(s, "blockdev-snapshot-sync", a, &n, &over, errp);

    if (ok)
        blk_node_unref(over);
    return ok;
}

static bool cmd_snapshot(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n, *over;
    bool ok = blk_cmd_overlay(s, "blockdev-snapshot", a, &n, &over, errp);

    if (ok)
        blk_node_unref(over);
    return ok;
}

/* ---- jobs that take a source and a target ---- */

static bool parse_on_error(struct json_object *a, const char *key, enum job_on_error *out, struct err **errp)
{
    const char *v = json_get_str(a, key);

    if (!v || !strcmp(v, "report") || !strcmp(v, "auto"))
        *out = JOB_ERR_REPORT;
    else if (!strcmp(v, "ignore"))
        *out = JOB_ERR_IGNORE;
    else if (!strcmp(v, "enospc"))
        *out = JOB_ERR_ENOSPC;
    else if (!strcmp(v, "stop"))
        *out = JOB_ERR_STOP;
    else
        return err_set(errp, "Invalid parameter '%s'", v);
    return true;
}

static bool take_common(struct blk_job *j, struct json_object *a, struct err **errp)
{
    int64_t gran = json_get_int(a, "granularity", 0), buf = json_get_int(a, "buf-size", 0);
    const char *mode = json_get_str(a, "copy-mode");

    if (json_get_int(a, "speed", 0) < 0)
        return err_set(errp, "Parameter 'speed' expects a non-negative value");
    j->speed = (uint64_t)json_get_int(a, "speed", 0);
    j->auto_dismiss = json_get_bool(a, "auto-dismiss", true);
    j->auto_finalize = json_get_bool(a, "auto-finalize", true);
    j->auto_complete = json_get_bool(a, "auto-complete", false);
    j->no_unmap = !json_get_bool(a, "unmap", true);
    j->compress = json_get_bool(a, "compress", false);
    if (gran && (gran < 512 || gran > 64 << 20 || !is_pow2((uint64_t)gran)))
        return err_set(errp, "Parameter 'granularity' expects a power of 2 in range [512B, 64MB]");
    if (gran)
        j->gran = (uint32_t)gran;
    if (buf < 0)
        return err_set(errp, "Parameter 'buf-size' expects a non-negative value");
    if (mode && strcmp(mode, "background") != 0 && strcmp(mode, "write-blocking") != 0)
        return err_set(errp, "Invalid parameter '%s'", mode);
    j->active = mode && !strcmp(mode, "write-blocking");
    return parse_on_error(a, "on-source-error", &j->on_source_error, errp) &&
           parse_on_error(a, "on-target-error", &j->on_target_error, errp) &&
           (!json_get_str(a, "on-error") || (parse_on_error(a, "on-error", &j->on_source_error, errp) &&
                                             parse_on_error(a, "on-error", &j->on_target_error, errp)));
}

static const char *device_id(struct blk_set *s, struct json_object *a)
{
    const char *d = json_get_str(a, "device");

    return d && blk_find(s, d) ? d : NULL;
}

/* The job that reads from, writes to or keeps n; NULL = none. */
static struct blk_job *job_on(struct blk_set *s, const struct blk_node *n)
{
    struct blk_job *j;

    list_each (j, &s->jobs, link)
        if (j->status != JOB_CONCLUDED && j->status != JOB_NULL && (j->source == n || j->target == n))
            return j;
    return NULL;
}

static bool takes_over(const struct blk_job *j)
{
    return j->type == JOB_MIRROR || (j->type == JOB_COMMIT && !j->overlay);
}

/* Two jobs that put another node in the place of the same one would each pull it from under the other. */
static bool may_take_over(struct blk_job *j, struct err **errp)
{
    struct blk_job *k;

    list_each (k, &j->set->jobs, link)
        if (k != j && takes_over(j) && takes_over(k) && k->source == j->source && k->status != JOB_CONCLUDED)
            return err_set(errp, "Node '%s' is busy: block device is in use by block job: %s", j->source->name, k->id);
    return true;
}

static bool claim_nodes(struct blk_job *j, struct err **errp)
{
    if (!may_take_over(j, errp))
        return false;
    job_keep(j, j->source);
    if (j->target)
        job_keep(j, j->target);
    if (j->overlay)
        job_keep(j, j->overlay);
    if (j->target && j->type != JOB_STREAM) {
        j->target_edge =
            blk_child_root(j->target, j->id, BLK_PERM_READ | BLK_PERM_WRITE, BLK_PERM_READ | BLK_PERM_WRITE_SAME, errp);
        if (!j->target_edge)
            return false;
    }
    return true;
}

/* Every edge that leads down to `base` lets it be written while the job runs. */
static void allow_base_writes(struct blk_job *j, struct blk_node *top)
{
    for (struct blk_node *n = top; n && n != j->target; n = blk_node_cow(n)) {
        n->backing_rw = true;
        if (n != j->source && n != j->overlay && j->nr_kept < 6)
            job_keep(j, n);
    }
    blk_perm_update(top, NULL);
}

static bool cmd_commit(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    const char *base_name = json_get_str(a, "base-node"), *top_name = json_get_str(a, "top-node");
    const char *device = json_get_str(a, "device");
    struct blk_node *active, *top, *base;
    struct blk_job *j;

    if (device && !blk_find(s, device) && !blk_node_find(s, device))
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", device);
    active = arg_node(s, a, errp);
    if (!active)
        return false;
    if (json_get_str(a, "backing-file") && !top_name && !json_get_str(a, "top"))
        return err_set(errp, "'backing-file' specified, but 'top' is the active layer");
    active = blk_node_unfiltered(active);
    if (!base_name)
        base_name = json_get_str(a, "base");
    if (!top_name)
        top_name = json_get_str(a, "top");
    top = top_name ? in_chain(active, top_name) : active;
    if (!top)
        return err_set(errp, "Top image file %s not found", top_name);
    if (base_name) {
        base = blk_node_cow(top) ? in_chain(blk_node_cow(top), base_name) : NULL;
        if (!base)
            return err_set(errp, "Can't find '%s' in the backing chain", base_name);
    } else {
        for (base = blk_node_cow(top); base && blk_node_cow(base);)
            base = blk_node_cow(base);
        if (!base)
            return err_set(errp, "There is no backing file to commit into");
    }
    j = job_new(s, JOB_COMMIT, json_get_str(a, "job-id"), device_id(s, a), errp);
    if (!j)
        return false;
    j->source = top;
    j->target = base;
    j->overlay = top == active ? NULL : overlay_of(active, top);
    if (json_get_str(a, "backing-file"))
        j->backing_name = xstrdup(json_get_str(a, "backing-file"));
    allow_base_writes(j, active);
    if (!take_common(j, a, errp) || !blk_node_reopen(base, true, errp) || !claim_nodes(j, errp) ||
        (base->size < top->size && blk_node_truncate(base, top->size, BLK_PREALLOC_OFF, errp) < 0)) {
        job_drop(j);
        return false;
    }
    return job_start(j, errp);
}

static bool cmd_stream(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n = arg_node(s, a, errp);
    const char *base = json_get_str(a, "base-node");
    struct blk_job *j;

    if (!n)
        return false;
    n = blk_node_unfiltered(n);
    if (!base)
        base = json_get_str(a, "base");
    if (blk_node_readonly(n))
        return err_set(errp, "Block node is read-only");
    j = job_new(s, JOB_STREAM, json_get_str(a, "job-id"), device_id(s, a), errp);
    if (!j)
        return false;
    j->source = n;
    j->target = base && blk_node_cow(n) ? in_chain(blk_node_cow(n), base) : NULL;
    if (base && !j->target)
        err_set(errp, "Can't find '%s' in the backing chain", base);
    if (json_get_str(a, "backing-file"))
        j->backing_name = xstrdup(json_get_str(a, "backing-file"));
    if ((base && !j->target) || !take_common(j, a, errp) || !claim_nodes(j, errp)) {
        job_drop(j);
        return false;
    }
    return job_start(j, errp);
}

static bool parse_sync(const char *v, enum job_sync *out, struct err **errp)
{
    *out = SYNC_FULL;
    if (!v)
        return err_set(errp, "Parameter 'sync' is missing");
    if (!strcmp(v, "top"))
        *out = SYNC_TOP;
    else if (!strcmp(v, "none"))
        *out = SYNC_NONE;
    else if (!strcmp(v, "incremental") || !strcmp(v, "bitmap"))
        *out = SYNC_BITMAP;
    else if (strcmp(v, "full") != 0)
        return err_set(errp, "Invalid parameter '%s'", v);
    return true;
}

/* drive-mirror and drive-backup make their target file. */
static struct blk_node *make_target(struct blk_set *s, struct json_object *a, struct blk_node *src, enum job_sync sync,
                                    bool *fresh, struct err **errp)
{
    const char *file = json_get_str(a, "target"), *fmt = json_get_str(a, "format"), *mode = json_get_str(a, "mode");
    struct blk_node *back = sync == SYNC_TOP ? blk_node_cow(src) : sync == SYNC_NONE ? src : NULL;
    struct opts *o;
    char num[24];
    bool ok = true;

    if (!file) {
        err_set(errp, "Parameter 'target' is missing");
        return NULL;
    }
    if (!fmt)
        fmt = mode && !strcmp(mode, "existing") ? NULL : src->drv->name;
    *fresh = !mode || strcmp(mode, "existing") != 0;
    if (*fresh) {
        o = opts_new();
        snprintf(num, sizeof num, "%" PRIu64, src->size);
        opts_set(o, "size", num);
        if (back) {
            opts_set(o, "backing_file", blk_node_filename(back));
            opts_set(o, "backing_fmt", back->drv->name);
        }
        ok = blk_create(s, file, fmt, o, errp);
        opts_free(o);
    }
    o = opts_new();
    if (json_get_str(a, "node-name"))
        opts_set(o, "node-name", json_get_str(a, "node-name"));
    if (ok)
        return blk_node_open(s, file, fmt, BLK_O_RDWR | BLK_O_UNMAP | (back ? 0 : BLK_O_NO_BACKING), o, errp);
    opts_free(o);
    return NULL;
}

/* What is to be copied where; *dst gets a reference. */
static bool copy_ends(struct blk_set *s, struct json_object *a, bool by_file, enum job_sync sync, struct blk_node *src,
                      struct blk_node **dst, bool *fresh, struct err **errp)
{
    *fresh = false;
    if (by_file)
        *dst = make_target(s, a, src, sync, fresh, errp);
    else if ((*dst = blk_cmd_node(s, json_get_str(a, "target"), errp)))
        blk_node_ref(*dst);
    if (!*dst)
        return false;
    if (*dst != src && (*dst)->size >= src->size)
        return true;
    err_set(errp, *dst == src ? "Source and target cannot be the same" : "The target is smaller than the source");
    blk_node_unref(*dst);
    return false;
}

static bool take_bitmap(struct blk_job *j, struct json_object *a, struct err **errp)
{
    const char *bm = json_get_str(a, "bitmap"), *mode = json_get_str(a, "bitmap-mode"), *sync = json_get_str(a, "sync");

    if (!bm && j->sync == SYNC_BITMAP)
        return err_set(errp, "must provide a valid bitmap name for '%s' sync mode", sync);
    if (!bm)
        return !mode || err_set(errp, "Cannot specify bitmap sync mode without a bitmap");
    if (mode && !strcmp(sync, "incremental") && strcmp(mode, "on-success") != 0)
        return err_set(errp, "Bitmap sync mode must be '%s' when using sync mode '%s'", "on-success", sync);
    j->bitmap = blk_bitmap_find(j->source, bm);
    if (!j->bitmap)
        return err_set(errp, "Bitmap '%s' could not be found", bm);
    if (!mode && strcmp(sync, "incremental") != 0)
        return err_set(errp, "Bitmap sync mode must be given when providing a bitmap");
    if (j->sync == SYNC_NONE)
        return err_set(errp, "sync mode 'none' does not produce meaningful bitmap outputs");
    if (j->bitmap->busy)
        return err_set(errp, "Bitmap '%s' is currently in use by another operation and cannot be used", bm);
    if (mode && !strcmp(mode, "never") && j->sync != SYNC_BITMAP)
        return err_set(errp, "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '%s'",
                       sync);
    j->bitmap_mode = !mode || !strcmp(mode, "on-success") ? BITMAP_ON_SUCCESS
                     : !strcmp(mode, "never")             ? BITMAP_NEVER
                                                          : BITMAP_ALWAYS;
    return true;
}

static bool take_replaces(struct blk_job *j, struct json_object *a, struct err **errp)
{
    const char *name = json_get_str(a, "replaces");

    if (!name)
        return true;
    j->replaces = blk_cmd_node(j->set, name, errp);
    if (j->replaces)
        job_keep(j, j->replaces);
    return j->replaces;
}

static struct blk_job *make_copy(struct blk_set *s, struct json_object *a, enum job_type type, bool by_file,
                                 struct err **errp)
{
    struct blk_node *src = blk_cmd_node(s, json_get_str(a, "device"), errp), *dst;
    enum job_sync sync;
    struct blk_job *j;
    bool fresh, ok;

    if (!src || !parse_sync(json_get_str(a, "sync"), &sync, errp))
        return NULL;
    if (type == JOB_MIRROR && sync == SYNC_BITMAP) {
        err_set(errp, "Sync mode '%s' not supported", json_get_str(a, "sync"));
        return NULL;
    }
    j = job_new(s, type, json_get_str(a, "job-id"), device_id(s, a), errp);
    if (!j)
        return NULL;
    j->sync = sync;
    j->source = src;
    ok = take_common(j, a, errp) && take_bitmap(j, a, errp) && take_replaces(j, a, errp) &&
         copy_ends(s, a, by_file, sync, src, &dst, &fresh, errp);
    if (ok) {
        j->target = dst;
        j->target_is_zero = fresh && sync == SYNC_FULL && blk_node_starts_zero(dst);
        if (type == JOB_BACKUP && dst->cluster_size > j->gran)
            j->gran = dst->cluster_size;
        if (j->compress && !dst->drv->pwrite_compressed)
            ok = err_set(errp, "Compression is not supported for this drive %s", dst->name);
        ok = ok && claim_nodes(j, errp);
        blk_node_unref(dst);
    }
    if (!ok) {
        job_drop(j);
        return NULL;
    }
    return j;
}

struct blk_job *blk_cmd_backup(struct blk_set *s, const char *cmd, struct json_object *a, struct err **errp)
{
    return make_copy(s, a, JOB_BACKUP, !strcmp(cmd, "drive-backup"), errp);
}

static bool start_copy(struct blk_set *s, struct json_object *a, enum job_type type, bool by_file, struct err **errp)
{
    struct blk_job *j = make_copy(s, a, type, by_file, errp);

    return j && job_start(j, errp);
}

static bool cmd_drive_mirror(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return start_copy(s, a, JOB_MIRROR, true, errp);
}
static bool cmd_blockdev_mirror(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return start_copy(s, a, JOB_MIRROR, false, errp);
}
static bool cmd_drive_backup(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return start_copy(s, a, JOB_BACKUP, true, errp);
}
static bool cmd_blockdev_backup(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return start_copy(s, a, JOB_BACKUP, false, errp);
}

/* ---- steering jobs ---- */

static struct blk_job *arg_job(struct blk_set *s, struct json_object *a, struct err **errp)
{
    const char *id = json_get_str(a, "device");
    struct blk_job *j;

    if (!id)
        id = json_get_str(a, "id");
    j = id ? job_find(s, id) : NULL;
    if (!j && json_get_str(a, "device"))
        err_set_class(errp, ERR_DEVICE_NOT_ACTIVE, "Block job '%s' not found", id);
    else if (!j)
        err_set(errp, "Job not found");
    return j;
}

static bool cancel(struct blk_job *j, bool force, struct err **errp)
{
    if (!j)
        return false;
    if (j->status == JOB_CONCLUDED)
        return err_set(errp, "Job '%s' in state 'concluded' cannot accept command verb 'cancel'", j->id);
    j->force = force;
    j->cancelled = true;
    j->paused = false;
    return true;
}

static bool cmd_block_job_cancel(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return cancel(arg_job(s, a, errp), json_get_bool(a, "force", false), errp);
}
static bool cmd_job_cancel(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return cancel(arg_job(s, a, errp), true, errp);
}

static bool cmd_job_complete(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_job *j = arg_job(s, a, errp);

    if (!j)
        return false;
    if (j->status != JOB_READY)
        return err_set(errp, "The active block job '%s' cannot be completed", j->id);
    j->complete = true;
    return true;
}

static bool cmd_job_pause(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_job *j = arg_job(s, a, errp);

    if (!j)
        return false;
    if (j->paused)
        return err_set(errp, "Job is already paused");
    j->paused = true;
    return true;
}

static bool cmd_job_resume(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_job *j = arg_job(s, a, errp);

    if (!j)
        return false;
    if (!j->paused)
        return err_set(errp, "Can't resume a job that was not paused");
    j->paused = false;
    return true;
}

static bool cmd_job_speed(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_job *j = arg_job(s, a, errp);
    int64_t v = json_get_int(a, "speed", -1);

    if (!j)
        return false;
    if (v < 0)
        return err_set(errp, "Parameter 'speed' expects a non-negative value");
    j->speed = (uint64_t)v;
    return true;
}

static bool cmd_job_dismiss(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_job *j = arg_job(s, a, errp);

    if (!j)
        return false;
    if (j->status != JOB_CONCLUDED)
        return err_set(errp, "Job '%s' in state '%s' cannot accept command verb 'dismiss'", j->id, job_status_name(j));
    job_free(j);
    return true;
}

static bool cmd_job_finalize(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_job *j = arg_job(s, a, errp);

    if (!j)
        return false;
    if (j->status != JOB_PENDING)
        return err_set(errp, "Job '%s' in state '%s' cannot accept command verb 'finalize'", j->id, job_status_name(j));
    j->finalize = true;
    return true;
}

static bool list_jobs(struct blk_set *s, bool block, struct json_object **ret)
{
    struct blk_job *j;

    *ret = json_object_new_array();
    list_each (j, &s->jobs, link)
        if (!block || j->type < JOB_CREATE)
            json_object_array_add(*ret, job_describe(j, block));
    return true;
}
static bool cmd_query_block_jobs(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return list_jobs(s, true, ret);
}
static bool cmd_query_jobs(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    return list_jobs(s, false, ret);
}

/* ---- size, names ---- */

bool blk_cmd_resize(struct blk_node *n, const char *who, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    int r;

    if (job_on(n->set, n) || job_on(n->set, blk_node_unfiltered(n)))
        return err_set(errp, "Device '%s' is in use", who);
    blk_cmd_hold(n, true);
    blk_node_drain(n);
    r = blk_node_truncate(n, size, p, errp);
    blk_cmd_hold(n, false);
    return r >= 0;
}

static bool cmd_resize(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    const char *device = json_get_str(a, "device");
    struct blk_node *n = arg_node(s, a, errp);
    int64_t size = json_get_int(a, "size", -1);

    if (!n)
        return false;
    if (size < 0)
        return err_set(errp, "Parameter 'size' expects a >0 size");
    return blk_cmd_resize(n, device ? device : n->name, (uint64_t)size, BLK_PREALLOC_OFF, errp);
}

static bool cmd_change_backing(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *top = blk_cmd_node(s, json_get_str(a, "device"), errp), *n;
    const char *name = json_get_str(a, "image-node-name"), *file = json_get_str(a, "backing-file");
    int r;

    if (!top)
        return false;
    n = name ? in_chain(top, name) : top;
    if (!n || !file || !n->backing || !n->drv->change_backing)
        return err_set(errp, "the node has no backing file to rename");
    r = n->drv->change_backing(n, file, n->backing_fmt);
    return r >= 0 || err_set_errno(errp, -r, "Could not change the backing file to '%s'", file);
}

/* ---- internal snapshots ---- */

/* Is there a snapshot that has this id and this name (each may be NULL)? *out describes it. */
static bool find_snap(struct blk_node *n, const char *id, const char *name, struct json_object **out)
{
    struct blk_snap *sn = NULL;
    int nr = n->drv->snap_list ? n->drv->snap_list(n, &sn) : 0, at = -1;

    for (int i = 0; i < nr && at < 0; i++)
        if ((!id || !strcmp(sn[i].id, id)) && (!name || !strcmp(sn[i].name, name)))
            at = i;
    if (at >= 0 && out)
        *out = json_make("s:id", sn[at].id, "s:name", sn[at].name, "u:vm-state-size", sn[at].vm_size, "i:date-sec",
                         sn[at].date_sec, "u:date-nsec", (uint64_t)sn[at].date_nsec, "u:vm-clock-sec",
                         sn[at].vm_clock_ns / NS_PER_SEC, "u:vm-clock-nsec", sn[at].vm_clock_ns % NS_PER_SEC, NULL);
    blk_snaps_free(sn, nr > 0 ? nr : 0);
    return at >= 0;
}

static bool cmd_internal_snapshot(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n = blk_cmd_node(s, json_get_str(a, "device"), errp);
    struct blk_snap sn = {.icount = UINT64_MAX};
    struct timespec ts;
    bool ok;

    if (!n)
        return false;
    if (!n->drv->snap_create)
        return err_set(errp, "Block format '%s' used by device '%s' does not support internal snapshots", n->drv->name,
                       json_get_str(a, "device"));
    if (!json_get_str(a, "name") || !*json_get_str(a, "name"))
        return err_set(errp, "Name is empty");
    if (find_snap(n, NULL, json_get_str(a, "name"), NULL))
        return err_set(errp, "Snapshot with name '%s' already exists on device '%s'", json_get_str(a, "name"),
                       json_get_str(a, "device"));
    clock_gettime(CLOCK_REALTIME, &ts);
    sn.name = (char *)(uintptr_t)json_get_str(a, "name");
    sn.date_sec = ts.tv_sec;
    sn.date_nsec = (uint32_t)ts.tv_nsec;
    blk_cmd_hold(n, true);
    blk_node_drain(n);
    ok = n->drv->snap_create(n, &sn, errp);
    blk_cmd_hold(n, false);
    return ok;
}

static bool cmd_delete_internal_snapshot(struct blk_set *s, struct json_object *a, struct json_object **ret,
                                         struct err **errp)
{
    struct blk_node *n = blk_cmd_node(s, json_get_str(a, "device"), errp);
    bool ok;

    if (!n)
        return false;
    if (!n->drv->snap_delete)
        return err_set(errp, "Block format '%s' does not support internal snapshots", n->drv->name);
    if (!json_get_str(a, "id") && !json_get_str(a, "name"))
        return err_set(errp, "Name or id must be provided");
    if (!find_snap(n, json_get_str(a, "id"), json_get_str(a, "name"), ret))
        return err_set(errp, "Snapshot with id '%s' and name '%s' does not exist on device '%s'",
                       json_get_str(a, "id") ? json_get_str(a, "id") : "NULL",
                       json_get_str(a, "name") ? json_get_str(a, "name") : "NULL", json_get_str(a, "device"));
    blk_cmd_hold(n, true);
    blk_node_drain(n);
    ok = n->drv->snap_delete(n, json_get_str(a, "id"), json_get_str(a, "name"), errp);
    blk_cmd_hold(n, false);
    return ok;
}

static const struct blk_cmd cmds[] = {
    {"block-commit", cmd_commit},
    {"block-dirty-bitmap-add", blk_cmd_bitmap_add},
    {"block-dirty-bitmap-clear", blk_cmd_bitmap_clear},
    {"block-dirty-bitmap-disable", blk_cmd_bitmap_disable},
    {"block-dirty-bitmap-enable", blk_cmd_bitmap_enable},
    {"block-dirty-bitmap-merge", blk_cmd_bitmap_merge},
    {"block-dirty-bitmap-remove", blk_cmd_bitmap_remove},
    {"block-export-add", nbd_cmd_export_add},
    {"block-export-del", nbd_cmd_export_del},
    {"block-job-cancel", cmd_block_job_cancel},
    {"block-job-complete", cmd_job_complete},
    {"block-job-dismiss", cmd_job_dismiss},
    {"block-job-finalize", cmd_job_finalize},
    {"block-job-pause", cmd_job_pause},
    {"block-job-resume", cmd_job_resume},
    {"block-job-set-speed", cmd_job_speed},
    {"block-set-write-threshold", blk_cmd_write_threshold},
    {"block-stream", cmd_stream},
    {"block_resize", cmd_resize},
    {"block_set_io_throttle", blk_cmd_throttle},
    {"blockdev-backup", cmd_blockdev_backup},
    {"blockdev-create", blk_cmd_create},
    {"blockdev-mirror", cmd_blockdev_mirror},
    {"blockdev-reopen", blk_cmd_reopen},
    {"x-debug-query-block-graph", blk_cmd_graph},
    {"blockdev-snapshot", cmd_snapshot},
    {"blockdev-snapshot-delete-internal-sync", cmd_delete_internal_snapshot},
    {"blockdev-snapshot-internal-sync", cmd_internal_snapshot},
    {"blockdev-snapshot-sync", cmd_snapshot_sync},
    {"change-backing-file", cmd_change_backing},
    {"drive-backup", cmd_drive_backup},
    {"drive-mirror", cmd_drive_mirror},
    {"job-cancel", cmd_job_cancel},
    {"job-complete", cmd_job_complete},
    {"job-dismiss", cmd_job_dismiss},
    {"job-finalize", cmd_job_finalize},
    {"job-pause", cmd_job_pause},
    {"job-resume", cmd_job_resume},
    {"nbd-server-add", nbd_cmd_add},
    {"nbd-server-remove", nbd_cmd_remove},
    {"nbd-server-start", nbd_cmd_start},
    {"nbd-server-stop", nbd_cmd_stop},
    {"query-block-exports", nbd_cmd_query},
    {"query-block-jobs", cmd_query_block_jobs},
    {"query-jobs", cmd_query_jobs},
    {"transaction", blk_cmd_transaction},
};

const struct blk_cmd *blk_cmd_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(cmds); i++)
        if (!strcmp(cmds[i].name, name))
            return &cmds[i];
    return NULL;
}

bool blk_cmd_run(struct blk_set *s, const char *name, struct json_object *args, struct json_object **ret,
                 struct err **errp)
{
    const struct blk_cmd *c = blk_cmd_find(name);
    BLK_HOME_SCOPE(s);

    assert(c); /* callers name commands the table has */
    return c->fn(s, args, ret, errp);
}
