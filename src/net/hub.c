/* Hubs: every frame that enters one port leaves through all others. `-net` puts NICs and back ends on hub 0; hubport is
 * the same for -netdev. */
#include "base/str.h"
#include "net/net_int.h"

enum { HUB_MAX = 65535, HUB_PORTS_MAX = 256 };

struct net_hub {
    struct list link; /* in set->hubs */
    int number;
    struct list ports; /* of struct hub_port */
    unsigned nr;
};
struct hub_port {
    struct list link;
    struct net_hub *hub;
    struct net_peer *peer;
};

static size_t port_receive(void *opaque, const struct iov *frame)
{
    struct hub_port *from = opaque, *to;

    list_each (to, &from->hub->ports, link)
        if (to != from)
            net_send(to->peer, frame);
    return frame->len;
}

/* Someone must have room; who has none gets the frame queued. */
static bool port_can_receive(void *opaque)
{
    struct hub_port *from = opaque, *to;
    bool others = false;

    list_each (to, &from->hub->ports, link)
        if (to != from) {
            others = true;
            if (net_can_send(to->peer))
                return true;
        }
    return !others;
}

static void port_ready(void *opaque)
{
    struct hub_port *from = opaque, *to;

    list_each (to, &from->hub->ports, link)
        if (to != from)
            net_flush(to->peer);
}

static char *port_info(void *opaque)
{
    struct hub_port *p = opaque;

    return xasprintf("hubid=%d", p->hub->number);
}

static void port_cleanup(void *opaque)
{
    struct hub_port *p = opaque;
    struct net_hub *h = p->hub;

    list_del(&p->link);
    free(p);
    if (!--h->nr) {
        list_del(&h->link);
        free(h);
    }
}
static const struct net_ops port_ops = {.type = "hubport",
                                        .receive = port_receive,
                                        .can_receive = port_can_receive,
                                        .send_ready = port_ready,
                                        .info = port_info,
                                        .cleanup = port_cleanup};

static struct net_hub *hub_get(struct net_set *s, int number)
{
    struct net_hub *h;

    list_each (h, &s->hubs, link)
        if (h->number == number)
            return h;
    h = xnew(struct net_hub);
    h->number = number;
    list_init(&h->ports);
    list_add(&s->hubs, &h->link);
    return h;
}

struct net_peer *net_hub_port(struct net_set *s, int number, const char *id, struct err **errp)
{
    struct net_hub *h = hub_get(s, number);
    struct hub_port *p;

    if (h->nr == HUB_PORTS_MAX)
        return err_set(errp, "hub %d has no more than %d ports", number, HUB_PORTS_MAX), NULL;
    p = xnew(struct hub_port);
    p->hub = h;
    p->peer = net_peer_new(s, id, &port_ops, p);
    list_add(&h->ports, &p->link);
    h->nr++;
    return p->peer;
}

static struct net_peer *hubport_create(struct net_set *s, const char *id, struct opts *o, struct err **errp)
{
    uint64_t number = 0;
    const char *nd = opts_get(o, "netdev");
    struct net_peer *p, *b = NULL;

    if (!opts_peek(o, "hubid"))
        return err_set(errp, "netdev 'hubport' needs hubid=, the number of the hub"), NULL;
    if (!net_opt_int(o, "hubid", HUB_MAX, &number, errp))
        return NULL;
    if (nd && !(b = net_find(s, nd)))
        return err_set(errp, "hubport: no network back end with id '%s'", nd), NULL;
    if (b && b->peer)
        return err_set(errp, "hubport: network back end '%s' is already in use by '%s'", nd, b->peer->id), NULL;
    p = net_hub_port(s, (int)number, id, errp);
    if (p && b)
        net_connect(p, b, NULL);
    return p;
}
static const char *const hubport_keys[] = {"hubid", "netdev", NULL};
static const struct net_backend hubport_backend = {"hubport", "port of a hub that joins several peers", hubport_keys,
                                                   hubport_create};
NET_REGISTER(hubport_backend)
