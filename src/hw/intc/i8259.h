/* The pair of 8259A interrupt controllers of a PC, for boards and south bridges. */
#ifndef HW_INTC_I8259_H
#define HW_INTC_I8259_H

#include "dev/dev.h"

/* Class "isa-i8259": ports 20h, A0h, 4D0h. Unnamed inputs 0..15 (input 2 is the cascade and ignored), output "intr". */
struct dev *pic_create(struct machine *m, const char *id, struct err **errp);
/* INTA cycle: the vector of the highest request, which becomes in service; a spurious one when it has gone. Takes the
 * machine lock when it is not held. pic is the device. */
int pic_ack(void *pic);
char *pic_info(struct dev *pic); /* `info pic`, caller frees */

#endif
