/* What the roots of both host bridges share; see the header. */
#include "hw/north/north_host.h"

void north_host_init(struct north_host *h, const char *bus, bool express)
{
    struct machine *m = dev_machine(&h->dev);

    mem_region_init(&h->pci_mem, m->mem_sys, "pci", UINT64_MAX);
    mem_region_add_prio(&m->sysmem, 0, &h->pci_mem, -1);
    pci_bus_init(&h->bus, &h->dev, bus, &h->pci_mem, &m->sysio, 0, express);
    h->bus.rom_dirs = h->cfg->rom_dirs;
    pci_conf_ports_init(&h->conf, &h->dev, &h->bus);
    shadow_init(&h->shadow, m, h->cfg, &h->pci_mem);
    h->below_4g = h->cfg->below_4g;
    h->above_4g = h->cfg->above_4g;
    if (h->cfg->hole64_size)
        h->hole64_size = h->cfg->hole64_size;
}

void north_host_fini(struct north_host *h)
{
    shadow_fini(&h->shadow);
    pci_conf_ports_fini(&h->conf);
    mem_region_del(&h->pci_mem);
}

const struct state_field north_host_fields[] = {STATE_STRUCT(struct north_host, bus, pci_root_state),
                                                STATE_U32(struct north_host, conf.confadd), STATE_END};

bool north_host_create(struct machine *m, const char *root, const char *function, const struct north_cfg *cfg,
                       struct north *out, struct err **errp)
{
    struct dev *d = dev_new(m, root, errp);
    struct north_host *h;
    bool ok;

    if (!d)
        return false;
    h = north_host_of(d);
    h->cfg = cfg;
    ok = dev_realize(d, NULL, NULL, errp) && pci_create(m, &h->bus, 0, function, NULL, errp);
    h->cfg = NULL;
    if (!ok)
        return false;
    *out = (struct north){.host = d,
                          .bus = &h->bus,
                          .pci_mem = &h->pci_mem,
                          .smram_root = &h->shadow.smm_root,
                          .hole64_start = 4 * GIB + h->above_4g,
                          .hole64_size = h->hole64_size};
    return true;
}

void north_hole64(const struct north *n, uint64_t *start, uint64_t *end)
{
    *start = align_up(n->hole64_start, GIB);
    *end = *start + n->hole64_size;
}
