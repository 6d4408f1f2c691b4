/* vCPU threads: running, sleeping, pausing, and calls from other threads. */
#include "cpu/cpu.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

struct call {
    struct list link;
    void (*fn)(struct vcpu *c, void *arg);
    void *arg;
    bool *done; /* guarded by the vCPU's lock; NULL: nobody waits, free it */
};

static _Thread_local struct vcpu *self;

struct vcpu *vcpu_self(void)
{
    return self;
}

static void reset_all(struct machine *m)
{
    for (unsigned i = 0; i < m->nr_cpus; i++) {
        struct vcpu *c = m->cpus[i];

        c->halted = false;
        c->pins = 0;
        c->arch->reset(c);
    }
}

void vcpu_init(struct vcpu *c, struct machine *m, const struct vcpu_arch *arch)
{
    c->m = m;
    c->arch = arch;
    c->as = m->mem;
    c->index = m->nr_cpus;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    list_init(&c->calls);
    c->stop_request = true;
    c->stopped = true;
    m->cpus = xrealloc(m->cpus, (m->nr_cpus + 1) * sizeof *m->cpus);
    m->cpus[m->nr_cpus++] = c;
    m->cpus_pause = vcpus_pause;
    m->cpus_resume = vcpus_resume;
    m->cpus_reset = reset_all;
}

/* With c->lock held. */
static void run_calls_locked(struct vcpu *c)
{
    while (!list_empty(&c->calls)) {
        struct call *k = list_first(&c->calls, struct call, link);

        list_del(&k->link);
        pthread_mutex_unlock(&c->lock);
        k->fn(c, k->arg);
        pthread_mutex_lock(&c->lock);
        if (k->done) {
            *k->done = true;
            pthread_cond_broadcast(&c->cond);
        } else {
            free(k);
        }
    }
}

/* Sleeps while there is nothing to do. Returns false when the thread should end. */
static bool wait_for_work(struct vcpu *c)
{
    pthread_mutex_lock(&c->lock);
    for (;;) {
        c->exit_request = false; /* before the checks: a later request must survive them */
        run_calls_locked(c);
        if (c->unplug)
            break;
        if (c->stop_request) {
            if (!c->stopped) {
                c->stopped = true;
                pthread_cond_broadcast(&c->cond);
            }
        } else {
            c->stopped = false;
            if (!c->halted)
                break;
            if (c->arch->has_work(c)) {
                c->halted = false;
                break;
            }
        }
        pthread_cond_wait(&c->cond, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return !c->unplug;
}

static void *thread_main(void *arg)
{
    struct vcpu *c = arg;

    self = c;
    c->tid = gettid();
    while (wait_for_work(c)) {
        switch (c->run(c)) {
        case VCPU_EXIT_HALTED:
            c->halted = true;
            break;
        case VCPU_EXIT_SHUTDOWN:
            machine_request_reset(c->m, CAUSE_GUEST_RESET);
            c->stop_request = true;
            break;
        case VCPU_EXIT_ERROR:
            machine_request_shutdown(c->m, CAUSE_HOST_ERROR);
            c->stop_request = true;
            break;
        default:
            break;
        }
    }
    pthread_mutex_lock(&c->lock);
    c->stopped = true;
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void vcpu_start_thread(struct vcpu *c)
{
    char name[16];

    snprintf(name, sizeof name, "CPU %u", c->index);
    if (pthread_create(&c->thread, NULL, thread_main, c)) {
        warn_report("cannot start a thread for CPU %u", c->index);
        return;
    }
    pthread_setname_np(c->thread, name);
    c->created = true;
}

static void wake(struct vcpu *c)
{
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

void vcpu_kick(struct vcpu *c)
{
    c->exit_request = true;
    if (c->halted || c->stopped)
        wake(c);
    if (c->kick && c != self)
        c->kick(c);
}

void vcpu_raise(struct vcpu *c, uint32_t pin)
{
    if ((atomic_fetch_or(&c->pins, pin) & pin) == pin && !c->halted)
        return; /* already seen or about to be */
    if (c->halted)
        wake(c);
    if (c->kick)
        c->kick(c);
}

void vcpu_lower(struct vcpu *c, uint32_t pin)
{
    atomic_fetch_and(&c->pins, ~pin);
}

static void post(struct vcpu *c, struct call *k)
{
    pthread_mutex_lock(&c->lock);
    list_add(&c->calls, &k->link);
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->lock);
    vcpu_kick(c);
}

void vcpu_call(struct vcpu *c, void (*fn)(struct vcpu *c, void *arg), void *arg)
{
    bool done = false;
    struct call k = {.fn = fn, .arg = arg, .done = &done};

    if (c == self || !c->created) {
        fn(c, arg);
        return;
    }
    post(c, &k);
    pthread_mutex_lock(&c->lock);
    while (!done)
        pthread_cond_wait(&c->cond, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

void vcpu_call_async(struct vcpu *c, void (*fn)(struct vcpu *c, void *arg), void *arg)
{
    struct call *k = xnew(struct call);

    k->fn = fn;
    k->arg = arg;
    post(c, k);
}

void vcpus_pause(struct machine *m)
{
    bool locked = run_locked(m->run);

    for (unsigned i = 0; i < m->nr_cpus; i++) {
        m->cpus[i]->stop_request = true;
        vcpu_kick(m->cpus[i]);
    }
    if (locked)
        run_unlock(m->run);
    for (unsigned i = 0; i < m->nr_cpus; i++) {
        struct vcpu *c = m->cpus[i];

        pthread_mutex_lock(&c->lock);
        while (c->created && c != self && !c->stopped)
            pthread_cond_wait(&c->cond, &c->lock);
        pthread_mutex_unlock(&c->lock);
    }
    if (locked)
        run_lock(m->run);
}

void vcpus_resume(struct machine *m)
{
    for (unsigned i = 0; i < m->nr_cpus; i++) {
        struct vcpu *c = m->cpus[i];

        pthread_mutex_lock(&c->lock);
        c->stop_request = false;
        c->stopped = false;
        pthread_cond_broadcast(&c->cond);
        pthread_mutex_unlock(&c->lock);
    }
}
