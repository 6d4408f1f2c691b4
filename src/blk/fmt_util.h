/* Small helpers several drivers share. */
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

/* Requests that a filter lets through to n->file as they are; its size is what lies below. */
int blk_pass_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags);
int blk_pass_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                     unsigned flags);
int blk_pass_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags);
int blk_pass_discard(struct blk_node *n, uint64_t off, uint64_t len);
uint64_t blk_pass_length(struct blk_node *n);
int blk_pass_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp);

/* Formats whose disk is cut into units of `unit` bytes, each in one piece in n->file or nowhere. host(n, i): where unit
 * i lies, 0 = nowhere, which reads as zeros. */
typedef uint64_t blk_host_fn(struct blk_node *n, uint64_t i);
int blk_mapped_read(struct blk_node *n, uint64_t unit, blk_host_fn *host, uint64_t off, uint64_t len,
                    const struct iov *q, uint64_t qoff);
int blk_mapped_status(struct blk_node *n, uint64_t unit, blk_host_fn *host, uint64_t off, uint64_t len,
                      struct blk_extent *e);

/* Do the options name a child of this role, as a node or by keys of its own? */
bool blk_opts_child(struct opts *o, const char *role);

#endif
