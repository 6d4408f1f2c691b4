/* Text consoles: what is written is what the pixels show; what is typed is what a terminal sends. */
#include "unit.h"

#include "ui/term_int.h"

enum { COLS = 20, ROWS = 4 };
static const struct obj_class machine_class = {.name = "test-machine", .size = sizeof(struct obj)};

struct rig {
    struct obj *m;
    struct ui_term *t;
    char typed[64];
};

static void on_input(void *opaque, const uint8_t *buf, size_t len)
{
    struct rig *g = opaque;
    size_t n = strlen(g->typed);

    assert_true(n + len < sizeof g->typed);
    memcpy(g->typed + n, buf, len);
}

static void start(struct rig *g)
{
    *g = (struct rig){.m = obj_new(&machine_class, NULL)};
    g->t = ui_term_new(g->m, "term", COLS, ROWS, false, on_input, g);
    assert_non_null(g->t);
}

static void end(struct rig *g)
{
    ui_term_free(g->t);
    ui_unbind(g->m);
    obj_unref(g->m);
}

static void say(struct rig *g, const char *text)
{
    ui_term_write(g->t, (const uint8_t *)text, strlen(text));
}

/* The character whose dots are at (x, y); bright dots are those that differ from the cell's corner. */
static char seen(struct rig *g, unsigned x, unsigned y)
{
    const struct ui_surface *s = ui_console_surface(ui_console_nth(g->m, 0));
    const uint8_t *at = s->data + (size_t)(y * UI_CELL_H) * (size_t)s->stride + (size_t)x * UI_CELL_W * 4;
    uint8_t rows[7] = {0};

    for (unsigned py = 1; py < 15; py++)
        for (unsigned px = 1; px < 6; px++)
            if (memcmp(at + py * (size_t)s->stride + px * 4, at, 4) != 0)
                rows[(py - 1) / 2] |= (uint8_t)(1u << (5 - px));
    for (unsigned i = 0; i < ARRAY_LEN(ui_font); i++)
        if (!memcmp(ui_font[i], rows, sizeof rows))
            return (char)(' ' + i);
    return 0;
}

static void shows(struct rig *g, unsigned y, const char *text)
{
    char line[COLS + 1] = {0};

    for (unsigned x = 0; x < COLS; x++)
        line[x] = seen(g, x, y);
    for (unsigned n = COLS; n && line[n - 1] == ' '; n--)
        line[n - 1] = 0;
    assert_string_equal(line, text);
}

static void every_character_has_a_look_of_its_own(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(ui_font); i++)
        for (unsigned k = 0; k < i; k++)
            assert_memory_not_equal(ui_font[i], ui_font[k], sizeof ui_font[i]);
}

/* proves: F-MON-01 */
static void text_wraps_and_scrolls(void **state)
{
    struct rig g;

    start(&g);
    say(&g, "one\r\ntwo\r\n01234567890123456789abc");
    shows(&g, 0, "one");
    shows(&g, 2, "01234567890123456789");
    shows(&g, 3, "abc");
    say(&g, "\n");
    shows(&g, 0, "two");
    shows(&g, 3, "");
    end(&g);
}

static void sequences_move_and_erase(void **state)
{
    struct rig g;

    start(&g);
    say(&g, "(qemu) infp\b\x1b[Ko\x1b[3D\x1b[2CX");
    shows(&g, 0, "(qemu) infX");
    say(&g, "\x1b[2;5Hhere\x1b[1Aup\x1b[99;99H.\x1b[s\x1b[H\x1b[u!");
    shows(&g, 0, "(qemu) iupX");
    shows(&g, 1, "    here");
    shows(&g, 3, "                   !");
    say(&g, "\x1b[2J\x1b[H\x1b[31;1;7mred\x1b[0m\tplain\x1b[?25l");
    shows(&g, 0, "red     plain");
    shows(&g, 3, "");
    end(&g);
}

static void odd_sequences_stay_inside(void **state)
{
    struct rig g;
    uint32_t x = 1;

    start(&g);
    for (unsigned i = 0; i < 200000; i++) {
        static const char alphabet[] = "\x1b\x1b[[[;;0129ABCDGdHfJKmsu\r\n\b\t x\xff";
        char c[2] = {0};

        x = x * 1103515245 + 12345;
        c[0] = alphabet[(x >> 16) % (sizeof alphabet - 1)];
        say(&g, c);
    }
    say(&g, "\x1b[0m\x1b[2J\x1b[Hstill here");
    say(&g, "m\x1b[2J\x1b[Hstill here");
    shows(&g, 0, "still here");
    end(&g);
}

static void keys_are_what_a_terminal_sends(void **state)
{
    struct rig g;
    struct ui_console *c;

    start(&g);
    c = ui_console_nth(g.m, 0);
    assert_null(ui_console_get(g.m, 0)); /* it is no adapter's */
    assert_true(ui_console_is_text(c));
    ui_console_type(c, 'A', false);
    ui_console_type(c, 0xff0d, false);
    ui_console_type(c, 'c', true);
    ui_console_type(c, 0xff52, false);
    ui_console_type(c, 0xffe3, true); /* Ctrl itself says nothing */
    assert_string_equal(g.typed, "A\r\x03\x1b[A");
    end(&g);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_character_has_a_look_of_its_own),
        cmocka_unit_test(text_wraps_and_scrolls),
        cmocka_unit_test(sequences_move_and_erase),
        cmocka_unit_test(odd_sequences_stay_inside),
        cmocka_unit_test(keys_are_what_a_terminal_sends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
