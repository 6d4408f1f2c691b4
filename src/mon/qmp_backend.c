/* QMP commands about character devices, network, disks, screens and input. */
#include "blk/job.h"
#include "mon/mon_int.h"
#include "mon/qmp_gen.h"
#include "ui/ui.h"

#include <stdio.h>
#include <unistd.h>

static void add_chr(struct chr *c, void *opaque)
{
    json_object_array_add(opaque, json_make("b:frontend-open", chr_frontend_open(c), "s:filename", chr_label(c),
                                            "s:label", chr_id(c), NULL));
}

bool qmp_query_chardev(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_object_new_array();
    chr_each(m->set->cfg.chrs, add_chr, *ret);
    return true;
}

bool qmp_query_chardev_backends(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_object_new_array();
    for (const char *t = NULL; (t = chr_type_next(t));)
        json_object_array_add(*ret, json_make("s:name", t, NULL));
    return true;
}

/* An address object to the option names of -chardev. */
static bool address(struct mon *m, struct opts *o, struct json_object *addr, bool local, struct err **errp)
{
    const char *type = json_get_str(addr, "type"), *text;
    struct json_object *d = json_get(addr, "data");

    if (!strcmp(type, "fd")) {
        text = json_get_str(d, "str");
        if (*text < '0' || *text > '9') {
            char num[16];
            int fd = mon_take_fd(m->set, text);

            if (fd < 0)
                return err_set(errp, "File descriptor named '%s' has not been found", text);
            snprintf(num, sizeof num, "%d", fd);
            opts_set(o, "fd", num);
        } else {
            opts_set(o, "fd", text);
        }
        return true;
    }
    json_object_object_foreach(d, k, v)
    {
        const char *s = json_object_is_type(v, json_type_boolean) ? json_object_get_boolean(v) ? "on" : "off"
                                                                  : json_object_get_string(v);

        if (local)
            opts_set(o, !strcmp(k, "host") ? "localaddr" : "localport", s);
        else if (strcmp(k, "numeric"))
            opts_set(o, k, s);
    }
    return true;
}

static const char *rename_key(const char *type, const char *k)
{
    if (!strcmp(type, "file"))
        return !strcmp(k, "out") ? "path" : !strcmp(k, "in") ? "input-path" : k;
    if (!strcmp(k, "device"))
        return "path";
    return k;
}

bool qmp_chardev_add(struct mon *m, const struct qmp_args_chardev_add *a, struct json_object **ret, struct err **errp)
{
    const char *type = json_get_str(a->backend, "type");
    struct json_object *d = json_get(a->backend, "data");
    struct opts *o = opts_new();
    struct chr *c = NULL;
    bool ok = true;

    opts_set(o, "backend", type);
    opts_set(o, "id", a->id);
    json_object_object_foreach(d, k, v)
    {
        if (!ok)
            break;
        if (!strcmp(k, "addr") || !strcmp(k, "remote") || !strcmp(k, "local"))
            ok = address(m, o, v, *k == 'l', errp);
        else if (json_object_is_type(v, json_type_boolean))
            opts_set(o, k, json_object_get_boolean(v) ? "on" : "off");
        else
            opts_set(o, rename_key(type, k), json_object_get_string(v));
    }
    if (ok && !strcmp(type, "socket") && !opts_peek(o, "server"))
        opts_set(o, "server", "on");
    if (ok && !strcmp(type, "socket") && !opts_peek(o, "wait") && !strcmp(opts_peek(o, "server"), "on"))
        opts_set(o, "wait", "off");
    if (ok)
        c = chr_create(m->set->cfg.chrs, o, errp);
    opts_free(o);
    if (c && str_starts(chr_label(c), "pty:"))
        *ret = json_make("s:pty", chr_label(c) + 4, NULL);
    return c != NULL;
}

bool qmp_chardev_remove(struct mon *m, const struct qmp_args_chardev_remove *a, struct err **errp)
{
    return chr_remove(m->set->cfg.chrs, a->id, errp);
}

static struct chr *the_chr(struct mon *m, const char *id, struct err **errp)
{
    struct chr *c = chr_find(m->set->cfg.chrs, id);

    if (!c)
        err_set(errp, "Chardev '%s' not found", id);
    return c;
}

bool qmp_chardev_send_break(struct mon *m, const struct qmp_args_chardev_send_break *a, struct err **errp)
{
    struct chr *c = the_chr(m, a->id, errp);

    if (c)
        chr_inject_break(c);
    return c != NULL;
}

static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static struct json_object *base64(const uint8_t *p, size_t len)
{
    struct strbuf b = {0};
    struct json_object *o;

    for (size_t i = 0; i < len; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < len ? p[i + 1] << 8 : 0) | (i + 2 < len ? p[i + 2] : 0);
        char c[4] = {b64[v >> 18], b64[v >> 12 & 63], i + 1 < len ? b64[v >> 6 & 63] : '=',
                     i + 2 < len ? b64[v & 63] : '='};

        str_addn(&b, c, 4);
    }
    o = json_object_new_string(b.s ? b.s : "");
    str_free(&b);
    return o;
}

bool qmp_ringbuf_read(struct mon *m, const struct qmp_args_ringbuf_read *a, struct json_object **ret, struct err **errp)
{
    struct chr *c = the_chr(m, a->device, errp);
    AUTOFREE uint8_t *buf = NULL;
    ssize_t n;

    if (!c)
        return false;
    if (a->size <= 0 || a->size > 1 << 30 || !(buf = try_alloc(a->size, 1)))
        return err_set(errp, "size must be greater than zero");
    n = chr_ringbuf_read(c, buf, a->size);
    if (n < 0)
        return err_set(errp, "%s is not a ringbuf device", a->device);
    if (a->format && !strcmp(a->format, "base64"))
        *ret = base64(buf, n);
    else
        *ret = json_object_new_string_len((char *)buf, (int)n);
    return true;
}

bool qmp_ringbuf_write(struct mon *m, const struct qmp_args_ringbuf_write *a, struct err **errp)
{
    struct chr *c = the_chr(m, a->device, errp);
    size_t len = strlen(a->data), n = 0;
    AUTOFREE uint8_t *buf = xmalloc(len + 1);
    uint32_t v = 0, bits = 0;

    if (!c)
        return false;
    if (a->format && !strcmp(a->format, "base64")) {
        for (const char *p = a->data; *p && *p != '='; p++) {
            const char *at = strchr(b64, *p);

            if (!at)
                return err_set(errp, "Parameter 'data' is not base64");
            v = v << 6 | (uint32_t)(at - b64);
            bits += 6;
            if (bits >= 8)
                buf[n++] = (uint8_t)(v >> (bits -= 8));
        }
    } else {
        memcpy(buf, a->data, len);
        n = len;
    }
    return chr_ringbuf_write(c, buf, n) || err_set(errp, "%s is not a ringbuf device", a->device);
}

/* Network. */

static struct opts *args_opts(struct json_object *args, struct err **errp)
{
    return opts_parse(json_object_to_json_string_ext(args, JSON_C_TO_STRING_NOSLASHESCAPE), NULL, errp);
}

bool qmp_netdev_add(struct mon *m, struct json_object *args, struct err **errp)
{
    struct opts *o = args_opts(args, errp);
    bool ok = o && net_create(m->set->cfg.nets, o, errp);

    opts_free(o);
    return ok;
}

bool qmp_netdev_del(struct mon *m, const struct qmp_args_netdev_del *a, struct err **errp)
{
    if (!net_find(m->set->cfg.nets, a->id))
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", a->id);
    return net_remove(m->set->cfg.nets, a->id, errp);
}

struct link_find {
    const char *name;
    struct net_peer *found;
};

static void match_peer(struct net_peer *p, void *opaque)
{
    struct link_find *f = opaque;

    if (p->id && !strcmp(p->id, f->name))
        f->found = p;
}

bool qmp_set_link(struct mon *m, const struct qmp_args_set_link *a, struct err **errp)
{
    struct link_find f = {a->name, NULL};

    net_each(m->set->cfg.nets, match_peer, &f);
    if (!f.found)
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", a->name);
    net_set_link(f.found, a->up);
    return true;
}

/* Disks. */

bool qmp_query_block(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = blk_query(m->set->cfg.blks);
    return true;
}

bool qmp_query_named_block_nodes(struct mon *m, const struct qmp_args_query_named_block_nodes *a,
                                 struct json_object **ret, struct err **errp)
{
    *ret = blk_query_nodes(m->set->cfg.blks, a->has_flat && a->flat);
    return true;
}

bool qmp_query_blockstats(struct mon *m, const struct qmp_args_query_blockstats *a, struct json_object **ret,
                          struct err **errp)
{
    *ret = blk_query_stats(m->set->cfg.blks);
    return true;
}

bool qmp_blockdev_add(struct mon *m, struct json_object *args, struct err **errp)
{
    struct opts *o = args_opts(args, errp);
    bool ok = o != NULL;

    if (ok && !opts_peek(o, "node-name"))
        ok = err_set(errp, "'node-name' must be specified for the root node");
    ok = ok && blk_node_add(m->set->cfg.blks, o, errp);
    opts_free(o);
    return ok;
}

bool qmp_blockdev_del(struct mon *m, const struct qmp_args_blockdev_del *a, struct err **errp)
{
    return blk_node_del(m->set->cfg.blks, a->node_name, errp);
}

static struct blk *the_blk(struct mon *m, const char *device, const char *id, struct err **errp)
{
    struct blk *b = NULL;

    if (device)
        b = blk_find(m->set->cfg.blks, device);
    else if (id)
        b = mon_blk_of_dev(m->set, id);
    if (!device && !id)
        err_set(errp, "Need exactly one of 'device' and 'id'");
    else if (!b)
        err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", device ? device : id);
    return b;
}

bool qmp_eject(struct mon *m, const struct qmp_args_eject *a, struct err **errp)
{
    struct blk *b = the_blk(m, a->device, a->id, errp);

    return b && blk_eject(b, a->has_force && a->force, errp);
}

bool qmp_blockdev_change_medium(struct mon *m, const struct qmp_args_blockdev_change_medium *a, struct err **errp)
{
    struct blk *b = the_blk(m, a->device, a->id, errp);

    return b && blk_change_medium(b, a->filename, a->format, a->read_only_mode, a->has_force && a->force, errp);
}

bool qmp_blockdev_open_tray(struct mon *m, const struct qmp_args_blockdev_open_tray *a, struct err **errp)
{
    struct blk *b = the_blk(m, a->device, a->id, errp);

    return b && blk_open_tray(b, a->has_force && a->force, errp);
}

bool qmp_blockdev_close_tray(struct mon *m, const struct qmp_args_blockdev_close_tray *a, struct err **errp)
{
    struct blk *b = the_blk(m, a->device, a->id, errp);

    return b && blk_close_tray(b, errp);
}

bool qmp_blockdev_remove_medium(struct mon *m, const struct qmp_args_blockdev_remove_medium *a, struct err **errp)
{
    struct blk *b = the_blk(m, NULL, a->id, errp);

    return b && blk_remove_medium(b, errp);
}

bool qmp_blockdev_insert_medium(struct mon *m, const struct qmp_args_blockdev_insert_medium *a, struct err **errp)
{
    struct blk *b = the_blk(m, NULL, a->id, errp);

    return b && blk_insert_medium(b, a->node_name, errp);
}

bool qmp_via_blk(struct mon *m, const char *name, struct json_object *args, struct json_object **ret, struct err **errp)
{
    /* the schema says "via": "blk" of commands the block layer has */
    return blk_cmd_run(m->set->cfg.blks, name, args, ret, errp);
}

/* Screens and input. */

bool qmp_screendump(struct mon *m, const struct qmp_args_screendump *a, struct err **errp)
{
    return mon_screendump(mon_machine(m), a->filename, a->device, a->format && !strcmp(a->format, "png"), errp);
}

/* Key numbers on the wire are PC scan codes: set 1 make codes, 0x80 marking the extended ones. */
static unsigned key_of(struct json_object *k, struct err **errp)
{
    struct json_object *d = json_get(k, "data");
    unsigned key = 0;

    if (!strcmp(json_get_str(k, "type"), "qcode")) {
        const char *name = json_object_get_string(d);

        key = json_object_is_type(d, json_type_string) ? ui_key_by_name(name) : 0;
        if (!key)
            err_set(errp, "Parameter 'keys' does not accept value '%s'", name);
    } else {
        int64_t n = json_object_get_int64(d);

        key = n > 0 && n < 256 ? mon_key_by_scancode((unsigned)n) : 0;
        if (!key)
            err_set(errp, "Parameter 'keys' expects a PC scan code, not %" PRIi64, n);
    }
    return key;
}

bool qmp_send_key(struct mon *m, const struct qmp_args_send_key *a, struct err **errp)
{
    unsigned keys[16];
    size_t n = json_object_array_length(a->keys);

    if (!n || n > ARRAY_LEN(keys))
        return err_set(errp, "Parameter 'keys' expects 1 to %zu keys", ARRAY_LEN(keys));
    for (size_t i = 0; i < n; i++)
        if (!(keys[i] = key_of(json_object_array_get_idx(a->keys, i), errp)))
            return false;
    return mon_send_keys(mon_machine(m), keys, (unsigned)n, a->has_hold_time ? a->hold_time : 100, errp);
}

static bool button(const char *name, enum ui_button *out)
{
    static const char *const names[] = {"left", "middle", "right", "wheel-up", "wheel-down", "side", "extra"};

    for (unsigned i = 0; name && i < ARRAY_LEN(names); i++)
        if (!strcmp(name, names[i])) {
            *out = (enum ui_button)i;
            return true;
        }
    return false;
}

static bool send_event(struct mon_set *s, struct json_object *e, bool dry, struct err **errp)
{
    struct machine *m = s->cfg.m;
    const char *type = json_get_str(e, "type");
    struct json_object *d = json_get(e, "data");

    if (!strcmp(type, "key")) {
        unsigned key = json_get(d, "key") ? key_of(json_get(d, "key"), errp) : 0;

        if (!key)
            return err_set(errp, "Parameter 'key' is missing");
        if (!dry)
            ui_send_key(m, key, json_get_bool(d, "down", true));
    } else if (!strcmp(type, "btn")) {
        enum ui_button b;

        if (!button(json_get_str(d, "button"), &b))
            return err_set(errp, "Parameter 'button' does not accept this value");
        if (!dry)
            ui_send_button(m, b, json_get_bool(d, "down", true));
    } else if (!strcmp(type, "rel") || !strcmp(type, "abs")) {
        const char *axis = json_get_str(d, "axis");
        int v = (int)json_get_int(d, "value", 0);

        if (!axis || (*axis != 'x' && *axis != 'y'))
            return err_set(errp, "Parameter 'axis' expects x or y");
        if (!dry && *type == 'r')
            ui_send_rel(m, *axis == 'x' ? v : 0, *axis == 'y' ? v : 0);
        if (!dry && *type == 'a') {
            *(*axis == 'x' ? &s->abs_x : &s->abs_y) = v;
            ui_send_abs(m, s->abs_x, s->abs_y);
        }
    } else {
        return err_set(errp, "Parameter 'type' does not accept value '%s'", type);
    }
    return true;
}

bool qmp_input_send_event(struct mon *m, const struct qmp_args_input_send_event *a, struct err **errp)
{
    size_t n = json_object_array_length(a->events);

    for (int dry = 1; dry >= 0; dry--)
        for (size_t i = 0; i < n; i++)
            if (!send_event(m->set, json_object_array_get_idx(a->events, i), dry, errp))
                return false;
    ui_send_sync(mon_machine(m));
    return true;
}

static void add_mouse(unsigned index, const char *name, unsigned kinds, bool current, void *opaque)
{
    if (kinds & (UI_POINTER_REL | UI_POINTER_ABS))
        json_object_array_add(opaque, json_make("s:name", name, "i:index", (int64_t)index, "b:current", current,
                                                "b:absolute", (kinds & UI_POINTER_ABS) != 0, NULL));
}

bool qmp_query_mice(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_object_new_array();
    ui_input_each(mon_machine(m), add_mouse, *ret);
    return true;
}

bool qmp_query_display_options(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_make("s:type", "none", NULL);
    return true;
}
