/* qemu-system-*: reads the options, builds one machine, runs it, and goes away leaving nothing behind.
 *
 * Order of work: collect options -> early settings -> background -> machine measures -> accelerator -> objects, back
 * ends
 * -> board -> devices -> board finish -> monitors -> give up root -> run. */
#include "cmd/system/sys.h"
#include "state/state.h"
#include "ui/term.h"
#include "ui/vnc.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

struct sys g_sys; /* the one machine of this process */

static void unused_global(const char *driver, const char *prop, const char *val, void *opaque)
{
    warn_report("global %s.%s=%s not used", driver, prop, val);
}

void sys_exit(int code)
{
    struct sys *s = &g_sys;

    fflush(stdout);
    if (s->run) {
        mon_set_free(s->mons); /* first: stopping below is no event for anybody */
        qtest_free(s->qtest);
        if (s->m && s->running_down)
            machine_stop(s->m, RS_SHUTDOWN);
        if (s->m && s->running_down && s->m->accel && machine_accel(s->m)->ended)
            machine_accel(s->m)->ended(s->m);
        s->mons = NULL;
        s->qtest = NULL;
        for (struct vnc *v; s->m && (v = vnc_find(s->m, NULL));)
            vnc_free(v);
        aud_set_free(s->auds);
        s->auds = NULL;
        if (s->blks)
            blk_drain_all(s->blks);
        blk_set_free(s->blks);
        chr_set_free(s->chrs);
        s->blks = NULL;
        s->chrs = NULL;
    }
    if (s->pidfile_ours)
        unlink(s->pidfile);
    fflush(NULL);
    _exit(code);
}

/* The remedy of a failure that the host named, where the one who met it had no better one. */
static const char *remedy(int errnum)
{
    switch (errnum) {
    case ENOENT:
    case ENOTDIR:
        return "check the path; relative paths start at the current directory";
    case EACCES:
    case EPERM:
        return "check the permissions of the file and its folders, and who runs this";
    case EISDIR:
        return "name a file in it";
    case EADDRINUSE:
        return "another program uses this port or socket: end it or choose another";
    case ENOSPC:
        return "free some space there or choose another place";
    case EMFILE:
        return "raise the limit of open files (ulimit -n)";
    case ENOMEM:
        return "lower -m or free some memory";
    default:
        return NULL;
    }
}

static void die(struct err *e)
{
    const char *hint = remedy(e->errnum);

    if (!e->hint && hint)
        err_hint(&e, "%s", hint);
    err_report(e);
    sys_exit(1);
}

/* The last part of the name decides: qemu-system-i386, -x86_64, -amd64, -x86_64-spice, -x86_64-microvm. */
static void read_program_name(struct sys *s, const char *argv0)
{
    const char *base = strrchr(argv0, '/'), *tail;

    s->prog = base ? base + 1 : argv0;
    s->arch = "x86_64";
    tail = strstr(s->prog, "qemu-system-");
    tail = tail ? tail + 12 : "";
    if (!strcmp(tail, "i386"))
        s->arch = "i386";
    s->is_spice = strstr(tail, "-spice") != NULL;
    s->is_microvm = strstr(tail, "-microvm") != NULL;
    err_set_program(s->prog);
}

static void hook_quit(void *opaque)
{
    struct sys *s = opaque;

    machine_request_shutdown(s->m, CAUSE_HOST_UI);
}

static void hook_exit_code(void *opaque, int v)
{
    struct sys *s = opaque;

    s->m->exit_code = v;
    machine_request_shutdown(s->m, CAUSE_GUEST_SHUTDOWN);
}

/* ---- text consoles: a term of the ui behind a vc of the chardevs ---- */

struct vc {
    struct ui_term *term; /* owned */
    struct chr *chr;      /* borrowed */
};

static void vc_typed(void *opaque, const uint8_t *buf, size_t len)
{
    chr_vc_input(((struct vc *)opaque)->chr, buf, len);
}

static void *hook_vc_new(void *opaque, struct chr *c, unsigned cols, unsigned rows)
{
    struct sys *s = opaque;
    struct vc *v = xnew(struct vc);

    cols = cols ? cols < UI_TERM_MAX ? cols : UI_TERM_MAX : 80;
    rows = rows ? rows < UI_TERM_MAX ? rows : UI_TERM_MAX : 24;
    v->chr = c;
    v->term = ui_term_new(s->m, chr_id(c), cols, rows, str_starts(chr_id(c), "compat_monitor"), vc_typed, v);
    if (v->term)
        return v;
    free(v);
    return NULL;
}

static void hook_vc_write(void *vc, const uint8_t *buf, size_t len)
{
    ui_term_write(((struct vc *)vc)->term, buf, len);
}

static void hook_vc_free(void *vc)
{
    ui_term_free(((struct vc *)vc)->term);
    free(vc);
}

static void machine_quit(struct machine *m, enum cause c)
{
    ev_loop_stop(m->run->loop);
}

static void create_core(struct sys *s)
{
    static const struct chr_hooks hooks = {.quit = hook_quit,
                                           .exit_code = hook_exit_code,
                                           .vc_new = hook_vc_new,
                                           .vc_write = hook_vc_write,
                                           .vc_free = hook_vc_free};

    s->run = run_new();
    s->m = machine_new(s->run);
    s->m->quit = machine_quit;
    s->chrs = chr_set_new(s->run, s->m->root);
    s->nets = net_set_new(s->run);
    s->auds = aud_set_new(s->run);
    s->blks = blk_set_new(s->run);
    chr_set_bind(s->chrs, s->m);
    net_set_bind(s->nets, s->m);
    aud_set_bind(s->auds, s->m);
    blk_set_bind(s->blks, s->m);
    blk_set_objects(s->blks, s->m->objects);
    ui_bind(s->m, s->run);
    chr_set_hooks(s->chrs, &hooks, s);
    s->ready_fd = -1;
    s->default_serial = s->default_parallel = s->default_monitor = s->default_cdrom = s->default_floppy = true;
    s->default_net = s->default_vga = true;
    s->cfg.boot.splash_time = s->cfg.boot.reboot_timeout = -1;
}

static void fill_cfg(struct sys *s)
{
    s->cfg.smbios = s->smbios;
    s->cfg.fw_cfg_items = s->fw_cfg;
    s->cfg.acpi_tables = s->acpi;
    s->cfg.drives = s->drives;
    s->cfg.nics = s->nics;
    s->m->ram_size = s->cfg.ram_size;
    if (!s->cfg.vga && !s->default_vga)
        s->cfg.vga = "none";
}

static bool unused_parts(struct sys *s, struct err **errp)
{
    for (unsigned i = 0; i < s->cfg.nr_drives; i++) {
        const struct drive_cfg *d = &s->drives[i];

        if (d->used || d->iface == IF_NONE || !blk_has_medium(d->blk))
            continue;
        err_set(errp, "machine type does not support this drive: '%s' (bus %d, unit %d)", d->id, d->bus, d->unit);
        err_hint(errp, "use if=none with an id, and a -device with drive=ID on a controller you add");
        return false;
    }
    for (unsigned i = 0; i < s->cfg.nr_nics; i++)
        if (!s->nics[i].used)
            warn_report("requested NIC (%s) was not created: the machine has no place for it",
                        s->nics[i].model ? s->nics[i].model : "default");
    return true;
}

/* What -machine names: memory-backend=ID, pflash0=NODE, pflash1=NODE. The board lets the nodes go to its flash devices.
 */
static bool find_named(struct sys *s, struct err **errp)
{
    const char *id = opts_get(s->cfg.machine_opts, "memory-backend");
    uint64_t total = 0;

    if (id && !(s->cfg.memdev = obj_child(s->m->objects, id))) {
        err_set(errp, "-machine memory-backend=%s: there is no memory back end with this id", id);
        err_hint(errp, "define it with -object memory-backend-ram,id=%s,size=...", id);
        return false;
    }
    if (id && s->cfg.mem_path) {
        err_set(errp, "-mem-path and -machine memory-backend=%s contradict each other", id);
        err_hint(errp, "give the path to -object memory-backend-file");
        return false;
    }
    for (unsigned i = 0; i < 2; i++) {
        const char *node = opts_get(s->cfg.machine_opts, i ? "pflash1" : "pflash0");

        if (node && !(s->cfg.pflash[i] = blk_attach(s->blks, node, s->m, errp))) {
            err_prefix(errp, "-machine pflash%u=%s: ", i, node);
            return false;
        }
    }
    for (unsigned i = 0; i < s->cfg.numa.nodes; i++)
        total += s->cfg.numa.node[i].mem;
    if (s->cfg.numa.nodes && total && total != s->cfg.ram_size && s->cfg.numa.node[0].memdev) {
        err_set(errp, "-numa: total memory for NUMA nodes (%#" PRIx64 ") should equal RAM size (%#" PRIx64 ")", total,
                s->cfg.ram_size);
        err_hint(errp, "make the sizes of the memory back ends add up to -m");
        return false;
    }
    return true;
}

static bool build(struct sys *s, struct err **errp)
{
    struct mon_cfg mc;

    if (!options_run(s, ST_EARLY, errp) || !proc_daemonize(s, errp))
        return false;
    proc_signals(s);
    s->display_set |= options_given(s, "vnc");
    devices_scan(s);
    if (!proc_pidfile(s, errp) || !options_run(s, ST_MACHINE, errp) || !conf_finish(s, errp) || !accel_start(s, errp))
        return false;
    for (enum stage st = ST_OBJECT; st <= ST_SERIAL; st++)
        if (!options_run(s, st, errp))
            return false;
    finish_fw_dirs(s);
    if (!find_named(s, errp) || !back_finish(s, errp))
        return false;
    fill_cfg(s);
    s->m->type = s->board->machine;
    if ((s->board->create && !s->board->create(s->m, &s->cfg, errp)) || !devices_create(s, errp) ||
        (s->board->finish && !s->board->finish(s->m, &s->cfg, errp)) || !unused_parts(s, errp))
        return false;
    if (!opts_done(s->cfg.machine_opts, "-machine", NULL, errp))
        return false;
    obj_global_unused(unused_global, NULL);
    s->move = state_move_new(s->m, s->blks);
    mc = (struct mon_cfg){.m = s->m,
                          .move = s->move,
                          .chrs = s->chrs,
                          .nets = s->nets,
                          .blks = s->blks,
                          .board = s->board,
                          .cfg = &s->cfg,
                          .arch = s->arch,
                          .accel_line = s->accel_line};
    s->mons = mon_set_new(&mc);
    return options_run(s, ST_MONITOR, errp) && monitors_finish(s, errp) && options_run(s, ST_LAST, errp) &&
           proc_drop(s, errp);
}

/* What was chosen because nobody did: one line. */
static void say_defaults(struct sys *s)
{
    bool accel = !s->accel_asked && !s->accel_kvm_flag, memory = !options_given(s, "m");

    if (!strcmp(s->board->machine, "none") || (!accel && !memory) || s->m->stepped)
        return;
    info_report("%u CPU%s, %" PRIu64 " MiB of memory%s, %s", s->cfg.smp.cpus, s->cfg.smp.cpus == 1 ? "" : "s",
                s->cfg.ram_size >> 20, memory ? " (-m changes it)" : "", s->accel_line);
}

static void arrived(void *opaque, const struct err *e)
{
    struct sys *s = opaque;
    struct err *said = NULL;

    if (!e)
        return;
    err_set(&said, "-incoming %s: %s", s->incoming, e->msg);
    err_report(said);
    sys_exit(1);
}

/* The machine is one that arrives now, or (defer) when a monitor says from where. */
static void expect_incoming(struct sys *s)
{
    struct err *e = NULL;

    state_move_expect(s->move, !s->start_paused);
    if (!strcmp(s->incoming, "defer") || state_move_in(s->move, s->incoming, arrived, s, &e))
        return;
    err_prefix(&e, "-incoming %s: ", s->incoming);
    die(e);
}

int main(int argc, char **argv)
{
    struct sys *s = &g_sys;
    struct err *e = NULL;

    read_program_name(s, argv[0]);
    create_core(s);
    if (!options_collect(s, argc, argv, &e) || !build(s, &e))
        die(e);
    s->running_down = true;
    say_defaults(s);
    display_default(s);
    machine_reset(s->m);
    if (s->loadvm && !state_snap_load(s->m, s->blks, NULL, s->loadvm, &e)) {
        err_prefix(&e, "-loadvm %s: ", s->loadvm);
        die(e);
    }
    if (s->incoming)
        expect_incoming(s);
    else if (!s->start_paused && s->m->state != RS_SUSPENDED)
        machine_start(s->m);
    proc_ready(s);
    ev_loop_run(s->run->loop);
    sys_exit(s->m->exit_code);
}
