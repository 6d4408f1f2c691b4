/* Fibres: stackful coroutines, so that block drivers read like blocking code while the loop goes on.
 * A fibre runs on the thread that resumes it and may move between threads only while suspended. */
#ifndef RUN_FIBRE_H
#define RUN_FIBRE_H

#include "run/loop.h"

struct fibre;
typedef void fibre_fn(void *opaque);
struct fibre *fibre_new(fibre_fn *fn, void *opaque); /* freed when fn returns */
void fibre_resume(struct fibre *f);                  /* returns when f yields or ends */
void fibre_yield(void);                              /* only inside a fibre */
struct fibre *fibre_self(void);                      /* NULL outside fibres */
/* Convenience: start fn in a fibre on loop l from any thread. */
void fibre_start(struct ev_loop *l, fibre_fn *fn, void *opaque);
/* Resumes f on loop l, from any thread; the usual completion of an asynchronous request. */
void fibre_wake(struct ev_loop *l, struct fibre *f);
/* A mutex that suspends the fibre instead of the thread; waiters are served in order. */
struct fibre_mutex {
    struct list waiters;
    struct fibre *owner;
    bool locked;
    int guard;
};
void fibre_mutex_init(struct fibre_mutex *m);
void fibre_mutex_lock(struct fibre_mutex *m);
void fibre_mutex_unlock(struct fibre_mutex *m);

#endif
