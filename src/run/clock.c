/* Clocks and their timer queues. The virtual clock runs by the host's time stamp counter where that is invariant, at a
 * rate measured against monotonic time when it first starts, so that translated code can read it in a few instructions;
 * elsewhere it is monotonic time plus an offset. Either is read under a sequence count. */
#include "run/clock.h"
#include "run/run_int.h"

#include <pthread.h>
#include <time.h>

struct clk {
    enum clk_kind kind;
    struct ev_loop *loop; /* borrowed; NULL: nobody waits for the timers */
    struct list in_loop;
    pthread_mutex_t lock; /* guards the queue and changes of the virtual clock */
    struct list timers;   /* by deadline */
    _Atomic unsigned seq; /* odd while base/mode change */
    _Atomic int64_t base; /* running: added to monotonic time; else the value itself */
    _Atomic int mode;
    bool has_tsc;
    uint64_t rate; /* 2^64 ns per tick; 0: not measured yet */
    uint64_t tsc0; /* a moment early on, by both clocks */
    int64_t ns0;
    struct clk_fast fast; /* base counts from base_tsc while has_tsc */
    int64_t (*source)(void *opaque);
    void (*rearmed)(void *opaque);
    void *source_opaque;
};
enum { MODE_RUN, MODE_PAUSED, MODE_STEPPED, MODE_SOURCE };
enum { SLACK_TICKS = 1 << 20 };

static int64_t host_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

#ifdef __x86_64__
#include <cpuid.h>

static bool tsc_usable(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(0x80000007, &a, &b, &c, &d) && d & 1 << 8;
}

static uint64_t tsc_read(void)
{
    return __builtin_ia32_rdtsc();
}
#else
static bool tsc_usable(void)
{
    return false;
}

static uint64_t tsc_read(void)
{
    return 0;
}
#endif

/* The same moment by both clocks, as close as a few tries get. */
static void both(uint64_t *tsc, int64_t *ns)
{
    uint64_t best = UINT64_MAX;

    *tsc = 0;
    *ns = 0;

    for (unsigned i = 0; i < 8; i++) {
        uint64_t before = tsc_read(), after;
        int64_t t = host_ns(CLOCK_MONOTONIC);

        after = tsc_read();
        if (after - before < best) {
            best = after - before;
            *tsc = before + best / 2;
            *ns = t;
        }
    }
}

/* Ticks to nanoseconds, over 4 ms at least: good to some 20 ppm. */
static void measure(struct clk *c)
{
    uint64_t tsc;
    int64_t ns;

    do
        both(&tsc, &ns);
    while (ns - c->ns0 < 4000000);
    c->rate = (uint64_t)(((unsigned __int128)(uint64_t)(ns - c->ns0) << 64) / (tsc - c->tsc0));
}

/* The clock's value at this moment while it runs. */
static int64_t running_now(const struct clk *c)
{
    if (!c->has_tsc)
        return c->base + host_ns(CLOCK_MONOTONIC);
    return c->fast.base + (int64_t)((unsigned __int128)(tsc_read() - c->fast.base_tsc) * c->fast.mult >> 64);
}

const struct clk_fast *clk_fast(struct clk *c)
{
    return c->has_tsc && c->mode != MODE_SOURCE ? &c->fast : NULL;
}

struct clk *clk_new(enum clk_kind kind, struct ev_loop *loop)
{
    struct clk *c = xnew(struct clk);

    c->kind = kind;
    c->loop = loop;
    list_init(&c->timers);
    list_init(&c->in_loop);
    pthread_mutex_init(&c->lock, NULL);
    c->mode = kind == CLK_VIRTUAL ? MODE_PAUSED : MODE_RUN;
    c->has_tsc = kind == CLK_VIRTUAL && tsc_usable();
    if (c->has_tsc)
        both(&c->tsc0, &c->ns0);
    if (loop)
        ev_loop_add_clk(loop, c, &c->in_loop);
    return c;
}

void clk_free(struct clk *c)
{
    if (!c)
        return;
    list_del(&c->in_loop);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

struct clk *clk_of_link(struct list *link)
{
    return container_of(link, struct clk, in_loop);
}

int64_t clk_now(struct clk *c)
{
    unsigned s;
    int64_t v;

    if (c->kind == CLK_REAL)
        return host_ns(CLOCK_MONOTONIC);
    if (c->kind == CLK_HOST)
        return host_ns(CLOCK_REALTIME);
    if (c->mode == MODE_SOURCE)
        return c->source(c->source_opaque);
    do {
        while ((s = c->seq) & 1)
            ;
        v = c->mode == MODE_RUN ? running_now(c) : c->base;
    } while (c->seq != s);
    return v;
}

/* Gives the clock a value and a mode. */
static void change(struct clk *c, int mode, int64_t now)
{
    bool run = mode == MODE_RUN;

    if (run && c->has_tsc && !c->rate)
        measure(c);
    c->seq++;
    c->mode = mode;
    c->base = run && !c->has_tsc ? now - host_ns(CLOCK_MONOTONIC) : now;
    c->fast = (struct clk_fast){.base = now};
    if (run && c->has_tsc) { /* from a little earlier: another processor's counter may be a few ticks behind */
        c->fast.base_tsc = tsc_read() - SLACK_TICKS;
        c->fast.mult = c->rate;
        c->fast.base -= (int64_t)((unsigned __int128)SLACK_TICKS * c->rate >> 64);
    }
    c->seq++;
}

void clk_pause(struct clk *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->mode == MODE_RUN)
        change(c, MODE_PAUSED, running_now(c));
    pthread_mutex_unlock(&c->lock);
}

void clk_resume(struct clk *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->mode == MODE_PAUSED)
        change(c, MODE_RUN, c->base);
    pthread_mutex_unlock(&c->lock);
    if (c->loop)
        ev_loop_wake(c->loop);
}

void clk_set_stepped(struct clk *c)
{
    change(c, MODE_STEPPED, clk_now(c));
}

bool clk_is_virtual(const struct clk *c)
{
    return c->kind == CLK_VIRTUAL;
}

bool clk_can_set(const struct clk *c)
{
    return c->mode != MODE_SOURCE;
}

void clk_set_source(struct clk *c, int64_t (*now)(void *opaque), void (*rearmed)(void *opaque), void *opaque)
{
    c->source = now;
    c->rearmed = rearmed;
    c->source_opaque = opaque;
    change(c, MODE_SOURCE, 0);
}

void clk_set_now(struct clk *c, int64_t t)
{
    pthread_mutex_lock(&c->lock);
    change(c, c->mode, t);
    pthread_mutex_unlock(&c->lock);
    if (c->loop)
        ev_loop_wake(c->loop);
}

/* Takes the first timer due at t off the queue, or NULL. */
static struct clk_timer *pop_due(struct clk *c, int64_t t)
{
    struct clk_timer *first;

    pthread_mutex_lock(&c->lock);
    first = list_first(&c->timers, struct clk_timer, link);
    if (first && first->deadline <= t) {
        list_del(&first->link);
        first->pending = false;
    } else {
        first = NULL;
    }
    pthread_mutex_unlock(&c->lock);
    return first;
}

void clk_step_to(struct clk *c, int64_t t)
{
    assert(c->mode == MODE_STEPPED);
    for (;;) {
        int64_t d = clk_next_deadline(c);
        struct clk_timer *due;

        if (d > t)
            break;
        change(c, MODE_STEPPED, max_i64(d, c->base));
        due = pop_due(c, d);
        if (due)
            due->fn(due->opaque);
    }
    change(c, MODE_STEPPED, max_i64(t, c->base));
}

void clk_fire(struct clk *c)
{
    struct clk_timer *t;

    while ((t = pop_due(c, clk_now(c))))
        t->fn(t->opaque);
}

int64_t clk_next_deadline(struct clk *c)
{
    struct clk_timer *first;
    int64_t d;

    pthread_mutex_lock(&c->lock);
    first = list_first(&c->timers, struct clk_timer, link);
    d = first ? first->deadline : INT64_MAX;
    pthread_mutex_unlock(&c->lock);
    return d;
}

int64_t clk_wait_ns(struct clk *c)
{
    int64_t d;

    if (c->mode != MODE_RUN)
        return INT64_MAX;
    d = clk_next_deadline(c);
    return d == INT64_MAX ? d : max_i64(d - clk_now(c), 0);
}

bool clk_run_due(struct clk *c)
{
    struct clk_timer *t;
    int64_t now;
    bool any = false;

    if (c->mode != MODE_RUN)
        return false;
    now = clk_now(c);
    while (c->mode == MODE_RUN && (t = pop_due(c, now))) {
        t->fn(t->opaque);
        any = true;
    }
    return any;
}

void clk_timer_init(struct clk_timer *t, struct clk *c, clk_fn *fn, void *opaque)
{
    *t = (struct clk_timer){.clk = c, .fn = fn, .opaque = opaque};
    list_init(&t->link);
}

void clk_timer_set(struct clk_timer *t, int64_t deadline)
{
    struct clk *c = t->clk;
    struct clk_timer *it;
    bool first;

    pthread_mutex_lock(&c->lock);
    if (t->pending)
        list_del(&t->link);
    t->deadline = deadline;
    t->pending = true;
    list_each (it, &c->timers, link)
        if (it->deadline > deadline)
            break;
    list_add(&it->link, &t->link); /* before `it`, or at the tail */
    first = c->timers.next == &t->link;
    pthread_mutex_unlock(&c->lock);
    if (first && c->mode == MODE_SOURCE)
        c->rearmed(c->source_opaque);
    else if (first && c->loop && !ev_loop_is_mine(c->loop))
        ev_loop_wake(c->loop);
}

void clk_timer_cancel(struct clk_timer *t)
{
    if (!t->clk)
        return;
    pthread_mutex_lock(&t->clk->lock);
    if (t->pending) {
        list_del(&t->link);
        t->pending = false;
    }
    pthread_mutex_unlock(&t->clk->lock);
}
