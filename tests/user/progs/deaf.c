/* Calls that fail because their memory cannot be used, and ways in which instructions fault, change nothing else: the
 * thread is reached by signals afterwards, and rounds as it did. */
#include "said.h"

#include <fenv.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

static volatile sig_atomic_t got;
static volatile double one = 1, three = 3;

static __attribute__((noinline, noclone)) int seven(void)
{
    return 7;
}

static void handler(int sig)
{
    got += sig == SIGUSR1;
}

static void heard(const char *after)
{
    double up;

    got = 0;
    kill(getpid(), SIGUSR1);
    up = one / three;
    printf("%s: heard %d, rounds up %d\n", after, (int)got, up > 0.33333333333333333);
    fflush(stdout);
}

static volatile sig_atomic_t code, sender;

static void detailed(int sig, siginfo_t *i, void *u)
{
    code = i->si_code;
    sender = i->si_pid;
}

/* Signals that processors cause, from whom they are not. */
static void no_faults(int sig)
{
    struct sigaction act = {.sa_sigaction = detailed, .sa_flags = SA_SIGINFO};
    siginfo_t i = {.si_signo = sig, .si_code = 2};
    int pid, status;

    sigaction(sig, &act, NULL);
    code = sender = 0;
    pid = syscall(SYS_clone, sig, 0, 0, 0, 0);
    if (!pid)
        _exit(3);
    while (waitpid(pid, &status, __WALL) < 0)
        ;
    printf("%d: of a child: code %d, it %d\n", sig, (int)code, sender == pid);
    i.si_pid = 4660;
    code = sender = 0;
    SAY(syscall(SYS_rt_sigqueueinfo, getpid(), sig, &i));
    printf("%d: of itself: code %d, sender %d\n", sig, (int)code, (int)sender);
    fflush(stdout);
}

#define AFTER(e) (errno = 0, said(#e, (long)(e)), heard(#e))

int main(void)
{
    struct sigaction act = {.sa_handler = handler};
    char *none = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ep = epoll_create1(0), pair[2];

    sigaction(SIGUSR1, &act, NULL);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    fesetround(FE_UPWARD);
    heard("nothing");
    AFTER(syscall(SYS_rt_sigprocmask, SIG_BLOCK, none, NULL, 8));
    AFTER(syscall(SYS_rt_sigaction, SIGUSR2, none, NULL, 8));
    AFTER(syscall(SYS_getitimer, ITIMER_REAL, none));
    AFTER(syscall(SYS_sigaltstack, none, NULL));
    AFTER(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, pair[0], none));
    AFTER(syscall(SYS_readv, pair[0], none, 1));
    AFTER(syscall(SYS_sendmsg, pair[0], none, 0));
    AFTER(syscall(SYS_execve, none, NULL, NULL));
    AFTER(syscall(SYS_prlimit64, 0, 7, none, NULL));
    AFTER(syscall(SYS_uname, none));
    memcpy(code, (void *)((long)seven & ~1L), 32);
    __builtin___clear_cache(code, code + 32);
    printf("%d\n", ((int (*)(void))(code + ((long)seven & 1)))());
    AFTER(syscall(SYS_uname, code + 1024)); /* beside code, in a page that is not written unseen */
    no_faults(SIGILL);
    no_faults(SIGTRAP);
    no_faults(SIGBUS);
    no_faults(SIGFPE);
    no_faults(SIGSEGV);
    return 0;
}
