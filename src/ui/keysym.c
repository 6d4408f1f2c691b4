/* Keysyms to keys, for clients that do not send scan codes: the layout of a US keyboard. Letters and shifted symbols
 * map to the key that carries them; the shift state comes from the client's own shift events. */
#include "ui/keys.h"
#include "ui/ui.h"

static unsigned ascii_key(uint32_t c)
{
    static const struct {
        char chars[3]; /* plain and shifted */
        uint8_t key;
    } symbols[] = {{"1!", UI_KEY_1},
                   {"2@", UI_KEY_2},
                   {"3#", UI_KEY_3},
                   {"4$", UI_KEY_4},
                   {"5%", UI_KEY_5},
                   {"6^", UI_KEY_6},
                   {"7&", UI_KEY_7},
                   {"8*", UI_KEY_8},
                   {"9(", UI_KEY_9},
                   {"0)", UI_KEY_0},
                   {"-_", UI_KEY_MINUS},
                   {"=+", UI_KEY_EQUAL},
                   {"[{", UI_KEY_BRACKET_LEFT},
                   {"]}", UI_KEY_BRACKET_RIGHT},
                   {";:", UI_KEY_SEMICOLON},
                   {"'\"", UI_KEY_APOSTROPHE},
                   {"`~", UI_KEY_GRAVE_ACCENT},
                   {"\\|", UI_KEY_BACKSLASH},
                   {",<", UI_KEY_COMMA},
                   {".>", UI_KEY_DOT},
                   {"/?", UI_KEY_SLASH},
                   {"  ", UI_KEY_SPC}};
    char name[2] = {(char)c, 0};

    if (c >= 'A' && c <= 'Z')
        name[0] = (char)(c - 'A' + 'a');
    if (name[0] >= 'a' && name[0] <= 'z')
        return ui_key_by_name(name);
    for (unsigned i = 0; i < ARRAY_LEN(symbols); i++)
        if ((char)c == symbols[i].chars[0] || (char)c == symbols[i].chars[1])
            return symbols[i].key;
    return UI_KEY_NONE;
}

unsigned ui_key_by_keysym(uint32_t keysym)
{
    static const struct {
        uint16_t sym;
        uint8_t key;
    } table[] = {
#define Y(sym, suffix) {sym, UI_KEY_##suffix},
#include "ui/keysym.def"
#undef Y
    };

    if (keysym >= 0x20 && keysym < 0x7f)
        return ascii_key(keysym);
    for (unsigned i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].sym == keysym)
            return table[i].key;
    return UI_KEY_NONE;
}

unsigned ui_key_by_set1(unsigned code)
{
    for (unsigned k = 1; k < UI_KEY_NR; k++) {
        uint8_t b[8];
        unsigned n = ui_key_set1(k, b);

        if ((n == 1 && b[0] == code) || (n == 2 && (0x80u | b[1]) == code) || (n == 2 && 0xe000u + b[1] == code))
            return k;
    }
    return UI_KEY_NONE;
}
