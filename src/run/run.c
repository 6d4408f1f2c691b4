/* One machine's loop, clocks, lock and event feed. */
#include "run/run.h"
#include "base/json.h"

#include <pthread.h>

struct listener {
    struct list link;
    run_event_fn *fn;
    void *opaque;
};

struct run_priv {
    struct run run; /* first */
    pthread_mutex_t lock;
    _Atomic unsigned long holder; /* pthread_t, 0 = free */
    struct list listeners;
};

static struct run_priv *priv(const struct run *r)
{
    return (struct run_priv *)(uintptr_t)r;
}

static void before_wait(void *opaque)
{
    run_unlock(opaque);
}

static void after_wait(void *opaque)
{
    run_lock(opaque);
}

struct run *run_new(void)
{
    struct run_priv *p = xnew(struct run_priv);
    struct run *r = &p->run;

    pthread_mutex_init(&p->lock, NULL);
    list_init(&p->listeners);
    r->loop = ev_loop_new();
    r->real = clk_new(CLK_REAL, r->loop);
    r->host = clk_new(CLK_HOST, r->loop);
    r->virt = clk_new(CLK_VIRTUAL, r->loop);
    ev_loop_set_wait_hooks(r->loop, before_wait, after_wait, r);
    run_lock(r);
    return r;
}

void run_free(struct run *r)
{
    struct run_priv *p = priv(r);

    if (!r)
        return;
    clk_free(r->real);
    clk_free(r->host);
    clk_free(r->virt);
    ev_loop_free(r->loop);
    while (!list_empty(&p->listeners)) {
        struct listener *l = list_first(&p->listeners, struct listener, link);

        list_del(&l->link);
        free(l);
    }
    if (run_locked(r))
        run_unlock(r);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void run_lock(struct run *r)
{
    assert(!run_locked(r));
    pthread_mutex_lock(&priv(r)->lock);
    priv(r)->holder = (unsigned long)pthread_self();
}

bool run_trylock(struct run *r)
{
    assert(!run_locked(r));
    if (pthread_mutex_trylock(&priv(r)->lock))
        return false;
    priv(r)->holder = (unsigned long)pthread_self();
    return true;
}

void run_unlock(struct run *r)
{
    assert(run_locked(r));
    priv(r)->holder = 0;
    pthread_mutex_unlock(&priv(r)->lock);
}

bool run_locked(const struct run *r)
{
    return priv(r)->holder == (unsigned long)pthread_self();
}

struct run_scope run_scope_enter(struct run *r)
{
    if (run_locked(r))
        return (struct run_scope){NULL};
    run_lock(r);
    return (struct run_scope){r};
}

void run_scope_leave(struct run_scope *s)
{
    if (s->r)
        run_unlock(s->r);
}

void run_event(struct run *r, const char *name, struct json_object *data)
{
    struct listener *l, *tmp;

    list_each_safe (l, tmp, &priv(r)->listeners, link)
        l->fn(l->opaque, name, data);
    json_object_put(data);
}

void run_listen(struct run *r, run_event_fn *fn, void *opaque)
{
    struct listener *l = xnew(struct listener);

    l->fn = fn;
    l->opaque = opaque;
    list_add(&priv(r)->listeners, &l->link);
}

void run_unlisten(struct run *r, run_event_fn *fn, void *opaque)
{
    struct listener *l, *tmp;

    list_each_safe (l, tmp, &priv(r)->listeners, link)
        if (l->fn == fn && l->opaque == opaque) {
            list_del(&l->link);
            free(l);
        }
}
