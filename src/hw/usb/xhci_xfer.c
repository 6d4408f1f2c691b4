/* xHCI transfer rings: Transfer Descriptors (4.11.2, 4.11.3), their events (4.10), Link and Event Data TRBs.
 *
 * A TD is read as a whole each time it is looked at; what stays between looks is how many of its bytes have moved and
 * how many of its TRBs have had their event. Nothing is kept of what the guest may have changed meanwhile. A TD that
 * the guest has not finished writing waits for the next doorbell. Bounds: TRBs of a TD, Link TRBs in a row, and packets
 * of one call, after which the timer goes on. Isochronous endpoints cannot be configured, so their TRBs are errors. */
#include "hw/usb/xhci_int.h"

enum { PACKETS = 1024, PACKET_MAX = 1024, LEN_MAX = 65536 };

static uint32_t data_len(const struct xhci_trb *t)
{
    unsigned type = trb_type(t);

    return type == TRB_NORMAL || type == TRB_DATA ? t->status & 0x1ffff : 0;
}

/* ---- reading a TD ---- */

enum gather { TD_NONE, TD_WHOLE, TD_BAD };

/* The TD at the dequeue pointer; BAD: longer than can be, the last TRB read is td.trb[nr - 1]. */
static enum gather gather(struct xhci *x, const struct xhci_ep *ep)
{
    struct xhci_td *td = &x->td;
    gpa_t p = ep->deq;
    bool ccs = ep->ccs;
    unsigned links = 0;

    td->nr = 0;
    td->total = 0;
    for (;;) {
        struct xhci_trb t;

        if (!xhci_read_trb(x, p, &t) || (t.control & TRB_C) != ccs)
            return TD_NONE;
        if (td->nr == XHCI_TD_MAX)
            return TD_BAD;
        if (trb_type(&t) == TRB_LINK) {
            if (++links > XHCI_LINKS_MAX || (t.control & TRB_IOC)) {
                td->trb[td->nr++] = t; /* has an event, or is the one to blame */
                if (links > XHCI_LINKS_MAX)
                    return TD_BAD;
            }
            p = t.param & ~UINT64_C(15);
            ccs ^= (t.control & TRB_TC) != 0;
            continue;
        }
        links = 0;
        td->trb[td->nr++] = t;
        td->total += data_len(&t);
        p += XHCI_TRB;
        if (!(t.control & TRB_CH))
            break;
    }
    td->next = p;
    td->next_ccs = ccs;
    return TD_WHOLE;
}

static const struct xhci_trb *first_of(const struct xhci_td *td)
{
    for (unsigned i = 0; i < td->nr; i++)
        if (trb_type(&td->trb[i]) != TRB_LINK)
            return &td->trb[i];
    return &td->trb[0];
}

/* May this TD stand on this kind of endpoint (4.11.2)? */
static bool sound(const struct xhci_td *td, bool control, bool out)
{
    const struct xhci_trb *first = first_of(td);
    unsigned kind = trb_type(first);

    if (control ? kind == TRB_NORMAL || kind == TRB_ISOCH
                : kind == TRB_SETUP || kind == TRB_DATA || kind == TRB_STATUS || kind == TRB_ISOCH)
        return false;
    if (kind == TRB_SETUP && (!(first->control & TRB_IDT) || (first->status & 0x1ffff) != 8))
        return false;
    if (kind == TRB_DATA)
        out = !(first->control & TRB_DIR_IN);
    for (const struct xhci_trb *t = td->trb; t < td->trb + td->nr; t++) {
        unsigned type = trb_type(t);

        if (!type || type > TRB_NOOP ||
            (t != first && type != TRB_NORMAL && type != TRB_EVENT_DATA && type != TRB_LINK))
            return false;
        if (data_len(t) > LEN_MAX || (data_len(t) && (t->control & TRB_IDT) && (!out || data_len(t) > 8)))
            return false;
    }
    return true;
}

/* Bytes of the TD from the cursor on, which moves along. */
static void copy(struct xhci *x, uint8_t *buf, uint32_t len, bool to_guest)
{
    struct xhci_td *td = &x->td;

    while (len && td->cur < td->nr) {
        const struct xhci_trb *t = &td->trb[td->cur];
        uint32_t n = (uint32_t)min_u64(len, data_len(t) - td->cur_off);
        uint8_t inl[8];

        if (!n) {
            td->cur++;
            td->cur_off = 0;
            continue;
        }
        if (t->control & TRB_IDT) {
            put_le64(inl, t->param);
            memcpy(buf, inl + td->cur_off, n);
        } else if (to_guest) {
            pci_dma_write(&x->pci, t->param + td->cur_off, buf, n);
        } else {
            pci_dma_read(&x->pci, t->param + td->cur_off, buf, n);
        }
        buf += n;
        len -= n;
        td->cur_off += n;
    }
}

static void seek(struct xhci_td *td, uint32_t off)
{
    td->cur = 0;
    while (td->cur < td->nr && off >= data_len(&td->trb[td->cur]))
        off -= data_len(&td->trb[td->cur++]);
    td->cur_off = td->cur < td->nr ? off : 0;
}

/* ---- events ---- */

static void transfer_event(struct xhci *x, unsigned id, unsigned dci, const struct xhci_trb *t, uint64_t param,
                           uint32_t len, enum xhci_code code, uint32_t ed)
{
    xhci_event(x, t->status >> 22, param, (uint32_t)code << 24 | (len & 0xffffff),
               id << 24 | dci << 16 | TRB_EV_TRANSFER << 10 | ed, t->control & TRB_BEI);
}

/* Events of the TD (4.10.1): for each TRB done that asks for one, for the one where data ended short, for the one that
 * failed. Without `final` for those before the byte where it waits. */
static void report(struct xhci *x, unsigned id, unsigned dci, enum xhci_code code, bool final)
{
    struct xhci_ep *ep = &x->slot[id].ep[dci];
    uint32_t at = 0, edtla = 0;
    bool failed = code != CC_SUCCESS && code != CC_SHORT, ended = false, reported = false;

    for (unsigned i = 0; i < x->td.nr; i++) {
        const struct xhci_trb *t = &x->td.trb[i];
        uint32_t len = data_len(t), got = (uint32_t)min_u64(len, ep->done - at);
        unsigned type = trb_type(t);
        bool was_told = i < ep->told, data = type != TRB_LINK && type != TRB_EVENT_DATA;

        at += got;
        edtla += got;
        if (!final && (!ep->done || got < len))
            return;
        if (!was_told)
            ep->told = (uint16_t)(i + 1);
        if (failed && data && (!len || got < len)) {
            transfer_event(x, id, dci, t, t->at, len - got, code, 0);
            return;
        }
        if (type == TRB_EVENT_DATA) {
            if (!was_told && (t->control & TRB_IOC))
                transfer_event(x, id, dci, t, t->param, edtla, ended ? CC_SHORT : CC_SUCCESS, 4);
            edtla = 0;
            continue;
        }
        if (got == len && !ended) {
            if (!was_told && (t->control & TRB_IOC))
                transfer_event(x, id, dci, t, t->at, 0, CC_SUCCESS, 0);
            continue;
        }
        if (!reported && data && (t->control & (ended ? TRB_IOC : TRB_IOC | TRB_ISP))) {
            transfer_event(x, id, dci, t, t->at, len - got, CC_SHORT, 0);
            reported = true;
        }
        ended = true;
    }
    if (failed && x->td.nr) /* all of it had moved */
        transfer_event(x, id, dci, &x->td.trb[x->td.nr - 1], x->td.trb[x->td.nr - 1].at, 0, code, 0);
}

static void retire(struct xhci *x, unsigned id, unsigned dci, enum xhci_code code)
{
    struct xhci_ep *ep = &x->slot[id].ep[dci];

    report(x, id, dci, code, true);
    ep->done = ep->told = 0;
    ep->asleep = false;
    if (code == CC_SUCCESS || code == CC_SHORT) {
        ep->deq = x->td.next;
        ep->ccs = x->td.next_ccs;
        return;
    }
    ep->state = code == CC_TRB ? EP_ERROR : EP_HALTED;
    xhci_ep_write(x, id, dci);
}

void xhci_ep_stopped(struct xhci *x, unsigned id, unsigned dci)
{
    struct xhci_ep *ep = &x->slot[id].ep[dci];
    const struct xhci_trb *t;

    if (!ep->asleep || gather(x, ep) != TD_WHOLE)
        return;
    seek(&x->td, ep->done);
    t = &x->td.trb[x->td.cur < x->td.nr ? x->td.cur : 0];
    transfer_event(x, id, dci, t, t->at, data_len(t) - x->td.cur_off, CC_STOPPED, 0);
}

/* ---- moving data ---- */

static enum xhci_code code_of(int r)
{
    return r == USB_STALL ? CC_STALL : r == USB_BABBLE ? CC_BABBLE : CC_TRANSACTION;
}

/* The packets of a data TD as far as they go. CC_WAITS when the device has nothing or the budget is used up. */
static enum xhci_code move(struct xhci *x, struct usb_dev *d, struct xhci_ep *ep, unsigned nr, bool in,
                           unsigned *budget)
{
    uint8_t buf[PACKET_MAX];

    if (ep->done > x->td.total)
        ep->done = x->td.total; /* the guest made it shorter */
    seek(&x->td, ep->done);
    while (*budget) {
        uint32_t want = (uint32_t)min_u64(ep->mps, x->td.total - ep->done);
        int r;

        --*budget;
        if (!in)
            copy(x, buf, want, false);
        r = usb_packet(d, in ? USB_IN : USB_OUT, nr, buf, want);
        if (r == USB_NAK) {
            ep->asleep = true;
            return CC_WAITS;
        }
        if (r < 0 || (uint32_t)r > want)
            return r < 0 ? code_of(r) : CC_BABBLE;
        if (in)
            copy(x, buf, (uint32_t)r, true);
        ep->done += (uint32_t)r;
        if (ep->done == x->td.total)
            return CC_SUCCESS;
        if ((uint32_t)r < want)
            return CC_SHORT;
    }
    return CC_WAITS;
}

static enum xhci_code stage(struct xhci *x, struct usb_dev *d, struct xhci_ep *ep, unsigned dci, unsigned *budget)
{
    const struct xhci_trb *t = first_of(&x->td);
    bool in = t->control & TRB_DIR_IN;
    uint8_t buf[8];
    int r;

    switch (trb_type(t)) {
    case TRB_SETUP:
        put_le64(buf, t->param);
        r = usb_packet(d, USB_SETUP, 0, buf, 8);
        return r < 0 ? code_of(r) : CC_SUCCESS;
    case TRB_STATUS:
        r = usb_packet(d, in ? USB_IN : USB_OUT, 0, buf, 0);
        if (r == USB_NAK)
            ep->asleep = true;
        return r == USB_NAK ? CC_WAITS : r < 0 ? code_of(r) : CC_SUCCESS;
    case TRB_DATA:
        return move(x, d, ep, 0, in, budget);
    case TRB_NORMAL:
        return move(x, d, ep, dci >> 1, dci & 1, budget);
    default: /* No Op, or Event Data alone */
        return CC_SUCCESS;
    }
}

/* One TD; false: no more can be done now. */
static bool run_td(struct xhci *x, unsigned id, unsigned dci, unsigned *budget)
{
    struct xhci_ep *ep = &x->slot[id].ep[dci];
    struct usb_dev *d;
    enum xhci_code code;
    bool suspended = false;

    ep->asleep = false;
    if (!sound(&x->td, ep->type == EP_CONTROL, !(dci & 1))) {
        log_guest("xhci: a TD that cannot be, endpoint %u of slot %u", dci, id);
        retire(x, id, dci, CC_TRB);
        return false;
    }
    d = xhci_slot_dev(x, id, &suspended);
    if (!d && suspended)
        return false;
    code = d ? stage(x, d, ep, dci, budget) : CC_TRANSACTION;
    if (code != CC_WAITS)
        retire(x, id, dci, code);
    else
        report(x, id, dci, CC_SUCCESS, false);
    return code != CC_WAITS;
}

enum xhci_how xhci_run_ep(struct xhci *x, unsigned id, unsigned dci)
{
    struct xhci_ep *ep = &x->slot[id].ep[dci];
    unsigned budget = PACKETS;

    while (ep->state == EP_RUNNING && xhci_running(x)) {
        enum gather g = gather(x, ep);

        if (g == TD_NONE)
            return XHCI_IDLE;
        if (xhci_event_room(x, x->td.trb[x->td.nr - 1].status >> 22) < 2)
            return XHCI_BLOCKED;
        if (g == TD_BAD) {
            log_guest("xhci: a TD without end, endpoint %u of slot %u", dci, id);
            ep->done = 0;
            x->td.trb[0] = x->td.trb[x->td.nr - 1];
            x->td.nr = 1;
            retire(x, id, dci, CC_TRB);
            return XHCI_IDLE;
        }
        if (!run_td(x, id, dci, &budget))
            return budget || ep->asleep || ep->state != EP_RUNNING ? XHCI_IDLE : XHCI_MORE;
        if (!budget || !--budget)
            return XHCI_MORE;
    }
    return XHCI_IDLE;
}
