/* -d in_asm, -d out_asm: blocks as they are made. Guest code of x86 as text, of others as bytes: their decoders make no
 * text (tools/jit_report.py --objdump does). */
#include "guest/x86/show.h"
#include "base/log.h"
#include "guest/x86/rw.h"
#include "user/linux/run.h"
#include "user/linux/x86_front.h"

#include <inttypes.h>
#include <stdio.h>

void lx_rt_show(const struct lx_rt *rt, const struct jit_block *b)
{
    bool x86 = rt->front == &lx_x86_front;
    int bits = b->mode & X86_RWM_64 ? X86_MODE_64 : X86_MODE_32;

    if (!b->host)
        return;
    log_at(LOG_IN_ASM, "IN: block at %016" PRIx64 ", mode %x, %u instructions", b->pc, b->mode, b->nr_insn);
    for (unsigned i = 0; log_on(LOG_IN_ASM) && i < b->nr_insn; i++) {
        uint64_t at = jit_block_pc(b, i), end = i + 1 < b->nr_insn ? jit_block_pc(b, i + 1) : b->pc + b->guest_len;
        const uint8_t *code = (const uint8_t *)(uintptr_t)at;
        char hex[2 * 16 + 1] = "";
        struct x86_insn in;

        if (end - at > X86_MAX_INSN) /* the next is elsewhere: a call of a leaf, or its return */
            end = at + min_u64(X86_MAX_INSN, 4096 - at % 4096);
        if (x86 && x86_decode(code, (size_t)(end - at), bits, &in) == X86_DECODE_OK) {
            x86_show_insn(LOG_IN_ASM, at, code, &in);
            continue;
        }
        for (unsigned k = 0; at + k < end && k < 16; k++)
            snprintf(hex + 2 * k, 3, "%02x", code[k]);
        log_write(LOG_IN_ASM, "  %016" PRIx64 "  %s", at, hex);
    }
    if (log_on(LOG_OUT_ASM))
        x86_show_host(b);
}
