/* Saving and restoring a running machine: streams, internal snapshots, migration.
 *
 * A stream is a header and named sections (docs/state.md): what machine it is, one section per device and processor
 * made from its state description (obj/state.h), the non-zero pages of every memory block, an end mark. Every piece
 * carries a checksum. A reader trusts nothing: lengths are bounded, names and fields are checked against the present
 * machine before anything of it is changed, and a refusal says in one line which device or field it is about.
 *
 * Main loop, machine lock held, machine stopped, unless a function says otherwise. */
#ifndef STATE_STATE_H
#define STATE_STATE_H

#include "base/err.h"
#include "base/str.h"
#include "blk/blk.h"
#include "blk/job.h"
#include "dev/dev.h"

/* Where the bytes of a stream go to and come from. */
struct state_sink {
    bool (*write)(struct state_sink *s, const void *buf, size_t len, struct err **errp);
};
struct state_source {
    /* Exactly len bytes, or false. */
    bool (*read)(struct state_source *s, void *buf, size_t len, struct err **errp);
};

/* ---- stream.c ---- */
/* 64 bits of checksum over buf, seeded. Not against forgery. */
uint64_t state_sum(uint64_t seed, const void *buf, size_t len);

/* ---- fields.c: one object ---- */
/* Appends obj's state to out; false when its pre_save refuses. */
bool state_fields_put(struct strbuf *out, const struct state_desc *d, void *obj, struct err **errp);
/* Checks n bytes made by state_fields_put against d and, with apply, stores them and runs the post_load hooks. who
 * begins the error message. Without apply nothing is changed. */
bool state_fields_get(const void *buf, size_t n, const struct state_desc *d, void *obj, bool apply, const char *who,
                      struct err **errp);

/* ---- machine.c: everything ---- */
/* Can it be saved at all? Names the first device that cannot. Any run state. */
bool state_can_save(struct machine *m, struct err **errp);
bool state_save(struct machine *m, struct state_sink *to, struct err **errp);
/* Resets the machine and makes it what the stream says. On failure *touched tells whether the machine was changed: then
 * it is no longer anything that can go on. */
bool state_load(struct machine *m, struct state_source *from, bool *touched, struct err **errp);

/* ---- snap.c: snapshots inside the machine's disks ---- */
/* Stops the machine as long as it takes and lets it go on if it ran. Any run state. sel: which disks, NULL = all. */
bool state_snap_save(struct machine *m, struct blk_set *s, const struct blk_snap_sel *sel, const char *name,
                     struct err **errp);
bool state_snap_load(struct machine *m, struct blk_set *s, const struct blk_snap_sel *sel, const char *name,
                     struct err **errp);
/* The same and blk_snap_delete as jobs of the set: what is "snapshot-save", "snapshot-load" or "snapshot-delete", sel
 * is copied, a snapshot of that name is not taken over. Errors that come later are the job's. */
bool state_snap_job(struct machine *m, struct blk_set *s, const char *what, const char *id,
                    const struct blk_snap_sel *sel, const char *name, struct err **errp);

/* ---- migrate.c: to another program; uri is exec:CMD, fd:NUMBER, file:PATH, tcp:HOST:PORT or unix:PATH ---- */
/* One per machine: what moves it. The loop goes on meanwhile; MIGRATION events when wanted. */
enum state_move_status {
    MOVE_NONE,
    MOVE_SETUP, /* the other side is not there yet */
    MOVE_ACTIVE,
    MOVE_CANCELLING,
    MOVE_CANCELLED,
    MOVE_COMPLETED,
    MOVE_FAILED
};
struct state_move_info {
    enum state_move_status status;
    bool incoming;
    const char *error; /* of MOVE_FAILED; lives until the next move begins */
    uint64_t moved;    /* bytes */
    int64_t total_ns, setup_ns, downtime_ns;
};
struct state_move *state_move_new(struct machine *m, struct blk_set *s);
/* Stop and copy. The machine stays stopped (postmigrate) when it has gone, and goes on if it ran when it has not. */
bool state_move_out(struct state_move *v, const char *uri, struct err **errp);
/* From now on the machine waits to become one that arrives; goes_on: it runs then. */
void state_move_expect(struct state_move *v, bool goes_on);
/* e: why it did not arrive, NULL = it did; lent for the call. */
typedef void state_moved_fn(void *opaque, const struct err *e);
/* Receives it, after state_move_expect. done may be NULL. */
bool state_move_in(struct state_move *v, const char *uri, state_moved_fn *done, void *opaque, struct err **errp);
void state_move_cancel(struct state_move *v); /* of one that goes out; nothing when there is none */
bool state_move_busy(const struct state_move *v);
struct state_move_info state_move_query(const struct state_move *v);
const char *state_move_status_name(enum state_move_status st);             /* QMP spelling */
void state_move_set_rate(struct state_move *v, uint64_t bytes_per_second); /* 0 = no limit */
uint64_t state_move_rate(const struct state_move *v);
void state_move_set_events(struct state_move *v, bool on);
bool state_move_events(const struct state_move *v);

#endif
