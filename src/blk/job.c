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

enum { PIECE = 1 << 20, DFLT_GRAN = 65536 };

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

static const char *const type_names[] = {"commit", "stream", "mirror", "backup", "create", "work"};
static const char *const status_names[] = {"created", "running", "paused",   "ready",     "standby",
                                           "waiting", "pending", "aborting", "concluded", "null"};

static const char *type_name(const struct blk_job *j)
{
    return j->type == JOB_WORK ? j->work_type : type_names[j->type];
}

const char *job_status_name(const struct blk_job *j)
{
    return status_names[j->status];
}

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
                     type_name(j), NULL);
}

static const char *job_error_text(const struct blk_job *j)
{
    return j->status != JOB_CONCLUDED && j->status != JOB_ABORTING ? NULL
           : j->error                                              ? j->error
           : j->ret < 0                                            ? strerror(-j->ret)
                                                                   : NULL;
}

struct json_object *job_describe(const struct blk_job *j, bool block)
{
    if (block)
        return json_make("b:auto-finalize", j->auto_finalize, "s:io-status", j->ret < 0 ? "failed" : "ok", "s:device",
                         j->id, "b:auto-dismiss", j->auto_dismiss, "b:busy", j->status == JOB_RUNNING, "u:len", j->len,
                         "u:offset", j->offset, "s:status", status_names[j->status], "b:paused", j->paused, "u:speed",
                         j->speed, "b:ready", j->status == JOB_READY, "s:type", type_name(j), "s:error",
                         job_error_text(j), NULL);
    return json_make("u:current-progress", j->offset, "s:status", status_names[j->status], "u:total-progress", j->len,
                     "s:type", type_name(j), "s:id", j->id, "s:error", job_error_text(j), NULL);
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
    if (j->begun)
        set_status(j, JOB_NULL);
    blk_home_check(j->set);
    list_del(&j->link);
    free(j->id);
    free(j->backing_name);
    free(j->error);
    free(j->create_file);
    free(j->create_fmt);
    opts_free(j->create_opts);
    job_group_unref(j->group);
    free(j);
}

void job_group_join(struct job_group *g, struct blk_job *j)
{
    g->refs++;
    g->nr++;
    j->group = g;
}

void job_group_unref(struct job_group *g)
{
    if (g && !--g->refs)
        free(g);
}

/* One of a group did not end well: the others are cancelled. */
static void group_fail(struct blk_job *j)
{
    struct blk_job *k;

    if (!j->group || j->group->failed || j->group->committed)
        return;
    j->group->failed = true;
    list_each (k, &j->set->jobs, link)
        if (k != j && k->group == j->group && k->status != JOB_CONCLUDED) {
            k->cancelled = k->force = true;
            k->paused = false;
        }
}

/* All of the group have done their work; false: one has not, or will not. */
static bool group_ready(struct blk_job *j)
{
    struct job_group *g = j->group;

    g->waiting++;
    while (g->waiting < g->nr && !g->failed && !j->cancelled)
        blk_sleep(j->set, 2 * NS_PER_MS);
    if (j->cancelled)
        group_fail(j);
    return !g->failed;
}

/* The work is done and the graph may change: at once, or when job-finalize comes. False: cancelled meanwhile. */
static bool job_may_finish(struct blk_job *j)
{
    j->pended = true;
    set_status(j, JOB_WAITING);
    if (j->group && !group_ready(j))
        return false;
    set_status(j, JOB_PENDING);
    if (!j->auto_finalize)
        run_event(j->set->run, "BLOCK_JOB_PENDING", json_make("s:type", type_name(j), "s:id", j->id, NULL));
    while (!j->auto_finalize && !j->finalize && !j->cancelled)
        blk_sleep(j->set, 10 * NS_PER_MS);
    if (!j->group)
        return !j->cancelled;
    if (j->cancelled)
        group_fail(j);
    if (j->group->failed)
        return false;
    j->group->committed = true; /* no way back for the others either */
    j->cancelled = false;
    return true;
}

static void conclude(struct blk_job *j)
{
    struct json_object *d = job_event_data(j);
    bool block = j->type < JOB_CREATE;

    blk_child_detach(j->target_edge);
    blk_child_detach(j->source_edge);
    j->target_edge = j->source_edge = NULL;
    if (j->cancelled && !j->pivot) {
        set_status(j, JOB_ABORTING);
        if (block)
            run_event(j->set->run, "BLOCK_JOB_CANCELLED", json_object_get(d));
    } else {
        if (j->ret < 0) {
            set_status(j, JOB_ABORTING);
            json_object_object_add(d, "error", json_object_new_string(job_error_text(j)));
        } else if (!j->pended) {
            set_status(j, JOB_WAITING);
            set_status(j, JOB_PENDING);
        }
        if (block)
            run_event(j->set->run, "BLOCK_JOB_COMPLETED", json_object_get(d));
    }
    json_object_put(d);
    set_status(j, JOB_CONCLUDED);
    if (j->auto_dismiss)
        job_free(j);
}

/* Between two pieces: pause, speed limit, cancel. False: stop now. */
static bool job_go_on(struct blk_job *j, uint64_t just_done)
{
    j->offset += just_done;
    if (j->cancelled)
        return false;
    breathe(j);
    /* in small steps: the speed may change and the job may end meanwhile */
    for (double done_s = 0; j->speed && !j->cancelled && done_s < (double)just_done / (double)j->speed;) {
        double step = (double)just_done / (double)j->speed - done_s;

        step = step < 0.05 ? step : 0.05;
        blk_sleep(j->set, (int64_t)(step * 1e9) + 1);
        done_s += step;
    }
    if (j->cancelled)
        return false;
    while (j->paused && !j->cancelled) {
        enum job_status was = j->status;

        set_status(j, was == JOB_READY || was == JOB_STANDBY ? JOB_STANDBY : JOB_PAUSED);
        blk_sleep(j->set, 20 * NS_PER_MS);
        if (!j->paused)
            set_status(j, was);
    }
    return !j->cancelled;
}

/* ---- copying ---- */

static int write_compressed(struct blk_node *dst, uint64_t off, uint64_t len, uint8_t *buf)
{
    uint64_t cl = dst->cluster_size ? dst->cluster_size : 65536;

    for (uint64_t done = 0; done < len; done += cl) {
        uint64_t part = min_u64(cl, len - done);
        struct iovec v = {buf + done, part};
        struct iov q;
        int r;

        iov_init_ext(&q, &v, 1);
        r = part < cl && off + len < dst->size ? -ENOTSUP
                                               : blk_node_pwritev(dst, off + done, part, &q, 0, BLK_REQ_COMPRESSED);
        if (r == -ENOTSUP)
            r = blk_node_pwrite(dst, off + done, buf + done, part);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Copies what the source shows of [off, off+len), `buf` being PIECE bytes. *reading tells which side failed. */
static int copy_range(struct blk_job *j, uint64_t off, uint64_t len, uint8_t *buf, bool *reading)
{
    struct blk_extent e;

    while (len) {
        int r = blk_node_status_above(j->source, NULL, off, len, &e, NULL);
        uint64_t part;

        *reading = true;
        if (r < 0)
            return r;
        if (j->compress) /* whole clusters: their borders are not those of the extents */
            e.len = e.flags & BLK_ST_ZERO && e.len >= len ? len : min_u64(len, PIECE);
        part = min_u64(e.len, PIECE);
        if ((e.flags & BLK_ST_ZERO || !(e.flags & BLK_ST_DATA)) && (!j->compress || e.len == len)) {
            part = e.len;
            *reading = false;
            r = blk_node_zeroes(j->target, off, part, j->no_unmap ? 0 : BLK_MAY_UNMAP);
        } else {
            r = blk_node_pread(j->source, off, buf, part);
            *reading = r < 0;
            if (r >= 0)
                r = j->compress ? write_compressed(j->target, off, part, buf)
                                : blk_node_pwrite(j->target, off, buf, part);
        }
        if (r < 0)
            return r;
        off += part;
        len -= part;
    }
    return 0;
}

/* A read or write of the job failed with r. True: it is to be tried again (after a pause, when the policy is to stop).
 */
static bool job_retries(struct blk_job *j, bool reading, int r)
{
    static const char *const actions[] = {"report", "ignore", "stop"};
    enum job_on_error p = reading ? j->on_source_error : j->on_target_error;

    if (p == JOB_ERR_ENOSPC)
        p = r == -ENOSPC ? JOB_ERR_STOP : JOB_ERR_REPORT;
    run_event(j->set->run, "BLOCK_JOB_ERROR",
              json_make("s:device", j->id, "s:operation", reading ? "read" : "write", "s:action",
                        actions[p == JOB_ERR_STOP ? 2 : p], NULL));
    if (p == JOB_ERR_REPORT)
        return false;
    if (p == JOB_ERR_STOP)
        j->paused = true;
    else
        blk_sleep(j->set, 100 * NS_PER_MS);
    return job_go_on(j, 0);
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

/* Write-blocking: what was just written goes to the target before the writer goes on. The lock orders it against the
 * copying in the background: whoever reads the source first also writes the target first. What cannot be written is
 * left to the background, which acts on the error. */
static void mirror_settled(struct blk_notify *b, uint64_t off, uint64_t len)
{
    struct blk_job *j = b->opaque;
    uint8_t *buf AUTOFREE = try_alloc_aligned(4096, PIECE);
    bool reading;

    fibre_mutex_lock(&j->lock);
    if (!buf || copy_range(j, off, len, buf, &reading) < 0)
        blk_bitmap_set(j->dirty, off, len);
    fibre_mutex_unlock(&j->lock);
}

static void mirror_listen(struct blk_job *j, bool on)
{
    if (on == j->listening)
        return;
    j->listening = on;
    if (!on) {
        blk_notify_del(&j->notify);
        return;
    }
    j->dirty->enabled = false;
    j->notify = (struct blk_notify){.settled = mirror_settled, .opaque = j};
    blk_notify_add(j->source, &j->notify);
}

static int copy_dirty_once(struct blk_job *j, uint64_t *at, uint64_t *done)
{
    uint64_t start, len;
    bool reading;
    int r;

    *done = 0;
    if (!blk_bitmap_next(j->dirty, *at, &start, &len)) {
        if (!blk_bitmap_next(j->dirty, 0, &start, &len))
            return 0;
    }
    len = min_u64(len, PIECE);
    if (j->active)
        fibre_mutex_lock(&j->lock);
    blk_bitmap_reset(j->dirty, start, len); /* before reading: a write from now on sets it again */
    *at = start + len;
    *done = len;
    r = copy_range(j, start, len, j->buf, &reading);
    if (j->active)
        fibre_mutex_unlock(&j->lock);
    if (r < 0) {
        blk_bitmap_set(j->dirty, start, len);
        *done = 0;
        if (job_retries(j, reading, r))
            r = 1; /* not done, but not given up */
        else if (j->cancelled)
            r = 1;
    }
    return r;
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
        else
            c->held += (unsigned)delta;
    }
}

/* The overlay of a live commit: from now on nobody keeps it in step with what lies below. */
static void mark(struct blk_job *j, struct blk_node *overlay, const char *into)
{
    if (j->type != JOB_COMMIT || !overlay->drv->mark_merged || overlay->drv->mark_merged(overlay, into) >= 0)
        return;
    warn_report("block job '%s': image '%s' could not be marked as merged", j->id, blk_node_filename(overlay));
}

/* Everything above the source is held; the last differences are copied; the target takes over. */
static int pivot(struct blk_job *j)
{
    uint64_t at = 0, done = 1;
    struct blk_node *src = j->replaces ? j->replaces : j->source, *dst = j->target;
    struct err *e = NULL;
    int r = 0;

    hold_above(src, 1);
    while (!quiet_now(src))
        breathe(j);
    do {
        r = j->dirty->dirty ? copy_dirty_once(j, &at, &done) : 0;
        breathe(j);
        if (r >= 0 && !j->dirty->dirty)
            r = blk_node_flush(dst);
    } while (r >= 0 && !j->cancelled && (j->dirty->dirty || j->source->in_flight));
    if (r >= 0 && j->cancelled)
        r = -ECANCELED;
    if (r >= 0) {
        mark(j, src, blk_node_filename(dst));
        mirror_listen(j, false);
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
            mark(j, src, NULL);
            hold_above(src, -1);
        } else {
            hold_above(dst, -1);
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

    j->dirty = blk_bitmap_new(j->source, NULL, j->gran, NULL);
    if (!j->dirty)
        return -ENOMEM;
    mirror_listen(j, j->active);
    r = mark_initial(j);
    j->len = j->dirty->dirty * j->gran;
    while (r >= 0) {
        r = copy_dirty_once(j, &at, &done);
        if (r < 0)
            break;
        if (!done && !r) {
            become_ready(j);
            j->complete |= j->auto_complete;
            if (j->complete)
                break;
            blk_sleep(j->set, 5 * NS_PER_MS);
        }
        if (!job_go_on(j, done))
            break;
        j->len = max_u64(j->len, j->offset + j->dirty->dirty * j->gran);
    }
    if (r >= 0 && j->complete && !j->cancelled && job_may_finish(j)) {
        j->pivot = true;
        r = pivot(j);
        if (r == -ECANCELED)
            j->pivot = false;
    } else if (r >= 0 && j->cancelled && j->status == JOB_READY && j->type == JOB_MIRROR && !j->force) {
        mirror_listen(j, false);
        r = blk_node_flush(j->target); /* a cancelled, ready mirror is a complete copy */
        j->pivot = true;
    }
    mirror_listen(j, false);
    blk_bitmap_free(j->dirty);
    j->dirty = NULL;
    return r;
}

/* ---- commit of layers below the active one ---- */

static int run_commit_lower(struct blk_job *j)
{
    uint64_t off = 0;
    bool reading = true;
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
            r = copy_range(j, off, part, j->buf, &reading);
        else
            part = e.len;
        if (r < 0 && job_retries(j, reading, r)) {
            r = 0;
            continue;
        }
        off += part;
        if (r >= 0 && !job_go_on(j, part))
            return 0;
    }
    if (r >= 0)
        r = blk_node_flush(j->target);
    if (r < 0)
        return r;
    if (!job_may_finish(j))
        return 0;
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
        if (r < 0 && job_retries(j, true, r)) {
            r = 0;
            continue;
        }
        off += part;
        if (r >= 0 && !job_go_on(j, part))
            return 0;
    }
    if (r >= 0)
        r = blk_node_flush(j->source);
    if (r >= 0 && !job_may_finish(j))
        return 0;
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
static int backup_copy(struct blk_job *j, uint64_t off, uint64_t len, bool *reading)
{
    uint64_t start, n, lo = align_down(off, j->gran), end = off + len;
    uint8_t *buf AUTOFREE = NULL;
    int r = 0;

    fibre_mutex_lock(&j->lock);
    while (r >= 0 && lo < end && blk_bitmap_next(j->dirty, lo, &start, &n) && start < end) {
        n = min_u64(n, min_u64(PIECE, align_up(end, j->gran) - start));
        if (!buf)
            buf = try_alloc_aligned(4096, PIECE);
        *reading = false;
        r = buf ? copy_range(j, start, min_u64(n, j->source->size - start), buf, reading) : -ENOMEM;
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
    bool reading;
    int r = backup_copy(j, off, len, &reading);

    if (r < 0 && j->ret >= 0) { /* the backup is spoiled, not the guest */
        j->ret = r;
        j->cancelled = j->pivot = true;
    }
    return 0;
}

static uint64_t backup_left(const struct blk_job *j)
{
    uint64_t sum = 0;

    for (uint64_t at = 0, start, n; blk_bitmap_next(j->dirty, at, &start, &n); at = start + n)
        sum += min_u64(n, j->source->size - start);
    return sum;
}

/* From the return of this on, the target will show the source as it is now. */
static bool backup_begin(struct blk_job *j, struct err **errp)
{
    j->dirty = blk_bitmap_new(j->source, NULL, j->gran, errp);
    if (!j->dirty)
        return false;
    j->dirty->enabled = false;
    if (j->bitmap) {
        j->first = blk_bitmap_new(j->source, NULL, j->bitmap->gran, errp);
        if (!j->first)
            return false;
        j->first->enabled = false;
        blk_bitmap_merge(j->first, j->bitmap, NULL);
        for (uint64_t at = 0, start, n; j->sync == SYNC_BITMAP && blk_bitmap_next(j->bitmap, at, &start, &n);
             at = start + n)
            blk_bitmap_set(j->dirty, start, n);
        blk_bitmap_reset(j->bitmap, 0, j->source->size); /* collects what comes after this point in time */
        j->bitmap->busy = true;
    }
    if (j->sync != SYNC_BITMAP)
        blk_bitmap_set(j->dirty, 0, j->source->size);
    j->len = j->sync == SYNC_NONE ? j->source->size : backup_left(j);
    j->notify = (struct blk_notify){.before = before_write, .opaque = j};
    blk_notify_add(j->source, &j->notify);
    return true;
}

/* Layers below need not be copied when the target is to have them as its backing file. */
static int backup_skip_lower(struct blk_job *j)
{
    struct blk_node *stop = blk_node_cow(j->source);
    uint64_t off = 0;

    while (stop && off < j->source->size) {
        struct blk_extent e;
        int r = blk_node_status_above(j->source, stop, off, j->source->size - off, &e, NULL);
        uint64_t lo = align_up(off, j->gran), hi = align_down(off + e.len, j->gran);

        if (r < 0)
            return r;
        if (!(e.flags & BLK_ST_ALLOC) && hi > lo)
            blk_bitmap_reset(j->dirty, lo, hi - lo);
        off += e.len;
    }
    return 0;
}

static void backup_end_bitmap(struct blk_job *j, bool ok)
{
    struct blk_bitmap *back = ok ? (j->bitmap_mode == BITMAP_NEVER ? j->first : NULL)
                                 : (j->bitmap_mode == BITMAP_ALWAYS ? j->dirty : j->first);

    for (uint64_t at = 0, start, n; back && blk_bitmap_next(back, at, &start, &n); at = start + n)
        blk_bitmap_set(j->bitmap, start, n);
    j->bitmap->busy = false;
}

static int run_backup(struct blk_job *j)
{
    uint64_t at = 0, start, n;
    bool reading = true;
    int r = j->sync == SYNC_TOP ? backup_skip_lower(j) : 0;

    if (j->sync == SYNC_TOP)
        j->len = backup_left(j);

    while (r >= 0 && j->sync != SYNC_NONE && blk_bitmap_next(j->dirty, at, &start, &n)) {
        n = min_u64(n, PIECE);
        r = backup_copy(j, start, n, &reading);
        if (r < 0 && job_retries(j, reading, r)) {
            r = 0;
            continue;
        }
        at = start + n;
        if (r >= 0 && !job_go_on(j, n))
            break;
    }
    while (j->sync == SYNC_NONE && !j->cancelled)
        blk_sleep(j->set, 20 * NS_PER_MS);
    if (r >= 0 && j->ret >= 0)
        r = blk_node_flush(j->target);
    if (r >= 0 && j->ret >= 0 && !j->cancelled)
        job_may_finish(j);
    blk_notify_del(&j->notify);
    r = r < 0 ? r : j->ret;
    if (j->bitmap)
        backup_end_bitmap(j, r >= 0 && !j->cancelled);
    if (r >= 0 && !j->cancelled)
        j->offset = j->len;
    blk_bitmap_free(j->dirty);
    blk_bitmap_free(j->first);
    j->dirty = j->first = NULL;
    return r;
}

/* ---- image creation ---- */

static int run_create(struct blk_job *j)
{
    struct err *e = NULL;

    j->len = 1;
    if (blk_create(j->set, j->create_file, j->create_fmt, j->create_opts, &e)) {
        j->offset = 1;
        if (j->target)
            blk_node_length(j->target);
        job_may_finish(j);
        return 0;
    }
    j->error = xstrdup(e->msg);
    err_free(e);
    return -EIO;
}

/* ---- work of other rooms ---- */

static void work_now(void *opaque)
{
    struct blk_job *j = opaque;
    struct err *e = NULL;

    if (!j->cancelled && !j->work(j->work_opaque, &e)) {
        j->error = xstrdup(e->msg);
        j->ret = -EIO;
        err_free(e);
    }
    fibre_resume(j->worker);
}

static int run_work(struct blk_job *j)
{
    j->len = 1;
    j->worker = fibre_self();
    ev_call(j->set->loop, work_now, j);
    fibre_yield();
    if (j->ret >= 0 && !j->cancelled)
        j->offset = 1;
    j->work_gone(j->work_opaque);
    j->work_gone = NULL;
    return j->ret;
}

bool blk_job_work(struct blk_set *s, const char *type, const char *id, bool (*fn)(void *opaque, struct err **errp),
                  void (*gone)(void *opaque), void *opaque, struct err **errp)
{
    struct blk_job *j = job_new(s, JOB_WORK, id, NULL, errp);

    if (!j) {
        gone(opaque);
        return false;
    }
    j->work_type = type;
    j->work = fn;
    j->work_gone = gone;
    j->work_opaque = opaque;
    j->auto_dismiss = false;
    return job_start(j, errp);
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
    case JOB_BACKUP:
        r = run_backup(j);
        break;
    case JOB_WORK:
        r = run_work(j);
        break;
    default:
        r = run_create(j);
    }
    if (r < 0)
        j->ret = r;
    if (j->ret < 0 || j->cancelled)
        group_fail(j);
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
    j->auto_dismiss = j->auto_finalize = true;
    j->gran = DFLT_GRAN;
    j->buf = try_alloc_aligned(4096, PIECE);
    if (!j->buf) {
        free(j->id);
        free(j);
        err_set(errp, "no memory");
        return NULL;
    }
    fibre_mutex_init(&j->lock);
    list_add(&s->jobs, &j->link);
    return j;
}

void job_drop(struct blk_job *j)
{
    blk_bitmap_free(j->dirty);
    blk_bitmap_free(j->first);
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

bool job_start(struct blk_job *j, struct err **errp)
{
    if (j->type == JOB_BACKUP && !backup_begin(j, errp)) {
        job_drop(j);
        return false;
    }
    j->begun = true;
    run_event(j->set->run, "JOB_STATUS_CHANGE", json_make("s:status", "created", "s:id", j->id, NULL));
    fibre_start(j->set->loop, job_run, j);
    return true;
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
