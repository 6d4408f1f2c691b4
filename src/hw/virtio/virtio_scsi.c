/* virtio SCSI host adapter. Source: VIRTIO 1.2, 5.6.
 *
 * Queues: control, event, requests. Task management waits until the requests it is about have ended, since one that was
 * given to the block layer is not taken back. Hot-plug and changes are told through the event queue.
 *
 * With iothread= the request queues are handled there; commands that do more than move data are handed to the main loop
 * (`slow`). Lists and requests belong to whoever holds the I/O thread's lock; control and events stay on the main loop.
 * Left out: bidirectional commands, T10 protection information, asynchronous notification subscriptions (none is
 * offered). */
#include "hw/scsi/scsi.h"
#include "hw/virtio/virtio_pci.h"

enum { F_HOTPLUG = 1, F_CHANGE = 2 };
enum {
    CFG_NUM_QUEUES = 0,
    CFG_SEG_MAX = 4,
    CFG_MAX_SECTORS = 8,
    CFG_CMD_PER_LUN = 12,
    CFG_EVENT_SIZE = 16,
    CFG_SENSE_SIZE = 20,
    CFG_CDB_SIZE = 24,
    CFG_MAX_CHANNEL = 28,
    CFG_MAX_TARGET = 30,
    CFG_MAX_LUN = 32,
    CFG_SIZE = 36
};
enum { R_OK = 0, R_BAD_TARGET = 3, R_FAILURE = 9, R_FUNCTION_REJECTED = 11, R_INCORRECT_LUN = 12 };
enum { T_TMF = 0 };
enum {
    TMF_ABORT_TASK = 0,
    TMF_ABORT_TASK_SET = 1,
    TMF_CLEAR_TASK_SET = 3,
    TMF_NEXUS_RESET = 4,
    TMF_LUN_RESET = 5,
    TMF_QUERY_TASK = 6,
    TMF_QUERY_TASK_SET = 7
};
enum { EV_TRANSPORT_RESET = 1, EV_PARAM_CHANGE = 3, REASON_RESCAN = 1, REASON_REMOVED = 2 };
#define EV_MISSED 0x80000000u
enum {
    Q_CTRL = 0,
    Q_EVENT = 1,
    Q_REQ = 2,
    REQ_FIXED = 19,
    RESP_FIXED = 12,
    SENSE_DEFAULT = 96,
    CDB_DEFAULT = 32,
    EVENT_SIZE = 16
};

struct vscsi {
    struct virtio_dev vd; /* first */
    struct scsi_bus bus;
    uint32_t num_queues, queue_size, max_sectors, cmd_per_lun; /* properties */
    bool hotplug, param_change;                                /* properties */
    char *iothread;                                            /* property: id */
    struct iothread *io;                                       /* borrowed: of the request queues */
    struct list slow;                                          /* of struct vscsi_req: for the main loop */
    struct ev_bh slow_bh;
    uint32_t sense_size, cdb_size;
    struct list reqs;  /* of struct vscsi_req: with a unit */
    struct list again; /* of struct vscsi_req: came back with a restored machine */
    struct list tmfs;  /* of struct vscsi_tmf: waiting for requests */
    bool events_missed;
};
struct vscsi_pci {
    struct virtio_pci pci;
    struct vscsi v;
};
struct vscsi_req {
    struct virtq_elem e; /* first */
    struct list link;
    struct vscsi *v;
    uint64_t tag;
    uint8_t lun[8];
    struct iov out, in;
    struct scsi_req s;
};
struct vscsi_tmf {
    struct virtq_elem e; /* first */
    struct list link;
    uint8_t lun[8];
    uint64_t tag;
    bool one; /* about one task only */
};

static struct vscsi *vscsi_of(struct virtio_dev *vd)
{
    return container_of(vd, struct vscsi, vd);
}

/* Single-level LUN structure: 1, target, 0x40 | high bits, low bits. False when it is anything else. */
static bool parse_lun(const uint8_t *b, unsigned *id, unsigned *lun)
{
    if (b[0] == 0xc1) { /* REPORT LUNS well-known unit of target 0 */
        *id = 0;
        *lun = UINT32_MAX;
        return b[1] == 1;
    }
    *id = b[1];
    *lun = (unsigned)(b[2] & 0x3f) << 8 | b[3];
    return b[0] == 1 && (!b[2] || (b[2] & 0xc0) == 0x40) && !get_be32(b + 4);
}

/* ---- task management ---- */

static bool concerns(const struct vscsi_tmf *t, const struct vscsi_req *r)
{
    return !memcmp(t->lun, r->lun, sizeof t->lun) && (!t->one || t->tag == r->tag);
}

static void tmf_answer(struct virtq_elem *e, uint8_t response)
{
    struct virtq *q = e->q;

    virtq_push(e, iov_from_buf(&e->in, 0, &response, 1));
    virtq_notify(q);
}

static bool tmf_must_wait(struct vscsi *v, const struct vscsi_tmf *t)
{
    struct vscsi_req *r;

    list_each (r, &v->reqs, link)
        if (concerns(t, r))
            return true;
    list_each (r, &v->slow, link)
        if (concerns(t, r))
            return true;
    return false;
}

static void tmf_check(struct vscsi *v)
{
    struct vscsi_tmf *t, *tmp;

    list_each_safe (t, tmp, &v->tmfs, link)
        if (!tmf_must_wait(v, t)) {
            list_del(&t->link);
            tmf_answer(&t->e, 0);
        }
}

static void tmf_start(struct vscsi *v, struct vscsi_tmf *t, const uint8_t *b)
{
    uint32_t subtype = get_le32(b + 4);
    unsigned id, lun;
    bool target;
    struct scsi_dev *d;

    memcpy(t->lun, b + 8, 8);
    t->tag = get_le64(b + 16);
    if (!parse_lun(t->lun, &id, &lun)) {
        tmf_answer(&t->e, R_BAD_TARGET);
        return;
    }
    d = scsi_find(&v->bus, 0, id, lun, &target);
    if (!target || (!d && subtype != TMF_NEXUS_RESET)) {
        tmf_answer(&t->e, target ? R_INCORRECT_LUN : R_BAD_TARGET);
        return;
    }
    t->one = subtype == TMF_ABORT_TASK || subtype == TMF_QUERY_TASK;
    switch (subtype) {
    case TMF_ABORT_TASK:
    case TMF_ABORT_TASK_SET:
    case TMF_CLEAR_TASK_SET:
        break;
    case TMF_LUN_RESET:
        scsi_unit_reset(d);
        break;
    case TMF_NEXUS_RESET:
        if (d)
            scsi_unit_reset(d);
        break;
    case TMF_QUERY_TASK:
    case TMF_QUERY_TASK_SET:
        tmf_answer(&t->e, tmf_must_wait(v, t) ? 10 /* function succeeded */ : 0);
        return;
    default:
        tmf_answer(&t->e, R_FUNCTION_REJECTED);
        return;
    }
    list_add(&v->tmfs, &t->link);
    tmf_check(v);
}

static void ctrl_take(struct vscsi *v, struct virtq *q)
{
    struct virtio_dev *vd = &v->vd;
    struct vscsi_tmf *t;
    uint8_t b[24];

    while ((t = virtq_pop(q, sizeof *t))) {
        size_t n = iov_to_buf(&t->e.out, 0, b, sizeof b);
        list_init(&t->link);
        if (n < 4 || (get_le32(b) == T_TMF && (n < 24 || t->e.in.len < 1))) {
            virtio_error(vd, "control request of %zu bytes", n);
            virtq_elem_free(&t->e);
            return;
        }
        if (get_le32(b) == T_TMF) {
            tmf_start(v, t, b);
        } else { /* no asynchronous notification exists */
            uint8_t none[5] = {0};
            virtq_push(&t->e, iov_from_buf(&t->e.in, 0, none, sizeof none));
            virtq_notify(q);
        }
    }
}

static void ctrl_run(struct virtio_dev *vd, struct virtq *q)
{
    struct vscsi *v = vscsi_of(vd);

    iothread_enter(v->io);
    ctrl_take(v, q);
    iothread_leave(v->io);
}

/* ---- requests ---- */

/* `in` starts with the response: sense length, residual, status qualifier, status, response, sense. */
static void req_answer(struct vscsi_req *r, uint8_t response)
{
    struct vscsi *v = r->v;
    struct virtq *q = r->e.q;
    uint64_t want = r->in.len ? r->in.len : r->out.len, in = r->in.len ? r->s.moved : 0;
    uint8_t b[RESP_FIXED + SENSE_DEFAULT] = {0};

    put_le32(b, min_u64(r->s.sense_len, v->sense_size));
    put_le32(b + 4, response == R_OK ? want - r->s.moved : 0);
    b[10] = r->s.status;
    b[11] = response;
    memcpy(b + RESP_FIXED, r->s.sense, r->s.sense_len);
    iov_from_buf(&r->e.in, 0, b, RESP_FIXED + min_u64(v->sense_size, SENSE_DEFAULT));
    iov_free(&r->out);
    iov_free(&r->in);
    list_del(&r->link);
    virtq_push(&r->e, RESP_FIXED + v->sense_size + in);
    virtq_notify(q);
    tmf_check(v);
}

static void req_done(struct scsi_req *s)
{
    struct vscsi *v = ((struct vscsi_req *)s->opaque)->v;

    iothread_enter(v->io);
    req_answer(s->opaque, R_OK);
    iothread_leave(v->io);
}

static void req_submit(struct vscsi_req *r)
{
    struct vscsi *v = r->v;
    unsigned id, lun;

    list_add(&v->reqs, &r->link);
    if (!parse_lun(r->lun, &id, &lun) || !scsi_submit(&v->bus, 0, id, lun, &r->s))
        req_answer(r, R_BAD_TARGET);
}

/* False when the descriptors are no request. */
static bool req_start(struct vscsi *v, struct vscsi_req *r)
{
    uint8_t b[REQ_FIXED];
    unsigned id, lun, head = REQ_FIXED + v->cdb_size, resp = RESP_FIXED + v->sense_size;

    if (r->e.out.len < head || r->e.in.len < resp) {
        virtio_error(&v->vd, "request with %" PRIu64 " bytes out and %" PRIu64 " in", r->e.out.len, r->e.in.len);
        return false;
    }
    r->v = v;
    iov_to_buf(&r->e.out, 0, b, sizeof b);
    memcpy(r->lun, b, 8);
    r->tag = get_le64(b + 8);
    iov_to_buf(&r->e.out, REQ_FIXED, r->s.cdb, min_u64(v->cdb_size, SCSI_CDB_MAX));
    iov_init(&r->out, r->e.out.nr);
    iov_init(&r->in, r->e.in.nr);
    iov_add_part(&r->out, &r->e.out, head, r->e.out.len - head);
    iov_add_part(&r->in, &r->e.in, resp, r->e.in.len - resp);
    list_init(&r->link);
    if (r->out.len && r->in.len) { /* both directions were not negotiated */
        req_answer(r, R_FAILURE);
        return true;
    }
    r->s.out = r->out;
    r->s.in = r->in;
    r->s.done = req_done;
    r->s.opaque = r;
    if (iothread_self() && !(parse_lun(r->lun, &id, &lun) && scsi_runs_anywhere(&v->bus, 0, id, lun, r->s.cdb))) {
        list_add(&v->slow, &r->link);
        ev_bh_schedule(&v->slow_bh);
        return true;
    }
    req_submit(r);
    return true;
}

static void slow_run(void *opaque)
{
    struct vscsi *v = opaque;
    struct vscsi_req *r;

    iothread_enter(v->io);
    while ((r = list_first(&v->slow, struct vscsi_req, link))) {
        list_del(&r->link);
        req_submit(r);
    }
    iothread_leave(v->io);
}

static bool elem_start(struct virtio_dev *vd, struct virtq_elem *e)
{
    return req_start(vscsi_of(vd), container_of(e, struct vscsi_req, e));
}

static void req_run(struct virtio_dev *vd, struct virtq *q)
{
    virtq_serve(q, sizeof(struct vscsi_req), vd, elem_start);
}

/* ---- saving and going on ---- */

enum { HELD_REQ, HELD_TMF };

static void vscsi_held(struct virtio_dev *vd, virtq_put_fn *put, void *opaque)
{
    struct vscsi *v = vscsi_of(vd);
    struct vscsi_req *r;
    struct vscsi_tmf *t;

    list_each (r, &v->reqs, link)
        put(opaque, &r->e, HELD_REQ);
    list_each (r, &v->again, link)
        put(opaque, &r->e, HELD_REQ);
    list_each (t, &v->tmfs, link)
        put(opaque, &t->e, HELD_TMF);
}

static size_t vscsi_elem_size(struct virtio_dev *vd, unsigned queue)
{
    return queue == Q_CTRL ? sizeof(struct vscsi_tmf) : sizeof(struct vscsi_req);
}

/* A management function that waited for requests finds them gone when they start anew: it has nothing to wait for. */
static void vscsi_take_back(struct virtio_dev *vd, struct virtq_elem *e, uint64_t tag)
{
    struct vscsi *v = vscsi_of(vd);

    if (e->q->index == Q_CTRL) {
        struct vscsi_tmf *t = container_of(e, struct vscsi_tmf, e);
        uint8_t b[24] = {0};

        iov_to_buf(&e->out, 0, b, sizeof b);
        memcpy(t->lun, b + 8, 8);
        t->tag = get_le64(b + 16);
        t->one = true;
        list_add(&v->tmfs, &t->link);
    } else {
        list_add(&v->again, &container_of(e, struct vscsi_req, e)->link);
    }
}

static void vscsi_running(struct virtio_dev *vd, bool on)
{
    struct vscsi *v = vscsi_of(vd);
    struct vscsi_req *r;

    if (!on)
        slow_run(v);
    while (on && (r = list_first(&v->again, struct vscsi_req, link))) {
        list_del(&r->link);
        if (!req_start(v, r))
            virtq_elem_free(&r->e);
    }
    if (on)
        tmf_check(v);
}

static void drop_again(struct vscsi *v)
{
    struct vscsi_req *r;

    while ((r = list_first(&v->again, struct vscsi_req, link))) {
        list_del(&r->link);
        virtq_elem_free(&r->e);
    }
}

/* ---- events ---- */

static void event_send(struct vscsi *v, uint32_t event, const struct scsi_dev *d, uint32_t reason)
{
    struct virtq *q = &v->vd.vq[Q_EVENT];
    uint8_t b[EVENT_SIZE] = {0};
    struct virtq_elem *e;

    if (!(v->vd.status & VIRTIO_S_DRIVER_OK) || !virtio_active(&v->vd))
        return;
    e = virtq_pop(q, sizeof *e);
    if (!e) {
        v->events_missed = true;
        return;
    }
    put_le32(b, event | (v->events_missed ? EV_MISSED : 0));
    v->events_missed = false;
    if (d) {
        b[4] = 1;
        b[5] = d->id;
        b[6] = d->lun > 255 ? 0x40 | d->lun >> 8 : 0;
        b[7] = d->lun;
    }
    put_le32(b + 12, reason);
    virtq_push(e, iov_from_buf(&e->in, 0, b, sizeof b));
    virtq_notify(q);
}

static void event_run(struct virtio_dev *vd, struct virtq *q)
{
    struct vscsi *v = vscsi_of(vd);

    if (v->events_missed)
        event_send(v, 0, NULL, 0);
}

static void unit_plugged(void *opaque, struct scsi_dev *d, bool on)
{
    struct vscsi *v = opaque;

    if (virtio_has(&v->vd, F_HOTPLUG))
        event_send(v, EV_TRANSPORT_RESET, d, on ? REASON_RESCAN : REASON_REMOVED);
}

static void unit_changed(void *opaque, struct scsi_dev *d, uint16_t what)
{
    struct vscsi *v = opaque;

    if (virtio_has(&v->vd, F_CHANGE)) /* ASC in the low byte, ASCQ in the next */
        event_send(v, EV_PARAM_CHANGE, d, what >> 8 | (what & 0xff) << 8);
}

/* ---- configuration and life ---- */

static void vscsi_get_config(struct virtio_dev *vd, uint8_t *c)
{
    struct vscsi *v = vscsi_of(vd);

    put_le32(c + CFG_NUM_QUEUES, v->num_queues);
    put_le32(c + CFG_SEG_MAX, v->queue_size - 2);
    put_le32(c + CFG_MAX_SECTORS, v->max_sectors);
    put_le32(c + CFG_CMD_PER_LUN, v->cmd_per_lun);
    put_le32(c + CFG_EVENT_SIZE, EVENT_SIZE);
    put_le32(c + CFG_SENSE_SIZE, v->sense_size);
    put_le32(c + CFG_CDB_SIZE, v->cdb_size);
    put_le16(c + CFG_MAX_CHANNEL, 0);
    put_le16(c + CFG_MAX_TARGET, 255);
    put_le32(c + CFG_MAX_LUN, 16383);
}

static void vscsi_set_config(struct virtio_dev *vd, const uint8_t *c, unsigned off, unsigned len)
{
    struct vscsi *v = vscsi_of(vd);
    uint32_t sense = get_le32(c + CFG_SENSE_SIZE), cdb = get_le32(c + CFG_CDB_SIZE);

    if (sense < 1 || sense > SENSE_DEFAULT || cdb < 1 || cdb > CDB_DEFAULT) {
        virtio_error(vd, "sense size %u or command size %u is out of range", sense, cdb);
        return;
    }
    v->sense_size = sense;
    v->cdb_size = cdb;
}

static void vscsi_reset(struct virtio_dev *vd)
{
    struct vscsi *v = vscsi_of(vd);
    struct vscsi_tmf *t, *tmp;

    slow_run(v); /* of a past life: ends without a trace */
    /* Transfers under way must not reach memory the guest uses for something else; only the loop's thread can wait. */
    if (ev_loop_is_mine(dev_machine(vd->dev)->run->loop))
        scsi_drain(&v->bus);
    virtio_enter(vd);
    v->sense_size = SENSE_DEFAULT;
    v->cdb_size = CDB_DEFAULT;
    v->events_missed = false;
    drop_again(v);
    list_each_safe (t, tmp, &v->tmfs, link) {
        list_del(&t->link);
        virtq_elem_free(&t->e);
    }
    virtio_leave(vd);
}

static bool find_iothread(struct vscsi *v, struct err **errp)
{
    if (!v->iothread)
        return true;
    if (v->vd.kick_sync)
        return err_set(errp, "ioeventfd is required for iothread");
    v->io = blk_iothread_find(blk_set_of(dev_machine(v->vd.dev)), v->iothread, errp);
    return v->io != NULL;
}

static bool vscsi_realize(struct virtio_dev *vd, struct err **errp)
{
    struct vscsi *v = vscsi_of(vd);
    struct scsi_hba hba = {
        .max_target = 255, .max_lun = 16383, .plugged = unit_plugged, .changed = unit_changed, .opaque = v};

    list_init(&v->slow);
    ev_bh_init(&v->slow_bh, dev_machine(vd->dev)->run->loop, slow_run, v);
    list_init(&v->reqs);
    list_init(&v->again);
    list_init(&v->tmfs);
    if (v->num_queues == UINT32_MAX)
        v->num_queues = min_u64(max_u64(dev_machine(vd->dev)->max_cpus, 1), VIRTIO_QUEUES - Q_REQ);
    if (!v->num_queues || v->num_queues > VIRTIO_QUEUES - Q_REQ)
        return err_set(errp, "virtio-scsi: num_queues=%u must be between 1 and %u", v->num_queues,
                       VIRTIO_QUEUES - Q_REQ);
    if (v->queue_size < 4 || v->queue_size > VIRTQ_MAX_NUM || !is_pow2(v->queue_size))
        return err_set(errp, "virtio-scsi: virtqueue_size=%u must be a power of two between 4 and %u", v->queue_size,
                       VIRTQ_MAX_NUM);
    if (!find_iothread(v, errp))
        return false;
    hba.io = v->io;
    vd->features = (v->hotplug ? VIRTIO_BIT(F_HOTPLUG) : 0) | (v->param_change ? VIRTIO_BIT(F_CHANGE) : 0);
    virtio_add_queue(vd, v->queue_size, ctrl_run);
    virtio_add_queue(vd, v->queue_size, event_run);
    vd->io = v->io;
    for (unsigned i = 0; i < v->num_queues; i++)
        virtio_add_queue(vd, v->queue_size, req_run);
    v->sense_size = SENSE_DEFAULT;
    v->cdb_size = CDB_DEFAULT;
    scsi_bus_init(&v->bus, vd->dev, &hba);
    return true;
}

static void vscsi_unrealize(struct virtio_dev *vd)
{
    ev_bh_cancel(&vscsi_of(vd)->slow_bh);
    drop_again(vscsi_of(vd));
    scsi_bus_fini(&vscsi_of(vd)->bus);
}

static const struct virtio_type vscsi_type = {.name = "virtio-scsi",
                                              .id = VIRTIO_ID_SCSI,
                                              .config_size = CFG_SIZE,
                                              .realize = vscsi_realize,
                                              .unrealize = vscsi_unrealize,
                                              .reset = vscsi_reset,
                                              .get_config = vscsi_get_config,
                                              .set_config = vscsi_set_config,
                                              .running = vscsi_running,
                                              .held = vscsi_held,
                                              .take_back = vscsi_take_back,
                                              .elem_size = vscsi_elem_size};
static const struct prop vscsi_pci_props[] = {
    PROP("num_queues", u32, struct vscsi_pci, v.num_queues, .dflt = "4294967295"),
    PROP("virtqueue_size", u32, struct vscsi_pci, v.queue_size, .dflt = "256"),
    PROP("max_sectors", u32, struct vscsi_pci, v.max_sectors, .dflt = "65535"),
    PROP("cmd_per_lun", u32, struct vscsi_pci, v.cmd_per_lun, .dflt = "128"),
    PROP("iothread", str, struct vscsi_pci, v.iothread),
    PROP("hotplug", bool, struct vscsi_pci, v.hotplug, .dflt = "on"),
    PROP("param_change", bool, struct vscsi_pci, v.param_change, .dflt = "on"),
    VIRTIO_PROPS(struct vscsi_pci, v.vd),
    VIRTIO_PCI_PROPS(struct vscsi_pci),
    PROP_END,
};
static const struct state_field vscsi_fields[] = {
    STATE_STRUCT(struct vscsi_pci, pci, virtio_pci_state),
    STATE_STRUCT(struct vscsi_pci, v.vd, virtio_state),
    STATE_U32(struct vscsi_pci, v.sense_size),
    STATE_U32(struct vscsi_pci, v.cdb_size),
    STATE_BOOL(struct vscsi_pci, v.events_missed),
    STATE_END,
};
static bool vscsi_post_load(void *opaque, struct err **errp)
{
    struct vscsi_pci *p = opaque;

    return p->v.sense_size && p->v.sense_size <= SENSE_DEFAULT && p->v.cdb_size && p->v.cdb_size <= CDB_DEFAULT;
}
static const struct state_desc vscsi_state = {
    .name = "virtio-scsi", .version = 1, .fields = vscsi_fields, .post_load = vscsi_post_load};
static const char *const vscsi_aliases[] = {"virtio-scsi", NULL};
VIRTIO_PCI_CLASSES(vscsi, "virtio-scsi-pci", vscsi_aliases, struct vscsi_pci, v, vscsi_type, .props = vscsi_pci_props,
                   .state_desc = &vscsi_state, .category = DEV_CAT_STORAGE, .desc = "virtio SCSI host adapter",
                   .legacy_id = 0x1004, .class_id = 0x0100)
