/* -object iothread, and which loop a handle's requests run on.
 *
 * A node belongs to one loop at a time. At rest a handle with an I/O thread and all nodes below it belong to that
 * thread; no lock is taken for a request. The main loop takes them home (blk_home_begin) before it does anything with
 * nodes: new requests are held back, those under way end, then the handle's loop is switched. They go back when nothing
 * on the main loop needs nodes any more: no command runs, no job exists, nothing is exported.
 *
 * Left out: polling (poll-max-ns other than 0 is taken, and is as 0), thread-pool-min, thread-pool-max. */
#include "base/json.h"
#include "blk/aio.h"
#include "blk/blk_int.h"
#include "blk/nbd.h"
#include <errno.h>
#include <time.h>

struct io_obj {
    struct obj obj;
    struct iothread t;
    struct blk_set *set;    /* borrowed: whose engines these are; NULL before the first use */
    struct blk_aio *aio[3]; /* owned: by enum blk_engine, made on first use, on the thread */
    uint64_t poll_max, poll_grow, poll_shrink, max_batch; /* properties */
};

static bool io_ready(struct obj *o, struct err **errp)
{
    struct io_obj *x = (struct io_obj *)o;

    if (x->poll_max > INT64_MAX || x->poll_grow > INT64_MAX || x->poll_shrink > INT64_MAX || x->max_batch > INT64_MAX)
        return err_set(errp, "iothread: a value must be in range [0, %" PRId64 "]", INT64_MAX);
    return iothread_start(&x->t, o->name ? o->name : "", errp);
}

static void drop_engines(void *opaque)
{
    struct io_obj *x = opaque;

    for (unsigned i = 0; i < ARRAY_LEN(x->aio); i++)
        blk_aio_free(x->aio[i]);
    ev_loop_stop(x->t.loop);
}

static void io_free(struct obj *o)
{
    struct io_obj *x = (struct io_obj *)o;

    if (!x->t.loop)
        return;
    ev_call(x->t.loop, drop_engines, x);
    iothread_stop(&x->t);
}

static const struct prop io_props[] = {
    PROP("poll-max-ns", u64, struct io_obj, poll_max, .dflt = "32768"),
    PROP("poll-grow", u64, struct io_obj, poll_grow),
    PROP("poll-shrink", u64, struct io_obj, poll_shrink),
    PROP("aio-max-batch", u64, struct io_obj, max_batch),
    PROP_END,
};
static const struct obj_class io_class = {.name = "iothread",
                                          .desc = "a thread that serves disks",
                                          .size = sizeof(struct io_obj),
                                          .props = io_props,
                                          .ready = io_ready,
                                          .free = io_free,
                                          .user = true};
OBJ_REGISTER(io_class)

struct iothread *blk_iothread_find(struct blk_set *s, const char *id, struct err **errp)
{
    struct obj *o = s->objects ? obj_child(s->objects, id) : NULL;
    struct io_obj *x = (struct io_obj *)o;

    if (!o || o->cls != &io_class) {
        err_set(errp, "Property 'iothread' can't find value '%s'", id);
        err_hint(errp, "Make it with -object iothread,id=%s before the device.", id);
        return NULL;
    }
    x->set = s;
    return &x->t;
}

static struct io_obj *obj_of(struct iothread *t)
{
    return container_of(t, struct io_obj, t);
}

struct json_object *blk_query_iothreads(struct blk_set *s)
{
    struct json_object *list = json_object_new_array();
    struct obj *o;

    if (s->objects)
        list_each (o, &s->objects->children, sibling) {
            struct io_obj *x = (struct io_obj *)o;

            if (o->cls == &io_class)
                json_object_array_add(list,
                                      json_make("s:id", o->name, "i:thread-id", (int64_t)x->t.tid, "u:poll-max-ns",
                                                x->poll_max, "u:poll-grow", x->poll_grow, "u:poll-shrink",
                                                x->poll_shrink, "u:aio-max-batch", x->max_batch, NULL));
        }
    return list;
}

struct blk_aio *blk_aio_here(struct blk_set *s, unsigned kind)
{
    struct iothread *t = iothread_self();
    struct blk_aio **a;

    if (!t)
        return s->aio[kind];
    a = &obj_of(t)->aio[kind];
    if (!*a)
        *a = blk_aio_new(s, (enum blk_engine)kind, NULL);
    return *a;
}

struct late_event {
    struct run *run;
    const char *name;
    struct json_object *data;
};

static void send_late(void *opaque)
{
    struct late_event *e = opaque;

    run_event(e->run, e->name, e->data);
    free(e);
}

void blk_event(struct blk_set *s, const char *name, struct json_object *data)
{
    struct late_event *e;

    if (!iothread_self()) {
        run_event(s->run, name, data);
        return;
    }
    e = xnew(struct late_event);
    *e = (struct late_event){s->run, name, data};
    ev_call(s->loop, send_late, e);
}

/* ---- moving ---- */

/* All that is below c is used through c alone, by drivers that may run anywhere. */
static bool may_leave(const struct blk_child *c)
{
    const struct blk_node *n = c->node;
    const struct blk_child *x;

    if (!n->drv->any_loop || n->parents.next != &c->in_node || n->parents.prev != &c->in_node ||
        n->notifiers.next != &n->notifiers)
        return false;
    list_each (x, &n->children, in_parent)
        if (!may_leave(x))
            return false;
    return true;
}

static void pause_a_bit(struct blk_set *s)
{
    struct timespec ts = {0, 20000};
    bool locked = s->run && run_locked(s->run) && !ev_loop_is_mine(s->loop);

    if (ev_loop_is_mine(s->loop) && !fibre_self()) {
        ev_loop_turn(s->loop, 20000);
        return;
    }
    if (locked)
        run_unlock(s->run);
    nanosleep(&ts, NULL);
    if (locked)
        run_lock(s->run);
}

void blk_handle_move(struct blk *b, struct ev_loop *to)
{
    if (b->loop == to)
        return;
    iothread_enter(b->io);
    b->quiesced++;
    while (__atomic_load_n(&b->in_flight, __ATOMIC_ACQUIRE) > blk_pending_count(b)) {
        iothread_leave(b->io);
        pause_a_bit(b->set);
        iothread_enter(b->io);
    }
    b->quiesced--;
    b->loop = to;
    if (!b->quiesced)
        blk_pending_start(b);
    iothread_leave(b->io);
}

void blk_home_begin(struct blk_set *s)
{
    struct blk *b;

    if (s->home++)
        return;
    list_each (b, &s->drives, in_set)
        blk_handle_move(b, s->loop);
}

void blk_home_run(void *opaque)
{
    struct blk_set *s = opaque;
    struct blk *b;

    if (s->home || !list_empty(&s->jobs) || (s->nbd && !list_empty(&s->nbd->exports)) || !list_empty(&s->exports))
        return;
    s->home++; /* moving turns the loop */
    list_each (b, &s->drives, in_set)
        if (b->io && b->root && !b->quiesced && may_leave(b->root))
            blk_handle_move(b, b->io->loop);
    s->home--;
}

void blk_home_check(struct blk_set *s)
{
    ev_bh_schedule(&s->home_bh);
}

/* In a later turn: several commands in a row do not carry the nodes back and forth. */
void blk_home_end(struct blk_set *s)
{
    if (!--s->home)
        blk_home_check(s);
}

void blk_set_iothread(struct blk *b, struct iothread *t)
{
    blk_handle_move(b, b->set->loop);
    if (t)
        obj_ref(&obj_of(t)->obj);
    if (b->io)
        obj_unref(&obj_of(b->io)->obj);
    b->io = t;
    if (t && !b->set->pool) /* not by two threads at once */
        b->set->pool = blk_pool_new();
    blk_home_check(b->set);
}
