/* qemu-img rebase and commit: moving data between the layers of a chain; and bench. */
#include "cmd/img/img.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

enum { PIECE = 2 << 20 };

/* ---- rebase ---- */

struct rebase {
    struct img *im;
    struct blk_node *top, *old, *new_;
    uint8_t *a, *b;
};

static int read_layer(struct blk_node *n, uint64_t off, uint8_t *buf, uint64_t len)
{
    if (n)
        return blk_node_pread(n, off, buf, len); /* zeros beyond its end */
    memset(buf, 0, len);
    return 0;
}

/* Copies into top what the old backing chain shows and the new one does not. The picture of the disk never changes. */
static int pull_up(struct rebase *x)
{
    uint64_t size = x->top->size, grain = x->top->cluster_size ? x->top->cluster_size : 65536;

    img_progress(x->im, 0, size);
    for (uint64_t off = 0; off < size;) {
        struct blk_extent e;
        uint64_t len;
        int r = img_stopped() ? -EINTR : blk_node_status(x->top, off, size - off, &e);

        if (r < 0)
            return r;
        len = e.len;
        if (!(e.flags & BLK_ST_ALLOC)) {
            len = min_u64(len, PIECE);
            r = read_layer(x->old, off, x->a, len);
            if (r >= 0)
                r = read_layer(x->new_, off, x->b, len);
            for (uint64_t at = 0; at < len && r >= 0;) {
                uint64_t part = min_u64(grain - (off + at) % grain, len - at);

                if (memcmp(x->a + at, x->b + at, part) != 0)
                    r = blk_node_pwrite(x->top, off + at, x->a + at, part);
                at += part;
            }
            if (r < 0)
                return r;
        }
        off += len;
        img_progress(x->im, off, size);
    }
    img_progress_end(x->im);
    return 0;
}

static int set_backing(struct rebase *x, const char *base, const char *fmt)
{
    int r;

    if (!x->top->drv->change_backing)
        return img_error("Could not change the backing file to '%s': Operation not supported", base);
    r = x->top->drv->change_backing(x->top, *base ? base : NULL, fmt);
    if (r >= 0)
        r = blk_node_flush(x->top);
    if (r == -ENOSPC)
        return img_error("Could not change the backing file to '%s': No space left in the file header", base);
    return r < 0 ? img_error("Could not change the backing file to '%s': %s", base, strerror(-r)) : 0;
}

static struct blk_node *open_new(struct rebase *x, const char *base, const char *fmt, const char *cache)
{
    char *path AUTOFREE = blk_path_combine(blk_node_filename(x->top), base);
    struct err *e = NULL;
    struct blk_node *n = blk_node_open(x->im->set, path, fmt, BLK_O_UNMAP, NULL, &e);

    (void)cache;
    if (!n) {
        err_prefix(&e, "Could not open new backing file '%s': Could not open '%s': ", base, path);
        img_fail(e);
    }
    return n;
}

static bool names_itself(struct blk_node *top, const char *base)
{
    char *path AUTOFREE = blk_path_combine(blk_node_filename(top), base);
    struct stat a, b;

    return *base && !stat(path, &a) && !stat(blk_node_filename(top), &b) && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

static int rebase(struct rebase *x, const char *base, const char *fmt, bool unsafe, const char *cache)
{
    char *own AUTOFREE = NULL;
    int r;

    if (fmt && !blk_driver_find(fmt))
        return img_error("Invalid format name: '%s'", fmt);
    if (unsafe) {
        if (names_itself(x->top, base))
            return img_error("Could not change the backing file to '%s': an image cannot be its own backing file",
                             base);
        if (*base && !fmt)
            return img_error("Could not change the backing file to '%s': backing format must be specified", base);
        return set_backing(x, base, fmt);
    }
    x->old = blk_node_cow(x->top);
    if (*base) {
        x->new_ = open_new(x, base, fmt, cache);
        if (!x->new_)
            return 1;
        for (struct blk_node *n = x->new_; n; n = blk_node_cow(n))
            if (img_same_file(n, x->top))
                return img_error("Could not change the backing file to '%s': it is '%s' itself, or lies above it", base,
                                 blk_node_filename(x->top));
        if (!fmt && !strcmp(x->new_->drv->name, "raw")) {
            img_error("Could not change the backing file to '%s': backing format must be specified", base);
            fprintf(stderr, "A raw image cannot be told from others by its contents; add -F raw if it is one.\n");
            return 1;
        }
        own = xstrdup(fmt ? fmt : x->new_->drv->name);
    }
    x->a = try_alloc_aligned(4096, PIECE);
    x->b = try_alloc_aligned(4096, PIECE);
    r = x->a && x->b ? pull_up(x) : -ENOMEM;
    if (r >= 0)
        r = blk_node_flush(x->top);
    if (r < 0)
        return img_error("error while copying from the old backing file: %s", strerror(-r));
    return set_backing(x, base, own);
}

int cmd_rebase(struct img *im)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"object", required_argument, 0, OPT_OBJECT},
                                          {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                          {"force-share", no_argument, 0, 'U'},
                                          {0}};
    const char *fmt = NULL, *base = NULL, *base_fmt = NULL, *cache = NULL, *src_cache = NULL;
    struct blk_child *claim = NULL;
    struct rebase x = {.im = im};
    bool unsafe = false;
    int opt, r = 1;

    while ((opt = getopt_long(im->argc, im->argv, "hf:F:b:upt:T:qUc", longs, NULL)) != -1)
        switch (opt) {
        case 'f':
            fmt = optarg;
            break;
        case 'F':
            base_fmt = optarg;
            break;
        case 'b':
            base = optarg;
            break;
        case 'u':
            unsafe = true;
            break;
        case 'p':
            im->progress = true;
            break;
        case 't':
            cache = optarg;
            break;
        case 'T':
            src_cache = optarg;
            break;
        case 'q':
            im->quiet = true;
            break;
        case 'U':
            im->force_share = true;
            break;
        case OPT_IMAGE_OPTS:
            im->image_opts = true;
            break;
        case 'h':
            printf("usage: qemu-img rebase [options] -b backing_file [-F backing_fmt] filename\n");
            return 0;
        default:
            return 1;
        }
    if (im->quiet)
        im->progress = false;
    if (optind != im->argc - 1)
        return img_usage("Expecting one image file name");
    if (!unsafe && !base)
        return img_usage("Must specify backing file (-b) or use unsafe mode (-u)");
    im->force_share = false; /* -U is for the files below, whose readers always work */
    x.top = img_open(im, im->argv[optind], fmt, BLK_O_RDWR | (unsafe ? BLK_O_NO_BACKING : 0), cache);
    if (!x.top)
        return 1;
    claim = img_claim(x.top, false);
    if (claim)
        r = rebase(&x, base ? base : "", base_fmt, unsafe, src_cache);
    free(x.a);
    free(x.b);
    blk_node_unref(x.new_);
    blk_child_detach(claim);
    blk_node_unref(x.top);
    return r;
}

/* ---- commit ---- */

/* The layer of top's chain whose file is `name`. */
static struct blk_node *find_base(struct blk_node *top, const char *name)
{
    char *path AUTOFREE = blk_path_combine(blk_node_filename(top), name);

    for (struct blk_node *n = blk_node_cow(top); n; n = blk_node_cow(n))
        if (!strcmp(blk_node_filename(n), name) || !strcmp(blk_node_filename(n), path))
            return n;
    return NULL;
}

static int copy_down(struct img *im, struct blk_node *top, struct blk_node *base, uint64_t rate)
{
    uint8_t *buf AUTOFREE = try_alloc_aligned(4096, PIECE);
    uint64_t off = 0, copied = 0;
    int r = buf ? 0 : -ENOMEM;
    struct timespec start;

    clock_gettime(CLOCK_MONOTONIC, &start);
    img_progress(im, 0, top->size);
    while (off < top->size && r >= 0) {
        struct blk_extent e;
        uint64_t len;

        r = img_stopped() ? -EINTR : blk_node_status_above(top, base, off, top->size - off, &e, NULL);
        if (r < 0)
            break;
        len = e.len;
        if (e.flags & BLK_ST_ALLOC && e.flags & BLK_ST_ZERO) {
            r = blk_node_zeroes(base, off, len, BLK_MAY_UNMAP);
        } else if (e.flags & BLK_ST_ALLOC) {
            len = min_u64(len, PIECE);
            r = blk_node_pread(top, off, buf, len);
            if (r >= 0)
                r = blk_node_pwrite(base, off, buf, len);
            copied += len;
            img_limit_rate(&start, copied, rate);
        }
        off += len;
        img_progress(im, off, top->size);
    }
    img_progress_end(im);
    return r;
}

static int commit(struct img *im, struct blk_node *top, struct blk_node *base, bool keep, uint64_t rate)
{
    struct blk_node *above;
    struct err *e = NULL;
    int r;

    for (above = top; above && above != base; above = blk_node_cow(above))
        above->backing_rw = true; /* the overlay's reader and the base's writer are one program here */
    if (!blk_perm_update(top, &e) || !blk_node_reopen(base, true, &e) || !blk_perm_update(top, &e))
        return img_fail(e);
    if (base->size < top->size && blk_node_truncate(base, top->size, BLK_PREALLOC_OFF, &e) < 0)
        return img_fail(e);
    r = copy_down(im, top, base, rate);
    if (r >= 0)
        r = blk_node_flush(base); /* durable below before anything is dropped above */
    if (r < 0)
        return img_error("Could not commit: %s", strerror(-r));
    if (!keep && blk_node_cow(top) == base && top->drv->make_empty) {
        r = top->drv->make_empty(top);
        if (r < 0)
            return img_error("Could not empty %s: %s", blk_node_filename(top), strerror(-r));
    }
    if (blk_node_flush(top) < 0)
        return img_error("Could not flush %s", blk_node_filename(top));
    if (!im->quiet)
        printf("Image committed.\n");
    return 0;
}

int cmd_commit(struct img *im)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"object", required_argument, 0, OPT_OBJECT},
                                          {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                          {0}};
    const char *fmt = NULL, *base_name = NULL, *cache = NULL;
    struct blk_child *claim;
    struct blk_node *top, *base;
    uint64_t rate = 0;
    bool keep = false;
    int opt, r = 1;

    while ((opt = getopt_long(im->argc, im->argv, "f:ht:b:dpqr:", longs, NULL)) != -1)
        switch (opt) {
        case 'f':
            fmt = optarg;
            break;
        case 't':
            cache = optarg;
            break;
        case 'b':
            base_name = optarg;
            keep = true;
            break;
        case 'd':
            keep = true;
            break;
        case 'p':
            im->progress = true;
            break;
        case 'q':
            im->quiet = true;
            break;
        case 'r':
            if (!img_size(optarg, "rate limit", &rate))
                return 1;
            break;
        case OPT_IMAGE_OPTS:
            im->image_opts = true;
            break;
        default:
            return 1;
        }
    if (im->quiet)
        im->progress = false;
    if (optind != im->argc - 1)
        return img_usage("Expecting one image file name");
    top = img_open(im, im->argv[optind], fmt, BLK_O_RDWR, cache);
    if (!top)
        return 1;
    base = base_name ? find_base(top, base_name) : blk_node_cow(top);
    if (!base) {
        blk_node_unref(top);
        return base_name ? img_error("Did not find '%s' in the backing chain of '%s'", base_name, im->argv[optind])
                         : img_error("Image does not have a backing file");
    }
    claim = img_claim(top, false);
    if (claim)
        r = commit(im, top, base, keep, rate);
    blk_child_detach(claim);
    blk_node_unref(top);
    return r;
}

/* ---- bench ---- */

struct bench {
    struct blk_node *n;
    uint64_t count, left, off, step, size, flush_every, in_flight;
    uint8_t *buf;
    bool write, no_drain;
    int ret;
    struct fibre *parent;
    bool parent_waits;
    unsigned running;
};

static void bench_worker(void *opaque)
{
    struct bench *b = opaque;

    while (b->left && b->ret >= 0) {
        uint64_t at = b->off;
        int r;

        b->left--;
        b->off = b->off + b->step + b->size > b->n->size ? 0 : b->off + b->step;
        r = b->write ? blk_node_pwrite(b->n, at, b->buf, b->size) : blk_node_pread(b->n, at, b->buf, b->size);
        if (r >= 0 && b->flush_every && (b->count - b->left) % b->flush_every == 0)
            r = blk_node_flush(b->n);
        if (r < 0)
            b->ret = r;
    }
    if (!--b->running && b->parent_waits)
        fibre_wake(blk_set_loop(b->n->set), b->parent);
}

static int bench_run(struct img *im, struct bench *b, uint64_t depth)
{
    struct timespec t1, t2;

    if (!im->quiet) {
        printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64
               " in parallel (starting at offset %" PRIu64 ", step size %" PRIu64 ")\n",
               b->count, b->write ? "write" : "read", b->size, depth, b->off, b->step);
        if (b->flush_every)
            printf("Sending flush every %" PRIu64 " requests\n", b->flush_every);
    }
    b->left = b->count;
    b->parent = fibre_self();
    b->running = (unsigned)depth;
    clock_gettime(CLOCK_MONOTONIC, &t1);
    for (unsigned i = 0; i < depth; i++)
        fibre_resume(fibre_new(bench_worker, b));
    while (b->running) {
        b->parent_waits = true;
        fibre_yield();
        b->parent_waits = false;
    }
    clock_gettime(CLOCK_MONOTONIC, &t2);
    if (!im->quiet)
        printf("Run completed in %3.3f seconds.\n",
               (double)(t2.tv_sec - t1.tv_sec) + (double)(t2.tv_nsec - t1.tv_nsec) / 1e9);
    return b->ret < 0 ? img_error("Failed request: %s", strerror(-b->ret)) : 0;
}

static int bench_value(int opt)
{
    uint64_t n;

    switch (opt) {
    case 'c':
        return img_error("Invalid request count specified");
    case 'd':
        return img_error("Invalid queue depth specified");
    case OPT_FLUSH_INTERVAL:
        return img_error("Invalid flush interval specified");
    case OPT_PATTERN:
        return img_error("Invalid pattern byte specified");
    default:
        img_size(optarg, opt == 'o' ? "offset" : opt == 's' ? "buffer size" : "step size", &n);
        return 1;
    }
}

int cmd_bench(struct img *im)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"flush-interval", required_argument, 0, OPT_FLUSH_INTERVAL},
                                          {"pattern", required_argument, 0, OPT_PATTERN},
                                          {"no-drain", no_argument, 0, OPT_NO_DRAIN},
                                          {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                          {"force-share", no_argument, 0, 'U'},
                                          {0}};
    struct bench b = {.count = 75000, .size = 4096};
    const char *fmt = NULL, *cache = NULL;
    uint64_t depth = 64, pattern = 0, start = 0;
    struct blk_child *claim = NULL;
    int opt, r = 1;

    while ((opt = getopt_long(im->argc, im->argv, "hc:d:f:ni:o:qs:S:t:wU", longs, NULL)) != -1) {
        bool ok = true;

        switch (opt) {
        case 'c':
            ok = str_to_u64(optarg, &b.count);
            break;
        case 'd':
            ok = str_to_u64(optarg, &depth) && depth && depth <= 4096;
            break;
        case 'f':
            fmt = optarg;
            break;
        case 'n':
            cache = "none";
            break;
        case 'i':
            if (strcmp(optarg, "threads") && strcmp(optarg, "native") && strcmp(optarg, "io_uring"))
                return img_error("Invalid aio option: %s", optarg);
            im->aio = optarg;
            break;
        case 'o':
            ok = str_to_size(optarg, 'b', &start);
            break;
        case 's':
            ok = str_to_size(optarg, 'b', &b.size) && b.size && b.size <= 1 << 30;
            break;
        case 'S':
            ok = str_to_size(optarg, 'b', &b.step);
            break;
        case 't':
            cache = optarg;
            break;
        case 'q':
            im->quiet = true;
            break;
        case 'w':
            b.write = true;
            break;
        case 'U':
            im->force_share = true;
            break;
        case OPT_IMAGE_OPTS:
            im->image_opts = true;
            break;
        case OPT_FLUSH_INTERVAL:
            ok = str_to_u64(optarg, &b.flush_every);
            break;
        case OPT_NO_DRAIN:
            b.no_drain = true;
            break;
        case OPT_PATTERN:
            ok = str_to_u64(optarg, &pattern) && pattern < 256;
            break;
        default:
            return 1;
        }
        if (!ok)
            return bench_value(opt);
    }
    if (optind != im->argc - 1)
        return img_usage("Expecting one image file name");
    if (!b.write && b.flush_every)
        return img_error("--flush-interval is only available in write tests");
    if (b.flush_every && b.flush_every < depth)
        return img_error("Flush interval can't be smaller than depth");
    if (!b.step)
        b.step = b.size;
    b.n = img_open(im, im->argv[optind], fmt, b.write ? BLK_O_RDWR : 0, cache);
    if (!b.n)
        return 1;
    claim = img_claim(b.n, false);
    b.buf = try_alloc_aligned(4096, b.size);
    if (claim && b.buf && b.n->size >= b.size) {
        memset(b.buf, (int)pattern, b.size);
        b.off = start;
        r = bench_run(im, &b, depth);
    } else if (claim) {
        r = img_error("the image is smaller than one request");
    }
    free(b.buf);
    blk_child_detach(claim);
    blk_node_unref(b.n);
    return r;
}
