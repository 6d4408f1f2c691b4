/* The QMP protocol: greeting, negotiation, requests, replies, events. Commands are generated from schema/ and call the
 * functions in qmp_*.c. Not offered: out-of-band execution. */
#include "mon/mon_int.h"
#include "mon/qmp_type.h"

/* Text of a value with the spacing clients are used to: {"a": 1, "b": [2, 3]}. */
static void write_json(struct strbuf *b, struct json_object *v, int indent)
{
    const char *sep = "";

    if (json_object_is_type(v, json_type_object)) {
        str_add(b, "{");
        json_object_object_foreach(v, k, sub)
        {
            struct json_object *key = json_object_new_string(k);

            str_add(b, sep);
            if (indent >= 0)
                str_addf(b, "\n%*s", (indent + 1) * 4, "");
            str_addf(b, "%s: ", json_object_to_json_string_ext(key, JSON_C_TO_STRING_NOSLASHESCAPE));
            json_object_put(key);
            write_json(b, sub, indent >= 0 ? indent + 1 : indent);
            sep = indent >= 0 ? "," : ", ";
        }
        if (indent >= 0 && *sep)
            str_addf(b, "\n%*s", indent * 4, "");
        str_add(b, "}");
    } else if (json_object_is_type(v, json_type_array)) {
        str_add(b, "[");
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            str_add(b, sep);
            if (indent >= 0)
                str_addf(b, "\n%*s", (indent + 1) * 4, "");
            write_json(b, json_object_array_get_idx(v, i), indent >= 0 ? indent + 1 : indent);
            sep = indent >= 0 ? "," : ", ";
        }
        if (indent >= 0 && *sep)
            str_addf(b, "\n%*s", indent * 4, "");
        str_add(b, "]");
    } else {
        str_add(b, json_object_to_json_string_ext(v, JSON_C_TO_STRING_NOSLASHESCAPE));
    }
}

static void send(struct mon *m, struct json_object *v)
{
    struct strbuf b = {0};

    write_json(&b, v, m->pretty ? 0 : -1);
    str_add(&b, "\r\n");
    chr_fe_write(&m->fe, b.s, b.len);
    str_free(&b);
    json_object_put(v);
}

static struct json_object *version(void)
{
    return json_make("o:qemu",
                     json_make("i:micro", (int64_t)MON_QEMU_MICRO, "i:minor", (int64_t)MON_QEMU_MINOR, "i:major",
                               (int64_t)MON_QEMU_MAJOR, NULL),
                     "s:package", "Lyrebird " LYREBIRD_VERSION, NULL);
}

void qmp_open(struct mon *m)
{
    m->negotiated = false;
    if (!m->tok)
        m->tok = json_tokener_new_ex(1024);
    json_tokener_reset(m->tok);
    m->text.len = 0;
    m->skip = false;
    send(m,
         json_make("o:QMP", json_make("o:version", version(), "o:capabilities", json_object_new_array(), NULL), NULL));
}

void qmp_close(struct mon *m)
{
    m->negotiated = false;
    if (m->tok)
        json_tokener_free(m->tok);
    m->tok = NULL;
    m->text.len = 0;
}

void qmp_event(struct mon *m, const char *name, struct json_object *data, int64_t host_ns)
{
    send(m, json_make("o:timestamp",
                      json_make("i:seconds", host_ns / NS_PER_SEC, "i:microseconds", host_ns % NS_PER_SEC / 1000, NULL),
                      "s:event", name, "o:data", data ? json_object_get(data) : NULL, NULL));
}

/* Types. */

static bool wrong(const char *name, const char *want, struct err **errp)
{
    return err_set(errp, "Invalid parameter type for '%s', expected: %s", name, want);
}

static bool check_object(const struct qmp_type *t, struct json_object *v, struct err **errp)
{
    const struct qmp_type *extra = NULL;

    for (const struct qmp_member *k = t->members; k && k->name; k++) {
        struct json_object *sub;

        if (!json_object_object_get_ex(v, k->name, &sub)) {
            if (!k->optional)
                return err_set(errp, "Parameter '%s' is missing", k->name);
        } else if (!qmp_check(k->type, sub, k->name, errp)) {
            return false;
        }
    }
    for (const struct qmp_variant *u = t->variants; u && u->value; u++)
        if (!strcmp(u->value, json_get_str(v, t->tag)))
            extra = u->type;
    for (const struct qmp_member *k = extra ? extra->members : NULL; k && k->name; k++) {
        struct json_object *sub;

        if (!json_object_object_get_ex(v, k->name, &sub)) {
            if (!k->optional)
                return err_set(errp, "Parameter '%s' is missing", k->name);
        } else if (!qmp_check(k->type, sub, k->name, errp)) {
            return false;
        }
    }
    if (t->open)
        return true;
    json_object_object_foreach(v, key, sub)
    {
        bool known = false;

        (void)sub;
        for (const struct qmp_member *k = t->members; k && k->name; k++)
            known |= !strcmp(k->name, key);
        for (const struct qmp_member *k = extra ? extra->members : NULL; k && k->name; k++)
            known |= !strcmp(k->name, key);
        if (!known)
            return err_set(errp, "Parameter '%s' is unexpected", key);
    }
    return true;
}

bool qmp_check(const struct qmp_type *t, struct json_object *v, const char *name, struct err **errp)
{
    enum json_type j = json_object_get_type(v);

    switch (t->kind) {
    case QMP_ANY:
        return true;
    case QMP_NULL:
        return j == json_type_null || wrong(name, "null", errp);
    case QMP_STR:
        return j == json_type_string || wrong(name, "string", errp);
    case QMP_INT:
        return j == json_type_int || wrong(name, "integer", errp);
    case QMP_UINT:
        return (j == json_type_int && (json_object_get_int64(v) >= 0 || json_object_get_uint64(v) > INT64_MAX)) ||
               wrong(name, "uint64", errp);
    case QMP_NUMBER:
        return j == json_type_int || j == json_type_double || wrong(name, "number", errp);
    case QMP_BOOL:
        return j == json_type_boolean || wrong(name, "boolean", errp);
    case QMP_ENUM:
        if (j != json_type_string)
            return wrong(name, "string", errp);
        for (unsigned i = 0; t->values[i]; i++)
            if (!strcmp(t->values[i], json_object_get_string(v)))
                return true;
        return err_set(errp, "Invalid parameter '%s'", json_object_get_string(v));
    case QMP_ARRAY:
        if (j != json_type_array)
            return wrong(name, "array", errp);
        for (size_t i = 0; i < json_object_array_length(v); i++)
            if (!qmp_check(t->elem, json_object_array_get_idx(v, i), name, errp))
                return false;
        return true;
    case QMP_OBJECT:
        return j == json_type_object ? check_object(t, v, errp) : wrong(name, "object", errp);
    }
    return false;
}

/* Requests. */

static void send_error(struct mon *m, struct err *e, struct json_object *id)
{
    static const char *const classes[] = {"GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound",
                                          "KVMMissingCap"};

    send(m, json_make("o:id", id ? json_object_get(id) : NULL, "o:error",
                      json_make("s:class", classes[e->class_], "s:desc", e->msg, NULL), NULL));
    err_free(e);
}

static const struct qmp_command *find(const char *name)
{
    for (const struct qmp_command *c = qmp_commands; c->name; c++)
        if (!strcmp(c->name, name))
            return c;
    return NULL;
}

static bool envelope(struct json_object *req, const char **name, struct json_object **args, struct err **errp)
{
    if (!json_object_is_type(req, json_type_object))
        return err_set(errp, "QMP input must be a JSON object");
    json_object_object_foreach(req, k, v)
    {
        if (!strcmp(k, "execute")) {
            if (!json_object_is_type(v, json_type_string))
                return err_set(errp, "QMP input member 'execute' must be a string");
            *name = json_object_get_string(v);
        } else if (!strcmp(k, "arguments")) {
            if (!json_object_is_type(v, json_type_object))
                return err_set(errp, "QMP input member 'arguments' must be an object");
            *args = v;
        } else if (!strcmp(k, "exec-oob")) {
            return err_set(errp, "out-of-band execution is not offered by this server: use 'execute'");
        } else if (strcmp(k, "id")) {
            return err_set(errp, "QMP input member '%s' is unexpected", k);
        }
    }
    return *name || err_set(errp, "QMP input lacks member 'execute'");
}

bool qmp_offered(const struct mon *m, const struct qmp_command *c)
{
    static const char *const without_machine[] = {
        "qmp_capabilities", "query-version", "query-commands", "query-events", "query-qmp-schema",        "quit",
        "object-add",       "object-del",    "blockdev-add",   "blockdev-del", "query-named-block-nodes", "chardev-add",
        "chardev-remove",   "query-chardev"};

    if (m->set->cfg.m || c->via)
        return true;
    for (size_t i = 0; i < ARRAY_LEN(without_machine); i++)
        if (!strcmp(c->name, without_machine[i]))
            return true;
    return false;
}

static bool dispatch(struct mon *m, struct json_object *req, struct json_object **ret, struct err **errp)
{
    const char *name = NULL;
    struct json_object *args = NULL;
    struct json_object *none;
    const struct qmp_command *c;
    bool caps, ok;

    if (!envelope(req, &name, &args, errp))
        return false;
    c = find(name);
    caps = !strcmp(name, "qmp_capabilities");
    if (!m->negotiated && !caps)
        return err_set_class(errp, ERR_COMMAND_NOT_FOUND, "Expecting capabilities negotiation with 'qmp_capabilities'");
    if (m->negotiated && caps)
        return err_set_class(errp, ERR_COMMAND_NOT_FOUND,
                             "Capabilities negotiation is already complete, command ignored");
    if (!c || !qmp_offered(m, c))
        return err_set_class(errp, ERR_COMMAND_NOT_FOUND, "The command %s has not been found", name);
    none = json_object_new_object();
    args = args ? args : none;
    ok = qmp_check(c->args, args, "arguments", errp) && c->call(m, args, ret, errp);
    json_object_put(none);
    if (ok && !*ret && c->ret)
        *ret = c->ret->kind == QMP_ARRAY ? json_object_new_array() : json_object_new_object();
    return ok;
}

static void serve(struct mon *m, struct json_object *req)
{
    struct json_object *ret = NULL, *id = json_get(req, "id");
    struct err *e = NULL;

    if (dispatch(m, req, &ret, &e)) {
        send(m, json_make("o:return", ret ? ret : json_object_new_object(), "o:id", id ? json_object_get(id) : NULL,
                          NULL));
    } else {
        json_object_put(ret);
        send_error(m, e, id);
    }
}

static void parse_error(struct mon *m, const char *why)
{
    struct err *e = NULL;

    err_set(&e, "JSON parse error, %s", why);
    send_error(m, e, NULL);
    json_tokener_reset(m->tok);
    m->text.len = 0;
}

/* The tokener keeps the state of an unfinished value between calls; text.len counts its bytes. */
void qmp_input(struct mon *m, const uint8_t *buf, size_t len)
{
    while (len && m->tok) {
        struct json_object *v;
        enum json_tokener_error e;
        size_t used;

        if (m->skip) {
            const uint8_t *nl = memchr(buf, '\n', len);

            if (!nl)
                return;
            m->skip = false;
            len -= (size_t)(nl - buf) + 1;
            buf = nl + 1;
            continue;
        }
        if (!m->text.len && strchr(" \t\r\n", *buf)) { /* blanks between values; NUL is a garbage value */
            if (!*buf)
                parse_error(m, "unexpected byte");
            buf++;
            len--;
            continue;
        }
        v = json_tokener_parse_ex(m->tok, (const char *)buf, (int)min_u64(len, INT32_MAX));
        e = json_tokener_get_error(m->tok);
        used = json_tokener_get_parse_end(m->tok);
        if (e == json_tokener_continue) {
            m->text.len += len;
            if (m->text.len > QMP_MAX_INPUT)
                parse_error(m, "the value is too large");
            return;
        }
        if (e != json_tokener_success) {
            parse_error(m, json_tokener_error_desc(e));
            m->skip = true; /* take up again at the next line */
            used = 0;
        } else {
            m->text.len = 0;
            serve(m, v);
            json_object_put(v);
            if (m->tok)
                json_tokener_reset(m->tok);
        }
        buf += used;
        len -= used;
    }
}
