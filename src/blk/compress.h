/* Whole-buffer compression on a worker thread. */
#ifndef BLK_COMPRESS_H
#define BLK_COMPRESS_H

#include "blk/node.h"

/* DEFLATE: raw stream, 4 KiB window (qcow and qcow2). ZLIB: with header and checksum. */
enum blk_comp { BLK_DEFLATE, BLK_ZLIB, BLK_ZSTD, BLK_BZIP2 };
/* Bytes written, or -ENOSPC when the result does not fit in cap. */
int blk_compress(struct blk_set *s, enum blk_comp how, const uint8_t *src, size_t len, uint8_t *dst, size_t cap);
/* Fills dst exactly; 0 or -EIO. src may have bytes after the end of the stream. */
int blk_decompress(struct blk_set *s, enum blk_comp how, const uint8_t *src, size_t len, uint8_t *dst, size_t want);

#endif
