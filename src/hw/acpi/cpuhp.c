/* CPU hot-plug registers: the block that OVMF (CPU count, SMM hot-plug) and the DSDT's CPU methods drive; map in
 * acpi_hw.h. */
#include "hw/acpi/pm.h"

#include "base/json.h"
#include "cpu/x86.h"

static struct machine *mach(struct acpi_cpuhp *h)
{
    return dev_machine(h->pm->owner);
}
static unsigned nr_possible(struct acpi_cpuhp *h)
{
    struct machine *m = mach(h);
    unsigned n = m->max_cpus > m->nr_cpus ? m->max_cpus : m->nr_cpus;

    return n < ACPI_MAX_CPUS ? n : ACPI_MAX_CPUS;
}
static bool present(struct acpi_cpuhp *h, unsigned i)
{
    struct machine *m = mach(h);

    return i < m->nr_cpus && m->cpus[i] && !m->cpus[i]->unplug;
}
static bool bit_get(const uint8_t *map, unsigned i)
{
    return map[i / 8] >> i % 8 & 1;
}
static void bit_put(uint8_t *map, unsigned i, bool v)
{
    map[i / 8] = (uint8_t)(v ? map[i / 8] | 1 << i % 8 : map[i / 8] & ~(1 << i % 8));
}

static uint8_t status(struct acpi_cpuhp *h)
{
    unsigned i = h->sel;

    if (i >= nr_possible(h))
        return 0;
    return (uint8_t)((present(h, i) ? CPUHP_ST_ENABLED : 0) | (bit_get(h->inserting, i) ? CPUHP_ST_INSERT : 0) |
                     (bit_get(h->removing, i) ? CPUHP_ST_REMOVE : 0) |
                     (bit_get(h->fw_remove, i) ? CPUHP_ST_FW_REMOVE : 0));
}

static uint64_t arch_id(struct acpi_cpuhp *h)
{
    struct machine *m = mach(h);

    return present(h, h->sel) && x86_port(m->cpus[h->sel]) ? x86_port(m->cpus[h->sel])->apic_id : h->sel;
}

static uint32_t data(struct acpi_cpuhp *h)
{
    if (h->sel >= nr_possible(h))
        return 0;
    switch (h->cmd) {
    case CPUHP_CMD_NEXT_EVENT:
        return h->sel;
    case CPUHP_CMD_GET_ID:
        return (uint32_t)arch_id(h);
    }
    return 0;
}

static uint64_t hp_read(void *opaque, gpa_t off, unsigned size)
{
    struct acpi_cpuhp *h = opaque;
    uint8_t map = 0;

    if (h->legacy) {
        for (unsigned b = 0; b < 8; b++)
            map |= (uint8_t)(present(h, (unsigned)off * 8 + b) << b);
        return map;
    }
    if (off >= CPUHP_R_DATA && off < CPUHP_R_DATA + 4)
        return data(h) >> 8 * (off - CPUHP_R_DATA) & 0xff;
    if (off == CPUHP_R_STATUS)
        return status(h);
    if (off < 4 && h->cmd == CPUHP_CMD_GET_ID && h->sel < nr_possible(h))
        return arch_id(h) >> (32 + 8 * off) & 0xff;
    return 0;
}

static void command(struct acpi_cpuhp *h, uint8_t cmd)
{
    unsigned n = nr_possible(h);

    h->cmd = cmd;
    for (unsigned k = 0; cmd == CPUHP_CMD_NEXT_EVENT && k < n; k++) {
        unsigned i = (h->sel + k) % n;

        if (bit_get(h->inserting, i) || bit_get(h->removing, i) || bit_get(h->fw_remove, i)) {
            h->sel = i;
            break;
        }
    }
}

static void control(struct acpi_cpuhp *h, uint8_t v)
{
    unsigned i = h->sel;

    if (i >= nr_possible(h))
        return;
    if (v & CPUHP_CTL_CLR_INSERT)
        bit_put(h->inserting, i, false);
    if (v & CPUHP_CTL_CLR_REMOVE)
        bit_put(h->removing, i, false);
    if (v & CPUHP_CTL_FW_EJECT)
        bit_put(h->fw_remove, i, !bit_get(h->fw_remove, i));
}

static void ost(struct acpi_cpuhp *h, uint32_t v)
{
    if (h->sel >= nr_possible(h))
        return;
    if (h->cmd == CPUHP_CMD_OST_EVENT)
        h->ost_event[h->sel] = v;
    else if (h->cmd == CPUHP_CMD_OST_STATUS)
        run_event(mach(h)->run, "ACPI_DEVICE_OST",
                  json_make("o:info",
                            json_make("s:slot-type", "CPU", "i:source", (int64_t)h->ost_event[h->sel], "i:status",
                                      (int64_t)v, NULL),
                            NULL));
}

static void hp_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct acpi_cpuhp *h = opaque;

    if (h->legacy) {
        h->legacy = off != 0; /* the documented switch: a write to the first register */
        if (h->legacy)
            return;
    }
    switch (off) {
    case CPUHP_W_SEL:
        h->sel = (uint32_t)val;
        break;
    case CPUHP_W_CTRL:
        control(h, (uint8_t)val);
        break;
    case CPUHP_W_CMD:
        command(h, (uint8_t)val);
        break;
    case CPUHP_W_DATA:
        ost(h, (uint32_t)val);
        break;
    }
}
/* Reads are by byte (any part of a field); writes arrive with the width of the field. */
static uint64_t hp_read_any(void *opaque, gpa_t off, unsigned size)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v |= hp_read(opaque, off + i, 1) << 8 * i;
    return v;
}
static const struct mem_ops hp_ops = {.read = hp_read_any, .write = hp_write, .impl_max = 4};

void acpi_cpuhp_init(struct acpi_cpuhp *h, struct acpi_pm *p, uint16_t port)
{
    struct machine *m = dev_machine(p->owner);

    h->pm = p;
    h->legacy = true;
    /* 12 bytes are the register file; the legacy bitmap would be longer, but firmware that reads it knows no more CPUs.
     */
    mem_region_init_io(&h->io, m->mem_sys, &hp_ops, h, "acpi-cpu-hotplug", CPUHP_LEN);
    dev_map_io(p->owner, &h->io, port);
}

void acpi_cpuhp_fini(struct acpi_cpuhp *h)
{
    if (h->pm)
        mem_region_free(&h->io);
}

void acpi_cpu_plugged(struct acpi_pm *p, unsigned index)
{
    if (index >= ACPI_MAX_CPUS)
        return;
    bit_put(p->cpuhp.inserting, index, true);
    acpi_gpe_raise(p, GPE_CPUHP);
}
