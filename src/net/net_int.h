/* Private to the room: the set of peers of one machine. */
#ifndef NET_NET_INT_H
#define NET_NET_INT_H

#include "net/net.h"

enum { NET_QUEUE_MAX = 1024, NET_MACS = 256 };

struct net_set {
    struct obj obj;              /* first; appears in the machine's tree so that properties find it */
    struct run *run;             /* borrowed */
    struct list peers;           /* of struct net_peer */
    struct list hubs;            /* of struct net_hub, private to hub.c */
    uint16_t mac_used[NET_MACS]; /* users of 52:54:00:12:34:56 + i */
};

/* A port of hub number `hub`, which comes to life with its first port. */
struct net_peer *net_hub_port(struct net_set *s, int hub, const char *id, struct err **errp);
/* 32-bit or smaller number in opts with bounds; leaves *out alone when absent. */
bool net_opt_int(struct opts *o, const char *key, uint64_t max, uint64_t *out, struct err **errp) NODISCARD;

#endif
