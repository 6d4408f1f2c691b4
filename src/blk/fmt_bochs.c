/* Growing images of Bochs ("Redolog", "Growing", versions 1 and 2), reading only, after the layout its documentation
 * gives: little-endian header, catalog of extents, and per extent a bitmap of sectors followed by the sectors. */
#include "blk/fmt_util.h"
#include <errno.h>

enum { HDR = 96, MAX_CATALOG = 0x100000 };

struct bochs {
    uint32_t *catalog; /* owned */
    uint32_t nr, bitmap, extent, bitmap_blocks, extent_blocks;
    uint64_t data;
};

static int bochs_probe(const uint8_t *b, size_t n, const char *filename)
{
    return n >= HDR && !memcmp(b, "Bochs Virtual HD Image", 23) && !memcmp(b + 32, "Redolog", 8) &&
                   !memcmp(b + 48, "Growing", 8) && (get_le32(b + 64) == 0x20000 || get_le32(b + 64) == 0x10000)
               ? 100
               : 0;
}

static bool check_header(struct blk_node *n, const uint8_t *h, uint64_t head, struct err **errp)
{
    struct bochs *s = n->priv;

    if (!bochs_probe(h, HDR, ""))
        return err_set(errp, "Image not in Bochs format");
    n->size = align_down(get_le64(h + (get_le32(h + 64) == 0x10000 ? 84 : 88)), 512);
    if (s->nr > MAX_CATALOG)
        return err_set(errp, "Catalog size is too large");
    if (!is_pow2(s->extent) || s->extent < 512 || s->extent > 0x800000)
        return err_set(errp, "Extent size %u is out of range", s->extent);
    if (!s->bitmap || s->bitmap > s->extent || (uint64_t)s->bitmap * 8 < s->extent / 512)
        return err_set(errp, "Bitmap size %u is out of range", s->bitmap);
    if (div_up(n->size, s->extent) > s->nr)
        return err_set(errp, "Catalog size is too small for this disk size");
    s->bitmap_blocks = 1 + (s->bitmap - 1) / 512;
    s->extent_blocks = 1 + (s->extent - 1) / 512;
    s->data = head + (uint64_t)s->nr * 4;
    return true;
}

static bool bochs_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct bochs *s = n->priv;
    uint8_t h[HDR];
    int r = blk_pread(n->file, 0, h, HDR);
    uint64_t head;

    if (r < 0)
        return err_set_errno(errp, -r, "bochs: cannot read the header");
    n->open_flags &= ~(unsigned)BLK_O_RDWR;
    head = get_le32(h + 68);
    s->nr = get_le32(h + 72);
    s->bitmap = get_le32(h + 76);
    s->extent = get_le32(h + 80);
    if (!check_header(n, h, head, errp))
        return false;
    s->catalog = try_alloc(s->nr + (uint64_t)1, 4);
    if (!s->catalog)
        return err_set(errp, "bochs: no memory");
    r = blk_pread(n->file, head, s->catalog, (size_t)s->nr * 4);
    if (r < 0) {
        free(s->catalog);
        return err_set_errno(errp, -r, "bochs: cannot read the catalog");
    }
    return true;
}

static void bochs_close(struct blk_node *n)
{
    struct bochs *s = n->priv;

    free(s->catalog);
}

/* Where the sector at off lies; 0 = nowhere. */
static int find(struct blk_node *n, uint64_t off, uint64_t *host)
{
    struct bochs *s = n->priv;
    uint64_t i = off / s->extent, sector = off % s->extent / 512, at;
    uint32_t e = get_le32(&s->catalog[i]);
    uint8_t bits;
    int r;

    *host = 0;
    if (e == UINT32_MAX)
        return 0;
    at = s->data + 512 * (uint64_t)e * (s->extent_blocks + s->bitmap_blocks);
    r = blk_pread(n->file, at + sector / 8, &bits, 1);
    if (r >= 0 && bits >> (sector % 8) & 1)
        *host = at + 512 * (s->bitmap_blocks + sector);
    return r;
}

static int bochs_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    while (len) {
        uint64_t part = min_u64(len, 512 - off % 512), host;
        int r = find(n, off, &host);

        if (r >= 0 && host)
            r = blk_preadv(n->file, host + off % 512, part, q, qoff, 0);
        else if (r >= 0)
            iov_set(q, qoff, 0, part);
        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

static const struct blk_driver drv_bochs = {.name = "bochs",
                                            .kind = BLK_FORMAT,
                                            .priv_size = sizeof(struct bochs),
                                            .probe = bochs_probe,
                                            .open = bochs_open,
                                            .close = bochs_close,
                                            .preadv = bochs_preadv};
BLK_REGISTER(drv_bochs)
