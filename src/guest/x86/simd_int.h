/* Shared by simd.c, simd_mem.c, x87.c and xsave.c. */
#ifndef GUEST_X86_SIMD_INT_H
#define GUEST_X86_SIMD_INT_H

#include "guest/x86/cpuid_int.h"
#include "guest/x86/state.h"

/* Linear address of the instruction's memory operand, checked for size bytes. */
uint64_t x86_simd_lin(struct x86_cpu *c, const struct x86_insn *in, unsigned size, enum x86_access a);

/* VEX.W or EVEX.W as it stands in the bytes, whatever the mode. */
bool x86_vex_w(const struct x86_insn *in);
/* VEX.W for running it on the host: outside 64-bit mode W chooses the form, but not the size of a general operand. */
bool x86_vex_w_host(const struct x86_insn *in);

/* ---- simd_mem.c: instructions whose memory operand is touched element by element ---- */
/* VMASKMOV, VPMASKMOV, gathers, MASKMOVQ, MASKMOVDQU. False: not one of them. */
bool x86_simd_elementwise(struct x86_cpu *c, const struct x86_insn *in);
/* The bits of its mask that count; all where it has none. */
uint64_t x86_simd_mask(const struct x86_cpu *c, const struct x86_insn *in);
/* EVEX: the mask leaves something out of the memory operand, so that the next three are to be used. They touch what is
 * enabled, in the buffer too, at the place it has there. */
bool x86_simd_masked(const struct x86_cpu *c, const struct x86_insn *in);
void x86_simd_masked_load(struct x86_cpu *c, const struct x86_insn *in, uint8_t *buf);
/* Raises the fault that writing would; nothing is written before all is known to go well. */
void x86_simd_masked_probe(struct x86_cpu *c, const struct x86_insn *in);
void x86_simd_masked_store(struct x86_cpu *c, const struct x86_insn *in, const uint8_t *buf);
/* Linear address of the memory operand without any check. */
uint64_t x86_simd_address(struct x86_cpu *c, const struct x86_insn *in);

/* ---- x87.c ---- */
/* FNSTENV FLDENV FNSAVE FRSTOR in the form of the current mode. False: not one of them. */
bool x86_x87_env(struct x86_cpu *c, const struct x86_insn *in);
/* True for the x87 instructions that do not first report a pending exception. */
bool x86_x87_nowait(const struct x86_insn *in);
/* Remembers the instruction in FIP, FDP and FOP unless it is a control instruction. */
void x86_x87_note(struct x86_cpu *c, const struct x86_insn *in);
/* Brings FSW.ES and FSW.B in line with the exception flags and masks. */
void x86_x87_summary(struct x86_fx *fx);
/* Moves TOP while the physical registers stay what they are: fx.st holds ST(0) first. */
void x86_x87_set_top(struct x86_fx *fx, unsigned top);
/* FNINIT. */
void x86_x87_init(struct x86_fx *fx);

/* ---- xsave.c ---- */
/* LDMXCSR STMXCSR FXSAVE FXRSTOR XSAVE* XRSTOR*. False: not one of them. */
bool x86_xstate_exec(struct x86_cpu *c, const struct x86_insn *in);

#endif
