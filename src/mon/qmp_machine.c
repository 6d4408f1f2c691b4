/* QMP commands about boards, CPUs, memory, objects and devices. */
#include "blk/secret.h"
#include "cpu/x86.h"
#include "guest/x86/cpuid.h"
#include "hw/pci/pci.h"
#include "hw/virtio/balloon.h"
#include "mon/mon_int.h"
#include "mon/qmp_gen.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

bool qmp_query_machines(struct mon *m, struct json_object **ret, struct err **errp)
{
    const struct board_class *b = NULL;

    *ret = json_object_new_array();
    while ((b = board_next(m->set->cfg.arch, b))) {
        struct json_object *o =
            json_make("b:hotpluggable-cpus", b->cpu_plug != NULL, "s:name", b->machine, "b:numa-mem-supported", false,
                      "s:default-cpu-type", NULL, "i:cpu-max", (int64_t)(b->max_cpus ? b->max_cpus : 1), "b:deprecated",
                      b->deprecated != NULL, "s:alias", b->alias, NULL);

        if (b->is_default)
            json_object_object_add(o, "is-default", json_object_new_boolean(true));
        if (b->default_cpu) {
            AUTOFREE char *type = xasprintf("%s-%s-cpu", b->default_cpu, m->set->cfg.arch);

            json_object_object_add(o, "default-cpu-type", json_object_new_string(type));
            json_object_object_add(o, "default-ram-id", json_object_new_string("pc.ram"));
        }
        json_object_array_add(*ret, o);
    }
    return true;
}

bool qmp_query_current_machine(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_make("b:wakeup-suspend-support", !list_empty(&mon_machine(m)->wakeup_handlers), NULL);
    return true;
}

static struct json_object *cpu_props(const struct mon_set *s, unsigned index)
{
    const struct board_cfg *c = s->cfg.cfg;
    unsigned t = c->smp.threads ? c->smp.threads : 1, k = c->smp.cores ? c->smp.cores : 1,
             d = c->smp.dies ? c->smp.dies : 1;

    return json_make("i:core-id", (int64_t)(index / t % k), "i:thread-id", (int64_t)(index % t), "i:die-id",
                     (int64_t)(index / (t * k) % d), "i:socket-id", (int64_t)(index / (t * k * d)), NULL);
}

/* "MODEL-ARCH-cpu" of the CPUs in use. Caller frees. */
static char *cpu_type(const struct mon_set *s)
{
    const char *model = s->cfg.cfg->cpu_model ? s->cfg.cfg->cpu_model : s->cfg.board->default_cpu;

    return xasprintf("%.*s-%s-cpu", model ? (int)strcspn(model, ",") : 0, model ? model : "", s->cfg.arch);
}

/* CPUs that stand in the object tree have a path; others are named after their place. Caller frees. */
static char *cpu_path(struct vcpu *c)
{
    return c->obj.parent ? obj_path(&c->obj) : xasprintf("/machine/unattached/cpu[%u]", c->index);
}

bool qmp_query_cpus_fast(struct mon *m, struct json_object **ret, struct err **errp)
{
    struct machine *mm = mon_machine(m);

    *ret = json_object_new_array();
    for (unsigned i = 0; i < mm->nr_cpus; i++) {
        AUTOFREE char *path = cpu_path(mm->cpus[i]);

        json_object_array_add(*ret, json_make("i:thread-id", (int64_t)mm->cpus[i]->tid, "o:props", cpu_props(m->set, i),
                                              "s:qom-path", path, "s:target", m->set->cfg.arch, "i:cpu-index",
                                              (int64_t)i, NULL));
    }
    return true;
}

bool qmp_query_hotpluggable_cpus(struct mon *m, struct json_object **ret, struct err **errp)
{
    struct machine *mm = mon_machine(m);
    unsigned max = m->set->cfg.cfg->smp.maxcpus;
    AUTOFREE char *type = cpu_type(m->set);

    *ret = json_object_new_array();
    if (!mm->nr_cpus)
        return err_set(errp, "machine does not support hot-plugging CPUs");
    for (unsigned i = max; i-- > 0;) {
        AUTOFREE char *path = i < mm->nr_cpus ? cpu_path(mm->cpus[i]) : NULL;

        json_object_array_add(*ret, json_make("o:props", cpu_props(m->set, i), "i:vcpus-count", (int64_t)1,
                                              "s:qom-path", path, "s:type", type, NULL));
    }
    return true;
}

bool qmp_query_memory_size_summary(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_make("u:base-memory", mon_machine(m)->ram_size, "u:plugged-memory", UINT64_C(0), NULL);
    return true;
}

bool qmp_query_memory_devices(struct mon *m, struct json_object **ret, struct err **errp)
{
    return true;
}

/* Memory to a file. */

static bool save(struct machine *m, struct vcpu *c, uint64_t addr, int64_t size, const char *file, struct err **errp)
{
    uint8_t buf[4096];
    bool ok = true;
    int fd;

    if (size < 0)
        return err_set(errp, "Parameter 'size' expects a positive number");
    fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(errp, errno, "Could not open '%s'", file);
    while (ok && size > 0) {
        uint64_t n = min_u64(size, sizeof buf - (addr & (sizeof buf - 1)));
        gpa_t pa = addr;

        if (c && !c->arch->debug_translate(c, addr, &pa))
            ok = err_set(errp, "Invalid addr 0x%016" PRIx64 "/size %" PRIi64 " specified", addr, size);
        else if (mem_read(m->mem, pa, buf, n), write(fd, buf, n) != (ssize_t)n)
            ok = err_set_errno(errp, errno, "cannot write '%s'", file);
        addr += n;
        size -= (int64_t)n;
    }
    close(fd);
    return ok;
}

bool qmp_memsave(struct mon *m, const struct qmp_args_memsave *a, struct err **errp)
{
    struct machine *mm = mon_machine(m);
    uint64_t i = a->has_cpu_index ? (uint64_t)a->cpu_index : 0;
    bool ok;

    if (i >= mm->nr_cpus)
        return err_set(errp, "Parameter 'cpu-index' expects a CPU number");
    mon_freeze(mm);
    ok = save(mm, mm->cpus[i], (uint64_t)a->val, a->size, a->filename, errp);
    mon_thaw(mm);
    return ok;
}

bool qmp_pmemsave(struct mon *m, const struct qmp_args_pmemsave *a, struct err **errp)
{
    return save(mon_machine(m), NULL, (uint64_t)a->val, a->size, a->filename, errp);
}

bool qmp_inject_nmi(struct mon *m, struct err **errp)
{
    struct machine *mm = mon_machine(m);

    if (!mm->nr_cpus)
        return err_set(errp, "this machine has no CPU to interrupt");
    for (unsigned i = 0; i < mm->nr_cpus; i++)
        vcpu_raise(mm->cpus[i], X86_PIN_NMI);
    return true;
}

/* Balloon. */

static struct dev *balloon(struct mon *m, struct err **errp)
{
    struct dev *d = balloon_find(mon_machine(m));

    if (!d)
        err_set_class(errp, ERR_DEVICE_NOT_ACTIVE, "No balloon device has been activated");
    return d;
}

bool qmp_balloon(struct mon *m, const struct qmp_args_balloon *a, struct err **errp)
{
    struct dev *d = balloon(m, errp);

    if (!d)
        return false;
    if (a->value <= 0)
        return err_set(errp, "Parameter 'target' expects a size");
    return balloon_set_target(d, a->value, errp);
}

bool qmp_query_balloon(struct mon *m, struct json_object **ret, struct err **errp)
{
    struct dev *d = balloon(m, errp);

    if (d)
        *ret = json_make("i:actual", (int64_t)balloon_actual(d), NULL);
    return d != NULL;
}

/* The object tree. */

static struct obj *at_path(struct mon *m, const char *path, struct err **errp)
{
    struct obj *o = obj_resolve(mon_machine(m)->root, path);

    if (!o)
        err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", path);
    return o;
}

static const char *prop_type_name(const struct prop *p)
{
    return p->type->name;
}

bool qmp_qom_list(struct mon *m, const struct qmp_args_qom_list *a, struct json_object **ret, struct err **errp)
{
    struct obj *o = at_path(m, a->path, errp), *c;

    if (!o)
        return false;
    *ret = json_object_new_array();
    json_object_array_add(*ret, json_make("s:name", "type", "s:type", "string", NULL));
    for (const struct prop *p = NULL; (p = obj_prop_next(o->cls, p));)
        json_object_array_add(*ret, json_make("s:name", p->name, "s:type", prop_type_name(p), NULL));
    list_each (c, &o->children, sibling) {
        AUTOFREE char *type = xasprintf("child<%s>", c->cls->name);

        json_object_array_add(*ret, json_make("s:name", c->name, "s:type", type, NULL));
    }
    return true;
}

bool qmp_qom_get(struct mon *m, const struct qmp_args_qom_get *a, struct json_object **ret, struct err **errp)
{
    struct obj *o = at_path(m, a->path, errp), *c;

    if (!o)
        return false;
    if (!strcmp(a->property, "type")) {
        *ret = json_object_new_string(o->cls->name);
        return true;
    }
    if (obj_class_is(o->cls, "device") && (!strcmp(a->property, "realized") || !strcmp(a->property, "hotplugged"))) {
        const struct dev *d = container_of(o, struct dev, obj);

        *ret = json_object_new_boolean(*a->property == 'r' ? d->realized : d->hotplugged);
        return true;
    }
    if ((c = obj_child(o, a->property))) {
        AUTOFREE char *path = obj_path(c);

        *ret = json_object_new_string(path);
        return true;
    }
    if (!obj_prop_find(o->cls, a->property))
        return err_set(errp, "Property '%s.%s' not found", o->cls->name, a->property);
    *ret = obj_get_json(o, a->property, NULL);
    if (!*ret)
        *ret = json_object_new_string("");
    return true;
}

bool qmp_qom_set(struct mon *m, const struct qmp_args_qom_set *a, struct err **errp)
{
    struct obj *o = at_path(m, a->path, errp);
    const char *text;

    if (!o)
        return false;
    if (!obj_prop_find(o->cls, a->property))
        return err_set(errp, "Property '%s.%s' not found", o->cls->name, a->property);
    if (obj_class_is(o->cls, "device") && container_of(o, struct dev, obj)->realized)
        return err_set(errp, "Attempt to set property '%s' on device '%s' (type '%s') after it was realized",
                       a->property, o->name ? o->name : "", o->cls->name);
    text = json_object_is_type(a->value, json_type_boolean) ? json_object_get_boolean(a->value) ? "on" : "off"
                                                            : json_object_get_string(a->value);
    return obj_set(o, a->property, text ? text : "", errp);
}

static bool is_abstract(const struct obj_class *c)
{
    return !c->size;
}

bool qmp_qom_list_types(struct mon *m, const struct qmp_args_qom_list_types *a, struct json_object **ret,
                        struct err **errp)
{
    *ret = json_object_new_array();
    for (const struct obj_class *c = NULL; (c = obj_class_next(c));) {
        struct json_object *o;

        if ((a->implements && !obj_class_is(c, a->implements)) || (a->has_abstract && !a->abstract && is_abstract(c)))
            continue;
        o = json_make("s:name", c->name, "s:parent", c->parent ? c->parent : "object", NULL);
        if (is_abstract(c))
            json_object_object_add(o, "abstract", json_object_new_boolean(true));
        json_object_array_add(*ret, o);
    }
    return true;
}

static struct json_object *class_props(const struct obj_class *c)
{
    struct json_object *list = json_object_new_array();

    for (const struct prop *p = NULL; (p = obj_prop_next(c, p));) {
        struct json_object *o =
            json_make("s:name", p->name, "s:type", prop_type_name(p), "s:description", p->help, NULL);
        bool b;
        int64_t n;

        if (p->dflt && p->type == &prop_bool && str_to_bool(p->dflt, &b))
            json_object_object_add(o, "default-value", json_object_new_boolean(b));
        else if (p->dflt && str_to_i64(p->dflt, &n))
            json_object_object_add(o, "default-value", json_object_new_int64(n));
        else if (p->dflt)
            json_object_object_add(o, "default-value", json_object_new_string(p->dflt));
        json_object_array_add(list, o);
    }
    return list;
}

bool qmp_qom_list_properties(struct mon *m, const struct qmp_args_qom_list_properties *a, struct json_object **ret,
                             struct err **errp)
{
    const struct obj_class *c = obj_class_find(a->typename);

    if (!c)
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Class '%s' not found", a->typename);
    *ret = class_props(c);
    return true;
}

bool qmp_device_list_properties(struct mon *m, const struct qmp_args_device_list_properties *a,
                                struct json_object **ret, struct err **errp)
{
    const struct obj_class *c = obj_class_find(a->typename);

    if (!c)
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", a->typename);
    if (!obj_class_is(c, "device") || is_abstract(c))
        return err_set(errp, "Parameter 'typename' expects a non-abstract device type");
    *ret = class_props(c);
    return true;
}

/* Devices and objects by their arguments. */

static struct opts *args_opts(struct json_object *args, struct err **errp)
{
    return opts_parse(json_object_to_json_string_ext(args, JSON_C_TO_STRING_NOSLASHESCAPE), NULL, errp);
}

bool qmp_device_add(struct mon *m, struct json_object *args, struct err **errp)
{
    struct opts *o = args_opts(args, errp);
    bool ok = o && dev_create(mon_machine(m), o, errp);

    opts_free(o);
    return ok;
}

bool qmp_device_del(struct mon *m, const struct qmp_args_device_del *a, struct err **errp)
{
    struct dev *d = mon_find_dev(m->set, a->id, errp);

    return d && dev_unplug(d, errp);
}

bool qmp_object_add(struct mon *m, struct json_object *args, struct err **errp)
{
    struct opts *o = args_opts(args, errp);
    bool ok = o && (mon_machine(m) ? mon_object_add(mon_machine(m), o, errp)
                                   : blk_object_add_opts(m->set->cfg.blks, o, errp));

    opts_free(o);
    return ok;
}

bool qmp_object_del(struct mon *m, const struct qmp_args_object_del *a, struct err **errp)
{
    struct obj *o = obj_child(mon_machine(m) ? mon_machine(m)->objects : blk_objects(m->set->cfg.blks), a->id);

    if (!o)
        return err_set(errp, "object '%s' not found", a->id);
    if (o->refs > 1) {
        AUTOFREE char *who = blk_throttle_users(m->set->cfg.blks, o);

        return err_set(errp, "object '%s' is in use, can not be deleted%s%s", a->id, who ? "; it is used by " : "",
                       who ? who : "");
    }
    obj_unparent(o);
    return true;
}

/* PCI. */

struct pci_walk {
    struct json_object *buses; /* array of PciInfo */
};

static struct json_object *bus_entry(struct pci_walk *w, int64_t nr)
{
    struct json_object *o;

    for (size_t i = 0; i < json_object_array_length(w->buses); i++) {
        o = json_object_array_get_idx(w->buses, i);
        if (json_get_int(o, "bus", -1) == nr)
            return o;
    }
    o = json_make("i:bus", nr, "o:devices", json_object_new_array(), NULL);
    json_object_array_add(w->buses, o);
    return o;
}

static struct json_object *regions(const struct pci_dev *p)
{
    struct json_object *list = json_object_new_array();

    for (int i = 0; i < 7; i++) {
        bool io = p->bar_type[i] & PCI_BAR_IO;
        struct json_object *o;

        if (!p->bar[i])
            continue;
        o = json_make("i:bar", (int64_t)i, "s:type", io ? "io" : "memory", "i:address", (int64_t)p->bar_addr[i],
                      "i:size", (int64_t)p->bar[i]->size, NULL);
        if (!io) {
            json_object_object_add(o, "prefetch", json_object_new_boolean(p->bar_type[i] & PCI_BAR_PREFETCH));
            json_object_object_add(o, "mem_type_64", json_object_new_boolean(p->bar_type[i] & PCI_BAR_MEM64));
        }
        json_object_array_add(list, o);
    }
    return list;
}

static struct json_object *pci_function(const struct pci_dev *p)
{
    unsigned class_id = p->config[PCI_CLASS_DEVICE] | p->config[PCI_CLASS_DEVICE + 1] << 8;
    unsigned vendor = p->config[0] | p->config[1] << 8, device = p->config[2] | p->config[3] << 8;
    const struct pci_bus *b = pci_dev_bus(p);

    return json_make("i:bus", (int64_t)b->nr, "i:slot", (int64_t)(p->devfn >> 3), "i:function", (int64_t)(p->devfn & 7),
                     "o:class_info", json_make("i:class", (int64_t)class_id, "s:desc", p->dev.obj.cls->desc, NULL),
                     "o:id", json_make("i:device", (int64_t)device, "i:vendor", (int64_t)vendor, NULL), "i:irq",
                     (int64_t)p->config[PCI_INTERRUPT_LINE], "i:irq_pin", (int64_t)p->config[PCI_INTERRUPT_PIN],
                     "s:qdev_id", p->dev.id ? p->dev.id : "", "o:regions", regions(p), NULL);
}

static void add_function(struct dev *d, void *opaque)
{
    struct pci_walk *w = opaque;
    const struct pci_dev *p = (const struct pci_dev *)d;

    if (!d->bus || strcmp(d->bus->cls->type, "PCI") || !p->config)
        return;
    json_object_array_add(json_get(bus_entry(w, pci_dev_bus(p)->nr), "devices"), pci_function(p));
}

bool qmp_query_pci(struct mon *m, struct json_object **ret, struct err **errp)
{
    struct pci_walk w = {json_object_new_array()};

    machine_each_dev(mon_machine(m), add_function, &w);
    *ret = w.buses;
    return true;
}
