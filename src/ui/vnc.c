/* The VNC server: what -vnc says, listening sockets, the refresh that feeds all connections, passwords. Leaves out TLS,
 * SASL, WebSocket and reverse connections: those keys are refused. */
#include "ui/vnc_int.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { REFRESH_NS = 33000000, FIRST_PORT = 5900 };

/* ---- the screen ---- */

static void on_resized(void *opaque, struct ui_console *con)
{
    struct vnc *v = opaque;
    struct vnc_client *c;

    list_each (c, &v->clients, link)
        vnc_client_resized(c);
}

static void on_dirty(void *opaque, struct ui_console *con, int x, int y, int w, int h)
{
    struct vnc *v = opaque;
    struct vnc_client *c;

    list_each (c, &v->clients, link)
        vnc_client_dirty(c, x, y, w, h);
}

static void on_gone(void *opaque, struct ui_console *con)
{
    ((struct vnc *)opaque)->con = NULL;
}

/* Screens come and go with their adapters. */
static void follow_console(struct vnc *v)
{
    struct ui_console *con = ui_console_nth(v->ctx, v->shown);

    if (con == v->con)
        return;
    if (v->con)
        ui_unlisten(&v->listener);
    v->con = con;
    if (con) {
        ui_listen(con, &v->listener);
        ui_console_redraw(con);
    }
}

bool vnc_show(struct vnc *v, unsigned n)
{
    if (!ui_console_nth(v->ctx, n))
        return false;
    v->shown = n;
    follow_console(v);
    return true;
}

static void on_refresh(void *opaque)
{
    struct vnc *v = opaque;
    struct vnc_client *c, *tmp;

    list_each_safe (c, tmp, &v->clients, link)
        if (c->closing)
            vnc_client_free(c);
    follow_console(v);
    if (v->con && v->nr_clients)
        ui_console_update(v->con);
    list_each_safe (c, tmp, &v->clients, link)
        vnc_client_update(c);
    if (v->nr_clients)
        clk_timer_set(&v->refresh, clk_now(v->run->real) + REFRESH_NS);
}

/* ---- sockets ---- */

static void on_accept(void *opaque, int fd, unsigned events)
{
    struct vnc *v = opaque;
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    char host[NI_MAXHOST] = "", service[NI_MAXSERV] = "";
    int c = accept4(fd, (struct sockaddr *)&a, &len, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;

    if (c < 0)
        return;
    if (v->nr_clients >= VNC_MAX_CLIENTS) {
        close(c);
        return;
    }
    if (!v->path) {
        setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        getnameinfo((struct sockaddr *)&a, len, host, sizeof host, service, sizeof service,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    }
    vnc_client_new(v, c, host, service);
    clk_timer_set(&v->refresh, clk_now(v->run->real));
}

static int bound_socket(const struct addrinfo *ai)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1, e;

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 8) < 0) {
        e = -errno;
        close(fd);
        return e;
    }
    return fd;
}

/* Binds every address of host at this port, or none. */
static int listen_port(struct vnc *v, const char *host, unsigned port, int family)
{
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list, *ai;
    char service[8];
    int r;

    snprintf(service, sizeof service, "%u", port);
    if (getaddrinfo(*host ? host : NULL, service, &hints, &list))
        return -EADDRNOTAVAIL;
    r = -EADDRNOTAVAIL;
    for (ai = list; ai && v->nr_fds < VNC_MAX_LISTEN; ai = ai->ai_next) {
        int fd = bound_socket(ai);

        if (fd == -EADDRINUSE) {
            while (v->nr_fds)
                close(v->fds[--v->nr_fds]);
            r = fd;
            break;
        }
        if (fd < 0) { /* a family that this host lacks */
            r = v->nr_fds ? 0 : fd;
            continue;
        }
        v->fds[v->nr_fds++] = fd;
        r = 0;
    }
    freeaddrinfo(list);
    return v->nr_fds ? 0 : r;
}

static void name_bound(struct vnc *v)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    char host[NI_MAXHOST] = "", service[NI_MAXSERV] = "";

    getsockname(v->fds[0], (struct sockaddr *)&a, &len);
    getnameinfo((struct sockaddr *)&a, len, host, sizeof host, service, sizeof service,
                NI_NUMERICHOST | NI_NUMERICSERV);
    v->host = xstrdup(host);
    v->service = xstrdup(service);
    v->family = a.ss_family == AF_INET6 ? "ipv6" : "ipv4";
}

static bool listen_unix(struct vnc *v, const char *path, struct err **errp)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd;

    if (!*path || strlen(path) >= sizeof a.sun_path)
        return err_set(errp, "vnc: the socket path must have 1 to %zu bytes", sizeof a.sun_path - 1);
    strcpy(a.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 8) < 0) {
        int e = errno;

        if (fd >= 0)
            close(fd);
        return err_set_errno(errp, e, "vnc: cannot listen on '%s'", path);
    }
    v->fds[v->nr_fds++] = fd;
    v->path = xstrdup(path);
    v->host = xstrdup(path);
    v->service = xstrdup("");
    v->family = "unix";
    return true;
}

/* ---- options ---- */

/* "HOST:D" -> host (caller frees) and display number. */
static bool split_address(const char *addr, char **host, uint64_t *display, struct err **errp)
{
    const char *colon = strrchr(addr, ':');

    if (!colon || !str_to_u64(colon + 1, display) || *display > 65535 - FIRST_PORT) {
        err_set(errp, "vnc: '%s' is no display address", addr);
        err_hint(errp, "Use HOST:D with D from 0 to %d (port 5900+D), for example 127.0.0.1:0, or unix:PATH.",
                 65535 - FIRST_PORT);
        return false;
    }
    if (addr[0] == '[' && colon > addr + 1 && colon[-1] == ']')
        *host = xstrndup(addr + 1, (size_t)(colon - addr) - 2);
    else
        *host = xstrndup(addr, (size_t)(colon - addr));
    return true;
}

static bool listen_tcp(struct vnc *v, const char *addr, struct opts *o, struct err **errp)
{
    AUTOFREE char *host = NULL;
    uint64_t display, to = 0;
    bool v4 = false, v6 = false;
    int r, family;

    if (!split_address(addr, &host, &display, errp) || !opts_u64(o, "to", &to, errp) ||
        !opts_bool(o, "ipv4", &v4, errp) || !opts_bool(o, "ipv6", &v6, errp))
        return false;
    if (to > 65535 - FIRST_PORT)
        return err_set(errp, "vnc: to=%" PRIu64 " is past the last port", to);
    family = v4 && !v6 ? AF_INET : v6 && !v4 ? AF_INET6 : AF_UNSPEC;
    to = max_u64(to, display);
    do
        r = listen_port(v, host, (unsigned)(FIRST_PORT + display), family);
    while (r == -EADDRINUSE && display++ < to);
    if (r < 0) {
        err_set_errno(errp, -r, "vnc: cannot listen on '%s' (port %" PRIu64 ")", addr,
                      FIRST_PORT + min_u64(display, to));
        if (r == -EADDRINUSE)
            err_hint(errp, "Take another display number, or add to=99 to try the next ones.");
        return false;
    }
    name_bound(v);
    if (!*host && !v->password_on)
        warn_report(
            "VNC on %s accepts anyone who reaches this host; 127.0.0.1%s keeps it local, password=on asks for one",
            addr, addr);
    return true;
}

static bool read_share(struct vnc *v, struct opts *o, struct err **errp)
{
    static const char *const names[] = {"allow-exclusive", "force-shared", "ignore", NULL};
    const char *s = opts_get(o, "share");

    for (unsigned i = 0; s && names[i]; i++) {
        if (!strcmp(s, names[i])) {
            v->share = (enum vnc_share)i;
            return true;
        }
    }
    return !s || err_set(errp, "vnc: share=%s is none of allow-exclusive, force-shared, ignore", s);
}

static bool configure(struct vnc *v, struct opts *o, struct err **errp)
{
    static const char *const known[] = {
        "vnc",  "id",    "to",           "title",         "password",     "share",         "ipv4",
        "ipv6", "lossy", "non-adaptive", "lock-key-sync", "key-delay-ms", "power-control", NULL};
    static const char *const absent[] = {"websocket",  "tls-creds", "sasl",    "reverse", "tls-authz",
                                         "sasl-authz", "audiodev",  "display", NULL};
    const char *addr = opts_get(o, "vnc"), *id = opts_get(o, "id"), *title = opts_get(o, "title");
    bool unused;

    for (unsigned i = 0; absent[i]; i++)
        if (opts_get(o, absent[i]))
            return err_set(errp, "vnc: '%s' is not offered by this server", absent[i]);
    for (unsigned i = 8; known[i]; i++) { /* tuning that changes nothing here: lossless, adaptive by construction */
        if (!strcmp(known[i], "key-delay-ms"))
            opts_get(o, known[i]);
        else if (!opts_bool(o, known[i], &unused, errp))
            return false;
    }
    if (!opts_bool(o, "password", &v->password_on, errp) || !read_share(v, o, errp))
        return false;
    v->id = xstrdup(id ? id : "default");
    v->title = title ? xstrdup(title) : NULL;
    if (!addr)
        return err_set(errp, "vnc: no address");
    if (str_starts(addr, "unix:") ? !listen_unix(v, addr + 5, errp) : !listen_tcp(v, addr, o, errp))
        return false;
    return opts_done(o, "vnc", known, errp);
}

struct vnc *vnc_new(void *machine_ctx, struct opts *o, struct err **errp)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct vnc *v = xnew(struct vnc);

    assert(s->run);
    v->ctx = machine_ctx;
    v->run = s->run;
    v->expires = INT64_MAX;
    v->listener = (struct ui_listener){.resized = on_resized, .dirty = on_dirty, .gone = on_gone, .opaque = v};
    list_init(&v->link);
    list_init(&v->clients);
    list_init(&v->listener.link);
    clk_timer_init(&v->refresh, v->run->real, on_refresh, v);
    if (!configure(v, o, errp)) {
        vnc_free(v);
        return NULL;
    }
    for (unsigned i = 0; i < v->nr_fds; i++)
        v->watches[i] = ev_fd_add(v->run->loop, v->fds[i], EV_IN, on_accept, v);
    list_add(&s->vncs, &v->link);
    follow_console(v);
    return v;
}

void vnc_free(struct vnc *v)
{
    if (!v)
        return;
    while (!list_empty(&v->clients))
        vnc_client_free(list_first(&v->clients, struct vnc_client, link));
    clk_timer_cancel(&v->refresh);
    ui_unlisten(&v->listener);
    for (unsigned i = 0; i < v->nr_fds; i++) {
        ev_fd_del(v->watches[i]);
        close(v->fds[i]);
    }
    if (v->path)
        unlink(v->path);
    list_del(&v->link);
    free(v->id);
    free(v->host);
    free(v->service);
    free(v->path);
    free(v->title);
    free(v->password);
    free(v);
}

/* ---- what monitors ask ---- */

struct vnc *vnc_find(void *machine_ctx, const char *id)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct vnc *v;

    list_each (v, &s->vncs, link)
        if (!id || !strcmp(v->id, id))
            return v;
    return NULL;
}

const char *vnc_host(const struct vnc *v)
{
    return v->host;
}
const char *vnc_service(const struct vnc *v)
{
    return v->service;
}
const char *vnc_family(const struct vnc *v)
{
    return v->family;
}
const char *vnc_auth(const struct vnc *v)
{
    return v->password_on ? "vnc" : "none";
}

bool vnc_set_password(struct vnc *v, const char *password, struct err **errp)
{
    if (!v->password_on) {
        err_set(errp, "the VNC server '%s' was started without a password", v->id);
        err_hint(errp, "Start it with password=on.");
        return false;
    }
    free(v->password);
    v->password = xstrdup(password);
    return true;
}

void vnc_expire_password(struct vnc *v, int64_t when)
{
    v->expires = when;
}

void vnc_each_client(struct vnc *v, vnc_client_fn *fn, void *opaque)
{
    struct vnc_client *c;

    list_each (c, &v->clients, link)
        if (c->ready)
            fn(c->host, c->service, v->family, c->shared, opaque);
}
