/* Code memory with separate writable and executable views. */
#include "jit/arena.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE = 2 << 20, EARLY = 192 << 10 };
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* A mapping of the file (-1: of none) that starts at a multiple of HUGE, as large pages must; NULL: errno says why. */
static uint8_t *map_aligned(int fd, size_t size, int prot)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    uint8_t *all = mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *at;

    if (all == MAP_FAILED)
        return NULL;
    at = all + (-(uintptr_t)all & (HUGE - 1));
    if (at > all)
        munmap(all, (size_t)(at - all));
    munmap(at + size, (size_t)(all + HUGE - at));
    if (mmap(at, size, prot, flags | MAP_FIXED, fd, 0) == MAP_FAILED) {
        munmap(at, size);
        return NULL;
    }
    return at;
}

bool jit_arena_init(struct jit_arena *a, size_t size, struct err **errp)
{
    int fd = memfd_create("lyrebird-code", MFD_CLOEXEC);

    *a = (struct jit_arena){0};
    if (fd < 0)
        return err_set_errno(errp, errno, "translator: cannot create code memory");
    size = align_up(size, HUGE);
    if (ftruncate(fd, (off_t)size) < 0)
        goto fail;
    a->w = map_aligned(fd, size, PROT_READ | PROT_WRITE);
    if (!a->w)
        goto fail;
    a->x = map_aligned(fd, size, PROT_READ | PROT_EXEC);
    if (!a->x) {
        munmap(a->w, size);
        goto fail;
    }
    a->size = size;
    close(fd);
    return true;
fail:
    err_set_errno(errp, errno, "translator: cannot map %zu MiB of code memory", size >> 20);
    err_hint(errp, "Ask for a smaller cache with -accel tcg,tb-size=MIB.");
    close(fd);
    return false;
}

bool jit_arena_init_private(struct jit_arena *a, size_t size, struct err **errp)
{
    *a = (struct jit_arena){0};
    size = align_up(size, HUGE);
    a->x = map_aligned(-1, size, PROT_READ | PROT_WRITE | PROT_EXEC);
    if (!a->x)
        return err_set_errno(errp, errno, "translator: cannot map %zu MiB of code memory", size >> 20);
    a->w = a->x;
    a->size = size;
    if (size > HUGE)
        madvise(a->x + HUGE, size - HUGE, MADV_HUGEPAGE);
    return true;
}

void jit_arena_free(struct jit_arena *a)
{
    if (!a->size)
        return;
    if (a->w != a->x)
        munmap(a->w, a->size);
    munmap(a->x, a->size);
    a->size = 0;
}

bool jit_arena_room(const struct jit_arena *a, size_t room)
{
    return a->size - a->used >= room;
}

void jit_arena_take(struct jit_arena *a, size_t n)
{
    size_t full = a->used / HUGE, before = a->used;

    a->used += n;
    if (a->w == a->x) { /* the first of them when it is known to be no small program's; the others come in whole */
        if (before < EARLY && a->used >= EARLY)
            madvise(a->x, HUGE, MADV_COLLAPSE);
        return;
    }
    if (a->used / HUGE == full)
        return;
    /* Refused where the host is short of large pages: then it stays as it is. */
    madvise(a->w + full * HUGE, HUGE, MADV_COLLAPSE);
    if (a->x != a->w)
        madvise(a->x + full * HUGE, HUGE, MADV_COLLAPSE);
}

void jit_arena_reset(struct jit_arena *a)
{
    a->used = a->keep;
}

void *jit_map_zeros(size_t size)
{
    void *p;

    if (size == HUGE) {
        p = map_aligned(-1, size, PROT_READ | PROT_WRITE);
        if (p)
            madvise(p, size, MADV_HUGEPAGE);
        return p;
    }
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void jit_unmap(void *p, size_t size)
{
    munmap(p, size);
}
