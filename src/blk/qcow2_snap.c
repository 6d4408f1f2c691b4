/* qcow2: internal snapshots. The snapshot table is never changed in place: a new one is written, made durable, and then
 * named by the header (I6). Taking a snapshot first clears COPIED everywhere (I7), then raises refcounts, then
 * publishes. */
#include "blk/qcow2.h"
#include <errno.h>
#include <time.h>

void q2_snaps_release(struct q2 *s)
{
    for (uint32_t i = 0; i < s->nr_snaps && s->snaps; i++) {
        free(s->snaps[i].pub.id);
        free(s->snaps[i].pub.name);
        free(s->snaps[i].extra);
    }
    free(s->snaps);
    s->snaps = NULL;
}

/* One entry at p (end bounds it); its padded length or 0. */
static size_t parse_one(struct q2_snap *x, const uint8_t *p, const uint8_t *end)
{
    size_t left = (size_t)(end - p), need = 40;
    uint32_t extra, idlen, namelen;

    if (left < need)
        return 0;
    idlen = get_be16(p + 12);
    namelen = get_be16(p + 14);
    extra = get_be32(p + 36);
    if (extra > 1024)
        return 0;
    need += extra + idlen + namelen;
    if (left < need)
        return 0;
    x->l1_off = get_be64(p);
    x->l1_size = get_be32(p + 8);
    x->pub.date_sec = get_be32(p + 16);
    x->pub.date_nsec = get_be32(p + 20);
    x->pub.vm_clock_ns = get_be64(p + 24);
    x->pub.vm_size = extra >= 8 ? get_be64(p + 40) : get_be32(p + 32);
    x->pub.disk_size = extra >= 16 ? get_be64(p + 48) : 0;
    x->pub.icount = extra >= 24 ? get_be64(p + 56) : UINT64_MAX;
    if (extra > 24) {
        x->extra_len = extra - 24;
        x->extra = xmalloc(x->extra_len);
        memcpy(x->extra, p + 64, x->extra_len);
    }
    x->pub.id = xstrndup((const char *)p + 40 + extra, idlen);
    x->pub.name = xstrndup((const char *)p + 40 + extra + idlen, namelen);
    return (need + 7) & ~(size_t)7;
}

bool q2_snaps_read(struct blk_node *n, struct err **errp)
{
    struct q2 *s = n->priv;
    uint64_t end = n->file->node->size, len;
    uint8_t *buf AUTOFREE = NULL;
    const uint8_t *p;
    int r;

    if (!s->nr_snaps)
        return true;
    if (s->nr_snaps > Q2_MAX_SNAPSHOTS || s->snap_off & (s->cs - 1) || s->snap_off >= end) {
        s->nr_snaps = 0;
        return err_set(errp, "qcow2: Snapshot table offset or count is invalid");
    }
    s->snaps = try_alloc(s->nr_snaps, sizeof *s->snaps);
    len = min_u64(end - s->snap_off, min_u64(Q2_MAX_SNAP_TABLE, (uint64_t)s->nr_snaps * 4096));
    buf = try_alloc(1, len);
    if (!s->snaps || !buf)
        return err_set(errp, "qcow2: no memory for the snapshot table");
    r = blk_pread(n->file, s->snap_off, buf, len);
    if (r < 0)
        return err_set_errno(errp, -r, "qcow2: Could not read snapshots");
    p = buf;
    for (uint32_t i = 0; i < s->nr_snaps; i++) {
        size_t used = parse_one(&s->snaps[i], p, buf + len);

        if (!used)
            return err_set(errp, "qcow2: snapshot table entry %u is invalid", i);
        if (!s->snaps[i].pub.disk_size)
            s->snaps[i].pub.disk_size = n->size;
        if ((uint64_t)s->snaps[i].l1_size * 8 > Q2_MAX_L1 || s->snaps[i].l1_off & (s->cs - 1))
            return err_set(errp, "qcow2: Snapshot %s has an invalid L1 table", s->snaps[i].pub.id);
        p = min_u64(used, (uint64_t)(buf + len - p)) + p;
    }
    return true;
}

static size_t entry_len(const struct q2_snap *x)
{
    return (40 + 24 + x->extra_len + strlen(x->pub.id) + strlen(x->pub.name) + 7) & ~(size_t)7;
}

static void put_one(uint8_t *p, const struct q2_snap *x)
{
    size_t idlen = strlen(x->pub.id), namelen = strlen(x->pub.name);

    put_be64(p, x->l1_off);
    put_be32(p + 8, x->l1_size);
    put_be16(p + 12, (uint16_t)idlen);
    put_be16(p + 14, (uint16_t)namelen);
    put_be32(p + 16, (uint32_t)x->pub.date_sec);
    put_be32(p + 20, x->pub.date_nsec);
    put_be64(p + 24, x->pub.vm_clock_ns);
    put_be32(p + 32, x->pub.vm_size > UINT32_MAX ? 0 : (uint32_t)x->pub.vm_size);
    put_be32(p + 36, 24 + x->extra_len);
    put_be64(p + 40, x->pub.vm_size);
    put_be64(p + 48, x->pub.disk_size);
    put_be64(p + 56, x->pub.icount);
    if (x->extra_len)
        memcpy(p + 64, x->extra, x->extra_len);
    memcpy(p + 64 + x->extra_len, x->pub.id, idlen);
    memcpy(p + 64 + x->extra_len + idlen, x->pub.name, namelen);
}

static uint64_t table_len(const struct q2_snap *v, uint32_t nr)
{
    uint64_t len = 0;

    for (uint32_t i = 0; i < nr; i++)
        len += entry_len(&v[i]);
    return len;
}

/* Writes v[] as the new table and switches the header to it, together with what the caller changed of the header. */
static int publish(struct blk_node *n, struct q2_snap *v, uint32_t nr)
{
    struct q2 *s = n->priv;
    uint64_t len = table_len(v, nr), off = 0, old = s->snap_off, old_len = table_len(s->snaps, s->nr_snaps);
    uint32_t was = s->nr_snaps;
    uint8_t *buf AUTOFREE = try_alloc(1, max_u64(align_up(len, s->cs), 1)), *p = buf;
    int r = 0;

    if (!buf)
        return -ENOMEM;
    if (len > Q2_MAX_SNAP_TABLE)
        return -EFBIG;
    for (uint32_t i = 0; i < nr; i++) {
        put_one(p, &v[i]);
        p += entry_len(&v[i]);
    }
    if (len) {
        r = q2_alloc(n, div_up(len, s->cs), true, &off, NULL);
        if (r >= 0)
            r = blk_pwrite(n->file, off, buf, align_up(len, s->cs));
    }
    if (r >= 0)
        r = q2_commit(n, true);
    if (r < 0)
        return r;
    s->snap_off = off;
    s->nr_snaps = nr;
    r = q2_write_header(n);
    if (r >= 0)
        r = q2_sync(n);
    if (r < 0) {
        s->snap_off = old;
        s->nr_snaps = was;
        return r;
    }
    if (was)
        q2_drop(n, old, div_up(old_len, s->cs));
    return 0;
}

/* Adds delta to the refcount of everything an L1 table reaches; lowering goes through the drops. */
static int tree_refs(struct blk_node *n, const uint64_t *l1, uint64_t nr, int delta)
{
    struct q2 *s = n->priv;

    for (uint64_t i = 0; i < nr; i++) {
        uint64_t off = l1[i] & Q2_OFF_MASK;
        uint8_t *copy AUTOFREE = NULL;
        struct q2_tab *t;
        int r;

        if (!off)
            continue;
        r = q2_tab_get(n, &s->l2c, off, &t);
        if (r < 0)
            return r;
        copy = try_alloc(1, s->cs);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, t->data, s->cs);
        for (uint64_t k = 0; k < UINT64_C(1) << s->l2_bits; k++) {
            uint64_t e, bm, a, len;

            q2_entry_read(s, copy, k, &e, &bm);
            if (delta < 0) {
                q2_drop_entry(n, e);
                continue;
            }
            r = 0;
            if (e & Q2_COMPRESSED) {
                q2_compressed_span(s, e, &a, &len);
                r = q2_ref_add(n, q2_idx(s, a), q2_idx(s, a + len - 1) - q2_idx(s, a) + 1, 1);
            } else if (e & Q2_OFF_MASK && !s->ext_data) {
                r = q2_ref_add(n, q2_idx(s, e & Q2_OFF_MASK), 1, 1);
            }
            if (r < 0)
                return r;
        }
        if (delta < 0)
            q2_drop(n, off, 1);
        else if ((r = q2_ref_add(n, q2_idx(s, off), 1, 1)) < 0)
            return r;
    }
    return 0;
}

int q2_flags_update(struct blk_node *n, bool set)
{
    struct q2 *s = n->priv;

    for (uint64_t i = 0; i < s->l1_size; i++) {
        uint64_t off = s->l1[i] & Q2_OFF_MASK, v = 0;
        struct q2_tab *t;
        int r;

        if (!off)
            continue;
        r = set ? q2_ref_get(n, q2_idx(s, off), &v) : 0;
        if (r < 0)
            return r;
        if (((s->l1[i] & Q2_COPIED) != 0) != (v == 1))
            q2_set_l1(s, i, off | (v == 1 ? Q2_COPIED : 0));
        if (set && v != 1)
            continue; /* a shared table: its entries are shared, and it may not be changed */
        for (uint64_t k = 0; k < UINT64_C(1) << s->l2_bits; k++) {
            uint64_t e, bm, w;

            r = q2_tab_get(n, &s->l2c, off, &t);
            if (r < 0)
                return r;
            q2_entry_read(s, t->data, k, &e, &bm);
            if (e & Q2_COMPRESSED || !(e & Q2_OFF_MASK) || s->ext_data)
                continue;
            v = 0;
            r = set ? q2_ref_get(n, q2_idx(s, e & Q2_OFF_MASK), &v) : 0;
            if (r < 0)
                return r;
            w = v == 1 ? e | Q2_COPIED : e & ~Q2_COPIED;
            if (w == e)
                continue;
            r = q2_tab_get(n, &s->l2c, off, &t);
            if (r < 0)
                return r;
            q2_entry_write(s, t->data, k, w, bm);
            q2_tab_dirty(&s->l2c, t);
        }
    }
    return 0;
}

static int find_snap(struct q2 *s, const char *id, const char *name)
{
    for (uint32_t i = 0; id && i < s->nr_snaps; i++)
        if (!strcmp(s->snaps[i].pub.id, id) && (!name || !strcmp(s->snaps[i].pub.name, name)))
            return (int)i;
    for (uint32_t i = 0; name && !id && i < s->nr_snaps; i++)
        if (!strcmp(s->snaps[i].pub.name, name))
            return (int)i;
    return -1;
}

static char *new_id(struct q2 *s)
{
    uint64_t max = 0;

    for (uint32_t i = 0; i < s->nr_snaps; i++) {
        uint64_t v;

        if (str_to_u64(s->snaps[i].pub.id, &v) && v > max && v < UINT32_MAX)
            max = v;
    }
    return xasprintf("%" PRIu64, max + 1);
}

static int create_steps(struct blk_node *n, struct q2_snap *x)
{
    struct q2 *s = n->priv;
    struct q2_snap *v = NULL;
    uint64_t clusters = div_up((uint64_t)s->l1_size * 8, s->cs);
    uint8_t *pad AUTOFREE = try_alloc(clusters, s->cs);
    int r;

    v = try_alloc(s->nr_snaps + 1, sizeof *v);
    if (!v || !pad) {
        free(v);
        return -ENOMEM;
    }
    r = q2_flags_update(n, false);
    if (r >= 0)
        r = q2_commit(n, true); /* I7: no COPIED left before anything becomes shared */
    if (r >= 0)
        r = tree_refs(n, s->l1, s->l1_size, 1);
    if (r >= 0)
        r = q2_alloc(n, clusters, true, &x->l1_off, NULL);
    if (r >= 0) {
        for (uint64_t i = 0; i < s->l1_size; i++)
            put_be64(pad + i * 8, s->l1[i]);
        r = blk_pwrite(n->file, x->l1_off, pad, clusters * s->cs);
    }
    x->l1_size = s->l1_size;
    if (r >= 0) {
        if (s->nr_snaps)
            memcpy(v, s->snaps, s->nr_snaps * sizeof *v);
        v[s->nr_snaps] = *x;
        r = publish(n, v, s->nr_snaps + 1); /* commits first: the raised refcounts are durable by then */
    }
    if (r < 0) {
        free(v);
        return r;
    }
    free(s->snaps);
    s->snaps = v;
    return 0;
}

bool q2_snap_create(struct blk_node *n, struct blk_snap *sn, struct err **errp)
{
    struct q2 *s = n->priv;
    struct q2_snap x = {0};
    int r;

    if (s->ext_data)
        return err_set(errp, "Cannot take a snapshot of an image with an external data file");
    if (s->nr_snaps >= Q2_MAX_SNAPSHOTS)
        return err_set(errp, "too many snapshots");
    if (s->refcount_order == 0)
        return err_set(errp, "refcount_bits=1 leaves no room for snapshots");
    fibre_mutex_lock(&s->lock);
    q2_quiet(n);
    x.pub = *sn;
    x.pub.id = sn->id && *sn->id ? xstrdup(sn->id) : new_id(s);
    x.pub.name = xstrdup(sn->name ? sn->name : "");
    x.pub.disk_size = n->size;
    if (find_snap(s, x.pub.id, NULL) >= 0) {
        free(x.pub.id);
        x.pub.id = new_id(s);
    }
    r = create_steps(n, &x);
    if (r < 0) {
        free(x.pub.id);
        free(x.pub.name);
    }
    fibre_mutex_unlock(&s->lock);
    return r < 0 ? err_set_errno(errp, -r, "Could not create snapshot") : true;
}

static int read_l1(struct blk_node *n, const struct q2_snap *x, uint64_t **out)
{
    uint64_t *l1 = try_alloc(x->l1_size ? x->l1_size : 1, 8);
    int r = l1 ? blk_pread(n->file, x->l1_off, l1, (size_t)x->l1_size * 8) : -ENOMEM;

    for (uint32_t i = 0; r >= 0 && i < x->l1_size; i++)
        l1[i] = be64toh(l1[i]);
    if (r < 0) {
        free(l1);
        l1 = NULL;
    }
    *out = l1;
    return r;
}

/* A private copy of the snapshot's L1 becomes the active table by one header write. */
static int goto_steps(struct blk_node *n, const struct q2_snap *x)
{
    struct q2 *s = n->priv;
    uint64_t *l1, *old = s->l1, off, old_off = s->l1_off,
                  clusters = max_u64(div_up((uint64_t)x->l1_size * 8, s->cs), 1);
    uint64_t old_size = s->l1_size, was = n->size;
    uint8_t *dirty = NULL, *pad AUTOFREE = try_alloc(clusters, s->cs);
    int r = read_l1(n, x, &l1);

    if (r < 0 || !pad)
        return r < 0 ? r : -ENOMEM;
    dirty = try_alloc(x->l1_size / 64 + 1, 1);
    r = dirty ? q2_flags_update(n, false) : -ENOMEM;
    if (r >= 0)
        r = q2_commit(n, true);
    if (r >= 0)
        r = tree_refs(n, l1, x->l1_size, 1);
    if (r >= 0)
        r = q2_alloc(n, clusters, true, &off, NULL);
    for (uint32_t i = 0; r >= 0 && i < x->l1_size; i++) {
        l1[i] &= ~Q2_COPIED;
        put_be64(pad + (uint64_t)i * 8, l1[i]);
    }
    if (r >= 0)
        r = blk_pwrite(n->file, off, pad, clusters * s->cs);
    if (r >= 0)
        r = q2_commit(n, true);
    if (r < 0) {
        free(l1);
        free(dirty);
        return r;
    }
    s->l1_off = off;
    s->l1_size = x->l1_size;
    n->size = x->pub.disk_size;
    r = q2_write_header(n);
    if (r >= 0)
        r = q2_sync(n);
    if (r < 0) {
        s->l1_off = old_off;
        s->l1_size = (uint32_t)old_size;
        n->size = was;
        s->corrupt = true; /* unknown which table the header names */
        free(l1);
        free(dirty);
        return r;
    }
    free(s->l1_dirty);
    s->l1 = l1;
    s->l1_dirty = dirty;
    s->l1_any_dirty = false;
    s->vm_l1_index = div_up(n->size, UINT64_C(1) << (s->cluster_bits + s->l2_bits));
    r = tree_refs(n, old, old_size, -1);
    q2_drop(n, old_off, div_up(old_size * 8, s->cs));
    free(old);
    if (r >= 0)
        r = q2_commit(n, true);
    if (r >= 0)
        r = q2_commit(n, true); /* the lowered refcounts reach the disk before COPIED says so */
    if (r >= 0)
        r = q2_flags_update(n, true);
    q2_meta_build(n);
    return r;
}

bool q2_snap_goto(struct blk_node *n, const char *id, struct err **errp)
{
    struct q2 *s = n->priv;
    int i, r;

    fibre_mutex_lock(&s->lock);
    q2_quiet(n);
    i = find_snap(s, id, NULL);
    if (i < 0)
        i = find_snap(s, NULL, id);
    r = i < 0 ? -ENOENT : goto_steps(n, &s->snaps[i]);
    s->comp_cache_entry = 0;
    fibre_mutex_unlock(&s->lock);
    return r < 0 ? err_set_errno(errp, -r, "Could not apply snapshot '%s'", id) : true;
}

/* The saved machine state leaves the active table; a snapshot that holds it keeps it. */
int q2_vmstate_drop(struct blk_node *n)
{
    struct q2 *s = n->priv;
    uint64_t from = s->vm_l1_index, nr = s->l1_size > from ? s->l1_size - from : 0, *old;
    bool any = false;
    int r = 0;

    for (uint64_t i = from; i < s->l1_size && !any; i++)
        any = s->l1[i] & Q2_OFF_MASK;
    if (!any)
        return 0;
    old = try_alloc(nr, sizeof *old);
    if (!old)
        return -ENOMEM;
    fibre_mutex_lock(&s->lock);
    q2_quiet(n);
    for (uint64_t i = 0; i < nr; i++) {
        old[i] = s->l1[from + i];
        if (old[i])
            q2_set_l1(s, from + i, 0);
    }
    r = tree_refs(n, old, nr, -1);
    if (r >= 0)
        r = q2_commit(n, true); /* lowers the refcounts in memory */
    if (r >= 0)
        r = q2_commit(n, true); /* and on disk */
    s->comp_cache_entry = 0;
    fibre_mutex_unlock(&s->lock);
    free(old);
    return r;
}

static int delete_steps(struct blk_node *n, int i)
{
    struct q2 *s = n->priv;
    struct q2_snap gone = s->snaps[i], *v = try_alloc(s->nr_snaps, sizeof *v);
    uint32_t nr = s->nr_snaps - 1;
    uint64_t *l1;
    int r = read_l1(n, &gone, &l1);

    if (r < 0 || !v) {
        free(v);
        return r < 0 ? r : -ENOMEM;
    }
    memcpy(v, s->snaps, (size_t)i * sizeof *v);
    memcpy(v + i, s->snaps + i + 1, (nr - (size_t)i) * sizeof *v);
    r = publish(n, v, nr);
    if (r < 0) {
        free(v);
        free(l1);
        return r;
    }
    free(s->snaps);
    s->snaps = v;
    s->drop_kind = Q2_DROP_SNAPSHOT;
    r = tree_refs(n, l1, gone.l1_size, -1);
    q2_drop(n, gone.l1_off, div_up((uint64_t)gone.l1_size * 8, s->cs));
    s->drop_kind = Q2_DROP_OTHER;
    free(l1);
    free(gone.pub.id);
    free(gone.pub.name);
    free(gone.extra);
    if (r >= 0)
        r = q2_commit(n, true); /* lowers the refcounts in memory */
    if (r >= 0)
        r = q2_commit(n, true); /* and on disk, before COPIED says so */
    if (r >= 0)
        r = q2_flags_update(n, true);
    if (r >= 0)
        r = q2_commit(n, true);
    return r;
}

bool q2_snap_delete(struct blk_node *n, const char *id, const char *name, struct err **errp)
{
    struct q2 *s = n->priv;
    int i, r;

    fibre_mutex_lock(&s->lock);
    q2_quiet(n);
    i = find_snap(s, id, name);
    r = i < 0 ? -ENOENT : delete_steps(n, i);
    fibre_mutex_unlock(&s->lock);
    if (i < 0)
        return err_set(errp, "Can't find the snapshot");
    return r < 0 ? err_set_errno(errp, -r, "Could not delete snapshot") : true;
}

int q2_snap_list(struct blk_node *n, struct blk_snap **out)
{
    struct q2 *s = n->priv;

    *out = NULL;
    if (!s->nr_snaps)
        return 0;
    *out = try_alloc(s->nr_snaps, sizeof **out);
    if (!*out)
        return -ENOMEM;
    for (uint32_t i = 0; i < s->nr_snaps; i++) {
        (*out)[i] = s->snaps[i].pub;
        (*out)[i].id = xstrdup(s->snaps[i].pub.id);
        (*out)[i].name = xstrdup(s->snaps[i].pub.name);
    }
    return (int)s->nr_snaps;
}

/* Read-only images: what the snapshot held takes the place of the active state, in memory. */
bool q2_snap_load(struct blk_node *n, const char *id, const char *name, struct err **errp)
{
    struct q2 *s = n->priv;
    int i = find_snap(s, id, name), r;
    uint64_t *l1;
    uint8_t *dirty;

    if (n->open_flags & BLK_O_RDWR)
        return err_set(errp, "Device is not readonly");
    if (i < 0)
        return err_set(errp, "Can't find snapshot");
    r = read_l1(n, &s->snaps[i], &l1);
    dirty = r >= 0 ? try_alloc(s->snaps[i].l1_size / 64 + 1, 1) : NULL;
    if (r < 0 || !dirty) {
        if (r >= 0)
            free(l1);
        return err_set_errno(errp, r < 0 ? -r : ENOMEM, "Failed to read snapshot L1 table");
    }
    free(s->l1);
    free(s->l1_dirty);
    s->l1 = l1;
    s->l1_dirty = dirty;
    s->l1_size = s->snaps[i].l1_size;
    n->size = s->snaps[i].pub.disk_size;
    s->vm_l1_index = div_up(n->size, UINT64_C(1) << (s->cluster_bits + s->l2_bits));
    return true;
}
