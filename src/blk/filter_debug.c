/* Filters for testing. blkdebug: errors on request (inject-error.N.*) and tighter limits (align, max-transfer).
 * blkverify: every request goes to two images, and reads must agree. blklogwrites: what is written is also recorded, in
 * the format of the kernel's dm-log-writes (Documentation/device-mapper/log-writes). Left out: blkdebug's rules by
 * internal event names and its configuration file; only rules by kind of request exist. */
#include "base/bytes.h"
#include "blk/fmt_util.h"
#include <errno.h>
#include <stdio.h>

static const char *const no_keys[] = {NULL};

static void adopt(struct blk_node *n)
{
    n->size = n->file->node->size;
    n->request_align = n->file->node->request_align;
}

/* ---- blkdebug ---- */

enum { MAX_RULES = 32 };
enum io { IO_READ = 1, IO_WRITE = 2, IO_ZERO = 4, IO_DISCARD = 8, IO_FLUSH = 16, IO_STATUS = 32 };
static const char *const io_names[] = {"read", "write", "write-zeroes", "discard", "flush", "block-status"};

struct rule {
    unsigned io; /* kinds of request */
    int err;
    bool once, spent, has_sector;
    uint64_t sector;
};
struct blkdebug {
    struct rule rule[MAX_RULES];
    unsigned nr;
};

static bool take_io(struct opts *r, struct rule *x, struct err **errp)
{
    const char *v = opts_get(r, "iotype");

    x->io = IO_READ | IO_WRITE | IO_ZERO | IO_DISCARD | IO_FLUSH;
    if (!v)
        return true;
    for (unsigned i = 0; i < ARRAY_LEN(io_names); i++)
        if (!strcmp(v, io_names[i])) {
            x->io = 1u << i;
            return true;
        }
    return err_set(errp, "Invalid parameter '%s'", v);
}

static bool take_rule(struct opts *r, struct rule *x, struct err **errp)
{
    const char *ev = opts_get(r, "event");
    uint64_t err = EIO;
    bool now;

    if (ev && strcmp(ev, "none") != 0 && strcmp(ev, "read_aio") && strcmp(ev, "write_aio") &&
        strcmp(ev, "flush_to_disk"))
        return err_set(errp,
                       "blkdebug: event '%s' is not available: use none with iotype, read_aio, write_aio or "
                       "flush_to_disk",
                       ev);
    if (!take_io(r, x, errp) || !opts_u64(r, "errno", &err, errp) || !opts_bool(r, "once", &x->once, errp) ||
        !opts_bool(r, "immediately", &now, errp)) /* they always fail at once */
        return false;
    if (ev && !strcmp(ev, "read_aio"))
        x->io = IO_READ;
    else if (ev && !strcmp(ev, "write_aio"))
        x->io = IO_WRITE;
    else if (ev && !strcmp(ev, "flush_to_disk"))
        x->io = IO_FLUSH;
    if (!err || err > 4095)
        return err_set(errp, "blkdebug: errno %" PRIu64 " is out of range", err);
    x->err = (int)err;
    x->has_sector = opts_peek(r, "sector");
    return opts_u64(r, "sector", &x->sector, errp) && opts_done(r, "blkdebug rule", no_keys, errp);
}

static bool blkdebug_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct blkdebug *s = n->priv;
    uint64_t align = 0, max = 0;

    adopt(n);
    if (!opts_size(o, "align", &align, errp) || !opts_size(o, "max-transfer", &max, errp))
        return false;
    if (align && (!is_pow2(align) || align > 1 << 20))
        return err_set(errp, "Cannot meet constraints with align %" PRIu64, align);
    if (align)
        n->request_align = (uint32_t)align;
    if (max > INT32_MAX || (max && align && max % align))
        return err_set(errp, "Cannot meet constraints with max-transfer %" PRIu64, max);
    n->max_transfer = (uint32_t)max;
    for (unsigned i = 0; i < MAX_RULES; i++) {
        char key[32];
        struct opts *r;
        bool any, ok;

        snprintf(key, sizeof key, "inject-error.%u", i);
        r = opts_sub(o, key);
        any = !list_empty(&r->all);
        ok = !any || take_rule(r, &s->rule[s->nr++], errp);
        opts_free(r);
        if (!ok)
            return false;
        if (!any)
            break;
    }
    return true;
}

static int injected(struct blk_node *n, unsigned io, uint64_t off, uint64_t len)
{
    struct blkdebug *s = n->priv;

    for (unsigned i = 0; i < s->nr; i++) {
        struct rule *r = &s->rule[i];

        if (r->spent || !(r->io & io) || (r->has_sector && (r->sector * 512 < off || r->sector * 512 >= off + len)))
            continue;
        r->spent = r->once;
        return -r->err;
    }
    return 0;
}

static int blkdebug_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                           unsigned flags)
{
    int r = injected(n, IO_READ, off, len);

    return r < 0 ? r : blk_preadv(n->file, off, len, q, qoff, flags);
}
static int blkdebug_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                            unsigned flags)
{
    int r = injected(n, IO_WRITE, off, len);

    return r < 0 ? r : blk_pwritev(n->file, off, len, q, qoff, flags);
}
static int blkdebug_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int r = injected(n, IO_ZERO, off, len);

    return r < 0 ? r : blk_pwrite_zeroes(n->file, off, len, flags);
}
static int blkdebug_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    int r = injected(n, IO_DISCARD, off, len);

    return r < 0 ? r : blk_pdiscard(n->file, off, len);
}
static int blkdebug_flush(struct blk_node *n)
{
    return injected(n, IO_FLUSH, 0, UINT64_MAX);
}

static const struct blk_driver drv_blkdebug = {.name = "blkdebug",
                                               .file_role = "image",
                                               .kind = BLK_FILTER,
                                               .priv_size = sizeof(struct blkdebug),
                                               .open = blkdebug_open,
                                               .preadv = blkdebug_preadv,
                                               .pwritev = blkdebug_pwritev,
                                               .pwrite_zeroes = blkdebug_zeroes,
                                               .discard = blkdebug_discard,
                                               .flush = blkdebug_flush,
                                               .getlength = blk_pass_length,
                                               .truncate = blk_pass_truncate};
BLK_REGISTER(drv_blkdebug)

/* ---- blkverify: "raw" or "file" is the reference, "test" the image under test ---- */

struct blkverify {
    struct blk_child *test;
};

static bool blkverify_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct blkverify *s = n->priv;

    adopt(n);
    s->test = blk_child_open(n, NULL, o, "test", n->open_flags & ~(unsigned)BLK_O_PROTOCOL, false, errp);
    if (!s->test)
        return false;
    n->request_align = (uint32_t)max_u64(n->request_align, s->test->node->request_align);
    n->size = min_u64(n->size, s->test->node->size);
    return true;
}

static int blkverify_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                            unsigned flags)
{
    struct blkverify *s = n->priv;
    uint8_t *a AUTOFREE = try_alloc_aligned(4096, 2 * len);
    int r = a ? blk_pread(n->file, off, a, len) : -ENOMEM, t = a ? blk_pread(s->test, off, a + len, len) : r;

    if (r != t) {
        warn_report("blkverify: reading %" PRIu64 " bytes at %" PRIu64 ": one image answers %d, the other %d", len, off,
                    r, t);
        return -EILSEQ;
    }
    if (r >= 0 && memcmp(a, a + len, len) != 0) {
        uint64_t i = 0;

        while (a[i] == a[len + i])
            i++;
        warn_report("blkverify: contents mismatch at offset %" PRIu64, off + i);
        return -EILSEQ;
    }
    if (r >= 0)
        iov_from_buf(q, qoff, a, len);
    return r;
}
static int blkverify_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                             unsigned flags)
{
    struct blkverify *s = n->priv;
    int r = blk_pwritev(n->file, off, len, q, qoff, flags), t = blk_pwritev(s->test, off, len, q, qoff, flags);

    if (r != t)
        warn_report("blkverify: writing %" PRIu64 " bytes at %" PRIu64 ": one image answers %d, the other %d", len, off,
                    r, t);
    return r != t ? -EILSEQ : r;
}

static const struct blk_driver drv_blkverify = {.name = "blkverify",
                                                .file_role = "raw",
                                                .kind = BLK_FILTER,
                                                .priv_size = sizeof(struct blkverify),
                                                .open = blkverify_open,
                                                .preadv = blkverify_preadv,
                                                .pwritev = blkverify_pwritev};
BLK_REGISTER(drv_blkverify)

/* ---- blklogwrites: child "log" ---- */

#define LOG_MAGIC UINT64_C(0x6a736677736872)
enum { LOG_FLUSH = 1, LOG_FUA = 2, LOG_DISCARD = 4, LOG_VERSION = 1 };

struct blklog {
    struct blk_child *log;
    uint64_t sector_size, at, entries; /* at: in sectors */
    struct fibre_mutex lock;
};

static int write_super(struct blk_node *n)
{
    struct blklog *s = n->priv;
    uint8_t *b AUTOFREE = xcalloc(1, s->sector_size);

    put_le64(b, LOG_MAGIC);
    put_le64(b + 8, LOG_VERSION);
    put_le64(b + 16, s->entries);
    put_le32(b + 24, (uint32_t)s->sector_size);
    return blk_pwrite(s->log, 0, b, s->sector_size);
}

static bool blklog_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct blklog *s = n->priv;
    bool append = false;

    adopt(n);
    fibre_mutex_init(&s->lock);
    s->sector_size = 512;
    s->at = 1;
    if (!opts_size(o, "log-sector-size", &s->sector_size, errp) || !opts_bool(o, "log-append", &append, errp))
        return false;
    if (!is_pow2(s->sector_size) || s->sector_size < 512 || s->sector_size > 8 << 20)
        return err_set(errp, "Invalid log sector size %" PRIu64, s->sector_size);
    s->log = blk_child_open(n, NULL, o, "log", (n->open_flags & ~(unsigned)BLK_O_PROTOCOL) | BLK_O_RDWR, false, errp);
    if (!s->log)
        return false;
    if (append)
        return err_set(errp, "log-append=on is not available: every run begins a new log");
    n->request_align = (uint32_t)max_u64(n->request_align, s->sector_size);
    return true;
}

/* One entry and its data; lock held. */
static int record(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags, const struct iov *q, uint64_t qoff)
{
    struct blklog *s = n->priv;
    uint8_t *b AUTOFREE = xcalloc(1, s->sector_size);
    int r;

    put_le64(b, off / s->sector_size);
    put_le64(b + 8, len / s->sector_size);
    put_le64(b + 16, flags);
    r = blk_pwrite(s->log, s->at * s->sector_size, b, s->sector_size);
    s->at++;
    if (r >= 0 && q) {
        r = blk_pwritev(s->log, s->at * s->sector_size, len, q, qoff, 0);
        s->at += len / s->sector_size;
    }
    s->entries++;
    return r >= 0 ? write_super(n) : r;
}

static int note(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags, const struct iov *q, uint64_t qoff)
{
    struct blklog *s = n->priv;
    int r;

    fibre_mutex_lock(&s->lock);
    r = record(n, off, len, flags, q, qoff);
    fibre_mutex_unlock(&s->lock);
    return r;
}

static int blklog_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                          unsigned flags)
{
    int r = blk_pwritev(n->file, off, len, q, qoff, flags);

    return r < 0 ? r : note(n, off, len, 0, q, qoff);
}
static int blklog_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    int r = blk_pdiscard(n->file, off, len);

    return r < 0 ? r : note(n, off, len, LOG_DISCARD, NULL, 0);
}
static int blklog_flush(struct blk_node *n)
{
    int r = blk_pflush(n->file);

    return r < 0 ? r : note(n, 0, 0, LOG_FLUSH, NULL, 0);
}

/* The log is written whatever happens above. */
static void blklog_perm(struct blk_node *n, const struct blk_child *c, unsigned perm, unsigned shared, unsigned *cp,
                        unsigned *cs)
{
    bool log = c != n->file;

    *cp = log ? BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE : perm;
    *cs = log ? BLK_PERM_READ : shared;
}

static const struct blk_driver drv_blklogwrites = {.name = "blklogwrites",
                                                   .kind = BLK_FILTER,
                                                   .priv_size = sizeof(struct blklog),
                                                   .open = blklog_open,
                                                   .child_perm = blklog_perm,
                                                   .preadv = blk_pass_preadv,
                                                   .pwritev = blklog_pwritev,
                                                   .discard = blklog_discard,
                                                   .flush = blklog_flush,
                                                   .getlength = blk_pass_length,
                                                   .truncate = blk_pass_truncate};
BLK_REGISTER(drv_blklogwrites)
