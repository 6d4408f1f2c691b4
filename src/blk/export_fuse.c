/* FUSE exports: a node's contents as one regular file, put over an existing file, after the kernel's
 * <linux/fuse.h> (protocol 7.31). No library: the requests of a file system with one file are few.
 *
 * The kernel is the peer; other programs reach us only through it. Data goes past the page cache (FOPEN_DIRECT_IO), so
 * what other users of the node write is seen. A user without the right to mount goes through fusermount3 (or
 * fusermount). Requests run in fibres, at most MAX_RUNNING at a time. When somebody unmounts the file the export stays,
 * without one, until it is removed. Left out: changing owner, mode and times (accepted and forgotten where harmless).
 */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/export.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_IO = 1 << 20, BUF_LEN = MAX_IO + 4096, MAX_RUNNING = 64, ARGS_MAX = 256 };

struct fuse {
    struct blk_export e; /* first */
    int fd;              /* owned: /dev/fuse */
    char *path;          /* owned: the mount point */
    bool growable, helper, gone;
    struct ev_fd *watch;
    uint8_t *buf; /* owned: the next request */
    unsigned requests;
    struct timespec born;
};
struct freq {
    struct fuse *f;
    struct fuse_in_header h;
    uint8_t args[ARGS_MAX]; /* what follows the header */
    uint8_t *whole;         /* owned: of FUSE_WRITE, the request as it came */
};

/* ---- answers ---- */

static void answer(struct freq *q, int error, const void *data, size_t len)
{
    struct fuse_out_header h = {
        .len = (uint32_t)(sizeof h + (error ? 0 : len)), .error = -error, .unique = q->h.unique};
    struct iovec v[2] = {{&h, sizeof h}, {(void *)(uintptr_t)data, len}};

    if (writev(q->f->fd, v, error || !len ? 1 : 2) < 0 && errno != ENOENT && errno != ENODEV)
        warn_report("export '%s': the kernel refused an answer: %s", q->f->e.id, strerror(errno));
}

static void fill_attr(const struct fuse *f, struct fuse_attr *a)
{
    struct blk_node *n = f->e.root->node;
    uint64_t used = blk_node_allocated(n);

    *a = (struct fuse_attr){.ino = FUSE_ROOT_ID,
                            .size = n->size,
                            .blocks = (used == UINT64_MAX ? n->size : used) / 512,
                            .atime = (uint64_t)f->born.tv_sec,
                            .mtime = (uint64_t)f->born.tv_sec,
                            .ctime = (uint64_t)f->born.tv_sec,
                            .mode = S_IFREG | S_IRUSR | (f->e.writable ? S_IWUSR : 0),
                            .nlink = 1,
                            .uid = getuid(),
                            .gid = getgid(),
                            .blksize = 4096};
}

static void answer_attr(struct freq *q)
{
    struct fuse_attr_out o = {.attr_valid = 0};

    fill_attr(q->f, &o.attr);
    answer(q, 0, &o, sizeof o);
}

/* ---- requests: 0 when answered, else an error number ---- */

static int do_init(struct freq *q)
{
    const struct fuse_init_in *in = (const void *)q->args;
    struct fuse_init_out o = {.major = FUSE_KERNEL_VERSION,
                              .minor = 31,
                              .max_readahead = MAX_IO,
                              .flags =
                                  in->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_ASYNC_DIO),
                              .max_background = MAX_RUNNING,
                              .congestion_threshold = MAX_RUNNING / 2,
                              .max_write = MAX_IO,
                              .time_gran = 1,
                              .max_pages = MAX_IO / 4096};

    if (in->major != FUSE_KERNEL_VERSION || in->minor < 31)
        return EPROTO;
    answer(q, 0, &o, sizeof o);
    return 0;
}

static int do_open(struct freq *q)
{
    struct fuse_open_out o = {.open_flags = FOPEN_DIRECT_IO};

    answer(q, 0, &o, sizeof o);
    return 0;
}

static int do_read(struct freq *q, struct blk_node *n)
{
    const struct fuse_read_in *in = (const void *)q->args;
    uint64_t len = in->offset < n->size ? min_u64(in->size, n->size - in->offset) : 0;
    uint8_t *buf AUTOFREE = NULL;
    int r;

    if (in->size > MAX_IO)
        return EINVAL;
    buf = len ? try_alloc_aligned(4096, len) : NULL;
    if (len && !buf)
        return ENOMEM;
    r = len ? blk_node_pread(n, in->offset, buf, len) : 0;
    if (r >= 0)
        answer(q, 0, buf, len);
    return r < 0 ? -r : 0;
}

static int grow(struct fuse *f, struct blk_node *n, uint64_t size)
{
    int r;

    if (!f->growable)
        return ENOSPC;
    if (size > INT64_MAX)
        return EFBIG;
    r = blk_node_truncate(n, (size + 511) & ~UINT64_C(511), BLK_PREALLOC_OFF, NULL);
    return r < 0 ? -r : 0;
}

static int do_write(struct freq *q, struct blk_node *n)
{
    const struct fuse_write_in *in = (const void *)q->args;
    struct fuse_write_out o = {0};
    uint64_t len = in->size;
    int r;

    if (!q->f->e.writable)
        return EACCES;
    if (in->offset > INT64_MAX - len || sizeof q->h + sizeof *in + len > q->h.len)
        return EINVAL;
    if (in->offset + len > n->size && q->f->growable && (r = grow(q->f, n, in->offset + len)))
        return r;
    if (in->offset >= n->size && len)
        return ENOSPC;
    len = min_u64(len, n->size - in->offset);
    r = blk_node_pwrite(n, in->offset, q->whole + sizeof q->h + sizeof *in, len);
    if (r >= 0 && q->f->e.writethrough)
        r = blk_node_flush(n);
    if (r < 0)
        return -r;
    o.size = (uint32_t)len;
    answer(q, 0, &o, sizeof o);
    return 0;
}

static int do_setattr(struct freq *q, struct blk_node *n)
{
    const struct fuse_setattr_in *in = (const void *)q->args;
    int r;

    if (in->valid & (FATTR_MODE | FATTR_UID | FATTR_GID))
        return EPERM;
    if (in->valid & FATTR_SIZE && in->size != n->size) {
        if (!q->f->e.writable)
            return EACCES;
        if (in->size % 512 || in->size > INT64_MAX)
            return EINVAL;
        r = blk_node_truncate(n, in->size, BLK_PREALLOC_OFF, NULL);
        if (r < 0)
            return -r;
    }
    answer_attr(q);
    return 0;
}

static int do_fallocate(struct freq *q, struct blk_node *n)
{
    const struct fuse_fallocate_in *in = (const void *)q->args;
    bool punch = in->mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    uint64_t end = in->offset + in->length, upto;
    int r;

    if (!q->f->e.writable)
        return EACCES;
    if (end < in->offset || end > INT64_MAX)
        return EFBIG;
    if (in->mode & ~(uint32_t)(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE) ||
        (in->mode & FALLOC_FL_PUNCH_HOLE && !punch))
        return EOPNOTSUPP;
    if (end > n->size && !(in->mode & FALLOC_FL_KEEP_SIZE) && (r = grow(q->f, n, end)))
        return r;
    upto = min_u64(end, n->size);
    r = 0;
    if ((punch || in->mode & FALLOC_FL_ZERO_RANGE) && in->offset < upto)
        r = blk_node_zeroes(n, in->offset, upto - in->offset, punch ? BLK_MAY_UNMAP : 0);
    if (r >= 0)
        answer(q, 0, NULL, 0);
    return r < 0 ? -r : 0;
}

static int do_lseek(struct freq *q, struct blk_node *n)
{
    const struct fuse_lseek_in *in = (const void *)q->args;
    struct fuse_lseek_out o = {.offset = in->offset};
    bool data = in->whence == SEEK_DATA;

    if (!data && in->whence != SEEK_HOLE)
        return EINVAL;
    if (in->offset >= n->size)
        return ENXIO;
    while (o.offset < n->size) {
        struct blk_extent e;
        int r = blk_node_status_above(n, NULL, o.offset, n->size - o.offset, &e, NULL);

        if (r < 0)
            return -r;
        if (data == (e.flags & BLK_ST_DATA && !(e.flags & BLK_ST_ZERO)))
            break;
        o.offset += e.len;
    }
    if (data && o.offset >= n->size)
        return ENXIO;
    answer(q, 0, &o, sizeof o);
    return 0;
}

static int do_statfs(struct freq *q)
{
    struct fuse_statfs_out o = {.st = {.bsize = 512, .namelen = 255, .frsize = 512}};

    answer(q, 0, &o, sizeof o);
    return 0;
}

static int do_flush(struct freq *q, struct blk_node *n)
{
    int r = q->f->e.writable ? blk_node_flush(n) : 0;

    if (r >= 0)
        answer(q, 0, NULL, 0);
    return r < 0 ? -r : 0;
}

static int perform(struct freq *q, struct blk_node *n)
{
    switch (q->h.opcode) {
    case FUSE_INIT:
        return do_init(q);
    case FUSE_OPEN:
        return do_open(q);
    case FUSE_READ:
        return do_read(q, n);
    case FUSE_WRITE:
        return do_write(q, n);
    case FUSE_SETATTR:
        return do_setattr(q, n);
    case FUSE_FALLOCATE:
        return do_fallocate(q, n);
    case FUSE_LSEEK:
        return do_lseek(q, n);
    case FUSE_STATFS:
        return do_statfs(q);
    case FUSE_FLUSH:
    case FUSE_FSYNC:
        return do_flush(q, n);
    case FUSE_GETATTR:
        answer_attr(q);
        return 0;
    case FUSE_RELEASE:
    case FUSE_DESTROY:
        answer(q, 0, NULL, 0);
        return 0;
    case FUSE_LOOKUP:
        return ENOENT;
    default:
        return ENOSYS;
    }
}

static void on_request(void *opaque, int fd, unsigned events);

static void freq_run(void *opaque)
{
    struct freq *q = opaque;
    struct fuse *f = q->f;
    int e = perform(q, blk_export_enter(&f->e));

    blk_export_leave(&f->e);
    if (e)
        answer(q, e, NULL, 0);
    free(q->whole);
    free(q);
    if (f->requests-- == MAX_RUNNING && f->watch)
        ev_fd_set(f->watch, EV_IN);
}

/* ---- the kernel's side ---- */

static void lost(struct fuse *f)
{
    f->gone = true;
    ev_fd_del(f->watch);
    f->watch = NULL;
    if (f->e.on_end)
        f->e.on_end(f->e.opaque);
}

/* One request off the descriptor; 0, or -errno when there is none. */
static int take(struct fuse *f)
{
    ssize_t n = read(f->fd, f->buf, BUF_LEN);
    struct freq *q;

    if (n < 0)
        return errno == EINTR || errno == ENOENT ? 0 : -errno;
    if (n < (ssize_t)sizeof q->h)
        return -EIO;
    q = xnew(struct freq);
    q->f = f;
    memcpy(&q->h, f->buf, sizeof q->h);
    memcpy(q->args, f->buf + sizeof q->h, min_u64((size_t)n - sizeof q->h, ARGS_MAX));
    q->h.len = (uint32_t)n;
    if (q->h.opcode == FUSE_FORGET || q->h.opcode == FUSE_BATCH_FORGET || q->h.opcode == FUSE_INTERRUPT) {
        free(q);
        return 0;
    }
    if (q->h.opcode == FUSE_WRITE) {
        uint8_t *next = try_alloc_aligned(4096, BUF_LEN);

        if (!next) {
            answer(q, ENOMEM, NULL, 0);
            free(q);
            return 0;
        }
        q->whole = f->buf;
        f->buf = next;
    }
    f->requests++;
    fibre_start(blk_set_loop(f->e.set), freq_run, q);
    return 0;
}

static void on_request(void *opaque, int fd, unsigned events)
{
    struct fuse *f = opaque;
    int r = 0;

    while (!r && f->requests < MAX_RUNNING)
        r = take(f);
    if (r && r != -EAGAIN)
        lost(f);
    else if (f->requests >= MAX_RUNNING)
        ev_fd_set(f->watch, 0);
}

/* ---- mounting ---- */

static bool mount_self(struct fuse *f, bool other)
{
    char o[200];

    f->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0)
        return false;
    snprintf(o, sizeof o, "fd=%d,rootmode=%o,user_id=%u,group_id=%u,default_permissions%s", f->fd, (unsigned)S_IFREG,
             getuid(), getgid(), other ? ",allow_other" : "");
    if (!mount("lyrebird", f->path, "fuse.lyrebird", MS_NOSUID | MS_NODEV | (f->e.writable ? 0 : MS_RDONLY), o))
        return true;
    close(f->fd);
    f->fd = -1;
    return false;
}

static int recv_fd(int sock)
{
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } c;
    char byte;
    struct iovec v = {&byte, 1};
    struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c.room, .msg_controllen = sizeof c.room};
    int fd = -1;

    if (recvmsg(sock, &h, MSG_CMSG_CLOEXEC) > 0 && CMSG_FIRSTHDR(&h) && CMSG_FIRSTHDR(&h)->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof fd);
    return fd;
}

static void helper_child(int sock, const char *const *args)
{
    char num[16];

    fcntl(sock, F_SETFD, 0);
    snprintf(num, sizeof num, "%d", sock);
    setenv("_FUSE_COMMFD", num, 1);
    for (unsigned i = 0; i < 2; i++)
        execvp(i ? "fusermount" : "fusermount3", (char *const *)(uintptr_t)args);
    _exit(127);
}

/* What a user may not do by himself: args after the program's name. The descriptor it sends, or -1. */
static int helper(const char *const *args, int *status)
{
    int p[2], fd;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p) < 0)
        return -1;
    child = fork();
    if (!child)
        helper_child(p[1], args);
    close(p[1]);
    fd = recv_fd(p[0]);
    close(p[0]);
    *status = -1;
    if (child > 0)
        waitpid(child, status, 0);
    return fd;
}

static bool mount_by_helper(struct fuse *f, bool other)
{
    char o[100];
    const char *const args[] = {"fusermount3", "-o", o, "--", f->path, NULL};
    int status;

    snprintf(o, sizeof o, "%s,nosuid,nodev,default_permissions,fsname=lyrebird,subtype=lyrebird%s",
             f->e.writable ? "rw" : "ro", other ? ",allow_other" : "");
    f->fd = helper(args, &status);
    if (f->fd < 0)
        return false;
    fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) | O_NONBLOCK);
    f->helper = true;
    return true;
}

static bool mount_it(struct fuse *f, const char *allow, struct err **errp)
{
    bool must = allow && !strcmp(allow, "on"), may = !allow || strcmp(allow, "off");
    int e;

    if ((may && mount_self(f, true)) || (!must && mount_self(f, false)))
        return true;
    e = errno;
    if (access("/dev/fuse", R_OK | W_OK) < 0)
        return err_set_errno(errp, errno, "FUSE cannot be used: /dev/fuse");
    if ((may && mount_by_helper(f, true)) || (!must && mount_by_helper(f, false)))
        return true;
    err_set_errno(errp, e, "cannot mount a FUSE file on '%s'", f->path);
    err_hint(errp, "Without the right to mount, fusermount3 (package fuse3) must be installed%s.",
             must ? " and /etc/fuse.conf must have user_allow_other" : "");
    return false;
}

/* ---- life ---- */

static bool fuse_start(struct blk_export *e, struct json_object *a, struct err **errp)
{
    struct fuse *f = container_of(e, struct fuse, e);
    const char *at = json_get_str(a, "mountpoint"), *allow = json_get_str(a, "allow-other");
    struct stat st;

    if (!at)
        return err_set(errp, "Parameter 'mountpoint' is missing");
    if (allow && strcmp(allow, "on") && strcmp(allow, "off") && strcmp(allow, "auto"))
        return err_set(errp, "Parameter 'allow-other' does not accept value '%s'", allow);
    if (stat(at, &st) < 0)
        return err_set_errno(errp, errno, "Failed to stat '%s'", at);
    if (!S_ISREG(st.st_mode))
        return err_set(errp, "'%s' is not a regular file", at);
    f->growable = json_get_bool(a, "growable", false);
    if (e->writable &&
        !blk_child_set_perm(e->root, BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE, BLK_PERM_ALL, errp))
        return false;
    f->path = realpath(at, NULL);
    f->buf = try_alloc_aligned(4096, BUF_LEN);
    clock_gettime(CLOCK_REALTIME, &f->born);
    if (!f->path || !f->buf || !mount_it(f, allow, errp)) {
        if (!f->path || !f->buf)
            err_set(errp, "no memory");
        free(f->path);
        free(f->buf);
        return false;
    }
    f->watch = ev_fd_add(blk_set_loop(e->set), f->fd, EV_IN, on_request, f);
    return true;
}

static void fuse_stop(struct blk_export *e)
{
    struct fuse *f = container_of(e, struct fuse, e);
    const char *const args[] = {"fusermount3", "-u", "-z", "--", f->path, NULL};
    int status;

    ev_fd_del(f->watch);
    f->watch = NULL;
    blk_export_settle(e, &f->requests);
    if (!f->gone && f->helper)
        helper(args, &status);
    else if (!f->gone)
        umount2(f->path, MNT_DETACH);
    close(f->fd);
    free(f->path);
    free(f->buf);
}

const struct blk_export_type blk_export_fuse = {
    .name = "fuse", .size = sizeof(struct fuse), .start = fuse_start, .stop = fuse_stop};
