/* What the parts of the xHCI controller share: xhci.c (registers, events, ports, life), xhci_cmd.c (command ring),
 * xhci_xfer.c (transfer rings). Names as in eXtensible Host Controller Interface 1.2. */
#ifndef HW_USB_XHCI_INT_H
#define HW_USB_XHCI_INT_H

#include "base/bytes.h"
#include "hw/pci/pci.h"
#include "hw/usb/usb.h"

enum {
    XHCI_PORTS2 = 15,
    XHCI_ROOT_PORTS = 2 * XHCI_PORTS2,
    XHCI_SLOTS = 64,
    XHCI_INTRS = 16,
    XHCI_EPS = 32,
    XHCI_TRB = 16,
    XHCI_CTX = 32,       /* bytes of a context: CSZ is 0 */
    XHCI_TD_MAX = 1024,  /* TRBs of one TD */
    XHCI_LINKS_MAX = 64, /* Link TRBs before another one comes */
};
enum { CMD_RS = 1, CMD_HCRST = 2, CMD_INTE = 4, CMD_HSEE = 8, CMD_CSS = 0x100, CMD_CRS = 0x200, CMD_EWE = 0x400 };
enum {
    STS_HCH = 1,
    STS_HSE = 4,
    STS_EINT = 8,
    STS_PCD = 0x10,
    STS_SRE = 0x400,
    STS_HCE = 0x1000,
    STS_W1C = STS_HSE | STS_EINT | STS_PCD | STS_SRE
};
enum {
    PORT_CCS = 1,
    PORT_PED = 2,
    PORT_PR = 0x10,
    PORT_PLS = 0xf << 5,
    PORT_PP = 0x200,
    PORT_SPEED = 0xf << 10,
    PORT_LWS = 1 << 16,
    PORT_CSC = 1 << 17,
    PORT_WRC = 1 << 19,
    PORT_PRC = 1 << 21,
    PORT_PLC = 1 << 22,
    PORT_W1C = 0x7f << 17,
    PORT_RW = 7 << 25 | 3 << 14, /* wake bits, indicators */
    PORT_WPR = 1 << 31
};
enum { PLS_U0 = 0, PLS_U3 = 3, PLS_RXDETECT = 5, PLS_POLLING = 7, PLS_RESUME = 15 };
/* TRB types (table 6-91) and bits of their last word. */
enum {
    TRB_NORMAL = 1,
    TRB_SETUP,
    TRB_DATA,
    TRB_STATUS,
    TRB_ISOCH,
    TRB_LINK,
    TRB_EVENT_DATA,
    TRB_NOOP,
    TRB_ENABLE_SLOT,
    TRB_DISABLE_SLOT,
    TRB_ADDRESS_DEVICE,
    TRB_CONFIGURE_ENDPOINT,
    TRB_EVALUATE_CONTEXT,
    TRB_RESET_ENDPOINT,
    TRB_STOP_ENDPOINT,
    TRB_SET_TR_DEQUEUE,
    TRB_RESET_DEVICE,
    TRB_NOOP_COMMAND = 23,
    TRB_EV_TRANSFER = 32,
    TRB_EV_COMMAND,
    TRB_EV_PORT,
    TRB_EV_CONTROLLER = 37
};
enum {
    TRB_C = 1,
    TRB_TC = 2,
    TRB_ISP = 4,
    TRB_CH = 0x10,
    TRB_IOC = 0x20,
    TRB_IDT = 0x40,
    TRB_BEI = 0x200,
    TRB_BSR = 0x200, /* Address Device; Configure Endpoint calls it DC */
    TRB_DIR_IN = 1 << 16
};
/* Completion codes (table 6-90). */
enum xhci_code {
    CC_WAITS = 0, /* no code yet */
    CC_SUCCESS = 1,
    CC_BABBLE = 3,
    CC_TRANSACTION = 4,
    CC_TRB = 5,
    CC_STALL = 6,
    CC_BANDWIDTH = 8,
    CC_NO_SLOTS = 9,
    CC_SLOT_OFF = 11,
    CC_ENDPOINT_OFF = 12,
    CC_SHORT = 13,
    CC_PARAMETER = 17,
    CC_CONTEXT_STATE = 19,
    CC_RING_FULL = 21,
    CC_RING_STOPPED = 24,
    CC_STOPPED = 26
};
enum { SLOT_OFF, SLOT_ENABLED, SLOT_DEFAULT, SLOT_ADDRESSED, SLOT_CONFIGURED };
enum { EP_OFF, EP_RUNNING, EP_HALTED, EP_STOPPED, EP_ERROR };
enum { EP_ISOCH_OUT = 1, EP_BULK_OUT, EP_INT_OUT, EP_CONTROL, EP_ISOCH_IN, EP_BULK_IN, EP_INT_IN };

struct xhci_trb {
    gpa_t at; /* where it lies */
    uint64_t param;
    uint32_t status, control;
};
static inline unsigned trb_type(const struct xhci_trb *t)
{
    return t->control >> 10 & 63;
}

struct xhci_ep {
    gpa_t deq;     /* first TRB of the TD under way or to come */
    uint32_t done; /* bytes of that TD that have moved */
    uint16_t told; /* TRBs of it that have had their event */
    uint16_t mps;
    uint8_t state, type;
    bool ccs;    /* cycle bit of what is the guest's to run */
    bool asleep; /* the device had nothing for that TD */
};
struct xhci_slot {
    uint8_t state, port; /* port: of the bus, from 0 */
    uint32_t kick;       /* bit per endpoint that may have work */
    gpa_t ctx;           /* output device context */
    struct xhci_ep ep[XHCI_EPS];
};
struct xhci_intr {
    uint32_t iman, imod, erstsz;
    uint64_t erstba, erdp;
    /* The ring as read from the segment table, which has one entry. */
    bool ready, pcs;
    uint64_t base;
    uint32_t size, next;
};
/* The TD that is looked at: nothing of it outlives a call. */
struct xhci_td {
    unsigned nr;
    struct xhci_trb trb[XHCI_TD_MAX];
    uint32_t total;
    gpa_t next;
    bool next_ccs;
    unsigned cur; /* TRB that holds byte cur_off and those after it */
    uint32_t cur_off;
};
enum xhci_how { XHCI_IDLE, XHCI_MORE, XHCI_BLOCKED }; /* BLOCKED: until the guest takes events */

struct xhci {
    struct pci_dev pci; /* first */
    struct mem_region bar, regs;
    struct usb_bus bus;
    struct bus_class bus_class; /* with this controller's number of ports */
    struct clk_timer timer;     /* work that could not be done when it was asked for */
    uint32_t p2, p3, intrs, slots;
    int msi, msix;
    bool busy; /* rings are being worked on: a DMA write that comes back to a register is ignored */
    uint32_t cmd, sts, dnctrl, config;
    uint64_t dcbaap;
    gpa_t crp; /* command ring: next TRB */
    bool ccs, crr, skip_hi, cmd_kick;
    int64_t mfindex_at; /* when MFINDEX was 0 */
    uint32_t portsc[XHCI_ROOT_PORTS];
    uint32_t port_events; /* bit per root port whose event is still to be sent */
    struct xhci_intr intr[XHCI_INTRS];
    struct xhci_slot slot[XHCI_SLOTS + 1]; /* by slot ID; 0 stands for none */
    struct xhci_td td;
    uint8_t *saved; /* slots, for the saved state */
    uint32_t saved_len;
};

static inline bool xhci_running(const struct xhci *x)
{
    return (x->cmd & CMD_RS) && !(x->sts & (STS_HSE | STS_HCE));
}
/* Host controller error (the guest broke a rule that leaves no way on), or host system error: the controller halts. */
void xhci_die(struct xhci *x, uint32_t sts, const char *why);
bool xhci_read_trb(struct xhci *x, gpa_t at, struct xhci_trb *t); /* false: the controller has halted */
/* Free entries of an interrupter's event ring; 0 when it has none. */
unsigned xhci_event_room(struct xhci *x, unsigned intr);
void xhci_event(struct xhci *x, unsigned intr, uint64_t param, uint32_t status, uint32_t control, bool silent);
/* The device of a slot, if it answers to the slot's address on an enabled port that is awake. */
struct usb_dev *xhci_slot_dev(struct xhci *x, unsigned id, bool *suspended);
/* Connector and device behind a root port; *dev may be NULL. */
bool xhci_port_enabled(const struct xhci *x, unsigned root);
struct usb_dev *xhci_root_dev(const struct xhci *x, unsigned root);
static inline unsigned xhci_root_ports(const struct xhci *x)
{
    return x->p2 + x->p3;
}
void xhci_work(struct xhci *x); /* everything that was asked for */

enum xhci_how xhci_run_commands(struct xhci *x);
void xhci_ep_write(struct xhci *x, unsigned id, unsigned dci); /* state and dequeue pointer into the output context */

enum xhci_how xhci_run_ep(struct xhci *x, unsigned id, unsigned dci);
void xhci_ep_stopped(struct xhci *x, unsigned id, unsigned dci); /* tells where a TD under way was stopped */

#endif
