/* 8254 programmable interval timer at port 40h: three counters on the 1.193182 MHz clock of the PC.
 *
 * Intel 82C54 data sheet (231244-006). Counts are computed from the virtual clock when somebody looks; only counter 0
 * keeps a timer, for its output's rising edges (IRQ 0). Not modelled: the one-clock delay between writing and loading a
 * count, null count after the first clock, and loading a new count at the end of the period in modes 2 and 3 (it takes
 * effect at once). */
#include "hw/timer/i8254.h"

enum { RW_LATCH, RW_LOW, RW_HIGH, RW_BOTH };

struct pit_chan {
    uint32_t count;     /* 1..65536 */
    int64_t start;      /* when it was loaded or triggered */
    int64_t stopped_at; /* gate low in modes 0 and 4: ticks already counted */
    uint16_t latch;
    uint8_t latched; /* bytes of latch still to be read */
    uint8_t status;
    bool status_latched, gate, write_high, read_high, armed, bcd;
    uint8_t rw, mode, low;
};
struct pit {
    struct dev dev; /* first */
    struct mem_region io;
    struct pit_chan ch[3];
    struct clk_timer timer;
    struct irq_line *irq;
};

static int64_t now(struct pit *p)
{
    return clk_now(dev_vclk(&p->dev));
}
static int64_t to_ticks(int64_t ns)
{
    return (int64_t)((__int128)ns * PIT_HZ / NS_PER_SEC);
}
/* The first nanosecond at which n ticks have passed. */
static int64_t to_ns(int64_t n)
{
    return (int64_t)(((__int128)n * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

static bool one_shot(const struct pit_chan *c)
{
    return c->mode != 2 && c->mode != 3;
}
static int64_t elapsed(struct pit *p, const struct pit_chan *c)
{
    if (!c->gate && c->mode != 1 && c->mode != 5)
        return c->stopped_at;
    return to_ticks(now(p) - c->start);
}

/* The output after d ticks. */
static bool out_after(const struct pit_chan *c, int64_t d)
{
    if (!c->armed)
        return c->mode != 0;
    switch (c->mode) {
    case 0:
    case 1:
        return d >= c->count;
    case 2:
        return !c->gate || d % c->count != c->count - 1;
    case 3:
        return !c->gate || d % c->count < (c->count + 1) / 2;
    default:
        return d != c->count;
    }
}

static bool out(struct pit *p, const struct pit_chan *c)
{
    return out_after(c, elapsed(p, c));
}

static uint16_t bcd_of(uint32_t v)
{
    v %= 10000;
    return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 << 12);
}

static uint16_t current(struct pit *p, const struct pit_chan *c)
{
    int64_t d = c->armed ? elapsed(p, c) : 0;
    uint32_t v;

    switch (c->mode) {
    case 2:
        v = (uint32_t)(c->count - d % c->count);
        break;
    case 3:
        v = (uint32_t)(c->count - 2 * d % c->count) & ~1u;
        break;
    default:
        v = (uint32_t)((uint64_t)c->count - (uint64_t)d);
    }
    if (!c->bcd)
        return (uint16_t)v;
    return bcd_of(d <= c->count ? v : 10000 - (uint32_t)((uint64_t)(d - c->count) % 10000));
}

/* ---- counter 0 and its interrupt ---- */

static void schedule(struct pit *p)
{
    struct pit_chan *c = &p->ch[0];
    int64_t d = elapsed(p, c);

    clk_timer_cancel(&p->timer);
    if (!c->armed || !c->gate)
        return;
    if (!one_shot(c))
        clk_timer_set(&p->timer, c->start + to_ns((d / c->count + 1) * c->count));
    else if (d < c->count)
        clk_timer_set(&p->timer, c->start + to_ns(c->count));
}

static void pit_expired(void *opaque)
{
    struct pit *p = opaque;

    if (p->ch[0].mode)
        irq_set(p->irq, 0); /* the low part of the wave is not shown on its own */
    irq_set(p->irq, 1);
    schedule(p);
}

static void restart(struct pit *p, struct pit_chan *c)
{
    c->start = now(p);
    c->stopped_at = 0;
    c->armed = true;
    if (c == &p->ch[0]) {
        irq_set(p->irq, c->mode != 0);
        schedule(p);
    }
}

static void load(struct pit *p, struct pit_chan *c, uint16_t v)
{
    if (c->bcd) {
        uint32_t n = (v & 0xf) + (v >> 4 & 0xf) * 10u + (v >> 8 & 0xf) * 100u + (v >> 12) * 1000u;

        c->count = n ? n : 10000;
    } else {
        c->count = v ? v : 65536;
    }
    if (c->mode == 1 || c->mode == 5)
        c->armed = false; /* waits for the gate */
    else
        restart(p, c);
}

/* ---- registers ---- */

static void latch_count(struct pit *p, struct pit_chan *c)
{
    if (c->latched)
        return;
    c->latch = current(p, c);
    c->latched = c->rw == RW_BOTH ? 2 : 1;
}

static void read_back(struct pit *p, uint8_t v)
{
    for (unsigned i = 0; i < 3; i++) {
        struct pit_chan *c = &p->ch[i];

        if (!(v & 2 << i))
            continue;
        if (!(v & 0x20))
            latch_count(p, c);
        if (!(v & 0x10) && !c->status_latched) {
            c->status = (uint8_t)(out(p, c) << 7 | !c->armed << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
            c->status_latched = true;
        }
    }
}

static void write_control(struct pit *p, uint8_t v)
{
    struct pit_chan *c;
    unsigned mode = v >> 1 & 7;

    if (v >> 6 == 3) {
        read_back(p, v);
        return;
    }
    c = &p->ch[v >> 6];
    if (!(v >> 4 & 3)) {
        latch_count(p, c);
        return;
    }
    c->rw = v >> 4 & 3;
    c->mode = (uint8_t)(mode > 5 ? mode - 4 : mode);
    c->bcd = v & 1;
    c->armed = c->write_high = c->read_high = c->status_latched = false;
    c->latched = 0;
    if (c == &p->ch[0]) {
        clk_timer_cancel(&p->timer);
        irq_set(p->irq, c->mode != 0);
    }
}

static void write_count(struct pit *p, struct pit_chan *c, uint8_t v)
{
    switch (c->rw) {
    case RW_LOW:
        load(p, c, v);
        break;
    case RW_HIGH:
        load(p, c, (uint16_t)(v << 8));
        break;
    default:
        if (!c->write_high)
            c->low = v;
        else
            load(p, c, (uint16_t)(v << 8 | c->low));
        c->write_high = !c->write_high;
    }
}

static void pit_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pit *p = opaque;

    if (off == 3)
        write_control(p, (uint8_t)val);
    else
        write_count(p, &p->ch[off], (uint8_t)val);
}

static uint64_t pit_read(void *opaque, gpa_t off, unsigned size)
{
    struct pit *p = opaque;
    struct pit_chan *c = &p->ch[off];
    bool high;
    uint16_t v;

    if (off == 3)
        return 0xff; /* the control word cannot be read */
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    high = c->rw == RW_HIGH || (c->rw == RW_BOTH && c->read_high);
    if (c->rw == RW_BOTH)
        c->read_high = !c->read_high;
    v = c->latched ? c->latch : current(p, c);
    if (c->latched)
        c->latched--;
    return high ? v >> 8 : v & 0xff;
}
static const struct mem_ops pit_ops = {.read = pit_read, .write = pit_write, .impl_max = 1};

/* ---- for others ---- */

void pit_set_gate(struct dev *d, unsigned channel, bool level)
{
    struct pit *p = container_of(d, struct pit, dev);
    struct pit_chan *c = &p->ch[channel];

    if (level == c->gate)
        return;
    if (!level) {
        c->stopped_at = c->armed ? elapsed(p, c) : 0;
        c->gate = false;
        return;
    }
    c->gate = true;
    if (c->mode == 0 || c->mode == 4)
        c->start = now(p) - to_ns(c->stopped_at);
    else if (c->armed || !one_shot(c) || c->mode == 1 || c->mode == 5)
        restart(p, c);
}
bool pit_get_out(struct dev *d, unsigned channel)
{
    struct pit *p = container_of(d, struct pit, dev);

    return out(p, &p->ch[channel]);
}

bool pit_get_wave(struct dev *d, unsigned channel, int64_t t)
{
    const struct pit_chan *c = &container_of(d, struct pit, dev)->ch[channel];

    return out_after(c, t > c->start ? to_ticks(t - c->start) : 0);
}

uint32_t pit_get_period(struct dev *d, unsigned channel)
{
    const struct pit_chan *c = &container_of(d, struct pit, dev)->ch[channel];

    return c->armed && c->gate && !one_shot(c) ? c->count : 0;
}

/* ---- life ---- */

static void pit_reset(struct dev *d)
{
    struct pit *p = container_of(d, struct pit, dev);

    clk_timer_cancel(&p->timer);
    for (unsigned i = 0; i < 3; i++)
        p->ch[i] = (struct pit_chan){.mode = 3, .rw = RW_BOTH, .gate = i != 2, .count = 65536};
    irq_set(p->irq, 1); /* mode 3 before its first count: the output is high */
}

static bool pit_realize(struct dev *d, struct err **errp)
{
    struct pit *p = container_of(d, struct pit, dev);

    clk_timer_init(&p->timer, dev_vclk(d), pit_expired, p);
    mem_region_init_io(&p->io, dev_machine(d)->mem_sys, &pit_ops, p, "pit", 4);
    dev_map_io(d, &p->io, 0x40);
    dev_add_irq(d, &p->irq);
    pit_reset(d);
    return true;
}
static void pit_unrealize(struct dev *d)
{
    struct pit *p = container_of(d, struct pit, dev);

    clk_timer_cancel(&p->timer);
    mem_region_free(&p->io);
}

static const struct state_field chan_fields[] = {STATE_U32(struct pit_chan, count),
                                                 STATE_I64(struct pit_chan, start),
                                                 STATE_I64(struct pit_chan, stopped_at),
                                                 STATE_U16(struct pit_chan, latch),
                                                 STATE_U8(struct pit_chan, latched),
                                                 STATE_U8(struct pit_chan, status),
                                                 STATE_BOOL(struct pit_chan, status_latched),
                                                 STATE_BOOL(struct pit_chan, gate),
                                                 STATE_BOOL(struct pit_chan, write_high),
                                                 STATE_BOOL(struct pit_chan, read_high),
                                                 STATE_BOOL(struct pit_chan, armed),
                                                 STATE_BOOL(struct pit_chan, bcd),
                                                 STATE_U8(struct pit_chan, rw),
                                                 STATE_U8(struct pit_chan, mode),
                                                 STATE_U8(struct pit_chan, low),
                                                 STATE_END};
static bool chan_loaded(void *obj, struct err **errp)
{
    struct pit_chan *c = obj;

    return c->count && c->count <= 65536 && c->mode <= 5 && state_time_ok(c->start) && state_time_ok(c->stopped_at);
}
static const struct state_desc chan_state = {
    .name = "pit-counter", .version = 1, .fields = chan_fields, .post_load = chan_loaded};
static const struct state_field pit_fields[] = {STATE_STRUCTS(struct pit, ch, chan_state),
                                                STATE_TIMER(struct pit, timer), STATE_END};
static const struct dev_class pit_class = {.name = "isa-pit",
                                           .parent = "isa-device",
                                           .size = sizeof(struct pit),
                                           .board_only = true,
                                           .realize = pit_realize,
                                           .unrealize = pit_unrealize,
                                           .reset = pit_reset,
                                           .state_version = 1,
                                           .state = pit_fields};
DEV_REGISTER(pit_class)
