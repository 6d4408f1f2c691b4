/* Clocks and their timer queues. The virtual clock is host monotonic time plus an offset, read under a sequence count.
 */
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
};
enum { MODE_RUN, MODE_PAUSED, MODE_STEPPED };

static int64_t host_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
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
    do {
        while ((s = c->seq) & 1)
            ;
        v = c->base;
        if (c->mode == MODE_RUN)
            v += host_ns(CLOCK_MONOTONIC);
    } while (c->seq != s);
    return v;
}

static void change(struct clk *c, int mode, int64_t base)
{
    c->seq++;
    c->mode = mode;
    c->base = base;
    c->seq++;
}

void clk_pause(struct clk *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->mode == MODE_RUN)
        change(c, MODE_PAUSED, c->base + host_ns(CLOCK_MONOTONIC));
    pthread_mutex_unlock(&c->lock);
}

void clk_resume(struct clk *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->mode == MODE_PAUSED)
        change(c, MODE_RUN, c->base - host_ns(CLOCK_MONOTONIC));
    pthread_mutex_unlock(&c->lock);
    if (c->loop)
        ev_loop_wake(c->loop);
}

void clk_set_stepped(struct clk *c)
{
    change(c, MODE_STEPPED, clk_now(c));
}

void clk_set_now(struct clk *c, int64_t t)
{
    pthread_mutex_lock(&c->lock);
    change(c, c->mode, c->mode == MODE_RUN ? t - host_ns(CLOCK_MONOTONIC) : t);
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
    if (first && c->loop && !ev_loop_is_mine(c->loop))
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
