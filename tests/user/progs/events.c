/* What waits for events: poll, select, epoll, eventfd, timerfd, signalfd, inotify, pidfd, and their structures. */
#include "said.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>

static void polls(void)
{
    int p[2], n;
    struct pollfd f[2];
    struct timespec ts = {0, 10000000};
    struct timeval tv = {0, 10000};
    sigset_t set;
    fd_set r, w;

    pipe(p);
    f[0] = (struct pollfd){p[0], POLLIN, 0};
    f[1] = (struct pollfd){p[1], POLLOUT, 0};
    n = poll(f, 2, 0);
    printf("poll %d %x %x\n", n, f[0].revents, f[1].revents);
    write(p[1], "x", 1);
    sigemptyset(&set);
    n = ppoll(f, 2, &ts, &set);
    printf("ppoll %d %x %x\n", n, f[0].revents, f[1].revents);
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p[0], &r);
    FD_SET(p[1], &w);
    n = select(p[1] + 1, &r, &w, NULL, &tv);
    printf("select %d %d %d\n", n, FD_ISSET(p[0], &r), FD_ISSET(p[1], &w));
    read(p[0], &n, 1);
    FD_ZERO(&r);
    FD_SET(p[0], &r);
    tv.tv_usec = 10000;
    n = select(p[1] + 1, &r, NULL, NULL, &tv);
    printf("select %d %d left %d\n", n, FD_ISSET(p[0], &r), (int)tv.tv_usec);
    FD_SET(p[0], &r);
    n = pselect(p[1] + 1, &r, NULL, NULL, &ts, &set);
    printf("pselect %d\n", n);
    close(p[1]);
    n = poll(f, 1, -1);
    printf("poll %d %x\n", n, f[0].revents);
    close(p[0]);
    n = poll(f, 1, -1);
    printf("poll %d %x\n", n, f[0].revents);
}

static void epolls(void)
{
    int e = epoll_create1(EPOLL_CLOEXEC), v = eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE), n;
    struct epoll_event ev = {EPOLLIN | EPOLLET, {.u64 = 0x123456789abcdef0}}, out[4];
    uint64_t c = 0;

    SAY(epoll_ctl(e, EPOLL_CTL_ADD, v, &ev));
    SAY(epoll_ctl(e, EPOLL_CTL_ADD, v, &ev));
    memset(out, 0, sizeof out);
    n = epoll_wait(e, out, 4, 100);
    printf("epoll %d %x %llx\n", n, out[0].events, (long long)out[0].data.u64);
    SAY(epoll_wait(e, out, 4, 0));
    SAY(read(v, &c, 8));
    printf("eventfd %d\n", (int)c);
    c = 0xfffffffffffffffe;
    SAY(write(v, &c, 8));
    SAY(read(v, &c, 4));
    ev.events = EPOLLIN | EPOLLONESHOT;
    ev.data.u64 = 5;
    SAY(epoll_ctl(e, EPOLL_CTL_MOD, v, &ev));
    n = epoll_pwait(e, out, 4, 100, NULL);
    printf("epoll %d %x %d\n", n, out[0].events, (int)out[0].data.u64);
    SAY(epoll_ctl(e, EPOLL_CTL_DEL, v, NULL));
    SAY(epoll_ctl(e, EPOLL_CTL_ADD, e, &ev));
    SAY(epoll_wait(e, out, 0, 0));
}

static void timers(void)
{
    struct itimerspec it = {{0, 3000000}, {0, 5000000}}, old;
    int t = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    uint64_t n = 0;

    SAY(timerfd_settime(t, 0, &it, &old));
    usleep(30000);
    SAY(read(t, &n, 8));
    SAY(n >= 3 && n < 2000);
    SAY(timerfd_gettime(t, &old));
    printf("interval %ld.%09ld\n", (long)old.it_interval.tv_sec, old.it_interval.tv_nsec);
    memset(&it, 0, sizeof it);
    SAY(timerfd_settime(t, 0, &it, NULL));
    it.it_value.tv_nsec = 1000000000;
    SAY(timerfd_settime(t, 0, &it, NULL));
}

static void signals(void)
{
    struct signalfd_siginfo si[2];
    union sigval v = {.sival_int = 99};
    sigset_t set;
    int s;

    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    s = signalfd(-1, &set, SFD_NONBLOCK);
    SAY(read(s, si, sizeof si));
    sigqueue(getpid(), SIGRTMIN + 3, v);
    SAY(read(s, si, sizeof si) == sizeof *si);
    printf("signalfd %d %d %d %d\n", si[0].ssi_signo - SIGRTMIN, si[0].ssi_code, si[0].ssi_int,
           si[0].ssi_pid == getpid());
    if (!fork())
        _exit(5);
    waitid(P_ALL, 0, NULL, WEXITED | WNOWAIT);
    while (read(s, si, sizeof si) < 0)
        usleep(1000);
    printf("child %d %d %d\n", si[0].ssi_signo == SIGCHLD, si[0].ssi_code == CLD_EXITED, si[0].ssi_status);
    wait(NULL);
    sigdelset(&set, SIGCHLD);
    SAY_IF(signalfd(s, &set, 0));
}

static void watches(void)
{
    int i = inotify_init1(IN_NONBLOCK), w, n;
    char buf[4096] __attribute__((aligned(8))), *p;
    struct inotify_event *e;

    mkdir("watched", 0700);
    w = inotify_add_watch(i, "watched", IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO);
    SAY(w);
    close(open("watched/a", O_CREAT | O_WRONLY, 0600));
    rename("watched/a", "watched/bb");
    unlink("watched/bb");
    n = (int)read(i, buf, sizeof buf);
    for (p = buf; p < buf + n; p += sizeof *e + e->len) {
        e = (void *)p;
        printf("inotify %x %s %d\n", e->mask, e->name, e->cookie != 0);
    }
    SAY(inotify_rm_watch(i, w));
    SAY(inotify_rm_watch(i, w));
    rmdir("watched");
    SAY(inotify_add_watch(i, "watched", IN_CREATE));
}

static void fan(void)
{
    int f = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY);
    struct fanotify_event_metadata m[4];
    char path[64], name[512] = "";

    if (f < 0) {
        printf("fanotify needs rights\n");
        return;
    }
    mkdir("fan", 0700);
    SAY(fanotify_mark(f, FAN_MARK_ADD, FAN_CLOSE_WRITE | FAN_EVENT_ON_CHILD, AT_FDCWD, "fan"));
    SAY(fanotify_mark(f, FAN_MARK_ADD, 1ull << 40, AT_FDCWD, "fan"));
    close(open("fan/written", O_CREAT | O_WRONLY, 0600));
    SAY(read(f, m, sizeof m) == sizeof *m);
    sprintf(path, "/proc/self/fd/%d", m[0].fd);
    SAY(readlink(path, name, sizeof name - 1) > 0);
    printf("fanotify %d %x %d %s\n", m[0].vers, (int)m[0].mask, m[0].pid == getpid(), strrchr(name, '/'));
    SAY(fanotify_mark(f, FAN_MARK_REMOVE, FAN_CLOSE_WRITE | FAN_EVENT_ON_CHILD, AT_FDCWD, "fan"));
    SAY(fanotify_mark(f, FAN_MARK_REMOVE, FAN_CLOSE_WRITE, AT_FDCWD, "fan"));
    unlink("fan/written");
    rmdir("fan");
}

static void pids(void)
{
    int pid = fork(), fd, got;
    siginfo_t si;
    struct pollfd f;

    if (!pid) {
        pause();
        _exit(1);
    }
    fd = (int)syscall(SYS_pidfd_open, pid, 0);
    SAY_IF(fd);
    f = (struct pollfd){fd, POLLIN, 0};
    SAY(poll(&f, 1, 0));
    SAY(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
    SAY(poll(&f, 1, -1));
    memset(&si, 0, sizeof si);
    SAY(waitid(3 /* P_PIDFD */, fd, &si, WEXITED | WNOWAIT));
    printf("siginfo %d %d %d %d\n", si.si_signo == SIGCHLD, si.si_code == CLD_KILLED, si.si_status, si.si_pid == pid);
    SAY(waitid(P_PID, pid, NULL, WEXITED));
    SAY(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
    got = (int)syscall(SYS_pidfd_open, getpid(), 0);
    SAY_IF(syscall(SYS_pidfd_getfd, got, 1, 0));
    SAY(syscall(SYS_pidfd_getfd, got, 999, 0));
    SAY(syscall(SYS_pidfd_open, -5, 0));
}

int main(void)
{
    polls();
    epolls();
    timers();
    signals();
    watches();
    fan();
    pids();
    return 0;
}
