/* Emitting IR: integer instructions. The rare ones (saturation, parallel arithmetic) call pure functions that give the
 * result in the low half and flags (Q, GE) above. */
#include "guest/arm/xlat_int.h"

/* ---- the second operand ---- */
static ir_val carry_now(struct arm_xlat *x)
{
    return ir_fl_cond(x->s, ir_fl_get(x->s), 2);
}

static ir_val shift_imm(struct arm_xlat *x, const struct arm_insn *i, ir_val v, ir_val *carry)
{
    struct ir *s = x->s;
    unsigned n = i->amount;

    if (carry)
        *carry = IR_NO;
    if (i->shift == ARM_SH_RRX) {
        if (carry)
            *carry = v;
        return ir_bin(s, IR_OR, ir_bin_i(s, IR_SHR, v, 1), ir_bin_i(s, IR_SHL, carry_now(x), 31));
    }
    if (!n)
        return v;
    if (carry)
        *carry = ir_bin_i(s, IR_SHR, v, i->shift == ARM_SH_LSL ? 32 - n : n - 1);
    switch (i->shift) {
    case ARM_SH_LSL:
        return ir_bin_i(s, IR_SHL, v, n);
    case ARM_SH_LSR:
        return n == 32 ? ir_c32(s, 0) : ir_bin_i(s, IR_SHR, v, n);
    case ARM_SH_ASR:
        return ir_bin_i(s, IR_SAR, v, n == 32 ? 31 : n);
    default:
        return ir_bin_i(s, IR_ROR, v, n);
    }
}

/* By the low byte of a register: in 64 bits, amounts above 63 as 63. */
static ir_val shift_reg(struct arm_xlat *x, const struct arm_insn *i, ir_val v, ir_val *carry)
{
    struct ir *s = x->s;
    ir_val n8 = ir_ubfx(s, get_r(x, i, i->Rs), 0, 8), n, t, c, r;

    if (i->shift == ARM_SH_ROR) {
        r = ir_bin(s, IR_ROR, v, n8);
        c = carry ? ir_bin_i(s, IR_SHR, r, 31) : IR_NO;
    } else {
        n = ir_select(s, ir_cmp(s, IR_GTU, n8, ir_c32(s, 63)), ir_c32(s, 63), n8);
        n = ir_zext(s, n);
        if (i->shift == ARM_SH_LSL) {
            t = ir_bin(s, IR_SHL, ir_zext(s, v), n);
            r = ir_trunc(s, t);
            c = ir_trunc(s, ir_bin_i(s, IR_SHR, t, 32));
        } else {
            t = ir_bin_i(s, IR_SHL, i->shift == ARM_SH_ASR ? ir_sext(s, v) : ir_zext(s, v), 1);
            t = ir_bin(s, i->shift == ARM_SH_ASR ? IR_SAR : IR_SHR, t, n);
            r = ir_trunc(s, ir_bin_i(s, IR_SHR, t, 1));
            c = ir_trunc(s, t);
        }
    }
    if (carry)
        *carry = ir_select(s, n8, c, carry_now(x));
    return r;
}

ir_val operand2(struct arm_xlat *x, const struct arm_insn *i, ir_val *carry)
{
    if (i->op2 == ARM_OP_IMM) {
        if (carry)
            *carry = i->carry == ARM_CARRY_KEPT ? IR_NO : ir_c32(x->s, i->carry);
        return ir_c32(x->s, i->imm);
    }
    if (i->op2 == ARM_OP_SHIFTED)
        return shift_imm(x, i, get_r(x, i, i->Rm), carry);
    return shift_reg(x, i, get_r(x, i, i->Rm), carry);
}

/* ---- data processing ---- */
static void logic_flags(struct arm_xlat *x, ir_val r, ir_val carry)
{
    struct ir *s = x->s;

    ir_fl_put(s, carry == IR_NO ? ir_fl(s, IR_FL_NZ, r, ir_fl_get(s), IR_NO)
                                : ir_fl(s, IR_FL_NZC, r, carry, ir_fl_get(s)));
}

static ir_val logic(struct arm_xlat *x, unsigned kind, ir_val a, ir_val b)
{
    struct ir *s = x->s;

    switch (kind) {
    case ARM_AND:
    case ARM_TST:
        return ir_bin(s, IR_AND, a, b);
    case ARM_EOR:
    case ARM_TEQ:
        return ir_bin(s, IR_XOR, a, b);
    case ARM_ORR:
        return ir_bin(s, IR_OR, a, b);
    case ARM_ORN:
        return ir_bin(s, IR_OR, a, ir_un(s, IR_NOT, b));
    case ARM_BIC:
        return ir_bin(s, IR_ANDN, a, b);
    case ARM_MVN:
        return ir_un(s, IR_NOT, b);
    default: /* MOV */
        return b;
    }
}

static bool is_arith(unsigned kind)
{
    switch (kind) {
    case ARM_SUB:
    case ARM_RSB:
    case ARM_ADD:
    case ARM_ADC:
    case ARM_SBC:
    case ARM_RSC:
    case ARM_CMP:
    case ARM_CMN:
        return true;
    default:
        return false;
    }
}

static void arith(struct arm_xlat *x, const struct arm_insn *i, ir_val a, ir_val b)
{
    struct ir *s = x->s;
    bool sub = i->kind != ARM_ADD && i->kind != ARM_CMN && i->kind != ARM_ADC;
    bool with_carry = i->kind == ARM_ADC || i->kind == ARM_SBC || i->kind == ARM_RSC;
    ir_val r = IR_NO, f = with_carry ? ir_fl_get(s) : IR_NO;

    if (i->kind == ARM_RSB || i->kind == ARM_RSC) {
        ir_val t = a;

        a = b;
        b = t;
    }
    if (i->kind != ARM_CMP && i->kind != ARM_CMN)
        r = with_carry ? ir_tri(s, sub ? IR_SBC : IR_ADC, a, b, f) : ir_bin(s, sub ? IR_SUB : IR_ADD, a, b);
    if (i->S)
        ir_fl_put(s, with_carry ? ir_fl(s, sub ? IR_FL_SBC : IR_FL_ADC, a, b, f)
                                : ir_fl(s, sub ? IR_FL_SUB : IR_FL_ADD, a, b, IR_NO));
    if (r != IR_NO)
        put_alu(x, i, i->Rd, r);
}

bool gen_dp(struct arm_xlat *x, const struct arm_insn *i)
{
    bool test = i->kind == ARM_TST || i->kind == ARM_TEQ || i->kind == ARM_CMP || i->kind == ARM_CMN,
         set = i->S || test;
    bool one = i->kind == ARM_MOV || i->kind == ARM_MVN;
    ir_val carry = IR_NO, b, a, r;

    if (set && !test && i->Rd == ARM_PC) /* an exception return */
        return false;
    b = operand2(x, i, set && !is_arith(i->kind) ? &carry : NULL);
    a = one ? b : get_r(x, i, i->Rn);
    if (is_arith(i->kind)) {
        struct arm_insn t = *i;

        t.S = set;
        arith(x, &t, a, b);
        return true;
    }
    r = logic(x, i->kind, a, b);
    if (set)
        logic_flags(x, r, carry);
    if (i->kind != ARM_TST && i->kind != ARM_TEQ)
        put_alu(x, i, i->Rd, r);
    return true;
}

bool gen_adr(struct arm_xlat *x, const struct arm_insn *i)
{
    put_r(x, i->Rd, ir_c32(x->s, (arm_pc_read(i) & ~3u) + i->imm));
    return true;
}

bool gen_movw(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;

    if (i->kind == ARM_MOVW)
        put_r(x, i->Rd, ir_c32(s, i->imm));
    else
        put_r(x, i->Rd, ir_bfi(s, get_r(x, i, i->Rd), ir_c32(s, i->imm), 16, 16));
    return true;
}

bool gen_bits(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val v = get_r(x, i, i->Rm);

    switch (i->kind) {
    case ARM_CLZ:
        v = ir_un(s, IR_CLZ, v);
        break;
    case ARM_REV:
        v = ir_un(s, IR_BSWAP, v);
        break;
    case ARM_REV16:
        v = ir_un(s, IR_REV16, v);
        break;
    case ARM_RBIT:
        v = ir_un(s, IR_BITREV, v);
        break;
    default: /* REVSH */
        v = ir_sbfx(s, ir_un(s, IR_REV16, v), 0, 16);
        break;
    }
    put_r(x, i->Rd, v);
    return true;
}

bool gen_bfx(struct arm_xlat *x, const struct arm_insn *i)
{
    ir_val v = get_r(x, i, i->Rn);

    put_r(x, i->Rd, i->kind == ARM_SBFX ? ir_sbfx(x->s, v, i->lsb, i->width) : ir_ubfx(x->s, v, i->lsb, i->width));
    return true;
}

bool gen_bfi(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val from = i->kind == ARM_BFC ? ir_c32(s, 0) : get_r(x, i, i->Rn);

    put_r(x, i->Rd, ir_bfi(s, get_r(x, i, i->Rd), from, i->lsb, i->msb - i->lsb + 1));
    return true;
}

bool gen_extend(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val v = get_r(x, i, i->Rm), lo, hi;
    bool add = i->kind == ARM_SXTAB || i->kind == ARM_SXTAH || i->kind == ARM_UXTAB || i->kind == ARM_UXTAH;

    if (i->rot)
        v = ir_bin_i(s, IR_ROR, v, 8 * i->rot);
    switch (i->kind) {
    case ARM_SXTB:
    case ARM_SXTAB:
        v = ir_sbfx(s, v, 0, 8);
        break;
    case ARM_SXTH:
    case ARM_SXTAH:
        v = ir_sbfx(s, v, 0, 16);
        break;
    case ARM_UXTB:
    case ARM_UXTAB:
        v = ir_ubfx(s, v, 0, 8);
        break;
    case ARM_UXTH:
    case ARM_UXTAH:
        v = ir_ubfx(s, v, 0, 16);
        break;
    default: /* two halves */
        if (i->kind == ARM_SXTB16 || i->kind == ARM_SXTAB16) {
            lo = ir_sbfx(s, v, 0, 8);
            hi = ir_sbfx(s, v, 16, 8);
        } else {
            lo = ir_ubfx(s, v, 0, 8);
            hi = ir_ubfx(s, v, 16, 8);
        }
        if (i->kind == ARM_SXTAB16 || i->kind == ARM_UXTAB16) {
            ir_val n = get_r(x, i, i->Rn);

            lo = ir_bin(s, IR_ADD, lo, n);
            hi = ir_bin(s, IR_ADD, hi, ir_bin_i(s, IR_SHR, n, 16));
        }
        v = ir_bfi(s, lo, hi, 16, 16);
        break;
    }
    if (add)
        v = ir_bin(s, IR_ADD, v, get_r(x, i, i->Rn));
    put_r(x, i->Rd, v);
    return true;
}

bool gen_pkh(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val n = get_r(x, i, i->Rn), m = shift_imm(x, i, get_r(x, i, i->Rm), NULL);

    put_r(x, i->Rd, i->tb ? ir_bfi(s, n, m, 0, 16) : ir_bfi(s, m, n, 0, 16));
    return true;
}

bool gen_crc(struct arm_xlat *x, const struct arm_insn *i)
{
    if (i->sz == 3)
        return false;
    put_r(x, i->Rd,
          ir_bin_x(x->s, i->C ? IR_CRC32C : IR_CRC32, IR_I32, i->sz, get_r(x, i, i->Rn), get_r(x, i, i->Rm), 0));
    return true;
}

/* ---- multiply and divide ---- */
bool gen_mul(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val r = ir_bin(s, IR_MUL, get_r(x, i, i->Rn), get_r(x, i, i->Rm));

    if (i->kind == ARM_MLA)
        r = ir_bin(s, IR_ADD, get_r(x, i, i->Ra), r);
    else if (i->kind == ARM_MLS)
        r = ir_bin(s, IR_SUB, get_r(x, i, i->Ra), r);
    if (i->S)
        ir_fl_put(s, ir_fl(s, IR_FL_NZ, r, ir_fl_get(s), IR_NO));
    put_r(x, i->Rd, r);
    return true;
}

static ir_val pair64(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;

    return ir_bin(s, IR_OR, ir_zext(s, get_r(x, i, i->Rl)), ir_bin_i(s, IR_SHL, ir_zext(s, get_r(x, i, i->Rh)), 32));
}

static void put_pair64(struct arm_xlat *x, const struct arm_insn *i, ir_val v)
{
    put_r(x, i->Rl, ir_trunc(x->s, v));
    put_r(x, i->Rh, ir_trunc(x->s, ir_bin_i(x->s, IR_SHR, v, 32)));
}

bool gen_mull(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val n = get_r(x, i, i->Rn), m = get_r(x, i, i->Rm), r;

    if (i->kind == ARM_SMULL || i->kind == ARM_SMLAL)
        r = ir_bin(s, IR_MUL, ir_sext(s, n), ir_sext(s, m));
    else
        r = ir_bin(s, IR_MUL, ir_zext(s, n), ir_zext(s, m));
    if (i->kind == ARM_SMLAL || i->kind == ARM_UMLAL)
        r = ir_bin(s, IR_ADD, r, pair64(x, i));
    if (i->kind == ARM_UMAAL) {
        r = ir_bin(s, IR_ADD, r, ir_zext(s, get_r(x, i, i->Rl)));
        r = ir_bin(s, IR_ADD, r, ir_zext(s, get_r(x, i, i->Rh)));
    }
    if (i->S)
        ir_fl_put(s, ir_fl(s, IR_FL_NZ, r, ir_fl_get(s), IR_NO));
    put_pair64(x, i, r);
    return true;
}

bool gen_div(struct arm_xlat *x, const struct arm_insn *i)
{
    put_r(x, i->Rd, ir_bin(x->s, i->kind == ARM_SDIV ? IR_DIVS : IR_DIVU, get_r(x, i, i->Rn), get_r(x, i, i->Rm)));
    return true;
}

static ir_val half(struct arm_xlat *x, ir_val v, unsigned high) /* sign-extended to 64 bits */
{
    return ir_sext(x->s, ir_sbfx(x->s, v, high ? 16 : 0, 16));
}

/* Adds a sum of products (I64) and Ra (15: none), Q when it does not fit 32 bits. */
static bool accumulate(struct arm_xlat *x, const struct arm_insn *i, ir_val sum)
{
    struct ir *s = x->s;
    ir_val r;

    if (i->Ra != 15)
        sum = ir_bin(s, IR_ADD, sum, ir_sext(s, get_r(x, i, i->Ra)));
    r = ir_trunc(s, sum);
    ir_put(s, AC_OFF(q), ir_bin(s, IR_OR, ir_get(s, IR_I32, AC_OFF(q)), ir_cmp(s, IR_NE, ir_sext(s, r), sum)));
    put_r(x, i->Rd, r);
    return true;
}

bool gen_smlaxy(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val n = get_r(x, i, i->Rn), m = half(x, get_r(x, i, i->Rm), i->M), r;

    if (i->kind == ARM_SMLAWY || i->kind == ARM_SMULWY)
        r = ir_bin_i(s, IR_SAR, ir_bin(s, IR_MUL, ir_sext(s, n), m), 16);
    else
        r = ir_bin(s, IR_MUL, half(x, n, i->N), m);
    if (i->Ra != 15)
        return accumulate(x, i, r);
    put_r(x, i->Rd, ir_trunc(s, r));
    return true;
}

static ir_val dual(struct arm_xlat *x, const struct arm_insn *i, bool sub)
{
    struct ir *s = x->s;
    ir_val n = get_r(x, i, i->Rn), m = get_r(x, i, i->Rm);

    return ir_bin(s, sub ? IR_SUB : IR_ADD, ir_bin(s, IR_MUL, half(x, n, 0), half(x, m, i->M)),
                  ir_bin(s, IR_MUL, half(x, n, 1), half(x, m, !i->M)));
}

bool gen_smlad(struct arm_xlat *x, const struct arm_insn *i)
{
    return accumulate(x, i, dual(x, i, i->kind == ARM_SMUSD || i->kind == ARM_SMLSD));
}

bool gen_smlaldxy(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val r;

    if (i->kind == ARM_SMLALXY)
        r = ir_bin(s, IR_MUL, half(x, get_r(x, i, i->Rn), i->N), half(x, get_r(x, i, i->Rm), i->M));
    else
        r = dual(x, i, i->kind == ARM_SMLSLD);
    put_pair64(x, i, ir_bin(s, IR_ADD, r, pair64(x, i)));
    return true;
}

bool gen_smmla(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val r = ir_bin(s, IR_MUL, ir_sext(s, get_r(x, i, i->Rn)), ir_sext(s, get_r(x, i, i->Rm)));

    if (i->Ra != 15)
        r = ir_bin(s, i->kind == ARM_SMMLS ? IR_SUB : IR_ADD, ir_bin_i(s, IR_SHL, ir_zext(s, get_r(x, i, i->Ra)), 32),
                   r);
    if (i->R)
        r = ir_bin_i(s, IR_ADD, r, UINT64_C(0x80000000));
    put_r(x, i->Rd, ir_trunc(s, ir_bin_i(s, IR_SHR, r, 32)));
    return true;
}

/* ---- saturating and parallel: pure functions ---- */
static uint64_t sat_s(int64_t v, unsigned bits) /* bits 1..32; Q in bit 32 */
{
    int64_t hi = (INT64_C(1) << (bits - 1)) - 1, lo = -hi - 1;

    return v > hi || v < lo ? (uint64_t)(uint32_t)(v > hi ? hi : lo) | UINT64_C(1) << 32 : (uint32_t)v;
}

static uint64_t sat_u(int64_t v, unsigned bits) /* bits 0..31 */
{
    int64_t hi = (INT64_C(1) << bits) - 1;

    return v > hi || v < 0 ? (uint64_t)(v > hi ? hi : 0) | UINT64_C(1) << 32 : (uint64_t)v;
}

static uint64_t help_sat(void *ctx, uint64_t v, uint64_t bits, uint64_t uns)
{
    int64_t s = (int32_t)v;

    return uns ? sat_u(s, (unsigned)bits) : sat_s(s, (unsigned)bits);
}

static uint64_t help_sat16(void *ctx, uint64_t v, uint64_t bits, uint64_t uns)
{
    uint64_t lo = help_sat(ctx, (uint64_t)(int16_t)v, bits, uns),
             hi = help_sat(ctx, (uint64_t)(int16_t)(v >> 16), bits, uns);

    return (lo & 0xffff) | (hi & 0xffff) << 16 | ((lo | hi) & UINT64_C(1) << 32);
}

static uint64_t help_qadd(void *ctx, uint64_t m, uint64_t n, uint64_t kind)
{
    int64_t a = (int32_t)m, b = (int32_t)n;
    uint64_t q = 0;

    if (kind == ARM_QDADD || kind == ARM_QDSUB) {
        q = sat_s(2 * b, 32);
        b = (int32_t)q;
        q &= UINT64_C(1) << 32;
    }
    return sat_s(kind == ARM_QADD || kind == ARM_QDADD ? a + b : a - b, 32) | q;
}

static uint64_t help_usad(void *ctx, uint64_t n, uint64_t m)
{
    unsigned sum = 0;

    for (unsigned k = 0; k < 32; k += 8) {
        int d = (int)(n >> k & 0xff) - (int)(m >> k & 0xff);

        sum += (unsigned)(d < 0 ? -d : d);
    }
    return sum;
}

enum par { PAR_S, PAR_Q, PAR_SH, PAR_U, PAR_UQ, PAR_UH };

/* One lane: v is the exact sum or difference. Result in the low bits, GE above. */
static uint32_t lane(enum par how, int v, unsigned bits, bool add, bool *ge)
{
    *ge = how == PAR_U ? (add ? v >= 1 << bits : v >= 0) : v >= 0;
    switch (how) {
    case PAR_Q:
        return (uint32_t)sat_s(v, bits);
    case PAR_UQ:
        return (uint32_t)sat_u(v, bits);
    case PAR_SH:
    case PAR_UH:
        return (uint32_t)(v >> 1);
    default:
        return (uint32_t)v;
    }
}

static int part(uint64_t v, unsigned at, unsigned bits, bool uns)
{
    uint32_t p = (uint32_t)v >> at & ((1u << bits) - 1);

    return uns ? (int)p : (int)(p << (32 - bits)) >> (32 - bits);
}

/* op: 0 ADD16, 1 ASX, 2 SAX, 3 SUB16, 4 ADD8, 5 SUB8. */
static uint64_t help_parallel(void *ctx, uint64_t n, uint64_t m, uint64_t what)
{
    enum par how = (enum par)(what >> 4);
    unsigned op = what & 15, bits = op >= 4 ? 8 : 16;
    bool uns = how >= PAR_U, cross = op == 1 || op == 2;
    uint64_t r = 0, ges = 0;

    for (unsigned at = 0; at < 32; at += bits) {
        bool add = op == 0 || op == 4 || (op == 1 && at) || (op == 2 && !at), ge;
        int a = part(n, at, bits, uns), b = part(m, cross ? 16 - at : at, bits, uns);
        uint32_t v = lane(how, add ? a + b : a - b, bits, add, &ge) & ((1u << bits) - 1);

        r |= (uint64_t)v << at;
        if (ge)
            ges |= (bits == 8 ? UINT64_C(1) : UINT64_C(3)) << at / 8;
    }
    return r | ges << 32;
}

/* The result, and Q from above it. */
static bool put_sat(struct arm_xlat *x, unsigned rd, ir_val v)
{
    struct ir *s = x->s;

    ir_put(s, AC_OFF(q), ir_bin(s, IR_OR, ir_get(s, IR_I32, AC_OFF(q)), ir_trunc(s, ir_bin_i(s, IR_SHR, v, 32))));
    put_r(x, rd, ir_trunc(s, v));
    return true;
}

bool gen_sat(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    bool uns = i->kind == ARM_USAT;

    return put_sat(x, i->Rd,
                   call1(x, IR_I64, (void *)help_sat, shift_imm(x, i, get_r(x, i, i->Rn), NULL),
                         ir_c64(s, uns ? i->sat : i->sat + 1), ir_c64(s, uns)));
}

bool gen_sat16(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    bool uns = i->kind == ARM_USAT16;

    return put_sat(
        x, i->Rd,
        call1(x, IR_I64, (void *)help_sat16, get_r(x, i, i->Rn), ir_c64(s, uns ? i->sat : i->sat + 1), ir_c64(s, uns)));
}

bool gen_qadd(struct arm_xlat *x, const struct arm_insn *i)
{
    return put_sat(x, i->Rd,
                   call1(x, IR_I64, (void *)help_qadd, get_r(x, i, i->Rm), get_r(x, i, i->Rn), ir_c64(x->s, i->kind)));
}

bool gen_usad(struct arm_xlat *x, const struct arm_insn *i)
{
    ir_val v = call1(x, IR_I32, (void *)help_usad, get_r(x, i, i->Rn), get_r(x, i, i->Rm), IR_NO);

    put_r(x, i->Rd, i->Ra == 15 ? v : ir_bin(x->s, IR_ADD, v, get_r(x, i, i->Ra)));
    return true;
}

/* GE's bits to bytes by a product whose parts do not meet. */
bool gen_sel(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val m = ir_bin_i(s, IR_MUL, ir_get(s, IR_I32, AC_OFF(ge)), 0x00204081);

    m = ir_bin_i(s, IR_MUL, ir_bin_i(s, IR_AND, m, 0x01010101), 0xff);
    put_r(x, i->Rd,
          ir_bin(s, IR_OR, ir_bin(s, IR_AND, get_r(x, i, i->Rn), m), ir_bin(s, IR_ANDN, get_r(x, i, i->Rm), m)));
    return true;
}

/* Sums and differences of lanes as the host's vectors make them; IR_NO: not one of those. */
static ir_val lanes(struct arm_xlat *x, unsigned how, unsigned op, ir_val a, ir_val b, ir_val *ge)
{
    static const enum ir_opcode ops[][2] = {
        [PAR_S] = {IR_VADD, IR_VSUB}, [PAR_Q] = {IR_VQADDS, IR_VQSUBS},  [PAR_SH] = {IR_VHADDS, IR_VHSUBS},
        [PAR_U] = {IR_VADD, IR_VSUB}, [PAR_UQ] = {IR_VQADDU, IR_VQSUBU}, [PAR_UH] = {IR_VHADDU, IR_VHSUBU}};
    struct ir *s = x->s;
    bool sub = op & 1;
    unsigned l = op >= 4 ? IR_B : IR_H;
    ir_val r, t;

    if (op == 1 || op == 2)
        return IR_NO;
    a = ir_un_x(s, IR_VCAST, IR_V128, 0, ir_un_t(s, IR_FMOV_I, IR_F32, a), 0);
    b = ir_un_x(s, IR_VCAST, IR_V128, 0, ir_un_t(s, IR_FMOV_I, IR_F32, b), 0);
    r = ir_bin_x(s, ops[how][sub], IR_V128, l, a, b, 0);
    if (how == PAR_U)
        t = sub ? ir_bin_x(s, IR_VCMPGEU, IR_V128, l, a, b, 0) : ir_bin_x(s, IR_VCMPGTU, IR_V128, l, a, r, 0);
    else /* the sign of the exact result, which half of it has too */
        t = ir_bin_x(s, sub ? IR_VHSUBS : IR_VHADDS, IR_V128, l, a, b, 0);
    if (how == PAR_S)
        t = ir_bin_x(s, IR_VCMPGES, IR_V128, l, t, ir_vconst(s, 0, true), 0);
    *ge = ir_bin_i(s, IR_AND, ir_un_t(s, IR_VMSKB, IR_I32, t), 15);
    return ir_un_x(s, IR_VGETU, IR_I32, IR_S, r, 0);
}

#define PAR6(prefix, how)                                                                                              \
    case ARM_##prefix##ADD16:                                                                                          \
        return (how) << 4 | 0;                                                                                         \
    case ARM_##prefix##ASX:                                                                                            \
        return (how) << 4 | 1;                                                                                         \
    case ARM_##prefix##SAX:                                                                                            \
        return (how) << 4 | 2;                                                                                         \
    case ARM_##prefix##SUB16:                                                                                          \
        return (how) << 4 | 3;                                                                                         \
    case ARM_##prefix##ADD8:                                                                                           \
        return (how) << 4 | 4;                                                                                         \
    case ARM_##prefix##SUB8:                                                                                           \
        return (how) << 4 | 5;

static unsigned parallel_code(unsigned kind)
{
    switch (kind) {
        PAR6(S, PAR_S)
        PAR6(Q, PAR_Q)
        PAR6(SH, PAR_SH)
        PAR6(U, PAR_U)
        PAR6(UQ, PAR_UQ)
        PAR6(UH, PAR_UH)
    default:
        return 0;
    }
}

bool gen_parallel(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned code = parallel_code(i->kind);
    ir_val ge, v = lanes(x, code >> 4, code & 15, get_r(x, i, i->Rn), get_r(x, i, i->Rm), &ge);

    if (v != IR_NO) {
        if (code >> 4 == PAR_S || code >> 4 == PAR_U)
            ir_put(s, AC_OFF(ge), ge);
        put_r(x, i->Rd, v);
        return true;
    }
    v = call1(x, IR_I64, (void *)help_parallel, get_r(x, i, i->Rn), get_r(x, i, i->Rm), ir_c64(s, code));

    if (code >> 4 == PAR_S || code >> 4 == PAR_U)
        ir_put(s, AC_OFF(ge), ir_trunc(s, ir_bin_i(s, IR_SHR, v, 32)));
    put_r(x, i->Rd, ir_trunc(s, v));
    return true;
}
