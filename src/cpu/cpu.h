/* The neutral virtual CPU: created by a guest architecture, run by an accelerator, poked by interrupt controllers.
 *
 * One host thread per vCPU. The thread alternates between vcpu->run (an accelerator's loop, entered without the machine
 * lock) and servicing requests. Any thread may raise, lower and kick. Guest registers may be read or changed by others
 * only while the vCPU is stopped (vcpu_pause, machine_stop) or from vcpu_call on its own thread. */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "dev/machine.h"
#include <pthread.h>

struct vcpu;

/* What an architecture provides. */
struct vcpu_arch {
    const char *name; /* "x86_64" */
    void (*reset)(struct vcpu *c);
    bool (*has_work)(struct vcpu *c); /* a pin that would end a halt */
    uint64_t (*pc)(struct vcpu *c);
    char *(*dump)(struct vcpu *c, unsigned flags); /* `info registers`, caller frees */
    /* Virtual to physical without side effects, for the monitor and debugger; false when unmapped. */
    bool (*debug_translate)(struct vcpu *c, uint64_t va, gpa_t *pa);
    /* Registers by gdb number; returns bytes, 0 = none. */
    unsigned (*gdb_read)(struct vcpu *c, unsigned reg, uint8_t *buf);
    unsigned (*gdb_write)(struct vcpu *c, unsigned reg, const uint8_t *buf);
    const char *gdb_target_xml;
    const struct state_desc *state;               /* of the struct vcpu; NULL: cannot be saved */
    struct x86_port *(*x86_port)(struct vcpu *c); /* x86 only; NULL elsewhere. Callers use x86_port() of cpu/x86.h */
};

enum vcpu_exit { VCPU_EXIT_KICKED, VCPU_EXIT_HALTED, VCPU_EXIT_DEBUG, VCPU_EXIT_SHUTDOWN, VCPU_EXIT_ERROR };

struct vcpu {
    struct obj obj; /* first */
    struct machine *m;
    unsigned index;
    const struct vcpu_arch *arch;
    struct mem_space *as; /* what it sees outside SMM */
    /* The accelerator's loop: runs guest code until kicked, halted or stopped. Own thread, no machine lock held. */
    enum vcpu_exit (*run)(struct vcpu *c);
    void (*kick)(struct vcpu *c); /* any thread: make run return or look at pins soon; set by the accelerator */
    void *accel_data;
    const struct state_desc *accel_state; /* of accel_data; NULL: nothing in it belongs to the guest */
    _Atomic uint32_t pins;                /* raised lines; bit meanings are the architecture's (cpu/x86.h) */
    _Atomic bool exit_request;            /* run must return VCPU_EXIT_KICKED */
    _Atomic bool stop_request, stopped;   /* paused by the machine */
    _Atomic bool halted;                  /* waits for has_work */
    bool created, unplug;
    pthread_t thread;
    _Atomic int tid;      /* of the thread, as the host's tools show it; 0 before it runs */
    pthread_mutex_t lock; /* guards the sleep and the call queue */
    pthread_cond_t cond;
    struct list calls;
    uint64_t stat_exits;
};

/* Sets up the neutral part (object, index, queue); the architecture has allocated it. */
void vcpu_init(struct vcpu *c, struct machine *m, const struct vcpu_arch *arch);
void vcpu_start_thread(struct vcpu *c);
void vcpu_raise(struct vcpu *c, uint32_t pin); /* any thread: sets pins, wakes or kicks */
void vcpu_lower(struct vcpu *c, uint32_t pin);
void vcpu_kick(struct vcpu *c);
/* Runs fn on the vCPU's thread between instructions and waits for it (runs directly when stopped or same thread). */
void vcpu_call(struct vcpu *c, void (*fn)(struct vcpu *c, void *arg), void *arg);
/* The same without waiting; arg must stay alive. */
void vcpu_call_async(struct vcpu *c, void (*fn)(struct vcpu *c, void *arg), void *arg);
struct vcpu *vcpu_self(void);        /* on a vCPU thread, else NULL */
void vcpus_pause(struct machine *m); /* main thread, lock held (dropped while waiting): returns when all stand still */
void vcpus_resume(struct machine *m);

#endif
