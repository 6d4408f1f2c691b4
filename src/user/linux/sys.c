/* System calls: from the guest's number to a row of syscalls.def, to the host's kernel or a handler. */
#include "base/util.h"
#include "user/linux/seccomp.h"
#include "user/linux/syscalls.h"
#include "user/linux/sysnr.h"
#include "user/linux/vdso.h"

#include <errno.h>
#include <limits.h>
#include <sys/syscall.h>
#include <unistd.h>

#define __NR_none (-1)
/* Newer than the headers this may be built with; the same number on every architecture. */
#ifndef __NR_cachestat
#define __NR_cachestat 451
#endif
#ifndef __NR_fchmodat2
#define __NR_fchmodat2 452
#endif
#ifndef __NR_futex_wake
#define __NR_futex_wake    454
#define __NR_futex_wait    455
#define __NR_futex_requeue 456
#endif
#define FN_RAW(p, n)   NULL
#define FN_OWN(p, n)   lx_sys_##n
#define FN_W32(p, n)   lx_sys32_##n
#define FN_NO(p, n)    NULL
#define FN_OTHER(p, n) NULL
#define SYS(name_, host_, spec_, how64_, how32_)                                                                       \
    {.name = #name_,                                                                                                   \
     .spec = spec_,                                                                                                    \
     .host = __NR_##host_,                                                                                             \
     .fn64 = FN_##how64_(64, name_),                                                                                   \
     .fn32 = FN_##how32_(32, name_),                                                                                   \
     .how64 = LX_HOW_##how64_,                                                                                         \
     .how32 = LX_HOW_##how32_},
const struct lx_sysrow lx_sysrows[] = {
#include "user/linux/syscalls.def"
};
#undef SYS

enum { MAX_NR = 1024 };
static uint16_t row_of[MAX_NR]; /* guest number -> row + 1; filled once */

static void build_index(void)
{
    for (const struct lx_sysnr *n = lx_proc.arch->sysnr; n->nr != 0xffff; n++)
        if (n->nr < MAX_NR)
            row_of[n->nr] = (uint16_t)(n->id + 1);
}

static const struct lx_sysrow *find(uint64_t nr)
{
    static bool built;

    if (!built) {
        build_index();
        built = true;
    }
    return nr < MAX_NR && row_of[nr] ? &lx_sysrows[row_of[nr] - 1] : NULL;
}

/* RAW: with paths looked up in the prefixes, and again when the kernel could not write a page watched for code. */
static int64_t raw(struct lx_thread *t, const struct lx_sysrow *row, const uint64_t *arg)
{
    uint32_t *failed = &t->cpu->rt->view.out->failed;
    uint64_t a[6];
    char *path = NULL, buf[PATH_MAX];
    int64_t r;

    memcpy(a, arg, sizeof a);
    if (lx_proc.opt.prefix && lx_proc.opt.prefix[0]) {
        for (unsigned i = 0; row->spec[i] && i < 6; i++) {
            int e = 0;

            if (row->spec[i] != 'P' || !a[i])
                continue;
            path = lx_get_str(a[i], PATH_MAX, &e);
            if (!path)
                return -e;
            a[i] = (uintptr_t)lx_path(path, buf);
            break;
        }
    }
    if (unlikely(*failed)) { /* made by a stub */
        *failed = 0;
        r = -EFAULT;
    } else {
        r = lx_safe_syscall(t, row->host, a);
    }
    if (unlikely(r == -EFAULT) && lx_rt_written_any(lx_proc.rt))
        r = lx_safe_syscall(t, row->host, a);
    free(path);
    return r;
}

static int64_t call(struct lx_thread *t, const struct lx_sysrow *row, uint64_t nr, const uint64_t *a)
{
    bool is32 = lx_is32();
    int64_t (*fn)(struct lx_thread *, const uint64_t *) = is32 ? row->fn32 : row->fn64;
    int64_t r;

    switch (is32 ? row->how32 : row->how64) {
    case LX_HOW_RAW:
        return raw(t, row, a);
    case LX_HOW_OWN:
    case LX_HOW_W32:
        r = fn(t, a);
        if (unlikely(r == -EFAULT) && lx_rt_written_any(lx_proc.rt))
            r = fn(t, a);
        return r;
    default:
        return -ENOSYS;
    }
}

/* As below, with a stop for each that began with one. A call that is to be made again shows its tracer ERESTARTSYS, and
 * is made again unless the tracer sends the program elsewhere. */
static void traced_result(struct lx_thread *t, uint64_t nr, const uint64_t a[6], int64_t r)
{
    const struct lx_arch *ar = lx_proc.arch;
    uint64_t pc = ar->get(t->cpu, LX_PC);

    t->trace.restart = r == -EINTR;
    t->trace.restart_nr = nr;
    if (r != -LX_NORESULT)
        ar->sys_result(t->cpu, r);
    if (t->trace.how == LX_TRACE_SYSCALL && !t->trace.fresh)
        lx_trace_syscall(t, false, nr, a, r == -LX_NORESULT ? 0 : r);
    t->trace.fresh = false;
    if (r == -LX_ERESTART && ar->get(t->cpu, LX_PC) == pc)
        lx_trace_again(t);
}

void lx_syscall(struct lx_thread *t)
{
    const struct lx_arch *ar = lx_proc.arch;
    uint64_t nr = ar->get(t->cpu, LX_SYSNO), a[6];
    const struct lx_sysrow *row = find(nr);
    int64_t r = -ENOSYS;

    for (unsigned i = 0; i < 6; i++)
        a[i] = ar->get(t->cpu, LX_ARG0 + i);
    if (nr >= LX_VDSO_NR && lx_vdso_syscall(nr, ar->get(t->cpu, LX_PC), a, &r)) {
        ar->sys_result(t->cpu, r);
        return;
    }
    if (unlikely(t->trace.on || t->secc)) /* come since a stub made the call: it is made again, under their eyes */
        t->cpu->rt->view.out->failed = 0;
    if (unlikely(t->trace.on && t->trace.how == LX_TRACE_SYSCALL)) {
        lx_trace_syscall(t, true, nr, a, -ENOSYS);
        nr = ar->get(t->cpu, LX_SYSNO);
        row = find(nr);
        for (unsigned i = 0; i < 6; i++)
            a[i] = ar->get(t->cpu, LX_ARG0 + i);
    }
    if (unlikely(lx_proc.opt.strace))
        lx_strace_enter(t, row, nr, a);
    if (unlikely(t->secc) && !lx_seccomp_allows(t, nr, a, &r))
        row = NULL;
    else if (!ar->sys_own || !ar->sys_own(t->cpu, nr, a, &r))
        r = row ? call(t, row, nr, a) : -ENOSYS;
    if (t->exiting)
        return;
    if (unlikely(lx_proc.opt.strace))
        lx_strace_leave(t, row, a, r);
    if (unlikely(lx_tracing()) && row && r > 0 && (row->host == SYS_pwrite64 || row->host == SYS_write))
        lx_trace_wrote((int)a[0], row->host == SYS_pwrite64 ? a[3] : 0, (uint64_t)r);
    if (unlikely(t->trace.on))
        traced_result(t, nr, a, r);
    else if (r == -LX_ERESTART)
        ar->sys_restart(t->cpu);
    else if (r != -LX_NORESULT)
        ar->sys_result(t->cpu, r);
}
