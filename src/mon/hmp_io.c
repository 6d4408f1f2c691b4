/* HMP qemu-io: one command of the disk exerciser on a drive, a node, or (-d) what a device has.
 *
 * It knows read, write, discard, flush, length and help, with the options and reports of the program of that name;
 * the program's other commands are refused by name. A drive is used through its own handle, as its device does; a node
 * is claimed while the command runs. */
#include "mon/mon_int.h"
#include <ctype.h>
#include <errno.h>
#include <time.h>

enum { MAX_WORDS = 16 };

struct io {
    struct mon *m;
    struct blk *b;
    bool compact, fua, quiet, unmap; /* -C -f -q -u */
    bool verbose, zero;              /* -v -z */
    int pattern;                     /* -P; -1 = none */
    uint64_t off, len;
    unsigned nr; /* words that are no options */
    char *word[MAX_WORDS];
};

struct io_cmd {
    const char *name, *alias;
    void (*fn)(struct io *io);
    unsigned words;
    const char *flags, *args, *what;
};

struct wait {
    int ret;
};

static void done(void *opaque, int ret)
{
    ((struct wait *)opaque)->ret = ret;
}

static int64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
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

/* What came of it, how long it took. */
static void report(struct io *io, const char *op, int64_t ns)
{
    double sec = (double)(ns > 0 ? ns : 1) / 1e9;
    char a[40], b[40];

    if (io->quiet)
        return;
    if (io->compact) {
        mon_printf(io->m, "%" PRIu64 ",1,%0.4f,%0.0f,%0.4f\n", io->len, sec, (double)io->len / sec, 1 / sec);
        return;
    }
    mon_printf(io->m, "%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", op, io->len, io->len, io->off);
    mon_printf(io->m, "%s, 1 ops; %05.2f sec (%s/sec and %.4f ops/sec)\n", human(io->len, a, sizeof a), sec,
               human((uint64_t)((double)io->len / sec), b, sizeof b), 1 / sec);
}

static void dump(struct io *io, const uint8_t *buf)
{
    for (uint64_t i = 0; i < io->len; i += 16) {
        uint64_t end = min_u64(i + 16, io->len);

        mon_printf(io->m, "%08" PRIx64 ":  ", io->off + i);
        for (uint64_t k = i; k < i + 16; k++)
            if (k < end)
                mon_printf(io->m, "%02x ", buf[k]);
            else
                mon_puts(io->m, "   ");
        mon_puts(io->m, " ");
        for (uint64_t k = i; k < end; k++)
            mon_printf(io->m, "%c", buf[k] < 128 && isprint(buf[k]) ? buf[k] : '.');
        mon_puts(io->m, "\n");
    }
}

/* Offset and length from the words. */
static bool range(struct io *io)
{
    uint64_t *const to[2] = {&io->off, &io->len};

    for (unsigned i = 0; i < 2; i++)
        if (!str_to_size(io->word[1 + i], 'b', to[i]) || *to[i] > INT64_MAX) {
            mon_printf(io->m, "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n",
                       io->word[1 + i]);
            return false;
        }
    if (io->len <= INT32_MAX)
        return true;
    mon_printf(io->m, "length cannot exceed %d, given %s\n", INT32_MAX, io->word[2]);
    return false;
}

static uint8_t *buffer(struct io *io, int fill)
{
    uint8_t *buf = try_alloc_aligned(4096, max_u64(io->len, 4096));

    if (buf)
        memset(buf, fill, io->len);
    else
        mon_printf(io->m, "Error: no memory for %" PRIu64 " bytes\n", io->len);
    return buf;
}

static void failed(struct io *io, const char *op, int ret)
{
    mon_printf(io->m, "%s failed: %s\n", op, strerror(-ret));
}

static void io_read(struct io *io)
{
    int64_t t = now();
    uint8_t *buf = range(io) ? buffer(io, 0xab) : NULL;
    uint64_t i = 0;
    int ret;

    if (!buf)
        return;
    ret = blk_read(io->b, io->off, buf, io->len);
    t = now() - t;
    if (ret < 0) {
        failed(io, "read", ret);
        free(buf);
        return;
    }
    while (io->pattern >= 0 && i < io->len && buf[i] == io->pattern)
        i++;
    if (io->pattern >= 0 && i < io->len)
        mon_printf(io->m, "Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n", io->off, io->len);
    if (io->verbose && !io->quiet)
        dump(io, buf);
    report(io, "read", t);
    free(buf);
}

static void io_write(struct io *io)
{
    unsigned flags = (io->fua ? BLK_FUA : 0) | (io->unmap ? BLK_MAY_UNMAP : 0);
    int64_t t = now();
    struct wait w = {0};
    struct iovec v;
    uint8_t *buf;
    struct iov q;

    if (io->zero && io->pattern >= 0) {
        mon_puts(io->m, "Only one of -z, -P, and -s can be specified at the same time\n");
        return;
    }
    if (io->unmap && !io->zero) {
        mon_puts(io->m, "-u requires -z to be specified\n");
        return;
    }
    buf = range(io) ? buffer(io, io->pattern >= 0 ? io->pattern : 0xcd) : NULL;
    if (!buf)
        return;
    v = (struct iovec){buf, io->len};
    iov_init_ext(&q, &v, 1);
    if (io->zero)
        blk_aio_zero(io->b, io->off, io->len, flags, done, &w);
    else
        blk_aio_write(io->b, io->off, &q, flags, done, &w);
    blk_drain(io->b);
    if (w.ret < 0)
        failed(io, "write", w.ret);
    else
        report(io, "wrote", now() - t);
    free(buf);
}

static void io_discard(struct io *io)
{
    int64_t t = now();
    struct wait w = {0};

    if (!range(io))
        return;
    blk_aio_discard(io->b, io->off, io->len, done, &w);
    blk_drain(io->b);
    if (w.ret < 0)
        failed(io, "discard", w.ret);
    else
        report(io, "discard", now() - t);
}

static void io_flush(struct io *io)
{
    int ret = blk_flush(io->b);

    if (ret < 0)
        failed(io, "flush", ret);
}

static void io_length(struct io *io)
{
    char a[40];

    if (blk_has_medium(io->b))
        mon_printf(io->m, "%s\n", human(blk_size(io->b), a, sizeof a));
    else
        mon_printf(io->m, "getlength: %s\n", strerror(ENOMEDIUM));
}

static void io_help(struct io *io);

static const struct io_cmd cmds[] = {
    {"discard", "d", io_discard, 2, "Cq", "[-Cq] off len", "discards a number of bytes at a specified offset"},
    {"flush", "f", io_flush, 0, "", "", "writes what is kept back to the disk"},
    {"help", "?", io_help, 0, "", "", "lists the commands"},
    {"length", "l", io_length, 0, "", "", "tells the size"},
    {"read", "r", io_read, 2, "CqvP", "[-Cqv] [-P pattern] off len", "reads a number of bytes at a specified offset"},
    {"write", "w", io_write, 2, "CfquzP", "[-Cfquz] [-P pattern] off len",
     "writes a number of bytes at a specified offset"},
};

static void io_help(struct io *io)
{
    for (size_t i = 0; i < ARRAY_LEN(cmds); i++)
        mon_printf(io->m, "%s%s%s -- %s\n", cmds[i].name, *cmds[i].args ? " " : "", cmds[i].args, cmds[i].what);
}

static bool pattern(struct io *io, const char *text)
{
    uint64_t v;

    if (text && str_to_u64(text, &v) && v <= 255) {
        io->pattern = (int)v;
        return true;
    }
    mon_printf(io->m, "%s is not a valid pattern byte\n", text ? text : "");
    return false;
}

/* One word of switches; *save: where the words go on. */
static bool switches(struct io *io, const struct io_cmd *c, const char *w, char **save)
{
    for (const char *p = w + 1; *p; p++) {
        if (!strchr(c->flags, *p)) {
            mon_printf(io->m, "%s: invalid option -- '%c'\n%s %s -- %s\n", c->name, *p, c->name, c->args, c->what);
            return false;
        }
        if (*p == 'P')
            return pattern(io, p[1] ? p + 1 : strtok_r(NULL, " \t\n", save));
        io->compact |= *p == 'C';
        io->fua |= *p == 'f';
        io->quiet |= *p == 'q';
        io->unmap |= *p == 'u';
        io->verbose |= *p == 'v';
        io->zero |= *p == 'z';
    }
    return true;
}

static void run_line(struct io *io, const char *line)
{
    char *copy AUTOFREE = xstrdup(line), *save = NULL, *w = strtok_r(copy, " \t\n", &save);
    const struct io_cmd *c = NULL;

    if (!w)
        return;
    for (size_t i = 0; i < ARRAY_LEN(cmds); i++)
        if (!strcmp(w, cmds[i].name) || !strcmp(w, cmds[i].alias))
            c = &cmds[i];
    if (!c) {
        mon_printf(io->m, "command \"%s\" not found\n", w);
        return;
    }
    for (; w && io->nr < MAX_WORDS; w = strtok_r(NULL, " \t\n", &save))
        if (*w != '-' || !w[1])
            io->word[io->nr++] = w;
        else if (!switches(io, c, w, &save))
            return;
    if (io->nr - 1 != c->words)
        mon_printf(io->m, "bad argument count %u to %s, expected %u arguments\n", io->nr - 1, c->name, c->words);
    else
        c->fn(io);
}

void hmp_qemu_io(struct mon *m, struct hmp_args *a);
void hmp_qemu_io(struct mon *m, struct hmp_args *a)
{
    struct blk_set *s = m->set->cfg.blks;
    bool by_dev = !strcmp(a->v[0], "-d");
    struct io io = {.m = m, .pattern = -1};
    struct obj *holder = NULL;
    struct err *e = NULL;

    if (a->n != 2u + by_dev) {
        mon_puts(m, "usage: qemu-io [-d] device \"command\"\n");
        return;
    }
    io.b = by_dev ? mon_blk_of_dev(m->set, a->v[1]) : blk_find(s, a->v[0]);
    if (!io.b && by_dev) {
        mon_printf(m, "Error: Device '%s' not found, or it has no drive\n", a->v[1]);
        return;
    }
    if (!io.b) {
        holder = mon_machine(m)->root;
        io.b = blk_attach(s, a->v[0], holder, &e);
    }
    if (!io.b) {
        mon_error(m, e);
        return;
    }
    run_line(&io, a->v[1 + by_dev]);
    if (holder)
        blk_detach(io.b, holder);
}
