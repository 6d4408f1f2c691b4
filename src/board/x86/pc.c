/* The boards pc (i440FX + PIIX3), q35 (Q35 + ICH9) and isapc: order of construction and -machine properties.
 *
 * Order: properties, RAM, CPUs with their APICs, host bridge, ROMs and flash, south bridge, fixed devices; then the
 * caller adds -device devices; finish() writes what firmware reads (CMOS, fw_cfg files, tables, kernel). */
#include "accel/accel.h"
#include "board/x86/pc_int.h"

#include "aud/aud.h"
#include "base/str.h"
#include "hw/timer/i8254.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const pc_smbios_ep_names[] = {"32", "64", "auto", NULL};

uint8_t *pc_read_file(const char *path, const char *what, size_t max, size_t *len, struct err **errp)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    uint8_t *p = NULL;
    size_t got = 0;

    if (fd < 0 || fstat(fd, &st) < 0) {
        err_set_errno(errp, errno, "cannot open %s '%s'", what, path);
        goto out;
    }
    if (S_ISDIR(st.st_mode)) {
        err_set_errno(errp, EISDIR, "cannot read %s '%s'", what, path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        err_set(errp, "%s '%s' is not a regular file", what, path);
        goto out;
    }
    if ((uint64_t)st.st_size > max || !(p = try_alloc(1, (size_t)st.st_size + 1))) {
        err_set(errp, "%s '%s' is too large: %jd bytes, at most %zu are possible", what, path, (intmax_t)st.st_size,
                max);
        goto out;
    }
    while (got < (size_t)st.st_size) {
        ssize_t n = read(fd, p + got, (size_t)st.st_size - got);

        if (n <= 0) {
            err_set(errp, "cannot read %s '%s': %s", what, path, n ? strerror(errno) : "it became shorter");
            free(p);
            p = NULL;
            goto out;
        }
        got += (size_t)n;
    }
    *len = got;
out:
    if (fd >= 0)
        close(fd);
    return p;
}

/* -machine keys may be written with '_' for '-'. Some belong to the caller, who has read them into board_cfg. */
static bool pc_set_props(struct pc *p, struct opts *o, struct err **errp)
{
    static const char *const elsewhere[] = {"type",   "accel", "pflash0", "pflash1", "memory-backend",
                                            "memory", "smp",   "boot",    NULL};
    struct opt *e;

    opts_each (e, o) {
        char AUTOFREE *key = xstrdup(e->key);
        bool skip = strchr(key, '.') != NULL;

        for (char *c = key; *c; c++)
            *c = *c == '_' ? '-' : *c;
        for (const char *const *s = elsewhere; *s; s++)
            skip |= !strcmp(*s, key);
        if (!skip && !obj_set(&p->obj, key, e->val, errp))
            return false;
        e->used |= !skip;
    }
    return true;
}

static bool pc_read_props(struct pc *p, struct err **errp)
{
    struct board_cfg *c = p->cfg;
    const struct accel_class *a = machine_accel(p->m);
    bool accel_smm;

    if (c->machine_opts && !pc_set_props(p, c->machine_opts, errp))
        return false;
    if (!c->bios)
        c->bios = p->firmware;
    if (!c->kernel)
        c->kernel = p->kernel;
    if (!c->initrd)
        c->initrd = p->initrd;
    if (!c->append)
        c->append = p->append;
    if (p->kernel_irqchip && strcmp(p->kernel_irqchip, "off")) {
        err_set(errp, "kernel-irqchip=%s: interrupt controllers run in this program only", p->kernel_irqchip);
        err_hint(errp, "Leave kernel-irqchip out, or say kernel-irqchip=off.");
        return false;
    }
    if (p->oem_id && strlen(p->oem_id) > 6)
        return err_set(errp, "x-oem-id '%s' has more than 6 bytes", p->oem_id);
    if (p->oem_table_id && strlen(p->oem_table_id) > 8)
        return err_set(errp, "x-oem-table-id '%s' has more than 8 bytes", p->oem_table_id);
    accel_smm = !a || !a->has_smm || a->has_smm(p->m);
    if (p->smm == OOA_ON && p->kind == PC_ISA)
        return err_set(errp, "the isapc machine has no system management mode");
    p->has_smm = p->smm != OOA_OFF && p->kind != PC_ISA && accel_smm;
    if (p->smm == OOA_ON && !accel_smm)
        return err_set(errp, "smm=on: accelerator '%s' offers no system management mode here",
                       machine_accel(p->m)->name);
    p->usb |= c->usb;
    return pc_boot_order_valid(c->boot.order, errp) && pc_boot_order_valid(c->boot.once, errp);
}

static bool pc_create_bridges(struct pc *p, struct err **errp)
{
    struct board_cfg *c = p->cfg;
    struct north_cfg n = {
        .ram = &p->ram, .below_4g = p->below_4g, .above_4g = p->above_4g, .smm = p->has_smm, .rom_dirs = c->fw_dirs};

    if (p->kind == PC_ISA)
        return true;
    return p->kind == PC_Q35 ? q35_create(p->m, &n, &p->north, errp) : i440fx_create(p->m, &n, &p->north, errp);
}

static bool pc_create_south(struct pc *p, struct err **errp)
{
    struct board_cfg *c = p->cfg;
    struct south_cfg s = {.hpet = p->hpet,
                          .no_i8042 = !p->i8042,
                          .no_pit = !p->pit,
                          .smm = p->has_smm,
                          .no_acpi = p->acpi == OOA_OFF || p->kind == PC_ISA,
                          .no_ioapic = p->kind == PC_ISA,
                          .rtc = {c->rtc.base, c->rtc.offset, c->rtc.driftfix_slew}};

    switch (p->kind) {
    case PC_Q35:
        return ich9_create(p->m, p->north.bus, &s, &p->south, errp);
    case PC_I440FX:
        return piix3_create(p->m, p->north.bus, &s, &p->south, errp);
    default:
        return isa_south_create(p->m, &s, &p->south, errp);
    }
}

static void pc_reset(void *opaque)
{
    struct pc *p = opaque;

    pc_reset_boot_once(p);
}

static bool pc_set_speaker(struct pc *p, struct err **errp)
{
    struct aud_set *s = aud_set_of(p->m);
    struct aud_dev *d = p->pcspk_audiodev && s ? aud_find(s, p->pcspk_audiodev) : NULL;

    if (!p->pcspk_audiodev)
        return true;
    if (!d) {
        err_set(errp, "-machine pcspk-audiodev=%s: no audio back end with this id", p->pcspk_audiodev);
        err_hint(errp, "define it with -audiodev DRIVER,id=%s", p->pcspk_audiodev);
        return false;
    }
    if (!p->south.spk || !p->south.pit)
        return err_set(errp, "-machine pcspk-audiodev=%s: the speaker needs pit=on", p->pcspk_audiodev);
    return pcspk_set_audio(p->south.spk, d, errp);
}

/* The bridge comes before the CPUs: an accelerator wants to know what a CPU sees in SMM when it takes the CPU over. */
static bool pc_build(struct pc *p, struct err **errp)
{
    if (!pc_read_props(p, errp) || !pc_create_ram(p, errp) || !pc_create_bridges(p, errp))
        return false;
    if (p->has_smm && p->north.smram_root)
        p->smm_as = mem_space_new(p->m->mem_sys, "SMM", p->north.smram_root);
    if (!pc_create_cpus(p, errp) || !pc_create_rom(p, errp) || !pc_create_south(p, errp) || !pc_set_speaker(p, errp))
        return false;
    p->fw = fw_cfg_create_io(p->m, errp);
    if (!p->fw || !pc_create_io(p, errp))
        return false;
    return p->kind == PC_ISA ? pc_create_isa_devs(p, errp) : pc_create_pci_devs(p, errp);
}

static bool pc_create_kind(struct machine *m, struct board_cfg *cfg, enum pc_kind kind, struct err **errp)
{
    const struct board_class *cls = cfg->board;
    struct pc *p = (struct pc *)obj_new((const struct obj_class *)cls, m);

    obj_add_child(&m->obj, "board", &p->obj);
    m->board = p;
    m->ram_size = cfg->ram_size;
    p->m = m;
    p->cfg = cfg;
    p->cls = cls;
    p->kind = kind;
    p->reset_hook = (struct machine_hook){.fn = pc_reset, .opaque = p};
    machine_on_reset(m, &p->reset_hook);
    mem_begin(m->mem_sys);
    if (!pc_build(p, errp)) {
        mem_commit(m->mem_sys);
        return false;
    }
    mem_commit(m->mem_sys);
    return true;
}

static bool i440fx_board_create(struct machine *m, struct board_cfg *cfg, struct err **errp)
{
    return pc_create_kind(m, cfg, PC_I440FX, errp);
}

static bool q35_board_create(struct machine *m, struct board_cfg *cfg, struct err **errp)
{
    return pc_create_kind(m, cfg, PC_Q35, errp);
}

static bool isa_board_create(struct machine *m, struct board_cfg *cfg, struct err **errp)
{
    return pc_create_kind(m, cfg, PC_ISA, errp);
}

static bool pc_finish(struct machine *m, struct board_cfg *cfg, struct err **errp)
{
    struct pc *p = pc_of(m);
    bool ok = pc_setup_cmos(p, errp) && pc_setup_kernel(p, errp) && pc_setup_fw_cfg(p, errp) &&
              pc_setup_smbios(p, errp) && pc_setup_acpi(p, errp);

    p->cfg = NULL;
    for (unsigned i = 0; ok && !m->stepped && i < m->nr_cpus; i++)
        vcpu_start_thread(m->cpus[i]);
    return ok;
}

static void pc_free(struct obj *o)
{
    struct pc *p = (struct pc *)o;

    machine_hook_del(&p->reset_hook);
    free(p->apic_id);
    free(p->cpu_node);
    free(p->vga_class);
    free(p->user_tables);
}

/* ---- classes ---- */

#define PC_COMMON_PROPS                                                                                                \
    PROP("dump-guest-core", bool, struct pc, dump_guest_core, .dflt = "on",                                            \
         .help = "include guest memory in core dumps"),                                                                \
        PROP("mem-merge", bool, struct pc, mem_merge, .dflt = "on", .help = "let the host merge equal pages"),         \
        PROP("graphics", bool, struct pc, graphics, .dflt = "on", .help = "firmware may use the display"),             \
        PROP("pcspk-audiodev", str, struct pc, pcspk_audiodev, .help = "audio back end of the PC speaker"),            \
        PROP("usb", bool, struct pc, usb, .help = "add the machine's USB controller"),                                 \
        PROP("firmware", str, struct pc, firmware, .help = "as -bios"),                                                \
        PROP("kernel", str, struct pc, kernel, .help = "as -kernel"),                                                  \
        PROP("initrd", str, struct pc, initrd, .help = "as -initrd"),                                                  \
        PROP("append", str, struct pc, append, .help = "as -append"),                                                  \
        PROP("suppress-vmdesc", bool, struct pc, suppress_vmdesc,                                                      \
             .help = "leave the description out of saved states"),                                                     \
        PROP("kernel-irqchip", str, struct pc, kernel_irqchip,                                                         \
             .help = "off: interrupt controllers run in this program"),                                                \
        PROP("fd-bootchk", bool, struct pc, fd_bootchk, .dflt = "on",                                                  \
             .help = "firmware checks the signature of floppy boot sectors"),                                          \
        PROP("max-ram-below-4g", size, struct pc, max_ram_below_4g, .help = "RAM below 4 GiB, at most"),               \
        PROP("max-fw-size", size, struct pc, max_fw_size, .dflt = "8M", .help = "firmware flash, at most"),            \
        PROP("smbios-entry-point-type", enum, struct pc, smbios_ep, .dflt = "32", .names = pc_smbios_ep_names)
static const struct prop isa_props[] = {PC_COMMON_PROPS, PROP("i8042", bool, struct pc, i8042, .dflt = "on"),
                                        PROP("pit", bool, struct pc, pit, .dflt = "on"), PROP_END};
static const struct prop pc_props[] = {
    PC_COMMON_PROPS,
    PROP("acpi", onoffauto, struct pc, acpi, .help = "ACPI tables and registers"),
    PROP("smm", onoffauto, struct pc, smm, .help = "system management mode"),
    PROP("vmport", onoffauto, struct pc, vmport, .help = "the VMware I/O port"),
    PROP("hpet", bool, struct pc, hpet, .dflt = "on"),
    PROP("pit", bool, struct pc, pit, .dflt = "on"),
    PROP("i8042", bool, struct pc, i8042, .dflt = "on", .help = "keyboard controller"),
    PROP("sata", bool, struct pc, sata, .dflt = "on", .help = "the AHCI controller (q35)"),
    PROP("smbus", bool, struct pc, smbus, .dflt = "on"),
    PROP("x-oem-id", str, struct pc, oem_id, .help = "OEM ID of the ACPI tables"),
    PROP("x-oem-table-id", str, struct pc, oem_table_id),
    PROP_END,
};

#define PC_BOARD(var_, machine_, desc_, props_, create_, ...)                                                          \
    static const struct board_class var_ = {.name = machine_ "-machine",                                               \
                                            .parent = "machine",                                                       \
                                            .desc = desc_,                                                             \
                                            .size = sizeof(struct pc),                                                 \
                                            .props = props_,                                                           \
                                            .free = pc_free,                                                           \
                                            .machine = machine_,                                                       \
                                            .arch = "x86_64",                                                          \
                                            .default_ram = 512 * MIB,                                                  \
                                            .default_display = "std",                                                  \
                                            .default_if = IF_IDE,                                                      \
                                            .create = create_,                                                         \
                                            .finish = pc_finish,                                                       \
                                            __VA_ARGS__};                                                              \
    BOARD_REGISTER(var_)
#define I440FX_BOARD(var_, ver_, desc_, ...)                                                                           \
    PC_BOARD(var_, "pc-i440fx-" ver_, desc_, pc_props, i440fx_board_create, .default_cpu = "qemu64",                   \
             .default_nic = "e1000", .max_cpus = PC_MAX_CPUS, .cpu_plug = pc_plug_cpu, __VA_ARGS__)
#define Q35_BOARD(var_, ver_, desc_, ...)                                                                              \
    PC_BOARD(var_, "pc-q35-" ver_, desc_, pc_props, q35_board_create, .ide_units = 1, .default_cpu = "qemu64",         \
             .default_nic = "e1000", .max_cpus = PC_MAX_CPUS, .cpu_plug = pc_plug_cpu, .no_floppy = true, __VA_ARGS__)
#define I440FX_NAME "Standard PC (i440FX + PIIX, 1996)"
#define Q35_NAME    "Standard PC (Q35 + ICH9, 2009)"

I440FX_BOARD(board_pc, "7.2", I440FX_NAME, .alias = "pc", .is_default = true)
I440FX_BOARD(board_pc_7_1, "7.1", I440FX_NAME)
I440FX_BOARD(board_pc_7_0, "7.0", I440FX_NAME)
I440FX_BOARD(board_pc_6_2, "6.2", I440FX_NAME)
I440FX_BOARD(board_pc_5_2, "5.2", I440FX_NAME)
I440FX_BOARD(board_pc_4_2, "4.2", I440FX_NAME)
I440FX_BOARD(board_pc_3_1, "3.1", I440FX_NAME)
I440FX_BOARD(board_pc_2_12, "2.12", I440FX_NAME)
Q35_BOARD(board_q35, "7.2", Q35_NAME, .alias = "q35")
Q35_BOARD(board_q35_7_1, "7.1", Q35_NAME)
Q35_BOARD(board_q35_7_0, "7.0", Q35_NAME)
Q35_BOARD(board_q35_6_2, "6.2", Q35_NAME)
Q35_BOARD(board_q35_5_2, "5.2", Q35_NAME)
Q35_BOARD(board_q35_4_2, "4.2", Q35_NAME)
Q35_BOARD(board_q35_3_1, "3.1", Q35_NAME)
Q35_BOARD(board_q35_2_12, "2.12", Q35_NAME)
PC_BOARD(board_isapc, "isapc", "ISA-only PC", isa_props, isa_board_create, .default_cpu = "486",
         .default_nic = "ne2k_isa", .max_cpus = 1)
