/* The IR compiler against the reference semantics: random superblocks are run as host code and op by op in C, from the
 * same state; all guest state, memory and the exit taken must agree.
 * proves: F-USR-13 */
#include "jit/arena.h"
#include "jit/ir_int.h"

#include <asm/prctl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <cmocka.h>

enum { NR_X = 12, NR_V = 8, NR_PX = 6, NR_PV = 4, MEM = 256 };
struct guest {
    struct ir_ctx ir;
    uint64_t x[NR_X];
    union ir_vec v[NR_V] __attribute__((aligned(16)));
};
struct state {
    uint64_t x[NR_X];
    union ir_vec v[NR_V];
    uint32_t nzcv;
    unsigned mxcsr;
    uint8_t mem[MEM];
    int exit; /* link number, or 1000 + code */
    uint64_t exit_pc;
};
#define X(i) (offsetof(struct guest, x) + 8 * (i))
#define V(i) (offsetof(struct guest, v) + 16 * (i))

static const struct ir_pin pins[] = {
    {X(0), JR_RBX, false}, {X(1), JR_RBP, false}, {X(2), JR_RSI, false}, {X(3), JR_R8, false}, {X(4), JR_R12, false},
    {X(5), JR_R15, false}, {V(0), 0, true},       {V(1), 1, true},       {V(2), 6, true},      {V(3), 11, true},
};
/* The same with as few free registers as is allowed. */
static const struct ir_pin tight[] = {
    {X(0), JR_RBX, false},  {X(1), JR_RBP, false}, {X(2), JR_RSI, false}, {X(3), JR_R8, false},  {X(4), JR_R12, false},
    {X(5), JR_R15, false},  {X(6), JR_RDI, false}, {X(7), JR_R9, false},  {X(8), JR_R10, false}, {X(9), JR_R13, false},
    {X(10), JR_R14, false}, {V(0), 0, true},       {V(1), 1, true},       {V(2), 6, true},       {V(3), 11, true},
};

static uint64_t seed = 88172645463325252ull;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull >> 3;
}
static uint64_t value(void)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   2,
                                   UINT64_MAX,
                                   INT64_MAX,
                                   UINT64_C(1) << 63,
                                   INT32_MAX,
                                   0x80000000,
                                   0xffffffff,
                                   0x100000000,
                                   0x7ff0000000000000u,
                                   0x7ff8000000000001u,
                                   0x7f800000,
                                   0x7fc00001,
                                   0x7f800001,
                                   0x3f800000,
                                   0x3ff0000000000000u,
                                   0x7ff4000000000000u,
                                   0xffffffff3f800000u,
                                   0xffffffff7fa00000u,
                                   0x43e0000000000000u,
                                   0xc1e0000000000000u,
                                   0x4f000000,
                                   0x8000000000000001u};

    if (rnd() % 4 == 0)
        return odd[rnd() % ARRAY_LEN(odd)];
    if (rnd() % 4 == 0)
        return rnd() << 3 ^ rnd();
    if (rnd() % 3 == 0)
        return (uint64_t)(int64_t)(int8_t)rnd();
    return (rnd() << 3 ^ rnd()) >> rnd() % 64;
}

/* --- Random superblocks --- */
struct gen {
    struct ir *s;
    ir_val pool[8][64];
    unsigned n[8];
    unsigned first[8]; /* usable from here (SKIP regions) */
    bool fp, vec, flags;
};

static void keep(struct gen *g, ir_val v)
{
    enum ir_type t = ir_type_of(g->s, v);

    if (g->n[t] == 64)
        g->pool[t][rnd() % 64] = v;
    else
        g->pool[t][g->n[t]++] = v;
}

static ir_val pick(struct gen *g, enum ir_type t)
{
    unsigned k = (unsigned)rnd() % 8;

    if (k && g->n[t])
        return g->pool[t][g->n[t] - 1 - rnd() % (g->n[t] < 12 || k == 1 ? g->n[t] : 12)];
    switch (t) {
    case IR_I64:
        return k % 2 ? ir_c64(g->s, value()) : ir_get(g->s, t, X(rnd() % NR_X));
    case IR_I32:
        return k % 2 ? ir_c32(g->s, value()) : ir_trunc(g->s, ir_get(g->s, IR_I64, X(rnd() % NR_X)));
    case IR_V128:
        return ir_get(g->s, t, V(rnd() % NR_V));
    case IR_F32:
    case IR_F64:
        return ir_un_t(g->s, IR_FLOW, t, ir_get(g->s, IR_V128, V(rnd() % NR_V)));
    default:
        return ir_fl_get(g->s);
    }
}

static enum ir_type int_type(void)
{
    return rnd() % 2 ? IR_I32 : IR_I64;
}

static void gen_int(struct gen *g)
{
    struct ir *s = g->s;
    enum ir_type t = int_type();
    unsigned w = t == IR_I64 ? 64 : 32, pos = (unsigned)rnd() % w, len = 1 + (unsigned)rnd() % (w - pos);
    enum ir_opcode op = (enum ir_opcode)(IR_ADD + rnd() % (IR_CLMULH - IR_ADD + 1));

    switch (op) {
    case IR_DIVU ... IR_REMS:
        keep(g, ir_bin_x(s, op, t, rnd() % 2, pick(g, t), pick(g, t), 0));
        return;
    case IR_SHL ... IR_ROR:
        keep(g, ir_bin_x(s, op, t, 0, pick(g, t), pick(g, int_type()), 0));
        return;
    case IR_EXTR:
        keep(g, ir_bin_x(s, op, t, 0, pick(g, t), pick(g, t), pos));
        return;
    case IR_UBFX:
    case IR_SBFX:
        if (rnd() % 2)
            pos = 0, len = 8u << rnd() % (w == 64 ? 3 : 2);
        keep(g, ir_un_x(s, op, t, len, pick(g, t), pos));
        return;
    case IR_BFI:
        keep(g, ir_bfi(s, pick(g, t), pick(g, t), pos, len));
        return;
    case IR_TRUNC:
        keep(g, ir_trunc(s, pick(g, IR_I64)));
        return;
    case IR_ZEXT:
        keep(g, ir_zext(s, pick(g, IR_I32)));
        return;
    case IR_SEXT:
        keep(g, ir_sext(s, pick(g, IR_I32)));
        return;
    case IR_CMP:
        keep(g, ir_cmp(s, (enum ir_cond)(rnd() % 12), pick(g, t), pick(g, t)));
        return;
    case IR_SELECT:
        t = g->vec && rnd() % 4 == 0 ? IR_V128 : t;
        keep(g, ir_select(s, pick(g, IR_I32), pick(g, t), pick(g, t)));
        return;
    case IR_CRC32C:
    case IR_CRC32:
        len = (unsigned)rnd() % 4;
        keep(g, ir_bin_x(s, op, IR_I32, len, pick(g, IR_I32), pick(g, len == 3 ? IR_I64 : IR_I32), 0));
        return;
    case IR_ORCB ... IR_CLMULH:
        t = IR_I64;
        break;
    default:
        break;
    }
    if (ir_op_nargs(op) == 1)
        keep(g, ir_un(s, op, pick(g, t)));
    else
        keep(g, ir_bin(s, op, pick(g, t), pick(g, t)));
}

static void gen_flags(struct gen *g)
{
    struct ir *s = g->s;
    enum ir_type t = int_type();
    enum ir_opcode op = (enum ir_opcode)(IR_FL_GET + rnd() % (IR_SBC - IR_FL_GET + 1));
    ir_val a, b, c;

    switch (op) {
    case IR_FL_PUT:
        ir_fl_put(s, pick(g, IR_FLAGS));
        return;
    case IR_FL_ADD:
    case IR_FL_SUB:
        a = pick(g, t);
        b = pick(g, t);
        if (rnd() % 2)
            keep(g, ir_bin(s, op == IR_FL_ADD ? IR_ADD : IR_SUB, a, b));
        keep(g, ir_fl(s, op, a, b, IR_NO));
        if (rnd() % 2)
            ir_fl_put(s, g->pool[IR_FLAGS][g->n[IR_FLAGS] - 1]);
        return;
    case IR_FL_ADC:
    case IR_FL_SBC:
        a = pick(g, t);
        b = pick(g, t);
        c = pick(g, IR_FLAGS);
        if (rnd() % 2)
            keep(g, ir_tri(s, op == IR_FL_ADC ? IR_ADC : IR_SBC, a, b, c));
        keep(g, ir_fl(s, op, a, b, c));
        return;
    case IR_ADC:
    case IR_SBC:
        keep(g, ir_tri(s, op, pick(g, t), pick(g, t), pick(g, IR_FLAGS)));
        return;
    case IR_FL_LOGIC:
        a = rnd() % 2 ? ir_bin(s, IR_AND, pick(g, t), pick(g, t)) : pick(g, t);
        keep(g, ir_fl(s, op, a, IR_NO, IR_NO));
        return;
    case IR_FL_NZ:
        keep(g, ir_fl(s, op, pick(g, t), pick(g, IR_FLAGS), IR_NO));
        return;
    case IR_FL_NZC:
        keep(g, ir_fl(s, op, pick(g, t), pick(g, IR_I32), pick(g, IR_FLAGS)));
        return;
    case IR_FL_BITS:
        keep(g, ir_fl(s, op, pick(g, IR_I32), IR_NO, IR_NO));
        return;
    case IR_FL_FCMP:
        if (!g->fp)
            return;
        t = rnd() % 2 ? IR_F32 : IR_F64;
        a = pick(g, t);
        keep(g, ir_emit(s, op, IR_FLAGS, rnd() % 2, a, pick(g, t), IR_NO, 0));
        return;
    case IR_FL_CCMP:
        a = pick(g, t);
        b = pick(g, t);
        if (rnd() % 2)
            keep(g, ir_fl_ccmp(s, pick(g, IR_FLAGS), rnd() % 14, rnd() % 2, a, b, rnd() % 16));
        else if (rnd() % 2)
            keep(g, ir_fl_cond_cmp(s, pick(g, IR_FLAGS), rnd() % 14, false, a, b));
        else
            keep(g, ir_fl_cond_cmp(s, pick(g, IR_FLAGS), rnd() % 8, true, a, b));
        return;
    case IR_FL_TO_BITS:
        keep(g, ir_un_t(s, op, IR_I32, pick(g, IR_FLAGS)));
        return;
    case IR_FL_COND:
        keep(g, ir_fl_cond(s, pick(g, IR_FLAGS), rnd() % 14));
        return;
    case IR_FL_SELECT:
        keep(g, ir_fl_select(s, pick(g, IR_FLAGS), rnd() % 14, pick(g, t), pick(g, t)));
        return;
    default:
        keep(g, ir_fl_get(s));
        return;
    }
}

static uint8_t guest_mem[MEM] __attribute__((aligned(16)));

static ir_val address(struct gen *g, unsigned *size)
{
    ir_val base = ir_c64(g->s, (uintptr_t)guest_mem + 16 * (rnd() % 8));

    *size = (unsigned)rnd() % 4;
    if (rnd() % 2) {
        ir_val i = ir_bin_i(g->s, IR_AND, pick(g, IR_I64), 7);

        base = rnd() % 2 ? ir_bin(g->s, IR_ADD, base, ir_bin_i(g->s, IR_SHL, i, rnd() % 4))
                         : ir_bin(g->s, IR_ADD, base, i);
    }
    return base;
}

static void gen_mem(struct gen *g)
{
    struct ir *s = g->s;
    enum ir_type t = int_type();
    unsigned size, k = (unsigned)rnd() % 8, mop;
    ir_val a = address(g, &size);

    if (t == IR_I32 && size == IR_M64)
        size = IR_M32;
    mop = size | (rnd() % 2 ? IR_MSIGN : 0) | (rnd() % 8 == 0 ? IR_MSWAP : 0);
    if (g->vec && k == 7) {
        size = IR_M32 + (unsigned)rnd() % 3;
        if (rnd() % 2)
            keep(g, ir_load(s, IR_V128, size, a, 16));
        else
            ir_store(s, size, a, 16, pick(g, IR_V128));
        return;
    }
    switch (k) {
    case 0 ... 2:
        keep(g, ir_load(s, t, mop, a, (int64_t)(rnd() % 16)));
        return;
    case 3 ... 4:
        ir_store(s, (mop & ~(unsigned)IR_MSIGN) | (rnd() % 4 == 0 ? IR_MREL : 0), a, (int64_t)(rnd() % 16), pick(g, t));
        return;
    case 5:
        if (rnd() % 2)
            keep(g, ir_cas(s, t, size, a, pick(g, t), pick(g, t)));
        else
            keep(g, ir_cas_if(s, size, a, pick(g, IR_I32), pick(g, t), pick(g, t)));
        return;
    case 6:
        if (g->vec && rnd() % 4 == 0) {
            a = ir_c64(s, (uintptr_t)guest_mem + 16 * (rnd() % 8));
            if (rnd() % 2)
                keep(g, ir_cas(s, IR_V128, IR_M128, a, pick(g, IR_V128), pick(g, IR_V128)));
            else
                keep(g, ir_cas_if(s, IR_M128, a, pick(g, IR_I32), pick(g, IR_V128), pick(g, IR_V128)));
            return;
        }
        FALLTHROUGH;
    default:
        a = ir_atomic(s, (enum ir_opcode)(IR_XCHG + rnd() % 9), t, size, a, pick(g, t));
        if (rnd() % 2)
            keep(g, a);
        return;
    }
}

/* What is above scalars that come from memory, and above what is made of them: zeros, where host code may count on it.
 */
static void gen_above(struct gen *g)
{
    struct ir *s = g->s;
    enum ir_type t = rnd() % 2 ? IR_F32 : IR_F64;
    ir_val v = pick(g, t), m;
    unsigned size;

    for (unsigned n = 1 + (unsigned)rnd() % 3; n; n--) {
        m = address(g, &size);
        m = ir_un_t(s, IR_FLOW, t, ir_load(s, IR_V128, IR_M32 + (unsigned)rnd() % 2, m, 16));
        switch (rnd() % 8) {
        case 0:
            v = ir_tri_x(s, IR_FMA, t, (unsigned)rnd() % 4, v, m, pick(g, t), 0);
            break;
        case 1:
            v = ir_tri_x(s, IR_FMA, t, (unsigned)rnd() % 4, pick(g, t), v, m, 0);
            break;
        case 2:
            v = ir_un_x(s, IR_FROUND, t, IR_RDYN, rnd() % 2 ? m : v, 0);
            break;
        case 3:
            v = ir_un(s, rnd() % 2 ? IR_FABS : IR_FNEG, rnd() % 2 ? m : v);
            break;
        case 4:
            v = ir_un_x(s, IR_FSQRT, t, 0, m, 0);
            break;
        default:
            v = ir_bin_x(s, (enum ir_opcode)(IR_FADD + rnd() % 4), t, 0, rnd() % 2 ? m : v, rnd() % 2 ? m : v, 0);
            break;
        }
    }
    if (rnd() % 8 == 0) {
        t = t == IR_F64 ? IR_F32 : IR_F64;
        v = ir_un_x(s, IR_FCVT, t, 0, v, 0);
    }
    ir_put(s, V(rnd() % NR_V), ir_un_x(s, IR_VFLOW, IR_V128, t == IR_F64, v, 0));
}

static void gen_fp(struct gen *g)
{
    struct ir *s = g->s;
    enum ir_type t = rnd() % 2 ? IR_F32 : IR_F64, it = int_type();
    unsigned d = t == IR_F64;
    enum ir_opcode op = (enum ir_opcode)(IR_FADD + rnd() % (IR_FCLASS - IR_FADD + 1));
    static const unsigned rms[] = {0, 1, 2, 3, 4, 7};
    unsigned rm = rms[rnd() % 6], stat = rnd() % 4 ? 0 : (1 + (unsigned)rnd() % 4) << 4;

    if (g->vec && rnd() % 6 == 0) {
        gen_above(g);
        return;
    }
    switch (op) {
    case IR_FADD ... IR_FDIV:
        keep(g, ir_bin_x(s, op, t, stat, pick(g, t), pick(g, t), 0));
        return;
    case IR_FSQRT:
        keep(g, ir_un_x(s, op, t, stat, pick(g, t), 0));
        return;
    case IR_FMA:
        keep(g, ir_tri_x(s, op, t, stat | (unsigned)rnd() % 4, pick(g, t), pick(g, t), pick(g, t), 0));
        return;
    case IR_FMIN:
    case IR_FMAX:
    case IR_FCOPYSIGN:
        keep(g, ir_bin_x(s, op, t, rnd() % 3, pick(g, t), pick(g, t), 0));
        return;
    case IR_FNEG:
    case IR_FABS:
        keep(g, ir_un(s, op, pick(g, t)));
        return;
    case IR_FCMP:
        keep(g, ir_bin_x(s, op, IR_I32, rnd() % 6 | (rnd() % 2 ? 8 : 0), pick(g, t), pick(g, t), 0));
        return;
    case IR_FCVT:
        keep(g, ir_un_x(s, op, t, stat, pick(g, d ? IR_F32 : IR_F64), 0));
        return;
    case IR_FTOI:
        keep(g, ir_un_x(s, op, it, rm | (rnd() % 2 ? 8 : 0) | (rnd() % 2 ? 16 : 0) | (d ? 64 : 0), pick(g, t), 0));
        return;
    case IR_ITOF:
        if (rm == 4)
            rm = 0;
        keep(g, ir_un_x(s, op, t, rm | (rnd() % 2 ? 8 : 0) | (it == IR_I64 ? 32 : 0), pick(g, it), 0));
        return;
    case IR_FROUND:
        keep(g, ir_un_x(s, op, t, rm | (rnd() % 2 ? 8 : 0), pick(g, t), 0));
        return;
    case IR_FMOV_I:
        keep(g, ir_un_t(s, op, t, pick(g, d ? IR_I64 : IR_I32)));
        return;
    case IR_IMOV_F:
        keep(g, ir_un_t(s, op, d ? IR_I64 : IR_I32, pick(g, t)));
        return;
    case IR_FLOW:
        keep(g, ir_un_t(s, op, t, pick(g, IR_V128)));
        return;
    case IR_VFLOW:
        keep(g, ir_un_x(s, op, IR_V128, d, pick(g, t), 0));
        return;
    case IR_FBOX:
        keep(g, ir_un_t(s, op, IR_V128, pick(g, IR_F32)));
        return;
    case IR_FUNBOX:
        keep(g, ir_un_t(s, op, IR_F32, pick(g, IR_V128)));
        return;
    case IR_FCLASS:
        keep(g, ir_un_x(s, op, IR_I32, d, pick(g, t), 0));
        return;
    default:
        return;
    }
}

static void gen_vec(struct gen *g)
{
    struct ir *s = g->s;
    enum ir_opcode op = (enum ir_opcode)(IR_VAND + rnd() % (IR_VFSMALL - IR_VAND + 1));
    unsigned l = (unsigned)rnd() % 4, attr = l, n;
    int64_t imm = 0;
    enum ir_type it = l == 3 ? IR_I64 : int_type();
    static const unsigned rms[] = {0, 1, 2, 3, 4, 7};

    switch (op) {
    case IR_VHADDS:
    case IR_VHADDU:
        attr |= rnd() % 2 ? 4 : 0;
        break;
    case IR_VSHLI ... IR_VSARI:
        imm = (int64_t)(rnd() % ((8u << l) + 1));
        break;
    case IR_VRSHRI:
    case IR_VRSARI:
        imm = 1 + (int64_t)(rnd() % (8u << l));
        break;
    case IR_VCNT:
    case IR_VRBIT:
    case IR_VTBL:
        attr = 0;
        break;
    case IR_VNARROW ... IR_VNARROWUU:
        attr = 1 + (unsigned)rnd() % 3;
        break;
    case IR_VWIDENS:
    case IR_VWIDENU:
    case IR_VMULLU:
    case IR_VMULLS:
        attr = (unsigned)rnd() % 3 | (rnd() % 2 ? 4 : 0);
        break;
    case IR_VEXT:
        attr = 0;
        imm = (int64_t)(rnd() % 17);
        break;
    case IR_VREV:
        n = (unsigned)rnd() % 3;
        attr = (unsigned)rnd() % (n + 1) | n << 2;
        break;
    case IR_VDUP:
        keep(g, ir_un_x(s, op, IR_V128, l, pick(g, it), 0));
        return;
    case IR_VDUPL:
        imm = (int64_t)(rnd() % (16u >> l));
        break;
    case IR_VINS:
        keep(g, ir_bin_x(s, op, IR_V128, l, pick(g, IR_V128), pick(g, it), (int64_t)(rnd() % (16u >> l))));
        return;
    case IR_VINSL:
        imm = (int64_t)(rnd() % (16u >> l) | (rnd() % (16u >> l)) << 4);
        break;
    case IR_VGETU:
    case IR_VGETS:
        keep(g, ir_un_x(s, op, it, l, pick(g, IR_V128), (int64_t)(rnd() % (16u >> l))));
        return;
    case IR_VMSKB:
        keep(g, ir_un_t(s, op, IR_I32, pick(g, IR_V128)));
        return;
    case IR_VFSMALL:
        keep(g, ir_bin_x(s, op, IR_I32, 0, pick(g, IR_V128), pick(g, IR_V128), 0));
        return;
    case IR_VQDMULH:
        attr = 1 + (unsigned)rnd() % 2 + (rnd() % 2 ? 4 : 0);
        break;
    case IR_VCLMULL:
        attr = (unsigned)rnd() % 2;
        break;
    case IR_VFADD ... IR_VFCVTN:
        if (!g->fp)
            return;
        attr = 2 + (unsigned)rnd() % 2;
        if (op <= IR_VFMUL)
            attr |= rnd() % 4 ? 0 : 16;
        if (op == IR_VFMA)
            attr |= ((unsigned)rnd() % 4) << 2;
        else if (op == IR_VFMIN || op == IR_VFMAX || op == IR_VFCVTL)
            attr |= rnd() % 2 ? 4 : 0;
        else if (op == IR_VFCMP)
            attr |= (unsigned)rnd() % 6 << 4 | (rnd() % 2 ? 8 : 0);
        else if (op == IR_VFTOI || op == IR_VFROUND)
            attr |= rms[rnd() % 6] << 4 | (rnd() % 2 ? 8 : 0);
        else if (op == IR_VITOF)
            attr |= rnd() % 2 ? 8 : 0;
        break;
    case IR_VAND ... IR_VLOW:
        attr = 0;
        break;
    default:
        break;
    }
    n = ir_op_nargs(op);
    keep(g, ir_tri_x(s, op, IR_V128, attr, pick(g, IR_V128), n > 1 ? pick(g, IR_V128) : IR_NO,
                     n > 2 ? pick(g, IR_V128) : IR_NO, imm));
}

static void gen_put(struct gen *g)
{
    if (g->vec && rnd() % 3 == 0)
        ir_put(g->s, V(rnd() % NR_V), pick(g, IR_V128));
    else
        ir_put(g->s, X(rnd() % NR_X), pick(g, IR_I64));
}

static uint64_t helper(void *ctx, uint64_t a, uint64_t b, uint64_t c)
{
    (void)ctx;
    return a * 3 + (b ^ c);
}

static void gen_some(struct gen *g, bool inner)
{
    struct ir *s = g->s;
    unsigned k = (unsigned)rnd() % 32;
    enum ir_type t = int_type();

    if (k < 10)
        gen_int(g);
    else if (k < 15)
        g->flags ? gen_flags(g) : gen_int(g);
    else if (k < 18)
        gen_mem(g);
    else if (k < 21)
        g->fp ? gen_fp(g) : gen_int(g);
    else if (k < 24)
        g->vec ? gen_vec(g) : gen_int(g);
    else if (k < 29)
        gen_put(g);
    else if (k == 29 && rnd() % 2)
        keep(g, ir_call(s, IR_I64, rnd() % 2 ? IR_CALL_PURE : IR_CALL_STATE, (void *)helper, pick(g, IR_I64),
                        pick(g, IR_I32), pick(g, IR_I64), IR_NO));
    else if (k == 30 && !inner)
        ir_exit_if(s, (enum ir_cond)(rnd() % 12), pick(g, t), pick(g, t), rnd() % 2 ? 0x500 : 0x2000);
    else if (k == 31 && !inner && g->flags)
        ir_exit_if_fl(s, pick(g, IR_FLAGS), (unsigned)rnd() % 14, rnd() % 2 ? 0x500 : 0x2000);
}

static void gen_skip(struct gen *g)
{
    struct gen inner;
    bool plain = rnd() % 2; /* nothing that changes the host's flags */

    if (g->flags && rnd() % 4)
        ir_skip_if_fl(g->s, pick(g, IR_FLAGS), (unsigned)rnd() % 14);
    else
        ir_skip_if(g->s, pick(g, IR_I32));
    inner = *g;
    for (unsigned i = (unsigned)rnd() % 6; i > 0; i--)
        if (!plain)
            gen_some(&inner, true);
        else if (rnd() % 2)
            gen_put(&inner);
        else
            keep(&inner, ir_load(g->s, IR_I64, IR_M64, ir_c64(g->s, (uintptr_t)guest_mem + 8 * (rnd() % 8)), 0));
    if (rnd() % 4 == 0)
        ir_exit_code(g->s, 7, 0x77);
    ir_label(g->s);
}

static void gen_block(struct gen *g, struct ir *s, unsigned len)
{
    *g = (struct gen){.s = s, .fp = rnd() % 2, .vec = rnd() % 2, .flags = rnd() % 2};
    ir_begin(s, 0x1000);
    for (unsigned i = 0; i < len; i++) {
        if (i % 8 == 0)
            ir_insn(s, 0x1000 + i);
        if (rnd() % 24 == 0)
            gen_skip(g);
        else
            gen_some(g, false);
    }
    for (unsigned i = 0; i < 4; i++)
        gen_put(g);
    ir_exit_code(s, 42, 0x3000);
    assert_true(ir_finish(s, len));
}

/* --- The interpreter --- */

static unsigned add_flags(uint64_t a, uint64_t b, unsigned carry, unsigned w)
{
    uint64_t m = w == 64 ? UINT64_MAX : UINT32_MAX, r;
    unsigned __int128 wide;

    a &= m;
    b &= m;
    wide = (unsigned __int128)a + b + carry;
    r = (uint64_t)wide & m;
    return (unsigned)(r >> (w - 1)) << 3 | (r == 0 ? 4u : 0) | ((unsigned)(wide >> w) & 1) << 1 |
           (unsigned)((~(a ^ b) & (a ^ r)) >> (w - 1) & 1);
}

static bool arm_cond(unsigned f, unsigned cc)
{
    bool n = f & 8, z = f & 4, c = f & 2, v = f & 1, r;

    switch (cc >> 1) {
    case 0:
        r = z;
        break;
    case 1:
        r = c;
        break;
    case 2:
        r = n;
        break;
    case 3:
        r = v;
        break;
    case 4:
        r = c && !z;
        break;
    case 5:
        r = n == v;
        break;
    default:
        r = n == v && !z;
        break;
    }
    return r != (cc & 1);
}

static unsigned width(const struct ir *s, ir_val v)
{
    return s->op[v].t == IR_I32 || s->op[v].t == IR_F32 ? 32 : 64;
}

static unsigned run_flags(const struct ir *s, const struct ir_op *o, const union ir_vec *a, struct state *st)
{
    unsigned w = o->a[0] == IR_NO ? 0 : width(s, o->a[0]), x;
    uint64_t v0 = w == 32 ? a[0].s[0] : a[0].d[0];

    switch (o->op) {
    case IR_FL_GET:
        return st->nzcv;
    case IR_FL_ADD:
        return add_flags(a[0].d[0], a[1].d[0], 0, w);
    case IR_FL_SUB:
        return add_flags(a[0].d[0], ~a[1].d[0], 1, w);
    case IR_FL_ADC:
        return add_flags(a[0].d[0], a[1].d[0], a[2].s[0] >> 1 & 1, w);
    case IR_FL_SBC:
        return add_flags(a[0].d[0], ~a[1].d[0], a[2].s[0] >> 1 & 1, w);
    case IR_FL_LOGIC:
        return (unsigned)(v0 >> (w - 1)) << 3 | (v0 ? 0 : 4u);
    case IR_FL_NZ:
        return (unsigned)(v0 >> (w - 1)) << 3 | (v0 ? 0 : 4u) | (a[1].s[0] & 3);
    case IR_FL_NZC:
        return (unsigned)(v0 >> (w - 1)) << 3 | (v0 ? 0 : 4u) | (a[1].s[0] & 1) << 1 | (a[2].s[0] & 1);
    case IR_FL_BITS:
        return a[0].s[0] >> 28;
    case IR_FL_CCMP:
        w = width(s, o->a[1]);
        if (!arm_cond(a[0].s[0], o->attr & 15))
            return o->attr & 32 ? a[0].s[0] : (unsigned)o->imm;
        return o->attr & 16 ? add_flags(a[1].d[0], a[2].d[0], 0, w) : add_flags(a[1].d[0], ~a[2].d[0], 1, w);
    default: { /* FL_FCMP */
        struct ir_op f = {
            .op = IR_FCMP, .t = IR_I32, .attr = (uint8_t)((o->attr ? 8 : 0) | (w == 64 ? 16 : 0) | IR_FUN)};
        union ir_vec r;

        ir_eval_op(&f, IR_NAN_DEFAULT, a, &r);
        if (r.s[0])
            return 3;
        x = 2;
        f.attr = (uint8_t)((f.attr & 16) | IR_FLT);
        ir_eval_op(&f, IR_NAN_DEFAULT, a, &r);
        if (r.s[0])
            x = 8;
        f.attr = (uint8_t)((f.attr & 16) | IR_FEQ);
        ir_eval_op(&f, IR_NAN_DEFAULT, a, &r);
        return r.s[0] ? 6 : x;
    }
    }
}

static void run_mem(const struct ir *s, const struct ir_op *o, const union ir_vec *a, struct state *st, union ir_vec *r)
{
    unsigned size = 1u << (o->attr & IR_MSIZE), w = size * 8;
    uint8_t *at = st->mem + (a[0].d[0] - (uintptr_t)guest_mem) + o->imm;
    uint64_t old = 0, b = a[1].d[0], n, m = w >= 64 ? UINT64_MAX : (UINT64_C(1) << w) - 1;
    int64_t so, sb;

    if (size == 16 || ir_is_vec(o->t)) {
        switch (o->op) {
        case IR_LOAD:
            memcpy(r, at, size);
            return;
        case IR_STORE:
            memcpy(at, &a[1], size);
            return;
        case IR_CAS:
            memcpy(r, at, 16);
            if (!memcmp(at, &a[1], 16))
                memcpy(at, &a[2], 16);
            return;
        default:
            r->d[0] = a[1].s[0] && !memcmp(at, &a[2], 16);
            if (r->d[0])
                memcpy(at, &a[3], 16);
            return;
        }
    }
    memcpy(&old, at, size);
    if (o->op == IR_LOAD) {
        if (o->attr & IR_MSWAP)
            old = __builtin_bswap64(old) >> (64 - w);
        if (o->attr & IR_MSIGN)
            old = (uint64_t)((int64_t)(old << (64 - w)) >> (64 - w));
        r->d[0] = o->t == IR_I32 ? (uint32_t)old : old;
        return;
    }
    if (o->op == IR_STORE) {
        if (o->attr & IR_MSWAP)
            b = __builtin_bswap64(b) >> (64 - w);
        memcpy(at, &b, size);
        return;
    }
    r->d[0] = old;
    b &= m;
    so = (int64_t)(old << (64 - w)) >> (64 - w);
    sb = (int64_t)(b << (64 - w)) >> (64 - w);
    n = old;
    switch (o->op) {
    case IR_CAS:
        n = old == b ? a[2].d[0] : old;
        break;
    case IR_CAS_IF:
        r->d[0] = a[1].s[0] && old == (a[2].d[0] & m);
        n = r->d[0] ? a[3].d[0] : old;
        break;
    case IR_XCHG:
        n = b;
        break;
    case IR_FETCH_ADD:
        n = old + b;
        break;
    case IR_FETCH_AND:
        n = old & b;
        break;
    case IR_FETCH_OR:
        n = old | b;
        break;
    case IR_FETCH_XOR:
        n = old ^ b;
        break;
    case IR_FETCH_SMAX:
        n = so > sb ? old : b;
        break;
    case IR_FETCH_SMIN:
        n = so < sb ? old : b;
        break;
    case IR_FETCH_UMAX:
        n = old > b ? old : b;
        break;
    case IR_FETCH_UMIN:
        n = old < b ? old : b;
        break;
    }
    memcpy(at, &n, size);
}

static bool cmp_values(const struct ir *s, const struct ir_op *o, const union ir_vec *a)
{
    struct ir_op e = {.op = IR_CMP, .t = IR_I32, .attr = o->attr};
    union ir_vec v[2] = {a[0], a[1]}, r;

    if (width(s, o->a[0]) == 32)
        for (unsigned i = 0; i < 2; i++)
            v[i].d[0] = (uint64_t)(int64_t)(int32_t)a[i].s[0];
    ir_eval_op(&e, IR_NAN_DEFAULT, v, &r);
    return r.d[0];
}

static void interpret(const struct ir *s, enum ir_nan nan, struct state *st)
{
    static union ir_vec val[IR_MAX_OPS];
    int link = 0;
    bool skipping = false;

    for (unsigned n = 0; n < s->nr; n++) {
        const struct ir_op *o = &s->op[n];
        union ir_vec a[4] = {0}, *r = &val[n];

        for (unsigned i = 0; i < 4; i++)
            if (o->a[i] != IR_NO)
                a[i] = val[o->a[i]];
        if (skipping) {
            skipping = o->op != IR_LABEL;
            link += o->op == IR_EXIT_IF || o->op == IR_EXIT_IF_FL;
            continue;
        }
        *r = (union ir_vec){.d = {0, 0}};
        switch (o->op) {
        case IR_INSN:
        case IR_LABEL:
        case IR_FENCE:
            break;
        case IR_GET:
            if (o->t == IR_V128)
                *r = st->v[((size_t)o->imm - V(0)) / 16];
            else
                r->d[0] = st->x[((size_t)o->imm - X(0)) / 8];
            break;
        case IR_PUT:
            if (o->t == IR_V128)
                st->v[((size_t)o->imm - V(0)) / 16] = a[0];
            else
                st->x[((size_t)o->imm - X(0)) / 8] = a[0].d[0];
            break;
        case IR_CMP:
            r->d[0] = cmp_values(s, o, a);
            break;
        case IR_FCMP: {
            struct ir_op f = *o;

            f.attr |= width(s, o->a[0]) == 64 ? 16 : 0;
            ir_eval_op(&f, nan, a, r);
            break;
        }
        case IR_FL_PUT:
            st->nzcv = a[0].s[0];
            break;
        case IR_FL_GET:
        case IR_FL_ADD ... IR_FL_CCMP:
            r->s[0] = run_flags(s, o, a, st);
            break;
        case IR_FL_TO_BITS:
            r->d[0] = (uint64_t)a[0].s[0] << 28;
            break;
        case IR_FL_COND:
            r->d[0] = arm_cond(a[0].s[0], o->attr);
            break;
        case IR_FL_SELECT:
            *r = arm_cond(a[0].s[0], o->attr) ? a[1] : a[2];
            break;
        case IR_ADC:
            r->d[0] = a[0].d[0] + a[1].d[0] + (a[2].s[0] >> 1 & 1);
            if (o->t == IR_I32)
                r->d[0] = r->s[0];
            break;
        case IR_SBC:
            r->d[0] = a[0].d[0] + ~a[1].d[0] + (a[2].s[0] >> 1 & 1);
            if (o->t == IR_I32)
                r->d[0] = r->s[0];
            break;
        case IR_LOAD:
        case IR_STORE:
        case IR_CAS ... IR_FETCH_UMIN:
            run_mem(s, o, a, st, r);
            break;
        case IR_SKIP_IF:
            skipping = a[0].s[0];
            break;
        case IR_SKIP_IF_FL:
            skipping = arm_cond(a[0].s[0], o->attr);
            break;
        case IR_EXIT_IF:
        case IR_EXIT_IF_FL:
            if (o->op == IR_EXIT_IF ? cmp_values(s, o, a) : arm_cond(a[0].s[0], o->attr)) {
                st->exit = link;
                return;
            }
            link++;
            break;
        case IR_EXIT_CODE:
            st->exit = 1000 + o->attr;
            st->exit_pc = (uint64_t)o->imm;
            return;
        case IR_CALL:
            r->d[0] = helper(NULL, a[0].d[0], a[1].s[0], a[2].d[0]);
            break;
        default:
            ir_eval_op(o, nan, a, r);
            break;
        }
    }
}

/* --- Both, and the comparison --- */
struct rig {
    struct jit_arena arena;
    struct ir_stubs stubs;
    struct ir_env env;
    struct guest *g;
    uint64_t *shadow;
    struct ir *s, *copy;
    bool forwards; /* blocks are built anew so before they are compiled */
};

static void rig_up(struct rig *r, const struct ir_pin *p, unsigned n)
{
    struct jit_buf b;

    assert_null(ir_host_lacks());
    *r = (struct rig){0};
    assert_true(jit_arena_init(&r->arena, 1 << 20, NULL));
    r->env = (struct ir_env){.pin = p, .nr_pins = n, .stubs = &r->stubs};
    b = (struct jit_buf){r->arena.w, r->arena.w, r->arena.w + 65536, r->arena.x - r->arena.w, false};
    assert_true(ir_make_stubs(&b, &r->env, &r->stubs));
    r->g = aligned_alloc(64, align_up(sizeof *r->g, 64));
    memset(r->g, 0, sizeof *r->g);
    ir_ctx_init(&r->g->ir);
    r->shadow = calloc(4096, 8);
    r->s = calloc(1, sizeof *r->s);
    r->copy = calloc(1, sizeof *r->s);
    syscall(SYS_arch_prctl, ARCH_SET_GS, r->g);
}

static void rig_down(struct rig *r)
{
    free(r->s);
    free(r->copy);
    free(r->shadow);
    free(r->g);
    jit_arena_free(&r->arena);
}

/* The block as a front end that asks for forwarding builds it. */
static void rebuild(struct ir *to, const struct ir *from)
{
    ir_val rep[IR_MAX_OPS + 1], a[4];

    to->forwards = true;
    ir_begin(to, from->pc);
    for (unsigned n = 0; n < from->nr; n++) {
        const struct ir_op *o = &from->op[n];

        for (unsigned i = 0; i < 4; i++)
            a[i] = o->a[i] == IR_NO ? IR_NO : rep[o->a[i]];
        to->next_dead = o->dead;
        switch (o->op) {
        case IR_CONST:
            rep[n] = ir_const(to, (enum ir_type)o->t, (uint64_t)o->imm);
            break;
        case IR_GET:
            rep[n] = ir_get(to, (enum ir_type)o->t, (size_t)o->imm);
            break;
        case IR_FL_GET:
            rep[n] = ir_fl_get(to);
            break;
        case IR_PUT:
            ir_put(to, (size_t)o->imm, a[0]);
            break;
        case IR_INSN:
            ir_insn(to, to->pc + (uint64_t)o->imm);
            break;
        default:
            rep[n] = ir_emit(to, (enum ir_opcode)o->op, (enum ir_type)o->t, o->attr, a[0], a[1], a[2], o->imm);
            if (o->a[3] != IR_NO || o->imm2) { /* CALL, CAS_IF: stay as they are */
                to->op[to->nr - 1].a[3] = a[3];
                to->op[to->nr - 1].imm2 = o->imm2;
            }
            break;
        }
    }
    to->next_dead = false;
    assert_true(ir_finish(to, from->guest_len));
}

/* Compiles r->s (spoiling it) and runs it from *st. */
static bool run_compiled(struct rig *r, struct state *st)
{
    struct jit_block_out *out = malloc(sizeof *out);
    uint8_t *at = r->arena.w + 65536;
    struct jit_buf b = {at, at, at + 65536, r->arena.x - r->arena.w, false};
    struct guest *g = r->g;
    unsigned why;

    if (!ir_compile(&b, r->s, &r->env, out)) {
        free(out);
        return false;
    }
    if (getenv("LYREBIRD_TEST_DUMP")) {
        FILE *f = fopen(getenv("LYREBIRD_TEST_DUMP"), "wb");

        fwrite(at, 1, out->len, f);
        fclose(f);
    }
    for (unsigned i = 0; i < out->nr_links; i++) { /* unlinked: to the stubs */
        assert_in_range(out->link[i].stub, 1, out->len);
        put_le32(at + out->link[i].at, out->link[i].stub - (out->link[i].at + 4));
    }
    memcpy(g->x, st->x, sizeof g->x);
    memcpy(g->v, st->v, sizeof g->v);
    memcpy(guest_mem, st->mem, MEM);
    g->ir.flags = ir_flags_of(st->nzcv << 28);
    g->ir.mxcsr = st->mxcsr;
    g->ir.ss_rsp = g->ir.ss_top = (uintptr_t)(r->shadow + 4000);
    g->ir.enter_target = r->arena.x + 65536;
    why = ((unsigned (*)(void))(uintptr_t)r->stubs.enter)();
    memcpy(st->x, g->x, sizeof g->x);
    memcpy(st->v, g->v, sizeof g->v);
    memcpy(st->mem, guest_mem, MEM);
    st->nzcv = ir_nzcv_of(g->ir.flags) >> 28;
    st->mxcsr = g->ir.mxcsr;
    if (why == IR_EXIT_WITH_CODE) {
        st->exit = 1000 + (int)g->ir.t1;
        st->exit_pc = g->ir.t0;
    } else {
        assert_int_equal(why, IR_EXIT_TO_LINK);
        st->exit = (int)g->ir.t1;
    }
    free(out);
    return true;
}

static const char *differ(const struct state *a, const struct state *b)
{
    static char why[200];

    for (unsigned i = 0; i < NR_X; i++)
        if (a->x[i] != b->x[i]) {
            snprintf(why, sizeof why, "x%u: %" PRIx64 " should be %" PRIx64, i, b->x[i], a->x[i]);
            return why;
        }
    for (unsigned i = 0; i < NR_V; i++)
        if (memcmp(&a->v[i], &b->v[i], 16)) {
            snprintf(why, sizeof why, "v%u: %016" PRIx64 "%016" PRIx64 " should be %016" PRIx64 "%016" PRIx64, i,
                     b->v[i].d[1], b->v[i].d[0], a->v[i].d[1], a->v[i].d[0]);
            return why;
        }
    if (memcmp(a->mem, b->mem, MEM))
        return "memory";
    if (a->exit != b->exit || a->exit_pc != b->exit_pc) {
        snprintf(why, sizeof why, "exit %d should be %d", b->exit, a->exit);
        return why;
    }
    if (a->nzcv != b->nzcv) {
        snprintf(why, sizeof why, "flags %x should be %x", b->nzcv, a->nzcv);
        return why;
    }
    if ((a->mxcsr & 0x3d) != (b->mxcsr & 0x3d)) {
        snprintf(why, sizeof why, "mxcsr %x should be %x", b->mxcsr, a->mxcsr);
        return why;
    }
    return NULL;
}

static void random_state(struct state *st)
{
    memset(st, 0, sizeof *st);
    for (unsigned i = 0; i < NR_X; i++)
        st->x[i] = value();
    for (unsigned i = 0; i < NR_V; i++) {
        st->v[i].d[0] = value();
        st->v[i].d[1] = value();
    }
    for (unsigned i = 0; i < MEM; i++)
        st->mem[i] = (uint8_t)rnd();
    st->nzcv = rnd() % 16;
    st->mxcsr = 0x1f80 | (unsigned)(rnd() % 4) << 13;
}

static bool one(struct rig *r, unsigned len, bool loud)
{
    struct state *start = malloc(3 * sizeof *start), *want = start + 1, *got = start + 2;
    struct gen g;
    unsigned at, host;
    const char *why;
    uint64_t began = seed;
    bool ok;

    gen_block(&g, r->s, len);
    random_state(start);
    why = ir_verify(r->s, &at);
    if (why)
        print_error("verify: %s at %u\n", why, at);
    assert_null(why);
    memcpy(r->copy, r->s, sizeof *r->s);
    r->env.nan = rnd() % 2 ? IR_NAN_ARM : IR_NAN_DEFAULT;
    r->env.loops = rnd() % 2;
    *want = *start;
    host = _mm_getcsr();
    _mm_setcsr(start->mxcsr);
    interpret(r->copy, r->env.nan, want);
    want->mxcsr = _mm_getcsr();
    _mm_setcsr(host);
    *got = *start;
    if (r->forwards)
        rebuild(r->s, r->copy);
    ok = run_compiled(r, got);
    r->s->forwards = false;
    why = ok ? differ(want, got) : "does not compile";
    if (why && loud) {
        print_error("seed %" PRIu64 " len %u: %s\n", began, len, why);
        ir_print(r->copy, stderr);
        fprintf(stderr, "after passes:\n");
        ir_print(r->s, stderr);
    }
    free(start);
    return !why;
}

static void random_blocks(const struct ir_pin *p, unsigned n, bool forwards, unsigned count)
{
    struct rig r;

    rig_up(&r, p, n);
    r.forwards = forwards;
    for (unsigned i = 0; i < count; i++) {
        uint64_t began = seed;

        if (!one(&r, 1 + (unsigned)(began >> 20) % 60, false)) {
            for (unsigned len = 1; len <= 60; len++) { /* the shortest that fails tells most */
                seed = began;
                if (!one(&r, len, false)) {
                    seed = began;
                    one(&r, len, true);
                    fail();
                }
            }
            fail_msg("seed %" PRIu64, began);
        }
    }
    rig_down(&r);
}

static unsigned count(unsigned n)
{
    const char *e = getenv("LYREBIRD_TEST_SCALE");

    return n * (e ? (unsigned)atoi(e) : 1);
}

static void compiled_blocks_do_what_the_reference_does(void **state)
{
    random_blocks(pins, ARRAY_LEN(pins), false, count(6000));
}

static void built_with_forwarding_too(void **state)
{
    random_blocks(pins, ARRAY_LEN(pins), true, count(6000));
}

static void with_four_free_registers_too(void **state)
{
    random_blocks(tight, ARRAY_LEN(tight), false, count(3000));
    random_blocks(tight, ARRAY_LEN(tight), true, count(3000));
}

/* --- SCAN, by AVX2 and as the host has it --- */
enum { PAGE = 4096 };
static uint64_t scanned(struct rig *r, bool two, const uint8_t *a, const uint8_t *b, uint64_t ones)
{
    struct state st = {.mxcsr = 0x1f80, .x = {(uintptr_t)a, (uintptr_t)b, ones}};
    struct ir *s = r->s;
    ir_val n;

    ir_begin(s, 0x1000);
    ir_insn(s, 0x1000);
    n = ir_get(s, IR_I64, X(0));
    n = two ? ir_emit(s, IR_SCAN, IR_I64, 1, n, ir_get(s, IR_I64, X(1)), ir_get(s, IR_I64, X(2)), 0)
            : ir_emit(s, IR_SCAN, IR_I64, 0, n, IR_NO, IR_NO, 0);
    ir_put(s, X(6), n);
    ir_exit_code(s, 7, 0x1000);
    assert_true(ir_finish(s, 4));
    assert_true(run_compiled(r, &st));
    assert_int_equal(st.exit, 1007);
    assert_true(st.x[0] == (uintptr_t)a && st.x[1] == (uintptr_t)b && st.x[2] == ones);
    return st.x[6];
}

static uint64_t left(const uint8_t *p) /* in its page */
{
    return PAGE - ((uintptr_t)p & (PAGE - 1));
}

static void search_once(struct rig *r, const uint8_t *a, bool exact)
{
    uint64_t n = scanned(r, false, a, NULL, 0), most = strnlen((const char *)a, left(a)) & ~31u;

    if (n % 32 || n > most || (exact ? n < most : most - n >= 128))
        fail_msg("%" PRIu64 " of %" PRIu64 " bytes, %" PRIu64 " left in the page", n, most, left(a));
}

static void compare_once(struct rig *r, const uint8_t *a, const uint8_t *b, uint64_t ones)
{
    uint64_t n = scanned(r, true, a, b, ones), want = 0;

    if (ones == 0x0101010101010101 && left(a) >= 64 && left(b) >= 64)
        while (want < 64 && a[want] && a[want] == b[want])
            want++;
    assert_int_equal(n, want & ~7u);
}

static const uint8_t *expected;

static void on_fault(int sig, siginfo_t *i, void *context)
{
    _exit(i->si_addr != expected);
}

/* In a process of its own: a jump out of a handler is more than the address sanitizer can follow from this stack. */
static void expect_fault(struct rig *r, bool two, const uint8_t *a, const uint8_t *b, const uint8_t *want)
{
    pid_t child = fork();
    int status;

    if (!child) {
        expected = want;
        sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, NULL);
        scanned(r, two, a, b, 0x0101010101010101);
        _exit(2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Two pages, then one that is not there; before them too. */
static void scan_all(struct rig *r, uint8_t *p, bool exact)
{
    uint8_t *end = p + 2 * PAGE;

    for (unsigned i = 0; i < 3000; i++) {
        unsigned from = rnd() % 4 ? (unsigned)rnd() % 700 + 1 : (unsigned)rnd() % (2 * PAGE) + 1;
        unsigned at = (unsigned)rnd() % (from + 32), other = (unsigned)rnd() % 200 + 1;
        uint8_t *a = end - (rnd() % 4 ? align_up(from, 32) : from), *b = p + PAGE - other;

        if (a > p && rnd() % 2)
            a[-1] = 0; /* in front of it is none of its business */
        if (rnd() % 8)
            *(a + at < end ? a + at : end - 1) = 0;
        search_once(r, a, exact);
        if (i % 3 == 0) {
            a = a > end - 200 ? a : end - 200;
            memcpy(b, a, rnd() % (other < (size_t)(end - a) ? other : (size_t)(end - a)));
            compare_once(r, a, b, rnd() % 8 ? 0x0101010101010101 : 0x0101010101010100);
            memset(b, 'x', other);
        }
        memset(p, 'x', 2 * PAGE);
    }
    for (unsigned i = 0; i < 200; i += 13) {
        expect_fault(r, false, end + i, NULL, end + i);
        expect_fault(r, true, p, end + i, end + i);
        expect_fault(r, true, end + i, p, end + i);
    }
}

static void scans_stay_in_their_page_and_find_what_is_there(void **state)
{
    uint8_t *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct rig r;

    assert_ptr_not_equal(p, MAP_FAILED);
    memset(p, 'x', 4 * PAGE);
    mprotect(p, PAGE, PROT_NONE);
    mprotect(p + 3 * PAGE, PAGE, PROT_NONE);
    for (unsigned i = 0; i < 4; i++) {
        rig_up(&r, i & 1 ? tight : pins, i & 1 ? ARRAY_LEN(tight) : ARRAY_LEN(pins));
        r.env.narrow = i & 2;
        scan_all(&r, p + PAGE, !r.env.narrow && ir_scan_wide());
        rig_down(&r);
    }
    munmap(p, 4 * PAGE);
}

int main(void)
{
    const char *e = getenv("LYREBIRD_TEST_SEED");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compiled_blocks_do_what_the_reference_does),
        cmocka_unit_test(built_with_forwarding_too),
        cmocka_unit_test(with_four_free_registers_too),
        cmocka_unit_test(scans_stay_in_their_page_and_find_what_is_there),
    };

    if (e)
        seed = strtoull(e, NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
