/* See guest/x86/show.h. */
#include "guest/x86/show.h"
#include "base/log.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

void x86_show_insn(unsigned log_class, uint64_t at, const uint8_t *code, const struct x86_insn *in)
{
    char text[128], bytes[2 * X86_MAX_INSN + 1];

    for (unsigned i = 0; i < in->len; i++)
        snprintf(bytes + 2 * i, 3, "%02x", code[i]);
    log_write(log_class, "  %016" PRIx64 "  %-22s  %s", at, bytes, x86_format(in, at, text, sizeof text));
}

void x86_show_host(const struct jit_block *b)
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
        x86_show_insn(LOG_OUT_ASM, (uint64_t)(uintptr_t)(b->host + at), b->host + at, &in);
    }
}
