/* ICH9 LPC bridge (1f.0): PIRQ routing, chipset configuration registers, ACPI with SMI enables, TCO watchdog; and the
 * SMBus function (1f.3). Classes "ICH9-LPC" and "ICH9-SMB". Puts the whole south bridge of `q35` together.
 *
 * Intel ICH9 data sheet (316972-004) chapters 10.1 (chipset configuration), 13 (LPC), 20 (SMBus). SMI sources other
 * than the APM command and the TCO timer, GPIO, SPI and BIOS protection are stored without effect. */
#include "hw/south/parts.h"

#include "base/bytes.h"
#include "base/json.h"
#include "hw/acpi/pm.h"
#include "hw/i2c/smbus.h"
#include "hw/intc/apic.h"

enum { PMBASE = 0x40, ACPI_CNTL = 0x44, PIRQA_ROUT = 0x60, PIRQE_ROUT = 0x68, GEN_PMCON_1 = 0xa0, RCBA = 0xf0 };
enum { ACPI_EN = 0x80, ROUT_DISABLE = 0x80, SMI_LOCK = 0x10, RCBA_EN = 1, PM_IO_SIZE = 128, RCBA_SIZE = 0x4000 };
enum { D31IR = 0x3140, D25IR = 0x3150, GCS = 0x3410, GCS_NO_REBOOT = 0x20 };
enum { SMI_EN = 0x30, SMI_STS = 0x34, TCO = 0x60 };
enum { GBL_SMI_EN = 1, EOS = 2, APMC_EN = 0x20, TCO_EN = 0x2000, APM_STS = 0x20, TCO_STS = 0x2000 };
enum { TCO_RLD = 0, TCO1_STS = 4, TCO2_STS = 6, TCO1_CNT = 8, TCO2_CNT = 10, TCO_TMR = 18 };
enum { TIMEOUT = 8, SECOND_TO_STS = 2, BOOT_STS = 4, TCO_TMR_HLT = 0x0800, TCO_LOCK = 0x1000, TCO_TICK_NS = 600000000 };
enum { SMI_F_BROADCAST = 1 };

struct ich9 {
    struct pci_dev pci; /* first */
    struct isa_bus isa;
    struct irq_line *gsi[24]; /* borrowed */
    struct mem_region pm_io, smi_io, tco_io, rcba_io;
    struct acpi_pm pm;
    uint8_t rcba[RCBA_SIZE]; /* chipset configuration registers as stored */
    uint8_t pirq_level;      /* bit n: PIRQ n asserted */
    uint32_t driven;         /* global interrupts this router holds up */
    bool sci;
    struct irq_line sci_in;
    uint8_t rst_cnt;
    uint32_t smi_en, smi_sts;
    uint8_t tco[32]; /* TCO registers */
    int tco_timeouts;
    struct clk_timer tco_timer;
    bool smm, no_reboot;
    uint64_t smi_negotiated;
};

/* ---- interrupt routing ---- */

static unsigned sci_gsi(const struct ich9 *p)
{
    static const uint8_t sel[8] = {9, 10, 11, 9, 20, 21, 22, 23};

    return sel[p->pci.config[ACPI_CNTL] & 7];
}

/* Every PIRQ reaches its IOAPIC input; where it is routed, an ISA line too, shared with the SCI. */
static void route(struct ich9 *p)
{
    uint32_t want = p->sci ? 1u << sci_gsi(p) : 0, change;

    for (unsigned n = 0; n < 8; n++) {
        uint8_t rout = p->pci.config[n < 4 ? PIRQA_ROUT + n : PIRQE_ROUT + n - 4];

        if (!(p->pirq_level >> n & 1))
            continue;
        want |= 1u << (16 + n);
        if (!(rout & ROUT_DISABLE))
            want |= 1u << (rout & 0xf);
    }
    change = want ^ p->driven;
    p->driven = want;
    for (unsigned i = 0; i < 24; i++)
        if (change >> i & 1)
            irq_set(p->gsi[i], want >> i & 1);
}

static void set_pirq(void *opaque, int n, int level)
{
    struct ich9 *p = opaque;

    p->pirq_level = (uint8_t)(level ? p->pirq_level | 1 << n : p->pirq_level & ~(1 << n));
    route(p);
}
static void set_sci(void *opaque, int n, int level)
{
    struct ich9 *p = opaque;

    p->sci = level;
    route(p);
}

/* Devices 25-31 have a route register each (D31IR at 3140h, downwards in device number); the rest rotates over PIRQE-H.
 */
static int map_irq(struct pci_bus *b, uint8_t devfn, int pin)
{
    static const uint16_t ir[7] = {D25IR, 0x314c, 0x3148, 0x3146, 0x3144, 0x3142, D31IR};
    struct ich9 *p = b->irq_opaque;
    unsigned slot = devfn >> 3;

    if (slot < 25)
        return 4 + ((int)slot + pin) % 4;
    return get_le16(p->rcba + ir[slot - 25]) >> 4 * pin & 7;
}

/* ---- chipset configuration ---- */

static uint64_t rcba_read(void *opaque, gpa_t off, unsigned size)
{
    return get_le(((struct ich9 *)opaque)->rcba + off, size);
}
static void rcba_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct ich9 *p = opaque;

    put_le(p->rcba + off, val, size);
    if (off + size > D31IR && off < D25IR + 2)
        pci_bus_remap_irqs(pci_dev_bus(&p->pci));
}
static const struct mem_ops rcba_ops = {.read = rcba_read, .write = rcba_write, .impl_max = 4};

static void rcba_reset(struct ich9 *p)
{
    static const uint16_t ir[] = {D31IR, 0x3142, 0x3144, 0x3146, 0x3148, 0x314c, D25IR};

    memset(p->rcba, 0, sizeof p->rcba);
    for (unsigned i = 0; i < ARRAY_LEN(ir); i++)
        put_le16(p->rcba + ir[i], 0x3210);
    put_le32(p->rcba + GCS, p->no_reboot ? GCS_NO_REBOOT : 0);
}

/* ---- SMI ---- */

static void raise_smi(struct ich9 *p)
{
    struct machine *m = dev_machine(&p->pci.dev);

    if (!p->smm || !(p->smi_en & GBL_SMI_EN) || !m->nr_cpus)
        return;
    if (p->smi_negotiated & SMI_F_BROADCAST)
        x86_smi(m, NULL);
    else
        x86_smi(m, vcpu_self() ? vcpu_self() : m->cpus[0]);
}

static void apm_smi(void *opaque, uint8_t cmd)
{
    struct ich9 *p = opaque;

    if (!(p->smi_en & APMC_EN))
        return;
    p->smi_sts |= APM_STS;
    raise_smi(p);
}

static uint64_t smi_read(void *opaque, gpa_t off, unsigned size)
{
    struct ich9 *p = opaque;

    return off == 0 ? p->smi_en : off == 4 ? p->smi_sts : 0;
}
static void smi_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct ich9 *p = opaque;
    uint32_t keep = 0;

    if (off == 0) {
        if (get_le16(p->pci.config + GEN_PMCON_1) & SMI_LOCK)
            keep |= GBL_SMI_EN;
        if (get_le16(p->tco + TCO1_CNT) & TCO_LOCK)
            keep |= TCO_EN;
        p->smi_en = (p->smi_en & keep) | ((uint32_t)val & ~keep & ~(uint32_t)EOS);
    } else if (off == 4) {
        p->smi_sts &= ~(uint32_t)val;
    }
}
static const struct mem_ops smi_ops = {.read = smi_read, .write = smi_write, .impl_min = 4, .impl_max = 4};

/* ---- TCO watchdog ---- */

static void tco_start(struct ich9 *p)
{
    unsigned ticks = get_le16(p->tco + TCO_TMR) & 0x3ff;

    if (get_le16(p->tco + TCO1_CNT) & TCO_TMR_HLT)
        clk_timer_cancel(&p->tco_timer);
    else
        clk_timer_set(&p->tco_timer, clk_now(dev_vclk(&p->pci.dev)) + (int64_t)(ticks ? ticks : 1) * TCO_TICK_NS);
}

/* The first time-out asks the software (SMI), the second one resets. */
static void tco_expired(void *opaque)
{
    struct ich9 *p = opaque;

    p->tco[TCO1_STS] |= TIMEOUT;
    if (++p->tco_timeouts == 1) {
        if (p->smi_en & TCO_EN) {
            p->smi_sts |= TCO_STS;
            raise_smi(p);
        }
        tco_start(p);
        return;
    }
    p->tco_timeouts = 0;
    p->tco[TCO2_STS] |= SECOND_TO_STS | BOOT_STS;
    if (get_le32(p->rcba + GCS) & GCS_NO_REBOOT) {
        tco_start(p);
        return;
    }
    run_event(dev_machine(&p->pci.dev)->run, "WATCHDOG", json_make("s:action", "reset", NULL));
    machine_request_reset(dev_machine(&p->pci.dev), CAUSE_GUEST_RESET);
}

static uint64_t tco_read(void *opaque, gpa_t off, unsigned size)
{
    struct ich9 *p = opaque;
    int64_t left;

    if (off == TCO_RLD && clk_timer_pending(&p->tco_timer)) {
        left = (p->tco_timer.deadline - clk_now(dev_vclk(&p->pci.dev))) / TCO_TICK_NS;
        return left > 0 ? (uint64_t)left & 0x3ff : 0;
    }
    return get_le(p->tco + off, size);
}

static void tco1_cnt(struct ich9 *p, uint16_t v)
{
    uint16_t old = get_le16(p->tco + TCO1_CNT);

    put_le16(p->tco + TCO1_CNT, (v & 0x1e00) | (old & TCO_LOCK));
    if ((old ^ v) & TCO_TMR_HLT)
        tco_start(p);
}

static void tco_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct ich9 *p = opaque;
    uint8_t buf[8];

    put_le(buf, val, size);
    if (off == TCO_RLD) {
        p->tco_timeouts = 0;
        tco_start(p);
        return;
    }
    if (off == TCO1_CNT && size == 2) {
        tco1_cnt(p, (uint16_t)val);
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        if (off + i >= TCO1_STS && off + i < TCO1_CNT)
            p->tco[off + i] &= (uint8_t)~buf[i];
        else
            p->tco[off + i] = buf[i];
    }
}
static const struct mem_ops tco_ops = {.read = tco_read, .write = tco_write, .impl_max = 2};

static void tco_reset(struct ich9 *p)
{
    uint8_t boot = p->tco[TCO2_STS] & (SECOND_TO_STS | BOOT_STS);

    memset(p->tco, 0, sizeof p->tco);
    p->tco[TCO2_STS] = boot;
    put_le16(p->tco + TCO1_CNT, TCO_TMR_HLT);
    put_le16(p->tco + TCO_TMR, 4);
    p->tco_timeouts = 0;
    clk_timer_cancel(&p->tco_timer);
}

/* ---- function ---- */

static void place(struct mem_region *r, struct mem_region *parent, bool on, gpa_t base)
{
    on = on && base;
    if (r->parent && (!on || r->addr != base))
        mem_region_del(r);
    if (on && !r->parent)
        mem_region_add_prio(parent, base, r, 1);
}

static void apply(struct ich9 *p)
{
    const uint8_t *c = p->pci.config;
    struct machine *m = dev_machine(&p->pci.dev);
    uint32_t rcba = get_le32(c + RCBA);

    p->pm.base = c[ACPI_CNTL] & ACPI_EN ? get_le16(c + PMBASE) & 0xff80 : 0;
    mem_begin(m->mem_sys);
    place(&p->pm_io, &m->sysio, p->pm.base, p->pm.base);
    place(&p->rcba_io, &m->sysmem, rcba & RCBA_EN, rcba & 0xffffc000);
    mem_commit(m->mem_sys);
    route(p);
}

static void lpc_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    struct ich9 *p = container_of(d, struct ich9, pci);
    bool locked = get_le16(d->config + GEN_PMCON_1) & SMI_LOCK;

    pci_default_cfg_write(d, off, val, size);
    if (locked)
        d->config[GEN_PMCON_1] |= SMI_LOCK;
    apply(p);
}

static uint8_t rst_read(void *opaque)
{
    return ((struct ich9 *)opaque)->rst_cnt;
}
static void rst_write(void *opaque, uint8_t val)
{
    struct ich9 *p = opaque;

    p->rst_cnt = south_reset_control(dev_machine(&p->pci.dev), p->rst_cnt, val);
}

static void lpc_reset(struct dev *dev)
{
    struct ich9 *p = container_of(dev, struct ich9, pci.dev);
    uint8_t *c = p->pci.config, acpi = c[ACPI_CNTL];
    uint32_t base = get_le32(c + PMBASE), rcba = get_le32(c + RCBA);
    bool waking = dev_machine(dev)->state == RS_SUSPENDED;

    put_le16(c + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    put_le16(c + PCI_STATUS, 0x0210);
    memset(c + 0x40, 0, 0xa0);
    put_le32(c + PMBASE, 1);
    memset(c + PIRQA_ROUT, ROUT_DISABLE, 4);
    memset(c + PIRQE_ROUT, ROUT_DISABLE, 4);
    c[0x64] = 0x10;
    put_le32(c + RCBA, 0);
    if (waking) { /* SeaBIOS does not set these up again on its way to the resume vector */
        put_le32(c + PMBASE, base);
        put_le32(c + RCBA, rcba);
        c[ACPI_CNTL] = acpi;
    }
    p->rst_cnt = 0;
    p->smi_en = p->smm ? 0 : APMC_EN; /* firmware takes it for "SMM is set up already" and leaves it alone */
    p->smi_sts = 0;
    p->smi_negotiated = 0;
    rcba_reset(p);
    tco_reset(p);
    acpi_pm_reset(&p->pm);
    apply(p);
}

static void map_pm(struct ich9 *p, struct machine *m)
{
    mem_region_init(&p->pm_io, m->mem_sys, "ich9-pm", PM_IO_SIZE);
    mem_region_init_io(&p->smi_io, m->mem_sys, &smi_ops, p, "ich9-smi", 8);
    mem_region_init_io(&p->tco_io, m->mem_sys, &tco_ops, p, "ich9-tco", sizeof p->tco);
    mem_region_add(&p->pm_io, PM1_STS, &p->pm.evt);
    mem_region_add(&p->pm_io, PM1_CNT, &p->pm.cnt);
    mem_region_add(&p->pm_io, PM_TMR, &p->pm.tmr);
    mem_region_add(&p->pm_io, ICH9_GPE0_OFF, &p->pm.gpe_io);
    mem_region_add(&p->pm_io, SMI_EN, &p->smi_io);
    mem_region_add(&p->pm_io, TCO, &p->tco_io);
    mem_region_init_io(&p->rcba_io, m->mem_sys, &rcba_ops, p, "ich9-rcba", RCBA_SIZE);
}

static bool lpc_realize(struct dev *dev, struct err **errp)
{
    struct ich9 *p = container_of(dev, struct ich9, pci.dev);
    uint8_t *w = p->pci.wmask;

    put_le16(w + PCI_COMMAND, 0x0104);
    memset(w + 0x40, 0xff, 0xa0);
    put_le32(w + PMBASE, 0xff80);
    put_le32(w + RCBA, 0xffffc001);
    isa_bus_init(&p->isa, dev);
    clk_timer_init(&p->tco_timer, dev_vclk(dev), tco_expired, p);
    acpi_pm_init(&p->pm, dev, ICH9_GPE0_LEN);
    p->pm.slp_s3 = ICH9_SLP_TYP_S3;
    p->pm.slp_s5 = ICH9_SLP_TYP_S5;
    p->pm.acpi_on = ICH9_ACPI_ENABLE;
    p->pm.acpi_off = ICH9_ACPI_DISABLE;
    p->pm.apm_smi = apm_smi;
    p->pm.opaque = p;
    p->sci_in = (struct irq_line){set_sci, p, 0};
    p->pm.sci = &p->sci_in;
    map_pm(p, dev_machine(dev));
    lpc_reset(dev);
    return true;
}

static void lpc_unrealize(struct dev *dev)
{
    struct ich9 *p = container_of(dev, struct ich9, pci.dev);

    pci_dev_bus(&p->pci)->map_irq = NULL;
    pci_dev_bus(&p->pci)->set_irq = NULL;
    clk_timer_cancel(&p->tco_timer);
    acpi_pcihp_fini(&p->pm.pcihp);
    acpi_cpuhp_fini(&p->pm.cpuhp);
    mem_region_del(&p->pm_io);
    mem_region_del(&p->rcba_io);
    acpi_pm_fini(&p->pm);
}

static bool lpc_loaded(void *obj, struct err **errp)
{
    struct ich9 *p = obj;

    apply(p); /* the levels of all wires are part of what they lead to */
    return true;
}
static const struct prop lpc_props[] = {
    PROP("disable_s3", u8, struct ich9, pm.disable_s3, .dflt = "0", .max = 1),
    PROP("disable_s4", u8, struct ich9, pm.disable_s4, .dflt = "0", .max = 1),
    PROP("s4_val", u8, struct ich9, pm.slp_s4, .dflt = "6", .max = 7),
    PROP("noreboot", bool, struct ich9, no_reboot, .dflt = "true"),
    PROP_END,
};
static const struct state_field lpc_fields[] = {STATE_STRUCT(struct ich9, pci, pci_dev_state),
                                                STATE_STRUCT(struct ich9, pm, acpi_pm_state),
                                                STATE_BYTES(struct ich9, rcba),
                                                STATE_U8(struct ich9, pirq_level),
                                                STATE_U32(struct ich9, driven),
                                                STATE_BOOL(struct ich9, sci),
                                                STATE_U8(struct ich9, rst_cnt),
                                                STATE_U32(struct ich9, smi_en),
                                                STATE_U32(struct ich9, smi_sts),
                                                STATE_BYTES(struct ich9, tco),
                                                STATE_INT(struct ich9, tco_timeouts),
                                                STATE_TIMER(struct ich9, tco_timer),
                                                STATE_U64(struct ich9, smi_negotiated),
                                                STATE_END};
static const struct state_desc lpc_state = {
    .name = "ICH9-LPC", .version = 1, .fields = lpc_fields, .post_load = lpc_loaded};
static const struct pci_class lpc_class = {.name = "ICH9-LPC",
                                           .parent = "pci-device",
                                           .desc = "ICH9 LPC bridge",
                                           .size = sizeof(struct ich9),
                                           .props = lpc_props,
                                           .more_props = pci_props,
                                           .bus_type = "PCI",
                                           .category = DEV_CAT_BRIDGE,
                                           .board_only = true,
                                           .realize = lpc_realize,
                                           .unrealize = lpc_unrealize,
                                           .reset = lpc_reset,
                                           .state_version = 1,
                                           .state_desc = &lpc_state,
                                           .vendor_id = 0x8086,
                                           .device_id = 0x2918,
                                           .revision = 2,
                                           .class_id = 0x0601,
                                           .cfg_write = lpc_write};
PCI_REGISTER(lpc_class)

struct acpi_pm *ich9_lpc_acpi(struct dev *d)
{
    return &container_of(d, struct ich9, pci.dev)->pm;
}

/* ---- SMBus function ---- */

enum { HOSTC = 0x40, HST_EN = 1 };
struct ich9_smb {
    struct pci_dev pci; /* first */
    struct smbus_host smb;
    struct mem_region bar;
};

static void smb_cfg_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size)
{
    pci_default_cfg_write(d, off, val, size);
    mem_region_set_enabled(&container_of(d, struct ich9_smb, pci)->smb.io, d->config[HOSTC] & HST_EN);
}
static void smb_reset(struct dev *dev)
{
    struct ich9_smb *s = container_of(dev, struct ich9_smb, pci.dev);

    s->pci.config[HOSTC] = 0;
    mem_region_set_enabled(&s->smb.io, false);
    smbus_host_reset(&s->smb);
}
static bool smb_realize(struct dev *dev, struct err **errp)
{
    struct ich9_smb *s = container_of(dev, struct ich9_smb, pci.dev);

    smbus_host_init(&s->smb, dev_machine(dev));
    mem_region_init(&s->bar, dev_machine(dev)->mem_sys, "ich9-smbus", 32);
    mem_region_add(&s->bar, 0, &s->smb.io);
    pci_add_bar(&s->pci, 4, PCI_BAR_IO, &s->bar);
    pci_set_pin(&s->pci, 1);
    s->pci.wmask[HOSTC] = 0x0f;
    return true;
}
static void smb_unrealize(struct dev *dev)
{
    mem_region_del(&container_of(dev, struct ich9_smb, pci.dev)->smb.io);
}
static const struct state_field smb_fields[] = {STATE_STRUCT(struct ich9_smb, pci, pci_dev_state),
                                                STATE_STRUCT(struct ich9_smb, smb, smbus_host_state), STATE_END};
static const struct pci_class smb_class = {.name = "ICH9-SMB",
                                           .parent = "pci-device",
                                           .desc = "ICH9 SMBUS Bridge",
                                           .size = sizeof(struct ich9_smb),
                                           .more_props = pci_props,
                                           .bus_type = "PCI",
                                           .category = DEV_CAT_BRIDGE,
                                           .board_only = true,
                                           .realize = smb_realize,
                                           .unrealize = smb_unrealize,
                                           .reset = smb_reset,
                                           .state_version = 1,
                                           .state = smb_fields,
                                           .vendor_id = 0x8086,
                                           .device_id = 0x2930,
                                           .revision = 2,
                                           .class_id = 0x0c05,
                                           .cfg_write = smb_cfg_write};
PCI_REGISTER(smb_class)

/* ---- all of it ---- */

bool ich9_create(struct machine *m, struct pci_bus *bus, const struct south_cfg *cfg, struct south *out,
                 struct err **errp)
{
    struct pci_dev *d = south_function(m, bus, PCI_DEVFN(0x1f, 0), "ICH9-LPC", true, errp);
    struct ich9 *p;

    if (!d)
        return false;
    p = container_of(d, struct ich9, pci);
    *out = (struct south){.isa = &p->isa, .lpc = d};
    if (!south_parts_create(m, cfg, out, errp))
        return false;
    memcpy(p->gsi, out->gsi, sizeof p->gsi);
    p->smm = cfg->smm;
    bus->irq_opaque = p;
    bus->map_irq = map_irq;
    bus->set_irq = set_pirq;
    bus->cf9_read = rst_read;
    bus->cf9_write = rst_write;
    bus->cf9_opaque = p;
    acpi_cpuhp_init(&p->pm.cpuhp, &p->pm, CPUHP_Q35_BASE);
    acpi_pcihp_init(&p->pm.pcihp, &p->pm, bus, PCIHP_Q35_BASE);
    bus->bus.hotplug = false; /* the root complex itself: ports bring their own hot-plug */
    out->acpi = &p->pm;
    return south_function(m, bus, PCI_DEVFN(0x1f, 3), "ICH9-SMB", false, errp) != NULL;
}

uint64_t ich9_smi_features(struct south *s)
{
    return container_of(s->lpc, struct ich9, pci)->smm ? SMI_F_BROADCAST : 0;
}
void ich9_smi_negotiate(struct south *s, uint64_t features)
{
    container_of(s->lpc, struct ich9, pci)->smi_negotiated = features & ich9_smi_features(s);
}
