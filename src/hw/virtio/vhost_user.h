/* The device's end of a vhost-user connection: a program elsewhere works on rings and memory that are shared with it.
 *
 * Every call is one exchange of messages and waits for it, at most VU_WAIT_MS; machine lock held. What the peer sends
 * is bounded and checked. After a failure the connection is shut down, which the chardev reports as CHR_CLOSED. */
#ifndef HW_VIRTIO_VHOST_USER_H
#define HW_VIRTIO_VHOST_USER_H

#include "base/err.h"
#include "chr/chr.h"

enum { VU_WAIT_MS = 10000, VU_REGIONS = 8, VU_CONFIG_MAX = 256 };
#define VU_F_PROTOCOL (UINT64_C(1) << 30) /* in the features: the peer has protocol features */

struct vu_conn {
    struct chr_fe fe;
    uint64_t features; /* the peer's */
    uint64_t proto;    /* agreed on */
    unsigned max_queues;
};
struct vu_region {
    uint64_t addr, size, off; /* addr: in descriptors and ring addresses alike */
    int fd;                   /* borrowed */
};
struct vu_ring {
    uint16_t num;
    uint64_t desc, avail, used; /* as addresses of the regions */
    int kick, call;             /* borrowed */
};
/* Who the peer is and what it offers: fills the struct. */
bool vu_hello(struct vu_conn *c, struct err **errp);
bool vu_get_config(struct vu_conn *c, uint8_t *cfg, unsigned len, struct err **errp);
bool vu_set_config(struct vu_conn *c, unsigned off, const uint8_t *val, unsigned len, struct err **errp);
bool vu_set_features(struct vu_conn *c, uint64_t features, struct err **errp);
bool vu_set_memory(struct vu_conn *c, const struct vu_region *r, unsigned nr, struct err **errp);
/* Hands ring i over; the peer starts with entry 0. */
bool vu_start_ring(struct vu_conn *c, unsigned i, const struct vu_ring *r, struct err **errp);
/* The peer has ended what it had begun of ring i, and leaves it alone. */
bool vu_stop_ring(struct vu_conn *c, unsigned i, struct err **errp);
/* The peer broke the rules, or takes too long: no more of it. */
void vu_hang_up(struct vu_conn *c);
static inline bool vu_connected(struct vu_conn *c)
{
    return chr_fe_socket(&c->fe) >= 0;
}

#endif
