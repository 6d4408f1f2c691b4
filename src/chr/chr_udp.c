/* Datagrams: each write is one packet to the peer; what arrives is a byte stream for the front end. */
#include "chr/chr_int.h"

#include <errno.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

enum { UDP_BUF = 2048 };
struct chr_udp {
    struct chr chr; /* first */
    int fd;
    bool ok;
    struct ev_fd *ev; /* owned */
    uint8_t buf[UDP_BUF];
    size_t off, len; /* what the front end has not taken yet */
};

static struct chr_udp *udp_of(struct chr *c)
{
    return container_of(c, struct chr_udp, chr);
}

static void udp_deliver(struct chr_udp *u)
{
    while (u->off < u->len) {
        size_t n = min_u64(chr_room(&u->chr), u->len - u->off), off = u->off;

        if (!n)
            return;
        u->off += n;
        chr_input(&u->chr, u->buf + off, n);
    }
}

static void udp_refresh(struct chr *c)
{
    struct chr_udp *u = udp_of(c);

    if (!u->ev)
        return;
    udp_deliver(u);
    ev_fd_set(u->ev, u->off == u->len && chr_room(c) ? EV_IN : 0);
}

static void udp_ready(void *opaque, int fd, unsigned events)
{
    struct chr_udp *u = opaque;
    ssize_t n = recv(fd, u->buf, sizeof u->buf, MSG_DONTWAIT);

    u->off = 0;
    u->len = n > 0 ? n : 0;
    udp_refresh(&u->chr);
}

static size_t udp_write(struct chr *c, const uint8_t *buf, size_t len)
{
    ssize_t n = send(udp_of(c)->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);

    (void)n; /* datagrams may be lost */
    return len;
}

static struct addrinfo *look_up(const char *host, const char *port, int family, bool passive, struct err **errp)
{
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_DGRAM, .ai_flags = passive ? AI_PASSIVE : 0},
                    *res = NULL;
    int r = getaddrinfo(host && *host ? host : NULL, port, &hints, &res);

    if (r)
        err_set(errp, "cannot resolve '%s' port '%s': %s", host ? host : "", port, gai_strerror(r));
    return r ? NULL : res;
}

static bool udp_open(struct chr *c, struct opts *o, struct err **errp)
{
    struct chr_udp *u = udp_of(c);
    const char *host = opts_get(o, "host"), *port = opts_get(o, "port"), *la = opts_get(o, "localaddr"),
               *lp = opts_get(o, "localport");
    struct addrinfo *peer, *local;
    bool ok;

    u->fd = -1;
    u->ok = true;
    if (!port)
        return err_set(errp, "a udp chardev needs port=PORT");
    peer = look_up(host && *host ? host : "localhost", port, AF_UNSPEC, false, errp);
    if (!peer)
        return false;
    local = look_up(la, lp ? lp : "0", peer->ai_family, true, errp);
    if (!local) {
        freeaddrinfo(peer);
        return false;
    }
    u->fd = socket(peer->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ok = u->fd >= 0 && bind(u->fd, local->ai_addr, local->ai_addrlen) == 0;
    if (!ok)
        err_set_errno(errp, errno, "cannot bind UDP port '%s'", lp ? lp : "0");
    if (ok && connect(u->fd, peer->ai_addr, peer->ai_addrlen) < 0)
        ok = err_set_errno(errp, errno, "cannot use UDP peer %s:%s", host ? host : "localhost", port);
    freeaddrinfo(peer);
    freeaddrinfo(local);
    if (!ok)
        return false;
    chr_set_label(c, "udp:%s:%s", host && *host ? host : "localhost", port);
    c->opened = true;
    u->ev = ev_fd_add(c->set->run->loop, u->fd, 0, udp_ready, u);
    chr_refresh_later(c);
    return true;
}

static void udp_close(struct chr *c)
{
    struct chr_udp *u = udp_of(c);

    ev_fd_del(u->ev);
    if (u->ok && u->fd >= 0)
        close(u->fd);
}

static const char *const udp_keys[] = {"host", "port", "localaddr", "localport", "ipv4", "ipv6", NULL};
static const struct chr_class udp_class = {CHR_CLASS("udp"),   .desc = "UDP datagrams", .size = sizeof(struct chr_udp),
                                           .keys = udp_keys,   .open = udp_open,        .close = udp_close,
                                           .write = udp_write, .refresh = udp_refresh};
CHR_REGISTER(udp_class)
