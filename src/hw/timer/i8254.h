/* 8254 interval timer (class "isa-pit"), for south bridges. */
#ifndef HW_TIMER_I8254_H
#define HW_TIMER_I8254_H

#include "dev/dev.h"

enum { PIT_HZ = 1193182 };
void pit_set_gate(struct dev *pit, unsigned channel, bool level);
bool pit_get_out(struct dev *pit, unsigned channel);
/* The output at another time, as the channel is set now; and the ticks of its wave, 0 when it makes none. */
bool pit_get_wave(struct dev *pit, unsigned channel, int64_t t);
uint32_t pit_get_period(struct dev *pit, unsigned channel);
/* Speaker gate: the port 61h device "isa-pcspk" needs its timer. Before realize. */
void pcspk_set_pit(struct dev *spk, struct dev *pit);
/* The speaker is heard on this audiodev; without it is silent. After realize, once. */
struct aud_dev;
bool pcspk_set_audio(struct dev *spk, struct aud_dev *dev, struct err **errp);

#endif
