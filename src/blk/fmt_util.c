/* Helpers of the formats; see the header. */
#include "blk/fmt_util.h"
#include <errno.h>

enum { PIECE = 1 << 20 };

int blk_read_ciphered(struct blk_child *c, uint64_t at, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff,
                      blk_cipher_fn *fn, void *opaque)
{
    uint8_t *buf AUTOFREE = try_alloc_aligned(4096, min_u64(len, PIECE));
    int r = buf ? 0 : -ENOMEM;

    while (len && r >= 0) {
        uint64_t part = min_u64(len, PIECE);

        r = blk_pread(c, at, buf, part);
        if (r < 0)
            break;
        fn(opaque, pos, buf, part, false);
        iov_from_buf(q, qoff, buf, part);
        at += part;
        pos += part;
        qoff += part;
        len -= part;
    }
    return r;
}

int blk_write_ciphered(struct blk_child *c, uint64_t at, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff,
                       blk_cipher_fn *fn, void *opaque)
{
    uint8_t *buf AUTOFREE = try_alloc_aligned(4096, min_u64(len, PIECE));
    int r = buf ? 0 : -ENOMEM;

    while (len && r >= 0) {
        uint64_t part = min_u64(len, PIECE);

        iov_to_buf(q, qoff, buf, part);
        fn(opaque, pos, buf, part, true);
        r = blk_pwrite(c, at, buf, part);
        at += part;
        pos += part;
        qoff += part;
        len -= part;
    }
    return r;
}
