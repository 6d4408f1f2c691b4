/* One processor in AArch32 state: reset, the PSR and FPSCR as whole registers. */
#include "guest/arm/state.h"

void arm_reset(struct arm_cpu *c)
{
    a64_reset(&c->a, NULL, NULL);
    c->q = c->ge = c->it = c->fpnzcv = 0;
}

uint32_t arm_psr(const struct arm_cpu *c)
{
    return a64_nzcv(&c->a) | (c->q ? ARM_PSR_Q : 0) | c->ge << 16 | (c->it & 3) << 25 | (c->it >> 2) << 10 |
           (c->a.pc & 1 ? ARM_PSR_T : 0) | ARM_PSR_USR;
}

void arm_set_psr(struct arm_cpu *c, uint32_t v)
{
    a64_set_nzcv(&c->a, v & 0xf0000000);
    c->q = v >> 27 & 1;
    c->ge = v >> 16 & 15;
    c->it = v & ARM_PSR_T ? (v >> 25 & 3) | (v >> 10 & 0x3f) << 2 : 0;
    c->a.pc = (c->a.pc & ~UINT64_C(1)) | (v & ARM_PSR_T ? 1 : 0);
}

uint32_t arm_fpscr(const struct arm_cpu *c)
{
    return c->fpnzcv | (c->a.fpcr & ARM_FPSCR_FPCR) | (a64_fpsr(&c->a) & ARM_FPSCR_FPSR);
}

void arm_set_fpscr(struct arm_cpu *c, uint32_t v)
{
    c->fpnzcv = v & 0xf0000000;
    a64_set_fpcr(&c->a, v & ARM_FPSCR_FPCR);
    a64_set_fpsr(&c->a, v & ARM_FPSCR_FPSR);
}
