/* Scatter-gather vectors. */
#include "base/iov.h"

void iov_init(struct iov *q, unsigned cap)
{
    *q = (struct iov){.cap = cap ? cap : 1};
    q->v = xcalloc(q->cap, sizeof *q->v);
}

void iov_init_ext(struct iov *q, struct iovec *v, unsigned nr)
{
    *q = (struct iov){.v = v, .nr = nr, .len = iov_size(v, nr)};
}

void iov_add(struct iov *q, void *base, size_t len)
{
    if (!len)
        return;
    assert(q->cap || !q->nr); /* never grows a borrowed array */
    if (q->nr == q->cap) {
        q->cap = q->cap ? q->cap * 2 : 4;
        q->v = xrealloc(q->v, q->cap * sizeof *q->v);
    }
    q->v[q->nr++] = (struct iovec){base, len};
    q->len += len;
}

void iov_add_part(struct iov *q, const struct iov *src, uint64_t off, uint64_t len)
{
    for (unsigned i = 0; i < src->nr && len; i++) {
        size_t seg = src->v[i].iov_len, n;

        if (off >= seg) {
            off -= seg;
            continue;
        }
        n = (size_t)min_u64(seg - off, len);
        iov_add(q, (char *)src->v[i].iov_base + off, n);
        len -= n;
        off = 0;
    }
}

void iov_reset(struct iov *q)
{
    q->nr = 0;
    q->len = 0;
}

void iov_free(struct iov *q)
{
    if (q->cap)
        free(q->v);
    *q = (struct iov){0};
}

enum copy { COPY_IN, COPY_OUT, COPY_SET };

static size_t walk(const struct iov *q, uint64_t off, void *buf, int byte, size_t len, enum copy how)
{
    size_t done = 0;

    for (unsigned i = 0; i < q->nr && done < len; i++) {
        size_t seg = q->v[i].iov_len, n;
        char *p;

        if (off >= seg) {
            off -= seg;
            continue;
        }
        n = (size_t)min_u64(seg - off, len - done);
        p = (char *)q->v[i].iov_base + off;
        if (how == COPY_IN)
            memcpy(p, (char *)buf + done, n);
        else if (how == COPY_OUT)
            memcpy((char *)buf + done, p, n);
        else
            memset(p, byte, n);
        done += n;
        off = 0;
    }
    return done;
}

size_t iov_from_buf(const struct iov *q, uint64_t off, const void *buf, size_t len)
{
    return walk(q, off, (void *)(uintptr_t)buf, 0, len, COPY_IN);
}

size_t iov_to_buf(const struct iov *q, uint64_t off, void *buf, size_t len)
{
    return walk(q, off, buf, 0, len, COPY_OUT);
}

size_t iov_set(const struct iov *q, uint64_t off, int byte, size_t len)
{
    return walk(q, off, NULL, byte, len, COPY_SET);
}

static bool bytes_are_zero(const uint8_t *p, size_t n)
{
    return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

bool iov_is_zero(const struct iov *q, uint64_t off, uint64_t len)
{
    for (unsigned i = 0; i < q->nr && len; i++) {
        size_t seg = q->v[i].iov_len, n;

        if (off >= seg) {
            off -= seg;
            continue;
        }
        n = (size_t)min_u64(seg - off, len);
        if (!bytes_are_zero((uint8_t *)q->v[i].iov_base + off, n))
            return false;
        len -= n;
        off = 0;
    }
    return true;
}

uint64_t iov_size(const struct iovec *v, unsigned nr)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < nr; i++)
        n += v[i].iov_len;
    return n;
}
