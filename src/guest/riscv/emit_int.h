/* Inside the RISC-V front end. */
#ifndef GUEST_RISCV_EMIT_INT_H
#define GUEST_RISCV_EMIT_INT_H

#include "guest/riscv/riscv.h"

struct rv_emit {
    struct ir *s;
    uint64_t pc, next; /* of this instruction */
    uint32_t in;
    enum rv_op op;
    bool end;           /* the block ends here */
    unsigned const_reg; /* register the previous instruction set to const_val (AUIPC, LUI); 0 = none */
    uint64_t const_val;
};
#define RV_RD(e)  ((e)->in >> 7 & 31)
#define RV_RS1(e) ((e)->in >> 15 & 31)
#define RV_RS2(e) ((e)->in >> 20 & 31)
#define RV_RS3(e) ((e)->in >> 27)
#define RV_X(n)   (offsetof(struct rv_state, x) + 8 * (size_t)(n))
#define RV_F(n)   (offsetof(struct rv_state, f) + 16 * (size_t)(n))

static inline int64_t rv_imm_i(const struct rv_emit *e)
{
    return (int32_t)e->in >> 20;
}
static inline int64_t rv_imm_s(const struct rv_emit *e)
{
    return (int32_t)(e->in & 0xfe000000) >> 20 | (int32_t)(e->in >> 7 & 31);
}
static inline ir_val rv_get(struct rv_emit *e, unsigned r)
{
    return r ? ir_get(e->s, IR_I64, RV_X(r)) : ir_c64(e->s, 0);
}
static inline void rv_put(struct rv_emit *e, ir_val v)
{
    if (RV_RD(e))
        ir_put(e->s, RV_X(RV_RD(e)), v);
}
/* emit_fp.c: true when the instruction was one of its own. */
bool rv_emit_fp(struct rv_emit *e);
/* csr.c */
bool rv_emit_csr(struct rv_emit *e);

#endif
