/* virtio block device. Source: VIRTIO 1.2, 5.2.
 *
 * Requests are checked completely (lengths, range, alignment) before anything is submitted; each ends in one status
 * byte. The drive's error policy decides between reporting an error and keeping the request until the machine is
 * continued. Left out: SCSI pass-through (scsi=on), secure erase, zoned devices, lifetime. */
#include "hw/virtio/virtio_blk.h"
#include "blk/blk.h"
#include "hw/virtio/virtio_pci.h"
#include "hw/virtio/vq_map.h"
#include <stdio.h>

enum { T_IN = 0, T_OUT = 1, T_SCSI_CMD = 2, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
#define T_BARRIER 0x80000000u /* legacy hint, ignored */
enum { RANGE_SIZE = 16, ID_SIZE = 20, SECTOR = 512, MAX_RANGE_SECTORS = 1 << 22, WZ_FLAG_UNMAP = 1 };

struct vblk {
    struct virtio_dev vd; /* first */
    struct blk *blk;      /* property */
    char *serial;         /* property */
    char *iothread;       /* property: id */
    uint16_t num_queues, queue_size;
    uint64_t log_bs, phys_bs, min_io, opt_io, discard_gran; /* properties */
    uint32_t cyls, heads, secs;
    int write_cache; /* property, enum onoffauto */
    bool share_rw;   /* property */
    bool config_wce, discard, write_zeroes, seg_max_adjust, request_merging, scsi;
    bool orig_wce, saved_wce;
    struct vq_map map;         /* property: which I/O thread handles which queue */
    struct vblk_queue *queues; /* owned: num_queues of them */
    unsigned inflight;         /* atomic: queues count on threads of their own */
};
struct vblk_queue {
    struct vblk *v;
    struct ev_bh restart_bh; /* on the loop the queue is handled on: completions come back to it */
    struct list stopped;     /* of struct vblk_req: wait until the machine goes on */
};
struct vblk_pci {
    struct virtio_pci pci;
    struct vblk v;
};

struct vblk_req {
    struct virtq_elem e; /* first */
    struct vblk *v;
    struct list link; /* in its queue's stopped */
    uint32_t type;
    uint64_t off, len; /* bytes of the disk */
    uint32_t flags;
    bool again; /* came back with a restored machine and was not looked at yet */
    struct iov data;
};

static struct vblk *vblk_of(struct virtio_dev *vd)
{
    return container_of(vd, struct vblk, vd);
}

static struct vblk_queue *queue_of(const struct vblk_req *r)
{
    return &r->v->queues[r->e.q->index];
}

/* ---- requests ---- */

/* The status byte is the last one of `in`, so the used length is always the whole of it. */
static void req_finish(struct vblk_req *r, uint8_t status)
{
    struct virtq *q = r->e.q;
    uint32_t n = r->e.in.len;

    iov_from_buf(&r->e.in, n - 1, &status, 1);
    iov_free(&r->data);
    virtq_push(&r->e, n);
    virtq_notify(q);
}

static void req_submit(struct vblk_req *r);

static bool is_read(const struct vblk_req *r)
{
    return r->type == T_IN;
}

static void req_done(void *opaque, int ret)
{
    struct vblk_req *r = opaque;
    struct vblk *v = r->v;

    __atomic_fetch_sub(&v->inflight, 1, __ATOMIC_RELEASE);
    if (ret < 0 && r->e.gen == r->e.q->gen) {
        switch (blk_error_action(v->blk, is_read(r), -ret)) {
        case BLK_POLICY_STOP:
            list_add(&queue_of(r)->stopped, &r->link);
            return;
        case BLK_POLICY_IGNORE:
            ret = 0;
            break;
        case BLK_POLICY_REPORT:
            break;
        }
    }
    req_finish(r, ret < 0 ? S_IOERR : S_OK);
}

static void req_submit(struct vblk_req *r)
{
    struct vblk *v = r->v;

    __atomic_fetch_add(&v->inflight, 1, __ATOMIC_ACQUIRE);
    switch (r->type) {
    case T_IN:
        blk_aio_read(v->blk, r->off, &r->data, 0, req_done, r);
        break;
    case T_OUT:
        blk_aio_write(v->blk, r->off, &r->data, 0, req_done, r);
        break;
    case T_FLUSH:
        blk_aio_flush(v->blk, req_done, r);
        break;
    case T_DISCARD:
        blk_aio_discard(v->blk, r->off, r->len, req_done, r);
        break;
    default:
        blk_aio_zero(v->blk, r->off, r->len, r->flags, req_done, r);
        break;
    }
}

/* Bytes [sector, +len) lie on the disk and on block boundaries. */
static bool range_ok(struct vblk *v, uint64_t sector, uint64_t len)
{
    uint64_t total = blk_size(v->blk) / SECTOR;

    return len % v->log_bs == 0 && sector % (v->log_bs / SECTOR) == 0 && sector <= total &&
           len / SECTOR <= total - sector;
}

static uint8_t prepare_rw(struct vblk *v, struct vblk_req *r, uint64_t sector)
{
    if (r->type == T_IN)
        iov_add_part(&r->data, &r->e.in, 0, r->e.in.len - 1);
    else
        iov_add_part(&r->data, &r->e.out, HDR_SIZE, r->e.out.len - HDR_SIZE);
    r->len = r->data.len;
    if (!range_ok(v, sector, r->len) || (r->type == T_OUT && blk_readonly(v->blk)))
        return S_IOERR;
    r->off = sector * SECTOR;
    return S_OK;
}

static uint8_t prepare_range(struct vblk *v, struct vblk_req *r)
{
    bool wz = r->type == T_WRITE_ZEROES;
    uint8_t b[RANGE_SIZE];
    uint64_t sector;
    uint32_t n, flags;

    if (!virtio_offers(&v->vd, wz ? F_WRITE_ZEROES : F_DISCARD) || r->e.out.len != HDR_SIZE + RANGE_SIZE)
        return S_UNSUPP;
    iov_to_buf(&r->e.out, HDR_SIZE, b, sizeof b);
    sector = get_le64(b);
    n = get_le32(b + 8);
    flags = get_le32(b + 12);
    if ((flags & ~(uint32_t)WZ_FLAG_UNMAP) || (!wz && flags))
        return S_UNSUPP;
    if (n > MAX_RANGE_SECTORS || !range_ok(v, sector, (uint64_t)n * SECTOR) || blk_readonly(v->blk))
        return S_IOERR;
    r->off = sector * SECTOR;
    r->len = (uint64_t)n * SECTOR;
    r->flags = flags & WZ_FLAG_UNMAP ? BLK_MAY_UNMAP : 0;
    return S_OK;
}

static void answer_id(struct vblk *v, struct vblk_req *r)
{
    char id[ID_SIZE] = "";
    uint64_t n = min_u64(ID_SIZE, r->e.in.len - 1);
    const char *serial = v->serial ? v->serial : "";

    memcpy(id, serial, min_u64(strlen(serial), ID_SIZE));
    iov_from_buf(&r->e.in, 0, id, n);
    req_finish(r, S_OK);
}

/* Takes one request as far as submission or its answer. False when the guest's descriptors are no request at all. */
static bool req_start(struct vblk *v, struct vblk_req *r)
{
    uint8_t hdr[HDR_SIZE], st = S_OK;

    if (r->e.out.len < HDR_SIZE || r->e.in.len < 1) {
        virtio_error(&v->vd, "request without header or status byte");
        return false;
    }
    iov_to_buf(&r->e.out, 0, hdr, sizeof hdr);
    r->v = v;
    r->type = get_le32(hdr) & ~T_BARRIER;
    iov_init(&r->data, 0);
    switch (r->type) {
    case T_IN:
    case T_OUT:
        st = prepare_rw(v, r, get_le64(hdr + 8));
        break;
    case T_FLUSH:
        break;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        st = prepare_range(v, r);
        break;
    case T_GET_ID:
        answer_id(v, r);
        return true;
    default:
        st = S_UNSUPP;
        break;
    }
    if (st != S_OK)
        req_finish(r, st);
    else
        req_submit(r);
    return true;
}

static bool elem_start(struct virtio_dev *vd, struct virtq_elem *e)
{
    return req_start(vblk_of(vd), container_of(e, struct vblk_req, e));
}

static void vblk_queue(struct virtio_dev *vd, struct virtq *q)
{
    virtq_serve(q, sizeof(struct vblk_req), vd, elem_start);
}

/* ---- configuration ---- */

static void vblk_get_config(struct virtio_dev *vd, uint8_t *c)
{
    struct vblk *v = vblk_of(vd);
    uint32_t seg = v->seg_max_adjust ? v->queue_size - 2u : 126;
    unsigned exp = 0;

    while (v->log_bs << exp < v->phys_bs)
        exp++;
    put_le64(c + CFG_CAPACITY, blk_size(v->blk) / SECTOR);
    put_le32(c + CFG_SEG_MAX, seg);
    put_le16(c + CFG_CYLINDERS, v->cyls);
    c[CFG_HEADS] = v->heads;
    c[CFG_SECTORS] = v->secs;
    put_le32(c + CFG_BLK_SIZE, v->log_bs);
    c[CFG_PHYS_EXP] = exp;
    put_le16(c + CFG_MIN_IO, v->min_io / v->log_bs);
    put_le32(c + CFG_OPT_IO, v->opt_io / v->log_bs);
    c[CFG_WRITEBACK] = blk_write_cache(v->blk);
    put_le16(c + CFG_NUM_QUEUES, v->num_queues);
    if (virtio_offers(vd, F_DISCARD)) {
        put_le32(c + CFG_MAX_DISCARD, MAX_RANGE_SECTORS);
        put_le32(c + CFG_MAX_DISCARD_SEG, 1);
        put_le32(c + CFG_DISCARD_ALIGN, (v->discard_gran ? v->discard_gran : v->log_bs) / SECTOR);
    }
    if (virtio_offers(vd, F_WRITE_ZEROES)) {
        put_le32(c + CFG_MAX_WZ, MAX_RANGE_SECTORS);
        put_le32(c + CFG_MAX_WZ_SEG, 1);
        c[CFG_WZ_UNMAP] = 1;
    }
}

static void vblk_set_config(struct virtio_dev *vd, const uint8_t *c, unsigned off, unsigned len)
{
    struct vblk *v = vblk_of(vd);

    if (off <= CFG_WRITEBACK && off + len > CFG_WRITEBACK && virtio_has(vd, F_CONFIG_WCE))
        blk_set_write_cache(v->blk, c[CFG_WRITEBACK] & 1);
}

static void vblk_set_status(struct virtio_dev *vd, uint8_t old)
{
    struct vblk *v = vblk_of(vd);

    /* A driver that cannot flush gets every write on stable storage. */
    if ((vd->status & VIRTIO_S_DRIVER_OK) && !(old & VIRTIO_S_DRIVER_OK) && !virtio_has(vd, F_CONFIG_WCE))
        blk_set_write_cache(v->blk, v->orig_wce && virtio_has(vd, F_FLUSH));
}

static void drop_stopped(struct vblk *v)
{
    struct vblk_req *r, *tmp;

    for (unsigned i = 0; i < v->num_queues; i++)
        list_each_safe (r, tmp, &v->queues[i].stopped, link) {
            list_del(&r->link);
            iov_free(&r->data);
            virtq_elem_free(&r->e);
        }
}

static void vblk_reset(struct virtio_dev *vd)
{
    struct vblk *v = vblk_of(vd);

    virtio_enter(vd);
    drop_stopped(v);
    virtio_leave(vd);
    /* Transfers under way must not reach memory the guest uses for something else; only the loop's thread can wait. */
    if (__atomic_load_n(&v->inflight, __ATOMIC_ACQUIRE) && ev_loop_is_mine(dev_machine(vd->dev)->run->loop))
        blk_drain(v->blk);
    blk_set_write_cache(v->blk, v->orig_wce);
}

static void vblk_restart(void *opaque)
{
    struct vblk_queue *vq = opaque;
    struct list todo;
    struct vblk_req *r;

    list_init(&todo);
    while ((r = list_first(&vq->stopped, struct vblk_req, link))) {
        list_del(&r->link);
        list_add(&todo, &r->link);
    }
    while ((r = list_first(&todo, struct vblk_req, link))) {
        list_del(&r->link);
        if (!r->again)
            req_submit(r);
        else if (!req_start(vq->v, r))
            virtq_elem_free(&r->e);
    }
}

static void vblk_held(struct virtio_dev *vd, virtq_put_fn *put, void *opaque)
{
    struct vblk *v = vblk_of(vd);
    struct vblk_req *r;

    for (unsigned i = 0; i < v->num_queues; i++)
        list_each (r, &v->queues[i].stopped, link)
            put(opaque, &r->e, 0);
}

static void vblk_take_back(struct virtio_dev *vd, struct virtq_elem *e, uint64_t tag)
{
    struct vblk_req *r = container_of(e, struct vblk_req, e);

    r->v = vblk_of(vd);
    r->again = true;
    iov_init(&r->data, 0);
    list_add(&queue_of(r)->stopped, &r->link);
}

static size_t vblk_elem_size(struct virtio_dev *vd, unsigned queue)
{
    return sizeof(struct vblk_req);
}

static void vblk_running(struct virtio_dev *vd, bool on)
{
    struct vblk *v = vblk_of(vd);

    for (unsigned i = 0; on && i < v->num_queues; i++) {
        if (list_empty(&v->queues[i].stopped))
            continue;
        if (vd->vq[i].io)
            ev_bh_schedule(&v->queues[i].restart_bh);
        else
            vblk_restart(&v->queues[i]);
    }
}

static void vblk_resized(void *opaque)
{
    struct vblk *v = opaque;

    virtio_config_changed(&v->vd);
}
static const struct blk_dev_ops vblk_blk_ops = {.resized = vblk_resized};

/* ---- life ---- */

static bool check_block_size(const char *what, uint64_t v, struct err **errp)
{
    if (v >= SECTOR && v <= 2 * MIB && is_pow2(v))
        return true;
    return err_set(errp, "virtio-blk: %s=%" PRIu64 " must be a power of two between 512 and 2097152", what, v);
}

static bool check_props(struct vblk *v, struct err **errp)
{
    if (!v->blk)
        return err_set(errp, "virtio-blk: the drive property is not set; give drive=ID of a -drive or -blockdev");
    if (!blk_has_medium(v->blk))
        return err_set(errp, "virtio-blk: drive '%s' is empty, this device needs a medium", blk_id(v->blk));
    if (v->scsi)
        return err_set(errp, "virtio-blk: scsi=on (SCSI pass-through) is not offered; use virtio-scsi");
    if (!v->phys_bs)
        v->phys_bs = v->log_bs;
    if (!check_block_size("logical_block_size", v->log_bs, errp) ||
        !check_block_size("physical_block_size", v->phys_bs, errp))
        return false;
    if (v->phys_bs < v->log_bs)
        return err_set(errp, "virtio-blk: physical_block_size must not be smaller than logical_block_size");
    if (v->min_io % v->log_bs || v->opt_io % v->log_bs || v->discard_gran % v->log_bs)
        return err_set(
            errp,
            "virtio-blk: min_io_size, opt_io_size and discard_granularity must be multiples of logical_block_size");
    if (v->queue_size < 4 || v->queue_size > VIRTQ_MAX_NUM || !is_pow2(v->queue_size))
        return err_set(errp, "virtio-blk: queue-size=%u must be a power of two between 4 and %u", v->queue_size,
                       VIRTQ_MAX_NUM);
    if (v->num_queues > VIRTIO_QUEUES - 1 && v->num_queues != UINT16_MAX)
        return err_set(errp, "virtio-blk: num-queues=%u is more than %u", v->num_queues, VIRTIO_QUEUES - 1);
    if (!v->num_queues)
        return err_set(errp, "virtio-blk: num-queues must be at least 1");
    return true;
}

/* What a translating BIOS of old would make of the size, unless the user says. */
static void guess_geometry(struct vblk *v)
{
    uint64_t sectors = blk_size(v->blk) / SECTOR;

    if (v->cyls || v->heads || v->secs)
        return;
    v->heads = 16;
    v->secs = 63;
    v->cyls = min_u64(max_u64(sectors / (16 * 63), 2), 16383);
}

static bool find_iothreads(struct vblk *v, struct err **errp)
{
    struct blk_set *s = blk_set_of(dev_machine(v->vd.dev));

    if (v->iothread && v->map.nr)
        return err_set(errp, "iothread and iothread-vq-mapping exclude each other: give one of them");
    if (!vq_map_resolve(&v->map, s, v->num_queues, errp))
        return false;
    if (v->iothread && !(v->vd.io = blk_iothread_find(s, v->iothread, errp)))
        return false;
    if ((v->vd.io || v->map.nr) && v->vd.kick_sync)
        return err_set(errp, "ioeventfd is required for iothread");
    return true;
}

/* Requests run on the first queue's I/O thread: nodes belong to one thread. The queues' own threads take requests off
 * their rings and hand them back. */
static void add_queues(struct vblk *v)
{
    struct virtio_dev *vd = &v->vd;

    v->queues = xcalloc(v->num_queues, sizeof *v->queues);
    for (unsigned i = 0; i < v->num_queues; i++) {
        struct vblk_queue *q = &v->queues[i];

        if (v->map.nr)
            vd->io = vq_map_of(&v->map, i);
        q->v = v;
        list_init(&q->stopped);
        ev_bh_init(&q->restart_bh, vd->io ? vd->io->loop : dev_machine(vd->dev)->run->loop, vblk_restart, q);
        virtio_add_queue(vd, v->queue_size, vblk_queue);
    }
}

static bool vblk_realize(struct virtio_dev *vd, struct err **errp)
{
    struct vblk *v = vblk_of(vd);
    unsigned cpus = dev_machine(vd->dev)->max_cpus;

    if (!check_props(v, errp))
        return false;
    if (v->num_queues == UINT16_MAX)
        v->num_queues = min_u64(max_u64(cpus, 1), VIRTIO_QUEUES - 1);
    if (!find_iothreads(v, errp))
        return false;
    guess_geometry(v);
    if (!blk_set_share_rw(v->blk, v->share_rw, errp))
        return false;
    if (v->write_cache != OOA_AUTO)
        blk_set_write_cache(v->blk, v->write_cache == OOA_ON);
    v->orig_wce = blk_write_cache(v->blk);
    vd->features = VIRTIO_BIT(F_SEG_MAX) | VIRTIO_BIT(F_GEOMETRY) | VIRTIO_BIT(F_BLK_SIZE) | VIRTIO_BIT(F_FLUSH) |
                   VIRTIO_BIT(F_TOPOLOGY);
    if (v->config_wce)
        vd->features |= VIRTIO_BIT(F_CONFIG_WCE);
    if (v->num_queues > 1)
        vd->features |= VIRTIO_BIT(F_MQ);
    if (blk_readonly(v->blk))
        vd->features |= VIRTIO_BIT(F_RO);
    else
        vd->features |= (v->discard ? VIRTIO_BIT(F_DISCARD) : 0) | (v->write_zeroes ? VIRTIO_BIT(F_WRITE_ZEROES) : 0);
    add_queues(v);
    blk_set_dev_ops(v->blk, &vblk_blk_ops, v);
    blk_set_iothread(v->blk, vd->vq[0].io);
    return true;
}

static void vblk_unrealize(struct virtio_dev *vd)
{
    struct vblk *v = vblk_of(vd);

    for (unsigned i = 0; i < v->num_queues; i++)
        ev_bh_cancel(&v->queues[i].restart_bh);
    blk_drain(v->blk);
    blk_set_iothread(v->blk, NULL);
    drop_stopped(v);
    free(v->queues);
    v->queues = NULL;
    blk_set_dev_ops(v->blk, NULL, NULL);
}

static const struct virtio_type vblk_type = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .config_size = CFG_SIZE,
    .realize = vblk_realize,
    .unrealize = vblk_unrealize,
    .reset = vblk_reset,
    .get_config = vblk_get_config,
    .set_config = vblk_set_config,
    .set_status = vblk_set_status,
    .running = vblk_running,
    .held = vblk_held,
    .take_back = vblk_take_back,
    .elem_size = vblk_elem_size,
};
static const struct prop vblk_pci_props[] = {
    PROP_BLK("drive", struct vblk_pci, v.blk),
    PROP("serial", str, struct vblk_pci, v.serial),
    PROP("iothread", str, struct vblk_pci, v.iothread),
    PROP("iothread-vq-mapping", vq_map, struct vblk_pci, v.map),
    PROP("num-queues", u16, struct vblk_pci, v.num_queues, .dflt = "65535"),
    PROP("queue-size", u16, struct vblk_pci, v.queue_size, .dflt = "256"),
    PROP("logical_block_size", size, struct vblk_pci, v.log_bs, .dflt = "512"),
    PROP("physical_block_size", size, struct vblk_pci, v.phys_bs, .dflt = "512"),
    PROP("min_io_size", size, struct vblk_pci, v.min_io, .dflt = "0"),
    PROP("opt_io_size", size, struct vblk_pci, v.opt_io, .dflt = "0"),
    PROP("discard_granularity", size, struct vblk_pci, v.discard_gran, .dflt = "0"),
    PROP("cyls", u32, struct vblk_pci, v.cyls, .max = 65535),
    PROP("heads", u32, struct vblk_pci, v.heads, .max = 255),
    PROP("secs", u32, struct vblk_pci, v.secs, .max = 255),
    PROP("share-rw", bool, struct vblk_pci, v.share_rw, .dflt = "off"),
    PROP("write-cache", onoffauto, struct vblk_pci, v.write_cache, .dflt = "auto"),
    PROP("config-wce", bool, struct vblk_pci, v.config_wce, .dflt = "on"),
    PROP("discard", bool, struct vblk_pci, v.discard, .dflt = "on"),
    PROP("write-zeroes", bool, struct vblk_pci, v.write_zeroes, .dflt = "on"),
    PROP("seg-max-adjust", bool, struct vblk_pci, v.seg_max_adjust, .dflt = "on"),
    PROP("request-merging", bool, struct vblk_pci, v.request_merging, .dflt = "on"),
    PROP("scsi", bool, struct vblk_pci, v.scsi, .dflt = "off"),
    VIRTIO_PROPS(struct vblk_pci, v.vd),
    VIRTIO_PCI_PROPS(struct vblk_pci),
    PROP_END,
};
static const struct state_field vblk_fields[] = {
    STATE_STRUCT(struct vblk_pci, pci, virtio_pci_state),
    STATE_STRUCT(struct vblk_pci, v.vd, virtio_state),
    STATE_BOOL(struct vblk_pci, v.saved_wce),
    STATE_END,
};
static bool vblk_pre_save(void *opaque, struct err **errp)
{
    struct vblk *v = &((struct vblk_pci *)opaque)->v;

    v->saved_wce = blk_write_cache(v->blk);
    return true;
}
static bool vblk_post_load(void *opaque, struct err **errp)
{
    struct vblk *v = &((struct vblk_pci *)opaque)->v;

    blk_set_write_cache(v->blk, v->saved_wce);
    return true;
}
static const struct state_desc vblk_state = {
    .name = "virtio-blk", .version = 1, .fields = vblk_fields, .pre_save = vblk_pre_save, .post_load = vblk_post_load};
static const char *const vblk_aliases[] = {"virtio-blk", NULL};
VIRTIO_PCI_CLASSES(vblk, "virtio-blk-pci", vblk_aliases, struct vblk_pci, v, vblk_type, .props = vblk_pci_props,
                   .state_desc = &vblk_state, .category = DEV_CAT_STORAGE, .desc = "virtio block device",
                   .legacy_id = 0x1001, .class_id = 0x0100)
