/* File calls of 32-bit guests: offsets in two words, iovecs, statfs, locks, directories, terminals' ioctls. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/guard.h"
#include "user/linux/map.h"
#include "user/linux/sys32.h"
#include "user/linux/sys_file.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { MAX_DENTS = 65536, MAX_IOV = 1024 };

/* 64 bits from argument i on: two words, low first; Arm starts at an even register. */
static uint64_t wide(const uint64_t *a, unsigned i)
{
    if (lx_proc.arch->pair_align)
        i += i & 1;
    return (uint32_t)a[i] | a[i + 1] << 32;
}

int64_t lx_sys32_mmap2(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], a[1], a[2], a[3], a[4], (a[5] & 0xffffffff) << 12};

    return lx_sys_mmap(t, arg);
}

int64_t lx_sys32_mmap(struct lx_thread *t, const uint64_t *a) /* the oldest: one pointer to six words */
{
    uint32_t w[6];
    uint64_t arg[6];

    if (!lx_get(w, a[0], sizeof w))
        return -EFAULT;
    for (unsigned i = 0; i < 6; i++)
        arg[i] = w[i];
    return lx_sys_mmap(t, arg);
}

int64_t lx_sys32__llseek(struct lx_thread *t, const uint64_t *a)
{
    off_t r = lseek((int)a[0], (off_t)((a[1] & 0xffffffff) << 32 | (uint32_t)a[2]), (int)a[4]);

    return r < 0 ? -errno : lx_put(a[3], &r, 8) ? 0 : -EFAULT;
}

int64_t lx_sys32_lseek(struct lx_thread *t, const uint64_t *a)
{
    off_t r = lseek((int)a[0], (int32_t)a[1], (int)a[2]);

    return r < 0 ? -errno : r > INT32_MAX ? -EOVERFLOW : r;
}

#define ONE_WIDE(name, host, at, keep)                                                                                 \
    int64_t lx_sys32_##name(struct lx_thread *t, const uint64_t *a)                                                    \
    {                                                                                                                  \
        uint64_t arg[6] = {a[0], a[1], a[2], a[3]};                                                                    \
                                                                                                                       \
        arg[keep] = wide(a, at);                                                                                       \
        return lx_safe_syscall(t, SYS_##host, arg);                                                                    \
    }
ONE_WIDE(truncate64, truncate, 1, 1)
ONE_WIDE(ftruncate64, ftruncate, 1, 1)
ONE_WIDE(pread64, pread64, 3, 3)
ONE_WIDE(pwrite64, pwrite64, 3, 3)

int64_t lx_sys32_truncate(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], (uint64_t)(int64_t)(int32_t)a[1]};

    return lx_safe_syscall(t, SYS_truncate, arg);
}

int64_t lx_sys32_ftruncate(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], (uint64_t)(int64_t)(int32_t)a[1]};

    return lx_safe_syscall(t, SYS_ftruncate, arg);
}

int64_t lx_sys32_readahead(struct lx_thread *t, const uint64_t *a)
{
    unsigned i = lx_proc.arch->pair_align ? 4 : 3;
    uint64_t arg[6] = {a[0], wide(a, 1), a[i]};

    return lx_safe_syscall(t, SYS_readahead, arg);
}

int64_t lx_sys32_fallocate(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], a[1], wide(a, 2), wide(a, 4)};

    return lx_safe_syscall(t, SYS_fallocate, arg);
}

int64_t lx_sys32_fadvise64(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], wide(a, 1), a[3], a[4]};

    return lx_safe_syscall(t, SYS_fadvise64, arg);
}

int64_t lx_sys32_fadvise64_64(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], wide(a, 1), wide(a, 3), a[5]};

    return lx_safe_syscall(t, SYS_fadvise64, arg);
}

int64_t lx_sys32_arm_fadvise64_64(struct lx_thread *t, const uint64_t *a) /* advice second */
{
    uint64_t arg[6] = {a[0], wide(a, 2), wide(a, 4), a[1]};

    return lx_safe_syscall(t, SYS_fadvise64, arg);
}

int64_t lx_sys32_sync_file_range(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], wide(a, 1), wide(a, 3), a[5]};

    return lx_safe_syscall(t, SYS_sync_file_range, arg);
}

int64_t lx_sys32_sync_file_range2(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], wide(a, 2), wide(a, 4), a[1]};

    return lx_safe_syscall(t, SYS_sync_file_range, arg);
}

int64_t lx_sys32_sendfile(struct lx_thread *t, const uint64_t *a)
{
    int64_t off = 0, r;
    int32_t w;
    uint64_t arg[6] = {a[0], a[1], a[2] ? (uintptr_t)&off : 0, a[3]};

    if (a[2]) {
        if (!lx_get(&w, a[2], 4))
            return -EFAULT;
        off = w;
    }
    r = lx_safe_syscall(t, SYS_sendfile, arg);
    w = (int32_t)off;
    return r >= 0 && a[2] && !lx_put(a[2], &w, 4) ? -EFAULT : r;
}

/* ---- vectors ---- */

struct iovec *lx_get_iov32(uint64_t at, uint64_t n, int *e)
{
    struct iovec *v;

    if (n > MAX_IOV) {
        *e = EINVAL;
        return NULL;
    }
    v = xcalloc(n + 1, sizeof *v);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t w[2];

        if (!lx_get(w, at + 8 * i, 8)) {
            *e = EFAULT;
            free(v);
            return NULL;
        }
        v[i].iov_base = (void *)(uintptr_t)w[0];
        v[i].iov_len = w[1];
    }
    return v;
}

static int64_t vectored(struct lx_thread *t, long nr, const uint64_t *a, uint64_t lo, uint64_t hi, uint64_t flags)
{
    uint64_t arg[6] = {a[0], 0, a[2], lo, hi, flags};
    int e = 0;
    struct iovec *v = lx_get_iov32(a[1], (uint32_t)a[2], &e);
    int64_t r;

    if (!v)
        return -e;
    arg[1] = (uintptr_t)v;
    r = lx_safe_syscall(t, nr, arg);
    free(v);
    return r;
}

#define VECTORED(name, lo, hi, flags)                                                                                  \
    int64_t lx_sys32_##name(struct lx_thread *t, const uint64_t *a)                                                    \
    {                                                                                                                  \
        return vectored(t, SYS_##name, a, lo, hi, flags);                                                              \
    }
VECTORED(readv, 0, 0, 0)
VECTORED(writev, 0, 0, 0)
VECTORED(preadv, (uint32_t)a[3] | a[4] << 32, 0, 0)
VECTORED(pwritev, (uint32_t)a[3] | a[4] << 32, 0, 0)
VECTORED(preadv2, (uint32_t)a[3] | a[4] << 32, 0, a[5])
VECTORED(pwritev2, (uint32_t)a[3] | a[4] << 32, 0, a[5])
VECTORED(vmsplice, a[3], 0, 0)

static int64_t vm_copy(struct lx_thread *t, long nr, const uint64_t *a)
{
    int e = 0;
    struct iovec *l = lx_get_iov32(a[1], (uint32_t)a[2], &e), *r = l ? lx_get_iov32(a[3], (uint32_t)a[4], &e) : NULL;
    uint64_t arg[6] = {a[0], (uintptr_t)l, a[2], (uintptr_t)r, a[4], a[5]};
    int64_t n = r ? lx_safe_syscall(t, nr, arg) : -e;

    free(l);
    free(r);
    return n;
}

int64_t lx_sys32_process_vm_readv(struct lx_thread *t, const uint64_t *a)
{
    return vm_copy(t, SYS_process_vm_readv, a);
}

int64_t lx_sys32_process_vm_writev(struct lx_thread *t, const uint64_t *a)
{
    return vm_copy(t, SYS_process_vm_writev, a);
}

int64_t lx_sys32_process_madvise(struct lx_thread *t, const uint64_t *a)
{
    int e = 0;
    struct iovec *v = lx_get_iov32(a[1], (uint32_t)a[2], &e);
    int64_t r =
        v ? lx_safe_syscall(t, SYS_process_madvise, (const uint64_t[6]){a[0], (uintptr_t)v, a[2], a[3], a[4]}) : -e;

    free(v);
    return r;
}

/* The mask is in two words. */
int64_t lx_sys32_fanotify_mark(struct lx_thread *t, const uint64_t *a)
{
    char *path = NULL;
    int e = 0;
    int64_t r;

    if (a[5] && !(path = lx_get_str(a[5], PATH_MAX, &e)))
        return -e;
    r = lx_safe_syscall(t, SYS_fanotify_mark,
                        (const uint64_t[6]){a[0], a[1], (uint32_t)a[2] | a[3] << 32, (uint64_t)(int64_t)(int32_t)a[4],
                                            (uintptr_t)path});
    free(path);
    return r;
}

/* ---- statfs ---- */

static int64_t put_statfs(uint64_t at, const struct statfs *s, bool wide64)
{
    uint8_t b[88] = {0};
    unsigned w = wide64 ? 8 : 4, p = 8;
    const uint64_t v[5] = {s->f_blocks, s->f_bfree, s->f_bavail, s->f_files, s->f_ffree};

    put_le32(b, (uint32_t)s->f_type);
    put_le32(b + 4, (uint32_t)s->f_bsize);
    for (unsigned i = 0; i < 5; i++, p += w) {
        if (w == 4 && v[i] > UINT32_MAX && v[i] != UINT64_MAX)
            return -EOVERFLOW;
        put_le(b + p, v[i], w);
    }
    memcpy(b + p, &s->f_fsid, 8);
    put_le32(b + p + 8, (uint32_t)s->f_namelen);
    put_le32(b + p + 12, (uint32_t)s->f_frsize);
    put_le32(b + p + 16, (uint32_t)s->f_flags);
    return lx_put(at, b, wide64 ? 84 : 64) ? 0 : -EFAULT;
}

static int64_t statfs_path(uint64_t path_at, uint64_t to, bool wide64)
{
    char buf[PATH_MAX], *path;
    struct statfs s;
    int e = 0, r;

    path = lx_get_str(path_at, PATH_MAX, &e);
    if (!path)
        return -e;
    r = statfs(lx_path(path, buf), &s);
    e = errno;
    free(path);
    return r < 0 ? -e : put_statfs(to, &s, wide64);
}

static int64_t statfs_fd(int fd, uint64_t to, bool wide64)
{
    struct statfs s;

    return fstatfs(fd, &s) < 0 ? -errno : put_statfs(to, &s, wide64);
}

int64_t lx_sys32_statfs(struct lx_thread *t, const uint64_t *a)
{
    return statfs_path(a[0], a[1], false);
}

int64_t lx_sys32_fstatfs(struct lx_thread *t, const uint64_t *a)
{
    return statfs_fd((int)a[0], a[1], false);
}

int64_t lx_sys32_statfs64(struct lx_thread *t, const uint64_t *a)
{
    return statfs_path(a[0], a[2], true);
}

int64_t lx_sys32_fstatfs64(struct lx_thread *t, const uint64_t *a)
{
    return statfs_fd((int)a[0], a[2], true);
}

/* ---- fcntl: struct flock (16 bytes) and flock64 (24; 32 with padding on Arm) ---- */

static int64_t lock_call(struct lx_thread *t, const uint64_t *a, int cmd, bool wide64)
{
    unsigned n = wide64 ? lx_proc.arch->pair_align ? 32 : 24 : 16, w = wide64 ? 8 : 4, p = n == 32 ? 8 : 4;
    struct flock fl = {0};
    uint8_t b[32];
    uint64_t arg[6] = {a[0], (uint64_t)cmd, (uintptr_t)&fl};
    int64_t r;

    if (!lx_get(b, a[2], n))
        return -EFAULT;
    fl.l_type = (short)get_le16(b);
    fl.l_whence = (short)get_le16(b + 2);
    fl.l_start = w == 8 ? (int64_t)get_le64(b + p) : (int32_t)get_le32(b + p);
    fl.l_len = w == 8 ? (int64_t)get_le64(b + p + w) : (int32_t)get_le32(b + p + w);
    fl.l_pid = (int)get_le32(b + p + 2 * w);
    r = lx_safe_syscall(t, SYS_fcntl, arg);
    if (r < 0 || (cmd != F_GETLK && cmd != F_OFD_GETLK))
        return r;
    put_le16(b, (uint16_t)fl.l_type);
    put_le16(b + 2, (uint16_t)fl.l_whence);
    put_le(b + p, (uint64_t)fl.l_start, w);
    put_le(b + p + w, (uint64_t)fl.l_len, w);
    put_le32(b + p + 2 * w, (uint32_t)fl.l_pid);
    return lx_put(a[2], b, n) ? r : -EFAULT;
}

static int64_t fcntl32(struct lx_thread *t, const uint64_t *a)
{
    switch ((int)a[1]) {
    case 5: /* F_GETLK, F_SETLK, F_SETLKW have the same numbers as the host's */
    case 6:
    case 7:
        return lock_call(t, a, (int)a[1], false);
    case 12:
        return lock_call(t, a, F_GETLK, true);
    case 13:
        return lock_call(t, a, F_SETLK, true);
    case 14:
        return lock_call(t, a, F_SETLKW, true);
    case F_OFD_GETLK:
    case F_OFD_SETLK:
    case F_OFD_SETLKW:
        return lock_call(t, a, (int)a[1], true);
    default:
        return lx_sys_fcntl(t, a);
    }
}

int64_t lx_sys32_fcntl64(struct lx_thread *t, const uint64_t *a)
{
    return fcntl32(t, a);
}

int64_t lx_sys32_fcntl(struct lx_thread *t, const uint64_t *a)
{
    return fcntl32(t, a);
}

/* ---- directories: struct linux_dirent with 32-bit words ---- */

int64_t lx_sys32_getdents(struct lx_thread *t, const uint64_t *a)
{
    size_t room = min_u64((uint32_t)a[2], MAX_DENTS), done = 0;
    uint8_t *in, *out;
    int64_t r;

    if (room < 16)
        return -EINVAL;
    in = xmalloc(room);
    out = xcalloc(1, room);
    r = syscall(SYS_getdents64, (int)a[0], in, room * 3 / 4);
    r = r < 0 ? -errno : r;
    for (int64_t p = 0; p < r;) {
        unsigned reclen = get_le16(in + p + 16);
        const char *name = (const char *)in + p + 19;
        size_t n = strlen(name), len = align_up(10 + n + 2, 4);

        if (done + len > room)
            break;
        put_le32(out + done, (uint32_t)get_le64(in + p));
        put_le32(out + done + 4, (uint32_t)get_le64(in + p + 8));
        put_le16(out + done + 8, (uint16_t)len);
        memcpy(out + done + 10, name, n + 1);
        out[done + len - 1] = in[p + 18]; /* type */
        done += len;
        p += reclen;
    }
    if (r > 0)
        r = lx_put(a[1], out, done) ? (int64_t)done : -EFAULT;
    free(in);
    free(out);
    return r;
}

/* Directory offsets must fit the guest's 32-bit off_t: only a 32-bit call (INT 80h) makes file systems give such. The
 * guest's buffer is below 4 GiB. */
struct compat {
    uint32_t nr, a, b, c;
    int64_t r;
};

static void compat_call(void *arg)
{
    struct compat *c = arg;

    __asm__ volatile("int $0x80"
                     : "=a"(c->r)
                     : "a"(c->nr), "b"(c->a), "c"(c->b), "d"(c->c)
                     : "memory", "r8", "r9", "r10", "r11", "cc");
    c->r = (int32_t)c->r;
}

/* A kernel without 32-bit calls says so, or has nothing at that interrupt: a fault. */
int64_t lx_sys32_getdents64(struct lx_thread *t, const uint64_t *a)
{
    enum { NR_GETDENTS64_I386 = 220 };
    struct compat c = {NR_GETDENTS64_I386, (uint32_t)a[0], (uint32_t)a[1], (uint32_t)a[2], -ENOSYS};

    if (!lx_guarded(compat_call, &c) || c.r == -ENOSYS)
        return lx_safe_syscall(t, SYS_getdents64, a);
    return c.r;
}

/* ---- uname of old ---- */

int64_t lx_sys32_olduname(struct lx_thread *t, const uint64_t *a)
{
    struct utsname u;

    return uname(&u) < 0 ? -errno : lx_put(a[0], &u, 65 * 5) ? 0 : -EFAULT;
}

int64_t lx_sys32_oldolduname(struct lx_thread *t, const uint64_t *a)
{
    struct utsname u;
    char out[45] = {0};
    const char *const f[5] = {u.sysname, u.nodename, u.release, u.version, u.machine};

    if (uname(&u) < 0)
        return -errno;
    for (unsigned i = 0; i < 5; i++)
        memcpy(out + 9 * i, f[i], strnlen(f[i], 8));
    return lx_put(a[0], out, sizeof out) ? 0 : -EFAULT;
}

/* ---- ioctl: most take words and byte structures without longs; those with longs or pointers are described ---- */

/* One request: the host's argument is built from `words` guest longs (each widened), and written back when out. */
static const struct {
    unsigned long req;
    uint8_t words;
    bool in, out;
} long_ioctls[] = {{BLKGETSIZE, 1, false, true}, {FS_IOC32_GETFLAGS, 0, false, false}, {BLKRAGET, 1, false, true}};

/* Requests whose number holds the size of a long though what they take is the same: the host's number. */
static uint32_t widened(uint32_t req)
{
    static const unsigned long same[] = {BLKGETSIZE64, BLKBSZGET, BLKBSZSET};

    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        if (((uint32_t)same[i] & ~IOCSIZE_MASK) == (req & ~IOCSIZE_MASK) && (req & IOCSIZE_MASK) >> IOCSIZE_SHIFT == 4)
            return (uint32_t)same[i];
    return req;
}

static int64_t ifconf(struct lx_thread *t, const uint64_t *a)
{
    uint32_t w[2];
    struct ifconf c;
    uint8_t *buf;
    size_t n, out = 0;
    int64_t r;

    if (!lx_get(w, a[2], 8))
        return -EFAULT;
    n = min_u64(w[0] / 32, 4096);
    buf = xcalloc(n + 1, sizeof(struct ifreq));
    c.ifc_len = w[1] ? (int)(n * sizeof(struct ifreq)) : 0;
    c.ifc_buf = w[1] ? (char *)buf : NULL;
    r = ioctl((int)a[0], SIOCGIFCONF, &c) < 0 ? -errno : 0;
    if (!r) {
        n = (size_t)c.ifc_len / sizeof(struct ifreq);
        for (size_t i = 0; w[1] && i < n && !r; i++, out++)
            if (!lx_put(w[1] + 32 * i, buf + i * sizeof(struct ifreq), 32))
                r = -EFAULT;
        w[0] = (uint32_t)(n * 32);
        if (!r && !lx_put(a[2], w, 4))
            r = -EFAULT;
    }
    free(buf);
    return r;
}

/* struct ifreq is 32 bytes for the guest, 40 here; only SIOCETHTOOL and SIOCGIFMAP hold a pointer or longs. */
static int64_t ifreq(struct lx_thread *t, const uint64_t *a)
{
    struct ifreq f = {0};
    int64_t r;

    if (!lx_get(&f, a[2], 32))
        return -EFAULT;
    if ((uint32_t)a[1] == 0x8946 /* SIOCETHTOOL */) {
        uint32_t p;

        memcpy(&p, (char *)&f + 16, 4);
        f.ifr_data = (char *)(uintptr_t)p;
    }
    r = ioctl((int)a[0], (uint32_t)a[1], &f) < 0 ? -errno : 0;
    return !r && (uint32_t)a[1] != 0x8946 && !lx_put(a[2], &f, 32) ? -EFAULT : r;
}

int64_t lx_sys32_ioctl(struct lx_thread *t, const uint64_t *a)
{
    uint32_t req = (uint32_t)a[1];

    if (req == SIOCGIFCONF)
        return ifconf(t, a);
    if (req >= 0x8911 && req <= 0x894b && req != 0x8912 && req != 0x8906)
        return ifreq(t, a);
    if (req == FS_IOC32_GETFLAGS || req == FS_IOC32_SETFLAGS) {
        long v = 0;
        int32_t w = 0;
        int r;

        if (req == FS_IOC32_SETFLAGS && !lx_get(&w, a[2], 4))
            return -EFAULT;
        v = w;
        r = ioctl((int)a[0], req == FS_IOC32_GETFLAGS ? FS_IOC_GETFLAGS : FS_IOC_SETFLAGS, &v);
        w = (int32_t)v;
        return r < 0 ? -errno : req == FS_IOC32_GETFLAGS && !lx_put(a[2], &w, 4) ? -EFAULT : 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(long_ioctls); i++)
        if (long_ioctls[i].req == req && long_ioctls[i].words) {
            long v = 0;

            if (ioctl((int)a[0], req, &v) < 0)
                return -errno;
            return lx_put_word(a[2], (uint64_t)v) ? 0 : -EFAULT;
        }
    return lx_safe_syscall(t, SYS_ioctl, (const uint64_t[6]){a[0], widened(req), a[2]});
}

/* umount has no flags: what lies in the register of the host's second argument is the guest's own. */
int64_t lx_sys32_umount(struct lx_thread *t, const uint64_t *a)
{
    return lx_safe_syscall(t, SYS_umount2, (const uint64_t[6]){a[0]});
}
