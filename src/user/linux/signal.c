/* Signals: the host's come in, the guest's frames go out. Read thread.h first.
 *
 * Life of one: the kernel picks a thread and runs on_signal; it notes the signal, blocks all others for the thread and
 * makes translated code stop; the run loop calls lx_signals_deliver, which asks the architecture for a frame and lets
 * the host's signals in again. A system call is made in lx_safe_syscall, so that a signal either comes before it (it is
 * then not made, and made again after the handler) or interrupts it as on the real kernel. */
#include "base/log.h"
#include "base/util.h"
#include "user/linux/guard.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(sig)  (UINT64_C(1) << ((sig)-1))
#define SYNC_BITS (BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP))
#define CANNOT    (BIT(SIGKILL) | BIT(SIGSTOP))
enum { HOST_PF = 14 };

struct ksigaction {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

void lx_sigreturn_stub(void);
extern const char lx_safe_start[], lx_safe_end[], lx_safe_abort[];
int64_t lx_safe_syscall_asm(_Atomic int *pending, long nr, const uint64_t *a);

/* rbx: &pending. A signal taken between start and end (the call not yet made, or to be restarted) continues at abort.
 */
__asm__(".text\n"
        ".globl lx_sigreturn_stub\n"
        "lx_sigreturn_stub:\n"
        "  mov $15, %eax\n"
        "  syscall\n"
        ".globl lx_safe_syscall_asm, lx_safe_start, lx_safe_end, lx_safe_abort\n"
        "lx_safe_syscall_asm:\n"
        "  push %rbx\n"
        "  mov %rdi, %rbx\n"
        "  mov %rsi, %rax\n"
        "  mov %rdx, %r11\n"
        "  mov 0(%r11), %rdi\n"
        "  mov 8(%r11), %rsi\n"
        "  mov 16(%r11), %rdx\n"
        "  mov 24(%r11), %r10\n"
        "  mov 32(%r11), %r8\n"
        "  mov 40(%r11), %r9\n"
        "lx_safe_start:\n"
        "  cmpl $0, (%rbx)\n"
        "  jne lx_safe_abort\n"
        "  syscall\n"
        "lx_safe_end:\n"
        "  pop %rbx\n"
        "  ret\n"
        "lx_safe_abort:\n"
        "  mov $-512, %rax\n"
        "  pop %rbx\n"
        "  ret\n");

int64_t lx_safe_syscall(struct lx_thread *t, long nr, const uint64_t a[6])
{
    return lx_safe_syscall_asm(&t->pending, nr, a);
}

static void set_host_mask(uint64_t mask)
{
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
}

void lx_host_mask(struct lx_thread *t)
{
    if (!t->pending)
        set_host_mask(t->mask & ~SYNC_BITS);
}

void lx_signals_block(sigset_t *old)
{
    uint64_t all = ~SYNC_BITS;
    sigset_t set;

    sigemptyset(&set);
    memcpy(&set, &all, 8);
    pthread_sigmask(SIG_SETMASK, &set, old);
}

/* ---- the host's handlers ---- */

static void note(struct lx_thread *t, int sig, const siginfo_t *info, ucontext_t *uc)
{
    uint64_t all = ~SYNC_BITS;
    uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];

    t->info = *info;
    t->pending = sig;
    memcpy(&uc->uc_sigmask, &all, 8);
    if (rip >= (uintptr_t)lx_safe_start && rip < (uintptr_t)lx_safe_end)
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)lx_safe_abort;
    lx_rt_interrupt(t->cpu->rt, uc);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    struct lx_thread *t = lx_self;

    if (t && t->cpu && t->cpu->rt)
        note(t, sig, info, context);
}

/* A signal whose code says that it is the kernel's, and which no instruction caused: a child's end (clone may ask for
 * any signal), what the thread has queued for itself. Faults name the instruction or what it reached for. */
static bool sent(const siginfo_t *info, const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    const uint8_t *rip = (const uint8_t *)(uintptr_t)g[REG_RIP];
    uintptr_t addr = (uintptr_t)info->si_addr;

    if (info->si_code != SI_KERNEL && info->si_signo != SIGSEGV && info->si_signo != SIGBUS)
        return addr != (uintptr_t)rip;
    if (((uintptr_t)rip & 0xfff) >= 2 && rip[-2] == 0x0f && rip[-1] == 0x05)
        return true; /* on its way out of a call */
    if (info->si_code == SI_KERNEL)
        return false;
    return g[REG_TRAPNO] == HOST_PF ? addr != (uintptr_t)g[REG_CR2] : addr && addr != (uintptr_t)rip;
}

static void on_sync(int sig, siginfo_t *info, void *context)
{
    struct lx_thread *t = lx_self;
    int traced = t && sig == SIGTRAP && (info->si_errno || t->trace.in_stop) ? lx_trace_arrived(t, info) : 0;

    if (traced) {
        if (traced > 0 && t->cpu && t->cpu->rt)
            note(t, traced, info, context);
        return;
    }
    if (info->si_code > 0 && !sent(info, context)) {
        if (!lx_rt_host_fault(sig, info, context)) { /* ours: say so and die of it */
            static const char text[] = "lyrebird: internal fault in the translator\n";

            if (write(2, text, sizeof text - 1) >= 0)
                signal(sig, SIG_DFL);
            signal(sig, SIG_DFL);
        }
        return;
    }
    if (!t || !t->cpu)
        return;
    if (t->mask & BIT(sig) || t->pending) {
        t->pending_sync |= BIT(sig);
        t->sync_info[sig] = *info;
        lx_rt_interrupt(t->cpu->rt, context);
        return;
    }
    note(t, sig, info, context);
}

static int host_action(int sig, void (*h)(int, siginfo_t *, void *), unsigned long flags, uint64_t mask)
{
    struct ksigaction k = {
        .handler = h, .flags = flags | SA_RESTORER_HOST, .restorer = lx_sigreturn_stub, .mask = mask};

    return syscall(SYS_rt_sigaction, sig, &k, NULL, 8) < 0 ? -errno : 0;
}

/* What SIG_DFL does is to end the process, and not at once by a fault. */
static bool ends(int sig)
{
    return !(BIT(sig) & (SYNC_BITS | CANNOT | BIT(SIGCHLD) | BIT(SIGURG) | BIT(SIGWINCH) | BIT(SIGCONT) | BIT(SIGTSTP) |
                         BIT(SIGTTIN) | BIT(SIGTTOU)));
}

/* Makes the host's disposition follow the guest's. */
static int follow(int sig, const struct lx_action *a, bool gently)
{
    unsigned long keep = a->flags & (LX_SA_NOCLDSTOP | 2 /* NOCLDWAIT */ | LX_SA_RESTART);

    if (BIT(sig) & SYNC_BITS)
        return 0;
    if (a->handler == 1 || (a->handler == 0 && !(gently && ends(sig))))
        return host_action(sig, (void (*)(int, siginfo_t *, void *))(uintptr_t)a->handler, keep, 0);
    return host_action(sig, on_signal, keep | SA_SIGINFO | SA_ONSTACK, ~SYNC_BITS);
}

void lx_signals_gently(struct lx_thread *t)
{
    pthread_mutex_lock(&t->act->lock);
    for (int s = 1; s <= LX_NSIG; s++)
        if (t->act->a[s].handler == 0 && ends(s))
            follow(s, &t->act->a[s], true);
    pthread_mutex_unlock(&t->act->lock);
}

void lx_signals_init(struct lx_thread *t)
{
    struct ksigaction k;

    pthread_mutex_init(&t->act->lock, NULL);
    for (int s = 1; s <= LX_NSIG; s++)
        if (!syscall(SYS_rt_sigaction, s, NULL, &k, 8) && k.handler == (void (*)(int, siginfo_t *, void *))(uintptr_t)1)
            t->act->a[s].handler = 1;
    for (int s = 1; s <= LX_NSIG; s++)
        if (BIT(s) & SYNC_BITS)
            host_action(s, on_sync, SA_SIGINFO | SA_ONSTACK | SA_NODEFER, ~SYNC_BITS);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &t->mask, 8);
    set_host_mask(t->mask & ~SYNC_BITS);
}

void lx_die_by(int sig)
{
    uint64_t none = 0;

    host_action(sig, NULL, 0, 0);
    set_host_mask(none);
    if (lx_self && lx_self->trace.on)
        lx_trace_event(lx_self, PTRACE_EVENT_EXIT, (uint64_t)sig);
    if (lx_self && lx_self->trace.on)
        lx_trace_die(lx_self, sig);
    syscall(SYS_tgkill, getpid(), gettid(), sig);
    _exit(128 + sig);
}

/* ---- towards the guest ---- */

static void enter_handler(struct lx_thread *t, int sig, const siginfo_t *info, const struct lx_action *act)
{
    const struct lx_arch *ar = lx_proc.arch;
    uint64_t sp = ar->get(t->cpu, LX_SP);
    struct lx_sigframe f = {.sig = sig,
                            .info = info,
                            .handler = act->handler,
                            .restorer = act->flags & LX_SA_RESTORER ? act->restorer : 0,
                            .sa_flags = act->flags,
                            .mask = t->mask,
                            .sp = sp,
                            .alt_sp = t->alt.sp,
                            .alt_size = t->alt.size,
                            .alt_flags = t->alt.flags & SS_DISABLE};

    bool on_alt = t->alt.size && sp > t->alt.sp && sp <= t->alt.sp + t->alt.size;

    if (!t->alt.size)
        f.alt_flags = SS_DISABLE;
    else if (on_alt)
        f.alt_flags = SS_ONSTACK;
    if (act->flags & LX_SA_ONSTACK && t->alt.size && !on_alt) {
        f.sp = t->alt.sp + t->alt.size;
        f.on_alt = true;
    }
    if (!ar->frame_push(t->cpu, &f)) {
        if (sig == SIGSEGV)
            lx_die_by(SIGSEGV);
        lx_signal_force(t, SIGSEGV, SI_KERNEL, 0);
        return;
    }
    if (t->alt.flags & SS_AUTODISARM_BIT)
        t->alt.size = 0;
    t->mask |= act->mask | (act->flags & LX_SA_NODEFER ? 0 : BIT(sig));
    t->mask &= ~CANNOT;
}

static void take(struct lx_thread *t, int sig, const siginfo_t *given, bool forced)
{
    siginfo_t own = *given, *info = &own;
    struct lx_action act;

    if (unlikely(t->trace.on && sig != SIGKILL)) {
        sig = lx_trace_signal(t, sig, info);
        if (!sig)
            return;
    }
    pthread_mutex_lock(&t->act->lock);
    act = t->act->a[sig];
    if (act.flags & LX_SA_RESETHAND && act.handler > 1) {
        t->act->a[sig].handler = 0;
        follow(sig, &t->act->a[sig], t->act->gently);
    }
    pthread_mutex_unlock(&t->act->lock);
    if (lx_proc.opt.strace)
        lx_strace_signal(t, sig, info);
    if (act.handler > 1) {
        enter_handler(t, sig, info, &act);
        return;
    }
    if (act.handler == 1 && !forced)
        return;
    if (!forced && (sig == SIGCHLD || sig == SIGURG || sig == SIGWINCH || sig == SIGCONT))
        return;
    if (!forced && (sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU || sig == SIGSTOP)) {
        raise(SIGSTOP);
        return;
    }
    lx_die_by(sig);
}

void lx_signals_deliver(struct lx_thread *t)
{
    int sig;

    while (unlikely((sig = t->pending) || t->pending_sync & ~t->mask)) {
        siginfo_t info;

        if (sig) {
            info = t->info;
            t->pending = 0;
        } else {
            sig = __builtin_ctzll(t->pending_sync & ~t->mask) + 1;
            info = t->sync_info[sig];
            t->pending_sync &= ~BIT(sig);
        }
        take(t, sig, &info, false);
        lx_host_mask(t);
    }
}

/* As the kernel: what is blocked or ignored is neither from now on, so that a tracer sees it before the end. */
static void force(struct lx_thread *t, const siginfo_t *info)
{
    int sig = info->si_signo;

    pthread_mutex_lock(&t->act->lock);
    if (t->mask & BIT(sig) || t->act->a[sig].handler == 1)
        t->act->a[sig].handler = 0;
    pthread_mutex_unlock(&t->act->lock);
    t->mask &= ~BIT(sig);
    take(t, sig, info, true);
    lx_host_mask(t);
}

void lx_signal_fault(struct lx_thread *t)
{
    const struct lx_fault *f = &t->cpu->fault;
    siginfo_t info = {.si_signo = f->sig, .si_code = f->code};

    info.si_addr = (void *)(uintptr_t)f->addr;
    force(t, &info);
}

void lx_signal_force_info(struct lx_thread *t, const siginfo_t *info)
{
    force(t, info);
}

void lx_signal_force(struct lx_thread *t, int sig, int code, uint64_t addr)
{
    t->cpu->fault = (struct lx_fault){.sig = sig, .code = code, .addr = addr};
    lx_signal_fault(t);
}

enum lx_stop lx_raise(struct lx_cpu *c, int sig, int code, uint64_t addr)
{
    c->fault = (struct lx_fault){.sig = sig, .code = code, .addr = addr};
    return LX_STOP_SIGNAL;
}

/* 128 bytes: si_signo, si_errno, si_code, then the union at 12 (32-bit) or 16. */
void lx_siginfo_out(uint8_t out[128], const siginfo_t *i, unsigned word)
{
    const uint8_t *h = (const uint8_t *)i;
    int code = i->si_code;

    if (word == 8) {
        memcpy(out, i, 128);
        return;
    }
    memset(out, 0, 128);
    memcpy(out, h, 12);
    if (code > 0 && (i->si_signo == SIGSEGV || i->si_signo == SIGBUS || i->si_signo == SIGFPE ||
                     i->si_signo == SIGILL || i->si_signo == SIGTRAP)) {
        memcpy(out + 12, h + 16, 4); /* si_addr */
        return;
    }
    if (i->si_signo == SIGSYS && code > 0) {
        memcpy(out + 12, h + 16, 4); /* si_call_addr, si_syscall, si_arch */
        memcpy(out + 16, h + 24, 8);
        return;
    }
    if (code == SI_SIGIO || (code > 0 && code <= POLL_HUP && i->si_signo != SIGCHLD)) {
        memcpy(out + 12, h + 16, 4); /* band, descriptor */
        memcpy(out + 16, h + 24, 4);
        return;
    }
    memcpy(out + 12, h + 16, 8); /* pid, uid; or timer id, overrun */
    if (i->si_signo == SIGCHLD && code > 0) {
        memcpy(out + 20, h + 24, 4); /* status */
        memcpy(out + 24, h + 32, 4); /* utime, stime */
        memcpy(out + 28, h + 40, 4);
    } else {
        memcpy(out + 20, h + 24, 4); /* si_value */
    }
}

/* siginfo given by the guest for rt_sigqueueinfo. */
void lx_siginfo_in(siginfo_t *out, const uint8_t in[128], unsigned word)
{
    uint8_t *h = (uint8_t *)out;

    memset(out, 0, sizeof *out);
    if (word == 8) {
        memcpy(out, in, 128);
        return;
    }
    memcpy(h, in, 12);
    memcpy(h + 16, in + 12, 8);
    memcpy(h + 24, in + 20, 4);
}

/* ---- system calls ---- */

static bool get_action(uint64_t at, struct lx_action *a)
{
    unsigned w = lx_proc.arch->word, n = lx_proc.arch->no_restorer ? 2 : 3;
    uint64_t v[3] = {0};

    for (unsigned i = 0; i < n; i++)
        if (!lx_get_word(at + i * w, &v[i]))
            return false;
    *a = (struct lx_action){.handler = v[0], .flags = v[1], .restorer = v[2]};
    if (lx_proc.arch->no_restorer)
        a->flags &= ~(uint64_t)LX_SA_RESTORER;
    return lx_get(&a->mask, at + (uint64_t)n * w, 8);
}

static bool put_action(uint64_t at, const struct lx_action *a)
{
    unsigned w = lx_proc.arch->word, n = lx_proc.arch->no_restorer ? 2 : 3;

    return lx_put_word(at, a->handler) && lx_put_word(at + w, a->flags) &&
           (n == 2 || lx_put_word(at + 2 * w, a->restorer)) && lx_put(at + (uint64_t)n * w, &a->mask, 8);
}

int64_t lx_set_action(struct lx_thread *t, int sig, const struct lx_action *new, struct lx_action *old)
{
    int64_t r = 0;

    if (sig < 1 || sig > LX_NSIG || (new && (sig == SIGKILL || sig == SIGSTOP)))
        return -EINVAL;
    pthread_mutex_lock(&t->act->lock);
    *old = t->act->a[sig];
    if (new) {
        r = follow(sig, new, t->act->gently);
        if (!r)
            t->act->a[sig] = *new;
    }
    pthread_mutex_unlock(&t->act->lock);
    return r;
}

int64_t lx_sys_rt_sigaction(struct lx_thread *t, const uint64_t *a)
{
    struct lx_action new, old;
    int64_t r;

    if (a[3] != 8)
        return -EINVAL;
    if (a[1] && !get_action(a[1], &new))
        return -EFAULT;
    if (a[1])
        new.mask &= ~CANNOT;
    r = lx_set_action(t, (int)a[0], a[1] ? &new : NULL, &old);
    if (!r && a[2] && !put_action(a[2], &old))
        return -EFAULT;
    return r;
}

int64_t lx_change_mask(struct lx_thread *t, int how, const uint64_t *set, uint64_t *old)
{
    *old = t->mask;
    if (!set)
        return 0;
    switch (how) {
    case SIG_BLOCK:
        t->mask |= *set;
        break;
    case SIG_UNBLOCK:
        t->mask &= ~*set;
        break;
    case SIG_SETMASK:
        t->mask = *set;
        break;
    default:
        return -EINVAL;
    }
    t->mask &= ~CANNOT;
    lx_host_mask(t);
    return 0;
}

int64_t lx_sys_rt_sigprocmask(struct lx_thread *t, const uint64_t *a)
{
    uint64_t set, old;
    int64_t r;

    if (a[3] != 8)
        return -EINVAL;
    if (a[1] && !lx_get(&set, a[1], 8))
        return -EFAULT;
    r = lx_change_mask(t, (int)a[0], a[1] ? &set : NULL, &old);
    if (!r && a[2] && !lx_put(a[2], &old, 8))
        return -EFAULT;
    return r;
}

int64_t lx_do_sigreturn(struct lx_thread *t, bool rt)
{
    struct lx_sigframe f = {.alt_flags = ~0u};

    if (!lx_proc.arch->frame_pop(t->cpu, rt, &f)) {
        lx_signal_force(t, SIGSEGV, SI_KERNEL, 0);
        return -LX_NORESULT;
    }
    t->mask = f.mask & ~CANNOT;
    if (f.alt_flags != ~0u) {
        t->alt.sp = f.alt_sp;
        t->alt.size = f.alt_flags & SS_DISABLE ? 0 : f.alt_size;
    }
    lx_host_mask(t);
    return -LX_NORESULT;
}

int64_t lx_sys_rt_sigreturn(struct lx_thread *t, const uint64_t *a)
{
    return lx_do_sigreturn(t, true);
}

int64_t lx_sys_sigaltstack(struct lx_thread *t, const uint64_t *a)
{
    unsigned w = lx_proc.arch->word;
    uint64_t sp = lx_proc.arch->get(t->cpu, LX_SP), nsp = 0, nsize = 0, osp = t->alt.sp, osize = t->alt.size;
    bool on = osize && sp > osp && sp <= osp + osize;
    uint32_t nflags = 0, oflags = !osize ? SS_DISABLE : on ? SS_ONSTACK : 0;

    if (a[0]) {
        if (!lx_get_word(a[0], &nsp) || !lx_get(&nflags, a[0] + w, 4) || !lx_get_word(a[0] + 2 * w, &nsize))
            return -EFAULT;
        if (on)
            return -EPERM;
        if ((nflags & ~SS_AUTODISARM_BIT) != 0 && (nflags & ~SS_AUTODISARM_BIT) != SS_DISABLE &&
            (nflags & ~SS_AUTODISARM_BIT) != SS_ONSTACK)
            return -EINVAL;
        if (nflags & SS_DISABLE) {
            nsp = nsize = 0;
        } else if (nsize < 2048) {
            return -ENOMEM;
        }
        t->alt.sp = nsp;
        t->alt.size = nsize;
        t->alt.flags = nflags & SS_AUTODISARM_BIT;
    }
    if (a[1]) {
        uint64_t zero = 0;

        if (!lx_put_word(a[1], osp) || !lx_put(a[1] + w, &zero, w) || !lx_put(a[1] + w, &oflags, 4) ||
            !lx_put_word(a[1] + 2 * w, osize))
            return -EFAULT;
    }
    return 0;
}

int64_t lx_suspend(struct lx_thread *t, uint64_t mask)
{
    uint64_t m = mask & ~CANNOT & ~SYNC_BITS, a[6] = {(uintptr_t)&m, 8};
    int64_t r;

    if (t->pending_sync & ~mask)
        return -EINTR;
    r = lx_safe_syscall(t, SYS_rt_sigsuspend, a);
    return r == -LX_ERESTART ? -EINTR : r;
}

int64_t lx_sys_rt_sigsuspend(struct lx_thread *t, const uint64_t *a)
{
    uint64_t mask;

    if (a[1] != 8)
        return -EINVAL;
    return lx_get(&mask, a[0], 8) ? lx_suspend(t, mask) : -EFAULT;
}

int64_t lx_sys_rt_sigpending(struct lx_thread *t, const uint64_t *a)
{
    uint64_t set = 0;

    if (a[1] > 8)
        return -EINVAL;
    if (syscall(SYS_rt_sigpending, &set, 8) < 0)
        return -errno;
    set = (set & t->mask) | t->pending_sync;
    return lx_put(a[0], &set, a[1]) ? 0 : -EFAULT;
}

int64_t lx_sys_rt_sigtimedwait(struct lx_thread *t, const uint64_t *a)
{
    uint64_t set, ours, args[6];
    uint8_t out[128];
    siginfo_t info;
    int64_t r;

    if (a[3] != 8)
        return -EINVAL;
    if (!lx_get(&set, a[0], 8))
        return -EFAULT;
    ours = set & t->pending_sync;
    if (ours) {
        r = __builtin_ctzll(ours) + 1;
        info = t->sync_info[r];
        t->pending_sync &= ~BIT(r);
    } else {
        args[0] = (uintptr_t)&set;
        args[1] = (uintptr_t)&info;
        args[2] = a[2];
        args[3] = 8;
        r = lx_safe_syscall(t, SYS_rt_sigtimedwait, args);
    }
    if (r > 0 && a[1]) {
        lx_siginfo_out(out, &info, lx_proc.arch->word);
        if (!lx_put(a[1], out, sizeof out))
            return -EFAULT;
    }
    return r;
}

/* Calls that may signal ourselves: made plainly, delivery happens in the run loop. */
int64_t lx_sys_kill(struct lx_thread *t, const uint64_t *a)
{
    if ((int)a[1] == SIGKILL && lx_sharing_kill((pid_t)a[0]))
        return 0;
    return syscall(SYS_kill, (int)a[0], (int)a[1]) < 0 ? -errno : 0;
}

int64_t lx_sys_tkill(struct lx_thread *t, const uint64_t *a)
{
    if ((int)a[1] == SIGKILL && lx_sharing_kill((pid_t)a[0]))
        return 0;
    return syscall(SYS_tkill, (int)a[0], (int)a[1]) < 0 ? -errno : 0;
}

int64_t lx_sys_tgkill(struct lx_thread *t, const uint64_t *a)
{
    if ((int)a[2] == SIGKILL && lx_sharing_kill((pid_t)a[0]))
        return 0;
    return syscall(SYS_tgkill, (int)a[0], (int)a[1], (int)a[2]) < 0 ? -errno : 0;
}
