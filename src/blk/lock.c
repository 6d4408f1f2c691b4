/* Image locks: open-file-description read locks on single bytes of the file, one set for what the holder does, one for
 * what it does not let others do. Byte 100+i: the holder uses permission i; byte 200+i: the holder shares not
 * permission i. The layout is the one in common use, so that our programs and others respect each other.
 *
 * Taking: lock the new bytes first, then look whether another holder's bytes contradict, and go back if so. Two
 * starters can therefore both be refused, never both succeed. The refusal names the holder, found through /proc. */
#include "blk/lock.h"
#include "blk/host.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TAKEN = 100, UNSHARED = 200, NR_BITS = 4 };

static int byte_lock(int fd, off_t at, short type, bool test, struct flock *out)
{
    struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    int r = fcntl(fd, test ? F_OFD_GETLK : F_OFD_SETLK, &f);

    if (out)
        *out = f;
    return r < 0 ? -errno : 0;
}

bool blk_lock_supported(int fd)
{
    struct flock f;

    return byte_lock(fd, TAKEN, F_WRLCK, true, &f) == 0;
}

static const char *const bit_names[] = {"consistent read", "write", "write unchanged", "resize"};

/* Copies /proc/PID/WHAT with separators turned to spaces. */
static void proc_text(const char *pid, const char *what, char *buf, size_t n)
{
    char path[300];
    ssize_t r = -1;
    int fd;

    snprintf(path, sizeof path, "/proc/%s/%s", pid, what);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        r = read(fd, buf, n - 1);
        close(fd);
    }
    buf[r > 0 ? r : 0] = 0;
    for (ssize_t i = 0; i + 1 < r; i++)
        if (!buf[i] || buf[i] == '\n')
            buf[i] = ' ';
    if (r > 0 && buf[r - 1] == '\n')
        buf[r - 1] = 0;
}

static bool fdinfo_has_lock(const char *pid, const char *fd)
{
    char path[300], line[256];
    bool found = false;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%.20s/fdinfo/%.20s", pid, fd);
    f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f))
        found = str_starts(line, "lock:");
    if (f)
        fclose(f);
    return found;
}

static bool pid_holds(const char *pid, const struct stat *want, int own_pid, int own_fd)
{
    char path[300], own[20];
    struct dirent *e;
    bool found = false;
    DIR *d;

    snprintf(path, sizeof path, "/proc/%.20s/fd", pid);
    snprintf(own, sizeof own, "%d", own_fd);
    d = opendir(path);
    while (d && !found && (e = readdir(d))) {
        struct stat st;

        if (*e->d_name == '.' || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        if (st.st_ino != want->st_ino || st.st_dev != want->st_dev)
            continue;
        if (atoi(pid) == own_pid && !strcmp(e->d_name, own))
            continue;
        found = fdinfo_has_lock(pid, e->d_name);
    }
    if (d)
        closedir(d);
    return found;
}

/* The argument after -name in a command line, as "guest=" gives it. */
static void machine_name(const char *cmdline, char *out, size_t n)
{
    const char *p = strstr(cmdline, " -name ");

    *out = 0;
    if (!p)
        return;
    p += 7;
    if (str_starts(p, "guest="))
        p += 6;
    snprintf(out, n, ", machine '%.*s'", (int)min_u64(strcspn(p, ", "), 60), p);
}

char *blk_lock_holder(int fd, int own_pid, int own_fd)
{
    struct stat st;
    struct dirent *e;
    char *who = NULL;
    DIR *d;

    if (fstat(fd, &st) < 0 || !(d = opendir("/proc")))
        return NULL;
    while (!who && (e = readdir(d))) {
        char comm[64], cmd[2048], machine[96];

        if (*e->d_name < '0' || *e->d_name > '9' || !pid_holds(e->d_name, &st, own_pid, own_fd))
            continue;
        proc_text(e->d_name, "comm", comm, sizeof comm);
        proc_text(e->d_name, "cmdline", cmd, sizeof cmd);
        machine_name(cmd, machine, sizeof machine);
        who = xasprintf("process %s (%s%s)", e->d_name, comm, machine);
    }
    closedir(d);
    return who;
}

static bool refuse(struct blk_set *s, int fd, unsigned bit, const char *kind, const char *filename, struct err **errp)
{
    char *who AUTOFREE = blk_host_holder(s, fd);

    err_set(errp, "Failed to get %s\"%s\" lock", kind, bit_names[bit]);
    if (who)
        err_hint(errp, "Is another process using the image [%s]? It is held by %s.", filename, who);
    else
        err_hint(errp, "Is another process using the image [%s]?", filename);
    return false;
}

static void unlock_excess(int fd, unsigned had_t, unsigned had_u, unsigned keep_t, unsigned keep_u)
{
    for (unsigned i = 0; i < NR_BITS; i++) {
        if (had_t >> i & 1 && !(keep_t >> i & 1))
            byte_lock(fd, TAKEN + i, F_UNLCK, false, NULL);
        if (had_u >> i & 1 && !(keep_u >> i & 1))
            byte_lock(fd, UNSHARED + i, F_UNLCK, false, NULL);
    }
}

bool blk_lock_apply(struct blk_set *s, struct blk_lock *l, int fd, unsigned perm, unsigned shared, const char *filename,
                    struct err **errp)
{
    unsigned t = perm & 15, u = ~shared & 15, i, bit = 0;
    struct flock f;
    bool ok = true;

    for (i = 0; i < NR_BITS && ok; i++) {
        if (t >> i & 1 && !(l->taken >> i & 1) && byte_lock(fd, TAKEN + i, F_RDLCK, false, NULL) < 0)
            ok = refuse(s, fd, i, "", filename, errp);
        if (ok && u >> i & 1 && !(l->unshared >> i & 1) && byte_lock(fd, UNSHARED + i, F_RDLCK, false, NULL) < 0)
            ok = refuse(s, fd, i, "shared ", filename, errp);
    }
    for (i = 0; i < NR_BITS && ok; i++) {
        bit = i;
        if (t >> i & 1 && !(l->taken >> i & 1) && !byte_lock(fd, UNSHARED + i, F_WRLCK, true, &f) &&
            f.l_type != F_UNLCK)
            ok = refuse(s, fd, bit, "", filename, errp);
        if (ok && u >> i & 1 && !(l->unshared >> i & 1) && !byte_lock(fd, TAKEN + i, F_WRLCK, true, &f) &&
            f.l_type != F_UNLCK)
            ok = refuse(s, fd, bit, "shared ", filename, errp);
    }
    if (!ok) {
        unlock_excess(fd, t, u, l->taken, l->unshared);
        return false;
    }
    unlock_excess(fd, l->taken, l->unshared, t, u);
    l->taken = t;
    l->unshared = u;
    return true;
}
