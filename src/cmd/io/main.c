/* qemu-io: reads, writes and probes an image at chosen offsets; commands from -c or typed at a prompt. */
#include "base/json.h"
#include "blk/host.h"
#include "blk/node.h"
#include "blk/secret.h"
#include "cmd/shut/tool.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ARGS = 64 };

struct io {
    struct run *run;
    struct blk_set *set;
    struct blk_node *n;
    struct blk_child *claim;
    char **cmds;
    unsigned nr_cmds;
    const char *path, *fmt, *cache, *discard, *aio;
    const char *path_now; /* what is open */
    bool snapshot, cor;
    bool ro, image_opts, share, misalign, quit, failed;
    unsigned in_flight;
    struct fibre *waiter;
    uint8_t *spare; /* owned: the buffer of the last command, for the next: fresh memory costs more than a read of it */
    uint64_t spare_len;
};
enum { SPARE_MAX = 64 << 20 };

struct command {
    const char *name, *alias;
    int (*fn)(struct io *io, int argc, char **argv);
    int min, max; /* arguments without options */
    bool need_file;
    const char *args, *what;
};

/* ---- numbers and reports ---- */

static bool number(const char *text, uint64_t *out)
{
    if (str_to_size(text, 'b', out) && *out <= INT64_MAX)
        return true;
    printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text);
    return false;
}

static const char *human(uint64_t v, char *buf, size_t n)
{
    static const char *const unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double d = (double)v;
    unsigned u = 0;

    while (d >= 1024 && u < 6) {
        d /= 1024;
        u++;
    }
    if (d == (double)(uint64_t)d)
        snprintf(buf, n, "%" PRIu64 " %s", (uint64_t)d, unit[u]);
    else
        snprintf(buf, n, "%.3f %s", d, unit[u]);
    return buf;
}

static int64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static void report(const char *op, int64_t ns, uint64_t off, uint64_t want, uint64_t total, unsigned ops, bool compact)
{
    double sec = (double)(ns > 0 ? ns : 1) / 1e9;
    char a[40], b[40];

    if (compact) {
        printf("%" PRIu64 ",%u,%0.4f,%0.0f,%0.4f\n", total, ops, sec, (double)total / sec, (double)ops / sec);
        return;
    }
    printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", op, total, want, off);
    printf("%s, %u ops; %05.2f sec (%s/sec and %.4f ops/sec)\n", human(total, a, sizeof a), ops, sec,
           human((uint64_t)((double)total / sec), b, sizeof b), (double)ops / sec);
}

static void dump(const uint8_t *buf, uint64_t off, uint64_t len)
{
    for (uint64_t i = 0; i < len; i += 16) {
        printf("%08" PRIx64 ":  ", off + i);
        for (uint64_t k = i; k < i + 16; k++)
            if (k < len)
                printf("%02x ", buf[k]);
            else
                printf("   ");
        printf(" ");
        for (uint64_t k = i; k < i + 16 && k < len; k++)
            putchar(isprint(buf[k]) && buf[k] < 128 ? buf[k] : '.');
        printf("\n");
    }
}

/* ---- read and write ---- */

struct rw {
    struct io *io;
    bool write, compact, quiet, verbose, zero, unmap, compressed, no_fallback, fua, has_pattern, vmstate;
    int pattern;
    uint64_t pat_off, pat_len, off, len;
    const char *source;
    uint8_t *buf, *mem; /* mem: owned; buf lies in it */
    uint64_t mem_len;
    bool async, vec;
};

static int rw_transfer(struct rw *x)
{
    struct blk_node *n = x->io->n;
    struct iovec v = {x->buf, x->len};
    unsigned flags = (x->fua ? BLK_FUA : 0) | (x->unmap ? BLK_MAY_UNMAP : 0) | (x->no_fallback ? BLK_NO_FALLBACK : 0);
    struct iov q;

    if (x->zero)
        return blk_node_zeroes(n, x->off, x->len, flags);
    iov_init_ext(&q, &v, 1);
    if (x->vmstate) {
        if (!n->drv->save_vmstate)
            return -ENOTSUP;
        return x->write ? n->drv->save_vmstate(n, x->off, x->len, &q, 0)
                        : n->drv->load_vmstate(n, x->off, x->len, &q, 0);
    }
    if (x->off > n->size || x->len > n->size - x->off)
        return -EIO;
    if (x->write)
        return blk_node_pwritev(n, x->off, x->len, &q, 0, flags | (x->compressed ? BLK_REQ_COMPRESSED : 0));
    return blk_node_preadv(n, x->off, x->len, &q, 0, 0);
}

static int fill_source(struct rw *x)
{
    int fd = blk_host_open(x->io->set, x->source, O_RDONLY, 0);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    size_t got;

    if (!f) {
        fprintf(stderr, "%s: %s\n", x->source, strerror(fd < 0 ? -fd : errno));
        return fd < 0 ? fd : -errno;
    }
    got = fread(x->buf, 1, x->len, f);
    fclose(f);
    if (!got) {
        printf("%s: file is empty\n", x->source);
        return -EINVAL;
    }
    for (size_t i = got; i < x->len; i++)
        x->buf[i] = x->buf[i % got];
    return 0;
}

static int rw_report(struct rw *x, int r, int64_t ns)
{
    const char *verb = x->async   ? (x->write ? "aio_write" : "aio_read")
                       : x->vec   ? (x->write ? "writev" : "readv")
                       : x->write ? "write"
                                  : "read";

    if (r < 0) {
        printf("%s failed: %s\n", verb, strerror(-r));
        return r;
    }
    if (!x->write && x->has_pattern) {
        uint64_t len = x->pat_len ? x->pat_len : x->len - x->pat_off;

        for (uint64_t i = 0; i < len; i++)
            if (x->buf[x->pat_off + i] != (uint8_t)x->pattern) {
                printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n", x->off + x->pat_off,
                       len);
                r = -EINVAL;
                break;
            }
    }
    if (x->quiet)
        return r;
    if (x->verbose && !x->write)
        dump(x->buf, x->off, x->len);
    report(x->write ? "wrote" : "read", ns, x->off, x->len, x->len, 1, x->compact);
    return r;
}

static int rw_one(struct rw *x)
{
    int64_t t = now();
    int r = rw_transfer(x);

    return rw_report(x, r, now() - t);
}

static void rw_buffer_drop(struct rw *x)
{
    if (x->io->spare || x->mem_len > SPARE_MAX) {
        free(x->mem);
        return;
    }
    x->io->spare = x->mem;
    x->io->spare_len = x->mem_len;
}

static void rw_async(void *opaque)
{
    struct rw *x = opaque;
    struct io *io = x->io;

    if (rw_one(x) < 0)
        io->failed = true;
    rw_buffer_drop(x);
    free(x);
    if (!--io->in_flight && io->waiter)
        fibre_wake(blk_set_loop(io->set), io->waiter);
}

/* Switches that say nothing, or two things, together. */
static int rw_combine(const struct rw *x)
{
    const char *wrong = !x->write && (x->zero || x->unmap || x->no_fallback || x->fua || x->compressed)
                            ? "-c, -f, -n, -u and -z are for writing"
                        : x->zero && x->compressed ? "-c and -z cannot be specified at the same time"
                        : x->vmstate && (x->zero || x->compressed)
                            ? "-b and -c or -z cannot be specified at the same time"
                        : x->no_fallback && !x->zero ? "-n requires -z to be specified"
                        : x->unmap && !x->zero       ? "-u requires -z to be specified"
                        : x->zero + x->has_pattern + !!x->source > 1 && x->write
                            ? "Only one of -z, -P, and -s can be specified at the same time"
                            : NULL;

    if (!wrong)
        return 0;
    printf("%s\n", wrong);
    return -EINVAL;
}

static int rw_options(struct rw *x, int argc, char **argv)
{
    uint64_t v;
    int c;

    optind = 0;
    while ((c = getopt(argc, argv, "abcCfiP:qs:uznvpl:")) != -1)
        switch (c) {
        case 'a':
        case 'i':
            break;
        case 'b':
            x->vmstate = true;
            break;
        case 'p':
            break;
        case 'c':
            x->compressed = true;
            break;
        case 'C':
            x->compact = true;
            break;
        case 'f':
            x->fua = true;
            break;
        case 'n':
            x->no_fallback = true;
            break;
        case 'q':
            x->quiet = true;
            break;
        case 'u':
            x->unmap = true;
            break;
        case 'v':
            x->verbose = true;
            break;
        case 'z':
            x->zero = true;
            break;
        case 'l':
            if (!number(optarg, &x->pat_len))
                return -EINVAL;
            break;
        case 's':
            if (x->write)
                x->source = optarg;
            else if (!number(optarg, &x->pat_off))
                return -EINVAL;
            break;
        case 'P':
            if (!str_to_u64(optarg, &v) || v > 255) {
                printf("%s is not a valid pattern byte\n", optarg);
                return -EINVAL;
            }
            x->has_pattern = true;
            x->pattern = (int)v;
            break;
        default:
            return -EINVAL;
        }
    return rw_combine(x);
}

static bool rw_buffer(struct rw *x)
{
    struct io *io = x->io;

    x->mem_len = x->len + 4096;
    if (io->spare && io->spare_len >= x->mem_len) {
        x->mem = io->spare;
        x->mem_len = io->spare_len;
        io->spare = NULL;
    } else {
        free(io->spare);
        io->spare = NULL;
        x->mem = try_alloc_aligned(4096, x->mem_len);
    }
    if (!x->mem)
        return false;
    x->buf = x->mem + (io->misalign ? 16 : 0);
    if (x->write || x->has_pattern || x->verbose) /* what a read leaves out would be seen */
        memset(x->buf, x->write ? x->pattern : 0xab, x->len);
    return true;
}

static int rw_command(struct io *io, int argc, char **argv, bool write, bool vec, bool async)
{
    struct rw x = {.io = io, .write = write, .vec = vec, .async = async, .pattern = 0xcd}, *copy;
    int r = rw_options(&x, argc, argv);

    if (r < 0)
        return r;
    if (argc - optind < 2 || (!vec && argc - optind > 2)) {
        printf("bad argument count %d to %s, expected %s2 arguments\n", argc - optind, argv[0],
               vec ? "at least " : "exactly ");
        return -EINVAL;
    }
    if (!number(argv[optind++], &x.off))
        return -EINVAL;
    for (; optind < argc; optind++) {
        uint64_t len;

        if (!number(argv[optind], &len))
            return -EINVAL;
        x.len += len;
    }
    if (x.len > INT32_MAX) {
        printf("length cannot exceed %d, given %s\n", INT32_MAX, argv[argc - 1]);
        return -EINVAL;
    }
    if (!write && (x.pat_off > x.len || x.pat_len > x.len - x.pat_off)) {
        printf("pattern verification range exceeds end of read data\n");
        return -EINVAL;
    }
    if (!rw_buffer(&x))
        return -ENOMEM;
    if (x.source)
        r = fill_source(&x);
    if (r >= 0 && async) {
        copy = xmalloc(sizeof *copy);
        *copy = x;
        io->in_flight++;
        fibre_resume(fibre_new(rw_async, copy));
        return 0;
    }
    if (r >= 0)
        r = rw_one(&x);
    rw_buffer_drop(&x);
    return r;
}

static int c_read(struct io *io, int c, char **v)
{
    return rw_command(io, c, v, false, false, false);
}
static int c_write(struct io *io, int c, char **v)
{
    return rw_command(io, c, v, true, false, false);
}
static int c_readv(struct io *io, int c, char **v)
{
    return rw_command(io, c, v, false, true, false);
}
static int c_writev(struct io *io, int c, char **v)
{
    return rw_command(io, c, v, true, true, false);
}
static int c_aio_read(struct io *io, int c, char **v)
{
    return rw_command(io, c, v, false, true, true);
}
static int c_aio_write(struct io *io, int c, char **v)
{
    return rw_command(io, c, v, true, true, true);
}

static int c_aio_flush(struct io *io, int argc, char **argv)
{
    while (io->in_flight) {
        io->waiter = fibre_self();
        fibre_yield();
    }
    io->waiter = NULL;
    return blk_node_flush(io->n);
}

/* ---- the rest ---- */

static int c_flush(struct io *io, int argc, char **argv)
{
    return blk_node_flush(io->n);
}

static int c_discard(struct io *io, int argc, char **argv)
{
    struct rw x = {.io = io, .write = true};
    int64_t t;
    int r = rw_options(&x, argc, argv);

    if (r < 0 || argc - optind != 2)
        return -EINVAL;
    if (!number(argv[optind], &x.off) || !number(argv[optind + 1], &x.len))
        return -EINVAL;
    t = now();
    r = blk_node_discard(io->n, x.off, x.len);
    if (r < 0)
        printf("discard failed: %s\n", strerror(-r));
    else if (!x.quiet)
        report("discard", now() - t, x.off, x.len, x.len, 1, x.compact);
    return r;
}

static int c_truncate(struct io *io, int argc, char **argv)
{
    enum blk_prealloc p = BLK_PREALLOC_OFF;
    struct err *e = NULL;
    uint64_t size;
    int c;

    optind = 0;
    while ((c = getopt(argc, argv, "m:")) != -1) {
        int i = 0;

        while (c == 'm' && blk_prealloc_names[i] && strcmp(optarg, blk_prealloc_names[i]) != 0)
            i++;
        if (c != 'm' || !blk_prealloc_names[i]) {
            if (c == 'm')
                fprintf(stderr, "qemu-io: Invalid preallocation mode '%s'\n", optarg);
            return -EINVAL;
        }
        p = (enum blk_prealloc)i;
    }
    if (optind != argc - 1 || !number(argv[optind], &size))
        return -EINVAL;
    if (blk_node_truncate(io->n, size, p, &e) >= 0)
        return 0;
    err_report(e);
    return -EIO;
}

static int c_length(struct io *io, int argc, char **argv)
{
    char a[40];

    printf("%s\n", human(blk_node_length(io->n), a, sizeof a));
    return 0;
}

static void members(struct json_object *v, int depth)
{
    if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            printf("%*s[%zu]:\n", depth * 4, "", i);
            members(json_object_array_get_idx(v, i), depth + 1);
        }
        return;
    }
    if (!json_object_is_type(v, json_type_object)) {
        printf("%*s%s\n", depth * 4, "", json_object_get_string(v));
        return;
    }
    json_object_object_foreach(v, k, x)
    {
        char *key AUTOFREE = xstrdup(k);
        bool nested = json_object_is_type(x, json_type_object) || json_object_is_type(x, json_type_array);

        for (char *c = key; *c; c++)
            if (*c == '-')
                *c = ' ';
        printf("%*s%s:%s%s\n", depth * 4, "", key, nested ? "" : " ", nested ? "" : json_object_get_string(x));
        if (nested)
            members(x, depth + 1);
    }
}

static int c_info(struct io *io, int argc, char **argv)
{
    struct json_object *i = blk_node_image_info(io->n, false), *spec = json_get(i, "format-specific");
    char a[40];

    printf("format name: %s\n", io->n->drv->name);
    if (io->n->cluster_size)
        printf("cluster size: %s\n", human(io->n->cluster_size, a, sizeof a));
    if (spec && json_get(spec, "data")) {
        printf("Format specific information:\n");
        members(json_get(spec, "data"), 1);
    }
    json_object_put(i);
    return 0;
}

static int c_alloc(struct io *io, int argc, char **argv)
{
    uint64_t off, len = 512, sum = 0, at;
    char a[40];

    if (!number(argv[1], &off) || (argc > 2 && !number(argv[2], &len)))
        return -EINVAL;
    for (at = off; at < off + len && at < io->n->size;) {
        struct blk_extent e;
        int r = blk_node_status(io->n, at, off + len - at, &e);

        if (r < 0) {
            printf("is_allocated failed: %s\n", strerror(-r));
            return r;
        }
        sum += e.flags & BLK_ST_ALLOC ? e.len : 0;
        at += e.len;
    }
    printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, at > off ? at - off : 0,
           human(off, a, sizeof a));
    return 0;
}

static int c_map(struct io *io, int argc, char **argv)
{
    uint64_t off = 0, start = 0;
    bool was = false;

    while (off < io->n->size) {
        struct blk_extent e;
        char a[40], b[40];
        int r = blk_node_status(io->n, off, io->n->size - off, &e);
        bool is;

        if (r < 0) {
            printf("Failed to get allocation status: %s\n", strerror(-r));
            return r;
        }
        is = e.flags & BLK_ST_ALLOC;
        if (!off)
            was = is;
        off += e.len;
        if (is != was || off >= io->n->size) {
            uint64_t end = is != was ? off - e.len : off;

            printf("%s (0x%" PRIx64 ") bytes %sallocated at offset %s (0x%" PRIx64 ")\n",
                   human(end - start, a, sizeof a), end - start, was ? "    " : "not ", human(start, b, sizeof b),
                   start);
            if (is != was && off >= io->n->size)
                printf("%s (0x%" PRIx64 ") bytes %sallocated at offset %s (0x%" PRIx64 ")\n", human(e.len, a, sizeof a),
                       e.len, is ? "    " : "not ", human(end, b, sizeof b), end);
            start = end;
            was = is;
        }
    }
    return 0;
}

static void close_image(struct io *io)
{
    blk_child_detach(io->claim);
    blk_node_unref(io->n);
    io->claim = NULL;
    io->n = NULL;
}

/* more: options of open -o, taken over; NULL = none. */
static int open_image(struct io *io, const char *path, struct opts *more)
{
    unsigned flags = (io->ro ? 0 : BLK_O_RDWR) | (io->share ? BLK_O_SHARE : 0) | BLK_O_UNMAP;
    struct opts *o = NULL;
    struct err *e = NULL;

    io->path_now = path ? xstrdup(path) : NULL; /* lives until the end of a short run */
    if (io->share && !io->ro) {
        fprintf(stderr, "qemu-io: can't open device %s: force-share=on can only be used with read-only images\n", path);
        return 1;
    }
    if (io->cache)
        blk_cache_mode(io->cache, &flags); /* both looked at where they were given */
    if (io->discard)
        blk_discard_mode(io->discard, &flags);
    if (io->snapshot)
        flags &= ~(unsigned)BLK_O_RDWR;
    if (more) {
        o = more;
        if (opts_peek(o, "driver") && path && !opts_peek(o, "file") && !opts_peek(o, "file.filename"))
            opts_set(o, "file.filename", path);
        if (opts_peek(o, "driver"))
            path = NULL;
    } else if (io->image_opts && !(o = opts_parse(path, NULL, &e))) {
        err_report(e);
        return 1;
    }
    if (io->aio) {
        o = o ? o : opts_new();
        opts_set(o, "file.aio", io->aio);
    }
    io->n = blk_node_open(io->set, io->image_opts && !more ? NULL : path, io->fmt, flags, o, &e);
    if (io->n && io->snapshot) {
        struct blk_node *n = blk_node_throwaway(io->set, io->n, &e);

        blk_node_unref(io->n);
        io->n = n;
    }
    if (io->n && io->cor)
        io->n = blk_node_filtered(io->set, "copy-on-read", io->n, NULL, &e);
    if (io->n)
        io->claim = blk_child_root(io->n, "qemu-io", BLK_PERM_READ | (io->ro ? 0 : BLK_PERM_WRITE | BLK_PERM_RESIZE),
                                   io->ro ? BLK_PERM_ALL : BLK_PERM_READ | BLK_PERM_WRITE_SAME, &e);
    if (io->n && io->claim)
        return 0;
    err_prefix(&e, "can't open%s%s: ", io->image_opts || !path ? "" : " device ", io->image_opts || !path ? "" : path);
    err_report(e);
    if (io->n)
        blk_node_unref(io->n);
    io->n = NULL;
    return 1;
}

static bool mode_ok(bool (*known)(const char *, unsigned *), const char *what, const char *text)
{
    unsigned unused = 0;

    if (known(text, &unused))
        return true;
    fprintf(stderr, "qemu-io: Invalid %s option: %s\n", what, text);
    return false;
}

static int c_open(struct io *io, int argc, char **argv)
{
    struct opts *more = NULL;
    struct err *e = NULL;
    int c;

    if (io->n) {
        fprintf(stderr, "qemu-io: file open already, try 'help close'\n");
        return -EBUSY;
    }
    io->ro = io->share = io->snapshot = io->cor = false;
    io->cache = io->discard = NULL;
    optind = 0;
    while ((c = getopt(argc, argv, "snCro:ki:t:d:U")) != -1)
        switch (c) {
        case 'r':
            io->ro = true;
            break;
        case 'n':
            io->cache = "none";
            break;
        case 'U':
            io->share = true;
            break;
        case 's':
            io->snapshot = true;
            break;
        case 'C':
            io->cor = true;
            break;
        case 'k':
            io->aio = "native";
            break;
        case 'i':
            io->aio = xstrdup(optarg);
            break;
        case 't':
            if (!mode_ok(blk_cache_mode, "cache", optarg))
                return -EINVAL;
            io->cache = xstrdup(optarg);
            break;
        case 'd':
            if (!mode_ok(blk_discard_mode, "discard", optarg))
                return -EINVAL;
            io->discard = xstrdup(optarg);
            break;
        case 'o':
            opts_free(more);
            more = opts_parse(optarg, NULL, &e);
            if (!more) {
                err_report(e);
                return -EINVAL;
            }
            break;
        default:
            opts_free(more);
            return -EINVAL;
        }
    if (optind < argc - 1 || (optind == argc && !more)) {
        opts_free(more);
        return -EINVAL;
    }
    return open_image(io, optind < argc ? argv[optind] : NULL, more) ? -EIO : 0;
}

static int c_close(struct io *io, int argc, char **argv)
{
    c_aio_flush(io, 0, NULL);
    close_image(io);
    return 0;
}

/* With other options than -r and -w the image is closed and opened anew: its users are this program only. */
static int open_anew(struct io *io, struct opts *more)
{
    c_aio_flush(io, 0, NULL);
    close_image(io);
    return open_image(io, io->path_now, more) ? -EIO : 0;
}

static int c_reopen(struct io *io, int argc, char **argv)
{
    struct opts *more = NULL;
    struct err *e = NULL;
    bool rw = io->n->open_flags & BLK_O_RDWR, anew = false;
    int c;

    optind = 0;
    while ((c = getopt(argc, argv, "rwc:o:")) != -1) {
        if (c == 'r' || c == 'w') {
            rw = c == 'w';
        } else if (c == 'c' && mode_ok(blk_cache_mode, "cache", optarg)) {
            io->cache = xstrdup(optarg);
            anew = true;
        } else if (c == 'o' && !more && (more = opts_parse(optarg, NULL, &e))) {
            anew = true;
        } else {
            if (e)
                err_report(e);
            opts_free(more);
            return -EINVAL;
        }
    }
    io->ro = !rw;
    if (anew)
        return open_anew(io, more);
    blk_child_set_perm(io->claim, BLK_PERM_READ, BLK_PERM_ALL, NULL);
    if (!blk_node_reopen(io->n, rw, &e) ||
        (rw && !blk_child_set_perm(io->claim, BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                                   BLK_PERM_READ | BLK_PERM_WRITE_SAME, &e))) {
        err_report(e);
        return -EIO;
    }
    return 0;
}

static int c_sleep(struct io *io, int argc, char **argv)
{
    uint64_t ms;

    if (!number(argv[1], &ms) || ms > INT64_MAX / 1000000)
        return -EINVAL;
    blk_sleep(io->set, (int64_t)ms * 1000000);
    return 0;
}

static int c_abort(struct io *io, int argc, char **argv)
{
    abort();
}

static int c_sigraise(struct io *io, int argc, char **argv)
{
    uint64_t sig;

    if (!number(argv[1], &sig))
        return -EINVAL;
    fflush(NULL);
    raise((int)sig);
    return 0;
}

static int c_quit(struct io *io, int argc, char **argv)
{
    io->quit = true;
    return 0;
}

static int c_help(struct io *io, int argc, char **argv);

static const struct command commands[] = {
    {"abort", NULL, c_abort, 0, 0, false, "", "simulate a program crash using abort(3)"},
    {"aio_flush", NULL, c_aio_flush, 0, 0, true, "", "completes all outstanding aio requests"},
    {"aio_read", NULL, c_aio_read, 2, -1, true, "[-Ciqv] [-P pattern] off len [len..]",
     "asynchronously reads a number of bytes"},
    {"aio_write", NULL, c_aio_write, 2, -1, true, "[-Cfiquz] [-P pattern] off len [len..]",
     "asynchronously writes a number of bytes"},
    {"alloc", NULL, c_alloc, 1, 2, true, "offset [count]", "checks if offset is allocated in the file"},
    {"close", NULL, c_close, 0, 0, true, "", "close the current open file"},
    {"discard", "d", c_discard, 2, -1, true, "[-Cq] off len", "discards a number of bytes at a specified offset"},
    {"flush", "f", c_flush, 0, 0, true, "", "flush all in-core file state to disk"},
    {"help", "?", c_help, 0, 1, false, "[command]", "help for one or all commands"},
    {"info", NULL, c_info, 0, 0, true, "", "prints information about the current file"},
    {"length", "l", c_length, 0, 0, true, "", "gets the length of the current file"},
    {"map", NULL, c_map, 0, 0, true, "", "prints the allocated areas of a file"},
    {"open", "o", c_open, 1, -1, false, "[-rsCnkU] [-i aio] [-t cache] [-d discard] [-o options] [path]",
     "open the file specified by path"},
    {"quit", "q", c_quit, 0, 0, false, "", "exit the program"},
    {"read", "r", c_read, 2, -1, true, "[-abCqv] [-P pattern [-s off] [-l len]] off len",
     "reads a number of bytes at a specified offset"},
    {"readv", "rv", c_readv, 2, -1, true, "[-Cqv] [-P pattern] off len [len..]",
     "reads a number of bytes at a specified offset"},
    {"reopen", NULL, c_reopen, 0, -1, true, "[(-r|-w)] [-c cache] [-o options]", "reopens an image with new options"},
    {"sigraise", NULL, c_sigraise, 1, 1, false, "signal", "raises a signal"},
    {"sleep", NULL, c_sleep, 1, 1, false, "ms", "waits for the given value in milliseconds"},
    {"truncate", "t", c_truncate, 1, -1, true, "[-m prealloc_mode] off",
     "truncates the current file at the given offset"},
    {"write", "w", c_write, 2, -1, true, "[-bcCfnquz] [-P pattern | -s source_file] off len",
     "writes a number of bytes at a specified offset"},
    {"writev", "wv", c_writev, 2, -1, true, "[-Cfq] [-P pattern] off len [len..]",
     "writes a number of bytes at a specified offset"},
};

static int c_help(struct io *io, int argc, char **argv)
{
    bool known = argc < 2;

    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (argc < 2 || !strcmp(argv[1], commands[i].name) ||
            (commands[i].alias && !strcmp(argv[1], commands[i].alias))) {
            printf("%s%s%s -- %s\n", commands[i].name, *commands[i].args ? " " : "", commands[i].args,
                   commands[i].what);
            known = true;
        }
    if (!known) {
        printf("command %s not found\n", argv[1]);
        return -EINVAL;
    }
    if (argc < 2)
        printf("\nUse 'help commandname' for one command.\n");
    return 0;
}

static int split(char *line, char **argv)
{
    char *save = NULL;
    int n = 0;

    for (char *t = strtok_r(line, " \t\n", &save); t && n < MAX_ARGS - 1; t = strtok_r(NULL, " \t\n", &save))
        argv[n++] = t;
    argv[n] = NULL;
    return n;
}

static int run_line(struct io *io, const char *line)
{
    char *copy AUTOFREE = xstrdup(line), *argv[MAX_ARGS];
    int argc = split(copy, argv);

    if (!argc)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const struct command *c = &commands[i];

        if (strcmp(argv[0], c->name) != 0 && (!c->alias || strcmp(argv[0], c->alias) != 0))
            continue;
        if (c->need_file && !io->n) {
            fprintf(stderr, "no file open, try 'help open'\n");
            return -EINVAL;
        }
        if (argc - 1 < c->min || (c->max >= 0 && argc - 1 > c->max)) {
            if (c->max < 0)
                fprintf(stderr, "bad argument count %d to %s, expected at least %d arguments\n", argc - 1, c->name,
                        c->min);
            else
                fprintf(stderr, "bad argument count %d to %s, expected between %d and %d arguments\n", argc - 1,
                        c->name, c->min, c->max);
            return -EINVAL;
        }
        return c->fn(io, argc, argv);
    }
    fprintf(stderr, "command \"%s\" not found\n", argv[0]);
    return -EINVAL;
}

static void session(void *opaque)
{
    struct io *io = opaque;
    char *line = NULL;
    size_t cap = 0;

    if (io->path && open_image(io, io->path, NULL)) {
        io->failed = true;
        return;
    }
    for (unsigned i = 0; i < io->nr_cmds && !io->quit; i++)
        if (run_line(io, io->cmds[i]) < 0)
            io->failed = true;
    while (!io->nr_cmds && !io->quit) {
        printf("qemu-io> ");
        fflush(stdout);
        if (getline(&line, &cap, stdin) < 0)
            break;
        if (run_line(io, line) < 0)
            io->failed = true;
    }
    free(line);
    if (io->n) {
        c_aio_flush(io, 0, NULL);
        close_image(io);
    }
}

static void usage(void)
{
    printf(
        "Usage: qemu-io [OPTIONS]... [-c STRING]... [file]\nDisk exerciser\n\n"
        "  --image-opts         treat file as option string\n  -c, --cmd STRING     execute command with its "
        "arguments\n"
        "  -f, --format FMT     specifies the block driver to use\n  -r, --read-only      export read-only\n"
        "  -s, --snapshot       write into a temporary file, thrown away at the end\n"
        "  -C, --copy-on-read   keep in the image what is read from its backing file\n"
        "  -m, --misalign       misalign buffers\n  -k, --native-aio     the same as -i native\n"
        "  -i, --aio=MODE       threads, native or io_uring\n"
        "  --object OBJECTDEF   define an object such as 'secret'\n  -T, --trace EVENT    tell of it; there is: "
        "sandbox\n"
        "  -n, --nocache        disable host cache\n  -d, --discard=MODE   use the given discard mode for the image\n"
        "  -t, --cache=MODE     use the given cache mode for the image\n  -U, --force-share    force shared "
        "permissions\n"
        "  -h, --help           display this help and exit\n  -V, --version        output version information and "
        "exit\n\n"
        "Commands: ");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        printf("%s%s", commands[i].name, i + 1 < ARRAY_LEN(commands) ? ", " : "\n");
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"version", no_argument, 0, 'V'},
                                          {"cmd", required_argument, 0, 'c'},
                                          {"format", required_argument, 0, 'f'},
                                          {"read-only", no_argument, 0, 'r'},
                                          {"nocache", no_argument, 0, 'n'},
                                          {"snapshot", no_argument, 0, 's'},
                                          {"copy-on-read", no_argument, 0, 'C'},
                                          {"misalign", no_argument, 0, 'm'},
                                          {"native-aio", no_argument, 0, 'k'},
                                          {"aio", required_argument, 0, 'i'},
                                          {"discard", required_argument, 0, 'd'},
                                          {"cache", required_argument, 0, 't'},
                                          {"image-opts", no_argument, 0, 256},
                                          {"force-share", no_argument, 0, 'U'},
                                          {"trace", required_argument, 0, 'T'},
                                          {0}};
    char *cmds[256], **given = shut_argv_copy(argc, argv);
    struct shut_plan plan = {.argc = argc, .argv = given, .writes = true};
    struct shut *shut = NULL;
    struct io io = {.cmds = cmds};
    struct err *e = NULL;
    int c;

    err_set_program("qemu-io");
    io.run = run_new();
    io.set = blk_set_new(io.run);
    if (!blk_take_objects(io.set, &argc, argv, &e)) {
        err_report(e);
        return 1;
    }
    while ((c = getopt_long(argc, argv, "hVc:d:f:rsnCmki:t:T:U", longs, NULL)) != -1)
        switch (c) {
        case 'c':
            if (io.nr_cmds < ARRAY_LEN(cmds))
                cmds[io.nr_cmds++] = optarg;
            break;
        case 'f':
            io.fmt = optarg;
            break;
        case 'r':
            io.ro = true;
            break;
        case 'n':
            io.cache = "none";
            break;
        case 's':
            io.snapshot = true;
            break;
        case 'C':
            io.cor = true;
            break;
        case 'd':
            if (!mode_ok(blk_discard_mode, "discard", optarg))
                return 1;
            io.discard = optarg;
            break;
        case 't':
            if (!mode_ok(blk_cache_mode, "cache", optarg))
                return 1;
            io.cache = optarg;
            break;
        case 'U':
            io.share = true;
            break;
        case 'm':
            io.misalign = true;
            break;
        case 'k':
            io.aio = "native";
            break;
        case 'i':
            if (strcmp(optarg, "threads") && strcmp(optarg, "native") && strcmp(optarg, "io_uring")) {
                fprintf(stderr, "qemu-io: Invalid aio option: %s\n", optarg);
                return 1;
            }
            io.aio = optarg;
            break;
        case 'T':
            if (!shut_trace_option(optarg))
                return 1;
            break;
        case 256:
            io.image_opts = true;
            break;
        case 'V':
            printf("qemu-io version 7.2.0 (Lyrebird " LYREBIRD_VERSION ")\n");
            return 0;
        case 'h':
            usage();
            return 0;
        default:
            fprintf(stderr, "Try 'qemu-io --help' for more information.\n");
            return 1;
        }
    if (argc - optind > 1) {
        fprintf(stderr, "Try 'qemu-io --help' for more information.\n");
        return 1;
    }
    io.path = optind < argc ? argv[optind] : NULL;
    if (io.nr_cmds) /* who types commands names files as they go */
        shut = shut_in(io.set, &plan);
    blk_run(io.set, session, &io);
    blk_set_free(io.set);
    run_free(io.run);
    free(io.spare);
    shut_end(shut);
    free(given);
    return io.failed;
}
