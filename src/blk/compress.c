/* zlib, zstd and bzip2 for the formats that store compressed clusters. The streams are hostile: output is bounded by
 * dst. */
#include "blk/compress.h"
#include "blk/blk_int.h"
#include <bzlib.h>
#include <errno.h>
#include <zlib.h>
#include <zstd.h>

/* A compressor kept for the next cluster: making one costs more than compressing a small cluster does. */
struct blk_comp_ctx {
    struct blk_comp_ctx *next;
    ZSTD_CCtx *zstd; /* owned; NULL until needed */
    z_stream deflate;
    int bits; /* of the deflate stream; 0 = not set up */
};

struct work {
    struct blk_set *set;
    enum blk_comp how;
    const uint8_t *src;
    size_t len;
    uint8_t *dst;
    size_t cap;
};

static struct blk_comp_ctx *ctx_get(struct blk_set *set)
{
    struct blk_comp_ctx *c;

    while (__atomic_exchange_n(&set->comp_lock, 1, __ATOMIC_ACQUIRE))
        ;
    c = set->comp;
    if (c)
        set->comp = c->next;
    __atomic_store_n(&set->comp_lock, 0, __ATOMIC_RELEASE);
    return c ? c : xnew(struct blk_comp_ctx);
}

static void ctx_put(struct blk_set *set, struct blk_comp_ctx *c)
{
    while (__atomic_exchange_n(&set->comp_lock, 1, __ATOMIC_ACQUIRE))
        ;
    c->next = set->comp;
    set->comp = c;
    __atomic_store_n(&set->comp_lock, 0, __ATOMIC_RELEASE);
}

void blk_comp_free(struct blk_set *set)
{
    while (set->comp) {
        struct blk_comp_ctx *c = set->comp;

        set->comp = c->next;
        ZSTD_freeCCtx(c->zstd);
        if (c->bits)
            deflateEnd(&c->deflate);
        free(c);
    }
}

static int deflate_to(const struct work *w, struct blk_comp_ctx *c, int bits)
{
    z_stream *z = &c->deflate;
    int r;

    if (c->bits && c->bits != bits) {
        deflateEnd(z);
        c->bits = 0;
    }
    if (!c->bits) {
        *z = (z_stream){0};
        if (deflateInit2(z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, bits, 9, Z_DEFAULT_STRATEGY) != Z_OK)
            return -ENOMEM;
        c->bits = bits;
    } else {
        deflateReset(z);
    }
    z->next_in = (uint8_t *)(uintptr_t)w->src;
    z->avail_in = (unsigned)w->len;
    z->next_out = w->dst;
    z->avail_out = (unsigned)w->cap;
    r = deflate(z, Z_FINISH);
    return r == Z_STREAM_END ? (int)(w->cap - z->avail_out) : -ENOSPC;
}

static int zstd_to(const struct work *w, struct blk_comp_ctx *c)
{
    size_t n;

    if (!c->zstd && !(c->zstd = ZSTD_createCCtx()))
        return -ENOMEM;
    n = ZSTD_compressCCtx(c->zstd, w->dst, w->cap, w->src, w->len, 3);
    return ZSTD_isError(n) ? -ENOSPC : (int)n;
}

static int compress_run(void *opaque)
{
    const struct work *w = opaque;
    struct blk_comp_ctx *c = ctx_get(w->set);
    int r = -ENOTSUP;

    if (w->how == BLK_DEFLATE || w->how == BLK_ZLIB)
        r = deflate_to(w, c, w->how == BLK_ZLIB ? 15 : -12);
    else if (w->how == BLK_ZSTD)
        r = zstd_to(w, c);
    ctx_put(w->set, c);
    return r;
}

static int inflate_from(const struct work *w, int bits)
{
    z_stream z = {0};
    int r;

    if (inflateInit2(&z, bits) != Z_OK)
        return -ENOMEM;
    z.next_in = (uint8_t *)(uintptr_t)w->src;
    z.avail_in = (unsigned)w->len;
    z.next_out = w->dst;
    z.avail_out = (unsigned)w->cap;
    r = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int zstd_from(const struct work *w)
{
    ZSTD_DCtx *d = ZSTD_createDCtx();
    ZSTD_inBuffer in = {w->src, w->len, 0};
    ZSTD_outBuffer out = {w->dst, w->cap, 0};
    int r = 0;

    if (!d)
        return -ENOMEM;
    while (out.pos < out.size && !r) {
        size_t was = out.pos, n = ZSTD_decompressStream(d, &out, &in);

        if (ZSTD_isError(n) || (out.pos == was && (n == 0 || in.pos == in.size)))
            r = -EIO;
    }
    ZSTD_freeDCtx(d);
    return r;
}

static int bzip2_from(const struct work *w)
{
    unsigned n = (unsigned)w->cap;
    int r = BZ2_bzBuffToBuffDecompress((char *)w->dst, &n, (char *)(uintptr_t)w->src, (unsigned)w->len, 0, 0);

    return r == BZ_OK && n == w->cap ? 0 : -EIO;
}

static int decompress_run(void *opaque)
{
    const struct work *w = opaque;

    switch (w->how) {
    case BLK_DEFLATE:
        return inflate_from(w, -12);
    case BLK_ZLIB:
        return inflate_from(w, 15);
    case BLK_ZSTD:
        return zstd_from(w);
    default:
        return bzip2_from(w);
    }
}

int blk_compress(struct blk_set *s, enum blk_comp how, const uint8_t *src, size_t len, uint8_t *dst, size_t cap)
{
    struct work w = {s, how, src, len, dst, cap};

    return blk_offload(s, compress_run, &w);
}

int blk_decompress(struct blk_set *s, enum blk_comp how, const uint8_t *src, size_t len, uint8_t *dst, size_t want)
{
    struct work w = {s, how, src, len, dst, want};

    return blk_offload(s, decompress_run, &w);
}
