/* -d in_asm and -d out_asm: what a block was made of and what was made of it, as it is translated. Links still go to
 * their stubs then. */
#include "guest/x86/show.h"
#include "accel/dbt/dbt_int.h"
#include "base/log.h"

#include <inttypes.h>

static void show_guest(const struct jit_block *b, const uint8_t *code, size_t avail, int mode)
{
    struct x86_insn in;
    size_t at = 0;

    log_write(LOG_IN_ASM, "IN: block at %016" PRIx64 ", page %" PRIx64 ", mode %x, %u instructions", b->pc,
              b->place >> 12, b->mode, b->nr_insn);
    for (unsigned i = 0; i < b->nr_insn; i++) {
        at = (size_t)(jit_block_pc(b, i) - b->pc);
        if (at >= avail || x86_decode(code + at, avail - at, mode, &in) != X86_DECODE_OK)
            break;
        x86_show_insn(LOG_IN_ASM, b->pc + at, code + at, &in);
    }
}

void dbt_show_block(const struct jit_block *b, const uint8_t *code, size_t avail, int mode)
{
    if (log_on(LOG_IN_ASM))
        show_guest(b, code, avail, mode);
    if (log_on(LOG_OUT_ASM) && b->host)
        x86_show_host(b);
}
