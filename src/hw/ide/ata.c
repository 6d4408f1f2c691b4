/* ATA: task file, command execution, PIO phases, DMA in chunks. Source: ATA/ATAPI-7 (T13 1532D) volumes 1 and 2, ACS-3.
 *
 * One command at a time per cable. Data passes through a buffer of IDE_CHUNK bytes, so nothing of the guest's memory is
 * held while the block layer works. After a reset completions of older requests are recognised by their generation.
 * Left out: SMART, security, host protected area (native size is all there is), power management beyond answers. */
#include "hw/ide/ide.h"

#include <errno.h>

enum {
    DSM = 0x06,
    DEVICE_RESET = 0x08,
    READ = 0x20,
    READ_ONCE = 0x21,
    READ_EXT = 0x24,
    READ_DMA_EXT = 0x25,
    NATIVE_MAX_EXT = 0x27,
    READ_MULT_EXT = 0x29,
    WRITE = 0x30,
    WRITE_ONCE = 0x31,
    WRITE_EXT = 0x34,
    WRITE_DMA_EXT = 0x35,
    WRITE_MULT_EXT = 0x39,
    WRITE_DMA_FUA_EXT = 0x3d,
    VERIFY = 0x40,
    VERIFY_ONCE = 0x41,
    VERIFY_EXT = 0x42,
    DIAGNOSTIC = 0x90,
    INIT_PARAMS = 0x91,
    PACKET = 0xa0,
    IDENTIFY_PACKET = 0xa1,
    READ_MULT = 0xc4,
    WRITE_MULT = 0xc5,
    SET_MULT = 0xc6,
    READ_DMA = 0xc8,
    READ_DMA_ONCE = 0xc9,
    WRITE_DMA = 0xca,
    WRITE_DMA_ONCE = 0xcb,
    WRITE_MULT_FUA_EXT = 0xce,
    STANDBY_NOW = 0xe0,
    IDLE_NOW = 0xe1,
    STANDBY = 0xe2,
    IDLE = 0xe3,
    CHECK_POWER = 0xe5,
    SLEEP = 0xe6,
    FLUSH = 0xe7,
    FLUSH_EXT = 0xea,
    IDENTIFY = 0xec,
    SET_FEATURES = 0xef,
    SECURITY_FREEZE = 0xf5,
    NATIVE_MAX = 0xf8,
};

struct ide_io {
    struct ide_bus *b;
    uint32_t gen;
    uint8_t *buf; /* owned once the bus has moved on */
    struct iovec v;
    struct iov q;
};

struct ide_unit *ide_unit(struct ide_bus *b)
{
    return &b->unit[b->device & DEV_UNIT ? 1 : 0];
}

static void raise_irq(struct ide_bus *b)
{
    if (b->control & CTL_NIEN)
        return;
    b->irq_level = true;
    b->ops->irq(b->opaque, 1);
}

static void lower_irq(struct ide_bus *b)
{
    b->irq_level = false;
    b->ops->irq(b->opaque, 0);
}

/* The command has ended. */
void ide_finish(struct ide_bus *b, uint8_t status, uint8_t error)
{
    struct ide_unit *u = ide_unit(b);
    bool dma = b->dma;

    u->status = status | ST_DRDY | ST_DSC;
    u->error = error;
    b->phase_end = NULL;
    b->dma = b->dma_waiting = false;
    if (dma && b->ops->dma_done)
        b->ops->dma_done(b->opaque, !(status & ST_ERR));
    if (b->ops->fis)
        b->ops->done(b->opaque);
    else
        raise_irq(b);
}

static void abort_cmd(struct ide_bus *b)
{
    ide_finish(b, ST_ERR, ER_ABRT);
}

/* Opens a window of n bytes of b->buf to the data port. */
void ide_phase(struct ide_bus *b, size_t n, void (*end)(struct ide_bus *b), bool irq)
{
    struct ide_unit *u = ide_unit(b);

    b->buf_at = 0;
    b->buf_end = n;
    b->phase_end = end;
    u->status = ST_DRDY | ST_DSC | ST_DRQ;
    if (irq)
        raise_irq(b);
}

static void done_quietly(struct ide_bus *b)
{
    ide_unit(b)->status = ST_DRDY | ST_DSC;
}

/* A reply of n bytes in b->buf to a data-in command. */
static void reply(struct ide_bus *b, size_t n)
{
    if (b->ops->fis) {
        b->pio_in = true;
        b->ops->dma_copy(b->opaque, b->buf, n, true);
        ide_finish(b, 0, 0);
    } else {
        ide_phase(b, n, done_quietly, true);
    }
}

/* ---- moving sectors ---- */

static void move(struct ide_bus *b);

static void io_done(void *opaque, int ret);

static struct ide_io *io_new(struct ide_bus *b, size_t len)
{
    struct ide_io *io = xnew(struct ide_io);

    io->b = b;
    io->gen = b->gen;
    io->buf = b->buf;
    io->v = (struct iovec){b->buf, len};
    iov_init_ext(&io->q, &io->v, 1);
    b->io = io;
    return io;
}

static void submit(struct ide_bus *b)
{
    struct ide_dev *d = ide_unit(b)->dev;
    struct ide_io *io = io_new(b, (size_t)b->chunk * IDE_SECTOR);

    ide_unit(b)->status = ST_BSY | ST_DRDY;
    if (b->to_guest)
        blk_aio_read(d->blk, b->lba * IDE_SECTOR, &io->q, 0, io_done, io);
    else
        blk_aio_write(d->blk, b->lba * IDE_SECTOR, &io->q, b->fua ? BLK_FUA : 0, io_done, io);
}

static void pio_in_used(struct ide_bus *b)
{
    if (b->left)
        move(b);
    else
        done_quietly(b);
}

/* A chunk was read or written. */
static void chunk_done(struct ide_bus *b)
{
    size_t n = (size_t)b->chunk * IDE_SECTOR;

    b->lba += b->chunk;
    b->left -= b->chunk;
    if (b->to_guest && (b->dma || b->ops->fis)) {
        if (b->ops->dma_copy(b->opaque, b->buf, n, true) < n) { /* the guest's list is too short */
            ide_finish(b, ST_ERR, ER_ABRT);
            return;
        }
    } else if (b->to_guest) {
        ide_phase(b, n, pio_in_used, true);
        return;
    }
    if (b->left)
        move(b);
    else
        ide_finish(b, 0, 0);
}

static void io_done(void *opaque, int ret)
{
    struct ide_io *io = opaque;
    struct ide_bus *b = io->b;

    if (io->gen != b->gen) { /* of a command that a reset ended */
        free(io->buf);
        free(io);
        return;
    }
    b->io = NULL;
    free(io);
    if (ret < 0) {
        switch (blk_error_action(ide_unit(b)->dev->blk, b->to_guest, -ret)) {
        case BLK_POLICY_STOP:
            b->retry = true;
            return;
        case BLK_POLICY_IGNORE:
            break;
        case BLK_POLICY_REPORT:
            ide_finish(b, ST_ERR, ret == -ENOMEDIUM ? ER_ABRT : ER_UNC);
            return;
        }
    }
    chunk_done(b);
}

static void pio_out_filled(struct ide_bus *b)
{
    submit(b);
}

/* The next chunk of a read or write. */
static void move(struct ide_bus *b)
{
    struct ide_unit *u = ide_unit(b);
    bool direct = b->dma || b->ops->fis;
    unsigned mult = b->command == READ_MULT || b->command == WRITE_MULT || b->command == READ_MULT_EXT ||
                            b->command == WRITE_MULT_EXT || b->command == WRITE_MULT_FUA_EXT
                        ? u->mult
                        : 1;

    b->chunk = min_u64(b->left, direct ? IDE_CHUNK / IDE_SECTOR : mult);
    if (b->to_guest) {
        submit(b);
    } else if (direct) {
        size_t n = (size_t)b->chunk * IDE_SECTOR;
        if (b->ops->dma_copy(b->opaque, b->buf, n, false) < n)
            ide_finish(b, ST_ERR, ER_ABRT);
        else
            submit(b);
    } else { /* the first block is asked for without an interrupt */
        ide_phase(b, (size_t)b->chunk * IDE_SECTOR, pio_out_filled, u->status & ST_BSY);
    }
}

void ide_dma_go(struct ide_bus *b)
{
    if (!b->dma_waiting)
        return;
    b->dma_waiting = false;
    if (b->command == PACKET)
        ide_packet_dma(b);
    else
        move(b);
}

/* Address and count of the task file; count 0 stands for the most there is. */
static uint64_t tf_lba(struct ide_bus *b, bool ext)
{
    struct ide_unit *u = ide_unit(b);
    struct ide_dev *d = u->dev;

    if (ext)
        return (uint64_t)u->hi[1] << 40 | (uint64_t)u->mid[1] << 32 | (uint64_t)u->lo[1] << 24 | u->hi[0] << 16 |
               u->mid[0] << 8 | u->lo[0];
    if (b->device & DEV_LBA)
        return (uint32_t)(b->device & 15) << 24 | u->hi[0] << 16 | u->mid[0] << 8 | u->lo[0];
    /* cylinder, head, sector from 1 */
    return ((uint64_t)(u->hi[0] << 8 | u->mid[0]) * d->heads + (b->device & 15)) * d->secs + u->lo[0] - 1;
}

static uint32_t tf_count(struct ide_bus *b, bool ext)
{
    struct ide_unit *u = ide_unit(b);
    uint32_t n = ext ? u->count[1] << 8 | u->count[0] : u->count[0];

    return n ? n : ext ? 65536 : 256;
}

static void rw(struct ide_bus *b, bool to_guest, bool dma, bool ext)
{
    struct ide_unit *u = ide_unit(b);
    uint64_t lba = tf_lba(b, ext);
    uint32_t n = tf_count(b, ext);

    if (!to_guest && blk_readonly(u->dev->blk)) {
        abort_cmd(b);
        return;
    }
    if (!ide_range_ok(u->dev, lba, n)) {
        ide_finish(b, ST_ERR, ER_IDNF | ER_ABRT);
        return;
    }
    b->lba = lba;
    b->left = n;
    b->to_guest = to_guest;
    b->dma = dma;
    b->pio_in = to_guest && !dma;
    b->fua = b->command == WRITE_DMA_FUA_EXT || b->command == WRITE_MULT_FUA_EXT;
    u->error = 0;
    if (dma) {
        u->status = ST_BSY | ST_DRDY;
        b->dma_waiting = true;
        b->ops->dma_wait(b->opaque);
    } else {
        u->status = ST_DRDY;
        move(b);
    }
}

/* ---- commands without sectors ---- */

static void flush_done(void *opaque, int ret)
{
    struct ide_io *io = opaque;
    struct ide_bus *b = io->b;
    bool stale = io->gen != b->gen;

    if (stale)
        free(io->buf);
    else
        b->io = NULL;
    free(io);
    if (!stale)
        ide_finish(b, ret < 0 ? ST_ERR : 0, ret < 0 ? ER_ABRT : 0);
}

static void flush(struct ide_bus *b)
{
    ide_unit(b)->status = ST_BSY | ST_DRDY;
    blk_aio_flush(ide_unit(b)->dev->blk, flush_done, io_new(b, 0));
}

/* TRIM: blocks of 64 ranges, 48 bits of address and 16 of count each. The whole list is checked first. */
static void trim(struct ide_bus *b)
{
    struct ide_unit *u = ide_unit(b);
    size_t n = (size_t)(u->count[1] << 8 | u->count[0]) * IDE_SECTOR;
    struct ide_io *io;

    if (!(u->feature[0] & 1) || !n || n > IDE_CHUNK || blk_readonly(u->dev->blk) ||
        b->ops->dma_copy(b->opaque, b->buf, n, false) < n) {
        abort_cmd(b);
        return;
    }
    for (size_t i = 0; i < n; i += 8) {
        uint64_t e = get_le64(b->buf + i);
        if (!ide_range_ok(u->dev, e & 0xffffffffffff, e >> 48)) {
            ide_finish(b, ST_ERR, ER_IDNF | ER_ABRT);
            return;
        }
    }
    for (size_t i = 0; i < n; i += 8) { /* one bigger request would not be taken: joined while they adjoin */
        uint64_t e = get_le64(b->buf + i), lba = e & 0xffffffffffff, cnt = e >> 48;
        while (cnt && i + 16 <= n && (get_le64(b->buf + i + 8) & 0xffffffffffff) == lba + cnt && cnt < (1u << 20)) {
            i += 8;
            cnt += get_le64(b->buf + i) >> 48;
        }
        if (!cnt)
            continue;
        io = xnew(struct ide_io); /* advice only: nobody waits for these */
        io->b = b;
        io->gen = b->gen - 1;
        blk_aio_discard(u->dev->blk, lba * IDE_SECTOR, cnt * IDE_SECTOR, io_done, io);
    }
    ide_finish(b, 0, 0);
}

static void set_features(struct ide_bus *b)
{
    struct ide_unit *u = ide_unit(b);

    switch (u->feature[0]) {
    case 0x02:
    case 0x82: /* write cache */
        blk_set_write_cache(u->dev->blk, u->feature[0] == 0x02);
        if (u->feature[0] == 0x82) {
            flush(b);
            return;
        }
        break;
    case 0x03: /* transfer mode: PIO default, PIO flow control, single, multi-word, ultra */
        if (u->count[0] >> 3 > 8) {
            abort_cmd(b);
            return;
        }
        break;
    case 0x05:
    case 0x85:
    case 0x42:
    case 0xc2:
    case 0x55:
    case 0xaa:
    case 0x66:
    case 0xcc:
    case 0x67:
    case 0x69:
    case 0x96:
    case 0x9a:
        break;
    default:
        abort_cmd(b);
        return;
    }
    ide_finish(b, 0, 0);
}

static void put_lba(struct ide_bus *b, uint64_t lba, bool ext)
{
    struct ide_unit *u = ide_unit(b);

    u->lo[0] = lba;
    u->mid[0] = lba >> 8;
    u->hi[0] = lba >> 16;
    if (ext) {
        u->lo[1] = lba >> 24;
        u->mid[1] = lba >> 32;
        u->hi[1] = lba >> 40;
    } else {
        b->device = (b->device & 0xf0) | (lba >> 24 & 15);
    }
}

static void native_max(struct ide_bus *b, bool ext)
{
    uint64_t last = blk_size(ide_unit(b)->dev->blk) / IDE_SECTOR - 1;

    put_lba(b, ext ? last : min_u64(last, 0xfffffff), ext);
    ide_finish(b, 0, 0);
}

void ide_signature(struct ide_unit *u)
{
    bool cd = u->dev && u->dev->cd;

    u->count[0] = u->lo[0] = 1;
    u->mid[0] = cd ? 0x14 : 0;
    u->hi[0] = cd ? 0xeb : 0;
    u->count[1] = u->lo[1] = u->mid[1] = u->hi[1] = u->feature[0] = u->feature[1] = 0;
    u->error = 1; /* passed */
    u->status = !u->dev ? 0 : cd ? 0 : ST_DRDY | ST_DSC;
}

/* Commands a disk knows. False: it does not. */
static bool run_disk(struct ide_bus *b, uint8_t cmd)
{
    struct ide_unit *u = ide_unit(b);

    switch (cmd) {
    case READ:
    case READ_ONCE:
    case READ_MULT:
        rw(b, true, false, false);
        return true;
    case READ_EXT:
    case READ_MULT_EXT:
        rw(b, true, false, true);
        return true;
    case WRITE:
    case WRITE_ONCE:
    case WRITE_MULT:
        rw(b, false, false, false);
        return true;
    case WRITE_EXT:
    case WRITE_MULT_EXT:
    case WRITE_MULT_FUA_EXT:
        rw(b, false, false, true);
        return true;
    case READ_DMA:
    case READ_DMA_ONCE:
        rw(b, true, true, false);
        return true;
    case READ_DMA_EXT:
        rw(b, true, true, true);
        return true;
    case WRITE_DMA:
    case WRITE_DMA_ONCE:
        rw(b, false, true, false);
        return true;
    case WRITE_DMA_EXT:
    case WRITE_DMA_FUA_EXT:
        rw(b, false, true, true);
        return true;
    case VERIFY:
    case VERIFY_ONCE:
    case VERIFY_EXT:
        if (ide_range_ok(u->dev, tf_lba(b, cmd == VERIFY_EXT), tf_count(b, cmd == VERIFY_EXT)))
            ide_finish(b, 0, 0);
        else
            ide_finish(b, ST_ERR, ER_IDNF | ER_ABRT);
        return true;
    case SET_MULT:
        if (u->count[0] > IDE_MAX_MULT || (u->count[0] && !is_pow2(u->count[0])))
            return false;
        u->mult = u->count[0];
        ide_finish(b, 0, 0);
        return true;
    case INIT_PARAMS:
        ide_finish(b, 0, 0);
        return true;
    case NATIVE_MAX:
        native_max(b, false);
        return true;
    case NATIVE_MAX_EXT:
        native_max(b, true);
        return true;
    case DSM:
        b->to_guest = false;
        b->dma = true;
        if (!b->ops->fis)
            return false; /* needs the engine before the data; only AHCI is wired for it */
        trim(b);
        return true;
    default:
        if ((cmd & 0xf0) == 0x10 || (cmd & 0xf0) == 0x70) { /* RECALIBRATE, SEEK */
            ide_finish(b, 0, 0);
            return true;
        }
        return false;
    }
}

static bool needs_mult(uint8_t cmd)
{
    return cmd == READ_MULT || cmd == WRITE_MULT || cmd == READ_MULT_EXT || cmd == WRITE_MULT_EXT ||
           cmd == WRITE_MULT_FUA_EXT;
}

static void run(struct ide_bus *b, uint8_t cmd)
{
    struct ide_unit *u = ide_unit(b);

    switch (cmd) {
    case IDENTIFY:
        if (u->dev->cd) {
            ide_signature(u);
            abort_cmd(b);
            return;
        }
        ide_identify(b, u, b->buf);
        reply(b, 512);
        return;
    case IDENTIFY_PACKET:
        if (!u->dev->cd)
            break;
        ide_identify(b, u, b->buf);
        reply(b, 512);
        return;
    case PACKET:
        if (!u->dev->cd)
            break;
        ide_packet_start(b);
        return;
    case FLUSH:
    case FLUSH_EXT:
        flush(b);
        return;
    case SET_FEATURES:
        set_features(b);
        return;
    case CHECK_POWER:
        u->count[0] = 0xff; /* active */
        ide_finish(b, 0, 0);
        return;
    case STANDBY_NOW:
    case IDLE_NOW:
    case STANDBY:
    case IDLE:
    case SLEEP:
    case SECURITY_FREEZE:
        ide_finish(b, 0, 0);
        return;
    default:
        if (!u->dev->cd && !(needs_mult(cmd) && !u->mult) && run_disk(b, cmd))
            return;
        break;
    }
    abort_cmd(b);
}

static void command(struct ide_bus *b, uint8_t cmd)
{
    struct ide_unit *u = ide_unit(b);

    lower_irq(b);
    if (cmd == DIAGNOSTIC) { /* both units, whichever is selected */
        b->device &= ~DEV_UNIT;
        ide_signature(&b->unit[0]);
        ide_signature(&b->unit[1]);
        b->command = cmd;
        if (b->ops->fis)
            b->ops->done(b->opaque);
        else
            raise_irq(b);
        return;
    }
    if (!u->dev)
        return;
    if (cmd == DEVICE_RESET && u->dev->cd) {
        b->gen++;
        ide_packet_reset(b);
        if (b->io) {
            b->io = NULL;
            b->buf = xmalloc(IDE_CHUNK);
        }
        ide_signature(u);
        return;
    }
    if (u->status & (ST_BSY | ST_DRQ))
        return;
    b->command = cmd;
    b->dma = b->pio_in = b->to_guest = b->fua = false;
    u->error = 0;
    run(b, cmd);
}

/* ---- registers ---- */

static bool anybody(const struct ide_bus *b)
{
    return b->unit[0].dev || b->unit[1].dev;
}

uint8_t ide_alt_status(struct ide_bus *b)
{
    return ide_unit(b)->dev ? ide_unit(b)->status : 0;
}

uint8_t ide_read(struct ide_bus *b, unsigned reg)
{
    struct ide_unit *u = ide_unit(b);
    unsigned hob = b->control & CTL_HOB ? 1 : 0;

    if (!anybody(b))
        return reg == 7 ? 0 : 0xff;
    switch (reg) {
    case 1:
        return hob ? u->feature[1] : u->error;
    case 2:
        return u->count[hob];
    case 3:
        return u->lo[hob];
    case 4:
        return u->mid[hob];
    case 5:
        return u->hi[hob];
    case 6:
        return b->device | 0xa0;
    case 7:
        lower_irq(b);
        return ide_alt_status(b);
    default:
        return 0;
    }
}

void ide_write(struct ide_bus *b, unsigned reg, uint8_t v)
{
    b->control &= ~CTL_HOB;
    if (reg == 7) {
        command(b, v);
        return;
    }
    if (ide_unit(b)->status & (ST_BSY | ST_DRQ))
        return; /* the task file is the drive's while it works */
    for (unsigned i = 0; i < 2; i++) {
        struct ide_unit *u = &b->unit[i];
        uint8_t *const at[] = {NULL, u->feature, u->count, u->lo, u->mid, u->hi};
        if (reg >= 1 && reg <= 5) {
            at[reg][1] = at[reg][0];
            at[reg][0] = v;
        }
    }
    if (reg == 6)
        b->device = v;
}

static void window_moved(struct ide_bus *b)
{
    void (*end)(struct ide_bus *) = b->phase_end;

    if (b->buf_at < b->buf_end)
        return;
    ide_unit(b)->status &= ~ST_DRQ;
    ide_unit(b)->status |= ST_BSY; /* until the next phase says otherwise */
    b->phase_end = NULL;
    end(b);
}

uint16_t ide_data_read(struct ide_bus *b)
{
    uint16_t v;

    if (!(ide_unit(b)->status & ST_DRQ) || !b->phase_end || b->buf_end - b->buf_at < 2)
        return 0;
    v = get_le16(b->buf + b->buf_at);
    b->buf_at += 2;
    window_moved(b);
    return v;
}

void ide_data_write(struct ide_bus *b, uint16_t v)
{
    if (!(ide_unit(b)->status & ST_DRQ) || !b->phase_end || b->buf_end - b->buf_at < 2)
        return;
    put_le16(b->buf + b->buf_at, v);
    b->buf_at += 2;
    window_moved(b);
}

void ide_bus_reset(struct ide_bus *b)
{
    b->gen++;
    if (b->io) { /* its completion frees the old buffer */
        b->io = NULL;
        b->buf = xmalloc(IDE_CHUNK);
    }
    ide_packet_reset(b);
    b->phase_end = NULL;
    b->dma = b->dma_waiting = b->retry = false;
    b->device = 0;
    for (unsigned i = 0; i < 2; i++) {
        ide_signature(&b->unit[i]);
        b->unit[i].mult = IDE_MAX_MULT;
    }
    lower_irq(b);
}

void ide_control_write(struct ide_bus *b, uint8_t v)
{
    uint8_t old = b->control;

    b->control = v;
    if (!(old & CTL_SRST) && (v & CTL_SRST)) {
        ide_bus_reset(b);
        for (unsigned i = 0; i < 2; i++)
            if (b->unit[i].dev)
                b->unit[i].status = ST_BSY | ST_DSC;
    } else if ((old & CTL_SRST) && !(v & CTL_SRST)) {
        ide_signature(&b->unit[0]);
        ide_signature(&b->unit[1]);
    }
    b->ops->irq(b->opaque, b->irq_level && !(v & CTL_NIEN));
}

/* ---- saving: with nothing in flight, a command is in a PIO phase, waits for the engine, or is to be tried again ----
 */

enum { PHASE_NONE, PHASE_QUIET, PHASE_IN, PHASE_OUT, PHASE_PACKET /* and the following */ };

static void (*phase_fn(unsigned n))(struct ide_bus *b)
{
    static void (*const phases[])(struct ide_bus * b) = {NULL, done_quietly, pio_in_used, pio_out_filled};

    return n < ARRAY_LEN(phases) ? phases[n] : ide_packet_phase(n - PHASE_PACKET + 1);
}

static uint8_t *copy_of(const uint8_t *p, size_t n, uint32_t *len)
{
    uint8_t *c = n ? xmalloc(n) : NULL;

    if (n)
        memcpy(c, p, n);
    *len = (uint32_t)n;
    return c;
}

static bool bus_pre_save(void *obj, struct err **errp)
{
    struct ide_bus *b = obj;
    size_t used = b->phase_end ? b->buf_end + 1 : 0; /* one more: the pad of an odd packet reply */

    if (b->io || b->packet)
        return err_set(errp, "a request on %s has not ended", b->bus.name);
    b->saved_phase = PHASE_NONE;
    while (phase_fn(b->saved_phase) != b->phase_end)
        b->saved_phase++;
    if (b->retry)
        used = max_u64(used, (size_t)b->chunk * IDE_SECTOR);
    free(b->saved_buf);
    free(b->saved_reply);
    b->saved_buf = copy_of(b->buf, min_u64(used, IDE_CHUNK), &b->saved_buf_len);
    b->saved_reply = copy_of(b->reply, b->reply_len, &b->saved_reply_len);
    return true;
}

static bool bus_loaded(void *obj, struct err **errp)
{
    struct ide_bus *b = obj;

    b->phase_end = phase_fn(b->saved_phase);
    if ((b->saved_phase && !b->phase_end) || b->buf_at > b->buf_end || b->buf_end > IDE_CHUNK ||
        (b->phase_end && (b->buf_end >= b->saved_buf_len || !ide_unit(b)->dev)) || b->saved_buf_len > IDE_CHUNK ||
        b->reply_at > b->saved_reply_len || (b->saved_phase > PHASE_PACKET && !ide_unit(b)->dev->cd) ||
        b->chunk > IDE_CHUNK / IDE_SECTOR || ((b->retry || b->saved_phase == PHASE_OUT) && b->chunk > b->left) ||
        b->byte_limit > 0xfffe ||
        (b->retry && (!ide_unit(b)->dev || (size_t)b->chunk * IDE_SECTOR > b->saved_buf_len)) ||
        (b->dma_waiting && !ide_unit(b)->dev))
        goto no;
    for (unsigned i = 0; i < 2; i++)
        if (b->unit[i].mult > IDE_MAX_MULT)
            goto no;
    if (b->saved_buf_len)
        memcpy(b->buf, b->saved_buf, b->saved_buf_len);
    free(b->saved_buf);
    free(b->reply);
    b->reply = b->saved_reply;
    b->reply_len = b->saved_reply_len;
    b->saved_buf = b->saved_reply = NULL;
    b->gen++;
    return true;
no:
    b->phase_end = NULL;
    b->retry = b->dma_waiting = false;
    return false;
}

static const struct state_field unit_fields[] = {
    STATE_BYTES(struct ide_unit, feature), STATE_BYTES(struct ide_unit, count), STATE_BYTES(struct ide_unit, lo),
    STATE_BYTES(struct ide_unit, mid),     STATE_BYTES(struct ide_unit, hi),    STATE_U8(struct ide_unit, mult),
    STATE_U8(struct ide_unit, status),     STATE_U8(struct ide_unit, error),    STATE_END};
static const struct state_desc unit_state = {.name = "ide-unit", .version = 1, .fields = unit_fields};
static const struct state_field bus_fields[] = {STATE_U8(struct ide_bus, device),
                                                STATE_U8(struct ide_bus, control),
                                                STATE_U8(struct ide_bus, command),
                                                STATE_STRUCTS(struct ide_bus, unit, unit_state),
                                                STATE_U8(struct ide_bus, saved_phase),
                                                STATE_ALLOC(struct ide_bus, saved_buf, saved_buf_len, IDE_CHUNK),
                                                STATE_INT(struct ide_bus, buf_at),
                                                STATE_INT(struct ide_bus, buf_end),
                                                STATE_U64(struct ide_bus, lba),
                                                STATE_U64(struct ide_bus, left),
                                                STATE_INT(struct ide_bus, chunk),
                                                STATE_BOOL(struct ide_bus, dma),
                                                STATE_BOOL(struct ide_bus, to_guest),
                                                STATE_BOOL(struct ide_bus, dma_waiting),
                                                STATE_BOOL(struct ide_bus, fua),
                                                STATE_BOOL(struct ide_bus, pio_in),
                                                STATE_BOOL(struct ide_bus, retry),
                                                STATE_BOOL(struct ide_bus, irq_level),
                                                STATE_BYTES(struct ide_bus, cdb),
                                                STATE_ALLOC(struct ide_bus, saved_reply, saved_reply_len, 1 << 25),
                                                STATE_INT(struct ide_bus, reply_at),
                                                STATE_INT(struct ide_bus, byte_limit),
                                                STATE_END};
const struct state_desc ide_bus_state = {
    .name = "ide-bus", .version = 1, .fields = bus_fields, .pre_save = bus_pre_save, .post_load = bus_loaded};

/* ---- life ---- */

static void state_changed(void *opaque)
{
    struct ide_bus *b = opaque;

    if (!machine_running(b->bus.machine) || !b->retry)
        return;
    b->retry = false;
    submit(b);
}

static bool plug(struct bus *bus, struct dev *dev, struct err **errp)
{
    struct ide_bus *b = container_of(bus, struct ide_bus, bus);
    struct ide_dev *d = container_of(dev, struct ide_dev, dev);

    if (d->unit < 0)
        for (d->unit = 0; d->unit < (int)b->max_units - 1 && b->unit[d->unit].dev; d->unit++)
            ;
    if (d->unit >= (int)b->max_units)
        return err_set(errp, "%s: unit=%d on bus '%s', which has %u", dev->obj.cls->name, d->unit, bus->name,
                       b->max_units);
    if (b->unit[d->unit].dev)
        return err_set(errp, "%s: IDE unit %d of bus '%s' is in use", dev->obj.cls->name, d->unit, bus->name);
    b->unit[d->unit].dev = d;
    return true;
}

static void unplug(struct bus *bus, struct dev *dev)
{
    struct ide_bus *b = container_of(bus, struct ide_bus, bus);
    struct ide_dev *d = container_of(dev, struct ide_dev, dev);

    if (d->unit >= 0 && d->unit < 2 && b->unit[d->unit].dev == d)
        b->unit[d->unit].dev = NULL;
}

static void bus_reset(struct bus *bus)
{
    ide_bus_reset(container_of(bus, struct ide_bus, bus));
}

static char *fw_path(struct dev *dev)
{
    struct ide_dev *d = container_of(dev, struct ide_dev, dev);
    const char *dot = strrchr(dev->bus->name, '.');

    return xasprintf("drive@%s/disk@%d", dot ? dot + 1 : "0", d->unit);
}
static const struct bus_class ide_bus_class = {
    .type = "IDE", .plug = plug, .unplug = unplug, .reset = bus_reset, .fw_path = fw_path};

void ide_bus_init(struct ide_bus *b, struct dev *owner, const char *name, unsigned max_units, const struct ide_ops *ops,
                  void *opaque)
{
    bus_init(&b->bus, &ide_bus_class, owner, name);
    b->max_units = max_units;
    b->ops = ops;
    b->opaque = opaque;
    b->buf = xmalloc(IDE_CHUNK);
    b->state_hook = (struct machine_hook){.fn = state_changed, .opaque = b};
    machine_on_state(dev_machine(owner), &b->state_hook);
}

void ide_bus_fini(struct ide_bus *b)
{
    b->gen++;
    machine_hook_del(&b->state_hook);
    ide_packet_reset(b);
    if (!b->io)
        free(b->buf);
    b->buf = NULL;
    free(b->saved_buf);
    free(b->saved_reply);
    bus_fini(&b->bus);
}
