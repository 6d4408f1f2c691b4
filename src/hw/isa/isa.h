/* The ISA bus: port and memory windows of the machine, sixteen interrupt lines, eight DMA channels. */
#ifndef HW_ISA_ISA_H
#define HW_ISA_ISA_H

#include "dev/dev.h"

struct isa_bus {
    struct bus bus;           /* first; type "ISA", name "isa.0" */
    struct irq_line *irq[16]; /* inputs of the interrupt controllers; borrowed, set by the board */
    void *dma;                /* i8237 pair, private to hw/dma; NULL = none */
};
void isa_bus_init(struct isa_bus *b, struct dev *owner);
static inline struct isa_bus *isa_bus_of(const struct dev *d)
{
    return (struct isa_bus *)d->bus;
}
static inline struct irq_line *isa_irq(const struct dev *d, unsigned n)
{
    return isa_bus_of(d)->irq[n & 15];
}

#endif
