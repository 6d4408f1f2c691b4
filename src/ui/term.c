/* A text console: cells, a cursor, the control sequences of ECMA-48 that monitors and shells use, drawn into a surface.
 *
 * Understood: CR, LF, BS, TAB; CSI with A B C D (move), G d H f (place), J K (erase), m (colours, bold, reverse), s u
 * (keep and return to a place). Other sequences are read to their end and dropped. Left out: scrolling back, scroll
 * regions, characters beyond ASCII. */
#include "base/str.h"
#include "ui/term_int.h"
#include <stdio.h>

enum { ESC = 0x1b, MAX_PARAMS = 8, TAB = 8 };
enum state { PLAIN, ESCAPED, CSI };

struct cell {
    uint8_t ch, fg, bg; /* colours 0..15 */
};
struct ui_term {
    struct ui_console *con; /* owned */
    ui_term_input_fn *fn;
    void *opaque;
    unsigned cols, rows, x, y, kept_x, kept_y;
    bool wrap; /* the last column was written: the next character begins a new line */
    struct cell *cells;
    uint8_t fg, bg;
    bool bold, reverse;
    enum state state;
    unsigned param[MAX_PARAMS], nr;
    unsigned cur_x, cur_y; /* where the cursor is drawn */
};

/* ---- drawing ---- */

static const uint32_t palette[16] = {0x000000, 0xaa0000, 0x00aa00, 0xaa5500, 0x0000aa, 0xaa00aa, 0x00aaaa, 0xaaaaaa,
                                     0x555555, 0xff5555, 0x55ff55, 0xffff55, 0x5555ff, 0xff55ff, 0x55ffff, 0xffffff};

static struct cell *cell(struct ui_term *t, unsigned x, unsigned y)
{
    return &t->cells[y * t->cols + x];
}

/* Dots are one pixel wide and two high, with a pixel of space above, below and between characters. */
static void draw(struct ui_term *t, unsigned x, unsigned y)
{
    const struct ui_surface *s = ui_console_surface(t->con);
    const struct cell *c = cell(t, x, y);
    bool cursor = x == t->cur_x && y == t->cur_y;
    uint32_t fg = palette[cursor ? c->bg : c->fg], bg = palette[cursor ? c->fg : c->bg];
    unsigned glyph = c->ch > ' ' && c->ch < 0x7f ? c->ch - ' ' : 0;

    for (unsigned py = 0; py < UI_CELL_H; py++) {
        uint32_t *row =
            (uint32_t *)(void *)(s->data + (size_t)(y * UI_CELL_H + py) * (size_t)s->stride) + x * UI_CELL_W;
        unsigned bits = py >= 1 && py < 15 ? ui_font[glyph][(py - 1) / 2] : 0;

        for (unsigned px = 0; px < UI_CELL_W; px++)
            row[px] = px >= 1 && px < 6 && bits >> (5 - px) & 1 ? fg : bg;
    }
}

static void show(struct ui_term *t, unsigned x, unsigned y, unsigned w, unsigned h)
{
    for (unsigned i = y; i < y + h; i++)
        for (unsigned k = x; k < x + w; k++)
            draw(t, k, i);
    ui_dirty(t->con, (int)(x * UI_CELL_W), (int)(y * UI_CELL_H), (int)(w * UI_CELL_W), (int)(h * UI_CELL_H));
}

static void show_cursor(struct ui_term *t)
{
    unsigned ox = t->cur_x, oy = t->cur_y;

    if (ox == t->x && oy == t->y)
        return;
    t->cur_x = t->x;
    t->cur_y = t->y;
    show(t, ox, oy, 1, 1);
    show(t, t->x, t->y, 1, 1);
}

/* ---- what comes in ---- */

static void blank(struct ui_term *t, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        t->cells[i] = (struct cell){' ', t->fg, t->bg};
    if (from < to)
        show(t, 0, from / t->cols, t->cols, (to - 1) / t->cols - from / t->cols + 1);
}

static void line_feed(struct ui_term *t)
{
    t->wrap = false;
    if (++t->y < t->rows)
        return;
    t->y = t->rows - 1;
    memmove(t->cells, t->cells + t->cols, (size_t)t->cols * (t->rows - 1) * sizeof *t->cells);
    blank(t, t->cols * (t->rows - 1), t->cols * t->rows);
    show(t, 0, 0, t->cols, t->rows);
}

static void put(struct ui_term *t, uint8_t ch)
{
    uint8_t fg = (uint8_t)(t->fg | (t->bold ? 8 : 0));

    if (t->wrap) {
        t->x = 0;
        line_feed(t);
    }
    *cell(t, t->x, t->y) = t->reverse ? (struct cell){ch, t->bg, fg} : (struct cell){ch, fg, t->bg};
    show(t, t->x, t->y, 1, 1);
    t->wrap = t->x + 1 == t->cols;
    t->x += !t->wrap;
}

static void colours(struct ui_term *t)
{
    for (unsigned i = 0; i < t->nr; i++) {
        unsigned p = t->param[i];

        if (!p) {
            t->fg = 7;
            t->bg = 0;
            t->bold = t->reverse = false;
        } else if (p == 1 || p == 22) {
            t->bold = p == 1;
        } else if (p == 7 || p == 27) {
            t->reverse = p == 7;
        } else if (p >= 30 && p <= 39 && p != 38) {
            t->fg = (uint8_t)(p == 39 ? 7 : p - 30);
        } else if (p >= 40 && p <= 49 && p != 48) {
            t->bg = (uint8_t)(p == 49 ? 0 : p - 40);
        }
    }
}

static void place(struct ui_term *t, uint64_t x, uint64_t y)
{
    t->x = (unsigned)(x < t->cols ? x : t->cols - 1);
    t->y = (unsigned)(y < t->rows ? y : t->rows - 1);
    t->wrap = false;
}

/* 0: from the cursor on; 1: up to it; 2: all. first, end: what "all" is. */
static void erase(struct ui_term *t, unsigned first, unsigned end)
{
    unsigned at = t->y * t->cols + t->x;

    if (t->param[0] <= 2)
        blank(t, t->param[0] ? first : at, t->param[0] == 1 ? at + 1 : end);
}

static void csi(struct ui_term *t, uint8_t ch)
{
    unsigned p = t->param[0], n = p ? p : 1, q = t->nr > 1 && t->param[1] ? t->param[1] : 1;

    switch (ch) {
    case 'A':
        place(t, t->x, t->y - (n < t->y ? n : t->y));
        break;
    case 'B':
        place(t, t->x, (uint64_t)t->y + n);
        break;
    case 'C':
        place(t, (uint64_t)t->x + n, t->y);
        break;
    case 'D':
        place(t, t->x - (n < t->x ? n : t->x), t->y);
        break;
    case 'G':
        place(t, n - 1, t->y);
        break;
    case 'd':
        place(t, t->x, n - 1);
        break;
    case 'H':
    case 'f':
        place(t, q - 1, n - 1);
        break;
    case 'J':
        erase(t, 0, t->cols * t->rows);
        break;
    case 'K':
        erase(t, t->y * t->cols, (t->y + 1) * t->cols);
        break;
    case 'm':
        colours(t);
        break;
    case 's':
        t->kept_x = t->x;
        t->kept_y = t->y;
        break;
    case 'u':
        place(t, t->kept_x, t->kept_y);
        break;
    default:
        break;
    }
}

static void control(struct ui_term *t, uint8_t ch)
{
    if (ch == '\r')
        place(t, 0, t->y);
    else if (ch == '\n')
        line_feed(t);
    else if (ch == '\b')
        place(t, t->x - (t->x > 0), t->y);
    else if (ch == '\t')
        place(t, t->x / TAB * TAB + TAB, t->y);
    else if (ch == ESC)
        t->state = ESCAPED;
}

static void in_csi(struct ui_term *t, uint8_t ch)
{
    unsigned *p = &t->param[t->nr - 1];

    if (ch >= '0' && ch <= '9') {
        *p = *p < 10000 ? *p * 10 + (ch - '0') : *p;
    } else if (ch == ';') {
        if (t->nr < MAX_PARAMS)
            t->param[t->nr++] = 0;
    } else if (ch >= 0x40 && ch < 0x7f) {
        t->state = PLAIN;
        csi(t, ch);
    } else if (ch < 0x20) {
        control(t, ch);
    }
}

void ui_term_write(struct ui_term *t, const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t ch = buf[i];

        if (t->state == CSI) {
            in_csi(t, ch);
        } else if (t->state == ESCAPED) {
            t->state = ch == '[' ? CSI : PLAIN;
            t->nr = 1;
            t->param[0] = 0;
        } else if (ch < 0x20) {
            control(t, ch);
        } else if (ch != 0x7f) {
            put(t, ch);
        }
    }
    show_cursor(t);
}

/* ---- what is typed ---- */

static void on_type(void *opaque, uint32_t keysym, bool ctrl)
{
    static const struct {
        uint16_t sym;
        const char *text;
    } keys[] = {{0xff08, "\x7f"},   {0xff09, "\t"},      {0xff0d, "\r"},      {0xff8d, "\r"},      {0xff1b, "\x1b"},
                {0xff50, "\x1b[H"}, {0xff51, "\x1b[D"},  {0xff52, "\x1b[A"},  {0xff53, "\x1b[C"},  {0xff54, "\x1b[B"},
                {0xff57, "\x1b[F"}, {0xffff, "\x1b[3~"}, {0xff55, "\x1b[5~"}, {0xff56, "\x1b[6~"}, {0xff63, "\x1b[2~"}};
    struct ui_term *t = opaque;
    uint8_t c = (uint8_t)keysym;

    if (keysym >= 0x20 && keysym < 0x7f) {
        if (ctrl && c >= '@')
            c &= 0x1f;
        t->fn(t->opaque, &c, 1);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
        if (keys[i].sym == keysym)
            t->fn(t->opaque, (const uint8_t *)keys[i].text, strlen(keys[i].text));
}

static void on_invalidate(void *opaque)
{
    struct ui_term *t = opaque;

    show(t, 0, 0, t->cols, t->rows);
}

struct ui_term *ui_term_new(void *machine_ctx, const char *name, unsigned cols, unsigned rows, bool first,
                            ui_term_input_fn *fn, void *opaque)
{
    static const struct ui_console_ops ops = {.invalidate = on_invalidate, .type = on_type};
    struct ui_term *t = xnew(struct ui_term);

    assert(cols && rows && cols <= UI_TERM_MAX && rows <= UI_TERM_MAX);
    t->fn = fn;
    t->opaque = opaque;
    t->cols = cols;
    t->rows = rows;
    t->fg = 7;
    t->cells = xcalloc((size_t)cols * rows, sizeof *t->cells);
    t->con = ui_console_new(machine_ctx, name, &ops, t);
    if (first)
        ui_console_first(machine_ctx, t->con);
    if (!ui_console_resize(t->con, (int)(cols * UI_CELL_W), (int)(rows * UI_CELL_H), NULL, 0)) {
        ui_term_free(t);
        return NULL;
    }
    blank(t, 0, cols * rows);
    return t;
}

void ui_term_free(struct ui_term *t)
{
    if (!t)
        return;
    ui_console_free(t->con);
    free(t->cells);
    free(t);
}
