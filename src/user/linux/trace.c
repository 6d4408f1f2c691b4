/* ptrace between emulated processes, after ptrace(2).
 *
 * The tracer's host thread is the real tracer of the tracee's, so parents, waits, zombies, rights and the death of
 * either are the kernel's business. What the guest is shown are only stops that the tracee's translator makes by
 * itself, where its guest state is complete: it fills struct lx_trace, sends itself SIGTRAP with the structure's
 * address and two magic words in host registers (stop_here), and the kernel stops it. The tracer's wait (settle) sees
 * the words, reads the structure and shows its status.
 *
 * All other stops of the host are resumed without the guest seeing them. A signal from outside becomes SIGTRAP with the
 * signal's number in si_errno: the tracee's handler takes it for the signal, and reports it where it delivers signals.
 * A fault in translated code, an exec and the birth of children pass.
 *
 * Requests read and write struct lx_trace in the tracee's memory; a guest address is a host address.
 *
 * Not here: PTRACE_O_TRACESECCOMP, TRACEVFORKDONE,
 * SYSEMU, the FSAVE image of i386 (its FXSAVE image is there), job control of a process all of whose threads stop,
 * tracees of another version of ours or not emulated (ESRCH). */
#include "user/linux/trace.h"
#include "base/bytes.h"
#include "base/str.h"
#include "base/util.h"
#include "user/linux/direct.h"
#include "user/linux/syscalls.h"

#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <linux/ptrace.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAGIC_A   UINT64_C(0x4c79726562697264)
#define MAGIC_B   UINT64_C(0x7472616365207331)
#define MAGIC_SIG 0x4c590000 /* in si_errno, with a signal number or a command below */
enum { CMD_ATTACH = 0x100, CMD_SEIZE, CMD_INTERRUPT, CMD_STOP /* stop_here */, MAX_TRACEES = 256 };
enum { GETVFPREGS = 27, SETVFPREGS }; /* Arm's */
enum { SIG_EVENT_STOP = PTRACE_EVENT_STOP << 8 };

/* ---- registers as user_regs_struct has them: numbers of the debugger's view; ORIG: the system call's number ---- */
enum { ORIG = 0x80, FSB, GSB, ZERO };
static const uint8_t x64_regs[] = {15, 14,   13, 12, 6,  1, 11, 10,  9,   8,  0,  2,  3, 4,
                                   5,  ORIG, 16, 18, 17, 7, 19, FSB, GSB, 20, 21, 22, 23};
static const uint8_t x86_regs[] = {3, 1, 2, 6, 7, 5, 0, 12, 13, 14, 15, ORIG, 8, 10, 9, 4, 11};
static const uint8_t a64_regs[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16,
                                   17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33};
static const uint8_t arm_regs[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, ORIG};
static const uint8_t rv_regs[] = {32, 1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                  16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

static const uint8_t *reg_list(unsigned *n)
{
    switch (lx_proc.arch->elf_machine) {
    case EM_X86_64:
        *n = ARRAY_LEN(x64_regs);
        return x64_regs;
    case EM_386:
        *n = ARRAY_LEN(x86_regs);
        return x86_regs;
    case EM_AARCH64:
        *n = ARRAY_LEN(a64_regs);
        return a64_regs;
    case EM_ARM:
        *n = ARRAY_LEN(arm_regs);
        return arm_regs;
    default:
        *n = ARRAY_LEN(rv_regs);
        return rv_regs;
    }
}

static uint64_t orig_value(const struct lx_thread *t)
{
    if (t->trace.op)
        return lx_proc.arch->elf_machine == EM_ARM ? t->trace.args[0] : t->trace.nr;
    return ~UINT64_C(0);
}

static void regs_out(struct lx_thread *t)
{
    unsigned n, w = lx_proc.arch->word;
    const uint8_t *list = reg_list(&n);

    memset(t->trace.gp, 0, sizeof t->trace.gp);
    for (unsigned i = 0; i < n; i++) {
        uint8_t b[64] = {0};
        uint64_t v;

        if (list[i] < ORIG)
            lx_proc.arch->gdb_get(t->cpu, list[i], b);
        v = list[i] < ORIG    ? get_le64(b)
            : list[i] == ORIG ? orig_value(t)
            : list[i] == FSB  ? lx_proc.arch->get(t->cpu, LX_TLS)
                              : 0;
        memcpy(t->trace.gp + i * w, &v, w);
    }
    t->trace.gp_len = n * w;
    t->trace.fp_len = lx_proc.arch->fp_get(t->cpu, t->trace.fp);
}

static void regs_in(struct lx_thread *t)
{
    unsigned n, w = lx_proc.arch->word;
    const uint8_t *list = reg_list(&n);

    for (unsigned i = 0; i < n; i++) {
        uint8_t b[64] = {0};

        memcpy(b, t->trace.gp + i * w, w);
        if (list[i] < ORIG)
            lx_proc.arch->gdb_set(t->cpu, list[i], b);
        else if (list[i] == ORIG && t->trace.op == PTRACE_SYSCALL_INFO_ENTRY && lx_proc.arch->elf_machine != EM_ARM)
            lx_proc.arch->set(t->cpu, LX_SYSNO, get_le64(b));
    }
}

/* ---- the tracee ---- */

/* Stops in the kernel until the tracer lets us go on; the words are what settle() looks for, and si_errno: the words
 * stay in the registers for a while, where a signal of somebody else's may find them. */
static void stop_here(struct lx_trace *tr, int sig)
{
    const siginfo_t info = {.si_signo = sig, .si_code = SI_QUEUE, .si_errno = MAGIC_SIG | CMD_STOP};
    register uint64_t r12 __asm__("r12") = MAGIC_A;
    register uint64_t r13 __asm__("r13") = (uintptr_t)tr;
    register uint64_t r14 __asm__("r14") = MAGIC_B;
    long r = SYS_rt_tgsigqueueinfo, pid = getpid(), tid = gettid(), s = sig;
    register const siginfo_t *r10 __asm__("r10") = &info; /* behind the calls */

    __asm__ volatile("syscall"
                     : "+a"(r)
                     : "D"(pid), "S"(tid), "d"(s), "r"(r10), "r"(r12), "r"(r13), "r"(r14)
                     : "rcx", "r11", "memory");
}

static void forget_changed(struct lx_trace *tr)
{
    if (tr->nr_changed > LX_TRACE_CHANGED)
        lx_rt_code_changed(lx_proc.rt, 0, UINT64_C(1) << 47);
    else
        for (unsigned i = 0; i < tr->nr_changed; i++)
            lx_rt_code_changed(lx_proc.rt, tr->changed[i].at, tr->changed[i].len);
    tr->nr_changed = 0;
}

/* One stop the guest's tracer sees. */
static void stop(struct lx_thread *t, int status, const siginfo_t *info)
{
    struct lx_trace *tr = &t->trace;

    tr->size = sizeof *tr;
    tr->status = status;
    tr->info = *info;
    tr->word = lx_proc.arch->word;
    tr->machine = lx_proc.arch->elf_machine;
    tr->audit_arch = tr->machine | (tr->word == 4 ? 0u : 0x80000000u) | 0x40000000u;
    tr->ip = lx_proc.arch->get(t->cpu, LX_PC);
    tr->sp = lx_proc.arch->get(t->cpu, LX_SP);
    tr->exe = (uintptr_t)lx_proc.exe;
    tr->auxv = lx_proc.auxv;
    tr->auxv_len = lx_proc.auxv_len;
    tr->gp_set = tr->fp_set = false;
    tr->how = -1;
    tr->sig = 0;
    regs_out(t);
    tr->in_stop = true;
    stop_here(tr, SIGTRAP);
    tr->in_stop = false;
    if (tr->how < 0) { /* nobody let us go on: the tracer has gone */
        tr->on = false;
        tr->how = LX_TRACE_DETACH;
    }
    if (tr->gp_set)
        regs_in(t);
    if (tr->fp_set)
        lx_proc.arch->fp_set(t->cpu, tr->fp);
    forget_changed(tr);
    if (tr->how == LX_TRACE_DETACH)
        tr->on = false;
    if (tr->how == LX_TRACE_STEP || tr->nr_hw)
        lx_rt_single(t->cpu->rt);
    lx_trace_hw_begin(t);
}

static siginfo_t trap_info(int code)
{
    siginfo_t i = {.si_signo = SIGTRAP, .si_code = code};

    i.si_pid = getpid();
    i.si_uid = getuid();
    return i;
}

void lx_trace_again(struct lx_thread *t)
{
    lx_proc.arch->sys_restart(t->cpu);
    lx_proc.arch->set(t->cpu, LX_SYSNO, t->trace.restart_nr); /* x86's result is there by now */
}

int lx_trace_signal(struct lx_thread *t, int sig, siginfo_t *info)
{
    bool stops = sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
    siginfo_t i = trap_info(SI_USER);

    t->trace.op = 0;
    if (t->trace.interrupt) {
        t->trace.interrupt = false;
        t->trace.group = true;
        stop(t, SIGTRAP << 8 | SIG_EVENT_STOP << 8, &i);
        t->trace.group = false;
        t->trace.sig = 0;
    } else {
        stop(t, sig << 8, info);
    }
    if (t->trace.sig != sig && t->trace.sig) {
        memset(info, 0, sizeof *info);
        info->si_signo = t->trace.sig;
        info->si_pid = getpid();
    }
    sig = t->trace.sig;
    if (t->trace.on && sig && stops && t->act->a[sig].handler == 0) {
        t->trace.group = true;
        stop(t, sig << 8 | (t->trace.seized ? SIG_EVENT_STOP << 8 : 0), &i);
        t->trace.group = false;
        sig = 0;
    }
    if (!sig && t->trace.restart)
        lx_trace_again(t);
    t->trace.restart = false;
    return sig;
}

void lx_trace_syscall(struct lx_thread *t, bool entry, uint64_t nr, const uint64_t *a, int64_t ret)
{
    bool good = t->trace.options & PTRACE_O_TRACESYSGOOD;
    siginfo_t i = trap_info(good ? SIGTRAP | 0x80 : SIGTRAP);

    t->trace.op = entry ? PTRACE_SYSCALL_INFO_ENTRY : PTRACE_SYSCALL_INFO_EXIT;
    t->trace.nr = nr;
    memcpy(t->trace.args, a, sizeof t->trace.args);
    t->trace.ret = ret;
    stop(t, (good ? SIGTRAP | 0x80 : SIGTRAP) << 8, &i);
    t->trace.op = 0;
}

static uint32_t event_option(unsigned event)
{
    return event ? 1u << event : 0;
}

unsigned lx_trace_clone_event(uint64_t flags, int exit_signal)
{
    return flags & 0x4000 /* CLONE_VFORK */ ? PTRACE_EVENT_VFORK
           : exit_signal == SIGCHLD         ? PTRACE_EVENT_FORK
                                            : PTRACE_EVENT_CLONE;
}

void lx_trace_event(struct lx_thread *t, unsigned event, uint64_t msg)
{
    siginfo_t i = trap_info((int)(SIGTRAP | event << 8));

    if (!t->trace.on || !(t->trace.options & event_option(event)))
        return;
    t->trace.msg = msg;
    t->trace.op = 0;
    stop(t, (int)(SIGTRAP << 8 | event << 16), &i);
}

void lx_trace_born(struct lx_thread *t, const struct lx_trace *parent, unsigned event)
{
    siginfo_t i = trap_info(SI_USER);
    uint32_t options = parent->options;
    bool on = parent->on && options & event_option(event), seized = parent->seized;

    memset(&t->trace, 0, sizeof t->trace);
    if (!on)
        return;
    lx_direct_off();
    t->trace.on = true;
    t->trace.options = options;
    t->trace.seized = seized;
    t->trace.group = seized;
    t->trace.fresh = event != PTRACE_EVENT_CLONE && event != PTRACE_EVENT_VFORK; /* those do not come back to it */
    i.si_signo = SIGSTOP;
    stop(t, seized ? SIGTRAP << 8 | SIG_EVENT_STOP << 8 : SIGSTOP << 8, &i);
    t->trace.group = false;
}

char *lx_trace_carry(const struct lx_thread *t)
{
    return t->trace.on ? xasprintf("%x,%d,%d", t->trace.options, t->trace.seized, t->trace.how) : NULL;
}

void lx_trace_executed(struct lx_thread *t, const char *text)
{
    struct lx_trace *tr = &t->trace;
    siginfo_t i = trap_info(SI_USER);
    int seized, how;

    if (sscanf(text, "%x,%d,%d", &tr->options, &seized, &how) != 3)
        return;
    tr->on = true;
    tr->seized = seized;
    tr->how = how;
    if (tr->options & PTRACE_O_TRACEEXEC) {
        lx_trace_event(t, PTRACE_EVENT_EXEC, (uint64_t)t->tid);
    } else if (!seized) {
        stop(t, SIGTRAP << 8, &i);
    }
    if (tr->on && tr->how == LX_TRACE_SYSCALL) {
        uint64_t none[6] = {0};

        lx_trace_syscall(t, false, 0, none, 0);
    }
}

static void trapped(struct lx_thread *t, siginfo_t *i, uint64_t addr)
{
    t->trace.op = 0;
    i->si_addr = (void *)(uintptr_t)addr;
    stop(t, SIGTRAP << 8, i);
    if (t->trace.sig)
        lx_signal_force(t, t->trace.sig, TRAP_TRACE, 0);
}

void lx_trace_stepped(struct lx_thread *t)
{
    siginfo_t i = trap_info(TRAP_TRACE);
    uint64_t addr;

    if (lx_trace_hw_met(t, true, &addr))
        i.si_code = TRAP_HWBKPT;
    else
        addr = lx_proc.arch->get(t->cpu, LX_PC);
    trapped(t, &i, addr);
}

bool lx_trace_point(struct lx_thread *t)
{
    siginfo_t i = trap_info(TRAP_HWBKPT);
    uint64_t addr;

    if (!lx_trace_hw_met(t, false, &addr))
        return false;
    trapped(t, &i, addr);
    return true;
}

int lx_trace_arrived(struct lx_thread *t, siginfo_t *info)
{
    int what = info->si_errno & 0xffff;

    if ((info->si_errno & ~0xffff) != MAGIC_SIG)
        return 0;
    if (what == CMD_STOP)
        return -1; /* our own: the tracer went away before it let us go on */
    info->si_errno = 0;
    if (what == CMD_ATTACH || what == CMD_SEIZE) {
        lx_direct_off();
        t->trace.on = true;
        t->trace.seized = what == CMD_SEIZE;
        t->trace.options = (uint32_t)info->si_value.sival_int;
        if (what == CMD_SEIZE)
            return -1;
        memset(info, 0, sizeof *info);
        what = SIGSTOP;
    } else if (what == CMD_INTERRUPT) {
        t->trace.interrupt = true;
        what = SIGTRAP;
    }
    info->si_signo = what;
    return what;
}

void lx_trace_die(struct lx_thread *t, int sig)
{
    t->trace.size = sizeof t->trace;
    t->trace.status = 0;
    stop_here(&t->trace, sig);
}

/* ---- the tracer ---- */

static struct tracee {
    pid_t tid;
    uint64_t at;   /* its struct lx_trace while it stands in a stop; 0: it runs */
    uint64_t last; /* the same after it went on; 0 from exec on */
    uint32_t options;
    bool told;          /* the host knows our options */
} tracees[MAX_TRACEES]; /* the tracing thread's; a process has one that traces, or their tracees differ */
static unsigned nr_tracees;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct tracee *find_locked(pid_t tid, bool make)
{
    for (unsigned i = 0; i < nr_tracees; i++)
        if (tracees[i].tid == tid)
            return &tracees[i];
    if (!make || nr_tracees == MAX_TRACEES)
        return NULL;
    lx_direct_off(); /* what is written to a tracee is looked at */
    tracees[nr_tracees] = (struct tracee){.tid = tid};
    return &tracees[nr_tracees++];
}

static void forget(pid_t tid)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < nr_tracees; i++)
        if (tracees[i].tid == tid) {
            tracees[i] = tracees[--nr_tracees];
            break;
        }
    pthread_mutex_unlock(&lock);
}

static long host(long req, pid_t tid, uint64_t addr, void *data)
{
    return syscall(SYS_ptrace, req, tid, addr, data);
}

static bool peer_copy(pid_t tid, uint64_t at, void *p, size_t n, bool set)
{
    struct iovec mine = {p, n}, theirs = {(void *)(uintptr_t)at, n};

    return (set ? process_vm_writev : process_vm_readv)(tid, &mine, 1, &theirs, 1, 0) == (ssize_t)n;
}

static void tell_options(pid_t tid, uint32_t options)
{
    uint32_t o = PTRACE_O_TRACEEXEC |
                 (options & (PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL));

    host(PTRACE_SETOPTIONS, tid, 0, (void *)(uintptr_t)o);
}

/* A signal on its way to the tracee: handed on in the form its handler understands. */
static void pass_signal(pid_t tid, int sig, bool first)
{
    siginfo_t i = {0};

    if (host(PTRACE_GETSIGINFO, tid, 0, &i) < 0) { /* a group stop */
        host(PTRACE_CONT, tid, 0, NULL);
        return;
    }
    if (sig == SIGTRAP && first && i.si_code <= 0 && !i.si_errno)
        sig = 0; /* the first exec of one that asked to be traced */
    if (sig == SIGSTOP && first && i.si_code == SI_USER && !i.si_pid)
        sig = 0; /* the kernel's, at the birth of one whose parent has not told of it yet */
    if (sig && sig != SIGSEGV && sig != SIGBUS && sig != SIGFPE && sig != SIGILL && sig != SIGTRAP) {
        i.si_errno = MAGIC_SIG | sig;
        i.si_signo = sig = SIGTRAP;
        host(PTRACE_SETSIGINFO, tid, 0, &i);
    }
    host(PTRACE_CONT, tid, 0, (void *)(intptr_t)sig);
}

static void pass_event(pid_t tid, unsigned event)
{
    unsigned long child = 0;
    struct tracee *n;

    if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
        host(PTRACE_GETEVENTMSG, tid, 0, &child);
        pthread_mutex_lock(&lock);
        n = child ? find_locked((pid_t)child, false) : NULL;
        if (!n && child && (n = find_locked((pid_t)child, true)))
            n->told = true; /* its first stop of the host's is taken here */
        else
            child = 0;
        pthread_mutex_unlock(&lock);
        if (child && syscall(SYS_wait4, (int)child, NULL, __WALL, NULL) == (long)child)
            host(PTRACE_CONT, (pid_t)child, 0, NULL);
    }
    host(PTRACE_CONT, tid, 0, NULL);
}

/* The tracee stopped itself. */
static bool own_stop(pid_t tid, const struct user_regs_struct *r)
{
    siginfo_t i;

    return r->r12 == MAGIC_A && r->r14 == MAGIC_B && !host(PTRACE_GETSIGINFO, tid, 0, &i) &&
           i.si_errno == (MAGIC_SIG | CMD_STOP);
}

/* A stop of the host's: true when the guest is to see it, as *status; else the tracee runs again. */
static bool settle(pid_t tid, int *status)
{
    struct user_regs_struct r;
    struct lx_trace tr;
    unsigned event = (unsigned)*status >> 16;
    struct tracee *n;
    bool first;

    if (host(PTRACE_GETREGS, tid, 0, &r) < 0)
        return true; /* a child that is not traced */
    pthread_mutex_lock(&lock);
    n = find_locked(tid, true);
    first = n && !n->told;
    pthread_mutex_unlock(&lock);
    if (!event && own_stop(tid, &r) && peer_copy(tid, r.r13, &tr, sizeof tr, false) && tr.size == sizeof tr) {
        if (!tr.status) {
            host(PTRACE_CONT, tid, 0, (void *)(intptr_t)WSTOPSIG(*status));
            return false;
        }
        pthread_mutex_lock(&lock);
        n = find_locked(tid, true);
        if (n) {
            n->at = n->last = r.r13;
            n->told = true;
        }
        pthread_mutex_unlock(&lock);
        if (first)
            tell_options(tid, tr.options);
        *status = tr.status | 0x7f;
        return n;
    }
    if (event == PTRACE_EVENT_EXEC && n)
        n->last = 0;
    if (event)
        pass_event(tid, event);
    else
        pass_signal(tid, WSTOPSIG(*status), first);
    return false;
}

/* wait4 or waitid; pid: whom it has found. A signal that comes before the call does not keep it from what is there
 * already, as in the kernel: a parent is told of its child, then of SIGCHLD. */
static int64_t wait_now_or_later(struct lx_thread *t, long nr, const uint64_t arg[6], const pid_t *pid)
{
    unsigned options = nr == SYS_waitid ? 3 : 2;
    int64_t r = lx_safe_syscall(t, nr, arg);
    uint64_t now[6];

    if (r != -LX_ERESTART)
        return r;
    memcpy(now, arg, sizeof now);
    now[options] |= WNOHANG;
    r = syscall(nr, now[0], now[1], now[2], now[3], now[4]);
    if (r < 0)
        return -errno;
    return r || *pid || arg[options] & WNOHANG ? r : -LX_ERESTART;
}

static int64_t wait4_shown(struct lx_thread *t, const uint64_t a[6], int *status)
{
    uint64_t arg[6] = {a[0], (uintptr_t)status, a[2], a[3]};
    const pid_t nobody = 0;
    int64_t r;

    for (;;) {
        r = wait_now_or_later(t, SYS_wait4, arg, &nobody);
        if (r <= 0)
            return r;
        if (!WIFSTOPPED(*status)) {
            if (nr_tracees && (WIFEXITED(*status) || WIFSIGNALED(*status)))
                forget((pid_t)r);
            return r;
        }
        if (settle((pid_t)r, status))
            return r;
    }
}

static int64_t waitid_shown(struct lx_thread *t, const uint64_t a[6])
{
    siginfo_t *i = (siginfo_t *)(uintptr_t)a[2], own;
    uint64_t arg[6];
    int64_t r;

    memcpy(arg, a, sizeof arg);
    arg[2] = (uintptr_t)&own;
    for (;;) {
        int status;

        memset(&own, 0, sizeof own);
        r = wait_now_or_later(t, SYS_waitid, arg, &own.si_pid);
        status = own.si_status << 8 | 0x7f;
        if (r < 0 || (own.si_code != CLD_TRAPPED && own.si_code != CLD_STOPPED) || a[3] & WNOWAIT ||
            settle(own.si_pid, &status))
            break;
    }
    if (r >= 0 && nr_tracees && (own.si_code == CLD_EXITED || own.si_code == CLD_KILLED || own.si_code == CLD_DUMPED))
        forget(own.si_pid);
    if (r >= 0 && i)
        memcpy(i, &own, sizeof own);
    return r;
}

int64_t lx_trace_wait(struct lx_thread *t, long nr, const uint64_t a[6])
{
    return nr == SYS_waitid ? waitid_shown(t, a) : wait4_shown(t, a, (int *)(uintptr_t)a[1]);
}

int64_t lx_sys_wait4(struct lx_thread *t, const uint64_t *a)
{
    struct rusage u;
    uint64_t arg[6] = {a[0], 0, a[2], a[3] ? (uintptr_t)&u : 0};
    int status = 0;
    int64_t r = wait4_shown(t, arg, &status);

    if (r > 0 && ((a[1] && !lx_put(a[1], &status, 4)) || (a[3] && !lx_put(a[3], &u, sizeof u))))
        return -EFAULT;
    return r;
}

int64_t lx_sys_waitid(struct lx_thread *t, const uint64_t *a)
{
    siginfo_t info = {0};
    struct rusage u;
    uint64_t arg[6] = {a[0], a[1], (uintptr_t)&info, a[3], a[4] ? (uintptr_t)&u : 0};
    int64_t r = waitid_shown(t, arg);

    if (r >= 0 && ((a[2] && !lx_put(a[2], &info, sizeof info)) || (a[4] && !lx_put(a[4], &u, sizeof u))))
        return -EFAULT;
    return r;
}

static void note_changed(struct lx_trace *tr, uint64_t at, uint64_t len)
{
    if (tr->nr_changed < LX_TRACE_CHANGED) {
        tr->changed[tr->nr_changed].at = at;
        tr->changed[tr->nr_changed].len = len;
    }
    tr->nr_changed++;
}

bool lx_trace_proc(int pid, const char *what, struct strbuf *out)
{
    struct lx_trace tr;
    struct tracee *n;
    uint64_t at;
    char buf[4096];
    size_t len;

    pthread_mutex_lock(&lock);
    n = find_locked(pid, false);
    at = n ? n->last : 0;
    pthread_mutex_unlock(&lock);
    if (!at || !peer_copy(pid, at, &tr, sizeof tr, false) || tr.size != sizeof tr)
        return false;
    if (strcmp(what, "exe")) {
        len = min_u64(tr.auxv_len, sizeof buf);
        if (!peer_copy(pid, tr.auxv, buf, len, false))
            return false;
        str_addn(out, buf, len);
        return true;
    }
    for (len = 0; len < PATH_MAX && peer_copy(pid, tr.exe + len, buf, 1, false) && *buf; len++)
        str_addn(out, buf, 1);
    return len;
}

bool lx_tracing(void)
{
    return nr_tracees;
}

void lx_trace_wrote(int fd, uint64_t off, uint64_t len)
{
    char link[64], path[128];
    struct lx_trace tr;
    int pid;
    ssize_t n;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return;
    path[n] = 0;
    if (sscanf(path, "/proc/%d/", &pid) != 1 || n < 4 || strcmp(path + n - 4, "/mem"))
        return;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < nr_tracees; i++)
        if (tracees[i].at && peer_copy(tracees[i].tid, tracees[i].at, &tr, sizeof tr, false)) {
            note_changed(&tr, off, len);
            peer_copy(tracees[i].tid, tracees[i].at, &tr, sizeof tr, true);
        }
    pthread_mutex_unlock(&lock);
}

/* ---- requests ---- */

static int64_t peek(pid_t tid, uint64_t at, uint64_t to)
{
    uint64_t v = 0;

    if (!peer_copy(tid, at, &v, lx_proc.arch->word, false))
        return -EIO;
    return lx_put(to, &v, lx_proc.arch->word) ? 0 : -EFAULT;
}

/* By the host's ptrace: it writes where the tracee may not. */
static int64_t poke(pid_t tid, struct lx_trace *tr, uint64_t at, uint64_t v)
{
    unsigned w = lx_proc.arch->word;
    uint64_t old = 0, base = at & ~UINT64_C(7);

    if (w == 4) {
        if (!peer_copy(tid, base, &old, 8, false) || at & 3)
            return -EIO;
        memcpy((uint8_t *)&old + (at & 7), &v, 4);
        v = old;
    } else {
        base = at;
    }
    if (host(PTRACE_POKEDATA, tid, base, (void *)(uintptr_t)v) < 0)
        return -errno;
    note_changed(tr, at, w);
    return 0;
}

/* The set of registers of an ELF note type; NULL: there is none. */
static uint8_t *find_set(struct lx_trace *tr, uint64_t which, uint64_t *len)
{
    static const struct {
        unsigned machine, note, len; /* len 0: all of it */
    } sets[] = {{EM_X86_64, NT_PRFPREG, 512}, {EM_X86_64, NT_X86_XSTATE, 0}, {EM_386, NT_PRXFPREG, 512},
                {EM_386, NT_X86_XSTATE, 0},   {EM_AARCH64, NT_PRFPREG, 0},   {EM_ARM, NT_ARM_VFP, 0},
                {EM_RISCV, NT_PRFPREG, 0}};

    *len = tr->gp_len;
    if (which == NT_PRSTATUS)
        return tr->gp;
    for (unsigned i = 0; i < ARRAY_LEN(sets); i++)
        if (sets[i].machine == tr->machine && sets[i].note == which) {
            *len = sets[i].len ? sets[i].len : tr->fp_len;
            return which == NT_X86_XSTATE && tr->fp_len <= 512 ? NULL : tr->fp;
        }
    return NULL;
}

/* Between a set and memory of the tracer's. */
static int64_t copy_set(struct lx_trace *tr, uint8_t *regs, uint64_t at, uint64_t len, bool set)
{
    if (!set)
        return lx_put(at, regs, len) ? 0 : -EFAULT;
    if (!lx_get(regs, at, len))
        return -EFAULT;
    *(regs == tr->gp ? &tr->gp_set : &tr->fp_set) = true;
    return 0;
}

static int64_t regset(struct lx_trace *tr, uint64_t which, uint64_t iov_at, bool set)
{
    unsigned w = lx_proc.arch->word;
    uint64_t base, len, size;
    uint8_t *regs = find_set(tr, (uint32_t)which, &size);
    int64_t r;

    if (!lx_get_word(iov_at, &base) || !lx_get_word(iov_at + w, &len))
        return -EFAULT;
    if (!regs && lx_trace_hw_set(tr, (uint32_t)which, base, &len, set, &r))
        return r ? r : lx_put_word(iov_at + w, len) ? 0 : -EFAULT;
    if (!regs)
        return -EINVAL;
    len = min_u64(len, size);
    r = copy_set(tr, regs, base, len, set);
    return r ? r : lx_put_word(iov_at + w, len) ? 0 : -EFAULT;
}

/* PTRACE_GETREGS and its like: a whole set. */
static int64_t whole_set(struct lx_trace *tr, uint64_t which, uint64_t at, bool set)
{
    uint64_t size;
    uint8_t *regs = find_set(tr, which, &size);

    return regs ? copy_set(tr, regs, at, size, set) : -EIO;
}

static int64_t syscall_info(const struct lx_trace *tr, uint64_t size, uint64_t to)
{
    struct ptrace_syscall_info i = {
        .op = (uint8_t)tr->op, .arch = tr->audit_arch, .instruction_pointer = tr->ip, .stack_pointer = tr->sp};
    uint64_t n = 24;

    if (tr->op == PTRACE_SYSCALL_INFO_ENTRY) {
        i.entry.nr = tr->nr;
        for (unsigned k = 0; k < 6; k++)
            i.entry.args[k] = tr->args[k];
        n = 80;
    } else if (tr->op == PTRACE_SYSCALL_INFO_EXIT) {
        i.exit.rval = tr->ret;
        i.exit.is_error = tr->ret < 0 && tr->ret >= -4095;
        n = 33;
    }
    return lx_put(to, &i, min_u64(size, n)) ? (int64_t)n : -EFAULT;
}

static int64_t resume(pid_t tid, uint64_t at, struct lx_trace *tr, int how, uint64_t sig)
{
    struct tracee *n;

    if (sig > LX_NSIG)
        return -EIO;
    tr->how = how;
    tr->sig = (int)sig;
    if (!peer_copy(tid, at, tr, sizeof *tr, true))
        return -ESRCH;
    pthread_mutex_lock(&lock);
    n = find_locked(tid, false);
    if (n)
        n->at = 0;
    pthread_mutex_unlock(&lock);
    if (how == LX_TRACE_DETACH)
        forget(tid);
    return host(how == LX_TRACE_DETACH ? PTRACE_DETACH : PTRACE_CONT, tid, 0, NULL) < 0 ? -errno : 0;
}

static int64_t peekuser(const struct lx_trace *tr, uint64_t off, uint64_t to)
{
    uint64_t v = 0;

    if (off % lx_proc.arch->word)
        return -EIO;
    if (!lx_trace_hw_peek(tr, off, &v) && off + lx_proc.arch->word <= tr->gp_len)
        memcpy(&v, tr->gp + off, lx_proc.arch->word);
    return lx_put(to, &v, lx_proc.arch->word) ? 0 : -EFAULT;
}

static int64_t pokeuser(struct lx_trace *tr, uint64_t off, uint64_t v)
{
    int64_t r;

    if (off % lx_proc.arch->word)
        return -EIO;
    if (lx_trace_hw_poke(tr, off, v, &r))
        return r;
    if (off + lx_proc.arch->word > tr->gp_len)
        return v ? -EIO : 0;
    memcpy(tr->gp + off, &v, lx_proc.arch->word);
    tr->gp_set = true;
    return 0;
}

static int64_t siginfo_get(const struct lx_trace *tr, uint64_t to)
{
    uint8_t out[128];

    if (tr->group && !tr->seized)
        return -EINVAL;
    lx_siginfo_out(out, &tr->info, lx_proc.arch->word);
    return lx_put(to, out, sizeof out) ? 0 : -EFAULT;
}

/* Requests on a stopped tracee; *wrote: the structure goes back. */
static int64_t stopped(pid_t tid, uint64_t at, struct lx_trace *tr, const uint64_t *a, bool *wrote)
{
    uint64_t mask = 0;

    switch ((int)a[0]) {
    case PTRACE_PEEKTEXT:
    case PTRACE_PEEKDATA:
        return peek(tid, a[2], a[3]);
    case PTRACE_POKETEXT:
    case PTRACE_POKEDATA:
        *wrote = true;
        return poke(tid, tr, a[2], a[3]);
    case PTRACE_PEEKUSR:
        return peekuser(tr, a[2], a[3]);
    case PTRACE_POKEUSR:
        *wrote = true;
        return pokeuser(tr, a[2], a[3]);
    case PTRACE_GETREGS:
    case PTRACE_SETREGS:
        *wrote = (int)a[0] == PTRACE_SETREGS;
        return whole_set(tr, NT_PRSTATUS, a[3], *wrote);
    case PTRACE_GETFPREGS:
    case PTRACE_SETFPREGS:
        *wrote = (int)a[0] == PTRACE_SETFPREGS;
        return whole_set(tr, NT_PRFPREG, a[3], *wrote);
    case PTRACE_GETFPXREGS:
    case PTRACE_SETFPXREGS:
        *wrote = (int)a[0] == PTRACE_SETFPXREGS;
        return whole_set(tr, NT_PRXFPREG, a[3], *wrote);
    case GETVFPREGS:
    case SETVFPREGS:
        *wrote = (int)a[0] == SETVFPREGS;
        return whole_set(tr, NT_ARM_VFP, a[3], *wrote);
    case PTRACE_GETREGSET:
    case PTRACE_SETREGSET:
        *wrote = (int)a[0] == PTRACE_SETREGSET;
        return regset(tr, a[2], a[3], *wrote);
    case PTRACE_GETSIGINFO:
        return siginfo_get(tr, a[3]);
    case PTRACE_GETEVENTMSG:
        return lx_put_word(a[3], tr->msg) ? 0 : -EFAULT;
    case PTRACE_GETSIGMASK:
        return lx_put(a[3], &mask, 8) ? 0 : -EFAULT;
    case PTRACE_GET_SYSCALL_INFO:
        return syscall_info(tr, a[2], a[3]);
    case PTRACE_SETOPTIONS:
        tr->options = (uint32_t)a[3];
        *wrote = true;
        tell_options(tid, tr->options);
        return 0;
    case PTRACE_CONT:
        return resume(tid, at, tr, LX_TRACE_CONT, a[3]);
    case PTRACE_LISTEN:
        return resume(tid, at, tr, LX_TRACE_CONT, 0);
    case PTRACE_SYSCALL:
        return resume(tid, at, tr, LX_TRACE_SYSCALL, a[3]);
    case PTRACE_SINGLESTEP:
        return resume(tid, at, tr, LX_TRACE_STEP, a[3]);
    case PTRACE_DETACH:
        return resume(tid, at, tr, LX_TRACE_DETACH, a[3]);
    default:
        return -EIO;
    }
}

static int64_t command(pid_t tid, int cmd, uint32_t options)
{
    siginfo_t i = {.si_signo = SIGTRAP, .si_code = SI_QUEUE, .si_errno = MAGIC_SIG | cmd};
    char path[64], line[256];
    int tgid = tid;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "Tgid: %d", &tgid) != 1)
        ;
    if (f)
        fclose(f);
    i.si_value.sival_int = (int)options;
    i.si_pid = getpid();
    return syscall(SYS_rt_tgsigqueueinfo, tgid, tid, SIGTRAP, &i) < 0 ? -errno : 0;
}

int64_t lx_trace_hand(pid_t tid, int sig)
{
    return command(tid, sig, 0);
}

/* The tracee must be one of ours: SIGTRAP would end another. */
static bool emulated(pid_t tid)
{
    char path[64];
    struct stat ours, its;

    snprintf(path, sizeof path, "/proc/%d/exe", (int)tid);
    return !stat("/proc/self/exe", &ours) && !stat(path, &its) && ours.st_dev == its.st_dev &&
           ours.st_ino == its.st_ino;
}

static int64_t attach(pid_t tid, bool seize, uint32_t options)
{
    struct tracee *n;
    int status;
    int64_t r;

    if (lx_sharing_keeper(tid))
        return -ESRCH;
    if (!emulated(tid))
        return kill(tid, 0) < 0 && errno == ESRCH ? -ESRCH : -EPERM;
    if (host(PTRACE_SEIZE, tid, 0, (void *)(uintptr_t)PTRACE_O_TRACEEXEC) < 0)
        return -errno;
    pthread_mutex_lock(&lock);
    n = find_locked(tid, true);
    if (n)
        n->told = false;
    pthread_mutex_unlock(&lock);
    r = n ? command(tid, seize ? CMD_SEIZE : CMD_ATTACH, options) : -ENOMEM;
    /* Its memory is ours (share.c): while the host holds it for that signal, it may hold a lock we need to go on. */
    if (!r && lx_self->lodging && syscall(SYS_wait4, tid, &status, __WALL, NULL) == tid && WIFSTOPPED(status))
        settle(tid, &status);
    return r;
}

int64_t lx_sys_ptrace(struct lx_thread *t, const uint64_t *a)
{
    pid_t tid = (pid_t)a[1];
    struct lx_trace tr;
    bool wrote = false;
    struct tracee *n;
    uint64_t at;
    int64_t r;

    switch ((int)a[0]) {
    case PTRACE_TRACEME:
        if (t->trace.on || host(PTRACE_TRACEME, 0, 0, NULL) < 0)
            return -EPERM;
        lx_direct_off();
        t->trace.on = true;
        t->trace.how = LX_TRACE_CONT;
        return 0;
    case PTRACE_ATTACH:
    case PTRACE_SEIZE:
        return attach(tid, (int)a[0] == PTRACE_SEIZE, (uint32_t)a[3]);
    case PTRACE_KILL:
        return kill(tid, SIGKILL) < 0 ? -errno : 0;
    case PTRACE_INTERRUPT:
        return command(tid, CMD_INTERRUPT, 0);
    default:
        break;
    }
    pthread_mutex_lock(&lock);
    n = find_locked(tid, false);
    at = n ? n->at : 0;
    pthread_mutex_unlock(&lock);
    if (!at || !peer_copy(tid, at, &tr, sizeof tr, false))
        return -ESRCH;
    r = stopped(tid, at, &tr, a, &wrote);
    if (wrote && r >= 0 && !peer_copy(tid, at, &tr, sizeof tr, true))
        return -ESRCH;
    return r;
}
