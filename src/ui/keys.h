/* Key numbers: enum ui_key, one UI_KEY_<suffix> per line of ui/keys.def; 0 is "no such key". */
#ifndef UI_KEYS_H
#define UI_KEYS_H

enum ui_key {
    UI_KEY_NONE,
#define K(suffix, name, set1, set2) UI_KEY_##suffix,
#include "ui/keys.def"
#undef K
    UI_KEY_NR
};

#endif
