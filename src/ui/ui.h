/* Screens and input, without any display library: adapters draw into surfaces, displays and screendump show them,
 * keyboards and pointers receive what displays and monitors send. Machine lock held. */
#ifndef UI_UI_H
#define UI_UI_H

#include "obj/obj.h"
#include "run/run.h"

/* 32-bit pixels 0x00RRGGBB, host endian. Owned by the console; data may alias guest video memory. */
struct ui_surface {
    int width, height, stride; /* stride in bytes */
    uint8_t *data;
    bool owned;
};
struct ui_console;
struct ui_console_ops {               /* the adapter's side */
    void (*update)(void *opaque);     /* bring the surface up to date, calling ui_dirty for what changed */
    void (*invalidate)(void *opaque); /* redraw everything at the next update */
    /* Set by a text console, not by adapters: a key was pressed while a display shows it. */
    void (*type)(void *opaque, uint32_t keysym, bool ctrl);
};
struct ui_console *ui_console_new(void *machine_ctx, const char *name, const struct ui_console_ops *ops, void *opaque);
void ui_console_free(struct ui_console *c);
struct ui_console *ui_console_get(void *machine_ctx, unsigned head); /* an adapter's; NULL when there is none */
/* What displays can show: adapters' screens, then text consoles. NULL = no such number. */
struct ui_console *ui_console_nth(void *machine_ctx, unsigned n);
bool ui_console_is_text(const struct ui_console *c);
void ui_console_type(struct ui_console *c, uint32_t keysym, bool ctrl); /* into a text console */
const char *ui_console_name(const struct ui_console *c);
/* Replaces the surface: data NULL allocates one, otherwise it is borrowed (shared with the guest). NULL, with nothing
 * changed, when the size is not 1..16384 a side or memory is short. */
struct ui_surface *ui_console_resize(struct ui_console *c, int width, int height, uint8_t *data, int stride);
struct ui_surface *ui_console_surface(struct ui_console *c);
void ui_dirty(struct ui_console *c, int x, int y, int w, int h);
void ui_console_update(struct ui_console *c); /* asks the adapter */
void ui_console_redraw(struct ui_console *c); /* the same after forgetting what was drawn */

/* Displays listen. A listener made with a console that has a surface is told of it at once (resized). */
struct ui_listener {
    struct list link;
    void (*resized)(void *opaque, struct ui_console *c);
    void (*dirty)(void *opaque, struct ui_console *c, int x, int y, int w, int h);
    void (*gone)(void *opaque, struct ui_console *c); /* the console is being freed; the listener is off it already */
    void *opaque;
};
void ui_listen(struct ui_console *c, struct ui_listener *l);
void ui_unlisten(struct ui_listener *l);

/* Picture files: binary PPM (P6) and PNG, whole surface, written to a temporary and renamed. */
bool ui_screendump(struct ui_console *c, const char *path, bool png, struct err **errp);

/* Input. Keys are by QMP key names ("a", "ret", "ctrl", "f2" ...) numbered in ui/keys.def. */
enum ui_input_kind { UI_KEYBOARD = 1, UI_POINTER_REL = 2, UI_POINTER_ABS = 4 };
enum ui_button {
    UI_BTN_LEFT,
    UI_BTN_MIDDLE,
    UI_BTN_RIGHT,
    UI_BTN_WHEEL_UP,
    UI_BTN_WHEEL_DOWN,
    UI_BTN_SIDE,
    UI_BTN_EXTRA
};
struct ui_input_ops { /* a keyboard or pointer model */
    const char *name;
    unsigned kinds;
    void (*key)(void *opaque, unsigned key /* enum ui_key */, bool down);
    void (*rel)(void *opaque, int dx, int dy);
    void (*abs)(void *opaque, int x, int y); /* 0..0x7fff */
    void (*button)(void *opaque, enum ui_button b, bool down);
    void (*sync)(void *opaque); /* end of one report */
};
enum { UI_ABS_MAX = 0x7fff };
struct ui_input;
struct ui_input *ui_input_add(void *machine_ctx, const struct ui_input_ops *ops,
                              void *opaque); /* newest gets the events */
void ui_input_del(struct ui_input *i);
/* For `info mice` and `mouse_set`: newest first; current marks the one that gets pointer (or key) events now. */
typedef void ui_input_fn(unsigned index, const char *name, unsigned kinds, bool current, void *opaque);
void ui_input_each(void *machine_ctx, ui_input_fn *fn, void *opaque);
bool ui_input_select(void *machine_ctx, unsigned index); /* false: no such number */
void ui_send_key(void *machine_ctx, unsigned key, bool down);
void ui_send_rel(void *machine_ctx, int dx, int dy);
void ui_send_abs(void *machine_ctx, int x, int y);
void ui_send_button(void *machine_ctx, enum ui_button b, bool down);
void ui_send_sync(void *machine_ctx);
bool ui_has_abs(void *machine_ctx);
unsigned ui_key_by_name(const char *name); /* 0 = unknown */
const char *ui_key_name(unsigned key);
unsigned ui_key_by_keysym(uint32_t keysym); /* X11 keysym on a US keyboard; 0 = none */
unsigned ui_key_by_set1(unsigned code);     /* set 1 make code; e0 codes as 0xe0NN or 0x80 | NN */
/* PC scan code sets for a key: bytes of the make code; returns the count (0 = none). The break code puts 0x80 into the
 * last byte (set 1) or 0xf0 before it (set 2); Pause begins with 0xe1, is complete in itself and has no break code. */
unsigned ui_key_set1(unsigned key, uint8_t out[8]);
unsigned ui_key_set2(unsigned key, uint8_t out[8]);
/* All UI state of a machine. machine_ctx is the struct machine, everywhere above: the state is its child object "ui".
 * ui_unbind comes after the devices are gone and frees what they left. */
void ui_bind(void *machine_ctx, struct run *r);
void ui_unbind(void *machine_ctx);

#endif
