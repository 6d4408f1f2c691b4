/* What runs one machine: its loop, its clocks, its lock, and its event feed. Two machines in one process share nothing.
 *
 * The machine lock serialises device models: vCPU threads take it around device accesses (unless the region is
 * marked MEM_UNLOCKED), the main loop around callbacks. It is not recursive. Never wait for a vCPU while holding it. */
#ifndef RUN_RUN_H
#define RUN_RUN_H

#include "run/clock.h"

struct json_object;
struct run {
    struct ev_loop *loop;
    struct clk *real, *host, *virt;
};
struct run *run_new(void); /* the calling thread becomes the main thread and holds the lock */
void run_free(struct run *r);
void run_lock(struct run *r);
bool run_trylock(struct run *r); /* false: somebody has it; never waits */
void run_unlock(struct run *r);
bool run_locked(const struct run *r); /* by this thread */
void run_event(struct run *r, const char *name, struct json_object *data /* owned by the call, may be NULL */);
typedef void run_event_fn(void *opaque, const char *name, struct json_object *data);
/* Every listener sees every event (QMP, tests), on the thread that raised it, machine lock held. */
void run_listen(struct run *r, run_event_fn *fn, void *opaque);
void run_unlisten(struct run *r, run_event_fn *fn, void *opaque);

/* The lock for the length of a block: RUN_LOCK_SCOPE(r); does nothing when this thread already holds it. */
struct run_scope {
    struct run *r; /* NULL when it was held before */
};
struct run_scope run_scope_enter(struct run *r);
void run_scope_leave(struct run_scope *s);
#define RUN_LOCK_SCOPE(r) struct run_scope run_scope_ CLEANUP(run_scope_leave) UNUSED = run_scope_enter(r)

#endif
