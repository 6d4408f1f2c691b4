/* VMware disks, after VMware's "Virtual Disk Format 5.0": monolithicSparse, monolithicFlat, twoGbMaxExtentSparse,
 * twoGbMaxExtentFlat, streamOptimized, and the descriptors fullDevice and partitionedDevice over host devices.
 *
 * A disk is a list of extents, each flat (bytes at an offset of a file), zero, or sparse (grains found through a grain
 * directory and grain tables of 512 entries). Sparse extents: everything of a table is read at open and kept; a new
 * grain is written at the end of the file and entered in memory; a flush makes the data durable, then writes the
 * changed sectors of the tables, the redundant copies first (B1, B2 of bat.h hold for each extent). Grain tables of
 * images made here exist from the start, so the directory never changes. streamOptimized images are written once, in
 * order of arrival, compressed.
 *
 * Extent files are named in the descriptor, which may come from anywhere: only names in the descriptor's own folder are
 * followed, but for fullDevice and partitionedDevice, where /dev/ names are. Left out: snapshots (parentCID), ESX
 * sparse. */
#include "base/bytes.h"
#include "base/json.h"
#include "blk/compress.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>

enum { MAGIC = 0x4b444d56, SECT = 512, MAX_EXT = 1024, GTES = 512, MAX_GT = 1 << 20, DESC_MAX = 1 << 20 };
enum { F_NEWLINE = 1, F_RGD = 2, F_ZERO_GRAIN = 4, F_COMPRESSED = 1 << 16, F_MARKERS = 1 << 17 };
enum kind { X_FLAT, X_ZERO, X_SPARSE };

struct extent {
    enum kind kind;
    struct blk_child *file; /* owned by the node's child list */
    uint64_t start, size;   /* bytes of the disk */
    uint64_t flat_off;
    /* sparse */
    uint64_t grain; /* bytes */
    uint32_t nr_gt;
    uint32_t *gt_sect[2]; /* owned: where each grain table lies, second set may be NULL */
    uint8_t *tables;      /* owned: all grain tables, nr_gt * 2048 bytes, little-endian */
    uint8_t *dirty;       /* owned: one byte per 512 bytes of tables */
    bool any_dirty, compressed, zero_grain;
    uint64_t end; /* where the next grain goes */
};

struct vmdk {
    struct extent *ext;
    unsigned nr;
    char *desc, *type;
    uint32_t cid;
    struct fibre_mutex lock;
    bool stream;
};

static int vmdk_probe(const uint8_t *b, size_t n, const char *filename)
{
    if (n >= 4 && get_be32(b) == MAGIC)
        return 100;
    return n >= 22 && !memcmp(b, "# Disk DescriptorFile", 21) ? 100 : 0;
}

/* ---- sparse extents ---- */

static uint32_t gte(const struct extent *x, uint64_t g)
{
    return get_le32(x->tables + g * 4);
}

static void gte_set(struct extent *x, uint64_t g, uint32_t v)
{
    put_le32(x->tables + g * 4, v);
    x->dirty[g / 128] = 1;
    x->any_dirty = true;
}

static bool read_gd(struct extent *x, uint64_t sect, uint32_t **out, struct err **errp)
{
    uint32_t *gd = try_alloc(x->nr_gt, 4);
    int r = gd ? blk_pread(x->file, sect * SECT, gd, (size_t)x->nr_gt * 4) : -ENOMEM;

    for (uint32_t i = 0; r >= 0 && i < x->nr_gt; i++)
        gd[i] = le32toh(gd[i]);
    *out = gd;
    return r >= 0 || err_set_errno(errp, -r, "vmdk: cannot read the grain directory");
}

static bool open_sparse(struct extent *x, struct err **errp)
{
    uint8_t h[SECT];
    uint64_t cap, gd, rgd, len = x->file->node->size;
    uint32_t flags, version;
    int r = blk_pread(x->file, 0, h, SECT);

    if (r < 0)
        return err_set_errno(errp, -r, "vmdk: cannot read the header");
    if (get_be32(h) != MAGIC)
        return err_set(errp, "Invalid VMDK extent header");
    if (get_le64(h + 56) == UINT64_MAX) { /* the directory is at the end: use the footer's header */
        if (len < 2 * SECT + SECT || blk_pread(x->file, len - 2 * SECT, h, SECT) < 0 || get_be32(h) != MAGIC)
            return err_set(errp, "VMDK footer is invalid");
    }
    version = get_le32(h + 4);
    flags = get_le32(h + 8);
    cap = get_le64(h + 12);
    x->grain = get_le64(h + 20) * SECT;
    rgd = get_le64(h + 48);
    gd = get_le64(h + 56);
    if (version < 1 || version > 3)
        return err_set(errp, "Unsupported VMDK version %" PRIu32, version);
    if (get_le32(h + 44) != GTES)
        return err_set(errp, "L2 table size too big");
    if (!is_pow2(x->grain) || x->grain < 4096 || x->grain > 64 << 20)
        return err_set(errp, "Invalid granularity, image may be corrupt");
    if (cap > UINT64_C(1) << 40)
        return err_set(errp, "VMDK capacity is out of range");
    x->nr_gt = (uint32_t)div_up(cap * SECT, x->grain * GTES);
    if (div_up(cap * SECT, x->grain * GTES) > MAX_GT)
        return err_set(errp, "L1 size too big");
    x->compressed = flags & F_COMPRESSED;
    x->zero_grain = flags & F_ZERO_GRAIN;
    if (x->compressed && get_le16(h + 77) != 1)
        return err_set(errp, "unknown VMDK compression %u", get_le16(h + 77));
    if (!x->size)
        x->size = cap * SECT;
    if (!read_gd(x, gd, &x->gt_sect[0], errp) || (flags & F_RGD && rgd && !read_gd(x, rgd, &x->gt_sect[1], errp)))
        return false;
    x->tables = try_alloc(x->nr_gt ? x->nr_gt : 1, GTES * 4);
    x->dirty = try_alloc(x->nr_gt ? x->nr_gt : 1, 4);
    if (!x->tables || !x->dirty)
        return err_set(errp, "vmdk: no memory for the grain tables");
    for (uint32_t i = 0; i < x->nr_gt; i++) {
        if (!x->gt_sect[0][i])
            continue;
        r = blk_pread(x->file, (uint64_t)x->gt_sect[0][i] * SECT, x->tables + (uint64_t)i * 2048, 2048);
        if (r < 0)
            return err_set_errno(errp, -r, "vmdk: cannot read a grain table");
    }
    x->end = align_up(len, x->compressed ? SECT : x->grain < 65536 ? x->grain : 65536);
    return true;
}

/* ---- the descriptor ---- */

static char *desc_value(const char *desc, const char *key)
{
    for (const char *p = desc; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (!strncasecmp(p, key, strlen(key))) {
            const char *v = p + strlen(key);

            v += strspn(v, " \t");
            if (*v++ != '=')
                continue;
            v += strspn(v, " \t\"");
            return xstrndup(v, strcspn(v, "\"\r\n"));
        }
    return NULL;
}

static bool name_allowed(const struct vmdk *s, const char *name, struct err **errp)
{
    bool dev = s->type && (!strcmp(s->type, "fullDevice") || !strcmp(s->type, "partitionedDevice"));

    if (!strchr(name, '/') && !blk_path_has_protocol(name))
        return true;
    if (dev && str_starts(name, "/dev/") && !strstr(name, ".."))
        return true;
    if (dev && *name == '/' && !strstr(name, "/../"))
        return true; /* files standing for devices, named in full */
    return err_set(errp, "the VMDK descriptor refers to '%s' outside its own folder", name);
}

static bool add_extent(struct blk_node *n, char *line, struct opts *o, struct err **errp)
{
    struct vmdk *s = n->priv;
    char access[16], type[16], name[512] = "", role[24];
    unsigned long long sectors, off = 0;
    struct extent *x = &s->ext[s->nr];
    int got = sscanf(line, "%15s %llu %15s \"%511[^\"]\" %llu", access, &sectors, type, name, &off);
    char *path AUTOFREE = NULL;

    if (s->nr == MAX_EXT)
        return err_set(errp, "too many VMDK extents");
    if (got < 3 || !sectors || sectors > UINT64_C(1) << 40)
        return err_set(errp, "Invalid extent line: %s", line);
    x->size = sectors * SECT;
    x->start = n->size;
    n->size += x->size;
    s->nr++;
    if (!strcmp(type, "ZERO") || !strcmp(access, "NOACCESS")) {
        x->kind = X_ZERO;
        return true;
    }
    if (got < 4 || (strcmp(type, "FLAT") && strcmp(type, "SPARSE") && strcmp(type, "VMFS")))
        return err_set(errp, got < 4 ? "Invalid extent line: %s" : "Unsupported extent type '%s'",
                       got < 4 ? line : type);
    if (!name_allowed(s, name, errp))
        return false;
    path = blk_path_combine(blk_node_filename(n->file->node), name);
    snprintf(role, sizeof role, "extents.%u", s->nr - 1);
    x->file =
        blk_child_open(n, path, o, role,
                       (n->open_flags & (BLK_O_RDWR | BLK_O_DIRECT | BLK_O_NO_FLUSH | BLK_O_SHARE | BLK_O_AUTO_RO)) |
                           BLK_O_PROTOCOL | BLK_O_UNMAP | BLK_O_FROM_IMAGE,
                       false, errp);
    if (!x->file)
        return false;
    x->file->role = "extent";
    if (strcmp(type, "SPARSE") != 0) {
        x->kind = X_FLAT;
        x->flat_off = (uint64_t)off * SECT;
        return true;
    }
    x->kind = X_SPARSE;
    return open_sparse(x, errp);
}

/* What every descriptor says, in a file of its own or within a sparse one. */
static bool parse_ids(struct vmdk *s, struct err **errp)
{
    char *cid AUTOFREE = desc_value(s->desc, "CID"), *parent AUTOFREE = desc_value(s->desc, "parentCID");

    s->type = desc_value(s->desc, "createType");
    s->cid = cid ? (uint32_t)strtoul(cid, NULL, 16) : 0;
    return !parent || !strcasecmp(parent, "ffffffff") || err_set(errp, "VMDK images with a parent are not available");
}

static bool parse_desc(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct vmdk *s = n->priv;
    char *copy AUTOFREE = xstrdup(s->desc), *save = NULL;

    s->ext = try_alloc(MAX_EXT, sizeof *s->ext);
    if (!s->ext)
        return err_set(errp, "no memory");
    for (char *l = strtok_r(copy, "\r\n", &save); l; l = strtok_r(NULL, "\r\n", &save))
        if ((str_starts(l, "RW ") || str_starts(l, "RDONLY ") || str_starts(l, "NOACCESS ")) &&
            !add_extent(n, l, o, errp))
            return false;
    return s->nr || err_set(errp, "the VMDK descriptor names no extent");
}

static void vmdk_close(struct blk_node *n)
{
    struct vmdk *s = n->priv;

    for (unsigned i = 0; s->ext && i < s->nr; i++) {
        free(s->ext[i].gt_sect[0]);
        free(s->ext[i].gt_sect[1]);
        free(s->ext[i].tables);
        free(s->ext[i].dirty);
    }
    free(s->ext);
    free(s->desc);
    free(s->type);
}

static bool open_any(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct vmdk *s = n->priv;
    uint64_t at = 0, len = min_u64(n->file->node->size, DESC_MAX);
    uint8_t h[SECT] = {0};
    int r = blk_pread(n->file, 0, h, SECT);
    bool sparse = get_be32(h) == MAGIC;

    fibre_mutex_init(&s->lock);
    if (r < 0)
        return err_set_errno(errp, -r, "vmdk: cannot read the header");
    if (sparse) {
        at = get_le64(h + 28) * SECT;
        len = min_u64(get_le64(h + 36) * SECT, DESC_MAX);
    }
    s->desc = try_alloc(1, len + 1);
    if (!s->desc)
        return err_set(errp, "no memory");
    r = len ? blk_pread(n->file, at, s->desc, len) : 0;
    if (r < 0)
        return err_set_errno(errp, -r, "vmdk: cannot read the descriptor");
    n->size = 0;
    if (!parse_ids(s, errp))
        return false;
    if (!sparse)
        return strncmp(s->desc, "# Disk", 6) ? err_set(errp, "Image not in VMDK format") : parse_desc(n, o, errp);
    s->stream = s->type && !strcmp(s->type, "streamOptimized");
    s->ext = try_alloc(1, sizeof *s->ext);
    if (!s->ext)
        return err_set(errp, "no memory");
    s->nr = 1;
    s->ext[0] = (struct extent){.kind = X_SPARSE, .file = n->file};
    if (!open_sparse(&s->ext[0], errp))
        return false;
    n->size = s->ext[0].size;
    return true;
}

static bool vmdk_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct vmdk *s = n->priv;

    if (!open_any(n, o, errp)) {
        vmdk_close(n);
        return false;
    }
    n->compressed_only = s->stream;
    for (unsigned i = 0; i < s->nr; i++)
        if (s->ext[i].kind == X_SPARSE) {
            n->cluster_size = (uint32_t)s->ext[i].grain;
            n->zero_align = (uint32_t)s->ext[i].grain;
        }
    return true;
}

/* ---- requests ---- */

static struct extent *extent_at(struct vmdk *s, uint64_t off)
{
    unsigned lo = 0, hi = s->nr - 1;

    while (lo < hi) {
        unsigned mid = (lo + hi + 1) / 2;

        if (s->ext[mid].start <= off)
            lo = mid;
        else
            hi = mid - 1;
    }
    return &s->ext[lo];
}

/* Part of the grain that begins at `first` of the extent. Some writers end the last one with the extent. */
static int read_packed(struct blk_node *n, struct extent *x, uint64_t host, uint64_t first, uint64_t in, uint64_t len,
                       const struct iov *q, uint64_t qoff)
{
    uint8_t m[12], *src AUTOFREE = NULL, *dst AUTOFREE = try_alloc(1, x->grain);
    uint32_t clen;
    int r = dst ? blk_pread(x->file, host, m, sizeof m) : -ENOMEM;

    if (r < 0)
        return r;
    clen = get_le32(m + 8);
    if (!clen || clen > 2 * x->grain)
        return -EINVAL;
    src = try_alloc(1, clen);
    r = src ? blk_pread(x->file, host + 12, src, clen) : -ENOMEM;
    if (r >= 0)
        r = blk_decompress(n->set, BLK_ZLIB, src, clen, dst, min_u64(x->grain, x->size - first));
    if (r >= 0)
        iov_from_buf(q, qoff, dst + in, len);
    return r;
}

static int read_one(struct blk_node *n, struct extent *x, uint64_t off, uint64_t len, const struct iov *q,
                    uint64_t qoff)
{
    uint64_t at = off - x->start, in;
    uint32_t e;

    if (x->kind == X_FLAT)
        return blk_preadv(x->file, x->flat_off + at, len, q, qoff, 0);
    in = at & (x->grain - 1);
    e = x->kind == X_ZERO ? 0 : gte(x, at / x->grain);
    if (!e || (e == 1 && x->zero_grain)) {
        iov_set(q, qoff, 0, len);
        return 0;
    }
    if (x->compressed)
        return read_packed(n, x, (uint64_t)e * SECT, at - in, in, len, q, qoff);
    return blk_preadv(x->file, (uint64_t)e * SECT + in, len, q, qoff, 0);
}

/* How much from off on is handled by one step. */
static uint64_t step(const struct extent *x, uint64_t off, uint64_t len)
{
    uint64_t left = x->start + x->size - off;

    if (x->kind == X_SPARSE)
        left = min_u64(left, x->grain - ((off - x->start) & (x->grain - 1)));
    return min_u64(left, len);
}

static int vmdk_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    while (len) {
        struct extent *x = extent_at(n->priv, off);
        uint64_t part = step(x, off, len);
        int r = read_one(n, x, off, part, q, qoff);

        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

static int new_grain(struct extent *x, uint64_t g, uint64_t in, uint64_t len, const struct iov *q, uint64_t qoff)
{
    uint64_t at = max_u64(x->end, align_up(x->file->node->size, SECT));
    uint8_t *buf AUTOFREE = try_alloc(1, x->grain);
    int r;

    if (!buf)
        return -ENOMEM;
    if (at / SECT > UINT32_MAX)
        return -EFBIG;
    iov_to_buf(q, qoff, buf + in, len);
    r = blk_pwrite(x->file, at, buf, x->grain);
    if (r < 0)
        return r;
    x->end = at + x->grain;
    gte_set(x, g, (uint32_t)(at / SECT));
    return 0;
}

static int write_one(struct blk_node *n, struct extent *x, uint64_t off, uint64_t len, const struct iov *q,
                     uint64_t qoff)
{
    struct vmdk *s = n->priv;
    uint64_t at = off - x->start, g;
    uint32_t e;
    int r;

    if (x->kind == X_FLAT)
        return blk_pwritev(x->file, x->flat_off + at, len, q, qoff, 0);
    if (x->kind == X_ZERO)
        return iov_is_zero(q, qoff, len) ? 0 : -EACCES;
    if (x->compressed)
        return -EIO; /* a stream is written once, as a whole */
    g = at / x->grain;
    if (!x->gt_sect[0][g / GTES])
        return -ENOTSUP; /* an image without all its grain tables, from elsewhere */
    e = gte(x, g);
    if (!e || (e == 1 && x->zero_grain)) {
        fibre_mutex_lock(&s->lock);
        e = gte(x, g);
        r = e > 1 || (e && !x->zero_grain) ? 1 : new_grain(x, g, at & (x->grain - 1), len, q, qoff);
        fibre_mutex_unlock(&s->lock);
        if (r <= 0)
            return r;
        e = gte(x, g);
    }
    return blk_pwritev(x->file, (uint64_t)e * SECT + (at & (x->grain - 1)), len, q, qoff, 0);
}

static int vmdk_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    while (len) {
        struct extent *x = extent_at(n->priv, off);
        uint64_t part = step(x, off, len);
        int r = write_one(n, x, off, part, q, qoff);

        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

static int vmdk_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t end = off + len;

    while (off < end) {
        struct extent *x = extent_at(n->priv, off);
        uint64_t part = step(x, off, end - off), at = off - x->start;
        uint32_t e = x->kind == X_SPARSE ? gte(x, at / x->grain) : 0;
        int r = 0;

        if (x->kind == X_FLAT)
            r = blk_pwrite_zeroes(x->file, x->flat_off + at, part, flags);
        else if (x->compressed)
            r = -EIO;
        else if (e > 1 || (e && !x->zero_grain))
            r = blk_pwrite_zeroes(x->file, (uint64_t)e * SECT + (at & (x->grain - 1)), part, 0);
        if (r < 0)
            return r;
        off += part;
    }
    return 0;
}

static int commit(struct extent *x)
{
    int r;

    if (x->kind != X_SPARSE || !x->any_dirty)
        return 0;
    r = blk_pflush(x->file);
    for (int copy = 1; copy >= 0 && r >= 0; copy--)
        for (uint64_t sec = 0; x->gt_sect[copy] && sec < (uint64_t)x->nr_gt * 4 && r >= 0; sec++)
            if (x->dirty[sec] && x->gt_sect[copy][sec / 4])
                r = blk_pwrite(x->file, (x->gt_sect[copy][sec / 4] + sec % 4) * (uint64_t)SECT, x->tables + sec * SECT,
                               SECT);
    if (r >= 0) {
        memset(x->dirty, 0, (size_t)x->nr_gt * 4);
        x->any_dirty = false;
    }
    return r;
}

static int vmdk_flush(struct blk_node *n)
{
    struct vmdk *s = n->priv;
    int r = 0;

    if (s->stream)
        return 0;
    fibre_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->nr && r >= 0; i++)
        r = commit(&s->ext[i]);
    fibre_mutex_unlock(&s->lock);
    return r;
}

static int vmdk_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *out)
{
    struct vmdk *s = n->priv;
    struct extent *x = extent_at(s, off);
    uint64_t part = step(x, off, len), at = off - x->start;
    uint32_t e = x->kind == X_SPARSE ? gte(x, at / x->grain) : 0;

    *out = (struct blk_extent){.flags = BLK_ST_ZERO | BLK_ST_ALLOC, .len = part};
    if (x->kind == X_FLAT) {
        *out = (struct blk_extent){.flags = BLK_ST_DATA | BLK_ST_OFFSET | BLK_ST_ALLOC | BLK_ST_RECURSE,
                                   .len = part,
                                   .map = x->flat_off + at,
                                   .map_node = x->file->node};
    } else if (e > 1 || (e && !x->zero_grain)) {
        out->flags = BLK_ST_DATA | BLK_ST_ALLOC | (x->compressed ? BLK_ST_COMPRESSED : BLK_ST_OFFSET | BLK_ST_RECURSE);
        out->map = (uint64_t)e * SECT + (at & (x->grain - 1));
        out->map_node = x->compressed ? NULL : x->file->node;
    } else {
        while (part < len && extent_at(s, off + part) == x && x->kind == X_SPARSE && !gte(x, (at + part) / x->grain))
            part = min_u64(len, part + x->grain);
        out->len = min_u64(part, x->start + x->size - off);
    }
    return 0;
}

/* ---- streams ---- */

static int stream_end(struct blk_node *n)
{
    struct vmdk *s = n->priv;
    struct extent *x = &s->ext[0];
    int r = blk_pflush(n->file);

    (void)s;
    for (uint64_t sec = 0; sec < (uint64_t)x->nr_gt * 4 && r >= 0; sec++)
        if (x->dirty[sec])
            r = blk_pwrite(n->file, (x->gt_sect[0][sec / 4] + sec % 4) * (uint64_t)SECT, x->tables + sec * SECT, SECT);
    x->any_dirty = false;
    return r;
}

static int vmdk_compressed(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct vmdk *s = n->priv;
    struct extent *x = &s->ext[0];
    uint8_t *src AUTOFREE = NULL, *dst AUTOFREE = NULL;
    uint64_t at;
    int r;

    if (!s->stream) /* its header has no room for compressed grains: they are written as they are */
        return len ? vmdk_pwritev(n, off, len, q, qoff, 0) : 0;
    if (x->kind != X_SPARSE)
        return -ENOTSUP;
    if (!len)
        return stream_end(n);
    if (off & (x->grain - 1) || len > x->grain || gte(x, off / x->grain))
        return -EINVAL;
    src = try_alloc(1, x->grain);
    dst = try_alloc(2, x->grain);
    if (!src || !dst)
        return -ENOMEM;
    iov_to_buf(q, qoff, src, len);
    r = blk_compress(n->set, BLK_ZLIB, src, x->grain, dst + 12, 2 * x->grain - 12 - SECT);
    if (r < 0)
        return r;
    put_le64(dst, off / SECT);
    put_le32(dst + 8, (uint32_t)r);
    fibre_mutex_lock(&s->lock);
    at = max_u64(x->end, align_up(n->file->node->size, SECT));
    memset(dst + 12 + r, 0, SECT);
    x->end = at + align_up(12 + (uint64_t)r, SECT);
    r = at / SECT > UINT32_MAX ? -EFBIG : blk_pwrite(n->file, at, dst, x->end - at);
    if (r >= 0)
        gte_set(x, off / x->grain, (uint32_t)(at / SECT));
    fibre_mutex_unlock(&s->lock);
    return r;
}

/* ---- description and creation ---- */

static struct json_object *vmdk_info(struct blk_node *n)
{
    struct vmdk *s = n->priv;
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < s->nr; i++) {
        struct extent *x = &s->ext[i];
        struct json_object *o = json_make("s:filename", x->file ? blk_node_filename(x->file->node) : "", "s:format",
                                          x->kind == X_FLAT   ? "FLAT"
                                          : x->kind == X_ZERO ? "ZERO"
                                                              : "SPARSE",
                                          "u:virtual-size", x->size, NULL);

        if (x->kind == X_SPARSE)
            json_object_object_add(o, "cluster-size", json_object_new_uint64(x->grain));
        if (x->compressed)
            json_object_object_add(o, "compressed", json_object_new_boolean(1));
        json_object_array_add(list, o);
    }
    return json_make("s:type", "vmdk", "o:data",
                     json_make("u:cid", (uint64_t)s->cid, "u:parent-cid", UINT64_C(4294967295), "s:create-type",
                               s->type ? s->type : "", "o:extents", list, NULL),
                     NULL);
}

static int vmdk_check(struct blk_node *n, struct blk_check *c, unsigned fix)
{
    struct vmdk *s = n->priv;

    for (unsigned i = 0; i < s->nr; i++) {
        struct extent *x = &s->ext[i];

        for (uint64_t g = 0; x->kind == X_SPARSE && g * x->grain < x->size; g++) {
            uint32_t e = gte(x, g);

            c->total_clusters++;
            if (!e || (e == 1 && x->zero_grain))
                continue;
            c->allocated_clusters++;
            if ((uint64_t)e * SECT >= x->file->node->size)
                c->corruptions++;
        }
    }
    c->have_clusters = true;
    return 0;
}

struct make {
    uint64_t size;
    uint32_t cid;
    const char *type, *adapter, *hw, *tools;
    bool stream, zero_grain;
};

/* One sparse file of `size` bytes: header, descriptor room (desc may be NULL), directories and all grain tables. */
static int make_sparse(struct blk_node *f, uint64_t size, const char *desc, const struct make *m)
{
    uint64_t grain = 65536, gts = max_u64(div_up(size, grain * GTES), 1), gd_sect = div_up(gts * 4, SECT),
             desc_sects = 20;
    uint64_t desc_at = 1, rgd = desc_at + desc_sects, gd = rgd + gd_sect + gts * 4,
             over = align_up((gd + gd_sect + gts * 4), 128);
    uint8_t h[SECT] = {0}, sec[SECT], *text AUTOFREE = try_alloc(desc_sects, SECT);
    bool two = !m->stream;
    int r;

    if (!text)
        return -ENOMEM;
    if (desc)
        memcpy(text, desc, min_u64(strlen(desc), desc_sects * SECT - 1));
    put_be32(h, MAGIC);
    put_le32(h + 4, m->stream ? 3 : m->zero_grain ? 2 : 1);
    put_le32(h + 8, F_NEWLINE | (two ? F_RGD : 0) | (m->stream ? F_COMPRESSED | F_MARKERS : 0) |
                        (m->zero_grain ? F_ZERO_GRAIN : 0));
    put_le64(h + 12, size / SECT);
    put_le64(h + 20, grain / SECT);
    put_le64(h + 28, desc ? desc_at : 0);
    put_le64(h + 36, desc ? desc_sects : 0);
    put_le32(h + 44, GTES);
    put_le64(h + 48, two ? rgd : 0);
    put_le64(h + 56, gd);
    put_le64(h + 64, over);
    memcpy(h + 73, "\n \r\n", 4);
    put_le16(h + 77, m->stream ? 1 : 0);
    r = blk_node_truncate(f, over * SECT, BLK_PREALLOC_OFF, NULL);
    for (int copy = 0; copy < 2 && r >= 0; copy++) {
        uint64_t base = copy ? gd : rgd;

        for (uint64_t i = 0; i < gts && r >= 0 && (copy || two); i += 128) {
            memset(sec, 0, sizeof sec);
            for (uint64_t k = i; k < min_u64(gts, i + 128); k++)
                put_le32(sec + (k - i) * 4, (uint32_t)(base + gd_sect + k * 4));
            r = blk_node_pwrite(f, base * SECT + i * 4, sec, SECT);
        }
    }
    if (r >= 0 && desc)
        r = blk_node_pwrite(f, desc_at * SECT, text, desc_sects * SECT);
    return r < 0 ? r : blk_node_pwrite(f, 0, h, SECT);
}

static char *make_desc(const struct make *m, const char *extents)
{
    uint64_t heads = !strcmp(m->adapter, "ide") ? 16 : 255, cyl = m->size / (63 * heads * SECT);

    return xasprintf("# Disk DescriptorFile\nversion=1\nCID=%08" PRIx32 "\nparentCID=ffffffff\ncreateType=\"%s\"\n\n"
                     "# Extent description\n%s\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%s\"\n"
                     "ddb.geometry.cylinders = \"%" PRIu64 "\"\nddb.geometry.heads = \"%" PRIu64
                     "\"\nddb.geometry.sectors = \"63\"\n"
                     "ddb.adapterType = \"%s\"\nddb.toolsVersion = \"%s\"\n",
                     m->cid, m->type, extents, m->hw, cyl, heads, m->adapter, m->tools);
}

static bool split_files(struct blk_set *set, const char *filename, const struct make *m, bool flat, bool two_gb,
                        struct strbuf *ext, struct err **errp)
{
    const char *slash = strrchr(filename, '/'), *name = slash ? slash + 1 : filename, *dot = strrchr(name, '.');
    int stem = dot ? (int)(dot - name) : (int)strlen(name);
    uint64_t max = two_gb ? UINT64_C(0x7fff0000) : UINT64_MAX, done = 0;

    for (unsigned i = 1; done < m->size || i == 1; i++) {
        uint64_t part = min_u64(max, m->size - done);
        char *file AUTOFREE = two_gb ? xasprintf("%.*s-%c%03u%s", stem, name, flat ? 'f' : 's', i, dot ? dot : "")
                                     : xasprintf("%.*s-flat%s", stem, name, dot ? dot : "");
        char *path AUTOFREE = blk_path_combine(filename, file);
        struct blk_node *f = blk_create_file(set, path, flat ? part : 0, NULL, errp);
        int r;

        if (!f)
            return false;
        r = flat ? 0 : make_sparse(f, part, NULL, m);
        blk_node_unref(f);
        if (r < 0)
            return err_set_errno(errp, -r, "Error writing %s", path);
        str_addf(ext, "RW %" PRIu64 " %s \"%s\"%s\n", part / SECT, flat ? "FLAT" : "SPARSE", file, flat ? " 0" : "");
        done += part;
    }
    return true;
}

static bool vmdk_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    static const char *const types[] = {"monolithicSparse",   "monolithicFlat",  "twoGbMaxExtentSparse",
                                        "twoGbMaxExtentFlat", "streamOptimized", NULL};
    const char *type = opts_get(o, "subformat"), *adapter = opts_get(o, "adapter_type"), *hw = opts_get(o, "hwversion");
    struct make m = {.type = type ? type : types[0],
                     .adapter = adapter ? adapter : "ide",
                     .hw = hw && strcmp(hw, "undefined") != 0 ? hw : "4"};
    struct strbuf ext = {0};
    struct timespec ts;
    struct blk_node *f;
    bool compat6 = false, single, flat;
    char *desc AUTOFREE = NULL;
    int i, r;

    for (i = 0; types[i] && strcmp(types[i], m.type) != 0; i++)
        ;
    if (!types[i])
        return err_set(errp, "Invalid parameter '%s'", m.type);
    if (!opts_size(o, "size", &m.size, errp) || !opts_bool(o, "zeroed_grain", &m.zero_grain, errp) ||
        !opts_bool(o, "compat6", &compat6, errp))
        return false;
    if (opts_get(o, "backing_file"))
        return err_set(errp, "VMDK overlays cannot be created");
    m.tools = opts_get(o, "toolsversion");
    if (!m.tools)
        m.tools = "2147483647";
    if (compat6)
        m.hw = "6";
    m.size = align_up(m.size, SECT);
    if (m.size > UINT64_C(1) << 48)
        return err_set(errp, "the disk is too large for the format");
    clock_gettime(CLOCK_REALTIME, &ts);
    m.cid = (uint32_t)(ts.tv_sec ^ ts.tv_nsec) & 0xfffffffe;
    m.stream = i == 4;
    single = i == 0 || i == 4;
    flat = i == 1 || i == 3;
    if (single) {
        const char *slash = strrchr(filename, '/');

        str_addf(&ext, "RW %" PRIu64 " SPARSE \"%s\"\n", m.size / SECT, slash ? slash + 1 : filename);
    } else if (!split_files(set, filename, &m, flat, i >= 2, &ext, errp)) {
        str_free(&ext);
        return false;
    }
    desc = make_desc(&m, ext.s ? ext.s : "");
    str_free(&ext);
    f = blk_create_file(set, filename, 0, o, errp);
    if (!f)
        return false;
    r = single ? make_sparse(f, m.size, desc, &m) : blk_node_pwrite(f, 0, desc, strlen(desc));
    blk_node_unref(f);
    return r >= 0 || err_set_errno(errp, -r, "Error writing %s", filename);
}

static const struct blk_create_opt vmdk_create_opts[] = {
    {"adapter_type", "str", "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX", NULL},
    {"backing_file", "str", "File name of a base image", NULL},
    {"backing_fmt", "str", "Must be 'vmdk' if present", NULL},
    {"compat6", "bool (on/off)", "VMDK version 6 image", "off"},
    {"hwversion", "str", "VMDK hardware version", "undefined"},
    {"size", "size", "Virtual disk size", NULL},
    {"subformat", "str",
     "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | twoGbMaxExtentSparse | "
     "twoGbMaxExtentFlat | streamOptimized} ",
     NULL},
    {"toolsversion", "str", "VMware guest tools version", NULL},
    {"zeroed_grain", "bool (on/off)", "Enable efficient zero writes using the zeroed-grain GTE feature", NULL},
    {NULL},
};

static const struct blk_driver drv_vmdk = {
    .name = "vmdk",
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct vmdk),
    .probe = vmdk_probe,
    .open = vmdk_open,
    .close = vmdk_close,
    .preadv = vmdk_preadv,
    .pwritev = vmdk_pwritev,
    .pwrite_zeroes = vmdk_zeroes,
    .pwrite_compressed = vmdk_compressed,
    .flush = vmdk_flush,
    .block_status = vmdk_status,
    .info = vmdk_info,
    .check = vmdk_check,
    .create = vmdk_create,
    .create_opts = vmdk_create_opts,
};
BLK_REGISTER(drv_vmdk)
