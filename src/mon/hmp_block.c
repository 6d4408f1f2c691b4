/* Human commands on disks: each makes the arguments of the QMP command of the same effect and calls it. */
#include "base/json.h"
#include "blk/job.h"
#include "mon/mon_int.h"
#include "state/state.h"
#include <time.h>

#define HMP(n)                                                                                                         \
    void n(struct mon *m, struct hmp_args *a);                                                                         \
    void n(struct mon *m, struct hmp_args *a)

/* Takes leading one-letter switches of `allowed` off the words; unknown ones are reported. 0 bits = none given. */
static bool take_flags(struct mon *m, struct hmp_args *a, const char *allowed, unsigned *flags)
{
    *flags = 0;
    while (a->n && a->v[0][0] == '-' && a->v[0][1]) {
        for (const char *p = a->v[0] + 1; *p; p++) {
            const char *at = strchr(allowed, *p);

            if (!at) {
                mon_printf(m, "unsupported option -%c\n", *p);
                return false;
            }
            *flags |= 1u << (at - allowed);
        }
        memmove(a->v, a->v + 1, (a->n - 1) * sizeof *a->v);
        a->n--;
    }
    return true;
}

static bool few(struct mon *m, const struct hmp_args *a, unsigned min, const char *usage)
{
    if (a->n >= min)
        return false;
    mon_printf(m, "missing arguments; usage: %s\n", usage);
    return true;
}

/* Runs the command and reports; args is taken over. */
static void run(struct mon *m, const char *cmd, struct json_object *args)
{
    struct json_object *ret = NULL;
    struct err *e = NULL;

    if (!blk_cmd_run(m->set->cfg.blks, cmd, args, &ret, &e))
        mon_error(m, e);
    json_object_put(ret);
    json_object_put(args);
}

static const char *word(const struct hmp_args *a, unsigned i)
{
    return i < a->n ? a->v[i] : NULL;
}

static bool size_word(struct mon *m, const char *text, uint64_t *out)
{
    struct opts *o = opts_new();
    struct err *e = NULL;
    bool ok;
    char *with_unit AUTOFREE = *text && strchr("0123456789", text[strlen(text) - 1]) ? xasprintf("%sM", text) : NULL;

    opts_set(o, "size", with_unit ? with_unit : text); /* a bare number counts MiB */
    ok = opts_size(o, "size", out, &e);
    if (!ok)
        mon_error(m, e);
    opts_free(o);
    return ok;
}

HMP(hmp_commit)
{
    struct err *e = NULL;

    if (!blk_commit(m->set->cfg.blks, !strcmp(a->v[0], "all") ? NULL : a->v[0], &e))
        mon_error(m, e);
}

HMP(info_snapshots)
{
    mon_puts_free(m, blk_snap_info(m->set->cfg.blks));
}

HMP(hmp_savevm)
{
    char made[32];
    time_t now = time(NULL);
    struct err *e = NULL;
    const char *gone;
    struct tm tm;

    localtime_r(&now, &tm);
    strftime(made, sizeof made, "vm-%Y%m%d%H%M%S", &tm);
    if (!state_snap_save(mon_machine(m), m->set->cfg.blks, NULL, a->n ? a->v[0] : made, &e))
        mon_error(m, e);
    else if ((gone = blk_snap_throwaway(m->set->cfg.blks)))
        mon_printf(
            m,
            "Warning: drive '%s' is in throwaway mode (snapshot=on): this snapshot vanishes when the program ends.\n"
            "'commit all' writes the disks' present contents to their images.\n",
            gone);
}

HMP(hmp_loadvm)
{
    struct err *e = NULL;

    if (!state_snap_load(mon_machine(m), m->set->cfg.blks, NULL, a->v[0], &e))
        mon_error(m, e);
}

HMP(hmp_delvm)
{
    struct err *e = NULL;

    if (!blk_snap_delete(m->set->cfg.blks, NULL, a->v[0], &e))
        mon_error(m, e);
}

HMP(hmp_block_resize)
{
    uint64_t size;

    if (size_word(m, a->v[1], &size))
        run(m, "block_resize", json_make("s:device", a->v[0], "u:size", size, NULL));
}

HMP(hmp_io_throttle)
{
    static const char *const keys[6] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
    struct json_object *o = json_make("s:device", a->v[0], NULL);

    for (unsigned i = 0; i < 6; i++) {
        uint64_t v;

        if (!str_to_u64(a->v[1 + i], &v)) {
            mon_printf(m, "Error: '%s' is no number\n", a->v[1 + i]);
            json_object_put(o);
            return;
        }
        json_object_object_add(o, keys[i], json_object_new_uint64(v));
    }
    run(m, "block_set_io_throttle", o);
}

HMP(hmp_block_stream)
{
    uint64_t speed = 0;

    if (a->n > 1 && !size_word(m, a->v[1], &speed))
        return;
    run(m, "block-stream", json_make("s:device", a->v[0], "u:speed", speed, "s:base", word(a, 2), NULL));
}

HMP(hmp_job_cancel)
{
    unsigned f;

    if (take_flags(m, a, "f", &f) && !few(m, a, 1, "block_job_cancel [-f] device"))
        run(m, "block-job-cancel", json_make("s:device", a->v[0], "b:force", f != 0, NULL));
}
HMP(hmp_job_complete)
{
    run(m, "block-job-complete", json_make("s:device", a->v[0], NULL));
}
HMP(hmp_job_pause)
{
    run(m, "block-job-pause", json_make("s:device", a->v[0], NULL));
}
HMP(hmp_job_resume)
{
    run(m, "block-job-resume", json_make("s:device", a->v[0], NULL));
}
HMP(hmp_job_speed)
{
    uint64_t speed;

    if (size_word(m, a->v[1], &speed))
        run(m, "block-job-set-speed", json_make("s:device", a->v[0], "u:speed", speed, NULL));
}

HMP(hmp_drive_mirror)
{
    unsigned f;

    if (take_flags(m, a, "nf", &f) && !few(m, a, 2, "drive_mirror [-n] [-f] device target [format]"))
        run(m, "drive-mirror",
            json_make("s:device", a->v[0], "s:target", a->v[1], "s:format", word(a, 2), "s:mode",
                      f & 1 ? "existing" : "absolute-paths", "s:sync", f & 2 ? "full" : "top", NULL));
}

HMP(hmp_drive_backup)
{
    unsigned f;

    if (take_flags(m, a, "nfc", &f) && !few(m, a, 2, "drive_backup [-n] [-f] [-c] device target [format]"))
        run(m, "drive-backup",
            json_make("s:device", a->v[0], "s:target", a->v[1], "s:format", word(a, 2), "s:mode",
                      f & 1 ? "existing" : "absolute-paths", "s:sync", f & 2 ? "full" : "top", "b:compress",
                      (f & 4) != 0, NULL));
}

HMP(hmp_snapshot_blkdev)
{
    unsigned f;

    if (take_flags(m, a, "n", &f) && !few(m, a, 2, "snapshot_blkdev [-n] device new-file [format]"))
        run(m, "blockdev-snapshot-sync",
            json_make("s:device", a->v[0], "s:snapshot-file", a->v[1], "s:format", word(a, 2), "s:mode",
                      f ? "existing" : "absolute-paths", NULL));
}
HMP(hmp_snapshot_internal)
{
    run(m, "blockdev-snapshot-internal-sync", json_make("s:device", a->v[0], "s:name", a->v[1], NULL));
}
HMP(hmp_snapshot_delete_internal)
{
    run(m, "blockdev-snapshot-delete-internal-sync",
        json_make("s:device", a->v[0], "s:name", a->v[1], "s:id", word(a, 2), NULL));
}

/* The options of -drive that say where it is plugged, taken out: only what is plugged nowhere can be added. */
static bool unplugged(struct opts *o, struct err **errp)
{
    static const char *const places[] = {"if", "bus", "unit", "index"};
    const char *iface = opts_get(o, "if"), *media = opts_get(o, "media");
    bool cd = media && !strcmp(media, "cdrom");

    if (!iface || strcmp(iface, "none") != 0)
        return err_set(errp, "Can't hot-add a drive with if=%s: use if=none, and device_add for the device that has it",
                       iface ? iface : "(not given)");
    if (media && !cd && strcmp(media, "disk") != 0)
        return err_set(errp, "media=%s: expected disk or cdrom", media);
    for (unsigned i = 0; i < ARRAY_LEN(places); i++)
        opts_del(o, places[i]);
    opts_del(o, "media");
    if (cd && !opts_peek(o, "readonly") && !opts_peek(o, "read-only"))
        opts_set(o, "read-only", "on");
    return true;
}

static bool add_drive(struct blk_set *s, struct opts *o, struct err **errp)
{
    char *id AUTOFREE = opts_peek(o, "id") ? xstrdup(opts_peek(o, "id")) : NULL;

    if (!unplugged(o, errp))
        return false;
    opts_del(o, "id");
    return blk_drive_add(s, id, o, errp) != NULL;
}

HMP(hmp_drive_add)
{
    struct err *e = NULL;
    struct opts *o;
    unsigned f;
    bool ok;

    if (!take_flags(m, a, "n", &f) || few(m, a, 2, "drive_add [-n] address options"))
        return;
    o = opts_parse(a->v[1], NULL, &e);
    ok = o && (f ? blk_node_add(m->set->cfg.blks, o, &e) : add_drive(m->set->cfg.blks, o, &e));
    opts_free(o);
    if (!ok)
        mon_error(m, e);
    else if (!f)
        mon_puts(m, "OK\n");
}
HMP(hmp_drive_del)
{
    struct err *e = NULL;

    if (!blk_drive_del(m->set->cfg.blks, a->v[0], &e))
        mon_error(m, e);
}

/* "unix:path" or "host:port" as QMP's address. */
static struct json_object *address(const char *text)
{
    const char *colon = strrchr(text, ':');

    if (str_starts(text, "unix:"))
        return json_make("s:type", "unix", "o:data", json_make("s:path", text + 5, NULL), NULL);
    if (str_starts(text, "tcp:"))
        text += 4;
    if (colon && colon >= text) {
        char *host AUTOFREE = xstrndup(text, (size_t)(colon - text));

        return json_make("s:type", "inet", "o:data", json_make("s:host", host, "s:port", colon + 1, NULL), NULL);
    }
    return json_make("s:type", "inet", "o:data", json_make("s:host", "", "s:port", text, NULL), NULL);
}

static void export_all(struct mon *m, bool writable)
{
    struct json_object *list = blk_query(m->set->cfg.blks);

    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *d = json_object_array_get_idx(list, i), *in = json_get(d, "inserted");

        if (in && *json_get_str(d, "device"))
            run(m, "nbd-server-add",
                json_make("s:device", json_get_str(d, "device"), "b:writable",
                          writable && !json_get_bool(in, "ro", false), NULL));
    }
    json_object_put(list);
}

HMP(hmp_nbd_start)
{
    unsigned f;

    if (!take_flags(m, a, "aw", &f) || few(m, a, 1, "nbd_server_start [-a] [-w] host:port"))
        return;
    if (f == 2) {
        mon_puts(m, "-w only valid together with -a\n");
        return;
    }
    run(m, "nbd-server-start", json_make("o:addr", address(a->v[0]), NULL));
    if (f & 1)
        export_all(m, f & 2);
}
HMP(hmp_nbd_add)
{
    unsigned f;

    if (take_flags(m, a, "w", &f) && !few(m, a, 1, "nbd_server_add [-w] device [name]"))
        run(m, "nbd-server-add", json_make("s:device", a->v[0], "s:name", word(a, 1), "b:writable", f != 0, NULL));
}
HMP(hmp_nbd_remove)
{
    unsigned f;

    if (take_flags(m, a, "f", &f) && !few(m, a, 1, "nbd_server_remove [-f] name"))
        run(m, "nbd-server-remove", json_make("s:name", a->v[0], "s:mode", f ? "hard" : "safe", NULL));
}
HMP(hmp_nbd_stop)
{
    run(m, "nbd-server-stop", json_make(NULL));
}

HMP(info_block_jobs)
{
    struct json_object *list = NULL, *none = json_make(NULL);

    blk_cmd_run(m->set->cfg.blks, "query-block-jobs", none, &list, NULL);
    if (!list || !json_object_array_length(list))
        mon_puts(m, "No active jobs\n");
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *j = json_object_array_get_idx(list, i);
        const char *type = json_get_str(j, "type");

        if (!strcmp(type, "stream"))
            mon_printf(m, "Streaming device %s: ", json_get_str(j, "device"));
        else
            mon_printf(m, "Type %s, device %s: ", type, json_get_str(j, "device"));
        mon_printf(m, "Completed %" PRIi64 " of %" PRIi64 " bytes, speed limit %" PRIi64 " bytes/s%s\n",
                   json_get_int(j, "offset", 0), json_get_int(j, "len", 0), json_get_int(j, "speed", 0),
                   json_get_bool(j, "ready", false) ? ", ready" : "");
    }
    json_object_put(list);
    json_object_put(none);
}
