/* qemu-img convert and dd: copying a guest view into a new image.
 *
 * Several fibres take pieces in order, large enough that the page cache takes them in few and large parts: each asks
 * what its piece is, reads it, and waits for its turn before it starts to write, so that the target is laid out in
 * order while reads and writes overlap. Zeros are skipped when the target is known to read as zeros, else zeroed the
 * cheap way. Compressed pieces are one cluster each and leave in any order; their compression runs on all processors.
 */
#include "blk/node.h"
#include "cmd/img/img.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <time.h>

enum { PIECE = 1 << 20, MAX_SPARSE = 16 << 20, MAX_WORKERS = 16, MAX_SRC = 64, WORKERS = 8, WORKERS_CACHED = 3 };

struct copy {
    struct img *im;
    struct blk_node *src[MAX_SRC];
    struct blk_child *claims[MAX_SRC], *dst_claim;
    unsigned nr_src;
    struct blk_node *dst;
    struct blk_node *base; /* source layers from here down are the target's backing file; NULL = none */
    bool with_base;
    uint64_t size;
    uint64_t next;         /* where the next piece starts */
    uint64_t ticket, turn; /* order of writes */
    struct list waiting;   /* of struct turn_wait */
    uint64_t piece, done, min_sparse;
    bool any_order; /* writes need not begin in order */
    bool offload;   /* the kernel copies between the two files while it can */
    bool compressed, dst_zero, salvage, always_write;
    uint64_t rate;
    struct timespec started;
    int ret;
    unsigned running;
    struct fibre *parent;
    bool parent_waits;
};
struct turn_wait {
    struct list link;
    uint64_t ticket;
    struct fibre *f;
};

static void wait_turn(struct copy *c, uint64_t ticket)
{
    while (c->turn != ticket) {
        struct turn_wait w = {.ticket = ticket, .f = fibre_self()};

        list_add(&c->waiting, &w.link);
        fibre_yield();
    }
}

static void next_turn(struct copy *c)
{
    struct turn_wait *w, *tmp;

    c->turn++;
    list_each_safe (w, tmp, &c->waiting, link)
        if (w->ticket == c->turn) {
            list_del(&w->link);
            fibre_wake(blk_set_loop(c->im->set), w->f);
        }
}

/* The source that holds offset off; *in is the offset within it, *left what remains of it. */
static struct blk_node *source_at(struct copy *c, uint64_t off, uint64_t *in, uint64_t *left)
{
    for (unsigned i = 0; i < c->nr_src; i++) {
        if (off < c->src[i]->size) {
            *in = off;
            *left = c->src[i]->size - off;
            return c->src[i];
        }
        off -= c->src[i]->size;
    }
    *in = 0;
    *left = UINT64_MAX;
    return NULL; /* rounded-up end: zeros */
}

enum what { W_SKIP, W_ZERO, W_DATA };

static int classify(struct copy *c, uint64_t off, uint64_t len, enum what *what, uint64_t *part)
{
    uint64_t in, left;
    struct blk_node *n = source_at(c, off, &in, &left);
    struct blk_extent e;
    unsigned depth;
    int r;

    *part = min_u64(len, left);
    *what = W_ZERO;
    if (!n)
        return 0;
    if (c->always_write && !c->with_base) {
        *what = W_DATA;
        return 0;
    }
    r = blk_node_status_above(n, c->with_base ? c->base : NULL, in, *part, &e, &depth);
    if (r < 0)
        return r;
    *part = e.len;
    if (c->with_base && !(e.flags & BLK_ST_ALLOC))
        *what = W_SKIP;
    else if (e.flags & BLK_ST_ZERO)
        *what = W_ZERO;
    else
        *what = e.flags & BLK_ST_DATA ? W_DATA : W_ZERO;
    return 0;
}

static bool zeros(const uint8_t *p, size_t n)
{
    return !n || (!*p && !memcmp(p, p + 1, n - 1));
}

static int write_zero_run(struct copy *c, uint64_t off, uint64_t len)
{
    if (c->dst_zero && !c->with_base)
        return 0;
    return blk_node_zeroes(c->dst, off, len, c->min_sparse ? BLK_MAY_UNMAP : 0);
}

/* Writes buf, leaving out runs of zeros of at least min_sparse, on boundaries of that size. */
static int write_sparse(struct copy *c, uint64_t off, uint8_t *buf, uint64_t len)
{
    uint64_t grain = c->min_sparse ? c->min_sparse : len, at = 0;
    int r = 0;

    if (!c->min_sparse)
        return blk_node_pwrite(c->dst, off, buf, len);
    while (at < len && r >= 0) {
        uint64_t end = at, n = min_u64(grain - ((off + at) % grain), len - at);
        bool z = zeros(buf + at, n);

        do {
            end += n;
            n = min_u64(grain, len - end);
        } while (end < len && zeros(buf + end, n) == z);
        r = z ? write_zero_run(c, off + at, end - at) : blk_node_pwrite(c->dst, off + at, buf + at, end - at);
        at = end;
    }
    return r;
}

static int write_cluster(struct copy *c, uint64_t off, uint8_t *buf, uint64_t len)
{
    struct iovec v = {buf, len};
    struct iov q;

    if (c->min_sparse && zeros(buf, len))
        return write_zero_run(c, off, len);
    iov_init_ext(&q, &v, 1);
    return blk_node_pwritev(c->dst, off, len, &q, 0, BLK_REQ_COMPRESSED);
}

/* Reads a whole piece of mixed kinds into buf (compressed targets take whole clusters). */
static int read_any(struct copy *c, uint64_t off, uint8_t *buf, uint64_t len)
{
    while (len) {
        uint64_t in, left;
        struct blk_node *n = source_at(c, off, &in, &left);
        uint64_t part = min_u64(len, left);
        int r = 0;

        if (!n)
            memset(buf, 0, part);
        else
            r = blk_node_pread(n, in, buf, part);
        if (r < 0 && c->salvage) {
            memset(buf, 0, part);
            r = 0;
        }
        if (r < 0)
            return r;
        off += part;
        buf += part;
        len -= part;
    }
    return 0;
}

static void fail(struct copy *c, int r, const char *what, uint64_t off)
{
    if (c->ret >= 0) {
        c->ret = r;
        img_error("error while %s at byte %" PRIu64 ": %s", what, off, strerror(-r));
    }
}

/* Takes the next piece off the source; false at the end. */
static bool take(struct copy *c, uint64_t *off, uint64_t *len, enum what *what, uint64_t *ticket)
{
    int r;

    for (;;) {
        if (c->ret < 0 || c->next >= c->size)
            return false;
        *off = c->next;
        *len = min_u64(c->piece - *off % c->piece, c->size - *off);
        *what = W_DATA;
        r = classify(c, *off, c->size - *off, what, len);
        if (r < 0 && !c->salvage) {
            fail(c, r, "reading block status", *off);
            return false;
        }
        if (r < 0) {
            *len = min_u64(c->piece, c->size - *off);
            *what = W_DATA;
        }
        if (*off != c->next) /* somebody else took it while we asked */
            continue;
        if (c->compressed) {
            if (*what == W_DATA || *len < min_u64(c->piece, c->size - *off)) { /* whole clusters only */
                *what = W_DATA;
                *len = min_u64(c->piece, c->size - *off);
            } else if (*off + *len < c->size) {
                *len = align_down(*len, c->piece);
            }
        } else if (*what == W_DATA) {
            *len = min_u64(*len, c->piece - *off % c->piece);
        }
        break;
    }
    c->next += *len;
    *ticket = c->ticket++;
    return true;
}

/* Lets the kernel copy the piece; after one refusal no further piece is tried. */
static bool offloaded(struct copy *c, uint64_t off, uint64_t len)
{
    uint64_t in, left;
    struct blk_node *n = source_at(c, off, &in, &left);
    int r = n && len <= left ? blk_node_copy_range(n, in, c->dst, off, len) : -ENOTSUP;

    if (r < 0)
        c->offload = false;
    return r >= 0;
}

static void copy_piece(struct copy *c, uint64_t off, uint64_t len, enum what what, uint64_t ticket, uint8_t *buf)
{
    bool in_order = !c->compressed && !c->any_order;
    int r = 0;

    if (what == W_DATA && c->offload && offloaded(c, off, len))
        what = W_SKIP;
    if (what == W_DATA)
        r = read_any(c, off, buf, len);
    if (r < 0)
        fail(c, r, "reading", off);
    if (in_order)
        wait_turn(c, ticket);
    if (c->ret >= 0) {
        if (in_order)
            next_turn(c); /* the next one begins as soon as we first suspend: begun in order, finished in any */
        if (what == W_ZERO)
            r = write_zero_run(c, off, len);
        else if (what == W_DATA)
            r = c->compressed ? write_cluster(c, off, buf, len) : write_sparse(c, off, buf, len);
        if (r < 0)
            fail(c, r, "writing", off);
    } else if (in_order) {
        next_turn(c);
    }
    c->done += len;
    img_limit_rate(&c->started, c->done, c->rate);
    img_progress(c->im, c->done, c->size);
}

static void worker(void *opaque)
{
    struct copy *c = opaque;
    uint8_t *buf = try_alloc_aligned(4096, c->piece);
    uint64_t off, len, ticket;
    enum what what;

    if (!buf)
        fail(c, -ENOMEM, "copying", 0);
    while (buf && take(c, &off, &len, &what, &ticket)) {
        if (img_stopped() && c->ret >= 0)
            c->ret = -EINTR;
        copy_piece(c, off, len, what, ticket, buf);
    }
    free(buf);
    if (!--c->running && c->parent_waits)
        fibre_wake(blk_set_loop(c->im->set), c->parent);
}

/* Inside the command's fibre. */
static int run_copy(struct copy *c, unsigned workers)
{
    int r;

    clock_gettime(CLOCK_MONOTONIC, &c->started);
    list_init(&c->waiting);
    c->parent = fibre_self();
    c->running = workers;
    img_progress(c->im, 0, c->size);
    for (unsigned i = 0; i < workers; i++)
        fibre_resume(fibre_new(worker, c));
    while (c->running) {
        c->parent_waits = true;
        fibre_yield();
        c->parent_waits = false;
    }
    if (c->ret >= 0 && c->compressed && c->dst->drv->pwrite_compressed) {
        struct iov none = {0};

        r = blk_node_pwritev(c->dst, c->size, 0, &none, 0, BLK_REQ_COMPRESSED); /* end of stream */
        if (r < 0)
            fail(c, r, "finishing", c->size);
    }
    if (c->ret >= 0) {
        r = blk_node_flush(c->dst);
        if (r < 0)
            fail(c, r, "flushing", c->size);
    }
    if (c->ret >= 0)
        img_progress(c->im, c->size, c->size);
    img_progress_end(c->im);
    return c->ret;
}

/* ---- convert ---- */

struct conv {
    const char *fmt, *out_fmt, *cache, *src_cache, *base, *base_fmt, *snap, *options;
    struct opts *o;
    bool offload, any_order, sparse_given, out_given;
    bool compress, no_create, target_opts, target_zero, bitmaps, salvage, skip_broken;
    uint64_t sparse, rate;
    unsigned workers;
};

enum { LONGS = 24 };
static const struct option conv_longs[LONGS] = {{"help", no_argument, 0, 'h'},
                                                {"object", required_argument, 0, OPT_OBJECT},
                                                {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                                {"source-format", required_argument, 0, 'f'},
                                                {"source-image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                                {"force-share", no_argument, 0, 'U'},
                                                {"target-image-opts", no_argument, 0, OPT_TARGET_OPTS},
                                                {"salvage", no_argument, 0, OPT_SALVAGE},
                                                {"target-is-zero", no_argument, 0, OPT_TARGET_ZERO},
                                                {"bitmaps", no_argument, 0, OPT_BITMAPS},
                                                {"skip-broken-bitmaps", no_argument, 0, OPT_SKIP_BROKEN},
                                                {0}};

static int conv_option(struct img *im, struct conv *v, int opt)
{
    uint64_t n;

    switch (opt) {
    case 'f':
        v->fmt = optarg;
        break;
    case 'O':
        v->out_fmt = optarg;
        v->out_given = true;
        break;
    case 'B':
        v->base = optarg;
        break;
    case 'F':
        v->base_fmt = optarg;
        break;
    case 'C':
        v->offload = true;
        break;
    case 'c':
        v->compress = true;
        break;
    case 'l':
        v->snap = optarg;
        break;
    case 't':
        v->cache = optarg;
        break;
    case 'T':
        v->src_cache = optarg;
        break;
    case 'p':
        im->progress = true;
        break;
    case 'q':
        im->quiet = true;
        break;
    case 'n':
        v->no_create = true;
        break;
    case 'W':
        v->any_order = true;
        break;
    case 'U':
        im->force_share = true;
        break;
    case OPT_IMAGE_OPTS:
        im->image_opts = true;
        break;
    case OPT_TARGET_OPTS:
        v->target_opts = true;
        break;
    case OPT_TARGET_ZERO:
        v->target_zero = true;
        break;
    case OPT_BITMAPS:
        v->bitmaps = true;
        break;
    case OPT_SALVAGE:
        v->salvage = true;
        break;
    case OPT_SKIP_BROKEN:
        v->skip_broken = true;
        break;
    case 'o':
        v->options = optarg;
        return !strcmp(optarg, "help") || !strcmp(optarg, "?") || img_add_options(&v->o, optarg) ? 0 : 1;
    case 'S':
        v->sparse_given = true;
        if (!img_size(optarg, "buffer size for sparse output", &v->sparse))
            return 1;
        if (v->sparse & 511 || v->sparse > MAX_SPARSE)
            return img_error("Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to "
                             "%d. Select 0 to "
                             "disable sparse detection (fully allocates output).",
                             MAX_SPARSE);
        break;
    case 'r':
        if (!img_size(optarg, "rate limit", &v->rate))
            return 1;
        break;
    case 'm':
        if (!str_to_u64(optarg, &n) || n < 1 || n > MAX_WORKERS)
            return img_error("Invalid number of coroutines. Allowed number of coroutines is between 1 and %d",
                             MAX_WORKERS);
        v->workers = (unsigned)n;
        break;
    default:
        fprintf(stderr, "Try 'qemu-img --help' for more information\n");
        return 1;
    }
    return 0;
}

static int make_target(struct img *im, struct conv *v, const char *name, uint64_t size)
{
    const struct blk_driver *d = blk_driver_find(v->out_fmt);
    struct err *e = NULL;
    char num[24];

    if (!d)
        return img_error("Unknown file format '%s'", v->out_fmt);
    if (!d->create)
        return img_error("Format driver '%s' does not support image creation", v->out_fmt);
    if (!opts_peek(v->o, "size")) {
        snprintf(num, sizeof num, "%" PRIu64, size);
        opts_replace(v->o, "size", num);
    }
    if (v->base) {
        opts_replace(v->o, "backing_file", v->base);
        if (v->base_fmt)
            opts_replace(v->o, "backing_fmt", v->base_fmt);
    }
    if (d->create_opts && !blk_create_opts_check(d, v->o, &e))
        return img_fail(e);
    if (!d->create(im->set, name, v->o, &e)) {
        err_prefix(&e, "%s: error while converting %s: ", name, v->out_fmt);
        return img_fail(e);
    }
    return 0;
}

int img_load_snapshot(struct blk_node *n, const char *text)
{
    const char *id = NULL, *name = NULL;
    struct opts *o = NULL;
    struct err *e = NULL;
    bool ok;

    if (!n->drv->snap_load)
        return img_error("Failed to load snapshot: Device '%s' does not support internal snapshots",
                         blk_node_filename(n));
    if (str_starts(text, "snapshot.")) {
        o = opts_parse(text, NULL, NULL);
        id = o ? opts_get(o, "snapshot.id") : NULL;
        name = o ? opts_get(o, "snapshot.name") : NULL;
        ok = n->drv->snap_load(n, id, name, &e);
    } else {
        ok = n->drv->snap_load(n, text, NULL, NULL) || n->drv->snap_load(n, NULL, text, &e);
    }
    opts_free(o);
    if (ok)
        return 0;
    err_prefix(&e, "Failed to load snapshot: ");
    return img_fail(e);
}

static int copy_bitmaps(struct copy *c, bool skip_broken)
{
    struct blk_bitmap *b, *d;

    list_each (b, &c->src[0]->bitmaps, link) {
        struct err *e = NULL;

        if (!b->persistent || !b->name)
            continue;
        if (b->inconsistent && skip_broken) {
            warn_report("Skipping inconsistent bitmap '%s'", b->name);
            continue;
        }
        if (b->inconsistent) {
            img_error("Cannot copy inconsistent bitmap '%s'", b->name);
            fprintf(stderr, "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove'\n");
            return 1;
        }
        d = blk_bitmap_new(c->dst, b->name, b->gran, &e);
        if (!d || !blk_bitmap_merge(d, b, &e))
            return img_fail(e);
        d->persistent = true;
        d->enabled = b->enabled;
    }
    return 0;
}

/* After the copy the backing file is what the source's overlay part was taken against. */
static int prepare_base(struct img *im, struct copy *c, struct conv *v)
{
    char *path AUTOFREE = NULL;
    struct blk_node *n;

    if (!v->base && !v->no_create) { /* -o backing_file= means the same as -B */
        v->base = opts_peek(v->o, "backing_file");
        v->base_fmt = opts_peek(v->o, "backing_fmt");
        if (v->base && !*v->base)
            v->base = NULL;
    }
    if (!v->base)
        return 0;
    if (c->nr_src > 1)
        return img_error(
            "Having a backing file for the target makes no sense when concatenating multiple input images");
    c->with_base = true;
    path = xstrdup(v->base);
    for (n = c->src[0]; n;
         n = blk_node_cow(n)) /* the same file in the source's chain: what it provides is not copied */
        if (!strcmp(blk_node_filename(n), path) && n != c->src[0])
            break;
    c->base = n;
    if (!n)
        c->with_base = false;
    (void)im;
    return 0;
}

static int open_sources(struct img *im, struct copy *c, struct conv *v, char **names, unsigned nr)
{
    if (nr > MAX_SRC)
        return img_error("too many source images");
    if (v->bitmaps && nr > 1)
        return img_error("Copying bitmaps only possible with single source");
    im->source_cache = true;
    for (unsigned i = 0; i < nr; i++) {
        c->src[i] = img_open(im, names[i], v->fmt, 0, v->src_cache);
        if (!c->src[i])
            return 1;
        c->nr_src++;
        c->size += c->src[i]->size;
        c->claims[i] = img_claim(c->src[i], false);
        if (!c->claims[i])
            return 1;
    }
    im->source_cache = false;
    if (v->bitmaps && !c->src[0]->drv->bitmap_remove)
        return img_error("Source lacks bitmap support");
    if (v->snap && nr > 1)
        return img_error("No support for concatenating multiple snapshot");
    return v->snap ? img_load_snapshot(c->src[0], v->snap) : 0;
}

static int open_target(struct img *im, struct copy *c, struct conv *v, const char *name)
{
    bool was = im->image_opts, share = im->force_share;
    struct opt *e;

    im->image_opts = v->target_opts;
    im->force_share = false;
    im->extra = opts_new();
    opts_each (e, v->o)
        if (!v->no_create && (!strcmp(e->key, "key-secret") || !strcmp(e->key, "encrypt.key-secret")))
            opts_set(im->extra, e->key, e->val);
    c->dst = img_open(im, name, v->target_opts ? NULL : v->out_fmt, BLK_O_RDWR | (v->base ? 0 : BLK_O_NO_BACKING),
                      v->cache ? v->cache : "unsafe");
    im->image_opts = was;
    im->force_share = share;
    opts_free(im->extra);
    im->extra = NULL;
    if (!c->dst)
        return 1;
    c->dst_claim = img_claim(c->dst, true);
    return c->dst_claim ? 0 : 1;
}

static int fit_sizes(struct copy *c, struct conv *v, const char *name)
{
    struct err *e = NULL;

    if (c->dst->size >= c->size || v->no_create == false)
        return c->dst->size >= c->size || c->dst->growable ||
                       blk_node_truncate(c->dst, c->size, BLK_PREALLOC_OFF, &e) >= 0
                   ? 0
                   : img_fail(e);
    return img_error("output file is smaller than input file");
}

static bool in_page_cache(const struct blk_node *n)
{
    while (n->file)
        n = n->file->node;
    return n->drv->cached_fd && !(n->open_flags & BLK_O_DIRECT);
}

/* Between files in the page cache one piece is read while another is written, by two threads: more of them under way
 * only push each other out of the processor's caches. */
static unsigned nr_workers(const struct copy *c, const struct conv *v)
{
    bool cached = !c->compressed && in_page_cache(c->dst);

    if (v->workers)
        return v->workers;
    for (unsigned i = 0; i < c->nr_src; i++)
        cached = cached && in_page_cache(c->src[i]);
    return cached ? WORKERS_CACHED : WORKERS;
}

/* Asked before the copy: bitmaps cannot be lost at its end. */
static bool keeps_bitmaps(const struct copy *c)
{
    return c->dst->drv->bitmap_remove &&
           (!c->dst->drv->bitmap_store_ok || c->dst->drv->bitmap_store_ok(c->dst, "any", 65536, NULL));
}

static int convert(struct img *im, struct copy *c, struct conv *v, const char *name)
{
    int r;

    if ((r = prepare_base(im, c, v)) || (!v->no_create && (r = make_target(im, v, name, c->size))) ||
        (r = open_target(im, c, v, name)) || (r = fit_sizes(c, v, name)))
        return r;
    if (v->compress && !c->dst->drv->pwrite_compressed)
        return img_error("Compression not supported for this file format");
    if (v->bitmaps && !keeps_bitmaps(c))
        return img_error("Format driver '%s' does not support bitmaps", c->dst->drv->name);
    c->compressed = v->compress || c->dst->compressed_only;
    c->piece = c->compressed && c->dst->cluster_size ? c->dst->cluster_size : max_u64(PIECE, v->sparse);
    c->dst_zero = v->target_zero || !v->no_create;
    if ((v->no_create && !v->target_zero) || !blk_node_starts_zero(c->dst))
        c->dst_zero = false;
    c->min_sparse = v->sparse;
    c->always_write = !v->sparse;
    c->salvage = v->salvage;
    c->any_order = v->any_order;
    c->offload = v->offload;
    c->rate = v->rate;
    if (run_copy(c, c->compressed && c->dst->drv->kind == BLK_FORMAT && !strcmp(c->dst->drv->name, "vmdk")
                        ? 1
                        : nr_workers(c, v)) < 0)
        return 1;
    return v->bitmaps ? copy_bitmaps(c, v->skip_broken) : 0;
}

int cmd_convert(struct img *im)
{
    struct conv v = {.out_fmt = "raw", .o = opts_new(), .sparse = 4096};
    struct copy c = {.im = im};
    int opt, r = 0, nr;

    while (!r && (opt = getopt_long(im->argc, im->argv, "hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:", conv_longs, NULL)) != -1)
        r = conv_option(im, &v, opt);
    if (r)
        goto out;
    nr = im->argc - optind - 1;
    if (v.options && img_options_help(v.out_fmt, v.options, nr >= 0, false))
        goto out;
    r = 1;
    if (v.no_create && v.options) {
        img_error("-o has no effect when skipping image creation");
        goto out;
    }
    if (v.skip_broken && !v.bitmaps) {
        img_error("Use of --skip-broken-bitmaps requires --bitmaps");
        goto out;
    }
    if (v.target_opts && v.out_given) {
        img_error("--target-image-opts and -O are mutually exclusive");
        goto out;
    }
    if (v.target_opts && !v.no_create) {
        img_error("--target-image-opts requires use of -n flag");
        goto out;
    }
    if (v.target_zero && !v.no_create) {
        img_error("--target-is-zero requires use of -n flag");
        goto out;
    }
    if (v.compress && opts_peek(v.o, "preallocation") && strcmp(opts_peek(v.o, "preallocation"), "off") != 0) {
        img_error("Compression and preallocation not supported at the same time");
        goto out;
    }
    if (nr < 1) {
        img_error("Must specify image file name");
        goto out;
    }
    if (v.offload && (v.compress || v.sparse_given)) {
        img_error("Cannot enable copy offloading when %s", v.compress ? "-c is used" : "-S is used");
        goto out;
    }
    r = open_sources(im, &c, &v, im->argv + optind, (unsigned)nr);
    if (!r)
        r = convert(im, &c, &v, im->argv[im->argc - 1]);
out:
    blk_child_detach(c.dst_claim);
    blk_node_unref(c.dst);
    for (unsigned i = c.nr_src; i-- > 0;) {
        blk_child_detach(c.claims[i]);
        blk_node_unref(c.src[i]);
    }
    opts_free(v.o);
    return r;
}

/* ---- dd ---- */

struct dd {
    uint64_t bs, count, skip;
    bool has_count;
    const char *in, *out;
};

static int dd_operand(struct dd *d, const char *arg)
{
    const char *v = strchr(arg, '=');
    size_t n = v ? (size_t)(v - arg) : 0;

    if (!v)
        return img_error("unrecognized operand %s", arg);
    v++;
    if (n == 2 && !strncmp(arg, "if", 2)) {
        d->in = v;
    } else if (n == 2 && !strncmp(arg, "of", 2)) {
        d->out = v;
    } else if (n == 2 && !strncmp(arg, "bs", 2)) {
        if (!str_to_size(v, 'b', &d->bs) || !d->bs || d->bs > 1 << 30)
            return img_error("invalid number: '%s'", v);
    } else if (n == 5 && !strncmp(arg, "count", 5)) {
        d->has_count = true;
        if (!str_to_size(v, 'b', &d->count))
            return img_error("invalid number: '%s'", v);
    } else if (n == 4 && !strncmp(arg, "skip", 4)) {
        if (!str_to_size(v, 'b', &d->skip))
            return img_error("invalid number: '%s'", v);
    } else {
        return img_error("unrecognized operand '%s'", arg);
    }
    return 0;
}

static int dd_copy(struct blk_node *in, struct blk_node *out, uint64_t from, uint64_t len)
{
    uint8_t *buf AUTOFREE = try_alloc_aligned(4096, PIECE);

    if (!buf)
        return img_error("no memory");
    for (uint64_t at = 0; at < len;) {
        uint64_t part = min_u64(PIECE, len - at);
        int r = blk_node_pread(in, from + at, buf, part);

        if (r < 0)
            return img_error("error while reading from input image file: %s", strerror(-r));
        if (!zeros(buf, part)) {
            r = blk_node_pwrite(out, at, buf, part);
            if (r < 0)
                return img_error("error while writing to output image file: %s", strerror(-r));
        }
        at += part;
    }
    return blk_node_flush(out) < 0 ? img_error("error while flushing the output image file") : 0;
}

int cmd_dd(struct img *im)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"object", required_argument, 0, OPT_OBJECT},
                                          {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                          {"force-share", no_argument, 0, 'U'},
                                          {0}};
    struct conv v = {.out_fmt = "raw", .o = opts_new()};
    struct dd d = {.bs = 512};
    struct copy c = {.im = im};
    uint64_t from, len;
    int opt, r = 1;

    while ((opt = getopt_long(im->argc, im->argv, "hf:O:U", longs, NULL)) != -1)
        if (conv_option(im, &v, opt))
            goto out;
    for (; optind < im->argc; optind++)
        if (dd_operand(&d, im->argv[optind]))
            goto out;
    if (!d.in || !d.out) {
        img_error("Must specify both input and output files");
        goto out;
    }
    if (open_sources(im, &c, &v, (char *[]){(char *)(uintptr_t)d.in}, 1))
        goto out;
    from = d.skip > UINT64_MAX / d.bs ? UINT64_MAX : d.skip * d.bs;
    len = c.size > from ? c.size - from : 0;
    if (d.has_count && d.count <= UINT64_MAX / d.bs)
        len = min_u64(len, d.count * d.bs);
    if (from > c.size)
        img_error("%s: cannot skip to specified offset", d.in);
    if (!make_target(im, &v, d.out, len) && !open_target(im, &c, &v, d.out))
        r = dd_copy(c.src[0], c.dst, min_u64(from, c.size), len);
out:
    blk_child_detach(c.dst_claim);
    blk_node_unref(c.dst);
    if (c.nr_src) {
        blk_child_detach(c.claims[0]);
        blk_node_unref(c.src[0]);
    }
    opts_free(v.o);
    return r;
}
