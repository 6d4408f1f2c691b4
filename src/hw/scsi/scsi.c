/* The SCSI bus: addresses of units, what every unit answers alike, sense data. Source: SAM-5, SPC-4 (6.21 REPORT
 * LUNS, 4.5). */
#include "hw/scsi/scsi.h"
#include "base/bytes.h"

enum { TEST_UNIT_READY = 0x00, REQUEST_SENSE = 0x03, INQUIRY = 0x12, REPORT_LUNS = 0xa0 };
enum { ATTENTION_RESET = 0x2900, MAX_LUNS_REPLY = 256 };

static const struct scsi_dev_class *scsi_class(const struct scsi_dev *d)
{
    return (const struct scsi_dev_class *)dev_class(&d->dev);
}

/* ---- outcome ---- */

void scsi_sense_build(uint8_t *s, uint32_t code)
{
    memset(s, 0, SCSI_SENSE_LEN);
    s[0] = 0x70;
    s[2] = code >> 16;
    s[7] = SCSI_SENSE_LEN - 8;
    s[12] = code >> 8;
    s[13] = code;
}

static void finish(struct scsi_req *r)
{
    if (r->dev)
        r->dev->inflight--;
    r->done(r);
}

void scsi_good(struct scsi_req *r, uint64_t moved)
{
    r->status = SCSI_GOOD;
    r->moved = moved;
    finish(r);
}

void scsi_reply(struct scsi_req *r, const void *buf, size_t len, uint32_t alloc)
{
    scsi_good(r, iov_from_buf(&r->in, 0, buf, min_u64(len, alloc)));
}

void scsi_fail(struct scsi_req *r, uint32_t sense)
{
    r->status = SCSI_CHECK_CONDITION;
    scsi_sense_build(r->sense, sense);
    r->sense_len = SCSI_SENSE_LEN;
    r->moved = 0;
    finish(r);
}

/* ---- addresses ---- */

struct scsi_dev *scsi_find(struct scsi_bus *b, unsigned channel, unsigned id, unsigned lun, bool *target_exists)
{
    struct scsi_dev *s;

    *target_exists = false;
    list_each (s, &b->units, in_units) {
        if (s->channel != channel || s->id != id)
            continue;
        *target_exists = true;
        if (s->lun == lun)
            return s;
    }
    return NULL;
}

static struct scsi_dev *any_at(struct scsi_bus *b, const struct scsi_dev *self, unsigned channel, unsigned id,
                               unsigned lun)
{
    struct dev *d;

    list_each (d, &b->bus.devs, link) {
        struct scsi_dev *s = container_of(d, struct scsi_dev, dev);
        if (s != self && s->channel == channel && s->id == id && (lun == UINT32_MAX || s->lun == lun))
            return s;
    }
    return NULL;
}

static bool place(struct bus *bus, struct dev *dev, struct err **errp)
{
    struct scsi_bus *b = container_of(bus, struct scsi_bus, bus);
    struct scsi_dev *d = container_of(dev, struct scsi_dev, dev);
    const char *cls = dev->obj.cls->name;

    if (d->id == UINT32_MAX) {
        if (d->lun != UINT32_MAX && d->lun)
            return err_set(errp, "%s: lun=%u needs scsi-id= too", cls, d->lun);
        for (d->id = 0; d->id <= b->hba.max_target && any_at(b, d, d->channel, d->id, UINT32_MAX); d->id++)
            ;
        if (d->id > b->hba.max_target)
            return err_set(errp, "%s: every target of bus '%s' is taken", cls, bus->name);
    }
    if (d->lun == UINT32_MAX)
        for (d->lun = 0; d->lun < b->hba.max_lun && any_at(b, d, d->channel, d->id, d->lun); d->lun++)
            ;
    if (d->channel > b->hba.max_channel || d->id > b->hba.max_target || d->lun > b->hba.max_lun)
        return err_set(
            errp, "%s: address channel=%u,scsi-id=%u,lun=%u is beyond channel %u, target %u, unit %u of bus '%s'", cls,
            d->channel, d->id, d->lun, b->hba.max_channel, b->hba.max_target, b->hba.max_lun, bus->name);
    if (any_at(b, d, d->channel, d->id, d->lun))
        return err_set(errp, "%s: lun %u of target %u on bus '%s' is already used", cls, d->lun, d->id, bus->name);
    return true;
}

static bool plugged(struct bus *bus, struct dev *dev, struct err **errp)
{
    struct scsi_bus *b = container_of(bus, struct scsi_bus, bus);
    struct scsi_dev *d = container_of(dev, struct scsi_dev, dev);

    scsi_enter(d);
    list_add(&b->units, &d->in_units);
    scsi_leave(d);
    if (b->hba.plugged && dev_machine(dev)->state != RS_PRELAUNCH)
        b->hba.plugged(b->hba.opaque, d, true);
    return true;
}

static void unplug(struct bus *bus, struct dev *dev)
{
    struct scsi_bus *b = container_of(bus, struct scsi_bus, bus);
    struct scsi_dev *d = container_of(dev, struct scsi_dev, dev);

    scsi_enter(d);
    if (d->in_units.next)
        list_del(&d->in_units);
    scsi_leave(d);
    if (b->hba.plugged)
        b->hba.plugged(b->hba.opaque, d, false);
}

static char *fw_path(struct dev *dev)
{
    struct scsi_dev *d = container_of(dev, struct scsi_dev, dev);

    return xasprintf("channel@%x/disk@%x,%x", d->channel, d->id, d->lun);
}

static char *dev_path(struct dev *dev)
{
    struct scsi_dev *d = container_of(dev, struct scsi_dev, dev);

    return xasprintf("%u:%u:%u", d->channel, d->id, d->lun);
}

static const struct bus_class scsi_bus_class = {
    .type = "SCSI", .plug = place, .plugged = plugged, .unplug = unplug, .fw_path = fw_path, .dev_path = dev_path};

void scsi_bus_init(struct scsi_bus *b, struct dev *owner, const struct scsi_hba *hba)
{
    b->hba = *hba;
    list_init(&b->units);
    bus_init(&b->bus, &scsi_bus_class, owner, NULL);
    b->bus.hotplug = true;
}

void scsi_bus_fini(struct scsi_bus *b)
{
    bus_fini(&b->bus);
}

static void CONSTRUCTOR scsi_family(void)
{
    obj_register_family("scsi-device", "device");
}

/* ---- what the target answers for its units ---- */

static void put_lun(uint8_t *p, unsigned lun)
{
    memset(p, 0, 8);
    p[0] = lun > 255 ? 0x40 | (lun >> 8 & 0x3f) : 0;
    p[1] = lun;
}

static void report_luns(struct scsi_bus *b, unsigned channel, unsigned id, struct scsi_req *r)
{
    uint8_t buf[8 + 8 * MAX_LUNS_REPLY] = {0};
    uint32_t alloc = get_be32(r->cdb + 6);
    unsigned n = 0;
    struct dev *d;

    if (alloc < 16 || r->cdb[2] > 2) {
        scsi_fail(r, SENSE_BAD_FIELD);
        return;
    }
    if (r->cdb[2] != 1) {
        bool zero = false;
        list_each (d, &b->bus.devs, link) {
            struct scsi_dev *s = container_of(d, struct scsi_dev, dev);
            if (d->realized && s->channel == channel && s->id == id && n < MAX_LUNS_REPLY - 1) {
                put_lun(buf + 8 + 8 * n++, s->lun);
                zero |= !s->lun;
            }
        }
        if (!zero) /* unit 0 always answers */
            put_lun(buf + 8 + 8 * n++, 0);
    }
    put_be32(buf, 8 * n);
    scsi_reply(r, buf, 8 + 8 * n, alloc);
}

/* A unit that is not there, of a target that is. */
static void absent_unit(struct scsi_req *r)
{
    uint8_t buf[36] = {0x7f, 0, 5, 2, sizeof buf - 5};

    switch (r->cdb[0]) {
    case INQUIRY:
        scsi_reply(r, buf, sizeof buf, get_be16(r->cdb + 3));
        break;
    case REQUEST_SENSE:
        scsi_sense_build(buf, SENSE_BAD_LUN);
        scsi_reply(r, buf, SCSI_SENSE_LEN, r->cdb[4]);
        break;
    default:
        scsi_fail(r, SENSE_BAD_LUN);
        break;
    }
}

void scsi_run(struct scsi_dev *d, struct scsi_req *r)
{
    r->dev = d;
    r->sense_len = 0;
    r->moved = 0;
    d->inflight++;
    if (d->attention && r->cdb[0] == REQUEST_SENSE) {
        uint8_t s[SCSI_SENSE_LEN];
        scsi_sense_build(s, 0x060000 | d->attention);
        d->attention = 0;
        scsi_reply(r, s, sizeof s, r->cdb[4]);
    } else if (d->attention && r->cdb[0] != INQUIRY) {
        uint32_t a = 0x060000 | d->attention;
        d->attention = 0;
        scsi_fail(r, a);
    } else {
        scsi_class(d)->run(d, r);
    }
}

bool scsi_submit(struct scsi_bus *b, unsigned channel, unsigned id, unsigned lun, struct scsi_req *r)
{
    bool target;
    struct scsi_dev *d = scsi_find(b, channel, id, lun, &target);

    if (!target)
        return false;
    if (d && r->cdb[0] != REPORT_LUNS) {
        scsi_run(d, r);
        return true;
    }
    r->dev = NULL;
    r->sense_len = 0;
    r->moved = 0;
    if (r->cdb[0] == REPORT_LUNS)
        report_luns(b, channel, id, r);
    else
        absent_unit(r);
    return true;
}

bool scsi_runs_anywhere(struct scsi_bus *b, unsigned channel, unsigned id, unsigned lun, const uint8_t *cdb)
{
    bool target;
    struct scsi_dev *d = scsi_find(b, channel, id, lun, &target);

    return d && !d->attention && scsi_class(d)->anywhere && scsi_class(d)->anywhere(d, cdb);
}

void scsi_drain(struct scsi_bus *b)
{
    struct scsi_dev *d;

    list_each (d, &b->units, in_units)
        if (scsi_class(d)->drain)
            scsi_class(d)->drain(d);
}

void scsi_unit_reset(struct scsi_dev *d)
{
    scsi_enter(d);
    d->attention = ATTENTION_RESET;
    if (scsi_class(d)->unit_reset)
        scsi_class(d)->unit_reset(d);
    scsi_leave(d);
}
