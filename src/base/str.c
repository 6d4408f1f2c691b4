/* Growing strings, numbers from text, near misses. */
#include "base/str.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

static void grow(struct strbuf *b, size_t more)
{
    size_t need = b->len + more + 1;

    if (need <= b->cap)
        return;
    b->cap = need + need / 2 + 16;
    b->s = xrealloc(b->s, b->cap);
}

void str_addn(struct strbuf *b, const void *p, size_t n)
{
    grow(b, n);
    memcpy(b->s + b->len, p, n);
    b->len += n;
    b->s[b->len] = '\0';
}

void str_add(struct strbuf *b, const char *s)
{
    str_addn(b, s, strlen(s));
}

void str_addf(struct strbuf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    grow(b, (size_t)n);
    va_start(ap, fmt);
    vsnprintf(b->s + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

char *str_take(struct strbuf *b)
{
    char *s = b->s ? b->s : xstrdup("");

    *b = (struct strbuf){0};
    return s;
}

void str_free(struct strbuf *b)
{
    free(b->s);
    *b = (struct strbuf){0};
}

bool str_starts(const char *s, const char *prefix)
{
    return !strncmp(s, prefix, strlen(prefix));
}

bool str_to_u64(const char *s, uint64_t *out)
{
    char *end;

    if (!isdigit((unsigned char)*s))
        return false;
    errno = 0;
    *out = strtoull(s, &end, 0);
    return !errno && !*end;
}

bool str_to_i64(const char *s, int64_t *out)
{
    char *end;

    if (!isdigit((unsigned char)*s) && !((*s == '-' || *s == '+') && isdigit((unsigned char)s[1])))
        return false;
    errno = 0;
    *out = strtoll(s, &end, 0);
    return !errno && !*end;
}

static int suffix_shift(char c)
{
    switch (c) {
    case 'b':
    case 'B':
        return 0;
    case 'k':
    case 'K':
        return 10;
    case 'm':
    case 'M':
        return 20;
    case 'g':
    case 'G':
        return 30;
    case 't':
    case 'T':
        return 40;
    case 'p':
    case 'P':
        return 50;
    case 'e':
    case 'E':
        return 60;
    default:
        return -1;
    }
}

bool str_to_size(const char *s, char default_suffix, uint64_t *out)
{
    uint64_t whole, frac = 0, scale = 1;
    char *end;
    int shift;

    if (!isdigit((unsigned char)*s))
        return false;
    errno = 0;
    whole = strtoull(s, &end, s[0] == '0' && (s[1] == 'x' || s[1] == 'X') ? 16 : 10);
    if (errno)
        return false;
    if (*end == '.') {
        for (end++; isdigit((unsigned char)*end); end++)
            if (scale < UINT64_C(1000000000)) {
                frac = frac * 10 + (uint64_t)(*end - '0');
                scale *= 10;
            }
    }
    shift = suffix_shift(*end ? *end++ : default_suffix);
    if (shift < 0)
        return false;
    if (*end == 'i' && shift)
        end++;
    if ((*end == 'B' || *end == 'b') && shift)
        end++;
    if (*end || (whole && shift && whole > UINT64_MAX >> shift))
        return false;
    *out = whole << shift;
    if (frac)
        *out += (uint64_t)((double)frac / (double)scale * (double)(UINT64_C(1) << shift));
    return true;
}

bool str_to_bool(const char *s, bool *out)
{
    static const char *const yes[] = {"on", "yes", "true", "y"}, *const no[] = {"off", "no", "false", "n"};

    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (!strcmp(s, yes[i])) {
            *out = true;
            return true;
        }
        if (!strcmp(s, no[i])) {
            *out = false;
            return true;
        }
    }
    return false;
}

/* Optimal string alignment distance (insert, delete, change, swap neighbours), case and -/_ ignored; words cut at 63.
 */
static unsigned distance(const char *a, const char *b)
{
    unsigned d[3][64], la = (unsigned)strnlen(a, 63), lb = (unsigned)strnlen(b, 63);
#define SAME(x, y)                                                                                                     \
    (tolower((unsigned char)((x) == '_' ? '-' : (x))) == tolower((unsigned char)((y) == '_' ? '-' : (y))))

    for (unsigned j = 0; j <= lb; j++)
        d[0][j] = j;
    for (unsigned i = 1; i <= la; i++) {
        unsigned *cur = d[i % 3], *prev = d[(i + 2) % 3], *prev2 = d[(i + 1) % 3];

        cur[0] = i;
        for (unsigned j = 1; j <= lb; j++) {
            unsigned c = prev[j - 1] + !SAME(a[i - 1], b[j - 1]);

            c = prev[j] + 1 < c ? prev[j] + 1 : c;
            c = cur[j - 1] + 1 < c ? cur[j - 1] + 1 : c;
            if (i > 1 && j > 1 && SAME(a[i - 1], b[j - 2]) && SAME(a[i - 2], b[j - 1]) && prev2[j - 2] + 1 < c)
                c = prev2[j - 2] + 1;
            cur[j] = c;
        }
    }
#undef SAME
    return d[la % 3][lb];
}

void str_nearest_init(struct str_nearest *n, const char *word)
{
    *n = (struct str_nearest){.word = word, .dist = UINT32_MAX};
}

void str_nearest_try(struct str_nearest *n, const char *cand)
{
    size_t len = strlen(n->word);
    unsigned d = distance(n->word, cand), limit = len <= 3 ? 1 : len <= 6 ? 2 : (unsigned)len / 3;

    if (len >= 3 && d > limit && str_starts(cand, n->word)) /* an unfinished word */
        d = limit;
    if (d <= limit && d < n->dist) {
        n->dist = d;
        n->best = cand;
    }
}

const char *str_nearest(const char *s, const char *const *list)
{
    struct str_nearest n;

    str_nearest_init(&n, s);
    for (; list && *list; list++)
        str_nearest_try(&n, *list);
    return n.best;
}

char *str_size(uint64_t bytes, char *buf, size_t n)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    unsigned u = 0;

    while (v >= 1000 && u + 1 < ARRAY_LEN(unit)) {
        v /= 1024;
        u++;
    }
    snprintf(buf, n, "%0.3g %s", v, unit[u]);
    return buf;
}
