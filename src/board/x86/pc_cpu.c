/* Processors of the PC boards: model, topology, APIC ids, creation at start and later. */
#include "board/x86/pc_int.h"

#include "accel/accel.h"
#include "base/str.h"
#include "hw/intc/apic.h"

static unsigned width_for(unsigned n)
{
    unsigned w = 0;

    while ((1u << w) < n)
        w++;
    return w;
}

/* APIC ids hold thread, core, die and package numbers in fields of whole bits (SDM vol. 3, 8.9). */
static uint32_t apic_id_of(const struct pc *p, unsigned cpu)
{
    unsigned tw = width_for(p->topo.threads), cw = width_for(p->topo.cores), dw = width_for(p->topo.dies);
    unsigned thread = cpu % p->topo.threads, core = cpu / p->topo.threads % p->topo.cores;
    unsigned die = cpu / p->topo.threads / p->topo.cores % p->topo.dies;
    unsigned package = cpu / p->topo.threads / p->topo.cores / p->topo.dies;

    return thread | core << tw | die << (tw + cw) | package << (tw + cw + dw);
}

static bool setup_topology(struct pc *p, struct err **errp)
{
    struct board_cfg *c = p->cfg;

    p->topo.sockets = c->smp.sockets ? c->smp.sockets : 1;
    p->topo.dies = c->smp.dies ? c->smp.dies : 1;
    p->topo.cores = c->smp.cores ? c->smp.cores : 1;
    p->topo.threads = c->smp.threads ? c->smp.threads : 1;
    p->max_cpus = (unsigned)max_u64(c->smp.maxcpus, max_u64(c->smp.cpus, 1));
    if (p->max_cpus > p->cls->max_cpus)
        return err_set(errp, "machine %s takes at most %u CPUs, %u were asked for", p->cls->machine, p->cls->max_cpus,
                       p->max_cpus);
    p->apic_id = xcalloc(p->max_cpus, sizeof p->apic_id[0]);
    p->cpu_node = xcalloc(p->max_cpus, 1);
    for (unsigned i = 0; i < p->max_cpus; i++)
        p->apic_id[i] = apic_id_of(p, i);
    p->apic_id_limit = p->apic_id[p->max_cpus - 1] + 1;
    if (p->apic_id_limit > PC_MAX_CPUS)
        return err_set(errp, "this topology needs APIC ids up to %u, at most %u are possible", p->apic_id_limit - 1,
                       PC_MAX_CPUS - 1);
    return true;
}

/* ---- NUMA ---- */

/* "0-3:5" and repeated lists joined by ':' or ';'. */
static bool assign_cpus(struct pc *p, unsigned node, const char *text, bool *seen, struct err **errp)
{
    while (*text) {
        char *end;
        unsigned long a = strtoul(text, &end, 10), b = a;

        if (end == text)
            return err_set(errp, "numa node %u: '%s' is not a list of CPUs", node, text);
        if (*end == '-')
            b = strtoul(end + 1, &end, 10);
        if (b < a || b >= p->max_cpus)
            return err_set(errp, "numa node %u: CPUs %lu-%lu do not exist (there are %u)", node, a, b, p->max_cpus);
        for (unsigned long i = a; i <= b; i++) {
            if (seen[i])
                return err_set(errp, "CPU %lu is in two NUMA nodes", i);
            seen[i] = true;
            p->cpu_node[i] = (uint8_t)node;
        }
        text = *end ? end + 1 : end;
    }
    return true;
}

static bool setup_numa(struct pc *p, struct err **errp)
{
    struct numa_cfg *n = &p->cfg->numa;
    bool seen[PC_MAX_CPUS] = {false}, any = false;
    uint64_t sum = 0;

    p->numa.nodes = n->nodes;
    for (unsigned i = 0; i < n->nodes; i++) {
        p->numa.mem[i] = n->node[i].mem;
        sum += n->node[i].mem;
        any |= n->node[i].cpus != NULL;
        if (n->node[i].cpus && !assign_cpus(p, i, n->node[i].cpus, seen, errp))
            return false;
    }
    if (!any && n->nodes) /* spread whole packages */
        for (unsigned i = 0; i < p->max_cpus; i++)
            p->cpu_node[i] = (uint8_t)(i / (p->topo.threads * p->topo.cores * p->topo.dies) % n->nodes);
    if (n->nodes && sum != p->cfg->ram_size)
        return err_set(errp, "the NUMA nodes hold %" PRIu64 " MiB together, the machine has %" PRIu64, sum >> 20,
                       p->cfg->ram_size >> 20);
    return true;
}

/* ---- creation ---- */

static bool create_cpu(struct pc *p, unsigned index, struct err **errp)
{
    const struct accel_class *a = machine_accel(p->m);
    struct x86_cpu *c = x86_cpu_new(p->m, errp);

    if (!c)
        return false;
    c->model = p->model;
    c->feat = p->feat;
    c->topo.sockets = p->topo.sockets;
    c->topo.dies = p->topo.dies;
    c->topo.cores = p->topo.cores;
    c->topo.threads = p->topo.threads;
    c->port.apic_id = p->apic_id[index];
    c->port.bsp = index == 0;
    c->port.a20 = true;
    c->port.smram_root = p->north.smram_root;
    c->as_smm = p->smm_as ? p->smm_as : c->vcpu.as;
    if (a && a->vcpu_init && !a->vcpu_init(&c->vcpu, errp))
        return false;
    return p->kind == PC_ISA || apic_create(p->m, &c->vcpu, errp) != NULL;
}

bool pc_create_cpus(struct pc *p, struct err **errp)
{
    const char *text = p->cfg->cpu_model ? p->cfg->cpu_model : p->cls->default_cpu;
    const struct accel_class *a = machine_accel(p->m);
    struct x86_features mask;

    if (!setup_topology(p, errp) || !setup_numa(p, errp))
        return false;
    if (a && a->cpu_features && !a->cpu_features(p->m, &mask, errp))
        return false;
    if (!x86_cpu_parse_model(text, a && a->cpu_features ? &mask : NULL, &p->feat, &p->model, errp))
        return false;
    p->m->max_cpus = p->max_cpus;
    for (unsigned i = 0; i < p->cfg->smp.cpus; i++)
        if (!create_cpu(p, i, errp))
            return false;
    return true;
}

/* A CPU that comes later shares the wires of the first one. */
static void share_wires(struct pc *p, struct vcpu *c)
{
    const struct x86_port *first = x86_port(p->m->cpus[0]);
    struct x86_port *port = x86_port(c);

    port->ferr = first->ferr;
    port->ferr_opaque = first->ferr_opaque;
    port->pic_ack = first->pic_ack;
    port->pic = first->pic;
    port->a20 = first->a20;
}

/* CPUs come in order: the next free number is the only one that can be plugged. */
bool pc_plug_cpu(struct machine *m, unsigned index, struct err **errp)
{
    struct pc *p = pc_of(m);

    if (index >= p->max_cpus)
        return err_set(errp, "CPU %u does not exist: maxcpus is %u", index, p->max_cpus);
    if (index != m->nr_cpus)
        return err_set(
            errp, index < m->nr_cpus ? "CPU %u is already there" : "CPU %u cannot be plugged before those below it",
            index);
    if (!create_cpu(p, index, errp))
        return false;
    share_wires(p, m->cpus[index]);
    m->cpus[index]->arch->reset(m->cpus[index]);
    vcpu_start_thread(m->cpus[index]);
    if (machine_running(m))
        vcpus_resume(m);
    if (p->south.acpi)
        acpi_cpu_plugged(p->south.acpi, index);
    return true;
}
