/* Snapshots as jobs and moving the machine, in both languages. The work is done in state/. */
#include "mon/mon_int.h"
#include "mon/qmp_gen.h"
#include "state/state.h"

#define HMP(n)                                                                                                         \
    void n(struct mon *m, struct hmp_args *a);                                                                         \
    void n(struct mon *m, struct hmp_args *a)

static struct state_move *mover(struct mon *m)
{
    return m->set->cfg.move;
}

/* ---- snapshots ---- */

static bool snap_job(struct mon *m, const char *what, const char *id, const char *tag, const char *vmstate,
                     struct json_object *devices, struct err **errp)
{
    struct blk_snap_sel sel = {.vmstate = vmstate, .devices = devices};

    return state_snap_job(mon_machine(m), m->set->cfg.blks, what, id, &sel, tag, errp);
}

bool qmp_snapshot_save(struct mon *m, const struct qmp_args_snapshot_save *a, struct err **errp)
{
    return snap_job(m, "snapshot-save", a->job_id, a->tag, a->vmstate, a->devices, errp);
}

bool qmp_snapshot_load(struct mon *m, const struct qmp_args_snapshot_load *a, struct err **errp)
{
    return snap_job(m, "snapshot-load", a->job_id, a->tag, a->vmstate, a->devices, errp);
}

bool qmp_snapshot_delete(struct mon *m, const struct qmp_args_snapshot_delete *a, struct err **errp)
{
    return snap_job(m, "snapshot-delete", a->job_id, a->tag, NULL, a->devices, errp);
}

/* ---- moving ---- */

/* fd:NAME of one handed over by getfd becomes fd:NUMBER. Caller frees. */
static char *real_uri(struct mon *m, const char *uri)
{
    int fd = str_starts(uri, "fd:") ? mon_take_fd(m->set, uri + 3) : -1;

    return fd < 0 ? xstrdup(uri) : xasprintf("fd:%d", fd);
}

bool qmp_migrate(struct mon *m, const struct qmp_args_migrate *a, struct err **errp)
{
    char *uri AUTOFREE = NULL;

    if (a->blk || a->inc) {
        err_set(errp, "disks cannot be copied with the machine");
        err_hint(errp, "Mirror them first: nbd-server-start there, blockdev-mirror here.");
        return false;
    }
    if (a->resume)
        return err_set(errp, "a move cannot be resumed: start it again");
    uri = real_uri(m, a->uri);
    return state_move_out(mover(m), uri, errp);
}

bool qmp_migrate_incoming(struct mon *m, const struct qmp_args_migrate_incoming *a, struct err **errp)
{
    char *uri AUTOFREE = real_uri(m, a->uri);

    return state_move_in(mover(m), uri, NULL, NULL, errp);
}

bool qmp_migrate_cancel(struct mon *m, struct err **errp)
{
    state_move_cancel(mover(m));
    return true;
}

bool qmp_query_migrate(struct mon *m, struct json_object **ret, struct err **errp)
{
    struct state_move_info i = state_move_query(mover(m));
    double s = (double)(i.total_ns - i.setup_ns) / 1e9;

    *ret = json_object_new_object();
    if (i.status == MOVE_NONE)
        return true;
    json_object_put(*ret);
    *ret = json_make("s:status", state_move_status_name(i.status), "i:total-time", i.total_ns / NS_PER_MS,
                     "i:setup-time", i.setup_ns / NS_PER_MS, "s:error-desc", i.error, NULL);
    if (i.incoming)
        return true;
    json_object_object_add(*ret, "downtime", json_object_new_int64(i.downtime_ns / NS_PER_MS));
    json_object_object_add(*ret, "ram",
                           json_make("u:transferred", i.moved, "u:remaining", (uint64_t)0, "u:total",
                                     mon_machine(m)->ram_size, "i:page-size", (int64_t)4096, "o:mbps",
                                     json_object_new_double(s > 0 ? (double)i.moved * 8 / s / 1e6 : 0), NULL));
    return true;
}

bool qmp_query_migrate_capabilities(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_object_new_array();
    json_object_array_add(*ret, json_make("b:state", state_move_events(mover(m)), "s:capability", "events", NULL));
    return true;
}

bool qmp_migrate_set_capabilities(struct mon *m, const struct qmp_args_migrate_set_capabilities *a, struct err **errp)
{
    for (size_t i = 0; i < json_object_array_length(a->capabilities); i++) /* there is but one */
        state_move_set_events(mover(m), json_get_bool(json_object_array_get_idx(a->capabilities, i), "state", false));
    return true;
}

bool qmp_query_migrate_parameters(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_make("u:max-bandwidth", state_move_rate(mover(m)), NULL);
    return true;
}

bool qmp_migrate_set_parameters(struct mon *m, const struct qmp_args_migrate_set_parameters *a, struct err **errp)
{
    if (a->has_max_bandwidth)
        state_move_set_rate(mover(m), a->max_bandwidth);
    return true;
}

/* ---- for people ---- */

HMP(hmp_migrate)
{
    struct qmp_args_migrate q = {.uri = a->rest};
    struct err *e = NULL;
    bool detach = false;
    struct state_move_info i;

    while (str_starts(q.uri, "-d ")) {
        detach = true;
        q.uri += 3;
    }
    if (!qmp_migrate(m, &q, &e)) {
        mon_error(m, e);
        return;
    }
    while (!detach && state_move_busy(mover(m)))
        ev_loop_turn(mon_machine(m)->run->loop, -1);
    i = state_move_query(mover(m));
    if (!detach && i.status != MOVE_COMPLETED)
        mon_printf(m, "Error: %s\n", i.error ? i.error : "the move was cancelled");
}

HMP(hmp_migrate_cancel)
{
    state_move_cancel(mover(m));
}

HMP(hmp_migrate_incoming)
{
    struct qmp_args_migrate_incoming q = {.uri = a->rest};
    struct err *e = NULL;

    if (!qmp_migrate_incoming(m, &q, &e))
        mon_error(m, e);
}

HMP(hmp_migrate_set_parameter)
{
    uint64_t n;

    if (strcmp(a->v[0], "max-bandwidth"))
        mon_printf(m, "Error: '%s' is no parameter: there is max-bandwidth\n", a->v[0]);
    else if (!str_to_size(a->v[1], 'M', &n))
        mon_printf(m, "Error: '%s' is no size\n", a->v[1]);
    else
        state_move_set_rate(mover(m), n);
}

HMP(hmp_migrate_set_capability)
{
    bool on;

    if (strcmp(a->v[0], "events"))
        mon_printf(m, "Error: '%s' is no capability: there is events\n", a->v[0]);
    else if (!str_to_bool(a->v[1], &on))
        mon_printf(m, "Error: expected on or off\n");
    else
        state_move_set_events(mover(m), on);
}

HMP(info_migrate)
{
    struct state_move_info i = state_move_query(mover(m));

    if (i.status == MOVE_NONE)
        return;
    mon_printf(m, "Migration status: %s", state_move_status_name(i.status));
    if (i.error)
        mon_printf(m, " (%s)", i.error);
    mon_printf(m, "\ntotal time: %" PRId64 " ms\n", i.total_ns / NS_PER_MS);
    if (!i.incoming)
        mon_printf(m, "downtime: %" PRId64 " ms\nsetup: %" PRId64 " ms\ntransferred ram: %" PRIu64 " kbytes\n",
                   i.downtime_ns / NS_PER_MS, i.setup_ns / NS_PER_MS, i.moved >> 10);
}

HMP(info_migrate_parameters)
{
    mon_printf(m, "max-bandwidth: %" PRIu64 " bytes/second\n", state_move_rate(mover(m)));
}

HMP(info_migrate_capabilities)
{
    mon_printf(m, "events: %s\n", state_move_events(mover(m)) ? "on" : "off");
}
