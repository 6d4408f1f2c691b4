/* Internal snapshots: the stream goes into the disk images beside the disks' own snapshots.
 *
 * Order when saving: stop, let every request end, write the state into the area the format keeps for it, then name
 * disks and state together. The machine goes on only after that, so all of them show the same moment. */
#include "base/json.h"
#include "blk/job.h"
#include "state/state_int.h"

struct vm_sink {
    struct state_sink s; /* first */
    struct blk_set *set;
    const struct blk_snap_sel *sel;
    uint64_t pos;
};
struct vm_source {
    struct state_source s; /* first */
    struct blk_set *set;
    const struct blk_snap_sel *sel;
    uint64_t pos, end; /* of what is not in buf yet */
    uint8_t *buf;      /* owned */
    size_t at, have;
};

static bool sink_write(struct state_sink *s, const void *buf, size_t len, struct err **errp)
{
    struct vm_sink *v = (struct vm_sink *)s;

    if (!blk_vmstate_write(v->set, v->sel, v->pos, buf, len, errp))
        return false;
    v->pos += len;
    return true;
}

static bool source_read(struct state_source *s, void *buf, size_t len, struct err **errp)
{
    struct vm_source *v = (struct vm_source *)s;
    uint8_t *out = buf;

    while (len) {
        size_t n = min_u64(len, v->have - v->at);

        memcpy(out, v->buf + v->at, n);
        v->at += n;
        out += n;
        len -= n;
        if (!len)
            break;
        n = min_u64(STATE_BUF, v->end - v->pos);
        if (!n)
            return err_set(errp, "the saved state ends too early");
        if (!blk_vmstate_read(v->set, v->sel, v->pos, v->buf, n, errp))
            return false;
        v->pos += n;
        v->at = 0;
        v->have = n;
    }
    return true;
}

/* What is under way ends, and what its end starts. */
void state_settle(struct machine *m, struct blk_set *s)
{
    enum { TURNS = 64 };

    for (unsigned i = 0; i < TURNS; i++) {
        blk_drain_all(s);
        if (!ev_loop_turn(m->run->loop, 0))
            break;
    }
    blk_drain_all(s);
}

static bool save_stopped(struct machine *m, struct blk_set *s, const struct blk_snap_sel *sel, const char *name,
                         struct err **errp)
{
    struct vm_sink v = {.s = {sink_write}, .set = s, .sel = sel};
    bool ok;

    blk_vmstate_drop(s, sel); /* left by something that was cut short */
    state_settle(m, s);
    ok = state_save(m, &v.s, errp) && blk_snap_save(s, sel, name, v.pos, (uint64_t)clk_now(m->run->virt), errp);
    blk_vmstate_drop(s, sel);
    return ok;
}

bool state_snap_save(struct machine *m, struct blk_set *s, const struct blk_snap_sel *sel, const char *name,
                     struct err **errp)
{
    enum run_state was = m->state;
    bool ok;

    if (!blk_snap_can(s, sel, errp) || !state_can_save(m, errp))
        return false;
    machine_stop(m, RS_PAUSE_SAVE);
    ok = save_stopped(m, s, sel, name, errp);
    if (was == RS_RUNNING)
        machine_start(m);
    else
        machine_stop(m, was);
    return ok;
}

static bool load_stopped(struct machine *m, struct blk_set *s, const struct blk_snap_sel *sel, const char *name,
                         bool *touched, struct err **errp)
{
    struct vm_source v = {.s = {source_read}, .set = s, .sel = sel, .buf = try_alloc(1, STATE_BUF)};
    bool ok;

    *touched = false;
    if (!v.buf)
        return err_set(errp, "no memory to restore the machine");
    state_settle(m, s);
    ok = blk_snap_load(s, sel, name, &v.end, errp);
    *touched = ok;
    if (ok) {
        ok = state_load(m, &v.s, touched, errp);
        *touched = true; /* the disks went back */
    }
    blk_vmstate_drop(s, sel);
    free(v.buf);
    return ok;
}

bool state_snap_load(struct machine *m, struct blk_set *s, const struct blk_snap_sel *sel, const char *name,
                     struct err **errp)
{
    enum run_state was = m->state;
    bool ok, touched;

    if (!blk_snap_has(s, sel, name, errp) || !state_can_save(m, errp))
        return false;
    machine_stop(m, RS_RESTORE);
    ok = load_stopped(m, s, sel, name, &touched, errp);
    if (!ok && touched) {
        machine_stop(m, RS_INTERNAL_ERROR);
        err_hint(errp, "Disks have gone back, the machine is only partly restored: load another snapshot or reset it.");
    } else if (ok && m->suspended) {
        machine_stop(m, RS_SUSPENDED);
    } else if (was == RS_RUNNING || (ok && was == RS_SUSPENDED)) {
        machine_start(m);
    } else {
        machine_stop(m, was == RS_RESTORE || (ok && was == RS_INTERNAL_ERROR) ? RS_PAUSED : was);
    }
    return ok;
}

/* ---- as jobs ---- */

struct snap_job {
    struct machine *m;
    struct blk_set *s;
    char *what, *name, *vmstate; /* owned */
    struct blk_snap_sel sel;
};

static bool job_work(void *opaque, struct err **errp)
{
    struct snap_job *j = opaque;

    if (!strcmp(j->what, "snapshot-load"))
        return state_snap_load(j->m, j->s, &j->sel, j->name, errp);
    if (!strcmp(j->what, "snapshot-delete"))
        return blk_snap_delete(j->s, &j->sel, j->name, errp);
    return blk_snap_free_name(j->s, &j->sel, j->name, errp) && state_snap_save(j->m, j->s, &j->sel, j->name, errp);
}

static void job_gone(void *opaque)
{
    struct snap_job *j = opaque;

    json_object_put(j->sel.devices);
    free(j->what);
    free(j->name);
    free(j->vmstate);
    free(j);
}

bool state_snap_job(struct machine *m, struct blk_set *s, const char *what, const char *id,
                    const struct blk_snap_sel *sel, const char *name, struct err **errp)
{
    struct snap_job *j = xnew(struct snap_job);

    j->m = m;
    j->s = s;
    j->what = xstrdup(what);
    j->name = xstrdup(name);
    j->vmstate = sel->vmstate ? xstrdup(sel->vmstate) : NULL;
    j->sel = (struct blk_snap_sel){.vmstate = j->vmstate, .devices = json_object_get(sel->devices)};
    return blk_job_work(s, what, id, job_work, job_gone, j, errp);
}
