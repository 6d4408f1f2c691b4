/* Every RISC-V instruction is compiled, whatever registers it names. proves: S346 (programs run) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../ir_rig.h"
#include "guest/riscv/riscv.h"

static const struct {
    uint32_t match, mask;
} rows[] = {
#define RV(name, match, mask) {match, mask},
#include "guest/riscv/insn.def"
#undef RV
};

static void every_row_compiles_with_any_registers(void **state)
{
    struct ir_rig r;
    struct rv_decoder d;
    unsigned failed = 0;

    ir_rig_up(&r, rv_pins, rv_nr_pins);
    r.s->forwards = true; /* as in user mode */
    r.env.nan = IR_NAN_DEFAULT;
    rv_decoder_init(&d);
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (unsigned k = 0; k < 200; k++) {
            uint32_t high = k % 2 ? 0x18u << 7 | 0x18u << 15 | 0x18u << 20 | 0x18u << 27 : 0;
            uint8_t code[8] = {0};

            put_le32(code, rows[i].match | (((uint32_t)ir_rig_rnd(&r) | high) & ~rows[i].mask));
            assert_true(rv_translate(&d, r.s, 0x1000, code, 8, NULL, 1));
            if (!ir_rig_compiles(&r)) {
                print_error("%s: %08x does not compile\n", rv_op_names[i + 1], get_le32(code));
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
