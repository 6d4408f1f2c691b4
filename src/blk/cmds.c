/* Commands on the graph of a running machine, by their QMP names. Each checks everything first, then acts. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>

/* ---- naming things ---- */

/* The node behind "device" (a drive's id or a device's) or "node-name". */
static struct blk_node *node_of(struct blk_set *s, const char *name, struct err **errp)
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
        err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Cannot find device='%s' nor node-name='%s'", name, name);
    return n;
}

static struct blk_node *arg_node(struct blk_set *s, struct json_object *a, struct err **errp)
{
    const char *d = json_get_str(a, "device"), *n = json_get_str(a, "node-name");

    return node_of(s, n ? n : d ? d : json_get_str(a, "node"), errp);
}

/* The layer of top's chain that a file name, as recorded or in full, means. */
static struct blk_node *in_chain(struct blk_node *top, const char *file)
{
    for (struct blk_node *n = top; n; n = blk_node_cow(n)) {
        char *path AUTOFREE = blk_path_combine(blk_node_filename(top), file);

        if (!strcmp(blk_node_filename(n), file) || !strcmp(blk_node_filename(n), path) || !strcmp(n->name, file))
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

static void hold_all(struct blk_node *n, bool hold)
{
    struct blk_child *c, *tmp;

    list_each_safe (c, tmp, &n->parents, in_node) {
        if (c->handle && hold)
            blk_quiesce(c->handle);
        else if (c->handle)
            blk_unquiesce(c->handle);
        else if (c->parent)
            hold_all(c->parent, hold);
    }
}

/* ---- overlays ---- */

/* `over`, opened without a backing file, goes on top of `n` for everybody above n. */
static bool put_on_top(struct blk_node *n, struct blk_node *over, struct err **errp)
{
    bool ok;

    hold_all(n, true);
    blk_node_drain(n);
    ok = blk_node_set_backing(over, n, errp) && blk_node_replace(n, over, NULL, errp);
    hold_all(ok ? over : n, false);
    if (!ok)
        blk_node_set_backing(over, NULL, NULL);
    else
        blk_node_reopen(n, false, NULL);
    return ok;
}

static bool cmd_snapshot_sync(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n = arg_node(s, a, errp), *over;
    const char *file = json_get_str(a, "snapshot-file"), *fmt = json_get_str(a, "format"),
               *mode = json_get_str(a, "mode");
    struct opts *o;
    char num[24];
    bool ok;

    if (!n)
        return false;
    if (!file)
        return err_set(errp, "Parameter 'snapshot-file' is missing");
    if (!fmt)
        fmt = "qcow2";
    if (blk_node_readonly(n))
        return err_set(errp, "Device '%s' is read only", n->name);
    if (!strcmp(blk_node_filename(n), file))
        return err_set(errp, "the new overlay '%s' is the image in use", file);
    if (!mode || strcmp(mode, "existing") != 0) {
        o = opts_new();
        snprintf(num, sizeof num, "%" PRIu64, n->size);
        opts_set(o, "size", num);
        opts_set(o, "backing_file", blk_node_filename(blk_node_unfiltered(n)));
        opts_set(o, "backing_fmt", blk_node_unfiltered(n)->drv->name);
        ok = blk_create(s, file, fmt, o, errp);
        opts_free(o);
        if (!ok)
            return false;
    }
    o = opts_new();
    if (json_get_str(a, "snapshot-node-name"))
        opts_set(o, "node-name", json_get_str(a, "snapshot-node-name"));
    over = blk_node_open(s, file, fmt, (n->open_flags & ~(unsigned)BLK_O_FROM_IMAGE) | BLK_O_NO_BACKING, o, errp);
    if (!over)
        return false;
    if (!over->drv->backing_ok)
        ok = err_set(errp, "Driver '%s' does not support backing files", over->drv->name);
    else
        ok = put_on_top(n, over, errp);
    blk_node_unref(over);
    return ok;
}

static bool cmd_snapshot(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n = node_of(s, json_get_str(a, "node"), errp), *over;

    if (!n || !(over = node_of(s, json_get_str(a, "overlay"), errp)))
        return false;
    if (over->backing)
        return err_set(errp, "The overlay already has a backing image");
    if (!over->drv->backing_ok)
        return err_set(errp, "The overlay does not support backing images");
    return put_on_top(n, over, errp);
}

/* ---- jobs that take a source and a target ---- */

static void take_common(struct blk_job *j, struct json_object *a)
{
    j->speed = (uint64_t)json_get_int(a, "speed", 0);
    j->auto_dismiss = json_get_bool(a, "auto-dismiss", true);
}

static const char *device_id(struct blk_set *s, struct json_object *a)
{
    const char *d = json_get_str(a, "device");

    return d && blk_find(s, d) ? d : NULL;
}

static bool claim_nodes(struct blk_job *j, struct err **errp)
{
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
    struct blk_node *active = arg_node(s, a, errp), *top, *base;
    struct blk_job *j;

    if (!active)
        return false;
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
    take_common(j, a);
    j->source = top;
    j->target = base;
    j->overlay = top == active ? NULL : overlay_of(active, top);
    if (json_get_str(a, "backing-file"))
        j->backing_name = xstrdup(json_get_str(a, "backing-file"));
    allow_base_writes(j, active);
    if (!blk_node_reopen(base, true, errp) || !claim_nodes(j, errp) ||
        (base->size < top->size && blk_node_truncate(base, top->size, BLK_PREALLOC_OFF, errp) < 0)) {
        job_drop(j);
        return false;
    }
    job_start(j);
    return true;
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
    take_common(j, a);
    j->source = n;
    j->target = base && blk_node_cow(n) ? in_chain(blk_node_cow(n), base) : NULL;
    if (base && !j->target)
        err_set(errp, "Can't find '%s' in the backing chain", base);
    if (json_get_str(a, "backing-file"))
        j->backing_name = xstrdup(json_get_str(a, "backing-file"));
    if ((base && !j->target) || !claim_nodes(j, errp)) {
        job_drop(j);
        return false;
    }
    job_start(j);
    return true;
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

static bool start_copy(struct blk_set *s, struct json_object *a, enum job_type type, bool by_file, struct err **errp)
{
    const char *d = json_get_str(a, "device"), *bm = json_get_str(a, "bitmap");
    struct blk_node *src = node_of(s, d, errp), *dst;
    enum job_sync sync;
    struct blk_job *j;
    bool fresh = false, ok;

    if (!src || !parse_sync(json_get_str(a, "sync"), &sync, errp))
        return false;
    if (sync == SYNC_BITMAP && (!bm || !blk_bitmap_find(src, bm)))
        return err_set(errp,
                       bm ? "Bitmap '%s' could not be found" : "must provide a valid bitmap name for '%s' sync mode",
                       bm ? bm : json_get_str(a, "sync"));
    if (by_file)
        dst = make_target(s, a, src, sync, &fresh, errp);
    else if ((dst = node_of(s, json_get_str(a, "target"), errp)))
        blk_node_ref(dst);
    if (!dst)
        return false;
    if (dst == src || dst->size < src->size) {
        ok = err_set(errp,
                     dst == src ? "Source and target cannot be the same" : "The target is smaller than the source");
        blk_node_unref(dst);
        return ok;
    }
    j = job_new(s, type, json_get_str(a, "job-id"), device_id(s, a), errp);
    if (!j) {
        blk_node_unref(dst);
        return false;
    }
    take_common(j, a);
    j->sync = sync;
    j->source = src;
    j->target = dst;
    j->target_is_zero = fresh && sync == SYNC_FULL;
    j->bitmap = sync == SYNC_BITMAP ? blk_bitmap_find(src, bm) : NULL;
    ok = claim_nodes(j, errp);
    blk_node_unref(dst);
    if (!ok) {
        job_drop(j);
        return false;
    }
    job_start(j);
    return true;
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

static bool cmd_job_cancel(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_job *j = arg_job(s, a, errp);

    if (!j)
        return false;
    if (j->status == JOB_CONCLUDED)
        return err_set(errp, "Job '%s' in state 'concluded' cannot accept command verb 'cancel'", j->id);
    j->force = json_get_bool(a, "force", false);
    j->cancelled = true;
    j->paused = false;
    return true;
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
        return err_set(errp, "Job '%s' cannot accept command verb 'dismiss' before it has concluded", j->id);
    job_free(j);
    return true;
}

static bool cmd_job_finalize(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_job *j = arg_job(s, a, errp);

    return j && err_set(errp, "Job '%s' finalizes by itself and cannot accept command verb 'finalize'", j->id);
}

static bool list_jobs(struct blk_set *s, bool block, struct json_object **ret)
{
    struct blk_job *j;

    *ret = json_object_new_array();
    list_each (j, &s->jobs, link)
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

/* ---- size, bitmaps ---- */

static bool cmd_resize(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n = arg_node(s, a, errp);
    int64_t size = json_get_int(a, "size", -1);
    int r;

    if (!n)
        return false;
    if (size < 0)
        return err_set(errp, "Parameter 'size' expects a >0 size");
    hold_all(n, true);
    blk_node_drain(n);
    r = blk_node_truncate(n, (uint64_t)size, BLK_PREALLOC_OFF, errp);
    hold_all(n, false);
    return r >= 0;
}

static bool cmd_bitmap_add(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n = arg_node(s, a, errp);
    int64_t gran = json_get_int(a, "granularity", 65536);
    bool persistent = json_get_bool(a, "persistent", false);
    struct blk_bitmap *b;

    if (!n)
        return false;
    if (!json_get_str(a, "name") || !*json_get_str(a, "name"))
        return err_set(errp, "Bitmap name cannot be empty");
    if (gran < 512 || gran > 1 << 30)
        return err_set(errp, "Granularity must be a power of 2 and at least 512");
    if (persistent && !n->drv->bitmap_remove)
        return err_set(errp, "Driver '%s' does not support persistent bitmaps", n->drv->name);
    b = blk_bitmap_new(n, json_get_str(a, "name"), (uint32_t)gran, errp);
    if (!b)
        return false;
    b->persistent = persistent;
    b->enabled = !json_get_bool(a, "disabled", false);
    return true;
}

static struct blk_bitmap *arg_bitmap(struct blk_set *s, struct json_object *a, const char *key, struct err **errp)
{
    struct blk_node *n = arg_node(s, a, errp);
    const char *name = json_get_str(a, key);
    struct blk_bitmap *b = n && name ? blk_bitmap_find(n, name) : NULL;

    if (n && !b)
        err_set(errp, "Dirty bitmap '%s' not found", name ? name : "");
    return b;
}

static bool cmd_bitmap_remove(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *b = arg_bitmap(s, a, "name", errp);

    if (!b)
        return false;
    if (b->persistent && b->node->drv->bitmap_remove)
        return b->node->drv->bitmap_remove(b->node, b->name, errp);
    blk_bitmap_free(b);
    return true;
}

static bool cmd_bitmap_clear(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *b = arg_bitmap(s, a, "name", errp);

    if (b)
        blk_bitmap_reset(b, 0, b->node->size);
    return b;
}
static bool cmd_bitmap_enable(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *b = arg_bitmap(s, a, "name", errp);

    if (b)
        b->enabled = true;
    return b;
}
static bool cmd_bitmap_disable(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *b = arg_bitmap(s, a, "name", errp);

    if (b)
        b->enabled = false;
    return b;
}

static bool cmd_bitmap_merge(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *dst = arg_bitmap(s, a, "target", errp), *src;
    struct json_object *list = json_get(a, "bitmaps");

    for (size_t i = 0; dst && list && i < json_object_array_length(list); i++) {
        struct json_object *x = json_object_array_get_idx(list, i);
        bool plain = json_object_is_type(x, json_type_string);
        struct blk_node *n = plain ? dst->node : arg_node(s, x, errp);
        const char *name = plain ? json_object_get_string(x) : json_get_str(x, "name");

        if (!n)
            return false;
        src = name ? blk_bitmap_find(n, name) : NULL;
        if (!src)
            return err_set(errp, "Dirty bitmap '%s' not found", name ? name : "");
        if (!blk_bitmap_merge(dst, src, errp))
            return false;
    }
    return dst;
}

static bool cmd_change_backing(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *top = node_of(s, json_get_str(a, "device"), errp), *n;
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

static bool cmd_internal_snapshot(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n = node_of(s, json_get_str(a, "device"), errp);
    struct blk_snap sn = {.icount = UINT64_MAX};
    struct timespec ts;
    bool ok;

    if (!n)
        return false;
    if (!n->drv->snap_create)
        return err_set(errp, "Block format '%s' used by device '%s' does not support internal snapshots", n->drv->name,
                       json_get_str(a, "device"));
    clock_gettime(CLOCK_REALTIME, &ts);
    sn.name = (char *)(uintptr_t)json_get_str(a, "name");
    sn.date_sec = ts.tv_sec;
    sn.date_nsec = (uint32_t)ts.tv_nsec;
    hold_all(n, true);
    blk_node_drain(n);
    ok = n->drv->snap_create(n, &sn, errp);
    hold_all(n, false);
    return ok;
}

static bool cmd_delete_internal_snapshot(struct blk_set *s, struct json_object *a, struct json_object **ret,
                                         struct err **errp)
{
    struct blk_node *n = node_of(s, json_get_str(a, "device"), errp);
    bool ok;

    if (!n)
        return false;
    if (!n->drv->snap_delete)
        return err_set(errp, "Block format '%s' does not support internal snapshots", n->drv->name);
    hold_all(n, true);
    blk_node_drain(n);
    ok = n->drv->snap_delete(n, json_get_str(a, "id"), json_get_str(a, "name"), errp);
    hold_all(n, false);
    return ok;
}

static const struct blk_cmd cmds[] = {
    {"block-commit", cmd_commit},
    {"block-dirty-bitmap-add", cmd_bitmap_add},
    {"block-dirty-bitmap-clear", cmd_bitmap_clear},
    {"block-dirty-bitmap-disable", cmd_bitmap_disable},
    {"block-dirty-bitmap-enable", cmd_bitmap_enable},
    {"block-dirty-bitmap-merge", cmd_bitmap_merge},
    {"block-dirty-bitmap-remove", cmd_bitmap_remove},
    {"block-export-add", nbd_cmd_export_add},
    {"block-export-del", nbd_cmd_export_del},
    {"block-job-cancel", cmd_job_cancel},
    {"block-job-complete", cmd_job_complete},
    {"block-job-dismiss", cmd_job_dismiss},
    {"block-job-finalize", cmd_job_finalize},
    {"block-job-pause", cmd_job_pause},
    {"block-job-resume", cmd_job_resume},
    {"block-job-set-speed", cmd_job_speed},
    {"block-stream", cmd_stream},
    {"block_resize", cmd_resize},
    {"blockdev-backup", cmd_blockdev_backup},
    {"blockdev-mirror", cmd_blockdev_mirror},
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
};

const struct blk_cmd *blk_cmd_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(cmds); i++)
        if (!strcmp(cmds[i].name, name))
            return &cmds[i];
    return NULL;
}

const struct blk_cmd *blk_cmd_next(const struct blk_cmd *prev)
{
    const struct blk_cmd *n = prev ? prev + 1 : cmds;

    return n < cmds + ARRAY_LEN(cmds) ? n : NULL;
}
