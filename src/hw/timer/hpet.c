/* High precision event timer with three comparators on a 100 MHz 64-bit counter.
 *
 * IA-PC HPET Specification 1.0a. Counter and comparators are computed from the virtual clock; each comparator arms one
 * timer. Interrupt messages (FSB delivery) are offered by all comparators. */
#include "hw/timer/hpet.h"

#include "base/bytes.h"

enum { HPET_TIMERS = 3, HPET_TICK_NS = 10, HPET_FS = 10000000 };
enum { GCAP_ID = 0x000, GEN_CONF = 0x010, GINTR_STA = 0x020, MAIN_CNT = 0x0f0, TIM0 = 0x100 };
enum { ENABLE_CNF = 1, LEG_RT_CNF = 2 };
enum {
    INT_TYPE_CNF = 1 << 1,
    INT_ENB_CNF = 1 << 2,
    TYPE_CNF = 1 << 3,
    PER_INT_CAP = 1 << 4,
    SIZE_CAP = 1 << 5,
    VAL_SET_CNF = 1 << 6,
    MODE32_CNF = 1 << 8,
    FSB_EN_CNF = 1 << 14,
    FSB_INT_DEL_CAP = 1 << 15
};
enum {
    TIM_WRITABLE = INT_TYPE_CNF | INT_ENB_CNF | TYPE_CNF | VAL_SET_CNF | MODE32_CNF | 0x3e00 | FSB_EN_CNF,
    PERIOD_MIN_NS = 10000
};
#define ROUTE_CAP UINT64_C(0x00ff0104) /* IOAPIC inputs 2, 8 and 16-23 */
#define CAP_LOW   (UINT32_C(0x80860000) | 1u << 15 | 1u << 13 | (HPET_TIMERS - 1) << 8 | 1)

struct hpet;
struct hpet_timer {
    struct hpet *h; /* borrowed */
    unsigned n;
    uint64_t conf, cmp, period, fsb;
    struct clk_timer timer;
};
struct hpet {
    struct dev dev; /* first */
    struct mem_region regs;
    struct irq_line *gsi[24]; /* borrowed */
    uint64_t conf, isr;
    uint64_t counter; /* while stopped; else what it was when it started */
    int64_t started;
    struct hpet_timer tim[HPET_TIMERS];
};

static int64_t now(struct hpet *h)
{
    return clk_now(dev_vclk(&h->dev));
}
static bool running(const struct hpet *h)
{
    return h->conf & ENABLE_CNF;
}
static uint64_t counter(struct hpet *h)
{
    return running(h) ? h->counter + (uint64_t)(now(h) - h->started) / HPET_TICK_NS : h->counter;
}
static bool legacy(const struct hpet *h)
{
    return h->conf & LEG_RT_CNF;
}

/* ---- comparators ---- */

static struct irq_line *line_of(struct hpet_timer *t)
{
    if (legacy(t->h) && t->n < 2)
        return t->h->gsi[t->n ? 8 : 0];
    return (t->conf >> 9 & 31) < 24 ? t->h->gsi[t->conf >> 9 & 31] : NULL;
}

static void lower(struct hpet_timer *t)
{
    irq_set(line_of(t), 0);
}

static void raise_irq(struct hpet_timer *t)
{
    uint64_t bit = UINT64_C(1) << t->n;

    if (t->conf & INT_TYPE_CNF)
        t->h->isr |= bit;
    if (!(t->conf & INT_ENB_CNF))
        return;
    if (t->conf & FSB_EN_CNF)
        mem_store(dev_machine(&t->h->dev)->mem, t->fsb >> 32, 4, (uint32_t)t->fsb);
    else if (t->conf & INT_TYPE_CNF)
        irq_set(line_of(t), 1);
    else
        irq_pulse(line_of(t));
}

static uint64_t distance(const struct hpet_timer *t, uint64_t from)
{
    return t->conf & MODE32_CNF ? (uint32_t)(t->cmp - from) : t->cmp - from;
}

static void arm(struct hpet_timer *t)
{
    uint64_t d;

    if (!running(t->h)) {
        clk_timer_cancel(&t->timer);
        return;
    }
    d = distance(t, counter(t->h));
    if (d > INT64_MAX / 2 / HPET_TICK_NS)
        d = INT64_MAX / 2 / HPET_TICK_NS;
    if (t->conf & TYPE_CNF && d < PERIOD_MIN_NS / HPET_TICK_NS && t->period < PERIOD_MIN_NS / HPET_TICK_NS)
        d = PERIOD_MIN_NS / HPET_TICK_NS;
    clk_timer_set(&t->timer, now(t->h) + (int64_t)d * HPET_TICK_NS);
}

static void fired(void *opaque)
{
    struct hpet_timer *t = opaque;
    uint64_t cur = counter(t->h);

    if ((t->conf & TYPE_CNF) && t->period) {
        uint64_t late = t->conf & MODE32_CNF ? (uint32_t)(cur - t->cmp) : cur - t->cmp;

        t->cmp += (late / t->period + 1) * t->period;
        if (t->conf & MODE32_CNF)
            t->cmp = (uint32_t)t->cmp;
        arm(t);
    } else if (t->conf & MODE32_CNF) {
        clk_timer_set(&t->timer, now(t->h) + (INT64_C(1) << 32) * HPET_TICK_NS); /* the low half comes round again */
    }
    raise_irq(t);
}

/* ---- registers ---- */

static uint64_t tim_read(struct hpet_timer *t, unsigned reg)
{
    switch (reg) {
    case 0x00:
        return t->conf | PER_INT_CAP | SIZE_CAP | FSB_INT_DEL_CAP | ROUTE_CAP << 32;
    case 0x08:
        return t->cmp;
    case 0x10:
        return t->fsb;
    }
    return 0;
}

static uint64_t reg_read(struct hpet *h, gpa_t off)
{
    if (off >= TIM0 && off < TIM0 + HPET_TIMERS * 0x20)
        return tim_read(&h->tim[(off - TIM0) / 0x20], off & 0x18);
    switch (off) {
    case GCAP_ID:
        return CAP_LOW | (uint64_t)HPET_FS << 32;
    case GEN_CONF:
        return h->conf;
    case GINTR_STA:
        return h->isr;
    case MAIN_CNT:
        return counter(h);
    }
    return 0;
}

static void conf_write(struct hpet_timer *t, uint64_t v)
{
    uint64_t old = t->conf;

    lower(t);
    t->conf = v & TIM_WRITABLE;
    if (t->conf & MODE32_CNF) {
        t->cmp = (uint32_t)t->cmp;
        t->period = (uint32_t)t->period;
    }
    if ((t->conf & INT_TYPE_CNF) && (t->conf & INT_ENB_CNF) && (t->h->isr >> t->n & 1))
        irq_set(line_of(t), 1);
    if ((old ^ t->conf) & (MODE32_CNF | TYPE_CNF | INT_ENB_CNF))
        arm(t);
}

static void cmp_write(struct hpet_timer *t, uint64_t v)
{
    if (t->conf & MODE32_CNF)
        v = (uint32_t)v;
    if (!(t->conf & TYPE_CNF) || (t->conf & VAL_SET_CNF))
        t->cmp = v;
    if (t->conf & TYPE_CNF)
        t->period = v;
    t->conf &= ~(uint64_t)VAL_SET_CNF;
    arm(t);
}

static void tim_write(struct hpet_timer *t, unsigned reg, uint64_t v)
{
    switch (reg) {
    case 0x00:
        conf_write(t, v);
        break;
    case 0x08:
        cmp_write(t, v);
        break;
    case 0x10:
        t->fsb = v;
        break;
    }
}

static void general_conf(struct hpet *h, uint64_t v)
{
    uint64_t c = counter(h);

    h->counter = c;
    h->started = now(h);
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        if ((h->conf ^ v) & LEG_RT_CNF)
            lower(&h->tim[n]);
    h->conf = v & (ENABLE_CNF | LEG_RT_CNF);
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        arm(&h->tim[n]);
}

static void status_write(struct hpet *h, uint64_t v)
{
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        if ((v & h->isr) >> n & 1)
            lower(&h->tim[n]);
    h->isr &= ~v;
}

static void reg_write(struct hpet *h, gpa_t off, uint64_t v)
{
    if (off >= TIM0 && off < TIM0 + HPET_TIMERS * 0x20) {
        tim_write(&h->tim[(off - TIM0) / 0x20], off & 0x18, v);
        return;
    }
    switch (off) {
    case GEN_CONF:
        general_conf(h, v);
        break;
    case GINTR_STA:
        status_write(h, v);
        break;
    case MAIN_CNT:
        if (running(h))
            log_guest("hpet: counter written while it runs");
        h->counter = v;
        h->started = now(h);
        for (unsigned n = 0; n < HPET_TIMERS; n++)
            arm(&h->tim[n]);
        break;
    }
}

static uint64_t hpet_read(void *opaque, gpa_t off, unsigned size)
{
    uint64_t v = reg_read(opaque, off & ~(gpa_t)7);

    return size == 8 ? v : v >> 8 * (off & 4) & UINT32_MAX;
}
/* Halves merge with the other half; the status register must not, its bits are write-one-to-clear. */
static void hpet_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct hpet *h = opaque;
    gpa_t reg = off & ~(gpa_t)7;
    unsigned shift = 8 * (off & 4);

    if (size == 4 && reg == GINTR_STA)
        val <<= shift;
    else if (size == 4)
        val = (reg_read(h, reg) & ~((uint64_t)UINT32_MAX << shift)) | val << shift;
    reg_write(h, reg, val);
}
static const struct mem_ops hpet_ops = {
    .read = hpet_read, .write = hpet_write, .valid_min = 4, .valid_max = 8, .impl_min = 4, .impl_max = 8};

/* ---- life ---- */

static void legacy_in(void *opaque, int n, int level)
{
    struct hpet *h = opaque;

    if (!legacy(h))
        irq_set(h->gsi[n ? 8 : 0], level);
}

static void hpet_reset(struct dev *d)
{
    struct hpet *h = container_of(d, struct hpet, dev);

    h->conf = h->isr = h->counter = 0;
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        struct hpet_timer *t = &h->tim[n];

        clk_timer_cancel(&t->timer);
        t->conf = t->period = t->fsb = 0;
        t->cmp = UINT64_MAX;
    }
}

static bool hpet_realize(struct dev *d, struct err **errp)
{
    struct hpet *h = container_of(d, struct hpet, dev);

    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        h->tim[n].h = h;
        h->tim[n].n = n;
        clk_timer_init(&h->tim[n].timer, dev_vclk(d), fired, &h->tim[n]);
    }
    mem_region_init_io(&h->regs, dev_machine(d)->mem_sys, &hpet_ops, h, "hpet", 0x400);
    dev_add_mmio(d, &h->regs);
    dev_add_irq_in(d, "legacy", legacy_in, 2);
    hpet_reset(d);
    return true;
}
static void hpet_unrealize(struct dev *d)
{
    struct hpet *h = container_of(d, struct hpet, dev);

    for (unsigned n = 0; n < HPET_TIMERS; n++)
        clk_timer_cancel(&h->tim[n].timer);
    mem_region_free(&h->regs);
}

struct dev *hpet_create(struct machine *m, struct irq_line *const gsi[24], struct err **errp)
{
    struct dev *d = dev_new(m, "hpet", errp);

    if (!d || !dev_realize(d, NULL, NULL, errp))
        return NULL;
    memcpy(container_of(d, struct hpet, dev)->gsi, gsi, sizeof(struct irq_line *) * 24);
    dev_map_mmio(d, 0, HPET_BASE);
    return d;
}

static const struct state_field timer_fields[] = {
    STATE_U64(struct hpet_timer, conf), STATE_U64(struct hpet_timer, cmp),     STATE_U64(struct hpet_timer, period),
    STATE_U64(struct hpet_timer, fsb),  STATE_TIMER(struct hpet_timer, timer), STATE_END};
static const struct state_desc timer_state = {.name = "hpet-timer", .version = 1, .fields = timer_fields};
static const struct state_field hpet_fields[] = {STATE_U64(struct hpet, conf),
                                                 STATE_U64(struct hpet, isr),
                                                 STATE_U64(struct hpet, counter),
                                                 STATE_I64(struct hpet, started),
                                                 STATE_STRUCTS(struct hpet, tim, timer_state),
                                                 STATE_END};
static bool hpet_loaded(void *obj, struct err **errp)
{
    return state_time_ok(((struct hpet *)obj)->started);
}
static const struct state_desc hpet_state = {
    .name = "hpet", .version = 1, .fields = hpet_fields, .post_load = hpet_loaded};
static const struct dev_class hpet_class = {.name = "hpet",
                                            .parent = "sys-bus-device",
                                            .size = sizeof(struct hpet),
                                            .board_only = true,
                                            .realize = hpet_realize,
                                            .unrealize = hpet_unrealize,
                                            .reset = hpet_reset,
                                            .state_desc = &hpet_state};
DEV_REGISTER(hpet_class)
