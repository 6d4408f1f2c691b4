/* Raw images: the bytes of the file are the bytes of the disk, optionally only a window of them (offset, size).
 * When the format was guessed, writes that would give block 0 another format's header are refused: the next start would
 * otherwise believe the guest. */
#include "base/json.h"
#include "blk/node.h"
#include <errno.h>
#include <stdio.h>

struct raw {
    uint64_t offset, size;
    bool has_size;
};

static const char *const raw_known[] = {"offset",    "size",          "file",         "driver",
                                        "node-name", "read-only",     "cache.direct", "cache.no-flush",
                                        "discard",   "detect-zeroes", "filename",     NULL};

static uint64_t raw_getlength(struct blk_node *n)
{
    struct raw *r = n->priv;
    uint64_t len = blk_node_length(n->file->node);

    if (r->has_size)
        return r->size;
    return len > r->offset ? len - r->offset : 0;
}

static bool raw_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct raw *r = n->priv;
    uint64_t end, len = blk_node_length(n->file->node);

    if (!opts_size(o, "offset", &r->offset, errp))
        return false;
    r->has_size = opts_peek(o, "size");
    if (!opts_size(o, "size", &r->size, errp))
        return false;
    if (r->has_size && (!add_ok_u64(r->offset, r->size, &end) || end > len))
        return err_set(errp,
                       "The sum of offset (%" PRIu64 ") and size (%" PRIu64
                       ") has to be smaller or equal to the  actual size of the containing file (%" PRIu64 ")",
                       r->offset, r->size, len);
    if (r->offset > len)
        return err_set(errp, "Offset (%" PRIu64 ") cannot be greater than size of the containing file (%" PRIu64 ")",
                       r->offset, len);
    n->size = raw_getlength(n);
    n->growable = !r->has_size && n->file->node->growable;
    if (n->probed && n->open_flags & BLK_O_RDWR && !r->offset) {
        warn_report(
            "Image format was not specified for '%s' and probing guessed raw.\n"
            "         Automatically detecting the format is dangerous for raw images, write operations on block 0 "
            "will be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the restrictions.",
            blk_node_filename(n->file->node));
    }
    return true;
}

static int raw_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct raw *r = n->priv;

    return blk_preadv(n->file, off + r->offset, len, q, qoff, flags);
}

static int raw_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    struct raw *r = n->priv;

    if (n->probed && off < 512) {
        uint8_t head[512];
        int e = blk_preadv(n->file, r->offset, sizeof head,
                           &(struct iov){.v = &(struct iovec){head, 512}, .nr = 1, .len = 512}, 0, 0);

        if (e < 0)
            return e;
        iov_to_buf(q, qoff, head + off, (size_t)min_u64(len, 512 - off));
        if (strcmp(blk_driver_probe(head, sizeof head, "")->name, "raw") != 0)
            return -EPERM;
    }
    return blk_pwritev(n->file, off + r->offset, len, q, qoff, flags);
}

static int raw_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct raw *r = n->priv;

    return blk_pwrite_zeroes(n->file, off + r->offset, len, flags);
}

static int raw_copy_from(struct blk_node *n, uint64_t off, struct blk_node *src, uint64_t soff, uint64_t len)
{
    struct raw *r = n->priv;
    const struct blk_node *f = n->file->node;

    if ((n->probed && off < 512) || !f->drv->copy_from)
        return -ENOTSUP;
    return blk_pcopy_from(n->file, off + r->offset, src, soff, len);
}

static int raw_cached_fd(struct blk_node *n, uint64_t off, uint64_t len, uint64_t *at)
{
    struct raw *r = n->priv;

    return blk_node_cached_fd(n->file->node, off + r->offset, len, at);
}

static int raw_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct raw *r = n->priv;

    return blk_pdiscard(n->file, off + r->offset, len);
}

static int raw_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    struct raw *r = n->priv;

    *e = (struct blk_extent){.flags = BLK_ST_RECURSE | BLK_ST_OFFSET | BLK_ST_ALLOC,
                             .len = len,
                             .map = off + r->offset,
                             .map_node = n->file->node};
    return 0;
}

static int raw_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    struct raw *r = n->priv;

    if (r->has_size) {
        err_set(errp, "Cannot resize fixed-size raw disks");
        return -ENOTSUP;
    }
    return blk_node_truncate(n->file->node, size + r->offset, p, errp);
}

static int raw_probe(const uint8_t *buf, size_t len, const char *filename)
{
    return 0; /* chosen when nobody else claims the bytes */
}

static bool raw_create(struct blk_set *s, const char *filename, struct opts *o, struct err **errp)
{
    const struct blk_driver *d = blk_path_has_protocol(filename) ? blk_driver_by_name_prefix(filename) : NULL;

    if (!d)
        d = blk_driver_find("file");
    if (!d->create)
        return err_set(errp, "Protocol driver '%s' does not support image creation", d->name);
    return d->create(s, filename, o, errp);
}

static bool raw_measure(struct opts *o, struct blk_node *in, struct blk_measure *m, struct err **errp)
{
    uint64_t size = in ? in->size : 0;

    if (!opts_size(o, "size", &size, errp))
        return false;
    m->required = m->full = align_up(size, 512);
    return true;
}

static const struct blk_create_opt raw_create_opts[] = {
    {"extent_size_hint", "size", "Extent size hint for the image file, 0 to disable", NULL},
    {"nocow", "bool (on/off)", "Turn off copy-on-write (valid only on btrfs)", NULL},
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)", NULL},
    {"size", "size", "Virtual disk size", NULL},
    {NULL},
};

static const struct blk_driver drv_raw = {
    .name = "raw",
    .any_loop = true,
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct raw),
    .known = raw_known,
    .probe = raw_probe,
    .open = raw_open,
    .preadv = raw_preadv,
    .pwritev = raw_pwritev,
    .pwrite_zeroes = raw_zeroes,
    .copy_from = raw_copy_from,
    .cached_fd = raw_cached_fd,
    .discard = raw_discard,
    .block_status = raw_status,
    .truncate = raw_truncate,
    .getlength = raw_getlength,
    .create = raw_create,
    .create_opts = raw_create_opts,
    .measure = raw_measure,
};
BLK_REGISTER(drv_raw)
