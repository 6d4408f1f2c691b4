/* NVMe controller: registers, queues, interrupts, life. NVM Express base specification 1.4, chapters 3 and 4, and the
 * NVMe over PCIe transport.
 *
 * A doorbell stores its value and schedules the queue on the main loop, where commands are fetched, run and completed;
 * a completion queue without room keeps what is done until its head moves, and its submission queues are left alone
 * meanwhile, so what the guest can make wait is bounded by its queues. Disabling the controller, deleting a queue and
 * shutting down end when the last command has: until then the old state is shown, as the specification allows.
 * Interrupts of one turn of the loop are sent once per vector.
 *
 * Left out: weighted arbitration, controller memory buffer and persistent memory region, metadata and protection
 * information, namespace management, firmware download, virtualization management, fused commands, subsystem reset. */
#include "base/str.h"
#include "hw/block/nvme_int.h"

enum {
    CAP_LO = 0x00,
    CAP_HI = 0x04,
    VS = 0x08,
    INTMS = 0x0c,
    INTMC = 0x10,
    CC = 0x14,
    CSTS = 0x1c,
    AQA = 0x24,
    ASQ_LO = 0x28,
    ASQ_HI = 0x2c,
    ACQ_LO = 0x30,
    ACQ_HI = 0x34,
    DOORBELLS = 0x1000,
    BAR_SIZE = 0x4000,
};
enum { CC_EN = 1, CC_CSS = 7 << 4, CC_MPS = 15 << 7, CC_AMS = 7 << 11, CC_SHN = 3 << 14, CC_IOSQES = 15 << 16 };
enum {
    CC_KNOWN = 0x00fffff1,
    CSTS_RDY = 1,
    CSTS_CFS = 2,
    CSTS_SHST = 3 << 2,
    SHST_UNDER_WAY = 1 << 2,
    SHST_DONE = 2 << 2
};
enum { MPS_MAX = 4, VERSION = 0x00010400, HELD_MAX = 32 << 20, HELD_SQE = 3 + NVME_SQE, HELD_CQE = 3 + NVME_CQE };
/* CAP: MQES, CQR, TO 15 (7.5 s), CSS: NVM; MPSMIN 4 KiB, MPSMAX 64 KiB. */
#define CAP_VALUE                                                                                                      \
    ((uint64_t)(NVME_MQES - 1) | UINT64_C(1) << 16 | UINT64_C(15) << 24 | UINT64_C(1) << 37 | (uint64_t)MPS_MAX << 52)

static struct nvme *nvme_of(struct dev *d)
{
    return container_of(d, struct nvme, pci.dev);
}

static bool enabled(const struct nvme *n)
{
    return (n->csts & CSTS_RDY) && !n->stopping && !(n->csts & CSTS_CFS);
}

static void fatal(struct nvme *n, const char *why)
{
    log_guest("nvme: %s; the controller needs a reset", why);
    n->csts |= CSTS_CFS;
}

/* ---- interrupts ---- */

/* Without MSI-X: the pin is up while an entry of an interrupting queue has not been taken. */
static void pin_update(struct nvme *n)
{
    uint32_t vectors = 0;

    if (pci_msix_enabled(&n->pci)) {
        pci_set_intx(&n->pci, 0);
        return;
    }
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (n->cq[i].on && n->cq[i].ien && n->cq[i].head != n->cq[i].tail)
            vectors |= 1u << (n->cq[i].vector & 31);
    pci_set_intx(&n->pci, (vectors & ~n->intms) != 0);
}

static void irq_run(void *opaque)
{
    struct nvme_cq *q = opaque;

    if (!q->on || !q->ien)
        return;
    if (pci_msix_enabled(&q->n->pci))
        pci_msix_notify(&q->n->pci, q->vector);
    else
        pin_update(q->n);
}

/* ---- completion queues ---- */

/* The shadow of a doorbell in guest memory; admin queues have none. */
static uint32_t shadow(struct nvme *n, unsigned index, uint32_t dflt)
{
    uint8_t b[4];

    if (!n->dbbuf_dbs || index < 2 || pci_dma_read(&n->pci, n->dbbuf_dbs + 4 * index, b, sizeof b) != MEM_OK)
        return dflt;
    return get_le32(b);
}

/* Asks to be told when the guest passes this value. */
static void set_event_index(struct nvme *n, unsigned index, uint32_t val)
{
    if (!n->dbbuf_eis || index < 2)
        return;
    mem_store(n->pci.dma, n->dbbuf_eis + 4 * index, 4, val);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void cq_update_head(struct nvme_cq *q)
{
    uint32_t *db = &q->n->cq_db[q->id], v = shadow(q->n, 2u * q->id + 1, __atomic_load_n(db, __ATOMIC_SEQ_CST));

    if (v < q->size) {
        q->head = v;
        return;
    }
    log_guest("nvme: head %u of completion queue %u is beyond its %u entries", v, q->id, q->size);
    __atomic_store_n(db, q->head, __ATOMIC_SEQ_CST);
    nvme_event(q->n, AE_ERROR, AE_BAD_DOORBELL_VALUE, LOG_ERROR);
}

static bool cq_full(struct nvme_cq *q)
{
    uint32_t next = q->tail + 1 == q->size ? 0 : q->tail + 1;

    if (next != q->head)
        return false;
    cq_update_head(q);
    if (next != q->head)
        return false;
    __atomic_store_n(&q->n->cq_db_told[q->id], true, __ATOMIC_SEQ_CST);
    set_event_index(q->n, 2u * q->id + 1, q->head);
    cq_update_head(q);
    return next == q->head;
}

/* Its last word, with the phase tag, becomes visible after the others. */
static void cq_put(struct nvme_cq *q, uint32_t dw0, uint16_t sq_head, uint16_t sqid, uint16_t cid, uint16_t status)
{
    gpa_t at = q->base + (uint64_t)q->tail * NVME_CQE;
    uint8_t e[12] = {0};

    put_le32(e, dw0);
    put_le16(e + 8, sq_head);
    put_le16(e + 10, sqid);
    pci_dma_write(&q->n->pci, at, e, sizeof e);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    mem_store(q->n->pci.dma, at + 12, 4, cid | (uint32_t)(uint16_t)(status << 1 | q->phase) << 16);
    if (++q->tail == q->size) {
        q->tail = 0;
        q->phase = !q->phase;
    }
    if (q->ien)
        ev_bh_schedule(&q->irq_bh);
}

static void req_free(struct nvme_req *r)
{
    free(r->aux);
    free(r);
}

static void cq_put_req(struct nvme_cq *q, struct nvme_req *r)
{
    cq_put(q, r->dw0, r->sq_head, r->sq->id, get_le16(r->cmd + 2), r->status);
    req_free(r);
}

/* Heads have moved: what waits for room goes out, and queues that were left alone go on. */
static void cqs_run(void *opaque)
{
    struct nvme *n = opaque;

    if (!enabled(n))
        return;
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        struct nvme_cq *q = &n->cq[i];
        bool waited;

        if (!q->on)
            continue;
        cq_update_head(q);
        waited = !list_empty(&q->waiting);
        __atomic_store_n(&n->cq_db_told[i], false, __ATOMIC_SEQ_CST);
        while (!list_empty(&q->waiting) && !cq_full(q)) {
            struct nvme_req *r = list_first(&q->waiting, struct nvme_req, link);

            list_del(&r->link);
            cq_put_req(q, r);
        }
        for (unsigned k = 0; waited && k < NVME_QUEUES; k++)
            if (n->sq[k].on && n->sq[k].cqid == i)
                ev_bh_schedule(&n->sq[k].bh);
    }
    pin_update(n);
}

void nvme_complete_admin(struct nvme *n, uint16_t cid, uint32_t dw0, uint16_t status)
{
    struct nvme_req *r = xnew(struct nvme_req);

    r->n = n;
    r->sq = &n->sq[0];
    r->dw0 = dw0;
    r->status = status;
    r->sq_head = (uint16_t)n->sq[0].head;
    put_le16(r->cmd + 2, cid);
    list_init(&r->link);
    if (!list_empty(&n->cq[0].waiting) || cq_full(&n->cq[0]))
        list_add(&n->cq[0].waiting, &r->link);
    else
        cq_put_req(&n->cq[0], r);
}

/* ---- submission queues ---- */

static void stop_finish(struct nvme *n);

void nvme_req_end(struct nvme_req *r, uint16_t status)
{
    struct nvme *n = r->n;
    struct nvme_sq *sq = r->sq;
    struct nvme_cq *cq = &n->cq[sq->cqid];

    nvme_data_end(r, !n->dropping && !status);
    r->status = status;
    r->sq_head = (uint16_t)sq->head;
    assert(n->inflight && sq->inflight);
    n->inflight--;
    sq->inflight--;
    if (n->dropping)
        req_free(r);
    else if (!list_empty(&cq->waiting) || cq_full(cq))
        list_add(&cq->waiting, &r->link);
    else
        cq_put_req(cq, r);
    if (sq->on && sq->inflight + 1 == sq->size)
        ev_bh_schedule(&sq->bh);
    if (sq->deleter && !sq->inflight && sq->on) {
        struct nvme_req *d = sq->deleter;

        nvme_sq_delete(sq);
        nvme_req_end(d, SC_SUCCESS);
    }
    if (n->stopping && !n->inflight)
        stop_finish(n);
}

void nvme_req_drop(struct nvme_req *r)
{
    r->n->inflight--;
    r->sq->inflight--;
    nvme_data_end(r, false);
    req_free(r);
}

void nvme_req_keep(struct nvme_req *r)
{
    nvme_data_end(r, false);
    free(r->aux);
    r->aux = NULL;
    list_add(&r->n->stopped, &r->link);
}

static uint32_t sq_tail(struct nvme_sq *q)
{
    uint32_t *db = &q->n->sq_db[q->id], v = shadow(q->n, 2u * q->id, __atomic_load_n(db, __ATOMIC_SEQ_CST));

    if (v < q->size)
        return v;
    log_guest("nvme: tail %u of submission queue %u is beyond its %u entries", v, q->id, q->size);
    __atomic_store_n(db, q->head, __ATOMIC_SEQ_CST);
    nvme_event(q->n, AE_ERROR, AE_BAD_DOORBELL_VALUE, LOG_ERROR);
    return q->head;
}

static struct nvme_req *req_new(struct nvme_sq *q)
{
    struct nvme_req *r = xnew(struct nvme_req);

    list_init(&r->link);
    r->n = q->n;
    r->sq = q;
    q->inflight++;
    q->n->inflight++;
    return r;
}

static void req_run(struct nvme_req *r)
{
    uint16_t s = r->cmd[1] & 3 ? SC_INVALID_FIELD | SC_DNR : r->sq->id ? nvme_io(r) : nvme_admin(r);

    if (s != SC_PENDING)
        nvme_req_end(r, s);
}

/* Takes the entry at the head; false when it cannot be read. */
static bool sq_take(struct nvme_sq *q)
{
    uint8_t cmd[NVME_SQE];
    struct nvme_req *r;

    if (pci_dma_read(&q->n->pci, q->base + (uint64_t)q->head * NVME_SQE, cmd, sizeof cmd) != MEM_OK) {
        fatal(q->n, "a submission queue lies outside memory");
        return false;
    }
    if (++q->head == q->size)
        q->head = 0;
    r = req_new(q);
    memcpy(r->cmd, cmd, sizeof cmd);
    req_run(r);
    return true;
}

void nvme_sq_kick(struct nvme_sq *q)
{
    struct nvme *n = q->n;
    uint32_t done = 0;

    while (q->on && enabled(n) && machine_running(dev_machine(&n->pci.dev)) && !q->deleter) {
        if (!list_empty(&n->cq[q->cqid].waiting) || q->inflight >= q->size)
            return; /* goes on when there is room, or when one has ended */
        if (q->head == sq_tail(q)) {
            if (!n->dbbuf_eis || !q->id)
                return;
            set_event_index(n, 2u * q->id, q->head);
            if (q->head == sq_tail(q))
                return;
        }
        if (!sq_take(q))
            return;
        if (++done == q->size) { /* others want their turn too */
            ev_bh_schedule(&q->bh);
            return;
        }
    }
}

static void sq_run(void *opaque)
{
    struct nvme_sq *q = opaque;

    if (!q->on && enabled(q->n)) {
        log_guest("nvme: doorbell of submission queue %u, which does not exist", (unsigned)(q - q->n->sq));
        nvme_event(q->n, AE_ERROR, AE_BAD_DOORBELL, LOG_ERROR);
        return;
    }
    nvme_sq_kick(q);
}

/* ---- creating and deleting ---- */

unsigned nvme_io_queues(const struct nvme *n)
{
    return n->max_ioqpairs;
}

uint16_t nvme_cq_create(struct nvme *n, unsigned id, gpa_t base, uint32_t size, bool ien, unsigned vector)
{
    struct nvme_cq *q = &n->cq[id];

    assert(id < NVME_QUEUES && !q->on);
    q->id = (uint16_t)id;
    q->base = base;
    q->size = size;
    q->head = q->tail = 0;
    q->phase = true;
    q->ien = ien;
    q->vector = (uint16_t)vector;
    q->users = 0;
    q->on = true;
    __atomic_store_n(&n->cq_db[id], 0, __ATOMIC_SEQ_CST);
    n->cq_db_told[id] = false;
    return SC_SUCCESS;
}

uint16_t nvme_sq_create(struct nvme *n, unsigned id, gpa_t base, uint32_t size, unsigned cqid)
{
    struct nvme_sq *q = &n->sq[id];

    assert(id < NVME_QUEUES && !q->on && n->cq[cqid].on && !q->inflight);
    q->id = (uint16_t)id;
    q->base = base;
    q->size = size;
    q->head = 0;
    q->cqid = (uint16_t)cqid;
    q->on = true;
    n->cq[cqid].users++;
    __atomic_store_n(&n->sq_db[id], 0, __ATOMIC_SEQ_CST);
    return SC_SUCCESS;
}

void nvme_sq_delete(struct nvme_sq *q)
{
    ev_bh_cancel(&q->bh);
    q->on = false;
    q->deleter = NULL;
    q->n->cq[q->cqid].users--;
}

void nvme_cq_delete(struct nvme_cq *q)
{
    struct nvme_req *r;

    ev_bh_cancel(&q->irq_bh);
    while ((r = list_first(&q->waiting, struct nvme_req, link))) {
        list_del(&r->link);
        req_free(r);
    }
    q->on = false;
    q->n->cq_db_told[q->id] = false;
}

/* ---- enabling, disabling, shutting down ---- */

static void start(struct nvme *n)
{
    uint32_t sqs = (n->aqa & 0xfff) + 1, cqs = (n->aqa >> 16 & 0xfff) + 1, mps = (n->cc & CC_MPS) >> 7;

    if (mps > MPS_MAX || n->cc & (CC_CSS | CC_AMS) || sqs < 2 || cqs < 2) {
        fatal(n, "enabled with settings it does not have");
        return;
    }
    n->page = NVME_PAGE << mps;
    if ((n->asq | n->acq) & (n->page - 1)) {
        fatal(n, "an admin queue does not start at a page");
        return;
    }
    nvme_cq_create(n, 0, n->acq, cqs, true, 0);
    nvme_sq_create(n, 0, n->asq, sqs, 0);
    n->csts |= CSTS_RDY;
}

static void drop_stopped(struct nvme *n)
{
    struct nvme_req *r;

    while ((r = list_first(&n->stopped, struct nvme_req, link))) {
        list_del(&r->link);
        nvme_req_end(r, SC_ABORT_SQ_DELETED);
    }
}

static void defaults(struct nvme *n)
{
    n->nr_aer = n->nr_event = n->nr_changed = 0;
    n->event_masked = 0;
    n->feat_arbitration = 7;
    n->feat_power = 0;
    n->feat_temp_over = 343;
    n->feat_temp_under = 0;
    n->feat_recovery = 0;
    n->feat_irq = 0;
    n->feat_atomic = 0;
    n->feat_events = 0x100; /* namespace attribute notices */
    n->timestamp_set = false;
    n->dbbuf_dbs = n->dbbuf_eis = 0;
}

/* No command is under way any more. */
static void stop_finish(struct nvme *n)
{
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        if (n->sq[i].on)
            nvme_sq_delete(&n->sq[i]);
        if (n->cq[i].on)
            nvme_cq_delete(&n->cq[i]);
    }
    n->stopping = n->dropping = false;
    n->csts &= ~(uint32_t)(CSTS_RDY | CSTS_CFS);
    n->intms = 0;
    defaults(n);
    pin_update(n);
    if (n->cc & CC_EN)
        start(n);
}

static void stop(struct nvme *n)
{
    if (n->stopping)
        return;
    n->stopping = n->dropping = true;
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        ev_bh_cancel(&n->sq[i].bh);
    ev_bh_cancel(&n->cq_bh);
    if (!n->inflight)
        stop_finish(n);
    else
        drop_stopped(n);
}

static void flushed(void *opaque, int ret)
{
    struct nvme *n = opaque;

    if (!--n->flushes && (n->csts & CSTS_SHST) == SHST_UNDER_WAY)
        n->csts = (n->csts & ~(uint32_t)CSTS_SHST) | SHST_DONE;
}

static void shut_down(struct nvme *n)
{
    n->csts = (n->csts & ~(uint32_t)CSTS_SHST) | SHST_UNDER_WAY;
    n->flushes++;
    for (unsigned i = 1; i <= NVME_NS_MAX; i++)
        if (n->ns[i]) {
            n->flushes++;
            blk_aio_flush(n->ns[i]->blk, flushed, n);
        }
    flushed(n, 0);
}

static void cc_write(struct nvme *n, uint32_t v)
{
    uint32_t old = n->cc;

    n->cc = v & CC_KNOWN;
    if ((v & CC_EN) && !(old & CC_EN)) {
        if (!n->stopping)
            start(n);
    } else if (!(v & CC_EN) && (old & CC_EN)) {
        n->csts &= ~(uint32_t)CSTS_SHST;
        stop(n);
    }
    if ((v & CC_SHN) && !(old & CC_SHN))
        shut_down(n);
    else if (!(v & CC_SHN) && (old & CC_SHN))
        n->csts &= ~(uint32_t)CSTS_SHST;
}

/* ---- registers ---- */

static uint64_t regs_read(void *opaque, gpa_t off, unsigned size)
{
    struct nvme *n = opaque;

    switch (off) {
    case CAP_LO:
        return (uint32_t)CAP_VALUE;
    case CAP_HI:
        return CAP_VALUE >> 32;
    case VS:
        return VERSION;
    case INTMS:
    case INTMC:
        return n->intms;
    case CC:
        return n->cc;
    case CSTS:
        return n->csts;
    case AQA:
        return n->aqa;
    case ASQ_LO:
        return (uint32_t)n->asq;
    case ASQ_HI:
        return n->asq >> 32;
    case ACQ_LO:
        return (uint32_t)n->acq;
    case ACQ_HI:
        return n->acq >> 32;
    default:
        return 0;
    }
}

static void set_half(uint64_t *reg, unsigned shift, uint32_t v)
{
    *reg = (*reg & ~(UINT64_C(0xffffffff) << shift)) | (uint64_t)v << shift;
    *reg &= ~UINT64_C(0xfff);
}

static void regs_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct nvme *n = opaque;
    uint32_t v = (uint32_t)val;

    switch (off) {
    case INTMS:
        n->intms |= v;
        pin_update(n);
        break;
    case INTMC:
        n->intms &= ~v;
        pin_update(n);
        break;
    case CC:
        cc_write(n, v);
        break;
    case AQA:
        n->aqa = v & 0x0fff0fff;
        break;
    case ASQ_LO:
    case ASQ_HI:
        set_half(&n->asq, off == ASQ_HI ? 32 : 0, v);
        break;
    case ACQ_LO:
    case ACQ_HI:
        set_half(&n->acq, off == ACQ_HI ? 32 : 0, v);
        break;
    default:
        log_guest("nvme: write of %#x to register %#" PRIx64, v, off);
        break;
    }
}
static const struct mem_ops regs_ops = {
    .read = regs_read, .write = regs_write, .valid_min = 1, .valid_max = 8, .impl_min = 4, .impl_max = 4};

static uint64_t doorbell_read(void *opaque, gpa_t off, unsigned size)
{
    return 0;
}

/* On any thread, without the machine lock. */
static void doorbell_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct nvme *n = opaque;
    unsigned q = (unsigned)(off / 8);

    if (q >= NVME_QUEUES)
        return;
    if (off & 4) {
        __atomic_store_n(&n->cq_db[q], (uint32_t)val, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&n->cq_db_told[q], __ATOMIC_SEQ_CST) || !pci_msix_enabled(&n->pci))
            ev_bh_schedule(&n->cq_bh);
    } else {
        __atomic_store_n(&n->sq_db[q], (uint32_t)val, __ATOMIC_SEQ_CST);
        ev_bh_schedule(&n->sq[q].bh);
    }
}
static const struct mem_ops doorbell_ops = {.read = doorbell_read,
                                            .write = doorbell_write,
                                            .valid_min = 4,
                                            .valid_max = 8,
                                            .impl_min = 4,
                                            .impl_max = 4,
                                            .flags = MEM_UNLOCKED};

/* ---- events ---- */

void nvme_events_send(struct nvme *n)
{
    for (unsigned i = 0; i < n->nr_event && n->nr_aer && n->cq[0].on;) {
        uint8_t bit = (uint8_t)(1u << (n->event[i] & 7));

        if (n->event_masked & bit) {
            i++;
            continue;
        }
        n->event_masked |= bit;
        nvme_complete_admin(n, n->aer[--n->nr_aer], n->event[i], SC_SUCCESS);
        n->nr_event--;
        memmove(&n->event[i], &n->event[i + 1], (n->nr_event - i) * sizeof n->event[0]);
    }
}

void nvme_event(struct nvme *n, unsigned type, unsigned info, unsigned log)
{
    uint32_t e = type | info << 8 | log << 16;

    if (!enabled(n))
        return;
    for (unsigned i = 0; i < n->nr_event; i++)
        if (n->event[i] == e) /* told once */
            return;
    if (n->nr_event < NVME_EVENTS && n->nr_event < n->aer_max_queued)
        n->event[n->nr_event++] = e;
    nvme_events_send(n);
}

/* ---- life ---- */

static void restart(void *opaque)
{
    struct nvme *n = opaque;
    struct list todo = LIST_INIT(todo);
    struct nvme_req *r;

    if (!machine_running(dev_machine(&n->pci.dev)) || n->stopping)
        return;
    while ((r = list_first(&n->stopped, struct nvme_req, link))) {
        list_del(&r->link);
        list_add(&todo, &r->link);
    }
    while ((r = list_first(&todo, struct nvme_req, link))) {
        list_del(&r->link);
        req_run(r);
    }
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (n->sq[i].on)
            nvme_sq_kick(&n->sq[i]);
    cqs_run(n);
}

static void state_changed(void *opaque)
{
    struct nvme *n = opaque;

    if (machine_running(dev_machine(&n->pci.dev)))
        ev_bh_schedule(&n->restart_bh);
}

static bool check_props(struct nvme *n, struct err **errp)
{
    if (!n->serial || !*n->serial)
        return err_set(errp, "nvme: the serial property is not set");
    if (strlen(n->serial) > 20)
        return err_set(errp, "nvme: serial is longer than 20 characters");
    if (n->num_queues) /* the older name counts the admin queue too */
        n->max_ioqpairs = n->num_queues - 1;
    if (n->max_ioqpairs < 1 || n->max_ioqpairs > NVME_QUEUES - 1)
        return err_set(errp, "nvme: max_ioqpairs must be between 1 and %d", NVME_QUEUES - 1);
    if (n->msix_qsize < 1 || n->msix_qsize > 2048)
        return err_set(errp, "nvme: msix_qsize must be between 1 and 2048");
    if (n->mdts > 9)
        return err_set(errp, "nvme: mdts=%u is more than 9 (2 MiB)", n->mdts);
    if (n->aerl >= NVME_AERS)
        return err_set(errp, "nvme: aerl=%u is more than %d", n->aerl, NVME_AERS - 1);
    return true;
}

static void init_queues(struct nvme *n)
{
    struct ev_loop *l = dev_machine(&n->pci.dev)->run->loop;

    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        n->sq[i].n = n->cq[i].n = n;
        n->sq[i].id = n->cq[i].id = (uint16_t)i;
        list_init(&n->cq[i].waiting);
        ev_bh_init(&n->sq[i].bh, l, sq_run, &n->sq[i]);
        ev_bh_init(&n->cq[i].irq_bh, l, irq_run, &n->cq[i]);
    }
    ev_bh_init(&n->cq_bh, l, cqs_run, n);
    ev_bh_init(&n->restart_bh, l, restart, n);
    list_init(&n->stopped);
}

static void add_bars(struct nvme *n)
{
    struct mem_sys *s = dev_machine(&n->pci.dev)->mem_sys;

    mem_region_init(&n->bar, s, "nvme-bar0", BAR_SIZE);
    mem_region_init_io(&n->regs, s, &regs_ops, n, "nvme", DOORBELLS);
    mem_region_init_io(&n->doorbells, s, &doorbell_ops, n, "nvme-doorbells", NVME_QUEUES * 8);
    mem_region_add(&n->bar, 0, &n->regs);
    mem_region_add(&n->bar, DOORBELLS, &n->doorbells);
    pci_add_bar(&n->pci, 0, PCI_BAR_MEM64, &n->bar);
}

static bool nvme_realize(struct dev *d, struct err **errp)
{
    struct nvme *n = nvme_of(d);

    init_queues(n);
    if (!check_props(n, errp))
        return false;
    if (n->use_intel_id) {
        put_le16(n->pci.config + PCI_VENDOR_ID, 0x8086);
        put_le16(n->pci.config + PCI_DEVICE_ID, 0x5845);
    }
    pci_set_pin(&n->pci, 1);
    add_bars(n);
    if (!pci_add_msix(&n->pci, n->msix_qsize, 4, 0, (uint32_t)align_up(n->msix_qsize * 16, 4096), errp))
        return false;
    if (pci_dev_bus(&n->pci)->express)
        pcie_add_exp_cap(&n->pci, pci_dev_bus(&n->pci)->parent ? 0 : 9);
    bus_init(&n->bus, &nvme_bus_class, d, NULL);
    n->bus.hotplug = true;
    defaults(n);
    n->state_hook = (struct machine_hook){.fn = state_changed, .opaque = n};
    machine_on_state(dev_machine(d), &n->state_hook);
    n->own.dev = d;
    n->own.nsid = 1;
    if (n->own.blk && !nvme_ns_attach(n, &n->own, "nvme", errp)) {
        machine_hook_del(&n->state_hook);
        bus_fini(&n->bus);
        return false;
    }
    return true;
}

/* Ends everything; the main loop's thread can wait for what is under way. */
static void quiet(struct nvme *n)
{
    n->cc = 0;
    stop(n);
    for (unsigned i = 1; i <= NVME_NS_MAX; i++)
        if (n->ns[i] && (n->inflight || n->flushes) && ev_loop_is_mine(dev_machine(&n->pci.dev)->run->loop))
            blk_drain(n->ns[i]->blk);
}

static void nvme_unrealize(struct dev *d)
{
    struct nvme *n = nvme_of(d);

    quiet(n);
    ev_bh_cancel(&n->cq_bh);
    ev_bh_cancel(&n->restart_bh);
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        ev_bh_cancel(&n->sq[i].bh);
        ev_bh_cancel(&n->cq[i].irq_bh);
    }
    bus_fini(&n->bus);
    if (n->own.n)
        nvme_ns_detach(&n->own);
    machine_hook_del(&n->state_hook);
    free(n->held);
    n->held = NULL;
}

static void nvme_reset(struct dev *d)
{
    struct nvme *n = nvme_of(d);

    quiet(n);
    n->csts &= ~(uint32_t)CSTS_SHST;
    n->aqa = 0;
    n->asq = n->acq = 0;
}

/* ---- saved state ---- */

static void hold(struct strbuf *b, uint8_t kind, uint16_t id, const void *p, size_t len)
{
    uint8_t h[3] = {kind};

    put_le16(h + 1, id);
    str_addn(b, (const char *)h, sizeof h);
    str_addn(b, p, len);
}

static bool nvme_pre_save(void *opaque, struct err **errp)
{
    struct nvme *n = opaque;
    struct strbuf b = {0};
    struct nvme_req *r;
    unsigned nr = 0;

    list_each (r, &n->stopped, link) {
        hold(&b, 0, r->sq->id, r->cmd, NVME_SQE);
        nr++;
    }
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        list_each (r, &n->cq[i].waiting, link) {
            uint8_t e[NVME_CQE] = {0};

            put_le32(e, r->dw0);
            put_le16(e + 4, r->sq_head);
            put_le16(e + 6, r->sq->id);
            put_le16(e + 8, get_le16(r->cmd + 2));
            put_le16(e + 10, r->status);
            hold(&b, 1, (uint16_t)i, e, sizeof e);
        }
    free(n->held);
    n->held_len = (uint32_t)b.len;
    n->held = (uint8_t *)str_take(&b);
    if (n->inflight != nr || n->flushes)
        return err_set(errp, "a command has not ended");
    return n->held_len <= HELD_MAX || err_set(errp, "too many commands are under way");
}

static bool take_waiting(struct nvme *n, uint16_t cqid, const uint8_t *e)
{
    struct nvme_req *r;

    if (cqid >= NVME_QUEUES || !n->cq[cqid].on || get_le16(e + 6) >= NVME_QUEUES)
        return false;
    r = xnew(struct nvme_req);
    r->n = n;
    r->sq = &n->sq[get_le16(e + 6)];
    r->dw0 = get_le32(e);
    r->sq_head = get_le16(e + 4);
    put_le16(r->cmd + 2, get_le16(e + 8));
    r->status = get_le16(e + 10);
    list_add(&n->cq[cqid].waiting, &r->link);
    return true;
}

static bool take_stopped(struct nvme *n, uint16_t sqid, const uint8_t *cmd)
{
    struct nvme_req *r;

    if (sqid >= NVME_QUEUES || !n->sq[sqid].on)
        return false;
    r = req_new(&n->sq[sqid]);
    memcpy(r->cmd, cmd, NVME_SQE);
    list_add(&n->stopped, &r->link);
    return true;
}

static bool take_held(struct nvme *n)
{
    const uint8_t *p = n->held;
    uint32_t left = n->held_len;
    bool ok = true;

    while (ok && left) {
        uint32_t size = !*p ? HELD_SQE : HELD_CQE;

        ok = *p <= 1 && left >= size &&
             (*p ? take_waiting(n, get_le16(p + 1), p + 3) : take_stopped(n, get_le16(p + 1), p + 3));
        p += size;
        left -= ok ? size : 0;
    }
    free(n->held);
    n->held = NULL;
    n->held_len = 0;
    return ok;
}

static bool queues_ok(struct nvme *n)
{
    unsigned users[NVME_QUEUES] = {0};

    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        struct nvme_sq *q = &n->sq[i];

        if (q->on &&
            (q->size < 2 || q->size > 4096 || q->head >= q->size || q->cqid >= NVME_QUEUES || !n->cq[q->cqid].on))
            return false;
        if (q->on)
            users[q->cqid]++;
    }
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        struct nvme_cq *q = &n->cq[i];

        if (q->on &&
            (q->size < 2 || q->size > 4096 || q->head >= q->size || q->tail >= q->size || q->vector >= n->msix_qsize))
            return false;
        q->users = (uint16_t)users[i];
    }
    return true;
}

static bool nvme_post_load(void *opaque, struct err **errp)
{
    struct nvme *n = opaque;
    uint32_t mps = (n->cc & CC_MPS) >> 7;

    if (!queues_ok(n) || mps > MPS_MAX || n->nr_aer > NVME_AERS || n->nr_event > NVME_EVENTS ||
        n->nr_changed > NVME_NS_MAX)
        return false;
    n->page = NVME_PAGE << mps;
    n->stopping = n->dropping = false;
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        n->cq_db_told[i] = true; /* one look too many does no harm */
    return take_held(n);
}

static const struct state_field sq_fields[] = {
    STATE_BOOL(struct nvme_sq, on),  STATE_U16(struct nvme_sq, cqid), STATE_U32(struct nvme_sq, size),
    STATE_U32(struct nvme_sq, head), STATE_U64(struct nvme_sq, base), STATE_END,
};
static const struct state_desc sq_state = {.name = "nvme-sq", .version = 1, .fields = sq_fields};
static const struct state_field cq_fields[] = {
    STATE_BOOL(struct nvme_cq, on),    STATE_BOOL(struct nvme_cq, ien), STATE_U16(struct nvme_cq, vector),
    STATE_U32(struct nvme_cq, size),   STATE_U32(struct nvme_cq, tail), STATE_U32(struct nvme_cq, head),
    STATE_BOOL(struct nvme_cq, phase), STATE_U64(struct nvme_cq, base), STATE_END,
};
static const struct state_desc cq_state = {.name = "nvme-cq", .version = 1, .fields = cq_fields};
static const struct state_field nvme_fields[] = {
    STATE_STRUCT(struct nvme, pci, pci_dev_state),
    STATE_STRUCT(struct nvme, own, nvme_ns_state),
    STATE_U32(struct nvme, cc),
    STATE_U32(struct nvme, csts),
    STATE_U32(struct nvme, aqa),
    STATE_U32(struct nvme, intms),
    STATE_U64(struct nvme, asq),
    STATE_U64(struct nvme, acq),
    STATE_STRUCTS(struct nvme, sq, sq_state),
    STATE_STRUCTS(struct nvme, cq, cq_state),
    STATE_ARRAY(struct nvme, sq_db),
    STATE_ARRAY(struct nvme, cq_db),
    STATE_U64(struct nvme, dbbuf_dbs),
    STATE_U64(struct nvme, dbbuf_eis),
    STATE_ARRAY(struct nvme, aer),
    STATE_U32(struct nvme, nr_aer),
    STATE_ARRAY(struct nvme, event),
    STATE_U32(struct nvme, nr_event),
    STATE_U8(struct nvme, event_masked),
    STATE_ARRAY(struct nvme, changed_ns),
    STATE_U32(struct nvme, nr_changed),
    STATE_U32(struct nvme, feat_arbitration),
    STATE_U32(struct nvme, feat_power),
    STATE_U32(struct nvme, feat_temp_over),
    STATE_U32(struct nvme, feat_temp_under),
    STATE_U32(struct nvme, feat_recovery),
    STATE_U32(struct nvme, feat_irq),
    STATE_U32(struct nvme, feat_atomic),
    STATE_U32(struct nvme, feat_events),
    STATE_U64(struct nvme, timestamp),
    STATE_U64(struct nvme, timestamp_at),
    STATE_BOOL(struct nvme, timestamp_set),
    STATE_ALLOC(struct nvme, held, held_len, HELD_MAX),
    STATE_END,
};
static const struct state_desc nvme_state = {
    .name = "nvme", .version = 1, .fields = nvme_fields, .pre_save = nvme_pre_save, .post_load = nvme_post_load};

static const struct prop nvme_props[] = {
    NVME_NS_PROPS(struct nvme, own),
    PROP("serial", str, struct nvme, serial),
    PROP("max_ioqpairs", u32, struct nvme, max_ioqpairs, .dflt = "64"),
    PROP("num_queues", u32, struct nvme, num_queues, .dflt = "0"),
    PROP("msix_qsize", u32, struct nvme, msix_qsize, .dflt = "65"),
    PROP("mdts", u8, struct nvme, mdts, .dflt = "7"),
    PROP("aerl", u8, struct nvme, aerl, .dflt = "3"),
    PROP("aer_max_queued", u32, struct nvme, aer_max_queued, .dflt = "64"),
    PROP("use-intel-id", bool, struct nvme, use_intel_id, .dflt = "off"),
    PROP_END,
};
static const struct pci_class nvme_class = {.name = "nvme",
                                            .parent = "pci-device",
                                            .desc = "NVM Express controller",
                                            .size = sizeof(struct nvme),
                                            .props = nvme_props,
                                            .more_props = pci_props,
                                            .bus_type = "PCI",
                                            .is_express = true,
                                            .hotplug = true,
                                            .category = DEV_CAT_STORAGE,
                                            .realize = nvme_realize,
                                            .unrealize = nvme_unrealize,
                                            .reset = nvme_reset,
                                            .state_desc = &nvme_state,
                                            .vendor_id = 0x1b36,
                                            .device_id = 0x0010,
                                            .revision = 2,
                                            .class_id = 0x0108,
                                            .prog_if = 2};
PCI_REGISTER(nvme_class)
