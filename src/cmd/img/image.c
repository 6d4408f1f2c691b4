/* qemu-img create, info, check, resize, snapshot, amend, bitmap: what concerns one image. */
#include "base/bytes.h"
#include "blk/node.h"
#include "cmd/img/img.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <time.h>

#define COMMON_LONG                                                                                                    \
    {"help", no_argument, 0, 'h'}, {"object", required_argument, 0, OPT_OBJECT},                                       \
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS}, {"force-share", no_argument, 0, 'U'},                          \
        {"quiet", no_argument, 0, 'q'},                                                                                \
    {                                                                                                                  \
        "format", required_argument, 0, 'f'                                                                            \
    }

/* Handles what all commands share; true when it was one of these. */
static bool common(struct img *im, int c, const char **fmt)
{
    switch (c) {
    case 'q':
        im->quiet = true;
        return true;
    case 'U':
        im->force_share = true;
        return true;
    case OPT_IMAGE_OPTS:
        im->image_opts = true;
        return true;
    case 'f':
        *fmt = optarg;
        return true;
    default:
        return false;
    }
}

static int bad_option(int c)
{
    fprintf(stderr, "Try 'qemu-img --help' for more information\n");
    return 1;
}

/* ---- create ---- */

struct create {
    const char *fmt, *base, *base_fmt, *name;
    char *found_fmt; /* owned */
    struct opts *o;
    bool unsafe;
};

/* The backing image: its size, and its format when that is beyond doubt. */
static int look_at_base(struct img *im, struct create *c, bool need_size)
{
    char *path AUTOFREE = blk_path_combine(c->name, c->base);
    struct err *e = NULL;
    struct blk_node *b = blk_node_open(im->set, path, c->base_fmt, BLK_O_NO_IO, NULL, &e);
    char num[24];

    if (!b) {
        err_prefix(&e, "%s: ", c->name);
        img_fail(e);
        fprintf(stderr, "Could not open backing image.\n");
        return 1;
    }
    if (!c->base_fmt && !strcmp(b->drv->name, "raw")) {
        blk_node_unref(b);
        img_error("%s: Backing file specified without backing format", c->name);
        fprintf(stderr, "A raw image cannot be told from others by its contents; add -F raw if it is one.\n");
        return 1;
    }
    if (!c->base_fmt) {
        c->found_fmt = xstrdup(b->drv->name);
        opts_replace(c->o, "backing_fmt", c->found_fmt);
    }
    if (need_size) {
        snprintf(num, sizeof num, "%" PRIu64, b->size);
        opts_replace(c->o, "size", num);
    }
    blk_node_unref(b);
    return 0;
}

static void show_value(const char *v)
{
    if (strpbrk(v, " ,'"))
        printf("'%s'", v);
    else
        fputs(v, stdout);
}

/* "Formatting 'x', fmt=qcow2 cluster_size=..." with the defaults of the format filled in. */
static void show_formatting(const struct create *c, const struct blk_driver *d)
{
    static const char *const order[] = {"cluster_size", "extended_l2",  "compression_type", "size",
                                        "compat",       "backing_file", "backing_fmt",      NULL};

    printf("Formatting '%s', fmt=%s", c->name, c->fmt);
    for (int pass = 0; pass < 2; pass++)
        for (size_t k = 0; pass ? d->create_opts[k].name : order[k]; k++) {
            const char *key = pass ? d->create_opts[k].name : order[k], *v;
            const struct blk_create_opt *o = d->create_opts;
            bool listed = false;
            uint64_t n;

            for (size_t i = 0; pass && order[i]; i++)
                listed |= !strcmp(order[i], key);
            while (o->name && strcmp(o->name, key) != 0)
                o++;
            v = opts_peek(c->o, key);
            if (!v && o->name)
                v = o->dflt;
            if (listed || !v)
                continue;
            printf(" %s=", key);
            if (o->name && !strcmp(o->type, "size") && str_to_size(v, 'b', &n))
                printf("%" PRIu64, n);
            else
                show_value(v);
        }
    printf("\n");
}

static int create_image(struct img *im, struct create *c, const char *size)
{
    const struct blk_driver *d = blk_driver_find(c->fmt);
    struct err *e = NULL;
    uint64_t bytes;
    char num[24];
    int r;

    if (!d)
        return img_error("%s: Unknown file format '%s'", c->name, c->fmt);
    if (!d->create || !d->create_opts)
        return img_error("%s: Format driver '%s' does not support image creation", c->name, c->fmt);
    if (size) {
        if (!img_size(size, "image size", &bytes))
            return 1;
        snprintf(num, sizeof num, "%" PRIu64, bytes);
        opts_replace(c->o, "size", num);
    }
    if (c->base)
        opts_replace(c->o, "backing_file", c->base);
    if (c->base_fmt)
        opts_replace(c->o, "backing_fmt", c->base_fmt);
    if (!blk_create_opts_check(d, c->o, &e)) {
        if (c->base && !strcmp(e->msg, "Invalid parameter 'backing_file'")) {
            err_free(e);
            return img_error("%s: Backing file not supported for file format '%s'", c->name, c->fmt);
        }
        err_prefix(&e, "%s: ", c->name);
        return img_fail(e);
    }
    c->base = opts_peek(c->o, "backing_file");
    c->base_fmt = opts_peek(c->o, "backing_fmt");
    if (c->base && !*c->base)
        c->base = NULL;
    if (c->base_fmt && !c->base)
        return img_error("%s: Backing format cannot be used without backing file", c->name);
    if (c->base_fmt && !blk_driver_find(c->base_fmt))
        return img_error("%s: Unknown backing file format '%s'", c->name, c->base_fmt);
    if (c->base && !strcmp(c->base, c->name))
        return img_error("%s: Error: Trying to create an image with the same filename as the backing file", c->name);
    if (c->base && !c->unsafe && (r = look_at_base(im, c, !opts_peek(c->o, "size"))))
        return r;
    if (!opts_peek(c->o, "size"))
        return img_error("%s: Image creation needs a size parameter", c->name);
    if (!im->quiet)
        show_formatting(c, d);
    fflush(stdout);
    if (!d->create(im->set, c->name, c->o, &e)) {
        err_prefix(&e, "%s: ", c->name);
        return img_fail(e);
    }
    return 0;
}

int cmd_create(struct img *im)
{
    static const struct option longs[] = {COMMON_LONG, {0}};
    struct create c = {.fmt = "raw", .o = opts_new()};
    const char *text = NULL;
    int opt, r = 1;

    while ((opt = getopt_long(im->argc, im->argv, "F:b:f:ho:qu", longs, NULL)) != -1) {
        if (common(im, opt, &c.fmt))
            continue;
        switch (opt) {
        case 'b':
            c.base = optarg;
            break;
        case 'F':
            c.base_fmt = optarg;
            break;
        case 'u':
            c.unsafe = true;
            break;
        case 'o':
            text = optarg;
            if (strcmp(optarg, "help") && strcmp(optarg, "?") && !img_add_options(&c.o, optarg))
                goto out;
            break;
        default:
            r = bad_option(opt);
            goto out;
        }
    }
    c.name = optind < im->argc ? im->argv[optind++] : NULL;
    if (text && img_options_help(c.fmt, text, c.name, false)) {
        r = 0;
        goto out;
    }
    if (!c.name) {
        r = img_usage("Expecting image file name");
        if (text && strchr(text, '=') == NULL)
            fprintf(stderr, "The option list '%s' is incomplete too: write -o NAME=VALUE[,NAME=VALUE...] FILE SIZE.\n",
                    text);
        goto out;
    }
    if (im->argc - optind > 1) {
        r = img_usage("Unexpected argument: %s", im->argv[optind + 1]);
        goto out;
    }
    r = create_image(im, &c, optind < im->argc ? im->argv[optind] : NULL);
out:
    free(c.found_fmt);
    opts_free(c.o);
    return r;
}

/* ---- info ---- */

static void print_value(struct json_object *v, int depth);

/* Keys are shown with spaces for dashes. */
static void print_key(const char *k, int depth)
{
    printf("%*s", depth * 4, "");
    for (; *k; k++)
        putchar(*k == '-' ? ' ' : *k);
    putchar(':');
}

static void print_members(struct json_object *o, int depth)
{
    json_object_object_foreach(o, k, v)
    {
        bool nested = json_object_is_type(v, json_type_object) || json_object_is_type(v, json_type_array);

        print_key(k, depth);
        printf(nested ? "\n" : " ");
        print_value(v, depth + 1);
    }
}

static void print_value(struct json_object *v, int depth)
{
    if (json_object_is_type(v, json_type_object)) {
        print_members(v, depth);
    } else if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            struct json_object *x = json_object_array_get_idx(v, i);
            bool nested = json_object_is_type(x, json_type_object) || json_object_is_type(x, json_type_array);

            printf("%*s[%zu]:%s", depth * 4, "", i, nested ? "\n" : " ");
            print_value(x, depth + 1);
        }
    } else {
        printf("%s\n",
               json_object_is_type(v, json_type_string) ? json_object_get_string(v) : json_object_to_json_string(v));
    }
}

static void print_snapshots(struct json_object *list)
{
    printf("Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *s = json_object_array_get_idx(list, i);
        time_t t = (time_t)json_get_int(s, "date-sec", 0);
        int64_t sec = json_get_int(s, "vm-clock-sec", 0), ms = json_get_int(s, "vm-clock-nsec", 0) / 1000000;
        char date[32], clock[40], size[16], ic[24] = "";
        struct tm tm;

        localtime_r(&t, &tm);
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
        snprintf(clock, sizeof clock, "%02d:%02d:%02d.%03d", (int)(sec / 3600), (int)(sec / 60 % 60), (int)(sec % 60),
                 (int)ms);
        if (json_get(s, "icount"))
            snprintf(ic, sizeof ic, "%" PRId64, json_get_int(s, "icount", 0));
        printf("%-9s %-16s %8s%20s%13s%11s\n", json_get_str(s, "id"), json_get_str(s, "name"),
               str_size((uint64_t)json_get_int(s, "vm-state-size", 0), size, sizeof size), date, clock, ic);
    }
}

static void print_info(struct json_object *o)
{
    struct json_object *spec = json_get(o, "format-specific"), *data = spec ? json_get(spec, "data") : NULL;
    uint64_t size = (uint64_t)json_get_int(o, "virtual-size", 0);
    char a[16], b[16] = "unavailable";
    const char *backing = json_get_str(o, "backing-filename"), *full = json_get_str(o, "full-backing-filename");

    if (json_get(o, "actual-size"))
        str_size((uint64_t)json_get_int(o, "actual-size", 0), b, sizeof b);
    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64 " bytes)\ndisk size: %s\n",
           json_get_str(o, "filename"), json_get_str(o, "format"), str_size(size, a, sizeof a), size, b);
    if (json_get_bool(o, "encrypted", false))
        printf("encrypted: yes\n");
    if (json_get(o, "cluster-size"))
        printf("cluster_size: %" PRId64 "\n", json_get_int(o, "cluster-size", 0));
    if (json_get_bool(o, "dirty-flag", false))
        printf("cleanly shut down: no\n");
    if (backing) {
        printf("backing file: %s", backing);
        if (full && strcmp(full, backing) != 0)
            printf(" (actual path: %s)", full);
        printf("\n");
    }
    if (json_get_str(o, "backing-filename-format"))
        printf("backing file format: %s\n", json_get_str(o, "backing-filename-format"));
    if (json_get(o, "snapshots"))
        print_snapshots(json_get(o, "snapshots"));
    if (data && json_object_object_length(data)) {
        printf("Format specific information:\n");
        print_members(data, 1);
    }
}

int cmd_info(struct img *im)
{
    static const struct option longs[] = {COMMON_LONG,
                                          {"output", required_argument, 0, OPT_OUTPUT},
                                          {"backing-chain", no_argument, 0, OPT_BACKING_CHAIN},
                                          {0}};
    const char *fmt = NULL;
    char *name = NULL;
    bool json = false, chain = false, first = true;
    struct json_object *all = NULL;
    int opt, r = 0, links = 0;

    while ((opt = getopt_long(im->argc, im->argv, "hf:Uq", longs, NULL)) != -1) {
        if (common(im, opt, &fmt))
            continue;
        if (opt == OPT_OUTPUT) {
            if (!img_output(optarg, &json))
                return 1;
        } else if (opt == OPT_BACKING_CHAIN) {
            chain = true;
        } else {
            return bad_option(opt);
        }
    }
    if (optind != im->argc - 1)
        return img_usage("Expecting one image file name");
    im->force_share = true; /* describing an image never disturbs its user */
    name = xstrdup(im->argv[optind]);
    if (chain)
        all = json_object_new_array();
    while (name && !r) {
        struct blk_node *n = img_open(im, name, fmt, BLK_O_NO_BACKING | BLK_O_NO_IO | BLK_O_CHECK, NULL);
        struct json_object *info;
        char *next = NULL;

        if (!n) {
            r = 1;
            break;
        }
        info = blk_node_image_info(n, false);
        if (chain) {
            next = blk_node_backing_path(n);
            fmt = n->backing_fmt && *n->backing_fmt ? n->backing_fmt : NULL;
            fmt = fmt ? xstrdup(fmt) : NULL; /* lives until the end of a short run */
        }
        if (next && ++links > 200) {
            img_error("Backing file '%s' creates an infinite loop.", next);
            free(next);
            next = NULL;
            r = 1;
        }
        if (json && chain) {
            json_object_array_add(all, info);
        } else if (json) {
            img_json(info);
        } else {
            printf(first ? "" : "\n");
            print_info(info);
            json_object_put(info);
        }
        first = false;
        blk_node_unref(n);
        free(name);
        name = next;
        im->image_opts = false;
    }
    if (json && chain && !r) {
        img_json(all);
        all = NULL;
    }
    json_object_put(all);
    free(name);
    return r;
}

/* ---- check ---- */

static void check_line(void *opaque, const char *line)
{
    fprintf(stderr, "%s\n", line);
}

static void check_text(const struct blk_check *c, bool quiet)
{
    if (quiet)
        return;
    if (!c->corruptions && !c->leaks && !c->errors)
        printf("No errors were found on the image.\n");
    if (c->corruptions)
        printf(
            "\n%" PRIu64
            " errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n",
            c->corruptions);
    if (c->leaks)
        printf("\n%" PRIu64
               " leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
               c->leaks);
    if (c->errors)
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", c->errors);
    if (c->have_clusters && c->total_clusters && c->allocated_clusters)
        printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               c->allocated_clusters, c->total_clusters,
               (double)c->allocated_clusters * 100.0 / (double)c->total_clusters,
               (double)c->fragmented_clusters * 100.0 / (double)c->allocated_clusters,
               (double)c->compressed_clusters * 100.0 / (double)c->allocated_clusters);
    if (c->image_end)
        printf("Image end offset: %" PRIu64 "\n", c->image_end);
}

static void check_json(const struct blk_check *c, const char *name, const char *fmt)
{
    struct json_object *o = json_make("u:image-end-offset", c->image_end, "u:total-clusters", c->total_clusters,
                                      "u:check-errors", c->errors, "s:filename", name, "s:format", fmt, NULL);
    const struct {
        const char *key;
        uint64_t v;
    } more[] = {{"corruptions", c->corruptions},
                {"leaks", c->leaks},
                {"corruptions-fixed", c->corruptions_fixed},
                {"leaks-fixed", c->leaks_fixed},
                {"allocated-clusters", c->allocated_clusters},
                {"fragmented-clusters", c->fragmented_clusters},
                {"compressed-clusters", c->compressed_clusters}};

    for (size_t i = 0; i < ARRAY_LEN(more); i++)
        if (more[i].v)
            json_object_object_add(o, more[i].key, json_object_new_uint64(more[i].v));
    img_json(o);
}

int cmd_check(struct img *im)
{
    static const struct option longs[] = {
        COMMON_LONG, {"output", required_argument, 0, OPT_OUTPUT}, {"repair", required_argument, 0, 'r'}, {0}};
    const char *fmt = NULL, *cache = NULL;
    struct blk_check c = {.line = check_line};
    struct blk_child *claim = NULL;
    struct blk_node *n;
    unsigned fix = 0;
    bool json = false;
    int opt, r;

    while ((opt = getopt_long(im->argc, im->argv, "hf:r:T:qU", longs, NULL)) != -1) {
        if (common(im, opt, &fmt))
            continue;
        if (opt == OPT_OUTPUT) {
            if (!img_output(optarg, &json))
                return 1;
        } else if (opt == 'r' && !strcmp(optarg, "leaks")) {
            fix = BLK_FIX_LEAKS;
        } else if (opt == 'r' && !strcmp(optarg, "all")) {
            fix = BLK_FIX_LEAKS | BLK_FIX_ERRORS;
        } else if (opt == 'r') {
            return img_usage("Unknown option value for -r (expecting 'leaks' or 'all'): %s", optarg);
        } else if (opt == 'T') {
            cache = optarg;
        } else {
            return bad_option(opt);
        }
    }
    if (optind != im->argc - 1)
        return img_usage("Expecting one image file name");
    im->source_cache = true;
    n = img_open(im, im->argv[optind], fmt, BLK_O_CHECK | BLK_O_NO_BACKING | (fix ? BLK_O_RDWR : 0), cache);
    if (!n)
        return 1;
    if (!n->drv->check) {
        blk_node_unref(n);
        img_error("This image format does not support checks");
        return 63;
    }
    claim = img_claim(n, false);
    if (!claim) {
        blk_node_unref(n);
        return 1;
    }
    r = n->drv->check(n, &c, fix);
    if (r >= 0 && (c.corruptions_fixed || c.leaks_fixed)) {
        struct blk_check again = {0};

        if (!im->quiet && !json)
            printf("The following inconsistencies were found and repaired:\n\n    %" PRIu64
                   " leaked clusters\n    %" PRIu64 " corruptions\n\nDouble checking the fixed image now...\n",
                   c.leaks_fixed, c.corruptions_fixed);
        again.leaks_fixed = c.leaks_fixed;
        again.corruptions_fixed = c.corruptions_fixed;
        again.line = check_line;
        r = n->drv->check(n, &again, 0);
        c = again;
    }
    if (r < 0) {
        img_error("Check failed: %s", strerror(-r));
        r = 1;
    } else {
        if (json)
            check_json(&c, im->argv[optind], n->drv->name);
        else
            check_text(&c, im->quiet);
        r = c.corruptions ? 2 : c.leaks ? 3 : c.errors ? 1 : 0;
    }
    blk_child_detach(claim);
    blk_node_unref(n);
    return r;
}

/* ---- resize ---- */

/* The last sector any partition of an MBR or GPT disk uses, with its number; 0 when there is none. */
static uint64_t last_partition(struct blk_node *n, unsigned *which)
{
    uint8_t mbr[512], gpt[512], ent[128];
    uint64_t last = 0;

    *which = 0;
    if (n->size < 1024 || blk_node_pread(n, 0, mbr, 512) < 0 || mbr[510] != 0x55 || mbr[511] != 0xaa)
        return 0;
    if (blk_node_pread(n, 512, gpt, 512) >= 0 && !memcmp(gpt, "EFI PART", 8)) {
        uint64_t at = get_le64(gpt + 72) * 512;
        uint32_t nr = get_le32(gpt + 80), size = get_le32(gpt + 84);

        for (uint32_t i = 0; i < nr && i < 256 && size >= 128 && size <= 4096; i++) {
            static const uint8_t none[16];

            if (blk_node_pread(n, at + (uint64_t)i * size, ent, sizeof ent) < 0)
                break;
            if (memcmp(ent, none, 16) != 0 && get_le64(ent + 40) > last) {
                last = get_le64(ent + 40);
                *which = i + 1;
            }
        }
        return last ? last + 1 : 0;
    }
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *p = mbr + 446 + i * 16;
        uint64_t end = (uint64_t)get_le32(p + 8) + get_le32(p + 12);

        if (p[4] && (p[0] & 0x7f) == 0 && end > last) {
            last = end;
            *which = i + 1;
        }
    }
    return last;
}

static int do_resize(struct img *im, struct blk_node *n, const char *name, uint64_t size, bool shrink,
                     enum blk_prealloc p)
{
    uint64_t old = n->size, end;
    struct err *e = NULL;
    unsigned part;

    if (size < old && !shrink) {
        img_error("Use the --shrink option to perform a shrink operation.");
        warn_report(
            "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an "
            "operation, make sure there is no important data there.");
        return 1;
    }
    end = size < old ? last_partition(n, &part) * 512 : 0;
    if (end > size && end <= old)
        return img_error("partition %u of '%s' ends at %" PRIu64 ", beyond the new size %" PRIu64
                         "; shrink or remove it first",
                         part, name, end, size);
    if (blk_node_truncate(n, size, p, &e) < 0)
        return img_fail(e);
    if (n->size != size && !im->quiet)
        warn_report("Image should have been resized to %" PRIu64 " bytes, but was resized to %" PRIu64 " bytes", size,
                    n->size);
    if (blk_node_flush(n) < 0)
        return img_error("Could not flush '%s'", name);
    if (!im->quiet)
        printf(n->size != old || size == old ? "Image resized.\n" : "Image not resized.\n");
    return 0;
}

int cmd_resize(struct img *im)
{
    static const struct option longs[] = {COMMON_LONG,
                                          {"shrink", no_argument, 0, OPT_SHRINK},
                                          {"preallocation", required_argument, 0, OPT_PREALLOC},
                                          {0}};
    const char *fmt = NULL, *text, *name;
    enum blk_prealloc p = BLK_PREALLOC_OFF;
    struct blk_child *claim;
    struct blk_node *n;
    bool shrink = false;
    uint64_t v;
    int opt, r, sign;

    if (im->argc < 3)
        return img_usage("Not enough arguments");
    text = im->argv[--im->argc]; /* may look like an option: -10G */
    while ((opt = getopt_long(im->argc, im->argv, "f:hq", longs, NULL)) != -1) {
        if (common(im, opt, &fmt))
            continue;
        if (opt == OPT_SHRINK) {
            shrink = true;
        } else if (opt == OPT_PREALLOC) {
            int i;

            for (i = 0; blk_prealloc_names[i] && strcmp(blk_prealloc_names[i], optarg) != 0; i++)
                ;
            if (!blk_prealloc_names[i])
                return img_error("Invalid preallocation mode '%s'", optarg);
            p = (enum blk_prealloc)i;
        } else {
            return bad_option(opt);
        }
    }
    if (optind != im->argc - 1)
        return img_usage("Expecting image file name and size");
    name = im->argv[optind];
    sign = *text == '+' ? 1 : *text == '-' ? -1 : 0;
    if (!str_to_size(text + (sign != 0), 'b', &v) || v > INT64_MAX) {
        img_error("Parameter 'size' expects a non-negative number below 2^64");
        fprintf(stderr, "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, "
                        "respectively.\n");
        return 1;
    }
    n = img_open(im, name, fmt, BLK_O_RDWR | BLK_O_RESIZE_OK, NULL);
    if (!n)
        return 1;
    claim = img_claim(n, true);
    if (!claim) {
        blk_node_unref(n);
        return 1;
    }
    if (sign)
        v = sign > 0 ? n->size + v : n->size >= v ? n->size - v : 0;
    r = (sign && sign < 0 && !v) || v == 0 ? img_error("New image size must be positive")
                                           : do_resize(im, n, name, v, shrink, p);
    blk_child_detach(claim);
    blk_node_unref(n);
    return r;
}

/* ---- snapshot ---- */

static int do_snapshot(struct img *im, struct blk_node *n, int action, const char *name)
{
    struct blk_snap sn = {.icount = UINT64_MAX};
    struct json_object *info;
    struct timespec ts;
    struct err *e = NULL;

    if (action == 'l') {
        info = blk_node_image_info(n, false);
        if (json_get(info, "snapshots"))
            print_snapshots(json_get(info, "snapshots"));
        json_object_put(info);
        return 0;
    }
    if (!n->drv->snap_create)
        return img_error("Could not %s snapshot '%s': %d (%s)",
                         action == 'c'   ? "create"
                         : action == 'a' ? "apply"
                                         : "delete",
                         name, -ENOTSUP, strerror(ENOTSUP));
    clock_gettime(CLOCK_REALTIME, &ts);
    sn.name = (char *)(uintptr_t)name;
    sn.date_sec = ts.tv_sec;
    sn.date_nsec = (uint32_t)ts.tv_nsec;
    sn.icount = 0;
    if (action == 'c') {
        if (!n->drv->snap_create(n, &sn, &e)) {
            err_prefix(&e, "Could not create snapshot '%s': ", name);
            return img_fail(e);
        }
    } else if (action == 'a') {
        if (!n->drv->snap_goto(n, name, &e)) {
            err_prefix(&e, "Could not apply snapshot '%s': ", name);
            return img_fail(e);
        }
    } else if (!n->drv->snap_delete(n, NULL, name, NULL) && !n->drv->snap_delete(n, name, NULL, &e)) {
        if (strstr(e->msg, "find the snapshot")) {
            err_free(e);
            return img_error("Could not delete snapshot '%s': snapshot not found", name);
        }
        err_prefix(&e, "Could not delete snapshot '%s': ", name);
        return img_fail(e);
    }
    return blk_node_flush(n) < 0 ? img_error("Could not flush the image") : 0;
}

int cmd_snapshot(struct img *im)
{
    static const struct option longs[] = {COMMON_LONG, {0}};
    const char *fmt = NULL, *name = NULL;
    struct blk_child *claim;
    struct blk_node *n;
    int opt, action = 0, r;

    while ((opt = getopt_long(im->argc, im->argv, "la:c:d:hqUf:", longs, NULL)) != -1) {
        if (common(im, opt, &fmt))
            continue;
        if (opt != 'l' && opt != 'a' && opt != 'c' && opt != 'd')
            return bad_option(opt);
        if (action)
            return img_usage("Cannot mix '-l', '-a', '-c', '-d'");
        action = opt;
        name = optarg;
    }
    if (optind != im->argc - 1)
        return img_usage("Expecting one image file name");
    if (!action)
        action = 'l';
    if (action == 'l')
        im->force_share = true;
    else if (im->force_share)
        return img_error("Could not open '%s': force-share=on can only be used with read-only images",
                         im->argv[optind]);
    n = img_open(im, im->argv[optind], fmt, action == 'l' ? 0 : BLK_O_RDWR, NULL);
    if (!n)
        return 1;
    claim = img_claim(n, true);
    r = claim ? do_snapshot(im, n, action, name) : 1;
    blk_child_detach(claim);
    blk_node_unref(n);
    return r;
}

/* ---- amend ---- */

int cmd_amend(struct img *im)
{
    static const struct option longs[] = {COMMON_LONG, {"force", no_argument, 0, OPT_FORCE}, {0}};
    const char *fmt = NULL, *text = NULL, *cache = NULL;
    struct opts *o = NULL;
    struct blk_child *claim = NULL;
    struct blk_node *n = NULL;
    struct err *e = NULL;
    int opt, r = 1;

    while ((opt = getopt_long(im->argc, im->argv, "ho:f:t:pq", longs, NULL)) != -1) {
        if (common(im, opt, &fmt))
            continue;
        if (opt == 'o') {
            text = optarg;
            if (strcmp(text, "help") && strcmp(text, "?") && !img_add_options(&o, optarg))
                goto out;
        } else if (opt == 'p') {
            im->progress = true;
        } else if (opt == 't') {
            cache = optarg;
        } else if (opt != OPT_FORCE) {
            r = bad_option(opt);
            goto out;
        }
    }
    if (!text) {
        r = img_usage("Must specify options (-o)");
        goto out;
    }
    if (fmt && blk_driver_find(fmt) && !blk_driver_find(fmt)->amend) {
        r = img_error("Format driver '%s' does not support option amendment", fmt);
        goto out;
    }
    if (fmt && img_options_help(fmt, text, false, true)) {
        r = 0;
        goto out;
    }
    if (optind != im->argc - 1) {
        r = img_usage("Expecting one image file name");
        goto out;
    }
    n = img_open(im, im->argv[optind], fmt, BLK_O_RDWR | BLK_O_NO_BACKING, cache);
    if (!n || !o)
        goto out;
    if (!n->drv->amend) {
        r = img_error("Format driver '%s' does not support option amendment", n->drv->name);
        goto out;
    }
    if (!blk_create_opts_check(n->drv, o, &e)) {
        r = img_fail(e);
        goto out;
    }
    claim = img_claim(n, true);
    if (claim) {
        img_progress(im, 0, 1);
        r = n->drv->amend(n, o, &e) ? 0 : img_fail(e);
        img_progress(im, 1, 1);
        img_progress_end(im);
    }
out:
    blk_child_detach(claim);
    blk_node_unref(n);
    opts_free(o);
    return r;
}

/* ---- bitmap ---- */

struct bm_act {
    int what;
    const char *src;
};

static const char *const bm_names[] = {"add", "remove", "clear", "enable", "disable", "merge"};
static_assert(OPT_MERGE - OPT_ADD == 5 && OPT_DISABLE - OPT_ADD == 4, "the names stand in the order of the options");

static int bitmap_act(struct img *im, struct blk_node *n, struct blk_node *srcn, const struct bm_act *a,
                      const char *name, uint32_t gran)
{
    struct blk_bitmap *b = blk_bitmap_find(n, name), *src;
    struct err *e = NULL;

    if (a->what == OPT_ADD) {
        if (!n->drv->bitmap_remove)
            return img_error("Operation add on bitmap %s failed: Driver '%s' does not support persistent bitmaps", name,
                             n->drv->name);
        if (!n->drv->bitmap_store_ok || n->drv->bitmap_store_ok(n, name, gran, &e))
            b = blk_bitmap_new(n, name, gran, &e);
        if (b)
            b->persistent = true;
    } else if (!b) {
        err_set(&e, "Dirty bitmap '%s' not found", name);
    } else if (a->what == OPT_REMOVE) {
        n->drv->bitmap_remove(n, name, &e);
    } else if (b->inconsistent) {
        err_set(&e, "Bitmap '%s' is inconsistent and cannot be used", name);
        err_hint(&e, "Try block-dirty-bitmap-remove to delete this bitmap from disk");
    } else if (a->what == OPT_CLEAR) {
        blk_bitmap_reset(b, 0, n->size);
    } else if (a->what == OPT_MERGE) {
        src = blk_bitmap_find(srcn ? srcn : n, a->src);
        if (!src)
            err_set(&e, "Dirty bitmap '%s' not found", a->src);
        else
            blk_bitmap_merge(b, src, &e);
    } else {
        b->enabled = a->what == OPT_ENABLE;
    }
    if (e) {
        err_prefix(&e, "Operation %s on bitmap %s failed: ", bm_names[a->what - OPT_ADD], name);
        return img_fail(e);
    }
    return 0;
}

int cmd_bitmap(struct img *im)
{
    static const struct option longs[] = {COMMON_LONG,
                                          {"add", no_argument, 0, OPT_ADD},
                                          {"remove", no_argument, 0, OPT_REMOVE},
                                          {"clear", no_argument, 0, OPT_CLEAR},
                                          {"enable", no_argument, 0, OPT_ENABLE},
                                          {"disable", no_argument, 0, OPT_DISABLE},
                                          {"merge", required_argument, 0, OPT_MERGE},
                                          {"source-file", required_argument, 0, 'b'},
                                          {"source-format", required_argument, 0, 'F'},
                                          {"granularity", required_argument, 0, 'g'},
                                          {0}};
    const char *fmt = NULL, *src = NULL, *src_fmt = NULL;
    struct bm_act acts[16];
    struct blk_node *n, *sn = NULL;
    struct blk_child *claim;
    unsigned nr = 0;
    uint64_t gran = 65536;
    bool add = false, merge = false, gran_given = false;
    int opt, r = 0;

    while ((opt = getopt_long(im->argc, im->argv, "b:f:F:g:h", longs, NULL)) != -1) {
        if (common(im, opt, &fmt))
            continue;
        if (opt == 'b') {
            src = optarg;
        } else if (opt == 'F') {
            src_fmt = optarg;
        } else if (opt == 'g') {
            if (!img_size(optarg, "granularity", &gran))
                return 1;
            gran_given = true;
        } else if (opt >= OPT_ADD && opt <= OPT_MERGE && nr < ARRAY_LEN(acts)) {
            acts[nr++] = (struct bm_act){opt, optarg};
            add |= opt == OPT_ADD;
            merge |= opt == OPT_MERGE;
        } else {
            return bad_option(opt);
        }
    }
    if (!nr)
        return img_error("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    if (optind != im->argc - 2)
        return img_error("Expecting filename and bitmap name");
    if (src_fmt && !src)
        return img_error("-F only supported with -b");
    if (src && !merge)
        return img_error("Merge bitmap source file only supported with --merge");
    if (gran_given && !add)
        return img_error("granularity only supported with --add");
    if (gran > 1u << 31)
        return img_error("granularity is too large");
    n = img_open(im, im->argv[optind], fmt, BLK_O_RDWR | BLK_O_NO_BACKING, NULL);
    if (!n)
        return 1;
    claim = img_claim(n, false);
    if (claim && src) {
        sn = img_open(im, src, src_fmt, BLK_O_NO_BACKING, NULL);
        r = !sn;
        if (sn && img_same_file(sn, n)) { /* opened a second time it would answer with what is on disk */
            blk_node_unref(sn);
            sn = NULL;
        }
    }
    for (unsigned i = 0; claim && i < nr && !r; i++)
        r = bitmap_act(im, n, sn, &acts[i], im->argv[optind + 1], (uint32_t)gran);
    blk_node_unref(sn);
    blk_child_detach(claim);
    blk_node_unref(n);
    return claim ? r : 1;
}
