/* Back ends from the command line: objects, chardevs, block nodes, drives, network, monitors, and the defaults that
 * stand in where nothing was asked for. */
#include "cmd/system/sys.h"

#include <errno.h>
#include <stdio.h>

/* -object: those that lean on a chardev, netdev or drive wait for ST_OBJECT2. */

static bool object_is_late(const char *type)
{
    return !strcmp(type, "rng-egd") || str_starts(type, "filter-") || str_starts(type, "colo-") ||
           str_starts(type, "cryptodev-vhost") || str_starts(type, "can-") || str_starts(type, "x-remote") ||
           str_starts(type, "input-");
}

bool on_object(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "qom-type", errp);
    const char *type = p ? opts_peek(p, "qom-type") : NULL;
    bool ok = false;

    if (p && type && object_is_late(type)) {
        static const struct option late = {.name = "object", .arg = "", .stage = ST_OBJECT2, .fn = on_object2};

        ok = options_add(s, &late, val, errp);
    } else if (p) {
        ok = mon_object_add(s->m, p, errp);
    }
    opts_free(p);
    return ok;
}

bool on_object2(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "qom-type", errp);
    bool ok = p && mon_object_add(s->m, p, errp);

    opts_free(p);
    return ok;
}

bool on_chardev(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "backend", errp);
    bool ok = p && chr_create(s->chrs, p, errp);

    opts_free(p);
    return ok;
}

/* Disks. */

bool on_blockdev(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "driver", errp);
    bool ok = p != NULL;

    if (ok && !opts_peek(p, "node-name"))
        ok = err_set(errp, "node-name=NAME is missing");
    ok = ok && blk_node_add(s->blks, p, errp);
    opts_free(p);
    return ok;
}

static const struct {
    const char *name;
    enum drive_if iface;
    unsigned per_bus; /* units on one bus; 0 = all on bus 0 */
} ifaces[] = {{"none", IF_NONE, 0},     {"ide", IF_IDE, 2},       {"scsi", IF_SCSI, 7},
              {"floppy", IF_FLOPPY, 0}, {"pflash", IF_PFLASH, 0}, {"mtd", IF_MTD, 0},
              {"sd", IF_SD, 0},         {"virtio", IF_VIRTIO, 0}, {"sata", IF_SATA, 2}};

static bool drive_if(struct sys *s, const char *text, enum drive_if *out, struct err **errp)
{
    struct strbuf all = {0};

    if (!text) {
        *out = s->board->default_if == IF_DEFAULT ? IF_IDE : s->board->default_if;
        return true;
    }
    for (unsigned i = 0; i < ARRAY_LEN(ifaces); i++) {
        if (!strcmp(text, ifaces[i].name)) {
            *out = ifaces[i].iface;
            return true;
        }
        str_addf(&all, "%s%s", i ? ", " : "", ifaces[i].name);
    }
    err_set(errp, "if=%s: unsupported bus type '%s'", text, text);
    err_hint(errp, "if= is one of %s", all.s);
    str_free(&all);
    return false;
}

static unsigned units_per_bus(const struct sys *s, enum drive_if f)
{
    if ((f == IF_IDE || f == IF_SATA) && s->board->ide_units)
        return s->board->ide_units;
    for (unsigned i = 0; i < ARRAY_LEN(ifaces); i++)
        if (ifaces[i].iface == f)
            return ifaces[i].per_bus;
    return 0;
}

static const char *if_name(enum drive_if f)
{
    for (unsigned i = 0; i < ARRAY_LEN(ifaces); i++)
        if (ifaces[i].iface == f)
            return ifaces[i].name;
    return "none";
}

static bool place_taken(const struct sys *s, enum drive_if f, int bus, int unit)
{
    for (unsigned i = 0; i < s->cfg.nr_drives; i++)
        if (s->drives[i].iface == f && s->drives[i].bus == bus && s->drives[i].unit == unit)
            return true;
    return false;
}

/* bus=, unit= or index=, or the first free place. */
static bool drive_place(struct sys *s, struct drive_cfg *d, struct err **errp)
{
    unsigned per = units_per_bus(s, d->iface);

    if (d->index >= 0) {
        if (d->bus >= 0 || d->unit >= 0)
            return err_set(errp, "index cannot be used with bus and unit");
        d->bus = per ? d->index / (int)per : 0;
        d->unit = per ? d->index % (int)per : d->index;
    }
    if (d->bus < 0)
        d->bus = 0;
    if (per && d->unit >= (int)per)
        return err_set(errp, "unit %d is too big: %s buses hold units 0 to %u", d->unit, if_name(d->iface), per - 1);
    if (d->unit < 0) {
        d->unit = 0;
        while (place_taken(s, d->iface, d->bus, d->unit)) {
            d->unit++;
            if (per && d->unit >= (int)per) {
                d->unit = 0;
                d->bus++;
            }
        }
    }
    if (d->iface != IF_NONE && place_taken(s, d->iface, d->bus, d->unit)) {
        err_set(errp, "a drive with bus=%d, unit=%d (index=%d) exists already", d->bus, d->unit,
                per ? d->bus * (int)per + d->unit : d->unit);
        err_hint(errp, "leave index out, or give another one (-hda to -hdd are 0 to 3, -cdrom is 2)");
        return false;
    }
    d->index = per ? d->bus * (int)per + d->unit : d->unit;
    return true;
}

static char *drive_id(struct sys *s, const struct drive_cfg *d)
{
    unsigned per = units_per_bus(s, d->iface);
    const char *media = d->cdrom ? "-cd" : "-hd";

    if (d->iface == IF_NONE || d->iface == IF_VIRTIO || d->iface == IF_PFLASH || d->iface == IF_FLOPPY || !per)
        return xasprintf("%s%d", if_name(d->iface), d->unit);
    return xasprintf("%s%d%s%d", if_name(d->iface), d->bus, media, d->unit);
}

/* Device properties given with -drive, passed on to the device the board makes. */
static void move_device_opts(struct opts *p, struct drive_cfg *d)
{
    static const char *const keys[] = {"serial", "addr", NULL};

    d->opts = opts_new();
    for (unsigned i = 0; keys[i]; i++)
        if (opts_peek(p, keys[i])) {
            opts_set(d->opts, keys[i], opts_peek(p, keys[i]));
            opts_del(p, keys[i]);
        }
}

static bool take_int(struct opts *p, const char *key, int *out, struct err **errp)
{
    uint64_t v = UINT64_MAX;

    if (!opts_u64(p, key, &v, errp))
        return false;
    if (v != UINT64_MAX && v > 255)
        return err_set(errp, "%s=%s is too large", key, opts_peek(p, key));
    if (v != UINT64_MAX)
        *out = (int)v;
    opts_del(p, key);
    return true;
}

/* p is consumed. */
static bool drive_add(struct sys *s, struct opts *p, struct err **errp)
{
    struct drive_cfg *d = &s->drives[s->cfg.nr_drives];
    const char *media = opts_get(p, "media"), *id = opts_peek(p, "id");
    bool ok;

    *d = (struct drive_cfg){.bus = -1, .unit = -1, .index = -1};
    if (s->cfg.nr_drives == ARRAY_LEN(s->drives)) {
        opts_free(p);
        return err_set(errp, "too many drives: at most %zu", ARRAY_LEN(s->drives));
    }
    d->cdrom = media && !strcmp(media, "cdrom");
    ok = drive_if(s, opts_get(p, "if"), &d->iface, errp) && take_int(p, "bus", &d->bus, errp) &&
         take_int(p, "unit", &d->unit, errp) && take_int(p, "index", &d->index, errp);
    if (ok && media && !d->cdrom && strcmp(media, "disk"))
        ok = err_set(errp, "media=%s: expected disk or cdrom", media);
    if (ok && d->cdrom && d->iface == IF_VIRTIO)
        ok = err_set(errp, "media=cdrom is not supported with if=virtio; use if=ide, or if=none with -device scsi-cd");
    ok = ok && drive_place(s, d, errp);
    if (ok) {
        move_device_opts(p, d);
        opts_del(p, "if");
        opts_del(p, "media");
        if (d->cdrom && !opts_peek(p, "readonly") && !opts_peek(p, "read-only"))
            opts_set(p, "read-only", "on");
        if (s->snapshot && !opts_peek(p, "snapshot") && !d->cdrom)
            opts_set(p, "snapshot", "on");
        d->id = id ? xstrdup(id) : drive_id(s, d);
        opts_del(p, "id");
        d->blk = blk_drive_add(s->blks, d->id, p, errp);
        ok = d->blk != NULL;
    }
    opts_free(p);
    s->cfg.nr_drives += ok;
    return ok;
}

bool on_drive(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, NULL, errp);

    return p && drive_add(s, p, errp);
}

bool on_disk(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const struct {
        const char *name, *iface, *index, *media;
    } map[] = {{"fda", "floppy", "0", NULL},   {"fdb", "floppy", "1", NULL},     {"hda", NULL, "0", "disk"},
               {"hdb", NULL, "1", "disk"},     {"hdc", NULL, "2", "disk"},       {"hdd", NULL, "3", "disk"},
               {"cdrom", NULL, "2", "cdrom"},  {"pflash", "pflash", NULL, NULL}, {"sd", "sd", NULL, NULL},
               {"mtdblock", "mtd", NULL, NULL}};
    struct opts *p = opts_new();

    for (unsigned i = 0; i < ARRAY_LEN(map); i++) {
        if (strcmp(o->name, map[i].name))
            continue;
        if (map[i].iface)
            opts_set(p, "if", map[i].iface);
        if (map[i].index)
            opts_set(p, "index", map[i].index);
        if (map[i].media)
            opts_set(p, "media", map[i].media);
    }
    opts_set(p, "file", val);
    return drive_add(s, p, errp);
}

/* Network. */

bool on_netdev(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "type", errp);
    bool ok = p && net_create(s->nets, p, errp);

    opts_free(p);
    return ok;
}

/* Sound. */

bool on_audiodev(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "driver", errp);
    bool ok = p && aud_create(s->auds, p, errp);

    opts_free(p);
    return ok;
}

/* -audio: the card comes as -device would bring it, or is the machine's speaker. */
static const struct {
    const char *model, *desc, *devices[2];
} cards[] = {{"ac97", "Intel 82801AA AC97 Audio", {"AC97"}},
             {"hda", "Intel HD Audio", {"intel-hda", "hda-duplex"}},
             {"pcspk", "PC speaker", {NULL}}};

static bool add_card(struct sys *s, const char *model, const char *id, struct err **errp)
{
    struct strbuf all = {0};

    for (unsigned i = 0; i < ARRAY_LEN(cards); i++) {
        str_addf(&all, "%s%s", i ? ", " : "", cards[i].model);
        if (strcmp(cards[i].model, model))
            continue;
        str_free(&all);
        if (!cards[i].devices[0])
            opts_set(s->cfg.machine_opts, "pcspk-audiodev", id);
        for (unsigned k = 0; k < 2 && cards[i].devices[k]; k++) {
            bool codec = k + 1 == ARRAY_LEN(cards[i].devices) || !cards[i].devices[k + 1];
            AUTOFREE char *d = xasprintf(codec ? "%s,audiodev=%s" : "%s", cards[i].devices[k], id);

            if (!options_add(s, option_find("device"), d, errp))
                return false;
        }
        return true;
    }
    err_set(errp, "there is no sound card '%s'", model);
    err_hint(errp, "model= is one of %s", all.s);
    str_free(&all);
    return false;
}

bool on_audio(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "driver", errp);
    const char *model = p ? opts_get(p, "model") : NULL;
    struct aud_dev *d;
    bool ok = false;

    if (model && !strcmp(model, "help")) {
        help_audio(s, NULL);
        sys_exit(0);
    }
    if (p && !model) {
        err_set(errp, "model= is missing");
        err_hint(errp, "-audio DRIVER,model=help lists the cards; for a back end alone there is -audiodev");
    } else if (p) {
        if (!opts_peek(p, "id"))
            opts_set(p, "id", "audio0");
        d = aud_create(s->auds, p, errp);
        ok = d && add_card(s, model, aud_dev_id(d), errp);
    }
    opts_free(p);
    return ok;
}

void help_audio(struct sys *s, const char *what)
{
    printf("Sound cards:\n");
    for (unsigned i = 0; i < ARRAY_LEN(cards); i++)
        printf("%-11s %s\n", cards[i].model, cards[i].desc);
}

static bool take_mac(struct opts *p, const char *key, struct mac *out, struct err **errp)
{
    const char *v = opts_get(p, key);
    unsigned b[6];
    int n = 0;

    if (!v)
        return true;
    if (sscanf(v, "%2x:%2x:%2x:%2x:%2x:%2x%n", b, b + 1, b + 2, b + 3, b + 4, b + 5, &n) != 6 || v[n]) {
        err_set(errp, "%s=%s is no MAC address", key, v);
        err_hint(errp, "expected six hexadecimal bytes such as 52:54:00:12:34:56");
        return false;
    }
    if (b[0] & 1)
        return err_set(errp, "%s=%s is a multicast address; the first byte must be even", key, v);
    for (unsigned i = 0; i < 6; i++)
        out->a[i] = (uint8_t)b[i];
    opts_del(p, key);
    return true;
}

static struct nic_cfg *new_nic(struct sys *s, struct err **errp)
{
    struct nic_cfg *n = &s->nics[s->cfg.nr_nics];

    if (s->cfg.nr_nics == ARRAY_LEN(s->nics)) {
        err_set(errp, "too many network cards: at most %zu", ARRAY_LEN(s->nics));
        return NULL;
    }
    *n = (struct nic_cfg){0};
    return n;
}

static const char *take_text(struct opts *p, const char *key)
{
    const char *v = opts_get(p, key);
    char *copy = v ? xstrdup(v) : NULL;

    opts_del(p, key);
    return copy;
}

bool on_nic(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "type", errp);
    struct nic_cfg *n;
    const char *type;
    bool ok;

    s->default_net = false;
    if (!p)
        return false;
    type = opts_peek(p, "type");
    if (type && !strcmp(type, "none")) {
        opts_free(p);
        return true;
    }
    if (opts_peek(p, "model") && !strcmp(opts_peek(p, "model"), "help")) {
        opts_free(p);
        help_nic(s, NULL);
        sys_exit(0);
    }
    n = new_nic(s, errp);
    ok = n && take_mac(p, "mac", &n->mac, errp);
    if (ok) {
        n->model = take_text(p, "model");
        n->id = take_text(p, "id");
        if (!type)
            opts_set(p, "type", "user");
        if (!opts_peek(p, "id")) {
            AUTOFREE char *id = xasprintf("nic%u-backend", s->cfg.nr_nics);

            opts_set(p, "id", id);
        }
        n->backend = net_create(s->nets, p, errp);
        ok = n->backend != NULL;
    }
    opts_free(p);
    s->cfg.nr_nics += ok;
    return ok;
}

/* The old -net: one card and one back end meet directly. */
bool on_net(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct opts *p = opts_parse(val, "type", errp);
    const char *type = p ? opts_peek(p, "type") : NULL;
    struct nic_cfg *n = NULL;
    bool ok = p != NULL;

    s->default_net = false;
    if (ok && !type)
        ok = err_set(errp, "expected nic, none or a back end type");
    if (!ok || !strcmp(type, "none")) {
        opts_free(p);
        return ok;
    }
    for (unsigned i = 0; i < s->cfg.nr_nics; i++)
        if (!s->nics[i].backend || !s->nics[i].model)
            n = &s->nics[i];
    if (!strcmp(type, "nic")) {
        struct nic_cfg *open = s->net_clients == 2 ? &s->nics[s->cfg.nr_nics - 1] : NULL;

        n = open ? open : new_nic(s, errp);
        ok = n && take_mac(p, "macaddr", &n->mac, errp);
        if (ok) {
            n->model = take_text(p, "model");
            n->id = take_text(p, "id");
            s->cfg.nr_nics += !open;
            s->net_clients = open ? 0 : 1;
            opts_get(p, "type");
            opts_get(p, "netdev");
            opts_get(p, "name");
            opts_get(p, "vectors");
            ok = opts_done(p, "-net nic", NULL, errp);
        }
    } else {
        struct nic_cfg *open = s->net_clients == 1 ? &s->nics[s->cfg.nr_nics - 1] : NULL;

        n = open ? open : new_nic(s, errp);
        if (!opts_peek(p, "id")) {
            AUTOFREE char *id = xasprintf("net%u-backend", s->cfg.nr_nics);

            opts_set(p, "id", id);
        }
        n->backend = n ? net_create(s->nets, p, errp) : NULL;
        ok = n && n->backend;
        if (ok) {
            s->cfg.nr_nics += !open;
            s->net_clients = open ? 0 : 2;
        }
    }
    opts_free(p);
    return ok;
}

static bool default_nic(struct sys *s, struct err **errp)
{
    struct opts *p;
    const struct net_backend *b = NULL;

    while ((b = net_backend_next(b)) && strcmp(b->type, "user"))
        ;
    if (!s->default_net || !b || !s->board->default_nic)
        return true;
    p = opts_new();
    opts_set(p, "type", "user");
    opts_set(p, "id", "hub0port0");
    s->nics[0] = (struct nic_cfg){.backend = net_create(s->nets, p, errp)};
    s->cfg.nr_nics = s->nics[0].backend != NULL;
    opts_free(p);
    return s->nics[0].backend != NULL;
}

/* Serial, parallel, debug console. */

static bool is_mon(const char *val)
{
    return str_starts(val, "mon:");
}

/* Not every terminal line is a monitor: "mon:..." says that one joins. */
static bool legacy(struct sys *s, const char *label, const char *val, struct chr **out, struct err **errp)
{
    struct err *e = NULL;

    *out = chr_create_legacy(s->chrs, label, val, &e);
    if (e) {
        err_move(errp, e);
        return false;
    }
    if (*out && is_mon(val)) {
        s->mon_mux = *out;
        s->default_monitor = false;
    }
    return true;
}

bool on_serial(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    AUTOFREE char *label = xasprintf("serial%u", s->nr_serial_opts);

    s->default_serial = false;
    if (s->nr_serial_opts >= ARRAY_LEN(s->cfg.serial))
        return err_set(errp, "too many serial ports: at most %zu", ARRAY_LEN(s->cfg.serial));
    if (!legacy(s, label, val, &s->cfg.serial[s->nr_serial_opts], errp))
        return false;
    s->cfg.nr_serial = ++s->nr_serial_opts;
    return true;
}

bool on_parallel(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    AUTOFREE char *label = xasprintf("parallel%u", s->nr_parallel_opts);

    s->default_parallel = false;
    if (s->nr_parallel_opts >= ARRAY_LEN(s->cfg.parallel))
        return err_set(errp, "too many parallel ports: at most %zu", ARRAY_LEN(s->cfg.parallel));
    if (!legacy(s, label, val, &s->cfg.parallel[s->nr_parallel_opts], errp))
        return false;
    s->cfg.nr_parallel = ++s->nr_parallel_opts;
    return true;
}

bool on_debugcon(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    if (s->nr_debugcon++)
        return err_set(errp,
                       "only one -debugcon is possible; further ones are -device isa-debugcon,chardev=ID,iobase=PORT");
    return legacy(s, "debugcon", val, &s->cfg.debugcon, errp);
}

/* Monitors. */

static void warn_if_open(const struct chr *c, const char *what)
{
    if (c && chr_is_network(c))
        warn_report(
            "%s on %s is reachable from other hosts without authentication; listen on 127.0.0.1 or a unix: socket",
            what, chr_label(c));
}

static bool monitor_on(struct sys *s, const char *base, const char *val, enum mon_mode mode, bool pretty,
                       struct err **errp)
{
    AUTOFREE char *label = xasprintf("%s%u", base, s->nr_monitor_opts++);
    struct chr *c;

    if (!legacy(s, label, val, &c, errp))
        return false;
    if (!c)
        return true;
    warn_if_open(c, mode == MON_QMP ? "QMP" : "the monitor");
    return mon_add(s->mons, c, mode, pretty, errp);
}

bool on_monitor(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    s->default_monitor = false;
    return monitor_on(s, "compat_monitor", val, *o->name == 'm' ? MON_HMP : MON_QMP, !strcmp(o->name, "qmp-pretty"),
                      errp);
}

bool on_mon(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    static const char *const keys[] = {"chardev", "mode", "pretty", "id", "default", NULL};
    struct opts *p = opts_parse(val, "chardev", errp);
    const char *id, *mode;
    struct chr *c;
    bool pretty = false, ok = false, unused;

    s->default_monitor = false;
    if (!p)
        return false;
    id = opts_get(p, "chardev");
    mode = opts_get(p, "mode");
    opts_get(p, "id");
    if (!id || !(c = chr_find(s->chrs, id))) {
        err_set(errp, id ? "chardev '%s' not found" : "chardev=ID is missing", id);
        if (id)
            err_hint(errp, "define it with -chardev BACKEND,id=%s", id);
    } else if (mode && strcmp(mode, "readline") && strcmp(mode, "control")) {
        err_set(errp, "mode=%s: expected readline or control", mode);
    } else if (opts_bool(p, "pretty", &pretty, errp) && opts_bool(p, "default", &unused, errp) &&
               opts_done(p, "mon", keys, errp)) {
        warn_if_open(c, mode && *mode == 'c' ? "QMP" : "the monitor");
        ok = mon_add(s->mons, c, mode && *mode == 'c' ? MON_QMP : MON_HMP, pretty, errp);
    }
    opts_free(p);
    return ok;
}

bool monitors_finish(struct sys *s, struct err **errp)
{
    if (s->mon_mux && !mon_add(s->mons, s->mon_mux, MON_HMP, false, errp))
        return false;
    if (s->default_monitor)
        return monitor_on(s, "compat_monitor", "vc:80Cx24C", MON_HMP, false, errp);
    return true;
}

bool on_qtest(struct sys *s, const struct option *o, const char *val, struct err **errp)
{
    struct chr *c = NULL;

    if (s->qtest)
        return err_set(errp, "only one test channel is possible");
    if (!legacy(s, "qtest", val, &c, errp))
        return false;
    if (!c)
        return true;
    s->qtest = qtest_new(s->m, c, s->qtest_log, errp);
    return s->qtest != NULL;
}

/* Defaults, once everything that was asked for exists. */

static bool default_chardevs(struct sys *s, struct err **errp)
{
    bool terminal = s->cfg.nographic, have_stdio = chr_find(s->chrs, "serial0") || s->nr_serial_opts;

    if (s->default_serial && !s->board->no_serial) {
        s->default_serial = false;
        if (!legacy(s, "serial0", terminal ? s->default_monitor ? "mon:stdio" : "stdio" : "vc", &s->cfg.serial[0],
                    errp))
            return false;
        s->cfg.nr_serial = 1;
    } else if (terminal && s->default_monitor && !have_stdio) {
        /* No serial port to share with: the terminal is the monitor's, unless somebody took it. */
        struct err *e = NULL;

        s->mon_mux = chr_create_legacy(s->chrs, "compat_monitor0", "stdio", &e);
        err_free(e);
        s->default_monitor = false;
    } else if (terminal) {
        s->default_monitor = false;
    }
    if (s->default_parallel && !s->board->no_serial) {
        if (!legacy(s, "parallel0", terminal ? "null" : "vc", &s->cfg.parallel[0], errp))
            return false;
        s->cfg.nr_parallel = 1;
    }
    return true;
}

bool back_finish(struct sys *s, struct err **errp)
{
    if (!default_chardevs(s, errp))
        return false;
    s->cfg.default_cdrom = s->default_cdrom && !s->board->no_cdrom;
    s->cfg.default_floppy = s->default_floppy && !s->board->no_floppy;
    s->cfg.default_net = s->default_net;
    return default_nic(s, errp);
}
