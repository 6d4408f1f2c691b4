/* fw_cfg contents of a PC: memory map, boot order and menu, NUMA, sleep states, SMI negotiation, and the user's -fw_cfg
 * items. Names and layouts are those SeaBIOS and OVMF read. */
#include "board/x86/pc_int.h"

#include "base/bytes.h"
#include "base/str.h"

#include <stdio.h>

enum {
    E820_RAM = 1,
    E820_ENTRY = 20,
    FW_CFG_IRQ0_OVERRIDE = 0x8002,
    HPET_TABLE = 121,
    MAX_ITEM = 256 << 20,
    MAX_SPLASH = 16 << 20
};

/* ---- memory ---- */

static bool add_e820(struct pc *p, struct err **errp)
{
    const uint64_t start[2] = {0, 4 * GIB}, len[2] = {p->below_4g, p->above_4g};
    uint8_t t[2 * E820_ENTRY];
    unsigned n = 0;

    for (unsigned i = 0; i < 2; i++) {
        uint8_t *e = t + n * E820_ENTRY;

        if (!len[i])
            continue;
        put_le64(e, start[i]);
        put_le64(e + 8, len[i]);
        put_le32(e + 16, E820_RAM);
        n++;
    }
    return fw_cfg_add_file(p->fw, "etc/e820", t, n * E820_ENTRY, errp);
}

static void add_numa(struct pc *p)
{
    size_t n = 1 + p->apic_id_limit + p->numa.nodes;
    uint8_t *t = xcalloc(n, 8);

    put_le64(t, p->numa.nodes);
    for (unsigned i = 0; i < p->max_cpus; i++)
        put_le64(t + 8 * (1 + p->apic_id[i]), p->cpu_node[i]);
    for (unsigned i = 0; i < p->numa.nodes; i++)
        put_le64(t + 8 * (1 + p->apic_id_limit + i), p->numa.mem[i]);
    fw_cfg_add_key_owned(p->fw, FW_CFG_NUMA, t, n * 8);
}

/* ---- boot order ---- */

struct boot_entry {
    int64_t index;
    char *path; /* owned */
};
struct boot_list {
    struct pc *p;
    struct boot_entry *e;
    unsigned nr;
};

/* What follows a controller's own path component for the thing it boots. */
static const char *boot_suffix(const struct dev *d)
{
    if (dev_class(d)->category == DEV_CAT_NETWORK)
        return "/ethernet-phy@0";
    if (str_starts(d->obj.cls->name, "virtio-blk"))
        return "/disk@0,0";
    return !strcmp(d->obj.cls->name, "nvme") ? "/namespace@1,0" : "";
}

static void add_boot_entry(struct boot_list *l, int64_t index, char *path)
{
    l->e = xrealloc(l->e, (l->nr + 1) * sizeof *l->e);
    l->e[l->nr++] = (struct boot_entry){index, path};
}

static void collect_boot_dev(struct dev *d, void *opaque)
{
    struct boot_list *l = opaque;
    char AUTOFREE *val = NULL, AUTOFREE *path = NULL;
    int64_t index;

    if (!obj_prop_find(d->obj.cls, "bootindex"))
        return;
    val = obj_get(&d->obj, "bootindex", NULL);
    if (!val || !str_to_i64(val, &index) || index < 0)
        return;
    path = dev_fw_path(d); /* the firmware calls the root by its configuration ports */
    add_boot_entry(l, index, xasprintf("/pci@i0cf8%s%s", path, boot_suffix(d)));
}

static int cmp_boot(const void *a, const void *b)
{
    const struct boot_entry *x = a, *y = b;

    return (x->index > y->index) - (x->index < y->index);
}

/* "bootorder": one path per line, NUL at the end; "HALT" forbids anything not listed. */
static bool add_boot_order(struct pc *p, struct err **errp)
{
    struct boot_list l = {.p = p};
    struct strbuf CLEANUP(str_free) s = {0};
    bool ok = true;

    if (p->kernel_rom)
        add_boot_entry(&l, -1, xasprintf("/rom@genroms/%s", p->kernel_rom));
    machine_each_dev(p->m, collect_boot_dev, &l);
    if (l.nr)
        qsort(l.e, l.nr, sizeof *l.e, cmp_boot);
    for (unsigned i = 0; i < l.nr; i++) {
        if (i && l.e[i].index == l.e[i - 1].index && ok)
            ok = err_set(errp, "two devices have bootindex %" PRId64, l.e[i].index);
        str_addf(&s, "%s%s", i ? "\n" : "", l.e[i].path);
        free(l.e[i].path);
    }
    if (p->cfg->boot.strict)
        str_addf(&s, "%sHALT", l.nr ? "\n" : "");
    free(l.e);
    return ok && (!s.len || fw_cfg_add_file(p->fw, "bootorder", s.s, s.len + 1, errp));
}

static bool add_splash(struct pc *p, struct err **errp)
{
    const char *path = p->cfg->boot.splash;
    uint8_t AUTOFREE *image = NULL;
    char AUTOFREE *found = NULL;
    const char *name;
    size_t len;

    if (!path)
        return true;
    found = board_find_file(p->cfg, path);
    image = pc_read_file(found ? found : path, "boot splash", MAX_SPLASH, &len, errp);
    if (!image)
        return false;
    if (len > 2 && image[0] == 0xff && image[1] == 0xd8)
        name = "bootsplash.jpg";
    else if (len > 2 && image[0] == 'B' && image[1] == 'M')
        name = "bootsplash.bmp";
    else
        return err_set(errp, "boot splash '%s' is neither a JPEG nor a BMP picture", path);
    return fw_cfg_add_file(p->fw, name, image, len, errp);
}

static bool add_boot_menu(struct pc *p, struct err **errp)
{
    struct board_cfg *c = p->cfg;
    uint8_t b[4];

    fw_cfg_add_u16(p->fw, FW_CFG_BOOT_MENU, c->boot.menu);
    if (c->boot.splash_time > 0) {
        put_le16(b, (uint16_t)c->boot.splash_time);
        if (!fw_cfg_add_file(p->fw, "etc/boot-menu-wait", b, 2, errp))
            return false;
    }
    put_le32(b, (uint32_t)c->boot.reboot_timeout);
    return fw_cfg_add_file(p->fw, "etc/boot-fail-wait", b, 4, errp) && add_splash(p, errp);
}

/* ---- power and SMM ---- */

/* One byte per sleep state: bit 7 = offered, low bits = SLP_TYP. */
static bool add_system_states(struct pc *p, struct err **errp)
{
    uint8_t s[6] = {128, 0, 0, 1, 2, 128};

    if (!p->south.acpi)
        return true;
    s[3] |= acpi_pm_has_s3(p->south.acpi) ? 128 : 0;
    s[4] |= acpi_pm_has_s4(p->south.acpi) ? 128 : 0;
    return fw_cfg_add_file(p->fw, "etc/system-states", s, sizeof s, errp);
}

/* The firmware asked whether the features it requested are in force: they are when all of them are offered. */
static void smi_features_ok(void *opaque)
{
    struct pc *p = opaque;
    uint64_t want = get_le64(p->smi_requested);
    uint8_t ok = !(want & ~ich9_smi_features(&p->south));

    if (ok)
        ich9_smi_negotiate(&p->south, want);
    fw_cfg_add_file(p->fw, "etc/smi/features-ok", &ok, 1, NULL);
}

static bool add_smi_features(struct pc *p, struct err **errp)
{
    uint8_t b[8], no = 0;

    if (p->kind != PC_Q35 || !p->has_smm)
        return true;
    put_le64(b, ich9_smi_features(&p->south));
    if (!fw_cfg_add_file(p->fw, "etc/smi/supported-features", b, sizeof b, errp) ||
        !fw_cfg_add_writable(p->fw, "etc/smi/requested-features", p->smi_requested, sizeof p->smi_requested, NULL, NULL,
                             errp) ||
        !fw_cfg_add_file(p->fw, "etc/smi/features-ok", &no, 1, errp))
        return false;
    fw_cfg_on_select(p->fw, "etc/smi/features-ok", smi_features_ok, p);
    return true;
}

static void add_hpet(struct pc *p)
{
    uint8_t t[HPET_TABLE] = {0};

    t[0] = p->south.hpet ? 1 : 0;
    put_le32(t + 1, UINT32_C(0x8086a201));
    put_le64(t + 5, HPET_BASE);
    put_le16(t + 13, 100);
    fw_cfg_add_key(p->fw, FW_CFG_HPET, t, sizeof t);
}

/* ---- -fw_cfg ---- */

static bool add_user_item(struct pc *p, struct opts *o, struct err **errp)
{
    static const char *const known[] = {"name", "file", "string", NULL};
    const char *name = opts_get(o, "name"), *file = opts_get(o, "file"), *string = opts_get(o, "string");
    uint8_t AUTOFREE *data = NULL;
    size_t len;

    if (!opts_done(o, "-fw_cfg", known, errp))
        return false;
    if (!name || !file == !string) {
        err_set(errp, "-fw_cfg needs name= and one of file= and string=");
        err_hint(errp, "For example: -fw_cfg name=opt/org.example/key,string=value");
        return false;
    }
    if (string)
        return fw_cfg_add_file(p->fw, name, string, strlen(string), errp);
    data = pc_read_file(file, "fw_cfg file", MAX_ITEM, &len, errp);
    return data && fw_cfg_add_file(p->fw, name, data, len, errp);
}

static bool add_user_items(struct pc *p, struct err **errp)
{
    for (struct opts **o = p->cfg->fw_cfg_items; o && *o; o++)
        if (!add_user_item(p, *o, errp))
            return false;
    return true;
}

bool pc_setup_fw_cfg(struct pc *p, struct err **errp)
{
    struct fw_cfg *f = p->fw;

    fw_cfg_add_key(f, FW_CFG_UUID, p->m->uuid, sizeof p->m->uuid);
    fw_cfg_add_u64(f, FW_CFG_RAM_SIZE, p->below_4g);
    fw_cfg_add_u16(f, FW_CFG_NOGRAPHIC, p->cfg->nographic || !p->graphics);
    fw_cfg_add_u16(f, FW_CFG_NB_CPUS, (uint16_t)p->m->nr_cpus);
    fw_cfg_add_u16(f, FW_CFG_MAX_CPUS, (uint16_t)p->apic_id_limit);
    fw_cfg_add_u32(f, FW_CFG_IRQ0_OVERRIDE, 1);
    add_numa(p);
    add_hpet(p);
    return add_e820(p, errp) && add_boot_menu(p, errp) && add_boot_order(p, errp) && add_system_states(p, errp) &&
           add_smi_features(p, errp) && add_user_items(p, errp);
}
