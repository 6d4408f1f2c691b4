/* Name spaces and mounts, in a user name space of its own: clone3, unshare, setns, mounts old and new, pivot_root,
 * vfork. */
#include "said.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY), r = (int)write(fd, text, strlen(text));

    close(fd);
    return r;
}

static void clones(void)
{
    int pidfd = -1, parent_tid = 0, status;
    struct clone_args a = {.flags = CLONE_PIDFD | CLONE_PARENT_SETTID,
                           .pidfd = (uintptr_t)&pidfd,
                           .parent_tid = (uintptr_t)&parent_tid,
                           .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &a, sizeof a);
    volatile int shared = 1;

    if (!pid)
        _exit(21);
    SAY(pid > 0 && parent_tid == pid && pidfd >= 0);
    SAY(waitpid((pid_t)pid, &status, 0) == pid);
    printf("status %d\n", WEXITSTATUS(status));
    SAY(syscall(SYS_clone3, &a, 8));
    a.flags = CLONE_THREAD;
    SAY(syscall(SYS_clone3, &a, sizeof a));
    pid = vfork();
    if (!pid) {
        shared = 2;
        _exit(3);
    }
    waitpid((pid_t)pid, &status, 0);
    printf("vfork %d %d\n", shared, WEXITSTATUS(status));
}

static void mounts(void)
{
    struct statfs fs;
    struct stat st;
    int fd, m, old;

    SAY(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    SAY(mkdir("root", 0755) == 0 || errno == EEXIST);
    SAY(mount("none", "root", "tmpfs", MS_NOSUID, "size=1m,mode=755"));
    SAY(statfs("root", &fs));
    printf("tmpfs %d %ld\n", fs.f_type == 0x01021994, (long)(fs.f_blocks * fs.f_bsize));
    SAY(mount(NULL, "root", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID, NULL));
    SAY(mkdir("root/x", 0755));
    SAY(mount(NULL, "root", NULL, MS_REMOUNT | MS_NOSUID, NULL));
    SAY(mkdir("root/old", 0755));
    SAY(mkdir("root/sub", 0755));
    SAY(mount("root/old", "root/sub", NULL, MS_BIND, NULL));
    SAY(umount2("root/sub", MNT_DETACH));
    SAY(umount("root/sub"));
    fd = (int)syscall(430 /* fsopen */, "tmpfs", 0);
    SAY(fd >= 0);
    SAY(syscall(431 /* fsconfig */, fd, 1, "size", "64k", 0));
    SAY(syscall(431, fd, 1, "nonsense", "1", 0));
    SAY(syscall(431, fd, 6, NULL, NULL, 0));
    m = (int)syscall(432 /* fsmount */, fd, 0, 0);
    SAY(m >= 0);
    SAY(syscall(429 /* move_mount */, m, "", AT_FDCWD, "root/sub", 4));
    SAY(statfs("root/sub", &fs));
    printf("blocks %ld\n", (long)(fs.f_blocks * fs.f_bsize));
    SAY_IF(old = (int)syscall(428 /* open_tree */, AT_FDCWD, "root/sub", 1));
    SAY(chdir("root"));
    SAY(syscall(SYS_pivot_root, ".", "old"));
    SAY(chdir("/"));
    SAY(stat("/old/proc", &st));
    SAY(umount2("/old", MNT_DETACH));
    SAY(stat("/old/proc", &st));
    SAY(mount("none", "/nowhere", "tmpfs", 0, NULL));
    SAY(mount("none", "/sub", "nosuchfs", 0, NULL));
    SAY(chroot("/sub"));
}

static int inside(void)
{
    struct utsname u;
    int pid, status, ns;

    SAY(sethostname("inside", 6));
    SAY(uname(&u));
    printf("%s\n", u.nodename);
    ns = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
    SAY(unshare(CLONE_NEWUTS));
    SAY(sethostname("deeper", 6));
    SAY(setns(ns, CLONE_NEWUTS));
    uname(&u);
    printf("%s\n", u.nodename);
    SAY(setns(ns, CLONE_NEWNET));
    SAY(unshare(CLONE_NEWPID));
    if (!(pid = fork())) {
        printf("pid %d ppid %d\n", getpid(), getppid());
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    SAY(unshare(CLONE_NEWIPC | CLONE_NEWNET));
    SAY(unshare(0x80));
    mounts();
    return 0;
}

int main(void)
{
    char map[64];
    int status, uid = getuid(), gid = getgid();

    clones();
    fflush(stdout);
    if (!fork()) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS) < 0) {
            printf("no name spaces\n");
            return 0;
        }
        put("/proc/self/setgroups", "deny");
        sprintf(map, "0 %d 1\n", uid);
        SAY(put("/proc/self/uid_map", map) > 0);
        sprintf(map, "0 %d 1\n", gid);
        SAY(put("/proc/self/gid_map", map) > 0);
        SAY(getuid());
        return inside();
    }
    wait(&status);
    SAY(rmdir("root"));
    return status;
}
