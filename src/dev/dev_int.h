/* Inside dev/. */
#ifndef DEV_DEV_INT_H
#define DEV_DEV_INT_H

#include "dev/dev.h"

void dev_wires_free(struct dev *d);
extern const struct bus_class sysbus_class;

#endif
