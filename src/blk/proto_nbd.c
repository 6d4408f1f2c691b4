/* NBD client: nbd:HOST:PORT[:exportname=E], nbd:unix:PATH[:exportname=E], nbd://..., nbd+unix://..., or server.*
 * options.
 *
 * Requests are sent under a mutex; one fibre reads all replies and hands each to the request that waits for it, by the
 * cookie. A broken connection fails what is in flight with EIO; reconnect-delay=N tries again for N seconds with the
 * next request. Where the server can, replies are structured and its base:allocation context (or the one that
 * x-dirty-bitmap= names) says where data and holes are. Everything a server sends is checked against the request. */
#include "base/bytes.h"
#include "blk/nbd.h"
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REQ = 16 };

struct slot {
    struct fibre *f; /* who waits; NULL = free */
    uint64_t cookie;
    const struct iov *q; /* where read data goes */
    uint64_t qoff, off, len;
    uint64_t came;   /* bytes of it */
    uint8_t *status; /* where the first extent of a block status goes: length and flags as they come */
    int ret;
    bool read, done;
};

struct nbd {
    struct nbd_addr addr;
    char *export_, *hostname; /* owned */
    char *context;            /* owned: the metadata context asked for */
    struct nbd_creds *creds;  /* one reference held; NULL = in the clear */
    struct nbd_sock sock;
    bool up, reader_running;
    bool structured, has_context;
    uint32_t context_id;
    uint8_t head[28]; /* bytes read ahead of a reply */
    unsigned head_len;
    unsigned flags;
    uint32_t max;
    uint64_t next_cookie;
    struct slot slot[MAX_REQ];
    struct list queue; /* of struct waiter */
    struct fibre_mutex send_lock;
    struct fibre *closer;
    uint64_t reconnect;
};
struct waiter {
    struct list link;
    struct fibre *f;
};

static const char *const nbd_known[] = {
    "host",        "port",           "path",      "export",       "server.type",     "server.path",
    "server.host", "server.port",    "tls-creds", "tls-hostname", "reconnect-delay", "open-timeout",
    "filename",    "x-dirty-bitmap", NULL};

/* ---- names ---- */

static char *unescape(const char *s, size_t n)
{
    char *out = xmalloc(n + 1);
    size_t k = 0;

    for (size_t i = 0; i < n; i++) {
        unsigned v;

        if (s[i] == '%' && i + 2 < n + 0 && sscanf(s + i + 1, "%2x", &v) == 1) {
            out[k++] = (char)v;
            i += 2;
        } else {
            out[k++] = s[i];
        }
    }
    out[k] = 0;
    return out;
}

static void set_owned(struct opts *o, const char *key, char *val)
{
    opts_replace(o, key, val);
    free(val);
}

/* nbd://host[:port]/export, nbd+unix:///export?socket=path */
static bool parse_uri(const char *name, struct opts *o, struct err **errp)
{
    bool un = str_starts(name, "nbd+unix:");
    const char *host = strstr(name, "://") + 3, *slash = strchr(host, '/'), *query = strchr(host, '?'), *colon;
    const char *end = host + strlen(host), *auth_end = slash ? slash : query ? query : end;

    if (slash && (!query || slash < query) && slash[1] && slash + 1 != query)
        set_owned(o, "export", unescape(slash + 1, (size_t)((query ? query : end) - slash - 1)));
    if (un) {
        if (!query || !str_starts(query, "?socket="))
            return err_set(errp, "nbd+unix URI '%s' needs ?socket=PATH", name);
        set_owned(o, "path", unescape(query + 8, strlen(query + 8)));
        return true;
    }
    if (auth_end == host)
        return err_set(errp, "nbd URI '%s' names no host", name);
    colon = memchr(host, ':', (size_t)(auth_end - host));
    if (*host == '[') {
        const char *close_ = memchr(host, ']', (size_t)(auth_end - host));

        if (!close_)
            return err_set(errp, "nbd URI '%s': ']' is missing", name);
        set_owned(o, "host", xstrndup(host + 1, (size_t)(close_ - host - 1)));
        colon = close_[1] == ':' ? close_ + 1 : NULL;
    } else {
        set_owned(o, "host", xstrndup(host, (size_t)((colon ? colon : auth_end) - host)));
    }
    if (colon)
        set_owned(o, "port", xstrndup(colon + 1, (size_t)(auth_end - colon - 1)));
    return true;
}

static bool nbd_parse(const char *name, struct opts *o, struct err **errp)
{
    const char *p = name + 4, *exp = strstr(p, ":exportname="), *colon;
    char *rest AUTOFREE = NULL;

    if (strstr(name, "://"))
        return parse_uri(name, o, errp);
    rest = xstrndup(p, exp ? (size_t)(exp - p) : strlen(p));
    if (exp)
        opts_replace(o, "export", exp + 12);
    if (str_starts(rest, "unix:")) {
        opts_replace(o, "path", rest + 5);
        return true;
    }
    colon = strrchr(rest, ':');
    if (!colon || !colon[1])
        return err_set(errp, "'%s' is not nbd:HOST:PORT[:exportname=NAME]", name);
    opts_replace(o, "port", colon + 1);
    set_owned(o, "host", xstrndup(rest, (size_t)(colon - rest)));
    return true;
}

static const char *either(struct opts *o, const char *a, const char *b)
{
    const char *v = opts_get(o, a), *w = opts_get(o, b);

    return v ? v : w;
}

static bool take_options(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct nbd *s = n->priv;
    const char *creds = opts_get(o, "tls-creds"), *hostname = opts_get(o, "tls-hostname");
    const char *path = either(o, "path", "server.path"), *host = either(o, "host", "server.host"),
               *port = either(o, "port", "server.port");
    const char *exp = opts_get(o, "export"), *context = opts_get(o, "x-dirty-bitmap");
    uint64_t timeout = 0;

    opts_get(o, "server.type");
    opts_get(o, "filename");
    if (creds && !(s->creds = nbd_creds_find(n->set, creds, false, errp)))
        return false;
    nbd_creds_ref(s->creds);
    if (!path && !host)
        return err_set(errp, "NBD server address missing");
    if (path && host)
        return err_set(errp, "path and host may not be used at the same time");
    if (!opts_u64(o, "reconnect-delay", &s->reconnect, errp) || !opts_u64(o, "open-timeout", &timeout, errp))
        return false;
    s->addr.path = path ? xstrdup(path) : NULL;
    s->addr.host = host ? xstrdup(host) : NULL;
    s->addr.port = port ? xstrdup(port) : NULL;
    s->hostname = hostname ? xstrdup(hostname) : host ? xstrdup(host) : NULL;
    s->export_ = xstrdup(exp ? exp : "");
    s->context = xstrdup(context ? context : "base:allocation");
    return strlen(s->context) <= 1200 || err_set(errp, "x-dirty-bitmap: the name is too long");
}

/* ---- negotiation, blocking ---- */

/* A connection being negotiated. */
struct wire {
    int fd;
    struct nbd_tls *tls; /* owned */
};

static bool io_all(struct wire *w, void *buf, size_t len, bool out, struct err **errp)
{
    char *p = buf;

    while (len) {
        ssize_t n = w->tls ? (out ? nbd_tls_send(w->tls, p, len) : nbd_tls_recv(w->tls, p, len))
                    : out  ? send(w->fd, p, len, MSG_NOSIGNAL)
                           : recv(w->fd, p, len, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(errp, "Failed to %s the NBD server during negotiation: %s", out ? "write to" : "read from",
                           n ? strerror(errno) : "it closed the connection");
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool greet(struct wire *w, struct err **errp)
{
    uint8_t b[18];
    struct timeval tv = {30, 0};

    setsockopt(w->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(w->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    if (!io_all(w, b, 18, false, errp))
        return false;
    if (get_be64(b) != NBD_MAGIC || get_be64(b + 8) != NBD_OPT_MAGIC)
        return err_set(errp, "Bad server magic received");
    if (!(get_be16(b + 16) & NBD_FLAG_FIXED_NEWSTYLE))
        return err_set(errp, "the NBD server speaks only an older protocol");
    put_be32(b, NBD_FLAG_FIXED_NEWSTYLE | (get_be16(b + 16) & NBD_FLAG_NO_ZEROES));
    return io_all(w, b, 4, true, errp);
}

static bool send_option(struct wire *w, uint32_t opt, const void *data, uint32_t len, struct err **errp)
{
    uint8_t *b AUTOFREE = xmalloc(16 + len);

    put_be64(b, NBD_OPT_MAGIC);
    put_be32(b + 8, opt);
    put_be32(b + 12, len);
    if (len)
        memcpy(b + 16, data, len);
    return io_all(w, b, 16 + len, true, errp);
}

/* An option about one export: its name, then a word of the option's own. */
static bool send_named(struct wire *w, uint32_t opt, const char *name, uint32_t word, struct err **errp)
{
    size_t n = strlen(name);
    uint8_t *b AUTOFREE = xmalloc(8 + n);

    put_be32(b, (uint32_t)n);
    memcpy(b + 4, name, n);
    put_be32(b + 4 + n, word);
    return send_option(w, opt, b, (uint32_t)(8 + n), errp);
}

/* One reply; data (NUL-terminated copy, caller frees) may be NULL when empty. */
static bool recv_reply(struct wire *w, uint32_t opt, uint32_t *type, uint8_t **data, uint32_t *len, struct err **errp)
{
    uint8_t h[20];

    *data = NULL;
    if (!io_all(w, h, 20, false, errp))
        return false;
    *type = get_be32(h + 12);
    *len = get_be32(h + 16);
    if (get_be64(h) != NBD_REP_MAGIC || get_be32(h + 8) != opt || *len > 64 << 10)
        return err_set(errp, "Unexpected option reply from the NBD server");
    *data = xcalloc(1, *len + 1);
    if (io_all(w, *data, *len, false, errp))
        return true;
    free(*data);
    *data = NULL;
    return false;
}

static void take_info(struct nbd_info *i, const uint8_t *d, uint32_t len)
{
    if (len >= 12 && get_be16(d) == NBD_INFO_EXPORT) {
        i->size = get_be64(d + 2);
        i->flags = get_be16(d + 10);
    } else if (len >= 14 && get_be16(d) == NBD_INFO_BLOCK_SIZE) {
        i->min = get_be32(d + 2);
        i->pref = get_be32(d + 6);
        i->max = get_be32(d + 10);
    } else if (len > 2 && get_be16(d) == NBD_INFO_DESCRIPTION) {
        free(i->desc);
        i->desc = xstrndup((const char *)d + 2, len - 2);
    }
}

static bool go(struct wire *w, uint32_t opt, const char *name, struct nbd_info *i, struct err **errp)
{
    if (!send_named(w, opt, name, 1 << 16 | NBD_INFO_BLOCK_SIZE, errp))
        return false;
    for (int k = 0; k < 64; k++) {
        uint32_t type, len;
        uint8_t *d;

        if (!recv_reply(w, opt, &type, &d, &len, errp))
            return false;
        if (type == NBD_REP_ACK) {
            free(d);
            return true;
        }
        if (type == NBD_REP_INFO) {
            take_info(i, d, len);
        } else {
            err_set(errp, "Requested export not available: %s", len ? (char *)d : "the server refused it");
            free(d);
            return false;
        }
        free(d);
    }
    return err_set(errp, "Unexpected option reply from the NBD server");
}

static bool ask_structured(struct wire *w, bool *yes, struct err **errp)
{
    uint32_t type, len;
    uint8_t *d;

    if (!send_option(w, NBD_OPT_STRUCTURED_REPLY, NULL, 0, errp) ||
        !recv_reply(w, NBD_OPT_STRUCTURED_REPLY, &type, &d, &len, errp))
        return false;
    free(d);
    *yes = type == NBD_REP_ACK;
    return true;
}

/* Sets the one metadata context; *yes: the server has it. */
static bool ask_context(struct wire *w, const char *export_, const char *name, bool *yes, uint32_t *id,
                        struct err **errp)
{
    size_t ne = strlen(export_), nn = strlen(name);
    uint8_t *b AUTOFREE = xmalloc(12 + ne + nn);

    put_be32(b, (uint32_t)ne);
    memcpy(b + 4, export_, ne);
    put_be32(b + 4 + ne, 1);
    put_be32(b + 8 + ne, (uint32_t)nn);
    memcpy(b + 12 + ne, name, nn);
    *yes = false;
    if (!send_option(w, NBD_OPT_SET_META_CONTEXT, b, (uint32_t)(12 + ne + nn), errp))
        return false;
    for (int k = 0; k < 4; k++) {
        uint32_t type, len;
        uint8_t *d;

        if (!recv_reply(w, NBD_OPT_SET_META_CONTEXT, &type, &d, &len, errp))
            return false;
        if (type == NBD_REP_META_CONTEXT && len == 4 + nn && !memcmp(d + 4, name, nn)) {
            *yes = true;
            *id = get_be32(d);
        }
        free(d);
        if (type != NBD_REP_META_CONTEXT)
            return true;
    }
    return err_set(errp, "Unexpected option reply from the NBD server");
}

static void wire_close(struct wire *w)
{
    nbd_tls_free(w->tls);
    if (w->fd >= 0)
        close(w->fd);
    *w = (struct wire){.fd = -1};
}

/* Past the greeting; with creds nothing else is said in the clear. */
static bool start_tls(struct wire *w, struct nbd_creds *c, const char *hostname, struct err **errp)
{
    uint32_t type, len;
    uint8_t *d;
    bool ok;
    int r;

    if (!c)
        return true;
    if (!send_option(w, NBD_OPT_STARTTLS, NULL, 0, errp) || !recv_reply(w, NBD_OPT_STARTTLS, &type, &d, &len, errp))
        return false;
    ok = type == NBD_REP_ACK || err_set(errp, "Server does not support STARTTLS%s%s", len ? ": " : "", (char *)d);
    free(d);
    if (!ok || !(w->tls = nbd_tls_new(c, w->fd, hostname, errp)))
        return false;
    r = nbd_tls_handshake(w->tls, errp);
    return r != -EAGAIN ? r >= 0 : err_set(errp, "TLS handshake failed: the server does not answer");
}

/* What the export offers to tell of its blocks; servers that do not know the question have none. */
static bool list_contexts(struct wire *w, struct nbd_info *i, struct err **errp)
{
    if (!send_named(w, NBD_OPT_LIST_META_CONTEXT, i->name, 0, errp))
        return false;
    for (int k = 0; k < 1024; k++) {
        uint32_t type, len;
        uint8_t *d;

        if (!recv_reply(w, NBD_OPT_LIST_META_CONTEXT, &type, &d, &len, errp))
            return false;
        if (type == NBD_REP_META_CONTEXT && len > 4) {
            i->contexts = xrealloc(i->contexts, (i->nr_contexts + 1) * sizeof *i->contexts);
            i->contexts[i->nr_contexts++] = xstrdup((char *)d + 4);
        }
        free(d);
        if (type != NBD_REP_META_CONTEXT)
            return true;
    }
    return err_set(errp, "Unexpected option reply from the NBD server");
}

int nbd_client_list(const struct nbd_addr *a, struct nbd_creds *creds, const char *hostname, struct nbd_info **out,
                    struct err **errp)
{
    struct nbd_info *v = NULL;
    struct wire wire = {.fd = nbd_connect(a, errp)}, *w = &wire;
    bool structured = false;
    int nr = 0;
    bool ok = w->fd >= 0 && greet(w, errp) && start_tls(w, creds, hostname, errp) &&
              ask_structured(w, &structured, errp) && send_option(w, NBD_OPT_LIST, NULL, 0, errp);

    while (ok && nr < 1024) {
        uint32_t type, len, n;
        uint8_t *d;

        ok = recv_reply(w, NBD_OPT_LIST, &type, &d, &len, errp);
        if (!ok || type == NBD_REP_ACK) {
            free(d);
            break;
        }
        n = len >= 4 ? get_be32(d) : 0;
        if (type != NBD_REP_SERVER || len < 4 || n > len - 4) {
            free(d);
            ok = err_set(errp, "the NBD server refuses to list its exports");
            break;
        }
        v = xrealloc(v, (size_t)(nr + 1) * sizeof *v);
        v[nr] = (struct nbd_info){.name = xstrndup((char *)d + 4, n),
                                  .desc = n < len - 4 ? xstrdup((char *)d + 4 + n) : NULL};
        nr++;
        free(d);
    }
    for (int i = 0; ok && i < nr; i++)
        ok = go(w, NBD_OPT_INFO, v[i].name, &v[i], errp) && (!structured || list_contexts(w, &v[i], errp));
    wire_close(w);
    for (int i = 0; !ok && i < nr; i++) {
        free(v[i].name);
        free(v[i].desc);
    }
    if (!ok) {
        free(v);
        v = NULL;
    }
    *out = v;
    return ok ? nr : -1;
}

/* ---- replies ---- */

/* n more bytes of the reply, of those read ahead first. */
static int take(struct nbd *s, void *out, unsigned n)
{
    unsigned part = n < s->head_len ? n : s->head_len;

    memcpy(out, s->head, part);
    memmove(s->head, s->head + part, s->head_len - part);
    s->head_len -= part;
    return part < n ? nbd_recv(&s->sock, (uint8_t *)out + part, n - part) : 0;
}

static struct slot *slot_of(struct nbd *s, uint64_t cookie)
{
    for (unsigned i = 0; i < MAX_REQ; i++)
        if (s->slot[i].f && !s->slot[i].done && s->slot[i].cookie == cookie)
            return &s->slot[i];
    return NULL;
}

static void slot_done(struct nbd *s, struct slot *x)
{
    x->done = true;
    fibre_wake(blk_set_loop(s->sock.set), x->f);
}

static int simple_reply(struct nbd *s)
{
    uint8_t h[16];
    int r = take(s, h, sizeof h);
    struct slot *x = r < 0 ? NULL : slot_of(s, get_be64(h + 8));

    if (!x || (s->structured && x->read && !get_be32(h + 4)))
        return -EPROTO; /* an answer to nothing, or one of the wrong kind */
    x->ret = -(int)(get_be32(h + 4) ? nbd_errno_from_wire(get_be32(h + 4)) : 0);
    if (!x->ret && x->q) {
        r = nbd_recv_iov(&s->sock, x->q, x->qoff, x->len);
        if (r < 0)
            return r;
    }
    slot_done(s, x);
    return 0;
}

/* A piece of what was read: within the request, data or a hole. */
static int chunk_data(struct nbd *s, struct slot *x, bool hole, uint32_t len)
{
    uint8_t b[12];
    uint64_t off, n;

    if (!x->read || len < 8 || (hole && len != 12) || take(s, b, hole ? 12 : 8) < 0)
        return -EPROTO;
    off = get_be64(b);
    n = hole ? get_be32(b + 8) : len - 8;
    if (off < x->off || off - x->off > x->len || n > x->len - (off - x->off))
        return -EPROTO;
    if (!x->came && n < x->len) /* a server that leaves gaps shows nothing of ours */
        iov_set(x->q, x->qoff, 0, x->len);
    x->came += n;
    if (!hole)
        return s->head_len ? -EPROTO : nbd_recv_iov(&s->sock, x->q, x->qoff + (off - x->off), n);
    iov_set(x->q, x->qoff + (off - x->off), 0, n);
    return 0;
}

static int chunk_status(struct nbd *s, struct slot *x, uint32_t len)
{
    uint8_t b[12], skip[64];

    if (!x->status || len < 12 || len % 8 != 4 || len > NBD_MAX_BUFFER || take(s, b, 12) < 0 ||
        get_be32(b) != s->context_id)
        return -EPROTO;
    memcpy(x->status, b + 4, 8);
    x->came = 1;
    for (uint32_t left = len - 12; left;) {
        uint32_t n = left < sizeof skip ? left : (uint32_t)sizeof skip;

        if (take(s, skip, n) < 0)
            return -EPROTO;
        left -= n;
    }
    return 0;
}

static int chunk_error(struct nbd *s, struct slot *x, uint32_t len)
{
    uint8_t b[6], skip[4096 + 16];

    if (len < 6 || len - 6 > sizeof skip || take(s, b, 6) < 0 || take(s, skip, len - 6) < 0 || !get_be32(b))
        return -EPROTO;
    x->ret = -nbd_errno_from_wire(get_be32(b));
    return 0;
}

static int structured_reply(struct nbd *s)
{
    uint8_t h[20];
    uint16_t flags, type;
    uint32_t len;
    struct slot *x;
    int r = take(s, h, sizeof h);

    x = r < 0 ? NULL : slot_of(s, get_be64(h + 8));
    if (!x)
        return -EPROTO;
    flags = get_be16(h + 4);
    type = get_be16(h + 6);
    len = get_be32(h + 16);
    if (type == NBD_REPLY_TYPE_OFFSET_DATA || type == NBD_REPLY_TYPE_OFFSET_HOLE)
        r = chunk_data(s, x, type == NBD_REPLY_TYPE_OFFSET_HOLE, len);
    else if (type == NBD_REPLY_TYPE_BLOCK_STATUS)
        r = chunk_status(s, x, len);
    else if (type & 0x8000)
        r = chunk_error(s, x, len);
    else
        r = type == NBD_REPLY_TYPE_NONE && !len && flags & NBD_REPLY_FLAG_DONE ? 0 : -EPROTO;
    if (r < 0 || !(flags & NBD_REPLY_FLAG_DONE))
        return r;
    if (!x->ret && ((x->read && x->came < x->len) || (x->status && !x->came)))
        x->ret = -EIO;
    slot_done(s, x);
    return 0;
}

/* The header of a simple reply is 16 bytes, that of a chunk of data 28: what follows a shorter one is kept. */
static int read_reply(struct nbd *s)
{
    unsigned want = s->structured ? 20 : 16;
    int r = 0;

    while (r >= 0 && s->head_len < 16) {
        r = nbd_recv_some(&s->sock, s->head + s->head_len, 16 - s->head_len,
                          (s->structured ? sizeof s->head : want) - s->head_len);
        if (r > 0)
            s->head_len += (unsigned)r;
    }
    if (r < 0)
        return r;
    if (get_be32(s->head) == NBD_SIMPLE_REPLY_MAGIC)
        return simple_reply(s);
    return s->structured && get_be32(s->head) == NBD_STRUCTURED_REPLY_MAGIC ? structured_reply(s) : -EPROTO;
}

static void reader_run(void *opaque)
{
    struct nbd *s = opaque;

    while (read_reply(s) >= 0)
        ;
    s->up = false;
    nbd_sock_shutdown(&s->sock);
    for (unsigned i = 0; i < MAX_REQ; i++)
        if (s->slot[i].f && !s->slot[i].done) {
            s->slot[i].ret = -EIO;
            s->slot[i].done = true;
            fibre_wake(blk_set_loop(s->sock.set), s->slot[i].f);
        }
    s->reader_running = false;
    if (s->closer)
        fibre_wake(blk_set_loop(s->sock.set), s->closer);
}

static bool connect_now(struct blk_node *n, struct err **errp)
{
    struct nbd *s = n->priv;
    struct nbd_info i = {.max = NBD_MAX_BUFFER};
    struct wire w = {.fd = nbd_connect(&s->addr, errp)};

    if (w.fd < 0)
        return false;
    s->structured = s->has_context = false;
    s->head_len = 0;
    if (!greet(&w, errp) || !start_tls(&w, s->creds, s->hostname, errp) || !ask_structured(&w, &s->structured, errp) ||
        (s->structured && !ask_context(&w, s->export_, s->context, &s->has_context, &s->context_id, errp)) ||
        (!s->has_context && strcmp(s->context, "base:allocation") &&
         !err_set(errp, "requested x-dirty-bitmap %s not found", s->context)) ||
        !go(&w, NBD_OPT_GO, s->export_, &i, errp)) {
        wire_close(&w);
        free(i.desc);
        return false;
    }
    free(i.desc);
    if (s->flags && i.size != n->size) {
        wire_close(&w);
        return err_set(errp, "the export changed its size");
    }
    s->flags = i.flags | NBD_TF_HAS_FLAGS;
    n->size = i.size;
    s->max = i.max >= 512 && i.max < NBD_MAX_BUFFER ? i.max : NBD_MAX_BUFFER;
    n->request_align = i.min && is_pow2(i.min) && i.min <= 65536 ? i.min : 1;
    nbd_sock_init(&s->sock, n->set, w.fd);
    s->sock.tls = w.tls;
    s->up = s->reader_running = true;
    fibre_resume(fibre_new(reader_run, s));
    return true;
}

static bool nbd_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct nbd *s = n->priv;

    list_init(&s->queue);
    fibre_mutex_init(&s->send_lock);
    if (!take_options(n, o, errp) || !connect_now(n, errp)) {
        nbd_addr_clear(&s->addr);
        nbd_creds_unref(s->creds);
        free(s->hostname);
        free(s->context);
        free(s->export_);
        return false;
    }
    if (s->flags & NBD_TF_READ_ONLY && n->open_flags & BLK_O_RDWR) {
        if (!(n->open_flags & BLK_O_AUTO_RO)) {
            err_set(errp, "the NBD export is read-only: request on write denied without write permission");
            n->drv->close(n);
            return false;
        }
        n->open_flags &= ~(unsigned)BLK_O_RDWR;
    }
    n->max_transfer = s->max;
    if (!n->filename)
        n->filename = s->addr.path ? xasprintf("nbd+unix:///%s?socket=%s", s->export_, s->addr.path)
                                   : xasprintf("nbd://%s:%s%s%s", s->addr.host, s->addr.port ? s->addr.port : "10809",
                                               *s->export_ ? "/" : "", s->export_);
    return true;
}

static int send_request(struct nbd *s, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t off, uint32_t len,
                        const struct iov *q, uint64_t qoff)
{
    uint8_t h[28];
    struct iov v;
    int r;

    put_be32(h, NBD_REQ_MAGIC);
    put_be16(h + 4, flags);
    put_be16(h + 6, type);
    put_be64(h + 8, cookie);
    put_be64(h + 16, off);
    put_be32(h + 24, len);
    iov_init(&v, q ? q->nr + 1 : 1);
    iov_add(&v, h, sizeof h);
    if (q)
        iov_add_part(&v, q, qoff, len);
    fibre_mutex_lock(&s->send_lock);
    r = s->up ? nbd_send(&s->sock, v.v, v.nr) : -EPIPE;
    fibre_mutex_unlock(&s->send_lock);
    iov_free(&v);
    return r;
}

static void reader_finish(struct nbd *s)
{
    while (s->reader_running) {
        nbd_sock_shutdown(&s->sock);
        if (fibre_self()) {
            s->closer = fibre_self();
            fibre_yield();
            s->closer = NULL;
        } else {
            ev_loop_turn(blk_set_loop(s->sock.set), 10 * NS_PER_MS);
        }
    }
    if (s->sock.watch)
        nbd_sock_close(&s->sock);
}

static int reconnect(struct blk_node *n)
{
    struct nbd *s = n->priv;
    struct err *e = NULL;
    bool ok;

    if (!s->reconnect)
        return -EIO;
    reader_finish(s);
    for (uint64_t i = 0; i < s->reconnect * 4 && !s->up; i++) {
        ok = connect_now(n, &e);
        err_freep(&e);
        if (!ok) {
            struct timespec ts = {0, 250000000};

            nanosleep(&ts, NULL);
        }
    }
    return s->up ? 0 : -EIO;
}

static struct slot *slot_get(struct nbd *s)
{
    for (;;) {
        for (unsigned i = 0; i < MAX_REQ; i++)
            if (!s->slot[i].f)
                return &s->slot[i];
        {
            struct waiter w = {.f = fibre_self()};

            list_add(&s->queue, &w.link);
            fibre_yield();
        }
    }
}

static void slot_put(struct nbd *s, struct slot *x)
{
    struct waiter *w = list_first(&s->queue, struct waiter, link);

    *x = (struct slot){0};
    if (w) {
        list_del(&w->link);
        fibre_wake(blk_set_loop(s->sock.set), w->f);
    }
}

struct call {
    struct blk_node *n;
    uint16_t type, flags;
    uint64_t off, len;
    const struct iov *q;
    uint64_t qoff;
    uint8_t *status;
    int ret;
};

static void call_run(void *opaque)
{
    struct call *c = opaque;
    struct nbd *s = c->n->priv;
    struct slot *x;
    int r = s->up ? 0 : reconnect(c->n);

    if (r < 0) {
        c->ret = r;
        return;
    }
    x = slot_get(s);
    *x = (struct slot){.f = fibre_self(), .cookie = ++s->next_cookie, .off = c->off, .status = c->status};
    if (c->type == NBD_CMD_READ) {
        x->read = true;
        x->q = c->q;
        x->qoff = c->qoff;
        x->len = c->len;
    }
    r = send_request(s, c->type, c->flags, x->cookie, c->off, (uint32_t)c->len, c->type == NBD_CMD_WRITE ? c->q : NULL,
                     c->qoff);
    if (r < 0 && !x->done) {
        nbd_sock_shutdown(&s->sock);
        if (!s->reader_running)
            x->done = true;
        x->ret = -EIO;
    }
    while (!x->done)
        fibre_yield();
    c->ret = r < 0 ? -EIO : x->ret;
    slot_put(s, x);
}

static int call(struct blk_node *n, uint16_t type, uint16_t flags, uint64_t off, uint64_t len, const struct iov *q,
                uint64_t qoff)
{
    struct call c = {n, type, flags, off, len, q, qoff, NULL, 0};

    blk_run(n->set, call_run, &c);
    return c.ret;
}

static int nbd_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    return call(n, NBD_CMD_READ, 0, off, len, q, qoff);
}
static int nbd_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    return call(n, NBD_CMD_WRITE, 0, off, len, q, qoff);
}

static int in_pieces(struct blk_node *n, uint16_t type, uint16_t flags, uint64_t off, uint64_t len)
{
    while (len) {
        uint64_t part = min_u64(len, 1 << 30);
        int r = call(n, type, flags, off, part, NULL, 0);

        if (r < 0)
            return r;
        off += part;
        len -= part;
    }
    return 0;
}

static int nbd_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct nbd *s = n->priv;

    if (!(s->flags & NBD_TF_SEND_WRITE_ZEROES))
        return -ENOTSUP;
    return in_pieces(n, NBD_CMD_WRITE_ZEROES, flags & BLK_MAY_UNMAP ? 0 : NBD_CMD_FLAG_NO_HOLE, off, len);
}
static int nbd_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct nbd *s = n->priv;

    return s->flags & NBD_TF_SEND_TRIM ? in_pieces(n, NBD_CMD_TRIM, 0, off, len) : -ENOTSUP;
}
static int nbd_flush(struct blk_node *n)
{
    struct nbd *s = n->priv;

    return s->flags & NBD_TF_SEND_FLUSH ? call(n, NBD_CMD_FLUSH, 0, 0, 0, NULL, 0) : 0;
}

static int nbd_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    struct nbd *s = n->priv;
    uint8_t st[8];
    struct call c = {n, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, off, min_u64(len, 1 << 30), NULL, 0, st, 0};
    uint32_t got, flags;

    *e =
        (struct blk_extent){.flags = BLK_ST_DATA | BLK_ST_OFFSET | BLK_ST_ALLOC, .len = len, .map = off, .map_node = n};
    if (!s->has_context)
        return 0;
    blk_run(n->set, call_run, &c);
    if (c.ret < 0)
        return c.ret;
    got = get_be32(st);
    flags = get_be32(st + 4);
    if (!got)
        return -EIO;
    if (!strcmp(s->context, "qemu:allocation-depth") && flags > 2)
        flags = 2; /* shown as: 0 data, 1 a hole, 2 and more zeros */
    e->len = min_u64(got, len);
    e->flags = (flags & NBD_STATE_HOLE ? 0u : BLK_ST_DATA) | (flags & NBD_STATE_ZERO ? BLK_ST_ZERO : 0u);
    e->flags |= BLK_ST_OFFSET | (e->flags ? BLK_ST_ALLOC : 0u);
    return 0;
}

static void nbd_close(struct blk_node *n)
{
    struct nbd *s = n->priv;

    if (s->up) {
        uint8_t h[28] = {0};

        put_be32(h, NBD_REQ_MAGIC);
        put_be16(h + 6, NBD_CMD_DISC);
        if ((s->sock.tls ? nbd_tls_send(s->sock.tls, h, sizeof h)
                         : send(s->sock.fd, h, sizeof h, MSG_NOSIGNAL | MSG_DONTWAIT)) < 0)
            s->sock.broken = true; /* the peer sees the connection end either way */
    }
    reader_finish(s);
    nbd_addr_clear(&s->addr);
    nbd_creds_unref(s->creds);
    free(s->hostname);
    free(s->context);
    free(s->export_);
}

static const char *const nbd_prefixes[] = {"nbd+tcp", "nbd+unix", NULL};
static const struct blk_driver drv_nbd = {
    .name = "nbd",
    .kind = BLK_PROTOCOL,
    .prefix = "nbd",
    .prefixes = nbd_prefixes,
    .priv_size = sizeof(struct nbd),
    .known = nbd_known,
    .parse_filename = nbd_parse,
    .open = nbd_open,
    .close = nbd_close,
    .preadv = nbd_preadv,
    .pwritev = nbd_pwritev,
    .pwrite_zeroes = nbd_zeroes,
    .discard = nbd_discard,
    .flush = nbd_flush,
    .block_status = nbd_status,
};
BLK_REGISTER(drv_nbd)
