/* See host.h: the plain way, and the choice between it and the set's own. */
#include "blk/host.h"
#include "blk/blk_int.h"
#include "blk/lock.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

void blk_set_host(struct blk_set *s, const struct blk_host *h)
{
    s->host = h;
}

int blk_host_open(struct blk_set *s, const char *path, int flags, unsigned mode)
{
    int fd;

    if (s->host)
        return s->host->open(s->host->opaque, path, flags, mode);
    fd = open(path, flags | O_CLOEXEC, mode);
    return fd < 0 ? -errno : fd;
}

int blk_host_reopen(struct blk_set *s, int fd, int flags)
{
    char self[40];

    if (s->host)
        return s->host->reopen(s->host->opaque, fd, flags);
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    fd = open(self, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int blk_host_kind(struct blk_set *s, const char *path, mode_t *type)
{
    struct stat st;

    if (s->host)
        return s->host->kind(s->host->opaque, path, type);
    if (stat(path, &st) < 0)
        return -errno;
    *type = st.st_mode & S_IFMT;
    return 0;
}

int blk_host_temporary(struct blk_set *s, char *path)
{
    int fd;

    if (s->host)
        return s->host->temporary(s->host->opaque, path);
    fd = mkstemp(path);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

int blk_host_unlink(struct blk_set *s, const char *path)
{
    if (s->host)
        return s->host->unlink(s->host->opaque, path);
    return unlink(path) < 0 ? -errno : 0;
}

char *blk_host_holder(struct blk_set *s, int fd)
{
    return s->host ? s->host->holder(s->host->opaque, fd) : blk_lock_holder(fd, getpid(), fd);
}
