/* Processes that run in this one's memory: vfork's children, and those of clone with CLONE_VM but without CLONE_THREAD,
 * after clone(2).
 *
 * Each is a process of the host's made with the same flags, so ids, waits, signals and what else is or is not shared
 * are the kernel's business. It runs on our code cache, tables and heap as a thread does.
 *
 * vfork: the child uses the C library's data of the thread that made it, which sleeps in the kernel meanwhile.
 *
 * Else both go on, and the child needs C library data of its own. A thread of ours, the keeper, lends its own: it
 * sleeps until the kernel says that the child has left this memory (ended, was killed, executed a program), then frees
 * what was the child's, and a lock it may have been killed with.
 *
 * A child that dies holding a lock of ours would stop the others. So in these processes signals that end a process are
 * taken by a handler and die where no lock is held, and the guest's SIGKILL is made one of them (lx_sharing_kill).
 *
 * Not here: one killed by somebody else's SIGKILL, or by the end of its process while it is a second thread of it, may
 * hold the heap's lock; of the others only the cache's is freed. */
#include "base/util.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef CLONE_DETACHED
#define CLONE_DETACHED 0x00400000
#endif
enum { HOST_STACK = 512 * 1024, KEEPER_STACK = 128 * 1024, LOOK_AGAIN_US = 2000 };

struct lx_lodging {
    struct lx_thread *first; /* owned: the child's first thread */
    uint8_t *stack;          /* owned: what the child runs on */
    _Atomic int inside;      /* cleared by the kernel when the child has left */
    pid_t pid;               /* 0: it was never made */
    int keeper;
    uintptr_t tls; /* the keeper's */
    uint64_t flags, ctid;
    unsigned event;
    sem_t ready; /* the keeper's part is filled */
    sem_t told;  /* so is its maker's, who will not look again */
    struct lx_lodging *next;
};

/* ---- what both need ---- */

static struct lx_thread *copy_thread(struct lx_thread *t, const struct lx_clone *c)
{
    const struct lx_arch *ar = lx_proc.arch;
    struct lx_thread *n = xnew(struct lx_thread);

    n->cpu = ar->cpu_clone(t->cpu);
    if (!n->cpu || !lx_rt_thread_new(lx_proc.rt, n->cpu, NULL)) {
        if (n->cpu)
            ar->cpu_free(n->cpu);
        free(n);
        return NULL;
    }
    n->cpu->thread = n;
    n->act = t->act;
    if (!(c->flags & CLONE_SIGHAND)) {
        n->act = xnew(struct lx_actions);
        pthread_mutex_init(&n->act->lock, NULL);
        pthread_mutex_lock(&t->act->lock);
        memcpy(n->act->a, t->act->a, sizeof n->act->a);
        pthread_mutex_unlock(&t->act->lock);
    }
    n->mask = t->mask;
    n->secc = t->secc;
    if (!(c->flags & CLONE_UNTRACED))
        n->trace = t->trace;
    n->sharing = n->act->gently = true;
    if (c->stack)
        ar->set(n->cpu, LX_SP, c->stack);
    if (c->flags & CLONE_SETTLS)
        ar->set(n->cpu, LX_TLS, c->tls);
    ar->sys_result(n->cpu, 0);
    return n;
}

/* Its host thread is gone. rt: its translator's part, which it may have freed itself. */
static void free_thread(struct lx_thread *n, struct lx_rt_thread *rt, bool act)
{
    if (rt)
        lx_rt_thread_free(rt);
    lx_proc.arch->cpu_free(n->cpu);
    if (act)
        free(n->act);
    free(n);
}

static void child_begins(struct lx_thread *n)
{
    n->tid = gettid();
    lx_self = n;
    lx_rt_thread_start(n->cpu->rt);
    lx_signals_gently(n);
}

/* ---- vfork ---- */

static int vfork_child(void *arg)
{
    struct lx_thread *n = arg;

    child_begins(n);
    lx_host_mask(n);
    if (n->trace.on)
        lx_trace_born(n, &n->trace, PTRACE_EVENT_VFORK);
    lx_thread_loop(n);
    lx_exit_process(0);
}

/* What the host's clone gets of the guest's flags: what is written to the guest's memory we write. */
static int host_flags(const struct lx_clone *c)
{
    return (int)(c->flags & ~(uint64_t)(CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID |
                                        CLONE_DETACHED | 0xff)) |
           c->exit_signal;
}

int64_t lx_vfork(struct lx_thread *t, const struct lx_clone *c)
{
    struct lx_thread *n = copy_thread(t, c);
    struct lx_rt_thread *rt;
    sigset_t old;
    uint8_t *host;
    int pid, e, fd = -1;

    if (!n)
        return -EAGAIN;
    n->alt = t->alt;
    rt = n->cpu->rt;
    host = xmalloc(HOST_STACK);
    lx_signals_block(&old);
    pid = clone(vfork_child, host + HOST_STACK - 64, host_flags(c), n, &fd);
    e = errno;
    lx_self = t;
    lx_rt_self = t->cpu->rt;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    rt->view.out->inside = 0;
    rt->in_code = false;
    free_thread(n, rt, !(c->flags & CLONE_SIGHAND));
    free(host);
    if (pid > 0 && c->flags & CLONE_PIDFD)
        lx_put(c->pidfd, &fd, 4);
    if (pid > 0 && t->trace.on)
        lx_trace_event(t, PTRACE_EVENT_VFORK, (uint64_t)pid);
    return pid < 0 ? -e : pid;
}

/* ---- the keeper ---- */

/* By the kernel: the keeper takes no faults. */
static bool put_zero(uint64_t at)
{
    uint32_t zero = 0;
    struct iovec mine = {&zero, 4}, theirs = {(void *)(uintptr_t)at, 4};

    return process_vm_writev(getpid(), &mine, 1, &theirs, 1, 0) == 4;
}

static void clear_tid(uint64_t at)
{
    if (!at)
        return;
    if (put_zero(at) || (lx_rt_written(lx_proc.rt, at, 4) && put_zero(at)))
        syscall(SYS_futex, at, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* One of the child's other threads; with lx_proc.lock held. */
static struct lx_thread *other_locked(const struct lx_lodging *l)
{
    struct lx_thread *o = lx_proc.threads;

    while (o && (o->lodging != l || o == l->first))
        o = o->next;
    return o;
}

/* The child's first thread is gone. What it made may go on; they are let be until they are gone too. */
static void take_others(struct lx_lodging *l)
{
    for (;;) {
        struct lx_thread *o;
        bool gone;

        pthread_mutex_lock(&lx_proc.lock);
        o = other_locked(l);
        gone = o && syscall(SYS_tgkill, l->pid, o->tid, 0) < 0 && errno == ESRCH;
        if (gone)
            lx_thread_delist_locked(o);
        pthread_mutex_unlock(&lx_proc.lock);
        if (!o)
            return;
        if (!gone) {
            usleep(LOOK_AGAIN_US);
            continue;
        }
        lx_rt_thread_killed(o->cpu->rt, o->tid);
        lx_mem_killed(o->tid);
        free_thread(o, o->cpu->rt, false);
    }
}

static void unlist(struct lx_lodging *l)
{
    struct lx_lodging **at;

    pthread_mutex_lock(&lx_proc.lock);
    lx_thread_delist_locked(l->first);
    for (at = &lx_proc.lodgings; *at != l; at = &(*at)->next)
        ;
    *at = l->next;
    pthread_mutex_unlock(&lx_proc.lock);
}

static void *keeper_main(void *arg)
{
    struct lx_lodging *l = arg;
    struct lx_thread *n = l->first;
    sigset_t all;
    int inside;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    __asm__ volatile("rdfsbase %0" : "=r"(l->tls));
    l->keeper = gettid();
    lx_self = n; /* the child's from its first instruction on */
    lx_rt_self = n->cpu->rt;
    sem_post(&l->ready);
    while (sem_wait(&l->told) < 0)
        ;
    while ((inside = l->inside))
        syscall(SYS_futex, &l->inside, FUTEX_WAIT, inside, NULL, NULL, 0);
    lx_self = NULL;
    lx_rt_self = NULL;
    if (n->cpu->rt)
        lx_rt_thread_killed(n->cpu->rt, l->keeper);
    lx_mem_killed(l->keeper);
    if (l->pid) {
        clear_tid(n->clear_tid);
        take_others(l);
    }
    unlist(l);
    free_thread(n, n->cpu->rt, !(l->flags & CLONE_SIGHAND));
    sem_destroy(&l->ready);
    sem_destroy(&l->told);
    free(l->stack);
    free(l);
    return NULL;
}

bool lx_sharing_keeper(int tid)
{
    const struct lx_lodging *l;

    pthread_mutex_lock(&lx_proc.lock);
    for (l = lx_proc.lodgings; l && l->keeper != tid; l = l->next)
        ;
    pthread_mutex_unlock(&lx_proc.lock);
    return l;
}

bool lx_sharing_kill(pid_t pid)
{
    const struct lx_lodging *l;
    pid_t tid = 0;

    pthread_mutex_lock(&lx_proc.lock);
    for (l = lx_proc.lodgings; l && l->pid != pid; l = l->next)
        ;
    tid = l && l->inside ? l->pid : 0;
    pthread_mutex_unlock(&lx_proc.lock);
    if (!tid || lx_trace_hand(tid, SIGKILL) < 0)
        return false;
    syscall(SYS_kill, pid, SIGCONT); /* it may stand stopped */
    return true;
}

/* With all signals blocked, as the keeper is to have them. */
static struct lx_lodging *lodge(struct lx_thread *t, const struct lx_clone *c)
{
    struct lx_lodging *l = try_alloc(1, sizeof *l);
    pthread_attr_t attr;
    pthread_t id;
    int e;

    if (!l)
        return NULL;
    *l = (struct lx_lodging){.inside = 1, .flags = c->flags, .ctid = c->ctid};
    l->event = lx_trace_clone_event(c->flags, c->exit_signal);
    l->stack = try_alloc(1, HOST_STACK);
    l->first = l->stack ? copy_thread(t, c) : NULL;
    if (!l->first)
        goto fail;
    l->first->lodging = l;
    l->first->clear_tid = c->flags & CLONE_CHILD_CLEARTID ? c->ctid : 0;
    sem_init(&l->ready, 0, 0);
    sem_init(&l->told, 0, 0);
    pthread_mutex_lock(&lx_proc.lock);
    l->next = lx_proc.lodgings;
    lx_proc.lodgings = l;
    pthread_mutex_unlock(&lx_proc.lock);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, KEEPER_STACK);
    e = pthread_create(&id, &attr, keeper_main, l);
    pthread_attr_destroy(&attr);
    if (!e) {
        while (sem_wait(&l->ready) < 0)
            ;
        return l;
    }
    unlist(l);
    free_thread(l->first, l->first->cpu->rt, !(c->flags & CLONE_SIGHAND));
fail:
    free(l->stack);
    free(l);
    return NULL;
}

static int sharing_child(void *arg)
{
    struct lx_lodging *l = arg;
    struct lx_thread *n = l->first;
    uint32_t tid;

    child_begins(n);
    tid = (uint32_t)n->tid;
    if (l->flags & CLONE_CHILD_SETTID)
        lx_put(l->ctid, &tid, 4);
    lx_thread_enlist(n);
    lx_host_mask(n);
    if (n->trace.on)
        lx_trace_born(n, &n->trace, l->event);
    lx_thread_loop(n);
    lx_exit_process(0);
}

/* The kernel writes the id where the guest wants it, before the child runs; the word it clears at the end is ours. */
static int make_child(struct lx_lodging *l, const struct lx_clone *c)
{
    int flags = (host_flags(c) & ~CLONE_PIDFD) | CLONE_SETTLS | CLONE_CHILD_CLEARTID, pid;

    if (c->flags & CLONE_PARENT_SETTID) {
        lx_rt_written(lx_proc.rt, c->ptid, 4);
        flags |= CLONE_PARENT_SETTID;
    }
    pid = clone(sharing_child, l->stack + HOST_STACK - 64, flags, l, (void *)(uintptr_t)c->ptid, (void *)l->tls,
                &l->inside);
    return pid < 0 ? -errno : pid;
}

int64_t lx_clone_sharing(struct lx_thread *t, const struct lx_clone *c)
{
    unsigned event = lx_trace_clone_event(c->flags, c->exit_signal);
    struct lx_lodging *l;
    sigset_t old;
    int pid = -EAGAIN, fd;

    lx_signals_block(&old);
    l = lodge(t, c);
    if (l) {
        pid = make_child(l, c);
        if (pid < 0)
            l->inside = 0;
        else
            l->pid = pid;
        sem_post(&l->told); /* now it may be gone */
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pid < 0)
        return pid;
    if (c->flags & CLONE_PIDFD) {
        fd = (int)syscall(SYS_pidfd_open, pid, 0);
        lx_put(c->pidfd, &fd, 4);
    }
    if (t->trace.on && !(c->flags & CLONE_UNTRACED))
        lx_trace_event(t, event, (uint64_t)pid);
    return pid;
}
