/* What the Linux test programs share. They are static, run natively too (the bare CPU is the reference), print a line
 * per claim, and end with "N claims, M failed"; the exit status is 1 when M is not 0. */
#ifndef TESTS_GUEST_LINUX_T_H
#define TESTS_GUEST_LINUX_T_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned t_claims, t_failed;

/* One claim; the text says what was seen. */
__attribute__((format(printf, 3, 4))) static inline void claim(bool ok, const char *name, const char *fmt, ...)
{
    va_list ap;

    t_claims++;
    t_failed += !ok;
    printf("%s %s: ", ok ? "ok  " : "FAIL", name);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}

static inline int t_end(void)
{
    printf("%u claims, %u failed\n", t_claims, t_failed);
    return t_failed != 0;
}

static inline uint64_t t_rnd(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#define t_must(x)                                                                                                      \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            perror(#x);                                                                                                \
            exit(2);                                                                                                   \
        }                                                                                                              \
    } while (0)

#endif
