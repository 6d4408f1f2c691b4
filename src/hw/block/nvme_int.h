/* What the parts of the NVMe controller share: nvme.c (registers, queues, life), nvme_data.c (PRPs and SGLs),
 * nvme_admin.c (admin commands), nvme_ns.c (namespaces and their commands). Names as in the NVM Express base
 * specification 1.4.
 *
 * Machine lock held throughout, except in the doorbells' write function: it stores the value and schedules the queue.
 * Commands run on the main loop. */
#ifndef HW_BLOCK_NVME_INT_H
#define HW_BLOCK_NVME_INT_H

#include "base/bytes.h"
#include "base/iov.h"
#include "blk/blk.h"
#include "hw/pci/pci.h"

enum {
    NVME_QUEUES = 128, /* admin and I/O */
    NVME_NS_MAX = 256,
    NVME_MQES = 2048,
    NVME_SQE = 64,
    NVME_CQE = 16,
    NVME_AERS = 16,
    NVME_EVENTS = 16,
    NVME_PAGE = 4096, /* smallest memory page, unit of MDTS */
};
/* Status field without the phase tag: SCT << 8 | SC. */
enum {
    SC_SUCCESS = 0x0,
    SC_INVALID_OPCODE = 0x1,
    SC_INVALID_FIELD = 0x2,
    SC_DATA_TRANSFER = 0x4,
    SC_INTERNAL = 0x6,
    SC_ABORT_SQ_DELETED = 0x8,
    SC_INVALID_NS = 0xb,
    SC_SEQUENCE = 0xc,
    SC_BAD_SGL_SEGMENT = 0xd,
    SC_BAD_SGL_COUNT = 0xe,
    SC_BAD_SGL_LENGTH = 0xf,
    SC_BAD_SGL_TYPE = 0x11,
    SC_BAD_PRP_OFFSET = 0x13,
    SC_LBA_RANGE = 0x80,
    SC_CQ_INVALID = 0x100,
    SC_QID_INVALID = 0x101,
    SC_QSIZE_INVALID = 0x102,
    SC_AER_LIMIT = 0x105,
    SC_VECTOR_INVALID = 0x108,
    SC_LOG_INVALID = 0x109,
    SC_DELETE_INVALID = 0x10c,
    SC_NOT_SAVEABLE = 0x10d,
    SC_NOT_CHANGEABLE = 0x10e,
    SC_READ_ONLY = 0x182,
    SC_WRITE_FAULT = 0x280,
    SC_READ_ERROR = 0x281,
    SC_COMPARE = 0x285,
    SC_DNR = 0x4000,    /* do not retry */
    SC_PENDING = 0xffff /* not a status: the command goes on */
};
enum { AE_ERROR = 0, AE_SMART = 1, AE_NOTICE = 2 };
enum { AE_BAD_DOORBELL = 0, AE_BAD_DOORBELL_VALUE = 1, AE_NS_CHANGED = 0 };
enum { LOG_ERROR = 1, LOG_SMART = 2, LOG_FIRMWARE = 3, LOG_CHANGED_NS = 4, LOG_EFFECTS = 5 };

struct nvme;
struct nvme_cq {
    struct nvme *n;
    bool on, ien;
    uint16_t id, vector, users; /* users: submission queues that complete here */
    uint32_t size, tail;
    bool phase;
    gpa_t base;
    uint32_t head;       /* as of the doorbell's last valid value */
    struct list waiting; /* of struct nvme_req: done, no room for the entry */
    struct ev_bh irq_bh;
};
struct nvme_sq {
    struct nvme *n;
    bool on;
    uint16_t id, cqid;
    uint32_t size, head;
    gpa_t base;
    unsigned inflight;
    struct nvme_req *deleter; /* the admin command that waits for the rest to end */
    struct ev_bh bh;
};

/* One piece of guest memory. */
struct nvme_seg {
    gpa_t gpa;
    uint64_t len;
    void *host; /* NULL: no plain RAM */
};
/* One command from the queue to its completion entry. */
struct nvme_req {
    struct list link; /* in n->stopped or cq->waiting */
    struct nvme *n;
    struct nvme_sq *sq;
    struct nvme_ns *ns; /* borrowed */
    uint8_t cmd[NVME_SQE];
    uint32_t dw0; /* of the completion */
    uint16_t status;
    uint16_t sq_head;     /* waiting for room: as of the end */
    struct nvme_seg *seg; /* owned */
    unsigned nr_seg, cap_seg;
    bool to_guest, is_read;
    struct iov data;
    uint8_t *buf; /* owned: what is moved when not all segments are RAM, and what compare and discard work on */
    uint64_t buf_len;
    uint64_t off, len; /* bytes of the namespace */
    uint8_t *aux;      /* owned: what compare reads, the ranges of a discard */
    struct iovec aux_v;
    unsigned left; /* parts under way */
    int error;     /* of a part */
};

/* A namespace, part of a controller (drive=) or a device of its own. */
struct nvme_ns {
    struct nvme *n;  /* NULL: not attached */
    struct dev *dev; /* whose property the drive is */
    struct blk *blk;
    uint32_t nsid;
    char *uuid, *nguid_text; /* properties */
    uint8_t nguid[16], uuid_bytes[16];
    uint64_t eui64;
    bool has_uuid, has_nguid, share_rw;
    uint64_t log_bs, phys_bs, discard_gran, min_io, opt_io;
    int write_cache; /* enum onoffauto */
    bool saved_wce;
    uint64_t units_read, units_written, reads, writes; /* of 512 bytes; commands */
};

struct nvme {
    struct pci_dev pci; /* first */
    struct bus bus;
    struct mem_region bar, regs, doorbells;
    struct nvme_ns own;                            /* namespace 1 when drive= is given */
    char *serial;                                  /* property */
    uint32_t max_ioqpairs, num_queues, msix_qsize; /* properties */
    uint8_t mdts, aerl;                            /* properties */
    uint32_t aer_max_queued;                       /* property */
    bool use_intel_id;                             /* property */
    struct nvme_ns *ns[NVME_NS_MAX + 1];           /* by identifier */

    uint32_t cc, csts, aqa, intms;
    uint64_t asq, acq;
    uint32_t page; /* bytes, by CC.MPS */
    struct nvme_sq sq[NVME_QUEUES];
    struct nvme_cq cq[NVME_QUEUES];
    uint32_t sq_db[NVME_QUEUES], cq_db[NVME_QUEUES]; /* as written; accessed atomically */
    bool cq_db_told[NVME_QUEUES];                    /* the loop wants to know of a new head */
    struct ev_bh cq_bh;
    uint64_t dbbuf_dbs, dbbuf_eis; /* shadow doorbells, 0 = none */
    bool stopping;                 /* CC.EN was cleared: waits for the last command */
    bool dropping;                 /* nothing is to be completed any more */
    unsigned inflight;             /* commands that have not ended, asynchronous event requests aside */
    unsigned flushes;              /* of a shutdown */
    struct list stopped;           /* of struct nvme_req: wait until the machine goes on */
    struct machine_hook state_hook;
    struct ev_bh restart_bh;

    uint16_t aer[NVME_AERS];
    uint32_t nr_aer;
    uint32_t event[NVME_EVENTS];
    uint32_t nr_event;
    uint8_t event_masked; /* bit per type: reported, its log page not read yet */
    uint32_t changed_ns[NVME_NS_MAX], nr_changed;
    uint32_t feat_arbitration, feat_power, feat_temp_over, feat_temp_under, feat_recovery, feat_irq, feat_atomic,
        feat_events;
    uint64_t timestamp, timestamp_at;
    bool timestamp_set;
    uint8_t *held; /* owned: commands under way in a saved machine */
    uint32_t held_len;
};

static inline uint32_t nvme_dw(const struct nvme_req *r, unsigned n)
{
    return get_le32(r->cmd + 4 * n);
}

/* ---- nvme.c ---- */

/* Ends r with a status (SC_*); r is gone. */
void nvme_req_end(struct nvme_req *r, uint16_t status);
/* Ends r without a completion. */
void nvme_req_drop(struct nvme_req *r);
/* Keeps r to be run again when the machine goes on. */
void nvme_req_keep(struct nvme_req *r);
/* Tells the host of an event as soon as it has asked and the type is not masked. */
void nvme_event(struct nvme *n, unsigned type, unsigned info, unsigned log);
void nvme_events_send(struct nvme *n);
/* Puts an asynchronous completion (event requests) of the admin queue. */
void nvme_complete_admin(struct nvme *n, uint16_t cid, uint32_t dw0, uint16_t status);
uint16_t nvme_cq_create(struct nvme *n, unsigned id, gpa_t base, uint32_t size, bool ien, unsigned vector);
uint16_t nvme_sq_create(struct nvme *n, unsigned id, gpa_t base, uint32_t size, unsigned cqid);
void nvme_sq_delete(struct nvme_sq *q);
void nvme_cq_delete(struct nvme_cq *q);
/* Takes what the guest has queued since. */
void nvme_sq_kick(struct nvme_sq *q);
unsigned nvme_io_queues(const struct nvme *n); /* pairs the controller can have */

/* ---- nvme_data.c ---- */

/* Builds r->seg and r->data for len bytes that the command's data pointer names; to_guest: the controller writes them.
 * Returns a status. */
uint16_t nvme_data_map(struct nvme_req *r, uint64_t len, bool to_guest);
/* Copies between a buffer and the mapped data, from its start. Return a status. */
uint16_t nvme_data_put(struct nvme_req *r, const void *buf, uint64_t len);
uint16_t nvme_data_get(struct nvme_req *r, void *buf, uint64_t len);
/* Brings what the device has written into guest memory and forgets the mapping. */
void nvme_data_end(struct nvme_req *r, bool ok);

/* ---- nvme_admin.c, nvme_ns.c ---- */

/* Each runs a command and returns its status, or SC_PENDING when nvme_req_end will be (or was) called. */
uint16_t nvme_admin(struct nvme_req *r);
uint16_t nvme_io(struct nvme_req *r);
/* Checks the namespace's settings and gives it its number (nsid 0: the first free one). */
bool nvme_ns_attach(struct nvme *n, struct nvme_ns *ns, const char *cls, struct err **errp);
void nvme_ns_detach(struct nvme_ns *ns);
/* The Identify Namespace structure and the list of identifiers, into 4096 zeroed bytes. */
void nvme_ns_identify(const struct nvme_ns *ns, uint8_t *id);
void nvme_ns_descriptors(const struct nvme_ns *ns, uint8_t *p);
static inline uint64_t nvme_ns_blocks(const struct nvme_ns *ns)
{
    return blk_size(ns->blk) / ns->log_bs;
}
extern const struct bus_class nvme_bus_class;
extern const struct state_desc nvme_ns_state;
#define NVME_NS_PROPS(S, f)                                                                                            \
    PROP_BLK("drive", S, f.blk), PROP("logical_block_size", size, S, f.log_bs, .dflt = "512"),                         \
        PROP("physical_block_size", size, S, f.phys_bs, .dflt = "0"),                                                  \
        PROP("min_io_size", size, S, f.min_io, .dflt = "0"), PROP("opt_io_size", size, S, f.opt_io, .dflt = "0"),      \
        PROP("discard_granularity", size, S, f.discard_gran, .dflt = "0"),                                             \
        PROP("write-cache", onoffauto, S, f.write_cache, .dflt = "auto"),                                              \
        PROP("share-rw", bool, S, f.share_rw, .dflt = "off")

#endif
