/* Q35 memory controller hub: PCIe root complex, MMCONFIG, PAM, SMRAM and TSEG. Classes "q35-pcihost" (root) and "mch"
 * (00.0).
 *
 * Intel 3 Series Chipset MCH data sheet (316966-002) chapter 5.1. Register 50h (extended TSEG size, unused on the chip)
 * is the one OVMF asks for more SMRAM with. Not modelled: EPBAR, MCHBAR and DMIBAR windows (stored, nothing answers),
 * high SMRAM, DRAM set-up, memory errors. */
#include "base/bytes.h"
#include "hw/north/north_host.h"

enum { EXT_TSEG_MB = 0x50, PCIEXBAR = 0x60, PAM0 = 0x90, SMRAM = 0x9d, ESMRAMC = 0x9e };
enum { ESMRAMC_T_EN = 1, ESMRAMC_TSEG_SZ = 6, ESMRAMC_CACHE = 0x38, EXT_TSEG_QUERY = 0xffff };
#define PCIEXBAR_DEFAULT UINT64_C(0xb0000000)
#define PCIEXBAR_ADDR    UINT64_C(0x0000000ff0000000)

struct q35_host {
    struct north_host n; /* first */
    struct pcie_mmcfg mmcfg;
    struct mem_region tseg_hide, tseg; /* ones for everybody, RAM for SMM */
};
struct mch {
    struct pci_dev pci; /* first */
    uint16_t ext_tseg_mbytes;
};

static struct q35_host *q35_of(const struct dev *d)
{
    return container_of(d, struct q35_host, n.dev);
}
static struct q35_host *host_of(const struct pci_dev *d)
{
    return q35_of(d->dev.bus->owner);
}

static const struct mem_ops ones_ops = {.impl_max = 8, .unaligned = true};

static void update_mmcfg(struct pci_dev *d)
{
    static const uint64_t size[4] = {256 * MIB, 128 * MIB, 64 * MIB, 0};
    uint64_t r = get_le64(d->config + PCIEXBAR), len = size[r >> 1 & 3];

    if (!(r & 1) || !len) {
        pcie_mmcfg_set(&host_of(d)->mmcfg, 0, 0);
        return;
    }
    pcie_mmcfg_set(&host_of(d)->mmcfg, r & 0xffc000000 & ~(len - 1), len);
}

static uint64_t tseg_size(const struct pci_dev *d)
{
    uint8_t e = d->config[ESMRAMC];

    if (!(e & ESMRAMC_T_EN) || !(d->config[SMRAM] & SMRAM_G_SMRAME) || !host_of(d)->n.shadow.smm)
        return 0;
    switch (e & ESMRAMC_TSEG_SZ) {
    case 0:
        return MIB;
    case 2:
        return 2 * MIB;
    case 4:
        return 8 * MIB;
    default:
        return (uint64_t)container_of(d, struct mch, pci)->ext_tseg_mbytes * MIB;
    }
}

static void update_smram(struct pci_dev *d)
{
    struct q35_host *h = host_of(d);
    uint64_t size = tseg_size(d);

    mem_begin(h->n.pci_mem.sys);
    shadow_set_smram(&h->n.shadow, d->config[SMRAM]);
    mem_region_del(&h->tseg_hide);
    mem_region_del(&h->tseg);
    if (size && size <= h->n.below_4g) {
        uint64_t base = h->n.below_4g - size;

        mem_region_set_size(&h->tseg_hide, size);
        mem_region_set_size(&h->tseg, size);
        mem_region_set_alias_off(&h->tseg, base);
        mem_region_add_prio(h->n.shadow.sysmem, base, &h->tseg_hide, 1);
        mem_region_add_prio(&h->n.shadow.smm_root, base, &h->tseg, 1);
    }
    mem_commit(h->n.pci_mem.sys);
}

static bool touches(unsigned off, unsigned size, unsigned at, unsigned len)
{
    return off < at + len && at < off + size;
}

static void lock_smram(struct pci_dev *d)
{
    if (!(d->config[SMRAM] & SMRAM_D_LCK))
        return;
    d->config[SMRAM] &= (uint8_t)~SMRAM_D_OPEN;
    d->wmask[SMRAM] = SMRAM_D_CLS;
    d->wmask[ESMRAMC] = 0;
    put_le16(d->wmask + EXT_TSEG_MB, 0);
}

static void mch_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    struct mch *m = container_of(d, struct mch, pci);

    pci_default_cfg_write(d, off, val, size);
    if (touches(off, size, EXT_TSEG_MB, 2) && get_le16(d->config + EXT_TSEG_MB) == EXT_TSEG_QUERY && m->ext_tseg_mbytes)
        put_le16(d->config + EXT_TSEG_MB, m->ext_tseg_mbytes);
    if (touches(off, size, PAM0, 7))
        shadow_set_pam(&host_of(d)->n.shadow, d->config + PAM0);
    if (touches(off, size, PCIEXBAR, 8))
        update_mmcfg(d);
    if (touches(off, size, SMRAM, 2)) {
        lock_smram(d);
        update_smram(d);
    }
}

static void mch_reset(struct dev *dev)
{
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);
    uint64_t bar = get_le64(d->config + PCIEXBAR);
    uint8_t pam[7];

    memcpy(pam, d->config + PAM0, sizeof pam);
    put_le16(d->config + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    memset(d->config + 0x40, 0, 0xa0);
    if (shadow_survives(dev_machine(dev)))
        memcpy(d->config + PAM0, pam, sizeof pam);
    put_le64(d->config + PCIEXBAR, shadow_survives(dev_machine(dev)) ? bar : PCIEXBAR_DEFAULT);
    d->config[SMRAM] = 0x02;
    d->config[ESMRAMC] = ESMRAMC_CACHE;
    d->wmask[SMRAM] = 0x78;
    d->wmask[ESMRAMC] = ESMRAMC_T_EN | ESMRAMC_TSEG_SZ;
    put_le16(d->wmask + EXT_TSEG_MB, container_of(d, struct mch, pci)->ext_tseg_mbytes ? 0xffff : 0);
    shadow_set_pam(&host_of(d)->n.shadow, d->config + PAM0);
    update_mmcfg(d);
    update_smram(d);
}

static bool mch_realize(struct dev *dev, struct err **errp)
{
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);

    put_le16(d->wmask + PCI_COMMAND, 0x0100);
    memset(d->wmask + 0x40, 0xff, 0xa0);
    put_le64(d->wmask + PCIEXBAR, PCIEXBAR_ADDR | 0x0c000007);
    mch_reset(dev);
    return true;
}

static bool mch_loaded(void *obj, struct err **errp)
{
    struct pci_dev *d = obj;

    shadow_set_pam(&host_of(d)->n.shadow, d->config + PAM0);
    update_mmcfg(d);
    lock_smram(d);
    update_smram(d);
    return true;
}
static const struct prop mch_props[] = {
    PROP("extended-tseg-mbytes", u16, struct mch, ext_tseg_mbytes, .dflt = "16"),
    PROP_END,
};
static const struct state_field mch_fields[] = {STATE_STRUCT(struct mch, pci, pci_dev_state), STATE_END};
static const struct state_desc mch_state = {.name = "mch", .version = 1, .fields = mch_fields, .post_load = mch_loaded};
static const struct pci_class mch_class = {.name = "mch",
                                           .parent = "pci-device",
                                           .desc = "Host bridge",
                                           .size = sizeof(struct mch),
                                           .props = mch_props,
                                           .more_props = pci_props,
                                           .bus_type = "PCI",
                                           .category = DEV_CAT_BRIDGE,
                                           .board_only = true,
                                           .realize = mch_realize,
                                           .reset = mch_reset,
                                           .state_version = 1,
                                           .state_desc = &mch_state,
                                           .vendor_id = 0x8086,
                                           .device_id = 0x29c0,
                                           .revision = 2,
                                           .class_id = 0x0600,
                                           .cfg_write = mch_write};
PCI_REGISTER(mch_class)

/* ---- root ---- */

static bool host_realize(struct dev *d, struct err **errp)
{
    struct q35_host *h = q35_of(d);
    struct machine *m = dev_machine(d);

    north_host_init(&h->n, "pcie.0", true);
    pcie_mmcfg_init(&h->mmcfg, d, &h->n.bus, &m->sysmem);
    mem_region_init_io(&h->tseg_hide, m->mem_sys, &ones_ops, NULL, "tseg-blackhole", 0);
    mem_region_init_alias(&h->tseg, m->mem_sys, "tseg-window", h->n.cfg->ram, 0, 0);
    return true;
}
static void host_unrealize(struct dev *d)
{
    struct q35_host *h = q35_of(d);

    pcie_mmcfg_set(&h->mmcfg, 0, 0);
    mem_region_del(&h->tseg_hide);
    mem_region_del(&h->tseg);
    north_host_fini(&h->n);
}
static const struct prop host_props[] = {
    PROP("pci-hole64-size", size, struct q35_host, n.hole64_size, .dflt = "32G"),
    PROP_END,
};
static const struct dev_class host_class = {.name = "q35-pcihost",
                                            .parent = "pci-host-bridge",
                                            .size = sizeof(struct q35_host),
                                            .props = host_props,
                                            .category = DEV_CAT_BRIDGE,
                                            .board_only = true,
                                            .state_version = 1,
                                            .state = north_host_fields,
                                            .realize = host_realize,
                                            .unrealize = host_unrealize};
DEV_REGISTER(host_class)

bool q35_create(struct machine *m, const struct north_cfg *cfg, struct north *out, struct err **errp)
{
    return north_host_create(m, "q35-pcihost", "mch", cfg, out, errp);
}

bool q35_mmcfg(const struct north *n, uint64_t *base, uint64_t *size)
{
    const struct q35_host *h = q35_of(n->host);

    *base = h->mmcfg.base;
    *size = h->mmcfg.size;
    return h->mmcfg.size != 0;
}
