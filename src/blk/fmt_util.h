/* Small helpers several formats share. */
#ifndef BLK_FMT_UTIL_H
#define BLK_FMT_UTIL_H

#include "base/bytes.h"
#include "base/json.h"
#include "blk/node.h"

/* Ciphers len bytes of buf, which lie at `pos` in the cipher's own counting of bytes. */
typedef void blk_cipher_fn(void *opaque, uint64_t pos, uint8_t *buf, size_t len, bool encrypt);
/* Read and decrypt, encrypt and write, through a buffer: guest memory never holds the other form. */
int blk_read_ciphered(struct blk_child *c, uint64_t at, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff,
                      blk_cipher_fn *fn, void *opaque);
int blk_write_ciphered(struct blk_child *c, uint64_t at, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff,
                       blk_cipher_fn *fn, void *opaque);

#endif
