/* Key names and PC scan codes: lookups in the table ui/keys.def. Leaves out set 3, which no firmware or system asks
 * for. */
#include "ui/keys.h"
#include "ui/ui.h"

struct key {
    const char *name;
    uint32_t set1, set2;
};
static const struct key keys[UI_KEY_NR] = {
    {NULL, 0, 0},
#define K(suffix, name, set1, set2) {name, set1, set2},
#include "ui/keys.def"
#undef K
};

unsigned ui_key_by_name(const char *name)
{
    for (unsigned k = 1; k < UI_KEY_NR; k++)
        if (!strcmp(keys[k].name, name))
            return k;
    return UI_KEY_NONE;
}

const char *ui_key_name(unsigned key)
{
    return key < UI_KEY_NR ? keys[key].name : NULL;
}

/* Bytes of a code, most significant first. */
static unsigned put_code(uint32_t code, uint8_t out[8])
{
    unsigned n = 0;

    for (int shift = 16; shift >= 0; shift -= 8)
        if (code >> shift)
            out[n++] = (uint8_t)(code >> shift);
    return n;
}

unsigned ui_key_set1(unsigned key, uint8_t out[8])
{
    static const uint8_t pause[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};

    if (key == UI_KEY_PAUSE) {
        memcpy(out, pause, sizeof pause);
        return sizeof pause;
    }
    return key < UI_KEY_NR ? put_code(keys[key].set1, out) : 0;
}

unsigned ui_key_set2(unsigned key, uint8_t out[8])
{
    static const uint8_t pause[] = {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77};

    if (key == UI_KEY_PAUSE) {
        memcpy(out, pause, sizeof pause);
        return sizeof pause;
    }
    return key < UI_KEY_NR ? put_code(keys[key].set2, out) : 0;
}
