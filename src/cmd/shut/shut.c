/* The process inside: asks the one outside, and puts the restrictions on itself. See shut.h. */
#include "cmd/shut/shut.h"
#include "base/json.h"
#include "base/log.h"
#include "blk/aio.h"
#include "blk/host.h"
#include "cmd/shut/wire.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct shut {
    int sock;
    pid_t outside;
    pthread_mutex_t lock;
    struct blk_host host;
};

/* ---- asking ---- */

/* The answer's ret; a descriptor that came with it in *fd. */
static int ask(struct shut *s, struct question *q, int give, struct answer *a, int *fd)
{
    size_t len = offsetof(struct question, text) + strlen(q->text) + 1;
    ssize_t n;
    int r;

    pthread_mutex_lock(&s->lock);
    r = wire_send(s->sock, q, len, give);
    n = r < 0 ? r : wire_recv(s->sock, a, sizeof *a, fd);
    pthread_mutex_unlock(&s->lock);
    if (n < 0 || (size_t)n <= offsetof(struct answer, text))
        return n < 0 ? (int)n : -EPIPE;
    a->text[sizeof a->text - 1] = 0;
    return a->ret;
}

static int ask_for_fd(struct shut *s, enum ask what, const char *path, int give, int flags, unsigned mode)
{
    struct question q = {.what = what, .flags = flags, .mode = mode};
    struct answer a;
    int fd = -1, r;

    if (strlen(path) >= sizeof q.text)
        return -ENAMETOOLONG;
    strcpy(q.text, path);
    r = ask(s, &q, give, &a, &fd);
    return r < 0 ? r : fd < 0 ? -EPIPE : fd;
}

static int in_open(void *opaque, const char *path, int flags, unsigned mode)
{
    return ask_for_fd(opaque, ASK_OPEN, path, -1, flags, mode);
}

static int in_reopen(void *opaque, int fd, int flags)
{
    return ask_for_fd(opaque, ASK_REOPEN, "", fd, flags, 0);
}

/* Questions about a path without a descriptor in the answer. */
static int ask_path(struct shut *s, enum ask what, const char *path, struct answer *a)
{
    struct question q = {.what = what};
    int fd = -1, r;

    if (strlen(path) >= sizeof q.text)
        return -ENAMETOOLONG;
    strcpy(q.text, path);
    r = ask(s, &q, -1, a, &fd);
    if (fd >= 0)
        close(fd);
    return r;
}

static int in_kind(void *opaque, const char *path, mode_t *type)
{
    struct answer a;
    int r = ask_path(opaque, ASK_KIND, path, &a);

    *type = r < 0 ? 0 : a.type;
    return r;
}

static int in_temporary(void *opaque, char *path)
{
    struct answer a;
    int r = ask_path(opaque, ASK_TEMPORARY, "", &a);

    if (r >= 0 && strlen(a.text) > strlen(path))
        return -ENAMETOOLONG;
    if (r >= 0)
        strcpy(path, a.text);
    return r;
}

static int in_unlink(void *opaque, const char *path)
{
    struct answer a;

    return ask_path(opaque, ASK_UNLINK, path, &a);
}

static char *in_holder(void *opaque, int fd)
{
    struct question q = {.what = ASK_HOLDER, .flags = fd};
    struct answer a;
    int got = -1, r = ask(opaque, &q, fd, &a, &got);

    return r < 0 || !*a.text ? NULL : xstrdup(a.text);
}

/* ---- shutting in ---- */

static bool speaks_to_others(const char *w)
{
    static const char *const marks[] = {
        "nbd:",      "nbd+unix:", "://",       "fat:",     "driver=nbd", "driver=vvfat", "driver=http", "driver=ftp",
        "tls-creds", "\"nbd\"",   "\"vvfat\"", "\"http\"", "\"https\"",  "\"ftp\"",      "\"ftps\"",    "pr-manager"};

    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        if (strstr(w, marks[i]))
            return true;
    return false;
}

const char *shut_why_not(int argc, char **argv)
{
    const char *env = getenv("LYREBIRD_SANDBOX");

    if (env && !strcmp(env, "off"))
        return "LYREBIRD_SANDBOX=off";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return "this build has a sanitizer, which needs more";
#endif
    for (int i = 1; i < argc; i++)
        if (speaks_to_others(argv[i]))
            return "the command line names a network or folder protocol";
    return NULL;
}

static void set_bounds(void)
{
    char line[64] = "";
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = f && fgets(line, sizeof line, f) ? strtoul(line, NULL, 10) : 0;
    uint64_t mem = GIB + pages * (uint64_t)sysconf(_SC_PAGESIZE);

    if (f)
        fclose(f);
    setrlimit(RLIMIT_AS, &(struct rlimit){mem, mem});
    setrlimit(RLIMIT_CPU, &(struct rlimit){30, 30});
}

struct shut *shut_in(struct blk_set *set, const struct shut_plan *p)
{
    const char *why = shut_why_not(p->argc, p->argv);
    pid_t self = getpid();
    struct shut *s;
    int sv[2];

    if (!why && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
        why = "no socket pair";
    if (why) {
        log_trace("sandbox: not in force: %s\n", why);
        return NULL;
    }
    for (int i = 1; i < p->argc; i++)
        if (strstr(p->argv[i], "io_uring"))
            blk_aio_prepare(set, BLK_ENGINE_URING);
    json_object_put(json_make("s:seed", "", NULL)); /* json-c seeds its hashes once, on some processors from a file */
    fflush(NULL);
    s = xnew(struct shut);
    s->outside = fork();
    if (s->outside < 0) {
        log_trace("sandbox: not in force: no process\n");
        close(sv[0]);
        close(sv[1]);
        free(s);
        return NULL;
    }
    if (!s->outside)
        shut_outside(sv[1], p, self);
    close(sv[1]);
    s->sock = sv[0];
    pthread_mutex_init(&s->lock, NULL);
    s->host = (struct blk_host){in_open, in_reopen, in_kind, in_temporary, in_unlink, in_holder, s};
    blk_set_host(set, &s->host);
    tzset(); /* reads a file */
    if (p->bounded)
        set_bounds();
    why = shut_restrict(p->serves);
    log_trace("sandbox: %s\n", why);
    return s;
}

void shut_end(struct shut *s)
{
    if (!s)
        return;
    close(s->sock);
    while (waitpid(s->outside, NULL, 0) < 0 && errno == EINTR)
        ;
    pthread_mutex_destroy(&s->lock);
    free(s);
}
