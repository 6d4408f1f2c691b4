/* Local APIC and x2APIC of each vCPU, and the message window they share.
 *
 * Intel SDM volume 3 chapter 10 ("APIC"). Bus clock 1 GHz. At reset the boot processor's LINT0 is an unmasked ExtINT,
 * as firmware would set it, so that code without APIC support gets the i8259. Not modelled: bus arbitration, focus
 * processors, the CMCI, thermal and performance counter events behind their LVT entries, relocation of the register
 * page.
 *
 * Threads: IRR, TMR, TPR, identity and mode words are atomic; anybody may post an interrupt. ISR and the rest belong to
 * the vCPU's own thread. Invariant 1: after a bit of IRR was set, X86_PIN_INTR is raised. Invariant 2: the owner lowers
 * the pin only when it then finds nothing deliverable, and raises it again when something arrived in between. */
#include "hw/intc/apic_int.h"

#include "hw/intc/i8259.h"

#include <pthread.h>
#include <stdatomic.h>

enum { /* register numbers: MMIO offset >> 4, MSR - 0x800 */
       R_ID = 0x02,
       R_VERSION = 0x03,
       R_TPR = 0x08,
       R_APR = 0x09,
       R_PPR = 0x0a,
       R_EOI = 0x0b,
       R_RRD = 0x0c,
       R_LDR = 0x0d,
       R_DFR = 0x0e,
       R_SVR = 0x0f,
       R_ISR = 0x10,
       R_TMR = 0x18,
       R_IRR = 0x20,
       R_ESR = 0x28,
       R_ICR_LO = 0x30,
       R_ICR_HI = 0x31,
       R_LVT = 0x32,
       R_TICR = 0x38,
       R_TCCR = 0x39,
       R_TDCR = 0x3e,
       R_SELF_IPI = 0x3f,
};
enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, NR_LVT };
enum {
    LVT_MODE = 7 << 8,
    LVT_REMOTE_IRR = 1 << 14,
    LVT_LEVEL = 1 << 15,
    LVT_MASKED = 1 << 16,
    LVT_TIMER_MODE = 3 << 17
};
enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE };
enum { SVR_ENABLE = 1 << 8 };
enum { ESR_SEND_VECTOR = 1 << 5, ESR_RECV_VECTOR = 1 << 6, ESR_REGISTER = 1 << 7 };
enum { BASE_BSP = 1 << 8, BASE_EXTD = 1 << 10, BASE_EN = 1 << 11 };
enum { ICR_LOGICAL = 1 << 11, ICR_ASSERT = 1 << 14, ICR_LEVEL = 1 << 15 };
enum { APIC_VERSION = 0x14 | (NR_LVT - 1) << 16, PERIOD_MIN_NS = 10000, WINDOW_PAGE = 0x1000 };
#define APIC_WINDOW 0xfee00000u
#define BROADCAST   0xffffffffu

struct apic {
    struct dev dev;        /* first */
    struct vcpu *cpu;      /* borrowed */
    struct x86_port *port; /* borrowed: of cpu */
    struct apic_bus *abus; /* borrowed */
    _Atomic uint64_t base; /* IA32_APIC_BASE */
    _Atomic uint32_t irr[8], tmr[8], isr[8];
    _Atomic uint32_t id, ldr, dfr, svr, tpr;
    _Atomic uint32_t lvt[NR_LVT];
    _Atomic uint32_t esr_new;
    _Atomic bool lint0, extint; /* level of the pin; an ExtINT message */
    uint32_t esr, icr_lo, icr_hi;
    pthread_mutex_t timer_lock; /* the fields below */
    struct clk_timer timer;
    uint32_t initial, divide;
    int64_t start; /* when the count was loaded */
    uint64_t tsc_deadline;
};

static struct apic *apic_of(struct vcpu *c)
{
    struct x86_port *p = c ? x86_port(c) : NULL;

    return p ? p->apic : NULL;
}
static bool hw_enabled(const struct apic *a)
{
    return a->base & BASE_EN;
}
static bool x2_mode(const struct apic *a)
{
    return (a->base & (BASE_EN | BASE_EXTD)) == (BASE_EN | BASE_EXTD);
}

/* ---- what is deliverable ---- */

static int highest(const _Atomic uint32_t *v)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t w = v[i];

        if (w)
            return i * 32 + 31 - __builtin_clz(w);
    }
    return -1;
}

static uint32_t ppr(const struct apic *a)
{
    int in_service = highest(a->isr);
    uint32_t tpr = a->tpr, cls = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;

    return (tpr & 0xf0) >= cls ? tpr : cls;
}

static int deliverable(const struct apic *a)
{
    int v;

    if (!hw_enabled(a) || !(a->svr & SVR_ENABLE))
        return -1;
    v = highest(a->irr);
    return v >= 0 && ((uint32_t)v & 0xf0) > (ppr(a) & 0xf0) ? v : -1;
}

static bool extint_pending(const struct apic *a)
{
    uint32_t lvt = a->lvt[LVT_LINT0];

    if (a->extint)
        return true;
    return a->lint0 && (!hw_enabled(a) || (!(lvt & LVT_MASKED) && (lvt & LVT_MODE) == APIC_EXTINT << 8));
}

static bool apic_intr_pending(void *opaque)
{
    const struct apic *a = opaque;

    return deliverable(a) >= 0 || extint_pending(a);
}

/* Own thread, after anything that may have changed what is deliverable. */
static void refresh(struct apic *a)
{
    if (apic_intr_pending(a)) {
        vcpu_raise(a->cpu, X86_PIN_INTR);
        return;
    }
    vcpu_lower(a->cpu, X86_PIN_INTR);
    if (apic_intr_pending(a))
        vcpu_raise(a->cpu, X86_PIN_INTR);
}

static int apic_intr_ack(void *opaque)
{
    struct apic *a = opaque;
    int v = deliverable(a);

    if (v >= 0) {
        atomic_fetch_and(&a->irr[v / 32], ~(1u << v % 32));
        atomic_fetch_or(&a->isr[v / 32], 1u << v % 32);
    } else if (extint_pending(a) && a->port->pic_ack) {
        a->extint = false;
        v = a->port->pic_ack(a->port->pic);
    }
    refresh(a);
    return v;
}

/* ---- receiving ---- */

static void local_event(struct apic *a, unsigned n);

static void add_error(struct apic *a, uint32_t bit)
{
    if (atomic_fetch_or(&a->esr_new, bit) != bit && bit != ESR_RECV_VECTOR)
        local_event(a, LVT_ERROR);
}

static void accept_fixed(struct apic *a, uint8_t vector, bool level)
{
    uint32_t bit = 1u << vector % 32;

    if (!hw_enabled(a) || !(a->svr & SVR_ENABLE))
        return;
    if (vector < 16) {
        add_error(a, ESR_RECV_VECTOR);
        return;
    }
    if (level)
        atomic_fetch_or(&a->tmr[vector / 32], bit);
    else
        atomic_fetch_and(&a->tmr[vector / 32], ~bit);
    atomic_fetch_or(&a->irr[vector / 32], bit);
    vcpu_raise(a->cpu, X86_PIN_INTR);
}

static void accept(struct apic *a, unsigned mode, uint8_t vector, bool level)
{
    switch (mode) {
    case APIC_FIXED:
    case APIC_LOWPRI:
        accept_fixed(a, vector, level);
        break;
    case APIC_SMI:
        vcpu_raise(a->cpu, X86_PIN_SMI);
        break;
    case APIC_NMI:
        vcpu_raise(a->cpu, X86_PIN_NMI);
        break;
    case APIC_INIT:
        vcpu_raise(a->cpu, X86_PIN_INIT);
        break;
    case APIC_SIPI:
        a->port->sipi_vector = vector;
        vcpu_raise(a->cpu, X86_PIN_SIPI);
        break;
    case APIC_EXTINT:
        a->extint = true;
        vcpu_raise(a->cpu, X86_PIN_INTR);
        break;
    }
}

/* An entry of the local vector table fires. */
static void local_event(struct apic *a, unsigned n)
{
    uint32_t lvt = a->lvt[n];

    if (!(lvt & LVT_MASKED))
        accept(a, n == LVT_TIMER || n == LVT_ERROR ? APIC_FIXED : lvt >> 8 & 7, (uint8_t)lvt,
               (n == LVT_LINT0 || n == LVT_LINT1) && (lvt & LVT_LEVEL));
}

static void apic_lint0(struct apic *a, int level)
{
    bool rising = level && !a->lint0;

    a->lint0 = level;
    if (extint_pending(a))
        vcpu_raise(a->cpu, X86_PIN_INTR);
    else if (rising && (a->lvt[LVT_LINT0] & LVT_MODE) != APIC_EXTINT << 8)
        local_event(a, LVT_LINT0);
}

/* ---- sending ---- */

static bool is_target(const struct apic *a, const struct apic_msg *m)
{
    uint32_t ldr = a->ldr;

    if (m->dest == BROADCAST)
        return true;
    if (!m->logical)
        return m->dest == (x2_mode(a) ? a->port->apic_id : a->id >> 24);
    if (x2_mode(a))
        return ldr >> 16 == m->dest >> 16 && (ldr & m->dest & 0xffff);
    ldr >>= 24;
    if (a->dfr >> 28 == 0xf)
        return ldr & m->dest & 0xff;
    return ldr >> 4 == (m->dest >> 4 & 0xf) && (ldr & m->dest & 0xf);
}

static void send_lowest(struct machine *m, const struct apic_msg *msg)
{
    struct apic *best = NULL;

    for (unsigned i = 0; i < m->nr_cpus; i++) {
        struct apic *a = apic_of(m->cpus[i]);

        if (a && is_target(a, msg) && (a->svr & SVR_ENABLE) && (!best || ppr(a) < ppr(best)))
            best = a;
    }
    if (best)
        accept(best, APIC_FIXED, msg->vector, msg->level);
}

/* dest is already widened: BROADCAST for everybody. */
static void bus_send(struct machine *m, const struct apic_msg *msg, const struct apic *except)
{
    if (msg->mode == APIC_LOWPRI) {
        send_lowest(m, msg);
        return;
    }
    for (unsigned i = 0; i < m->nr_cpus; i++) {
        struct apic *a = apic_of(m->cpus[i]);

        if (a && a != except && is_target(a, msg))
            accept(a, msg->mode, msg->vector, msg->level);
    }
}

void apic_bus_send(struct machine *m, const struct apic_msg *msg)
{
    struct apic_msg wide = *msg;

    if (wide.dest == 0xff)
        wide.dest = BROADCAST;
    bus_send(m, &wide, NULL);
}

void x86_msi_deliver(struct machine *m, uint64_t addr, uint32_t data)
{
    struct apic_msg msg = {.dest = addr >> 12 & 0xff,
                           .logical = addr >> 2 & 1,
                           .level = data >> 15 & 1,
                           .vector = (uint8_t)data,
                           .mode = data >> 8 & 7};

    apic_bus_send(m, &msg);
}

static void send_ipi(struct apic *a)
{
    uint32_t lo = a->icr_lo;
    struct machine *m = dev_machine(&a->dev);
    struct apic_msg msg = {.dest = a->icr_hi,
                           .logical = lo & ICR_LOGICAL,
                           .level = lo & ICR_LEVEL,
                           .vector = (uint8_t)lo,
                           .mode = lo >> 8 & 7};

    if (msg.mode == APIC_INIT && (lo & ICR_LEVEL) && !(lo & ICR_ASSERT))
        return; /* INIT level de-assert: obsolete, no effect */
    if (msg.mode <= APIC_LOWPRI && msg.vector < 16) {
        add_error(a, ESR_SEND_VECTOR);
        return;
    }
    if (!x2_mode(a)) {
        msg.dest >>= 24;
        if (msg.dest == 0xff)
            msg.dest = BROADCAST;
    }
    switch (lo >> 18 & 3) {
    case 0:
        bus_send(m, &msg, NULL);
        break;
    case 1:
        accept(a, msg.mode, msg.vector, msg.level);
        break;
    case 2:
        msg.dest = BROADCAST;
        bus_send(m, &msg, NULL);
        break;
    case 3:
        msg.dest = BROADCAST;
        bus_send(m, &msg, a);
        break;
    }
}

static void write_eoi(struct apic *a)
{
    int v = highest(a->isr);
    uint32_t bit;

    if (v < 0)
        return;
    bit = 1u << v % 32;
    atomic_fetch_and(&a->isr[v / 32], ~bit);
    if (a->tmr[v / 32] & bit)
        for (unsigned i = 0; i < a->abus->nr_ioapics; i++)
            ioapic_eoi(a->abus->ioapics[i], (uint8_t)v);
    refresh(a);
}

/* ---- timer ---- */

static unsigned timer_mode(const struct apic *a)
{
    return (a->lvt[LVT_TIMER] & LVT_TIMER_MODE) >> 17;
}
static unsigned divide_shift(const struct apic *a)
{
    return ((a->divide & 3) + (a->divide >> 1 & 4) + 1) & 7;
}
static int64_t now(struct apic *a)
{
    return clk_now(dev_vclk(&a->dev));
}
static int64_t timer_period(const struct apic *a)
{
    return (int64_t)a->initial << divide_shift(a);
}

static void timer_arm_locked(struct apic *a)
{
    if (a->initial && timer_mode(a) != TIMER_TSC_DEADLINE)
        clk_timer_set(&a->timer, a->start + timer_period(a));
    else
        clk_timer_cancel(&a->timer);
}

static uint32_t timer_count(struct apic *a)
{
    int64_t passed = now(a) - a->start, period = timer_period(a);

    if (!a->initial || timer_mode(a) == TIMER_TSC_DEADLINE)
        return 0;
    if (timer_mode(a) == TIMER_PERIODIC)
        passed %= period;
    else if (passed >= period)
        return 0;
    return a->initial - (uint32_t)(passed >> divide_shift(a));
}

static void timer_expired(void *opaque)
{
    struct apic *a = opaque;
    int64_t period, t;

    pthread_mutex_lock(&a->timer_lock);
    /* The processor may have loaded, or stopped, the timer since it was found due: then this was its last event. */
    switch (clk_timer_pending(&a->timer) ? TIMER_ONE_SHOT : timer_mode(a)) {
    case TIMER_PERIODIC:
        if (!a->initial)
            break;
        t = now(a);
        period = max_i64(timer_period(a), 1);
        a->start += (t - a->start) / period * period;
        clk_timer_set(&a->timer, max_i64(a->start + period, t + min_i64(period, PERIOD_MIN_NS)));
        break;
    case TIMER_TSC_DEADLINE:
        a->tsc_deadline = 0;
        break;
    }
    pthread_mutex_unlock(&a->timer_lock);
    local_event(a, LVT_TIMER);
}

static uint64_t apic_tsc_deadline_get(void *opaque)
{
    struct apic *a = opaque;

    return timer_mode(a) == TIMER_TSC_DEADLINE ? a->tsc_deadline : 0;
}

static void apic_tsc_deadline_set(void *opaque, uint64_t v)
{
    struct apic *a = opaque;
    uint64_t tsc;
    bool due = false;

    if (timer_mode(a) != TIMER_TSC_DEADLINE)
        return;
    pthread_mutex_lock(&a->timer_lock);
    tsc = a->port->tsc_now(a->cpu);
    if (!v) {
        clk_timer_cancel(&a->timer);
    } else if (v <= tsc) {
        clk_timer_cancel(&a->timer);
        due = true;
    } else {
        unsigned __int128 ns = (unsigned __int128)(v - tsc) * NS_PER_SEC / a->port->tsc_hz;

        clk_timer_set(&a->timer, ns > INT64_MAX / 2 ? INT64_MAX / 2 : now(a) + (int64_t)ns);
    }
    a->tsc_deadline = due ? 0 : v;
    pthread_mutex_unlock(&a->timer_lock);
    if (due)
        local_event(a, LVT_TIMER);
}

/* ---- registers ---- */

static uint32_t reg_read(struct apic *a, unsigned r)
{
    uint32_t v;

    switch (r) {
    case R_ID:
        return x2_mode(a) ? a->port->apic_id : a->id;
    case R_VERSION:
        return APIC_VERSION;
    case R_TPR:
        return a->tpr;
    case R_PPR:
        return ppr(a);
    case R_LDR:
        return a->ldr;
    case R_DFR:
        return a->dfr;
    case R_SVR:
        return a->svr;
    case R_ISR ... R_ISR + 7:
        return a->isr[r - R_ISR];
    case R_TMR ... R_TMR + 7:
        return a->tmr[r - R_TMR];
    case R_IRR ... R_IRR + 7:
        return a->irr[r - R_IRR];
    case R_ESR:
        return a->esr;
    case R_ICR_LO:
        return a->icr_lo;
    case R_ICR_HI:
        return a->icr_hi;
    case R_LVT ... R_LVT + NR_LVT - 1:
        return a->lvt[r - R_LVT];
    case R_TICR:
        return a->initial;
    case R_TCCR:
        pthread_mutex_lock(&a->timer_lock);
        v = timer_count(a);
        pthread_mutex_unlock(&a->timer_lock);
        return v;
    case R_TDCR:
        return a->divide;
    case R_APR:
    case R_RRD:
    case R_EOI:
        return 0;
    }
    add_error(a, ESR_REGISTER);
    return 0;
}

static void lvt_write(struct apic *a, unsigned n, uint32_t v)
{
    static const uint32_t mask[NR_LVT] = {0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};
    unsigned old = timer_mode(a);

    v &= mask[n];
    if (!(a->svr & SVR_ENABLE))
        v |= LVT_MASKED;
    pthread_mutex_lock(&a->timer_lock);
    a->lvt[n] = v;
    if (n == LVT_TIMER && old != timer_mode(a)) {
        if (old == TIMER_TSC_DEADLINE || timer_mode(a) == TIMER_TSC_DEADLINE) {
            a->initial = 0;
            a->tsc_deadline = 0;
            clk_timer_cancel(&a->timer);
        } else {
            timer_arm_locked(a);
        }
    }
    pthread_mutex_unlock(&a->timer_lock);
    if (n == LVT_LINT0)
        refresh(a);
}

static void svr_write(struct apic *a, uint32_t v)
{
    a->svr = v & 0x1ff;
    if (!(v & SVR_ENABLE))
        for (unsigned n = 0; n < NR_LVT; n++)
            atomic_fetch_or(&a->lvt[n], LVT_MASKED);
    refresh(a);
}

static void timer_load(struct apic *a, uint32_t initial)
{
    pthread_mutex_lock(&a->timer_lock);
    if (timer_mode(a) != TIMER_TSC_DEADLINE) {
        a->initial = initial;
        a->start = now(a);
        timer_arm_locked(a);
    }
    pthread_mutex_unlock(&a->timer_lock);
}

static void divide_write(struct apic *a, uint32_t v)
{
    pthread_mutex_lock(&a->timer_lock);
    if (a->initial && clk_timer_pending(&a->timer) && timer_mode(a) != TIMER_TSC_DEADLINE) {
        uint32_t left = timer_count(a); /* goes on from where it is at the new rate */

        a->divide = v & 0xb;
        a->start = now(a) - ((int64_t)(a->initial - left) << divide_shift(a));
        timer_arm_locked(a);
    }
    a->divide = v & 0xb;
    pthread_mutex_unlock(&a->timer_lock);
}

static void reg_write(struct apic *a, unsigned r, uint32_t v)
{
    switch (r) {
    case R_ID:
        a->id = v & 0xff000000;
        break;
    case R_TPR:
        a->tpr = v & 0xff;
        refresh(a);
        break;
    case R_EOI:
        write_eoi(a);
        break;
    case R_LDR:
        a->ldr = v & 0xff000000;
        break;
    case R_DFR:
        a->dfr = v | 0x0fffffff;
        break;
    case R_SVR:
        svr_write(a, v);
        break;
    case R_ESR:
        a->esr = atomic_exchange(&a->esr_new, 0);
        break;
    case R_ICR_LO:
        a->icr_lo = v & 0x000ccfff;
        send_ipi(a);
        break;
    case R_ICR_HI:
        a->icr_hi = v;
        break;
    case R_LVT ... R_LVT + NR_LVT - 1:
        lvt_write(a, r - R_LVT, v);
        break;
    case R_TICR:
        timer_load(a, v);
        break;
    case R_TDCR:
        divide_write(a, v);
        break;
    case R_VERSION:
    case R_PPR:
    case R_APR:
    case R_TCCR:
    case R_ISR ... R_IRR + 7:
        log_guest("apic: write to read-only register %#x", r);
        break;
    default:
        add_error(a, ESR_REGISTER);
    }
}

/* ---- the CPU's side ---- */

static bool apic_x2apic_read(void *opaque, uint32_t msr, uint64_t *v)
{
    struct apic *a = opaque;
    unsigned r = msr - 0x800;

    if (!x2_mode(a) || r == R_EOI || r == R_DFR || r == R_ICR_HI || r == R_SELF_IPI || r == R_APR || r == R_RRD)
        return false;
    if (r > R_TDCR || r < R_ID || (r > R_VERSION && r < R_TPR) || (r > R_ESR && r < R_ICR_LO) ||
        (r > R_TCCR && r < R_TDCR))
        return false;
    *v = reg_read(a, r);
    if (r == R_ICR_LO)
        *v |= (uint64_t)a->icr_hi << 32;
    return true;
}

static bool apic_x2apic_write(void *opaque, uint32_t msr, uint64_t v)
{
    struct apic *a = opaque;
    unsigned r = msr - 0x800;

    if (!x2_mode(a))
        return false;
    if (r == R_ICR_LO) {
        if (v & 0xfff32000)
            return false;
        a->icr_hi = (uint32_t)(v >> 32);
        reg_write(a, r, (uint32_t)v);
        return true;
    }
    if (v >> 32)
        return false;
    switch (r) {
    case R_TPR:
        if (v & ~UINT64_C(0xff))
            return false;
        break;
    case R_EOI:
    case R_ESR:
        if (v)
            return false;
        break;
    case R_SELF_IPI:
        if (v & ~UINT64_C(0xff))
            return false;
        accept_fixed(a, (uint8_t)v, false);
        return true;
    case R_SVR:
    case R_LVT ... R_LVT + NR_LVT - 1:
    case R_TICR:
    case R_TDCR:
        break;
    default:
        return false;
    }
    reg_write(a, r, (uint32_t)v);
    return true;
}

static void forget(struct apic *a)
{
    for (unsigned i = 0; i < 8; i++)
        a->irr[i] = a->tmr[i] = a->isr[i] = 0;
    a->tpr = a->esr = a->esr_new = a->icr_lo = a->icr_hi = 0;
    a->ldr = 0;
    a->dfr = 0xffffffff;
    a->svr = 0xff;
    a->extint = false;
    for (unsigned n = 0; n < NR_LVT; n++)
        a->lvt[n] = LVT_MASKED;
    pthread_mutex_lock(&a->timer_lock);
    a->initial = a->divide = 0;
    a->tsc_deadline = 0;
    clk_timer_cancel(&a->timer);
    pthread_mutex_unlock(&a->timer_lock);
}

/* INIT keeps the ID and the base register. */
static void apic_init_reset(void *opaque)
{
    struct apic *a = opaque;

    forget(a);
    if (x2_mode(a))
        a->ldr = (a->port->apic_id >> 4) << 16 | 1u << (a->port->apic_id & 15);
    refresh(a);
}

static uint64_t apic_base_get(void *opaque)
{
    return ((struct apic *)opaque)->base;
}

static bool apic_base_set(void *opaque, uint64_t v)
{
    struct apic *a = opaque;
    uint64_t old = a->base, mode = v & (BASE_EN | BASE_EXTD), was = old & (BASE_EN | BASE_EXTD);

    if ((v & 0x2ff) || v >> 52 || mode == BASE_EXTD)
        return false;
    if (mode != was && ((was == (BASE_EN | BASE_EXTD) && mode == BASE_EN) || (!was && mode == (BASE_EN | BASE_EXTD))))
        return false;
    if ((v & ~UINT64_C(0xfff)) != APIC_WINDOW && mode == BASE_EN)
        log_unimp("apic: register page stays at %#x", APIC_WINDOW);
    a->base = (v & ~(uint64_t)BASE_BSP) | (a->port->bsp ? BASE_BSP : 0);
    if (mode != was && mode == (BASE_EN | BASE_EXTD))
        a->ldr = (a->port->apic_id >> 4) << 16 | 1u << (a->port->apic_id & 15);
    else if (mode != was && !mode)
        forget(a);
    refresh(a);
    return true;
}

static uint8_t apic_tpr_get(void *opaque)
{
    return (uint8_t)(((struct apic *)opaque)->tpr >> 4);
}
static void apic_tpr_set(void *opaque, uint8_t cr8)
{
    reg_write(opaque, R_TPR, (uint32_t)cr8 << 4);
}

/* ---- the window ---- */

static struct apic *window_target(struct apic_bus *b, gpa_t off)
{
    struct machine *m = dev_machine(&b->dev);
    struct vcpu *c = vcpu_self();
    struct apic *a = apic_of(c ? c : m->nr_cpus ? m->cpus[0] : NULL);

    return a && off < WINDOW_PAGE && off >= 0x10 && hw_enabled(a) && !x2_mode(a) ? a : NULL;
}
static uint64_t window_read(void *opaque, gpa_t off, unsigned size)
{
    struct apic *a = window_target(opaque, off);

    return a && !(off & 0xf) ? reg_read(a, (unsigned)off >> 4) : a ? 0 : UINT32_MAX;
}
static void window_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct apic_bus *b = opaque;
    struct apic *a = window_target(b, off);

    if (a && !(off & 0xf))
        reg_write(a, (unsigned)off >> 4, (uint32_t)val);
    else if (!a && !(off < WINDOW_PAGE && off >= 0x10))
        x86_msi_deliver(dev_machine(&b->dev), APIC_WINDOW + off, (uint32_t)val);
}
static const struct mem_ops window_ops = {
    .read = window_read, .write = window_write, .impl_min = 4, .impl_max = 4, .flags = MEM_UNLOCKED};

static bool bus_realize(struct dev *d, struct err **errp)
{
    struct apic_bus *b = container_of(d, struct apic_bus, dev);
    struct machine *m = dev_machine(d);

    mem_region_init_io(&b->window, m->mem_sys, &window_ops, b, "apic-msi", MIB);
    mem_region_add_prio(&m->sysmem, APIC_WINDOW, &b->window, 100);
    return true;
}
static void bus_unrealize(struct dev *d)
{
    mem_region_free(&container_of(d, struct apic_bus, dev)->window);
}
static const struct dev_class apic_bus_class = {.name = "apic-bus",
                                                .parent = "sys-bus-device",
                                                .size = sizeof(struct apic_bus),
                                                .board_only = true,
                                                .state_desc = &state_none,
                                                .realize = bus_realize,
                                                .unrealize = bus_unrealize};
DEV_REGISTER(apic_bus_class)

struct apic_bus *apic_bus_get(struct machine *m, struct err **errp)
{
    struct dev *d;

    list_each (d, &m->sysbus->devs, link)
        if (dev_class(d) == &apic_bus_class)
            return container_of(d, struct apic_bus, dev);
    d = dev_new(m, "apic-bus", errp);
    return d && dev_realize(d, NULL, NULL, errp) ? container_of(d, struct apic_bus, dev) : NULL;
}

/* ---- life ---- */

static void apic_reset(struct dev *d)
{
    struct apic *a = container_of(d, struct apic, dev);

    if (!a->port)
        return;
    forget(a);
    a->base = APIC_WINDOW | BASE_EN | (a->port->bsp ? BASE_BSP : 0);
    a->id = a->port->apic_id << 24;
    if (a->port->bsp)
        a->lvt[LVT_LINT0] = APIC_EXTINT << 8;
    refresh(a);
}

static bool apic_realize(struct dev *d, struct err **errp)
{
    struct apic *a = container_of(d, struct apic, dev);

    a->abus = apic_bus_get(dev_machine(d), errp);
    if (!a->abus)
        return false;
    pthread_mutex_init(&a->timer_lock, NULL);
    clk_timer_init(&a->timer, dev_vclk(d), timer_expired, a);
    return true;
}

static void apic_unrealize(struct dev *d)
{
    struct apic *a = container_of(d, struct apic, dev);

    clk_timer_cancel(&a->timer);
    if (a->port)
        a->port->apic = NULL;
    pthread_mutex_destroy(&a->timer_lock);
}

struct dev *apic_create(struct machine *m, struct vcpu *c, struct err **errp)
{
    struct dev *d = dev_new(m, "apic", errp);
    struct apic *a;
    struct x86_port *p = x86_port(c);

    if (!d || !dev_realize(d, NULL, NULL, errp))
        return NULL;
    a = container_of(d, struct apic, dev);
    a->cpu = c;
    a->port = p;
    p->intr_ack = apic_intr_ack;
    p->intr_pending = apic_intr_pending;
    p->apic_base_get = apic_base_get;
    p->apic_base_set = apic_base_set;
    p->tpr_get = apic_tpr_get;
    p->tpr_set = apic_tpr_set;
    p->x2apic_read = apic_x2apic_read;
    p->x2apic_write = apic_x2apic_write;
    p->tsc_deadline_get = apic_tsc_deadline_get;
    p->tsc_deadline_set = apic_tsc_deadline_set;
    p->apic_init_reset = apic_init_reset;
    p->apic = a;
    apic_reset(d);
    return d;
}

static const struct state_field apic_fields[] = {STATE_INT(struct apic, base),         STATE_ARRAY(struct apic, irr),
                                                 STATE_ARRAY(struct apic, tmr),        STATE_ARRAY(struct apic, isr),
                                                 STATE_INT(struct apic, id),           STATE_INT(struct apic, ldr),
                                                 STATE_INT(struct apic, dfr),          STATE_INT(struct apic, svr),
                                                 STATE_INT(struct apic, tpr),          STATE_ARRAY(struct apic, lvt),
                                                 STATE_INT(struct apic, esr_new),      STATE_BOOL(struct apic, lint0),
                                                 STATE_BOOL(struct apic, extint),      STATE_U32(struct apic, esr),
                                                 STATE_U32(struct apic, icr_lo),       STATE_U32(struct apic, icr_hi),
                                                 STATE_TIMER(struct apic, timer),      STATE_U32(struct apic, initial),
                                                 STATE_U32(struct apic, divide),       STATE_I64(struct apic, start),
                                                 STATE_U64(struct apic, tsc_deadline), STATE_END};
static bool apic_loaded(void *obj, struct err **errp)
{
    struct apic *a = obj;

    a->divide &= 0xb;
    return state_time_ok(a->start) && a->svr <= 0xfff && a->tpr <= 0xff;
}
static const struct state_desc apic_state = {
    .name = "apic", .version = 1, .fields = apic_fields, .post_load = apic_loaded};
static const struct dev_class apic_class = {.name = "apic",
                                            .parent = "device",
                                            .size = sizeof(struct apic),
                                            .category = DEV_CAT_CPU,
                                            .board_only = true,
                                            .realize = apic_realize,
                                            .unrealize = apic_unrealize,
                                            .reset = apic_reset,
                                            .state_desc = &apic_state};
DEV_REGISTER(apic_class)

/* ---- wires around it ---- */

static void intr_level(void *opaque, int n, int level)
{
    struct vcpu *c = opaque;
    struct apic *a = apic_of(c);

    if (a)
        apic_lint0(a, level);
    else if (level)
        vcpu_raise(c, X86_PIN_INTR);
    else
        vcpu_lower(c, X86_PIN_INTR);
}

struct irq_line *x86_intr_line(struct machine *m, struct vcpu *c, struct dev *pic)
{
    struct x86_port *p = x86_port(c);

    p->pic_ack = pic_ack;
    p->pic = pic;
    return irq_new(intr_level, c, 0);
}

static void raise_on(struct machine *m, struct vcpu *c, uint32_t pin)
{
    for (unsigned i = 0; i < m->nr_cpus; i++)
        if (!c || m->cpus[i] == c)
            vcpu_raise(m->cpus[i], pin);
}
void x86_smi(struct machine *m, struct vcpu *c)
{
    raise_on(m, c, X86_PIN_SMI);
}
