/* See iothread.h. The current I/O thread is a thread-local variable: it belongs to the thread, not to a machine. */
#include "run/iothread.h"
#include "base/thread.h"
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static __thread struct iothread *self;

struct iothread __attribute__((noinline)) * iothread_self(void)
{
    __asm__ volatile("" ::: "memory"); /* a fibre may go on in another thread than it was suspended in */
    return self;
}

static void before_wait(void *opaque)
{
    iothread_leave(opaque);
}

static void after_wait(void *opaque)
{
    iothread_enter(opaque);
}

static void *iothread_main(void *opaque)
{
    struct iothread *t = opaque;

    self = t;
    pthread_setname_np(pthread_self(), t->name);
    iothread_enter(t);
    __atomic_store_n(&t->tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
    ev_loop_run(t->loop);
    iothread_leave(t);
    return NULL;
}

bool iothread_start(struct iothread *t, const char *name, struct err **errp)
{
    pthread_mutexattr_t a;
    int r;

    snprintf(t->name, sizeof t->name, "IO %s", name);
    pthread_mutexattr_init(&a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&t->lock, &a);
    pthread_mutexattr_destroy(&a);
    t->loop = ev_loop_new();
    ev_loop_set_wait_hooks(t->loop, before_wait, after_wait, t);
    r = thread_start(&t->thr, iothread_main, t);
    if (r) {
        ev_loop_free(t->loop);
        t->loop = NULL;
        return err_set_errno(errp, r, "cannot start a thread");
    }
    while (!__atomic_load_n(&t->tid, __ATOMIC_ACQUIRE)) /* query-iothreads shows it at once */
        usleep(20);
    return true;
}

void iothread_stop(struct iothread *t)
{
    if (!t->loop)
        return;
    ev_loop_stop(t->loop);
    pthread_join(t->thr, NULL);
    ev_loop_free(t->loop);
    pthread_mutex_destroy(&t->lock);
    t->loop = NULL;
}

void iothread_enter(struct iothread *t)
{
    if (t)
        pthread_mutex_lock(&t->lock);
}

void iothread_leave(struct iothread *t)
{
    if (t)
        pthread_mutex_unlock(&t->lock);
}
