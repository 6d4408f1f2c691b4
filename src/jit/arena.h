/* Host code memory: one file mapped twice, executable at one address and writable at another (never both at one).
 *
 * What is used becomes large pages where the host can: code of large programs is bound by how much of it the host's
 * TLB reaches, and a page of 4 KiB costs the host microseconds to bring in. Allocation is a bump within the arena; the
 * owner resets it when nothing in it can run any more. Not thread-safe: the owner locks. */
#ifndef JIT_ARENA_H
#define JIT_ARENA_H

#include "base/err.h"

struct jit_arena {
    uint8_t *x; /* executable view */
    uint8_t *w; /* writable view of the same bytes */
    size_t size, used;
    size_t keep; /* bytes at the start that reset leaves: shared stubs */
};
bool jit_arena_init(struct jit_arena *a, size_t size, struct err **errp);
/* The same as one private mapping that is writable and executable at once: after fork() parent and child each have
 * their own. */
bool jit_arena_init_private(struct jit_arena *a, size_t size, struct err **errp);
void jit_arena_free(struct jit_arena *a);
/* Where the next code goes; false when fewer than room bytes are left. */
bool jit_arena_room(const struct jit_arena *a, size_t room);
/* The next n bytes are taken; n is at most what jit_arena_room was asked for. */
void jit_arena_take(struct jit_arena *a, size_t n);
void jit_arena_reset(struct jit_arena *a);
/* Memory for what is kept of code: zeros, in a large page where size is one's; NULL: there is none. */
void *jit_map_zeros(size_t size);
void jit_unmap(void *p, size_t size);
static inline bool jit_arena_has(const struct jit_arena *a, const void *x)
{
    return (const uint8_t *)x >= a->x && (const uint8_t *)x < a->x + a->size;
}
static inline uint8_t *jit_arena_writable(const struct jit_arena *a, const void *x)
{
    return a->w + ((const uint8_t *)x - a->x);
}

#endif
