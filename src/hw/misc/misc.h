/* Small parts of a PC that other chipset files poke. */
#ifndef HW_MISC_MISC_H
#define HW_MISC_MISC_H

#include "dev/dev.h"

void port92_set_a20(struct dev *port92, bool on); /* what port 92h shows after the keyboard controller moved the gate */

#endif
