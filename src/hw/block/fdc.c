/* Floppy disk controller of a PC with its drives (classes isa-fdc and floppy). Intel 82077AA data sheet (290166-007),
 * in PC-AT mode.
 *
 * A command's bytes are collected, then run; reading and writing go sector by sector between the image and a buffer,
 * and between the buffer and the DMA channel or the data register. Seeks and the end of a transfer take a moment of
 * guest time, so that nothing is over before the write that started it returns. The interrupt falls with the first
 * byte of the result, or with SENSE INTERRUPT STATUS. A medium is taken for the smallest standard format that holds
 * the image; what lies beyond the image's end reads as zeros.
 *
 * Left out: scan commands, deleted data marks (written as plain ones), tape drives, sectors of other than 512 bytes,
 * copy protection, rotation and its times. */
#include "hw/block/fdc.h"
#include "base/str.h"
#include "blk/blk.h"
#include "hw/dma/i8237.h"
#include <errno.h>

enum {
    SRA = 0,
    SRB = 1,
    DOR = 2,
    TDR = 3,
    MSR = 4,
    FIFO = 5,
    DIR = 7,
    UNITS = 2,
    SECTOR = 512,
    CMD_MAX = 9,
    RES_MAX = 10
};
enum { DOR_SEL = 3, DOR_NRESET = 4, DOR_DMAGATE = 8 };
enum { MSR_CMDBUSY = 0x10, MSR_NONDMA = 0x20, MSR_DIO = 0x40, MSR_RQM = 0x80 };
enum { DSR_RESET = 0x80, DSR_RATE = 3, DIR_DSKCHG = 0x80 };
enum {
    ST0_HEAD = 4,
    ST0_SEEK_END = 0x20,
    ST0_ABNORMAL = 0x40,
    ST0_INVALID = 0x80,
    ST0_POLLED = 0xc0,
    ST0_CHECK = 0x10
};
enum { ST1_MA = 1, ST1_NW = 2, ST1_ND = 4, ST1_EN = 0x80, ST2_WC = 0x10, ST2_CM = 0x40 };
enum { ST3_TWO_SIDED = 8, ST3_TRACK0 = 0x10, ST3_READY = 0x20, ST3_WP = 0x40 };
enum {
    C_READ_TRACK = 0x02,
    C_SPECIFY = 0x03,
    C_SENSE_DRIVE = 0x04,
    C_WRITE = 0x05,
    C_READ = 0x06,
    C_RECALIBRATE = 0x07,
    C_SENSE_INT = 0x08,
    C_WRITE_DELETED = 0x09,
    C_READ_ID = 0x0a,
    C_READ_DELETED = 0x0c,
    C_FORMAT = 0x0d,
    C_DUMPREG = 0x0e,
    C_SEEK = 0x0f,
    C_VERSION = 0x10,
    C_PERPENDICULAR = 0x12,
    C_CONFIGURE = 0x13,
    C_LOCK = 0x14,
    C_VERIFY = 0x16,
    MT = 0x80,
    RELATIVE = 0x80,
    UPWARD = 0x40,
};
enum { P_COMMAND, P_EXECUTION, P_RESULT };            /* f->phase */
enum { X_NONE, X_READ, X_WRITE, X_VERIFY, X_FORMAT }; /* f->op */
/* What the timer is to do. */
enum { T_NONE, T_SEEK_DONE, T_FINISH, T_STEP, T_RESET };
enum { SEEK_NS = 100000, POLL_NS = 500000 };

struct geometry {
    uint16_t kib;
    uint8_t tracks, heads, spt, rate, type;
};
/* rate as in the data rate select register: 0 500, 1 300, 2 250, 3 1000 kbit/s; type as in CMOS. */
static const struct geometry formats[] = {
    {160, 40, 1, 8, 2, 4},   {180, 40, 1, 9, 2, 4},   {320, 40, 2, 8, 2, 4},   {360, 40, 2, 9, 2, 4},
    {720, 80, 2, 9, 2, 4},   {820, 82, 2, 10, 2, 4},  {1200, 80, 2, 15, 0, 2}, {1440, 80, 2, 18, 0, 4},
    {1600, 80, 2, 20, 0, 4}, {1680, 80, 2, 21, 0, 4}, {1722, 82, 2, 21, 0, 4}, {2880, 80, 2, 36, 3, 5},
    {3120, 80, 2, 39, 3, 5}, {3200, 80, 2, 40, 3, 5},
};

struct fdc;
struct floppy {
    struct dev dev;           /* first */
    struct fdc *f;            /* borrowed */
    struct blk *blk;          /* property */
    uint32_t unit;            /* property; UINT32_MAX = first free */
    char *type;               /* property: 144, 288, 120, auto */
    int32_t bootindex;        /* property */
    bool share_rw;            /* property */
    const struct geometry *g; /* of the medium, NULL = none or too large */
    bool changed;             /* DSKCHG */
    uint8_t next_id;          /* sector READ ID sees next, from 0 */
};
struct fdc {
    struct dev dev; /* first */
    struct bus bus;
    struct mem_region regs, dir;
    uint32_t iobase, irq, dma;  /* properties */
    bool check_rate;            /* property */
    struct irq_line *line;      /* borrowed */
    struct floppy *unit[UNITS]; /* borrowed */
    uint8_t track[4];           /* where the heads are */

    uint8_t dor, tdr, dsr, rate, precomp, config, specify[2], perp;
    bool lock, irq_on;
    uint8_t phase, busy_seeks; /* busy_seeks: bit per drive, until SENSE INTERRUPT STATUS */
    uint8_t polls;             /* drives whose ready change after a reset is not sensed yet */
    uint8_t seek_st0[4];
    uint8_t cmd[CMD_MAX], res[RES_MAX];
    uint8_t nr_cmd, len_cmd, nr_res, len_res;
    /* The transfer under way. */
    uint8_t op, sel, head, c, h, r, eot, left, st0, st1, st2, fill;
    bool mt, cm, pio, whole_track, verify_count;
    uint8_t buf[SECTOR];
    uint16_t pos, len;
    bool tc;
    bool io_busy; /* a request to the image has not come back */
    bool redo;    /* the machine stopped: start the sector again */
    uint32_t gen; /* transfers of before a reset are ignored */
    uint8_t timer_for;
    struct clk_timer timer;
    struct machine_hook state_hook;
};
struct fdc_io {
    struct fdc *f;
    uint32_t gen;
    bool write;
    struct iovec v;
    uint8_t buf[SECTOR];
};

static struct fdc *fdc_of(struct dev *d)
{
    return container_of(d, struct fdc, dev);
}

static void step(struct fdc *f);

/* ---- drives ---- */

static struct floppy *unit_of(struct fdc *f, unsigned n)
{
    return n < UNITS ? f->unit[n] : NULL;
}

static void look_at_medium(struct floppy *d)
{
    uint64_t size = d->blk && blk_has_medium(d->blk) ? blk_size(d->blk) : 0;

    d->g = NULL;
    for (unsigned i = 0; size && !d->g && i < ARRAY_LEN(formats); i++)
        if (size <= formats[i].kib * UINT64_C(1024))
            d->g = &formats[i];
    /* An image shorter than any disk, a boot sector say, is on a disk of the drive's own kind. */
    if (d->g && size < formats[0].kib * UINT64_C(1024))
        for (unsigned i = 0; i < ARRAY_LEN(formats); i++)
            if (formats[i].kib == 1440)
                d->g = &formats[i];
    if (size && !d->g)
        log_guest("floppy: an image of %" PRIu64 " bytes is larger than any disk", size);
}

static void media_changed(void *opaque, bool loaded)
{
    struct floppy *d = opaque;

    d->changed = true;
    look_at_medium(d);
}
static const struct blk_dev_ops floppy_ops = {.media_changed = media_changed};

uint8_t fdc_cmos_type(struct dev *dev, unsigned n)
{
    struct floppy *d = unit_of(fdc_of(dev), n);

    if (!d)
        return 0;
    if (d->type && !strcmp(d->type, "120"))
        return 2;
    if (d->type && !strcmp(d->type, "144"))
        return 4;
    if (d->type && !strcmp(d->type, "288"))
        return 5;
    return d->g ? d->g->type : 5; /* a drive of 2.88 MB takes all but 1.2 MB disks */
}

/* ---- interrupt, results ---- */

static void set_irq(struct fdc *f, bool on)
{
    f->irq_on = on;
    irq_set(f->line, on && (f->dor & DOR_DMAGATE));
}

static void to_command(struct fdc *f)
{
    f->phase = P_COMMAND;
    f->nr_cmd = f->len_cmd = 0;
    f->op = X_NONE;
}

static void result(struct fdc *f, const uint8_t *p, unsigned n)
{
    memcpy(f->res, p, n);
    f->phase = P_RESULT;
    f->nr_res = 0;
    f->len_res = (uint8_t)n;
}

static void after(struct fdc *f, uint8_t what, int64_t ns)
{
    f->timer_for = what;
    clk_timer_set(&f->timer, clk_now(dev_vclk(&f->dev)) + ns);
}

/* Ends a data command: the seven result bytes and the interrupt. */
static void finish(struct fdc *f)
{
    uint8_t st0 = (uint8_t)(f->st0 | (f->head ? ST0_HEAD : 0) | f->sel);
    uint8_t r[7] = {st0, f->st1, (uint8_t)(f->st2 | (f->cm ? ST2_CM : 0)), f->c, f->h, f->r, 2};

    f->op = X_NONE;
    f->pio = false;
    result(f, r, sizeof r);
    set_irq(f, true);
}

static void fail(struct fdc *f, uint8_t st1, uint8_t st2)
{
    f->st0 |= ST0_ABNORMAL;
    f->st1 |= st1;
    f->st2 |= st2;
    after(f, T_FINISH, SEEK_NS);
}

/* ---- data ---- */

/* The offset of the sector at the head, or UINT64_MAX with the status that says why there is none. */
static uint64_t find_sector(struct fdc *f)
{
    struct floppy *d = unit_of(f, f->sel);

    if (!d || !d->g || (f->check_rate && d->g->rate != f->rate)) {
        f->st1 |= ST1_MA;
        return UINT64_MAX;
    }
    if (f->track[f->sel] >= d->g->tracks || f->head >= d->g->heads || f->h != f->head || !f->r || f->r > d->g->spt) {
        f->st1 |= ST1_ND;
        return UINT64_MAX;
    }
    if (f->c != f->track[f->sel]) {
        f->st1 |= ST1_ND;
        f->st2 |= ST2_WC;
        return UINT64_MAX;
    }
    return (((uint64_t)f->c * d->g->heads + f->head) * d->g->spt + f->r - 1) * SECTOR;
}

/* On to the next sector. False at the end of the cylinder. */
static bool next_sector(struct fdc *f)
{
    if (f->r != f->eot) {
        f->r++;
        return true;
    }
    f->r = 1;
    if (f->mt && !f->head) {
        f->head = 1;
        f->h ^= 1;
        return true;
    }
    if (f->mt) {
        f->h ^= 1; /* the result names the other head; the transfer has ended */
    }
    f->c++;
    return false;
}

static void sector_done(struct fdc *f)
{
    bool more;

    if (f->op == X_VERIFY && f->verify_count && !--f->left)
        f->tc = true;
    more = next_sector(f);
    if (f->tc) {
        after(f, T_FINISH, SEEK_NS);
    } else if (!more) {
        f->st0 |= ST0_ABNORMAL;
        f->st1 |= ST1_EN;
        if (f->whole_track || (f->op == X_VERIFY && !f->verify_count)) { /* the end that was asked for */
            f->st0 &= (uint8_t)~ST0_ABNORMAL;
            f->st1 = f->op == X_VERIFY ? 0 : f->st1;
        }
        after(f, T_FINISH, SEEK_NS);
    } else {
        f->pos = f->len = 0;
        step(f);
    }
}

static void io_done(void *opaque, int ret)
{
    struct fdc_io *io = opaque;
    struct fdc *f = io->f;
    bool stale = io->gen != f->gen;
    struct floppy *d = unit_of(f, f->sel);

    if (!stale)
        f->io_busy = false;
    if (!stale && ret < 0 && d && d->blk && blk_error_action(d->blk, !io->write, -ret) == BLK_POLICY_STOP) {
        f->redo = true;
    } else if (!stale && !machine_running(dev_machine(&f->dev)) && !dev_machine(&f->dev)->stepped) {
        f->redo = true;
    } else if (!stale && ret < 0) {
        fail(f, io->write ? ST1_NW : ST1_ND, 0);
    } else if (!stale && io->write) {
        sector_done(f);
    } else if (!stale) {
        memcpy(f->buf, io->buf, SECTOR);
        f->pos = 0;
        f->len = SECTOR;
        if (f->op == X_VERIFY)
            sector_done(f);
        else
            step(f);
    }
    free(io);
}

static void image_io(struct fdc *f, uint64_t off, bool write)
{
    struct floppy *d = unit_of(f, f->sel);
    uint64_t size = blk_size(d->blk), n = off < size ? min_u64(SECTOR, size - off) : 0;
    struct fdc_io *io = xnew(struct fdc_io);
    struct iov q;

    io->f = f;
    io->gen = f->gen;
    io->write = write;
    if (write)
        memcpy(io->buf, f->buf, SECTOR);
    io->v = (struct iovec){io->buf, n};
    iov_init_ext(&q, &io->v, 1);
    f->io_busy = true;
    if (!n) { /* beyond the image: zeros, and nowhere to write to */
        io_done(io, write ? -ENOSPC : 0);
        return;
    }
    if (write)
        blk_aio_write(d->blk, off, &q, 0, io_done, io);
    else
        blk_aio_read(d->blk, off, &q, 0, io_done, io);
}

/* Between the buffer and the DMA channel. False: the channel is not ready, ask again. */
static bool dma(struct fdc *f, uint16_t len, bool to_memory)
{
    while (f->pos < len && !f->tc) {
        unsigned n = isa_dma_transfer(isa_bus_of(&f->dev), f->dma, f->buf + f->pos, len - f->pos, to_memory, &f->tc);

        if (!n)
            return false;
        f->pos = (uint16_t)(f->pos + n);
    }
    return true;
}

/* Gets len bytes from the guest; true when they are there. */
static bool guest_gives(struct fdc *f, uint16_t len)
{
    f->len = len;
    if (f->pio) {
        if (f->pos == len)
            return true;
        set_irq(f, true);
        return false;
    }
    if (dma(f, len, false)) {
        memset(f->buf + f->pos, 0, len - f->pos); /* the count ended inside the sector */
        return true;
    }
    after(f, T_STEP, POLL_NS);
    return false;
}

static void step_read(struct fdc *f)
{
    uint64_t off;

    if (!f->len) {
        off = find_sector(f);
        if (off == UINT64_MAX)
            fail(f, 0, 0);
        else
            image_io(f, off, false);
        return;
    }
    if (f->pio && f->pos < f->len)
        set_irq(f, true);
    else if (f->pio || dma(f, f->len, true))
        sector_done(f);
    else
        after(f, T_STEP, POLL_NS);
}

static void step_write(struct fdc *f)
{
    uint64_t off = find_sector(f);

    if (off == UINT64_MAX)
        fail(f, 0, 0);
    else if (blk_readonly(unit_of(f, f->sel)->blk))
        fail(f, ST1_NW, 0);
    else if (guest_gives(f, SECTOR))
        image_io(f, off, true);
}

/* One sector's identification field from the guest, then that sector filled. */
static void step_format(struct fdc *f)
{
    struct floppy *d = unit_of(f, f->sel);
    uint64_t off;

    if (!f->left) {
        after(f, T_FINISH, SEEK_NS);
        return;
    }
    if (!d || !d->g) {
        fail(f, ST1_MA, 0);
        return;
    }
    if (blk_readonly(d->blk)) {
        fail(f, ST1_NW, 0);
        return;
    }
    if (!guest_gives(f, 4))
        return;
    f->c = f->buf[0];
    f->h = f->buf[1];
    f->r = f->eot = f->buf[2];
    off = f->buf[3] == 2 ? find_sector(f) : UINT64_MAX;
    if (off == UINT64_MAX) {
        fail(f, 0, 0);
        return;
    }
    memset(f->buf, f->fill, SECTOR);
    f->tc = --f->left == 0;
    f->mt = false;
    f->eot = f->left ? 0 : f->r; /* next_sector goes on until the count is done */
    image_io(f, off, true);
}

static void step(struct fdc *f)
{
    if (f->op == X_READ || f->op == X_VERIFY)
        step_read(f);
    else if (f->op == X_WRITE)
        step_write(f);
    else if (f->op == X_FORMAT)
        step_format(f);
}

static void begin(struct fdc *f, uint8_t op)
{
    f->phase = P_EXECUTION;
    f->op = op;
    f->sel = f->cmd[1] & 3;
    f->head = f->cmd[1] >> 2 & 1;
    f->st0 = f->st1 = f->st2 = 0;
    f->pos = f->len = 0;
    f->tc = f->cm = f->whole_track = f->verify_count = f->redo = false;
    f->pio = op != X_VERIFY && (f->specify[1] & 1);
    f->mt = f->cmd[0] & MT;
}

static void begin_data(struct fdc *f, uint8_t op)
{
    begin(f, op);
    f->c = f->cmd[2];
    f->h = f->cmd[3];
    f->r = f->cmd[4];
    f->eot = f->cmd[6];
    if (f->config & 0x40 && unit_of(f, f->sel)) /* implied seek */
        f->track[f->sel] = f->c;
    if (f->cmd[5] != 2) {
        fail(f, ST1_ND, 0);
        return;
    }
    if (op == X_VERIFY) {
        f->verify_count = f->cmd[1] & 0x80;
        f->left = f->cmd[8];
        f->tc = f->verify_count && !f->left;
    }
    after(f, T_STEP, SEEK_NS);
}

/* ---- commands ---- */

static void c_invalid(struct fdc *f)
{
    result(f, (const uint8_t[]){ST0_INVALID}, 1);
}
static void c_read(struct fdc *f)
{
    begin_data(f, X_READ);
    f->cm = (f->cmd[0] & 31) == C_READ_DELETED; /* plain marks were found */
}
static void c_read_track(struct fdc *f)
{
    begin_data(f, X_READ);
    f->r = 1;
    f->mt = false;
    f->whole_track = true;
}
static void c_write(struct fdc *f)
{
    begin_data(f, X_WRITE);
}
static void c_verify(struct fdc *f)
{
    begin_data(f, X_VERIFY);
}
static void c_format(struct fdc *f)
{
    begin(f, X_FORMAT);
    f->c = f->track[f->sel];
    f->h = f->head;
    f->r = 1;
    f->left = f->cmd[3];
    f->fill = f->cmd[5];
    after(f, T_STEP, SEEK_NS);
}

static void c_read_id(struct fdc *f)
{
    struct floppy *d;

    begin(f, X_NONE);
    d = unit_of(f, f->sel);
    f->c = f->track[f->sel];
    f->h = f->head;
    f->r = 1;
    if (!d || !d->g || (f->check_rate && d->g->rate != f->rate) || f->c >= d->g->tracks || f->head >= d->g->heads) {
        fail(f, ST1_MA, 0);
        return;
    }
    f->r = (uint8_t)(d->next_id % d->g->spt + 1);
    d->next_id = f->r;
    after(f, T_FINISH, SEEK_NS);
}

static void c_specify(struct fdc *f)
{
    f->specify[0] = f->cmd[1];
    f->specify[1] = f->cmd[2];
    to_command(f);
}

static void c_sense_drive(struct fdc *f)
{
    unsigned n = f->cmd[1] & 3;
    struct floppy *d = unit_of(f, n);
    uint8_t st3 = (uint8_t)(ST3_TWO_SIDED | ST3_READY | (f->cmd[1] & 7));

    st3 |= f->track[n] ? 0 : ST3_TRACK0;
    st3 |= d && d->g && blk_readonly(d->blk) ? ST3_WP : 0;
    result(f, &st3, 1);
}

static void c_sense_int(struct fdc *f)
{
    uint8_t r[2] = {ST0_INVALID, 0};

    if (f->polls) {
        unsigned n = (unsigned)__builtin_ctz(f->polls);

        f->polls &= (uint8_t)(f->polls - 1);
        r[0] = (uint8_t)(ST0_POLLED | n);
        r[1] = f->track[n];
    } else if (f->busy_seeks && f->timer_for != T_SEEK_DONE) {
        unsigned n = (unsigned)__builtin_ctz(f->busy_seeks);

        f->busy_seeks &= (uint8_t)(f->busy_seeks - 1);
        r[0] = f->seek_st0[n];
        r[1] = f->track[n];
    }
    set_irq(f, f->busy_seeks && f->timer_for != T_SEEK_DONE);
    result(f, r, r[0] == ST0_INVALID ? 1 : 2);
}

/* The heads are there at once; being told takes a moment. */
static void seek(struct fdc *f, unsigned n, uint8_t to)
{
    struct floppy *d = unit_of(f, n);

    f->seek_st0[n] = (uint8_t)(ST0_SEEK_END | (f->cmd[1] & ST0_HEAD) | n);
    if (!d)
        f->seek_st0[n] |= to ? 0 : ST0_ABNORMAL | ST0_CHECK; /* no drive, no track 0 signal */
    else if (d->g)
        d->changed = false; /* step pulses clear it, a medium being there */
    f->track[n] = to;
    f->busy_seeks |= (uint8_t)(1 << n);
    to_command(f);
    after(f, T_SEEK_DONE, SEEK_NS);
}

static void c_recalibrate(struct fdc *f)
{
    f->cmd[1] &= 3;
    seek(f, f->cmd[1], 0);
}
static void c_seek(struct fdc *f)
{
    unsigned n = f->cmd[1] & 3;
    int to = f->cmd[2];

    if (f->cmd[0] & RELATIVE)
        to = f->cmd[0] & UPWARD ? f->track[n] + to : f->track[n] - to;
    seek(f, n, (uint8_t)(to < 0 ? 0 : to > 255 ? 255 : to));
}

static void c_dumpreg(struct fdc *f)
{
    uint8_t r[10] = {f->track[0],   f->track[1],   f->track[2], f->track[3],
                     f->specify[0], f->specify[1], f->eot,      (uint8_t)(f->lock << 7 | (f->perp & 0x3f)),
                     f->config,     f->precomp};

    result(f, r, sizeof r);
}
static void c_version(struct fdc *f)
{
    result(f, (const uint8_t[]){0x90}, 1);
}
static void c_perpendicular(struct fdc *f)
{
    if (f->cmd[1] & 0x80)
        f->perp = f->cmd[1] & 0x3f;
    else
        f->perp = (uint8_t)((f->perp & 0x3c) | (f->cmd[1] & 3));
    to_command(f);
}
static void c_configure(struct fdc *f)
{
    f->config = f->cmd[2];
    f->precomp = f->cmd[3];
    to_command(f);
}
static void c_lock(struct fdc *f)
{
    uint8_t r;

    f->lock = f->cmd[0] & 0x80;
    r = (uint8_t)(f->lock << 4);
    result(f, &r, 1);
}

static const struct command {
    uint8_t mask, code, len;
    void (*run)(struct fdc *f);
} commands[] = {
    {0x1f, C_READ, 9, c_read},
    {0x1f, C_READ_DELETED, 9, c_read},
    {0x1f, C_WRITE, 9, c_write},
    {0x1f, C_WRITE_DELETED, 9, c_write},
    {0x9f, C_READ_TRACK, 9, c_read_track},
    {0x1f, C_VERIFY, 9, c_verify},
    {0xbf, C_FORMAT, 6, c_format},
    {0xbf, C_READ_ID, 2, c_read_id},
    {0xff, C_SPECIFY, 3, c_specify},
    {0xff, C_SENSE_DRIVE, 2, c_sense_drive},
    {0xff, C_RECALIBRATE, 2, c_recalibrate},
    {0xff, C_SENSE_INT, 1, c_sense_int},
    {0x3f, C_SEEK, 3, c_seek},
    {0xff, C_DUMPREG, 1, c_dumpreg},
    {0xff, C_VERSION, 1, c_version},
    {0xff, C_PERPENDICULAR, 2, c_perpendicular},
    {0xff, C_CONFIGURE, 4, c_configure},
    {0x7f, C_LOCK, 1, c_lock},
};
static const struct command invalid = {0, 0, 1, c_invalid};

static const struct command *command_of(uint8_t byte)
{
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
        if ((byte & commands[i].mask) == commands[i].code)
            return &commands[i];
    return &invalid;
}

/* ---- reset ---- */

static void cancel(struct fdc *f)
{
    f->gen++;
    f->io_busy = f->redo = false;
    f->timer_for = T_NONE;
    clk_timer_cancel(&f->timer);
    to_command(f);
    f->busy_seeks = f->polls = 0;
    set_irq(f, false);
}

/* The controller comes out of reset: unless polling is off, the drives' state changes interrupt. */
static void reset_ends(struct fdc *f)
{
    if (!f->lock) {
        f->config = 0;
        f->precomp = 0;
    }
    after(f, T_RESET, SEEK_NS);
}

static void timer_fired(void *opaque)
{
    struct fdc *f = opaque;
    uint8_t what = f->timer_for;

    f->timer_for = T_NONE;
    switch (what) {
    case T_SEEK_DONE:
        set_irq(f, true);
        break;
    case T_RESET:
        f->polls = f->config & 0x10 ? 0 : 15;
        set_irq(f, f->polls != 0);
        break;
    case T_STEP:
        if (f->op == X_VERIFY && f->tc)
            finish(f);
        else
            step(f);
        break;
    case T_FINISH:
        if (f->phase == P_EXECUTION)
            finish(f);
        break;
    default:
        break;
    }
}

static void state_changed(void *opaque)
{
    struct fdc *f = opaque;

    if (f->redo && machine_running(dev_machine(&f->dev))) {
        f->redo = false;
        if (f->op == X_READ || f->op == X_VERIFY)
            f->pos = f->len = 0;
        if (f->op == X_FORMAT)
            image_io(f, find_sector(f), true);
        else
            step(f);
    }
}

/* ---- registers ---- */

static uint8_t msr(const struct fdc *f)
{
    uint8_t v = f->busy_seeks & 15;

    if (!(f->dor & DOR_NRESET))
        return 0;
    switch (f->phase) {
    case P_COMMAND:
        return v | MSR_RQM | (f->nr_cmd ? MSR_CMDBUSY : 0);
    case P_RESULT:
        return v | MSR_RQM | MSR_DIO | MSR_CMDBUSY;
    default:
        v |= MSR_CMDBUSY;
        if (f->pio && f->pos < f->len && !f->io_busy && !f->redo && f->timer_for == T_NONE)
            v |= (uint8_t)(MSR_NONDMA | MSR_RQM | (f->op == X_READ ? MSR_DIO : 0));
        return v;
    }
}

static uint8_t fifo_read(struct fdc *f)
{
    uint8_t v;

    if (f->phase == P_RESULT) {
        v = f->res[f->nr_res++];
        if (f->nr_res == 1 && f->len_res == 7)
            set_irq(f, false);
        if (f->nr_res == f->len_res)
            to_command(f);
        return v;
    }
    if ((msr(f) & (MSR_RQM | MSR_DIO)) != (MSR_RQM | MSR_DIO)) {
        log_guest("fdc: data register read while it holds nothing");
        return 0;
    }
    v = f->buf[f->pos++];
    if (f->pos == f->len) {
        set_irq(f, false);
        after(f, T_STEP, SEEK_NS);
    }
    return v;
}

static void fifo_write(struct fdc *f, uint8_t v)
{
    const struct command *c;

    if ((msr(f) & (MSR_RQM | MSR_DIO)) != MSR_RQM) {
        log_guest("fdc: data register written while it takes nothing");
        return;
    }
    if (f->phase == P_EXECUTION) {
        f->buf[f->pos++] = v;
        if (f->pos == f->len) {
            set_irq(f, false);
            after(f, T_STEP, SEEK_NS);
        }
        return;
    }
    if (f->timer_for == T_RESET) { /* a guest that does not wait for the interrupt */
        clk_timer_cancel(&f->timer);
        timer_fired(f);
    }
    if (!f->nr_cmd)
        f->len_cmd = command_of(v)->len;
    f->cmd[f->nr_cmd++] = v;
    if (f->nr_cmd < f->len_cmd)
        return;
    c = command_of(f->cmd[0]);
    if (c == &invalid)
        log_guest("fdc: command %#x", f->cmd[0]);
    if (f->timer_for == T_SEEK_DONE && c->code != C_SENSE_INT) { /* the interrupt comes before the next command */
        clk_timer_cancel(&f->timer);
        timer_fired(f);
    }
    c->run(f);
}

static void dor_write(struct fdc *f, uint8_t v)
{
    uint8_t old = f->dor;

    f->dor = v;
    if (!(v & DOR_NRESET) && (old & DOR_NRESET))
        cancel(f);
    else if ((v & DOR_NRESET) && !(old & DOR_NRESET))
        reset_ends(f);
    set_irq(f, f->irq_on);
}

static uint64_t regs_read(void *opaque, gpa_t off, unsigned size)
{
    struct fdc *f = opaque;

    switch (off) {
    case DOR:
        return f->dor;
    case TDR:
        return f->tdr;
    case MSR:
        return msr(f);
    case FIFO:
        return fifo_read(f);
    default: /* the PS/2 status registers float in PC-AT mode */
        return 0xff;
    }
}

static void regs_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct fdc *f = opaque;
    uint8_t v = (uint8_t)val;

    switch (off) {
    case DOR:
        dor_write(f, v);
        break;
    case TDR:
        f->tdr = v & 3;
        break;
    case MSR: /* DSR */
        f->dsr = v & 0x7f;
        f->rate = v & DSR_RATE;
        if (v & DSR_RESET) {
            cancel(f);
            reset_ends(f);
        }
        break;
    case FIFO:
        fifo_write(f, v);
        break;
    default:
        break;
    }
}
static const struct mem_ops regs_ops = {.read = regs_read, .write = regs_write, .impl_max = 1};

static uint64_t dir_read(void *opaque, gpa_t off, unsigned size)
{
    struct fdc *f = opaque;
    struct floppy *d = unit_of(f, f->dor & DOR_SEL);

    return d && (d->changed || !d->g) && (f->dor >> (4 + (f->dor & DOR_SEL)) & 1) ? DIR_DSKCHG : 0;
}
static void ccr_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    ((struct fdc *)opaque)->rate = (uint8_t)val & DSR_RATE;
}
static const struct mem_ops dir_ops = {.read = dir_read, .write = ccr_write, .impl_max = 1};

/* ---- life ---- */

static char *floppy_fw_path(struct dev *d)
{
    return xasprintf("floppy@%x", container_of(d, struct floppy, dev)->unit);
}
static const struct bus_class floppy_bus_class = {.type = "floppy-bus", .fw_path = floppy_fw_path, .max_devs = UNITS};

static void fdc_reset(struct dev *d)
{
    struct fdc *f = fdc_of(d);

    cancel(f);
    f->dor = DOR_NRESET | DOR_DMAGATE;
    f->tdr = f->dsr = f->rate = f->config = f->precomp = f->perp = 0;
    f->lock = false;
    memset(f->specify, 0, sizeof f->specify);
    memset(f->track, 0, sizeof f->track);
    for (unsigned i = 0; i < UNITS; i++)
        if (f->unit[i])
            f->unit[i]->changed = true;
}

static bool fdc_realize(struct dev *d, struct err **errp)
{
    struct fdc *f = fdc_of(d);
    struct mem_sys *s = dev_machine(d)->mem_sys;

    if (f->iobase > 0xfff8 || f->irq > 15 || f->dma > 3)
        return err_set(errp, "isa-fdc: iobase %#x, irq %u or dma %u is out of range", f->iobase, f->irq, f->dma);
    f->line = isa_irq(d, f->irq);
    mem_region_init_io(&f->regs, s, &regs_ops, f, "fdc", 6);
    mem_region_init_io(&f->dir, s, &dir_ops, f, "fdc-dir", 1);
    dev_map_io(d, &f->regs, (uint16_t)f->iobase);
    dev_map_io(d, &f->dir, (uint16_t)(f->iobase + DIR));
    clk_timer_init(&f->timer, dev_vclk(d), timer_fired, f);
    bus_init(&f->bus, &floppy_bus_class, d, d->id ? NULL : "floppy-bus.0");
    f->state_hook = (struct machine_hook){.fn = state_changed, .opaque = f};
    machine_on_state(dev_machine(d), &f->state_hook);
    fdc_reset(d);
    return true;
}

static void fdc_unrealize(struct dev *d)
{
    struct fdc *f = fdc_of(d);

    for (unsigned i = 0; i < UNITS; i++)
        if (f->unit[i] && f->unit[i]->blk)
            blk_drain(f->unit[i]->blk);
    f->gen++;
    clk_timer_cancel(&f->timer); /* the wire may lead nowhere by now */
    bus_fini(&f->bus);
    machine_hook_del(&f->state_hook);
    mem_region_free(&f->regs);
    mem_region_free(&f->dir);
}

static bool fdc_pre_save(void *opaque, struct err **errp)
{
    struct fdc *f = opaque;

    return !f->io_busy || err_set(errp, "a floppy transfer has not ended");
}

static bool fdc_post_load(void *opaque, struct err **errp)
{
    struct fdc *f = opaque;

    f->gen++;
    f->io_busy = false;
    return f->phase <= P_RESULT && f->nr_cmd < CMD_MAX && f->len_cmd <= CMD_MAX && f->len_res <= RES_MAX &&
           (f->phase != P_RESULT || f->nr_res < f->len_res) && f->pos <= f->len && f->len <= SECTOR &&
           f->op <= X_FORMAT && f->sel < 4 && f->head < 2;
}

static const struct state_field fdc_fields[] = {
    STATE_BYTES(struct fdc, track),
    STATE_U8(struct fdc, dor),
    STATE_U8(struct fdc, tdr),
    STATE_U8(struct fdc, dsr),
    STATE_U8(struct fdc, rate),
    STATE_U8(struct fdc, precomp),
    STATE_U8(struct fdc, config),
    STATE_BYTES(struct fdc, specify),
    STATE_U8(struct fdc, perp),
    STATE_BOOL(struct fdc, lock),
    STATE_BOOL(struct fdc, irq_on),
    STATE_U8(struct fdc, phase),
    STATE_U8(struct fdc, busy_seeks),
    STATE_U8(struct fdc, polls),
    STATE_BYTES(struct fdc, seek_st0),
    STATE_BYTES(struct fdc, cmd),
    STATE_BYTES(struct fdc, res),
    STATE_U8(struct fdc, nr_cmd),
    STATE_U8(struct fdc, len_cmd),
    STATE_U8(struct fdc, nr_res),
    STATE_U8(struct fdc, len_res),
    STATE_U8(struct fdc, op),
    STATE_U8(struct fdc, sel),
    STATE_U8(struct fdc, head),
    STATE_U8(struct fdc, c),
    STATE_U8(struct fdc, h),
    STATE_U8(struct fdc, r),
    STATE_U8(struct fdc, eot),
    STATE_U8(struct fdc, left),
    STATE_U8(struct fdc, st0),
    STATE_U8(struct fdc, st1),
    STATE_U8(struct fdc, st2),
    STATE_U8(struct fdc, fill),
    STATE_BOOL(struct fdc, mt),
    STATE_BOOL(struct fdc, cm),
    STATE_BOOL(struct fdc, pio),
    STATE_BOOL(struct fdc, whole_track),
    STATE_BOOL(struct fdc, verify_count),
    STATE_BYTES(struct fdc, buf),
    STATE_U16(struct fdc, pos),
    STATE_U16(struct fdc, len),
    STATE_BOOL(struct fdc, tc),
    STATE_BOOL(struct fdc, redo),
    STATE_U8(struct fdc, timer_for),
    STATE_TIMER(struct fdc, timer),
    STATE_END,
};
static const struct state_desc fdc_state = {
    .name = "isa-fdc", .version = 1, .fields = fdc_fields, .pre_save = fdc_pre_save, .post_load = fdc_post_load};
static const struct prop fdc_props[] = {
    PROP("iobase", u32, struct fdc, iobase, .dflt = "1008"),
    PROP("irq", u32, struct fdc, irq, .dflt = "6"),
    PROP("dma", u32, struct fdc, dma, .dflt = "2"),
    PROP("check_media_rate", bool, struct fdc, check_rate, .dflt = "on"),
    PROP_END,
};
static const struct dev_class fdc_class = {.name = "isa-fdc",
                                           .parent = "isa-device",
                                           .desc = "floppy disk controller",
                                           .size = sizeof(struct fdc),
                                           .props = fdc_props,
                                           .bus_type = "ISA",
                                           .category = DEV_CAT_STORAGE,
                                           .realize = fdc_realize,
                                           .unrealize = fdc_unrealize,
                                           .reset = fdc_reset,
                                           .state_desc = &fdc_state};
DEV_REGISTER(fdc_class)

/* ---- the drive ---- */

static bool floppy_realize(struct dev *dev, struct err **errp)
{
    struct floppy *d = container_of(dev, struct floppy, dev);
    struct fdc *f = container_of(dev->bus, struct fdc, bus);

    if (d->unit == UINT32_MAX)
        d->unit = f->unit[0] ? 1 : 0;
    if (d->unit >= UNITS)
        return err_set(errp, "floppy: unit %u does not exist: a controller has units 0 and 1", d->unit);
    if (f->unit[d->unit])
        return err_set(errp, "floppy: unit %u is taken", d->unit);
    if (d->type && strcmp(d->type, "144") && strcmp(d->type, "288") && strcmp(d->type, "120") &&
        strcmp(d->type, "auto"))
        return err_set(errp, "floppy: drive-type '%s' is not one of 144, 288, 120, auto", d->type);
    if (d->blk && !blk_set_share_rw(d->blk, d->share_rw, errp))
        return false;
    d->f = f;
    f->unit[d->unit] = d;
    look_at_medium(d);
    if (d->blk)
        blk_set_dev_ops(d->blk, &floppy_ops, d);
    return true;
}

static void floppy_unrealize(struct dev *dev)
{
    struct floppy *d = container_of(dev, struct floppy, dev);

    if (d->blk) {
        blk_drain(d->blk);
        blk_set_dev_ops(d->blk, NULL, NULL);
    }
    d->f->unit[d->unit] = NULL;
}

static bool floppy_loaded(void *opaque, struct err **errp)
{
    look_at_medium(opaque);
    return true;
}
static const struct state_field floppy_fields[] = {STATE_BOOL(struct floppy, changed), STATE_U8(struct floppy, next_id),
                                                   STATE_END};
static const struct state_desc floppy_state = {
    .name = "floppy", .version = 1, .fields = floppy_fields, .post_load = floppy_loaded};
static const struct prop floppy_props[] = {
    PROP_BLK("drive", struct floppy, blk),
    PROP("unit", u32, struct floppy, unit, .dflt = "4294967295"),
    PROP("drive-type", str, struct floppy, type),
    PROP("bootindex", i32, struct floppy, bootindex, .dflt = "-1"),
    PROP("share-rw", bool, struct floppy, share_rw, .dflt = "off"),
    PROP_END,
};
static const struct dev_class floppy_class = {.name = "floppy",
                                              .parent = "device",
                                              .desc = "floppy drive",
                                              .size = sizeof(struct floppy),
                                              .props = floppy_props,
                                              .bus_type = "floppy-bus",
                                              .category = DEV_CAT_STORAGE,
                                              .realize = floppy_realize,
                                              .unrealize = floppy_unrealize,
                                              .state_desc = &floppy_state};
DEV_REGISTER(floppy_class)
