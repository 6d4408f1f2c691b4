/* Code memory with separate writable and executable views. */
#include "jit/arena.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE = 2 << 20 };

bool jit_arena_init(struct jit_arena *a, size_t size, struct err **errp)
{
    int fd = memfd_create("lyrebird-code", MFD_CLOEXEC);

    *a = (struct jit_arena){0};
    if (fd < 0)
        return err_set_errno(errp, errno, "translator: cannot create code memory");
    size = align_up(size, HUGE);
    if (ftruncate(fd, (off_t)size) < 0)
        goto fail;
    a->w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (a->w == MAP_FAILED)
        goto fail;
    a->x = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (a->x == MAP_FAILED) {
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
    a->x = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a->x == MAP_FAILED)
        return err_set_errno(errp, errno, "translator: cannot map %zu MiB of code memory", size >> 20);
    a->w = a->x;
    a->size = size;
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

void jit_arena_reset(struct jit_arena *a)
{
    a->used = a->keep;
}
