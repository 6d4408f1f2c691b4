/* Key names and scan codes against the IBM PS/2 tables. */
#include "unit.h"

#include "ui/keys.h"
#include "ui/ui.h"

static void names_map_both_ways_and_are_unique(void **state)
{
    for (unsigned k = 1; k < UI_KEY_NR; k++)
        assert_int_equal(ui_key_by_name(ui_key_name(k)), k);
    assert_int_equal(ui_key_by_name("no-such-key"), 0);
    assert_null(ui_key_name(UI_KEY_NR));
}

static void expect_codes(const char *name, const char *set1, unsigned n1, const char *set2, unsigned n2)
{
    uint8_t b[8];
    unsigned k = ui_key_by_name(name);

    assert_int_not_equal(k, 0);
    assert_int_equal(ui_key_set1(k, b), n1);
    assert_memory_equal(b, set1, n1);
    assert_int_equal(ui_key_set2(k, b), n2);
    assert_memory_equal(b, set2, n2);
}

static void scan_codes_are_those_of_the_tables(void **state)
{
    expect_codes("a", "\x1e", 1, "\x1c", 1);
    expect_codes("ret", "\x1c", 1, "\x5a", 1);
    expect_codes("f7", "\x41", 1, "\x83", 1);
    expect_codes("kp_enter", "\xe0\x1c", 2, "\xe0\x5a", 2);
    expect_codes("left", "\xe0\x4b", 2, "\xe0\x6b", 2);
    expect_codes("ctrl_r", "\xe0\x1d", 2, "\xe0\x14", 2);
    expect_codes("pause", "\xe1\x1d\x45\xe1\x9d\xc5", 6, "\xe1\x14\x77\xe1\xf0\x14\xf0\x77", 8);
}

/* A break code sets bit 7 of the last set 1 byte, so that bit must be free. */
static void set1_codes_leave_the_break_bit_free(void **state)
{
    uint8_t b[8];

    for (unsigned k = 1; k < UI_KEY_NR; k++)
        if (k != UI_KEY_PAUSE && ui_key_set1(k, b))
            assert_int_equal(b[ui_key_set1(k, b) - 1] & 0x80, 0);
}

UNIT_MAIN(cmocka_unit_test(names_map_both_ways_and_are_unique), cmocka_unit_test(scan_codes_are_those_of_the_tables),
          cmocka_unit_test(set1_codes_leave_the_break_bit_free))
