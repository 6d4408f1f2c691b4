/* Options that measure the machine: name, memory, CPUs, clock, boot, firmware tables, accelerator. */
#include "accel/icount.h"
#include "cmd/system/sys.h"
#include "guest/x86/cpuid.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

bool file_readable(const char *path, const char *what, struct err **errp)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        int e = errno;

        err_set_errno(errp, e, "cannot open %s '%s'", what, path);
        if (e == ENOENT)
            err_hint(errp, "check the path; relative paths start at the current directory");
        else if (e == EACCES)
            err_hint(errp, "make it readable for this user");
        return false;
    }
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        return err_set(errp, "cannot use %s '%s': it is a directory", what, path);
    }
    close(fd);
    return true;
}

/* Generic kinds. */

bool on_ignored(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    return true;
}

bool on_string(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    const struct {
        const char *name;
        const char **to;
    } map[] = {
        {"mem-path", &s->cfg.mem_path}, {"append", &s->cfg.append},   {"bios", &s->cfg.bios}, {"pidfile", &s->pidfile},
        {"chroot", &s->chroot},         {"qtest-log", &s->qtest_log}, {"k", &s->keyboard},    {"loadvm", &s->loadvm},
        {"incoming", &s->incoming}};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (!strcmp(o->name, map[i].name))
            *map[i].to = val;
    return true;
}

bool on_flag(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    const struct {
        const char *name;
        bool *to;
    } map[] = {
        {"mem-prealloc", &s->cfg.mem_prealloc}, {"snapshot", &s->snapshot},          {"S", &s->start_paused},
        {"no-reboot", &s->m->no_reboot},        {"no-shutdown", &s->m->no_shutdown}, {"daemonize", &s->daemonize}};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (!strcmp(o->name, map[i].name))
            *map[i].to = true;
    return true;
}

bool on_kernel_file(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    const struct {
        const char *name, *what;
        const char **to;
    } map[] = {{"kernel", "kernel", &s->cfg.kernel},
               {"initrd", "initial RAM disk", &s->cfg.initrd},
               {"dtb", "device tree", &s->cfg.dtb},
               {"shim", "EFI shim", &s->cfg.shim}};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++) {
        if (strcmp(o->name, map[i].name))
            continue;
        *map[i].to = val;
        /* "file args,file args" is a list of multiboot modules: the loader opens those. */
        return (!strcmp(o->name, "initrd") && strpbrk(val, " ,")) || file_readable(val, map[i].what, errp);
    }
    return true;
}

bool on_fw_dir(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct stat st;

    if (s->nr_fw_dirs >= ARRAY_LEN(s->fw_dirs) - 6)
        return err_set(errp, "too many -L directories");
    if (access(val, R_OK | X_OK))
        return err_set_errno(errp, errno, "cannot search '%s' for firmware", val);
    if (stat(val, &st) == 0 && !S_ISDIR(st.st_mode))
        return err_set_errno(errp, ENOTDIR, "cannot search '%s' for firmware", val);
    s->fw_dirs[s->nr_fw_dirs++] = val;
    return true;
}

/* Firmware folders: -L, then beside the program, then where Debian keeps them. */
void finish_fw_dirs(struct sys *s)
{
    static const char *const standard[] = {"/usr/share/lyrebird", "/usr/share/seabios", "/usr/share/qemu",
                                           "/usr/share/OVMF", "/usr/lib/ipxe/qemu"};

    for (unsigned i = 0; i < ARRAY_LEN(standard); i++)
        s->fw_dirs[s->nr_fw_dirs++] = standard[i];
    s->cfg.fw_dirs = s->fw_dirs;
}

void help_fw_dir(struct sys *s, const char *what)
{
    finish_fw_dirs(s);
    for (unsigned i = 0; i < s->nr_fw_dirs; i++)
        printf("%s\n", s->fw_dirs[i]);
}

bool on_seed(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    uint64_t v;

    if (!str_to_u64(val, &v))
        return err_set(errp, "'%s' is not a number", val);
    srandom((unsigned)v);
    return true;
}

bool on_compat(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"deprecated-input", "deprecated-output", "unstable-input", "unstable-output",
                                       NULL};
    struct opts *p = opts_parse(val, NULL, errp);
    bool ok;

    if (!p)
        return false;
    for (unsigned i = 0; keys[i]; i++)
        opts_get(p, keys[i]);
    ok = opts_done(p, "compat", keys, errp);
    opts_free(p);
    return ok;
}

bool on_overcommit(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"mem-lock", "cpu-pm", NULL};
    struct opts *p = opts_parse(val, NULL, errp);
    bool lock = false, pm = false, ok;

    if (!p)
        return false;
    ok = opts_bool(p, "mem-lock", &lock, errp) && opts_bool(p, "cpu-pm", &pm, errp) &&
         opts_done(p, "overcommit", keys, errp);
    if (ok && lock)
        ok = err_set(errp, "mem-lock=on is not built into this program");
    if (ok && pm)
        ok = err_set(errp, "cpu-pm=on needs a hypervisor and is not built into this program");
    opts_free(p);
    return ok;
}

bool on_nodefaults(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    s->cfg.nodefaults = true;
    s->default_serial = s->default_parallel = s->default_monitor = s->default_cdrom = s->default_floppy = false;
    s->default_net = s->default_vga = false;
    return true;
}

/* -machine: all values are joined, the last one of a key wins. */

bool on_machine(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "type", errp);

    if (!p)
        return false;
    opts_free(p);
    str_addf(&s->machine_text, "%s%s%s", s->machine_text.len ? "," : "",
             strchr(val, '=') && strcspn(val, "=") < strcspn(val, ",") ? "" : "type=", val);
    return true;
}

bool on_machine_flag(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const map[][2] = {
        {"usb", "usb=on"}, {"no-acpi", "acpi=off"}, {"no-hpet", "hpet=off"}, {"no-fd-bootchk", "fd-bootchk=off"}};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (!strcmp(o->name, map[i][0]))
            str_addf(&s->machine_text, "%s%s", s->machine_text.len ? "," : "", map[i][1]);
    return true;
}

bool on_cpu(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    s->cfg.cpu_model = val;
    return true;
}

/* -m */

bool on_memory(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"size", "slots", "maxmem", NULL};
    struct opts *p = opts_parse(val, "size", errp);
    const char *size, *max;
    uint64_t slots = s->cfg.ram_slots;
    bool ok = false;

    if (!p)
        return false;
    size = opts_get(p, "size");
    max = opts_get(p, "maxmem");
    if (size && !str_to_size(size, 'M', &s->cfg.ram_size)) {
        err_set(errp, "'%s' is not a memory size", size);
        err_hint(errp, "write a number of MiB, or a number with suffix k, M, G or T, such as 4G");
    } else if (max && !str_to_size(max, 'M', &s->cfg.maxram_size)) {
        err_set(errp, "maxmem: '%s' is not a memory size", max);
    } else if (opts_u64(p, "slots", &slots, errp) && opts_done(p, "memory", keys, errp)) {
        ok = true;
        if (slots > 256)
            ok = err_set(errp, "slots=%" PRIu64 " is too many: at most 256", slots);
        else if (slots && !max)
            ok = err_set(errp, "slots= needs maxmem=, the size up to which memory can be added");
        s->cfg.ram_slots = (unsigned)slots;
    }
    opts_free(p);
    return ok;
}

/* An eighth of the host's memory, 1 to 4 GiB: enough for a current system to boot, little enough to start several. */
static uint64_t memory_default(const struct sys *s)
{
    uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

    if (s->board->default_ram < 256 * MIB) /* a board that has little or none on purpose */
        return s->board->default_ram;
    return align_down(max_u64(GIB, min_u64(4 * GIB, host / 8)), 512 * MIB);
}

static bool memory_finish(struct sys *s, struct err **errp)
{
    struct board_cfg *c = &s->cfg;

    if (!c->ram_size)
        c->ram_size = memory_default(s);
    c->ram_size = align_up(c->ram_size, 8192);
    if (c->ram_size > UINT64_C(1) << 46)
        return err_set(errp, "-m: %" PRIu64 " MiB of memory is more than any host can give", c->ram_size >> 20);
    if (!c->maxram_size) {
        c->maxram_size = c->ram_size;
    } else if (c->maxram_size < c->ram_size) {
        err_set(errp, "-m: maxmem (%" PRIu64 " MiB) is smaller than the memory at start (%" PRIu64 " MiB)",
                c->maxram_size >> 20, c->ram_size >> 20);
        err_hint(errp, "raise maxmem or lower size");
        return false;
    }
    return true;
}

/* -smp: what is given must multiply up; what is not given is computed, cores before sockets. */

bool on_smp(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"cpus", "maxcpus", "sockets", "dies", "clusters", "cores", "threads", NULL};
    uint64_t v[7] = {0};
    struct opts *p = opts_parse(val, "cpus", errp);
    bool ok = p != NULL;

    for (unsigned i = 0; ok && i < 7; i++) {
        ok = opts_u64(p, keys[i], &v[i], errp);
        if (ok && opts_peek(p, keys[i]) && (!v[i] || v[i] > 65535))
            ok = err_set(errp, "%s=%s: CPU topology numbers are 1 to 65535", keys[i], opts_peek(p, keys[i]));
    }
    ok = ok && opts_done(p, "smp", keys, errp);
    if (ok && v[4] > 1)
        ok = err_set(errp, "clusters=%" PRIu64 ": this machine has no clusters; only 1 is possible", v[4]);
    opts_free(p);
    if (!ok)
        return false;
    s->cfg.smp.cpus = (unsigned)v[0];
    s->cfg.smp.maxcpus = (unsigned)v[1];
    s->cfg.smp.sockets = (unsigned)v[2];
    s->cfg.smp.dies = (unsigned)v[3];
    s->cfg.smp.cores = (unsigned)v[5];
    s->cfg.smp.threads = (unsigned)v[6];
    return true;
}

static void smp_fill(struct board_cfg *c)
{
    unsigned max = c->smp.maxcpus ? c->smp.maxcpus : c->smp.cpus;

    if (!c->smp.dies)
        c->smp.dies = 1;
    if (!max) {
        c->smp.sockets = c->smp.sockets ? c->smp.sockets : 1;
        c->smp.cores = c->smp.cores ? c->smp.cores : 1;
        c->smp.threads = c->smp.threads ? c->smp.threads : 1;
    } else if (!c->smp.cores) {
        c->smp.sockets = c->smp.sockets ? c->smp.sockets : 1;
        c->smp.threads = c->smp.threads ? c->smp.threads : 1;
        c->smp.cores = max / (c->smp.sockets * c->smp.dies * c->smp.threads);
    } else if (!c->smp.sockets) {
        c->smp.threads = c->smp.threads ? c->smp.threads : 1;
        c->smp.sockets = max / (c->smp.dies * c->smp.cores * c->smp.threads);
    }
    if (!c->smp.threads)
        c->smp.threads = max / (c->smp.sockets * c->smp.dies * c->smp.cores);
    c->smp.maxcpus = max ? max : c->smp.sockets * c->smp.dies * c->smp.cores * c->smp.threads;
    if (!c->smp.cpus)
        c->smp.cpus = c->smp.maxcpus;
}

static bool smp_finish(struct sys *s, struct err **errp)
{
    struct board_cfg *c = &s->cfg;
    uint64_t product;
    unsigned limit = s->board->max_cpus ? s->board->max_cpus : 1;

    smp_fill(c);
    product = (uint64_t)c->smp.sockets * c->smp.dies * c->smp.cores * c->smp.threads;
    if (product != c->smp.maxcpus) {
        err_set(errp,
                "-smp: invalid CPU topology: sockets (%u) * dies (%u) * cores (%u) * threads (%u) = %" PRIu64
                " does not match %s (%u)",
                c->smp.sockets, c->smp.dies, c->smp.cores, c->smp.threads, product,
                options_given(s, "smp") && c->smp.maxcpus != c->smp.cpus ? "maxcpus" : "cpus", c->smp.maxcpus);
        err_hint(errp, "leave one number out and it is computed, or give numbers whose product is %u", c->smp.maxcpus);
        return false;
    }
    if (c->smp.cpus > c->smp.maxcpus)
        return err_set(errp, "-smp: maxcpus (%u) must be at least the number of CPUs (%u)", c->smp.maxcpus,
                       c->smp.cpus);
    if (c->smp.maxcpus > limit)
        return err_set(errp, "-smp: %u CPUs are too many: machine '%s' supports at most %u", c->smp.maxcpus,
                       s->board->alias ? s->board->alias : s->board->machine, limit);
    return true;
}

/* -boot */

static bool boot_letters(const char *order, const char *key, struct err **errp)
{
    for (const char *p = order; *p; p++) {
        if (!strchr("abcdn", *p)) {
            err_set(errp, "%s=%s: '%c' is no boot device", key, order, *p);
            err_hint(errp, "a floppy, b second floppy, c hard disk, d CD-ROM, n network");
            return false;
        }
        if (strchr(p + 1, *p))
            return err_set(errp, "%s=%s: boot device '%c' was given twice", key, order, *p);
    }
    return true;
}

bool on_boot(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"order",       "once",           "menu",   "splash",
                                       "splash-time", "reboot-timeout", "strict", NULL};
    struct opts *p = opts_parse(val, "order", errp);
    const char *v;
    uint64_t splash = UINT64_MAX;
    bool ok;

    if (!p)
        return false;
    if ((v = opts_get(p, "order")))
        s->cfg.boot.order = xstrdup(v);
    if ((v = opts_get(p, "once")))
        s->cfg.boot.once = xstrdup(v);
    if ((v = opts_get(p, "splash")))
        s->cfg.boot.splash = xstrdup(v);
    ok = (!opts_peek(p, "order") || boot_letters(s->cfg.boot.order, "order", errp)) &&
         (!opts_peek(p, "once") || boot_letters(s->cfg.boot.once, "once", errp)) &&
         (!opts_peek(p, "splash") || file_readable(s->cfg.boot.splash, "boot splash picture", errp)) &&
         opts_bool(p, "menu", &s->cfg.boot.menu, errp) && opts_bool(p, "strict", &s->cfg.boot.strict, errp) &&
         opts_u64(p, "splash-time", &splash, errp);
    s->cfg.boot.menu_set |= opts_peek(p, "menu") != NULL;
    if (ok && splash != UINT64_MAX)
        s->cfg.boot.splash_time = splash > 0xffff ? 0xffff : (int)splash;
    if (ok && (v = opts_get(p, "reboot-timeout"))) {
        int64_t t;

        ok = str_to_i64(v, &t) && t >= -1 && t <= 0xffff;
        if (!ok)
            err_set(errp, "reboot-timeout=%s: expected -1 to 65535 milliseconds", v);
        else
            s->cfg.boot.reboot_timeout = (int)t;
    }
    ok = ok && opts_done(p, "boot", keys, errp);
    opts_free(p);
    return ok;
}

/* -rtc */

static bool rtc_base(struct sys *s, const char *v, struct err **errp)
{
    struct tm t = {0};
    const char *end;

    if (!strcmp(v, "utc") || !strcmp(v, "localtime")) {
        s->cfg.rtc.base = *v == 'l';
        return true;
    }
    end = strptime(v, "%Y-%m-%dT%H:%M:%S", &t);
    if (!end)
        end = strptime(v, "%Y-%m-%d", &t);
    if (!end || *end) {
        err_set(errp, "base=%s is no date", v);
        err_hint(errp, "expected utc, localtime, 2006-06-17 or 2006-06-17T16:01:21");
        return false;
    }
    s->cfg.rtc.base = 2;
    s->cfg.rtc.offset = timegm(&t) - time(NULL);
    return true;
}

static bool one_of(const char *key, const char *v, const char *const *list, struct err **errp)
{
    struct strbuf b = {0};

    if (!v)
        return true;
    for (unsigned i = 0; list[i]; i++) {
        if (!strcmp(v, list[i]))
            return true;
        str_addf(&b, "%s%s", i ? ", " : "", list[i]);
    }
    err_set(errp, "%s=%s is unknown", key, v);
    err_hint(errp, "%s is one of %s", key, b.s);
    str_free(&b);
    return false;
}

bool on_rtc(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"base", "clock", "driftfix", NULL};
    static const char *const clocks[] = {"host", "rt", "vm", NULL}, *const fixes[] = {"none", "slew", NULL};
    struct opts *p = opts_parse(val, "base", errp);
    const char *base, *fix;
    bool ok;

    if (!p)
        return false;
    base = opts_get(p, "base");
    fix = opts_get(p, "driftfix");
    ok = (!base || rtc_base(s, base, errp)) && one_of("clock", opts_get(p, "clock"), clocks, errp) &&
         one_of("driftfix", fix, fixes, errp) && opts_done(p, "rtc", keys, errp);
    if (ok && fix)
        s->cfg.rtc.driftfix_slew = *fix == 's';
    opts_free(p);
    return ok;
}

/* -name, -uuid */

bool on_name(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"guest", "process", "debug-threads", NULL};
    struct opts *p = opts_parse(val, "guest", errp);
    const char *v;
    bool threads, ok;

    if (!p)
        return false;
    if ((v = opts_get(p, "guest")))
        s->name = s->m->name = xstrdup(v);
    if ((v = opts_get(p, "process")))
        s->process_name = xstrdup(v);
    ok = opts_bool(p, "debug-threads", &threads, errp) && opts_done(p, "name", keys, errp);
    opts_free(p);
    return ok;
}

bool on_uuid(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    unsigned n = 0;
    const char *p = val;

    for (; n < 16 && isxdigit((unsigned char)p[0]) && isxdigit((unsigned char)p[1]); p += 2) {
        char two[3] = {p[0], p[1], 0};

        s->cfg.uuid[n++] = (uint8_t)strtoul(two, NULL, 16);
        if (p[2] == '-' && (n == 4 || n == 6 || n == 8 || n == 10))
            p++;
    }
    if (n != 16 || *p) {
        err_set(errp, "'%s' is no UUID", val);
        err_hint(errp, "expected the form 550e8400-e29b-41d4-a716-446655440000");
        return false;
    }
    s->cfg.uuid_set = s->m->uuid_set = true;
    memcpy(s->m->uuid, s->cfg.uuid, 16);
    return true;
}

/* -smbios, -fw_cfg, -acpitable: kept as lists for the board. */

static bool keep(struct opts **list, unsigned max, struct opts *p, struct err **errp)
{
    for (unsigned i = 0; p && i < max - 1; i++)
        if (!list[i]) {
            list[i] = p;
            return true;
        }
    if (p) {
        opts_free(p);
        err_set(errp, "too many of these: at most %u", max - 1);
    }
    return false;
}

bool on_smbios(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, NULL, errp);
    const char *file = p ? opts_peek(p, "file") : NULL, *type = p ? opts_peek(p, "type") : NULL;
    static const char *const types[] = {"0", "1", "2", "3", "4", "8", "9", "11", "16", "17", "19", "32", "127", NULL};
    bool ok = p != NULL;

    if (ok && file)
        ok = file_readable(file, "SMBIOS file", errp);
    else if (ok && !type)
        ok = err_set(errp, "expected file=FILE or type=N,field=value");
    else if (ok)
        ok = one_of("type", type, types, errp);
    if (!ok) {
        opts_free(p);
        return false;
    }
    return keep(s->smbios, ARRAY_LEN(s->smbios), p, errp);
}

bool on_fw_cfg(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "name", errp);
    const char *name, *file, *text;
    bool ok = p != NULL;

    if (!p)
        return false;
    name = opts_peek(p, "name");
    file = opts_peek(p, "file");
    text = opts_peek(p, "string");
    if (!name || !*name)
        ok = err_set(errp, "name=NAME is missing");
    else if (strlen(name) > 55)
        ok = err_set(errp, "name is longer than 55 bytes");
    else if (!opts_peek(p, "gen_id") && !!file + !!text != 1)
        ok = err_set(errp, "expected exactly one of file=FILE and string=TEXT");
    else if (file)
        ok = file_readable(file, "fw_cfg file", errp);
    if (!ok) {
        opts_free(p);
        return false;
    }
    if (strncmp(name, "opt/", 4))
        warn_report("externally provided fw_cfg item names should be prefixed with \"opt/\"");
    return keep(s->fw_cfg, ARRAY_LEN(s->fw_cfg), p, errp);
}

bool on_acpitable(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, NULL, errp);

    if (p && !opts_peek(p, "file") && !opts_peek(p, "data")) {
        opts_free(p);
        return err_set(errp, "expected file=FILE or data=FILE");
    }
    return keep(s->acpi, ARRAY_LEN(s->acpi), p, errp);
}

/* -numa */

static bool numa_node(struct sys *s, struct opts *p, struct err **errp)
{
    static const char *const keys[] = {"type", "nodeid", "mem", "memdev", "cpus", "initiator", NULL};
    struct numa_cfg *n = &s->cfg.numa;
    const char *cpus = opts_get(p, "cpus"), *memdev = opts_get(p, "memdev"), *mem = opts_get(p, "mem");
    uint64_t id = n->nodes;

    if (!opts_u64(p, "nodeid", &id, errp))
        return false;
    if (id >= ARRAY_LEN(n->node))
        return err_set(errp, "nodeid=%" PRIu64 " is too large: at most %zu", id, ARRAY_LEN(n->node) - 1);
    if (mem && memdev)
        return err_set(errp, "a node takes mem= or memdev=, not both");
    if (mem && !str_to_size(mem, 'M', &n->node[id].mem))
        return err_set(errp, "mem=%s is not a memory size", mem);
    if (memdev) {
        char *size;

        n->node[id].memdev = obj_child(s->m->objects, memdev);
        if (!n->node[id].memdev)
            return err_set(
                errp,
                "there is no memory back end with id '%s'; define it with -object memory-backend-ram,id=%s,size=...",
                memdev, memdev);
        size = obj_get(n->node[id].memdev, "size", NULL);
        if (size && !str_to_size(size, 'b', &n->node[id].mem))
            n->node[id].mem = 0;
        free(size);
    }
    if (cpus)
        n->node[id].cpus = xstrdup(cpus);
    n->nodes = (unsigned)max_u64(n->nodes, id + 1);
    opts_get(p, "initiator");
    return opts_done(p, "numa", keys, errp);
}

bool on_numa(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "type", errp);
    const char *type = p ? opts_get(p, "type") : NULL;
    bool ok = false;

    if (p && type && !strcmp(type, "node"))
        ok = numa_node(s, p, errp);
    else if (p)
        err_set(errp, "'%s' is not built into this program; -numa node,... is", type ? type : "");
    opts_free(p);
    return ok;
}

/* -action */

bool on_action(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"reboot", "shutdown", "panic", "watchdog", NULL};
    static const char *const reboot[] = {"reset", "shutdown", NULL}, *const shut[] = {"poweroff", "pause", NULL},
                             *const panic[] = {"shutdown", "pause", "exit-failure", "none", NULL},
                             *const dog[] = {"reset", "shutdown", "poweroff", "inject-nmi",
                                             "pause", "debug",    "none",     NULL};
    struct opts *p = opts_parse(val, *o->name == 'w' ? "watchdog" : NULL, errp);
    const char *r, *d, *a, *w;
    bool ok;

    if (!p)
        return false;
    r = opts_get(p, "reboot");
    d = opts_get(p, "shutdown");
    a = opts_get(p, "panic");
    w = opts_get(p, "watchdog");
    ok = opts_done(p, "action", keys, errp) && one_of("reboot", r, reboot, errp) && one_of("shutdown", d, shut, errp) &&
         one_of("panic", a, panic, errp) && one_of("watchdog", w, dog, errp);
    if (ok && r)
        s->m->no_reboot = *r == 's';
    if (ok && d)
        s->m->no_shutdown = *d == 'p' && d[1] == 'a';
    for (int i = 0; ok && a && panic[i]; i++)
        if (!strcmp(a, panic[i]))
            s->m->panic_action = (enum panic_action)i;
    for (int i = 0; ok && w && dog[i]; i++)
        if (!strcmp(w, dog[i]))
            s->action_watchdog = i;
    opts_free(p);
    return ok;
}

/* -global */

bool on_global(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    char driver[128], prop[128];
    int n = 0;
    const struct obj_class *c;
    AUTOFREE char *value = NULL;

    if (sscanf(val, "%127[^.=,].%127[^=]=%n", driver, prop, &n) == 2 && n) {
        value = xstrdup(val + n);
    } else {
        struct opts *p = opts_parse(val, NULL, errp);

        if (!p)
            return false;
        if (!opts_peek(p, "driver") || !opts_peek(p, "property") || !opts_peek(p, "value")) {
            opts_free(p);
            return err_set(errp, "expected driver.property=value");
        }
        snprintf(driver, sizeof driver, "%s", opts_peek(p, "driver"));
        snprintf(prop, sizeof prop, "%s", opts_peek(p, "property"));
        value = xstrdup(opts_peek(p, "value"));
        opts_free(p);
    }
    c = obj_class_find(driver);
    if (c && !obj_prop_find(c, prop)) {
        struct str_nearest near;
        const struct prop *p = NULL;

        str_nearest_init(&near, prop);
        while ((p = obj_prop_next(c, p)))
            str_nearest_try(&near, p->name);
        err_set(errp, "'%s' has no property '%s'", driver, prop);
        if (near.best)
            err_hint(errp, "did you mean '%s'? -device %s,help lists them", near.best, driver);
        return false;
    }
    obj_global_add(driver, prop, value);
    return true;
}

/* Accelerator. */

bool on_accel(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "accel", errp);
    const char *name = p ? opts_peek(p, "accel") : NULL;

    if (!p)
        return false;
    if (!name || s->nr_accels == ARRAY_LEN(s->accels)) {
        opts_free(p);
        return err_set(errp, name ? "too many accelerators" : "the accelerator's name is missing");
    }
    if (strchr(name, ':') && !strchr(val, ',')) {
        AUTOFREE char *list = xstrdup(name);
        char *save = NULL;

        for (char *t = strtok_r(list, ":", &save); t && s->nr_accels < ARRAY_LEN(s->accels);
             t = strtok_r(NULL, ":", &save))
            s->accels[s->nr_accels++] = xstrdup(t);
    } else {
        s->accels[s->nr_accels++] = xstrdup(val);
    }
    s->accel_asked = true;
    opts_free(p);
    return true;
}

bool on_enable_kvm(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    s->accel_kvm_flag = true;
    return true;
}

/* Options of their own that stand for a property of the translator. */
bool on_tcg(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    if (!s->tcg)
        s->tcg = opts_new();
    opts_set(s->tcg, !strcmp(o->name, "singlestep") ? "one-insn-per-tb" : o->name, val ? val : "on");
    return true;
}

bool on_icount(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    opts_free(s->icount);
    s->icount = opts_parse(val, "shift", errp);
    return s->icount != NULL;
}

static bool icount_start(struct sys *s, struct err **errp)
{
    const struct accel_class *k = machine_accel(s->m);

    if (!s->icount)
        return true;
    if (strcmp(k->name, "tcg") && strcmp(k->name, "interp"))
        return err_set(errp, "-icount counts instructions of -accel tcg and interp only, not of %s", k->name);
    s->m->icount = icount_new(s->m, s->icount, errp);
    return s->m->icount != NULL;
}

/* Names of ways to run that belong to other hosts, so that the refusal can say so. */
static const char *foreign_accel(const char *name)
{
    static const char *const map[][2] = {{"hvf", "macOS"},
                                         {"whpx", "Windows"},
                                         {"nvmm", "NetBSD"},
                                         {"haxm", "Windows or macOS"},
                                         {"hax", "Windows or macOS"},
                                         {"xen", "a Xen dom0"}};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (!strcmp(name, map[i][0]))
            return map[i][1];
    return NULL;
}

static void accel_unknown(const char *name, struct err **errp)
{
    const struct accel_class *k = NULL;
    struct strbuf all = {0};
    struct str_nearest near;

    str_nearest_init(&near, name);
    while ((k = accel_next(k))) {
        str_addf(&all, "%s%s", all.len ? ", " : "", k->name);
        str_nearest_try(&near, k->name);
    }
    if (foreign_accel(name))
        err_set(errp, "accelerator '%s' works on %s only", name, foreign_accel(name));
    else if (!strcmp(name, "kvm"))
        err_set(errp, "accelerator 'kvm' is not built into this program");
    else
        err_set(errp, "invalid accelerator '%s'", name);
    err_hint(errp, "built in: %s", all.s ? all.s : "none");
    str_free(&all);
}

static void add_tcg(struct sys *s, struct opts *p)
{
    static const char *const keys[] = {"one-insn-per-tb", "tb-size", NULL};

    for (unsigned i = 0; keys[i]; i++)
        if (s->tcg && opts_peek(s->tcg, keys[i]) && !opts_peek(p, keys[i]))
            opts_set(p, keys[i], opts_peek(s->tcg, keys[i]));
}

static bool accel_try(struct sys *s, const char *text, struct err **errp)
{
    struct opts *p = opts_parse(text, "accel", errp);
    const char *name = p ? opts_get(p, "accel") : NULL;
    const struct accel_class *k = name ? accel_find(name) : NULL;
    AUTOFREE char *what = name ? xasprintf("accelerator '%s'", name) : NULL;
    bool ok = false;

    if (!p)
        return false;
    if (!k) {
        accel_unknown(name, errp);
    } else if (!k->probe || k->probe(s->arch, errp)) {
        s->m->accel = k;
        if (!strcmp(k->name, "tcg"))
            add_tcg(s, p);
        ok = (!k->init || k->init(s->m, p, errp)) && opts_done(p, what, k->keys, errp);
        if (!ok)
            s->m->accel = NULL;
    }
    opts_free(p);
    return ok;
}

bool accel_start(struct sys *s, struct err **errp)
{
    static const char *const standard[] = {"tcg", "kvm", "qtest"};
    struct strbuf why = {0};
    bool chosen_by_user = s->accel_asked || s->accel_kvm_flag;

    if (s->accel_kvm_flag && s->nr_accels)
        return err_set(errp,
                       "-enable-kvm and -accel contradict each other; write -accel kvm first, then the fall-back");
    if (s->accel_kvm_flag)
        s->accels[s->nr_accels++] = xstrdup("kvm");
    if (!s->nr_accels)
        for (unsigned i = 0; i < ARRAY_LEN(standard); i++)
            if (accel_find(standard[i]))
                s->accels[s->nr_accels++] = xstrdup(standard[i]);
    for (unsigned i = 0; i < s->nr_accels; i++) {
        struct err *e = NULL;

        if (accel_try(s, s->accels[i], &e)) {
            s->accel_line =
                xasprintf("accelerator %s%s%s%s", machine_accel(s->m)->name, why.len ? " (" : "", why.s ? why.s : "",
                          why.len          ? ")"
                          : chosen_by_user ? ""
                                           : " (none was asked for)");
            if (why.len && chosen_by_user)
                info_report("%s", s->accel_line);
            str_free(&why);
            return icount_start(s, errp);
        }
        if (i + 1 == s->nr_accels) {
            err_move(errp, e);
            err_prefix(errp, "-accel %s: ", s->accels[i]);
            if (why.len)
                err_prefix(errp, "%s; ", why.s);
        } else {
            str_addf(&why, "%s%s", why.len ? "; " : "", e->msg);
            err_free(e);
        }
    }
    str_free(&why);
    return false;
}

/* After ST_MACHINE. */

static bool choose_board(struct sys *s, const char *type, struct err **errp)
{
    struct str_nearest near;
    const struct board_class *b = NULL;

    s->board = type            ? board_find(s->arch, type)
               : s->is_microvm ? board_find(s->arch, "microvm")
                               : board_default(s->arch);
    if (s->board)
        return true;
    if (!type) {
        err_set(errp, "no machine specified, and there is no default");
        err_hint(errp, "use -machine help to list supported machines");
        return false;
    }
    str_nearest_init(&near, type);
    while ((b = board_next(s->arch, b))) {
        str_nearest_try(&near, b->machine);
        if (b->alias)
            str_nearest_try(&near, b->alias);
    }
    err_set(errp, "unsupported machine type '%s'", type);
    if (near.best)
        err_hint(errp, "did you mean '%s'? Use -machine help to list supported machines", near.best);
    else
        err_hint(errp, "use -machine help to list supported machines");
    return false;
}

static bool machine_flags(struct sys *s, struct opts *p, struct err **errp)
{
    const char *accel = opts_get(p, "accel");

    if (accel) {
        if (s->nr_accels || s->accel_kvm_flag)
            return err_set(errp, "-machine accel= and -accel contradict each other; use one of them");
        if (!on_accel(s, NULL, accel, errp))
            return false;
    }
    opts_del(p, "accel");
    opts_del(p, "type");
    for (unsigned i = 0; i < s->nr_items; i++)
        s->cfg.usb |= s->items[i].o->fn == on_usbdevice; /* a device asks for the controller too */
    return opts_bool(p, "usb", &s->cfg.usb, errp);
}

bool conf_finish(struct sys *s, struct err **errp)
{
    struct opts *p = opts_parse(s->machine_text.s ? s->machine_text.s : "", NULL, errp);
    const char *type;

    if (!p)
        return false;
    type = opts_get(p, "type");
    s->cfg.machine_opts = p;
    if (!choose_board(s, type, errp) || !machine_flags(s, p, errp)) {
        err_prefix(errp, "-machine: ");
        return false;
    }
    s->cfg.board = s->board;
    return memory_finish(s, errp) && smp_finish(s, errp);
}
