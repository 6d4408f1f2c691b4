/* Peers over file descriptors: watching, back pressure both ways, framing of streams, addresses.
 *
 * Frames may be sent from any thread that holds the machine lock; a descriptor that has no room keeps the rest of one
 * frame and makes the core queue the others. Reading stops while the peer has no room. Watching changes on the loop
 * only. */
#include "net/fdpeer.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

enum { IN_MAX = NET_MAX_FRAME + 64, CONNECT_MS = 10000 };

/* ---- watching ---- */

static void hang_up(struct fdpeer *p)
{
    p->gone = false;
    fdpeer_close(p);
    if (p->kind->hangup)
        p->kind->hangup(p);
}

static bool flush_out(struct fdpeer *p)
{
    while (p->out_len) {
        ssize_t n = write(p->fd, p->out + p->out_off, p->out_len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0)
            return false;
        p->out_off += n;
        p->out_len -= n;
    }
    return true;
}

static void on_fd(void *opaque, int fd, unsigned events)
{
    struct fdpeer *p = opaque;

    if (events & EV_OUT) {
        if (!flush_out(p)) {
            hang_up(p);
            return;
        }
        if (!p->out_len) {
            p->blocked = false;
            net_flush(p->peer);
        }
    }
    if ((events & (EV_IN | EV_ERR)) && p->fd >= 0 && !p->kind->readable(p)) {
        hang_up(p);
        return;
    }
    ev_bh_schedule(&p->watch_bh);
}

static void watch(void *opaque)
{
    struct fdpeer *p = opaque;

    if (p->gone) {
        hang_up(p);
        return;
    }
    if (p->fd < 0)
        return;
    /* Frames that were read while the peer had no room. */
    if (!p->paused && p->in_len && !p->kind->readable(p)) {
        hang_up(p);
        return;
    }
    unsigned ev = (p->paused ? 0u : EV_IN) | (p->blocked ? EV_OUT : 0u);
    if (!p->ev)
        p->ev = ev_fd_add(p->set->run->loop, p->fd, ev, on_fd, p);
    else
        ev_fd_set(p->ev, ev);
}

/* ---- the peer's side ---- */

size_t fdpeer_receive(void *opaque, const struct iov *frame)
{
    struct fdpeer *p = opaque;
    ssize_t n;

    if (p->fd < 0 || p->gone)
        return frame->len; /* nobody there */
    if (p->blocked)
        return 0;
    n = p->kind->send(p, frame);
    if (n == 0) {
        p->blocked = true;
        ev_bh_schedule(&p->watch_bh);
        return 0;
    }
    if (p->out_len) {
        p->blocked = true;
        ev_bh_schedule(&p->watch_bh);
    }
    if (n == -EPIPE || n == -ECONNRESET) {
        p->gone = true;
        ev_bh_schedule(&p->watch_bh);
    }
    return frame->len;
}

bool fdpeer_can_receive(void *opaque)
{
    struct fdpeer *p = opaque;

    return !p->blocked;
}

void fdpeer_send_ready(void *opaque)
{
    struct fdpeer *p = opaque;

    p->paused = false;
    ev_bh_schedule(&p->watch_bh);
}

char *fdpeer_info(void *opaque)
{
    struct fdpeer *p = opaque;

    return p->what ? xstrdup(p->what) : NULL;
}

void fdpeer_set_info(struct fdpeer *p, const char *fmt, ...)
{
    va_list ap;
    char text[256];

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    free(p->what);
    p->what = xstrdup(text);
}

struct fdpeer *fdpeer_new(struct net_set *s, const char *id, const struct fdpeer_kind *k, void *owner)
{
    struct fdpeer *p = xnew(struct fdpeer);

    p->set = s;
    p->kind = k;
    p->owner = owner;
    p->fd = -1;
    p->in = xmalloc(IN_MAX);
    ev_bh_init(&p->watch_bh, s->run->loop, watch, p);
    p->peer = net_peer_new(s, id, k->ops, p);
    return p;
}

void fdpeer_open(struct fdpeer *p, int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    p->fd = fd;
    p->blocked = p->paused = p->gone = false;
    p->in_len = 0;
    ev_bh_schedule(&p->watch_bh);
}

void fdpeer_close(struct fdpeer *p)
{
    ev_bh_cancel(&p->watch_bh);
    ev_fd_del(p->ev);
    p->ev = NULL;
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    p->blocked = false;
    p->in_len = p->out_len = 0;
    net_flush(p->peer); /* what waited is swallowed */
}

void fdpeer_cleanup(void *opaque)
{
    struct fdpeer *p = opaque;

    ev_bh_cancel(&p->watch_bh);
    ev_fd_del(p->ev);
    if (p->fd >= 0)
        close(p->fd);
    if (p->kind->release)
        p->kind->release(p);
    free(p->out);
    free(p->in);
    free(p->what);
    free(p);
}

/* ---- framed streams ---- */

ssize_t stream_send(struct fdpeer *p, const struct iov *frame)
{
    uint8_t head[4];
    struct iov q;
    ssize_t n;

    if (frame->len > NET_MAX_FRAME)
        return (ssize_t)frame->len;
    put_be32(head, (uint32_t)frame->len);
    iov_init(&q, frame->nr + 1);
    iov_add(&q, head, sizeof head);
    iov_add_part(&q, frame, 0, frame->len);
    struct msghdr m = {.msg_iov = q.v, .msg_iovlen = min_u64(q.nr, 1024)};
    do
        n = sendmsg(p->fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        iov_free(&q);
        return errno == EAGAIN ? 0 : errno == EPIPE ? -EPIPE : -ECONNRESET;
    }
    if ((uint64_t)n < q.len) { /* the rest must follow before anything else */
        free(p->out);
        p->out = xmalloc(q.len - n);
        p->out_len = iov_to_buf(&q, n, p->out, q.len - n);
        p->out_off = 0;
    }
    iov_free(&q);
    return (ssize_t)frame->len;
}

/* Hands on the whole frames in the buffer; false on a length that cannot be. */
static bool deliver_frames(struct fdpeer *p)
{
    size_t at = 0;

    while (p->in_len - at >= 4) {
        uint32_t len = get_be32(p->in + at);

        if (len > NET_MAX_FRAME) {
            warn_report("network '%s': the other end sent a frame of %u bytes; hanging up", p->peer->id, len);
            return false;
        }
        if (p->in_len - at - 4 < len || !net_can_send(p->peer))
            break;
        if (len)
            net_send_buf(p->peer, p->in + at + 4, len);
        at += 4 + len;
    }
    memmove(p->in, p->in + at, p->in_len - at);
    p->in_len -= at;
    p->paused = !net_can_send(p->peer);
    return true;
}

bool stream_readable(struct fdpeer *p)
{
    ssize_t n;

    if (!deliver_frames(p))
        return false;
    if (p->in_len == IN_MAX)
        return true;
    n = read(p->fd, p->in + p->in_len, IN_MAX - p->in_len);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == 0)
        return false;
    p->in_len += n;
    return deliver_frames(p);
}

/* ---- datagrams ---- */

ssize_t dgram_send(struct fdpeer *p, const struct iov *frame)
{
    struct msghdr m = {.msg_iov = frame->v, .msg_iovlen = min_u64(frame->nr, 1024)};
    ssize_t n;

    do
        n = sendmsg(p->fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 && errno == EAGAIN ? 0 : (ssize_t)frame->len; /* a datagram may get lost */
}

bool dgram_readable(struct fdpeer *p)
{
    ssize_t n;

    for (unsigned i = 0; i < 64 && net_can_send(p->peer); i++) {
        n = read(p->fd, p->in, IN_MAX);
        if (n <= 0)
            return true; /* ECONNREFUSED and the like: nobody is there yet */
        net_send_buf(p->peer, p->in, n);
    }
    p->paused = !net_can_send(p->peer);
    return true;
}

/* ---- addresses ---- */

bool net_addr_make(const char *host, const char *port, bool passive, int socktype, struct net_addr *a,
                   struct err **errp)
{
    struct addrinfo hint = {.ai_socktype = socktype, .ai_flags = passive ? AI_PASSIVE : 0}, *r = NULL;
    const char *h = host && *host ? host : passive ? "0.0.0.0" : "127.0.0.1";
    int e = getaddrinfo(h, port, &hint, &r);

    if (e)
        return err_set(errp, "cannot resolve address '%s:%s': %s", host ? host : "", port, gai_strerror(e));
    memcpy(&a->ss, r->ai_addr, min_u64(r->ai_addrlen, sizeof a->ss));
    a->len = r->ai_addrlen;
    freeaddrinfo(r);
    return true;
}

bool net_addr_parse(const char *text, bool passive, int socktype, struct net_addr *a, struct err **errp)
{
    const char *colon = strrchr(text, ':');
    AUTOFREE char *host = NULL;

    if (!colon || !colon[1])
        return err_set(errp, "address '%s' has no port; write HOST:PORT", text);
    if (*text == '[' && colon > text + 1 && colon[-1] == ']')
        host = xstrndup(text + 1, colon - text - 2);
    else
        host = xstrndup(text, colon - text);
    return net_addr_make(host, colon + 1, passive, socktype, a, errp);
}

bool net_addr_unix(const char *path, bool abstract, struct net_addr *a, struct err **errp)
{
    size_t n = strlen(path);

    memset(a, 0, sizeof *a);
    if (!n || n + abstract >= sizeof a->un.sun_path)
        return err_set(errp, "UNIX socket path '%s' must have 1 to %zu characters", path,
                       sizeof a->un.sun_path - 1 - abstract);
    a->un.sun_family = AF_UNIX;
    memcpy(a->un.sun_path + abstract, path, n);
    a->len = offsetof(struct sockaddr_un, sun_path) + n + 1;
    return true;
}

char *net_addr_text(const struct net_addr *a)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (a->sa.sa_family == AF_UNIX)
        return xasprintf("unix:%s%s", a->un.sun_path[0] ? "" : "@", a->un.sun_path + !a->un.sun_path[0]);
    if (getnameinfo(&a->sa, a->len, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV))
        return xstrdup("?");
    return xasprintf(a->sa.sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

int net_fd_parse(const char *text, bool is_socket, struct err **errp)
{
    uint64_t v;
    int type;
    socklen_t n = sizeof type;

    if (!str_to_u64(text, &v) || v > INT32_MAX || fcntl((int)v, F_GETFD) < 0) {
        err_set(errp, "fd=%s is not an open file descriptor", text);
        return -1;
    }
    if (is_socket && getsockopt((int)v, SOL_SOCKET, SO_TYPE, &type, &n) < 0) {
        err_set(errp, "fd=%s is not a socket", text);
        return -1;
    }
    return (int)v;
}

int net_connect_to(const struct net_addr *a, const char *what, struct err **errp)
{
    AUTOFREE char *text = net_addr_text(a);
    int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), e = 0;
    socklen_t n = sizeof e;

    if (fd >= 0 && connect(fd, &a->sa, a->len) < 0)
        e = errno;
    else if (fd < 0)
        e = errno;
    if (e == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        e = ETIMEDOUT;
        if (poll(&p, 1, CONNECT_MS) == 1)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n);
    }
    if (!e)
        return fd;
    if (fd >= 0)
        close(fd);
    err_set_errno(errp, e, "%s: cannot connect to %s", what, text);
    return -1;
}

int net_listen_on(const struct net_addr *a, const char *what, struct err **errp)
{
    AUTOFREE char *text = net_addr_text(a);
    int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

    if (fd >= 0 && a->sa.sa_family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->sa.sa_family == AF_UNIX && a->un.sun_path[0])
        unlink(a->un.sun_path);
    if (fd >= 0 && bind(fd, &a->sa, a->len) == 0 && listen(fd, 1) == 0)
        return fd;
    err_set_errno(errp, errno, "%s: cannot listen on %s", what, text);
    if (fd >= 0)
        close(fd);
    return -1;
}
