/* Named groups of inputs and outputs of a device, and watching them (test channel). */
#include "dev/dev_int.h"

struct watch {
    dev_irq_watch_fn *fn;
    void *opaque;
    struct irq_line next; /* where an input's changes went before; unused for outputs */
    int n;
};
struct dev_wire {
    struct list link;
    char *name; /* owned, NULL = unnamed group */
    unsigned nr;
    struct irq_line **out; /* borrowed: fields of the device, nr pins in a row */
    struct irq_line *in;   /* owned array */
    struct irq_line *spy;  /* owned: lines that report outputs */
    struct watch *watch;   /* owned array */
};

static bool same_name(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static struct dev_wire *find(struct dev *d, const char *name, bool out)
{
    struct dev_wire *w;

    list_each (w, &d->wires, link)
        if (same_name(w->name, name) && (w->out != NULL) == out)
            return w;
    return NULL;
}

static struct dev_wire *add(struct dev *d, const char *name, unsigned nr)
{
    struct dev_wire *w = xnew(struct dev_wire);

    w->name = name ? xstrdup(name) : NULL;
    w->nr = nr;
    list_add(&d->wires, &w->link);
    return w;
}

void dev_add_irq_out(struct dev *d, const char *name, struct irq_line **pins, unsigned nr)
{
    add(d, name, nr)->out = pins;
}

void dev_add_irq_in(struct dev *d, const char *name, irq_fn *fn, unsigned nr)
{
    add(d, name, nr)->in = irq_new_array(fn, d, 0, (int)nr);
}

struct irq_line *dev_irq_in(struct dev *d, const char *name, unsigned n)
{
    struct dev_wire *w = find(d, name, false);

    assert(w && n < w->nr);
    return &w->in[n];
}

void dev_connect(struct dev *d, const char *name, unsigned n, struct irq_line *line)
{
    struct dev_wire *w = find(d, name, true);

    assert(w && n < w->nr);
    w->out[n] = line;
}

static void report_in(void *opaque, int n, int level)
{
    struct watch *w = opaque;

    w->fn(w->opaque, n, level);
    w->next.fn(w->next.opaque, w->next.n, level);
}

static void report_out(void *opaque, int n, int level)
{
    struct watch *w = opaque;

    w->fn(w->opaque, n, level);
}

bool dev_watch_irqs(struct dev *d, const char *name, bool out, dev_irq_watch_fn *fn, void *opaque)
{
    struct dev_wire *w = find(d, name, out);

    if (!w || w->watch)
        return false;
    w->watch = xcalloc(w->nr, sizeof *w->watch);
    w->spy = out ? xcalloc(w->nr, sizeof *w->spy) : NULL;
    for (unsigned i = 0; i < w->nr; i++) {
        w->watch[i] = (struct watch){.fn = fn, .opaque = opaque, .n = (int)i};
        if (out) {
            w->spy[i] = (struct irq_line){report_out, &w->watch[i], (int)i};
            w->out[i] = &w->spy[i];
        } else {
            w->watch[i].next = w->in[i];
            w->in[i] = (struct irq_line){report_in, &w->watch[i], (int)i};
        }
    }
    return true;
}

/* Called when the device goes away (dev.c). */
void dev_wires_free(struct dev *d)
{
    while (!list_empty(&d->wires)) {
        struct dev_wire *w = list_first(&d->wires, struct dev_wire, link);

        list_del(&w->link);
        free(w->name);
        free(w->in);
        free(w->spy);
        free(w->watch);
        free(w);
    }
}
