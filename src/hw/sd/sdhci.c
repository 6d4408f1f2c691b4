/* SD host controller on PCI, one slot. Source: SD Specifications Part A2, SD Host Controller Simplified, version 2.00;
 * section 2.2 for the registers, whose names are used below.
 *
 * Registers lie in an array as the guest sees them; a byte that does something when it is written is handled after it
 * is stored. Data moves by SDMA in pieces that end at the buffer boundary, or by single blocks through the data port.
 * Each piece is one request to the card with memory of its own: a reset lets go of it (gen) and never waits for it.
 *
 * Left out: ADMA, high speed beyond the bit, suspend and resume, wake-up, Auto CMD23, more slots. CAPAB says so. */
#include "base/bytes.h"
#include "hw/pci/pci.h"
#include "hw/sd/sd.h"
#include <errno.h>

enum {
    SDMASYSAD = 0x00,
    BLKSIZE = 0x04,
    BLKCNT = 0x06,
    ARGUMENT = 0x08,
    TRNMOD = 0x0c,
    CMDREG = 0x0e,
    RSPREG = 0x10,
    BDATA = 0x20,
    PRNSTS = 0x24,
    HOSTCTL = 0x28,
    PWRCON = 0x29,
    CLKCON = 0x2c,
    SWRST = 0x2f,
    NORINTSTS = 0x30,
    ERRINTSTS = 0x32,
    NORINTSTSEN = 0x34,
    ERRINTSTSEN = 0x36,
    NORINTSIGEN = 0x38,
    ERRINTSIGEN = 0x3a,
    CAPAB = 0x40,
    HCVER = 0xfe,
    NR_REGS = 0x100
};
enum { TRN_DMA = 1, TRN_BLKCNT_EN = 2, TRN_AUTO12 = 4, TRN_READ = 0x10, TRN_MULTI = 0x20 };
enum { CMD_RSP = 3, CMD_RSP_LONG = 1, CMD_RSP_BUSY = 3, CMD_DATA = 0x20 };
enum { PRN_DAT_INHIBIT = 2, PRN_DAT_ACTIVE = 4, PRN_WRITING = 0x100, PRN_READING = 0x200 };
enum {
    PRN_WRITE_READY = 0x400,
    PRN_READ_READY = 0x800,
    PRN_CARD = 0x70000,
    PRN_WRITABLE = 0x80000,
    PRN_LINES = 0x1f00000
};
enum { NOR_CMD = 1, NOR_TRANSFER = 2, NOR_DMA = 8, NOR_WRITE_READY = 0x10, NOR_READ_READY = 0x20, NOR_ERROR = 0x8000 };
enum { ERR_CMD_TIMEOUT = 1, ERR_DATA_TIMEOUT = 0x10 };
enum { RST_ALL = 1, RST_CMD = 2, RST_DAT = 4 };
/* 3.3 V, SDMA, high speed, blocks of up to 512 bytes, 50 MHz. */
enum { CAPABILITIES = 1 << 24 | 1 << 22 | 1 << 21 | 50 << 8 | 0x80 | 50 };
enum { CHUNK = 64 << 10, MMIO_SIZE = 0x100, MAX_PIECES = 64 };

struct sdhci {
    struct pci_dev pci; /* first */
    struct mem_region mmio;
    struct sd_bus bus;
    uint8_t r[NR_REGS];
    uint8_t fifo[SD_BLOCK];
    uint32_t fifo_at, block; /* bytes taken from or put into fifo; bytes of a block */
    bool fifo_ready;         /* the guest may move the block */
    bool active, reading, dma_paused, wait_idle;
    uint64_t left;   /* bytes of the transfer */
    uint32_t gen;    /* of the transfer: pieces of an earlier one are dropped */
    unsigned pieces; /* under way, those of earlier transfers included */
};
struct piece {
    struct sdhci *h;
    uint32_t gen, len;
    uint8_t buf[];
};

/* ---- interrupts ---- */

static void update_irq(struct sdhci *h)
{
    pci_set_intx(&h->pci, (get_le16(h->r + NORINTSTS) & get_le16(h->r + NORINTSIGEN)) ||
                              (get_le16(h->r + ERRINTSTS) & get_le16(h->r + ERRINTSIGEN)));
}

static void raise_int(struct sdhci *h, unsigned nor, unsigned err)
{
    put_le16(h->r + NORINTSTS, get_le16(h->r + NORINTSTS) | (nor & get_le16(h->r + NORINTSTSEN)));
    put_le16(h->r + ERRINTSTS, get_le16(h->r + ERRINTSTS) | (err & get_le16(h->r + ERRINTSTSEN)));
    update_irq(h);
}

/* ---- data ---- */

static void dma_step(struct sdhci *h);
static void pio_step(struct sdhci *h);

static void stop_data(struct sdhci *h)
{
    h->gen++;
    h->active = h->fifo_ready = h->dma_paused = h->wait_idle = false;
    h->fifo_at = 0;
    h->left = 0;
}

static void transfer_over(struct sdhci *h)
{
    stop_data(h);
    raise_int(h, NOR_TRANSFER, 0);
}

/* Ends now, or when the card has stopped being busy. */
static void over_when_idle(struct sdhci *h)
{
    if (h->bus.card && h->bus.card->busy)
        h->wait_idle = true;
    else
        transfer_over(h);
}

static void card_idle(void *opaque)
{
    struct sdhci *h = opaque;

    if (h->wait_idle)
        transfer_over(h);
}

static void data_end(struct sdhci *h)
{
    uint8_t resp[SD_LONG];

    if (h->bus.card && h->r[TRNMOD] & TRN_AUTO12 && h->r[TRNMOD] & TRN_MULTI) {
        sd_command(h->bus.card, 12, 0, resp);
        memcpy(h->r + RSPREG + 12, (uint8_t[]){resp[3], resp[2], resp[1], resp[0]}, 4);
    } else if (h->bus.card) {
        sd_data_end(h->bus.card);
    }
    over_when_idle(h);
}

static void data_failed(struct sdhci *h)
{
    stop_data(h);
    raise_int(h, 0, ERR_DATA_TIMEOUT);
}

static void moved(struct sdhci *h, uint32_t n)
{
    h->left -= n;
    if (h->r[TRNMOD] & TRN_MULTI && h->r[TRNMOD] & TRN_BLKCNT_EN)
        put_le16(h->r + BLKCNT, (uint16_t)((h->left + h->block - 1) / h->block));
}

static uint32_t boundary(const struct sdhci *h)
{
    return 4096u << (h->r[BLKSIZE + 1] >> 4 & 7);
}

static void dma_done(void *opaque, int ret)
{
    struct piece *p = opaque;
    struct sdhci *h = p->h;
    uint32_t at = get_le32(h->r + SDMASYSAD);

    h->pieces--;
    if (p->gen != h->gen) {
        free(p);
        return;
    }
    if (ret >= 0 && h->reading)
        pci_dma_write(&h->pci, at, p->buf, p->len);
    if (ret >= 0) {
        put_le32(h->r + SDMASYSAD, at + p->len);
        moved(h, p->len);
    }
    at += p->len;
    free(p);
    if (ret < 0) {
        data_failed(h);
    } else if (!h->left) {
        data_end(h);
    } else if (at % boundary(h) == 0) {
        h->dma_paused = true;
        raise_int(h, NOR_DMA, 0);
    } else {
        dma_step(h);
    }
}

static struct piece *piece_new(struct sdhci *h, uint32_t len)
{
    struct piece *p = xmalloc(sizeof *p + len);

    h->pieces++;
    p->h = h;
    p->gen = h->gen;
    p->len = len;
    return p;
}

static void dma_step(struct sdhci *h)
{
    uint32_t at = get_le32(h->r + SDMASYSAD), room = boundary(h) - at % boundary(h);
    struct piece *p = piece_new(h, (uint32_t)min_u64(min_u64(h->left, room), CHUNK));

    if (h->reading) {
        sd_read(h->bus.card, p->buf, p->len, dma_done, p);
        return;
    }
    if (pci_dma_read(&h->pci, at, p->buf, p->len) != MEM_OK)
        memset(p->buf, 0xff, p->len);
    sd_write(h->bus.card, p->buf, p->len, dma_done, p);
}

static void fifo_open(struct sdhci *h)
{
    h->fifo_at = 0;
    h->fifo_ready = true;
    raise_int(h, h->reading ? NOR_READ_READY : NOR_WRITE_READY, 0);
}

static void pio_done(void *opaque, int ret)
{
    struct piece *p = opaque;
    struct sdhci *h = p->h;
    bool mine = p->gen == h->gen;

    h->pieces--;
    if (mine && ret >= 0 && h->reading)
        memcpy(h->fifo, p->buf, p->len);
    free(p);
    if (!mine)
        return;
    if (ret < 0) {
        data_failed(h);
    } else if (h->reading) {
        fifo_open(h);
    } else {
        moved(h, h->block);
        pio_step(h);
    }
}

/* The next block: fetched for reading, asked for when writing. */
static void pio_step(struct sdhci *h)
{
    if (!h->left) {
        data_end(h);
    } else if (h->reading) {
        struct piece *p = piece_new(h, h->block);

        sd_read(h->bus.card, p->buf, p->len, pio_done, p);
    } else {
        fifo_open(h);
    }
}

static uint8_t bdata_read(struct sdhci *h)
{
    uint8_t v;

    if (!h->active || !h->fifo_ready || !h->reading)
        return 0;
    v = h->fifo[h->fifo_at++];
    if (h->fifo_at == h->block) {
        h->fifo_ready = false;
        moved(h, h->block);
        pio_step(h);
    }
    return v;
}

static void bdata_write(struct sdhci *h, uint8_t v)
{
    struct piece *p;

    if (!h->active || !h->fifo_ready || h->reading)
        return;
    h->fifo[h->fifo_at++] = v;
    if (h->fifo_at < h->block)
        return;
    h->fifo_ready = false;
    p = piece_new(h, h->block);
    memcpy(p->buf, h->fifo, h->block);
    sd_write(h->bus.card, p->buf, p->len, pio_done, p);
}

static void start_data(struct sdhci *h)
{
    unsigned mode = h->r[TRNMOD];
    uint64_t blocks = !(mode & TRN_MULTI) ? 1 : mode & TRN_BLKCNT_EN ? get_le16(h->r + BLKCNT) : UINT32_MAX;

    stop_data(h);
    h->block = get_le16(h->r + BLKSIZE) & 0xfff;
    h->reading = mode & TRN_READ;
    if (!h->block || h->block > SD_BLOCK || !blocks || h->pieces >= MAX_PIECES ||
        h->bus.card->dir != (h->reading ? SD_FROM_CARD : SD_TO_CARD)) {
        raise_int(h, 0, ERR_DATA_TIMEOUT);
        return;
    }
    h->left = h->block * blocks;
    h->active = true;
    if (mode & TRN_DMA)
        dma_step(h);
    else
        pio_step(h);
}

/* ---- commands ---- */

/* Table 2-12: where the bits of an answer go. */
static void store_response(struct sdhci *h, const uint8_t *resp, unsigned n)
{
    if (n == SD_SHORT)
        for (unsigned i = 0; i < 4; i++)
            h->r[RSPREG + i] = resp[3 - i];
    else
        for (unsigned i = 0; i < 15; i++)
            h->r[RSPREG + i] = resp[14 - i];
}

static void issue(struct sdhci *h)
{
    unsigned cmd = get_le16(h->r + CMDREG), kind = cmd & CMD_RSP, n = 0;
    uint8_t resp[SD_LONG];

    if (cmd >> 8 == 12)
        stop_data(h);
    else if ((h->active || h->wait_idle) && (cmd & CMD_DATA || kind == CMD_RSP_BUSY))
        return; /* Command Inhibit (DAT) is set */
    if (h->bus.card)
        n = sd_command(h->bus.card, cmd >> 8 & 63, get_le32(h->r + ARGUMENT), resp);
    if (kind && n != (kind == CMD_RSP_LONG ? (unsigned)SD_LONG : (unsigned)SD_SHORT)) {
        raise_int(h, 0, ERR_CMD_TIMEOUT);
        return;
    }
    if (n)
        store_response(h, resp, n);
    raise_int(h, NOR_CMD, 0);
    if (cmd & CMD_DATA && h->bus.card)
        start_data(h);
    else if (kind == CMD_RSP_BUSY)
        over_when_idle(h);
}

/* ---- registers ---- */

static void soft_reset(struct sdhci *h, unsigned what)
{
    if (what & (RST_ALL | RST_DAT))
        stop_data(h);
    if (what & RST_ALL)
        memset(h->r, 0, sizeof h->r);
    put_le32(h->r + CAPAB, CAPABILITIES);
    h->r[HCVER] = 1;
    if (what & RST_DAT)
        put_le16(h->r + NORINTSTS,
                 get_le16(h->r + NORINTSTS) & ~(NOR_TRANSFER | NOR_DMA | NOR_WRITE_READY | NOR_READ_READY));
    if (what & RST_CMD)
        put_le16(h->r + NORINTSTS, get_le16(h->r + NORINTSTS) & ~NOR_CMD);
    update_irq(h);
}

static uint32_t present_state(const struct sdhci *h)
{
    bool busy = h->active || h->wait_idle;
    uint32_t v = PRN_LINES;

    if (h->bus.card)
        v |= PRN_CARD | (sd_readonly(h->bus.card) ? 0 : PRN_WRITABLE);
    if (busy)
        v |= PRN_DAT_INHIBIT | PRN_DAT_ACTIVE;
    if (h->active)
        v |= h->reading ? PRN_READING : PRN_WRITING;
    if (h->fifo_ready)
        v |= h->reading ? PRN_READ_READY : PRN_WRITE_READY;
    return v;
}

static uint8_t reg_read(struct sdhci *h, unsigned off)
{
    if (off >= BDATA && off < PRNSTS)
        return bdata_read(h);
    if (off >= PRNSTS && off < HOSTCTL)
        return (uint8_t)(present_state(h) >> 8 * (off - PRNSTS));
    if (off == NORINTSTS + 1)
        return h->r[off] | (get_le16(h->r + ERRINTSTS) ? NOR_ERROR >> 8 : 0);
    return h->r[off];
}

/* Which bits the guest may set; what is not listed is read-only. */
static const uint8_t writable[NR_REGS] = {
    [SDMASYSAD] = 0xff,
    0xff,
    0xff,
    0xff,
    [BLKSIZE] = 0xff,
    0x7f,
    [BLKCNT] = 0xff,
    0xff,
    [ARGUMENT] = 0xff,
    0xff,
    0xff,
    0xff,
    [TRNMOD] = 0x37,
    0,
    [CMDREG] = 0xfb,
    0x3f,
    [HOSTCTL] = 0x07,
    [PWRCON] = 0x0f,
    0x0f,
    0x07,
    [CLKCON] = 0x05,
    0xff,
    0x0f,
    [NORINTSTSEN] = 0xff,
    0x01,
    0xff,
    0x01,
    0xff,
    0x01,
    0xff,
    0x01,
};

static void reg_write(struct sdhci *h, unsigned off, uint8_t v)
{
    if (off >= BDATA && off < PRNSTS) {
        bdata_write(h, v);
        return;
    }
    if (off >= NORINTSTS && off < NORINTSTSEN)
        h->r[off] &= ~v;
    else
        h->r[off] = (h->r[off] & ~writable[off]) | (v & writable[off]);
    switch (off) {
    case SDMASYSAD + 3:
        if (h->active && h->dma_paused) {
            h->dma_paused = false;
            dma_step(h);
        }
        break;
    case CMDREG + 1:
        issue(h);
        break;
    case CLKCON: /* the internal clock is stable at once */
        h->r[off] |= h->r[off] << 1 & 2;
        h->r[off] &= h->r[off] & 1 ? 0xff : ~2;
        break;
    case SWRST:
        if (v & RST_ALL && h->bus.card)
            sd_power_cycle(h->bus.card);
        soft_reset(h, v & 7);
        break;
    default:
        update_irq(h);
        break;
    }
}

static uint64_t mmio_read(void *opaque, gpa_t off, unsigned size)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)reg_read(opaque, (unsigned)off + i) << 8 * i;
    return v;
}

static void mmio_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        reg_write(opaque, (unsigned)off + i, (uint8_t)(val >> 8 * i));
}
static const struct mem_ops mmio_ops = {.read = mmio_read, .write = mmio_write, .impl_min = 1, .impl_max = 4};

/* ---- life ---- */

static bool sdhci_realize(struct dev *d, struct err **errp)
{
    struct sdhci *h = container_of(d, struct sdhci, pci.dev);

    pci_set_pin(&h->pci, 1);
    mem_region_init_io(&h->mmio, dev_machine(d)->mem_sys, &mmio_ops, h, "sdhci", MMIO_SIZE);
    pci_add_bar(&h->pci, 0, PCI_BAR_MEM, &h->mmio);
    h->bus.idle = card_idle;
    h->bus.opaque = h;
    sd_bus_init(&h->bus, d);
    soft_reset(h, RST_ALL);
    return true;
}

static void sdhci_unrealize(struct dev *d)
{
    struct sdhci *h = container_of(d, struct sdhci, pci.dev);

    sd_bus_fini(&h->bus);
    mem_region_free(&h->mmio);
}

static void sdhci_reset(struct dev *d)
{
    soft_reset(container_of(d, struct sdhci, pci.dev), RST_ALL);
}

static const struct state_field sdhci_fields[] = {
    STATE_STRUCT(struct sdhci, pci, pci_dev_state),
    STATE_BYTES(struct sdhci, r),
    STATE_BYTES(struct sdhci, fifo),
    STATE_U32(struct sdhci, fifo_at),
    STATE_U32(struct sdhci, block),
    STATE_BOOL(struct sdhci, fifo_ready),
    STATE_BOOL(struct sdhci, active),
    STATE_BOOL(struct sdhci, reading),
    STATE_BOOL(struct sdhci, dma_paused),
    STATE_U64(struct sdhci, left),
    STATE_END,
};
static bool sdhci_loaded(void *obj, struct err **errp)
{
    struct sdhci *h = obj;

    h->wait_idle = false;
    return (h->block <= SD_BLOCK && h->fifo_at <= h->block && (!h->active || (h->block && h->bus.card)) &&
            (!h->fifo_ready || h->fifo_at < h->block)) ||
           err_set(errp, "sdhci-pci: the saved state is damaged");
}
static const struct state_desc sdhci_state = {
    .name = "sdhci-pci", .version = 1, .fields = sdhci_fields, .post_load = sdhci_loaded};
static const struct pci_class sdhci_class = {.name = "sdhci-pci",
                                             .parent = "pci-device",
                                             .desc = "SD host controller, one slot",
                                             .size = sizeof(struct sdhci),
                                             .more_props = pci_props,
                                             .bus_type = "PCI",
                                             .category = DEV_CAT_STORAGE,
                                             .realize = sdhci_realize,
                                             .unrealize = sdhci_unrealize,
                                             .reset = sdhci_reset,
                                             .state_desc = &sdhci_state,
                                             .vendor_id = 0x1b36,
                                             .device_id = 0x0007,
                                             .class_id = 0x0805,
                                             .prog_if = 1};
PCI_REGISTER(sdhci_class)
