/* 16550A UART.
 *
 * National PC16550D data sheet (TL/C/8652). Characters leave as fast as the back end takes them; receive time-out
 * follows the programmed speed. The interrupt is not gated with OUT2. Modem inputs read as connected. Not modelled:
 * parity, framing and overrun from real lines (a break from the back end is), DMA mode pins. */
#include "hw/char/uart.h"

enum { RBR = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };
enum { IER_RX = 1, IER_THRE = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_NONE = 1, IIR_MODEM = 0, IIR_THRE = 2, IIR_RX = 4, IIR_TIMEOUT = 0xc, IIR_LINE = 6, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_BI = 0x10, LSR_THRE = 0x20, LSR_TEMT = 0x40, LSR_ERRORS = 0x1e };
enum { MSR_DELTAS = 0x0f, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

static bool fifo_on(const struct uart *u)
{
    return u->fcr & FCR_ENABLE;
}
static unsigned trigger(const struct uart *u)
{
    static const uint8_t level[] = {1, 4, 8, 14};

    return fifo_on(u) ? level[u->fcr >> 6] : 1;
}

/* The highest pending interrupt decides IIR and the line. */
static void update_irq(struct uart *u)
{
    uint8_t id = IIR_NONE;
    bool on;

    if ((u->ier & IER_LINE) && (u->lsr & LSR_ERRORS))
        id = IIR_LINE;
    else if ((u->ier & IER_RX) && u->timeout_pending)
        id = IIR_TIMEOUT;
    else if ((u->ier & IER_RX) && (u->lsr & LSR_DR) && u->rx_len >= trigger(u))
        id = IIR_RX;
    else if ((u->ier & IER_THRE) && u->thre_pending)
        id = IIR_THRE;
    else if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTAS))
        id = IIR_MODEM;
    u->iir = id | (fifo_on(u) ? IIR_FIFO : 0);
    on = id != IIR_NONE;
    if (on == u->irq_on)
        return;
    u->irq_on = on;
    u->set_irq(u->opaque, on);
}

/* ---- receiving ---- */

static int64_t char_ns(const struct uart *u)
{
    unsigned bits = 2 + 5 + (u->lcr & 3) + (u->lcr >> 2 & 1) + (u->lcr >> 3 & 1);

    return (int64_t)bits * NS_PER_SEC * (u->divisor ? u->divisor : 1) / u->baudbase;
}

static void rx_watch(struct uart *u)
{
    u->timeout_pending = false;
    if (fifo_on(u) && u->rx_len && u->rx_len < trigger(u))
        clk_timer_set(&u->timeout, clk_now(u->run->virt) + 4 * char_ns(u));
    else
        clk_timer_cancel(&u->timeout);
}
static void rx_timed_out(void *opaque)
{
    struct uart *u = opaque;

    u->timeout_pending = u->rx_len != 0;
    update_irq(u);
}

static void rx_put(struct uart *u, uint8_t b)
{
    unsigned room = fifo_on(u) ? UART_FIFO : 1;

    if (u->rx_len >= room) {
        u->lsr |= LSR_OE;
        if (!fifo_on(u))
            u->rx[u->rx_head % UART_FIFO] = b;
    } else {
        u->rx[(u->rx_head + u->rx_len) % UART_FIFO] = b;
        u->rx_len++;
    }
    u->lsr |= LSR_DR;
    rx_watch(u);
    update_irq(u);
}

static uint8_t rx_take(struct uart *u)
{
    uint8_t b = u->rx[u->rx_head % UART_FIFO];

    if (!u->rx_len)
        return 0;
    u->rx_head = (uint8_t)((u->rx_head + 1) % UART_FIFO);
    if (!--u->rx_len)
        u->lsr &= (uint8_t) ~(LSR_DR | LSR_BI);
    rx_watch(u);
    update_irq(u);
    chr_fe_accept(&u->chr);
    return b;
}

static size_t chr_can_read(void *opaque)
{
    struct uart *u = opaque;

    if (u->mcr & MCR_LOOP)
        return 0;
    return fifo_on(u) ? UART_FIFO - u->rx_len : !u->rx_len;
}
static void chr_read(void *opaque, const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        rx_put(opaque, buf[i]);
}
static void chr_event(void *opaque, enum chr_event ev)
{
    struct uart *u = opaque;

    if (ev != CHR_BREAK || (u->mcr & MCR_LOOP))
        return;
    u->lsr |= LSR_BI;
    rx_put(u, 0);
}
static const struct chr_fe_ops chr_ops = {.can_read = chr_can_read, .read = chr_read, .event = chr_event};

/* ---- sending ---- */

static void tx_run(void *opaque)
{
    struct uart *u = opaque;
    bool was_empty = u->lsr & LSR_THRE;

    while (u->tx_len) {
        uint8_t b = u->tx[u->tx_head % UART_FIFO];

        if (u->mcr & MCR_LOOP)
            rx_put(u, b);
        else if (!chr_fe_try_write(&u->chr, &b, 1, tx_run))
            return; /* called again when there is room */
        u->tx_head = (uint8_t)((u->tx_head + 1) % UART_FIFO);
        u->tx_len--;
    }
    u->lsr |= LSR_THRE | LSR_TEMT;
    if (!was_empty)
        u->thre_pending = true;
    update_irq(u);
}

static void tx_put(struct uart *u, uint8_t b)
{
    unsigned room = fifo_on(u) ? UART_FIFO : 1;

    if (u->tx_len >= room)
        return; /* overrun: the newest is lost */
    u->tx[(u->tx_head + u->tx_len) % UART_FIFO] = b;
    u->tx_len++;
    u->lsr &= (uint8_t) ~(LSR_THRE | LSR_TEMT);
    u->thre_pending = false;
    update_irq(u);
    tx_run(u);
}

/* ---- registers ---- */

static void line_changed(struct uart *u)
{
    struct chr_serial_params p = {.speed = (int)(u->baudbase / (u->divisor ? u->divisor : 1)),
                                  .data_bits = 5 + (u->lcr & 3),
                                  .stop_bits = u->lcr & 4 ? 2 : 1,
                                  .parity = !(u->lcr & 8)   ? 'N'
                                            : u->lcr & 0x10 ? 'E'
                                                            : 'O'};

    chr_fe_serial_params(&u->chr, &p);
}

static void write_fcr(struct uart *u, uint8_t v)
{
    if ((v ^ u->fcr) & FCR_ENABLE)
        v |= FCR_CLEAR_RX | FCR_CLEAR_TX;
    if (v & FCR_CLEAR_RX) {
        u->rx_len = u->rx_head = 0;
        u->lsr &= (uint8_t) ~(LSR_DR | LSR_BI);
    }
    if (v & FCR_CLEAR_TX) {
        u->tx_len = 0;
        u->lsr |= LSR_THRE | LSR_TEMT;
        u->thre_pending = true;
    }
    u->fcr = v & 0xc9;
    rx_watch(u);
    update_irq(u);
    chr_fe_accept(&u->chr);
}

static uint8_t modem_lines(const struct uart *u)
{
    if (!(u->mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    return (uint8_t)((u->mcr & MCR_DTR ? MSR_DSR : 0) | (u->mcr & MCR_RTS ? MSR_CTS : 0) |
                     (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void modem_changed(struct uart *u)
{
    uint8_t now = modem_lines(u), was = u->msr & (uint8_t)~MSR_DELTAS;
    uint8_t delta = (now ^ was) >> 4 & 0xb;

    if ((was & MSR_RI) && !(now & MSR_RI))
        delta |= 4; /* trailing edge only */
    u->msr = now | (u->msr & MSR_DELTAS) | delta;
    update_irq(u);
}

static void write_mcr(struct uart *u, uint8_t v)
{
    bool left_loop = (u->mcr & MCR_LOOP) && !(v & MCR_LOOP);

    u->mcr = v & 0x1f;
    modem_changed(u);
    if (left_loop)
        chr_fe_accept(&u->chr);
}

static void write_ier(struct uart *u, uint8_t v)
{
    if ((v & ~u->ier & IER_THRE) && (u->lsr & LSR_THRE))
        u->thre_pending = true;
    u->ier = v & 0xf;
    update_irq(u);
}

static void uart_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct uart *u = opaque;
    uint8_t v = (uint8_t)val;

    if ((u->lcr & LCR_DLAB) && off <= 1) {
        u->divisor = (uint16_t)(off ? (u->divisor & 0xff) | v << 8 : (u->divisor & 0xff00) | v);
        line_changed(u);
        return;
    }
    switch (off) {
    case RBR:
        tx_put(u, v);
        break;
    case IER:
        write_ier(u, v);
        break;
    case FCR:
        write_fcr(u, v);
        break;
    case LCR:
        if ((v ^ u->lcr) & LCR_BREAK)
            chr_fe_break(&u->chr, v & LCR_BREAK);
        u->lcr = v;
        line_changed(u);
        break;
    case MCR:
        write_mcr(u, v);
        break;
    case SCR:
        u->scr = v;
        break;
    }
}

static uint8_t read_iir(struct uart *u)
{
    uint8_t v = u->iir;

    if ((v & 0xf) == IIR_THRE) {
        u->thre_pending = false;
        update_irq(u);
    }
    return v;
}
static uint8_t read_lsr(struct uart *u)
{
    uint8_t v = u->lsr;

    u->lsr &= (uint8_t)~LSR_ERRORS;
    update_irq(u);
    return v;
}
static uint8_t read_msr(struct uart *u)
{
    uint8_t v = u->msr;

    u->msr &= (uint8_t)~MSR_DELTAS;
    update_irq(u);
    return v;
}

static uint64_t uart_read(void *opaque, gpa_t off, unsigned size)
{
    struct uart *u = opaque;

    if ((u->lcr & LCR_DLAB) && off <= 1)
        return off ? u->divisor >> 8 : u->divisor & 0xff;
    switch (off) {
    case RBR:
        return rx_take(u);
    case IER:
        return u->ier;
    case IIR:
        return read_iir(u);
    case LCR:
        return u->lcr;
    case MCR:
        return u->mcr;
    case LSR:
        return read_lsr(u);
    case MSR:
        return read_msr(u);
    default:
        return u->scr;
    }
}
static const struct mem_ops uart_ops = {.read = uart_read, .write = uart_write, .impl_max = 1};

/* ---- life ---- */

void uart_reset(struct uart *u)
{
    u->ier = u->fcr = u->lcr = u->mcr = u->scr = 0;
    u->rx_len = u->rx_head = u->tx_len = u->tx_head = 0;
    u->lsr = LSR_THRE | LSR_TEMT;
    u->divisor = 12;
    u->thre_pending = u->timeout_pending = false;
    u->msr = modem_lines(u);
    clk_timer_cancel(&u->timeout);
    update_irq(u);
    chr_fe_accept(&u->chr);
}

void uart_init(struct uart *u, struct dev *owner, void (*set_irq)(void *, int), void *opaque)
{
    u->set_irq = set_irq;
    u->opaque = opaque;
    u->run = dev_machine(owner)->run;
    u->baudbase = 115200;
    clk_timer_init(&u->timeout, u->run->virt, rx_timed_out, u);
    mem_region_init_io(&u->io, dev_machine(owner)->mem_sys, &uart_ops, u, "serial", 8);
    uart_reset(u);
    chr_fe_set(&u->chr, &chr_ops, u);
}

void uart_fini(struct uart *u)
{
    clk_timer_cancel(&u->timeout);
    chr_fe_fini(&u->chr);
    mem_region_free(&u->io);
}

static bool uart_loaded(void *obj, struct err **errp)
{
    struct uart *u = obj;

    return u->rx_len <= UART_FIFO && u->tx_len <= UART_FIFO && u->rx_head < UART_FIFO && u->tx_head < UART_FIFO;
}
static const struct state_field uart_fields[] = {STATE_BYTES(struct uart, rx),
                                                 STATE_U8(struct uart, rx_head),
                                                 STATE_U8(struct uart, rx_len),
                                                 STATE_BYTES(struct uart, tx),
                                                 STATE_U8(struct uart, tx_head),
                                                 STATE_U8(struct uart, tx_len),
                                                 STATE_U8(struct uart, ier),
                                                 STATE_U8(struct uart, iir),
                                                 STATE_U8(struct uart, fcr),
                                                 STATE_U8(struct uart, lcr),
                                                 STATE_U8(struct uart, mcr),
                                                 STATE_U8(struct uart, lsr),
                                                 STATE_U8(struct uart, msr),
                                                 STATE_U8(struct uart, scr),
                                                 STATE_U16(struct uart, divisor),
                                                 STATE_BOOL(struct uart, thre_pending),
                                                 STATE_BOOL(struct uart, timeout_pending),
                                                 STATE_BOOL(struct uart, irq_on),
                                                 STATE_TIMER(struct uart, timeout),
                                                 STATE_END};
const struct state_desc uart_state = {.name = "uart", .version = 1, .fields = uart_fields, .post_load = uart_loaded};
