/* Back ends over sockets: `socket` (connect, listen, mcast, udp, fd), `stream` and `dgram`.
 *
 * Streams carry 4 bytes of length before each frame, datagrams one frame each. A server takes one client at a time and
 * listens again when it leaves. On a multicast group frames are sent from a socket of their own, so that the ones that
 * come back to us are recognised and dropped. */
#include "base/json.h"
#include "base/str.h"
#include "net/fdpeer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

struct sock {
    struct fdpeer *p;
    int listen_fd; /* -1 = not a server */
    struct ev_fd *listen_ev;
    char *unlink_path; /* owned: socket file to remove at the end */
    int mcast_fd;      /* sender to a group, -1 = none */
    struct net_addr mcast_self;
    struct net_addr to; /* of each datagram, when the socket is not connected (len > 0) */
    char *label;        /* owned */
    bool events;        /* raise NETDEV_STREAM_* */
};

static struct sock *sock_of(struct fdpeer *p)
{
    return p->owner;
}

static void sock_release(struct fdpeer *p)
{
    struct sock *s = sock_of(p);

    ev_fd_del(s->listen_ev);
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    if (s->mcast_fd >= 0)
        close(s->mcast_fd);
    if (s->unlink_path)
        unlink(s->unlink_path);
    free(s->unlink_path);
    free(s->label);
    free(s);
}

static void announce(struct sock *s, bool connected)
{
    struct net_peer *n = s->p->peer;

    fdpeer_set_info(s->p, "%s%s", s->label, connected ? "" : " (disconnected)");
    if (s->events)
        run_event(s->p->set->run, connected ? "NETDEV_STREAM_CONNECTED" : "NETDEV_STREAM_DISCONNECTED",
                  json_make("s:netdev-id", n->id, NULL));
    net_set_link(n, connected);
}

static void on_client(void *opaque, int fd, unsigned events)
{
    struct sock *s = opaque;
    int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (c < 0)
        return;
    ev_fd_set(s->listen_ev, 0);
    fdpeer_open(s->p, c);
    announce(s, true);
}

static void sock_hangup(struct fdpeer *p)
{
    struct sock *s = sock_of(p);

    announce(s, false);
    if (s->listen_ev)
        ev_fd_set(s->listen_ev, EV_IN);
}

/* The other end may start later: its path is looked up with every frame. */
static ssize_t unix_send(struct fdpeer *p, const struct iov *frame)
{
    struct sock *s = sock_of(p);
    struct msghdr m = {
        .msg_name = &s->to.sa, .msg_namelen = s->to.len, .msg_iov = frame->v, .msg_iovlen = min_u64(frame->nr, 1024)};

    return sendmsg(p->fd, &m, MSG_NOSIGNAL) < 0 && errno == EAGAIN ? 0 : (ssize_t)frame->len;
}

static ssize_t mcast_send(struct fdpeer *p, const struct iov *frame)
{
    struct msghdr m = {.msg_iov = frame->v, .msg_iovlen = min_u64(frame->nr, 1024)};

    (void)sendmsg(sock_of(p)->mcast_fd, &m, MSG_NOSIGNAL);
    return (ssize_t)frame->len;
}

static bool mcast_readable(struct fdpeer *p)
{
    struct sock *s = sock_of(p);

    for (unsigned i = 0; i < 64 && net_can_send(p->peer); i++) {
        struct net_addr from = {.len = sizeof from.ss};
        ssize_t n = recvfrom(p->fd, p->in, NET_MAX_FRAME, 0, &from.sa, &from.len);

        if (n <= 0)
            return true;
        if (from.in.sin_port == s->mcast_self.in.sin_port &&
            from.in.sin_addr.s_addr == s->mcast_self.in.sin_addr.s_addr)
            continue; /* our own */
        net_send_buf(p->peer, p->in, n);
    }
    p->paused = !net_can_send(p->peer);
    return true;
}

static const struct net_ops socket_ops = {FDPEER_OPS("socket")};
static const struct net_ops stream_ops = {FDPEER_OPS("stream")};
static const struct net_ops dgram_ops = {FDPEER_OPS("dgram")};
static const struct fdpeer_kind socket_stream = {&socket_ops, stream_send, stream_readable, sock_hangup, sock_release};
static const struct fdpeer_kind socket_dgram = {&socket_ops, dgram_send, dgram_readable, NULL, sock_release};
static const struct fdpeer_kind socket_mcast = {&socket_ops, mcast_send, mcast_readable, NULL, sock_release};
static const struct fdpeer_kind stream_kind = {&stream_ops, stream_send, stream_readable, sock_hangup, sock_release};
static const struct fdpeer_kind dgram_kind = {&dgram_ops, dgram_send, dgram_readable, NULL, sock_release};
static const struct fdpeer_kind dgram_unix = {&dgram_ops, unix_send, dgram_readable, NULL, sock_release};
static const struct fdpeer_kind dgram_mcast = {&dgram_ops, mcast_send, mcast_readable, NULL, sock_release};

static struct sock *sock_new(struct net_set *set, const char *id, const struct fdpeer_kind *k,
                             char *label /* taken over */)
{
    struct sock *s = xnew(struct sock);

    s->listen_fd = s->mcast_fd = -1;
    s->label = label;
    s->p = fdpeer_new(set, id, k, s);
    return s;
}

static struct net_peer *start_client(struct net_set *set, const char *id, const struct fdpeer_kind *k, int fd,
                                     char *label)
{
    struct sock *s = sock_new(set, id, k, label);

    fdpeer_open(s->p, fd);
    fdpeer_set_info(s->p, "%s", s->label);
    s->events = k == &stream_kind;
    return s->p->peer;
}

static struct net_peer *start_server(struct net_set *set, const char *id, const struct fdpeer_kind *k,
                                     const struct net_addr *a, struct err **errp)
{
    int fd = net_listen_on(a, id, errp);
    struct sock *s;

    if (fd < 0)
        return NULL;
    s = sock_new(set, id, k, net_addr_text(a));
    s->listen_fd = fd;
    s->events = k == &stream_kind;
    if (a->sa.sa_family == AF_UNIX && a->un.sun_path[0])
        s->unlink_path = xstrdup(a->un.sun_path);
    s->listen_ev = ev_fd_add(set->run->loop, fd, EV_IN, on_client, s);
    fdpeer_set_info(s->p, "%s (listening)", s->label);
    s->p->peer->link_down = true;
    return s->p->peer;
}

static bool bad(struct err **errp, int fd, const char *what, const char *text)
{
    int e = errno;

    if (fd >= 0)
        close(fd);
    return err_set_errno(errp, e, "%s %s", what, text);
}

/* Joins the group `a`, from the interface that has the address local (may be NULL). */
static struct net_peer *start_mcast(struct net_set *set, const char *id, const struct fdpeer_kind *k,
                                    struct net_addr *a, const char *local, struct err **errp)
{
    AUTOFREE char *text = net_addr_text(a);
    struct ip_mreq mr = {.imr_multiaddr = a->in.sin_addr};
    struct net_addr l;
    int on = 1, fd, tx;

    if (a->sa.sa_family != AF_INET || !IN_MULTICAST(ntohl(a->in.sin_addr.s_addr)))
        return err_set(errp, "%s is not a multicast address; use 224.0.0.0 to 239.255.255.255", text), NULL;
    if (local) {
        if (!net_addr_make(local, "0", true, SOCK_DGRAM, &l, errp))
            return NULL;
        mr.imr_interface = l.in.sin_addr;
    }
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 || bind(fd, &a->sa, a->len) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, sizeof mr) < 0)
        return bad(errp, fd, "cannot join the multicast group", text), NULL;
    tx = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (tx >= 0 && local)
        setsockopt(tx, IPPROTO_IP, IP_MULTICAST_IF, &mr.imr_interface, sizeof mr.imr_interface);
    if (tx < 0 || connect(tx, &a->sa, a->len) < 0) {
        close(fd);
        return bad(errp, tx, "cannot send to the multicast group", text), NULL;
    }
    struct sock *s = sock_new(set, id, k, xasprintf("mcast=%s", text));
    s->mcast_fd = tx;
    s->mcast_self.len = sizeof s->mcast_self.ss;
    getsockname(tx, &s->mcast_self.sa, &s->mcast_self.len);
    fdpeer_open(s->p, fd);
    fdpeer_set_info(s->p, "%s", s->label);
    return s->p->peer;
}

static struct net_peer *start_udp(struct net_set *set, const char *id, const struct fdpeer_kind *k,
                                  const struct net_addr *local, const struct net_addr *remote, struct err **errp)
{
    AUTOFREE char *tl = local ? net_addr_text(local) : xstrdup("any"), *tr = net_addr_text(remote);
    int on = 1, fd = socket(remote->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return bad(errp, fd, "cannot create a datagram socket for", tr), NULL;
    if (local && local->sa.sa_family == AF_UNIX)
        unlink(local->un.sun_path);
    else
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (local && bind(fd, &local->sa, local->len) < 0)
        return bad(errp, fd, "cannot bind", tl), NULL;
    bool connected = remote->sa.sa_family != AF_UNIX;
    if (connected && connect(fd, &remote->sa, remote->len) < 0)
        return bad(errp, fd, "cannot reach", tr), NULL;
    struct sock *s = sock_new(set, id, connected ? k : &dgram_unix, xasprintf("udp=%s/%s", tl, tr));
    if (!connected)
        s->to = *remote;
    if (local && local->sa.sa_family == AF_UNIX)
        s->unlink_path = xstrdup(local->un.sun_path);
    fdpeer_open(s->p, fd);
    fdpeer_set_info(s->p, "%s", s->label);
    return s->p->peer;
}

/* ---- -netdev socket ---- */

static struct net_peer *socket_create(struct net_set *set, const char *id, struct opts *o, struct err **errp)
{
    const char *fd = opts_get(o, "fd"), *lis = opts_get(o, "listen"), *con = opts_get(o, "connect"),
               *mc = opts_get(o, "mcast"), *udp = opts_get(o, "udp"), *local = opts_get(o, "localaddr");
    struct net_addr a, l;

    if (!!fd + !!lis + !!con + !!mc + !!udp != 1)
        return err_set(errp, "netdev 'socket' needs exactly one of fd=, listen=, connect=, mcast= and udp="), NULL;
    if (local && !mc && !udp)
        return err_set(errp, "netdev 'socket': localaddr= goes with mcast= or udp="), NULL;
    if (fd) {
        int type, n = net_fd_parse(fd, true, errp);
        socklen_t len = sizeof type;
        if (n < 0)
            return NULL;
        getsockopt(n, SOL_SOCKET, SO_TYPE, &type, &len);
        return start_client(set, id, type == SOCK_DGRAM ? &socket_dgram : &socket_stream, n, xasprintf("fd=%d", n));
    }
    if (lis)
        return net_addr_parse(lis, true, SOCK_STREAM, &a, errp) ? start_server(set, id, &socket_stream, &a, errp)
                                                                : NULL;
    if (con) {
        int n;
        if (!net_addr_parse(con, false, SOCK_STREAM, &a, errp) || (n = net_connect_to(&a, "netdev 'socket'", errp)) < 0)
            return NULL;
        return start_client(set, id, &socket_stream, n, net_addr_text(&a));
    }
    if (mc)
        return net_addr_parse(mc, false, SOCK_DGRAM, &a, errp) ? start_mcast(set, id, &socket_mcast, &a, local, errp)
                                                               : NULL;
    if (!local)
        return err_set(errp, "netdev 'socket': udp= needs localaddr=HOST:PORT"), NULL;
    if (!net_addr_parse(udp, false, SOCK_DGRAM, &a, errp) || !net_addr_parse(local, true, SOCK_DGRAM, &l, errp))
        return NULL;
    return start_udp(set, id, &socket_dgram, &l, &a, errp);
}
static const char *const socket_keys[] = {"fd", "listen", "connect", "mcast", "udp", "localaddr", NULL};
static const struct net_backend socket_backend = {"socket", "frames over TCP, UDP or a multicast group", socket_keys,
                                                  socket_create};
NET_REGISTER(socket_backend)

/* ---- -netdev stream, dgram: addresses as prefix.type, prefix.host ... ---- */

enum addr_kind { ADDR_NONE, ADDR_SOCKET, ADDR_FD };

static enum addr_kind read_addr(struct opts *o, const char *prefix, bool passive, int socktype, struct net_addr *a,
                                int *fd, struct err **errp)
{
    struct opts *sub = opts_sub(o, prefix);
    const char *type = opts_get(sub, "type"), *host = opts_get(sub, "host"), *port = opts_get(sub, "port"),
               *path = opts_get(sub, "path"), *str = opts_get(sub, "str");
    enum addr_kind k = ADDR_NONE;
    bool abstract = false, unused = false;

    if (!type) {
        err_set(errp, "%s.type is missing; use inet, unix or fd", prefix);
    } else if (!opts_bool(sub, "abstract", &abstract, errp) || !opts_bool(sub, "ipv4", &unused, errp) ||
               !opts_bool(sub, "ipv6", &unused, errp)) {
        k = ADDR_NONE;
    } else if (!strcmp(type, "inet")) {
        if (!port)
            err_set(errp, "%s.port is missing", prefix);
        else if (net_addr_make(host, port, passive, socktype, a, errp))
            k = ADDR_SOCKET;
    } else if (!strcmp(type, "unix")) {
        if (!path)
            err_set(errp, "%s.path is missing", prefix);
        else if (net_addr_unix(path, abstract, a, errp))
            k = ADDR_SOCKET;
    } else if (!strcmp(type, "fd")) {
        if (!str)
            err_set(errp, "%s.str is missing: the number of an open socket", prefix);
        else if ((*fd = net_fd_parse(str, true, errp)) >= 0)
            k = ADDR_FD;
    } else {
        err_set(errp, "%s.type=%s is unknown; use inet, unix or fd", prefix, type);
    }
    if (k != ADDR_NONE && !opts_done(sub, prefix, NULL, errp))
        k = ADDR_NONE;
    opts_free(sub);
    return k;
}

static struct net_peer *stream_create(struct net_set *set, const char *id, struct opts *o, struct err **errp)
{
    struct net_addr a;
    bool server = false;
    int fd = -1;

    if (!opts_bool(o, "server", &server, errp))
        return NULL;
    switch (read_addr(o, "addr", server, SOCK_STREAM, &a, &fd, errp)) {
    case ADDR_NONE:
        return NULL;
    case ADDR_FD:
        if (server)
            return err_set(errp,
                           "netdev 'stream': server=on with addr.type=fd is not offered; pass a connected socket"),
                   NULL;
        return start_client(set, id, &stream_kind, fd, xasprintf("fd=%d", fd));
    default:
        break;
    }
    if (server)
        return start_server(set, id, &stream_kind, &a, errp);
    if ((fd = net_connect_to(&a, "netdev 'stream'", errp)) < 0)
        return NULL;
    return start_client(set, id, &stream_kind, fd, net_addr_text(&a));
}
static const char *const stream_keys[] = {"server",        "addr.type", "addr.host", "addr.port", "addr.path",
                                          "addr.abstract", "addr.ipv4", "addr.ipv6", "addr.str",  NULL};
static const struct net_backend stream_backend = {"stream", "frames over a TCP or UNIX stream (passt)", stream_keys,
                                                  stream_create};
NET_REGISTER(stream_backend)

static bool has_prefix(struct opts *o, const char *prefix)
{
    struct opt *e;

    opts_each (e, o)
        if (str_starts(e->key, prefix))
            return true;
    return false;
}

static struct net_peer *dgram_create(struct net_set *set, const char *id, struct opts *o, struct err **errp)
{
    struct net_addr local, remote;
    bool has_local = has_prefix(o, "local."), has_remote = has_prefix(o, "remote.");
    enum addr_kind kl = ADDR_NONE;
    int fd = -1;

    if (!has_local && !has_remote)
        return err_set(errp, "netdev 'dgram' needs remote.type= or local.type="), NULL;
    if (has_local && (kl = read_addr(o, "local", true, SOCK_DGRAM, &local, &fd, errp)) == ADDR_NONE)
        return NULL;
    if (kl == ADDR_FD) {
        if (has_remote)
            return err_set(errp, "netdev 'dgram': local.type=fd takes no remote address"), NULL;
        return start_client(set, id, &dgram_kind, fd, xasprintf("fd=%d", fd));
    }
    if (!has_remote)
        return err_set(errp, "netdev 'dgram' needs remote.type="), NULL;
    if (read_addr(o, "remote", false, SOCK_DGRAM, &remote, &fd, errp) != ADDR_SOCKET) {
        if (errp && !*errp)
            err_set(errp, "netdev 'dgram': remote.type must be inet or unix");
        return NULL;
    }
    if (remote.sa.sa_family == AF_INET && IN_MULTICAST(ntohl(remote.in.sin_addr.s_addr))) {
        AUTOFREE char *lt = has_local ? net_addr_text(&local) : NULL;
        if (lt && strrchr(lt, ':'))
            *strrchr(lt, ':') = '\0';
        return start_mcast(set, id, &dgram_mcast, &remote, lt, errp);
    }
    if (!has_local)
        return err_set(errp, "netdev 'dgram' needs local.type= for a remote that is no multicast group"), NULL;
    if (local.sa.sa_family != remote.sa.sa_family)
        return err_set(errp, "netdev 'dgram': local.type and remote.type must be of the same kind"), NULL;
    return start_udp(set, id, &dgram_kind, &local, &remote, errp);
}
static const char *const dgram_keys[] = {"local.type",  "local.host",  "local.port",  "local.path",  "local.str",
                                         "remote.type", "remote.host", "remote.port", "remote.path", NULL};
static const struct net_backend dgram_backend = {"dgram", "frames as UDP or UNIX datagrams", dgram_keys, dgram_create};
NET_REGISTER(dgram_backend)
