/* What /proc says of another process that this translator runs: the guest's program and arguments, from the arguments
 * the translator was started with. Rights are the kernel's: what /proc does not show, this does not. */
#include "user/linux/peer.h"
#include "base/util.h"
#include "user/linux/thread.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_CMDLINE = 1 << 20, MAX_AUX = 64 };

static bool runs_this_program(int pid)
{
    struct stat own, his;
    char path[40];

    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return !stat("/proc/self/exe", &own) && !stat(path, &his) && own.st_dev == his.st_dev && own.st_ino == his.st_ino;
}

static char *read_all(int pid, const char *what, size_t *len)
{
    char path[48], *buf = xmalloc(MAX_CMDLINE + 1);
    ssize_t r;
    int fd;

    snprintf(path, sizeof path, "/proc/%d/%s", pid, what);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    *len = 0;
    while (fd >= 0 && *len < MAX_CMDLINE && (r = read(fd, buf + *len, MAX_CMDLINE - *len)) > 0)
        *len += (size_t)r;
    if (fd >= 0)
        close(fd);
    buf[*len] = 0;
    return buf;
}

/* binfmt_misc started it with flag P: the program's argv[0] follows its path. */
static bool keeps_argv0(int pid)
{
    size_t len;
    uint64_t v[2];
    char *aux = read_all(pid, "auxv", &len);
    bool keeps = false;

    for (size_t at = 0; at + sizeof v <= len && at < MAX_AUX * sizeof v; at += sizeof v) {
        memcpy(v, aux + at, sizeof v);
        keeps |= v[0] == AT_FLAGS && v[1] & 1;
    }
    free(aux);
    return keeps;
}

static const char *next(const char *p, const char *end)
{
    p += strlen(p) + 1;
    return p < end ? p : NULL;
}

/* The program in the translator's arguments; *argv0: the one of -0. NULL: none. */
static const char *skip_options(const char *p, const char *end, const char **argv0)
{
    while (p && p[0] == '-' && p[1]) {
        const char *name = p + 1 + (p[1] == '-' && p[2]);

        if (!strcmp(name, "-"))
            return next(p, end);
        if (lx_peer_takes_value(name)) {
            p = next(p, end);
            if (p && !strcmp(name, "0"))
                *argv0 = p;
        }
        p = p ? next(p, end) : NULL;
    }
    return p;
}

bool lx_peer_takes_value(const char *name)
{
    static const char *const with[] = {"L", "s", "cpu", "tb-size", "E", "U",          "0",      "r",   "B",
                                       "R", "p", "g",   "d",       "D", "seccomp-fd", "ptrace", "seed"};

    for (size_t i = 0; i < ARRAY_LEN(with); i++)
        if (!strcmp(with[i], name))
            return true;
    return false;
}

static void full_name(int pid, const char *program, struct strbuf *out)
{
    char path[PATH_MAX], full[PATH_MAX];

    if (program[0] == '/')
        snprintf(path, sizeof path, "%s", program);
    else
        snprintf(path, sizeof path, "/proc/%d/cwd/%s", pid, program);
    str_add(out, realpath(path, full) ? full : program);
}

bool lx_peer(int pid, enum lx_peer_what what, struct strbuf *out)
{
    const char *program, *argv0 = NULL, *rest, *end;
    bool found = false;
    size_t len;
    char *cmd;

    if (!runs_this_program(pid))
        return false;
    cmd = read_all(pid, "cmdline", &len);
    end = cmd + len;
    program = len ? skip_options(next(cmd, end), end, &argv0) : NULL;
    if (program) {
        rest = next(program, end);
        if (rest && keeps_argv0(pid)) {
            argv0 = rest;
            rest = next(rest, end);
        }
        found = true;
        if (what == LX_PEER_EXE) {
            full_name(pid, program, out);
        } else {
            str_addn(out, argv0 ? argv0 : program, strlen(argv0 ? argv0 : program) + 1);
            if (rest)
                str_addn(out, rest, (size_t)(end - rest));
        }
    }
    free(cmd);
    return found;
}
