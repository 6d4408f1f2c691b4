/* The human monitor: words, help, "did you mean", completion, and running one line. Commands are in hmp_*.c. */
#include "mon/mon_int.h"

#include <ctype.h>

/* "quit|q" holds quit and q. */
bool hmp_name_is(const struct hmp_cmd *c, const char *word)
{
    size_t n = strlen(word);

    for (const char *p = c->name; p; p = strchr(p, '|')) {
        p += *p == '|';
        if (!strncmp(p, word, n) && (!p[n] || p[n] == '|'))
            return true;
    }
    return false;
}

static const struct hmp_cmd *find(const struct hmp_cmd *list, const char *word)
{
    for (; list->name; list++)
        if (hmp_name_is(list, word))
            return list;
    return NULL;
}

/* The next blank-separated word of *p, with "quotes" and backslashes inside them undone; NULL at the end. */
static char *next_word(char **p)
{
    char *s = *p, *out, *start;

    while (isspace((unsigned char)*s))
        s++;
    if (!*s) {
        *p = s;
        return NULL;
    }
    start = out = s;
    if (*s == '"') {
        for (s++; *s && *s != '"'; s++) {
            if (*s == '\\' && s[1])
                s++;
            *out++ = *s == 'n' && s[-1] == '\\' ? '\n' : *s;
        }
        s += *s == '"';
    } else {
        while (*s && !isspace((unsigned char)*s))
            *out++ = *s++;
    }
    if (*s)
        s++;
    *p = s;
    *out = 0;
    return start;
}

static void split(struct hmp_args *a, char *line, unsigned max)
{
    a->rest = line + strspn(line, " \t");
    while (a->n < ARRAY_LEN(a->v)) {
        char *w;

        if (max == 255) { /* the whole rest is one word */
            if (*a->rest)
                a->v[a->n++] = (char *)(uintptr_t)a->rest;
            return;
        }
        w = next_word(&line);
        if (!w)
            return;
        a->v[a->n++] = w;
    }
}

static void suggest(struct mon *m, const struct hmp_cmd *list, const char *word, const char *what)
{
    struct str_nearest near;
    struct strbuf all = {0};
    char *save = NULL;

    for (const struct hmp_cmd *c = list; c->name; c++)
        str_addf(&all, "%s|", c->name);
    str_nearest_init(&near, word);
    for (char *w = strtok_r(all.s, "|", &save); w; w = strtok_r(NULL, "|", &save))
        str_nearest_try(&near, w);
    mon_printf(m, "unknown %s: '%s'\n", what, word);
    if (near.best)
        mon_printf(m, "did you mean '%s'? 'help' lists all commands\n", near.best);
    str_free(&all);
}

static void run(struct mon *m, const struct hmp_cmd *list, char *line, const char *what)
{
    struct hmp_args a = {0};
    const struct hmp_cmd *c;
    char *name, *rest = line;
    char *slash = NULL;
    char fmt[32] = "";

    name = next_word(&rest);
    if (!name)
        return;
    /* x/4xw: the format belongs to the arguments. */
    if ((slash = strchr(name, '/'))) {
        size_t n = min_u64(strlen(slash), sizeof fmt - 1);

        memcpy(fmt, slash, n);
        fmt[n] = 0;
        *slash = 0;
    }
    c = find(list, name);
    if (!c) {
        suggest(m, list, name, what);
        return;
    }
    if (*fmt)
        a.v[a.n++] = fmt;
    else if (*rest == '/' && strchr("xpio", *name)) { /* x /4xw */
        char *w = next_word(&rest);

        a.v[a.n++] = w;
    }
    split(&a, rest, c->max);
    if (a.n < c->min || (c->max != 255 && a.n > c->max)) {
        mon_printf(m, "%s: %s arguments; usage: %s %s\n", name, a.n < c->min ? "missing" : "too many", name, c->args);
        return;
    }
    c->fn(m, &a);
}

void hmp_run(struct mon *m, char *line)
{
    line += strspn(line, " \t");
    if (*line && *line != '#')
        run(m, hmp_cmds, line, "command");
}

static void help_one(struct mon *m, const struct hmp_cmd *c, const char *prefix)
{
    mon_printf(m, "%s%s%s%s -- %s\n", prefix, c->name, *c->args ? " " : "", c->args, c->help);
}

static void hmp_help(struct mon *m, struct hmp_args *a)
{
    const struct hmp_cmd *c;

    if (a->n && !strcmp(a->v[0], "info")) {
        const struct hmp_cmd *i = a->n > 1 ? find(hmp_info_cmds, a->v[1]) : NULL;

        if (i)
            help_one(m, i, "info ");
        else
            for (i = hmp_info_cmds; i->name; i++)
                help_one(m, i, "info ");
        return;
    }
    if (a->n) {
        c = find(hmp_cmds, a->v[0]);
        if (c)
            help_one(m, c, "");
        else
            suggest(m, hmp_cmds, a->v[0], "command");
        return;
    }
    for (c = hmp_cmds; c->name; c++)
        help_one(m, c, "");
}

static void hmp_info(struct mon *m, struct hmp_args *a)
{
    AUTOFREE char *line = NULL;

    if (!a->n) {
        for (const struct hmp_cmd *c = hmp_info_cmds; c->name; c++)
            help_one(m, c, "info ");
        return;
    }
    line = xstrdup(a->rest);
    run(m, hmp_info_cmds, line, "info item");
}

/* Shown by `help` in this order. */
#define HMP(n) void n(struct mon *m, struct hmp_args *a)
HMP(hmp_quit);
HMP(hmp_stop);
HMP(hmp_cont);
HMP(hmp_reset);
HMP(hmp_powerdown);
HMP(hmp_wakeup);
HMP(hmp_screendump);
HMP(hmp_sendkey);
HMP(hmp_mouse_move);
HMP(hmp_mouse_button);
HMP(hmp_mouse_set);
HMP(hmp_device_add);
HMP(hmp_device_del);
HMP(hmp_object_add);
HMP(hmp_object_del);
HMP(hmp_netdev_add);
HMP(hmp_netdev_del);
HMP(hmp_set_link);
HMP(hmp_hostfwd_add);
HMP(hmp_hostfwd_remove);
HMP(hmp_chardev_add);
HMP(hmp_chardev_remove);
HMP(hmp_chardev_break);
HMP(hmp_ringbuf_read);
HMP(hmp_ringbuf_write);
HMP(hmp_change);
HMP(hmp_eject);
HMP(hmp_log);
HMP(hmp_logfile);
HMP(hmp_x);
HMP(hmp_xp);
HMP(hmp_print);
HMP(hmp_in);
HMP(hmp_out);
HMP(hmp_sum);
HMP(hmp_gpa2hva);
HMP(hmp_gva2gpa);
HMP(hmp_memsave);
HMP(hmp_pmemsave);
HMP(hmp_nmi);
HMP(hmp_cpu);
HMP(hmp_balloon);
HMP(hmp_qom_list);
HMP(hmp_qom_get);
HMP(hmp_qom_set);
HMP(hmp_commit);
HMP(hmp_drive_add);
HMP(hmp_drive_del);
HMP(hmp_qemu_io);
HMP(hmp_block_resize);
HMP(hmp_block_stream);
HMP(hmp_io_throttle);
HMP(hmp_job_cancel);
HMP(hmp_job_complete);
HMP(hmp_job_pause);
HMP(hmp_job_resume);
HMP(hmp_job_speed);
HMP(hmp_drive_mirror);
HMP(hmp_drive_backup);
HMP(hmp_snapshot_blkdev);
HMP(hmp_snapshot_internal);
HMP(hmp_snapshot_delete_internal);
HMP(hmp_nbd_start);
HMP(hmp_nbd_add);
HMP(hmp_nbd_remove);
HMP(hmp_nbd_stop);
HMP(hmp_delvm);
HMP(hmp_savevm);
HMP(hmp_migrate);
HMP(hmp_migrate_cancel);
HMP(hmp_migrate_incoming);
HMP(hmp_migrate_set_parameter);
HMP(hmp_migrate_set_capability);
HMP(info_migrate);
HMP(info_migrate_parameters);
HMP(info_migrate_capabilities);
HMP(hmp_loadvm);
HMP(hmp_not_built);
HMP(hmp_set_password);
HMP(hmp_expire_password);
const struct hmp_cmd hmp_cmds[] = {
    {"help|?", "[cmd]", "show the help", hmp_help, 0, 2},
    {"info", "[item]", "show information; 'info' alone lists the items", hmp_info, 0, 255},
    {"quit|q", "", "end the program", hmp_quit, 0, 0},
    {"stop|s", "", "halt the CPUs and the virtual clock", hmp_stop, 0, 0},
    {"cont|c", "", "run again", hmp_cont, 0, 0},
    {"system_reset", "", "press the reset button", hmp_reset, 0, 0},
    {"system_powerdown", "", "press the power button: a guest with ACPI shuts down", hmp_powerdown, 0, 0},
    {"system_wakeup", "", "wake a suspended guest", hmp_wakeup, 0, 0},
    {"screendump", "[-f ppm|png] file [device]", "write the screen to a picture file", hmp_screendump, 1, 4},
    {"sendkey", "keys [hold_ms]", "press keys together, as in ctrl-alt-f2", hmp_sendkey, 1, 2},
    {"mouse_move", "dx dy [dz]", "move the mouse", hmp_mouse_move, 2, 3},
    {"mouse_button", "state", "set the mouse buttons (1 left, 2 middle, 4 right)", hmp_mouse_button, 1, 1},
    {"mouse_set", "index", "choose the pointing device ('info mice')", hmp_mouse_set, 1, 1},
    {"device_add", "driver[,prop=value][,...]", "plug a device in, as with -device", hmp_device_add, 1, 255},
    {"device_del", "id", "unplug a device", hmp_device_del, 1, 1},
    {"object_add", "type,id=name[,prop=value][,...]", "create an object", hmp_object_add, 1, 255},
    {"object_del", "id", "remove an object", hmp_object_del, 1, 1},
    {"netdev_add", "type,id=name[,prop=value][,...]", "make a network back end", hmp_netdev_add, 1, 255},
    {"netdev_del", "id", "remove a network back end", hmp_netdev_del, 1, 1},
    {"set_link", "name on|off", "plug or unplug a network cable", hmp_set_link, 2, 2},
    {"hostfwd_add", "[netdev_id] tcp|udp:[host]:port-[guest]:port", "forward a host port to the guest", hmp_hostfwd_add,
     1, 2},
    {"hostfwd_remove", "[netdev_id] tcp|udp:[host]:port", "end a forward", hmp_hostfwd_remove, 1, 2},
    {"chardev-add", "backend,id=name[,prop=value][,...]", "make a character device", hmp_chardev_add, 1, 255},
    {"chardev-remove", "id", "remove a character device", hmp_chardev_remove, 1, 1},
    {"chardev-send-break", "id", "send a break", hmp_chardev_break, 1, 1},
    {"ringbuf_read", "id size", "take bytes out of a ringbuf", hmp_ringbuf_read, 2, 2},
    {"ringbuf_write", "id text", "put bytes into a ringbuf", hmp_ringbuf_write, 2, 2},
    {"change", "device file [format [mode]] | vnc password [text]", "put another medium in, or set the VNC password",
     hmp_change, 2, 4},
    {"set_password", "vnc password [keep]", "set the password of the VNC server", hmp_set_password, 2, 3},
    {"expire_password", "vnc now|never|+seconds|time", "say when the password stops working", hmp_expire_password, 2,
     2},
    {"eject", "[-f] device", "take the medium out (-f: even when locked)", hmp_eject, 1, 2},
    {"log", "item1[,...]|none", "choose what is logged", hmp_log, 1, 1},
    {"logfile", "file", "write the log to this file", hmp_logfile, 1, 1},
    {"x", "/fmt addr", "show memory at a virtual address (fmt: count, x d u o c, b h w g)", hmp_x, 1, 255},
    {"xp", "/fmt addr", "show memory at a physical address", hmp_xp, 1, 255},
    {"print|p", "/fmt expr", "show the value of an expression ($reg for registers)", hmp_print, 1, 255},
    {"i", "/fmt port", "read an I/O port", hmp_in, 1, 2},
    {"o", "/fmt port value", "write an I/O port", hmp_out, 2, 3},
    {"sum", "addr size", "16-bit checksum of physical memory", hmp_sum, 2, 2},
    {"gpa2hva", "addr", "host address of a guest physical address", hmp_gpa2hva, 1, 1},
    {"gva2gpa", "addr", "physical address of a virtual one", hmp_gva2gpa, 1, 1},
    {"memsave", "addr size file", "save virtual memory", hmp_memsave, 3, 3},
    {"pmemsave", "addr size file", "save physical memory", hmp_pmemsave, 3, 3},
    {"nmi", "", "raise a non-maskable interrupt", hmp_nmi, 0, 1},
    {"cpu", "index", "choose the CPU that x, print and info registers look at", hmp_cpu, 1, 1},
    {"balloon", "MiB", "ask the guest to shrink to this size", hmp_balloon, 1, 1},
    {"qom-list", "[path]", "children and properties of an object", hmp_qom_list, 0, 1},
    {"qom-get", "path property", "value of a property", hmp_qom_get, 2, 2},
    {"qom-set", "path property value", "change a property", hmp_qom_set, 3, 3},
    {"savevm", "[tag]", "save the running machine and its disks under a name", hmp_savevm, 0, 1},
    {"loadvm", "tag", "go back to a saved machine", hmp_loadvm, 1, 1},
    {"delvm", "tag", "delete a snapshot from every drive", hmp_delvm, 1, 1},
    {"commit", "device|all", "write an overlay's data into its backing file", hmp_commit, 1, 1},
    {"block_resize", "device size", "change the size of a disk (a bare number counts MiB)", hmp_block_resize, 2, 2},
    {"block_set_io_throttle", "device bps bps_rd bps_wr iops iops_rd iops_wr", "limit a disk", hmp_io_throttle, 7, 7},
    {"block_stream", "device [speed [base]]", "pull the data of lower layers up", hmp_block_stream, 1, 3},
    {"block_job_set_speed", "device speed", "limit a block job (bytes/s)", hmp_job_speed, 2, 2},
    {"block_job_cancel", "[-f] device", "end a block job", hmp_job_cancel, 1, 2},
    {"block_job_complete", "device", "let a ready job take effect", hmp_job_complete, 1, 1},
    {"block_job_pause", "device", "let a block job rest", hmp_job_pause, 1, 1},
    {"block_job_resume", "device", "let it go on", hmp_job_resume, 1, 1},
    {"drive_add", "[-n] address options",
     "add a drive (if=none; the address is not looked at), or with -n a node as blockdev-add does", hmp_drive_add, 2,
     3},
    {"drive_del", "device", "take a drive or node away; a device that has it stays without", hmp_drive_del, 1, 1},
    {"qemu-io", "[-d] device \"command\"",
     "read or write a drive or node (-d: of a device); the command 'help' lists all", hmp_qemu_io, 2, 3},
    {"drive_mirror", "[-n] [-f] device target [format]",
     "copy a disk and keep the copy in step (-n: into an existing file, -f: all of it)", hmp_drive_mirror, 2, 5},
    {"drive_backup", "[-n] [-f] [-c] device target [format]", "copy a disk as it is now (-c: compressed)",
     hmp_drive_backup, 2, 6},
    {"snapshot_blkdev", "[-n] device new-file [format]", "put an overlay on a disk", hmp_snapshot_blkdev, 2, 4},
    {"snapshot_blkdev_internal", "device name", "take an internal snapshot of one disk", hmp_snapshot_internal, 2, 2},
    {"snapshot_delete_blkdev_internal", "device name [id]", "delete one", hmp_snapshot_delete_internal, 2, 3},
    {"nbd_server_start", "[-a] [-w] host:port", "serve disks over NBD (-a: all drives, -w: writable)", hmp_nbd_start, 1,
     3},
    {"nbd_server_add", "[-w] device [name]", "export a disk", hmp_nbd_add, 1, 3},
    {"nbd_server_remove", "[-f] name", "end an export", hmp_nbd_remove, 1, 2},
    {"nbd_server_stop", "", "end the NBD server", hmp_nbd_stop, 0, 0},
    {"gdbserver", "[device]", "wait for a debugger (not built into this program)", hmp_not_built, 0, 1},
    {"migrate", "[-d] uri", "stop and move the machine to exec:, fd:, file:, tcp: or unix:; -d: without waiting",
     hmp_migrate, 1, 255},
    {"migrate_cancel", "", "end a move: the machine goes on here", hmp_migrate_cancel, 0, 0},
    {"migrate_incoming", "uri", "receive a machine (after -incoming defer)", hmp_migrate_incoming, 1, 255},
    {"migrate_set_capability", "capability on|off", "switch something of moves", hmp_migrate_set_capability, 2, 2},
    {"migrate_set_parameter", "parameter value", "set a measure of moves: max-bandwidth", hmp_migrate_set_parameter, 2,
     2},
    {NULL, NULL, NULL, NULL, 0, 0}};

HMP(info_status);
HMP(info_version);
HMP(info_name);
HMP(info_uuid);
HMP(info_kvm);
HMP(info_jit);
HMP(info_registers);
HMP(info_cpus);
HMP(info_mtree);
HMP(info_qtree);
HMP(info_qom_tree);
HMP(info_block);
HMP(info_block_jobs);
HMP(info_blockstats);
HMP(info_network);
HMP(info_pic);
HMP(info_usernet);
HMP(info_chardev);
HMP(info_pci);
HMP(info_mice);
HMP(info_history);
HMP(info_tlb);
HMP(info_mem);
HMP(info_memsize);
HMP(info_balloon);
HMP(info_snapshots);
HMP(info_usb);
HMP(info_roms);
HMP(info_numa);
HMP(info_vnc);
#undef HMP
const struct hmp_cmd hmp_info_cmds[] = {
    {"balloon", "", "how much memory the balloon leaves the guest", info_balloon, 0, 0},
    {"block", "[-v] [device]", "the drives and what is in them", info_block, 0, 2},
    {"block-jobs", "", "the block jobs", info_block_jobs, 0, 0},
    {"blockstats", "", "counters of each drive", info_blockstats, 0, 0},
    {"chardev", "", "the character devices", info_chardev, 0, 0},
    {"cpus", "", "the CPUs and their threads", info_cpus, 0, 0},
    {"history", "", "lines typed here", info_history, 0, 0},
    {"jit", "", "what the accelerator tells about itself", info_jit, 0, 0},
    {"kvm", "", "whether KVM runs the guest", info_kvm, 0, 0},
    {"mem", "", "the ranges mapped by the guest's page tables", info_mem, 0, 0},
    {"memory_size_summary", "", "memory at the start and plugged in", info_memsize, 0, 0},
    {"mice", "", "the pointing devices", info_mice, 0, 0},
    {"mtree", "[-f]", "the memory map (-f: flattened)", info_mtree, 0, 3},
    {"name", "", "the name given with -name", info_name, 0, 0},
    {"network", "", "network cards and back ends", info_network, 0, 0},
    {"numa", "", "NUMA nodes", info_numa, 0, 0},
    {"pci", "", "the PCI functions and their addresses", info_pci, 0, 0},
    {"pic", "", "the interrupt controllers", info_pic, 0, 0},
    {"qom-tree", "[path]", "the tree of objects", info_qom_tree, 0, 1},
    {"migrate", "", "the latest move of the machine", info_migrate, 0, 0},
    {"migrate_capabilities", "", "switches of moves", info_migrate_capabilities, 0, 0},
    {"migrate_parameters", "", "measures of moves", info_migrate_parameters, 0, 0},
    {"qtree", "[-b]", "the tree of buses and devices with their properties", info_qtree, 0, 1},
    {"registers", "[-a]", "the CPU's registers (-a: of all CPUs)", info_registers, 0, 1},
    {"roms", "", "the read-only memory blocks", info_roms, 0, 0},
    {"snapshots", "", "saved machines", info_snapshots, 0, 0},
    {"status", "", "does the machine run, and which accelerator runs it", info_status, 0, 0},
    {"tlb", "", "the guest's address translations, page by page", info_tlb, 0, 0},
    {"usb", "", "USB devices", info_usb, 0, 0},
    {"usernet", "", "connections of user networks", info_usernet, 0, 0},
    {"uuid", "", "the UUID given with -uuid", info_uuid, 0, 0},
    {"vnc", "", "the VNC server and its viewers", info_vnc, 0, 0},
    {"version", "", "the version of this program", info_version, 0, 0},
    {NULL, NULL, NULL, NULL, 0, 0}};

/* Completion. */

static void complete_list(const struct hmp_cmd *list, void (*add)(void *opaque, const char *word), void *opaque)
{
    for (; list->name; list++) {
        AUTOFREE char *names = xstrdup(list->name);
        char *save = NULL;

        for (char *w = strtok_r(names, "|", &save); w; w = strtok_r(NULL, "|", &save))
            if (*w != '?')
                add(opaque, w);
    }
}

static void complete_class(const char *family, bool user, void (*add)(void *opaque, const char *word), void *opaque)
{
    for (const struct obj_class *c = NULL; (c = obj_class_next(c));)
        if (c->size && (user ? c->user : obj_class_is(c, family)))
            add(opaque, c->name);
}

static void complete_children(struct obj *parent, void (*add)(void *opaque, const char *word), void *opaque)
{
    struct obj *c;

    list_each (c, &parent->children, sibling)
        add(opaque, c->name);
}

void hmp_complete(struct mon *m, const char *line, void (*add)(void *opaque, const char *word), void *opaque)
{
    char first[32];
    size_t n = strcspn(line, " ");
    struct machine *mm = mon_machine(m);

    if (!line[n]) {
        complete_list(hmp_cmds, add, opaque);
        return;
    }
    if (strchr(line + n + 1, ' ') || n >= sizeof first)
        return;
    memcpy(first, line, n);
    first[n] = 0;
    if (!strcmp(first, "info"))
        complete_list(hmp_info_cmds, add, opaque);
    else if (!strcmp(first, "help") || !strcmp(first, "?"))
        complete_list(hmp_cmds, add, opaque);
    else if (!strcmp(first, "device_add"))
        complete_class("device", false, add, opaque);
    else if (!strcmp(first, "object_add"))
        complete_class("", true, add, opaque);
    else if (!strcmp(first, "device_del"))
        complete_children(mm->peripheral, add, opaque);
    else if (!strcmp(first, "object_del"))
        complete_children(mm->objects, add, opaque);
}
