/* qcow2: dirty bitmaps kept in the image. While an image is open for writing its bitmaps live in memory and are marked
 * in use on disk (I8); closing writes new data, a new directory, and then the header. A bitmap found in use was not
 * closed properly: it is kept, reported as inconsistent, and never trusted. */
#include "base/json.h"
#include "blk/qcow2.h"
#include <errno.h>

enum { BM_IN_USE = 1, BM_AUTO = 2, MAX_BITMAPS = 65535, MAX_DIR = 64 << 20, MAX_TABLE = 1 << 23 };

void q2_bitmaps_release(struct q2 *s)
{
    for (uint32_t i = 0; s->bm && i < s->nr_bm; i++)
        free(s->bm[i].name);
    free(s->bm);
    s->bm = NULL;
}

bool q2_bitmaps_read_dir(struct blk_node *n, struct err **errp)
{
    struct q2 *s = n->priv;
    uint8_t *d AUTOFREE = NULL;
    uint64_t at = 0;
    int r;

    if (!s->nr_bm)
        return true;
    if (!(s->autoclear & Q2_AUTO_BITMAPS)) { /* somebody wrote without keeping them: the extension is void */
        s->nr_bm = 0;
        return true;
    }
    if (s->nr_bm > MAX_BITMAPS || s->bm_dir_size > MAX_DIR || s->bm_dir_off & (s->cs - 1) ||
        s->bm_dir_off + s->bm_dir_size > align_up(n->file->node->size, s->cs)) {
        s->nr_bm = 0;
        return err_set(errp, "bitmaps_ext: the bitmap directory is invalid");
    }
    d = try_alloc(1, s->bm_dir_size + 1);
    s->bm = try_alloc(s->nr_bm, sizeof *s->bm);
    if (!d || !s->bm) {
        free(s->bm);
        s->bm = NULL;
        s->nr_bm = 0;
        return err_set(errp, "no memory for the bitmap directory");
    }
    r = blk_pread(n->file, s->bm_dir_off, d, s->bm_dir_size);
    if (r < 0)
        return err_set_errno(errp, -r, "Could not read the bitmap directory");
    for (uint32_t i = 0; i < s->nr_bm; i++) {
        struct q2_bitmap_ref *b = &s->bm[i];
        uint64_t left = s->bm_dir_size - at, len;

        if (left < 24 || (len = 24 + get_be16(d + at + 18) + (uint64_t)get_be32(d + at + 20)) > left ||
            get_be32(d + at + 12) & ~7u || d[at + 16] != 1 || d[at + 17] < 9 || d[at + 17] > 31 ||
            get_be32(d + at + 8) > MAX_TABLE || get_be64(d + at) & (s->cs - 1)) {
            s->nr_bm = i;
            return err_set(errp, "bitmap directory entry %u is invalid", i);
        }
        b->table_off = get_be64(d + at);
        b->table_size = get_be32(d + at + 8);
        b->flags = get_be32(d + at + 12);
        b->type = d[at + 16];
        b->gran_bits = d[at + 17];
        b->name = xstrndup((const char *)d + at + 24 + get_be32(d + at + 20), get_be16(d + at + 18));
        at = min_u64(at + ((len + 7) & ~UINT64_C(7)), s->bm_dir_size);
    }
    return true;
}

static int read_bits(struct blk_node *n, const struct q2_bitmap_ref *ref, struct blk_bitmap *b)
{
    struct q2 *s = n->priv;
    uint64_t *t AUTOFREE = try_alloc(ref->table_size ? ref->table_size : 1, 8);
    uint64_t bytes = div_up(b->nr_bits, 8), per = s->cs * 8 * b->gran;
    uint8_t *buf AUTOFREE = try_alloc(1, s->cs);
    int r = t && buf ? blk_pread(n->file, ref->table_off, t, (size_t)ref->table_size * 8) : -ENOMEM;

    for (uint64_t i = 0; i < ref->table_size && i * s->cs < bytes && r >= 0; i++) {
        uint64_t e = be64toh(t[i]), nr = min_u64(s->cs, bytes - i * s->cs);

        if (e & Q2_OFF_MASK) {
            r = blk_pread(n->file, e & Q2_OFF_MASK, buf, s->cs);
            for (uint64_t k = 0; k < nr * 8 && r >= 0; k++)
                if (buf[k / 8] >> (k % 8) & 1 && i * s->cs * 8 + k < b->nr_bits)
                    blk_bitmap_set(b, (i * s->cs * 8 + k) * b->gran, b->gran);
        } else if (e & 1) {
            blk_bitmap_set(b, i * per, min_u64(per, n->size - i * per));
        }
    }
    return r;
}

static size_t dir_entry(uint8_t *p, const struct q2_bitmap_ref *b)
{
    size_t len = strlen(b->name);

    if (p) {
        put_be64(p, b->table_off);
        put_be32(p + 8, b->table_size);
        put_be32(p + 12, b->flags);
        p[16] = b->type;
        p[17] = b->gran_bits;
        put_be16(p + 18, (uint16_t)len);
        put_be32(p + 20, 0);
        memcpy(p + 24, b->name, len);
    }
    return (24 + len + 7) & ~(size_t)7;
}

/* I8: every bitmap in use, durably. In place: only flag words change. */
static int mark_in_use(struct blk_node *n)
{
    struct q2 *s = n->priv;
    uint8_t *d AUTOFREE = try_alloc(1, s->bm_dir_size + 8);
    uint64_t at = 0;
    int r = d ? blk_pread(n->file, s->bm_dir_off, d, s->bm_dir_size) : -ENOMEM;

    for (uint32_t i = 0; i < s->nr_bm && r >= 0; i++) {
        put_be32(d + at + 12, get_be32(d + at + 12) | BM_IN_USE);
        at += (24 + get_be16(d + at + 18) + (uint64_t)get_be32(d + at + 20) + 7) & ~UINT64_C(7);
    }
    if (r >= 0)
        r = blk_pwrite(n->file, s->bm_dir_off, d, s->bm_dir_size);
    return r < 0 ? r : q2_sync(n);
}

bool q2_bitmaps_load(struct blk_node *n, struct err **errp)
{
    struct q2 *s = n->priv;
    bool rw = n->open_flags & BLK_O_RDWR;
    int r = 0;

    for (uint32_t i = 0; i < s->nr_bm && r >= 0; i++) {
        struct q2_bitmap_ref *ref = &s->bm[i];
        struct blk_bitmap *b = blk_bitmap_find(n, ref->name);

        if (b && b->stored) { /* known since the image was open for reading */
            b->readonly = !rw;
            continue;
        }
        b = blk_bitmap_new(n, ref->name, UINT32_C(1) << ref->gran_bits, errp);
        if (!b)
            return false;
        b->readonly = !rw;
        b->persistent = b->stored = true;
        b->enabled = ref->flags & BM_AUTO;
        b->inconsistent = ref->flags & BM_IN_USE;
        if (b->inconsistent)
            b->enabled = false;
        else
            r = read_bits(n, ref, b);
    }
    if (r >= 0 && s->nr_bm && rw)
        r = mark_in_use(n);
    s->bm_loaded = rw;
    return r < 0 ? err_set_errno(errp, -r, "Could not load the bitmaps") : true;
}

static void drop_stored(struct blk_node *n, const struct q2_bitmap_ref *b)
{
    struct q2 *s = n->priv;
    uint64_t *t AUTOFREE = try_alloc(b->table_size ? b->table_size : 1, 8);

    if (!t || !b->table_size || blk_pread(n->file, b->table_off, t, (size_t)b->table_size * 8) < 0)
        return; /* leaks */
    for (uint32_t i = 0; i < b->table_size; i++)
        if (be64toh(t[i]) & Q2_OFF_MASK)
            q2_drop(n, be64toh(t[i]) & Q2_OFF_MASK, 1);
    q2_drop(n, b->table_off, div_up((uint64_t)b->table_size * 8, s->cs));
}

static int store_one(struct blk_node *n, struct blk_bitmap *b, struct q2_bitmap_ref *ref)
{
    struct q2 *s = n->priv;
    uint64_t bytes = div_up(b->nr_bits, 8), nr = div_up(bytes, s->cs), clusters = div_up(nr * 8, s->cs);
    uint8_t *buf AUTOFREE = try_alloc(1, s->cs);
    uint64_t *t AUTOFREE = try_alloc(clusters ? clusters : 1, s->cs);
    int r = buf && t ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < nr && r >= 0; i++) {
        bool any = false;
        uint64_t off;

        memset(buf, 0, s->cs);
        for (uint64_t k = 0; k < s->cs / 8; k++) {
            uint64_t word = i * s->cs / 8 + k;

            if (word * 64 >= b->nr_bits)
                break;
            put_le64(buf + k * 8, b->bits[word]);
            any |= b->bits[word] != 0;
        }
        if (!any)
            continue;
        r = q2_alloc(n, 1, true, &off, NULL);
        if (r >= 0)
            r = blk_pwrite(n->file, off, buf, s->cs);
        t[i] = off;
    }
    ref->table_size = (uint32_t)nr;
    if (r >= 0 && nr)
        r = q2_alloc(n, clusters, true, &ref->table_off, NULL);
    if (r >= 0 && nr)
        r = q2_table_write(n, ref->table_off, t, 0, clusters * s->cs / 8);
    return r;
}

static bool keeps_entry(const struct blk_bitmap *b)
{
    return b->persistent && b->name;
}

int q2_bitmaps_store(struct blk_node *n)
{
    struct q2 *s = n->priv;
    struct q2_bitmap_ref *refs, *old = s->bm;
    uint32_t nr = 0, old_nr = s->nr_bm;
    uint64_t len = 0, off = 0, old_off = s->bm_dir_off, old_len = s->bm_dir_size;
    uint8_t *d AUTOFREE = NULL;
    struct blk_bitmap *b;
    int r = 0;

    list_each (b, &n->bitmaps, link)
        nr += keeps_entry(b);
    refs = try_alloc(nr + 1, sizeof *refs);
    if (!refs)
        return -ENOMEM;
    nr = 0;
    list_each (b, &n->bitmaps, link) {
        struct q2_bitmap_ref *x = &refs[nr];

        if (!keeps_entry(b) || r < 0)
            continue;
        x->type = 1;
        x->gran_bits = (uint8_t)__builtin_ctz(b->gran);
        x->flags = (b->enabled ? BM_AUTO : 0) | (b->inconsistent ? BM_IN_USE : 0);
        x->name = xstrdup(b->name);
        nr++;
        r = b->inconsistent ? 0 : store_one(n, b, x);
        len += dir_entry(NULL, x);
    }
    if (nr && r >= 0) {
        uint64_t at = 0;

        d = try_alloc(1, align_up(len, s->cs));
        r = d ? q2_alloc(n, div_up(len, s->cs), true, &off, NULL) : -ENOMEM;
        for (uint32_t i = 0; i < nr && r >= 0; i++)
            at += dir_entry(d + at, &refs[i]);
        if (r >= 0)
            r = blk_pwrite(n->file, off, d, align_up(len, s->cs));
    }
    if (r >= 0)
        r = q2_commit(n, true);
    if (r >= 0) {
        s->bm = refs;
        s->nr_bm = nr;
        s->bm_dir_off = off;
        s->bm_dir_size = len;
        s->autoclear = nr ? s->autoclear | Q2_AUTO_BITMAPS : s->autoclear & ~(uint64_t)Q2_AUTO_BITMAPS;
        r = q2_write_header(n);
        if (r >= 0)
            r = q2_sync(n);
    }
    if (r < 0) {
        if (s->bm != old) {
            s->bm = old;
            s->nr_bm = old_nr;
        }
        for (uint32_t i = 0; i < nr; i++)
            free(refs[i].name);
        free(refs);
        return r;
    }
    for (uint32_t i = 0; i < old_nr; i++) {
        drop_stored(n, &old[i]);
        free(old[i].name);
    }
    if (old_nr)
        q2_drop(n, old_off, div_up(old_len, s->cs));
    free(old);
    s->bm_loaded = false; /* on disk again; reopening for writing loads and marks them */
    while (!list_empty(&n->bitmaps) && n->refs == 0)
        blk_bitmap_free(list_first(&n->bitmaps, struct blk_bitmap, link));
    return 0;
}

struct json_object *q2_bitmaps_info(struct blk_node *n)
{
    struct q2 *s = n->priv;
    struct json_object *a = json_object_new_array();

    for (uint32_t i = 0; i < s->nr_bm; i++) {
        struct json_object *f = json_object_new_array();

        if (s->bm[i].flags & BM_IN_USE)
            json_object_array_add(f, json_object_new_string("in-use"));
        if (s->bm[i].flags & BM_AUTO)
            json_object_array_add(f, json_object_new_string("auto"));
        json_object_array_add(a, json_make("o:flags", f, "s:name", s->bm[i].name, "i:granularity",
                                           (int64_t)1 << s->bm[i].gran_bits, NULL));
    }
    return a;
}

bool q2_bitmap_store_ok(struct blk_node *n, const char *name, uint32_t gran, struct err **errp)
{
    struct q2 *s = n->priv;

    if (s->version < 3)
        return err_set(errp, "Cannot store dirty bitmaps in qcow2 v2 files");
    if (!*name)
        return err_set(errp, "Bitmap name cannot be empty");
    if (strlen(name) > 1023)
        return err_set(errp, "Bitmap name is longer than 1023 bytes");
    return true;
}

/* With the image open for writing the bitmaps are in memory: storing without one removes it. */
bool q2_bitmap_remove(struct blk_node *n, const char *name, struct err **errp)
{
    struct blk_bitmap *b = blk_bitmap_find(n, name);

    if (!b)
        return err_set(errp, "Bitmap '%s' not found", name);
    ((struct q2 *)n->priv)->bm_loaded = true;
    blk_bitmap_free(b);
    return true;
}
