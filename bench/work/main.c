/* micro [-t MS] [-r REPS] [-j PROCESSES] [-l] [NAME or ROW ...]: runs workloads and prints one line each:
 *
 *   NAME ROW NS_PER_UNIT MEDIAN_NS_PER_UNIT CHECK
 *
 * A repetition is as many units as take MS milliseconds (default 100); the smallest and the median of REPS (default 3)
 * are told. -l lists. Time is CLOCK_MONOTONIC. */
#include "micro.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REPS = 101 };
static const struct work *const all[] = {works_int, works_call, works_fp, works_simd, works_mem, works_sys};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static volatile uint64_t sink;

static double timed(const struct work *w, uint64_t n)
{
    double t = now();

    sink += w->run(n);
    return now() - t;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* The slowest of `jobs` processes that do n units each, started together. */
static double timed_jobs(const struct work *w, uint64_t n, int jobs)
{
    int start[2], done[2];
    double worst = 0, t;

    if (jobs == 1)
        return timed(w, n);
    if (pipe(start) || pipe(done))
        fail("pipe");
    for (int i = 0; i < jobs; i++) {
        pid_t kid = fork();

        if (kid < 0)
            fail("fork");
        if (!kid) {
            char c;

            sink += w->run(w->grain);
            if (write(done[1], "", 1) != 1 || read(start[0], &c, 1) != 1)
                _exit(1);
            t = timed(w, n);
            _exit(write(done[1], &t, sizeof t) != sizeof t);
        }
    }
    for (int i = 0; i < jobs; i++)
        if (read(done[0], &t, 1) != 1)
            fail("read");
    if (write(start[1], "gogogogogogogogogogogogogogogogo", (size_t)jobs) != jobs)
        fail("write");
    for (int i = 0; i < jobs; i++) {
        if (read(done[0], &t, sizeof t) != sizeof t)
            fail("read");
        worst = t > worst ? t : worst;
    }
    for (int i = 0; i < jobs; i++)
        wait(NULL);
    for (int i = 0; i < 2; i++) {
        close(start[i]);
        close(done[i]);
    }
    return worst;
}

static double seconds(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec * 1e-6;
}

static int time_command(char **argv)
{
    struct rusage use;
    double t = now();
    int status;
    pid_t kid = fork();

    if (kid < 0)
        fail("fork");
    if (!kid) {
        execvp(argv[0], argv);
        perror(argv[0]);
        _exit(127);
    }
    if (wait4(kid, &status, 0, &use) != kid)
        fail("wait4");
    t = now() - t;
    printf("time: %.0f %.0f %.0f\n", t, seconds(&use.ru_utime) * 1e9, seconds(&use.ru_stime) * 1e9);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void measure(const struct work *w, double ns, int reps, int jobs)
{
    static double t[MAX_REPS];
    uint64_t n = w->grain, check = w->check ? w->run(w->check) : 0;
    double got;

    sink += w->run(w->grain); /* what it sets up at first is not to be measured */
    while ((got = timed(w, n)) < ns / 4 && n < (uint64_t)1 << 50)
        n = got < ns / 100 ? n * 8 : n * 2;
    n = ((uint64_t)(n * (ns / got)) / w->grain + 1) * w->grain;
    for (int i = 0; i < reps; i++)
        t[i] = timed_jobs(w, n, jobs) / (double)n;
    qsort(t, (size_t)reps, sizeof *t, by_size);
    printf("%s %s %.5g %.5g %016llx\n", w->name, w->row, t[0], t[reps / 2], (unsigned long long)check);
    fflush(stdout);
}

static int wanted(const struct work *w, char **names, int nr)
{
    for (int i = 0; i < nr; i++)
        if (strcmp(names[i], w->name) == 0 || strcmp(names[i], w->row) == 0)
            return 1;
    return nr == 0;
}

int main(int argc, char **argv)
{
    double ms = 100;
    int reps = 3, jobs = 1, list = 0, i = 1, ran = 0;

    if (argc == 2 && strcmp(argv[1], "--nothing") == 0) /* what fork+exec starts */
        return 0;
    if (argc > 2 && strcmp(argv[1], "--time") == 0)
        return time_command(argv + 2);
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "-l") == 0)
            list = 1;
        else if (strcmp(argv[i], "-t") == 0 && i + 1 < argc)
            ms = atof(argv[++i]);
        else if (strcmp(argv[i], "-r") == 0 && i + 1 < argc)
            reps = atoi(argv[++i]);
        else if (strcmp(argv[i], "-j") == 0 && i + 1 < argc)
            jobs = atoi(argv[++i]);
        else
            return fprintf(stderr, "usage: micro [-t MS] [-r REPS] [-j PROCESSES] [-l] [NAME or ROW ...]\n"), 2;
    }
    if (reps < 1 || reps > MAX_REPS || ms < 1 || jobs < 1 || jobs > 32)
        return fprintf(stderr, "micro: -r is 1 to %d, -j 1 to 32, -t at least 1\n", MAX_REPS), 2;
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        for (const struct work *w = all[k]; w->name; w++) {
            if (!wanted(w, argv + i, argc - i))
                continue;
            ran++;
            if (w->can && !w->can())
                continue;
            if (list)
                printf("%s %s\n", w->name, w->row);
            else
                measure(w, ms * 1e6, reps, jobs);
        }
    return ran ? 0 : 1;
}
