/* One object by its description: each field as name, length, bytes.
 *
 * An object is a version and then its fields: length of the name (1 byte), the name, length of the value (4), the
 * value. Numbers are little-endian and as wide as the field; a timer is one byte of "pending" and its deadline; structs
 * are a count of elements, each a length and an object again. Deadlines on the virtual clock are absolute, on others
 * relative to now. Left out: conversion of a field whose width changed; give it a new name instead. */
#include "base/bytes.h"
#include "run/clock.h"
#include "state/state_int.h"

enum { MAX_FIELDS = 256, MAX_DEPTH = 8 };

struct walk {
    const char *who;
    bool apply;
    unsigned depth;
    struct err **errp;
};

/* ---- writing ---- */

static void put32(struct strbuf *o, uint32_t v)
{
    uint8_t b[4];

    put_le32(b, v);
    str_addn(o, b, sizeof b);
}

/* Leaves room for a length; end_len fills it in. */
static size_t begin_len(struct strbuf *o)
{
    put32(o, 0);
    return o->len;
}

static void end_len(struct strbuf *o, size_t at)
{
    put_le32(o->s + at - 4, (uint32_t)(o->len - at));
}

static void put_ints(struct strbuf *o, const struct state_field *f, const uint8_t *p)
{
    for (unsigned i = 0; i < f->count; i++, p += f->size) {
        uint8_t b[8];
        uint64_t v = 0;

        memcpy(&v, p, f->size); /* the host is little-endian where this is built, and the field as wide as it says */
        put_le64(b, v);
        str_addn(o, b, f->size);
    }
}

static void put_timer(struct strbuf *o, const struct clk_timer *t)
{
    uint8_t b[9] = {t->pending};
    int64_t d = t->pending ? t->deadline : 0;

    if (t->pending && !clk_is_virtual(t->clk))
        d -= clk_now(t->clk);
    put_le64(b + 1, (uint64_t)d);
    str_addn(o, b, sizeof b);
}

static bool put_object(struct strbuf *o, const struct state_desc *d, void *obj, struct err **errp);

static bool put_structs(struct strbuf *o, const struct state_field *f, uint8_t *p, unsigned nr, struct err **errp)
{
    put32(o, nr);
    for (unsigned i = 0; i < nr; i++, p += f->size) {
        size_t at = begin_len(o);

        if (!put_object(o, f->sub, p, errp))
            return false;
        end_len(o, at);
    }
    return true;
}

static bool put_value(struct strbuf *o, const struct state_field *f, uint8_t *obj, struct err **errp)
{
    uint8_t *p = obj + f->off;

    switch (f->kind) {
    case STATE_K_INT:
        put_ints(o, f, p);
        return true;
    case STATE_K_BOOL:
        str_addn(o, *(bool *)p ? "\1" : "\0", 1);
        return true;
    case STATE_K_BYTES:
        str_addn(o, p, (size_t)f->size * f->count);
        return true;
    case STATE_K_TIMER:
        put_timer(o, (struct clk_timer *)p);
        return true;
    case STATE_K_STRUCT:
        return put_structs(o, f, p, f->count, errp);
    case STATE_K_PTR:
        return put_structs(o, f, *(uint8_t **)p, *(uint8_t **)p ? 1 : 0, errp);
    case STATE_K_VARBYTES:
    case STATE_K_ALLOC:
        if (*(uint32_t *)(obj + f->len_off))
            str_addn(o, *(uint8_t **)p, *(uint32_t *)(obj + f->len_off));
        return true;
    default:
        return err_set(errp, "field '%s' is of no known kind", f->name);
    }
}

static bool put_object(struct strbuf *o, const struct state_desc *d, void *obj, struct err **errp)
{
    if (d->pre_save && !d->pre_save(obj, errp))
        return false;
    put32(o, d->version);
    for (const struct state_field *f = d->fields; f->kind != STATE_K_END; f++) {
        uint8_t n = (uint8_t)strlen(f->name);
        size_t at;

        str_addn(o, &n, 1);
        str_addn(o, f->name, n);
        at = begin_len(o);
        if (!put_value(o, f, obj, errp))
            return false;
        end_len(o, at);
    }
    return true;
}

bool state_fields_put(struct strbuf *out, const struct state_desc *d, void *obj, struct err **errp)
{
    return put_object(out, d, obj, errp);
}

/* ---- reading ---- */

static bool bad(const struct walk *w, const struct state_field *f, const char *what)
{
    return err_set(w->errp, "%s: field '%s' %s", w->who, f->name, what);
}

static bool get_object(struct walk *w, const uint8_t *p, size_t n, const struct state_desc *d, void *obj);

static bool get_structs(struct walk *w, const struct state_field *f, const uint8_t *p, size_t n, uint8_t *at,
                        unsigned want)
{
    uint32_t nr;

    if (n < 4)
        return bad(w, f, "is too short");
    nr = get_le32(p);
    p += 4;
    n -= 4;
    /* An array may have grown since; it may not have shrunk. */
    if (f->kind == STATE_K_PTR ? nr != want : nr > want)
        return bad(w, f, "has another number of elements here");
    for (uint32_t i = 0; i < nr; i++, at += f->size) {
        uint32_t len = n < 4 ? UINT32_MAX : get_le32(p);

        if (n < 4 || len > n - 4)
            return bad(w, f, "is cut off");
        if (!get_object(w, p + 4, len, f->sub, at))
            return false;
        p += 4 + len;
        n -= 4 + len;
    }
    return !n || bad(w, f, "is too long");
}

static bool get_ints(struct walk *w, const struct state_field *f, const uint8_t *p, size_t n, uint8_t *at)
{
    if (n % f->size || n / f->size > f->count || !n)
        return bad(w, f, "has another size here");
    for (; w->apply && n; n -= f->size, p += f->size, at += f->size) {
        uint64_t v = get_le(p, f->size);

        memcpy(at, &v, f->size);
    }
    return true;
}

static bool get_timer(struct walk *w, const struct state_field *f, const uint8_t *p, size_t n, struct clk_timer *t)
{
    int64_t d;

    if (n != 9 || p[0] > 1 || !t->clk)
        return bad(w, f, "is no timer here");
    d = (int64_t)get_le64(p + 1);
    if (d < -INT64_MAX / 2 || d > INT64_MAX / 4 * 3)
        return bad(w, f, "lies too far away");
    if (!w->apply)
        return true;
    if (!p[0])
        clk_timer_cancel(t);
    else
        clk_timer_set(t, clk_is_virtual(t->clk) ? d : clk_now(t->clk) + d);
    return true;
}

static bool get_alloc(struct walk *w, const struct state_field *f, const uint8_t *p, size_t n, uint8_t *obj)
{
    uint8_t **at = (uint8_t **)(obj + f->off), *buf = NULL;

    if (n > f->count)
        return bad(w, f, "is too long");
    if (!w->apply)
        return true;
    if (n && !(buf = try_alloc(1, n)))
        return bad(w, f, "finds no memory");
    if (n)
        memcpy(buf, p, n);
    free(*at);
    *at = buf;
    *(uint32_t *)(obj + f->len_off) = (uint32_t)n;
    return true;
}

static bool get_bytes(struct walk *w, const struct state_field *f, const uint8_t *p, size_t n, uint8_t *at, size_t want)
{
    if (n != want)
        return bad(w, f, "has another size here");
    if (w->apply && n)
        memcpy(at, p, n);
    return true;
}

static bool get_value(struct walk *w, const struct state_field *f, const uint8_t *p, size_t n, uint8_t *obj)
{
    uint8_t *at = obj + f->off;

    switch (f->kind) {
    case STATE_K_INT:
        return get_ints(w, f, p, n, at);
    case STATE_K_BOOL:
        if (n != 1 || *p > 1)
            return bad(w, f, "is neither true nor false");
        if (w->apply)
            *(bool *)at = *p;
        return true;
    case STATE_K_BYTES:
        return get_bytes(w, f, p, n, at, (size_t)f->size * f->count);
    case STATE_K_TIMER:
        return get_timer(w, f, p, n, (struct clk_timer *)at);
    case STATE_K_STRUCT:
        return get_structs(w, f, p, n, at, f->count);
    case STATE_K_PTR:
        return get_structs(w, f, p, n, *(uint8_t **)at, *(uint8_t **)at ? 1 : 0);
    case STATE_K_VARBYTES:
        return get_bytes(w, f, p, n, *(uint8_t **)at, *(uint32_t *)(obj + f->len_off));
    case STATE_K_ALLOC:
        return get_alloc(w, f, p, n, obj);
    default:
        return bad(w, f, "is of no known kind");
    }
}

/* The field called name, looked for first where the table's order says. */
static int find_field(const struct state_field *t, unsigned guess, const uint8_t *name, unsigned n)
{
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = pass ? 0 : guess; t[i].kind != STATE_K_END; i++) {
            if (strlen(t[i].name) == n && !memcmp(t[i].name, name, n))
                return (int)i;
            if (!pass)
                break;
        }
    return -1;
}

static bool get_all(struct walk *w, const uint8_t *p, size_t n, const struct state_desc *d, void *obj, bool *seen)
{
    unsigned guess = 0;

    while (n) {
        unsigned len = p[0];
        uint32_t size;
        int i;

        if (n < 1 + len + 4)
            return err_set(w->errp, "%s: the saved state is cut off", w->who);
        size = get_le32(p + 1 + len);
        if (size > n - 1 - len - 4)
            return err_set(w->errp, "%s: the saved state is cut off", w->who);
        i = find_field(d->fields, guess, p + 1, len);
        if (i < 0)
            return err_set(w->errp, "%s: the saved state has a field '%.*s' that is not known here", w->who, (int)len,
                           (const char *)p + 1);
        if (seen[i])
            return bad(w, &d->fields[i], "comes twice");
        seen[i] = true;
        if (!get_value(w, &d->fields[i], p + 1 + len + 4, size, obj))
            return false;
        guess = (unsigned)i + 1;
        p += 1 + len + 4 + size;
        n -= 1 + len + 4 + size;
    }
    return true;
}

static bool loaded(struct walk *w, const struct state_desc *d, void *obj)
{
    struct err *e = NULL;

    if (d->post_load(obj, &e))
        return true;
    if (!e)
        return err_set(w->errp, "%s: the saved state of '%s' holds values that cannot be", w->who,
                       d->name ? d->name : "the device");
    err_move(w->errp, e);
    err_prefix(w->errp, "%s: ", w->who);
    return false;
}

static bool get_object(struct walk *w, const uint8_t *p, size_t n, const struct state_desc *d, void *obj)
{
    bool seen[MAX_FIELDS] = {false};
    uint32_t version = n < 4 ? 0 : get_le32(p);

    if (n < 4)
        return err_set(w->errp, "%s: the saved state is cut off", w->who);
    if (version > d->version)
        return err_set(w->errp, "%s: version %u of '%s' was saved by a newer program, this one knows %u", w->who,
                       version, d->name ? d->name : "the state", d->version);
    if (++w->depth > MAX_DEPTH)
        return err_set(w->errp, "%s: the saved state is nested too deeply", w->who);
    if (!get_all(w, p + 4, n - 4, d, obj, seen))
        return false;
    w->depth--;
    for (unsigned i = 0; d->fields[i].kind != STATE_K_END; i++) {
        assert(i < MAX_FIELDS);
        if (!seen[i] && d->fields[i].since <= version)
            return bad(w, &d->fields[i], "is missing in the saved state");
    }
    return !w->apply || !d->post_load || loaded(w, d, obj);
}

bool state_fields_get(const void *buf, size_t n, const struct state_desc *d, void *obj, bool apply, const char *who,
                      struct err **errp)
{
    struct walk w = {.who = who, .apply = apply, .errp = errp};

    return get_object(&w, buf, n, d, obj);
}
