/* 8254 interval timer (class "isa-pit"), for south bridges. */
#ifndef HW_TIMER_I8254_H
#define HW_TIMER_I8254_H

#include "dev/dev.h"

enum { PIT_HZ = 1193182 };
void pit_set_gate(struct dev *pit, unsigned channel, bool level);
bool pit_get_out(struct dev *pit, unsigned channel);
/* Speaker gate: the port 61h device "isa-pcspk" needs its timer. Before realize. */
void pcspk_set_pit(struct dev *spk, struct dev *pit);

#endif
