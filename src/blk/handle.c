/* A device's handle on the root of a graph: requests in, completions out, error policy, removable media.
 *
 * One request: blk_aio_* copies the vector's segments, moves to the loop's thread if need be, and runs the request core
 * in a fibre. The completion is always a deferred call on the loop, never inside the submission. While the handle is
 * quiesced requests wait on b->pending. */
#include "base/json.h"
#include "blk/blk_int.h"
#include <errno.h>
#include <pthread.h>
#include <time.h>

enum { INLINE_SEGS = 8 };
enum req_op { OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_ZERO };

struct blk_req {
    struct list link; /* in b->pending */
    struct ev_bh bh;
    struct blk *b;
    struct iothread *from; /* borrowed: the I/O thread that made it, NULL = the main loop or another thread */
    enum req_op op;
    uint64_t off, len;
    struct iov q;
    struct iovec segs[INLINE_SEGS];
    unsigned flags;
    int ret;
    int64_t start_ns;
    blk_done_fn *fn;
    void *opaque;
};

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static bool on_loop(const struct blk_set *s)
{
    return s->thread == (unsigned long)pthread_self();
}

/* Is this the thread that runs b's requests? */
static bool on_loop_of(const struct blk *b)
{
    struct iothread *t = iothread_self();

    return t ? t->loop == b->loop : b->loop == b->set->loop && on_loop(b->set);
}

static struct blk_node *root_of(const struct blk *b)
{
    return b->root ? b->root->node : NULL;
}

static int run_op(struct blk_req *r)
{
    struct blk_node *n = root_of(r->b);
    uint64_t end;

    if (!n)
        return -ENOMEDIUM;
    if (r->op == OP_FLUSH)
        return blk_node_flush(n);
    if (!add_ok_u64(r->off, r->len, &end) || end > n->size)
        return -EIO;
    if (r->op != OP_READ && blk_readonly(r->b))
        return -EPERM;
    switch (r->op) {
    case OP_READ:
        return blk_node_preadv(n, r->off, r->len, &r->q, 0, r->flags);
    case OP_WRITE:
        return blk_node_pwritev(n, r->off, r->len, &r->q, 0, r->flags);
    case OP_ZERO:
        return blk_node_zeroes(n, r->off, r->len, r->flags);
    default:
        return blk_node_discard(n, r->off, r->len);
    }
}

static void account(struct blk_req *r)
{
    struct blk_stats *s = &r->b->stats;
    unsigned k = r->op == OP_READ ? 0 : r->op == OP_FLUSH ? 2 : r->op == OP_DISCARD ? 3 : 1;

    if (r->ret < 0) {
        s->failed[k]++;
        return;
    }
    s->ops[k]++;
    s->bytes[k] += r->len;
    s->time_ns[k] += (uint64_t)(now_ns() - r->start_ns);
}

static void req_complete(void *opaque)
{
    struct blk_req *r = opaque;
    blk_done_fn *fn = r->fn;
    void *arg = r->opaque;
    struct iothread *from = iothread_self() ? NULL : r->from;
    int ret = r->ret;

    if (ret < 0 && iothread_self()) { /* the machine may have to stop, people to be told */
        ev_bh_init(&r->bh, r->b->set->loop, req_complete, r);
        ev_bh_schedule(&r->bh);
        return;
    }
    account(r);
    if (r->q.v != r->segs)
        free(r->q.v);
    __atomic_fetch_sub(&r->b->in_flight, 1, __ATOMIC_RELEASE);
    free(r);
    iothread_enter(from);
    fn(arg, ret);
    iothread_leave(from);
}

static void req_fibre(void *opaque)
{
    struct blk_req *r = opaque;

    r->ret = run_op(r);
    ev_bh_init(&r->bh, r->from ? r->from->loop : r->b->set->loop, req_complete, r);
    ev_bh_schedule(&r->bh);
}

static void req_start(void *opaque)
{
    struct blk_req *r = opaque;

    if (r->b->quiesced)
        list_add(&r->b->pending, &r->link);
    else
        fibre_resume(fibre_new(req_fibre, r));
}

static struct blk_req *req_new(struct blk *b, enum req_op op, uint64_t off, uint64_t len, const struct iov *q,
                               unsigned flags)
{
    struct blk_req *r = xmalloc(sizeof *r);

    list_init(&r->link);
    r->b = b;
    r->from = iothread_self();
    r->op = op;
    r->off = off;
    r->len = len;
    r->flags = flags;
    r->start_ns = now_ns();
    r->q = (struct iov){.v = r->segs, .nr = q ? q->nr : 0, .len = len};
    if (q && q->nr > INLINE_SEGS)
        r->q.v = xcalloc(q->nr, sizeof *q->v);
    if (q && q->nr)
        memcpy(r->q.v, q->v, q->nr * sizeof *q->v);
    if (op != OP_READ && op != OP_DISCARD && op != OP_FLUSH && b->writethrough)
        r->flags |= BLK_FUA;
    return r;
}

static struct blk_req *submit(struct blk_req *r, blk_done_fn *fn, void *opaque)
{
    struct ev_loop *l = r->b->loop;

    r->fn = fn;
    r->opaque = opaque;
    __atomic_fetch_add(&r->b->in_flight, 1, __ATOMIC_ACQUIRE);
    if (on_loop_of(r->b)) {
        req_start(r);
    } else {
        ev_bh_init(&r->bh, l, req_start, r);
        ev_bh_schedule(&r->bh);
    }
    return r;
}

struct blk_req *blk_aio_read(struct blk *b, uint64_t off, const struct iov *q, unsigned flags, blk_done_fn *fn,
                             void *opaque)
{
    return submit(req_new(b, OP_READ, off, q->len, q, flags), fn, opaque);
}
struct blk_req *blk_aio_write(struct blk *b, uint64_t off, const struct iov *q, unsigned flags, blk_done_fn *fn,
                              void *opaque)
{
    return submit(req_new(b, OP_WRITE, off, q->len, q, flags), fn, opaque);
}
struct blk_req *blk_aio_zero(struct blk *b, uint64_t off, uint64_t len, unsigned flags, blk_done_fn *fn, void *opaque)
{
    return submit(req_new(b, OP_ZERO, off, len, NULL, flags), fn, opaque);
}
struct blk_req *blk_aio_discard(struct blk *b, uint64_t off, uint64_t len, blk_done_fn *fn, void *opaque)
{
    return submit(req_new(b, OP_DISCARD, off, len, NULL, 0), fn, opaque);
}
struct blk_req *blk_aio_flush(struct blk *b, blk_done_fn *fn, void *opaque)
{
    return submit(req_new(b, OP_FLUSH, 0, 0, NULL, 0), fn, opaque);
}

/* ---- synchronous ---- */

struct sync {
    _Atomic bool done;
    int ret;
};

static void sync_done(void *opaque, int ret)
{
    struct sync *s = opaque;

    s->ret = ret;
    s->done = true;
}

static void sync_pause(struct blk *b, bool unlock)
{
    struct timespec ts = {0, 50000};

    if (unlock)
        run_unlock(b->set->run);
    nanosleep(&ts, NULL);
    if (unlock)
        run_lock(b->set->run);
}

/* On the loop's thread by turning it; elsewhere by waiting with the machine lock dropped, so that the loop can run. */
static int sync_wait(struct blk *b, struct sync *s)
{
    struct ev_loop *l = b->set->loop;
    bool locked = b->set->run && run_locked(b->set->run);

    while (!s->done) {
        if (on_loop(b->set))
            ev_loop_turn(l, -1);
        else
            sync_pause(b, locked);
    }
    return s->ret;
}

static int rw_sync(struct blk *b, enum req_op op, uint64_t off, void *buf, size_t len)
{
    struct sync s = {0};
    struct iovec v = {buf, len};
    struct iov q;

    iov_init_ext(&q, &v, 1);
    if (fibre_self() && on_loop_of(b)) {
        struct blk_req *r = req_new(b, op, off, len, &q, 0);

        s.ret = run_op(r);
        free(r);
        return s.ret;
    }
    submit(req_new(b, op, off, len, op == OP_FLUSH ? NULL : &q, 0), sync_done, &s);
    return sync_wait(b, &s);
}

int blk_read(struct blk *b, uint64_t off, void *buf, size_t len)
{
    return rw_sync(b, OP_READ, off, buf, len);
}
int blk_write(struct blk *b, uint64_t off, const void *buf, size_t len)
{
    return rw_sync(b, OP_WRITE, off, (void *)(uintptr_t)buf, len);
}
int blk_flush(struct blk *b)
{
    return rw_sync(b, OP_FLUSH, 0, NULL, 0);
}

void blk_drain(struct blk *b)
{
    while (__atomic_load_n(&b->in_flight, __ATOMIC_ACQUIRE)) {
        if (on_loop(b->set)) /* what an I/O thread completes does not wake this loop */
            ev_loop_turn(b->set->loop, b->io ? NS_PER_MS / 10 : -1);
        else
            sync_pause(b, b->set->run && run_locked(b->set->run));
    }
}

void blk_drain_all(struct blk_set *s)
{
    struct blk *b;

    list_each (b, &s->drives, in_set)
        blk_drain(b);
}

/* Nothing new starts and nothing is left running below the handle. */
void blk_quiesce(struct blk *b)
{
    if (!b->quiesced++ && b->ops && b->ops->drained_begin)
        b->ops->drained_begin(b->ops_opaque);
    while (b->in_flight > blk_pending_count(b))
        ev_loop_turn(b->set->loop, b->io ? NS_PER_MS / 10 : -1);
}

unsigned blk_pending_count(const struct blk *b)
{
    unsigned nr = 0;

    for (struct list *l = b->pending.next; l != &b->pending; l = l->next)
        nr++;
    return nr;
}

void blk_pending_start(struct blk *b)
{
    struct list todo = LIST_INIT(todo);
    struct blk_req *r, *tmp;

    list_each_safe (r, tmp, &b->pending, link) {
        list_del(&r->link);
        list_add(&todo, &r->link);
    }
    list_each_safe (r, tmp, &todo, link) {
        list_del(&r->link);
        if (on_loop_of(b)) {
            req_start(r);
        } else {
            ev_bh_init(&r->bh, b->loop, req_start, r);
            ev_bh_schedule(&r->bh);
        }
    }
}

void blk_unquiesce(struct blk *b)
{
    assert(b->quiesced);
    if (--b->quiesced)
        return;
    iothread_enter(b->io);
    blk_pending_start(b);
    iothread_leave(b->io);
    if (b->ops && b->ops->drained_end)
        b->ops->drained_end(b->ops_opaque);
}

/* ---- what devices ask ---- */

const char *blk_id(const struct blk *b)
{
    return !*b->id && b->root ? b->root->node->name : b->id;
}
bool blk_has_medium(const struct blk *b)
{
    return b->root != NULL;
}
uint64_t blk_size(const struct blk *b)
{
    return b->root ? b->root->node->size : 0;
}
bool blk_readonly(const struct blk *b)
{
    return b->root ? blk_node_readonly(b->root->node) || b->readonly : b->readonly;
}
bool blk_write_cache(const struct blk *b)
{
    return !b->writethrough;
}
void blk_set_write_cache(struct blk *b, bool on)
{
    b->writethrough = !on;
}

static const char *policy_name(enum blk_policy p)
{
    return p == BLK_POLICY_STOP ? "stop" : p == BLK_POLICY_IGNORE ? "ignore" : "report";
}

enum blk_policy blk_error_action(struct blk *b, bool is_read, int error)
{
    enum blk_on_error e = is_read ? b->rerror : b->werror;
    enum blk_policy p = BLK_POLICY_REPORT;

    error = error < 0 ? -error : error;
    if (e == BLK_ERR_STOP || (e == BLK_ERR_ENOSPC && error == ENOSPC))
        p = BLK_POLICY_STOP;
    else if (e == BLK_ERR_IGNORE)
        p = BLK_POLICY_IGNORE;
    if (b->set->run) { /* errors are completed on the main loop */
        struct json_object *d =
            json_make("s:device", b->is_drive ? b->id : "", "s:node-name", b->root ? b->root->node->name : NULL,
                      "s:operation", is_read ? "read" : "write", "s:action", policy_name(p), "b:nospace",
                      error == ENOSPC, "s:reason", strerror(error), NULL);

        run_event(b->set->run, "BLOCK_IO_ERROR", d);
    }
    if (p == BLK_POLICY_STOP)
        b->io_error = error;
    return p;
}

void blk_set_dev_ops(struct blk *b, const struct blk_dev_ops *ops, void *opaque)
{
    b->ops = ops;
    b->ops_opaque = opaque;
}

void blk_handle_resized(struct blk *b)
{
    if (b->ops && b->ops->resized)
        b->ops->resized(b->ops_opaque);
}

/* ---- attaching ---- */

struct blk *blk_find(struct blk_set *s, const char *id)
{
    struct blk *b;

    list_each (b, &s->drives, in_set)
        if (b->is_drive && !strcmp(b->id, id))
            return b;
    return NULL;
}

struct blk *blk_handle_new(struct blk_set *s, const char *id, bool is_drive)
{
    struct blk *b = xnew(struct blk);

    b->set = s;
    b->loop = s->loop;
    b->id = id ? xstrdup(id) : xstrdup("");
    b->is_drive = is_drive;
    b->werror = BLK_ERR_ENOSPC;
    list_init(&b->pending);
    list_add(&s->drives, &b->in_set);
    return b;
}

static unsigned shared_by(const struct blk *b, unsigned perm)
{
    return perm & BLK_PERM_WRITE && !b->share_rw ? BLK_PERM_ALL & ~(unsigned)BLK_PERM_WRITE : BLK_PERM_ALL;
}

bool blk_handle_insert(struct blk *b, struct blk_node *n, struct err **errp)
{
    bool rw = !blk_node_readonly(n) && !b->readonly;
    unsigned perm = BLK_PERM_READ | (rw ? BLK_PERM_WRITE : 0);

    b->root = blk_child_root(n, b->id, perm, shared_by(b, perm), errp);
    if (b->root)
        b->root->handle = b;
    return b->root != NULL;
}

bool blk_set_share_rw(struct blk *b, bool on, struct err **errp)
{
    bool was = b->share_rw;

    b->share_rw = on;
    if (!b->root || blk_child_set_perm(b->root, b->root->perm, shared_by(b, b->root->perm), errp))
        return true;
    b->share_rw = was;
    return false;
}

void blk_handle_free(struct blk *b)
{
    blk_set_iothread(b, NULL);
    blk_drain(b);
    list_del(&b->in_set);
    blk_child_detach(b->root);
    opts_free(b->template_);
    free(b->id);
    free(b);
}

struct blk *blk_attach(struct blk_set *s, const char *name, void *dev_obj, struct err **errp)
{
    BLK_HOME_SCOPE(s);
    struct blk *b = blk_find(s, name);
    struct blk_node *n;

    if (b && b->dev) {
        err_set(errp, "Drive '%s' is already in use by another device", name);
        return NULL;
    }
    if (b) {
        b->dev = dev_obj;
        return b;
    }
    n = blk_node_find(s, name);
    if (!n) {
        err_set(errp, "Can't find value '%s'", name);
        err_hint(
            errp,
            "No drive has this id and no block node this name; define one with -drive id= or -blockdev node-name=.");
        return NULL;
    }
    b = blk_handle_new(s, "", false);
    b->share_rw = true; /* until the device has its say */
    if (!blk_handle_insert(b, n, errp)) {
        blk_handle_free(b);
        return NULL;
    }
    b->dev = dev_obj;
    return b;
}

struct blk *blk_attach_empty(struct blk_set *s, void *dev_obj)
{
    struct blk *b = s ? blk_handle_new(s, "", false) : NULL;

    if (!b)
        return NULL;
    b->readonly = true;
    b->dev = dev_obj;
    return b;
}

struct blk *blk_of_dev(struct blk_set *s, const void *dev_obj)
{
    struct blk *b;

    list_each (b, &s->drives, in_set)
        if (b->dev == dev_obj)
            return b;
    return NULL;
}

const char *blk_who(const struct blk *b)
{
    const struct obj *o = b->dev;

    return !*b->id && o && o->name ? o->name : b->id;
}

void blk_detach(struct blk *b, void *dev_obj)
{
    struct blk_set *s;

    if (!b || b->dev != dev_obj)
        return;
    s = b->set;
    blk_home_begin(s);
    blk_set_iothread(b, NULL);
    blk_drain(b);
    b->dev = NULL;
    b->ops = NULL;
    if (!b->is_drive || b->die_with_device)
        blk_handle_free(b);
    blk_home_end(s);
}

void blk_node_resized(struct blk_node *n)
{
    struct blk_child *c;

    list_each (c, &n->parents, in_node) {
        if (c->handle)
            blk_handle_resized(c->handle);
        else if (c->parent && c->parent->drv->kind == BLK_FILTER && c == c->parent->file) {
            c->parent->size = n->size;
            blk_node_resized(c->parent);
        }
    }
}

/* ---- the property ---- */

static bool prop_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    struct blk **slot = field, *b;
    struct blk_set *s = blk_set_of(o->ctx);

    if (!s)
        return err_set(errp, "property '%s': this machine has no block devices", p->name);
    b = *val ? blk_attach(s, val, o, errp) : NULL;
    if (*val && !b) {
        err_prefix(errp, "Property '%s.%s': ", o->cls->name, p->name);
        return false;
    }
    if (*slot)
        blk_detach(*slot, o);
    *slot = b;
    return true;
}

static char *prop_get(struct obj *o, const struct prop *p, const void *field)
{
    struct blk *const *slot = field;

    if (!*slot)
        return NULL;
    return xstrdup((*slot)->is_drive ? (*slot)->id : (*slot)->root ? (*slot)->root->node->name : "");
}

static void prop_release(struct obj *o, const struct prop *p, void *field)
{
    struct blk **slot = field;

    if (*slot)
        blk_detach(*slot, o);
    *slot = NULL;
}

const struct prop_type blk_prop = {.name = "str", .set = prop_set, .get = prop_get, .release = prop_release};
