/* Random system calls with random arguments: fuzzcalls SEED CHILDREN [FREE]. Each child makes a few hundred and ends,
 * by itself, by a signal, by an alarm, or after four seconds by its parent. What is left out would end the parent or
 * multiply processes; descriptor 2 stays, for what a translator has to say. FREE: no limit of the address space, which
 * a sanitizer's would break. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const int skipped[] = {
    SYS_exit,
    SYS_exit_group,
    SYS_kill,
    SYS_tkill,
    SYS_tgkill,
    SYS_rt_sigqueueinfo,
    SYS_clone,
    SYS_execve,
    SYS_execveat,
    SYS_rt_tgsigqueueinfo,
    SYS_reboot,
    SYS_rt_sigsuspend,
#ifdef SYS_pause
    SYS_pause,
#endif
    SYS_rt_sigreturn,
    SYS_ptrace,
    SYS_setpriority,
    SYS_setrlimit,
    SYS_prlimit64,
    SYS_sched_setscheduler,
    SYS_sched_setattr,
    SYS_sched_setparam,
    SYS_chroot,
    SYS_umount2,
    SYS_mount,
    SYS_pivot_root,
    SYS_unshare,
    SYS_setns,
    SYS_syslog,
    SYS_swapon,
    SYS_swapoff,
    SYS_settimeofday,
    SYS_init_module,
    SYS_delete_module,
    SYS_acct,
    SYS_vhangup,
    SYS_quotactl,
    SYS_bpf,
#ifdef SYS_fork
    SYS_fork,
    SYS_vfork,
#endif
#ifdef SYS_close_range
    SYS_close_range,
#endif
#ifdef SYS_clone3
    SYS_clone3,
#endif
#ifdef SYS_pidfd_send_signal
    SYS_pidfd_send_signal,
#endif
#ifdef SYS_sigreturn
    SYS_sigreturn,
    SYS_sigsuspend,
#endif
};
static uint64_t state;
static int no_limit;
static unsigned char *area; /* 64 KiB with a hole behind */

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1du;
}

static long arg(void)
{
    switch (rnd() % 12) {
    case 0:
        return 0;
    case 1:
        return -1;
    case 2:
        return (long)(rnd() % 10);
    case 3:
        return (long)(1u << rnd() % 32);
    case 4:
        return (long)rnd();
    case 5:
        return (long)(uintptr_t)(area + 65536 - rnd() % 40); /* runs into the hole */
    case 6:
        return (long)(uintptr_t)(area + 65536 + rnd() % 4096);
    case 7:
        return (long)0xfffffffffffff000u;
    case 8:
        return (long)(rnd() % 5000);
    default:
        return (long)(uintptr_t)(area + (rnd() % 65000 & ~(rnd() & 7)));
    }
}

static int skip(long nr)
{
    for (unsigned i = 0; i < sizeof skipped / sizeof *skipped; i++)
        if (skipped[i] == nr)
            return 1;
    return 0;
}

static void child(uint64_t seed)
{
    struct rlimit core = {0, 0}, files = {64, 64}, as = {1u << 30, 1u << 30}, size = {1 << 20, 1 << 20};

    state = seed * 0x9e3779b97f4a7c15u + 1;
    setrlimit(RLIMIT_CORE, &core);
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_FSIZE, &size);
    if (!no_limit)
        setrlimit(RLIMIT_AS, &as);
    for (unsigned i = 0; i < 65536; i++)
        area[i] = rnd() % 5 ? (unsigned char)(rnd() % 4) : (unsigned char)rnd();
    alarm(3);
    for (unsigned n = 0; n < 300; n++) {
        long nr = (long)(rnd() % 462);

        long a[6];

        for (unsigned i = 0; i < 6; i++)
            a[i] = arg();
        if (skip(nr))
            continue;
        syscall(nr, (int)a[0] == 2 ? 3 : a[0], (int)a[1] == 2 ? 3 : a[1], a[2], a[3], a[4], a[5]);
        if (n % 16 == 0)
            alarm(3);
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1, n = argc > 2 ? strtoull(argv[2], NULL, 0) : 20;
    int status, killed = 0;

    no_limit = argc > 3;
    area = mmap(NULL, 65536 + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(area + 65536, 8192);
    for (uint64_t i = 0; i < n; i++) {
        pid_t p = fork();

        if (!p)
            child(seed + i);
        for (unsigned ms = 0; !waitpid(p, &status, WNOHANG); ms += 2) {
            if (ms == 4000) /* it has blocked its alarm and waits for something */
                kill(p, SIGKILL);
            usleep(2000);
        }
        killed += WIFSIGNALED(status) && WTERMSIG(status) != SIGALRM && WTERMSIG(status) != SIGKILL;
    }
    printf("%llu children of at most 300 calls, %d ended by a signal\ndone\n", (unsigned long long)n, killed);
    return 0;
}
