/* xHCI command ring (4.6): slots, device contexts, endpoints.
 *
 * Commands are carried out at once, in order. What a command needs of an input context is read and checked as a whole
 * before anything changes. Output contexts are written for the guest to see and never read back: the guest owns that
 * memory. Not there: streams, hubs (route strings), virtual functions, bandwidth reports, isochronous endpoints. */
#include "hw/usb/xhci_int.h"

enum { COMMANDS = 256 };

static void put32(struct xhci *x, gpa_t at, uint32_t v)
{
    uint8_t b[4];

    put_le32(b, v);
    pci_dma_write(&x->pci, at, b, sizeof b);
}
static uint32_t get32(struct xhci *x, gpa_t at)
{
    uint8_t b[4] = {0};

    pci_dma_read(&x->pci, at, b, sizeof b);
    return get_le32(b);
}

void xhci_ep_write(struct xhci *x, unsigned id, unsigned dci)
{
    const struct xhci_ep *ep = &x->slot[id].ep[dci];
    gpa_t at = x->slot[id].ctx + XHCI_CTX * dci;

    put32(x, at, (get32(x, at) & ~7u) | ep->state);
    put32(x, at + 8, (uint32_t)ep->deq | ep->ccs);
    put32(x, at + 12, (uint32_t)(ep->deq >> 32));
}

/* Slot state and address into the slot context, and how many contexts count. */
static void slot_write(struct xhci *x, unsigned id)
{
    const struct xhci_slot *s = &x->slot[id];
    unsigned last = 1, state = s->state < SLOT_DEFAULT ? 0 : s->state - SLOT_DEFAULT + 1u;

    for (unsigned i = 1; i < XHCI_EPS; i++)
        if (s->ep[i].state != EP_OFF)
            last = i;
    put32(x, s->ctx, (get32(x, s->ctx) & 0x07ffffff) | last << 27);
    put32(x, s->ctx + 12, state << 27 | (s->state >= SLOT_ADDRESSED ? id : 0));
}

/* ---- endpoints ---- */

/* An endpoint context (6.2.3) as it may be; CC_SUCCESS, or what is wrong. */
static enum xhci_code ep_check(const uint8_t *c, unsigned dci)
{
    uint32_t dw0 = get_le32(c), dw1 = get_le32(c + 4);
    unsigned type = dw1 >> 3 & 7, mps = dw1 >> 16;
    bool in = dci & 1;

    if (!mps || mps > 1024 || (dw0 >> 10 & 31)) /* streams */
        return CC_PARAMETER;
    if (dci == 1)
        return type == EP_CONTROL ? CC_SUCCESS : CC_PARAMETER;
    if (!type || type == EP_CONTROL || (type > EP_CONTROL) != in)
        return CC_PARAMETER;
    return type == EP_ISOCH_IN || type == EP_ISOCH_OUT ? CC_BANDWIDTH : CC_SUCCESS;
}

static void ep_start(struct xhci *x, unsigned id, unsigned dci, const uint8_t *c)
{
    struct xhci_slot *s = &x->slot[id];
    struct xhci_ep *ep = &s->ep[dci];
    uint8_t out[20];

    memset(ep, 0, sizeof *ep);
    ep->type = get_le32(c + 4) >> 3 & 7;
    ep->mps = get_le16(c + 6);
    ep->deq = get_le64(c + 8) & ~UINT64_C(15);
    ep->ccs = c[8] & 1;
    ep->state = EP_RUNNING;
    s->kick &= ~(1u << dci);
    memcpy(out, c, sizeof out);
    pci_dma_write(&x->pci, s->ctx + XHCI_CTX * dci, out, sizeof out);
    xhci_ep_write(x, id, dci);
}

static void ep_off(struct xhci *x, unsigned id, unsigned dci)
{
    struct xhci_slot *s = &x->slot[id];

    if (s->ep[dci].state == EP_OFF)
        return;
    memset(&s->ep[dci], 0, sizeof s->ep[dci]);
    s->kick &= ~(1u << dci);
    put32(x, s->ctx + XHCI_CTX * dci, get32(x, s->ctx + XHCI_CTX * dci) & ~7u);
}

static enum xhci_code reset_endpoint(struct xhci *x, unsigned id, unsigned dci)
{
    struct xhci_ep *ep = &x->slot[id].ep[dci];

    if (ep->state != EP_HALTED)
        return CC_CONTEXT_STATE;
    ep->state = EP_STOPPED;
    xhci_ep_write(x, id, dci);
    return CC_SUCCESS;
}

static enum xhci_code stop_endpoint(struct xhci *x, unsigned id, unsigned dci)
{
    struct xhci_ep *ep = &x->slot[id].ep[dci];

    if (ep->state != EP_RUNNING)
        return CC_CONTEXT_STATE;
    xhci_ep_stopped(x, id, dci);
    ep->asleep = false;
    ep->state = EP_STOPPED;
    x->slot[id].kick &= ~(1u << dci);
    xhci_ep_write(x, id, dci);
    return CC_SUCCESS;
}

static enum xhci_code set_dequeue(struct xhci *x, unsigned id, unsigned dci, const struct xhci_trb *t)
{
    struct xhci_ep *ep = &x->slot[id].ep[dci];

    if (ep->state != EP_STOPPED && ep->state != EP_ERROR)
        return CC_CONTEXT_STATE;
    if ((t->param & 0xe) || t->status >> 16) /* a stream */
        return CC_TRB;
    ep->deq = t->param & ~UINT64_C(15);
    ep->ccs = t->param & 1;
    ep->done = ep->told = 0;
    ep->state = EP_STOPPED;
    xhci_ep_write(x, id, dci);
    return CC_SUCCESS;
}

static enum xhci_code ep_command(struct xhci *x, unsigned id, const struct xhci_trb *t)
{
    unsigned dci = t->control >> 16 & 31;

    if (!dci)
        return CC_TRB;
    if (x->slot[id].ep[dci].state == EP_OFF)
        return CC_ENDPOINT_OFF;
    switch (trb_type(t)) {
    case TRB_RESET_ENDPOINT:
        return reset_endpoint(x, id, dci);
    case TRB_STOP_ENDPOINT:
        return stop_endpoint(x, id, dci);
    default:
        return set_dequeue(x, id, dci, t);
    }
}

/* ---- slots ---- */

static unsigned enable_slot(struct xhci *x)
{
    for (unsigned i = 1; i <= x->slots && i <= (x->config & 0xff); i++)
        if (x->slot[i].state == SLOT_OFF) {
            memset(&x->slot[i], 0, sizeof x->slot[i]);
            x->slot[i].state = SLOT_ENABLED;
            return i;
        }
    return 0;
}

static enum xhci_code disable_slot(struct xhci *x, unsigned id)
{
    struct xhci_slot *s = &x->slot[id];

    if (s->ctx) {
        for (unsigned i = 1; i < XHCI_EPS; i++)
            ep_off(x, id, i);
        put32(x, s->ctx + 12, 0);
    }
    memset(s, 0, sizeof *s);
    return CC_SUCCESS;
}

/* The output context of a slot, from the array that the guest keeps. */
static bool find_context(struct xhci *x, unsigned id, gpa_t *ctx)
{
    uint8_t b[8];

    if (pci_dma_read(&x->pci, x->dcbaap + 8 * id, b, sizeof b) != MEM_OK)
        return false;
    *ctx = get_le64(b) & ~UINT64_C(63);
    return *ctx != 0;
}

static enum xhci_code address_device(struct xhci *x, unsigned id, const struct xhci_trb *t)
{
    struct xhci_slot *s = &x->slot[id];
    uint8_t in[3 * XHCI_CTX], setup[8] = {0, 5, (uint8_t)id}, none = 0;
    const uint8_t *sc = in + XHCI_CTX, *ec = in + 2 * XHCI_CTX;
    bool bsr = t->control & TRB_BSR;
    struct usb_dev *d;
    unsigned root;
    gpa_t ctx;

    if (s->state > SLOT_DEFAULT || (bsr && s->state == SLOT_DEFAULT))
        return CC_CONTEXT_STATE;
    if (pci_dma_read(&x->pci, t->param & ~UINT64_C(15), in, sizeof in) != MEM_OK || !find_context(x, id, &ctx))
        return CC_PARAMETER;
    root = sc[6];
    if (get_le32(in) || (get_le32(in + 4) & 3) != 3 || !root || root > xhci_root_ports(x) || (get_le32(sc) & 0xfffff) ||
        ep_check(ec, 1) != CC_SUCCESS)
        return CC_PARAMETER;
    d = xhci_root_dev(x, root - 1);
    if (!d || !xhci_port_enabled(x, root - 1) || (!bsr && usb_control(d, setup, &none, 0) < 0))
        return CC_TRANSACTION;
    s->ctx = ctx;
    s->port = (uint8_t)d->nr;
    s->state = bsr ? SLOT_DEFAULT : SLOT_ADDRESSED;
    pci_dma_write(&x->pci, ctx, sc, XHCI_CTX);
    ep_start(x, id, 1, ec);
    slot_write(x, id);
    return CC_SUCCESS;
}

static enum xhci_code configure_endpoint(struct xhci *x, unsigned id, const struct xhci_trb *t)
{
    struct xhci_slot *s = &x->slot[id];
    uint8_t in[(1 + XHCI_EPS) * XHCI_CTX];
    uint32_t drop = ~3u, add = 0;
    bool any = false;

    if (s->state < SLOT_ADDRESSED || ((t->control & TRB_BSR) && s->state != SLOT_CONFIGURED))
        return CC_CONTEXT_STATE;
    if (!(t->control & TRB_BSR)) {
        if (pci_dma_read(&x->pci, t->param & ~UINT64_C(15), in, sizeof in) != MEM_OK)
            return CC_PARAMETER;
        drop = get_le32(in);
        add = get_le32(in + 4);
        if ((drop & 3) || (add & 3) != 1)
            return CC_PARAMETER;
    }
    for (unsigned i = 2; i < XHCI_EPS; i++) {
        enum xhci_code c = add >> i & 1 ? ep_check(in + (1 + i) * XHCI_CTX, i) : CC_SUCCESS;

        if (c != CC_SUCCESS)
            return c;
    }
    for (unsigned i = 2; i < XHCI_EPS; i++) {
        if ((drop | add) >> i & 1)
            ep_off(x, id, i);
        if (add >> i & 1)
            ep_start(x, id, i, in + (1 + i) * XHCI_CTX);
        any |= s->ep[i].state != EP_OFF;
    }
    s->state = any ? SLOT_CONFIGURED : SLOT_ADDRESSED;
    slot_write(x, id);
    return CC_SUCCESS;
}

static enum xhci_code evaluate_context(struct xhci *x, unsigned id, const struct xhci_trb *t)
{
    struct xhci_slot *s = &x->slot[id];
    uint8_t in[3 * XHCI_CTX];
    uint32_t add;

    if (s->state < SLOT_DEFAULT)
        return CC_CONTEXT_STATE;
    if (pci_dma_read(&x->pci, t->param & ~UINT64_C(15), in, sizeof in) != MEM_OK)
        return CC_PARAMETER;
    add = get_le32(in + 4);
    if (get_le32(in) || ((add & 2) && (!get_le16(in + 2 * XHCI_CTX + 6) || get_le16(in + 2 * XHCI_CTX + 6) > 1024)))
        return CC_PARAMETER;
    if (add & 1) { /* maximum exit latency, interrupter */
        put32(x, s->ctx + 4, (get32(x, s->ctx + 4) & ~0xffffu) | get_le16(in + XHCI_CTX + 4));
        put32(x, s->ctx + 8, (get32(x, s->ctx + 8) & 0x3fffff) | (get_le32(in + XHCI_CTX + 8) & ~0x3fffffu));
    }
    if (add & 2) {
        s->ep[1].mps = get_le16(in + 2 * XHCI_CTX + 6);
        put32(x, s->ctx + XHCI_CTX + 4, (get32(x, s->ctx + XHCI_CTX + 4) & 0xffff) | (uint32_t)s->ep[1].mps << 16);
    }
    return CC_SUCCESS;
}

static enum xhci_code reset_device(struct xhci *x, unsigned id)
{
    struct xhci_slot *s = &x->slot[id];

    if (s->state < SLOT_ADDRESSED)
        return CC_CONTEXT_STATE;
    for (unsigned i = 2; i < XHCI_EPS; i++)
        ep_off(x, id, i);
    s->state = SLOT_DEFAULT;
    slot_write(x, id);
    return CC_SUCCESS;
}

/* ---- the ring ---- */

static enum xhci_code command(struct xhci *x, const struct xhci_trb *t, unsigned *id)
{
    unsigned type = trb_type(t);

    if (type == TRB_NOOP_COMMAND)
        return CC_SUCCESS;
    if (type == TRB_ENABLE_SLOT) {
        *id = enable_slot(x);
        return *id ? CC_SUCCESS : CC_NO_SLOTS;
    }
    if (type < TRB_DISABLE_SLOT || type > TRB_RESET_DEVICE)
        return CC_TRB;
    *id = t->control >> 24;
    if (!*id || *id > x->slots)
        return CC_TRB;
    if (x->slot[*id].state == SLOT_OFF)
        return CC_SLOT_OFF;
    switch (type) {
    case TRB_DISABLE_SLOT:
        return disable_slot(x, *id);
    case TRB_ADDRESS_DEVICE:
        return address_device(x, *id, t);
    case TRB_CONFIGURE_ENDPOINT:
        return configure_endpoint(x, *id, t);
    case TRB_EVALUATE_CONTEXT:
        return evaluate_context(x, *id, t);
    case TRB_RESET_DEVICE:
        return reset_device(x, *id);
    default:
        return ep_command(x, *id, t);
    }
}

enum xhci_how xhci_run_commands(struct xhci *x)
{
    unsigned links = 0;

    for (unsigned i = 0; i < COMMANDS; i++) {
        struct xhci_trb t;
        enum xhci_code code;
        unsigned id = 0;

        if (!xhci_running(x) || !x->crr || !xhci_read_trb(x, x->crp, &t) || (t.control & TRB_C) != x->ccs)
            return XHCI_IDLE;
        if (xhci_event_room(x, 0) < 3) /* Stop Endpoint has two events */
            return XHCI_BLOCKED;
        if (trb_type(&t) == TRB_LINK) {
            if (++links > XHCI_LINKS_MAX) {
                xhci_die(x, STS_HCE, "the command ring is links only");
                return XHCI_IDLE;
            }
            x->crp = t.param & ~UINT64_C(15);
            x->ccs ^= (t.control & TRB_TC) != 0;
            code = t.control & TRB_IOC ? CC_SUCCESS : CC_WAITS;
        } else {
            links = 0;
            x->crp += XHCI_TRB;
            code = command(x, &t, &id);
            if (code != CC_SUCCESS)
                log_guest("xhci: command %u for slot %u ends with code %u", trb_type(&t), id, code);
        }
        if (code != CC_WAITS)
            xhci_event(x, 0, t.at, (uint32_t)code << 24, id << 24 | TRB_EV_COMMAND << 10, false);
    }
    return XHCI_MORE;
}
