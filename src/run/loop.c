/* The event loop over epoll. One eventfd wakes it; deferred calls live in a locked list. */
#include "run/loop.h"
#include "base/log.h"
#include "run/run_int.h"

#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct ev_fd {
    struct list link;
    struct ev_loop *loop;
    int fd;
    unsigned events;
    bool always; /* a plain file: epoll refuses it, it is always ready */
    bool added, dead;
    ev_fd_fn *fn;
    void *opaque;
};

struct ev_call {
    struct ev_bh bh;
    ev_fn *fn;
    void *opaque;
};

struct ev_loop {
    int epfd, wakefd;
    struct list fds;    /* of struct ev_fd */
    struct list graves; /* deleted while events were being handed out */
    struct list clks;
    unsigned nr_always;
    bool dispatching;
    pthread_mutex_t lock; /* guards bhs */
    struct list bhs;      /* scheduled deferred calls, in order */
    _Atomic bool stop, waiting;
    _Atomic unsigned long owner; /* pthread_t of the latest turn */
    ev_fn *before, *after;
    void *hook_opaque;
};

struct ev_loop *ev_loop_new(void)
{
    struct ev_loop *l = xnew(struct ev_loop);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert(l->epfd >= 0 && l->wakefd >= 0);
    epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev);
    list_init(&l->fds);
    list_init(&l->graves);
    list_init(&l->clks);
    list_init(&l->bhs);
    pthread_mutex_init(&l->lock, NULL);
    return l;
}

static void bury(struct ev_loop *l)
{
    while (!list_empty(&l->graves)) {
        struct ev_fd *f = list_first(&l->graves, struct ev_fd, link);

        list_del(&f->link);
        free(f);
    }
}

void ev_loop_free(struct ev_loop *l)
{
    if (!l)
        return;
    while (!list_empty(&l->fds))
        ev_fd_del(list_first(&l->fds, struct ev_fd, link));
    bury(l);
    close(l->epfd);
    close(l->wakefd);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void ev_loop_set_wait_hooks(struct ev_loop *l, ev_fn *before, ev_fn *after, void *opaque)
{
    l->before = before;
    l->after = after;
    l->hook_opaque = opaque;
}

void ev_loop_add_clk(struct ev_loop *l, struct clk *c, struct list *link)
{
    list_add(&l->clks, link);
}

static void fd_update(struct ev_fd *f, unsigned events)
{
    struct epoll_event ev = {.data.ptr = f};
    int op;

    if (f->always) {
        f->loop->nr_always += (events != 0) - (f->events != 0);
        f->events = events;
        return;
    }
    ev.events = (events & EV_IN ? EPOLLIN : 0u) | (events & EV_OUT ? EPOLLOUT : 0u);
    op = !events ? EPOLL_CTL_DEL : f->added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    f->events = events;
    if (!events && !f->added)
        return;
    if (epoll_ctl(f->loop->epfd, op, f->fd, &ev) < 0 && errno == EPERM) {
        f->always = true;
        f->loop->nr_always += events != 0;
        return;
    }
    f->added = events != 0;
}

struct ev_fd *ev_fd_add(struct ev_loop *l, int fd, unsigned events, ev_fd_fn *fn, void *opaque)
{
    struct ev_fd *f = xnew(struct ev_fd);

    f->loop = l;
    f->fd = fd;
    f->fn = fn;
    f->opaque = opaque;
    list_add(&l->fds, &f->link);
    fd_update(f, events);
    return f;
}

void ev_fd_set(struct ev_fd *f, unsigned events)
{
    if (f->events != events)
        fd_update(f, events);
}

void ev_fd_del(struct ev_fd *f)
{
    struct ev_loop *l;

    if (!f)
        return;
    l = f->loop;
    fd_update(f, 0);
    f->dead = true;
    list_del(&f->link);
    if (l->dispatching)
        list_add(&l->graves, &f->link);
    else
        free(f);
}

void ev_loop_wake(struct ev_loop *l)
{
    uint64_t one = 1;
    ssize_t n = write(l->wakefd, &one, sizeof one);

    (void)n; /* full counter: it is awake already */
}

void ev_bh_init(struct ev_bh *b, struct ev_loop *l, ev_fn *fn, void *opaque)
{
    *b = (struct ev_bh){.loop = l, .fn = fn, .opaque = opaque};
    list_init(&b->link);
}

void ev_bh_schedule(struct ev_bh *b)
{
    struct ev_loop *l = b->loop; /* b may run, and be gone, as soon as the lock is dropped */
    bool first = false;

    pthread_mutex_lock(&l->lock);
    if (!b->scheduled) {
        b->scheduled = true;
        first = list_empty(&l->bhs);
        list_add(&l->bhs, &b->link);
    }
    pthread_mutex_unlock(&l->lock);
    if (first && (l->waiting || !ev_loop_is_mine(l)))
        ev_loop_wake(l);
}

void ev_bh_cancel(struct ev_bh *b)
{
    if (!b->loop)
        return;
    pthread_mutex_lock(&b->loop->lock);
    if (b->scheduled) {
        list_del(&b->link);
        b->scheduled = false;
    }
    pthread_mutex_unlock(&b->loop->lock);
}

static void call_run(void *opaque)
{
    struct ev_call *c = opaque;
    ev_fn *fn = c->fn;
    void *arg = c->opaque;

    free(c);
    fn(arg);
}

void ev_call(struct ev_loop *l, ev_fn *fn, void *opaque)
{
    struct ev_call *c = xnew(struct ev_call);

    ev_bh_init(&c->bh, l, call_run, c);
    c->fn = fn;
    c->opaque = opaque;
    ev_bh_schedule(&c->bh);
}

/* Runs the calls scheduled before this one began; those they schedule wait for the next turn. */
static bool run_bhs(struct ev_loop *l)
{
    bool any = false;
    unsigned n = 0;
    struct list *it;

    pthread_mutex_lock(&l->lock);
    for (it = l->bhs.next; it != &l->bhs; it = it->next)
        n++;
    while (n-- && !list_empty(&l->bhs)) {
        struct ev_bh *b = list_first(&l->bhs, struct ev_bh, link);

        list_del(&b->link);
        b->scheduled = false;
        pthread_mutex_unlock(&l->lock);
        b->fn(b->opaque);
        any = true;
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return any;
}

static int64_t wait_limit(struct ev_loop *l, int64_t timeout)
{
    struct list *it;

    for (it = l->clks.next; it != &l->clks; it = it->next) {
        int64_t ns = clk_wait_ns(clk_of_link(it));

        if (ns != INT64_MAX && (timeout < 0 || ns < timeout))
            timeout = ns;
    }
    pthread_mutex_lock(&l->lock);
    if (!list_empty(&l->bhs) || l->nr_always)
        timeout = 0;
    pthread_mutex_unlock(&l->lock);
    return timeout;
}

static bool dispatch(struct ev_loop *l, struct epoll_event *evs, int n)
{
    bool any = false, nested = l->dispatching;
    struct ev_fd *f, *tmp;

    l->dispatching = true;
    for (int i = 0; i < n; i++) {
        unsigned e = evs[i].events, got;

        f = evs[i].data.ptr;
        if (!f) {
            uint64_t v;
            ssize_t r = read(l->wakefd, &v, sizeof v);

            (void)r;
            continue;
        }
        got = (e & EPOLLIN ? EV_IN : 0u) | (e & EPOLLOUT ? EV_OUT : 0u) | (e & (EPOLLERR | EPOLLHUP) ? EV_ERR : 0u);
        if (f->dead || !f->events)
            continue;
        f->fn(f->opaque, f->fd, got);
        any = true;
    }
    if (l->nr_always)
        list_each_safe (f, tmp, &l->fds, link)
            if (f->always && f->events && !f->dead) {
                f->fn(f->opaque, f->fd, f->events);
                any = true;
            }
    l->dispatching = nested;
    if (!nested) /* an outer turn still holds pointers to what was deleted */
        bury(l);
    return any;
}

bool ev_loop_turn(struct ev_loop *l, int64_t timeout)
{
    struct epoll_event evs[64];
    bool any;
    struct list *it, *next;
    int n;

    l->owner = (unsigned long)pthread_self();
    l->waiting = true;
    timeout = wait_limit(l, timeout);
    if (l->before)
        l->before(l->hook_opaque);
    if (timeout > 0) {
        struct timespec ts = {timeout / NS_PER_SEC, timeout % NS_PER_SEC};

        n = epoll_pwait2(l->epfd, evs, ARRAY_LEN(evs), &ts, NULL);
    } else {
        n = epoll_wait(l->epfd, evs, ARRAY_LEN(evs), timeout < 0 ? -1 : 0);
    }
    if (l->after)
        l->after(l->hook_opaque);
    l->waiting = false;
    any = dispatch(l, evs, n < 0 ? 0 : n);
    for (it = l->clks.next; it != &l->clks; it = next) {
        next = it->next;
        any |= clk_run_due(clk_of_link(it));
    }
    return run_bhs(l) || any;
}

void ev_loop_run(struct ev_loop *l)
{
    while (!l->stop)
        ev_loop_turn(l, -1);
    l->stop = false;
}

void ev_loop_stop(struct ev_loop *l)
{
    l->stop = true;
    ev_loop_wake(l);
}

bool ev_loop_is_mine(const struct ev_loop *l)
{
    return l->owner == (unsigned long)pthread_self();
}
