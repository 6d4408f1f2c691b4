/* virtio console: a bus of ports (virtconsole, virtserialport) behind one device. Source: VIRTIO 1.2, 5.3.
 *
 * Every port is a pair of queues; control messages announce ports, their names and who has them open. Towards the host
 * data waits in its queue while the character back end is full; towards the guest the back end is asked for no more
 * than the next buffer holds. Without MULTIPORT (firmware) only port 0 works. Left out: console resize. */
#include "base/json.h"
#include "chr/chr.h"
#include "hw/virtio/virtio_pci.h"

enum { F_MULTIPORT = 1, F_EMERG_WRITE = 2 };
enum { CFG_MAX_PORTS = 4, CFG_EMERG_WR = 8, CFG_SIZE = 12 };
enum {
    DEVICE_READY = 0,
    DEVICE_ADD = 1,
    DEVICE_REMOVE = 2,
    PORT_READY = 3,
    CONSOLE_PORT = 4,
    PORT_OPEN = 6,
    PORT_NAME = 7
};
enum { Q_CTRL_RX = 2, Q_CTRL_TX = 3, QUEUE_NUM = 128, CTRL_NUM = 32, MAX_PORTS = 31, MAX_CTRL = 256, MSG_SIZE = 8 };

struct vser;
struct vport {
    struct dev dev;        /* first */
    struct chr_fe fe;      /* property chardev */
    char *name;            /* property */
    uint32_t nr;           /* property; UINT32_MAX = choose */
    struct vser *ser;      /* borrowed */
    struct virtq_elem *tx; /* owned: being written, tx_off bytes are out */
    uint64_t tx_off;
    bool console, guest_open;
};
struct vport_class {
    struct dev_class;
    bool console;
};
struct ctrl_msg {
    struct list link;
    size_t len;
    uint8_t bytes[];
};
struct vser {
    struct virtio_dev vd; /* first */
    struct bus bus;
    uint32_t max_ports; /* property */
    bool emergency;     /* property */
    struct vport *port[MAX_PORTS];
    struct list ctrl; /* of struct ctrl_msg waiting for buffers */
    unsigned nr_ctrl;
    bool driver_ready;
    uint8_t *saved; /* owned: messages of ctrl, each behind its length in 2 bytes */
    uint32_t saved_len;
};
struct vser_pci {
    struct virtio_pci pci;
    struct vser v;
};

static struct vser *vser_of(struct virtio_dev *vd)
{
    return container_of(vd, struct vser, vd);
}

static struct virtq *rx_queue(struct vport *p)
{
    return &p->ser->vd.vq[p->nr ? 2 * (p->nr + 1) : 0];
}

static struct virtq *tx_queue(struct vport *p)
{
    return &p->ser->vd.vq[p->nr ? 2 * (p->nr + 1) + 1 : 1];
}

/* ---- control messages to the guest ---- */

static void ctrl_flush(struct vser *v)
{
    struct virtq *q = &v->vd.vq[Q_CTRL_RX];
    struct ctrl_msg *m;
    struct virtq_elem *e;

    while ((m = list_first(&v->ctrl, struct ctrl_msg, link)) && (e = virtq_pop(q, sizeof *e))) {
        virtq_push(e, iov_from_buf(&e->in, 0, m->bytes, m->len));
        virtq_notify(q);
        list_del(&m->link);
        v->nr_ctrl--;
        free(m);
    }
}

static void ctrl_drop(struct vser *v)
{
    struct ctrl_msg *m;

    while ((m = list_first(&v->ctrl, struct ctrl_msg, link))) {
        list_del(&m->link);
        free(m);
    }
    v->nr_ctrl = 0;
}

static void ctrl_send(struct vser *v, uint32_t id, uint16_t event, uint16_t value, const char *text)
{
    size_t n = text ? strlen(text) + 1 : 0;
    struct ctrl_msg *m;

    if (!virtio_has(&v->vd, F_MULTIPORT) || v->nr_ctrl >= MAX_CTRL)
        return;
    m = xcalloc(1, sizeof *m + MSG_SIZE + n);
    m->len = MSG_SIZE + n;
    put_le32(m->bytes, id);
    put_le16(m->bytes + 4, event);
    put_le16(m->bytes + 6, value);
    if (n)
        memcpy(m->bytes + MSG_SIZE, text, n);
    list_add(&v->ctrl, &m->link);
    v->nr_ctrl++;
    if (virtio_active(&v->vd))
        ctrl_flush(v);
}

/* ---- data ---- */

static bool tx_more(struct vport *p);

static void port_writable(void *opaque)
{
    struct vport *p = opaque;

    if (tx_more(p))
        virtq_schedule(tx_queue(p));
}

/* Goes on with the element in hand; true when it is done. */
static bool tx_more(struct vport *p)
{
    struct virtq *q = tx_queue(p);
    uint64_t skip = p->tx_off;

    if (!p->tx)
        return true;
    for (unsigned i = 0; i < p->tx->out.nr; i++) {
        const struct iovec *s = &p->tx->out.v[i];

        if (skip >= s->iov_len) {
            skip -= s->iov_len;
            continue;
        }
        size_t want = s->iov_len - skip, got = want;
        if (p->fe.chr)
            got = chr_fe_try_write(&p->fe, (uint8_t *)s->iov_base + skip, want, port_writable);
        p->tx_off += got;
        if (got < want)
            return false;
        skip = 0;
    }
    virtq_push(p->tx, 0);
    p->tx = NULL;
    virtq_notify(q);
    return true;
}

static void tx_run(struct vport *p)
{
    struct virtq *q = tx_queue(p);

    while (tx_more(p) && (p->tx = virtq_pop(q, sizeof *p->tx)))
        p->tx_off = 0;
}

static size_t port_can_read(void *opaque)
{
    struct vport *p = opaque;
    struct virtq *q = rx_queue(p);
    struct virtq_elem *e;
    size_t n;

    if (!virtio_active(&p->ser->vd) || !p->guest_open || !(e = virtq_pop(q, sizeof *e)))
        return 0;
    n = e->in.len;
    virtq_unpop(e);
    return n;
}

static void port_read(void *opaque, const uint8_t *buf, size_t len)
{
    struct vport *p = opaque;
    struct virtq *q = rx_queue(p);
    struct virtq_elem *e;

    while (len && (e = virtq_pop(q, sizeof *e))) {
        size_t n = iov_from_buf(&e->in, 0, buf, len);

        virtq_push(e, n);
        buf += n;
        len -= n;
    }
    virtq_notify(q);
}

static void port_event(void *opaque, enum chr_event ev)
{
    struct vport *p = opaque;

    if (ev == CHR_OPENED || ev == CHR_CLOSED)
        ctrl_send(p->ser, p->nr, PORT_OPEN, ev == CHR_OPENED, NULL);
}
static const struct chr_fe_ops port_ops = {.can_read = port_can_read, .read = port_read, .event = port_event};

static void port_set_open(struct vport *p, bool open)
{
    struct machine *m = dev_machine(&p->dev);

    if (p->guest_open == open)
        return;
    p->guest_open = open;
    if (p->fe.chr)
        chr_fe_set_open(&p->fe, open);
    if (p->dev.id && !p->console)
        run_event(m->run, "VSERPORT_CHANGE", json_make("s:id", p->dev.id, "b:open", open, NULL));
    if (open && p->fe.chr)
        chr_fe_accept(&p->fe);
}

/* ---- queues ---- */

static void announce(struct vser *v, struct vport *p)
{
    ctrl_send(v, p->nr, DEVICE_ADD, 1, NULL);
}

static void port_is_ready(struct vser *v, struct vport *p)
{
    if (p->console) {
        ctrl_send(v, p->nr, CONSOLE_PORT, 1, NULL);
        port_set_open(p, true);
    }
    if (p->name)
        ctrl_send(v, p->nr, PORT_NAME, 1, p->name);
    if (p->fe.open)
        ctrl_send(v, p->nr, PORT_OPEN, 1, NULL);
}

static void ctrl_message(struct vser *v, uint32_t id, uint16_t event, uint16_t value)
{
    struct vport *p = id < v->max_ports ? v->port[id] : NULL;

    if (event == DEVICE_READY) {
        v->driver_ready = value;
        for (unsigned i = 0; value && i < v->max_ports; i++)
            if (v->port[i])
                announce(v, v->port[i]);
        return;
    }
    if (!p) {
        log_guest("virtio-serial: control message %u for port %u, which is not there", event, id);
        return;
    }
    if (event == PORT_READY && value)
        port_is_ready(v, p);
    else if (event == PORT_OPEN)
        port_set_open(p, value);
}

static void ctrl_run(struct vser *v, struct virtq *q)
{
    struct virtq_elem *e;
    uint8_t b[MSG_SIZE];

    while ((e = virtq_pop(q, sizeof *e))) {
        bool ok = iov_to_buf(&e->out, 0, b, sizeof b) == sizeof b;
        virtq_push(e, 0);
        if (ok)
            ctrl_message(v, get_le32(b), get_le16(b + 4), get_le16(b + 6));
    }
    virtq_notify(q);
}

static void vser_queue(struct virtio_dev *vd, struct virtq *q)
{
    struct vser *v = vser_of(vd);
    unsigned nr = q->index < 2 ? 0 : q->index / 2 - 1;

    if (q->index == Q_CTRL_RX) {
        ctrl_flush(v);
    } else if (q->index == Q_CTRL_TX) {
        ctrl_run(v, q);
    } else if (v->port[nr]) {
        if (q->index & 1)
            tx_run(v->port[nr]);
        else if (v->port[nr]->fe.chr)
            chr_fe_accept(&v->port[nr]->fe);
    } else if (q->index & 1) { /* nobody listens */
        struct virtq_elem *e;
        while ((e = virtq_pop(q, sizeof *e)))
            virtq_push(e, 0);
        virtq_notify(q);
    }
}

static void vser_get_config(struct virtio_dev *vd, uint8_t *c)
{
    put_le32(c + CFG_MAX_PORTS, vser_of(vd)->max_ports);
}

static void vser_set_config(struct virtio_dev *vd, const uint8_t *c, unsigned off, unsigned len)
{
    struct vser *v = vser_of(vd);

    if (off > CFG_EMERG_WR || off + len <= CFG_EMERG_WR || !v->emergency)
        return;
    for (unsigned i = 0; i < v->max_ports; i++)
        if (v->port[i] && v->port[i]->console && v->port[i]->fe.chr) {
            chr_fe_write(&v->port[i]->fe, c + CFG_EMERG_WR, 1);
            return;
        }
}

static void vser_set_status(struct virtio_dev *vd, uint8_t old)
{
    struct vser *v = vser_of(vd);

    /* A driver with a single port says nothing more. */
    if ((vd->status & VIRTIO_S_DRIVER_OK) && !virtio_has(vd, F_MULTIPORT) && v->port[0])
        port_set_open(v->port[0], true);
}

static void vser_reset(struct virtio_dev *vd)
{
    struct vser *v = vser_of(vd);

    v->driver_ready = false;
    ctrl_drop(v);
    for (unsigned i = 0; i < v->max_ports; i++) {
        struct vport *p = v->port[i];
        if (!p)
            continue;
        if (p->tx) {
            virtq_elem_free(p->tx);
            p->tx = NULL;
        }
        port_set_open(p, false);
    }
}

/* ---- the bus and its ports ---- */

static const struct bus_class vser_bus_class = {.type = "virtio-serial-bus", .max_devs = MAX_PORTS};

static bool choose_nr(struct vser *v, struct vport *p, struct err **errp)
{
    if (p->nr == UINT32_MAX) {
        unsigned i = p->console ? 0 : 1;
        while (i < v->max_ports && v->port[i])
            i++;
        p->nr = i;
    }
    if (p->nr >= v->max_ports)
        return err_set(errp,
                       "%s: no port number %u on a virtio-serial device with %u ports; raise max_ports (up to %u)",
                       p->dev.obj.cls->name, p->nr, v->max_ports, MAX_PORTS);
    if (!p->nr && !p->console)
        return err_set(errp, "virtserialport: port number 0 is for virtconsole; use nr=1 or higher");
    if (v->port[p->nr])
        return err_set(errp, "%s: port number %u is already taken", p->dev.obj.cls->name, p->nr);
    return true;
}

static bool vport_realize(struct dev *d, struct err **errp)
{
    struct vport *p = container_of(d, struct vport, dev);
    struct vser *v = container_of(d->bus, struct vser, bus);

    p->console = ((const struct vport_class *)dev_class(d))->console;
    p->ser = v;
    if (!choose_nr(v, p, errp))
        return false;
    v->port[p->nr] = p;
    if (p->fe.chr)
        chr_fe_set(&p->fe, &port_ops, p);
    if (v->driver_ready)
        announce(v, p);
    return true;
}

static void vport_unrealize(struct dev *d)
{
    struct vport *p = container_of(d, struct vport, dev);

    if (p->tx)
        virtq_push(p->tx, 0);
    p->tx = NULL;
    if (p->ser->driver_ready)
        ctrl_send(p->ser, p->nr, DEVICE_REMOVE, 1, NULL);
    p->ser->port[p->nr] = NULL;
    if (p->fe.chr)
        chr_fe_set(&p->fe, NULL, NULL);
}

static const struct prop vport_props[] = {PROP_CHR("chardev", struct vport, fe), PROP("name", str, struct vport, name),
                                          PROP("nr", u32, struct vport, nr, .dflt = "4294967295"), PROP_END};
static const struct state_field vport_fields[] = {STATE_BOOL(struct vport, guest_open), STATE_END};
static bool vport_post_load(void *opaque, struct err **errp)
{
    struct vport *p = opaque;

    if (p->guest_open && p->fe.chr)
        chr_fe_set_open(&p->fe, true);
    return true;
}
static const struct state_desc vport_state = {
    .name = "virtio-serial-port", .version = 1, .fields = vport_fields, .post_load = vport_post_load};
static const struct vport_class virtserialport_class = {.name = "virtserialport",
                                                        .parent = "virtio-serial-port",
                                                        .size = sizeof(struct vport),
                                                        .props = vport_props,
                                                        .bus_type = "virtio-serial-bus",
                                                        .category = DEV_CAT_INPUT,
                                                        .hotplug = true,
                                                        .realize = vport_realize,
                                                        .unrealize = vport_unrealize,
                                                        .state_desc = &vport_state,
                                                        .desc = "named channel to the guest"};
DEV_REGISTER(virtserialport_class)
static const struct vport_class virtconsole_class = {.name = "virtconsole",
                                                     .parent = "virtio-serial-port",
                                                     .size = sizeof(struct vport),
                                                     .props = vport_props,
                                                     .bus_type = "virtio-serial-bus",
                                                     .category = DEV_CAT_INPUT,
                                                     .hotplug = true,
                                                     .realize = vport_realize,
                                                     .unrealize = vport_unrealize,
                                                     .state_desc = &vport_state,
                                                     .desc = "console of the guest (hvc0)",
                                                     .console = true};
DEV_REGISTER(virtconsole_class)

static void CONSTRUCTOR vport_family(void)
{
    obj_register_family("virtio-serial-port", "device");
}

/* ---- the device ---- */

static bool vser_realize(struct virtio_dev *vd, struct err **errp)
{
    struct vser *v = vser_of(vd);

    list_init(&v->ctrl);
    if (!v->max_ports || v->max_ports > MAX_PORTS)
        return err_set(errp, "virtio-serial: max_ports=%u must be between 1 and %u", v->max_ports, MAX_PORTS);
    vd->features = v->max_ports > 1 ? VIRTIO_BIT(F_MULTIPORT) : 0;
    if (v->emergency)
        vd->features |= VIRTIO_BIT(F_EMERG_WRITE);
    for (unsigned i = 0; i < 2; i++)
        virtio_add_queue(vd, QUEUE_NUM, vser_queue);
    if (v->max_ports > 1) {
        virtio_add_queue(vd, CTRL_NUM, vser_queue);
        virtio_add_queue(vd, CTRL_NUM, vser_queue);
        for (unsigned i = 1; i < v->max_ports; i++) {
            virtio_add_queue(vd, QUEUE_NUM, vser_queue);
            virtio_add_queue(vd, QUEUE_NUM, vser_queue);
        }
    }
    bus_init(&v->bus, &vser_bus_class, vd->dev, NULL);
    v->bus.hotplug = true;
    return true;
}

static void vser_unrealize(struct virtio_dev *vd)
{
    struct vser *v = vser_of(vd);

    ctrl_drop(v);
    free(v->saved);
    bus_fini(&v->bus);
}

/* ---- saving ---- */

static void vser_held(struct virtio_dev *vd, virtq_put_fn *put, void *opaque)
{
    struct vser *v = vser_of(vd);

    for (unsigned i = 0; i < v->max_ports; i++)
        if (v->port[i] && v->port[i]->tx)
            put(opaque, v->port[i]->tx, v->port[i]->tx_off);
}

static void vser_take_back(struct virtio_dev *vd, struct virtq_elem *e, uint64_t tag)
{
    struct vser *v = vser_of(vd);
    unsigned q = e->q->index, nr = q < 2 ? 0 : q / 2 - 1;
    struct vport *p = nr < v->max_ports ? v->port[nr] : NULL;

    if (!p || p->tx || !(q & 1) || q == Q_CTRL_TX) {
        virtq_elem_free(e);
        return;
    }
    p->tx = e;
    p->tx_off = min_u64(tag, e->out.len);
}

static bool vser_pre_save(void *opaque, struct err **errp)
{
    struct vser *v;
    struct strbuf b = {0};
    struct ctrl_msg *m;

    v = &((struct vser_pci *)opaque)->v;
    list_each (m, &v->ctrl, link) {
        uint8_t n[2];

        put_le16(n, (uint16_t)m->len);
        str_addn(&b, n, sizeof n);
        str_addn(&b, m->bytes, m->len);
    }
    free(v->saved);
    v->saved_len = (uint32_t)b.len;
    v->saved = (uint8_t *)str_take(&b);
    return true;
}

static bool vser_post_load(void *opaque, struct err **errp)
{
    struct vser *v = &((struct vser_pci *)opaque)->v;
    const uint8_t *p = v->saved;

    ctrl_drop(v);
    for (uint32_t left = v->saved_len; left;) {
        uint32_t n = left < 2 ? UINT32_MAX : get_le16(p);
        struct ctrl_msg *m;

        if (n > left - 2 || v->nr_ctrl >= MAX_CTRL)
            return false;
        m = xcalloc(1, sizeof *m + n);
        m->len = n;
        memcpy(m->bytes, p + 2, n);
        list_add(&v->ctrl, &m->link);
        v->nr_ctrl++;
        p += 2 + n;
        left -= 2 + n;
    }
    return true;
}

static unsigned vser_vectors(struct virtio_dev *vd)
{
    return vser_of(vd)->max_ports + 1;
}

static const struct virtio_type vser_type = {.name = "virtio-serial",
                                             .id = VIRTIO_ID_CONSOLE,
                                             .config_size = CFG_SIZE,
                                             .realize = vser_realize,
                                             .unrealize = vser_unrealize,
                                             .reset = vser_reset,
                                             .get_config = vser_get_config,
                                             .set_config = vser_set_config,
                                             .set_status = vser_set_status,
                                             .held = vser_held,
                                             .take_back = vser_take_back};
static const struct prop vser_pci_props[] = {
    PROP("max_ports", u32, struct vser_pci, v.max_ports, .dflt = "31"),
    PROP("emergency-write", bool, struct vser_pci, v.emergency, .dflt = "on"),
    VIRTIO_PROPS(struct vser_pci, v.vd),
    VIRTIO_PCI_PROPS(struct vser_pci),
    PROP_END,
};
static const struct state_field vser_fields[] = {
    STATE_STRUCT(struct vser_pci, pci, virtio_pci_state),
    STATE_STRUCT(struct vser_pci, v.vd, virtio_state),
    STATE_BOOL(struct vser_pci, v.driver_ready),
    STATE_ALLOC(struct vser_pci, v.saved, v.saved_len, 1 << 20),
    STATE_END,
};
static const struct state_desc vser_state = {.name = "virtio-serial",
                                             .version = 1,
                                             .fields = vser_fields,
                                             .pre_save = vser_pre_save,
                                             .post_load = vser_post_load};
static const char *const vser_aliases[] = {"virtio-serial", NULL};
VIRTIO_PCI_CLASSES(vser, "virtio-serial-pci", vser_aliases, struct vser_pci, v, vser_type, .props = vser_pci_props,
                   .state_desc = &vser_state, .category = DEV_CAT_INPUT, .desc = "virtio bus of serial ports",
                   .legacy_id = 0x1003, .class_id = 0x0780, .nr_vectors = vser_vectors)
