/* Scatter-gather vectors over struct iovec. A vector never owns the bytes it points at. */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include "base/util.h"
#include <sys/uio.h>

/* A growable list of segments with a total length. */
struct iov {
    struct iovec *v; /* owned array when cap > 0, else borrowed */
    unsigned nr, cap;
    uint64_t len;
};
void iov_init(struct iov *q, unsigned cap_hint);
/* Borrowed view of an array the caller keeps alive. */
void iov_init_ext(struct iov *q, struct iovec *v, unsigned nr);
void iov_add(struct iov *q, void *base, size_t len);
/* Appends the [off, off+len) part of src's segments. */
void iov_add_part(struct iov *q, const struct iov *src, uint64_t off, uint64_t len);
void iov_reset(struct iov *q);
void iov_free(struct iov *q);
/* Each copies at most what both sides hold, starting off bytes into the vector; returns the bytes copied. */
size_t iov_from_buf(const struct iov *q, uint64_t off, const void *buf, size_t len);
size_t iov_to_buf(const struct iov *q, uint64_t off, void *buf, size_t len);
size_t iov_set(const struct iov *q, uint64_t off, int byte, size_t len);
bool iov_is_zero(const struct iov *q, uint64_t off, uint64_t len);
uint64_t iov_size(const struct iovec *v, unsigned nr);

#endif
