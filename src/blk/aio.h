/* The kernel's two asynchronous interfaces, for aio=native (io_submit) and aio=io_uring. One engine of each kind per
 * set, made on first use; completions arrive by eventfd on the set's loop. */
#ifndef BLK_AIO_H
#define BLK_AIO_H

#include "blk/node.h"

enum blk_engine { BLK_ENGINE_THREADS, BLK_ENGINE_NATIVE, BLK_ENGINE_URING };
struct blk_aio;
/* NULL with an error when the kernel or this build has no such engine. */
struct blk_aio *blk_aio_new(struct blk_set *s, enum blk_engine kind, struct err **errp);
/* Makes the set's engine now: who shuts itself in cannot later. Its failure is told when a file wants it. */
void blk_aio_prepare(struct blk_set *s, enum blk_engine kind);
void blk_aio_free(struct blk_aio *a);
/* One vectored transfer; the fibre waits. Bytes moved, or -errno; -EAGAIN: the queue is full, do it another way. */
int64_t blk_aio_rw(struct blk_aio *a, int fd, const struct iovec *v, unsigned nr, uint64_t off, bool write);

#endif
