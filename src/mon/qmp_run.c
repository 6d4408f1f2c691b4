/* QMP commands of the run state and of the monitor itself. Each translates; the work is done in lower rooms. */
#include "accel/accel.h"
#include "mon/mon_int.h"
#include "mon/qmp_gen.h"

#include <unistd.h>

bool qmp_qmp_capabilities(struct mon *m, const struct qmp_args_qmp_capabilities *a, struct err **errp)
{
    if (a->enable && json_object_array_length(a->enable))
        return err_set(errp, "Invalid parameter '%s': this server offers no capabilities",
                       json_object_get_string(json_object_array_get_idx(a->enable, 0)));
    m->negotiated = true;
    return true;
}

bool qmp_query_status(struct mon *m, struct json_object **ret, struct err **errp)
{
    struct machine *mm = mon_machine(m);

    *ret = json_make("s:status", run_state_name((enum run_state)mm->state), "b:singlestep", false, "b:running",
                     machine_running(mm), NULL);
    return true;
}

bool qmp_query_version(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_make("o:qemu",
                     json_make("i:micro", (int64_t)MON_QEMU_MICRO, "i:minor", (int64_t)MON_QEMU_MINOR, "i:major",
                               (int64_t)MON_QEMU_MAJOR, NULL),
                     "s:package", "Lyrebird " LYREBIRD_VERSION, NULL);
    return true;
}

bool qmp_query_commands(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_object_new_array();
    for (const struct qmp_command *c = qmp_commands; c->name; c++)
        if (qmp_offered(m, c))
            json_object_array_add(*ret, json_make("s:name", c->name, NULL));
    return true;
}

bool qmp_query_events(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_object_new_array();
    for (unsigned i = 0; qmp_events[i]; i++)
        json_object_array_add(*ret, json_make("s:name", qmp_events[i], NULL));
    return true;
}

bool qmp_query_qmp_schema(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_parse(qmp_schema_text, strlen(qmp_schema_text), errp);
    return *ret != NULL;
}

bool qmp_query_target(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_make("s:arch", m->set->cfg.arch, NULL);
    return true;
}

bool qmp_query_name(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = json_make("s:name", mon_machine(m)->name, NULL);
    return true;
}

bool qmp_query_uuid(struct mon *m, struct json_object **ret, struct err **errp)
{
    char s[40];

    mon_uuid_text(mon_machine(m), s);
    *ret = json_make("s:UUID", s, NULL);
    return true;
}

bool qmp_query_kvm(struct mon *m, struct json_object **ret, struct err **errp)
{
    const struct accel_class *k = accel_find("kvm");
    bool present = k != NULL; /* built in; whether it works here is for -accel kvm to say */

    *ret = json_make("b:enabled", k && machine_accel(mon_machine(m)) == k, "b:present", present, NULL);
    return true;
}

bool qmp_quit(struct mon *m, struct err **errp)
{
    if (mon_machine(m))
        machine_request_shutdown(mon_machine(m), CAUSE_HOST_QMP_QUIT);
    else
        m->set->cfg.quit(m->set->cfg.opaque);
    return true;
}

bool qmp_stop(struct mon *m, struct err **errp)
{
    if (machine_running(mon_machine(m)))
        machine_stop(mon_machine(m), RS_PAUSED);
    return true;
}

bool qmp_cont(struct mon *m, struct err **errp)
{
    struct machine *mm = mon_machine(m);

    if (mm->state == RS_SHUTDOWN || mm->state == RS_INTERNAL_ERROR || mm->state == RS_GUEST_PANICKED)
        return err_set(errp, "Resetting the Virtual Machine is required");
    if (mm->state == RS_PAUSE_SAVE || mm->state == RS_RESTORE || mm->state == RS_INMIGRATE ||
        mm->state == RS_FINISH_MIGRATE)
        return err_set(errp, "The machine's state is being moved just now");
    machine_start(mm);
    return true;
}

bool qmp_system_reset(struct mon *m, struct err **errp)
{
    machine_request_reset(mon_machine(m), CAUSE_HOST_QMP_RESET);
    return true;
}

bool qmp_system_powerdown(struct mon *m, struct err **errp)
{
    machine_request_powerdown(mon_machine(m));
    return true;
}

bool qmp_system_wakeup(struct mon *m, struct err **errp)
{
    if (mon_machine(m)->state != RS_SUSPENDED)
        return err_set(errp, "Unable to wake up: guest is not in suspended state");
    machine_request_wakeup(mon_machine(m));
    return true;
}

bool qmp_set_action(struct mon *m, const struct qmp_args_set_action *a, struct err **errp)
{
    if (a->reboot)
        mon_machine(m)->no_reboot = !strcmp(a->reboot, "shutdown");
    if (a->shutdown)
        mon_machine(m)->no_shutdown = !strcmp(a->shutdown, "pause");
    return true;
}

bool qmp_human_monitor_command(struct mon *m, const struct qmp_args_human_monitor_command *a, struct json_object **ret,
                               struct err **errp)
{
    struct strbuf out = {0};
    struct mon tmp = {
        .set = m->set, .mode = MON_HMP, .capture = &out, .cpu = a->has_cpu_index ? (unsigned)a->cpu_index : 0};
    AUTOFREE char *line = xstrdup(a->command_line);

    if (a->has_cpu_index && (a->cpu_index < 0 || a->cpu_index >= mon_machine(m)->nr_cpus))
        return err_set(errp, "Parameter 'cpu-index' expects a CPU number");
    list_init(&tmp.link);
    tmp.fe.chr = NULL;
    hmp_run(&tmp, line);
    *ret = json_object_new_string(out.s ? out.s : "");
    str_free(&out);
    return true;
}

bool qmp_getfd(struct mon *m, const struct qmp_args_getfd *a, struct err **errp)
{
    struct mon_fd *f;
    int fd = chr_fe_take_fd(&m->fe), old;

    if (fd < 0)
        return err_set(errp, "No file descriptor supplied via SCM_RIGHTS");
    if (*a->fdname >= '0' && *a->fdname <= '9') {
        close(fd);
        return err_set(errp, "Parameter 'fdname' expects a name not starting with a digit");
    }
    old = mon_take_fd(m->set, a->fdname);
    if (old >= 0)
        close(old);
    f = xnew(struct mon_fd);
    f->name = xstrdup(a->fdname);
    f->fd = fd;
    list_add(&m->set->fds, &f->link);
    return true;
}

bool qmp_closefd(struct mon *m, const struct qmp_args_closefd *a, struct err **errp)
{
    int fd = mon_take_fd(m->set, a->fdname);

    if (fd < 0)
        return err_set(errp, "File descriptor named '%s' not found", a->fdname);
    close(fd);
    return true;
}

bool qmp_add_client(struct mon *m, const struct qmp_args_add_client *a, struct err **errp)
{
    struct chr *c = chr_find(m->set->cfg.chrs, a->protocol);
    int fd;

    if (!c)
        return err_set(errp, "protocol '%s' is invalid: expected the id of a socket chardev", a->protocol);
    fd = mon_take_fd(m->set, a->fdname);
    if (fd < 0)
        return err_set(errp, "File descriptor named '%s' not found", a->fdname);
    if (!chr_adopt_fd(c, fd, errp)) {
        close(fd);
        return false;
    }
    return true;
}

/* Options clients look for: names and parameters as -OPTION takes them. */
static const struct {
    const char *option;
    const char *params; /* "name:type ..." with s, b, n, z for string, boolean, number, size */
} option_info[] = {
    {"machine",
     "type:s accel:s kernel:s initrd:s append:s dtb:s usb:b hpet:b memory-backend:s dump-guest-core:b smm:b vmport:b"},
    {"memory", "size:z slots:n maxmem:z"},
    {"smp-opts", "cpus:n sockets:n dies:n clusters:n cores:n threads:n maxcpus:n"},
    {"boot-opts", "order:s once:s menu:b splash:s splash-time:n reboot-timeout:n strict:b"},
    {"rtc", "base:s clock:s driftfix:s"},
    {"name", "guest:s process:s debug-threads:b"},
    {"chardev", "backend:s id:s path:s host:s port:s server:b wait:b nodelay:b telnet:b reconnect:n mux:b logfile:s "
                "logappend:b fd:s"},
    {"device", "driver:s id:s bus:s"},
    {"drive", "file:s if:s bus:n unit:n index:n media:s format:s snapshot:b cache:s aio:s readonly:b serial:s werror:s "
              "rerror:s"},
    {"netdev", "type:s id:s"},
    {"mon", "chardev:s mode:s pretty:b"},
    {"object", "qom-type:s id:s"},
    {"numa", "type:s nodeid:n mem:z memdev:s cpus:s"},
    {"smbios-opts", "type:n file:s"},
    {"fw_cfg", "name:s file:s string:s"},
    {"acpi", "sig:s rev:n oem_id:s oem_table_id:s file:s data:s"},
    {"overcommit", "mem-lock:b cpu-pm:b"},
    {"action", "reboot:s shutdown:s panic:s watchdog:s"},
    {"global", "driver:s property:s value:s"},
};

static struct json_object *params(const char *text)
{
    struct json_object *list = json_object_new_array();
    AUTOFREE char *copy = xstrdup(text);
    char *save = NULL;

    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        char *colon = strchr(w, ':');
        const char *type = colon[1] == 'b'   ? "boolean"
                           : colon[1] == 'n' ? "number"
                           : colon[1] == 'z' ? "size"
                                             : "string";

        *colon = 0;
        json_object_array_add(list, json_make("s:name", w, "s:type", type, NULL));
    }
    return list;
}

bool qmp_query_command_line_options(struct mon *m, const struct qmp_args_query_command_line_options *a,
                                    struct json_object **ret, struct err **errp)
{
    *ret = json_object_new_array();
    for (unsigned i = 0; i < ARRAY_LEN(option_info); i++)
        if (!a->option || !strcmp(a->option, option_info[i].option))
            json_object_array_add(*ret, json_make("s:option", option_info[i].option, "o:parameters",
                                                  params(option_info[i].params), NULL));
    if (a->option && !json_object_array_length(*ret))
        return err_set(errp, "invalid option name: %s", a->option);
    return true;
}

bool qmp_query_iothreads(struct mon *m, struct json_object **ret, struct err **errp)
{
    *ret = blk_query_iothreads(m->set->cfg.blks);
    return true;
}

bool qmp_query_tpm_models(struct mon *m, struct json_object **ret, struct err **errp)
{
    return true;
}

bool qmp_query_tpm_types(struct mon *m, struct json_object **ret, struct err **errp)
{
    return true;
}
