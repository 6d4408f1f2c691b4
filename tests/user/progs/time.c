/* Clocks go forward, sleeps take as long as asked, timers fire. */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
int main(void)
{
    struct itimerspec it = {{0, 0}, {0, 20000000}};
    struct timespec ts = {0, 30000000};
    struct timeval tv = {0, 10000}, day;
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0x1122334455667788}, out[4];
    struct pollfd pf;
    double a = now(), b;
    uint64_t n = 5;
    fd_set s;
    int t, e, ep, i;

    nanosleep(&ts, NULL);
    b = now();
    printf("slept %d\n", b - a >= 0.03 && b - a < 5);
    gettimeofday(&day, NULL);
    printf("clock %d %d\n", day.tv_sec > 1600000000, (long)(time(NULL) - day.tv_sec) <= 1);
    t = timerfd_create(CLOCK_MONOTONIC, 0);
    e = eventfd(0, 0);
    ep = epoll_create1(0);
    timerfd_settime(t, 0, &it, NULL);
    epoll_ctl(ep, EPOLL_CTL_ADD, t, &ev);
    ev.data.u64 = 42;
    epoll_ctl(ep, EPOLL_CTL_ADD, e, &ev);
    i = epoll_wait(ep, out, 4, 5000);
    printf("epoll %d %llx\n", i, (unsigned long long)out[0].data.u64);
    if (write(e, &n, 8) != 8 || read(t, &n, 8) != 8)
        return 1;
    printf("timer %d\n", (int)n);
    i = epoll_wait(ep, out, 4, 5000);
    printf("epoll %d %llx\n", i, (unsigned long long)out[0].data.u64);
    pf.fd = e;
    pf.events = POLLIN;
    i = poll(&pf, 1, 100);
    printf("poll %d %d\n", i, pf.revents);
    FD_ZERO(&s);
    FD_SET(e, &s);
    i = select(e + 1, &s, NULL, NULL, &tv);
    printf("select %d %d\n", i, FD_ISSET(e, &s) != 0);
    return 0;
}
