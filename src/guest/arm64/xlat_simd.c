/* Emitting IR: Advanced SIMD on integers, permutations, AES. Cumulative saturation (FPSR.QC) of inline code is kept as
 * a vector that is not zero when something saturated (a64_cpu.qc). */
#include "guest/arm64/sem.h"
#include "guest/arm64/vec.h"
#include "guest/arm64/xlat_int.h"

#define V(op, attr, a, b)    ir_bin_x(x->s, (op), IR_V128, (attr), (a), (b), 0)
#define V1(op, attr, a, imm) ir_un_x(x->s, (op), IR_V128, (attr), (a), (imm))

static ir_val low_if(struct a64_xlat *x, uint32_t w, ir_val v)
{
    return A64_BIT(w, 30) && !A64_BIT(w, 28) ? v : ir_un(x->s, IR_VLOW, v);
}
static ir_val vn(struct a64_xlat *x, uint32_t w)
{
    return get_v(x, A64_RN(w));
}
static ir_val vm(struct a64_xlat *x, uint32_t w)
{
    return get_v(x, A64_RM(w));
}
static ir_val vd(struct a64_xlat *x, uint32_t w)
{
    return get_v(x, A64_RD(w));
}
static bool put(struct a64_xlat *x, uint32_t w, ir_val v)
{
    put_v(x, A64_RD(w), v);
    return true;
}
/* Low halves of a and b side by side. */
static ir_val both_low(struct a64_xlat *x, ir_val a, ir_val b)
{
    return ir_bin_x(x->s, IR_VINSL, IR_V128, IR_D, a, b, 1);
}
static ir_val splat(struct a64_xlat *x, unsigned l, uint64_t v)
{
    static const uint64_t rep[4] = {UINT64_C(0x0101010101010101), UINT64_C(0x0001000100010001),
                                    UINT64_C(0x0000000100000001), 1};

    return ir_vconst(x->s, (l == 3 ? v : v & ((UINT64_C(1) << (8 << l)) - 1)) * rep[l], true);
}
/* QC where a and b differ, in the part of them the instruction has. */
static void note_qc(struct a64_xlat *x, uint32_t w, ir_val a, ir_val b)
{
    struct ir *s = x->s;
    ir_val diff = low_if(x, w, ir_bin(s, IR_VXOR, a, b));

    ir_put(s, C_OFF(qc), ir_bin(s, IR_VOR, ir_get(s, IR_V128, C_OFF(qc)), diff));
}

/* Three registers of one size, by IR op. */
static bool op_same(unsigned kind, enum ir_opcode *op, unsigned *attr)
{
    *attr = 0;
    switch (kind) {
    case A64_ADD:
        *op = IR_VADD;
        break;
    case A64_SUB:
        *op = IR_VSUB;
        break;
    case A64_MUL:
        *op = IR_VMUL;
        break;
    case A64_CMGT:
        *op = IR_VCMPGTS;
        break;
    case A64_CMGE:
        *op = IR_VCMPGES;
        break;
    case A64_CMHI:
        *op = IR_VCMPGTU;
        break;
    case A64_CMHS:
        *op = IR_VCMPGEU;
        break;
    case A64_CMEQ:
        *op = IR_VCMPEQ;
        break;
    case A64_CMTST:
        *op = IR_VTST;
        break;
    case A64_SRHADD:
        *attr = 4; /* fall through */
    case A64_SHADD:
        *op = IR_VHADDS;
        break;
    case A64_URHADD:
        *attr = 4; /* fall through */
    case A64_UHADD:
        *op = IR_VHADDU;
        break;
    case A64_SHSUB:
        *op = IR_VHSUBS;
        break;
    case A64_UHSUB:
        *op = IR_VHSUBU;
        break;
    case A64_SMAX:
        *op = IR_VSMAX;
        break;
    case A64_SMIN:
        *op = IR_VSMIN;
        break;
    case A64_UMAX:
        *op = IR_VUMAX;
        break;
    case A64_UMIN:
        *op = IR_VUMIN;
        break;
    case A64_SABA:
    case A64_SABD:
        *op = IR_VABDS;
        break;
    case A64_UABA:
    case A64_UABD:
        *op = IR_VABDU;
        break;
    case A64_MLA:
    case A64_MLS:
        *op = IR_VMUL;
        break;
    case A64_SSHL:
        *op = IR_VSALV;
        break;
    case A64_USHL:
        *op = IR_VSHLV;
        break;
    case A64_SMAXP:
        *op = IR_VPSMAX;
        break;
    case A64_SMINP:
        *op = IR_VPSMIN;
        break;
    case A64_UMAXP:
        *op = IR_VPUMAX;
        break;
    case A64_UMINP:
        *op = IR_VPUMIN;
        break;
    case A64_ADDP:
        *op = IR_VPADD;
        break;
    default:
        return false;
    }
    return true;
}

static bool gen_sat(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    unsigned l = a64_bits(w, 23, 22);
    bool sub = kind == A64_SQSUB || kind == A64_UQSUB;
    ir_val a = vn(x, w), b = vm(x, w), r;
    enum ir_opcode op;

    if (A64_BIT(w, 28))
        return false;
    switch (kind) {
    case A64_SQADD:
        op = IR_VQADDS;
        break;
    case A64_UQADD:
        op = IR_VQADDU;
        break;
    case A64_SQSUB:
        op = IR_VQSUBS;
        break;
    case A64_UQSUB:
        op = IR_VQSUBU;
        break;
    default:
        return false;
    }
    r = V(op, l, a, b);
    note_qc(x, w, r, V(sub ? IR_VSUB : IR_VADD, l, a, b));
    return put(x, w, low_if(x, w, r));
}

static bool gen_3same(struct a64_xlat *x, unsigned kind, uint32_t w, ir_val b)
{
    unsigned l = a64_bits(w, 23, 22), attr;
    enum ir_opcode op;
    ir_val r;

    if (!op_same(kind, &op, &attr))
        return gen_sat(x, kind, w);
    r = V(op, l | attr, vn(x, w), b);
    if (kind == A64_SABA || kind == A64_UABA || kind == A64_MLA)
        r = V(IR_VADD, l, vd(x, w), r);
    else if (kind == A64_MLS)
        r = V(IR_VSUB, l, vd(x, w), r);
    return put(x, w, low_if(x, w, r));
}

static bool gen_pair(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    unsigned l = a64_bits(w, 23, 22), attr;
    enum ir_opcode op;
    ir_val a = vn(x, w), b = vm(x, w);

    if (!op_same(kind, &op, &attr))
        return false;
    if (!A64_BIT(w, 30))
        a = b = both_low(x, a, b);
    return put(x, w, low_if(x, w, V(op, l, a, b)));
}

static bool gen_logic(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    ir_val n = vn(x, w), m = vm(x, w), r;

    switch (kind) {
    case A64_AND:
        r = ir_bin(s, IR_VAND, n, m);
        break;
    case A64_BIC:
        r = ir_bin(s, IR_VANDN, n, m);
        break;
    case A64_ORR:
        r = A64_RN(w) == A64_RM(w) ? n : ir_bin(s, IR_VOR, n, m);
        break;
    case A64_ORN:
        r = ir_bin(s, IR_VOR, n, ir_un(s, IR_VNOT, m));
        break;
    case A64_EOR:
        r = ir_bin(s, IR_VXOR, n, m);
        break;
    case A64_BSL:
        r = ir_tri(s, IR_VBSL, vd(x, w), n, m);
        break;
    case A64_BIT:
        r = ir_tri(s, IR_VBSL, m, n, vd(x, w));
        break;
    default:
        r = ir_tri(s, IR_VBSL, m, vd(x, w), n);
        break;
    }
    return put(x, w, low_if(x, w, r));
}

/* Long operations; b already widened where it is an element. */
static bool gen_wide(struct a64_xlat *x, unsigned kind, uint32_t w, ir_val b, unsigned b_high)
{
    unsigned l = a64_bits(w, 23, 22), hi = A64_BIT(w, 30) ? 4 : 0;
    ir_val a = vn(x, w), r;
    bool uns = false;

    if (A64_BIT(w, 28))
        return false;
    if (l == 3)
        return kind == A64_PMULL && put(x, w, V(IR_VCLMULL, A64_BIT(w, 30), a, b));
    switch (kind) {
    case A64_UADDL:
    case A64_USUBL:
    case A64_UADDW:
    case A64_USUBW:
    case A64_UABAL:
    case A64_UABDL:
        uns = true; /* fall through */
    case A64_SADDL:
    case A64_SSUBL:
    case A64_SADDW:
    case A64_SSUBW:
    case A64_SABAL:
    case A64_SABDL:
        break;
    case A64_UMULL:
    case A64_UMLAL:
    case A64_UMLSL:
        uns = true; /* fall through */
    case A64_SMULL:
    case A64_SMLAL:
    case A64_SMLSL:
        r = V(uns ? IR_VMULLU : IR_VMULLS, l | hi, a, b);
        if (kind == A64_UMLAL || kind == A64_SMLAL)
            r = V(IR_VADD, l + 1, vd(x, w), r);
        else if (kind == A64_UMLSL || kind == A64_SMLSL)
            r = V(IR_VSUB, l + 1, vd(x, w), r);
        return put(x, w, r);
    default:
        return false;
    }
    if (kind != A64_SADDW && kind != A64_UADDW && kind != A64_SSUBW && kind != A64_USUBW)
        a = V1(uns ? IR_VWIDENU : IR_VWIDENS, l | hi, a, 0);
    b = V1(uns ? IR_VWIDENU : IR_VWIDENS, l | b_high, b, 0);
    if (kind == A64_SADDL || kind == A64_UADDL || kind == A64_SADDW || kind == A64_UADDW)
        return put(x, w, V(IR_VADD, l + 1, a, b));
    if (kind == A64_SSUBL || kind == A64_USUBL || kind == A64_SSUBW || kind == A64_USUBW)
        return put(x, w, V(IR_VSUB, l + 1, a, b));
    r = V(uns ? IR_VABDU : IR_VABDS, l + 1, a, b);
    if (kind == A64_SABAL || kind == A64_UABAL)
        r = V(IR_VADD, l + 1, vd(x, w), r);
    return put(x, w, r);
}

/* A narrowed result (64 bits, zeros above) into the low half, or with Q into the high half. */
static bool put_half(struct a64_xlat *x, uint32_t w, ir_val r)
{
    if (A64_BIT(w, 30) && !A64_BIT(w, 28))
        r = ir_bin_x(x->s, IR_VINSL, IR_V128, IR_D, vd(x, w), r, 1);
    return put(x, w, r);
}

static bool gen_narrow3(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    unsigned l = a64_bits(w, 23, 22), bits = 8u << l;
    bool sub = kind == A64_SUBHN || kind == A64_RSUBHN;
    ir_val r = V(sub ? IR_VSUB : IR_VADD, l + 1, vn(x, w), vm(x, w));

    if (kind == A64_RADDHN || kind == A64_RSUBHN)
        r = V(IR_VADD, l + 1, r, splat(x, l + 1, UINT64_C(1) << (bits - 1)));
    return put_half(x, w, V1(IR_VNARROW, l + 1, V1(IR_VSHRI, l + 1, r, bits), 0));
}

static bool gen_xtn(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    unsigned l = a64_bits(w, 23, 22);
    ir_val a = vn(x, w), r;
    enum ir_opcode op = IR_VNARROW;
    bool uns = kind != A64_SQXTN;
    struct ir *s = x->s;

    if (A64_BIT(w, 28) || (l == 2 && kind != A64_XTN))
        return false;
    if (kind != A64_XTN) {
        op = kind == A64_SQXTN ? IR_VNARROWSS : kind == A64_SQXTUN ? IR_VNARROWSU : IR_VNARROWUU;
        r = V1(op, l + 1, a, 0);
        ir_put(s, C_OFF(qc),
               ir_bin(s, IR_VOR, ir_get(s, IR_V128, C_OFF(qc)),
                      ir_bin(s, IR_VXOR, a, V1(uns ? IR_VWIDENU : IR_VWIDENS, l, r, 0))));
        return put_half(x, w, r);
    }
    return put_half(x, w, V1(op, l + 1, a, 0));
}

static bool gen_2misc(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned l = a64_bits(w, 23, 22);
    ir_val a = vn(x, w), r, z = ir_vconst(s, 0, true);

    switch (kind) {
    case A64_REV64:
        r = V1(IR_VREV, l | 2 << 2, a, 0);
        break;
    case A64_REV32:
        r = V1(IR_VREV, l | 1 << 2, a, 0);
        break;
    case A64_REV16:
        r = V1(IR_VREV, l, a, 0);
        break;
    case A64_CLZ:
        r = V1(IR_VCLZ, l, a, 0);
        break;
    case A64_CNT:
        r = V1(IR_VCNT, 0, a, 0);
        break;
    case A64_NOT:
        r = ir_un(s, IR_VNOT, a);
        break;
    case A64_RBIT:
        r = V1(IR_VRBIT, 0, a, 0);
        break;
    case A64_ABS:
        r = V1(IR_VABS, l, a, 0);
        break;
    case A64_NEG:
        r = V1(IR_VNEG, l, a, 0);
        break;
    case A64_CMGTZ:
        r = V(IR_VCMPGTS, l, a, z);
        break;
    case A64_CMGEZ:
        r = V(IR_VCMPGES, l, a, z);
        break;
    case A64_CMEQZ:
        r = V(IR_VCMPEQ, l, a, z);
        break;
    case A64_CMLEZ:
        r = V(IR_VCMPGES, l, z, a);
        break;
    case A64_CMLTZ:
        r = V(IR_VCMPGTS, l, z, a);
        break;
    default:
        return false;
    }
    return put(x, w, low_if(x, w, r));
}

static bool gen_addlp(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    unsigned l = a64_bits(w, 23, 22), bits = 8u << l;
    bool uns = kind == A64_UADDLP || kind == A64_UADALP;
    enum ir_opcode down = uns ? IR_VSHRI : IR_VSARI;
    ir_val a = vn(x, w), odd = V1(down, l + 1, a, bits), even = V1(down, l + 1, V1(IR_VSHLI, l + 1, a, bits), bits);
    ir_val r = V(IR_VADD, l + 1, odd, even);

    if (kind == A64_SADALP || kind == A64_UADALP)
        r = V(IR_VADD, l + 1, vd(x, w), r);
    return put(x, w, low_if(x, w, r));
}

static bool gen_shift(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned l = 31u - (unsigned)__builtin_clz(a64_bits(w, 22, 19)), bits = 8u << l;
    unsigned right = 2 * bits - a64_bits(w, 22, 16), left = a64_bits(w, 22, 16) - bits;
    uint64_t all = bits == 64 ? ~UINT64_C(0) : (UINT64_C(1) << bits) - 1;
    ir_val a = vn(x, w), r;

    switch (kind) {
    case A64_SSHR:
    case A64_SSRA:
        r = V1(IR_VSARI, l, a, right);
        break;
    case A64_USHR:
    case A64_USRA:
        r = V1(IR_VSHRI, l, a, right);
        break;
    case A64_SRSHR:
    case A64_SRSRA:
        r = V1(IR_VRSARI, l, a, right);
        break;
    case A64_URSHR:
    case A64_URSRA:
        r = V1(IR_VRSHRI, l, a, right);
        break;
    case A64_SHL:
        r = V1(IR_VSHLI, l, a, left);
        break;
    case A64_SLI:
        r = ir_bin(s, IR_VOR, V1(IR_VSHLI, l, a, left), ir_bin(s, IR_VAND, vd(x, w), splat(x, l, ~(all << left))));
        break;
    case A64_SRI:
        r = ir_bin(s, IR_VOR, V1(IR_VSHRI, l, a, right),
                   ir_bin(s, IR_VAND, vd(x, w), splat(x, l, right == bits ? all : ~(all >> right))));
        break;
    default:
        return false;
    }
    if (kind == A64_SSRA || kind == A64_USRA || kind == A64_SRSRA || kind == A64_URSRA)
        r = V(IR_VADD, l, vd(x, w), r);
    return put(x, w, low_if(x, w, r));
}

static bool gen_shift_size(struct a64_xlat *x, const struct a64_row *row, unsigned kind, uint32_t w)
{
    a64_sem_fn *g = row->sem;
    unsigned l, n, hi = A64_BIT(w, 30) ? 4 : 0;

    if (kind == A64_SHLL) {
        l = a64_bits(w, 23, 22);
        return put(x, w, V1(IR_VSHLI, l + 1, V1(IR_VWIDENU, l | hi, vn(x, w), 0), 8u << l));
    }
    l = 31u - (unsigned)__builtin_clz(a64_bits(w, 22, 19));
    if (g == sem_simd_shll) {
        ir_val r = V1(kind == A64_USHLL ? IR_VWIDENU : IR_VWIDENS, l | hi, vn(x, w), 0);

        n = a64_bits(w, 22, 16) - (8u << l);
        return put(x, w, n ? V1(IR_VSHLI, l + 1, r, n) : r);
    }
    n = (16u << l) - a64_bits(w, 22, 16);
    if (kind == A64_SHRN || kind == A64_RSHRN)
        return put_half(x, w,
                        V1(IR_VNARROW, l + 1, V1(kind == A64_SHRN ? IR_VSHRI : IR_VRSHRI, l + 1, vn(x, w), n), 0));
    return false;
}

static bool gen_across(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned l = a64_bits(w, 23, 22), attr;
    ir_val a = vn(x, w);
    enum ir_opcode op;

    if (A64_BIT(w, 28)) /* ADDP of two doublewords */
        return put(x, w, ir_un(s, IR_VLOW, V(IR_VADD, 3, a, V1(IR_VDUPL, 3, a, 1))));
    if (kind == A64_ADDV)
        return put(x, w, V1(IR_VADDV, l, A64_BIT(w, 30) ? a : ir_un(s, IR_VLOW, a), 0));
    if (kind == A64_SADDLV || kind == A64_UADDLV) {
        if (l == 2)
            return false;
        /* neighbours first, then all sums of twice the size */
        bool uns = kind == A64_UADDLV;
        enum ir_opcode down = uns ? IR_VSHRI : IR_VSARI;
        ir_val v = A64_BIT(w, 30) ? a : ir_un(s, IR_VLOW, a);

        v = V(IR_VADD, l + 1, V1(down, l + 1, v, 8u << l), V1(down, l + 1, V1(IR_VSHLI, l + 1, v, 8u << l), 8u << l));
        return put(x, w, V1(IR_VADDV, l + 1, v, 0));
    }
    switch (kind) {
    case A64_SMAXV:
        op = IR_VPSMAX;
        break;
    case A64_SMINV:
        op = IR_VPSMIN;
        break;
    case A64_UMAXV:
        op = IR_VPUMAX;
        break;
    default:
        op = IR_VPUMIN;
        break;
    }
    attr = A64_BIT(w, 30) ? 16 : 8;
    if (attr == 8)
        a = both_low(x, a, a);
    for (unsigned n = attr >> l; n > 1; n /= 2)
        a = V(op, l, a, a);
    return put(x, w, ir_bin(s, IR_VAND, a, ir_vconst(s, (UINT64_C(1) << (8 << l)) - 1, false)));
}

/* ---- moving elements ---- */
static unsigned imm5_log2(uint32_t w)
{
    return (unsigned)__builtin_ctz(a64_bits(w, 20, 16));
}

static bool gen_copy(struct a64_xlat *x, a64_sem_fn *g, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned l = imm5_log2(w), idx = a64_bits(w, 20, 16) >> (l + 1);
    enum ir_type t = l == 3 ? IR_I64 : IR_I32;
    ir_val r;

    if (g == sem_dup) {
        r = A64_BIT(w, 11) ? V1(IR_VDUP, l, get_t(x, t, A64_RN(w)), 0) : V1(IR_VDUPL, l, vn(x, w), idx);
        if (A64_BIT(w, 28) && l < 3)
            r = ir_bin(s, IR_VAND, r, ir_vconst(s, (UINT64_C(1) << (8 << l)) - 1, false));
        return put(x, w, low_if(x, w, r));
    }
    if (g == sem_umov) {
        t = kind == A64_SMOV ? (A64_BIT(w, 30) ? IR_I64 : IR_I32) : t;
        put_x(x, A64_RD(w), ir_un_x(s, kind == A64_SMOV ? IR_VGETS : IR_VGETU, t, l, vn(x, w), idx));
        return true;
    }
    if (A64_BIT(w, 29))
        r = ir_bin_x(s, IR_VINSL, IR_V128, l, vd(x, w), vn(x, w), idx | a64_bits(w, 14, 11) >> l << 4);
    else
        r = ir_bin_x(s, IR_VINS, IR_V128, l, vd(x, w), get_t(x, t, A64_RN(w)), idx);
    return put(x, w, r);
}

static bool gen_permute(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    unsigned l = a64_bits(w, 23, 22);
    bool q = A64_BIT(w, 30);
    ir_val a = vn(x, w), b = vm(x, w), r;

    switch (kind) {
    case A64_TRN1:
        r = V(IR_VTRN1, l, a, b);
        break;
    case A64_TRN2:
        r = V(IR_VTRN2, l, a, b);
        break;
    case A64_ZIP1:
        r = V(IR_VZIP1, l, a, b);
        break;
    case A64_ZIP2:
        if (q) {
            r = V(IR_VZIP2, l, a, b);
        } else {
            r = V(IR_VZIP1, l, a, b);
            r = ir_bin_x(x->s, IR_VEXT, IR_V128, 0, r, r, 8);
        }
        break;
    default:
        if (!q)
            a = b = both_low(x, a, b);
        r = V(kind == A64_UZP1 ? IR_VUZP1 : IR_VUZP2, l, a, b);
        break;
    }
    return put(x, w, low_if(x, w, r));
}

static bool gen_tbl(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned regs = a64_bits(w, 14, 13) + 1;
    ir_val idx = vm(x, w), r = IR_NO, in;

    for (unsigned i = 0; i < regs; i++) {
        ir_val at = i ? V(IR_VSUB, 0, idx, splat(x, 0, 16 * i)) : idx;
        ir_val part = V(IR_VTBL, 0, get_v(x, (A64_RN(w) + i) & 31), at);

        r = i ? ir_bin(s, IR_VOR, r, part) : part;
    }
    if (kind == A64_TBX) {
        in = V(IR_VCMPGTU, 0, splat(x, 0, 16 * regs), idx);
        r = ir_tri(s, IR_VBSL, in, r, vd(x, w));
    }
    return put(x, w, low_if(x, w, r));
}

static bool gen_vimm(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    uint64_t v = a64_vimm(w);
    bool q = A64_BIT(w, 30);

    if (kind == A64_ORR)
        return put(x, w, low_if(x, w, ir_bin(s, IR_VOR, vd(x, w), ir_vconst(s, v, true))));
    if (kind == A64_BIC)
        return put(x, w, low_if(x, w, ir_bin(s, IR_VAND, vd(x, w), ir_vconst(s, ~v, true))));
    return put(x, w, ir_vconst(s, kind == A64_MVNI ? ~v : v, q));
}

static bool gen_ext(struct a64_xlat *x, uint32_t w)
{
    ir_val a = vn(x, w), b = vm(x, w);

    if (!A64_BIT(w, 30))
        a = b = both_low(x, a, b);
    return put(x, w, low_if(x, w, ir_bin_x(x->s, IR_VEXT, IR_V128, 0, a, b, a64_bits(w, 14, 11))));
}

static bool gen_aes(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    ir_val a = vn(x, w);

    if (kind == A64_AESMC || kind == A64_AESIMC)
        return put(x, w, ir_un(s, kind == A64_AESMC ? IR_VAESMC : IR_VAESIMC, a));
    return put(x, w, ir_un(s, kind == A64_AESE ? IR_VAESENC : IR_VAESDEC, ir_bin(s, IR_VXOR, a, vd(x, w))));
}

/* Products of halves a and b of 8 bytes, neighbours summed, in lanes S. */
static ir_val dot_half(struct a64_xlat *x, bool uns, unsigned hi, ir_val a, ir_val b)
{
    ir_val p = V(uns ? IR_VMULLU : IR_VMULLS, IR_B | hi, a, b);

    if (uns)
        return V(IR_VADD, IR_S, V1(IR_VSHRI, IR_S, p, 16), ir_bin(x->s, IR_VAND, p, splat(x, IR_S, 0xffff)));
    return V(IR_VADD, IR_S, V1(IR_VSARI, IR_S, p, 16), V1(IR_VSARI, IR_S, V1(IR_VSHLI, IR_S, p, 16), 16));
}

/* SDOT, UDOT: Arm ARM C7.2. */
static bool gen_dot(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    bool uns = kind == A64_UDOT;
    ir_val a = vn(x, w), b = vm(x, w), low;

    if (A64_BIT(w, 24)) /* by element */
        b = V1(IR_VDUPL, IR_S, b, A64_BIT(w, 11) << 1 | A64_BIT(w, 21));
    low = dot_half(x, uns, 0, a, b);
    return put(
        x, w,
        low_if(x, w,
               V(IR_VADD, IR_S, vd(x, w), V(IR_VPADD, IR_S, low, A64_BIT(w, 30) ? dot_half(x, uns, 4, a, b) : low))));
}

static ir_val indexed(struct a64_xlat *x, uint32_t w)
{
    unsigned l = a64_bits(w, 23, 22), m = a64_bits(w, 19, 16), idx;

    if (l == 1) {
        idx = A64_BIT(w, 11) << 2 | A64_BIT(w, 21) << 1 | A64_BIT(w, 20);
    } else {
        m |= A64_BIT(w, 20) << 4;
        idx = A64_BIT(w, 11) << 1 | A64_BIT(w, 21);
    }
    return V1(IR_VDUPL, l, get_v(x, m), idx);
}

/* ---- any byte in a vector? ---- */
/* Searches of strings fold a vector by UMINP, UMAXP, ADDP or SHRN, move what is left to X and go on with CBZ X. While
 * nothing is found all that is made on the way is 0: seen from the vector at once, the loop takes that way. Behind it
 * stands what the instruction does otherwise. Each fold makes 0 of 0 (of no zero byte, with CMEQ #0 at the end). */
static bool fold_word(uint32_t w, uint32_t op)
{
    return (w & 0xffe0fc00) == op;
}

static uint32_t word_at(const struct a64_xlat *x, unsigned n)
{
    uint64_t at = x->pc - x->start + 4 * n;

    return at + 4 <= x->avail && x->pc >= x->start ? get_le32(x->code + at) : 0;
}

static void search_ahead(struct a64_xlat *x, uint32_t w)
{
    enum { UMINP = 0x6e20ac00, UMAXP = 0x6e20a400, ADDP = 0x4e20bc00, SHRN4 = 0x0f0c8400, CMEQ0 = 0x0e209800 };
    struct ir *s = x->s;
    unsigned d = A64_RD(w), n = A64_RN(w), m = A64_RM(w), k = 1, to;
    bool min = fold_word(w, UMINP), shrn = (w & 0xfffffc00) == SHRN4;
    uint32_t op = w & 0xffe0fc00, next;
    uint64_t target;
    ir_val v, z, zero;

    if (!min && !shrn && !fold_word(w, UMAXP) && !fold_word(w, ADDP))
        return;
    m = shrn ? n : m;
    if (d == n || d == m)
        return;
    while (!shrn && k < 4 && word_at(x, k) == (op | d << 16 | d << 5 | d))
        k++;
    if (min && word_at(x, k++) != (CMEQ0 | d << 5 | d))
        return;
    next = word_at(x, k++);
    to = A64_RD(next);
    if ((next & 0xffffffe0) != (0x9e660000 | d << 5) || to == A64_ZR ||
        (word_at(x, k) & 0xff00001f) != (0xb4000000 | to) || x->room <= k)
        return;
    target = x->pc + 4 * k + (uint64_t)a64_sbits(word_at(x, k), 23, 5) * 4;
    ir_peek(s, x->pc, x->pc + 4 * k + 3);
    v = get_v(x, n);
    if (m != n)
        v = ir_bin_x(s, min ? IR_VUMIN : IR_VOR, IR_V128, IR_B, v, get_v(x, m), 0);
    zero = ir_vconst(s, 0, true);
    put_v(x, d, zero);
    z = ir_un_x(s, IR_VMSKB, IR_I32, 0, ir_bin_x(s, IR_VCMPEQ, IR_V128, IR_B, v, zero, 0), 0);
    put_x(x, to, ir_c64(s, 0));
    ir_exit_if(s, IR_EQ, z, ir_const(s, IR_I32, min ? 0 : 0xffff), target);
}

bool xlat_simd(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w)
{
    a64_sem_fn *g = r->sem;

    if (x->room)
        search_ahead(x, w);
    if (g == sem_simd_3same)
        return gen_3same(x, kind, w, vm(x, w));
    if (g == sem_simd_idx)
        return !A64_BIT(w, 28) && (kind == A64_MUL || kind == A64_MLA || kind == A64_MLS) &&
               gen_3same(x, kind, w, indexed(x, w));
    if (g == sem_simd_pair)
        return gen_pair(x, kind, w);
    if (g == sem_simd_logic)
        return gen_logic(x, kind, w);
    if (g == sem_simd_wide3)
        return gen_wide(x, kind, w, vm(x, w), A64_BIT(w, 30) ? 4 : 0);
    if (g == sem_simd_idxw)
        return !A64_BIT(w, 28) && gen_wide(x, kind, w, indexed(x, w), 0);
    if (g == sem_simd_narrow3)
        return gen_narrow3(x, kind, w);
    if (g == sem_simd_xtn)
        return gen_xtn(x, kind, w);
    if (g == sem_simd_2misc)
        return gen_2misc(x, kind, w);
    if (g == sem_simd_addlp)
        return gen_addlp(x, kind, w);
    if (g == sem_simd_shift)
        return gen_shift(x, kind, w);
    if (g == sem_simd_shll || g == sem_simd_shrn)
        return gen_shift_size(x, r, kind, w);
    if (g == sem_simd_across)
        return gen_across(x, kind, w);
    if (g == sem_dup || g == sem_umov || g == sem_ins)
        return gen_copy(x, g, kind, w);
    if (g == sem_permute)
        return gen_permute(x, kind, w);
    if (g == sem_tbl)
        return gen_tbl(x, kind, w);
    if (g == sem_vimm)
        return gen_vimm(x, kind, w);
    if (g == sem_ext)
        return gen_ext(x, w);
    if (g == sem_dot)
        return gen_dot(x, kind, w);
    return g == sem_aes && gen_aes(x, kind, w);
}
