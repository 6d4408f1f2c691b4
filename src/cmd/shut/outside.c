/* The process outside: what it grants, and to whom. Its questions come from a process that may be in the hands of a
 * hostile image; its rules rest on the command line, which was there before, and on image headers read before their
 * file was handed over. */
#include "blk/lock.h"
#include "blk/node.h"
#include "cmd/shut/wire.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GRANTS_MAX = 4096 };

struct grant {
    char *path;
    dev_t dev;
    ino_t ino;
    bool rw, temporary;
    char **refs; /* names in its header when it was granted */
    unsigned nr_refs;
};
struct outside {
    const struct shut_plan *p;
    struct grant grant[GRANTS_MAX];
    unsigned nr;
    int asker;
};

/* ---- wire ---- */

int wire_send(int sock, const void *p, size_t len, int fd)
{
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int))];
    } c = {0};
    struct iovec v = {(void *)(uintptr_t)p, len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    ssize_t n;

    if (fd >= 0) {
        m.msg_control = &c;
        m.msg_controllen = sizeof c;
        c.h = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(&c.h), &fd, sizeof fd);
    }
    do
        n = sendmsg(sock, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

ssize_t wire_recv(int sock, void *p, size_t len, int *fd)
{
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int))];
    } c = {0};
    struct iovec v = {p, len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
    ssize_t n;

    *fd = -1;
    do
        n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (m.msg_controllen >= CMSG_LEN(sizeof(int)) && c.h.cmsg_level == SOL_SOCKET && c.h.cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(&c.h), sizeof *fd);
    return n;
}

/* ---- names ---- */

static bool edge(char c)
{
    return !c || strchr("=:,\"' {}[]\\", c);
}

/* Does text stand in the word by itself, or as the value of an option? */
static bool stands_in(const char *word, const char *text)
{
    size_t n = strlen(text);

    for (const char *p = word; n && (p = strstr(p, text)); p++)
        if ((p == word || edge(p[-1])) && edge(p[n]))
            return true;
    return false;
}

/* As an option list would hold it, with its commas doubled. */
static bool named_in(const char *word, const char *path)
{
    char twice[2 * WIRE_TEXT], *q = twice;

    if (stands_in(word, path))
        return true;
    if (!strchr(path, ','))
        return false;
    for (const char *p = path; *p && q < twice + sizeof twice - 3; p++) {
        if (*p == ',')
            *q++ = ',';
        *q++ = *p;
    }
    *q = 0;
    return stands_in(word, twice);
}

static bool is_options(const struct shut_plan *p, int i)
{
    return i > 0 && (!strcmp(p->argv[i - 1], "-o") || !strcmp(p->argv[i - 1], "--options"));
}

/* May this word of the command line speak for this kind of use? */
static bool speaks(const struct shut_plan *p, int i, bool rw)
{
    return !rw || !p->target || p->argv[i] == p->target || is_options(p, i) || str_starts(p->argv[i], "-o");
}

/* Named by the command line: as it is, or seen from the folder of another word. */
static bool named(const struct shut_plan *p, const char *path, bool rw)
{
    for (int i = 1; i < p->argc; i++) {
        const char *w = p->argv[i], *slash = strrchr(w, '/');
        size_t n = slash ? (size_t)(slash - w) + 1 : 0;

        if (speaks(p, i, rw) && named_in(w, path))
            return true;
        if (!n || *w == '-' || strncmp(path, w, n) != 0 || !path[n])
            continue;
        for (int k = 1; k < p->argc; k++)
            if (k != i && speaks(p, k, rw) && named_in(p->argv[k], path + n))
                return true;
    }
    return false;
}

/* Beside an output: NAME-flat.EXT, NAME-s001.EXT, NAME-f001.EXT. */
static bool beside(const struct shut_plan *p, const char *path)
{
    const char *dash = strrchr(path, '-'), *dot = strrchr(path, '.'), *kind = dash ? dash + 1 : NULL;
    char *whole AUTOFREE = NULL;
    bool split;

    if (!dash || strchr(dash, '/'))
        return false;
    if (!dot || dot < dash)
        dot = path + strlen(path);
    split = (*kind == 's' || *kind == 'f') && dot - kind == 4 && strspn(kind + 1, "0123456789") >= 3;
    if (!split && (dot - kind != 4 || strncmp(kind, "flat", 4) != 0))
        return false;
    whole = xasprintf("%.*s%s", (int)(dash - path), path, dot);
    return named(p, whole, true);
}

static const struct grant *of_path(const struct outside *o, const char *path)
{
    for (unsigned i = 0; i < o->nr; i++)
        if (!strcmp(o->grant[i].path, path))
            return &o->grant[i];
    return NULL;
}

/* Named by an image that was granted: a plain file, never another protocol. */
static bool named_by_image(const struct outside *o, const char *path, bool rw)
{
    for (unsigned i = 0; i < o->nr; i++)
        for (unsigned k = 0; k < o->grant[i].nr_refs; k++) {
            const char *ref = o->grant[i].refs[k];
            char *full AUTOFREE = blk_path_combine(o->grant[i].path, str_starts(ref, "file:") ? ref + 5 : ref);

            if (!strcmp(full, path) && (!rw || (o->grant[i].rw && o->p->writes) || o->p->below_writes))
                return true;
        }
    return false;
}

static bool allowed(const struct outside *o, const char *path, bool rw)
{
    const struct grant *g = of_path(o, path);

    if (rw && !o->p->writes && !(g && g->temporary))
        return false;
    return (g && (g->rw || !rw)) || named(o->p, path, rw) || (rw && beside(o->p, path)) || named_by_image(o, path, rw);
}

static struct grant *note(struct outside *o, const char *path, int fd, bool rw)
{
    struct grant *g = (struct grant *)(uintptr_t)of_path(o, path);
    struct stat st;

    if (g) {
        g->rw |= rw;
        return g;
    }
    if (o->nr == GRANTS_MAX || fstat(fd, &st) < 0)
        return NULL;
    g = &o->grant[o->nr++];
    *g = (struct grant){.path = xstrdup(path), .dev = st.st_dev, .ino = st.st_ino, .rw = rw};
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) {
        char self[32];
        int plain; /* without O_DIRECT, and readable */

        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        plain = open(self, O_RDONLY | O_CLOEXEC);
        if (plain >= 0) {
            g->nr_refs = shut_refs(plain, &g->refs);
            close(plain);
        }
    }
    return g;
}

/* ---- answers ---- */

enum { MAY_OPEN = O_ACCMODE | O_CREAT | O_DIRECT | O_CLOEXEC | O_TRUNC };

static int do_open(struct outside *o, const struct question *q)
{
    bool rw = (q->flags & O_ACCMODE) != O_RDONLY;
    int fd;

    if (q->flags & ~MAY_OPEN || (!rw && q->flags & (O_CREAT | O_TRUNC)) || !allowed(o, q->text, rw))
        return -EACCES;
    fd = open(q->text, q->flags | O_CLOEXEC | O_NOCTTY, q->mode & 0666);
    if (fd < 0)
        return -errno;
    if (note(o, q->text, fd, rw))
        return fd;
    close(fd);
    return -EMFILE;
}

static int do_reopen(struct outside *o, const struct question *q, int fd)
{
    bool rw = (q->flags & O_ACCMODE) != O_RDONLY;
    char self[32];
    struct stat st;

    if (fd < 0 || q->flags & ~(O_ACCMODE | O_DIRECT | O_CLOEXEC) || fstat(fd, &st) < 0)
        return -EINVAL;
    for (unsigned i = 0; i < o->nr; i++)
        if (o->grant[i].dev == st.st_dev && o->grant[i].ino == st.st_ino && allowed(o, o->grant[i].path, rw)) {
            snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
            fd = open(self, q->flags | O_CLOEXEC | O_NOCTTY);
            o->grant[i].rw |= fd >= 0 && rw;
            return fd < 0 ? -errno : fd;
        }
    return -EACCES;
}

static int do_temporary(struct outside *o, struct question *q)
{
    const char *dir = getenv("TMPDIR");
    struct grant *g;
    int fd;

    snprintf(q->text, sizeof q->text, "%s/vl.XXXXXX", dir && *dir ? dir : "/tmp");
    fd = mkstemp(q->text);
    if (fd < 0)
        return -errno;
    g = note(o, q->text, fd, true);
    if (g)
        g->temporary = true;
    close(fd);
    return g ? 0 : -EMFILE;
}

static int do_unlink(struct outside *o, const struct question *q)
{
    const struct grant *g = of_path(o, q->text);
    bool ours = g && g->temporary;

    for (size_t i = 0; i < ARRAY_LEN(o->p->gone); i++)
        ours |= o->p->gone[i] && !strcmp(o->p->gone[i], q->text);
    return !ours ? -EACCES : unlink(q->text) < 0 ? -errno : 0;
}

static int do_kind(struct outside *o, const struct question *q, uint32_t *type)
{
    struct stat st;

    if (!allowed(o, q->text, false))
        return -EACCES;
    if (stat(q->text, &st) < 0)
        return -errno;
    *type = st.st_mode & S_IFMT;
    return 0;
}

static int answer(struct outside *o, struct question *q, int fd, struct answer *a)
{
    char *who AUTOFREE = NULL;

    switch (q->what) {
    case ASK_OPEN:
        return do_open(o, q);
    case ASK_REOPEN:
        return do_reopen(o, q, fd);
    case ASK_KIND:
        return do_kind(o, q, &a->type);
    case ASK_TEMPORARY:
        a->ret = do_temporary(o, q);
        snprintf(a->text, sizeof a->text, "%s", q->text);
        return a->ret;
    case ASK_UNLINK:
        return do_unlink(o, q);
    case ASK_HOLDER:
        who = fd >= 0 ? blk_lock_holder(fd, o->asker, q->flags) : NULL;
        snprintf(a->text, sizeof a->text, "%s", who ? who : "");
        return 0;
    default:
        return -EINVAL;
    }
}

static void be_nobody(int sock)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    prctl(PR_SET_NAME, "lyrebird-files");
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    signal(SIGTSTP, SIG_IGN);
    for (int i = 0; i < 3; i++) /* nobody waits for the end of our output */
        dup2(null, i);
    dup2(sock, 3);
    close_range(4, ~0u, 0);
}

void shut_outside(int sock, const struct shut_plan *p, int asker)
{
    struct outside *o = xnew(struct outside);
    struct question *q = xnew(struct question);
    struct answer *a = xnew(struct answer);
    ssize_t n;
    int fd;

    be_nobody(sock);
    o->p = p;
    o->asker = asker;
    while ((n = wire_recv(3, q, sizeof *q, &fd)) > 0) {
        int got, send;

        *a = (struct answer){.ret = -EINVAL};
        if ((size_t)n <= offsetof(struct question, text))
            break;
        ((char *)q)[min_u64((uint64_t)n, sizeof *q - 1)] = 0;
        got = answer(o, q, fd, a);
        send = (q->what == ASK_OPEN || q->what == ASK_REOPEN) && got >= 0 ? got : -1;
        a->ret = got < 0 ? got : 0;
        if (wire_send(3, a, offsetof(struct answer, text) + strlen(a->text) + 1, send) < 0)
            break;
        if (send >= 0)
            close(send);
        if (fd >= 0)
            close(fd);
    }
    _exit(0);
}
