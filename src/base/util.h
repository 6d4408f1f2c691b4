/* Small helpers every room uses: containers, arithmetic that cannot overflow unseen, allocation.
 *
 * xmalloc and friends are for small sizes chosen by us and end the program when memory runs out (in one
 * place, base/alloc.c). Sizes that come from a guest, a file or a peer use try_alloc(), which returns NULL. */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define likely(x)                       __builtin_expect(!!(x), 1)
#define unlikely(x)                     __builtin_expect(!!(x), 0)
#define PRINTF_FMT(f, a)                __attribute__((format(printf, f, a)))
#define NORETURN                        __attribute__((noreturn))
#define UNUSED                          __attribute__((unused))
#define NODISCARD                       __attribute__((warn_unused_result))
#define CLEANUP(fn)                     __attribute__((cleanup(fn)))
/* Runs before main: only to link a class into its registry. */
#define CONSTRUCTOR                     __attribute__((constructor))
#define FALLTHROUGH                     __attribute__((fallthrough))

#define KIB        (UINT64_C(1) << 10)
#define MIB        (UINT64_C(1) << 20)
#define GIB        (UINT64_C(1) << 30)
#define NS_PER_SEC INT64_C(1000000000)
#define NS_PER_MS  INT64_C(1000000)

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
/* align must be a power of two; align_up wraps to 0 past the top, check with add_ok_u64 where that matters. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
    return (v + align - 1) & ~(align - 1);
}
static inline bool is_pow2(uint64_t v)
{
    return v && !(v & (v - 1));
}
static inline uint64_t div_up(uint64_t v, uint64_t d)
{
    return v / d + (v % d != 0);
}
/* False when the exact result does not fit. */
static inline bool add_ok_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
static inline bool mul_ok_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
/* Bits [lo, lo+len) of v; len 1..64. */
static inline uint64_t bits_get(uint64_t v, unsigned lo, unsigned len)
{
    return (v >> lo) & (~UINT64_C(0) >> (64 - len));
}
static inline int64_t sext64(uint64_t v, unsigned bits)
{
    return (int64_t)(v << (64 - bits)) >> (64 - bits);
}

void *xmalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t n, size_t size) __attribute__((malloc, returns_nonnull)); /* zeroed */
void *xrealloc(void *p, size_t size) __attribute__((returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
char *xstrndup(const char *s, size_t n) __attribute__((malloc, returns_nonnull));
char *xasprintf(const char *fmt, ...) PRINTF_FMT(1, 2) __attribute__((malloc, returns_nonnull));
/* Zeroed, or NULL when n * size overflows or memory is short. Free with free(). */
void *try_alloc(size_t n, size_t size) NODISCARD;
/* As try_alloc, aligned to align (a power of two, a multiple of sizeof(void *)). Free with free(). */
void *try_alloc_aligned(size_t align, size_t size) NODISCARD;
#define xnew(type) ((type *)xcalloc(1, sizeof(type)))

/* For CLEANUP: frees the pointer held in the variable. */
static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}
#define AUTOFREE CLEANUP(cleanup_free)

#endif
