/* VirtualBox disk images, version 1.1, dynamic and static (preallocated). 1 MiB blocks, little-endian map at offBlocks.
 * Crash order: B1 and B2 of bat.h; the count of blocks in the header is written before the map that needs it, so a
 * crash can leave it too high (lost space), never too low. Left out: differencing images, geometry. */
#include "blk/bat.h"
#include "blk/fmt_util.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>

enum { HDR = 512, SIG = 0xbeda107f, DYNAMIC = 1, STATIC = 2, BLOCK = 1 << 20, MAX_BLOCKS = 0x3fffffff };
#define FREE      0xffffffffu
#define DISCARDED 0xfffffffeu

struct vdi {
    struct bat map;
    uint8_t head[HDR];
    uint32_t off_data, allocated;
    uint64_t block;
    bool head_dirty;
};

static int vdi_probe(const uint8_t *b, size_t n, const char *filename)
{
    return n >= 72 && get_le32(b + 64) == SIG ? 100 : 0;
}

static int write_head(struct blk_node *n);

static bool vdi_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct vdi *s = n->priv;
    uint32_t nr, off_map;
    int r = blk_pread(n->file, 0, s->head, HDR);

    if (r < 0)
        return err_set_errno(errp, -r, "vdi: cannot read the header");
    if (get_le32(s->head + 64) != SIG)
        return err_set(errp, "Image not in VDI format (bad signature %08" PRIx32 ")", get_le32(s->head + 64));
    if (get_le32(s->head + 68) != 0x00010001)
        return err_set(errp, "unsupported VDI image (version %u.%u)", get_le32(s->head + 68) >> 16,
                       get_le32(s->head + 68) & 0xffff);
    off_map = get_le32(s->head + 340);
    s->off_data = get_le32(s->head + 344);
    n->size = align_up(get_le64(s->head + 368), 512);
    s->block = get_le32(s->head + 376);
    nr = get_le32(s->head + 384);
    s->allocated = get_le32(s->head + 388);
    if (s->block != BLOCK)
        return err_set(errp, "unsupported VDI image (block size %" PRIu64 " is not 1048576)", s->block);
    if (off_map & 511 || s->off_data & 511 || nr > MAX_BLOCKS || off_map < HDR || s->off_data < off_map)
        return err_set(errp, "unsupported VDI image (unaligned or overlapping tables)");
    if (n->size > (uint64_t)nr * BLOCK)
        return err_set(errp, "unsupported VDI image (disk size %" PRIu64 ", image bitmap has room for %" PRIu64 ")",
                       n->size, (uint64_t)nr * BLOCK);
    for (int i = 0; i < 16; i++)
        if (s->head[424 + i] || s->head[440 + i])
            return err_set(errp, "unsupported VDI image (it depends on a parent image)");
    n->cluster_size = BLOCK;
    n->zero_align = BLOCK;
    s->map.before = write_head;
    if (bat_open(&s->map, n, off_map, nr, false, "vdi", errp))
        return true;
    bat_close(&s->map);
    return false;
}

static void vdi_close(struct blk_node *n)
{
    struct vdi *s = n->priv;

    bat_close(&s->map);
}

/* Host offset of the block, or 0. */
static uint64_t host_of(const struct vdi *s, uint64_t i)
{
    uint32_t e = bat_get(&s->map, i);

    return e >= DISCARDED ? 0 : s->off_data + (uint64_t)e * BLOCK;
}

static uint64_t host_in(struct blk_node *n, uint64_t i)
{
    return host_of(n->priv, i);
}

static int vdi_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    return blk_mapped_read(n, BLOCK, host_in, off, len, q, qoff);
}

/* A whole new block with the data in it, at the end. */
static int write_new(struct blk_node *n, uint64_t i, uint64_t in, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct vdi *s = n->priv;
    uint64_t end = max_u64(align_up(n->file->node->size, 512), s->off_data + (uint64_t)s->allocated * BLOCK);
    uint32_t e = (uint32_t)div_up(end - s->off_data, BLOCK);
    uint8_t *buf AUTOFREE = try_alloc(1, BLOCK);
    int r;

    if (!buf)
        return -ENOMEM;
    if (e >= MAX_BLOCKS)
        return -EFBIG;
    iov_to_buf(q, qoff, buf + in, len);
    r = blk_pwrite(n->file, s->off_data + (uint64_t)e * BLOCK, buf, BLOCK);
    if (r < 0)
        return r;
    s->allocated = e + 1; /* whatever lies before e is in use or lost */
    s->head_dirty = true;
    bat_set(&s->map, i, e);
    return 0;
}

static int vdi_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    struct vdi *s = n->priv;

    while (len) {
        uint64_t in = off & (BLOCK - 1), part = min_u64(len, BLOCK - in), host = host_of(s, off / BLOCK);
        int r;

        if (host) {
            r = blk_pwritev(n->file, host + in, part, q, qoff, 0);
        } else {
            fibre_mutex_lock(&s->map.lock);
            host = host_of(s, off / BLOCK); /* somebody may have been faster */
            r = host ? blk_pwritev(n->file, host + in, part, q, qoff, 0) : write_new(n, off / BLOCK, in, part, q, qoff);
            fibre_mutex_unlock(&s->map.lock);
        }
        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

/* Only what has no block yet is zero without writing. */
static int vdi_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct vdi *s = n->priv;

    for (uint64_t at = off; at < off + len; at += BLOCK)
        if (host_of(s, at / BLOCK)) {
            int r = blk_pwrite_zeroes(n->file, host_of(s, at / BLOCK), min_u64(BLOCK, off + len - at), 0);

            if (r < 0)
                return r;
        }
    return 0;
}

static int write_head(struct blk_node *n)
{
    struct vdi *s = n->priv;
    int r;

    if (!s->head_dirty)
        return 0;
    put_le32(s->head + 388, s->allocated);
    r = blk_pwrite(n->file, 0, s->head, HDR);
    if (r >= 0)
        s->head_dirty = false;
    return r;
}

static int vdi_flush(struct blk_node *n)
{
    struct vdi *s = n->priv;

    return bat_commit(&s->map, n);
}

static int vdi_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    return blk_mapped_status(n, BLOCK, host_in, off, len, e);
}

static int vdi_check(struct blk_node *n, struct blk_check *c, unsigned fix)
{
    struct vdi *s = n->priv;
    uint64_t limit = n->file->node->size > s->off_data ? div_up(n->file->node->size - s->off_data, BLOCK) : 0;
    uint8_t *seen AUTOFREE = try_alloc(1, limit + 1);

    if (!seen)
        return -ENOMEM;
    c->total_clusters = s->map.nr;
    for (uint32_t i = 0; i < s->map.nr; i++) {
        uint32_t e = bat_get(&s->map, i);

        if (e >= DISCARDED)
            continue;
        c->allocated_clusters++;
        if (e >= limit || e >= s->allocated || seen[e])
            c->corruptions++;
        else
            seen[e] = 1;
    }
    c->have_clusters = true;
    return 0;
}

static bool vdi_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    uint64_t size = 0, nr, map_len, full;
    bool fixed = false;
    enum blk_prealloc p;
    uint8_t head[HDR] = {0};
    struct blk_node *f;
    struct timespec ts;
    uint32_t off_data;
    int r = 0;

    if (!opts_size(o, "size", &size, errp) || !opts_bool(o, "static", &fixed, errp) || !blk_prealloc_parse(o, &p, errp))
        return false;
    fixed |= p != BLK_PREALLOC_OFF;
    nr = div_up(size, BLOCK);
    if (nr > MAX_BLOCKS)
        return err_set(errp, "Unsupported VDI image size (size is 0x%" PRIx64 ", max supported is 0x%" PRIx64 ")", size,
                       (uint64_t)MAX_BLOCKS * BLOCK);
    map_len = align_up(nr * 4, 512);
    off_data = (uint32_t)align_up(HDR + map_len, 512);
    full = off_data + (fixed ? nr * BLOCK : 0);
    f = blk_create_file(set, filename, 0, o, errp);
    if (!f)
        return false;
    strcpy((char *)head, "<<< Lyrebird VM Virtual Disk Image >>>\n");
    put_le32(head + 64, SIG);
    put_le32(head + 68, 0x00010001);
    put_le32(head + 72, 0x190); /* header size from here */
    put_le32(head + 76, fixed ? STATIC : DYNAMIC);
    put_le32(head + 340, HDR);
    put_le32(head + 344, off_data);
    put_le32(head + 360, 512);
    put_le64(head + 368, align_up(size, 512));
    put_le32(head + 376, BLOCK);
    put_le32(head + 384, (uint32_t)nr);
    put_le32(head + 388, fixed ? (uint32_t)nr : 0);
    clock_gettime(CLOCK_REALTIME, &ts);
    for (int i = 0; i < 16; i++) { /* image and last-snapshot identifiers, random form */
        uint64_t x = ((uint64_t)ts.tv_nsec * 6364136223846793005u + (uint64_t)ts.tv_sec) ^ (uintptr_t)f;

        head[392 + i] = (uint8_t)(x >> (i % 8 * 8)) ^ (uint8_t)(i * 37);
        head[408 + i] = (uint8_t)(x >> (i % 7 * 8)) ^ (uint8_t)(i * 91);
    }
    for (uint64_t i = 0; i < map_len / 4 && r >= 0; i += 128) {
        uint8_t sec[512];

        for (uint64_t k = 0; k < 128; k++)
            put_le32(sec + k * 4, fixed && i + k < nr ? (uint32_t)(i + k) : i + k < nr ? FREE : 0);
        r = blk_node_pwrite(f, HDR + i * 4, sec, 512);
    }
    if (r >= 0)
        r = blk_node_pwrite(f, 0, head, HDR);
    if (r >= 0 && fixed)
        r = blk_node_truncate(f, full, p >= BLK_PREALLOC_FALLOC ? p : BLK_PREALLOC_OFF, errp);
    blk_node_unref(f);
    return r >= 0 || (errp && *errp) ? r >= 0 : err_set_errno(errp, -r, "Error writing %s", filename);
}

static const struct blk_create_opt vdi_create_opts[] = {
    {"preallocation", "str", "Preallocation mode (allowed values: off, metadata)", NULL},
    {"size", "size", "Virtual disk size", NULL},
    {"static", "bool (on/off)", "VDI static (pre-allocated) image", "off"},
    {NULL},
};

static const struct blk_driver drv_vdi = {
    .name = "vdi",
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct vdi),
    .probe = vdi_probe,
    .open = vdi_open,
    .close = vdi_close,
    .preadv = vdi_preadv,
    .pwritev = vdi_pwritev,
    .pwrite_zeroes = vdi_zeroes,
    .flush = vdi_flush,
    .block_status = vdi_status,
    .check = vdi_check,
    .create = vdi_create,
    .create_opts = vdi_create_opts,
};
BLK_REGISTER(drv_vdi)
