/* The state of a processor in AArch32 state, as translated code and its owners (user mode, later a vCPU) see it.
 *
 * It lies in the AArch64 state the way the architecture maps it there (DDI 0487 D1.20.1, "Mapping of the AArch32
 * registers"): R0 to R12 are X0 to X12, SP is X13, LR X14, each with zeros above bit 31; Q0 to Q15 are V0 to V15, D and
 * S registers parts of them; FPSCR is FPCR and FPSR. X16 to X20 and V16 to V20 serve as scratch of one instruction.
 *
 * A pc carries the instruction set in bit 0 (1: T32), as branch targets do, everywhere but in the PSR: blocks of the
 * two sets never meet, and interworking needs no mode. */
#ifndef GUEST_ARM_STATE_H
#define GUEST_ARM_STATE_H

#include "guest/arm64/state.h"

enum { ARM_SP = 13, ARM_LR = 14, ARM_PC = 15 };
/* PSR */
enum { ARM_PSR_T = 1 << 5, ARM_PSR_Q = 1 << 27, ARM_PSR_USR = 0x10, ARM_PSR_E = 1 << 9 };
/* Bits of FPSCR besides NZCV that are FPCR's and FPSR's. */
enum { ARM_FPSCR_FPCR = 0x07c00000, ARM_FPSCR_FPSR = 0x0800009f };

struct arm_cpu {
    struct a64_cpu a; /* first: GS points here. a.pc has the set in bit 0; a.tpidrro: TPIDRURO, a.tpidr: TPIDRURW */
    uint32_t q;       /* 0 or 1: PSR.Q */
    uint32_t ge;      /* PSR.GE, in bits 3 to 0 */
    uint32_t it;      /* ITSTATE */
    uint32_t fpnzcv;  /* FPSCR's N Z C V, in bits 31 to 28 */
    uint32_t orig_r0; /* the owner's: R0 at the last system call */
};

/* State of a program that starts. */
void arm_reset(struct arm_cpu *c);
/* Outside translated code. The PSR: N Z C V Q GE IT T and user mode; setting it takes those and the set into a.pc. */
uint32_t arm_psr(const struct arm_cpu *c);
void arm_set_psr(struct arm_cpu *c, uint32_t v);
uint32_t arm_fpscr(const struct arm_cpu *c);
void arm_set_fpscr(struct arm_cpu *c, uint32_t v);
/* Translation mode of the state: A64_MODE_FP, and ITSTATE above. */
static inline unsigned arm_mode(const struct arm_cpu *c)
{
    return (a64_fp_special(c->a.fpcr) ? A64_MODE_FP : 0) | c->it << 8;
}

#endif
