/* qcow2: what -drive and -blockdev say about one image: cache sizes and how long tables stay in them, which checks
 * guard the tables, which freed clusters are given back to the host. */
#include "blk/blk_int.h"
#include "blk/qcow2.h"
#include <malloc.h>

/* ---- caches ---- */

static bool take_caches(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;
    uint64_t l2 = 32 * MIB, ref = max_u64(8 * s->cs, MIB), total = 0, entry = s->cs, interval = 600;
    uint64_t need = div_up(n->size, UINT64_C(1) << (s->cluster_bits + s->l2_bits)) * s->cs;
    bool has_l2 = opts_peek(o, "l2-cache-size"), has_ref = opts_peek(o, "refcount-cache-size");

    if (!opts_size(o, "l2-cache-size", &l2, errp) || !opts_size(o, "refcount-cache-size", &ref, errp) ||
        !opts_size(o, "cache-size", &total, errp) || !opts_size(o, "l2-cache-entry-size", &entry, errp) ||
        !opts_u64(o, "cache-clean-interval", &interval, errp))
        return false;
    if (entry < 512 || entry > s->cs || !is_pow2(entry))
        return err_set(
            errp, "L2 cache entry size must be a power of two between 512 and the cluster size (%" PRIu64 ")", s->cs);
    if (opts_peek(o, "cache-size")) {
        if (has_l2 && has_ref)
            return err_set(errp, "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
        if ((has_l2 && l2 > total) || (has_ref && ref > total))
            return err_set(errp, "%s may not exceed cache-size", has_l2 ? "l2-cache-size" : "refcount-cache-size");
        if (has_l2)
            ref = total - l2;
        else if (has_ref)
            l2 = total - ref;
        else {
            ref = min_u64(ref, total / 4);
            l2 = total - ref;
        }
    }
    if (!has_l2)
        l2 = min_u64(l2, max_u64(need, 16 * s->cs));
    if (interval > UINT32_MAX)
        return err_set(errp, "Cache clean interval too big");
    s->clean_interval = (unsigned)interval;
    if (!q2_cache_init(&s->l2c, (unsigned)min_u64(l2 / s->cs, 1 << 24)) ||
        !q2_cache_init(&s->refc, (unsigned)min_u64(ref / s->cs, 1 << 24)))
        return err_set(errp, "Could not allocate the metadata caches");
    return true;
}

/* A table nobody asked for since the last sweep leaves. Only while nobody holds the lock, and so no table. */
static bool sweep(struct q2_cache *c)
{
    struct q2_tab *t, *tmp;
    unsigned before = c->nr;

    list_each_safe (t, tmp, &c->lru, lru)
        if (!t->dirty && t->used <= c->swept)
            q2_tab_drop(c, t);
    c->swept = c->tick;
    return c->nr < before;
}

static void cleaner_rearm(struct q2 *s)
{
    clk_timer_set(&s->cleaner, clk_now(s->clk) + (int64_t)s->clean_interval * NS_PER_SEC);
}

static void cleaner_ring(void *opaque)
{
    struct q2 *s = opaque;

    if (!s->lock.locked && !s->in_commit) {
        bool freed = sweep(&s->l2c);

        if (sweep(&s->refc) || freed)
            malloc_trim(0); /* the point is that others can have the memory */
    }
    cleaner_rearm(s);
}

void q2_cleaner_start(struct blk_node *n)
{
    struct q2 *s = n->priv;

    if (!s->clean_interval)
        return;
    s->clk = n->set->run->real;
    clk_timer_init(&s->cleaner, s->clk, cleaner_ring, s);
    s->cleaner_on = true;
    cleaner_rearm(s);
}

void q2_cleaner_stop(struct q2 *s)
{
    if (s->cleaner_on)
        clk_timer_cancel(&s->cleaner);
    s->cleaner_on = false;
}

/* ---- guards ---- */

static const struct {
    const char *name;
    unsigned bit;
} guards[] = {
    {"main-header", Q2_OV_HEADER},
    {"active-l1", Q2_OV_L1},
    {"active-l2", Q2_OV_L2},
    {"refcount-table", Q2_OV_REFTABLE},
    {"refcount-block", Q2_OV_REFBLOCK},
    {"snapshot-table", Q2_OV_SNAPSHOTS},
    {"inactive-l1", Q2_OV_INACTIVE_L1},
    {"inactive-l2", Q2_OV_INACTIVE_L2},
    {"bitmap-directory", Q2_OV_BITMAPS},
};
static const struct {
    const char *name;
    unsigned bits;
} templates[] = {{"none", 0}, {"constant", Q2_OV_CONSTANT}, {"cached", Q2_OV_CACHED}, {"all", Q2_OV_ALL}};

static bool take_overlap(struct q2 *s, struct opts *o, struct err **errp)
{
    const char *v = opts_get(o, "overlap-check"), *t = opts_get(o, "overlap-check.template");

    s->overlap = Q2_OV_CACHED;
    if (v && t && strcmp(v, t) != 0)
        return err_set(errp,
                       "Conflicting values for qcow2 options 'overlap-check' ('%s') and "
                       "'overlap-check.template' ('%s')",
                       v, t);
    v = v ? v : t;
    if (v) {
        size_t i = 0;

        while (i < ARRAY_LEN(templates) && strcmp(templates[i].name, v) != 0)
            i++;
        if (i == ARRAY_LEN(templates))
            return err_set(errp,
                           "Unsupported value '%s' for qcow2 option 'overlap-check'. Allowed are any of the "
                           "following: none, constant, cached, all",
                           v);
        s->overlap = templates[i].bits;
    }
    for (size_t i = 0; i < ARRAY_LEN(guards); i++) {
        char *key AUTOFREE = xasprintf("overlap-check.%s", guards[i].name);
        bool on = s->overlap & guards[i].bit;

        if (!opts_bool(o, key, &on, errp))
            return false;
        s->overlap = on ? s->overlap | guards[i].bit : s->overlap & ~guards[i].bit;
    }
    return true;
}

/* ---- all of them ---- */

static bool take_discards(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;
    bool request = n->open_flags & BLK_O_UNMAP, snapshot = true, other = false;

    if (!opts_bool(o, "pass-discard-request", &request, errp) ||
        !opts_bool(o, "pass-discard-snapshot", &snapshot, errp) || !opts_bool(o, "pass-discard-other", &other, errp))
        return false;
    s->punch[Q2_DROP_OTHER] = other;
    s->punch[Q2_DROP_REQUEST] = request;
    s->punch[Q2_DROP_SNAPSHOT] = snapshot;
    return true;
}

bool q2_take_opts(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;
    bool lazy = s->compat & Q2_COMPAT_LAZY;

    if (!opts_bool(o, "lazy-refcounts", &lazy, errp)) /* a permission: the order of our writes needs no delay */
        return false;
    if (lazy && s->version < 3)
        return err_set(errp, "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
    return take_caches(n, o, errp) && take_overlap(s, o, errp) && take_discards(n, o, errp);
}
