/* See nbd_tls.h. Files of a folder: ca-cert.pem, ca-crl.pem (may be missing), and {server,client}-{cert,key}.pem for
 * X.509 (a client may have none); keys.psk with lines NAME:HEXKEY for PSK. Certificates are verified on both ends
 * unless verify-peer=no; a client checks the server's name as well.
 *
 * Left out: encrypted private keys (passwordid), authorisation lists (tls-authz), Diffie-Hellman files: finite-field
 * groups are those of RFC 7919. */
#include "blk/nbd_tls.h"
#include "base/str.h"
#include "blk/blk_int.h"
#include <dlfcn.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

/* GnuTLS as it is used here. */
#define TLS_CALLS(X)                                                                                                   \
    X(init)                                                                                                            \
    X(deinit)                                                                                                          \
    X(handshake)                                                                                                       \
    X(handshake_set_timeout)                                                                                           \
    X(record_send)                                                                                                     \
    X(record_recv)                                                                                                     \
    X(record_get_direction)                                                                                            \
    X(bye)                                                                                                             \
    X(transport_set_int2)                                                                                              \
    X(priority_set_direct)                                                                                             \
    X(credentials_set)                                                                                                 \
    X(certificate_allocate_credentials)                                                                                \
    X(certificate_free_credentials)                                                                                    \
    X(certificate_set_x509_trust_file)                                                                                 \
    X(certificate_set_x509_crl_file)                                                                                   \
    X(certificate_set_x509_key_file)                                                                                   \
    X(certificate_server_set_request)                                                                                  \
    X(session_set_verify_cert)                                                                                         \
    X(psk_allocate_server_credentials)                                                                                 \
    X(psk_free_server_credentials)                                                                                     \
    X(psk_set_server_credentials_file)                                                                                 \
    X(psk_allocate_client_credentials)                                                                                 \
    X(psk_free_client_credentials)                                                                                     \
    X(psk_set_client_credentials)                                                                                      \
    X(strerror)

struct tls_lib {
    void *dl; /* owned */
#define FIELD(f) __typeof__(&gnutls_##f) f;
    TLS_CALLS(FIELD)
#undef FIELD
};

struct nbd_creds {
    struct obj obj;
    char *dir, *priority, *username, *passwordid; /* properties */
    int endpoint;                                 /* property, index into endpoints */
    bool verify, sanity;                          /* properties */
    bool psk;
    struct tls_lib lib;
    gnutls_certificate_credentials_t cert;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_psk_client_credentials_t psk_client;
};
struct nbd_tls {
    struct nbd_creds *c; /* one reference held */
    gnutls_session_t s;
    bool up;
};
enum { SERVER, CLIENT };
static const char *const endpoints[] = {"server", "client", NULL};

static bool lib_load(struct tls_lib *l, struct err **errp)
{
    static const struct {
        const char *name;
        size_t off;
    } syms[] = {
#define SYM(f) {"gnutls_" #f, offsetof(struct tls_lib, f)},
        TLS_CALLS(SYM)
#undef SYM
    };

    l->dl = dlopen("libgnutls.so.30", RTLD_NOW | RTLD_NODELETE);
    if (!l->dl)
        return err_set(errp, "TLS needs libgnutls, which cannot be loaded: %s", dlerror());
    for (unsigned i = 0; i < ARRAY_LEN(syms); i++) {
        void *f = dlsym(l->dl, syms[i].name);

        if (!f)
            return err_set(errp, "libgnutls has no %s", syms[i].name);
        memcpy((char *)l + syms[i].off, &f, sizeof f);
    }
    return true;
}

/* ---- credentials ---- */

static char *file_of(const struct nbd_creds *c, const char *name)
{
    return xasprintf("%s/%s", c->dir, name);
}

static bool load_ca(struct nbd_creds *c, struct err **errp)
{
    char *ca AUTOFREE = file_of(c, "ca-cert.pem"), *crl AUTOFREE = file_of(c, "ca-crl.pem");
    int r = c->lib.certificate_set_x509_trust_file(c->cert, ca, GNUTLS_X509_FMT_PEM);

    if (r < 0)
        return err_set(errp, "Cannot load CA certificate '%s': %s", ca, c->lib.strerror(r));
    if (!access(crl, F_OK) && (r = c->lib.certificate_set_x509_crl_file(c->cert, crl, GNUTLS_X509_FMT_PEM)) < 0)
        return err_set(errp, "Cannot load CRL '%s': %s", crl, c->lib.strerror(r));
    return true;
}

static bool load_own(struct nbd_creds *c, struct err **errp)
{
    char *cert AUTOFREE = file_of(c, c->endpoint == SERVER ? "server-cert.pem" : "client-cert.pem");
    char *key AUTOFREE = file_of(c, c->endpoint == SERVER ? "server-key.pem" : "client-key.pem");
    int r;

    if (c->endpoint == CLIENT && access(cert, F_OK) && access(key, F_OK))
        return true;
    r = c->lib.certificate_set_x509_key_file(c->cert, cert, key, GNUTLS_X509_FMT_PEM);
    return r >= 0 || err_set(errp, "Cannot load certificate '%s' & key '%s': %s", cert, key, c->lib.strerror(r));
}

static bool ready_common(struct nbd_creds *c, struct err **errp)
{
    if (!c->dir)
        return err_set(errp, "Missing 'dir' property value");
    if (c->passwordid)
        return err_set(errp, "tls-creds: encrypted private keys (passwordid) are not available; decrypt the key file");
    return lib_load(&c->lib, errp);
}

static bool x509_ready(struct obj *o, struct err **errp)
{
    struct nbd_creds *c = (struct nbd_creds *)o;

    return ready_common(c, errp) &&
           (c->lib.certificate_allocate_credentials(&c->cert) >= 0 || err_set(errp, "Cannot allocate credentials")) &&
           load_ca(c, errp) && load_own(c, errp);
}

/* The key of c->username in keys.psk, as text; caller frees. */
static char *psk_key(struct nbd_creds *c, const char *path, struct err **errp)
{
    const char *user = c->username ? c->username : "qemu";
    FILE *f = fopen(path, "re");
    char line[1024], *found = NULL;
    size_t n = strlen(user);

    if (!f) {
        err_set_errno(errp, errno, "Cannot open '%s'", path);
        return NULL;
    }
    while (!found && fgets(line, sizeof line, f))
        if (!strncmp(line, user, n) && line[n] == ':') {
            line[strcspn(line, "\r\n")] = 0;
            found = xstrdup(line + n + 1);
        }
    fclose(f);
    if (!found)
        err_set(errp, "Username %s not found in PSK key file %s", user, path);
    return found;
}

static bool psk_ready(struct obj *o, struct err **errp)
{
    struct nbd_creds *c = (struct nbd_creds *)o;
    char *path AUTOFREE = NULL, *key AUTOFREE = NULL;
    gnutls_datum_t d;
    int r;

    c->psk = true;
    if (!ready_common(c, errp))
        return false;
    path = file_of(c, "keys.psk");
    if (c->endpoint == SERVER) {
        if (c->username)
            return err_set(errp, "username should not be set when endpoint=server");
        if (access(path, R_OK))
            return err_set_errno(errp, errno, "Unable to access credentials %s", path);
        r = c->lib.psk_allocate_server_credentials(&c->psk_server);
        r = r < 0 ? r : c->lib.psk_set_server_credentials_file(c->psk_server, path);
        return r >= 0 || err_set(errp, "Cannot set PSK server credentials: %s", c->lib.strerror(r));
    }
    key = psk_key(c, path, errp);
    if (!key)
        return false;
    d = (gnutls_datum_t){(unsigned char *)key, (unsigned)strlen(key)};
    r = c->lib.psk_allocate_client_credentials(&c->psk_client);
    r = r < 0 ? r
              : c->lib.psk_set_client_credentials(c->psk_client, c->username ? c->username : "qemu", &d,
                                                  GNUTLS_PSK_KEY_HEX);
    return r >= 0 || err_set(errp, "Cannot set PSK client credentials: %s", c->lib.strerror(r));
}

static void creds_free(struct obj *o)
{
    struct nbd_creds *c = (struct nbd_creds *)o;

    if (c->cert)
        c->lib.certificate_free_credentials(c->cert);
    if (c->psk_server)
        c->lib.psk_free_server_credentials(c->psk_server);
    if (c->psk_client)
        c->lib.psk_free_client_credentials(c->psk_client);
    if (c->lib.dl)
        dlclose(c->lib.dl);
}

static const struct prop x509_props[] = {
    PROP("dir", str, struct nbd_creds, dir),
    PROP("endpoint", enum, struct nbd_creds, endpoint, .names = endpoints, .dflt = "client"),
    PROP("verify-peer", bool, struct nbd_creds, verify, .dflt = "on"),
    PROP("priority", str, struct nbd_creds, priority),
    PROP("sanity-check", bool, struct nbd_creds, sanity, .dflt = "on"),
    PROP("passwordid", str, struct nbd_creds, passwordid),
    PROP_END,
};
static const struct prop psk_props[] = {
    PROP("dir", str, struct nbd_creds, dir),
    PROP("endpoint", enum, struct nbd_creds, endpoint, .names = endpoints, .dflt = "client"),
    PROP("verify-peer", bool, struct nbd_creds, verify, .dflt = "on"),
    PROP("priority", str, struct nbd_creds, priority),
    PROP("username", str, struct nbd_creds, username),
    PROP_END,
};
static const struct obj_class x509_class = {.name = "tls-creds-x509",
                                            .desc = "certificates for TLS",
                                            .size = sizeof(struct nbd_creds),
                                            .props = x509_props,
                                            .ready = x509_ready,
                                            .free = creds_free,
                                            .user = true};
static const struct obj_class psk_class = {.name = "tls-creds-psk",
                                           .desc = "shared keys for TLS",
                                           .size = sizeof(struct nbd_creds),
                                           .props = psk_props,
                                           .ready = psk_ready,
                                           .free = creds_free,
                                           .user = true};
OBJ_REGISTER(x509_class)
OBJ_REGISTER(psk_class)

struct nbd_creds *nbd_creds_find(struct blk_set *s, const char *id, bool server, struct err **errp)
{
    struct obj *o = s->objects ? obj_child(s->objects, id) : NULL;
    struct nbd_creds *c = (struct nbd_creds *)o;

    if (!o) {
        err_set(errp, "No TLS credentials with id '%s'", id);
        return NULL;
    }
    if (o->cls != &x509_class && o->cls != &psk_class) {
        err_set(errp, "Object with id '%s' is not TLS credentials", id);
        return NULL;
    }
    if (c->endpoint != (server ? SERVER : CLIENT)) {
        err_set(errp, "Expecting TLS credentials with a %s endpoint", server ? "server" : "client");
        return NULL;
    }
    return c;
}

void nbd_creds_ref(struct nbd_creds *c)
{
    if (c)
        obj_ref(&c->obj);
}
void nbd_creds_unref(struct nbd_creds *c)
{
    if (c)
        obj_unref(&c->obj);
}

/* ---- sessions ---- */

static int set_up(struct nbd_tls *t, const char *hostname)
{
    struct nbd_creds *c = t->c;
    const char *base = c->priority ? c->priority : "NORMAL";
    char *prio AUTOFREE = c->psk ? xasprintf("%s:+ECDHE-PSK:+DHE-PSK:+PSK", base) : xstrdup(base);
    int r = c->lib.priority_set_direct(t->s, prio, NULL);

    if (r < 0)
        return r;
    if (c->psk)
        return c->lib.credentials_set(t->s, GNUTLS_CRD_PSK,
                                      c->endpoint == SERVER ? (void *)c->psk_server : (void *)c->psk_client);
    r = c->lib.credentials_set(t->s, GNUTLS_CRD_CERTIFICATE, c->cert);
    if (c->endpoint == SERVER)
        c->lib.certificate_server_set_request(t->s, c->verify ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE);
    if (c->verify)
        c->lib.session_set_verify_cert(t->s, c->endpoint == CLIENT ? hostname : NULL, 0);
    return r;
}

struct nbd_tls *nbd_tls_new(struct nbd_creds *c, int fd, const char *hostname, struct err **errp)
{
    struct nbd_tls *t;
    int r;

    if (c->endpoint == CLIENT && !c->psk && c->verify && !hostname) {
        err_set(errp, "No hostname for certificate validation; set tls-hostname");
        return NULL;
    }
    t = xnew(struct nbd_tls);
    t->c = c;
    obj_ref(&c->obj);
    r = c->lib.init(&t->s, (c->endpoint == SERVER ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NO_SIGNAL);
    if (r >= 0)
        r = set_up(t, hostname);
    if (r < 0) {
        err_set(errp, "Cannot initialize TLS session: %s", c->lib.strerror(r));
        nbd_tls_free(t);
        return NULL;
    }
    c->lib.transport_set_int2(t->s, fd, fd);
    return t;
}

void nbd_tls_free(struct nbd_tls *t)
{
    if (!t)
        return;
    if (t->up)
        t->c->lib.bye(t->s, GNUTLS_SHUT_WR);
    if (t->s)
        t->c->lib.deinit(t->s);
    obj_unref(&t->c->obj);
    free(t);
}

int nbd_tls_handshake(struct nbd_tls *t, struct err **errp)
{
    int r = t->c->lib.handshake(t->s);

    if (r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED)
        return -EAGAIN;
    if (r < 0) {
        err_set(errp, "TLS handshake failed: %s", t->c->lib.strerror(r));
        return -EPROTO;
    }
    t->up = true;
    return 0;
}

bool nbd_tls_wants_write(struct nbd_tls *t)
{
    return t->c->lib.record_get_direction(t->s) == 1;
}

static ssize_t result(ssize_t r)
{
    if (r >= 0)
        return r;
    errno = r == GNUTLS_E_AGAIN ? EAGAIN : r == GNUTLS_E_INTERRUPTED ? EINTR : EIO;
    return -1;
}

ssize_t nbd_tls_send(struct nbd_tls *t, const void *buf, size_t len)
{
    return result(t->c->lib.record_send(t->s, buf, len));
}

ssize_t nbd_tls_recv(struct nbd_tls *t, void *buf, size_t len)
{
    ssize_t r = t->c->lib.record_recv(t->s, buf, len);

    return r == GNUTLS_E_PREMATURE_TERMINATION ? 0 : result(r);
}
