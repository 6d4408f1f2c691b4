/* Internal snapshots: the stream goes into the disk images beside the disks' own snapshots.
 *
 * Order when saving: stop, let every request end, write the state into the area the format keeps for it, then name
 * disks and state together. The machine goes on only after that, so all of them show the same moment. */
#include "blk/job.h"
#include "state/state_int.h"

struct vm_sink {
    struct state_sink s; /* first */
    struct blk_set *set;
    uint64_t pos;
};
struct vm_source {
    struct state_source s; /* first */
    struct blk_set *set;
    uint64_t pos, end; /* of what is not in buf yet */
    uint8_t *buf;      /* owned */
    size_t at, have;
};

static bool sink_write(struct state_sink *s, const void *buf, size_t len, struct err **errp)
{
    struct vm_sink *v = (struct vm_sink *)s;

    if (!blk_vmstate_write(v->set, v->pos, buf, len, errp))
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
        if (!blk_vmstate_read(v->set, v->pos, v->buf, n, errp))
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

static bool save_stopped(struct machine *m, struct blk_set *s, const char *name, struct err **errp)
{
    struct vm_sink v = {.s = {sink_write}, .set = s};
    bool ok;

    blk_vmstate_drop(s); /* left by something that was cut short */
    state_settle(m, s);
    ok = state_save(m, &v.s, errp) && blk_snap_save(s, name, v.pos, (uint64_t)clk_now(m->run->virt), errp);
    blk_vmstate_drop(s);
    return ok;
}

bool state_snap_save(struct machine *m, struct blk_set *s, const char *name, struct err **errp)
{
    enum run_state was = m->state;
    bool ok;

    if (!blk_snap_can(s, errp) || !state_can_save(m, errp))
        return false;
    machine_stop(m, RS_PAUSE_SAVE);
    ok = save_stopped(m, s, name, errp);
    if (was == RS_RUNNING)
        machine_start(m);
    else
        machine_stop(m, was);
    return ok;
}

static bool load_stopped(struct machine *m, struct blk_set *s, const char *name, bool *touched, struct err **errp)
{
    struct vm_source v = {.s = {source_read}, .set = s, .buf = try_alloc(1, STATE_BUF)};
    bool ok;

    *touched = false;
    if (!v.buf)
        return err_set(errp, "no memory to restore the machine");
    state_settle(m, s);
    ok = blk_snap_load(s, name, &v.end, errp);
    *touched = ok;
    if (ok) {
        ok = state_load(m, &v.s, touched, errp);
        *touched = true; /* the disks went back */
    }
    blk_vmstate_drop(s);
    free(v.buf);
    return ok;
}

bool state_snap_load(struct machine *m, struct blk_set *s, const char *name, struct err **errp)
{
    enum run_state was = m->state;
    bool ok, touched;

    if (!blk_snap_has(s, name, errp) || !state_can_save(m, errp))
        return false;
    machine_stop(m, RS_RESTORE);
    ok = load_stopped(m, s, name, &touched, errp);
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
