/* ATA and ATAPI drives, and what a controller must offer them. Source: ATA/ATAPI-7 (T13 1532D), ACS-3 for 48-bit and
 * NCQ.
 *
 * A drive (struct ide_dev, classes ide-hd and ide-cd) sits on a struct ide_bus, one cable with up to two units. The bus
 * holds the task file and runs commands; the controller moves data for DMA through ide_ops and maps the registers.
 * Machine lock held throughout. */
#ifndef HW_IDE_IDE_H
#define HW_IDE_IDE_H

#include "base/bytes.h"
#include "blk/blk.h"
#include "dev/dev.h"

enum { IDE_SECTOR = 512, IDE_CHUNK = 256 * 1024, IDE_MAX_MULT = 16 };
enum { /* status */
       ST_ERR = 0x01,
       ST_DRQ = 0x08,
       ST_DSC = 0x10,
       ST_DF = 0x20,
       ST_DRDY = 0x40,
       ST_BSY = 0x80,
};
enum { ER_ABRT = 0x04, ER_IDNF = 0x10, ER_UNC = 0x40 };
enum { DEV_LBA = 0x40, DEV_UNIT = 0x10, CTL_NIEN = 0x02, CTL_SRST = 0x04, CTL_HOB = 0x80 };

struct ide_bus;
struct ide_dev;

struct ide_ops {
    /* The interrupt line of the cable. */
    void (*irq)(void *opaque, int level);
    /* A DMA command waits for the engine: call ide_dma_go when it is started (may be at once). */
    void (*dma_wait)(void *opaque);
    /* Moves len bytes between buf and the guest's memory, going on where the last call stopped; bytes moved. */
    size_t (*dma_copy)(void *opaque, uint8_t *buf, size_t len, bool to_guest);
    /* The DMA command has ended. */
    void (*dma_done)(void *opaque, bool ok);
    /* AHCI: data of every command goes through dma_copy, and done() follows each command. */
    bool fis;
    void (*done)(void *opaque);
};

/* What a unit keeps of its own. Writes to the task file reach both units, reads come from the selected one. */
struct ide_unit {
    struct ide_dev *dev;                                /* NULL = nobody */
    uint8_t feature[2], count[2], lo[2], mid[2], hi[2]; /* [1]: the previous value (high order bytes) */
    uint8_t mult;                                       /* sectors per PIO block, 0 = off */
    uint8_t status, error;
};

struct ide_io; /* a request given to the block layer */
struct ide_bus {
    struct bus bus; /* first; type "IDE" */
    const struct ide_ops *ops;
    void *opaque;
    unsigned max_units;
    struct ide_unit unit[2];
    uint8_t device, control, command;
    /* The command under way. */
    uint8_t *buf;           /* owned: IDE_CHUNK bytes */
    size_t buf_at, buf_end; /* window of a PIO phase */
    uint64_t lba, left;     /* sectors still to move */
    unsigned chunk;         /* sectors in flight */
    bool dma, to_guest, dma_waiting, fua;
    bool pio_in;                          /* for the controller: the command was a PIO data-in */
    void (*phase_end)(struct ide_bus *b); /* the PIO window was used up */
    struct ide_io *io;                    /* borrowed: in flight */
    uint32_t gen;                         /* changes at reset: completions of older commands are dropped */
    bool retry;                           /* stopped by the error policy */
    struct machine_hook state_hook;
    bool irq_level;
    /* ATAPI: command, reply, and how much of it was moved. */
    uint8_t cdb[12];
    uint8_t *reply; /* owned */
    size_t reply_len, reply_at, byte_limit;
    struct scsi_req *packet; /* owned: under way */
    /* Of a machine being saved or restored: which phase, the bytes of buf and reply that matter. */
    uint8_t saved_phase;
    uint8_t *saved_buf, *saved_reply; /* owned */
    uint32_t saved_buf_len, saved_reply_len;
};
extern const struct state_desc ide_bus_state; /* with its units; a controller adds its own registers */
void ide_bus_init(struct ide_bus *b, struct dev *owner, const char *name, unsigned max_units, const struct ide_ops *ops,
                  void *opaque);
void ide_bus_fini(struct ide_bus *b);
void ide_bus_reset(struct ide_bus *b); /* power-on or cable reset: signatures appear */
/* For the room's own files. */
struct ide_unit *ide_unit(struct ide_bus *b);
void ide_finish(struct ide_bus *b, uint8_t status, uint8_t error);
void ide_phase(struct ide_bus *b, size_t n, void (*end)(struct ide_bus *b), bool irq);
void ide_packet_start(struct ide_bus *b);
void ide_packet_dma(struct ide_bus *b);
/* The phases of a packet, by number from 1; NULL: no such. */
void (*ide_packet_phase(unsigned n))(struct ide_bus *b);
void ide_packet_reset(struct ide_bus *b);
void ide_signature(struct ide_unit *u);
/* Task file registers 0-7 of the command block; 16-bit accesses to the data port. */
uint8_t ide_read(struct ide_bus *b, unsigned reg);
void ide_write(struct ide_bus *b, unsigned reg, uint8_t v);
uint16_t ide_data_read(struct ide_bus *b);
void ide_data_write(struct ide_bus *b, uint16_t v);
uint8_t ide_alt_status(struct ide_bus *b);
void ide_control_write(struct ide_bus *b, uint8_t v);
void ide_dma_go(struct ide_bus *b);

struct ide_dev {
    struct dev dev;             /* first */
    struct blk *blk;            /* property */
    int32_t unit;               /* property; -1 = first free */
    char *serial, *model, *ver; /* properties */
    uint64_t wwn, log_bs, phys_bs, discard_gran;
    uint32_t cyls, heads, secs;
    uint16_t rotation;
    int32_t bootindex;
    int write_cache; /* property, enum onoffauto */
    bool share_rw;   /* property */
    bool cd, saved_wce;
    struct scsi_dev *scsi; /* owned: the unit that answers a CD drive's packets */
    uint8_t sense[18];     /* of the last packet that failed */
};
/* Fills 512 bytes of IDENTIFY (PACKET) DEVICE data. */
void ide_identify(struct ide_bus *b, struct ide_unit *u, uint8_t *id);
static inline struct ide_bus *ide_bus_of(const struct dev *d)
{
    return container_of(d->bus, struct ide_bus, bus);
}
/* A range of the disk for NCQ: false when it is not there. */
static inline bool ide_range_ok(const struct ide_dev *d, uint64_t lba, uint64_t n)
{
    uint64_t total = blk_size(d->blk) / IDE_SECTOR;

    return lba <= total && n <= total - lba;
}

#endif
