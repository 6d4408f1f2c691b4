/* Shortcuts over json-c. */
#include "base/json.h"

#include <stdarg.h>

struct json_object *json_parse(const char *text, size_t len, struct err **errp)
{
    struct json_tokener *t = json_tokener_new();
    struct json_object *o;
    size_t end;

    if (!t) {
        err_set(errp, "JSON: out of memory");
        return NULL;
    }
    json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS);
    o = json_tokener_parse_ex(t, text, (int)min_u64(len, INT32_MAX));
    end = json_tokener_get_parse_end(t);
    if (json_tokener_get_error(t) == json_tokener_continue && !o) /* a bare number needs an end mark */
        o = json_tokener_parse_ex(t, "", 1);
    if (json_tokener_get_error(t) != json_tokener_success) {
        err_set(errp, "JSON: %s at character %zu", json_tokener_error_desc(json_tokener_get_error(t)), end);
        json_object_put(o);
        o = NULL;
    } else {
        while (end < len && strchr(" \t\r\n", text[end]) && text[end])
            end++;
        if (end < len && text[end]) {
            err_set(errp, "JSON: unexpected text at character %zu", end);
            json_object_put(o);
            o = NULL;
        }
    }
    json_tokener_free(t);
    return o;
}

struct json_object *json_make(const char *first, ...)
{
    struct json_object *o = json_object_new_object();
    va_list ap;

    va_start(ap, first);
    for (const char *k = first; k; k = va_arg(ap, const char *)) {
        struct json_object *v = NULL;

        switch (k[0]) {
        case 's': {
            const char *s = va_arg(ap, const char *);

            v = s ? json_object_new_string(s) : NULL;
            break;
        }
        case 'i':
            v = json_object_new_int64(va_arg(ap, int64_t));
            break;
        case 'u':
            v = json_object_new_uint64(va_arg(ap, uint64_t));
            break;
        case 'b':
            v = json_object_new_boolean(va_arg(ap, int));
            break;
        case 'd':
            v = json_object_new_double(va_arg(ap, double));
            break;
        default:
            v = va_arg(ap, struct json_object *);
            break;
        }
        if (v)
            json_object_object_add(o, k + 2, v);
    }
    va_end(ap);
    return o;
}

struct json_object *json_get(struct json_object *o, const char *key)
{
    struct json_object *v = NULL;

    if (!o || !json_object_is_type(o, json_type_object))
        return NULL;
    json_object_object_get_ex(o, key, &v);
    return v;
}

const char *json_get_str(struct json_object *o, const char *key)
{
    struct json_object *v = json_get(o, key);

    return v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

int64_t json_get_int(struct json_object *o, const char *key, int64_t dflt)
{
    struct json_object *v = json_get(o, key);

    return v && json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : dflt;
}

bool json_get_bool(struct json_object *o, const char *key, bool dflt)
{
    struct json_object *v = json_get(o, key);

    return v && json_object_is_type(v, json_type_boolean) ? json_object_get_boolean(v) : dflt;
}
