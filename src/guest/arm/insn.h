/* Decoding of A32 and T32: bytes in, one struct arm_insn out, whichever set they are of. Pure.
 *
 * The tables are a32.def, t16.def, t32.def and vec.def (by tools/gen_arm.py); the form of a row says what is made of
 * its fields, so that the emitters see one instruction with registers, an immediate or a shifted register, an offset, a
 * condition. */
#ifndef GUEST_ARM_INSN_H
#define GUEST_ARM_INSN_H

#include "guest/arm/enum_gen.h"
#include "guest/arm/state.h"

#define F(name) ARM_F_##name,
enum arm_field { ARM_FIELDS ARM_NR_FIELD };
#undef F
#define F(name) ARM_FORM_##name,
enum arm_form { ARM_FORMS ARM_NR_FORM };
#undef F

enum { ARM_MAX_FIELDS = 11 };
struct arm_xlat;
struct arm_insn;
/* Emits the instruction; false: it is no instruction (a combination of fields that is not allocated). */
typedef bool arm_gen_fn(struct arm_xlat *x, const struct arm_insn *i);
struct arm_row {
    const char *name;
    uint32_t mask, value; /* of 16 or 32 bits */
    uint16_t kind, form;  /* enum arm_kind, enum arm_form */
    arm_gen_fn *gen;
    uint32_t a64;  /* see vec.def */
    uint32_t ones; /* ignored bits that should be one */
    uint8_t nr;
    struct {
        uint8_t field, at, width;
    } f[ARM_MAX_FIELDS];
};
enum arm_table { ARM_A32, ARM_T16, ARM_T32, ARM_VEC, ARM_NR_TABLES };
/* The rows of a table, for tests and coverage. */
const struct arm_row *arm_table_rows(enum arm_table t, unsigned *nr);

enum arm_shift { ARM_SH_LSL, ARM_SH_LSR, ARM_SH_ASR, ARM_SH_ROR, ARM_SH_RRX };
enum arm_op2 { ARM_OP_IMM, ARM_OP_SHIFTED, ARM_OP_SHIFTED_REG };
enum { ARM_CARRY_KEPT = 2 };
struct arm_insn {
    const struct arm_row *row;
    uint32_t w;  /* A32, or of T32 what the row's table is about */
    uint32_t pc; /* where it lies */
    uint8_t len; /* bytes */
    bool thumb;
    uint8_t it;   /* ITSTATE when it executes */
    uint8_t cond; /* 14: always */
    uint16_t kind;
    /* made by the form */
    uint8_t op2;           /* enum arm_op2: imm, or Rm shifted */
    uint8_t shift, amount; /* enum arm_shift */
    uint8_t carry;         /* of an immediate: 0, 1, or ARM_CARRY_KEPT */
    uint8_t log2;          /* size of an exclusive or ordered access */
    uint32_t imm;
    union { /* the fields of the encoding; those it does not have are 0 */
        uint32_t field[ARM_NR_FIELD];
        struct {
#define F(name) uint32_t name;
            ARM_FIELDS
#undef F
        };
    };
};

/* The instruction at pc from its code (n bytes, at least 2; 4 in A32). it: ITSTATE. False: not an instruction (in->len
 * is right all the same; 0: more bytes are needed). */
bool arm_decode(struct arm_insn *in, uint32_t pc, bool thumb, unsigned it, const uint8_t *code, size_t n);
/* ITSTATE of the next instruction. */
static inline unsigned arm_it_next(unsigned it)
{
    return it & 7 ? (it & 0xe0) | (it << 1 & 0x1f) : 0;
}

#endif
