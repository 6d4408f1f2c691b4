/* The floppy disk controller, for boards. */
#ifndef HW_BLOCK_FDC_H
#define HW_BLOCK_FDC_H

#include "dev/dev.h"

/* What CMOS byte 0x10 says of drive `unit` of an isa-fdc: 0 none, 2 1.2 MB, 4 1.44 MB, 5 2.88 MB. */
uint8_t fdc_cmos_type(struct dev *fdc, unsigned unit);

#endif
