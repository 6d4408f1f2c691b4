/* The core of character devices: the set, creation, front ends, queued output. Back ends are in chr_*.c.
 *
 * Invariants: 1. queued output is sent before anything newer. 2. The queue never exceeds CHR_OUT_MAX; what does not
 * fit is dropped and counted. 3. A front end's callbacks run only between chr_fe_set and chr_fe_fini. */
#include "base/str.h"
#include "chr/chr_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static const struct obj_class chr_set_class = {.name = "chardev-set", .size = sizeof(struct chr_set)};
OBJ_REGISTER(chr_set_class)

static const char *const common_keys[] = {"backend", "id", "mux", "logfile", "logappend", NULL};

struct chr_set *chr_set_new(struct run *r, struct obj *root)
{
    struct obj *o = obj_new(&chr_set_class, root->ctx);
    struct chr_set *s = container_of(o, struct chr_set, obj);

    s->run = r;
    obj_add_child(root, "chardevs", o);
    return s;
}

void chr_set_free(struct chr_set *s)
{
    struct obj *o;

    if (!s)
        return;
    while ((o = list_first(&s->obj.children, struct obj, sibling)))
        obj_unparent(o);
    obj_unparent(&s->obj);
}

void chr_set_bind(struct chr_set *s, void *machine_ctx)
{
    s->obj.ctx = machine_ctx;
}

struct chr_set *chr_set_of(void *machine_ctx)
{
    struct obj *m = machine_ctx, *o;

    if (!m || !m->parent)
        return NULL;
    o = obj_child(m->parent, "chardevs");
    return o && o->cls == &chr_set_class ? container_of(o, struct chr_set, obj) : NULL;
}

void chr_set_hooks(struct chr_set *s, const struct chr_hooks *h, void *opaque)
{
    s->hooks = h;
    s->hooks_opaque = opaque;
}

void chr_set_terminal(struct chr_set *s, bool cooked)
{
    if (s && s->stdio && chr_class(s->stdio)->terminal)
        chr_class(s->stdio)->terminal(s->stdio, cooked);
}

struct chr *chr_find(struct chr_set *s, const char *id)
{
    struct obj *o = obj_child(&s->obj, id);

    return o ? container_of(o, struct chr, obj) : NULL;
}

void chr_each(struct chr_set *s, void (*fn)(struct chr *c, void *opaque), void *opaque)
{
    struct obj *o, *tmp;

    list_each_safe (o, tmp, &s->obj.children, sibling)
        fn(container_of(o, struct chr, obj), opaque);
}

const char *chr_id(const struct chr *c)
{
    return c->obj.name;
}

const char *chr_label(const struct chr *c)
{
    return c->label ? c->label : chr_class(c)->type;
}

bool chr_frontend_open(const struct chr *c)
{
    for (unsigned i = 0; i < c->nr_fe; i++)
        if (c->fe[i] && c->fe[i]->open)
            return true;
    return false;
}

bool chr_is_mux(const struct chr *c)
{
    return c->mux != NULL;
}

bool chr_is_network(const struct chr *c)
{
    return c->network;
}

static const struct chr_class *chr_class_next(const struct chr_class *prev)
{
    const struct obj_class *k = (const struct obj_class *)prev;

    while ((k = obj_class_next(k)))
        if (k->parent && !strcmp(k->parent, "chardev"))
            return (const struct chr_class *)k;
    return NULL;
}

const char *chr_type_next(const char *prev)
{
    const struct chr_class *k = NULL;

    while ((k = chr_class_next(k)))
        if (!prev)
            return k->type;
        else if (!strcmp(k->type, prev))
            prev = NULL;
    return NULL;
}

static const struct chr_class *class_find(const char *type, struct err **errp)
{
    const struct chr_class *k = NULL;
    struct str_nearest near;
    struct strbuf all = {0};

    str_nearest_init(&near, type);
    while ((k = chr_class_next(k))) {
        if (!strcmp(k->type, type) || (k->alias && !strcmp(k->alias, type))) {
            str_free(&all);
            return k;
        }
        str_nearest_try(&near, k->type);
        str_addf(&all, "%s%s", all.len ? ", " : "", k->type);
    }
    err_set(errp, "'%s' is not a chardev backend built into this program", type);
    if (near.best)
        err_hint(errp, "did you mean '%s'? Built in: %s", near.best, all.s);
    else
        err_hint(errp, "built in: %s", all.s);
    str_free(&all);
    return NULL;
}

void chr_set_label(struct chr *c, const char *fmt, ...)
{
    va_list ap;

    free(c->label);
    va_start(ap, fmt);
    if (vasprintf(&c->label, fmt, ap) < 0)
        c->label = NULL;
    va_end(ap);
}

static void refresh_bh(void *opaque)
{
    struct chr *c = opaque;

    if (c->mux)
        chr_mux_deliver(c);
    if (chr_class(c)->refresh)
        chr_class(c)->refresh(c);
}

void chr_refresh_later(struct chr *c)
{
    ev_bh_schedule(&c->refresh_bh);
}

/* A last chance for queued output when the program ends: up to half a second. */
static void drain(struct chr *c)
{
    for (int i = 0; i < 50 && c->out_len; i++) {
        size_t n = chr_class(c)->write(c, c->out + c->out_off, c->out_len);

        c->out_off += n;
        c->out_len -= n;
        if (c->out_len)
            poll(NULL, 0, 10);
    }
}

void chr_obj_free(struct obj *o)
{
    struct chr *c = container_of(o, struct chr, obj);

    if (!c->set)
        return;
    drain(c);
    for (unsigned i = 0; i < c->nr_fe; i++)
        if (c->fe[i])
            c->fe[i]->chr = NULL;
    c->nr_fe = 0;
    if (chr_class(c)->close)
        chr_class(c)->close(c);
    ev_bh_cancel(&c->refresh_bh);
    if (c->set->stdio == c)
        c->set->stdio = NULL;
    if (c->log_fd >= 0)
        close(c->log_fd);
    free(c->out);
    free(c->mux);
    free(c->label);
}

static bool open_log(struct chr *c, struct opts *o, struct err **errp)
{
    const char *path = opts_get(o, "logfile");
    bool append = false;

    if (!opts_bool(o, "logappend", &append, errp))
        return false;
    if (!path)
        return true;
    c->log_fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0666);
    return c->log_fd >= 0 || err_set_errno(errp, errno, "cannot open logfile '%s'", path);
}

static bool check_id(struct chr_set *s, const char *id, struct err **errp)
{
    if (!id || !*id)
        return err_set(errp, "a chardev needs an id; add id=NAME");
    for (const char *p = id; *p; p++)
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (p > id && strchr("0123456789-._", *p))))
            return err_set(errp, "'%s' is no identifier: letters, then letters, digits, '-', '.', '_'", id);
    if (chr_find(s, id))
        return err_set(errp, "a chardev with id '%s' exists already", id);
    return true;
}

static bool check_keys(const struct chr_class *k, struct opts *o, struct err **errp)
{
    const char *known[64];
    unsigned n = 0;
    struct opt *e;
    AUTOFREE char *what = xasprintf("chardev backend '%s'", k->type);

    for (unsigned i = 0; common_keys[i]; i++)
        known[n++] = common_keys[i];
    for (unsigned i = 0; k->keys && k->keys[i] && n < ARRAY_LEN(known) - 1; i++)
        known[n++] = k->keys[i];
    known[n] = NULL;
    opts_each (e, o) {
        e->used = false;
        for (unsigned i = 0; i < n; i++)
            if (!strcmp(known[i], e->key))
                e->used = true;
    }
    return opts_done(o, what, known, errp);
}

struct chr *chr_create(struct chr_set *s, struct opts *o, struct err **errp)
{
    const char *type = opts_get(o, "backend"), *id = opts_get(o, "id");
    const struct chr_class *k;
    struct chr *c;
    bool mux = false;

    if (!type || !*type) {
        err_set(errp, "a chardev needs a backend as first value, such as socket or file");
        return NULL;
    }
    k = class_find(type, errp);
    if (!k || !check_id(s, id, errp) || !check_keys(k, o, errp) || !opts_bool(o, "mux", &mux, errp))
        return NULL;
    c = container_of(obj_new((const struct obj_class *)k, s->obj.ctx), struct chr, obj);
    c->set = s;
    c->log_fd = -1;
    ev_bh_init(&c->refresh_bh, s->run->loop, refresh_bh, c);
    c->mux = mux ? xnew(struct chr_mux) : NULL;
    obj_add_child(&s->obj, id, &c->obj);
    if (!open_log(c, o, errp) || !k->open(c, o, errp)) {
        obj_unparent(&c->obj);
        return NULL;
    }
    c->obj.is_ready = true;
    return c;
}

struct chr *chr_create_legacy(struct chr_set *s, const char *label, const char *form, struct err **errp)
{
    struct opts *o;
    struct chr *c;
    bool none = false;

    if (str_starts(form, "chardev:")) {
        c = chr_find(s, form + 8);
        if (!c)
            err_set(errp, "chardev '%s' not found; define it with -chardev BACKEND,id=%s", form + 8, form + 8);
        return c;
    }
    o = chr_short_parse(label, form, &none, errp);
    if (!o)
        return NULL;
    c = chr_create(s, o, errp);
    opts_free(o);
    return c;
}

bool chr_remove(struct chr_set *s, const char *id, struct err **errp)
{
    struct chr *c = chr_find(s, id);

    if (!c)
        return err_set(errp, "chardev '%s' not found", id);
    if (c->nr_fe)
        return err_set(errp, "chardev '%s' is in use; remove its device first", id);
    obj_unparent(&c->obj);
    return true;
}

/* Front ends. */

bool chr_fe_init(struct chr_fe *fe, struct chr *c, struct err **errp)
{
    *fe = (struct chr_fe){0};
    if (!c)
        return true;
    if (c->nr_fe >= (c->mux ? CHR_MAX_FE : 1))
        return err_set(errp, "chardev '%s' is already in use%s", chr_id(c),
                       c->mux ? " by eight front ends" : "; give it mux=on to share it");
    fe->tag = c->nr_fe;
    fe->chr = c;
    c->fe[c->nr_fe++] = fe;
    return true;
}

void chr_fe_set(struct chr_fe *fe, const struct chr_fe_ops *ops, void *opaque)
{
    struct chr *c = fe->chr;

    fe->ops = ops;
    fe->opaque = opaque;
    if (!c)
        return;
    fe->open = true;
    if (c->opened && ops && ops->event)
        ops->event(opaque, CHR_OPENED);
    if (c->mux && c->mux->focus == fe->tag && ops && ops->event)
        ops->event(opaque, CHR_MUX_IN);
    chr_refresh_later(c);
}

void chr_fe_fini(struct chr_fe *fe)
{
    struct chr *c = fe->chr;

    if (!c)
        return;
    for (unsigned i = 0; i < c->nr_fe; i++)
        if (c->fe[i] == fe)
            c->fe[i] = NULL;
    while (c->nr_fe && !c->fe[c->nr_fe - 1])
        c->nr_fe--;
    chr_refresh_later(c);
    *fe = (struct chr_fe){0};
}

static void log_copy(struct chr *c, const void *buf, size_t len)
{
    ssize_t n;

    if (c->log_fd < 0)
        return;
    n = write(c->log_fd, buf, len);
    (void)n; /* a full disk must not stop the guest */
}

static size_t enqueue(struct chr *c, const uint8_t *buf, size_t len)
{
    size_t room = CHR_OUT_MAX - c->out_len, take = min_u64(room, len);

    if (!take)
        return 0;
    if (c->out_off + c->out_len + take > c->out_cap) {
        if (c->out_len)
            memmove(c->out, c->out + c->out_off, c->out_len);
        c->out_off = 0;
        if (c->out_len + take > c->out_cap) {
            c->out_cap = min_u64(CHR_OUT_MAX, max_u64(4096, 2 * (c->out_len + take)));
            c->out = xrealloc(c->out, c->out_cap);
        }
    }
    memcpy(c->out + c->out_off + c->out_len, buf, take);
    c->out_len += take;
    c->dropped += len - take;
    return take;
}

/* bound: how much may wait. */
static size_t put(struct chr *c, const uint8_t *buf, size_t len, size_t bound)
{
    size_t n = c->out_len ? 0 : chr_class(c)->write(c, buf, len), room = bound > c->out_len ? bound - c->out_len : 0;

    if (n < len && bound == CHR_OUT_MAX) {
        enqueue(c, buf + n, len - n);
        n = len;
    } else if (n < len) {
        n += enqueue(c, buf + n, min_u64(len - n, room));
    }
    log_copy(c, buf, n);
    if (c->out_len)
        chr_refresh_later(c);
    return n;
}

size_t chr_fe_write(struct chr_fe *fe, const void *buf, size_t len)
{
    struct chr *c = fe->chr;

    if (!c || !len)
        return len;
    if (c->mux && c->mux->timestamps) {
        char t[48];
        const uint8_t *p = buf, *end = p + len;

        while (p < end) {
            const uint8_t *nl = memchr(p, '\n', end - p), *stop = nl ? nl + 1 : end;
            int64_t ms = clk_now(c->set->run->real) / NS_PER_MS;

            if (c->mux->line_start) {
                int n = snprintf(t, sizeof t, "[%02d:%02d:%02d.%03d] ", (int)(ms / 3600000), (int)(ms / 60000 % 60),
                                 (int)(ms / 1000 % 60), (int)(ms % 1000));

                put(c, (uint8_t *)t, n, CHR_OUT_MAX);
            }
            put(c, p, stop - p, CHR_OUT_MAX);
            c->mux->line_start = nl != NULL;
            p = stop;
        }
        return len;
    }
    return put(c, buf, len, CHR_OUT_MAX);
}

size_t chr_fe_try_write(struct chr_fe *fe, const void *buf, size_t len, void (*on_writable)(void *opaque))
{
    struct chr *c = fe->chr;
    size_t n;

    if (!c || !len)
        return len;
    n = put(c, buf, len, CHR_TRY_MAX);
    if (n < len) {
        fe->on_writable = on_writable;
        chr_refresh_later(c);
    }
    return n;
}

bool chr_wants_out(const struct chr *c)
{
    if (c->out_len)
        return true;
    for (unsigned i = 0; i < c->nr_fe; i++)
        if (c->fe[i] && c->fe[i]->on_writable)
            return true;
    return false;
}

void chr_writable(struct chr *c)
{
    if (c->out_len) {
        size_t n = chr_class(c)->write(c, c->out + c->out_off, c->out_len);

        c->out_off += n;
        c->out_len -= n;
        if (!c->out_len)
            c->out_off = 0;
    }
    for (unsigned i = 0; !c->out_len && i < c->nr_fe; i++) {
        struct chr_fe *fe = c->fe[i];

        if (fe && fe->on_writable) {
            void (*fn)(void *) = fe->on_writable;

            fe->on_writable = NULL;
            fn(fe->opaque);
        }
    }
}

void chr_fe_accept(struct chr_fe *fe)
{
    struct chr *c = fe->chr;

    if (!c)
        return;
    chr_refresh_later(c);
}

void chr_fe_set_open(struct chr_fe *fe, bool open)
{
    fe->open = open;
}

void chr_fe_serial_params(struct chr_fe *fe, const struct chr_serial_params *p)
{
    if (fe->chr && chr_class(fe->chr)->serial_params)
        chr_class(fe->chr)->serial_params(fe->chr, p);
}

void chr_fe_break(struct chr_fe *fe, bool on)
{
    if (fe->chr && chr_class(fe->chr)->send_break)
        chr_class(fe->chr)->send_break(fe->chr, on);
}

/* For back ends. */

size_t chr_room(struct chr *c)
{
    struct chr_fe *fe = c->fe[0];

    if (c->mux)
        return chr_mux_room(c);
    if (!c->nr_fe || !fe || !fe->ops || !fe->ops->read)
        return 0;
    return fe->ops->can_read ? fe->ops->can_read(fe->opaque) : 4096;
}

void chr_input(struct chr *c, const uint8_t *buf, size_t len)
{
    struct chr_fe *fe = c->fe[0];

    if (c->mux)
        chr_mux_input(c, buf, len);
    else if (c->nr_fe && fe && fe->ops && fe->ops->read)
        fe->ops->read(fe->opaque, buf, len);
}

void chr_event(struct chr *c, enum chr_event ev)
{
    if (ev == CHR_BREAK && c->mux) {
        struct chr_fe *fe = c->fe[c->mux->focus];

        if (fe && fe->ops && fe->ops->event)
            fe->ops->event(fe->opaque, ev);
        return;
    }
    for (unsigned i = 0; i < c->nr_fe; i++) {
        struct chr_fe *fe = c->fe[i];

        if (fe && fe->ops && fe->ops->event)
            fe->ops->event(fe->opaque, ev);
    }
}

void chr_inject_break(struct chr *c)
{
    chr_event(c, CHR_BREAK);
}

void chr_set_opened(struct chr *c, bool on)
{
    if (c->opened == on)
        return;
    c->opened = on;
    if (!on)
        c->out_len = c->out_off = 0; /* for a peer that has gone */
    chr_event(c, on ? CHR_OPENED : CHR_CLOSED);
}

size_t chr_fd_write(int fd, const void *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = write(fd, (const char *)buf + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return done;
        if (n <= 0)
            return len;
        done += n;
    }
    return done;
}

/* Property type "chardev". */

static bool prop_chr_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    struct chr_set *s = chr_set_of(o->ctx);
    struct chr *c = s ? chr_find(s, val) : NULL;

    if (!c)
        return err_set(errp, "property '%s': no chardev with id '%s'; define it with -chardev BACKEND,id=%s", p->name,
                       val, val);
    chr_fe_fini(field);
    return chr_fe_init(field, c, errp);
}

static char *prop_chr_get(struct obj *o, const struct prop *p, const void *field)
{
    const struct chr_fe *fe = field;

    return fe->chr ? xstrdup(chr_id(fe->chr)) : NULL;
}

static void prop_chr_release(struct obj *o, const struct prop *p, void *field)
{
    chr_fe_fini(field);
}

const struct prop_type chr_prop = {
    .name = "chardev", .set = prop_chr_set, .get = prop_chr_get, .release = prop_chr_release};

static void CONSTRUCTOR register_family(void)
{
    obj_register_family("chardev", NULL);
}
