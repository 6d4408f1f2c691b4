/* The property iothread-vq-mapping: a list of {"iothread": ID, "vqs": [queue, ...]}; without any "vqs" the queues go to
 * the I/O threads in turn. Each queue has exactly one. */
#ifndef HW_VIRTIO_VQ_MAP_H
#define HW_VIRTIO_VQ_MAP_H

#include "hw/virtio/virtio.h"

enum { VQ_MAP_MAX = VIRTIO_QUEUES };
struct vq_map {
    unsigned nr;
    struct vq_map_entry {
        char *id; /* owned */
        bool explicit_vqs;
        bool vqs[VIRTIO_QUEUES];
        struct iothread *io; /* borrowed, after vq_map_resolve */
    } * e;                   /* owned: nr of them */
};
extern const struct prop_type prop_vq_map;

struct blk_set;
/* Finds the I/O threads and checks that each of nr_queues queues has one. An empty mapping is fine. */
bool vq_map_resolve(struct vq_map *m, struct blk_set *s, unsigned nr_queues, struct err **errp);
struct iothread *vq_map_of(const struct vq_map *m, unsigned queue); /* NULL: the mapping is empty */

#endif
