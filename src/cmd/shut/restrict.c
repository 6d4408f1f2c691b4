/* What the process inside gives up. Landlock (its own numbers below, so that older headers do): every right over files,
 * TCP and, where the kernel knows them, abstract sockets and signals; no rule gives any back. Seccomp: a list of what
 * is allowed, all else is EACCES (ENOSYS where the C library then takes another way). */
#include "cmd/shut/shut.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define AUDIT_ARCH_HERE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define AUDIT_ARCH_HERE AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define AUDIT_ARCH_HERE AUDIT_ARCH_RISCV64
#endif

/* ---- Landlock ---- */

enum { NR_LANDLOCK_CREATE = 444, NR_LANDLOCK_SELF = 446 };
struct landlock_all {
    uint64_t fs, net, scoped;
};

/* The ABI in force; 0 = none. */
static int landlock_on(void)
{
    static const uint8_t fs_bits[] = {0, 13, 14, 15, 15, 16}; /* rights by ABI, from 5 on the last */
    long abi = syscall(NR_LANDLOCK_CREATE, NULL, 0, 1);
    struct landlock_all a = {0};
    size_t size = sizeof a.fs;
    long fd;

    if (abi <= 0)
        return 0;
    a.fs = (UINT64_C(1) << fs_bits[min_u64((uint64_t)abi, 5)]) - 1;
    if (abi >= 4) {
        a.net = 3;
        size += sizeof a.net;
    }
    if (abi >= 6) {
        a.scoped = 3;
        size += sizeof a.scoped;
    }
    fd = syscall(NR_LANDLOCK_CREATE, &a, size, 0);
    if (fd < 0)
        return 0;
    if (syscall(NR_LANDLOCK_SELF, fd, 0) < 0)
        abi = 0;
    close((int)fd);
    return (int)abi;
}

/* ---- seccomp ---- */

#ifdef AUDIT_ARCH_HERE
static const uint16_t always[] = {
#ifdef __NR_poll
    __NR_poll,
    __NR_epoll_wait,
    __NR_select,
    __NR_dup2,
    __NR_time,
#endif
#ifdef __NR_newfstatat
    __NR_newfstatat,
#endif
#ifdef __NR_fadvise64
    __NR_fadvise64,
#endif
#ifdef __NR_epoll_pwait2
    __NR_epoll_pwait2,
#endif
    __NR_read,
    __NR_write,
    __NR_pread64,
    __NR_pwrite64,
    __NR_readv,
    __NR_writev,
    __NR_preadv,
    __NR_pwritev,
    __NR_preadv2,
    __NR_pwritev2,
    __NR_lseek,
    __NR_close,
    __NR_fstat,
    __NR_fstatfs,
    __NR_statx,
    __NR_fcntl,
    __NR_flock,
    __NR_fsync,
    __NR_fdatasync,
    __NR_sync_file_range,
    __NR_ftruncate,
    __NR_fallocate,
    __NR_copy_file_range,
    __NR_sendfile,
    451, /* cachestat, which headers of Debian 12 do not know */
    __NR_readahead,
    __NR_dup,
    __NR_dup3,
    __NR_pipe2,
    __NR_eventfd2,
    __NR_epoll_create1,
    __NR_epoll_ctl,
    __NR_epoll_pwait,
    __NR_ppoll,
    __NR_pselect6,
    __NR_timerfd_create,
    __NR_timerfd_settime,
    __NR_sendmsg,
    __NR_recvmsg,
    __NR_sendto,
    __NR_recvfrom,
    __NR_shutdown,
    __NR_getsockopt,
    __NR_setsockopt,
    __NR_getsockname,
    __NR_getpeername,
    __NR_munmap,
    __NR_mremap,
    __NR_madvise,
    __NR_brk,
    __NR_futex,
    __NR_set_robust_list,
    __NR_rseq,
    __NR_sched_yield,
    __NR_sched_getaffinity,
    __NR_gettid,
    __NR_getpid,
    __NR_getppid,
    __NR_getuid,
    __NR_geteuid,
    __NR_getgid,
    __NR_getegid,
    __NR_exit,
    __NR_exit_group,
    __NR_rt_sigaction,
    __NR_rt_sigprocmask,
    __NR_rt_sigreturn,
    __NR_sigaltstack,
    __NR_restart_syscall,
    __NR_getrandom,
    __NR_clock_gettime,
    __NR_clock_getres,
    __NR_clock_nanosleep,
    __NR_nanosleep,
    __NR_gettimeofday,
    __NR_getrusage,
    __NR_sysinfo,
    __NR_uname,
    __NR_wait4,
    __NR_io_setup,
    __NR_io_submit,
    __NR_io_getevents,
    __NR_io_destroy,
    __NR_io_uring_enter,
    __NR_membarrier,
};
static const uint16_t serving[] = {__NR_accept4, __NR_accept};
static const uint32_t ioctls[] = {BLKGETSIZE64,    BLKSSZGET,       BLKPBSZGET, BLKDISCARD, BLKZEROOUT, BLKROGET,
                                  FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, TCGETS,     TIOCGWINSZ, FIONREAD,   FIONBIO};

enum { PROG_MAX = 512 };
struct prog {
    struct sock_filter code[PROG_MAX];
    unsigned nr;
};

static void emit(struct prog *p, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
    assert(p->nr < PROG_MAX);
    p->code[p->nr++] = (struct sock_filter){code, jt, jf, k};
}

static void load(struct prog *p, size_t at)
{
    emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)at, 0, 0);
}

static void ret(struct prog *p, uint32_t what)
{
    emit(p, BPF_RET | BPF_K, what, 0, 0);
}

static void allow(struct prog *p, uint32_t nr)
{
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1);
    ret(p, SECCOMP_RET_ALLOW);
}

static size_t arg(unsigned i)
{
    return offsetof(struct seccomp_data, args) + 8 * i; /* the low half: little-endian hosts */
}

/* nr is allowed when (argument & mask) == value. */
static void allow_if(struct prog *p, uint32_t nr, unsigned i, uint32_t mask, uint32_t value)
{
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 5);
    load(p, arg(i));
    emit(p, BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    ret(p, SECCOMP_RET_ALLOW);
    load(p, offsetof(struct seccomp_data, nr));
}

static void allow_ioctls(struct prog *p)
{
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, (uint8_t)(2 * ARRAY_LEN(ioctls) + 2));
    load(p, arg(1));
    for (size_t i = 0; i < ARRAY_LEN(ioctls); i++)
        allow(p, ioctls[i]);
    load(p, offsetof(struct seccomp_data, nr));
}

static void refuse_with(struct prog *p, uint32_t nr, int error)
{
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1);
    ret(p, SECCOMP_RET_ERRNO | (uint32_t)error);
}

static bool seccomp_on(bool serves)
{
    struct prog p = {.nr = 0};
    struct sock_fprog f;

    load(&p, offsetof(struct seccomp_data, arch));
    emit(&p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_HERE, 1, 0);
    ret(&p, SECCOMP_RET_KILL_PROCESS);
    load(&p, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ARRAY_LEN(always); i++)
        allow(&p, always[i]);
    for (size_t i = 0; serves && i < ARRAY_LEN(serving); i++)
        allow(&p, serving[i]);
    allow_if(&p, __NR_mmap, 2, PROT_EXEC, 0);
    allow_if(&p, __NR_mprotect, 2, PROT_EXEC, 0);
    allow_if(&p, __NR_clone, 0, CLONE_THREAD, CLONE_THREAD);
    allow_if(&p, __NR_prctl, 0, ~0u, PR_SET_NAME);
    allow_if(&p, __NR_prlimit64, 2, ~0u, 0);
    allow_if(&p, __NR_tgkill, 0, ~0u, (uint32_t)getpid()); /* abort() */
    allow_ioctls(&p);
    refuse_with(&p, __NR_clone3, ENOSYS); /* its flags cannot be seen; clone() follows */
    refuse_with(&p, __NR_io_uring_setup, ENOSYS);
    ret(&p, SECCOMP_RET_ERRNO | EACCES);
    f = (struct sock_fprog){(unsigned short)p.nr, p.code};
    return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                   &f) == 0;
}
#else
static bool seccomp_on(bool serves)
{
    return false;
}
#endif

const char *shut_restrict(bool serves)
{
    bool ll, sc;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return "not in force: the kernel has no no_new_privs";
    ll = landlock_on();
    sc = seccomp_on(serves);
    return ll && sc ? "in force: Landlock and a system call list"
           : sc     ? "in force: a system call list only, this kernel has no Landlock"
           : ll     ? "in force: Landlock only, this kernel has no seccomp filters"
                    : "not in force: this kernel has neither Landlock nor seccomp filters";
}
