/* Memory calls, futexes, and what belongs to a process: limits, scheduling, personality, names, capabilities. */
#include "said.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

static void memory(void)
{
    char *p = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *q;
    unsigned char in[4] = {0};
    int fd;

    p[0] = p[4096] = p[8192] = 'x';
    SAY(mincore(p, 16384, in));
    printf("in %d %d %d %d\n", in[0] & 1, in[1] & 1, in[2] & 1, in[3] & 1);
    SAY(munmap(p + 12288, 4096));
    SAY((long)mremap(p, 4096, 8192, 0));
    SAY_IF(q = mremap(p, 12288, 40960, MREMAP_MAYMOVE));
    printf("%c %c %d\n", q[0], q[8192], q[40959]);
    SAY_IF(mremap(q, 40960, 4096, 0));
    SAY((long)mremap(q + 1, 4096, 4096, 0));
    SAY(mprotect(q, 4096, PROT_READ));
    SAY(mprotect(q + 4096, 4096, PROT_READ));
    SAY(msync(q, 4096, MS_SYNC));
    SAY(msync(q, 4096, MS_SYNC | MS_ASYNC));
    SAY(mlock(q, 4096));
    SAY(syscall(SYS_mlock2, q, 4096, 1));
    SAY(munlock(q, 4096));
    SAY(madvise(q, 4096, MADV_DONTNEED));
    SAY(madvise(q, 4096, 12345));
    SAY((long)mmap(q, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    SAY((long)mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SAY((long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 99, 0));
    SAY_IF(fd = memfd_create("m", MFD_ALLOW_SEALING));
    SAY(ftruncate(fd, 4096));
    SAY(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK));
    SAY(fcntl(fd, F_GET_SEALS));
    SAY(write(fd, "x", 1));
    SAY((long)mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0));
    SAY(munmap(q, 4096));
    SAY(munmap(q + 1, 4096));
}

/* Pages of a shared mapping show other parts of their file. */
static void remapped(void)
{
    int fd = memfd_create("r", 0);
    char *p;

    ftruncate(fd, 4 * 4096);
    for (int i = 0; i < 4; i++)
        pwrite(fd, &"abcd"[i], 1, i * 4096);
    p = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    SAY(remap_file_pages(p, 4096, 0, 3, 0));
    SAY(remap_file_pages(p + 4096, 2 * 4096, 0, 0, 0));
    printf("%c%c%c%c\n", p[0], p[4096], p[2 * 4096], p[3 * 4096]);
    p[0] = 'D';
    SAY(p[3 * 4096]);
    SAY(remap_file_pages(p, 4096, PROT_READ, 0, 0));
    SAY(remap_file_pages(p, 0, 0, 0, 0));
    munmap(p, 4 * 4096);
    SAY(remap_file_pages(p, 4096, 0, 0, 0));
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    SAY(remap_file_pages(p, 4096, 0, 1, 0));
    close(fd);
}

/* One page of a file, mapped thousands of times: no call takes longer for it. */
static void many_views(void)
{
    enum { VIEWS = 4000 };
    static char *view[VIEWS];
    time_t begin = time(NULL);
    int fd = memfd_create("v", 0), failed = 0;

    ftruncate(fd, 4096);
    for (int i = 0; i < VIEWS; i++) {
        view[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE | (i == 9 ? PROT_EXEC : 0), MAP_SHARED, fd, 0);
        failed += view[i] == MAP_FAILED;
    }
    SAY(failed);
    view[0][5] = 77;
    SAY(view[VIEWS - 1][5]);
    for (int i = 0; i < VIEWS; i++)
        failed += munmap(view[i], 4096);
    SAY(failed);
    SAY(time(NULL) - begin < 15);
    close(fd);
}

static void others_memory(void)
{
    char here[32] = "", there[32] = "from the child";
    struct iovec l = {here, 15}, r = {there, 15}, none = {(void *)16, 15};
    int fd[2], ready[2], pid;
    char c;

    pipe(fd);
    pipe(ready);
    if (!(pid = fork())) {
        strcpy(there, "the child's own");
        close(fd[1]);
        write(ready[1], "x", 1);
        read(fd[0], &c, 1);
        _exit(there[0]);
    }
    read(ready[0], &c, 1);
    SAY(process_vm_readv(pid, &l, 1, &r, 1, 0));
    printf("%.15s\n", here);
    here[0] = 'T';
    SAY(process_vm_writev(pid, &l, 1, &r, 1, 0));
    SAY(process_vm_readv(pid, &l, 1, &none, 1, 0));
    SAY(process_vm_readv(pid, &l, 1, &r, 1, 1));
    close(fd[1]);
    wait(&pid);
    printf("%c\n", WEXITSTATUS(pid));
}

static int word, pi, pair[2];
static volatile int seen; /* the other one has found it locked: until then it stays so, however long that takes */
static void *locker(void *p)
{
    syscall(SYS_futex, &pi, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    while (!seen)
        usleep(1000);
    usleep(20000);
    syscall(SYS_futex, &pi, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    return NULL;
}

static void *waker(void *p)
{
    long n = 0;

    for (int i = 0; i < 10000 && !n; i++) {
        usleep(1000);
        n = syscall(SYS_futex, &word, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 9, NULL, NULL, 4);
    }
    word = 1;
    return (void *)n;
}

struct waitv {
    uint64_t val, uaddr;
    uint32_t flags, reserved;
};

static void futexes(void)
{
    struct timespec ts = {0, 10000000};
    struct waitv w[2] = {{0, (uintptr_t)&pair[0], 2, 0}, {7, (uintptr_t)&pair[1], 2, 0}};
    pthread_mutexattr_t at;
    static pthread_mutex_t robust;
    pthread_t t;
    void *r;

    SAY(syscall(SYS_futex, &word, FUTEX_WAIT, 5, NULL, NULL, 0));
    SAY(syscall(SYS_futex, &word, FUTEX_WAIT, 0, &ts, NULL, 0));
    SAY(syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0));
    SAY(syscall(SYS_futex, (char *)&word + 1, FUTEX_WAKE, 1, NULL, NULL, 0));
    SAY(syscall(SYS_futex, &word, 99, 1, NULL, NULL, 0));
    pthread_create(&t, NULL, waker, NULL);
    SAY(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 6));
    pthread_join(t, &r);
    printf("woken %d\n", (int)(long)r);
    SAY(syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE, 1, (void *)1, &pi, 0));
    SAY(syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE, 1, (void *)1, &pi, 1));
    SAY(syscall(SYS_futex, &word, FUTEX_WAKE_OP, 1, (void *)1, &pair[0],
                FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 0)));
    printf("pair %d\n", pair[0]);
    pair[0] = 0;
    pthread_create(&t, NULL, locker, NULL);
    while (!*(volatile int *)&pi)
        usleep(1000);
    SAY(syscall(SYS_futex, &pi, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
    seen = 1;
    SAY(syscall(SYS_futex, &pi, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    SAY((pi & FUTEX_TID_MASK) == syscall(SYS_gettid));
    SAY(syscall(SYS_futex, &pi, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
    pthread_join(t, NULL);
    SAY(syscall(449 /* futex_waitv */, w, 2, 0, NULL, 0));
    SAY(syscall(449, w, 2, 1, NULL, 0));
    SAY(syscall(454 /* futex_wake */, &pair[0], 1ul, 3, 2));
    SAY(syscall(454, &pair[0], 1ul, 3, 0xff));
    SAY(syscall(455 /* futex_wait */, &pair[0], 9ul, 1ul, 2, NULL, 0));
    SAY(syscall(456 /* futex_requeue */, w, 0, 1, 1));
    pthread_mutexattr_init(&at);
    pthread_mutexattr_setrobust(&at, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setprotocol(&at, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&robust, &at);
    pthread_create(&t, NULL, (void *(*)(void *))pthread_mutex_lock, &robust);
    pthread_join(t, NULL);
    SAY(pthread_mutex_lock(&robust));
    SAY(pthread_mutex_consistent(&robust));
    SAY(pthread_mutex_unlock(&robust));
}

static void process(void)
{
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2];
    struct sched_param sp = {0};
    struct rlimit lim, none = {5, 4};
    struct rusage ru;
    struct timespec ts;
    struct sysinfo si;
    cpu_set_t cpus;
    char name[32] = "", cpu;
    struct tms tms;
    int v = 0, *tid_address = NULL;

    SAY(personality(0xffffffff));
    SAY(personality(ADDR_NO_RANDOMIZE));
    SAY(personality(0));
    SAY(prctl(PR_SET_NAME, "renamed-and-cut-off"));
    SAY(prctl(PR_GET_NAME, name));
    printf("%s\n", name);
    SAY(prctl(PR_SET_PDEATHSIG, SIGUSR2));
    SAY(prctl(PR_GET_PDEATHSIG, &v));
    SAY(v == SIGUSR2);
    SAY(syscall(SYS_set_tid_address, &v) == getpid());
    SAY(prctl(PR_GET_TID_ADDRESS, &tid_address));
    SAY(tid_address == &v);
    SAY(prctl(PR_SET_DUMPABLE, 1));
    SAY(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SAY(prctl(9999, 0, 0, 0, 0));
    SAY(syscall(SYS_capget, &h, d) == 0 || errno == EPERM);
    h.version = 1;
    SAY(syscall(SYS_capget, &h, d));
    SAY(h.version == _LINUX_CAPABILITY_VERSION_3);
    SAY(getrlimit(RLIMIT_NOFILE, &lim));
    SAY(setrlimit(RLIMIT_NOFILE, &none));
    lim.rlim_cur = 64;
    SAY(prlimit(0, RLIMIT_NOFILE, &lim, NULL));
    SAY(fcntl(0, F_DUPFD, 64));
    SAY(getrlimit(RLIMIT_NOFILE, &lim));
    SAY(lim.rlim_cur);
    SAY(getrlimit(999, &lim));
    SAY(getrusage(RUSAGE_SELF, &ru));
    SAY(ru.ru_maxrss > 0 && ru.ru_utime.tv_sec < 1000);
    SAY(getrusage(7, &ru));
    SAY(sched_getaffinity(0, sizeof cpus, &cpus));
    SAY(CPU_COUNT(&cpus) >= 1);
    SAY(sched_getscheduler(0));
    SAY(sched_getparam(0, &sp));
    SAY(sched_get_priority_max(SCHED_FIFO));
    SAY(sched_rr_get_interval(0, &ts));
    SAY(sched_setscheduler(0, 77, &sp));
    SAY(getpriority(PRIO_PROCESS, 0) == -1 && errno);
    SAY(sysinfo(&si));
    SAY(si.totalram > 0 && si.mem_unit > 0);
    SAY(times(&tms) != -1);
    SAY(syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0) > 0);
    SAY(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
    SAY(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
    SAY(syscall(SYS_getcpu, &v, NULL, NULL));
    SAY(syscall(SYS_getrandom, name, 16, 0));
    SAY(syscall(SYS_getrandom, name, 16, 0xff));
    SAY(syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, 1, 1));
    SAY(syscall(SYS_userfaultfd, 0x12345) == -1);
    SAY(syscall(SYS_set_tid_address, &v) == getpid());
    SAY(getpgid(0) == getpgrp());
    SAY(getsid(0) > 0);
    SAY(setpgid(0, 99999));
    SAY(kill(getpid(), 0));
    SAY(kill(99999999, 0));
    SAY(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 99));
}

int main(void)
{
    memory();
    remapped();
    many_views();
    others_memory();
    futexes();
    process();
    return 0;
}
