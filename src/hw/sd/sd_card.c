/* SD memory card of high capacity (SDHC, SDXC), version 2.00. See sd.h.
 *
 * Sections of the Physical Layer Simplified Specification are named at the code. A host that has written has no command
 * to flush with: the card does so itself before it stops being busy. Left out: standard-capacity cards (every card
 * answers as one of high capacity, whatever its size), CMD6 and high speed, CMD23, lock and password, SPI, SDIO,
 * write protection of groups, unplugging while the machine runs. */
#include "base/bytes.h"
#include "base/iov.h"
#include "hw/sd/sd.h"
#include <errno.h>

enum { IDLE, READY, IDENT, STBY, TRAN, DATA, RCV, PRG, DIS, INACTIVE }; /* table 4-1, as CURRENT_STATE */
#define IN(s) (1u << (s))
/* Card status, table 4-42. */
enum {
    ST_OUT_OF_RANGE = 1u << 31,
    ST_BLOCK_LEN = 1u << 29,
    ST_ERASE_SEQ = 1u << 28,
    ST_ERASE_PARAM = 1u << 27,
    ST_WP_VIOLATION = 1u << 26,
    ST_ILLEGAL = 1u << 22,
    ST_ERROR = 1u << 19,
    ST_READY = 1u << 8,
    ST_APP_CMD = 1u << 5,
};
enum { OCR_WINDOW = 0x00ff8000, OCR_CCS = 1u << 30, OCR_POWERED = 1u << 31, FIRST_RCA = 0x4567 };
enum { CAPACITY_UNIT = 512 << 10 };

static struct sd_bus *bus_of(const struct sd_card *c)
{
    return container_of(c->dev.bus, struct sd_bus, bus);
}

bool sd_readonly(const struct sd_card *c)
{
    return blk_readonly(c->blk);
}

void sd_power_cycle(struct sd_card *c)
{
    c->ocr = OCR_WINDOW;
    c->rca = c->errors = 0;
    c->state = IDLE;
    c->app_cmd = c->single = c->from_reg = c->erase_ok = false;
    c->dir = SD_NO_DATA;
    c->left = c->off = c->written = 0;
}

/* ---- busy ---- */

static void idle(void *opaque, int ret)
{
    struct sd_card *c = opaque;

    c->busy = false;
    if (ret < 0)
        c->errors |= ST_ERROR;
    if (c->state == PRG)
        c->state = TRAN;
    if (bus_of(c)->idle)
        bus_of(c)->idle(bus_of(c)->opaque);
}

static void end_transfer(struct sd_card *c)
{
    c->dir = SD_NO_DATA;
    c->left = 0;
    c->state = TRAN;
    if (!c->dirty || c->busy)
        return;
    c->dirty = false;
    c->busy = true;
    c->state = PRG;
    blk_aio_flush(c->blk, idle, c);
}

void sd_data_end(struct sd_card *c)
{
    if (c->dir != SD_NO_DATA && c->single)
        end_transfer(c);
}

/* ---- answers ---- */

static unsigned r1(struct sd_card *c, unsigned state, uint8_t *resp)
{
    put_be32(resp, c->errors | state << 9 | ST_READY | (c->app_cmd ? ST_APP_CMD : 0));
    c->errors = 0;
    return SD_SHORT;
}

static unsigned illegal(struct sd_card *c)
{
    c->errors |= ST_ILLEGAL;
    return 0;
}

/* 5.2 */
static unsigned cid(uint8_t *r)
{
    static const uint8_t id[SD_LONG] = {0xaa, 'L', 'Y', 'R', 'E', 'B', 'S', 'D', 0x01, 0, 0, 0, 1, 0x01, 0x81};

    memcpy(r, id, SD_LONG);
    return SD_LONG;
}

/* 5.3.3: version 2.0, 25 MHz; classes 0 2 4 5 8; 512-byte blocks. */
static unsigned csd(const struct sd_card *c, uint8_t *r)
{
    static const uint8_t fixed[SD_LONG] = {0x40, 0x0e, 0, 0x32, 0x13, 0x59, 0, 0, 0, 0, 0x7f, 0x80, 0x0a, 0x40, 0};
    uint32_t size = (uint32_t)(blk_size(c->blk) / CAPACITY_UNIT - 1);

    memcpy(r, fixed, SD_LONG);
    r[7] = size >> 16 & 0x3f;
    put_be16(r + 8, (uint16_t)size);
    r[14] = sd_readonly(c) ? 0x10 : 0; /* TMP_WRITE_PROTECT */
    return SD_LONG;
}

static void give_register(struct sd_card *c, unsigned len)
{
    c->state = DATA;
    c->dir = SD_FROM_CARD;
    c->from_reg = c->single = true;
    c->off = 0;
    c->left = len;
}

/* ---- commands ---- */

static unsigned transfer(struct sd_card *c, uint32_t block, bool write, bool single, uint8_t *resp)
{
    uint64_t off = (uint64_t)block * SD_BLOCK, size = blk_size(c->blk);

    if (off >= size)
        c->errors |= ST_OUT_OF_RANGE;
    else if (write && sd_readonly(c))
        c->errors |= ST_WP_VIOLATION;
    if (c->errors & (ST_OUT_OF_RANGE | ST_WP_VIOLATION))
        return r1(c, TRAN, resp);
    c->state = write ? RCV : DATA;
    c->dir = write ? SD_TO_CARD : SD_FROM_CARD;
    c->off = off;
    c->left = single ? SD_BLOCK : size - off;
    c->single = single;
    c->from_reg = false;
    if (write)
        c->written = 0;
    return r1(c, TRAN, resp);
}

/* 4.3.5 */
static unsigned erase(struct sd_card *c, uint8_t *resp)
{
    uint64_t from = (uint64_t)c->erase_from * SD_BLOCK, end = ((uint64_t)c->erase_to + 1) * SD_BLOCK;

    if (!c->erase_ok)
        c->errors |= ST_ERASE_SEQ;
    else if (from >= end || end > blk_size(c->blk))
        c->errors |= ST_ERASE_PARAM;
    else if (sd_readonly(c))
        c->errors |= ST_WP_VIOLATION;
    c->erase_ok = false;
    if (c->errors & (ST_ERASE_SEQ | ST_ERASE_PARAM | ST_WP_VIOLATION))
        return r1(c, TRAN, resp);
    c->busy = true;
    c->state = PRG;
    blk_aio_zero(c->blk, from, end - from, BLK_MAY_UNMAP, idle, c);
    return r1(c, TRAN, resp);
}

/* The rest of a stopped transfer is not waited for: a piece on its way ends by itself. */
static unsigned stop(struct sd_card *c, uint8_t *resp)
{
    unsigned was = c->state;

    end_transfer(c);
    return r1(c, was, resp);
}

static unsigned publish_rca(struct sd_card *c, uint8_t *resp)
{
    uint32_t e = c->errors;

    c->rca = c->rca ? (c->rca + 1) & 0xffff : FIRST_RCA;
    if (!c->rca)
        c->rca = 1;
    put_be16(resp, (uint16_t)c->rca);
    put_be16(resp + 2, (uint16_t)((e >> 8 & 0xc000) | (e >> 6 & 0x2000) | (unsigned)c->state << 9 | ST_READY));
    c->errors = 0;
    c->state = STBY;
    return SD_SHORT;
}

static unsigned select_card(struct sd_card *c, bool me, uint8_t *resp)
{
    unsigned was = c->state;

    if (!me) {
        if (IN(was) & (IN(TRAN) | IN(DATA))) {
            c->state = STBY;
            c->dir = SD_NO_DATA;
        }
        return 0;
    }
    if (was != STBY)
        return illegal(c);
    c->state = TRAN;
    return r1(c, was, resp);
}

/* Commands of the identification, and those that go to one card wherever it is. -1: none of them. */
static int common_command(struct sd_card *c, unsigned cmd, uint32_t arg, uint8_t *resp)
{
    bool me = arg >> 16 == c->rca;

    switch (cmd) {
    case 0:
        sd_power_cycle(c);
        return 0;
    case 2:
        if (c->state != READY)
            return (int)illegal(c);
        c->state = IDENT;
        return (int)cid(resp);
    case 3:
        return (int)(IN(c->state) & (IN(IDENT) | IN(STBY)) ? publish_rca(c, resp) : illegal(c));
    case 7:
        return (int)select_card(c, me && c->rca, resp);
    case 8:
        if (c->state != IDLE || (arg >> 8 & 15) != 1)
            return 0;
        put_be32(resp, arg & 0xfff);
        return SD_SHORT;
    case 9:
    case 10:
        if (c->state != STBY || !me)
            return me ? (int)illegal(c) : 0;
        return (int)(cmd == 9 ? csd(c, resp) : cid(resp));
    case 13:
        return me && c->state >= STBY ? (int)r1(c, c->state, resp) : 0;
    case 15:
        if (me && c->state >= STBY)
            c->state = INACTIVE;
        return 0;
    case 55:
        if (!me)
            return 0;
        c->app_cmd = true;
        return (int)r1(c, c->state, resp);
    default:
        return -1;
    }
}

static unsigned tran_command(struct sd_card *c, unsigned cmd, uint32_t arg, uint8_t *resp)
{
    if (c->state != TRAN)
        return illegal(c);
    switch (cmd) {
    case 16:
        if (arg > SD_BLOCK)
            c->errors |= ST_BLOCK_LEN;
        return r1(c, TRAN, resp);
    case 17:
    case 18:
        return transfer(c, arg, false, cmd == 17, resp);
    case 24:
    case 25:
        return transfer(c, arg, true, cmd == 24, resp);
    case 32:
        c->erase_from = arg;
        c->erase_ok = false;
        return r1(c, TRAN, resp);
    case 33:
        c->erase_to = arg;
        c->erase_ok = true;
        return r1(c, TRAN, resp);
    case 38:
        return erase(c, resp);
    default:
        return illegal(c);
    }
}

/* 4.2.3: voltage and capacity. A host that does not know of high capacity is never told that the card is ready. */
static unsigned op_cond(struct sd_card *c, uint32_t arg, uint8_t *resp)
{
    if (c->state != IDLE)
        return illegal(c);
    if (arg & OCR_WINDOW && arg & OCR_CCS) {
        c->ocr |= OCR_POWERED | OCR_CCS;
        c->state = READY;
    }
    put_be32(resp, c->ocr);
    return SD_SHORT;
}

/* -1: no application command, the ordinary one of this number is meant (4.3.9.1). */
static int app_command(struct sd_card *c, unsigned cmd, uint32_t arg, uint8_t *resp)
{
    if (cmd == 41)
        return (int)op_cond(c, arg, resp);
    if (cmd != 6 && cmd != 13 && cmd != 22 && cmd != 23 && cmd != 42 && cmd != 51)
        return -1;
    if (c->state != TRAN)
        return (int)illegal(c);
    c->app_cmd = true; /* as the answer says */
    memset(c->reg, 0, sizeof c->reg);
    r1(c, TRAN, resp);
    c->app_cmd = false;
    if (cmd == 13) { /* SD status, 4.10.2 */
        give_register(c, 64);
    } else if (cmd == 22) {
        put_be32(c->reg, (uint32_t)(c->written / SD_BLOCK));
        give_register(c, 4);
    } else if (cmd == 51) { /* SCR, 5.6: version 2.00, one and four lines */
        c->reg[0] = 2;
        c->reg[1] = 5;
        give_register(c, 8);
    }
    return SD_SHORT;
}

unsigned sd_command(struct sd_card *c, unsigned cmd, uint32_t arg, uint8_t resp[SD_LONG])
{
    bool app = c->app_cmd;
    int n = -1;

    memset(resp, 0, SD_LONG);
    if (c->state == INACTIVE || (c->busy && cmd != 0 && cmd != 13))
        return 0;
    c->app_cmd = false;
    if (app)
        n = app_command(c, cmd, arg, resp);
    if (n < 0)
        n = common_command(c, cmd, arg, resp);
    if (n < 0 && cmd == 12)
        n = (int)(IN(c->state) & (IN(DATA) | IN(RCV)) ? stop(c, resp) : illegal(c));
    return n < 0 ? tran_command(c, cmd, arg, resp) : (unsigned)n;
}

/* ---- data ---- */

static bool take(struct sd_card *c, enum sd_dir dir, uint32_t len, uint64_t *off)
{
    if (c->dir != dir || len > c->left) {
        if (c->dir == dir && !c->single)
            c->errors |= ST_OUT_OF_RANGE;
        return false;
    }
    *off = c->off;
    c->off += len;
    c->left -= len;
    return true;
}

void sd_read(struct sd_card *c, uint8_t *buf, uint32_t len, blk_done_fn *done, void *opaque)
{
    struct iovec v = {buf, len};
    struct iov q;
    uint64_t off;

    if (!take(c, SD_FROM_CARD, len, &off)) {
        done(opaque, -ETIMEDOUT);
        return;
    }
    if (c->from_reg) {
        memcpy(buf, c->reg + off, len);
        done(opaque, 0);
        return;
    }
    iov_init_ext(&q, &v, 1);
    blk_aio_read(c->blk, off, &q, 0, done, opaque);
}

void sd_write(struct sd_card *c, const uint8_t *buf, uint32_t len, blk_done_fn *done, void *opaque)
{
    struct iovec v = {(void *)(uintptr_t)buf, len};
    struct iov q;
    uint64_t off;

    if (!take(c, SD_TO_CARD, len, &off)) {
        done(opaque, -ETIMEDOUT);
        return;
    }
    c->dirty = true;
    c->written += len;
    iov_init_ext(&q, &v, 1);
    blk_aio_write(c->blk, off, &q, 0, done, opaque);
}

/* ---- bus and life ---- */

static bool plug(struct bus *b, struct dev *d, struct err **errp)
{
    return container_of(b, struct sd_bus, bus)->card == NULL || err_set(errp, "the slot '%s' holds a card", b->name);
}

static bool plugged(struct bus *b, struct dev *d, struct err **errp)
{
    container_of(b, struct sd_bus, bus)->card = container_of(d, struct sd_card, dev);
    return true;
}

static void unplug(struct bus *b, struct dev *d)
{
    struct sd_bus *s = container_of(b, struct sd_bus, bus);

    if (s->card == container_of(d, struct sd_card, dev))
        s->card = NULL;
}
static const struct bus_class sd_bus_class = {
    .type = "sd-bus", .plug = plug, .plugged = plugged, .unplug = unplug, .max_devs = 1};

void sd_bus_init(struct sd_bus *b, struct dev *owner)
{
    bus_init(&b->bus, &sd_bus_class, owner, owner->id ? NULL : "sd-bus");
}

void sd_bus_fini(struct sd_bus *b)
{
    bus_fini(&b->bus);
}

static bool card_realize(struct dev *d, struct err **errp)
{
    struct sd_card *c = container_of(d, struct sd_card, dev);
    uint64_t size;

    if (!c->blk)
        return err_set(errp, "sd-card: the drive property is not set; give drive=ID of a -drive or -blockdev");
    size = blk_size(c->blk);
    if (!size || size % CAPACITY_UNIT || size / CAPACITY_UNIT > 1 << 22) {
        err_set(errp, "Invalid SD card size: %" PRIu64 " bytes", size);
        err_hint(errp, "SD card size has to be a multiple of 512 KiB of at most 2 TiB, e.g. with 'qemu-img resize'.");
        return false;
    }
    sd_power_cycle(c);
    return true;
}

static void card_unrealize(struct dev *d)
{
    struct sd_card *c = container_of(d, struct sd_card, dev);

    blk_drain(c->blk);
}

static void card_reset(struct dev *d)
{
    sd_power_cycle(container_of(d, struct sd_card, dev));
}

static const struct state_field card_fields[] = {
    STATE_U32(struct sd_card, ocr),
    STATE_U32(struct sd_card, rca),
    STATE_U32(struct sd_card, errors),
    STATE_U8(struct sd_card, state),
    STATE_BOOL(struct sd_card, app_cmd),
    STATE_U8(struct sd_card, dir),
    STATE_BOOL(struct sd_card, single),
    STATE_BOOL(struct sd_card, dirty),
    STATE_U64(struct sd_card, off),
    STATE_U64(struct sd_card, left),
    STATE_U64(struct sd_card, written),
    STATE_U32(struct sd_card, erase_from),
    STATE_U32(struct sd_card, erase_to),
    STATE_BOOL(struct sd_card, erase_ok),
    STATE_BYTES(struct sd_card, reg),
    STATE_BOOL(struct sd_card, from_reg),
    STATE_END,
};
static bool card_loaded(void *obj, struct err **errp)
{
    struct sd_card *c = obj;
    uint64_t end, most = c->from_reg ? SD_REG_MAX : blk_size(c->blk);

    return (c->state <= INACTIVE && c->dir <= SD_TO_CARD && add_ok_u64(c->off, c->left, &end) && end <= most) ||
           err_set(errp, "sd-card: the saved state is damaged");
}
static const struct state_desc card_state = {
    .name = "sd-card", .version = 1, .fields = card_fields, .post_load = card_loaded};
static const struct prop card_props[] = {PROP_BLK("drive", struct sd_card, blk), PROP_END};
static const struct dev_class card_class = {.name = "sd-card",
                                            .desc = "SD memory card",
                                            .size = sizeof(struct sd_card),
                                            .props = card_props,
                                            .bus_type = "sd-bus",
                                            .category = DEV_CAT_STORAGE,
                                            .realize = card_realize,
                                            .unrealize = card_unrealize,
                                            .reset = card_reset,
                                            .state_desc = &card_state};
DEV_REGISTER(card_class)
