/* 82371AB (PIIX4) function 3: power management and SMBus, as firmware expects it beside the PIIX3 of `pc`. Class
 * "PIIX4_PM".
 *
 * Intel 82371AB data sheet (290562-001) chapters 7 and 11.5. Device monitors, traps and their SMIs are stored without
 * effect: of the SMI sources only the APM command port acts. GPE0 and hot-plug registers sit at the fixed ports of
 * acpi_hw.h. */
#include "hw/south/parts.h"

#include "base/bytes.h"
#include "hw/acpi/pm.h"
#include "hw/i2c/smbus.h"
#include "hw/intc/apic.h"

enum { PMBA = 0x40, DEVACTB = 0x58, PMREGMISC = 0x80, SMBBA = 0x90, SMBHSTCFG = 0xd2 };
enum { DEVACTB_APMC_EN = 1 << 1 /* of byte 5Bh */, PMIOSE = 1, SMB_HST_EN = 1, PM_IO_SIZE = 64, SMB_IO_SIZE = 64 };

struct piix4_pm {
    struct pci_dev pci; /* first */
    struct acpi_pm pm;
    struct smbus_host smb;
    struct mem_region pm_io, smb_io;
    bool smm, root_hotplug;
    uint8_t s4_val;
};

/* Maps, moves or hides a block of ports. */
static void place(struct mem_region *r, struct mem_region *parent, bool on, uint16_t base)
{
    on = on && base;
    if (r->parent && (!on || r->addr != base))
        mem_region_del(r);
    if (on && !r->parent)
        mem_region_add(parent, base, r);
}

static void apply(struct piix4_pm *p)
{
    const uint8_t *c = p->pci.config;
    struct machine *m = dev_machine(&p->pci.dev);

    p->pm.base = c[PMREGMISC] & PMIOSE ? get_le16(c + PMBA) & 0xffc0 : 0;
    mem_begin(m->mem_sys);
    place(&p->pm_io, &m->sysio, p->pm.base, p->pm.base);
    place(&p->smb_io, &m->sysio, c[SMBHSTCFG] & SMB_HST_EN, get_le16(c + SMBBA) & 0xffc0);
    mem_commit(m->mem_sys);
}

static void pm_cfg_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    pci_default_cfg_write(d, off, val, size);
    apply(container_of(d, struct piix4_pm, pci));
}

static void apm_smi(void *opaque, uint8_t cmd)
{
    struct piix4_pm *p = opaque;
    struct machine *m = dev_machine(&p->pci.dev);

    if (p->smm && (p->pci.config[DEVACTB + 3] & DEVACTB_APMC_EN) && m->nr_cpus)
        x86_smi(m, vcpu_self() ? vcpu_self() : m->cpus[0]);
}

static void pm_reset(struct dev *dev)
{
    struct piix4_pm *p = container_of(dev, struct piix4_pm, pci.dev);
    uint8_t *c = p->pci.config;

    put_le16(c + PCI_STATUS, 0x0280);
    memset(c + 0x40, 0, 0xc0);
    put_le32(c + PMBA, 1);
    put_le32(c + SMBBA, 1);
    if (!p->smm)
        c[DEVACTB + 3] = DEVACTB_APMC_EN; /* firmware takes it for "SMM is set up already" and leaves it alone */
    c[SMBHSTCFG + 4] = 0;                 /* revision id of the SMBus part */
    smbus_host_reset(&p->smb);
    acpi_pm_reset(&p->pm);
    apply(p);
}

static bool pm_realize(struct dev *dev, struct err **errp)
{
    struct piix4_pm *p = container_of(dev, struct piix4_pm, pci.dev);
    struct machine *m = dev_machine(dev);
    uint8_t *w = p->pci.wmask;

    put_le16(w + PCI_COMMAND, PCI_COMMAND_IO);
    memset(w + 0x40, 0xff, 0xc0);
    put_le32(w + PMBA, 0xffc0);
    put_le32(w + SMBBA, 0xfff0);
    pci_set_pin(&p->pci, 1);
    acpi_pm_init(&p->pm, dev, PIIX4_GPE0_LEN);
    p->pm.slp_s3 = PIIX4_SLP_TYP_S3;
    p->pm.slp_s4 = p->s4_val;
    p->pm.slp_s5 = PIIX4_SLP_TYP_S5;
    p->pm.acpi_on = PIIX4_ACPI_ENABLE;
    p->pm.acpi_off = PIIX4_ACPI_DISABLE;
    p->pm.apm_smi = apm_smi;
    p->pm.opaque = p;
    dev_add_irq_out(dev, "sci", &p->pm.sci, 1);
    mem_region_init(&p->pm_io, m->mem_sys, "piix4-pm", PM_IO_SIZE);
    mem_region_add(&p->pm_io, PM1_STS, &p->pm.evt);
    mem_region_add(&p->pm_io, PM1_CNT, &p->pm.cnt);
    mem_region_add(&p->pm_io, PM_TMR, &p->pm.tmr);
    dev_map_io(dev, &p->pm.gpe_io, PIIX4_GPE0_BLK);
    smbus_host_init(&p->smb, m);
    mem_region_init(&p->smb_io, m->mem_sys, "piix4-smbus", SMB_IO_SIZE);
    mem_region_add(&p->smb_io, 0, &p->smb.io);
    pm_reset(dev);
    return true;
}

static void pm_unrealize(struct dev *dev)
{
    struct piix4_pm *p = container_of(dev, struct piix4_pm, pci.dev);

    acpi_pcihp_fini(&p->pm.pcihp);
    acpi_cpuhp_fini(&p->pm.cpuhp);
    mem_region_del(&p->pm_io);
    mem_region_del(&p->smb_io);
    acpi_pm_fini(&p->pm);
}

struct acpi_pm *piix4_pm_setup(struct pci_dev *d, struct pci_bus *bus, bool smm)
{
    struct piix4_pm *p = container_of(d, struct piix4_pm, pci);

    p->smm = smm;
    if (p->root_hotplug)
        acpi_pcihp_init(&p->pm.pcihp, &p->pm, bus, PCIHP_PC_BASE);
    acpi_cpuhp_init(&p->pm.cpuhp, &p->pm, CPUHP_PC_BASE);
    return &p->pm;
}

static bool pm_loaded(void *obj, struct err **errp)
{
    apply(obj);
    return true;
}
static const struct prop pm_props[] = {
    PROP("disable_s3", u8, struct piix4_pm, pm.disable_s3, .dflt = "0", .max = 1),
    PROP("disable_s4", u8, struct piix4_pm, pm.disable_s4, .dflt = "0", .max = 1),
    PROP("s4_val", u8, struct piix4_pm, s4_val, .dflt = "2", .max = 7),
    PROP("acpi-root-pci-hotplug", bool, struct piix4_pm, root_hotplug, .dflt = "true"),
    PROP_END,
};
static const struct state_field pm_fields[] = {STATE_STRUCT(struct piix4_pm, pci, pci_dev_state),
                                               STATE_STRUCT(struct piix4_pm, pm, acpi_pm_state),
                                               STATE_STRUCT(struct piix4_pm, smb, smbus_host_state), STATE_END};
static const struct state_desc pm_state = {
    .name = "PIIX4_PM", .version = 1, .fields = pm_fields, .post_load = pm_loaded};
static const struct pci_class pm_class = {.name = "PIIX4_PM",
                                          .parent = "pci-device",
                                          .desc = "PM",
                                          .size = sizeof(struct piix4_pm),
                                          .props = pm_props,
                                          .more_props = pci_props,
                                          .bus_type = "PCI",
                                          .category = DEV_CAT_BRIDGE,
                                          .board_only = true,
                                          .realize = pm_realize,
                                          .unrealize = pm_unrealize,
                                          .reset = pm_reset,
                                          .state_version = 1,
                                          .state_desc = &pm_state,
                                          .vendor_id = 0x8086,
                                          .device_id = 0x7113,
                                          .revision = 3,
                                          .class_id = 0x0680,
                                          .cfg_write = pm_cfg_write};
PCI_REGISTER(pm_class)

struct acpi_pm *piix4_pm_acpi(struct dev *d)
{
    return &container_of(d, struct piix4_pm, pci.dev)->pm;
}
