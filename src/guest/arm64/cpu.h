/* Shared by the interpreter and the emitter: executing one word, system registers. Private to the room. */
#ifndef GUEST_ARM64_CPU_H
#define GUEST_ARM64_CPU_H

#include "guest/arm64/insn.h"

#define A64_SYSREG(op0, op1, crn, crm, op2) ((unsigned)((op0)&3) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))
/* op0 has its high bit fixed in MRS and MSR: bits 20..5 of the word. */
enum {
    A64_REG_NZCV = A64_SYSREG(3, 3, 4, 2, 0),
    A64_REG_FPCR = A64_SYSREG(3, 3, 4, 4, 0),
    A64_REG_FPSR = A64_SYSREG(3, 3, 4, 4, 1),
    A64_REG_TPIDR = A64_SYSREG(3, 3, 13, 0, 2),
    A64_REG_TPIDRRO = A64_SYSREG(3, 3, 13, 0, 3),
    A64_REG_CNTVCT = A64_SYSREG(3, 3, 14, 0, 2)
};
/* Executes w at c->pc. */
enum a64_res a64_exec(struct a64_cpu *c, uint32_t w);
/* Constant registers: identification and geometry. */
bool a64_idreg(unsigned reg, uint64_t *v);
uint64_t a64_cntvct(void);

#endif
