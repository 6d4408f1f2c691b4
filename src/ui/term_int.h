/* The font of text consoles. Private to src/ui. */
#ifndef UI_TERM_INT_H
#define UI_TERM_INT_H

#include "ui/term.h"
#include "ui/ui_int.h"

/* From the space to the tilde; rows from the top, bit 4 is the leftmost dot. */
extern const uint8_t ui_font[95][7];

#endif
