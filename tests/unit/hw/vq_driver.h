/* A virtio driver's side for unit tests: a bare machine with RAM, a device that does nothing by itself, and helpers
 * that build split and packed rings in guest memory. */
#ifndef TESTS_UNIT_HW_VQ_DRIVER_H
#define TESTS_UNIT_HW_VQ_DRIVER_H

#include "hw/virtio/virtio.h"

enum { RAM_SIZE = 1 << 20, RING = 0x10000, AVAIL = 0x11000, USED = 0x12000, BUFS = 0x20000, TABLE = 0x30000 };
enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4, P_AVAIL = 1 << 7, P_USED = 1 << 15 };

struct rig {
    struct run *run;
    struct machine *m;
    struct mem_region ram;
    uint8_t *mem;
    struct dev dev;
    struct virtio_dev vd;
    struct virtq *q;
    unsigned irqs, config_irqs, handled;
    uint16_t avail;
};

static void rig_irq(void *opaque, struct virtq *q)
{
    ((struct rig *)opaque)->irqs++;
}
static void rig_config_irq(void *opaque)
{
    ((struct rig *)opaque)->config_irqs++;
}
static const struct virtio_transport rig_transport = {.notify_queue = rig_irq, .notify_config = rig_config_irq};
static void rig_handle(struct virtio_dev *vd, struct virtq *q)
{
    container_of(vd, struct rig, vd)->handled++;
}
static bool rig_realize(struct virtio_dev *vd, struct err **errp)
{
    virtio_add_queue(vd, 256, rig_handle);
    return true;
}
static const struct virtio_type rig_type = {.name = "rig", .id = 42, .realize = rig_realize};

static struct rig *rig_new(void)
{
    struct rig *r = xnew(struct rig);

    r->run = run_new();
    r->m = machine_new(r->run);
    r->m->state = RS_RUNNING;
    mem_region_init_ram(&r->ram, r->m->mem_sys, "ram", RAM_SIZE, NULL);
    mem_region_add(&r->m->sysmem, 0, &r->ram);
    r->mem = mem_region_ptr(&r->ram);
    r->dev.obj.ctx = r->m;
    r->vd.type = &rig_type;
    r->vd.dev = &r->dev;
    r->vd.dma = r->m->mem;
    r->vd.transport = &rig_transport;
    r->vd.transport_opaque = r;
    r->vd.feature_bits = 1 << VIRTIO_P_INDIRECT | 1 << VIRTIO_P_EVENT_IDX | 1 << VIRTIO_P_PACKED;
    virtio_realize(&r->vd, true, true, NULL);
    r->q = &r->vd.vq[0];
    return r;
}

static void rig_free(struct rig *r)
{
    virtio_unrealize(&r->vd);
    mem_region_del(&r->ram);
    mem_region_free(&r->ram);
    machine_free(r->m);
    run_free(r->run);
    free(r);
}

/* Resets the device and starts queue 0 with `num` entries and the given features besides VERSION_1. */
static void rig_start(struct rig *r, unsigned num, uint64_t features)
{
    virtio_set_status(&r->vd, 0);
    memset(r->mem, 0, RAM_SIZE);
    virtio_set_status(&r->vd, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
    virtio_set_features(&r->vd, features | VIRTIO_BIT(VIRTIO_F_VERSION_1));
    virtio_set_status(&r->vd, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK);
    r->q->num = num;
    r->q->desc = RING;
    r->q->driver = AVAIL;
    r->q->device = USED;
    virtq_enable(r->q);
    virtio_set_status(&r->vd, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK);
    r->irqs = r->config_irqs = 0;
    r->avail = 0;
}

static void put_desc(struct rig *r, gpa_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    uint8_t *d = r->mem + table + 16 * i;

    put_le64(d, addr);
    put_le32(d + 8, len);
    put_le16(d + 12, flags);
    put_le16(d + 14, next);
}

static void put_packed(struct rig *r, gpa_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t id, uint16_t flags)
{
    uint8_t *d = r->mem + table + 16 * i;

    put_le64(d, addr);
    put_le32(d + 8, len);
    put_le16(d + 12, id);
    put_le16(d + 14, flags);
}

static void offer(struct rig *r, uint16_t head)
{
    put_le16(r->mem + AVAIL + 4 + 2 * (r->avail % r->q->num), head);
    put_le16(r->mem + AVAIL + 2, ++r->avail);
}

static uint16_t used_idx(struct rig *r)
{
    return get_le16(r->mem + USED + 2);
}

#endif
