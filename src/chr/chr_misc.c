/* Back ends without a descriptor: null, ringbuf, vc (a text console: whoever has displays draws
 * it), testdev. */
#include "chr/chr_int.h"

struct chr_ring {
    struct chr chr;      /* first */
    uint8_t *buf;        /* owned, size bytes */
    uint64_t size;       /* a power of two */
    uint64_t prod, cons; /* running counts; prod - cons <= size */
};

enum { RING_DEFAULT = 65536, RING_MAX = 1 << 30 };

static size_t null_write(struct chr *c, const uint8_t *buf, size_t len)
{
    return len;
}

static bool null_open(struct chr *c, struct opts *o, struct err **errp)
{
    c->opened = true;
    chr_set_label(c, "%s", chr_class(c)->type);
    return true;
}

static const struct chr_class null_class = {CHR_CLASS("null"), .desc = "output vanishes", .size = sizeof(struct chr),
                                            .open = null_open, .write = null_write};
CHR_REGISTER(null_class)

/* vc: a text console that the program shows where it can; see chr_hooks. */

enum { VC_ROOM = 256, CELL_W = 8, CELL_H = 16 };
struct chr_vc {
    struct chr chr; /* first */
    void *console;  /* owned, through the hooks; NULL = none */
    uint8_t typed[VC_ROOM];
    size_t nr_typed;
};

static struct chr_vc *vc_of(struct chr *c)
{
    return container_of(c, struct chr_vc, chr);
}

static void vc_refresh(struct chr *c)
{
    struct chr_vc *v = vc_of(c);
    size_t room = chr_room(c), n = room < v->nr_typed ? room : v->nr_typed;
    uint8_t buf[VC_ROOM];

    if (!n)
        return;
    memcpy(buf, v->typed, n);
    v->nr_typed -= n;
    memmove(v->typed, v->typed + n, v->nr_typed);
    chr_input(c, buf, n);
}

void chr_vc_input(struct chr *c, const uint8_t *buf, size_t len)
{
    struct chr_vc *v = vc_of(c);
    size_t n = len < VC_ROOM - v->nr_typed ? len : VC_ROOM - v->nr_typed;

    memcpy(v->typed + v->nr_typed, buf, n);
    v->nr_typed += n;
    vc_refresh(c);
}

static size_t vc_write(struct chr *c, const uint8_t *buf, size_t len)
{
    struct chr_vc *v = vc_of(c);

    if (v->console)
        c->set->hooks->vc_write(v->console, buf, len);
    return len;
}

static bool vc_open(struct chr *c, struct opts *o, struct err **errp)
{
    static const char *const keys[] = {"cols", "rows", "width", "height"};
    uint64_t v[4] = {0};

    for (unsigned i = 0; i < ARRAY_LEN(keys); i++) {
        bool given = opts_peek(o, keys[i]);

        if (!opts_u64(o, keys[i], &v[i], errp))
            return false;
        if (given && (!v[i] || v[i] > 16384))
            return err_set(errp, "vc: %s must be 1 to 16384", keys[i]);
    }
    for (unsigned i = 0; i < 2; i++)
        if (!v[i] && v[2 + i])
            v[i] = max_u64(v[2 + i] / (i ? CELL_H : CELL_W), 1);
    if (c->set && c->set->hooks && c->set->hooks->vc_new)
        vc_of(c)->console = c->set->hooks->vc_new(c->set->hooks_opaque, c, (unsigned)v[0], (unsigned)v[1]);
    return null_open(c, o, errp);
}

static void vc_close(struct chr *c)
{
    struct chr_vc *v = vc_of(c);

    if (v->console)
        c->set->hooks->vc_free(v->console);
    v->console = NULL;
}

static const char *const vc_keys[] = {"width", "height", "cols", "rows", NULL};
static const struct chr_class vc_class = {CHR_CLASS("vc"),
                                          .desc = "a text console beside the guest's screen",
                                          .size = sizeof(struct chr_vc),
                                          .keys = vc_keys,
                                          .open = vc_open,
                                          .close = vc_close,
                                          .write = vc_write,
                                          .refresh = vc_refresh};
CHR_REGISTER(vc_class)

/* ringbuf */

static struct chr_ring *ring_of(struct chr *c)
{
    return container_of(c, struct chr_ring, chr);
}

static size_t ring_write(struct chr *c, const uint8_t *buf, size_t len)
{
    struct chr_ring *r = ring_of(c);

    for (size_t i = 0; i < len; i++) {
        r->buf[r->prod++ & (r->size - 1)] = buf[i];
        if (r->prod - r->cons > r->size)
            r->cons = r->prod - r->size;
    }
    return len;
}

static bool ring_open(struct chr *c, struct opts *o, struct err **errp)
{
    struct chr_ring *r = ring_of(c);

    r->size = RING_DEFAULT;
    if (!opts_size(o, "size", &r->size, errp))
        return false;
    if (!is_pow2(r->size) || r->size > RING_MAX)
        return err_set(errp, "ringbuf: size must be a power of two up to 1G, not %" PRIu64, r->size);
    r->buf = try_alloc(r->size, 1);
    if (!r->buf)
        return err_set(errp, "ringbuf: not enough memory for %" PRIu64 " bytes", r->size);
    c->opened = true;
    chr_set_label(c, "ringbuf");
    return true;
}

static void ring_close(struct chr *c)
{
    free(ring_of(c)->buf);
}

static const char *const ring_keys[] = {"size", NULL};
static const struct chr_class ring_class = {CHR_CLASS("ringbuf"),
                                            .alias = "memory",
                                            .desc = "the latest output in memory, read by ringbuf-read",
                                            .size = sizeof(struct chr_ring),
                                            .keys = ring_keys,
                                            .open = ring_open,
                                            .close = ring_close,
                                            .write = ring_write};
CHR_REGISTER(ring_class)

ssize_t chr_ringbuf_read(struct chr *c, void *buf, size_t len)
{
    struct chr_ring *r = ring_of(c);
    size_t n = 0;

    if (chr_class(c) != &ring_class)
        return -1;
    while (n < len && r->cons != r->prod)
        ((uint8_t *)buf)[n++] = r->buf[r->cons++ & (r->size - 1)];
    return n;
}

bool chr_ringbuf_write(struct chr *c, const void *buf, size_t len)
{
    if (chr_class(c) != &ring_class)
        return false;
    ring_write(c, buf, len);
    return true;
}

/* testdev: a guest program writes decimal digits and 'q' to end the emulator with status (digits << 1) | 1. */
struct chr_testdev {
    struct chr chr; /* first */
    unsigned arg;
};

static size_t testdev_write(struct chr *c, const uint8_t *buf, size_t len)
{
    struct chr_testdev *t = container_of(c, struct chr_testdev, chr);
    const struct chr_hooks *h = c->set->hooks;

    for (size_t i = 0; i < len; i++) {
        if (buf[i] >= '0' && buf[i] <= '9') {
            t->arg = t->arg * 10 + (buf[i] - '0');
        } else {
            if (buf[i] == 'q' && h && h->exit_code)
                h->exit_code(c->set->hooks_opaque, (int)((t->arg << 1 | 1) & 0xff));
            t->arg = 0;
        }
    }
    return len;
}

static const struct chr_class testdev_class = {
    CHR_CLASS("testdev"), .desc = "ends the program when the guest writes NNNq", .size = sizeof(struct chr_testdev),
    .open = null_open, .write = testdev_write};
CHR_REGISTER(testdev_class)
