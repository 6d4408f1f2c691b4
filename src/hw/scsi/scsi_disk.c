/* SCSI disks and CD-ROM drives over a block back end. Source: SBC-3, SPC-4, MMC-5.
 *
 * Every command is checked completely (range, lengths, write protection) before data moves. The drive's error policy
 * may keep a failed request until the machine is continued. Left out: persistent reservations, thin-provisioning logs,
 * CD audio, writing CDs. */
#include "base/bytes.h"
#include "blk/blk.h"
#include "hw/scsi/scsi.h"
#include <errno.h>

enum {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    FORMAT_UNIT = 0x04,
    READ_6 = 0x08,
    WRITE_6 = 0x0a,
    SEEK_6 = 0x0b,
    INQUIRY = 0x12,
    MODE_SELECT_6 = 0x15,
    RESERVE_6 = 0x16,
    RELEASE_6 = 0x17,
    MODE_SENSE_6 = 0x1a,
    START_STOP = 0x1b,
    ALLOW_REMOVAL = 0x1e,
    READ_CAPACITY_10 = 0x25,
    READ_10 = 0x28,
    WRITE_10 = 0x2a,
    SEEK_10 = 0x2b,
    WRITE_VERIFY_10 = 0x2e,
    VERIFY_10 = 0x2f,
    SYNC_CACHE_10 = 0x35,
    WRITE_SAME_10 = 0x41,
    UNMAP = 0x42,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFO = 0x51,
    MODE_SELECT_10 = 0x55,
    MODE_SENSE_10 = 0x5a,
    READ_16 = 0x88,
    WRITE_16 = 0x8a,
    WRITE_VERIFY_16 = 0x8e,
    VERIFY_16 = 0x8f,
    SYNC_CACHE_16 = 0x91,
    WRITE_SAME_16 = 0x93,
    SERVICE_IN_16 = 0x9e,
    READ_12 = 0xa8,
    WRITE_12 = 0xaa,
    VERIFY_12 = 0xaf,
    MECHANISM_STATUS = 0xbd,
    SAI_READ_CAPACITY_16 = 0x10,
};
enum { TYPE_DISK = 0, TYPE_ROM = 5, MAX_REPLY = 256, MAX_XFER = 1 << 25, UNMAP_MAX = 64, SAME_CHUNK = 1 << 16 };
enum { ATTN_MEDIUM_CHANGED = 0x2800, ATTN_CAPACITY = 0x2a09 };

struct sdisk {
    struct scsi_dev sd;                                /* first */
    struct blk *blk;                                   /* property */
    char *serial, *vendor, *product, *ver, *device_id; /* properties */
    uint64_t wwn;                                      /* property */
    uint64_t log_bs, phys_bs, min_io, opt_io, discard_gran;
    uint16_t rotation;      /* property */
    int32_t bootindex;      /* property */
    bool removable, dpofua; /* properties */
    int write_cache;        /* property, enum onoffauto */
    bool share_rw;          /* property */
    bool saved_wce;
    bool cd, locked, tray_open, medium_event, eject_asked;
    struct list stopped; /* of struct scsi_req by link: wait until the machine goes on */
    struct machine_hook state_hook;
};
struct sdisk_class {
    struct scsi_dev_class;
    bool cd;
};

static struct sdisk *disk_of(struct scsi_dev *d)
{
    return container_of(d, struct sdisk, sd);
}

static uint64_t nr_blocks(struct sdisk *s)
{
    return blk_size(s->blk) / s->log_bs;
}

static bool ready(struct sdisk *s)
{
    return s->blk && blk_has_medium(s->blk) && !s->tray_open;
}

static uint32_t why_not_ready(struct sdisk *s)
{
    return s->tray_open ? SENSE_NOT_READY_TRAY_OPEN : SENSE_NOT_READY_NO_MEDIUM;
}

/* ---- data transfer ---- */

static void io_start(struct scsi_req *r);

static bool is_read(const struct scsi_req *r)
{
    return r->cdb[0] == READ_6 || r->cdb[0] == READ_10 || r->cdb[0] == READ_12 || r->cdb[0] == READ_16;
}

static void io_free(struct scsi_req *r)
{
    iov_free(&r->data);
    free(r->buf);
    r->buf = NULL;
}

static uint32_t sense_of(int error, bool read)
{
    switch (error) {
    case ENOMEDIUM:
        return SENSE_NOT_READY_NO_MEDIUM;
    case ENOSPC:
        return SENSE_SPACE;
    case EROFS:
    case EPERM:
        return SENSE_PROTECTED;
    case EIO:
        return read ? SENSE_MEDIUM_READ : SENSE_MEDIUM_WRITE;
    default:
        return SENSE_HARDWARE;
    }
}

static void io_end(struct scsi_req *r, int ret)
{
    struct sdisk *s = disk_of(r->dev);

    if (ret < 0) {
        switch (blk_error_action(s->blk, is_read(r), -ret)) {
        case BLK_POLICY_STOP:
            list_add(&s->stopped, &r->link);
            return;
        case BLK_POLICY_IGNORE:
            break;
        case BLK_POLICY_REPORT:
            io_free(r);
            scsi_fail(r, sense_of(-ret, is_read(r)));
            return;
        }
    }
    uint64_t moved = r->data.len;
    if (r->phase) { /* more pieces: UNMAP ranges */
        io_start(r);
        return;
    }
    io_free(r);
    scsi_good(r, moved);
}

static void io_done(void *opaque, int ret)
{
    struct scsi_req *r = opaque;
    struct scsi_dev *d = r->dev;

    scsi_enter(d);
    io_end(r, ret);
    scsi_leave(d);
}

/* The next range of an UNMAP list in r->buf; r->phase counts what is left. */
static void unmap_next(struct sdisk *s, struct scsi_req *r)
{
    const uint8_t *d = r->buf + 16 * --r->phase;

    blk_aio_discard(s->blk, get_be64(d) * s->log_bs, (uint64_t)get_be32(d + 8) * s->log_bs, io_done, r);
}

static void io_start(struct scsi_req *r)
{
    struct sdisk *s = disk_of(r->dev);
    unsigned fua = r->cdb[0] != WRITE_6 && (r->cdb[1] & 8) ? BLK_FUA : 0;

    switch (r->cdb[0]) {
    case READ_6:
    case READ_10:
    case READ_12:
    case READ_16:
        blk_aio_read(s->blk, r->off, &r->data, 0, io_done, r);
        break;
    case SYNC_CACHE_10:
    case SYNC_CACHE_16:
        blk_aio_flush(s->blk, io_done, r);
        break;
    case UNMAP:
        unmap_next(s, r);
        break;
    case WRITE_SAME_10:
    case WRITE_SAME_16:
        blk_aio_zero(s->blk, r->off, r->len, r->cdb[1] & 8 ? BLK_MAY_UNMAP : 0, io_done, r);
        break;
    default:
        blk_aio_write(s->blk, r->off, &r->data, fua, io_done, r);
        break;
    }
}

/* Logical block address and count of a read, write, verify or similar command. */
static void cdb_range(const uint8_t *c, uint64_t *lba, uint32_t *n)
{
    switch (c[0] >> 5) {
    case 0:
        *lba = get_be32(c) & 0x1fffff;
        *n = c[4] ? c[4] : 256;
        break;
    case 4:
        *lba = get_be64(c + 2);
        *n = get_be32(c + 10);
        break;
    case 5:
        *lba = get_be32(c + 2);
        *n = get_be32(c + 6);
        break;
    default:
        *lba = get_be32(c + 2);
        *n = get_be16(c + 7);
        break;
    }
}

/* 0 or the sense of what is wrong. */
static uint32_t check_range(struct sdisk *s, uint64_t lba, uint64_t n)
{
    uint64_t total = nr_blocks(s);

    if (lba > total || n > total - lba)
        return SENSE_BAD_LBA;
    return n * s->log_bs > MAX_XFER ? SENSE_BAD_FIELD : 0;
}

static void read_write(struct sdisk *s, struct scsi_req *r)
{
    uint64_t lba;
    uint32_t n, bad;
    bool rd = is_read(r);
    const struct iov *q = rd ? &r->in : &r->out;

    cdb_range(r->cdb, &lba, &n);
    bad = !rd && blk_readonly(s->blk) ? SENSE_PROTECTED : check_range(s, lba, n);
    if (bad) {
        scsi_fail(r, bad);
        return;
    }
    r->off = lba * s->log_bs;
    r->len = (uint64_t)n * s->log_bs;
    if (!n || q->len < r->len) { /* nothing to do, or no room for it */
        if (n)
            scsi_fail(r, SENSE_BAD_FIELD);
        else
            scsi_good(r, 0);
        return;
    }
    iov_init(&r->data, q->nr);
    iov_add_part(&r->data, q, 0, r->len);
    io_start(r);
}

static void verify(struct sdisk *s, struct scsi_req *r)
{
    uint64_t lba;
    uint32_t n, bad;

    cdb_range(r->cdb, &lba, &n);
    bad = r->cdb[1] & 6 ? SENSE_BAD_FIELD : check_range(s, lba, 0); /* comparing bytes is not wired up */
    if (!bad && n > nr_blocks(s) - lba)
        bad = SENSE_BAD_LBA;
    if (bad)
        scsi_fail(r, bad);
    else
        scsi_good(r, 0);
}

static void write_same(struct sdisk *s, struct scsi_req *r)
{
    uint8_t *b;
    uint64_t lba;
    uint32_t n;
    bool zero;

    cdb_range(r->cdb, &lba, &n);
    if (!n)
        n = min_u64(nr_blocks(s) - min_u64(lba, nr_blocks(s)), UINT32_MAX);
    if (blk_readonly(s->blk)) {
        scsi_fail(r, SENSE_PROTECTED);
        return;
    }
    if ((r->cdb[1] & 0x16) || lba > nr_blocks(s) || n > nr_blocks(s) - lba ||
        (!(r->cdb[1] & 1) && r->out.len < s->log_bs)) {
        scsi_fail(r, lba > nr_blocks(s) || n > nr_blocks(s) - lba ? SENSE_BAD_LBA : SENSE_BAD_FIELD);
        return;
    }
    zero = (r->cdb[1] & 1) || iov_is_zero(&r->out, 0, s->log_bs);
    r->off = lba * s->log_bs;
    r->len = (uint64_t)n * s->log_bs;
    iov_init(&r->data, 1);
    if (zero) {
        io_start(r);
        return;
    }
    if (r->len > SAME_CHUNK || !(b = try_alloc(1, r->len))) { /* a pattern is written in one go, so it is bounded */
        iov_free(&r->data);
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        iov_to_buf(&r->out, 0, b + i * s->log_bs, s->log_bs);
    r->buf = b;
    iov_add(&r->data, b, r->len);
    blk_aio_write(s->blk, r->off, &r->data, 0, io_done, r);
}

static void unmap(struct sdisk *s, struct scsi_req *r)
{
    uint8_t h[8];
    unsigned len = get_be16(r->cdb + 7), n;

    if (!len) {
        scsi_good(r, 0);
        return;
    }
    if (len < 8 || iov_to_buf(&r->out, 0, h, 8) < 8 || get_be16(h + 2) > len - 8 || get_be16(h + 2) / 16 > UNMAP_MAX) {
        scsi_fail(r, SENSE_BAD_PARAM);
        return;
    }
    n = get_be16(h + 2) / 16;
    if (blk_readonly(s->blk)) {
        scsi_fail(r, SENSE_PROTECTED);
        return;
    }
    r->buf = xcalloc(n + 1, 16);
    if (iov_to_buf(&r->out, 8, r->buf, 16 * n) < 16 * n)
        n = 0;
    for (unsigned i = 0; i < n; i++) {
        uint64_t lba = get_be64(r->buf + 16 * i), total = nr_blocks(s);
        if (lba > total || get_be32(r->buf + 16 * i + 8) > total - lba) {
            io_free(r);
            scsi_fail(r, SENSE_BAD_LBA);
            return;
        }
    }
    iov_init(&r->data, 0);
    r->phase = n;
    if (n) {
        io_start(r);
        return;
    }
    io_free(r);
    scsi_good(r, 0);
}

/* ---- who we are ---- */

static void pad(uint8_t *p, size_t n, const char *text)
{
    size_t len = text ? strlen(text) : 0;

    memset(p, ' ', n);
    memcpy(p, text ? text : "", min_u64(len, n));
}

static size_t vpd_identification(struct sdisk *s, uint8_t *b)
{
    const char *id = s->device_id ? s->device_id : s->serial ? s->serial : blk_id(s->blk);
    size_t n = 4, len = id ? min_u64(strlen(id), 20) : 0;

    if (len) {
        b[n] = 2; /* ASCII */
        b[n + 1] = 0;
        b[n + 3] = len;
        memcpy(b + n + 4, id, len);
        n += 4 + len;
    }
    if (s->wwn) {
        b[n] = 1;
        b[n + 1] = 3; /* NAA */
        b[n + 3] = 8;
        put_be64(b + n + 4, s->wwn);
        n += 12;
    }
    return n;
}

static size_t vpd_limits(struct sdisk *s, uint8_t *b)
{
    put_be16(b + 6, s->min_io / s->log_bs);
    put_be32(b + 8, MAX_XFER / s->log_bs);
    put_be32(b + 12, s->opt_io / s->log_bs);
    put_be32(b + 20, (1u << 30) / s->log_bs); /* UNMAP: blocks, descriptors, granularity */
    put_be32(b + 24, UNMAP_MAX);
    put_be32(b + 28, (s->discard_gran ? s->discard_gran : s->log_bs) / s->log_bs);
    put_be64(b + 36, (1u << 30) / s->log_bs);
    return 64;
}

static void inquiry_vpd(struct sdisk *s, struct scsi_req *r)
{
    static const uint8_t disk_pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2}, cd_pages[] = {0x00, 0x83};
    uint8_t b[MAX_REPLY] = {s->cd ? TYPE_ROM : TYPE_DISK, r->cdb[2]};
    size_t n = 4, np = s->cd ? sizeof cd_pages : sizeof disk_pages, len;

    switch (r->cdb[2]) {
    case 0x00:
        for (size_t i = 0; i < np; i++)
            if ((s->cd ? cd_pages : disk_pages)[i] != 0x80 || s->serial)
                b[n++] = (s->cd ? cd_pages : disk_pages)[i];
        break;
    case 0x80:
        if (!s->serial) {
            scsi_fail(r, SENSE_BAD_FIELD);
            return;
        }
        len = min_u64(strlen(s->serial), 36);
        memcpy(b + 4, s->serial, len);
        n += len;
        break;
    case 0x83:
        n = vpd_identification(s, b);
        break;
    case 0xb0:
        n = vpd_limits(s, b);
        break;
    case 0xb1:
        put_be16(b + 4, s->rotation);
        n = 64;
        break;
    case 0xb2:
        b[5] = 0xe0; /* UNMAP, WRITE SAME (16) and (10) with UNMAP */
        b[6] = 2;    /* thin */
        n = 8;
        break;
    default:
        n = 0;
        break;
    }
    if (!n || (s->cd && r->cdb[2] >= 0xb0)) {
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    put_be16(b + 2, n - 4);
    scsi_reply(r, b, n, get_be16(r->cdb + 3));
}

static void inquiry(struct sdisk *s, struct scsi_req *r)
{
    uint8_t b[36] = {s->cd ? TYPE_ROM : TYPE_DISK, s->removable ? 0x80 : 0, 5, 0x12, sizeof b - 5, 0, 0, 0x02};

    if (r->cdb[1] & 1) {
        inquiry_vpd(s, r);
        return;
    }
    if (r->cdb[2]) {
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    pad(b + 8, 8, s->vendor ? s->vendor : "QEMU");
    pad(b + 16, 16, s->product ? s->product : s->cd ? "QEMU CD-ROM" : "QEMU HARDDISK");
    pad(b + 32, 4, s->ver ? s->ver : "2.5+");
    scsi_reply(r, b, sizeof b, get_be16(r->cdb + 3));
}

static void read_capacity(struct sdisk *s, struct scsi_req *r)
{
    uint64_t n = nr_blocks(s), last = n ? n - 1 : 0;
    uint8_t b[32] = {0};
    unsigned exp = 0;

    if (!n) {
        scsi_fail(r, SENSE_NOT_READY_NO_MEDIUM);
        return;
    }
    if (r->cdb[0] == READ_CAPACITY_10) {
        put_be32(b, min_u64(last, UINT32_MAX));
        put_be32(b + 4, s->log_bs);
        scsi_reply(r, b, 8, 8);
        return;
    }
    if ((r->cdb[1] & 31) != SAI_READ_CAPACITY_16) {
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    while (s->log_bs << exp < s->phys_bs)
        exp++;
    put_be64(b, last);
    put_be32(b + 8, s->log_bs);
    b[13] = exp;
    b[14] = s->cd ? 0 : 0x80; /* thin provisioning */
    scsi_reply(r, b, sizeof b, get_be32(r->cdb + 10));
}

/* ---- mode pages ---- */

static size_t page_put(struct sdisk *s, unsigned page, bool changeable, uint8_t *b)
{
    switch (page) {
    case 0x01: /* error recovery */
        b[0] = page;
        b[1] = 10;
        b[2] = changeable ? 0 : 0x80;
        return 12;
    case 0x08: /* caching */
        b[0] = page;
        b[1] = 18;
        b[2] = changeable || blk_write_cache(s->blk) ? 4 : 0;
        return 20;
    case 0x0a: /* control */
        b[0] = page;
        b[1] = 10;
        return 12;
    case 0x2a: /* CD capabilities */
        if (!s->cd)
            return 0;
        b[0] = page;
        b[1] = 20;
        if (!changeable) {
            b[2] = 3;
            b[4] = 0x70;
            b[6] = 0x29 | (s->locked ? 2 : 0);
            put_be16(b + 8, 50 * 176);
            put_be16(b + 14, 50 * 176);
        }
        return 22;
    default:
        return 0;
    }
}

static void mode_sense(struct sdisk *s, struct scsi_req *r)
{
    bool ten = r->cdb[0] == MODE_SENSE_10, dbd = r->cdb[1] & 8;
    unsigned page = r->cdb[2] & 63, pc = r->cdb[2] >> 6;
    uint8_t b[MAX_REPLY] = {0};
    size_t head = ten ? 8 : 4, n = head;
    uint8_t devspec = s->cd ? 0 : (blk_readonly(s->blk) ? 0x80 : 0) | (s->dpofua ? 0x10 : 0);

    if (pc == 3) {
        scsi_fail(r, 0x053900); /* saving parameters not supported */
        return;
    }
    if (!dbd && !s->cd && ready(s)) {
        put_be32(b + n, min_u64(nr_blocks(s), 0xffffff));
        put_be32(b + n + 4, s->log_bs);
        n += 8;
    }
    size_t start = n;
    for (unsigned p = 0; p < 0x3f; p++)
        if (page == p || page == 0x3f)
            n += page_put(s, p, pc == 1, b + n);
    if (n == start) {
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    if (ten) {
        put_be16(b, n - 2);
        b[3] = devspec;
        put_be16(b + 6, start - head);
    } else {
        b[0] = n - 1;
        b[2] = devspec;
        b[3] = start - head;
    }
    scsi_reply(r, b, n, ten ? get_be16(r->cdb + 7) : r->cdb[4]);
}

/* Only the write cache bit may be changed. */
static void mode_select(struct sdisk *s, struct scsi_req *r)
{
    bool ten = r->cdb[0] == MODE_SELECT_10;
    uint8_t b[MAX_REPLY], now[32];
    size_t len = ten ? get_be16(r->cdb + 7) : r->cdb[4], head = ten ? 8 : 4, at;

    if (!len) {
        scsi_good(r, 0);
        return;
    }
    if (len > sizeof b || len < head || (r->cdb[1] & 0x11) != 0x10 || iov_to_buf(&r->out, 0, b, len) < len) {
        scsi_fail(r, len > sizeof b || len < head ? 0x051a00 : SENSE_BAD_FIELD);
        return;
    }
    at = head + (ten ? get_be16(b + 6) : b[3]);
    for (int pass = 0; pass < 2; pass++) /* check everything, then act */
        for (size_t i = at; i < len;) {
            size_t n = 0;
            memset(now, 0, sizeof now);
            if (i + 2 <= len)
                n = page_put(s, b[i] & 63, false, now);
            if (!n || n > len - i || b[i + 1] != now[1]) {
                scsi_fail(r, SENSE_BAD_PARAM);
                return;
            }
            if (pass && (b[i] & 63) == 8)
                blk_set_write_cache(s->blk, b[i + 2] & 4);
            i += n;
        }
    scsi_good(r, len);
}

/* ---- removable media ---- */

static void start_stop(struct sdisk *s, struct scsi_req *r)
{
    bool start = r->cdb[4] & 1, loej = r->cdb[4] & 2;

    if (loej && !s->removable) {
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    if (loej && !start && s->locked) {
        scsi_fail(r, SENSE_REMOVAL_PREVENTED);
        return;
    }
    if (loej) {
        if (s->tray_open == start)
            blk_tray_moved(s->blk, !start);
        s->tray_open = !start;
        if (!start && blk_has_medium(s->blk))
            blk_eject(s->blk, true, NULL);
    }
    scsi_good(r, 0);
}

static void event_status(struct sdisk *s, struct scsi_req *r)
{
    uint8_t b[8] = {0, 6, 0x80, 0x10};
    size_t n = 4;

    if (!(r->cdb[1] & 1)) {
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    if (r->cdb[4] & 0x10) { /* media class */
        b[2] = 4;
        b[4] = s->eject_asked ? 1 : s->medium_event ? (blk_has_medium(s->blk) ? 2 : 3) : 0;
        b[5] = (s->tray_open ? 1 : 0) | (blk_has_medium(s->blk) ? 2 : 0);
        s->eject_asked = s->medium_event = false;
        n = 8;
    }
    put_be16(b, n - 2);
    scsi_reply(r, b, n, get_be16(r->cdb + 7));
}

static void put_position(uint8_t *p, bool msf, uint32_t lba)
{
    if (msf) {
        lba += 150;
        p[1] = lba / 75 / 60;
        p[2] = lba / 75 % 60;
        p[3] = lba % 75;
    } else {
        put_be32(p, lba);
    }
}

static void read_toc(struct sdisk *s, struct scsi_req *r)
{
    bool msf = r->cdb[1] & 2;
    unsigned format = r->cdb[2] & 15 ? r->cdb[2] & 15 : r->cdb[9] >> 6, first = r->cdb[6];
    uint8_t b[64] = {0, 0, 1, 1};
    size_t n = 4;

    switch (format) {
    case 0:
        if (first > 1 && first != 0xaa) {
            scsi_fail(r, SENSE_BAD_FIELD);
            return;
        }
        if (first <= 1) {
            b[n + 1] = 0x14;
            b[n + 2] = 1;
            put_position(b + n + 4, msf, 0);
            n += 8;
        }
        b[n + 1] = 0x16;
        b[n + 2] = 0xaa;
        put_position(b + n + 4, msf, nr_blocks(s));
        n += 8;
        break;
    case 1:
        b[n + 1] = 0x14;
        b[n + 2] = 1;
        n += 8;
        break;
    default:
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    put_be16(b, n - 2);
    scsi_reply(r, b, n, get_be16(r->cdb + 7));
}

static void get_configuration(struct sdisk *s, struct scsi_req *r)
{
    uint16_t profile = !ready(s) ? 0 : nr_blocks(s) > 405000 ? 0x10 : 0x08; /* DVD-ROM or CD-ROM by size */
    uint8_t b[40] = {0};

    put_be16(b + 6, profile);
    put_be16(b + 8, 0); /* profile list */
    b[10] = 3;
    b[11] = 8;
    put_be16(b + 12, 0x10);
    b[14] = profile == 0x10;
    put_be16(b + 16, 0x08);
    b[18] = profile == 0x08;
    put_be16(b + 20, 1); /* core */
    b[22] = 0x0b;
    b[23] = 8;
    b[27] = 1; /* SCSI */
    b[28] = 1;
    put_be16(b + 32, 3); /* removable medium */
    b[34] = 7;
    b[35] = 4;
    b[36] = 0x39;
    put_be32(b, sizeof b - 4);
    scsi_reply(r, b, sizeof b, get_be16(r->cdb + 7));
}

static void fixed_reply(struct scsi_req *r, uint16_t len_field, const uint8_t *b, size_t n)
{
    scsi_reply(r, b, n, len_field);
}

static void cd_command(struct sdisk *s, struct scsi_req *r)
{
    static const uint8_t disc_info[34] = {0, 32, 0x0e, 1, 1, 1, 1, 0x20}, mechanism[8] = {0, 0, 0, 0, 0, 1};

    switch (r->cdb[0]) {
    case READ_TOC:
        read_toc(s, r);
        break;
    case GET_CONFIGURATION:
        get_configuration(s, r);
        break;
    case GET_EVENT_STATUS:
        event_status(s, r);
        break;
    case READ_DISC_INFO:
        fixed_reply(r, get_be16(r->cdb + 7), disc_info, sizeof disc_info);
        break;
    case MECHANISM_STATUS:
        fixed_reply(r, get_be16(r->cdb + 8), mechanism, sizeof mechanism);
        break;
    default:
        scsi_fail(r, SENSE_BAD_OPCODE);
        break;
    }
}

/* ---- dispatch ---- */

/* Commands that need no medium. True when it was one. */
static bool run_always(struct sdisk *s, struct scsi_req *r)
{
    uint8_t sense[SCSI_SENSE_LEN];

    switch (r->cdb[0]) {
    case INQUIRY:
        inquiry(s, r);
        return true;
    case REQUEST_SENSE:
        scsi_sense_build(sense, 0);
        scsi_reply(r, sense, sizeof sense, r->cdb[4]);
        return true;
    case MODE_SENSE_6:
    case MODE_SENSE_10:
        mode_sense(s, r);
        return true;
    case MODE_SELECT_6:
    case MODE_SELECT_10:
        mode_select(s, r);
        return true;
    case START_STOP:
        start_stop(s, r);
        return true;
    case ALLOW_REMOVAL:
        s->locked = r->cdb[4] & 1;
        scsi_good(r, 0);
        return true;
    case RESERVE_6:
    case RELEASE_6:
        if (r->cdb[1] & 1)
            scsi_fail(r, SENSE_BAD_FIELD);
        else
            scsi_good(r, 0);
        return true;
    case GET_CONFIGURATION:
    case GET_EVENT_STATUS:
    case MECHANISM_STATUS:
        if (!s->cd)
            return false;
        cd_command(s, r);
        return true;
    default:
        return false;
    }
}

/* READ and WRITE in all their lengths. */
static bool moves_data(uint8_t op)
{
    switch (op) {
    case READ_6:
    case READ_10:
    case READ_12:
    case READ_16:
    case WRITE_6:
    case WRITE_10:
    case WRITE_12:
    case WRITE_16:
    case WRITE_VERIFY_10:
    case WRITE_VERIFY_16:
        return true;
    default:
        return false;
    }
}

static void disk_run(struct scsi_dev *d, struct scsi_req *r)
{
    struct sdisk *s = disk_of(d);

    if (run_always(s, r))
        return;
    if (!ready(s)) {
        scsi_fail(r, why_not_ready(s));
        return;
    }
    r->phase = 0;
    r->buf = NULL;
    if (moves_data(r->cdb[0])) {
        read_write(s, r);
        return;
    }
    switch (r->cdb[0]) {
    case TEST_UNIT_READY:
    case SEEK_6:
    case SEEK_10:
        scsi_good(r, 0);
        break;
    case VERIFY_10:
    case VERIFY_12:
    case VERIFY_16:
        verify(s, r);
        break;
    case SYNC_CACHE_10:
    case SYNC_CACHE_16:
        iov_init(&r->data, 0);
        io_start(r);
        break;
    case READ_CAPACITY_10:
    case SERVICE_IN_16:
        read_capacity(s, r);
        break;
    case WRITE_SAME_10:
    case WRITE_SAME_16:
    case UNMAP:
        if (s->cd)
            scsi_fail(r, SENSE_BAD_OPCODE);
        else if (r->cdb[0] == UNMAP)
            unmap(s, r);
        else
            write_same(s, r);
        break;
    default:
        if (s->cd)
            cd_command(s, r);
        else
            scsi_fail(r, SENSE_BAD_OPCODE);
        break;
    }
}

static bool disk_anywhere(const struct scsi_dev *d, const uint8_t *cdb)
{
    const struct sdisk *s = container_of(d, const struct sdisk, sd);

    if (s->cd || s->removable)
        return false;
    switch (cdb[0]) {
    case SYNC_CACHE_10:
    case SYNC_CACHE_16:
    case WRITE_SAME_10:
    case WRITE_SAME_16:
    case UNMAP:
        return true;
    default:
        return moves_data(cdb[0]);
    }
}

static void disk_drain(struct scsi_dev *d)
{
    blk_drain(disk_of(d)->blk);
}

/* ---- the back end's news ---- */

static void tell(struct sdisk *s, uint16_t what)
{
    struct scsi_bus *b = s->sd.dev.bus ? scsi_bus_of(&s->sd) : NULL;

    s->sd.attention = what;
    if (b && b->hba.changed)
        b->hba.changed(b->hba.opaque, &s->sd, what);
}

static void on_media(void *opaque, bool loaded)
{
    struct sdisk *s = opaque;

    s->tray_open = !loaded && s->tray_open;
    s->medium_event = true;
    tell(s, ATTN_MEDIUM_CHANGED);
}
static void on_eject_request(void *opaque, bool force)
{
    struct sdisk *s = opaque;

    s->eject_asked = true;
    if (force)
        s->locked = false;
}
static bool is_tray_open(void *opaque)
{
    return ((struct sdisk *)opaque)->tray_open;
}
static void move_tray(void *opaque, bool open)
{
    struct sdisk *s = opaque;

    s->tray_open = open;
    s->medium_event = true;
    tell(s, ATTN_MEDIUM_CHANGED);
}
static bool is_locked(void *opaque)
{
    return ((struct sdisk *)opaque)->locked;
}
static void on_resize(void *opaque)
{
    tell(opaque, ATTN_CAPACITY);
}
static const struct blk_dev_ops hd_ops = {.resized = on_resize};
static const struct blk_dev_ops cd_ops = {.media_changed = on_media,
                                          .eject_request = on_eject_request,
                                          .is_tray_open = is_tray_open,
                                          .move_tray = move_tray,
                                          .is_locked = is_locked,
                                          .resized = on_resize};

static void state_changed(void *opaque)
{
    struct sdisk *s = opaque;
    struct scsi_req *r, *tmp;
    struct list todo;

    if (!machine_running(dev_machine(&s->sd.dev)) || list_empty(&s->stopped))
        return;
    scsi_enter(&s->sd);
    list_init(&todo);
    list_each_safe (r, tmp, &s->stopped, link) {
        list_del(&r->link);
        list_add(&todo, &r->link);
    }
    list_each_safe (r, tmp, &todo, link) {
        list_del(&r->link);
        io_start(r);
    }
    scsi_leave(&s->sd);
}

/* ---- life ---- */

static bool check_bs(struct sdisk *s, struct err **errp)
{
    const char *cls = s->sd.dev.obj.cls->name;

    if (!s->log_bs)
        s->log_bs = s->cd ? 2048 : 512;
    if (!s->phys_bs || s->phys_bs < s->log_bs)
        s->phys_bs = s->log_bs;
    if (s->log_bs < 512 || s->log_bs > 32768 || !is_pow2(s->log_bs) || !is_pow2(s->phys_bs))
        return err_set(errp, "%s: logical_block_size and physical_block_size must be powers of two, 512 to 32768", cls);
    if (s->min_io % s->log_bs || s->opt_io % s->log_bs || s->discard_gran % s->log_bs)
        return err_set(
            errp, "%s: min_io_size, opt_io_size and discard_granularity must be multiples of logical_block_size", cls);
    return true;
}

static bool disk_realize(struct dev *d, struct err **errp)
{
    struct sdisk *s = container_of(d, struct sdisk, sd.dev);
    const char *cls = d->obj.cls->name;

    s->cd = ((const struct sdisk_class *)dev_class(d))->cd;
    list_init(&s->stopped);
    if (!s->blk && s->cd)
        s->blk = blk_attach_empty(blk_set_of(dev_machine(d)), &d->obj);
    if (!s->blk)
        return err_set(errp, "%s: the drive property is not set; give drive=ID of a -drive or -blockdev", cls);
    if (!s->cd && !blk_has_medium(s->blk))
        return err_set(errp, "%s: drive '%s' is empty, this device needs a medium", cls, blk_id(s->blk));
    if (s->cd && blk_has_medium(s->blk) && !blk_readonly(s->blk))
        return err_set(errp, "%s: drive '%s' is writable; open it with readonly=on or media=cdrom", cls,
                       blk_id(s->blk));
    s->removable |= s->cd;
    if (!check_bs(s, errp))
        return false;
    if (!blk_set_share_rw(s->blk, s->share_rw, errp))
        return false;
    if (s->write_cache != OOA_AUTO)
        blk_set_write_cache(s->blk, s->write_cache == OOA_ON);
    blk_set_dev_ops(s->blk, s->cd ? &cd_ops : &hd_ops, s);
    s->state_hook = (struct machine_hook){.fn = state_changed, .opaque = s};
    machine_on_state(dev_machine(d), &s->state_hook);
    if (!s->removable && scsi_bus_of(&s->sd)->hba.io)
        blk_set_iothread(s->blk, scsi_bus_of(&s->sd)->hba.io);
    return true;
}

static void disk_unrealize(struct dev *d)
{
    struct sdisk *s = container_of(d, struct sdisk, sd.dev);
    struct scsi_req *r, *tmp;

    scsi_enter(&s->sd);
    if (s->sd.in_units.next) /* nobody finds it any more */
        list_del(&s->sd.in_units);
    scsi_leave(&s->sd);
    blk_drain(s->blk);
    if (d->bus && scsi_bus_of(&s->sd)->hba.io)
        blk_set_iothread(s->blk, NULL);
    scsi_enter(&s->sd);
    list_each_safe (r, tmp, &s->stopped, link) {
        list_del(&r->link);
        io_free(r);
        scsi_fail(r, SENSE_HARDWARE);
    }
    scsi_leave(&s->sd);
    machine_hook_del(&s->state_hook);
    blk_set_dev_ops(s->blk, NULL, NULL);
}

static void disk_reset(struct dev *d)
{
    struct sdisk *s = container_of(d, struct sdisk, sd.dev);

    s->locked = s->eject_asked = s->medium_event = false;
    s->sd.attention = 0x2900; /* power on */
}

static void disk_unit_reset(struct scsi_dev *d)
{
    disk_of(d)->locked = false;
}

#define DISK_PROPS                                                                                                     \
    PROP_BLK("drive", struct sdisk, blk), PROP("channel", u32, struct sdisk, sd.channel, .dflt = "0"),                 \
        PROP("scsi-id", u32, struct sdisk, sd.id, .dflt = "4294967295"),                                               \
        PROP("lun", u32, struct sdisk, sd.lun, .dflt = "4294967295"), PROP("serial", str, struct sdisk, serial),       \
        PROP("vendor", str, struct sdisk, vendor), PROP("product", str, struct sdisk, product),                        \
        PROP("ver", str, struct sdisk, ver), PROP("device_id", str, struct sdisk, device_id),                          \
        PROP("wwn", u64, struct sdisk, wwn), PROP("logical_block_size", size, struct sdisk, log_bs),                   \
        PROP("physical_block_size", size, struct sdisk, phys_bs), PROP("min_io_size", size, struct sdisk, min_io),     \
        PROP("opt_io_size", size, struct sdisk, opt_io),                                                               \
        PROP("discard_granularity", size, struct sdisk, discard_gran),                                                 \
        PROP("share-rw", bool, struct sdisk, share_rw, .dflt = "off"),                                                 \
        PROP("write-cache", onoffauto, struct sdisk, write_cache, .dflt = "auto"),                                     \
        PROP("bootindex", i32, struct sdisk, bootindex, .dflt = "-1")
static const struct prop hd_props[] = {DISK_PROPS, PROP("removable", bool, struct sdisk, removable, .dflt = "off"),
                                       PROP("dpofua", bool, struct sdisk, dpofua, .dflt = "off"),
                                       PROP("rotation_rate", u16, struct sdisk, rotation, .dflt = "0"), PROP_END};
static const struct prop cd_props[] = {DISK_PROPS, PROP_END};
static const struct state_field disk_fields[] = {STATE_U16(struct sdisk, sd.attention),
                                                 STATE_BOOL(struct sdisk, locked),
                                                 STATE_BOOL(struct sdisk, tray_open),
                                                 STATE_BOOL(struct sdisk, medium_event),
                                                 STATE_BOOL(struct sdisk, eject_asked),
                                                 STATE_BOOL(struct sdisk, saved_wce),
                                                 STATE_END};

static bool disk_pre_save(void *obj, struct err **errp)
{
    struct sdisk *s = obj;

    s->saved_wce = blk_write_cache(s->blk);
    return true;
}
static bool disk_loaded(void *obj, struct err **errp)
{
    struct sdisk *s = obj;

    if (!s->cd)
        blk_set_write_cache(s->blk, s->saved_wce);
    return true;
}
const struct state_desc scsi_disk_state = {
    .name = "scsi-disk", .version = 1, .fields = disk_fields, .pre_save = disk_pre_save, .post_load = disk_loaded};
static const struct sdisk_class scsi_hd_class = {.name = "scsi-hd",
                                                 .parent = "scsi-device",
                                                 .desc = "virtual SCSI disk",
                                                 .size = sizeof(struct sdisk),
                                                 .props = hd_props,
                                                 .bus_type = "SCSI",
                                                 .category = DEV_CAT_STORAGE,
                                                 .hotplug = true,
                                                 .realize = disk_realize,
                                                 .unrealize = disk_unrealize,
                                                 .reset = disk_reset,
                                                 .state_desc = &scsi_disk_state,
                                                 .run = disk_run,
                                                 .unit_reset = disk_unit_reset,
                                                 .anywhere = disk_anywhere,
                                                 .drain = disk_drain};
DEV_REGISTER(scsi_hd_class)
static const struct sdisk_class scsi_cd_class = {.name = "scsi-cd",
                                                 .parent = "scsi-device",
                                                 .desc = "virtual SCSI CD-ROM",
                                                 .size = sizeof(struct sdisk),
                                                 .props = cd_props,
                                                 .bus_type = "SCSI",
                                                 .category = DEV_CAT_STORAGE,
                                                 .hotplug = true,
                                                 .realize = disk_realize,
                                                 .unrealize = disk_unrealize,
                                                 .reset = disk_reset,
                                                 .state_desc = &scsi_disk_state,
                                                 .run = disk_run,
                                                 .unit_reset = disk_unit_reset,
                                                 .cd = true};
DEV_REGISTER(scsi_cd_class)

struct scsi_dev *scsi_cd_embed(struct machine *m, struct blk *blk)
{
    struct sdisk *s = container_of(obj_new((const struct obj_class *)&scsi_cd_class, m), struct sdisk, sd.dev.obj);

    s->blk = blk;
    s->cd = s->removable = true;
    s->log_bs = s->phys_bs = 2048;
    s->product = xstrdup("QEMU DVD-ROM");
    list_init(&s->stopped);
    blk_set_dev_ops(blk, &cd_ops, s);
    s->state_hook = (struct machine_hook){.fn = state_changed, .opaque = s};
    machine_on_state(m, &s->state_hook);
    return &s->sd;
}

void scsi_cd_release(struct scsi_dev *d)
{
    struct sdisk *s = disk_of(d);

    disk_unrealize(&d->dev);
    s->blk = NULL; /* the caller's */
    obj_unref(&d->dev.obj);
}
