/* Growing strings, number and size parsing, and "did you mean". */
#ifndef BASE_STR_H
#define BASE_STR_H

#include "base/util.h"

struct strbuf {
    char *s;    /* owned; NUL-terminated once anything was added, else NULL */
    size_t len; /* without the NUL */
    size_t cap;
};
void str_add(struct strbuf *b, const char *s);
void str_addn(struct strbuf *b, const void *p, size_t n);
void str_addf(struct strbuf *b, const char *fmt, ...) PRINTF_FMT(2, 3);
/* Hands over the text (never NULL, caller frees) and resets the buffer. */
char *str_take(struct strbuf *b);
void str_free(struct strbuf *b); /* for CLEANUP(str_free) */

bool str_starts(const char *s, const char *prefix);
/* Whole string as a number: decimal, 0x hex or 0 octal. False on garbage or overflow. */
bool str_to_u64(const char *s, uint64_t *out) NODISCARD;
bool str_to_i64(const char *s, int64_t *out) NODISCARD;
/* Size with suffix b,k,K,M,G,T,P,E (binary); default_suffix applies to a bare number ('b' for bytes, 'M' ...).
 * Fractions such as 1.5G are accepted. */
bool str_to_size(const char *s, char default_suffix, uint64_t *out) NODISCARD;
/* on/off, yes/no, true/false, y/n, 1/0 are not all accepted: only on, off, yes, no, true, false, y, n. */
bool str_to_bool(const char *s, bool *out) NODISCARD;
/* The entry of the NULL-terminated list nearest to s by edit distance, or NULL when none is near. */
const char *str_nearest(const char *s, const char *const *list);
/* Same, building a candidate set one at a time. */
struct str_nearest {
    const char *word;
    const char *best; /* borrowed from the candidates */
    unsigned dist;
};
void str_nearest_init(struct str_nearest *n, const char *word);
void str_nearest_try(struct str_nearest *n, const char *candidate);
/* "1.5 GiB" style, at most 3 significant digits; buf of 16 bytes at least. */
char *str_size(uint64_t bytes, char *buf, size_t n);

#endif
