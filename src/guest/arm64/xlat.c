/* Emitting IR: the block loop, integer instructions, branches, system registers. Loads and stores are in xlat_mem.c,
 * floating point and SIMD in xlat_fp.c and xlat_simd.c; what none of them emits calls the interpreter's function. */
#include "guest/arm64/sem.h"
#include "guest/arm64/xlat_int.h"

enum {
    OPS_PER_INSN = 60,    /* most ops one instruction emits */
    ROOM_BEHIND_CALL = 40 /* a block that has more than the rest of its instructions ends at a call: what is behind it
                             is translated twice when something jumps there */
};

#define PIN(r, host)                                                                                                   \
    {                                                                                                                  \
        offsetof(struct a64_cpu, x) + 8 * (r), host, false                                                             \
    }
#define PINV(r, host)                                                                                                  \
    {                                                                                                                  \
        offsetof(struct a64_cpu, v) + 16 * (r), host, true                                                             \
    }
/* Four general and five vector registers stay free: some instructions need them, and what does not compile would be
 * interpreted each time (tests/unit/guest_arm64). */
const struct ir_pin a64_pins[] = {{offsetof(struct a64_cpu, sp), JR_RBX, false},
                                  PIN(29, JR_RBP),
                                  PIN(30, JR_R12),
                                  PIN(0, JR_RSI),
                                  PIN(1, JR_RDI),
                                  PIN(2, JR_R8),
                                  PIN(3, JR_R9),
                                  PIN(4, JR_R10),
                                  PIN(21, JR_R11),
                                  PIN(19, JR_R13),
                                  PIN(20, JR_R14),
                                  PINV(0, 0),
                                  PINV(1, 1),
                                  PINV(2, 2),
                                  PINV(3, 3),
                                  PINV(4, 4),
                                  PINV(5, 5),
                                  PINV(6, 6),
                                  PINV(7, 7),
                                  PINV(16, 8),
                                  PINV(17, 9),
                                  PINV(18, 10)};
const unsigned a64_nr_pins = ARRAY_LEN(a64_pins);

/* ---- helpers called from blocks ---- */
static uint64_t help_sem(void *ctx, uint64_t w, uint64_t kind, uint64_t row)
{
    struct a64_cpu *c = ctx;

    a64_rows[row].sem(c, (uint32_t)w, (unsigned)kind);
    return 0;
}

/* MSR FPCR: leaves when the mode of translation changes; the instruction is then executed again in the other mode. */
static uint64_t help_fpcr(void *ctx, uint64_t v)
{
    struct a64_cpu *c = ctx;
    bool was = a64_fp_special(c->fpcr);

    a64_sysreg_write(c, A64_REG_FPCR, v);
    return was != a64_fp_special(c->fpcr) ? A64_EXIT_MODE + 1 : 0;
}

static uint64_t help_cntvct(void *ctx)
{
    return a64_cntvct();
}

void xlat_call_sem(struct a64_xlat *x, int row, uint32_t w)
{
    struct ir *s = x->s;

    ir_call(s, IR_VOID, IR_CALL_STATE, (void *)help_sem, ir_c64(s, w), ir_c64(s, a64_kind_of(row)), ir_c64(s, row),
            IR_NO);
}

/* ---- arithmetic ---- */
static void add_sub(struct a64_xlat *x, uint32_t w, ir_val a, ir_val b, bool imm_form)
{
    struct ir *s = x->s;
    bool sub = A64_BIT(w, 30), flags = A64_BIT(w, 29);
    ir_val r = ir_bin(s, sub ? IR_SUB : IR_ADD, a, b);

    if (flags)
        ir_fl_put(s, ir_fl(s, sub ? IR_FL_SUB : IR_FL_ADD, a, b, IR_NO));
    if (imm_form && !flags)
        put_xsp(x, A64_RD(w), r);
    else
        put_x(x, A64_RD(w), r);
}

static ir_val narrow(struct a64_xlat *x, uint32_t w, ir_val v)
{
    return w >> 31 ? v : ir_trunc(x->s, v);
}

static void gen_addsub_imm(struct a64_xlat *x, uint32_t w)
{
    uint64_t imm = (uint64_t)a64_bits(w, 21, 10) << (A64_BIT(w, 22) ? 12 : 0);

    add_sub(x, w, narrow(x, w, get_xsp(x, A64_RN(w))), ir_const(x->s, width(w), imm), true);
}

static ir_val shifted(struct a64_xlat *x, uint32_t w)
{
    static const enum ir_opcode op[4] = {IR_SHL, IR_SHR, IR_SAR, IR_ROR};
    ir_val v = get_t(x, width(w), A64_RM(w));
    unsigned n = a64_bits(w, 15, 10);

    return n && A64_RM(w) != A64_ZR ? ir_bin_i(x->s, op[a64_bits(w, 23, 22)], v, n) : v;
}

static ir_val extended(struct a64_xlat *x, unsigned rm, unsigned option, unsigned shift)
{
    struct ir *s = x->s;
    ir_val v = get_x(x, rm);

    if ((option & 3) != 3)
        v = option & 4 ? ir_sbfx(s, v, 0, 8u << (option & 3)) : ir_ubfx(s, v, 0, 8u << (option & 3));
    return shift ? ir_bin_i(s, IR_SHL, v, shift) : v;
}

static void gen_logic(struct a64_xlat *x, uint32_t w, ir_val b, bool invert, bool imm_form)
{
    struct ir *s = x->s;
    unsigned opc = a64_bits(w, 30, 29);
    ir_val a, r;

    if (opc == 1 && A64_RN(w) == A64_ZR) { /* MOV, MVN */
        r = invert ? ir_un(s, IR_NOT, b) : b;
    } else {
        a = get_t(x, width(w), A64_RN(w));
        if (opc == 0 || opc == 3) {
            r = ir_bin(s, invert ? IR_ANDN : IR_AND, a, b);
        } else {
            if (invert)
                b = ir_un(s, IR_NOT, b);
            r = ir_bin(s, opc == 1 ? IR_OR : IR_XOR, a, b);
        }
    }
    if (opc == 3)
        ir_fl_put(s, ir_fl(s, IR_FL_LOGIC, r, IR_NO, IR_NO));
    if (imm_form && opc != 3)
        put_xsp(x, A64_RD(w), r);
    else
        put_x(x, A64_RD(w), r);
}

static void gen_movw(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned shift = 16 * a64_bits(w, 22, 21);
    uint64_t imm = (uint64_t)a64_bits(w, 20, 5) << shift;

    if (kind == A64_MOVK) {
        ir_val old = get_t(x, width(w), A64_RD(w));

        put_x(x, A64_RD(w), ir_bfi(s, old, ir_const(s, width(w), imm >> shift), shift, 16));
    } else {
        imm = kind == A64_MOVN ? ~imm : imm;
        put_x(x, A64_RD(w), ir_c64(s, w >> 31 ? imm : (uint32_t)imm));
    }
}

static void gen_bitfield(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned r = a64_bits(w, 21, 16), m = a64_bits(w, 15, 10), bits = w >> 31 ? 64 : 32, len, pos;
    ir_val v = get_t(x, width(w), A64_RN(w));

    if (m >= r) {
        len = m - r + 1;
        if (kind == A64_BFM) {
            if (r)
                v = ir_bin_i(s, IR_SHR, v, r);
            v = ir_bfi(s, get_t(x, width(w), A64_RD(w)), v, 0, len);
        } else {
            v = kind == A64_SBFM ? ir_sbfx(s, v, r, len) : ir_ubfx(s, v, r, len);
        }
    } else {
        len = m + 1;
        pos = bits - r;
        if (kind == A64_BFM) {
            v = ir_bfi(s, get_t(x, width(w), A64_RD(w)), v, pos, len);
        } else {
            if (pos + len < bits)
                v = kind == A64_SBFM ? ir_sbfx(s, v, 0, len) : ir_ubfx(s, v, 0, len);
            v = ir_bin_i(s, IR_SHL, v, pos);
        }
    }
    put_x(x, A64_RD(w), v);
}

static void gen_extr(struct a64_xlat *x, uint32_t w)
{
    ir_val lo = get_t(x, width(w), A64_RM(w));
    unsigned n = a64_bits(w, 15, 10);

    if (A64_RN(w) == A64_RM(w)) /* ROR */
        lo = ir_bin_i(x->s, IR_ROR, lo, n);
    else
        lo = ir_bin_x(x->s, IR_EXTR, width(w), 0, get_t(x, width(w), A64_RN(w)), lo, n);
    put_x(x, A64_RD(w), lo);
}

static void gen_adc(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    bool sub = A64_BIT(w, 30);
    ir_val a = get_t(x, width(w), A64_RN(w)), b = get_t(x, width(w), A64_RM(w)), f = ir_fl_get(s);
    ir_val r = ir_tri(s, sub ? IR_SBC : IR_ADC, a, b, f);

    if (A64_BIT(w, 29))
        ir_fl_put(s, ir_fl(s, sub ? IR_FL_SBC : IR_FL_ADC, a, b, f));
    put_x(x, A64_RD(w), r);
}

static void gen_ccmp(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned cond = a64_bits(w, 15, 12);
    bool add = !A64_BIT(w, 30);
    ir_val a = get_t(x, width(w), A64_RN(w));
    ir_val b = A64_BIT(w, 11) ? ir_const(s, width(w), A64_RM(w)) : get_t(x, width(w), A64_RM(w));

    if (cond >= 14)
        ir_fl_put(s, ir_fl(s, add ? IR_FL_ADD : IR_FL_SUB, a, b, IR_NO));
    else
        ir_fl_put(s, ir_fl_ccmp(s, ir_fl_get(s), cond, add, a, b, w & 15));
}

static void gen_csel(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned cond = a64_bits(w, 15, 12);
    bool inv = A64_BIT(w, 30), inc = A64_BIT(w, 10);
    ir_val a = get_t(x, width(w), A64_RN(w)), b;

    if (cond < 14) {
        if (inc && !inv && A64_RN(w) == A64_ZR && A64_RM(w) == A64_ZR) { /* CSET */
            put_x(x, A64_RD(w), ir_fl_cond(s, ir_fl_get(s), cond ^ 1));
            return;
        }
        b = get_t(x, width(w), A64_RM(w));
        if (inv)
            b = ir_un(s, inc ? IR_NEG : IR_NOT, b);
        else if (inc)
            b = ir_bin_i(s, IR_ADD, b, 1);
        a = ir_fl_select(s, ir_fl_get(s), cond, a, b);
    }
    put_x(x, A64_RD(w), a);
}

static void gen_dp2(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    ir_val a = get_t(x, width(w), A64_RN(w)), b = get_t(x, width(w), A64_RM(w));
    enum ir_opcode op;

    switch (kind) {
    case A64_UDIV:
        op = IR_DIVU;
        break;
    case A64_SDIV:
        op = IR_DIVS;
        break;
    case A64_LSLV:
        op = IR_SHL;
        break;
    case A64_LSRV:
        op = IR_SHR;
        break;
    case A64_ASRV:
        op = IR_SAR;
        break;
    default:
        op = IR_ROR;
        break;
    }
    put_x(x, A64_RD(w), ir_bin(x->s, op, a, b));
}

static void gen_crc(struct a64_xlat *x, uint32_t w)
{
    unsigned sz = a64_bits(w, 11, 10);
    ir_val a = get_t(x, IR_I32, A64_RN(w)), b = get_t(x, sz == 3 ? IR_I64 : IR_I32, A64_RM(w));

    put_x(x, A64_RD(w), ir_bin_x(x->s, A64_BIT(w, 12) ? IR_CRC32C : IR_CRC32, IR_I32, sz, a, b, 0));
}

static void gen_dp1(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    ir_val a = get_t(x, width(w), A64_RN(w)), v;

    switch (kind) {
    case A64_RBIT:
        v = ir_un(s, IR_BITREV, a);
        break;
    case A64_REV16:
        v = ir_un(s, IR_REV16, a);
        break;
    case A64_REV32:
        v = ir_bin_i(s, IR_ROR, ir_un(s, IR_BSWAP, a), 32);
        break;
    case A64_REV:
        v = ir_un(s, IR_BSWAP, a);
        break;
    case A64_CLZ:
        v = ir_un(s, IR_CLZ, a);
        break;
    default: /* CLS */
        v = ir_bin(s, IR_XOR, a, ir_bin_i(s, IR_SAR, a, w >> 31 ? 63 : 31));
        v = ir_bin_i(s, IR_SUB, ir_un(s, IR_CLZ, v), 1);
        break;
    }
    put_x(x, A64_RD(w), v);
}

static void gen_dp3(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    enum ir_type t = kind == A64_MADD || kind == A64_MSUB ? width(w) : IR_I64;
    bool sub = kind == A64_MSUB || kind == A64_SMSUBL || kind == A64_UMSUBL;
    ir_val n, m;

    if (kind == A64_SMULH || kind == A64_UMULH) {
        put_x(x, A64_RD(w),
              ir_bin(s, kind == A64_SMULH ? IR_MULHS : IR_MULHU, get_x(x, A64_RN(w)), get_x(x, A64_RM(w))));
        return;
    }
    n = get_t(x, t, A64_RN(w));
    m = get_t(x, t, A64_RM(w));
    if (kind == A64_SMADDL || kind == A64_SMSUBL) {
        n = ir_sbfx(s, n, 0, 32);
        m = ir_sbfx(s, m, 0, 32);
    } else if (kind == A64_UMADDL || kind == A64_UMSUBL) {
        n = ir_ubfx(s, n, 0, 32);
        m = ir_ubfx(s, m, 0, 32);
    }
    n = ir_bin(s, IR_MUL, n, m);
    if (A64_RA(w) != A64_ZR)
        n = ir_bin(s, sub ? IR_SUB : IR_ADD, get_t(x, t, A64_RA(w)), n);
    else if (sub)
        n = ir_un(s, IR_NEG, n);
    put_x(x, A64_RD(w), n);
}

/* ---- flow ---- */
/* What an instruction does with NZCV, said by its word alone; where it is not simple, the table knows. */
enum { FL_ASK, FL_KEEPS, FL_WRITES };
static unsigned flags_of_word(uint32_t w)
{
    if ((w & 0x3f800000) == 0x39000000 || (w & 0x7f000000) == 0x29000000) /* LDR, STR, LDP, STP at an offset */
        return FL_KEEPS;
    if ((w & 0x3f800000) == 0x11000000 || (w & 0x9f000000) == 0x90000000 || (w & 0x7fe0ffe0) == 0x2a0003e0)
        return FL_KEEPS;                /* ADD, SUB of an immediate, ADRP, MOV */
    if ((w & 0xdf800000) == 0xd2800000) /* MOVZ, MOVK of an X register */
        return FL_KEEPS;
    if ((w & 0x3f800000) == 0x31000000 || (w & 0xbfe00000) == 0xab000000) /* ADDS, SUBS: immediate; X registers */
        return FL_WRITES;
    return FL_ASK;
}

/* Does code at target write all of NZCV before anything reads it? Looks ahead within the page, further in loops. */
static bool flags_dead_from(struct a64_xlat *x, uint64_t target, unsigned far)
{
    for (; far; far--, target += 4) {
        unsigned simple;
        uint32_t w;
        int row;

        if (target < x->start || target + 4 > x->start + x->avail)
            return false;
        w = get_le32(x->code + (target - x->start));
        x->seen_first = min_u64(x->seen_first, target);
        x->seen_last = max_u64(x->seen_last, target + 3);
        simple = flags_of_word(w);
        if (simple == FL_WRITES)
            return true;
        if (simple == FL_KEEPS)
            continue;
        row = a64_decode(w);
        if (row < 0)
            return false;
        if ((w & 0x7c000000) == 0x14000000) { /* B, BL */
            target += (uint64_t)a64_sbits(w, 25, 0) * 4 - 4;
            continue;
        }
        if ((w & 0x7c000000) == 0x34000000) { /* CBZ, CBNZ, TBZ, TBNZ: both ways */
            bool test = w >> 25 & 1;

            if (far < 3 || !flags_dead_from(x, target + (uint64_t)a64_sbits(w, test ? 18 : 23, 5) * 4, far / 3))
                return false;
            continue;
        }
        if (a64_rows[row].attr & A64_A_ENDS)
            return false;
        switch (a64_kind_of(row)) {
        case A64_ADDS:
        case A64_SUBS:
        case A64_ANDS:
        case A64_BICS:
        case A64_FCMP:
        case A64_FCMPE:
            return a64_rows[row].sem != sem_simd_3same;
        case A64_ADC:
        case A64_ADCS:
        case A64_SBC:
        case A64_SBCS:
        case A64_CCMN:
        case A64_CCMP:
        case A64_CSEL:
        case A64_CSINC:
        case A64_CSINV:
        case A64_CSNEG:
        case A64_FCCMP:
        case A64_FCCMPE:
        case A64_FCSEL:
        case A64_MRS:
            return false;
        default:
            break;
        }
    }
    return false;
}

static bool flags_dead_at(struct a64_xlat *x, uint64_t target)
{
    x->seen_first = UINT64_MAX;
    x->seen_last = 0;
    if (!flags_dead_from(x, target, target <= x->pc ? 40 : 16))
        return false;
    ir_peek(x->s, x->seen_first, x->seen_last);
    return true;
}

static void hint_dead(struct a64_xlat *x, uint64_t target)
{
    if (flags_dead_at(x, target))
        ir_flags_dead(x->s);
}

static void exit_to(struct a64_xlat *x, uint64_t target)
{
    hint_dead(x, target);
    ir_exit(x->s, target);
    x->ended = true;
}

/* B to a place further on in the page continues there: one superblock. */
static bool gen_b(struct a64_xlat *x, uint64_t target)
{
    if (target > x->pc && target + 4 <= x->start + x->avail) {
        x->pc = target - 4; /* the loop adds 4 */
        return true;
    }
    exit_to(x, target);
    return true;
}

/* Does the block go on behind the call at pc? */
static bool goes_on(const struct a64_xlat *x)
{
    return x->s->calls_on && x->room > ROOM_BEHIND_CALL && x->pc + 8 <= x->start + x->avail;
}

static bool gen_flow(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    uint64_t t19 = x->pc + (uint64_t)a64_sbits(w, 23, 5) * 4;
    ir_val v;

    switch (kind) {
    case A64_B:
        if (w >> 26 != 5) { /* B.cond */
            if ((w & 15) >= 14)
                return gen_b(x, t19);
            hint_dead(x, t19);
            ir_exit_if_fl(s, ir_fl_get(s), w & 15, t19);
            return true;
        }
        return gen_b(x, x->pc + (uint64_t)a64_sbits(w, 25, 0) * 4);
    case A64_BL:
        ir_put(s, X_OFF(30), ir_c64(s, x->pc + 4));
        hint_dead(x, x->pc + (uint64_t)a64_sbits(w, 25, 0) * 4);
        if (goes_on(x)) {
            ir_call_on(s, x->pc + (uint64_t)a64_sbits(w, 25, 0) * 4, x->pc + 4);
            return true;
        }
        ir_exit_call(s, x->pc + (uint64_t)a64_sbits(w, 25, 0) * 4, x->pc + 4);
        break;
    case A64_CBZ:
    case A64_CBNZ:
        v = get_t(x, width(w), A64_RD(w));
        hint_dead(x, t19);
        ir_exit_if(s, kind == A64_CBZ ? IR_EQ : IR_NE, v, ir_const(s, width(w), 0), t19);
        return true;
    case A64_TBZ:
    case A64_TBNZ:
        v = get_x(x, A64_RD(w));
        hint_dead(x, x->pc + (uint64_t)a64_sbits(w, 18, 5) * 4);
        ir_exit_if(s, kind == A64_TBZ ? IR_TSTZ : IR_TSTNZ, v,
                   ir_c64(s, UINT64_C(1) << (w >> 31 << 5 | a64_bits(w, 23, 19))),
                   x->pc + (uint64_t)a64_sbits(w, 18, 5) * 4);
        return true;
    case A64_BR:
        ir_exit_ind(s, get_x(x, A64_RN(w)));
        break;
    case A64_BLR:
        v = get_x(x, A64_RN(w));
        ir_put(s, X_OFF(30), ir_c64(s, x->pc + 4));
        if (goes_on(x)) {
            ir_call_on_ind(s, v, x->pc + 4);
            return true;
        }
        ir_exit_call_ind(s, v, x->pc + 4);
        break;
    case A64_RET:
        ir_exit_ret(s, get_x(x, A64_RN(w)));
        break;
    case A64_SVC:
        ir_exit_code(s, A64_EXIT_SVC, x->pc + 4);
        break;
    default:
        ir_exit_code(s, A64_EXIT_STEP, x->pc);
        break;
    }
    x->ended = true;
    return true;
}

/* ---- system ---- */
static bool gen_mrs(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned reg = a64_bits(w, 20, 5);
    uint64_t v;
    ir_val r;

    if (reg == A64_REG_TPIDR)
        r = ir_get(s, IR_I64, C_OFF(tpidr));
    else if (reg == A64_REG_TPIDRRO)
        r = ir_get(s, IR_I64, C_OFF(tpidrro));
    else if (reg == A64_REG_NZCV)
        r = ir_un_t(s, IR_FL_TO_BITS, IR_I32, ir_fl_get(s));
    else if (reg == A64_REG_FPCR)
        r = ir_get(s, IR_I32, C_OFF(fpcr));
    else if (reg == A64_REG_CNTVCT)
        r = ir_call(s, IR_I64, IR_CALL_PURE, (void *)help_cntvct, IR_NO, IR_NO, IR_NO, IR_NO);
    else if (reg == A64_REG_FPSR)
        return false;
    else if (a64_idreg(reg, &v))
        r = ir_c64(s, v);
    else
        return gen_flow(x, A64_HLT, w); /* the interpreter says what it is */
    put_x(x, A64_RD(w), r);
    return true;
}

static bool gen_msr(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned reg = a64_bits(w, 20, 5);
    ir_val v = get_x(x, A64_RD(w));

    if (reg == A64_REG_TPIDR)
        ir_put(s, C_OFF(tpidr), v);
    else if (reg == A64_REG_NZCV)
        ir_fl_put(s, ir_fl(s, IR_FL_BITS, ir_trunc(s, v), IR_NO, IR_NO));
    else if (reg == A64_REG_FPCR)
        ir_call(s, IR_I64, IR_CALL_STATE | IR_CALL_LEAVES, (void *)help_fpcr, v, IR_NO, IR_NO, IR_NO);
    else if (reg == A64_REG_FPSR)
        return false;
    else
        return gen_flow(x, A64_HLT, w);
    return true;
}

static bool gen_barrier(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned crm = a64_bits(w, 9, 8);

    if (kind == A64_CLREX)
        ir_put(s, C_OFF(ex_addr), ir_c64(s, UINT64_MAX));
    else if (kind == A64_ISB)
        exit_to(x, x->pc + 4);
    else
        ir_emit(s, IR_FENCE, IR_VOID, crm == 1 ? 0 : crm == 2 ? 1 : 2, IR_NO, IR_NO, IR_NO, 0);
    return true;
}

static bool gen_sys(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    ir_val a, z;

    switch (a64_bits(w, 18, 5)) {
    case 3 << 11 | 7 << 7 | 4 << 3 | 1: /* DC ZVA */
        a = ir_bin_i(s, IR_AND, get_x(x, A64_RD(w)), ~UINT64_C(63));
        z = ir_vconst(s, 0, true);
        for (unsigned i = 0; i < 64; i += 16)
            ir_store(s, IR_M128, a, i, z);
        return true;
    case 3 << 11 | 7 << 7 | 5 << 3 | 1:  /* IC IVAU: written code is noticed without it */
    case 3 << 11 | 7 << 7 | 10 << 3 | 1: /* DC CVAC, CVAU, CVAP, CIVAC */
    case 3 << 11 | 7 << 7 | 11 << 3 | 1:
    case 3 << 11 | 7 << 7 | 12 << 3 | 1:
    case 3 << 11 | 7 << 7 | 14 << 3 | 1:
        return true;
    default:
        return gen_flow(x, A64_HLT, w);
    }
}

static bool gen_integer(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    a64_sem_fn *g = r->sem;
    uint64_t v = 0;

    if (g == sem_addsub_imm) {
        gen_addsub_imm(x, w);
    } else if (g == sem_addsub_reg) {
        add_sub(x, w, get_t(x, width(w), A64_RN(w)), shifted(x, w), false);
    } else if (g == sem_addsub_ext) {
        ir_val b = extended(x, A64_RM(w), a64_bits(w, 15, 13), a64_bits(w, 12, 10));

        add_sub(x, w, narrow(x, w, get_xsp(x, A64_RN(w))), narrow(x, w, b), true);
    } else if (g == sem_logic_imm) {
        a64_bitmask(A64_BIT(w, 22), a64_bits(w, 21, 16), a64_bits(w, 15, 10), w >> 31, &v);
        gen_logic(x, w, ir_const(s, width(w), v), false, true);
    } else if (g == sem_logic_reg) {
        gen_logic(x, w, shifted(x, w), A64_BIT(w, 21), false);
    } else if (g == sem_movw) {
        gen_movw(x, kind, w);
    } else if (g == sem_bitfield) {
        gen_bitfield(x, kind, w);
    } else if (g == sem_extr) {
        gen_extr(x, w);
    } else if (g == sem_adr) {
        v = (uint64_t)a64_sbits(w, 23, 5) << 2 | a64_bits(w, 30, 29);
        put_x(x, A64_RD(w), ir_c64(s, kind == A64_ADR ? x->pc + v : (x->pc & ~UINT64_C(0xfff)) + (v << 12)));
    } else if (g == sem_adc) {
        gen_adc(x, w);
    } else if (g == sem_ccmp) {
        gen_ccmp(x, w);
    } else if (g == sem_csel) {
        gen_csel(x, w);
    } else if (g == sem_dp1) {
        gen_dp1(x, kind, w);
    } else if (g == sem_dp2) {
        gen_dp2(x, kind, w);
    } else if (g == sem_dp3) {
        gen_dp3(x, kind, w);
    } else if (g == sem_crc32) {
        gen_crc(x, w);
    } else {
        return false;
    }
    return true;
}

static bool gen_system(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w)
{
    a64_sem_fn *g = r->sem;

    if (g == sem_branch || g == sem_bcond || g == sem_cbz || g == sem_tbz || g == sem_br || g == sem_exc)
        return gen_flow(x, kind, w);
    if (g == sem_nop)
        return true;
    if (g == sem_barrier)
        return gen_barrier(x, kind, w);
    if (g == sem_mrs)
        return gen_mrs(x, w);
    if (g == sem_msr)
        return gen_msr(x, w);
    return g == sem_sys && gen_sys(x, w);
}

/* By the groups of the top-level encoding. */
static bool gen_of_group(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w)
{
    switch (a64_bits(w, 28, 25)) {
    case 4:
    case 6:
    case 12:
    case 14:
        return r->sem == sem_nop || xlat_mem(x, r, kind, w); /* PRFM */
    case 10:
    case 11:
        return gen_system(x, r, kind, w);
    case 7:
    case 15:
        return xlat_fp(x, r, kind, w) || xlat_simd(x, r, kind, w);
    default:
        return gen_integer(x, r, kind, w);
    }
}

static void gen(struct a64_xlat *x, uint32_t w)
{
    int row = a64_decode(w);
    const struct a64_row *r;
    unsigned kind;

    if (row < 0) {
        gen_flow(x, A64_HLT, w);
        return;
    }
    r = &a64_rows[row];
    kind = a64_kind_of(row);
    if (!gen_of_group(x, r, kind, w))
        xlat_call_sem(x, row, w);
}

void a64_emit(struct ir *s, uint32_t w, bool fp_special)
{
    struct a64_xlat x = {.s = s, .fp_special = fp_special};

    gen(&x, w);
}

/* Does straight code from `at` on come to a jump back to the block's start soon? */
static bool closes_soon(uint64_t pc, const uint8_t *code, size_t at, size_t avail)
{
    for (size_t end = at + 4 * 56; at + 4 <= avail && at < end; at += 4) {
        uint32_t w = get_le32(code + at);

        if ((w & 0xff000010) == 0x54000000 || (w & 0x7e000000) == 0x34000000) { /* B.cond, CBZ, CBNZ */
            if (pc + at + (uint64_t)a64_sbits(w, 23, 5) * 4 == pc)
                return true;
        } else if ((w & 0x7c000000) == 0x14000000 || (w & 0xfe000000) == 0xd6000000) { /* B, BL, BR, BLR, RET */
            return false;
        }
    }
    return false;
}

bool a64_translate(struct ir *s, uint64_t pc, unsigned mode, const uint8_t *code, size_t avail, unsigned max)
{
    struct a64_xlat x = {.s = s, .pc = pc, .start = pc, .code = code, .avail = avail, .fp_special = mode & A64_MODE_FP};
    uint64_t end = pc;
    unsigned n = 0;
    uint32_t w;

    if (avail < 4 || (pc & 3))
        return false;
    ir_begin(s, pc);
    while (!x.ended) {
        if (n == max && n >= JIT_BLOCK_MAX_INSN - 1 && n < JIT_BLOCK_TOP_INSN / 2 && x.start + (end - pc) == x.pc &&
            closes_soon(pc, code, x.pc - pc, avail))
            max = JIT_BLOCK_TOP_INSN - 1;
        if (n == max || !ir_room(s, OPS_PER_INSN) || x.pc + 4 > pc + avail) {
            exit_to(&x, x.pc);
            break;
        }
        ir_insn(s, x.pc);
        x.room = max - n;
        if (x.pc + 4 > end)
            end = x.pc + 4;
        w = get_le32(code + (x.pc - pc));
        if (xlat_may_loop(w) && max > 1)
            xlat_loop(&x, w);
        gen(&x, w);
        x.pc += 4;
        n++;
        if (ir_closed_loop(s))
            max = n;
    }
    return ir_finish(s, (uint32_t)(end - pc));
}
