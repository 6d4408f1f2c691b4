/* The xHCI controller by hand: registers, commands, control, interrupt and bulk transfers, ports, errors, rings that go
 * wrong, rings made of noise, and a USB disk behind it. proves: F-USB-03, F-USB-04, F-DEV-03 */
#include "hw/pci_bare.h"

#include "hw/usb/xhci_int.h"
#include "ui/ui.h"

enum {
    ERST = 0x1000,
    EVENTS = 0x2000,
    CMDS = 0x3000,
    DCBAA = 0x4000,
    INPUT = 0x5000,
    OUTPUT = 0x8000, /* 0x400 each, by slot */
    RINGS = 0x20000, /* 0x1000 each, by endpoint */
    DATA = 0x40000,
    NR_EVENTS = 64,
    NR_CMDS = 16
};
enum { OPER = 0x40, CRCR = OPER + 0x18, PORTSC = OPER + 0x400, IR0 = 0x1020, BELL = 0x2000 };
enum { IOC = 0x20, ISP = 4, CH = 0x10, IDT = 0x40, IN = 0x10000 };
#define T(type) ((unsigned)(type) << 10)

/* ---- a device with bulk endpoints: what went out comes in ---- */

struct echo {
    struct usb_dev usb; /* first */
    uint8_t buf[8192];
    uint32_t len;
};
static int echo_control(struct usb_dev *d, const uint8_t setup[8], uint8_t *data, unsigned len)
{
    return USB_STALL;
}
static int echo_out(struct usb_dev *d, unsigned ep, const uint8_t *data, unsigned len)
{
    struct echo *e = container_of(d, struct echo, usb);

    if (e->len + len > sizeof e->buf)
        return USB_STALL;
    memcpy(e->buf + e->len, data, len);
    e->len += len;
    usb_wakeup(d, 1);
    return (int)len;
}
static int echo_in(struct usb_dev *d, unsigned ep, uint8_t *data, unsigned len)
{
    struct echo *e = container_of(d, struct echo, usb);
    unsigned n = (unsigned)min_u64(len, e->len);

    if (!n)
        return USB_NAK;
    memcpy(data, e->buf, n);
    e->len -= n;
    memmove(e->buf, e->buf + n, e->len);
    return (int)n;
}
static const uint8_t echo_dev[18] = {18, 1, 0x00, 0x03, 0, 0, 0, 9, 0x34, 0x12, 0x78, 0x56};
static const uint8_t echo_config[9] = {9, 2, 9, 0, 0, 1, 0, 0x80, 0};
static const struct state_field echo_fields[] = {STATE_STRUCT(struct echo, usb, usb_dev_state), STATE_END};
static const struct state_desc echo_state = {.name = "test-usb-echo", .version = 1, .fields = echo_fields};
static const struct usb_dev_class echo_class = {.name = "test-usb-echo",
                                                .parent = "usb-device",
                                                .size = sizeof(struct echo),
                                                .more_props = usb_props,
                                                .bus_type = "USB",
                                                .hotplug = true,
                                                .state_desc = &echo_state,
                                                .device_desc = echo_dev,
                                                .config_desc = echo_config,
                                                .speed = USB_SUPER,
                                                .control = echo_control,
                                                .in = echo_in,
                                                .out = echo_out};
USB_REGISTER(echo_class)

/* ---- a driver ---- */

struct rig {
    struct bare *b;
    struct pci_dev *d;
    unsigned cmd, event, slot, put[32]; /* put: TRBs in the ring of each endpoint */
    unsigned patience;                  /* turns of the loop that an event may take */
    bool ccs, pcs;
    uint64_t ev_param;
    uint32_t ev_status, ev_control;
};

static uint32_t rd(struct rig *r, unsigned reg)
{
    return (uint32_t)mem_ld(r->b->m->mem, BARE_MMIO + reg, 4);
}
static void wr(struct rig *r, unsigned reg, uint32_t v)
{
    mem_store(r->b->m->mem, BARE_MMIO + reg, 4, v);
}
static void wr64(struct rig *r, unsigned reg, uint64_t v)
{
    mem_store(r->b->m->mem, BARE_MMIO + reg, 8, v);
}

static void trb(struct rig *r, uint64_t at, uint64_t param, uint32_t status, uint32_t control)
{
    put_le64(r->b->mem + at, param);
    put_le32(r->b->mem + at + 8, status);
    put_le32(r->b->mem + at + 12, control);
}

static void enable(struct rig *r)
{
    wr(r, OPER, 2);
    assert_int_equal(rd(r, OPER + 4), 1);
    memset(r->b->mem, 0, 0x40000);
    put_le64(r->b->mem + ERST, EVENTS);
    put_le32(r->b->mem + ERST + 8, NR_EVENTS);
    wr(r, OPER + 0x38, 64);
    wr64(r, OPER + 0x30, DCBAA);
    wr64(r, CRCR, CMDS | 1);
    wr(r, IR0 + 8, 1);
    wr64(r, IR0 + 0x18, EVENTS);
    wr64(r, IR0 + 0x10, ERST);
    wr(r, IR0, 2);
    r->cmd = r->event = 0;
    r->ccs = r->pcs = true;
    memset(r->put, 0, sizeof r->put);
    wr(r, OPER, 5);
}

static void start(struct rig *r, const char *text)
{
    memset(r, 0, sizeof *r);
    r->patience = 5;
    r->b = bare_new();
    r->d = bare_device(r->b, text);
}
static void go(struct rig *r)
{
    bare_start(r->b);
    bare_map(r->d, 0, BARE_MMIO);
    enable(r);
}
static void stop(struct rig *r)
{
    bare_free(r->b);
}

/* The next event's type, 0 when there is none; told: the guest says that it took it. */
static unsigned peek_event(struct rig *r, bool tell)
{
    const uint8_t *e = r->b->mem + EVENTS + 16 * r->event;

    if ((e[12] & 1) != r->pcs)
        return 0;
    r->ev_param = get_le64(e);
    r->ev_status = get_le32(e + 8);
    r->ev_control = get_le32(e + 12);
    if (++r->event == NR_EVENTS) {
        r->event = 0;
        r->pcs = !r->pcs;
    }
    if (tell)
        wr64(r, IR0 + 0x18, (EVENTS + 16 * r->event) | 8);
    return r->ev_control >> 10 & 63;
}
static unsigned event(struct rig *r)
{
    unsigned type = peek_event(r, true);

    for (unsigned i = 0; !type && i < r->patience; i++) {
        bare_turns(r->b, 1);
        type = peek_event(r, true);
    }
    return type;
}
/* Completion code of the next transfer event, and what was left; -1: there is none. */
static int done(struct rig *r, uint32_t *left)
{
    if (event(r) != 32)
        return -1;
    if (left)
        *left = r->ev_status & 0xffffff;
    return (int)(r->ev_status >> 24);
}

static void put_cmd(struct rig *r, uint64_t param, uint32_t status, uint32_t control)
{
    trb(r, CMDS + 16 * r->cmd++, param, status, (control & ~1u) | r->ccs);
    if (r->cmd == NR_CMDS) {
        trb(r, CMDS + 16 * r->cmd, CMDS, 0, T(6) | 2 | r->ccs);
        r->cmd = 0;
        r->ccs = !r->ccs;
    }
}
/* Completion code of a command; -1: no answer. */
static int command(struct rig *r, uint64_t param, uint32_t status, uint32_t control)
{
    unsigned type;

    put_cmd(r, param, status, control);
    wr(r, BELL, 0);
    while ((type = event(r)) == 34 || type == 32)
        ;
    r->slot = r->ev_control >> 24;
    return type == 33 ? (int)(r->ev_status >> 24) : -1;
}
static int slot_command(struct rig *r, unsigned type, unsigned slot, unsigned dci, uint64_t param)
{
    return command(r, param, 0, T(type) | slot << 24 | dci << 16);
}

static uint64_t put(struct rig *r, unsigned dci, uint64_t param, uint32_t status, uint32_t control)
{
    uint64_t at = RINGS + 0x1000 * dci + 16 * r->put[dci]++;

    assert_true(r->put[dci] < 250);
    trb(r, at, param, status, control | 1);
    return at;
}
static void bell(struct rig *r, unsigned slot, unsigned dci)
{
    wr(r, BELL + 4 * slot, dci);
}

static void ep_context(struct rig *r, unsigned dci, unsigned type, unsigned mps)
{
    uint8_t *c = r->b->mem + INPUT + 32 * (dci + 1);

    memset(c, 0, 32);
    put_le32(c + 4, mps << 16 | type << 3 | 3 << 1);
    put_le64(c + 8, (RINGS + 0x1000 * dci) | 1);
    memset(r->b->mem + RINGS + 0x1000 * dci, 0, 0x1000);
    r->put[dci] = 0;
}

/* Port reset, slot, address: the device at a root port (from 1) answers as slot r->slot. */
static int address(struct rig *r, unsigned root, unsigned mps)
{
    uint8_t *m = r->b->mem;

    wr(r, PORTSC + 16 * (root - 1), 1 << 4 | 1 << 9);
    while (event(r))
        ;
    if (command(r, 0, 0, T(9)) != 1)
        return -1;
    put_le64(m + DCBAA + 8 * r->slot, OUTPUT + 0x400 * r->slot);
    memset(m + INPUT, 0, 0x420);
    put_le32(m + INPUT + 4, 3);
    put_le32(m + INPUT + 32, 1 << 27);
    put_le32(m + INPUT + 36, root << 16);
    ep_context(r, 1, 4, mps);
    return slot_command(r, 11, r->slot, 0, INPUT);
}

static int control(struct rig *r, unsigned slot, unsigned kind, unsigned req, unsigned value, unsigned index,
                   unsigned len, uint32_t *left)
{
    uint64_t setup = kind | req << 8 | value << 16 | (uint64_t)index << 32 | (uint64_t)len << 48;
    bool in = kind & 0x80;
    int code;

    put(r, 1, setup, 8, T(2) | IDT | (len ? in ? 3u << 16 : 2u << 16 : 0));
    if (len)
        put(r, 1, DATA, len, T(3) | ISP | (in ? IN : 0));
    put(r, 1, 0, 0, T(4) | IOC | (in && len ? 0 : IN));
    bell(r, slot, 1);
    code = done(r, left);
    if (code == 13) { /* short, then the status stage */
        uint32_t l;

        code = done(r, &l);
    }
    return code;
}

static int configure(struct rig *r, unsigned slot, unsigned dci, unsigned type, unsigned mps)
{
    put_le32(r->b->mem + INPUT, 0);
    put_le32(r->b->mem + INPUT + 4, 1u << dci | 1);
    put_le32(r->b->mem + INPUT + 32, dci << 27);
    ep_context(r, dci, type, mps);
    return slot_command(r, 12, slot, 0, INPUT);
}

/* ---- tests ---- */

static void registers_say_what_it_is(void **state)
{
    struct rig r;

    start(&r, "qemu-xhci,id=x,p2=3,p3=2,intrs=4,slots=8");
    bare_refuses(r.b, "qemu-xhci,p2=16", "p2=16");
    bare_refuses(r.b, "qemu-xhci,p2=0,p3=0", "one at least");
    bare_refuses(r.b, "nec-usb-xhci,intrs=17", "intrs=17");
    bare_refuses(r.b, "nec-usb-xhci,slots=0", "slots=0");
    bare_refuses(r.b, "test-usb-echo,bus=x.0,port=3", "not of the speed");
    bare_refuses(r.b, "usb-mouse,bus=x.0,port=4", "port 4");
    go(&r);
    assert_int_equal(rd(&r, 0), 0x01000040);
    assert_int_equal(rd(&r, 4), 8 | 4 << 8 | 5 << 24);
    assert_int_equal(rd(&r, 0x20), 0x02000402);
    assert_int_equal(rd(&r, 0x28), 3 << 8 | 3);
    assert_int_equal(rd(&r, 0x30), 0x03000002);
    assert_int_equal(rd(&r, 0x38), 2 << 8 | 1);
    assert_int_equal(rd(&r, OPER + 4), 0); /* runs */
    assert_int_equal(mem_ld(r.b->m->mem, BARE_MMIO + 2, 2), 0x0100);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(rd(&r, PORTSC + 16 * i), 0x2a0);
    assert_int_equal(rd(&r, PORTSC + 16 * 5), 0);
    stop(&r);
}

static void a_tablet_is_enumerated_and_speaks(void **state)
{
    struct rig r;
    uint32_t left = 0;
    uint8_t *m;

    start(&r, "qemu-xhci,id=x");
    bare_device(r.b, "usb-tablet");
    go(&r);
    m = r.b->mem;
    assert_int_equal(event(&r), 34); /* it was there when the controller began to run */
    assert_int_equal(r.ev_param >> 24, 5);
    assert_int_equal(rd(&r, PORTSC + 16 * 4), 0x20ee1);
    assert_int_equal(address(&r, 5, 64), 1);
    assert_int_equal(r.slot, 1);
    assert_int_equal(rd(&r, PORTSC + 16 * 4) & 0x200fff, 0x200e03);
    assert_int_equal(get_le32(m + OUTPUT + 0x400 + 12), 2 << 27 | 1);
    assert_int_equal(get_le32(m + OUTPUT + 0x400 + 32) & 7, 1);
    /* eighteen bytes of device descriptor where 64 are asked for */
    assert_int_equal(control(&r, 1, 0x80, 6, 0x100, 0, 64, &left), 1);
    assert_int_equal(left, 46);
    assert_int_equal(m[DATA + 7], 64);
    assert_int_equal(get_le16(m + DATA + 8), 0x0627);
    assert_int_equal(control(&r, 1, 0, 9, 1, 0, 0, NULL), 1);
    assert_int_equal(configure(&r, 1, 3, 7, 8), 1);
    assert_int_equal(get_le32(m + OUTPUT + 0x400 + 12), 3 << 27 | 1);
    /* two buffers wait; a report takes one */
    put(&r, 3, DATA, 8, T(1) | ISP | IOC);
    put(&r, 3, DATA + 16, 8, T(1) | ISP | IOC);
    bell(&r, 1, 3);
    assert_int_equal(event(&r), 0);
    ui_send_abs(r.b->m, 0x1234, 0x7fff);
    ui_send_sync(r.b->m);
    assert_int_equal(done(&r, &left), 13);
    assert_int_equal(left, 2);
    assert_int_equal(r.ev_param, RINGS + 0x3000);
    assert_int_equal(r.ev_control >> 16, 1 << 8 | 3);
    assert_memory_equal(m + DATA, "\x00\x34\x12\xff\x7f\x00", 6);
    assert_int_equal(event(&r), 0);
    /* stopped while it waits: the TD that waits is told, the pointer is its */
    put_cmd(&r, 0, 0, T(15) | 1 << 24 | 3 << 16);
    wr(&r, BELL, 0);
    assert_int_equal(done(&r, &left), 26);
    assert_int_equal(left, 8);
    assert_int_equal(event(&r), 33);
    assert_int_equal(get_le64(m + OUTPUT + 0x400 + 32 * 3 + 8), (RINGS + 0x3010) | 1);
    assert_int_equal(get_le32(m + OUTPUT + 0x400 + 32 * 3) & 7, 3);
    assert_int_equal(slot_command(&r, 15, 1, 3, 0), 19); /* is stopped already */
    ui_send_abs(r.b->m, 1, 2);
    ui_send_sync(r.b->m);
    assert_int_equal(event(&r), 0);
    bell(&r, 1, 3);
    assert_int_equal(done(&r, NULL), 13);
    assert_memory_equal(m + DATA + 16, "\x00\x01\x00\x02\x00\x00", 6);
    stop(&r);
}

static void stalls_and_bad_commands_have_their_codes(void **state)
{
    struct rig r;
    uint8_t *m;

    start(&r, "nec-usb-xhci,id=x,slots=3");
    bare_device(r.b, "usb-kbd,bus=x.0");
    go(&r);
    m = r.b->mem;
    assert_int_equal(command(&r, 0, 0, T(23)), 1);
    assert_int_equal(command(&r, 0, 0, T(63)), 5);
    assert_int_equal(slot_command(&r, 10, 1, 0, 0), 11);
    assert_int_equal(slot_command(&r, 10, 200, 0, 0), 5);
    assert_int_equal(address(&r, 5, 64), 1);
    assert_int_equal(slot_command(&r, 11, 1, 0, INPUT), 19);
    /* a device nobody sees, a port that is not there, a context that is not memory */
    assert_int_equal(address(&r, 6, 64), 4);
    put_le32(m + INPUT + 36, 77 << 16);
    assert_int_equal(slot_command(&r, 11, 2, 0, INPUT), 17);
    assert_int_equal(slot_command(&r, 11, 2, 0, UINT64_C(0x7f00000000)), 17);
    assert_int_equal(slot_command(&r, 12, 2, 0, INPUT), 19);
    assert_int_equal(command(&r, 0, 0, T(9)), 1);
    assert_int_equal(command(&r, 0, 0, T(9)), 9);
    /* endpoints that cannot be; isochronous ones get no bandwidth */
    assert_int_equal(configure(&r, 1, 3, 5, 8), 8);
    assert_int_equal(configure(&r, 1, 3, 2, 8), 17);
    assert_int_equal(configure(&r, 1, 3, 7, 0), 17);
    assert_int_equal(configure(&r, 1, 3, 7, 2000), 17);
    assert_int_equal(slot_command(&r, 15, 1, 3, 0), 12);
    assert_int_equal(configure(&r, 1, 3, 7, 8), 1);
    /* a stall, and what makes it good */
    put(&r, 1, 0x80 | 6 << 8 | UINT64_C(0x7700) << 16 | UINT64_C(8) << 48, 8, T(2) | IDT | 3 << 16);
    put(&r, 1, DATA, 8, T(3) | IN);
    put(&r, 1, 0, 0, T(4) | IOC);
    bell(&r, 1, 1);
    assert_int_equal(done(&r, NULL), 6);
    assert_int_equal(get_le32(m + OUTPUT + 0x400 + 32) & 7, 2);
    bell(&r, 1, 1);
    assert_int_equal(event(&r), 0);
    assert_int_equal(slot_command(&r, 16, 1, 1, 0), 19);
    assert_int_equal(slot_command(&r, 14, 1, 1, 0), 1);
    assert_int_equal(slot_command(&r, 16, 1, 1, (RINGS + 0x1000 + 16 * r.put[1]) | 1), 1);
    assert_int_equal(control(&r, 1, 0x80, 6, 0x100, 0, 18, NULL), 1);
    /* not configured: the interrupt endpoint stalls. TDs of the wrong kind, too long, or as noise are TRB errors. */
    put(&r, 3, DATA, 8, T(1) | IOC);
    bell(&r, 1, 3);
    assert_int_equal(done(&r, NULL), 6);
    assert_int_equal(configure(&r, 1, 3, 7, 8), 1);
    put(&r, 3, 0, 8, T(2) | IDT | IOC);
    bell(&r, 1, 3);
    assert_int_equal(done(&r, NULL), 5);
    assert_int_equal(get_le32(m + OUTPUT + 0x400 + 96) & 7, 4);
    assert_int_equal(slot_command(&r, 16, 1, 3, (RINGS + 0x3000) | 1), 1);
    for (unsigned i = 0; i < 3; i++) {
        static const uint32_t bad[][2] = {{8, T(5)}, {0x1ffff, T(1)}, {8, T(40)}};

        assert_int_equal(configure(&r, 1, 3, 7, 8), 1);
        put(&r, 3, DATA, bad[i][0], bad[i][1]);
        bell(&r, 1, 3);
        assert_int_equal(done(&r, NULL), 5);
    }
    /* Evaluate Context; Reset Device leaves the control endpoint at address 0 */
    put_le32(m + INPUT + 4, 2);
    ep_context(&r, 1, 4, 32);
    assert_int_equal(slot_command(&r, 13, 1, 0, INPUT), 1);
    assert_int_equal(get_le16(m + OUTPUT + 0x400 + 32 + 6), 32);
    assert_int_equal(slot_command(&r, 17, 1, 0, 0), 1);
    assert_int_equal(get_le32(m + OUTPUT + 0x400 + 12), 1 << 27);
    assert_int_equal(slot_command(&r, 10, 1, 0, 0), 1);
    stop(&r);
}

/* Scattered over TRBs and through a link; immediate data; Event Data; short packets; each with its events. */
static void bulk_data_moves_and_is_told(void **state)
{
    struct rig r;
    uint32_t left = 0;
    uint8_t *m;

    start(&r, "qemu-xhci,id=x");
    bare_device(r.b, "test-usb-echo,port=2");
    go(&r);
    m = r.b->mem;
    assert_int_equal(rd(&r, PORTSC + 16), 0x21203);
    assert_int_equal(address(&r, 2, 512), 1);
    assert_int_equal(control(&r, 1, 0, 9, 1, 0, 0, NULL), 1);
    assert_int_equal(configure(&r, 1, 4, 2, 1024), 1);
    assert_int_equal(configure(&r, 1, 3, 6, 1024), 1);
    for (unsigned i = 0; i < 4096; i++)
        m[DATA + i] = (uint8_t)(i * 3 + i / 256);
    put(&r, 4, DATA, 1000, T(1) | CH);
    put(&r, 4, RINGS + 0x4100, 0, T(6)); /* the rest of the TD lies elsewhere */
    trb(&r, RINGS + 0x4100, DATA + 1000, 2000, T(1) | CH | IOC | 1);
    trb(&r, RINGS + 0x4110, DATA + 3000, 96, T(1) | CH | 1);
    trb(&r, RINGS + 0x4120, 0x77, 0, T(7) | IOC | CH | 1);
    trb(&r, RINGS + 0x4130, UINT64_C(0x0807060504030201), 5, T(1) | IDT | IOC | CH | 1);
    trb(&r, RINGS + 0x4140, 0x88, 0, T(7) | IOC | 1);
    bell(&r, 1, 4);
    assert_int_equal(done(&r, &left), 1);
    assert_int_equal(r.ev_param, RINGS + 0x4100);
    assert_int_equal(done(&r, &left), 1);
    assert_int_equal(left, 3096);
    assert_true(r.ev_param == 0x77 && (r.ev_control & 4));
    assert_int_equal(done(&r, &left), 1);
    assert_int_equal(left, 0);
    assert_int_equal(done(&r, &left), 1);
    assert_true(r.ev_param == 0x88 && left == 5);
    /* 3101 bytes come back: 1024 and 2000 full, the rest short of 1024 and of what follows it */
    put(&r, 3, DATA + 0x2000, 1024, T(1) | CH | ISP);
    put(&r, 3, DATA + 0x2400, 2000, T(1) | CH | ISP | IOC);
    put(&r, 3, DATA + 0x2bd0, 1000, T(1) | CH | ISP);
    put(&r, 3, DATA + 0x3000, 100, T(1) | CH | ISP);
    put(&r, 3, 0x99, 0, T(7) | IOC);
    put(&r, 3, DATA + 0x4000, 64, T(1) | IOC); /* waits */
    bell(&r, 1, 3);
    assert_int_equal(done(&r, &left), 1);
    assert_int_equal(done(&r, &left), 13);
    assert_int_equal(left, 1000 - (3101 - 3024));
    assert_int_equal(r.ev_param, RINGS + 0x3020);
    assert_int_equal(done(&r, &left), 13);
    assert_true(r.ev_param == 0x99 && left == 3101);
    assert_memory_equal(m + DATA + 0x2000, m + DATA, 3024);
    assert_memory_equal(m + DATA + 0x2bd0, m + DATA + 3024, 72);
    assert_memory_equal(m + DATA + 0x2bd0 + 72, "\1\2\3\4\5", 5);
    assert_int_equal(event(&r), 0);
    /* what goes out wakes the one that waits */
    trb(&r, RINGS + 0x4150, DATA, 64, T(1) | 1);
    bell(&r, 1, 4);
    assert_int_equal(done(&r, &left), 1);
    assert_int_equal(left, 0);
    /* the device has no room: the error is told without having been asked for */
    for (unsigned i = 0; i < 4; i++)
        trb(&r, RINGS + 0x4160 + 16 * i, DATA, 4000, T(1) | 1);
    bell(&r, 1, 4);
    assert_int_equal(done(&r, &left), 6);
    assert_int_equal(r.ev_param, RINGS + 0x4180);
    assert_int_equal(left, 4000);
    stop(&r);
}

static void ports_tell_of_plugs_resets_and_sleep(void **state)
{
    struct rig r;
    struct pci_dev *k;
    struct err *e = NULL;

    start(&r, "qemu-xhci,id=x,p2=2,p3=1");
    go(&r);
    assert_int_equal(event(&r), 0);
    k = bare_device(r.b, "usb-kbd,id=k,port=2");
    assert_int_equal(event(&r), 34);
    assert_int_equal(r.ev_param >> 24, 3);
    assert_int_equal(rd(&r, OPER + 4) & 0x18, 0x18);
    assert_int_equal(rd(&r, PORTSC + 32), 0x20ee1);
    wr(&r, PORTSC + 32, 0x20200);
    assert_int_equal(rd(&r, PORTSC + 32), 0xee1);
    assert_int_equal(address(&r, 3, 64), 1);
    wr(&r, PORTSC + 32, 0x200200);
    assert_int_equal(control(&r, 1, 0, 9, 1, 0, 0, NULL), 1);
    assert_int_equal(control(&r, 1, 0, 3, 1, 0, 0, NULL), 1); /* may wake the bus */
    assert_int_equal(configure(&r, 1, 3, 7, 8), 1);
    put(&r, 3, DATA, 8, T(1) | IOC);
    bell(&r, 1, 3);
    wr(&r, PORTSC + 32, 1 << 16 | 3 << 5 | 0x200);
    assert_int_equal(rd(&r, PORTSC + 32) & 0x1e0, 3 << 5);
    ui_send_key(r.b->m, 30, true);
    ui_send_sync(r.b->m);
    assert_int_equal(event(&r), 34);
    assert_int_equal(rd(&r, PORTSC + 32) & 0x4001e0, 0x4001e0); /* resume */
    assert_int_equal(event(&r), 0);
    wr(&r, PORTSC + 32, 1 << 16 | 0x400200);
    assert_int_equal(rd(&r, PORTSC + 32) & 0x1e0, 0);
    assert_int_equal(event(&r), 34);
    wr(&r, BELL + 4, 3);
    assert_int_equal(done(&r, NULL), 1);
    /* gone: transfers end in errors, also when another has taken its place */
    wr(&r, PORTSC + 32, 0xfe0200);
    assert_true(dev_unplug(&k->dev, &e));
    assert_int_equal(event(&r), 34);
    assert_int_equal(rd(&r, PORTSC + 32), 0x202a0);
    bare_device(r.b, "usb-mouse,id=k2,port=2");
    put(&r, 3, DATA, 8, T(1) | IOC);
    bell(&r, 1, 3);
    assert_int_equal(done(&r, NULL), 4);
    wr(&r, PORTSC + 32, 0xfe0210);
    while (event(&r))
        ;
    assert_int_equal(rd(&r, PORTSC + 32) & 3, 3);
    assert_int_equal(slot_command(&r, 14, 1, 3, 0), 1);
    bell(&r, 1, 3); /* the new one is not at the old one's address */
    assert_int_equal(done(&r, NULL), 4);
    /* the whole controller may go, with what is on it */
    dev_remove(&r.d->dev);
    stop(&r);
}

static void a_full_event_ring_makes_commands_wait(void **state)
{
    struct rig r;
    unsigned seen = 0;

    start(&r, "qemu-xhci");
    go(&r);
    for (unsigned turn = 0; turn < 8; turn++) {
        for (unsigned i = 0; i < NR_CMDS - 1; i++) {
            put_cmd(&r, 0, 0, T(23));
            wr(&r, BELL, 0);
        }
        if (turn >= 4)
            while (seen < 15 * (turn - 3) && peek_event(&r, false) == 33)
                seen++;
        wr64(&r, IR0 + 0x18, (EVENTS + 16 * r.event) | 8);
    }
    while (event(&r) == 33)
        seen++;
    assert_true(seen >= 100);
    assert_int_equal(rd(&r, OPER + 4) & 0x1005, 0); /* it runs on */
    assert_int_equal(command(&r, 0, 0, T(23)), 1);
    stop(&r);
}

/* More packets than one call may take: the timer goes on, and what waits for it is saved and loaded like the rest. */
static void long_transfers_go_on_by_timer(void **state)
{
    struct rig r;
    struct echo *e;
    uint32_t left = 0;

    start(&r, "qemu-xhci,id=x");
    bare_device(r.b, "test-usb-echo");
    e = container_of(container_of(r.d, struct xhci, pci)->bus.port[0], struct echo, usb);
    go(&r);
    assert_int_equal(address(&r, 1, 512), 1);
    assert_int_equal(control(&r, 1, 0, 9, 1, 0, 0, NULL), 1);
    assert_int_equal(configure(&r, 1, 4, 2, 1), 1);
    put(&r, 4, DATA, 3000, T(1) | IOC);
    bell(&r, 1, 4);
    assert_int_equal(e->len, 1024);
    assert_int_equal(done(&r, &left), 1);
    assert_int_equal(e->len, 3000);
    /* the guest makes a TD shorter than what has moved of it */
    e->len = 0;
    put(&r, 4, DATA, 3000, T(1) | IOC);
    bell(&r, 1, 4);
    put_le32(r.b->mem + RINGS + 0x4018, 5);
    assert_int_equal(done(&r, &left), 1);
    /* for ever, without an event: each turn does its part, the guest can stop it */
    for (unsigned i = 0; i < 8; i++)
        trb(&r, RINGS + 0x4100 + 16 * i, DATA, 0, T(8) | 1);
    trb(&r, RINGS + 0x4180, RINGS + 0x4100, 0, T(6) | 1);
    trb(&r, RINGS + 0x4020, RINGS + 0x4100, 0, T(6) | 1);
    bell(&r, 1, 4);
    bare_turns(r.b, 10);
    assert_int_equal(event(&r), 0);
    assert_int_equal(slot_command(&r, 15, 1, 4, 0), 1);
    bare_turns(r.b, 3);
    assert_int_equal(event(&r), 0);
    stop(&r);
}

/* Data for the controller's own doorbells, from the timer: nothing is rung while rings are worked on. */
static void its_own_registers_are_no_place_for_data(void **state)
{
    struct rig r;

    start(&r, "qemu-xhci,id=x");
    bare_device(r.b, "usb-tablet");
    go(&r);
    assert_int_equal(address(&r, 5, 64), 1);
    assert_int_equal(control(&r, 1, 0, 9, 1, 0, 0, NULL), 1);
    assert_int_equal(configure(&r, 1, 3, 7, 8), 1);
    put(&r, 3, BARE_MMIO + OPER, 8, T(1) | IOC);
    bell(&r, 1, 3);
    ui_send_abs(r.b->m, 0x0202, 0); /* would be a reset of the controller */
    ui_send_sync(r.b->m);
    assert_int_equal(done(&r, NULL), 13);
    assert_int_equal(rd(&r, OPER), 5);
    stop(&r);
}

static void rings_that_go_wrong_end(void **state)
{
    struct rig r;

    start(&r, "qemu-xhci,id=x");
    bare_device(r.b, "usb-tablet");
    go(&r);
    /* links only */
    trb(&r, CMDS, CMDS + 32, 0, T(6) | 1);
    trb(&r, CMDS + 32, CMDS, 0, T(6) | 1);
    wr(&r, BELL, 0);
    assert_int_equal(rd(&r, OPER + 4) & 0x1001, 0x1001);
    /* commands for ever, each with an event: it waits for the guest to take them, and can be stopped */
    enable(&r);
    trb(&r, CMDS, 0, 0, T(23) | 1);
    trb(&r, CMDS + 16, CMDS, 0, T(6) | 1);
    wr(&r, BELL, 0);
    for (unsigned i = 0; i < 500; i++)
        assert_true(event(&r) >= 33);
    assert_int_equal(rd(&r, CRCR), 8);
    wr64(&r, CRCR, 4);
    assert_int_equal(rd(&r, CRCR), 0);
    /* a TD without end: of links, of chained TRBs */
    for (unsigned i = 0; i < 2; i++) {
        enable(&r);
        assert_int_equal(address(&r, 5, 64), 1);
        trb(&r, RINGS + 0x1000, DATA, 1, T(i ? 1 : 6) | CH | 1);
        trb(&r, RINGS + 0x1010, RINGS + 0x1000, 0, T(6) | 1);
        if (!i)
            trb(&r, RINGS + 0x1000, RINGS + 0x1010, 0, T(6) | 1);
        bell(&r, 1, 1);
        assert_int_equal(done(&r, NULL), 5);
        assert_int_equal(get_le32(r.b->mem + OUTPUT + 0x400 + 32) & 7, 4);
        assert_int_equal(command(&r, 0, 0, T(23)), 1);
    }
    /* rings outside memory, and over the controller's own registers */
    enable(&r);
    wr64(&r, CRCR, UINT64_C(0x7f00000001));
    wr(&r, BELL, 0);
    assert_int_equal(rd(&r, OPER + 4) & 5, 5);
    enable(&r);
    put_le64(r.b->mem + ERST, BARE_MMIO + BELL);
    wr64(&r, IR0 + 0x18, BARE_MMIO + BELL);
    wr64(&r, IR0 + 0x10, ERST);
    for (unsigned i = 0; i < 8; i++)
        put_cmd(&r, 0, 0, T(23));
    wr(&r, BELL, 0);
    bare_turns(r.b, 5);
    enable(&r);
    wr64(&r, IR0 + 0x18, 0x100000); /* not in the ring */
    put_cmd(&r, 0, 0, T(23));
    wr(&r, BELL, 0);
    assert_int_equal(rd(&r, OPER + 4) & 0x1001, 0x1001);
    enable(&r);
    assert_int_equal(command(&r, 0, 0, T(23)), 1);
    stop(&r);
}

static uint64_t seed = 88172645463325252;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* A pointer: into rings, contexts or data; the controller itself; nowhere. */
static uint64_t pointer(void)
{
    switch (rnd() % 12) {
    case 0:
        return rnd();
    case 1:
        return BARE_MMIO + (rnd() & 0x3ff0);
    case 2:
        return BARE_RAM - 16 * (rnd() % 40);
    case 3:
    case 4:
        return CMDS + 16 * (rnd() % 20);
    case 5:
    case 6:
        return INPUT;
    default:
        return RINGS + 16 * (rnd() % 0x500) + (rnd() % 4 == 0);
    }
}

static void noise_in_memory(struct rig *r)
{
    static const uint8_t cmds[] = {9, 9, 10, 11, 12, 12, 13, 14, 15, 16, 17, 23, 6};

    for (unsigned i = 0; i < NR_CMDS; i++) {
        unsigned type = cmds[rnd() % sizeof cmds];

        trb(r, CMDS + 16 * i, pointer(), (uint32_t)(rnd() & 1 ? 0 : rnd()),
            T(type) | (unsigned)(rnd() % 5) << 24 | (unsigned)(rnd() % 6) << 16 | (rnd() & 0x232) | !!(rnd() % 8));
    }
    for (unsigned i = 0; i < 0x500; i++)
        if (rnd() % 3)
            trb(r, RINGS + 16 * i, pointer(), (uint32_t)(rnd() & (rnd() & 1 ? 0x3f : 0x40ffff)),
                T(1 + rnd() % 9) | (rnd() & 0x10276) | !!(rnd() % 8));
    put_le32(r->b->mem + INPUT, rnd() & 3 ? 0 : (uint32_t)rnd());
    put_le32(r->b->mem + INPUT + 4, rnd() & 1 ? 3 : (uint32_t)(rnd() & 0x3f) | 1);
    put_le32(r->b->mem + INPUT + 32, (uint32_t)(rnd() & (rnd() & 7 ? 0xf8000000u : 0xffffffffu)));
    put_le32(r->b->mem + INPUT + 36, (uint32_t)(rnd() % 10) << 16);
    for (unsigned dci = 1; dci < 31; dci++) {
        static const uint8_t types[] = {7, 2, 6, 3};

        ep_context(r, dci,
                   dci == 1    ? 4
                   : rnd() % 8 ? dci & 1 ? types[rnd() & 2] : types[1 + (rnd() & 2)]
                               : rnd() & 7,
                   1u << rnd() % 11);
        if (dci > 4)
            put_le64(r->b->mem + INPUT + 32 * (dci + 1) + 8, pointer() | 1);
    }
    for (unsigned i = 1; i < 5; i++)
        put_le64(r->b->mem + DCBAA + 8 * i, rnd() % 16 ? OUTPUT + 0x400 * i : pointer());
}

/* What a well-meaning guest does at first, so that the noise reaches endpoints that run. */
static void set_up(struct rig *r)
{
    static const uint8_t roots[] = {5, 2, 7};

    for (unsigned i = 0; i < 3; i++) {
        if (address(r, roots[i], 64) != 1)
            continue;
        control(r, r->slot, 0, 9, 1, 0, 0, NULL);
        configure(r, i + 1, 3, i == 1 ? 6 : 7, 64);
        if (i == 1)
            configure(r, i + 1, 4, 2, 512);
    }
}

/* Rings, contexts and registers made of noise neither crash, nor hang, nor keep the controller from starting again. */
static void noise_is_survived(void **state)
{
    struct rig r;
    unsigned events = 0;

    start(&r, "qemu-xhci,id=x,msi=on");
    bare_device(r.b, "usb-tablet,id=t,port=1");
    bare_device(r.b, "test-usb-echo,port=2");
    bare_device(r.b, "usb-kbd,port=3");
    go(&r);
    r.patience = 0;
    for (unsigned round = 0; round < 800; round++) {
        enable(&r);
        if (rnd() & 3)
            set_up(&r);
        noise_in_memory(&r);
        for (unsigned i = 0; i < 60; i++) {
            switch (rnd() % 10) {
            case 0:
                wr(&r, BELL, 0);
                break;
            case 1:
            case 2:
            case 3:
                bell(&r, 1 + rnd() % 4, rnd() % (rnd() & 7 ? 6 : 64));
                break;
            case 4:
                ui_send_abs(r.b->m, (int)(rnd() & 0x7fff), (int)(rnd() & 0x7fff));
                ui_send_key(r.b->m, (unsigned)rnd() & 63, rnd() & 1);
                ui_send_sync(r.b->m);
                break;
            case 5:
                wr(&r, PORTSC + 16 * (rnd() % 8), (uint32_t)(rnd() & rnd()));
                break;
            case 6:
                if (rnd() % 4 == 0)
                    wr(&r, (unsigned)(rnd() % 0x900) * 4, (uint32_t)rnd());
                wr64(&r, IR0 + 0x18, rnd() & 7 ? (uint64_t)(EVENTS + 16 * (rnd() % NR_EVENTS)) | 8 : pointer());
                break;
            case 7:
                if (rnd() % 8 == 0)
                    wr64(&r, CRCR, pointer() | (rnd() & 7));
                break;
            case 8:
                bare_turns(r.b, 1);
                break;
            default:
                for (unsigned k = 0; k < NR_EVENTS && peek_event(&r, true); k++)
                    events++; /* a command ring may make more for ever */
                break;
            }
        }
    }
    enable(&r);
    assert_int_equal(command(&r, 0, 0, T(23)), 1);
    assert_true(events > 3000);
    stop(&r);
}

/* ---- usb-storage, by its command and status blocks ---- */

static void add_drive(struct rig *r)
{
    struct opts *o = opts_parse("file=null-co://,file.size=1M,file.read-zeroes=on,format=raw", NULL, NULL);
    struct err *e = NULL;

    if (!blk_drive_add(r->b->blk, "d0", o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
}

static void send_block(struct rig *r, const uint8_t *cdb, unsigned n, uint32_t dlen, bool in)
{
    uint8_t *c = r->b->mem + DATA + 0x8000;

    memset(c, 0, 31);
    put_le32(c, 0x43425355);
    put_le32(c + 4, 0x1234);
    put_le32(c + 8, dlen);
    c[12] = in ? 0x80 : 0;
    c[14] = (uint8_t)n;
    memcpy(c + 15, cdb, n);
    put(r, 4, DATA + 0x8000, 31, T(1));
    bell(r, 1, 4);
}

/* A whole command; status byte, -1: a transfer failed. The residue in *left. */
static int scsi(struct rig *r, const uint8_t *cdb, unsigned n, uint32_t dlen, bool in, uint32_t *left)
{
    unsigned dci = in ? 3 : 4;
    uint8_t *c = r->b->mem + DATA + 0x9000;

    send_block(r, cdb, n, dlen, in);
    if (dlen) {
        put(r, dci, DATA, dlen, T(1) | IOC);
        bell(r, 1, dci);
        if (done(r, NULL) != 1)
            return -1;
    }
    put(r, 3, DATA + 0x9000, 13, T(1) | IOC);
    bell(r, 1, 3);
    if (done(r, NULL) != 1 || get_le32(c) != 0x53425355 || get_le32(c + 4) != 0x1234)
        return -1;
    *left = get_le32(c + 8);
    return c[12];
}

static void disk_up(struct rig *r)
{
    assert_int_equal(address(r, 1, 512), 1);
    assert_int_equal(control(r, 1, 0, 9, 1, 0, 0, NULL), 1);
    assert_int_equal(configure(r, 1, 3, 6, 1024), 1);
    assert_int_equal(configure(r, 1, 4, 2, 1024), 1);
}

static void a_disk_answers_its_commands(void **state)
{
    static const uint8_t ready[6] = {0}, sense[6] = {3, 0, 0, 0, 18}, inquiry[6] = {0x12, 0, 0, 0, 96};
    static const uint8_t read[10] = {0x28, 0, 0, 0, 0, 4, 0, 0, 8}, write[10] = {0x2a, 0, 0, 0, 0, 4, 0, 0, 8};
    static const uint8_t far[10] = {0x28, 0, 0x7f, 0, 0, 0, 0, 0, 8}, nonsense[6] = {0xdd};
    struct rig r;
    uint32_t left;
    uint8_t *m;

    start(&r, "qemu-xhci,id=x");
    r.patience = 50;
    add_drive(&r);
    bare_refuses(r.b, "usb-storage", "drive property");
    bare_refuses(r.b, "usb-storage,drive=nothing", "nothing");
    bare_device(r.b, "usb-storage,drive=d0");
    bare_refuses(r.b, "scsi-cd", "no 'SCSI' bus");
    go(&r);
    m = r.b->mem;
    disk_up(&r);
    assert_int_equal(control(&r, 1, 0xa1, 0xfe, 0, 0, 1, &left), 1);
    assert_int_equal(scsi(&r, ready, 6, 0, true, &left), 1); /* unit attention: power on */
    assert_int_equal(scsi(&r, sense, 6, 18, true, &left), 0);
    assert_int_equal(m[DATA + 2], 6);
    assert_int_equal(scsi(&r, ready, 6, 0, true, &left), 0);
    memset(m + DATA, 0xee, 200);
    assert_int_equal(scsi(&r, inquiry, 6, 200, true, &left), 0);
    assert_true(left >= 200 - 96 && !m[DATA + 199]);
    assert_memory_equal(m + DATA + 8, "QEMU", 4);
    memset(m + DATA, 0xee, 4096);
    assert_int_equal(scsi(&r, read, 10, 4096, true, &left), 0);
    assert_true(!left && !m[DATA] && !m[DATA + 4095]);
    assert_int_equal(scsi(&r, write, 10, 4096, false, &left), 0);
    assert_int_equal(left, 0);
    assert_int_equal(scsi(&r, far, 10, 4096, true, &left), 1);
    assert_int_equal(left, 4096);
    assert_int_equal(scsi(&r, sense, 6, 18, true, &left), 0);
    assert_int_equal(m[DATA + 12], 0x21);
    assert_int_equal(scsi(&r, nonsense, 6, 512, false, &left), 1);
    /* too much for one command, and what is no command: both pipes halt until the recovery */
    send_block(&r, read, 10, 64 << 20, true);
    assert_int_equal(done(&r, NULL), 6);
    put(&r, 3, DATA, 13, T(1) | IOC);
    bell(&r, 1, 3);
    assert_int_equal(done(&r, NULL), 6);
    assert_int_equal(control(&r, 1, 0x21, 0xff, 0, 0, 0, NULL), 1);
    assert_int_equal(control(&r, 1, 2, 1, 0, 0x81, 0, NULL), 1);
    assert_int_equal(control(&r, 1, 2, 1, 0, 2, 0, NULL), 1);
    for (unsigned dci = 3; dci < 5; dci++) {
        assert_int_equal(slot_command(&r, 14, 1, dci, 0), 1);
        assert_int_equal(slot_command(&r, 16, 1, dci, (RINGS + 0x1000 * dci + 16 * r.put[dci]) | 1), 1);
    }
    assert_int_equal(scsi(&r, ready, 6, 0, true, &left), 0);
    stop(&r);
}

static void disk_noise_is_survived(void **state)
{
    static const uint8_t ops[] = {0,    3,    0x12, 0x1a, 0x1b, 0x25, 0x28, 0x2a, 0x35,
                                  0x41, 0x42, 0x88, 0x8a, 0x9e, 0xa0, 0x5a, 0x55};
    struct rig r;
    unsigned good = 0;

    start(&r, "qemu-xhci,id=x");
    add_drive(&r);
    bare_device(r.b, "usb-storage,drive=d0");
    go(&r);
    for (unsigned round = 0; round < 100; round++) {
        enable(&r);
        r.patience = 3;
        disk_up(&r);
        for (unsigned i = 0; i < 20; i++) {
            uint8_t cdb[16];
            uint32_t left;

            for (unsigned k = 0; k < 16; k++)
                cdb[k] = rnd() & 3 ? 0 : (uint8_t)rnd();
            if (rnd() % 16)
                cdb[0] = ops[rnd() % sizeof ops];
            if (rnd() % 8) {
                good += scsi(&r, cdb, 6 + rnd() % 11, (uint32_t)(rnd() % 3 ? rnd() % 8192 : 0), rnd() & 1, &left) == 0;
            } else {
                send_block(&r, cdb, (unsigned)rnd() % 17, (uint32_t)(rnd() & rnd()), rnd() & 1);
                if (rnd() & 1)
                    control(&r, 1, 0x21, 0xff, 0, 0, 0, NULL);
            }
            r.patience = 0;
            while (event(&r))
                ;
            r.patience = 3;
        }
    }
    assert_true(good > 60);
    enable(&r);
    disk_up(&r);
    stop(&r);
}

/* Slots come back as they were; records made of noise are refused or do no harm. */
static void slots_are_saved(void **state)
{
    static struct xhci_slot was[XHCI_SLOTS + 1];
    const struct state_desc *d;
    struct rig r;
    struct xhci *x;
    unsigned taken = 0;

    start(&r, "qemu-xhci,id=x");
    bare_device(r.b, "usb-tablet,port=1");
    bare_device(r.b, "test-usb-echo,port=2");
    bare_device(r.b, "usb-kbd,port=3");
    go(&r);
    x = container_of(r.d, struct xhci, pci);
    d = dev_class(&r.d->dev)->state_desc;
    set_up(&r);
    for (unsigned i = 1; i < 4; i++) {
        put(&r, 3, DATA, i == 2 ? 128 : 64, T(1) | IOC);
        bell(&r, i, 3);
    }
    put(&r, 4, DATA, 128, T(1));
    bell(&r, 2, 4);
    bare_turns(r.b, 2);
    assert_int_equal(container_of(r.d, struct xhci, pci)->slot[2].ep[3].done, 64);
    assert_true(x->slot[1].ep[3].asleep && x->slot[2].ep[4].state == EP_RUNNING);
    memcpy(was, x->slot, sizeof was);
    assert_true(d->pre_save(x, NULL));
    memset(x->slot, 0x5a, sizeof x->slot);
    assert_true(d->post_load(x, NULL));
    assert_memory_equal(was, x->slot, sizeof was);
    for (unsigned i = 0; i < 20000; i++) {
        memcpy(x->slot, was, sizeof was);
        assert_true(d->pre_save(x, NULL));
        if (rnd() & 1)
            x->saved_len = (uint32_t)(rnd() % (x->saved_len + 1));
        for (unsigned k = rnd() % 3; k && x->saved_len; k--)
            x->saved[rnd() % x->saved_len] = (uint8_t)rnd();
        taken += d->post_load(x, NULL);
        for (unsigned k = 1; k < 5; k++)
            bell(&r, k, 1 + rnd() % 4);
        if (!xhci_running(x))
            enable(&r);
    }
    assert_true(taken > 100 && taken < 19000);
    stop(&r);
}

UNIT_MAIN(cmocka_unit_test(registers_say_what_it_is), cmocka_unit_test(a_tablet_is_enumerated_and_speaks),
          cmocka_unit_test(stalls_and_bad_commands_have_their_codes), cmocka_unit_test(bulk_data_moves_and_is_told),
          cmocka_unit_test(ports_tell_of_plugs_resets_and_sleep),
          cmocka_unit_test(a_full_event_ring_makes_commands_wait), cmocka_unit_test(long_transfers_go_on_by_timer),
          cmocka_unit_test(its_own_registers_are_no_place_for_data), cmocka_unit_test(rings_that_go_wrong_end),
          cmocka_unit_test(slots_are_saved), cmocka_unit_test(a_disk_answers_its_commands),
          cmocka_unit_test(disk_noise_is_survived), cmocka_unit_test(noise_is_survived))
