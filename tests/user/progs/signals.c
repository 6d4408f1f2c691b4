/* Signals: order, masks, alternate stacks, restart, context edits, longjmp, queued values, interval timers. */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t got, alarms;
static volatile int value;
static char alt[65536];
static sigjmp_buf jb;

static void on_usr1(int s)
{
    got++;
}
static void on_rt(int s, siginfo_t *i, void *u)
{
    value = i->si_value.sival_int;
    printf("rt %d code %d value %d pid %d\n", s - SIGRTMIN, i->si_code, value, i->si_pid == getpid());
}
static void on_alt(int s)
{
    char here;

    printf("on alt stack: %d\n", &here >= alt && &here < alt + sizeof alt);
}
static volatile int *rung, *ended; /* seen by children too */

static void on_alarm(int s)
{
    alarms++;
    if (rung)
        ++*rung;
}
static void on_jump(int s)
{
    siglongjmp(jb, 5);
}
static void set(int sig, void *fn, int flags)
{
    struct sigaction sa = {.sa_flags = flags};

    if (flags & SA_SIGINFO)
        sa.sa_sigaction = (void (*)(int, siginfo_t *, void *))fn;
    else
        sa.sa_handler = (void (*)(int))fn;
    sigaction(sig, &sa, NULL);
}
static void masks(void)
{
    sigset_t s, p;

    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    sigprocmask(SIG_BLOCK, &s, NULL);
    raise(SIGUSR1);
    sigpending(&p);
    printf("blocked: got %d pending %d\n", (int)got, sigismember(&p, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &s, NULL);
    printf("unblocked: got %d\n", (int)got);
    sigprocmask(SIG_BLOCK, &s, NULL);
    kill(getpid(), SIGUSR1);
    sigfillset(&p);
    sigdelset(&p, SIGUSR1);
    printf("suspend %d", sigsuspend(&p));
    printf(" errno %d got %d\n", errno, (int)got);
    raise(SIGUSR1);
    sigemptyset(&p);
    sigaddset(&p, SIGUSR1);
    printf("wait %d\n", sigwaitinfo(&p, NULL) == SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &s, NULL);
}
/* The byte comes when the call has met two alarms, or when it has ended by one: however long either takes. */
static void restarts(int flags)
{
    struct itimerval it = {{0, 20000}, {0, 20000}}, off = {{0, 0}, {0, 0}};
    int p[2];
    char c = 0;
    ssize_t n;

    *rung = *ended = 0;
    set(SIGALRM, (void *)on_alarm, flags);
    if (pipe(p))
        exit(1);
    if (!fork()) {
        for (int i = 0; i < 20000 && (flags & SA_RESTART ? *rung < 2 : !*ended); i++)
            usleep(1000);
        if (write(p[1], "x", 1) != 1)
            _exit(1);
        _exit(0);
    }
    setitimer(ITIMER_REAL, &it, NULL);
    n = read(p[0], &c, 1);
    printf("read %zd errno %d char %c\n", n, n < 0 ? errno : 0, c ? c : '-');
    *ended = 1;
    setitimer(ITIMER_REAL, &off, NULL);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
}
static void busy(void)
{
    struct itimerval it = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    volatile unsigned long x = 0;

    alarms = 0;
    setitimer(ITIMER_REAL, &it, NULL);
    while (alarms < 50)
        x++;
    setitimer(ITIMER_REAL, &off, NULL);
    printf("interrupted a loop\n");
}
int main(void)
{
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    union sigval v = {.sival_int = 77};
    int st;

    setvbuf(stdout, NULL, _IOLBF, 0);
    rung = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ended = rung + 1;
    set(SIGUSR1, (void *)on_usr1, 0);
    raise(SIGUSR1);
    printf("got %d\n", (int)got);
    masks();
    set(SIGRTMIN + 3, (void *)on_rt, SA_SIGINFO);
    sigqueue(getpid(), SIGRTMIN + 3, v);
    sigaltstack(&ss, NULL);
    set(SIGUSR2, (void *)on_alt, SA_ONSTACK);
    raise(SIGUSR2);
    restarts(SA_RESTART);
    restarts(0);
    busy();
    set(SIGUSR2, (void *)on_jump, 0);
    if (!(st = sigsetjmp(jb, 1)))
        raise(SIGUSR2);
    printf("jumped %d\n", st);
    set(SIGUSR1, (void *)on_usr1, SA_RESETHAND);
    raise(SIGUSR1);
    if (!fork()) {
        raise(SIGUSR1);
        _exit(0);
    }
    wait(&st);
    printf("died of %d\n", WTERMSIG(st));
    if (!fork())
        abort();
    wait(&st);
    printf("died of %d\n", WTERMSIG(st));
    return 0;
}
