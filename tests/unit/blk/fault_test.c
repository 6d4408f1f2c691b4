/* Failing hosts: the n-th write, flush or truncation of a workload fails, once or for ever, or the n-th read fails, for
 * each n in turn until the workload has no n-th. Afterwards the image opens, the check finds no corruption, and
 * everything a successful flush covered is there. BLK_FAULT_ALL=1 leaves out no n; without it the later ones are tried
 * in steps.
 *
 * proves: F-IMG-02 */
#include "blk/simdisk.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { SECTORS = 1024, OPS = 60 };

struct state {
    struct blk_node *n;
    uint8_t now[SECTORS];     /* what a sector holds if all went well since; 255 = unknown */
    uint8_t flushed[SECTORS]; /* what it must hold at least */
    bool unsure[SECTORS];     /* written since the last good flush */
    uint64_t rng;
    bool snapshots;
};

static uint32_t rnd(struct state *s, uint32_t below)
{
    s->rng ^= s->rng << 13;
    s->rng ^= s->rng >> 7;
    s->rng ^= s->rng << 17;
    return (uint32_t)((s->rng >> 11) % below);
}

static void one_op(struct state *s, unsigned i)
{
    uint32_t at = rnd(s, SECTORS - 64), len = 1 + rnd(s, 63);
    uint8_t buf[64 * 512];
    int r;

    memset(buf, (int)i + 1, sizeof buf);
    for (uint32_t k = at; k < at + len; k++)
        s->unsure[k] = true;
    r = rnd(s, 6) ? blk_node_pwrite(s->n, (uint64_t)at * 512, buf, (size_t)len * 512)
                  : (memset(buf, 0, 1),
                     blk_node_zeroes(s->n, (uint64_t)at * 512, (uint64_t)len * 512, BLK_MAY_UNMAP) | 0x40000000);
    for (uint32_t k = at; k < at + len; k++)
        s->now[k] = r == 0 ? (uint8_t)(i + 1) : r == 0x40000000 ? 0 : 255;
    if (s->snapshots && i % 20 == 10) {
        struct blk_snap sn = {.name = (char *)(uintptr_t) "x", .icount = UINT64_MAX};

        s->n->drv->snap_create(s->n, &sn, NULL);
    }
    if (!rnd(s, 5) && blk_node_flush(s->n) == 0)
        for (uint32_t k = 0; k < SECTORS; k++)
            if (s->now[k] != 255) {
                s->flushed[k] = s->now[k];
                s->unsure[k] = false;
            }
}

static void work(void *opaque)
{
    struct state *s = opaque;

    for (unsigned i = 0; i < OPS; i++)
        one_op(s, i);
}

struct look {
    struct state *s;
    struct blk_node *n;
    struct blk_check c;
    int r, bad;
};

static void look(void *opaque)
{
    struct look *l = opaque;
    uint8_t buf[512];

    l->bad = -1;
    l->r = l->n->drv->check ? l->n->drv->check(l->n, &l->c, 0) : 0;
    for (uint32_t k = 0; k < SECTORS && l->r >= 0 && l->bad < 0; k++) {
        l->r = blk_node_pread(l->n, (uint64_t)k * 512, buf, 512);
        if (!l->s->unsure[k] && (buf[0] != l->s->flushed[k] || buf[511] != l->s->flushed[k]))
            l->bad = (int)k;
    }
}

static struct blk_node *open_sim(struct blk_set *set, const char *fmt)
{
    struct opts *o = opts_new();

    opts_set(o, "driver", fmt);
    opts_set(o, "file.driver", "sim");
    opts_set(o, "file.filename", "0");
    return blk_node_open(set, NULL, NULL, BLK_O_RDWR | BLK_O_UNMAP, o, NULL);
}

enum kind { ENOSPC_ONCE, EIO_FOR_EVER, READ_ONCE };

/* False: the workload ended before the fault came. */
static bool one_fault(struct blk_set *set, const char *fmt, const char *create, bool snapshots, long n, enum kind kind)
{
    bool hit;
    struct opts *o = opts_parse(create, NULL, NULL);
    struct state *s = xnew(struct state);
    struct look l = {.s = s};

    s->rng = 77;
    s->snapshots = snapshots;
    sim_reset(&sims[0]);
    opts_set(o, "size", "524288");
    assert_true(blk_create(set, "sim:0", fmt, o, NULL));
    opts_free(o);
    s->n = open_sim(set, fmt);
    assert_non_null(s->n);
    sims[0].fail_after = kind == READ_ONCE ? -1 : n;
    sims[0].fail_read_after = kind == READ_ONCE ? n : -1;
    sims[0].fail_errno = kind == ENOSPC_ONCE ? ENOSPC : EIO;
    sims[0].fail_for_ever = kind == EIO_FOR_EVER;
    blk_run(set, work, s);
    blk_node_unref(s->n);
    hit = kind == READ_ONCE ? sims[0].fail_read_after < 0 : sims[0].fail_after < 0;
    sims[0].fail_after = sims[0].fail_read_after = -1;
    sims[0].fail_for_ever = false;
    l.n = open_sim(set, fmt);
    if (!l.n)
        fail_msg("%s (%s): does not open after fault %ld", fmt, create, n);
    blk_run(set, look, &l);
    if (l.r < 0 || l.bad >= 0 || l.c.corruptions || l.c.errors)
        fail_msg("%s (%s): fault %ld, kind %d: ret %d, sector %d, %d corruptions", fmt, create, n, (int)kind, l.r,
                 l.bad, (int)l.c.corruptions);
    blk_node_unref(l.n);
    free(s);
    return hit;
}

static void all_faults(const char *fmt, const char *create, bool snapshots)
{
    struct run *run = run_new();
    struct blk_set *set = blk_set_new(run);
    int saved = dup(2), null = open("/dev/null", O_WRONLY);

    for (enum kind k = ENOSPC_ONCE; k <= READ_ONCE; k++)
        for (long n = 0;; n += n < 24 || getenv("BLK_FAULT_ALL") ? 1 : 1 + n / 4) {
            bool hit;

            dup2(null, 2);
            hit = one_fault(set, fmt, create, snapshots, n, k);
            dup2(saved, 2);
            if (!hit)
                break;
        }
    close(saved);
    close(null);
    blk_set_free(set);
    run_free(run);
    sim_reset(&sims[0]);
}

#define FAULTS(fn, fmt, create, snapshots)                                                                             \
    static void fn(void **state)                                                                                       \
    {                                                                                                                  \
        all_faults(fmt, create, snapshots);                                                                            \
    }
FAULTS(qcow2_with_tiny_clusters, "qcow2", "cluster_size=512", false)
FAULTS(qcow2_with_snapshots, "qcow2", "cluster_size=4k", true)
FAULTS(qcow2_with_subclusters, "qcow2", "extended_l2=on,cluster_size=16k", false)
FAULTS(qcow, "qcow", "", false)
FAULTS(vdi, "vdi", "", false)
FAULTS(vpc, "vpc", "", false)
FAULTS(vhdx, "vhdx", "block_size=1M", false)
FAULTS(vmdk, "vmdk", "", false)
FAULTS(parallels, "parallels", "cluster_size=64k", false)

#define T(fn) cmocka_unit_test(fn)
UNIT_MAIN(T(qcow2_with_tiny_clusters), T(qcow2_with_snapshots), T(qcow2_with_subclusters), T(qcow), T(vdi), T(vpc),
          T(vhdx), T(vmdk), T(parallels))
