/* Images on web and FTP servers, by libcurl: http, https, ftp, ftps. Reading only. Each read is a range request on a
 * worker thread, at least `readahead` bytes long; the last few answers are kept. The size comes from a HEAD request. A
 * server without ranges is refused.
 *
 * Certificates are checked unless sslverify=off. Redirections are followed, to the same protocols only. */
#include "base/str.h"
#include "blk/blk_int.h"
#include "blk/secret.h"
#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>

enum { NR_KEPT = 8, DFLT_AHEAD = 256 << 10, MAX_AHEAD = 64 << 20, DFLT_TIMEOUT = 5 };

struct kept {
    uint64_t off, len, used; /* len 0 = empty */
    uint8_t *buf;            /* owned */
};
/* libcurl as this node uses it. It is loaded with the first address: it brings thirty other libraries along, which
 * tripled the start of a tool that only reads files. */
struct web_lib {
    void *dl; /* owned */
    __typeof__(&curl_global_init) global_init;
    __typeof__(&curl_easy_init) easy_init;
    __typeof__(&curl_easy_cleanup) easy_cleanup;
    CURLcode (*setopt)(CURL *h, CURLoption opt, ...);
    CURLcode (*getinfo)(CURL *h, CURLINFO info, ...);
    __typeof__(&curl_easy_perform) perform;
    __typeof__(&curl_easy_strerror) strerror;
};
struct web {
    char *url, *cookie, *user, *password, *proxy_user, *proxy_password; /* owned */
    bool sslverify;
    uint64_t ahead, timeout, tick;
    struct kept kept[NR_KEPT];
    struct fibre_mutex lock; /* one transfer at a time; the kept answers */
    struct web_lib lib;
    CURL *h; /* owned */
    char error[CURL_ERROR_SIZE];
};

static const char *const web_known[] = {"url",
                                        "readahead",
                                        "sslverify",
                                        "cookie",
                                        "timeout",
                                        "username",
                                        "password-secret",
                                        "proxy-username",
                                        "proxy-password-secret",
                                        "cookie-secret",
                                        "force-range",
                                        "filename",
                                        NULL};

static bool lib_load(struct web_lib *l, struct err **errp)
{
    static const struct {
        const char *name;
        size_t off;
    } syms[] = {
        {"curl_global_init", offsetof(struct web_lib, global_init)},
        {"curl_easy_init", offsetof(struct web_lib, easy_init)},
        {"curl_easy_cleanup", offsetof(struct web_lib, easy_cleanup)},
        {"curl_easy_setopt", offsetof(struct web_lib, setopt)},
        {"curl_easy_getinfo", offsetof(struct web_lib, getinfo)},
        {"curl_easy_perform", offsetof(struct web_lib, perform)},
        {"curl_easy_strerror", offsetof(struct web_lib, strerror)},
    };

    l->dl = dlopen("libcurl-gnutls.so.4", RTLD_NOW | RTLD_NODELETE);
    if (!l->dl)
        l->dl = dlopen("libcurl.so.4", RTLD_NOW | RTLD_NODELETE);
    for (unsigned i = 0; l->dl && i < ARRAY_LEN(syms); i++) {
        void *f = dlsym(l->dl, syms[i].name);

        if (!f)
            return err_set(errp, "libcurl has no %s", syms[i].name);
        memcpy((char *)l + syms[i].off, &f, sizeof f);
    }
    if (!l->dl)
        return err_set(errp, "http, https and ftp need libcurl, which cannot be loaded: %s", dlerror());
    return l->global_init(CURL_GLOBAL_ALL) == CURLE_OK || err_set(errp, "libcurl cannot be set up");
}

static bool parse(const char *filename, struct opts *o, struct err **errp)
{
    opts_replace(o, "url", filename);
    return true;
}

/* ---- one transfer, on a worker thread ---- */

struct fetch {
    struct web *s;
    uint64_t off, len, got;
    uint8_t *buf;
};

static size_t on_data(char *p, size_t size, size_t nr, void *opaque)
{
    struct fetch *f = opaque;
    uint64_t n = min_u64(size * nr, f->len - f->got);

    memcpy(f->buf + f->got, p, n);
    f->got += n;
    return n == size * nr ? size * nr : 0; /* more than asked for ends the transfer */
}

static int fetch_run(void *opaque)
{
    struct fetch *f = opaque;
    const struct web_lib *l = &f->s->lib;
    CURL *h = f->s->h;
    char range[64];
    CURLcode r;
    long code = 0;

    snprintf(range, sizeof range, "%" PRIu64 "-%" PRIu64, f->off, f->off + f->len - 1);
    l->setopt(h, CURLOPT_NOBODY, 0L);
    l->setopt(h, CURLOPT_HTTPGET, 1L);
    l->setopt(h, CURLOPT_RANGE, range);
    l->setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    l->setopt(h, CURLOPT_WRITEDATA, f);
    r = l->perform(h);
    l->getinfo(h, CURLINFO_RESPONSE_CODE, &code);
    if (r != CURLE_OK || f->got != f->len)
        return -EIO;
    return code == 200 && f->off ? -EIO : 0; /* the whole file instead of the range */
}

static size_t on_header(char *p, size_t size, size_t nr, void *opaque)
{
    static const char key[] = "accept-ranges:";
    bool *ranges = opaque;
    size_t n = size * nr;

    if (n > sizeof key && !strncasecmp(p, key, sizeof key - 1) && memmem(p, n, "bytes", 5))
        *ranges = true;
    return n;
}

static size_t drop(char *p, size_t size, size_t nr, void *opaque)
{
    return size * nr;
}

static bool find_size(struct blk_node *n, bool force_range, struct err **errp)
{
    struct web *s = n->priv;
    const struct web_lib *l = &s->lib;
    bool ranges = !strncmp(s->url, "ftp", 3) || force_range;
    curl_off_t len = -1;
    CURLcode r;

    l->setopt(s->h, CURLOPT_NOBODY, 1L);
    l->setopt(s->h, CURLOPT_WRITEFUNCTION, drop);
    l->setopt(s->h, CURLOPT_HEADERFUNCTION, on_header);
    l->setopt(s->h, CURLOPT_HEADERDATA, &ranges);
    r = l->perform(s->h);
    l->setopt(s->h, CURLOPT_HEADERFUNCTION, NULL);
    l->setopt(s->h, CURLOPT_HEADERDATA, NULL);
    if (r != CURLE_OK)
        return err_set(errp, "CURL: Error opening file: %s", *s->error ? s->error : l->strerror(r));
    l->getinfo(s->h, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &len);
    if (len < 0)
        return err_set(errp, "CURL: Error opening file: Server didn't report file size.");
    if (!ranges)
        return err_set(errp, "CURL: Error opening file: Server does not support 'range' (byte ranges).");
    n->size = (uint64_t)len;
    return true;
}

/* ---- opening ---- */

static bool take_secret(struct blk_node *n, struct opts *o, const char *key, char **out, struct err **errp)
{
    const char *id = opts_get(o, key);
    size_t len;

    if (!id)
        return true;
    *out = (char *)blk_secret_get(n->set, id, &len, errp);
    return *out;
}

static bool take_opts(struct blk_node *n, struct opts *o, bool *force_range, struct err **errp)
{
    struct web *s = n->priv;
    const char *url = opts_get(o, "url"), *cookie = opts_get(o, "cookie"), *user = opts_get(o, "username"),
               *puser = opts_get(o, "proxy-username");
    size_t len = strlen(n->drv->name);

    opts_get(o, "filename");
    if (!url)
        return err_set(errp, "curl block driver requires an 'url' option");
    if (strncmp(url, n->drv->name, len) != 0 || strncmp(url + len, "://", 3) != 0)
        return err_set(errp, "curl block driver: '%s' is no %s address", url, n->drv->name);
    s->url = xstrdup(url);
    s->cookie = cookie ? xstrdup(cookie) : NULL;
    s->user = user ? xstrdup(user) : NULL;
    s->proxy_user = puser ? xstrdup(puser) : NULL;
    s->sslverify = true;
    s->ahead = DFLT_AHEAD;
    s->timeout = DFLT_TIMEOUT;
    if (!opts_bool(o, "sslverify", &s->sslverify, errp) || !opts_size(o, "readahead", &s->ahead, errp) ||
        !opts_u64(o, "timeout", &s->timeout, errp) || !opts_bool(o, "force-range", force_range, errp))
        return false;
    if (s->ahead & 511 || s->ahead > MAX_AHEAD)
        return err_set(errp, "HTTP_READAHEAD_SIZE %" PRIu64 " is not a multiple of 512", s->ahead);
    if (s->timeout > 10000)
        return err_set(errp, "timeout parameter is too large or negative");
    if (cookie && opts_peek(o, "cookie-secret"))
        return err_set(errp, "curl driver cannot handle both cookie and cookie secret");
    return take_secret(n, o, "password-secret", &s->password, errp) &&
           take_secret(n, o, "proxy-password-secret", &s->proxy_password, errp) &&
           take_secret(n, o, "cookie-secret", &s->cookie, errp);
}

static void set_up(struct web *s)
{
    const struct web_lib *l = &s->lib;
    CURL *h = s->h;

    l->setopt(h, CURLOPT_URL, s->url);
    l->setopt(h, CURLOPT_ERRORBUFFER, s->error);
    l->setopt(h, CURLOPT_NOSIGNAL, 1L);
    l->setopt(h, CURLOPT_FAILONERROR, 1L);
    l->setopt(h, CURLOPT_FOLLOWLOCATION, 1L);
    l->setopt(h, CURLOPT_MAXREDIRS, 10L);
    l->setopt(h, CURLOPT_PROTOCOLS_STR, "http,https,ftp,ftps");
    l->setopt(h, CURLOPT_REDIR_PROTOCOLS_STR, "http,https,ftp,ftps");
    l->setopt(h, CURLOPT_CONNECTTIMEOUT, (long)s->timeout);
    l->setopt(h, CURLOPT_LOW_SPEED_LIMIT, 1L);
    l->setopt(h, CURLOPT_LOW_SPEED_TIME, (long)s->timeout);
    l->setopt(h, CURLOPT_SSL_VERIFYPEER, s->sslverify ? 1L : 0L);
    l->setopt(h, CURLOPT_SSL_VERIFYHOST, s->sslverify ? 2L : 0L);
    if (s->cookie)
        l->setopt(h, CURLOPT_COOKIE, s->cookie);
    if (s->user)
        l->setopt(h, CURLOPT_USERNAME, s->user);
    if (s->password)
        l->setopt(h, CURLOPT_PASSWORD, s->password);
    if (s->proxy_user)
        l->setopt(h, CURLOPT_PROXYUSERNAME, s->proxy_user);
    if (s->proxy_password)
        l->setopt(h, CURLOPT_PROXYPASSWORD, s->proxy_password);
}

static void web_close(struct blk_node *n)
{
    struct web *s = n->priv;

    if (s->h)
        s->lib.easy_cleanup(s->h);
    if (s->lib.dl)
        dlclose(s->lib.dl);
    for (unsigned i = 0; i < NR_KEPT; i++)
        free(s->kept[i].buf);
    free(s->url);
    free(s->cookie);
    free(s->user);
    free(s->password);
    free(s->proxy_user);
    free(s->proxy_password);
}

static bool web_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct web *s = n->priv;
    bool force_range = false;

    fibre_mutex_init(&s->lock);
    if (n->open_flags & BLK_O_RDWR && !(n->open_flags & BLK_O_AUTO_RO))
        return err_set(errp, "curl block driver does not support writes");
    n->open_flags &= ~(unsigned)BLK_O_RDWR;
    if (take_opts(n, o, &force_range, errp) && lib_load(&s->lib, errp)) {
        s->h = s->lib.easy_init();
        if (s->h) {
            set_up(s);
            if (find_size(n, force_range, errp))
                return true;
        } else {
            err_set(errp, "CURL: no memory");
        }
    }
    web_close(n);
    return false;
}

/* ---- reading ---- */

static struct kept *find(struct web *s, uint64_t off)
{
    for (unsigned i = 0; i < NR_KEPT; i++) {
        struct kept *k = &s->kept[i];

        if (k->len && off >= k->off && off < k->off + k->len)
            return k;
    }
    return NULL;
}

static int load(struct blk_node *n, uint64_t off, uint64_t len, struct kept **out)
{
    struct web *s = n->priv;
    struct kept *k = &s->kept[0];
    struct fetch f = {.s = s, .off = align_down(off, 512)};
    int r;

    for (unsigned i = 1; i < NR_KEPT; i++)
        if (s->kept[i].used < k->used)
            k = &s->kept[i];
    f.len = min_u64(max_u64(off + len - f.off, s->ahead), min_u64(n->size - f.off, MAX_AHEAD));
    free(k->buf);
    *k = (struct kept){.buf = try_alloc(1, f.len)};
    f.buf = k->buf;
    if (!k->buf)
        return -ENOMEM;
    r = blk_offload(n->set, fetch_run, &f);
    if (r < 0)
        return r;
    k->off = f.off;
    k->len = f.len;
    *out = k;
    return 0;
}

static int web_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct web *s = n->priv;
    int r = 0;

    fibre_mutex_lock(&s->lock);
    while (len && r >= 0) {
        struct kept *k = find(s, off);
        uint64_t part;

        if (!k)
            r = load(n, off, len, &k);
        if (r < 0)
            break;
        k->used = ++s->tick;
        part = min_u64(len, k->off + k->len - off);
        iov_from_buf(q, qoff, k->buf + (off - k->off), part);
        off += part;
        qoff += part;
        len -= part;
    }
    fibre_mutex_unlock(&s->lock);
    return r;
}

#define WEB_DRIVER(proto)                                                                                              \
    static const struct blk_driver drv_##proto = {.name = #proto,                                                      \
                                                  .prefix = #proto,                                                    \
                                                  .kind = BLK_PROTOCOL,                                                \
                                                  .priv_size = sizeof(struct web),                                     \
                                                  .known = web_known,                                                  \
                                                  .parse_filename = parse,                                             \
                                                  .open = web_open,                                                    \
                                                  .close = web_close,                                                  \
                                                  .preadv = web_preadv};                                               \
    BLK_REGISTER(drv_##proto)
WEB_DRIVER(http)
WEB_DRIVER(https)
WEB_DRIVER(ftp)
WEB_DRIVER(ftps)
