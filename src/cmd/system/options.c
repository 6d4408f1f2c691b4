/* The option table and what reads it: the command line, -readconfig files, -h, and "did you mean". */
#include "cmd/system/sys.h"

#include <errno.h>
#include <stdio.h>

static const char *const group_names[G_NR] = {"Machine",
                                              "CPU and memory",
                                              "Accelerator",
                                              "Devices and objects",
                                              "Block devices",
                                              "Network",
                                              "Character devices and monitors",
                                              "Display and input",
                                              "Boot and firmware",
                                              "Running and debugging"};

#define NOT_BUILT NULL
/* name, alias, value, group, stage, handler, help list, text */
const struct option sys_options[] = {
    {"h", "help", NULL, G_DEBUG, ST_NOW, on_help, NULL, "display this help and exit"},
    {"version", NULL, NULL, G_DEBUG, ST_NOW, on_version, NULL, "display version information and exit"},
    {"machine", "M", "[type=]name[,prop[=value][,...]]", G_MACHINE, ST_MACHINE, on_machine, help_machine,
     "select the machine ('-machine help' lists them, '-machine NAME,help' its properties)"},
    {"cpu", NULL, "model[,+feature|-feature|prop=value][,...]", G_CPU, ST_MACHINE, on_cpu, help_cpu,
     "select the CPU model ('-cpu help' lists them)"},
    {"accel", NULL, "[accel=]accelerator[,prop=value][,...]", G_ACCEL, ST_MACHINE, on_accel, help_accel,
     "select the accelerator; give it several times, or as a list 'kvm:tcg', to fall back in that order"},
    {"enable-kvm", NULL, NULL, G_ACCEL, ST_MACHINE, on_enable_kvm, NULL, "the same as -accel kvm"},
    {"smp", NULL, "[[cpus=]n][,maxcpus=n][,sockets=n][,dies=n][,clusters=n][,cores=n][,threads=n]", G_CPU, ST_MACHINE,
     on_smp, NULL, "number of CPUs and their topology; what is left out is computed"},
    {"numa", NULL, "node[,mem=size|memdev=id][,cpus=first[-last]][,nodeid=n]", G_CPU, ST_SERIAL, on_numa, NULL,
     "a NUMA node: its memory and CPUs"},
    {"add-fd", NULL, "fd=n,set=n[,opaque=text]", G_DEVICE, ST_EARLY, NOT_BUILT, NULL,
     "add a descriptor to a descriptor set"},
    {"set", NULL, "group.id.prop=value", G_DEVICE, ST_NOW, on_set, NULL, "set a property of an item defined elsewhere"},
    {"global", NULL, "driver.prop=value | driver=name,property=name,value=text", G_DEVICE, ST_EARLY, on_global, NULL,
     "set the default of a device property"},
    {"boot", NULL,
     "[order=drives][,once=drives][,menu=on|off][,splash=file][,splash-time=ms][,reboot-timeout=ms][,strict=on|off]",
     G_BOOT, ST_MACHINE, on_boot, NULL, "'drives': a floppy, c hard disk, d CD-ROM, n network"},
    {"m", NULL, "[size=]size[,slots=n,maxmem=size]", G_CPU, ST_MACHINE, on_memory, NULL,
     "guest memory; a bare number is MiB, suffixes k M G T"},
    {"mem-path", NULL, "path", G_CPU, ST_MACHINE, on_string, NULL,
     "back guest memory with a file in this directory (huge pages)"},
    {"mem-prealloc", NULL, NULL, G_CPU, ST_MACHINE, on_flag, NULL, "allocate all guest memory at the start"},
    {"k", NULL, "language", G_DISPLAY, ST_EARLY, on_string, NULL,
     "keyboard layout of remote displays, such as fr or en-us"},
    {"audiodev", NULL, "[driver=]driver,id=id[,prop=value] | JSON", G_DEVICE, ST_CHARDEV, on_audiodev, help_audiodev,
     "define an audio back end ('-audiodev help' lists the drivers)"},
    {"audio", NULL, "[driver=]driver,model=name[,prop=value]", G_DEVICE, ST_CHARDEV, on_audio, help_audio,
     "audio back end and card in one ('model=help' lists the cards)"},
    {"device", NULL, "driver[,prop=value][,...] | JSON", G_DEVICE, ST_DEVICE, on_device, help_device,
     "add a device ('-device help' lists them, '-device NAME,help' its properties)"},
    {"object", NULL, "type,id=name[,prop=value][,...] | JSON", G_DEVICE, ST_OBJECT, on_object, help_object,
     "create an object such as a memory back end"},
    {"name", NULL, "[guest=]text[,process=text][,debug-threads=on|off]", G_MACHINE, ST_EARLY, on_name, NULL,
     "name of the guest"},
    {"uuid", NULL, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", G_MACHINE, ST_MACHINE, on_uuid, NULL, "UUID of the machine"},
    {"fda", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "floppy disk 0 image"},
    {"fdb", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "floppy disk 1 image"},
    {"hda", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "hard disk 0 image (a bare file name means the same)"},
    {"hdb", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "hard disk 1 image"},
    {"hdc", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "hard disk 2 image"},
    {"hdd", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "hard disk 3 image"},
    {"cdrom", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "CD-ROM image"},
    {"blockdev", NULL, "[driver=]driver[,node-name=name][,prop=value][,...] | JSON", G_BLOCK, ST_BLOCK, on_blockdev,
     NULL, "define a block node"},
    {"drive", NULL,
     "[file=file][,if=type][,bus=n][,unit=n][,index=i][,media=disk|cdrom][,format=f][,snapshot=on|off][,cache=mode][,.."
     ".]",
     G_BLOCK, ST_DRIVE, on_drive, NULL, "define a disk: if= is ide, scsi, virtio, floppy, pflash, sd, mtd or none"},
    {"mtdblock", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "on-board flash memory image"},
    {"sd", NULL, "file", G_BLOCK, ST_DRIVE, on_disk, NULL, "SD card image"},
    {"snapshot", NULL, NULL, G_BLOCK, ST_EARLY, on_flag, NULL, "write to temporary files instead of the disk images"},
    {"fsdev", NULL, "fsdriver,id=id[,path=path,security_model=model]", G_BLOCK, ST_EARLY, NOT_BUILT, NULL,
     "a shared folder back end"},
    {"virtfs", NULL, "local,path=path,mount_tag=tag,security_model=model", G_BLOCK, ST_EARLY, NOT_BUILT, NULL,
     "a shared folder"},
    {"iscsi", NULL, "[user=user][,password=password]", G_BLOCK, ST_EARLY, NOT_BUILT, NULL, "iSCSI session parameters"},
    {"usb", NULL, NULL, G_DEVICE, ST_MACHINE, on_machine_flag, NULL, "add the board's USB controller"},
    {"usbdevice", NULL, "name", G_DEVICE, ST_DEVICE, on_usbdevice, NULL, "add a USB device: tablet, mouse or keyboard"},
    {"display", NULL, "type[,prop=value]", G_DISPLAY, ST_EARLY, on_display, help_display,
     "select the display ('-display help')"},
    {"nographic", NULL, NULL, G_DISPLAY, ST_EARLY, on_nographic, NULL,
     "no display; serial port and monitor on the terminal"},
    {"curses", NULL, NULL, G_DISPLAY, ST_EARLY, NOT_BUILT, NULL, "text-mode display on the terminal"},
    {"sdl", NULL, NULL, G_DISPLAY, ST_EARLY, NOT_BUILT, NULL, "SDL window"},
    {"spice", NULL, "[port=port][,...]", G_DISPLAY, ST_EARLY, NOT_BUILT, NULL, "SPICE server"},
    {"vnc", NULL, "[host]:display|unix:path[,to=n][,password=on|off][,share=policy]", G_DISPLAY, ST_LAST, on_vnc, NULL,
     "VNC server"},
    {"vga", NULL, "std|cirrus|vmware|qxl|virtio|none", G_DISPLAY, ST_MACHINE, on_vga, help_vga,
     "select the graphics card"},
    {"full-screen", NULL, NULL, G_DISPLAY, ST_EARLY, NOT_BUILT, NULL, "start a window in full screen"},
    {"g", NULL, "WxH[xDEPTH]", G_DISPLAY, ST_EARLY, NOT_BUILT, NULL, "initial graphical resolution and depth"},
    {"win2k-hack", NULL, NULL, G_BLOCK, ST_EARLY, NOT_BUILT, NULL, "for installing Windows 2000 with a full disk"},
    {"no-fd-bootchk", NULL, NULL, G_BOOT, ST_MACHINE, on_machine_flag, NULL,
     "do not check the boot signature of floppies"},
    {"no-acpi", NULL, NULL, G_MACHINE, ST_MACHINE, on_machine_flag, NULL, "the same as -machine acpi=off"},
    {"no-hpet", NULL, NULL, G_MACHINE, ST_MACHINE, on_machine_flag, NULL, "the same as -machine hpet=off"},
    {"acpitable", NULL,
     "[sig=text][,rev=n][,oem_id=text][,oem_table_id=text][,oem_rev=n][,asl_compiler_id=text]"
     "[,asl_compiler_rev=n][,data=file1[:file2]...|file=file1[:file2]...]",
     G_BOOT, ST_MACHINE, on_acpitable, NULL, "add an ACPI table"},
    {"smbios", NULL, "file=binary | type=n[,field=value][,...]", G_BOOT, ST_MACHINE, on_smbios, NULL,
     "set SMBIOS fields of types 0, 1, 2, 3, 4, 8, 9, 11, 16, 17, 19, 32, 127"},
    {"netdev", NULL, "type,id=name[,prop=value][,...] | JSON", G_NET, ST_NETDEV, on_netdev, help_netdev,
     "define a network back end ('-netdev help' lists them)"},
    {"nic", NULL, "type[,model=name][,mac=addr][,prop=value][,...] | none", G_NET, ST_NIC, on_nic, help_nic,
     "a network card with its back end"},
    {"net", NULL, "nic[,model=name][,macaddr=addr] | type[,prop=value]", G_NET, ST_NIC, on_net, help_nic,
     "old form: a card or back end on the common hub"},
    {"chardev", NULL, "backend,id=name[,mux=on|off][,logfile=file][,prop=value][,...]", G_CHAR, ST_CHARDEV, on_chardev,
     help_chardev, "define a character device ('-chardev help' lists the back ends)"},
    {"tpmdev", NULL, "type,id=name[,prop=value]", G_DEVICE, ST_EARLY, NOT_BUILT, NULL, "a TPM back end"},
    {"bios", NULL, "file", G_BOOT, ST_MACHINE, on_string, NULL, "firmware image"},
    {"pflash", NULL, "file", G_BOOT, ST_DRIVE, on_disk, NULL, "parallel flash image with firmware"},
    {"kernel", NULL, "file", G_BOOT, ST_MACHINE, on_kernel_file, NULL, "boot this kernel"},
    {"append", NULL, "text", G_BOOT, ST_MACHINE, on_string, NULL, "kernel command line"},
    {"initrd", NULL, "file", G_BOOT, ST_MACHINE, on_kernel_file, NULL, "initial RAM disk"},
    {"shim", NULL, "file", G_BOOT, ST_MACHINE, on_kernel_file, NULL, "EFI shim for the kernel"},
    {"dtb", NULL, "file", G_BOOT, ST_MACHINE, on_kernel_file, NULL, "device tree"},
    {"option-rom", NULL, "file[,bootindex=n]", G_BOOT, ST_MACHINE, NOT_BUILT, NULL, "load an option ROM"},
    {"compat", NULL, "[deprecated-input=policy][,deprecated-output=policy]", G_DEBUG, ST_EARLY, on_compat, NULL,
     "what to do with deprecated interfaces"},
    {"fw_cfg", NULL, "[name=]name,file=file | name,string=text", G_BOOT, ST_MACHINE, on_fw_cfg, NULL,
     "add a fw_cfg file"},
    {"serial", NULL, "dev", G_CHAR, ST_SERIAL, on_serial, NULL,
     "serial port: stdio, mon:stdio, file:F, pty, tcp:..., telnet:..., unix:..., udp:..., null, none, chardev:ID"},
    {"parallel", NULL, "dev", G_CHAR, ST_SERIAL, on_parallel, NULL, "parallel port"},
    {"monitor", NULL, "dev", G_CHAR, ST_MONITOR, on_monitor, NULL,
     "human monitor on a character device; none switches it off"},
    {"qmp", NULL, "dev", G_CHAR, ST_MONITOR, on_monitor, NULL, "QMP monitor on a character device"},
    {"qmp-pretty", NULL, "dev", G_CHAR, ST_MONITOR, on_monitor, NULL, "QMP with indented JSON"},
    {"mon", NULL, "[chardev=]id[,mode=readline|control][,pretty=on|off]", G_CHAR, ST_MONITOR, on_mon, NULL,
     "monitor on a chardev"},
    {"debugcon", NULL, "dev", G_CHAR, ST_SERIAL, on_debugcon, NULL, "debug console (port 0xe9) on a character device"},
    {"pidfile", NULL, "file", G_DEBUG, ST_EARLY, on_string, NULL, "write the process id there"},
    {"preconfig", NULL, NULL, G_DEBUG, ST_EARLY, NOT_BUILT, NULL, "pause before the machine is created"},
    {"S", NULL, NULL, G_DEBUG, ST_EARLY, on_flag, NULL, "do not start the CPUs: wait for 'cont'"},
    {"overcommit", NULL, "[mem-lock=on|off][,cpu-pm=on|off]", G_CPU, ST_EARLY, on_overcommit, NULL,
     "memory locking, host power states"},
    {"gdb", NULL, "dev", G_DEBUG, ST_EARLY, NOT_BUILT, NULL, "wait for a debugger"},
    {"s", NULL, NULL, G_DEBUG, ST_EARLY, NOT_BUILT, NULL, "the same as -gdb tcp::1234"},
    {"d", NULL, "item1,...", G_DEBUG, ST_EARLY, on_log, help_log, "log the given items ('-d help' lists them)"},
    {"D", NULL, "file", G_DEBUG, ST_EARLY, on_logfile, NULL, "write the log to this file"},
    {"dfilter", NULL, "range[,...]", G_DEBUG, ST_EARLY, NOT_BUILT, NULL, "log only these guest addresses"},
    {"seed", NULL, "number", G_DEBUG, ST_EARLY, on_seed, NULL, "seed of the pseudo-random numbers"},
    {"L", NULL, "path", G_BOOT, ST_EARLY, on_fw_dir, help_fw_dir,
     "directory with firmware and ROM files ('-L help' lists them)"},
    {"no-reboot", NULL, NULL, G_DEBUG, ST_EARLY, on_flag, NULL, "exit instead of rebooting"},
    {"no-shutdown", NULL, NULL, G_DEBUG, ST_EARLY, on_flag, NULL, "stop instead of ending when the guest powers off"},
    {"action", NULL, "reboot=reset|shutdown | shutdown=poweroff|pause | panic=... | watchdog=...", G_DEBUG, ST_EARLY,
     on_action, NULL, "what to do when the guest reboots, powers off, panics or a watchdog fires"},
    {"watchdog-action", NULL, "reset|shutdown|poweroff|inject-nmi|pause|debug|none", G_DEBUG, ST_EARLY, on_action, NULL,
     "the same as -action watchdog=..."},
    {"loadvm", NULL, "tag", G_DEBUG, ST_EARLY, on_string, NULL, "start with a saved state"},
    {"daemonize", NULL, NULL, G_DEBUG, ST_EARLY, on_flag, NULL, "run in the background once everything is set up"},
    {"rtc", NULL, "[base=utc|localtime|DATE][,clock=host|rt|vm][,driftfix=none|slew]", G_MACHINE, ST_MACHINE, on_rtc,
     NULL, "guest wall clock"},
    {"icount", NULL, "[shift=]n|auto[,align=on|off][,sleep=on|off]", G_ACCEL, ST_EARLY, on_icount, NULL,
     "guest time is counted in executed instructions, of 2^n ns each; interpreted, one CPU"},
    {"tb-size", NULL, "n", G_ACCEL, ST_EARLY, on_tcg, NULL, "the same as -accel tcg,tb-size=n"},
    {"echr", NULL, "chr", G_CHAR, ST_EARLY, NOT_BUILT, NULL, "escape character of the terminal"},
    {"incoming", NULL, "uri", G_DEBUG, ST_EARLY, on_string, NULL,
     "start with a machine that arrives by exec:, fd:, file:, tcp: or unix:; defer: say later from where"},
    {"only-migratable", NULL, NULL, G_DEBUG, ST_EARLY, NOT_BUILT, NULL, "refuse devices that cannot migrate"},
    {"nodefaults", NULL, NULL, G_MACHINE, ST_EARLY, on_nodefaults, NULL, "do not create default devices"},
    {"runas", NULL, "user | uid:gid", G_DEBUG, ST_EARLY, on_runas, NULL,
     "give up root for this user before the guest runs"},
    {"run-with", NULL, "[user=user|uid:gid][,chroot=dir][,async-teardown=on|off]", G_DEBUG, ST_EARLY, on_run_with, NULL,
     "process settings"},
    {"chroot", NULL, "dir", G_DEBUG, ST_EARLY, on_string, NULL, "change the root directory before the guest runs"},
    {"sandbox", NULL, "on|off[,...]", G_DEBUG, ST_EARLY, on_refused, NULL, "system call filter"},
    {"readconfig", NULL, "file", G_DEBUG, ST_NOW, on_readconfig, NULL, "read options from a configuration file"},
    {"no-user-config", NULL, NULL, G_DEBUG, ST_EARLY, on_ignored, NULL,
     "read no default configuration files (there are none)"},
    {"trace", NULL, "[enable=pattern][,events=file][,file=file]", G_DEBUG, ST_EARLY, NOT_BUILT, NULL,
     "trace points (see -d trace)"},
    {"plugin", NULL, "file=file[,arg=text]", G_DEBUG, ST_EARLY, NOT_BUILT, NULL, "load an instrumentation plugin"},
    {"qtest", NULL, "dev", G_DEBUG, ST_LAST, on_qtest, NULL, "register-level test channel on a character device"},
    {"qtest-log", NULL, "file", G_DEBUG, ST_EARLY, on_string, NULL, "copy the test channel's lines there"},
    {"msg", NULL, "[timestamp=on|off][,guest-name=on|off]", G_DEBUG, ST_EARLY, NOT_BUILT, NULL, "style of messages"},
    {"async-teardown", NULL, NULL, G_DEBUG, ST_EARLY, NOT_BUILT, NULL, "tear down in the background"},
    {"one-insn-per-tb", NULL, NULL, G_ACCEL, ST_EARLY, on_tcg, NULL,
     "translate one instruction at a time: the same as -accel tcg,one-insn-per-tb=on"},
    {"singlestep", NULL, NULL, G_ACCEL, ST_EARLY, on_tcg, NULL, "the same as -one-insn-per-tb"},
    {NULL, NULL, NULL, G_NR, ST_NR, NULL, NULL, NULL}};

const struct option *option_find(const char *name)
{
    for (const struct option *o = sys_options; o->name; o++)
        if (!strcmp(o->name, name) || (o->alias && !strcmp(o->alias, name)))
            return o;
    return NULL;
}

void options_print_help(const struct sys *s)
{
    printf("%s: Lyrebird %s, a machine emulator\n"
           "usage: %s [options] [disk_image]\n\n"
           "'disk_image' is a raw or other disk image for hard disk 0. An option may be written -opt or --opt, in any "
           "order;\n"
           "'help' as a value lists what an option takes.\n",
           s->prog, LYREBIRD_VERSION, s->prog);
    for (unsigned g = 0; g < G_NR; g++) {
        printf("\n%s options:\n", group_names[g]);
        for (const struct option *o = sys_options; o->name; o++) {
            if (o->group != (enum opt_group)g)
                continue;
            printf("-%s%s%s%s%s\n                %s%s\n", o->name, o->alias ? " or -" : "", o->alias ? o->alias : "",
                   o->arg ? " " : "", o->arg ? o->arg : "", o->help, o->fn ? "" : " (not built into this program)");
        }
    }
    printf("\nDuring emulation with the serial port on the terminal, C-a h lists the keys.\n");
}

bool options_add(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    if (o->stage == ST_NOW)
        return o->fn(s, o, val, errp);
    s->items = xrealloc(s->items, (s->nr_items + 1) * sizeof *s->items);
    s->items[s->nr_items++] = (struct item){o, val ? xstrdup(val) : NULL, false};
    return true;
}

/* `help`, `?`, `X,help` and `X,?` print and end the program. */
static void maybe_help(struct sys *s, const struct option *o, const char *val)
{
    size_t n = strlen(val);
    const char *comma;

    if (!strcmp(o->name, "append") || !strcmp(o->name, "name")) /* free text */
        return;
    if (!strcmp(val, "help") || !strcmp(val, "?")) {
        if (o->help_list && o->fn)
            o->help_list(s, NULL);
        else
            printf("-%s %s\n    %s%s\n", o->name, o->arg, o->help, o->fn ? "" : " (not built into this program)");
        sys_exit(0);
    }
    comma = strchr(val, ',');
    if (*val != '{' && comma && ((n > 5 && !strcmp(val + n - 5, ",help")) || (n > 2 && !strcmp(val + n - 2, ",?")))) {
        AUTOFREE char *what = xstrndup(val, comma - val);
        char *eq = strchr(what, '=');

        if (o->help_list && o->fn)
            o->help_list(s, eq ? eq + 1 : what);
        else
            printf("-%s %s\n    %s\n", o->name, o->arg, o->help);
        sys_exit(0);
    }
}

static bool unknown(const char *arg, const char *name, struct err **errp)
{
    struct str_nearest near;
    AUTOFREE char *word = xstrndup(name, strcspn(name, "="));

    str_nearest_init(&near, word);
    for (const struct option *o = sys_options; o->name; o++) {
        str_nearest_try(&near, o->name);
        if (o->alias)
            str_nearest_try(&near, o->alias);
    }
    err_set(errp, "%s: invalid option", arg);
    if (strchr(name, '=') && option_find(word))
        err_hint(errp, "write the value apart: -%s %s", word, strchr(name, '=') + 1);
    else if (near.best)
        err_hint(errp, "did you mean -%s? -h lists all options", near.best);
    else
        err_hint(errp, "-h lists all options");
    return false;
}

bool options_collect(struct sys *s, int argc, char **argv, struct err **errp)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *name = a + 1 + (a[0] == '-' && a[1] == '-');
        const struct option *o;
        const char *val = NULL;

        if (a[0] != '-' || !a[1]) {
            if (!options_add(s, option_find("hda"), a, errp))
                return false;
            continue;
        }
        o = option_find(name);
        if (!o)
            return unknown(a, name, errp);
        if (o->arg) {
            if (++i >= argc) {
                err_set(errp, "%s: requires an argument", a);
                err_hint(errp, "form: -%s %s", o->name, o->arg);
                return false;
            }
            val = argv[i];
            maybe_help(s, o, val);
        }
        if (!o->fn) {
            err_set(errp, "%s%s%s: this option is not built into this program (%s)", a, val ? " " : "", val ? val : "",
                    o->help);
            err_hint(errp, "start without it; -h marks what is not built");
            return false;
        }
        if (!options_add(s, o, val, errp)) {
            err_prefix(errp, "%s%s%s: ", a, val ? " " : "", val ? val : "");
            return false;
        }
    }
    return true;
}

bool options_given(const struct sys *s, const char *name)
{
    for (unsigned i = 0; i < s->nr_items; i++)
        if (!strcmp(s->items[i].o->name, name))
            return true;
    return false;
}

/* Values that may hold secrets or pages of text are cut in messages. */
static void prefix(const struct item *it, struct err **errp)
{
    if (it->val)
        err_prefix(errp, "-%s %.200s%s: ", it->o->name, it->val, strlen(it->val) > 200 ? "..." : "");
    else
        err_prefix(errp, "-%s: ", it->o->name);
}

bool options_run(struct sys *s, enum stage st, struct err **errp)
{
    for (unsigned i = 0; i < s->nr_items; i++) {
        struct item *it = &s->items[i];

        if (it->o->stage != st || it->done)
            continue;
        it->done = true;
        if (!it->o->fn(s, it->o, it->val, errp)) {
            prefix(it, errp);
            return false;
        }
    }
    return true;
}

/* -readconfig: sections [group] or [group "id"] with key = "value" lines. */

struct section {
    const struct option *o;
    struct strbuf val;
};

static void add_escaped(struct strbuf *b, const char *key, const char *val)
{
    str_addf(b, "%s%s=", b->len ? "," : "", key);
    for (; *val; val++)
        str_addn(b, *val == ',' ? ",," : val, *val == ',' ? 2 : 1);
}

static const struct option *section_option(const char *group)
{
    static const char *const map[][2] = {
        {"memory", "m"}, {"smp-opts", "smp"}, {"boot-opts", "boot"}, {"accel", "accel"}};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (!strcmp(group, map[i][0]))
            return option_find(map[i][1]);
    return option_find(group);
}

static bool end_section(struct sys *s, struct section *sec, struct err **errp)
{
    bool ok = !sec->o || options_add(s, sec->o, sec->val.s ? sec->val.s : "", errp);

    str_free(&sec->val);
    *sec = (struct section){0};
    return ok;
}

static bool config_line(struct sys *s, struct section *sec, char *line, struct err **errp)
{
    char a[64], b[1024];
    char *p = line + strspn(line, " \t");
    int n = 0;

    p[strcspn(p, "\r\n")] = 0;
    if (!*p || *p == '#')
        return true;
    if (sscanf(p, "[%63[^] \t] \"%1023[^\"]\"]", a, b) == 2 || (n = sscanf(p, "[%63[^] \t]]", a)) == 1) {
        if (!end_section(s, sec, errp))
            return false;
        sec->o = section_option(a);
        if (!sec->o || !sec->o->arg)
            return err_set(errp, "unknown section [%s]", a);
        if (!sec->o->fn)
            return err_set(errp, "section [%s] is not built into this program", a);
        if (n != 1)
            add_escaped(&sec->val, "id", b);
        return true;
    }
    if (sscanf(p, "%63[^= \t] = \"%1023[^\"]\"", a, b) == 2 || sscanf(p, "%63[^= \t] = \"%1[\"]", a, b) == 2) {
        if (!sec->o)
            return err_set(errp, "'%s' stands before the first [section]", a);
        if (b[0] == '"')
            b[0] = 0;
        add_escaped(&sec->val, a, b);
        return true;
    }
    return err_set(errp, "expected [section], [section \"id\"] or key = \"value\", found '%.60s'", p);
}

bool on_readconfig(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    FILE *f;
    char line[2048];
    struct section sec = {0};
    unsigned nr = 0;
    bool ok = file_readable(val, "configuration file", errp);

    if (!ok || !(f = fopen(val, "re")))
        return ok && err_set_errno(errp, errno, "cannot open configuration file '%s'", val);
    while (ok && fgets(line, sizeof line, f)) {
        nr++;
        ok = config_line(s, &sec, line, errp);
    }
    if (ok)
        ok = end_section(s, &sec, errp);
    else
        err_prefix(errp, "%s:%u: ", val, nr);
    str_free(&sec.val);
    fclose(f);
    return ok;
}

/* -set group.id.prop=value: appended to the item's own text once it has been read. */
bool on_set(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    char group[64], id[128], prop[128];
    int n = 0;

    if (sscanf(val, "%63[^.].%127[^.].%127[^=]=%n", group, id, prop, &n) != 3 || !n)
        return err_set(errp, "expected group.id.prop=value");
    for (unsigned i = 0; i < s->nr_items; i++) {
        struct item *it = &s->items[i];
        struct opts *p;
        bool hit;

        if (strcmp(it->o->name, group) || !it->val || *it->val == '{')
            continue;
        p = opts_parse(it->val, "driver", NULL);
        hit = p && opts_peek(p, "id") && !strcmp(opts_peek(p, "id"), id);
        opts_free(p);
        if (hit) {
            struct strbuf b = {0};

            str_add(&b, it->val);
            add_escaped(&b, prop, val + n);
            free(it->val);
            it->val = str_take(&b);
            return true;
        }
    }
    err_set(errp, "there is no -%s with id '%s'", group, id);
    err_hint(errp, "-set comes after the option it changes, and does not reach into JSON values");
    return false;
}
