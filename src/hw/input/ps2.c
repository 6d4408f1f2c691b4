/* PS/2 keyboard (scan code sets 1, 2 and 3) and mouse with wheel and five buttons.
 *
 * IBM PS/2 Hardware Interface Technical Reference (keyboard, mouse chapters); IntelliMouse rate knocks as commonly
 * published. Events that do not fit the queue are lost, whole. Not modelled: typematic repeat (the sending side
 * repeats), set 3 key types. */
#include "hw/input/ps2.h"

#include "base/log.h"

enum { PS2_ACK = 0xfa, PS2_RESEND = 0xfe, PS2_BAT_OK = 0xaa, PS2_ECHO = 0xee, PS2_EVENT_ROOM = 16 };

/* ---- queue ---- */

static void put(struct ps2_port *p, uint8_t b)
{
    if (p->count == PS2_QUEUE)
        return;
    p->q[(p->head + p->count) % PS2_QUEUE] = b;
    p->count++;
}
uint8_t ps2_take(struct ps2_port *p)
{
    uint8_t b = p->q[p->head % PS2_QUEUE];

    assert(p->count);
    p->head = (uint16_t)((p->head + 1) % PS2_QUEUE);
    p->count--;
    p->last = b;
    return b;
}
static void flush(struct ps2_port *p)
{
    p->head = p->count = 0;
}
static void reply(struct ps2_port *p, const uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        put(p, b[i]);
    p->ready(p->opaque);
}
#define REPLY(p, ...)                                                                                                  \
    do {                                                                                                               \
        static const uint8_t b_[] = {__VA_ARGS__};                                                                     \
        reply(p, b_, sizeof b_);                                                                                       \
    } while (0)
static bool room(const struct ps2_port *p)
{
    return p->count + PS2_EVENT_ROOM <= PS2_QUEUE / 2; /* the rest is for replies */
}

/* ---- keyboard ---- */

/* Set 3 codes where they differ from the set 2 code; e0 means the extended key of set 2. */
static const struct {
    uint8_t e0, set2, set3;
} set3_diff[] = {
    {0, 0x76, 0x08}, {0, 0x05, 0x07}, {0, 0x06, 0x0f}, {0, 0x04, 0x17}, {0, 0x0c, 0x1f}, {0, 0x03, 0x27},
    {0, 0x0b, 0x2f}, {0, 0x83, 0x37}, {0, 0x0a, 0x3f}, {0, 0x01, 0x47}, {0, 0x09, 0x4f}, {0, 0x78, 0x56},
    {0, 0x07, 0x5e}, {0, 0x7e, 0x5f}, {0, 0x5d, 0x5c}, {0, 0x58, 0x14}, {0, 0x14, 0x11}, {0, 0x11, 0x19},
    {0, 0x77, 0x76}, {0, 0x7c, 0x7e}, {0, 0x7b, 0x84}, {0, 0x79, 0x7c}, {0, 0x61, 0x13}, {1, 0x1f, 0x8b},
    {1, 0x27, 0x8c}, {1, 0x2f, 0x8d}, {1, 0x11, 0x39}, {1, 0x14, 0x58}, {1, 0x70, 0x67}, {1, 0x71, 0x64},
    {1, 0x6c, 0x6e}, {1, 0x69, 0x65}, {1, 0x7d, 0x6f}, {1, 0x7a, 0x6d}, {1, 0x75, 0x63}, {1, 0x6b, 0x61},
    {1, 0x72, 0x60}, {1, 0x74, 0x6a}, {1, 0x4a, 0x77}, {1, 0x5a, 0x79}, {1, 0x7c, 0x57},
};

static uint8_t set3_code(const uint8_t *set2, unsigned n)
{
    uint8_t e0 = set2[0] == 0xe0, code = set2[n - 1];

    if (set2[0] == 0xe1)
        return 0x62; /* Pause */
    for (unsigned i = 0; i < ARRAY_LEN(set3_diff); i++)
        if (set3_diff[i].e0 == e0 && set3_diff[i].set2 == code)
            return set3_diff[i].set3;
    return e0 ? 0 : code;
}

static void key_set2(struct ps2_port *p, const uint8_t *c, unsigned n, bool down)
{
    if (c[0] == 0xe1 && !down)
        return; /* Pause has no break code */
    for (unsigned i = 0; i < n; i++) {
        /* A break is F0 before each code; prefixes stay in front. Two-part keys (print screen) go in reverse order on
         * real keyboards; the last part alone tells guests what they need. */
        if (!down && c[i] != 0xe0 && c[i] != 0xe1)
            put(p, 0xf0);
        put(p, c[i]);
    }
}

static void key_set1(struct ps2_port *p, const uint8_t *c, unsigned n, bool down)
{
    if (c[0] == 0xe1 && !down)
        return;
    for (unsigned i = 0; i < n; i++)
        put(p, c[i] == 0xe0 || c[i] == 0xe1 || down ? c[i] : c[i] | 0x80);
}

static void kbd_key(void *opaque, unsigned key, bool down)
{
    struct ps2_kbd *k = opaque;
    uint8_t code[8], c3;
    unsigned n = k->set == 1 ? ui_key_set1(key, code) : ui_key_set2(key, code);

    if (k->m->state == RS_SUSPENDED && down)
        machine_request_wakeup(k->m);
    if (!n || !k->scanning || !room(&k->port))
        return;
    switch (k->set) {
    case 1:
        key_set1(&k->port, code, n, down);
        break;
    case 3:
        c3 = set3_code(code, n);
        if (!c3)
            return;
        if (!down)
            put(&k->port, 0xf0);
        put(&k->port, c3);
        break;
    default:
        key_set2(&k->port, code, n, down);
    }
    k->port.ready(k->port.opaque);
}
static const struct ui_input_ops kbd_input = {.name = "PS/2 Keyboard", .kinds = UI_KEYBOARD, .key = kbd_key};

static void kbd_defaults(struct ps2_kbd *k)
{
    k->set = 2;
    k->rate = 0x2b;
    k->leds = 0;
    k->scanning = true;
}
void ps2_kbd_reset(struct ps2_kbd *k)
{
    flush(&k->port);
    k->port.cmd = 0;
    kbd_defaults(k);
}

static void kbd_parameter(struct ps2_kbd *k, uint8_t cmd, uint8_t v)
{
    struct ps2_port *p = &k->port;

    switch (cmd) {
    case 0xed:
        k->leds = v & 7;
        break;
    case 0xf3:
        k->rate = v & 0x7f;
        break;
    case 0xf0:
        if (v == 0) {
            put(p, PS2_ACK);
            reply(p, &k->set, 1);
            return;
        }
        if (v > 3) {
            REPLY(p, PS2_RESEND);
            return;
        }
        k->set = v;
        break;
    }
    REPLY(p, PS2_ACK);
}

void ps2_kbd_command(struct ps2_kbd *k, uint8_t b)
{
    struct ps2_port *p = &k->port;

    if (p->cmd && b < 0xed) {
        uint8_t cmd = p->cmd;

        p->cmd = 0;
        kbd_parameter(k, cmd, b);
        return;
    }
    p->cmd = 0;
    switch (b) {
    case 0xed:
    case 0xf0:
    case 0xf3:
        p->cmd = b;
        REPLY(p, PS2_ACK);
        break;
    case 0xee:
        REPLY(p, PS2_ECHO);
        break;
    case 0xf2:
        REPLY(p, PS2_ACK, 0xab, 0x83);
        break;
    case 0xf4:
        k->scanning = true;
        flush(p);
        REPLY(p, PS2_ACK);
        break;
    case 0xf5:
        kbd_defaults(k);
        k->scanning = false;
        flush(p);
        REPLY(p, PS2_ACK);
        break;
    case 0xf6:
        kbd_defaults(k);
        flush(p);
        REPLY(p, PS2_ACK);
        break;
    case 0xf7 ... 0xfa:
        REPLY(p, PS2_ACK);
        break;
    case 0xfe:
        reply(p, &p->last, 1);
        break;
    case 0xff:
        ps2_kbd_reset(k);
        REPLY(p, PS2_ACK, PS2_BAT_OK);
        break;
    default:
        REPLY(p, PS2_RESEND);
    }
}

void ps2_kbd_init(struct ps2_kbd *k, struct machine *m, void (*ready)(void *), void *opaque)
{
    k->m = m;
    k->port.ready = ready;
    k->port.opaque = opaque;
    ps2_kbd_reset(k);
    k->input = ui_input_add(m, &kbd_input, k);
}
void ps2_kbd_fini(struct ps2_kbd *k)
{
    ui_input_del(k->input);
}

/* ---- mouse ---- */

static int clamp(int v, int lo, int hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* One movement packet; false when there is nothing left to tell. */
static void mouse_packet(struct ps2_mouse *m)
{
    int dx = clamp(m->dx, -255, 255), dy = clamp(m->dy, -255, 255), dz = clamp(m->dz, -8, 7);
    struct ps2_port *p = &m->port;

    m->dx -= dx;
    m->dy -= dy;
    m->dz -= dz;
    put(p, (uint8_t)(0x08 | (dx < 0) << 4 | (dy < 0) << 5 | (m->buttons & 7)));
    put(p, (uint8_t)dx);
    put(p, (uint8_t)dy);
    if (m->id == 3)
        put(p, (uint8_t)dz);
    else if (m->id == 4)
        put(p, (uint8_t)((dz & 0xf) | (m->buttons & 0x18) << 1));
    if (m->id == 0)
        m->dz = 0;
}

static void mouse_rel(void *opaque, int dx, int dy)
{
    struct ps2_mouse *m = opaque;

    m->dx = clamp(m->dx + dx, -32768, 32767);
    m->dy = clamp(m->dy - dy, -32768, 32767);
}
static void mouse_button(void *opaque, enum ui_button b, bool down)
{
    static const uint8_t bit[] = {
        [UI_BTN_LEFT] = 1, [UI_BTN_MIDDLE] = 4, [UI_BTN_RIGHT] = 2, [UI_BTN_SIDE] = 8, [UI_BTN_EXTRA] = 16};
    struct ps2_mouse *m = opaque;

    if (b == UI_BTN_WHEEL_UP || b == UI_BTN_WHEEL_DOWN) {
        if (down)
            m->dz = clamp(m->dz + (b == UI_BTN_WHEEL_UP ? -1 : 1), -127, 127);
    } else if (b < ARRAY_LEN(bit)) {
        m->buttons = down ? m->buttons | bit[b] : m->buttons & (uint8_t)~bit[b];
    }
}
static void mouse_sync(void *opaque)
{
    struct ps2_mouse *m = opaque;

    if (!m->reporting || m->remote)
        return;
    do {
        if (!room(&m->port))
            break;
        mouse_packet(m);
    } while (m->dx || m->dy || m->dz);
    m->port.ready(m->port.opaque);
}
static const struct ui_input_ops mouse_input = {
    .name = "PS/2 Mouse", .kinds = UI_POINTER_REL, .rel = mouse_rel, .button = mouse_button, .sync = mouse_sync};

static void mouse_defaults(struct ps2_mouse *m)
{
    m->rate = 100;
    m->resolution = 2;
    m->scale2 = m->reporting = m->remote = m->wrap = false;
    m->dx = m->dy = m->dz = 0;
}
void ps2_mouse_reset(struct ps2_mouse *m)
{
    flush(&m->port);
    m->port.cmd = 0;
    m->id = 0;
    m->buttons = 0;
    memset(m->knock, 0, sizeof m->knock);
    mouse_defaults(m);
}

/* Three rates in a row tell the driver's wish: 200, 100, 80 a wheel; 200, 200, 80 two more buttons. */
static void mouse_rate(struct ps2_mouse *m, uint8_t rate)
{
    m->rate = rate;
    m->knock[0] = m->knock[1];
    m->knock[1] = m->knock[2];
    m->knock[2] = rate;
    if (m->knock[0] == 200 && m->knock[2] == 80) {
        if (m->knock[1] == 100)
            m->id = 3;
        else if (m->knock[1] == 200 && m->id == 3)
            m->id = 4;
    }
}

static void mouse_status(struct ps2_mouse *m)
{
    uint8_t b[] = {PS2_ACK,
                   (uint8_t)(m->remote << 6 | m->reporting << 5 | m->scale2 << 4 | (m->buttons & 1) << 2 |
                             (m->buttons & 4) >> 1 | (m->buttons & 2) >> 1),
                   m->resolution, m->rate};

    reply(&m->port, b, sizeof b);
}

static bool mouse_mode_command(struct ps2_mouse *m, uint8_t b)
{
    switch (b) {
    case 0xe6:
    case 0xe7:
        m->scale2 = b & 1;
        return true;
    case 0xea:
        m->remote = false;
        return true;
    case 0xec:
    case 0xee:
        m->wrap = b == 0xee;
        return true;
    case 0xf0:
        m->remote = true;
        return true;
    case 0xf4:
    case 0xf5:
        m->reporting = b == 0xf4;
        return true;
    case 0xf6:
        mouse_defaults(m);
        return true;
    case 0xe8:
    case 0xf3:
        m->port.cmd = b;
        return true;
    }
    return false;
}

void ps2_mouse_command(struct ps2_mouse *m, uint8_t b)
{
    struct ps2_port *p = &m->port;

    if (m->wrap && b != 0xec && b != 0xff) {
        reply(p, &b, 1);
        return;
    }
    if (p->cmd) {
        if (p->cmd == 0xe8)
            m->resolution = b & 3;
        else
            mouse_rate(m, b);
        p->cmd = 0;
        REPLY(p, PS2_ACK);
        return;
    }
    if (mouse_mode_command(m, b)) {
        REPLY(p, PS2_ACK);
        return;
    }
    switch (b) {
    case 0xe9:
        mouse_status(m);
        break;
    case 0xeb:
        put(p, PS2_ACK);
        mouse_packet(m);
        p->ready(p->opaque);
        break;
    case 0xf2:
        put(p, PS2_ACK);
        reply(p, &m->id, 1);
        break;
    case 0xfe:
        reply(p, &p->last, 1);
        break;
    case 0xff:
        ps2_mouse_reset(m);
        REPLY(p, PS2_ACK, PS2_BAT_OK, 0x00);
        break;
    default:
        log_guest("ps2: unknown mouse command %#x", b);
        REPLY(p, PS2_RESEND);
    }
}

void ps2_mouse_init(struct ps2_mouse *m, struct machine *machine, void (*ready)(void *), void *opaque)
{
    m->port.ready = ready;
    m->port.opaque = opaque;
    ps2_mouse_reset(m);
    m->input = ui_input_add(machine, &mouse_input, m);
}
void ps2_mouse_fini(struct ps2_mouse *m)
{
    ui_input_del(m->input);
}

static bool port_loaded(void *obj, struct err **errp)
{
    struct ps2_port *p = obj;

    return p->head < PS2_QUEUE && p->count <= PS2_QUEUE;
}
static const struct state_field port_fields[] = {STATE_BYTES(struct ps2_port, q),   STATE_U16(struct ps2_port, head),
                                                 STATE_U16(struct ps2_port, count), STATE_U8(struct ps2_port, cmd),
                                                 STATE_U8(struct ps2_port, last),   STATE_END};
static const struct state_desc port_state = {
    .name = "ps2-port", .version = 1, .fields = port_fields, .post_load = port_loaded};
static const struct state_field kbd_fields[] = {STATE_STRUCT(struct ps2_kbd, port, port_state),
                                                STATE_U8(struct ps2_kbd, set),
                                                STATE_U8(struct ps2_kbd, leds),
                                                STATE_U8(struct ps2_kbd, rate),
                                                STATE_BOOL(struct ps2_kbd, scanning),
                                                STATE_END};
const struct state_desc ps2_kbd_state = {.name = "ps2-kbd", .version = 1, .fields = kbd_fields};
static const struct state_field mouse_fields[] = {STATE_STRUCT(struct ps2_mouse, port, port_state),
                                                  STATE_U8(struct ps2_mouse, id),
                                                  STATE_U8(struct ps2_mouse, rate),
                                                  STATE_U8(struct ps2_mouse, resolution),
                                                  STATE_BYTES(struct ps2_mouse, knock),
                                                  STATE_BOOL(struct ps2_mouse, reporting),
                                                  STATE_BOOL(struct ps2_mouse, remote),
                                                  STATE_BOOL(struct ps2_mouse, scale2),
                                                  STATE_BOOL(struct ps2_mouse, wrap),
                                                  STATE_U8(struct ps2_mouse, buttons),
                                                  STATE_INT(struct ps2_mouse, dx),
                                                  STATE_INT(struct ps2_mouse, dy),
                                                  STATE_INT(struct ps2_mouse, dz),
                                                  STATE_END};
const struct state_desc ps2_mouse_state = {.name = "ps2-mouse", .version = 1, .fields = mouse_fields};
