/* Partitions of an image: MBR with logical ones, GPT. */
#ifndef CMD_NBD_PART_H
#define CMD_NBD_PART_H

#include "blk/node.h"

enum { NBD_PART_MAX = 128 };
struct nbd_part {
    unsigned nr; /* as in /dev/sdXn */
    uint64_t off, len;
    char kind[40]; /* MBR type or GPT type GUID */
    char name[40]; /* GPT, as far as it is ASCII */
};
/* All of them, in order of the table; count, or -1 when the image has no table. out: NBD_PART_MAX. */
int nbd_parts(struct blk_node *n, struct nbd_part *out);
bool nbd_part_find(struct blk_node *n, unsigned want, uint64_t *off, uint64_t *len, struct err **errp);

#endif
