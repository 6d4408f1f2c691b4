/* Fibres: switching, waking from another thread, and the mutex's order. */
#include "run/fibre.h"
#include "unit.h"
#include <pthread.h>

struct trail {
    char s[32];
    unsigned n;
};

static void put(struct trail *t, char c)
{
    t->s[t->n++] = c;
}

static void two_steps(void *opaque)
{
    put(opaque, 'b');
    fibre_yield();
    put(opaque, 'd');
}

static void a_fibre_continues_where_it_yielded(void **state)
{
    struct trail t = {0};
    struct fibre *f = fibre_new(two_steps, &t);

    put(&t, 'a');
    fibre_resume(f);
    put(&t, 'c');
    fibre_resume(f);
    put(&t, 'e');
    assert_string_equal(t.s, "abcde");
    assert_null(fibre_self());
}

struct deep {
    int left;
    double sum;
};

static double recurse(int left)
{
    volatile double x = left;

    return left ? x + recurse(left - 1) : 0;
}

static void floats(void *opaque)
{
    struct deep *d = opaque;

    d->sum = recurse(d->left);
    fibre_yield();
    d->sum += 0.5;
}

static void many_fibres_keep_their_stacks_and_floats(void **state)
{
    struct deep d[100];
    struct fibre *f[100];

    for (int i = 0; i < 100; i++) {
        d[i] = (struct deep){.left = i};
        f[i] = fibre_new(floats, &d[i]);
        fibre_resume(f[i]);
    }
    for (int i = 0; i < 100; i++) {
        fibre_resume(f[i]);
        assert_true(d[i].sum == i * (i + 1) / 2 + 0.5);
    }
}

struct sleeper {
    struct ev_loop *loop;
    struct fibre *f;
    bool woken;
};

static void *waker(void *opaque)
{
    struct sleeper *s = opaque;

    fibre_wake(s->loop, s->f);
    return NULL;
}

static void sleep_once(void *opaque)
{
    struct sleeper *s = opaque;
    pthread_t t;

    s->f = fibre_self();
    pthread_create(&t, NULL, waker, s);
    pthread_detach(t);
    fibre_yield();
    s->woken = true;
}

static void another_thread_wakes_a_fibre_on_its_loop(void **state)
{
    struct sleeper s = {.loop = ev_loop_new()};

    fibre_start(s.loop, sleep_once, &s);
    for (int i = 0; i < 1000 && !s.woken; i++)
        ev_loop_turn(s.loop, 10000000);
    assert_true(s.woken);
    ev_loop_free(s.loop);
}

struct party {
    struct fibre_mutex *m;
    struct trail *t;
    char name;
};

static void hold(void *opaque)
{
    struct party *p = opaque;

    fibre_mutex_lock(p->m);
    put(p->t, p->name);
    fibre_yield();
    put(p->t, p->name);
    fibre_mutex_unlock(p->m);
}

static void a_mutex_serves_waiters_in_order(void **state)
{
    struct fibre_mutex m;
    struct trail t = {0};
    struct party a = {&m, &t, 'a'}, b = {&m, &t, 'b'}, c = {&m, &t, 'c'};
    struct fibre *fa = fibre_new(hold, &a), *fb = fibre_new(hold, &b), *fc = fibre_new(hold, &c);

    fibre_mutex_init(&m);
    fibre_resume(fa);
    fibre_resume(fb);
    fibre_resume(fc);
    assert_string_equal(t.s, "a");
    fibre_resume(fa); /* unlocks; b takes over and yields */
    fibre_resume(fb);
    fibre_resume(fc);
    assert_string_equal(t.s, "aabbcc");
    assert_false(m.locked);
}

UNIT_MAIN(cmocka_unit_test(a_fibre_continues_where_it_yielded),
          cmocka_unit_test(many_fibres_keep_their_stacks_and_floats),
          cmocka_unit_test(another_thread_wakes_a_fibre_on_its_loop), cmocka_unit_test(a_mutex_serves_waiters_in_order))
