/* Files: stat, directories, links, seeking, vectors, locks, extended calls. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static int names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}
static void pass_fd(void)
{
    char c[CMSG_SPACE(sizeof(int))] = {0}, b = 'q', got = 0;
    struct iovec v = {&b, 1}, w = {&got, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    int s[2], p[2], r = -1;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) || pipe(p))
        exit(1);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &p[1], sizeof(int));
    printf("sendmsg %zd\n", sendmsg(s[0], &m, 0));
    memset(c, 0, sizeof c);
    m.msg_iov = &w;
    m.msg_controllen = sizeof c;
    printf("recvmsg %zd %c\n", recvmsg(s[1], &m, 0), got);
    h = CMSG_FIRSTHDR(&m);
    if (h)
        memcpy(&r, CMSG_DATA(h), sizeof(int));
    printf("fd %d\n", h && write(r, "z", 1) == 1 && read(p[0], &got, 1) == 1 && got == 'z');
}
int main(int argc, char **argv)
{
    char dir[] = "/tmp/userfilesXXXXXX", buf[64] = "";
    struct iovec v[2] = {{"hello ", 6}, {"world", 5}};
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3};
    struct dirent **list;
    struct statfs fs;
    struct statx sx;
    struct stat st;
    int fd, n;

    if (!mkdtemp(dir) || chdir(dir))
        return 1;
    fd = open("a", O_RDWR | O_CREAT | O_EXCL, 0640);
    printf("again %d", open("a", O_RDWR | O_CREAT | O_EXCL, 0640));
    printf(" %d\n", errno);
    printf("writev %zd\n", writev(fd, v, 2));
    printf("seek %ld\n", (long)lseek(fd, -5, SEEK_END));
    printf("read %zd %s\n", read(fd, buf, 20), buf);
    printf("pread %zd %.3s\n", pread(fd, buf, 3, 2), buf);
    printf("big %d\n", lseek(fd, (off_t)5 << 32, SEEK_SET) == (off_t)5 << 32);
    printf("trunc %d\n", ftruncate(fd, 100));
    fstat(fd, &st);
    printf("size %ld mode %o nlink %d blk %d\n", (long)st.st_size, st.st_mode, (int)st.st_nlink, st.st_blksize > 0);
    printf("link %d sym %d\n", link("a", "b"), symlink("a", "c"));
    lstat("c", &st);
    printf("islnk %d\n", S_ISLNK(st.st_mode));
    stat("b", &st);
    printf("nlink %d\n", (int)st.st_nlink);
    n = (int)readlink("c", buf, sizeof buf);
    printf("readlink %d %.*s\n", n, n, buf);
    n = statx(AT_FDCWD, "a", 0, STATX_BASIC_STATS, &sx);
    printf("statx %d %lld\n", n, (long long)sx.stx_size);
    printf("rename %d access %d %d\n", rename("b", "d"), access("d", R_OK), access("b", R_OK));
    n = scandir(".", &list, NULL, names);
    for (int i = 0; i < n; i++)
        printf("%s ", list[i]->d_name);
    printf("\nlock %d\n", fcntl(fd, F_SETLK, &fl));
    fl.l_type = F_RDLCK;
    printf("getlk %d %d\n", fcntl(fd, F_GETLK, &fl), fl.l_type == F_UNLCK);
    printf("flock %d\n", flock(fd, LOCK_EX | LOCK_NB));
    printf("flags %o\n", fcntl(fd, F_GETFL) & O_ACCMODE);
    printf("statfs %d %d\n", statfs(".", &fs), fs.f_bsize > 0);
    printf("fallocate %d\n", fallocate(fd, 0, 0, 5000));
    n = 0;
    printf("fionread %d", ioctl(fd, FIONREAD, &n));
    printf(" tcgets %d %d\n", isatty(fd), errno);
    pass_fd();
    printf("opendir of a file %d %d\n", open("a", O_RDONLY | O_DIRECTORY), errno);
    printf("nofollow %d %d\n", open("c", O_RDONLY | O_NOFOLLOW), errno);
    unlink("a");
    unlink("c");
    unlink("d");
    printf("rmdir %d\n", chdir("/") | rmdir(dir));
    return 0;
}
