/* See runner.h. */
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool set_text(struct runner *r, int o)
{
    switch (o) {
    case 'r':
        r->only = optarg;
        return true;
    case 'b':
        r->table = optarg;
        return true;
    case 'o':
        r->oracle = optarg;
        return true;
    case 'e':
        r->engine = optarg;
        return true;
    case 'p':
        r->program = optarg;
        return true;
    default:
        return false;
    }
}

bool runner_options(struct runner *r, int argc, char **argv)
{
    static const struct option opts[] = {{"count", 1, 0, 'n'},   {"seed", 1, 0, 's'},   {"row", 1, 0, 'r'},
                                         {"table", 1, 0, 'b'},   {"oracle", 1, 0, 'o'}, {"engine", 1, 0, 'e'},
                                         {"program", 1, 0, 'p'}, {"stream", 0, 0, 't'}, {"coverage", 0, 0, 'c'},
                                         {"verbose", 0, 0, 'v'}, {0, 0, 0, 0}};
    int o;

    r->rng = 1;
    r->count = 10;
    while ((o = getopt_long(argc, argv, "n:s:r:b:o:e:p:ctv", opts, NULL)) >= 0) {
        switch (o) {
        case 'n':
            r->count = strtoul(optarg, NULL, 0);
            break;
        case 's':
            r->rng = strtoul(optarg, NULL, 0) * 2 + 1;
            break;
        case 't':
            r->stream = true;
            break;
        case 'c':
            r->coverage = true;
            break;
        case 'v':
            r->verbose = true;
            break;
        default:
            if (!set_text(r, o))
                return false;
            break;
        }
    }
    for (int i = 0; i < 20; i++)
        val_rnd(&r->rng);
    return r->program != NULL;
}

int runner_run(const struct runner *r, const char *emu, const void *in, size_t n, void *out, size_t m)
{
    char in_name[] = "/tmp/diffin.XXXXXX", out_name[] = "/tmp/diffout.XXXXXX";
    int fi = mkstemp(in_name), fo = mkstemp(out_name), status = -1;
    pid_t pid;

    if (write(fi, in, n) != (ssize_t)n)
        return 2;
    pid = fork();
    if (!pid) {
        if (r->cpu && emu == r->oracle)
            setenv("QEMU_CPU", r->cpu, 1);
        execlp(emu, emu, r->program, in_name, out_name, (char *)NULL);
        _exit(errno == ENOENT ? 77 : 2);
    }
    waitpid(pid, &status, 0);
    if (status == 0 && read(fo, out, m) != (ssize_t)m)
        status = 2 << 8;
    close(fi);
    close(fo);
    unlink(in_name);
    unlink(out_name);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void runner_see_fp(struct runner *r, uint64_t v)
{
    uint64_t e = v >> 52 & 0x7ff, f = v << 12;
    bool boxed = v >> 32 == UINT32_MAX;

    r->seen[RUNNER_NAN] += !boxed && e == 0x7ff && f;
    r->seen[RUNNER_DENORMAL] += !e && f && v >> 32 & 0xfffff;
    for (unsigned k = 0; k < 2; k++, v >>= 32) {
        e = v >> 23 & 0xff;
        f = v & 0x7fffff;
        r->seen[RUNNER_NAN] += e == 0xff && f && !(boxed && k);
        r->seen[RUNNER_DENORMAL] += !e && f > 0xffff;
    }
}

void runner_see_fault(struct runner *r, uint64_t sig, uint64_t addr, uint64_t lo, uint64_t hi)
{
    enum { BUS = 7, SEGV = 11 };

    r->seen[RUNNER_BUS] += sig == BUS;
    r->seen[RUNNER_SEGV] += sig == SEGV;
    r->seen[RUNNER_OVER_END] += sig == SEGV && (addr == hi || (addr < lo && lo - addr < 64));
}

void runner_row(struct runner *r, const char *set, const char *name, unsigned long hits, unsigned long bad)
{
    if (!strncmp(name, "NONE", 4)) /* what is left over: no instruction */
        return;
    r->rows += hits != 0;
    r->none += hits == 0;
    r->wrong += bad != 0;
    r->runs += hits;
    r->differ += bad;
    if (r->coverage)
        printf("%s%-14s %8lu run %8lu differ\n", set, name, hits, bad);
    if (!hits && !r->only && !r->table)
        printf("not run: %s%s\n", set, name);
    if (bad && !r->coverage)
        printf("differs: %s%s %lu of %lu\n", set, name, bad, hits);
}

static void say_seen(const struct runner *r)
{
    static const char *const name[] = {[RUNNER_SEGV] = "SIGSEGV",
                                       [RUNNER_BUS] = "SIGBUS",
                                       [RUNNER_OVER_END] = "over the end of what is mapped",
                                       [RUNNER_MISALIGNED] = "misaligned",
                                       [RUNNER_CROSSING] = "over a page's end",
                                       [RUNNER_NAN] = "NaN",
                                       [RUNNER_DENORMAL] = "denormal",
                                       [RUNNER_INVALID] = "invalid",
                                       [RUNNER_BY_ZERO] = "by zero",
                                       [RUNNER_OVERFLOW] = "overflow",
                                       [RUNNER_UNDERFLOW] = "underflow",
                                       [RUNNER_INEXACT] = "inexact",
                                       [RUNNER_NEAREST] = "to nearest",
                                       [RUNNER_UP] = "up",
                                       [RUNNER_DOWN] = "down",
                                       [RUNNER_TO_ZERO] = "to zero"};

    printf("met with:");
    for (unsigned i = 0; i < RUNNER_SIGHTS; i++)
        printf("%s %s %lu", i ? "," : "", name[i], r->seen[i]);
    printf("\n");
}

int runner_end(const struct runner *r, int status)
{
    printf("%" PRIu64 " runs, %u rows, %u rows not run, %" PRIu64 " differences in %u rows\n", r->runs, r->rows,
           r->none, r->differ, r->wrong);
    say_seen(r);
    if (!r->only && !r->table)
        printf("covered: %u of %u instructions of the decode tables\n", r->rows, r->rows + r->none);
    if (status)
        printf("a program ended with status %d\n", status);
    return status ? status : r->differ != 0;
}
