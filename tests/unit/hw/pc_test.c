/* The i440FX + PIIX3 chipset: each part's main claims, spoken in registers and time. proves: F-MCH-02, S002 */
#include "rig.h"

static void host_bridge_and_functions_answer(void **state)
{
    struct rig *r = rig_new();

    assert_int_equal(cfg_ld(r, 0, 0, 0, 4), 0x12378086);
    assert_int_equal(cfg_ld(r, 1, 0, 0, 4), 0x70008086);
    assert_int_equal(cfg_ld(r, 1, 3, 0, 4), 0x71138086);
    assert_int_equal(cfg_ld(r, 1, 0, 0x0e, 1), 0x80);
    assert_int_equal(cfg_ld(r, 5, 0, 0, 4), 0xffffffff);
    assert_int_equal(inl(r, 0xcf8), 0x80002800);
    rig_free(r);
}

static void pam_switches_between_rom_and_ram(void **state)
{
    struct rig *r = rig_new();

    r->ram.ram->host[0xf0000] = 0x11;
    assert_int_equal(ld32(r, 0xf0000) & 0xff, 0xff); /* nothing on PCI there */
    cfg_st(r, 0, 0, 0x59, 1, 0x10);
    assert_int_equal(ld32(r, 0xf0000) & 0xff, 0x11);
    st32(r, 0xf0000, 0x22);
    assert_int_equal(r->ram.ram->host[0xf0000], 0x11); /* read only */
    cfg_st(r, 0, 0, 0x59, 1, 0x30);
    st32(r, 0xf0000, 0x22);
    assert_int_equal(r->ram.ram->host[0xf0000], 0x22);
    cfg_st(r, 0, 0, 0x59, 1, 0x20);
    st32(r, 0xf0000, 0x33);
    assert_int_equal(r->ram.ram->host[0xf0000], 0x33);
    assert_int_equal(ld32(r, 0xf0000) & 0xff, 0xff); /* write only */
    cfg_st(r, 0, 0, 0x5a, 1, 0x03);
    st32(r, 0xc0000, 0x44);
    assert_int_equal(r->ram.ram->host[0xc0000], 0x44);
    assert_int_equal(ld32(r, 0xc4000) & 0xff, 0xff);
    rig_free(r);
}

static void smram_shows_in_smm_only_and_locks(void **state)
{
    struct rig *r = rig_new();
    struct mem_space *smm = mem_space_new(r->m->mem_sys, "smm", r->north.smram_root);

    r->ram.ram->host[0xa0000] = 0x5a;
    assert_int_equal(mem_ld(smm, 0xa0000, 1), 0xff);
    cfg_st(r, 0, 0, 0x72, 1, 0x0a); /* G_SMRAME */
    assert_int_equal(mem_ld(smm, 0xa0000, 1), 0x5a);
    assert_int_equal(ld32(r, 0xa0000) & 0xff, 0xff);
    cfg_st(r, 0, 0, 0x72, 1, 0x4a); /* and D_OPEN */
    assert_int_equal(ld32(r, 0xa0000) & 0xff, 0x5a);
    cfg_st(r, 0, 0, 0x72, 1, 0x1a); /* D_LCK */
    cfg_st(r, 0, 0, 0x72, 1, 0x4a);
    assert_int_equal(ld32(r, 0xa0000) & 0xff, 0xff);
    machine_reset(r->m);
    assert_int_equal(cfg_ld(r, 0, 0, 0x72, 1), 0x02);
    mem_space_free(smm);
    rig_free(r);
}

static void pit_interrupts_through_the_8259_at_its_rate(void **state)
{
    struct rig *r = rig_new();

    pic_setup(r, 0x0001);
    outb(r, 0x43, 0x34);                      /* counter 0, mode 2 */
    outb(r, 0x40, 0x9c), outb(r, 0x40, 0x2e); /* 11932: 10 ms */
    assert_int_equal(take(r, 0), -1);
    step(r, 9990000);
    assert_int_equal(take(r, 0), -1);
    step(r, 20000);
    assert_int_equal(take(r, 0), 0x20);
    assert_int_equal(take(r, 0), -1);
    step(r, 10000000);
    assert_int_equal(take(r, 0), -1); /* not finished yet */
    outb(r, 0x20, 0x20);
    assert_int_equal(take(r, 0), 0x20);
    rig_free(r);
}

static void pit_counter_2_runs_by_its_gate(void **state)
{
    struct rig *r = rig_new();

    outb(r, 0x61, 0x01);
    outb(r, 0x43, 0xb0);                      /* counter 2, mode 0 */
    outb(r, 0x42, 0xff), outb(r, 0x42, 0x0f); /* 4095 clocks: 3.43 ms */
    assert_int_equal(inb(r, 0x61) & 0x20, 0);
    step(r, 3000000);
    assert_int_equal(inb(r, 0x61) & 0x20, 0);
    outb(r, 0x61, 0x00);
    step(r, 3000000);
    assert_int_equal(inb(r, 0x61) & 0x20, 0);
    outb(r, 0x61, 0x01);
    step(r, 500000);
    assert_int_equal(inb(r, 0x61) & 0x20, 0x20);
    rig_free(r);
}

static void pic_nests_by_priority_and_cascades(void **state)
{
    struct rig *r = rig_new();

    pic_setup(r, 0x0616);
    irq_set(r->south.isa->irq[9], 1);
    assert_int_equal(take(r, 0), 0x29);
    irq_set(r->south.isa->irq[4], 1);
    assert_int_equal(take(r, 0), -1); /* lower than the slave's */
    irq_set(r->south.isa->irq[1], 1);
    assert_int_equal(take(r, 0), 0x21);
    outb(r, 0x20, 0x20); /* ends 1 */
    outb(r, 0xa0, 0x20), outb(r, 0x20, 0x20);
    assert_int_equal(take(r, 0), 0x24);
    rig_free(r);
}

static void level_pic_input_repeats_until_dropped(void **state)
{
    struct rig *r = rig_new();

    pic_setup(r, 0x0c04);
    outb(r, 0x4d1, 0x0c);
    cfg_st(r, 1, 0, 0x60, 4, 0x8080800b); /* PIRQA -> 11 */
    r->north.bus->set_irq(r->north.bus->irq_opaque, 0, 1);
    assert_int_equal(take(r, 0), 0x2b);
    outb(r, 0xa0, 0x20), outb(r, 0x20, 0x20);
    assert_int_equal(take(r, 0), 0x2b);
    r->north.bus->set_irq(r->north.bus->irq_opaque, 0, 0);
    outb(r, 0xa0, 0x20), outb(r, 0x20, 0x20);
    assert_int_equal(take(r, 0), -1);
    rig_free(r);
}

static void rtc_counts_and_alarms(void **state)
{
    struct rig *r = rig_new();
    unsigned s0, s1;

    pic_setup(r, 0x0104);
    outb(r, 0x70, 0x0b), outb(r, 0x71, 0x86); /* SET, binary, 24 h */
    static const uint8_t set[][2] = {{0, 58}, {2, 59},    {4, 23}, {7, 31}, {8, 12},
                                     {9, 24}, {0x32, 20}, {1, 0},  {3, 0},  {5, 0}};
    for (unsigned i = 0; i < ARRAY_LEN(set); i++)
        outb(r, 0x70, set[i][0]), outb(r, 0x71, set[i][1]);
    outb(r, 0x70, 0x0b), outb(r, 0x71, 0x26); /* run, alarm interrupt */
    outb(r, 0x70, 0x00), s0 = inb(r, 0x71);
    step(r, 1000000000);
    outb(r, 0x70, 0x00), s1 = inb(r, 0x71);
    assert_int_equal(s1, s0 + 1);
    assert_int_equal(take(r, 0), -1);
    step(r, 1100000000);
    assert_int_equal(take(r, 0), 0x28);
    outb(r, 0x70, 0x0c), assert_int_equal(inb(r, 0x71) & 0xb0, 0xb0);
    outb(r, 0x70, 0x09), assert_int_equal(inb(r, 0x71), 25);
    outb(r, 0x70, 0x08), assert_int_equal(inb(r, 0x71), 1);
    outb(r, 0x70, 0x07), assert_int_equal(inb(r, 0x71), 1);
    rig_free(r);
}

static void apic_timer_and_ipis_reach_processors(void **state)
{
    struct rig *r = rig_new();

    pic_setup(r, 0);
    st32(r, 0xfee000f0, 0x1ff);
    st32(r, 0xfee003e0, 0xb);     /* divide by 1 */
    st32(r, 0xfee00320, 0x20040); /* periodic, vector 40 */
    st32(r, 0xfee00380, 1000000); /* 1 ms */
    step(r, 999000);
    assert_int_equal(take(r, 0), -1);
    step(r, 2000);
    assert_int_equal(take(r, 0), 0x40);
    step(r, 1000000);
    assert_int_equal(take(r, 0), -1);
    st32(r, 0xfee000b0, 0);
    assert_int_equal(take(r, 0), 0x40);
    st32(r, 0xfee000b0, 0);
    st32(r, 0xfee00310, 1u << 24);
    st32(r, 0xfee00300, 0x00004500); /* INIT to 1 */
    assert_true(r->cpu[1].v.pins & X86_PIN_INIT);
    st32(r, 0xfee00300, 0x00004608); /* SIPI */
    assert_true(r->cpu[1].v.pins & X86_PIN_SIPI);
    assert_int_equal(r->cpu[1].port.sipi_vector, 8);
    st32(r, 0xfee00300, 0x000c0400); /* NMI to all but self */
    assert_true(r->cpu[1].v.pins & X86_PIN_NMI);
    assert_false(r->cpu[0].v.pins & X86_PIN_NMI);
    rig_free(r);
}

static void x2apic_msrs_and_mode_rules(void **state)
{
    struct rig *r = rig_new();
    struct x86_port *p = &r->cpu[1].port;
    uint64_t v;

    assert_false(p->x2apic_read(p->apic, 0x802, &v));
    assert_false(p->apic_base_set(p->apic, 0xfee00400)); /* EXTD without EN */
    assert_true(p->apic_base_set(p->apic, 0xfee00c00));
    assert_true(p->x2apic_read(p->apic, 0x802, &v));
    assert_int_equal(v, 1);
    assert_true(p->x2apic_read(p->apic, 0x80d, &v));
    assert_int_equal(v, 2);
    assert_false(p->apic_base_set(p->apic, 0xfee00800)); /* back to xAPIC only through disabled */
    assert_true(p->x2apic_write(p->apic, 0x80f, 0x1ff));
    assert_true(p->x2apic_write(p->apic, 0x83f, 0x55));
    assert_int_equal(take(r, 1), 0x55);
    assert_false(p->x2apic_write(p->apic, 0x80b, 1));
    assert_true(p->x2apic_write(p->apic, 0x80b, 0));
    assert_true(p->apic_base_get(p->apic) == 0xfee00c00);
    rig_free(r);
}

static void tsc_deadline_fires_once(void **state)
{
    struct rig *r = rig_new();
    struct x86_port *p = &r->cpu[0].port;

    pic_setup(r, 0);
    st32(r, 0xfee000f0, 0x1ff);
    st32(r, 0xfee00320, 0x40060);
    p->tsc_deadline_set(p->apic, p->tsc_now(&r->cpu[0].v) + 2000000); /* 1 ms */
    step(r, 999000);
    assert_int_equal(take(r, 0), -1);
    step(r, 2000);
    assert_int_equal(take(r, 0), 0x60);
    assert_int_equal(p->tsc_deadline_get(p->apic), 0);
    rig_free(r);
}

static void ioapic_level_waits_for_eoi(void **state)
{
    struct rig *r = rig_new();

    pic_setup(r, 0);
    st32(r, 0xfee000f0, 0x1ff);
    st32(r, 0xfec00000, 0x10 + 2 * 10), st32(r, 0xfec00010, 0x8051); /* input 10, level, vector 51 */
    irq_set(r->south.gsi[10], 1);
    assert_int_equal(take(r, 0), 0x51);
    st32(r, 0xfec00000, 0x10 + 2 * 10);
    assert_int_equal(ld32(r, 0xfec00010) & 0x4000, 0x4000);
    assert_int_equal(take(r, 0), -1);
    st32(r, 0xfee000b0, 0);
    assert_int_equal(take(r, 0), 0x51); /* still asserted */
    irq_set(r->south.gsi[10], 0);
    st32(r, 0xfee000b0, 0);
    assert_int_equal(take(r, 0), -1);
    assert_int_equal(ld32(r, 0xfec00010) & 0x4000, 0);
    rig_free(r);
}

/* A line that no handler lowers must not keep the processor from all else: it is let go on for a while now and then. */
static void ioapic_leaves_time_in_a_storm(void **state)
{
    struct rig *r = rig_new();
    unsigned n = 0;

    pic_setup(r, 0);
    st32(r, 0xfee000f0, 0x1ff);
    st32(r, 0xfec00000, 0x10 + 2 * 10), st32(r, 0xfec00010, 0x8051);
    irq_set(r->south.gsi[10], 1);
    while (take(r, 0) == 0x51 && ++n < 100000)
        st32(r, 0xfee000b0, 0);
    assert_in_range(n, 100, 10000);
    for (int i = 0; i < 3; i++) {
        step(r, 900000);
        assert_int_equal(take(r, 0), -1);
        step(r, 200000);
        assert_int_equal(take(r, 0), 0x51);
        st32(r, 0xfee000b0, 0);
    }
    irq_set(r->south.gsi[10], 0); /* once low, all is as ever */
    step(r, 2000000);
    assert_int_equal(take(r, 0), -1);
    irq_set(r->south.gsi[10], 1);
    assert_int_equal(take(r, 0), 0x51);
    st32(r, 0xfee000b0, 0);
    assert_int_equal(take(r, 0), 0x51);
    rig_free(r);
}

static void msi_writes_choose_the_processor(void **state)
{
    struct rig *r = rig_new();

    r->cpu[1].port.apic_base_set(r->cpu[1].port.apic, 0xfee00c00);
    r->cpu[1].port.x2apic_write(r->cpu[1].port.apic, 0x80f, 0x1ff);
    st32(r, 0xfee01000, 0x0061);
    assert_int_equal(take(r, 0), -1);
    assert_int_equal(take(r, 1), 0x61);
    rig_free(r);
}

static void hpet_legacy_replacement_takes_irq_0(void **state)
{
    struct rig *r = rig_new();

    pic_setup(r, 0x0001);
    assert_int_equal(ld32(r, 0xfed00004), 10000000);
    st32(r, 0xfed00108, 100000); /* 1 ms */
    st32(r, 0xfed0010c, 0);
    st32(r, 0xfed00100, 1 << 2);
    st32(r, 0xfed00010, 3);
    step(r, 990000);
    assert_int_equal(take(r, 0), -1);
    step(r, 20000);
    assert_int_equal(take(r, 0), 0x20);
    assert_in_range(ld32(r, 0xfed000f0), 101000, 101000);
    rig_free(r);
}

static void pm_timer_power_button_and_acpi_enable(void **state)
{
    struct rig *r = rig_new();
    uint32_t t;

    pic_setup(r, 0x0204);
    cfg_st(r, 1, 3, 0x40, 4, 0x601), cfg_st(r, 1, 3, 0x80, 1, 1);
    assert_int_equal(acpi_pm_base(r->south.acpi), 0x600);
    t = inl(r, 0x608);
    step(r, 1000000000);
    assert_in_range((inl(r, 0x608) - t) & 0xffffff, 3579544, 3579546);
    assert_int_equal(inw(r, 0x604) & 1, 0);
    outb(r, 0xb2, PIIX4_ACPI_ENABLE);
    assert_int_equal(inw(r, 0x604) & 1, 1);
    outw(r, 0x602, PM1_PWRBTN_STS);
    r->m->powerdown_handlers.next == &r->m->powerdown_handlers ? fail() : (void)0;
    struct machine_hook *h = container_of(r->m->powerdown_handlers.next, struct machine_hook, link);
    h->fn(h->opaque);
    assert_int_equal(take(r, 0), 0x29);
    assert_int_equal(inw(r, 0x600) & PM1_PWRBTN_STS, PM1_PWRBTN_STS);
    outw(r, 0x600, PM1_PWRBTN_STS);
    assert_int_equal(inw(r, 0x600) & PM1_PWRBTN_STS, 0);
    rig_free(r);
}

static void serve_requests(struct rig *r)
{
    while (ev_loop_turn(r->run->loop, 0))
        ;
}

static void sleep_to_ram_waits_for_the_button_and_resumes_by_reset(void **state)
{
    struct rig *r = rig_new();
    int resets;

    machine_start(r->m);
    cfg_st(r, 1, 3, 0x40, 4, 0x601), cfg_st(r, 1, 3, 0x80, 1, 1);
    st32(r, 0x1000, 0xcafe);
    outw(r, 0x604, PIIX4_SLP_TYP_S3 << PM1_SLP_TYP_SHIFT | PM1_SLP_EN);
    serve_requests(r);
    assert_int_equal(r->m->state, RS_SUSPENDED);
    resets = r->cpu[0].resets;
    machine_request_powerdown(r->m);
    serve_requests(r);
    assert_int_equal(r->m->state, RS_RUNNING);
    assert_int_equal(r->cpu[0].resets, resets + 1);
    outb(r, 0x70, 0x0f), assert_int_equal(inb(r, 0x71), 0xfe);
    cfg_st(r, 1, 3, 0x40, 4, 0x601), cfg_st(r, 1, 3, 0x80, 1, 1);
    assert_int_equal(inw(r, 0x600) & PM1_WAK_STS, PM1_WAK_STS);
    assert_int_equal(ld32(r, 0x1000), 0xcafe);
    machine_stop(r->m, RS_PAUSED);
    rig_free(r);
}

static void apm_command_raises_smi_when_enabled(void **state)
{
    struct rig *r = rig_new();

    outb(r, 0xb2, 0x55);
    assert_false(r->cpu[0].v.pins & X86_PIN_SMI);
    cfg_st(r, 1, 3, 0x58, 4, 1u << 25);
    outb(r, 0xb2, 0x55);
    assert_true(r->cpu[0].v.pins & X86_PIN_SMI);
    assert_int_equal(inb(r, 0xb2), 0x55);
    rig_free(r);
}

static void i8042_answers_and_passes_mouse_bytes(void **state)
{
    struct rig *r = rig_new();

    pic_setup(r, 0x1006);
    outb(r, 0x64, 0xaa);
    assert_int_equal(inb(r, 0x64) & 1, 1);
    assert_int_equal(inb(r, 0x60), 0x55);
    outb(r, 0x60, 0xff);
    assert_int_equal(inb(r, 0x60), 0xfa);
    assert_int_equal(inb(r, 0x60), 0xaa);
    outb(r, 0x64, 0xd4), outb(r, 0x60, 0xf2);
    assert_int_equal(inb(r, 0x64) & 0x21, 0x21);
    assert_int_equal(inb(r, 0x60), 0xfa);
    assert_int_equal(inb(r, 0x60), 0x00);
    outb(r, 0x64, 0xd1), outb(r, 0x60, 0xdd); /* A20 off */
    assert_false(r->cpu[0].port.a20);
    assert_int_equal(inb(r, 0x92) & 2, 0);
    outb(r, 0x92, 2);
    assert_true(r->cpu[0].port.a20);
    rig_free(r);
}

static void cpu_hotplug_block_switches_over(void **state)
{
    struct rig *r = rig_new();

    assert_int_equal(inb(r, 0xaf00), 3); /* legacy bitmap: two processors */
    outl(r, 0xaf00, 0), outl(r, 0xaf00, 1);
    assert_int_equal(inb(r, 0xaf04), CPUHP_ST_ENABLED);
    outb(r, 0xaf05, CPUHP_CMD_GET_ID);
    assert_int_equal(inl(r, 0xaf08), 1);
    outl(r, 0xaf00, 2);
    assert_int_equal(inb(r, 0xaf04), 0);
    rig_free(r);
}

static void reset_control_resets(void **state)
{
    struct rig *r = rig_new();

    outb(r, 0xcf9, 0x02);
    assert_int_equal(inb(r, 0xcf9), 0x02);
    assert_int_equal(r->m->req, 0);
    outb(r, 0xcf9, 0x06);
    assert_int_not_equal(r->m->req, 0);
    rig_free(r);
}

static void serial_port_loops_back_with_interrupt(void **state)
{
    struct rig *r = rig_new();
    struct err *e = NULL;
    struct dev *d = dev_new(r->m, "isa-serial", &e);

    assert_true(d && dev_realize(d, &r->south.isa->bus, NULL, &e));
    pic_setup(r, 0x0010);
    outb(r, 0x3fc, 0x1b); /* loop, DTR, RTS, OUT2 */
    assert_int_equal(inb(r, 0x3fe) & 0xf0, 0xb0);
    outb(r, 0x3fa, 0xc1); /* FIFO, trigger 14 */
    assert_int_equal(inb(r, 0x3fa), 0xc1);
    outb(r, 0x3f9, 0x01);
    outb(r, 0x3f8, 'x');
    assert_int_equal(inb(r, 0x3fd) & 0x61, 0x61);
    assert_int_equal(take(r, 0), -1);
    step(r, 10000000); /* past four character times at 9600 */
    assert_int_equal(take(r, 0), 0x24);
    assert_int_equal(inb(r, 0x3fa), 0xcc);
    assert_int_equal(inb(r, 0x3f8), 'x');
    assert_int_equal(inb(r, 0x3fa), 0xc1);
    rig_free(r);
}

UNIT_MAIN(cmocka_unit_test(host_bridge_and_functions_answer), cmocka_unit_test(pam_switches_between_rom_and_ram),
          cmocka_unit_test(smram_shows_in_smm_only_and_locks),
          cmocka_unit_test(pit_interrupts_through_the_8259_at_its_rate),
          cmocka_unit_test(pit_counter_2_runs_by_its_gate), cmocka_unit_test(pic_nests_by_priority_and_cascades),
          cmocka_unit_test(level_pic_input_repeats_until_dropped), cmocka_unit_test(rtc_counts_and_alarms),
          cmocka_unit_test(apic_timer_and_ipis_reach_processors), cmocka_unit_test(x2apic_msrs_and_mode_rules),
          cmocka_unit_test(tsc_deadline_fires_once), cmocka_unit_test(ioapic_level_waits_for_eoi),
          cmocka_unit_test(ioapic_leaves_time_in_a_storm), cmocka_unit_test(msi_writes_choose_the_processor),
          cmocka_unit_test(hpet_legacy_replacement_takes_irq_0),
          cmocka_unit_test(pm_timer_power_button_and_acpi_enable),
          cmocka_unit_test(sleep_to_ram_waits_for_the_button_and_resumes_by_reset),
          cmocka_unit_test(apm_command_raises_smi_when_enabled), cmocka_unit_test(i8042_answers_and_passes_mouse_bytes),
          cmocka_unit_test(cpu_hotplug_block_switches_over), cmocka_unit_test(reset_control_resets),
          cmocka_unit_test(serial_port_loops_back_with_interrupt))
