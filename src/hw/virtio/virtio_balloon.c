/* virtio memory balloon. Source: VIRTIO 1.2, 5.5.
 *
 * Pages the guest gives up (inflate, or reported as free) are handed back to the host; they read as zero when the guest
 * touches them again. Statistics come through a buffer the device keeps until the next poll
 * (guest-stats-polling-interval). Left out: free page hints for migration, page poison. */
#include "base/json.h"
#include "base/str.h"
#include "hw/virtio/balloon.h"
#include "hw/virtio/virtio_pci.h"
#include <sys/mman.h>

enum { F_STATS_VQ = 1, F_DEFLATE_ON_OOM = 2, F_REPORTING = 5 };
enum { CFG_NUM_PAGES = 0, CFG_ACTUAL = 4, CFG_SIZE = 8 };
enum { PAGE = 4096, QUEUE_NUM = 128, REPORT_NUM = 32, STATS_NR = 10, STAT_SIZE = 10, CHUNK = 256 };
static const char *const stat_names[STATS_NR] = {
    "stat-swap-in",      "stat-swap-out",         "stat-major-faults", "stat-minor-faults", "stat-free-memory",
    "stat-total-memory", "stat-available-memory", "stat-disk-caches",  "stat-htlb-pgalloc", "stat-htlb-pgfail"};

struct vballoon {
    struct virtio_dev vd;             /* first */
    bool deflate_on_oom, reporting;   /* properties */
    uint32_t target, actual;          /* pages in the balloon: wanted, as the guest says */
    struct virtq *stats_q, *report_q; /* borrowed */
    struct virtq_elem *stats;         /* owned: given back at the next poll */
    uint64_t stat[STATS_NR];          /* UINT64_MAX = not told */
    int64_t stats_time;               /* host seconds of the latest update */
    int64_t poll_secs;                /* property */
    struct clk_timer timer;
    struct clk_timer event_timer; /* pending: BALLOON_CHANGE was raised less than a second ago */
    bool changed;                 /* since then */
};
struct vballoon_pci {
    struct virtio_pci pci;
    struct vballoon v;
};

static struct vballoon *vballoon_of(struct virtio_dev *vd)
{
    return container_of(vd, struct vballoon, vd);
}

/* ---- pages ---- */

/* Drops whole host pages; shared files lose their blocks, anonymous memory its pages. */
static void give_back(void *host, uint64_t len)
{
    if (madvise(host, len, MADV_REMOVE) < 0)
        (void)madvise(host, len, MADV_DONTNEED);
}

static void drop_guest_page(struct virtio_dev *vd, gpa_t pa)
{
    struct mem_section s;

    if (!mem_find(vd->dma, pa, &s) || !s.host || s.readonly || s.start + s.len - pa < PAGE) {
        log_guest("virtio-balloon: page %#" PRIx64 " is no memory", pa);
        return;
    }
    give_back(s.host + (pa - s.start), PAGE);
    mem_ram_written(s.ram, s.ram_off + (pa - s.start), PAGE);
}

static void pages_run(struct virtio_dev *vd, struct virtq *q)
{
    bool inflate = q->index == 0;
    struct virtq_elem *e;
    uint8_t b[4 * CHUNK];

    while ((e = virtq_pop(q, sizeof *e))) {
        size_t n;
        for (uint64_t off = 0; inflate && (n = iov_to_buf(&e->out, off, b, sizeof b)) >= 4; off += n & ~(size_t)3)
            for (size_t i = 0; i + 4 <= n; i += 4)
                drop_guest_page(vd, (gpa_t)get_le32(b + i) * PAGE);
        virtq_push(e, 0);
    }
    virtq_notify(q);
}

static void report_run(struct virtio_dev *vd, struct virtq *q)
{
    struct virtq_elem *e;

    while ((e = virtq_pop(q, sizeof *e))) {
        bool plain = virtq_elem_is_ram(e);
        for (unsigned i = 0; plain && i < e->in.nr; i++) {
            uint64_t a = (uintptr_t)e->in.v[i].iov_base, end = a + e->in.v[i].iov_len;
            a = align_up(a, PAGE);
            end = align_down(end, PAGE);
            if (end > a)
                give_back((void *)(uintptr_t)a, end - a);
        }
        virtq_push(e, plain ? (uint32_t)e->in.len : 0);
    }
    virtq_notify(q);
}

/* ---- statistics ---- */

static void stats_clear(struct vballoon *v)
{
    for (unsigned i = 0; i < STATS_NR; i++)
        v->stat[i] = UINT64_MAX;
}

static void stats_run(struct virtio_dev *vd, struct virtq *q)
{
    struct vballoon *v = vballoon_of(vd);
    struct virtq_elem *e;
    uint8_t b[STAT_SIZE];

    while ((e = virtq_pop(q, sizeof *e))) {
        if (v->stats) { /* more than one at a time is a driver's mistake */
            virtq_push(v->stats, 0);
            virtq_notify(q);
        }
        v->stats = e;
        stats_clear(v);
        for (uint64_t off = 0; off < 64 * STAT_SIZE && iov_to_buf(&e->out, off, b, sizeof b) == sizeof b;
             off += STAT_SIZE)
            if (get_le16(b) < STATS_NR)
                v->stat[get_le16(b)] = get_le64(b + 2);
        v->stats_time = clk_now(dev_machine(vd->dev)->run->host) / NS_PER_SEC;
    }
    if (v->poll_secs && v->stats)
        clk_timer_set(&v->timer, clk_now(dev_vclk(vd->dev)) + v->poll_secs * NS_PER_SEC);
}

static void stats_poll(void *opaque)
{
    struct vballoon *v = opaque;
    struct virtq_elem *e = v->stats;

    if (!e || !virtio_active(&v->vd))
        return;
    v->stats = NULL;
    virtq_push(e, 0);
    virtq_notify(v->stats_q);
}

static bool poll_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    struct vballoon *v = &container_of(o, struct vballoon_pci, pci.pci.dev.obj)->v;
    int64_t secs;

    if (!str_to_i64(val, &secs) || secs < 0 || secs > UINT32_MAX)
        return err_set(errp, "guest-stats-polling-interval=%s must be a number of seconds, 0 to %u", val, UINT32_MAX);
    v->poll_secs = secs;
    if (!v->vd.realized)
        return true;
    clk_timer_cancel(&v->timer);
    if (secs)
        clk_timer_set(&v->timer, clk_now(dev_vclk(v->vd.dev)));
    return true;
}

static char *poll_get(struct obj *o, const struct prop *p, const void *field)
{
    return xasprintf("%" PRId64, container_of(o, struct vballoon_pci, pci.pci.dev.obj)->v.poll_secs);
}

static struct json_object *poll_json(struct obj *o, const struct prop *p, const void *field)
{
    return json_object_new_int64(container_of(o, struct vballoon_pci, pci.pci.dev.obj)->v.poll_secs);
}
static const struct prop_type poll_type = {.name = "int", .set = poll_set, .get = poll_get, .get_json = poll_json};

static bool stats_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    return err_set(errp, "guest-stats can only be read");
}

static struct json_object *stats_json(struct obj *o, const struct prop *p, const void *field)
{
    struct vballoon *v = &container_of(o, struct vballoon_pci, pci.pci.dev.obj)->v;
    struct json_object *stats = json_object_new_object(), *all = json_object_new_object();

    for (unsigned i = 0; i < STATS_NR; i++)
        json_object_object_add(stats, stat_names[i], json_object_new_uint64(v->stat[i]));
    json_object_object_add(all, "stats", stats);
    json_object_object_add(all, "last-update", json_object_new_int64(v->stats_time));
    return all;
}

static char *stats_text(struct obj *o, const struct prop *p, const void *field)
{
    struct json_object *j = stats_json(o, p, field);
    char *t = xstrdup(json_object_to_json_string(j));

    json_object_put(j);
    return t;
}
static const struct prop_type stats_type = {
    .name = "guest statistics", .set = stats_set, .get = stats_text, .get_json = stats_json};

/* ---- configuration ---- */

static void vballoon_get_config(struct virtio_dev *vd, uint8_t *c)
{
    put_le32(c + CFG_NUM_PAGES, vballoon_of(vd)->target);
    put_le32(c + CFG_ACTUAL, vballoon_of(vd)->actual);
}

/* BALLOON_CHANGE at most once a second, the last value always. */
static void raise_change(void *opaque)
{
    struct vballoon *v = opaque;
    struct run *r = dev_machine(v->vd.dev)->run;

    if (!v->changed || clk_timer_pending(&v->event_timer))
        return;
    v->changed = false;
    clk_timer_set(&v->event_timer, clk_now(r->real) + NS_PER_SEC);
    run_event(r, "BALLOON_CHANGE", json_make("i:actual", (int64_t)balloon_actual(v->vd.dev), NULL));
}

static void vballoon_set_config(struct virtio_dev *vd, const uint8_t *c, unsigned off, unsigned len)
{
    struct vballoon *v = vballoon_of(vd);
    uint32_t old = v->actual;

    v->actual = get_le32(c + CFG_ACTUAL);
    v->changed |= v->actual != old;
    raise_change(v);
}

static struct vballoon *body_of(struct dev *d)
{
    return &container_of(d, struct vballoon_pci, pci.pci.dev)->v;
}

uint64_t balloon_actual(struct dev *d)
{
    uint64_t ram = dev_machine(d)->ram_size;

    return ram - min_u64(ram, (uint64_t)body_of(d)->actual * PAGE);
}

bool balloon_set_target(struct dev *d, uint64_t bytes, struct err **errp)
{
    struct vballoon *v = body_of(d);
    uint64_t ram = dev_machine(d)->ram_size;

    if (!bytes)
        return err_set(errp, "the balloon's target must be more than 0 bytes");
    v->target = (ram - min_u64(ram, bytes)) / PAGE;
    virtio_config_changed(&v->vd);
    return true;
}

/* ---- saving: the buffer for statistics stays with the device ---- */

static void vballoon_held(struct virtio_dev *vd, virtq_put_fn *put, void *opaque)
{
    if (vballoon_of(vd)->stats)
        put(opaque, vballoon_of(vd)->stats, 0);
}

static void vballoon_take_back(struct virtio_dev *vd, struct virtq_elem *e, uint64_t tag)
{
    struct vballoon *v = vballoon_of(vd);

    if (v->stats || e->q != v->stats_q)
        virtq_elem_free(e);
    else
        v->stats = e;
}

/* ---- life ---- */

static void vballoon_reset(struct virtio_dev *vd)
{
    struct vballoon *v = vballoon_of(vd);

    if (v->stats)
        virtq_elem_free(v->stats);
    v->stats = NULL;
    v->actual = 0;
    stats_clear(v);
    clk_timer_cancel(&v->timer);
}

static bool vballoon_realize(struct virtio_dev *vd, struct err **errp)
{
    struct vballoon *v = vballoon_of(vd);
    struct dev *other = balloon_find(dev_machine(vd->dev));

    if (other && other != vd->dev)
        return err_set(errp, "virtio-balloon: this machine has a balloon already; one is all it may have");
    vd->features = VIRTIO_BIT(F_STATS_VQ);
    virtio_add_queue(vd, QUEUE_NUM, pages_run);
    virtio_add_queue(vd, QUEUE_NUM, pages_run);
    v->stats_q = virtio_add_queue(vd, QUEUE_NUM, stats_run);
    if (v->deflate_on_oom)
        vd->features |= VIRTIO_BIT(F_DEFLATE_ON_OOM);
    if (v->reporting) {
        vd->features |= VIRTIO_BIT(F_REPORTING);
        v->report_q = virtio_add_queue(vd, REPORT_NUM, report_run);
    }
    clk_timer_init(&v->timer, dev_vclk(vd->dev), stats_poll, v);
    clk_timer_init(&v->event_timer, dev_machine(vd->dev)->run->real, raise_change, v);
    stats_clear(v);
    return true;
}

static void vballoon_unrealize(struct virtio_dev *vd)
{
    clk_timer_cancel(&vballoon_of(vd)->timer);
    clk_timer_cancel(&vballoon_of(vd)->event_timer);
}

static const struct virtio_type vballoon_type = {.name = "virtio-balloon",
                                                 .id = VIRTIO_ID_BALLOON,
                                                 .config_size = CFG_SIZE,
                                                 .realize = vballoon_realize,
                                                 .unrealize = vballoon_unrealize,
                                                 .reset = vballoon_reset,
                                                 .get_config = vballoon_get_config,
                                                 .set_config = vballoon_set_config,
                                                 .held = vballoon_held,
                                                 .take_back = vballoon_take_back};
static const struct prop vballoon_pci_props[] = {
    PROP("deflate-on-oom", bool, struct vballoon_pci, v.deflate_on_oom, .dflt = "off"),
    PROP("free-page-reporting", bool, struct vballoon_pci, v.reporting, .dflt = "off"),
    {.name = "guest-stats-polling-interval", .type = &poll_type, .off = -1},
    {.name = "guest-stats", .type = &stats_type, .off = -1},
    VIRTIO_PROPS(struct vballoon_pci, v.vd),
    VIRTIO_PCI_PROPS(struct vballoon_pci),
    PROP_END,
};
static const struct state_field vballoon_fields[] = {
    STATE_STRUCT(struct vballoon_pci, pci, virtio_pci_state),
    STATE_STRUCT(struct vballoon_pci, v.vd, virtio_state),
    STATE_U32(struct vballoon_pci, v.target),
    STATE_U32(struct vballoon_pci, v.actual),
    STATE_ARRAY(struct vballoon_pci, v.stat),
    STATE_I64(struct vballoon_pci, v.stats_time),
    STATE_TIMER(struct vballoon_pci, v.timer),
    STATE_END,
};
static const struct state_desc vballoon_state = {.name = "virtio-balloon", .version = 1, .fields = vballoon_fields};
static const char *const vballoon_aliases[] = {"virtio-balloon", NULL};
VIRTIO_PCI_CLASSES(vballoon, "virtio-balloon-pci", vballoon_aliases, struct vballoon_pci, v, vballoon_type,
                   .props = vballoon_pci_props, .state_desc = &vballoon_state, .category = DEV_CAT_MISC,
                   .desc = "virtio memory balloon", .legacy_id = 0x1002, .class_id = 0x00ff)

static void find_one(struct dev *d, void *opaque)
{
    struct dev **found = opaque;

    if (d->obj.cls == (const struct obj_class *)&vballoon_cls ||
        d->obj.cls == (const struct obj_class *)&vballoon_trans_cls ||
        d->obj.cls == (const struct obj_class *)&vballoon_modern_cls)
        *found = *found ? *found : d;
}

struct dev *balloon_find(struct machine *m)
{
    struct dev *d = NULL;

    machine_each_dev(m, find_one, &d);
    return d;
}
