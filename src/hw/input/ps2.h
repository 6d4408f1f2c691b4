/* PS/2 keyboard and mouse: the devices behind an 8042, which takes their bytes and sends them commands. */
#ifndef HW_INPUT_PS2_H
#define HW_INPUT_PS2_H

#include "dev/dev.h"
#include "ui/ui.h"

enum { PS2_QUEUE = 256 }; /* power of two: positions are reduced before use */
struct ps2_port {
    uint8_t q[PS2_QUEUE];
    uint16_t head, count;
    void (*ready)(void *opaque); /* bytes have arrived */
    void *opaque;
    uint8_t cmd;  /* command that waits for its parameter, 0 = none */
    uint8_t last; /* last byte sent, for RESEND */
};
struct ps2_kbd {
    struct ps2_port port;
    struct machine *m; /* borrowed; a key wakes it */
    uint8_t set, leds, rate;
    bool scanning;
    struct ui_input *input; /* owned */
};
struct ps2_mouse {
    struct ps2_port port;
    uint8_t id, rate, resolution, knock[3];
    bool reporting, remote, scale2, wrap;
    uint8_t buttons;
    int dx, dy, dz;
    struct ui_input *input; /* owned */
};
void ps2_kbd_init(struct ps2_kbd *k, struct machine *m, void (*ready)(void *), void *opaque);
void ps2_kbd_fini(struct ps2_kbd *k);
void ps2_kbd_reset(struct ps2_kbd *k);
void ps2_kbd_command(struct ps2_kbd *k, uint8_t byte);
void ps2_mouse_init(struct ps2_mouse *m, struct machine *machine, void (*ready)(void *), void *opaque);
void ps2_mouse_fini(struct ps2_mouse *m);
void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_command(struct ps2_mouse *m, uint8_t byte);
static inline bool ps2_has_byte(const struct ps2_port *p)
{
    return p->count != 0;
}
uint8_t ps2_take(struct ps2_port *p); /* only when there is one */
extern const struct state_desc ps2_kbd_state, ps2_mouse_state;

#endif
