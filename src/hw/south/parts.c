/* Parts and glue of a PC south bridge: global interrupts to both controllers, A20, FERR#.
 *
 * Global system interrupts follow ACPI 5.2.13: n < 16 is 8259 input n and IOAPIC input n, except that the timer (0) is
 * wired to IOAPIC input 2. Whoever moved the A20 gate last wins. */
#include "hw/south/parts.h"

#include "cpu/x86.h"
#include "hw/intc/apic.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "hw/misc/misc.h"
#include "hw/timer/hpet.h"
#include "hw/timer/i8254.h"

struct glue {
    struct dev dev;           /* first */
    struct dev *pic, *ioapic; /* borrowed */
    struct dev *port92;
    struct irq_line
        *intr[256]; /* owned: INTR of each CPU; only that of CPU 0 is connected, all acknowledge at the 8259 */
};
enum { RC_FULL = 8, RC_RST_CPU = 4, RC_SYS = 2 };

static void gsi_level(void *opaque, int n, int level)
{
    struct glue *g = opaque;

    if (n < 16 && g->pic)
        irq_set(dev_irq_in(g->pic, NULL, (unsigned)n), level);
    if (g->ioapic)
        irq_set(dev_irq_in(g->ioapic, NULL, n == 0 ? 2 : (unsigned)n), level);
}

static void a20_level(void *opaque, int n, int level)
{
    struct glue *g = opaque;
    struct machine *m = dev_machine(&g->dev);

    if (g->port92)
        port92_set_a20(g->port92, level);
    for (unsigned i = 0; i < m->nr_cpus; i++) {
        struct x86_port *p = x86_port(m->cpus[i]);

        if (p && p->a20 != (bool)level) {
            p->a20 = level;
            vcpu_raise(m->cpus[i], X86_PIN_A20);
        }
    }
}

static void ferr(void *opaque, int level)
{
    if (level)
        gsi_level(opaque, 13, 1);
}

static bool glue_realize(struct dev *d, struct err **errp)
{
    dev_add_irq_in(d, NULL, gsi_level, 24);
    dev_add_irq_in(d, "a20", a20_level, 2);
    return true;
}
static void glue_unrealize(struct dev *d)
{
    struct glue *g = container_of(d, struct glue, dev);

    for (unsigned i = 0; i < ARRAY_LEN(g->intr); i++)
        free(g->intr[i]);
}
static const struct dev_class glue_class = {.name = "pc-gsi",
                                            .parent = "device",
                                            .size = sizeof(struct glue),
                                            .board_only = true,
                                            .state_desc = &state_none,
                                            .realize = glue_realize,
                                            .unrealize = glue_unrealize};
DEV_REGISTER(glue_class)

struct dev *south_part(struct machine *m, const char *cls, struct err **errp)
{
    struct dev *d = dev_new(m, cls, errp);

    return d && dev_realize(d, NULL, NULL, errp) ? d : NULL;
}

struct pci_dev *south_function(struct machine *m, struct pci_bus *bus, int devfn, const char *cls, bool multi,
                               struct err **errp)
{
    struct dev *dev = dev_new(m, cls, errp);
    struct pci_dev *d;

    if (!dev)
        return NULL;
    d = container_of(dev, struct pci_dev, dev);
    d->addr = devfn;
    d->multifunction = multi;
    return dev_realize(dev, &bus->bus, NULL, errp) ? d : NULL;
}

/* ---- interrupt controllers ---- */

static bool make_intc(struct machine *m, const struct south_cfg *cfg, struct south *out, struct glue *g,
                      struct err **errp)
{
    out->pic = g->pic = pic_create(m, NULL, errp);
    if (!out->pic)
        return false;
    if (!cfg->no_ioapic && !(out->ioapic = g->ioapic = ioapic_create(m, 0xfec00000, NULL, errp)))
        return false;
    for (unsigned i = 0; i < m->nr_cpus && i < ARRAY_LEN(g->intr); i++) {
        struct x86_port *p = x86_port(m->cpus[i]);

        p->ferr = ferr;
        p->ferr_opaque = g;
        g->intr[i] = x86_intr_line(m, m->cpus[i], out->pic);
    }
    if (m->nr_cpus)
        dev_connect(out->pic, "intr", 0, g->intr[0]);
    for (unsigned n = 0; n < 24; n++)
        out->gsi[n] = dev_irq_in(&g->dev, NULL, n);
    for (unsigned n = 0; n < 16; n++)
        out->isa->irq[n] = out->gsi[n];
    return true;
}

/* ---- timers, clock, keyboard ---- */

static bool make_timers(struct machine *m, const struct south_cfg *cfg, struct south *out, struct err **errp)
{
    static const char *const base[] = {"utc", "localtime", "offset"};

    if (!cfg->no_pit && !(out->pit = south_part(m, "isa-pit", errp)))
        return false;
    if (cfg->hpet && !(out->hpet = hpet_create(m, out->gsi, errp)))
        return false;
    if (out->pit)
        dev_connect(out->pit, NULL, 0, out->hpet ? dev_irq_in(out->hpet, "legacy", 0) : out->isa->irq[0]);
    out->rtc = dev_new(m, "mc146818rtc", errp);
    if (!out->rtc)
        return false;
    dev_prop(out->rtc, "base", base[cfg->rtc.base % 3]);
    AUTOFREE char *off = xasprintf("%" PRId64, cfg->rtc.offset);
    dev_prop(out->rtc, "offset", off);
    if (!dev_realize(out->rtc, NULL, NULL, errp))
        return false;
    dev_connect(out->rtc, NULL, 0, out->hpet ? dev_irq_in(out->hpet, "legacy", 1) : out->isa->irq[8]);
    if (!(out->spk = south_part(m, "isa-pcspk", errp)))
        return false;
    pcspk_set_pit(out->spk, out->pit);
    return true;
}

static bool make_ports(struct machine *m, const struct south_cfg *cfg, struct south *out, struct glue *g,
                       struct err **errp)
{
    struct dev *post = south_part(m, "pc-ports", errp);

    if (!post)
        return false;
    dev_connect(post, NULL, 0, out->isa->irq[13]);
    g->port92 = south_part(m, "port92", errp);
    if (!g->port92)
        return false;
    dev_connect(g->port92, "a20", 0, dev_irq_in(&g->dev, "a20", 1));
    if (cfg->no_i8042)
        return true;
    out->kbc = south_part(m, "i8042", errp);
    if (!out->kbc)
        return false;
    dev_connect(out->kbc, NULL, 0, out->isa->irq[1]);
    dev_connect(out->kbc, NULL, 1, out->isa->irq[12]);
    dev_connect(out->kbc, "a20", 0, dev_irq_in(&g->dev, "a20", 0));
    return true;
}

bool south_parts_create(struct machine *m, const struct south_cfg *cfg, struct south *out, struct err **errp)
{
    struct dev *gd = south_part(m, "pc-gsi", errp);
    struct glue *g;

    if (!gd)
        return false;
    g = container_of(gd, struct glue, dev);
    if (!make_intc(m, cfg, out, g, errp) || !make_timers(m, cfg, out, errp) || !make_ports(m, cfg, out, g, errp))
        return false;
    out->dma = south_part(m, "i8257", errp);
    if (!out->dma)
        return false;
    out->isa->dma = out->dma;
    return true;
}

uint8_t south_reset_control(struct machine *m, uint8_t old, uint8_t val)
{
    if ((val & RC_RST_CPU) && !(old & RC_RST_CPU))
        machine_request_reset(m, CAUSE_GUEST_RESET);
    return val & (RC_SYS | RC_FULL);
}

/* ---- isapc ---- */

struct isa_root {
    struct dev dev; /* first */
    struct isa_bus isa;
};
static bool isa_root_realize(struct dev *d, struct err **errp)
{
    isa_bus_init(&container_of(d, struct isa_root, dev)->isa, d);
    return true;
}
static const struct dev_class isa_root_class = {.name = "isabus-bridge",
                                                .parent = "device",
                                                .size = sizeof(struct isa_root),
                                                .board_only = true,
                                                .category = DEV_CAT_BRIDGE,
                                                .state_desc = &state_none,
                                                .realize = isa_root_realize};
DEV_REGISTER(isa_root_class)

bool isa_south_create(struct machine *m, const struct south_cfg *cfg, struct south *out, struct err **errp)
{
    struct dev *d = south_part(m, "isabus-bridge", errp);

    if (!d)
        return false;
    *out = (struct south){.isa = &container_of(d, struct isa_root, dev)->isa};
    return south_parts_create(m, cfg, out, errp);
}

/* ---- finding the fixed hardware ---- */

static void find_pm(struct dev *d, void *opaque)
{
    struct acpi_pm **out = opaque;

    if (!strcmp(d->obj.cls->name, "PIIX4_PM"))
        *out = piix4_pm_acpi(d);
    else if (!strcmp(d->obj.cls->name, "ICH9-LPC"))
        *out = ich9_lpc_acpi(d);
}
struct acpi_pm *acpi_pm_find(struct machine *m)
{
    struct acpi_pm *p = NULL;

    machine_each_dev(m, find_pm, &p);
    return p;
}
