/* The second tier: blocks that run much are translated again, for speed rather than for size.
 *
 * A thread of its own looks a thousand times a second where each vCPU is that runs translated code: a signal whose
 * handler notes the host's rip (fault.c). A block found three times within some 128 ms is put out of use and marked, so
 * that it is made anew: with slots for all its accesses, and beyond the places where paths meet (x86_rw_env.tier2).
 * While no vCPU runs it looks more and more rarely, down to every 64 ms.
 *
 * Why two: a slot makes an access as fast as the bare CPU's, but in a large program thousands of them, each used now
 * and then, throw each other out; the TLB is one table for all (DBT_MANY_SLOTS). */
#include "accel/dbt/dbt_int.h"
#include "base/str.h"
#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <time.h>

enum { LOOK_NS = 1000000, IDLE_MAX = 6, SAMPLES = 3, WINDOW = 128 /* looks */, SEEN = 1024 };
enum { WARM_BITS = 1 << 17 };

struct dbt_tier {
    struct dbt *d;
    pthread_t thread;
    pthread_mutex_t lock; /* guards stop; the CPUs stay while it is held */
    pthread_cond_t cond;
    bool stop;
    uint32_t looks;
    struct {
        uint64_t place;
        uint32_t mode, n, first; /* first: the look that found it first */
    } seen[SEEN];
    uint8_t warm[WARM_BITS / 8]; /* with the cache's lock */
    uint64_t samples, made;
};

static unsigned hash(uint64_t place)
{
    return (unsigned)(place * UINT64_C(0x9e3779b97f4a7c15) >> 47);
}

bool dbt_tier_is_hot(const struct dbt *d, uint64_t place)
{
    const struct dbt_tier *t = d->tier;
    unsigned bit = hash(place);

    return t ? t->warm[bit / 8] >> (bit & 7) & 1 : d->tier_first;
}

void dbt_tier_forget(struct dbt *d)
{
    if (d->tier)
        memset(d->tier->warm, 0, sizeof d->tier->warm);
}

/* With the cache's lock. */
static void found(struct dbt_tier *t, struct jit_block *b)
{
    unsigned n = hash(b->place ^ (uint64_t)b->mode << 50), bit = hash(b->place);

    n %= SEEN;
    if (t->seen[n].place != b->place || t->seen[n].mode != b->mode || t->looks - t->seen[n].first > WINDOW) {
        t->seen[n].place = b->place;
        t->seen[n].mode = b->mode;
        t->seen[n].first = t->looks;
        t->seen[n].n = 0;
    }
    if (++t->seen[n].n != SAMPLES || t->warm[bit / 8] >> (bit & 7) & 1)
        return;
    t->warm[bit / 8] |= (uint8_t)(1 << (bit & 7));
    t->made++;
    jit_cache_kill(&t->d->cache, b);
}

/* What the handlers have noted since the last look. */
static void collect(struct dbt_tier *t)
{
    struct dbt *d = t->d;

    for (unsigned i = 0; i < d->m->nr_cpus && i < ARRAY_LEN(d->cpus); i++) {
        uintptr_t rip = d->cpus[i] ? atomic_exchange(&d->cpus[i]->sample, 0) : 0;
        struct jit_block *b;

        if (!rip)
            continue;
        t->samples++;
        pthread_mutex_lock(&d->cache.lock);
        b = jit_cache_block_at(&d->cache, (const uint8_t *)rip);
        if (b && !b->dead)
            found(t, b);
        pthread_mutex_unlock(&d->cache.lock);
    }
}

/* Asks those that run translated code where they are. How many do? */
static unsigned ask(struct dbt_tier *t)
{
    struct dbt *d = t->d;
    unsigned n = 0;

    for (unsigned i = 0; i < d->m->nr_cpus && i < ARRAY_LEN(d->cpus); i++) {
        struct dbt_cpu *c = d->cpus[i];

        if (!c || !c->in_code)
            continue;
        pthread_kill(c->thread, DBT_SIG_WHERE);
        n++;
    }
    return n;
}

static void wait_ns(struct dbt_tier *t, long ns)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&t->cond, &t->lock, &until);
}

static void *look(void *opaque)
{
    struct dbt_tier *t = opaque;
    unsigned idle = 0;

    prctl(PR_SET_NAME, "tcg-tier");
    pthread_mutex_lock(&t->lock);
    while (!t->stop) {
        idle = ask(t) ? 0 : (unsigned)min_u64(idle + 1, IDLE_MAX);
        wait_ns(t, (long)LOOK_NS << idle);
        t->looks++;
        collect(t);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

bool dbt_tier_start(struct dbt *d, struct err **errp)
{
    struct dbt_tier *t = xnew(struct dbt_tier);
    pthread_condattr_t attr;
    int e;

    t->d = d;
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->cond, &attr);
    pthread_condattr_destroy(&attr);
    e = thread_start(&t->thread, look, t);
    if (e) {
        free(t);
        return err_set_errno(errp, e, "translator: cannot start the thread of its second tier");
    }
    d->tier = t;
    return true;
}

void dbt_tier_lock(struct dbt *d)
{
    if (d->tier)
        pthread_mutex_lock(&d->tier->lock);
}

void dbt_tier_unlock(struct dbt *d)
{
    if (d->tier)
        pthread_mutex_unlock(&d->tier->lock);
}

void dbt_tier_stop(struct dbt *d)
{
    struct dbt_tier *t = d->tier;

    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->cond);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pthread_cond_destroy(&t->cond);
    pthread_mutex_destroy(&t->lock);
    d->tier = NULL;
    free(t);
}

void dbt_tier_info(const struct dbt *d, struct strbuf *s)
{
    if (d->tier)
        str_addf(s, "Second tier: %" PRIu64 " samples, %" PRIu64 " blocks made again\n", d->tier->samples,
                 d->tier->made);
}
