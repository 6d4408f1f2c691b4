/* What the instruction handlers of the interpreter share: operands, flags, the handler tables.
 *
 * A handler runs with c->rip at its instruction and c->next_rip after it. It may fault (x86_raise*) at any point before
 * it has changed a register; memory it wrote by then must not matter when the instruction is run again. */
#ifndef GUEST_X86_INTERP_INT_H
#define GUEST_X86_INTERP_INT_H

#include "guest/x86/mmu_int.h"
#include "guest/x86/ops.h"

typedef void x86_fn(struct x86_cpu *c, const struct x86_insn *in);
/* By size of operand 0: 1, 2, 4, 8 bytes. */
struct x86_handler {
    x86_fn *f[4];
};
/* Each file fills in its instructions; NULL entries belong to another file. */
extern const struct x86_handler x86_ops_alu[X86_I_NR], x86_ops_bits[X86_I_NR], x86_ops_move[X86_I_NR],
    x86_ops_string[X86_I_NR], x86_ops_sys[X86_I_NR];
#define ALL_SIZES(fn)                                                                                                  \
    {                                                                                                                  \
        {                                                                                                              \
            fn, fn, fn, fn                                                                                             \
        }                                                                                                              \
    }
#define BY_SIZE(fn)                                                                                                    \
    {                                                                                                                  \
        {                                                                                                              \
            fn##8, fn##16, fn##32, fn##64                                                                              \
        }                                                                                                              \
    }

/* ---- registers ---- */
static inline uint64_t x86_mask(unsigned size)
{
    return size == 8 ? ~UINT64_C(0) : (UINT64_C(1) << (8 * size)) - 1;
}
static inline uint64_t x86_gpr(const struct x86_cpu *c, const struct x86_operand *op)
{
    if (unlikely(op->high8))
        return c->regs[op->reg & 3] >> 8 & 0xff;
    return c->regs[op->reg];
}
static inline void x86_gpr_set(struct x86_cpu *c, unsigned reg, unsigned size, uint64_t v)
{
    switch (size) {
    case 1:
        c->regs[reg] = (c->regs[reg] & ~UINT64_C(0xff)) | (v & 0xff);
        break;
    case 2:
        c->regs[reg] = (c->regs[reg] & ~UINT64_C(0xffff)) | (v & 0xffff);
        break;
    case 4:
        c->regs[reg] = (uint32_t)v;
        break;
    default:
        c->regs[reg] = v;
        break;
    }
}
static inline void x86_gpr_op_set(struct x86_cpu *c, const struct x86_operand *op, unsigned size, uint64_t v)
{
    if (unlikely(op->high8))
        c->regs[op->reg & 3] = (c->regs[op->reg & 3] & ~UINT64_C(0xff00)) | (v & 0xff) << 8;
    else
        x86_gpr_set(c, op->reg, size, v);
}

/* ---- memory operand ---- */
static inline uint64_t x86_ea_in(const struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t a = (uint64_t)in->disp;

    if (in->base < 16)
        a += c->regs[in->base];
    else if (in->base == X86_REG_RIP)
        a += c->rip + in->len;
    if (in->index < 16)
        a += c->regs[in->index] * in->scale;
    return in->adsz == 8 ? a : in->adsz == 4 ? (uint32_t)a : (uint16_t)a;
}
static inline uint64_t x86_lin(struct x86_cpu *c, int seg, uint64_t off, unsigned size, enum x86_access a)
{
    if (likely(c->mode == X86_MODE_64)) {
        uint64_t lin = seg >= X86_FS ? off + c->seg[seg].base : off;

        if (likely((uint64_t)((int64_t)(lin << 16) >> 16) == lin))
            return lin;
    }
    return x86_seg_lin(c, seg, off, size, a);
}
static inline uint64_t x86_mem_lin(struct x86_cpu *c, const struct x86_insn *in, unsigned size, enum x86_access a)
{
    return x86_lin(c, in->seg, x86_ea_in(c, in), size, a);
}

/* ---- operands ---- */
static inline uint64_t x86_rd(struct x86_cpu *c, const struct x86_insn *in, unsigned i, unsigned size)
{
    const struct x86_operand *op = &in->ops[i];

    if (op->kind == X86_OP_GPR)
        return x86_gpr(c, op) & x86_mask(size);
    if (op->kind == X86_OP_MEM)
        return x86_rd_lin(c, x86_mem_lin(c, in, size, X86_READ), size);
    return in->imm & x86_mask(size);
}
static inline void x86_wr(struct x86_cpu *c, const struct x86_insn *in, unsigned i, unsigned size, uint64_t v)
{
    const struct x86_operand *op = &in->ops[i];

    if (op->kind == X86_OP_GPR)
        x86_gpr_op_set(c, op, size, v);
    else
        x86_wr_lin(c, x86_mem_lin(c, in, size, X86_WRITE), size, v);
}

/* ---- stack: the address of the top after `delta` bytes were pushed (negative: popped) ---- */
static inline uint64_t x86_sp_after(const struct x86_cpu *c, int64_t push)
{
    uint64_t sp = c->regs[X86_RSP] - (uint64_t)push;

    if (likely(c->mode == X86_MODE_64))
        return sp;
    return c->seg[X86_SS].flags & X86_SEG_DB ? (uint32_t)sp : (uint16_t)sp;
}
static inline void x86_sp_set(struct x86_cpu *c, uint64_t sp)
{
    if (likely(c->mode == X86_MODE_64))
        c->regs[X86_RSP] = sp;
    else
        x86_gpr_set(c, X86_RSP, c->seg[X86_SS].flags & X86_SEG_DB ? 4 : 2, sp);
}
static inline void x86_push_in(struct x86_cpu *c, unsigned size, uint64_t v)
{
    uint64_t sp = x86_sp_after(c, size);

    x86_wr_lin(c, x86_lin(c, X86_SS, sp, size, X86_WRITE), size, v);
    x86_sp_set(c, sp);
}
static inline uint64_t x86_top(struct x86_cpu *c, unsigned size)
{
    return x86_rd_lin(c, x86_lin(c, X86_SS, x86_sp_after(c, 0), size, X86_READ), size);
}

/* ---- flags ---- */
/* f: AX after LAHF; SETO AL. */
static inline uint64_t x86_host_flags(unsigned f)
{
    return (f >> 8 & 0xd5) | (f & 1) << 11;
}
static inline void x86_flags_set(struct x86_cpu *c, uint64_t mask, uint64_t v)
{
    c->rflags = (c->rflags & ~mask) | (v & mask);
}
static inline bool x86_cond(uint64_t fl, unsigned cc)
{
    bool r;

    switch (cc >> 1 & 7) {
    case 0:
        r = fl & X86_OF;
        break;
    case 1:
        r = fl & X86_CF;
        break;
    case 2:
        r = fl & X86_ZF;
        break;
    case 3:
        r = fl & (X86_CF | X86_ZF);
        break;
    case 4:
        r = fl & X86_SF;
        break;
    case 5:
        r = fl & X86_PF;
        break;
    case 6:
        r = !(fl & X86_SF) != !(fl & X86_OF);
        break;
    default:
        r = (fl & X86_ZF) || !(fl & X86_SF) != !(fl & X86_OF);
        break;
    }
    return r != (cc & 1);
}
/* ---- transfers ---- */
static inline uint64_t x86_rip_mask(const struct x86_insn *in, uint64_t rip)
{
    return in->opsz == 8 ? rip : in->opsz == 4 ? (uint32_t)rip : (uint16_t)rip;
}
void x86_jump(struct x86_cpu *c, uint64_t to); /* near transfer: limit and canonical checks, sets next_rip */
/* Raises #UD or #NM where the instruction may not run in this mode (not per-CPL checks of system instructions). */
void x86_check_insn(struct x86_cpu *c, const struct x86_insn *in);
/* sys.c */
void x86_check_io(struct x86_cpu *c, uint16_t port, unsigned size); /* IOPL and the TSS bitmap; #GP */
uint32_t x86_io_in(struct x86_cpu *c, uint16_t port, unsigned size);
void x86_io_out(struct x86_cpu *c, uint16_t port, unsigned size, uint32_t v);

#endif
