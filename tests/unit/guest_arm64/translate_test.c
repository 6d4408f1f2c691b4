/* Every A64 instruction is compiled, whatever registers it names: one that is not would be interpreted each time.
 * proves: S346 (programs run as fast as their instructions are translated) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../ir_rig.h"
#include "guest/arm64/insn.h"
#include "guest/arm64/xlat.h"

static void every_row_compiles_with_any_registers(void **state)
{
    struct ir_rig r;
    unsigned failed = 0;

    ir_rig_up(&r, a64_pins, a64_nr_pins);
    r.s->forwards = true; /* as in user mode */
    for (int row = 0; row < A64_NR_ROW; row++)
        for (unsigned k = 0; k < 200; k++) {
            uint32_t mask, value, w, high = k % 2 ? 0x18u | 0x18u << 5 | 0x18u << 16 | 0x18u << 10 : 0;
            uint8_t code[8] = {0};

            a64_row_bits(row, &mask, &value);
            w = value | (((uint32_t)ir_rig_rnd(&r) | high) & ~mask);
            if (a64_decode(w) != row)
                continue;
            put_le32(code, w);
            assert_true(a64_translate(r.s, 0x1000, 0, code, 8, 1));
            if (!ir_rig_compiles(&r)) {
                print_error("%s: %08x does not compile\n", a64_rows[row].name, w);
                failed++;
                break;
            }
        }
    assert_int_equal(failed, 0);
    ir_rig_down(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_row_compiles_with_any_registers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
