/* Admin commands of the NVMe controller. NVM Express base specification 1.4, chapter 5. */
#include "hw/block/nvme_int.h"
#include <stdio.h>

enum {
    OP_DELETE_SQ = 0x00,
    OP_CREATE_SQ = 0x01,
    OP_GET_LOG = 0x02,
    OP_DELETE_CQ = 0x04,
    OP_CREATE_CQ = 0x05,
    OP_IDENTIFY = 0x06,
    OP_ABORT = 0x08,
    OP_SET_FEATURES = 0x09,
    OP_GET_FEATURES = 0x0a,
    OP_ASYNC_EVENT = 0x0c,
    OP_DBBUF = 0x7c,
};
enum { CNS_NS = 0, CNS_CTRL = 1, CNS_ACTIVE = 2, CNS_DESCRIPTORS = 3, IDENTIFY_SIZE = 4096 };
enum {
    FEAT_ARBITRATION = 1,
    FEAT_POWER = 2,
    FEAT_TEMPERATURE = 4,
    FEAT_RECOVERY = 5,
    FEAT_WRITE_CACHE = 6,
    FEAT_QUEUES = 7,
    FEAT_COALESCING = 8,
    FEAT_VECTOR = 9,
    FEAT_ATOMICITY = 10,
    FEAT_EVENTS = 11,
    FEAT_TIMESTAMP = 14,
};
enum { ONCS = 1 | 4 | 8 | 0x40 /* compare, dataset management, write zeroes, timestamp */, TEMPERATURE = 323 };
#define FIRMWARE "1.0     "
#define ALL_NS   UINT32_C(0xffffffff)

/* ---- replies ---- */

/* len bytes of the reply from off on; what lies beyond its `have` bytes reads as zeros. */
static uint16_t reply(struct nvme_req *r, const uint8_t *buf, uint64_t have, uint64_t off, uint64_t len)
{
    uint16_t s = nvme_data_map(r, len, true);
    uint64_t n = off < have ? min_u64(len, have - off) : 0;

    if (s)
        return s;
    iov_set(&r->data, n, 0, len - n);
    return n ? nvme_data_put(r, buf + off, n) : SC_SUCCESS;
}

static void put_padded(uint8_t *p, size_t size, const char *text)
{
    memset(p, ' ', size);
    memcpy(p, text, min_u64(strlen(text), size));
}

/* ---- identify ---- */

static void identify_ctrl(const struct nvme *n, uint8_t *p)
{
    memcpy(p, n->pci.config + PCI_VENDOR_ID, 2);
    memcpy(p + 2, n->pci.config + PCI_SUBSYSTEM_VENDOR_ID, 2);
    put_padded(p + 4, 20, n->serial);
    put_padded(p + 24, 40, "QEMU NVMe Ctrl");
    put_padded(p + 64, 8, FIRMWARE);
    p[72] = 6;    /* RAB */
    p[74] = 0x54; /* IEEE: 52-54-00 */
    p[75] = 0x52;
    p[77] = n->mdts;
    put_le32(p + 80, 0x00010400);
    put_le32(p + 92, 1 << 8);  /* OAES: namespace attribute notices */
    p[111] = 1;                /* an I/O controller */
    put_le16(p + 256, 1 << 8); /* OACS: doorbell buffer config */
    p[258] = 3;                /* ACL */
    p[259] = n->aerl;
    p[260] = 3;     /* FRMW: one slot, read-only */
    p[261] = 2 | 4; /* LPA: effects, extended get log page */
    put_le16(p + 266, 343);
    put_le16(p + 268, 373);
    p[512] = 0x66;
    p[513] = 0x44;
    put_le32(p + 516, NVME_NS_MAX);
    put_le16(p + 520, ONCS);
    p[525] = 1 | 3 << 1;  /* VWC: there is one; flush takes all namespaces */
    put_le32(p + 536, 1); /* SGLS */
    snprintf((char *)p + 768, 256, "nqn.2024-01.org.lyrebird:%s", n->serial);
    put_le16(p + 2048, 2500); /* power state 0: 25 W */
    put_le32(p + 2052, 16);
    put_le32(p + 2056, 4);
}

static uint16_t identify(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint32_t nsid = nvme_dw(r, 1), nr = 0;
    uint8_t cns = r->cmd[40], buf[IDENTIFY_SIZE] = {0};
    const struct nvme_ns *ns = nsid <= NVME_NS_MAX ? n->ns[nsid] : NULL;

    switch (cns) {
    case CNS_CTRL:
        identify_ctrl(n, buf);
        break;
    case CNS_NS:
        if (!nsid || (nsid > NVME_NS_MAX && nsid != ALL_NS))
            return SC_INVALID_NS | SC_DNR;
        if (ns) /* zeros stand for one that is not active */
            nvme_ns_identify(ns, buf);
        break;
    case CNS_ACTIVE:
        if (nsid >= ALL_NS - 1)
            return SC_INVALID_NS | SC_DNR;
        for (uint32_t i = nsid + 1; i <= NVME_NS_MAX && nr < 1024; i++)
            if (n->ns[i])
                put_le32(buf + 4 * nr++, i);
        break;
    case CNS_DESCRIPTORS:
        if (!ns)
            return SC_INVALID_NS | SC_DNR;
        nvme_ns_descriptors(ns, buf);
        break;
    default:
        return SC_INVALID_FIELD | SC_DNR;
    }
    return reply(r, buf, sizeof buf, 0, sizeof buf);
}

/* ---- log pages ---- */

static void smart(const struct nvme *n, uint8_t *p)
{
    uint64_t ur = 0, uw = 0, rd = 0, wr = 0;

    for (unsigned i = 1; i <= NVME_NS_MAX; i++)
        if (n->ns[i]) {
            ur += n->ns[i]->units_read;
            uw += n->ns[i]->units_written;
            rd += n->ns[i]->reads;
            wr += n->ns[i]->writes;
        }
    put_le16(p + 1, TEMPERATURE);
    p[0] = (TEMPERATURE >= n->feat_temp_over || TEMPERATURE <= n->feat_temp_under) ? 2 : 0;
    p[3] = 100;
    p[4] = 10;
    put_le64(p + 32, div_up(ur, 1000));
    put_le64(p + 48, div_up(uw, 1000));
    put_le64(p + 64, rd);
    put_le64(p + 80, wr);
    put_le64(p + 112, 1);
    put_le64(p + 128, (uint64_t)clk_now(dev_vclk(&n->pci.dev)) / (3600 * (uint64_t)NS_PER_SEC));
}

static void effects(uint8_t *p)
{
    static const uint8_t admin[] = {OP_DELETE_SQ,    OP_CREATE_SQ,   OP_GET_LOG, OP_DELETE_CQ,
                                    OP_CREATE_CQ,    OP_IDENTIFY,    OP_ABORT,   OP_SET_FEATURES,
                                    OP_GET_FEATURES, OP_ASYNC_EVENT, OP_DBBUF};
    static const struct {
        uint8_t op, bits;
    } io[] = {{0, 1}, {1, 3}, {2, 1}, {5, 1}, {8, 3}, {9, 3}};

    for (unsigned i = 0; i < ARRAY_LEN(admin); i++)
        put_le32(p + 4 * admin[i], 1);
    for (unsigned i = 0; i < ARRAY_LEN(io); i++)
        put_le32(p + 1024 + 4 * io[i].op, io[i].bits);
}

static uint16_t get_log(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint8_t lid = r->cmd[40], buf[4096] = {0};
    bool keep = nvme_dw(r, 10) >> 15 & 1;
    uint64_t len = ((uint64_t)(nvme_dw(r, 11) & 0xffff) << 16 | nvme_dw(r, 10) >> 16) * 4 + 4,
             off = get_le64(r->cmd + 48), have;
    unsigned event;
    uint16_t s;

    switch (lid) {
    case LOG_ERROR:
        have = 64;
        event = AE_ERROR;
        break;
    case LOG_SMART:
        if (nvme_dw(r, 1) && nvme_dw(r, 1) != ALL_NS)
            return SC_INVALID_FIELD | SC_DNR;
        smart(n, buf);
        have = 512;
        event = AE_SMART;
        break;
    case LOG_FIRMWARE:
        buf[0] = 1;
        put_padded(buf + 8, 8, FIRMWARE);
        have = 512;
        keep = true;
        event = 0;
        break;
    case LOG_CHANGED_NS:
        for (unsigned i = 0; i < n->nr_changed; i++)
            put_le32(buf + 4 * i, n->changed_ns[i]);
        have = sizeof buf;
        event = AE_NOTICE;
        break;
    case LOG_EFFECTS:
        effects(buf);
        have = sizeof buf;
        keep = true;
        event = 0;
        break;
    default:
        return SC_LOG_INVALID | SC_DNR;
    }
    if (off & 3 || off > have)
        return SC_INVALID_FIELD | SC_DNR;
    s = reply(r, buf, have, off, len);
    if (s || keep)
        return s;
    if (lid == LOG_CHANGED_NS)
        n->nr_changed = 0;
    n->event_masked &= (uint8_t) ~(1u << event);
    nvme_events_send(n);
    return s;
}

/* ---- features ---- */

/* Where a feature that is just a value lies. */
static uint32_t *plain_feature(struct nvme *n, uint8_t id)
{
    switch (id) {
    case FEAT_ARBITRATION:
        return &n->feat_arbitration;
    case FEAT_POWER:
        return &n->feat_power;
    case FEAT_RECOVERY:
        return &n->feat_recovery;
    case FEAT_COALESCING:
        return &n->feat_irq;
    case FEAT_ATOMICITY:
        return &n->feat_atomic;
    case FEAT_EVENTS:
        return &n->feat_events;
    default:
        return NULL;
    }
}

static bool write_cache(const struct nvme *n)
{
    bool on = false;

    for (unsigned i = 1; i <= NVME_NS_MAX; i++)
        on |= n->ns[i] && blk_write_cache(n->ns[i]->blk);
    return on;
}

static uint64_t now_ms(const struct nvme *n)
{
    return (uint64_t)clk_now(dev_vclk(&n->pci.dev)) / 1000000;
}

static uint16_t get_timestamp(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint8_t b[8] = {0};
    uint64_t t = n->timestamp_set ? n->timestamp + now_ms(n) - n->timestamp_at : now_ms(n);

    put_le64(b, t & UINT64_C(0xffffffffffff));
    b[6] = n->timestamp_set ? 1 << 1 : 0;
    return reply(r, b, sizeof b, 0, sizeof b);
}

static uint16_t get_feature(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint8_t id = r->cmd[40], sel = nvme_dw(r, 10) >> 8 & 7;
    uint32_t dw11 = nvme_dw(r, 11), *plain = plain_feature(n, id), pairs = nvme_io_queues(n) - 1;

    if (sel > 3)
        return SC_INVALID_FIELD | SC_DNR;
    if (sel == 3 && (plain || id == FEAT_TEMPERATURE || id == FEAT_WRITE_CACHE || id == FEAT_QUEUES ||
                     id == FEAT_VECTOR || id == FEAT_TIMESTAMP)) {
        r->dw0 = 4; /* changeable, not saveable */
        return SC_SUCCESS;
    }
    if (plain) {
        r->dw0 = !sel ? *plain : id == FEAT_ARBITRATION ? 7 : id == FEAT_EVENTS ? 0x100 : 0;
        return SC_SUCCESS;
    }
    switch (id) {
    case FEAT_TEMPERATURE:
        if (!(dw11 >> 16 & 15)) /* the composite temperature; others have no threshold */
            r->dw0 = dw11 >> 20 & 3 ? sel ? 0 : n->feat_temp_under : sel ? 343 : n->feat_temp_over;
        return SC_SUCCESS;
    case FEAT_WRITE_CACHE:
        r->dw0 = sel ? 1 : write_cache(n);
        return SC_SUCCESS;
    case FEAT_QUEUES:
        r->dw0 = pairs << 16 | pairs;
        return SC_SUCCESS;
    case FEAT_VECTOR:
        if ((dw11 & 0xffff) >= n->msix_qsize)
            return SC_INVALID_FIELD | SC_DNR;
        r->dw0 = dw11 & 0xffff;
        return SC_SUCCESS;
    case FEAT_TIMESTAMP:
        return get_timestamp(r);
    default:
        return SC_INVALID_FIELD | SC_DNR;
    }
}

static uint16_t set_temperature(struct nvme *n, uint32_t v)
{
    uint32_t t = v & 0xffff;

    if (v >> 16 & 15)
        return (v >> 16 & 15) == 15 ? SC_SUCCESS : SC_INVALID_FIELD | SC_DNR;
    switch (v >> 20 & 3) {
    case 0:
        n->feat_temp_over = t;
        break;
    case 1:
        n->feat_temp_under = t;
        break;
    default:
        return SC_INVALID_FIELD | SC_DNR;
    }
    if ((TEMPERATURE >= n->feat_temp_over || TEMPERATURE <= n->feat_temp_under) && n->feat_events & 2)
        nvme_event(n, AE_SMART, 1, LOG_SMART);
    return SC_SUCCESS;
}

static uint16_t set_timestamp(struct nvme_req *r)
{
    uint8_t b[8];
    uint16_t s = nvme_data_map(r, sizeof b, false);

    if (s || (s = nvme_data_get(r, b, sizeof b)))
        return s;
    r->n->timestamp = get_le64(b) & UINT64_C(0xffffffffffff);
    r->n->timestamp_at = now_ms(r->n);
    r->n->timestamp_set = true;
    return SC_SUCCESS;
}

static uint16_t set_queues(struct nvme_req *r, uint32_t v)
{
    struct nvme *n = r->n;
    uint32_t pairs = nvme_io_queues(n) - 1;

    if ((v & 0xffff) == 0xffff || v >> 16 == 0xffff)
        return SC_INVALID_FIELD | SC_DNR;
    for (unsigned i = 1; i < NVME_QUEUES; i++)
        if (n->cq[i].on)
            return SC_SEQUENCE | SC_DNR;
    r->dw0 = pairs << 16 | pairs;
    return SC_SUCCESS;
}

static uint16_t set_feature(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint8_t id = r->cmd[40];
    uint32_t v = nvme_dw(r, 11), *plain = plain_feature(n, id);

    if (nvme_dw(r, 10) >> 31)
        return SC_NOT_SAVEABLE | SC_DNR;
    if (id == FEAT_POWER && v & 31) /* there is one power state */
        return SC_INVALID_FIELD | SC_DNR;
    if (plain) {
        *plain = v;
        return SC_SUCCESS;
    }
    switch (id) {
    case FEAT_TEMPERATURE:
        return set_temperature(n, v);
    case FEAT_WRITE_CACHE:
        for (unsigned i = 1; i <= NVME_NS_MAX; i++)
            if (n->ns[i])
                blk_set_write_cache(n->ns[i]->blk, v & 1);
        return SC_SUCCESS;
    case FEAT_QUEUES:
        return set_queues(r, v);
    case FEAT_VECTOR: /* says which vectors not to coalesce: none is */
        return (v & 0xffff) < n->msix_qsize ? SC_SUCCESS : SC_INVALID_FIELD | SC_DNR;
    case FEAT_TIMESTAMP:
        return set_timestamp(r);
    default:
        return SC_INVALID_FIELD | SC_DNR;
    }
}

/* ---- queues ---- */

static uint16_t check_queue(const struct nvme *n, const struct nvme_req *r, bool exists)
{
    uint32_t qid = nvme_dw(r, 10) & 0xffff, size = nvme_dw(r, 10) >> 16;
    uint64_t base = get_le64(r->cmd + 24);

    if (!qid || qid > nvme_io_queues(n) || exists)
        return SC_QID_INVALID | SC_DNR;
    if (!size || size >= NVME_MQES)
        return SC_QSIZE_INVALID | SC_DNR;
    if (!base || base & (n->page - 1))
        return SC_BAD_PRP_OFFSET | SC_DNR;
    if (!(nvme_dw(r, 11) & 1) || (n->cc >> 16 & 0xff) != 0x46) /* contiguous; entries of 64 and 16 bytes */
        return SC_INVALID_FIELD | SC_DNR;
    return SC_SUCCESS;
}

static uint16_t create_cq(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint32_t qid = nvme_dw(r, 10) & 0xffff, vector = nvme_dw(r, 11) >> 16;
    uint16_t s = check_queue(n, r, qid < NVME_QUEUES && n->cq[qid].on);

    if (s)
        return s;
    if (vector >= n->msix_qsize || (vector && !pci_msix_enabled(&n->pci)))
        return SC_VECTOR_INVALID | SC_DNR;
    return nvme_cq_create(n, qid, get_le64(r->cmd + 24), (nvme_dw(r, 10) >> 16) + 1, nvme_dw(r, 11) & 2, vector);
}

static uint16_t create_sq(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint32_t qid = nvme_dw(r, 10) & 0xffff, cqid = nvme_dw(r, 11) >> 16;
    uint16_t s;

    if (!cqid || cqid > nvme_io_queues(n) || !n->cq[cqid].on)
        return SC_CQ_INVALID | SC_DNR;
    s = check_queue(n, r, qid < NVME_QUEUES && n->sq[qid].on);
    return s ? s : nvme_sq_create(n, qid, get_le64(r->cmd + 24), (nvme_dw(r, 10) >> 16) + 1, cqid);
}

static uint16_t delete_sq(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint32_t qid = nvme_dw(r, 10) & 0xffff;
    struct nvme_sq *q = qid < NVME_QUEUES ? &n->sq[qid] : NULL;
    struct nvme_req *s, *tmp;

    if (!qid || !q || !q->on || q->deleter)
        return SC_QID_INVALID | SC_DNR;
    if (!q->inflight) {
        nvme_sq_delete(q);
        return SC_SUCCESS;
    }
    q->deleter = r;
    list_each_safe (s, tmp, &n->stopped, link)
        if (s->sq == q) {
            list_del(&s->link);
            nvme_req_end(s, SC_ABORT_SQ_DELETED); /* the last one ends r too */
        }
    return SC_PENDING;
}

static uint16_t delete_cq(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint32_t qid = nvme_dw(r, 10) & 0xffff;

    if (!qid || qid >= NVME_QUEUES || !n->cq[qid].on)
        return SC_QID_INVALID | SC_DNR;
    if (n->cq[qid].users)
        return SC_DELETE_INVALID | SC_DNR;
    nvme_cq_delete(&n->cq[qid]);
    return SC_SUCCESS;
}

/* The guest keeps its doorbells in memory and rings only when it passes what we ask for. */
static uint16_t doorbell_buffers(struct nvme_req *r)
{
    struct nvme *n = r->n;
    uint64_t dbs = get_le64(r->cmd + 24), eis = get_le64(r->cmd + 32);

    if (!dbs || !eis || (dbs | eis) & (n->page - 1))
        return SC_INVALID_FIELD | SC_DNR;
    n->dbbuf_dbs = dbs;
    n->dbbuf_eis = eis;
    for (unsigned i = 1; i < NVME_QUEUES; i++)
        if (n->sq[i].on)
            ev_bh_schedule(&n->sq[i].bh);
    return SC_SUCCESS;
}

static uint16_t async_event(struct nvme_req *r)
{
    struct nvme *n = r->n;

    if (n->nr_aer > n->aerl)
        return SC_AER_LIMIT | SC_DNR;
    n->aer[n->nr_aer++] = get_le16(r->cmd + 2);
    nvme_req_drop(r);
    nvme_events_send(n);
    return SC_PENDING;
}

uint16_t nvme_admin(struct nvme_req *r)
{
    switch (r->cmd[0]) {
    case OP_DELETE_SQ:
        return delete_sq(r);
    case OP_CREATE_SQ:
        return create_sq(r);
    case OP_GET_LOG:
        return get_log(r);
    case OP_DELETE_CQ:
        return delete_cq(r);
    case OP_CREATE_CQ:
        return create_cq(r);
    case OP_IDENTIFY:
        return identify(r);
    case OP_ABORT:
        r->dw0 = 1; /* it was too late */
        return SC_SUCCESS;
    case OP_SET_FEATURES:
        return set_feature(r);
    case OP_GET_FEATURES:
        return get_feature(r);
    case OP_ASYNC_EVENT:
        return async_event(r);
    case OP_DBBUF:
        return doorbell_buffers(r);
    default:
        log_guest("nvme: admin command %#x", r->cmd[0]);
        return SC_INVALID_OPCODE | SC_DNR;
    }
}
