/* What a program sees of itself: /proc/self, the auxiliary vector, uname, the heap. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

static const char *list = "/proc/self/maps";

static int mapped(void *a, const char *perm)
{
    FILE *f = fopen(list, "r");
    unsigned long lo, hi;
    char p[8], line[512];
    int found = 0;

    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%lx-%lx %4s", &lo, &hi, p) == 3 && (unsigned long)a >= lo && (unsigned long)a < hi)
            found = !strcmp(p, perm);
    fclose(f);
    return found;
}
/* The thread's line: its name, and that its stack begins where ours is. */
static void task(void)
{
    char path[64], name[32] = "";
    unsigned long start = 0;
    int pid = 0, here;
    FILE *f;

    prctl(PR_SET_NAME, "called so");
    sprintf(path, "/proc/self/task/%d/stat", getpid());
    f = fopen(path, "r");
    fscanf(f,
           "%d (%15[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %*u %*u %*d %*u "
           "%*u %*u %lu",
           &pid, name, &start);
    fclose(f);
    printf("task %d %s %d\n", pid == getpid(), name,
           start > (unsigned long)&here && start - (unsigned long)&here < 1 << 20);
    sprintf(path, "/proc/%d/task/%d/maps", getpid(), getpid());
    list = path;
    printf("maps %d %d\n", mapped((void *)task, "r-xp"), mapped(&here, "rw-p"));
}

/* smaps has maps' mappings, each with its size; what is executed says so. */
static void details(void)
{
    static char maps[200][128];
    char line[512];
    unsigned long lo = 0, hi = 0, kb;
    int n = 0, same = 0, sized = 0, code = 0, in = 0;
    FILE *f = fopen("/proc/self/maps", "r");

    while (n < 200 && fgets(line, sizeof line, f))
        memcpy(maps[n++], line, 127);
    fclose(f);
    f = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2 && strchr(line, '-') < strchr(line, ' ')) {
            for (int i = 0; i < n; i++)
                same += !strncmp(maps[i], line, 70);
            in = (unsigned long)details >= lo && (unsigned long)details < hi;
        } else if (sscanf(line, "Size: %lu kB", &kb) == 1) {
            sized += kb * 1024 == hi - lo;
        } else if (in && !strncmp(line, "VmFlags:", 8)) {
            code = strstr(line, " ex") != NULL;
        }
    }
    fclose(f);
    printf("details %d %d %d\n", same >= n - 1, sized >= n - 1, code);
}

static char text_of[1 << 16];

static char *read_all(const char *path)
{
    int fd = open(path, O_RDONLY), n = 0, r;

    while ((r = read(fd, text_of + n, sizeof text_of - 1 - n)) > 0)
        n += r;
    close(fd);
    text_of[n] = 0;
    return text_of;
}

static unsigned long long after(const char *text, const char *key, int base)
{
    const char *at = strstr(text, key);

    return at ? strtoull(at + strlen(key), NULL, base) : ~0ull;
}

static int near(unsigned long a, unsigned long b)
{
    return a < b + 300 && b < a + 300;
}

/* The sums are those of the mappings; signals are the program's. */
static void sums(void)
{
    unsigned long lo, hi, first = 0, last = 0, size = 0, rss = 0, kb, vm, res;
    char *t, perm[8], *line;
    sigset_t set;

    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, (void (*)(int))sums);
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (line = strtok(read_all("/proc/self/smaps"), "\n"); line; line = strtok(NULL, "\n")) {
        if (sscanf(line, "%lx-%lx %4s", &lo, &hi, perm) == 3 && strchr(line, '-') < strchr(line, ' ')) {
            if (strstr(line, "[vsyscall]"))
                break;
            first = first ? first : lo;
            last = hi;
            size += (hi - lo) / 1024;
        } else if (sscanf(line, "Rss: %lu kB", &kb) == 1) {
            rss += kb;
        }
    }
    t = read_all("/proc/self/smaps_rollup");
    printf("rollup %d %d %d\n", sscanf(t, "%lx-%lx", &lo, &hi) == 2 && lo == first && hi == last,
           strstr(t, "[rollup]\n") != NULL, near(after(t, "Rss:", 10), rss));
    t = read_all("/proc/self/status");
    vm = after(t, "VmSize:", 10);
    res = after(t, "VmRSS:", 10);
    printf("status %d %d %d\n", near(vm, size), near(res, rss), after(t, "VmData:", 10) + after(t, "VmStk:", 10) < vm);
    printf("ignored %llx handled %llx blocked %llx\n", after(t, "SigIgn:", 16), after(t, "SigCgt:", 16),
           after(t, "SigBlk:", 16));
    sscanf(read_all("/proc/self/statm"), "%lu %lu", &lo, &hi);
    printf("statm %d %d\n", near(lo * 4, size), near(hi * 4, rss));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* Another process of the same program, and ours by a folder's descriptor. */
static void folders(const char *self)
{
    char path[64], text[4096] = "";
    int d = open("/proc/self", O_RDONLY | O_DIRECTORY), fd, pid, ready[2];
    struct stat a, b;
    ssize_t n;
    FILE *f;

    n = readlinkat(d, "exe", text, sizeof text - 1);
    printf("folder %d\n", n > 0 && !strcmp(strrchr(text, '/'), strrchr(self, '/')));
    fd = openat(d, "maps", O_RDONLY);
    sprintf(path, "/proc/self/fd/%d", fd);
    list = path;
    f = fdopen(fd, "r");
    for (n = 0; fgets(text, sizeof text, f);)
        n += strstr(text, strrchr(self, '/')) != NULL;
    printf("own lines %d\n", n > 2);
    pipe(ready);
    pid = fork();
    if (!pid) {
        write(ready[1], "x", 1);
        pause();
    }
    read(ready[0], text, 1);
    sprintf(path, "/proc/%d/exe", pid);
    memset(text, 0, sizeof text);
    readlink(path, text, sizeof text - 1);
    printf("peer %d %d\n", !strcmp(strrchr(text, '/'), strrchr(self, '/')),
           !stat(path, &a) && !stat(self, &b) && a.st_ino == b.st_ino);
    sprintf(path, "/proc/%d/cmdline", pid);
    fd = open(path, O_RDONLY);
    n = read(fd, text, sizeof text);
    printf("its arguments %d\n", n == (ssize_t)strlen(self) + 1 && !strcmp(text, self));
    kill(pid, SIGKILL);
}

/* The kernel takes the number of a call from EAX, whatever lies above it. */
static void long_number(void)
{
    long r = getpid();

#ifdef __x86_64__
    __asm__ volatile("syscall" : "=a"(r) : "a"(0x7700000000 + SYS_getpid) : "rcx", "r11", "memory");
#endif
    printf("long number %d\n", r == getpid());
}

int main(int argc, char **argv)
{
    char exe[4096] = "", cmd[4096] = "", *base;
    struct utsname u;
    void *old = sbrk(0);
    int fd, local;
    ssize_t n;

    if (readlink("/proc/self/exe", exe, sizeof exe - 1) < 0)
        return 1;
    base = strrchr(exe, '/');
    printf("exe %d\n", !strcmp(base, strrchr(argv[0], '/')));
    fd = open("/proc/self/cmdline", O_RDONLY);
    n = read(fd, cmd, sizeof cmd);
    printf("cmdline %zd %s\n", n - (ssize_t)strlen(argv[0]), cmd + strlen(argv[0]) + 1);
    printf("text %d data %d stack %d\n", mapped((void *)main, "r-xp"), mapped(&environ, "rw-p"),
           mapped(&local, "rw-p"));
    details();
    printf("uname %d\n", uname(&u));
    printf("page %lu random %d phnum %d\n", getauxval(AT_PAGESZ), getauxval(AT_RANDOM) != 0, getauxval(AT_PHNUM) > 2);
    old = sbrk(0);
    printf("brk %d\n", sbrk(100000) == old && (char *)sbrk(0) == (char *)old + 100000);
    memset(old, 1, 100000);
    printf("shrink %d\n", sbrk(-50000) != (void *)-1);
    printf("mmap fixed %d\n", mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    task();
    sums();
    long_number();
    folders(argv[0]);
    return 0;
}
