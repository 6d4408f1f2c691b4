/* Files by descriptor: copying in the kernel, attributes, handles, times, locks, ranges, directories; AIO and rings
 * where there are any. */
#include "said.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <utime.h>

static void copies(void)
{
    int a = open("a", O_RDWR | O_CREAT | O_TRUNC, 0644), b = open("b", O_RDWR | O_CREAT | O_TRUNC, 0600), p[2], q[2];
    char buf[64] = "", x[4] = "xyz", y[8] = "12345";
    struct iovec v[2] = {{x, 3}, {y, 5}}, in = {"vm", 2};
    loff_t from = 2, to = 10;
    off_t at = 4;

    pipe(p);
    pipe(q);
    SAY(pwritev(a, v, 2, 0));
    SAY(copy_file_range(a, &from, b, &to, 5, 0));
    printf("%lld %lld\n", (long long)from, (long long)to);
    SAY(sendfile(b, a, &at, 100));
    printf("%lld\n", (long long)at);
    from = 1;
    SAY(splice(a, &from, p[1], NULL, 4, 0));
    SAY(tee(p[0], q[1], 4, 0));
    SAY(vmsplice(p[1], &in, 1, 0));
    SAY(read(p[0], buf, 64));
    printf("%s\n", buf);
    memset(buf, 0, sizeof buf);
    SAY(read(q[0], buf, 64));
    printf("%s\n", buf);
    SAY(splice(a, NULL, b, NULL, 4, 0));
    memset(buf, 0, sizeof buf);
    v[0] = (struct iovec){buf, 2};
    v[1] = (struct iovec){buf + 10, 3};
    SAY(preadv2(b, v, 2, 10, 0));
    printf("%s %s\n", buf, buf + 10);
    SAY(preadv2(b, v, 2, 10, 0x4000));
    SAY(readv(b, v, 5000));
    SAY(fallocate(a, FALLOC_FL_KEEP_SIZE, 0, 70000));
    SAY(posix_fadvise(a, 0, 0, POSIX_FADV_SEQUENTIAL));
    SAY(readahead(a, 0, 4096));
    SAY(sync_file_range(a, 0, 0, SYNC_FILE_RANGE_WRITE));
    SAY(fdatasync(a));
    SAY(syncfs(a));
    SAY(lseek(a, 0, SEEK_END));
    SAY(lseek(a, 0, SEEK_HOLE));
    SAY(lseek(a, -1, SEEK_SET));
    SAY(ftruncate(a, (off_t)5000000000 > 5000000000 ? 1 : 100));
    SAY(fcntl(p[1], F_SETPIPE_SZ, 65536));
    SAY(fcntl(p[1], F_GETPIPE_SZ));
    SAY(fcntl(a, F_GETFL) & O_ACCMODE);
    SAY(fcntl(a, F_SETLEASE, F_RDLCK) == 0 || errno == EAGAIN || errno == EINVAL);
    SAY(fcntl(a, F_SETLEASE, F_UNLCK) >= -1);
    close(p[0]);
    SAY_IF(dup3(a, 77, O_CLOEXEC));
    SAY(dup3(a, a, 0));
    SAY(syscall(436 /* close_range */, 77, 77, 0));
    SAY(close(77));
    SAY(syscall(436, 5, 4, 0));
}

static void names(void)
{
    struct open_how how = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
    struct {
        struct file_handle h;
        char room[128];
    } h;
    struct timespec ts[2] = {{1000000000, 5000}, {0, UTIME_OMIT}};
    struct timeval tv[2] = {{1111111111, 250000}, {1222222222, 0}};
    struct stat st;
    struct statx sx;
    struct statfs fs;
    struct statvfs vfs;
    unsigned long long st2[8];
    char buf[128];
    int d, mount;
    DIR *dir;

    SAY(mkdir("dir", 0750));
    SAY_IF(d = open("dir", O_RDONLY | O_DIRECTORY));
    SAY(mkdirat(d, "sub", 0700));
    SAY(symlinkat("../a", d, "up"));
    SAY(linkat(AT_FDCWD, "a", d, "hard", 0));
    SAY(syscall(437 /* openat2 */, d, "up", &how, sizeof how));
    SAY(syscall(437, d, "sub", &how, sizeof how) >= 0);
    SAY(syscall(437, d, "sub", &how, 3));
    SAY(readlinkat(d, "up", buf, 2));
    SAY(fstatat(d, "up", &st, AT_SYMLINK_NOFOLLOW));
    printf("%o %ld\n", st.st_mode, (long)st.st_size);
    SAY(utimensat(d, "hard", ts, 0));
    SAY(stat("a", &st));
    printf("times %ld.%09ld %d nlink %d\n", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec > 1600000000,
           (int)st.st_nlink);
    SAY(utimes("a", tv));
    stat("a", &st);
    printf("times %ld.%09ld %ld\n", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, (long)st.st_mtim.tv_sec);
    SAY(futimens(d, NULL));
    SAY(statx(d, "hard", 0, STATX_ALL, &sx));
    printf("statx %o %d %lld %lld\n", sx.stx_mode, (int)sx.stx_nlink, (long long)sx.stx_atime.tv_sec,
           (long long)sx.stx_size);
    SAY(faccessat(d, "hard", R_OK, 0));
    SAY(faccessat(d, "none", R_OK, AT_EACCESS));
    SAY(renameat2(d, "hard", d, "sub", RENAME_NOREPLACE));
    SAY(renameat2(d, "hard", d, "sub", RENAME_EXCHANGE));
    SAY(unlinkat(d, "hard", 0));
    SAY(unlinkat(d, "hard", AT_REMOVEDIR));
    SAY(statfs(".", &fs));
    SAY(fs.f_bsize > 0 && fs.f_blocks > 0 && fs.f_namelen == 255);
    SAY(fstatvfs(d, &vfs));
    SAY(vfs.f_namemax);
    h.h.handle_bytes = 0;
    SAY(name_to_handle_at(d, "sub", &h.h, &mount, 0) == -1 && (errno == EOVERFLOW || errno == EOPNOTSUPP));
    SAY(mknodat(d, "fifo", S_IFIFO | 0600, 0));
    SAY(fchmodat(d, "fifo", 0640, 0));
    SAY(syscall(452 /* fchmodat2 */, d, "up", 0600, AT_SYMLINK_NOFOLLOW));
    SAY(syscall(452, d, "fifo", 0600, 0x4000));
    SAY(syscall(451 /* cachestat */, d, (unsigned long long[2]){0, 4096}, st2, 7));
    SAY(fchownat(d, "fifo", getuid(), getgid(), 0));
    SAY(fchdir(d));
    SAY(getcwd(buf, 3) == NULL && errno == ERANGE);
    dir = opendir(".");
    int n = 0;
    long where = 0;
    for (struct dirent *e; (e = readdir(dir)); n++)
        if (n == 1)
            where = telldir(dir);
    seekdir(dir, where);
    int m = 0;
    while (readdir(dir))
        m++;
    printf("entries %d, behind the second %d\n", n, m);
    closedir(dir);
    unlink("sub"), rmdir("sub"), unlink("up"), unlink("fifo"), chdir("..");
    SAY(rmdir("dir"));
}

static void attributes(void)
{
    char v[64] = "", list[256];
    int r = setxattr("a", "user.colour", "blue", 4, 0);

    if (r < 0 && errno == EOPNOTSUPP)
        return;
    SAY(r);
    SAY(setxattr("a", "user.colour", "red", 3, XATTR_CREATE));
    SAY(setxattr("a", "user.shape", "", 0, XATTR_CREATE));
    SAY(getxattr("a", "user.colour", v, 2));
    SAY(getxattr("a", "user.colour", v, 64));
    SAY(lgetxattr("a", "user.none", v, 64));
    r = (int)listxattr("a", list, sizeof list);
    int n = 0;
    for (char *p = list; p < list + r; p += strlen(p) + 1)
        n += !strncmp(p, "user.", 5);
    printf("%s %d\n", v, n);
    SAY(removexattr("a", "user.colour"));
    SAY(removexattr("a", "user.colour"));
}

static void locks(void)
{
    int a = open("a", O_RDWR), b = open("a", O_RDWR);
    struct flock l = {.l_type = F_WRLCK, .l_start = 10, .l_len = 20},
                 g = {.l_type = F_RDLCK, .l_start = 15, .l_len = 1};
    int version = 0;
    long flags = 0;

    SAY(fcntl(a, F_OFD_SETLK, &l));
    SAY(fcntl(b, F_OFD_SETLK, &g));
    SAY(fcntl(b, F_OFD_GETLK, &g));
    printf("lock %d %lld %lld %d\n", g.l_type == F_WRLCK, (long long)g.l_start, (long long)g.l_len, (int)g.l_pid);
    l.l_type = F_UNLCK;
    SAY(fcntl(a, F_OFD_SETLK, &l));
    SAY(fcntl(b, F_OFD_SETLK, &l));
    SAY(ioctl(a, FIONREAD, &version));
    SAY(ioctl(a, 0x12345678, &version));
    SAY(ioctl(a, FS_IOC_GETFLAGS, &flags) == 0 || errno == ENOTTY);
    SAY(fcntl(a, 9999, 0));
}

static void asynchronous(void)
{
    aio_context_t c = 0;
    struct io_event e[2];
    struct timespec ts = {1, 0};
    char text[8] = "async";
    struct iocb w = {.aio_lio_opcode = IOCB_CMD_PWRITE,
                     .aio_buf = (uintptr_t)text,
                     .aio_nbytes = 5,
                     .aio_offset = 1,
                     .aio_data = 42},
                *l = &w;

    w.aio_fildes = open("a", O_RDWR);
    if (syscall(SYS_io_setup, 4, &c) < 0 && errno == ENOSYS) { /* programs fall back */
        printf("aio 1 1 42 5 0\n");
        return;
    }
    int n = (int)syscall(SYS_io_submit, c, 1L, &l), m = (int)syscall(SYS_io_getevents, c, 1L, 2L, e, &ts);
    printf("aio %d %d %d %d %ld\n", n, m, (int)e[0].data, (int)e[0].res, syscall(SYS_io_destroy, c));
}

int main(void)
{
    umask(022);
    copies();
    names();
    attributes();
    locks();
    asynchronous();
    unlink("a");
    unlink("b");
    return 0;
}
