/* Threads and processes: the run loop, clone, fork, exit. A guest thread is a host thread; fork is the host's. */
#include "base/log.h"
#include "base/util.h"
#include "user/linux/direct.h"
#include "user/linux/gdb.h"
#include "user/linux/kept.h"
#include "user/linux/map.h"
#include "user/linux/seccomp.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HOST_STACK = 512 * 1024 };
enum { CLONE_THREAD_FLAGS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD };

struct lx_proc lx_proc;
_Thread_local struct lx_thread *lx_self;

void lx_exit_process(int code)
{
    if (!lx_self || !lx_self->sharing) {
        lx_gdb_exit(code);
        if (log_on(LOG_JIT))
            lx_rt_report(lx_proc.rt);
        lx_rt_counts(lx_proc.rt);
        fflush(NULL);
        lx_kept_save(lx_proc.rt);
    }
    syscall(SYS_exit_group, code);
    __builtin_unreachable();
}

/* One instruction for a tracer. */
static void step(struct lx_thread *t)
{
    const struct lx_arch *ar = lx_proc.arch;
    uint64_t pc = ar->get(t->cpu, LX_PC);

    switch (ar->run(t->cpu)) {
    case LX_STOP_SYSCALL:
        lx_syscall(t);
        break;
    case LX_STOP_SIGNAL:
        lx_signal_fault(t);
        return;
    default:
        if (ar->get(t->cpu, LX_PC) == pc)
            return; /* a signal came first */
    }
    if (!t->exiting && t->trace.on && t->trace.how == LX_TRACE_STEP)
        lx_trace_stepped(t);
}

void lx_thread_loop(struct lx_thread *t)
{
    const struct lx_arch *ar = lx_proc.arch;

    while (!t->exiting) {
        if (unlikely(t->pending || t->pending_sync))
            lx_signals_deliver(t);
        if (unlikely(lx_proc.opt.gdb_port || lx_proc.opt.gdb_path))
            lx_gdb_before_run(t);
        if (unlikely(t->trace.nr_hw && t->trace.on) && lx_trace_point(t))
            continue;
        if (unlikely(t->trace.how == LX_TRACE_STEP && t->trace.on)) {
            step(t);
            continue;
        }
        switch (ar->run(t->cpu)) {
        case LX_STOP_SYSCALL:
            lx_syscall(t);
            break;
        case LX_STOP_SIGNAL:
            if (!lx_gdb_fault(t))
                lx_signal_fault(t);
            break;
        default:
            break;
        }
    }
}

void lx_thread_enlist(struct lx_thread *t)
{
    pthread_mutex_lock(&lx_proc.lock);
    t->next = lx_proc.threads;
    lx_proc.threads = t;
    pthread_mutex_unlock(&lx_proc.lock);
}

static bool others_locked(const struct lx_thread *t)
{
    for (const struct lx_thread *o = lx_proc.threads; o; o = o->next)
        if (o != t && o->lodging == t->lodging)
            return true;
    return false;
}

bool lx_thread_alone(const struct lx_thread *t)
{
    bool more;

    pthread_mutex_lock(&lx_proc.lock);
    more = others_locked(t);
    pthread_mutex_unlock(&lx_proc.lock);
    return !more || (t->sharing && !t->lodging);
}

void lx_thread_delist_locked(struct lx_thread *t)
{
    struct lx_thread **at;

    for (at = &lx_proc.threads; *at && *at != t; at = &(*at)->next)
        ;
    if (*at)
        *at = t->next;
}

/* False: it was the process's last one. */
static bool delist(struct lx_thread *t)
{
    bool more;

    pthread_mutex_lock(&lx_proc.lock);
    more = others_locked(t);
    if (more)
        lx_thread_delist_locked(t);
    pthread_mutex_unlock(&lx_proc.lock);
    return more;
}

void lx_run_main(uint64_t entry, uint64_t sp, struct lx_cpu *cpu)
{
    struct lx_thread *t = xnew(struct lx_thread);

    t->cpu = cpu;
    t->act = xnew(struct lx_actions);
    t->tid = gettid();
    cpu->thread = t;
    lx_self = t;
    lx_rt_thread_start(cpu->rt);
    lx_signals_init(t);
    lx_thread_enlist(t);
    if (lx_proc.opt.seccomp_fd && !lx_seccomp_take(t, lx_proc.opt.seccomp_fd))
        lx_die_by(SIGKILL);
    lx_proc.arch->exec_state(cpu, entry, sp);
    if (lx_proc.opt.trace)
        lx_trace_executed(t, lx_proc.opt.trace);
    lx_gdb_start(t);
    lx_direct_start();
    lx_thread_loop(t);
    lx_exit_process(0);
}

/* ---- threads ---- */

/* The list of robust mutexes of a 32-bit guest, which the host's kernel cannot walk. */
static void release_robust32(struct lx_thread *t)
{
    uint64_t head = t->robust, at, off, tmp;
    unsigned n = 0;

    if (!head || !lx_get_word(head, &at) || !lx_get_word(head + 4, &off))
        return;
    while ((at & ~UINT64_C(1)) != head && n++ < 2048) {
        uint64_t lock = (uint32_t)((at & ~UINT64_C(1)) + off);
        uint32_t v, want;

        if (lx_get(&v, lock, 4) && (v & FUTEX_TID_MASK) == (uint32_t)t->tid) {
            want = (v & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
            lx_put(lock, &want, 4);
            if (v & FUTEX_WAITERS)
                syscall(SYS_futex, lock, FUTEX_WAKE, 1, NULL, NULL, 0);
        }
        if (!lx_get_word(at & ~UINT64_C(1), &tmp))
            return;
        at = tmp;
    }
}

static void thread_gone(struct lx_thread *t)
{
    uint32_t zero = 0;

    if (lx_is32())
        release_robust32(t);
    if (t->clear_tid && lx_put(t->clear_tid, &zero, 4))
        syscall(SYS_futex, t->clear_tid, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    t->clear_tid = 0;
}

static void *thread_main(void *arg)
{
    struct lx_thread *t = arg;
    struct lx_rt_thread *rt = t->cpu->rt;
    uint32_t tid;

    t->tid = gettid();
    lx_self = t;
    lx_rt_thread_start(rt);
    tid = (uint32_t)t->tid;
    if (t->clone_flags & CLONE_PARENT_SETTID)
        lx_put(t->ptid, &tid, 4);
    if (t->clone_flags & CLONE_CHILD_SETTID)
        lx_put(t->ctid, &tid, 4);
    lx_thread_enlist(t);
    *t->started_tid = t->tid;
    sem_post(t->started);
    t->started = NULL;
    lx_host_mask(t);
    if (t->trace.on)
        lx_trace_born(t, &t->trace, PTRACE_EVENT_CLONE);
    lx_thread_loop(t);
    lx_self = NULL;
    lx_rt_thread_free(rt);
    lx_proc.arch->cpu_free(t->cpu);
    free(t);
    return NULL;
}

static int64_t new_thread(struct lx_thread *t, uint64_t flags, uint64_t stack, uint64_t ptid, uint64_t ctid,
                          uint64_t tls)
{
    const struct lx_arch *ar = lx_proc.arch;
    struct lx_thread *n = xnew(struct lx_thread);
    sigset_t old;
    pthread_attr_t attr;
    pthread_t id;
    sem_t started;
    int64_t r;
    int tid;

    n->cpu = ar->cpu_clone(t->cpu);
    if (!n->cpu || !lx_rt_thread_new(lx_proc.rt, n->cpu, NULL)) {
        if (n->cpu)
            ar->cpu_free(n->cpu);
        free(n);
        return -EAGAIN;
    }
    n->cpu->thread = n;
    n->act = t->act;
    n->mask = t->mask;
    n->secc = t->secc;
    n->trace = t->trace;
    n->sharing = t->sharing;
    n->lodging = t->lodging;
    n->clone_flags = (unsigned)flags;
    n->ptid = ptid;
    n->ctid = ctid;
    n->clear_tid = flags & CLONE_CHILD_CLEARTID ? ctid : 0;
    if (stack)
        ar->set(n->cpu, LX_SP, stack);
    if (flags & CLONE_SETTLS)
        ar->set(n->cpu, LX_TLS, tls);
    ar->sys_result(n->cpu, 0);
    sem_init(&started, 0, 0);
    n->started = &started;
    n->started_tid = &tid;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, HOST_STACK);
    lx_signals_block(&old);
    if (pthread_create(&id, &attr, thread_main, n)) {
        lx_rt_thread_free(n->cpu->rt);
        ar->cpu_free(n->cpu);
        free(n);
        r = -EAGAIN;
    } else {
        while (sem_wait(&started) < 0)
            ;
        r = tid;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    sem_destroy(&started);
    if (r > 0 && t->trace.on)
        lx_trace_event(t, PTRACE_EVENT_CLONE, (uint64_t)r);
    return r;
}

int64_t lx_sys_exit(struct lx_thread *t, const uint64_t *a)
{
    lx_trace_event(t, PTRACE_EVENT_EXIT, (a[0] & 0xff) << 8);
    if ((t->sharing && !t->lodging) || !delist(t))
        lx_exit_process((int)a[0]);
    thread_gone(t);
    if (t->tid == getpid()) { /* the first thread: its stack must stay */
        lx_rt_thread_free(t->cpu->rt);
        t->cpu->rt = NULL;
        syscall(SYS_exit, (int)a[0]);
    }
    t->exiting = true;
    return -LX_NORESULT;
}

int64_t lx_sys_exit_group(struct lx_thread *t, const uint64_t *a)
{
    lx_trace_event(t, PTRACE_EVENT_EXIT, (a[0] & 0xff) << 8);
    lx_exit_process((int)a[0]);
}

int64_t lx_sys_set_tid_address(struct lx_thread *t, const uint64_t *a)
{
    t->clear_tid = a[0];
    return t->tid;
}

int64_t lx_sys_set_robust_list(struct lx_thread *t, const uint64_t *a)
{
    if (a[1] != (lx_is32() ? 12u : 24u))
        return -EINVAL;
    t->robust = a[0];
    t->robust_len = a[1];
    if (!lx_is32() && syscall(SYS_set_robust_list, a[0], a[1]) < 0)
        return -errno;
    return 0;
}

int64_t lx_sys32_get_robust_list(struct lx_thread *t, const uint64_t *a)
{
    if (a[0] && (int)a[0] != t->tid)
        return -EPERM;
    return lx_put_word(a[1], t->robust) && lx_put_word(a[2], 12) ? 0 : -EFAULT;
}

/* ---- processes ---- */

static void lock_all(struct lx_thread *t)
{
    pthread_mutex_lock(&lx_proc.lock);
    pthread_mutex_lock(&t->act->lock);
    pthread_mutex_lock(&lx_proc.space);
    pthread_mutex_lock(&lx_proc.rt->cache.lock);
    lx_map_lock();
}

static void unlock_all(struct lx_thread *t)
{
    lx_map_unlock();
    pthread_mutex_unlock(&lx_proc.rt->cache.lock);
    pthread_mutex_unlock(&lx_proc.space);
    pthread_mutex_unlock(&t->act->lock);
    pthread_mutex_unlock(&lx_proc.lock);
}

static void in_child(struct lx_thread *t, uint64_t flags, uint64_t stack, uint64_t ctid, uint64_t tls)
{
    uint32_t tid;

    t->tid = gettid();
    t->next = NULL;
    t->pending_sync = 0;
    lx_proc.threads = t;
    t->sharing = false;
    t->lodging = NULL;
    lx_proc.lodgings = NULL;
    lx_gdb_forked();
    lx_rt_after_fork(lx_proc.rt, t->cpu->rt, NULL);
    t->clear_tid = flags & CLONE_CHILD_CLEARTID ? ctid : 0;
    t->robust = 0;
    tid = (uint32_t)t->tid;
    if (flags & CLONE_CHILD_SETTID)
        lx_put(ctid, &tid, 4);
    if (stack)
        lx_proc.arch->set(t->cpu, LX_SP, stack);
    if (flags & CLONE_SETTLS)
        lx_proc.arch->set(t->cpu, LX_TLS, tls);
}

static pid_t host_fork(uint64_t flags, int exit_signal)
{
    uint64_t rest =
        flags & ~(uint64_t)(CLONE_VM | CLONE_VFORK | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID |
                            CLONE_CHILD_CLEARTID | CLONE_DETACHED | CLONE_PIDFD | 0xff);

    if (!rest && exit_signal == SIGCHLD)
        return fork();
    return (pid_t)syscall(SYS_clone, rest | (unsigned)exit_signal, 0, NULL, NULL, 0);
}

static int64_t new_process(struct lx_thread *t, uint64_t flags, uint64_t stack, uint64_t ptid, uint64_t ctid,
                           uint64_t tls, uint64_t pidfd, int exit_signal)
{
    uint32_t tid;
    unsigned event = lx_trace_clone_event(flags, exit_signal);
    int gate[2] = {-1, -1}, e;
    pid_t pid;
    char c;

    if (flags & CLONE_VFORK && pipe2(gate, O_CLOEXEC) < 0)
        return -errno;
    lock_all(t);
    pid = host_fork(flags, exit_signal);
    e = errno;
    unlock_all(t);
    if (!pid) {
        if (gate[0] >= 0)
            close(gate[0]); /* gate[1] goes with exec or exit */
        in_child(t, flags, stack, ctid, tls);
        lx_proc.arch->sys_result(t->cpu, 0);
        if (t->trace.on)
            lx_trace_born(t, &t->trace, event);
        return 0;
    }
    if (gate[1] >= 0)
        close(gate[1]);
    if (pid > 0 && flags & CLONE_PARENT_SETTID) {
        tid = (uint32_t)pid;
        lx_put(ptid, &tid, 4);
    }
    if (pid > 0 && flags & CLONE_PIDFD) {
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);

        lx_put(pidfd, &fd, 4);
    }
    if (gate[0] >= 0) {
        while (pid > 0 && read(gate[0], &c, 1) < 0 && errno == EINTR)
            ;
        close(gate[0]);
    }
    if (pid > 0 && t->trace.on)
        lx_trace_event(t, event, (uint64_t)pid);
    return pid < 0 ? -e : pid;
}

static int64_t do_clone(struct lx_thread *t, uint64_t flags, uint64_t stack, uint64_t ptid, uint64_t ctid, uint64_t tls,
                        uint64_t pidfd, int exit_signal)
{
    if (flags & CLONE_THREAD) {
        if ((flags & CLONE_THREAD_FLAGS) != CLONE_THREAD_FLAGS || flags & CLONE_PIDFD)
            return -EINVAL;
        return new_thread(t, flags, stack, ptid, ctid, tls);
    }
    if (flags & CLONE_SIGHAND && !(flags & CLONE_VM))
        return -EINVAL;
    if (flags & CLONE_VM) {
        struct lx_clone c = {flags, stack, ptid, ctid, tls, pidfd, exit_signal};

        return flags & CLONE_VFORK ? lx_vfork(t, &c) : lx_clone_sharing(t, &c);
    }
    return new_process(t, flags, stack, ptid, ctid, tls, pidfd, exit_signal);
}

int64_t lx_sys_fork(struct lx_thread *t, const uint64_t *a)
{
    return do_clone(t, 0, 0, 0, 0, 0, 0, SIGCHLD);
}

int64_t lx_sys_vfork(struct lx_thread *t, const uint64_t *a)
{
    return do_clone(t, CLONE_VFORK | CLONE_VM, 0, 0, 0, 0, 0, SIGCHLD);
}

int64_t lx_sys_clone(struct lx_thread *t, const uint64_t *a)
{
    bool last = lx_proc.arch->tls_last;

    if ((a[0] & (CLONE_PIDFD | CLONE_PARENT_SETTID)) == (CLONE_PIDFD | CLONE_PARENT_SETTID))
        return -EINVAL; /* one argument for both */
    return do_clone(t, a[0] & ~UINT64_C(0xff), a[1], a[2], last ? a[3] : a[4], last ? a[4] : a[3], a[2],
                    (int)(a[0] & 0xff));
}

int64_t lx_sys_clone3(struct lx_thread *t, const uint64_t *a)
{
    struct {
        uint64_t flags, pidfd, ctid, ptid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    } c = {0};

    if (a[1] < 64)
        return -EINVAL;
    if (a[1] > 4096)
        return -E2BIG;
    if (!lx_get(&c, a[0], min_u64(a[1], sizeof c)))
        return -EFAULT;
    if (c.set_tid_size || c.flags & UINT64_C(0x200000000) /* into a control group */)
        return -ENOSYS; /* callers fall back to clone */
    return do_clone(t, c.flags & ~UINT64_C(0x100000000) /* CLEAR_SIGHAND is for vfork of spawn */,
                    c.stack ? c.stack + c.stack_size : 0, c.ptid, c.ctid, c.tls, c.pidfd, (int)c.exit_signal);
}
