/* Paths: files looked up under -L, the files of /proc that must show the guest's process, and execve.
 *
 * execve: the kernel runs a program of the guest's architecture by itself only when the host can or binfmt_misc knows
 * it; so we start this program again for it, with the same options. Set-uid programs are left to the kernel, which
 * gives them their rights when it is registered with flag C. */
#include "base/bytes.h"
#include "base/str.h"
#include "user/linux/kept.h"
#include "user/linux/map.h"
#include "user/linux/peer.h"
#include "user/linux/proc_mem.h"
#include "user/linux/seccomp.h"
#include "user/linux/sys_file.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_EXEC_ARGS = 65536, MAX_ARG_LEN = 131072, MAX_SHEBANG = 4 };

char *lx_get_str(uint64_t guest, size_t max, int *e)
{
    CLEANUP(str_free) struct strbuf s = {0};
    char piece[256];

    while (s.len < max) {
        size_t n = 4096 - (guest & 4095);
        const char *end;

        if (n > sizeof piece)
            n = sizeof piece;
        if (!lx_get(piece, guest, n)) {
            *e = EFAULT;
            return NULL;
        }
        end = memchr(piece, 0, n);
        str_addn(&s, piece, end ? (size_t)(end - piece) : n);
        if (end)
            return str_take(&s);
        guest += n;
    }
    *e = ENAMETOOLONG;
    return NULL;
}

const char *lx_path(const char *path, char *buf)
{
    if (path[0] != '/')
        return path;
    for (char **p = lx_proc.opt.prefix; p && *p; p++) {
        if ((size_t)snprintf(buf, PATH_MAX, "%s%s", *p, path) < PATH_MAX &&
            faccessat(AT_FDCWD, buf, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
            return buf;
    }
    return path;
}

/* ---- /proc ---- */

/* Of our process or one of its threads (task/<tid>/). */
static const char *of_thread(const char *rest)
{
    size_t n;

    if (!str_starts(rest, "task/"))
        return rest;
    n = strspn(rest + 5, "0123456789");
    return n && rest[5 + n] == '/' ? rest + 5 + n + 1 : rest;
}

/* The rest of a path behind /proc/self/, /proc/thread-self/ or /proc/<our pid>/; NULL. */
static const char *own_proc(const char *path)
{
    char num[32];
    size_t n;

    if (!str_starts(path, "/proc/"))
        return NULL;
    path += 6;
    if (str_starts(path, "self/"))
        return of_thread(path + 5);
    if (str_starts(path, "thread-self/"))
        return path + 12;
    n = (size_t)snprintf(num, sizeof num, "%d/", (int)getpid());
    return !strncmp(path, num, n) ? of_thread(path + n) : NULL;
}

/* A line of the host's maps, without what it says of rights; details: what smaps says of it. */
struct host_map {
    unsigned long lo, hi;
    char rest[PATH_MAX + 64];
    struct strbuf details;
};

static void add_map_line(struct strbuf *out, const struct lx_map *m, unsigned long from, unsigned long to,
                         const char *rest)
{
    size_t start = out->len;

    str_addf(out, "%08lx-%08lx %c%c%c%c ", from, to, m->prot & PROT_READ ? 'r' : '-', m->prot & PROT_WRITE ? 'w' : '-',
             m->prot & PROT_EXEC ? 'x' : '-', m->shared ? 's' : 'p');
    if (m->note != LX_MAP_STACK && m->note != LX_MAP_HEAP && m->note != LX_MAP_VDSO) {
        str_add(out, rest);
        return;
    }
    str_addf(out, "00000000 00:00 0 ");
    while (out->len - start < 73)
        str_add(out, " ");
    str_addf(out, "%s\n", m->note == LX_MAP_STACK ? "[stack]" : m->note == LX_MAP_HEAP ? "[heap]" : "[vdso]");
}

/* Of part bytes out of whole: amounts by their share, as the host does not tell them apart. */
static void add_details(struct strbuf *out, char *text, unsigned long part, unsigned long whole, bool exec)
{
    for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        unsigned long kb;

        if (str_starts(line, "VmFlags:"))
            str_addf(out, "%s%s\n", line, exec ? "ex " : "");
        else if (str_starts(line, "KernelPageSize:") || str_starts(line, "MMUPageSize:") || !strstr(line, " kB") ||
                 sscanf(line, "%*[^:]: %lu", &kb) != 1)
            str_addf(out, "%s\n", line);
        else
            str_addf(out, "%.*s %8lu kB\n", (int)(strchr(line, ':') + 1 - line), line,
                     (unsigned long)((unsigned __int128)kb * part / whole));
    }
}

/* What of the host's mapping is the guest's. */
static void add_pieces(struct strbuf *out, struct host_map *h)
{
    struct lx_map m;

    for (unsigned long lo = h->lo; lo < h->hi && lx_map_next(lo, &m) && m.start < h->hi;) {
        unsigned long from = m.start > lo ? m.start : lo, to = m.end < h->hi ? m.end : h->hi;

        add_map_line(out, &m, from, to, h->rest);
        if (h->details.len) {
            CLEANUP(str_free) struct strbuf copy = {0};

            str_addn(&copy, h->details.s, h->details.len);
            add_details(out, copy.s, to - from, h->hi - h->lo, m.prot & PROT_EXEC);
        }
        lo = to;
    }
}

/* maps, and smaps, whose lines between two mappings are the first one's. */
static void add_maps(struct strbuf *out, FILE *in)
{
    struct host_map h = {.lo = 0, .hi = 0};
    char line[PATH_MAX + 128], perm[8];

    while (fgets(line, sizeof line, in)) {
        unsigned long lo, hi;
        int at = 0;

        if (sscanf(line, "%lx-%lx %7s %n", &lo, &hi, perm, &at) < 3) {
            str_add(&h.details, line);
            continue;
        }
        add_pieces(out, &h);
        str_free(&h.details);
        h = (struct host_map){.lo = lo, .hi = hi};
        snprintf(h.rest, sizeof h.rest, "%s", line + at);
    }
    add_pieces(out, &h);
    str_free(&h.details);
}

static void add_cmdline(struct strbuf *out)
{
    for (char **a = lx_proc.argv; *a; a++)
        str_addn(out, *a, strlen(*a) + 1);
}

/* The fields that say where things are. */
static void add_stat(struct strbuf *out, FILE *in)
{
    char line[4096], *end;
    unsigned field = 3;

    if (!fgets(line, sizeof line, in) || !(end = strrchr(line, ')')))
        return;
    str_addn(out, line, (size_t)(end + 1 - line));
    for (char *save = NULL, *w = strtok_r(end + 1, " \n", &save); w; w = strtok_r(NULL, " \n", &save), field++) {
        uint64_t v = field == 26   ? lx_proc.code_start
                     : field == 27 ? lx_proc.code_end
                     : field == 28 ? lx_proc.stack_hi - 16
                     : field == 45 ? lx_proc.data_start
                     : field == 46 ? lx_proc.data_end
                     : field == 47 ? lx_proc.brk_start
                     : field == 48 ? lx_proc.arg_start
                     : field == 49 ? lx_proc.arg_end
                     : field == 50 ? lx_proc.env_start
                     : field == 51 ? lx_proc.env_end
                                   : 0;

        if (v)
            str_addf(out, " %" PRIu64, v);
        else
            str_addf(out, " %s", w);
    }
    str_add(out, "\n");
}

static int text_file(const struct strbuf *s)
{
    int fd = memfd_create("proc", MFD_CLOEXEC);

    if (fd >= 0 && s->len && (write(fd, s->s, s->len) != (ssize_t)s->len || lseek(fd, 0, SEEK_SET))) {
        close(fd);
        return -EIO;
    }
    return fd < 0 ? -errno : fd;
}

static bool add_cpuinfo(struct strbuf *s)
{
    char text[4096];
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    if (!lx_proc.arch->cpuinfo)
        return false;
    for (long i = 0; i < n; i++) {
        lx_proc.arch->cpuinfo(text, sizeof text, (unsigned)i);
        str_add(s, text);
    }
    return true;
}

/* /proc/<pid>/<what> of another process; 0: it is nothing like that. */
static int peer_proc(const char *path, const char **what)
{
    int pid, n = 0;

    if (!str_starts(path, "/proc/") || sscanf(path, "/proc/%d/%n", &pid, &n) != 1 || !n || pid == getpid())
        return 0;
    *what = path + n;
    return pid;
}

/* The program that /proc/<pid>/exe means to the guest, ours or another process's; false: the path is another or shows
 * the truth. */
static bool exe_of(const char *path, struct strbuf *out)
{
    const char *what = own_proc(path);
    int pid = what ? 0 : peer_proc(path, &what);

    if (!what || strcmp(what, "exe"))
        return false;
    if (!pid) {
        str_add(out, lx_proc.exe);
        return true;
    }
    return (lx_tracing() && lx_trace_proc(pid, what, out)) || lx_peer(pid, LX_PEER_EXE, out);
}

/* A path in a folder of /proc whose last part is one of those that must show the guest, as an absolute one; else path.
 */
const char *lx_proc_name(int dirfd, const char *path, char buf[PATH_MAX])
{
    static const char *const shown[] = {"exe",  "maps",    "smaps",        "stat",  "cmdline",
                                        "auxv", "cpuinfo", "smaps_rollup", "statm", "status"};
    const char *last = strrchr(path, '/');
    char link[32];
    ssize_t n;

    if (path[0] == '/')
        return path;
    last = last ? last + 1 : path;
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        if (strcmp(last, shown[i]))
            continue;
        snprintf(link, sizeof link, dirfd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dirfd);
        n = readlink(link, buf, PATH_MAX - 256);
        if (n < 5 || strncmp(buf, "/proc", 5) || (size_t)n + strlen(path) + 2 > PATH_MAX || (n > 5 && buf[5] != '/'))
            return path;
        buf[n] = '/';
        memcpy(buf + n + 1, path, strlen(path) + 1);
        return buf;
    }
    return path;
}

/* Files of our own that are the host's with other numbers. False: it is none of them. */
static bool add_own(struct strbuf *out, const char *path, const char *what, int *error)
{
    static const char *const made[] = {"maps", "smaps", "stat", "smaps_rollup", "statm", "status"};
    CLEANUP(str_free) struct strbuf smaps = {0};
    unsigned i = 0;
    FILE *in, *m;

    while (i < ARRAY_LEN(made) && strcmp(what, made[i]))
        i++;
    if (i == ARRAY_LEN(made))
        return false;
    in = fopen(path, "re");
    m = in && i >= 3 ? fopen("/proc/self/smaps", "re") : NULL;
    *error = in ? 0 : errno;
    if (m) {
        add_maps(&smaps, m);
        fclose(m);
    }
    if (!in)
        return true;
    if (i < 2)
        add_maps(out, in);
    else if (i == 2)
        add_stat(out, in);
    else if (i == 3)
        lx_proc_smaps_rollup(out, smaps.s ? smaps.s : "", in);
    else if (i == 4)
        lx_proc_statm(out, smaps.s ? smaps.s : "");
    else
        lx_proc_status(out, smaps.s ? smaps.s : "", in);
    fclose(in);
    return true;
}

int lx_proc_open(const char *path, int flags, bool *ours)
{
    CLEANUP(str_free) struct strbuf s = {0};
    const char *what = own_proc(path);
    const char *peer;
    int fd, pid, e = 0;

    *ours = true;
    pid = peer_proc(path, &peer);
    if (pid && !strcmp(peer, "auxv") && lx_tracing() && lx_trace_proc(pid, peer, &s))
        return text_file(&s);
    if (pid && !strcmp(peer, "cmdline") && lx_peer(pid, LX_PEER_CMDLINE, &s))
        return text_file(&s);
    if (exe_of(path, &s))
        fd = open(s.s, flags & ~O_CREAT);
    else if (what && !strcmp(what, "auxv")) {
        str_addn(&s, (const void *)(uintptr_t)lx_proc.auxv, lx_proc.auxv_len);
        return text_file(&s);
    } else if (what && !strcmp(what, "cmdline")) {
        add_cmdline(&s);
        return text_file(&s);
    } else if (what && add_own(&s, path, what, &e)) {
        return e ? -e : text_file(&s);
    } else if (!strcmp(path, "/proc/cpuinfo") && add_cpuinfo(&s)) {
        return text_file(&s);
    } else {
        *ours = false;
        return -1;
    }
    return fd < 0 ? -errno : fd;
}

int64_t lx_proc_readlink(const char *path, char *buf, size_t n)
{
    CLEANUP(str_free) struct strbuf s = {0};
    size_t len;

    if (!exe_of(path, &s))
        return -1;
    len = min_u64(s.len, n);
    memcpy(buf, s.s, len);
    return (int64_t)len;
}

/* ---- execve ---- */

struct exec {
    char path[PATH_MAX]; /* the ELF file */
    char **argv;         /* owned vector, borrowed strings but for the made ones, which leak into exec */
    unsigned argc;
};

static void prepend(struct exec *x, char *s)
{
    x->argv = xrealloc(x->argv, (x->argc + 3) * sizeof(char *));
    memmove(x->argv + 1, x->argv, (x->argc + 1) * sizeof(char *));
    x->argv[0] = s;
    x->argc++;
}

/* "#! interpreter argument": true when the file is a script; x then names the interpreter. */
static bool shebang(struct exec *x, const char *head, size_t n)
{
    char line[256], *interp, *arg, *end;
    size_t len = 0;

    if (n < 3 || head[0] != '#' || head[1] != '!')
        return false;
    while (len + 2 < n && len < sizeof line - 1 && head[len + 2] != '\n')
        len++;
    memcpy(line, head + 2, len);
    line[len] = 0;
    interp = line + strspn(line, " \t");
    end = interp + strcspn(interp, " \t");
    arg = end + strspn(end, " \t");
    *end = 0;
    for (size_t k = strlen(arg); k && (arg[k - 1] == ' ' || arg[k - 1] == '\t'); k--)
        arg[k - 1] = 0;
    if (!*interp)
        return false;
    if (x->argc)
        x->argv[0] = xstrdup(x->path);
    else
        prepend(x, xstrdup(x->path));
    if (*arg)
        prepend(x, xstrdup(arg));
    prepend(x, xstrdup(interp));
    snprintf(x->path, sizeof x->path, "%s", interp);
    return true;
}

/* 1: ours to run, x says what; 0: leave it to the kernel; else -errno. */
static int resolve(struct exec *x, const char *path)
{
    char buf[PATH_MAX];

    snprintf(x->path, sizeof x->path, "%s", path);
    for (unsigned depth = 0; depth <= MAX_SHEBANG; depth++) {
        const char *host = lx_path(x->path, buf);
        unsigned char head[256] = {0};
        unsigned c = 0;
        struct stat st;
        ssize_t n;
        int fd;

        if (access(host, X_OK) < 0)
            return -errno;
        fd = open(host, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return 0; /* executable but not readable */
        n = read(fd, head, sizeof head);
        if (fstat(fd, &st) < 0)
            st.st_mode = 0;
        close(fd);
        if (!S_ISREG(st.st_mode))
            return -EACCES;
        if (n < 0 || (st.st_mode & (S_ISUID | S_ISGID) && !lx_self->secc && !lx_self->trace.on))
            return 0;
        if (lx_elf_machine(head, (size_t)n, &c) == lx_proc.arch->elf_machine && c == lx_proc.arch->elf_class) {
            if (host != x->path)
                memcpy(x->path, buf, sizeof buf);
            return 1;
        }
        if (!shebang(x, (const char *)head, (size_t)n))
            return 0;
    }
    return -ELOOP;
}

/* This program again: its name, options, -0 ARGV0 PATH ARGS... */
static char **own_command(const struct lx_thread *t, const struct exec *x, int seccomp)
{
    const struct lx_opts *o = &lx_proc.opt;
    char **v = xcalloc(x->argc + 64, sizeof *v);
    unsigned n = 0, nr = 0;

    v[n++] = xasprintf("qemu-%s", lx_proc.arch->name);
    if (o->given_prefix) {
        v[n++] = xstrdup("-L");
        v[n++] = xstrdup("/");
    }
    while (o->given_prefix && o->prefix && o->prefix[nr] && nr < 10)
        nr++;
    while (nr) { /* the last one is tried first */
        v[n++] = xstrdup("-L");
        v[n++] = o->prefix[--nr];
    }
    if (o->cpu) {
        v[n++] = xstrdup("-cpu");
        v[n++] = xstrdup(o->cpu);
    }
    if (o->uname) {
        v[n++] = xstrdup("-r");
        v[n++] = xstrdup(o->uname);
    }
    if (o->stack) {
        v[n++] = xstrdup("-s");
        v[n++] = xasprintf("%" PRIu64, o->stack);
    }
    if (o->strace)
        v[n++] = xstrdup("-strace");
    if (o->one_insn)
        v[n++] = xstrdup("-one-insn-per-tb");
    if (o->cache_mib) {
        v[n++] = xstrdup("-tb-size");
        v[n++] = xasprintf("%u", o->cache_mib);
    }
    if (o->log_file) {
        v[n++] = xstrdup("-D");
        v[n++] = xstrdup(o->log_file);
    }
    if (seccomp >= 0) {
        v[n++] = xstrdup("-seccomp-fd");
        v[n++] = xasprintf("%d", seccomp);
    }
    if (t->trace.on) {
        v[n++] = xstrdup("-ptrace");
        v[n++] = lx_trace_carry(t);
    }
    v[n++] = xstrdup("-0");
    v[n++] = x->argc ? x->argv[0] : xstrdup("");
    v[n++] = xstrdup("--");
    v[n++] = xstrdup(x->path);
    for (unsigned i = 1; i < x->argc; i++)
        v[n++] = x->argv[i];
    return v;
}

int64_t lx_do_exec(struct lx_thread *t, int dirfd, const char *path, char **argv, char **envp, int flags)
{
    struct exec x = {.argc = 0};
    char full[PATH_MAX], **v;
    int r, secc;

    if (flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
        return -EINVAL;
    if (!*path && !(flags & AT_EMPTY_PATH))
        return -ENOENT;
    if (!strcmp(path, "/proc/self/exe"))
        path = lx_proc.exe;
    if (!*path)
        snprintf(full, sizeof full, "/proc/self/fd/%d", dirfd);
    else if (path[0] != '/' && dirfd != AT_FDCWD)
        snprintf(full, sizeof full, "/proc/self/fd/%d/%s", dirfd, path);
    else
        snprintf(full, sizeof full, "%s", path);
    while (argv[x.argc])
        x.argc++;
    x.argv = xcalloc(x.argc + 1, sizeof(char *));
    memcpy(x.argv, argv, x.argc * sizeof(char *));
    r = resolve(&x, full);
    if (r < 0) {
        free(x.argv);
        return r;
    }
    if (t->pending) {
        free(x.argv);
        return -LX_ERESTART;
    }
    if (!r && t->secc) {
        free(x.argv);
        return -EPERM; /* it would run without the filters */
    }
    if (!r) {
        uint64_t a[6] = {(uint64_t)(int64_t)dirfd, (uintptr_t)path, (uintptr_t)argv, (uintptr_t)envp, (uint64_t)flags};
        char buf[PATH_MAX];

        a[1] = (uintptr_t)lx_path(path, buf);
        free(x.argv);
        return syscall(SYS_execveat, (int)a[0], a[1], a[2], a[3], (int)a[4]) < 0 ? -errno : 0;
    }
    secc = lx_seccomp_carry(t);
    if (secc < -1) {
        free(x.argv);
        return secc + 1;
    }
    if (!t->sharing)
        lx_kept_save(lx_proc.rt);
    v = own_command(t, &x, secc);
    if (access(lx_proc.opt.self, X_OK) < 0 && secc < 0) /* a root without /proc: binfmt_misc may know the program */
        execve(x.path, x.argv, envp);
    else
        execve(lx_proc.opt.self, v, envp);
    r = errno;
    if (secc >= 0)
        close(secc);
    free(v);
    free(x.argv);
    return -r;
}

static void free_vector(char **v)
{
    for (size_t i = 0; v && v[i]; i++)
        free(v[i]);
    free(v);
}

static char **get_vector(uint64_t at, int *e)
{
    char **v = xcalloc(1, sizeof *v);
    size_t n = 0;

    while (at) {
        uint64_t p;

        if (!lx_get_word(at, &p)) {
            *e = EFAULT;
            goto fail;
        }
        if (!p)
            break;
        if (n == MAX_EXEC_ARGS) {
            *e = E2BIG;
            goto fail;
        }
        v = xrealloc(v, (n + 2) * sizeof *v);
        v[n + 1] = NULL;
        v[n] = lx_get_str(p, MAX_ARG_LEN, e);
        if (!v[n]) {
            *e = *e == ENAMETOOLONG ? E2BIG : *e;
            goto fail;
        }
        n++;
        at += lx_proc.arch->word;
    }
    return v;
fail:
    free_vector(v);
    return NULL;
}

static int64_t exec_call(struct lx_thread *t, int dirfd, uint64_t path_at, uint64_t argv_at, uint64_t envp_at,
                         int flags)
{
    char *path, **argv = NULL, **envp = NULL;
    int e = 0;
    int64_t r;

    path = lx_get_str(path_at, PATH_MAX, &e);
    argv = path ? get_vector(argv_at, &e) : NULL;
    envp = argv ? get_vector(envp_at, &e) : NULL;
    r = envp ? lx_do_exec(t, dirfd, path, argv, envp, flags) : -e;
    free(path);
    free_vector(argv);
    free_vector(envp);
    return r;
}

int64_t lx_sys_execve(struct lx_thread *t, const uint64_t *a)
{
    return exec_call(t, AT_FDCWD, a[0], a[1], a[2], 0);
}

int64_t lx_sys_execveat(struct lx_thread *t, const uint64_t *a)
{
    return exec_call(t, (int)a[0], a[1], a[2], a[3], (int)a[4]);
}
