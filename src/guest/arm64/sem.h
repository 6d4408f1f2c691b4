/* The interpreter's functions, one per group of insn.def: execute w, whose operation is kind (enum a64_kind). They
 * change registers only when the result is A64_OK (or A64_DO_SVC, A64_ICACHE); npc is the next pc unless they branch.
 */
#ifndef GUEST_ARM64_SEM_H
#define GUEST_ARM64_SEM_H

#include "guest/arm64/cpu.h"

a64_sem_fn sem_adc;
a64_sem_fn sem_addsub_ext;
a64_sem_fn sem_addsub_imm;
a64_sem_fn sem_addsub_reg;
a64_sem_fn sem_adr;
a64_sem_fn sem_aes;
a64_sem_fn sem_barrier;
a64_sem_fn sem_bcond;
a64_sem_fn sem_bitfield;
a64_sem_fn sem_br;
a64_sem_fn sem_branch;
a64_sem_fn sem_cas;
a64_sem_fn sem_casp;
a64_sem_fn sem_cbz;
a64_sem_fn sem_ccmp;
a64_sem_fn sem_crc32;
a64_sem_fn sem_csel;
a64_sem_fn sem_cvtf_int;
a64_sem_fn sem_dot;
a64_sem_fn sem_dp1;
a64_sem_fn sem_dp2;
a64_sem_fn sem_dp3;
a64_sem_fn sem_dup;
a64_sem_fn sem_exc;
a64_sem_fn sem_excl_ld;
a64_sem_fn sem_excl_st;
a64_sem_fn sem_ext;
a64_sem_fn sem_extr;
a64_sem_fn sem_fccmp;
a64_sem_fn sem_fcma;
a64_sem_fn sem_fcmp;
a64_sem_fn sem_fcsel;
a64_sem_fn sem_fcvt;
a64_sem_fn sem_fcvt_int;
a64_sem_fn sem_fcvt_nl;
a64_sem_fn sem_fjcvtzs;
a64_sem_fn sem_fmov_gen;
a64_sem_fn sem_fmov_imm;
a64_sem_fn sem_fp1;
a64_sem_fn sem_fp2;
a64_sem_fn sem_fp3;
a64_sem_fn sem_fp_2misc;
a64_sem_fn sem_fp_3same;
a64_sem_fn sem_fp_across;
a64_sem_fn sem_fp_fixed;
a64_sem_fn sem_fp_idx;
a64_sem_fn sem_fp_pair;
a64_sem_fn sem_ins;
a64_sem_fn sem_ldr_lit;
a64_sem_fn sem_ldst_ord;
a64_sem_fn sem_ldst_pair;
a64_sem_fn sem_ldst_pairv;
a64_sem_fn sem_ldst_reg;
a64_sem_fn sem_ldst_simm;
a64_sem_fn sem_ldst_uimm;
a64_sem_fn sem_logic_imm;
a64_sem_fn sem_logic_reg;
a64_sem_fn sem_lse;
a64_sem_fn sem_movw;
a64_sem_fn sem_mrs;
a64_sem_fn sem_msr;
a64_sem_fn sem_nop;
a64_sem_fn sem_permute;
a64_sem_fn sem_sha;
a64_sem_fn sem_simd_2misc;
a64_sem_fn sem_simd_3same;
a64_sem_fn sem_simd_across;
a64_sem_fn sem_simd_addlp;
a64_sem_fn sem_simd_idx;
a64_sem_fn sem_simd_idxw;
a64_sem_fn sem_simd_logic;
a64_sem_fn sem_simd_narrow3;
a64_sem_fn sem_simd_pair;
a64_sem_fn sem_simd_shift;
a64_sem_fn sem_simd_shll;
a64_sem_fn sem_simd_shrn;
a64_sem_fn sem_simd_wide3;
a64_sem_fn sem_simd_xtn;
a64_sem_fn sem_sys;
a64_sem_fn sem_tbl;
a64_sem_fn sem_tbz;
a64_sem_fn sem_umov;
a64_sem_fn sem_vimm;
a64_sem_fn sem_vls_multi;
a64_sem_fn sem_vls_one;
a64_sem_fn sem_vls_rep;

/* Shared parts. */
uint64_t a64_extend(uint64_t v, unsigned option, unsigned shift); /* UXTB .. SXTX */
bool a64_cond(uint32_t nzcv, unsigned cond);                      /* nzcv in bits 31 to 28 */
/* System registers of programs; false: none. The ID registers are as Linux shows them. */
bool a64_sysreg_read(struct a64_cpu *c, unsigned reg, uint64_t *v);
bool a64_sysreg_write(struct a64_cpu *c, unsigned reg, uint64_t v);

#endif
