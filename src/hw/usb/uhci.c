/* "piix3-usb-uhci", "piix4-usb-uhci", "ich9-usb-uhci1..3": USB 1.1 host controllers with two root ports.
 *
 * Universal Host Controller Interface Design Guide 1.1; 82371SB (PIIX3) data sheet for the PCI side. A frame is worked
 * off at once when its millisecond begins; devices answer at once too, so an isochronous TD is done when met. Left out:
 * legacy keyboard emulation (LEGSUP keeps its bits), the FRNUM-dependent SOF counter, over-current. */
#include "base/bytes.h"
#include "hw/pci/pci.h"
#include "hw/usb/usb.h"

enum { UHCI_PORTS = 2, UHCI_IO = 0x20, FRAME_NS = 1000000, BAR_IO = 4 };
enum { USBCMD = 0x00, USBSTS = 0x02, USBINTR = 0x04, FRNUM = 0x06, FRBASEADD = 0x08, SOFMOD = 0x0c, PORTSC1 = 0x10 };
enum { CMD_RS = 1, CMD_HCRESET = 2, CMD_GRESET = 4, CMD_EGSM = 8, CMD_FGR = 0x10 };
enum { STS_USBINT = 1, STS_ERROR = 2, STS_RD = 4, STS_HSE = 8, STS_HCPE = 0x10, STS_HCH = 0x20 };
enum { INTR_TIMEOUT = 1, INTR_RESUME = 2, INTR_IOC = 4, INTR_SHORT = 8 };
enum {
    PORT_CCS = 1,
    PORT_CSC = 2,
    PORT_PE = 4,
    PORT_PEC = 8,
    PORT_RD = 0x40,
    PORT_ONE = 0x80,
    PORT_LSDA = 0x100,
    PORT_PR = 0x200,
    PORT_SUSP = 0x1000,
    PORT_RW = PORT_PE | PORT_RD | PORT_PR | PORT_SUSP,
    PORT_W1C = PORT_CSC | PORT_PEC
};
/* Link pointers, and the words of a transfer descriptor (3.1, 3.2). */
enum { LINK_T = 1, LINK_Q = 2, LINK_VF = 4 };
enum { TD_ACTIVE = 1 << 23, TD_STALLED = 1 << 22, TD_BABBLE = 1 << 20, TD_NAK = 1 << 19, TD_TIMEOUT = 1 << 18 };
enum { TD_IOC = 1 << 24, TD_IOS = 1 << 25, TD_SPD = 1 << 29, TD_STATUS = 0xff << 16, TD_ACTLEN = 0x7ff };
enum { NOBODY = -100 };
enum { TD_MAX = 1280 };                                        /* longest packet that MaxLen can say */
enum { FRAME_TDS = 256, FRAME_LINKS = 1024, FRAMES_LATE = 8 }; /* what a frame holds; how many are made up for */

struct uhci {
    struct pci_dev pci; /* first */
    struct mem_region io;
    struct usb_bus bus;
    struct clk_timer timer;
    int64_t frame_at; /* when the current frame began */
    uint16_t cmd, sts, intr, frnum;
    uint32_t base;
    uint8_t sofmod;
    bool ioc, short_packet; /* why USBINT is set */
    uint16_t port[UHCI_PORTS];
};
struct td {
    uint32_t link, ctrl, token, buffer;
};

static void update_irq(struct uhci *u)
{
    bool on = (u->ioc && (u->intr & INTR_IOC)) || (u->short_packet && (u->intr & INTR_SHORT)) ||
              ((u->sts & STS_ERROR) && (u->intr & INTR_TIMEOUT)) || ((u->sts & STS_RD) && (u->intr & INTR_RESUME)) ||
              (u->sts & (STS_HSE | STS_HCPE));

    pci_set_intx(&u->pci, on);
}

/* ---- the schedule ---- */

static uint32_t read32(struct uhci *u, uint32_t addr)
{
    uint8_t b[4] = {0};

    pci_dma_read(&u->pci, addr, b, sizeof b);
    return get_le32(b);
}
static void write32(struct uhci *u, uint32_t addr, uint32_t v)
{
    uint8_t b[4];

    put_le32(b, v);
    pci_dma_write(&u->pci, addr, b, sizeof b);
}

static struct usb_dev *who(struct uhci *u, uint8_t addr)
{
    for (unsigned i = 0; i < UHCI_PORTS; i++)
        if ((u->port[i] & (PORT_PE | PORT_SUSP)) == PORT_PE && u->bus.port[i] && u->bus.port[i]->addr == addr)
            return u->bus.port[i];
    return NULL;
}

/* The packet of a TD: bytes moved or USB_*, or NOBODY: it times out. */
static int transfer(struct uhci *u, const struct td *t)
{
    struct usb_dev *d = who(u, t->token >> 8 & 0x7f);
    unsigned len = ((t->token >> 21) + 1) & 0x7ff, ep = t->token >> 15 & 0xf;
    uint8_t pid = (uint8_t)t->token, buf[TD_MAX];
    int r;

    if (!d)
        return NOBODY;
    if (pid == USB_IN) {
        r = usb_packet(d, USB_IN, ep, buf, len);
        if (r > 0)
            pci_dma_write(&u->pci, t->buffer, buf, (unsigned)r);
        return r;
    }
    pci_dma_read(&u->pci, t->buffer, buf, len);
    return usb_packet(d, pid, ep, buf, len);
}

enum td_outcome { TD_DONE, TD_SHORT, TD_STAYS };

static enum td_outcome failed(struct uhci *u, struct td *t, int r)
{
    if (r == USB_NAK) {
        t->ctrl |= TD_NAK;
        return TD_STAYS;
    }
    t->ctrl &= ~(uint32_t)TD_ACTIVE;
    t->ctrl |= TD_STALLED | (r == NOBODY ? TD_TIMEOUT : r == USB_BABBLE ? TD_BABBLE : 0);
    u->sts |= STS_ERROR;
    if (t->ctrl & TD_IOC) {
        u->sts |= STS_USBINT;
        u->ioc = true;
    }
    return TD_STAYS;
}

static enum td_outcome run_td(struct uhci *u, struct td *t)
{
    unsigned len = ((t->token >> 21) + 1) & 0x7ff;
    uint8_t pid = (uint8_t)t->token;
    int r;

    if ((pid != USB_IN && pid != USB_OUT && pid != USB_SETUP) || len > TD_MAX) {
        u->sts |= STS_HCPE; /* 2.1.2: not a valid descriptor, the controller stops */
        u->cmd &= ~CMD_RS;
        return TD_STAYS;
    }
    r = transfer(u, t);
    if (r < 0)
        return failed(u, t, r);
    t->ctrl = (t->ctrl & ~(uint32_t)(TD_STATUS | TD_ACTLEN)) | (((uint32_t)r - 1) & TD_ACTLEN);
    if (t->ctrl & TD_IOC) {
        u->sts |= STS_USBINT;
        u->ioc = true;
    }
    if (pid == USB_IN && (t->ctrl & TD_SPD) && (unsigned)r < len) {
        u->sts |= STS_USBINT;
        u->short_packet = true;
        return TD_SHORT;
    }
    return TD_DONE;
}

static void read_td(struct uhci *u, uint32_t addr, struct td *t)
{
    uint8_t b[16] = {0};

    pci_dma_read(&u->pci, addr, b, sizeof b);
    *t = (struct td){get_le32(b), get_le32(b + 4), get_le32(b + 8), get_le32(b + 12)};
}

/* A TD that is not in a queue: isochronous, or before the queues. Returns the link to go on with. */
static uint32_t loose_td(struct uhci *u, uint32_t addr)
{
    struct td t;

    read_td(u, addr, &t);
    if (t.ctrl & TD_ACTIVE) {
        run_td(u, &t);
        write32(u, addr + 4, t.ctrl);
    }
    return t.link;
}

/* The TDs of one queue, as far as it goes; true when one of them was done. */
static bool run_queue(struct uhci *u, uint32_t qh, unsigned *budget)
{
    uint32_t element = read32(u, qh + 4);
    bool progress = false;

    while (!(element & (LINK_T | LINK_Q)) && *budget && (u->cmd & CMD_RS)) {
        enum td_outcome out;
        struct td t;

        read_td(u, element & ~0xfu, &t);
        if (!(t.ctrl & TD_ACTIVE))
            break;
        --*budget;
        out = run_td(u, &t);
        write32(u, (element & ~0xfu) + 4, t.ctrl);
        if (out != TD_DONE)
            break;
        progress = true;
        element = t.link;
        write32(u, qh + 4, element);
        if (!(element & LINK_VF)) /* breadth first: the next queue's turn */
            break;
    }
    return progress;
}

/* One frame (3.4). Queues may form a ring for bandwidth that is left: it ends when a round brought nothing. The mark
 * moves ahead in growing steps, so that it comes to lie in the ring wherever that begins. */
static void run_frame(struct uhci *u)
{
    uint32_t link = read32(u, u->base + (u->frnum & 0x3ffu) * 4), mark = LINK_T;
    unsigned budget = FRAME_TDS, steps = 0, far = 4;
    bool idle = false;

    for (unsigned i = 0; i < FRAME_LINKS && !(link & LINK_T) && budget && (u->cmd & CMD_RS); i++) {
        uint32_t at = link & ~0xfu;

        if (!(link & LINK_Q)) {
            link = loose_td(u, at);
            budget--;
            continue;
        }
        if (at == mark && idle)
            break;
        if (steps++ == far) {
            mark = at;
            far *= 2;
            idle = true;
        }
        if (run_queue(u, at, &budget))
            idle = false;
        link = read32(u, at);
    }
}

static void frame(void *opaque)
{
    struct uhci *u = opaque;
    int64_t now = clk_now(dev_vclk(&u->pci.dev)), late = (now - u->frame_at) / FRAME_NS;

    if (!(u->cmd & CMD_RS)) {
        u->sts |= STS_HCH;
        return;
    }
    if (late > FRAMES_LATE) { /* frames nobody could run */
        u->frnum = (uint16_t)((u->frnum + late - FRAMES_LATE) & 0x7ff);
        u->frame_at += (late - FRAMES_LATE) * FRAME_NS;
    }
    while (now - u->frame_at >= FRAME_NS && (u->cmd & CMD_RS)) {
        u->frame_at += FRAME_NS;
        run_frame(u);
        u->frnum = (u->frnum + 1) & 0x7ff;
    }
    if (!(u->cmd & CMD_RS))
        u->sts |= STS_HCH;
    else
        clk_timer_set(&u->timer, u->frame_at + FRAME_NS);
    update_irq(u);
}

/* ---- ports ---- */

static void port_changed(void *opaque, unsigned n)
{
    struct uhci *u = opaque;
    struct usb_dev *d = u->bus.port[n];
    uint16_t old = u->port[n];

    u->port[n] &= ~(PORT_CCS | PORT_LSDA | PORT_PE | PORT_SUSP);
    if (d)
        u->port[n] |= PORT_CCS | (d->speed == USB_LOW ? PORT_LSDA : 0);
    u->port[n] |= PORT_CSC | (old & PORT_PE ? PORT_PEC : 0);
    if (u->cmd & CMD_EGSM || !(u->cmd & CMD_RS))
        u->sts |= STS_RD;
    update_irq(u);
}

/* Something to say while the bus sleeps: resume signalling, if the guest allowed it. */
static void wakeup(void *opaque, struct usb_dev *d, unsigned ep)
{
    struct uhci *u = opaque;

    if (!d->remote_wakeup || !((u->port[d->nr] & PORT_SUSP) || (u->cmd & CMD_EGSM)))
        return;
    u->port[d->nr] |= PORT_RD;
    u->sts |= STS_RD;
    update_irq(u);
}

static void port_write(struct uhci *u, unsigned n, uint16_t v)
{
    uint16_t *p = &u->port[n];

    if ((v & PORT_PR) && !(*p & PORT_PR))
        usb_bus_reset_port(&u->bus, n);
    if ((*p & PORT_RD) && !(v & PORT_RD))
        *p &= ~PORT_SUSP; /* the resume is over */
    *p &= ~(v & PORT_W1C);
    *p = (*p & ~PORT_RW) | (v & PORT_RW);
    if (!(*p & PORT_CCS) || (v & PORT_PR))
        *p &= ~PORT_PE;
}

/* ---- registers ---- */

static void controller_reset(struct uhci *u)
{
    clk_timer_cancel(&u->timer);
    u->cmd = u->intr = u->frnum = 0;
    u->base = 0;
    u->sts = STS_HCH;
    u->sofmod = 64;
    u->ioc = u->short_packet = false;
    for (unsigned i = 0; i < UHCI_PORTS; i++) {
        u->port[i] = 0;
        usb_bus_reset_port(&u->bus, i);
        if (u->bus.port[i])
            port_changed(u, i);
    }
    u->sts = STS_HCH;
    update_irq(u);
}

static uint64_t uhci_read(void *opaque, gpa_t off, unsigned size)
{
    struct uhci *u = opaque;

    switch (off & ~1u) {
    case USBCMD:
        return u->cmd;
    case USBSTS:
        return u->sts;
    case USBINTR:
        return u->intr;
    case FRNUM:
        return u->frnum;
    case FRBASEADD:
        return u->base & 0xffff;
    case FRBASEADD + 2:
        return u->base >> 16;
    case SOFMOD:
        return u->sofmod;
    case PORTSC1:
    case PORTSC1 + 2:
        return u->port[(off - PORTSC1) / 2] | PORT_ONE;
    default:
        return off < PORTSC1 + 2 * UHCI_PORTS ? 0 : 0xff7f; /* no such port: bit 7 is clear */
    }
}

static void cmd_write(struct uhci *u, uint16_t v)
{
    if (v & CMD_HCRESET || ((v & CMD_GRESET) && !(u->cmd & CMD_GRESET))) {
        controller_reset(u);
        u->cmd = v & CMD_GRESET;
        return;
    }
    if ((v & CMD_RS) && !(u->cmd & CMD_RS)) {
        u->frame_at = clk_now(dev_vclk(&u->pci.dev));
        clk_timer_set(&u->timer, u->frame_at + FRAME_NS);
        u->sts &= ~STS_HCH;
    } else if (!(v & CMD_RS)) {
        u->sts |= STS_HCH;
    }
    u->cmd = v & 0xff;
}

static void uhci_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct uhci *u = opaque;
    uint16_t v = (uint16_t)val;

    switch (off & ~1u) {
    case USBCMD:
        cmd_write(u, v);
        break;
    case USBSTS:
        if (v & STS_USBINT)
            u->ioc = u->short_packet = false;
        u->sts &= ~(v & (STS_USBINT | STS_ERROR | STS_RD | STS_HSE | STS_HCPE));
        break;
    case USBINTR:
        u->intr = v & 0xf;
        break;
    case FRNUM:
        if (u->sts & STS_HCH) /* 2.1.4: only while stopped */
            u->frnum = v & 0x7ff;
        break;
    case FRBASEADD:
        u->base = (u->base & 0xffff0000u) | (v & 0xf000);
        break;
    case FRBASEADD + 2:
        u->base = (u->base & 0xffff) | (uint32_t)v << 16;
        break;
    case SOFMOD:
        u->sofmod = v & 0x7f;
        break;
    case PORTSC1:
    case PORTSC1 + 2:
        port_write(u, (unsigned)(off - PORTSC1) / 2, v);
        break;
    default:
        log_guest("uhci: write to register %#" PRIx64, off);
    }
    update_irq(u);
}
static const struct mem_ops uhci_ops = {.read = uhci_read, .write = uhci_write, .impl_min = 2, .impl_max = 2};

/* ---- life ---- */

static const struct bus_class uhci_bus_class = USB_BUS_CLASS(UHCI_PORTS);

static bool uhci_realize(struct dev *d, struct err **errp)
{
    struct uhci *u = container_of(d, struct uhci, pci.dev);
    static const uint8_t pins[] = {4, 1, 2, 3}; /* PIIX: INTD#; the ICH9 ones by function */

    u->pci.config[0x60] = 0x10; /* SBRN: USB 1.0 */
    put_le16(u->pci.config + 0xc0, 0x2000);
    put_le16(u->pci.wmask + 0xc0, 0x40bf);
    pci_set_pin(&u->pci, pci_class(&u->pci)->vendor_id == 0x8086 && pci_class(&u->pci)->device_id >= 0x2934
                             ? (u->pci.devfn & 3u) + 1
                             : pins[0]);
    mem_region_init_io(&u->io, dev_machine(d)->mem_sys, &uhci_ops, u, "uhci", UHCI_IO);
    pci_add_bar(&u->pci, BAR_IO, PCI_BAR_IO, &u->io);
    clk_timer_init(&u->timer, dev_vclk(d), frame, u);
    u->bus.changed = port_changed;
    u->bus.wakeup = wakeup;
    u->bus.opaque = u;
    usb_bus_init(&u->bus, &uhci_bus_class, d, UHCI_PORTS);
    return true;
}
static void uhci_unrealize(struct dev *d)
{
    struct uhci *u = container_of(d, struct uhci, pci.dev);

    clk_timer_cancel(&u->timer);
    usb_bus_fini(&u->bus);
    mem_region_free(&u->io);
}
static void uhci_reset(struct dev *d)
{
    controller_reset(container_of(d, struct uhci, pci.dev));
}
static const struct state_field uhci_fields[] = {STATE_STRUCT(struct uhci, pci, pci_dev_state),
                                                 STATE_TIMER(struct uhci, timer),
                                                 STATE_I64(struct uhci, frame_at),
                                                 STATE_U16(struct uhci, cmd),
                                                 STATE_U16(struct uhci, sts),
                                                 STATE_U16(struct uhci, intr),
                                                 STATE_U16(struct uhci, frnum),
                                                 STATE_U32(struct uhci, base),
                                                 STATE_U8(struct uhci, sofmod),
                                                 STATE_BOOL(struct uhci, ioc),
                                                 STATE_BOOL(struct uhci, short_packet),
                                                 STATE_ARRAY(struct uhci, port),
                                                 STATE_END};
static bool uhci_loaded(void *obj, struct err **errp)
{
    struct uhci *u = obj;

    u->frnum &= 0x7ff;
    u->base &= ~0xfffu;
    return state_time_ok(u->frame_at);
}
static const struct state_desc uhci_state = {
    .name = "uhci", .version = 1, .fields = uhci_fields, .post_load = uhci_loaded};
#define UHCI_CLASS(what, id, device, rev)                                                                              \
    static const struct pci_class what##_class = {.name = id,                                                          \
                                                  .parent = "pci-device",                                              \
                                                  .desc = "USB 1.1 controller (UHCI), two ports",                      \
                                                  .size = sizeof(struct uhci),                                         \
                                                  .more_props = pci_props,                                             \
                                                  .bus_type = "PCI",                                                   \
                                                  .category = DEV_CAT_USB,                                             \
                                                  .realize = uhci_realize,                                             \
                                                  .unrealize = uhci_unrealize,                                         \
                                                  .reset = uhci_reset,                                                 \
                                                  .state_desc = &uhci_state,                                           \
                                                  .vendor_id = 0x8086,                                                 \
                                                  .device_id = device,                                                 \
                                                  .revision = rev,                                                     \
                                                  .class_id = 0x0c03};                                                 \
    PCI_REGISTER(what##_class)
UHCI_CLASS(piix3, "piix3-usb-uhci", 0x7020, 1)
UHCI_CLASS(piix4, "piix4-usb-uhci", 0x7112, 1)
UHCI_CLASS(ich9_1, "ich9-usb-uhci1", 0x2934, 3)
UHCI_CLASS(ich9_2, "ich9-usb-uhci2", 0x2935, 3)
UHCI_CLASS(ich9_3, "ich9-usb-uhci3", 0x2936, 3)
