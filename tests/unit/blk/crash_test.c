/* Power cuts: a random workload runs on an image over a disk in memory that logs every write and flush. Then the log is
 * cut at many points; what was flushed is there, of what came after any subset in any order, each write possibly torn
 * at a sector. Every such disk must open, check without corruption, and show for every sector the last flushed contents
 * or something written since.
 *
 * proves: F-IMG-02, F-IMG-17
 * BLK_CRASH_CUTS sets the number of cut points per workload (default 80, under ASan 30; 10000 in the long run),
 * BLK_CRASH_SEED the seed, BLK_CRASH_ONLY a pattern of workload names. */
#include "blk/secret.h"
#include "blk/simdisk.h"
#include "unit.h"
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
enum { CUTS = 30 };
#else
enum { CUTS = 80 };
#endif
enum { SECTORS = 4096, DISK = SECTORS * 512, CHUNK = 256, MAX_HIST = 1 << 18, MAX_SNAPS = 64 };
/* The disks of simdisk.h: what the workload writes, what lies below it unchanged, and what is found after a cut. OTHER
 * is a second file that is written: the external data file, or the image that is committed into. */
enum { IMAGE, BACKING, CUT, OTHER, CUT_OTHER };

/* What one sector may hold: the contents by the last flush that covers it, and everything written since then. */
struct event {
    uint64_t pos; /* sim_clock when it began */
    uint32_t sector;
    uint32_t gen; /* 0 = zeros */
    bool maybe;   /* discard: may or may not show */
    int prev;     /* the sector's event before this one, -1 = none */
};
struct flushed {
    uint64_t pos;     /* sim_clock when the guest's flush had returned */
    size_t nr_events; /* events completed before it began */
};
static struct {
    struct event ev[MAX_HIST];
    size_t nr;
    struct flushed fl[4096];
    size_t nr_fl;
    uint32_t gen;
    int last[SECTORS]; /* newest event of each sector + 1 */
} hist;

static uint64_t rng_state;

static uint32_t rnd(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 11) % below);
}

static void fill(uint8_t *p, uint32_t sector, uint32_t gen)
{
    if (!gen) {
        memset(p, 0, 512);
        return;
    }
    for (unsigned i = 0; i < 64; i++) {
        uint32_t v[2] = {gen, sector * 64 + i};

        memcpy(p + i * 8, v, 8);
    }
}

static void note(uint32_t sector, uint32_t gen, bool maybe)
{
    assert_true(hist.nr < MAX_HIST);
    hist.ev[hist.nr++] = (struct event){sim_clock, sector, gen, maybe, hist.last[sector] - 1};
    hist.last[sector] = (int)hist.nr;
}

/* ---- workload ---- */

struct plan {
    const char *name, *fmt, *create, *open;
    bool backing, snapshots, resize, compressed;
    bool go_back;   /* snapshots are applied, too */
    bool bitmap;    /* a persistent bitmap records; the image is closed and opened in between */
    bool data_file; /* the guest's data lie in OTHER */
    bool commit;    /* OTHER lies below, and what was written is committed into it now and then */
    unsigned ops;
    uint64_t spread; /* the sectors lie in pieces of CHUNK, so far apart: many blocks of a format that has large ones */
};

/* Where the guest finds a sector, and how large the disk is. */
static uint64_t at(const struct plan *p, uint32_t s)
{
    return p->spread ? s / CHUNK * p->spread + s % CHUNK * 512 : (uint64_t)s * 512;
}

static uint64_t disk_size(const struct plan *p)
{
    return p->spread ? SECTORS / CHUNK * p->spread : DISK;
}

/* All sectors that the workload knows, side by side. */
static int read_disk(struct blk_node *n, const struct plan *p, uint8_t *data)
{
    uint32_t piece = p->spread ? CHUNK : SECTORS;
    int r = 0;

    for (uint32_t s = 0; s < SECTORS && r >= 0; s += piece)
        r = blk_node_pread(n, at(p, s), data + (size_t)s * 512, (size_t)piece * 512);
    return r;
}

struct actor {
    struct blk_node *n;
    const struct plan *p;
    uint32_t lo, hi; /* sectors this actor writes: actors never overlap, so order is known */
    unsigned left;
    bool *done;
    unsigned *running;
};

static void one_op(struct actor *a)
{
    uint32_t n = a->hi - a->lo, s = a->lo + rnd(n), len = 1 + rnd(rnd(4) ? 24 : 200), gen;
    uint64_t span; /* of zeroes and discards: a whole block now and then */
    uint8_t *buf;
    int r;

    if (s + len > a->hi)
        len = a->hi - s;
    if (a->p->spread && !rnd(8)) {
        s -= s % CHUNK;
        len = CHUNK;
    }
    if (a->p->spread)
        len = min_u64(len, CHUNK - s % CHUNK);
    span = a->p->spread && len == CHUNK ? a->p->spread : (uint64_t)len * 512;
    switch (rnd(10)) {
    case 0: /* zeroes */
        for (uint32_t i = 0; i < len; i++)
            note(s + i, 0, false);
        r = blk_node_zeroes(a->n, at(a->p, s), span, rnd(2) ? BLK_MAY_UNMAP : 0);
        assert_int_equal(r, 0);
        break;
    case 1: /* discard: only without a backing file does it read as zeros or stay */
        if (a->p->backing)
            break;
        for (uint32_t i = 0; i < len; i++)
            note(s + i, 0, true);
        assert_int_equal(blk_node_discard(a->n, at(a->p, s), span), 0);
        break;
    default:
        gen = ++hist.gen;
        buf = xmalloc((size_t)len * 512);
        for (uint32_t i = 0; i < len; i++) {
            fill(buf + (size_t)i * 512, s + i, gen);
            note(s + i, gen, false);
        }
        r = blk_node_pwrite(a->n, at(a->p, s), buf, (size_t)len * 512);
        assert_int_equal(r, 0);
        free(buf);
    }
}

static void actor_run(void *opaque)
{
    struct actor *a = opaque;

    while (a->left--)
        one_op(a);
    --*a->running;
}

static void flush_now(struct blk_node *n)
{
    size_t before = hist.nr;

    assert_int_equal(blk_node_flush(n), 0);
    hist.fl[hist.nr_fl++] = (struct flushed){sim_clock, before};
}

static void compressed_writes(struct blk_node *n)
{
    uint32_t cl = n->cluster_size / 512, s = rnd(SECTORS / cl) * cl, gen = ++hist.gen;
    uint8_t *buf = xmalloc(n->cluster_size);
    struct iovec v = {buf, n->cluster_size};
    struct iov q;

    for (uint32_t i = 0; i < cl; i++) {
        fill(buf + i * 512, s + i, gen);
        note(s + i, gen, false);
    }
    iov_init_ext(&q, &v, 1);
    assert_int_equal(blk_node_pwritev(n, (uint64_t)s * 512, n->cluster_size, &q, 0, BLK_REQ_COMPRESSED), 0);
    free(buf);
}

/* What each snapshot shows: generations as fill() wrote them, by the number in its name. */
static struct {
    unsigned nr;
    uint32_t gen[MAX_SNAPS][SECTORS];
} taken;

static void take_snapshot(struct blk_node *n, const struct plan *p)
{
    char name[16];
    struct blk_snap want = {.name = name, .icount = UINT64_MAX};
    uint8_t *data = xmalloc(DISK);
    struct err *e = NULL;

    snprintf(name, sizeof name, "%u", taken.nr);
    assert_true(n->drv->snap_create(n, &want, &e));
    assert_int_equal(read_disk(n, p, data), 0);
    for (uint32_t s = 0; s < SECTORS; s++)
        memcpy(&taken.gen[taken.nr][s], data + (size_t)s * 512, 4);
    taken.nr++;
    free(data);
}

static void apply_snapshot(struct blk_node *n, const struct blk_snap *sn)
{
    unsigned k = (unsigned)strtoul(sn->name, NULL, 10);
    struct err *e = NULL;

    for (uint32_t s = 0; s < SECTORS; s++)
        note(s, taken.gen[k][s], false);
    assert_true(n->drv->snap_goto(n, sn->id, &e));
}

static void snapshot_ops(struct blk_node *n, const struct plan *p)
{
    struct blk_snap *sn;
    int nr = n->drv->snap_list(n, &sn);
    struct err *e = NULL;

    if (nr > 0 && p->go_back && !rnd(4)) {
        apply_snapshot(n, &sn[rnd((uint32_t)nr)]);
    } else if (nr < 3 && taken.nr < MAX_SNAPS && rnd(3)) {
        take_snapshot(n, p);
    } else if (nr > 0) {
        assert_true(n->drv->snap_delete(n, sn[rnd((uint32_t)nr)].id, NULL, &e));
    }
    blk_snaps_free(sn, nr > 0 ? nr : 0);
}

/* What qemu-img commit does: everything down, durable there, then the overlay forgets it. */
static void commit_now(struct blk_node *top)
{
    struct blk_node *base = top->backing->node;
    uint8_t *buf = xmalloc(65536);
    struct blk_extent e;

    for (uint64_t off = 0; off < DISK;) {
        uint64_t len;

        assert_true(blk_node_status_above(top, base, off, DISK - off, &e, NULL) >= 0);
        len = min_u64(e.len, 65536);
        if (e.flags & BLK_ST_ALLOC && e.flags & BLK_ST_ZERO) {
            assert_int_equal(blk_node_zeroes(base, off, len, BLK_MAY_UNMAP), 0);
        } else if (e.flags & BLK_ST_ALLOC) {
            assert_int_equal(blk_node_pread(top, off, buf, len), 0);
            assert_int_equal(blk_node_pwrite(base, off, buf, len), 0);
        }
        off += len;
    }
    free(buf);
    assert_int_equal(blk_node_flush(base), 0);
    assert_int_equal(top->drv->make_empty(top), 0);
    assert_int_equal(blk_node_flush(top), 0);
}

struct phase {
    struct blk_node *n;
    const struct plan *p;
};

/* Runs in a fibre: several actors at once, then what only happens alone. */
static void workload(void *opaque)
{
    struct phase *ph = opaque;
    struct blk_node *n = ph->n;

    for (unsigned round = 0; round < (ph->p->ops ? ph->p->ops : 30); round++) {
        struct actor a[4];
        unsigned running = 4;

        for (unsigned i = 0; i < 4; i++) {
            a[i] = (struct actor){n, ph->p, i * SECTORS / 4, (i + 1) * SECTORS / 4, 1 + rnd(6), NULL, &running};
            fibre_resume(fibre_new(actor_run, &a[i]));
        }
        if (rnd(2) && running)
            assert_int_equal(blk_node_flush(n), 0); /* beside running writers: not recorded as covering anything */
        while (running) {
            fibre_wake(blk_set_loop(n->set), fibre_self());
            fibre_yield();
        }
        if (rnd(2))
            flush_now(n);
        if (ph->p->compressed && rnd(2))
            compressed_writes(n);
        if (ph->p->snapshots && !rnd(3))
            snapshot_ops(n, ph->p);
        if (ph->p->commit && !rnd(4))
            commit_now(n);
        if (ph->p->resize && !rnd(4)) {
            struct err *e = NULL;

            uint8_t junk[4096];

            assert_true(blk_node_truncate(n, DISK + 65536 * (uint64_t)rnd(60), BLK_PREALLOC_OFF, &e) >= 0);
            memset(junk, 0x77, sizeof junk);
            for (uint64_t pos = DISK; pos + sizeof junk <= n->size; pos += 65536 * (1 + rnd(3)))
                assert_int_equal(blk_node_pwrite(n, pos, junk, sizeof junk), 0);
        }
    }
    flush_now(n);
}

static struct blk_node *open_image(struct blk_set *set, const char *file, const struct plan *p, bool rw,
                                   struct err **errp)
{
    const char *other = *file == '0' + CUT ? "4" : "3";
    struct opts *o = opts_parse(p->open ? p->open : "", NULL, errp);

    opts_set(o, "driver", p->fmt);
    opts_set(o, "file.driver", "sim");
    opts_set(o, "file.filename", file);
    if (p->backing) {
        opts_set(o, "backing.driver", "raw");
        opts_set(o, "backing.file.driver", "sim");
        opts_set(o, "backing.file.filename", "1");
    }
    if (p->data_file) {
        opts_set(o, "data-file.driver", "sim");
        opts_set(o, "data-file.filename", other);
    }
    if (p->commit) {
        opts_set(o, "backing.driver", p->fmt);
        opts_set(o, "backing.file.driver", "sim");
        opts_set(o, "backing.file.filename", other);
    }
    return blk_node_open(set, NULL, NULL, (rw ? BLK_O_RDWR : 0) | BLK_O_UNMAP, o, errp);
}

/* ---- cutting ---- */

static size_t flushed_upto(uint64_t cut)
{
    size_t best = 0;

    for (size_t i = 0; i < hist.nr_fl; i++)
        if (hist.fl[i].pos <= cut)
            best = hist.fl[i].nr_events;
    return best;
}

static bool sector_ok(const uint8_t *p, uint32_t sector, size_t flushed, uint64_t cut, const uint8_t *base)
{
    uint8_t want[512];
    bool settled = false; /* an event that must show ends the search backwards among the flushed */

    for (int i = hist.last[sector] - 1; i >= 0 && !settled; i = hist.ev[i].prev) {
        const struct event *e = &hist.ev[i];

        if (e->pos > cut)
            continue;
        fill(want, sector, e->gen);
        if (!memcmp(p, want, 512))
            return true;
        if ((size_t)i < flushed && !e->maybe)
            settled = true;
    }
    if (settled)
        return false;
    return !memcmp(p, base, 512);
}

/* One disk that recorded: its contents up to the last flush before the cut, and where the log goes on from there. */
struct past {
    struct sim *log, *cut;
    struct sim start;
    size_t from;
};

static size_t entries_before(const struct sim *s, size_t from, uint64_t cut)
{
    while (from < s->nr && s->log[from].seq < cut)
        from++;
    return from;
}

static void move_on(struct past *d, uint64_t cut)
{
    size_t end = entries_before(d->log, d->from, cut);

    for (size_t i = d->from; i < end; i++)
        if (d->log->log[i].op == SIM_FLUSH) {
            for (size_t k = d->from; k < i; k++)
                sim_apply(&d->start, &d->log->log[k]);
            d->from = i + 1;
        }
}

/* The disk as it may be found after the cut. */
static void build(struct past *d, uint64_t cut)
{
    size_t end = entries_before(d->log, d->from, cut);

    sim_sync(d->cut, &d->start);
    for (size_t k = 0; k < 3; k++) /* any order: pick at random a few times over, keeping or losing each */
        for (size_t i = d->from; i < end; i++) {
            struct sim_entry e = d->log->log[i];
            uint32_t dice = rnd(8);

            if (dice < 4 || (e.op == SIM_TRUNCATE && k))
                continue;
            if (dice == 4 && e.op == SIM_WRITE && e.len > 512)
                e.len = 512 * (1 + rnd((uint32_t)(e.len / 512)));
            if (e.op == SIM_TRUNCATE && e.off < d->cut->size)
                continue;
            sim_apply(d->cut, &e);
        }
}

struct verdict {
    struct blk_node *n;
    struct blk_check c;
    int r;
    uint32_t bad;
    size_t flushed;
    uint64_t cut;
    const struct plan *p;
};
static void check_below(struct verdict *v);

static void to_stderr(void *opaque, const char *line)
{
    fprintf(stderr, "  %s\n", line);
}

static void judge(void *opaque)
{
    struct verdict *v = opaque;
    uint8_t *data = xmalloc(DISK), zero[512] = {0};

    v->r = v->n->drv->check ? v->n->drv->check(v->n, &v->c, 0) : 0;
    v->bad = UINT32_MAX;
    if (v->r >= 0 && v->p->commit)
        check_below(v);
    if (v->r >= 0)
        v->r = read_disk(v->n, v->p, data);
    for (uint32_t s = 0; s < SECTORS && v->r >= 0; s++) {
        uint8_t base[512];

        if (v->p->backing)
            memcpy(base, sims[1].bytes + (uint64_t)s * 512, 512);
        if (!sector_ok(data + (size_t)s * 512, s, v->flushed, v->cut, v->p->backing ? base : zero)) {
            v->bad = s;
            break;
        }
    }
    free(data);
}

static void repair_twice(void *opaque)
{
    struct verdict *v = opaque;

    memset(&v->c, 0, sizeof v->c);
    v->r = v->n->drv->check(v->n, &v->c, BLK_FIX_LEAKS | BLK_FIX_ERRORS);
    memset(&v->c, 0, sizeof v->c);
    if (v->r >= 0)
        v->r = v->n->drv->check(v->n, &v->c, 0);
}

/* A bitmap that is not marked in use has seen every write: whatever differs from the empty start is in it. */
static void judge_bitmap(void *opaque)
{
    struct verdict *v = opaque;
    struct blk_bitmap *b = blk_bitmap_find(v->n, "b");
    uint8_t *data = xmalloc(DISK);

    v->bad = UINT32_MAX;
    assert_non_null(b);
    v->r = blk_node_pread(v->n, 0, data, DISK);
    for (uint32_t s = 0; s < SECTORS && v->r >= 0 && !b->inconsistent; s++) {
        const uint8_t *p = data + (size_t)s * 512;

        if ((*p || memcmp(p, p + 1, 511)) && !blk_bitmap_get(b, (uint64_t)s * 512))
            v->bad = s;
    }
    free(data);
}

static void check_bitmap(struct blk_set *set, const struct plan *p, uint64_t cut, uint64_t seed)
{
    struct verdict v = {.cut = cut, .p = p};
    struct err *e = NULL;

    v.n = open_image(set, "2", p, true, &e);
    assert_non_null(v.n);
    blk_run(set, judge_bitmap, &v);
    if (v.r < 0 || v.bad != UINT32_MAX)
        fail_msg("%s: cut at %lu (seed %#lx): ret %d, the bitmap lacks sector %d", p->name, (unsigned long)cut,
                 (unsigned long)seed, v.r, (int)v.bad);
    blk_node_unref(v.n);
}

/* The image below is sound, too. */
static void check_below(struct verdict *v)
{
    struct blk_node *base = v->n->backing->node;
    struct blk_check c = {0};

    v->r = base->drv->check(base, &c, 0);
    v->c.corruptions += c.corruptions;
    v->c.errors += c.errors;
}

static void check_cut(struct blk_set *set, const struct plan *p, struct past *past, uint64_t cut, uint64_t seed)
{
    struct verdict v = {.cut = cut, .p = p};
    struct err *e = NULL;
    bool checks;

    rng_state = seed;
    build(&past[0], cut);
    if (past[1].log)
        build(&past[1], cut);
    v.flushed = flushed_upto(cut);
    v.n = open_image(set, "2", p, !strcmp(p->fmt, "vhdx"), &e); /* its log is replayed by a writer only */
    if (!v.n)
        fail_msg("%s: cut at %lu (seed %#lx) does not open: %s", p->name, (unsigned long)cut, (unsigned long)seed,
                 e->msg);
    v.c.line = NULL;
    blk_run(set, judge, &v);
    if (v.r < 0 || v.c.corruptions || v.c.errors || v.bad != UINT32_MAX) {
        memset(&v.c, 0, sizeof v.c);
        v.c.line = to_stderr;
        if (v.n->drv->check)
            v.n->drv->check(v.n, &v.c, 0);
        fail_msg("%s: cut at %lu (of %lu, flush at %zu, seed %#lx): ret %d, %lu corruptions, %lu errors, bad sector %d",
                 p->name, (unsigned long)cut, (unsigned long)sim_clock, past[0].from, (unsigned long)seed, v.r,
                 (unsigned long)v.c.corruptions, (unsigned long)v.c.errors, (int)v.bad);
    }
    checks = v.n->drv->check;
    blk_node_unref(v.n);
    if (p->bitmap && !rnd(3))
        check_bitmap(set, p, cut, seed);
    if (rnd(10) || !checks)
        return;
    v.n = open_image(set, "2", p, true, &e);
    assert_non_null(v.n);
    blk_run(set, repair_twice, &v);
    assert_int_equal(v.r, 0);
    assert_int_equal(v.c.corruptions + v.c.leaks + v.c.errors, 0);
    blk_node_unref(v.n);
}

static void make_backing(void)
{
    uint8_t buf[512];

    for (uint32_t s = 0; s < SECTORS; s++) {
        struct sim_entry e = {SIM_WRITE, (uint64_t)s * 512, 512, buf};

        fill(buf, s, 0x80000000u + s);
        sim_apply(&sims[1], &e);
    }
}

static void must_create(struct blk_set *set, const char *file, const struct plan *p, const char *create)
{
    struct opts *co = opts_parse(create, NULL, NULL);
    char size[24];
    struct err *e = NULL;

    snprintf(size, sizeof size, "%lu", (unsigned long)disk_size(p));
    opts_set(co, "size", size);
    if (p->data_file) /* made by name; the disk of the test takes its place when the image is opened */
        opts_set(co, "data_file", "/tmp/lyrebird-crash-data");
    if (!blk_create(set, file, p->fmt, co, &e))
        fail_msg("%s: %s", p->name, e->msg);
    if (p->data_file)
        unlink("/tmp/lyrebird-crash-data");
    opts_free(co);
}

/* Makes the files, empty, and a bitmap if there is to be one. */
static void prepare(struct blk_set *set, const struct plan *p)
{
    struct err *e = NULL;
    struct blk_node *n;

    memset(&hist, 0, sizeof hist);
    taken.nr = 0;
    sim_clock = 0;
    for (int i = 0; i < NR_SIMS; i++)
        sim_reset(&sims[i]);
    if (p->backing)
        make_backing();
    if (p->commit)
        must_create(set, "sim:3", p, p->create);
    if (p->data_file)
        sim_apply(&sims[OTHER], &(struct sim_entry){SIM_TRUNCATE, DISK, 0, NULL, 0});
    must_create(set, "sim:0", p, p->create);
    if (p->bitmap) {
        n = open_image(set, "0", p, true, &e);
        assert_non_null(n);
        blk_bitmap_new(n, "b", 4096, &e)->persistent = true;
        blk_node_unref(n);
    }
}

static void let_base_be_written(struct blk_node *top)
{
    struct err *e = NULL;

    top->backing_rw = true;
    assert_true(blk_perm_update(top, &e) && blk_node_reopen(top->backing->node, true, &e) && blk_perm_update(top, &e));
}

static void run_plan(const struct plan *p)
{
    const char *cuts_env = getenv("BLK_CRASH_CUTS"), *seed_env = getenv("BLK_CRASH_SEED");
    size_t cuts = cuts_env ? strtoul(cuts_env, NULL, 0) : CUTS;
    uint64_t seed = seed_env ? strtoul(seed_env, NULL, 0) : 12345;
    struct run *run = run_new();
    struct blk_set *set = blk_set_new(run);
    struct err *e = NULL;
    struct phase ph = {.p = p};
    struct past past[2] = {{&sims[IMAGE], &sims[CUT]}, {NULL, &sims[CUT_OTHER]}};

    assert_true(blk_object_add(set, "secret,id=s,data=pass", &e));
    rng_state = seed;
    prepare(set, p);
    if (p->data_file || p->commit)
        past[1].log = &sims[OTHER];
    for (unsigned i = 0; i < 2 && past[i].log; i++) {
        past[i].log->recording = true;
        sim_copy(&past[i].start, past[i].log);
        sim_copy(past[i].cut, past[i].log);
    }
    for (unsigned session = 0; session < (p->bitmap ? 4 : 1); session++) {
        ph.n = open_image(set, "0", p, true, &e);
        if (!ph.n)
            fail_msg("%s: %s", p->name, e->msg);
        if (p->commit)
            let_base_be_written(ph.n);
        blk_run(set, workload, &ph);
        blk_node_unref(ph.n);
    }
    sims[IMAGE].recording = sims[OTHER].recording = false;
    /* spread the cuts evenly over the log, moving the flushed base along */
    for (size_t done = 0; done < cuts; done++) {
        uint64_t cut = sim_clock * (done + 1) / cuts;

        for (unsigned i = 0; i < 2 && past[i].log; i++)
            move_on(&past[i], cut);
        check_cut(set, p, past, cut, seed * 1000003 + done + 1);
    }
    free(past[0].start.bytes);
    free(past[1].start.bytes);
    blk_set_free(set);
    run_free(run);
    for (int i = 0; i < NR_SIMS; i++)
        sim_reset(&sims[i]);
}

#define CRASH_TEST(fn, ...)                                                                                            \
    static void fn(void **state)                                                                                       \
    {                                                                                                                  \
        static const struct plan p = {.name = #fn, __VA_ARGS__};                                                       \
        run_plan(&p);                                                                                                  \
    }
CRASH_TEST(qcow2_with_tiny_clusters_survives, .fmt = "qcow2", .create = "cluster_size=512")
CRASH_TEST(qcow2_with_4k_clusters_and_small_caches_survives, .fmt = "qcow2", .create = "cluster_size=4k",
           .open = "l2-cache-size=16k,refcount-cache-size=16k,l2-cache-entry-size=4096")
CRASH_TEST(qcow2_with_64k_clusters_survives, .fmt = "qcow2", .create = "cluster_size=64k")
CRASH_TEST(qcow2_version_2_survives, .fmt = "qcow2", .create = "compat=0.10,cluster_size=2k")
CRASH_TEST(qcow2_over_a_backing_file_survives, .fmt = "qcow2", .create = "cluster_size=8k", .backing = true)
CRASH_TEST(qcow2_with_snapshots_survives, .fmt = "qcow2", .create = "cluster_size=1k", .snapshots = true)
CRASH_TEST(qcow2_with_snapshots_over_backing_survives, .fmt = "qcow2", .create = "cluster_size=4k", .snapshots = true,
           .backing = true)
CRASH_TEST(qcow2_growing_survives, .fmt = "qcow2", .create = "cluster_size=512", .resize = true)
CRASH_TEST(qcow2_with_subclusters_survives, .fmt = "qcow2", .create = "extended_l2=on,cluster_size=64k",
           .backing = true)
CRASH_TEST(qcow2_with_subclusters_and_snapshots_survives, .fmt = "qcow2", .create = "extended_l2=on,cluster_size=16k",
           .snapshots = true)
CRASH_TEST(qcow2_compressed_survives, .fmt = "qcow2", .create = "cluster_size=4k", .compressed = true,
           .snapshots = true)
CRASH_TEST(qcow2_with_wide_refcounts_survives, .fmt = "qcow2", .create = "cluster_size=1k,refcount_bits=64",
           .snapshots = true)
CRASH_TEST(qcow2_with_one_bit_refcounts_survives, .fmt = "qcow2", .create = "cluster_size=2k,refcount_bits=1")
CRASH_TEST(qcow2_with_lazy_refcounts_survives, .fmt = "qcow2", .create = "cluster_size=4k,lazy_refcounts=on")
CRASH_TEST(qcow2_going_back_survives, .fmt = "qcow2", .create = "cluster_size=2k", .snapshots = true, .go_back = true)
CRASH_TEST(qcow2_going_back_over_backing_survives, .fmt = "qcow2", .create = "cluster_size=4k", .backing = true,
           .snapshots = true, .go_back = true)
CRASH_TEST(qcow2_with_a_bitmap_survives, .fmt = "qcow2", .create = "cluster_size=4k", .bitmap = true, .ops = 8)
CRASH_TEST(qcow2_giving_back_freed_clusters_survives, .fmt = "qcow2", .create = "cluster_size=1k",
           .open = "discard=unmap,pass-discard-other=on", .snapshots = true)
CRASH_TEST(qcow2_with_zstd_survives, .fmt = "qcow2", .create = "cluster_size=8k,compression_type=zstd",
           .compressed = true)
CRASH_TEST(qcow2_preallocated_survives, .fmt = "qcow2", .create = "cluster_size=4k,preallocation=metadata")
CRASH_TEST(
    qcow2_encrypted_survives, .fmt = "qcow2", .open = "encrypt.key-secret=s", .snapshots = true,
    .create = "cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,encrypt.hash-alg=sha1")
CRASH_TEST(qcow2_with_a_data_file_survives, .fmt = "qcow2", .create = "cluster_size=4k", .data_file = true)
CRASH_TEST(qcow2_with_a_raw_data_file_survives, .fmt = "qcow2", .create = "cluster_size=4k,data_file_raw=on",
           .data_file = true)
CRASH_TEST(qcow2_committed_survives, .fmt = "qcow2", .create = "cluster_size=2k", .commit = true)
CRASH_TEST(qcow2_committed_with_subclusters_survives, .fmt = "qcow2", .create = "extended_l2=on,cluster_size=16k",
           .commit = true)
/* Large blocks, and many of them: 16 pieces of 128 KiB far apart. */
CRASH_TEST(qcow2_with_large_clusters_survives, .fmt = "qcow2", .create = "cluster_size=2M", .spread = 3 << 20)
CRASH_TEST(qcow2_with_half_byte_refcounts_survives, .fmt = "qcow2", .create = "cluster_size=1k,refcount_bits=4",
           .snapshots = true, .resize = true)
CRASH_TEST(qcow2_far_apart_survives, .fmt = "qcow2", .create = "cluster_size=4k", .spread = 8 << 20, .snapshots = true,
           .go_back = true)
CRASH_TEST(vdi_of_many_blocks_survives, .fmt = "vdi", .create = "", .spread = 1 << 20)
CRASH_TEST(vdi_preallocated_survives, .fmt = "vdi", .create = "preallocation=metadata", .spread = 1 << 20)
CRASH_TEST(vmdk_of_many_tables_survives, .fmt = "vmdk", .create = "", .spread = 24 << 20)
CRASH_TEST(vmdk_with_zeroed_grains_survives, .fmt = "vmdk", .create = "zeroed_grain=on", .spread = 1 << 20)
CRASH_TEST(vhdx_of_many_blocks_survives, .fmt = "vhdx", .create = "block_size=1M", .spread = 1 << 20)
CRASH_TEST(vhdx_fixed_survives, .fmt = "vhdx", .create = "block_size=1M,subformat=fixed")
CRASH_TEST(vpc_of_many_blocks_survives, .fmt = "vpc", .create = "", .spread = 2 << 20)
CRASH_TEST(vpc_fixed_survives, .fmt = "vpc", .create = "subformat=fixed")
CRASH_TEST(qcow_over_a_backing_file_survives, .fmt = "qcow", .create = "", .backing = true)
CRASH_TEST(qcow_compressed_survives, .fmt = "qcow", .create = "", .compressed = true)
CRASH_TEST(parallels_of_many_clusters_survives, .fmt = "parallels", .create = "cluster_size=1M", .spread = 1 << 20)
CRASH_TEST(parallels_survives, .fmt = "parallels", .create = "cluster_size=64k")
CRASH_TEST(vdi_survives, .fmt = "vdi", .create = "")
CRASH_TEST(vmdk_survives, .fmt = "vmdk", .create = "")
CRASH_TEST(vhdx_survives, .fmt = "vhdx", .create = "block_size=1M")
CRASH_TEST(qcow_survives, .fmt = "qcow", .create = "")
CRASH_TEST(vpc_survives, .fmt = "vpc", .create = "")

#define T(fn) cmocka_unit_test(fn)
static const struct CMUnitTest all[] = {T(qcow2_encrypted_survives),
                                        T(qcow2_with_tiny_clusters_survives),
                                        T(qcow2_with_4k_clusters_and_small_caches_survives),
                                        T(qcow2_with_64k_clusters_survives),
                                        T(qcow2_version_2_survives),
                                        T(qcow2_over_a_backing_file_survives),
                                        T(qcow2_with_snapshots_survives),
                                        T(qcow2_with_snapshots_over_backing_survives),
                                        T(qcow2_growing_survives),
                                        T(qcow2_with_subclusters_survives),
                                        T(qcow2_with_subclusters_and_snapshots_survives),
                                        T(qcow2_compressed_survives),
                                        T(qcow2_with_wide_refcounts_survives),
                                        T(qcow2_with_one_bit_refcounts_survives),
                                        T(qcow2_with_lazy_refcounts_survives),
                                        T(qcow2_going_back_survives),
                                        T(qcow2_going_back_over_backing_survives),
                                        T(qcow2_with_a_bitmap_survives),
                                        T(qcow2_giving_back_freed_clusters_survives),
                                        T(qcow2_with_zstd_survives),
                                        T(qcow2_preallocated_survives),
                                        T(qcow2_with_a_data_file_survives),
                                        T(qcow2_with_a_raw_data_file_survives),
                                        T(qcow2_committed_survives),
                                        T(qcow2_committed_with_subclusters_survives),
                                        T(qcow2_with_large_clusters_survives),
                                        T(qcow2_with_half_byte_refcounts_survives),
                                        T(qcow2_far_apart_survives),
                                        T(vdi_of_many_blocks_survives),
                                        T(vdi_preallocated_survives),
                                        T(vmdk_of_many_tables_survives),
                                        T(vmdk_with_zeroed_grains_survives),
                                        T(vhdx_of_many_blocks_survives),
                                        T(vhdx_fixed_survives),
                                        T(vpc_of_many_blocks_survives),
                                        T(vpc_fixed_survives),
                                        T(qcow_over_a_backing_file_survives),
                                        T(qcow_compressed_survives),
                                        T(parallels_of_many_clusters_survives),
                                        T(parallels_survives),
                                        T(vdi_survives),
                                        T(vmdk_survives),
                                        T(vhdx_survives),
                                        T(qcow_survives),
                                        T(vpc_survives)};

int main(void)
{
    const char *only = getenv("BLK_CRASH_ONLY");

    mallopt(M_MMAP_THRESHOLD, 64 << 20); /* the same large buffers again and again */
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    if (only)
        cmocka_set_test_filter(only);
    return cmocka_run_group_tests(all, NULL, NULL);
}
