/* The machine's run state and the requests that change it. */
#include "base/json.h"
#include "dev/dev_int.h"

#include <stdatomic.h>

enum { REQ_RESET = 1, REQ_SHUTDOWN = 2, REQ_POWERDOWN = 4, REQ_WAKEUP = 8, REQ_SUSPEND = 16 };

static const char *const state_names[] = {
    "prelaunch",      "running",   "paused",    "debug",   "shutdown",   "io-error",    "internal-error", "watchdog",
    "guest-panicked", "suspended", "inmigrate", "save-vm", "restore-vm", "postmigrate", "finish-migrate"};
static const char *const cause_names[] = {"host-qmp-quit",  "host-qmp-system-reset", "host-signal", "host-ui",
                                          "host-error",     "guest-shutdown",        "guest-reset", "guest-panic",
                                          "subsystem-reset"};

static const struct obj_class machine_obj_class = {.name = "machine", .size = sizeof(struct machine)};
OBJ_REGISTER(machine_obj_class)
static const struct obj_class root_class = {.name = "root", .size = sizeof(struct obj)};

static void serve(void *opaque);

struct machine *machine_new(struct run *run)
{
    struct machine *m = (struct machine *)obj_new(&machine_obj_class, NULL);

    m->obj.ctx = m;
    m->run = run;
    m->root = obj_new(&root_class, m);
    obj_add_child(m->root, "machine", &m->obj);
    m->peripheral = obj_container(&m->obj, "peripheral");
    m->peripheral_anon = obj_container(&m->obj, "peripheral-anon");
    m->unattached = obj_container(&m->obj, "unattached");
    m->objects = obj_container(m->root, "objects");
    m->mem_sys = mem_sys_new(run);
    mem_region_init(&m->sysmem, m->mem_sys, "system", UINT64_MAX);
    mem_region_init(&m->sysio, m->mem_sys, "io", 0x10000);
    m->mem = mem_space_new(m->mem_sys, "memory", &m->sysmem);
    m->io = mem_space_new(m->mem_sys, "I/O", &m->sysio);
    m->sysbus = xnew(struct bus);
    bus_init(m->sysbus, &sysbus_class, NULL, "main-system-bus");
    m->sysbus->machine = m;
    list_init(&m->reset_handlers);
    list_init(&m->powerdown_handlers);
    list_init(&m->wakeup_handlers);
    list_init(&m->state_handlers);
    ev_bh_init(&m->req_bh, run->loop, serve, m);
    m->state = RS_PRELAUNCH;
    return m;
}

void machine_free(struct machine *m)
{
    struct obj *root = m->root;
    struct mem_sys *sys = m->mem_sys;
    struct vcpu **cpus = m->cpus;

    ev_bh_cancel(&m->req_bh);
    while (!list_empty(&m->sysbus->devs))
        dev_remove(container_of(m->sysbus->devs.prev, struct dev, link));
    free(m->sysbus->name);
    free(m->sysbus);
    mem_space_free(m->mem);
    mem_space_free(m->io);
    obj_unref(root); /* frees the machine with it */
    free(cpus);
    mem_sys_free(sys);
}

static void request(struct machine *m, unsigned bit, enum cause c)
{
    m->req_cause = (int)c;
    atomic_fetch_or(&m->req, bit);
    ev_bh_schedule(&m->req_bh);
}

void machine_request_reset(struct machine *m, enum cause c)
{
    request(m, REQ_RESET, c);
}

void machine_request_shutdown(struct machine *m, enum cause c)
{
    request(m, REQ_SHUTDOWN, c);
}

void machine_request_powerdown(struct machine *m)
{
    request(m, REQ_POWERDOWN, CAUSE_HOST_UI);
}

void machine_request_wakeup(struct machine *m)
{
    request(m, REQ_WAKEUP, CAUSE_HOST_UI);
}

void machine_request_suspend(struct machine *m)
{
    request(m, REQ_SUSPEND, CAUSE_GUEST_SHUTDOWN);
}

static void call_hooks(struct list *l)
{
    struct machine_hook *h, *tmp;

    list_each_safe (h, tmp, l, link)
        h->fn(h->opaque);
}

static void set_state(struct machine *m, enum run_state s)
{
    bool was = machine_running(m);

    m->state = s;
    if (was != machine_running(m))
        call_hooks(&m->state_handlers);
}

void machine_stop(struct machine *m, enum run_state why)
{
    bool was = machine_running(m);

    if (m->cpus_pause)
        m->cpus_pause(m);
    if (!m->stepped)
        clk_pause(m->run->virt);
    set_state(m, why);
    if (was)
        run_event(m->run, "STOP", NULL);
}

void machine_start(struct machine *m)
{
    if (machine_running(m))
        return;
    set_state(m, RS_RUNNING);
    run_event(m->run, "RESUME", NULL);
    if (!m->stepped)
        clk_resume(m->run->virt);
    if (m->cpus_resume)
        m->cpus_resume(m);
}

void machine_reset(struct machine *m)
{
    m->suspended = false;
    mem_begin(m->mem_sys);
    bus_reset_tree(m->sysbus);
    call_hooks(&m->reset_handlers);
    mem_commit(m->mem_sys);
    if (m->cpus_reset)
        m->cpus_reset(m);
}

static void do_reset(struct machine *m, enum cause c)
{
    bool running = machine_running(m);
    bool guest = c >= CAUSE_GUEST_SHUTDOWN;

    if (m->no_reboot && guest) {
        request(m, REQ_SHUTDOWN, c);
        return;
    }
    if (m->cpus_pause)
        m->cpus_pause(m);
    machine_reset(m);
    run_event(m->run, "RESET", json_make("b:guest", guest, "s:reason", cause_names[c], NULL));
    if (m->state == RS_SHUTDOWN || m->state == RS_INTERNAL_ERROR || m->state == RS_GUEST_PANICKED)
        set_state(m, RS_PAUSED);
    if (running && m->cpus_resume)
        m->cpus_resume(m);
}

/* The guest says that it has crashed (pvpanic). False: the machine goes on or stands still, nothing ends. */
static bool do_panic(struct machine *m)
{
    static const char *const names[] = {"poweroff", "pause", "poweroff", "run"};

    run_event(m->run, "GUEST_PANICKED", json_make("s:action", names[m->panic_action], NULL));
    if (m->panic_action == PANIC_PAUSE)
        machine_stop(m, RS_GUEST_PANICKED);
    if (m->panic_action == PANIC_EXIT_FAILURE)
        m->exit_code = 1;
    return m->panic_action == PANIC_SHUTDOWN || m->panic_action == PANIC_EXIT_FAILURE;
}

static void do_shutdown(struct machine *m, enum cause c)
{
    if (c == CAUSE_GUEST_PANIC && !do_panic(m))
        return;
    run_event(m->run, "SHUTDOWN", json_make("b:guest", c >= CAUSE_GUEST_SHUTDOWN, "s:reason", cause_names[c], NULL));
    if (m->no_shutdown && c != CAUSE_HOST_QMP_QUIT && c != CAUSE_HOST_SIGNAL)
        machine_stop(m, RS_SHUTDOWN);
    else if (m->quit)
        m->quit(m, c);
}

/* Sleep to RAM: processors and guest time stand still, devices keep their state until the wake-up resets them. */
static void do_suspend(struct machine *m)
{
    if (!machine_running(m))
        return;
    if (m->cpus_pause)
        m->cpus_pause(m);
    if (!m->stepped)
        clk_pause(m->run->virt);
    m->suspended = true;
    set_state(m, RS_SUSPENDED);
    run_event(m->run, "SUSPEND", NULL);
}

/* The platform comes up as after a reset, with memory kept; firmware finds the wake-up status that the handlers set. */
static void do_wakeup(struct machine *m)
{
    if (m->state != RS_SUSPENDED)
        return;
    machine_reset(m);
    call_hooks(&m->wakeup_handlers);
    set_state(m, RS_RUNNING);
    if (!m->stepped)
        clk_resume(m->run->virt);
    if (m->cpus_resume)
        m->cpus_resume(m);
    run_event(m->run, "WAKEUP", NULL);
}

static void serve(void *opaque)
{
    struct machine *m = opaque;
    unsigned req = atomic_exchange(&m->req, 0);
    enum cause c = (enum cause)m->req_cause;

    if (req & REQ_SUSPEND)
        do_suspend(m);
    if (req & REQ_WAKEUP)
        do_wakeup(m);
    if (req & REQ_POWERDOWN) {
        run_event(m->run, "POWERDOWN", NULL);
        call_hooks(&m->powerdown_handlers);
    }
    if (req & REQ_SHUTDOWN)
        do_shutdown(m, c);
    else if (req & REQ_RESET)
        do_reset(m, c);
}

const char *run_state_name(enum run_state s)
{
    return (unsigned)s < ARRAY_LEN(state_names) ? state_names[s] : "internal-error";
}

#define HOOK(fn_, list_)                                                                                               \
    void fn_(struct machine *m, struct machine_hook *h)                                                                \
    {                                                                                                                  \
        list_add(&m->list_, &h->link);                                                                                 \
    }
HOOK(machine_on_reset, reset_handlers)
HOOK(machine_on_powerdown, powerdown_handlers)
HOOK(machine_on_wakeup, wakeup_handlers)
HOOK(machine_on_state, state_handlers)

void machine_hook_del(struct machine_hook *h)
{
    if (h->link.next)
        list_del(&h->link);
}
