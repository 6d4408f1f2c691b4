/* -d in_asm and -d out_asm: what a block was made of and what was made of it, as it is translated. Host code is shown
 * per guest instruction; what follows the last (stubs of links, slow paths) stands behind a line of its own. The text
 * is our decoder's: the rewriter emits nothing that it does not know. Links still go to their stubs then. */
#include "accel/dbt/dbt_int.h"
#include "base/log.h"

#include <inttypes.h>
#include <limits.h>

static void show_line(unsigned class_, uint64_t at, const uint8_t *code, const struct x86_insn *in)
{
    char text[128], bytes[2 * X86_MAX_INSN + 1];

    for (unsigned i = 0; i < in->len; i++)
        snprintf(bytes + 2 * i, 3, "%02x", code[i]);
    log_write(class_, "  %016" PRIx64 "  %-22s  %s", at, bytes, x86_format(in, at, text, sizeof text));
}

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
        show_line(LOG_IN_ASM, b->pc + at, code + at, &in);
    }
}

static void show_host(const struct jit_block *b)
{
    unsigned last = UINT_MAX;
    struct x86_insn in;

    log_write(LOG_OUT_ASM, "OUT: block at %016" PRIx64 ", %u bytes at %p", b->pc, b->len, (const void *)b->host);
    for (uint32_t at = 0; at < b->len; at += in.len) {
        unsigned i = at < b->map[2 * b->nr_insn] ? jit_block_insn_at(b, b->host + at) : b->nr_insn;

        if (i != last && i < b->nr_insn)
            log_write(LOG_OUT_ASM, " of %016" PRIx64, jit_block_pc(b, i));
        else if (i != last)
            log_write(LOG_OUT_ASM, " stubs");
        last = i;
        if (x86_decode(b->host + at, b->len - at, X86_MODE_64, &in) != X86_DECODE_OK) {
            log_write(LOG_OUT_ASM, "  %u bytes of data", b->len - at);
            return;
        }
        show_line(LOG_OUT_ASM, (uint64_t)(uintptr_t)(b->host + at), b->host + at, &in);
    }
}

void dbt_show_block(const struct jit_block *b, const uint8_t *code, size_t avail, int mode)
{
    if (log_on(LOG_IN_ASM))
        show_guest(b, code, avail, mode);
    if (log_on(LOG_OUT_ASM) && b->host)
        show_host(b);
}
