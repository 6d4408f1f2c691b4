/* Virtual PC / Hyper-V VHD, after Microsoft's "Virtual Hard Disk Image Format Specification" 1.0: fixed and dynamic.
 *
 * A fixed image is raw data and a 512-byte footer. A dynamic one has a copy of the footer first, a header, a big-endian
 * block table in sectors, blocks (a sector bitmap, then data), and the footer last. Crash order: bat.h B1, B2; the
 * footer at the end may be lost when the file grows, the copy at the start is never written after creation but by
 * resizing (which is not offered), so the image always opens. Left out: differencing images. */
#include "base/json.h"
#include "blk/bat.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>

enum { FOOTER = 512, DYN = 1024, FIXED = 2, DYNAMIC = 3, MAX_BAT = 1 << 24 };
#define FREE       0xffffffffu
#define EPOCH_2000 946684800

struct vpc {
    bool fixed;
    uint8_t footer[FOOTER];
    struct bat bat;
    uint64_t block, bitmap; /* bytes of data and of the bitmap of one block */
    uint64_t end;           /* where the next block goes: where the footer is */
    bool footer_dirty;
};

static uint32_t checksum(const uint8_t *p, size_t n, size_t skip)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < n; i++)
        if (i < skip || i >= skip + 4)
            sum += p[i];
    return ~sum;
}

static int vpc_probe(const uint8_t *b, size_t n, const char *filename)
{
    return n >= 8 && !memcmp(b, "conectix", 8) ? 100 : 0;
}

static bool footer_ok(const uint8_t *f)
{
    return !memcmp(f, "conectix", 8) && get_be32(f + 64) == checksum(f, FOOTER, 64);
}

/* Hyper-V, Lyrebird and converters keep the exact size in the footer; Virtual PC and QEMU by default count in geometry.
 */
static uint64_t disk_size(const uint8_t *f, const char *force)
{
    uint64_t chs = (uint64_t)get_be16(f + 56) * f[58] * f[59] * 512, cur = get_be64(f + 48);
    bool use_chs = !memcmp(f + 28, "vpc ", 4) || !memcmp(f + 28, "qemu", 4);

    if (force)
        use_chs = !strcmp(force, "chs");
    if (chs >= UINT64_C(65535) * 16 * 255 * 512)
        use_chs = false;
    return use_chs && chs ? chs : cur;
}

static int write_footer(struct blk_node *n);

static bool open_dynamic(struct blk_node *n, struct err **errp)
{
    struct vpc *s = n->priv;
    uint64_t at = get_be64(s->footer + 16), table;
    uint8_t d[DYN];
    uint32_t nr;
    int r = blk_pread(n->file, at, d, DYN);

    if (r < 0)
        return err_set_errno(errp, -r, "vpc: cannot read the dynamic header");
    if (memcmp(d, "cxsparse", 8) != 0)
        return err_set(errp, "vpc: the dynamic disk header is invalid");
    table = get_be64(d + 16);
    nr = get_be32(d + 28);
    s->block = get_be32(d + 32);
    if (!is_pow2(s->block) || s->block < 4096 || s->block > 256 << 20)
        return err_set(errp, "Invalid block size %" PRIu64, s->block);
    s->bitmap = align_up(s->block / 512 / 8, 512);
    if (nr > MAX_BAT || (uint64_t)nr * s->block < n->size)
        return err_set(errp, "Page table too small");
    if (table > n->file->node->size || table < FOOTER)
        return err_set(errp, "vpc: the block table lies outside the file");
    if (!bat_open(&s->bat, n, table, nr, true, "vpc", errp))
        return false;
    s->end = align_up(max_u64(table + (uint64_t)nr * 4, at + DYN), 512);
    for (uint32_t i = 0; i < nr; i++) {
        uint32_t e = bat_get(&s->bat, i);
        uint64_t off = (uint64_t)e * 512;

        if (e == FREE)
            continue;
        if (off >= n->file->node->size)
            return err_set(errp, "vpc: block %u lies outside the file", i);
        s->end = max_u64(s->end, off + s->bitmap + s->block);
    }
    s->bat.before = write_footer;
    n->cluster_size = (uint32_t)s->block;
    n->zero_align = (uint32_t)s->block;
    return true;
}

static bool vpc_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct vpc *s = n->priv;
    const char *force = opts_get(o, "force_size_calc");
    uint64_t len = n->file->node->size;
    int r = blk_pread(n->file, 0, s->footer, FOOTER);

    if (r >= 0 && memcmp(s->footer, "conectix", 8) != 0) {
        if (len < FOOTER)
            return err_set(errp, "File too small for a VHD header");
        r = blk_pread(n->file, len - FOOTER, s->footer, FOOTER);
        s->fixed = true;
    }
    if (r < 0)
        return err_set_errno(errp, -r, "vpc: cannot read the footer");
    if (memcmp(s->footer, "conectix", 8) != 0)
        return err_set(errp, "invalid VPC image");
    if (!footer_ok(s->footer))
        return err_set(errp, "Incorrect header checksum");
    if (get_be32(s->footer + 60) == 4)
        return err_set(errp, "vpc: differencing images are not available");
    s->fixed = get_be32(s->footer + 60) == FIXED;
    n->size = align_down(disk_size(s->footer, force), 512);
    if (n->size > UINT64_C(2040) << 30 && !s->fixed)
        return err_set(errp, "vpc: the disk is too large");
    if (s->fixed)
        return n->size <= len - FOOTER || err_set(errp, "vpc: the file is shorter than the disk");
    if (open_dynamic(n, errp))
        return true;
    bat_close(&s->bat);
    return false;
}

static void vpc_close(struct blk_node *n)
{
    struct vpc *s = n->priv;

    bat_close(&s->bat);
}

/* File offset of the data of block i, 0 = none. */
static uint64_t data_of(const struct vpc *s, uint64_t i)
{
    uint32_t e = bat_get(&s->bat, i);

    return e == FREE ? 0 : (uint64_t)e * 512 + s->bitmap;
}

/* In a block that exists, sectors whose bit is clear read as zeros; writers of ours set all bits, others may not. */
static int read_block(struct blk_node *n, uint64_t data, uint64_t in, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct vpc *s = n->priv;
    uint8_t *bits AUTOFREE = try_alloc(1, s->bitmap);
    int r = bits ? blk_pread(n->file, data - s->bitmap, bits, s->bitmap) : -ENOMEM;

    if (r >= 0)
        r = blk_preadv(n->file, data + in, len, q, qoff, 0);
    for (uint64_t at = 0; at < len && r >= 0;) {
        uint64_t sec = (in + at) / 512, part = min_u64(512 - ((in + at) & 511), len - at);

        if (!(bits[sec / 8] & 0x80 >> (sec % 8)))
            iov_set(q, qoff + at, 0, part);
        at += part;
    }
    return r;
}

static int vpc_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct vpc *s = n->priv;

    if (s->fixed)
        return blk_preadv(n->file, off, len, q, qoff, 0);
    while (len) {
        uint64_t in = off & (s->block - 1), part = min_u64(len, s->block - in), data = data_of(s, off / s->block);
        int r = 0;

        if (data)
            r = read_block(n, data, in, part, q, qoff);
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

static int new_block(struct blk_node *n, uint64_t i, uint64_t in, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct vpc *s = n->priv;
    uint64_t at = max_u64(s->end, align_up(n->file->node->size, 512));
    uint8_t *buf AUTOFREE = try_alloc(1, s->bitmap + s->block);
    int r;

    if (at == s->end + FOOTER && !s->footer_dirty)
        at = s->end; /* only the old footer is there */
    if (!buf)
        return -ENOMEM;
    if (at / 512 >= FREE)
        return -EFBIG;
    memset(buf, 0xff, s->bitmap);
    iov_to_buf(q, qoff, buf + s->bitmap + in, len);
    r = blk_pwrite(n->file, at, buf, s->bitmap + s->block);
    if (r < 0)
        return r;
    s->end = at + s->bitmap + s->block;
    s->footer_dirty = true;
    bat_set(&s->bat, i, (uint32_t)(at / 512));
    return 0;
}

/* Sets the bits of the sectors written, where another writer left them clear; whole sectors become valid, so the rest
 * of a partly written one is zeroed first by the caller's alignment (request_align is 512). */
static int mark_sectors(struct blk_node *n, uint64_t data, uint64_t in, uint64_t len)
{
    struct vpc *s = n->priv;
    uint8_t *bits AUTOFREE = try_alloc(1, s->bitmap);
    int r = bits ? blk_pread(n->file, data - s->bitmap, bits, s->bitmap) : -ENOMEM;
    bool changed = false;

    for (uint64_t sec = in / 512; r >= 0 && sec < div_up(in + len, 512); sec++)
        if (!(bits[sec / 8] & 0x80 >> (sec % 8))) {
            bits[sec / 8] |= (uint8_t)(0x80 >> (sec % 8));
            changed = true;
        }
    if (r >= 0 && changed) {
        r = blk_pflush(n->file); /* data before the bit that shows it */
        if (r >= 0)
            r = blk_pwrite(n->file, data - s->bitmap, bits, s->bitmap);
    }
    return r;
}

static int vpc_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    struct vpc *s = n->priv;

    if (s->fixed)
        return blk_pwritev(n->file, off, len, q, qoff, 0);
    while (len) {
        uint64_t in = off & (s->block - 1), part = min_u64(len, s->block - in), data = data_of(s, off / s->block);
        int r;

        if (!data) {
            fibre_mutex_lock(&s->bat.lock);
            data = data_of(s, off / s->block);
            r = data ? 1 : new_block(n, off / s->block, in, part, q, qoff);
            fibre_mutex_unlock(&s->bat.lock);
        } else {
            r = 1;
        }
        if (r == 1) {
            r = blk_pwritev(n->file, data + in, part, q, qoff, 0);
            if (r >= 0)
                r = mark_sectors(n, data, in, part);
        }
        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

static int vpc_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct vpc *s = n->priv;

    if (s->fixed)
        return blk_pwrite_zeroes(n->file, off, len, flags & ~(unsigned)BLK_MAY_UNMAP);
    for (uint64_t at = off; at < off + len; at += s->block) {
        uint64_t data = data_of(s, at / s->block);
        int r = data ? blk_pwrite_zeroes(n->file, data, min_u64(s->block, off + len - at), 0) : 0;

        if (r < 0)
            return r;
    }
    return 0;
}

static int write_footer(struct blk_node *n)
{
    struct vpc *s = n->priv;
    int r = s->footer_dirty ? blk_pwrite(n->file, s->end, s->footer, FOOTER) : 0;

    if (r >= 0)
        s->footer_dirty = false;
    return r;
}

static int vpc_flush(struct blk_node *n)
{
    struct vpc *s = n->priv;

    return s->fixed ? 0 : bat_commit(&s->bat, n);
}

static int vpc_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    struct vpc *s = n->priv;
    uint64_t in, data, run;

    if (s->fixed) {
        *e = (struct blk_extent){.flags = BLK_ST_DATA | BLK_ST_OFFSET | BLK_ST_ALLOC | BLK_ST_RECURSE,
                                 .len = len,
                                 .map = off,
                                 .map_node = n->file->node};
        return 0;
    }
    in = off & (s->block - 1);
    data = data_of(s, off / s->block);
    run = s->block - in;
    while (!data && run < len && !data_of(s, (off + run) / s->block))
        run += s->block;
    *e = (struct blk_extent){.flags = data ? BLK_ST_DATA | BLK_ST_OFFSET | BLK_ST_ALLOC : BLK_ST_ZERO | BLK_ST_ALLOC,
                             .len = min_u64(len, run),
                             .map = data + in,
                             .map_node = data ? n->file->node : NULL};
    return 0;
}

/* Cylinders, heads, sectors as the specification's appendix computes them. */
static void geometry(uint64_t sectors, uint16_t *cyl, uint8_t *heads, uint8_t *spt)
{
    uint32_t cth;

    if (sectors > UINT64_C(65535) * 16 * 255)
        sectors = UINT64_C(65535) * 16 * 255;
    if (sectors >= UINT64_C(65535) * 16 * 63) {
        *spt = 255;
        *heads = 16;
        cth = (uint32_t)(sectors / *spt);
    } else {
        *spt = 17;
        cth = (uint32_t)(sectors / *spt);
        *heads = (uint8_t)max_u64((cth + 1023) / 1024, 4);
        if (cth >= (uint32_t)*heads * 1024 || *heads > 16) {
            *spt = 31;
            *heads = 16;
            cth = (uint32_t)(sectors / *spt);
        }
        if (cth >= (uint32_t)*heads * 1024) {
            *spt = 63;
            *heads = 16;
            cth = (uint32_t)(sectors / *spt);
        }
    }
    *cyl = (uint16_t)(cth / *heads);
}

static void make_footer(uint8_t *f, uint64_t size, bool fixed)
{
    struct timespec ts;
    uint16_t cyl;
    uint8_t heads, spt;

    clock_gettime(CLOCK_REALTIME, &ts);
    geometry(size / 512, &cyl, &heads, &spt);
    memset(f, 0, FOOTER);
    memcpy(f, "conectix", 8);
    put_be32(f + 8, 2);
    put_be32(f + 12, 0x00010000);
    put_be64(f + 16, fixed ? UINT64_MAX : FOOTER);
    put_be32(f + 24, (uint32_t)(ts.tv_sec - EPOCH_2000));
    memcpy(f + 28, "win ", 4); /* exact sizes: what Hyper-V writes and everybody reads as such */
    put_be32(f + 32, 0x000a0000);
    memcpy(f + 36, "Wi2k", 4);
    put_be64(f + 40, size);
    put_be64(f + 48, size);
    put_be16(f + 56, cyl);
    f[58] = heads;
    f[59] = spt;
    put_be32(f + 60, fixed ? FIXED : DYNAMIC);
    for (int i = 0; i < 16; i++)
        f[68 + i] =
            (uint8_t)((uint64_t)ts.tv_nsec >> (i % 4 * 8)) ^ (uint8_t)(ts.tv_sec >> (i % 5 * 8)) ^ (uint8_t)(i * 73);
    put_be32(f + 64, checksum(f, FOOTER, 64));
}

static int lay_out(struct blk_node *f, uint64_t size, bool fixed)
{
    uint8_t foot[FOOTER], d[DYN] = {0}, sec[512];
    uint64_t block = 2 << 20, nr = div_up(size, block), table = FOOTER + DYN, len = align_up(nr * 4, 512);
    int r = 0;

    make_footer(foot, size, fixed);
    if (fixed)
        return blk_node_pwrite(f, size, foot, FOOTER);
    memcpy(d, "cxsparse", 8);
    put_be64(d + 8, UINT64_MAX);
    put_be64(d + 16, table);
    put_be32(d + 24, 0x00010000);
    put_be32(d + 28, (uint32_t)nr);
    put_be32(d + 32, (uint32_t)block);
    put_be32(d + 36, checksum(d, DYN, 36));
    memset(sec, 0xff, sizeof sec);
    for (uint64_t at = 0; at < len && r >= 0; at += 512)
        r = blk_node_pwrite(f, table + at, sec, 512);
    if (r >= 0)
        r = blk_node_pwrite(f, table + len, foot, FOOTER);
    if (r >= 0)
        r = blk_node_pwrite(f, FOOTER, d, DYN);
    return r < 0 ? r : blk_node_pwrite(f, 0, foot, FOOTER);
}

static bool vpc_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    const char *type = opts_get(o, "subformat");
    bool fixed = type && !strcmp(type, "fixed"), exact = true;
    uint64_t size = 0;
    struct blk_node *f;
    int r;

    if (type && !fixed && strcmp(type, "dynamic") != 0)
        return err_set(errp, "Invalid parameter '%s'", type);
    if (!opts_size(o, "size", &size, errp) || !opts_bool(o, "force_size", &exact, errp))
        return false;
    size = align_up(size, 512);
    if (size > UINT64_C(2040) << 30)
        return err_set(errp, "The requested image size is too large (the limit of the format is 2040 GiB)");
    f = blk_create_file(set, filename, fixed ? size : 0, o, errp);
    if (!f)
        return false;
    r = lay_out(f, size, fixed);
    blk_node_unref(f);
    return r >= 0 || err_set_errno(errp, -r, "Error writing %s", filename);
}

static const struct blk_create_opt vpc_create_opts[] = {
    {"force_size", "bool (on/off)",
     "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based "
     "calculation",
     NULL},
    {"size", "size", "Virtual disk size", NULL},
    {"subformat", "str", "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ", NULL},
    {NULL},
};

static const struct blk_driver drv_vpc = {
    .name = "vpc",
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct vpc),
    .probe = vpc_probe,
    .open = vpc_open,
    .close = vpc_close,
    .preadv = vpc_preadv,
    .pwritev = vpc_pwritev,
    .pwrite_zeroes = vpc_zeroes,
    .flush = vpc_flush,
    .block_status = vpc_status,
    .create = vpc_create,
    .create_opts = vpc_create_opts,
};
BLK_REGISTER(drv_vpc)
