/* Rings shared with a vhost-user peer, beside the guest's own. The device takes requests from the guest's queue with
 * all its checks, enters them here, and hands the answers back: the peer never sees or writes the guest's rings, what
 * it wrote into guest memory is reported like any device's (translated code, dirty pages), and requests that it had
 * begun when it went away are still there to be given to the next one.
 *
 * Split rings after VIRTIO 1.2, 2.7. Machine lock held. Everything in the shared memory is the peer's to change at any
 * time: it is read once and checked, and nothing is remembered there. */
#ifndef HW_VIRTIO_VHOST_RING_H
#define HW_VIRTIO_VHOST_RING_H

#include "hw/virtio/vhost_user.h"
#include "hw/virtio/virtio.h"

enum { VHOST_RING_NUM = 256 };

struct vhost_req {
    struct virtq_elem e; /* first */
    struct list link;    /* in its ring's sent or todo */
    uint16_t head, ndesc;
};
/* What the peer may reach: blocks of guest memory that are shared, and the rings. */
struct vhost_mem {
    struct vu_region r[VU_REGIONS];
    const uint8_t *host[VU_REGIONS];
    unsigned nr;
};
struct vhost_ring {
    uint8_t *base; /* borrowed: in the shared memory */
    uint64_t addr; /* of base, to the peer */
    int kick, call;
    uint16_t avail_idx, last_used;
    uint16_t next[VHOST_RING_NUM]; /* links of free descriptors, and of those of a request */
    uint16_t free;                 /* first of nr_free */
    unsigned nr_free;
    bool broken;
    struct vhost_req *req[VHOST_RING_NUM]; /* borrowed: by head */
    struct list sent;                      /* the peer has them */
    struct list todo;                      /* taken from the guest, not given to the peer yet; owned */
};
struct vhost_rings {
    struct vhost_ring *ring; /* owned */
    unsigned nr;
    int fd; /* owned */
    uint8_t *map;
    uint64_t size;
};

bool vhost_rings_init(struct vhost_rings *s, unsigned nr, struct err **errp);
void vhost_rings_free(struct vhost_rings *s); /* no request is left */
/* All shared memory of the machine, and the rings. False: more blocks than the protocol has room for. */
bool vhost_mem_fill(struct vhost_mem *m, struct mem_sys *sys, const struct vhost_rings *s, struct err **errp);
/* Ring i as vu_start_ring wants it. */
struct vu_ring vhost_ring_place(const struct vhost_rings *s, unsigned i);
/* Gives r to the peer. 0: no room now; -1: some of its memory is not shared. With indirect, a table is used. */
int vhost_ring_put(struct vhost_ring *q, struct vhost_req *r, const struct vhost_mem *m, bool indirect);
void vhost_ring_kick(struct vhost_ring *q); /* after one or more puts */
/* The next request the peer is done with, no longer in the ring; *len: bytes it says it wrote, no more than there was
 * room. NULL: none, or q->broken. */
struct vhost_req *vhost_ring_take(struct vhost_ring *q, uint32_t *len);
/* The peer is gone or has stopped: an empty ring, and what it had is to be done again, in the same order. */
void vhost_ring_restart(struct vhost_ring *q);

#endif
