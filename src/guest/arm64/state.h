/* The state of one AArch64 processor as translated code, the interpreter and the owners (user mode, later a vCPU) see
 * it.
 *
 * The context block of the IR comes first: GS points at it. While translated code runs, NZCV is in host flags or
 * jit.flags and the cumulative FP exceptions of inline code are in MXCSR; otherwise jit.flags and jit.mxcsr are
 * current. The functions of sem.h run with both current; they use no host floating point. */
#ifndef GUEST_ARM64_STATE_H
#define GUEST_ARM64_STATE_H

#include "base/bytes.h"
#include "jit/ir.h"

enum { A64_SP = 31, A64_ZR = 31 };
/* FPCR and FPSR bits. */
enum {
    A64_FPCR_AHP = 1 << 26,
    A64_FPCR_DN = 1 << 25,
    A64_FPCR_FZ = 1 << 24,
    A64_FPCR_RMODE = 3 << 22,
    A64_FPCR_FZ16 = 1 << 19,
    A64_FPCR_ALL = 0x07c80000,
    A64_FPSR_IOC = 1 << 0,
    A64_FPSR_DZC = 1 << 1,
    A64_FPSR_OFC = 1 << 2,
    A64_FPSR_UFC = 1 << 3,
    A64_FPSR_IXC = 1 << 4,
    A64_FPSR_IDC = 1 << 7,
    A64_FPSR_QC = 1 << 27,
    A64_FPSR_ALL = 0x0800009f
};

/* What an instruction came to, besides its effects on registers and memory. */
enum a64_res {
    A64_OK,
    A64_UNDEF,  /* not allocated, or not for user programs */
    A64_FAULT,  /* memory: fault_addr says where */
    A64_ALIGN,  /* address not aligned where it must be: fault_addr */
    A64_DO_SVC, /* pc is behind it */
    A64_DO_BRK, /* pc is at it */
    A64_ICACHE  /* done, and code at [code_addr, + code_len) may have changed */
};

struct a64_cpu;
/* Guest memory for the interpreter; false: fault_addr was set. exec: an instruction fetch. */
struct a64_mem_ops {
    bool (*read)(struct a64_cpu *c, uint64_t addr, void *buf, unsigned n, bool exec);
    bool (*write)(struct a64_cpu *c, uint64_t addr, const void *buf, unsigned n);
    /* Atomically: if n (1..16) bytes at addr equal old, write new_v; *done says which. old is updated to what was seen.
     */
    bool (*cas)(struct a64_cpu *c, uint64_t addr, void *old, const void *new_v, unsigned n, bool *done);
};

struct a64_cpu {
    struct ir_ctx jit; /* first: GS points here */
    uint64_t x[31];
    uint64_t sp, pc, npc;
    union ir_vec v[32];
    uint32_t fpcr, fpsr; /* fpsr: what helpers raised; MRS adds what MXCSR holds */
    uint64_t tpidr, tpidrro;
    /* Exclusive monitor: the address (~0: open) and what was read there. */
    uint64_t ex_addr, ex_val[2];
    uint64_t fault_addr, code_addr, code_len;
    union ir_vec qc;               /* not zero: inline code saturated (FPSR.QC) */
    union ir_vec tmp[4];           /* between the parts of one instruction */
    const struct a64_mem_ops *mem; /* borrowed */
    void *owner;                   /* borrowed */
};

static inline uint64_t a64_x(const struct a64_cpu *c, unsigned r) /* 31 reads as zero */
{
    return r == A64_ZR ? 0 : c->x[r];
}
static inline void a64_set_x(struct a64_cpu *c, unsigned r, uint64_t v)
{
    if (r != A64_ZR)
        c->x[r] = v;
}
static inline uint64_t a64_xsp(const struct a64_cpu *c, unsigned r) /* 31 is SP */
{
    return r == A64_SP ? c->sp : c->x[r];
}
static inline void a64_set_xsp(struct a64_cpu *c, unsigned r, uint64_t v)
{
    if (r == A64_SP)
        c->sp = v;
    else
        c->x[r] = v;
}
static inline uint32_t a64_nzcv(const struct a64_cpu *c) /* in bits 31 to 28 */
{
    return ir_nzcv_of(c->jit.flags);
}
static inline void a64_set_nzcv(struct a64_cpu *c, uint32_t nzcv)
{
    c->jit.flags = ir_flags_of(nzcv);
}

/* State as after reset for user programs. mem stays borrowed. */
void a64_reset(struct a64_cpu *c, const struct a64_mem_ops *mem, void *owner);
/* Executes the instruction at pc. On A64_OK and A64_ICACHE pc is the next one. */
enum a64_res a64_step(struct a64_cpu *c);
/* FPSR with what MXCSR holds, and setting both. Outside translated code. */
uint32_t a64_fpsr(const struct a64_cpu *c);
void a64_set_fpsr(struct a64_cpu *c, uint32_t v);
void a64_set_fpcr(struct a64_cpu *c, uint32_t v);
/* Does this FPCR ask for what inline code does not do (flush, default NaN)? Then blocks are made with A64_MODE_FP. */
static inline bool a64_fp_special(uint32_t fpcr)
{
    return fpcr & (A64_FPCR_DN | A64_FPCR_FZ);
}
enum { A64_MODE_FP = 1 };

#endif
