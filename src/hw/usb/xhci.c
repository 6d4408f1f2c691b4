/* "qemu-xhci", "nec-usb-xhci": USB 3 host controllers. eXtensible Host Controller Interface for USB, revision 1.2.
 *
 * Root ports: p3 of USB 3 first, then p2 of USB 2; port n of the bus is the connector with the n-th of both. A doorbell
 * is answered while it rings: commands and transfers are carried out in the register write, as far as the bounds of one
 * call go; the rest, and what a device says later, runs from a timer of the virtual clock. Devices answer at once, so
 * intervals of endpoints mean nothing. The event ring is one segment (ERST Max 0). When it is full, commands and
 * transfers wait until the guest has taken events.
 *
 * Left out: isochronous transfers, streams, hubs, save and restore of the controller's state (a restore says that it
 * failed, and the guest starts anew), interrupt moderation, debug capability, port power and power-saving states of
 * links other than U3. */
#include "hw/usb/xhci_int.h"

#include "base/str.h"

enum {
    CAP_LEN = 0x40,
    OPER = CAP_LEN,
    PORTS = OPER + 0x400,
    RUNTIME = 0x1000,
    IR = RUNTIME + 0x20,
    DOORBELLS = 0x2000
};
enum { REGS_SIZE = 0x3000, BAR_SIZE = 0x4000, MSIX_TABLE_AT = 0x3000, MSIX_PBA_AT = 0x3800 };
/* Capability registers and, behind them, the two Supported Protocol capabilities (5.3, 7.2). */
enum { CAPLENGTH = 0, HCSPARAMS1 = 4, HCSPARAMS2 = 8, HCCPARAMS1 = 0x10, DBOFF = 0x14, RTSOFF = 0x18, XECP = 0x20 };
enum { HCIVERSION = 0x0100, IST = 15, AC64 = 1 };
/* Operational registers (5.4). */
enum { USBCMD = 0, USBSTS = 4, PAGESIZE = 8, DNCTRL = 0x14, CRCR = 0x18, DCBAAP = 0x30, CONFIG = 0x38 };
enum { CRCR_RCS = 1, CRCR_CS = 2, CRCR_CA = 4, CRCR_CRR = 8 };
/* An interrupter (5.5.2). */
enum { IMAN = 0, IMOD = 4, ERSTSZ = 8, ERSTBA = 0x10, ERDP = 0x18 };
enum { IMAN_IP = 1, IMAN_IE = 2, ERDP_EHB = 8, ERDP_DESI = 7, IMOD_DEFAULT = 4000 };
enum { RING_MIN = 16, RING_MAX = 4096, RETRY_NS = 1000000, MFINDEX_NS = 125000 };

static struct xhci *xhci_of(struct dev *d)
{
    return container_of(d, struct xhci, pci.dev);
}

/* ---- interrupts ---- */

static void update_intx(struct xhci *x)
{
    bool up = (x->intr[0].iman & (IMAN_IP | IMAN_IE)) == (IMAN_IP | IMAN_IE) && (x->cmd & CMD_INTE);

    pci_set_intx(&x->pci, up && !pci_msix_enabled(&x->pci) && !pci_msi_enabled(&x->pci));
}

/* A message takes the pending bit along (4.17.5); the pin stays until the guest clears it. */
static void interrupt(struct xhci *x, unsigned n)
{
    struct xhci_intr *i = &x->intr[n];
    bool msix = pci_msix_enabled(&x->pci);

    if ((i->iman & (IMAN_IP | IMAN_IE)) == (IMAN_IP | IMAN_IE) && (x->cmd & CMD_INTE) &&
        (msix || pci_msi_enabled(&x->pci))) {
        i->iman &= ~(uint32_t)IMAN_IP;
        if (msix)
            pci_msix_notify(&x->pci, n);
        else
            pci_msi_notify(&x->pci, n);
    }
    update_intx(x);
}

void xhci_die(struct xhci *x, uint32_t sts, const char *why)
{
    log_guest("xhci: %s; the controller halts", why);
    x->sts |= sts | STS_HCH;
    x->cmd &= ~(uint32_t)CMD_RS;
    x->crr = false;
}

/* ---- event rings ---- */

static bool ring_open(struct xhci *x, struct xhci_intr *i)
{
    uint8_t e[16];

    if (i->ready)
        return true;
    if (!i->erstsz)
        return false;
    if (pci_dma_read(&x->pci, i->erstba, e, sizeof e) != MEM_OK) {
        xhci_die(x, STS_HSE, "an event ring segment table lies outside memory");
        return false;
    }
    i->base = get_le64(e) & ~UINT64_C(63);
    i->size = get_le32(e + 8) & 0xffff;
    if (i->size < RING_MIN || i->size > RING_MAX) {
        xhci_die(x, STS_HCE, "an event ring segment has a size that cannot be");
        return false;
    }
    i->next = 0;
    i->pcs = i->ready = true;
    return true;
}

unsigned xhci_event_room(struct xhci *x, unsigned n)
{
    struct xhci_intr *i = &x->intr[n < x->intrs ? n : 0];
    uint64_t at;

    if (!xhci_running(x) || !ring_open(x, i))
        return 0;
    at = ((i->erdp & ~UINT64_C(15)) - i->base) / XHCI_TRB;
    if (at >= i->size) {
        xhci_die(x, STS_HCE, "an event ring dequeue pointer is not in its ring");
        return 0;
    }
    return i->size - 1 - (i->next + i->size - (unsigned)at) % i->size;
}

/* Its last word, with the cycle bit, becomes visible after the others. */
static void ring_put(struct xhci *x, struct xhci_intr *i, uint64_t param, uint32_t status, uint32_t control)
{
    gpa_t at = i->base + (uint64_t)i->next * XHCI_TRB;
    uint8_t e[12];

    put_le64(e, param);
    put_le32(e + 8, status);
    pci_dma_write(&x->pci, at, e, sizeof e);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    mem_store(x->pci.dma, at + 12, 4, (control & ~(uint32_t)TRB_C) | i->pcs);
    if (++i->next == i->size) {
        i->next = 0;
        i->pcs = !i->pcs;
    }
}

void xhci_event(struct xhci *x, unsigned n, uint64_t param, uint32_t status, uint32_t control, bool silent)
{
    unsigned room = xhci_event_room(x, n);
    struct xhci_intr *i;

    n = n < x->intrs ? n : 0;
    i = &x->intr[n];
    if (!room) {
        log_guest("xhci: an event of type %u is lost, its ring is full", control >> 10 & 63);
        return;
    }
    if (room == 1) { /* 4.9.4: the last one says so */
        param = 0;
        status = (uint32_t)CC_RING_FULL << 24;
        control = TRB_EV_CONTROLLER << 10;
    }
    ring_put(x, i, param, status, control);
    if (silent || (i->erdp & ERDP_EHB))
        return;
    i->erdp |= ERDP_EHB;
    i->iman |= IMAN_IP;
    x->sts |= STS_EINT;
    interrupt(x, n);
}

bool xhci_read_trb(struct xhci *x, gpa_t at, struct xhci_trb *t)
{
    uint8_t b[XHCI_TRB];

    if (pci_dma_read(&x->pci, at, b, sizeof b) != MEM_OK) {
        xhci_die(x, STS_HSE, "a ring leaves memory");
        return false;
    }
    *t = (struct xhci_trb){.at = at, .param = get_le64(b), .status = get_le32(b + 8), .control = get_le32(b + 12)};
    return true;
}

/* ---- work ---- */

static void later(struct xhci *x, int64_t ns)
{
    clk_timer_set(&x->timer, clk_now(dev_vclk(&x->pci.dev)) + ns);
}

static void send_port_events(struct xhci *x)
{
    for (unsigned i = 0; x->port_events && i < xhci_root_ports(x); i++) {
        if (!(x->port_events >> i & 1))
            continue;
        if (xhci_event_room(x, 0) < 2)
            return;
        x->port_events &= ~(1u << i);
        xhci_event(x, 0, (uint64_t)(i + 1) << 24, (uint32_t)CC_SUCCESS << 24, TRB_EV_PORT << 10, false);
    }
}

static bool run_slot(struct xhci *x, unsigned id)
{
    struct xhci_slot *s = &x->slot[id];
    bool more = false;

    for (unsigned dci = 1; dci < XHCI_EPS && s->kick; dci++)
        if (s->kick >> dci & 1) {
            enum xhci_how how = xhci_run_ep(x, id, dci);

            if (how == XHCI_IDLE)
                s->kick &= ~(1u << dci);
            more |= how == XHCI_MORE;
        }
    return more;
}

void xhci_work(struct xhci *x)
{
    bool more = false;

    if (x->busy || !xhci_running(x))
        return;
    x->busy = true;
    send_port_events(x);
    if (x->cmd_kick) {
        enum xhci_how how = xhci_run_commands(x);

        x->cmd_kick = how != XHCI_IDLE;
        more = how == XHCI_MORE;
    }
    for (unsigned i = 1; i <= x->slots; i++)
        if (x->slot[i].kick && x->slot[i].state != SLOT_OFF)
            more |= run_slot(x, i);
    x->busy = false;
    if (more)
        later(x, RETRY_NS);
}

static void timer_fires(void *opaque)
{
    xhci_work(opaque);
}

/* ---- ports ---- */

static unsigned root_of(const struct xhci *x, const struct usb_dev *d)
{
    return d->speed == USB_SUPER ? d->nr : x->p3 + d->nr;
}

struct usb_dev *xhci_root_dev(const struct xhci *x, unsigned root)
{
    bool usb3 = root < x->p3;
    struct usb_dev *d = x->bus.port[usb3 ? root : root - x->p3];

    return d && (d->speed == USB_SUPER) == usb3 ? d : NULL;
}

static unsigned pls(const struct xhci *x, unsigned root)
{
    return (x->portsc[root] & PORT_PLS) >> 5;
}

bool xhci_port_enabled(const struct xhci *x, unsigned root)
{
    return (x->portsc[root] & PORT_PED) && pls(x, root) == PLS_U0;
}

struct usb_dev *xhci_slot_dev(struct xhci *x, unsigned id, bool *suspended)
{
    const struct xhci_slot *s = &x->slot[id];
    struct usb_dev *d = s->port < x->bus.nr_ports ? x->bus.port[s->port] : NULL;

    if (!d || d->addr != (s->state >= SLOT_ADDRESSED ? id : 0) || !(x->portsc[root_of(x, d)] & PORT_PED))
        return NULL;
    *suspended = pls(x, root_of(x, d)) != PLS_U0;
    return *suspended ? NULL : d;
}

static void set_pls(struct xhci *x, unsigned root, unsigned state)
{
    x->portsc[root] = (x->portsc[root] & ~(uint32_t)PORT_PLS) | state << 5;
}

/* 4.19.2: an event when the first of the change bits comes up. */
static void port_change(struct xhci *x, unsigned root, uint32_t bits)
{
    bool had = x->portsc[root] & PORT_W1C;

    x->portsc[root] |= bits;
    if (had)
        return;
    x->sts |= STS_PCD;
    x->port_events |= 1u << root;
    if (!x->busy)
        send_port_events(x);
}

/* What a port shows when its connector holds what it holds now; no change bits. */
static void port_settle(struct xhci *x, unsigned root)
{
    static const uint8_t speeds[] = {[USB_LOW] = 2, [USB_FULL] = 1, [USB_HIGH] = 3, [USB_SUPER] = 4};
    struct usb_dev *d = xhci_root_dev(x, root);

    x->portsc[root] = (x->portsc[root] & (PORT_W1C | PORT_RW)) | PORT_PP;
    set_pls(x, root, !d ? PLS_RXDETECT : d->speed == USB_SUPER ? PLS_U0 : PLS_POLLING);
    if (d)
        x->portsc[root] |= PORT_CCS | (uint32_t)speeds[d->speed] << 10 | (d->speed == USB_SUPER ? PORT_PED : 0);
}

static void port_changed(void *opaque, unsigned n)
{
    struct xhci *x = opaque;
    unsigned roots[2] = {n, x->p3 + n};

    for (unsigned i = 0; i < 2; i++) {
        unsigned root = roots[i];
        bool was;

        if (i ? n >= x->p2 : n >= x->p3)
            continue;
        was = x->portsc[root] & PORT_CCS;
        if (!was && !xhci_root_dev(x, root))
            continue;
        port_settle(x, root);
        port_change(x, root, PORT_CSC);
    }
    if (x->port_events)
        later(x, 0);
}

static void kick_port(struct xhci *x, unsigned n)
{
    for (unsigned i = 1; i <= x->slots; i++)
        for (unsigned dci = 1; x->slot[i].state >= SLOT_DEFAULT && x->slot[i].port == n && dci < XHCI_EPS; dci++)
            if (x->slot[i].ep[dci].state == EP_RUNNING)
                x->slot[i].kick |= 1u << dci;
}

static void wakeup(void *opaque, struct usb_dev *d, unsigned ep)
{
    struct xhci *x = opaque;
    unsigned root = root_of(x, d);

    if ((x->portsc[root] & PORT_PED) && pls(x, root) == PLS_U3 && d->remote_wakeup) {
        set_pls(x, root, PLS_RESUME);
        port_change(x, root, PORT_PLC);
    }
    for (unsigned i = 1; i <= x->slots; i++)
        for (unsigned dci = 2 * ep; dci < 2 * ep + 2 && dci < XHCI_EPS; dci++)
            if (x->slot[i].state >= SLOT_ADDRESSED && x->slot[i].port == d->nr &&
                x->slot[i].ep[dci].state == EP_RUNNING)
                x->slot[i].kick |= 1u << dci;
    later(x, 0);
}

static void port_reset(struct xhci *x, unsigned root, bool warm)
{
    struct usb_dev *d = xhci_root_dev(x, root);

    if (!d)
        return;
    usb_bus_reset_port(&x->bus, d->nr);
    set_pls(x, root, PLS_U0);
    x->portsc[root] |= PORT_PED;
    port_change(x, root, PORT_PRC | (warm ? PORT_WRC : 0));
}

static void link_state_write(struct xhci *x, unsigned root, unsigned want)
{
    unsigned now = pls(x, root);
    struct usb_dev *d = xhci_root_dev(x, root);

    if (!d || !(x->portsc[root] & PORT_PED) || want == now)
        return;
    switch (want) {
    case PLS_U0:
        set_pls(x, root, PLS_U0);
        port_change(x, root, PORT_PLC);
        kick_port(x, d->nr);
        break;
    case PLS_U3:
        if (now == PLS_U0)
            set_pls(x, root, PLS_U3);
        break;
    case PLS_RESUME:
        if (now == PLS_U3)
            set_pls(x, root, PLS_RESUME);
        break;
    default:
        break;
    }
}

static void portsc_write(struct xhci *x, unsigned root, uint32_t v)
{
    bool usb3 = root < x->p3;

    x->portsc[root] &= ~(v & PORT_W1C);
    if (usb3 && (v & PORT_WPR)) {
        port_reset(x, root, true);
        return;
    }
    if (v & PORT_PR) {
        port_reset(x, root, false);
        return;
    }
    if ((v & PORT_PED) && (x->portsc[root] & PORT_PED)) { /* writing 1 disables */
        x->portsc[root] &= ~(uint32_t)PORT_PED;
        set_pls(x, root, usb3 ? 4 : PLS_POLLING);
    }
    if (v & PORT_LWS)
        link_state_write(x, root, (v & PORT_PLS) >> 5);
    x->portsc[root] = (x->portsc[root] & ~(uint32_t)PORT_RW) | (v & PORT_RW);
}

/* ---- registers: reading ---- */

static uint32_t protocol_read(const struct xhci *x, unsigned off)
{
    bool usb3 = off >= 0x10;

    switch (off & 12) {
    case 0: /* Supported Protocol, the next capability, revision */
        return 2 | (usb3 ? 0 : 4 << 8) | (usb3 ? 0x03000000u : 0x02000000u);
    case 4:
        return 0x20425355; /* "USB " */
    case 8:
        return usb3 ? 1 | x->p3 << 8 : (x->p3 + 1) | x->p2 << 8;
    default:
        return 0;
    }
}

static uint32_t cap_read(const struct xhci *x, unsigned off)
{
    switch (off) {
    case CAPLENGTH:
        return CAP_LEN | HCIVERSION << 16;
    case HCSPARAMS1:
        return x->slots | x->intrs << 8 | xhci_root_ports(x) << 24;
    case HCSPARAMS2:
        return IST;
    case HCCPARAMS1:
        return AC64 | (XECP / 4) << 16;
    case DBOFF:
        return DOORBELLS;
    case RTSOFF:
        return RUNTIME;
    default:
        return off >= XECP ? protocol_read(x, off - XECP) : 0;
    }
}

static uint32_t oper_read(const struct xhci *x, unsigned off)
{
    switch (off) {
    case USBCMD:
        return x->cmd;
    case USBSTS:
        return x->sts;
    case PAGESIZE:
        return 1;
    case DNCTRL:
        return x->dnctrl;
    case CRCR:
        return x->crr ? CRCR_CRR : 0;
    case DCBAAP:
        return (uint32_t)x->dcbaap;
    case DCBAAP + 4:
        return x->dcbaap >> 32;
    case CONFIG:
        return x->config;
    default:
        return 0;
    }
}

static uint32_t runtime_read(struct xhci *x, unsigned off)
{
    const struct xhci_intr *i = &x->intr[(off - IR) / 32 % XHCI_INTRS];

    if (off == RUNTIME)
        return x->cmd & CMD_RS ? (uint32_t)((clk_now(dev_vclk(&x->pci.dev)) - x->mfindex_at) / MFINDEX_NS) & 0x3fff : 0;
    if (off < IR || (off - IR) / 32 >= x->intrs)
        return 0;
    switch ((off - IR) % 32) {
    case IMAN:
        return i->iman;
    case IMOD:
        return i->imod;
    case ERSTSZ:
        return i->erstsz;
    case ERSTBA:
        return (uint32_t)i->erstba;
    case ERSTBA + 4:
        return i->erstba >> 32;
    case ERDP:
        return (uint32_t)i->erdp;
    case ERDP + 4:
        return i->erdp >> 32;
    default:
        return 0;
    }
}

static uint64_t regs_read(void *opaque, gpa_t off, unsigned size)
{
    struct xhci *x = opaque;
    unsigned o = (unsigned)off;

    if (o < OPER)
        return cap_read(x, o);
    if (o < PORTS)
        return oper_read(x, o - OPER);
    if (o < PORTS + 16 * xhci_root_ports(x))
        return o % 16 ? 0 : x->portsc[(o - PORTS) / 16];
    return o >= RUNTIME && o < DOORBELLS ? runtime_read(x, o) : 0;
}

/* ---- registers: writing ---- */

static void controller_reset(struct xhci *x)
{
    clk_timer_cancel(&x->timer);
    x->cmd = x->dnctrl = x->config = 0;
    x->sts = STS_HCH;
    x->dcbaap = x->crp = 0;
    x->ccs = x->crr = x->skip_hi = x->cmd_kick = false;
    x->mfindex_at = 0;
    memset(x->intr, 0, sizeof x->intr);
    memset(x->slot, 0, sizeof x->slot);
    for (unsigned i = 0; i < x->intrs; i++)
        x->intr[i].imod = IMOD_DEFAULT;
    for (unsigned i = 0; i < x->bus.nr_ports; i++)
        usb_bus_reset_port(&x->bus, i);
    x->port_events = 0;
    for (unsigned i = 0; i < xhci_root_ports(x); i++) {
        x->portsc[i] = 0;
        port_settle(x, i);
        if (xhci_root_dev(x, i))
            port_change(x, i, PORT_CSC);
    }
    x->sts = STS_HCH;
    update_intx(x);
}

static void cmd_write(struct xhci *x, uint32_t v)
{
    if (v & CMD_HCRST) {
        controller_reset(x);
        return;
    }
    if ((v & CMD_RS) && !(x->cmd & CMD_RS)) {
        x->sts &= ~(uint32_t)STS_HCH;
        x->mfindex_at = clk_now(dev_vclk(&x->pci.dev));
    } else if (!(v & CMD_RS) && (x->cmd & CMD_RS)) {
        x->sts |= STS_HCH;
        x->crr = false;
    }
    if (v & CMD_CRS) /* nothing was kept: the guest is to set everything up again */
        x->sts |= STS_SRE;
    x->cmd = v & (CMD_RS | CMD_INTE | CMD_HSEE | CMD_EWE);
    for (unsigned i = 0; i < x->intrs; i++)
        interrupt(x, i);
    xhci_work(x);
}

static void set_half(uint64_t *reg, bool high, uint32_t v)
{
    *reg = high ? (*reg & UINT32_MAX) | (uint64_t)v << 32 : (*reg & ~(uint64_t)UINT32_MAX) | v;
}

/* 5.4.5. The pointer is taken while the ring stands. A stop acts with the low half; the high half that belongs to it
 * is not a pointer. */
static void crcr_write(struct xhci *x, bool high, uint32_t v)
{
    if (high) {
        if (!x->crr && !x->skip_hi)
            set_half(&x->crp, true, v);
        x->skip_hi = false;
        return;
    }
    x->skip_hi = x->crr;
    if (!x->crr) {
        set_half(&x->crp, false, v & ~63u);
        x->ccs = v & CRCR_RCS;
    } else if (v & (CRCR_CS | CRCR_CA)) {
        x->crr = x->cmd_kick = false;
        xhci_event(x, 0, x->crp, (uint32_t)CC_RING_STOPPED << 24, TRB_EV_COMMAND << 10, false);
    }
}

static void oper_write(struct xhci *x, unsigned off, uint32_t v)
{
    switch (off) {
    case USBCMD:
        cmd_write(x, v);
        break;
    case USBSTS:
        x->sts &= ~(v & STS_W1C);
        break;
    case DNCTRL:
        x->dnctrl = v & 0xffff;
        break;
    case CRCR:
    case CRCR + 4:
        crcr_write(x, off == CRCR + 4, v);
        break;
    case DCBAAP:
        set_half(&x->dcbaap, false, v & ~63u);
        break;
    case DCBAAP + 4:
        set_half(&x->dcbaap, true, v);
        break;
    case CONFIG:
        x->config = v & 0xff;
        break;
    default:
        log_guest("xhci: write of %#x to operational register %#x", v, off);
        break;
    }
}

/* 5.5.2.3.3: the guest has taken events up to here; when there are more it is told again. */
static void erdp_write(struct xhci *x, unsigned n, uint32_t v)
{
    struct xhci_intr *i = &x->intr[n];
    uint32_t busy = (uint32_t)i->erdp & ERDP_EHB & ~v;

    set_half(&i->erdp, false, (v & ~15u) | (v & ERDP_DESI) | busy);
    if (!busy && i->ready && xhci_event_room(x, n) < i->size - 1 && xhci_running(x)) {
        i->erdp |= ERDP_EHB;
        i->iman |= IMAN_IP;
        x->sts |= STS_EINT;
        interrupt(x, n);
    }
    xhci_work(x);
}

static void runtime_write(struct xhci *x, unsigned off, uint32_t v)
{
    unsigned n = (off - IR) / 32;
    struct xhci_intr *i;

    if (off < IR || n >= x->intrs) {
        log_guest("xhci: write of %#x to runtime register %#x", v, off - RUNTIME);
        return;
    }
    i = &x->intr[n];
    switch ((off - IR) % 32) {
    case IMAN:
        i->iman = (i->iman & ~(v & IMAN_IP) & ~(uint32_t)IMAN_IE) | (v & IMAN_IE);
        interrupt(x, n);
        break;
    case IMOD:
        i->imod = v;
        break;
    case ERSTSZ:
        i->erstsz = v & 0xffff;
        i->ready &= i->erstsz != 0;
        break;
    case ERSTBA:
    case ERSTBA + 4:
        set_half(&i->erstba, (off - IR) % 32 != ERSTBA, (off - IR) % 32 == ERSTBA ? v & ~63u : v);
        i->ready = false;
        break;
    case ERDP:
        erdp_write(x, n, v);
        break;
    case ERDP + 4:
        set_half(&i->erdp, true, v);
        break;
    default:
        break;
    }
}

static void doorbell(struct xhci *x, unsigned id, uint32_t v)
{
    unsigned dci = v & 0xff;
    struct xhci_ep *ep;

    if (!xhci_running(x))
        return;
    if (!id) {
        if (dci)
            return;
        x->crr = x->cmd_kick = true;
        xhci_work(x);
        return;
    }
    if (id > x->slots || x->slot[id].state < SLOT_DEFAULT || !dci || dci >= XHCI_EPS) {
        log_guest("xhci: doorbell %u with %#x, which is not there", id, v);
        return;
    }
    ep = &x->slot[id].ep[dci];
    if (ep->state == EP_STOPPED) {
        ep->state = EP_RUNNING;
        xhci_ep_write(x, id, dci);
    }
    if (ep->state != EP_RUNNING)
        return;
    x->slot[id].kick |= 1u << dci;
    xhci_work(x);
}

static void regs_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct xhci *x = opaque;
    unsigned o = (unsigned)off;
    uint32_t v = (uint32_t)val;

    if (x->busy) {
        log_guest("xhci: its own DMA reaches its registers");
        return;
    }
    if (o >= DOORBELLS)
        doorbell(x, (o - DOORBELLS) / 4, v);
    else if (o >= RUNTIME)
        runtime_write(x, o, v);
    else if (o >= PORTS && o < PORTS + 16 * xhci_root_ports(x) && !(o % 16))
        portsc_write(x, (o - PORTS) / 16, v);
    else if (o >= OPER && o < PORTS)
        oper_write(x, o - OPER, v);
    else
        log_guest("xhci: write of %#x to register %#x", v, o);
}
static const struct mem_ops regs_ops = {
    .read = regs_read, .write = regs_write, .valid_min = 1, .valid_max = 8, .impl_min = 4, .impl_max = 4};

/* ---- life ---- */

static const struct bus_class xhci_bus_class = USB_BUS_CLASS(0);

static bool check_props(struct xhci *x, struct err **errp)
{
    const char *name = x->pci.dev.obj.cls->name;

    if (x->p2 > XHCI_PORTS2 || x->p3 > XHCI_PORTS2 || !(x->p2 + x->p3))
        return err_set(errp, "%s: p2=%u and p3=%u: ports of each kind are 0 to %d, and one at least", name, x->p2,
                       x->p3, XHCI_PORTS2);
    if (!x->intrs || x->intrs > XHCI_INTRS)
        return err_set(errp, "%s: intrs=%u is not 1 to %d", name, x->intrs, XHCI_INTRS);
    return (x->slots && x->slots <= XHCI_SLOTS) ||
           err_set(errp, "%s: slots=%u is not 1 to %d", name, x->slots, XHCI_SLOTS);
}

static bool add_pci_parts(struct xhci *x, struct err **errp)
{
    struct mem_sys *s = dev_machine(&x->pci.dev)->mem_sys;
    unsigned vectors = 1;

    put_le16(x->pci.config + 0x60, 0x2030); /* SBRN: USB 3.0; FLADJ: a frame of 60000 bit times */
    pci_set_pin(&x->pci, 1);
    mem_region_init(&x->bar, s, "xhci", BAR_SIZE);
    mem_region_init_io(&x->regs, s, &regs_ops, x, "xhci-registers", REGS_SIZE);
    mem_region_add(&x->bar, 0, &x->regs);
    pci_add_bar(&x->pci, 0, PCI_BAR_MEM64, &x->bar);
    while (2 * vectors <= x->intrs)
        vectors *= 2;
    if (pci_dev_bus(&x->pci)->express)
        pcie_add_exp_cap(&x->pci, pci_dev_bus(&x->pci)->parent ? 0 : 9);
    return (x->msi == OOA_OFF || pci_add_msi(&x->pci, vectors, errp)) &&
           (x->msix == OOA_OFF || pci_add_msix(&x->pci, x->intrs, 0, MSIX_TABLE_AT, MSIX_PBA_AT, errp));
}

static bool xhci_realize(struct dev *d, struct err **errp)
{
    struct xhci *x = xhci_of(d);
    unsigned connectors = x->p2 > x->p3 ? x->p2 : x->p3;

    if (!check_props(x, errp) || !add_pci_parts(x, errp))
        return false;
    clk_timer_init(&x->timer, dev_vclk(d), timer_fires, x);
    x->bus_class = xhci_bus_class;
    x->bus_class.max_devs = connectors;
    x->bus.changed = port_changed;
    x->bus.wakeup = wakeup;
    x->bus.opaque = x;
    for (unsigned i = 0; i < connectors; i++)
        x->bus.speeds[i] = (uint8_t)((i < x->p2 ? 1u << USB_LOW | 1u << USB_FULL | 1u << USB_HIGH : 0) |
                                     (i < x->p3 ? 1u << USB_SUPER : 0));
    usb_bus_init(&x->bus, &x->bus_class, d, connectors);
    return true;
}

static void xhci_unrealize(struct dev *d)
{
    struct xhci *x = xhci_of(d);

    usb_bus_fini(&x->bus);
    clk_timer_cancel(&x->timer);
    mem_region_del(&x->regs);
    mem_region_free(&x->regs);
    mem_region_free(&x->bar);
    free(x->saved);
    x->saved = NULL;
}

static void xhci_reset(struct dev *d)
{
    controller_reset(xhci_of(d));
}

/* ---- saved state: slots and endpoints that are in use, as records of a slot with its endpoints behind it ---- */

enum { SLOT_REC = 16, EP_REC = 24, SAVED_MAX = XHCI_SLOTS * (SLOT_REC + XHCI_EPS * EP_REC) };

static void save_slot(const struct xhci_slot *s, unsigned id, struct strbuf *b)
{
    uint8_t r[EP_REC] = {(uint8_t)id, s->state, s->port};

    for (unsigned i = 1; i < XHCI_EPS; i++)
        r[3] = (uint8_t)(r[3] + (s->ep[i].state != EP_OFF));
    put_le32(r + 4, s->kick);
    put_le64(r + 8, s->ctx);
    str_addn(b, (const char *)r, SLOT_REC);
    for (unsigned i = 1; i < XHCI_EPS; i++) {
        const struct xhci_ep *e = &s->ep[i];

        if (e->state == EP_OFF)
            continue;
        r[0] = (uint8_t)i;
        r[1] = e->state;
        r[2] = e->type;
        r[3] = (uint8_t)(e->ccs | e->asleep << 1);
        put_le32(r + 4, e->done);
        put_le64(r + 8, e->deq);
        put_le16(r + 16, e->told);
        put_le16(r + 18, e->mps);
        put_le32(r + 20, 0);
        str_addn(b, (const char *)r, EP_REC);
    }
}

static bool xhci_pre_save(void *opaque, struct err **errp)
{
    struct xhci *x = opaque;
    struct strbuf b = {0};

    for (unsigned i = 1; i <= x->slots; i++)
        if (x->slot[i].state != SLOT_OFF)
            save_slot(&x->slot[i], i, &b);
    free(x->saved);
    x->saved_len = (uint32_t)b.len;
    x->saved = (uint8_t *)str_take(&b);
    return true;
}

static bool load_ep(struct xhci_slot *s, const uint8_t *r)
{
    struct xhci_ep *e = &s->ep[r[0] % XHCI_EPS];

    if (!r[0] || r[0] >= XHCI_EPS || !r[1] || r[1] > EP_ERROR || !r[2] || r[2] > EP_INT_IN ||
        (r[2] == EP_CONTROL) != (r[0] == 1))
        return false;
    e->state = r[1];
    e->type = r[2];
    e->ccs = r[3] & 1;
    e->asleep = r[3] >> 1 & 1;
    e->done = get_le32(r + 4);
    e->deq = get_le64(r + 8) & ~UINT64_C(15);
    e->told = get_le16(r + 16);
    e->mps = get_le16(r + 18);
    return e->mps && e->mps <= 1024;
}

static bool load_slots(struct xhci *x)
{
    const uint8_t *p = x->saved, *end = p + x->saved_len;

    memset(x->slot, 0, sizeof x->slot);
    while (p && p != end) {
        struct xhci_slot *s;
        unsigned eps;

        if (end - p < SLOT_REC || !p[0] || p[0] > x->slots || !p[1] || p[1] > SLOT_CONFIGURED ||
            p[2] >= x->bus.nr_ports)
            return false;
        s = &x->slot[p[0]];
        s->state = p[1];
        s->port = p[2];
        eps = p[3];
        s->kick = get_le32(p + 4) & ~1u;
        s->ctx = get_le64(p + 8) & ~UINT64_C(63);
        for (p += SLOT_REC; eps--; p += EP_REC)
            if (end - p < EP_REC || !load_ep(s, p))
                return false;
    }
    return true;
}

static bool xhci_post_load(void *opaque, struct err **errp)
{
    struct xhci *x = opaque;
    bool ok = load_slots(x) && state_time_ok(x->mfindex_at);

    free(x->saved);
    x->saved = NULL;
    x->saved_len = 0;
    for (unsigned i = 0; i < XHCI_INTRS; i++)
        ok &= !x->intr[i].ready ||
              (x->intr[i].size >= RING_MIN && x->intr[i].size <= RING_MAX && x->intr[i].next < x->intr[i].size);
    x->port_events &= (uint32_t)((UINT64_C(1) << xhci_root_ports(x)) - 1);
    return ok;
}

static const struct state_field intr_fields[] = {STATE_U32(struct xhci_intr, iman),
                                                 STATE_U32(struct xhci_intr, imod),
                                                 STATE_U32(struct xhci_intr, erstsz),
                                                 STATE_U64(struct xhci_intr, erstba),
                                                 STATE_U64(struct xhci_intr, erdp),
                                                 STATE_BOOL(struct xhci_intr, ready),
                                                 STATE_BOOL(struct xhci_intr, pcs),
                                                 STATE_U64(struct xhci_intr, base),
                                                 STATE_U32(struct xhci_intr, size),
                                                 STATE_U32(struct xhci_intr, next),
                                                 STATE_END};
static const struct state_desc intr_state = {.name = "xhci-interrupter", .version = 1, .fields = intr_fields};
static const struct state_field xhci_fields[] = {STATE_STRUCT(struct xhci, pci, pci_dev_state),
                                                 STATE_TIMER(struct xhci, timer),
                                                 STATE_U32(struct xhci, cmd),
                                                 STATE_U32(struct xhci, sts),
                                                 STATE_U32(struct xhci, dnctrl),
                                                 STATE_U32(struct xhci, config),
                                                 STATE_U64(struct xhci, dcbaap),
                                                 STATE_U64(struct xhci, crp),
                                                 STATE_BOOL(struct xhci, ccs),
                                                 STATE_BOOL(struct xhci, crr),
                                                 STATE_BOOL(struct xhci, skip_hi),
                                                 STATE_BOOL(struct xhci, cmd_kick),
                                                 STATE_I64(struct xhci, mfindex_at),
                                                 STATE_ARRAY(struct xhci, portsc),
                                                 STATE_U32(struct xhci, port_events),
                                                 STATE_STRUCTS(struct xhci, intr, intr_state),
                                                 STATE_ALLOC(struct xhci, saved, saved_len, SAVED_MAX),
                                                 STATE_END};
static const struct state_desc xhci_state = {
    .name = "xhci", .version = 1, .fields = xhci_fields, .pre_save = xhci_pre_save, .post_load = xhci_post_load};

#define XHCI_PROPS(msi_)                                                                                               \
    PROP("p2", u32, struct xhci, p2, .dflt = "4", .help = "USB 2 ports, 0 to 15"),                                     \
        PROP("p3", u32, struct xhci, p3, .dflt = "4", .help = "USB 3 ports, 0 to 15"),                                 \
        PROP("intrs", u32, struct xhci, intrs, .dflt = "16", .help = "interrupters, 1 to 16"),                         \
        PROP("slots", u32, struct xhci, slots, .dflt = "64", .help = "device slots, 1 to 64"),                         \
        PROP("msi", onoffauto, struct xhci, msi, .dflt = (msi_)),                                                      \
        PROP("msix", onoffauto, struct xhci, msix, .dflt = "auto")
static const struct prop qemu_props[] = {XHCI_PROPS("off"), PROP_END}, nec_props[] = {XHCI_PROPS("auto"), PROP_END};
static const char *const qemu_aliases[] = {"usb-xhci", NULL};

#define XHCI_CLASS(what, id, text, names, vendor, device, rev)                                                         \
    static const struct pci_class what##_class = {.name = id,                                                          \
                                                  .parent = "pci-device",                                              \
                                                  .desc = text,                                                        \
                                                  .aliases = names,                                                    \
                                                  .size = sizeof(struct xhci),                                         \
                                                  .props = what##_props,                                               \
                                                  .more_props = pci_props,                                             \
                                                  .bus_type = "PCI",                                                   \
                                                  .category = DEV_CAT_USB,                                             \
                                                  .hotplug = true,                                                     \
                                                  .realize = xhci_realize,                                             \
                                                  .unrealize = xhci_unrealize,                                         \
                                                  .reset = xhci_reset,                                                 \
                                                  .state_desc = &xhci_state,                                           \
                                                  .vendor_id = vendor,                                                 \
                                                  .device_id = device,                                                 \
                                                  .revision = rev,                                                     \
                                                  .prog_if = 0x30,                                                     \
                                                  .class_id = 0x0c03,                                                  \
                                                  .is_express = true};                                                 \
    PCI_REGISTER(what##_class)
XHCI_CLASS(qemu, "qemu-xhci", "USB 3 controller (xHCI)", qemu_aliases, 0x1b36, 0x000d, 1)
XHCI_CLASS(nec, "nec-usb-xhci", "USB 3 controller (xHCI, NEC uPD720200)", NULL, 0x1033, 0x0194, 3)
