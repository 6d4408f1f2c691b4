/* Stream sockets: TCP and UNIX, as server (one client at a time) or client (with reconnect), plain or telnet.
 *
 * Telnet: RFC 854/855 with ECHO, SUPPRESS-GO-AHEAD and BINARY offered once; commands in the input are consumed (BREAK
 * reaches the front end). Not built: TLS, WebSocket, tn3270; each is refused by name.
 *
 *   IDLE --listen--> LISTENING --accept--> CONNECTED --peer closes--> LISTENING
 *   IDLE --connect--> CONNECTING --writable--> CONNECTED --peer closes--> WAITING (reconnect) or closed for good */
#include "base/str.h"
#include "chr/chr_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { IAC = 255, T_DONT = 254, T_DO = 253, T_WONT = 252, T_WILL = 251, T_SB = 250, T_BREAK = 243, T_SE = 240 };
enum telnet_state { TS_DATA, TS_IAC, TS_OPTION, TS_SUB, TS_SUB_IAC };

struct chr_socket {
    struct chr chr; /* first */
    bool server, wait, telnet, nodelay, is_unix, abstract, fd_given, unlink_path;
    uint64_t reconnect;       /* seconds, 0 = never */
    char *host, *port, *path; /* owned */
    bool ipv4, ipv6;
    uint64_t to; /* last port to try, 0 = only `port` */
    int listen_fd, fd;
    struct ev_fd *ev_listen, *ev; /* owned */
    bool connecting, timer_set;
    struct clk_timer retry;
    enum telnet_state ts;
    bool last_cr;
    int passed_fd; /* from SCM_RIGHTS, -1 = none */
};

static struct chr_socket *sock_of(struct chr *c)
{
    return container_of(c, struct chr_socket, chr);
}

static void addr_text(const struct sockaddr_storage *a, char *buf, size_t n)
{
    char h[64] = "?";

    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *s = (const void *)a;

        inet_ntop(AF_INET, &s->sin_addr, h, sizeof h);
        snprintf(buf, n, "%s:%u", h, ntohs(s->sin_port));
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *s = (const void *)a;

        inet_ntop(AF_INET6, &s->sin6_addr, h, sizeof h);
        snprintf(buf, n, "[%s]:%u", h, ntohs(s->sin6_port));
    } else {
        snprintf(buf, n, "?");
    }
}

/* "disconnected:tcp:127.0.0.1:4444,server=on" and, with a client, "tcp:A,server=on <-> B". */
static void relabel(struct chr_socket *s)
{
    struct sockaddr_storage a = {0}, b = {0};
    socklen_t la = sizeof a, lb = sizeof b;
    char local[96] = "", peer[96] = "";
    const char *srv = s->server ? ",server=on" : "";
    bool up = s->chr.opened;

    if (s->is_unix) {
        chr_set_label(&s->chr, "%sunix:%s%s", up ? "" : "disconnected:", s->path ? s->path : "", srv);
        return;
    }
    if (up && getsockname(s->fd, (void *)&a, &la) == 0 && getpeername(s->fd, (void *)&b, &lb) == 0) {
        addr_text(&a, local, sizeof local);
        addr_text(&b, peer, sizeof peer);
        chr_set_label(&s->chr, "%s:%s%s <-> %s", s->telnet ? "telnet" : "tcp", local, srv, peer);
    } else {
        chr_set_label(&s->chr, "disconnected:%s:%s:%s%s", s->telnet ? "telnet" : "tcp", s->host, s->port, srv);
    }
}

static void set_flags(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void sock_ready(void *opaque, int fd, unsigned events);
static void try_connect(void *opaque);

static void sock_refresh(struct chr *c)
{
    struct chr_socket *s = sock_of(c);

    if (s->ev && s->connecting)
        ev_fd_set(s->ev, EV_OUT);
    else if (s->ev)
        ev_fd_set(s->ev, (chr_room(c) ? EV_IN : 0u) | (chr_wants_out(c) ? EV_OUT : 0u));
    if (s->ev_listen)
        ev_fd_set(s->ev_listen, s->fd < 0 ? EV_IN : 0);
}

static void retry_later(struct chr_socket *s)
{
    if (s->reconnect && !s->server)
        clk_timer_set(&s->retry, clk_now(s->chr.set->run->real) + (int64_t)s->reconnect * NS_PER_SEC);
}

static void hang_up(struct chr_socket *s)
{
    ev_fd_del(s->ev);
    s->ev = NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->connecting = false;
    chr_set_opened(&s->chr, false);
    relabel(s);
    retry_later(s);
    chr_refresh_later(&s->chr);
}

static size_t raw_write(struct chr_socket *s, const uint8_t *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = send(s->fd, buf + done, len - done, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? done : len; /* a dead peer is noticed by the read side */
        done += n;
    }
    return done;
}

/* Doubles IAC bytes; sends one at a time around them so that a partial write stays consistent. */
static size_t telnet_write(struct chr_socket *s, const uint8_t *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        const uint8_t *iac = memchr(buf + done, IAC, len - done);
        size_t part = iac ? (size_t)(iac - buf) - done : len - done, n;
        static const uint8_t two[2] = {IAC, IAC};

        n = part ? raw_write(s, buf + done, part) : 0;
        done += n;
        if (n < part)
            return done;
        if (iac) {
            n = raw_write(s, two, 2);
            if (n == 0)
                return done;
            if (n == 1)
                raw_write(s, two, 1);
            done++;
        }
    }
    return done;
}

static size_t sock_write(struct chr *c, const uint8_t *buf, size_t len)
{
    struct chr_socket *s = sock_of(c);

    if (s->fd < 0 || s->connecting)
        return len;
    return s->telnet ? telnet_write(s, buf, len) : raw_write(s, buf, len);
}

/* Strips telnet commands in place; returns the bytes left. */
static size_t telnet_filter(struct chr_socket *s, uint8_t *buf, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        uint8_t b = buf[i];

        switch (s->ts) {
        case TS_DATA:
            if (b == IAC)
                s->ts = TS_IAC;
            else if (!(s->last_cr && (b == 0 || b == '\n')))
                buf[n++] = b;
            s->last_cr = b == '\r';
            break;
        case TS_IAC:
            s->ts = TS_DATA;
            if (b == IAC)
                buf[n++] = b;
            else if (b == T_SB)
                s->ts = TS_SUB;
            else if (b >= T_WILL)
                s->ts = TS_OPTION;
            else if (b == T_BREAK)
                chr_event(&s->chr, CHR_BREAK);
            break;
        case TS_OPTION:
            s->ts = TS_DATA;
            break;
        case TS_SUB:
            s->ts = b == IAC ? TS_SUB_IAC : TS_SUB;
            break;
        case TS_SUB_IAC:
            s->ts = b == T_SE ? TS_DATA : TS_SUB;
            break;
        }
    }
    return n;
}

static void keep_fds(struct chr_socket *s, struct msghdr *m)
{
    for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (h->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
            if (s->passed_fd >= 0)
                close(s->passed_fd);
            s->passed_fd = fd;
        }
    }
}

static ssize_t sock_recv(struct chr_socket *s, uint8_t *buf, size_t len)
{
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(16 * sizeof(int))];
    } ctl;
    struct iovec v = {buf, len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = sizeof ctl};
    ssize_t n = recvmsg(s->fd, &m, MSG_CMSG_CLOEXEC);

    if (n > 0 && s->is_unix)
        keep_fds(s, &m);
    return n;
}

static void sock_read(struct chr_socket *s)
{
    uint8_t buf[4096];
    size_t room = min_u64(chr_room(&s->chr), sizeof buf);
    ssize_t n;

    if (!room) {
        /* Only a hang-up matters now. */
        if (recv(s->fd, buf, 1, MSG_PEEK | MSG_DONTWAIT) == 0 || (errno != EAGAIN && errno != EINTR))
            hang_up(s);
        return;
    }
    n = sock_recv(s, buf, room);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        hang_up(s);
        return;
    }
    if (s->telnet)
        n = telnet_filter(s, buf, n);
    if (n)
        chr_input(&s->chr, buf, n);
}

static void connected(struct chr_socket *s, int fd)
{
    static const uint8_t hello[] = {IAC, T_WILL, 1, IAC, T_WILL, 3, IAC, T_WILL, 0, IAC, T_DO, 0};

    set_flags(fd);
    if (s->nodelay && !s->is_unix)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    s->fd = fd;
    s->connecting = false;
    s->ts = TS_DATA;
    s->last_cr = false;
    if (!s->ev)
        s->ev = ev_fd_add(s->chr.set->run->loop, fd, 0, sock_ready, s);
    if (s->telnet)
        raw_write(s, hello, sizeof hello);
    s->chr.opened = true;
    relabel(s);
    s->chr.opened = false;
    chr_set_opened(&s->chr, true);
    sock_refresh(&s->chr);
}

static void sock_ready(void *opaque, int fd, unsigned events)
{
    struct chr_socket *s = opaque;

    if (s->connecting) {
        int e = 0;
        socklen_t l = sizeof e;

        getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &l);
        if (e)
            hang_up(s);
        else
            connected(s, fd);
        return;
    }
    if (events & EV_OUT)
        chr_writable(&s->chr);
    if ((events & (EV_IN | EV_ERR)) && s->fd >= 0)
        sock_read(s);
    sock_refresh(&s->chr);
}

static void listen_ready(void *opaque, int fd, unsigned events)
{
    struct chr_socket *s = opaque;
    int c = s->fd < 0 ? accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;

    if (c >= 0)
        connected(s, c);
}

bool chr_adopt_fd(struct chr *c, int fd, struct err **errp)
{
    struct chr_socket *s = sock_of(c);

    if (strcmp(chr_class(c)->type, "socket"))
        return err_set(errp, "chardev '%s' is no socket", chr_id(c));
    if (s->fd >= 0)
        return err_set(errp, "chardev '%s' has a client already", chr_id(c));
    connected(s, fd);
    return true;
}

/* Opening. */

static bool fill_unix(struct chr_socket *s, struct sockaddr_un *a, socklen_t *len, struct err **errp)
{
    size_t n = strlen(s->path);

    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (n >= sizeof a->sun_path - 1) {
        err_set(errp, "UNIX socket path '%s' is too long: at most %zu bytes", s->path, sizeof a->sun_path - 2);
        err_hint(errp, "use a shorter directory, or a relative path");
        return false;
    }
    memcpy(a->sun_path + s->abstract, s->path, n);
    *len = offsetof(struct sockaddr_un, sun_path) + n + 1;
    return true;
}

static bool listen_unix(struct chr_socket *s, struct err **errp)
{
    struct sockaddr_un a;
    socklen_t len;
    int probe;

    if (!fill_unix(s, &a, &len, errp))
        return false;
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!s->abstract && (probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0) {
        /* A file left by an earlier run refuses connections: replace it. One in use is somebody's. */
        if (connect(probe, (void *)&a, len) < 0 && errno == ECONNREFUSED)
            unlink(s->path);
        close(probe);
    }
    if (bind(s->listen_fd, (void *)&a, len) < 0) {
        int e = errno;

        close(s->listen_fd);
        s->listen_fd = -1;
        err_set_errno(errp, e, "cannot bind UNIX socket '%s'", s->path);
        if (e == EADDRINUSE)
            err_hint(errp, "another program listens there or the file is in the way; choose another path or remove it");
        return false;
    }
    s->unlink_path = !s->abstract;
    return true;
}

static struct addrinfo *resolve(struct chr_socket *s, struct err **errp)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = s->server ? AI_PASSIVE : 0}, *res = NULL;
    int r;

    hints.ai_family = s->ipv4 && !s->ipv6 ? AF_INET : s->ipv6 && !s->ipv4 ? AF_INET6 : AF_UNSPEC;
    if (s->server && !*s->host && hints.ai_family == AF_UNSPEC)
        hints.ai_family = AF_INET;
    r = getaddrinfo(*s->host ? s->host : NULL, s->port, &hints, &res);
    if (r) {
        err_set(errp, "cannot resolve '%s' port '%s': %s", s->host, s->port, gai_strerror(r));
        return NULL;
    }
    return res;
}

static int bind_one(const struct addrinfo *a, int *err)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        *err = errno;
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int));
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 1) == 0)
        return fd;
    *err = errno;
    close(fd);
    return -1;
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

static bool listen_inet(struct chr_socket *s, struct err **errp)
{
    uint64_t first = 0, last;
    int e = 0;

    if (!str_to_u64(s->port, &first) && s->to)
        return err_set(errp, "to= needs a numeric port, not '%s'", s->port);
    last = max_u64(first, s->to);
    for (uint64_t p = first; p <= last && s->listen_fd < 0; p++) {
        struct addrinfo *res, *a;

        if (p != first) {
            free(s->port);
            s->port = xasprintf("%" PRIu64, p);
        }
        res = resolve(s, errp);
        if (!res)
            return false;
        for (a = res; a && s->listen_fd < 0; a = a->ai_next) {
            s->listen_fd = bind_one(a, &e);
            s->chr.network = s->listen_fd >= 0 && !is_loopback(a->ai_addr);
        }
        freeaddrinfo(res);
    }
    if (s->listen_fd < 0) {
        err_set_errno(errp, e, "cannot listen on %s:%s", s->host, s->port);
        if (e == EADDRINUSE)
            err_hint(errp, "another program uses this port; choose another (0 picks a free one) or stop it");
        return false;
    }
    return true;
}

static void note_bound_port(struct chr_socket *s)
{
    struct sockaddr_storage a;
    socklen_t l = sizeof a;
    char t[96], *colon;

    if (s->is_unix || getsockname(s->listen_fd, (void *)&a, &l) < 0)
        return;
    addr_text(&a, t, sizeof t);
    colon = strrchr(t, ':');
    if (!colon)
        return;
    *colon = 0;
    free(s->port);
    free(s->host);
    s->port = xstrdup(colon + 1);
    s->host = xstrdup(t);
}

static int connect_unix(struct chr_socket *s, struct err **errp)
{
    struct sockaddr_un a;
    socklen_t len;
    int fd;

    if (!fill_unix(s, &a, &len, errp))
        return -1;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (void *)&a, len) == 0)
        return fd;
    err_set_errno(errp, errno, "cannot connect to UNIX socket '%s'", s->path);
    err_hint(errp, "start the program that listens there first, or add server=on to listen, or reconnect=SECONDS");
    close(fd);
    return -1;
}

static int connect_inet(struct chr_socket *s, bool block, struct err **errp)
{
    struct addrinfo *res = resolve(s, errp), *a;
    int fd = -1, e = 0;

    for (a = res; a; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | (block ? 0 : SOCK_NONBLOCK), 0);
        if (fd >= 0 && (connect(fd, a->ai_addr, a->ai_addrlen) == 0 || (!block && errno == EINPROGRESS)))
            break;
        e = errno;
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    if (res)
        freeaddrinfo(res);
    if (fd < 0 && e) {
        err_set_errno(errp, e, "cannot connect to %s:%s", s->host, s->port);
        err_hint(errp, "start the program that listens there first, or add server=on to listen, or reconnect=SECONDS");
    }
    return fd;
}

/* A connection attempt after the start: failures are retried quietly. */
static void try_connect(void *opaque)
{
    struct chr_socket *s = opaque;
    struct err *e = NULL;
    int fd = s->is_unix ? connect_unix(s, &e) : connect_inet(s, false, &e);

    err_free(e);
    if (fd < 0) {
        retry_later(s);
        return;
    }
    if (s->is_unix) {
        connected(s, fd);
        return;
    }
    s->fd = fd;
    s->connecting = true;
    s->ev = ev_fd_add(s->chr.set->run->loop, fd, EV_OUT, sock_ready, s);
}

static bool wait_for_client(struct chr_socket *s)
{
    info_report("waiting for a connection on %s (add wait=off to start at once)", chr_label(&s->chr));
    while (s->fd < 0)
        ev_loop_turn(s->chr.set->run->loop, -1);
    return true;
}

static bool start_server(struct chr_socket *s, struct err **errp)
{
    if (!s->fd_given && !(s->is_unix ? listen_unix(s, errp) : listen_inet(s, errp)))
        return false;
    if ((s->is_unix || s->fd_given) && listen(s->listen_fd, 1) < 0)
        return err_set_errno(errp, errno, "cannot listen on socket");
    set_flags(s->listen_fd);
    note_bound_port(s);
    relabel(s);
    s->ev_listen = ev_fd_add(s->chr.set->run->loop, s->listen_fd, EV_IN, listen_ready, s);
    return s->wait ? wait_for_client(s) : true;
}

static bool start_client(struct chr_socket *s, struct err **errp)
{
    int fd;

    relabel(s);
    if (s->reconnect && !s->fd_given) {
        try_connect(s);
        return true;
    }
    fd = s->fd_given ? s->fd : s->is_unix ? connect_unix(s, errp) : connect_inet(s, true, errp);
    s->fd = -1;
    if (fd < 0)
        return false;
    connected(s, fd);
    return true;
}

/* Takes over descriptor `fd=N` inherited from the parent. */
static bool take_fd(struct chr_socket *s, const char *text, struct err **errp)
{
    struct sockaddr_storage a = {0};
    socklen_t l = sizeof a;
    int listening = 0;
    uint64_t fd;

    if (!str_to_u64(text, &fd) || fd > INT32_MAX)
        return err_set(errp, "fd='%s' is no descriptor number", text);
    if (getsockname((int)fd, (void *)&a, &l) < 0)
        return err_set_errno(errp, errno, "fd=%s is not an open socket", text);
    l = sizeof listening;
    getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &l);
    s->fd_given = true;
    s->is_unix = a.ss_family == AF_UNIX;
    if (s->is_unix)
        s->path = xstrdup(((struct sockaddr_un *)&a)->sun_path);
    if (s->server)
        s->listen_fd = (int)fd;
    else if (listening)
        return err_set(errp, "fd=%s is a listening socket; add server=on", text);
    else
        s->fd = (int)fd;
    s->host = xstrdup("");
    s->port = xstrdup("0");
    return true;
}

static bool refuse_absent(struct opts *o, struct err **errp)
{
    static const char *const absent[][2] = {{"websocket", "WebSocket"}, {"tn3270", "tn3270"}, {NULL, NULL}};
    bool on = false;

    for (unsigned i = 0; absent[i][0]; i++) {
        if (!opts_bool(o, absent[i][0], &on, errp))
            return false;
        if (on)
            return err_set(errp, "%s is not built into this program; use a plain or telnet socket", absent[i][1]);
    }
    if (opts_get(o, "tls-creds"))
        return err_set(errp, "TLS is not built into this program; leave tls-creds out and tunnel the socket instead");
    return true;
}

static bool read_flags(struct chr_socket *s, struct opts *o, bool *wait_set, struct err **errp)
{
    bool nowait = false, delay = true;

    *wait_set = opts_peek(o, "wait") || opts_peek(o, "nowait");
    if (!opts_bool(o, "server", &s->server, errp) || !opts_bool(o, "wait", &s->wait, errp) ||
        !opts_bool(o, "nowait", &nowait, errp) || !opts_bool(o, "telnet", &s->telnet, errp) ||
        !opts_bool(o, "nodelay", &s->nodelay, errp) || !opts_bool(o, "delay", &delay, errp) ||
        !opts_bool(o, "abstract", &s->abstract, errp) || !opts_bool(o, "ipv4", &s->ipv4, errp) ||
        !opts_bool(o, "ipv6", &s->ipv6, errp) || !opts_u64(o, "reconnect", &s->reconnect, errp) ||
        !opts_u64(o, "to", &s->to, errp))
        return false;
    s->wait = s->wait && !nowait;
    s->nodelay |= !delay;
    return true;
}

static bool sock_open(struct chr *c, struct opts *o, struct err **errp)
{
    struct chr_socket *s = sock_of(c);
    const char *path = opts_get(o, "path"), *port = opts_get(o, "port"), *fd = opts_get(o, "fd");
    bool wait_set;

    s->listen_fd = s->fd = s->passed_fd = -1;
    s->wait = true;
    clk_timer_init(&s->retry, c->set->run->real, try_connect, s);
    s->timer_set = true;
    if (!refuse_absent(o, errp) || !read_flags(s, o, &wait_set, errp))
        return false;
    if (!s->server && wait_set && s->wait)
        return err_set(errp, "wait=on is for servers; add server=on or leave wait out");
    if (s->server && s->reconnect)
        return err_set(errp, "reconnect is for clients; a server waits for the next client anyway");
    if (!!path + !!port + !!fd != 1)
        return err_set(errp, "a socket chardev needs exactly one of path=PATH, host=HOST,port=PORT or fd=N");
    if (fd) {
        if (!take_fd(s, fd, errp))
            return false;
    } else if (path) {
        s->is_unix = true;
        s->path = xstrdup(path);
    } else {
        const char *host = opts_get(o, "host");

        s->host = xstrdup(host ? host : "");
        s->port = xstrdup(port);
    }
    return s->server ? start_server(s, errp) : start_client(s, errp);
}

static void sock_close(struct chr *c)
{
    struct chr_socket *s = sock_of(c);

    if (s->timer_set)
        clk_timer_cancel(&s->retry);
    ev_fd_del(s->ev);
    ev_fd_del(s->ev_listen);
    if (s->timer_set && s->fd >= 0)
        close(s->fd);
    if (s->timer_set && s->listen_fd >= 0)
        close(s->listen_fd);
    if (s->timer_set && s->passed_fd >= 0)
        close(s->passed_fd);
    if (s->unlink_path)
        unlink(s->path);
    free(s->host);
    free(s->port);
    free(s->path);
}

int chr_fe_take_fd(struct chr_fe *fe)
{
    struct chr_socket *s;
    int fd;

    if (!fe->chr || strcmp(chr_class(fe->chr)->type, "socket"))
        return -1;
    s = sock_of(fe->chr);
    fd = s->passed_fd;
    s->passed_fd = -1;
    return fd;
}

int chr_fe_socket(struct chr_fe *fe)
{
    struct chr_socket *s;

    if (!fe->chr || strcmp(chr_class(fe->chr)->type, "socket"))
        return -1;
    s = sock_of(fe->chr);
    return s->is_unix && s->chr.opened ? s->fd : -1;
}

bool chr_fe_comes_back(struct chr_fe *fe)
{
    struct chr_socket *s;

    if (!fe->chr || strcmp(chr_class(fe->chr)->type, "socket"))
        return false;
    s = sock_of(fe->chr);
    return s->server || s->reconnect;
}

static const char *const sock_keys[] = {"host",      "port",      "path",     "fd",     "to",        "ipv4",
                                        "ipv6",      "server",    "wait",     "nowait", "telnet",    "nodelay",
                                        "delay",     "reconnect", "abstract", "tight",  "websocket", "tn3270",
                                        "tls-creds", "tls-authz", NULL};
static const struct chr_class sock_class = {CHR_CLASS("socket"),
                                            .desc = "a TCP or UNIX stream socket",
                                            .size = sizeof(struct chr_socket),
                                            .keys = sock_keys,
                                            .open = sock_open,
                                            .close = sock_close,
                                            .write = sock_write,
                                            .refresh = sock_refresh};
CHR_REGISTER(sock_class)
