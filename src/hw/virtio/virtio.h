/* Virtio devices as seen from both sides: a device body (block, net ...) embeds struct virtio_dev first and speaks to
 * the guest through virtqueues; a transport (virtio_pci.h) embeds the body and gives the guest registers.
 *
 * Source: VIRTIO 1.2, chapters 2 and 5, and its legacy interface sections. All calls need the machine lock unless
 * noted. Everything the guest wrote is read once, bounded and checked; a queue that breaks the rules marks the device
 * broken (DEVICE_NEEDS_RESET, one log line) and nothing more is read from it until the guest resets the device. */
#ifndef HW_VIRTIO_VIRTIO_H
#define HW_VIRTIO_VIRTIO_H

#include "base/bytes.h"
#include "base/iov.h"
#include "base/str.h"
#include "dev/dev.h"
#include "run/iothread.h"

enum {
    VIRTIO_QUEUES = 65,      /* per device */
    VIRTQ_MAX_NUM = 1024,    /* largest ring offered */
    VIRTQ_MAX_SEGS = 1024,   /* longest descriptor chain */
    VIRTIO_CONFIG_MAX = 256, /* bytes of device configuration */
    VIRTIO_NO_VECTOR = 0xffff,
};
/* Device types. */
enum {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_RNG = 4,
    VIRTIO_ID_BALLOON = 5,
    VIRTIO_ID_SCSI = 8,
};
/* Status bits. */
enum {
    VIRTIO_S_ACKNOWLEDGE = 1,
    VIRTIO_S_DRIVER = 2,
    VIRTIO_S_DRIVER_OK = 4,
    VIRTIO_S_FEATURES_OK = 8,
    VIRTIO_S_NEEDS_RESET = 0x40,
    VIRTIO_S_FAILED = 0x80
};
/* Feature bits common to all devices. */
enum {
    VIRTIO_F_NOTIFY_ON_EMPTY = 24,
    VIRTIO_F_ANY_LAYOUT = 27,
    VIRTIO_F_INDIRECT_DESC = 28,
    VIRTIO_F_EVENT_IDX = 29,
    VIRTIO_F_VERSION_1 = 32,
    VIRTIO_F_ACCESS_PLATFORM = 33,
    VIRTIO_F_RING_PACKED = 34
};
#define VIRTIO_BIT(n) (UINT64_C(1) << (n))

struct virtio_dev;
struct virtq;
typedef void virtq_fn(struct virtio_dev *vd, struct virtq *q);

/* One part of a ring in guest memory; host is NULL when it is not one piece of plain RAM (slow path). */
struct virtq_area {
    gpa_t gpa;
    uint64_t len;
    uint8_t *host;
    struct mem_ram *ram;
    uint64_t ram_off;
};
struct virtq_done { /* an element completed but not yet shown to the guest */
    uint32_t id, len, ndesc;
};

struct virtq {
    struct virtio_dev *vd;
    struct iothread *io; /* borrowed: where it is handled, NULL = the main loop */
    virtq_fn *handle;    /* runs after a kick, on the loop (ioeventfd=on) or the vCPU's thread */
    struct ev_bh bh;
    struct ev_bh irq_bh; /* an interrupt an I/O thread could not raise itself */
    uint16_t index;
    uint16_t num, num_max; /* ring entries: chosen by the guest, offered */
    uint16_t vector;
    bool enabled;
    uint64_t desc, driver, device; /* guest addresses of the three areas */
    uint16_t last_avail;           /* next entry to take; packed: slot number */
    uint16_t used_idx;             /* next entry to fill; packed: slot number */
    bool avail_wrap, used_wrap;
    uint16_t signalled; /* used_idx at the last interrupt, when signalled_ok */
    bool signalled_ok;
    bool no_kicks;    /* the device asked for silence */
    uint16_t inuse;   /* elements popped and not pushed */
    uint32_t gen;     /* changes at reset: elements of an older one are dropped */
    uint32_t map_gen; /* of vd->map_gen when areas were mapped */
    struct virtq_area a_desc, a_driver, a_device;
    struct virtq_done *pend; /* owned: filled, not flushed */
    unsigned nr_pend, cap_pend;
};

/* A descriptor chain taken from a queue. Embed it first in a request and pass its size to virtq_pop. */
struct virtq_elem {
    struct virtq *q;
    uint32_t gen;
    uint16_t id;           /* head index, or buffer id of a packed ring */
    uint16_t ndesc;        /* ring slots used */
    struct iov out, in;    /* device reads `out` and writes `in`; host memory, valid until push or free */
    struct virtq_seg *seg; /* owned: how each part was mapped */
    unsigned nr_seg;
};

typedef void virtq_put_fn(void *opaque, const struct virtq_elem *e, uint64_t tag);
struct virtio_type {
    const char *name;     /* "virtio-blk" */
    uint16_t id;          /* VIRTIO_ID_* */
    unsigned config_size; /* at most; vd->config_size may shrink it in realize */
    /* Adds queues, sets vd->features. */
    bool (*realize)(struct virtio_dev *vd, struct err **errp);
    void (*unrealize)(struct virtio_dev *vd);
    void (*reset)(struct virtio_dev *vd); /* may be NULL, as all below */
    void (*get_config)(struct virtio_dev *vd, uint8_t *cfg);
    /* The guest wrote [off, off+len) of cfg, which holds everything else as get_config gave it. */
    void (*set_config)(struct virtio_dev *vd, const uint8_t *cfg, unsigned off, unsigned len);
    /* Further limits on what the driver accepted, false = refuse. */
    bool (*validate)(struct virtio_dev *vd, uint64_t features);
    void (*set_features)(struct virtio_dev *vd); /* vd->guest_features is final */
    void (*set_status)(struct virtio_dev *vd, uint8_t old);
    void (*running)(struct virtio_dev *vd, bool on); /* the machine stopped or goes on */
    /* Elements the device holds while the machine stands still, for saving: held calls put for each, with a number of
     * the device's choice; take_back gets them again (elem_size bytes, as from virtq_pop) in the restored machine and
     * goes on with them when it runs. A device without them holds none. */
    void (*held)(struct virtio_dev *vd, virtq_put_fn *put, void *opaque);
    void (*take_back)(struct virtio_dev *vd, struct virtq_elem *e, uint64_t tag);
    size_t (*elem_size)(struct virtio_dev *vd, unsigned queue);
};

struct virtio_transport {
    void (*notify_queue)(void *opaque, struct virtq *q);
    void (*notify_config)(void *opaque);
};

struct virtio_dev {
    const struct virtio_type *type;
    struct dev *dev;       /* borrowed: the device this is part of */
    struct mem_space *dma; /* borrowed */
    const struct virtio_transport *transport;
    void *transport_opaque;
    struct virtq vq[VIRTIO_QUEUES];
    unsigned nr_vq;
    uint16_t queue_sel;
    uint8_t status;
    uint8_t isr;
    bool broken;
    bool realized;
    bool kick_sync;          /* handle kicks on the vCPU's thread (ioeventfd=off) */
    struct iothread *io;     /* borrowed: where queues added from now on are handled, NULL = on the main loop */
    uint64_t features;       /* offered */
    uint64_t guest_features; /* accepted */
    uint32_t feature_bits;   /* property bits: PROP_INDIRECT ... */
    unsigned config_size;
    uint32_t config_gen;
    uint16_t config_vector;
    uint32_t map_gen;
    struct machine_hook state_hook;
    struct ev_bh config_bh; /* a configuration interrupt from an I/O thread */
    bool was_running;
    uint8_t *held; /* owned: elements in hand, of a machine being saved or restored */
    uint32_t held_len;
};

/* Bits of feature_bits, as properties of every virtio device. */
enum {
    VIRTIO_P_INDIRECT,
    VIRTIO_P_EVENT_IDX,
    VIRTIO_P_PACKED,
    VIRTIO_P_NOTIFY_ON_EMPTY,
    VIRTIO_P_ANY_LAYOUT,
    VIRTIO_P_IOMMU
};
#define VIRTIO_PROPS(S, f)                                                                                             \
    PROP_BIT32("indirect_desc", S, f.feature_bits, VIRTIO_P_INDIRECT, "on"),                                           \
        PROP_BIT32("event_idx", S, f.feature_bits, VIRTIO_P_EVENT_IDX, "on"),                                          \
        PROP_BIT32("packed", S, f.feature_bits, VIRTIO_P_PACKED, "off"),                                               \
        PROP_BIT32("notify_on_empty", S, f.feature_bits, VIRTIO_P_NOTIFY_ON_EMPTY, "on"),                              \
        PROP_BIT32("any_layout", S, f.feature_bits, VIRTIO_P_ANY_LAYOUT, "on"),                                        \
        PROP_BIT32("iommu_platform", S, f.feature_bits, VIRTIO_P_IOMMU, "off")

static inline bool virtio_has(const struct virtio_dev *vd, unsigned bit)
{
    return (vd->guest_features >> bit) & 1;
}
static inline bool virtio_offers(const struct virtio_dev *vd, unsigned bit)
{
    return (vd->features >> bit) & 1;
}

/* ---- for device bodies ---- */
/* In realize: the next queue, with at most num_max entries. NULL when the device has all it may have. */
struct virtq *virtio_add_queue(struct virtio_dev *vd, unsigned num_max, virtq_fn *handle);
/* None of the queues is being handled in between; nests. With the machine lock. */
void virtio_enter(struct virtio_dev *vd);
void virtio_leave(struct virtio_dev *vd);
/* The guest broke a rule: log, mark broken, ask for a reset. */
void virtio_error(struct virtio_dev *vd, const char *fmt, ...) PRINTF_FMT(2, 3);
/* Configuration changed on the host's side: new generation and an interrupt. */
void virtio_config_changed(struct virtio_dev *vd);
/* May the device touch rings now: machine runs, driver is ready (or a legacy driver that did not say so yet). */
bool virtio_active(const struct virtio_dev *vd);

/* Takes the next chain: allocates `size` bytes (zeroed behind the element). NULL when the queue is empty or broken. */
void *virtq_pop(struct virtq *q, size_t size);
/* Pops and starts elements of `size` bytes until the queue is empty, kicks off meanwhile. start takes the element over;
 * false: it was nothing the device understands, then it is dropped and the rest is left. */
void virtq_serve(struct virtq *q, size_t size, struct virtio_dev *vd,
                 bool (*start)(struct virtio_dev *vd, struct virtq_elem *e));
/* Puts the most recently popped element back; frees it. */
void virtq_unpop(struct virtq_elem *e);
/* Completes e with len bytes written to `in`, shows it to the guest, frees e. Then call virtq_notify once per batch. */
void virtq_push(struct virtq_elem *e, uint32_t len);
/* The same in two steps: fill several (each is freed), then let all appear at once. */
void virtq_fill(struct virtq_elem *e, uint32_t len);
void virtq_flush(struct virtq *q);
/* Drops e without telling the guest (device error, reset); frees it. */
void virtq_elem_free(struct virtq_elem *e);
/* All of the element's memory is guest RAM itself, not a copy. */
bool virtq_elem_is_ram(const struct virtq_elem *e);
bool virtq_ready(const struct virtq *q); /* enabled and the device works */
bool virtq_empty(struct virtq *q);
/* Kick suppression; after switching kicks on, look at virtq_empty once more. */
void virtq_set_kicks(struct virtq *q, bool on);
/* Interrupt, unless the guest suppressed it. */
void virtq_notify(struct virtq *q);
/* An element as bytes: where it is in guest memory, not what is in it. */
void virtq_elem_put(struct strbuf *to, const struct virtq_elem *e, uint64_t tag);
/* The first of them; *n bytes are left behind it at *p. NULL: they are damaged, or name memory that is not there. */
struct virtq_elem *virtq_elem_get(struct virtio_dev *vd, const uint8_t **p, size_t *n, uint64_t *tag);
/* Runs the handler soon (as if kicked). Any thread. */
void virtq_schedule(struct virtq *q);

/* ---- for transports ---- */
/* vd->type, dev and dma are set. modern/legacy: which interfaces the transport offers. */
bool virtio_realize(struct virtio_dev *vd, bool modern, bool legacy, struct err **errp);
void virtio_unrealize(struct virtio_dev *vd);
void virtio_reset(struct virtio_dev *vd);
void virtio_set_status(struct virtio_dev *vd, uint8_t val);
/* Features as the driver writes them (before FEATURES_OK; the legacy interface has no such step). */
void virtio_set_features(struct virtio_dev *vd, uint64_t val);
void virtio_config_read(struct virtio_dev *vd, uint8_t *cfg); /* config_size bytes */
void virtio_config_write(struct virtio_dev *vd, unsigned off, uint64_t val, unsigned size);
/* Kick by the guest; any thread. */
void virtio_kick(struct virtio_dev *vd, unsigned queue);
/* Modern: addresses, num and vector are set; checks them and starts the queue. */
void virtq_enable(struct virtq *q);
/* Legacy: page frame of the whole ring, 4096-byte alignment; 0 stops the queue. */
void virtq_set_legacy_pfn(struct virtq *q, uint32_t pfn);
/* State of the common part, for the transport's own description. */
extern const struct state_desc virtio_state;

#endif
