/* Network peers: a NIC and a back end (user, tap, bridge, socket, stream, hub port ...) that hand each other frames.
 *
 * Each side is a struct net_peer; connecting two makes them each other's peer. A frame is a byte vector; offload state
 * travels in a struct net_frame. Machine lock held; deliveries on the main loop or the sender's thread. */
#ifndef NET_NET_H
#define NET_NET_H

#include "base/iov.h"
#include "obj/obj.h"
#include "run/run.h"

struct net_peer;
enum { NET_MAX_FRAME = 64 * 1024 + 256 };

struct net_ops {
    const char *type; /* "user", "tap", "nic", "hubport" ... */
    /* Takes one frame sent by the peer. Returns len, or 0 when it cannot now: the core queues the frame and calls again
     * after net_flush(peer). */
    size_t (*receive)(void *opaque, const struct iov *frame);
    bool (*can_receive)(void *opaque); /* NULL: always */
    /* The peer took its queue: net_can_send() may be true again. Any thread that holds the machine lock. May be NULL.
     */
    void (*send_ready)(void *opaque);
    void (*link_changed)(void *opaque, bool up);
    char *(*info)(void *opaque); /* text for `info network`, caller frees */
    void (*cleanup)(void *opaque);
    /* Offloads the peer may use: header of hdr_len bytes (virtio_net_hdr) before each frame; NULL = none. */
    bool (*set_vnet_hdr)(void *opaque, unsigned hdr_len);
    bool (*set_offload)(void *opaque, unsigned flags);
};
enum { NET_OFF_CSUM = 1, NET_OFF_TSO4 = 2, NET_OFF_TSO6 = 4, NET_OFF_ECN = 8, NET_OFF_UFO = 16 };

struct net_peer {
    char *id; /* owned */
    const struct net_ops *ops;
    void *opaque;
    struct net_peer *peer; /* NULL when unconnected */
    struct net_set *set;
    struct list link;
    struct list queue; /* frames waiting for this peer to receive */
    unsigned queued;
    uint64_t dropped; /* frames lost because the queue was full */
    struct list taps; /* of struct net_tap */
    bool link_down;
    unsigned vnet_hdr_len; /* bytes in front of frames this side sends and takes */
    char model[32];        /* NICs: class name */
    struct mac mac;
};
struct net_set *net_set_new(struct run *r);
void net_set_free(struct net_set *s);
void net_set_bind(struct net_set *s, void *machine_ctx);
struct net_set *net_set_of(void *machine_ctx);
/* -netdev TYPE,id=... ; class help and unknown types give errors with suggestions. */
struct net_peer *net_create(struct net_set *s, struct opts *o, struct err **errp);
struct net_peer *net_find(struct net_set *s, const char *id);
bool net_remove(struct net_set *s, const char *id, struct err **errp);
void net_each(struct net_set *s, void (*fn)(struct net_peer *p, void *opaque), void *opaque);

/* Back ends register themselves. */
struct net_backend {
    const char *type, *desc;
    const char *const *keys; /* NULL-terminated option names, for help and suggestions */
    struct net_peer *(*create)(struct net_set *s, const char *id, struct opts *o, struct err **errp);
};
struct net_backend_reg {
    const struct net_backend *be;
    struct net_backend_reg *next;
};
void net_backend_register(struct net_backend_reg *r);
const struct net_backend *net_backend_next(const struct net_backend *prev); /* name order */
#define NET_REGISTER(be_)                                                                                              \
    static struct net_backend_reg be_##_reg = {.be = &(be_)};                                                          \
    static void CONSTRUCTOR be_##_register(void)                                                                       \
    {                                                                                                                  \
        net_backend_register(&be_##_reg);                                                                              \
    }
/* For back ends: allocate the common part. */
struct net_peer *net_peer_new(struct net_set *s, const char *id, const struct net_ops *ops, void *opaque);
void net_peer_free(struct net_peer *p);
bool net_connect(struct net_peer *a, struct net_peer *b, struct err **errp); /* refused when either has a peer */

/* Looks at every frame a peer sends or receives (filter-dump). Embedded in its owner, which removes it first. */
struct net_tap {
    struct list link; /* in net_peer.taps */
    void (*frame)(void *opaque, const struct iov *frame, unsigned vnet_hdr_len);
    void *opaque;
};

/* Both sides. Returns the bytes taken (len), or 0 when the frame was queued (sent later) or dropped (queue full). */
size_t net_send(struct net_peer *from, const struct iov *frame);
size_t net_send_buf(struct net_peer *from, const void *buf, size_t len);
bool net_can_send(struct net_peer *from);
void net_flush(struct net_peer *to); /* `to` can receive again: deliver its queue */
void net_set_link(struct net_peer *p, bool up);
/* Text of `info network`: every NIC with its back end, then what is not connected. Caller frees. */
char *net_info(struct net_set *s);

/* User-mode network: forwards of the back end `id` (NULL: the first one of type user), as in hostfwd=. */
bool net_user_hostfwd_add(struct net_set *s, const char *id, const char *rule, struct err **errp);
bool net_user_hostfwd_remove(struct net_set *s, const char *id, const char *rule, struct err **errp);
char *net_user_info(struct net_set *s); /* `info usernet`; caller frees */

/* NIC configuration embedded in each NIC model; NET_NIC_PROPS gives mac, netdev, bootindex is the bus's. */
struct net_nic {
    struct net_peer *peer;    /* own side, made by net_nic_init */
    struct net_peer *backend; /* property netdev: what to connect to; NULL = cable unplugged */
    struct mac mac;           /* property; all zero = assigned: 52:54:00:12:34:56 counting up */
};
extern const struct prop_type net_prop; /* "netdev" by id; field is struct net_peer * */
#define NET_NIC_PROPS(S, f)                                                                                            \
    {.name = "netdev", .type = &net_prop, .off = offsetof(S, f.backend)},                                              \
    {                                                                                                                  \
        .name = "mac", .type = &prop_mac, .off = offsetof(S, f.mac)                                                    \
    }
bool net_nic_init(struct net_nic *n, void *machine_ctx, const struct net_ops *ops, void *opaque, const char *model,
                  const char *id, struct err **errp);
void net_nic_fini(struct net_nic *n);

#endif
