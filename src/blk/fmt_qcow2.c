/* The qcow2 format, versions 2 and 3: header, opening, creating, resizing, describing. Requests are in qcow2_map.c, the
 * order of writes in qcow2_ref.c; the invariants that survive a crash are listed in qcow2.h. */
#include "base/json.h"
#include "blk/luks.h"
#include "blk/qcow2.h"
#include "blk/secret.h"
#include <errno.h>
#include <stdio.h>

static const char *const q2_known[] = {"l2-cache-size",
                                       "refcount-cache-size",
                                       "cache-size",
                                       "l2-cache-entry-size",
                                       "cache-clean-interval",
                                       "lazy-refcounts",
                                       "overlap-check",
                                       "pass-discard-request",
                                       "pass-discard-snapshot",
                                       "pass-discard-other",
                                       "encrypt.key-secret",
                                       "encrypt.format",
                                       "backing",
                                       "file",
                                       "data-file",
                                       "driver",
                                       "node-name",
                                       "read-only",
                                       "cache.direct",
                                       "cache.no-flush",
                                       "discard",
                                       "detect-zeroes",
                                       NULL};

/* ---- header ---- */

static const struct {
    uint8_t type, bit;
    const char *name;
} features[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

struct out {
    uint8_t *p;
    size_t len, cap;
    bool full;
};

static void out_ext(struct out *o, uint32_t type, const void *data, size_t len)
{
    size_t need = 8 + ((len + 7) & ~(size_t)7);

    if (o->len + need > o->cap) {
        o->full = true;
        return;
    }
    memset(o->p + o->len, 0, need);
    put_be32(o->p + o->len, type);
    put_be32(o->p + o->len + 4, (uint32_t)len);
    if (len)
        memcpy(o->p + o->len + 8, data, len);
    o->len += need;
}

static void out_features(struct out *o)
{
    uint8_t t[48 * ARRAY_LEN(features)] = {0};

    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        t[i * 48] = features[i].type;
        t[i * 48 + 1] = features[i].bit;
        memcpy(t + i * 48 + 2, features[i].name, strlen(features[i].name));
    }
    if (o->len + sizeof t + 16 + 1024 <= o->cap) /* only a help for readers: left out when room is short */
        out_ext(o, Q2_EXT_FEATURES, t, sizeof t);
}

static void out_fields(const struct blk_node *n, uint8_t *h)
{
    const struct q2 *s = n->priv;

    put_be32(h, Q2_MAGIC);
    put_be32(h + 4, s->version);
    put_be32(h + 20, s->cluster_bits);
    put_be64(h + 24, n->size);
    put_be32(h + 32, s->crypt_method);
    put_be32(h + 36, s->l1_size);
    put_be64(h + 40, s->l1_off);
    put_be64(h + 48, s->reftable_off);
    put_be32(h + 56, s->reftable_clusters);
    put_be32(h + 60, s->nr_snaps);
    put_be64(h + 64, s->snap_off);
    if (s->version < 3)
        return;
    put_be64(h + 72, s->incompat);
    put_be64(h + 80, s->compat);
    put_be64(h + 88, s->autoclear);
    put_be32(h + 96, s->refcount_order);
    put_be32(h + 100, Q2_HEADER_LEN);
    h[104] = s->zstd;
}

static void out_extensions(struct blk_node *n, struct out *o)
{
    struct q2 *s = n->priv;

    if (n->backing_fmt && *n->backing_fmt && n->backing_name)
        out_ext(o, Q2_EXT_BACKING_FMT, n->backing_fmt, strlen(n->backing_fmt));
    if (s->data_name)
        out_ext(o, Q2_EXT_DATA_FILE, s->data_name, strlen(s->data_name));
    if (s->crypt_len) {
        uint8_t b[16];

        put_be64(b, s->crypt_off);
        put_be64(b + 8, s->crypt_len);
        out_ext(o, Q2_EXT_CRYPTO, b, sizeof b);
    }
    if (s->version >= 3)
        out_features(o);
    if (s->nr_bm) {
        uint8_t b[24] = {0};

        put_be32(b, s->nr_bm);
        put_be64(b + 8, s->bm_dir_size);
        put_be64(b + 16, s->bm_dir_off);
        out_ext(o, Q2_EXT_BITMAPS, b, sizeof b);
    }
    for (struct q2_unknown_ext *u = s->unknown; u; u = u->next)
        out_ext(o, u->type, u->data, u->len);
    out_ext(o, Q2_EXT_END, NULL, 0);
}

int q2_write_header(struct blk_node *n)
{
    struct q2 *s = n->priv;
    struct out o = {.p = try_alloc(1, s->cs), .cap = s->cs};
    int r;

    if (!o.p)
        return -ENOMEM;
    o.len = s->version < 3 ? Q2_HEADER_V2 : Q2_HEADER_LEN;
    out_fields(n, o.p);
    out_extensions(n, &o);
    if (n->backing_name) {
        size_t len = strlen(n->backing_name);

        if (o.len + len > o.cap || len > 1023)
            o.full = true;
        else {
            put_be64(o.p + 8, o.len);
            put_be32(o.p + 16, (uint32_t)len);
            memcpy(o.p + o.len, n->backing_name, len);
            o.len += len;
        }
    }
    r = o.full ? -ENOSPC : blk_pwrite(n->file, 0, o.p, (size_t)min_u64(align_up(o.len, 512), s->cs));
    free(o.p);
    return r;
}

/* ---- parsing ---- */

static int q2_probe(const uint8_t *b, size_t len, const char *filename)
{
    return len >= 8 && get_be32(b) == Q2_MAGIC && get_be32(b + 4) >= 2 ? 100 : 0;
}

static bool unknown_features(struct q2 *s, uint64_t bits, const uint8_t *table, size_t len, struct err **errp)
{
    struct strbuf t = {0};
    char *text AUTOFREE = NULL;

    for (unsigned b = 0; b < 64; b++) {
        const char *name = NULL;

        if (!(bits >> b & 1))
            continue;
        for (size_t i = 0; table && i + 48 <= len; i += 48)
            if (!table[i] && table[i + 1] == b)
                name = (const char *)table + i + 2;
        if (t.len)
            str_add(&t, ", ");
        if (name)
            str_addf(&t, "%.46s", name);
        else
            str_addf(&t, "Unknown incompatible feature: %" PRIx64, UINT64_C(1) << b);
    }
    text = str_take(&t);
    return err_set(errp, "Unsupported qcow2 feature(s): %s", text);
}

static bool parse_ext(struct blk_node *n, const uint8_t *h, uint32_t at, uint32_t end, struct err **errp)
{
    struct q2 *s = n->priv;
    uint64_t odd = s->incompat & ~(uint64_t)Q2_INC_KNOWN;
    const uint8_t *table = NULL;
    size_t table_len = 0;

    while (at + 8 <= end) {
        uint32_t type = get_be32(h + at), len = get_be32(h + at + 4);
        const uint8_t *d = h + at + 8;

        if (type == Q2_EXT_END)
            break;
        if (len > end - at - 8)
            return err_set(errp, "Header extension too large");
        at += 8 + ((len + 7) & ~7u);
        if (type == (uint32_t)Q2_EXT_BACKING_FMT) {
            free(n->backing_fmt);
            n->backing_fmt = xstrndup((const char *)d, len);
        } else if (type == Q2_EXT_FEATURES) {
            table = d;
            table_len = len;
        } else if (type == Q2_EXT_DATA_FILE) {
            free(s->data_name);
            s->data_name = xstrndup((const char *)d, len);
        } else if (type == Q2_EXT_BITMAPS && len >= 24) {
            s->nr_bm = get_be32(d);
            s->bm_dir_size = get_be64(d + 8);
            s->bm_dir_off = get_be64(d + 16);
        } else if (type == Q2_EXT_CRYPTO && len >= 16) {
            s->crypt_off = get_be64(d);
            s->crypt_len = get_be64(d + 8);
        } else {
            struct q2_unknown_ext *u = xnew(struct q2_unknown_ext);

            u->type = type;
            u->len = len;
            u->data = xmalloc(len ? len : 1);
            memcpy(u->data, d, len);
            u->next = s->unknown;
            s->unknown = u;
        }
    }
    return odd ? unknown_features(s, odd, table, table_len, errp) : true;
}

static bool parse_geometry(struct blk_node *n, const uint8_t *h, struct err **errp)
{
    struct q2 *s = n->priv;
    uint64_t per, need;

    s->version = get_be32(h + 4);
    s->cluster_bits = get_be32(h + 20);
    if (get_be32(h) != Q2_MAGIC)
        return err_set(errp, "Image is not in qcow2 format");
    if (s->version != 2 && s->version != 3)
        return err_set(errp, "Unsupported qcow2 version %" PRIu32, s->version);
    if (s->cluster_bits < Q2_MIN_BITS || s->cluster_bits > Q2_MAX_BITS)
        return err_set(errp, "Unsupported cluster size: 2^%" PRIu32, s->cluster_bits);
    s->cs = UINT64_C(1) << s->cluster_bits;
    s->header_len = Q2_HEADER_V2;
    s->refcount_order = 4;
    if (s->version >= 3) {
        s->incompat = get_be64(h + 72);
        s->compat = get_be64(h + 80);
        s->autoclear = get_be64(h + 88);
        s->refcount_order = get_be32(h + 96);
        s->header_len = get_be32(h + 100);
        if (s->header_len < Q2_HEADER_V3)
            return err_set(errp, "qcow2 header too short");
        if (s->header_len > s->cs)
            return err_set(errp, "qcow2 header exceeds cluster size");
        if (s->header_len > 104)
            s->zstd = h[104] == 1;
        if (s->header_len > 104 && h[104] > 1)
            return err_set(errp, "qcow2: unknown compression type: %u", h[104]);
    }
    if (s->refcount_order > 6)
        return err_set(errp, "Reference count entry width too large; may not exceed 64 bits");
    s->ext_l2 = s->incompat & Q2_INC_EXTL2;
    if (s->ext_l2 && s->cluster_bits < 14)
        return err_set(errp, "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
    s->entry_size = s->ext_l2 ? 16 : 8;
    s->l2_bits = s->cluster_bits - (s->ext_l2 ? 4 : 3);
    s->sc = s->ext_l2 ? s->cs / 32 : s->cs;
    s->csize_shift = 62 - (s->cluster_bits - 8);
    s->csize_mask = (UINT64_C(1) << (s->cluster_bits - 8)) - 1;
    s->coff_mask = (UINT64_C(1) << s->csize_shift) - 1;
    n->size = get_be64(h + 24);
    s->crypt_method = get_be32(h + 32);
    s->l1_size = get_be32(h + 36);
    s->l1_off = get_be64(h + 40);
    s->reftable_off = get_be64(h + 48);
    s->reftable_clusters = get_be32(h + 56);
    s->nr_snaps = get_be32(h + 60);
    s->snap_off = get_be64(h + 64);
    if (n->size > INT64_MAX - (INT64_C(1) << 40))
        return err_set(errp, "Image is too big");
    if (s->reftable_clusters * s->cs > Q2_MAX_REFTABLE || !s->reftable_clusters)
        return err_set(errp, s->reftable_clusters ? "Reference count table too large"
                                                  : "Image does not contain a reference count table");
    if ((s->reftable_off & (s->cs - 1)) || s->reftable_off > INT64_MAX / 2)
        return err_set(errp, "Invalid reference count table offset");
    per = UINT64_C(1) << (s->cluster_bits + s->l2_bits);
    need = div_up(n->size, per);
    if ((uint64_t)s->l1_size * 8 > Q2_MAX_L1)
        return err_set(errp, "Active L1 table too large");
    if (s->l1_size < need)
        return err_set(errp, "L1 table is too small");
    if ((s->l1_off & (s->cs - 1)) || s->l1_off > INT64_MAX / 2 || (s->l1_size && !s->l1_off))
        return err_set(errp, "Active L1 table offset invalid");
    s->vm_l1_index = need;
    return true;
}

static bool parse_backing(struct blk_node *n, const uint8_t *h, size_t have, struct err **errp)
{
    struct q2 *s = n->priv;
    uint64_t off = get_be64(h + 8);
    uint32_t len = get_be32(h + 16);

    if (!off)
        return true;
    if (off > s->cs || off < s->header_len)
        return err_set(errp, "Invalid backing file offset");
    if (len > 1023 || len > s->cs - off || off + len > have)
        return err_set(errp, "Backing file name too long");
    if (memchr(h + off, 0, len))
        return err_set(errp, "Backing file name is invalid");
    n->backing_name = xstrndup((const char *)h + off, len);
    return true;
}

static bool read_table(struct blk_node *n, uint64_t off, uint64_t nr, uint64_t **out, const char *what,
                       struct err **errp)
{
    uint64_t *t = try_alloc(nr ? nr : 1, 8);
    int r = t ? blk_pread(n->file, off, t, nr * 8) : -ENOMEM;

    *out = t;
    if (r < 0)
        return err_set_errno(errp, -r, "Could not read %s", what);
    for (uint64_t i = 0; i < nr; i++)
        t[i] = be64toh(t[i]);
    return true;
}

/* ---- life cycle ---- */

static void q2_release(struct blk_node *n)
{
    struct q2 *s = n->priv;

    q2_crypt_close(s);
    q2_snaps_release(s);
    q2_bitmaps_release(s);
    q2_cache_free(&s->l2c);
    q2_cache_free(&s->refc);
    while (s->unknown) {
        struct q2_unknown_ext *u = s->unknown;

        s->unknown = u->next;
        free(u->data);
        free(u);
    }
    free(s->data_name);
    free(s->l1);
    free(s->l1_dirty);
    free(s->reftable);
    free(s->drops);
    free(s->meta);
    free(s->comp_cache);
}

static bool open_data_file(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;
    char *path AUTOFREE = NULL;
    unsigned flags =
        (n->open_flags & (BLK_O_RDWR | BLK_O_DIRECT | BLK_O_NO_FLUSH | BLK_O_SHARE)) | BLK_O_PROTOCOL | BLK_O_UNMAP;

    s->data = n->file;
    s->ext_data = s->incompat & Q2_INC_DATA_FILE;
    s->data_raw = s->ext_data && s->autoclear & Q2_AUTO_RAW;
    if (!s->ext_data) {
        if (opts_peek(o, "data-file") || opts_peek(o, "data-file.driver"))
            return err_set(errp, "'data-file' can only be set for images with an external data file");
        return true;
    }
    if (n->open_flags & BLK_O_NO_IO)
        return true;
    if (s->data_name)
        path = blk_path_combine(blk_node_filename(n->file->node), s->data_name);
    s->data = blk_child_open(n, path, o, "data-file", flags | (path ? BLK_O_FROM_IMAGE : 0), false, errp);
    if (!s->data) {
        s->data = n->file;
        err_prefix(errp, "Could not open the external data file: ");
        return false;
    }
    return true;
}

static bool q2_repair_dirty(struct blk_node *n, struct err **errp)
{
    struct q2 *s = n->priv;
    struct blk_check c = {0};
    int r = q2_check(n, &c, BLK_FIX_LEAKS | BLK_FIX_ERRORS);

    if (r < 0 || c.errors || c.corruptions > c.corruptions_fixed)
        return err_set(errp, "Could not repair dirty image");
    s->incompat &= ~(uint64_t)Q2_INC_DIRTY;
    r = q2_write_header(n);
    return r < 0 ? err_set_errno(errp, -r, "Could not clear the dirty bit") : true;
}

/* What opening for writing needs beyond reading. */
static bool start_writing(struct blk_node *n, struct err **errp)
{
    struct q2 *s = n->priv;
    int r = 0;

    if (s->incompat & Q2_INC_CORRUPT && !(n->open_flags & BLK_O_CHECK))
        return err_set(errp, "qcow2: Image is corrupt; cannot be opened read/write");
    if (!q2_meta_build(n))
        return err_set(errp, "qcow2: no memory");
    if (s->incompat & Q2_INC_DIRTY && !(n->open_flags & BLK_O_CHECK) && !q2_repair_dirty(n, errp))
        return false;
    if (s->autoclear & ~(uint64_t)(Q2_AUTO_BITMAPS | Q2_AUTO_RAW)) {
        s->autoclear &= Q2_AUTO_BITMAPS | Q2_AUTO_RAW; /* features we do not keep up to date */
        r = q2_write_header(n);
    }
    if (r >= 0 && s->autoclear & Q2_AUTO_BITMAPS && !(n->open_flags & BLK_O_CHECK))
        return q2_bitmaps_load(n, errp);
    return r < 0 ? err_set_errno(errp, -r, "qcow2: Could not update the header") : true;
}

/* Who reads sees the bitmaps too: to copy them, to serve them. */
static bool read_bitmaps(struct blk_node *n, struct err **errp)
{
    struct q2 *s = n->priv;

    return !(s->autoclear & Q2_AUTO_BITMAPS) || n->open_flags & (BLK_O_CHECK | BLK_O_NO_IO) || q2_bitmaps_load(n, errp);
}

static bool q2_load(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;
    uint8_t *h AUTOFREE = try_alloc(1, 1 << Q2_MAX_BITS);
    uint64_t have = min_u64(n->file->node->size, 1 << 16), ext_end;
    int r;

    if (!h)
        return err_set(errp, "no memory");
    if (have < Q2_HEADER_V2)
        return err_set(errp, "Image is not in qcow2 format");
    r = blk_pread(n->file, 0, h, have);
    if (r < 0)
        return err_set_errno(errp, -r, "Could not read qcow2 header");
    if (!parse_geometry(n, h, errp))
        return false;
    if (s->cs > have && n->file->node->size > have) {
        have = min_u64(n->file->node->size, s->cs);
        r = blk_pread(n->file, 0, h, have);
        if (r < 0)
            return err_set_errno(errp, -r, "Could not read qcow2 header");
    }
    ext_end = get_be64(h + 8) ? min_u64(get_be64(h + 8), min_u64(s->cs, have)) : min_u64(s->cs, have);
    if (s->header_len > have)
        return err_set(errp, "qcow2 header too short");
    if (!parse_ext(n, h, s->header_len, (uint32_t)ext_end, errp) || !parse_backing(n, h, have, errp))
        return false;
    if (!q2_crypt_open(n, o, errp))
        return false;
    if (!open_data_file(n, o, errp) || !q2_take_opts(n, o, errp))
        return false;
    s->nr_reftable = s->reftable_clusters * s->cs / 8;
    s->l1_dirty = try_alloc(s->l1_size / 64 + 1, 1);
    if (!s->l1_dirty)
        return err_set(errp, "no memory");
    if (!read_table(n, s->l1_off, s->l1_size, &s->l1, "L1 table", errp) ||
        !read_table(n, s->reftable_off, s->nr_reftable, &s->reftable, "refcount table", errp))
        return false;
    if (!q2_snaps_read(n, errp) || !q2_bitmaps_read_dir(n, errp))
        return n->open_flags & BLK_O_CHECK && !(n->open_flags & BLK_O_RDWR) ? false : false;
    return true;
}

/* ---- the mark of an overlay that was merged away ---- */

static int q2_flush(struct blk_node *n);

static struct q2_unknown_ext **merged_ext(struct q2 *s)
{
    struct q2_unknown_ext **u = &s->unknown;

    while (*u && (*u)->type != Q2_EXT_MERGED)
        u = &(*u)->next;
    return u;
}

/* The file it was merged into, NULL = it was not. Owned by the caller; only what a terminal can take. */
static char *merged_into(struct q2 *s)
{
    const struct q2_unknown_ext *u = *merged_ext(s);

    if (!u || !u->len || u->len > 1023)
        return NULL;
    for (uint32_t i = 0; i < u->len; i++)
        if (u->data[i] < 0x20 || u->data[i] == 0x7f)
            return NULL;
    return xstrndup((const char *)u->data, u->len);
}

static void drop_ext(struct q2_unknown_ext **at)
{
    struct q2_unknown_ext *u = *at;

    *at = u->next;
    free(u->data);
    free(u);
}

static int q2_mark_merged(struct blk_node *n, const char *into)
{
    struct q2 *s = n->priv;
    struct q2_unknown_ext *u;
    int r;

    if (*merged_ext(s))
        drop_ext(merged_ext(s));
    if (into) {
        u = xnew(struct q2_unknown_ext);
        *u = (struct q2_unknown_ext){.type = Q2_EXT_MERGED, .len = (uint32_t)min_u64(strlen(into), 1023)};
        u->data = (uint8_t *)xstrndup(into, u->len);
        u->next = s->unknown;
        s->unknown = u;
    }
    r = q2_flush(n);
    if (r >= 0)
        r = q2_write_header(n);
    if (r < 0 && into)
        drop_ext(merged_ext(s));
    return r;
}

static void warn_of_merge(struct blk_node *n)
{
    char *into AUTOFREE = merged_into(n->priv);

    if (into)
        warn_report("image '%s' was merged into '%s' and has been out of date since; use that one",
                    blk_node_filename(n->file->node), into);
}

static bool q2_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;

    list_init(&s->busy);
    fibre_mutex_init(&s->lock);
    if (!q2_load(n, o, errp)) {
        q2_release(n);
        return false;
    }
    n->cluster_size = (uint32_t)s->cs;
    n->discard_align = (uint32_t)s->cs;
    n->zero_align = (uint32_t)s->sc;
    n->dirty_flag = s->incompat & Q2_INC_DIRTY;
    s->corrupt = s->incompat & Q2_INC_CORRUPT && !(n->open_flags & BLK_O_CHECK);
    if (n->open_flags & BLK_O_RDWR ? !start_writing(n, errp) : !read_bitmaps(n, errp)) {
        q2_release(n);
        return false;
    }
    if (n->open_flags & BLK_O_RDWR)
        warn_of_merge(n);
    q2_cleaner_start(n);
    return true;
}

static bool has_persistent(const struct blk_node *n)
{
    struct blk_bitmap *b;

    list_each (b, &n->bitmaps, link)
        if (b->persistent && b->name && !b->stored)
            return true;
    return false;
}

/* The file ends where its last cluster does: some readers take what is missing from that cluster for anything but
 * zeros. Only when nothing is in flight: whoever grows the file by its size alone could cut off what another has just
 * written. */
static void round_end(struct blk_node *n)
{
    struct q2 *s = n->priv;
    struct blk_node *f = n->file->node;
    uint64_t end = blk_node_length(f);

    if (f->growable && end & (s->cs - 1) && end < INT64_MAX - s->cs)
        blk_node_truncate(f, align_up(end, s->cs), BLK_PREALLOC_OFF, NULL);
}

static int q2_inactivate(struct blk_node *n)
{
    struct q2 *s = n->priv;
    int r, e = 0;

    fibre_mutex_lock(&s->lock);
    q2_quiet(n);
    if (s->bm_loaded || has_persistent(n))
        e = q2_bitmaps_store(n);
    r = q2_commit(n, true);
    for (int i = 0; i < 4 && r >= 0 && (s->nr_drops || s->refc.nr_dirty); i++)
        r = q2_commit(n, true); /* lowered refcounts go out one round after the drops */
    if (r >= 0)
        round_end(n);
    fibre_mutex_unlock(&s->lock);
    return r < 0 ? r : e;
}

static void inactivate_run(void *opaque)
{
    q2_inactivate(opaque);
}

static void q2_close(struct blk_node *n)
{
    q2_cleaner_stop(n->priv);
    q2_release(n);
}

static int q2_inactivate_any(struct blk_node *n)
{
    blk_run(n->set, inactivate_run, n);
    return 0;
}

static bool q2_reopen(struct blk_node *n, bool rw, struct err **errp)
{
    return !rw || start_writing(n, errp);
}

static int q2_flush(struct blk_node *n)
{
    struct q2 *s = n->priv;
    int r;

    fibre_mutex_lock(&s->lock);
    r = q2_commit(n, true);
    fibre_mutex_unlock(&s->lock);
    return r;
}

/* ---- requests ---- */

static int q2_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    return q2_read(n, off, len, q, qoff);
}
static int q2_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    return q2_write(n, off, len, q, qoff);
}
static int q2_pdiscard(struct blk_node *n, uint64_t off, uint64_t len)
{
    return q2_discard(n, off, len, false);
}

static int q2_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    struct q2 *s = n->priv;
    struct q2_run run;
    uint64_t done = 0;
    int r;

    *e = (struct blk_extent){0};
    while (done < len) { /* runs of equal meaning are joined across tables */
        struct blk_extent x = {0};

        r = q2_map(n, off + done, len - done, &run);
        if (r < 0)
            return r;
        switch (run.kind) {
        case Q2K_UNALLOC:
            break;
        case Q2K_ZERO:
            x.flags = BLK_ST_ZERO | BLK_ST_ALLOC;
            break;
        case Q2K_COMPRESSED:
            x.flags = BLK_ST_DATA | BLK_ST_ALLOC | BLK_ST_COMPRESSED;
            break;
        default:
            x.flags = BLK_ST_DATA | BLK_ST_ALLOC | BLK_ST_OFFSET | BLK_ST_RECURSE;
        }
        if (run.kind == Q2K_ZERO && run.has_host)
            x.flags |= BLK_ST_OFFSET;
        if (x.flags & BLK_ST_OFFSET) {
            x.map = run.host;
            x.map_node = s->data->node;
        }
        if (!done)
            *e = x;
        else if (x.flags != e->flags || (x.flags & BLK_ST_OFFSET && x.map != e->map + done))
            break;
        done += run.len;
    }
    e->len = min_u64(done, len);
    return 0;
}

static int q2_truncate_steps(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    struct q2 *s = n->priv;
    uint64_t old = n->size, need = div_up(size, UINT64_C(1) << (s->cluster_bits + s->l2_bits));
    int r = 0;

    if (size & 511) {
        err_set(errp, "The new size must be a multiple of 512");
        return -EINVAL;
    }
    if (s->nr_snaps && s->version < 3) {
        err_set(errp, "Can't resize a v2 image which has snapshots");
        return -ENOTSUP;
    }
    if (need * 8 > Q2_MAX_L1) {
        err_set(errp, "The image size is too large for its cluster size");
        return -EFBIG;
    }
    if (size < old) {
        if (p != BLK_PREALLOC_OFF) {
            err_set(errp, "Preallocation can only be used for growing images");
            return -EINVAL;
        }
        if (align_up(size, s->cs) < align_up(old, s->cs))
            r = q2_discard(n, align_up(size, s->cs), align_up(old, s->cs) - align_up(size, s->cs), true);
    } else {
        fibre_mutex_lock(&s->lock);
        r = q2_grow_l1(n, need, true);
        fibre_mutex_unlock(&s->lock);
    }
    if (r >= 0) {
        n->size = size;
        s->vm_l1_index = need;
        fibre_mutex_lock(&s->lock);
        r = q2_commit(n, true);
        if (r >= 0)
            r = q2_write_header(n);
        fibre_mutex_unlock(&s->lock);
        if (r < 0)
            n->size = old;
    }
    if (r >= 0 && s->ext_data && s->data_raw)
        r = blk_node_truncate(s->data->node, size, BLK_PREALLOC_OFF, errp);
    return r;
}

/* What lies between the old end and the new one must read as zeros: the tail of the last cluster, and whatever a longer
 * backing file would show. */
static int zero_new_part(struct blk_node *n, uint64_t old, uint64_t size)
{
    struct q2 *s = n->priv;
    uint64_t edge = min_u64(size, align_up(old, s->cs));
    struct q2_run run;
    int r = 0;

    if (edge > old) {
        r = q2_map(n, old, edge - old, &run);
        if (r >= 0 && (run.kind != Q2K_UNALLOC || n->backing)) {
            uint8_t *z AUTOFREE = try_alloc(1, edge - old);
            struct iovec v = {z, edge - old};
            struct iov q;

            iov_init_ext(&q, &v, 1);
            r = z ? q2_write(n, old, edge - old, &q, 0) : -ENOMEM;
        }
    }
    if (r >= 0 && n->backing && n->backing->node->size > edge && size > edge)
        r = q2_zeroes(n, edge, min_u64(size, align_up(n->backing->node->size, s->cs)) - edge, 0);
    return r;
}

static int q2_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    uint64_t old = n->size;
    int r = q2_truncate_steps(n, size, p, errp);

    if (r >= 0 && size > old)
        r = zero_new_part(n, old, size);
    if (r >= 0 && size > old && p != BLK_PREALLOC_OFF) {
        r = q2_prealloc(n, old, size, p);
        if (r >= 0)
            r = q2_flush(n);
    }
    if (r < 0 && errp && !*errp)
        err_set_errno(errp, -r, "Failed to resize the image");
    return r;
}

/* ---- description ---- */

static struct json_object *q2_info(struct blk_node *n)
{
    struct q2 *s = n->priv;
    char *into AUTOFREE = merged_into(s);
    struct json_object *d =
        json_make("s:compat", s->version >= 3 ? "1.1" : "0.10", "s:compression-type", s->zstd ? "zstd" : "zlib", NULL);

    if (s->version >= 3) {
        json_object_object_add(d, "lazy-refcounts", json_object_new_boolean(!!(s->compat & Q2_COMPAT_LAZY)));
        json_object_object_add(d, "refcount-bits", json_object_new_int(1 << s->refcount_order));
        json_object_object_add(d, "corrupt", json_object_new_boolean(!!(s->incompat & Q2_INC_CORRUPT)));
        json_object_object_add(d, "extended-l2", json_object_new_boolean(s->ext_l2));
    } else {
        json_object_object_add(d, "refcount-bits", json_object_new_int(1 << s->refcount_order));
    }
    if (s->ext_data) {
        if (s->data_name)
            json_object_object_add(d, "data-file", json_object_new_string(s->data_name));
        json_object_object_add(d, "data-file-raw", json_object_new_boolean(s->data_raw));
    }
    if (s->crypt_method) {
        struct json_object *e = s->luks ? luks_info(s->luks) : json_object_new_object();

        json_object_object_add(e, "format", json_object_new_string(s->luks ? "luks" : "aes"));
        json_object_object_add(d, "encrypt", e);
    }
    if (s->nr_bm)
        json_object_object_add(d, "bitmaps", q2_bitmaps_info(n));
    if (into)
        json_object_object_add(d, "merged-into", json_object_new_string(into));
    return json_make("s:type", "qcow2", "o:data", d, NULL);
}

static int q2_change_backing(struct blk_node *n, const char *file, const char *fmt)
{
    struct q2 *s = n->priv;
    char *old = n->backing_name, *old_fmt = n->backing_fmt;
    int r;

    if (file && strlen(file) > 1023)
        return -EINVAL;
    n->backing_name = file && *file ? xstrdup(file) : NULL;
    n->backing_fmt = fmt && *fmt ? xstrdup(fmt) : NULL;
    r = q2_flush(n);
    if (r >= 0)
        r = q2_write_header(n);
    if (r < 0) {
        free(n->backing_name);
        free(n->backing_fmt);
        n->backing_name = old;
        n->backing_fmt = old_fmt;
        return r;
    }
    free(old);
    free(old_fmt);
    if (*merged_ext(s)) /* whoever gives it another base uses it again */
        q2_mark_merged(n, NULL);
    return 0;
}

static int q2_make_empty(struct blk_node *n)
{
    int r = n->size ? q2_discard(n, 0, n->size, true) : 0;

    return r < 0 ? r : q2_flush(n);
}

static int q2_vmstate(struct blk_node *n, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff, bool save)
{
    struct q2 *s = n->priv;
    uint64_t base = s->vm_l1_index << (s->cluster_bits + s->l2_bits);

    return save ? q2_write(n, base + pos, len, q, qoff) : q2_read(n, base + pos, len, q, qoff);
}

static int q2_save_vmstate(struct blk_node *n, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff)
{
    return q2_vmstate(n, pos, len, q, qoff, true);
}
static int q2_load_vmstate(struct blk_node *n, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff)
{
    return q2_vmstate(n, pos, len, q, qoff, false);
}

/* ---- creation ---- */

struct create {
    uint64_t size, cs, refcount_bits;
    unsigned version, cluster_bits, refcount_order;
    bool lazy, ext_l2, data_raw, zstd;
    enum blk_prealloc prealloc;
    const char *backing, *backing_fmt, *data_file;
    bool luks, aes;
    uint8_t *crypt_head; /* owned by q2_create: the LUKS header */
    size_t crypt_len;
};

static bool parse_create(struct opts *o, struct create *c, struct err **errp)
{
    const char *v = opts_get(o, "compat"), *comp = opts_get(o, "compression_type"), *enc = opts_get(o, "encryption"),
               *ef = opts_get(o, "encrypt.format");
    bool crypt = false;

    *c = (struct create){.version = 3, .cs = 65536, .refcount_bits = 16};
    if (v && (!strcmp(v, "0.10") || !strcmp(v, "v2")))
        c->version = 2;
    else if (v && strcmp(v, "1.1") != 0 && strcmp(v, "v3") != 0)
        return err_set(errp, "Parameter 'version' does not accept value '%s'", v);
    if (!opts_size(o, "size", &c->size, errp) || !opts_size(o, "cluster_size", &c->cs, errp) ||
        !opts_u64(o, "refcount_bits", &c->refcount_bits, errp) || !opts_bool(o, "lazy_refcounts", &c->lazy, errp) ||
        !opts_bool(o, "extended_l2", &c->ext_l2, errp) || !opts_bool(o, "data_file_raw", &c->data_raw, errp) ||
        !blk_prealloc_parse(o, &c->prealloc, errp))
        return false;
    if (enc && !str_to_bool(enc, &crypt))
        return err_set(errp, "Parameter 'encryption' expects 'on' or 'off'");
    if (enc && ef)
        return err_set(errp, "Options encryption and encrypt.format are mutually exclusive");
    if (ef && strcmp(ef, "luks") != 0 && strcmp(ef, "aes") != 0)
        return err_set(errp, "Parameter 'encrypt.format' does not accept value '%s'", ef);
    c->luks = ef && !strcmp(ef, "luks");
    c->aes = crypt || (ef && !c->luks);
    if (comp && strcmp(comp, "zlib") != 0 && strcmp(comp, "zstd") != 0)
        return err_set(errp, "Parameter 'compression-type' does not accept value '%s'", comp);
    c->zstd = comp && !strcmp(comp, "zstd");
    if (!is_pow2(c->cs) || c->cs < 512 || c->cs > 2 * MIB)
        return err_set(errp, "Cluster size must be a power of two between 512 and 2048k");
    if (c->ext_l2 && c->cs < 16384)
        return err_set(errp, "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
    if (!is_pow2(c->refcount_bits) || c->refcount_bits > 64)
        return err_set(errp, "Refcount width must be a power of two and may not exceed 64 bits");
    if (c->version < 3 && c->refcount_bits != 16)
        return err_set(errp, "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
                             "version=v3 or greater)");
    if (c->version < 3 && (c->lazy || c->ext_l2 || c->zstd))
        return err_set(errp, "%s only supported with compatibility level 1.1 and above (use version=v3 or greater)",
                       c->lazy     ? "Lazy refcounts"
                       : c->ext_l2 ? "Extended L2 entries are"
                                   : "Non-zlib compression type is");
    c->backing = opts_get(o, "backing_file");
    c->backing_fmt = opts_get(o, "backing_fmt");
    c->data_file = opts_get(o, "data_file");
    if (c->backing && !*c->backing)
        c->backing = NULL;
    if (c->backing && c->prealloc != BLK_PREALLOC_OFF && !c->ext_l2)
        return err_set(errp, "Backing file and preallocation can only be used at the same time if extended_l2 is on");
    if (c->data_raw && !c->data_file)
        return err_set(errp, "data-file-raw requires data-file");
    if (c->data_raw && c->backing)
        return err_set(errp, "Backing file and data-file-raw cannot be used at the same time");
    if ((c->luks || c->aes) && c->prealloc == BLK_PREALLOC_METADATA)
        return err_set(errp, "preallocation=metadata cannot be used with encryption: the disk would not read as zeros");
    if (c->version < 3 && c->data_file)
        return err_set(errp, "External data files are only supported with compatibility level 1.1 and above (use "
                             "version=v3 or greater)");
    c->size = align_up(c->size, 512);
    c->cluster_bits = (unsigned)__builtin_ctzll(c->cs);
    c->refcount_order = (unsigned)__builtin_ctzll(c->refcount_bits);
    if (div_up(c->size, c->cs << (c->cluster_bits - (c->ext_l2 ? 4 : 3))) * 8 > Q2_MAX_L1)
        return err_set(errp, "Image size too large for file format (try using a larger cluster size)");
    return true;
}

/* Header, refcount table, refcount blocks, L1 table: in this order from cluster 0, written before the header. */
static int lay_out(struct blk_node *f, const struct create *c)
{
    struct blk_node fake = {.file = NULL, .size = c->size};
    uint64_t l1 = div_up(c->size, c->cs << (c->cluster_bits - (c->ext_l2 ? 4 : 3))),
             l1_cl = max_u64(div_up(l1 * 8, c->cs), 1);
    uint64_t per = c->cs * 8 >> c->refcount_order, blocks = 1, total, rt = 1, crypt_cl = div_up(c->crypt_len, c->cs);
    struct q2 s = {.version = c->version,
                   .cluster_bits = c->cluster_bits,
                   .cs = c->cs,
                   .refcount_order = c->refcount_order,
                   .zstd = c->zstd};
    struct blk_child edge = {.node = f};
    uint8_t *buf AUTOFREE = try_alloc(1, c->cs);
    int r = 0;

    while (blocks * per < 1 + rt + blocks + l1_cl + crypt_cl || rt * c->cs / 8 < blocks) {
        if (rt * c->cs / 8 < blocks)
            rt++;
        else
            blocks++;
    }
    total = 1 + rt + blocks + l1_cl + crypt_cl;
    if (!buf)
        return -ENOMEM;
    fake.priv = &s;
    fake.file = &edge;
    s.data = &edge;
    s.l1_size = (uint32_t)l1;
    s.l1_off = (1 + rt + blocks) * c->cs;
    s.reftable_off = c->cs;
    s.reftable_clusters = (uint32_t)rt;
    s.compat = c->lazy ? Q2_COMPAT_LAZY : 0;
    s.incompat =
        (c->zstd ? Q2_INC_COMPRESSION : 0) | (c->ext_l2 ? Q2_INC_EXTL2 : 0) | (c->data_file ? Q2_INC_DATA_FILE : 0);
    s.autoclear = c->data_raw ? Q2_AUTO_RAW : 0;
    s.crypt_method = c->aes ? 1 : 0;
    if (c->luks) {
        s.crypt_method = 2;
        s.crypt_off = (total - crypt_cl) * c->cs;
        s.crypt_len = c->crypt_len;
        r = blk_node_pwrite(f, s.crypt_off, c->crypt_head, c->crypt_len);
        if (r >= 0 && c->crypt_len % c->cs)
            r = blk_node_truncate(f, total * c->cs, BLK_PREALLOC_OFF, NULL);
    }
    s.data_name = (char *)(uintptr_t)c->data_file;
    fake.backing_name = (char *)(uintptr_t)c->backing;
    fake.backing_fmt = (char *)(uintptr_t)c->backing_fmt;
    for (uint64_t b = 0; b < blocks && r >= 0; b++) {
        memset(buf, 0, c->cs);
        for (uint64_t i = b * per; i < min_u64(total, (b + 1) * per); i++)
            q2_refblock_set(&s, buf, i - b * per, 1);
        r = blk_node_pwrite(f, (1 + rt + b) * c->cs, buf, c->cs);
    }
    memset(buf, 0, c->cs);
    for (uint64_t k = 0; k < l1_cl && r >= 0; k++)
        r = blk_node_pwrite(f, s.l1_off + k * c->cs, buf, c->cs);
    for (uint64_t k = 0; k < rt && r >= 0; k++) {
        memset(buf, 0, c->cs);
        for (uint64_t b = k * c->cs / 8; b < min_u64(blocks, (k + 1) * c->cs / 8); b++)
            put_be64(buf + (b - k * c->cs / 8) * 8, (1 + rt + b) * c->cs);
        r = blk_node_pwrite(f, s.reftable_off + k * c->cs, buf, c->cs);
    }
    return r < 0 ? r : q2_write_header(&fake);
}

static bool q2_compute_measure(const struct create *c, struct blk_measure *m);

static bool preallocate(struct blk_set *set, const char *filename, const struct create *c, struct err **errp)
{
    struct blk_node *n = blk_node_open(set, filename, "qcow2", BLK_O_RDWR | BLK_O_NO_BACKING | BLK_O_UNMAP, NULL, errp);
    struct blk_measure m = {0};
    int r = 0;

    if (!n)
        return false;
    q2_compute_measure(c, &m);
    if (c->prealloc >= BLK_PREALLOC_FALLOC && !c->data_file)
        r = blk_node_truncate(n->file->node, m.full, c->prealloc, errp);
    if (r >= 0)
        r = q2_prealloc(n, 0, c->size, BLK_PREALLOC_OFF);
    if (r >= 0)
        r = q2_inactivate(n);
    blk_node_unref(n);
    return r >= 0 || (errp && *errp) ? r >= 0 : err_set_errno(errp, -r, "Could not preallocate metadata");
}

static bool make_data_file(struct blk_set *set, const char *filename, const struct create *c, struct err **errp)
{
    char *path AUTOFREE = blk_path_combine(filename, c->data_file);
    struct opts *o = opts_new();
    struct blk_node *f;
    char num[24];

    snprintf(num, sizeof num, "%" PRIu64, c->size);
    opts_set(o, "size", num);
    if (c->prealloc >= BLK_PREALLOC_FALLOC)
        opts_set(o, "preallocation", blk_prealloc_names[c->prealloc]);
    f = blk_create(set, path, "file", o, errp) ? blk_node_open(set, path, "file", BLK_O_PROTOCOL, NULL, errp) : NULL;
    opts_free(o);
    if (!f)
        return false;
    blk_node_unref(f);
    return true;
}

/* Method 1 keeps nothing about its key in the image: whatever is given now is asked for ever after. */
static bool have_key(struct blk_set *set, const char *id, struct err **errp)
{
    size_t len = 0;
    uint8_t *pass;

    if (!id)
        return err_set(errp, "Parameter 'encrypt.key-secret' is required for cipher");
    pass = blk_secret_get(set, id, &len, errp);
    if (!pass)
        return false;
    crypt_wipe(pass, len);
    free(pass);
    return true;
}

static bool q2_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    struct create c;
    struct blk_node *f;
    struct blk_child *edge;
    int r;

    if (!parse_create(o, &c, errp) || (c.data_file && !make_data_file(set, filename, &c, errp)))
        return false;
    if (c.aes && !have_key(set, opts_get(o, "encrypt.key-secret"), errp))
        return false;
    if (c.luks && !(c.crypt_head = luks_format_keyed(set, o, "encrypt.", &c.crypt_len, errp)))
        return false;
    f = blk_create_file(set, filename, 0, o, errp);
    if (!f) {
        free(c.crypt_head);
        return false;
    }
    edge = blk_child_root(f, "create", BLK_PERM_WRITE | BLK_PERM_RESIZE, BLK_PERM_ALL, errp);
    r = edge ? lay_out(f, &c) : -EBUSY;
    free(c.crypt_head);
    if (edge && r < 0)
        err_set_errno(errp, -r,
                      r == -ENOSPC ? "Could not write qcow2 header (names too long?)" : "Could not write qcow2 header");
    blk_child_detach(edge);
    blk_node_unref(f);
    return r >= 0 && (c.prealloc == BLK_PREALLOC_OFF || preallocate(set, filename, &c, errp));
}

/* ---- measure ---- */

/* Bytes of refcount structures for `clusters` other clusters. */
static uint64_t refcount_bytes(uint64_t clusters, uint64_t cs, unsigned order)
{
    uint64_t per = cs * 8 >> order, blocks = 0, table = 0, last;

    do {
        last = blocks + table;
        blocks = div_up(clusters + blocks + table, per);
        table = div_up(blocks, cs / 8);
    } while (blocks + table > last);
    return (blocks + table) * cs;
}

static bool q2_compute_measure(const struct create *c, struct blk_measure *m)
{
    unsigned esz = c->ext_l2 ? 16 : 8;
    uint64_t data = align_up(c->size, c->cs), nl2e = align_up(data / c->cs, c->cs / esz), meta = c->cs;
    uint64_t nl1e = align_up(nl2e * esz / c->cs, c->cs / 8);

    meta += nl2e * esz + nl1e * 8;
    meta += refcount_bytes((meta + data) / c->cs, c->cs, c->refcount_order);
    m->full = meta + data;
    m->required = meta;
    return true;
}

static int data_in(struct blk_node *in, uint64_t cs, uint64_t *out)
{
    *out = 0;
    for (uint64_t off = 0, until = 0; off < in->size;) {
        struct blk_extent e;
        int r = blk_node_status_above(in, NULL, off, in->size - off, &e, NULL);

        if (r < 0)
            return r;
        if (e.flags & BLK_ST_DATA && !(e.flags & BLK_ST_ZERO)) {
            uint64_t lo = max_u64(align_down(off, cs), until), hi = align_up(off + e.len, cs);

            if (hi > lo)
                *out += hi - lo;
            until = hi;
        }
        off += e.len;
    }
    return 0;
}

static bool q2_measure(struct opts *o, struct blk_node *in, struct blk_measure *m, struct err **errp)
{
    struct create c;
    uint64_t used = 0;
    int r;

    if (!parse_create(o, &c, errp))
        return false;
    if (in) {
        c.size = align_up(in->size, 512);
        r = data_in(in, c.cs, &used);
        if (r < 0)
            return err_set_errno(errp, -r, "Could not read the allocation of the image");
    }
    q2_compute_measure(&c, m);
    if (c.luks && !opts_get(o, "encrypt.key-secret"))
        return err_set(errp, "Parameter 'encrypt.key-secret' is required for cipher");
    if (c.luks) {
        m->required += align_up(luks_header_len(), c.cs);
        m->full += align_up(luks_header_len(), c.cs);
    }
    if (in && !strcmp(in->drv->name, "qcow2") && ((struct q2 *)in->priv)->version >= 3) {
        struct q2 *s = in->priv;

        m->have_bitmaps = true;
        for (uint32_t i = 0; i < s->nr_bm; i++) {
            uint64_t bits = div_up(in->size, UINT64_C(1) << s->bm[i].gran_bits), cl = div_up(div_up(bits, 8), c.cs);

            m->bitmaps += cl * c.cs + align_up(cl * 8, c.cs);
        }
        if (s->nr_bm)
            m->bitmaps += align_up(s->bm_dir_size, c.cs);
    }
    m->required += c.prealloc >= BLK_PREALLOC_FALLOC ? align_up(c.size, c.cs) : used;
    return true;
}

/* ---- amend ---- */

/* Version 2 has no zero flag, no bitmaps and one width of refcounts. */
static bool may_downgrade(struct blk_node *n, bool lazy, struct err **errp)
{
    struct q2 *s = n->priv;
    int r = 0;

    if (lazy || s->incompat || s->refcount_order != 4 || s->nr_bm)
        return err_set(errp, "Cannot downgrade: the image uses features of version 3");
    for (uint64_t off = 0; off < n->size && r >= 0;) {
        struct q2_run run;

        r = q2_map(n, off, n->size - off, &run);
        if (r >= 0 && run.kind == Q2K_ZERO)
            return err_set(errp, "Cannot downgrade an image with zero clusters; convert it instead");
        off += run.len;
    }
    return r >= 0 || err_set_errno(errp, -r, "Cannot downgrade: the tables cannot be read");
}

/* Options that name what the image has already may be repeated; the others are of creation only. */
static bool only_amendable(struct blk_node *n, struct opts *o, struct err **errp)
{
    static const char *const fixed[] = {"cluster_size", "compression_type", "preallocation",    "encryption", "nocow",
                                        "extended_l2",  "encrypt.format",   "extent_size_hint", NULL};
    struct q2 *s = n->priv;
    const char *bf = opts_get(o, "backing_file"), *fmt = opts_get(o, "backing_fmt");

    for (unsigned i = 0; fixed[i]; i++)
        if (opts_peek(o, fixed[i])) {
            err_set(errp, "Invalid parameter '%s'", fixed[i]);
            err_hint(errp, "This option is only supported for image creation");
            return false;
        }
    if ((bf && strcmp(bf, n->backing_name ? n->backing_name : "") != 0) ||
        (fmt && strcmp(fmt, n->backing_fmt ? n->backing_fmt : "") != 0)) {
        err_set(errp, "Cannot amend the backing file");
        err_hint(errp, "You can use 'qemu-img rebase' instead.");
        return false;
    }
    if (opts_peek(o, "data_file") && !s->ext_data)
        return err_set(errp, "data-file can only be set for images that use an external data file");
    return true;
}

static bool amend_data_file(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;
    const char *name = opts_get(o, "data_file");
    bool raw = s->data_raw;

    if (!opts_bool(o, "data_file_raw", &raw, errp))
        return false;
    if (raw && !s->data_raw)
        return err_set(errp, "data-file-raw cannot be set on existing images");
    if (name) {
        free(s->data_name);
        s->data_name = *name ? xstrdup(name) : NULL;
    }
    s->data_raw = raw;
    if (!raw)
        s->autoclear &= ~(uint64_t)Q2_AUTO_RAW;
    return true;
}

static bool q2_amend(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;
    const char *v = opts_get(o, "compat");
    bool lazy = s->compat & Q2_COMPAT_LAZY;
    uint64_t size = n->size, bits = 1u << s->refcount_order;
    unsigned version = v ? (!strcmp(v, "0.10") || !strcmp(v, "v2") ? 2 : 3) : s->version;
    int r = 0;

    if (v && strcmp(v, "0.10") && strcmp(v, "v2") && strcmp(v, "1.1") && strcmp(v, "v3"))
        return err_set(errp, "Unknown compatibility level %s", v);
    if (!opts_bool(o, "lazy_refcounts", &lazy, errp) || !opts_size(o, "size", &size, errp) ||
        !opts_u64(o, "refcount_bits", &bits, errp) || !only_amendable(n, o, errp))
        return false;
    if (!is_pow2(bits) || bits > 64)
        return err_set(errp, "Refcount width must be a power of two and may not exceed 64 bits");
    if (version < 3 && bits != 16)
        return err_set(errp, "Refcount widths other than 16 bits require compatibility level 1.1 or above (use "
                             "compat=1.1 or greater)");
    if (version < 3 && lazy)
        return err_set(errp, "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or "
                             "greater)");
    if (!amend_data_file(n, o, errp) || !opts_done(o, "qcow2 amend", NULL, errp))
        return false;
    if (bits < 1u << s->refcount_order && !q2_change_refcount_bits(n, (unsigned)__builtin_ctzll(bits), errp))
        return false;
    if (version < s->version && !may_downgrade(n, lazy, errp))
        return false;
    s->version = version;
    s->compat = lazy && version >= 3 ? s->compat | Q2_COMPAT_LAZY : s->compat & ~(uint64_t)Q2_COMPAT_LAZY;
    r = q2_write_header(n);
    if (r >= 0 && bits > 1u << s->refcount_order && !q2_change_refcount_bits(n, (unsigned)__builtin_ctzll(bits), errp))
        return false;
    if (r >= 0 && size != n->size)
        r = blk_node_truncate(n, size, BLK_PREALLOC_OFF, errp);
    return r >= 0 || (errp && *errp) ? r >= 0 : err_set_errno(errp, -r, "Failed to update the qcow2 header");
}

static const struct blk_create_opt q2_create_opts[] = {
    {"backing_file", "str", "File name of a base image", NULL},
    {"backing_fmt", "str", "Image format of the base image", NULL},
    {"cluster_size", "size", "qcow2 cluster size", "65536"},
    {"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])", NULL},
    {"compression_type", "str", "Compression method used for image cluster compression", "zlib"},
    {"data_file", "str", "File name of an external data file", NULL},
    {"data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image", NULL},
    {"encrypt.cipher-alg", "str", "Name of encryption cipher algorithm", NULL},
    {"encrypt.cipher-mode", "str", "Name of encryption cipher mode", NULL},
    {"encrypt.format", "str", "Encrypt the image, format choices: 'aes', 'luks'", NULL},
    {"encrypt.hash-alg", "str", "Name of encryption hash algorithm", NULL},
    {"encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds", NULL},
    {"encrypt.ivgen-alg", "str", "Name of IV generator algorithm", NULL},
    {"encrypt.ivgen-hash-alg", "str", "Name of IV generator hash algorithm", NULL},
    {"encrypt.key-secret", "str", "ID of secret providing qcow AES key or LUKS passphrase", NULL},
    {"encryption", "bool (on/off)", "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
     NULL},
    {"extended_l2", "bool (on/off)", "Extended L2 tables", "off"},
    {"extent_size_hint", "size", "Extent size hint for the image file, 0 to disable", NULL},
    {"lazy_refcounts", "bool (on/off)", "Postpone refcount updates", "off"},
    {"nocow", "bool (on/off)", "Turn off copy-on-write (valid only on btrfs)", NULL},
    {"preallocation", "str", "Preallocation mode (allowed values: off, metadata, falloc, full)", NULL},
    {"refcount_bits", "num", "Width of a reference count entry in bits", "16"},
    {"size", "size", "Virtual disk size", NULL},
    {NULL},
};

static const struct blk_create_opt q2_amend_opts[] = {
    {"backing_file", "str", "File name of a base image", NULL},
    {"backing_fmt", "str", "Image format of the base image", NULL},
    {"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])", NULL},
    {"data_file", "str", "File name of an external data file", NULL},
    {"data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image", NULL},
    {"lazy_refcounts", "bool (on/off)", "Postpone refcount updates", NULL},
    {"refcount_bits", "num", "Width of a reference count entry in bits", NULL},
    {"size", "size", "Virtual disk size", NULL},
    {NULL},
};

static const struct blk_driver drv_qcow2 = {
    .name = "qcow2",
    .any_loop = true,
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct q2),
    .backing_ok = true,
    .known = q2_known,
    .probe = q2_probe,
    .open = q2_open,
    .close = q2_close,
    .reopen = q2_reopen,
    .inactivate = q2_inactivate_any,
    .preadv = q2_preadv,
    .pwritev = q2_pwritev,
    .pwrite_zeroes = q2_zeroes,
    .discard = q2_pdiscard,
    .pwrite_compressed = q2_write_compressed,
    .flush = q2_flush,
    .block_status = q2_status,
    .truncate = q2_truncate,
    .mark_merged = q2_mark_merged,
    .info = q2_info,
    .check = q2_check,
    .create = q2_create,
    .create_opts = q2_create_opts,
    .amend = q2_amend,
    .amend_opts = q2_amend_opts,
    .measure = q2_measure,
    .change_backing = q2_change_backing,
    .make_empty = q2_make_empty,
    .snap_create = q2_snap_create,
    .snap_goto = q2_snap_goto,
    .snap_delete = q2_snap_delete,
    .snap_list = q2_snap_list,
    .snap_load = q2_snap_load,
    .save_vmstate = q2_save_vmstate,
    .load_vmstate = q2_load_vmstate,
    .drop_vmstate = q2_vmstate_drop,
    .bitmap_store_ok = q2_bitmap_store_ok,
    .bitmap_remove = q2_bitmap_remove,
};
BLK_REGISTER(drv_qcow2)
