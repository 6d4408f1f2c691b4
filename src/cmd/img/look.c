/* qemu-img compare, map, measure: reading only. */
#include "cmd/img/img.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>

enum { PIECE = 256 << 10, WORKERS = 4, STATUS_DIFFERS = 5 };

/* ---- compare ---- */

/* Several fibres take pieces in order; what counts is the finding with the lowest offset. */
struct cmp {
    struct img *im;
    struct blk_node *a, *b;
    bool strict;
    uint64_t next, total, done;
    int ret;     /* 0 equal so far, 1 contents differ, 3 and 4 errors, STATUS_DIFFERS */
    uint64_t at; /* where ret was found */
    unsigned running;
    struct fibre *parent;
};

static int status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    if (off >= n->size) {
        *e = (struct blk_extent){.flags = BLK_ST_ZERO, .len = len};
        return 0;
    }
    return blk_node_status_above(n, NULL, off, len, e, NULL);
}

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t n)
{
    uint64_t i = 0;

    while (i < n && a[i] == b[i])
        i++;
    return i;
}

static uint64_t first_nonzero(const uint8_t *a, uint64_t n)
{
    uint64_t i = 0;

    if (!n || (!*a && !memcmp(a, a + 1, n - 1)))
        return n;
    while (i < n && !a[i])
        i++;
    return i;
}

/* Keeps the finding that lies first. */
static void found(struct cmp *c, int ret, uint64_t off)
{
    if (!c->ret || off < c->at) {
        c->ret = ret;
        c->at = off;
    }
}

static bool is_zero(const struct blk_extent *e)
{
    return e->flags & BLK_ST_ZERO || !(e->flags & BLK_ST_DATA);
}

static int read_error(struct blk_node *n, uint64_t off, int r)
{
    return img_error("Error while reading offset %" PRIu64 " of %s: %s", off, blk_node_filename(n), strerror(-r)) + 3;
}

/* One piece of both, where at least one holds data. */
static void compare_piece(struct cmp *c, uint64_t off, uint64_t len, bool za, bool zb, uint8_t *buf)
{
    uint8_t *pa = buf, *pb = buf + PIECE;
    uint64_t at;
    int r;

    if (!za && (r = blk_node_pread(c->a, off, pa, len)) < 0) {
        found(c, read_error(c->a, off, r), off);
        return;
    }
    if (!zb && (r = blk_node_pread(c->b, off, pb, len)) < 0) {
        found(c, read_error(c->b, off, r), off);
        return;
    }
    if (za || zb)
        at = first_nonzero(za ? pb : pa, len);
    else
        at = memcmp(pa, pb, len) ? first_difference(pa, pb, len) : len;
    if (at < len)
        found(c, 1, off + at);
}

/* Both extents at the next offset; false at the end or when that alone decides. */
static bool take(struct cmp *c, uint64_t *off, uint64_t *len, bool *za, bool *zb)
{
    const unsigned mask = ~(unsigned)(BLK_ST_OFFSET | BLK_ST_COMPRESSED);
    struct blk_extent x, y;

    do {
        bool fa, fb;

        *off = c->next;
        if (c->ret || *off >= c->total)
            return false;
        fa = status(c->a, *off, c->total - *off, &x) < 0;
        fb = !fa && status(c->b, *off, c->total - *off, &y) < 0;
        if (fa || fb) {
            found(c, img_error("Sector allocation test failed for %s", blk_node_filename(fa ? c->a : c->b)) + 2, *off);
            return false;
        }
    } while (*off != c->next); /* somebody else took it while we asked */
    if (c->strict && (x.flags & mask) != (y.flags & mask)) {
        found(c, STATUS_DIFFERS, *off);
        return false;
    }
    *za = is_zero(&x);
    *zb = is_zero(&y);
    *len = min_u64(x.len, y.len);
    if (!*za || !*zb)
        *len = min_u64(*len, PIECE);
    c->next += *len;
    return true;
}

static void cmp_worker(void *opaque)
{
    struct cmp *c = opaque;
    uint8_t *buf = try_alloc_aligned(4096, 2 * PIECE);
    uint64_t off, len;
    bool za, zb;

    if (!buf)
        found(c, img_error("no memory") + 3, 0);
    while (buf && take(c, &off, &len, &za, &zb)) {
        if (!za || !zb)
            compare_piece(c, off, len, za, zb, buf);
        c->done += len;
        img_progress(c->im, c->done, c->total);
    }
    free(buf);
    if (!--c->running && c->parent)
        fibre_wake(blk_set_loop(c->im->set), c->parent);
}

static int compare(struct cmp *c)
{
    c->total = max_u64(c->a->size, c->b->size);
    if (c->a->size != c->b->size && c->strict) {
        if (!c->im->quiet)
            printf("Strict mode: Image size mismatch!\n");
        return 1;
    }
    img_progress(c->im, 0, c->total);
    c->running = WORKERS;
    for (unsigned i = 0; i < WORKERS; i++)
        fibre_resume(fibre_new(cmp_worker, c));
    c->parent = fibre_self();
    while (c->running)
        fibre_yield();
    if (c->ret <= 1 && c->a->size != c->b->size && !c->im->quiet)
        printf("Warning: Image size mismatch!\n");
    if (c->ret == 1 && !c->im->quiet)
        printf("Content mismatch at offset %" PRIu64 "!\n", align_down(c->at, 512));
    if (c->ret == STATUS_DIFFERS && !c->im->quiet)
        printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", c->at);
    if (c->ret)
        return c->ret == STATUS_DIFFERS ? 1 : c->ret;
    if (!c->im->quiet)
        printf("Images are identical.\n");
    return 0;
}

int cmd_compare(struct img *im)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"object", required_argument, 0, OPT_OBJECT},
                                          {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                          {"force-share", no_argument, 0, 'U'},
                                          {0}};
    const char *f1 = NULL, *f2 = NULL, *cache = NULL;
    struct cmp c = {.im = im};
    int opt, r = 2;

    while ((opt = getopt_long(im->argc, im->argv, "hf:F:T:pqsU", longs, NULL)) != -1)
        switch (opt) {
        case 'f':
            f1 = optarg;
            break;
        case 'F':
            f2 = optarg;
            break;
        case 'T':
            cache = optarg;
            break;
        case 'p':
            im->progress = true;
            break;
        case 'q':
            im->quiet = true;
            break;
        case 's':
            c.strict = true;
            break;
        case 'U':
            im->force_share = true;
            break;
        case OPT_IMAGE_OPTS:
            im->image_opts = true;
            break;
        case 'h':
            printf("usage: qemu-img compare [options] filename1 filename2\n");
            return 0;
        default:
            return 2;
        }
    if (optind != im->argc - 2)
        return img_usage("Expecting two image file names");
    im->source_cache = true;
    c.a = img_open(im, im->argv[optind], f1, 0, cache);
    c.b = c.a ? img_open(im, im->argv[optind + 1], f2, 0, cache) : NULL;
    if (c.a && c.b) {
        r = compare(&c);
        img_progress_end(im);
    }
    blk_node_unref(c.b);
    blk_node_unref(c.a);
    return r;
}

/* ---- map ---- */

struct line {
    uint64_t start, len, map;
    unsigned depth;
    bool present, zero, data, has_map, compressed;
    const char *file; /* borrowed from an open node */
};

/* False where there is nothing that a human could look up; said. */
static bool print_line(const struct line *l, bool json, bool first, bool last)
{
    if (!json) {
        if (l->data && !l->zero && !l->has_map) {
            fflush(stdout);
            img_error("File contains external, encrypted or compressed clusters.");
            return false;
        }
        if (l->data && !l->zero)
            printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", l->start, l->len, l->map,
                   l->file ? l->file : "");
        return true;
    }
    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
           ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s",
           first ? "[" : "", l->start, l->len, l->depth, l->present ? "true" : "false", l->zero ? "true" : "false",
           l->data ? "true" : "false");
    if (l->has_map)
        printf(", \"offset\": %" PRIu64, l->map);
    printf("}%s\n", last ? "]" : ",");
    return true;
}

static int next_line(struct blk_node *n, uint64_t off, uint64_t len, struct line *l)
{
    struct blk_extent e;
    unsigned depth;
    int r = blk_node_status_above(n, NULL, off, len, &e, &depth);

    if (r < 0)
        return r;
    *l = (struct line){.start = off,
                       .len = e.len,
                       .depth = depth,
                       .present = e.flags & BLK_ST_ALLOC,
                       .zero = e.flags & BLK_ST_ZERO,
                       .data = e.flags & BLK_ST_DATA,
                       .has_map = e.flags & BLK_ST_OFFSET && e.flags & (BLK_ST_DATA | BLK_ST_ZERO),
                       .map = e.map,
                       .compressed = e.flags & BLK_ST_COMPRESSED,
                       .file = e.map_node ? blk_node_filename(e.map_node) : NULL};
    if (!l->present) { /* nothing anywhere: the deepest layer answers */
        unsigned layers = 0;

        for (struct blk_node *x = n; (x = blk_node_cow(x));)
            layers++;
        l->depth = layers;
    }
    return 0;
}

static bool joins(const struct line *a, const struct line *b)
{
    return a->present == b->present && a->zero == b->zero && a->data == b->data && a->depth == b->depth &&
           a->has_map == b->has_map && a->compressed == b->compressed && a->file == b->file &&
           (!a->has_map || a->map + a->len == b->map);
}

int cmd_map(struct img *im)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"format", required_argument, 0, 'f'},
                                          {"output", required_argument, 0, OPT_OUTPUT},
                                          {"object", required_argument, 0, OPT_OBJECT},
                                          {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                          {"force-share", no_argument, 0, 'U'},
                                          {"start-offset", required_argument, 0, 's'},
                                          {"max-length", required_argument, 0, 'l'},
                                          {0}};
    const char *fmt = NULL;
    uint64_t start = 0, max = UINT64_MAX, end;
    struct line cur = {0}, next;
    struct blk_node *n;
    bool json = false, first = true, have = false;
    int opt, r = 0;

    while ((opt = getopt_long(im->argc, im->argv, "f:s:l:hU", longs, NULL)) != -1)
        switch (opt) {
        case 'f':
            fmt = optarg;
            break;
        case 'U':
            im->force_share = true;
            break;
        case OPT_IMAGE_OPTS:
            im->image_opts = true;
            break;
        case OPT_OUTPUT:
            if (!img_output(optarg, &json))
                return 1;
            break;
        case 's':
            if (!img_size(optarg, "start offset", &start))
                return 1;
            break;
        case 'l':
            if (!img_size(optarg, "max length", &max))
                return 1;
            break;
        default:
            return 1;
        }
    if (optind != im->argc - 1)
        return img_usage("Expecting one image file name");
    n = img_open(im, im->argv[optind], fmt, 0, NULL);
    if (!n)
        return 1;
    if (!json)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    end = n->size - min_u64(start, n->size) < max ? n->size : start + max;
    for (uint64_t off = start; off < end; off += next.len) {
        r = next_line(n, off, end - off, &next);
        if (r < 0) {
            img_error("Failed to read image metadata: %s", strerror(-r));
            break;
        }
        if (have && joins(&cur, &next)) {
            cur.len += next.len;
            continue;
        }
        if (have && !print_line(&cur, json, first, false)) {
            r = -EINVAL;
            break;
        }
        first = first && !have;
        cur = next;
        have = true;
    }
    if (r >= 0 && have)
        r = print_line(&cur, json, first, true) ? 0 : -EINVAL;
    else if (r >= 0 && json)
        printf("[]\n");
    blk_node_unref(n);
    return r < 0;
}

/* ---- measure ---- */

int cmd_measure(struct img *im)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
                                          {"object", required_argument, 0, OPT_OBJECT},
                                          {"output", required_argument, 0, OPT_OUTPUT},
                                          {"size", required_argument, 0, OPT_SIZE},
                                          {"force-share", no_argument, 0, 'U'},
                                          {0}};
    const char *fmt = NULL, *out = "raw", *size = NULL, *snap = NULL;
    const struct blk_driver *d;
    struct opts *o = opts_new();
    struct blk_node *n = NULL;
    struct blk_measure m = {0};
    struct err *e = NULL;
    bool json = false;
    uint64_t bytes;
    char num[24];
    int opt, r = 1;

    while ((opt = getopt_long(im->argc, im->argv, "hf:l:o:O:U", longs, NULL)) != -1)
        switch (opt) {
        case 'f':
            fmt = optarg;
            break;
        case 'O':
            out = optarg;
            break;
        case 'U':
            im->force_share = true;
            break;
        case OPT_IMAGE_OPTS:
            im->image_opts = true;
            break;
        case OPT_SIZE:
            size = optarg;
            break;
        case 'l':
            snap = optarg;
            break;
        case 'o':
            if (!img_add_options(&o, optarg))
                goto out;
            break;
        case OPT_OUTPUT:
            if (!img_output(optarg, &json))
                goto out;
            break;
        default:
            goto out;
        }
    if (im->argc - optind > 1) {
        img_error("At most one filename argument is allowed.");
        goto out;
    }
    if (!size == (optind == im->argc)) {
        img_error(size ? "--size N cannot be used together with a filename."
                       : "Either --size N or one filename must be specified.");
        goto out;
    }
    d = blk_driver_find(out);
    if (!d) {
        img_error("Unknown file format '%s'", out);
        goto out;
    }
    if (!d->measure) {
        img_error("Block driver '%s' does not support size measurement", out);
        goto out;
    }
    if (size) {
        if (!img_size(size, "image size", &bytes))
            goto out;
        snprintf(num, sizeof num, "%" PRIu64, bytes);
        opts_replace(o, "size", num);
    } else if (!(n = img_open(im, im->argv[optind], fmt, 0, NULL)) || (snap && img_load_snapshot(n, snap))) {
        goto out;
    }
    if (!d->measure(o, n, &m, &e)) {
        img_fail(e);
        goto out;
    }
    if (json) {
        struct json_object *j = json_make("u:required", m.required, "u:fully-allocated", m.full, NULL);

        if (m.have_bitmaps)
            json_object_object_add(j, "bitmaps", json_object_new_uint64(m.bitmaps));
        img_json(j);
    } else {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", m.required, m.full);
        if (m.have_bitmaps)
            printf("bitmaps size: %" PRIu64 "\n", m.bitmaps);
    }
    r = 0;
out:
    blk_node_unref(n);
    opts_free(o);
    return r;
}
