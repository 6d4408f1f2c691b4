/* key=value lists and their JSON form. */
#include "base/opts.h"
#include "base/json.h"
#include "base/str.h"

struct opts *opts_new(void)
{
    struct opts *o = xnew(struct opts);

    list_init(&o->all);
    return o;
}

static struct opt *opts_append(struct opts *o, char *key, char *val)
{
    struct opt *e = xnew(struct opt);

    e->key = key;
    e->val = val;
    list_add(&o->all, &e->link);
    return e;
}

static void opt_free(struct opt *e)
{
    list_del(&e->link);
    free(e->key);
    free(e->val);
    free(e);
}

static void flatten(struct opts *o, const char *prefix, struct json_object *v)
{
    if (json_object_is_type(v, json_type_object)) {
        json_object_object_foreach(v, k, sub)
        {
            char *key = *prefix ? xasprintf("%s.%s", prefix, k) : xstrdup(k);

            flatten(o, key, sub);
            free(key);
        }
    } else if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            char *key = xasprintf("%s.%zu", prefix, i);

            flatten(o, key, json_object_array_get_idx(v, i));
            free(key);
        }
    } else if (json_object_is_type(v, json_type_boolean)) {
        opts_append(o, xstrdup(prefix), xstrdup(json_object_get_boolean(v) ? "on" : "off"));
    } else { /* null: "none of it", which is what an empty value says */
        opts_append(o, xstrdup(prefix), xstrdup(v ? json_object_get_string(v) : ""));
    }
}

static struct opts *parse_json(const char *text, struct err **errp)
{
    struct json_object *v = json_parse(text, strlen(text), errp);
    struct opts *o;

    if (!v)
        return NULL;
    o = opts_new();
    flatten(o, "", v);
    json_object_put(v);
    return o;
}

/* Copies up to an undoubled comma (or the end) and moves *p behind it. */
static char *take_value(const char **p)
{
    struct strbuf b = {0};
    const char *s = *p;

    while (*s) {
        if (*s == ',') {
            if (s[1] != ',')
                break;
            s++;
        }
        str_addn(&b, s, 1);
        s++;
    }
    *p = *s == ',' ? s + 1 : s;
    return str_take(&b);
}

struct opts *opts_parse(const char *text, const char *implied, struct err **errp)
{
    struct opts *o;
    const char *p = text;
    bool first = true;

    if (*text == '{') {
        o = parse_json(text, errp);
        if (o)
            o->text = xstrdup(text);
        return o;
    }
    o = opts_new();
    o->text = xstrdup(text);
    while (*p) {
        size_t klen = strcspn(p, "=,");
        bool doubled = p[klen] == ',' && p[klen + 1] == ',';
        struct opt *e;

        if (p[klen] == '=' && !(first && implied && doubled)) {
            const char *v = p + klen + 1;

            if (!klen) {
                err_set(errp, "option list '%s': a value without a name", text);
                opts_free(o);
                return NULL;
            }
            e = opts_append(o, xstrndup(p, klen), NULL);
            p = v;
            e->val = take_value(&p);
        } else if (first && implied) {
            e = opts_append(o, xstrdup(implied), take_value(&p));
        } else {
            char *key = take_value(&p);

            if (!*key) { /* a stray comma */
                free(key);
                first = false;
                continue;
            }
            e = opts_append(o, key, xstrdup("on"));
            e->bare = true;
        }
        first = false;
    }
    return o;
}

struct opts *opts_dup(const struct opts *o)
{
    struct opts *n = opts_new();
    struct opt *e;

    n->text = o->text ? xstrdup(o->text) : NULL;
    opts_each (e, o)
        opts_append(n, xstrdup(e->key), xstrdup(e->val))->bare = e->bare;
    return n;
}

void opts_free(struct opts *o)
{
    if (!o)
        return;
    while (!list_empty(&o->all))
        opt_free(list_first(&o->all, struct opt, link));
    free(o->text);
    free(o);
}

void opts_set(struct opts *o, const char *key, const char *val)
{
    opts_append(o, xstrdup(key), xstrdup(val));
}

void opts_replace(struct opts *o, const char *key, const char *val)
{
    char *copy = xstrdup(val); /* val may belong to the entry that goes */

    opts_del(o, key);
    opts_append(o, xstrdup(key), copy);
}

bool opts_del(struct opts *o, const char *key)
{
    struct opt *e, *tmp;
    bool any = false;

    list_each_safe (e, tmp, &o->all, link)
        if (!strcmp(e->key, key)) {
            opt_free(e);
            any = true;
        }
    return any;
}

static struct opt *find_last(const struct opts *o, const char *key, bool mark)
{
    struct opt *e, *hit = NULL;

    opts_each (e, o)
        if (!strcmp(e->key, key)) {
            hit = e;
            if (mark)
                e->used = true;
        }
    return hit;
}

const char *opts_get(struct opts *o, const char *key)
{
    struct opt *e = find_last(o, key, true);

    return e ? e->val : NULL;
}

const char *opts_peek(const struct opts *o, const char *key)
{
    struct opt *e = find_last(o, key, false);

    return e ? e->val : NULL;
}

bool opts_bool(struct opts *o, const char *key, bool *out, struct err **errp)
{
    const char *v = opts_get(o, key);

    if (!v || str_to_bool(v, out))
        return true;
    return err_set(errp, "parameter '%s' expects 'on' or 'off', not '%s'", key, v);
}

bool opts_u64(struct opts *o, const char *key, uint64_t *out, struct err **errp)
{
    const char *v = opts_get(o, key);

    if (!v || str_to_u64(v, out))
        return true;
    return err_set(errp, "parameter '%s' expects a number, not '%s'", key, v);
}

bool opts_size(struct opts *o, const char *key, uint64_t *out, struct err **errp)
{
    const char *v = opts_get(o, key);

    if (!v || str_to_size(v, 'b', out))
        return true;
    err_set(errp, "parameter '%s' expects a size, not '%s'", key, v);
    err_hint(errp, "A size is a number with an optional suffix k, M, G, T, P or E.");
    return false;
}

struct opts *opts_sub(struct opts *o, const char *prefix)
{
    struct opts *n = opts_new();
    size_t len = strlen(prefix);
    struct opt *e;

    opts_each (e, o)
        if (!strncmp(e->key, prefix, len) && e->key[len] == '.') {
            opts_append(n, xstrdup(e->key + len + 1), xstrdup(e->val))->bare = e->bare;
            e->used = true;
        }
    return n;
}

bool opts_done(struct opts *o, const char *what, const char *const *known, struct err **errp)
{
    struct opt *e;

    opts_each (e, o)
        if (!e->used) {
            const char *near = str_nearest(e->key, known);

            err_set(errp, "%s: unknown option '%s'", what, e->key);
            if (near)
                err_hint(errp, "Did you mean '%s'?", near);
            return false;
        }
    return true;
}
