/* Host signals raised by translated code: polls, shadow-stack overflow, and faults of rewritten instructions.
 *
 * The handler only notes what happened and makes the thread leave translated code with all guest state in its
 * registers; the run loop sorts it out (dbt.c). A signal elsewhere keeps its normal meaning. */
#include "accel/dbt/dbt_int.h"

#include <errno.h>
#include <signal.h>
#include <ucontext.h>

_Thread_local struct dbt_cpu *dbt_self;

static void on_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    struct dbt_cpu *c = dbt_self;
    uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];

    if (!c || !jit_arena_has(&c->dbt->cache.arena, (void *)rip)) {
        signal(sig, SIG_DFL); /* not ours: returning repeats the fault */
        return;
    }
    c->sig = sig;
    c->sig_rip = rip;
    c->sig_addr = (uintptr_t)info->si_addr;
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)c->dbt->stubs.exit_signal;
}

static void on_where(int sig, siginfo_t *info, void *context)
{
    const ucontext_t *uc = context;
    struct dbt_cpu *c = dbt_self;
    uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];

    (void)sig;
    (void)info;
    if (c && jit_arena_has(&c->dbt->cache.arena, (void *)rip))
        c->sample = rip;
}

bool dbt_install_signals(struct err **errp)
{
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

    sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < ARRAY_LEN(sigs); i++)
        if (sigaction(sigs[i], &sa, NULL) < 0)
            return err_set_errno(errp, errno, "translator: cannot handle signal %d", sigs[i]);
    sa.sa_sigaction = on_where;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    if (sigaction(DBT_SIG_WHERE, &sa, NULL) < 0)
        return err_set_errno(errp, errno, "translator: cannot handle signal %d", DBT_SIG_WHERE);
    return true;
}

void dbt_thread_signals(struct dbt_cpu *c)
{
    enum { SIZE = 64 * 1024 };
    stack_t ss = {.ss_size = SIZE};

    c->altstack = xmalloc(SIZE);
    ss.ss_sp = c->altstack;
    sigaltstack(&ss, NULL);
    dbt_self = c;
    c->thread = pthread_self();
}
