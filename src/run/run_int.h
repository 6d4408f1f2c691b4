/* Inside run/: how a loop knows its clocks. */
#ifndef RUN_RUN_INT_H
#define RUN_RUN_INT_H

#include "run/clock.h"

void ev_loop_add_clk(struct ev_loop *l, struct clk *c, struct list *link);
/* Nanoseconds until the clock's first deadline in host time; INT64_MAX = none, 0 = due. */
int64_t clk_wait_ns(struct clk *c);
/* Fires what is due; true when any timer ran. */
bool clk_run_due(struct clk *c);
struct clk *clk_of_link(struct list *link);

#endif
