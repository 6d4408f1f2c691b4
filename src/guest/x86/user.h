/* An x86 CPU without a machine: one thread of a user-mode process, whose memory is the host's. */
#ifndef GUEST_X86_USER_H
#define GUEST_X86_USER_H

#include "guest/x86/state.h"

/* m64: a 64-bit process, else 32-bit code in flat segments. NULL: no memory. feat is copied. */
struct x86_cpu *x86_user_new(const struct x86_features *feat, bool m64);
uint64_t x86_user_xcr0(const struct x86_features *feat); /* what XGETBV shows */
void x86_user_free(struct x86_cpu *c);
/* Executes the instruction at rip, which can be fetched. -1: done; else the vector of the exception it raised (c->exc
 * has the rest), rip is at the instruction. Accesses to memory that is not there raise the host's signal. */
int x86_user_step(struct x86_cpu *c);
/* The number of the instruction at rip (ops.h) without executing it; its immediate in *imm and length in *len. */
unsigned x86_user_peek(struct x86_cpu *c, uint64_t *imm, unsigned *len);

#endif
