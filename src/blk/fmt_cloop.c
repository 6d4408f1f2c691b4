/* Compressed loop images (Knoppix), version 2, reading only: a shell script's first lines, block size and number of
 * blocks at byte 128 (big-endian), a table of offsets, zlib streams. Left out: other versions, writing. */
#include "blk/compress.h"
#include "blk/fmt_util.h"
#include <errno.h>

enum { HEAD = 128, MAX_BLOCK = 64 << 20, MAX_TABLE = 512 << 20 };

struct cloop {
    uint32_t block, nr;
    uint64_t *off;  /* owned: nr + 1 offsets */
    uint8_t *cache; /* owned: one block */
    uint32_t cached;
    struct fibre_mutex lock; /* the cache */
};

static int cloop_probe(const uint8_t *b, size_t n, const char *filename)
{
    static const char head[] = "#!/bin/sh\n#V2.0 Format\nmodprobe cloop";

    return n >= sizeof head && !memcmp(b, head, sizeof head - 1) ? 2 : 0;
}

static bool read_table(struct blk_node *n, struct err **errp)
{
    struct cloop *s = n->priv;
    uint64_t bytes = ((uint64_t)s->nr + 1) * 8, end = n->file->node->size;
    int r;

    if (bytes > MAX_TABLE)
        return err_set(errp, "image requires too many offsets, try increasing block size");
    s->off = try_alloc(s->nr + (uint64_t)1, 8);
    if (!s->off)
        return err_set(errp, "cloop: no memory");
    r = blk_pread(n->file, HEAD + 8, s->off, bytes);
    if (r < 0)
        return err_set_errno(errp, -r, "cloop: cannot read the offsets");
    for (uint32_t i = 0; i <= s->nr; i++) {
        s->off[i] = be64toh(s->off[i]);
        if (i && s->off[i] < s->off[i - 1])
            return err_set(errp, "offsets not monotonically increasing at index %u, image file is corrupt", i);
        if (i && s->off[i] - s->off[i - 1] > 2 * (uint64_t)MAX_BLOCK)
            return err_set(errp, "invalid compressed block size at index %u, image file is corrupt", i);
        if (s->off[i] > end)
            return err_set(errp, "cloop: offset %u lies beyond the end of the file", i);
    }
    return true;
}

static bool cloop_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct cloop *s = n->priv;
    uint8_t h[8];
    int r = blk_pread(n->file, HEAD, h, sizeof h);

    fibre_mutex_init(&s->lock);
    if (r < 0)
        return err_set_errno(errp, -r, "cloop: cannot read the header");
    n->open_flags &= ~(unsigned)BLK_O_RDWR;
    s->block = get_be32(h);
    s->nr = get_be32(h + 4);
    if (!s->block || s->block % 512)
        return err_set(errp, "block_size %u must be a multiple of 512", s->block);
    if (s->block > MAX_BLOCK)
        return err_set(errp, "block_size %u must be %u MB or less", s->block, MAX_BLOCK >> 20);
    s->cached = UINT32_MAX;
    if (read_table(n, errp) && (s->cache = try_alloc(1, s->block))) {
        n->size = (uint64_t)s->nr * s->block;
        return true;
    }
    free(s->off);
    return (errp && *errp) ? false : err_set(errp, "cloop: no memory");
}

static void cloop_close(struct blk_node *n)
{
    struct cloop *s = n->priv;

    free(s->off);
    free(s->cache);
}

static int load(struct blk_node *n, uint32_t i)
{
    struct cloop *s = n->priv;
    uint64_t len = s->off[i + 1] - s->off[i];
    uint8_t *src AUTOFREE = NULL;
    int r;

    if (s->cached == i)
        return 0;
    src = try_alloc(1, len ? len : 1);
    if (!src)
        return -ENOMEM;
    s->cached = UINT32_MAX;
    r = blk_pread(n->file, s->off[i], src, len);
    if (r >= 0)
        r = blk_decompress(n->set, BLK_ZLIB, src, len, s->cache, s->block);
    if (r >= 0)
        s->cached = i;
    return r;
}

static int cloop_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    struct cloop *s = n->priv;
    int r = 0;

    fibre_mutex_lock(&s->lock);
    while (len && r >= 0) {
        uint64_t in = off % s->block, part = min_u64(len, s->block - in);

        r = load(n, (uint32_t)(off / s->block));
        if (r >= 0)
            iov_from_buf(q, qoff, s->cache + in, part);
        off += part;
        qoff += part;
        len -= part;
    }
    fibre_mutex_unlock(&s->lock);
    return r;
}

static const struct blk_driver drv_cloop = {.name = "cloop",
                                            .kind = BLK_FORMAT,
                                            .priv_size = sizeof(struct cloop),
                                            .probe = cloop_probe,
                                            .open = cloop_open,
                                            .close = cloop_close,
                                            .preadv = cloop_preadv};
BLK_REGISTER(drv_cloop)
