/* clock [MILLISECONDS]: time on several processors. Each thread stays on a processor of its own. A time stamp or a
 * clock's value that one processor read and handed over is never later than what another reads after it; the clocks run
 * at one speed on all of them; timers come no earlier than they were asked for, and the promised number of times. */
#define _GNU_SOURCE
#include "t.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { MAX = 8 };
enum kind { TSC, TSCP, MONO, RAW, REAL, KINDS };
static const char *const names[] = {"RDTSC", "RDTSCP", "CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_REALTIME"};
static unsigned nr_cpus, run_ms = 300;
static enum kind what;
static _Atomic uint64_t newest; /* handed over: who reads later must read no less */
static atomic_bool stop;
static _Atomic uint64_t back, worst, reads, moves;

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now(enum kind k)
{
    unsigned aux;

    switch (k) {
    case TSC:
        _mm_lfence();
        return __rdtsc();
    case TSCP:
        return __rdtscp(&aux);
    case MONO:
        return clock_ns(CLOCK_MONOTONIC);
    case RAW:
        return clock_ns(CLOCK_MONOTONIC_RAW);
    default:
        return clock_ns(CLOCK_REALTIME);
    }
}

static void pin(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    t_must(sched_setaffinity(0, sizeof set, &set) == 0);
}

static void *reader(void *arg)
{
    uint64_t n = 0, seen_by_others = 0;

    pin((unsigned)(uintptr_t)arg);
    while (!atomic_load(&stop)) {
        uint64_t before = atomic_load(&newest), t = now(what);

        n++;
        if (t < before) {
            atomic_fetch_add(&back, 1);
            if (before - t > atomic_load(&worst))
                atomic_store(&worst, before - t);
        }
        if (t > before)
            seen_by_others += atomic_compare_exchange_strong(&newest, &before, t);
    }
    atomic_fetch_add(&reads, n);
    atomic_fetch_add(&moves, seen_by_others);
    return NULL;
}

static void never_back(enum kind k)
{
    pthread_t th[MAX];

    what = k;
    newest = back = worst = reads = moves = 0;
    atomic_store(&stop, false);
    for (unsigned i = 0; i < nr_cpus; i++)
        t_must(pthread_create(&th[i], NULL, reader, (void *)(uintptr_t)i) == 0);
    usleep(run_ms * 1000);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < nr_cpus; i++)
        pthread_join(th[i], NULL);
    claim(!back && moves, names[k], "%llu reads on %u processors, %llu handed over, %llu went back, by %llu at most",
          (unsigned long long)reads, nr_cpus, (unsigned long long)moves, (unsigned long long)back,
          (unsigned long long)worst);
}

/* The same stretch of time by the stamps of every processor: started and ended on it while the clock is read there. */
static void one_speed(void)
{
    double lo = 1e30, hi = 0;

    for (unsigned i = 0; i < nr_cpus; i++) {
        uint64_t t0, c0, t1, c1;

        pin(i);
        c0 = clock_ns(CLOCK_MONOTONIC), t0 = __rdtsc();
        usleep(run_ms * 1000);
        c1 = clock_ns(CLOCK_MONOTONIC), t1 = __rdtsc();
        double rate = (double)(t1 - t0) / (double)(c1 - c0);

        lo = rate < lo ? rate : lo;
        hi = rate > hi ? rate : hi;
    }
    claim(hi / lo < 1.02, "stamps run at one speed", "%.4f to %.4f a nanosecond", lo, hi);
}

static void sleeps(void)
{
    unsigned early = 0;
    uint64_t longest = 0;

    for (unsigned i = 0; i < 200; i++) {
        struct timespec ts = {0, (long)(i * 7919 % 1000000)};
        uint64_t a, b;

        pin(i % nr_cpus);
        a = clock_ns(CLOCK_MONOTONIC);
        nanosleep(&ts, NULL);
        b = clock_ns(CLOCK_MONOTONIC) - a;
        early += b < (uint64_t)ts.tv_nsec;
        longest = b > longest ? b : longest;
    }
    claim(!early, "no sleep ends early", "%u of 200 did, the longest took %llu us", early,
          (unsigned long long)longest / 1000);
}

static void timer_counts(void)
{
    struct sigevent none = {.sigev_notify = SIGEV_NONE};
    struct itimerspec every = {{0, 2000000}, {0, 2000000}}, left;
    uint64_t a, passed;
    timer_t t;

    t_must(timer_create(CLOCK_MONOTONIC, &none, &t) == 0);
    a = clock_ns(CLOCK_MONOTONIC);
    t_must(timer_settime(t, 0, &every, NULL) == 0);
    for (unsigned i = 0; i < 50; i++) {
        pin(i % nr_cpus);
        usleep(3000);
        t_must(timer_gettime(t, &left) == 0);
        if (left.it_value.tv_sec || left.it_value.tv_nsec > 2000000)
            break;
    }
    passed = clock_ns(CLOCK_MONOTONIC) - a;
    claim(left.it_value.tv_sec == 0 && left.it_value.tv_nsec <= 2000000, "a periodic timer keeps its period",
          "%ld ns left after %llu us", left.it_value.tv_nsec, (unsigned long long)passed / 1000);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        run_ms = (unsigned)atoi(argv[1]);
    nr_cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    nr_cpus = nr_cpus > MAX ? MAX : nr_cpus;
    printf("%u processors\n", nr_cpus);
    for (enum kind k = 0; k < KINDS; k++)
        never_back(k);
    one_speed();
    sleeps();
    timer_counts();
    return t_end();
}
