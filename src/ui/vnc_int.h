/* VNC server internals: the server, its connections, their encoders. Private to src/ui. */
#ifndef UI_VNC_INT_H
#define UI_VNC_INT_H

#include "base/bytes.h"
#include "base/str.h"
#include "ui/ui_int.h"
#include "ui/vnc.h"
#include <zlib.h>

enum { VNC_TILE = 16, VNC_MAX_LISTEN = 4, VNC_MAX_CLIENTS = 64 };
enum vnc_share { VNC_SHARE_EXCLUSIVE, VNC_SHARE_FORCE, VNC_SHARE_IGNORE };
enum {
    ENC_RAW = 0,
    ENC_HEXTILE = 5,
    ENC_ZLIB = 6,
    ENC_ZRLE = 16,
    ENC_DESKTOP_SIZE = -223,
    ENC_POINTER_CHANGE = -257,
    ENC_EXT_KEY = -258
};

struct vnc {
    struct list link; /* in ui_state.vncs */
    void *ctx;        /* the machine */
    struct run *run;
    struct ui_console *con; /* borrowed; NULL while there is no screen */
    unsigned shown;         /* its number, see ui_console_nth */
    struct ui_listener listener;
    bool listening_to_con;
    char *id, *host, *service, *path, *title; /* owned; title: NULL = the program's */
    const char *family;
    int fds[VNC_MAX_LISTEN];
    struct ev_fd *watches[VNC_MAX_LISTEN];
    unsigned nr_fds, nr_clients;
    bool password_on;
    char *password; /* owned; NULL = none set: nobody gets in */
    int64_t expires;
    enum vnc_share share;
    struct list clients; /* of struct vnc_client */
    struct clk_timer refresh;
};
struct vnc_format { /* pixels as the client wants them */
    unsigned bpp;   /* bits: 8, 16, 32 */
    bool big, true_color;
    unsigned rmax, gmax, bmax, rshift, gshift, bshift;
};
struct vnc_client;
/* Handles a message whose first `need` bytes are there: returns how many more it wants in all, or 0 when it is done. */
typedef size_t vnc_msg_fn(struct vnc_client *c, const uint8_t *msg, size_t len);
struct vnc_client {
    struct list link;
    struct vnc *v;
    int fd;
    struct ev_fd *watch;
    char *host, *service;
    vnc_msg_fn *handler;
    size_t need; /* bytes the handler waits for */
    struct strbuf in, out;
    size_t out_off; /* sent already */
    uint64_t skip;  /* bytes of input to drop (cut text) */
    unsigned minor; /* protocol 3.x */
    uint8_t challenge[16];
    bool shared, closing, ready; /* ready: past initialisation */
    struct vnc_format fmt;
    bool fmt_native;
    int encoding;
    bool has_desktop_size, has_ext_key, has_pointer_change;
    bool ext_key_told, abs_told, abs_known;
    int width, height; /* as the client knows */
    bool resized;      /* it must be told */
    bool wants;        /* an update request is open */
    uint8_t *dirty;    /* owned: one byte per tile */
    int tiles_x, tiles_y;
    unsigned buttons;
    int last_x, last_y;
    bool have_last;
    bool keys_down[256]; /* enum ui_key: released when the connection ends */
    z_stream z;
    bool z_on;
};

/* vnc.c: shows another screen from now on; false: there is none of this number. */
bool vnc_show(struct vnc *v, unsigned n);
/* vnc_client.c */
void vnc_client_new(struct vnc *v, int fd, const char *host, const char *service);
void vnc_client_free(struct vnc_client *c);
void vnc_client_resized(struct vnc_client *c); /* the surface has another size */
void vnc_client_dirty(struct vnc_client *c, int x, int y, int w, int h);
void vnc_client_update(struct vnc_client *c); /* sends what is dirty when it may */
void vnc_put(struct vnc_client *c, const void *p, size_t n);
void vnc_put_u8(struct vnc_client *c, unsigned v);
void vnc_put_u16(struct vnc_client *c, unsigned v);
void vnc_put_u32(struct vnc_client *c, uint32_t v);
/* vnc_enc.c: one rectangle, header and all */
void vnc_encode_rect(struct vnc_client *c, int x, int y, int w, int h);
/* des.c: one block, FIPS 46-3 */
void des_encrypt(const uint8_t key[8], const uint8_t in[8], uint8_t out[8]);

#endif
