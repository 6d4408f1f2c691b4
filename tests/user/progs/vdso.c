/* Time by the vDSO: it is there, it agrees with the system calls, and threads waiting in the kernel can be cancelled
 * through it. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int rung;

static void on_alarm(int sig)
{
    rung++;
}

static void image(void)
{
    const ElfW(Ehdr) *h = (void *)getauxval(AT_SYSINFO_EHDR);
    const ElfW(Phdr) * p;
    const ElfW(Dyn) *d = NULL;
    const ElfW(Sym) *sym = NULL;
    const char *str = NULL, *base = (void *)h;
    const unsigned *hash = NULL;
    int found = 0;

    if (!h || memcmp(h, ELFMAG, SELFMAG)) {
        printf("no image\n");
        return;
    }
    p = (void *)(base + h->e_phoff);
    for (int i = 0; i < h->e_phnum; i++)
        if (p[i].p_type == PT_DYNAMIC)
            d = (void *)(base + p[i].p_vaddr);
    for (; d && d->d_tag; d++) {
        if (d->d_tag == DT_STRTAB)
            str = base + (d->d_un.d_ptr & 0xffff);
        if (d->d_tag == DT_SYMTAB)
            sym = (void *)(base + (d->d_un.d_ptr & 0xffff));
        if (d->d_tag == DT_HASH)
            hash = (void *)(base + (d->d_un.d_ptr & 0xffff));
    }
    for (unsigned i = 0; hash && i < hash[1]; i++)
        found += strstr(str + sym[i].st_name, "clock_gettime") && sym[i].st_value;
    printf("image %d\n", found > 0);
}

static long long ns(const struct timespec *t)
{
    return t->tv_sec * 1000000000ll + t->tv_nsec;
}

static void agree(void)
{
    static const clockid_t clocks[] = {CLOCK_REALTIME,          CLOCK_MONOTONIC,         CLOCK_MONOTONIC_RAW,
                                       CLOCK_REALTIME_COARSE,   CLOCK_MONOTONIC_COARSE,  CLOCK_BOOTTIME,
                                       CLOCK_THREAD_CPUTIME_ID, CLOCK_PROCESS_CPUTIME_ID};
    struct timespec a, c, r;
    struct timeval tv;
    unsigned cpu = ~0u;
    time_t t;
    int ok = 0;

    for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        long b[4] = {0};

        clock_gettime(clocks[i], &a);
        if (syscall(SYS_clock_gettime, clocks[i], b))
            continue;
        clock_gettime(clocks[i], &c);
        ok += ns(&a) <= b[0] * 1000000000ll + b[1] && b[0] * 1000000000ll + b[1] <= ns(&c) &&
              !clock_getres(clocks[i], &r) && ns(&r) > 0;
    }
    printf("agree %d\n", ok);
    clock_gettime(CLOCK_REALTIME, &a);
    gettimeofday(&tv, NULL);
    t = time(NULL);
    printf("day %d %d\n", tv.tv_sec - a.tv_sec < 2, t - tv.tv_sec < 2);
    ok = clock_gettime(77, &a);
    printf("bad %d %d\n", ok, errno == EINVAL);
    ok = getcpu(&cpu, NULL);
    printf("cpu %d %d\n", ok, cpu < 4096);
}

static void cleanup(void *p)
{
    printf("cleaned %s\n", (char *)p);
}

static void *waits(void *p)
{
    char c;

    pthread_cleanup_push(cleanup, "up");
    read(*(int *)p, &c, 1);
    pthread_cleanup_pop(0);
    return NULL;
}

int main(int argc, char **argv)
{
    struct itimerval it = {{0, 2000}, {0, 2000}};
    struct timespec a, b;
    int fd[2], back = 0;
    pthread_t t;
    void *how;

    if (argc > 1) {
        clock_gettime(CLOCK_MONOTONIC, &a);
        return 0;
    }
    image();
    agree();
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &it, NULL);
    clock_gettime(CLOCK_MONOTONIC, &a);
    while (rung < 20) {
        clock_gettime(CLOCK_MONOTONIC, &b);
        back += ns(&b) < ns(&a);
        a = b;
    }
    it.it_value.tv_usec = it.it_interval.tv_usec = 0;
    setitimer(ITIMER_REAL, &it, NULL);
    printf("back %d\n", back);
    pipe(fd);
    fflush(stdout);
    pthread_create(&t, NULL, waits, fd);
    usleep(50000);
    pthread_cancel(t);
    pthread_join(t, &how);
    printf("cancelled %d\n", how == PTHREAD_CANCELED);
    return 0;
}
