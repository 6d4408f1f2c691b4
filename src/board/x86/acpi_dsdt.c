/* The DSDT: what a PC's hardware is called and how it is wired, for the guest's ACPI interpreter.
 *
 *   \_SB.PCI0        host bridge: windows, interrupt routing, hot-plug slots (pc), control of native features (q35)
 *   \_SB.PCI0.ISA    keyboard, mouse, ports, clock, floppy
 *   \_SB.LNKx, GSIx  interrupt links behind the PIRQ route registers, and fixed IOAPIC inputs
 *   \_SB.CPUS        processors with their hot-plug methods
 *   \_GPE            events: 1 PCI slots, 2 processors */
#include "board/x86/acpi.h"

#include "hw/acpi/acpi_hw.h"
#include "hw/pci/pci.h"

#include <stdio.h>

enum {
    SLOTS = 32,
    PINS = 4,
    PIRQ_OFF = 0x80 /* route register: not routed */,
    FOREVER = 0xffff,
    NOTIFY_CHECK = 1,
    NOTIFY_EJECT = 3
};

static void null_target(struct aml *a)
{
    aml_raw(a, 0, 1);
}

static void acquire(struct aml *a, const char *mutex)
{
    aml_op(a, AML_ACQUIRE);
    aml_path(a, mutex);
    aml_raw(a, FOREVER, 2);
}

static void release(struct aml *a, const char *mutex)
{
    aml_op(a, AML_RELEASE);
    aml_path(a, mutex);
}

static void store_int(struct aml *a, uint64_t v, const char *to)
{
    aml_op(a, AML_STORE);
    aml_int(a, v);
    aml_path(a, to);
}

static void store_arg(struct aml *a, unsigned arg, const char *to)
{
    aml_op(a, AML_STORE);
    aml_arg(a, arg);
    aml_path(a, to);
}

/* A device that only keeps an I/O range from being given away. */
static void reserved_io(struct aml *a, const char *name, const char *uid, uint16_t base, uint8_t len)
{
    aml_device(a, name);
    aml_name_eisa(a, "_HID", "PNP0A06");
    aml_name_str(a, "_UID", uid);
    aml_name_int(a, "_STA", 0x0b);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_io(a, base, base, 1, len);
    aml_end(a);
    aml_end(a);
}

/* ---- ISA devices ---- */

struct isa_part {
    const char *name, *hid;
    unsigned uid; /* 0: none */
    uint16_t io[3];
    uint8_t len[3];
    uint16_t irq_mask;
    uint8_t dma_mask;
};

static void isa_device(struct aml *a, const struct isa_part *p)
{
    aml_device(a, p->name);
    aml_name_eisa(a, "_HID", p->hid);
    if (p->uid)
        aml_name_int(a, "_UID", p->uid);
    aml_name_int(a, "_STA", 0x0f);
    aml_name(a, "_CRS");
    aml_resources(a);
    for (unsigned i = 0; i < ARRAY_LEN(p->io) && p->len[i]; i++)
        aml_io(a, p->io[i], p->io[i], 1, p->len[i]);
    if (p->irq_mask)
        aml_irq(a, p->irq_mask);
    if (p->dma_mask)
        aml_dma(a, p->dma_mask);
    aml_end(a);
    aml_end(a);
}

static void isa_devices(const struct acpi_info *in, struct aml *a)
{
    static const struct isa_part kbd = {"KBD", "PNP0303", 0, {0x60, 0x64}, {1, 1}, 1 << 1, 0};
    static const struct isa_part mouse = {"MOU", "PNP0F13", 0, {0}, {0}, 1 << 12, 0};
    static const struct isa_part rtc = {"RTC", "PNP0B00", 0, {0x70}, {8}, 1 << 8, 0};
    static const struct isa_part fdc = {"FDC0", "PNP0700", 0, {0x3f2, 0x3f7}, {4, 1}, 1 << 6, 1 << 2};
    static const struct isa_part com[4] = {{"COM1", "PNP0501", 1, {0x3f8}, {8}, 1 << 4, 0},
                                           {"COM2", "PNP0501", 2, {0x2f8}, {8}, 1 << 3, 0},
                                           {"COM3", "PNP0501", 3, {0x3e8}, {8}, 1 << 4, 0},
                                           {"COM4", "PNP0501", 4, {0x2e8}, {8}, 1 << 3, 0}};
    static const struct isa_part lpt[3] = {{"LPT1", "PNP0400", 1, {0x378}, {8}, 1 << 7, 0},
                                           {"LPT2", "PNP0400", 2, {0x278}, {8}, 1 << 5, 0},
                                           {"LPT3", "PNP0400", 3, {0x3bc}, {4}, 1 << 7, 0}};

    if (in->kbc) {
        isa_device(a, &kbd);
        isa_device(a, &mouse);
    }
    if (in->rtc)
        isa_device(a, &rtc);
    if (in->floppy)
        isa_device(a, &fdc);
    for (unsigned i = 0; i < 4; i++)
        if (in->serial_mask & 1 << i)
            isa_device(a, &com[i]);
    for (unsigned i = 0; i < 3; i++)
        if (in->parallel_mask & 1 << i)
            isa_device(a, &lpt[i]);
}

static void pvpanic(const struct acpi_info *in, struct aml *a)
{
    aml_device(a, "PEVT");
    aml_name_str(a, "_HID", "QEMU0001");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_io(a, in->pvpanic_port, in->pvpanic_port, 1, 1);
    aml_end(a);
    aml_region(a, "PEOR", AML_SYSTEM_IO, in->pvpanic_port, 1);
    aml_field(a, "PEOR", AML_BYTE_ACC);
    aml_field_unit(a, "PEPT", 8);
    aml_end(a);
    aml_name_int(a, "_STA", 0x0f);
    aml_method(a, "RDPT", 0, false);
    aml_op(a, AML_RETURN);
    aml_path(a, "PEPT");
    aml_end(a);
    aml_method(a, "WRPT", 1, false);
    store_arg(a, 0, "PEPT");
    aml_end(a);
    aml_end(a);
}

static void isa_bridge(const struct acpi_info *in, struct aml *a)
{
    aml_device(a, "ISA");
    aml_name_int(a, "_ADR", in->q35 ? 0x1f0000 : 0x10000);
    aml_region(a, "PIRQ", AML_PCI_CONFIG, 0x60, in->q35 ? 0x0c : 0x04);
    isa_devices(in, a);
    if (in->pvpanic_port)
        pvpanic(in, a);
    aml_end(a);
}

/* ---- interrupt links ---- */

static unsigned nr_links(const struct acpi_info *in)
{
    return in->q35 ? 8 : 4;
}

static void link_name(char *buf, const char *prefix, unsigned n)
{
    snprintf(buf, 5, "%s%c", prefix, 'A' + n);
}

/* PRQA.. name the route registers; on ICH9 the second four lie at 68h. */
static void pirq_fields(const struct acpi_info *in, struct aml *a)
{
    char name[5];

    aml_field(a, "PCI0.ISA.PIRQ", AML_BYTE_ACC | AML_PRESERVE);
    for (unsigned i = 0; i < nr_links(in); i++) {
        link_name(name, "PRQ", i);
        if (i == 4)
            aml_field_unit(a, NULL, 32);
        aml_field_unit(a, name, 8);
    }
    aml_end(a);
}

/* IQST (route) -> status; IQCR (route) -> current resources. */
static void link_helpers(struct aml *a)
{
    static const uint32_t zero[1] = {0};

    aml_method(a, "IQST", 1, false);
    aml_if(a);
    aml_op(a, AML_AND);
    aml_int(a, PIRQ_OFF);
    aml_arg(a, 0);
    null_target(a);
    aml_return_int(a, 0x09);
    aml_end(a);
    aml_return_int(a, 0x0b);
    aml_end(a);

    aml_method(a, "IQCR", 1, true);
    aml_name(a, "PRR0");
    aml_resources(a);
    aml_ext_irq(a, zero, 1);
    aml_end(a);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_path(a, "PRR0");
    aml_int(a, 5);
    aml_path(a, "PRRI");
    aml_if(a);
    aml_op(a, AML_LLESS);
    aml_arg(a, 0);
    aml_int(a, PIRQ_OFF);
    store_arg(a, 0, "PRRI");
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_path(a, "PRR0");
    aml_end(a);
}

static void link_call(struct aml *a, const char *method, const char *helper, const char *reg)
{
    aml_method(a, method, 0, false);
    aml_op(a, AML_RETURN);
    aml_path(a, helper);
    aml_path(a, reg);
    aml_end(a);
}

static void pirq_link(struct aml *a, unsigned n)
{
    static const uint32_t irqs[] = {5, 10, 11};
    char name[5], reg[5];

    link_name(name, "LNK", n);
    link_name(reg, "PRQ", n);
    aml_device(a, name);
    aml_name_eisa(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", n);
    aml_name(a, "_PRS");
    aml_resources(a);
    aml_ext_irq(a, irqs, ARRAY_LEN(irqs));
    aml_end(a);
    link_call(a, "_STA", "IQST", reg);
    aml_method(a, "_DIS", 0, false);
    aml_op(a, AML_OR);
    aml_path(a, reg);
    aml_int(a, PIRQ_OFF);
    aml_path(a, reg);
    aml_end(a);
    link_call(a, "_CRS", "IQCR", reg);
    aml_method(a, "_SRS", 1, false);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_arg(a, 0);
    aml_int(a, 5);
    aml_path(a, "PRRI");
    aml_op(a, AML_STORE);
    aml_path(a, "PRRI");
    aml_path(a, reg);
    aml_end(a);
    aml_end(a);
}

/* A link that cannot be moved: the SCI on pc, IOAPIC inputs on q35. */
static void fixed_link(struct aml *a, const char *name, unsigned uid, uint32_t gsi)
{
    aml_device(a, name);
    aml_name_eisa(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", uid);
    aml_name(a, "_PRS");
    aml_resources(a);
    aml_ext_irq(a, &gsi, 1);
    aml_end(a);
    aml_name_int(a, "_STA", 0x0b);
    aml_method(a, "_DIS", 0, false);
    aml_end(a);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_ext_irq(a, &gsi, 1);
    aml_end(a);
    aml_method(a, "_SRS", 1, false);
    aml_end(a);
    aml_end(a);
}

static void links(const struct acpi_info *in, struct aml *a)
{
    char name[5];

    aml_scope(a, "\\_SB");
    pirq_fields(in, a);
    link_helpers(a);
    for (unsigned i = 0; i < nr_links(in); i++)
        pirq_link(a, i);
    if (!in->q35)
        fixed_link(a, "LNKS", 4, ACPI_SCI_IRQ);
    for (unsigned i = 0; in->q35 && i < nr_links(in); i++) {
        link_name(name, "GSI", i);
        fixed_link(a, name, 0x10 + i, 16 + i);
    }
    aml_end(a);
}

/* ---- _PRT ---- */

/* Which link pin `pin` of a slot arrives at: PIIX3 rotates from slot 1; ICH9 gives slots 0-24 PIRQE.. rotated, 25-31
 * PIRQA... */
static void route_name(const struct acpi_info *in, char *buf, const char *prefix, unsigned slot, unsigned pin)
{
    if (!in->q35 && slot == 1 && pin == 0)
        snprintf(buf, 5, "LNKS"); /* the power management function */
    else if (!in->q35)
        link_name(buf, prefix, (slot + pin + 3) & 3);
    else if (slot < 25)
        link_name(buf, prefix, 4 + ((slot + pin) & 3));
    else
        link_name(buf, prefix, pin);
}

static void route_table(const struct acpi_info *in, struct aml *a, const char *name, const char *prefix)
{
    char link[5];

    aml_name(a, name);
    aml_package(a, SLOTS * PINS);
    for (unsigned n = 0; n < SLOTS * PINS; n++) {
        route_name(in, link, prefix, n / PINS, n % PINS);
        aml_package(a, 4);
        aml_int(a, n / PINS << 16 | 0xffff);
        aml_int(a, n % PINS);
        aml_path(a, link);
        aml_int(a, 0);
        aml_end(a);
    }
    aml_end(a);
}

static void routing(const struct acpi_info *in, struct aml *a)
{
    if (!in->q35) {
        route_table(in, a, "_PRT", "LNK");
        return;
    }
    route_table(in, a, "PRTP", "LNK");
    route_table(in, a, "PRTA", "GSI");
    aml_method(a, "_PRT", 0, false);
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_path(a, "\\PICF");
    aml_int(a, 0);
    aml_op(a, AML_RETURN);
    aml_path(a, "PRTP");
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_path(a, "PRTA");
    aml_end(a);
}

/* The OS says which interrupt controllers it uses: 0 = 8259s, 1 = IOAPIC. */
static void pic_method(struct aml *a)
{
    aml_name_int(a, "PICF", 0);
    aml_method(a, "_PIC", 1, false);
    store_arg(a, 0, "PICF");
    aml_end(a);
}

/* ---- host bridge ---- */

/* I/O space less the ranges other devices here reserve; list in ascending order. */
static void io_windows(const struct acpi_info *in, struct aml *a)
{
    const struct {
        uint16_t base, len;
    } used[] = {{in->q35 ? in->pcihp_base : 0, PCIHP_LEN},
                {in->q35 ? in->cpuhp_base : 0, CPUHP_LEN},
                {0xcf8, 8},
                {in->q35 ? 0 : in->pcihp_base, PCIHP_LEN},
                {in->q35 ? 0 : in->cpuhp_base, CPUHP_LEN},
                {in->q35 ? 0 : in->gpe0_blk, in->gpe0_len}};
    uint32_t at = 0;

    aml_io(a, 0xcf8, 0xcf8, 1, 8);
    for (unsigned i = 0; i < ARRAY_LEN(used); i++) {
        if (!used[i].base)
            continue;
        if (used[i].base > at)
            aml_word_io(a, (uint16_t)at, used[i].base - 1);
        at = used[i].base + used[i].len;
    }
    aml_word_io(a, (uint16_t)at, 0xffff);
}

static void memory_windows(const struct acpi_info *in, struct aml *a)
{
    uint64_t lo = in->lo_start, end = UINT32_C(0xfec00000);

    aml_dword_mem(a, 0xa0000, 0xbffff, true);
    if (in->mmcfg_size && in->mmcfg_base + in->mmcfg_size > lo && in->mmcfg_base < end) {
        if (in->mmcfg_base > lo)
            aml_dword_mem(a, (uint32_t)lo, (uint32_t)(in->mmcfg_base - 1), false);
        lo = in->mmcfg_base + in->mmcfg_size;
    }
    if (lo < end)
        aml_dword_mem(a, (uint32_t)lo, (uint32_t)(end - 1), false);
    if (in->hi_end > in->hi_start)
        aml_qword_mem(a, in->hi_start, in->hi_end - 1);
}

/* _OSC: the OS may have PCIe PME, AER and the capability structure; slots are its own as well. */
static void osc(struct aml *a)
{
    static const uint8_t uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
                                     0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};

    aml_method(a, "_OSC", 4, true);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_arg(a, 3);
    aml_int(a, 0);
    aml_path(a, "CDW1");
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_arg(a, 0);
    aml_buffer(a);
    aml_bytes(a, uuid, sizeof uuid);
    aml_end(a);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_arg(a, 3);
    aml_int(a, 8);
    aml_path(a, "CDW3");
    aml_op(a, AML_AND);
    aml_path(a, "CDW3");
    aml_int(a, 0x1f);
    aml_local(a, 0);
    aml_if(a); /* unknown revision */
    aml_op(a, AML_LNOT);
    aml_op(a, AML_LEQUAL);
    aml_arg(a, 1);
    aml_int(a, 1);
    aml_op(a, AML_OR);
    aml_path(a, "CDW1");
    aml_int(a, 0x08);
    aml_path(a, "CDW1");
    aml_end(a);
    aml_if(a); /* something was taken away */
    aml_op(a, AML_LNOT);
    aml_op(a, AML_LEQUAL);
    aml_path(a, "CDW3");
    aml_local(a, 0);
    aml_op(a, AML_OR);
    aml_path(a, "CDW1");
    aml_int(a, 0x10);
    aml_path(a, "CDW1");
    aml_end(a);
    aml_op(a, AML_STORE);
    aml_local(a, 0);
    aml_path(a, "CDW3");
    aml_end(a);
    aml_else(a);
    aml_op(a, AML_OR);
    aml_path(a, "CDW1");
    aml_int(a, 0x04);
    aml_path(a, "CDW1");
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_arg(a, 3);
    aml_end(a);
}

/* ---- PCI hot-plug ---- */

static void slot_name(char *buf, unsigned slot)
{
    snprintf(buf, 5, "S%02X", PCI_DEVFN(slot, 0));
}

/* PCEJ (bus, slot): eject. */
static void eject_method(struct aml *a)
{
    aml_method(a, "PCEJ", 2, false);
    acquire(a, "BLCK");
    store_arg(a, 0, "BNUM");
    aml_op(a, AML_SHIFT_LEFT);
    aml_int(a, 1);
    aml_arg(a, 1);
    aml_path(a, "B0EJ");
    release(a, "BLCK");
    aml_return_int(a, 0);
    aml_end(a);
}

static void hotplug_slot(struct aml *a, unsigned slot)
{
    char name[5];

    slot_name(name, slot);
    aml_device(a, name);
    aml_name_int(a, "_SUN", slot);
    aml_name_int(a, "_ADR", slot << 16);
    aml_method(a, "_EJ0", 1, false);
    aml_path(a, "PCEJ");
    aml_int(a, 0);
    aml_path(a, "_SUN");
    aml_end(a);
    aml_end(a);
}

/* DVNT (slots, event): tell the OS about each slot in the mask. */
static void notify_slots(const struct acpi_info *in, struct aml *a)
{
    char name[5];

    aml_method(a, "DVNT", 2, false);
    for (unsigned s = 0; s < SLOTS; s++) {
        if (!(in->hotplug_slots & UINT32_C(1) << s))
            continue;
        slot_name(name, s);
        aml_if(a);
        aml_op(a, AML_AND);
        aml_arg(a, 0);
        aml_int(a, UINT32_C(1) << s);
        null_target(a);
        aml_op(a, AML_NOTIFY);
        aml_path(a, name);
        aml_arg(a, 1);
        aml_end(a);
    }
    aml_end(a);
}

static void pci_hotplug(const struct acpi_info *in, struct aml *a)
{
    aml_region(a, "HPRG", AML_SYSTEM_IO, in->pcihp_base, PCIHP_LEN);
    aml_field(a, "HPRG", AML_DWORD_ACC | AML_WRITE_AS_ZEROS);
    aml_field_unit(a, "PCIU", 32);
    aml_field_unit(a, "PCID", 32);
    aml_field_unit(a, "B0EJ", 32);
    aml_field_unit(a, NULL, 32);
    aml_field_unit(a, "BNUM", 32);
    aml_end(a);
    aml_mutex(a, "BLCK");
    eject_method(a);
    for (unsigned s = 0; s < SLOTS; s++)
        if (in->hotplug_slots & UINT32_C(1) << s)
            hotplug_slot(a, s);
    notify_slots(in, a);
    aml_method(a, "PCNT", 0, false);
    acquire(a, "BLCK");
    store_int(a, 0, "BNUM");
    aml_path(a, "DVNT");
    aml_path(a, "PCIU");
    aml_int(a, NOTIFY_CHECK);
    aml_path(a, "DVNT");
    aml_path(a, "PCID");
    aml_int(a, NOTIFY_EJECT);
    release(a, "BLCK");
    aml_end(a);
}

static void host_bridge(const struct acpi_info *in, struct aml *a)
{
    aml_device(a, "PCI0");
    if (in->q35) {
        aml_name_eisa(a, "_HID", "PNP0A08");
        aml_name_eisa(a, "_CID", "PNP0A03");
    } else {
        aml_name_eisa(a, "_HID", "PNP0A03");
    }
    aml_name_int(a, "_UID", 0);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_word_bus(a, 0, 0xff);
    io_windows(in, a);
    memory_windows(in, a);
    aml_end(a);
    if (in->q35)
        osc(a);
    routing(in, a);
    isa_bridge(in, a);
    if (in->pcihp_base)
        reserved_io(a, "PHPR", "PCI Hotplug resources", in->pcihp_base, PCIHP_LEN);
    if (in->cpuhp_base)
        reserved_io(a, "PRES", "CPU Hotplug resources", in->cpuhp_base, CPUHP_LEN);
    reserved_io(a, "GPE0", "GPE0 resources", in->gpe0_blk, in->gpe0_len);
    if (in->pcihp_base && in->hotplug_slots)
        pci_hotplug(in, a);
    aml_end(a);
}

/* ---- other devices of \_SB ---- */

static void hpet(struct aml *a)
{
    aml_device(a, "HPET");
    aml_name_eisa(a, "_HID", "PNP0103");
    aml_name_int(a, "_UID", 0);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_mem32(a, UINT32_C(0xfed00000), 0x400, false);
    aml_end(a);
    aml_end(a);
}

static void fw_cfg(struct aml *a)
{
    aml_device(a, "FWCF");
    aml_name_str(a, "_HID", "QEMU0002");
    aml_name_int(a, "_STA", 0x0b);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_io(a, 0x510, 0x510, 1, 0x0c);
    aml_end(a);
    aml_end(a);
}

/* The configuration window is nobody's to give away (PCI Firmware 3.2, 4.1.2). */
static void mmcfg(const struct acpi_info *in, struct aml *a)
{
    aml_device(a, "DRAC");
    aml_name_eisa(a, "_HID", "PNP0C02");
    aml_name_str(a, "_UID", "MMCONFIG");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_mem32(a, (uint32_t)in->mmcfg_base, (uint32_t)in->mmcfg_size, true);
    aml_end(a);
    aml_end(a);
}

/* ---- processors ---- */

static void cpu_name(char *buf, unsigned n)
{
    snprintf(buf, 5, "C%03X", n & 0xfff);
}

static void cpu_registers(const struct acpi_info *in, struct aml *a)
{
    aml_region(a, "PRST", AML_SYSTEM_IO, in->cpuhp_base, CPUHP_LEN);
    aml_field(a, "PRST", AML_BYTE_ACC | AML_WRITE_AS_ZEROS);
    aml_field_unit(a, NULL, 32);
    aml_field_unit(a, "CPEN", 1);
    aml_field_unit(a, "CINS", 1);
    aml_field_unit(a, "CRMV", 1);
    aml_field_unit(a, "CEJ0", 1);
    aml_field_unit(a, NULL, 4);
    aml_field_unit(a, "CCMD", 8);
    aml_end(a);
    aml_field(a, "PRST", AML_DWORD_ACC | AML_PRESERVE);
    aml_field_unit(a, "CSEL", 32);
    aml_field_unit(a, NULL, 32);
    aml_field_unit(a, "CDAT", 32);
    aml_end(a);
    aml_mutex(a, "CPLK");
}

static void cpu_methods(struct aml *a)
{
    aml_method(a, "_INI", 0, true); /* out of the legacy mode */
    store_int(a, 0, "CSEL");
    aml_end(a);

    aml_method(a, "CSTA", 1, true);
    acquire(a, "CPLK");
    store_arg(a, 0, "CSEL");
    aml_op(a, AML_STORE);
    aml_int(a, 0);
    aml_local(a, 0);
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_path(a, "CPEN");
    aml_int(a, 1);
    aml_op(a, AML_STORE);
    aml_int(a, 0x0f);
    aml_local(a, 0);
    aml_end(a);
    release(a, "CPLK");
    aml_op(a, AML_RETURN);
    aml_local(a, 0);
    aml_end(a);

    aml_method(a, "CEJM", 1, true);
    acquire(a, "CPLK");
    store_arg(a, 0, "CSEL");
    store_int(a, 1, "CEJ0");
    release(a, "CPLK");
    aml_end(a);

    aml_method(a, "COST", 3, true);
    acquire(a, "CPLK");
    store_arg(a, 0, "CSEL");
    store_int(a, CPUHP_CMD_OST_EVENT, "CCMD");
    store_arg(a, 1, "CDAT");
    store_int(a, CPUHP_CMD_OST_STATUS, "CCMD");
    store_arg(a, 2, "CDAT");
    release(a, "CPLK");
    aml_end(a);
}

/* One kind of event of the selected CPU: notify, acknowledge, look again. */
static void scan_case(struct aml *a, const char *flag, unsigned event)
{
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_path(a, flag);
    aml_int(a, 1);
    aml_path(a, "CTFY");
    aml_path(a, "CDAT");
    aml_int(a, event);
    store_int(a, 1, flag);
    aml_op(a, AML_STORE);
    aml_int(a, 1);
    aml_local(a, 0);
    aml_end(a);
}

static void cpu_scan(const struct acpi_info *in, struct aml *a)
{
    char name[5];

    aml_method(a, "CTFY", 2, false);
    for (unsigned i = 0; i < in->nr_cpus; i++) {
        cpu_name(name, i);
        aml_if(a);
        aml_op(a, AML_LEQUAL);
        aml_arg(a, 0);
        aml_int(a, i);
        aml_op(a, AML_NOTIFY);
        aml_path(a, name);
        aml_arg(a, 1);
        aml_end(a);
    }
    aml_end(a);

    aml_method(a, "CSCN", 0, true);
    acquire(a, "CPLK");
    aml_op(a, AML_STORE);
    aml_int(a, 1);
    aml_local(a, 0);
    aml_while(a);
    aml_op(a, AML_LEQUAL);
    aml_local(a, 0);
    aml_int(a, 1);
    aml_op(a, AML_STORE);
    aml_int(a, 0);
    aml_local(a, 0);
    store_int(a, CPUHP_CMD_NEXT_EVENT, "CCMD");
    scan_case(a, "CINS", NOTIFY_CHECK);
    aml_else(a);
    scan_case(a, "CRMV", NOTIFY_EJECT);
    aml_end(a);
    aml_end(a);
    release(a, "CPLK");
    aml_end(a);
}

/* What the MADT would say of this CPU (_MAT). */
static void cpu_mat(const struct acpi_info *in, struct aml *a, unsigned n)
{
    const uint8_t entry[8] = {0, 8, (uint8_t)n, in->apic_id[n], 1, 0, 0, 0};

    aml_name(a, "_MAT");
    aml_buffer(a);
    aml_bytes(a, entry, sizeof entry);
    aml_end(a);
}

static void cpu_device(const struct acpi_info *in, struct aml *a, unsigned n)
{
    char name[5];

    cpu_name(name, n);
    aml_device(a, name);
    aml_name_str(a, "_HID", "ACPI0007");
    aml_name_int(a, "_UID", n);
    if (in->nr_nodes)
        aml_name_int(a, "_PXM", in->node[n]);
    cpu_mat(in, a, n);
    if (in->cpuhp_base) {
        aml_method(a, "_STA", 0, true);
        aml_op(a, AML_RETURN);
        aml_path(a, "CSTA");
        aml_int(a, n);
        aml_end(a);
        if (n) {
            aml_method(a, "_EJ0", 1, false);
            aml_path(a, "CEJM");
            aml_int(a, n);
            aml_end(a);
        }
        aml_method(a, "_OST", 3, true);
        aml_path(a, "COST");
        aml_int(a, n);
        aml_arg(a, 0);
        aml_arg(a, 1);
        aml_end(a);
    }
    aml_end(a);
}

static void cpus(const struct acpi_info *in, struct aml *a)
{
    aml_device(a, "CPUS");
    aml_name_str(a, "_HID", "ACPI0010");
    aml_name_eisa(a, "_CID", "PNP0A05");
    if (in->cpuhp_base) {
        cpu_registers(in, a);
        cpu_methods(a);
        cpu_scan(in, a);
    }
    for (unsigned i = 0; i < in->nr_cpus; i++)
        cpu_device(in, a, i);
    aml_end(a);
}

/* ---- events and sleep states ---- */

static void gpe_event(struct aml *a, const char *name, const char *call)
{
    aml_method(a, name, 0, false);
    aml_path(a, call);
    aml_end(a);
}

static void gpe(const struct acpi_info *in, struct aml *a)
{
    aml_scope(a, "\\_GPE");
    aml_name_str(a, "_HID", "ACPI0006");
    if (in->pcihp_base && in->hotplug_slots)
        gpe_event(a, "_E01", "\\_SB.PCI0.PCNT");
    if (in->cpuhp_base)
        gpe_event(a, "_E02", "\\_SB.CPUS.CSCN");
    aml_end(a);
}

static void sleep_state(struct aml *a, const char *name, uint8_t typ)
{
    aml_name(a, name);
    aml_package(a, 4);
    aml_int(a, typ);
    aml_int(a, typ);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a);
}

void acpi_dsdt(const struct acpi_info *in, struct aml *a)
{
    if (in->q35)
        pic_method(a);
    aml_scope(a, "\\_SB");
    host_bridge(in, a);
    if (in->hpet)
        hpet(a);
    if (in->fw_cfg)
        fw_cfg(a);
    if (in->mmcfg_size)
        mmcfg(in, a);
    cpus(in, a);
    aml_end(a);
    links(in, a);
    gpe(in, a);
    if (in->s3)
        sleep_state(a, "\\_S3", in->s3_typ);
    if (in->s4)
        sleep_state(a, "\\_S4", in->s4_typ);
    sleep_state(a, "\\_S5", in->s5_typ);
}
