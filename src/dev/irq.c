/* Making wires. */
#include "dev/irq.h"

struct irq_line *irq_new_array(irq_fn *fn, void *opaque, int first, int nr)
{
    struct irq_line *l = xcalloc((size_t)nr, sizeof *l);

    for (int i = 0; i < nr; i++)
        l[i] = (struct irq_line){fn, opaque, first + i};
    return l;
}

struct irq_line *irq_new(irq_fn *fn, void *opaque, int n)
{
    return irq_new_array(fn, opaque, n, 1);
}
