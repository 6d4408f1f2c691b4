/* zlib, zstd and bzip2 for the formats that store compressed clusters. The streams are hostile: output is bounded by
 * dst. */
#include "blk/compress.h"
#include "base/bytes.h"
#include "blk/blk_int.h"
#include <bzlib.h>
#include <errno.h>
#include <zlib.h>
#include <zstd.h>

/* Working memory kept for the next cluster: making it costs more than compressing or unpacking a small cluster does. */
struct blk_comp_ctx {
    struct blk_comp_ctx *next;
    ZSTD_CCtx *zstd;   /* owned; NULL until needed */
    ZSTD_DCtx *unzstd; /* the same */
    z_stream deflate, inflate;
    int bits;        /* of the deflate stream; 0 = not set up */
    bool inflate_up; /* the inflate stream is set up */
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
        ZSTD_freeDCtx(c->unzstd);
        if (c->inflate_up)
            inflateEnd(&c->inflate);
        if (c->bits)
            deflateEnd(&c->deflate);
        free(c);
    }
}

/* ---- what cannot become smaller ---- */

enum { PROBE = 4096, HASH_BITS = 12, FEW_REPEATS = 64 };

/* Are all byte values about equally frequent? The statistic is chi squared with 255 degrees of freedom: 400 is six
 * standard deviations above its mean, and stands for at most 40 bytes a perfect entropy coder could save. */
static bool bytes_flat(const uint8_t *p, size_t n)
{
    uint32_t count[256] = {0};
    double sum = 0, want = (double)n / 256;

    for (size_t i = 0; i < n; i++)
        count[p[i]]++;
    for (int i = 0; i < 256; i++)
        sum += ((double)count[i] - want) * ((double)count[i] - want);
    return sum / want < 400;
}

/* How many positions continue as an earlier one did, four bytes long; stops counting at `enough`. */
static unsigned repeats(const uint8_t *p, size_t n, unsigned enough)
{
    uint32_t last[1 << HASH_BITS] = {0}; /* position + 1 of the latest four bytes with this hash */
    unsigned nr = 0;

    for (size_t i = 0; i + 4 <= n && nr < enough; i++) {
        uint32_t v = get_le32(p + i), h = v * 2654435761u >> (32 - HASH_BITS);

        nr += last[h] && get_le32(p + last[h] - 1) == v;
        last[h] = (uint32_t)i + 1;
    }
    return nr;
}

/* Archives, media and ciphertext: deflate would work longest on these and gain nothing. The first 4 KiB decide for
 * nearly everything else. */
static bool looks_random(const uint8_t *p, size_t n)
{
    return n >= 2 * PROBE && bytes_flat(p, PROBE) && bytes_flat(p, n) && repeats(p, n, FEW_REPEATS) < FEW_REPEATS;
}

/* ---- one cluster, on a worker thread ---- */

static int deflate_to(const struct work *w, struct blk_comp_ctx *c, int bits)
{
    z_stream *z = &c->deflate;
    int r;

    if (w->how == BLK_DEFLATE && looks_random(w->src, w->len)) /* of the others every piece has to be packed */
        return -ENOSPC;
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

static int inflate_from(const struct work *w, struct blk_comp_ctx *c, int bits)
{
    z_stream *z = &c->inflate;
    int r;

    if (!c->inflate_up) {
        *z = (z_stream){0};
        if (inflateInit2(z, bits) != Z_OK)
            return -ENOMEM;
        c->inflate_up = true;
    } else if (inflateReset2(z, bits) != Z_OK) {
        return -EIO;
    }
    z->next_in = (uint8_t *)(uintptr_t)w->src;
    z->avail_in = (unsigned)w->len;
    z->next_out = w->dst;
    z->avail_out = (unsigned)w->cap;
    r = inflate(z, Z_FINISH);
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z->avail_out ? 0 : -EIO;
}

static int zstd_from(const struct work *w, struct blk_comp_ctx *c)
{
    ZSTD_inBuffer in = {w->src, w->len, 0};
    ZSTD_outBuffer out = {w->dst, w->cap, 0};
    int r = 0;

    if (!c->unzstd && !(c->unzstd = ZSTD_createDCtx()))
        return -ENOMEM;
    ZSTD_DCtx_reset(c->unzstd, ZSTD_reset_session_only);
    while (out.pos < out.size && !r) {
        size_t was = out.pos, n = ZSTD_decompressStream(c->unzstd, &out, &in);

        if (ZSTD_isError(n) || (out.pos == was && (n == 0 || in.pos == in.size)))
            r = -EIO;
    }
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
    struct blk_comp_ctx *c;
    int r;

    if (w->how == BLK_BZIP2)
        return bzip2_from(w);
    c = ctx_get(w->set);
    r = w->how == BLK_ZSTD ? zstd_from(w, c) : inflate_from(w, c, w->how == BLK_ZLIB ? 15 : -12);
    ctx_put(w->set, c);
    return r;
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
