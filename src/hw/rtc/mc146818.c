/* MC146818 real-time clock and CMOS RAM at ports 70h/71h, with the PC's century byte at 32h.
 *
 * Motorola MC146818 data sheet (ADI-856R2). The time is an offset to the host's wall clock (or to guest time when the
 * machine's clock is stepped), turned into registers when they are read. Update-ended and alarm flags are brought up to
 * date on reads of register C and by a timer while somebody wants the interrupt. Not modelled: daylight saving, square
 * wave output, a week day that disagrees with the date, sub-second phase after setting the time. */
#include "hw/rtc/rtc.h"

#include "base/json.h"

#include <time.h>

enum {
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_MINUTES,
    RTC_MINUTES_ALARM,
    RTC_HOURS,
    RTC_HOURS_ALARM,
    RTC_DAY_OF_WEEK,
    RTC_DAY_OF_MONTH,
    RTC_MONTH,
    RTC_YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    SHUTDOWN_STATUS = 0x0f,
    RTC_CENTURY = 0x32
};
enum { A_UIP = 0x80, A_DV = 0x70, A_RS = 0x0f };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_DM = 0x04, B_24 = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10, D_VRT = 0x80, SHUTDOWN_S3 = 0xfe };
enum { UIP_NS = 244000, HOUR_PM = 0x80, ALARM_ANY = 0xc0, DAY = 86400 };

struct rtc {
    struct dev dev; /* first */
    struct mem_region io;
    uint8_t cmos[128], index;
    int64_t offset_ns;     /* guest time minus source clock */
    int64_t checked;       /* second up to which UF and AF are settled */
    int64_t periodic_from; /* virtual time of the last periodic tick */
    struct clk_timer second, periodic;
    struct irq_line *irq;
    int base;            /* property: 0 utc, 1 localtime, 2 offset */
    int64_t base_offset; /* property, seconds */
    struct machine_hook on_state;
};

/* ---- time ---- */

static struct clk *source(struct rtc *r)
{
    struct machine *m = dev_machine(&r->dev);

    return m->stepped ? m->run->virt : m->run->host;
}
static int64_t guest_ns(struct rtc *r)
{
    return clk_now(source(r)) + r->offset_ns;
}
static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}
static int64_t guest_sec(struct rtc *r)
{
    return floor_div(guest_ns(r), NS_PER_SEC);
}

static uint8_t enc(const struct rtc *r, int v)
{
    return (uint8_t)(r->cmos[REG_B] & B_DM ? v : v / 10 << 4 | v % 10);
}
static int dec(const struct rtc *r, uint8_t v)
{
    return r->cmos[REG_B] & B_DM ? v : (v >> 4) * 10 + (v & 0xf);
}
static uint8_t enc_hour(const struct rtc *r, int h)
{
    if (r->cmos[REG_B] & B_24)
        return enc(r, h);
    return enc(r, h % 12 ? h % 12 : 12) | (h >= 12 ? HOUR_PM : 0);
}
static int dec_hour(const struct rtc *r, uint8_t v)
{
    if (r->cmos[REG_B] & B_24)
        return dec(r, v);
    return dec(r, v & 0x7f) % 12 + (v & HOUR_PM ? 12 : 0);
}

static void regs_from_time(struct rtc *r)
{
    time_t t = guest_sec(r);
    struct tm tm;

    if (!gmtime_r(&t, &tm))
        return;
    r->cmos[RTC_SECONDS] = enc(r, tm.tm_sec);
    r->cmos[RTC_MINUTES] = enc(r, tm.tm_min);
    r->cmos[RTC_HOURS] = enc_hour(r, tm.tm_hour);
    r->cmos[RTC_DAY_OF_WEEK] = enc(r, tm.tm_wday + 1);
    r->cmos[RTC_DAY_OF_MONTH] = enc(r, tm.tm_mday);
    r->cmos[RTC_MONTH] = enc(r, tm.tm_mon + 1);
    r->cmos[RTC_YEAR] = enc(r, (tm.tm_year + 1900) % 100);
    r->cmos[RTC_CENTURY] = enc(r, (tm.tm_year + 1900) / 100);
}

static void time_from_regs(struct rtc *r)
{
    struct tm tm = {
        .tm_sec = dec(r, r->cmos[RTC_SECONDS]),
        .tm_min = dec(r, r->cmos[RTC_MINUTES]),
        .tm_hour = dec_hour(r, r->cmos[RTC_HOURS]),
        .tm_mday = dec(r, r->cmos[RTC_DAY_OF_MONTH]),
        .tm_mon = dec(r, r->cmos[RTC_MONTH]) - 1,
        .tm_year = dec(r, r->cmos[RTC_YEAR]) + dec(r, r->cmos[RTC_CENTURY]) * 100 - 1900,
    };
    /* What nanoseconds hold, and their distance from now: the years 1748 to 2255. */
    int64_t t = max_i64(-7000000000, min_i64(timegm(&tm), 9000000000));

    r->offset_ns = t * NS_PER_SEC - clk_now(source(r));
    r->checked = t;
    run_event(
        dev_machine(&r->dev)->run, "RTC_CHANGE",
        json_make("i:offset", floor_div(guest_ns(r) - clk_now(dev_machine(&r->dev)->run->host), NS_PER_SEC), NULL));
}

/* ---- flags ---- */

static void rtc_irq(struct rtc *r)
{
    uint8_t *c = &r->cmos[REG_C];

    *c = *c & r->cmos[REG_B] & (C_PF | C_AF | C_UF) ? *c | C_IRQF : *c & (uint8_t)~C_IRQF;
    irq_set(r->irq, !!(*c & C_IRQF));
}

static bool alarm_field(const struct rtc *r, uint8_t reg, int now, bool hour)
{
    uint8_t v = r->cmos[reg];

    return (v & ALARM_ANY) == ALARM_ANY || (hour ? dec_hour(r, v) : dec(r, v)) == now;
}
static bool alarm_at(const struct rtc *r, int64_t t)
{
    int s = (int)(((t % DAY) + DAY) % DAY);

    return alarm_field(r, RTC_SECONDS_ALARM, s % 60, false) && alarm_field(r, RTC_MINUTES_ALARM, s / 60 % 60, false) &&
           alarm_field(r, RTC_HOURS_ALARM, s / 3600, true);
}

/* Settles UF and AF up to the current second. */
static void catch_up(struct rtc *r)
{
    int64_t t = guest_sec(r);

    if (r->cmos[REG_B] & B_SET || t == r->checked)
        return;
    if (t > r->checked && t - r->checked <= DAY)
        for (int64_t s = r->checked + 1; s <= t && !(r->cmos[REG_C] & C_AF); s++)
            if (alarm_at(r, s))
                r->cmos[REG_C] |= C_AF;
    r->cmos[REG_C] |= C_UF;
    r->checked = t;
    rtc_irq(r);
}

/* When a source-clock moment arrives, in guest time: both advance alike while the machine runs. */
static void second_arm(struct rtc *r)
{
    int64_t left;

    clk_timer_cancel(&r->second);
    if (!(r->cmos[REG_B] & (B_UIE | B_AIE)) || (r->cmos[REG_B] & B_SET))
        return;
    left = (guest_sec(r) + 1) * NS_PER_SEC - guest_ns(r);
    clk_timer_set(&r->second, clk_now(source(r)) + left);
}
static void second_expired(void *opaque)
{
    struct rtc *r = opaque;

    catch_up(r);
    second_arm(r);
}

static int64_t period_ns(const struct rtc *r)
{
    unsigned rs = r->cmos[REG_A] & A_RS;

    if (!rs)
        return 0;
    return (NS_PER_SEC << (rs < 3 ? rs + 6 : rs - 1)) / 32768;
}
static void periodic_arm(struct rtc *r)
{
    int64_t p = period_ns(r);

    if (p && (r->cmos[REG_B] & B_PIE))
        clk_timer_set(&r->periodic, r->periodic_from + p);
    else
        clk_timer_cancel(&r->periodic);
}
static void periodic_settle(struct rtc *r)
{
    int64_t p = period_ns(r), t = clk_now(dev_vclk(&r->dev));

    if (!p || t - r->periodic_from < p)
        return;
    r->periodic_from += (t - r->periodic_from) / p * p;
    r->cmos[REG_C] |= C_PF;
    rtc_irq(r);
}
static void periodic_expired(void *opaque)
{
    periodic_settle(opaque);
    periodic_arm(opaque);
}

/* ---- registers ---- */

static uint8_t reg_read(struct rtc *r, uint8_t i)
{
    uint8_t v;

    switch (i) {
    case RTC_SECONDS:
    case RTC_MINUTES:
    case RTC_HOURS:
    case RTC_DAY_OF_WEEK ... RTC_YEAR:
    case RTC_CENTURY:
        if (!(r->cmos[REG_B] & B_SET))
            regs_from_time(r);
        return r->cmos[i];
    case REG_A:
        v = r->cmos[REG_A];
        if (!(r->cmos[REG_B] & B_SET) && guest_ns(r) - guest_sec(r) * NS_PER_SEC >= NS_PER_SEC - UIP_NS)
            v |= A_UIP;
        return v;
    case REG_C:
        catch_up(r);
        periodic_settle(r);
        v = r->cmos[REG_C];
        r->cmos[REG_C] = 0;
        rtc_irq(r);
        return v;
    }
    return r->cmos[i];
}

static void write_b(struct rtc *r, uint8_t v)
{
    uint8_t old = r->cmos[REG_B];

    catch_up(r);
    if ((v & B_SET) && !(old & B_SET))
        regs_from_time(r);
    if (v & B_SET)
        v &= (uint8_t)~B_UIE;
    r->cmos[REG_B] = v;
    if (!(v & B_SET) && (old & B_SET))
        time_from_regs(r);
    if ((v & ~old) & B_PIE)
        r->periodic_from = clk_now(dev_vclk(&r->dev));
    rtc_irq(r);
    second_arm(r);
    periodic_arm(r);
}

static void reg_write(struct rtc *r, uint8_t i, uint8_t v)
{
    switch (i) {
    case RTC_SECONDS:
    case RTC_MINUTES:
    case RTC_HOURS:
    case RTC_DAY_OF_WEEK ... RTC_YEAR:
    case RTC_CENTURY:
        if (!(r->cmos[REG_B] & B_SET))
            regs_from_time(r);
        r->cmos[i] = v;
        if (!(r->cmos[REG_B] & B_SET))
            time_from_regs(r);
        second_arm(r);
        break;
    case REG_A:
        periodic_settle(r);
        r->cmos[REG_A] = v & (uint8_t)~A_UIP;
        periodic_arm(r);
        break;
    case REG_B:
        write_b(r, v);
        break;
    case REG_C:
    case REG_D:
        break;
    default:
        catch_up(r);
        r->cmos[i] = v;
    }
}

static uint64_t rtc_read(void *opaque, gpa_t off, unsigned size)
{
    struct rtc *r = opaque;

    return off ? reg_read(r, r->index) : 0xff;
}
static void rtc_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct rtc *r = opaque;

    if (off)
        reg_write(r, r->index, (uint8_t)val);
    else
        r->index = val & 0x7f;
}
static const struct mem_ops rtc_ops = {.read = rtc_read, .write = rtc_write, .impl_max = 1};

/* ---- for the board ---- */

static struct rtc *rtc_of(struct dev *d)
{
    return container_of(d, struct rtc, dev);
}
void rtc_cmos_set(struct dev *d, uint8_t index, uint8_t val)
{
    rtc_of(d)->cmos[index & 0x7f] = val;
}
/* ---- life ---- */

/* Shutdown status FEh tells the firmware that a reset is a wake-up from S3. */
static void state_changed(void *opaque)
{
    struct rtc *r = opaque;

    if (dev_machine(&r->dev)->state == RS_SUSPENDED)
        r->cmos[SHUTDOWN_STATUS] = SHUTDOWN_S3;
}

static int64_t first_offset(struct rtc *r)
{
    int64_t host = clk_now(dev_machine(&r->dev)->run->host), off = 0;
    time_t t = host / NS_PER_SEC;
    struct tm tm;

    if (r->base == 1 && localtime_r(&t, &tm))
        off = tm.tm_gmtoff;
    else if (r->base == 2)
        off = r->base_offset;
    return host + off * NS_PER_SEC - clk_now(source(r));
}

static void rtc_reset(struct dev *d)
{
    struct rtc *r = rtc_of(d);

    r->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | 0x08);
    r->cmos[REG_C] = 0;
    rtc_irq(r);
    second_arm(r);
    periodic_arm(r);
}

static bool rtc_realize(struct dev *d, struct err **errp)
{
    struct rtc *r = rtc_of(d);

    r->cmos[REG_A] = 0x26;
    r->cmos[REG_B] = B_24;
    r->cmos[REG_D] = D_VRT;
    r->offset_ns = first_offset(r);
    r->checked = guest_sec(r);
    clk_timer_init(&r->second, source(r), second_expired, r);
    clk_timer_init(&r->periodic, dev_vclk(d), periodic_expired, r);
    mem_region_init_io(&r->io, dev_machine(d)->mem_sys, &rtc_ops, r, "rtc", 2);
    dev_map_io(d, &r->io, 0x70);
    dev_add_irq(d, &r->irq);
    r->on_state = (struct machine_hook){.fn = state_changed, .opaque = r};
    machine_on_state(dev_machine(d), &r->on_state);
    return true;
}
static void rtc_unrealize(struct dev *d)
{
    struct rtc *r = rtc_of(d);

    clk_timer_cancel(&r->second);
    clk_timer_cancel(&r->periodic);
    machine_hook_del(&r->on_state);
    mem_region_free(&r->io);
}

static bool rtc_loaded(void *obj, struct err **errp)
{
    struct rtc *r = obj;

    if (!state_time_ok(r->offset_ns) || !state_time_ok(r->checked) || !state_time_ok(r->periodic_from))
        return false;
    second_arm(r);
    periodic_arm(r);
    return true;
}
static const char *const base_names[] = {"utc", "localtime", "offset", NULL};
static const struct prop rtc_props[] = {
    PROP("base", enum, struct rtc, base, .names = base_names),
    PROP("offset", i64, struct rtc, base_offset),
    PROP_END,
};
static const struct state_field rtc_fields[] = {STATE_BYTES(struct rtc, cmos),        STATE_U8(struct rtc, index),
                                                STATE_I64(struct rtc, offset_ns),     STATE_I64(struct rtc, checked),
                                                STATE_I64(struct rtc, periodic_from), STATE_END};
static const struct state_desc rtc_state = {
    .name = "mc146818rtc", .version = 1, .fields = rtc_fields, .post_load = rtc_loaded};
static const struct dev_class rtc_class = {.name = "mc146818rtc",
                                           .parent = "isa-device",
                                           .size = sizeof(struct rtc),
                                           .props = rtc_props,
                                           .board_only = true,
                                           .realize = rtc_realize,
                                           .unrealize = rtc_unrealize,
                                           .reset = rtc_reset,
                                           .state_version = 1,
                                           .state_desc = &rtc_state};
DEV_REGISTER(rtc_class)
