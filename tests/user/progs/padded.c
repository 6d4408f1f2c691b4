/* What differs in layout between words of 32 and 64 bits: times of 64 bits, whose nanoseconds 32-bit programs leave
 * padding above, and what a signal says of a descriptor, a value, a timer. */
#include "said.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

#if __SIZEOF_LONG__ == 4
#define CALL(name, n32, ...) (errno = 0, said(#name, syscall(n32, __VA_ARGS__)))
struct when {
    int64_t sec;
    int32_t nsec, padding;
};
#define WHEN(s, n)                                                                                                     \
    {                                                                                                                  \
        s, n, 0x5a5a5a5a                                                                                               \
    }
#else
#define CALL(name, n32, ...) (errno = 0, said(#name, syscall(SYS_##name, __VA_ARGS__)))
struct when {
    int64_t sec, nsec;
};
#define WHEN(s, n)                                                                                                     \
    {                                                                                                                  \
        s, n                                                                                                           \
    }
#endif

static volatile sig_atomic_t code, fd_of, value_of;

static void handler(int sig, siginfo_t *i, void *u)
{
    code = i->si_code;
    fd_of = i->si_fd;
    value_of = i->si_value.sival_int;
}

static void times(void)
{
    struct when ms = WHEN(0, 1000000), at[2] = {WHEN(0, 0), WHEN(0, 1000000)}, stamps[2] = {WHEN(5, 6), WHEN(7, 8)};
    struct when never = WHEN(0, -1), much = WHEN(0, 1000000000);
    struct pollfd none = {-1};
    uint64_t usr2 = 1u << (SIGUSR2 - 1);
    struct sembuf down = {0, -1, 0};
    struct stat st;
    int word = 3, fd;
    long id = 0;

    signal(SIGALRM, SIG_IGN);
    CALL(clock_nanosleep, 407, CLOCK_MONOTONIC, 0, &ms, NULL);
    CALL(clock_nanosleep, 407, CLOCK_MONOTONIC, 0, &never, NULL);
    CALL(clock_nanosleep, 407, CLOCK_MONOTONIC, 0, &much, NULL);
    SAY(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &id));
    CALL(timer_settime, 409, (int)id, 0, at, NULL);
    SAY_IF(fd = timerfd_create(CLOCK_MONOTONIC, 0));
    CALL(timerfd_settime, 411, fd, 0, at, NULL);
    SAY(read(fd, &usr2, 8));
    usr2 = 1u << (SIGUSR2 - 1);
    close(fd);
    fd = open("padded.tmp", O_CREAT | O_RDWR, 0600);
    CALL(utimensat, 412, AT_FDCWD, "padded.tmp", stamps, 0);
    SAY(fstat(fd, &st));
    printf("%ld %ld %ld %ld\n", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, (long)st.st_mtim.tv_sec,
           st.st_mtim.tv_nsec);
    unlink("padded.tmp");
    close(fd);
    CALL(pselect6, 413, 0, NULL, NULL, NULL, &ms, NULL);
    ms = (struct when)WHEN(0, 1000000);
    CALL(ppoll, 414, &none, 1, &ms, NULL, 8);
    SAY(ms.sec + ms.nsec);
    ms = (struct when)WHEN(0, 1000000);
    CALL(rt_sigtimedwait, 421, &usr2, NULL, &ms, 8);
    CALL(futex, 422, &word, FUTEX_WAIT, 3, &ms, NULL, 0);
    CALL(futex, 422, &word, FUTEX_WAKE, 3, 5, NULL, 0);
    id = semget(IPC_PRIVATE, 1, 0600);
    CALL(semtimedop, 420, (int)id, &down, 1, &ms);
    semctl((int)id, 0, IPC_RMID);
}

static void signals(void)
{
    struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    union sigval v = {.sival_int = 1234567};
    sigset_t usr1;
    siginfo_t i;
    int pair[2], sigs[] = {SIGIO, SIGUSR1, SIGRTMIN + 3};

    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    fcntl(pair[0], F_SETFL, O_ASYNC);
    fcntl(pair[0], F_SETOWN, getpid());
    for (int k = 0; k < 3; k++) {
        sigaction(sigs[k], &act, NULL);
        fcntl(pair[0], F_SETSIG, sigs[k]);
        code = fd_of = -1;
        write(pair[1], "x", 1);
        printf("%d: code %d, its descriptor %d\n", k, (int)code, fd_of == pair[0]);
    }
    sigqueue(getpid(), SIGUSR1, v);
    printf("code %d, value %d\n", (int)code, (int)value_of);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    sigqueue(getpid(), SIGUSR1, v);
    CALL(rt_sigtimedwait, 421, &usr1, &i, NULL, 8);
    printf("%d %d, from itself %d, value %d\n", i.si_signo, i.si_code, i.si_pid == getpid(), i.si_value.sival_int);
}

int main(void)
{
    times();
    signals();
    return 0;
}
