/* 82093AA I/O APIC with 24 inputs, version 20h (with the EOI register of the ICH family).
 *
 * 82093AA data sheet (290566-001) chapter 3; EOI register after the ICH9 data sheet 13.5.6. Not modelled: polarity
 * (inputs are logical levels), the arbitration register's real arbitration. */
#include "hw/intc/ioapic.h"
#include "hw/intc/apic_int.h"

#include "base/str.h"

enum { IOAPIC_PINS = 24, IOAPIC_VERSION = 0x20 };
/* Between the EOI of a level input that is still asserted and its next delivery a real processor gets something done:
 * the message takes its time. Here it would be there before the first instruction behind the handler, and a driver that
 * counts on getting on (Linux's 8139cp lets its interrupt stay asserted until a softirq runs) would stand still for
 * good. So after STORM deliveries without the line having been low, the next ones come STORM_NS later. */
enum { STORM = 1000, STORM_NS = 1000000 };
enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };
enum { IOAPICID = 0, IOAPICVER = 1, IOAPICARB = 2, IOREDTBL = 0x10 };
#define RTE_DESTMOD    (UINT64_C(1) << 11)
#define RTE_DELIVS     (UINT64_C(1) << 12)
#define RTE_REMOTE_IRR (UINT64_C(1) << 14)
#define RTE_LEVEL      (UINT64_C(1) << 15)
#define RTE_MASK       (UINT64_C(1) << 16)

struct ioapic {
    struct dev dev; /* first */
    struct mem_region regs;
    struct apic_bus *abus; /* borrowed */
    uint8_t id, sel;
    uint32_t irr;   /* requests not yet delivered; for level inputs the line itself */
    uint32_t level; /* of the lines */
    uint64_t rte[IOAPIC_PINS];
    uint16_t again[IOAPIC_PINS]; /* EOIs in a row that found the line asserted, at most STORM */
    uint32_t held;               /* inputs whose next delivery waits for the timer; none while the machine stands */
    struct clk_timer timer;
    struct machine_hook state_hook;
};

/* ---- delivery ---- */

static void send(struct ioapic *io, unsigned n)
{
    uint64_t e = io->rte[n];
    struct apic_msg msg = {.dest = (uint32_t)(e >> 56),
                           .logical = e & RTE_DESTMOD,
                           .level = e & RTE_LEVEL,
                           .vector = (uint8_t)e,
                           .mode = e >> 8 & 7};

    log_at(LOG_INT, "ioapic: input %u sends vector %#x mode %u to %u", n, msg.vector, msg.mode, msg.dest);
    apic_bus_send(dev_machine(&io->dev), &msg);
}

static void service(struct ioapic *io, unsigned n)
{
    uint64_t *e = &io->rte[n];

    if (!((io->irr & ~io->held) >> n & 1) || (*e & RTE_MASK))
        return;
    if (*e & RTE_LEVEL) {
        if (*e & RTE_REMOTE_IRR)
            return; /* the last one has not been finished */
        *e |= RTE_REMOTE_IRR;
    } else {
        io->irr &= ~(1u << n);
    }
    send(io, n);
}

static void ioapic_input(void *opaque, int n, int level)
{
    struct ioapic *io = opaque;
    uint32_t bit = 1u << n;
    bool rising = level && !(io->level & bit);

    io->level = level ? io->level | bit : io->level & ~bit;
    if (!level)
        io->again[n] = 0;
    if (io->rte[n] & RTE_LEVEL)
        io->irr = level ? io->irr | bit : io->irr & ~bit;
    else if (rising)
        io->irr |= bit;
    if (level)
        service(io, (unsigned)n);
}

static void let_go(void *opaque)
{
    struct ioapic *io = opaque;
    uint32_t held = io->held;

    io->held = 0;
    for (unsigned n = 0; n < IOAPIC_PINS; n++)
        if (held >> n & 1)
            service(io, n);
}

static void storm_check(struct ioapic *io, unsigned n)
{
    struct clk *c = dev_vclk(&io->dev);

    if (!(io->level >> n & 1))
        return;
    if (io->again[n] < STORM) {
        if (++io->again[n] == STORM)
            log_guest("ioapic: input %u stayed asserted through %u interrupts; more come slowly", n, STORM);
        return;
    }
    if (!io->held)
        clk_timer_set(&io->timer, clk_now(c) + STORM_NS);
    io->held |= 1u << n;
}

static void eoi_locked(struct ioapic *io, uint8_t vector)
{
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        if ((uint8_t)io->rte[n] != vector || !(io->rte[n] & RTE_REMOTE_IRR))
            continue;
        io->rte[n] &= ~RTE_REMOTE_IRR;
        storm_check(io, n);
        service(io, n);
    }
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
    RUN_LOCK_SCOPE(dev_machine(&io->dev)->run);

    eoi_locked(io, vector);
}

/* ---- registers ---- */

static uint32_t reg_read(const struct ioapic *io)
{
    unsigned n = (io->sel - IOREDTBL) >> 1;

    switch (io->sel) {
    case IOAPICID:
    case IOAPICARB:
        return (uint32_t)io->id << 24;
    case IOAPICVER:
        return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
    }
    if (io->sel < IOREDTBL || n >= IOAPIC_PINS)
        return 0;
    return (uint32_t)(io->rte[n] >> (io->sel & 1 ? 32 : 0));
}

static void rte_write(struct ioapic *io, unsigned n, bool high, uint32_t v)
{
    uint64_t keep = RTE_REMOTE_IRR | RTE_DELIVS, e = io->rte[n];
    uint32_t bit = 1u << n;

    if (high)
        e = (e & UINT32_MAX) | (uint64_t)v << 32;
    else
        e = (e & ~(uint64_t)UINT32_MAX) | (e & keep) | (v & ~(uint32_t)keep & 0x1ffff);
    if (!(e & RTE_LEVEL)) {
        e &= ~RTE_REMOTE_IRR; /* turning an input to edge clears it: Linux relies on that */
        if (io->rte[n] & RTE_LEVEL)
            io->irr &= ~bit;
    } else {
        io->irr = io->level & bit ? io->irr | bit : io->irr & ~bit;
    }
    io->rte[n] = e;
    service(io, n);
}

static void reg_write(struct ioapic *io, uint32_t v)
{
    unsigned n = (io->sel - IOREDTBL) >> 1;

    if (io->sel == IOAPICID)
        io->id = v >> 24 & 0xf;
    else if (io->sel >= IOREDTBL && n < IOAPIC_PINS)
        rte_write(io, n, io->sel & 1, v);
    else
        log_guest("ioapic: write to register %#x is ignored", io->sel);
}

static uint64_t ioapic_read(void *opaque, gpa_t off, unsigned size)
{
    struct ioapic *io = opaque;

    switch (off & 0xff) {
    case IOREGSEL:
        return io->sel;
    case IOWIN:
        return reg_read(io);
    }
    return 0;
}
static void ioapic_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct ioapic *io = opaque;

    switch (off & 0xff) {
    case IOREGSEL:
        io->sel = (uint8_t)val;
        break;
    case IOWIN:
        reg_write(io, (uint32_t)val);
        break;
    case IOEOI:
        eoi_locked(io, (uint8_t)val);
        break;
    }
}
static const struct mem_ops ioapic_ops = {.read = ioapic_read, .write = ioapic_write, .impl_min = 1, .impl_max = 4};

/* ---- life ---- */

static void ioapic_reset(struct dev *d)
{
    struct ioapic *io = container_of(d, struct ioapic, dev);

    io->id = io->sel = 0;
    io->irr = io->held = 0;
    clk_timer_cancel(&io->timer);
    memset(io->again, 0, sizeof io->again);
    for (unsigned n = 0; n < IOAPIC_PINS; n++)
        io->rte[n] = RTE_MASK;
}

static bool ioapic_realize(struct dev *d, struct err **errp)
{
    struct ioapic *io = container_of(d, struct ioapic, dev);

    io->abus = apic_bus_get(dev_machine(d), errp);
    if (!io->abus)
        return false;
    if (io->abus->nr_ioapics == ARRAY_LEN(io->abus->ioapics))
        return err_set(errp, "ioapic: too many of them in one machine");
    io->abus->ioapics[io->abus->nr_ioapics++] = io;
    mem_region_init_io(&io->regs, dev_machine(d)->mem_sys, &ioapic_ops, io, "ioapic", 0x1000);
    dev_add_mmio(d, &io->regs);
    dev_add_irq_in(d, NULL, ioapic_input, IOAPIC_PINS);
    clk_timer_init(&io->timer, dev_vclk(d), let_go, io);
    io->state_hook = (struct machine_hook){.fn = let_go, .opaque = io};
    machine_on_state(dev_machine(d), &io->state_hook);
    ioapic_reset(d);
    return true;
}

static void ioapic_unrealize(struct dev *d)
{
    struct ioapic *io = container_of(d, struct ioapic, dev);
    struct apic_bus *b = io->abus;

    machine_hook_del(&io->state_hook);
    clk_timer_cancel(&io->timer);
    mem_region_free(&io->regs);
    for (unsigned i = 0; i < b->nr_ioapics; i++)
        if (b->ioapics[i] == io)
            b->ioapics[i] = b->ioapics[--b->nr_ioapics];
}

struct dev *ioapic_create(struct machine *m, gpa_t base, const char *id, struct err **errp)
{
    struct dev *d = dev_new(m, "ioapic", errp);

    if (!d || !dev_realize(d, NULL, id, errp))
        return NULL;
    dev_map_mmio(d, 0, base);
    return d;
}

char *ioapic_info(struct dev *d)
{
    struct ioapic *io = container_of(d, struct ioapic, dev);
    struct strbuf b = {0};

    str_addf(&b, "ioapic0: ver=0x%x id=0x%02x sel=0x%02x\n", IOAPIC_VERSION, io->id, io->sel);
    for (unsigned n = 0; n < IOAPIC_PINS; n++)
        str_addf(&b, "  pin %-2u 0x%016" PRIx64 " dest=%" PRIu64 " vec=%-3u %s %s\n", n, io->rte[n], io->rte[n] >> 56,
                 (uint8_t)io->rte[n], io->rte[n] & RTE_LEVEL ? "level" : "edge", io->rte[n] & RTE_MASK ? "masked" : "");
    str_addf(&b, "  IRR %#x\n", io->irr);
    return str_take(&b);
}

static const struct state_field ioapic_fields[] = {STATE_U8(struct ioapic, id),     STATE_U8(struct ioapic, sel),
                                                   STATE_U32(struct ioapic, irr),   STATE_U32(struct ioapic, level),
                                                   STATE_ARRAY(struct ioapic, rte), STATE_END};
static const struct dev_class ioapic_class = {.name = "ioapic",
                                              .parent = "sys-bus-device",
                                              .size = sizeof(struct ioapic),
                                              .board_only = true,
                                              .realize = ioapic_realize,
                                              .unrealize = ioapic_unrealize,
                                              .reset = ioapic_reset,
                                              .state_version = 1,
                                              .state = ioapic_fields};
DEV_REGISTER(ioapic_class)
