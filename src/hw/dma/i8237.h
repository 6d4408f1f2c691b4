/* ISA DMA, for devices on the ISA bus (floppy controller, sound cards). Machine lock held. */
#ifndef HW_DMA_I8237_H
#define HW_DMA_I8237_H

#include "hw/isa/isa.h"

/* Moves up to len bytes between buf and memory as channel 0-3 or 5-7 is programmed; returns how many. 0 when it is
 * masked or stopped. to_memory must agree with the programmed direction. *tc (may be NULL) tells that the terminal
 * count was reached. */
unsigned isa_dma_transfer(struct isa_bus *b, unsigned channel, void *buf, unsigned len, bool to_memory, bool *tc);
bool isa_dma_ready(struct isa_bus *b, unsigned channel); /* unmasked and enabled */

#endif
