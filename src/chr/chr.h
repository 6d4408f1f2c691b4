/* Character devices: a byte pipe between one front end (UART, monitor, virtio port ...) and a host back end.
 *
 * Named by -chardev BACKEND,id=..., or made from the short forms of -serial, -monitor, -qmp, -debugcon ("stdio",
 * "file:x", "tcp:h:p,server,nowait", "unix:p", "pty", "mon:stdio", "null", "vc", "chardev:id"). Machine lock held;
 * callbacks run on the main loop. A back end may have several front ends only through a mux. */
#ifndef CHR_CHR_H
#define CHR_CHR_H

#include "obj/obj.h"
#include "run/run.h"
#include <sys/types.h>

struct chr;
enum chr_event { CHR_OPENED, CHR_CLOSED, CHR_BREAK, CHR_MUX_IN, CHR_MUX_OUT };

/* The front end's side; all may be NULL. */
struct chr_fe_ops {
    size_t (*can_read)(void *opaque); /* how many bytes it takes now; 0 = call chr_fe_accept later */
    void (*read)(void *opaque, const uint8_t *buf, size_t len); /* at most what can_read said */
    void (*event)(void *opaque, enum chr_event ev);
};
struct chr_fe {
    struct chr *chr; /* NULL = not connected: writes vanish */
    const struct chr_fe_ops *ops;
    void *opaque;
    unsigned tag; /* of a mux */
    bool open;
    void (*on_writable)(void *opaque); /* armed by chr_fe_try_write, run once */
};
/* All char devices of a process live in one set, owned by cmd/. */
struct chr_set *chr_set_new(struct run *r, struct obj *root /* objects appear as its children */);
void chr_set_free(struct chr_set *s);
/* What the mux keys (Ctrl-A x, Ctrl-A s) and the testdev back end ask of the program. Any may be NULL. */
struct chr_hooks {
    void (*quit)(void *opaque);             /* end the program in an orderly way */
    void (*commit)(void *opaque);           /* write snapshot data back */
    void (*exit_code)(void *opaque, int v); /* end it with this status */
    /* A text console for the vc back end c, of so many characters (0 = as it likes): what is typed there goes to
     * chr_vc_input. NULL: there is none, what is written vanishes. The other two get what this returned. */
    void *(*vc_new)(void *opaque, struct chr *c, unsigned cols, unsigned rows);
    void (*vc_write)(void *vc, const uint8_t *buf, size_t len);
    void (*vc_free)(void *vc);
};
void chr_set_hooks(struct chr_set *s, const struct chr_hooks *h, void *opaque);
void chr_vc_input(struct chr *c, const uint8_t *buf, size_t len); /* what has no room is lost */
/* Puts the terminal back as it was found (cooked) or, after a SIGCONT, into the back end's mode again. */
void chr_set_terminal(struct chr_set *s, bool cooked);
struct chr *chr_find(struct chr_set *s, const char *id);
/* -chardev; the id is required. */
struct chr *chr_create(struct chr_set *s, struct opts *o, struct err **errp);
/* Short form; label becomes the id ("serial0", "compat_monitor0"). NULL with no error when the form is "none". */
struct chr *chr_create_legacy(struct chr_set *s, const char *label, const char *form, struct err **errp);
bool chr_remove(struct chr_set *s, const char *id, struct err **errp); /* refused while in use */
void chr_each(struct chr_set *s, void (*fn)(struct chr *c, void *opaque), void *opaque);
const char *chr_id(const struct chr *c);
const char *chr_label(const struct chr *c);  /* back end description for `info chardev`: "unix:/x,server=on" */
bool chr_frontend_open(const struct chr *c); /* some front end is attached and open */
bool chr_is_mux(const struct chr *c);
bool chr_is_network(const struct chr *c); /* listens where other hosts can reach it */
/* Back end types for help and introspection: name order, NULL starts and ends. */
const char *chr_type_next(const char *prev);
/* The descriptor most recently passed over the peer's UNIX socket (SCM_RIGHTS); the caller owns it. -1 = none. */
int chr_fe_take_fd(struct chr_fe *fe);
/* The connected UNIX stream socket itself, borrowed until CHR_CLOSED; -1 = none. For a front end that talks to its peer
 * in turns, with descriptors: it reads the answer before it lets go of the machine lock, so none is delivered to it. */
int chr_fe_socket(struct chr_fe *fe);
/* A connection that ends may come back: a server, or a client with reconnect=. */
bool chr_fe_comes_back(struct chr_fe *fe);
/* Hands a connected stream socket to a socket back end without a client (add_client). fd is consumed when true. */
bool chr_adopt_fd(struct chr *c, int fd, struct err **errp);
void chr_inject_break(struct chr *c); /* as if the far end had sent a break */
/* ringbuf: copies out up to len bytes, returns how many; appends. False/-1 when c is no ringbuf. */
ssize_t chr_ringbuf_read(struct chr *c, void *buf, size_t len);
bool chr_ringbuf_write(struct chr *c, const void *buf, size_t len);

/* Attach; false when the back end is taken. chr NULL gives a front end that goes nowhere. */
bool chr_fe_init(struct chr_fe *fe, struct chr *c, struct err **errp);
void chr_fe_set(struct chr_fe *fe, const struct chr_fe_ops *ops, void *opaque); /* starts delivery */
void chr_fe_fini(struct chr_fe *fe);
/* Writes what the back end takes without blocking; the rest is queued up to a bound, then dropped with a count.
 * Returns len. chr_fe_try_write returns how much was taken (0..len), of which up to 4 KiB wait when the back end does
 * not take them (a socket is full after some 200 messages of one byte, and firmware gives its serial port up when it is
 * not ready for a second); else the front end waits for on_writable. */
size_t chr_fe_write(struct chr_fe *fe, const void *buf, size_t len);
size_t chr_fe_try_write(struct chr_fe *fe, const void *buf, size_t len, void (*on_writable)(void *opaque));
void chr_fe_accept(struct chr_fe *fe);              /* can_read grew: deliver what is waiting */
void chr_fe_set_open(struct chr_fe *fe, bool open); /* DTR-like: the guest opened its end */
/* Serial line ioctls; back ends without a line ignore them. */
struct chr_serial_params {
    int speed, data_bits, stop_bits;
    char parity; /* 'N', 'E', 'O' */
};
void chr_fe_serial_params(struct chr_fe *fe, const struct chr_serial_params *p);
void chr_fe_break(struct chr_fe *fe, bool on);
/* Device property of this type: text is a chardev id; the field is a struct chr_fe. The set is found through
 * chr_set_of. */
extern const struct prop_type chr_prop;
#define PROP_CHR(n, S, f)                                                                                              \
    {                                                                                                                  \
        .name = (n), .type = &chr_prop, .off = offsetof(S, f)                                                          \
    }
/* cmd/ ties a machine's object tree to its sets. */
void chr_set_bind(struct chr_set *s, void *machine_ctx);
struct chr_set *chr_set_of(void *machine_ctx);

#endif
