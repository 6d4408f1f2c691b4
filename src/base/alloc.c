/* Allocation that cannot fail (small sizes of our own) and allocation that may (sizes from outside). */
#include "base/util.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

NORETURN static void out_of_memory(size_t size)
{
    fprintf(stderr, "out of memory allocating %zu bytes\n", size);
    _Exit(1);
}

void *xmalloc(size_t size)
{
    void *p = malloc(size ? size : 1);

    if (!p)
        out_of_memory(size);
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);

    if (!p)
        out_of_memory(n * size);
    return p;
}

void *xrealloc(void *p, size_t size)
{
    p = realloc(p, size ? size : 1);
    if (!p)
        out_of_memory(size);
    return p;
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

char *xstrndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *p = xmalloc(len + 1);

    memcpy(p, s, len);
    p[len] = '\0';
    return p;
}

char *xasprintf(const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        out_of_memory(strlen(fmt));
    return s;
}

void *try_alloc(size_t n, size_t size)
{
    return calloc(n ? n : 1, size ? size : 1);
}

/* Whole pages of something large are given back to the system, which hands out zeros when they are touched: large
 * tables cost memory only as far as they are used. */
static void zero(uint8_t *p, size_t size)
{
    enum { PAGE = 4096, LARGE = 1 << 20 };
    uint8_t *first = p + (-(uintptr_t)p & (PAGE - 1)), *end = p + size - ((uintptr_t)(p + size) & (PAGE - 1));

    if (size >= LARGE && !madvise(first, (size_t)(end - first), MADV_DONTNEED)) {
        memset(p, 0, (size_t)(first - p));
        memset(end, 0, (size_t)(p + size - end));
    } else {
        memset(p, 0, size);
    }
}

void *try_alloc_aligned(size_t align, size_t size)
{
    void *p;

    if (posix_memalign(&p, align, size ? size : 1))
        return NULL;
    zero(p, size);
    return p;
}
