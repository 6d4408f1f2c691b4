/* The machine: what every device, CPU and monitor of one guest shares. Created by cmd/, filled by a board. */
#ifndef DEV_MACHINE_H
#define DEV_MACHINE_H

#include "mem/mem.h"
#include "obj/obj.h"
#include "run/run.h"

struct vcpu;
struct bus;
struct dev;

enum run_state {
    RS_PRELAUNCH, /* -S, before the first cont */
    RS_RUNNING,
    RS_PAUSED, /* stop */
    RS_DEBUG,
    RS_SHUTDOWN, /* guest powered off, -no-shutdown */
    RS_IO_ERROR,
    RS_INTERNAL_ERROR,
    RS_WATCHDOG,
    RS_GUEST_PANICKED,
    RS_SUSPENDED,
    RS_INMIGRATE,
    RS_PAUSE_SAVE,    /* while state is saved */
    RS_RESTORE,       /* while it is restored */
    RS_POSTMIGRATE,   /* it has moved away */
    RS_FINISH_MIGRATE /* while it moves away */
};
enum cause { /* of reset and shutdown; reported in events */
             CAUSE_HOST_QMP_QUIT,
             CAUSE_HOST_QMP_RESET,
             CAUSE_HOST_SIGNAL,
             CAUSE_HOST_UI,
             CAUSE_HOST_ERROR,
             CAUSE_GUEST_SHUTDOWN,
             CAUSE_GUEST_RESET,
             CAUSE_GUEST_PANIC,
             CAUSE_SUBSYSTEM_RESET,
};

enum panic_action { PANIC_SHUTDOWN, PANIC_PAUSE, PANIC_EXIT_FAILURE, PANIC_NONE }; /* -action panic= */

struct icount;
struct machine {
    struct obj obj; /* first; the tree's root is obj.parent */
    struct run *run;
    struct mem_sys *mem_sys;
    struct mem_region sysmem, sysio;                       /* roots: 2^64 bytes and 64 Ki ports */
    struct mem_space *mem, *io;                            /* what bus masters and vCPUs see */
    struct obj *root;                                      /* "/": machine, objects, chardevs, backend */
    struct obj *peripheral, *peripheral_anon, *unattached; /* homes of devices with id, without, and board parts */
    struct obj *objects;                                   /* home of -object */
    struct bus *sysbus;                                    /* root of the bus tree */
    struct vcpu **cpus;                                    /* nr_cpus present; max_cpus entries */
    unsigned nr_cpus, max_cpus;
    _Atomic int state;     /* enum run_state */
    const void *accel;     /* const struct accel_class * once chosen */
    void *accel_data;      /* owned by the accelerator */
    struct icount *icount; /* -icount (accel/icount.h), owned; NULL: the virtual clock runs by itself */
    uint64_t ram_size;
    struct list reset_handlers;
    struct list powerdown_handlers, wakeup_handlers, state_handlers;
    bool no_reboot, no_shutdown;    /* -action reboot=shutdown, shutdown=pause */
    enum panic_action panic_action; /* what a guest's report of its own crash does */
    bool stepped;                   /* -accel qtest: no CPU runs, the clock is stepped */
    bool suspended;                 /* asleep (S3), also while something else stops the machine */
    const char *type;               /* name of the board's class, borrowed; NULL before it is made */
    const char *name;               /* -name, borrowed */
    uint8_t uuid[16];
    bool uuid_set;
    void *board;           /* the board's private data */
    _Atomic int exit_code; /* what the program returns; isa-debug-exit sets it */
    /* Requests raised by any thread, served on the main loop (dev/machine.c). */
    _Atomic unsigned req; /* bits private to machine.c */
    _Atomic int req_cause;
    struct ev_bh req_bh;
    void (*quit)(struct machine *m, enum cause c); /* set by cmd/: ends the program */
    /* Set by cpu/ when the first vCPU appears: this room is below it. */
    void (*cpus_pause)(struct machine *m);
    void (*cpus_resume)(struct machine *m);
    void (*cpus_reset)(struct machine *m);
};

/* A machine with empty memory and tree; run is borrowed. */
struct machine *machine_new(struct run *run);
void machine_free(struct machine *m);
static inline struct machine *obj_machine(const struct obj *o)
{
    return o->ctx;
}

/* Any thread; carried out soon on the main loop with all vCPUs stopped. */
void machine_request_reset(struct machine *m, enum cause c);
void machine_request_shutdown(struct machine *m, enum cause c);
void machine_request_powerdown(struct machine *m); /* presses the power button */
void machine_request_wakeup(struct machine *m);
void machine_request_suspend(struct machine *m);
/* Main loop: stop and start. machine_stop waits until no vCPU runs. */
void machine_stop(struct machine *m, enum run_state why);
void machine_start(struct machine *m);
const char *run_state_name(enum run_state s); /* QMP spelling: "running", "paused", "guest-panicked" ... */
static inline bool machine_running(struct machine *m)
{
    return m->state == RS_RUNNING;
}
/* Main loop: resets every device and CPU now (vCPUs must be stopped). */
void machine_reset(struct machine *m);

/* Hooks; fn runs on the main loop, machine lock held. Handlers are owned by the caller (embedded). */
struct machine_hook {
    struct list link;
    void (*fn)(void *opaque);
    void *opaque;
};
void machine_on_reset(struct machine *m, struct machine_hook *h);     /* after all devices were reset, in order */
void machine_on_powerdown(struct machine *m, struct machine_hook *h); /* the power button was pressed */
void machine_on_wakeup(struct machine *m, struct machine_hook *h);
void machine_on_state(struct machine *m, struct machine_hook *h); /* m->state changed between running and not */
void machine_hook_del(struct machine_hook *h);

#endif
