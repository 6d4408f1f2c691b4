/* ATAPI: packets to a CD drive, answered by the SCSI unit inside it. Source: ATA/ATAPI-7, 6.24 PACKET; MMC-5.
 *
 * The whole reply of a command is gathered in memory and then handed over: in DRQ blocks of at most the byte count
 * limit, or by DMA. The sense data of a failure is kept until REQUEST SENSE. Left out: packets that write data other
 * than parameter lists. */
#include "hw/ide/ide.h"
#include "hw/scsi/scsi.h"

enum {
    REQUEST_SENSE = 0x03,
    MODE_SELECT_10 = 0x55,
    MODE_SELECT_6 = 0x15,
    READ_10 = 0x28,
    READ_12 = 0xa8,
    REPLY_MIN = 65536,
    REPLY_MAX = 1 << 25,
    CD_BLOCK = 2048
};
enum { IR_CD = 1, IR_IO = 2 }; /* interrupt reason, in the count register */

struct packet {
    struct scsi_req r; /* first */
    struct ide_bus *b;
    uint32_t gen;
    uint8_t *buf; /* owned: reply or parameters */
    struct iovec v;
};

static void set_reason(struct ide_bus *b, uint8_t ir)
{
    struct ide_unit *u = ide_unit(b);

    u->count[0] = (u->count[0] & ~7) | ir;
}

static void reply_free(struct ide_bus *b)
{
    free(b->reply);
    b->reply = NULL;
    b->reply_len = b->reply_at = 0;
}

static void packet_ok(struct ide_bus *b)
{
    reply_free(b);
    set_reason(b, IR_CD | IR_IO);
    ide_finish(b, 0, 0);
}

static void packet_failed(struct ide_bus *b, const uint8_t *sense)
{
    struct ide_dev *d = ide_unit(b)->dev;

    reply_free(b);
    memcpy(d->sense, sense, sizeof d->sense);
    set_reason(b, IR_CD | IR_IO);
    ide_finish(b, ST_ERR, (sense[2] & 15) << 4 | ER_ABRT);
}

/* ---- handing the reply over ---- */

static void next_block(struct ide_bus *b)
{
    struct ide_unit *u = ide_unit(b);
    size_t n = min_u64(b->reply_len - b->reply_at, b->byte_limit);

    if (!n) {
        packet_ok(b);
        return;
    }
    memcpy(b->buf, b->reply + b->reply_at, n);
    b->reply_at += n;
    b->buf[n] = 0; /* an odd last byte travels with a 0 */
    u->mid[0] = n;
    u->hi[0] = n >> 8;
    set_reason(b, IR_IO);
    ide_phase(b, align_up(n, 2), next_block, true);
}

void ide_packet_dma(struct ide_bus *b)
{
    b->ops->dma_copy(b->opaque, b->reply, b->reply_len, true);
    packet_ok(b);
}

static void reply_start(struct ide_bus *b)
{
    if (!b->reply_len) {
        packet_ok(b);
    } else if (b->ops->fis) {
        ide_packet_dma(b);
    } else if (b->dma) {
        b->dma_waiting = true;
        b->ops->dma_wait(b->opaque);
    } else {
        next_block(b);
    }
}

static void packet_free(struct packet *p)
{
    free(p->buf);
    free(p);
}

static void packet_done(struct scsi_req *r)
{
    struct packet *p = container_of(r, struct packet, r);
    struct ide_bus *b = p->b;

    if (p->gen != b->gen) {
        packet_free(p);
        return;
    }
    b->packet = NULL;
    if (r->status != SCSI_GOOD) {
        packet_failed(b, r->sense);
        packet_free(p);
        return;
    }
    if (r->in.nr) {
        b->reply = p->buf;
        b->reply_len = r->moved;
        b->reply_at = 0;
        p->buf = NULL;
    }
    packet_free(p);
    reply_start(b);
}

/* ---- the command ---- */

/* Room the reply needs: whole blocks for reads, else more than any reply has. */
static size_t reply_room(const uint8_t *c)
{
    uint64_t n = c[0] == READ_10 ? get_be16(c + 7) : c[0] == READ_12 ? get_be32(c + 6) : 0;

    return min_u64(max_u64(n * CD_BLOCK, REPLY_MIN), REPLY_MAX);
}

static size_t params_len(const uint8_t *c)
{
    return c[0] == MODE_SELECT_10 ? get_be16(c + 7) : c[0] == MODE_SELECT_6 ? c[4] : 0;
}

static void send(struct ide_bus *b, const uint8_t *params, size_t n)
{
    struct packet *p = xnew(struct packet);
    size_t room = n ? n : reply_room(b->cdb);
    uint8_t sense[SCSI_SENSE_LEN];

    p->b = b;
    p->gen = b->gen;
    p->buf = try_alloc(1, room);
    if (!p->buf) {
        free(p);
        scsi_sense_build(sense, SENSE_HARDWARE);
        packet_failed(b, sense);
        return;
    }
    if (n)
        memcpy(p->buf, params, n);
    memcpy(p->r.cdb, b->cdb, sizeof b->cdb);
    p->v = (struct iovec){p->buf, room};
    iov_init_ext(n ? &p->r.out : &p->r.in, &p->v, 1);
    p->r.done = packet_done;
    ide_unit(b)->status = ST_BSY | ST_DRDY;
    b->packet = &p->r;
    scsi_run(ide_unit(b)->dev->scsi, &p->r);
}

static void params_here(struct ide_bus *b)
{
    send(b, b->buf, min_u64(b->buf_end, params_len(b->cdb)));
}

/* The sense data of the last failure, once. */
static bool kept_sense(struct ide_bus *b)
{
    struct ide_dev *d = ide_unit(b)->dev;

    if (!d->sense[0])
        return false;
    b->reply_len = min_u64(b->cdb[4], sizeof d->sense);
    b->reply_at = 0;
    b->reply = xcalloc(1, sizeof d->sense);
    memcpy(b->reply, d->sense, sizeof d->sense);
    memset(d->sense, 0, sizeof d->sense);
    reply_start(b);
    return true;
}

static void run_packet(struct ide_bus *b)
{
    struct ide_dev *d = ide_unit(b)->dev;
    size_t n = params_len(b->cdb);

    reply_free(b);
    if (b->cdb[0] == REQUEST_SENSE && kept_sense(b))
        return;
    memset(d->sense, 0, sizeof d->sense);
    if (!n) {
        send(b, NULL, 0);
    } else if (b->ops->fis) {
        n = b->ops->dma_copy(b->opaque, b->buf, min_u64(n, IDE_CHUNK), false);
        b->buf_end = n;
        params_here(b);
    } else {
        ide_unit(b)->mid[0] = n;
        ide_unit(b)->hi[0] = n >> 8;
        set_reason(b, 0);
        ide_phase(b, align_up(n, 2), params_here, true);
    }
}

static void cdb_here(struct ide_bus *b)
{
    memcpy(b->cdb, b->buf, sizeof b->cdb);
    run_packet(b);
}

/* The PACKET command: takes the 12 bytes that follow (AHCI has put them into b->cdb). */
void ide_packet_start(struct ide_bus *b)
{
    struct ide_unit *u = ide_unit(b);

    b->dma = u->feature[0] & 1;
    b->to_guest = true;
    b->byte_limit = u->hi[0] << 8 | u->mid[0];
    if (!b->byte_limit || b->byte_limit == 0xffff)
        b->byte_limit = 0xfffe;
    if (b->byte_limit & 1)
        b->byte_limit--;
    if (!b->byte_limit)
        b->byte_limit = 2;
    if (b->ops->fis) {
        run_packet(b);
        return;
    }
    set_reason(b, IR_CD);
    ide_phase(b, sizeof b->cdb, cdb_here, false);
}

void ide_packet_reset(struct ide_bus *b)
{
    b->packet = NULL; /* its completion sees the new generation */
    reply_free(b);
}

void (*ide_packet_phase(unsigned n))(struct ide_bus *b)
{
    static void (*const phases[])(struct ide_bus * b) = {next_block, params_here, cdb_here};

    return n && n <= ARRAY_LEN(phases) ? phases[n - 1] : NULL;
}
