/* A small virtio driver in C, as a guest would be: finds the capabilities, negotiates, sets queues up, sends chains. */
#ifndef TESTS_UNIT_HW_VIO_GUEST_H
#define TESTS_UNIT_HW_VIO_GUEST_H

#include "hw/pci_bare.h"
#include "hw/virtio/virtio.h"

enum { VQ_NUM = 64, VQ_AREA = 0x4000 };

struct vio_queue {
    gpa_t desc, avail, used;
    uint16_t next, avail_idx, seen;
    uint16_t notify_off;
};
struct vio {
    struct bare *b;
    struct pci_dev *d;
    gpa_t common, isr, device, notify; /* addresses of the windows */
    uint32_t mult;
    struct vio_queue q[8];
    gpa_t bump; /* next free buffer byte */
};
struct vio_part {
    const void *out; /* device reads these bytes; NULL: device writes */
    uint32_t len;
    gpa_t at; /* where it went */
};

static UNUSED uint64_t vio_ld(struct vio *v, gpa_t a, unsigned size)
{
    return mem_ld(v->b->m->mem, a, size);
}
static UNUSED void vio_st(struct vio *v, gpa_t a, unsigned size, uint64_t val)
{
    mem_store(v->b->m->mem, a, size, val);
}

static UNUSED void vio_find(struct vio *v)
{
    struct pci_bus *bus = v->b->bus;
    uint8_t fn = v->d->devfn;
    unsigned cap = pci_cfg_read(bus, 0, fn, PCI_CAPABILITY_LIST, 1);

    for (; cap; cap = pci_cfg_read(bus, 0, fn, cap + 1, 1)) {
        if (pci_cfg_read(bus, 0, fn, cap, 1) != PCI_CAP_VENDOR)
            continue;
        gpa_t at = BARE_MMIO + pci_cfg_read(bus, 0, fn, cap + 8, 4);
        switch (pci_cfg_read(bus, 0, fn, cap + 3, 1)) {
        case 1:
            v->common = at;
            break;
        case 2:
            v->notify = at;
            v->mult = pci_cfg_read(bus, 0, fn, cap + 16, 4);
            break;
        case 3:
            v->isr = at;
            break;
        case 4:
            v->device = at;
            break;
        }
    }
    assert_true(v->common && v->isr && v->device && v->notify);
}

static UNUSED uint64_t vio_features(struct vio *v)
{
    uint64_t f;

    vio_st(v, v->common, 4, 0);
    f = vio_ld(v, v->common + 4, 4);
    vio_st(v, v->common, 4, 1);
    return f | vio_ld(v, v->common + 4, 4) << 32;
}

/* Up to FEATURES_OK, all queues (at most 8), DRIVER_OK. */
static UNUSED void vio_start(struct vio *v, struct bare *b, struct pci_dev *d, uint64_t want)
{
    *v = (struct vio){.b = b, .d = d, .bump = 0x100000};
    bare_map(d, 4, BARE_MMIO);
    vio_find(v);
    vio_st(v, v->common + 20, 1, 0);
    vio_st(v, v->common + 20, 1, 3);
    want = vio_features(v) & (want | VIRTIO_BIT(VIRTIO_F_VERSION_1));
    for (unsigned i = 0; i < 2; i++) {
        vio_st(v, v->common + 8, 4, i);
        vio_st(v, v->common + 12, 4, (uint32_t)(want >> (32 * i)));
    }
    vio_st(v, v->common + 20, 1, 11);
    assert_int_equal(vio_ld(v, v->common + 20, 1), 11);
    for (unsigned i = 0; i < min_u64(8, vio_ld(v, v->common + 18, 2)); i++) {
        struct vio_queue *q = &v->q[i];
        gpa_t base = 0x10000 + i * VQ_AREA;

        vio_st(v, v->common + 22, 2, i);
        if (vio_ld(v, v->common + 24, 2) > VQ_NUM)
            vio_st(v, v->common + 24, 2, VQ_NUM);
        q->desc = base;
        q->avail = base + 0x1000;
        q->used = base + 0x2000;
        memset(b->mem + base, 0, VQ_AREA);
        for (unsigned k = 0; k < 3; k++) {
            gpa_t a = base + 0x1000 * k;
            vio_st(v, v->common + 32 + 8 * k, 4, (uint32_t)a);
            vio_st(v, v->common + 36 + 8 * k, 4, a >> 32);
        }
        vio_st(v, v->common + 28, 2, 1);
        q->notify_off = vio_ld(v, v->common + 30, 2);
    }
    vio_st(v, v->common + 20, 1, 15);
}

/* Queues a chain and kicks; its head. */
static UNUSED uint16_t vio_post(struct vio *v, unsigned queue, struct vio_part *p, unsigned n)
{
    struct vio_queue *q = &v->q[queue];
    uint8_t *mem = v->b->mem;
    vio_st(v, v->common + 22, 2, queue);
    unsigned num = vio_ld(v, v->common + 24, 2), head = q->next;

    for (unsigned i = 0; i < n; i++) {
        uint8_t *d = mem + q->desc + 16 * q->next;
        p[i].at = v->bump;
        v->bump += align_up(p[i].len, 16);
        if (p[i].out)
            memcpy(mem + p[i].at, p[i].out, p[i].len);
        else
            memset(mem + p[i].at, 0xee, p[i].len);
        q->next = (q->next + 1) % num;
        put_le64(d, p[i].at);
        put_le32(d + 8, p[i].len);
        put_le16(d + 12, (i + 1 < n ? 1 : 0) | (p[i].out ? 0 : 2));
        put_le16(d + 14, q->next);
    }
    put_le16(mem + q->avail + 4 + 2 * (q->avail_idx % num), head);
    put_le16(mem + q->avail + 2, ++q->avail_idx);
    vio_st(v, v->notify + (gpa_t)q->notify_off * v->mult, 2, queue);
    return head;
}

/* Waits for one more used entry; the bytes written, -1 when nothing comes. */
static UNUSED int64_t vio_used(struct vio *v, unsigned queue)
{
    struct vio_queue *q = &v->q[queue];

    vio_st(v, v->common + 22, 2, queue);
    unsigned num = vio_ld(v, v->common + 24, 2);
    if (!bare_wait16(v->b, q->used + 2, q->seen))
        return -1;
    return get_le32(v->b->mem + q->used + 8 + 8 * (q->seen++ % num));
}

static UNUSED int64_t vio_do(struct vio *v, unsigned queue, struct vio_part *p, unsigned n)
{
    vio_post(v, queue, p, n);
    return vio_used(v, queue);
}

#endif
