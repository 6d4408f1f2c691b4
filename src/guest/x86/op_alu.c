/* Integer arithmetic, logic and shifts (SDM vol. 2). Each handler lets the host's own instruction compute result and
 * flags, so that flags which the manual leaves undefined are those of a real CPU. */
#include "guest/x86/interp_int.h"

#define SIZES(M, ...)                                                                                                  \
    M(8, uint8_t, "b", __VA_ARGS__)                                                                                    \
    M(16, uint16_t, "w", __VA_ARGS__) M(32, uint32_t, "l", __VA_ARGS__) M(64, uint64_t, "q", __VA_ARGS__)

/* The destination of a read-modify-write: a register, host memory, or memory that must be loaded and stored. CALC
 * computes r from a (type T) and sets fl; DONE runs when the result is in place. */
#define RMW(T, CALC, DONE)                                                                                             \
    do {                                                                                                               \
        const struct x86_operand *op_ = &in->ops[0];                                                                   \
        T a, r;                                                                                                        \
                                                                                                                       \
        if (likely(op_->kind == X86_OP_GPR)) {                                                                         \
            a = (T)x86_gpr(c, op_);                                                                                    \
            CALC;                                                                                                      \
            x86_gpr_op_set(c, op_, sizeof(T), r);                                                                      \
        } else {                                                                                                       \
            uint64_t lin_ = x86_mem_lin(c, in, sizeof(T), X86_WRITE);                                                  \
            T *p_ = x86_rmw_ptr(c, lin_, sizeof(T));                                                                   \
                                                                                                                       \
            if (unlikely(!p_)) {                                                                                       \
                a = (T)x86_ld(c, lin_, sizeof(T));                                                                     \
                CALC;                                                                                                  \
                x86_st(c, lin_, sizeof(T), r);                                                                         \
            } else if (in->lock) {                                                                                     \
                a = __atomic_load_n(p_, __ATOMIC_SEQ_CST);                                                             \
                do {                                                                                                   \
                    CALC;                                                                                              \
                } while (!__atomic_compare_exchange_n(p_, &a, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));          \
                x86_rmw_done(c, lin_, sizeof(T));                                                                      \
            } else {                                                                                                   \
                a = *p_;                                                                                               \
                CALC;                                                                                                  \
                *p_ = r;                                                                                               \
                x86_rmw_done(c, lin_, sizeof(T));                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        DONE;                                                                                                          \
    } while (0)

/* ---- two-operand arithmetic ---- */
#define BINOP(bits, T, s, name)                                                                                        \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        T b = (T)x86_rd(c, in, 1, sizeof(T));                                                                          \
        uint16_t f = 0;                                                                                                \
                                                                                                                       \
        RMW(T, (r = a, ({                                                                                              \
                    __asm__(#name s " %2,%0; lahf; seto %%al" : "+q"(r), "=&a"(f) : "qm"(b) : "cc");                   \
                })),                                                                                                   \
            x86_flags_set(c, X86_ARITH, x86_host_flags(f)));                                                           \
    }
#define BINOP_CF(bits, T, s, name)                                                                                     \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        T b = (T)x86_rd(c, in, 1, sizeof(T));                                                                          \
        uint32_t fl = (uint32_t)c->rflags;                                                                             \
        uint16_t f = 0;                                                                                                \
                                                                                                                       \
        RMW(T, (r = a, ({                                                                                              \
                    __asm__("btl $0,%3; " #name s " %2,%0; lahf; seto %%al"                                            \
                            : "+q"(r), "=&a"(f)                                                                        \
                            : "qm"(b), "r"(fl)                                                                         \
                            : "cc");                                                                                   \
                })),                                                                                                   \
            x86_flags_set(c, X86_ARITH, x86_host_flags(f)));                                                           \
    }
#define CMPOP(bits, T, s, name)                                                                                        \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        T a = (T)x86_rd(c, in, 0, sizeof(T)), b = (T)x86_rd(c, in, 1, sizeof(T));                                      \
        uint16_t f;                                                                                                    \
                                                                                                                       \
        __asm__(#name s " %2,%1; lahf; seto %%al" : "=&a"(f) : "q"(a), "qm"(b) : "cc");                                \
        x86_flags_set(c, X86_ARITH, x86_host_flags(f));                                                                \
    }
#define UNOP(bits, T, s, name, mask)                                                                                   \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        uint16_t f = 0;                                                                                                \
                                                                                                                       \
        RMW(T, (r = a, ({                                                                                              \
                    __asm__(#name s " %0; lahf; seto %%al" : "+q"(r), "=&a"(f) : : "cc");                              \
                })),                                                                                                   \
            x86_flags_set(c, mask, x86_host_flags(f)));                                                                \
    }
SIZES(BINOP, add)
SIZES(BINOP, sub)
SIZES(BINOP, and)
SIZES(BINOP, or)
SIZES(BINOP, xor)
SIZES(BINOP_CF, adc)
SIZES(BINOP_CF, sbb)
SIZES(CMPOP, cmp)
SIZES(CMPOP, test)
SIZES(UNOP, inc, X86_ARITH & ~X86_CF)
SIZES(UNOP, dec, X86_ARITH & ~X86_CF)
SIZES(UNOP, neg, X86_ARITH)
#define NOTOP(bits, T, s, name)                                                                                        \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        RMW(T, r = (T)~a, (void)0);                                                                                    \
    }
SIZES(NOTOP, not )

/* ---- shifts and rotates: a masked count of zero changes nothing ---- */
#define SHIFTOP(bits, T, s, name, mask)                                                                                \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        uint8_t n = (uint8_t)x86_rd(c, in, 1, 1) & (sizeof(T) == 8 ? 63 : 31);                                         \
        uint32_t fl = (uint32_t)c->rflags;                                                                             \
        uint16_t f = 0;                                                                                                \
                                                                                                                       \
        if (!n) {                                                                                                      \
            RMW(T, r = a, (void)0);                                                                                    \
            return;                                                                                                    \
        }                                                                                                              \
        RMW(T, (r = a, ({                                                                                              \
                    __asm__("btl $0,%3; " #name s " %%cl,%0; lahf; seto %%al"                                          \
                            : "+q"(r), "=&a"(f)                                                                        \
                            : "c"(n), "r"(fl)                                                                          \
                            : "cc");                                                                                   \
                })),                                                                                                   \
            x86_flags_set(c, mask, x86_host_flags(f)));                                                                \
    }
SIZES(SHIFTOP, shl, X86_ARITH)
SIZES(SHIFTOP, shr, X86_ARITH)
SIZES(SHIFTOP, sar, X86_ARITH)
SIZES(SHIFTOP, rol, X86_CF | X86_OF)
SIZES(SHIFTOP, ror, X86_CF | X86_OF)
SIZES(SHIFTOP, rcl, X86_CF | X86_OF)
SIZES(SHIFTOP, rcr, X86_CF | X86_OF)
#define DSHIFT(bits, T, s, name)                                                                                       \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        uint8_t n = (in->ops[2].kind == X86_OP_IMM ? (uint8_t)in->imm : (uint8_t)c->regs[X86_RCX]) &                   \
                    (sizeof(T) == 8 ? 63 : 31);                                                                        \
        T b = (T)x86_gpr(c, &in->ops[1]);                                                                              \
        uint16_t f = 0;                                                                                                \
                                                                                                                       \
        if (!n) {                                                                                                      \
            RMW(T, r = a, (void)0);                                                                                    \
            return;                                                                                                    \
        }                                                                                                              \
        RMW(T, (r = a, ({                                                                                              \
                    __asm__(#name s " %%cl,%2,%0; lahf; seto %%al" : "+r"(r), "=&a"(f) : "r"(b), "c"(n) : "cc");       \
                })),                                                                                                   \
            x86_flags_set(c, X86_ARITH, x86_host_flags(f)));                                                           \
    }
#define SIZES3(M, ...)                                                                                                 \
    M(16, uint16_t, "w", __VA_ARGS__) M(32, uint32_t, "l", __VA_ARGS__) M(64, uint64_t, "q", __VA_ARGS__)
SIZES3(DSHIFT, shld)
SIZES3(DSHIFT, shrd)

/* ---- multiplication and division ---- */
/* Only CF and OF are defined: the upper half matters. */
static void mul_flags(struct x86_cpu *c, bool over)
{
    x86_flags_set(c, X86_CF | X86_OF, over ? X86_CF | X86_OF : 0);
}
static void mul8(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned r = (unsigned)(uint8_t)c->regs[X86_RAX] * (unsigned)x86_rd(c, in, 0, 1);

    x86_gpr_set(c, X86_RAX, 2, r);
    mul_flags(c, r > 0xff);
}
static void imul8(struct x86_cpu *c, const struct x86_insn *in)
{
    int r = (int8_t)c->regs[X86_RAX] * (int8_t)x86_rd(c, in, 0, 1);

    x86_gpr_set(c, X86_RAX, 2, (uint16_t)r);
    mul_flags(c, r != (int8_t)r);
}
#define MULOPS(bits, T, S, T2, S2)                                                                                     \
    static void mul##bits(struct x86_cpu *c, const struct x86_insn *in)                                                \
    {                                                                                                                  \
        T2 r = (T2)(T)c->regs[X86_RAX] * (T)x86_rd(c, in, 0, sizeof(T));                                               \
                                                                                                                       \
        x86_gpr_set(c, X86_RAX, sizeof(T), (T)r);                                                                      \
        x86_gpr_set(c, X86_RDX, sizeof(T), (T)(r >> bits));                                                            \
        mul_flags(c, (T)(r >> bits));                                                                                  \
    }                                                                                                                  \
    static void imul##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        S2 r = (S2)(S)c->regs[X86_RAX] * (S)x86_rd(c, in, 0, sizeof(T));                                               \
                                                                                                                       \
        x86_gpr_set(c, X86_RAX, sizeof(T), (T)r);                                                                      \
        x86_gpr_set(c, X86_RDX, sizeof(T), (T)(r >> bits));                                                            \
        mul_flags(c, r != (S)r);                                                                                       \
    }                                                                                                                  \
    static void imul2_##bits(struct x86_cpu *c, const struct x86_insn *in)                                             \
    {                                                                                                                  \
        S2 r = (S2)(S)x86_gpr(c, &in->ops[0]) * (S)x86_rd(c, in, 1, sizeof(T));                                        \
                                                                                                                       \
        x86_gpr_set(c, in->ops[0].reg, sizeof(T), (T)r);                                                               \
        mul_flags(c, r != (S)r);                                                                                       \
    }                                                                                                                  \
    static void imul3_##bits(struct x86_cpu *c, const struct x86_insn *in)                                             \
    {                                                                                                                  \
        S2 r = (S2)(S)x86_rd(c, in, 1, sizeof(T)) * (S)in->imm;                                                        \
                                                                                                                       \
        x86_gpr_set(c, in->ops[0].reg, sizeof(T), (T)r);                                                               \
        mul_flags(c, r != (S)r);                                                                                       \
    }                                                                                                                  \
    static void div##bits(struct x86_cpu *c, const struct x86_insn *in)                                                \
    {                                                                                                                  \
        T d = (T)x86_rd(c, in, 0, sizeof(T)), hi = (T)c->regs[X86_RDX];                                                \
        T2 n = (T2)hi << bits | (T)c->regs[X86_RAX];                                                                   \
                                                                                                                       \
        if (hi >= d)                                                                                                   \
            x86_raise(c, X86_DE);                                                                                      \
        x86_gpr_set(c, X86_RAX, sizeof(T), (T)(n / d));                                                                \
        x86_gpr_set(c, X86_RDX, sizeof(T), (T)(n % d));                                                                \
    }                                                                                                                  \
    static void idiv##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        S d = (S)x86_rd(c, in, 0, sizeof(T));                                                                          \
        S2 n = (S2)((T2)(T)c->regs[X86_RDX] << bits | (T)c->regs[X86_RAX]), q;                                         \
                                                                                                                       \
        if (!d || (d == -1 && n == (S2)((T2)1 << (2 * bits - 1))))                                                     \
            x86_raise(c, X86_DE);                                                                                      \
        q = n / d;                                                                                                     \
        if (q != (S)q)                                                                                                 \
            x86_raise(c, X86_DE);                                                                                      \
        x86_gpr_set(c, X86_RAX, sizeof(T), (T)q);                                                                      \
        x86_gpr_set(c, X86_RDX, sizeof(T), (T)(n % d));                                                                \
    }
__extension__ typedef unsigned __int128 u128;
__extension__ typedef __int128 s128;
MULOPS(16, uint16_t, int16_t, uint32_t, int32_t)
MULOPS(32, uint32_t, int32_t, uint64_t, int64_t)
MULOPS(64, uint64_t, int64_t, u128, s128)
static void div8(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned d = (unsigned)x86_rd(c, in, 0, 1), n = (uint16_t)c->regs[X86_RAX];

    if (!d || n / d > 0xff)
        x86_raise(c, X86_DE);
    x86_gpr_set(c, X86_RAX, 2, n / d | (n % d) << 8);
}
static void idiv8(struct x86_cpu *c, const struct x86_insn *in)
{
    int d = (int8_t)x86_rd(c, in, 0, 1), n = (int16_t)c->regs[X86_RAX];

    if (!d || n / d != (int8_t)(n / d))
        x86_raise(c, X86_DE);
    x86_gpr_set(c, X86_RAX, 2, (uint8_t)(n / d) | (unsigned)(uint8_t)(n % d) << 8);
}
#define MULX(bits, T, T2)                                                                                              \
    static void mulx##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        T2 r = (T2)(T)c->regs[X86_RDX] * (T)x86_rd(c, in, 2, sizeof(T));                                               \
                                                                                                                       \
        x86_gpr_set(c, in->ops[1].reg, sizeof(T), (T)r);                                                               \
        x86_gpr_set(c, in->ops[0].reg, sizeof(T), (T)(r >> bits));                                                     \
    }
MULX(32, uint32_t, uint64_t)
MULX(64, uint64_t, u128)
/* ADCX and ADOX: an add with carry that keeps its carry in CF or OF and leaves the other flags. */
#define ADX(bits, T, T2)                                                                                               \
    static void adx##bits(struct x86_cpu *c, const struct x86_insn *in)                                                \
    {                                                                                                                  \
        uint64_t flag = in->op == X86_I_ADCX ? X86_CF : X86_OF;                                                        \
        T2 r = (T2)(T)x86_gpr(c, &in->ops[0]) + (T)x86_rd(c, in, 1, sizeof(T)) + !!(c->rflags & flag);                 \
                                                                                                                       \
        x86_gpr_set(c, in->ops[0].reg, sizeof(T), (T)r);                                                               \
        x86_flags_set(c, flag, r >> bits ? flag : 0);                                                                  \
    }
ADX(32, uint32_t, uint64_t)
ADX(64, uint64_t, u128)

/* ---- exchanges ---- */
#define XCHGOP(bits, T, s, name)                                                                                       \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        T b = (T)x86_gpr(c, &in->ops[1]), a;                                                                           \
                                                                                                                       \
        if (in->ops[0].kind == X86_OP_GPR) {                                                                           \
            a = (T)x86_gpr(c, &in->ops[0]);                                                                            \
            x86_gpr_op_set(c, &in->ops[0], sizeof(T), b);                                                              \
        } else {                                                                                                       \
            uint64_t lin = x86_mem_lin(c, in, sizeof(T), X86_WRITE);                                                   \
            T *p = x86_rmw_ptr(c, lin, sizeof(T));                                                                     \
                                                                                                                       \
            if (p) {                                                                                                   \
                a = __atomic_exchange_n(p, b, __ATOMIC_SEQ_CST);                                                       \
                x86_rmw_done(c, lin, sizeof(T));                                                                       \
            } else {                                                                                                   \
                a = (T)x86_ld(c, lin, sizeof(T));                                                                      \
                x86_st(c, lin, sizeof(T), b);                                                                          \
            }                                                                                                          \
        }                                                                                                              \
        x86_gpr_op_set(c, &in->ops[1], sizeof(T), a);                                                                  \
    }
SIZES(XCHGOP, xchg)
#define XADDOP(bits, T, s, name)                                                                                       \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        T b = (T)x86_gpr(c, &in->ops[1]), old = 0;                                                                     \
        uint16_t f = 0;                                                                                                \
                                                                                                                       \
        RMW(T, (old = r = a, ({                                                                                        \
                    __asm__("add" s " %2,%0; lahf; seto %%al" : "+q"(r), "=&a"(f) : "qm"(b) : "cc");                   \
                })),                                                                                                   \
            x86_flags_set(c, X86_ARITH, x86_host_flags(f)));                                                           \
        if (in->ops[0].kind == X86_OP_GPR && in->ops[0].reg == in->ops[1].reg && in->ops[0].high8 == in->ops[1].high8) \
            return; /* both are the sum */                                                                             \
        x86_gpr_op_set(c, &in->ops[1], sizeof(T), old);                                                                \
    }
SIZES(XADDOP, xadd)
#define CMPXCHGOP(bits, T, s, name)                                                                                    \
    static void name##bits(struct x86_cpu *c, const struct x86_insn *in)                                               \
    {                                                                                                                  \
        T acc = (T)c->regs[X86_RAX], b = (T)x86_gpr(c, &in->ops[1]), cur;                                              \
        bool reg = in->ops[0].kind == X86_OP_GPR;                                                                      \
        uint64_t whole = reg ? c->regs[in->ops[0].reg] : 0;                                                            \
        uint16_t f;                                                                                                    \
                                                                                                                       \
        RMW(T, (cur = a, r = a == acc ? b : a), (void)0);                                                              \
        if (reg && cur != acc && sizeof(T) == 4)                                                                       \
            c->regs[in->ops[0].reg] = whole; /* not written, so not zero-extended either */                            \
        __asm__("cmp" s " %2,%1; lahf; seto %%al" : "=&a"(f) : "q"(acc), "qm"(cur) : "cc");                            \
        x86_flags_set(c, X86_ARITH, x86_host_flags(f));                                                                \
        if (cur != acc)                                                                                                \
            x86_gpr_set(c, X86_RAX, sizeof(T), cur);                                                                   \
    }
SIZES(CMPXCHGOP, cmpxchg)

static void cmpxchg8b(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t want = (uint32_t)c->regs[X86_RAX] | c->regs[X86_RDX] << 32,
             put = (uint32_t)c->regs[X86_RBX] | c->regs[X86_RCX] << 32;
    uint64_t lin = x86_mem_lin(c, in, 8, X86_WRITE), cur = want;
    uint64_t *p = x86_rmw_ptr(c, lin, 8);
    bool same;

    if (p) {
        same = __atomic_compare_exchange_n(p, &cur, put, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        x86_rmw_done(c, lin, 8);
    } else {
        cur = x86_ld(c, lin, 8);
        same = cur == want;
        x86_st(c, lin, 8, same ? put : cur);
    }
    x86_flags_set(c, X86_ZF, same ? X86_ZF : 0);
    if (!same) {
        x86_gpr_set(c, X86_RAX, 4, cur);
        x86_gpr_set(c, X86_RDX, 4, cur >> 32);
    }
}
static void cmpxchg16b(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t lin = x86_mem_lin(c, in, 16, X86_WRITE), lo = c->regs[X86_RAX], hi = c->regs[X86_RDX];
    void *p;
    bool same;

    if (lin & 15)
        x86_raise_err(c, X86_GP, 0);
    p = x86_rmw_ptr(c, lin, 16);
    if (p) {
        __asm__ volatile("lock cmpxchg16b (%[p]); setz %[z]"
                         : "+a"(lo), "+d"(hi), [z] "=r"(same)
                         : "b"(c->regs[X86_RBX]), "c"(c->regs[X86_RCX]), [p] "r"(p)
                         : "memory", "cc");
        x86_rmw_done(c, lin, 16);
    } else {
        lo = x86_ld(c, lin, 8);
        hi = x86_ld(c, lin + 8, 8);
        same = lo == c->regs[X86_RAX] && hi == c->regs[X86_RDX];
        x86_st(c, lin, 8, same ? c->regs[X86_RBX] : lo);
        x86_st(c, lin + 8, 8, same ? c->regs[X86_RCX] : hi);
    }
    x86_flags_set(c, X86_ZF, same ? X86_ZF : 0);
    if (!same) {
        c->regs[X86_RAX] = lo;
        c->regs[X86_RDX] = hi;
    }
}

const struct x86_handler x86_ops_alu[X86_I_NR] = {
    [X86_I_ADD] = BY_SIZE(add),
    [X86_I_OR] = BY_SIZE(or),
    [X86_I_ADC] = BY_SIZE(adc),
    [X86_I_SBB] = BY_SIZE(sbb),
    [X86_I_AND] = BY_SIZE(and),
    [X86_I_SUB] = BY_SIZE(sub),
    [X86_I_XOR] = BY_SIZE(xor),
    [X86_I_CMP] = BY_SIZE(cmp),
    [X86_I_TEST] = BY_SIZE(test),
    [X86_I_INC] = BY_SIZE(inc),
    [X86_I_DEC] = BY_SIZE(dec),
    [X86_I_NOT] = BY_SIZE(not ),
    [X86_I_NEG] = BY_SIZE(neg),
    [X86_I_SHL] = BY_SIZE(shl),
    [X86_I_SHL_CL] = BY_SIZE(shl),
    [X86_I_SAL] = BY_SIZE(shl),
    [X86_I_SAL_CL] = BY_SIZE(shl),
    [X86_I_SHR] = BY_SIZE(shr),
    [X86_I_SHR_CL] = BY_SIZE(shr),
    [X86_I_SAR] = BY_SIZE(sar),
    [X86_I_SAR_CL] = BY_SIZE(sar),
    [X86_I_ROL] = BY_SIZE(rol),
    [X86_I_ROL_CL] = BY_SIZE(rol),
    [X86_I_ROR] = BY_SIZE(ror),
    [X86_I_ROR_CL] = BY_SIZE(ror),
    [X86_I_RCL] = BY_SIZE(rcl),
    [X86_I_RCL_CL] = BY_SIZE(rcl),
    [X86_I_RCR] = BY_SIZE(rcr),
    [X86_I_RCR_CL] = BY_SIZE(rcr),
    [X86_I_SHLD] = {{NULL, shld16, shld32, shld64}},
    [X86_I_SHLD_CL] = {{NULL, shld16, shld32, shld64}},
    [X86_I_SHRD] = {{NULL, shrd16, shrd32, shrd64}},
    [X86_I_SHRD_CL] = {{NULL, shrd16, shrd32, shrd64}},
    [X86_I_MULB] = ALL_SIZES(mul8),
    [X86_I_IMULB] = ALL_SIZES(imul8),
    [X86_I_DIVB] = ALL_SIZES(div8),
    [X86_I_IDIVB] = ALL_SIZES(idiv8),
    [X86_I_MUL] = {{NULL, mul16, mul32, mul64}},
    [X86_I_IMUL1] = {{NULL, imul16, imul32, imul64}},
    [X86_I_DIV] = {{NULL, div16, div32, div64}},
    [X86_I_IDIV] = {{NULL, idiv16, idiv32, idiv64}},
    [X86_I_IMUL] = {{NULL, imul2_16, imul2_32, imul2_64}},
    [X86_I_IMUL3] = {{NULL, imul3_16, imul3_32, imul3_64}},
    [X86_I_MULX] = {{NULL, NULL, mulx32, mulx64}},
    [X86_I_ADCX] = {{NULL, NULL, adx32, adx64}},
    [X86_I_ADOX] = {{NULL, NULL, adx32, adx64}},
    [X86_I_XCHG] = BY_SIZE(xchg),
    [X86_I_XADD] = BY_SIZE(xadd),
    [X86_I_CMPXCHG] = BY_SIZE(cmpxchg),
    [X86_I_CMPXCHG8B] = ALL_SIZES(cmpxchg8b),
    [X86_I_CMPXCHG16B] = ALL_SIZES(cmpxchg16b),
};
