/* From the machine to its ACPI tables in fw_cfg. Tables are made at start and once more whenever firmware selects them,
 * for the PM base, MMCONFIG and PCI windows are where firmware has put them by then. */
#include "board/x86/pc_int.h"

#include "base/bytes.h"
#include "base/str.h"
#include "board/x86/acpi.h"
#include "hw/intc/apic.h"

/* The directory announces sizes before firmware selects the file: room for what may appear meanwhile. */
enum { TABLES_ROOM = 128 << 10, LOADER_ROOM = 16 << 10, PM_BASE_DEFAULT = 0x600, MAX_USER_TABLE = 1 << 20 };

/* ---- what the machine has ---- */

static void count_dev(struct dev *d, void *opaque)
{
    struct acpi_info *in = opaque;
    const char *name = d->obj.cls->name;
    char AUTOFREE *val = NULL;
    uint64_t n;

    if (!strcmp(name, "isa-serial") || !strcmp(name, "isa-parallel")) {
        val = obj_get(&d->obj, "index", NULL);
        if (val && str_to_u64(val, &n) && n < 4)
            *(name[4] == 's' ? &in->serial_mask : &in->parallel_mask) |= (uint8_t)(1 << n);
    } else if (!strcmp(name, "pvpanic")) {
        val = obj_get(&d->obj, "ioport", NULL);
        if (val && str_to_u64(val, &n) && n && n < 0xffff)
            in->pvpanic_port = (uint16_t)n;
    }
}

/* Slots of the root bus whose device may leave, or which are empty. */
static uint32_t hotplug_slots(const struct pc *p)
{
    uint32_t slots = 0;

    for (unsigned s = 1; s < 32; s++) {
        const struct pci_dev *d = p->north.bus->slot[PCI_DEVFN(s, 0)];

        if (!d || (dev_class(&d->dev)->hotplug && !pci_class(d)->is_bridge))
            slots |= UINT32_C(1) << s;
    }
    return slots;
}

/* One memory range of a node, cut at the legacy hole and at 4 GiB. */
static void add_mem(struct acpi_info *in, unsigned node, uint64_t base, uint64_t end)
{
    if (base >= end || in->nr_mem == ACPI_MAX_MEM)
        return;
    in->mem[in->nr_mem].base = base;
    in->mem[in->nr_mem].len = end - base;
    in->mem[in->nr_mem++].node = (uint8_t)node;
}

static void numa_info(const struct pc *p, struct acpi_info *in)
{
    uint64_t at = 0;

    in->nr_nodes = p->numa.nodes;
    for (unsigned i = 0; i < p->numa.nodes; i++) {
        uint64_t end = at + p->numa.mem[i], cut = min_u64(end, p->below_4g);

        if (at == 0 && cut > MIB) {
            add_mem(in, i, 0, 640 * KIB);
            add_mem(in, i, MIB, cut);
        } else {
            add_mem(in, i, at, cut);
        }
        if (end > p->below_4g)
            add_mem(in, i, 4 * GIB + (max_u64(at, p->below_4g) - p->below_4g), 4 * GIB + (end - p->below_4g));
        at = end;
    }
}

static void cpu_info(const struct pc *p, struct acpi_info *in)
{
    in->nr_cpus = p->max_cpus;
    for (unsigned i = 0; i < p->max_cpus; i++) {
        in->apic_id[i] = (uint8_t)p->apic_id[i];
        in->node[i] = p->cpu_node[i];
    }
    for (unsigned i = 0; i < p->m->nr_cpus && i < p->max_cpus; i++)
        in->present[p->m->cpus[i]->index] = true;
}

static void hw_info(const struct pc *p, struct acpi_info *in)
{
    uint16_t base = acpi_pm_base(p->south.acpi);

    in->pm_base = base ? base : PM_BASE_DEFAULT;
    in->s3 = acpi_pm_has_s3(p->south.acpi);
    in->s4 = acpi_pm_has_s4(p->south.acpi);
    if (in->q35) {
        in->gpe0_blk = in->pm_base + ICH9_GPE0_OFF;
        in->gpe0_len = ICH9_GPE0_LEN;
        in->enable = ICH9_ACPI_ENABLE;
        in->disable = ICH9_ACPI_DISABLE;
        in->s3_typ = ICH9_SLP_TYP_S3;
        in->s4_typ = ICH9_SLP_TYP_S4;
        in->s5_typ = ICH9_SLP_TYP_S5;
        in->cpuhp_base = CPUHP_Q35_BASE;
        q35_mmcfg(&p->north, &in->mmcfg_base, &in->mmcfg_size);
        return;
    }
    in->gpe0_blk = PIIX4_GPE0_BLK;
    in->gpe0_len = PIIX4_GPE0_LEN;
    in->enable = PIIX4_ACPI_ENABLE;
    in->disable = PIIX4_ACPI_DISABLE;
    in->s3_typ = PIIX4_SLP_TYP_S3;
    in->s4_typ = PIIX4_SLP_TYP_S4;
    in->s5_typ = PIIX4_SLP_TYP_S5;
    in->pcihp_base = PCIHP_PC_BASE;
    in->cpuhp_base = CPUHP_PC_BASE;
    in->hotplug_slots = hotplug_slots(p);
}

static void pad_copy(char *to, const char *from, size_t n)
{
    memset(to, ' ', n);
    memcpy(to, from, min_u64(strlen(from), n));
}

static void collect(const struct pc *p, struct acpi_info *in)
{
    pad_copy(in->oem_id, p->oem_id ? p->oem_id : "LYRBRD", sizeof in->oem_id);
    pad_copy(in->oem_table_id, p->oem_table_id ? p->oem_table_id : "LYREBIRD", sizeof in->oem_table_id);
    in->q35 = p->kind == PC_Q35;
    in->hpet = p->south.hpet != NULL;
    in->kbc = p->south.kbc != NULL;
    in->rtc = p->south.rtc != NULL;
    in->floppy = p->floppy != NULL;
    in->fw_cfg = true;
    in->lo_start = (uint32_t)p->below_4g;
    north_hole64(&p->north, &in->hi_start, &in->hi_end);
    in->user = p->user_tables;
    in->user_len = p->user_tables_len;
    machine_each_dev(p->m, count_dev, in);
    hw_info(p, in);
    cpu_info(p, in);
    numa_info(p, in);
}

/* ---- publishing ---- */

static bool publish(struct pc *p, struct err **errp)
{
    struct acpi_info *in = xnew(struct acpi_info);
    struct acpi_blobs b = {0};
    bool ok;

    collect(p, in);
    acpi_build(in, &b);
    free(in);
    if (b.tables.len < TABLES_ROOM)
        aml_zero(&b.tables, TABLES_ROOM - b.tables.len);
    else
        aml_zero(&b.tables, align_up(b.tables.len, TABLES_ROOM) - b.tables.len);
    aml_zero(&b.loader, align_up(b.loader.len, LOADER_ROOM) - b.loader.len);
    ok = fw_cfg_add_file(p->fw, "etc/acpi/tables", b.tables.p, b.tables.len, errp) &&
         fw_cfg_add_file(p->fw, "etc/acpi/rsdp", b.rsdp.p, b.rsdp.len, errp) &&
         fw_cfg_add_file(p->fw, "etc/table-loader", b.loader.p, b.loader.len, errp);
    acpi_blobs_free(&b);
    return ok;
}

static void publish_again(void *opaque)
{
    publish(opaque, NULL);
}

bool pc_setup_acpi(struct pc *p, struct err **errp)
{
    static const char *const files[] = {"etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"};

    if (!p->south.acpi) /* isapc, acpi=off */
        return !p->cfg->acpi_tables || !*p->cfg->acpi_tables || err_set(errp, "-acpitable: this machine has no ACPI");
    if (!pc_load_acpi_tables(p, p->cfg->acpi_tables, errp) || !publish(p, errp))
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(files); i++)
        fw_cfg_on_select(p->fw, files[i], publish_again, p);
    return true;
}

/* ---- -acpitable ---- */

static bool header_text(struct opts *o, const char *key, uint8_t *at, size_t len, struct err **errp)
{
    const char *v = opts_get(o, key);

    if (v && strlen(v) > len)
        return err_set(errp, "-acpitable: %s='%s' has more than %zu bytes", key, v, len);
    if (v)
        pad_copy((char *)at, v, len);
    return true;
}

static bool header_number(struct opts *o, const char *key, uint8_t *at, unsigned size, struct err **errp)
{
    uint64_t v;

    if (!opts_peek(o, key))
        return true;
    if (!opts_u64(o, key, &v, errp))
        return false;
    put_le(at, v, size);
    return true;
}

static bool set_header(struct opts *o, uint8_t *t, size_t len, struct err **errp)
{
    put_le32(t + 4, (uint32_t)len);
    return header_text(o, "sig", t, 4, errp) && header_number(o, "rev", t + 8, 1, errp) &&
           header_text(o, "oem_id", t + 10, 6, errp) && header_text(o, "oem_table_id", t + 16, 8, errp) &&
           header_number(o, "oem_rev", t + 24, 4, errp) && header_text(o, "asl_compiler_id", t + 28, 4, errp) &&
           header_number(o, "asl_compiler_rev", t + 32, 4, errp);
}

/* The files of one option, joined; `:` separates them. */
static bool read_parts(const char *list, struct aml *out, struct err **errp)
{
    while (*list) {
        size_t n = strcspn(list, ":"), len;
        char AUTOFREE *path = xstrndup(list, n);
        uint8_t AUTOFREE *data = pc_read_file(path, "ACPI table", MAX_USER_TABLE, &len, errp);

        if (!data)
            return false;
        aml_bytes(out, data, len);
        list += n + (list[n] == ':');
    }
    return true;
}

static bool load_table(struct opts *o, struct aml *out, struct err **errp)
{
    static const char *const known[] = {
        "sig", "rev", "oem_id", "oem_table_id", "oem_rev", "asl_compiler_id", "asl_compiler_rev", "file", "data", NULL};
    const char *file = opts_get(o, "file"), *data = opts_get(o, "data");
    size_t start = out->len;

    if (!file == !data)
        return err_set(errp, "-acpitable needs one of file= (with header) and data= (without)");
    if (data) {
        aml_zero(out, 36);
        memcpy(out->p + start, "QEMU", 4);
        out->p[start + 8] = 1;
        pad_copy((char *)out->p + start + 10, "LYRBRD", 6);
        pad_copy((char *)out->p + start + 16, "LYREBIRD", 8);
    }
    if (!read_parts(file ? file : data, out, errp))
        return false;
    if (out->len - start < 36)
        return err_set(errp, "ACPI table '%s' is shorter than a table header", file);
    for (size_t i = start; file && i < start + 4; i++)
        if (!((out->p[i] >= 'A' && out->p[i] <= 'Z') || (out->p[i] >= '0' && out->p[i] <= '9') || out->p[i] == '_'))
            return err_set(errp, "ACPI table '%s' does not begin with a signature such as SSDT", file);
    return set_header(o, out->p + start, out->len - start, errp) && opts_done(o, "-acpitable", known, errp);
}

bool pc_load_acpi_tables(struct pc *p, struct opts **list, struct err **errp)
{
    struct aml all = {0};

    for (; list && *list; list++)
        if (!load_table(*list, &all, errp)) {
            aml_free(&all);
            return false;
        }
    p->user_tables = all.p;
    p->user_tables_len = all.len;
    return true;
}
