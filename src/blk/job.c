/* Block jobs: commit, stream, mirror, backup. Each is a fibre on the set's loop that copies piece by piece and can be
 * paused, slowed, cancelled, and (mirror, active commit) completed on request.
 *
 * Mirror and active commit: a bitmap on the source collects what is not in step with the target; the fibre clears a run
 * of bits, copies it, and so on until none is left: READY. On completion the handles above the source are held, the
 * rest is copied, the target is flushed and takes the source's place in the graph. Stream: pulls data up with
 * blk_node_copy_up, which is ordered against guest writes. Backup: a listener copies old data to the target before the
 * guest overwrites it. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"
#include <errno.h>

enum { PIECE = 1 << 20, MIRROR_GRAN = 65536 };

/* ---- waiting ---- */

struct nap {
    struct clk_timer t;
    struct fibre *f;
};

static void nap_over(void *opaque)
{
    struct nap *n = opaque;

    fibre_resume(n->f);
}

void blk_sleep(struct blk_set *s, int64_t ns)
{
    struct nap n = {.f = fibre_self()};

    clk_timer_init(&n.t, s->run->real, nap_over, &n);
    clk_timer_set(&n.t, clk_now(s->run->real) + ns);
    fibre_yield();
    clk_timer_cancel(&n.t);
}

static void breathe(struct blk_job *j)
{
    fibre_wake(j->set->loop, fibre_self());
    fibre_yield();
}

/* ---- states and events ---- */

static const char *const type_names[] = {"commit", "stream", "mirror", "backup"};
static const char *const status_names[] = {"created", "running",  "paused",    "ready", "waiting",
                                           "pending", "aborting", "concluded", "null"};

static void set_status(struct blk_job *j, enum job_status st)
{
    if (j->status == st)
        return;
    j->status = st;
    run_event(j->set->run, "JOB_STATUS_CHANGE", json_make("s:status", status_names[st], "s:id", j->id, NULL));
}

static struct json_object *job_event_data(const struct blk_job *j)
{
    return json_make("s:device", j->id, "u:len", j->len, "u:offset", j->offset, "u:speed", j->speed, "s:type",
                     type_names[j->type], NULL);
}

struct json_object *job_describe(const struct blk_job *j, bool block)
{
    if (block)
        return json_make("b:auto-finalize", 1, "s:io-status", j->ret < 0 ? "failed" : "ok", "s:device", j->id,
                         "b:auto-dismiss", j->auto_dismiss, "b:busy", j->status == JOB_RUNNING, "u:len", j->len,
                         "u:offset", j->offset, "s:status", status_names[j->status], "b:paused", j->paused, "u:speed",
                         j->speed, "b:ready", j->status == JOB_READY, "s:type", type_names[j->type], "s:error",
                         j->ret < 0 && j->status == JOB_CONCLUDED ? strerror(-j->ret) : NULL, NULL);
    return json_make("u:current-progress", j->offset, "s:status", status_names[j->status], "u:total-progress", j->len,
                     "s:type", type_names[j->type], "s:id", j->id, "s:error",
                     j->ret < 0 && j->status == JOB_CONCLUDED ? strerror(-j->ret) : NULL, NULL);
}

struct blk_job *job_find(struct blk_set *s, const char *id)
{
    struct blk_job *j;

    list_each (j, &s->jobs, link)
        if (!strcmp(j->id, id))
            return j;
    return NULL;
}

void job_free(struct blk_job *j)
{
    set_status(j, JOB_NULL);
    list_del(&j->link);
    free(j->id);
    free(j->backing_name);
    free(j);
}

static void conclude(struct blk_job *j)
{
    struct json_object *d = job_event_data(j);

    blk_child_detach(j->target_edge);
    blk_child_detach(j->source_edge);
    j->target_edge = j->source_edge = NULL;
    if (j->cancelled && !j->pivot) {
        set_status(j, JOB_ABORTING);
        set_status(j, JOB_CONCLUDED);
        run_event(j->set->run, "BLOCK_JOB_CANCELLED", d);
    } else {
        if (j->ret < 0) {
            set_status(j, JOB_ABORTING);
            json_object_object_add(d, "error", json_object_new_string(strerror(-j->ret)));
        } else {
            set_status(j, JOB_WAITING);
            set_status(j, JOB_PENDING);
        }
        set_status(j, JOB_CONCLUDED);
        run_event(j->set->run, "BLOCK_JOB_COMPLETED", d);
    }
    if (j->auto_dismiss)
        job_free(j);
}

/* Between two pieces: pause, speed limit, cancel. False: stop now. */
static bool job_go_on(struct blk_job *j, uint64_t just_done)
{
    j->offset += just_done;
    if (j->cancelled)
        return false;
    if (j->speed && just_done)
        blk_sleep(j->set, (int64_t)((double)just_done * 1e9 / (double)j->speed));
    else
        breathe(j);
    while (j->paused && !j->cancelled) {
        enum job_status was = j->status;

        set_status(j, JOB_PAUSED);
        blk_sleep(j->set, 20 * NS_PER_MS);
        if (!j->paused)
            set_status(j, was);
    }
    return !j->cancelled;
}

/* ---- copying ---- */

static int copy_range(struct blk_node *src, struct blk_node *dst, uint64_t off, uint64_t len, uint8_t *buf)
{
    struct blk_extent e;

    while (len) {
        int r = blk_node_status_above(src, NULL, off, len, &e, NULL);
        uint64_t part;

        if (r < 0)
            return r;
        part = min_u64(e.len, PIECE);
        if (e.flags & BLK_ST_ZERO || !(e.flags & BLK_ST_DATA)) {
            part = e.len;
            r = blk_node_zeroes(dst, off, part, BLK_MAY_UNMAP);
        } else {
            r = blk_node_pread(src, off, buf, part);
            if (r >= 0)
                r = blk_node_pwrite(dst, off, buf, part);
        }
        if (r < 0)
            return r;
        off += part;
        len -= part;
    }
    return 0;
}

/* ---- mirror and active commit ---- */

static int mark_initial(struct blk_job *j)
{
    struct blk_node *stop = j->type == JOB_COMMIT ? j->target : j->sync == SYNC_TOP ? blk_node_cow(j->source) : NULL;
    uint64_t off = 0;

    if (j->sync == SYNC_NONE)
        return 0;
    while (off < j->source->size) {
        struct blk_extent e;
        int r = blk_node_status_above(j->source, stop, off, j->source->size - off, &e, NULL);

        if (r < 0)
            return r;
        if (stop ? (e.flags & BLK_ST_ALLOC) != 0 : !(j->target_is_zero && e.flags & BLK_ST_ZERO))
            blk_bitmap_set(j->dirty, off, e.len);
        off += e.len;
    }
    return 0;
}

static int copy_dirty_once(struct blk_job *j, uint64_t *at, uint64_t *done)
{
    uint64_t start, len;

    *done = 0;
    if (!blk_bitmap_next(j->dirty, *at, &start, &len)) {
        if (!blk_bitmap_next(j->dirty, 0, &start, &len))
            return 0;
    }
    len = min_u64(len, PIECE);
    blk_bitmap_reset(j->dirty, start, len); /* before reading: a write from now on sets it again */
    *at = start + len;
    *done = len;
    return copy_range(j->source, j->target, start, len, j->buf);
}

static bool quiet_now(struct blk_node *n)
{
    struct blk_child *c;

    list_each (c, &n->parents, in_node) {
        if (c->handle && c->handle->in_flight > blk_pending_count(c->handle))
            return false;
        if (c->parent && !quiet_now(c->parent))
            return false;
    }
    return true;
}

static void hold_above(struct blk_node *n, int delta)
{
    struct blk_child *c, *tmp;

    list_each_safe (c, tmp, &n->parents, in_node) {
        if (c->handle && delta > 0)
            c->handle->quiesced++;
        else if (c->handle)
            blk_unquiesce(c->handle);
        else if (c->parent)
            hold_above(c->parent, delta);
    }
}

/* Everything above the source is held; the last differences are copied; the target takes over. */
static int pivot(struct blk_job *j)
{
    uint64_t at = 0, done = 1;
    struct blk_node *src = j->source, *dst = j->target;
    struct err *e = NULL;
    int r = 0;

    hold_above(src, 1);
    while (!quiet_now(src))
        breathe(j);
    while (r >= 0 && (j->dirty->dirty))
        r = copy_dirty_once(j, &at, &done);
    if (r >= 0)
        r = blk_node_flush(dst);
    if (r >= 0) {
        blk_child_detach(j->source_edge);
        blk_child_detach(j->target_edge);
        j->source_edge = j->target_edge = NULL;
        blk_bitmap_free(j->dirty);
        j->dirty = NULL;
        blk_node_ref(src);
        blk_node_ref(dst);
        if (!blk_node_replace(src, dst, NULL, &e)) {
            warn_report("block job '%s': %s", j->id, e->msg);
            err_free(e);
            r = -EPERM;
            hold_above(src, -1);
        } else {
            hold_above(dst, -1);
        }
        if (r >= 0 && src->named && dst->name[0] == '#') {
            /* the source stays with whoever named it */
        }
        blk_node_unref(src);
        blk_node_unref(dst);
        return r;
    }
    hold_above(src, -1);
    return r;
}

static void become_ready(struct blk_job *j)
{
    if (j->status == JOB_READY)
        return;
    j->len = j->offset;
    set_status(j, JOB_READY);
    run_event(j->set->run, "BLOCK_JOB_READY", job_event_data(j));
}

static int run_mirror(struct blk_job *j)
{
    uint64_t at = 0, done;
    int r;

    j->dirty = blk_bitmap_new(j->source, NULL, MIRROR_GRAN, NULL);
    if (!j->dirty)
        return -ENOMEM;
    r = mark_initial(j);
    j->len = j->dirty->dirty * MIRROR_GRAN;
    while (r >= 0) {
        r = copy_dirty_once(j, &at, &done);
        if (r < 0)
            break;
        if (!done) {
            become_ready(j);
            if (j->complete)
                break;
            blk_sleep(j->set, 5 * NS_PER_MS);
        }
        if (!job_go_on(j, done))
            break;
        j->len = max_u64(j->len, j->offset + j->dirty->dirty * MIRROR_GRAN);
    }
    if (r >= 0 && j->complete && !j->cancelled) {
        j->pivot = true;
        r = pivot(j);
    } else if (r >= 0 && j->cancelled && j->status == JOB_READY && j->type == JOB_MIRROR && !j->force) {
        r = blk_node_flush(j->target); /* a cancelled, ready mirror is a complete copy */
        j->pivot = true;
    }
    blk_bitmap_free(j->dirty);
    j->dirty = NULL;
    return r;
}

/* ---- commit of layers below the active one ---- */

static int run_commit_lower(struct blk_job *j)
{
    uint64_t off = 0;
    int r = 0;

    j->len = j->source->size;
    while (off < j->len && r >= 0) {
        struct blk_extent e;
        uint64_t part;

        r = blk_node_status_above(j->source, j->target, off, j->len - off, &e, NULL);
        if (r < 0)
            break;
        part = min_u64(e.len, PIECE);
        if (e.flags & BLK_ST_ALLOC)
            r = copy_range(j->source, j->target, off, part, j->buf);
        else
            part = e.len;
        off += part;
        if (r >= 0 && !job_go_on(j, part))
            return 0;
    }
    if (r >= 0)
        r = blk_node_flush(j->target);
    if (r < 0)
        return r;
    /* the overlay reads the same through the base alone now: first on disk, then in memory */
    if (j->overlay->drv->change_backing && !blk_node_readonly(j->overlay))
        r = j->overlay->drv->change_backing(
            j->overlay, j->backing_name ? j->backing_name : blk_node_filename(j->target), j->target->drv->name);
    if (r >= 0)
        r = blk_node_flush(j->overlay);
    if (r >= 0) {
        blk_child_detach(j->source_edge);
        blk_child_detach(j->target_edge);
        j->source_edge = j->target_edge = NULL;
        r = blk_node_set_backing(j->overlay, j->target, NULL) ? 0 : -EPERM;
    }
    return r;
}

/* ---- stream ---- */

static int run_stream(struct blk_job *j)
{
    uint64_t off = 0;
    int r = 0;

    j->len = j->source->size;
    while (off < j->len && r >= 0) {
        struct blk_extent e;
        uint64_t part = min_u64(PIECE, j->len - off);
        unsigned depth;

        r = blk_node_status_above(j->source, j->target, off, j->len - off, &e, &depth);
        if (r < 0)
            break;
        if (e.flags & BLK_ST_ALLOC && depth > 0) {
            part = min_u64(e.len, PIECE);
            r = blk_node_copy_up(j->source, off, part);
        } else {
            part = e.len;
        }
        off += part;
        if (r >= 0 && !job_go_on(j, part))
            return 0;
    }
    if (r >= 0)
        r = blk_node_flush(j->source);
    if (r >= 0 && j->source->drv->change_backing)
        r = j->source->drv->change_backing(j->source,
                                           j->backing_name ? j->backing_name
                                           : j->target     ? blk_node_filename(j->target)
                                                           : NULL,
                                           j->target ? j->target->drv->name : NULL);
    if (r >= 0)
        r = blk_node_set_backing(j->source, j->target, NULL) ? 0 : -EPERM;
    return r;
}

/* ---- backup ---- */

/* Copies what the target lacks of [off, off+len) from the source as it is now. */
static int backup_copy(struct blk_job *j, uint64_t off, uint64_t len)
{
    uint64_t start, n, lo = align_down(off, MIRROR_GRAN), end = off + len;
    uint8_t *buf AUTOFREE = NULL;
    int r = 0;

    fibre_mutex_lock(&j->lock);
    while (r >= 0 && lo < end && blk_bitmap_next(j->dirty, lo, &start, &n) && start < end) {
        n = min_u64(n, min_u64(PIECE, align_up(end, MIRROR_GRAN) - start));
        if (!buf)
            buf = try_alloc_aligned(4096, PIECE);
        r = buf ? copy_range(j->source, j->target, start, min_u64(n, j->source->size - start), buf) : -ENOMEM;
        if (r >= 0)
            blk_bitmap_reset(j->dirty, start, n);
        lo = start + n;
    }
    fibre_mutex_unlock(&j->lock);
    return r;
}

static int before_write(struct blk_notify *b, uint64_t off, uint64_t len)
{
    struct blk_job *j = b->opaque;
    int r = backup_copy(j, off, len);

    if (r < 0 && j->ret >= 0) { /* the backup is spoiled, not the guest */
        j->ret = r;
        j->cancelled = true;
    }
    return 0;
}

static int run_backup(struct blk_job *j)
{
    uint64_t at = 0, start, n;
    int r = 0;

    j->dirty = blk_bitmap_new(j->source, NULL, MIRROR_GRAN, NULL);
    if (!j->dirty)
        return -ENOMEM;
    j->dirty->enabled = false;
    if (j->sync == SYNC_BITMAP) {
        while (blk_bitmap_next(j->bitmap, at, &start, &n)) {
            blk_bitmap_set(j->dirty, start, n);
            at = start + n;
        }
        blk_bitmap_reset(j->bitmap, 0, j->source->size); /* collects what comes after this point in time */
    } else {
        r = mark_initial(j);
        if (j->sync == SYNC_NONE)
            blk_bitmap_set(j->dirty, 0, j->source->size);
    }
    j->len = j->source->size;
    j->notify = (struct blk_notify){.before = before_write, .opaque = j};
    blk_notify_add(j->source, &j->notify);
    for (at = 0; r >= 0 && j->sync != SYNC_NONE && blk_bitmap_next(j->dirty, at, &start, &n);) {
        n = min_u64(n, PIECE);
        r = backup_copy(j, start, n);
        at = start + n;
        if (r >= 0 && !job_go_on(j, n))
            break;
    }
    while (j->sync == SYNC_NONE && !j->cancelled)
        blk_sleep(j->set, 20 * NS_PER_MS);
    blk_notify_del(&j->notify);
    if (r >= 0 && j->ret >= 0)
        r = blk_node_flush(j->target);
    if (r < 0 && j->bitmap) { /* nothing is lost: what was to be copied is dirty again */
        for (at = 0; blk_bitmap_next(j->dirty, at, &start, &n); at = start + n)
            blk_bitmap_set(j->bitmap, start, n);
    }
    if (r >= 0 && !j->cancelled)
        j->offset = j->len;
    blk_bitmap_free(j->dirty);
    j->dirty = NULL;
    return r < 0 ? r : j->ret;
}

/* ---- life ---- */

static void job_run(void *opaque)
{
    struct blk_job *j = opaque;
    int r;

    set_status(j, JOB_RUNNING);
    breathe(j); /* the command that started us answers first */
    switch (j->type) {
    case JOB_COMMIT:
        r = j->overlay ? run_commit_lower(j) : run_mirror(j);
        break;
    case JOB_STREAM:
        r = run_stream(j);
        break;
    case JOB_MIRROR:
        r = run_mirror(j);
        break;
    default:
        r = run_backup(j);
    }
    if (r < 0)
        j->ret = r;
    free(j->buf);
    j->buf = NULL;
    if (j->source)
        j->source->backing_rw = false;
    if (j->overlay)
        j->overlay->backing_rw = false;
    for (unsigned i = 0; i < j->nr_kept; i++) {
        if (j->kept[i]->backing_rw)
            j->kept[i]->backing_rw = false;
        blk_node_unref(j->kept[i]);
    }
    conclude(j);
}

struct blk_job *job_new(struct blk_set *s, enum job_type t, const char *id, const char *dflt, struct err **errp)
{
    struct blk_job *j;

    if (!id || !*id)
        id = dflt;
    if (!id || !*id) {
        err_set(errp, "An explicit job ID is required for this node");
        return NULL;
    }
    if (job_find(s, id)) {
        err_set(errp, "Job ID '%s' already in use", id);
        return NULL;
    }
    j = xnew(struct blk_job);
    j->set = s;
    j->type = t;
    j->id = xstrdup(id);
    j->auto_dismiss = true;
    j->buf = try_alloc_aligned(4096, PIECE);
    if (!j->buf) {
        free(j->id);
        free(j);
        err_set(errp, "no memory");
        return NULL;
    }
    fibre_mutex_init(&j->lock);
    list_add(&s->jobs, &j->link);
    run_event(s->run, "JOB_STATUS_CHANGE", json_make("s:status", "created", "s:id", j->id, NULL));
    return j;
}

void job_drop(struct blk_job *j)
{
    blk_child_detach(j->target_edge);
    blk_child_detach(j->source_edge);
    for (unsigned i = 0; i < j->nr_kept; i++)
        blk_node_unref(j->kept[i]);
    free(j->buf);
    job_free(j);
}

void job_keep(struct blk_job *j, struct blk_node *n)
{
    assert(j->nr_kept < ARRAY_LEN(j->kept));
    blk_node_ref(n);
    j->kept[j->nr_kept++] = n;
}

void job_start(struct blk_job *j)
{
    fibre_start(j->set->loop, job_run, j);
}

/* At the end of the machine: every job is cancelled and waited for. */
void blk_jobs_stop(struct blk_set *s)
{
    struct blk_job *j;

    list_each (j, &s->jobs, link) {
        j->cancelled = j->force = true;
        j->paused = false;
    }
    while (!list_empty(&s->jobs)) {
        j = list_first(&s->jobs, struct blk_job, link);
        if (j->status == JOB_CONCLUDED)
            job_free(j);
        else
            ev_loop_turn(s->loop, 10 * NS_PER_MS);
    }
}
