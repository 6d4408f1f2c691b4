/* qcow version 1, the format before qcow2: two levels of tables, no refcounts, backing files, compressed clusters.
 *
 * Everything new goes to the end of the file. Crash order: tables are kept in memory; a flush makes the data durable,
 * then writes changed L2 tables, then (after another flush) the L1 entries that name new ones. So no durable entry
 * points at anything that was not durable before it; what is lost is space. Left out: encryption. */
#include "base/bytes.h"
#include "blk/compress.h"
#include <errno.h>
#include <stdio.h>

enum { MAGIC = 0x514649fb, HDR = 48, MAX_L1 = 1 << 22 };
#define COMPRESSED (UINT64_C(1) << 63)

struct qcow {
    unsigned cbits, l2bits;
    uint64_t cs, l1_off;
    uint32_t l1_size;
    uint64_t *l1;      /* owned, host order */
    uint8_t **l2;      /* owned: tables in memory, NULL = not loaded */
    uint8_t *l2_dirty; /* owned: one byte per table */
    bool dirty, l1_dirty;
    uint64_t end; /* where the next thing goes */
    struct fibre_mutex lock;
};

static int qcow_probe(const uint8_t *b, size_t n, const char *filename)
{
    return n >= 8 && get_be32(b) == MAGIC && get_be32(b + 4) == 1 ? 100 : 0;
}

static void qcow_close(struct blk_node *n)
{
    struct qcow *s = n->priv;

    for (uint32_t i = 0; s->l2 && i < s->l1_size; i++)
        free(s->l2[i]);
    free(s->l2);
    free(s->l2_dirty);
    free(s->l1);
}

static bool load(struct blk_node *n, struct err **errp)
{
    struct qcow *s = n->priv;
    uint8_t h[HDR];
    uint64_t boff, per;
    uint32_t blen;
    int r = blk_pread(n->file, 0, h, HDR);

    if (r < 0)
        return err_set_errno(errp, -r, "qcow: cannot read the header");
    if (get_be32(h) != MAGIC || get_be32(h + 4) != 1)
        return err_set(errp, "Image not in qcow format");
    n->size = get_be64(h + 24);
    s->cbits = h[32];
    s->l2bits = h[33];
    s->l1_off = get_be64(h + 40);
    if (n->size <= 1 || n->size > INT64_MAX / 2)
        return err_set(errp, "Image size is out of range");
    if (s->cbits < 9 || s->cbits > 16)
        return err_set(errp, "Cluster size must be between 512 and 64k");
    if (s->l2bits < 6 || s->l2bits > 13)
        return err_set(errp, "L2 table size must be between 512 and 64k");
    if (get_be32(h + 36))
        return err_set(errp, "encrypted qcow images are not available");
    s->cs = UINT64_C(1) << s->cbits;
    per = UINT64_C(1) << (s->cbits + s->l2bits);
    if (div_up(n->size, per) > MAX_L1)
        return err_set(errp, "Image too large");
    s->l1_size = (uint32_t)div_up(n->size, per);
    s->l1 = try_alloc(s->l1_size, 8);
    s->l2 = try_alloc(s->l1_size, sizeof *s->l2);
    s->l2_dirty = try_alloc(s->l1_size, 1);
    if (!s->l1 || !s->l2 || !s->l2_dirty)
        return err_set(errp, "Could not allocate memory for L1 table");
    r = blk_pread(n->file, s->l1_off, s->l1, (size_t)s->l1_size * 8);
    if (r < 0)
        return err_set_errno(errp, -r, "qcow: cannot read the L1 table");
    for (uint32_t i = 0; i < s->l1_size; i++)
        s->l1[i] = be64toh(s->l1[i]);
    boff = get_be64(h + 8);
    blen = get_be32(h + 16);
    if (boff) {
        char name[1024] = "";

        if (blen > 1023 || boff > n->file->node->size)
            return err_set(errp, "Backing file name too long");
        r = blk_pread(n->file, boff, name, blen);
        if (r < 0 || memchr(name, 0, blen))
            return err_set(errp, "qcow: the backing file name is invalid");
        n->backing_name = xstrdup(name);
    }
    s->end = align_up(n->file->node->size, s->cs);
    return true;
}

static bool qcow_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct qcow *s = n->priv;

    fibre_mutex_init(&s->lock);
    if (!load(n, errp)) {
        qcow_close(n);
        return false;
    }
    n->cluster_size = (uint32_t)s->cs;
    return true;
}

/* Lock held. The table of an L1 entry; NULL with 0: none and none wanted. */
static int table(struct blk_node *n, uint64_t i, bool make, uint8_t **out)
{
    struct qcow *s = n->priv;
    uint64_t len = UINT64_C(8) << s->l2bits;
    int r = 0;

    *out = s->l2[i];
    if (*out || (!s->l1[i] && !make))
        return 0;
    *out = try_alloc(1, len);
    if (!*out)
        return -ENOMEM;
    if (s->l1[i]) {
        r = blk_pread(n->file, s->l1[i], *out, len);
    } else {
        s->end = align_up(max_u64(s->end, n->file->node->size), s->cs);
        s->l1[i] = s->end;
        s->end += align_up(len, s->cs);
        s->l1_dirty = s->dirty = true;
        s->l2_dirty[i] = 1;
    }
    if (r < 0) {
        free(*out);
        *out = NULL;
        return r;
    }
    s->l2[i] = *out;
    return 0;
}

static int entry(struct blk_node *n, uint64_t off, uint64_t *e)
{
    struct qcow *s = n->priv;
    uint64_t i = off >> (s->cbits + s->l2bits), k = off >> s->cbits & ((UINT64_C(1) << s->l2bits) - 1);
    uint8_t *t = s->l2[i];
    int r = 0;

    if (!t && s->l1[i]) {
        fibre_mutex_lock(&s->lock);
        r = table(n, i, false, &t);
        fibre_mutex_unlock(&s->lock);
    }
    *e = t ? get_be64(t + k * 8) : 0;
    return r;
}

static int read_packed(struct blk_node *n, uint64_t e, uint64_t in, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct qcow *s = n->priv;
    uint64_t off = e & ((UINT64_C(1) << (63 - s->cbits)) - 1), clen = e >> (63 - s->cbits) & (s->cs - 1);
    uint8_t *src AUTOFREE = try_alloc(1, clen + 1), *dst AUTOFREE = try_alloc(1, s->cs);
    int r = src && dst ? blk_pread(n->file, off, src, clen) : -ENOMEM;

    if (r >= 0)
        r = blk_decompress(n->set, BLK_DEFLATE, src, clen, dst, s->cs);
    if (r >= 0)
        iov_from_buf(q, qoff, dst + in, len);
    return r;
}

static int qcow_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    struct qcow *s = n->priv;

    while (len) {
        uint64_t in = off & (s->cs - 1), part = min_u64(len, s->cs - in), e;
        int r = entry(n, off, &e);

        if (r < 0)
            return r;
        if (e & COMPRESSED)
            r = read_packed(n, e, in, part, q, qoff);
        else if (e)
            r = blk_preadv(n->file, e + in, part, q, qoff, 0);
        else if (n->backing)
            r = blk_preadv(n->backing, off, part, q, qoff, 0);
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

/* Lock held: a whole cluster goes to the end of the file and into the table. */
static int new_cluster(struct blk_node *n, uint64_t off, const uint8_t *buf)
{
    struct qcow *s = n->priv;
    uint64_t i = off >> (s->cbits + s->l2bits), k = off >> s->cbits & ((UINT64_C(1) << s->l2bits) - 1), at;
    uint8_t *t;
    int r = table(n, i, true, &t);

    if (r < 0)
        return r;
    at = s->end = align_up(max_u64(s->end, n->file->node->size), s->cs);
    r = blk_pwrite(n->file, at, buf, s->cs);
    if (r < 0)
        return r;
    s->end = at + s->cs;
    put_be64(t + k * 8, at);
    s->l2_dirty[i] = 1;
    s->dirty = true;
    return 0;
}

static int write_part(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct qcow *s = n->priv;
    uint64_t in = off & (s->cs - 1), e;
    int r = entry(n, off, &e);

    if (r >= 0 && (!e || e & COMPRESSED)) {
        fibre_mutex_lock(&s->lock);
        e = s->l2[off >> (s->cbits + s->l2bits)] ? get_be64(s->l2[off >> (s->cbits + s->l2bits)] +
                                                            (off >> s->cbits & ((UINT64_C(1) << s->l2bits) - 1)) * 8)
                                                 : 0;
        if (!e || e & COMPRESSED) {
            uint8_t *buf AUTOFREE = try_alloc(1, s->cs);
            struct iovec v = {buf, s->cs};
            struct iov cq;

            iov_init_ext(&cq, &v, 1);
            r = !buf             ? -ENOMEM
                : e & COMPRESSED ? read_packed(n, e, 0, s->cs, &cq, 0)
                : n->backing     ? blk_preadv(n->backing, off - in, s->cs, &cq, 0, 0)
                                 : 0;
            if (r >= 0) {
                iov_to_buf(q, qoff, buf + in, len);
                r = new_cluster(n, off - in, buf);
            }
            fibre_mutex_unlock(&s->lock);
            return r;
        }
        fibre_mutex_unlock(&s->lock);
    }
    return r < 0 ? r : blk_pwritev(n->file, e + in, len, q, qoff, 0);
}

static int qcow_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    struct qcow *s = n->priv;

    while (len) {
        uint64_t part = min_u64(len, s->cs - (off & (s->cs - 1)));
        int r = write_part(n, off, part, q, qoff);

        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

static int qcow_compressed(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct qcow *s = n->priv;
    uint8_t *src AUTOFREE = try_alloc(1, s->cs), *dst AUTOFREE = try_alloc(1, s->cs), *t;
    uint64_t i = off >> (s->cbits + s->l2bits);
    int r;

    if (!len)
        return 0;
    if (!src || !dst)
        return -ENOMEM;
    if (off & (s->cs - 1) || len > s->cs)
        return -EINVAL;
    iov_to_buf(q, qoff, src, len);
    r = blk_compress(n->set, BLK_DEFLATE, src, s->cs, dst, s->cs - 1);
    if (r == -ENOSPC)
        return qcow_pwritev(n, off, len, q, qoff, 0);
    if (r < 0)
        return r;
    fibre_mutex_lock(&s->lock);
    len = (uint64_t)r;
    r = table(n, i, true, &t);
    if (r >= 0) {
        uint64_t at = max_u64(s->end, n->file->node->size);

        r = blk_pwrite(n->file, at, dst, len);
        if (r >= 0) {
            s->end = at + len;
            put_be64(t + (off >> s->cbits & ((UINT64_C(1) << s->l2bits) - 1)) * 8,
                     COMPRESSED | len << (63 - s->cbits) | at);
            s->l2_dirty[i] = 1;
            s->dirty = true;
        }
    }
    fibre_mutex_unlock(&s->lock);
    return r;
}

static int commit(struct blk_node *n)
{
    struct qcow *s = n->priv;
    int r;

    if (!s->dirty)
        return 0;
    r = blk_pflush(n->file);
    for (uint32_t i = 0; i < s->l1_size && r >= 0; i++)
        if (s->l2_dirty[i]) {
            r = blk_pwrite(n->file, s->l1[i], s->l2[i], (size_t)8 << s->l2bits);
            if (r >= 0)
                s->l2_dirty[i] = 0;
        }
    if (r >= 0 && s->l1_dirty) {
        uint8_t *b AUTOFREE = try_alloc(s->l1_size, 8);

        for (uint32_t i = 0; b && i < s->l1_size; i++)
            put_be64(b + (uint64_t)i * 8, s->l1[i]);
        r = b ? blk_pflush(n->file) : -ENOMEM;
        if (r >= 0)
            r = blk_pwrite(n->file, s->l1_off, b, (size_t)s->l1_size * 8);
        s->l1_dirty = r < 0;
    }
    if (r >= 0)
        s->dirty = false;
    return r;
}

static int qcow_flush(struct blk_node *n)
{
    struct qcow *s = n->priv;
    int r;

    fibre_mutex_lock(&s->lock);
    r = commit(n);
    fibre_mutex_unlock(&s->lock);
    return r;
}

static int qcow_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *x)
{
    struct qcow *s = n->priv;
    uint64_t e, f, in = off & (s->cs - 1), run = s->cs - in;
    int r = entry(n, off, &e);

    if (r < 0)
        return r;
    while (run < len && !(e & COMPRESSED) && entry(n, off + run, &f) >= 0 && (e ? f == e + in + run : !f))
        run += s->cs;
    *x = (struct blk_extent){.len = min_u64(len, run)};
    if (e & COMPRESSED)
        x->flags = BLK_ST_DATA | BLK_ST_ALLOC | BLK_ST_COMPRESSED;
    else if (e)
        *x = (struct blk_extent){BLK_ST_DATA | BLK_ST_ALLOC | BLK_ST_OFFSET, min_u64(len, run), e + in, n->file->node};
    return 0;
}

static bool qcow_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    const char *back = opts_get(o, "backing_file"), *enc = opts_get(o, "encryption");
    uint8_t h[HDR] = {0}, *z AUTOFREE = NULL;
    uint64_t size = 0, l1, at = HDR;
    unsigned cbits = back ? 9 : 12, l2bits = back ? 12 : 9;
    struct blk_node *f;
    bool crypt = false;
    int r = 0;

    opts_get(o, "backing_fmt"); /* the header has no room for it */
    if (enc && (!str_to_bool(enc, &crypt) || crypt))
        return err_set(errp, "encrypted qcow images cannot be created");
    if (!opts_size(o, "size", &size, errp))
        return false;
    size = align_up(size, 512);
    if (size < 512)
        return err_set(errp, "Image size is too small, cannot be zero length");
    if (back && strlen(back) > 1023)
        return err_set(errp, "Backing file name too long");
    if (back)
        at += strlen(back);
    at = align_up(at, 8);
    l1 = div_up(size, UINT64_C(1) << (cbits + l2bits));
    if (l1 > MAX_L1)
        return err_set(errp, "Image size too large for the format");
    f = blk_create_file(set, filename, 0, o, errp);
    if (!f)
        return false;
    put_be32(h, MAGIC);
    put_be32(h + 4, 1);
    put_be64(h + 8, back ? HDR : 0);
    put_be32(h + 16, back ? (uint32_t)strlen(back) : 0);
    put_be64(h + 24, size);
    h[32] = (uint8_t)cbits;
    h[33] = (uint8_t)l2bits;
    put_be64(h + 40, at);
    z = try_alloc(l1, 8);
    r = z ? blk_node_pwrite(f, at, z, l1 * 8) : -ENOMEM;
    if (r >= 0 && back)
        r = blk_node_pwrite(f, HDR, back, strlen(back));
    if (r >= 0)
        r = blk_node_pwrite(f, 0, h, HDR);
    blk_node_unref(f);
    return r >= 0 || err_set_errno(errp, -r, "Error writing %s", filename);
}

static const struct blk_create_opt qcow_create_opts[] = {
    {"backing_file", "str", "File name of a base image", NULL},
    {"backing_fmt", "str", "Format of the backing image", NULL},
    {"encryption", "bool (on/off)", "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
     NULL},
    {"size", "size", "Virtual disk size", NULL},
    {NULL},
};

static const struct blk_driver drv_qcow = {
    .name = "qcow",
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct qcow),
    .backing_ok = true,
    .probe = qcow_probe,
    .open = qcow_open,
    .close = qcow_close,
    .preadv = qcow_preadv,
    .pwritev = qcow_pwritev,
    .pwrite_compressed = qcow_compressed,
    .flush = qcow_flush,
    .block_status = qcow_status,
    .create = qcow_create,
    .create_opts = qcow_create_opts,
};
BLK_REGISTER(drv_qcow)
