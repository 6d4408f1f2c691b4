/* Worker threads for system calls that may block. A fibre hands over one function and sleeps until it has run.
 *
 * Threads are made on demand up to POOL_MAX and end with the pool. One queue, first come first served. Calls of one
 * lane run one after the other, on the worker that has begun with the lane as long as there are any: for what the
 * kernel lets only one thread do at a time anyway. */
#include "base/thread.h"
#include "blk/blk_int.h"
#include <pthread.h>

enum { POOL_MAX = 32 };

struct job {
    struct list link;
    int (*fn)(void *opaque);
    void *opaque;
    int ret;
    struct fibre *fibre;
    struct ev_loop *loop;
    struct blk_lane *lane; /* borrowed, NULL = none */
};

struct blk_pool {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct list queue;
    unsigned nr, idle, queued;
    bool stop;
    pthread_t thr[POOL_MAX];
};

/* What comes after a call of that lane; NULL: nothing, the lane is free. Called with the lock held. */
static struct job *lane_next(struct blk_lane *lane)
{
    struct job *j = NULL;

    lane->busy = lane->waiting.next && !list_empty(&lane->waiting);
    if (lane->busy) {
        j = list_first(&lane->waiting, struct job, link);
        list_del(&j->link);
    }
    return j;
}

static void *worker(void *opaque)
{
    struct blk_pool *p = opaque;
    struct job *next = NULL;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct job *j = next;

        while (!j && list_empty(&p->queue) && !p->stop) {
            p->idle++;
            pthread_cond_wait(&p->cond, &p->lock);
            p->idle--;
        }
        if (!j && list_empty(&p->queue))
            break;
        if (!j) {
            j = list_first(&p->queue, struct job, link);
            list_del(&j->link);
            p->queued--;
        }
        pthread_mutex_unlock(&p->lock);
        j->ret = j->fn(j->opaque);
        pthread_mutex_lock(&p->lock);
        next = j->lane ? lane_next(j->lane) : NULL;
        pthread_mutex_unlock(&p->lock);
        fibre_wake(j->loop, j->fibre); /* j is gone once the fibre runs */
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct blk_pool *blk_pool_new(void)
{
    struct blk_pool *p = xnew(struct blk_pool);

    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->cond, NULL);
    list_init(&p->queue);
    return p;
}

void blk_pool_free(struct blk_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->nr; i++)
        pthread_join(p->thr[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->cond);
    free(p);
}

/* Called with the lock held. */
static void pool_grow(struct blk_pool *p)
{
    if (!thread_start(&p->thr[p->nr], worker, p))
        p->nr++;
}

int blk_pool_run(struct blk_pool *p, struct ev_loop *l, struct blk_lane *lane, int (*fn)(void *), void *opaque)
{
    struct job j = {.fn = fn, .opaque = opaque, .fibre = fibre_self(), .loop = l, .lane = lane};
    bool wake;

    if (!j.fibre)
        return fn(opaque);
    pthread_mutex_lock(&p->lock);
    if (lane && lane->busy) {
        if (!lane->waiting.next)
            list_init(&lane->waiting);
        list_add(&lane->waiting, &j.link);
        pthread_mutex_unlock(&p->lock);
        fibre_yield();
        return j.ret;
    }
    list_add(&p->queue, &j.link);
    wake = p->idle > 0;
    if (++p->queued > p->idle && p->nr < POOL_MAX)
        pool_grow(p);
    if (!p->nr) { /* no thread to be had: do it here */
        list_del(&j.link);
        p->queued--;
        pthread_mutex_unlock(&p->lock);
        return fn(opaque);
    }
    if (lane)
        lane->busy = true;
    pthread_mutex_unlock(&p->lock);
    if (wake) /* one that was not idle looks at the queue before it sleeps */
        pthread_cond_signal(&p->cond);
    fibre_yield();
    return j.ret;
}

int blk_offload_lane(struct blk_set *s, struct blk_lane *lane, int (*fn)(void *opaque), void *opaque)
{
    if (!fibre_self())
        return fn(opaque);
    if (!s->pool)
        s->pool = blk_pool_new();
    return blk_pool_run(s->pool, blk_set_loop(s), lane, fn, opaque);
}

int blk_offload(struct blk_set *s, int (*fn)(void *opaque), void *opaque)
{
    return blk_offload_lane(s, NULL, fn, opaque);
}
