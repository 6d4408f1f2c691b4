/* virtio entropy device and its sources. Source: VIRTIO 1.2, 5.4.
 *
 * Sources are objects: rng-random reads a file (/dev/urandom by default) without blocking the program, rng-builtin asks
 * the host kernel. max-bytes and period bound what the guest gets per period (milliseconds of guest time). */
#include "hw/virtio/virtio_pci.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 4096, QUEUE_NUM = 8 };

/* ---- sources ---- */

struct rng_wait { /* a request, embedded in who made it */
    struct list link;
    void (*fn)(struct rng_wait *w, const void *buf, size_t len);
    size_t want;
};
struct rng_source {
    struct obj obj; /* first */
    char *filename; /* property of rng-random */
    int fd;
    struct ev_fd *ev;  /* watched while somebody waits */
    struct list waits; /* of struct rng_wait */
};

static void rng_init(struct obj *o)
{
    struct rng_source *s = container_of(o, struct rng_source, obj);

    s->fd = -1;
    list_init(&s->waits);
}

static bool rng_random_ready(struct obj *o, struct err **errp)
{
    struct rng_source *s = container_of(o, struct rng_source, obj);
    struct stat st;

    s->fd = open(s->filename, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (s->fd < 0)
        return err_set_errno(errp, errno, "rng-random: cannot open '%s'", s->filename);
    if (fstat(s->fd, &st) == 0 && S_ISDIR(st.st_mode))
        return err_set_errno(errp, EISDIR, "rng-random: cannot read '%s'", s->filename);
    return true;
}

static void rng_free(struct obj *o)
{
    struct rng_source *s = container_of(o, struct rng_source, obj);

    ev_fd_del(s->ev);
    if (s->fd >= 0)
        close(s->fd);
}

static void rng_readable(void *opaque, int fd, unsigned events)
{
    struct rng_source *s = opaque;
    struct rng_wait *w = list_first(&s->waits, struct rng_wait, link);
    uint8_t buf[CHUNK];
    ssize_t n;

    if (!w) {
        ev_fd_set(s->ev, 0);
        return;
    }
    n = read(fd, buf, min_u64(w->want, sizeof buf));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    list_del(&w->link);
    w->fn(w, buf, n > 0 ? n : 0);
}

/* Calls w->fn, soon or at once, with at least one byte (none when the source ended). On the loop's thread. */
static void rng_request(struct rng_source *s, struct run *run, struct rng_wait *w)
{
    uint8_t buf[CHUNK];
    ssize_t n;

    if (s->fd < 0) {
        n = getrandom(buf, min_u64(w->want, sizeof buf), 0);
        w->fn(w, buf, n > 0 ? n : 0);
        return;
    }
    list_add(&s->waits, &w->link);
    if (!s->ev)
        s->ev = ev_fd_add(run->loop, s->fd, EV_IN, rng_readable, s);
    else
        ev_fd_set(s->ev, EV_IN);
}

static const struct prop rng_random_props[] = {
    PROP("filename", str, struct rng_source, filename, .dflt = "/dev/urandom", .help = "file the bytes are read from"),
    PROP_END};
static const struct obj_class rng_random_class = {.name = "rng-random",
                                                  .parent = "rng-backend",
                                                  .size = sizeof(struct rng_source),
                                                  .props = rng_random_props,
                                                  .init = rng_init,
                                                  .ready = rng_random_ready,
                                                  .free = rng_free,
                                                  .user = true,
                                                  .desc = "random bytes from a file"};
OBJ_REGISTER(rng_random_class)
static const struct obj_class rng_builtin_class = {.name = "rng-builtin",
                                                   .parent = "rng-backend",
                                                   .size = sizeof(struct rng_source),
                                                   .init = rng_init,
                                                   .free = rng_free,
                                                   .user = true,
                                                   .desc = "random bytes from the host kernel"};
OBJ_REGISTER(rng_builtin_class)

static void CONSTRUCTOR rng_family(void)
{
    obj_register_family("rng-backend", NULL);
}

/* ---- the device ---- */

struct vrng {
    struct virtio_dev vd;   /* first */
    struct obj *rng;        /* property; owned reference when made here */
    struct rng_source *src; /* borrowed: rng */
    uint64_t max_bytes;     /* property */
    uint32_t period_ms;     /* property */
    int64_t quota;          /* bytes left in this period */
    struct clk_timer timer;
    struct ev_bh ask_bh; /* requests are made on the loop's thread */
    struct rng_wait wait;
    bool own, asked;
};
struct vrng_pci {
    struct virtio_pci pci;
    struct vrng v;
};

static void vrng_ask(void *opaque)
{
    struct vrng *v = opaque;
    struct virtq *q = &v->vd.vq[0];

    if (v->asked || !virtio_active(&v->vd) || v->quota <= 0 || virtq_empty(q))
        return;
    v->asked = true;
    v->wait.want = min_u64(v->quota, CHUNK);
    rng_request(v->src, dev_machine(v->vd.dev)->run, &v->wait);
}

static void vrng_feed(struct rng_wait *w, const void *buf, size_t len)
{
    struct vrng *v = container_of(w, struct vrng, wait);
    struct virtq *q = &v->vd.vq[0];
    struct virtq_elem *e;
    const uint8_t *p = buf;
    bool any = false;

    v->asked = false;
    if (!virtio_active(&v->vd) || !len)
        return;
    while (len && (e = virtq_pop(q, sizeof *e))) {
        size_t n = iov_from_buf(&e->in, 0, p, len);

        p += n;
        len -= n;
        v->quota -= n;
        virtq_push(e, n);
        any = true;
    }
    if (any)
        virtq_notify(q);
    ev_bh_schedule(&v->ask_bh);
}

static void vrng_period(void *opaque)
{
    struct vrng *v = opaque;

    v->quota = min_u64(v->max_bytes, INT64_MAX);
    clk_timer_set(&v->timer, clk_now(dev_vclk(v->vd.dev)) + (int64_t)v->period_ms * NS_PER_MS);
    ev_bh_schedule(&v->ask_bh);
}

static void vrng_queue(struct virtio_dev *vd, struct virtq *q)
{
    struct vrng *v = container_of(vd, struct vrng, vd);

    if (v->max_bytes != INT64_MAX && !clk_timer_pending(&v->timer))
        vrng_period(v);
    ev_bh_schedule(&v->ask_bh);
}

static bool vrng_realize(struct virtio_dev *vd, struct err **errp)
{
    struct vrng *v = container_of(vd, struct vrng, vd);

    if (!v->period_ms)
        return err_set(errp, "virtio-rng: period must be at least 1 millisecond");
    if (v->max_bytes > INT64_MAX)
        return err_set(errp, "virtio-rng: max-bytes is too large");
    if (!v->rng) {
        v->rng = obj_new(&rng_builtin_class, vd->dev->obj.ctx);
        v->own = true;
        if (!obj_ready(v->rng, errp))
            return false;
    }
    if (!obj_class_is(v->rng->cls, "rng-backend"))
        return err_set(errp, "virtio-rng: object '%s' is no source of random bytes; use rng-random or rng-builtin",
                       v->rng->name);
    v->src = container_of(v->rng, struct rng_source, obj);
    v->quota = min_u64(v->max_bytes, INT64_MAX);
    list_init(&v->wait.link);
    v->wait.fn = vrng_feed;
    clk_timer_init(&v->timer, dev_vclk(vd->dev), vrng_period, v);
    ev_bh_init(&v->ask_bh, dev_machine(vd->dev)->run->loop, vrng_ask, v);
    virtio_add_queue(vd, QUEUE_NUM, vrng_queue);
    return true;
}

static void vrng_reset(struct virtio_dev *vd)
{
    struct vrng *v = container_of(vd, struct vrng, vd);

    clk_timer_cancel(&v->timer);
    v->quota = min_u64(v->max_bytes, INT64_MAX);
}

static void vrng_unrealize(struct virtio_dev *vd)
{
    struct vrng *v = container_of(vd, struct vrng, vd);

    ev_bh_cancel(&v->ask_bh);
    clk_timer_cancel(&v->timer);
    list_del(&v->wait.link);
    if (v->own) {
        obj_unref(v->rng);
        v->rng = NULL;
    }
}

static const struct virtio_type vrng_type = {.name = "virtio-rng",
                                             .id = VIRTIO_ID_RNG,
                                             .realize = vrng_realize,
                                             .unrealize = vrng_unrealize,
                                             .reset = vrng_reset};
static const struct prop vrng_pci_props[] = {
    PROP("rng", link, struct vrng_pci, v.rng),
    PROP("max-bytes", u64, struct vrng_pci, v.max_bytes, .dflt = "9223372036854775807"),
    PROP("period", u32, struct vrng_pci, v.period_ms, .dflt = "65536"),
    VIRTIO_PROPS(struct vrng_pci, v.vd),
    VIRTIO_PCI_PROPS(struct vrng_pci),
    PROP_END,
};
static const struct state_field vrng_fields[] = {
    STATE_STRUCT(struct vrng_pci, pci, virtio_pci_state),
    STATE_STRUCT(struct vrng_pci, v.vd, virtio_state),
    STATE_I64(struct vrng_pci, v.quota),
    STATE_TIMER(struct vrng_pci, v.timer),
    STATE_END,
};
static const struct state_desc vrng_state = {.name = "virtio-rng", .version = 1, .fields = vrng_fields};
static const char *const vrng_aliases[] = {"virtio-rng", NULL};
VIRTIO_PCI_CLASSES(vrng, "virtio-rng-pci", vrng_aliases, struct vrng_pci, v, vrng_type, .props = vrng_pci_props,
                   .state_desc = &vrng_state, .category = DEV_CAT_MISC, .desc = "virtio entropy source",
                   .legacy_id = 0x1005, .class_id = 0x00ff)
