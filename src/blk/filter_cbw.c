/* copy-before-write: what is about to be written is first copied to a target, so that the target together with what is
 * still untouched shows the disk as it was when the filter was put in. snapshot-access: that view, to be read.
 *
 * A granule is copied once. `lock` is held while one is copied and while the view reads one that was not: a write to it
 * waits. Options as in QMP: target, bitmap (only what is set there is kept), on-cbw-error. Left out: cbw-timeout. */
#include "blk/fmt_util.h"
#include <errno.h>

enum { MIN_GRAN = 65536 };

struct cbw {
    struct blk_child *target;
    uint32_t gran;
    uint8_t *done, *keep; /* owned: bit per granule: is in the target; belongs to the view (NULL = all) */
    uint64_t nr;
    struct fibre_mutex lock;
    bool break_snapshot, broken;
    uint8_t *buf; /* owned: one granule, under lock */
};

static bool bit(const uint8_t *b, uint64_t i)
{
    return b[i / 8] >> (i % 8) & 1;
}

static bool take_bitmap(struct blk_node *n, struct opts *o, struct err **errp)
{
    const char *node = opts_get(o, "bitmap.node"), *name = opts_get(o, "bitmap.name");
    struct cbw *s = n->priv;
    struct blk_node *of = node ? blk_node_find(n->set, node) : NULL;
    struct blk_bitmap *b = of && name ? blk_bitmap_find(of, name) : NULL;

    if (!node && !name)
        return true;
    if (!b)
        return err_set(errp, "Dirty bitmap '%s' not found", name ? name : "");
    s->keep = try_alloc(s->nr / 8 + 1, 1);
    if (!s->keep)
        return err_set(errp, "no memory");
    memset(s->keep, 0, s->nr / 8 + 1);
    for (uint64_t at = 0, start, len; blk_bitmap_next(b, at, &start, &len); at = start + len)
        for (uint64_t i = start / s->gran; i < s->nr && i * s->gran < start + len; i++)
            s->keep[i / 8] |= (uint8_t)(1u << (i % 8));
    return true;
}

static bool take_options(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct cbw *s = n->priv;
    const char *on = opts_get(o, "on-cbw-error");
    uint64_t timeout = 0;

    if (on && strcmp(on, "break-guest-write") && strcmp(on, "break-snapshot"))
        return err_set(errp, "Parameter 'on-cbw-error' does not accept value '%s'", on);
    s->break_snapshot = on && !strcmp(on, "break-snapshot");
    if (!opts_u64(o, "cbw-timeout", &timeout, errp))
        return false;
    return !timeout || err_set(errp, "cbw-timeout is not offered: leave it out, or 0");
}

static void cbw_close(struct blk_node *n)
{
    struct cbw *s = n->priv;

    blk_child_detach(s->target);
    free(s->done);
    free(s->keep);
    free(s->buf);
}

static bool cbw_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct cbw *s = n->priv;

    n->size = n->file->node->size;
    if (!take_options(n, o, errp))
        return false;
    s->target =
        blk_child_open(n, NULL, o, "target", (n->open_flags & ~(unsigned)BLK_O_PROTOCOL) | BLK_O_RDWR, false, errp);
    if (!s->target)
        return false;
    s->gran = (uint32_t)max_u64(MIN_GRAN, s->target->node->cluster_size);
    s->nr = div_up(n->size, s->gran);
    fibre_mutex_init(&s->lock);
    s->done = try_alloc(s->nr / 8 + 1, 1);
    s->buf = try_alloc_aligned(4096, s->gran);
    if (!s->done || !s->buf)
        err_set(errp, "no memory");
    else if (s->target->node->size < n->size)
        err_set(errp, "The target is smaller than the source");
    else if (take_bitmap(n, o, errp)) {
        memset(s->done, 0, s->nr / 8 + 1);
        return true;
    }
    cbw_close(n);
    return false;
}

/* Under lock. */
static int keep_granule(struct blk_node *n, uint64_t i)
{
    struct cbw *s = n->priv;
    uint64_t at = i * s->gran, len = min_u64(s->gran, n->size - at);
    int r = blk_pread(n->file, at, s->buf, len);

    if (r >= 0)
        r = blk_pwrite(s->target, at, s->buf, len);
    if (r >= 0)
        s->done[i / 8] |= (uint8_t)(1u << (i % 8));
    return r;
}

/* Before [off, +len) changes. Negative: it must not. */
static int before(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct cbw *s = n->priv;
    int r = 0;

    fibre_mutex_lock(&s->lock);
    for (uint64_t i = off / s->gran; len && r >= 0 && !s->broken && i < s->nr && i * s->gran < off + len; i++)
        if (!bit(s->done, i) && (!s->keep || bit(s->keep, i)))
            r = keep_granule(n, i);
    if (r < 0 && s->break_snapshot) {
        s->broken = true; /* the guest goes on, the view is lost */
        r = 0;
    }
    fibre_mutex_unlock(&s->lock);
    return r;
}

static int cbw_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    int r = before(n, off, len);

    return r < 0 ? r : blk_pwritev(n->file, off, len, q, qoff, flags);
}
static int cbw_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int r = before(n, off, len);

    return r < 0 ? r : blk_pwrite_zeroes(n->file, off, len, flags);
}
static int cbw_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    int r = before(n, off, len);

    return r < 0 ? r : blk_pdiscard(n->file, off, len);
}

static const char *const cbw_known[] = {"file",         "target",      "bitmap.node", "bitmap.name",
                                        "on-cbw-error", "cbw-timeout", NULL};
static const struct blk_driver drv_cbw = {.name = "copy-before-write",
                                          .kind = BLK_FILTER,
                                          .priv_size = sizeof(struct cbw),
                                          .known = cbw_known,
                                          .open = cbw_open,
                                          .close = cbw_close,
                                          .preadv = blk_pass_preadv,
                                          .pwritev = cbw_pwritev,
                                          .pwrite_zeroes = cbw_zeroes,
                                          .discard = cbw_discard};
BLK_REGISTER(drv_cbw)

/* ---- snapshot-access ---- */

static int view_piece(struct blk_node *c, uint64_t i, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct cbw *s = c->priv;
    int r;

    if (s->keep && !bit(s->keep, i))
        return -EACCES;
    fibre_mutex_lock(&s->lock);
    if (s->broken) {
        r = -EACCES;
    } else if (bit(s->done, i)) {
        fibre_mutex_unlock(&s->lock);
        return blk_preadv(s->target, off, len, q, qoff, 0);
    } else {
        r = blk_preadv(c->file, off, len, q, qoff, 0);
    }
    fibre_mutex_unlock(&s->lock);
    return r;
}

static int view_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    struct blk_node *c = n->file->node;
    uint32_t gran = ((struct cbw *)c->priv)->gran;
    int r = 0;

    for (uint64_t part; len && r >= 0; off += part, qoff += part, len -= part) {
        part = min_u64(len, gran - off % gran);
        r = view_piece(c, off / gran, off, part, q, qoff);
    }
    return r;
}

static int view_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    e->flags = BLK_ST_DATA | BLK_ST_ALLOC;
    e->len = len;
    return 0;
}

static bool view_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    if (n->file->node->drv != &drv_cbw)
        return err_set(errp, "snapshot-access needs a copy-before-write node below it, not '%s'",
                       n->file->node->drv->name);
    n->size = n->file->node->size;
    n->open_flags &= ~(unsigned)BLK_O_RDWR;
    return true;
}

static const struct blk_driver drv_view = {.name = "snapshot-access",
                                           .kind = BLK_FORMAT, /* it gives other bytes than its file */
                                           .open = view_open,
                                           .preadv = view_preadv,
                                           .block_status = view_status};
BLK_REGISTER(drv_view)
