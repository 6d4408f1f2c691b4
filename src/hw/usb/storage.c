/* "usb-storage": a disk at full, high or super speed. USB Mass Storage Class, Bulk-Only Transport 1.0.
 *
 * A command block comes in by OUT endpoint 2, data goes by 2 and 1, the status comes by IN endpoint 1. The commands are
 * those of a SCSI disk on a bus of the device's own, which takes the drive; the sense data of a failure is kept until
 * REQUEST SENSE. A transfer is whole in memory before the disk has it, or before the guest has it, so one command moves
 * 4 MiB at most; what the disk did not give is zeros, and the status says how much that is (6.7.2). Left out: CD-ROMs,
 * several units, UAS. */
#include "base/bytes.h"
#include "hw/scsi/scsi.h"
#include "hw/usb/usb.h"

enum { EP_IN = 1, EP_OUT = 2, CBW_LEN = 31, CSW_LEN = 13, DATA_MAX = 4 << 20, REQUEST_SENSE = 3 };
enum { CBW_SIGNATURE = 0x43425355, CSW_SIGNATURE = 0x53425355 };
enum { REQ_RESET = 0xff, REQ_GET_MAX_LUN = 0xfe };
enum { CSW_GOOD, CSW_FAILED };
enum phase { COMMAND, DATA_OUT, BUSY, DATA_IN, STATUS };

struct request;
struct storage {
    struct usb_dev usb; /* first */
    struct scsi_bus bus;
    struct bus_class bus_class; /* one unit, so that others are not put here */
    char *drive, *serial;
    bool removable;
    int32_t bootindex;
    struct request *req; /* while the phase is BUSY */
    uint32_t phase, tag, dlen;
    bool in;
    uint8_t cdb[16], status, sense[SCSI_SENSE_LEN];
    uint8_t *buf; /* owned: the data of the command */
    uint32_t buf_len, at, moved;
};
/* A command of the disk; s is NULL when nobody waits for it any more. */
struct request {
    struct scsi_req r;
    struct iovec v;
    struct storage *s;
    uint8_t *buf; /* owned */
};
static struct storage *storage_of(struct usb_dev *d)
{
    return container_of(d, struct storage, usb);
}

static void drop_data(struct storage *s)
{
    free(s->buf);
    s->buf = NULL;
    s->buf_len = s->at = 0;
}

/* ---- commands ---- */

static void to_status(struct storage *s)
{
    drop_data(s);
    s->phase = STATUS;
    usb_wakeup(&s->usb, EP_IN);
}

static void request_done(struct scsi_req *r)
{
    struct request *q = container_of(r, struct request, r);
    struct storage *s = q->s;

    if (s) {
        s->req = NULL;
        s->status = r->status == SCSI_GOOD ? CSW_GOOD : CSW_FAILED;
        if (r->status == SCSI_CHECK_CONDITION)
            memcpy(s->sense, r->sense, sizeof s->sense);
        s->moved = (uint32_t)min_u64(r->moved, s->dlen);
        s->buf = q->buf;
        s->buf_len = s->dlen;
        q->buf = NULL;
        s->phase = DATA_IN;
        if (s->in && s->dlen)
            usb_wakeup(&s->usb, EP_IN);
        else
            to_status(s);
    }
    free(q->buf);
    free(q);
}

/* The command with its data, if that goes out; s->buf is its buffer. */
static void run(struct storage *s)
{
    struct request *q = xnew(struct request);

    s->phase = BUSY;
    q->s = s;
    q->buf = s->buf;
    s->buf = NULL;
    s->buf_len = s->at = 0;
    s->req = q;
    memcpy(q->r.cdb, s->cdb, sizeof s->cdb);
    q->v = (struct iovec){q->buf, s->dlen};
    if (s->dlen)
        iov_init_ext(s->in ? &q->r.in : &q->r.out, &q->v, 1);
    q->r.done = request_done;
    if (s->cdb[0] == REQUEST_SENSE && s->sense[0] && s->in) {
        q->r.status = SCSI_GOOD;
        q->r.moved = iov_from_buf(&q->r.in, 0, s->sense, min_u64(s->cdb[4], sizeof s->sense));
        memset(s->sense, 0, sizeof s->sense);
        request_done(&q->r);
        return;
    }
    memset(s->sense, 0, sizeof s->sense);
    if (!scsi_submit(&s->bus, 0, 0, 0, &q->r)) { /* the disk is gone */
        q->r.status = SCSI_CHECK_CONDITION;
        scsi_sense_build(q->r.sense, SENSE_NOT_READY_NO_MEDIUM);
        request_done(&q->r);
    }
}

/* 5.1: valid and meaningful, or both endpoints halt until the guest resets the device. */
static int command_block(struct storage *s, const uint8_t *c, unsigned len)
{
    if (len != CBW_LEN || get_le32(c) != CBW_SIGNATURE || c[13] || !c[14] || c[14] > 16 || get_le32(c + 8) > DATA_MAX) {
        log_guest("usb-storage: not a command block");
        s->usb.halted |= 1 << EP_IN;
        return USB_STALL;
    }
    s->tag = get_le32(c + 4);
    s->dlen = get_le32(c + 8);
    s->in = c[12] & 0x80;
    memset(s->cdb, 0, sizeof s->cdb);
    memcpy(s->cdb, c + 15, c[14]);
    drop_data(s);
    s->buf = s->dlen ? try_alloc(1, s->dlen) : NULL;
    if (s->dlen && !s->buf)
        return USB_STALL;
    s->buf_len = s->dlen;
    if (s->dlen)
        memset(s->buf, 0, s->dlen);
    s->moved = 0;
    if (s->dlen && !s->in)
        s->phase = DATA_OUT;
    else
        run(s);
    return (int)len;
}

static int storage_out(struct usb_dev *d, unsigned ep, const uint8_t *data, unsigned len)
{
    struct storage *s = storage_of(d);

    if (ep != EP_OUT)
        return USB_STALL;
    switch (s->phase) {
    case COMMAND:
        return command_block(s, data, len);
    case DATA_OUT:
        if (len > s->buf_len - s->at)
            return USB_STALL;
        memcpy(s->buf + s->at, data, len);
        s->at += len;
        if (s->at == s->buf_len)
            run(s);
        return (int)len;
    default:
        return USB_NAK;
    }
}

static int storage_in(struct usb_dev *d, unsigned ep, uint8_t *data, unsigned len)
{
    struct storage *s = storage_of(d);
    unsigned n;

    if (ep != EP_IN)
        return USB_STALL;
    switch (s->phase) {
    case DATA_IN:
        n = (unsigned)min_u64(len, s->buf_len - s->at);
        memcpy(data, s->buf + s->at, n);
        s->at += n;
        if (s->at == s->buf_len)
            to_status(s);
        return (int)n;
    case STATUS:
        if (len < CSW_LEN)
            return USB_BABBLE;
        put_le32(data, CSW_SIGNATURE);
        put_le32(data + 4, s->tag);
        put_le32(data + 8, s->dlen - s->moved);
        data[12] = s->status;
        s->phase = COMMAND;
        usb_wakeup(d, EP_OUT);
        return CSW_LEN;
    default:
        return USB_NAK;
    }
}

static void forget(struct storage *s)
{
    if (s->req)
        s->req->s = NULL;
    s->req = NULL;
    drop_data(s);
    s->phase = COMMAND;
}

static int storage_control(struct usb_dev *d, const uint8_t setup[8], uint8_t *data, unsigned len)
{
    if (setup[0] == (USB_DIR_IN | USB_TYPE_CLASS | USB_RCPT_INTERFACE) && setup[1] == REQ_GET_MAX_LUN && len) {
        data[0] = 0;
        return 1;
    }
    if (setup[0] == (USB_TYPE_CLASS | USB_RCPT_INTERFACE) && setup[1] == REQ_RESET) {
        forget(storage_of(d));
        return 0;
    }
    return USB_STALL;
}

/* ---- life ---- */

static const struct scsi_hba storage_hba = {0};

static bool add_disk(struct storage *s, struct err **errp)
{
    struct dev *d = dev_new(dev_machine(&s->usb.dev), "scsi-hd", errp);

    if (!d)
        return false;
    dev_prop(d, "removable", s->removable ? "on" : "off");
    if ((s->serial && !obj_set(&d->obj, "serial", s->serial, errp)) || !obj_set(&d->obj, "drive", s->drive, errp)) {
        obj_unref(&d->obj);
        return false;
    }
    if (s->bootindex >= 0)
        dev_prop_u64(d, "bootindex", (uint64_t)s->bootindex);
    s->bootindex = -1; /* is the disk's now: there is one of each */
    return dev_realize(d, &s->bus.bus, NULL, errp);
}

static bool storage_realize(struct dev *d, struct err **errp)
{
    struct storage *s = container_of(d, struct storage, usb.dev);

    if (!s->drive)
        return err_set(errp, "usb-storage: the drive property is not set");
    scsi_bus_init(&s->bus, d, &storage_hba);
    s->bus_class = *s->bus.bus.cls;
    s->bus_class.max_devs = 1;
    s->bus.bus.cls = &s->bus_class;
    if (add_disk(s, errp))
        return true;
    scsi_bus_fini(&s->bus);
    return false;
}

static void storage_unrealize(struct dev *d)
{
    struct storage *s = container_of(d, struct storage, usb.dev);

    forget(s);
    scsi_bus_fini(&s->bus);
}

static void storage_usb_reset(struct usb_dev *d)
{
    struct storage *s = storage_of(d);

    forget(s);
    memset(s->sense, 0, sizeof s->sense);
}

static void storage_reset(struct dev *d)
{
    struct storage *s = container_of(d, struct storage, usb.dev);

    s->usb.addr = s->usb.config = s->usb.halted = 0;
    storage_usb_reset(&s->usb);
}

static bool storage_pre_save(void *opaque, struct err **errp)
{
    struct storage *s = opaque;

    if (s->req)
        scsi_drain(&s->bus);
    return !s->req || err_set(errp, "a command has not ended");
}

static bool storage_loaded(void *opaque, struct err **errp)
{
    struct storage *s = opaque;
    uint32_t held = s->phase == DATA_OUT || s->phase == DATA_IN ? s->dlen : 0;

    if (s->req)
        s->req->s = NULL;
    s->req = NULL;
    return s->phase <= STATUS && s->phase != BUSY && s->dlen <= DATA_MAX && s->buf_len == held && s->moved <= s->dlen &&
           (!held || s->at < held) && s->at <= held;
}
static const struct state_field storage_fields[] = {STATE_STRUCT(struct storage, usb, usb_dev_state),
                                                    STATE_U32(struct storage, phase),
                                                    STATE_U32(struct storage, tag),
                                                    STATE_U32(struct storage, dlen),
                                                    STATE_BOOL(struct storage, in),
                                                    STATE_BYTES(struct storage, cdb),
                                                    STATE_U8(struct storage, status),
                                                    STATE_BYTES(struct storage, sense),
                                                    STATE_ALLOC(struct storage, buf, buf_len, DATA_MAX),
                                                    STATE_U32(struct storage, at),
                                                    STATE_U32(struct storage, moved),
                                                    STATE_END};
static const struct state_desc storage_state = {.name = "usb-storage",
                                                .version = 1,
                                                .fields = storage_fields,
                                                .pre_save = storage_pre_save,
                                                .post_load = storage_loaded};

/* ---- descriptors: 46f4:0001 as such disks are known to guests ---- */

#define DEVICE(version, packet)                                                                                        \
    {                                                                                                                  \
        18, 1, 0, version, 0, 0, 0, packet, 0xf4, 0x46, 0x01, 0, 0, 0, 1, 2, 3, 1                                      \
    }
#define INTERFACE(len) 9, 2, len, 0, 1, 1, 0, 0xc0, 0, 9, 4, 0, 0, 2, 8, 6, 0x50, 0
#define BULK(ep, size) 7, 5, ep, 2, (size)&255, (size) >> 8, 0
#define COMPANION      6, 0x30, 15, 0, 0, 0
static const uint8_t dev_full[] = DEVICE(2, 8), dev_high[] = DEVICE(2, 64), dev_super[] = DEVICE(3, 9);
static const uint8_t config_full[] = {INTERFACE(32), BULK(0x80 | EP_IN, 64), BULK(EP_OUT, 64)};
static const uint8_t config_high[] = {INTERFACE(32), BULK(0x80 | EP_IN, 512), BULK(EP_OUT, 512)};
static const uint8_t config_super[] = {INTERFACE(44), BULK(0x80 | EP_IN, 1024), COMPANION, BULK(EP_OUT, 1024),
                                       COMPANION};
/* Binary Object Store: no link power management at high speed; speeds full to super, no exit latencies. */
static const uint8_t bos[] = {5, 15, 22, 0, 2, 7, 16, 2, 0, 0, 0, 0, 10, 16, 3, 0, 0x0e, 0, 1, 0, 0, 0};
static const char *const strings[] = {"QEMU", "QEMU USB HARDDRIVE", "000000000001", NULL};

static const struct prop storage_props[] = {
    PROP("drive", str, struct storage, drive, .help = "ID of the drive"),
    PROP("serial", str, struct storage, serial, .help = "serial number of the disk"),
    PROP("removable", bool, struct storage, removable, .dflt = "off"),
    PROP("bootindex", i32, struct storage, bootindex, .dflt = "-1"),
    PROP("usb_version", u32, struct usb_dev, usb_version, .dflt = "3", .min = 1, .max = 3,
         .help = "the fastest it may be: full, high or super speed"),
    PROP_END};
static const struct usb_dev_class storage_class = {.name = "usb-storage",
                                                   .parent = "usb-device",
                                                   .desc = "USB disk",
                                                   .size = sizeof(struct storage),
                                                   .props = storage_props,
                                                   .more_props = usb_props,
                                                   .bus_type = "USB",
                                                   .category = DEV_CAT_STORAGE,
                                                   .hotplug = true,
                                                   .realize = storage_realize,
                                                   .unrealize = storage_unrealize,
                                                   .reset = storage_reset,
                                                   .state_desc = &storage_state,
                                                   .device_desc = dev_full,
                                                   .config_desc = config_full,
                                                   .hs_device_desc = dev_high,
                                                   .hs_config_desc = config_high,
                                                   .ss_device_desc = dev_super,
                                                   .ss_config_desc = config_super,
                                                   .bos_desc = bos,
                                                   .fw_name = "storage",
                                                   .strings = strings,
                                                   .speed = USB_FULL,
                                                   .control = storage_control,
                                                   .in = storage_in,
                                                   .out = storage_out,
                                                   .usb_reset = storage_usb_reset};
USB_REGISTER(storage_class)
