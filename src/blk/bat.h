/* Block allocation tables: what vdi, vpc, parallels and sparse vmdk have in common. One 32-bit entry per block of the
 * disk says where the block lies in the file.
 *
 * Crash order, shared by all of them: a new block's data is written to space nothing refers to; its entry changes in
 * memory only. bat_commit() makes all data durable, then writes the changed sectors of the table. So after a crash
 *   B1  no durable entry points at space whose contents were not durable before it;
 *   B2  no space is ever given out twice (only at the end of the file; what was lost stays unused until repair).
 * A flush of the image commits and then flushes the file. */
#ifndef BLK_BAT_H
#define BLK_BAT_H

#include "base/bytes.h"
#include "blk/node.h"

struct bat {
    uint8_t *raw;   /* owned: the table as it is in the file */
    uint32_t nr;    /* entries */
    uint64_t off;   /* of the table in the file */
    bool big;       /* endian */
    uint8_t *dirty; /* owned: one byte per 512 bytes of table */
    bool any_dirty;
    int (*before)(struct blk_node *n); /* further metadata to write ahead of the table, lock held; may be NULL */
    struct fibre_mutex lock;           /* held while a block is being given space */
};
/* Reads nr entries at off; checks memory limits. */
bool bat_open(struct bat *b, struct blk_node *n, uint64_t off, uint64_t nr, bool big, const char *what,
              struct err **errp);
void bat_close(struct bat *b);
static inline uint32_t bat_get(const struct bat *b, uint64_t i)
{
    return b->big ? get_be32(b->raw + i * 4) : get_le32(b->raw + i * 4);
}
void bat_set(struct bat *b, uint64_t i, uint32_t v);
int bat_commit(struct bat *b, struct blk_node *n); /* in a fibre, or at start-up */

#endif
