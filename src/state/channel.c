/* Ways a moving machine takes: a file, a command, a socket, a descriptor somebody handed over. Descriptors are
 * non-blocking; a fibre that would wait watches the descriptor and sleeps. Plain files are always ready, so after each
 * piece the loop gets a turn. */
#include "state/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- waiting ---- */

struct channel_wait {
    struct fibre *f;
    struct ev_fd *w; /* NULL: a sleep */
    struct clk_timer t;
    bool woken;
};

static void fd_ready(void *opaque, int fd, unsigned events)
{
    struct channel_wait *w = opaque;

    ev_fd_set(w->w, 0);
    if (w->woken)
        return;
    w->woken = true;
    fibre_resume(w->f);
}

static void time_over(void *opaque)
{
    struct channel_wait *w = opaque;

    if (w->woken)
        return;
    w->woken = true;
    fibre_resume(w->f);
}

static bool wait_fd(struct channel *c, unsigned events)
{
    struct channel_wait w = {.f = fibre_self()};

    if (c->cancelled)
        return false;
    w.w = ev_fd_add(c->run->loop, c->fd, events, fd_ready, &w);
    c->waiting = &w;
    fibre_yield();
    c->waiting = NULL;
    ev_fd_del(w.w);
    return !c->cancelled;
}

void channel_sleep(struct channel *c, int64_t ns)
{
    struct channel_wait w = {.f = fibre_self()};

    if (c->cancelled)
        return;
    clk_timer_init(&w.t, c->run->real, time_over, &w);
    clk_timer_set(&w.t, clk_now(c->run->real) + ns);
    c->waiting = &w;
    fibre_yield();
    c->waiting = NULL;
    clk_timer_cancel(&w.t);
}

void channel_cancel(struct channel *c)
{
    struct channel_wait *w = c->waiting;

    c->cancelled = true;
    if (!w || w->woken)
        return;
    w->woken = true;
    fibre_wake(c->run->loop, w->f);
}

static void breathe(struct channel *c)
{
    fibre_wake(c->run->loop, fibre_self());
    fibre_yield();
}

/* ---- bytes ---- */

static void keep_rate(struct channel *c, size_t len)
{
    int64_t ns = *c->rate ? (int64_t)((double)len / (double)*c->rate * 1e9) : 0;

    while (ns > 0 && !c->cancelled) {
        int64_t step = ns < 50 * NS_PER_MS ? ns : 50 * NS_PER_MS;

        channel_sleep(c, step);
        ns -= step;
    }
}

static bool sink_write(struct state_sink *s, const void *buf, size_t len, struct err **errp)
{
    struct channel *c = container_of(s, struct channel, sink);
    const uint8_t *p = buf;
    size_t left = len;

    while (left && !c->cancelled) {
        ssize_t n = write(c->fd, p, left);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            wait_fd(c, EV_OUT);
            continue;
        }
        if (n <= 0)
            return err_set_errno(errp, n < 0 ? errno : EIO, "cannot send the machine's state");
        p += n;
        left -= (size_t)n;
        c->moved += (uint64_t)n;
    }
    if (!c->cancelled)
        keep_rate(c, len);
    if (!c->cancelled)
        breathe(c);
    return !c->cancelled || err_set(errp, "the move was cancelled");
}

static ssize_t fill(struct channel *c)
{
    for (;;) {
        ssize_t got = read(c->fd, c->buf, STATE_BUF);

        if (got >= 0 || (errno != EINTR && errno != EAGAIN))
            return got;
        if (errno == EAGAIN && !wait_fd(c, EV_IN)) {
            errno = ECANCELED;
            return -1;
        }
    }
}

static bool source_read(struct state_source *s, void *buf, size_t len, struct err **errp)
{
    struct channel *c = container_of(s, struct channel, source);
    uint8_t *out = buf;

    while (len) {
        size_t n = min_u64(len, c->have - c->at);
        ssize_t got;

        memcpy(out, c->buf + c->at, n);
        c->at += n;
        out += n;
        len -= n;
        if (!len)
            break;
        breathe(c);
        got = c->cancelled ? (errno = ECANCELED, -1) : fill(c);
        if (got < 0)
            return err_set_errno(errp, errno, "cannot receive the machine's state");
        if (!got)
            return err_set(errp, "the saved state ends too early");
        c->at = 0;
        c->have = (size_t)got;
        c->moved += (uint64_t)got;
    }
    return true;
}

/* ---- opening ---- */

static int open_exec(struct channel *c, const char *cmd, bool out)
{
    int p[2];

    if (pipe2(p, O_CLOEXEC) < 0)
        return -1;
    c->child = fork();
    if (!c->child) {
        dup2(p[out ? 0 : 1], out ? 0 : 1);
        execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
        _exit(127);
    }
    close(p[out ? 0 : 1]);
    if (c->child > 0)
        return p[out ? 1 : 0];
    c->child = 0;
    close(p[out ? 1 : 0]);
    return -1;
}

/* A socket under way to its peer, or one that listens. */
static int start_socket(int fd, const struct sockaddr *a, socklen_t len, bool out)
{
    int one = 1, e;

    if (fd < 0)
        return -1;
    if (out) {
        if (!connect(fd, a, len) || errno == EINPROGRESS)
            return fd;
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (!bind(fd, a, len) && !listen(fd, 1))
            return fd;
    }
    e = errno;
    close(fd);
    errno = e;
    return -1;
}

static int open_unix(const char *path, bool out)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof a.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(a.sun_path, path);
    if (!out && unlink(path) < 0 && errno != ENOENT)
        return -1;
    return start_socket(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), (struct sockaddr *)&a, sizeof a,
                        out);
}

static int open_tcp(const char *where, bool out, struct err **errp)
{
    char *host AUTOFREE = xstrdup(where), *port = strrchr(host, ':');
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = out ? 0 : AI_PASSIVE}, *a = NULL;
    int fd, e;

    if (!port) {
        err_set(errp, "tcp:%s: expected tcp:HOST:PORT", where);
        return -1;
    }
    *port++ = 0;
    e = getaddrinfo(*host ? host : NULL, port, &want, &a);
    if (e) {
        err_set(errp, "tcp:%s: %s", where, gai_strerror(e));
        return -1;
    }
    fd = start_socket(socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), a->ai_addr, a->ai_addrlen,
                      out);
    if (fd < 0)
        err_set_errno(errp, errno, "tcp:%s", where);
    freeaddrinfo(a);
    return fd;
}

static int take_fd(const char *text)
{
    uint64_t n;

    if (!str_to_u64(text, &n) || n > INT_MAX || fcntl((int)n, F_GETFD) < 0) {
        errno = EBADF;
        return -1;
    }
    fcntl((int)n, F_SETFD, FD_CLOEXEC);
    return (int)n;
}

bool channel_uri_ok(const char *uri, struct err **errp)
{
    static const char *const kinds[] = {"exec:", "fd:", "file:", "tcp:", "unix:"};

    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        if (str_starts(uri, kinds[i]))
            return true;
    return err_set(errp, "'%s' is no place to move a machine: expected exec:, fd:, file:, tcp: or unix:", uri);
}

bool channel_open(struct channel *c, struct run *r, const char *uri, bool out, struct err **errp)
{
    static const uint64_t no_limit;
    struct err *e = NULL;
    struct stat st;

    *c = (struct channel){.fd = -1, .run = r, .sink = {sink_write}, .source = {source_read}, .rate = &no_limit};
    if (!channel_uri_ok(uri, errp))
        return false;
    if (!out && !(c->buf = try_alloc(1, STATE_BUF)))
        return err_set(errp, "no memory to receive the machine");
    if (str_starts(uri, "exec:"))
        c->fd = open_exec(c, uri + 5, out);
    else if (str_starts(uri, "tcp:"))
        c->fd = open_tcp(uri + 4, out, &e);
    else if (str_starts(uri, "fd:"))
        c->fd = take_fd(uri + 3);
    else if (str_starts(uri, "file:"))
        c->fd = open(uri + 5, (out ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY) | O_CLOEXEC, 0600);
    else
        c->fd = open_unix(uri + 5, out);
    if (c->fd >= 0) {
        c->regular = !fstat(c->fd, &st) && S_ISREG(st.st_mode);
        if (!c->regular)
            fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
        return true;
    }
    if (!e)
        err_set_errno(&e, errno, "%s", uri);
    free(c->buf);
    c->buf = NULL;
    err_move(errp, e);
    return false;
}

bool channel_is_socket(const struct channel *c)
{
    struct stat st;

    return !fstat(c->fd, &st) && S_ISSOCK(st.st_mode);
}

static bool accept_one(struct channel *c, struct err **errp)
{
    int fd;

    while ((fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) < 0)
        if (errno != EINTR && (errno != EAGAIN || !wait_fd(c, EV_IN)))
            return err_set_errno(errp, c->cancelled ? ECANCELED : errno, "nobody to receive from");
    close(c->fd);
    c->fd = fd;
    return true;
}

bool channel_connect(struct channel *c, bool out, struct err **errp)
{
    int listening = 0, e = 0;
    socklen_t n = sizeof listening;

    if (!channel_is_socket(c))
        return true;
    getsockopt(c->fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n);
    if (listening)
        return accept_one(c, errp);
    if (!out)
        return true;
    n = sizeof e;
    if (!wait_fd(c, EV_OUT))
        return err_set(errp, "the move was cancelled");
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &n);
    return !e || err_set_errno(errp, e, "cannot reach the receiver");
}

bool channel_close(struct channel *c, struct err **errp)
{
    int status = 0, fd = c->fd;
    pid_t got = 0;

    c->fd = -1;
    free(c->buf);
    c->buf = NULL;
    if (close(fd) < 0)
        return err_set_errno(errp, errno, "cannot send the machine's state");
    while (c->child && !(got = waitpid(c->child, &status, WNOHANG)) && !c->cancelled)
        channel_sleep(c, 2 * NS_PER_MS);
    if (c->child && (got != c->child || status))
        return err_set(errp, "the command that takes the machine's state ended with status %d",
                       got == c->child && WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return true;
}
