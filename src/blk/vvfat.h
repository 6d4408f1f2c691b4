/* Private to the two halves of the folder disk: proto_vvfat.c makes the disk from the folder and answers reads,
 * vvfat_write.c keeps what the guest wrote and brings it into the folder. */
#ifndef BLK_VVFAT_H
#define BLK_VVFAT_H

#include "blk/node.h"
#include <time.h>

enum { SECT = 512, MAX_DEPTH = 32, MAX_NODES = 100000, ATTR_DIR = 0x10, ATTR_VOLUME = 8, ATTR_LFN = 0xf };

/* A file or folder of the tree, in cluster order after layout. */
struct item {
    char *path; /* owned, relative to dir; "" = the root */
    bool is_dir;
    uint64_t size;  /* of the file as found, or of the directory's bytes */
    uint8_t *bytes; /* owned: a directory's entries */
    size_t cap;
    uint32_t first, nr; /* clusters */
    unsigned parent;
    time_t when;
    uint8_t short_name[11];
};
struct vvfat_rw;
struct vvfat {
    int dirfd; /* owned */
    unsigned bits;
    bool floppy;
    uint32_t spc;                                              /* sectors per cluster */
    uint32_t reserved, fat_sectors, root_sectors, part, total; /* sectors; total of the partition */
    uint64_t clusters;
    struct item *it; /* owned */
    unsigned nr, cap;
    uint8_t *fat; /* owned: fat_sectors * SECT bytes */
    uint8_t boot[SECT], mbr[SECT], info[SECT];
    uint32_t root_first;
    char label[12];
    struct vvfat_rw *rw; /* owned; NULL = only read */
};

/* One sector of the disk as the folder gave it. Any thread. */
void vvfat_made_sector(struct vvfat *s, uint64_t sec, uint8_t *buf);
/* A request as a worker thread is given it; off and len are whole sectors. */
struct vvfat_job {
    struct vvfat *s;
    uint64_t off, len, qoff;
    const struct iov *q;
};
/* Reads sector by sector; 0 or the first -errno. */
int vvfat_job_read(const struct vvfat_job *j, int (*sector)(struct vvfat *s, uint64_t sec, uint8_t *buf));
static inline uint64_t vvfat_cluster_sector(const struct vvfat *s, uint32_t c)
{
    return (uint64_t)s->part + s->reserved + 2 * (uint64_t)s->fat_sectors + s->root_sectors +
           (uint64_t)(c - 2) * s->spc;
}
/* The item whose bytes lay in cluster c at the start, or NULL. */
const struct item *vvfat_item_at(const struct vvfat *s, uint32_t c);

/* The writing half. vvfat_rw_new: after the disk was made; the folder must be one that FAT can say. */
bool vvfat_rw_new(struct blk_node *n, struct err **errp);
/* What was not brought into the folder is told and lost. */
void vvfat_rw_free(struct vvfat *s);
/* In fibres; len and off are whole sectors. */
int vvfat_rw_read(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff);
int vvfat_rw_write(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff);
int vvfat_rw_zero(struct blk_node *n, uint64_t off, uint64_t len);
/* Brings the disk's files into the folder if the disk is in order, else leaves the folder as it is. */
int vvfat_rw_flush(struct blk_node *n);

#endif
