/* ACPI fixed hardware: PM1 event and control blocks, power management timer, GPE0, power button, sleep, command port.
 *
 * ACPI 6.4 chapter 4.8; 82371AB and ICH9 data sheets for what they add. Not modelled: processor blocks (throttling,
 * C-states beyond halt), the global lock's release event, wake from S3 by anything but the power button, the RTC and a
 * monitor's wake-up. */
#include "hw/acpi/pm.h"

enum {
    PM1_STS_W1C = PM1_TMR_STS | PM1_BM_STS | PM1_GBL_STS | PM1_PWRBTN_STS | PM1_SLPBTN_STS | PM1_RTC_STS | PM1_WAK_STS
};
enum { PM1_EN_MASK = PM1_TMR_STS | PM1_GBL_STS | PM1_PWRBTN_STS | PM1_SLPBTN_STS | PM1_RTC_STS };
#define TMR_HALF (UINT64_C(1) << 23)

static struct machine *mach(struct acpi_pm *p)
{
    return dev_machine(p->owner);
}

/* ---- timer ---- */

static int64_t tmr_ticks(struct acpi_pm *p)
{
    return (int64_t)((__int128)clk_now(mach(p)->run->virt) * ACPI_PM_TIMER_HZ / NS_PER_SEC);
}
/* The status bit is set whenever bit 23 changes. */
static void tmr_settle(struct acpi_pm *p)
{
    int64_t half = tmr_ticks(p) / (int64_t)TMR_HALF;

    if (half != p->ovf_at)
        p->pm1_sts |= PM1_TMR_STS;
    p->ovf_at = half;
}
static void tmr_arm(struct acpi_pm *p)
{
    if (p->pm1_en & PM1_TMR_STS)
        clk_timer_set(&p->overflow,
                      (int64_t)(((__int128)(p->ovf_at + 1) * (int64_t)TMR_HALF * NS_PER_SEC) / ACPI_PM_TIMER_HZ) + 1);
    else
        clk_timer_cancel(&p->overflow);
}
static void tmr_overflow(void *opaque)
{
    struct acpi_pm *p = opaque;

    tmr_settle(p);
    acpi_pm_update_sci(p);
    tmr_arm(p);
}

static uint64_t tmr_read(void *opaque, gpa_t off, unsigned size)
{
    return (uint64_t)tmr_ticks(opaque) & 0xffffff;
}
static void tmr_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    log_guest("acpi: write to the PM timer is ignored");
}
static const struct mem_ops tmr_ops = {.read = tmr_read, .write = tmr_write, .impl_min = 4, .impl_max = 4};

/* ---- events ---- */

void acpi_pm_update_sci(struct acpi_pm *p)
{
    bool on = p->pm1_sts & p->pm1_en;

    for (unsigned i = 0; i < p->gpe_len / 2; i++)
        on |= p->gpe[i] & p->gpe[p->gpe_len / 2 + i];
    irq_set(p->sci, on && (p->pm1_cnt & PM1_SCI_EN));
}

static uint64_t evt_read(void *opaque, gpa_t off, unsigned size)
{
    struct acpi_pm *p = opaque;

    tmr_settle(p);
    return off < 2 ? p->pm1_sts : p->pm1_en;
}
static void evt_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct acpi_pm *p = opaque;

    tmr_settle(p);
    if (off < 2)
        p->pm1_sts &= (uint16_t) ~(val & PM1_STS_W1C);
    else
        p->pm1_en = val & PM1_EN_MASK;
    tmr_arm(p);
    acpi_pm_update_sci(p);
}
static const struct mem_ops evt_ops = {.read = evt_read, .write = evt_write, .impl_min = 2, .impl_max = 2};

void acpi_gpe_raise(struct acpi_pm *p, unsigned n)
{
    if (n / 8 < p->gpe_len / 2)
        p->gpe[n / 8] |= (uint8_t)(1 << n % 8);
    acpi_pm_update_sci(p);
}

static uint64_t gpe_read(void *opaque, gpa_t off, unsigned size)
{
    return ((struct acpi_pm *)opaque)->gpe[off];
}
static void gpe_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct acpi_pm *p = opaque;

    if (off < p->gpe_len / 2)
        p->gpe[off] &= (uint8_t)~val;
    else
        p->gpe[off] = (uint8_t)val;
    acpi_pm_update_sci(p);
}
static const struct mem_ops gpe_ops = {.read = gpe_read, .write = gpe_write, .impl_max = 1};

/* ---- control and sleep ---- */

static void go_to_sleep(struct acpi_pm *p, uint8_t typ)
{
    struct machine *m = mach(p);

    if (typ == p->slp_s3 && !p->disable_s3) {
        machine_request_suspend(m);
    } else if (typ == p->slp_s5 || (typ == p->slp_s4 && !p->disable_s4)) {
        if (typ == p->slp_s4 && typ != p->slp_s5)
            run_event(m->run, "SUSPEND_DISK", NULL);
        machine_request_shutdown(m, CAUSE_GUEST_SHUTDOWN);
    } else {
        log_guest("acpi: sleep type %u does nothing", typ);
    }
}

static uint64_t cnt_read(void *opaque, gpa_t off, unsigned size)
{
    return ((struct acpi_pm *)opaque)->pm1_cnt;
}
static void cnt_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct acpi_pm *p = opaque;

    p->pm1_cnt = val & (uint16_t) ~(PM1_SLP_EN | PM1_GBL_RLS);
    if (val & PM1_SLP_EN)
        go_to_sleep(p, val >> PM1_SLP_TYP_SHIFT & 7);
    acpi_pm_update_sci(p);
}
static const struct mem_ops cnt_ops = {.read = cnt_read, .write = cnt_write, .impl_min = 2, .impl_max = 2};

static void power_button(void *opaque)
{
    struct acpi_pm *p = opaque;

    if (mach(p)->state == RS_SUSPENDED) {
        machine_request_wakeup(mach(p)); /* status and event follow from there */
        return;
    }
    p->pm1_sts |= PM1_PWRBTN_STS;
    acpi_pm_update_sci(p);
}
static void woken(void *opaque)
{
    struct acpi_pm *p = opaque;

    p->pm1_sts |= PM1_WAK_STS | PM1_PWRBTN_STS;
    acpi_pm_update_sci(p);
}

/* ---- command port ---- */

static uint64_t apm_read(void *opaque, gpa_t off, unsigned size)
{
    struct acpi_pm *p = opaque;

    return off ? p->apms : p->apmc;
}
static void apm_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct acpi_pm *p = opaque;

    if (off) {
        p->apms = (uint8_t)val;
        return;
    }
    p->apmc = (uint8_t)val;
    /* Firmware for virtual machines leaves this to the chip: its SMI handler, where there is one, does other things. */
    if (p->apmc == p->acpi_on)
        p->pm1_cnt |= PM1_SCI_EN;
    else if (p->apmc == p->acpi_off)
        p->pm1_cnt &= (uint16_t)~PM1_SCI_EN;
    acpi_pm_update_sci(p);
    if (p->apm_smi)
        p->apm_smi(p->opaque, p->apmc);
}
static const struct mem_ops apm_ops = {.read = apm_read, .write = apm_write, .impl_max = 1};

/* ---- life ---- */

void acpi_pm_init(struct acpi_pm *p, struct dev *owner, unsigned gpe_len)
{
    struct machine *m = dev_machine(owner);

    p->owner = owner;
    p->gpe_len = gpe_len;
    mem_region_init_io(&p->evt, m->mem_sys, &evt_ops, p, "acpi-evt", 4);
    mem_region_init_io(&p->cnt, m->mem_sys, &cnt_ops, p, "acpi-cnt", 2);
    mem_region_init_io(&p->tmr, m->mem_sys, &tmr_ops, p, "acpi-tmr", 4);
    mem_region_init_io(&p->gpe_io, m->mem_sys, &gpe_ops, p, "acpi-gpe0", gpe_len);
    mem_region_init_io(&p->apm_io, m->mem_sys, &apm_ops, p, "apm-io", 2);
    dev_map_io(owner, &p->apm_io, APM_CNT_PORT);
    clk_timer_init(&p->overflow, m->run->virt, tmr_overflow, p);
    p->powerdown = (struct machine_hook){.fn = power_button, .opaque = p};
    p->wakeup = (struct machine_hook){.fn = woken, .opaque = p};
    machine_on_powerdown(m, &p->powerdown);
    machine_on_wakeup(m, &p->wakeup);
}

void acpi_pm_fini(struct acpi_pm *p)
{
    clk_timer_cancel(&p->overflow);
    machine_hook_del(&p->powerdown);
    machine_hook_del(&p->wakeup);
    mem_region_free(&p->evt);
    mem_region_free(&p->cnt);
    mem_region_free(&p->tmr);
    mem_region_free(&p->gpe_io);
    mem_region_free(&p->apm_io);
}

/* A wake from S3 resets the machine too, and its status must outlive that. */
void acpi_pm_reset(struct acpi_pm *p)
{
    p->pm1_en = p->pm1_cnt = 0;
    p->pm1_sts = 0;
    p->apmc = p->apms = 0;
    p->ovf_at = tmr_ticks(p) / (int64_t)TMR_HALF;
    memset(p->gpe, 0, sizeof p->gpe);
    tmr_arm(p);
    acpi_pm_update_sci(p);
}

uint16_t acpi_pm_base(const struct acpi_pm *p)
{
    return p->base;
}
bool acpi_pm_has_s3(const struct acpi_pm *p)
{
    return !p->disable_s3;
}
bool acpi_pm_has_s4(const struct acpi_pm *p)
{
    return !p->disable_s4;
}

static const struct state_field pm_fields[] = {STATE_U16(struct acpi_pm, pm1_sts),
                                               STATE_U16(struct acpi_pm, pm1_en),
                                               STATE_U16(struct acpi_pm, pm1_cnt),
                                               STATE_BYTES(struct acpi_pm, gpe),
                                               STATE_U8(struct acpi_pm, apmc),
                                               STATE_U8(struct acpi_pm, apms),
                                               STATE_I64(struct acpi_pm, ovf_at),
                                               STATE_TIMER(struct acpi_pm, overflow),
                                               STATE_U32(struct acpi_pm, pcihp.sel),
                                               STATE_U32(struct acpi_pm, pcihp.aidx),
                                               STATE_U32(struct acpi_pm, pcihp.pending_eject),
                                               STATE_U32(struct acpi_pm, pcihp.eject_bus),
                                               STATE_ARRAY(struct acpi_pm, pcihp.up),
                                               STATE_ARRAY(struct acpi_pm, pcihp.down),
                                               STATE_BOOL(struct acpi_pm, cpuhp.legacy),
                                               STATE_U32(struct acpi_pm, cpuhp.sel),
                                               STATE_U8(struct acpi_pm, cpuhp.cmd),
                                               STATE_BYTES(struct acpi_pm, cpuhp.inserting),
                                               STATE_BYTES(struct acpi_pm, cpuhp.removing),
                                               STATE_BYTES(struct acpi_pm, cpuhp.fw_remove),
                                               STATE_ARRAY(struct acpi_pm, cpuhp.ost_event),
                                               STATE_END};
static bool pm_state_loaded(void *obj, struct err **errp)
{
    struct acpi_pm *p = obj;

    if (p->pcihp.sel >= ACPI_MAX_HP_BUSES || p->pcihp.eject_bus >= ACPI_MAX_HP_BUSES)
        return false;
    if (p->pcihp.root && p->pcihp.pending_eject)
        ev_bh_schedule(&p->pcihp.eject_bh);
    return true;
}
const struct state_desc acpi_pm_state = {
    .name = "acpi-pm", .version = 1, .fields = pm_fields, .post_load = pm_state_loaded};
