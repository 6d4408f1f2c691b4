/* "usb-tablet", "usb-mouse", "usb-kbd": input devices of class HID at full or high speed, one interrupt
 * endpoint each.
 *
 * Device Class Definition for HID 1.11; HID Usage Tables 1.12 (keyboard page 10). The keyboard and the mouse speak the
 * boot protocol, whose reports are also those of their report descriptors. Left out: idle repetition (an unchanged
 * state is a NAK). Lights are accepted and go nowhere. */
#include "base/bytes.h"
#include "hw/usb/usb.h"
#include "ui/keys.h"
#include "ui/ui.h"

enum { QUEUE = 32, POLL_EP = 1, KEYS_DOWN = 6, REPORT_MAX = 8 };
enum { HID_GET_REPORT = 1, HID_GET_IDLE, HID_GET_PROTOCOL, HID_SET_REPORT = 9, HID_SET_IDLE, HID_SET_PROTOCOL };
enum { GET_DESCRIPTOR = 6, DESC_HID = 0x21, DESC_REPORT = 0x22 };
enum hid_kind { TABLET, MOUSE, KEYBOARD };

/* One report to be: pointers put their state here, the keyboard a key and its direction. */
struct hid_event {
    int32_t x, y, wheel;
    uint32_t buttons, key, down;
};
struct hid {
    struct usb_dev usb; /* first */
    struct ui_input *input;
    struct hid_event q[QUEUE], now; /* now: as collected since the last sync */
    uint32_t head, count;
    bool fresh; /* now differs from what is queued */
    uint8_t idle, protocol, modifiers, keys[KEYS_DOWN];
    uint8_t report[REPORT_MAX]; /* the last one sent, for GET_REPORT */
};
struct hid_class {
    struct usb_dev_class;
    enum hid_kind kind;
    const uint8_t *report_desc;
    uint8_t report_desc_len, report_len;
    const struct ui_input_ops *ops;
};
static struct hid *hid_of(struct usb_dev *d)
{
    return container_of(d, struct hid, usb);
}
static const struct hid_class *class_of(const struct hid *h)
{
    return (const struct hid_class *)h->usb.dev.obj.cls;
}

/* ---- events into reports ---- */

static void enqueue(struct hid *h, const struct hid_event *e)
{
    struct hid_event *last = h->count ? &h->q[(h->head + h->count - 1) % QUEUE] : NULL;

    if (last && !e->key && h->count > 1 && last->buttons == e->buttons && !e->wheel && !last->wheel) {
        last->x = class_of(h)->kind == TABLET ? e->x : last->x + e->x; /* moves melt into one */
        last->y = class_of(h)->kind == TABLET ? e->y : last->y + e->y;
        return;
    }
    if (h->count == QUEUE) /* the guest does not ask: the oldest goes, buttons and keys end as they are */
        h->head = (h->head + 1) % QUEUE, h->count--;
    h->q[(h->head + h->count++) % QUEUE] = *e;
    usb_wakeup(&h->usb, POLL_EP);
}

static void press(struct hid *h, uint8_t usage, bool down)
{
    unsigned free_at = KEYS_DOWN;

    if (usage >= 0xe0) {
        uint8_t bit = (uint8_t)(1u << (usage & 7));

        h->modifiers = down ? h->modifiers | bit : h->modifiers & (uint8_t)~bit;
        return;
    }
    for (unsigned i = KEYS_DOWN; i-- > 0;) {
        if (h->keys[i] == usage)
            h->keys[i] = 0;
        if (!h->keys[i])
            free_at = i;
    }
    if (down && free_at < KEYS_DOWN)
        h->keys[free_at] = usage;
}

static int32_t part(int32_t *left)
{
    int32_t n = (int32_t)max_i64(-127, min_i64(127, *left));

    *left -= n;
    return n;
}

/* The report of the oldest event into h->report; true when the event is used up. */
static bool next_report(struct hid *h, struct hid_event *e)
{
    uint8_t *r = h->report;
    int32_t w;

    switch (class_of(h)->kind) {
    case KEYBOARD:
        press(h, (uint8_t)e->key, e->down);
        r[0] = h->modifiers;
        r[1] = 0;
        memcpy(r + 2, h->keys, KEYS_DOWN);
        return true;
    case TABLET:
        r[0] = (uint8_t)e->buttons;
        put_le16(r + 1, (uint16_t)e->x);
        put_le16(r + 3, (uint16_t)e->y);
        w = part(&e->wheel);
        r[5] = (uint8_t)w;
        return !e->wheel;
    default:
        r[0] = (uint8_t)e->buttons;
        w = part(&e->x);
        r[1] = (uint8_t)w;
        w = part(&e->y);
        r[2] = (uint8_t)w;
        w = part(&e->wheel);
        r[3] = (uint8_t)w;
        return !e->x && !e->y && !e->wheel;
    }
}

static int hid_in(struct usb_dev *d, unsigned ep, uint8_t *data, unsigned len)
{
    struct hid *h = hid_of(d);

    if (ep != POLL_EP)
        return USB_STALL;
    if (!h->count)
        return USB_NAK;
    if (len < class_of(h)->report_len)
        return USB_BABBLE;
    if (next_report(h, &h->q[h->head % QUEUE])) {
        h->head = (h->head + 1) % QUEUE;
        h->count--;
    }
    memcpy(data, h->report, class_of(h)->report_len);
    return class_of(h)->report_len;
}

/* ---- from the person ---- */

/* Scan code set 1 make code (low 7 bits; 0x80: after e0) to usage of the keyboard page. */
static const uint8_t usage_of_set1[256] = {[0x01] = 0x29,
                                           [0x02] = 0x1e,
                                           0x1f,
                                           0x20,
                                           0x21,
                                           0x22,
                                           0x23,
                                           0x24,
                                           0x25,
                                           0x26,
                                           0x27,
                                           0x2d,
                                           0x2e,
                                           0x2a,
                                           0x2b,
                                           [0x10] = 0x14,
                                           0x1a,
                                           0x08,
                                           0x15,
                                           0x17,
                                           0x1c,
                                           0x18,
                                           0x0c,
                                           0x12,
                                           0x13,
                                           0x2f,
                                           0x30,
                                           0x28,
                                           0xe0,
                                           [0x1e] = 0x04,
                                           0x16,
                                           0x07,
                                           0x09,
                                           0x0a,
                                           0x0b,
                                           0x0d,
                                           0x0e,
                                           0x0f,
                                           0x33,
                                           0x34,
                                           0x35,
                                           0xe1,
                                           0x31,
                                           [0x2c] = 0x1d,
                                           0x1b,
                                           0x06,
                                           0x19,
                                           0x05,
                                           0x11,
                                           0x10,
                                           0x36,
                                           0x37,
                                           0x38,
                                           0xe5,
                                           0x55,
                                           0xe2,
                                           0x2c,
                                           0x39,
                                           [0x3b] = 0x3a,
                                           0x3b,
                                           0x3c,
                                           0x3d,
                                           0x3e,
                                           0x3f,
                                           0x40,
                                           0x41,
                                           0x42,
                                           0x43,
                                           0x53,
                                           0x47,
                                           [0x47] = 0x5f,
                                           0x60,
                                           0x61,
                                           0x56,
                                           0x5c,
                                           0x5d,
                                           0x5e,
                                           0x57,
                                           0x59,
                                           0x5a,
                                           0x5b,
                                           0x62,
                                           0x63,
                                           [0x54] = 0x46,
                                           [0x56] = 0x64,
                                           0x44,
                                           0x45,
                                           [0x70] = 0x88,
                                           [0x73] = 0x87,
                                           [0x79] = 0x8a,
                                           [0x7b] = 0x8b,
                                           [0x7d] = 0x89,
                                           [0x7e] = 0x85,
                                           [0x80 | 0x1c] = 0x58,
                                           [0x80 | 0x1d] = 0xe4,
                                           [0x80 | 0x20] = 0x7f,
                                           [0x80 | 0x2e] = 0x81,
                                           [0x80 | 0x30] = 0x80,
                                           [0x80 | 0x35] = 0x54,
                                           [0x80 | 0x37] = 0x46,
                                           [0x80 | 0x38] = 0xe6,
                                           [0x80 | 0x46] = 0x48,
                                           [0x80 | 0x47] = 0x4a,
                                           [0x80 | 0x48] = 0x52,
                                           [0x80 | 0x49] = 0x4b,
                                           [0x80 | 0x4b] = 0x50,
                                           [0x80 | 0x4d] = 0x4f,
                                           [0x80 | 0x4f] = 0x4d,
                                           [0x80 | 0x50] = 0x51,
                                           [0x80 | 0x51] = 0x4e,
                                           [0x80 | 0x52] = 0x49,
                                           [0x80 | 0x53] = 0x4c,
                                           [0x80 | 0x5b] = 0xe3,
                                           [0x80 | 0x5c] = 0xe7,
                                           [0x80 | 0x5d] = 0x65,
                                           [0x80 | 0x5e] = 0x66};

static uint8_t usage_of(unsigned key)
{
    uint8_t code[8];
    unsigned n = ui_key_set1(key, code);

    if (!n)
        return 0;
    if (code[0] == 0xe1)
        return 0x48; /* Pause */
    return usage_of_set1[(code[0] == 0xe0 ? 0x80 : 0) | (code[n - 1] & 0x7f)];
}

static void on_key(void *opaque, unsigned key, bool down)
{
    struct hid_event e = {.key = usage_of(key), .down = down};

    if (e.key)
        enqueue(opaque, &e);
}
static void on_rel(void *opaque, int dx, int dy)
{
    struct hid *h = opaque;

    h->now.x = (int32_t)max_i64(-32767, min_i64(32767, (int64_t)h->now.x + dx));
    h->now.y = (int32_t)max_i64(-32767, min_i64(32767, (int64_t)h->now.y + dy));
    h->fresh = true;
}
static void on_abs(void *opaque, int x, int y)
{
    struct hid *h = opaque;

    h->now.x = x;
    h->now.y = y;
    h->fresh = true;
}
static void on_sync(void *opaque)
{
    struct hid *h = opaque;

    if (!h->fresh)
        return;
    enqueue(h, &h->now);
    if (class_of(h)->kind == MOUSE)
        h->now.x = h->now.y = 0;
    h->now.wheel = 0;
    h->fresh = false;
}
static void on_button(void *opaque, enum ui_button b, bool down)
{
    static const uint8_t bits[] = {
        [UI_BTN_LEFT] = 1, [UI_BTN_RIGHT] = 2, [UI_BTN_MIDDLE] = 4, [UI_BTN_SIDE] = 8, [UI_BTN_EXTRA] = 16};
    struct hid *h = opaque;

    if (b == UI_BTN_WHEEL_UP || b == UI_BTN_WHEEL_DOWN)
        h->now.wheel += !down ? 0 : b == UI_BTN_WHEEL_UP ? 1 : -1;
    else
        h->now.buttons = down ? h->now.buttons | bits[b] : h->now.buttons & ~(uint32_t)bits[b];
    h->fresh = true;
}

/* ---- requests ---- */

static int give(uint8_t *data, unsigned len, const void *src, unsigned n)
{
    n = (unsigned)min_u64(n, len);
    memcpy(data, src, n);
    return (int)n;
}

static int hid_control(struct usb_dev *d, const uint8_t setup[8], uint8_t *data, unsigned len)
{
    struct hid *h = hid_of(d);
    const struct hid_class *c = class_of(h);

    if (setup[0] == (USB_DIR_IN | USB_RCPT_INTERFACE) && setup[1] == GET_DESCRIPTOR) {
        if (setup[3] == DESC_REPORT)
            return give(data, len, c->report_desc, c->report_desc_len);
        return setup[3] == DESC_HID ? give(data, len, c->config_desc + 18, 9) : USB_STALL;
    }
    if ((setup[0] & 0x7f) != (USB_TYPE_CLASS | USB_RCPT_INTERFACE))
        return USB_STALL;
    switch (setup[1]) {
    case HID_GET_REPORT:
        return give(data, len, h->report, c->report_len);
    case HID_GET_IDLE:
        return give(data, len, &h->idle, 1);
    case HID_GET_PROTOCOL:
        return give(data, len, &h->protocol, 1);
    case HID_SET_REPORT: /* the keyboard's lights */
        return c->kind == KEYBOARD ? (int)len : USB_STALL;
    case HID_SET_IDLE:
        h->idle = setup[3];
        return 0;
    case HID_SET_PROTOCOL:
        h->protocol = setup[2] & 1;
        return 0;
    default:
        return USB_STALL;
    }
}

/* ---- life ---- */

static bool hid_realize(struct dev *d, struct err **errp)
{
    struct hid *h = container_of(d, struct hid, usb.dev);

    h->input = ui_input_add(dev_machine(d), class_of(h)->ops, h);
    return true;
}
static void hid_unrealize(struct dev *d)
{
    ui_input_del(container_of(d, struct hid, usb.dev)->input);
}
static void hid_usb_reset(struct usb_dev *d)
{
    struct hid *h = hid_of(d);

    h->head = h->count = 0;
    h->idle = h->modifiers = 0;
    h->protocol = 1;
    memset(h->keys, 0, sizeof h->keys);
    memset(h->report, 0, sizeof h->report);
}
static void hid_reset(struct dev *d)
{
    struct hid *h = container_of(d, struct hid, usb.dev);

    h->usb.addr = h->usb.config = 0;
    hid_usb_reset(&h->usb);
}
static bool hid_post_load(void *obj, struct err **errp)
{
    struct hid *h = obj;

    return h->count <= QUEUE && h->head < QUEUE;
}
static const struct state_field event_fields[] = {STATE_INT(struct hid_event, x),
                                                  STATE_INT(struct hid_event, y),
                                                  STATE_INT(struct hid_event, wheel),
                                                  STATE_U32(struct hid_event, buttons),
                                                  STATE_U32(struct hid_event, key),
                                                  STATE_U32(struct hid_event, down),
                                                  STATE_END};
static const struct state_desc event_state = {.name = "usb-hid-event", .version = 1, .fields = event_fields};
static const struct state_field hid_fields[] = {STATE_STRUCT(struct hid, usb, usb_dev_state),
                                                STATE_STRUCTS(struct hid, q, event_state),
                                                STATE_STRUCT(struct hid, now, event_state),
                                                STATE_U32(struct hid, head),
                                                STATE_U32(struct hid, count),
                                                STATE_BOOL(struct hid, fresh),
                                                STATE_U8(struct hid, idle),
                                                STATE_U8(struct hid, protocol),
                                                STATE_U8(struct hid, modifiers),
                                                STATE_BYTES(struct hid, keys),
                                                STATE_BYTES(struct hid, report),
                                                STATE_END};
static const struct state_desc hid_state = {
    .name = "usb-hid", .version = 1, .fields = hid_fields, .post_load = hid_post_load};

/* ---- descriptors ---- */

/* Report descriptors, HID 1.11 6.2.2. Five buttons and three bits of padding begin both pointers. */
#define BUTTONS                                                                                                        \
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75,  \
        0x03, 0x81, 0x01
#define WHEEL 0x05, 0x01, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, 0x75, 0x08, 0x95, 0x01, 0x81, 0x06
static const uint8_t tablet_report[] = {0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00,  BUTTONS, 0x05,
                                        0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f,  0x35,    0x00,
                                        0x46, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x02, 0x81, 0x02, WHEEL, 0xc0,    0xc0};
static const uint8_t mouse_report[] = {0x05,    0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01,  0xa1, 0x00,
                                       BUTTONS, 0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15,  0x81, 0x25,
                                       0x7f,    0x75, 0x08, 0x95, 0x02, 0x81, 0x06, WHEEL, 0xc0, 0xc0};
/* Boot keyboard, HID 1.11 appendix B.1: modifiers, a reserved byte, lights, six keys. */
static const uint8_t keyboard_report[] = {0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15,
                                          0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08,
                                          0x81, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x95, 0x05, 0x75, 0x01, 0x91,
                                          0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, 0x05, 0x07, 0x19, 0x00, 0x29, 0xff,
                                          0x15, 0x00, 0x26, 0xff, 0x00, 0x95, 0x06, 0x75, 0x08, 0x81, 0x00, 0xc0};

/* Device 0627:0001, control packets of 8 bytes at full and 64 at high speed; the string is the product. */
#define DEVICE(product, packet)                                                                                        \
    {                                                                                                                  \
        18, 1, 0x00, 0x02, 0, 0, 0, packet, 0x27, 0x06, 0x01, 0x00, 0x00, 0x00, 1, product, 5, 1                       \
    }
/* One configuration (bus powered, remote wake-up), one interface, one interrupt endpoint. */
#define CONFIG(subclass, protocol, report_len, size, interval)                                                         \
    {                                                                                                                  \
        9, 2, 34, 0, 1, 1, 0, 0xa0, 50, 9, 4, 0, 0, 1, 3, subclass, protocol, 0, 9, DESC_HID, 0x11, 0x01, 0, 1,        \
            DESC_REPORT, report_len, 0, 7, 5, 0x80 | POLL_EP, 3, size, 0, interval                                     \
    }
static const uint8_t tablet_dev[] = DEVICE(2, 8), mouse_dev[] = DEVICE(3, 8), keyboard_dev[] = DEVICE(4, 8);
static const uint8_t tablet_hs_dev[] = DEVICE(2, 64), mouse_hs_dev[] = DEVICE(3, 64), keyboard_hs_dev[] = DEVICE(4, 64);
static const uint8_t tablet_config[] = CONFIG(0, 0, sizeof tablet_report, 8, 4);
static const uint8_t mouse_config[] = CONFIG(1, 2, sizeof mouse_report, 4, 10);
static const uint8_t keyboard_config[] = CONFIG(1, 1, sizeof keyboard_report, 8, 10);
/* At high speed the interval is a power of two of microframes: 1 ms and 8 ms. */
static const uint8_t tablet_hs_config[] = CONFIG(0, 0, sizeof tablet_report, 8, 4);
static const uint8_t mouse_hs_config[] = CONFIG(1, 2, sizeof mouse_report, 4, 7);
static const uint8_t keyboard_hs_config[] = CONFIG(1, 1, sizeof keyboard_report, 8, 7);
static const char *const strings[] = {"QEMU", "QEMU USB Tablet", "QEMU USB Mouse", "QEMU USB Keyboard", "42", NULL};

static const struct ui_input_ops tablet_ops = {
    .name = "QEMU HID Tablet", .kinds = UI_POINTER_ABS, .abs = on_abs, .button = on_button, .sync = on_sync};
static const struct ui_input_ops mouse_ops = {
    .name = "QEMU HID Mouse", .kinds = UI_POINTER_REL, .rel = on_rel, .button = on_button, .sync = on_sync};
static const struct ui_input_ops keyboard_ops = {.name = "QEMU HID Keyboard", .kinds = UI_KEYBOARD, .key = on_key};

static const struct prop hid_props[] = {PROP("usb_version", u32, struct usb_dev, usb_version, .dflt = "2", .min = 1,
                                             .max = 2, .help = "1: full speed also where the port has high speed"),
                                        PROP_END};
#define HID_CLASS(id, text, kind_, what, len)                                                                          \
    static const struct hid_class what##_class = {.name = id,                                                          \
                                                  .parent = "usb-device",                                              \
                                                  .desc = text,                                                        \
                                                  .size = sizeof(struct hid),                                          \
                                                  .props = hid_props,                                                  \
                                                  .more_props = usb_props,                                             \
                                                  .bus_type = "USB",                                                   \
                                                  .category = DEV_CAT_INPUT,                                           \
                                                  .hotplug = true,                                                     \
                                                  .realize = hid_realize,                                              \
                                                  .unrealize = hid_unrealize,                                          \
                                                  .reset = hid_reset,                                                  \
                                                  .state_version = 1,                                                  \
                                                  .state_desc = &hid_state,                                            \
                                                  .device_desc = what##_dev,                                           \
                                                  .config_desc = what##_config,                                        \
                                                  .hs_device_desc = what##_hs_dev,                                     \
                                                  .hs_config_desc = what##_hs_config,                                  \
                                                  .strings = strings,                                                  \
                                                  .speed = USB_FULL,                                                   \
                                                  .control = hid_control,                                              \
                                                  .in = hid_in,                                                        \
                                                  .usb_reset = hid_usb_reset,                                          \
                                                  .kind = kind_,                                                       \
                                                  .report_desc = what##_report,                                        \
                                                  .report_desc_len = sizeof what##_report,                             \
                                                  .report_len = len,                                                   \
                                                  .ops = &what##_ops};                                                 \
    OBJ_REGISTER_AS(what##_class, usb)
HID_CLASS("usb-tablet", "absolute pointer", TABLET, tablet, 6)
HID_CLASS("usb-mouse", "wheel mouse", MOUSE, mouse, 4)
HID_CLASS("usb-kbd", "keyboard", KEYBOARD, keyboard, 8)
