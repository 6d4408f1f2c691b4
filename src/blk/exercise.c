/* The disk exerciser's engine: words to options, requests, reports.
 *
 * With a machine's handle (x->b) reads, writes, zeroes, discards and flushes go through it as its device's do, so they
 * wait while the handle is held and are refused where the device may not write; what only formats know (allocation,
 * machine state, compressed writes) is asked of the handle's node. Without one everything goes straight to the node.
 *
 * Left out: breakpoints (break, resume, wait_break, remove_break). */
#include "blk/exercise.h"
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/host.h"
#include "blk/job_int.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { SPARE_MAX = 64 << 20 };

/* ---- words, numbers and reports ---- */

void blk_ex_say(struct blk_ex *x, bool error, const char *fmt, ...)
{
    char text[512], *big;
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < (int)sizeof text) {
        x->put(x->opaque, error, text);
        return;
    }
    va_start(ap, fmt);
    big = xmalloc((size_t)n + 1);
    vsnprintf(big, (size_t)n + 1, fmt, ap);
    va_end(ap);
    x->put(x->opaque, error, big);
    free(big);
}
#define SAY(x, ...) blk_ex_say(x, false, __VA_ARGS__)

bool blk_ex_number(struct blk_ex *x, const char *text, uint64_t *out)
{
    if (str_to_size(text, 'b', out) && *out <= INT64_MAX)
        return true;
    SAY(x, "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text);
    return false;
}

static void usage(struct blk_ex *x, const struct blk_ex_cmd *c)
{
    SAY(x, "%s%s%s -- %s\n", c->name, *c->args ? " " : "", c->args, c->what);
}

/* The next word that holds options, in o->letters; false at the end. */
static bool next_letters(struct blk_ex_opts *o)
{
    while (!o->letters || !*o->letters) {
        char *w = ++o->at < o->argc ? o->argv[o->at] : NULL;

        if (!w)
            return false;
        if (o->plain || w[0] != '-' || !w[1]) {
            o->word[o->nr++] = w;
            continue;
        }
        o->plain = !strcmp(w, "--");
        o->letters = o->plain ? NULL : w + 1;
    }
    return true;
}

int blk_ex_opt(struct blk_ex *x, struct blk_ex_opts *o, const char *known)
{
    const char *k;
    char c;

    if (!next_letters(o))
        return -1;
    c = *o->letters++;
    k = c == ':' ? NULL : strchr(known, c);
    if (!k) {
        blk_ex_say(x, true, "%s: invalid option -- '%c'\n", o->argv[0], c);
        usage(x, x->cmd);
        return '?';
    }
    if (k[1] != ':')
        return c;
    o->arg = *o->letters ? o->letters : ++o->at < o->argc ? o->argv[o->at] : NULL;
    o->letters = NULL;
    if (o->arg)
        return c;
    blk_ex_say(x, true, "%s: option requires an argument -- '%c'\n", o->argv[0], c);
    usage(x, x->cmd);
    return '?';
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

/* What one request did, and how long it took. */
static void report(struct blk_ex *x, const char *op, int64_t ns, uint64_t off, uint64_t len, bool compact)
{
    double sec = (double)(ns > 0 ? ns : 1) / 1e9;
    char a[40], b[40];

    if (compact) {
        SAY(x, "%" PRIu64 ",1,%0.4f,%0.0f,%0.4f\n", len, sec, (double)len / sec, 1 / sec);
        return;
    }
    SAY(x, "%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", op, len, len, off);
    SAY(x, "%s, 1 ops; %05.2f sec (%s/sec and %.4f ops/sec)\n", human(len, a, sizeof a), sec,
        human((uint64_t)((double)len / sec), b, sizeof b), 1 / sec);
}

static void dump(struct blk_ex *x, const uint8_t *buf, uint64_t off, uint64_t len)
{
    for (uint64_t i = 0; i < len; i += 16) {
        char line[96];
        int n = snprintf(line, sizeof line, "%08" PRIx64 ":  ", off + i);

        for (uint64_t k = i; k < i + 16; k++)
            if (k < len)
                n += snprintf(line + n, sizeof line - (size_t)n, "%02x ", buf[k]);
            else
                n += snprintf(line + n, sizeof line - (size_t)n, "   ");
        line[n++] = ' ';
        for (uint64_t k = i; k < i + 16 && k < len; k++)
            line[n++] = buf[k] < 128 && isprint(buf[k]) ? (char)buf[k] : '.';
        line[n++] = '\n';
        line[n] = 0;
        x->put(x->opaque, false, line);
    }
}

/* ---- requests: through the handle, or straight to the node ---- */

enum op { OP_READ, OP_WRITE, OP_ZERO, OP_DISCARD, OP_FLUSH };
struct wait {
    struct ev_loop *loop;
    struct fibre *f; /* suspended until the completion; NULL: not yet, or no more */
    bool done;
    int ret;
};

static void wait_done(void *opaque, int ret)
{
    struct wait *w = opaque;

    w->done = true;
    w->ret = ret;
    if (w->f)
        fibre_wake(w->loop, w->f);
}

static int through_handle(struct blk *b, enum op op, uint64_t off, uint64_t len, const struct iov *q, unsigned flags)
{
    struct wait w = {.loop = b->set->loop};

    if (op == OP_READ)
        blk_aio_read(b, off, q, flags, wait_done, &w);
    else if (op == OP_WRITE)
        blk_aio_write(b, off, q, flags, wait_done, &w);
    else if (op == OP_ZERO)
        blk_aio_zero(b, off, len, flags, wait_done, &w);
    else if (op == OP_DISCARD)
        blk_aio_discard(b, off, len, wait_done, &w);
    else
        blk_aio_flush(b, wait_done, &w);
    while (!w.done) {
        w.f = fibre_self();
        fibre_yield();
        w.f = NULL;
    }
    return w.ret;
}

static int request(struct blk_ex *x, enum op op, uint64_t off, uint64_t len, const struct iov *q, unsigned flags)
{
    if (x->b)
        return through_handle(x->b, op, off, len, q, flags);
    if (op == OP_ZERO)
        return blk_node_zeroes(x->n, off, len, flags);
    if (op == OP_DISCARD)
        return blk_node_discard(x->n, off, len);
    if (op == OP_FLUSH)
        return blk_node_flush(x->n);
    if (off > x->n->size || len > x->n->size - off)
        return -EIO;
    return op == OP_READ ? blk_node_preadv(x->n, off, len, q, 0, flags) : blk_node_pwritev(x->n, off, len, q, 0, flags);
}

/* ---- read and write ---- */

struct rw {
    struct blk_ex *x;
    bool write, compact, quiet, verbose, zero, unmap, compressed, no_fallback, fua, has_pattern, vmstate;
    int pattern;
    uint64_t pat_off, pat_len, off, len;
    const char *source;
    uint8_t *buf, *mem; /* mem: owned; buf lies in it */
    uint64_t mem_len;
    bool async, vec;
};

static int rw_transfer(struct rw *r)
{
    unsigned flags = (r->fua ? BLK_FUA : 0) | (r->unmap ? BLK_MAY_UNMAP : 0) | (r->no_fallback ? BLK_NO_FALLBACK : 0);
    const struct blk_driver *d = r->x->n->drv;
    struct iovec v = {r->buf, r->len};
    struct iov q;

    if (r->zero)
        return request(r->x, OP_ZERO, r->off, r->len, NULL, flags);
    iov_init_ext(&q, &v, 1);
    if (r->vmstate) {
        if (!d->save_vmstate)
            return -ENOTSUP;
        return r->write ? d->save_vmstate(r->x->n, r->off, r->len, &q, 0)
                        : d->load_vmstate(r->x->n, r->off, r->len, &q, 0);
    }
    if (!r->write)
        return request(r->x, OP_READ, r->off, r->len, &q, 0);
    return request(r->x, OP_WRITE, r->off, r->len, &q, flags | (r->compressed ? BLK_REQ_COMPRESSED : 0));
}

/* The file's bytes, over and over. */
static int fill_source(struct rw *r)
{
    int fd = blk_host_open(r->x->set, r->source, O_RDONLY, 0), e;
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    size_t got;

    if (!f) {
        e = fd < 0 ? -fd : errno;
        blk_ex_say(r->x, true, "%s: %s\n", r->source, strerror(e));
        if (fd >= 0)
            close(fd);
        return -e;
    }
    got = fread(r->buf, 1, r->len, f);
    fclose(f);
    if (!got) {
        SAY(r->x, "%s: file is empty\n", r->source);
        return -EINVAL;
    }
    for (size_t i = got; i < r->len; i++)
        r->buf[i] = r->buf[i % got];
    return 0;
}

static int rw_verify(struct rw *r)
{
    uint64_t len = r->pat_len ? r->pat_len : r->len - r->pat_off;

    for (uint64_t i = 0; i < len; i++)
        if (r->buf[r->pat_off + i] != (uint8_t)r->pattern) {
            SAY(r->x, "Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n", r->off + r->pat_off,
                len);
            return -EINVAL;
        }
    return 0;
}

static int rw_one(struct rw *r)
{
    const char *verb = r->async   ? (r->write ? "aio_write" : "aio_read")
                       : r->vec   ? (r->write ? "writev" : "readv")
                       : r->write ? "write"
                                  : "read";
    int64_t t = now();
    int ret = rw_transfer(r);

    t = now() - t;
    if (ret < 0) {
        SAY(r->x, "%s failed: %s\n", verb, strerror(-ret));
        return ret;
    }
    if (!r->write && r->has_pattern)
        ret = rw_verify(r);
    if (r->quiet)
        return ret;
    if (r->verbose && !r->write)
        dump(r->x, r->buf, r->off, r->len);
    report(r->x, r->write ? "wrote" : "read", t, r->off, r->len, r->compact);
    return ret;
}

static void rw_buffer_drop(struct rw *r)
{
    if (r->x->spare || r->mem_len > SPARE_MAX) {
        free(r->mem);
        return;
    }
    r->x->spare = r->mem;
    r->x->spare_len = r->mem_len;
}

static void rw_async(void *opaque)
{
    struct rw *r = opaque;
    struct blk_ex *x = r->x;

    if (rw_one(r) < 0)
        x->failed = true;
    rw_buffer_drop(r);
    free(r);
    if (!--x->in_flight && x->waiter)
        fibre_wake(blk_set_loop(x->set), x->waiter);
}

/* Switches that say nothing, or two things, together. */
static int rw_combine(const struct rw *r)
{
    const char *wrong = !r->write && (r->zero || r->unmap || r->no_fallback || r->fua || r->compressed)
                            ? "-c, -f, -n, -u and -z are for writing"
                        : r->zero && r->compressed ? "-c and -z cannot be specified at the same time"
                        : r->vmstate && (r->zero || r->compressed)
                            ? "-b and -c or -z cannot be specified at the same time"
                        : r->no_fallback && !r->zero ? "-n requires -z to be specified"
                        : r->unmap && !r->zero       ? "-u requires -z to be specified"
                        : r->zero + r->has_pattern + !!r->source > 1 && r->write
                            ? "Only one of -z, -P, and -s can be specified at the same time"
                            : NULL;

    if (!wrong)
        return 0;
    SAY(r->x, "%s\n", wrong);
    return -EINVAL;
}

/* One option with an argument; false: told what is wrong with it. */
static bool rw_argument(struct rw *r, int c, const char *arg)
{
    uint64_t v;

    if (c == 'l')
        return blk_ex_number(r->x, arg, &r->pat_len);
    if (c == 's' && !r->write)
        return blk_ex_number(r->x, arg, &r->pat_off);
    if (c == 's') {
        r->source = arg;
        return true;
    }
    if (!str_to_u64(arg, &v) || v > 255) {
        SAY(r->x, "%s is not a valid pattern byte\n", arg);
        return false;
    }
    r->has_pattern = true;
    r->pattern = (int)v;
    return true;
}

/* -a, -i and -p are taken and change nothing. */
static int rw_options(struct rw *r, struct blk_ex_opts *o)
{
    int c;

    while ((c = blk_ex_opt(r->x, o, "abcCfiP:qs:uznvpl:")) != -1) {
        if (c == '?' || (strchr("Psl", c) && !rw_argument(r, c, o->arg)))
            return -EINVAL;
        r->vmstate |= c == 'b';
        r->compressed |= c == 'c';
        r->compact |= c == 'C';
        r->fua |= c == 'f';
        r->no_fallback |= c == 'n';
        r->quiet |= c == 'q';
        r->unmap |= c == 'u';
        r->verbose |= c == 'v';
        r->zero |= c == 'z';
    }
    return rw_combine(r);
}

static bool rw_buffer(struct rw *r)
{
    struct blk_ex *x = r->x;

    r->mem_len = r->len + 4096;
    if (x->spare && x->spare_len >= r->mem_len) {
        r->mem = x->spare;
        r->mem_len = x->spare_len;
        x->spare = NULL;
    } else {
        free(x->spare);
        x->spare = NULL;
        r->mem = try_alloc_aligned(4096, r->mem_len);
    }
    if (!r->mem) {
        blk_ex_say(x, true, "no memory for %" PRIu64 " bytes\n", r->len);
        return false;
    }
    r->buf = r->mem + (x->misalign ? 16 : 0);
    if (r->write || r->has_pattern || r->verbose) /* what a read leaves out would be seen */
        memset(r->buf, r->write ? r->pattern : 0xab, r->len);
    return true;
}

/* Offset and length, or lengths, from the words that are no options. */
static int rw_range(struct rw *r, const struct blk_ex_opts *o)
{
    if (o->nr < 2 || (!r->vec && o->nr > 2)) {
        SAY(r->x, "bad argument count %d to %s, expected %s2 arguments\n", o->nr, o->argv[0],
            r->vec ? "at least " : "exactly ");
        return -EINVAL;
    }
    if (!blk_ex_number(r->x, o->word[0], &r->off))
        return -EINVAL;
    for (int i = 1; i < o->nr; i++) {
        uint64_t len;

        if (!blk_ex_number(r->x, o->word[i], &len))
            return -EINVAL;
        r->len += len;
    }
    if (r->len > INT32_MAX) {
        SAY(r->x, "length cannot exceed %d, given %s\n", INT32_MAX, o->word[o->nr - 1]);
        return -EINVAL;
    }
    if (r->write || (r->pat_off <= r->len && r->pat_len <= r->len - r->pat_off))
        return 0;
    SAY(r->x, "pattern verification range exceeds end of read data\n");
    return -EINVAL;
}

static int rw_command(struct blk_ex *x, int argc, char **argv, struct rw r)
{
    struct blk_ex_opts o = {.argc = argc, .argv = argv};
    struct rw *copy;
    int ret;

    r.x = x;
    r.pattern = 0xcd;
    ret = rw_options(&r, &o);
    if (ret >= 0)
        ret = rw_range(&r, &o);
    if (ret < 0)
        return ret;
    if (!rw_buffer(&r))
        return -ENOMEM;
    if (r.source)
        ret = fill_source(&r);
    if (ret >= 0 && r.async) {
        copy = xmalloc(sizeof *copy);
        *copy = r;
        x->in_flight++;
        fibre_resume(fibre_new(rw_async, copy));
        return 0;
    }
    if (ret >= 0)
        ret = rw_one(&r);
    rw_buffer_drop(&r);
    return ret;
}

static int c_read(struct blk_ex *x, int c, char **v)
{
    return rw_command(x, c, v, (struct rw){0});
}
static int c_write(struct blk_ex *x, int c, char **v)
{
    return rw_command(x, c, v, (struct rw){.write = true});
}
static int c_readv(struct blk_ex *x, int c, char **v)
{
    return rw_command(x, c, v, (struct rw){.vec = true});
}
static int c_writev(struct blk_ex *x, int c, char **v)
{
    return rw_command(x, c, v, (struct rw){.write = true, .vec = true});
}
static int c_aio_read(struct blk_ex *x, int c, char **v)
{
    return rw_command(x, c, v, (struct rw){.vec = true, .async = true});
}
static int c_aio_write(struct blk_ex *x, int c, char **v)
{
    return rw_command(x, c, v, (struct rw){.write = true, .vec = true, .async = true});
}

void blk_ex_wait(struct blk_ex *x)
{
    while (x->in_flight) {
        x->waiter = fibre_self();
        fibre_yield();
    }
    x->waiter = NULL;
}

void blk_ex_release(struct blk_ex *x)
{
    free(x->spare);
    x->spare = NULL;
}

/* ---- the rest ---- */

static int c_flush(struct blk_ex *x, int argc, char **argv)
{
    int ret = request(x, OP_FLUSH, 0, 0, NULL, 0);

    if (ret < 0)
        SAY(x, "flush failed: %s\n", strerror(-ret));
    return ret;
}

static int c_aio_flush(struct blk_ex *x, int argc, char **argv)
{
    blk_ex_wait(x);
    return c_flush(x, argc, argv);
}

static int c_discard(struct blk_ex *x, int argc, char **argv)
{
    struct blk_ex_opts o = {.argc = argc, .argv = argv};
    struct rw r = {.x = x, .write = true};
    int ret = rw_options(&r, &o);
    int64_t t;

    if (ret < 0)
        return ret;
    if (o.nr != 2) {
        usage(x, x->cmd);
        return -EINVAL;
    }
    if (!blk_ex_number(x, o.word[0], &r.off) || !blk_ex_number(x, o.word[1], &r.len))
        return -EINVAL;
    t = now();
    ret = request(x, OP_DISCARD, r.off, r.len, NULL, 0);
    if (ret < 0)
        SAY(x, "discard failed: %s\n", strerror(-ret));
    else if (!r.quiet)
        report(x, "discard", now() - t, r.off, r.len, r.compact);
    return ret;
}

static int c_truncate(struct blk_ex *x, int argc, char **argv)
{
    struct blk_ex_opts o = {.argc = argc, .argv = argv};
    enum blk_prealloc p = BLK_PREALLOC_OFF;
    struct err *e = NULL;
    uint64_t size;
    bool ok;
    int c, i;

    while ((c = blk_ex_opt(x, &o, "m:")) != -1) {
        for (i = 0; c == 'm' && blk_prealloc_names[i] && strcmp(o.arg, blk_prealloc_names[i]) != 0;)
            i++;
        if (c != 'm')
            return -EINVAL;
        if (!blk_prealloc_names[i]) {
            err_set(&e, "Invalid preallocation mode '%s'", o.arg);
            x->fail(x->opaque, e);
            return -EINVAL;
        }
        p = (enum blk_prealloc)i;
    }
    if (o.nr != 1) {
        usage(x, x->cmd);
        return -EINVAL;
    }
    if (!blk_ex_number(x, o.word[0], &size))
        return -EINVAL;
    if (x->b && blk_readonly(x->b))
        ok = err_set(&e, "Image is read-only");
    else
        ok = x->b ? blk_cmd_resize(x->n, x->n->name, size, p, &e) : blk_node_truncate(x->n, size, p, &e) >= 0;
    if (ok)
        return 0;
    x->fail(x->opaque, e);
    return -EIO;
}

static int c_length(struct blk_ex *x, int argc, char **argv)
{
    char a[40];

    SAY(x, "%s\n", human(blk_node_length(x->n), a, sizeof a));
    return 0;
}

static void members(struct blk_ex *x, struct json_object *v, int depth)
{
    if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            SAY(x, "%*s[%zu]:\n", depth * 4, "", i);
            members(x, json_object_array_get_idx(v, i), depth + 1);
        }
        return;
    }
    if (!json_object_is_type(v, json_type_object)) {
        SAY(x, "%*s%s\n", depth * 4, "", json_object_get_string(v));
        return;
    }
    json_object_object_foreach(v, k, m)
    {
        char *key AUTOFREE = xstrdup(k);
        bool nested = json_object_is_type(m, json_type_object) || json_object_is_type(m, json_type_array);

        for (char *c = key; *c; c++)
            if (*c == '-')
                *c = ' ';
        SAY(x, "%*s%s:%s%s\n", depth * 4, "", key, nested ? "" : " ", nested ? "" : json_object_get_string(m));
        if (nested)
            members(x, m, depth + 1);
    }
}

static int c_info(struct blk_ex *x, int argc, char **argv)
{
    struct json_object *i = blk_node_image_info(x->n, false), *spec = json_get(i, "format-specific");
    char a[40];

    SAY(x, "format name: %s\n", x->n->drv->name);
    if (x->n->cluster_size)
        SAY(x, "cluster size: %s\n", human(x->n->cluster_size, a, sizeof a));
    if (spec && json_get(spec, "data")) {
        SAY(x, "Format specific information:\n");
        members(x, json_get(spec, "data"), 1);
    }
    json_object_put(i);
    return 0;
}

static int c_alloc(struct blk_ex *x, int argc, char **argv)
{
    uint64_t off, len = 512, sum = 0, at, end;
    char a[40];

    if (!blk_ex_number(x, argv[1], &off) || (argc > 2 && !blk_ex_number(x, argv[2], &len)))
        return -EINVAL;
    end = off + len; /* both up to INT64_MAX */
    for (at = off; at < end && at < x->n->size;) {
        struct blk_extent e;
        int ret = blk_node_status(x->n, at, end - at, &e);

        if (ret < 0) {
            SAY(x, "is_allocated failed: %s\n", strerror(-ret));
            return ret;
        }
        sum += e.flags & BLK_ST_ALLOC ? e.len : 0;
        at += e.len;
    }
    SAY(x, "%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, at > off ? at - off : 0,
        human(off, a, sizeof a));
    return 0;
}

static void map_line(struct blk_ex *x, uint64_t start, uint64_t end, bool is)
{
    char a[40], b[40];

    SAY(x, "%s (0x%" PRIx64 ") bytes %sallocated at offset %s (0x%" PRIx64 ")\n", human(end - start, a, sizeof a),
        end - start, is ? "    " : "not ", human(start, b, sizeof b), start);
}

static int c_map(struct blk_ex *x, int argc, char **argv)
{
    uint64_t off = 0, start = 0;
    bool was = false;

    while (off < x->n->size) {
        struct blk_extent e;
        int ret = blk_node_status(x->n, off, x->n->size - off, &e);
        bool is;

        if (ret < 0) {
            SAY(x, "Failed to get allocation status: %s\n", strerror(-ret));
            return ret;
        }
        is = e.flags & BLK_ST_ALLOC;
        if (off && is != was) {
            map_line(x, start, off, was);
            start = off;
        }
        was = is;
        off += e.len;
    }
    if (off)
        map_line(x, start, off, was);
    return 0;
}

static int c_sleep(struct blk_ex *x, int argc, char **argv)
{
    uint64_t ms;

    if (!blk_ex_number(x, argv[1], &ms) || ms > INT64_MAX / NS_PER_MS)
        return -EINVAL;
    blk_sleep(x->set, (int64_t)ms * NS_PER_MS);
    return 0;
}

static int c_help(struct blk_ex *x, int argc, char **argv);

static const struct blk_ex_cmd cmds[] = {
    {"aio_flush", NULL, c_aio_flush, 0, 0, true, false, "", "completes all outstanding aio requests"},
    {"aio_read", NULL, c_aio_read, 2, -1, true, false, "[-Ciqv] [-P pattern] off len [len..]",
     "asynchronously reads a number of bytes"},
    {"aio_write", NULL, c_aio_write, 2, -1, true, false, "[-Cfiquz] [-P pattern] off len [len..]",
     "asynchronously writes a number of bytes"},
    {"alloc", NULL, c_alloc, 1, 2, true, false, "offset [count]", "checks if offset is allocated in the file"},
    {"discard", "d", c_discard, 2, -1, true, false, "[-Cq] off len",
     "discards a number of bytes at a specified offset"},
    {"flush", "f", c_flush, 0, 0, true, false, "", "flush all in-core file state to disk"},
    {"help", "?", c_help, 0, 1, false, false, "[command]", "help for one or all commands"},
    {"info", NULL, c_info, 0, 0, true, false, "", "prints information about the current file"},
    {"length", "l", c_length, 0, 0, true, false, "", "gets the length of the current file"},
    {"map", NULL, c_map, 0, 0, true, false, "", "prints the allocated areas of a file"},
    {"read", "r", c_read, 2, -1, true, false, "[-abCqv] [-P pattern [-s off] [-l len]] off len",
     "reads a number of bytes at a specified offset"},
    {"readv", "rv", c_readv, 2, -1, true, false, "[-Cqv] [-P pattern] off len [len..]",
     "reads a number of bytes at a specified offset"},
    {"sleep", NULL, c_sleep, 1, 1, false, false, "ms", "waits for the given value in milliseconds"},
    {"truncate", "t", c_truncate, 1, 3, true, true, "[-m prealloc_mode] off",
     "truncates the current file at the given offset"},
    {"write", "w", c_write, 2, -1, true, false, "[-bcCfnquz] [-P pattern | -s source_file] off len",
     "writes a number of bytes at a specified offset"},
    {"writev", "wv", c_writev, 2, -1, true, false, "[-Cfq] [-P pattern] off len [len..]",
     "writes a number of bytes at a specified offset"},
};

/* The engine's table and the owner's, merged by name. */
const struct blk_ex_cmd *blk_ex_command(const struct blk_ex *x, size_t i)
{
    const struct blk_ex_cmd *c = NULL;
    size_t a = 0, b = 0;

    do {
        if (a < ARRAY_LEN(cmds) && (b == x->nr_own || strcmp(cmds[a].name, x->own[b].name) < 0))
            c = &cmds[a++];
        else if (b < x->nr_own)
            c = &x->own[b++];
        else
            return NULL;
    } while (i--);
    return c;
}

static const struct blk_ex_cmd *find(const struct blk_ex *x, const char *name)
{
    const struct blk_ex_cmd *c;
    size_t i = 0;

    while ((c = blk_ex_command(x, i++)))
        if (!strcmp(name, c->name) || (c->alias && !strcmp(name, c->alias)))
            break;
    return c;
}

static int c_help(struct blk_ex *x, int argc, char **argv)
{
    const struct blk_ex_cmd *c;

    if (argc > 1) {
        c = find(x, argv[1]);
        if (c)
            usage(x, c);
        else
            SAY(x, "command %s not found\n", argv[1]);
        return c ? 0 : -EINVAL;
    }
    for (size_t i = 0; (c = blk_ex_command(x, i)); i++)
        usage(x, c);
    SAY(x, "\nUse 'help commandname' for one command.\n");
    return 0;
}

/* ---- one line ---- */

struct line {
    struct blk_ex *x;
    const struct blk_ex_cmd *c;
    int argc, ret;
    char *argv[BLK_EX_WORDS + 1];
};

static void line_run(void *opaque)
{
    struct line *l = opaque;

    l->ret = l->c->fn(l->x, l->argc, l->argv);
    if (l->x->b)
        blk_ex_wait(l->x);
}

static bool count_ok(struct blk_ex *x, const struct blk_ex_cmd *c, int n)
{
    if (n >= c->min && (c->max < 0 || n <= c->max))
        return true;
    if (c->max < 0)
        blk_ex_say(x, true, "bad argument count %d to %s, expected at least %d arguments\n", n, c->name, c->min);
    else if (c->min == c->max)
        blk_ex_say(x, true, "bad argument count %d to %s, expected %d arguments\n", n, c->name, c->min);
    else
        blk_ex_say(x, true, "bad argument count %d to %s, expected between %d and %d arguments\n", n, c->name, c->min,
                   c->max);
    return false;
}

static bool image_ok(struct blk_ex *x, const struct blk_ex_cmd *c)
{
    if (!c->need_image || x->n)
        return true;
    if (x->b)
        SAY(x, "%s failed: %s\n", c->name, strerror(ENOMEDIUM));
    else
        blk_ex_say(x, true, "no file open, try 'help open'\n");
    return false;
}

/* The command is known and has its number of words. The node stays while it runs, whatever happens to the graph. */
static void line_start(struct line *l)
{
    struct blk_ex *x = l->x;
    struct blk_node *n = x->b ? x->n : NULL;

    if (n)
        blk_node_ref(n);
    x->cmd = l->c;
    if (l->c->outside_fibres)
        line_run(l);
    else
        blk_run(x->set, line_run, l);
    if (n)
        blk_node_unref(n);
}

int blk_ex_line(struct blk_ex *x, const char *text)
{
    char *copy AUTOFREE = xstrdup(text), *save = NULL;
    struct line l = {.x = x, .ret = -EINVAL};

    for (char *w = strtok_r(copy, " \t\n", &save); w && l.argc < BLK_EX_WORDS; w = strtok_r(NULL, " \t\n", &save))
        l.argv[l.argc++] = w;
    if (!l.argc)
        return 0;
    if (x->b)
        x->n = x->b->root ? x->b->root->node : NULL;
    l.c = find(x, l.argv[0]);
    if (!l.c)
        blk_ex_say(x, true, "command \"%s\" not found\n", l.argv[0]);
    else if (image_ok(x, l.c) && count_ok(x, l.c, l.argc - 1))
        line_start(&l);
    return l.ret;
}
