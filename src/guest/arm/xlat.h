/* From A32 and T32 code to the superblock IR (addr32: addresses are taken modulo 2^32). */
#ifndef GUEST_ARM_XLAT_H
#define GUEST_ARM_XLAT_H

#include "guest/arm/state.h"

/* Reasons of IR_EXIT_CODE. */
enum arm_exit {
    ARM_EXIT_SVC = 2,   /* pc is behind it */
    ARM_EXIT_MODE = 3,  /* the translation mode changed: forget what predicts blocks of the other, go on at pc */
    ARM_EXIT_UNDEF = 4, /* pc is at it */
    ARM_EXIT_BKPT = 5,
    ARM_EXIT_FETCH = 6 /* the instruction's second half, at the next page, cannot be read */
};

/* Builds the block at pc (bit 0: T32) in s. code: its bytes, avail of them, all within one 4 KiB page; more: bytes that
 * follow in the next page (NULL: they cannot be fetched), used only for an instruction that lies on both. At most max
 * instructions, in mode arm_mode(). False: no byte can be translated. */
bool arm_translate(struct ir *s, uint64_t pc, unsigned mode, const uint8_t *code, size_t avail, const uint8_t *more,
                   unsigned max);

/* ITSTATE behind the T32 instruction at pc, which runs with `it`: ITSTATE is in the state only where a block is left by
 * its own code. After a fault the owner finds it, from the block's mode on, with this. */
unsigned arm_it_behind(uint32_t pc, unsigned it, const uint8_t *code);

/* The registers kept in host registers. */
extern const struct ir_pin arm_pins[];
extern const unsigned arm_nr_pins;

#endif
