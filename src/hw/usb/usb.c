/* The USB bus: ports, the control endpoint, standard requests. Source: USB 2.0, 8.5.3 (control transfers), 9.4.
 *
 * Not modelled: hubs (as many devices as the controller has ports), alternate settings, halting OUT endpoints. */
#include "hw/usb/usb.h"

#include "base/bytes.h"

enum {
    GET_STATUS = 0,
    CLEAR_FEATURE = 1,
    SET_FEATURE = 3,
    SET_ADDRESS = 5,
    GET_DESCRIPTOR = 6,
    GET_CONFIGURATION = 8,
    SET_CONFIGURATION = 9,
    GET_INTERFACE = 10,
    SET_INTERFACE = 11,
    SET_SEL = 48, /* USB 3.2, 9.4 */
    SET_ISOCH_DELAY = 49
};
enum { DESC_DEVICE = 1, DESC_CONFIGURATION = 2, DESC_STRING = 3, DESC_BOS = 15 };
enum { FEATURE_ENDPOINT_HALT = 0, FEATURE_DEVICE_REMOTE_WAKEUP = 1, FEATURE_U1 = 48, FEATURE_U2 = 49 };
enum { PHASE_IDLE, PHASE_IN, PHASE_OUT, PHASE_STALLED };

/* ---- ports ---- */

static struct usb_bus *bus_of(const struct usb_dev *d)
{
    return container_of(d->dev.bus, struct usb_bus, bus);
}

void usb_bus_init(struct usb_bus *b, const struct bus_class *cls, struct dev *owner, unsigned nr_ports)
{
    char name[32];

    b->nr_ports = nr_ports;
    for (unsigned n = 0; !owner->id && n < 1000; n++) {
        snprintf(name, sizeof name, "usb-bus.%u", n);
        if (!bus_find(dev_machine(owner), name, NULL, NULL))
            break;
    }
    bus_init(&b->bus, cls, owner, owner->id ? NULL : name);
    b->bus.hotplug = true;
}

void usb_bus_fini(struct usb_bus *b)
{
    bus_fini(&b->bus);
}

/* Can the port take the device, and at which speed? */
static bool fits(const struct usb_bus *b, unsigned n, const struct usb_dev *d, enum usb_speed *speed)
{
    unsigned can = b->speeds[n] ? b->speeds[n] : 1u << USB_LOW | 1u << USB_FULL;

    *speed = usb_class(d)->speed;
    if (usb_class(d)->ss_config_desc && d->usb_version > 2 && (can >> USB_SUPER & 1))
        *speed = USB_SUPER;
    else if (usb_class(d)->hs_config_desc && d->usb_version > 1 && (can >> USB_HIGH & 1))
        *speed = USB_HIGH;
    return can >> *speed & 1;
}

bool usb_bus_plug(struct bus *bus, struct dev *dev, struct err **errp)
{
    struct usb_bus *b = container_of(bus, struct usb_bus, bus);
    struct usb_dev *d = container_of(dev, struct usb_dev, dev);
    unsigned n = 0;
    char *end;

    if (d->port) {
        unsigned long v = strtoul(d->port, &end, 10);

        if (*end || v < 1 || v > b->nr_ports) {
            err_set(errp, "usb port %s (bus %s) not found (in use?)", d->port, bus->name);
            err_hint(errp, "the ports are 1 to %u", b->nr_ports);
            return false;
        }
        n = (unsigned)v - 1;
        if (b->port[n])
            return err_set(errp, "usb port %s (bus %s) is in use", d->port, bus->name);
        if (!fits(b, n, d, &d->speed))
            return err_set(errp, "usb port %s (bus %s) is not of the speed of %s", d->port, bus->name,
                           dev->obj.cls->name);
    }
    while (n < b->nr_ports && (b->port[n] || !fits(b, n, d, &d->speed)))
        n++;
    if (n >= b->nr_ports) {
        err_set(errp, "no free port for the device on the USB bus %s", bus->name);
        err_hint(errp, "add a controller: -device qemu-xhci");
        return false;
    }
    d->nr = n;
    return true;
}

bool usb_bus_plugged(struct bus *bus, struct dev *dev, struct err **errp)
{
    struct usb_bus *b = container_of(bus, struct usb_bus, bus);
    struct usb_dev *d = container_of(dev, struct usb_dev, dev);

    b->port[d->nr] = d;
    b->changed(b->opaque, d->nr);
    return true;
}

void usb_bus_unplug(struct bus *bus, struct dev *dev)
{
    struct usb_bus *b = container_of(bus, struct usb_bus, bus);
    struct usb_dev *d = container_of(dev, struct usb_dev, dev);

    if (b->port[d->nr] != d)
        return;
    b->port[d->nr] = NULL;
    b->changed(b->opaque, d->nr);
}

char *usb_bus_fw_path(struct dev *dev)
{
    struct usb_dev *d = container_of(dev, struct usb_dev, dev);

    return xasprintf("%s@%x", usb_class(d)->fw_name ? usb_class(d)->fw_name : "device", d->nr + 1);
}

void usb_bus_reset_port(struct usb_bus *b, unsigned port)
{
    struct usb_dev *d = b->port[port];

    if (!d)
        return;
    d->addr = d->config = d->remote_wakeup = d->halted = 0;
    d->phase = PHASE_IDLE;
    if (usb_class(d)->usb_reset)
        usb_class(d)->usb_reset(d);
}

void usb_wakeup(struct usb_dev *d, unsigned ep)
{
    struct usb_bus *b = bus_of(d);

    if (b->wakeup && b->port[d->nr] == d)
        b->wakeup(b->opaque, d, ep);
}

/* ---- standard requests ---- */

const uint8_t *usb_device_desc(const struct usb_dev *d)
{
    const struct usb_dev_class *c = usb_class(d);

    return d->speed == USB_SUPER && c->ss_device_desc  ? c->ss_device_desc
           : d->speed == USB_HIGH && c->hs_device_desc ? c->hs_device_desc
                                                       : c->device_desc;
}

const uint8_t *usb_config_desc(const struct usb_dev *d)
{
    const struct usb_dev_class *c = usb_class(d);

    return d->speed == USB_SUPER && c->ss_config_desc  ? c->ss_config_desc
           : d->speed == USB_HIGH && c->hs_config_desc ? c->hs_config_desc
                                                       : c->config_desc;
}

static int reply(uint8_t *data, unsigned len, const void *src, unsigned n)
{
    n = (unsigned)min_u64(n, len);
    memcpy(data, src, n);
    return (int)n;
}

static int get_string(const struct usb_dev *d, unsigned index, uint8_t *data, unsigned len)
{
    uint8_t out[128] = {4, DESC_STRING, 0x09, 0x04}; /* index 0: the languages, US English */
    const char *const *s = usb_class(d)->strings;

    if (!index)
        return reply(data, len, out, 4);
    for (unsigned i = 1; s && *s; i++, s++)
        if (i == index) {
            unsigned n = 2;

            for (const char *c = *s; *c && n + 2 <= sizeof out; c++, n += 2)
                put_le16(out + n, (uint8_t)*c);
            out[0] = (uint8_t)n;
            return reply(data, len, out, n);
        }
    return USB_STALL;
}

static int get_descriptor(const struct usb_dev *d, const uint8_t *setup, uint8_t *data, unsigned len)
{
    const uint8_t *desc = setup[3] == DESC_DEVICE ? usb_device_desc(d) : usb_config_desc(d);

    switch (setup[3]) {
    case DESC_DEVICE:
        return reply(data, len, desc, desc[0]);
    case DESC_CONFIGURATION:
        return setup[2] ? USB_STALL : reply(data, len, desc, get_le16(desc + 2));
    case DESC_BOS:
        desc = usb_class(d)->bos_desc;
        return desc ? reply(data, len, desc, get_le16(desc + 2)) : USB_STALL;
    case DESC_STRING:
        return get_string(d, setup[2], data, len);
    default:
        return USB_STALL; /* no qualifier (USB 2.0 9.6.2): the other speed is not to be had at this port */
    }
}

static int feature(struct usb_dev *d, const uint8_t *setup, bool on)
{
    uint8_t bit = setup[4] & USB_DIR_IN ? (uint8_t)(1u << (setup[4] & 7)) : 0;

    if (!(setup[0] & 3) && setup[2] == FEATURE_DEVICE_REMOTE_WAKEUP)
        d->remote_wakeup = on;
    else if ((setup[0] & 3) == USB_RCPT_ENDPOINT && setup[2] == FEATURE_ENDPOINT_HALT)
        d->halted = on ? d->halted | bit : d->halted & (uint8_t)~bit;
    else if ((setup[0] & 3) || d->speed != USB_SUPER || (setup[2] != FEATURE_U1 && setup[2] != FEATURE_U2))
        return USB_STALL; /* its link has no such states: enabling them changes nothing */
    return 0;
}

static int get_status(const struct usb_dev *d, const uint8_t *setup, uint8_t *data, unsigned len)
{
    uint8_t st[2] = {0, 0};

    if (!(setup[0] & 3))
        st[0] = (uint8_t)(d->remote_wakeup << 1 | (usb_config_desc(d)[7] >> 6 & 1));
    else if ((setup[0] & 3) == USB_RCPT_ENDPOINT)
        st[0] = d->halted >> (setup[4] & 7) & 1;
    return reply(data, len, st, 2);
}

int usb_control(struct usb_dev *d, const uint8_t setup[8], uint8_t *data, unsigned len)
{
    const uint8_t none = 0;
    int r = (setup[0] & 0x60) || (setup[0] & 3) == USB_RCPT_INTERFACE ? usb_class(d)->control(d, setup, data, len)
                                                                      : USB_STALL;

    if (r != USB_STALL || (setup[0] & 0x60))
        return r;
    switch (setup[1]) {
    case GET_STATUS:
        return get_status(d, setup, data, len);
    case CLEAR_FEATURE:
    case SET_FEATURE:
        return feature(d, setup, setup[1] == SET_FEATURE);
    case SET_ADDRESS:
        d->addr = setup[2] & 0x7f;
        return 0;
    case GET_DESCRIPTOR:
        return get_descriptor(d, setup, data, len);
    case GET_CONFIGURATION:
        return reply(data, len, &d->config, 1);
    case SET_CONFIGURATION:
        if (setup[2] && setup[2] != usb_config_desc(d)[5])
            return USB_STALL;
        d->config = setup[2];
        d->halted = 0;
        return 0;
    case GET_INTERFACE:
        return reply(data, len, &none, 1);
    case SET_INTERFACE:
        return setup[2] ? USB_STALL : 0;
    case SET_SEL:
    case SET_ISOCH_DELAY:
        return d->speed == USB_SUPER ? 0 : USB_STALL;
    default:
        return USB_STALL;
    }
}

/* ---- packets ---- */

static int begin_control(struct usb_dev *d, const uint8_t *setup)
{
    unsigned want = get_le16(setup + 6);
    int r;

    memcpy(d->setup, setup, 8);
    d->at = 0;
    d->len = (uint32_t)min_u64(want, USB_CONTROL_MAX);
    d->phase = want > USB_CONTROL_MAX ? PHASE_STALLED : setup[0] & USB_DIR_IN ? PHASE_IN : PHASE_OUT;
    if (d->phase == PHASE_IN) {
        r = usb_control(d, setup, d->data, d->len);
        d->phase = r < 0 ? PHASE_STALLED : PHASE_IN;
        d->len = r < 0 ? 0 : (uint32_t)r;
    }
    return 8; /* a SETUP is always taken */
}

/* IN in the data stage of a read, or the status stage of a write, which is when the request is carried out. */
static int control_in(struct usb_dev *d, uint8_t *buf, unsigned len)
{
    unsigned n = (unsigned)min_u64(len, d->len - d->at);
    int r;

    switch (d->phase) {
    case PHASE_IN:
        memcpy(buf, d->data + d->at, n);
        d->at += n;
        return (int)n;
    case PHASE_OUT:
        r = d->at < d->len ? USB_STALL : usb_control(d, d->setup, d->data, d->len);
        d->phase = r < 0 ? PHASE_STALLED : PHASE_IDLE;
        return r < 0 ? USB_STALL : 0;
    default:
        return USB_STALL;
    }
}

static int control_out(struct usb_dev *d, const uint8_t *buf, unsigned len)
{
    switch (d->phase) {
    case PHASE_IN: /* the status stage */
        d->phase = PHASE_IDLE;
        return 0;
    case PHASE_OUT:
        if (len > d->len - d->at)
            break;
        memcpy(d->data + d->at, buf, len);
        d->at += len;
        return (int)len;
    default:
        break;
    }
    return USB_STALL;
}

int usb_packet(struct usb_dev *d, enum usb_pid pid, unsigned ep, uint8_t *buf, unsigned len)
{
    if (pid == USB_SETUP)
        return ep || len != 8 ? USB_STALL : begin_control(d, buf);
    if (!ep)
        return pid == USB_IN ? control_in(d, buf, len) : control_out(d, buf, len);
    if (!d->config)
        return USB_STALL;
    if (pid == USB_OUT)
        return usb_class(d)->out ? usb_class(d)->out(d, ep, buf, len) : USB_STALL;
    return d->halted >> (ep & 7) & 1 ? USB_STALL : usb_class(d)->in(d, ep, buf, len);
}

/* ---- what all devices share ---- */

const struct prop usb_props[] = {PROP("port", str, struct usb_dev, port, .help = "port of the controller, from 1"),
                                 PROP_END};
static const struct state_field usb_fields[] = {
    STATE_U8(struct usb_dev, addr),          STATE_U8(struct usb_dev, config),
    STATE_U8(struct usb_dev, remote_wakeup), STATE_U8(struct usb_dev, halted),
    STATE_BYTES(struct usb_dev, setup),      STATE_BYTES(struct usb_dev, data),
    STATE_U32(struct usb_dev, len),          STATE_U32(struct usb_dev, at),
    STATE_U8(struct usb_dev, phase),         STATE_END};
static bool usb_post_load(void *obj, struct err **errp)
{
    struct usb_dev *d = obj;

    return d->len <= USB_CONTROL_MAX && d->at <= d->len;
}
const struct state_desc usb_dev_state = {
    .name = "usb-device", .version = 1, .fields = usb_fields, .post_load = usb_post_load};

static void CONSTRUCTOR usb_family(void)
{
    obj_register_family("usb-device", "device");
}
