/* QMP and HMP commands about the VNC server. */
#include "mon/mon_int.h"
#include "mon/qmp_gen.h"
#include "ui/vnc.h"

static void add_client(const char *host, const char *service, const char *family, bool shared, void *opaque)
{
    json_object_array_add(
        opaque, json_make("s:host", host, "s:service", service, "s:family", family, "b:websocket", false, NULL));
}

bool qmp_query_vnc(struct mon *m, struct json_object **ret, struct err **errp)
{
    struct vnc *v = vnc_find(mon_machine(m), NULL);
    struct json_object *clients;

    if (!v) {
        *ret = json_make("b:enabled", false, NULL);
        return true;
    }
    clients = json_object_new_array();
    vnc_each_client(v, add_client, clients);
    *ret = json_make("b:enabled", true, "s:host", vnc_host(v), "s:service", vnc_service(v), "s:family", vnc_family(v),
                     "s:auth", vnc_auth(v), "o:clients", clients, NULL);
    return true;
}

static struct vnc *the_vnc(struct mon *m, const char *id, struct err **errp)
{
    struct vnc *v = vnc_find(mon_machine(m), id);

    if (!v && id)
        err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    else if (!v)
        err_set_class(errp, ERR_DEVICE_NOT_ACTIVE, "No VNC server has been activated");
    return v;
}

bool qmp_set_password(struct mon *m, const struct qmp_args_set_password *a, struct err **errp)
{
    struct vnc *v = the_vnc(m, a->display, errp);

    if (v && a->connected && strcmp(a->connected, "keep"))
        return err_set(errp, "parameter 'connected' must be 'keep' when 'protocol' is vnc");
    return v && vnc_set_password(v, a->password, errp);
}

bool qmp_change_vnc_password(struct mon *m, const struct qmp_args_change_vnc_password *a, struct err **errp)
{
    struct vnc *v = the_vnc(m, NULL, errp);

    return v && vnc_set_password(v, a->password, errp);
}

bool qmp_expire_password(struct mon *m, const struct qmp_args_expire_password *a, struct err **errp)
{
    struct vnc *v = the_vnc(m, a->display, errp);
    int64_t now = clk_now(mon_machine(m)->run->host) / NS_PER_SEC, t = 0;

    if (!v)
        return false;
    if (!strcmp(a->time, "now"))
        t = now;
    else if (!strcmp(a->time, "never"))
        t = INT64_MAX;
    else if (!str_to_i64(a->time + (*a->time == '+'), &t))
        return err_set(errp, "time '%s': expected now, never, +SECONDS or seconds since 1970", a->time);
    else if (*a->time == '+')
        t += now;
    vnc_expire_password(v, t);
    return true;
}

void info_vnc(struct mon *m, struct hmp_args *a);
void info_vnc(struct mon *m, struct hmp_args *a)
{
    struct json_object *r = NULL, *clients;

    if (!qmp_query_vnc(m, &r, NULL))
        return;
    if (!json_get_bool(r, "enabled", false)) {
        mon_puts(m, "None\n");
    } else {
        mon_printf(m, "default:\n  Server: %s:%s (%s)\n    Auth: %s\n", json_get_str(r, "host"),
                   json_get_str(r, "service"), json_get_str(r, "family"), json_get_str(r, "auth"));
        clients = json_get(r, "clients");
        for (size_t i = 0; i < json_object_array_length(clients); i++) {
            struct json_object *c = json_object_array_get_idx(clients, i);

            mon_printf(m, "  Client: %s:%s (%s)\n", json_get_str(c, "host"), json_get_str(c, "service"),
                       json_get_str(c, "family"));
        }
    }
    json_object_put(r);
}

void hmp_set_password(struct mon *m, struct hmp_args *a);
void hmp_set_password(struct mon *m, struct hmp_args *a)
{
    struct err *e = NULL;
    struct qmp_args_set_password q = {.protocol = a->v[0], .password = a->v[1], .connected = a->n > 2 ? a->v[2] : NULL};

    if (strcmp(a->v[0], "vnc"))
        mon_printf(m, "Error: protocol '%s' is not built into this program: vnc is\n", a->v[0]);
    else if (!qmp_set_password(m, &q, &e))
        mon_error(m, e);
}

void hmp_expire_password(struct mon *m, struct hmp_args *a);
void hmp_expire_password(struct mon *m, struct hmp_args *a)
{
    struct err *e = NULL;
    struct qmp_args_expire_password q = {.protocol = a->v[0], .time = a->v[1]};

    if (strcmp(a->v[0], "vnc"))
        mon_printf(m, "Error: protocol '%s' is not built into this program: vnc is\n", a->v[0]);
    else if (!qmp_expire_password(m, &q, &e))
        mon_error(m, e);
}
