/* A virtio block device whose disk another program serves: vhost-user-blk. Source: VIRTIO 1.2, 5.2; the vhost-user
 * protocol.
 *
 * The connection is a chardev socket, the guest's memory must be shared (a memory backend with share=on). Requests pass
 * through rings of our own (vhost_ring.h); what they mean only the peer knows. When the peer goes away and the chardev
 * may come back (server=on, or reconnect=), requests wait and are given to the next peer, those begun once more; else
 * they end with an I/O error, as do all that follow. A new peer must have the same disk. Left out: changes of the
 * disk's size while it is in use, inflight buffers of the protocol. */
#include "hw/virtio/vhost_ring.h"
#include "hw/virtio/virtio_blk.h"
#include "hw/virtio/virtio_pci.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#define F_BLOCK                                                                                                        \
    (VIRTIO_BIT(F_SIZE_MAX) | VIRTIO_BIT(F_SEG_MAX) | VIRTIO_BIT(F_GEOMETRY) | VIRTIO_BIT(F_RO) |                      \
     VIRTIO_BIT(F_BLK_SIZE) | VIRTIO_BIT(F_FLUSH) | VIRTIO_BIT(F_TOPOLOGY) | VIRTIO_BIT(F_CONFIG_WCE) |                \
     VIRTIO_BIT(F_MQ) | VIRTIO_BIT(F_DISCARD) | VIRTIO_BIT(F_WRITE_ZEROES))
enum { SEG_MAX = 126 };

struct vub {
    struct virtio_dev vd; /* first */
    struct vu_conn conn;  /* property: chardev */
    uint16_t num_queues, queue_size;
    bool config_wce;
    uint8_t cfg[CFG_SIZE]; /* the peer's */
    struct vhost_rings rings;
    struct vhost_mem mem;
    struct ev_fd *watch[VIRTIO_QUEUES];
    bool known; /* this peer has said what it offers, and it suits */
    bool up;    /* it works on the rings */
    bool realizing;
};
struct vub_pci {
    struct virtio_pci pci;
    struct vub v;
};

static struct vub *vub_of(struct virtio_dev *vd)
{
    return container_of(vd, struct vub, vd);
}

static void complain(struct vub *v, struct err *e)
{
    warn_report("vhost-user-blk on chardev '%s': %s", chr_id(v->conn.fe.chr), e ? e->msg : "unknown");
    err_free(e);
}

/* ---- requests ---- */

static void req_fail(struct vhost_req *r)
{
    struct virtq *q = r->e.q;
    uint32_t n = (uint32_t)r->e.in.len;
    uint8_t status = S_IOERR;

    iov_from_buf(&r->e.in, n - 1, &status, 1);
    virtq_push(&r->e, n);
    virtq_notify(q);
}

static void fail_todo(struct vhost_ring *ring)
{
    struct vhost_req *r;

    while ((r = list_first(&ring->todo, struct vhost_req, link))) {
        list_del(&r->link);
        req_fail(r);
    }
}

static void drop_todo(struct vhost_ring *ring)
{
    struct vhost_req *r;

    while ((r = list_first(&ring->todo, struct vhost_req, link))) {
        list_del(&r->link);
        virtq_elem_free(&r->e);
    }
}

/* The connection is of no use any more; what was begun waits. */
static void lost(struct vub *v)
{
    v->known = v->up = false;
    for (unsigned i = 0; i < v->rings.nr; i++)
        vhost_ring_restart(&v->rings.ring[i]);
    vu_hang_up(&v->conn);
}

static bool bring_up(struct vub *v, struct err **errp)
{
    if (!vhost_mem_fill(&v->mem, dev_machine(v->vd.dev)->mem_sys, &v->rings, errp) ||
        !vu_set_features(&v->conn,
                         (v->vd.guest_features & F_BLOCK) | VIRTIO_BIT(VIRTIO_F_VERSION_1) |
                             VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC),
                         errp) ||
        !vu_set_memory(&v->conn, v->mem.r, v->mem.nr, errp))
        return false;
    for (unsigned i = 0; i < v->rings.nr; i++) {
        struct vu_ring r = vhost_ring_place(&v->rings, i);

        if (!vu_start_ring(&v->conn, i, &r, errp))
            return false;
    }
    v->up = true;
    return true;
}

/* The next request to give: what waits, else from the guest. */
static struct vhost_req *next_req(struct vub *v, struct virtq *q, struct vhost_ring *ring)
{
    struct vhost_req *r = list_first(&ring->todo, struct vhost_req, link);

    if (r) {
        list_del(&r->link);
        return r;
    }
    r = virtq_pop(q, sizeof *r);
    if (r && (r->e.out.len < HDR_SIZE || !r->e.in.len)) {
        virtio_error(&v->vd, "request without header or status byte");
        virtq_elem_free(&r->e);
        return NULL;
    }
    return r;
}

static void give(struct vub *v, struct virtq *q, struct vhost_ring *ring)
{
    bool indirect = v->conn.features & VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC), any = false;
    struct vhost_req *r;

    while ((r = next_req(v, q, ring))) {
        int n = vhost_ring_put(ring, r, &v->mem, indirect);

        if (!n) {
            list_add_head(&ring->todo, &r->link);
            break;
        }
        if (n < 0) {
            log_guest("vhost-user-blk: a request names memory that is not shared");
            req_fail(r);
        }
        any |= n > 0;
    }
    if (any)
        vhost_ring_kick(ring);
}

static void fail_all(struct vub *v, struct virtq *q, struct vhost_ring *ring)
{
    struct vhost_req *r;

    while ((r = next_req(v, q, ring)))
        req_fail(r);
}

static void vub_queue(struct virtio_dev *vd, struct virtq *q)
{
    struct vub *v = vub_of(vd);
    struct vhost_ring *ring = &v->rings.ring[q->index];
    struct err *e = NULL;

    if (v->known && !v->up && !bring_up(v, &e)) {
        complain(v, e);
        lost(v);
    }
    if (!v->up && chr_fe_comes_back(&v->conn.fe))
        return; /* until somebody comes */
    do {
        virtq_set_kicks(q, false);
        if (v->up)
            give(v, q, ring);
        else
            fail_all(v, q, ring);
        virtq_set_kicks(q, true);
    } while (list_empty(&ring->todo) && !virtq_empty(q));
}

/* Gives the guest what the peer is done with. */
static void collect(struct vub *v, unsigned i)
{
    struct vhost_ring *ring = &v->rings.ring[i];
    struct vhost_req *r;
    bool any = false;
    uint32_t len;

    while ((r = vhost_ring_take(ring, &len))) {
        virtq_push(&r->e, len);
        any = true;
    }
    if (any)
        virtq_notify(&v->vd.vq[i]);
    if (ring->broken) {
        warn_report("vhost-user-blk on chardev '%s': the peer broke its ring", chr_id(v->conn.fe.chr));
        lost(v);
    }
}

static void on_call(void *opaque, int fd, unsigned events)
{
    struct virtq *q = opaque;
    struct vub *v = vub_of(q->vd);
    uint64_t n;

    if (read(fd, &n, sizeof n) < 0 || !v->up)
        return;
    collect(v, q->index);
    if (!list_empty(&v->rings.ring[q->index].todo) || !v->up)
        virtq_schedule(q);
}

/* ---- waiting for the peer ---- */

static bool anything_sent(const struct vub *v)
{
    for (unsigned i = 0; i < v->rings.nr; i++)
        if (!list_empty(&v->rings.ring[i].sent))
            return true;
    return false;
}

/* Until the peer has ended all it was given, or VU_WAIT_MS: then it is done with. */
static void drain(struct vub *v)
{
    struct pollfd p[VIRTIO_QUEUES];

    for (int left = VU_WAIT_MS; v->up && anything_sent(v); left -= 50) {
        for (unsigned i = 0; i < v->rings.nr; i++)
            p[i] = (struct pollfd){.fd = v->rings.ring[i].call, .events = POLLIN};
        poll(p, v->rings.nr, 50);
        for (unsigned i = 0; v->up && i < v->rings.nr; i++)
            collect(v, i);
        if (v->up && anything_sent(v) && (left <= 0 || !vu_connected(&v->conn)))
            lost(v);
    }
}

static void stop_rings(struct vub *v)
{
    struct err *e = NULL;

    for (unsigned i = 0; v->up && i < v->rings.nr; i++)
        if (!vu_stop_ring(&v->conn, i, &e)) {
            complain(v, e);
            lost(v);
        } else {
            vhost_ring_restart(&v->rings.ring[i]);
        }
    v->up = false;
}

static void vub_reset(struct virtio_dev *vd)
{
    struct vub *v = vub_of(vd);

    drain(v);
    stop_rings(v);
    for (unsigned i = 0; i < v->rings.nr; i++)
        drop_todo(&v->rings.ring[i]);
}

static void vub_running(struct virtio_dev *vd, bool on)
{
    struct vub *v = vub_of(vd);

    if (!on) /* nothing writes into the memory of a machine that stands still */
        drain(v);
}

static void vub_held(struct virtio_dev *vd, virtq_put_fn *put, void *opaque)
{
    struct vub *v = vub_of(vd);
    struct vhost_req *r;

    for (unsigned i = 0; i < v->rings.nr; i++)
        list_each (r, &v->rings.ring[i].todo, link)
            put(opaque, &r->e, 0);
}

static void vub_take_back(struct virtio_dev *vd, struct virtq_elem *e, uint64_t tag)
{
    struct vhost_req *r = container_of(e, struct vhost_req, e);

    list_add(&vub_of(vd)->rings.ring[e->q->index].todo, &r->link);
}

static size_t vub_elem_size(struct virtio_dev *vd, unsigned queue)
{
    return sizeof(struct vhost_req);
}

/* ---- configuration ---- */

static void vub_get_config(struct virtio_dev *vd, uint8_t *c)
{
    struct vub *v = vub_of(vd);

    memcpy(c, v->cfg, CFG_SIZE);
    put_le32(c + CFG_SEG_MAX, (uint32_t)min_u64(get_le32(c + CFG_SEG_MAX), SEG_MAX));
    put_le16(c + CFG_NUM_QUEUES, v->num_queues);
}

static void vub_set_config(struct virtio_dev *vd, const uint8_t *c, unsigned off, unsigned len)
{
    struct vub *v = vub_of(vd);
    struct err *e = NULL;

    if (off > CFG_WRITEBACK || off + len <= CFG_WRITEBACK || !virtio_has(vd, F_CONFIG_WCE) || !v->known)
        return;
    v->cfg[CFG_WRITEBACK] = c[CFG_WRITEBACK] & 1;
    if (vu_set_config(&v->conn, CFG_WRITEBACK, v->cfg + CFG_WRITEBACK, 1, &e))
        return;
    complain(v, e);
    lost(v);
}

/* ---- peers ---- */

static bool config_ok(const uint8_t *c, uint64_t features, struct err **errp)
{
    uint32_t bs = get_le32(c + CFG_BLK_SIZE);

    if (get_le64(c + CFG_CAPACITY) > INT64_MAX / 512)
        return err_set(errp, "the vhost-user peer says its disk has %" PRIu64 " sectors", get_le64(c + CFG_CAPACITY));
    if (features & VIRTIO_BIT(F_BLK_SIZE) && (bs < 512 || bs > 2 * MIB || !is_pow2(bs)))
        return err_set(errp, "the vhost-user peer says its blocks have %u bytes", bs);
    return true;
}

static bool meet(struct vub *v, uint8_t cfg[CFG_SIZE], struct err **errp)
{
    if (!vu_hello(&v->conn, errp) || !vu_get_config(&v->conn, cfg, CFG_SIZE, errp))
        return false;
    if (!(v->conn.features & VIRTIO_BIT(VIRTIO_F_VERSION_1)))
        return err_set(errp, "the vhost-user peer is too old: it does not speak VIRTIO 1");
    return config_ok(cfg, v->conn.features, errp);
}

/* A further peer: it must be what the guest was told. */
static bool meet_again(struct vub *v, struct err **errp)
{
    uint8_t cfg[CFG_SIZE];

    if (!meet(v, cfg, errp))
        return false;
    if ((v->vd.features & F_BLOCK & ~v->conn.features) || (v->num_queues > v->conn.max_queues) ||
        get_le64(cfg + CFG_CAPACITY) != get_le64(v->cfg + CFG_CAPACITY) ||
        get_le32(cfg + CFG_BLK_SIZE) != get_le32(v->cfg + CFG_BLK_SIZE))
        return err_set(errp, "the vhost-user peer that came has another disk than the one before");
    if (!virtio_has(&v->vd, F_CONFIG_WCE) || cfg[CFG_WRITEBACK] == v->cfg[CFG_WRITEBACK])
        return true;
    return vu_set_config(&v->conn, CFG_WRITEBACK, v->cfg + CFG_WRITEBACK, 1, errp);
}

static void gone(struct vub *v)
{
    bool back = chr_fe_comes_back(&v->conn.fe);

    lost(v);
    warn_report("vhost-user-blk on chardev '%s': the peer has gone; requests %s", chr_id(v->conn.fe.chr),
                back ? "wait for the next one" : "end with an error (reconnect=1 at the chardev would wait)");
    for (unsigned i = 0; !back && i < v->rings.nr; i++) {
        fail_todo(&v->rings.ring[i]);
        virtq_schedule(&v->vd.vq[i]);
    }
}

static void on_event(void *opaque, enum chr_event ev)
{
    struct vub *v = opaque;
    struct err *e = NULL;

    if (v->realizing)
        return;
    if (ev == CHR_CLOSED) {
        gone(v);
    } else if (ev == CHR_OPENED) {
        v->known = meet_again(v, &e);
        if (!v->known) {
            complain(v, e);
            lost(v);
            return;
        }
        for (unsigned i = 0; i < v->rings.nr; i++)
            virtq_schedule(&v->vd.vq[i]);
    }
}

static size_t can_read(void *opaque)
{
    return 1;
}
static void on_bytes(void *opaque, const uint8_t *buf, size_t len)
{
    struct vub *v = opaque;

    warn_report("vhost-user-blk on chardev '%s': the peer speaks without being asked", chr_id(v->conn.fe.chr));
    lost(v);
}
static const struct chr_fe_ops vub_chr_ops = {.can_read = can_read, .read = on_bytes, .event = on_event};

/* ---- life ---- */

static bool memory_ok(struct vub *v, struct err **errp)
{
    static const gpa_t places[] = {0, UINT64_C(4) << 30};
    struct machine *m = dev_machine(v->vd.dev);

    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        struct mem_section s;

        if (!mem_find(m->mem, places[i], &s) || !s.ram || (s.ram->shared && s.ram->fd >= 0))
            continue;
        err_set(errp, "vhost-user-blk: the guest's memory '%s' is not shared, its peer could not reach it",
                s.ram->name);
        err_hint(errp, "add -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem, SIZE "
                       "being that of -m");
        return false;
    }
    return true;
}

static bool check_props(struct vub *v, struct err **errp)
{
    if (!v->conn.fe.chr)
        return err_set(errp, "vhost-user-blk: the chardev property is not set; give chardev=ID of a -chardev socket");
    if (v->queue_size < 4 || v->queue_size > VIRTQ_MAX_NUM || !is_pow2(v->queue_size))
        return err_set(errp, "vhost-user-blk: queue-size=%u must be a power of two between 4 and %u", v->queue_size,
                       VIRTQ_MAX_NUM);
    if (!v->num_queues || (v->num_queues > VIRTIO_QUEUES - 1 && v->num_queues != UINT16_MAX))
        return err_set(errp, "vhost-user-blk: num-queues=%u must be between 1 and %u", v->num_queues,
                       VIRTIO_QUEUES - 1);
    if (vu_connected(&v->conn))
        return memory_ok(v, errp);
    err_set(errp, "vhost-user-blk: nobody is at the other end of chardev '%s'", chr_id(v->conn.fe.chr));
    err_hint(errp, "it must be a UNIX socket (-chardev socket,path=...), and the program that serves the disk there "
                   "must run before the device is made");
    return false;
}

static bool choose_queues(struct vub *v, struct err **errp)
{
    unsigned may = v->conn.features & VIRTIO_BIT(F_MQ) ? v->conn.max_queues : 1;
    unsigned cpus = (unsigned)max_u64(dev_machine(v->vd.dev)->max_cpus, 1);

    if (v->num_queues == UINT16_MAX)
        v->num_queues = (uint16_t)min_u64(min_u64(cpus, may), VIRTIO_QUEUES - 1);
    if (v->num_queues <= may)
        return true;
    err_set(errp, "vhost-user-blk: num-queues=%u, but the peer has %u", v->num_queues, may);
    err_hint(errp, "give the export more queues (num-queues=%u there), or the device fewer", v->num_queues);
    return false;
}

static bool vub_realize(struct virtio_dev *vd, struct err **errp)
{
    struct vub *v = vub_of(vd);

    v->rings.fd = -1;
    if (!check_props(v, errp))
        return false;
    v->realizing = true;
    chr_fe_set(&v->conn.fe, &vub_chr_ops, v);
    v->known = meet(v, v->cfg, errp) && choose_queues(v, errp) && vhost_rings_init(&v->rings, v->num_queues, errp);
    v->realizing = false;
    if (!v->known) {
        vu_hang_up(&v->conn);
        chr_fe_set(&v->conn.fe, NULL, NULL);
        return false;
    }
    vd->features = v->conn.features & F_BLOCK;
    if (v->num_queues == 1)
        vd->features &= ~VIRTIO_BIT(F_MQ);
    if (!v->config_wce)
        vd->features &= ~VIRTIO_BIT(F_CONFIG_WCE);
    for (unsigned i = 0; i < v->num_queues; i++) {
        struct virtq *q = virtio_add_queue(vd, v->queue_size, vub_queue);

        v->watch[i] = ev_fd_add(dev_machine(vd->dev)->run->loop, v->rings.ring[i].call, EV_IN, on_call, q);
    }
    return true;
}

static void vub_unrealize(struct virtio_dev *vd)
{
    struct vub *v = vub_of(vd);

    for (unsigned i = 0; i < v->num_queues; i++)
        ev_fd_del(v->watch[i]);
    vu_hang_up(&v->conn);
    chr_fe_set(&v->conn.fe, NULL, NULL);
    vhost_rings_free(&v->rings);
}

static const struct virtio_type vub_type = {
    .name = "vhost-user-blk",
    .id = VIRTIO_ID_BLOCK,
    .config_size = CFG_SIZE,
    .realize = vub_realize,
    .unrealize = vub_unrealize,
    .reset = vub_reset,
    .get_config = vub_get_config,
    .set_config = vub_set_config,
    .running = vub_running,
    .held = vub_held,
    .take_back = vub_take_back,
    .elem_size = vub_elem_size,
};
static const struct prop vub_pci_props[] = {
    PROP_CHR("chardev", struct vub_pci, v.conn.fe),
    PROP("num-queues", u16, struct vub_pci, v.num_queues, .dflt = "65535"),
    PROP("queue-size", u16, struct vub_pci, v.queue_size, .dflt = "128"),
    PROP("config-wce", bool, struct vub_pci, v.config_wce, .dflt = "on"),
    VIRTIO_PROPS(struct vub_pci, v.vd),
    VIRTIO_PCI_PROPS(struct vub_pci),
    PROP_END,
};
static const struct state_field vub_fields[] = {
    STATE_STRUCT(struct vub_pci, pci, virtio_pci_state),
    STATE_STRUCT(struct vub_pci, v.vd, virtio_state),
    STATE_END,
};
static const struct state_desc vub_state = {.name = "vhost-user-blk", .version = 1, .fields = vub_fields};
static const char *const vub_aliases[] = {"vhost-user-blk", NULL};
VIRTIO_PCI_CLASSES(vub, "vhost-user-blk-pci", vub_aliases, struct vub_pci, v, vub_type, .props = vub_pci_props,
                   .state_desc = &vub_state, .category = DEV_CAT_STORAGE,
                   .desc = "virtio block device served by another program", .legacy_id = 0x1001, .class_id = 0x0100)
