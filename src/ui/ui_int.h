/* What a machine's screens and input devices hang on: one object, child "ui" of the machine. Private to src/ui. */
#ifndef UI_UI_INT_H
#define UI_UI_INT_H

#include "ui/ui.h"

struct ui_state {
    struct obj obj;       /* first */
    struct run *run;      /* borrowed; NULL until ui_bind */
    struct list consoles; /* of struct ui_console, in order of creation: head 0 first */
    struct list inputs;   /* of struct ui_input, newest first */
    struct list vncs;     /* of struct vnc */
    unsigned next_input;
};
struct ui_console {
    struct list link;
    char *name; /* owned */
    const struct ui_console_ops *ops;
    void *opaque;
    struct ui_surface surface;
    struct list listeners;
};
void ui_console_first(void *machine_ctx, struct ui_console *c); /* to the head of the list */
/* The state of a machine, made at first use. machine_ctx is the machine, whose struct begins with its struct obj. */
struct ui_state *ui_state_of(void *machine_ctx);

#endif
