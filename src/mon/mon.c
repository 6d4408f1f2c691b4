/* The set of monitors of a machine and what both languages share. */
#include "mon/mon_int.h"
#include "ui/ui.h"

#include <stdio.h>
#include <unistd.h>

static void event(void *opaque, const char *name, struct json_object *data)
{
    struct mon_set *s = opaque;
    struct mon *m;
    int64_t now = clk_now(s->cfg.run->host);

    list_each (m, &s->mons, link)
        if (m->mode == MON_QMP && m->negotiated)
            qmp_event(m, name, data, now);
}

struct mon_set *mon_set_new(const struct mon_cfg *c)
{
    struct mon_set *s = xnew(struct mon_set);

    s->cfg = *c;
    list_init(&s->mons);
    list_init(&s->fds);
    if (c->m)
        s->cfg.run = c->m->run;
    run_listen(s->cfg.run, event, s);
    return s;
}

static void mon_free(struct mon *m)
{
    list_del(&m->link);
    chr_fe_fini(&m->fe);
    if (m->mode == MON_QMP)
        qmp_close(m);
    le_free(m);
    str_free(&m->text);
    free(m);
}

void mon_set_free(struct mon_set *s)
{
    struct mon_fd *f;

    if (!s)
        return;
    run_unlisten(s->cfg.run, event, s);
    while (!list_empty(&s->mons))
        mon_free(list_first(&s->mons, struct mon, link));
    while ((f = list_first(&s->fds, struct mon_fd, link))) {
        list_del(&f->link);
        close(f->fd);
        free(f->name);
        free(f);
    }
    free(s);
}

int mon_take_fd(struct mon_set *s, const char *name)
{
    struct mon_fd *f;
    int fd;

    list_each (f, &s->fds, link) {
        if (strcmp(f->name, name))
            continue;
        fd = f->fd;
        list_del(&f->link);
        free(f->name);
        free(f);
        return fd;
    }
    return -1;
}

static void greet(struct mon *m)
{
    if (!m->greeted)
        mon_printf(m, "QEMU %d.%d.%d monitor (Lyrebird %s) - type 'help' for more information\n", MON_QEMU_MAJOR,
                   MON_QEMU_MINOR, MON_QEMU_MICRO, LYREBIRD_VERSION);
    m->greeted = true;
    le_prompt(m);
}

static void mon_event(void *opaque, enum chr_event ev)
{
    struct mon *m = opaque;
    bool mux = m->fe.chr && chr_is_mux(m->fe.chr);

    if (m->mode == MON_QMP) {
        if (ev == CHR_OPENED)
            qmp_open(m);
        else if (ev == CHR_CLOSED)
            qmp_close(m);
        return;
    }
    switch (ev) {
    case CHR_OPENED:
        m->greeted = false;
        le_reset(m);
        if (!mux)
            greet(m);
        break;
    case CHR_MUX_IN:
        m->in_focus = true;
        greet(m);
        break;
    case CHR_MUX_OUT:
        m->in_focus = false;
        mon_puts(m, "\n");
        break;
    default:
        le_reset(m);
        break;
    }
}

/* A command may turn the loop while it waits (for disks to stand still): what comes meanwhile waits its turn. */
static size_t mon_can_read(void *opaque)
{
    struct mon *m = opaque;

    m->starved |= m->busy;
    return m->busy ? 0 : MON_LINE_MAX;
}

static void mon_read(void *opaque, const uint8_t *buf, size_t len)
{
    struct mon *m = opaque;

    m->busy = true;
    if (m->mode == MON_QMP)
        qmp_input(m, buf, len);
    else
        le_input(m, buf, len);
    m->busy = false;
    if (m->starved)
        chr_fe_accept(&m->fe);
    m->starved = false;
}

static const struct chr_fe_ops mon_ops = {.can_read = mon_can_read, .read = mon_read, .event = mon_event};

bool mon_add(struct mon_set *s, struct chr *c, enum mon_mode mode, bool pretty, struct err **errp)
{
    struct mon *m = xnew(struct mon);

    if (!chr_fe_init(&m->fe, c, errp)) {
        free(m);
        return false;
    }
    m->set = s;
    m->mode = mode;
    m->pretty = pretty;
    list_add(&s->mons, &m->link);
    chr_fe_set(&m->fe, &mon_ops, m);
    return true;
}

/* Output. */

void mon_puts(struct mon *m, const char *s)
{
    if (m->capture) {
        str_add(m->capture, s);
        return;
    }
    while (*s) {
        size_t n = strcspn(s, "\n");

        if (n)
            chr_fe_write(&m->fe, s, n);
        s += n;
        if (*s) {
            chr_fe_write(&m->fe, "\r\n", 2);
            s++;
        }
    }
}

void mon_printf(struct mon *m, const char *fmt, ...)
{
    va_list ap;
    char *s;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    mon_puts(m, s);
    free(s);
}

void mon_puts_free(struct mon *m, char *text)
{
    mon_puts(m, text ? text : "");
    free(text);
}

void mon_error(struct mon *m, struct err *e)
{
    if (!e)
        return;
    mon_printf(m, "Error: %s\n", e->msg);
    if (e->hint)
        mon_printf(m, "%s\n", e->hint);
    err_free(e);
}

/* Shared services. */

struct dev *mon_find_dev(struct mon_set *s, const char *id, struct err **errp)
{
    struct machine *m = s->cfg.m;
    struct dev *d = dev_by_id(m, id);
    struct obj *o;

    if (d)
        return d;
    o = obj_resolve(m->root, id);
    if (o && obj_class_is(o->cls, "device"))
        return container_of(o, struct dev, obj);
    err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    return NULL;
}

struct vcpu *mon_cpu(struct mon *m, struct err **errp)
{
    struct machine *mm = mon_machine(m);

    if (m->cpu < mm->nr_cpus)
        return mm->cpus[m->cpu];
    err_set(errp, "this machine has no CPU");
    return NULL;
}

bool mon_screendump(struct machine *m, const char *file, const char *device, bool png, struct err **errp)
{
    struct ui_console *c = ui_console_get(m, 0);

    if (!c)
        return err_set(errp, "there is no console to take a screendump from");
    if (device && strcmp(device, ui_console_name(c)) && !dev_by_id(m, device))
        return err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", device);
    ui_console_update(c);
    return ui_screendump(c, file, png, errp);
}

bool mon_object_add(struct machine *m, struct opts *o, struct err **errp)
{
    static const char *const skip[] = {"qom-type", "id", NULL};
    const char *type = opts_get(o, "qom-type"), *id = opts_get(o, "id");
    const struct obj_class *c = type ? obj_class_find(type) : NULL;
    struct obj *obj;

    if (!type)
        return err_set(errp, "the object's type is missing");
    if (!c || !c->user) {
        struct str_nearest near;

        str_nearest_init(&near, type);
        for (const struct obj_class *k = NULL; (k = obj_class_next(k));)
            if (k->user)
                str_nearest_try(&near, k->name);
        err_set(errp, "invalid object type: %s", type);
        if (near.best)
            err_hint(errp, "did you mean '%s'? -object help lists all", near.best);
        else
            err_hint(errp, "-object help lists all");
        return false;
    }
    if (!id || !*id)
        return err_set(errp, "an object needs an id; add id=NAME");
    if (obj_child(m->objects, id))
        return err_set(errp, "an object with id '%s' exists already", id);
    obj = obj_new(c, m);
    if (!obj_set_all(obj, o, skip, errp)) {
        obj_unref(obj);
        return false;
    }
    obj_add_child(m->objects, id, obj);
    if (!obj_ready(obj, errp)) {
        obj_unparent(obj);
        return false;
    }
    return true;
}

/* Keys of one chord: all down, held, all up in reverse order. */
struct chord {
    struct machine *m;
    struct clk_timer timer;
    unsigned n, keys[16];
};

static void chord_up(void *opaque)
{
    struct chord *c = opaque;

    while (c->n)
        ui_send_key(c->m, c->keys[--c->n], false);
    ui_send_sync(c->m);
    free(c);
}

bool mon_send_keys(struct machine *m, const unsigned *keys, unsigned n, int64_t hold_ms, struct err **errp)
{
    struct chord *c;

    if (n > ARRAY_LEN(c->keys))
        return err_set(errp, "too many keys: at most %zu", ARRAY_LEN(c->keys));
    if (hold_ms < 1 || hold_ms > 60000)
        return err_set(errp, "hold time must be 1 to 60000 ms");
    c = xnew(struct chord);
    c->m = m;
    for (unsigned i = 0; i < n; i++) {
        c->keys[c->n++] = keys[i];
        ui_send_key(m, keys[i], true);
    }
    ui_send_sync(m);
    clk_timer_init(&c->timer, m->stepped ? m->run->virt : m->run->real, chord_up, c);
    clk_timer_set(&c->timer, clk_now(c->timer.clk) + hold_ms * NS_PER_MS);
    return true;
}

struct blk *mon_blk_of_dev(struct mon_set *s, const char *id)
{
    struct dev *d = mon_find_dev(s, id, NULL);
    struct blk *own = d ? blk_of_dev(s->cfg.blks, &d->obj) : NULL;
    AUTOFREE char *name = d && obj_prop_find(d->obj.cls, "drive") ? obj_get(&d->obj, "drive", NULL) : NULL;

    if (own)
        return own;
    return name && *name ? blk_find(s->cfg.blks, name) : NULL;
}

unsigned mon_key_by_scancode(unsigned code)
{
    for (unsigned k = 1; ui_key_name(k); k++) {
        uint8_t set1[8];
        unsigned n = ui_key_set1(k, set1);

        if ((n == 1 && code < 0x80 && set1[0] == code) ||
            (n == 2 && set1[0] == 0xe0 && code >= 0x80 && set1[1] == (code & 0x7f)))
            return k;
    }
    return 0;
}

void mon_uuid_text(const struct machine *m, char out[40])
{
    const uint8_t *u = m->uuid;

    snprintf(out, 40, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3],
             u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

void mon_freeze(struct machine *m)
{
    if (machine_running(m) && m->cpus_pause)
        m->cpus_pause(m);
}

void mon_thaw(struct machine *m)
{
    if (machine_running(m) && m->cpus_resume)
        m->cpus_resume(m);
}
