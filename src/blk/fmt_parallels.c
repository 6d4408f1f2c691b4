/* Parallels expanding images, both signatures ("WithoutFreeSpace": table entries in sectors, "WithouFreSpacExt": in
 * clusters). Little-endian header and table.
 *
 * Crash order: B1 and B2 of bat.h. The header's in-use mark is durable before the first new block, and taken back when
 * the image is closed; an image found with it is checked by hand (qemu-img check), for what a crash leaves is at most
 * unused space at the end. Left out: the format extension (its presence is refused for writing), geometry. */
#include "blk/bat.h"
#include "blk/fmt_util.h"
#include <errno.h>
#include <stdio.h>

enum { HDR = 64, VERSION = 2, DFLT_CLUSTER = 1 << 20, MAX_CLUSTER = 1 << 30 };
#define IN_USE 0x746f6e59u

struct pl {
    struct bat map;
    uint8_t head[HDR];
    uint64_t cs, unit, data; /* bytes: cluster, unit of an entry, start of data */
    bool marked;
};

static bool is_ext(const uint8_t *h)
{
    return !memcmp(h, "WithouFreSpacExt", 16);
}

static int pl_probe(const uint8_t *b, size_t n, const char *filename)
{
    return n >= HDR && (is_ext(b) || !memcmp(b, "WithoutFreeSpace", 16)) && get_le32(b + 16) == VERSION ? 100 : 0;
}

static bool pl_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct pl *s = n->priv;
    uint64_t sectors, nr, end;
    int r = blk_pread(n->file, 0, s->head, HDR);

    if (r < 0)
        return err_set_errno(errp, -r, "parallels: cannot read the header");
    if (!pl_probe(s->head, HDR, ""))
        return err_set(errp, "Image not in Parallels format");
    sectors = get_le64(s->head + 36);
    if (!is_ext(s->head))
        sectors = (uint32_t)sectors;
    s->cs = (uint64_t)get_le32(s->head + 28) * 512;
    nr = get_le32(s->head + 32);
    s->unit = is_ext(s->head) ? s->cs : 512;
    s->data = (uint64_t)get_le32(s->head + 48) * 512;
    end = HDR + nr * 4;
    if (!s->cs || s->cs > MAX_CLUSTER)
        return err_set(errp, "Invalid image: %s cluster", s->cs ? "Too big" : "Zero");
    if (sectors > INT64_MAX / 512 || div_up(sectors * 512, s->cs) > nr)
        return err_set(errp, "Catalog too small for the disk size");
    if (s->data < end)
        s->data = div_up(end, s->unit) * s->unit; /* clusters need not be powers of two */
    if (get_le64(s->head + 56) && n->open_flags & BLK_O_RDWR)
        return err_set(errp, "parallels: images with a format extension can only be read");
    n->size = sectors * 512;
    n->cluster_size = (uint32_t)s->cs;
    n->dirty_flag = get_le32(s->head + 44) == IN_USE;
    if (n->dirty_flag && n->open_flags & BLK_O_RDWR && !(n->open_flags & BLK_O_CHECK))
        warn_report("%s: the image was not closed properly; blocks lost at its end stay unused",
                    blk_node_filename(n->file->node));
    if (bat_open(&s->map, n, HDR, nr, false, "parallels", errp))
        return true;
    bat_close(&s->map);
    return false;
}

static int mark(struct blk_node *n, uint32_t v)
{
    struct pl *s = n->priv;
    int r;

    put_le32(s->head + 44, v);
    r = blk_pwrite(n->file, 44, s->head + 44, 4);
    return r < 0 ? r : blk_pflush(n->file);
}

static void close_run(void *opaque)
{
    struct blk_node *n = opaque;
    struct pl *s = n->priv;

    if (bat_commit(&s->map, n) >= 0 && blk_pflush(n->file) >= 0 && s->marked)
        mark(n, 0);
    s->marked = false;
}

static int pl_inactivate(struct blk_node *n)
{
    blk_run(n->set, close_run, n);
    return 0;
}

static void pl_close(struct blk_node *n)
{
    struct pl *s = n->priv;

    bat_close(&s->map);
}

static uint64_t host_of(const struct pl *s, uint64_t i)
{
    uint64_t at = bat_get(&s->map, i) * s->unit;

    return at >= s->data || (at && at >= HDR) ? at : 0;
}

static uint64_t host_in(struct blk_node *n, uint64_t i)
{
    return host_of(n->priv, i);
}

static int pl_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    struct pl *s = n->priv;

    return blk_mapped_read(n, s->cs, host_in, off, len, q, qoff);
}

/* A new cluster at the end, zeros around the data. */
static int write_new(struct blk_node *n, uint64_t i, uint64_t in, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct pl *s = n->priv;
    uint64_t end = max_u64(n->file->node->size, s->data), base = s->data % s->unit, host;
    int r = 0;

    if (!s->marked) {
        r = mark(n, IN_USE);
        s->marked = r >= 0;
    }
    host = base + div_up(end - base, s->unit) * s->unit;
    if (host / s->unit > UINT32_MAX)
        return -EFBIG;
    if (r >= 0)
        r = blk_node_truncate(n->file->node, host + s->cs, BLK_PREALLOC_OFF, NULL);
    if (r >= 0)
        r = blk_pwritev(n->file, host + in, len, q, qoff, 0);
    if (r >= 0)
        bat_set(&s->map, i, (uint32_t)(host / s->unit));
    return r;
}

static int pl_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct pl *s = n->priv;

    while (len) {
        uint64_t in = off % s->cs, part = min_u64(len, s->cs - in), host = host_of(s, off / s->cs);
        int r;

        if (host) {
            r = blk_pwritev(n->file, host + in, part, q, qoff, 0);
        } else {
            fibre_mutex_lock(&s->map.lock);
            host = host_of(s, off / s->cs); /* somebody may have been faster */
            r = host ? blk_pwritev(n->file, host + in, part, q, qoff, 0) : write_new(n, off / s->cs, in, part, q, qoff);
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

static int pl_flush(struct blk_node *n)
{
    struct pl *s = n->priv;

    return bat_commit(&s->map, n);
}

static int pl_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    struct pl *s = n->priv;

    return blk_mapped_status(n, s->cs, host_in, off, len, e);
}

static int pl_check(struct blk_node *n, struct blk_check *c, unsigned fix)
{
    struct pl *s = n->priv;
    uint64_t size = n->file->node->size, slots = size > s->data ? div_up(size - s->data, s->cs) : 0, top = s->data;
    uint8_t *seen AUTOFREE = try_alloc(1, slots + 1);
    int r = 0;

    if (!seen)
        return -ENOMEM;
    c->have_clusters = true;
    c->total_clusters = s->map.nr;
    for (uint32_t i = 0; i < s->map.nr; i++) {
        uint64_t host = host_of(s, i), k;

        if (!host)
            continue;
        c->allocated_clusters++;
        k = host < s->data ? slots : (host - s->data) / s->cs;
        if (host < s->data || host >= size || (k < slots && seen[k])) {
            c->corruptions++;
            continue;
        }
        if (k < slots)
            seen[k] = 1;
        top = max_u64(top, host + s->cs);
    }
    c->image_end = top;
    if (size > top) {
        c->leaks = div_up(size - top, s->cs);
        if (fix & BLK_FIX_LEAKS && !c->corruptions) {
            r = blk_node_truncate(n->file->node, top, BLK_PREALLOC_OFF, NULL);
            c->leaks_fixed = r >= 0 ? c->leaks : 0;
        }
    }
    if (n->dirty_flag && !s->marked) {
        c->leaks++; /* the mark itself: nothing is lost by it */
        if (c->line)
            c->line(c->opaque, fix & BLK_FIX_LEAKS ? "Repairing image was not closed correctly"
                                                   : "Leaked image was not closed correctly");
        if (fix & BLK_FIX_LEAKS && r >= 0 && !c->corruptions) {
            r = mark(n, 0);
            c->leaks_fixed += r >= 0;
            n->dirty_flag = false;
        }
    }
    return r;
}

static bool pl_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    uint64_t size = 0, cs = DFLT_CLUSTER, nr, data;
    uint8_t *buf AUTOFREE = NULL;
    struct blk_node *f;
    int r;

    if (!opts_size(o, "size", &size, errp) || !opts_size(o, "cluster_size", &cs, errp))
        return false;
    if (cs < 512 || cs % 512 || cs > MAX_CLUSTER)
        return err_set(errp, "Invalid cluster size");
    nr = div_up(size, cs);
    if (nr > 1 << 26)
        return err_set(errp, "Image size is too large for this cluster size");
    data = div_up(HDR + nr * 4, cs) * cs;
    buf = try_alloc(1, data);
    if (!buf)
        return err_set(errp, "no memory");
    memcpy(buf, "WithouFreSpacExt", 16);
    put_le32(buf + 16, VERSION);
    put_le32(buf + 20, 16);
    put_le32(buf + 24, (uint32_t)min_u64(size / 512 / 16 / 32, UINT32_MAX));
    put_le32(buf + 28, (uint32_t)(cs / 512));
    put_le32(buf + 32, (uint32_t)nr);
    put_le64(buf + 36, div_up(size, 512));
    put_le32(buf + 48, (uint32_t)(data / 512));
    f = blk_create_file(set, filename, 0, o, errp);
    if (!f)
        return false;
    r = blk_node_pwrite(f, 0, buf, data);
    blk_node_unref(f);
    return r >= 0 || err_set_errno(errp, -r, "Failed to create Parallels image");
}

static const struct blk_create_opt pl_create_opts[] = {
    {"cluster_size", "size", "Parallels image cluster size", "1048576"},
    {"size", "size", "Virtual disk size", NULL},
    {NULL},
};

static const struct blk_driver drv_parallels = {
    .name = "parallels",
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct pl),
    .probe = pl_probe,
    .open = pl_open,
    .close = pl_close,
    .inactivate = pl_inactivate,
    .preadv = pl_preadv,
    .pwritev = pl_pwritev,
    .flush = pl_flush,
    .block_status = pl_status,
    .check = pl_check,
    .create = pl_create,
    .create_opts = pl_create_opts,
};
BLK_REGISTER(drv_parallels)
