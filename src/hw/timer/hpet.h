/* High precision event timer, for south bridges. */
#ifndef HW_TIMER_HPET_H
#define HW_TIMER_HPET_H

#include "dev/dev.h"

enum { HPET_BASE = 0xfed00000 };
/* Class "hpet" at HPET_BASE. gsi: 24 lines it may be routed to, borrowed. Inputs "legacy" 0 (8254) and 1 (RTC) pass
 * through to IRQ 0 and 8 until legacy replacement is switched on. */
struct dev *hpet_create(struct machine *m, struct irq_line *const gsi[24], struct err **errp);

#endif
