/* The rest: names, process control, SysV IPC control structures. */
#include "base/util.h"
#include "user/linux/seccomp.h"
#include "user/linux/syscalls.h"

#include <elf.h>
#include <errno.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int64_t lx_sys_uname(struct lx_thread *t, const uint64_t *a)
{
    struct utsname u;

    if (uname(&u) < 0)
        return -errno;
    memset(u.machine, 0, sizeof u.machine);
    strncpy(u.machine, lx_proc.arch->uname_machine, sizeof u.machine - 1);
    if (lx_proc.opt.uname) {
        memset(u.release, 0, sizeof u.release);
        strncpy(u.release, lx_proc.opt.uname, sizeof u.release - 1);
    }
    return lx_put(a[0], &u, sizeof u) ? 0 : -EFAULT;
}

int64_t lx_sys_prctl(struct lx_thread *t, const uint64_t *a)
{
    switch ((int)a[0]) {
    case PR_GET_SECCOMP: /* nobody in strict mode comes here */
        return t->secc ? 2 : 0;
    case PR_SET_SECCOMP:
        return lx_seccomp_prctl(t, a[1], a[2]);
    case PR_SET_MM:
    case PR_SET_SYSCALL_USER_DISPATCH:
    case PR_SET_TSC:
    case PR_SET_UNALIGN:
    case PR_SET_FPEMU:
    case PR_SET_FPEXC:
    case PR_SET_ENDIAN:
    case PR_SVE_SET_VL:
    case PR_SVE_GET_VL:
    case PR_SET_TAGGED_ADDR_CTRL:
    case PR_GET_TAGGED_ADDR_CTRL:
        return -EINVAL; /* they would act on the translator */
    case PR_GET_PDEATHSIG:
    case PR_GET_CHILD_SUBREAPER: {
        int v = 0;

        return syscall(SYS_prctl, (int)a[0], &v) < 0 ? -errno : lx_put(a[1], &v, 4) ? 0 : -EFAULT;
    }
    case PR_GET_TID_ADDRESS: /* the host's is its C library's */
        return lx_put_word(a[1], t->clear_tid) ? 0 : -EFAULT;
    default:
        return lx_safe_syscall(t, SYS_prctl, a);
    }
}

/* What is put into a ring is the guest's layout (epoll_event, open flags), which nobody converts: only where it is the
 * host's. Elsewhere as on a kernel without rings, which programs fall back from. */
int64_t lx_sys_io_uring_setup(struct lx_thread *t, const uint64_t *a)
{
    return lx_proc.arch->elf_machine == EM_X86_64 ? lx_safe_syscall(t, SYS_io_uring_setup, a) : -ENOSYS;
}

/* 64-bit guests: asm-generic structures equal the host's but for semid_ds, where x86 has a word of padding behind each
 * time. */
int64_t lx_sys_semctl(struct lx_thread *t, const uint64_t *a)
{
    uint64_t h[13] = {0}, g[11] = {0}; /* 6 words of permissions, otime, ctime, nsems, 2 of nothing */
    int cmd = (int)a[2] & ~0x100 /* IPC_64 */;
    int64_t r;

    if (lx_proc.arch->elf_machine == EM_X86_64 ||
        (cmd != IPC_STAT && cmd != IPC_SET && cmd != SEM_STAT && cmd != SEM_STAT_ANY))
        return lx_safe_syscall(t, SYS_semctl, a);
    if (cmd == IPC_SET && !lx_get(h, a[3], 48)) /* only the permissions are looked at */
        return -EFAULT;
    r = lx_safe_syscall(t, SYS_semctl, (const uint64_t[6]){a[0], a[1], (uint64_t)cmd, (uintptr_t)h});
    if (r < 0 || cmd == IPC_SET)
        return r;
    memcpy(g, h, 48);
    g[6] = h[6];
    g[7] = h[8];
    g[8] = h[10];
    return lx_put(a[3], g, sizeof g) ? r : -EFAULT;
}

int64_t lx_sys_shmctl(struct lx_thread *t, const uint64_t *a)
{
    return lx_safe_syscall(t, SYS_shmctl, a);
}

int64_t lx_sys_msgctl(struct lx_thread *t, const uint64_t *a)
{
    return lx_safe_syscall(t, SYS_msgctl, a);
}
