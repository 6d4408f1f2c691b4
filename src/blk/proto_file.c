/* Host files and devices: file, host_device, host_cdrom.
 *
 * Reads of up to INLINE_MAX bytes are tried at once without waiting (preadv2 with RWF_NOWAIT): what the page cache
 * holds needs no thread. Everything else goes to a worker thread, or to the kernel's queue with aio=native and
 * aio=io_uring. Outside fibres (start-up) calls are made directly. A short read at the end of the file gives zeros.
 *
 * Left out: persistent reservations. */
#include "blk/aio.h"
#include "blk/blk_int.h"
#include "blk/host.h"
#include "blk/lock.h"
#include "blk/node.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    INLINE_MAX = 256 << 10,
    TOOL_INLINE_MAX = 1 << 20,
    WRITE_HERE_MAX = 64 << 10,
    BLOCKS_FIRST_MIN = 256 << 10,
    SLICE = 64,
    PAGE = 4096
};

struct file {
    int fd;
    bool is_dev, no_nowait, no_punch, no_zero_range, no_falloc, no_cachestat;
    bool use_locks;
    bool blocks_first; /* a large write is given its blocks before its data */
    enum blk_engine engine;
    struct blk_lock lock;
    char *path;                   /* owned */
    struct blk_lane writes;       /* through the page cache: the kernel lets one in at a time, the others would spin */
    uint64_t data_from, data_end; /* where file_status last found data: to scan for the next hole may take long */
};

static const char *const file_known[] = {
    "filename",       "aio",       "locking",       "pr-manager",     "drop-cache",
    "driver",         "node-name", "read-only",     "auto-read-only", "cache.direct",
    "cache.no-flush", "discard",   "detect-zeroes", "force-share",    NULL};
static const char *const aio_names[] = {"threads", "native", "io_uring", NULL};

/* ---- opening ---- */

static int open_mode(const struct blk_node *n, bool rw)
{
    return (rw ? O_RDWR : O_RDONLY) | O_CLOEXEC | (n->open_flags & BLK_O_DIRECT ? O_DIRECT : 0);
}

static bool take_aio(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct file *f = n->priv;
    const char *v = opts_get(o, "aio");
    int i;

    if (!v)
        return true;
    for (i = 0; aio_names[i] && strcmp(aio_names[i], v) != 0; i++)
        ;
    if (!aio_names[i])
        return err_set(errp, "Invalid parameter '%s': aio is one of threads, native, io_uring", v);
    if (i == BLK_ENGINE_NATIVE && !(n->open_flags & BLK_O_DIRECT))
        return err_set(errp, "aio=native was specified, but it requires cache.direct=on, which was not specified.");
    if (i != BLK_ENGINE_THREADS && !n->set->aio[i])
        n->set->aio[i] = blk_aio_new(n->set, (enum blk_engine)i, errp);
    f->engine = (enum blk_engine)i;
    return i == BLK_ENGINE_THREADS || n->set->aio[i];
}

static bool take_locking(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct file *f = n->priv;
    const char *v = opts_get(o, "locking");

    if (v && strcmp(v, "on") && strcmp(v, "off") && strcmp(v, "auto"))
        return err_set(errp, "Invalid parameter '%s': locking is one of on, off, auto", v);
    f->use_locks = !v || strcmp(v, "off") != 0;
    return true;
}

static bool check_kind(struct blk_node *n, const struct stat *st, struct err **errp)
{
    struct file *f = n->priv;
    bool dev = S_ISBLK(st->st_mode) || S_ISCHR(st->st_mode);

    f->is_dev = S_ISBLK(st->st_mode);
    if (S_ISDIR(st->st_mode))
        return err_set_errno(errp, EISDIR, "Could not open '%s'", f->path);
    if (n->drv->name[0] == 'f' && dev)
        return err_set(errp, "'file' driver requires '%s' to be a regular file", f->path);
    if (n->drv->name[0] == 'h' && !dev)
        return err_set(errp, "'%s' driver requires '%s' to be either a character or block device", n->drv->name,
                       f->path);
    return true;
}

static uint64_t file_getlength(struct blk_node *n)
{
    struct file *f = n->priv;
    struct stat st;
    uint64_t bytes;
    off_t end;

    if (f->is_dev && !ioctl(f->fd, BLKGETSIZE64, &bytes))
        return bytes;
    if (!fstat(f->fd, &st) && S_ISREG(st.st_mode))
        return (uint64_t)st.st_size;
    end = lseek(f->fd, 0, SEEK_END);
    return end < 0 ? 0 : (uint64_t)end;
}

static void find_alignment(struct blk_node *n)
{
    struct file *f = n->priv;
    int sector = 0;

    n->request_align = 1;
    n->mem_align = 1;
    if (!(n->open_flags & BLK_O_DIRECT))
        return;
    n->request_align = 512;
    n->mem_align = 4096;
    if (f->is_dev && !ioctl(f->fd, BLKSSZGET, &sector) && sector > 512 && is_pow2((unsigned)sector))
        n->request_align = (unsigned)sector;
#ifdef STATX_DIOALIGN
    {
        struct statx sx;

        if (!statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && sx.stx_mask & STATX_DIOALIGN &&
            sx.stx_dio_offset_align && is_pow2(sx.stx_dio_offset_align)) {
            n->request_align = sx.stx_dio_offset_align;
            n->mem_align = max_u64(sx.stx_dio_mem_align, 512);
            return;
        }
    }
#endif
    if (!f->is_dev) { /* ask the file system: the smallest block it reads directly */
        uint8_t *buf AUTOFREE = try_alloc_aligned(4096, 4096);

        if (buf && pread(f->fd, buf, 512, 0) < 0 && errno == EINVAL)
            n->request_align = 4096;
    }
}

static int open_path(struct blk_node *n, const char *path, struct err **errp)
{
    bool rw = n->open_flags & BLK_O_RDWR;
    int fd = blk_host_open(n->set, path, open_mode(n, rw), 0);

    if (rw && n->open_flags & BLK_O_AUTO_RO && (fd == -EACCES || fd == -EROFS || fd == -EPERM)) {
        fd = blk_host_open(n->set, path, open_mode(n, false), 0);
        if (fd >= 0)
            n->open_flags &= ~(unsigned)BLK_O_RDWR;
    }
    if (fd < 0) {
        int e = -fd;

        err_set_errno(errp, e, "Could not open '%s'", path);
        if (e == EINVAL && n->open_flags & BLK_O_DIRECT)
            err_hint(errp, "The file system may not support direct I/O; try without cache=none.");
    }
    return fd;
}

/* ext4 reserves space block by block while data come into the page cache, and pays a third of a large write's time for
 * it; blocks given to the whole range at once cost next to nothing. Other file systems do as well, or better, without.
 * Tools only: a machine's disk keeps the holes that its guest makes. */
static bool wants_blocks_first(const struct blk_node *n, int fd)
{
    struct statfs fs;

    return !n->set->machine && !(n->open_flags & BLK_O_DIRECT) && !fstatfs(fd, &fs) && fs.f_type == EXT4_SUPER_MAGIC;
}

static bool file_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct file *f = n->priv;
    const char *path = opts_get(o, "filename");
    bool drop = true;
    struct stat st;

    f->fd = -1;
    if (!path)
        return err_set(errp, "The '%s' block driver requires a file name", n->drv->name);
    if (opts_get(o, "pr-manager"))
        return err_set(errp, "persistent reservations (pr-manager) are not available");
    if (!opts_bool(o, "drop-cache", &drop, errp)) /* of an incoming migration, which drops what it finds cached */
        return false;
    if (str_starts(path, "file:"))
        path += 5;
    f->path = xstrdup(path);
    if (!take_aio(n, o, errp) || !take_locking(n, o, errp) || (f->fd = open_path(n, path, errp)) < 0)
        goto fail;
    if (fstat(f->fd, &st) < 0) {
        err_set_errno(errp, errno, "Could not stat '%s'", path);
        goto fail;
    }
    if (!check_kind(n, &st, errp))
        goto fail;
    if (f->use_locks && !blk_lock_supported(f->fd))
        f->use_locks = false;
    n->size = file_getlength(n);
    n->growable = !f->is_dev && n->open_flags & BLK_O_RDWR;
    f->blocks_first = n->growable && wants_blocks_first(n, f->fd);
    find_alignment(n);
    free(n->filename);
    n->filename = xstrdup(path);
    return true;
fail:
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    return false;
}

static void file_close(struct blk_node *n)
{
    struct file *f = n->priv;

    close(f->fd);
    free(f->path);
}

static bool file_set_perm(struct blk_node *n, unsigned perm, unsigned shared, struct err **errp)
{
    struct file *f = n->priv;

    return !f->use_locks || blk_lock_apply(n->set, &f->lock, f->fd, perm, shared, f->path, errp);
}

/* A new description of the same file with the other access mode; the locks move over to it. */
static bool file_reopen(struct blk_node *n, bool rw, struct err **errp)
{
    struct file *f = n->priv;
    struct blk_lock fresh = {0};
    unsigned held = f->lock.taken, un = f->lock.unshared;
    int fd;

    if (f->engine == BLK_ENGINE_NATIVE && !(n->open_flags & BLK_O_DIRECT))
        return err_set(errp, "aio=native was specified, but it requires cache.direct=on, which was not specified.");
    fd = blk_host_reopen(n->set, f->fd, open_mode(n, rw));

    if (fd < 0)
        return err_set_errno(errp, -fd, "Could not reopen '%s' %s", f->path, rw ? "for writing" : "read-only");
    if (f->use_locks) {
        struct blk_lock old = f->lock;

        blk_lock_apply(n->set, &old, f->fd, 0, BLK_PERM_ALL, f->path, NULL);
        if (!blk_lock_apply(n->set, &fresh, fd, held, ~un, f->path, errp)) {
            blk_lock_apply(n->set, &old, f->fd, held, ~un, f->path, NULL);
            close(fd);
            return false;
        }
        f->lock = fresh;
    }
    close(f->fd);
    f->fd = fd;
    n->growable = !f->is_dev && rw;
    find_alignment(n);
    return true;
}

/* ---- transfers ---- */

struct xfer {
    struct file *f;
    uint64_t off, len;
    struct iovec *v;
    unsigned nr;
    bool write;
};

/* The segments of [qoff, qoff+len) into v[]; their number, or 0 when more than max are needed. */
static unsigned slice(const struct iov *q, uint64_t qoff, uint64_t len, struct iovec *v, unsigned max)
{
    unsigned nr = 0;

    for (unsigned i = 0; i < q->nr && len; i++) {
        uint64_t seg = q->v[i].iov_len, part;

        if (qoff >= seg) {
            qoff -= seg;
            continue;
        }
        part = min_u64(seg - qoff, len);
        if (nr == max)
            return 0;
        v[nr++] = (struct iovec){(char *)q->v[i].iov_base + qoff, part};
        len -= part;
        qoff = 0;
    }
    return nr;
}

static void advance(struct xfer *x, uint64_t done)
{
    x->off += done;
    x->len -= done;
    while (x->nr && done >= x->v->iov_len) {
        done -= x->v->iov_len;
        x->v++;
        x->nr--;
    }
    if (done) {
        x->v->iov_base = (char *)x->v->iov_base + done;
        x->v->iov_len -= done;
    }
}

static void zero_rest(const struct xfer *x)
{
    for (unsigned i = 0; i < x->nr; i++)
        memset(x->v[i].iov_base, 0, x->v[i].iov_len);
}

static int xfer_run(void *opaque)
{
    struct xfer *x = opaque;

    if (x->write && x->f->blocks_first && x->len >= BLOCKS_FIRST_MIN) /* where it fails the write says why */
        (void)fallocate(x->f->fd, FALLOC_FL_KEEP_SIZE, (off_t)x->off, (off_t)x->len);
    while (x->len) {
        unsigned nr = x->nr < IOV_MAX ? x->nr : IOV_MAX;
        ssize_t n =
            x->write ? pwritev(x->f->fd, x->v, (int)nr, (off_t)x->off) : preadv(x->f->fd, x->v, (int)nr, (off_t)x->off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (!n) {
            if (x->write)
                return -ENOSPC;
            zero_rest(x);
            return 0;
        }
        advance(x, (uint64_t)n);
    }
    return 0;
}

/* True when the page cache had it all. */
static bool read_cached(struct xfer *x, uint64_t max)
{
    ssize_t n;

    if (x->f->no_nowait || x->len > max || x->nr > IOV_MAX)
        return false;
    n = preadv2(x->f->fd, x->v, (int)x->nr, (off_t)x->off, RWF_NOWAIT);
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
        x->f->no_nowait = true;
    if (n <= 0)
        return false;
    advance(x, (uint64_t)n);
    return !x->len;
}

/* Through the kernel's queue; what it leaves over (short transfer, full queue) goes to a thread. */
static int rw_queue(struct blk_node *n, struct xfer *x)
{
    struct blk_aio *a = x->nr <= IOV_MAX ? blk_aio_here(n->set, x->f->engine) : NULL;
    int64_t done = a ? blk_aio_rw(a, x->f->fd, x->v, x->nr, x->off, x->write) : -EAGAIN;

    if (done > 0)
        advance(x, (uint64_t)done);
    if (done < 0 && done != -EAGAIN && done != -EINTR)
        return (int)done;
    return x->len ? blk_offload(n->set, xfer_run, x) : 0;
}

/* A small write into the page cache costs less than handing it to a worker. It may still wait for the disk when too
 * much is dirty, so only loops that serve nothing but disks do it themselves: those of tools and of I/O threads. */
static bool write_here(const struct blk_node *n, uint64_t len, bool write)
{
    return write && len <= WRITE_HERE_MAX && !(n->open_flags & BLK_O_DIRECT) && (!n->set->machine || iothread_self());
}

static struct blk_lane *one_writer(const struct blk_node *n, bool write)
{
    struct file *f = n->priv;

    return write && !f->is_dev && !(n->open_flags & BLK_O_DIRECT) ? &f->writes : NULL;
}

static int file_rw(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, bool write)
{
    struct iovec small[SLICE], *v = small, *big = NULL;
    struct xfer x = {.f = n->priv, .off = off, .len = len, .write = write};
    int r;

    x.nr = slice(q, qoff, len, small, SLICE);
    if (!x.nr) {
        v = big = try_alloc(q->nr, sizeof *v);
        if (!v)
            return -ENOMEM;
        x.nr = slice(q, qoff, len, v, q->nr);
    }
    x.v = v;
    if (!write && !(n->open_flags & BLK_O_DIRECT) && fibre_self() &&
        read_cached(&x, n->set->machine ? INLINE_MAX : TOOL_INLINE_MAX))
        r = 0;
    else if (write_here(n, len, write))
        r = xfer_run(&x);
    else if (x.f->engine != BLK_ENGINE_THREADS && fibre_self())
        r = rw_queue(n, &x);
    else
        r = blk_offload_lane(n->set, one_writer(n, write), xfer_run, &x);
    free(big);
    return r;
}

static int file_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    return file_rw(n, off, len, q, qoff, false);
}

static int file_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    return file_rw(n, off, len, q, qoff, true);
}

/* ---- zeroes, discard, flush ---- */

struct ctl {
    struct blk_node *n;
    uint64_t off, len;
    unsigned flags;
};

static int do_falloc(struct file *f, int mode, uint64_t off, uint64_t len)
{
    int r;

    do
        r = fallocate(f->fd, mode, (off_t)off, (off_t)len);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return errno == EOPNOTSUPP || errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == ENODEV ? -ENOTSUP
                                                                                                              : -errno;
    return 0;
}

static int punch(struct file *f, uint64_t off, uint64_t len)
{
    int r = f->no_punch ? -ENOTSUP : do_falloc(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);

    if (r == -ENOTSUP && !f->is_dev)
        f->no_punch = true;
    return r;
}

static int zero_run(void *opaque)
{
    struct ctl *c = opaque;
    struct file *f = c->n->priv;
    uint64_t range[2] = {c->off, c->len}, end = c->off + c->len;
    int r = -ENOTSUP;

    if (f->is_dev) {
        if (c->flags & BLK_MAY_UNMAP && !punch(f, c->off, c->len))
            return 0;
        return ioctl(f->fd, BLKZEROOUT, range) < 0 ? (errno == ENOTTY || errno == EINVAL ? -ENOTSUP : -errno) : 0;
    }
    if (c->off >= c->n->size) /* past the end: a longer file reads as zeros there */
        return ftruncate(f->fd, (off_t)end) < 0 ? -errno : 0;
    if (c->flags & BLK_MAY_UNMAP)
        r = punch(f, c->off, min_u64(c->len, c->n->size - c->off));
    if (r == -ENOTSUP && !f->no_zero_range) {
        r = do_falloc(f, FALLOC_FL_ZERO_RANGE, c->off, c->len);
        if (r == -ENOTSUP)
            f->no_zero_range = true;
        return r;
    }
    if (r >= 0 && end > c->n->size)
        r = ftruncate(f->fd, (off_t)end) < 0 ? -errno : 0;
    return r;
}

/* Holes are made or bytes cut off: what is known of data is forgotten when that begins and, as somebody may have asked
 * meanwhile, when it has ended. */
static int making_holes(struct blk_node *n, int (*fn)(void *), void *opaque)
{
    struct file *f = n->priv;
    int r;

    f->data_end = 0;
    r = blk_offload(n->set, fn, opaque);
    f->data_end = 0;
    return r;
}

static int file_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct ctl c = {n, off, len, flags};

    return making_holes(n, zero_run, &c);
}

struct copy {
    struct file *dst, *src;
    uint64_t off, soff, len;
};

static int copy_run(void *opaque)
{
    struct copy *c = opaque;
    off_t from = (off_t)c->soff, to = (off_t)c->off;

    while (c->len) {
        ssize_t n = copy_file_range(c->src->fd, &from, c->dst->fd, &to, c->len, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == ENOSPC || errno == EIO ? -errno : -ENOTSUP;
        if (!n)
            return -ENOTSUP; /* the source ends here: the slow way knows what that means */
        c->len -= (uint64_t)n;
    }
    return 0;
}

static int file_copy_from(struct blk_node *n, uint64_t off, struct blk_node *src, uint64_t soff, uint64_t len)
{
    struct copy c = {n->priv, src->priv, off, soff, len};

    return src->drv->copy_from == file_copy_from ? blk_offload(n->set, copy_run, &c) : -ENOTSUP;
}

/* linux/mman.h; the headers of older systems lack both. */
struct cachestat_range {
    uint64_t off, len;
};
struct cachestat {
    uint64_t nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted;
};
enum { NR_CACHESTAT = 451 }; /* on every architecture */

static int file_cached_fd(struct blk_node *n, uint64_t off, uint64_t len, uint64_t *at)
{
    struct file *f = n->priv;
    struct cachestat_range range = {off, len};
    struct cachestat is;
    uint64_t pages = (off + len - 1) / PAGE - off / PAGE + 1;

    if (f->no_cachestat || !len || n->open_flags & BLK_O_DIRECT)
        return -1;
    if (syscall(NR_CACHESTAT, f->fd, &range, &is, 0) < 0) {
        f->no_cachestat = true; /* an older kernel, or a file system that has no page cache */
        return -1;
    }
    *at = off;
    return is.nr_cache >= pages ? f->fd : -1;
}

static int discard_run(void *opaque)
{
    struct ctl *c = opaque;
    struct file *f = c->n->priv;
    uint64_t range[2] = {c->off, c->len};

    if (f->is_dev)
        return ioctl(f->fd, BLKDISCARD, range) < 0 ? (errno == EOPNOTSUPP || errno == ENOTTY ? -ENOTSUP : -errno) : 0;
    return punch(f, c->off, c->len);
}

static int file_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct ctl c = {n, off, len, 0};

    return making_holes(n, discard_run, &c);
}

static int flush_run(void *opaque)
{
    struct file *f = opaque;

    return fdatasync(f->fd) < 0 && errno != EINVAL && errno != EROFS ? -errno : 0;
}

static int file_flush(struct blk_node *n)
{
    return n->open_flags & BLK_O_NO_FLUSH ? 0 : blk_offload(n->set, flush_run, n->priv);
}

static int file_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    struct file *f = n->priv;
    off_t data, hole;

    *e =
        (struct blk_extent){.flags = BLK_ST_DATA | BLK_ST_OFFSET | BLK_ST_ALLOC, .len = len, .map = off, .map_node = n};
    if (f->is_dev)
        return 0;
    if (off >= f->data_from && off < f->data_end) {
        e->len = min_u64(len, f->data_end - off);
        return 0;
    }
    data = lseek(f->fd, (off_t)off, SEEK_DATA);
    if (data < 0 && errno != ENXIO)
        return 0; /* no answer: all data */
    if (data < 0 || data >= (off_t)(off + len)) {
        e->flags = BLK_ST_ZERO | BLK_ST_OFFSET | BLK_ST_ALLOC;
        return 0;
    }
    if (data > (off_t)off) {
        e->flags = BLK_ST_ZERO | BLK_ST_OFFSET | BLK_ST_ALLOC;
        e->len = (uint64_t)data - off;
        return 0;
    }
    hole = lseek(f->fd, data, SEEK_HOLE);
    if (hole > data) {
        f->data_from = off;
        f->data_end = (uint64_t)hole;
        e->len = min_u64(len, f->data_end - off);
    }
    return 0;
}

static uint64_t file_allocated(struct blk_node *n)
{
    struct file *f = n->priv;
    struct stat st;

    return fstat(f->fd, &st) < 0 ? UINT64_MAX : (uint64_t)st.st_blocks * 512;
}

/* ---- size ---- */

struct grow {
    int fd;
    uint64_t from, to;
    enum blk_prealloc p;
};

static int write_zeros(const struct grow *g)
{
    static const size_t chunk = 1 << 20;
    uint8_t *z AUTOFREE = try_alloc_aligned(4096, chunk);

    if (!z)
        return -ENOMEM;
    memset(z, 0, chunk);
    for (uint64_t at = g->from; at < g->to;) {
        ssize_t n = pwrite(g->fd, z, (size_t)min_u64(chunk, g->to - at), (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        at += (uint64_t)n;
    }
    return fsync(g->fd) < 0 ? -errno : 0;
}

static int grow_run(void *opaque)
{
    struct grow *g = opaque;
    int r = 0;

    if (g->to > g->from && g->p == BLK_PREALLOC_FALLOC) {
        r = -posix_fallocate(g->fd, (off_t)g->from, (off_t)(g->to - g->from));
        if (!r)
            return 0;
    } else if (g->to > g->from && g->p == BLK_PREALLOC_FULL) {
        r = write_zeros(g);
        if (!r)
            return 0;
    } else {
        return ftruncate(g->fd, (off_t)g->to) < 0 ? -errno : 0;
    }
    if (ftruncate(g->fd, (off_t)g->from) < 0) /* give the partial growth back */
        return -errno;
    return r;
}

static int file_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    struct file *f = n->priv;
    struct grow g = {f->fd, file_getlength(n), size, p};
    int r;

    if (f->is_dev) {
        if (size <= g.from)
            return 0;
        err_set(errp, "Cannot grow device files");
        return -EINVAL;
    }
    if (p == BLK_PREALLOC_METADATA) {
        err_set(errp, "Unsupported preallocation mode 'metadata'");
        return -ENOTSUP;
    }
    if (size < g.from && p != BLK_PREALLOC_OFF) {
        err_set(errp, "Preallocation can't be used for shrinking");
        return -ENOTSUP;
    }
    r = making_holes(n, grow_run, &g);
    if (r < 0)
        err_set_errno(errp, -r, p ? "Could not preallocate space for '%s'" : "Failed to resize the file '%s'", f->path);
    return r;
}

static void set_nocow(int fd)
{
    int attr;

    if (!ioctl(fd, FS_IOC_GETFLAGS, &attr)) {
        attr |= FS_NOCOW_FL;
        ioctl(fd, FS_IOC_SETFLAGS, &attr); /* file systems without the flag refuse; that is fine */
    }
}

/* Locks the new file as a writer would, so that nothing in use is overwritten. */
static bool create_locked(struct blk_set *s, int fd, const char *path, const struct grow *g, struct err **errp)
{
    struct blk_lock l = {0};
    struct grow run = *g;
    int r;

    if (blk_lock_supported(fd) &&
        !blk_lock_apply(s, &l, fd, BLK_PERM_WRITE | BLK_PERM_RESIZE,
                        BLK_PERM_ALL & ~(unsigned)(BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE), path, errp))
        return false;
    if (ftruncate(fd, 0) < 0)
        return err_set_errno(errp, errno, "Could not clear '%s'", path);
    run.fd = fd;
    r = grow_run(&run);
    if (r == -EFBIG)
        return err_set(errp, "Could not resize file: File too large");
    return r < 0
               ? err_set_errno(errp, -r, g->p ? "Could not preallocate data for the new file" : "Could not resize file")
               : true;
}

static bool file_create(struct blk_set *s, const char *filename, struct opts *o, struct err **errp)
{
    struct grow g = {.fd = -1};
    bool nocow = false, ok;
    struct stat st;

    if (str_starts(filename, "file:"))
        filename += 5;
    if (!opts_size(o, "size", &g.to, errp) || !opts_bool(o, "nocow", &nocow, errp) ||
        !blk_prealloc_parse(o, &g.p, errp))
        return false;
    if (g.p == BLK_PREALLOC_METADATA)
        return err_set(errp, "Unsupported preallocation mode 'metadata'");
    g.to = align_up(g.to, 512);
    opts_get(o, "extent_size_hint");
    g.fd = blk_host_open(s, filename, O_RDWR | O_CREAT, 0644);
    if (g.fd < 0)
        return err_set_errno(errp, -g.fd, "Could not create '%s'", filename);
    if (!fstat(g.fd, &st) && !S_ISREG(st.st_mode)) {
        close(g.fd);
        return err_set(errp, "Could not create '%s': not a regular file", filename);
    }
    if (nocow)
        set_nocow(g.fd);
    ok = create_locked(s, g.fd, filename, &g, errp);
    close(g.fd);
    return ok;
}

static bool dev_create(struct blk_set *s, const char *filename, struct opts *o, struct err **errp)
{
    uint64_t want = 0, have = 0;
    int fd;

    if (!opts_size(o, "size", &want, errp))
        return false;
    opts_get(o, "preallocation");
    opts_get(o, "nocow");
    opts_get(o, "extent_size_hint");
    fd = blk_host_open(s, filename, O_RDWR, 0);
    if (fd < 0)
        return err_set_errno(errp, -fd, "Could not open '%s'", filename);
    if (ioctl(fd, BLKGETSIZE64, &have) < 0)
        have = 0;
    close(fd);
    return have >= want ||
           err_set(errp, "The device '%s' is smaller (%" PRIu64 ") than the image (%" PRIu64 ")", filename, have, want);
}

#define FILE_CALLS                                                                                                     \
    .kind = BLK_PROTOCOL, .priv_size = sizeof(struct file), .known = file_known, .any_loop = true, .open = file_open,  \
    .close = file_close, .reopen = file_reopen, .set_perm = file_set_perm, .preadv = file_preadv,                      \
    .pwritev = file_pwritev, .pwrite_zeroes = file_zeroes, .discard = file_discard, .copy_from = file_copy_from,       \
    .cached_fd = file_cached_fd, .flush = file_flush, .block_status = file_status, .truncate = file_truncate,          \
    .getlength = file_getlength, .allocated = file_allocated

static const struct blk_create_opt file_create_opts[] = {
    {"extent_size_hint", "size", "Extent size hint for the image file, 0 to disable", NULL},
    {"nocow", "bool (on/off)", "Turn off copy-on-write (valid only on btrfs)", NULL},
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)", NULL},
    {"size", "size", "Virtual disk size", NULL},
    {NULL},
};
static const struct blk_create_opt dev_create_opts[] = {{"size", "size", "Virtual disk size", NULL}, {NULL}};

static const struct blk_driver drv_file = {
    .name = "file", FILE_CALLS, .create = file_create, .create_opts = file_create_opts};
static const struct blk_driver drv_host_device = {
    .name = "host_device", .prefix = "host_device", FILE_CALLS, .create = dev_create, .create_opts = dev_create_opts};
static const struct blk_driver drv_host_cdrom = {.name = "host_cdrom", FILE_CALLS};
BLK_REGISTER(drv_file)
BLK_REGISTER(drv_host_device)
BLK_REGISTER(drv_host_cdrom)
