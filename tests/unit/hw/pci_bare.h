/* A bare machine with RAM and one PCI bus, and the accesses firmware makes: for tests of single PCI devices. */
#ifndef TESTS_UNIT_HW_PCI_BARE_H
#define TESTS_UNIT_HW_PCI_BARE_H

#include "unit.h"

#include "aud/aud.h"
#include "base/bytes.h"
#include "blk/blk.h"
#include "chr/chr.h"
#include "hw/pci/pci.h"
#include "net/net.h"
#include <stdio.h>

enum { BARE_RAM = 4 << 20 };
#define BARE_MMIO 0xe0000000ull /* where BARs are put */

struct bare_host {
    struct dev dev;
    struct pci_bus bus;
};
static bool bare_host_realize(struct dev *d, struct err **errp)
{
    struct bare_host *h = container_of(d, struct bare_host, dev);

    pci_bus_init(&h->bus, d, "pci.0", &dev_machine(d)->sysmem, &dev_machine(d)->sysio, 0, false);
    return true;
}
static const struct dev_class bare_host_class = {
    .name = "bare-host", .size = sizeof(struct bare_host), .realize = bare_host_realize, .board_only = true};
DEV_REGISTER(bare_host_class)

struct bare {
    struct run *run;
    struct machine *m;
    struct mem_region ram;
    uint8_t *mem;
    struct pci_bus *bus;
    struct net_set *net;
    struct aud_set *aud;
    struct blk_set *blk;
    struct chr_set *chr; /* goes with the machine's tree */
    int irq;             /* level of the router's input */
};

static void bare_irq(void *opaque, int n, int level)
{
    ((struct bare *)opaque)->irq = level;
}

static UNUSED struct bare *bare_new(void)
{
    struct bare *b = xnew(struct bare);
    struct dev *h;

    b->run = run_new();
    clk_resume(b->run->virt);
    b->m = machine_new(b->run);
    b->m->ram_size = BARE_RAM;
    b->m->max_cpus = 1;
    mem_region_init_ram(&b->ram, b->m->mem_sys, "ram", BARE_RAM, NULL);
    mem_region_add(&b->m->sysmem, 0, &b->ram);
    b->mem = mem_region_ptr(&b->ram);
    b->net = net_set_new(b->run);
    net_set_bind(b->net, b->m);
    b->aud = aud_set_new(b->run);
    aud_set_bind(b->aud, b->m);
    b->blk = blk_set_new(b->run);
    blk_set_bind(b->blk, b->m);
    b->chr = chr_set_new(b->run, b->m->root);
    chr_set_bind(b->chr, b->m);
    h = dev_new(b->m, "bare-host", NULL);
    assert_true(dev_realize(h, NULL, NULL, NULL));
    b->bus = &container_of(h, struct bare_host, dev)->bus;
    b->bus->set_irq = bare_irq;
    b->bus->irq_opaque = b;
    return b;
}

static UNUSED void bare_free(struct bare *b)
{
    b->m->state = RS_PAUSED;
    machine_free(b->m);
    net_set_free(b->net);
    aud_set_free(b->aud);
    blk_set_free(b->blk);
    run_free(b->run);
    free(b);
}

/* -device text; fails the test with the message. */
static UNUSED struct pci_dev *bare_device(struct bare *b, const char *text)
{
    struct err *e = NULL;
    struct opts *o = opts_parse(text, "driver", &e);
    struct dev *d = o ? dev_create(b->m, o, &e) : NULL;

    opts_free(o);
    if (!d)
        fail_msg("%s: %s", text, e ? e->msg : "?");
    return container_of(d, struct pci_dev, dev);
}

/* -device text that must be refused; a part of the message. */
static UNUSED void bare_refuses(struct bare *b, const char *text, const char *part)
{
    struct err *e = NULL;
    struct opts *o = opts_parse(text, "driver", NULL);
    struct dev *d = dev_create(b->m, o, &e);

    opts_free(o);
    assert_null(d);
    if (!e || !strstr(e->msg, part))
        fail_msg("%s: \"%s\" does not say \"%s\"", text, e ? e->msg : "", part);
    err_free(e);
}

/* What follows -device on a real command line: reset, run. */
static UNUSED void bare_start(struct bare *b)
{
    machine_reset(b->m);
    b->m->state = RS_RUNNING;
}

static UNUSED void bare_map(struct pci_dev *d, unsigned bar, uint64_t addr)
{
    struct pci_bus *bus = pci_dev_bus(d);

    pci_cfg_write(bus, 0, d->devfn, PCI_BAR0 + 4 * bar, addr, 4);
    if (d->bar_type[bar] & PCI_BAR_MEM64)
        pci_cfg_write(bus, 0, d->devfn, PCI_BAR0 + 4 * bar + 4, addr >> 32, 4);
    pci_cfg_write(bus, 0, d->devfn, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

/* Turns the loop until *word is not `old` any more, two seconds at most. */
static UNUSED bool bare_wait16(struct bare *b, gpa_t word, uint16_t old)
{
    int64_t end = clk_now(b->run->real) + 2 * NS_PER_SEC;

    while (get_le16(b->mem + word) == old && clk_now(b->run->real) < end)
        ev_loop_turn(b->run->loop, NS_PER_MS);
    return get_le16(b->mem + word) != old;
}

static UNUSED void bare_turns(struct bare *b, unsigned n)
{
    while (n--)
        ev_loop_turn(b->run->loop, NS_PER_MS);
}

#endif
