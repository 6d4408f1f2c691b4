/* 8042 keyboard controller at ports 60h and 64h with a PS/2 keyboard and mouse behind it (class "i8042").
 *
 * IBM PS/2 Hardware Interface Technical Reference, "Keyboard/auxiliary device controller". Output port bit 0 resets the
 * machine, bit 1 is the A20 gate (output "a20"). Not modelled: time-outs and parity errors, the controller's RAM beyond
 * the command byte (it stores, nothing uses it), password security. */
#include "hw/input/ps2.h"

enum { ST_OBF = 0x01, ST_SYS = 0x04, ST_CMD = 0x08, ST_UNLOCKED = 0x10, ST_AUX_OBF = 0x20 };
enum { CTR_KBDINT = 0x01, CTR_AUXINT = 0x02, CTR_SYS = 0x04, CTR_KBDDIS = 0x10, CTR_AUXDIS = 0x20, CTR_XLATE = 0x40 };
enum { OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_KBD_IRQ = 0x10, OUT_AUX_IRQ = 0x20 };

struct i8042 {
    struct dev dev; /* first */
    struct mem_region data_io, cmd_io;
    struct irq_line *irq[2]; /* keyboard, mouse */
    struct irq_line *a20;
    struct ps2_kbd kbd;
    struct ps2_mouse mouse;
    uint8_t ctr, outport, cmd, ram[32];
    uint8_t obf, data;         /* obf: 0 empty, ST_OBF, or ST_OBF | ST_AUX_OBF */
    uint8_t reply, reply_kind; /* a controller answer that waits for the buffer; kind as obf, 0 = none */
    uint8_t cmd_status;        /* ST_CMD after a write to 64h */
    bool xlate_break;          /* F0 seen, the next code is a release */
};

/* Set 2 to set 1, index by code below 0x80; 0x83 and 0x84 besides. */
static const uint8_t xlate[0x80] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, 0x65, 0x38, 0x2a,
    0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05,
    0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a,
    0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26,
    0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63,
    0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53,
    0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

/* True when a byte results; F0 is swallowed and marks the next one. */
static bool translate(struct i8042 *k, uint8_t in, uint8_t *out)
{
    uint8_t v = in;

    if (in == 0xf0) {
        k->xlate_break = true;
        return false;
    }
    if (in < 0x80)
        v = xlate[in];
    else if (in == 0x83)
        v = 0x41;
    else if (in == 0x84)
        v = 0x54;
    if (k->xlate_break && in != 0xe0 && in != 0xe1) {
        v |= 0x80;
        k->xlate_break = false;
    }
    *out = v;
    return true;
}

static void update_irqs(struct i8042 *k)
{
    bool kbd = k->obf && !(k->obf & ST_AUX_OBF), aux = k->obf & ST_AUX_OBF;

    irq_set(k->irq[0], kbd && (k->ctr & CTR_KBDINT));
    irq_set(k->irq[1], aux && (k->ctr & CTR_AUXINT));
}

static void fill(struct i8042 *k, uint8_t v, uint8_t kind)
{
    k->data = v;
    k->obf = kind;
}

/* Puts the next byte into the empty output buffer: answers first, then keyboard, then mouse. */
static void refill(void *opaque)
{
    struct i8042 *k = opaque;

    while (!k->obf) {
        uint8_t v;

        if (k->reply_kind) {
            fill(k, k->reply, k->reply_kind);
            k->reply_kind = 0;
        } else if (!(k->ctr & CTR_KBDDIS) && ps2_has_byte(&k->kbd.port)) {
            v = ps2_take(&k->kbd.port);
            if (!(k->ctr & CTR_XLATE) || translate(k, v, &v))
                fill(k, v, ST_OBF);
        } else if (!(k->ctr & CTR_AUXDIS) && ps2_has_byte(&k->mouse.port)) {
            fill(k, ps2_take(&k->mouse.port), ST_OBF | ST_AUX_OBF);
        } else {
            break;
        }
    }
    update_irqs(k);
}

static void answer(struct i8042 *k, uint8_t v, uint8_t kind)
{
    k->reply = v;
    k->reply_kind = kind;
    refill(k);
}

static void set_outport(struct i8042 *k, uint8_t v)
{
    k->outport = v;
    irq_set(k->a20, !!(v & OUT_A20));
    if (!(v & OUT_RESET))
        machine_request_reset(dev_machine(&k->dev), CAUSE_GUEST_RESET);
}

static uint8_t read_outport(const struct i8042 *k)
{
    return (uint8_t)((k->outport & 0xcf) | (k->obf == ST_OBF ? OUT_KBD_IRQ : 0) |
                     (k->obf & ST_AUX_OBF ? OUT_AUX_IRQ : 0));
}

static void set_ctr(struct i8042 *k, uint8_t v)
{
    k->ctr = v;
    refill(k);
}

static void command(struct i8042 *k, uint8_t c)
{
    switch (c) {
    case 0x20:
        answer(k, k->ctr, ST_OBF);
        break;
    case 0x21 ... 0x3f:
        answer(k, k->ram[c & 0x1f], ST_OBF);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        k->cmd = c;
        break;
    case 0xa7:
        set_ctr(k, k->ctr | CTR_AUXDIS);
        break;
    case 0xa8:
        set_ctr(k, k->ctr & (uint8_t)~CTR_AUXDIS);
        break;
    case 0xa9:
    case 0xab:
        answer(k, 0x00, ST_OBF);
        break;
    case 0xaa:
        k->ctr |= CTR_SYS;
        answer(k, 0x55, ST_OBF);
        break;
    case 0xad:
        set_ctr(k, k->ctr | CTR_KBDDIS);
        break;
    case 0xae:
        set_ctr(k, k->ctr & (uint8_t)~CTR_KBDDIS);
        break;
    case 0xc0:
        answer(k, 0x80, ST_OBF); /* keyboard not inhibited */
        break;
    case 0xd0:
        answer(k, read_outport(k), ST_OBF);
        break;
    case 0xdd:
    case 0xdf:
        set_outport(k, c == 0xdf ? k->outport | OUT_A20 : k->outport & (uint8_t)~OUT_A20);
        break;
    case 0xf0 ... 0xff: /* pulse output bits 0-3 low where the command bit is 0 */
        if (!(c & OUT_RESET))
            machine_request_reset(dev_machine(&k->dev), CAUSE_GUEST_RESET);
        break;
    default:
        log_guest("i8042: unknown command %#x", c);
    }
}

static void write_data(struct i8042 *k, uint8_t v)
{
    uint8_t cmd = k->cmd;

    k->cmd = 0;
    switch (cmd) {
    case 0:
        k->ctr &= (uint8_t)~CTR_KBDDIS; /* a write to the keyboard opens its clock */
        ps2_kbd_command(&k->kbd, v);
        refill(k);
        break;
    case 0x60:
        set_ctr(k, v);
        break;
    case 0x61 ... 0x7f:
        k->ram[cmd & 0x1f] = v;
        break;
    case 0xd1:
        set_outport(k, v);
        break;
    case 0xd2:
        answer(k, v, ST_OBF);
        break;
    case 0xd3:
        answer(k, v, ST_OBF | ST_AUX_OBF);
        break;
    case 0xd4:
        k->ctr &= (uint8_t)~CTR_AUXDIS;
        ps2_mouse_command(&k->mouse, v);
        refill(k);
        break;
    }
}

/* ---- ports ---- */

static uint64_t data_read(void *opaque, gpa_t off, unsigned size)
{
    struct i8042 *k = opaque;

    if (k->obf) {
        k->obf = 0;
        update_irqs(k); /* low first: the next byte makes a new edge */
        uint8_t v = k->data;
        refill(k);
        return v;
    }
    return k->data;
}
static void data_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct i8042 *k = opaque;

    k->cmd_status = 0;
    write_data(k, (uint8_t)val);
}
static const struct mem_ops data_ops = {.read = data_read, .write = data_write, .impl_max = 1};

static uint64_t status_read(void *opaque, gpa_t off, unsigned size)
{
    struct i8042 *k = opaque;

    return (uint8_t)(k->obf | (k->ctr & CTR_SYS) | k->cmd_status | ST_UNLOCKED);
}
static void command_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct i8042 *k = opaque;

    k->cmd_status = ST_CMD;
    k->cmd = 0;
    command(k, (uint8_t)val);
}
static const struct mem_ops cmd_ops = {.read = status_read, .write = command_write, .impl_max = 1};

/* ---- life ---- */

static void i8042_reset(struct dev *d)
{
    struct i8042 *k = container_of(d, struct i8042, dev);

    k->ctr = CTR_KBDINT | CTR_AUXINT;
    k->outport = OUT_RESET | OUT_A20 | 0xcc;
    k->obf = k->reply_kind = k->cmd = k->cmd_status = 0;
    k->xlate_break = false;
    ps2_kbd_reset(&k->kbd);
    ps2_mouse_reset(&k->mouse);
    update_irqs(k);
}

static bool i8042_realize(struct dev *d, struct err **errp)
{
    struct i8042 *k = container_of(d, struct i8042, dev);
    struct mem_sys *s = dev_machine(d)->mem_sys;

    mem_region_init_io(&k->data_io, s, &data_ops, k, "i8042-data", 1);
    mem_region_init_io(&k->cmd_io, s, &cmd_ops, k, "i8042-cmd", 1);
    dev_map_io(d, &k->data_io, 0x60);
    dev_map_io(d, &k->cmd_io, 0x64);
    dev_add_irq_out(d, NULL, k->irq, 2);
    dev_add_irq_out(d, "a20", &k->a20, 1);
    ps2_kbd_init(&k->kbd, dev_machine(d), refill, k);
    ps2_mouse_init(&k->mouse, dev_machine(d), refill, k);
    i8042_reset(d);
    return true;
}
static void i8042_unrealize(struct dev *d)
{
    struct i8042 *k = container_of(d, struct i8042, dev);

    ps2_kbd_fini(&k->kbd);
    ps2_mouse_fini(&k->mouse);
    mem_region_free(&k->data_io);
    mem_region_free(&k->cmd_io);
}

static const struct state_field i8042_fields[] = {STATE_STRUCT(struct i8042, kbd, ps2_kbd_state),
                                                  STATE_STRUCT(struct i8042, mouse, ps2_mouse_state),
                                                  STATE_U8(struct i8042, ctr),
                                                  STATE_U8(struct i8042, outport),
                                                  STATE_U8(struct i8042, cmd),
                                                  STATE_BYTES(struct i8042, ram),
                                                  STATE_U8(struct i8042, obf),
                                                  STATE_U8(struct i8042, data),
                                                  STATE_U8(struct i8042, reply),
                                                  STATE_U8(struct i8042, reply_kind),
                                                  STATE_U8(struct i8042, cmd_status),
                                                  STATE_BOOL(struct i8042, xlate_break),
                                                  STATE_END};
static const struct dev_class i8042_class = {.name = "i8042",
                                             .parent = "isa-device",
                                             .size = sizeof(struct i8042),
                                             .category = DEV_CAT_INPUT,
                                             .board_only = true,
                                             .realize = i8042_realize,
                                             .unrealize = i8042_unrealize,
                                             .reset = i8042_reset,
                                             .state_version = 1,
                                             .state = i8042_fields};
DEV_REGISTER(i8042_class)
