/* VNC: an RFB 3.8 server (RFC 6143) that shows one screen and takes keys and pointer. Main loop, machine lock held. */
#ifndef UI_VNC_H
#define UI_VNC_H

#include "base/opts.h"
#include "ui/ui.h"

struct vnc;
/* What follows -vnc: "vnc" (implied key: "HOST:D", ":D", "[V6]:D", "unix:PATH"; D = port - 5900), id, title, to,
 * password, share, ipv4, ipv6. The machine's UI must be bound (ui_bind). Listens when it returns. */
struct vnc *vnc_new(void *machine_ctx, struct opts *o, struct err **errp);
void vnc_free(struct vnc *v); /* closes every connection; NULL is allowed */
/* The server called id, or the first one when id is NULL. */
struct vnc *vnc_find(void *machine_ctx, const char *id);
const char *vnc_host(const struct vnc *v);    /* as bound: "127.0.0.1", "0.0.0.0", "::", or the path */
const char *vnc_service(const struct vnc *v); /* port number in decimal, "" for a path */
const char *vnc_family(const struct vnc *v);  /* "ipv4", "ipv6", "unix" */
const char *vnc_auth(const struct vnc *v);    /* "none", "vnc" */
/* A new password (8 bytes count); turns password checking on. False when the server was started without it. */
bool vnc_set_password(struct vnc *v, const char *password, struct err **errp);
void vnc_expire_password(struct vnc *v, int64_t when); /* seconds since 1970; INT64_MAX = never */
typedef void vnc_client_fn(const char *host, const char *service, const char *family, bool shared, void *opaque);
void vnc_each_client(struct vnc *v, vnc_client_fn *fn, void *opaque);

#endif
