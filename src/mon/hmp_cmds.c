/* Human commands that do something. Where QMP has the same command its function is called, so both behave alike. */
#include "base/log.h"
#include "mon/mon_int.h"
#include "mon/qmp_gen.h"
#include "ui/ui.h"

#include <errno.h>
#include <stdio.h>

#define HMP(n)                                                                                                         \
    void n(struct mon *m, struct hmp_args *a);                                                                         \
    void n(struct mon *m, struct hmp_args *a)

/* By address: the call that sets it is an argument too. */
static void done(struct mon *m, bool ok, struct err **e)
{
    if (!ok)
        mon_error(m, *e);
}

#define SIMPLE(name, call)                                                                                             \
    HMP(name)                                                                                                          \
    {                                                                                                                  \
        struct err *e = NULL;                                                                                          \
                                                                                                                       \
        done(m, call(m, &e), &e);                                                                                      \
    }
SIMPLE(hmp_quit, qmp_quit)
SIMPLE(hmp_stop, qmp_stop)
SIMPLE(hmp_cont, qmp_cont)
SIMPLE(hmp_reset, qmp_system_reset)
SIMPLE(hmp_powerdown, qmp_system_powerdown)
SIMPLE(hmp_wakeup, qmp_system_wakeup)
SIMPLE(hmp_nmi, qmp_inject_nmi)

HMP(hmp_not_built)
{
    mon_puts(m, "Error: this command is not built into this program\n");
}

/* Screens and input. */

HMP(hmp_screendump)
{
    struct err *e = NULL;
    const char *words[2] = {NULL, NULL}; /* file, device */
    bool png = false;
    unsigned n = 0;

    for (unsigned i = 0; i < a->n; i++) {
        if (!strcmp(a->v[i], "-f") && i + 1 < a->n) {
            png = !strcmp(a->v[++i], "png");
            if (!png && strcmp(a->v[i], "ppm")) {
                mon_printf(m, "Error: unknown format '%s': ppm or png\n", a->v[i]);
                return;
            }
        } else if (n < ARRAY_LEN(words)) {
            words[n++] = a->v[i];
        }
    }
    if (!words[0]) {
        mon_puts(m, "Error: screendump needs a file name\n");
        return;
    }
    done(m, mon_screendump(mon_machine(m), words[0], words[1], png, &e), &e);
}

HMP(hmp_sendkey)
{
    unsigned keys[16], n = 0;
    uint64_t hold = 100;
    struct err *e = NULL;
    char *save = NULL;

    if (a->n > 1 && !str_to_u64(a->v[1], &hold)) {
        mon_printf(m, "Error: '%s' is no hold time in milliseconds\n", a->v[1]);
        return;
    }
    for (char *w = strtok_r(a->v[0], "-", &save); w; w = strtok_r(NULL, "-", &save)) {
        uint64_t code;
        unsigned k = !strcmp(w, "<") ? ui_key_by_name("less") : ui_key_by_name(w);

        if (!k && str_starts(w, "0x") && str_to_u64(w, &code) && code < 256)
            k = mon_key_by_scancode((unsigned)code);
        if (!k) {
            mon_printf(m, "invalid parameter: %s\n", w);
            return;
        }
        if (n == ARRAY_LEN(keys)) {
            mon_puts(m, "too many keys\n");
            return;
        }
        keys[n++] = k;
    }
    done(m, mon_send_keys(mon_machine(m), keys, n, (int64_t)min_u64(hold, 1u << 20), &e), &e);
}

static bool int_arg(struct mon *m, const char *s, int64_t *out)
{
    if (str_to_i64(s, out))
        return true;
    mon_printf(m, "Error: '%s' is no number\n", s);
    return false;
}

HMP(hmp_mouse_move)
{
    int64_t dx, dy, dz = 0;

    if (!int_arg(m, a->v[0], &dx) || !int_arg(m, a->v[1], &dy) || (a->n > 2 && !int_arg(m, a->v[2], &dz)))
        return;
    ui_send_rel(mon_machine(m), (int)dx, (int)dy);
    if (dz) {
        enum ui_button b = dz > 0 ? UI_BTN_WHEEL_UP : UI_BTN_WHEEL_DOWN;

        ui_send_button(mon_machine(m), b, true);
        ui_send_sync(mon_machine(m));
        ui_send_button(mon_machine(m), b, false);
    }
    ui_send_sync(mon_machine(m));
}

HMP(hmp_mouse_button)
{
    int64_t v;

    if (!int_arg(m, a->v[0], &v))
        return;
    ui_send_button(mon_machine(m), UI_BTN_LEFT, v & 1);
    ui_send_button(mon_machine(m), UI_BTN_MIDDLE, v & 2);
    ui_send_button(mon_machine(m), UI_BTN_RIGHT, v & 4);
    ui_send_sync(mon_machine(m));
}

HMP(hmp_mouse_set)
{
    int64_t v;

    if (int_arg(m, a->v[0], &v) && !ui_input_select(mon_machine(m), (unsigned)v))
        mon_printf(m, "Error: mouse at index '%s' not found\n", a->v[0]);
}

/* Things that come and go. */

typedef bool opts_call(struct mon *m, struct opts *o, struct err **errp);

static void with_opts(struct mon *m, const char *text, const char *implied, opts_call *fn)
{
    struct err *e = NULL;
    struct opts *o = opts_parse(text, implied, &e);

    done(m, o && fn(m, o, &e), &e);
    opts_free(o);
}

static bool call_device(struct mon *m, struct opts *o, struct err **errp)
{
    return dev_create(mon_machine(m), o, errp) != NULL;
}

static bool call_object(struct mon *m, struct opts *o, struct err **errp)
{
    return mon_object_add(mon_machine(m), o, errp);
}

static bool call_netdev(struct mon *m, struct opts *o, struct err **errp)
{
    return net_create(m->set->cfg.nets, o, errp) != NULL;
}

static bool call_chardev(struct mon *m, struct opts *o, struct err **errp)
{
    const char *server = opts_peek(o, "server");

    if (server && !strcmp(server, "on") && !opts_peek(o, "wait") && !opts_peek(o, "nowait"))
        opts_set(o, "wait", "off"); /* a monitor must not hang */
    return chr_create(m->set->cfg.chrs, o, errp) != NULL;
}

HMP(hmp_device_add)
{
    with_opts(m, a->v[0], "driver", call_device);
}

HMP(hmp_object_add)
{
    with_opts(m, a->v[0], "qom-type", call_object);
}

HMP(hmp_netdev_add)
{
    with_opts(m, a->v[0], "type", call_netdev);
}

HMP(hmp_chardev_add)
{
    with_opts(m, a->v[0], "backend", call_chardev);
}

#define BY_ID(name, call, argt, field)                                                                                 \
    HMP(name)                                                                                                          \
    {                                                                                                                  \
        struct err *e = NULL;                                                                                          \
        struct argt q = {.field = a->v[0]};                                                                            \
                                                                                                                       \
        done(m, call(m, &q, &e), &e);                                                                                  \
    }
BY_ID(hmp_device_del, qmp_device_del, qmp_args_device_del, id)
BY_ID(hmp_object_del, qmp_object_del, qmp_args_object_del, id)
BY_ID(hmp_netdev_del, qmp_netdev_del, qmp_args_netdev_del, id)
BY_ID(hmp_chardev_remove, qmp_chardev_remove, qmp_args_chardev_remove, id)
BY_ID(hmp_chardev_break, qmp_chardev_send_break, qmp_args_chardev_send_break, id)

HMP(hmp_set_link)
{
    struct err *e = NULL;
    struct qmp_args_set_link q = {.name = a->v[0]};

    if (!str_to_bool(a->v[1], &q.up))
        mon_printf(m, "Error: '%s': expected on or off\n", a->v[1]);
    else
        done(m, qmp_set_link(m, &q, &e), &e);
}

HMP(hmp_hostfwd_add)
{
    struct err *e = NULL;

    done(m, net_user_hostfwd_add(m->set->cfg.nets, a->n > 1 ? a->v[0] : NULL, a->v[a->n - 1], &e), &e);
}

HMP(hmp_hostfwd_remove)
{
    struct err *e = NULL;

    if (net_user_hostfwd_remove(m->set->cfg.nets, a->n > 1 ? a->v[0] : NULL, a->v[a->n - 1], &e))
        mon_printf(m, "host forwarding rule for %s removed\n", a->v[a->n - 1]);
    else
        mon_error(m, e);
}

HMP(hmp_ringbuf_read)
{
    struct err *e = NULL;
    struct json_object *r = NULL;
    struct qmp_args_ringbuf_read q = {.device = a->v[0]};

    if (!int_arg(m, a->v[1], &q.size))
        return;
    if (qmp_ringbuf_read(m, &q, &r, &e))
        mon_printf(m, "%s\n", json_object_get_string(r));
    else
        mon_error(m, e);
    json_object_put(r);
}

HMP(hmp_ringbuf_write)
{
    struct err *e = NULL;
    struct qmp_args_ringbuf_write q = {.device = a->v[0], .data = a->v[1]};

    done(m, qmp_ringbuf_write(m, &q, &e), &e);
}

/* Media. */

static void change_vnc(struct mon *m, const char *password)
{
    struct err *e = NULL;
    struct qmp_args_change_vnc_password q = {.password = password};

    done(m, qmp_change_vnc_password(m, &q, &e), &e);
}

HMP(hmp_change)
{
    struct err *e = NULL;
    struct blk *b;
    bool force = !strcmp(a->v[0], "-f");
    unsigned i = force;

    if (a->n < i + 2) {
        mon_puts(m, "change: missing arguments; usage: change [-f] device file [format [mode]]\n");
        return;
    }
    if (!strcmp(a->v[i], "vnc")) {
        if (strcmp(a->v[i + 1], "password") && strcmp(a->v[i + 1], "passwd"))
            mon_puts(m, "Error: only 'change vnc password [text]' is possible while running\n");
        else if (a->n > i + 2)
            change_vnc(m, a->v[i + 2]);
        else
            le_ask(m, "Password: ", change_vnc);
        return;
    }
    b = blk_find(m->set->cfg.blks, a->v[i]);
    if (!b)
        b = mon_blk_of_dev(m->set, a->v[i]);
    if (!b) {
        mon_printf(m, "Error: Device '%s' not found\n'info block' lists the drives\n", a->v[i]);
        return;
    }
    done(m,
         blk_change_medium(b, a->v[i + 1], a->n > i + 2 ? a->v[i + 2] : NULL, a->n > i + 3 ? a->v[i + 3] : NULL, force,
                           &e),
         &e);
}

HMP(hmp_eject)
{
    struct err *e = NULL;
    bool force = !strcmp(a->v[0], "-f");
    const char *id = a->v[a->n - 1];
    struct blk *b = blk_find(m->set->cfg.blks, id);

    if (!b)
        b = mon_blk_of_dev(m->set, id);
    if (!b)
        mon_printf(m, "Error: Device '%s' not found\n'info block' lists the drives\n", id);
    else
        done(m, blk_eject(b, force, &e), &e);
}

/* Log. */

HMP(hmp_log)
{
    unsigned mask = 0;
    const char *bad;

    if (strcmp(a->v[0], "none") && !log_parse_mask(a->v[0], &mask, &bad))
        mon_printf(m, "Error: unknown log item '%.*s'; -d help lists them\n", (int)strcspn(bad, ","), bad);
    else
        log_set_mask(mask);
}

HMP(hmp_logfile)
{
    if (!log_set_file(a->v[0]))
        mon_printf(m, "Error: cannot open log file '%s': %s\n", a->v[0], strerror(errno));
}

/* Memory. */

struct fmt {
    unsigned count, size;
    char kind;
};

/* "/4xw": a count, a letter for the form, one for the size, in any order after the count. */
static bool parse_fmt(struct mon *m, const char *s, struct fmt *f)
{
    char *end;
    unsigned long n = strtoul(s + 1, &end, 10);

    *f = (struct fmt){end == s + 1 ? 1 : (unsigned)min_u64(n, 65536), 4, 'x'};
    for (; *end; end++) {
        const char *at = strchr("bhwg", *end);

        if (at)
            f->size = 1u << (at - "bhwg");
        else if (strchr("xduoc", *end))
            f->kind = *end;
        else if (*end == 'i') {
            mon_puts(m, "Error: disassembly is not built into this program; use x, d, u, o or c\n");
            return false;
        } else {
            mon_printf(m, "invalid char in format: '%c'\n", *end);
            return false;
        }
    }
    if (f->kind == 'c')
        f->size = 1;
    return true;
}

static void print_value(struct mon *m, const struct fmt *f, uint64_t v, unsigned size)
{
    unsigned bits = size * 8;

    switch (f->kind) {
    case 'x':
        mon_printf(m, "0x%0*" PRIx64, (int)size * 2, v);
        break;
    case 'd':
        mon_printf(m, "%" PRIi64, sext64(v, bits));
        break;
    case 'u':
        mon_printf(m, "%" PRIu64, v);
        break;
    case 'o':
        mon_printf(m, "0%" PRIo64, v);
        break;
    default:
        mon_printf(m, v >= 32 && v < 127 ? "'%c'" : "'\\x%02x'", (int)v);
        break;
    }
}

/* Format and expression of x, xp and print. */
static bool fmt_and_addr(struct mon *m, struct hmp_args *a, struct fmt *f, uint64_t *addr)
{
    struct err *e = NULL;
    const char *expr = a->v[0];

    *f = (struct fmt){1, 4, 'x'};
    if (*expr == '/') {
        if (!parse_fmt(m, expr, f))
            return false;
        if (a->n < 2) {
            mon_puts(m, "the address is missing\n");
            return false;
        }
        expr = a->v[1];
    }
    if (mon_eval(m, &expr, addr, &e))
        return true;
    mon_error(m, e);
    return false;
}

static void dump(struct mon *m, struct hmp_args *a, bool virt)
{
    struct err *e = NULL;
    struct vcpu *c = virt ? mon_cpu(m, &e) : NULL;
    unsigned per_line;
    uint64_t addr;
    struct fmt f;

    if (virt && !c) {
        mon_error(m, e);
        return;
    }
    if (!fmt_and_addr(m, a, &f, &addr))
        return;
    per_line = f.kind == 'c' ? 8 : max_u64(1, f.kind == 'd' || f.kind == 'u' ? 4 : 16 / f.size);
    if (virt)
        mon_freeze(mon_machine(m));
    for (unsigned i = 0; i < f.count; i++, addr += f.size) {
        gpa_t pa = addr;

        if (i % per_line == 0)
            mon_printf(m, "%s%016" PRIx64 ":", i ? "\n" : "", addr);
        if (virt && !c->arch->debug_translate(c, addr, &pa)) {
            mon_puts(m, " Cannot access memory");
            break;
        }
        mon_puts(m, " ");
        print_value(m, &f, mem_ld(mon_machine(m)->mem, pa, f.size), f.size);
    }
    if (virt)
        mon_thaw(mon_machine(m));
    mon_puts(m, "\n");
}

HMP(hmp_x)
{
    dump(m, a, true);
}

HMP(hmp_xp)
{
    dump(m, a, false);
}

HMP(hmp_print)
{
    struct fmt f;
    uint64_t v;

    if (!fmt_and_addr(m, a, &f, &v))
        return;
    if (f.kind == 'x')
        mon_printf(m, "%#" PRIx64 "\n", v);
    else {
        print_value(m, &f, v, 8);
        mon_puts(m, "\n");
    }
}

static bool port_args(struct mon *m, struct hmp_args *a, struct fmt *f, unsigned want, uint64_t *v)
{
    unsigned i = *a->v[0] == '/';

    *f = (struct fmt){1, 1, 'x'};
    if (i && !parse_fmt(m, a->v[0], f))
        return false;
    if (i && !strpbrk(a->v[0], "bhw"))
        f->size = 1;
    for (unsigned k = 0; k < want; k++) {
        const char *p = i + k < a->n ? a->v[i + k] : "";
        struct err *e = NULL;

        if (!mon_eval(m, &p, &v[k], &e)) {
            mon_error(m, e);
            return false;
        }
    }
    return true;
}

HMP(hmp_in)
{
    struct fmt f;
    uint64_t v[1], val;
    const char *suffix;

    if (!port_args(m, a, &f, 1, v))
        return;
    val = mem_ld(mon_machine(m)->io, v[0] & 0xffff, f.size);
    suffix = f.size == 1 ? "b" : f.size == 2 ? "w" : "l";
    mon_printf(m, "port%s[0x%04x] = 0x%0*" PRIx64 "\n", suffix, (unsigned)(v[0] & 0xffff), (int)f.size * 2, val);
}

HMP(hmp_out)
{
    struct fmt f;
    uint64_t v[2];

    if (port_args(m, a, &f, 2, v))
        mem_store(mon_machine(m)->io, v[0] & 0xffff, f.size, v[1]);
}

/* The BSD checksum: rotate right one bit, add the byte. */
HMP(hmp_sum)
{
    uint64_t v[2];
    uint16_t sum = 0;
    struct fmt f;

    if (!port_args(m, a, &f, 2, v))
        return;
    for (uint64_t i = 0; i < min_u64(v[1], 1u << 30); i++) {
        sum = (uint16_t)(sum >> 1 | sum << 15);
        sum = (uint16_t)(sum + mem_ld(mon_machine(m)->mem, v[0] + i, 1));
    }
    mon_printf(m, "%05d\n", sum);
}

HMP(hmp_gpa2hva)
{
    uint64_t v[1];
    struct mem_section s;
    struct fmt f;

    if (!port_args(m, a, &f, 1, v))
        return;
    if (!mem_find(mon_machine(m)->mem, v[0], &s))
        mon_printf(m, "No memory is mapped at address 0x%" PRIx64 "\n", v[0]);
    else if (!s.host)
        mon_printf(m, "Memory at address 0x%" PRIx64 " is not RAM\n", v[0]);
    else
        mon_printf(m, "Host virtual address for 0x%" PRIx64 " (%s) is %p\n", v[0], s.region->name,
                   (void *)(s.host + (v[0] - s.start)));
}

HMP(hmp_gva2gpa)
{
    uint64_t v[1];
    gpa_t pa = 0;
    struct fmt f;
    struct err *e = NULL;
    struct vcpu *c = mon_cpu(m, &e);
    bool ok;

    if (!c) {
        mon_error(m, e);
        return;
    }
    if (!port_args(m, a, &f, 1, v))
        return;
    mon_freeze(mon_machine(m));
    ok = c->arch->debug_translate(c, v[0], &pa);
    mon_thaw(mon_machine(m));
    if (ok)
        mon_printf(m, "gpa: %#" PRIx64 "\n", pa);
    else
        mon_puts(m, "Unmapped\n");
}

static bool save_args(struct mon *m, struct hmp_args *a, int64_t *addr, int64_t *size)
{
    uint64_t v;

    if (!str_to_u64(a->v[0], &v)) {
        mon_printf(m, "Error: '%s' is no address\n", a->v[0]);
        return false;
    }
    *addr = (int64_t)v;
    return int_arg(m, a->v[1], size);
}

HMP(hmp_memsave)
{
    struct err *e = NULL;
    struct qmp_args_memsave q = {.filename = a->v[2], .has_cpu_index = true, .cpu_index = m->cpu};

    if (save_args(m, a, &q.val, &q.size))
        done(m, qmp_memsave(m, &q, &e), &e);
}

HMP(hmp_pmemsave)
{
    struct err *e = NULL;
    struct qmp_args_pmemsave q = {.filename = a->v[2]};

    if (save_args(m, a, &q.val, &q.size))
        done(m, qmp_pmemsave(m, &q, &e), &e);
}

HMP(hmp_cpu)
{
    int64_t v;

    if (!int_arg(m, a->v[0], &v))
        return;
    if (v < 0 || v >= mon_machine(m)->nr_cpus)
        mon_puts(m, "invalid CPU index\n");
    else
        m->cpu = (unsigned)v;
}

HMP(hmp_balloon)
{
    struct err *e = NULL;
    uint64_t v;
    struct qmp_args_balloon q;

    if (!str_to_size(a->v[0], 'M', &v)) {
        mon_printf(m, "Error: '%s' is no size\n", a->v[0]);
        return;
    }
    q.value = (int64_t)v;
    done(m, qmp_balloon(m, &q, &e), &e);
}

/* Objects. */

HMP(hmp_qom_list)
{
    struct err *e = NULL;
    struct json_object *r = NULL;
    struct qmp_args_qom_list q = {.path = a->n ? a->v[0] : "/"};

    if (!qmp_qom_list(m, &q, &r, &e)) {
        mon_error(m, e);
        return;
    }
    for (size_t i = 0; i < json_object_array_length(r); i++) {
        struct json_object *o = json_object_array_get_idx(r, i);

        mon_printf(m, "%s (%s)\n", json_get_str(o, "name"), json_get_str(o, "type"));
    }
    json_object_put(r);
}

HMP(hmp_qom_get)
{
    struct err *e = NULL;
    struct json_object *r = NULL;
    struct qmp_args_qom_get q = {.path = a->v[0], .property = a->v[1]};

    if (qmp_qom_get(m, &q, &r, &e))
        mon_printf(m, "%s\n", json_object_to_json_string_ext(r, JSON_C_TO_STRING_NOSLASHESCAPE));
    else
        mon_error(m, e);
    json_object_put(r);
}

HMP(hmp_qom_set)
{
    struct err *e = NULL;
    struct qmp_args_qom_set q = {.path = a->v[0], .property = a->v[1], .value = json_object_new_string(a->v[2])};

    done(m, qmp_qom_set(m, &q, &e), &e);
    json_object_put(q.value);
}
