/* Clocks and timers. All times are int64_t nanoseconds.
 *
 * CLK_REAL: host monotonic. CLK_HOST: host wall clock since 1970. CLK_VIRTUAL: guest time, starts at 0, stands still
 * while the machine is stopped, and moves only by clk_step_to() in stepped mode (the test channel) or as a source says
 * (-icount).
 * Timers fire on the clock's loop with the machine lock held. Timer calls are thread-safe; deleting a timer from
 * another thread does not wait for a callback in progress (hold the machine lock for that). */
#ifndef RUN_CLOCK_H
#define RUN_CLOCK_H

#include "run/loop.h"

enum clk_kind { CLK_REAL, CLK_HOST, CLK_VIRTUAL };
struct clk;
typedef void clk_fn(void *opaque);

struct clk_timer {
    struct list link; /* in the clock's queue, sorted by deadline */
    struct clk *clk;  /* borrowed */
    clk_fn *fn;
    void *opaque;
    int64_t deadline; /* valid while pending */
    bool pending;
};

struct clk *clk_new(enum clk_kind kind, struct ev_loop *loop);
void clk_free(struct clk *c);
int64_t clk_now(struct clk *c); /* lock-free */
/* How translated code reads the virtual clock without a call: now = base + (tsc - base_tsc) * mult / 2^64, tsc being
 * the host's time stamp counter. mult is 0 while the clock stands. Changes only while no vCPU runs. NULL: this host's
 * counter cannot be used (not invariant, or not x86-64); then clk_now asks the kernel. */
struct clk_fast {
    uint64_t base_tsc, mult;
    int64_t base;
};
const struct clk_fast *clk_fast(struct clk *c);
/* Virtual clock only. */
void clk_pause(struct clk *c);
void clk_resume(struct clk *c);
void clk_set_stepped(struct clk *c);
/* Stepped clock: moves to t, firing due timers in order with the clock at each deadline. */
void clk_step_to(struct clk *c, int64_t t);
/* The virtual clock is what now() returns from here on, any thread; its timers fire by clk_fire alone. rearmed is
 * called, without locks of the clock, when another timer has become the next one. */
void clk_set_source(struct clk *c, int64_t (*now)(void *opaque), void (*rearmed)(void *opaque), void *opaque);
void clk_fire(struct clk *c); /* a clock with a source: runs what is due; machine lock held */
/* The nearest deadline, or INT64_MAX. */
int64_t clk_next_deadline(struct clk *c);
bool clk_is_virtual(const struct clk *c);
bool clk_can_set(const struct clk *c); /* false: something else makes its time (clk_set_source) */
/* Sets what the virtual clock shows now (restoring a saved machine). */
void clk_set_now(struct clk *c, int64_t t);

void clk_timer_init(struct clk_timer *t, struct clk *c, clk_fn *fn, void *opaque);
void clk_timer_set(struct clk_timer *t, int64_t deadline); /* absolute; re-arms */
void clk_timer_cancel(struct clk_timer *t);
static inline bool clk_timer_pending(const struct clk_timer *t)
{
    return t->pending;
}

#endif
