/* qcow2: checking and repairing. Counts every reference anew from the tables and compares with the stored refcounts.
 *
 * More references than counted is corruption (the next writer would destroy data), fewer is a leak. A COPIED flag on a
 * cluster with several references is corruption; a missing one merely costs a copy and is set right when repairing.
 * Leaks and counts are repaired in place; when refcount structures themselves are broken, new ones are written at the
 * end of the file and then named by the header. */
#include "blk/qcow2.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

enum { MAX_CLUSTERS = 1 << 28 };

struct walk {
    struct blk_node *n;
    struct blk_check *c;
    unsigned fix;
    uint32_t *refs; /* owned, nr entries */
    uint64_t nr;
    uint64_t next_host;
    bool rebuild;
    uint64_t bad_copied;
};

static void PRINTF_FMT(2, 3) say(struct walk *w, const char *fmt, ...)
{
    va_list ap;
    char line[200];

    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (w->c->line)
        w->c->line(w->c->opaque, line);
}

/* Counts one reference to [off, off+len). */
static bool count(struct walk *w, uint64_t off, uint64_t len, const char *what)
{
    struct q2 *s = w->n->priv;
    uint64_t first = q2_idx(s, off), last;

    if (!len)
        return true;
    if (off + len < off || (last = q2_idx(s, off + len - 1)) >= w->nr) {
        say(w, "ERROR %s at %#" PRIx64 " lies outside the image file", what, off);
        w->c->corruptions++;
        return false;
    }
    for (uint64_t i = first; i <= last; i++)
        if (w->refs[i] < UINT32_MAX)
            w->refs[i]++;
    return true;
}

static bool aligned(struct walk *w, uint64_t off, const char *what)
{
    struct q2 *s = w->n->priv;

    if (!(off & (s->cs - 1)))
        return true;
    say(w, "ERROR %s offset=%" PRIx64 ": Cluster is not properly aligned; entry corrupted.", what, off);
    w->c->corruptions++;
    return false;
}

/* One entry of an L2 table; false when it should be cleared. */
static bool walk_entry(struct walk *w, uint64_t e, uint64_t bm, bool active)
{
    struct q2 *s = w->n->priv;
    uint64_t off = e & Q2_OFF_MASK, len;

    if (e & Q2_COMPRESSED) {
        if (e & Q2_COPIED) {
            say(w, "ERROR: coffset=0x%" PRIx64 ": copied flag must never be set for compressed clusters",
                e & s->coff_mask);
            w->c->corruptions++;
        }
        q2_compressed_span(s, e, &off, &len);
        if (active) {
            w->c->compressed_clusters++;
            w->c->allocated_clusters++;
            w->c->fragmented_clusters++; /* compressed clusters count as fragmented by convention */
        }
        return count(w, align_down(off, 512), off + len - align_down(off, 512), "compressed cluster");
    }
    if (s->ext_l2 && bm & (bm >> 32) & UINT64_C(0xffffffff)) {
        say(w, "ERROR: an L2 entry has subclusters both allocated and zero");
        w->c->corruptions++;
        return false;
    }
    if (!off && !(s->ext_data && e & Q2_COPIED))
        return true;
    if (!aligned(w, off, "data cluster"))
        return false;
    if (active) {
        w->c->allocated_clusters++;
        if (w->next_host && off != w->next_host)
            w->c->fragmented_clusters++;
        w->next_host = off + s->cs;
    }
    return s->ext_data || count(w, off, s->cs, "data cluster");
}

static int clear_entry(struct walk *w, struct q2_tab *t, uint64_t k)
{
    struct q2 *s = w->n->priv;

    if (!(w->fix & BLK_FIX_ERRORS))
        return 0;
    q2_entry_write(s, t->data, k, s->version >= 3 && !s->ext_l2 ? Q2_ZERO : 0,
                   s->ext_l2 ? UINT64_C(0xffffffff) << 32 : 0);
    q2_tab_dirty(&s->l2c, t);
    w->c->corruptions_fixed++;
    return 0;
}

/* Nothing below suspends: the table stays in the cache while its entries are walked. */
static int walk_l2(struct walk *w, uint64_t off, bool active)
{
    struct q2 *s = w->n->priv;
    struct q2_tab *t;
    int r = q2_tab_get(w->n, &s->l2c, off, &t);

    for (uint64_t k = 0; r >= 0 && k < UINT64_C(1) << s->l2_bits; k++) {
        uint64_t e, bm;

        q2_entry_read(s, t->data, k, &e, &bm);
        if ((e || bm) && !walk_entry(w, e, bm, active))
            clear_entry(w, t, k);
    }
    return r < 0 ? r : 0;
}

static int walk_l1(struct walk *w, const uint64_t *l1, uint64_t nr, bool active)
{
    struct q2 *s = w->n->priv;

    for (uint64_t i = 0; i < nr; i++) {
        uint64_t off = l1[i] & Q2_OFF_MASK;
        int r;

        if (!off)
            continue;
        if (!aligned(w, off, "L2 table") || !count(w, off, s->cs, "L2 table")) {
            if (w->fix & BLK_FIX_ERRORS && active) {
                q2_set_l1(s, i, 0);
                w->c->corruptions_fixed++;
            }
            continue;
        }
        r = walk_l2(w, off, active);
        if (r < 0) {
            say(w, "ERROR: I/O error in check_refcounts_l2");
            w->c->errors++;
        }
    }
    return 0;
}

static int walk_snapshots(struct walk *w)
{
    struct q2 *s = w->n->priv;
    uint64_t len = 0;

    for (uint32_t i = 0; i < s->nr_snaps; i++) {
        struct q2_snap *x = &s->snaps[i];
        uint64_t *l1 AUTOFREE = try_alloc(x->l1_size ? x->l1_size : 1, 8);
        int r;

        len += (40 + 24 + x->extra_len + strlen(x->pub.id) + strlen(x->pub.name) + 7) & ~UINT64_C(7);
        if (!l1)
            return -ENOMEM;
        if (!count(w, x->l1_off, (uint64_t)x->l1_size * 8, "snapshot L1 table"))
            continue;
        r = blk_pread(w->n->file, x->l1_off, l1, (size_t)x->l1_size * 8);
        if (r < 0)
            return r;
        for (uint32_t k = 0; k < x->l1_size; k++)
            l1[k] = be64toh(l1[k]);
        walk_l1(w, l1, x->l1_size, false);
    }
    if (s->nr_snaps)
        count(w, s->snap_off, len, "snapshot table");
    return 0;
}

static int walk_bitmaps(struct walk *w)
{
    struct q2 *s = w->n->priv;

    if (!s->nr_bm)
        return 0;
    count(w, s->bm_dir_off, s->bm_dir_size, "bitmap directory");
    for (uint32_t i = 0; i < s->nr_bm; i++) {
        struct q2_bitmap_ref *b = &s->bm[i];
        uint64_t *t AUTOFREE = try_alloc(b->table_size ? b->table_size : 1, 8);
        int r;

        if (!t)
            return -ENOMEM;
        if (!b->table_size || !count(w, b->table_off, (uint64_t)b->table_size * 8, "bitmap table"))
            continue;
        r = blk_pread(w->n->file, b->table_off, t, (size_t)b->table_size * 8);
        if (r < 0)
            return r;
        for (uint32_t k = 0; k < b->table_size; k++)
            if (be64toh(t[k]) & Q2_OFF_MASK)
                count(w, be64toh(t[k]) & Q2_OFF_MASK, s->cs, "bitmap data");
    }
    return 0;
}

static void walk_refblocks(struct walk *w)
{
    struct q2 *s = w->n->priv;

    for (uint64_t i = 0; i < s->nr_reftable; i++) {
        uint64_t off = s->reftable[i] & Q2_OFF_MASK;

        if (!off)
            continue;
        if (off & (s->cs - 1)) {
            say(w, "ERROR refcount block %" PRIu64 " is not cluster aligned; refcount table entry corrupted", i);
            w->c->corruptions++;
            w->rebuild = true;
            continue;
        }
        if (!count(w, off, s->cs, "refcount block")) {
            w->rebuild = true;
            continue;
        }
        if (w->refs[q2_idx(s, off)] > 1) {
            say(w, "ERROR refcount block %" PRIu64 " refcount=%u", i, w->refs[q2_idx(s, off)]);
            w->c->corruptions++;
            w->rebuild = true;
        }
    }
}

static int walk_all(struct walk *w)
{
    struct q2 *s = w->n->priv;
    int r;

    count(w, 0, s->cs, "header");
    count(w, s->l1_off, (uint64_t)s->l1_size * 8, "active L1 table");
    r = walk_l1(w, s->l1, s->l1_size, true);
    if (r >= 0)
        r = walk_snapshots(w);
    if (r >= 0)
        r = walk_bitmaps(w);
    if (s->crypt_len)
        count(w, s->crypt_off, s->crypt_len, "encryption header");
    count(w, s->reftable_off, s->reftable_clusters * s->cs, "refcount table");
    walk_refblocks(w);
    return r;
}

/* One cluster whose stored count is not what was counted; blk is its refcount block, NULL = none. */
static void differs(struct walk *w, bool fix, uint64_t i, uint64_t have, uint64_t want, struct q2_tab *blk)
{
    struct q2 *s = w->n->priv;
    uint64_t mask = (UINT64_C(1) << (s->cluster_bits + 3 - s->refcount_order)) - 1;

    fix = fix && w->fix & (have < want ? BLK_FIX_ERRORS : BLK_FIX_LEAKS);
    say(w, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
        fix           ? "Repairing"
        : have < want ? "ERROR"
                      : "Leaked",
        i, have, want);
    if (have < want)
        w->c->corruptions++;
    else
        w->c->leaks++;
    if (fix && !blk) {
        w->rebuild = true;
    } else if (fix) {
        q2_refblock_set(s, blk->data, i & mask, want);
        q2_tab_dirty(&s->refc, blk);
        if (have < want)
            w->c->corruptions_fixed++;
        else
            w->c->leaks_fixed++;
    }
}

/* The clusters from i on that one refcount block counts, up to end; nothing here suspends once it is read. */
static void compare_block(struct walk *w, bool fix, uint64_t i, uint64_t end)
{
    struct q2 *s = w->n->priv;
    uint64_t bb = s->cluster_bits + 3 - s->refcount_order, b = i >> bb, mask = (UINT64_C(1) << bb) - 1;
    uint64_t off = b < s->nr_reftable ? s->reftable[b] & Q2_OFF_MASK : 0;
    struct q2_tab *t = NULL;

    if (i >= w->nr && !off)
        return; /* nothing counted here */
    if (off && !w->rebuild && q2_tab_get(w->n, &s->refc, off, &t) < 0) {
        w->c->errors++;
        w->rebuild = true;
        return;
    }
    for (; i < end; i++) {
        uint64_t have = t ? q2_refblock_get(s, t->data, i & mask) : 0, want = i < w->nr ? w->refs[i] : 0;

        if (want || have)
            w->c->image_end = (i + 1) << s->cluster_bits;
        if (have != want && !w->rebuild)
            differs(w, fix, i, have, want, t);
    }
}

/* Compares; with fix set and the structures sound, corrects in place. */
static void compare(struct walk *w, bool fix)
{
    struct q2 *s = w->n->priv;
    uint64_t bb = s->cluster_bits + 3 - s->refcount_order, top = max_u64(w->nr, s->nr_reftable << bb);

    for (uint64_t i = 0; i < top; i = ((i >> bb) + 1) << bb)
        compare_block(w, fix, i, min_u64(top, ((i >> bb) + 1) << bb));
}

/* COPIED on something with more than one reference. */
static int check_copied(struct walk *w)
{
    struct q2 *s = w->n->priv;

    for (uint64_t i = 0; i < s->l1_size; i++) {
        uint64_t off = s->l1[i] & Q2_OFF_MASK;
        struct q2_tab *t;

        if (!off || q2_idx(s, off) >= w->nr)
            continue;
        if (s->l1[i] & Q2_COPIED && w->refs[q2_idx(s, off)] > 1) {
            say(w, "ERROR OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64 " refcount=%u", i, s->l1[i],
                w->refs[q2_idx(s, off)]);
            w->c->corruptions++;
            w->bad_copied++;
        }
        if (s->ext_data || off & (s->cs - 1) || q2_tab_get(w->n, &s->l2c, off, &t) < 0)
            continue;
        for (uint64_t k = 0; k < UINT64_C(1) << s->l2_bits; k++) {
            uint64_t e, bm, host;

            q2_entry_read(s, t->data, k, &e, &bm);
            if (e & Q2_COMPRESSED || !(e & Q2_COPIED))
                continue;
            host = q2_idx(s, e & Q2_OFF_MASK);
            if (host >= w->nr || w->refs[host] <= 1)
                continue;
            say(w, "ERROR OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%u", e, w->refs[host]);
            w->c->corruptions++;
            w->bad_copied++;
        }
    }
    return 0;
}

/* New refcount blocks and table behind everything that is referenced; then the header names them. */
static int rebuild(struct walk *w)
{
    struct q2 *s = w->n->priv;
    uint64_t bb = s->cluster_bits + 3 - s->refcount_order, per = UINT64_C(1) << bb, end, blocks = 1, rt = 1, total,
             *tab;
    uint8_t *buf AUTOFREE = try_alloc(1, s->cs);
    int r = 0;

    /* old refcount structures are no longer referenced */
    for (uint64_t k = 0; k < s->reftable_clusters; k++)
        if (q2_idx(s, s->reftable_off) + k < w->nr && w->refs[q2_idx(s, s->reftable_off) + k])
            w->refs[q2_idx(s, s->reftable_off) + k]--;
    for (uint64_t i = 0; i < s->nr_reftable; i++) {
        uint64_t c = q2_idx(s, s->reftable[i] & Q2_OFF_MASK);

        if (s->reftable[i] & Q2_OFF_MASK && !(s->reftable[i] & Q2_OFF_MASK & (s->cs - 1)) && c < w->nr && w->refs[c])
            w->refs[c]--;
    }
    end = w->nr;
    while (blocks * per < end + blocks + rt || rt * s->cs / 8 < blocks)
        if (rt * s->cs / 8 < blocks)
            rt++;
        else
            blocks++;
    total = end + blocks + rt;
    tab = try_alloc(rt, s->cs);
    if (!buf || !tab || rt * s->cs > Q2_MAX_REFTABLE) {
        free(tab);
        return -ENOMEM;
    }
    q2_cache_free(&s->refc);
    if (!q2_cache_init(&s->refc, 64)) {
        free(tab);
        return -ENOMEM;
    }
    for (uint64_t b = 0; b < blocks && r >= 0; b++) {
        memset(buf, 0, s->cs);
        for (uint64_t i = b * per; i < min_u64(total, (b + 1) * per); i++)
            q2_refblock_set(s, buf, i - b * per, i >= end ? 1 : w->refs[i]);
        tab[b] = (end + b) << s->cluster_bits;
        r = blk_pwrite(w->n->file, tab[b], buf, s->cs);
    }
    if (r >= 0)
        r = q2_table_write(w->n, (end + blocks) << s->cluster_bits, tab, 0, rt * s->cs / 8);
    if (r >= 0)
        r = q2_sync(w->n);
    if (r < 0) {
        free(tab);
        return r;
    }
    free(s->reftable);
    s->reftable = tab;
    s->nr_reftable = rt * s->cs / 8;
    s->reftable_off = (end + blocks) << s->cluster_bits;
    s->reftable_clusters = (uint32_t)rt;
    w->c->image_end = total << s->cluster_bits;
    r = q2_write_header(w->n);
    return r < 0 ? r : q2_sync(w->n);
}

static int repair(struct walk *w)
{
    struct q2 *s = w->n->priv;
    bool bits = s->incompat & (Q2_INC_CORRUPT | Q2_INC_DIRTY);
    int r = 0;

    if (w->rebuild && w->fix & BLK_FIX_ERRORS) {
        uint64_t found = w->c->corruptions;

        r = rebuild(w);
        if (r >= 0)
            w->c->corruptions_fixed = found;
        w->c->errors = 0;
    }
    if (r >= 0)
        r = q2_commit(w->n, true);
    if (r >= 0 && w->fix & BLK_FIX_ERRORS) { /* flags from the counts as they are now */
        r = q2_flags_update(w->n, true);
        w->c->corruptions_fixed += w->bad_copied;
        if (r >= 0)
            r = q2_commit(w->n, true);
    }
    if (r >= 0 && bits && w->fix & BLK_FIX_ERRORS && w->c->corruptions_fixed >= w->c->corruptions) {
        s->incompat &= ~(uint64_t)(Q2_INC_CORRUPT | Q2_INC_DIRTY);
        s->corrupt = false;
        r = q2_write_header(w->n);
        if (r >= 0)
            r = q2_sync(w->n);
    }
    return r;
}

bool q2_change_refcount_bits(struct blk_node *n, unsigned order, struct err **errp)
{
    struct q2 *s = n->priv;
    struct blk_check c = {0};
    struct walk w = {.n = n, .c = &c};
    unsigned was = s->refcount_order;
    int r = q2_commit(n, true);

    w.nr = div_up(n->file->node->size, s->cs);
    if (w.nr > MAX_CLUSTERS || !(w.refs = try_alloc(w.nr + 1, sizeof *w.refs)))
        return err_set_errno(errp, ENOMEM, "Failed to change the refcount width");
    if (r >= 0)
        r = walk_all(&w);
    if (r >= 0)
        compare(&w, false);
    if (r >= 0 && (c.corruptions || c.errors || w.rebuild)) {
        free(w.refs);
        return err_set(errp, "Cannot change the refcount width of a damaged image; repair it first");
    }
    s->refcount_order = order;
    for (uint64_t i = 0; i < w.nr && r >= 0; i++)
        if (w.refs[i] > q2_ref_max(s))
            r = -ERANGE;
    if (r >= 0)
        r = rebuild(&w);
    if (r < 0)
        s->refcount_order = was; /* the header still names the old structures */
    s->hint = 0;
    if (s->meta_built)
        q2_meta_build(n);
    free(w.refs);
    if (r == -ERANGE)
        return err_set(errp, "Cannot decrease refcount entry width to %u bits: Cluster has a too large refcount",
                       1u << order);
    return r >= 0 || err_set_errno(errp, -r, "Failed to change the refcount width");
}

int q2_check(struct blk_node *n, struct blk_check *c, unsigned fix)
{
    struct q2 *s = n->priv;
    struct walk w = {.n = n, .c = c, .fix = n->open_flags & BLK_O_RDWR ? fix : 0};
    int r;

    w.nr = div_up(n->file->node->size, s->cs);
    if (w.nr > MAX_CLUSTERS || !(w.refs = try_alloc(w.nr + 1, sizeof *w.refs)))
        return -ENOMEM;
    c->total_clusters = div_up(n->size, s->cs);
    c->have_clusters = true;
    r = walk_all(&w);
    if (r >= 0)
        compare(&w, w.fix);
    if (r >= 0)
        r = check_copied(&w);
    if (w.rebuild && r >= 0 && !w.fix)
        c->errors += !c->corruptions;
    if (r >= 0 && w.fix)
        r = repair(&w);
    free(w.refs);
    return r;
}
