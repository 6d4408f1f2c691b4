/* See jit/jitdump.h. All numbers are the host's own, little-endian. */
#include "jit/jitdump.h"
#include "base/bytes.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct jit_dump {
    int fd;    /* -1: it could not be written */
    dev_t dev; /* what fd must be: in user mode the guest could have closed it and opened something else */
    ino_t ino;
    pid_t pid;
    uint64_t nr; /* pieces written: each has a number of its own */
    void *mark;
    size_t mark_len;
};

static uint64_t stamp(void) /* as perf record -k CLOCK_MONOTONIC */
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* One write, so that a program that is killed leaves whole records. */
static bool put(struct jit_dump *d, struct iovec *v, int n)
{
    size_t all = 0;
    ssize_t done;

    for (int i = 0; i < n; i++)
        all += v[i].iov_len;
    do
        done = writev(d->fd, v, n);
    while (done < 0 && errno == EINTR);
    if (done == (ssize_t)all)
        return true;
    if (done >= 0)
        errno = ENOSPC;
    return false;
}

/* Takes the file out of the way of a guest in user mode, whose descriptors are small numbers. */
static bool adopt(struct jit_dump *d)
{
    int high = fcntl(d->fd, F_DUPFD_CLOEXEC, 1000);
    struct stat st;

    if (high >= 0) {
        close(d->fd);
        d->fd = high;
    }
    if (fstat(d->fd, &st) < 0)
        return false;
    d->dev = st.st_dev;
    d->ino = st.st_ino;
    return true;
}

static bool ours(const struct jit_dump *d)
{
    struct stat st;

    return d->fd >= 0 && getpid() == d->pid && fstat(d->fd, &st) == 0 && st.st_dev == d->dev && st.st_ino == d->ino;
}

static bool put_header(struct jit_dump *d)
{
    uint8_t h[JITDUMP_HEADER] = {0};

    put_le32(h, JITDUMP_MAGIC);
    put_le32(h + 4, JITDUMP_VERSION);
    put_le32(h + 8, sizeof h);
    put_le32(h + 12, EM_X86_64);
    put_le32(h + 20, (uint32_t)d->pid);
    put_le64(h + 24, stamp());
    return put(d, &(struct iovec){h, sizeof h}, 1);
}

struct jit_dump *jit_dump_open(struct err **errp)
{
    struct jit_dump *d = xnew(struct jit_dump);
    char name[32];

    *d = (struct jit_dump){.pid = getpid(), .mark = MAP_FAILED, .mark_len = (size_t)sysconf(_SC_PAGESIZE)};
    snprintf(name, sizeof name, "jit-%ld.dump", (long)d->pid);
    d->fd = open(name, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (d->fd < 0) {
        err_set_errno(errp, errno, "cannot make '%s' in the present folder", name);
        goto fail;
    }
    if (!adopt(d) || !put_header(d)) {
        err_set_errno(errp, errno, "cannot write '%s'", name);
        goto fail;
    }
    d->mark = mmap(NULL, d->mark_len, PROT_READ | PROT_EXEC, MAP_PRIVATE, d->fd, 0);
    if (d->mark == MAP_FAILED) {
        err_set_errno(errp, errno, "cannot map '%s' for perf", name);
        err_hint(errp, "The present folder must not be mounted noexec.");
        goto fail;
    }
    return d;
fail:
    if (d->fd >= 0) {
        unlink(name);
        close(d->fd);
    }
    free(d);
    return NULL;
}

static void record(uint8_t *p, uint32_t id, size_t size)
{
    put_le32(p, id);
    put_le32(p + 4, (uint32_t)size);
    put_le64(p + 8, stamp());
}

void jit_dump_code(struct jit_dump *d, const uint8_t *run, const uint8_t *bytes, size_t len, const char *name)
{
    size_t name_len = strlen(name) + 1;
    struct iovec v[3];
    uint8_t r[JITDUMP_LOAD];

    if (!ours(d))
        return;
    record(r, JITDUMP_CODE_LOAD, sizeof r + name_len + len);
    put_le32(r + 16, (uint32_t)d->pid);
    put_le32(r + 20, (uint32_t)gettid());
    put_le64(r + 24, (uintptr_t)run); /* vma */
    put_le64(r + 32, (uintptr_t)run); /* code_addr */
    put_le64(r + 40, len);
    put_le64(r + 48, d->nr++);
    v[0] = (struct iovec){r, sizeof r};
    v[1] = (struct iovec){(void *)(uintptr_t)name, name_len};
    v[2] = (struct iovec){(void *)(uintptr_t)bytes, len};
    if (!put(d, v, 3)) {
        warn_report("jit-%ld.dump ends here: %s", (long)d->pid, strerror(errno));
        close(d->fd);
        d->fd = -1;
    }
}

void jit_dump_close(struct jit_dump *d)
{
    uint8_t r[JITDUMP_CLOSE];

    if (!d)
        return;
    if (ours(d)) {
        record(r, JITDUMP_CODE_CLOSE, sizeof r);
        put(d, &(struct iovec){r, sizeof r}, 1);
        close(d->fd);
    }
    munmap(d->mark, d->mark_len);
    free(d);
}
