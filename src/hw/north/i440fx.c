/* 82441FX (PMC) host bridge: PCI root, PAM, SMRAM. Classes "i440FX-pcihost" (root) and "i440FX" (its function at slot
 * 0).
 *
 * Intel 82441FX data sheet (290549-001) chapter 3. DRAM timing and row boundary registers are stored without effect;
 * there is no AGP, no error reporting. */
#include "base/bytes.h"
#include "hw/north/shadow.h"
#include "hw/pci/host.h"

enum { PMC_PAM0 = 0x59, PMC_SMRAM = 0x72 };

struct i440fx;
struct i440fx_host {
    struct dev dev; /* first */
    struct pci_bus bus;
    struct pci_conf_ports conf;
    struct mem_region pci_mem;
    struct shadow shadow;
    const struct north_cfg *cfg; /* borrowed until realize returns */
    uint64_t above_4g, hole64_size;
};
struct i440fx {
    struct pci_dev pci;       /* first */
    struct i440fx_host *host; /* borrowed */
};

static struct i440fx_host *host_of(const struct pci_dev *d)
{
    return container_of(d->dev.bus->owner, struct i440fx_host, dev);
}

static void apply(struct pci_dev *d)
{
    shadow_set_pam(&host_of(d)->shadow, d->config + PMC_PAM0);
    shadow_set_smram(&host_of(d)->shadow, d->config[PMC_SMRAM]);
}

static void pmc_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    uint8_t *smram = &d->config[PMC_SMRAM];

    if (*smram & SMRAM_D_LCK)
        d->wmask[PMC_SMRAM] = SMRAM_D_CLS;
    pci_default_cfg_write(d, off, val, size);
    if (*smram & SMRAM_D_LCK) /* locking closes the window for good */
        *smram &= (uint8_t)~SMRAM_D_OPEN;
    if ((off < PMC_PAM0 + 7 && off + size > PMC_PAM0) || (off <= PMC_SMRAM && off + size > PMC_SMRAM))
        apply(d);
}

static void pmc_reset(struct dev *dev)
{
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);
    uint8_t pam[7];

    memcpy(pam, d->config + PMC_PAM0, sizeof pam);
    put_le16(d->config + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    memset(d->config + 0x50, 0, 0x30);
    if (shadow_survives(dev_machine(dev)))
        memcpy(d->config + PMC_PAM0, pam, sizeof pam);
    d->config[PMC_SMRAM] = 0x02; /* the window is at a0000 */
    d->wmask[PMC_SMRAM] = 0x78;
    apply(d);
}

static bool pmc_realize(struct dev *dev, struct err **errp)
{
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);

    put_le16(d->wmask + PCI_COMMAND, 0x0100); /* memory and master are always on */
    memset(d->wmask + 0x50, 0xff, 0x30);
    pmc_reset(dev);
    return true;
}

static const struct state_field pmc_fields[] = {STATE_STRUCT(struct i440fx, pci, pci_dev_state), STATE_END};
static bool pmc_loaded(void *obj, struct err **errp)
{
    apply(obj);
    return true;
}
static const struct state_desc pmc_state = {
    .name = "i440FX", .version = 1, .fields = pmc_fields, .post_load = pmc_loaded};
static const struct pci_class pmc_class = {.name = "i440FX",
                                           .parent = "pci-device",
                                           .desc = "Host bridge",
                                           .size = sizeof(struct i440fx),
                                           .more_props = pci_props,
                                           .bus_type = "PCI",
                                           .category = DEV_CAT_BRIDGE,
                                           .board_only = true,
                                           .realize = pmc_realize,
                                           .reset = pmc_reset,
                                           .state_version = 1,
                                           .state_desc = &pmc_state,
                                           .vendor_id = 0x8086,
                                           .device_id = 0x1237,
                                           .revision = 2,
                                           .class_id = 0x0600,
                                           .cfg_write = pmc_write};
PCI_REGISTER(pmc_class)

/* ---- root ---- */

static bool host_realize(struct dev *d, struct err **errp)
{
    struct i440fx_host *h = container_of(d, struct i440fx_host, dev);
    struct machine *m = dev_machine(d);

    mem_region_init(&h->pci_mem, m->mem_sys, "pci", UINT64_MAX);
    mem_region_add_prio(&m->sysmem, 0, &h->pci_mem, -1);
    pci_bus_init(&h->bus, d, "pci.0", &h->pci_mem, &m->sysio, 0, false);
    h->bus.rom_dirs = h->cfg->rom_dirs;
    pci_conf_ports_init(&h->conf, d, &h->bus);
    shadow_init(&h->shadow, m, h->cfg, &h->pci_mem);
    h->above_4g = h->cfg->above_4g;
    if (h->cfg->hole64_size)
        h->hole64_size = h->cfg->hole64_size;
    h->cfg = NULL;
    return true;
}
static void host_unrealize(struct dev *d)
{
    struct i440fx_host *h = container_of(d, struct i440fx_host, dev);

    shadow_fini(&h->shadow);
    pci_conf_ports_fini(&h->conf);
    mem_region_del(&h->pci_mem);
}
static const struct prop host_props[] = {
    PROP("pci-hole64-size", size, struct i440fx_host, hole64_size, .dflt = "2G"),
    PROP_END,
};
static const struct state_field host_fields[] = {STATE_STRUCT(struct i440fx_host, bus, pci_root_state),
                                                 STATE_U32(struct i440fx_host, conf.confadd), STATE_END};
static const struct dev_class host_class = {.name = "i440FX-pcihost",
                                            .parent = "pci-host-bridge",
                                            .size = sizeof(struct i440fx_host),
                                            .props = host_props,
                                            .category = DEV_CAT_BRIDGE,
                                            .board_only = true,
                                            .state_version = 1,
                                            .state = host_fields,
                                            .realize = host_realize,
                                            .unrealize = host_unrealize};
DEV_REGISTER(host_class)

bool i440fx_create(struct machine *m, const struct north_cfg *cfg, struct north *out, struct err **errp)
{
    struct dev *d = dev_new(m, "i440FX-pcihost", errp);
    struct i440fx_host *h;

    if (!d)
        return false;
    h = container_of(d, struct i440fx_host, dev);
    h->cfg = cfg;
    if (!dev_realize(d, NULL, NULL, errp) || !pci_create(m, &h->bus, 0, "i440FX", NULL, errp))
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
