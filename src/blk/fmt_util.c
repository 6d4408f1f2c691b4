/* Helpers of the drivers; see the header. */
#include "blk/fmt_util.h"
#include <errno.h>

enum { PIECE = 1 << 20 };

int blk_read_ciphered(struct blk_child *c, uint64_t at, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff,
                      blk_cipher_fn *fn, void *opaque)
{
    uint8_t *buf AUTOFREE = try_alloc_aligned(4096, min_u64(len, PIECE));
    int r = buf ? 0 : -ENOMEM;

    while (len && r >= 0) {
        uint64_t part = min_u64(len, PIECE);

        r = blk_pread(c, at, buf, part);
        if (r < 0)
            break;
        fn(opaque, pos, buf, part, false);
        iov_from_buf(q, qoff, buf, part);
        at += part;
        pos += part;
        qoff += part;
        len -= part;
    }
    return r;
}

int blk_write_ciphered(struct blk_child *c, uint64_t at, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff,
                       blk_cipher_fn *fn, void *opaque)
{
    uint8_t *buf AUTOFREE = try_alloc_aligned(4096, min_u64(len, PIECE));
    int r = buf ? 0 : -ENOMEM;

    while (len && r >= 0) {
        uint64_t part = min_u64(len, PIECE);

        iov_to_buf(q, qoff, buf, part);
        fn(opaque, pos, buf, part, true);
        r = blk_pwrite(c, at, buf, part);
        at += part;
        pos += part;
        qoff += part;
        len -= part;
    }
    return r;
}

int blk_pass_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    return blk_preadv(n->file, off, len, q, qoff, flags);
}
int blk_pass_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    return blk_pwritev(n->file, off, len, q, qoff, flags);
}
int blk_pass_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return blk_pwrite_zeroes(n->file, off, len, flags);
}
int blk_pass_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    return blk_pdiscard(n->file, off, len);
}
uint64_t blk_pass_length(struct blk_node *n)
{
    return blk_node_length(n->file->node);
}
int blk_pass_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    return blk_node_truncate(n->file->node, size, p, errp);
}

int blk_mapped_read(struct blk_node *n, uint64_t unit, blk_host_fn *host, uint64_t off, uint64_t len,
                    const struct iov *q, uint64_t qoff)
{
    while (len) {
        uint64_t in = off % unit, part = min_u64(len, unit - in), at = host(n, off / unit);
        int r = 0;

        if (at)
            r = blk_preadv(n->file, at + in, part, q, qoff, 0);
        else
            iov_set(q, qoff, 0, part);
        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

int blk_mapped_status(struct blk_node *n, uint64_t unit, blk_host_fn *host, uint64_t off, uint64_t len,
                      struct blk_extent *e)
{
    uint64_t at = host(n, off / unit), in = off % unit, run = unit - in;

    while (run < len && !at && !host(n, (off + run) / unit))
        run += unit;
    *e = (struct blk_extent){.flags = at ? BLK_ST_DATA | BLK_ST_OFFSET | BLK_ST_ALLOC | BLK_ST_RECURSE
                                         : BLK_ST_ZERO | BLK_ST_ALLOC,
                             .len = min_u64(len, run),
                             .map = at + in,
                             .map_node = at ? n->file->node : NULL};
    return 0;
}

bool blk_opts_child(struct opts *o, const char *role)
{
    char *prefix AUTOFREE = xasprintf("%s.", role);
    struct opt *e;

    opts_each (e, o)
        if (!strcmp(e->key, role) || str_starts(e->key, prefix))
            return true;
    return false;
}
