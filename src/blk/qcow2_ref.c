/* qcow2: table caches, refcounts, allocation, and the commit that keeps the on-disk order. Invariants I1..I7: qcow2.h.
 *
 * Refcounts in memory run ahead of the disk: raised at once when a cluster is allocated, lowered only by q2_commit()
 * when the reference is durably gone. What is free in memory is therefore free for good. */
#include "blk/qcow2.h"
#include <errno.h>

/* ---- caches ---- */

bool q2_cache_init(struct q2_cache *c, unsigned max)
{
    list_init(&c->lru);
    c->max = max < 4 ? 4 : max;
    c->nr_hash = 256;
    while (c->nr_hash < c->max && c->nr_hash < 65536)
        c->nr_hash *= 2;
    c->hash = try_alloc(c->nr_hash, sizeof *c->hash);
    return c->hash != NULL;
}

static unsigned slot_of(const struct q2_cache *c, uint64_t off)
{
    return (unsigned)((off >> 9) * UINT64_C(0x9e3779b97f4a7c15) >> 40) & (c->nr_hash - 1);
}

void q2_tab_drop(struct q2_cache *c, struct q2_tab *t)
{
    struct q2_tab **p = &c->hash[slot_of(c, t->off)];

    while (*p != t)
        p = &(*p)->next;
    *p = t->next;
    list_del(&t->lru);
    c->nr--;
    c->nr_dirty -= t->dirty;
    free(t->data);
    free(t);
}

void q2_cache_free(struct q2_cache *c)
{
    while (c->hash && !list_empty(&c->lru))
        q2_tab_drop(c, list_first(&c->lru, struct q2_tab, lru));
    free(c->hash);
    *c = (struct q2_cache){0};
}

struct q2_tab *q2_cache_peek(struct q2_cache *c, uint64_t off)
{
    for (struct q2_tab *t = c->hash[slot_of(c, off)]; t; t = t->next)
        if (t->off == off) {
            t->used = ++c->tick;
            list_del(&t->lru);
            list_add(&c->lru, &t->lru);
            return t;
        }
    return NULL;
}

void q2_tab_forget(struct q2_cache *c, uint64_t off)
{
    struct q2_tab *t = q2_cache_peek(c, off);

    if (t)
        q2_tab_drop(c, t);
}

void q2_tab_dirty(struct q2_cache *c, struct q2_tab *t)
{
    if (!t->dirty) {
        t->dirty = true;
        c->nr_dirty++;
    }
}

static struct q2_tab *oldest_clean(struct q2_cache *c)
{
    struct q2_tab *t;

    list_each (t, &c->lru, lru)
        if (!t->dirty)
            return t;
    return NULL;
}

/* Makes room for one more table: the oldest clean one goes; when all are dirty, they are committed first. */
static int make_room(struct blk_node *n, struct q2_cache *c)
{
    struct q2 *s = n->priv;
    struct q2_tab *t;
    int r;

    if (c->nr < c->max)
        return 0;
    if (!oldest_clean(c) && !s->in_commit) {
        r = q2_commit(n, false);
        if (r < 0)
            return r;
    }
    while (c->nr >= c->max && (t = oldest_clean(c)))
        q2_tab_drop(c, t);
    return 0; /* inside a commit the cache may grow for a moment */
}

static struct q2_tab *tab_alloc(struct blk_node *n, struct q2_cache *c, uint64_t off)
{
    struct q2 *s = n->priv;
    struct q2_tab *t = try_alloc(1, sizeof *t);

    if (t)
        t->data = try_alloc_aligned(4096, max_u64(s->cs, 4096));
    if (!t || !t->data) {
        free(t);
        return NULL;
    }
    t->off = off;
    t->is_ref = c == &s->refc;
    return t;
}

/* From here on everybody finds it, also without the lock: its contents must be there. */
static void tab_insert(struct q2_cache *c, struct q2_tab *t)
{
    unsigned h = slot_of(c, t->off);

    t->used = ++c->tick;
    t->next = c->hash[h];
    c->hash[h] = t;
    list_add(&c->lru, &t->lru);
    c->nr++;
}

int q2_tab_get(struct blk_node *n, struct q2_cache *c, uint64_t off, struct q2_tab **out)
{
    struct q2 *s = n->priv;
    struct q2_tab *t;
    int r;

    *out = q2_cache_peek(c, off);
    if (*out)
        return 0;
    if (off & (s->cs - 1) || !off)
        return q2_mark_corrupt(n, "a table offset is not aligned to a cluster", off);
    r = make_room(n, c);
    if (r < 0)
        return r;
    t = tab_alloc(n, c, off);
    if (!t)
        return -ENOMEM;
    r = blk_pread(n->file, off, t->data, s->cs);
    if (r < 0) {
        free(t->data);
        free(t);
        return r;
    }
    tab_insert(c, t);
    *out = t;
    return 0;
}

int q2_tab_new(struct blk_node *n, struct q2_cache *c, uint64_t off, struct q2_tab **out)
{
    struct q2 *s = n->priv;
    struct q2_tab *t;
    int r = make_room(n, c);

    q2_tab_forget(c, off);
    if (r < 0)
        return r;
    t = tab_alloc(n, c, off);
    if (!t)
        return -ENOMEM;
    memset(t->data, 0, max_u64(s->cs, 4096));
    tab_insert(c, t);
    q2_tab_dirty(c, t);
    *out = t;
    return 0;
}

/* ---- the set of clusters that hold tables ---- */

static size_t meta_slot(const struct q2 *s, uint64_t off)
{
    size_t i = (size_t)((off >> 9) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (s->meta_cap - 1);

    while (s->meta[i] && s->meta[i] != off)
        i = (i + 1) & (s->meta_cap - 1);
    return i;
}

static bool meta_grow(struct q2 *s)
{
    uint64_t *old = s->meta;
    size_t cap = s->meta_cap;

    s->meta_cap = cap ? cap * 2 : 256;
    s->meta = try_alloc(s->meta_cap, sizeof *s->meta);
    if (!s->meta) {
        s->meta = old;
        s->meta_cap = cap;
        return false;
    }
    for (size_t i = 0; i < cap; i++)
        if (old[i])
            s->meta[meta_slot(s, old[i])] = old[i];
    free(old);
    return true;
}

bool q2_meta_add(struct q2 *s, uint64_t off)
{
    size_t i;

    if (s->meta_nr * 2 >= s->meta_cap && !meta_grow(s))
        return false;
    i = meta_slot(s, off);
    if (!s->meta[i]) {
        s->meta[i] = off;
        s->meta_nr++;
    }
    return true;
}

void q2_meta_del(struct q2 *s, uint64_t off)
{
    size_t i, j, k;

    if (!s->meta_cap)
        return;
    i = meta_slot(s, off);
    if (!s->meta[i])
        return;
    s->meta_nr--;
    for (j = i;;) { /* close the gap so that later entries stay reachable */
        s->meta[i] = 0;
        for (;;) {
            j = (j + 1) & (s->meta_cap - 1);
            if (!s->meta[j])
                return;
            k = (size_t)((s->meta[j] >> 9) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (s->meta_cap - 1);
            if (i <= j ? (k <= i || k > j) : (k <= i && k > j))
                break;
        }
        s->meta[i] = s->meta[j];
        i = j;
    }
}

/* The L2 tables of a snapshot; those it shares with the active layer are known already. */
static bool meta_add_snap(struct blk_node *n, const struct q2_snap *sn)
{
    struct q2 *s = n->priv;
    uint8_t *l1 AUTOFREE = try_alloc(sn->l1_size + 1, 8);

    if (!l1 || blk_pread(n->file, sn->l1_off, l1, (size_t)sn->l1_size * 8) < 0)
        return false;
    for (uint32_t i = 0; i < sn->l1_size; i++) {
        uint64_t off = get_be64(l1 + i * 8) & Q2_OFF_MASK;

        if (off && !q2_meta_add(s, off))
            return false;
    }
    return true;
}

bool q2_meta_build(struct blk_node *n)
{
    struct q2 *s = n->priv;

    free(s->meta);
    s->meta = NULL;
    s->meta_cap = s->meta_nr = 0;
    for (uint64_t i = 0; i < s->l1_size; i++)
        if (s->l1[i] & Q2_OFF_MASK && !q2_meta_add(s, s->l1[i] & Q2_OFF_MASK))
            return false;
    for (uint64_t i = 0; i < s->nr_reftable; i++)
        if (s->reftable[i] & Q2_OFF_MASK && !q2_meta_add(s, s->reftable[i] & Q2_OFF_MASK))
            return false;
    for (uint32_t i = 0; s->overlap & Q2_OV_INACTIVE_L2 && i < s->nr_snaps; i++)
        if (!meta_add_snap(n, &s->snaps[i]))
            return false;
    s->meta_built = true;
    return true;
}

static bool hits(uint64_t off, uint64_t len, uint64_t a, uint64_t alen)
{
    return alen && off < a + alen && a < off + len;
}

/* Would writing guest data to [off, off+len) of the image file destroy a table? */
bool q2_meta_overlap(struct blk_node *n, uint64_t off, uint64_t len, const char **what)
{
    struct q2 *s = n->priv;
    const char *w = NULL;

    unsigned on = s->overlap;

    if (on & Q2_OV_HEADER && off < s->cs)
        w = "qcow2_header";
    else if (on & Q2_OV_L1 && hits(off, len, s->l1_off, (uint64_t)s->l1_size * 8))
        w = "active L1 table";
    else if (on & Q2_OV_REFTABLE && hits(off, len, s->reftable_off, s->reftable_clusters * s->cs))
        w = "refcount table";
    else if (on & Q2_OV_BITMAPS && hits(off, len, s->bm_dir_off, s->bm_dir_size))
        w = "bitmap directory";
    else if (on & Q2_OV_SNAPSHOTS && s->nr_snaps && off <= s->snap_off && s->snap_off < off + len)
        w = "snapshot table";
    for (uint64_t c = align_down(off, s->cs); !w && on & (Q2_OV_L2 | Q2_OV_REFBLOCK) && s->meta_cap && c < off + len;
         c += s->cs)
        if (s->meta[meta_slot(s, c)])
            w = "L2 table or refcount block";
    for (uint32_t i = 0; !w && on & Q2_OV_INACTIVE_L1 && i < s->nr_snaps; i++)
        if (hits(off, len, s->snaps[i].l1_off, (uint64_t)s->snaps[i].l1_size * 8))
            w = "inactive L1 table";
    *what = w;
    return w;
}

int q2_mark_corrupt(struct blk_node *n, const char *why, uint64_t off)
{
    struct q2 *s = n->priv;

    if (!s->corrupt) {
        warn_report("%s: Image is corrupt: %s (offset %#" PRIx64 "); further corruption events will be suppressed",
                    blk_node_filename(n), why, off);
        s->corrupt = true;
        if (s->version >= 3 && n->open_flags & BLK_O_RDWR) {
            s->incompat |= Q2_INC_CORRUPT;
            q2_write_header(n);
        }
    }
    return -EIO;
}

/* ---- refcounts ---- */

uint64_t q2_ref_max(const struct q2 *s)
{
    return ~UINT64_C(0) >> (64 - (1u << s->refcount_order));
}

uint64_t q2_refblock_get(const struct q2 *s, const uint8_t *b, uint64_t i)
{
    switch (s->refcount_order) {
    case 0:
        return b[i / 8] >> (i % 8) & 1;
    case 1:
        return b[i / 4] >> (i % 4 * 2) & 3;
    case 2:
        return b[i / 2] >> (i % 2 * 4) & 15;
    case 3:
        return b[i];
    case 4:
        return get_be16(b + i * 2);
    case 5:
        return get_be32(b + i * 4);
    default:
        return get_be64(b + i * 8);
    }
}

static void bits_put(uint8_t *p, unsigned shift, unsigned mask, uint64_t v)
{
    *p = (uint8_t)((*p & ~(mask << shift)) | (unsigned)v << shift);
}

void q2_refblock_set(const struct q2 *s, uint8_t *b, uint64_t i, uint64_t v)
{
    switch (s->refcount_order) {
    case 0:
        bits_put(b + i / 8, (unsigned)(i % 8), 1, v);
        break;
    case 1:
        bits_put(b + i / 4, (unsigned)(i % 4) * 2, 3, v);
        break;
    case 2:
        bits_put(b + i / 2, (unsigned)(i % 2) * 4, 15, v);
        break;
    case 3:
        b[i] = (uint8_t)v;
        break;
    case 4:
        put_be16(b + i * 2, (uint16_t)v);
        break;
    case 5:
        put_be32(b + i * 4, (uint32_t)v);
        break;
    default:
        put_be64(b + i * 8, v);
        break;
    }
}

static unsigned block_bits(const struct q2 *s) /* log2 of the entries in a refcount block */
{
    return s->cluster_bits + 3 - s->refcount_order;
}

int q2_ref_get(struct blk_node *n, uint64_t idx, uint64_t *out)
{
    struct q2 *s = n->priv;
    uint64_t b = idx >> block_bits(s), off;
    struct q2_tab *t;
    int r;

    *out = 0;
    if (b >= s->nr_reftable || !(off = s->reftable[b] & Q2_OFF_MASK))
        return 0;
    r = q2_tab_get(n, &s->refc, off, &t);
    if (r >= 0)
        *out = q2_refblock_get(s, t->data, idx & ((UINT64_C(1) << block_bits(s)) - 1));
    return r;
}

static int ref_set(struct blk_node *n, uint64_t idx, uint64_t v)
{
    struct q2 *s = n->priv;
    struct q2_tab *t;
    int r = q2_tab_get(n, &s->refc, s->reftable[idx >> block_bits(s)] & Q2_OFF_MASK, &t);

    if (r < 0)
        return r;
    q2_refblock_set(s, t->data, idx & ((UINT64_C(1) << block_bits(s)) - 1), v);
    q2_tab_dirty(&s->refc, t);
    return 0;
}

int q2_ref_add(struct blk_node *n, uint64_t idx, uint64_t nr, int64_t delta)
{
    struct q2 *s = n->priv;

    for (uint64_t i = idx; i < idx + nr; i++) {
        uint64_t v;
        int r = q2_ref_get(n, i, &v);

        if (r < 0)
            return r;
        if (delta < 0 ? v < (uint64_t)-delta : v > q2_ref_max(s) - (uint64_t)delta)
            return delta < 0 ? q2_mark_corrupt(n, "a refcount would fall below zero", i << s->cluster_bits) : -ERANGE;
        if (!v)
            return q2_mark_corrupt(n, "a cluster in use has no refcount", i << s->cluster_bits);
        v += (uint64_t)delta;
        r = ref_set(n, i, v);
        if (r < 0)
            return r;
        if (!v && i < s->hint)
            s->hint = i;
    }
    return 0;
}

/* A refcount block for the range around cluster idx, which no block covers: idx itself becomes the block. */
static int refblock_new(struct blk_node *n, uint64_t idx)
{
    struct q2 *s = n->priv;
    uint64_t off = idx << s->cluster_bits;
    struct q2_tab *t;
    int r = q2_tab_new(n, &s->refc, off, &t);

    if (r < 0)
        return r;
    if (!q2_meta_add(s, off))
        return -ENOMEM;
    s->reftable[idx >> block_bits(s)] = off;
    s->reftable_dirty = true;
    q2_refblock_set(s, t->data, idx & ((UINT64_C(1) << block_bits(s)) - 1), 1);
    return 0;
}

/* The refcount table ends before cluster idx: a larger one, and the blocks that cover it, are laid out from idx on.
 * q2_commit() writes them and then moves the header over. */
static int reftable_grow_steps(struct blk_node *n, uint64_t idx)
{
    struct q2 *s = n->priv;
    uint64_t per = s->cs / 8, clusters = s->reftable_clusters + s->reftable_clusters / 2 + 1, blocks, end, *tab;
    unsigned bb = block_bits(s);

    for (;; clusters += clusters / 2 + 1) {
        blocks = 1;
        while ((idx + clusters + blocks - 1) >> bb >= (idx >> bb) + blocks)
            blocks++;
        end = idx + clusters + blocks;
        if (clusters * s->cs > Q2_MAX_REFTABLE)
            return -EFBIG;
        if (clusters * per > end >> bb)
            break;
    }
    tab = try_alloc(clusters * per, 8);
    if (!tab)
        return -ENOMEM;
    memcpy(tab, s->reftable, s->nr_reftable * 8);
    free(s->reftable);
    s->reftable = tab;
    s->nr_reftable = clusters * per;
    for (uint64_t b = 0; b < blocks; b++) { /* block b sits at cluster idx + b, which it or an earlier one covers */
        uint64_t off = (idx + b) << s->cluster_bits;
        struct q2_tab *t;
        int r = q2_tab_new(n, &s->refc, off, &t);

        if (r < 0 || !q2_meta_add(s, off))
            return r < 0 ? r : -ENOMEM;
        s->reftable[(idx >> bb) + b] = off;
    }
    for (uint64_t i = idx; i < end; i++) {
        int r = ref_set(n, i, 1);

        if (r < 0)
            return r;
    }
    if (!s->reftable_moved) { /* else the table laid out before was never written: its clusters just leak until check */
        s->old_reftable_off = s->reftable_off;
        s->old_reftable_clusters = s->reftable_clusters;
    } else {
        q2_drop(n, s->reftable_off, s->reftable_clusters);
    }
    s->reftable_off = (idx + blocks) << s->cluster_bits;
    s->reftable_clusters = (uint32_t)clusters;
    s->reftable_dirty = s->reftable_moved = true;
    return 0;
}

static int reftable_grow(struct blk_node *n, uint64_t idx)
{
    struct q2 *s = n->priv;
    bool was = s->in_commit;
    int r;

    s->in_commit = true; /* half-built tables are not to be written by a cache that needs room */
    r = reftable_grow_steps(n, idx);
    s->in_commit = was;
    if (r == -ENOMEM)
        s->corrupt = true; /* in memory only: nothing more is written */
    return r;
}

/* Is cluster idx free? Makes the refcount structures that cover it; when that used idx itself, the answer is no. */
static int is_free(struct blk_node *n, uint64_t idx, bool *is)
{
    struct q2 *s = n->priv;
    uint64_t b = idx >> block_bits(s), v;
    const char *what;
    int r;

    *is = false;
    if (idx > (UINT64_C(1) << 55) >> s->cluster_bits)
        return -EFBIG;
    if (b >= s->nr_reftable)
        return reftable_grow(n, idx);
    if (!(s->reftable[b] & Q2_OFF_MASK))
        return refblock_new(n, idx);
    r = q2_ref_get(n, idx, &v);
    if (r < 0 || v)
        return r;
    if (q2_meta_overlap(n, idx << s->cluster_bits, s->cs, &what))
        return q2_mark_corrupt(n, "a cluster marked free holds a table", idx << s->cluster_bits);
    *is = true;
    return 0;
}

int q2_alloc(struct blk_node *n, uint64_t nr, bool whole, uint64_t *off, uint64_t *got)
{
    struct q2 *s = n->priv;
    uint64_t i = s->hint, start = 0, run = 0;
    bool first = true;

    if (s->corrupt)
        return -EIO;
    while (run < nr) {
        bool is;
        int r = is_free(n, i, &is);

        if (r < 0)
            return r;
        if (is && !run)
            start = i;
        if (is && first) {
            s->hint = i;
            first = false;
        }
        if (!is && run && !whole)
            break;
        run = is ? run + 1 : 0;
        i++;
    }
    for (uint64_t k = start; k < start + run; k++) {
        int r = ref_set(n, k, 1);

        if (r < 0) {
            q2_unalloc(n, start << s->cluster_bits, k - start);
            return r;
        }
    }
    if (s->hint == start)
        s->hint = start + run;
    *off = start << s->cluster_bits;
    if (got)
        *got = run;
    s->alloc_count += run;
    return 0;
}

void q2_unalloc(struct blk_node *n, uint64_t off, uint64_t nr)
{
    q2_ref_add(n, q2_idx(n->priv, off), nr, -1); /* a failure leaks, no more */
}

/* Compressed clusters share host clusters: each holds one reference per compressed cluster that touches it. */
int q2_alloc_bytes(struct blk_node *n, uint64_t len, uint64_t *off)
{
    struct q2 *s = n->priv;
    uint64_t end, c;
    int r;

    if (s->comp_off) {
        uint64_t room = align_up(s->comp_off, s->cs) - s->comp_off, v;

        r = q2_ref_get(n, q2_idx(s, s->comp_off - 1), &v);
        if (r < 0)
            return r;
        if (!v || v >= q2_ref_max(s))
            s->comp_off = 0;
        else if (room < len) { /* continue into the next host cluster if that is the one allocated now */
            r = q2_alloc(n, 1, true, &c, NULL);
            if (r < 0)
                return r;
            if (c != align_up(s->comp_off, s->cs) || !room) {
                s->comp_off = 0;
                q2_unalloc(n, c, 1);
            } else {
                *off = s->comp_off;
                s->comp_off += len;
                return q2_ref_add(n, q2_idx(s, *off), 1, 1);
            }
        } else if (room) {
            *off = s->comp_off;
            s->comp_off += len;
            return q2_ref_add(n, q2_idx(s, *off), 1, 1);
        }
    }
    r = q2_alloc(n, 1, true, off, NULL);
    if (r < 0)
        return r;
    end = *off + len;
    s->comp_off = end & (s->cs - 1) ? end : 0;
    return 0;
}

/* ---- drops ---- */

void q2_drop(struct blk_node *n, uint64_t off, uint64_t nr)
{
    struct q2 *s = n->priv;

    if (s->nr_drops && s->drops[s->nr_drops - 1].off + s->drops[s->nr_drops - 1].nr * s->cs == off &&
        s->drops[s->nr_drops - 1].epoch == s->epoch && s->drops[s->nr_drops - 1].kind == s->drop_kind) {
        s->drops[s->nr_drops - 1].nr += nr;
        return;
    }
    if (s->nr_drops == s->cap_drops) {
        s->cap_drops = s->cap_drops ? s->cap_drops * 2 : 64;
        s->drops = xrealloc(s->drops, s->cap_drops * sizeof *s->drops);
    }
    s->drops[s->nr_drops++] = (struct q2_drop){off, nr, s->epoch, s->drop_kind};
}

void q2_compressed_span(const struct q2 *s, uint64_t e, uint64_t *off, uint64_t *len)
{
    uint64_t sectors = ((e >> s->csize_shift) & s->csize_mask) + 1;

    *off = e & s->coff_mask;
    *len = sectors * 512 - (*off & 511);
}

void q2_drop_entry(struct blk_node *n, uint64_t e)
{
    struct q2 *s = n->priv;

    if (e & Q2_COMPRESSED) {
        uint64_t off, len;

        q2_compressed_span(s, e, &off, &len);
        q2_drop(n, align_down(off, s->cs), q2_idx(s, align_down(off + len - 1, s->cs)) - q2_idx(s, off) + 1);
    } else if (e & Q2_OFF_MASK && !s->ext_data) {
        q2_drop(n, e & Q2_OFF_MASK, 1);
    }
}

unsigned q2_use_begin(struct q2 *s)
{
    s->users[s->epoch & 1]++;
    return s->epoch & 1;
}

void q2_use_end(struct q2 *s, unsigned token)
{
    s->users[token]--;
}

/* Lowers the refcounts of d; what nobody else holds is forgotten and punched, neighbours in one go. */
static int settle_one(struct blk_node *n, const struct q2_drop *d)
{
    struct q2 *s = n->priv;
    uint64_t run = 0; /* clusters before c to be punched */
    int r = 0;

    for (uint64_t c = 0; c <= d->nr && r >= 0; c++) {
        uint64_t off = d->off + c * s->cs, v = 0;

        if (c < d->nr)
            r = q2_ref_get(n, q2_idx(s, off), &v);
        if (r >= 0 && v == 1) {
            q2_tab_forget(&s->l2c, off);
            q2_meta_del(s, off);
            if (s->comp_off && align_down(s->comp_off - 1, s->cs) == off)
                s->comp_off = 0;
            run++;
            continue;
        }
        if (run && s->punch[d->kind])
            blk_pdiscard(n->file, off - run * s->cs, run * s->cs);
        run = 0;
    }
    return r < 0 ? r : q2_ref_add(n, q2_idx(s, d->off), d->nr, -1);
}

/* I4, I5: every reference dropped before this commit is durably gone. Lowers the refcounts of those that no request of
 * an older epoch may still be using; the rest waits for the next commit. */
static int settle_drops(struct blk_node *n)
{
    struct q2 *s = n->priv;
    size_t keep = 0, nr = s->nr_drops;
    int r = 0;

    if (!nr)
        return 0;
    if (s->users[(s->epoch + 1) & 1])
        return 0; /* the epoch cannot advance while requests of the one before the last are running */
    s->epoch++;
    for (size_t i = 0; i < nr; i++) {
        struct q2_drop d = s->drops[i];

        if (d.epoch + 1 == s->epoch && s->users[d.epoch & 1]) {
            s->drops[keep++] = d;
            continue;
        }
        if (r >= 0)
            r = settle_one(n, &d);
    }
    s->nr_drops = keep;
    return r;
}

/* ---- commit ---- */

int q2_sync(struct blk_node *n)
{
    struct q2 *s = n->priv;
    int r = blk_pflush(n->file);

    return r < 0 || s->data == n->file ? r : blk_pflush(s->data);
}

enum which { W_REF, W_FRESH_L2, W_L2 };

static int write_tabs(struct blk_node *n, struct q2_cache *c, enum which w)
{
    struct q2 *s = n->priv;
    struct q2_tab *t, **todo AUTOFREE = NULL;
    unsigned nr = 0;

    if (!c->nr_dirty)
        return 0;
    todo = try_alloc(c->nr_dirty, sizeof *todo); /* lookups reorder the list while we write */
    if (!todo)
        return -ENOMEM;
    list_each (t, &c->lru, lru)
        if (t->dirty && (w != W_FRESH_L2 || t->fresh))
            todo[nr++] = t;
    for (unsigned i = 0; i < nr; i++) {
        int r = blk_pwrite(n->file, todo[i]->off, todo[i]->data, s->cs);

        if (r < 0)
            return r;
        todo[i]->dirty = false;
        c->nr_dirty--;
    }
    return 0;
}

int q2_table_write(struct blk_node *n, uint64_t off, const uint64_t *tab, uint64_t from, uint64_t nr)
{
    uint64_t *buf AUTOFREE = try_alloc(nr ? nr : 1, 8);

    if (!buf)
        return -ENOMEM;
    for (uint64_t i = 0; i < nr; i++)
        put_be64(&buf[i], tab[from + i]);
    return blk_pwrite(n->file, off + from * 8, buf, nr * 8);
}

/* I3 for refcounts: the blocks are durable. A moved table is written whole, then the header (I6). */
static int write_reftable(struct blk_node *n)
{
    struct q2 *s = n->priv;
    int r = q2_table_write(n, s->reftable_off, s->reftable, 0, s->nr_reftable);

    if (r < 0)
        return r;
    s->reftable_dirty = false;
    r = q2_sync(n);
    if (r < 0 || !s->reftable_moved)
        return r;
    r = q2_write_header(n);
    if (r >= 0)
        r = q2_sync(n);
    if (r < 0)
        return r;
    s->reftable_moved = false;
    q2_drop(n, s->old_reftable_off, s->old_reftable_clusters);
    return 0;
}

static int write_l1(struct blk_node *n)
{
    struct q2 *s = n->priv;

    if (!s->l1_any_dirty)
        return 0;
    for (uint64_t sec = 0; sec * 64 < s->l1_size; sec++) {
        int r;

        if (!s->l1_dirty[sec])
            continue;
        r = q2_table_write(n, s->l1_off, s->l1, sec * 64, min_u64(64, s->l1_size - sec * 64));
        if (r < 0)
            return r;
        s->l1_dirty[sec] = 0;
    }
    s->l1_any_dirty = false;
    return 0;
}

void q2_set_l1(struct q2 *s, uint64_t i, uint64_t v)
{
    s->l1[i] = v;
    s->l1_dirty[i / 64] = 1;
    s->l1_any_dirty = true;
}

static void all_attached(struct q2 *s)
{
    struct q2_tab *t;

    list_each (t, &s->l2c.lru, lru)
        t->fresh = false;
}

static int commit_steps(struct blk_node *n, bool durable)
{
    struct q2 *s = n->priv;
    bool tables;
    int r = write_tabs(n, &s->refc, W_REF); /* I1: raised refcounts first */

    if (r >= 0)
        r = write_tabs(n, &s->l2c, W_FRESH_L2); /* unreachable as yet */
    tables = s->l2c.nr_dirty || s->l1_any_dirty || s->reftable_dirty;
    if (r >= 0 && tables)
        r = q2_sync(n); /* data, refcounts and new tables are durable: I1, I2, I3 */
    if (r >= 0 && s->reftable_dirty)
        r = write_reftable(n);
    if (r >= 0)
        r = write_tabs(n, &s->l2c, W_L2);
    if (r >= 0)
        r = write_l1(n);
    if (r < 0)
        return r;
    all_attached(s);
    if (durable || s->nr_drops) {
        r = q2_sync(n);
        if (r >= 0)
            r = settle_drops(n);
    }
    return r;
}

int q2_commit(struct blk_node *n, bool durable)
{
    struct q2 *s = n->priv;
    int r;

    if (!s->l2c.nr_dirty && !s->refc.nr_dirty && !s->l1_any_dirty && !s->reftable_dirty && !s->nr_drops)
        return durable ? q2_sync(n) : 0;
    assert(!s->in_commit);
    s->in_commit = true;
    r = commit_steps(n, durable);
    s->in_commit = false;
    return r;
}
