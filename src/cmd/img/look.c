/* qemu-img compare, map, measure: reading only. */
#include "cmd/img/img.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>

enum { PIECE = 2 << 20 };

/* ---- compare ---- */

struct cmp {
    struct img *im;
    struct blk_node *a, *b;
    bool strict;
    uint8_t *pa, *pb;
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

    while (i < n && !a[i])
        i++;
    return i;
}

static int mismatch(struct cmp *c, uint64_t off)
{
    if (!c->im->quiet)
        printf("Content mismatch at offset %" PRIu64 "!\n", off);
    return 1;
}

static int read_error(struct blk_node *n, uint64_t off, int r)
{
    img_error("Error while reading offset %" PRIu64 " of %s: %s", off, blk_node_filename(n), strerror(-r));
    return 4;
}

/* Both hold data, or one does and the other is zero. 0 equal, 1 not, 4 error. */
static int compare_piece(struct cmp *c, uint64_t off, uint64_t len, bool za, bool zb)
{
    uint64_t at;
    int r;

    if (!za && (r = blk_node_pread(c->a, off, c->pa, len)) < 0)
        return read_error(c->a, off, r);
    if (!zb && (r = blk_node_pread(c->b, off, c->pb, len)) < 0)
        return read_error(c->b, off, r);
    if (za || zb)
        at = first_nonzero(za ? c->pb : c->pa, len);
    else
        at = memcmp(c->pa, c->pb, len) ? first_difference(c->pa, c->pb, len) : len;
    return at < len ? mismatch(c, off + at) : 0;
}

static int compare(struct cmp *c)
{
    uint64_t total = max_u64(c->a->size, c->b->size), off = 0;

    if (c->a->size != c->b->size && c->strict) {
        if (!c->im->quiet)
            printf("Strict mode: Image size mismatch!\n");
        return 1;
    }
    img_progress(c->im, 0, total);
    while (off < total) {
        struct blk_extent x, y;
        bool za, zb;
        uint64_t len;
        int r;

        if ((r = status(c->a, off, total - off, &x)) < 0)
            return img_error("Sector allocation test failed for %s", blk_node_filename(c->a)) + 2;
        if ((r = status(c->b, off, total - off, &y)) < 0)
            return img_error("Sector allocation test failed for %s", blk_node_filename(c->b)) + 2;
        len = min_u64(x.len, y.len);
        if (c->strict && (x.flags & ~(unsigned)(BLK_ST_OFFSET | BLK_ST_COMPRESSED)) !=
                             (y.flags & ~(unsigned)(BLK_ST_OFFSET | BLK_ST_COMPRESSED))) {
            if (!c->im->quiet)
                printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", off);
            return 1;
        }
        za = x.flags & BLK_ST_ZERO || !(x.flags & BLK_ST_DATA);
        zb = y.flags & BLK_ST_ZERO || !(y.flags & BLK_ST_DATA);
        if (!za || !zb) {
            len = min_u64(len, PIECE);
            r = compare_piece(c, off, len, za, zb);
            if (r)
                return r;
        }
        off += len;
        img_progress(c->im, off, total);
    }
    if (!c->im->quiet) {
        if (c->a->size != c->b->size)
            printf("Warning: Image size mismatch!\n");
        printf("Images are identical.\n");
    }
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
    if (optind != im->argc - 2) {
        img_usage("Expecting two image file names");
        return 2;
    }
    c.pa = try_alloc_aligned(4096, PIECE);
    c.pb = try_alloc_aligned(4096, PIECE);
    c.a = img_open(im, im->argv[optind], f1, 0, cache);
    c.b = c.a ? img_open(im, im->argv[optind + 1], f2, 0, cache) : NULL;
    if (c.pa && c.pb && c.a && c.b) {
        r = compare(&c);
        img_progress_end(im);
    }
    blk_node_unref(c.b);
    blk_node_unref(c.a);
    free(c.pa);
    free(c.pb);
    return r;
}

/* ---- map ---- */

struct line {
    uint64_t start, len, map;
    unsigned depth;
    bool present, zero, data, has_map, compressed;
    const char *file; /* borrowed from an open node */
};

static void print_line(const struct line *l, bool json, bool first, bool last)
{
    if (!json) {
        if (l->data && !l->zero && !l->has_map) {
            fflush(stdout);
            img_error("File contains external, encrypted or compressed clusters.");
            return;
        }
        if (l->data && !l->zero)
            printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", l->start, l->len, l->map,
                   l->file ? l->file : "");
        return;
    }
    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
           ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s",
           first ? "[" : "", l->start, l->len, l->depth, l->present ? "true" : "false", l->zero ? "true" : "false",
           l->data ? "true" : "false");
    if (l->has_map)
        printf(", \"offset\": %" PRIu64, l->map);
    printf("}%s\n", last ? "]" : ",");
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
                       .has_map = e.flags & BLK_ST_OFFSET,
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
        if (have) {
            print_line(&cur, json, first, false);
            first = false;
        }
        cur = next;
        have = true;
    }
    if (r >= 0 && have)
        print_line(&cur, json, first, true);
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
    const char *fmt = NULL, *out = "raw", *size = NULL;
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
        img_error("Format driver '%s' does not support size measurement", out);
        goto out;
    }
    if (size) {
        if (!img_size(size, "image size", &bytes))
            goto out;
        snprintf(num, sizeof num, "%" PRIu64, bytes);
        opts_replace(o, "size", num);
    } else if (!(n = img_open(im, im->argv[optind], fmt, 0, NULL))) {
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
