/* MC146818 real-time clock with its 128 bytes of CMOS RAM (class "mc146818rtc"), for boards. */
#ifndef HW_RTC_RTC_H
#define HW_RTC_RTC_H

#include "dev/dev.h"

/* CMOS contents the firmware reads: outside the clock registers (0x00-0x0d, 0x32) anything may be set at any time. */
void rtc_cmos_set(struct dev *rtc, uint8_t index, uint8_t val);

#endif
