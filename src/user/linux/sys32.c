/* System calls of 32-bit guests whose structures hold longs or pointers: time, signals, processes, IPC, futex.
 * Layouts after asm-generic and arch/x86 UAPI headers; old 32-bit times are used by the old numbers only. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <sched.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

/* ---- pairs of longs: timespec, timeval, and two of them: itimerspec, itimerval ---- */

static bool get_pair(uint64_t at, int64_t v[2])
{
    int32_t g[2];

    if (!lx_get(g, at, 8))
        return false;
    v[0] = g[0];
    v[1] = g[1];
    return true;
}

static bool put_pair(uint64_t at, const int64_t v[2])
{
    int32_t g[2] = {(int32_t)v[0], (int32_t)v[1]};

    return lx_put(at, g, 8);
}

static bool get_pairs(uint64_t at, int64_t v[4])
{
    return get_pair(at, v) && get_pair(at + 8, v + 2);
}

static bool put_pairs(uint64_t at, const int64_t v[4])
{
    return put_pair(at, v) && put_pair(at + 8, v + 2);
}

/* A call whose argument `in` is a timespec or timeval to read and `out` one to write (-1: none). */
static int64_t with_pairs(struct lx_thread *t, long nr, const uint64_t *a, int in, int out, unsigned pairs)
{
    int64_t vi[4] = {0}, vo[4] = {0}, r;
    uint64_t arg[6];

    memcpy(arg, a, sizeof arg);
    if (in >= 0 && a[in]) {
        if (!(pairs == 2 ? get_pairs(a[in], vi) : get_pair(a[in], vi)))
            return -EFAULT;
        arg[in] = (uintptr_t)vi;
    }
    if (out >= 0 && a[out])
        arg[out] = (uintptr_t)vo;
    r = lx_safe_syscall(t, nr, arg);
    if (out >= 0 && a[out] && (r >= 0 || (r == -EINTR && (nr == SYS_nanosleep || nr == SYS_clock_nanosleep))) &&
        !(pairs == 2 ? put_pairs(a[out], vo) : put_pair(a[out], vo)))
        return -EFAULT;
    return r;
}

#define PAIRS(name, in, out, n)                                                                                        \
    int64_t lx_sys32_##name(struct lx_thread *t, const uint64_t *a)                                                    \
    {                                                                                                                  \
        return with_pairs(t, SYS_##name, a, in, out, n);                                                               \
    }
PAIRS(nanosleep, 0, 1, 1)
PAIRS(clock_gettime, -1, 1, 1)
PAIRS(clock_settime, 1, -1, 1)
PAIRS(clock_getres, -1, 1, 1)
PAIRS(clock_nanosleep, 2, 3, 1)
PAIRS(sched_rr_get_interval, -1, 1, 1)
PAIRS(getitimer, -1, 1, 2)
PAIRS(setitimer, 1, 2, 2)
PAIRS(timer_gettime, -1, 1, 2)
PAIRS(timer_settime, 2, 3, 2)
PAIRS(timerfd_gettime, -1, 1, 2)
PAIRS(timerfd_settime, 2, 3, 2)
PAIRS(ppoll, 2, 2, 1)
PAIRS(utimes, 1, -1, 2)
PAIRS(futimesat, 2, -1, 2)
PAIRS(utimensat, 2, -1, 2)
PAIRS(mq_timedsend, 4, -1, 1)
PAIRS(mq_timedreceive, 4, -1, 1)
PAIRS(semtimedop, 3, -1, 1)

/* ---- times of 64 bits: above the 32 bits of nanoseconds is padding, which the kernel does not look at ---- */

static bool get_times64(uint64_t at, int64_t *v, unsigned n)
{
    if (!lx_get(v, at, n * 16))
        return false;
    for (unsigned i = 0; i < n; i++)
        v[2 * i + 1] &= 0xffffffff;
    return true;
}

/* A call whose argument `in` is n of them, to read. */
static int64_t with_times64(struct lx_thread *t, long nr, const uint64_t *a, unsigned in, unsigned n)
{
    uint64_t arg[6];
    int64_t v[4];

    memcpy(arg, a, sizeof arg);
    if (a[in]) {
        if (!get_times64(a[in], v, n))
            return -EFAULT;
        arg[in] = (uintptr_t)v;
    }
    return lx_safe_syscall(t, nr, arg);
}

#define TIMES64(name, as, in, n)                                                                                       \
    int64_t lx_sys32_##name(struct lx_thread *t, const uint64_t *a)                                                    \
    {                                                                                                                  \
        return with_times64(t, SYS_##as, a, in, n);                                                                    \
    }
TIMES64(clock_nanosleep_time64, clock_nanosleep, 2, 1)
TIMES64(clock_settime64, clock_settime, 1, 1)
TIMES64(futex_waitv, futex_waitv, 3, 1)
TIMES64(mq_timedreceive_time64, mq_timedreceive, 4, 1)
TIMES64(mq_timedsend_time64, mq_timedsend, 4, 1)
TIMES64(semtimedop_time64, semtimedop, 3, 1)
TIMES64(timer_settime64, timer_settime, 2, 2)
TIMES64(timerfd_settime64, timerfd_settime, 2, 2)
TIMES64(utimensat_time64, utimensat, 2, 2)

int64_t lx_sys32_ppoll_time64(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6];
    int64_t v[2], r;

    memcpy(arg, a, sizeof arg);
    if (a[2]) {
        if (!get_times64(a[2], v, 1))
            return -EFAULT;
        arg[2] = (uintptr_t)v;
    }
    r = lx_safe_syscall(t, SYS_ppoll, arg);
    if (a[2] && (r >= 0 || r == -EINTR))
        (void)lx_put(a[2], v, sizeof v); /* what is left */
    return r;
}

/* ---- the time of day ---- */

int64_t lx_sys32_gettimeofday(struct lx_thread *t, const uint64_t *a)
{
    struct timeval tv;
    int64_t v[2];

    gettimeofday(&tv, NULL);
    v[0] = tv.tv_sec;
    v[1] = tv.tv_usec;
    return a[0] && !put_pair(a[0], v) ? -EFAULT : 0;
}

int64_t lx_sys32_time(struct lx_thread *t, const uint64_t *a)
{
    int32_t now = (int32_t)time(NULL);

    return a[0] && !lx_put(a[0], &now, 4) ? -EFAULT : now;
}

int64_t lx_sys32_utime(struct lx_thread *t, const uint64_t *a)
{
    int64_t v[4] = {0}, p[2];
    uint64_t arg[6] = {a[0], 0};

    if (a[1]) {
        if (!get_pair(a[1], p))
            return -EFAULT;
        v[0] = p[0];
        v[2] = p[1];
        arg[1] = (uintptr_t)v;
    }
    return lx_safe_syscall(t, SYS_utimes, arg);
}

int64_t lx_sys32_times(struct lx_thread *t, const uint64_t *a)
{
    struct tms b;
    int64_t r = times(&b);
    int32_t v[4] = {(int32_t)b.tms_utime, (int32_t)b.tms_stime, (int32_t)b.tms_cutime, (int32_t)b.tms_cstime};

    return a[0] && !lx_put(a[0], v, sizeof v) ? -EFAULT : (int32_t)r & 0x7fffffff;
}

static bool futex_times(const uint64_t *a)
{
    unsigned op = (unsigned)a[1] & FUTEX_CMD_MASK;

    return op == FUTEX_WAIT || op == FUTEX_LOCK_PI || op == FUTEX_WAIT_BITSET || op == FUTEX_WAIT_REQUEUE_PI ||
           op == 13 /* LOCK_PI2 */;
}

int64_t lx_sys32_futex(struct lx_thread *t, const uint64_t *a)
{
    return futex_times(a) ? with_pairs(t, SYS_futex, a, 3, -1, 1) : lx_safe_syscall(t, SYS_futex, a);
}

int64_t lx_sys32_futex_time64(struct lx_thread *t, const uint64_t *a)
{
    return futex_times(a) ? with_times64(t, SYS_futex, a, 3, 1) : lx_safe_syscall(t, SYS_futex, a);
}

int64_t lx_sys32_rt_sigtimedwait(struct lx_thread *t, const uint64_t *a)
{
    int64_t v[2];
    uint64_t arg[6];

    memcpy(arg, a, sizeof arg);
    if (a[2]) {
        if (!get_pair(a[2], v))
            return -EFAULT;
        arg[2] = (uintptr_t)v;
    }
    return lx_sys_rt_sigtimedwait(t, arg);
}

int64_t lx_sys32_rt_sigtimedwait_time64(struct lx_thread *t, const uint64_t *a)
{
    int64_t v[2];
    uint64_t arg[6];

    memcpy(arg, a, sizeof arg);
    if (a[2]) {
        if (!get_times64(a[2], v, 1))
            return -EFAULT;
        arg[2] = (uintptr_t)v;
    }
    return lx_sys_rt_sigtimedwait(t, arg);
}

/* ---- select ---- */

static int64_t do_select(struct lx_thread *t, const uint64_t *a, int64_t *ts, uint64_t sig)
{
    uint64_t arg[6] = {a[0], 0, 0, 0, (uintptr_t)ts, sig}, set[3][16];
    size_t n = min_u64(div_up((uint32_t)a[0], 32) * 4, sizeof set[0]);
    int64_t r;

    if ((int32_t)a[0] < 0)
        return -EINVAL;
    memset(set, 0, sizeof set);
    for (unsigned i = 0; i < 3; i++)
        if (a[1 + i]) {
            if (!lx_get(set[i], a[1 + i], n))
                return -EFAULT;
            arg[1 + i] = (uintptr_t)set[i];
        }
    arg[0] = min_u64(arg[0], 1024);
    r = lx_safe_syscall(t, SYS_pselect6, arg);
    for (unsigned i = 0; i < 3 && r >= 0; i++)
        if (a[1 + i] && !lx_put(a[1 + i], set[i], n))
            return -EFAULT;
    return r;
}

int64_t lx_sys32__newselect(struct lx_thread *t, const uint64_t *a)
{
    int64_t tv[2], r;

    if (a[4]) {
        if (!get_pair(a[4], tv))
            return -EFAULT;
        tv[1] *= 1000;
    }
    r = do_select(t, a, a[4] ? tv : NULL, 0);
    if (a[4]) {
        tv[1] /= 1000;
        put_pair(a[4], tv);
    }
    return r;
}

int64_t lx_sys32_select(struct lx_thread *t, const uint64_t *a) /* the oldest: one pointer to five words */
{
    uint32_t w[5];
    uint64_t arg[6] = {0};

    if (!lx_get(w, a[0], sizeof w))
        return -EFAULT;
    for (unsigned i = 0; i < 5; i++)
        arg[i] = w[i];
    return lx_sys32__newselect(t, arg);
}

static int64_t psel(struct lx_thread *t, const uint64_t *a, bool time64)
{
    uint64_t sig[2] = {0}, mask;
    uint32_t w[2];
    int64_t ts[2], r;

    if (a[4] && !(time64 ? get_times64(a[4], ts, 1) : get_pair(a[4], ts)))
        return -EFAULT;
    if (a[5]) {
        if (!lx_get(w, a[5], 8))
            return -EFAULT;
        if (w[0] && !lx_get(&mask, w[0], 8))
            return -EFAULT;
        sig[0] = w[0] ? (uintptr_t)&mask : 0;
        sig[1] = w[1];
    }
    r = do_select(t, a, a[4] ? ts : NULL, a[5] ? (uintptr_t)sig : 0);
    if (a[4] && r >= 0)
        (void)(time64 ? lx_put(a[4], ts, 16) : put_pair(a[4], ts));
    return r;
}

int64_t lx_sys32_pselect6(struct lx_thread *t, const uint64_t *a)
{
    return psel(t, a, false);
}

int64_t lx_sys32_pselect6_time64(struct lx_thread *t, const uint64_t *a)
{
    return psel(t, a, true);
}

/* ---- waiting, limits, system information ---- */

static bool put_rusage(uint64_t at, const struct rusage *u)
{
    const long *h = (const long *)u;
    int32_t v[18];

    for (unsigned i = 0; i < 18; i++)
        v[i] = (int32_t)h[i];
    return lx_put(at, v, sizeof v);
}

/* The status goes through ours: a stop that is not shown must not be written. */
static int64_t wait4_32(struct lx_thread *t, uint64_t arg[6])
{
    uint64_t at = arg[1];
    int status = 0;
    int64_t r;

    arg[1] = (uintptr_t)&status;
    r = lx_trace_wait(t, SYS_wait4, arg);
    return r > 0 && at && !lx_put(at, &status, 4) ? -EFAULT : r;
}

int64_t lx_sys32_wait4(struct lx_thread *t, const uint64_t *a)
{
    struct rusage u;
    uint64_t arg[6];
    int64_t r;

    memcpy(arg, a, sizeof arg);
    arg[0] = (uint64_t)(int64_t)(int32_t)a[0];
    arg[3] = a[3] ? (uintptr_t)&u : 0;
    r = wait4_32(t, arg);
    return r > 0 && a[3] && !put_rusage(a[3], &u) ? -EFAULT : r;
}

int64_t lx_sys32_waitpid(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], a[1], a[2]};

    return lx_sys32_wait4(t, arg);
}

int64_t lx_sys32_waitid(struct lx_thread *t, const uint64_t *a)
{
    siginfo_t info = {0};
    struct rusage u;
    uint64_t arg[6];
    uint8_t out[128];
    int64_t r;

    memcpy(arg, a, sizeof arg);
    arg[2] = a[2] ? (uintptr_t)&info : 0;
    arg[4] = a[4] ? (uintptr_t)&u : 0;
    r = lx_trace_wait(t, SYS_waitid, arg);
    if (r < 0)
        return r;
    lx_siginfo_out(out, &info, 4);
    if ((a[2] && !lx_put(a[2], out, sizeof out)) || (a[4] && !put_rusage(a[4], &u)))
        return -EFAULT;
    return r;
}

int64_t lx_sys32_getrusage(struct lx_thread *t, const uint64_t *a)
{
    struct rusage u;

    if (getrusage((int)a[0], &u) < 0)
        return -errno;
    return put_rusage(a[1], &u) ? 0 : -EFAULT;
}

static int64_t get_limit(const uint64_t *a, uint32_t infinity)
{
    struct rlimit l;
    uint32_t v[2];

    if (getrlimit((int)a[0], &l) < 0)
        return -errno;
    v[0] = l.rlim_cur > infinity ? infinity : (uint32_t)l.rlim_cur;
    v[1] = l.rlim_max > infinity ? infinity : (uint32_t)l.rlim_max;
    return lx_put(a[1], v, sizeof v) ? 0 : -EFAULT;
}

int64_t lx_sys32_getrlimit(struct lx_thread *t, const uint64_t *a)
{
    return get_limit(a, 0x7fffffff);
}

int64_t lx_sys32_ugetrlimit(struct lx_thread *t, const uint64_t *a)
{
    return get_limit(a, UINT32_MAX);
}

int64_t lx_sys32_setrlimit(struct lx_thread *t, const uint64_t *a)
{
    struct rlimit l;
    uint32_t v[2];

    if (!lx_get(v, a[1], sizeof v))
        return -EFAULT;
    l.rlim_cur = v[0] == UINT32_MAX ? RLIM_INFINITY : v[0];
    l.rlim_max = v[1] == UINT32_MAX ? RLIM_INFINITY : v[1];
    return setrlimit((int)a[0], &l) < 0 ? -errno : 0;
}

int64_t lx_sys32_sysinfo(struct lx_thread *t, const uint64_t *a)
{
    struct sysinfo s;
    uint32_t v[16] = {0};
    unsigned shift = 0;
    uint64_t top;

    if (sysinfo(&s) < 0)
        return -errno;
    top = (s.totalram | s.totalswap) * s.mem_unit;
    while (top >> shift > UINT32_MAX)
        shift += 12;
    v[0] = (uint32_t)s.uptime;
    for (unsigned i = 0; i < 3; i++)
        v[1 + i] = (uint32_t)s.loads[i];
    v[4] = (uint32_t)(s.totalram * s.mem_unit >> shift);
    v[5] = (uint32_t)(s.freeram * s.mem_unit >> shift);
    v[6] = (uint32_t)(s.sharedram * s.mem_unit >> shift);
    v[7] = (uint32_t)(s.bufferram * s.mem_unit >> shift);
    v[8] = (uint32_t)(s.totalswap * s.mem_unit >> shift);
    v[9] = (uint32_t)(s.freeswap * s.mem_unit >> shift);
    v[10] = s.procs;
    v[11] = (uint32_t)(s.totalhigh * s.mem_unit >> shift);
    v[12] = (uint32_t)(s.freehigh * s.mem_unit >> shift);
    v[13] = 1u << shift;
    return lx_put(a[0], v, sizeof v) ? 0 : -EFAULT;
}

int64_t lx_sys32_nice(struct lx_thread *t, const uint64_t *a)
{
    errno = 0;
    return nice((int)a[0]) == -1 && errno ? -errno : 0;
}

int64_t lx_sys32_pause(struct lx_thread *t, const uint64_t *a)
{
    return lx_safe_syscall(t, SYS_pause, a);
}

static int64_t put_adjusted(uint64_t at, const struct timex *x, int64_t r)
{
    int32_t v[32] = {(int32_t)x->modes,     (int32_t)x->offset,      (int32_t)x->freq,         (int32_t)x->maxerror,
                     (int32_t)x->esterror,  (int32_t)x->status,      (int32_t)x->constant,     (int32_t)x->precision,
                     (int32_t)x->tolerance, (int32_t)x->time.tv_sec, (int32_t)x->time.tv_usec, (int32_t)x->tick};

    return lx_put(at, v, sizeof v) ? r : -EFAULT;
}

static int64_t adjust(clockid_t clock, uint64_t at)
{
    struct timex x = {0};
    int32_t v[32];
    int64_t r;

    if (!lx_get(v, at, sizeof v))
        return -EFAULT;
    x.modes = (unsigned)v[0];
    x.offset = v[1];
    x.freq = v[2];
    x.maxerror = v[3];
    x.esterror = v[4];
    x.status = v[5];
    x.constant = v[6];
    x.tick = v[11];
    r = clock_adjtime(clock, &x);
    return r < 0 ? -errno : put_adjusted(at, &x, r);
}

int64_t lx_sys32_adjtimex(struct lx_thread *t, const uint64_t *a)
{
    return adjust(CLOCK_REALTIME, a[0]);
}

int64_t lx_sys32_clock_adjtime(struct lx_thread *t, const uint64_t *a)
{
    return adjust((clockid_t)a[0], a[1]);
}

int64_t lx_sys32_settimeofday(struct lx_thread *t, const uint64_t *a)
{
    int32_t v[2], tz[2];
    struct timeval tv;

    if ((a[0] && !lx_get(v, a[0], sizeof v)) || (a[1] && !lx_get(tz, a[1], sizeof tz)))
        return -EFAULT;
    if (a[0])
        tv = (struct timeval){v[0], v[1]};
    return syscall(SYS_settimeofday, a[0] ? &tv : NULL, a[1] ? tz : NULL) < 0 ? -errno : 0;
}

int64_t lx_sys32_stime(struct lx_thread *t, const uint64_t *a)
{
    struct timespec ts = {0};
    int32_t v;

    if (!lx_get(&v, a[0], sizeof v))
        return -EFAULT;
    ts.tv_sec = v;
    return clock_settime(CLOCK_REALTIME, &ts) < 0 ? -errno : 0;
}

/* ---- signals of the old calls: one word of mask ---- */

static bool get_old_action(uint64_t at, struct lx_action *x)
{
    uint32_t v[4]; /* handler, mask, flags, restorer */

    if (!lx_get(v, at, sizeof v))
        return false;
    *x = (struct lx_action){.handler = v[0], .mask = v[1], .flags = v[2], .restorer = v[3]};
    return true;
}

int64_t lx_sys32_sigaction(struct lx_thread *t, const uint64_t *a)
{
    struct lx_action new, old;
    int64_t r;

    if (a[1] && !get_old_action(a[1], &new))
        return -EFAULT;
    r = lx_set_action(t, (int)a[0], a[1] ? &new : NULL, &old);
    if (!r && a[2]) {
        uint32_t v[4] = {(uint32_t)old.handler, (uint32_t)old.mask, (uint32_t)old.flags, (uint32_t)old.restorer};

        return lx_put(a[2], v, sizeof v) ? 0 : -EFAULT;
    }
    return r;
}

int64_t lx_sys32_signal(struct lx_thread *t, const uint64_t *a)
{
    struct lx_action new = {.handler = a[1], .flags = LX_SA_RESETHAND | LX_SA_NODEFER}, old;
    int64_t r = lx_set_action(t, (int)a[0], &new, &old);

    return r ? r : (int64_t)old.handler;
}

int64_t lx_sys32_sigprocmask(struct lx_thread *t, const uint64_t *a)
{
    uint64_t set = 0, old;
    int64_t r;

    if (a[1] && !lx_get(&set, a[1], 4))
        return -EFAULT;
    if ((int)a[0] == SIG_SETMASK)
        set |= t->mask & ~UINT64_C(0xffffffff);
    r = lx_change_mask(t, (int)a[0], a[1] ? &set : NULL, &old);
    return !r && a[2] && !lx_put(a[2], &old, 4) ? -EFAULT : r;
}

int64_t lx_sys32_sigpending(struct lx_thread *t, const uint64_t *a)
{
    uint64_t arg[6] = {a[0], 4};

    return lx_sys_rt_sigpending(t, arg);
}

int64_t lx_sys32_sigsuspend(struct lx_thread *t, const uint64_t *a) /* the mask is the third argument */
{
    return lx_suspend(t, (uint32_t)a[2]);
}

int64_t lx_sys32_sgetmask(struct lx_thread *t, const uint64_t *a)
{
    return (int64_t)(uint32_t)t->mask;
}

int64_t lx_sys32_ssetmask(struct lx_thread *t, const uint64_t *a)
{
    uint64_t set = (uint32_t)a[0], old;

    lx_change_mask(t, SIG_SETMASK, &set, &old);
    return (int64_t)(uint32_t)old;
}

int64_t lx_sys32_sigreturn(struct lx_thread *t, const uint64_t *a)
{
    return lx_do_sigreturn(t, false);
}

static int64_t queue_info(struct lx_thread *t, long nr, const uint64_t *a, unsigned at)
{
    uint8_t in[128];
    siginfo_t info;
    uint64_t arg[6];

    if (!lx_get(in, a[at], sizeof in))
        return -EFAULT;
    lx_siginfo_in(&info, in, 4);
    memcpy(arg, a, sizeof arg);
    arg[at] = (uintptr_t)&info;
    return lx_safe_syscall(t, nr, arg);
}

int64_t lx_sys32_rt_sigqueueinfo(struct lx_thread *t, const uint64_t *a)
{
    return queue_info(t, SYS_rt_sigqueueinfo, a, 2);
}

int64_t lx_sys32_rt_tgsigqueueinfo(struct lx_thread *t, const uint64_t *a)
{
    return queue_info(t, SYS_rt_tgsigqueueinfo, a, 3);
}

/* A call whose second argument is a struct sigevent or NULL. */
static int64_t event_call(struct lx_thread *t, long nr, const uint64_t *a)
{
    struct sigevent ev = {0};
    uint32_t g[16];
    uint64_t arg[6];

    memcpy(arg, a, sizeof arg);
    if (a[1]) {
        if (!lx_get(g, a[1], sizeof g))
            return -EFAULT;
        ev.sigev_value.sival_ptr = (void *)(uintptr_t)g[0];
        ev.sigev_signo = (int)g[1];
        ev.sigev_notify = (int)g[2];
        memcpy((uint8_t *)&ev + 16, &g[3], 4); /* thread id */
        arg[1] = (uintptr_t)&ev;
    }
    return lx_safe_syscall(t, nr, arg);
}

int64_t lx_sys32_timer_create(struct lx_thread *t, const uint64_t *a)
{
    return event_call(t, SYS_timer_create, a);
}

int64_t lx_sys32_mq_notify(struct lx_thread *t, const uint64_t *a)
{
    return event_call(t, SYS_mq_notify, a);
}

/* ---- SysV and POSIX IPC ---- */

static void put_perm(uint32_t *v, const struct ipc_perm *p) /* struct ipc64_perm: 36 bytes */
{
    v[0] = (uint32_t)p->__key;
    v[1] = p->uid;
    v[2] = p->gid;
    v[3] = p->cuid;
    v[4] = p->cgid;
    v[5] = p->mode & 0xffff;
    v[6] = p->__seq & 0xffff;
}

static void get_perm(struct ipc_perm *p, const uint32_t *v)
{
    p->uid = v[1];
    p->gid = v[2];
    p->mode = v[5] & 0xffff;
}

int64_t lx_sys32_shmctl(struct lx_thread *t, const uint64_t *a)
{
    int cmd = (int)a[1] & ~0x100;
    struct shmid_ds ds = {0};
    uint32_t v[21] = {0};
    int64_t r;

    if (cmd == IPC_SET) {
        if (!lx_get(v, a[2], sizeof v))
            return -EFAULT;
        get_perm(&ds.shm_perm, v);
    }
    r = shmctl((int)a[0], cmd, &ds);
    if (r < 0)
        return -errno;
    if (cmd == IPC_INFO || cmd == SHM_INFO) {
        const uint64_t *h = (const uint64_t *)&ds; /* all longs but the first of SHM_INFO */
        unsigned n = cmd == IPC_INFO ? 9 : 6;

        for (unsigned i = 0; i < n; i++)
            v[i] = (uint32_t)min_u64(h[i], cmd == IPC_INFO ? INT32_MAX : UINT32_MAX);
        return lx_put(a[2], v, n * 4) ? r : -EFAULT;
    }
    if (cmd != IPC_STAT && cmd != SHM_STAT && cmd != SHM_STAT_ANY)
        return r;
    put_perm(v, &ds.shm_perm);
    v[9] = (uint32_t)ds.shm_segsz;
    v[10] = (uint32_t)ds.shm_atime;
    v[12] = (uint32_t)ds.shm_dtime;
    v[14] = (uint32_t)ds.shm_ctime;
    v[16] = (uint32_t)ds.shm_cpid;
    v[17] = (uint32_t)ds.shm_lpid;
    v[18] = (uint32_t)ds.shm_nattch;
    return lx_put(a[2], v, sizeof v) ? r : -EFAULT;
}

int64_t lx_sys32_msgctl(struct lx_thread *t, const uint64_t *a)
{
    int cmd = (int)a[1] & ~0x100;
    struct msqid_ds ds = {0};
    uint32_t v[22] = {0};
    int64_t r;

    if (cmd == IPC_SET) {
        if (!lx_get(v, a[2], sizeof v))
            return -EFAULT;
        get_perm(&ds.msg_perm, v);
        ds.msg_qbytes = v[17];
    }
    r = msgctl((int)a[0], cmd, &ds);
    if (r < 0)
        return -errno;
    if (cmd == IPC_INFO || cmd == MSG_INFO)
        return lx_put(a[2], &ds, sizeof(struct msginfo)) ? r : -EFAULT;
    if (cmd != IPC_STAT && cmd != MSG_STAT && cmd != MSG_STAT_ANY)
        return r;
    put_perm(v, &ds.msg_perm);
    v[9] = (uint32_t)ds.msg_stime;
    v[11] = (uint32_t)ds.msg_rtime;
    v[13] = (uint32_t)ds.msg_ctime;
    v[15] = (uint32_t)ds.__msg_cbytes;
    v[16] = (uint32_t)ds.msg_qnum;
    v[17] = (uint32_t)ds.msg_qbytes;
    v[18] = (uint32_t)ds.msg_lspid;
    v[19] = (uint32_t)ds.msg_lrpid;
    return lx_put(a[2], v, sizeof v) ? r : -EFAULT;
}

int64_t lx_sys32_semctl(struct lx_thread *t, const uint64_t *a)
{
    int cmd = (int)a[2] & ~0x100;
    struct semid_ds ds = {0};
    uint32_t v[16] = {0};
    int64_t r;

    if (cmd != IPC_STAT && cmd != IPC_SET && cmd != SEM_STAT && cmd != SEM_STAT_ANY) {
        uint64_t arg[6] = {a[0], a[1], (uint64_t)cmd, a[3]};

        return lx_safe_syscall(t, SYS_semctl, arg);
    }
    if (cmd == IPC_SET) {
        if (!lx_get(v, a[3], sizeof v))
            return -EFAULT;
        get_perm(&ds.sem_perm, v);
    }
    r = syscall(SYS_semctl, (int)a[0], (int)a[1], cmd, &ds);
    if (r < 0)
        return -errno;
    if (cmd == IPC_SET)
        return r;
    put_perm(v, &ds.sem_perm);
    v[9] = (uint32_t)ds.sem_otime;
    v[11] = (uint32_t)ds.sem_ctime;
    v[13] = (uint32_t)ds.sem_nsems;
    return lx_put(a[3], v, sizeof v) ? r : -EFAULT;
}

enum { MAX_MSG = 1 << 20 };

static int64_t msg_snd(struct lx_thread *t, uint64_t id, uint64_t at, uint64_t n, uint64_t flags)
{
    uint8_t *buf;
    uint64_t arg[6] = {id, 0, n, flags};
    int32_t type;
    int64_t r;

    if (n > MAX_MSG)
        return -EINVAL;
    buf = xmalloc(8 + n);
    arg[1] = (uintptr_t)buf;
    if (!lx_get(&type, at, 4) || !lx_get(buf + 8, at + 4, n)) {
        r = -EFAULT;
    } else {
        put_le64(buf, (uint64_t)(int64_t)type);
        r = lx_safe_syscall(t, SYS_msgsnd, arg);
    }
    free(buf);
    return r;
}

static int64_t msg_rcv(struct lx_thread *t, uint64_t id, uint64_t at, uint64_t n, int64_t type, uint64_t flags)
{
    uint8_t *buf;
    uint64_t arg[6] = {id, 0, n, (uint64_t)type, flags};
    int64_t r;

    if (n > MAX_MSG)
        return -EINVAL;
    buf = xmalloc(8 + n);
    arg[1] = (uintptr_t)buf;
    r = lx_safe_syscall(t, SYS_msgrcv, arg);
    if (r >= 0 && (!lx_put(at, buf, 4) || !lx_put(at + 4, buf + 8, (size_t)r)))
        r = -EFAULT;
    free(buf);
    return r;
}

int64_t lx_sys32_msgsnd(struct lx_thread *t, const uint64_t *a)
{
    return msg_snd(t, a[0], a[1], a[2], a[3]);
}

int64_t lx_sys32_msgrcv(struct lx_thread *t, const uint64_t *a)
{
    return msg_rcv(t, a[0], a[1], a[2], (int32_t)a[3], a[4]);
}

/* ipc(call, first, second, third, pointer, fifth) */
int64_t lx_sys32_ipc(struct lx_thread *t, const uint64_t *a)
{
    uint32_t call = (uint32_t)a[0] & 0xffff, w[2];
    uint64_t x[6] = {a[1], a[2], a[3], a[4], a[5]}, at;

    switch (call) {
    case 1: /* semop */
    case 4: {
        uint64_t arg[6] = {a[1], a[4], a[2], call == 4 ? a[5] : 0};

        return lx_sys32_semtimedop(t, arg);
    }
    case 2: /* semget */
        return lx_safe_syscall(t, SYS_semget, x);
    case 3: /* semctl: the argument is behind the pointer */
        if (!lx_get_word(a[4], &at))
            return -EFAULT;
        x[3] = at;
        return lx_sys32_semctl(t, x);
    case 11:
        return msg_snd(t, a[1], a[4], a[2], a[3]);
    case 12:
        if ((uint32_t)a[0] >> 16 == 0) {
            if (!lx_get(w, a[4], 8))
                return -EFAULT;
            return msg_rcv(t, a[1], w[0], a[2], (int32_t)w[1], a[3]);
        }
        return msg_rcv(t, a[1], a[4], a[2], (int32_t)a[5], a[3]);
    case 13:
        return lx_safe_syscall(t, SYS_msgget, x);
    case 14:
        x[2] = a[4];
        return lx_sys32_msgctl(t, x);
    case 21: { /* shmat: the address goes through the third */
        uint64_t arg[6] = {a[1], a[4], a[2]};
        int64_t r = lx_sys_shmat(t, arg);

        if (r < 0 && r > -4096)
            return r;
        return lx_put_word(a[3], (uint64_t)r) ? 0 : -EFAULT;
    }
    case 22:
        x[0] = a[4];
        return lx_sys_shmdt(t, x);
    case 23:
        return lx_safe_syscall(t, SYS_shmget, x);
    case 24:
        x[2] = a[4];
        return lx_sys32_shmctl(t, x);
    default:
        return -ENOSYS;
    }
}

static void attr_in(struct mq_attr *h, const int32_t v[8])
{
    h->mq_flags = v[0];
    h->mq_maxmsg = v[1];
    h->mq_msgsize = v[2];
    h->mq_curmsgs = v[3];
}

int64_t lx_sys32_mq_open(struct lx_thread *t, const uint64_t *a)
{
    struct mq_attr h = {0};
    int32_t v[8];
    uint64_t arg[6];

    memcpy(arg, a, sizeof arg);
    if (a[3]) {
        if (!lx_get(v, a[3], sizeof v))
            return -EFAULT;
        attr_in(&h, v);
        arg[3] = (uintptr_t)&h;
    }
    return lx_safe_syscall(t, SYS_mq_open, arg);
}

int64_t lx_sys32_mq_getsetattr(struct lx_thread *t, const uint64_t *a)
{
    struct mq_attr in = {0}, out = {0};
    uint64_t arg[6] = {a[0], a[1] ? (uintptr_t)&in : 0, a[2] ? (uintptr_t)&out : 0};
    int32_t v[8] = {0};
    int64_t r;

    if (a[1]) {
        if (!lx_get(v, a[1], sizeof v))
            return -EFAULT;
        attr_in(&in, v);
    }
    r = lx_safe_syscall(t, SYS_mq_getsetattr, arg);
    if (r < 0 || !a[2])
        return r;
    memset(v, 0, sizeof v);
    v[0] = (int32_t)out.mq_flags;
    v[1] = (int32_t)out.mq_maxmsg;
    v[2] = (int32_t)out.mq_msgsize;
    v[3] = (int32_t)out.mq_curmsgs;
    return lx_put(a[2], v, sizeof v) ? r : -EFAULT;
}
