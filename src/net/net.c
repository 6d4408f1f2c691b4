/* Peers of a network: who is connected to whom, bounded queues between them, NIC set-up and MAC assignment.
 *
 * A frame goes straight to the peer's receive(). When that cannot take it, or older frames still wait, it is copied to
 * the peer's queue (at most NET_QUEUE_MAX, then dropped and counted) until the peer calls net_flush(). */
#include "base/str.h"
#include "net/net_int.h"

struct queued {
    struct list link;
    size_t len;
    uint8_t bytes[];
};

/* ---- back-end registry: filled before main, then read-only ---- */

static struct net_backend_reg *backends;

void net_backend_register(struct net_backend_reg *r)
{
    struct net_backend_reg **p = &backends;

    while (*p && strcmp((*p)->be->type, r->be->type) < 0)
        p = &(*p)->next;
    r->next = *p;
    *p = r;
}

const struct net_backend *net_backend_next(const struct net_backend *prev)
{
    struct net_backend_reg *r = backends;

    if (prev) {
        while (r && r->be != prev)
            r = r->next;
        r = r ? r->next : NULL;
    }
    return r ? r->be : NULL;
}

/* Types of other emulators that have no body here, and what serves instead. */
static const char *const absent[][2] = {
    {"vde", "run vde_plug over a socket and use stream, or use tap"},
    {"l2tpv3", "use the host's own l2tp interface with tap"},
    {"vhost-user", "use stream, which the same programs offer"},
    {"vhost-vdpa", "use tap"},
    {"netmap", "use tap"},
};

static const struct net_backend *backend_find(const char *type, struct err **errp)
{
    const struct net_backend *be = NULL;
    struct str_nearest near;

    str_nearest_init(&near, type);
    while ((be = net_backend_next(be))) {
        if (!strcmp(be->type, type))
            return be;
        str_nearest_try(&near, be->type);
    }
    for (unsigned i = 0; i < ARRAY_LEN(absent); i++)
        if (!strcmp(absent[i][0], type))
            return err_set(errp, "network back end '%s' is not offered; %s", type, absent[i][1]), NULL;
    err_set(errp, "unknown network back end '%s'; '-netdev help' lists them", type);
    if (near.best)
        err_hint(errp, "Did you mean '%s'?", near.best);
    return NULL;
}

/* ---- the set ---- */

static const struct obj_class net_set_class = {.name = "net-set", .size = sizeof(struct net_set)};

struct net_set *net_set_new(struct run *r)
{
    struct net_set *s = (struct net_set *)obj_new(&net_set_class, NULL);

    s->run = r;
    list_init(&s->peers);
    list_init(&s->hubs);
    return s;
}

void net_set_free(struct net_set *s)
{
    struct net_peer *p;

    if (!s)
        return;
    while ((p = list_first(&s->peers, struct net_peer, link)))
        net_peer_free(p);
    if (s->obj.parent)
        obj_unparent(&s->obj);
    obj_unref(&s->obj);
}

void net_set_bind(struct net_set *s, void *machine_ctx)
{
    s->obj.ctx = machine_ctx;
    obj_put_beside(machine_ctx, "netdevs", &s->obj);
}

struct net_set *net_set_of(void *machine_ctx)
{
    return (struct net_set *)obj_beside(machine_ctx, "netdevs", &net_set_class);
}

struct net_peer *net_find(struct net_set *s, const char *id)
{
    struct net_peer *p;

    list_each (p, &s->peers, link)
        if (!strcmp(p->id, id))
            return p;
    return NULL;
}

void net_each(struct net_set *s, void (*fn)(struct net_peer *p, void *opaque), void *opaque)
{
    struct net_peer *p, *tmp;

    list_each_safe (p, tmp, &s->peers, link)
        fn(p, opaque);
}

struct net_peer *net_create(struct net_set *s, struct opts *o, struct err **errp)
{
    const char *type = opts_get(o, "type"), *id = opts_get(o, "id");
    const struct net_backend *be;
    struct net_peer *p;
    AUTOFREE char *what = NULL;

    if (!type)
        return err_set(errp, "netdev: the type is missing; '-netdev help' lists them"), NULL;
    be = backend_find(type, errp);
    if (!be)
        return NULL;
    if (!id)
        return err_set(errp, "netdev '%s' needs an id, as in -netdev %s,id=net0", type, type), NULL;
    if (net_find(s, id))
        return err_set(errp, "netdev: id '%s' is already in use", id), NULL;
    p = be->create(s, id, o, errp);
    if (!p)
        return NULL;
    what = xasprintf("netdev '%s'", type);
    if (!opts_done(o, what, be->keys, errp)) {
        net_peer_free(p);
        return NULL;
    }
    return p;
}

bool net_remove(struct net_set *s, const char *id, struct err **errp)
{
    struct net_peer *p = net_find(s, id);

    if (!p)
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "no network back end with id '%s'", id);
    if (!strcmp(p->ops->type, "nic"))
        return err_set(errp, "'%s' is a network card, not a back end; use device_del", id);
    net_peer_free(p);
    return true;
}

bool net_opt_int(struct opts *o, const char *key, uint64_t max, uint64_t *out, struct err **errp)
{
    uint64_t v = *out;

    if (!opts_u64(o, key, &v, errp))
        return false;
    if (v > max)
        return err_set(errp, "%s=%" PRIu64 " is more than %" PRIu64, key, v, max);
    *out = v;
    return true;
}

/* ---- peers ---- */

struct net_peer *net_peer_new(struct net_set *s, const char *id, const struct net_ops *ops, void *opaque)
{
    struct net_peer *p = xnew(struct net_peer);

    p->id = xstrdup(id);
    p->ops = ops;
    p->opaque = opaque;
    p->set = s;
    list_init(&p->queue);
    list_init(&p->taps);
    list_add(&s->peers, &p->link);
    return p;
}

static void queue_drop(struct net_peer *p)
{
    struct queued *q;

    while ((q = list_first(&p->queue, struct queued, link))) {
        list_del(&q->link);
        free(q);
    }
    p->queued = 0;
}

void net_peer_free(struct net_peer *p)
{
    if (!p)
        return;
    struct net_peer *other = p->peer;

    p->peer = NULL;
    if (other) {
        other->peer = NULL;
        queue_drop(other);
        if (other->ops->link_changed)
            other->ops->link_changed(other->opaque, false);
    }
    if (p->ops->cleanup)
        p->ops->cleanup(p->opaque);
    queue_drop(p);
    while (!list_empty(&p->taps))
        list_del(p->taps.next);
    list_del(&p->link);
    free(p->id);
    free(p);
}

bool net_connect(struct net_peer *a, struct net_peer *b, struct err **errp)
{
    struct net_peer *busy = a->peer ? a : b->peer ? b : NULL;

    if (busy)
        return err_set(errp, "network back end '%s' is already in use by '%s'", busy->id, busy->peer->id);
    a->peer = b;
    b->peer = a;
    return true;
}

/* ---- frames ---- */

static void show_taps(struct net_peer *p, const struct iov *frame, unsigned hdr)
{
    struct net_tap *t, *tmp;

    list_each_safe (t, tmp, &p->taps, link)
        t->frame(t->opaque, frame, hdr);
}

/* Hands over one frame as `from` sends it, adding or removing the offload header where only one side has it. */
static size_t deliver(struct net_peer *to, const struct iov *frame, unsigned from_hdr)
{
    static const uint8_t zero[32];
    unsigned to_hdr = to->vnet_hdr_len;
    struct iov q;
    size_t n;

    if (from_hdr == to_hdr)
        return to->ops->receive(to->opaque, frame) ? frame->len : 0;
    if (frame->len < from_hdr)
        return frame->len;
    iov_init(&q, frame->nr + 1);
    if (to_hdr)
        iov_add(&q, (void *)(uintptr_t)zero, min_u64(to_hdr, sizeof zero));
    iov_add_part(&q, frame, from_hdr, frame->len - from_hdr);
    n = to->ops->receive(to->opaque, &q);
    iov_free(&q);
    return n ? frame->len : 0;
}

static bool ready(struct net_peer *p)
{
    return !p->ops->can_receive || p->ops->can_receive(p->opaque);
}

static void enqueue(struct net_peer *to, const struct iov *frame, unsigned hdr)
{
    struct queued *q;

    if (to->queued >= NET_QUEUE_MAX || frame->len > NET_MAX_FRAME) {
        to->dropped++;
        return;
    }
    q = try_alloc(1, sizeof *q + frame->len + sizeof hdr);
    if (!q) {
        to->dropped++;
        return;
    }
    q->len = frame->len;
    iov_to_buf(frame, 0, q->bytes, frame->len);
    memcpy(q->bytes + q->len, &hdr, sizeof hdr);
    list_add(&to->queue, &q->link);
    to->queued++;
}

size_t net_send(struct net_peer *from, const struct iov *frame)
{
    struct net_peer *to = from->peer;

    if (unlikely(!list_empty(&from->taps)))
        show_taps(from, frame, from->vnet_hdr_len);
    if (!to || from->link_down || to->link_down)
        return frame->len; /* nobody there: the wire swallows it */
    if (unlikely(!list_empty(&to->taps)))
        show_taps(to, frame, from->vnet_hdr_len);
    if (list_empty(&to->queue) && ready(to)) {
        size_t n = deliver(to, frame, from->vnet_hdr_len);
        if (n)
            return n;
    }
    enqueue(to, frame, from->vnet_hdr_len);
    return 0;
}

size_t net_send_buf(struct net_peer *from, const void *buf, size_t len)
{
    struct iovec v = {(void *)(uintptr_t)buf, len};
    struct iov q;

    iov_init_ext(&q, &v, 1);
    return net_send(from, &q);
}

bool net_can_send(struct net_peer *from)
{
    struct net_peer *to = from->peer;

    if (!to || from->link_down || to->link_down)
        return true;
    return list_empty(&to->queue) && ready(to);
}

void net_flush(struct net_peer *to)
{
    struct queued *q;

    while (ready(to) && (q = list_first(&to->queue, struct queued, link))) {
        struct iovec v = {q->bytes, q->len};
        struct iov f;
        unsigned hdr;

        memcpy(&hdr, q->bytes + q->len, sizeof hdr);
        iov_init_ext(&f, &v, 1);
        /* Out of the list first: receive may send, and so flush, in turn. */
        list_del(&q->link);
        to->queued--;
        if (!deliver(to, &f, hdr)) {
            list_add_head(&to->queue, &q->link);
            to->queued++;
            return;
        }
        free(q);
    }
    if (to->peer && to->peer->ops->send_ready && list_empty(&to->queue))
        to->peer->ops->send_ready(to->peer->opaque);
}

void net_set_link(struct net_peer *p, bool up)
{
    if (p->link_down == !up)
        return;
    p->link_down = !up;
    if (p->ops->link_changed)
        p->ops->link_changed(p->opaque, up);
    /* Pulling the cable at the back end is what the card sees. */
    if (p->peer && p->peer->ops->link_changed)
        p->peer->ops->link_changed(p->peer->opaque, up && !p->peer->link_down);
}

/* ---- NICs ---- */

static const uint8_t first_mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

static int mac_slot(const struct mac *m)
{
    uint32_t low = (uint32_t)m->a[3] << 16 | m->a[4] << 8 | m->a[5];

    if (memcmp(m->a, first_mac, 3) || low < 0x123456 || low >= 0x123456 + NET_MACS)
        return -1;
    return low - 0x123456;
}

static bool mac_assign(struct net_set *s, struct mac *m, struct err **errp)
{
    static const struct mac none;
    int slot;

    if (memcmp(m, &none, sizeof none)) {
        if (m->a[0] & 1)
            return err_set(errp,
                           "MAC address %02x:%02x:%02x:%02x:%02x:%02x is a group address; the lowest bit of the first "
                           "byte must be 0",
                           m->a[0], m->a[1], m->a[2], m->a[3], m->a[4], m->a[5]);
    } else {
        for (slot = 0; slot < NET_MACS && s->mac_used[slot]; slot++)
            ;
        if (slot == NET_MACS)
            return err_set(errp, "all %d automatic MAC addresses are taken; give mac=", NET_MACS);
        uint32_t low = 0x123456 + slot;
        *m = (struct mac){{0x52, 0x54, 0x00, low >> 16, low >> 8, low}};
    }
    slot = mac_slot(m);
    if (slot >= 0)
        s->mac_used[slot]++;
    return true;
}

bool net_nic_init(struct net_nic *n, void *machine_ctx, const struct net_ops *ops, void *opaque, const char *model,
                  const char *id, struct err **errp)
{
    struct net_set *s = net_set_of(machine_ctx);
    AUTOFREE char *name = NULL;

    if (!s)
        return err_set(errp, "%s: this machine has no network", model);
    if (n->backend && n->backend->peer)
        return err_set(errp, "%s: network back end '%s' is already in use by '%s'", model, n->backend->id,
                       n->backend->peer->id);
    if (!mac_assign(s, &n->mac, errp))
        return false;
    for (unsigned i = 0; !name && !id; i++) {
        name = xasprintf("%s.%u", model, i);
        if (net_find(s, name)) {
            free(name);
            name = NULL;
        }
    }
    n->peer = net_peer_new(s, id ? id : name, ops, opaque);
    n->peer->mac = n->mac;
    strncpy(n->peer->model, model, sizeof n->peer->model - 1);
    if (n->backend)
        net_connect(n->peer, n->backend, NULL);
    return true;
}

void net_nic_fini(struct net_nic *n)
{
    if (!n->peer)
        return;
    int slot = mac_slot(&n->mac);
    if (slot >= 0 && n->peer->set->mac_used[slot])
        n->peer->set->mac_used[slot]--;
    net_peer_free(n->peer);
    n->peer = NULL;
    n->backend = NULL;
}

/* ---- the "netdev" property ---- */

static bool netdev_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    struct net_set *s = net_set_of(o->ctx);
    struct net_peer *b = s ? net_find(s, val) : NULL;

    if (!b || !strcmp(b->ops->type, "nic"))
        return err_set(errp, "property '%s': no network back end with id '%s'; define it with -netdev TYPE,id=%s",
                       p->name, val, val);
    if (b->peer)
        return err_set(errp, "network back end '%s' is already in use by '%s'", b->id, b->peer->id);
    *(struct net_peer **)field = b;
    return true;
}

static char *netdev_get(struct obj *o, const struct prop *p, const void *field)
{
    const struct net_peer *b = *(struct net_peer *const *)field, *it;
    struct net_set *s = net_set_of(o->ctx);

    if (b && s) /* the back end may have been removed since */
        list_each (it, &s->peers, link)
            if (it == b)
                return xstrdup(b->id);
    return NULL;
}
const struct prop_type net_prop = {.name = "str", .set = netdev_set, .get = netdev_get};

/* ---- info ---- */

static void info_line(struct strbuf *b, struct net_peer *p)
{
    AUTOFREE char *more = p->ops->info ? p->ops->info(p->opaque) : NULL;

    str_addf(b, "%s: index=0,type=%s", p->id, p->ops->type);
    if (p->model[0])
        str_addf(b, ",model=%s,macaddr=%02x:%02x:%02x:%02x:%02x:%02x", p->model, p->mac.a[0], p->mac.a[1], p->mac.a[2],
                 p->mac.a[3], p->mac.a[4], p->mac.a[5]);
    if (more && *more)
        str_addf(b, ",%s", more);
    if (p->link_down)
        str_add(b, ",link=off");
    str_add(b, "\n");
}

char *net_info(struct net_set *s)
{
    struct strbuf b = {0};
    struct net_peer *p;

    list_each (p, &s->peers, link)
        if (!strcmp(p->ops->type, "nic")) {
            info_line(&b, p);
            if (p->peer) {
                str_add(&b, " \\ ");
                info_line(&b, p->peer);
            }
        }
    list_each (p, &s->peers, link)
        if (strcmp(p->ops->type, "nic") && !(p->peer && !strcmp(p->peer->ops->type, "nic")))
            info_line(&b, p);
    return str_take(&b);
}
