/* qcow2: from guest offsets to host clusters; reading, writing, zeroing, discarding. Invariants I1..I8: qcow2.h.
 *
 * A write into clusters that may not be written in place (unallocated, shared, compressed, zero) goes in three steps:
 * under the lock host clusters are allocated and the guest range is put on q2->busy; without the lock the data and what
 * has to be copied around it are written; under the lock the L2 entries are set. Others who want to write the range
 * wait. Readers see the old mapping until the last step. */
#include "blk/compress.h"
#include "blk/qcow2.h"
#include <errno.h>

/* ---- entries ---- */

void q2_entry_read(const struct q2 *s, const uint8_t *tab, uint64_t i, uint64_t *e, uint64_t *bm)
{
    *e = get_be64(tab + i * s->entry_size);
    *bm = s->ext_l2 ? get_be64(tab + i * 16 + 8) : 0;
}

void q2_entry_write(const struct q2 *s, uint8_t *tab, uint64_t i, uint64_t e, uint64_t bm)
{
    put_be64(tab + i * s->entry_size, e);
    if (s->ext_l2)
        put_be64(tab + i * 16 + 8, bm);
}

static uint64_t l1_index(const struct q2 *s, uint64_t off)
{
    return off >> (s->cluster_bits + s->l2_bits);
}

static uint64_t l2_index(const struct q2 *s, uint64_t off)
{
    return (off >> s->cluster_bits) & ((UINT64_C(1) << s->l2_bits) - 1);
}

/* What one (sub)cluster is. v2 images know no zero flag. */
static void classify(const struct q2 *s, uint64_t e, uint64_t bm, unsigned sub, struct q2_run *r)
{
    uint64_t host = e & Q2_OFF_MASK;

    *r = (struct q2_run){.kind = Q2K_UNALLOC};
    if (e & Q2_COMPRESSED) {
        *r = (struct q2_run){.kind = Q2K_COMPRESSED, .host = e};
        return;
    }
    r->has_host = host != 0 || (s->ext_data && e & Q2_COPIED);
    r->host = host + sub * s->sc;
    r->copied = r->has_host && e & Q2_COPIED;
    if (s->ext_l2) {
        if (bm >> (32 + sub) & 1)
            r->kind = Q2K_ZERO;
        else if (bm >> sub & 1 && r->has_host)
            r->kind = Q2K_DATA;
    } else if (s->version >= 3 && e & Q2_ZERO) {
        r->kind = Q2K_ZERO;
    } else if (r->has_host) {
        r->kind = Q2K_DATA;
    }
}

/* The table of an L1 entry, from the cache without the lock when it is there. *t NULL: no table. */
static int l2_peek_or_load(struct blk_node *n, uint64_t l1i, struct q2_tab **t, bool locked)
{
    struct q2 *s = n->priv;
    uint64_t off;
    int r;

    *t = NULL;
    if (l1i >= s->l1_size || !(off = s->l1[l1i] & Q2_OFF_MASK))
        return 0;
    *t = q2_cache_peek(&s->l2c, off);
    if (*t)
        return 0;
    if (!locked)
        fibre_mutex_lock(&s->lock);
    off = s->l1[l1i] & Q2_OFF_MASK; /* it may have moved while we waited */
    r = off ? q2_tab_get(n, &s->l2c, off, t) : 0;
    if (!locked)
        fibre_mutex_unlock(&s->lock); /* may run others: look again in the cache */
    if (!locked && r >= 0 && off)
        *t = q2_cache_peek(&s->l2c, s->l1[l1i] & Q2_OFF_MASK);
    return r;
}

static int check_host(struct blk_node *n, const struct q2_run *r)
{
    struct q2 *s = n->priv;

    if ((r->kind == Q2K_DATA || r->has_host) && r->kind != Q2K_COMPRESSED && (r->host & (s->sc - 1)))
        return q2_mark_corrupt(n, "a data cluster offset is not aligned", r->host);
    return 0;
}

/* The run of equal kind starting at off; at most to the end of its L2 table. */
static int map_locked(struct blk_node *n, uint64_t off, uint64_t len, struct q2_run *r, bool locked)
{
    struct q2 *s = n->priv;
    uint64_t span = UINT64_C(1) << (s->cluster_bits + s->l2_bits), in = off & (s->sc - 1), done;
    unsigned subs = s->ext_l2 ? 32 : 1;
    struct q2_tab *t;
    int e;

    len = min_u64(len, span - (off & (span - 1)));
again:
    e = l2_peek_or_load(n, l1_index(s, off), &t, locked);
    if (e < 0)
        return e;
    if (!t) {
        if (l1_index(s, off) < s->l1_size && s->l1[l1_index(s, off)] & Q2_OFF_MASK)
            goto again; /* evicted while we waited for the lock */
        *r = (struct q2_run){.kind = Q2K_UNALLOC, .len = len};
        return 0;
    }
    for (done = 0; done < len;) {
        uint64_t o = off + done, i = l2_index(s, o), ent, bm;
        unsigned sub = (unsigned)((o & (s->cs - 1)) / s->sc) % subs;
        struct q2_run x;

        q2_entry_read(s, t->data, i, &ent, &bm);
        classify(s, ent, bm, sub, &x);
        if (!done) {
            *r = x;
            if (x.kind != Q2K_COMPRESSED)
                r->host += in;
        } else if (x.kind != r->kind || x.copied != r->copied || x.has_host != r->has_host ||
                   x.kind == Q2K_COMPRESSED || (x.has_host && x.host != r->host + done)) {
            break;
        }
        done += (x.kind == Q2K_COMPRESSED ? s->cs - (o & (s->cs - 1)) : s->sc - (o & (s->sc - 1)));
    }
    r->len = min_u64(done, len);
    if (r->has_host && in && r->kind != Q2K_COMPRESSED) {
        struct q2_run base = *r;

        base.host -= in;
        return check_host(n, &base);
    }
    return check_host(n, r);
}

int q2_map(struct blk_node *n, uint64_t off, uint64_t len, struct q2_run *r)
{
    return map_locked(n, off, len, r, false);
}

/* ---- reading ---- */

/* Where [qoff, qoff+len) lies in memory when that is one piece, else NULL. */
static uint8_t *one_piece(const struct iov *q, uint64_t qoff, uint64_t len)
{
    for (unsigned i = 0; i < q->nr; i++) {
        if (qoff < q->v[i].iov_len)
            return q->v[i].iov_len - qoff >= len ? (uint8_t *)q->v[i].iov_base + qoff : NULL;
        qoff -= q->v[i].iov_len;
    }
    return NULL;
}

static int unpack(struct blk_node *n, uint64_t entry, uint8_t *dst)
{
    struct q2 *s = n->priv;
    uint64_t off, clen;
    uint8_t *src AUTOFREE = NULL;
    int r;

    q2_compressed_span(s, entry, &off, &clen);
    src = try_alloc(1, clen);
    if (!src)
        return -ENOMEM;
    r = blk_pread(n->file, off, src, clen);
    return r < 0 ? r : blk_decompress(n->set, s->zstd ? BLK_ZSTD : BLK_DEFLATE, src, clen, dst, s->cs);
}

/* A whole cluster goes straight to its place; of one read in parts the last is kept. */
static int read_compressed(struct blk_node *n, uint64_t entry, uint64_t in, uint64_t len, const struct iov *q,
                           uint64_t qoff)
{
    struct q2 *s = n->priv;
    uint8_t *dst, *place = len == s->cs ? one_piece(q, qoff, len) : NULL;
    int r;

    if (s->comp_cache && s->comp_cache_entry == entry) {
        iov_from_buf(q, qoff, s->comp_cache + in, len);
        return 0;
    }
    if (place)
        return unpack(n, entry, place);
    dst = try_alloc(1, s->cs);
    r = dst ? unpack(n, entry, dst) : -ENOMEM;
    if (r < 0) {
        free(dst);
        return r;
    }
    iov_from_buf(q, qoff, dst + in, len);
    free(s->comp_cache);
    s->comp_cache = dst;
    s->comp_cache_entry = entry;
    return 0;
}

static int read_backing(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    if (n->backing)
        return blk_preadv(n->backing, off, len, q, qoff, 0);
    iov_set(q, qoff, 0, len);
    return 0;
}

static int read_run(struct blk_node *n, uint64_t off, const struct q2_run *r, const struct iov *q, uint64_t qoff)
{
    struct q2 *s = n->priv;

    switch (r->kind) {
    case Q2K_ZERO:
        iov_set(q, qoff, 0, r->len);
        return 0;
    case Q2K_UNALLOC:
        return read_backing(n, off, r->len, q, qoff);
    case Q2K_COMPRESSED:
        return read_compressed(n, r->host, off & (s->cs - 1), r->len, q, qoff);
    default:
        return q2_data_read(n, off, r->host, r->len, q, qoff);
    }
}

int q2_read(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct q2 *s = n->priv;

    while (len) {
        unsigned token = q2_use_begin(s);
        struct q2_run run;
        int r = q2_map(n, off, len, &run);

        if (r >= 0)
            r = read_run(n, off, &run, q, qoff);
        q2_use_end(s, token);
        if (r < 0)
            return r;
        off += run.len;
        qoff += run.len;
        len -= run.len;
    }
    return 0;
}

/* ---- ranges being given clusters ---- */

struct busy_wait {
    struct list link;
    struct fibre *f;
};

static struct q2_busy *busy_find(struct q2 *s, uint64_t first, uint64_t nr)
{
    struct q2_busy *b;

    list_each (b, &s->busy, link)
        if (first < b->first + b->nr && b->first < first + nr)
            return b;
    return NULL;
}

/* Lock held; returns with it held and nobody busy in the range. */
static void busy_wait(struct blk_node *n, uint64_t first, uint64_t nr)
{
    struct q2 *s = n->priv;
    struct q2_busy *b;

    while ((b = busy_find(s, first, nr))) {
        struct busy_wait w = {.f = fibre_self()};

        assert(w.f);
        list_add(&b->waiters, &w.link);
        fibre_mutex_unlock(&s->lock);
        fibre_yield();
        fibre_mutex_lock(&s->lock);
    }
}

void q2_quiet(struct blk_node *n)
{
    busy_wait(n, 0, UINT64_MAX >> 1);
}

static void busy_begin(struct q2 *s, struct q2_busy *b, uint64_t first, uint64_t nr)
{
    *b = (struct q2_busy){.first = first, .nr = nr};
    list_init(&b->waiters);
    list_add(&s->busy, &b->link);
}

static void busy_end(struct blk_node *n, struct q2_busy *b)
{
    struct busy_wait *w, *tmp;

    list_del(&b->link);
    list_each_safe (w, tmp, &b->waiters, link) {
        list_del(&w->link);
        fibre_wake(blk_set_loop(n->set), w->f);
    }
}

/* ---- L2 tables for writing ---- */

int q2_l2_for_write(struct blk_node *n, uint64_t l1i, struct q2_tab **out)
{
    struct q2 *s = n->priv;
    uint64_t old, off;
    struct q2_tab *t, *src;
    uint8_t *copy AUTOFREE = NULL;
    int r;

    if (l1i >= s->l1_size) {
        r = q2_grow_l1(n, l1i + 1, false);
        if (r < 0)
            return r;
    }
    old = s->l1[l1i] & Q2_OFF_MASK;
    if (old && s->l1[l1i] & Q2_COPIED)
        return q2_tab_get(n, &s->l2c, old, out);
    if (old) { /* shared with a snapshot */
        r = q2_tab_get(n, &s->l2c, old, &src);
        if (r < 0)
            return r;
        copy = try_alloc(1, s->cs);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, src->data, s->cs);
    }
    r = q2_alloc(n, 1, true, &off, NULL);
    if (r < 0)
        return r;
    r = q2_tab_new(n, &s->l2c, off, &t);
    if (r >= 0 && !q2_meta_add(s, off))
        r = -ENOMEM;
    if (r < 0) {
        q2_tab_forget(&s->l2c, off);
        q2_unalloc(n, off, 1);
        return r;
    }
    if (copy)
        memcpy(t->data, copy, s->cs);
    t->fresh = true;
    q2_set_l1(s, l1i, off | Q2_COPIED); /* nothing between q2_tab_new and here may commit (I3) */
    if (old)
        q2_drop(n, old, 1);
    *out = t;
    return 0;
}

int q2_grow_l1(struct blk_node *n, uint64_t entries, bool exact)
{
    struct q2 *s = n->priv;
    uint64_t want = exact ? entries : max_u64(entries, s->l1_size + s->l1_size / 2), clusters, off, was = s->l1_off;
    uint64_t was_clusters = div_up((uint64_t)s->l1_size * 8, s->cs), *l1;
    uint32_t was_size = s->l1_size;
    uint8_t *dirty;
    int r;

    if (want <= s->l1_size)
        return 0;
    if (want > Q2_MAX_L1 / 8)
        want = entries;
    if (want > Q2_MAX_L1 / 8)
        return -EFBIG;
    r = q2_commit(n, false); /* the old table is up to date before it is copied */
    if (r < 0)
        return r;
    clusters = div_up(want * 8, s->cs);
    l1 = try_alloc(want, 8);
    dirty = try_alloc(want / 64 + 1, 1);
    if (!l1 || !dirty) {
        free(l1);
        free(dirty);
        return -ENOMEM;
    }
    r = q2_alloc(n, clusters, true, &off, NULL);
    if (r >= 0) {
        memcpy(l1, s->l1, (size_t)s->l1_size * 8);
        r = q2_table_write(n, off, l1, 0, want);
        if (r >= 0 && clusters * s->cs > want * 8)
            r = blk_pwrite_zeroes(n->file, off + want * 8, clusters * s->cs - want * 8, 0);
        if (r >= 0)
            r = q2_commit(n, true); /* refcounts and the new table are durable before the header names it */
        if (r < 0)
            q2_unalloc(n, off, clusters);
    }
    if (r < 0) {
        free(l1);
        free(dirty);
        return r;
    }
    s->l1_off = off;
    s->l1_size = (uint32_t)want;
    r = q2_write_header(n);
    if (r >= 0)
        r = q2_sync(n);
    if (r < 0) { /* unknown which table the header names: both stay allocated, nothing more is written */
        s->l1_off = was;
        s->l1_size = was_size;
        s->corrupt = true;
        free(l1);
        free(dirty);
        return r;
    }
    memcpy(l1, s->l1, (size_t)was_size * 8);
    free(s->l1);
    free(s->l1_dirty);
    s->l1 = l1;
    s->l1_dirty = dirty;
    if (was_clusters)
        q2_drop(n, was, was_clusters);
    return 0;
}

/* ---- writing ---- */

struct job {
    struct blk_node *n;
    uint64_t off, len; /* guest range of the data */
    uint64_t lo, hi;   /* guest range written, with what is copied around the data */
    uint64_t host;     /* host offset of the cluster that holds lo */
    bool keep;         /* host clusters were there already */
    bool fresh;        /* host clusters lie beyond the end of the file: they read as zeros */
    bool whole;        /* old contents copied: every subcluster becomes allocated */
    struct q2_busy busy;
};

/* How many clusters from off on need a new host cluster (and stay in one L2 table), at most those len touches. */
static uint64_t count_new(struct blk_node *n, struct q2_tab *t, uint64_t off, uint64_t len)
{
    struct q2 *s = n->priv;
    uint64_t i = l2_index(s, off),
             last = min_u64(i + div_up((off & (s->cs - 1)) + len, s->cs), UINT64_C(1) << s->l2_bits), k;

    for (k = i; k < last; k++) {
        uint64_t e, bm;

        if (t)
            q2_entry_read(s, t->data, k, &e, &bm);
        else
            e = bm = 0;
        if (!(e & Q2_COMPRESSED) && e & Q2_COPIED)
            break; /* has its own host cluster */
    }
    return k - i;
}

/* Does any cluster in [off, off + nr clusters) hold old contents in this image, shared or compressed? */
static bool holds_old(struct q2 *s, struct q2_tab *t, uint64_t off, uint64_t nr)
{
    uint64_t i = l2_index(s, off);

    for (uint64_t k = i; t && k < i + nr; k++) {
        uint64_t e, bm;

        q2_entry_read(s, t->data, k, &e, &bm);
        if (e & (Q2_COMPRESSED | Q2_OFF_MASK))
            return true;
    }
    return false;
}

static int alloc_hosts(struct blk_node *n, struct job *j, uint64_t nr)
{
    struct q2 *s = n->priv;
    uint64_t first = align_down(j->off, s->cs), got;
    const char *what;
    int r;

    if (s->ext_data) { /* the data file is laid out as the guest sees it */
        j->host = first;
        got = nr;
    } else {
        uint64_t end = n->file->node->size;

        r = q2_alloc(n, nr, false, &j->host, &got);
        if (r < 0)
            return r;
        j->fresh = j->host >= align_up(end, s->cs);
        if (q2_meta_overlap(n, j->host, got * s->cs, &what))
            return q2_mark_corrupt(n, "guest data was about to overwrite a table", j->host);
    }
    j->len = min_u64(j->len, first + got * s->cs - j->off);
    busy_begin(s, &j->busy, q2_idx(s, first), got);
    return 0;
}

/* Lock held. Decides how the first part of [off, off+len) is written. 1: in place, run says where; 0: job filled in. */
static int prepare(struct blk_node *n, uint64_t off, uint64_t len, struct job *j, struct q2_run *run)
{
    struct q2 *s = n->priv;
    struct q2_tab *t;
    uint64_t nr;
    int r;

    busy_wait(n, q2_idx(s, off), div_up((off & (s->cs - 1)) + len, s->cs));
    r = map_locked(n, off, len, run, true);
    if (r < 0)
        return r;
    if (run->kind == Q2K_DATA && run->copied)
        return 1;
    *j = (struct job){.n = n, .off = off, .len = min_u64(len, run->len)};
    if (run->has_host && run->copied) { /* own cluster, not in use as data yet */
        j->keep = true;
        j->len = min_u64(j->len, s->cs - (off & (s->cs - 1)));
        j->host = run->host - (off & (s->cs - 1));
        busy_begin(s, &j->busy, q2_idx(s, off), 1);
    } else {
        r = l2_peek_or_load(n, l1_index(s, off), &t, true);
        if (r < 0)
            return r;
        nr = count_new(n, t, off, len);
        if (!nr)
            return q2_mark_corrupt(n, "an L2 entry is marked as its own but has no cluster", off);
        j->whole = holds_old(s, t, off, nr);
        j->len = len;
        r = alloc_hosts(n, j, nr);
        if (r < 0)
            return r;
    }
    if (j->whole) {
        j->lo = align_down(off, s->cs);
        j->hi = align_up(off + j->len, s->cs);
    } else {
        j->lo = align_down(off, s->sc);
        j->hi = align_up(off + j->len, s->sc);
    }
    return 0;
}

/* True when the guest range reads as zeros by what the tables say and there is no backing file. */
static bool old_is_zero(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct q2_run run;

    while (len) {
        if (q2_map(n, off, len, &run) < 0 || run.kind == Q2K_DATA || run.kind == Q2K_COMPRESSED)
            return false;
        if (run.kind == Q2K_UNALLOC && n->backing && off < n->backing->node->size)
            return false;
        off += run.len;
        len -= run.len;
    }
    return true;
}

/* I2: the data and what surrounds it, in one write. */
static int write_job(struct job *j, const struct iov *q, uint64_t qoff)
{
    struct blk_node *n = j->n;
    struct q2 *s = n->priv;
    uint64_t head = j->off - j->lo, tail = j->hi - (j->off + j->len), base = align_down(j->lo, s->cs);
    uint8_t *buf AUTOFREE = NULL;
    struct iov all;
    int r = 0;

    if (head && j->fresh && !s->crypt_method && old_is_zero(n, j->lo, head))
        head = 0;
    if (tail && j->fresh && !s->crypt_method && old_is_zero(n, j->off + j->len, tail))
        tail = 0;
    if (!head && !tail)
        return q2_data_write(n, j->off, j->host + (j->off - base), j->len, q, qoff);
    buf = try_alloc(1, head + tail);
    if (!buf)
        return -ENOMEM;
    iov_init(&all, q->nr + 2);
    if (head) {
        struct iovec v = {buf, head};
        struct iov hq;

        iov_init_ext(&hq, &v, 1);
        r = q2_read(n, j->off - head, head, &hq, 0);
    }
    if (tail && r >= 0) {
        struct iovec v = {buf + head, tail};
        struct iov tq;

        iov_init_ext(&tq, &v, 1);
        r = q2_read(n, j->off + j->len, tail, &tq, 0);
    }
    iov_add(&all, buf, head);
    iov_add_part(&all, q, qoff, j->len);
    iov_add(&all, buf + head, tail);
    if (r >= 0)
        r = q2_data_write(n, j->off - head, j->host + (j->off - head - base), all.len, &all, 0);
    iov_free(&all);
    return r;
}

static uint64_t sub_mask(const struct q2 *s, uint64_t cluster, uint64_t lo, uint64_t hi)
{
    uint64_t a = lo > cluster ? (lo - cluster) / s->sc : 0, z = hi < cluster + s->cs ? div_up(hi - cluster, s->sc) : 32;

    return ((UINT64_C(1) << z) - 1) & ~((UINT64_C(1) << a) - 1);
}

/* Lock held: makes the job's clusters what the guest sees. */
static int link_job(struct job *j)
{
    struct blk_node *n = j->n;
    struct q2 *s = n->priv;
    struct q2_tab *t;
    int r = q2_l2_for_write(n, l1_index(s, j->off), &t);

    if (r < 0)
        return r;
    for (uint64_t k = 0; k < j->busy.nr; k++) {
        uint64_t guest = (j->busy.first + k) << s->cluster_bits, host = j->host + k * s->cs, e, bm, m;

        q2_entry_read(s, t->data, l2_index(s, guest), &e, &bm);
        if (!j->keep)
            q2_drop_entry(n, e);
        m = s->ext_l2 ? j->whole ? UINT64_C(0xffffffff) : sub_mask(s, guest, j->lo, j->hi) : 0;
        if (j->whole)
            bm = 0;
        bm = (bm | m) & ~(m << 32);
        q2_entry_write(s, t->data, l2_index(s, guest), host | Q2_COPIED, bm);
    }
    q2_tab_dirty(&s->l2c, t);
    return 0;
}

static int finish_job(struct job *j, int r)
{
    struct blk_node *n = j->n;
    struct q2 *s = n->priv;

    fibre_mutex_lock(&s->lock);
    if (r >= 0)
        r = link_job(j);
    if (r < 0 && !j->keep && !s->ext_data)
        q2_unalloc(n, j->host, j->busy.nr);
    busy_end(n, &j->busy);
    fibre_mutex_unlock(&s->lock);
    return r;
}

/* In place and no lock, when the mapping is in memory. */
static bool try_in_place(struct blk_node *n, uint64_t off, uint64_t len, struct q2_run *run)
{
    struct q2 *s = n->priv;
    uint64_t i = l1_index(s, off);

    if (i >= s->l1_size || !(s->l1[i] & Q2_COPIED) || !q2_cache_peek(&s->l2c, s->l1[i] & Q2_OFF_MASK))
        return false;
    return map_locked(n, off, len, run, false) >= 0 && run->kind == Q2K_DATA && run->copied;
}

int q2_write(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct q2 *s = n->priv;
    const char *what;

    if (s->corrupt)
        return -EIO;
    while (len) {
        unsigned token = q2_use_begin(s);
        struct q2_run run;
        struct job j;
        uint64_t part = 0;
        int r = 1;

        if (!try_in_place(n, off, len, &run)) {
            fibre_mutex_lock(&s->lock);
            r = prepare(n, off, len, &j, &run);
            fibre_mutex_unlock(&s->lock);
        }
        if (r == 1 && !s->ext_data && q2_meta_overlap(n, run.host, run.len, &what))
            r = q2_mark_corrupt(n, "guest data was about to overwrite a table", run.host);
        if (r == 1) {
            part = run.len;
            r = q2_data_write(n, off, run.host, part, q, qoff);
        } else if (r == 0) {
            part = j.len;
            r = finish_job(&j, write_job(&j, q, qoff));
        }
        q2_use_end(s, token);
        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

/* ---- zeroes and discard, whole clusters or subclusters ---- */

static bool nothing_there(struct q2 *s, uint64_t l1i)
{
    return l1i >= s->l1_size || !(s->l1[l1i] & Q2_OFF_MASK);
}

/* Covered by backing data that would shine through a hole? */
static bool backed(const struct blk_node *n, uint64_t off)
{
    return n->backing && off < n->backing->node->size;
}

/* Lock held: one cluster, [lo, hi) within it. to_backing: forget rather than zero. */
static int erase_cluster(struct blk_node *n, struct q2_tab *t, uint64_t lo, uint64_t hi, bool unmap, bool to_backing)
{
    struct q2 *s = n->priv;
    uint64_t guest = align_down(lo, s->cs), i = l2_index(s, guest), e, bm, ne, nbm = 0;
    bool whole = lo == guest && hi == guest + s->cs;

    q2_entry_read(s, t->data, i, &e, &bm);
    if (!e && !bm && !backed(n, guest))
        return 0; /* reads as zeros already */
    if (s->ext_l2 && !whole) {
        uint64_t m = sub_mask(s, guest, lo, hi);

        if (e & Q2_COMPRESSED || (e & Q2_OFF_MASK && !(e & Q2_COPIED)))
            return -ENOTSUP; /* written out as zero bytes instead */
        ne = e;
        nbm = (bm & ~m) | (m << 32);
    } else {
        bool keep = !unmap && !to_backing && e & Q2_COPIED && !(e & Q2_COMPRESSED);
        bool zero = !to_backing && (s->version >= 3);

        ne = (keep ? e & (Q2_OFF_MASK | Q2_COPIED) : s->ext_data && s->data_raw ? e & (Q2_OFF_MASK | Q2_COPIED) : 0);
        if (s->ext_l2)
            nbm = zero ? UINT64_C(0xffffffff) << 32 : 0;
        else
            ne |= zero ? Q2_ZERO : 0;
        if (!(ne & (Q2_OFF_MASK | Q2_COPIED)))
            q2_drop_entry(n, e);
        if (s->ext_data && !(ne & Q2_COPIED) && e & Q2_COPIED && unmap)
            blk_pdiscard(s->data, e & Q2_OFF_MASK, s->cs);
    }
    if (ne == e && nbm == bm)
        return 0;
    q2_entry_write(s, t->data, i, ne, nbm);
    q2_tab_dirty(&s->l2c, t);
    return 0;
}

static int erase(struct blk_node *n, uint64_t off, uint64_t len, bool unmap, bool to_backing)
{
    struct q2 *s = n->priv;
    uint64_t end = off + len, span = UINT64_C(1) << (s->cluster_bits + s->l2_bits);
    int r = 0;

    if (s->corrupt)
        return -EIO;
    if (end == n->size)
        end = align_up(end, s->cs);
    fibre_mutex_lock(&s->lock);
    busy_wait(n, q2_idx(s, off), div_up((off & (s->cs - 1)) + (end - off), s->cs));
    s->drop_kind = Q2_DROP_REQUEST;
    while (off < end && r >= 0) {
        uint64_t part = min_u64(end - off, s->cs - (off & (s->cs - 1)));
        struct q2_tab *t;

        if (nothing_there(s, l1_index(s, off)) && (to_backing || !backed(n, off))) {
            off = min_u64(end, align_down(off, span) + span);
            continue;
        }
        r = q2_l2_for_write(n, l1_index(s, off), &t);
        if (r >= 0)
            r = erase_cluster(n, t, off, off + part, unmap, to_backing);
        off += part;
    }
    s->drop_kind = Q2_DROP_OTHER;
    fibre_mutex_unlock(&s->lock);
    return r;
}

int q2_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct q2 *s = n->priv;

    if (s->version < 3 && n->backing)
        return -ENOTSUP;
    if (s->data_raw || (s->ext_data && !(flags & BLK_MAY_UNMAP))) { /* the data file itself must show the zeros */
        int r = erase(n, off, len, false, false);

        return r < 0 ? r : blk_pwrite_zeroes(s->data, off, min_u64(len, n->size - off), flags);
    }
    return erase(n, off, len, flags & BLK_MAY_UNMAP || s->version < 3, s->version < 3);
}

int q2_discard(struct blk_node *n, uint64_t off, uint64_t len, bool to_backing)
{
    struct q2 *s = n->priv;

    if (s->version < 3 && n->backing && !to_backing)
        return 0;
    if (s->data_raw)
        return 0;
    return erase(n, off, len, true, to_backing || (s->version < 3));
}

/* ---- compressed clusters ---- */

static int store_compressed(struct blk_node *n, uint64_t off, const uint8_t *src, uint64_t clen)
{
    struct q2 *s = n->priv;
    struct q2_busy busy;
    uint64_t at, e, bm, sectors;
    struct q2_tab *t;
    int r;

    fibre_mutex_lock(&s->lock);
    busy_wait(n, q2_idx(s, off), 1);
    r = q2_alloc_bytes(n, clen, &at);
    if (r < 0) {
        fibre_mutex_unlock(&s->lock);
        return r;
    }
    busy_begin(s, &busy, q2_idx(s, off), 1);
    fibre_mutex_unlock(&s->lock);
    r = blk_pwrite(n->file, at, src, clen);
    fibre_mutex_lock(&s->lock);
    if (r >= 0)
        r = q2_l2_for_write(n, l1_index(s, off), &t);
    if (r >= 0) {
        q2_entry_read(s, t->data, l2_index(s, off), &e, &bm);
        q2_drop_entry(n, e);
        sectors = q2_idx(&(struct q2){.cluster_bits = 9}, at + clen - 1) - q2_idx(&(struct q2){.cluster_bits = 9}, at);
        q2_entry_write(s, t->data, l2_index(s, off), at | Q2_COMPRESSED | sectors << s->csize_shift, 0);
        q2_tab_dirty(&s->l2c, t);
        s->comp_cache_entry = 0; /* its key may be a place that was just used anew */
    } else {
        q2_unalloc(n, align_down(at, s->cs), q2_idx(s, at + clen - 1) - q2_idx(s, at) + 1);
    }
    busy_end(n, &busy);
    fibre_mutex_unlock(&s->lock);
    return r;
}

int q2_write_compressed(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct q2 *s = n->priv;
    uint8_t *src AUTOFREE = NULL, *dst AUTOFREE = NULL;
    int r;

    if (!len) { /* the end: readers fetch whole sectors of what was packed last */
        uint64_t end = n->file->node->size;

        return end & 511 ? blk_node_truncate(n->file->node, align_up(end, 512), BLK_PREALLOC_OFF, NULL) : 0;
    }
    if (s->ext_data || s->crypt_method)
        return -ENOTSUP;
    if (s->corrupt)
        return -EIO;
    if (off & (s->cs - 1) || (len < s->cs && off + len != n->size))
        return -EINVAL;
    for (; len > s->cs; off += s->cs, qoff += s->cs, len -= s->cs) {
        r = q2_write_compressed(n, off, s->cs, q, qoff);
        if (r < 0)
            return r;
    }
    src = try_alloc(1, s->cs);
    dst = try_alloc(1, s->cs);
    if (!src || !dst)
        return -ENOMEM;
    iov_to_buf(q, qoff, src, len);
    r = blk_compress(n->set, s->zstd ? BLK_ZSTD : BLK_DEFLATE, src, s->cs, dst, s->cs - 1);
    if (r == -ENOSPC) /* does not shrink */
        return q2_write(n, off, len, q, qoff);
    return r < 0 ? r : store_compressed(n, off, dst, (uint64_t)r);
}

/* ---- preallocation of metadata ---- */

int q2_prealloc(struct blk_node *n, uint64_t from, uint64_t to, enum blk_prealloc p)
{
    struct q2 *s = n->priv;
    uint64_t off = align_down(from, s->cs);
    int r = 0;

    fibre_mutex_lock(&s->lock);
    while (off < to && r >= 0) {
        uint64_t i = l2_index(s, off), nr = min_u64(div_up(to - off, s->cs), (UINT64_C(1) << s->l2_bits) - i),
                 host = off, e, bm;
        struct q2_tab *t;

        r = q2_l2_for_write(n, l1_index(s, off), &t);
        if (r < 0)
            break;
        q2_entry_read(s, t->data, i, &e, &bm);
        if (e) {
            off += s->cs;
            continue;
        }
        for (uint64_t k = 1; k < nr; k++) {
            q2_entry_read(s, t->data, i + k, &e, &bm);
            if (e)
                nr = k;
        }
        if (!s->ext_data)
            r = q2_alloc(n, nr, false, &host, &nr);
        if (r >= 0 && !s->ext_data && host + nr * s->cs > n->file->node->size) /* no table points beyond the end */
            r = blk_node_truncate(n->file->node, host + nr * s->cs, p == BLK_PREALLOC_METADATA ? BLK_PREALLOC_OFF : p,
                                  NULL);
        if (r >= 0)
            r = q2_l2_for_write(n, l1_index(s, off), &t); /* it may have been evicted */
        for (uint64_t k = 0; k < nr && r >= 0; k++)
            q2_entry_write(s, t->data, i + k, (host + k * s->cs) | Q2_COPIED, s->ext_l2 ? UINT64_C(0xffffffff) : 0);
        if (r >= 0)
            q2_tab_dirty(&s->l2c, t);
        off += nr * s->cs;
    }
    fibre_mutex_unlock(&s->lock);
    return r;
}
