/* Code in the log (-d in_asm, -d out_asm), of x86 guests and of the host. */
#ifndef GUEST_X86_SHOW_H
#define GUEST_X86_SHOW_H

#include "guest/x86/insn.h"
#include "jit/cache.h"

/* A line of one instruction at the address. */
void x86_show_insn(unsigned log_class, uint64_t at, const uint8_t *code, const struct x86_insn *in);
/* "OUT: ..." and the host code of a block, in LOG_OUT_ASM: per guest instruction; what follows the last (stubs of
 * links, slow paths) stands behind a line of its own. The text is our decoder's. */
void x86_show_host(const struct jit_block *b);

#endif
