/* Internal snapshots of all drives at once, the machine state kept in the first one that can hold it; and HMP commit.
 */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>

/* Drives whose contents belong to a snapshot: writable ones with a medium. */
static struct blk_node *snap_node(struct blk *b)
{
    return b->root && !blk_readonly(b) ? blk_node_unfiltered(b->root->node) : NULL;
}

enum { MAX_DRIVES = 256 };

/* The disks a snapshot is of. */
struct disks {
    struct blk_node *n[MAX_DRIVES];
    const char *who[MAX_DRIVES]; /* for messages */
    unsigned nr;
    struct blk_node *keeper; /* of the machine's state, NULL = none can */
};

static bool disks_add(struct disks *d, struct blk_node *n, const char *who, struct err **errp)
{
    for (unsigned i = 0; i < d->nr; i++)
        if (d->n[i] == n)
            return true;
    if (d->nr == MAX_DRIVES)
        return err_set(errp, "more than %u drives cannot be part of one snapshot", MAX_DRIVES);
    d->n[d->nr] = n;
    d->who[d->nr++] = who;
    if (!d->keeper && n->drv->save_vmstate)
        d->keeper = n;
    return true;
}

static bool disks_named(struct disks *d, struct blk_set *s, const struct blk_snap_sel *sel, struct err **errp)
{
    struct blk_node *keeper = NULL;

    if (sel->vmstate) {
        keeper = blk_cmd_node(s, sel->vmstate, NULL);
        if (!keeper)
            return err_set(errp, "vmstate block device '%s' does not exist", sel->vmstate);
        keeper = blk_node_unfiltered(keeper);
    }
    for (size_t i = 0; sel->devices && i < json_object_array_length(sel->devices); i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(sel->devices, i));
        struct blk_node *n = blk_cmd_node(s, name, NULL);

        if (!n)
            return err_set(errp, "No block device node '%s'", name);
        if (!disks_add(d, blk_node_unfiltered(n), name, errp))
            return false;
    }
    if (!d->nr)
        return err_set(errp, "No block device was named for the snapshot");
    if (!keeper)
        return true;
    d->keeper = keeper;
    for (unsigned i = 0; i < d->nr; i++)
        if (d->n[i] == keeper)
            return keeper->drv->save_vmstate ||
                   err_set(errp, "vmstate block device '%s' does not support snapshots", sel->vmstate);
    return err_set(errp, "vmstate block device '%s' is not one of the snapshot's devices", sel->vmstate);
}

static bool disks_find(struct disks *d, struct blk_set *s, const struct blk_snap_sel *sel, struct err **errp)
{
    struct blk *b;

    d->nr = 0;
    d->keeper = NULL;
    if (sel)
        return disks_named(d, s, sel, errp);
    list_each (b, &s->drives, in_set) {
        struct blk_node *n = snap_node(b);

        if (n && !disks_add(d, n, b->is_drive ? b->id : n->name, errp))
            return false;
    }
    return d->nr || err_set(errp, "No block device can accept snapshots");
}

bool blk_snap_can(struct blk_set *s, const struct blk_snap_sel *sel, struct err **errp)
{
    struct disks d;

    if (!disks_find(&d, s, sel, errp))
        return false;
    for (unsigned i = 0; i < d.nr; i++) {
        if (blk_node_readonly(d.n[i]))
            return err_set(errp, "Device '%s' is read only: it cannot be part of a snapshot", d.who[i]);
        if (d.n[i]->drv->snap_create)
            continue;
        err_set(errp, "Device '%s' is writable but does not support snapshots", d.who[i]);
        err_hint(errp,
                 "Its format is %s. Convert the image (qemu-img convert -O qcow2), attach it read-only, run with "
                 "-snapshot, or take an external snapshot (blockdev-snapshot-sync).",
                 d.n[i]->drv->name);
        return false;
    }
    return true;
}

static struct blk_node *state_node(struct blk_set *s, const struct blk_snap_sel *sel)
{
    struct disks d;

    return disks_find(&d, s, sel, NULL) ? d.keeper : NULL;
}

struct xfer {
    struct blk_node *n;
    uint64_t pos;
    struct iov q;
    bool save;
    int ret;
};

static void xfer_run(void *opaque)
{
    struct xfer *x = opaque;

    x->ret = x->save ? x->n->drv->save_vmstate(x->n, x->pos, x->q.len, &x->q, 0)
                     : x->n->drv->load_vmstate(x->n, x->pos, x->q.len, &x->q, 0);
}

static bool move_state(struct blk_set *s, const struct blk_snap_sel *sel, uint64_t pos, void *buf, size_t len,
                       bool save, struct err **errp)
{
    struct iovec v = {buf, len};
    struct xfer x = {.n = state_node(s, sel), .pos = pos, .save = save};

    if (!x.n)
        return err_set(errp, "No block device can store the machine's state");
    iov_init_ext(&x.q, &v, 1);
    blk_run(s, xfer_run, &x);
    return x.ret >= 0 ||
           err_set_errno(errp, -x.ret,
                         save ? "Could not store the machine's state" : "Could not read the machine's state");
}

bool blk_vmstate_write(struct blk_set *s, const struct blk_snap_sel *sel, uint64_t pos, const void *buf, size_t len,
                       struct err **errp)
{
    return move_state(s, sel, pos, (void *)(uintptr_t)buf, len, true, errp);
}
bool blk_vmstate_read(struct blk_set *s, const struct blk_snap_sel *sel, uint64_t pos, void *buf, size_t len,
                      struct err **errp)
{
    return move_state(s, sel, pos, buf, len, false, errp);
}

/* ---- create, load, delete, each in a fibre ---- */

struct all {
    struct blk_set *s;
    struct disks *d;
    const char *name;
    uint64_t vm_size, clock;
    struct err **errp;
    bool ok;
};

static int find_by_name(struct blk_node *n, const char *name, struct blk_snap *out)
{
    struct blk_snap *sn = NULL;
    int nr = n->drv->snap_list ? n->drv->snap_list(n, &sn) : 0, found = -1;

    for (int i = 0; i < nr && found < 0; i++)
        if (!strcmp(sn[i].name, name))
            found = i;
    for (int i = 0; i < nr && found < 0; i++)
        if (!strcmp(sn[i].id, name))
            found = i;
    if (found >= 0 && out) {
        *out = sn[found];
        out->id = xstrdup(sn[found].id);
        out->name = xstrdup(sn[found].name);
    }
    blk_snaps_free(sn, nr > 0 ? nr : 0);
    return found;
}

/* The id of the snapshot with that name, or NULL. Caller frees. */
static char *id_by_name(struct blk_node *n, const char *name)
{
    struct blk_snap *sn = NULL;
    int nr = n->drv->snap_list ? n->drv->snap_list(n, &sn) : 0;
    char *id = NULL;

    for (int i = 0; i < nr && !id; i++)
        if (!strcmp(sn[i].name, name))
            id = xstrdup(sn[i].id);
    blk_snaps_free(sn, nr > 0 ? nr : 0);
    return id;
}

/* The newest of them: what a failed attempt added. */
static void undo_one(struct blk_node *n, const char *name, const char *old)
{
    struct blk_snap *sn = NULL;
    int nr = n->drv->snap_list ? n->drv->snap_list(n, &sn) : 0;

    for (int i = nr - 1; i >= 0; i--)
        if (!strcmp(sn[i].name, name) && (!old || strcmp(sn[i].id, old))) {
            n->drv->snap_delete(n, sn[i].id, name, NULL);
            break;
        }
    blk_snaps_free(sn, nr > 0 ? nr : 0);
}

/* All disks or none: what was added goes away again when a later one fails; what had the name before goes last. */
static void save_run(void *opaque)
{
    struct all *a = opaque;
    struct disks *d = a->d;
    char *old[MAX_DRIVES] = {NULL};
    unsigned done = 0;
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    a->ok = true;
    for (; a->ok && done < d->nr; done++) {
        struct blk_snap sn = {.name = (char *)(uintptr_t)a->name,
                              .date_sec = ts.tv_sec,
                              .date_nsec = (uint32_t)ts.tv_nsec,
                              .vm_clock_ns = a->clock,
                              .icount = UINT64_MAX,
                              .vm_size = d->n[done] == d->keeper ? a->vm_size : 0};

        old[done] = id_by_name(d->n[done], a->name);
        a->ok = d->n[done]->drv->snap_create(d->n[done], &sn, a->errp);
        if (!a->ok) {
            err_prefix(a->errp, "Device '%s': ", d->who[done]);
            free(old[done]);
            break;
        }
    }
    for (unsigned i = 0; i < done; i++) {
        if (!a->ok)
            undo_one(d->n[i], a->name, old[i]);
        else if (old[i])
            d->n[i]->drv->snap_delete(d->n[i], old[i], a->name, NULL);
        free(old[i]);
    }
}

bool blk_snap_save(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, uint64_t vm_size,
                   uint64_t vm_clock_ns, struct err **errp)
{
    BLK_HOME_SCOPE(s);
    struct disks d;
    struct all a = {s, &d, name, vm_size, vm_clock_ns, errp, false};

    if (!blk_snap_can(s, sel, errp) || !disks_find(&d, s, sel, errp))
        return false;
    blk_drain_all(s);
    blk_run(s, save_run, &a);
    return a.ok;
}

static void drop_run(void *opaque)
{
    struct blk_node *n = opaque;

    n->drv->drop_vmstate(n);
}

void blk_vmstate_drop(struct blk_set *s, const struct blk_snap_sel *sel)
{
    struct blk_node *n = state_node(s, sel);

    if (n && n->drv->drop_vmstate)
        blk_run(s, drop_run, n);
}

bool blk_snap_has(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, struct err **errp)
{
    struct disks d;

    if (!blk_snap_can(s, sel, errp) || !disks_find(&d, s, sel, errp))
        return false;
    for (unsigned i = 0; i < d.nr; i++) {
        struct blk_snap sn;

        if (find_by_name(d.n[i], name, &sn) < 0)
            return err_set(errp, "Device '%s' does not have the requested snapshot '%s'", d.who[i], name);
        free(sn.id);
        free(sn.name);
        if (d.n[i] == d.keeper && !sn.vm_size) {
            err_set(errp, "Snapshot '%s' holds only disks, not a running machine", name);
            err_hint(errp, "Go back to it with the machine off: qemu-img snapshot -a.");
            return false;
        }
    }
    return true;
}

bool blk_snap_free_name(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, struct err **errp)
{
    struct disks d;

    if (!blk_snap_can(s, sel, errp) || !disks_find(&d, s, sel, errp))
        return false;
    for (unsigned i = 0; i < d.nr; i++)
        if (find_by_name(d.n[i], name, NULL) >= 0)
            return err_set(errp, "Snapshot '%s' already exists in one or more devices", name);
    return true;
}

static void load_run(void *opaque)
{
    struct all *a = opaque;
    struct disks *d = a->d;

    for (unsigned i = 0; i < d->nr; i++) { /* every disk must have it before any goes back */
        struct blk_snap sn;

        if (find_by_name(d->n[i], a->name, &sn) < 0) {
            err_set(a->errp, "Snapshot '%s' does not exist in one or more devices", a->name);
            return;
        }
        if (d->n[i] == d->keeper)
            a->vm_size = sn.vm_size;
        free(sn.id);
        free(sn.name);
    }
    for (unsigned i = 0; i < d->nr; i++)
        if (!d->n[i]->drv->snap_goto(d->n[i], a->name, a->errp))
            return;
    a->ok = true;
}

bool blk_snap_load(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, uint64_t *vm_size,
                   struct err **errp)
{
    BLK_HOME_SCOPE(s);
    struct disks d;
    struct all a = {s, &d, name, 0, 0, errp, false};
    struct blk *b;

    if (!blk_snap_can(s, sel, errp) || !disks_find(&d, s, sel, errp))
        return false;
    blk_drain_all(s);
    blk_run(s, load_run, &a);
    list_each (b, &s->drives, in_set)
        if (snap_node(b))
            blk_handle_resized(b);
    *vm_size = a.vm_size;
    return a.ok;
}

static void delete_run(void *opaque)
{
    struct all *a = opaque;
    struct disks *d = a->d;

    for (unsigned i = 0; i < d->nr; i++) {
        struct blk_node *n = d->n[i];

        if (find_by_name(n, a->name, NULL) >= 0 && !n->drv->snap_delete(n, NULL, a->name, NULL) &&
            !n->drv->snap_delete(n, a->name, NULL, a->errp))
            return;
    }
    a->ok = true;
}

bool blk_snap_delete(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, struct err **errp)
{
    BLK_HOME_SCOPE(s);
    struct disks d;
    struct all a = {s, &d, name, 0, 0, errp, false};

    if (!blk_snap_can(s, sel, errp) || !disks_find(&d, s, sel, errp))
        return false;
    blk_drain_all(s);
    blk_run(s, delete_run, &a);
    return a.ok;
}

const char *blk_snap_throwaway(struct blk_set *s)
{
    struct disks d;

    if (disks_find(&d, s, NULL, NULL))
        for (unsigned i = 0; i < d.nr; i++)
            if (d.n[i]->throwaway)
                return d.who[i];
    return NULL;
}

char *blk_snap_info(struct blk_set *s)
{
    struct blk_node *n = state_node(s, NULL);
    struct blk_snap *sn = NULL;
    int nr = n ? n->drv->snap_list(n, &sn) : 0;
    struct strbuf t = {0};

    if (nr <= 0) {
        str_add(&t, n ? "There is no snapshot available.\n" : "No available block device supports snapshots\n");
        return str_take(&t);
    }
    str_addf(&t, "List of snapshots present on all disks:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE",
             "VM CLOCK", "ICOUNT");
    for (int i = 0; i < nr; i++) {
        uint64_t sec = sn[i].vm_clock_ns / 1000000000, ms = sn[i].vm_clock_ns / 1000000 % 1000;
        time_t when = (time_t)sn[i].date_sec;
        char date[32], clock[40], size[16];
        struct tm tm;

        localtime_r(&when, &tm);
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
        snprintf(clock, sizeof clock, "%02u:%02u:%02u.%03u", (unsigned)(sec / 3600), (unsigned)(sec / 60 % 60),
                 (unsigned)(sec % 60), (unsigned)ms);
        str_addf(&t, "%-9s %-16s %8s%20s%13s%11s\n", "--", sn[i].name, str_size(sn[i].vm_size, size, sizeof size), date,
                 clock, "");
    }
    blk_snaps_free(sn, nr);
    return str_take(&t);
}

/* ---- commit ---- */

struct down {
    struct blk *b;
    int ret;
};

static int copy_down(struct blk_node *top, struct blk_node *base)
{
    enum { PIECE = 1 << 20 };
    uint8_t *buf AUTOFREE = try_alloc_aligned(4096, PIECE);
    uint64_t off = 0;
    int r = buf ? 0 : -ENOMEM;

    while (r >= 0 && off < top->size) {
        struct blk_extent e;
        uint64_t len;

        r = blk_node_status(top, off, top->size - off, &e);
        if (r < 0)
            break;
        len = e.len;
        if (e.flags & BLK_ST_ALLOC && e.flags & BLK_ST_ZERO) {
            r = blk_node_zeroes(base, off, len, BLK_MAY_UNMAP);
        } else if (e.flags & BLK_ST_ALLOC) {
            len = min_u64(len, PIECE);
            r = blk_node_pread(top, off, buf, len);
            if (r >= 0)
                r = blk_node_pwrite(base, off, buf, len);
        }
        off += len;
    }
    if (r >= 0)
        r = blk_node_flush(base); /* durable below before it goes above */
    if (r >= 0 && top->drv->make_empty)
        r = top->drv->make_empty(top);
    return r < 0 ? r : 0;
}

static void down_run(void *opaque)
{
    struct down *d = opaque;
    struct blk_node *top = blk_node_unfiltered(d->b->root->node);

    d->ret = copy_down(top, blk_node_cow(top));
}

static bool commit_one(struct blk *b, struct err **errp)
{
    struct blk_node *top = blk_node_unfiltered(b->root->node), *base = blk_node_cow(top);
    struct down d = {.b = b};
    bool was_ro = blk_node_readonly(base), ok;
    struct blk_child *edge;

    top->backing_rw = true;
    ok = blk_perm_update(top, errp) && blk_node_reopen(base, true, errp);
    edge = ok ? blk_child_root(base, "commit", BLK_PERM_READ | BLK_PERM_WRITE, BLK_PERM_ALL, errp) : NULL;
    if (edge && base->size < top->size)
        ok = blk_node_truncate(base, top->size, BLK_PREALLOC_OFF, errp) >= 0;
    if (edge && ok) {
        blk_quiesce(b);
        blk_run(b->set, down_run, &d);
        blk_unquiesce(b);
        ok = d.ret >= 0 || err_set_errno(errp, -d.ret, "'commit' error for '%s'", b->id);
    }
    blk_child_detach(edge);
    if (was_ro)
        blk_node_reopen(base, false, NULL);
    top->backing_rw = false;
    blk_perm_update(top, NULL);
    return edge && ok;
}

bool blk_commit(struct blk_set *s, const char *id, struct err **errp)
{
    struct blk *b;
    bool found = false;

    list_each (b, &s->drives, in_set) {
        if (id && strcmp(b->id, id) != 0)
            continue;
        found = true;
        if (!b->root || !blk_node_cow(b->root->node)) {
            if (id)
                return err_set(errp, "Device '%s' has no backing file to commit into", id);
            continue;
        }
        if (!commit_one(b, errp))
            return false;
    }
    return found || !id || err_set(errp, "Device '%s' not found", id);
}
