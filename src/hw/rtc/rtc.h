/* MC146818 real-time clock with its 128 bytes of CMOS RAM (class "mc146818rtc"), for boards. */
#ifndef HW_RTC_RTC_H
#define HW_RTC_RTC_H

#include "dev/dev.h"

/* CMOS contents the firmware reads: outside the clock registers (0x00-0x0d, 0x32) anything may be set at any time. */
void rtc_cmos_set(struct dev *rtc, uint8_t index, uint8_t val);
uint8_t rtc_cmos_get(struct dev *rtc, uint8_t index);
/* Seconds since 1970 that the guest's clock shows now minus the host's (set by -rtc base=, changed by the guest). */
int64_t rtc_offset(struct dev *rtc);
struct dev *rtc_find(struct machine *m); /* NULL when the board has none */

#endif
