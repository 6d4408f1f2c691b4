/* RV64GC (IMAFDC, Zba Zbb Zbs Zicond, Zicsr's user part, Zifencei): state, decoder, and translation to the superblock
 * IR.
 *
 * Floating point is exact: NaN boxing, canonical NaNs, sticky flags (MXCSR holds fflags and frm). Left out: the V and
 * privileged parts; round-to-nearest-max-magnitude rounds arithmetic like nearest-even (conversions to integers do it
 * right); a reserved dynamic rounding mode is not trapped. An instruction that continues on the next page is translated
 * with the first page; a change of its second half is seen when the guest flushes the instruction cache there, as the
 * architecture asks, or unmaps the page. */
#ifndef GUEST_RISCV_RISCV_H
#define GUEST_RISCV_RISCV_H

#include "jit/ir.h"

enum rv_op {
    RV_ILLEGAL,
#define RV(name, match, mask) RV_##name,
#include "guest/riscv/insn.def"
#undef RV
    RV_NR_OPS
};
extern const char *const rv_op_names[RV_NR_OPS];

/* What GS points at while translated code runs; all guest state is here while outside. */
struct rv_state {
    struct ir_ctx ir;
    uint64_t x[32];
    union ir_vec f[32] __attribute__((aligned(16))); /* low 64 bits */
    uint64_t pc;
    uint64_t res_addr, res_val; /* what LR loaded; res_addr ~0: nothing */
    uint64_t orig_a0;           /* at the last ECALL, for who restarts it */
    uint32_t frm;               /* as written; MXCSR has the rounding it stands for */
};

/* Exit codes. */
enum { RV_CODE_ECALL = 1 /* pc behind it */, RV_CODE_EBREAK, RV_CODE_ILLEGAL, RV_CODE_FENCE_I /* pc behind it */ };

extern const struct ir_pin rv_pins[];
extern const unsigned rv_nr_pins;

/* Rows of insn.def by major opcode. Filled once, then only read. */
struct rv_decoder {
    uint8_t row[32][40];
    uint8_t nr[32];
};
void rv_decoder_init(struct rv_decoder *d);
enum rv_op rv_decode(const struct rv_decoder *d, uint32_t insn);
/* The 32-bit equivalent of a compressed instruction; 0: there is none. */
uint32_t rv_expand(uint16_t c);

/* Everything to its state after exec: MXCSR, reservation. ir_ctx_init has been done. */
void rv_reset(struct rv_state *s);
uint32_t rv_get_fcsr(const struct rv_state *s);
void rv_set_fcsr(struct rv_state *s, uint32_t v);

/* Emits the block at pc from avail bytes (2 more may be read when spill2 is given: the first bytes of the next page;
 * NULL: not readable) into ir. False: not even the first instruction is complete. max: most instructions. */
bool rv_translate(const struct rv_decoder *d, struct ir *ir, uint64_t pc, const uint8_t *code, size_t avail,
                  const uint8_t *spill2, unsigned max);

#endif
