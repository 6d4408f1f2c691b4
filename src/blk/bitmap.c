/* Dirty bitmaps of nodes: which granules were written since a point in time. Plain bits; 64 per word. */
#include "blk/blk_int.h"

static uint64_t bits_for(uint64_t size, uint32_t gran)
{
    return div_up(size, gran);
}

struct blk_bitmap *blk_bitmap_new(struct blk_node *n, const char *name, uint32_t gran, struct err **errp)
{
    struct blk_bitmap *b;
    uint64_t nr;

    if (!is_pow2(gran) || gran < 512) {
        err_set(errp, "Granularity must be a power of 2 and at least 512");
        return NULL;
    }
    if (name && strlen(name) > 1023) {
        err_set(errp, "Bitmap name too long");
        return NULL;
    }
    if (name && blk_bitmap_find(n, name)) {
        err_set(errp, "Bitmap already exists: %s", name);
        return NULL;
    }
    b = xnew(struct blk_bitmap);
    nr = bits_for(n->size, gran);
    b->bits = try_alloc(div_up(nr, 64) + 1, sizeof *b->bits);
    if (!b->bits) {
        free(b);
        err_set(errp, "no memory for a bitmap of %" PRIu64 " bits", nr);
        return NULL;
    }
    b->node = n;
    b->name = name ? xstrdup(name) : NULL;
    b->gran = gran;
    b->nr_bits = nr;
    b->enabled = true;
    list_add(&n->bitmaps, &b->link);
    return b;
}

void blk_bitmap_free(struct blk_bitmap *b)
{
    if (!b)
        return;
    list_del(&b->link);
    free(b->name);
    free(b->bits);
    free(b);
}

struct blk_bitmap *blk_bitmap_find(struct blk_node *n, const char *name)
{
    struct blk_bitmap *b;

    list_each (b, &n->bitmaps, link)
        if (b->name && !strcmp(b->name, name))
            return b;
    return NULL;
}

static void change(struct blk_bitmap *b, uint64_t off, uint64_t len, bool set)
{
    uint64_t first = off / b->gran, last;

    if (!len || first >= b->nr_bits)
        return;
    last = min_u64((off + len - 1) / b->gran, b->nr_bits - 1);
    for (uint64_t i = first; i <= last;) {
        uint64_t w = i / 64, lo = i % 64, cnt = min_u64(64 - lo, last - i + 1);
        uint64_t mask = (~UINT64_C(0) >> (64 - cnt)) << lo, was = b->bits[w];

        b->bits[w] = set ? was | mask : was & ~mask;
        b->dirty += (uint64_t)__builtin_popcountll(b->bits[w]) - (uint64_t)__builtin_popcountll(was);
        i += cnt;
    }
}

void blk_bitmap_set(struct blk_bitmap *b, uint64_t off, uint64_t len)
{
    change(b, off, len, true);
}
void blk_bitmap_reset(struct blk_bitmap *b, uint64_t off, uint64_t len)
{
    change(b, off, len, false);
}

bool blk_bitmap_get(const struct blk_bitmap *b, uint64_t off)
{
    uint64_t i = off / b->gran;

    return i < b->nr_bits && b->bits[i / 64] >> (i % 64) & 1;
}

static uint64_t next_bit(const struct blk_bitmap *b, uint64_t i, bool want)
{
    while (i < b->nr_bits) {
        uint64_t w = want ? b->bits[i / 64] : ~b->bits[i / 64];

        w &= ~UINT64_C(0) << (i % 64);
        if (w)
            return min_u64((i & ~UINT64_C(63)) + (unsigned)__builtin_ctzll(w), b->nr_bits);
        i = (i | 63) + 1;
    }
    return b->nr_bits;
}

bool blk_bitmap_next(const struct blk_bitmap *b, uint64_t off, uint64_t *start, uint64_t *len)
{
    uint64_t a = next_bit(b, off / b->gran, true), z;

    if (a >= b->nr_bits)
        return false;
    z = next_bit(b, a, false);
    *start = max_u64(a * b->gran, off);
    *len = min_u64(z * b->gran, b->node->size) - *start;
    return true;
}

bool blk_bitmap_merge(struct blk_bitmap *dst, const struct blk_bitmap *src, struct err **errp)
{
    uint64_t off = 0, start, len;

    if (dst->node->size != src->node->size)
        return err_set(errp,
                       "Bitmaps are of different sizes (destination size is %" PRIu64 " and source size is %" PRIu64
                       ") and can't be merged",
                       dst->node->size, src->node->size);
    while (blk_bitmap_next(src, off, &start, &len)) {
        blk_bitmap_set(dst, start, len);
        off = start + len;
    }
    return true;
}

void blk_bitmaps_resize(struct blk_node *n, uint64_t size)
{
    struct blk_bitmap *b;

    list_each (b, &n->bitmaps, link) {
        uint64_t nr = bits_for(size, b->gran);
        uint64_t *bits = try_alloc(div_up(nr, 64) + 1, sizeof *bits);

        if (!bits) { /* without memory the bitmap can no longer be trusted */
            b->inconsistent = true;
            b->enabled = false;
            continue;
        }
        if (nr < b->nr_bits)
            change(b, nr * b->gran, (b->nr_bits - nr) * b->gran, false);
        memcpy(bits, b->bits, min_u64(div_up(nr, 64), div_up(b->nr_bits, 64)) * 8);
        free(b->bits);
        b->bits = bits;
        b->nr_bits = nr;
    }
}
