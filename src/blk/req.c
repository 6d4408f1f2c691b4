/* The life of a request on one node: clipped to the size, aligned, ordered against its neighbours, handed to the
 * driver.
 *
 * Order. Every request lies on n->tracked from entry to end. A serialising request (a read-modify-write, or one that
 * asks to be) waits for every older overlapping request with a write among the two, and is waited for by younger ones;
 * since only older requests are waited for, there is no cycle. Unaligned writes are widened to n->request_align here,
 * so that two writers of one block cannot undo each other.
 *
 * Outside fibres (start-up) nothing else can be in flight on the node, and requests run to their end at once. */
#include "base/json.h"
#include "blk/blk_int.h"
#include <errno.h>
#include <limits.h>

enum { ZERO_CHUNK = 1 << 20, MAX_BOUNCE = 64 << 20 };

struct track_wait {
    struct list link;
    struct fibre *f;
};

static bool conflicts(const struct blk_track *a, const struct blk_track *b)
{
    return (a->serialising || b->serialising) && (a->write || b->write) && a->off < b->off + b->len &&
           b->off < a->off + a->len;
}

static void track_begin(struct blk_node *n, struct blk_track *t, uint64_t off, uint64_t len, bool write,
                        bool serialising)
{
    *t = (struct blk_track){.off = off, .len = len, .write = write, .serialising = serialising};
    list_init(&t->waiters);
    list_add(&n->tracked, &t->link);
    n->in_flight++;
again:
    for (struct list *l = t->link.prev; l != &n->tracked; l = l->prev) {
        struct blk_track *o = container_of(l, struct blk_track, link);

        if (conflicts(o, t)) {
            struct track_wait w = {.f = fibre_self()};

            if (!w.f)
                return; /* see above: cannot happen while others are in flight */
            list_add(&o->waiters, &w.link);
            fibre_yield();
            goto again;
        }
    }
}

static void track_end(struct blk_node *n, struct blk_track *t)
{
    struct track_wait *w, *tmp;

    list_del(&t->link);
    n->in_flight--;
    list_each_safe (w, tmp, &t->waiters, link) {
        list_del(&w->link);
        fibre_wake(blk_set_loop(n->set), w->f);
    }
}

static bool mem_aligned(const struct blk_node *n, const struct iov *q, uint64_t qoff)
{
    uintptr_t mask = n->mem_align ? n->mem_align - 1 : 0;

    if (!mask)
        return true;
    if (qoff & mask)
        return false;
    for (unsigned i = 0; i < q->nr; i++)
        if (((uintptr_t)q->v[i].iov_base | q->v[i].iov_len) & mask)
            return false;
    return true;
}

static uint32_t align_of(const struct blk_node *n)
{
    return n->request_align ? n->request_align : 1;
}

static void *bounce_alloc(const struct blk_node *n, uint64_t len)
{
    return try_alloc_aligned(n->mem_align > 512 ? n->mem_align : 512, len);
}

/* Calls the driver in pieces of at most max_transfer. */
static int drv_read(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    uint64_t max = n->max_transfer ? n->max_transfer : len;

    while (len) {
        uint64_t part = min_u64(len, max);
        int r = n->drv->preadv(n, off, part, q, qoff, flags);

        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

static int drv_write(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    uint64_t max = n->max_transfer ? n->max_transfer : len;

    while (len) {
        uint64_t part = min_u64(len, max);
        int r = n->drv->pwritev(n, off, part, q, qoff, flags);

        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

/* Through a buffer of our own that is aligned on both sides. */
static int read_bounced(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    uint64_t a = align_of(n);

    while (len) {
        uint64_t part = min_u64(len, MAX_BOUNCE), lo = align_down(off, a), hi = align_up(off + part, a);
        uint8_t *buf AUTOFREE = bounce_alloc(n, hi - lo);
        struct iovec v = {buf, hi - lo};
        struct iov bq;
        int r;

        if (!buf)
            return -ENOMEM;
        iov_init_ext(&bq, &v, 1);
        r = drv_read(n, lo, hi - lo, &bq, 0, flags);
        if (r < 0)
            return r;
        iov_from_buf(q, qoff, buf + (off - lo), part);
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

int blk_node_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    struct blk_track t;
    uint64_t in;
    int r;

    if (!n->drv || !n->drv->preadv)
        return -ENOTSUP;
    if (!len)
        return 0;
    in = off >= n->size ? 0 : min_u64(len, n->size - off);
    if (in < len)
        iov_set(q, qoff + in, 0, len - in);
    if (!in)
        return 0;
    track_begin(n, &t, off, in, false, flags & BLK_REQ_SERIALISE);
    if (((off | in) & (align_of(n) - 1)) || !mem_aligned(n, q, qoff))
        r = read_bounced(n, off, in, q, qoff, flags);
    else
        r = drv_read(n, off, in, q, qoff, flags);
    track_end(n, &t);
    return r;
}

/* Reads what surrounds [off, off+len) in its aligned blocks into buf, which covers [lo, hi). */
static int fill_edges(struct blk_node *n, uint64_t lo, uint64_t hi, uint64_t off, uint64_t len, uint8_t *buf)
{
    uint64_t a = align_of(n);
    struct iovec v = {buf, a};
    struct iov bq;
    int r = 0;

    if (off != lo && lo < n->size) {
        iov_init_ext(&bq, &v, 1);
        r = n->drv->preadv(n, lo, a, &bq, 0, 0);
    }
    if (r >= 0 && off + len != hi && hi - a < n->size && (hi - a != lo || off == lo)) {
        v.iov_base = buf + (hi - a - lo);
        iov_init_ext(&bq, &v, 1);
        r = n->drv->preadv(n, hi - a, a, &bq, 0, 0);
    }
    return r;
}

static int write_bounced(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                         unsigned flags)
{
    uint64_t a = align_of(n);

    while (len) {
        uint64_t part = min_u64(len, MAX_BOUNCE), lo = align_down(off, a), hi = align_up(off + part, a);
        uint8_t *buf AUTOFREE = bounce_alloc(n, hi - lo);
        struct iovec v = {buf, hi - lo};
        struct iov bq;
        int r;

        if (!buf)
            return -ENOMEM;
        r = fill_edges(n, lo, hi, off, part, buf);
        if (r < 0)
            return r;
        iov_to_buf(q, qoff, buf + (off - lo), part);
        iov_init_ext(&bq, &v, 1);
        r = drv_write(n, lo, hi - lo, &bq, 0, flags);
        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

static int write_zero_bytes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    uint8_t *z AUTOFREE = bounce_alloc(n, ZERO_CHUNK);
    struct iovec v = {z, ZERO_CHUNK};
    struct iov zq;
    int r = 0;

    if (!z)
        return -ENOMEM;
    memset(z, 0, ZERO_CHUNK);
    iov_init_ext(&zq, &v, 1);
    while (len && r >= 0) {
        uint64_t part = min_u64(len, ZERO_CHUNK);

        if ((off | part) & (align_of(n) - 1))
            r = write_bounced(n, off, part, &zq, 0, flags);
        else
            r = drv_write(n, off, part, &zq, 0, flags);
        off += part;
        len -= part;
    }
    return r;
}

/* Zeroes a range by the driver's own means where it has them, writing the unaligned edges. */
static int drv_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t a = max_u64(n->zero_align, align_of(n)), head, body;
    int r = -ENOTSUP;

    if (!n->drv->pwrite_zeroes)
        return flags & BLK_NO_FALLBACK ? -ENOTSUP : write_zero_bytes(n, off, len, flags);
    head = min_u64(len, align_up(off, a) - off);
    body = align_down(len - head, a);
    if (off + len == n->size && len > head) /* the tail up to the end counts as whole */
        body = len - head;
    if (head) {
        r = write_zero_bytes(n, off, head, flags);
        if (r < 0)
            return r;
    }
    if (body) {
        r = n->drv->pwrite_zeroes(n, off + head, body, flags);
        if (r == -ENOTSUP && !(flags & BLK_NO_FALLBACK))
            r = write_zero_bytes(n, off + head, body, flags);
        if (r < 0)
            return r;
    }
    if (len > head + body)
        r = write_zero_bytes(n, off + head + body, len - head - body, flags);
    return r;
}

/* Listeners may suspend; the one that is called stays on the list until it returns (blk_notify_del waits). */
static int run_before(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct blk_notify *b;
    int r = 0;

    list_each (b, &n->notifiers, link) {
        if (!b->before || b->gone)
            continue;
        b->in_use++;
        r = b->before(b, off, len);
        b->in_use--;
        if (r < 0)
            return r;
    }
    return 0;
}

static void run_settled(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct blk_notify *b;

    list_each (b, &n->notifiers, link) {
        if (!b->settled || b->gone)
            continue;
        b->in_use++;
        b->settled(b, off, len);
        b->in_use--;
    }
}

static void pass_threshold(struct blk_node *n, uint64_t end)
{
    blk_event(n->set, "BLOCK_WRITE_THRESHOLD",
              json_make("s:node-name", n->name, "u:amount-exceeded", end - n->write_threshold, "u:write-threshold",
                        n->write_threshold, NULL));
    n->write_threshold = 0;
}

static void after_write(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct blk_bitmap *m;
    struct blk_notify *b;

    n->write_gen++;
    n->wr_highest = max_u64(n->wr_highest, off + len);
    if (n->write_threshold && off + len > n->write_threshold)
        pass_threshold(n, off + len);
    if (off + len > n->size) {
        n->size = off + len;
        blk_node_resized(n);
    }
    list_each (m, &n->bitmaps, link)
        if (m->enabled)
            blk_bitmap_set(m, off, len);
    list_each (b, &n->notifiers, link)
        if (b->after && !b->gone)
            b->after(b, off, len);
}

/* A filter has the end of what it filters: a format above one allocates beyond it as if it were not there. */
static bool may_grow(struct blk_node *n)
{
    return n->growable || (n->drv->kind == BLK_FILTER && n->file && n->file->node->drv && may_grow(n->file->node));
}

static int write_check(struct blk_node *n, uint64_t off, uint64_t len)
{
    uint64_t end;

    if (!n->drv || !n->drv->pwritev)
        return -ENOTSUP;
    if (!(n->open_flags & BLK_O_RDWR))
        return -EPERM;
    if (!add_ok_u64(off, len, &end) || end > INT64_MAX || (end > n->size && !may_grow(n)))
        return -EIO;
    return 0;
}

static int write_locked(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    if (flags & BLK_REQ_COMPRESSED)
        return n->drv->pwrite_compressed ? n->drv->pwrite_compressed(n, off, len, q, qoff) : -ENOTSUP;
    if (n->detect_zeroes && iov_is_zero(q, qoff, len))
        return drv_zeroes(n, off, len, flags | (n->detect_unmap ? BLK_MAY_UNMAP : 0));
    if (((off | len) & (align_of(n) - 1)) || !mem_aligned(n, q, qoff))
        return write_bounced(n, off, len, q, qoff, flags);
    return drv_write(n, off, len, q, qoff, flags);
}

int blk_node_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    uint64_t a = align_of(n);
    struct blk_track t;
    int r = write_check(n, off, len);

    if (r < 0 || (!len && !(flags & BLK_REQ_COMPRESSED)))
        return r;
    if ((off | len) & (a - 1))
        track_begin(n, &t, align_down(off, a), align_up(off + len, a) - align_down(off, a), true, true);
    else
        track_begin(n, &t, off, len, true, flags & BLK_REQ_SERIALISE);
    r = run_before(n, off, len);
    if (r >= 0)
        r = write_locked(n, off, len, q, qoff, flags & ~(unsigned)BLK_FUA);
    if (r >= 0)
        after_write(n, off, len);
    track_end(n, &t);
    if (r >= 0)
        run_settled(n, off, len);
    if (r >= 0 && flags & BLK_FUA)
        r = blk_node_flush(n);
    return r < 0 ? r : 0;
}

int blk_node_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t a = align_of(n);
    struct blk_track t;
    int r = write_check(n, off, len);

    if (r < 0 || !len)
        return r;
    if (!(n->open_flags & BLK_O_UNMAP))
        flags &= ~(unsigned)BLK_MAY_UNMAP;
    track_begin(n, &t, align_down(off, a), align_up(off + len, a) - align_down(off, a), true, (off | len) & (a - 1));
    r = run_before(n, off, len);
    if (r >= 0)
        r = drv_zeroes(n, off, len, flags & ~(unsigned)BLK_FUA);
    if (r >= 0)
        after_write(n, off, len);
    track_end(n, &t);
    if (r >= 0)
        run_settled(n, off, len);
    if (r >= 0 && flags & BLK_FUA)
        r = blk_node_flush(n);
    return r < 0 ? r : 0;
}

static int copy_from(struct blk_node *n, uint64_t off, struct blk_node *src, uint64_t soff, uint64_t len)
{
    struct blk_track t;
    int r = write_check(n, off, len);

    if (r < 0)
        return r;
    if (!n->drv->copy_from || (off | len) & (align_of(n) - 1))
        return -ENOTSUP;
    track_begin(n, &t, off, len, true, false);
    r = run_before(n, off, len);
    if (r >= 0)
        r = n->drv->copy_from(n, off, src, soff, len);
    if (r >= 0)
        after_write(n, off, len);
    track_end(n, &t);
    if (r >= 0)
        run_settled(n, off, len);
    return r;
}

int blk_pcopy_from(struct blk_child *c, uint64_t off, struct blk_node *src, uint64_t soff, uint64_t len)
{
    return copy_from(c->node, off, src, soff, len);
}

int blk_node_copy_range(struct blk_node *src, uint64_t soff, struct blk_node *dst, uint64_t off, uint64_t len)
{
    while (len) {
        struct blk_extent e;
        int r = blk_node_status_above(src, NULL, soff, len, &e, NULL);

        if (r >= 0 && (!(e.flags & BLK_ST_DATA) || !(e.flags & BLK_ST_OFFSET) || e.flags & BLK_ST_COMPRESSED ||
                       !e.map_node || e.map_node->drv->kind != BLK_PROTOCOL || e.map_node->encrypted))
            r = -ENOTSUP;
        if (r >= 0)
            r = copy_from(dst, off, e.map_node, e.map, e.len);
        if (r < 0)
            return r;
        soff += e.len;
        off += e.len;
        len -= e.len;
    }
    return 0;
}

int blk_node_cached_fd(struct blk_node *n, uint64_t off, uint64_t len, uint64_t *at)
{
    return n->drv->cached_fd && off <= n->size && len <= n->size - off ? n->drv->cached_fd(n, off, len, at) : -1;
}

int blk_node_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    uint64_t a = max_u64(max_u64(n->discard_align, align_of(n)), 1), lo, hi;
    struct blk_track t;
    int r = write_check(n, off, len);

    if (r < 0 || !len)
        return r;
    if (!(n->open_flags & BLK_O_UNMAP) || !n->drv->discard)
        return 0;
    lo = align_up(off, a);
    hi = off + len == n->size ? n->size : align_down(off + len, a);
    if (lo >= hi)
        return 0;
    track_begin(n, &t, lo, hi - lo, true, false);
    r = run_before(n, lo, hi - lo);
    if (r >= 0)
        r = n->drv->discard(n, lo, hi - lo);
    if (r == -ENOTSUP)
        r = 0;
    if (r >= 0)
        after_write(n, lo, hi - lo);
    track_end(n, &t);
    if (r >= 0)
        run_settled(n, lo, hi - lo);
    return r < 0 ? r : 0;
}

int blk_node_copy_up(struct blk_node *n, uint64_t off, uint64_t len)
{
    enum { PIECE = 1 << 20 };
    uint64_t a = n->cluster_size ? n->cluster_size : 65536, end = min_u64(align_up(off + len, a), n->size);
    uint8_t *buf = try_alloc_aligned(4096, PIECE);
    struct blk_track t;
    int r = buf ? 0 : -ENOMEM;

    off = align_down(off, a);
    if (r < 0 || off >= end) {
        free(buf);
        return r;
    }
    track_begin(n, &t, off, end - off, true, true);
    while (off < end && r >= 0) {
        struct blk_extent e;
        struct iovec v = {buf, 0};
        struct iov q;

        r = blk_node_status(n, off, end - off, &e);
        if (r < 0)
            break;
        if (!(e.flags & BLK_ST_ALLOC)) {
            e.len = min_u64(e.len, PIECE);
            v.iov_len = e.len;
            iov_init_ext(&q, &v, 1);
            r = drv_read(n, off, e.len, &q, 0, 0);
            if (r >= 0)
                r = drv_write(n, off, e.len, &q, 0, 0);
            n->write_gen++;
        }
        off += e.len;
    }
    track_end(n, &t);
    free(buf);
    return r < 0 ? r : 0;
}

/* Own metadata first, then every child that may have been written: n's data is durable when all have answered. */
int blk_node_flush(struct blk_node *n)
{
    struct blk_child *c, *tmp;
    uint64_t gen = n->write_gen;
    int r = 0;

    if (!(n->open_flags & BLK_O_RDWR))
        return 0;
    n->in_flight++;
    if (n->drv->flush && (gen != n->flush_gen || n->drv->kind != BLK_PROTOCOL))
        r = n->drv->flush(n);
    if (r >= 0)
        list_each_safe (c, tmp, &n->children, in_parent)
            if (c != n->backing && r >= 0)
                r = blk_node_flush(c->node);
    if (r >= 0 && gen > n->flush_gen)
        n->flush_gen = gen;
    n->in_flight--;
    return r < 0 ? r : 0;
}

int blk_node_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    int r;

    *e = (struct blk_extent){0};
    if (off >= n->size || !len)
        return 0;
    len = min_u64(len, n->size - off);
    if (!n->drv->block_status) {
        struct blk_node *f = n->file ? n->file->node : NULL;

        *e = (struct blk_extent){.flags = BLK_ST_DATA | BLK_ST_ALLOC, .len = len};
        if (n->drv->kind == BLK_FILTER && f)
            *e = (struct blk_extent){.flags = BLK_ST_RECURSE | BLK_ST_OFFSET, .len = len, .map = off, .map_node = f};
        else if (n->drv->kind == BLK_PROTOCOL)
            *e = (struct blk_extent){
                .flags = BLK_ST_DATA | BLK_ST_ALLOC | BLK_ST_OFFSET, .len = len, .map = off, .map_node = n};
    } else {
        n->in_flight++;
        r = n->drv->block_status(n, off, len, e);
        n->in_flight--;
        if (r < 0)
            return r;
    }
    assert(e->len && e->len <= len);
    if (e->flags & BLK_ST_RECURSE && e->map_node) {
        struct blk_extent sub;
        unsigned keep = e->flags & (BLK_ST_OFFSET | BLK_ST_ALLOC);

        r = blk_node_status(e->map_node, e->map, e->len, &sub);
        if (r >= 0 && sub.len) {
            e->len = min_u64(e->len, sub.len);
            if (n->drv->kind == BLK_FILTER || n->drv == blk_driver_find("raw"))
                *e = sub;
            else if (sub.flags & BLK_ST_ZERO)
                e->flags = (e->flags & ~(unsigned)BLK_ST_RECURSE) | BLK_ST_ZERO | keep;
        } else if (r >= 0) { /* beyond the end of the file below: reads as zeros */
            e->flags |= BLK_ST_ZERO;
        }
        e->flags &= ~(unsigned)BLK_ST_RECURSE;
    }
    return 0;
}

int blk_node_status_above(struct blk_node *n, struct blk_node *base, uint64_t off, uint64_t len, struct blk_extent *e,
                          unsigned *depth)
{
    unsigned d = 0;

    len = off >= n->size ? 0 : min_u64(len, n->size - off);
    *e = (struct blk_extent){.len = len};
    for (; n && n != base; n = blk_node_cow(n), d++) {
        struct blk_extent s;
        int r;

        if (off >= n->size) { /* a short backing file: zeros above its end */
            e->flags = BLK_ST_ZERO | BLK_ST_ALLOC;
            e->len = len;
            break;
        }
        r = blk_node_status(n, off, len, &s);
        if (r < 0)
            return r;
        len = s.len;
        if (s.flags & BLK_ST_ALLOC || (!blk_node_cow(n) && blk_node_unfiltered(n) == n && s.flags)) {
            *e = s;
            break;
        }
        e->len = len;
        e->flags = s.flags & ~(unsigned)BLK_ST_ALLOC;
    }
    if (!n && !(e->flags & (BLK_ST_DATA | BLK_ST_ZERO)))
        e->flags |= BLK_ST_ZERO;
    if (depth)
        *depth = d;
    return 0;
}

int blk_preadv(struct blk_child *c, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    return blk_node_preadv(c->node, off, len, q, qoff, flags);
}
int blk_pwritev(struct blk_child *c, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    return blk_node_pwritev(c->node, off, len, q, qoff, flags);
}
int blk_node_pread(struct blk_node *n, uint64_t off, void *buf, size_t len)
{
    struct iovec v = {buf, len};
    struct iov q;

    iov_init_ext(&q, &v, 1);
    return blk_node_preadv(n, off, len, &q, 0, 0);
}
int blk_node_pwrite(struct blk_node *n, uint64_t off, const void *buf, size_t len)
{
    struct iovec v = {(void *)(uintptr_t)buf, len};
    struct iov q;

    iov_init_ext(&q, &v, 1);
    return blk_node_pwritev(n, off, len, &q, 0, 0);
}
int blk_pread(struct blk_child *c, uint64_t off, void *buf, size_t len)
{
    return blk_node_pread(c->node, off, buf, len);
}
int blk_pwrite(struct blk_child *c, uint64_t off, const void *buf, size_t len)
{
    return blk_node_pwrite(c->node, off, buf, len);
}
int blk_pwrite_zeroes(struct blk_child *c, uint64_t off, uint64_t len, unsigned flags)
{
    return blk_node_zeroes(c->node, off, len, flags);
}
int blk_pdiscard(struct blk_child *c, uint64_t off, uint64_t len)
{
    return blk_node_discard(c->node, off, len);
}
int blk_pflush(struct blk_child *c)
{
    return blk_node_flush(c->node);
}

int blk_node_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    struct blk_track t;
    uint64_t lo;
    int r;

    if (!n->drv->truncate) {
        err_set(errp, "Image format driver does not support resize");
        return -ENOTSUP;
    }
    if (!(n->open_flags & BLK_O_RDWR)) {
        err_set(errp, "Image is read-only");
        return -EACCES;
    }
    if (size > INT64_MAX - (1 << 20)) {
        err_set(errp, "Required too big image size, it must be not greater than %" PRIi64, INT64_MAX - (1 << 20));
        return -EFBIG;
    }
    lo = min_u64(size, n->size);
    track_begin(n, &t, lo, max_u64(size, n->size) - lo + 1, true, true);
    r = n->drv->truncate(n, size, p, errp);
    if (r >= 0) {
        n->write_gen++;
        n->size = n->drv->getlength ? n->drv->getlength(n) : size;
        blk_bitmaps_resize(n, n->size);
        blk_node_resized(n);
    }
    track_end(n, &t);
    return r;
}

uint64_t blk_node_length(struct blk_node *n)
{
    if (n->drv->getlength)
        n->size = n->drv->getlength(n);
    return n->size;
}

uint64_t blk_node_allocated(struct blk_node *n)
{
    struct blk_child *c;
    uint64_t sum = 0;

    if (n->drv->allocated)
        return n->drv->allocated(n);
    list_each (c, &n->children, in_parent)
        if (c != n->backing) {
            uint64_t a = blk_node_allocated(c->node);

            if (a == UINT64_MAX)
                return a;
            sum += a;
        }
    return list_empty(&n->children) ? UINT64_MAX : sum;
}

struct run_arg {
    fibre_fn *fn;
    void *opaque;
    bool done;
};

static void run_entry(void *opaque)
{
    struct run_arg *a = opaque;

    a->fn(a->opaque);
    a->done = true;
}

void blk_run(struct blk_set *s, fibre_fn *fn, void *opaque)
{
    struct run_arg a = {.fn = fn, .opaque = opaque};

    if (fibre_self()) {
        fn(opaque);
        return;
    }
    fibre_resume(fibre_new(run_entry, &a));
    while (!a.done)
        ev_loop_turn(s->loop, -1);
}

struct rw_arg {
    struct blk_node *n;
    uint64_t off;
    void *buf;
    size_t len;
    int what, ret;
};

static void rw_entry(void *opaque)
{
    struct rw_arg *a = opaque;

    a->ret = a->what == 0   ? blk_node_pread(a->n, a->off, a->buf, a->len)
             : a->what == 1 ? blk_node_pwrite(a->n, a->off, a->buf, a->len)
                            : blk_node_flush(a->n);
}

int blk_node_pread_sync(struct blk_node *n, uint64_t off, void *buf, size_t len)
{
    struct rw_arg a = {n, off, buf, len, 0, 0};

    blk_run(n->set, rw_entry, &a);
    return a.ret;
}
int blk_node_pwrite_sync(struct blk_node *n, uint64_t off, const void *buf, size_t len)
{
    struct rw_arg a = {n, off, (void *)(uintptr_t)buf, len, 1, 0};

    blk_run(n->set, rw_entry, &a);
    return a.ret;
}
int blk_node_flush_sync(struct blk_node *n)
{
    struct rw_arg a = {n, 0, NULL, 0, 2, 0};

    blk_run(n->set, rw_entry, &a);
    return a.ret;
}

static unsigned busy_below(const struct blk_node *n)
{
    const struct blk_child *c;
    unsigned sum = n->in_flight;

    list_each (c, &n->children, in_parent)
        sum += busy_below(c->node);
    return sum;
}

/* Only from the loop's thread and outside fibres. */
void blk_node_drain(struct blk_node *n)
{
    while (busy_below(n) && !fibre_self())
        ev_loop_turn(n->set->loop, -1);
}

void blk_notify_add(struct blk_node *n, struct blk_notify *b)
{
    b->node = n;
    list_add(&n->notifiers, &b->link);
}
void blk_notify_del(struct blk_notify *b)
{
    b->gone = true;
    while (b->in_use && fibre_self())
        blk_sleep(b->node->set, NS_PER_MS / 4);
    list_del(&b->link);
}
