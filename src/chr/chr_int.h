/* Private to the room: what a back end implements, and what the core gives it.
 *
 * A back end embeds struct chr first and registers a struct chr_class. write() may be called on any thread that holds
 * the machine lock; everything else runs on the main loop. Back ends never touch ev_fd_* in write(): when they took
 * less than offered the core calls refresh() on the main loop, where they watch for room and then call chr_writable().
 */
#ifndef CHR_CHR_INT_H
#define CHR_CHR_INT_H

#include "chr/chr.h"

enum { CHR_MAX_FE = 8, CHR_MUX_BUF = 4096, CHR_OUT_MAX = 1 << 20, CHR_TRY_MAX = 4096 };

struct chr_class {
    struct obj_class;        /* name "chardev-socket" */
    const char *type;        /* "socket" */
    const char *alias;       /* second type name or NULL */
    const char *const *keys; /* option names beyond the common ones, NULL-terminated */
    /* Opens; sets c->label; may set c->opened. The core has read the common options. */
    bool (*open)(struct chr *c, struct opts *o, struct err **errp);
    void (*close)(struct chr *c); /* also after a failed open; may be NULL */
    /* Bytes taken, 0..len; a back end nobody listens to takes (and drops) all. */
    size_t (*write)(struct chr *c, const uint8_t *buf, size_t len);
    /* Input room or pending output changed: watch accordingly. May be NULL. */
    void (*refresh)(struct chr *c);
    void (*serial_params)(struct chr *c, const struct chr_serial_params *p);
    void (*send_break)(struct chr *c, bool on);
    void (*terminal)(struct chr *c, bool cooked);
};

struct chr_mux {
    unsigned focus;
    bool escape; /* the escape key was typed */
    bool timestamps, line_start;
    struct {
        uint8_t buf[CHR_MUX_BUF]; /* ring */
        unsigned head, len;
    } in[CHR_MAX_FE];
};

struct chr {
    struct obj obj;      /* first */
    struct chr_set *set; /* borrowed */
    char *label;         /* owned: description */
    bool opened;         /* somebody is at the other end */
    bool network;
    struct chr_fe *fe[CHR_MAX_FE]; /* borrowed; only [0] without a mux */
    unsigned nr_fe;
    struct chr_mux *mux; /* owned or NULL */
    uint8_t *out;        /* owned: output not yet taken */
    size_t out_len, out_off, out_cap;
    uint64_t dropped;
    int log_fd; /* logfile=, -1 = none */
    struct ev_bh refresh_bh;
};
static inline const struct chr_class *chr_class(const struct chr *c)
{
    return (const struct chr_class *)c->obj.cls;
}
#define CHR_REGISTER(cls_) OBJ_REGISTER_AS(cls_, obj)

struct chr_set {
    struct obj obj; /* first; child "chardevs" of the root */
    struct run *run;
    const struct chr_hooks *hooks;
    void *hooks_opaque;
    struct chr *stdio; /* who owns the terminal, or NULL */
};

/* For back ends. */
void chr_obj_free(struct obj *o); /* .free of every class */
#define CHR_CLASS(n) .name = "chardev-" n, .parent = "chardev", .type = n, .free = chr_obj_free
size_t chr_room(struct chr *c);                                /* how many input bytes are wanted now */
void chr_input(struct chr *c, const uint8_t *buf, size_t len); /* at most chr_room() */
void chr_set_opened(struct chr *c, bool on);                   /* changes give CHR_OPENED / CHR_CLOSED */
void chr_event(struct chr *c, enum chr_event ev);
bool chr_wants_out(const struct chr *c); /* output is queued or a front end waits for room */
void chr_writable(struct chr *c);        /* there is room: send the queue, wake front ends */
void chr_refresh_later(struct chr *c);
void chr_set_label(struct chr *c, const char *fmt, ...) PRINTF_FMT(2, 3);
/* write(2) for a non-blocking descriptor: bytes taken; errors other than EAGAIN take everything. */
size_t chr_fd_write(int fd, const void *buf, size_t len);
/* Mux side, chr_mux.c. */
size_t chr_mux_room(struct chr *c);
void chr_mux_input(struct chr *c, const uint8_t *buf, size_t len);
void chr_mux_deliver(struct chr *c);
void chr_mux_set_focus(struct chr *c, unsigned n);
/* chr_short.c: "tcp:..." to an option list. NULL + error, or NULL with *none set. */
struct opts *chr_short_parse(const char *id, const char *form, bool *none, struct err **errp);

#endif
