/* Back end `user`: a NAT without privileges, its own DHCP, DNS relay and TFTP, by libslirp.
 *
 * libslirp wants poll(): it names descriptors, sleeps, and looks at them. Here its list is mirrored into the event loop
 * after every activity (refresh), each event or timeout makes it look at all of them (work). It is not thread-safe and
 * opens descriptors while it takes frames, so frames from other threads wait for the loop.
 * Left out: smb= (no server is started), guestfwd to a character device. */
#include "base/log.h"
#include "base/str.h"
#include "net/net_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WAITING_MAX = 512, FDS_MAX = 4096 };

struct watch {
    struct list link; /* in user->watches */
    int fd;
    unsigned events;
    bool seen;
    struct ev_fd *ev;
};
struct waiting {
    struct list link;
    size_t len;
    uint8_t bytes[];
};
struct slirp_timer {
    struct clk_timer t;
    struct user *u;
    SlirpTimerCb cb;
    void *opaque;
    SlirpTimerId id;
    bool by_id;
};

struct user {
    struct net_peer *peer;
    struct run *run; /* borrowed */
    Slirp *slirp;
    struct pollfd *pfd; /* owned: what libslirp asked for last */
    unsigned nr_pfd, cap_pfd;
    struct list watches;
    struct clk_timer timeout;
    struct ev_bh work_bh;
    struct list waiting; /* of struct waiting: frames from other threads */
    unsigned nr_waiting;
    char *net_text; /* owned: for info */
    bool restricted, polling;
    struct in_addr guest; /* default target of forwards */
    uint8_t buf[NET_MAX_FRAME];
};

/* ---- the poll adapter ---- */

static void on_fd(void *opaque, int fd, unsigned events);

static int slirp_add_poll(int fd, int events, void *opaque)
{
    struct user *u = opaque;
    short ev = 0;

    if (u->nr_pfd == u->cap_pfd) {
        if (u->cap_pfd >= FDS_MAX)
            return -1;
        u->cap_pfd = u->cap_pfd ? u->cap_pfd * 2 : 16;
        u->pfd = xrealloc(u->pfd, u->cap_pfd * sizeof *u->pfd);
    }
    if (events & SLIRP_POLL_IN)
        ev |= POLLIN;
    if (events & SLIRP_POLL_OUT)
        ev |= POLLOUT;
    if (events & SLIRP_POLL_PRI)
        ev |= POLLPRI;
    u->pfd[u->nr_pfd] = (struct pollfd){.fd = fd, .events = ev};
    return u->nr_pfd++;
}

static int slirp_get_revents(int idx, void *opaque)
{
    struct user *u = opaque;
    int r = 0;

    if (idx < 0 || (unsigned)idx >= u->nr_pfd)
        return 0;
    short ev = u->pfd[idx].revents;
    r |= ev & POLLIN ? SLIRP_POLL_IN : 0;
    r |= ev & POLLOUT ? SLIRP_POLL_OUT : 0;
    r |= ev & POLLPRI ? SLIRP_POLL_PRI : 0;
    r |= ev & POLLERR ? SLIRP_POLL_ERR : 0;
    r |= ev & POLLHUP ? SLIRP_POLL_HUP : 0;
    return r;
}

static struct watch *watch_find(struct user *u, int fd)
{
    struct watch *w;

    list_each (w, &u->watches, link)
        if (w->fd == fd)
            return w;
    return NULL;
}

static void watch_del(struct watch *w)
{
    ev_fd_del(w->ev);
    list_del(&w->link);
    free(w);
}

/* Mirrors what libslirp wants to hear about into the loop. */
static void refresh(struct user *u)
{
    uint32_t timeout = UINT32_MAX;
    struct watch *w, *tmp;

    u->nr_pfd = 0;
    slirp_pollfds_fill(u->slirp, &timeout, slirp_add_poll, u);
    list_each (w, &u->watches, link)
        w->seen = false;
    for (unsigned i = 0; i < u->nr_pfd; i++) {
        unsigned ev = (u->pfd[i].events & (POLLIN | POLLPRI) ? EV_IN : 0u) | (u->pfd[i].events & POLLOUT ? EV_OUT : 0u);

        w = watch_find(u, u->pfd[i].fd);
        if (!w) {
            w = xnew(struct watch);
            w->fd = u->pfd[i].fd;
            w->ev = ev_fd_add(u->run->loop, w->fd, ev, on_fd, u);
            w->events = ev;
            list_add(&u->watches, &w->link);
        } else {
            ev |= w->seen ? w->events : 0;
            if (ev != w->events)
                ev_fd_set(w->ev, ev);
            w->events = ev;
        }
        w->seen = true;
    }
    list_each_safe (w, tmp, &u->watches, link)
        if (!w->seen)
            watch_del(w);
    if (timeout != UINT32_MAX)
        clk_timer_set(&u->timeout, clk_now(u->run->virt) + (int64_t)timeout * NS_PER_MS);
    else
        clk_timer_cancel(&u->timeout);
}

static void work(void *opaque)
{
    struct user *u = opaque;
    struct waiting *f;
    int r;

    u->polling = true;
    while ((f = list_first(&u->waiting, struct waiting, link))) {
        list_del(&f->link);
        u->nr_waiting--;
        slirp_input(u->slirp, f->bytes, (int)f->len);
        free(f);
    }
    r = poll(u->pfd, u->nr_pfd, 0);
    slirp_pollfds_poll(u->slirp, r < 0, slirp_get_revents, u);
    u->polling = false;
    refresh(u);
}

static void on_fd(void *opaque, int fd, unsigned events)
{
    struct user *u = opaque;

    ev_bh_schedule(&u->work_bh); /* one look for all that is ready */
}

static void on_timeout(void *opaque)
{
    work(opaque);
}

/* ---- what libslirp calls ---- */

static ssize_t cb_send_packet(const void *buf, size_t len, void *opaque)
{
    struct user *u = opaque;

    net_send_buf(u->peer, buf, len);
    return (ssize_t)len;
}

static void cb_guest_error(const char *msg, void *opaque)
{
    log_guest("netdev user: %s", msg);
}

static int64_t cb_clock(void *opaque)
{
    struct user *u = opaque;

    return clk_now(u->run->virt);
}

static void timer_fire(void *opaque)
{
    struct slirp_timer *t = opaque;

    if (t->by_id)
        slirp_handle_timer(t->u->slirp, t->id, t->opaque);
    else
        t->cb(t->opaque);
    ev_bh_schedule(&t->u->work_bh);
}

static struct slirp_timer *timer_new(struct user *u)
{
    struct slirp_timer *t = xnew(struct slirp_timer);

    t->u = u;
    clk_timer_init(&t->t, u->run->virt, timer_fire, t);
    return t;
}

static void *cb_timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
    struct slirp_timer *t = timer_new(opaque);

    t->cb = cb;
    t->opaque = cb_opaque;
    return t;
}

static void *cb_timer_new_id(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct slirp_timer *t = timer_new(opaque);

    t->id = id;
    t->by_id = true;
    t->opaque = cb_opaque;
    return t;
}

static void cb_timer_free(void *timer, void *opaque)
{
    struct slirp_timer *t = timer;

    clk_timer_cancel(&t->t);
    free(t);
}

static void cb_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    struct slirp_timer *t = timer;

    clk_timer_set(&t->t, expire_ms * NS_PER_MS);
}

static void cb_register_fd(int fd, void *opaque)
{
}

/* The descriptor is about to be closed; its number may soon mean something else. */
static void cb_unregister_fd(int fd, void *opaque)
{
    struct user *u = opaque;
    struct watch *w = watch_find(u, fd);

    if (w)
        watch_del(w);
    for (unsigned i = 0; i < u->nr_pfd; i++)
        if (u->pfd[i].fd == fd)
            u->pfd[i].fd = -1;
}

static void cb_notify(void *opaque)
{
    struct user *u = opaque;

    ev_bh_schedule(&u->work_bh);
}

static const SlirpCb slirp_cb = {
    .send_packet = cb_send_packet,
    .guest_error = cb_guest_error,
    .clock_get_ns = cb_clock,
    .timer_new = cb_timer_new,
    .timer_free = cb_timer_free,
    .timer_mod = cb_timer_mod,
    .register_poll_fd = cb_register_fd,
    .unregister_poll_fd = cb_unregister_fd,
    .notify = cb_notify,
    .timer_new_opaque = cb_timer_new_id,
};

/* ---- the peer ---- */

static size_t user_receive(void *opaque, const struct iov *frame)
{
    struct user *u = opaque;

    if (frame->len > NET_MAX_FRAME)
        return frame->len;
    if (ev_loop_is_mine(u->run->loop) && list_empty(&u->waiting) && !u->polling) {
        iov_to_buf(frame, 0, u->buf, frame->len);
        slirp_input(u->slirp, u->buf, (int)frame->len);
    } else if (u->nr_waiting < WAITING_MAX) {
        struct waiting *f = try_alloc(1, sizeof *f + frame->len);
        if (f) {
            f->len = frame->len;
            iov_to_buf(frame, 0, f->bytes, f->len);
            list_add(&u->waiting, &f->link);
            u->nr_waiting++;
        }
    }
    ev_bh_schedule(&u->work_bh);
    return frame->len;
}

static char *user_info(void *opaque)
{
    struct user *u = opaque;

    return xasprintf("net=%s,restrict=%s", u->net_text, u->restricted ? "on" : "off");
}

static void user_cleanup(void *opaque)
{
    struct user *u = opaque;
    struct watch *w, *wt;
    struct waiting *f, *ft;

    ev_bh_cancel(&u->work_bh);
    if (u->slirp)
        slirp_cleanup(u->slirp);
    ev_bh_cancel(&u->work_bh);
    clk_timer_cancel(&u->timeout);
    list_each_safe (w, wt, &u->watches, link)
        watch_del(w);
    list_each_safe (f, ft, &u->waiting, link)
        free(f);
    free(u->pfd);
    free(u->net_text);
    free(u);
}
static const struct net_ops user_ops = {
    .type = "user", .receive = user_receive, .info = user_info, .cleanup = user_cleanup};

/* ---- configuration ---- */

struct user_cfg {
    SlirpConfig c;
    uint32_t net, mask, host, dhcp, dns; /* host order; 0 = derive */
    char **search;                       /* owned list, NULL-terminated; texts borrowed from opts */
};

static bool parse_ip4(const char *what, const char *text, uint32_t *out, struct err **errp)
{
    struct in_addr a;

    if (inet_pton(AF_INET, text, &a) != 1)
        return err_set(errp, "netdev 'user': %s=%s is not an IPv4 address", what, text);
    *out = ntohl(a.s_addr);
    return true;
}

/* a.b.c.d, a.b.c.d/bits or a.b.c.d/mask; without a mask the old address classes decide. */
static bool parse_net(const char *text, uint32_t *net, uint32_t *mask, struct err **errp)
{
    const char *slash = strchr(text, '/');
    AUTOFREE char *addr = slash ? xstrndup(text, slash - text) : xstrdup(text);
    uint64_t bits;

    if (!parse_ip4("net", addr, net, errp))
        return false;
    if (!slash)
        *mask = !(*net & 0x80000000)                ? 0xff000000
                : (*net & 0xfff00000) == 0xac100000 ? 0xfff00000
                : (*net & 0xc0000000) == 0x80000000 ? 0xffff0000
                                                    : 0xffffff00;
    else if (strchr(slash, '.')) {
        if (!parse_ip4("net", slash + 1, mask, errp))
            return false;
    } else if (!str_to_u64(slash + 1, &bits) || bits < 4 || bits > 32) {
        return err_set(errp, "netdev 'user': net=%s has a bad prefix length; use 4 to 32", text);
    } else {
        *mask = ~0u << (32 - bits);
    }
    *net &= *mask;
    return true;
}

static bool inside(const struct user_cfg *c, const char *what, uint32_t a, struct err **errp)
{
    struct in_addr ia = {htonl(a)};
    char t[INET_ADDRSTRLEN];

    if ((a & c->mask) == c->net)
        return true;
    return err_set(errp, "netdev 'user': %s=%s lies outside the network given by net=", what,
                   inet_ntop(AF_INET, &ia, t, sizeof t));
}

static bool read_ip4(struct user_cfg *c, struct opts *o, struct err **errp)
{
    static const struct {
        const char *key;
        size_t off;
        uint32_t last;
    } addr[] = {{"host", offsetof(struct user_cfg, host), 0x0202},
                {"dhcpstart", offsetof(struct user_cfg, dhcp), 0x020f},
                {"dns", offsetof(struct user_cfg, dns), 0x0203}};
    const char *t = opts_get(o, "net");

    c->net = 0x0a000200;
    c->mask = 0xffffff00;
    if (t && !parse_net(t, &c->net, &c->mask, errp))
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(addr); i++) {
        uint32_t *field = (uint32_t *)((char *)c + addr[i].off);

        *field = c->net | (addr[i].last & ~c->mask);
        if ((t = opts_get(o, addr[i].key)) &&
            (!parse_ip4(addr[i].key, t, field, errp) || !inside(c, addr[i].key, *field, errp)))
            return false;
    }
    if (c->host == c->dns)
        return err_set(errp, "netdev 'user': host= and dns= must be different addresses");
    if (c->dhcp == c->host || c->dhcp == c->dns)
        return err_set(errp, "netdev 'user': dhcpstart= must differ from host= and dns=");
    c->c.vnetwork.s_addr = htonl(c->net);
    c->c.vnetmask.s_addr = htonl(c->mask);
    c->c.vhost.s_addr = htonl(c->host);
    c->c.vdhcp_start.s_addr = htonl(c->dhcp);
    c->c.vnameserver.s_addr = htonl(c->dns);
    return true;
}

static bool read_ip6_addr(struct opts *o, const char *key, const char *dflt, struct in6_addr *out, struct err **errp)
{
    const char *t = opts_get(o, key);

    if (inet_pton(AF_INET6, t ? t : dflt, out) != 1)
        return err_set(errp, "netdev 'user': %s=%s is not an IPv6 address", key, t);
    return true;
}

static bool read_ip6(struct user_cfg *c, struct opts *o, struct err **errp)
{
    uint64_t len = 64;

    if (!read_ip6_addr(o, "ipv6-prefix", "fec0::", &c->c.vprefix_addr6, errp) ||
        !net_opt_int(o, "ipv6-prefixlen", 126, &len, errp))
        return false;
    struct in6_addr host = c->c.vprefix_addr6, dns = host;
    host.s6_addr[15] |= 2;
    dns.s6_addr[15] |= 3;
    char th[INET6_ADDRSTRLEN], td[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, &host, th, sizeof th);
    inet_ntop(AF_INET6, &dns, td, sizeof td);
    c->c.vprefix_len = len;
    return read_ip6_addr(o, "ipv6-host", th, &c->c.vhost6, errp) &&
           read_ip6_addr(o, "ipv6-dns", td, &c->c.vnameserver6, errp);
}

static bool read_names(struct user_cfg *c, struct opts *o, struct err **errp)
{
    unsigned n = 0;
    struct opt *e;

    c->c.vhostname = opts_get(o, "hostname");
    c->c.tftp_path = opts_get(o, "tftp");
    c->c.tftp_server_name = opts_get(o, "tftp-server-name");
    c->c.bootfile = opts_get(o, "bootfile");
    c->c.vdomainname = opts_get(o, "domainname");
    opts_get(o, "dnssearch");
    opts_each (e, o)
        n += !strcmp(e->key, "dnssearch");
    if (n) {
        c->search = xcalloc(n + 1, sizeof *c->search);
        n = 0;
        opts_each (e, o)
            if (!strcmp(e->key, "dnssearch")) {
                c->search[n++] = e->val;
                e->used = true;
            }
        c->c.vdnssearch = (const char **)c->search;
    }
    if (c->c.vhostname && strlen(c->c.vhostname) > 32)
        return err_set(errp, "netdev 'user': hostname is longer than 32 characters");
    if (c->c.bootfile && strlen(c->c.bootfile) > 127)
        return err_set(errp, "netdev 'user': bootfile is longer than 127 characters");
    if (c->c.vdomainname && strlen(c->c.vdomainname) > 255)
        return err_set(errp, "netdev 'user': domainname is longer than 255 characters");
    if (c->c.tftp_server_name && strlen(c->c.tftp_server_name) > 255)
        return err_set(errp, "netdev 'user': tftp-server-name is longer than 255 characters");
    if (c->c.tftp_path && access(c->c.tftp_path, R_OK | X_OK) < 0)
        return err_set_errno(errp, errno, "netdev 'user': cannot read the folder tftp=%s", c->c.tftp_path);
    if (opts_get(o, "smb") || opts_get(o, "smbserver"))
        return err_set(errp, "netdev 'user': smb= is not offered; share the folder with virtio-9p or run a server and "
                             "reach it at the host address");
    return true;
}

static bool read_cfg(struct user_cfg *c, struct opts *o, struct err **errp)
{
    bool restricted = false, v4 = true, v6 = true, v4_set = opts_peek(o, "ipv4"), v6_set = opts_peek(o, "ipv6");

    if (!opts_bool(o, "restrict", &restricted, errp) || !opts_bool(o, "ipv4", &v4, errp) ||
        !opts_bool(o, "ipv6", &v6, errp))
        return false;
    if (v6_set && v6 && !v4_set)
        v4 = true;
    if (!v4 && !v6)
        return err_set(errp, "netdev 'user': ipv4=off and ipv6=off leave nothing; allow one");
    c->c.version = 4;
    c->c.restricted = restricted;
    c->c.in_enabled = v4;
    c->c.in6_enabled = v6;
    return read_ip4(c, o, errp) && read_ip6(c, o, errp) && read_names(c, o, errp);
}

/* ---- forwards ---- */

struct fwd {
    bool udp;
    struct sockaddr_storage host, guest;
    socklen_t host_len, guest_len;
};

/* Takes "addr" or "[addr6]" up to the separator; *p moves behind it. */
static bool take_addr(const char **p, char *out, size_t n, char sep)
{
    const char *s = *p, *end;
    bool v6 = *s == '[';

    end = strchr(s, v6 ? ']' : sep);
    if (!end || (v6 && end[1] != sep) || (size_t)(end - s) >= n)
        return false;
    memcpy(out, s + v6, end - s - v6);
    out[end - s - v6] = '\0';
    *p = end + 1 + v6;
    return true;
}

static bool fill_addr(const char *text, const struct in_addr *dflt, uint16_t port, struct sockaddr_storage *ss,
                      socklen_t *len)
{
    struct sockaddr_in *a4 = (struct sockaddr_in *)ss;
    struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)ss;

    memset(ss, 0, sizeof *ss);
    if (strchr(text, ':')) {
        a6->sin6_family = AF_INET6;
        a6->sin6_port = htons(port);
        *len = sizeof *a6;
        return inet_pton(AF_INET6, text, &a6->sin6_addr) == 1;
    }
    a4->sin_family = AF_INET;
    a4->sin_port = htons(port);
    a4->sin_addr = *dflt;
    *len = sizeof *a4;
    return !*text || inet_pton(AF_INET, text, &a4->sin_addr) == 1;
}

static bool take_port(const char **p, char sep, bool zero_ok, uint16_t *out)
{
    const char *end = sep ? strchr(*p, sep) : *p + strlen(*p);
    uint64_t v;

    if (!end)
        return false;
    AUTOFREE char *t = xstrndup(*p, end - *p);
    if (!str_to_u64(t, &v) || v > 65535 || (!v && !zero_ok))
        return false;
    *out = v;
    *p = sep ? end + 1 : end;
    return true;
}

static bool bad_rule(struct err **errp, const char *rule, const char *what)
{
    err_set(errp, "netdev 'user': hostfwd=%s: %s", rule, what);
    err_hint(errp, "The form is hostfwd=[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport, as in tcp::2222-:22");
    return false;
}

/* removing: the part after '-' is not there. */
static bool parse_fwd(struct user *u, const char *rule, bool removing, struct fwd *f, struct err **errp)
{
    static const struct in_addr any = {0};
    const char *p = rule;
    char addr[INET6_ADDRSTRLEN + 8];
    uint16_t port;

    *f = (struct fwd){0};
    if (str_starts(p, "tcp:"))
        p += 4;
    else if (str_starts(p, "udp:")) {
        p += 4;
        f->udp = true;
    } else if (*p == ':')
        p++;
    else
        return bad_rule(errp, rule, "the protocol must be tcp or udp");
    if (!take_addr(&p, addr, sizeof addr, ':') || strchr(addr, '-'))
        return bad_rule(errp, rule, "the host address is missing its ':' (it may be empty)");
    if (!take_port(&p, removing ? '\0' : '-', true, &port))
        return bad_rule(errp, rule, removing ? "bad host port" : "bad host port, or no '-' after it");
    if (!fill_addr(addr, &any, port, &f->host, &f->host_len))
        return bad_rule(errp, rule, "bad host address");
    if (removing)
        return true;
    if (!take_addr(&p, addr, sizeof addr, ':'))
        return bad_rule(errp, rule, "the guest address is missing its ':' (it may be empty)");
    if (!take_port(&p, '\0', false, &port))
        return bad_rule(errp, rule, "bad guest port");
    if (!fill_addr(addr, &u->guest, port, &f->guest, &f->guest_len))
        return bad_rule(errp, rule, "bad guest address");
    if (f->guest.ss_family != f->host.ss_family && f->host.ss_family == AF_INET6)
        return bad_rule(errp, rule, "an IPv6 host address needs an IPv6 guest address");
    return true;
}

static bool fwd_add(struct user *u, const char *rule, struct err **errp)
{
    struct fwd f;

    if (!parse_fwd(u, rule, false, &f, errp))
        return false;
    errno = 0;
    if (slirp_add_hostxfwd(u->slirp, (struct sockaddr *)&f.host, f.host_len, (struct sockaddr *)&f.guest, f.guest_len,
                           (f.udp ? SLIRP_HOSTFWD_UDP : 0) |
                               (f.host.ss_family == AF_INET6 ? SLIRP_HOSTFWD_V6ONLY : 0)) < 0)
        return err_set_errno(errp, errno, "netdev 'user': cannot set up hostfwd=%s", rule);
    ev_bh_schedule(&u->work_bh);
    return true;
}

/* guestfwd=[tcp]:server:port-TARGET with TARGET cmd:COMMAND or unix:PATH. */
static bool guestfwd_add(struct user *u, const char *rule, struct err **errp)
{
    const char *p = rule;
    char addr[INET6_ADDRSTRLEN + 8];
    struct in_addr server;
    uint16_t port;
    int r;

    if (str_starts(p, "tcp:"))
        p += 4;
    else if (*p == ':')
        p++;
    else
        return err_set(errp, "netdev 'user': guestfwd=%s: only tcp can be forwarded", rule);
    if (!take_addr(&p, addr, sizeof addr, ':') || !take_port(&p, '-', false, &port) ||
        inet_pton(AF_INET, addr, &server) != 1) {
        err_set(errp, "netdev 'user': guestfwd=%s is malformed", rule);
        err_hint(errp, "The form is guestfwd=tcp:SERVER:PORT-cmd:COMMAND or ...-unix:PATH");
        return false;
    }
    if (str_starts(p, "cmd:"))
        r = slirp_add_exec(u->slirp, p + 4, &server, port);
    else if (str_starts(p, "unix:"))
        r = slirp_add_unix(u->slirp, p + 5, &server, port);
    else
        return err_set(errp, "netdev 'user': guestfwd target '%s' is not offered; use cmd:COMMAND or unix:PATH", p);
    if (r < 0)
        return err_set(errp,
                       "netdev 'user': guestfwd=%s conflicts: the address must be in the network and not the host's, "
                       "and each may be used once",
                       rule);
    return true;
}

static bool add_rules(struct user *u, struct opts *o, struct err **errp)
{
    struct opt *e;

    opts_each (e, o) {
        if (!strcmp(e->key, "hostfwd")) {
            e->used = true;
            if (!fwd_add(u, e->val, errp))
                return false;
        } else if (!strcmp(e->key, "guestfwd")) {
            e->used = true;
            if (!guestfwd_add(u, e->val, errp))
                return false;
        }
    }
    return true;
}

static struct net_peer *user_create(struct net_set *s, const char *id, struct opts *o, struct err **errp)
{
    struct user_cfg c = {0};
    struct in_addr net;
    char t[INET_ADDRSTRLEN];
    struct user *u;
    bool ok = read_cfg(&c, o, errp);

    if (!ok) {
        free(c.search);
        return NULL;
    }
    u = xnew(struct user);
    u->run = s->run;
    list_init(&u->watches);
    list_init(&u->waiting);
    clk_timer_init(&u->timeout, s->run->virt, on_timeout, u);
    ev_bh_init(&u->work_bh, s->run->loop, work, u);
    u->restricted = c.c.restricted;
    u->guest = c.c.vdhcp_start;
    net = c.c.vnetwork;
    u->net_text = xstrdup(inet_ntop(AF_INET, &net, t, sizeof t));
    u->peer = net_peer_new(s, id, &user_ops, u);
    u->slirp = slirp_new(&c.c, &slirp_cb, u);
    free(c.search);
    if (!u->slirp) {
        net_peer_free(u->peer);
        return err_set(errp, "netdev 'user': the network stack refused this configuration"), NULL;
    }
    if (!add_rules(u, o, errp)) {
        net_peer_free(u->peer);
        return NULL;
    }
    ev_bh_schedule(&u->work_bh);
    return u->peer;
}
static const char *const user_keys[] = {"ipv4",           "ipv6",      "restrict", "net",
                                        "host",           "dhcpstart", "dns",      "dnssearch",
                                        "domainname",     "hostname",  "tftp",     "tftp-server-name",
                                        "bootfile",       "hostfwd",   "guestfwd", "ipv6-prefix",
                                        "ipv6-prefixlen", "ipv6-host", "ipv6-dns", NULL};
static const struct net_backend user_backend = {"user", "NAT without privileges, with DHCP, DNS and TFTP", user_keys,
                                                user_create};
NET_REGISTER(user_backend)

/* ---- run-time control ---- */

static struct user *user_find(struct net_set *s, const char *id, struct err **errp)
{
    struct net_peer *p;

    list_each (p, &s->peers, link)
        if (p->ops == &user_ops && (!id || !strcmp(p->id, id)))
            return p->opaque;
    if (id)
        err_set(errp, "no network back end of type 'user' with id '%s'", id);
    else
        err_set(errp, "there is no network back end of type 'user'");
    return NULL;
}

bool net_user_hostfwd_add(struct net_set *s, const char *id, const char *rule, struct err **errp)
{
    struct user *u = user_find(s, id, errp);

    return u && fwd_add(u, rule, errp);
}

bool net_user_hostfwd_remove(struct net_set *s, const char *id, const char *rule, struct err **errp)
{
    struct user *u = user_find(s, id, errp);
    struct fwd f;

    if (!u || !parse_fwd(u, rule, true, &f, errp))
        return false;
    if (slirp_remove_hostxfwd(u->slirp, (struct sockaddr *)&f.host, f.host_len, f.udp ? SLIRP_HOSTFWD_UDP : 0) < 0)
        return err_set(errp, "no forward rule '%s' is active", rule);
    ev_bh_schedule(&u->work_bh);
    return true;
}

char *net_user_info(struct net_set *s)
{
    struct strbuf b = {0};
    struct net_peer *p;

    list_each (p, &s->peers, link)
        if (p->ops == &user_ops) {
            struct user *u = p->opaque;
            char *text = slirp_connection_info(u->slirp);

            str_addf(&b, "%s:\n%s", p->id, text ? text : "");
            free(text);
        }
    return str_take(&b);
}
