/* The part of a virtio device that does not depend on what it is: status, features, queues' life, configuration.
 *
 * Source: VIRTIO 1.2, chapter 2 (2.1 status, 2.2 features, 2.5 configuration) and 3.1 (initialisation).
 *
 * Kicks only schedule the queue's handler on the machine's loop, so a vCPU goes on at once; with ioeventfd=off the
 * handler runs on the vCPU's thread. With an I/O thread (q->io) it runs there, without the machine lock; what changes
 * a queue's set-up from elsewhere enters the I/O thread first, and interrupts are raised with the machine lock if it is
 * free, else by the main loop. While the machine is stopped nothing touches the rings; handlers run again when it goes
 * on. */
#include "hw/virtio/virtio.h"
#include <stdio.h>

enum { HELD_MAX = 16 << 20 };

bool virtio_active(const struct virtio_dev *vd)
{
    struct machine *m = dev_machine(vd->dev);

    if (vd->broken || !(m->stepped || machine_running(m)))
        return false;
    /* Old drivers use their queues before they say DRIVER_OK. */
    return (vd->status & VIRTIO_S_DRIVER_OK) || !virtio_has(vd, VIRTIO_F_VERSION_1);
}

static void queue_run(void *opaque)
{
    struct virtq *q = opaque;

    if (q->enabled && virtio_active(q->vd))
        q->handle(q->vd, q);
}

void virtq_schedule(struct virtq *q)
{
    ev_bh_schedule(&q->bh);
}

void virtio_kick(struct virtio_dev *vd, unsigned queue)
{
    if (queue >= vd->nr_vq)
        return;
    struct virtq *q = &vd->vq[queue];
    if (!vd->kick_sync) {
        ev_bh_schedule(&q->bh);
        return;
    }
    RUN_LOCK_SCOPE(dev_machine(vd->dev)->run);
    queue_run(q);
}

void virtio_enter(struct virtio_dev *vd)
{
    for (unsigned i = 0; i < vd->nr_vq; i++)
        iothread_enter(vd->vq[i].io);
}

void virtio_leave(struct virtio_dev *vd)
{
    for (unsigned i = vd->nr_vq; i-- > 0;)
        iothread_leave(vd->vq[i].io);
}

static void irq_run(void *opaque)
{
    struct virtq *q = opaque;

    q->vd->transport->notify_queue(q->vd->transport_opaque, q);
}

struct virtq *virtio_add_queue(struct virtio_dev *vd, unsigned num_max, virtq_fn *handle)
{
    assert(num_max && num_max <= VIRTQ_MAX_NUM && is_pow2(num_max));
    if (vd->nr_vq == VIRTIO_QUEUES)
        return NULL;
    struct virtq *q = &vd->vq[vd->nr_vq];
    q->vd = vd;
    q->index = vd->nr_vq++;
    q->num = q->num_max = num_max;
    q->vector = VIRTIO_NO_VECTOR;
    q->handle = handle;
    q->io = vd->io;
    ev_bh_init(&q->bh, vd->io ? vd->io->loop : dev_machine(vd->dev)->run->loop, queue_run, q);
    ev_bh_init(&q->irq_bh, dev_machine(vd->dev)->run->loop, irq_run, q);
    return q;
}

void virtio_error(struct virtio_dev *vd, const char *fmt, ...)
{
    char text[160];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log_guest("%s: %s; the device needs a reset", vd->type->name, text);
    if (vd->broken)
        return;
    vd->broken = true;
    if (virtio_has(vd, VIRTIO_F_VERSION_1)) {
        vd->status |= VIRTIO_S_NEEDS_RESET;
        virtio_config_changed(vd);
    }
}

static void config_run(void *opaque)
{
    struct virtio_dev *vd = opaque;

    vd->transport->notify_config(vd->transport_opaque);
}

void virtio_config_changed(struct virtio_dev *vd)
{
    vd->config_gen++;
    if (!(vd->status & VIRTIO_S_DRIVER_OK))
        return;
    if (iothread_self())
        ev_bh_schedule(&vd->config_bh);
    else
        vd->transport->notify_config(vd->transport_opaque);
}

/* ---- features ---- */

static uint64_t transport_features(const struct virtio_dev *vd, bool modern)
{
    static const struct {
        unsigned prop, feature;
    } map[] = {
        {VIRTIO_P_INDIRECT, VIRTIO_F_INDIRECT_DESC},
        {VIRTIO_P_EVENT_IDX, VIRTIO_F_EVENT_IDX},
        {VIRTIO_P_NOTIFY_ON_EMPTY, VIRTIO_F_NOTIFY_ON_EMPTY},
        {VIRTIO_P_ANY_LAYOUT, VIRTIO_F_ANY_LAYOUT},
        {VIRTIO_P_PACKED, VIRTIO_F_RING_PACKED},
    };
    uint64_t f = modern ? VIRTIO_BIT(VIRTIO_F_VERSION_1) : 0;

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (vd->feature_bits >> map[i].prop & 1)
            f |= VIRTIO_BIT(map[i].feature);
    if (!modern)
        f &= ~VIRTIO_BIT(VIRTIO_F_RING_PACKED);
    return f;
}

void virtio_set_features(struct virtio_dev *vd, uint64_t val)
{
    if (vd->status & VIRTIO_S_FEATURES_OK)
        return; /* settled */
    vd->guest_features = val & vd->features;
    if (!virtio_has(vd, VIRTIO_F_VERSION_1)) /* no packed rings for legacy drivers */
        vd->guest_features &= ~VIRTIO_BIT(VIRTIO_F_RING_PACKED);
    else
        vd->guest_features &= ~VIRTIO_BIT(VIRTIO_F_NOTIFY_ON_EMPTY);
    if (!virtio_has(vd, VIRTIO_F_VERSION_1) && vd->type->set_features)
        vd->type->set_features(vd);
}

/* FEATURES_OK sticks only when the device can work with what was chosen. */
static bool features_ok(struct virtio_dev *vd)
{
    if (!virtio_has(vd, VIRTIO_F_VERSION_1)) {
        log_guest("%s: driver set FEATURES_OK without VERSION_1", vd->type->name);
        return false;
    }
    if (vd->type->validate && !vd->type->validate(vd, vd->guest_features))
        return false;
    if (vd->type->set_features)
        vd->type->set_features(vd);
    return true;
}

void virtio_set_status(struct virtio_dev *vd, uint8_t val)
{
    uint8_t old = vd->status;

    if (!val) {
        virtio_reset(vd);
        return;
    }
    virtio_enter(vd);
    if ((val & VIRTIO_S_FEATURES_OK) && !(old & VIRTIO_S_FEATURES_OK) && !features_ok(vd))
        val &= ~VIRTIO_S_FEATURES_OK;
    vd->status = val | (old & VIRTIO_S_NEEDS_RESET);
    if (vd->type->set_status)
        vd->type->set_status(vd, old);
    if ((val & VIRTIO_S_DRIVER_OK) && !(old & VIRTIO_S_DRIVER_OK))
        for (unsigned i = 0; i < vd->nr_vq; i++) /* buffers may have been queued before */
            if (vd->vq[i].enabled)
                ev_bh_schedule(&vd->vq[i].bh);
    virtio_leave(vd);
}

/* ---- configuration ---- */

void virtio_config_read(struct virtio_dev *vd, uint8_t *cfg)
{
    memset(cfg, 0, vd->config_size);
    if (vd->type->get_config)
        vd->type->get_config(vd, cfg);
}

void virtio_config_write(struct virtio_dev *vd, unsigned off, uint64_t val, unsigned size)
{
    uint8_t cfg[VIRTIO_CONFIG_MAX + 8];

    if (off >= vd->config_size || size > vd->config_size - off || !vd->type->set_config) {
        log_guest("%s: write of %u bytes to configuration offset %u", vd->type->name, size, off);
        return;
    }
    virtio_config_read(vd, cfg);
    put_le(cfg + off, val, size);
    vd->type->set_config(vd, cfg, off, size);
}

/* ---- life ---- */

static void queue_reset(struct virtq *q)
{
    ev_bh_cancel(&q->bh);
    ev_bh_cancel(&q->irq_bh);
    q->enabled = false;
    q->gen++;
    q->num = q->num_max;
    q->vector = VIRTIO_NO_VECTOR;
    q->desc = q->driver = q->device = 0;
    q->last_avail = q->used_idx = q->signalled = 0;
    q->avail_wrap = q->used_wrap = true;
    q->signalled_ok = q->no_kicks = false;
    q->inuse = 0;
    q->nr_pend = 0;
    q->map_gen = q->vd->map_gen - 1;
}

void virtio_reset(struct virtio_dev *vd)
{
    virtio_enter(vd); /* none of its queues is being handled from here on */
    vd->status = 0;
    vd->isr = 0;
    vd->broken = false;
    vd->queue_sel = 0;
    vd->config_vector = VIRTIO_NO_VECTOR;
    /* Queues first: what the device still holds now belongs to a past life. */
    for (unsigned i = 0; i < vd->nr_vq; i++)
        queue_reset(&vd->vq[i]);
    virtio_leave(vd);
    if (vd->type->reset)
        vd->type->reset(vd);
    vd->guest_features = 0;
    if (vd->type->set_features)
        vd->type->set_features(vd);
}

static void map_changed(void *opaque)
{
    struct virtio_dev *vd = opaque;

    vd->map_gen++;
}

static void state_changed(void *opaque)
{
    struct virtio_dev *vd = opaque;
    bool on = machine_running(dev_machine(vd->dev));

    if (on == vd->was_running)
        return;
    vd->was_running = on;
    virtio_enter(vd); /* a queue being handled now is finished first */
    if (vd->type->running)
        vd->type->running(vd, on);
    for (unsigned i = 0; on && i < vd->nr_vq; i++)
        if (vd->vq[i].enabled)
            ev_bh_schedule(&vd->vq[i].bh);
    virtio_leave(vd);
}

bool virtio_realize(struct virtio_dev *vd, bool modern, bool legacy, struct err **errp)
{
    if (vd->feature_bits >> VIRTIO_P_IOMMU & 1)
        return err_set(errp, "%s: iommu_platform=on needs a virtual IOMMU, which no machine here has", vd->type->name);
    if ((vd->feature_bits >> VIRTIO_P_PACKED & 1) && !modern)
        return err_set(errp, "%s: packed=on needs the modern interface; drop disable-modern=on", vd->type->name);
    vd->config_size = vd->type->config_size;
    vd->config_vector = VIRTIO_NO_VECTOR;
    vd->map_gen = 1;
    ev_bh_init(&vd->config_bh, dev_machine(vd->dev)->run->loop, config_run, vd);
    if (!vd->type->realize(vd, errp))
        return false;
    assert(vd->config_size <= VIRTIO_CONFIG_MAX);
    vd->features |= transport_features(vd, modern);
    mem_space_listen(vd->dma, map_changed, vd);
    vd->state_hook = (struct machine_hook){.fn = state_changed, .opaque = vd};
    vd->was_running = machine_running(dev_machine(vd->dev));
    machine_on_state(dev_machine(vd->dev), &vd->state_hook);
    vd->realized = true;
    for (unsigned i = 0; i < vd->nr_vq; i++)
        queue_reset(&vd->vq[i]);
    return true;
}

void virtio_unrealize(struct virtio_dev *vd)
{
    if (!vd->realized)
        return;
    virtio_reset(vd);
    machine_hook_del(&vd->state_hook);
    mem_space_unlisten(vd->dma, map_changed, vd);
    if (vd->type->unrealize)
        vd->type->unrealize(vd);
    for (unsigned i = 0; i < vd->nr_vq; i++) {
        ev_bh_cancel(&vd->vq[i].bh);
        ev_bh_cancel(&vd->vq[i].irq_bh);
        free(vd->vq[i].pend);
        vd->vq[i].pend = NULL;
        vd->vq[i].nr_pend = vd->vq[i].cap_pend = 0;
    }
    ev_bh_cancel(&vd->config_bh);
    free(vd->held);
    vd->held = NULL;
    vd->realized = false;
}

/* ---- saved state ---- */

static const struct state_field virtq_fields[] = {
    STATE_U16(struct virtq, num),        STATE_U16(struct virtq, vector),    STATE_BOOL(struct virtq, enabled),
    STATE_U64(struct virtq, desc),       STATE_U64(struct virtq, driver),    STATE_U64(struct virtq, device),
    STATE_U16(struct virtq, last_avail), STATE_U16(struct virtq, used_idx),  STATE_BOOL(struct virtq, avail_wrap),
    STATE_BOOL(struct virtq, used_wrap), STATE_U16(struct virtq, signalled), STATE_BOOL(struct virtq, signalled_ok),
    STATE_BOOL(struct virtq, no_kicks),  STATE_U16(struct virtq, inuse),     STATE_END,
};
static const struct state_desc virtq_state = {.name = "virtq", .version = 1, .fields = virtq_fields};

static const struct state_field virtio_fields[] = {
    STATE_U16(struct virtio_dev, queue_sel),
    STATE_U8(struct virtio_dev, status),
    STATE_U8(struct virtio_dev, isr),
    STATE_BOOL(struct virtio_dev, broken),
    STATE_U64(struct virtio_dev, guest_features),
    STATE_U32(struct virtio_dev, config_gen),
    STATE_U16(struct virtio_dev, config_vector),
    STATE_STRUCTS(struct virtio_dev, vq, virtq_state),
    STATE_ALLOC(struct virtio_dev, held, held_len, HELD_MAX),
    STATE_END,
};

struct holding {
    struct strbuf b;
    uint32_t slots[VIRTIO_QUEUES];
};
static void hold(void *opaque, const struct virtq_elem *e, uint64_t tag)
{
    struct holding *h = opaque;

    if (e->gen != e->q->gen)
        return;
    virtq_elem_put(&h->b, e, tag);
    h->slots[e->q->index] += e->ndesc;
}

static bool virtio_pre_save(void *opaque, struct err **errp)
{
    struct virtio_dev *vd = opaque;
    struct holding h = {0};

    if (vd->type->held)
        vd->type->held(vd, hold, &h);
    free(vd->held);
    vd->held_len = (uint32_t)h.b.len;
    vd->held = (uint8_t *)str_take(&h.b);
    for (unsigned i = 0; i < vd->nr_vq; i++)
        if (vd->vq[i].inuse != h.slots[i])
            return err_set(errp, "a request of queue %u has not ended", i);
    return vd->held_len <= HELD_MAX || err_set(errp, "too many requests are under way");
}

static bool take_back(struct virtio_dev *vd)
{
    const uint8_t *p = vd->held;
    size_t n = vd->held_len;
    bool ok = true;

    while (ok && n) {
        uint64_t tag;
        struct virtq_elem *e = vd->type->take_back ? virtq_elem_get(vd, &p, &n, &tag) : NULL;

        ok = e != NULL;
        if (ok)
            vd->type->take_back(vd, e, tag);
    }
    free(vd->held);
    vd->held = NULL;
    vd->held_len = 0;
    return ok;
}

static bool virtio_post_load(void *opaque, struct err **errp)
{
    struct virtio_dev *vd = opaque;

    vd->map_gen++;
    if (vd->guest_features & ~vd->features)
        return false;
    for (unsigned i = 0; i < vd->nr_vq; i++) {
        struct virtq *q = &vd->vq[i];
        if (q->num > q->num_max || (q->enabled && !q->num) || q->inuse > q->num ||
            (virtio_has(vd, VIRTIO_F_RING_PACKED) && (q->last_avail >= q->num || q->used_idx >= q->num)))
            return false;
        q->map_gen = vd->map_gen - 1;
    }
    if (vd->type->set_features)
        vd->type->set_features(vd);
    return take_back(vd);
}
const struct state_desc virtio_state = {.name = "virtio",
                                        .version = 1,
                                        .fields = virtio_fields,
                                        .pre_save = virtio_pre_save,
                                        .post_load = virtio_post_load};
