/* Shared by the emitters: the translation in progress, register access. Private to the room. */
#ifndef GUEST_ARM_XLAT_INT_H
#define GUEST_ARM_XLAT_INT_H

#include "fpu/fpu.h"
#include "guest/arm/insn.h"
#include "guest/arm/xlat.h"
#include "guest/arm64/xlat.h"

struct arm_xlat {
    struct ir *s;
    uint32_t pc, start; /* without the set's bit */
    const uint8_t *code, *more;
    size_t avail;
    bool thumb, fp_special, ended;
    bool jumped;         /* pc is the next instruction's already */
    unsigned it, it_put; /* ITSTATE of the next instruction; what the state holds */
    /* Conditional instructions that only write core registers write old or new: */
    bool select;
    unsigned select_cond;
    bool skipping;                  /* between SKIP_IF_FL and LABEL of a conditional instruction */
    uint64_t seen_first, seen_last; /* bytes that looking ahead has read */
    ir_val fpflags;                 /* FLAGS value that FPSCR's N Z C V hold, IR_NO: not known */
};
#define AX_OFF(r) (offsetof(struct arm_cpu, a.x) + 8 * (size_t)(r))
#define AV_OFF(r) (offsetof(struct arm_cpu, a.v) + 16 * (size_t)(r))
#define AC_OFF(f) offsetof(struct arm_cpu, f)

void exit_it(struct arm_xlat *x, unsigned it);

#define F(name) arm_gen_fn gen_##name;
ARM_GROUPS
#undef F

/* What reading PC gives: 8 or 4 ahead. */
static inline uint32_t arm_pc_read(const struct arm_insn *i)
{
    return i->pc + (i->thumb ? 4 : 8);
}
static inline ir_val get_r(struct arm_xlat *x, const struct arm_insn *i, unsigned r) /* I32 */
{
    return r == ARM_PC ? ir_c32(x->s, arm_pc_read(i)) : ir_trunc(x->s, ir_get(x->s, IR_I64, AX_OFF(r)));
}
static inline ir_val get_a(struct arm_xlat *x, const struct arm_insn *i, unsigned r) /* I64, to address with */
{
    return r == ARM_PC ? ir_c64(x->s, arm_pc_read(i) & ~3u) : ir_get(x->s, IR_I64, AX_OFF(r));
}
static inline uint64_t arm_next(const struct arm_insn *i) /* with the set's bit */
{
    return (uint64_t)(uint32_t)(i->pc + i->len) | i->thumb;
}
/* r is not PC. */
void put_r(struct arm_xlat *x, unsigned r, ir_val v);
/* A write of PC by data processing: A32 changes the set by bit 0, T32 does not. */
void put_pc_alu(struct arm_xlat *x, const struct arm_insn *i, ir_val v);
/* BX, loads of PC. ret: a return, as far as one can tell. */
void put_pc_bx(struct arm_xlat *x, ir_val v, bool ret);
/* Any register, as data processing writes it. */
void put_alu(struct arm_xlat *x, const struct arm_insn *i, unsigned r, ir_val v);
/* The second operand as I32; *carry (I32, bit 0), IR_NO when it is C as it was; NULL: not wanted. */
ir_val operand2(struct arm_xlat *x, const struct arm_insn *i, ir_val *carry);
/* Leaves with that code at this instruction. */
bool leave(struct arm_xlat *x, const struct arm_insn *i, unsigned code);
ir_val call1(struct arm_xlat *x, enum ir_type t, void *fn, ir_val a, ir_val b, ir_val c);

/* ---- vector registers ---- */
enum { ARM_SCR = 16 }; /* first scratch register, of X and V */
/* D and S registers in the low bits of a vector; what lies above is any. */
ir_val get_d(struct arm_xlat *x, unsigned d);
void put_d(struct arm_xlat *x, unsigned d, ir_val v);
ir_val get_s(struct arm_xlat *x, unsigned n);
void put_s(struct arm_xlat *x, unsigned n, ir_val v);
ir_val get_si(struct arm_xlat *x, unsigned n); /* as I32 */
void put_si(struct arm_xlat *x, unsigned n, ir_val v);
static inline ir_val get_q(struct arm_xlat *x, unsigned q)
{
    return ir_get(x->s, IR_V128, AV_OFF(q));
}
static inline void put_q(struct arm_xlat *x, unsigned q, ir_val v)
{
    ir_put(x->s, AV_OFF(q), v);
}
/* A64 instructions on scratch registers: remember where they begin (x->s->nr), put operands into V or X ARM_SCR + k,
 * emit words (a64_emit), and take the results. When only IR came of it, the scratch registers are never written. */
static inline void scratch_v(struct arm_xlat *x, unsigned k, ir_val v)
{
    ir_put(x->s, AV_OFF(ARM_SCR + k), v);
}
static inline void scratch_x(struct arm_xlat *x, unsigned k, ir_val v)
{
    ir_put(x->s, AX_OFF(ARM_SCR + k), v);
}
void scratch_done(struct arm_xlat *x, unsigned begin, const size_t *off, ir_val *out, unsigned nr, enum ir_type t);
ir_val scratch_result(struct arm_xlat *x, unsigned begin, unsigned k); /* one vector */
struct fpu_env arm_fpu(const struct arm_cpu *c, bool standard);

#endif
