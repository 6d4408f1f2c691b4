/* The Q35 + ICH9 chipset: what differs from the older one. proves: F-MCH-01, S001 */
#define RIG_Q35
#include "rig.h"

static void functions_answer_through_both_mechanisms(void **state)
{
    struct rig *r = rig_new();

    assert_int_equal(cfg_ld(r, 0, 0, 0, 4), 0x29c08086);
    assert_int_equal(cfg_ld(r, 0x1f, 0, 0, 4), 0x29188086);
    assert_int_equal(cfg_ld(r, 0x1f, 3, 0, 4), 0x29308086);
    assert_int_equal(ld32(r, 0xb0000000), 0xffffffff);
    cfg_st(r, 0, 0, 0x64, 4, 0), cfg_st(r, 0, 0, 0x60, 4, 0xb0000001);
    assert_int_equal(ld32(r, 0xb0000000), 0x29c08086);
    assert_int_equal(ld32(r, 0xb0000000 + (0x1f << 15)), 0x29188086);
    assert_int_equal(ld32(r, 0xb0000000 + (0x1f << 15) + 0x100), 0xffffffff);
    cfg_st(r, 0, 0, 0x60, 4, 0xe0000001);
    assert_int_equal(ld32(r, 0xe0000000), 0x29c08086);
    uint64_t base, size;
    assert_true(q35_mmcfg(&r->north, &base, &size));
    assert_int_equal(base, 0xe0000000);
    assert_int_equal(size, 256 * MIB);
    rig_free(r);
}

static void tseg_is_hidden_outside_smm_and_locks(void **state)
{
    struct rig *r = rig_new();
    struct mem_space *smm = mem_space_new(r->m->mem_sys, "smm", r->north.smram_root);
    uint64_t at = 3 * MIB;

    r->ram.ram->host[at] = 0x77;
    assert_int_equal(ld32(r, at) & 0xff, 0x77);
    cfg_st(r, 0, 0, 0x50, 2, 0xffff);
    assert_int_equal(cfg_ld(r, 0, 0, 0x50, 2), 16);
    cfg_st(r, 0, 0, 0x9d, 1, 0x0a);
    cfg_st(r, 0, 0, 0x9e, 1, 0x01); /* 1 MiB */
    assert_int_equal(ld32(r, at) & 0xff, 0xff);
    assert_int_equal(ld32(r, at - 4), 0);
    assert_int_equal(mem_ld(smm, at, 1), 0x77);
    cfg_st(r, 0, 0, 0x9d, 1, 0x1a);
    cfg_st(r, 0, 0, 0x9e, 1, 0x00);
    assert_int_equal(ld32(r, at) & 0xff, 0xff);
    assert_int_equal(cfg_ld(r, 0, 0, 0x9e, 1) & 1, 1);
    mem_space_free(smm);
    rig_free(r);
}

static void pirq_drives_ioapic_and_routed_isa_line(void **state)
{
    struct rig *r = rig_new();
    struct pci_bus *b = r->north.bus;

    pic_setup(r, 0x0404);
    outb(r, 0x4d1, 0x04);
    st32(r, 0xfee000f0, 0x1ff);
    st32(r, 0xfec00000, 0x10 + 2 * 20), st32(r, 0xfec00010, 0x8071);
    assert_int_equal(b->map_irq(b, PCI_DEVFN(1, 0), 0), 5);
    assert_int_equal(b->map_irq(b, PCI_DEVFN(0x1f, 2), 1), 1);
    cfg_st(r, 0x1f, 0, 0x68, 1, 0x0a); /* PIRQE -> 10 */
    b->set_irq(b->irq_opaque, 4, 1);
    assert_int_equal(take(r, 0), 0x71);
    assert_int_equal(take(r, 0), 0x2a);
    b->set_irq(b->irq_opaque, 4, 0);
    cfg_st(r, 0x1f, 0, 0xf0, 4, 0xfed1c001);
    assert_int_equal(ld32(r, 0xfed1f140) & 0xffff, 0x3210);
    mem_store(r->m->mem, 0xfed1f140, 2, 0x3241);
    assert_int_equal(b->map_irq(b, PCI_DEVFN(0x1f, 2), 1), 4);
    rig_free(r);
}

static void acpi_block_follows_pmbase_and_smi_needs_enables(void **state)
{
    struct rig *r = rig_new();

    assert_int_equal(inl(r, 0x608), 0xffffffff);
    cfg_st(r, 0x1f, 0, 0x40, 4, 0x601), cfg_st(r, 0x1f, 0, 0x44, 1, 0x80);
    assert_int_equal(acpi_pm_find(r->m) == r->south.acpi, true);
    assert_int_equal(acpi_pm_base(r->south.acpi), 0x600);
    assert_int_not_equal(inl(r, 0x608), 0xffffffff);
    outb(r, 0xb2, ICH9_ACPI_ENABLE);
    assert_int_equal(inw(r, 0x604) & 1, 1);
    assert_false(r->cpu[0].v.pins & X86_PIN_SMI);
    outl(r, 0x630, 0x21);
    outb(r, 0xb2, 0x40);
    assert_true(r->cpu[0].v.pins & X86_PIN_SMI);
    assert_false(r->cpu[1].v.pins & X86_PIN_SMI);
    ich9_smi_negotiate(&r->south, 1);
    outb(r, 0xb2, 0x40);
    assert_true(r->cpu[1].v.pins & X86_PIN_SMI);
    cfg_st(r, 0x1f, 0, 0xa0, 2, 0x10); /* SMI_LOCK */
    outl(r, 0x630, 0);
    assert_int_equal(inl(r, 0x630), 1);
    rig_free(r);
}

static void tco_resets_at_its_second_timeout(void **state)
{
    struct rig *r = rig_new();

    cfg_st(r, 0x1f, 0, 0x40, 4, 0x601), cfg_st(r, 0x1f, 0, 0x44, 1, 0x80);
    cfg_st(r, 0x1f, 0, 0xf0, 4, 0xfed1c001);
    st32(r, 0xfed1f410, 0); /* GCS: NO_REBOOT off */
    outw(r, 0x672, 10);
    outw(r, 0x660, 1);
    outw(r, 0x668, 0);
    step(r, INT64_C(6100000000));
    assert_int_equal(inw(r, 0x664) & 8, 8);
    assert_int_equal(r->m->req, 0);
    step(r, INT64_C(6100000000));
    assert_int_equal(inw(r, 0x666) & 2, 2);
    assert_int_not_equal(r->m->req, 0);
    rig_free(r);
}

static void root_port_passes_configuration_memory_and_interrupts(void **state)
{
    struct rig *r = rig_new();
    struct err *e = NULL;
    struct pci_dev *port = pci_create(r->m, r->north.bus, PCI_DEVFN(4, 0), "pcie-root-port", "rp", &e), *uart;

    assert_non_null(port);
    uart = pci_create(r->m, port->child, -1, "pci-serial", NULL, &e);
    assert_non_null(uart);
    machine_reset(r->m);
    cfg_st(r, 0, 0, 0x64, 4, 0), cfg_st(r, 0, 0, 0x60, 4, 0xb0000001);
    cfg_st(r, 4, 0, 0x18, 4, 0x00010100);
    assert_int_equal(ld32(r, 0xb0100000), 0x00021b36);
    cfg_st(r, 4, 0, 0x1c, 2, 0xc0c0);
    cfg_st(r, 4, 0, 0x04, 2, 7);
    st32(r, 0xb0100010, 0xc000);
    mem_store(r->m->mem, 0xb0100004, 2, 1);
    outb(r, 0xc007, 0x5c);
    assert_int_equal(inb(r, 0xc007), 0x5c);
    cfg_st(r, 4, 0, 0x1c, 2, 0x00f0); /* window closed */
    assert_int_equal(inb(r, 0xc007), 0xff);
    pci_set_intx(uart, 1);
    assert_int_equal(r->north.bus->irq_count[4 + 4 % 4], 1);
    pci_set_intx(uart, 0);
    assert_int_equal(r->north.bus->irq_count[4 + 4 % 4], 0);
    rig_free(r);
}

UNIT_MAIN(cmocka_unit_test(functions_answer_through_both_mechanisms),
          cmocka_unit_test(tseg_is_hidden_outside_smm_and_locks),
          cmocka_unit_test(pirq_drives_ioapic_and_routed_isa_line),
          cmocka_unit_test(acpi_block_follows_pmbase_and_smi_needs_enables),
          cmocka_unit_test(tco_resets_at_its_second_timeout),
          cmocka_unit_test(root_port_passes_configuration_memory_and_interrupts))
