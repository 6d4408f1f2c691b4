/* I/O threads: a thread that turns a loop of its own, without the machine lock.
 *
 * Its callbacks run with the thread's own lock held, which is dropped while it waits: whoever holds it knows that none
 * of them runs. Lock order: the machine lock before an I/O thread's. Code that runs on an I/O thread therefore never
 * waits for the machine lock: it tries (run_trylock), or defers to the machine's loop. */
#ifndef RUN_IOTHREAD_H
#define RUN_IOTHREAD_H

#include "base/err.h"
#include "run/loop.h"
#include <pthread.h>

struct iothread {
    struct ev_loop *loop; /* owned */
    pthread_t thr;
    pthread_mutex_t lock; /* recursive */
    int tid;              /* as the kernel numbers it */
    char name[16];
};
bool iothread_start(struct iothread *t, const char *name, struct err **errp);
void iothread_stop(struct iothread *t); /* nothing may be left to do on its loop */
/* Keeps callbacks of t from running; nests. From any thread, t's own included. NULL: nothing happens. */
void iothread_enter(struct iothread *t);
void iothread_leave(struct iothread *t);
/* The one this thread is, or NULL. */
struct iothread *iothread_self(void);

#endif
