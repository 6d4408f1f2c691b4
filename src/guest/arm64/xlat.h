/* From A64 code to the superblock IR. */
#ifndef GUEST_ARM64_XLAT_H
#define GUEST_ARM64_XLAT_H

#include "guest/arm64/insn.h"

/* Reasons of IR_EXIT_CODE. */
enum a64_exit {
    A64_EXIT_STEP = 1, /* the interpreter executes the instruction at pc */
    A64_EXIT_SVC,      /* pc is behind it */
    A64_EXIT_MODE      /* FPCR changed the translation mode: forget what predicts blocks of the other, go on at pc */
};

/* Builds the block at pc in s from at most avail bytes of code (they end within one 4 KiB page), at most max
 * instructions, in mode A64_MODE_*. False: nothing can be translated there (avail < 4). */
bool a64_translate(struct ir *s, uint64_t pc, unsigned mode, const uint8_t *code, size_t avail, unsigned max);

/* For the AArch32 front end, whose state lies in struct a64_cpu: emits one A64 instruction that accesses no memory and
 * does not branch. fp_special: floating point as FPCR of the moment says, by soft-float; else the default mode, inline.
 */
void a64_emit(struct ir *s, uint32_t w, bool fp_special);

/* The registers kept in host registers, ENGINE (D): 12 general and 12 vector ones. */
extern const struct ir_pin a64_pins[];
extern const unsigned a64_nr_pins;

#endif
