/* Moving a machine: the same stream to another program, through a file, a command or a socket.
 *
 * The machine stops, everything is copied, and it goes on at the other end: stop-and-copy, no copying while it runs.
 * The loop stands still meanwhile. Disks are not part of the stream: both ends name the same images. A program that
 * waits on a socket has opened them before the other wrote its last, so there only formats without tables of their own
 * (raw) may be writable; a file or a command's output is read after the source has let go of its images. */
#include "blk/job.h"
#include "state/state_int.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct channel {
    int fd;
    pid_t child; /* of exec:, 0 = none */
};
struct fd_sink {
    struct state_sink s; /* first */
    int fd;
};
struct fd_source {
    struct state_source s; /* first */
    int fd;
    uint8_t *buf; /* owned */
    size_t at, have;
};

static bool sink_write(struct state_sink *s, const void *buf, size_t len, struct err **errp)
{
    const uint8_t *p = buf;

    while (len) {
        ssize_t n = write(((struct fd_sink *)s)->fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set_errno(errp, n < 0 ? errno : EIO, "cannot send the machine's state");
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool source_read(struct state_source *s, void *buf, size_t len, struct err **errp)
{
    struct fd_source *f = (struct fd_source *)s;
    uint8_t *out = buf;

    while (len) {
        size_t n = min_u64(len, f->have - f->at);
        ssize_t got;

        memcpy(out, f->buf + f->at, n);
        f->at += n;
        out += n;
        len -= n;
        if (!len)
            break;
        got = read(f->fd, f->buf, STATE_BUF);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set_errno(errp, errno, "cannot receive the machine's state");
        if (!got)
            return err_set(errp, "the saved state ends too early");
        f->at = 0;
        f->have = (size_t)got;
    }
    return true;
}

/* ---- channels ---- */

static bool open_exec(struct channel *c, const char *cmd, bool out, struct err **errp)
{
    int p[2];

    if (pipe2(p, O_CLOEXEC) < 0)
        return err_set_errno(errp, errno, "exec:%s", cmd);
    c->child = fork();
    if (!c->child) {
        dup2(p[out ? 0 : 1], out ? 0 : 1);
        execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
        _exit(127);
    }
    close(p[out ? 0 : 1]);
    c->fd = p[out ? 1 : 0];
    if (c->child < 0) {
        c->child = 0;
        close(c->fd);
        return err_set_errno(errp, errno, "exec:%s", cmd);
    }
    return true;
}

static int open_unix(const char *path, bool out)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), got = -1;

    if (fd < 0 || strlen(path) >= sizeof a.sun_path) {
        errno = fd < 0 ? errno : ENAMETOOLONG;
        goto out;
    }
    strcpy(a.sun_path, path);
    if (out) {
        if (!connect(fd, (struct sockaddr *)&a, sizeof a))
            return fd;
    } else if ((!unlink(path) || errno == ENOENT) && !bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, 1)) {
        got = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    }
out:
    if (fd >= 0) {
        int e = errno;

        close(fd);
        errno = e;
    }
    return got;
}

static int open_tcp(const char *where, bool out, struct err **errp)
{
    char *host AUTOFREE = xstrdup(where), *port = strrchr(host, ':');
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = out ? 0 : AI_PASSIVE}, *a = NULL;
    int fd = -1, got = -1, one = 1, e;

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
    fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && out) {
        if (!connect(fd, a->ai_addr, a->ai_addrlen))
            got = dup(fd);
    } else if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, 1))
            got = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    }
    if (got < 0)
        err_set_errno(errp, errno, "tcp:%s", where);
    if (fd >= 0)
        close(fd);
    freeaddrinfo(a);
    return got;
}

static bool channel_open(struct channel *c, const char *uri, bool out, struct err **errp)
{
    *c = (struct channel){.fd = -1};
    if (str_starts(uri, "exec:"))
        return open_exec(c, uri + 5, out, errp);
    if (str_starts(uri, "tcp:")) {
        c->fd = open_tcp(uri + 4, out, errp);
        return c->fd >= 0;
    }
    if (str_starts(uri, "file:"))
        c->fd = open(uri + 5, (out ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY) | O_CLOEXEC, 0600);
    else if (str_starts(uri, "unix:"))
        c->fd = open_unix(uri + 5, out);
    else
        return err_set(errp, "'%s' is no place to move a machine: expected exec:, file:, tcp: or unix:", uri);
    return c->fd >= 0 || err_set_errno(errp, errno, "%s", uri);
}

static bool channel_close(struct channel *c, struct err **errp)
{
    int status = 0;

    if (close(c->fd) < 0)
        return err_set_errno(errp, errno, "cannot send the machine's state");
    if (c->child && (waitpid(c->child, &status, 0) < 0 || status))
        return err_set(errp, "the command that takes the machine's state ended with status %d",
                       WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return true;
}

/* ---- both ends ---- */

bool state_move_out(struct machine *m, struct blk_set *s, const char *uri, struct err **errp)
{
    enum run_state was = m->state;
    struct fd_sink k = {.s = {sink_write}};
    struct channel c;
    bool ok;

    if (!state_can_save(m, errp) || !channel_open(&c, uri, true, errp))
        return false;
    machine_stop(m, RS_PAUSE_SAVE);
    state_settle(m, s);
    k.fd = c.fd;
    ok = state_save(m, &k.s, errp);
    ok = channel_close(&c, ok ? errp : NULL) && ok;
    if (ok)
        machine_stop(m, RS_POSTMIGRATE);
    else if (was == RS_RUNNING)
        machine_start(m);
    else
        machine_stop(m, was);
    return ok;
}

bool state_move_in(struct machine *m, struct blk_set *s, const char *uri, struct err **errp)
{
    struct fd_source f = {.s = {source_read}};
    struct channel c;
    bool ok, touched;

    if ((str_starts(uri, "tcp:") || str_starts(uri, "unix:")) && blk_snap_can(s, NULL)) {
        err_set(errp, "a disk of this machine has a format whose tables would be out of date after the move");
        err_hint(errp, "Move through file: or exec:, or use raw images.");
        return false;
    }
    if (!state_can_save(m, errp) || !channel_open(&c, uri, false, errp))
        return false;
    f.fd = c.fd;
    f.buf = try_alloc(1, STATE_BUF);
    ok = f.buf ? state_load(m, &f.s, &touched, errp) : err_set(errp, "no memory to receive the machine");
    free(f.buf);
    close(c.fd);
    if (c.child)
        waitpid(c.child, NULL, 0);
    if (ok && m->suspended)
        machine_stop(m, RS_SUSPENDED);
    return ok;
}
