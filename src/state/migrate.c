/* Moving a machine: the same stream to another program, through a file, a command, a socket or a descriptor.
 *
 * The machine stops, everything is copied, and it goes on at the other end: stop-and-copy, no copying while it runs.
 * The copy is made by a fibre, so monitors are answered meanwhile and can end it; the machine then goes on here. Disks
 * are not part of the stream: both ends name the same images. A program that waits on a socket has opened them before
 * the other wrote its last, so there only formats without tables of their own (raw) may be writable; a file or a
 * command's output is read after the source has let go of its images. */
#include "base/json.h"
#include "blk/job.h"
#include "state/channel.h"

struct state_move {
    struct machine *m;  /* borrowed */
    struct blk_set *s;  /* borrowed */
    struct channel c;   /* while busy() */
    struct fibre *self; /* waits for the machine to settle */
    char *uri;          /* owned */
    enum state_move_status status;
    bool incoming, goes_on; /* goes_on: the machine runs when it has arrived */
    enum run_state was;
    char *error; /* owned: why the last one failed */
    int64_t begun, stopped, ended, connected;
    uint64_t moved, rate;
    bool events;
    state_moved_fn *done;
    void *opaque;
};

static const char *const status_names[] = {"none", "setup", "active", "cancelling", "cancelled", "completed", "failed"};

const char *state_move_status_name(enum state_move_status st)
{
    return status_names[st];
}

static void set_status(struct state_move *v, enum state_move_status st)
{
    v->status = st;
    if (v->events)
        run_event(v->m->run, "MIGRATION", json_make("s:status", status_names[st], NULL));
}

static int64_t now(const struct state_move *v)
{
    return clk_now(v->m->run->real);
}

struct state_move *state_move_new(struct machine *m, struct blk_set *s)
{
    struct state_move *v = xnew(struct state_move);

    v->m = m;
    v->s = s;
    return v;
}

bool state_move_busy(const struct state_move *v)
{
    return v->status == MOVE_SETUP || v->status == MOVE_ACTIVE || v->status == MOVE_CANCELLING;
}

struct state_move_info state_move_query(const struct state_move *v)
{
    bool busy = state_move_busy(v);
    int64_t end = busy ? now(v) : v->ended;

    return (struct state_move_info){.status = v->status,
                                    .incoming = v->incoming,
                                    .error = v->status == MOVE_FAILED ? v->error : NULL,
                                    .moved = busy ? v->c.moved : v->moved,
                                    .total_ns = end - v->begun,
                                    .setup_ns = (v->connected ? v->connected : end) - v->begun,
                                    .downtime_ns = v->stopped ? end - v->stopped : 0};
}

void state_move_set_rate(struct state_move *v, uint64_t bytes_per_second)
{
    v->rate = bytes_per_second;
}
uint64_t state_move_rate(const struct state_move *v)
{
    return v->rate;
}
void state_move_set_events(struct state_move *v, bool on)
{
    v->events = on;
}
bool state_move_events(const struct state_move *v)
{
    return v->events;
}

void state_move_cancel(struct state_move *v)
{
    if (!state_move_busy(v) || v->incoming || v->status == MOVE_CANCELLING)
        return;
    set_status(v, MOVE_CANCELLING);
    channel_cancel(&v->c);
}

static bool begin(struct state_move *v, const char *uri, bool out, struct err **errp)
{
    if (state_move_busy(v))
        return err_set(errp, "There's a migration process in progress");
    if (!state_can_save(v->m, errp) || !channel_open(&v->c, v->m->run, uri, out, errp))
        return false;
    v->c.rate = &v->rate;
    v->incoming = !out;
    free(v->error);
    v->error = NULL;
    v->begun = now(v);
    v->connected = v->stopped = v->ended = 0;
    set_status(v, MOVE_SETUP);
    return true;
}

/* The end of either direction; e (taken): the reason, NULL = it went well. */
static void finish(struct state_move *v, struct err *e)
{
    enum state_move_status st = !e ? MOVE_COMPLETED : v->status == MOVE_CANCELLING ? MOVE_CANCELLED : MOVE_FAILED;

    v->ended = now(v);
    v->moved = v->c.moved;
    if (e)
        v->error = xstrdup(e->msg);
    set_status(v, st);
    if (v->done)
        v->done(v->opaque, e);
    err_free(e);
}

/* ---- out ---- */

/* On the loop's own stack: it turns the loop until nothing is under way. */
static void settle(void *opaque)
{
    struct state_move *v = opaque;

    v->was = v->m->state;
    v->stopped = now(v);
    machine_stop(v->m, RS_FINISH_MIGRATE);
    state_settle(v->m, v->s);
    fibre_resume(v->self);
}

static bool send_all(struct state_move *v, struct err **errp)
{
    if (!channel_connect(&v->c, true, errp))
        return false;
    v->connected = now(v);
    if (v->status == MOVE_SETUP)
        set_status(v, MOVE_ACTIVE);
    v->self = fibre_self();
    ev_call(v->m->run->loop, settle, v);
    fibre_yield();
    return state_save(v->m, &v->c.sink, errp);
}

static void out_run(void *opaque)
{
    struct state_move *v = opaque;
    struct err *e = NULL;
    bool ok = send_all(v, &e);

    ok = channel_close(&v->c, ok ? &e : NULL) && ok;
    if (ok)
        machine_stop(v->m, RS_POSTMIGRATE);
    finish(v, e);
    if (ok || !v->stopped)
        return;
    if (v->was == RS_RUNNING)
        machine_start(v->m);
    else
        machine_stop(v->m, v->was);
}

bool state_move_out(struct state_move *v, const char *uri, struct err **errp)
{
    if (v->m->state == RS_INMIGRATE)
        return err_set(errp, "Guest is waiting for an incoming migration");
    if (v->m->state == RS_POSTMIGRATE)
        return err_set(errp, "Can't migrate the vm that was paused due to previous migration");
    if (!begin(v, uri, true, errp))
        return false;
    v->done = NULL;
    fibre_start(v->m->run->loop, out_run, v);
    return true;
}

/* ---- in ---- */

void state_move_expect(struct state_move *v, bool goes_on)
{
    v->goes_on = goes_on;
    machine_stop(v->m, RS_INMIGRATE);
}

static void in_run(void *opaque)
{
    struct state_move *v = opaque;
    struct err *e = NULL;
    bool touched = false, ok = channel_connect(&v->c, false, &e);

    if (ok) {
        v->connected = now(v);
        set_status(v, MOVE_ACTIVE);
        ok = state_load(v->m, &v->c.source, &touched, &e);
    }
    channel_close(&v->c, NULL);
    if (!ok && touched)
        machine_stop(v->m, RS_INTERNAL_ERROR);
    if (ok)
        machine_stop(v->m, v->m->suspended ? RS_SUSPENDED : RS_PAUSED);
    finish(v, e);
    if (ok && v->goes_on && !v->m->suspended)
        machine_start(v->m);
}

bool state_move_in(struct state_move *v, const char *uri, state_moved_fn *done, void *opaque, struct err **errp)
{
    if (v->m->state != RS_INMIGRATE) {
        err_set(errp, "'-incoming' was not specified on the command line");
        err_hint(errp, "A machine that has run cannot become another: start one with -incoming defer.");
        return false;
    }
    if (!begin(v, uri, false, errp))
        return false;
    if (channel_is_socket(&v->c) && blk_snap_can(v->s, NULL, NULL)) {
        v->status = MOVE_NONE;
        v->c.cancelled = true;
        channel_close(&v->c, NULL);
        err_set(errp, "a disk of this machine has a format whose tables would be out of date after the move");
        err_hint(errp, "Move through file: or exec:, or use raw images.");
        return false;
    }
    v->done = done;
    v->opaque = opaque;
    fibre_start(v->m->run->loop, in_run, v);
    return true;
}
