/* A driver for fuzz targets where clang's is not at hand: runs the inputs it is given, then changed ones of them.
 *
 *   fuzz-FORMAT [-runs=N] [-seconds=N] [-seed=N] [-keep=FILE] [file or folder]...
 *
 * Every input has 10 s; one that ends the program, by whatever way, is left in FILE (default: crash-input). Memory is
 * limited to 1 GiB beyond what the program starts with, under ASan by its own limits. The seed is printed. */
#include "fuzz.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { INPUT_MAX = 1 << 16, INPUTS_MAX = 512, PER_INPUT_S = 10 };

static struct {
    uint8_t *data[INPUTS_MAX]; /* owned */
    size_t len[INPUTS_MAX];
    unsigned nr;
    uint64_t rng;
    const char *keep;
    uint8_t now[INPUT_MAX];
    size_t now_len;
} g = {.keep = "crash-input"};

#if defined(__SANITIZE_ADDRESS__)
void __sanitizer_set_report_fd(void *fd);
void __sanitizer_set_death_callback(void (*fn)(void));
#endif

static uint32_t rnd(uint32_t below)
{
    g.rng ^= g.rng << 13;
    g.rng ^= g.rng >> 7;
    g.rng ^= g.rng << 17;
    return (uint32_t)((g.rng >> 11) % below);
}

static void leave_input(void)
{
    int fd = open(g.keep, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    if (fd < 0 || write(fd, g.now, g.now_len) < 0)
        return;
    close(fd);
    dprintf(fuzz_err, "the input is in %s\n", g.keep);
}

static void on_signal(int sig)
{
    dprintf(fuzz_err, "fuzz: %s\n", sig == SIGALRM ? "an input took too long" : strsignal(sig));
    leave_input();
    signal(sig, SIG_DFL);
    if (sig == SIGALRM)
        abort();
    raise(sig);
}

static void add(const uint8_t *p, size_t n)
{
    if (g.nr == INPUTS_MAX || n > INPUT_MAX)
        return;
    g.data[g.nr] = xmalloc(n ? n : 1);
    memcpy(g.data[g.nr], p, n);
    g.len[g.nr++] = n;
}

static void add_path(const char *path)
{
    static uint8_t buf[INPUT_MAX];
    struct stat st;
    struct dirent *e;
    DIR *d;
    int fd;

    if (stat(path, &st) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    if (S_ISREG(st.st_mode)) {
        fd = open(path, O_RDONLY);
        add(buf, fd < 0 ? 0 : (size_t)max_i64(read(fd, buf, sizeof buf), 0));
        close(fd);
        return;
    }
    d = opendir(path);
    while (d && (e = readdir(d))) {
        char *name = xasprintf("%s/%s", path, e->d_name);

        if (*e->d_name != '.')
            add_path(name);
        free(name);
    }
    if (d)
        closedir(d);
}

static void run_now(void)
{
    alarm(PER_INPUT_S);
    LLVMFuzzerTestOneInput(g.now, g.now_len);
    alarm(0);
}

static void change(void)
{
    static const uint8_t favourites[] = {0, 1, 2, 3, 0x7f, 0x80, 0xff, 0xfe, 0x10, 0x40, 0x20, 8};
    unsigned from = rnd(g.nr);

    memcpy(g.now, g.data[from], g.len[from]);
    g.now_len = g.len[from];
    for (unsigned k = 1 + rnd(8); k; k--) {
        size_t at = g.now_len ? rnd((uint32_t)(rnd(2) ? min_u64(g.now_len, 64) : g.now_len)) : 0;
        size_t n = 1 + rnd(8);

        switch (rnd(6)) {
        case 0: /* more */
            if (g.now_len + n > INPUT_MAX)
                break;
            memmove(g.now + at + n, g.now + at, g.now_len - at);
            g.now_len += n;
            for (size_t i = 0; i < n; i++)
                g.now[at + i] = (uint8_t)rnd(256);
            break;
        case 1: /* less */
            n = min_u64(n, g.now_len - at);
            memmove(g.now + at, g.now + at + n, g.now_len - at - n);
            g.now_len -= n;
            break;
        case 2: { /* a piece of another */
            unsigned o = rnd(g.nr);
            size_t src = g.len[o] ? rnd((uint32_t)g.len[o]) : 0;

            n = min_u64(rnd(64), min_u64(g.len[o] - src, g.now_len - at));
            memcpy(g.now + at, g.data[o] + src, n);
            break;
        }
        default:
            for (size_t i = 0; i < n && at + i < g.now_len; i++)
                g.now[at + i] = rnd(2) ? favourites[rnd(sizeof favourites)] : (uint8_t)rnd(256);
        }
    }
}

static uint64_t seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec;
}

static void set_limits(void)
{
#if !defined(__SANITIZE_ADDRESS__)
    char line[64] = "";
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;

    if (f && fgets(line, sizeof line, f))
        pages = strtoul(line, NULL, 10);
    if (f)
        fclose(f);
    setrlimit(RLIMIT_AS, &(struct rlimit){GIB + pages * 4096, GIB + pages * 4096});
#else
    __sanitizer_set_report_fd((void *)(intptr_t)fuzz_err);
    __sanitizer_set_death_callback(leave_input);
#endif
    for (size_t i = 0; i < 5; i++)
        signal((const int[]){SIGALRM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE}[i], on_signal);
}

int main(int argc, char **argv)
{
    uint64_t runs = 0, limit = 0, end, done = 0;
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    static uint8_t seed[4096];
    size_t n;

    g.rng = (uint64_t)time(NULL) * 2654435761u + (uint64_t)getpid();
    for (int i = 1; i < argc; i++) {
        char *v = strchr(argv[i], '=');

        if (*argv[i] != '-')
            add_path(argv[i]);
        else if (!strncmp(argv[i], "-runs=", 6))
            runs = strtoull(v + 1, NULL, 0);
        else if (!strncmp(argv[i], "-seconds=", 9))
            limit = strtoull(v + 1, NULL, 0);
        else if (!strncmp(argv[i], "-seed=", 6))
            g.rng = strtoull(v + 1, NULL, 0) * 2654435761u + 1;
        else if (!strncmp(argv[i], "-keep=", 6))
            g.keep = v + 1;
        else
            return fprintf(stderr, "unknown option %s\n", argv[i]), 2;
    }
    printf("rng state %#lx, %u inputs\n", (unsigned long)g.rng, g.nr);
    fflush(stdout);
    fuzz_err = dup(2);
    dup2(null, 2); /* what the drivers complain about is not of interest */
    set_limits();
    LLVMFuzzerInitialize(&argc, &argv);
    for (unsigned i = 0; (n = fuzz_seed(i, seed, sizeof seed)); i++)
        add(seed, n);
    for (unsigned i = 0; i < g.nr; i++, done++) {
        memcpy(g.now, g.data[i], g.len[i]);
        g.now_len = g.len[i];
        run_now();
    }
    end = seconds() + limit;
    for (uint64_t i = 0; g.nr && (i < runs || (limit && seconds() < end)); i++, done++) {
        change();
        run_now();
    }
    printf("%lu inputs, nothing found\n", (unsigned long)done);
    for (unsigned i = 0; i < g.nr; i++)
        free(g.data[i]);
    return 0;
}
