/* Text consoles: screens of characters that the program draws itself (a monitor, a serial line) and that displays show
 * beside the adapters' screens. Machine lock held. */
#ifndef UI_TERM_H
#define UI_TERM_H

#include "ui/ui.h"

struct ui_term;
/* What a person typed, as a terminal sends it. */
typedef void ui_term_input_fn(void *opaque, const uint8_t *buf, size_t len);
/* cols, rows: 1 to UI_TERM_MAX. first: before the other text consoles. NULL: memory is short. */
enum { UI_TERM_MAX = 400 };
struct ui_term *ui_term_new(void *machine_ctx, const char *name, unsigned cols, unsigned rows, bool first,
                            ui_term_input_fn *fn, void *opaque);
void ui_term_free(struct ui_term *t); /* NULL allowed; before ui_unbind */
void ui_term_write(struct ui_term *t, const uint8_t *buf, size_t len);
/* The console's size in characters, for making pixels of it: a cell is UI_CELL_W by UI_CELL_H. */
enum { UI_CELL_W = 8, UI_CELL_H = 16 };

#endif
