/* Interrupt and other one-bit wires. A line calls its receiver when the level is set; the receiver keeps what it needs.
 * An output of a device is a `struct irq_line *` it sets through irq_set(); NULL means not connected. */
#ifndef DEV_IRQ_H
#define DEV_IRQ_H

#include "base/util.h"

typedef void irq_fn(void *opaque, int n, int level);
struct irq_line {
    irq_fn *fn;
    void *opaque;
    int n;
};
static inline void irq_set(struct irq_line *l, int level)
{
    if (l)
        l->fn(l->opaque, l->n, level);
}
static inline void irq_pulse(struct irq_line *l)
{
    irq_set(l, 1);
    irq_set(l, 0);
}
struct irq_line *irq_new(irq_fn *fn, void *opaque, int n);                   /* owned by the caller, free() */
struct irq_line *irq_new_array(irq_fn *fn, void *opaque, int first, int nr); /* one allocation of nr lines */

#endif
