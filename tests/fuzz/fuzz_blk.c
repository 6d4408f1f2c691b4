/* Fuzz target of one image format (FUZZ_FORMAT; empty: the format is guessed). The first byte of an input says what it
 * is:
 *
 *   0 mod 3: the bytes of a whole image, opened and worked on          kind, number of operations, operations, image
 *   1 mod 3: a valid image of this room's making with bytes changed    kind, plan, flags, patches, patch...,
 * operation... 2 mod 3: operations on a valid image, compared with a shadow copy  kind, plan, operation...
 *
 * A patch is place (4 bytes), length (1) and bytes; flags bit 0 repairs the checksums of the format afterwards, so that
 * the damage gets past them. An operation is kind (1), place (2), length (2), value (1). In the first two kinds
 * anything may fail, nothing may crash, hang or use more memory than the limit of the run; in the third everything must
 * succeed, reads must show the shadow, and the last check must find nothing. */
#include "base/bytes.h"
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/secret.h"
#include "fuzz.h"
#include "simdisk.h"
#include <errno.h>
#include <malloc.h>
#include <stdio.h>

enum { SIZE = 1 << 20, BIG = 4 << 20, MAX_OPS = 64, MAX_SNAPS = 4, MAX_DISK = 12 << 20, MAX_CHECKS = 3 };

struct plan {
    const char *fmt, *create, *open;
    uint32_t size;
};
/* Those that this room can make, by format. */
static const struct plan plans[] = {
    {"qcow2", "cluster_size=512", "", SIZE},
    {"qcow2", "cluster_size=4k", "l2-cache-size=8k,refcount-cache-size=16k", SIZE},
    {"qcow2", "cluster_size=16k,extended_l2=on", "", SIZE},
    {"qcow2", "compat=0.10,cluster_size=1k", "", SIZE},
    {"qcow2", "cluster_size=2k,refcount_bits=1", "", SIZE},
    {"qcow2", "cluster_size=4k,refcount_bits=64,lazy_refcounts=on", "pass-discard-other=on", SIZE},
    {"qcow2", "cluster_size=4k,compression_type=zstd", "", SIZE},
    {"qcow2", "cluster_size=64k,preallocation=metadata", "", SIZE},
    {"qcow", "", "", SIZE},
    {"vdi", "", "", BIG},
    {"vdi", "preallocation=metadata", "", BIG},
    {"vmdk", "", "", SIZE},
    {"vmdk", "zeroed_grain=on", "", SIZE},
    {"vpc", "", "", BIG},
    {"vpc", "subformat=fixed,force_size=on", "", SIZE},
    {"vhdx", "block_size=1M", "", BIG},
    {"vhdx", "subformat=fixed,block_size=1M", "", SIZE},
    {"parallels", "cluster_size=64k", "", SIZE},
    {"luks", "key-secret=s,iter-time=1,cipher-mode=cbc,ivgen-alg=plain64,hash-alg=sha1", "key-secret=s", SIZE},
    {"raw", "", "", SIZE},
    {"raw", "", "offset=4096,size=65536", SIZE},
};
static const char *const format = FUZZ_FORMAT;
int fuzz_err = 2;

static struct {
    struct run *run;
    struct blk_set *set;
    const struct plan *plan[8];
    struct sim base[8]; /* a filled image of each plan */
    unsigned nr;
} g;

/* ---- one run over an image ---- */

struct snap_copy {
    uint8_t *data; /* owned */
    unsigned name;
};
struct session {
    struct blk_node *n;
    struct bytes in;
    unsigned ops;
    bool rw;
    const struct plan *plan;
    uint8_t *shadow; /* owned; NULL: nothing is compared */
    uint64_t size;
    struct snap_copy snaps[MAX_SNAPS];
    unsigned nr_snaps, next_name, checks;
};

static void fill(uint8_t *p, size_t n, uint8_t v)
{
    for (size_t i = 0; i < n; i++) /* in part compressible */
        p[i] = i & 64 ? v : (uint8_t)(v + i * 37);
}

/* A result in the shadowed kind must be a success, or a refusal of something the format does not have. */
static void must(const struct session *s, int r, const char *what)
{
    if (!s->shadow || r >= 0 || r == -ENOTSUP)
        return;
    dprintf(fuzz_err, "fuzz: %s: %s failed: %s\n", format, what, strerror(-r));
    abort();
}

static void same(const uint8_t *got, const uint8_t *want, uint64_t off, uint64_t len, const char *what)
{
    if (!memcmp(got, want, len))
        return;
    for (uint64_t i = 0; i < len; i++)
        if (got[i] != want[i]) {
            dprintf(fuzz_err, "fuzz: %s: %s: byte %lu is %#x, not %#x\n", format, what, (unsigned long)(off + i),
                    got[i], want[i]);
            abort();
        }
}

static void look(struct session *s, uint64_t off, uint64_t len)
{
    uint8_t *buf AUTOFREE = xmalloc(len ? len : 1);
    int r = blk_node_pread(s->n, off, buf, len);

    must(s, r, "read");
    if (s->shadow && r >= 0)
        same(buf, s->shadow + off, off, len, "read");
}

/* Sectors in the range may show the old contents or zeros; what they show stays. */
static void after_discard(struct session *s, uint64_t off, uint64_t len)
{
    uint8_t *buf AUTOFREE = NULL, zero[512] = {0};

    if (!s->shadow)
        return;
    buf = xmalloc(len ? len : 1);
    must(s, blk_node_pread(s->n, off, buf, len), "read after discard");
    for (uint64_t i = 0; i < len; i += 512)
        if (memcmp(buf + i, zero, 512) != 0)
            same(buf + i, s->shadow + off + i, off + i, 512, "discard");
        else
            memset(s->shadow + off + i, 0, 512);
}

static void op_write(struct session *s, uint64_t off, uint64_t len, uint8_t value, unsigned flags)
{
    uint8_t *buf AUTOFREE = xmalloc(len ? len : 1);
    struct iovec v = {buf, len};
    struct iov q;
    int r;

    fill(buf, len, value);
    iov_init_ext(&q, &v, 1);
    r = blk_node_pwritev(s->n, off, len, &q, 0, flags);
    if (!(flags & BLK_REQ_COMPRESSED))
        must(s, r, "write");
    if (s->shadow && r >= 0)
        memcpy(s->shadow + off, buf, len);
}

static void op_compressed(struct session *s, uint64_t off, uint8_t value)
{
    uint64_t cl = s->n->cluster_size;

    if (!s->n->drv->pwrite_compressed || !cl || cl > 2 << 20 || s->n->compressed_only)
        return;
    off = align_down(off, cl);
    if (off + cl <= s->size)
        op_write(s, off, cl, value, BLK_REQ_COMPRESSED);
}

static void op_snapshot(struct session *s, uint8_t value)
{
    struct blk_snap *list = NULL;
    char name[16];
    int nr;

    if (!s->n->drv->snap_create || !s->n->drv->snap_list)
        return;
    nr = s->n->drv->snap_list(s->n, &list);
    must(s, nr, "list of snapshots");
    if (value % 3 == 0 && s->nr_snaps < MAX_SNAPS) {
        struct blk_snap want = {.name = name, .icount = UINT64_MAX};

        snprintf(name, sizeof name, "n%u", s->next_name);
        if (s->n->drv->snap_create(s->n, &want, NULL)) {
            struct snap_copy *c = &s->snaps[s->nr_snaps++];

            *c = (struct snap_copy){.name = s->next_name};
            if (s->shadow) {
                c->data = xmalloc(s->size);
                memcpy(c->data, s->shadow, s->size);
            }
        } else if (!strstr(s->plan ? s->plan->create : "", "refcount_bits=1")) {
            must(s, -EIO, "snapshot");
        }
        s->next_name++;
    } else if (nr > 0) {
        const struct blk_snap *sn = &list[value / 3 % (unsigned)nr];
        unsigned k = 0;

        while (k < s->nr_snaps && strtoul(sn->name + 1, NULL, 10) != s->snaps[k].name)
            k++;
        if (value % 3 == 1) {
            if (s->n->drv->snap_goto(s->n, sn->id, NULL)) {
                if (s->shadow)
                    memcpy(s->shadow, s->snaps[k].data, s->size);
            } else {
                must(s, -EIO, "going back");
            }
        } else if (s->n->drv->snap_delete(s->n, sn->id, NULL, NULL)) {
            if (k < s->nr_snaps) {
                free(s->snaps[k].data);
                s->snaps[k] = s->snaps[--s->nr_snaps];
            }
        } else {
            must(s, -EIO, "deletion");
        }
    }
    blk_snaps_free(list, nr > 0 ? nr : 0);
}

static void op_check(struct session *s, bool fix)
{
    struct blk_check c = {0};
    int r;

    if (!s->n->drv->check || s->checks++ >= MAX_CHECKS)
        return;
    if (fix) /* only an image just opened is ever repaired */
        blk_node_flush(s->n);
    r = s->n->drv->check(s->n, &c, fix && s->rw ? BLK_FIX_LEAKS | BLK_FIX_ERRORS : 0);
    must(s, r, "check");
    if (s->shadow && r >= 0 && (c.corruptions || c.errors)) {
        dprintf(fuzz_err, "fuzz: %s: the check found %lu corruptions and %lu errors\n", format,
                (unsigned long)c.corruptions, (unsigned long)c.errors);
        abort();
    }
}

static void op_status(struct session *s)
{
    struct blk_extent e;
    uint64_t off = 0;

    for (unsigned k = 0; off < s->size && k < 300; k++) {
        int r = blk_node_status(s->n, off, s->size - off, &e);

        must(s, r, "status");
        if (r < 0)
            return;
        if (!e.len) {
            dprintf(fuzz_err, "fuzz: %s: an extent without length at %lu\n", format, (unsigned long)off);
            abort();
        }
        if (s->shadow && e.flags & BLK_ST_ZERO)
            for (uint64_t i = off; i < off + e.len && i < s->size; i++)
                if (s->shadow[i]) {
                    dprintf(fuzz_err, "fuzz: %s: %lu is told to be zero and is not\n", format, (unsigned long)i);
                    abort();
                }
        off += e.len;
    }
}

static void one_op(struct session *s)
{
    uint8_t kind = take8(&s->in) % 16;
    uint64_t off = (uint64_t)take16(&s->in) * (s->size / 65536 ? s->size / 65536 : 1), len = take16(&s->in) + 1;
    uint8_t value = take8(&s->in);
    int r;

    off = min_u64(off, s->size);
    if (kind & 1 || s->n->request_align > 1 || s->shadow) { /* half of them in whole sectors */
        off = align_down(off, 512);
        len = align_up(len, 512);
    }
    if (value & 0x80)
        len *= 8;
    len = min_u64(len, s->size - off);
    if (!s->rw && kind > 3)
        kind &= 3;
    switch (kind) {
    case 0:
    case 1:
        look(s, off, len);
        break;
    case 2:
        op_status(s);
        break;
    case 3:
        op_check(s, false);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        op_write(s, off, len, value, kind == 7 ? BLK_FUA : 0);
        break;
    case 8:
    case 9:
        r = blk_node_zeroes(s->n, off, len, kind == 9 ? BLK_MAY_UNMAP : 0);
        must(s, r, "zeroes");
        if (s->shadow && r >= 0)
            memset(s->shadow + off, 0, len);
        break;
    case 10:
    case 11:
        must(s, blk_node_discard(s->n, off, len), "discard");
        after_discard(s, off, len);
        break;
    case 12:
        op_compressed(s, off, value);
        break;
    case 13:
        op_snapshot(s, value);
        break;
    case 14:
        must(s, blk_node_flush(s->n), "flush");
        break;
    default:
        op_check(s, true);
    }
}

static void work(void *opaque)
{
    struct session *s = opaque;

    for (unsigned i = 0; i < s->ops && s->in.left && s->size; i++)
        one_op(s);
    if (s->shadow) {
        op_status(s);
        look(s, 0, s->size);
    }
}

static struct blk_node *open_image(const struct plan *p, const char *file, unsigned flags)
{
    struct opts *o = p && p->open ? opts_parse(p->open, NULL, NULL) : opts_new();
    struct err *e = NULL;
    struct blk_node *n;

    if (*format)
        opts_set(o, "driver", format);
    if (!strcmp(format, "luks") && !(flags & BLK_O_NO_IO) && !opts_peek(o, "key-secret"))
        opts_set(o, "key-secret", "s");
    opts_set(o, "file.driver", "sim");
    opts_set(o, "file.filename", file);
    n = blk_node_open(g.set, NULL, NULL, flags | BLK_O_UNMAP, o, &e);
    err_free(e);
    return n;
}

/* Keys derived in as many steps as the header says: luks.c has the bound, and it is minutes; here fewer must do. */
static void hasten(struct sim *s)
{
    for (uint64_t at = 164; at + 4 <= s->size && at < 600; at += 48)
        if (get_be32(s->bytes + at) > 5000)
            put_be32(s->bytes + at, get_be32(s->bytes + at) % 5000 + 1);
}

/* What a stranger's image goes through. */
static void visit(const struct plan *p, unsigned mode, struct bytes *in, unsigned ops)
{
    static const unsigned flags[] = {0, BLK_O_RDWR, BLK_O_CHECK, BLK_O_RDWR | BLK_O_CHECK, BLK_O_NO_IO | BLK_O_CHECK};
    unsigned fl = flags[mode % ARRAY_LEN(flags)];
    struct session s = {.in = *in, .ops = ops, .rw = fl & BLK_O_RDWR};

    if (!strcmp(format, "luks"))
        hasten(&sims[2]);
    s.n = open_image(p, "2", fl);
    if (!s.n)
        return;
    s.size = min_u64(s.n->size, 1 << 28); /* places are spread over what a disk is likely to have */
    if (s.n->drv->info)
        json_object_put(s.n->drv->info(s.n));
    if (!(fl & BLK_O_NO_IO))
        blk_run(g.set, work, &s);
    blk_node_unref(s.n);
}

/* ---- the three kinds ---- */

static void whole_image(struct bytes *in)
{
    unsigned mode = take8(in), ops = take8(in) % 24;
    struct bytes op = {in->p, min_u64(in->left, ops * 6)};
    struct sim_entry e;

    in->p += op.left;
    in->left -= op.left;
    sim_reset(&sims[2]);
    e = (struct sim_entry){SIM_WRITE, 0, in->left, (uint8_t *)(uintptr_t)in->p};
    if (in->left)
        sim_apply(&sims[2], &e);
    visit(NULL, mode, &op, ops);
}

static uint32_t crc32c(const uint8_t *p, size_t n, size_t sum_at)
{
    static uint32_t table[256];
    uint32_t c = ~0u;

    for (uint32_t i = 0; !table[1] && i < 256; i++) {
        uint32_t v = i;

        for (int k = 0; k < 8; k++)
            v = v >> 1 ^ (v & 1 ? 0x82f63b78 : 0);
        table[i] = v;
    }
    for (size_t i = 0; i < n; i++)
        c = c >> 8 ^ table[(c ^ (i - sum_at < 4 ? 0 : p[i])) & 0xff];
    return ~c;
}

static void sum_at(struct sim *s, uint64_t at, uint64_t len)
{
    if (at + len <= s->size)
        put_le32(s->bytes + at + 4, crc32c(s->bytes + at, len, 4));
}

static void vpc_sum(struct sim *s, uint64_t at, size_t len, size_t sum)
{
    uint32_t t = 0;

    if (at + len > s->size)
        return;
    for (size_t i = 0; i < len; i++)
        t += i - sum < 4 ? 0 : s->bytes[at + i];
    put_be32(s->bytes + at + sum, ~t);
}

static void mend(struct sim *s)
{
    if (!strcmp(format, "vhdx")) {
        for (uint64_t at = 1 << 20; at < 2 << 20 && at + 4096 <= s->size; at += 4096) /* where our log lies */
            if (!memcmp(s->bytes + at, "loge", 4))
                sum_at(s, at, min_u64(align_up(get_le32(s->bytes + at + 8), 4096), s->size - at));
        sum_at(s, 64 << 10, 4096);
        sum_at(s, 128 << 10, 4096);
        sum_at(s, 192 << 10, 65536);
        sum_at(s, 256 << 10, 65536);
    } else if (!strcmp(format, "vpc") && s->size >= 512) {
        vpc_sum(s, 0, 512, 64);
        vpc_sum(s, 512, 1024, 36);
        vpc_sum(s, s->size - 512, 512, 64);
    }
}

static void patched(struct bytes *in)
{
    unsigned mode, flags, nr, i;
    const struct sim *base;

    if (!g.nr)
        return;
    i = take8(in) % g.nr;
    base = &g.base[i];
    mode = take8(in);
    flags = take8(in);
    nr = take8(in) % 32;
    sim_copy(&sims[2], base);
    while (nr-- && in->left) {
        uint64_t at = take32(in) % base->size, len = take8(in) % 64;

        for (; len && at < base->size; len--)
            sims[2].bytes[at++] = take8(in);
    }
    if (flags & 2)
        sim_apply(&sims[2],
                  &(struct sim_entry){SIM_TRUNCATE, align_down(base->size * (flags >> 2) / 64, 512), 0, NULL});
    if (flags & 1)
        mend(&sims[2]);
    visit(g.plan[i], mode, in, MAX_OPS);
}

static void final_check(void *opaque)
{
    struct session *s = opaque;
    struct blk_check c = {0};

    look(s, 0, s->size);
    if (!s->n->drv->check)
        return;
    must(s, s->n->drv->check(s->n, &c, 0), "check");
    if (c.corruptions || c.errors || c.leaks) {
        dprintf(fuzz_err, "fuzz: %s: at the end %lu corruptions, %lu errors, %lu leaks\n", format,
                (unsigned long)c.corruptions, (unsigned long)c.errors, (unsigned long)c.leaks);
        abort();
    }
}

static void zero_shadow(struct session *s)
{
    if (s->n->size > s->size) /* rounded up by the format */
        s->size = min_u64(s->n->size, 2 * s->size);
    s->size = min_u64(s->size, s->n->size);
    s->shadow = xcalloc(1, s->size);
}

static void first_look(void *opaque)
{
    struct session *s = opaque;

    must(s, blk_node_pread(s->n, 0, s->shadow, s->size), "first read");
}

static void shadowed(struct bytes *in)
{
    struct session s = {.rw = true, .ops = MAX_OPS};
    unsigned i;

    if (!g.nr || !*format)
        return;
    i = take8(in) % g.nr;
    s.plan = g.plan[i];
    s.size = s.plan->size;
    sim_copy(&sims[2], &g.base[i]);
    s.n = open_image(s.plan, "2", BLK_O_RDWR);
    if (!s.n)
        abort();
    zero_shadow(&s);
    blk_run(g.set, first_look, &s);
    s.in = *in;
    s.next_name = 1000;
    if (s.n->drv->snap_list) { /* without the one that is in it already, whose contents nobody noted */
        struct blk_snap *list;
        int nr = s.n->drv->snap_list(s.n, &list);

        for (int k = 0; k < nr; k++)
            if (!s.n->drv->snap_delete(s.n, list[k].id, NULL, NULL))
                abort();
        blk_snaps_free(list, nr > 0 ? nr : 0);
    }
    blk_run(g.set, work, &s);
    blk_node_unref(s.n);
    s.n = open_image(s.plan, "2", 0);
    if (!s.n)
        abort();
    blk_run(g.set, final_check, &s);
    blk_node_unref(s.n);
    for (unsigned k = 0; k < s.nr_snaps; k++)
        free(s.snaps[k].data);
    free(s.shadow);
}

/* ---- start ---- */

static void populate(void *opaque)
{
    struct blk_node *n = opaque;
    uint8_t *buf AUTOFREE = xmalloc(70000);

    fill(buf, 70000, 0x77);
    blk_node_pwrite(n, 100000 & ~511, buf, 69632);
    blk_node_pwrite(n, n->size - 8192, buf, 4096);
    blk_node_zeroes(n, 1 << 18, 65536, 0);
    if (n->drv->snap_create) {
        struct blk_snap sn = {.name = (char *)(uintptr_t) "n0", .icount = UINT64_MAX};

        n->drv->snap_create(n, &sn, NULL);
        blk_node_pwrite(n, 120000 & ~511, buf, 20480);
    }
    blk_node_flush(n);
}

static void make_base(const struct plan *p)
{
    struct opts *o = opts_parse(p->create, NULL, NULL);
    struct err *e = NULL;
    struct blk_node *n;
    char size[16];

    sim_reset(&sims[0]);
    snprintf(size, sizeof size, "%u", p->size);
    opts_set(o, "size", size);
    if (!blk_create(g.set, "sim:0", p->fmt, o, &e)) {
        dprintf(fuzz_err, "fuzz: %s %s: %s\n", p->fmt, p->create, e->msg);
        abort();
    }
    opts_free(o);
    n = open_image(p, "0", BLK_O_RDWR);
    if (!n)
        abort();
    blk_run(g.set, populate, n);
    if (!strcmp(p->fmt, "qcow2") && !strstr(p->create, "0.10")) {
        struct blk_bitmap *b = blk_bitmap_new(n, "b", 65536, NULL);

        if (b)
            b->persistent = true;
    }
    blk_node_unref(n);
    sim_copy(&g.base[g.nr], &sims[0]);
    g.plan[g.nr++] = p;
}

static void start(void)
{
    struct err *e = NULL;

    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    sim_no_pause = true;
    sim_max = MAX_DISK;
    for (int i = 0; i < 4; i++)
        sim_reset(&sims[i]);
    g.run = run_new();
    g.set = blk_set_new(g.run);
    if (!blk_object_add(g.set, "secret,id=s,data=pass", &e))
        abort();
    for (size_t i = 0; i < ARRAY_LEN(plans); i++)
        if (!strcmp(plans[i].fmt, format) && g.nr < ARRAY_LEN(g.plan))
            make_base(&plans[i]);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    start();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bytes in = {data, len};

    switch (take8(&in) % 3) {
    case 0:
        whole_image(&in);
        break;
    case 1:
        patched(&in);
        break;
    default:
        shadowed(&in);
    }
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t max)
{
    size_t n = 0;

    if (i >= 2 * g.nr || max < 400)
        return 0;
    buf[n++] = i < g.nr ? 1 : 2;
    buf[n++] = (uint8_t)i;
    if (i < g.nr) { /* mode, flags and one patch that changes nothing much */
        static const uint8_t patch[] = {1, 1, 1, 0xf0, 0x3f, 0, 0, 2, 0, 0};

        memcpy(buf + n, patch, sizeof patch);
        n += sizeof patch;
    } else {
        buf[n - 1] = (uint8_t)(i - g.nr);
    }
    for (unsigned k = 0; k < 24; k++) {
        const uint8_t op[6] = {(uint8_t)k,        (uint8_t)(k * 91), (uint8_t)(k * 11),
                               (uint8_t)(k * 53), (uint8_t)(k * 7),  (uint8_t)(k * 5)};

        memcpy(buf + n, op, 6);
        n += 6;
    }
    return n;
}
