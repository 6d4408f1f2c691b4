/* A bare PC for chipset tests: RAM, two processors without code, a stepped clock, i440FX + PIIX3 or Q35 + ICH9. No
 * guest, no loop. */
#ifndef TESTS_HW_RIG_H
#define TESTS_HW_RIG_H

#include "unit.h"

#include "cpu/x86.h"
#include "hw/intc/apic.h"
#include "hw/north/north.h"
#include "hw/south/south.h"

struct rig_cpu {
    struct vcpu v; /* first */
    struct x86_port port;
    int resets;
};
struct rig {
    struct run *run;
    struct machine *m;
    struct mem_region ram, low;
    struct rig_cpu cpu[2];
    struct north north;
    struct south south;
};

struct x86_port *x86_port(struct vcpu *c)
{
    return &container_of(c, struct rig_cpu, v)->port;
}
static void rig_cpu_reset(struct vcpu *c)
{
    container_of(c, struct rig_cpu, v)->resets++;
}
static bool rig_has_work(struct vcpu *c)
{
    return c->pins != 0;
}
static uint64_t rig_tsc(struct vcpu *c)
{
    return (uint64_t)clk_now(c->m->run->virt) * 2; /* 2 GHz */
}
static const struct vcpu_arch rig_arch = {
    .name = "none", .reset = rig_cpu_reset, .has_work = rig_has_work, .state = &state_none};

static UNUSED struct rig *rig_new(void)
{
    struct rig *r = xnew(struct rig);
    struct err *e = NULL;
    struct north_cfg nc = {.ram = &r->ram, .below_4g = 4 * MIB, .smm = true};
    struct south_cfg sc = {.hpet = true, .smm = true, .rtc = {.base = 2, .offset = 0}};

    r->run = run_new();
    r->m = machine_new(r->run);
    r->m->stepped = true;
    clk_set_stepped(r->run->virt);
    assert_true(mem_region_init_ram(&r->ram, r->m->mem_sys, "pc.ram", 4 * MIB, &e));
    mem_region_init_alias(&r->low, r->m->mem_sys, "ram-below-4g", &r->ram, 0, 4 * MIB);
    mem_region_add(&r->m->sysmem, 0, &r->low);
    for (unsigned i = 0; i < 2; i++) {
        struct rig_cpu *c = &r->cpu[i];

        vcpu_init(&c->v, r->m, &rig_arch);
        c->port = (struct x86_port){.apic_id = i, .bsp = i == 0, .tsc_hz = 2000000000, .tsc_now = rig_tsc, .a20 = true};
        assert_non_null(apic_create(r->m, &c->v, &e));
    }
#ifdef RIG_Q35
    assert_true(q35_create(r->m, &nc, &r->north, &e));
    assert_true(ich9_create(r->m, r->north.bus, &sc, &r->south, &e));
#else
    assert_true(i440fx_create(r->m, &nc, &r->north, &e));
    assert_true(piix3_create(r->m, r->north.bus, &sc, &r->south, &e));
#endif
    machine_reset(r->m);
    return r;
}
static UNUSED void rig_free(struct rig *r)
{
    machine_free(r->m);
    run_free(r->run);
    free(r);
}

static UNUSED void outb(struct rig *r, uint16_t port, uint8_t v)
{
    mem_store(r->m->io, port, 1, v);
}
static UNUSED void outw(struct rig *r, uint16_t port, uint16_t v)
{
    mem_store(r->m->io, port, 2, v);
}
static UNUSED void outl(struct rig *r, uint16_t port, uint32_t v)
{
    mem_store(r->m->io, port, 4, v);
}
static UNUSED uint8_t inb(struct rig *r, uint16_t port)
{
    return (uint8_t)mem_ld(r->m->io, port, 1);
}
static UNUSED uint16_t inw(struct rig *r, uint16_t port)
{
    return (uint16_t)mem_ld(r->m->io, port, 2);
}
static UNUSED uint32_t inl(struct rig *r, uint16_t port)
{
    return (uint32_t)mem_ld(r->m->io, port, 4);
}
static UNUSED uint32_t ld32(struct rig *r, uint64_t a)
{
    return (uint32_t)mem_ld(r->m->mem, a, 4);
}
static UNUSED void st32(struct rig *r, uint64_t a, uint32_t v)
{
    mem_store(r->m->mem, a, 4, v);
}
static UNUSED uint32_t cfg_ld(struct rig *r, unsigned dev, unsigned fn, unsigned reg, unsigned size)
{
    outl(r, 0xcf8, 0x80000000u | dev << 11 | fn << 8 | (reg & 0xfc));
    return (uint32_t)mem_ld(r->m->io, 0xcfc + (reg & 3), size);
}
static UNUSED void cfg_st(struct rig *r, unsigned dev, unsigned fn, unsigned reg, unsigned size, uint32_t v)
{
    outl(r, 0xcf8, 0x80000000u | dev << 11 | fn << 8 | (reg & 0xfc));
    mem_store(r->m->io, 0xcfc + (reg & 3), size, v);
}
static UNUSED void step(struct rig *r, int64_t ns)
{
    clk_step_to(r->run->virt, clk_now(r->run->virt) + ns);
}
/* The vector the processor would take now, -1 when its pin is down or nothing is deliverable. */
static UNUSED int take(struct rig *r, unsigned cpu)
{
    struct x86_port *p = &r->cpu[cpu].port;

    return r->cpu[cpu].v.pins & X86_PIN_INTR ? p->intr_ack(p->apic) : -1;
}
static UNUSED void pic_setup(struct rig *r, uint16_t unmasked)
{
    outb(r, 0x20, 0x11), outb(r, 0x21, 0x20), outb(r, 0x21, 0x04), outb(r, 0x21, 0x01);
    outb(r, 0xa0, 0x11), outb(r, 0xa1, 0x28), outb(r, 0xa1, 0x02), outb(r, 0xa1, 0x01);
    outb(r, 0x21, (uint8_t)~unmasked), outb(r, 0xa1, (uint8_t) ~(unmasked >> 8));
}

#endif
