/* virtio over PCI. Source: VIRTIO 1.2, 4.1 (modern: five capabilities over a memory BAR) and 4.1.4.10 (legacy: one I/O
 * BAR).
 *
 * BAR 0: legacy registers (transitional devices); BAR 1: MSI-X; BAR 4: common configuration at 0, ISR at 0x1000, device
 * configuration at 0x2000, notifications from 0x3000 (4 bytes apart, or a page each with page-per-vq=on).
 *
 * ioeventfd=on (the default): a write to a notification register only schedules the queue on the main loop and needs no
 * lock; off: the queue is served before the vCPU goes on.
 * Left out: shared-memory capabilities, the notification BAR in I/O space (modern-pio-notify), ATS. */
#include "hw/virtio/virtio_pci.h"

enum { /* legacy registers */
       L_HOST_FEATURES = 0,
       L_GUEST_FEATURES = 4,
       L_QUEUE_PFN = 8,
       L_QUEUE_NUM = 12,
       L_QUEUE_SEL = 14,
       L_QUEUE_NOTIFY = 16,
       L_STATUS = 18,
       L_ISR = 19,
       L_CONFIG_VECTOR = 20,
       L_QUEUE_VECTOR = 22,
       L_CONFIG = 20,
       L_CONFIG_MSIX = 24,
};
enum { /* struct virtio_pci_common_cfg */
       C_DFSELECT = 0,
       C_DF = 4,
       C_GFSELECT = 8,
       C_GF = 12,
       C_MSIX = 16,
       C_NUMQ = 18,
       C_STATUS = 20,
       C_GENERATION = 21,
       C_Q_SELECT = 22,
       C_Q_SIZE = 24,
       C_Q_MSIX = 26,
       C_Q_ENABLE = 28,
       C_Q_NOFF = 30,
       C_Q_DESC = 32,
       C_Q_DRIVER = 40,
       C_Q_DEVICE = 48,
       C_END = 56,
};
enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4, CFG_PCI = 5 };
enum { OFF_COMMON = 0, OFF_ISR = 0x1000, OFF_DEVICE = 0x2000, OFF_NOTIFY = 0x3000, WINDOW = 0x1000 };
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };
enum { MSIX_BAR = 1, MODERN_BAR = 4 };
/* Feature bits the legacy interface must not show: it has 32 of them. */
#define LEGACY_FEATURES UINT64_C(0xffffffff)

static struct virtq *sel_queue(struct virtio_dev *vd)
{
    return vd->queue_sel < vd->nr_vq ? &vd->vq[vd->queue_sel] : NULL;
}

/* ---- interrupts ---- */

static void raise_vector(struct virtio_pci *p, uint16_t vector, uint8_t isr)
{
    if (pci_msix_enabled(&p->pci)) {
        if (vector != VIRTIO_NO_VECTOR)
            pci_msix_notify(&p->pci, vector);
        return;
    }
    p->vd->isr |= isr;
    pci_set_intx(&p->pci, 1);
}

static void notify_queue(void *opaque, struct virtq *q)
{
    raise_vector(opaque, q->vector, ISR_QUEUE);
}

static void notify_config(void *opaque)
{
    struct virtio_pci *p = opaque;

    raise_vector(p, p->vd->config_vector, ISR_CONFIG);
}
static const struct virtio_transport pci_transport = {.notify_queue = notify_queue, .notify_config = notify_config};

static uint8_t isr_read(struct virtio_pci *p)
{
    uint8_t v = p->vd->isr;

    p->vd->isr = 0;
    pci_set_intx(&p->pci, 0);
    return v;
}

/* A vector the driver asks for; it reads back NO_VECTOR when there is none such. */
static uint16_t checked_vector(struct virtio_pci *p, uint64_t v)
{
    return v < p->vectors ? v : VIRTIO_NO_VECTOR;
}

/* ---- device configuration, any size ---- */

static uint64_t config_load(struct virtio_dev *vd, uint64_t off, unsigned size)
{
    uint8_t cfg[VIRTIO_CONFIG_MAX + 8];

    if (off >= vd->config_size || size > vd->config_size - off)
        return size == 4 ? UINT32_MAX : (UINT64_C(1) << (8 * size)) - 1;
    virtio_config_read(vd, cfg);
    return get_le(cfg + off, size);
}

/* ---- legacy registers ---- */

static uint64_t legacy_config_off(struct virtio_pci *p)
{
    return pci_msix_enabled(&p->pci) ? L_CONFIG_MSIX : L_CONFIG;
}

static uint64_t legacy_read(void *opaque, gpa_t off, unsigned size)
{
    struct virtio_pci *p = opaque;
    struct virtio_dev *vd = p->vd;
    struct virtq *q = sel_queue(vd);

    if (off >= legacy_config_off(p))
        return config_load(vd, off - legacy_config_off(p), size);
    switch (off) {
    case L_HOST_FEATURES:
        return vd->features & LEGACY_FEATURES;
    case L_GUEST_FEATURES:
        return vd->guest_features & LEGACY_FEATURES;
    case L_QUEUE_PFN:
        return q && q->enabled ? q->desc >> 12 : 0;
    case L_QUEUE_NUM:
        return q ? q->num_max : 0;
    case L_QUEUE_SEL:
        return vd->queue_sel;
    case L_STATUS:
        return vd->status;
    case L_ISR:
        return isr_read(p);
    case L_CONFIG_VECTOR:
        return vd->config_vector;
    case L_QUEUE_VECTOR:
        return q ? q->vector : VIRTIO_NO_VECTOR;
    default:
        log_guest("virtio-pci: legacy read of %u bytes at %#" PRIx64, size, off);
        return UINT32_MAX;
    }
}

static void legacy_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct virtio_pci *p = opaque;
    struct virtio_dev *vd = p->vd;
    struct virtq *q = sel_queue(vd);

    if (off >= legacy_config_off(p)) {
        virtio_config_write(vd, off - legacy_config_off(p), val, size);
        return;
    }
    switch (off) {
    case L_GUEST_FEATURES:
        virtio_set_features(vd, val & LEGACY_FEATURES);
        break;
    case L_QUEUE_PFN:
        if (!val) /* as a whole-device reset, says the legacy interface */
            virtio_reset(vd);
        else if (q)
            virtq_set_legacy_pfn(q, val);
        break;
    case L_QUEUE_SEL:
        vd->queue_sel = val;
        break;
    case L_QUEUE_NOTIFY:
        virtio_kick(vd, val & 0xffff);
        break;
    case L_STATUS:
        virtio_set_status(vd, val);
        if (!(val & 0xff))
            pci_set_intx(&p->pci, 0);
        break;
    case L_CONFIG_VECTOR:
        vd->config_vector = checked_vector(p, val);
        break;
    case L_QUEUE_VECTOR:
        if (q)
            q->vector = checked_vector(p, val);
        break;
    default:
        log_guest("virtio-pci: legacy write of %u bytes at %#" PRIx64, size, off);
        break;
    }
}
static const struct mem_ops legacy_ops = {.read = legacy_read,
                                          .write = legacy_write,
                                          .valid_min = 1,
                                          .valid_max = 4,
                                          .impl_min = 1,
                                          .impl_max = 4,
                                          .unaligned = true};

/* ---- modern registers ---- */

/* Half `hi` (0 or 1) of one of the queue's three addresses. */
static uint64_t *queue_addr(struct virtq *q, gpa_t off)
{
    return off < C_Q_DRIVER ? &q->desc : off < C_Q_DEVICE ? &q->driver : &q->device;
}

static uint64_t common_read_queue(struct virtio_dev *vd, gpa_t off)
{
    struct virtq *q = sel_queue(vd);

    if (!q)
        return off == C_Q_MSIX ? VIRTIO_NO_VECTOR : 0;
    switch (off) {
    case C_Q_SIZE:
        return q->num;
    case C_Q_MSIX:
        return q->vector;
    case C_Q_ENABLE:
        return q->enabled;
    case C_Q_NOFF:
        return q->index;
    default:
        return (uint32_t)(*queue_addr(q, off) >> (off & 4 ? 32 : 0));
    }
}

static uint64_t common_read(void *opaque, gpa_t off, unsigned size)
{
    struct virtio_pci *p = opaque;
    struct virtio_dev *vd = p->vd;

    switch (off) {
    case C_DFSELECT:
        return p->dfselect;
    case C_DF:
        return p->dfselect == 0 ? (uint32_t)vd->features : p->dfselect == 1 ? vd->features >> 32 : 0;
    case C_GFSELECT:
        return p->gfselect;
    case C_GF:
        return p->gfselect == 0 ? (uint32_t)vd->guest_features : p->gfselect == 1 ? vd->guest_features >> 32 : 0;
    case C_MSIX:
        return vd->config_vector;
    case C_NUMQ:
        return vd->nr_vq;
    case C_STATUS:
        return vd->status;
    case C_GENERATION:
        return vd->config_gen & 0xff;
    case C_Q_SELECT:
        return vd->queue_sel;
    default:
        if (off < C_END && (off & ~3u) >= C_Q_SELECT - 2)
            return common_read_queue(vd, off);
        log_guest("virtio-pci: common read of %u bytes at %#" PRIx64, size, off);
        return 0;
    }
}

static void common_write_queue(struct virtio_pci *p, gpa_t off, uint64_t val)
{
    struct virtq *q = sel_queue(p->vd);

    if (!q)
        return;
    switch (off) {
    case C_Q_SIZE:
        if (!q->enabled)
            q->num = val;
        break;
    case C_Q_MSIX:
        q->vector = checked_vector(p, val);
        break;
    case C_Q_ENABLE:
        if (val == 1)
            virtq_enable(q);
        break;
    default:
        if (off >= C_Q_DESC && !(off & 3) && !q->enabled) {
            uint64_t *a = queue_addr(q, off);
            *a = off & 4 ? (*a & UINT32_MAX) | val << 32 : (*a & ~(uint64_t)UINT32_MAX) | (uint32_t)val;
        }
        break;
    }
}

static void common_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct virtio_pci *p = opaque;
    struct virtio_dev *vd = p->vd;

    switch (off) {
    case C_DFSELECT:
        p->dfselect = val;
        break;
    case C_GFSELECT:
        p->gfselect = val;
        break;
    case C_GF:
        if (p->gfselect == 0)
            p->guest_low = val;
        else if (p->gfselect == 1)
            p->guest_high = val;
        else
            break;
        virtio_set_features(vd, p->guest_low | (uint64_t)p->guest_high << 32);
        break;
    case C_MSIX:
        vd->config_vector = checked_vector(p, val);
        break;
    case C_STATUS:
        virtio_set_status(vd, val);
        if (!(val & 0xff)) {
            p->guest_low = p->guest_high = p->dfselect = p->gfselect = 0;
            pci_set_intx(&p->pci, 0);
        }
        break;
    case C_Q_SELECT:
        vd->queue_sel = val;
        break;
    default:
        if (off < C_Q_SELECT || off >= C_END)
            log_guest("virtio-pci: common write of %u bytes at %#" PRIx64, size, off);
        else
            common_write_queue(p, off, val);
        break;
    }
}

static uint64_t isr_window_read(void *opaque, gpa_t off, unsigned size)
{
    return off == 0 ? isr_read(opaque) : 0;
}
static void ignore_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
}
static uint64_t device_read(void *opaque, gpa_t off, unsigned size)
{
    struct virtio_pci *p = opaque;

    return config_load(p->vd, off, size);
}
static void device_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct virtio_pci *p = opaque;

    virtio_config_write(p->vd, off, val, size);
}
static uint64_t notify_read(void *opaque, gpa_t off, unsigned size)
{
    return 0;
}
static void notify_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct virtio_pci *p = opaque;

    virtio_kick(p->vd, off / p->notify_mult);
}
static const struct mem_ops common_ops = {
    .read = common_read, .write = common_write, .valid_min = 1, .valid_max = 8, .impl_min = 1, .impl_max = 4};
static const struct mem_ops isr_ops = {.read = isr_window_read, .write = ignore_write, .impl_min = 1, .impl_max = 4};
static const struct mem_ops device_ops = {
    .read = device_read, .write = device_write, .valid_min = 1, .valid_max = 8, .impl_min = 1, .impl_max = 4};
static const struct mem_ops notify_ops = {
    .read = notify_read, .write = notify_write, .impl_min = 1, .impl_max = 4, .flags = MEM_UNLOCKED};

/* ---- configuration space: the window capability ---- */

/* The access the window capability asks for: offset and length in BAR 4; false when they are not usable. */
static bool cfg_window(struct virtio_pci *p, uint32_t *off, uint32_t *len)
{
    const uint8_t *c = p->pci.config + p->cfg_cap;

    *off = get_le32(c + 8);
    *len = get_le32(c + 12);
    return c[4] == MODERN_BAR && (*len == 1 || *len == 2 || *len == 4) && !(*off % *len) && *off < p->modern.size &&
           *len <= p->modern.size - *off;
}

static uint64_t window_access(struct virtio_pci *p, uint32_t off, uint32_t len, bool write, uint32_t val)
{
    static const struct {
        uint32_t start;
        const struct mem_ops *ops;
    } map[] = {{OFF_NOTIFY, &notify_ops}, {OFF_DEVICE, &device_ops}, {OFF_ISR, &isr_ops}, {OFF_COMMON, &common_ops}};
    unsigned i = 0;

    while (off < map[i].start)
        i++;
    if (!write)
        return map[i].ops->read(p, off - map[i].start, len);
    map[i].ops->write(p, off - map[i].start, val, len);
    return 0;
}

uint32_t virtio_pci_cfg_read(struct pci_dev *d, unsigned off, unsigned size)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
    uint32_t woff, wlen;

    if (p->cfg_cap && off < p->cfg_cap + 20u && off + size > p->cfg_cap + 16u && cfg_window(p, &woff, &wlen))
        put_le32(d->config + p->cfg_cap + 16, window_access(p, woff, wlen, false, 0));
    return pci_default_cfg_read(d, off, size);
}

void virtio_pci_cfg_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
    uint32_t woff, wlen;

    pci_default_cfg_write(d, off, val, size);
    if (p->cfg_cap && off < p->cfg_cap + 20u && off + size > p->cfg_cap + 16u && cfg_window(p, &woff, &wlen))
        window_access(p, woff, wlen, true, get_le32(d->config + p->cfg_cap + 16));
}

/* ---- life ---- */

static bool add_vendor_cap(struct virtio_pci *p, uint8_t type, uint32_t off, uint32_t len, uint8_t size,
                           struct err **errp)
{
    uint8_t at = pci_add_cap(&p->pci, PCI_CAP_VENDOR, 0, size);

    if (!at)
        return err_set(errp, "%s: no room for capabilities in configuration space", p->vd->type->name);
    uint8_t *c = p->pci.config + at;
    c[2] = size;
    c[3] = type;
    c[4] = type == CFG_PCI ? 0 : MODERN_BAR;
    put_le32(c + 8, off);
    put_le32(c + 12, len);
    if (type == CFG_NOTIFY)
        put_le32(c + 16, p->notify_mult);
    if (type == CFG_PCI) {
        p->cfg_cap = at;
        p->pci.wmask[at + 4] = 0xff;
        memset(p->pci.wmask + at + 8, 0xff, 12);
    }
    return true;
}

static bool add_modern(struct virtio_pci *p, struct err **errp)
{
    struct mem_sys *ms = dev_machine(&p->pci.dev)->mem_sys;
    uint32_t notify_len;

    p->notify_mult = p->page_per_vq ? WINDOW : 4;
    notify_len = max_u64(WINDOW, (uint64_t)p->notify_mult * VIRTIO_QUEUES);
    if (p->page_per_vq)
        notify_len = 128 * WINDOW - OFF_NOTIFY;
    mem_region_init(&p->modern, ms, "virtio-pci", p->page_per_vq ? 128 * WINDOW : OFF_NOTIFY + WINDOW);
    mem_region_init_io(&p->common, ms, &common_ops, p, "virtio-pci-common", WINDOW);
    mem_region_init_io(&p->isr, ms, &isr_ops, p, "virtio-pci-isr", WINDOW);
    mem_region_init_io(&p->device, ms, &device_ops, p, "virtio-pci-device", WINDOW);
    mem_region_init_io(&p->notify, ms, &notify_ops, p, "virtio-pci-notify", notify_len);
    mem_region_add(&p->modern, OFF_COMMON, &p->common);
    mem_region_add(&p->modern, OFF_ISR, &p->isr);
    mem_region_add(&p->modern, OFF_DEVICE, &p->device);
    mem_region_add(&p->modern, OFF_NOTIFY, &p->notify);
    pci_add_bar(&p->pci, MODERN_BAR, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &p->modern);
    return add_vendor_cap(p, CFG_COMMON, OFF_COMMON, WINDOW, 16, errp) &&
           add_vendor_cap(p, CFG_ISR, OFF_ISR, WINDOW, 16, errp) &&
           add_vendor_cap(p, CFG_DEVICE, OFF_DEVICE, WINDOW, 16, errp) &&
           add_vendor_cap(p, CFG_NOTIFY, OFF_NOTIFY, notify_len, 20, errp) &&
           add_vendor_cap(p, CFG_PCI, 0, 0, 20, errp);
}

static void add_legacy(struct virtio_pci *p)
{
    uint64_t size = 32;

    while (size < L_CONFIG_MSIX + p->vd->config_size)
        size *= 2;
    mem_region_init_io(&p->legacy, dev_machine(&p->pci.dev)->mem_sys, &legacy_ops, p, "virtio-pci", size);
    pci_add_bar(&p->pci, 0, PCI_BAR_IO, &p->legacy);
}

/* Which interfaces: a device behind a PCIe port has no I/O space to spare, so "auto" means modern only there. */
static bool choose_interfaces(struct virtio_pci *p, const struct virtio_pci_class *c, struct err **errp)
{
    const struct pci_bus *bus = pci_dev_bus(&p->pci);
    bool behind_port = bus->express && bus->parent;

    if (p->modern_pio)
        return err_set(errp, "%s: modern-pio-notify=on is not offered, leave it off", c->name);
    if (p->ats)
        return err_set(errp, "%s: ats=on needs a virtual IOMMU, which no machine here has", c->name);
    p->has_modern = !p->disable_modern;
    p->has_legacy = c->legacy_id && (p->disable_legacy == OOA_OFF || (p->disable_legacy == OOA_AUTO && !behind_port));
    if (c->kind == VPCI_TRANSITIONAL)
        p->has_modern = p->has_legacy = true;
    if (c->kind == VPCI_MODERN) {
        p->has_modern = true;
        p->has_legacy = false;
    }
    if (c->kind == VPCI_TRANSITIONAL && !c->legacy_id)
        return err_set(errp, "%s: this kind of device has no legacy interface", c->name);
    if (!p->has_modern && !p->has_legacy)
        return err_set(errp, "%s: both interfaces are disabled; allow one of disable-legacy and disable-modern",
                       c->name);
    return true;
}

static void set_ids(struct virtio_pci *p, const struct virtio_pci_class *c)
{
    uint8_t *cfg = p->pci.config;

    if (p->has_legacy) {
        put_le16(cfg + PCI_DEVICE_ID, c->legacy_id);
        put_le16(cfg + PCI_SUBSYSTEM_VENDOR_ID, 0x1af4);
        put_le16(cfg + PCI_SUBSYSTEM_ID, c->type->id);
        cfg[PCI_REVISION_ID] = 0;
    } else {
        put_le16(cfg + PCI_DEVICE_ID, 0x1040 + c->type->id);
        put_le16(cfg + PCI_SUBSYSTEM_VENDOR_ID, 0x1af4);
        put_le16(cfg + PCI_SUBSYSTEM_ID, 0x1100);
        cfg[PCI_REVISION_ID] = 1;
    }
}

bool virtio_pci_realize(struct dev *d, struct err **errp)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci.dev);
    const struct virtio_pci_class *c = (const struct virtio_pci_class *)pci_class(&p->pci);

    p->vd = (struct virtio_dev *)((char *)p + c->body_off);
    p->vd->type = c->type;
    p->vd->dev = d;
    p->vd->dma = p->pci.dma;
    p->vd->transport = &pci_transport;
    p->vd->transport_opaque = p;
    p->vd->kick_sync = !p->ioeventfd;
    if (!choose_interfaces(p, c, errp))
        return false;
    set_ids(p, c);
    pci_set_pin(&p->pci, 1);
    if (pci_dev_bus(&p->pci)->express && pci_dev_bus(&p->pci)->parent)
        pcie_add_exp_cap(&p->pci, 0);
    if (!virtio_realize(p->vd, p->has_modern, p->has_legacy, errp))
        return false;
    if (p->vectors == UINT32_MAX)
        p->vectors = c->nr_vectors ? c->nr_vectors(p->vd) : p->vd->nr_vq + 1;
    if (p->vectors > 2048) {
        err_set(errp, "%s: vectors=%u is more than the 2048 that MSI-X has", c->name, p->vectors);
        goto fail;
    }
    if (p->vectors && !pci_add_msix(&p->pci, p->vectors, MSIX_BAR, 0, 0x800, errp))
        goto fail;
    if (p->has_modern && !add_modern(p, errp))
        goto fail;
    if (p->has_legacy)
        add_legacy(p);
    return true;
fail:
    virtio_unrealize(p->vd);
    return false;
}

void virtio_pci_unrealize(struct dev *d)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci.dev);

    virtio_unrealize(p->vd);
}

void virtio_pci_reset(struct dev *d)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci.dev);

    virtio_reset(p->vd);
    p->dfselect = p->gfselect = p->guest_low = p->guest_high = 0;
    pci_set_intx(&p->pci, 0);
}

static const struct state_field virtio_pci_fields[] = {
    STATE_STRUCT(struct virtio_pci, pci, pci_dev_state),
    STATE_U32(struct virtio_pci, dfselect),
    STATE_U32(struct virtio_pci, gfselect),
    STATE_U32(struct virtio_pci, guest_low),
    STATE_U32(struct virtio_pci, guest_high),
    STATE_END,
};
const struct state_desc virtio_pci_state = {.name = "virtio-pci", .version = 1, .fields = virtio_pci_fields};

static void CONSTRUCTOR virtio_pci_family(void)
{
    obj_register_family("virtio-pci", "pci-device");
}
