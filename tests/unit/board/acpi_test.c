/* The ACPI tables of both chipsets, made without a machine: encodings, checksums after the loader script has run, and
 * the round trip through iasl: each table must disassemble, and the result must compile without errors or warnings. */
#include "unit.h"

#include "base/bytes.h"
#include "base/str.h"
#include "board/x86/acpi.h"

#include <stdio.h>
#include <unistd.h>

static void describe(struct acpi_info *in, bool q35)
{
    *in = (struct acpi_info){.q35 = q35,
                             .nr_cpus = 3,
                             .pm_base = 0x600,
                             .gpe0_blk = 0xafe0,
                             .gpe0_len = 4,
                             .s3 = true,
                             .s4 = true,
                             .s3_typ = 1,
                             .s4_typ = 2,
                             .pcihp_base = 0xae00,
                             .cpuhp_base = 0xaf00,
                             .lo_start = 0x20000000,
                             .hi_start = UINT64_C(0x100000000),
                             .hi_end = UINT64_C(0x180000000),
                             .hpet = true,
                             .kbc = true,
                             .rtc = true,
                             .fw_cfg = true,
                             .floppy = true,
                             .serial_mask = 3,
                             .parallel_mask = 1,
                             .pvpanic_port = 0x505,
                             .hotplug_slots = 0xfffffff8,
                             .nr_nodes = 2,
                             .nr_mem = 2};
    for (unsigned i = 0; i < in->nr_cpus; i++)
        in->apic_id[i] = (uint8_t)i;
    in->present[0] = true;
    in->node[2] = 1;
    in->mem[0].len = 0xa0000;
    in->mem[1].base = 0x100000;
    in->mem[1].len = 0x1ff00000;
    in->mem[1].node = 1;
    memcpy(in->oem_id, "ABCDEF", 6);
    memcpy(in->oem_table_id, "ABCDEFGH", 8);
    if (!q35)
        return;
    in->pcihp_base = 0;
    in->cpuhp_base = 0xcd8;
    in->gpe0_blk = 0x620;
    in->gpe0_len = 16;
    in->mmcfg_base = 0xb0000000;
    in->mmcfg_size = 256 << 20;
    in->hotplug_slots = 0;
}

/* What firmware does with the script; both files stay at the addresses given. */
static void run_loader(struct acpi_blobs *b, uint64_t tables_at, unsigned *allocations)
{
    for (size_t at = 0; at < b->loader.len; at += 128) {
        const uint8_t *c = b->loader.p + at;
        struct aml *f = !strcmp((const char *)c + 4, "etc/acpi/rsdp") ? &b->rsdp : &b->tables;
        uint32_t cmd = get_le32(c);

        if (cmd == 1) {
            ++*allocations;
        } else if (cmd == 2) {
            uint32_t off = get_le32(c + 116);
            unsigned size = c[120];

            assert_true(off + size <= f->len);
            put_le(f->p + off, get_le(f->p + off, size) + tables_at, size);
        } else {
            uint32_t sum_at = get_le32(c + 60), start = get_le32(c + 64), len = get_le32(c + 68);
            uint8_t sum = 0;

            assert_int_equal(cmd, 3);
            assert_true(start + len <= f->len && sum_at < f->len);
            for (uint32_t i = 0; i < len; i++)
                sum += f->p[start + i];
            f->p[sum_at] -= sum;
        }
    }
}

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t v = 0;

    while (n--)
        v += *p++;
    return v;
}

static void the_loader_script_yields_linked_valid_tables(void **state)
{
    static struct acpi_info in;

    for (int q35 = 0; q35 < 2; q35++) {
        struct acpi_blobs b = {0};
        unsigned allocations = 0;
        uint32_t rsdt, nr;
        bool fadt = false, madt = false;

        describe(&in, q35);
        acpi_build(&in, &b);
        run_loader(&b, 0x1000000, &allocations);
        assert_int_equal(allocations, 2);
        assert_int_equal(sum(b.rsdp.p, b.rsdp.len), 0);
        rsdt = get_le32(b.rsdp.p + 16) - 0x1000000;
        assert_memory_equal(b.tables.p + rsdt, "RSDT", 4);
        nr = (get_le32(b.tables.p + rsdt + 4) - 36) / 4;
        for (uint32_t i = 0; i < nr; i++) {
            const uint8_t *t = b.tables.p + get_le32(b.tables.p + rsdt + 36 + 4 * i) - 0x1000000;

            assert_int_equal(sum(t, get_le32(t + 4)), 0);
            fadt |= !memcmp(t, "FACP", 4);
            madt |= !memcmp(t, "APIC", 4);
            if (!memcmp(t, "FACP", 4)) {
                const uint8_t *dsdt = b.tables.p + get_le32(t + 40) - 0x1000000;

                assert_memory_equal(dsdt, "DSDT", 4);
                assert_int_equal(sum(dsdt, get_le32(dsdt + 4)), 0);
                assert_int_equal((get_le32(t + 36) - 0x1000000) % 64, 0);
            }
        }
        assert_true(fadt && madt);
        acpi_blobs_free(&b);
    }
}

static void integers_take_the_shortest_form(void **state)
{
    static const uint8_t want[] = {0x00, 0x01, 0x0a, 0xff, 0x0b, 0x00, 0x01, 0x0c, 0x00, 0x00, 0x01, 0x00};
    struct aml a = {0};

    aml_int(&a, 0);
    aml_int(&a, 1);
    aml_int(&a, 255);
    aml_int(&a, 256);
    aml_int(&a, 65536);
    assert_int_equal(a.len, sizeof want);
    assert_memory_equal(a.p, want, sizeof want);
    aml_free(&a);
}

static void names_are_padded_and_prefixed(void **state)
{
    struct aml a = {0};

    aml_path(&a, "\\_SB.PCI0");
    assert_int_equal(a.len, 10);
    assert_memory_equal(a.p, "\\\x2e_SB_PCI0", 10);
    a.len = 0;
    aml_path(&a, "^X");
    assert_memory_equal(a.p, "^X___", 5);
    a.len = 0;
    aml_path(&a, "\\A.B.C");
    assert_memory_equal(a.p,
                        "\\\x2f\x03"
                        "A___B___C___",
                        15);
    aml_free(&a);
}

/* Lengths around each step of the PkgLength encoding: 63, 4095 and beyond. */
static void package_lengths_count_themselves(void **state)
{
    static const size_t body[] = {0, 62, 63, 64, 4093, 4094, 4095, 70000};

    for (unsigned i = 0; i < sizeof body / sizeof body[0]; i++) {
        struct aml a = {0};
        unsigned extra;
        size_t len;

        aml_if(&a);
        aml_zero(&a, body[i]);
        aml_end(&a);
        extra = a.p[1] >> 6;
        len = extra ? a.p[1] & 0x0f : a.p[1] & 0x3f;
        for (unsigned k = 0; k < extra; k++)
            len |= (size_t)a.p[2 + k] << (4 + 8 * k);
        assert_int_equal(len, body[i] + 1 + extra);
        assert_int_equal(a.len, 1 + len);
        aml_free(&a);
    }
}

/* ---- iasl ---- */

static void round_trip(const uint8_t *t, const char *dir)
{
    char AUTOFREE *file = xasprintf("%s/%.4s.dat", dir, (const char *)t);
    char AUTOFREE *cmd = xasprintf("cd %s && iasl -d %.4s.dat >d.log 2>&1 && iasl %.4s.dsl >c.log 2>&1 && "
                                   "grep -q '0 Errors, 0 Warnings' c.log && ! grep -qiE 'error|invalid' d.log",
                                   dir, (const char *)t, (const char *)t);
    FILE *f = fopen(file, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(t, 1, get_le32(t + 4), f), get_le32(t + 4));
    fclose(f);
    if (system(cmd))
        fail_msg("iasl does not accept table %.4s; see %s", (const char *)t, dir);
}

static void iasl_accepts_every_table(void **state)
{
    static struct acpi_info in;
    char dir[] = "/tmp/lyrebird-acpi-XXXXXX";
    char AUTOFREE *rm = NULL;

    if (system("command -v iasl >/dev/null")) {
        print_message("iasl (Debian: acpica-tools) is missing: round trip skipped\n");
        skip();
    }
    assert_non_null(mkdtemp(dir));
    for (int q35 = 0; q35 < 2; q35++) {
        struct acpi_blobs b = {0};
        unsigned allocations = 0;

        describe(&in, q35);
        acpi_build(&in, &b);
        run_loader(&b, 0, &allocations);
        for (size_t at = 64; at + 36 <= b.tables.len;) { /* the FACS comes first */
            round_trip(b.tables.p + at, dir);
            at += align_up(get_le32(b.tables.p + at + 4), 8);
        }
        acpi_blobs_free(&b);
    }
    rm = xasprintf("rm -r %s", dir);
    assert_int_equal(system(rm), 0);
}

UNIT_MAIN(cmocka_unit_test(the_loader_script_yields_linked_valid_tables),
          cmocka_unit_test(integers_take_the_shortest_form), cmocka_unit_test(names_are_padded_and_prefixed),
          cmocka_unit_test(package_lengths_count_themselves), cmocka_unit_test(iasl_accepts_every_table))
