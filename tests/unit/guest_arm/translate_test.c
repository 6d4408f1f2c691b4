/* Every A32 and T32 instruction is compiled, whatever registers it names: there is no interpreter to do one that is
 * not. proves: S346 (programs run) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../ir_rig.h"
#include "guest/arm/insn.h"
#include "guest/arm/xlat.h"

/* The row's word as bytes; thumb: in T32. */
static void put_word(enum arm_table t, bool thumb, uint32_t w, uint8_t *p)
{
    if (!thumb) {
        put_le32(p, w);
        return;
    }
    if (t == ARM_T16) {
        put_le16(p, (uint16_t)w);
        return;
    }
    if (t == ARM_VEC && (w & 0xfe000000) == 0xf2000000)
        w = 0xef000000 | (w >> 24 & 1) << 28 | (w & 0x00ffffff);
    else if (t == ARM_VEC && (w & 0xff100000) == 0xf4000000)
        w = 0xf9000000 | (w & 0x00ffffff);
    put_le16(p, (uint16_t)(w >> 16));
    put_le16(p + 2, (uint16_t)w);
}

static unsigned row_fails(struct ir_rig *r, enum arm_table t, bool thumb, const struct arm_row *row)
{
    for (unsigned k = 0; k < 100; k++) {
        uint32_t w = row->value | row->ones;
        uint8_t code[8] = {0};
        struct arm_insn in;

        for (unsigned f = 0; f < row->nr; f++)
            w |= ((uint32_t)(ir_rig_rnd(r) | (k % 2 && row->f[f].width == 4 ? 8 : 0)) & ((1u << row->f[f].width) - 1))
                 << row->f[f].at;
        put_word(t, thumb, w, code);
        if (!arm_decode(&in, 0x1000, thumb, 0, code, 4) || in.row != row)
            continue;
        assert_true(arm_translate(r->s, 0x1000 | thumb, k & 4 ? A64_MODE_FP : 0, code, 8, NULL, 1));
        if (!ir_rig_compiles(r)) {
            print_error("%s: %08x does not compile\n", row->name, w);
            return 1;
        }
    }
    return 0;
}

static void every_row_compiles_with_any_registers(void **state)
{
    struct ir_rig r;
    unsigned failed = 0, nr;

    ir_rig_up(&r, arm_pins, arm_nr_pins);
    r.env.addr32 = true;
    for (enum arm_table t = ARM_A32; t < ARM_NR_TABLES; t++) {
        const struct arm_row *rows = arm_table_rows(t, &nr);

        for (unsigned i = 0; i < nr; i++) {
            failed += t != ARM_T16 && t != ARM_T32 ? row_fails(&r, t, false, &rows[i]) : 0;
            failed += t != ARM_A32 ? row_fails(&r, t, true, &rows[i]) : 0;
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
