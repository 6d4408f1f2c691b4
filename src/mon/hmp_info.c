/* `info` of the human monitor. */
#include "accel/accel.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "hw/usb/usb.h"
#include "mon/mon_int.h"
#include "mon/qmp_gen.h"
#include "ui/ui.h"

#define INFO(n)                                                                                                        \
    void n(struct mon *m, struct hmp_args *a);                                                                         \
    void n(struct mon *m, struct hmp_args *a)

INFO(info_status)
{
    struct machine *mm = mon_machine(m);
    enum run_state s = (enum run_state)mm->state;

    mon_printf(m, "VM status: %s", machine_running(mm) ? "running" : "paused");
    if (s != RS_RUNNING && s != RS_PAUSED)
        mon_printf(m, " (%s)", run_state_name(s));
    mon_puts(m, "\n");
    if (m->set->cfg.accel_line)
        mon_printf(m, "%s\n", m->set->cfg.accel_line);
}

INFO(info_version)
{
    mon_printf(m, "%d.%d.%d (Lyrebird %s)\n", MON_QEMU_MAJOR, MON_QEMU_MINOR, MON_QEMU_MICRO, LYREBIRD_VERSION);
}

INFO(info_name)
{
    if (mon_machine(m)->name)
        mon_printf(m, "%s\n", mon_machine(m)->name);
}

INFO(info_uuid)
{
    char s[40];

    mon_uuid_text(mon_machine(m), s);
    mon_printf(m, "%s\n", s);
}

INFO(info_kvm)
{
    struct json_object *r = NULL;

    if (!qmp_query_kvm(m, &r, NULL))
        return;
    mon_printf(m, "kvm support: %s\n",
               json_get_bool(r, "enabled", false)   ? "enabled"
               : json_get_bool(r, "present", false) ? "disabled"
                                                    : "not compiled");
    json_object_put(r);
}

INFO(info_jit)
{
    const struct accel_class *k = machine_accel(mon_machine(m));
    char *text = NULL;

    if (k && k->info) {
        mon_freeze(mon_machine(m));
        text = k->info(mon_machine(m));
        mon_thaw(mon_machine(m));
    }
    mon_printf(m, "accelerator: %s\n", k ? k->name : "none");
    mon_puts_free(m, text);
}

INFO(info_registers)
{
    struct machine *mm = mon_machine(m);
    bool all = a->n && !strcmp(a->v[0], "-a");
    struct err *e = NULL;
    struct vcpu *c = mon_cpu(m, &e);

    if (!c) {
        mon_error(m, e);
        return;
    }
    mon_freeze(mm);
    for (unsigned i = all ? 0 : c->index; i < mm->nr_cpus && (all || i == c->index); i++) {
        const struct accel_class *k = machine_accel(mm);

        if (k && k->get_state)
            k->get_state(mm->cpus[i]);
        if (all)
            mon_printf(m, "\nCPU#%u\n", i);
        mon_puts_free(m, mm->cpus[i]->arch->dump(mm->cpus[i], 0));
    }
    mon_thaw(mm);
}

INFO(info_cpus)
{
    struct machine *mm = mon_machine(m);

    for (unsigned i = 0; i < mm->nr_cpus; i++)
        mon_printf(m, "%c CPU #%u: thread_id=%d%s\n", i == m->cpu ? '*' : ' ', i, mm->cpus[i]->tid,
                   mm->cpus[i]->halted ? " (halted)" : "");
}

INFO(info_mtree)
{
    bool flat = a->n && !strcmp(a->v[0], "-f");
    struct machine *mm = mon_machine(m);

    mon_puts_free(m, mem_space_dump(mm->mem, flat));
    mon_puts(m, "\n");
    mon_puts_free(m, mem_space_dump(mm->io, flat));
}

/* Buses and devices. */

static void show_bus(struct mon *m, const struct bus *b, int indent, bool brief);

static void show_dev(struct mon *m, struct dev *d, int indent, bool brief)
{
    struct bus *b;

    mon_printf(m, "%*sdev: %s, id \"%s\"\n", indent, "", d->obj.cls->name, d->id ? d->id : "");
    for (const struct prop *p = NULL; !brief && (p = obj_prop_next(d->obj.cls, p));) {
        AUTOFREE char *v = obj_get(&d->obj, p->name, NULL);

        mon_printf(m, "%*s%s = %s%s%s\n", indent + 2, "", p->name, p->type == &prop_str || !v ? "\"" : "", v ? v : "",
                   p->type == &prop_str || !v ? "\"" : "");
    }
    for (unsigned i = 0; !brief && i < d->nr_mmio; i++)
        mon_printf(m, "%*smmio %016" PRIx64 "/%016" PRIx64 "\n", indent + 2, "", d->mmio[i]->addr, d->mmio[i]->size);
    list_each (b, &d->buses, sib)
        show_bus(m, b, indent + 2, brief);
}

static void show_bus(struct mon *m, const struct bus *b, int indent, bool brief)
{
    struct dev *d;

    mon_printf(m, "%*sbus: %s\n%*stype %s\n", indent, "", b->name, indent + 2, "", b->cls->type);
    list_each (d, &b->devs, link)
        show_dev(m, d, indent + 2, brief);
}

INFO(info_qtree)
{
    show_bus(m, mon_machine(m)->sysbus, 0, a->n && !strcmp(a->v[0], "-b"));
}

static void show_obj(struct mon *m, struct obj *o, int indent)
{
    struct obj *c;

    mon_printf(m, "%*s/%s (%s)\n", indent, "", o->name ? o->name : "", o->cls->name);
    list_each (c, &o->children, sibling)
        show_obj(m, c, indent + 2);
}

INFO(info_qom_tree)
{
    struct obj *o = a->n ? obj_resolve(mon_machine(m)->root, a->v[0]) : &mon_machine(m)->obj;

    if (o)
        show_obj(m, o, 0);
    else
        mon_printf(m, "Error: Device '%s' not found\n", a->v[0]);
}

/* Back ends. */

INFO(info_block)
{
    bool verbose = a->n && !strcmp(a->v[0], "-v");

    mon_puts_free(m, blk_info(m->set->cfg.blks, verbose, a->n > verbose ? a->v[verbose] : NULL));
}

INFO(info_blockstats)
{
    struct json_object *list = blk_query_stats(m->set->cfg.blks);

    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i), *s = json_get(o, "stats");

        mon_printf(m, "%s:", json_get_str(o, "device") ? json_get_str(o, "device") : "");
        json_object_object_foreach(s, k, v) if (json_object_is_type(v, json_type_int))
            mon_printf(m, " %s=%s", k, json_object_get_string(v));
        mon_puts(m, "\n");
    }
    json_object_put(list);
}

INFO(info_network)
{
    mon_puts_free(m, net_info(m->set->cfg.nets));
}

INFO(info_usernet)
{
    mon_puts_free(m, net_user_info(m->set->cfg.nets));
}

static void show_pic(struct dev *d, void *opaque)
{
    if (!strcmp(d->obj.cls->name, "isa-i8259"))
        mon_puts_free(opaque, pic_info(d));
    else if (!strcmp(d->obj.cls->name, "ioapic"))
        mon_puts_free(opaque, ioapic_info(d));
}

INFO(info_pic)
{
    machine_each_dev(mon_machine(m), show_pic, m);
}

static void show_chr(struct chr *c, void *opaque)
{
    mon_printf(opaque, "%s: filename=%s\n", chr_id(c), chr_label(c));
}

INFO(info_chardev)
{
    chr_each(m->set->cfg.chrs, show_chr, m);
}

static void show_function(struct mon *m, struct json_object *f)
{
    struct json_object *id = json_get(f, "id"), *cls = json_get(f, "class_info"), *regs = json_get(f, "regions");
    const char *name = json_get_str(f, "qdev_id");

    mon_printf(m, "  Bus %2" PRIi64 ", device %3" PRIi64 ", function %" PRIi64 ":\n", json_get_int(f, "bus", 0),
               json_get_int(f, "slot", 0), json_get_int(f, "function", 0));
    mon_printf(m, "    %s: PCI device %04" PRIx64 ":%04" PRIx64 " (class %04" PRIx64 ")\n",
               json_get_str(cls, "desc") ? json_get_str(cls, "desc") : "Device",
               (uint64_t)json_get_int(id, "vendor", 0), (uint64_t)json_get_int(id, "device", 0),
               (uint64_t)json_get_int(cls, "class", 0));
    if (json_get_int(f, "irq_pin", 0))
        mon_printf(m, "      IRQ %" PRIi64 ", pin %c\n", json_get_int(f, "irq", 0),
                   (char)('A' + json_get_int(f, "irq_pin", 1) - 1));
    for (size_t i = 0; i < json_object_array_length(regs); i++) {
        struct json_object *r = json_object_array_get_idx(regs, i);
        uint64_t at = (uint64_t)json_get_int(r, "address", -1), size = (uint64_t)json_get_int(r, "size", 0);
        bool io = !strcmp(json_get_str(r, "type"), "io");

        mon_printf(m, "      BAR%" PRIi64 ": ", json_get_int(r, "bar", 0));
        if (io)
            mon_printf(m, "I/O at 0x%04" PRIx64 " [0x%04" PRIx64 "].\n", at & 0xffffffff, (at + size - 1) & 0xffffffff);
        else
            mon_printf(m, "%d bit%s memory at 0x%08" PRIx64 " [0x%08" PRIx64 "].\n",
                       json_get_bool(r, "mem_type_64", false) ? 64 : 32,
                       json_get_bool(r, "prefetch", false) ? " prefetchable" : "", at, at + size - 1);
    }
    mon_printf(m, "      id \"%s\"\n", name ? name : "");
}

INFO(info_pci)
{
    struct json_object *r = NULL;

    if (!qmp_query_pci(m, &r, NULL))
        return;
    if (!json_object_array_length(r))
        mon_puts(m, "PCI support disabled\n");
    for (size_t i = 0; i < json_object_array_length(r); i++) {
        struct json_object *devs = json_get(json_object_array_get_idx(r, i), "devices");

        for (size_t k = 0; k < json_object_array_length(devs); k++)
            show_function(m, json_object_array_get_idx(devs, k));
    }
    json_object_put(r);
}

static void show_mouse(unsigned index, const char *name, unsigned kinds, bool current, void *opaque)
{
    if (kinds & (UI_POINTER_REL | UI_POINTER_ABS))
        mon_printf(opaque, "%c Mouse #%u: %s%s\n", current ? '*' : ' ', index, name,
                   kinds & UI_POINTER_ABS ? " (absolute)" : "");
}

INFO(info_mice)
{
    ui_input_each(mon_machine(m), show_mouse, m);
}

INFO(info_history)
{
    for (unsigned i = 0; i < m->le.nr_history; i++)
        mon_printf(m, "%u: '%s'\n", i, m->le.history[i]);
}

INFO(info_memsize)
{
    mon_printf(m, "base memory: %" PRIu64 "\nplugged memory: 0\n", mon_machine(m)->ram_size);
}

INFO(info_balloon)
{
    struct err *e = NULL;
    struct json_object *r = NULL;

    if (qmp_query_balloon(m, &r, &e))
        mon_printf(m, "balloon: actual=%" PRIi64 "\n", json_get_int(r, "actual", 0) >> 20);
    else
        mon_error(m, e);
    json_object_put(r);
}

static void show_usb(struct dev *d, void *opaque)
{
    static const char *const mbit[] = {"1.5", "12", "480", "5000"};
    struct usb_dev *u = container_of(d, struct usb_dev, dev);

    if (!obj_class_is(d->obj.cls, "usb-device"))
        return;
    mon_printf(opaque, "  Device %s.%u, Port %u, Speed %s Mb/s, Product %s%s%s\n", strrchr(d->bus->name, '.') + 1,
               u->addr, u->nr + 1, mbit[u->speed], usb_class(u)->strings[usb_class(u)->device_desc[15] - 1],
               d->id ? ", ID: " : "", d->id ? d->id : "");
}

INFO(info_usb)
{
    machine_each_dev(mon_machine(m), show_usb, m);
    if (!bus_find(mon_machine(m), NULL, "USB", NULL))
        mon_puts(m, "USB support not enabled\n");
}

static void show_rom(struct mem_ram *r, void *opaque)
{
    struct mon *m = opaque;

    if (str_starts(r->name, "pc.bios") || str_starts(r->name, "pc.rom") || strstr(r->name, "rom") ||
        strstr(r->name, "flash"))
        mon_printf(m, "size=0x%06" PRIx64 " name=\"%s\"\n", r->size, r->name);
}

INFO(info_roms)
{
    mem_ram_each(mon_machine(m)->mem_sys, show_rom, m);
}

INFO(info_numa)
{
    const struct numa_cfg *n = &m->set->cfg.cfg->numa;

    mon_printf(m, "%u nodes\n", n->nodes);
    for (unsigned i = 0; i < n->nodes; i++)
        mon_printf(m, "node %u cpus: %s\nnode %u size: %" PRIu64 " MB\n", i, n->node[i].cpus ? n->node[i].cpus : "", i,
                   n->node[i].mem >> 20);
}
