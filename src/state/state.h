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
/* Stops the machine as long as it takes and lets it go on if it ran. Any run state. */
bool state_snap_save(struct machine *m, struct blk_set *s, const char *name, struct err **errp);
bool state_snap_load(struct machine *m, struct blk_set *s, const char *name, struct err **errp);

/* ---- migrate.c: to another program; uri is exec:CMD, file:PATH, tcp:HOST:PORT or unix:PATH ---- */
/* Stop and copy. The machine stays stopped (postmigrate) when it has gone, and goes on if it ran when it has not. */
bool state_move_out(struct machine *m, struct blk_set *s, const char *uri, struct err **errp);
/* Waits for it and becomes it, still stopped. For a machine that has not run. */
bool state_move_in(struct machine *m, struct blk_set *s, const char *uri, struct err **errp);

#endif
