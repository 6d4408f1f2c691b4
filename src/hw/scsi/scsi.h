/* SCSI: a bus of logical units and the requests a host adapter gives them. Source: SAM-5, SPC-4.
 *
 * The adapter fills a struct scsi_req (command, whole data buffers), calls scsi_submit and learns the outcome in
 * done(), called exactly once, perhaps before scsi_submit returns. Machine lock held throughout.
 *
 * An adapter with an I/O thread (hba.io) may also submit there, with the thread's lock instead of the machine's, what
 * scsi_runs_anywhere allows: the commands that move data. Whoever works on units or requests on the main loop then
 * holds the thread's lock besides (scsi_enter); completions come on either, with that lock held. */
#ifndef HW_SCSI_SCSI_H
#define HW_SCSI_SCSI_H

#include "base/iov.h"
#include "blk/blk.h"
#include "dev/dev.h"
#include "run/iothread.h"

enum { SCSI_CDB_MAX = 32, SCSI_SENSE_LEN = 18 };
enum { SCSI_GOOD = 0x00, SCSI_CHECK_CONDITION = 0x02, SCSI_BUSY = 0x08, SCSI_TASK_SET_FULL = 0x28 };

struct scsi_req;
struct scsi_dev;

struct scsi_hba {
    uint32_t max_channel, max_target, max_lun; /* highest values that exist */
    /* A unit came, goes, or changed (capacity, medium): tell the guest if it can be told. May be NULL. */
    void (*plugged)(void *opaque, struct scsi_dev *d, bool on);
    void (*changed)(void *opaque, struct scsi_dev *d, uint16_t asc_ascq);
    void *opaque;
    struct iothread *io; /* borrowed: disks' requests are made and done there; NULL = on the main loop */
};
struct scsi_bus {
    struct bus bus; /* first; type "SCSI" */
    struct scsi_hba hba;
    struct list units; /* of struct scsi_dev by in_units: realized; changes with scsi_enter */
};
void scsi_bus_init(struct scsi_bus *b, struct dev *owner, const struct scsi_hba *hba);
void scsi_bus_fini(struct scsi_bus *b);

/* A logical unit. */
struct scsi_dev {
    struct dev dev;            /* first */
    uint32_t channel, id, lun; /* properties; id and lun UINT32_MAX = first free */
    uint16_t attention;        /* pending unit attention as ASC << 8 | ASCQ, 0 = none */
    unsigned inflight;
    struct list in_units;
};
struct scsi_dev_class {
    struct dev_class;
    /* Runs r (r->dev is set, unit attention was dealt with): ends in scsi_good, scsi_fail ... */
    void (*run)(struct scsi_dev *d, struct scsi_req *r);
    void (*unit_reset)(struct scsi_dev *d); /* may be NULL */
    /* The command only moves data: it may run on an I/O thread. NULL: none does. */
    bool (*anywhere)(const struct scsi_dev *d, const uint8_t *cdb);
    void (*drain)(struct scsi_dev *d); /* waits until nothing is under way; may be NULL */
};
static inline struct scsi_bus *scsi_bus_of(const struct scsi_dev *d)
{
    return container_of(d->dev.bus, struct scsi_bus, bus);
}

/* Nothing runs on the bus's I/O thread until scsi_leave; nests. d may be without a bus. */
static inline void scsi_enter(const struct scsi_dev *d)
{
    if (d->dev.bus)
        iothread_enter(scsi_bus_of(d)->hba.io);
}
static inline void scsi_leave(const struct scsi_dev *d)
{
    if (d->dev.bus)
        iothread_leave(scsi_bus_of(d)->hba.io);
}

struct scsi_req {
    struct scsi_dev *dev; /* borrowed; set by scsi_submit */
    uint8_t cdb[SCSI_CDB_MAX];
    struct iov out, in; /* borrowed buffers: data to the unit, data from it */
    void (*done)(struct scsi_req *r);
    void *opaque;
    /* The outcome. */
    uint8_t status;
    uint8_t sense[SCSI_SENSE_LEN];
    unsigned sense_len;
    uint64_t moved; /* bytes of out or in that were used */
    /* The unit's own. */
    struct list link;
    uint64_t off, len;
    struct iov data;
    uint8_t *buf;
    unsigned phase;
};
/* The unit at an address, or NULL; `target_exists` says whether any unit of the target is there. */
struct scsi_dev *scsi_find(struct scsi_bus *b, unsigned channel, unsigned id, unsigned lun, bool *target_exists);
/* lun UINT32_MAX stands for the REPORT LUNS well-known unit. False: there is no such target, r was not started. */
bool scsi_submit(struct scsi_bus *b, unsigned channel, unsigned id, unsigned lun, struct scsi_req *r);
/* May the command be submitted on the bus's I/O thread? */
bool scsi_runs_anywhere(struct scsi_bus *b, unsigned channel, unsigned id, unsigned lun, const uint8_t *cdb);
/* On the main loop: waits for what is under way in all units. */
void scsi_drain(struct scsi_bus *b);
/* Resets a unit: its settings and a unit attention. Requests under way finish as they will. */
void scsi_unit_reset(struct scsi_dev *d);

/* A CD-ROM unit without a bus, for the drive of another kind of cable: answers MMC commands of one master. blk stays
 * the caller's. scsi_run is scsi_submit without an address. */
extern const struct state_desc scsi_disk_state; /* of either kind, also an embedded one */
struct scsi_dev *scsi_cd_embed(struct machine *m, struct blk *blk);
void scsi_cd_release(struct scsi_dev *d);
void scsi_run(struct scsi_dev *d, struct scsi_req *r);

/* For units. */
void scsi_good(struct scsi_req *r, uint64_t moved);
/* Copies a reply of len bytes, cut to the allocation length of the command and the buffer. */
void scsi_reply(struct scsi_req *r, const void *buf, size_t len, uint32_t alloc);
/* key << 16 | ASC << 8 | ASCQ */
enum {
    SENSE_NOT_READY_NO_MEDIUM = 0x023a00,
    SENSE_NOT_READY_TRAY_OPEN = 0x023a02,
    SENSE_MEDIUM_READ = 0x031100,
    SENSE_MEDIUM_WRITE = 0x030c00,
    SENSE_HARDWARE = 0x044400,
    SENSE_BAD_OPCODE = 0x052000,
    SENSE_BAD_LBA = 0x052100,
    SENSE_BAD_FIELD = 0x052400,
    SENSE_BAD_LUN = 0x052500,
    SENSE_BAD_PARAM = 0x052600,
    SENSE_REMOVAL_PREVENTED = 0x055302,
    SENSE_PROTECTED = 0x072700,
    SENSE_SPACE = 0x072707,
};
void scsi_fail(struct scsi_req *r, uint32_t sense);
void scsi_sense_build(uint8_t *sense, uint32_t code); /* fixed format, SCSI_SENSE_LEN bytes */

#endif
