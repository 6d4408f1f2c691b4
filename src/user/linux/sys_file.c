/* File calls that need more than the host's: open flags and /proc, stat layouts, fcntl, epoll. */
#include "user/linux/sys_file.h"
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_EVENTS = 4096 };

/* ---- open ---- */

static const struct {
    int host;
    size_t at;
} flag_map[] = {{O_DIRECT, offsetof(struct lx_arch, o_direct)},
                {O_DIRECTORY, offsetof(struct lx_arch, o_directory)},
                {O_NOFOLLOW, offsetof(struct lx_arch, o_nofollow)},
                {0100000, offsetof(struct lx_arch, o_largefile)}};

static uint32_t guest_flag(unsigned i)
{
    uint32_t v;

    memcpy(&v, (const char *)lx_proc.arch + flag_map[i].at, sizeof v);
    return v;
}

uint64_t lx_open_flags_in(uint64_t guest)
{
    uint64_t out = guest;

    if (!lx_proc.arch->o_direct)
        return guest;
    for (unsigned i = 0; i < ARRAY_LEN(flag_map); i++)
        out &= ~(uint64_t)guest_flag(i);
    for (unsigned i = 0; i < ARRAY_LEN(flag_map); i++)
        if (guest & guest_flag(i))
            out |= (uint64_t)flag_map[i].host;
    return out;
}

uint64_t lx_open_flags_out(uint64_t host)
{
    uint64_t out = host;

    if (!lx_proc.arch->o_direct)
        return host;
    for (unsigned i = 0; i < ARRAY_LEN(flag_map); i++)
        out &= ~(uint64_t)flag_map[i].host;
    for (unsigned i = 0; i < ARRAY_LEN(flag_map); i++)
        if (host & (uint64_t)flag_map[i].host)
            out |= guest_flag(i);
    return out;
}

static int64_t open_at(struct lx_thread *t, int dirfd, uint64_t path_at, uint64_t flags, uint64_t mode)
{
    char buf[PATH_MAX], *path;
    const char *name;
    bool ours = false;
    int e = 0;
    int64_t r;

    path = lx_get_str(path_at, PATH_MAX, &e);
    if (!path)
        return -e;
    flags = lx_open_flags_in(flags);
    name = lx_proc_name(dirfd, path, buf);
    r = str_is_proc(name) ? lx_proc_open(name, (int)flags, &ours) : 0;
    if (!ours) {
        uint64_t a[6] = {(uint64_t)(int64_t)dirfd, (uintptr_t)(flags & O_CREAT ? path : lx_path(path, buf)), flags,
                         mode};

        r = lx_safe_syscall(t, SYS_openat, a);
    } else if (r >= 0 && !(flags & O_CLOEXEC)) {
        fcntl((int)r, F_SETFD, 0);
    }
    free(path);
    return r;
}

int64_t lx_sys_open(struct lx_thread *t, const uint64_t *a)
{
    return open_at(t, AT_FDCWD, a[0], a[1], a[2]);
}

int64_t lx_sys_openat(struct lx_thread *t, const uint64_t *a)
{
    return open_at(t, (int)a[0], a[1], (uint32_t)a[2], a[3]);
}

int64_t lx_sys_openat2(struct lx_thread *t, const uint64_t *a)
{
    uint8_t how[64] = {0};
    uint64_t arg[6];

    if (a[3] < 24)
        return -EINVAL;
    if (a[3] > sizeof how)
        return -E2BIG;
    if (!lx_get(how, a[2], a[3]))
        return -EFAULT;
    put_le64(how, lx_open_flags_in(get_le64(how)));
    memcpy(arg, a, sizeof arg);
    arg[2] = (uintptr_t)how;
    return lx_safe_syscall(t, SYS_openat2, arg);
}

static int64_t read_link(struct lx_thread *t, int dirfd, const uint64_t *a)
{
    char buf[PATH_MAX], out[PATH_MAX], *path;
    int e = 0;
    int64_t r;

    path = lx_get_str(a[0], PATH_MAX, &e);
    if (!path)
        return -e;
    if ((int64_t)(int32_t)a[2] <= 0) {
        r = -EINVAL;
    } else {
        r = lx_proc_readlink(lx_proc_name(dirfd, path, buf), out, min_u64(a[2], sizeof out));
        if (r < 0) {
            r = readlinkat(dirfd, lx_path(path, buf), out, min_u64((uint32_t)a[2], sizeof out));
            r = r < 0 ? -errno : r;
        }
    }
    free(path);
    return r > 0 && !lx_put(a[1], out, (size_t)r) ? -EFAULT : r;
}

int64_t lx_sys_readlink(struct lx_thread *t, const uint64_t *a)
{
    return read_link(t, AT_FDCWD, a);
}

int64_t lx_sys_readlinkat(struct lx_thread *t, const uint64_t *a)
{
    return read_link(t, (int)a[0], a + 1);
}

/* ---- stat ---- */

const struct lx_field lx_stat_32[] = {{LX_ST_DEV, 0, 4},
                                      {LX_ST_INO, 4, 4},
                                      {LX_ST_MODE, 8, 2},
                                      {LX_ST_NLINK, 10, 2},
                                      {LX_ST_UID, 12, 2},
                                      {LX_ST_GID, 14, 2},
                                      {LX_ST_RDEV, 16, 4},
                                      {LX_ST_SIZE, 20, 4},
                                      {LX_ST_BLKSIZE, 24, 4},
                                      {LX_ST_BLOCKS, 28, 4},
                                      {LX_ST_ATIME, 32, 4},
                                      {LX_ST_ATIME_NS, 36, 4},
                                      {LX_ST_MTIME, 40, 4},
                                      {LX_ST_MTIME_NS, 44, 4},
                                      {LX_ST_CTIME, 48, 4},
                                      {LX_ST_CTIME_NS, 52, 4},
                                      {0, 64, 0}};
const struct lx_field lx_stat_generic64[] = {{LX_ST_DEV, 0, 8},
                                             {LX_ST_INO, 8, 8},
                                             {LX_ST_MODE, 16, 4},
                                             {LX_ST_NLINK, 20, 4},
                                             {LX_ST_UID, 24, 4},
                                             {LX_ST_GID, 28, 4},
                                             {LX_ST_RDEV, 32, 8},
                                             {LX_ST_SIZE, 48, 8},
                                             {LX_ST_BLKSIZE, 56, 4},
                                             {LX_ST_BLOCKS, 64, 8},
                                             {LX_ST_ATIME, 72, 8},
                                             {LX_ST_ATIME_NS, 80, 8},
                                             {LX_ST_MTIME, 88, 8},
                                             {LX_ST_MTIME_NS, 96, 8},
                                             {LX_ST_CTIME, 104, 8},
                                             {LX_ST_CTIME_NS, 112, 8},
                                             {0, 128, 0}};

int64_t lx_put_stat(uint64_t at, const struct stat *st, const struct lx_field *f)
{
    const uint64_t v[LX_ST_NR] = {[LX_ST_DEV] = st->st_dev,
                                  [LX_ST_INO] = st->st_ino,
                                  [LX_ST_MODE] = st->st_mode,
                                  [LX_ST_NLINK] = st->st_nlink,
                                  [LX_ST_UID] = st->st_uid,
                                  [LX_ST_GID] = st->st_gid,
                                  [LX_ST_RDEV] = st->st_rdev,
                                  [LX_ST_SIZE] = (uint64_t)st->st_size,
                                  [LX_ST_BLKSIZE] = (uint64_t)st->st_blksize,
                                  [LX_ST_BLOCKS] = (uint64_t)st->st_blocks,
                                  [LX_ST_ATIME] = (uint64_t)st->st_atim.tv_sec,
                                  [LX_ST_ATIME_NS] = (uint64_t)st->st_atim.tv_nsec,
                                  [LX_ST_MTIME] = (uint64_t)st->st_mtim.tv_sec,
                                  [LX_ST_MTIME_NS] = (uint64_t)st->st_mtim.tv_nsec,
                                  [LX_ST_CTIME] = (uint64_t)st->st_ctim.tv_sec,
                                  [LX_ST_CTIME_NS] = (uint64_t)st->st_ctim.tv_nsec,
                                  [LX_ST_INO32] = (uint32_t)st->st_ino};
    uint8_t out[256] = {0};

    for (; f->size; f++)
        put_le(out + f->at, v[f->field], f->size);
    return lx_put(at, out, f->at) ? 0 : -EFAULT;
}

static int64_t stat_at(int dirfd, uint64_t path_at, uint64_t to, int flags, const struct lx_field *layout)
{
    char buf[PATH_MAX], exe[PATH_MAX], *path = NULL;
    struct stat st;
    int64_t n;
    int e = 0, r;

    path = path_at ? lx_get_str(path_at, PATH_MAX, &e) : xstrdup("");
    if (!path)
        return -e;
    n = flags & AT_SYMLINK_NOFOLLOW ? -1 : lx_proc_readlink(lx_proc_name(dirfd, path, buf), exe, sizeof exe - 1);
    if (n >= 0) {
        exe[n] = 0;
        r = stat(exe, &st);
    } else {
        r = fstatat(dirfd, lx_path(path, buf), &st, flags);
    }
    e = errno;
    free(path);
    return r < 0 ? -e : lx_put_stat(to, &st, layout);
}

int64_t lx_sys_statx(struct lx_thread *t, const uint64_t *a)
{
    char buf[PATH_MAX], exe[PATH_MAX], *path;
    int e = 0;
    int64_t n, r;

    if (!a[1])
        return lx_safe_syscall(t, SYS_statx, a);
    path = lx_get_str(a[1], PATH_MAX, &e);
    if (!path)
        return -e;
    n = a[2] & AT_SYMLINK_NOFOLLOW ? -1 : lx_proc_readlink(lx_proc_name((int)a[0], path, buf), exe, sizeof exe - 1);
    if (n >= 0)
        exe[n] = 0;
    r = lx_safe_syscall(t, SYS_statx,
                        (const uint64_t[6]){a[0], (uintptr_t)(n >= 0 ? exe : lx_path(path, buf)), a[2], a[3], a[4]});
    free(path);
    return r;
}

int64_t lx_sys_stat(struct lx_thread *t, const uint64_t *a)
{
    return stat_at(AT_FDCWD, a[0], a[1], 0, lx_proc.arch->stat);
}

int64_t lx_sys_lstat(struct lx_thread *t, const uint64_t *a)
{
    return stat_at(AT_FDCWD, a[0], a[1], AT_SYMLINK_NOFOLLOW, lx_proc.arch->stat);
}

static int64_t stat_fd(int fd, uint64_t to, const struct lx_field *layout)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? -errno : lx_put_stat(to, &st, layout);
}

int64_t lx_sys_fstat(struct lx_thread *t, const uint64_t *a)
{
    return stat_fd((int)a[0], a[1], lx_proc.arch->stat);
}

int64_t lx_sys_newfstatat(struct lx_thread *t, const uint64_t *a)
{
    return stat_at((int)a[0], a[1], a[2], (int)a[3], lx_proc.arch->stat);
}

int64_t lx_sys32_stat64(struct lx_thread *t, const uint64_t *a)
{
    return stat_at(AT_FDCWD, a[0], a[1], 0, lx_proc.arch->stat64);
}

int64_t lx_sys32_lstat64(struct lx_thread *t, const uint64_t *a)
{
    return stat_at(AT_FDCWD, a[0], a[1], AT_SYMLINK_NOFOLLOW, lx_proc.arch->stat64);
}

int64_t lx_sys32_fstat64(struct lx_thread *t, const uint64_t *a)
{
    return stat_fd((int)a[0], a[1], lx_proc.arch->stat64);
}

int64_t lx_sys32_fstatat64(struct lx_thread *t, const uint64_t *a)
{
    return stat_at((int)a[0], a[1], a[2], (int)a[3], lx_proc.arch->stat64);
}

/* ---- fcntl ---- */

int64_t lx_sys_fcntl(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6];
    int64_t r;

    memcpy(arg, a, sizeof arg);
    if ((int)a[1] == F_SETFL)
        arg[2] = lx_open_flags_in(a[2]);
    r = lx_safe_syscall(t, SYS_fcntl, arg);
    return (int)a[1] == F_GETFL && r >= 0 ? (int64_t)lx_open_flags_out((uint64_t)r) : r;
}

/* ---- epoll: the host's event is 12 bytes, most guests' is 16 ---- */

static unsigned event_size(void)
{
    return lx_proc.arch->packed_epoll ? 12 : 16;
}

int64_t lx_sys_epoll_ctl(struct lx_thread *t, const uint64_t *a)
{
    unsigned n = event_size();
    struct epoll_event ev = {0};
    uint8_t b[16];

    if (a[3]) {
        if (!lx_get(b, a[3], n))
            return -EFAULT;
        ev.events = get_le32(b);
        ev.data.u64 = get_le64(b + n - 8);
    } else if ((int)a[1] != EPOLL_CTL_DEL) {
        return -EFAULT;
    }
    return epoll_ctl((int)a[0], (int)a[1], (int)a[2], &ev) < 0 ? -errno : 0;
}

static int64_t wait_events(struct lx_thread *t, const uint64_t *a, long nr)
{
    int max = (int)a[2];
    unsigned n = event_size();
    struct epoll_event *ev;
    uint64_t arg[6];
    int64_t r;

    if (max <= 0)
        return -EINVAL;
    if (max > MAX_EVENTS)
        max = MAX_EVENTS;
    if (n == 12)
        return lx_safe_syscall(t, nr, a);
    ev = xcalloc((size_t)max, sizeof *ev);
    memcpy(arg, a, sizeof arg);
    arg[1] = (uintptr_t)ev;
    arg[2] = (uint64_t)max;
    r = lx_safe_syscall(t, nr, arg);
    for (int64_t i = 0; i < r; i++) {
        uint8_t b[16] = {0};

        put_le32(b, ev[i].events);
        put_le64(b + 8, ev[i].data.u64);
        if (!lx_put(a[1] + (uint64_t)i * 16, b, 16)) {
            r = -EFAULT;
            break;
        }
    }
    free(ev);
    return r;
}

int64_t lx_sys_epoll_wait(struct lx_thread *t, const uint64_t *a)
{
    return wait_events(t, a, SYS_epoll_wait);
}

int64_t lx_sys_epoll_pwait(struct lx_thread *t, const uint64_t *a)
{
    return wait_events(t, a, SYS_epoll_pwait);
}

int64_t lx_sys_epoll_pwait2(struct lx_thread *t, const uint64_t *a)
{
    return wait_events(t, a, SYS_epoll_pwait2);
}
