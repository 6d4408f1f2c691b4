/* Event loop: file descriptors, deferred calls, and the wait that feeds timers (run/clock.h).
 *
 * One loop per machine runs on the main thread; I/O threads own further loops. All callbacks run on the loop's
 * thread. ev_fd_* may be called only there; ev_bh_schedule, ev_call and ev_loop_wake from any thread or signal-free
 * context. The machine's loop holds the machine lock (run/run.h) around callbacks and drops it while it waits. */
#ifndef RUN_LOOP_H
#define RUN_LOOP_H

#include "base/list.h"

enum { EV_IN = 1, EV_OUT = 2, EV_ERR = 4 /* always reported, never asked for */ };
struct ev_loop;
struct ev_fd;
typedef void ev_fd_fn(void *opaque, int fd, unsigned events);
typedef void ev_fn(void *opaque);

struct ev_loop *ev_loop_new(void);
void ev_loop_free(struct ev_loop *l);
/* Called around each wait, on the loop's thread. */
void ev_loop_set_wait_hooks(struct ev_loop *l, ev_fn *before, ev_fn *after, void *opaque);

/* Watches fd (borrowed) for events; 0 pauses it. */
struct ev_fd *ev_fd_add(struct ev_loop *l, int fd, unsigned events, ev_fd_fn *fn, void *opaque);
void ev_fd_set(struct ev_fd *f, unsigned events);
void ev_fd_del(struct ev_fd *f); /* NULL is allowed; safe inside its own callback */

/* A deferred call embedded in its owner: runs once on the loop after being scheduled, however often that was. */
struct ev_bh {
    struct list link;
    struct ev_loop *loop;
    ev_fn *fn;
    void *opaque;
    bool scheduled;
};
void ev_bh_init(struct ev_bh *b, struct ev_loop *l, ev_fn *fn, void *opaque);
void ev_bh_schedule(struct ev_bh *b);
void ev_bh_cancel(struct ev_bh *b); /* required before the owner goes away */
/* One-shot deferred call (allocates). */
void ev_call(struct ev_loop *l, ev_fn *fn, void *opaque);

/* One turn: waits until something is ready, a timer of an attached clock is due or timeout_ns passed (-1: no limit),
 * then runs callbacks. True when any ran. */
bool ev_loop_turn(struct ev_loop *l, int64_t timeout_ns);
void ev_loop_run(struct ev_loop *l);           /* turns until ev_loop_stop */
void ev_loop_stop(struct ev_loop *l);          /* any thread */
void ev_loop_wake(struct ev_loop *l);          /* any thread: makes a wait return */
bool ev_loop_is_mine(const struct ev_loop *l); /* on the loop's thread? (the thread of the latest turn) */

#endif
