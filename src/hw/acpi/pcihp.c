/* ACPI PCI hot-plug registers of the root bus; the map is in acpi_hw.h. A slot is all functions of one device number.
 */
#include "hw/acpi/pm.h"

#include "base/json.h"

enum { FEATURE_UP_DOWN = 2 };

static struct pci_bus *selected(struct acpi_pcihp *h)
{
    return h->sel == h->root->hp_nr ? h->root : NULL;
}

static uint32_t removable(struct acpi_pcihp *h)
{
    struct pci_bus *b = selected(h);
    uint32_t v = 0;

    for (unsigned s = 0; b && s < 32; s++) {
        struct pci_dev *d = b->slot[s << 3];

        if (!d || dev_class(&d->dev)->hotplug)
            v |= 1u << s;
    }
    return v;
}

static void eject_now(void *opaque)
{
    struct acpi_pcihp *h = opaque;
    uint32_t slots = h->pending_eject;

    h->pending_eject = 0;
    for (unsigned s = 0; s < 32; s++)
        for (int fn = 7; (slots >> s & 1) && fn >= 0; fn--) {
            struct pci_dev *d = h->root->slot[s << 3 | (unsigned)fn];

            if (d && dev_class(&d->dev)->hotplug)
                dev_remove(&d->dev);
        }
}

static uint32_t take(uint32_t *v)
{
    uint32_t now = *v;

    *v = 0;
    return now;
}

static uint64_t hp_read(void *opaque, gpa_t off, unsigned size)
{
    struct acpi_pcihp *h = opaque;
    bool ok = selected(h) != NULL;

    switch (off) {
    case PCIHP_UP:
        return ok ? take(&h->up[h->sel]) : 0;
    case PCIHP_DOWN:
        return ok ? take(&h->down[h->sel]) : 0;
    case PCIHP_EJECT:
        return FEATURE_UP_DOWN;
    case PCIHP_RMV:
        return removable(h);
    case PCIHP_BUS_SEL:
        return h->sel;
    case PCIHP_AIDX:
        return 0; /* no device has an acpi-index */
    }
    return 0;
}
static void hp_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct acpi_pcihp *h = opaque;

    switch (off) {
    case PCIHP_EJECT:
        if (!selected(h))
            break;
        h->pending_eject |= (uint32_t)val;
        ev_bh_schedule(&h->eject_bh);
        break;
    case PCIHP_BUS_SEL:
        h->sel = val < ACPI_MAX_HP_BUSES ? (uint32_t)val : ACPI_MAX_HP_BUSES - 1;
        break;
    case PCIHP_AIDX:
        h->aidx = (uint32_t)val;
        break;
    }
}
static const struct mem_ops hp_ops = {.read = hp_read, .write = hp_write, .impl_min = 4, .impl_max = 4};

static void plugged(void *opaque, struct pci_dev *d)
{
    struct acpi_pcihp *h = opaque;

    h->up[h->root->hp_nr] |= 1u << (d->devfn >> 3);
    acpi_gpe_raise(h->pm, GPE_PCIHP);
}
static bool unplug(void *opaque, struct pci_dev *d, struct err **errp)
{
    struct acpi_pcihp *h = opaque;

    h->down[h->root->hp_nr] |= 1u << (d->devfn >> 3);
    acpi_gpe_raise(h->pm, GPE_PCIHP);
    return true;
}

void acpi_pcihp_init(struct acpi_pcihp *h, struct acpi_pm *p, struct pci_bus *root, uint16_t port)
{
    struct machine *m = dev_machine(p->owner);

    h->pm = p;
    h->root = root;
    root->hp_plugged = plugged;
    root->hp_unplug = unplug;
    root->hp_opaque = h;
    root->bus.hotplug = true;
    ev_bh_init(&h->eject_bh, m->run->loop, eject_now, h);
    mem_region_init_io(&h->io, m->mem_sys, &hp_ops, h, "acpi-pci-hotplug", PCIHP_LEN);
    dev_map_io(p->owner, &h->io, port);
}

void acpi_pcihp_fini(struct acpi_pcihp *h)
{
    if (!h->root)
        return;
    ev_bh_cancel(&h->eject_bh);
    h->root->hp_plugged = NULL;
    h->root->hp_unplug = NULL;
    mem_region_free(&h->io);
}
