/* Fuzz target of the partition tables that qemu-nbd -P and --partitions read: the input is the first 64 KiB of a disk,
 * its first byte how large the disk is. Whatever is found lies within the disk, has a number of its own, and is found
 * by it. */
#include "blk/blk_int.h"
#include "blk/simdisk.h"
#include "cmd/nbd/part.h"
#include "fuzz.h"
#include <stdio.h>

static struct run *g_run;
static struct blk_set *g_set;
int fuzz_err = 2;

static void finish(void)
{
    blk_set_free(g_set);
    run_free(g_run);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    g_run = run_new();
    g_set = blk_set_new(g_run);
    sim_no_pause = true;
    atexit(finish);
    return 0;
}

static void must(bool ok, const char *what)
{
    if (!ok) {
        dprintf(fuzz_err, "fuzz: %s\n", what);
        abort();
    }
}

static void look(struct blk_node *n)
{
    struct nbd_part *v AUTOFREE = xcalloc(NBD_PART_MAX, sizeof *v);
    int nr = nbd_parts(n, v);
    uint64_t off, len;
    struct err *e = NULL;

    must(nr <= NBD_PART_MAX, "more partitions than there is room for");
    for (int i = 0; i < nr; i++) {
        must(v[i].len && v[i].off < n->size && v[i].len <= n->size - v[i].off, "a partition beyond the disk");
        must(strnlen(v[i].kind, sizeof v->kind) < sizeof v->kind && strnlen(v[i].name, sizeof v->name) < sizeof v->name,
             "a name without an end");
        must(nbd_part_find(n, v[i].nr, &off, &len, &e), "a partition that is not found by its number");
    }
    must(!nbd_part_find(n, 999, &off, &len, &e), "a partition that is not there");
    err_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bytes in = {data, len};
    uint64_t size = (uint64_t)(1 + take8(&in)) << 14;
    struct sim_entry w = {SIM_WRITE, 0, min_u64(in.left, size), (uint8_t *)(uintptr_t)in.p, 0};
    struct opts *o = opts_new();
    struct err *e = NULL;
    struct blk_node *n;

    sim_reset(&sims[0]);
    sim_apply(&sims[0], &(struct sim_entry){SIM_TRUNCATE, size, 0, NULL, 0});
    sim_apply(&sims[0], &w);
    opts_set(o, "driver", "raw");
    opts_set(o, "file.driver", "sim");
    opts_set(o, "file.filename", "0");
    n = blk_node_open(g_set, NULL, NULL, 0, o, &e);
    if (n) {
        look(n);
        blk_node_unref(n);
    }
    err_free(e);
    return 0;
}

static void entry(uint8_t *p, uint8_t kind, uint32_t first, uint32_t sectors)
{
    p[4] = kind;
    for (unsigned i = 0; i < 4; i++) {
        p[8 + i] = (uint8_t)(first >> 8 * i);
        p[12 + i] = (uint8_t)(sectors >> 8 * i);
    }
}

/* 0: four primary ones; 1: an extended one with two logical ones; 2: GPT with two. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t max)
{
    uint8_t *d = buf + 1;

    if (i > 2 || max < 4096)
        return 0;
    memset(buf, 0, 4096);
    buf[0] = 63;
    d[510] = 0x55;
    d[511] = 0xaa;
    if (i == 0) {
        for (unsigned k = 0; k < 4; k++)
            entry(d + 446 + k * 16, 0x83, 1 + k * 100, 100);
        return 600;
    }
    if (i == 1) {
        entry(d + 446, 0x83, 1, 1);
        entry(d + 462, 5, 2, 100);
        entry(d + 1024 + 446, 0x83, 1, 1);
        entry(d + 1024 + 462, 5, 2, 10);
        d[1024 + 510] = d[2048 + 510] = 0x55;
        d[1024 + 511] = d[2048 + 511] = 0xaa;
        entry(d + 2048 + 446, 0x82, 1, 4);
        return 2600;
    }
    entry(d + 446, 0xee, 1, 2000);
    memcpy(d + 512, "EFI PART", 8);
    d[512 + 72] = 2; /* the table at LBA 2: 4 entries of 128 bytes */
    d[512 + 80] = 4;
    d[512 + 84] = 128;
    for (unsigned k = 0; k < 2; k++) {
        uint8_t *p = d + 1024 + k * 128;

        memset(p, 0x11 + (int)k, 32);
        p[32] = (uint8_t)(34 + k * 10);
        p[40] = (uint8_t)(40 + k * 10);
        p[56] = 'r';
        p[58] = 'o';
    }
    return 1700;
}
