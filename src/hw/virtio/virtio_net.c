/* virtio network card. Source: VIRTIO 1.2, 5.1.
 *
 * Queues: receive and transmit per pair, then control. Received frames pass the filter the guest set (promiscuous
 * flags, address table, VLANs), pick a pair by a hash of the flow, and go into one buffer, or several with MRG_RXBUF.
 * Transmit stops while the back end has no room. Checksum and segmentation offloads belong to the back end: they are
 * offered only when it takes the offload header; otherwise the header is removed here. Left out: RSS and hash reports,
 * guest announce, host USO. */
#include "hw/virtio/virtio_pci.h"
#include "net/net.h"
#include <stdio.h>

enum {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_CTRL_GUEST_OFFLOADS = 2,
    F_MTU = 3,
    F_MAC = 5,
    F_GUEST_TSO4 = 7,
    F_GUEST_TSO6 = 8,
    F_GUEST_ECN = 9,
    F_GUEST_UFO = 10,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_HOST_ECN = 13,
    F_HOST_UFO = 14,
    F_MRG_RXBUF = 15,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_CTRL_RX = 18,
    F_CTRL_VLAN = 19,
    F_CTRL_RX_EXTRA = 20,
    F_MQ = 22,
    F_CTRL_MAC_ADDR = 23
};
enum { CFG_MAC = 0, CFG_STATUS = 6, CFG_PAIRS = 8, CFG_MTU = 10, CFG_SIZE = 12 };
enum { S_LINK_UP = 1 };
enum { CTRL_RX = 0, CTRL_MAC = 1, CTRL_VLAN = 2, CTRL_MQ = 4, CTRL_GUEST_OFFLOADS = 5 };
enum { CTRL_OK = 0, CTRL_ERR = 1 };
enum { HDR_LEN = 10, HDR_LEN_MRG = 12, HDR_NUM_BUFFERS = 10 };
enum { MAC_TABLE_MAX = 64, RX_BUFS_MAX = 128, PAIRS_MAX = 32, CTRL_MAX = 8192 };

/* Which offload feature stands for which flag of the back end. */
static const struct {
    unsigned feature, flag;
} guest_offloads[] = {{F_GUEST_CSUM, NET_OFF_CSUM},
                      {F_GUEST_TSO4, NET_OFF_TSO4},
                      {F_GUEST_TSO6, NET_OFF_TSO6},
                      {F_GUEST_ECN, NET_OFF_ECN},
                      {F_GUEST_UFO, NET_OFF_UFO}};
static const unsigned offload_features[] = {
    F_CSUM,      F_GUEST_CSUM, F_CTRL_GUEST_OFFLOADS, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_ECN,
    F_GUEST_UFO, F_HOST_TSO4,  F_HOST_TSO6,           F_HOST_ECN,   F_HOST_UFO};

struct vnet {
    struct virtio_dev vd;                            /* first */
    struct net_nic nic;                              /* properties mac, netdev */
    uint16_t host_mtu, rx_queue_size, tx_queue_size; /* properties */
    uint64_t feature_props;                          /* property bits by feature number */
    bool mq;                                         /* property */
    uint16_t max_pairs, pairs;
    uint16_t status;
    struct mac mac; /* as the guest set it */
    bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
    bool uni_overflow, multi_overflow;
    uint32_t nr_uni, nr_multi;
    struct mac table[MAC_TABLE_MAX]; /* nr_uni unicast addresses, then nr_multi groups */
    uint32_t vlans[4096 / 32];
    uint64_t offloads; /* guest offload features in force */
    unsigned hdr_len;  /* of the guest's headers */
};
struct vnet_pci {
    struct virtio_pci pci;
    struct vnet v;
};

static struct vnet *vnet_of(struct virtio_dev *vd)
{
    return container_of(vd, struct vnet, vd);
}

static unsigned ctrl_index(const struct vnet *v)
{
    return virtio_has(&v->vd, F_MQ) ? 2u * v->max_pairs : 2;
}

static bool backend_has_hdr(const struct vnet *v)
{
    return v->nic.peer->peer && v->nic.peer->peer->ops->set_vnet_hdr;
}

/* ---- receive ---- */

static bool in_table(const struct vnet *v, const uint8_t *dst, unsigned from, unsigned n)
{
    for (unsigned i = from; i < from + n; i++)
        if (!memcmp(v->table[i].a, dst, 6))
            return true;
    return false;
}

/* f: at least 18 bytes of the frame. */
static bool passes_filter(const struct vnet *v, const uint8_t *f)
{
    static const uint8_t bcast[6] = {255, 255, 255, 255, 255, 255};

    if (v->promisc)
        return true;
    if (virtio_has(&v->vd, F_CTRL_VLAN) && get_be16(f + 12) == 0x8100) {
        unsigned vid = get_be16(f + 14) & 0xfff;
        if (!(v->vlans[vid / 32] >> (vid % 32) & 1))
            return false;
    }
    if (f[0] & 1) {
        if (!memcmp(f, bcast, 6))
            return !v->nobcast;
        if (v->nomulti)
            return false;
        return v->allmulti || v->multi_overflow || in_table(v, f, v->nr_uni, v->nr_multi);
    }
    if (v->nouni)
        return false;
    return v->alluni || v->uni_overflow || !memcmp(f, v->mac.a, 6) || in_table(v, f, 0, v->nr_uni);
}

/* Pair for a frame: flows stay together. */
static unsigned pick_pair(const struct vnet *v, const uint8_t *f, size_t len)
{
    uint32_t h;

    if (v->pairs <= 1 || len < 38)
        return 0;
    if (get_be16(f + 12) == 0x0800)
        h = get_be32(f + 26) ^ get_be32(f + 30) ^ (f[23] == 6 || f[23] == 17 ? get_be32(f + 34) : 0);
    else
        h = get_be32(f + 2) ^ get_be32(f + 8);
    h ^= h >> 16;
    return (h ^ h >> 8) % v->pairs;
}

static bool rx_open(struct vnet *v, unsigned pair)
{
    return virtio_active(&v->vd) && (v->vd.status & VIRTIO_S_DRIVER_OK) && virtq_ready(&v->vd.vq[2 * pair]);
}

static bool vnet_can_receive(void *opaque)
{
    struct vnet *v = opaque;

    return rx_open(v, 0);
}

/* Buffers enough for `need` bytes; 0 when the guest has not given that many (all are put back). */
static unsigned collect(struct vnet *v, struct virtq *q, struct virtq_elem **e, uint64_t need, bool *too_big)
{
    uint64_t have = 0;
    unsigned n = 0, max = virtio_has(&v->vd, F_MRG_RXBUF) ? RX_BUFS_MAX : 1;

    while (have < need && n < max && (e[n] = virtq_pop(q, sizeof **e)))
        have += e[n++]->in.len;
    if (have >= need)
        return n;
    *too_big = n == max;
    while (n)
        virtq_unpop(e[--n]);
    return 0;
}

/* One frame behind its header (from_hdr bytes of it in the frame itself) into guest buffers. */
static bool rx_store(struct vnet *v, struct virtq *q, const struct iov *frame, unsigned from_hdr)
{
    struct virtq_elem *e[RX_BUFS_MAX];
    uint8_t hdr[HDR_LEN_MRG] = {0};
    uint64_t need = v->hdr_len + frame->len - from_hdr, off = from_hdr;
    bool too_big = false;
    unsigned n = collect(v, q, e, need, &too_big);

    if (!n) {
        if (too_big)
            log_guest("virtio-net: a frame of %" PRIu64 " bytes does not fit the guest's buffers", frame->len);
        return too_big;
    }
    if (from_hdr)
        iov_to_buf(frame, 0, hdr, min_u64(from_hdr, HDR_LEN));
    put_le16(hdr + HDR_NUM_BUFFERS, n);
    for (unsigned i = 0; i < n; i++) {
        uint64_t at = 0, len;
        struct iov part;

        if (i == 0)
            at = iov_from_buf(&e[0]->in, 0, hdr, v->hdr_len);
        len = min_u64(e[i]->in.len - at, frame->len - off);
        iov_init(&part, frame->nr);
        iov_add_part(&part, frame, off, len);
        for (unsigned s = 0; s < part.nr; s++) {
            iov_from_buf(&e[i]->in, at, part.v[s].iov_base, part.v[s].iov_len);
            at += part.v[s].iov_len;
        }
        iov_free(&part);
        off += len;
        virtq_fill(e[i], at);
    }
    virtq_flush(q);
    virtq_notify(q);
    return true;
}

static size_t vnet_receive(void *opaque, const struct iov *frame)
{
    struct vnet *v = opaque;
    unsigned from_hdr = v->nic.peer->vnet_hdr_len;
    uint8_t head[64] = {0};

    if (frame->len < from_hdr + 14u)
        return frame->len;
    size_t n = iov_to_buf(frame, from_hdr, head, sizeof head);
    if (!rx_open(v, 0))
        return 0;
    if (!passes_filter(v, head))
        return frame->len;
    unsigned pair = pick_pair(v, head, n);
    struct virtq *q = &v->vd.vq[2 * (rx_open(v, pair) ? pair : 0)];
    if (rx_store(v, q, frame, from_hdr))
        return frame->len;
    virtq_set_kicks(q, true);
    /* The guest may have added buffers before it could see that we want to be told. */
    return rx_store(v, q, frame, from_hdr) ? frame->len : 0;
}

static void rx_refilled(struct vnet *v, struct virtq *q)
{
    virtq_set_kicks(q, false);
    net_flush(v->nic.peer);
    if (v->nic.peer->queued)
        virtq_set_kicks(q, true);
}

/* ---- transmit ---- */

static bool tx_one(struct vnet *v, struct virtq_elem *e)
{
    unsigned own = v->nic.peer->vnet_hdr_len;
    struct iov f;

    if (e->out.len < v->hdr_len) {
        virtio_error(&v->vd, "transmitted frame without a complete header");
        return false;
    }
    if (e->out.len - v->hdr_len > NET_MAX_FRAME - HDR_LEN_MRG) {
        log_guest("virtio-net: frame of %" PRIu64 " bytes dropped", e->out.len);
        return true;
    }
    if (own == v->hdr_len) {
        net_send(v->nic.peer, &e->out);
    } else {
        iov_init(&f, e->out.nr);
        iov_add_part(&f, &e->out, v->hdr_len, e->out.len - v->hdr_len);
        net_send(v->nic.peer, &f);
        iov_free(&f);
    }
    return true;
}

static void tx_run(struct vnet *v, struct virtq *q)
{
    struct virtq_elem *e;
    bool sent = false;

    if (!(v->vd.status & VIRTIO_S_DRIVER_OK))
        return;
    do {
        virtq_set_kicks(q, false);
        while (net_can_send(v->nic.peer) && (e = virtq_pop(q, sizeof *e))) {
            if (!tx_one(v, e)) {
                virtq_elem_free(e);
                return;
            }
            virtq_push(e, 0);
            sent = true;
        }
        if (sent)
            virtq_notify(q);
        sent = false;
        if (!net_can_send(v->nic.peer))
            return; /* send_ready goes on; the guest need not kick */
        virtq_set_kicks(q, true);
    } while (!virtq_empty(q));
}

static void vnet_send_ready(void *opaque)
{
    struct vnet *v = opaque;

    for (unsigned i = 0; i < v->max_pairs; i++)
        if (v->vd.vq[2 * i + 1].enabled)
            virtq_schedule(&v->vd.vq[2 * i + 1]);
}

/* ---- control ---- */

static void set_offloads(struct vnet *v, uint64_t features)
{
    struct net_peer *b = v->nic.peer->peer;
    unsigned flags = 0;

    v->offloads = features;
    for (unsigned i = 0; i < ARRAY_LEN(guest_offloads); i++)
        if (features >> guest_offloads[i].feature & 1)
            flags |= guest_offloads[i].flag;
    if (b && b->ops->set_offload)
        b->ops->set_offload(b->opaque, flags);
}

static uint8_t ctrl_rx(struct vnet *v, uint8_t cmd, const uint8_t *d, size_t len)
{
    bool *flag[] = {&v->promisc, &v->allmulti, &v->alluni, &v->nomulti, &v->nouni, &v->nobcast};

    if (cmd >= ARRAY_LEN(flag) || len != 1)
        return CTRL_ERR;
    *flag[cmd] = d[0];
    return CTRL_OK;
}

/* One counted table of addresses; *used bytes are consumed. */
static bool take_table(const uint8_t *d, size_t len, size_t *used, uint32_t *n, const uint8_t **first)
{
    if (len - *used < 4)
        return false;
    *n = get_le32(d + *used);
    *used += 4;
    *first = d + *used;
    if (*n > (len - *used) / 6)
        return false;
    *used += *n * 6u;
    return true;
}

static uint8_t ctrl_mac(struct vnet *v, uint8_t cmd, const uint8_t *d, size_t len)
{
    uint32_t nu, nm;
    const uint8_t *u, *m;
    size_t used = 0;

    if (cmd == 1) {
        if (len != 6)
            return CTRL_ERR;
        memcpy(v->mac.a, d, 6);
        v->nic.peer->mac = v->mac;
        return CTRL_OK;
    }
    if (cmd != 0 || !take_table(d, len, &used, &nu, &u) || !take_table(d, len, &used, &nm, &m) || used != len)
        return CTRL_ERR;
    v->uni_overflow = nu > MAC_TABLE_MAX;
    v->nr_uni = v->uni_overflow ? 0 : nu;
    memcpy(v->table, u, v->nr_uni * 6u);
    v->multi_overflow = nm > MAC_TABLE_MAX - v->nr_uni;
    v->nr_multi = v->multi_overflow ? 0 : nm;
    memcpy(v->table + v->nr_uni, m, v->nr_multi * 6u);
    return CTRL_OK;
}

static uint8_t ctrl_vlan(struct vnet *v, uint8_t cmd, const uint8_t *d, size_t len)
{
    unsigned vid;

    if (len != 2 || (vid = get_le16(d)) > 4095 || cmd > 1)
        return CTRL_ERR;
    if (cmd == 0)
        v->vlans[vid / 32] |= 1u << (vid % 32);
    else
        v->vlans[vid / 32] &= ~(1u << (vid % 32));
    return CTRL_OK;
}

static uint8_t ctrl_mq(struct vnet *v, uint8_t cmd, const uint8_t *d, size_t len)
{
    if (cmd != 0 || len != 2 || !virtio_has(&v->vd, F_MQ) || !get_le16(d) || get_le16(d) > v->max_pairs)
        return CTRL_ERR;
    v->pairs = get_le16(d);
    return CTRL_OK;
}

static uint8_t ctrl_offloads(struct vnet *v, uint8_t cmd, const uint8_t *d, size_t len)
{
    uint64_t f;

    if (cmd != 0 || len != 8 || !virtio_has(&v->vd, F_CTRL_GUEST_OFFLOADS))
        return CTRL_ERR;
    f = get_le64(d);
    if (f & ~v->vd.guest_features)
        return CTRL_ERR;
    set_offloads(v, f);
    return CTRL_OK;
}

static uint8_t ctrl_one(struct vnet *v, const struct iov *out)
{
    uint8_t buf[CTRL_MAX];
    size_t n;

    if (out->len < 2 || out->len > sizeof buf)
        return CTRL_ERR;
    n = iov_to_buf(out, 0, buf, sizeof buf) - 2;
    switch (buf[0]) {
    case CTRL_RX:
        return ctrl_rx(v, buf[1], buf + 2, n);
    case CTRL_MAC:
        return ctrl_mac(v, buf[1], buf + 2, n);
    case CTRL_VLAN:
        return ctrl_vlan(v, buf[1], buf + 2, n);
    case CTRL_MQ:
        return ctrl_mq(v, buf[1], buf + 2, n);
    case CTRL_GUEST_OFFLOADS:
        return ctrl_offloads(v, buf[1], buf + 2, n);
    default:
        return CTRL_ERR;
    }
}

static void ctrl_run(struct vnet *v, struct virtq *q)
{
    struct virtq_elem *e;

    while ((e = virtq_pop(q, sizeof *e))) {
        if (!e->in.len) {
            virtio_error(&v->vd, "control command without room for its answer");
            virtq_elem_free(e);
            return;
        }
        uint8_t ack = ctrl_one(v, &e->out);
        iov_from_buf(&e->in, 0, &ack, 1);
        virtq_push(e, 1);
        virtq_notify(q);
    }
    /* Another flow of frames may pass now. */
    net_flush(v->nic.peer);
}

static void vnet_queue(struct virtio_dev *vd, struct virtq *q)
{
    struct vnet *v = vnet_of(vd);

    if (virtio_offers(vd, F_CTRL_VQ) && q->index == ctrl_index(v))
        ctrl_run(v, q);
    else if (q->index & 1)
        tx_run(v, q);
    else
        rx_refilled(v, q);
}

/* ---- link, features, configuration ---- */

static void vnet_link_changed(void *opaque, bool up)
{
    struct vnet *v = opaque;
    uint16_t s = up ? v->status | S_LINK_UP : v->status & ~S_LINK_UP;

    if (s == v->status)
        return;
    v->status = s;
    virtio_config_changed(&v->vd);
}

static void vnet_get_config(struct virtio_dev *vd, uint8_t *c)
{
    struct vnet *v = vnet_of(vd);

    memcpy(c + CFG_MAC, v->mac.a, 6);
    put_le16(c + CFG_STATUS, v->status);
    put_le16(c + CFG_PAIRS, v->max_pairs);
    put_le16(c + CFG_MTU, v->host_mtu);
}

static void vnet_set_config(struct virtio_dev *vd, const uint8_t *c, unsigned off, unsigned len)
{
    struct vnet *v = vnet_of(vd);

    /* Only drivers without the control command set the address this way. */
    if (off < 6 && !virtio_has(vd, F_CTRL_MAC_ADDR) && !virtio_has(vd, VIRTIO_F_VERSION_1)) {
        memcpy(v->mac.a, c, 6);
        v->nic.peer->mac = v->mac;
    }
}

static void vnet_set_features(struct virtio_dev *vd)
{
    struct vnet *v = vnet_of(vd);
    struct net_peer *b = v->nic.peer ? v->nic.peer->peer : NULL;
    uint64_t off = 0;

    v->hdr_len = virtio_has(vd, F_MRG_RXBUF) || virtio_has(vd, VIRTIO_F_VERSION_1) ? HDR_LEN_MRG : HDR_LEN;
    if (!v->nic.peer)
        return;
    v->nic.peer->vnet_hdr_len = 0;
    if (b && b->ops->set_vnet_hdr && b->ops->set_vnet_hdr(b->opaque, v->hdr_len))
        v->nic.peer->vnet_hdr_len = v->hdr_len;
    for (unsigned i = 0; i < ARRAY_LEN(guest_offloads); i++)
        off |= vd->guest_features & VIRTIO_BIT(guest_offloads[i].feature);
    set_offloads(v, off);
    if (virtio_has(vd, F_CTRL_VLAN))
        memset(v->vlans, 0, sizeof v->vlans);
    else
        memset(v->vlans, 0xff, sizeof v->vlans);
}

static void vnet_set_status(struct virtio_dev *vd, uint8_t old)
{
    struct vnet *v = vnet_of(vd);

    if ((vd->status & VIRTIO_S_DRIVER_OK) && !(old & VIRTIO_S_DRIVER_OK))
        net_flush(v->nic.peer);
}

static void vnet_running(struct virtio_dev *vd, bool on)
{
    if (on)
        net_flush(vnet_of(vd)->nic.peer);
}

static void vnet_reset(struct virtio_dev *vd)
{
    struct vnet *v = vnet_of(vd);

    v->promisc = true; /* until the driver says otherwise */
    v->allmulti = v->alluni = v->nomulti = v->nouni = v->nobcast = false;
    v->uni_overflow = v->multi_overflow = false;
    v->nr_uni = v->nr_multi = 0;
    v->pairs = 1;
    v->mac = v->nic.mac;
    if (v->nic.peer)
        v->nic.peer->mac = v->mac;
}

/* ---- life ---- */

static const struct net_ops vnet_ops = {.type = "nic",
                                        .receive = vnet_receive,
                                        .can_receive = vnet_can_receive,
                                        .send_ready = vnet_send_ready,
                                        .link_changed = vnet_link_changed};

static bool check_size(const char *what, unsigned n, struct err **errp)
{
    if (n >= 64 && n <= VIRTQ_MAX_NUM && is_pow2(n))
        return true;
    return err_set(errp, "virtio-net: %s=%u must be a power of two between 64 and %u", what, n, VIRTQ_MAX_NUM);
}

static bool vnet_realize(struct virtio_dev *vd, struct err **errp)
{
    struct vnet *v = vnet_of(vd);
    unsigned cpus = dev_machine(vd->dev)->max_cpus;

    if (!check_size("rx_queue_size", v->rx_queue_size, errp) || !check_size("tx_queue_size", v->tx_queue_size, errp))
        return false;
    if (v->host_mtu && v->host_mtu < 68)
        return err_set(errp, "virtio-net: host_mtu=%u is less than 68", v->host_mtu);
    if (!net_nic_init(&v->nic, dev_machine(vd->dev), &vnet_ops, v, vd->dev->obj.cls->name, vd->dev->id, errp))
        return false;
    v->max_pairs = v->mq ? min_u64(max_u64(cpus, 1), PAIRS_MAX) : 1;
    for (unsigned i = 0; i < v->max_pairs; i++) {
        virtio_add_queue(vd, v->rx_queue_size, vnet_queue);
        virtio_add_queue(vd, v->tx_queue_size, vnet_queue);
    }
    vd->features = v->feature_props | VIRTIO_BIT(F_MAC);
    if (!backend_has_hdr(v))
        for (unsigned i = 0; i < ARRAY_LEN(offload_features); i++)
            vd->features &= ~VIRTIO_BIT(offload_features[i]);
    if (v->host_mtu)
        vd->features |= VIRTIO_BIT(F_MTU);
    if (v->mq && !(vd->features >> F_CTRL_VQ & 1)) {
        net_nic_fini(&v->nic);
        return err_set(errp, "virtio-net: mq=on needs ctrl_vq=on");
    }
    if (v->mq)
        vd->features |= VIRTIO_BIT(F_MQ);
    if (vd->features >> F_CTRL_VQ & 1)
        virtio_add_queue(vd, 64, vnet_queue);
    else
        vd->features &= ~(VIRTIO_BIT(F_CTRL_RX) | VIRTIO_BIT(F_CTRL_VLAN) | VIRTIO_BIT(F_CTRL_RX_EXTRA) |
                          VIRTIO_BIT(F_CTRL_MAC_ADDR) | VIRTIO_BIT(F_CTRL_GUEST_OFFLOADS));
    v->status = v->nic.backend && v->nic.backend->link_down ? 0 : S_LINK_UP;
    vnet_reset(vd);
    vnet_set_features(vd);
    return true;
}

static void vnet_unrealize(struct virtio_dev *vd)
{
    net_nic_fini(&vnet_of(vd)->nic);
}

static const struct virtio_type vnet_type = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .config_size = CFG_SIZE,
    .realize = vnet_realize,
    .unrealize = vnet_unrealize,
    .reset = vnet_reset,
    .get_config = vnet_get_config,
    .set_config = vnet_set_config,
    .set_features = vnet_set_features,
    .set_status = vnet_set_status,
    .running = vnet_running,
};
#define FEATURE(nm, bitnr)                                                                                             \
    {                                                                                                                  \
        .name = nm, .type = &prop_bit64, .off = offsetof(struct vnet_pci, v.feature_props), .bit = bitnr, .dflt = "on" \
    }
static const struct prop vnet_pci_props[] = {
    NET_NIC_PROPS(struct vnet_pci, v.nic),
    PROP("host_mtu", u16, struct vnet_pci, v.host_mtu, .dflt = "0"),
    PROP("rx_queue_size", u16, struct vnet_pci, v.rx_queue_size, .dflt = "256"),
    PROP("tx_queue_size", u16, struct vnet_pci, v.tx_queue_size, .dflt = "256"),
    PROP("mq", bool, struct vnet_pci, v.mq, .dflt = "off"),
    FEATURE("csum", F_CSUM),
    FEATURE("guest_csum", F_GUEST_CSUM),
    FEATURE("ctrl_guest_offloads", F_CTRL_GUEST_OFFLOADS),
    FEATURE("guest_tso4", F_GUEST_TSO4),
    FEATURE("guest_tso6", F_GUEST_TSO6),
    FEATURE("guest_ecn", F_GUEST_ECN),
    FEATURE("guest_ufo", F_GUEST_UFO),
    FEATURE("host_tso4", F_HOST_TSO4),
    FEATURE("host_tso6", F_HOST_TSO6),
    FEATURE("host_ecn", F_HOST_ECN),
    FEATURE("host_ufo", F_HOST_UFO),
    FEATURE("mrg_rxbuf", F_MRG_RXBUF),
    FEATURE("status", F_STATUS),
    FEATURE("ctrl_vq", F_CTRL_VQ),
    FEATURE("ctrl_rx", F_CTRL_RX),
    FEATURE("ctrl_vlan", F_CTRL_VLAN),
    FEATURE("ctrl_rx_extra", F_CTRL_RX_EXTRA),
    FEATURE("ctrl_mac_addr", F_CTRL_MAC_ADDR),
    VIRTIO_PROPS(struct vnet_pci, v.vd),
    VIRTIO_PCI_PROPS(struct vnet_pci),
    PROP_END,
};
static const struct state_field vnet_fields[] = {
    STATE_STRUCT(struct vnet_pci, pci, virtio_pci_state),
    STATE_STRUCT(struct vnet_pci, v.vd, virtio_state),
    STATE_U16(struct vnet_pci, v.pairs),
    STATE_U16(struct vnet_pci, v.status),
    STATE_BYTES(struct vnet_pci, v.mac),
    STATE_BOOL(struct vnet_pci, v.promisc),
    STATE_BOOL(struct vnet_pci, v.allmulti),
    STATE_BOOL(struct vnet_pci, v.alluni),
    STATE_BOOL(struct vnet_pci, v.nomulti),
    STATE_BOOL(struct vnet_pci, v.nouni),
    STATE_BOOL(struct vnet_pci, v.nobcast),
    STATE_BOOL(struct vnet_pci, v.uni_overflow),
    STATE_BOOL(struct vnet_pci, v.multi_overflow),
    STATE_U32(struct vnet_pci, v.nr_uni),
    STATE_U32(struct vnet_pci, v.nr_multi),
    STATE_BYTES(struct vnet_pci, v.table),
    STATE_ARRAY(struct vnet_pci, v.vlans),
    STATE_U64(struct vnet_pci, v.offloads),
    STATE_END,
};
static bool vnet_post_load(void *opaque, struct err **errp)
{
    struct vnet_pci *p = opaque;

    if (p->v.nr_uni > MAC_TABLE_MAX || p->v.nr_multi > MAC_TABLE_MAX - p->v.nr_uni || !p->v.pairs ||
        p->v.pairs > p->v.max_pairs)
        return false;
    set_offloads(&p->v, p->v.offloads & p->v.vd.guest_features);
    p->v.nic.peer->mac = p->v.mac;
    return true;
}
static const struct state_desc vnet_state = {
    .name = "virtio-net", .version = 1, .fields = vnet_fields, .post_load = vnet_post_load};
static const char *const vnet_aliases[] = {"virtio-net", NULL};
VIRTIO_PCI_CLASSES(vnet, "virtio-net-pci", vnet_aliases, struct vnet_pci, v, vnet_type, .props = vnet_pci_props,
                   .state_desc = &vnet_state, .category = DEV_CAT_NETWORK, .desc = "virtio network card",
                   .legacy_id = 0x1000, .class_id = 0x0200, .romfile = "efi-virtio.rom")
