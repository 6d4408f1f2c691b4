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
    return 0;
}
