/* Static ACPI tables, RSDT, RSDP and the loader script. See acpi.h. */
#include "board/x86/acpi.h"

#include "base/bytes.h"
#include "hw/acpi/acpi_hw.h"

#include <stdio.h>

enum {
    HDR = 36,
    FILE_NAME = 56,
    COMMAND = 128,
    MAX_TABLES = 64,
    BLOB_ALIGN = 64,
    FACS_LEN = 64,
    FADT_LEN = 244,
    RSDP_LEN = 20
};
enum { CMD_ALLOCATE = 1, CMD_ADD_POINTER = 2, CMD_ADD_CHECKSUM = 3, ZONE_HIGH = 1, ZONE_FSEG = 2 };
enum { FADT_FACS = 36, FADT_DSDT = 40, FADT_X_DSDT = 140 };
enum { /* FADT flags (5.2.9) */
       WBINVD = 1 << 0,
       PROC_C1 = 1 << 2,
       SLP_BUTTON = 1 << 5,
       RTC_S4 = 1 << 7,
       RESET_REG_SUP = 1 << 10,
       PLATFORM_CLOCK = 1 << 15,
};
enum { BOOT_8042 = 1 << 1, RESET_PORT = 0xcf9, RESET_VALUE = 0x0f, CMOS_CENTURY = 0x32, SPACE_IO = 1 };
#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE   "etc/acpi/rsdp"

struct build {
    const struct acpi_info *in;
    struct acpi_blobs *out;
    size_t at[MAX_TABLES]; /* offsets of the tables RSDT lists */
    unsigned nr;
    size_t start; /* of the table being written */
};

/* ---- loader script ---- */

static void file_name(struct aml *l, const char *name)
{
    char b[FILE_NAME] = {0};

    snprintf(b, sizeof b, "%s", name);
    aml_bytes(l, b, sizeof b);
}

static void command_end(struct aml *l)
{
    aml_zero(l, (COMMAND - l->len % COMMAND) % COMMAND);
}

static void cmd_allocate(struct aml *l, const char *file, uint32_t align, uint8_t zone)
{
    aml_raw(l, CMD_ALLOCATE, 4);
    file_name(l, file);
    aml_raw(l, align, 4);
    aml_raw(l, zone, 1);
    command_end(l);
}

static void cmd_pointer(struct aml *l, const char *in_file, size_t off, unsigned size)
{
    aml_raw(l, CMD_ADD_POINTER, 4);
    file_name(l, in_file);
    file_name(l, TABLES_FILE);
    aml_raw(l, off, 4);
    aml_raw(l, size, 1);
    command_end(l);
}

static void cmd_checksum(struct aml *l, const char *file, size_t at, size_t start, size_t len)
{
    aml_raw(l, CMD_ADD_CHECKSUM, 4);
    file_name(l, file);
    aml_raw(l, at, 4);
    aml_raw(l, start, 4);
    aml_raw(l, len, 4);
    command_end(l);
}

/* ---- table frame ---- */

static struct aml *table_begin(struct build *b, const char *sig, uint8_t rev)
{
    struct aml *t = &b->out->tables;

    aml_zero(t, align_up(t->len, 8) - t->len);
    b->start = t->len;
    aml_bytes(t, sig, 4);
    aml_raw(t, 0, 4);
    aml_raw(t, rev, 1);
    aml_raw(t, 0, 1);
    aml_bytes(t, b->in->oem_id, 6);
    aml_bytes(t, b->in->oem_table_id, 8);
    aml_raw(t, 1, 4);
    aml_bytes(t, "LYRB", 4);
    aml_raw(t, 1, 4);
    return t;
}

static void table_end(struct build *b, bool listed)
{
    struct aml *t = &b->out->tables;

    assert(b->nr < MAX_TABLES);
    put_le32(t->p + b->start + 4, (uint32_t)(t->len - b->start));
    if (listed)
        b->at[b->nr++] = b->start;
    cmd_checksum(&b->out->loader, TABLES_FILE, b->start + 9, b->start, t->len - b->start);
}

static void gas(uint8_t *p, uint8_t space, uint8_t bits, uint64_t addr)
{
    p[0] = space;
    p[1] = bits;
    put_le64(p + 4, addr);
}

/* ---- FACS, FADT ---- */

static size_t add_facs(struct build *b)
{
    struct aml *t = &b->out->tables;
    size_t at;

    aml_zero(t, align_up(t->len, 64) - t->len);
    at = t->len;
    aml_bytes(t, "FACS", 4);
    aml_raw(t, FACS_LEN, 4);
    aml_zero(t, FACS_LEN - 8);
    return at;
}

static void fadt_blocks(const struct acpi_info *in, uint8_t *f)
{
    put_le32(f + 56, in->pm_base + PM1_STS);
    put_le32(f + 64, in->pm_base + PM1_CNT);
    put_le32(f + 76, in->pm_base + PM_TMR);
    put_le32(f + 80, in->gpe0_blk);
    f[88] = 4;
    f[89] = 2;
    f[91] = 4;
    f[92] = in->gpe0_len;
    gas(f + 148, SPACE_IO, 32, in->pm_base + PM1_STS);
    gas(f + 172, SPACE_IO, 16, in->pm_base + PM1_CNT);
    gas(f + 208, SPACE_IO, 32, in->pm_base + PM_TMR);
    gas(f + 220, SPACE_IO, (uint8_t)(in->gpe0_len * 8), in->gpe0_blk);
}

static void add_fadt(struct build *b, size_t facs, size_t dsdt)
{
    const struct acpi_info *in = b->in;
    struct aml *t = table_begin(b, "FACP", 3), *l = &b->out->loader;
    uint8_t *f;

    aml_zero(t, FADT_LEN - HDR);
    f = t->p + b->start;
    put_le32(f + FADT_FACS, (uint32_t)facs);
    put_le32(f + FADT_DSDT, (uint32_t)dsdt);
    put_le64(f + FADT_X_DSDT, dsdt);
    put_le16(f + 46, ACPI_SCI_IRQ);
    put_le32(f + 48, APM_CNT_PORT);
    f[52] = in->enable;
    f[53] = in->disable;
    fadt_blocks(in, f);
    put_le16(f + 96, 0xfff); /* no C2, no C3 */
    put_le16(f + 98, 0xfff);
    f[108] = in->rtc ? CMOS_CENTURY : 0;
    put_le16(f + 109, in->kbc ? BOOT_8042 : 0);
    put_le32(f + 112, WBINVD | PROC_C1 | SLP_BUTTON | RTC_S4 | RESET_REG_SUP | PLATFORM_CLOCK);
    gas(f + 116, SPACE_IO, 8, RESET_PORT);
    f[128] = RESET_VALUE;
    cmd_pointer(l, TABLES_FILE, b->start + FADT_FACS, 4);
    cmd_pointer(l, TABLES_FILE, b->start + FADT_DSDT, 4);
    cmd_pointer(l, TABLES_FILE, b->start + FADT_X_DSDT, 8);
    table_end(b, true);
}

/* ---- MADT ---- */

static void madt_override(struct aml *t, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    aml_raw(t, 2, 1);
    aml_raw(t, 10, 1);
    aml_raw(t, 0, 1);
    aml_raw(t, irq, 1);
    aml_raw(t, gsi, 4);
    aml_raw(t, flags, 2);
}

static void add_madt(struct build *b)
{
    static const uint8_t level_irqs[] = {5, 9, 10, 11}; /* what PCI interrupts and SCI may be routed to */
    struct aml *t = table_begin(b, "APIC", 3);

    aml_raw(t, UINT32_C(0xfee00000), 4);
    aml_raw(t, 1, 4); /* there are 8259s as well */
    for (unsigned i = 0; i < b->in->nr_cpus; i++) {
        aml_raw(t, 0, 1);
        aml_raw(t, 8, 1);
        aml_raw(t, i, 1);
        aml_raw(t, b->in->apic_id[i], 1);
        aml_raw(t, b->in->present[i], 4);
    }
    aml_raw(t, 1, 1); /* IOAPIC 0 */
    aml_raw(t, 12, 1);
    aml_raw(t, 0, 2);
    aml_raw(t, UINT32_C(0xfec00000), 4);
    aml_raw(t, 0, 4);
    madt_override(t, 0, 2, 0);
    for (unsigned i = 0; i < ARRAY_LEN(level_irqs); i++)
        madt_override(t, level_irqs[i], level_irqs[i], 0x0d); /* active high, level */
    aml_raw(t, 4, 1);                                         /* NMI: LINT1 of all CPUs */
    aml_raw(t, 6, 1);
    aml_raw(t, 0xff, 1);
    aml_raw(t, 0, 2);
    aml_raw(t, 1, 1);
    table_end(b, true);
}

/* ---- HPET, MCFG, WAET ---- */

static void add_hpet(struct build *b)
{
    struct aml *t = table_begin(b, "HPET", 1);
    uint8_t addr[12] = {0};

    gas(addr, 0, 0, UINT32_C(0xfed00000));
    aml_raw(t, UINT32_C(0x8086a201), 4);
    aml_bytes(t, addr, sizeof addr);
    aml_zero(t, 4); /* number 0, minimum tick, no page protection */
    table_end(b, true);
}

static void add_mcfg(struct build *b)
{
    struct aml *t = table_begin(b, "MCFG", 1);

    aml_zero(t, 8);
    aml_raw(t, b->in->mmcfg_base, 8);
    aml_raw(t, 0, 2);
    aml_raw(t, 0, 1);
    aml_raw(t, (b->in->mmcfg_size >> 20) - 1, 1);
    aml_zero(t, 4);
    table_end(b, true);
}

static void add_waet(struct build *b)
{
    struct aml *t = table_begin(b, "WAET", 1);

    aml_raw(t, 2, 4); /* one read of the PM timer is enough */
    table_end(b, true);
}

/* ---- SRAT, SLIT ---- */

static void add_srat(struct build *b)
{
    const struct acpi_info *in = b->in;
    struct aml *t = table_begin(b, "SRAT", 1);

    aml_raw(t, 1, 4);
    aml_zero(t, 8);
    for (unsigned i = 0; i < in->nr_cpus; i++) {
        aml_raw(t, 0, 1);
        aml_raw(t, 16, 1);
        aml_raw(t, in->node[i], 1);
        aml_raw(t, in->apic_id[i], 1);
        aml_raw(t, 1, 4);
        aml_zero(t, 8);
    }
    for (unsigned i = 0; i < in->nr_mem; i++) {
        aml_raw(t, 1, 1);
        aml_raw(t, 40, 1);
        aml_raw(t, in->mem[i].node, 4);
        aml_zero(t, 2);
        aml_raw(t, in->mem[i].base, 8);
        aml_raw(t, in->mem[i].len, 8);
        aml_zero(t, 4);
        aml_raw(t, in->mem[i].hotplug ? 3 : 1, 4);
        aml_zero(t, 8);
    }
    table_end(b, true);
}

static void add_slit(struct build *b)
{
    struct aml *t = table_begin(b, "SLIT", 1);

    aml_raw(t, b->in->nr_nodes, 8);
    for (unsigned i = 0; i < b->in->nr_nodes; i++)
        for (unsigned j = 0; j < b->in->nr_nodes; j++)
            aml_raw(t, i == j ? 10 : 20, 1);
    table_end(b, true);
}

/* ---- the user's, RSDT, RSDP ---- */

static void add_user(struct build *b)
{
    struct aml *t = &b->out->tables;

    for (size_t at = 0; at < b->in->user_len;) {
        uint32_t len = get_le32(b->in->user + at + 4);

        aml_zero(t, align_up(t->len, 8) - t->len);
        b->start = t->len;
        aml_bytes(t, b->in->user + at, len);
        t->p[b->start + 9] = 0;
        table_end(b, true);
        at += len;
    }
}

static size_t add_rsdt(struct build *b)
{
    struct aml *t = table_begin(b, "RSDT", 1);
    size_t start = b->start;

    for (unsigned i = 0; i < b->nr; i++) {
        cmd_pointer(&b->out->loader, TABLES_FILE, t->len, 4);
        aml_raw(t, b->at[i], 4);
    }
    table_end(b, false);
    return start;
}

static void add_rsdp(struct build *b, size_t rsdt)
{
    struct aml *r = &b->out->rsdp, *l = &b->out->loader;

    aml_bytes(r, "RSD PTR ", 8);
    aml_raw(r, 0, 1);
    aml_bytes(r, b->in->oem_id, 6);
    aml_raw(r, 0, 1);
    aml_raw(r, rsdt, 4);
    cmd_pointer(l, RSDP_FILE, 16, 4);
    cmd_checksum(l, RSDP_FILE, 8, 0, RSDP_LEN);
}

void acpi_build(const struct acpi_info *in, struct acpi_blobs *out)
{
    struct build b = {.in = in, .out = out};
    size_t facs, dsdt;

    cmd_allocate(&out->loader, TABLES_FILE, BLOB_ALIGN, ZONE_HIGH);
    cmd_allocate(&out->loader, RSDP_FILE, 16, ZONE_FSEG);
    facs = add_facs(&b);
    acpi_dsdt(in, table_begin(&b, "DSDT", in->q35 ? 2 : 1));
    dsdt = b.start;
    table_end(&b, false);
    add_fadt(&b, facs, dsdt);
    add_madt(&b);
    if (in->hpet)
        add_hpet(&b);
    if (in->nr_nodes) {
        add_srat(&b);
        add_slit(&b);
    }
    if (in->mmcfg_size)
        add_mcfg(&b);
    add_waet(&b);
    add_user(&b);
    add_rsdp(&b, add_rsdt(&b));
}

void acpi_blobs_free(struct acpi_blobs *b)
{
    aml_free(&b->tables);
    aml_free(&b->rsdp);
    aml_free(&b->loader);
}
