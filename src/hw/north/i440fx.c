/* 82441FX (PMC) host bridge: PCI root, PAM, SMRAM. Classes "i440FX-pcihost" (root) and "i440FX" (its function at slot
 * 0).
 *
 * Intel 82441FX data sheet (290549-001) chapter 3. DRAM timing and row boundary registers are stored without effect;
 * there is no AGP, no error reporting. */
#include "base/bytes.h"
#include "hw/north/north_host.h"

enum { PMC_PAM0 = 0x59, PMC_SMRAM = 0x72 };

struct i440fx {
    struct pci_dev pci; /* first */
};

static struct north_host *host_of(const struct pci_dev *d)
{
    return north_host_of(d->dev.bus->owner);
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
    north_host_init(north_host_of(d), "pci.0", false);
    return true;
}
static void host_unrealize(struct dev *d)
{
    north_host_fini(north_host_of(d));
}
static const struct prop host_props[] = {
    PROP("pci-hole64-size", size, struct north_host, hole64_size, .dflt = "2G"),
    PROP_END,
};
static const struct dev_class host_class = {.name = "i440FX-pcihost",
                                            .parent = "pci-host-bridge",
                                            .size = sizeof(struct north_host),
                                            .props = host_props,
                                            .category = DEV_CAT_BRIDGE,
                                            .board_only = true,
                                            .state_version = 1,
                                            .state = north_host_fields,
                                            .realize = host_realize,
                                            .unrealize = host_unrealize};
DEV_REGISTER(host_class)

bool i440fx_create(struct machine *m, const struct north_cfg *cfg, struct north *out, struct err **errp)
{
    return north_host_create(m, "i440FX-pcihost", "i440FX", cfg, out, errp);
}
