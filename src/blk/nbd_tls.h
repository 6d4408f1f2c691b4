/* TLS for NBD: -object tls-creds-x509 and tls-creds-psk, and sessions over a connected socket. By GnuTLS, which is
 * loaded with the first such object. */
#ifndef BLK_NBD_TLS_H
#define BLK_NBD_TLS_H

#include "blk/blk.h"
#include <sys/types.h>

struct nbd_creds; /* lives as long as its object; borrowed by whoever looked it up */
struct nbd_tls;   /* one session */

/* The object of that id, made for this end; NULL with an error. */
struct nbd_creds *nbd_creds_find(struct blk_set *s, const char *id, bool server, struct err **errp);
void nbd_creds_ref(struct nbd_creds *c); /* NULL is allowed, here and below */
void nbd_creds_unref(struct nbd_creds *c);
/* A session over fd (borrowed). hostname: what the server's certificate must name; NULL for servers and PSK. */
struct nbd_tls *nbd_tls_new(struct nbd_creds *c, int fd, const char *hostname, struct err **errp);
void nbd_tls_free(struct nbd_tls *t); /* NULL is allowed */
/* 0 done, -EAGAIN: again when the socket is ready (nbd_tls_wants_write says for what), -EPROTO with an error. */
int nbd_tls_handshake(struct nbd_tls *t, struct err **errp);
bool nbd_tls_wants_write(struct nbd_tls *t);
/* As send and recv: bytes, 0 at the end of the stream, -1 with errno. After EAGAIN the same bytes must be sent. */
ssize_t nbd_tls_send(struct nbd_tls *t, const void *buf, size_t len);
ssize_t nbd_tls_recv(struct nbd_tls *t, void *buf, size_t len);

#endif
