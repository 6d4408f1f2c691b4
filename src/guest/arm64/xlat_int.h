/* Shared by the emitters: the translation in progress, register access. Private to the room. */
#ifndef GUEST_ARM64_XLAT_INT_H
#define GUEST_ARM64_XLAT_INT_H

#include "guest/arm64/cpu.h"
#include "guest/arm64/xlat.h"

struct a64_xlat {
    struct ir *s;
    uint64_t pc, start;
    const uint8_t *code; /* of the block's first byte; avail of them */
    size_t avail;
    bool fp_special, ended;
    unsigned room;                  /* instructions the block may still have, this one too */
    uint64_t seen_first, seen_last; /* bytes that looking ahead has read */
};
#define X_OFF(r) (offsetof(struct a64_cpu, x) + 8 * (size_t)(r))
#define V_OFF(r) (offsetof(struct a64_cpu, v) + 16 * (size_t)(r))
#define C_OFF(f) offsetof(struct a64_cpu, f)

static inline enum ir_type width(uint32_t w)
{
    return w >> 31 ? IR_I64 : IR_I32;
}
static inline ir_val get_x(struct a64_xlat *x, unsigned r)
{
    return r == A64_ZR ? ir_c64(x->s, 0) : ir_get(x->s, IR_I64, X_OFF(r));
}
static inline ir_val get_t(struct a64_xlat *x, enum ir_type t, unsigned r)
{
    if (t == IR_I64)
        return get_x(x, r);
    return r == A64_ZR ? ir_c32(x->s, 0) : ir_trunc(x->s, get_x(x, r));
}
static inline ir_val get_xsp(struct a64_xlat *x, unsigned r)
{
    return ir_get(x->s, IR_I64, r == A64_SP ? C_OFF(sp) : X_OFF(r));
}
static inline ir_val wide(struct a64_xlat *x, ir_val v)
{
    return ir_type_of(x->s, v) == IR_I32 ? ir_zext(x->s, v) : v;
}
static inline void put_x(struct a64_xlat *x, unsigned r, ir_val v) /* I32 is zero-extended */
{
    if (r != A64_ZR)
        ir_put(x->s, X_OFF(r), wide(x, v));
}
static inline void put_xsp(struct a64_xlat *x, unsigned r, ir_val v)
{
    ir_put(x->s, r == A64_SP ? C_OFF(sp) : X_OFF(r), wide(x, v));
}
static inline ir_val get_v(struct a64_xlat *x, unsigned r)
{
    return ir_get(x->s, IR_V128, V_OFF(r));
}
static inline void put_v(struct a64_xlat *x, unsigned r, ir_val v)
{
    ir_put(x->s, V_OFF(r), v);
}

/* The interpreter's function for this instruction, which accesses no memory. */
void xlat_call_sem(struct a64_xlat *x, int row, uint32_t w);
/* Its first word: an LDP of two Q registers that moves the pointer, or an LDR of X registers. */
static inline bool xlat_may_loop(uint32_t w)
{
    return (w & 0xffff8000) == 0xadc10000 || (w & 0xffe0fc00) == 0xf8606800;
}
/* What stands in front of the instruction w at pc when it begins a loop that can be shortened. */
void xlat_loop(struct a64_xlat *x, uint32_t w);
/* True: emitted; false: xlat_call_sem does it. */
bool xlat_mem(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w);
bool xlat_fp(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w);
bool xlat_simd(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w);

#endif
