/* The property types every room shares. */
#include "base/json.h"
#include "base/str.h"
#include "obj/obj.h"

#include <stdio.h>

static bool bad(struct obj *o, const struct prop *p, const char *val, const char *expects, struct err **errp)
{
    return err_set(errp, "Property '%s.%s': '%s' is not %s", o->cls->name, p->name, val, expects);
}

static bool set_bool(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)
{
    return str_to_bool(val, f) || bad(o, p, val, "'on' or 'off'", errp);
}
static char *get_bool(struct obj *o, const struct prop *p, const void *f)
{
    return xstrdup(*(const bool *)f ? "true" : "false");
}
static struct json_object *propjson_bool(struct obj *o, const struct prop *p, const void *f)
{
    return json_object_new_boolean(*(const bool *)f);
}
const struct prop_type prop_bool = {"bool", set_bool, get_bool, NULL, propjson_bool};

static bool in_range(struct obj *o, const struct prop *p, uint64_t v, uint64_t type_max, struct err **errp)
{
    uint64_t max = p->max ? p->max : type_max;

    if (v <= type_max && v >= p->min && v <= max)
        return true;
    return err_set(errp, "Property '%s.%s': value %" PRIu64 " is out of range (%" PRIu64 " to %" PRIu64 ")",
                   o->cls->name, p->name, v, p->min, max);
}

#define UINT_TYPE(bits)                                                                                                \
    static bool set_u##bits(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)          \
    {                                                                                                                  \
        uint64_t v;                                                                                                    \
        if (!str_to_u64(val, &v))                                                                                      \
            return bad(o, p, val, "a number", errp);                                                                   \
        if (!in_range(o, p, v, UINT##bits##_MAX, errp))                                                                \
            return false;                                                                                              \
        *(uint##bits##_t *)f = (uint##bits##_t)v;                                                                      \
        return true;                                                                                                   \
    }                                                                                                                  \
    static char *get_u##bits(struct obj *o, const struct prop *p, const void *f)                                       \
    {                                                                                                                  \
        return xasprintf("%" PRIu64, (uint64_t) * (const uint##bits##_t *)f);                                          \
    }                                                                                                                  \
    static struct json_object *json_u##bits(struct obj *o, const struct prop *p, const void *f)                        \
    {                                                                                                                  \
        return json_object_new_uint64(*(const uint##bits##_t *)f);                                                     \
    }                                                                                                                  \
    const struct prop_type prop_u##bits = {"uint" #bits, set_u##bits, get_u##bits, NULL, json_u##bits};
UINT_TYPE(8)
UINT_TYPE(16)
UINT_TYPE(32)
UINT_TYPE(64)

#define INT_TYPE(bits)                                                                                                 \
    static bool set_i##bits(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)          \
    {                                                                                                                  \
        int64_t v;                                                                                                     \
        if (!str_to_i64(val, &v) || v < INT##bits##_MIN || v > INT##bits##_MAX)                                        \
            return bad(o, p, val, "a number in range", errp);                                                          \
        *(int##bits##_t *)f = (int##bits##_t)v;                                                                        \
        return true;                                                                                                   \
    }                                                                                                                  \
    static char *get_i##bits(struct obj *o, const struct prop *p, const void *f)                                       \
    {                                                                                                                  \
        return xasprintf("%" PRId64, (int64_t) * (const int##bits##_t *)f);                                            \
    }                                                                                                                  \
    static struct json_object *json_i##bits(struct obj *o, const struct prop *p, const void *f)                        \
    {                                                                                                                  \
        return json_object_new_int64(*(const int##bits##_t *)f);                                                       \
    }                                                                                                                  \
    const struct prop_type prop_i##bits = {"int" #bits, set_i##bits, get_i##bits, NULL, json_i##bits};
INT_TYPE(32)
INT_TYPE(64)

static bool set_size(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)
{
    uint64_t v;

    if (!str_to_size(val, 'b', &v))
        return bad(o, p, val, "a size (number with suffix k, M, G or T)", errp);
    if (!in_range(o, p, v, UINT64_MAX, errp))
        return false;
    *(uint64_t *)f = v;
    return true;
}
const struct prop_type prop_size = {"size", set_size, get_u64, NULL, json_u64};

static bool set_str(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)
{
    char **s = f;
    char *copy = xstrdup(val);

    free(*s);
    *s = copy;
    return true;
}
static char *get_str(struct obj *o, const struct prop *p, const void *f)
{
    const char *s = *(char *const *)f;

    return s ? xstrdup(s) : NULL;
}
static void release_str(struct obj *o, const struct prop *p, void *f)
{
    free(*(char **)f);
    *(char **)f = NULL;
}
const struct prop_type prop_str = {"str", set_str, get_str, release_str, NULL};

static bool set_enum(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)
{
    struct strbuf list = {0};

    for (int i = 0; p->names[i]; i++)
        if (!strcmp(p->names[i], val)) {
            *(int *)f = i;
            return true;
        }
    for (int i = 0; p->names[i]; i++)
        str_addf(&list, "%s%s", i ? ", " : "", p->names[i]);
    err_set(errp, "Property '%s.%s': '%s' is none of %s", o->cls->name, p->name, val, list.s);
    str_free(&list);
    return false;
}
static char *get_enum(struct obj *o, const struct prop *p, const void *f)
{
    return xstrdup(p->names[*(const int *)f]);
}
const struct prop_type prop_enum = {"enum", set_enum, get_enum, NULL, NULL};

static const char *const ooa_names[] = {"auto", "on", "off"};
static bool set_onoffauto(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)
{
    bool on;

    if (!strcmp(val, "auto"))
        *(int *)f = OOA_AUTO;
    else if (str_to_bool(val, &on))
        *(int *)f = on ? OOA_ON : OOA_OFF;
    else
        return bad(o, p, val, "'on', 'off' or 'auto'", errp);
    return true;
}
static char *get_onoffauto(struct obj *o, const struct prop *p, const void *f)
{
    return xstrdup(ooa_names[*(const int *)f]);
}
const struct prop_type prop_onoffauto = {"OnOffAuto", set_onoffauto, get_onoffauto, NULL, NULL};

#define BIT_TYPE(bits)                                                                                                 \
    static bool set_bit##bits(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)        \
    {                                                                                                                  \
        uint##bits##_t *w = f, m = (uint##bits##_t)1 << p->bit;                                                        \
        bool on;                                                                                                       \
        if (!str_to_bool(val, &on))                                                                                    \
            return bad(o, p, val, "'on' or 'off'", errp);                                                              \
        *w = on ? *w | m : *w & ~m;                                                                                    \
        return true;                                                                                                   \
    }                                                                                                                  \
    static char *get_bit##bits(struct obj *o, const struct prop *p, const void *f)                                     \
    {                                                                                                                  \
        return xstrdup(*(const uint##bits##_t *)f >> p->bit & 1 ? "true" : "false");                                   \
    }                                                                                                                  \
    static struct json_object *json_bit##bits(struct obj *o, const struct prop *p, const void *f)                      \
    {                                                                                                                  \
        return json_object_new_boolean(*(const uint##bits##_t *)f >> p->bit & 1);                                      \
    }                                                                                                                  \
    const struct prop_type prop_bit##bits = {"bool", set_bit##bits, get_bit##bits, NULL, json_bit##bits};
BIT_TYPE(32)
BIT_TYPE(64)

static bool set_mac(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)
{
    struct mac m;
    const char *s = val;

    for (int i = 0; i < 6; i++) {
        char *end;
        unsigned long v = strtoul(s, &end, 16);

        if (end == s || end - s > 2 || v > 255 || (i < 5 ? *end != ':' && *end != '-' : *end != '\0')) {
            err_set(errp, "Property '%s.%s': '%s' is not a MAC address: bad digits at '%s'", o->cls->name, p->name, val,
                    s);
            err_hint(errp, "Write six hexadecimal bytes, e.g. 52:54:00:12:34:57.");
            return false;
        }
        m.a[i] = (uint8_t)v;
        s = end + 1;
    }
    if (m.a[0] & 1)
        return bad(o, p, val, "a unicast MAC address (the first byte must be even)", errp);
    *(struct mac *)f = m;
    return true;
}
static char *get_mac(struct obj *o, const struct prop *p, const void *f)
{
    const uint8_t *a = ((const struct mac *)f)->a;

    return xasprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5]);
}
const struct prop_type prop_mac = {"str", set_mac, get_mac, NULL, NULL};

/* The root of the tree an object will join: its own top, else what the machine (ctx) starts with. */
static struct obj *tree_root(struct obj *o)
{
    struct obj *r = o->parent ? o : o->ctx;

    while (r && r->parent)
        r = r->parent;
    return r;
}
static bool set_link(struct obj *o, const struct prop *p, void *f, const char *val, struct err **errp)
{
    struct obj *root = tree_root(o), *t = root ? obj_resolve(root, val) : NULL;

    if (!t)
        return err_set(errp, "Property '%s.%s': there is no object '%s'", o->cls->name, p->name, val);
    obj_ref(t);
    obj_unref(*(struct obj **)f);
    *(struct obj **)f = t;
    return true;
}
static char *get_link(struct obj *o, const struct prop *p, const void *f)
{
    struct obj *t = *(struct obj *const *)f;

    return t ? obj_path(t) : NULL;
}
static void release_link(struct obj *o, const struct prop *p, void *f)
{
    obj_unref(*(struct obj **)f);
    *(struct obj **)f = NULL;
}
const struct prop_type prop_link = {"link", set_link, get_link, release_link, NULL};
