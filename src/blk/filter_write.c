/* Filters that change how writes arrive. compress: whole clusters are written compressed. preallocate: the file below
 * grows in large steps, so that its end moves rarely; closing cuts what was not used. */
#include "blk/fmt_util.h"
#include <errno.h>

/* ---- compress ---- */

static bool compress_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct blk_node *f = n->file->node;

    if (!f->drv->pwrite_compressed)
        return err_set(errp, "Compression is not supported for %s", f->name);
    n->size = f->size;
    n->cluster_size = f->cluster_size;
    n->request_align = f->cluster_size ? f->cluster_size : 1; /* the core makes whole clusters of smaller writes */
    return true;
}

static int compress_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                            unsigned flags)
{
    uint64_t end = n->file->node->size;
    int r;

    if (off + len > end) /* the last cluster may be a part */
        len = end > off ? end - off : 0;
    if (!len)
        return 0;
    r = blk_node_pwritev(n->file->node, off, len, q, qoff, BLK_REQ_COMPRESSED);
    return r == -ENOTSUP ? blk_pwritev(n->file, off, len, q, qoff, flags) : r;
}

static const struct blk_driver drv_compress = {.name = "compress",
                                               .kind = BLK_FILTER,
                                               .open = compress_open,
                                               .preadv = blk_pass_preadv,
                                               .pwritev = compress_pwritev,
                                               .pwrite_zeroes = blk_pass_zeroes,
                                               .discard = blk_pass_discard,
                                               .getlength = blk_pass_length,
                                               .truncate = blk_pass_truncate};
BLK_REGISTER(drv_compress)

/* ---- preallocate ---- */

struct prealloc {
    uint64_t step, align;
    uint64_t used;  /* what those above believe the size is */
    uint64_t ahead; /* what the file really is; 0 = nothing was added */
    struct fibre_mutex lock;
};

static bool prealloc_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct prealloc *s = n->priv;

    s->step = 128 * MIB;
    s->align = MIB;
    fibre_mutex_init(&s->lock);
    if (!opts_size(o, "prealloc-size", &s->step, errp) || !opts_size(o, "prealloc-align", &s->align, errp))
        return false;
    if (!s->align || s->align & 511 || !s->step)
        return err_set(errp, "prealloc-align parameter of preallocate filter is not aligned to 512");
    n->size = s->used = n->file->node->size;
    n->growable = true;
    n->request_align = n->file->node->request_align;
    return true;
}

/* Before a write that ends at `end`: the file is that long, in whole steps. */
static int room_for(struct blk_node *n, uint64_t end)
{
    struct prealloc *s = n->priv;
    int r = 0;

    fibre_mutex_lock(&s->lock);
    if (end > s->used && end > max_u64(s->ahead, n->file->node->size)) {
        uint64_t to = div_up(end + s->step, s->align) * s->align;

        r = blk_node_truncate(n->file->node, to, BLK_PREALLOC_FALLOC, NULL);
        if (r >= 0)
            s->ahead = to;
        else
            r = 0; /* the write itself will tell */
    }
    s->used = max_u64(s->used, end);
    fibre_mutex_unlock(&s->lock);
    return r;
}

static int prealloc_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                            unsigned flags)
{
    int r = room_for(n, off + len);

    return r < 0 ? r : blk_pwritev(n->file, off, len, q, qoff, flags);
}
static int prealloc_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int r = room_for(n, off + len);

    return r < 0 ? r : blk_pwrite_zeroes(n->file, off, len, flags);
}

static uint64_t prealloc_length(struct blk_node *n)
{
    struct prealloc *s = n->priv;

    return s->used;
}

static int prealloc_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    struct prealloc *s = n->priv;
    int r = blk_node_truncate(n->file->node, size, p, errp);

    if (r >= 0) {
        s->used = size;
        s->ahead = 0;
    }
    return r;
}

static void cut(void *opaque)
{
    struct blk_node *n = opaque;
    struct prealloc *s = n->priv;

    if (s->ahead > s->used && blk_node_truncate(n->file->node, s->used, BLK_PREALLOC_OFF, NULL) >= 0)
        s->ahead = 0;
}

static int prealloc_inactivate(struct blk_node *n)
{
    blk_run(n->set, cut, n);
    return 0;
}

static void prealloc_perm(struct blk_node *n, const struct blk_child *c, unsigned perm, unsigned shared, unsigned *cp,
                          unsigned *cs)
{
    *cp = perm | (perm & BLK_PERM_WRITE ? BLK_PERM_RESIZE : 0);
    *cs = perm & BLK_PERM_WRITE ? shared & ~(unsigned)BLK_PERM_RESIZE : shared;
}

static const struct blk_driver drv_preallocate = {.name = "preallocate",
                                                  .kind = BLK_FILTER,
                                                  .priv_size = sizeof(struct prealloc),
                                                  .open = prealloc_open,
                                                  .inactivate = prealloc_inactivate,
                                                  .child_perm = prealloc_perm,
                                                  .preadv = blk_pass_preadv,
                                                  .pwritev = prealloc_pwritev,
                                                  .pwrite_zeroes = prealloc_zeroes,
                                                  .discard = blk_pass_discard,
                                                  .getlength = prealloc_length,
                                                  .truncate = prealloc_truncate};
BLK_REGISTER(drv_preallocate)
