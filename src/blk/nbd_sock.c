/* NBD: sockets. */
#include "blk/nbd.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void on_ready(void *opaque, int fd, unsigned events)
{
    struct nbd_sock *s = opaque;
    struct fibre *r = s->reader, *w = s->writer;

    if (r && events & (EV_IN | EV_ERR))
        s->reader = NULL;
    else
        r = NULL;
    if (w && events & (EV_OUT | EV_ERR))
        s->writer = NULL;
    else
        w = NULL;
    ev_fd_set(s->watch, (s->reader ? EV_IN : 0u) | (s->writer ? EV_OUT : 0u));
    if (r)
        fibre_wake(blk_set_loop(s->set), r);
    if (w)
        fibre_wake(blk_set_loop(s->set), w);
}

void nbd_sock_init(struct nbd_sock *s, struct blk_set *set, int fd)
{
    int one = 1, room = 1 << 20;

    *s = (struct nbd_sock){.fd = fd, .set = set};
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room); /* the kernel caps it; fewer stops in large replies */
    s->watch = ev_fd_add(blk_set_loop(set), fd, 0, on_ready, s);
}

void nbd_sock_shutdown(struct nbd_sock *s)
{
    struct fibre *r = s->reader, *w = s->writer;

    s->broken = true;
    shutdown(s->fd, SHUT_RDWR);
    s->reader = s->writer = NULL;
    if (r)
        fibre_wake(blk_set_loop(s->set), r);
    if (w)
        fibre_wake(blk_set_loop(s->set), w);
}

void nbd_sock_close(struct nbd_sock *s)
{
    ev_fd_del(s->watch);
    nbd_tls_free(s->tls);
    s->tls = NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->watch = NULL;
}

static int wait_for(struct nbd_sock *s, bool out)
{
    if (s->broken)
        return -EPIPE;
    *(out ? &s->writer : &s->reader) = fibre_self();
    s->waits++;
    ev_fd_set(s->watch, (s->reader ? EV_IN : 0u) | (s->writer ? EV_OUT : 0u));
    fibre_yield();
    return s->broken ? -EPIPE : 0;
}

int nbd_sock_start_tls(struct nbd_sock *s, struct nbd_creds *c)
{
    struct nbd_tls *t = nbd_tls_new(c, s->fd, NULL, NULL);
    int r = t ? -EAGAIN : -ENOMEM;

    while (r == -EAGAIN) {
        r = nbd_tls_handshake(t, NULL);
        if (r == -EAGAIN && wait_for(s, nbd_tls_wants_write(t)) < 0)
            r = -EPIPE;
    }
    if (r < 0)
        nbd_tls_free(t);
    else
        s->tls = t;
    return r;
}

int nbd_recv_some(struct nbd_sock *s, void *buf, size_t min, size_t max)
{
    char *p = buf;
    size_t have = 0;

    while (have < min) {
        ssize_t n = s->tls ? nbd_tls_recv(s->tls, p + have, max - have) : recv(s->fd, p + have, max - have, 0);

        if (n == 0)
            return -ECONNRESET;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            int r = wait_for(s, false);

            if (r < 0)
                return r;
            continue;
        }
        if (n < 0)
            return -errno;
        have += (size_t)n;
    }
    return (int)have;
}

int nbd_recv(struct nbd_sock *s, void *buf, size_t len)
{
    int r = nbd_recv_some(s, buf, len, len);

    return r < 0 ? r : 0;
}

int nbd_recv_iov(struct nbd_sock *s, const struct iov *q, uint64_t qoff, uint64_t len)
{
    for (unsigned i = 0; i < q->nr && len; i++) {
        uint64_t seg = q->v[i].iov_len, part;
        int r;

        if (qoff >= seg) {
            qoff -= seg;
            continue;
        }
        part = min_u64(seg - qoff, len);
        r = nbd_recv(s, (char *)q->v[i].iov_base + qoff, part);
        if (r < 0)
            return r;
        qoff = 0;
        len -= part;
    }
    return 0;
}

static int send_all(struct nbd_sock *s, struct iovec *v, unsigned nr, int flags)
{
    while (nr) {
        struct msghdr m = {.msg_iov = v, .msg_iovlen = nr < 1024 ? nr : 1024};
        ssize_t n = s->tls ? nbd_tls_send(s->tls, v->iov_base, v->iov_len) : sendmsg(s->fd, &m, MSG_NOSIGNAL | flags);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            int r = wait_for(s, true);

            if (r < 0)
                return r;
            continue;
        }
        if (n < 0)
            return -errno;
        while (nr && (size_t)n >= v->iov_len) { /* (of TLS never more than the first) */
            n -= (ssize_t)v->iov_len;
            v++;
            nr--;
        }
        if (nr) {
            v->iov_base = (char *)v->iov_base + n;
            v->iov_len -= (size_t)n;
        }
    }
    return 0;
}

int nbd_send(struct nbd_sock *s, struct iovec *v, unsigned nr)
{
    return send_all(s, v, nr, 0);
}

int nbd_send_head(struct nbd_sock *s, void *head, size_t len)
{
    struct iovec v = {head, len};

    return send_all(s, &v, 1, MSG_MORE);
}

int64_t nbd_send_file(struct nbd_sock *s, int fd, uint64_t off, uint64_t len)
{
    off_t at = (off_t)off;
    ssize_t n;

    do
        n = sendfile(s->fd, fd, &at, len);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return n;
    if (errno == EAGAIN) {
        int r = wait_for(s, true);

        return r < 0 ? r : -EAGAIN;
    }
    return -errno;
}

uint32_t nbd_errno_to_wire(int err)
{
    switch (err) {
    case 0:
        return 0;
    case EPERM:
    case EROFS:
        return 1;
    case EIO:
        return 5;
    case ENOMEM:
        return 12;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
        return 28;
    case EOVERFLOW:
        return 75;
    case ENOTSUP:
        return 95;
    case ESHUTDOWN:
        return 108;
    default:
        return err == EINVAL ? 22 : 5;
    }
}

int nbd_errno_from_wire(uint32_t v)
{
    switch (v) {
    case 1:
        return EPERM;
    case 12:
        return ENOMEM;
    case 22:
        return EINVAL;
    case 28:
        return ENOSPC;
    case 75:
        return EOVERFLOW;
    case 95:
        return ENOTSUP;
    case 108:
        return ESHUTDOWN;
    default:
        return EIO;
    }
}

/* ---- addresses ---- */

void nbd_addr_clear(struct nbd_addr *a)
{
    free(a->path);
    free(a->host);
    free(a->port);
    *a = (struct nbd_addr){0};
}

static int unix_socket(const char *path, struct sockaddr_un *un, struct err **errp)
{
    *un = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof un->sun_path) {
        err_set(errp, "UNIX socket path '%s' is too long (at most %zu bytes)", path, sizeof un->sun_path - 1);
        return -1;
    }
    strcpy(un->sun_path, path);
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int inet_open(const struct nbd_addr *a, bool passive, struct err **errp)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0}, *list, *i;
    char port[12];
    int r, fd = -1, one = 1, e = 0;

    snprintf(port, sizeof port, "%d", NBD_DEFAULT_PORT);
    r = getaddrinfo(a->host && *a->host ? a->host : NULL, a->port ? a->port : port, &hints, &list);
    if (r) {
        err_set(errp, "address resolution failed for %s:%s: %s", a->host ? a->host : "", a->port ? a->port : port,
                gai_strerror(r));
        return -1;
    }
    for (i = list; i && fd < 0; i = i->ai_next) {
        fd = socket(i->ai_family, i->ai_socktype | SOCK_CLOEXEC, i->ai_protocol);
        if (fd < 0)
            continue;
        if (passive)
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (passive ? bind(fd, i->ai_addr, i->ai_addrlen) < 0 || listen(fd, 16) < 0
                    : connect(fd, i->ai_addr, i->ai_addrlen) < 0) {
            e = errno;
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        err_set_errno(errp, e, passive ? "Failed to find an available port" : "Failed to connect to '%s:%s'",
                      a->host ? a->host : "", a->port ? a->port : port);
    return fd;
}

int nbd_connect(const struct nbd_addr *a, struct err **errp)
{
    struct sockaddr_un un;
    int fd;

    if (!a->path)
        return inet_open(a, false, errp);
    fd = unix_socket(a->path, &un, errp);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof un) < 0) {
        err_set_errno(errp, errno, "Failed to connect to '%s'", a->path);
        close(fd);
        fd = -1;
    }
    return fd;
}

int nbd_listen(const struct nbd_addr *a, struct err **errp)
{
    struct sockaddr_un un;
    int fd;

    if (!a->path)
        return inet_open(a, true, errp);
    fd = unix_socket(a->path, &un, errp);
    if (fd < 0)
        return fd;
    if (connect(fd, (struct sockaddr *)&un, sizeof un) < 0 && errno == ECONNREFUSED)
        unlink(a->path); /* left behind by somebody who is gone */
    close(fd);
    fd = unix_socket(a->path, &un, errp);
    if (fd >= 0 && (bind(fd, (struct sockaddr *)&un, sizeof un) < 0 || listen(fd, 16) < 0)) {
        err_set_errno(errp, errno, "Failed to bind socket to %s", a->path);
        close(fd);
        fd = -1;
    }
    return fd;
}
