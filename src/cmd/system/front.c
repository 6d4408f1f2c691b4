/* Devices, displays, logs, and the lists that `help` prints. */
#include "cmd/system/sys.h"
#include "dev/dev.h"
#include "guest/x86/cpuid.h"
#include "ui/vnc.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

bool on_help(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    options_print_help(s);
    sys_exit(0);
}

bool on_version(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    printf("QEMU emulator version %d.%d.%d (Lyrebird %s)\nLyrebird: an independent machine emulator with the command "
           "line and "
           "monitor of QEMU; MIT licence\n",
           MON_QEMU_MAJOR, MON_QEMU_MINOR, MON_QEMU_MICRO, LYREBIRD_VERSION);
    sys_exit(0);
}

/* Help lists: standard output, one item a line. */

void help_machine(struct sys *s, const char *what)
{
    const struct board_class *b = NULL;

    if (what) {
        b = board_find(s->arch, what);
        if (!b) {
            fprintf(stderr, "%s: unsupported machine type '%s'\nuse -machine help to list supported machines\n",
                    s->prog, what);
            sys_exit(1);
        }
        printf("%s options:\n", b->name);
        for (const struct prop *p = NULL; (p = obj_prop_next((const struct obj_class *)b, p));)
            printf("  %s=<%s>%s%s%s%s%s\n", p->name, p->type->name, p->help ? " - " : "", p->help ? p->help : "",
                   p->dflt ? " (default: " : "", p->dflt ? p->dflt : "", p->dflt ? ")" : "");
        printf(
            "  accel=<string> - Accelerator list\n  memory-backend=<string> - Id of a memory back end to use as RAM\n"
            "  pflash0=<string> - Block node of the first flash chip\n  pflash1=<string> - Block node of the second "
            "flash chip\n");
        return;
    }
    printf("Supported machines are:\n");
    while ((b = board_next(s->arch, b))) {
        if (b->alias)
            printf("%-20s %s (alias of %s)\n", b->alias, b->desc ? b->desc : "", b->machine);
        printf("%-20s %s%s%s\n", b->machine, b->desc ? b->desc : "", b->is_default ? " (default)" : "",
               b->deprecated ? " (deprecated)" : "");
    }
}

static bool creatable(const struct obj_class *c)
{
    const struct dev_class *d = (const struct dev_class *)c;

    return obj_class_is(c, "device") && c->size && !d->board_only && d->bus_type;
}

static void prop_line(const struct prop *p)
{
    AUTOFREE char *left = xasprintf("%s=<%s>", p->name, p->type->name);

    if (p->help || p->dflt)
        printf("  %-22s - %s%s%s%s\n", left, p->help ? p->help : "", p->dflt ? " (default: " : "",
               p->dflt ? p->dflt : "", p->dflt ? ")" : "");
    else
        printf("  %s\n", left);
}

static void class_help(struct sys *s, const char *what, const char *kind, bool device)
{
    const struct obj_class *c = obj_class_find(what);
    struct str_nearest near;

    if (c && (device ? creatable(c) : c->user)) {
        printf("%s options:\n", what);
        for (const struct prop *p = NULL; (p = obj_prop_next(c, p));)
            prop_line(p);
        return;
    }
    str_nearest_init(&near, what);
    for (c = NULL; (c = obj_class_next(c));)
        if (device ? creatable(c) : c->user)
            str_nearest_try(&near, c->name);
    fprintf(stderr, "%s: -%s %s: '%s' is not a valid %s name\n", s->prog, kind, what, what,
            device ? "device model" : "object type");
    if (near.best)
        fprintf(stderr, "did you mean '%s'? -%s help lists all\n", near.best, kind);
    else
        fprintf(stderr, "-%s help lists all\n", kind);
    sys_exit(1);
}

void help_device(struct sys *s, const char *what)
{
    static const char *const names[DEV_CAT_NR] = {[DEV_CAT_BRIDGE] = "Controller/Bridge/Hub",
                                                  [DEV_CAT_USB] = "USB",
                                                  [DEV_CAT_STORAGE] = "Storage",
                                                  [DEV_CAT_NETWORK] = "Network",
                                                  [DEV_CAT_INPUT] = "Input",
                                                  [DEV_CAT_DISPLAY] = "Display",
                                                  [DEV_CAT_SOUND] = "Sound",
                                                  [DEV_CAT_MISC] = "Misc",
                                                  [DEV_CAT_CPU] = "CPU",
                                                  [DEV_CAT_WATCHDOG] = "Watchdog"};
    static const int order[] = {DEV_CAT_BRIDGE,  DEV_CAT_USB,   DEV_CAT_STORAGE, DEV_CAT_NETWORK, DEV_CAT_INPUT,
                                DEV_CAT_DISPLAY, DEV_CAT_SOUND, DEV_CAT_MISC,    DEV_CAT_CPU,     DEV_CAT_WATCHDOG};
    bool any = false;

    if (what) {
        class_help(s, what, "device", true);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(order); i++) {
        bool head = false;

        for (const struct obj_class *c = NULL; (c = obj_class_next(c));) {
            const struct dev_class *d = (const struct dev_class *)c;

            if (!creatable(c) || d->category != (enum dev_category)order[i])
                continue;
            if (!head)
                printf("%s%s devices:\n", any ? "\n" : "", names[order[i]]);
            head = any = true;
            printf("name \"%s\", bus %s", c->name, d->bus_type);
            for (unsigned k = 0; c->aliases && c->aliases[k]; k++)
                printf(", alias \"%s\"", c->aliases[k]);
            printf(c->desc ? ", desc \"%s\"\n" : "\n", c->desc);
        }
    }
}

void help_object(struct sys *s, const char *what)
{
    if (what) {
        class_help(s, what, "object", false);
        return;
    }
    printf("List of user creatable objects:\n");
    for (const struct obj_class *c = NULL; (c = obj_class_next(c));)
        if (c->user)
            printf("  %s\n", c->name);
}

void help_chardev(struct sys *s, const char *what)
{
    printf("Available chardev backend types:\n");
    for (const char *t = NULL; (t = chr_type_next(t));)
        printf("  %s\n", t);
    printf("  mux (any of them with mux=on)\n");
}

void help_netdev(struct sys *s, const char *what)
{
    const struct net_backend *b = NULL;

    if (!what)
        printf("Available netdev backend types:\n");
    while ((b = net_backend_next(b))) {
        if (!what) {
            printf("%s\n", b->type);
        } else if (!strcmp(what, b->type)) {
            printf("%s options:\n", b->type);
            for (unsigned i = 0; b->keys && b->keys[i]; i++)
                printf("  %s\n", b->keys[i]);
        }
    }
}

void help_audiodev(struct sys *s, const char *what)
{
    const struct aud_driver *d = NULL;
    bool found = false;

    if (!what)
        printf("Available audio drivers:\n");
    while ((d = aud_driver_next(d))) {
        if (!what) {
            printf("%s\n", d->name);
        } else if (!strcmp(what, d->name)) {
            found = true;
            printf("%s options (%s):\n", d->name, d->desc);
            for (unsigned i = 0; aud_common_keys[i]; i++)
                printf("  %s\n", aud_common_keys[i]);
            for (unsigned i = 0; d->keys && d->keys[i]; i++)
                printf("  %s\n", d->keys[i]);
        }
    }
    if (what && !found) {
        fprintf(stderr, "%s: audio driver '%s' is not built into this program\n-audiodev help lists what is\n", s->prog,
                what);
        sys_exit(1);
    }
}

void help_nic(struct sys *s, const char *what)
{
    printf("Supported NIC models:\n");
    for (const struct obj_class *c = NULL; (c = obj_class_next(c));)
        if (creatable(c) && ((const struct dev_class *)c)->category == DEV_CAT_NETWORK)
            printf("%s\n", c->name);
}

void help_cpu(struct sys *s, const char *what)
{
    AUTOFREE char *text = x86_model_help();

    fputs(text, stdout);
}

void help_accel(struct sys *s, const char *what)
{
    const struct accel_class *k = NULL;

    if (what) {
        k = accel_find(what);
        if (!k) {
            fprintf(stderr, "%s: invalid accelerator '%s'\n-accel help lists what is built in\n", s->prog, what);
            sys_exit(1);
        }
        printf("%s options:\n", k->name);
        for (unsigned i = 0; k->keys && k->keys[i]; i++)
            printf("  %s\n", k->keys[i]);
        return;
    }
    printf("Accelerators supported by this program:\n");
    while ((k = accel_next(k)))
        printf("%s\n", k->name);
}

void help_display(struct sys *s, const char *what)
{
    printf("Available display backend types:\nnone\nvnc\n");
}

void help_vga(struct sys *s, const char *what)
{
    static const char *const map[][3] = {
        {"none", NULL, "no graphic card"},        {"std", "VGA", "standard VGA (default)"},
        {"cirrus", "cirrus-vga", "Cirrus VGA"},   {"virtio", "virtio-vga", "Virtio VGA"},
        {"vmware", "vmware-svga", "VMWare SVGA"}, {"qxl", "qxl-vga", "QXL VGA"}};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (!map[i][1] || obj_class_find(map[i][1]))
            printf("%-20s %s\n", map[i][0], map[i][2]);
}

void help_log(struct sys *s, const char *what)
{
    log_help(stdout);
}

/* Devices. A -device whose bus belongs to a later -device waits for it. */

static bool opts_names_later_bus(struct sys *s, unsigned at, const char *bus, unsigned *later)
{
    for (unsigned i = at + 1; i < s->nr_items; i++) {
        struct item *it = &s->items[i];
        struct opts *p;
        const char *id;
        bool hit;

        if (it->done || it->o->fn != on_device)
            continue;
        p = opts_parse(it->val, "driver", NULL);
        id = p ? opts_peek(p, "id") : NULL;
        hit = id && str_starts(bus, id) && (!bus[strlen(id)] || bus[strlen(id)] == '.');
        opts_free(p);
        if (hit) {
            *later = i;
            return true;
        }
    }
    return false;
}

static bool device_item(struct sys *s, unsigned i, struct err **errp);

static const struct dev_class *dev_class_of(const struct opts *p)
{
    const char *driver = opts_peek(p, "driver");
    const struct obj_class *c = driver ? obj_class_find(driver) : NULL;

    return c && obj_class_is(c, "device") ? (const struct dev_class *)c : NULL;
}

/* A USB device that finds no bus with a free port: a controller from a later -device comes first, or one is added. When
 * that cannot be, the device itself will say what it lacks. */
static bool usb_controller(struct sys *s, unsigned at, const struct opts *p, struct err **errp)
{
    const struct dev_class *c = dev_class_of(p);
    struct opts *x;

    if (!c || !c->bus_type || strcmp(c->bus_type, "USB") || opts_peek(p, "bus") || bus_find(s->m, NULL, "USB", NULL))
        return true;
    for (unsigned i = at + 1; i < s->nr_items; i++) {
        struct opts *o;
        bool hit;

        if (s->items[i].done || s->items[i].o->fn != on_device)
            continue;
        o = opts_parse(s->items[i].val, "driver", NULL);
        c = o ? dev_class_of(o) : NULL;
        hit = c && c->category == DEV_CAT_USB;
        opts_free(o);
        if (hit)
            return device_item(s, i, errp);
    }
    x = opts_new();
    opts_set(x, "driver", "qemu-xhci");
    dev_create(s->m, x, NULL);
    opts_free(x);
    return true;
}

static bool device_item(struct sys *s, unsigned i, struct err **errp)
{
    struct item *it = &s->items[i];
    struct opts *p = opts_parse(it->val, "driver", errp);
    unsigned later;
    bool ok = p != NULL;

    it->done = true;
    if (ok && opts_peek(p, "bus") && opts_names_later_bus(s, i, opts_peek(p, "bus"), &later) &&
        !device_item(s, later, errp)) {
        opts_free(p);
        return false;
    }
    if (ok && !usb_controller(s, i, p, errp)) {
        opts_free(p);
        return false;
    }
    ok = ok && dev_create(s->m, p, errp);
    opts_free(p);
    if (!ok)
        err_prefix(errp, "-device %.200s: ", it->val);
    return ok;
}

bool on_device(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    return true; /* devices_create walks the items itself */
}

bool on_usbdevice(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p;
    bool ok;
    AUTOFREE char *driver = xasprintf("usb-%s", !strcmp(val, "keyboard") ? "kbd" : val);

    if (!obj_class_find(driver))
        return err_set(errp, "USB device '%s' is not built into this program", val);
    p = opts_new();
    opts_set(p, "driver", driver);
    ok = dev_create(s->m, p, errp) != NULL;
    opts_free(p);
    return ok;
}

bool devices_create(struct sys *s, struct err **errp)
{
    for (unsigned i = 0; i < s->nr_items; i++)
        if (s->items[i].o->fn == on_device && !s->items[i].done && !device_item(s, i, errp))
            return false;
    return options_run(s, ST_DEVICE, errp);
}

/* A device that replaces a default one switches that off; a display without VGA registers stands beside the default
 * card. */
void devices_scan(struct sys *s)
{
    const struct {
        const char *driver;
        bool *flag;
    } map[] = {
        {"isa-serial", &s->default_serial}, {"isa-parallel", &s->default_parallel}, {"isa-fdc", &s->default_floppy},
        {"ide-cd", &s->default_cdrom},      {"ide-hd", &s->default_cdrom},          {"scsi-cd", &s->default_cdrom},
        {"VGA", &s->default_vga},           {"isa-vga", &s->default_vga},           {"cirrus-vga", &s->default_vga},
        {"virtio-vga", &s->default_vga},    {"qxl-vga", &s->default_vga},           {"vmware-svga", &s->default_vga},
        {"virtio-vga-gl", &s->default_vga}, {"ide-drive", &s->default_cdrom}};

    for (unsigned i = 0; i < s->nr_items; i++) {
        struct item *it = &s->items[i];
        struct opts *p;
        const char *driver;

        if (it->o->fn == on_netdev || it->o->fn == on_nic || it->o->fn == on_net)
            s->default_net = false;
        if (it->o->fn != on_device)
            continue;
        p = opts_parse(it->val, "driver", NULL);
        driver = p ? opts_peek(p, "driver") : NULL;
        for (unsigned k = 0; driver && k < ARRAY_LEN(map); k++)
            if (!strcmp(driver, map[k].driver))
                *map[k].flag = false;
        opts_free(p);
    }
}

/* Display. */

bool on_display(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const known[] = {"gtk", "sdl", "curses", "egl-headless", "dbus", "spice-app", "cocoa", NULL};
    AUTOFREE char *type = xstrndup(val, strcspn(val, ","));
    const char *near;

    s->display_set = true;
    if (!strcmp(type, "none"))
        return true;
    if (str_starts(val, "vnc=")) {
        static const struct option vnc = {.name = "display", .arg = "", .stage = ST_LAST, .fn = on_vnc};

        return options_add(s, &vnc, val + 4, errp);
    }
    for (unsigned i = 0; known[i]; i++)
        if (!strcmp(type, known[i])) {
            err_set(errp, "display '%s' is not built into this program", type);
            err_hint(errp, "available: none, vnc=ADDRESS; for a text console use -nographic, for pictures the "
                           "monitor's screendump");
            return false;
        }
    near = str_nearest(type, known);
    err_set(errp, "unknown display '%s'", type);
    err_hint(errp, near ? "did you mean '%s'? available: none, vnc=ADDRESS" : "available: none, vnc=ADDRESS", near);
    return false;
}

/* What viewers show in their title bar. */
static void vnc_title(struct sys *s, struct opts *p)
{
    AUTOFREE char *title = s->name ? xasprintf("Lyrebird (%s)", s->name) : NULL;

    if (p && title && !opts_peek(p, "title"))
        opts_set(p, "title", title);
}

bool on_vnc(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p;
    bool ok;

    if (!strcmp(val, "none"))
        return true;
    p = opts_parse(val, "vnc", errp);
    vnc_title(s, p);
    if (s->keyboard && strcmp(s->keyboard, "en-us"))
        warn_report("-k %s: VNC clients' key symbols are taken as a US keyboard's", s->keyboard);
    ok = p && vnc_new(s->m, p, errp);
    opts_free(p);
    return ok;
}

/* Nobody said how to show the screen: a VNC server on this host, and one line that says so. */
void display_default(struct sys *s)
{
    struct opts *p;
    struct vnc *v;

    if (s->display_set || s->cfg.nodefaults || !ui_console_get(s->m, 0))
        return;
    p = opts_new();
    opts_set(p, "vnc", "localhost:0");
    vnc_title(s, p);
    opts_set(p, "to", "99");
    v = vnc_new(s->m, p, NULL);
    opts_free(p);
    if (v)
        info_report("no display was chosen: VNC server running on %s:%s (-display none for none, -nographic for a "
                    "serial console here)",
                    vnc_host(v), vnc_service(v));
    else
        info_report("no display was chosen and no VNC port is free: running headless");
}

bool on_nographic(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    s->cfg.nographic = s->display_set = true;
    return true;
}

bool on_vga(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const map[][2] = {{"none", NULL},
                                         {"std", "VGA"},
                                         {"cirrus", "cirrus-vga"},
                                         {"virtio", "virtio-vga"},
                                         {"vmware", "vmware-svga"},
                                         {"qxl", "qxl-vga"}};

    s->default_vga = false;
    for (unsigned i = 0; i < ARRAY_LEN(map); i++) {
        if (strcmp(val, map[i][0]))
            continue;
        s->cfg.vga = map[i][0];
        if (!map[i][1] || obj_class_find(map[i][1]))
            return true;
        err_set(errp, "graphics card '%s' is not built into this program", val);
        err_hint(errp, "-vga help lists what is");
        return false;
    }
    err_set(errp, "unknown graphics card '%s'", val);
    err_hint(errp, "-vga help lists them");
    return false;
}

/* Log and process. */

bool on_log(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    unsigned mask = 0;
    const char *bad;

    if (!log_parse_mask(val, &mask, &bad)) {
        err_set(errp, "unknown log item '%.*s'", (int)strcspn(bad, ","), bad);
        err_hint(errp, "-d help lists them");
        return false;
    }
    log_set_mask(mask);
    return true;
}

bool on_logfile(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    return log_set_file(val) || err_set_errno(errp, errno, "cannot open log file '%s'", val);
}

bool on_refused(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    if (str_starts(val, "off"))
        return true;
    err_set(errp, "the system call filter is not built into this program");
    err_hint(errp, "leave -sandbox out, or confine the process with the service manager");
    return false;
}

bool on_runas(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    return proc_parse_user(s, val, errp);
}

bool on_run_with(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"user", "chroot", "async-teardown", NULL};
    struct opts *p = opts_parse(val, NULL, errp);
    const char *user, *root;
    bool async, ok;

    if (!p)
        return false;
    user = opts_get(p, "user");
    root = opts_get(p, "chroot");
    if (root)
        s->chroot = xstrdup(root);
    ok = (!user || proc_parse_user(s, user, errp)) && opts_bool(p, "async-teardown", &async, errp) &&
         opts_done(p, "run-with", keys, errp);
    opts_free(p);
    return ok;
}
