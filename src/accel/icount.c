/* Counting instructions as time (icount.h): budgets up to the next timer, clock jumps while the CPU halts, keeping
 * pace. */
#include "accel/icount.h"
#include "base/str.h"
#include "guest/x86/state.h"

#include <time.h>

enum { CHUNK = 1 << 16, MAX_SHIFT = 10, AUTO_SHIFT = 3, PACE = 1 << 20, SLICE_NS = 1000000, AHEAD_NS = 3000000 };

struct icount {
    struct machine *m;
    struct x86_cpu *cpu; /* NULL until there is one */
    unsigned shift;
    bool adapt, align, sleep;
    int64_t base; /* the clock at insns == from */
    uint64_t from;
    uint64_t paced;       /* count at the last look at real time */
    int64_t real0, virt0; /* both clocks when the CPU first ran */
    bool running;
    struct x86_trace trace;
};

static int64_t now(void *opaque)
{
    const struct icount *ic = opaque;

    return ic->cpu ? ic->base + (int64_t)((ic->cpu->insn_count - ic->from) << ic->shift) : ic->base;
}

/* A timer is now the next one: the budget was made for another. */
static void rearmed(void *opaque)
{
    struct icount *ic = opaque;

    if (ic->cpu)
        ic->cpu->vcpu.exit_request = true;
}

/* Counting goes on from t. */
static void set_clock(struct icount *ic, int64_t t)
{
    ic->base = t;
    ic->from = ic->cpu->insn_count;
}

static bool read_shift(struct icount *ic, struct opts *o, struct err **errp)
{
    const char *text = opts_peek(o, "shift");
    uint64_t n = AUTO_SHIFT;

    if (!text)
        return err_set(errp, "-icount needs shift=N or shift=auto");
    ic->adapt = !strcmp(text, "auto");
    if (ic->adapt)
        opts_get(o, "shift");
    else if (!opts_u64(o, "shift", &n, errp))
        return false;
    if (n > MAX_SHIFT)
        return err_set(errp, "-icount: shift=%" PRIu64 " is out of range (0 to %d)", n, MAX_SHIFT);
    ic->shift = (unsigned)n;
    return true;
}

static bool read_opts(struct icount *ic, struct opts *o, struct err **errp)
{
    static const char *const keys[] = {"shift", "align", "sleep", NULL};

    ic->sleep = true;
    if (opts_peek(o, "rr") && strcmp(opts_get(o, "rr"), "none"))
        return err_set(errp, "-icount: rr=record and rr=replay are not built");
    if (!read_shift(ic, o, errp) || !opts_bool(o, "align", &ic->align, errp) ||
        !opts_bool(o, "sleep", &ic->sleep, errp) || !opts_done(o, "-icount", keys, errp))
        return false;
    if (ic->align && ic->adapt)
        return err_set(errp, "-icount: align=on and shift=auto are incompatible");
    if (ic->align && !ic->sleep)
        return err_set(errp, "-icount: align=on and sleep=off are incompatible");
    return true;
}

struct icount *icount_new(struct machine *m, struct opts *o, struct err **errp)
{
    struct icount *ic = xnew(struct icount);

    ic->m = m;
    if (!read_opts(ic, o, errp)) {
        free(ic);
        return NULL;
    }
    clk_set_source(m->run->virt, now, rearmed, ic);
    return ic;
}

/* ---- pace ---- */

static int64_t ahead(const struct icount *ic)
{
    return (now((void *)(uintptr_t)ic) - ic->virt0) - (clk_now(ic->m->run->real) - ic->real0);
}

static void nap(int64_t ns)
{
    struct timespec t = {.tv_nsec = ns};

    nanosleep(&t, NULL);
}

static void keep_pace(struct icount *ic)
{
    uint64_t n = ic->cpu->insn_count;

    if (!ic->running) {
        ic->running = true;
        ic->virt0 = now(ic);
        ic->real0 = clk_now(ic->m->run->real);
    }
    while (ic->align && !ic->cpu->vcpu.exit_request && ahead(ic) > AHEAD_NS)
        nap(SLICE_NS);
    if (!ic->adapt || n - ic->paced < PACE)
        return;
    ic->paced = n;
    set_clock(ic, now(ic));
    if (ahead(ic) > 10 * AHEAD_NS && ic->shift)
        ic->shift--;
    else if (ahead(ic) < -10 * AHEAD_NS && ic->shift < MAX_SHIFT)
        ic->shift++;
}

/* ---- running ---- */

static uint64_t budget(const struct icount *ic)
{
    int64_t d = clk_next_deadline(ic->m->run->virt), left;

    if (d == INT64_MAX)
        return CHUNK;
    left = d - now((void *)(uintptr_t)ic);
    if (left <= 0)
        return 1;
    return min_u64((uint64_t)(left + (INT64_C(1) << ic->shift) - 1) >> ic->shift, CHUNK);
}

static void fire(struct icount *ic)
{
    RUN_LOCK_SCOPE(ic->m->run);

    clk_fire(ic->m->run->virt);
}

/* Halted with nothing to do: the clock goes to the next timer. False: there is none. */
static bool jump(struct icount *ic)
{
    struct vcpu *v = &ic->cpu->vcpu;
    int64_t d = clk_next_deadline(ic->m->run->virt), start = clk_now(ic->m->run->real), from = now(ic);

    if (d == INT64_MAX)
        return false;
    while (ic->sleep && d > from && !v->exit_request && !v->arch->has_work(v)) {
        int64_t left = d - from - (clk_now(ic->m->run->real) - start);

        if (left <= 0)
            break;
        nap(left < SLICE_NS ? left : SLICE_NS);
    }
    if (v->exit_request || v->arch->has_work(v)) /* something from outside: as much time as has passed */
        d = min_i64(d, from + (ic->sleep ? clk_now(ic->m->run->real) - start : 0));
    set_clock(ic, max_i64(d, from));
    fire(ic);
    return true;
}

static enum vcpu_exit run(struct vcpu *v)
{
    struct icount *ic = v->m->icount;
    struct x86_cpu *c = x86_cpu(v);

    for (;;) {
        if (v->exit_request)
            return VCPU_EXIT_KICKED;
        if (v->halted && !v->arch->has_work(v)) {
            if (!jump(ic))
                return VCPU_EXIT_HALTED;
            continue;
        }
        if (x86_interp_run(c, budget(ic)) == VCPU_EXIT_SHUTDOWN)
            return VCPU_EXIT_SHUTDOWN;
        fire(ic);
        keep_pace(ic);
    }
}

static void kick(struct vcpu *v)
{
    /* The loop looks at pins and exit_request after every instruction. */
}

bool icount_vcpu(struct vcpu *v, struct err **errp)
{
    struct icount *ic = v->m->icount;

    if (v->index)
        return err_set(errp, "-icount runs machines with one CPU only");
    ic->cpu = x86_cpu(v);
    ic->cpu->trace = &ic->trace;
    ic->base = 0;
    ic->from = ic->cpu->insn_count;
    v->run = run;
    v->kick = kick;
    return true;
}

char *icount_info(const struct machine *m)
{
    const struct icount *ic = m->icount;

    return xasprintf("icount: shift %u, %" PRIu64 " instructions, %" PRIu64
                     " interrupts and exceptions, trace %016" PRIx64 "\n",
                     ic->shift, ic->cpu ? ic->cpu->insn_count : 0, ic->trace.events, ic->trace.hash);
}
