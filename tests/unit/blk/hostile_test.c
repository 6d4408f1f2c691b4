/* Hostile images: valid ones of every writable format with bytes changed at random, most of them where tables and
 * headers lie. Opening, checking, reading, writing and repairing must end, with an error or without, and never touch
 * what is not theirs (run under ASan+UBSan for that). BLK_HOSTILE_ROUNDS sets the rounds per format (default 300).
 *
 * proves: F-IMG-17 */
#include "blk/simdisk.h"
#include "unit.h"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { SIZE = 4 << 20 };
static uint64_t rng_state;

static uint32_t rnd(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 11) % below);
}

struct visit {
    struct blk_node *n;
    bool rw;
};

static void fill(void *opaque)
{
    struct visit *v = opaque;
    uint8_t buf[70000];

    memset(buf, 0x77, sizeof buf);
    blk_node_pwrite(v->n, 100000, buf, sizeof buf);
    blk_node_pwrite(v->n, 3 << 20, buf, 4096);
    blk_node_zeroes(v->n, 1 << 20, 65536, 0);
    if (v->n->drv->snap_create) {
        struct blk_snap sn = {.name = (char *)(uintptr_t) "s"};

        v->n->drv->snap_create(v->n, &sn, NULL);
        blk_node_pwrite(v->n, 120000, buf, 20000);
    }
    blk_node_flush(v->n);
}

static void walk(void *opaque)
{
    struct visit *v = opaque;
    uint8_t *buf = xmalloc(1 << 20);
    struct blk_check c = {0};
    struct blk_extent e;
    uint64_t size = min_u64(v->n->size, 8 << 20);

    for (uint64_t off = 0; off < size; off += 1 << 20)
        blk_node_pread(v->n, off, buf, (size_t)min_u64(1 << 20, size - off));
    for (uint64_t off = 0, k = 0; off < size && k < 2000; k++) {
        if (blk_node_status(v->n, off, size - off, &e) < 0)
            break;
        off += e.len;
    }
    if (v->n->drv->check)
        v->n->drv->check(v->n, &c, v->rw && rnd(2) ? BLK_FIX_LEAKS | BLK_FIX_ERRORS : 0);
    if (v->rw) {
        memset(buf, 1, 100000);
        blk_node_pwrite(v->n, size > 300000 ? 200000 : 0, buf, (size_t)min_u64(100000, size));
        blk_node_zeroes(v->n, 0, min_u64(size, 65536), BLK_MAY_UNMAP);
        blk_node_discard(v->n, 0, size);
        blk_node_flush(v->n);
    }
    if (v->rw && v->n->drv->snap_list) {
        struct blk_snap *sn = NULL;
        int nr = v->n->drv->snap_list(v->n, &sn);

        if (nr > 0 && rnd(2))
            v->n->drv->snap_goto(v->n, sn[0].id, NULL);
        else if (nr > 0)
            v->n->drv->snap_delete(v->n, sn[0].id, NULL, NULL);
        blk_snaps_free(sn, nr > 0 ? nr : 0);
    }
    free(buf);
}

static struct blk_node *open_sim(struct blk_set *set, const char *fmt, const char *file, unsigned flags)
{
    struct opts *o = opts_new();
    struct err *e = NULL;
    struct blk_node *n;

    opts_set(o, "driver", fmt);
    opts_set(o, "file.driver", "sim");
    opts_set(o, "file.filename", file);
    n = blk_node_open(set, NULL, NULL, flags | BLK_O_UNMAP, o, &e);
    err_free(e);
    return n;
}

static void spoil(struct sim *s)
{
    static const uint8_t favourites[] = {0, 1, 0x7f, 0x80, 0xff, 0xfe, 0x10, 0x40};

    for (uint32_t k = 1 + rnd(6); k; k--) {
        uint64_t at =
            rnd(3) ? rnd((uint32_t)min_u64(s->size, rnd(2) ? 512 : 8192)) : rnd((uint32_t)min_u64(s->size, UINT32_MAX));
        uint32_t n = 1 + rnd(8);

        for (uint32_t i = 0; i < n && at + i < s->size; i++)
            s->bytes[at + i] = rnd(2) ? favourites[rnd(sizeof favourites)] : (uint8_t)rnd(256);
    }
    if (!rnd(20)) {
        struct sim_entry e = {SIM_TRUNCATE, rnd((uint32_t)s->size) + 1, 0, NULL};

        sim_apply(s, &e);
    }
}

static void torture(const char *fmt, const char *create)
{
    const char *env = getenv("BLK_HOSTILE_ROUNDS");
    unsigned rounds = env ? (unsigned)strtoul(env, NULL, 0) : 300, opened = 0;
    struct run *run = run_new();
    struct blk_set *set = blk_set_new(run);
    struct opts *o = opts_parse(create, NULL, NULL);
    struct visit v;
    int saved = dup(2), null = open(getenv("BLK_HOSTILE_LOG") ? getenv("BLK_HOSTILE_LOG") : "/dev/null",
                                    O_WRONLY | O_CREAT | O_APPEND, 0600);

    for (int i = 0; i < 4; i++)
        sim_reset(&sims[i]);
    rng_state = 0x1234567 + (unsigned)*fmt;
    opts_set(o, "size", "4194304");
    assert_true(blk_create(set, "sim:0", fmt, o, NULL));
    opts_free(o);
    v = (struct visit){open_sim(set, fmt, "0", BLK_O_RDWR), true};
    assert_non_null(v.n);
    blk_run(set, fill, &v);
    blk_node_unref(v.n);
    dup2(null, 2); /* what they complain about is not of interest */
    for (unsigned i = 0; i < rounds; i++) {
        sim_copy(&sims[2], &sims[0]);
        spoil(&sims[2]);
        v.rw = rnd(2);
        v.n = open_sim(set, fmt, "2", (v.rw ? BLK_O_RDWR : 0) | (rnd(3) ? 0 : BLK_O_CHECK));
        if (!v.n)
            continue;
        opened++;
        blk_run(set, walk, &v);
        blk_node_unref(v.n);
    }
    dup2(saved, 2);
    close(saved);
    close(null);
    assert_true(opened > 0);
    blk_set_free(set);
    run_free(run);
    for (int i = 0; i < 4; i++)
        sim_reset(&sims[i]);
}

#define HOSTILE(fn, fmt, create)                                                                                       \
    static void fn(void **state)                                                                                       \
    {                                                                                                                  \
        torture(fmt, create);                                                                                          \
    }
HOSTILE(qcow2_with_64k_clusters, "qcow2", "")
HOSTILE(qcow2_with_small_clusters, "qcow2", "cluster_size=1k")
HOSTILE(qcow2_with_subclusters, "qcow2", "extended_l2=on")
HOSTILE(qcow2_version_2, "qcow2", "compat=0.10,cluster_size=4k")
HOSTILE(qcow, "qcow", "")
HOSTILE(vdi, "vdi", "")
HOSTILE(vpc, "vpc", "")
HOSTILE(vhdx, "vhdx", "block_size=1M")
HOSTILE(vmdk, "vmdk", "")

#define T(fn) cmocka_unit_test(fn)
UNIT_MAIN(T(qcow2_with_64k_clusters), T(qcow2_with_small_clusters), T(qcow2_with_subclusters), T(qcow2_version_2),
          T(qcow), T(vdi), T(vpc), T(vhdx), T(vmdk))
