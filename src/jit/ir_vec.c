/* Host code for vectors (AVX2, 128 bits). What is not here goes through ir_eval_op. */
#include "jit/ir_int.h"

#define XR(r) ((r)-XMM0)
enum { K_SIGN64 = 0, K_SIGN32 = 1, K_ABS64 = 2, K_ABS32 = 3 };
#define KONST(n) JIT_GS(IRX(konst) + 16 * (n))
enum { M38 = 0x100, M3A = 0x200, PSHUFB = M38 | 0x00 };

static unsigned dst(struct irc *c, uint32_t avoid)
{
    return ir_dst(c, (ir_val)c->cur, avoid);
}
static void made(struct irc *c, unsigned d)
{
    ir_made(c, (ir_val)c->cur, d);
}

/* 66-prefixed d = a op b; op with M38, M3A for the longer maps. Registers as 16..31. */
static void op3(struct irc *c, unsigned op, unsigned d, unsigned a, unsigned b)
{
    ir_vex(c->b, 1, op & M38 ? 2 : op & M3A ? 3 : 1, 0, op & 0xff, XR(d), XR(a), XR(b));
}
static void op2(struct irc *c, unsigned op, unsigned d, unsigned b)
{
    ir_vex(c->b, 1, op & M38 ? 2 : op & M3A ? 3 : 1, 0, op & 0xff, XR(d), 0, XR(b));
}
static void op3i(struct irc *c, unsigned op, unsigned d, unsigned a, unsigned b, unsigned imm)
{
    op3(c, op, d, a, b);
    jit_8(c->b, imm);
}
/* Shift of lanes H S D by an immediate: ext 2 right, 4 right with sign, 6 left. */
static void shift(struct irc *c, unsigned lane, unsigned ext, unsigned d, unsigned a, unsigned n)
{
    ir_vex(c->b, 1, 1, 0, 0x70 + lane, ext, XR(d), XR(a));
    jit_8(c->b, n);
}
static void shift_bytes_right(struct irc *c, unsigned d, unsigned a, unsigned n)
{
    ir_vex(c->b, 1, 1, 0, 0x73, 3, XR(d), XR(a));
    jit_8(c->b, n);
}
static void zero(struct irc *c, unsigned d)
{
    op3(c, 0xef, d, d, d);
}
static void ones(struct irc *c, unsigned d)
{
    op3(c, 0x76, d, d, d);
}
static void invert(struct irc *c, unsigned d)
{
    unsigned t = ir_tmp(c, true);

    ones(c, t);
    op3(c, 0xef, d, d, t);
}
/* All 32-bit lanes := v. */
static void splat32(struct irc *c, unsigned d, uint32_t v)
{
    unsigned g;

    if (v == 0xff00ff || v == 0xffff) {
        op3(c, 0x76, d, d, d);
        shift(c, v == 0xffff ? IR_S : IR_H, 2, d, d, v == 0xffff ? 16 : 8);
        return;
    }
    g = ir_tmp(c, false);
    jit_mov_ri(c->b, g, v);
    ir_vex(c->b, 1, 1, 0, 0x6e, XR(d), 0, g);
    op2(c, M38 | 0x58, d, d);
    c->lock &= ~(1u << g);
}
static void const128(struct irc *c, unsigned d, uint64_t lo, uint64_t hi)
{
    unsigned g = ir_tmp(c, false);

    jit_mov_ri(c->b, g, lo);
    ir_vex(c->b, 1, 1, 1, 0x6e, XR(d), 0, g);
    jit_mov_ri(c->b, g, hi);
    ir_vex(c->b, 1, 3, 1, 0x22, XR(d), XR(d), g);
    jit_8(c->b, 1);
    c->lock &= ~(1u << g);
}

/* --- One instruction: opcodes for lanes B H S D; 0 = none --- */
static const struct simple {
    uint8_t op;
    uint16_t code[4];
} simple[] = {
    {IR_VAND, {0xdb, 0xdb, 0xdb, 0xdb}},
    {IR_VOR, {0xeb, 0xeb, 0xeb, 0xeb}},
    {IR_VXOR, {0xef, 0xef, 0xef, 0xef}},
    {IR_VADD, {0xfc, 0xfd, 0xfe, 0xd4}},
    {IR_VSUB, {0xf8, 0xf9, 0xfa, 0xfb}},
    {IR_VMUL, {0, 0xd5, M38 | 0x40, 0}},
    {IR_VSMIN, {M38 | 0x38, 0xea, M38 | 0x39, 0}},
    {IR_VSMAX, {M38 | 0x3c, 0xee, M38 | 0x3d, 0}},
    {IR_VUMIN, {0xda, M38 | 0x3a, M38 | 0x3b, 0}},
    {IR_VUMAX, {0xde, M38 | 0x3e, M38 | 0x3f, 0}},
    {IR_VQADDS, {0xec, 0xed, 0, 0}},
    {IR_VQADDU, {0xdc, 0xdd, 0, 0}},
    {IR_VQSUBS, {0xe8, 0xe9, 0, 0}},
    {IR_VQSUBU, {0xd8, 0xd9, 0, 0}},
    {IR_VCMPEQ, {0x74, 0x75, 0x76, M38 | 0x29}},
    {IR_VCMPGTS, {0x64, 0x65, 0x66, M38 | 0x37}},
    {IR_VZIP1, {0x60, 0x61, 0x62, 0x6c}},
    {IR_VZIP2, {0x68, 0x69, 0x6a, 0x6d}},
    {IR_VTRN1, {0, 0, 0, 0x6c}},
    {IR_VTRN2, {0, 0, 0, 0x6d}},
    {IR_VUZP1, {0, 0, 0, 0x6c}},
    {IR_VUZP2, {0, 0, 0, 0x6d}},
    {IR_VPADD, {0, M38 | 0x01, M38 | 0x02, 0}},
};

static bool one_insn(struct irc *c, const struct ir_op *o)
{
    for (unsigned i = 0; i < ARRAY_LEN(simple); i++)
        if (simple[i].op == o->op) {
            unsigned code = simple[i].code[o->attr & 3], a, b, d;

            if (!code)
                return false;
            a = ir_use(c, o->a[0]);
            b = ir_use(c, o->a[1]);
            d = dst(c, 0);
            op3(c, code, d, a, b);
            made(c, d);
            return true;
        }
    return false;
}

/* --- Logic, compares, differences --- */
static bool logic(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), b, d, t;

    switch (o->op) {
    case IR_VANDN:
        b = ir_use(c, o->a[1]);
        d = dst(c, 0);
        op3(c, 0xdf, d, b, a);
        break;
    case IR_VNOT:
        t = ir_tmp(c, true);
        ones(c, t);
        d = dst(c, 0);
        op3(c, 0xef, d, a, t);
        break;
    case IR_VBSL:
        b = ir_use(c, o->a[1]);
        t = ir_tmp(c, true);
        op3(c, 0xdb, t, a, b);
        b = ir_use(c, o->a[2]);
        d = dst(c, 0);
        op3(c, 0xdf, d, a, b);
        op3(c, 0xeb, d, d, t);
        break;
    default: /* VLOW */
        d = dst(c, 0);
        ir_vex(c->b, 2, 1, 0, 0x7e, XR(d), 0, XR(a));
        break;
    }
    made(c, d);
    return true;
}

static bool compare(struct irc *c, const struct ir_op *o)
{
    static const uint16_t eq[] = {0x74, 0x75, 0x76, M38 | 0x29}, gt[] = {0x64, 0x65, 0x66, M38 | 0x37};
    static const uint16_t maxu[] = {0xde, M38 | 0x3e, M38 | 0x3f, 0};
    unsigned l = o->attr & 3, a, b, d, t;

    if (l == IR_D && (o->op == IR_VCMPGTU || o->op == IR_VCMPGEU))
        return false;
    a = ir_use(c, o->a[0]);
    b = ir_use(c, o->a[1]);
    switch (o->op) {
    case IR_VCMPGES: /* not b > a */
        d = dst(c, 0);
        op3(c, gt[l], d, b, a);
        invert(c, d);
        break;
    case IR_VCMPGEU: /* max(a, b) == a */
        t = ir_tmp(c, true);
        op3(c, maxu[l], t, a, b);
        d = dst(c, 0);
        op3(c, eq[l], d, t, a);
        break;
    case IR_VCMPGTU: /* not max(a, b) == b */
        t = ir_tmp(c, true);
        op3(c, maxu[l], t, a, b);
        d = dst(c, 0);
        op3(c, eq[l], d, t, b);
        invert(c, d);
        break;
    default: /* VTST */
        d = dst(c, 0);
        op3(c, 0xdb, d, a, b);
        t = ir_tmp(c, true);
        zero(c, t);
        op3(c, eq[l], d, d, t);
        invert(c, d);
        break;
    }
    made(c, d);
    return true;
}

static bool difference(struct irc *c, const struct ir_op *o)
{
    static const uint16_t mins[] = {M38 | 0x38, 0xea, M38 | 0x39}, maxs[] = {M38 | 0x3c, 0xee, M38 | 0x3d};
    static const uint16_t minu[] = {0xda, M38 | 0x3a, M38 | 0x3b}, maxu[] = {0xde, M38 | 0x3e, M38 | 0x3f};
    static const uint8_t sub[] = {0xf8, 0xf9, 0xfa, 0xfb}, absop[] = {0x1c, 0x1d, 0x1e};
    unsigned l = o->attr & 3, a, b, d, t;

    if (l == IR_D && o->op != IR_VNEG)
        return false;
    a = ir_use(c, o->a[0]);
    if (o->op == IR_VABS) {
        d = dst(c, 0);
        op2(c, M38 | absop[l], d, a);
        made(c, d);
        return true;
    }
    t = ir_tmp(c, true);
    if (o->op == IR_VNEG) {
        zero(c, t);
        d = dst(c, 0);
        op3(c, sub[l], d, t, a);
    } else {
        bool s = o->op == IR_VABDS;

        b = ir_use(c, o->a[1]);
        op3(c, s ? mins[l] : minu[l], t, a, b);
        d = dst(c, 0);
        op3(c, s ? maxs[l] : maxu[l], d, a, b);
        op3(c, sub[l], d, d, t);
    }
    made(c, d);
    return true;
}

/* --- Shifts by an immediate --- */
/* d = a >> n with sign, 0 < n < lane width, where there is no such instruction. d is not a. */
static void sar_odd(struct irc *c, unsigned l, unsigned d, unsigned a, unsigned n)
{
    unsigned t = ir_tmp(c, true);

    if (l == IR_D) { /* the sign above */
        zero(c, t);
        op3(c, M38 | 0x37, t, t, a);
        shift(c, IR_D, 6, t, t, 64 - n);
        shift(c, IR_D, 2, d, a, n);
        op3(c, 0xeb, d, d, t);
    } else { /* the sign bit, now at 7 - n, extended by xor and subtraction */
        shift(c, IR_H, 2, d, a, n);
        splat32(c, t, (0xffu >> n) * 0x01010101u);
        op3(c, 0xdb, d, d, t);
        splat32(c, t, (0x80u >> n) * 0x01010101u);
        op3(c, 0xef, d, d, t);
        op3(c, 0xf8, d, d, t);
    }
    c->lock &= ~(1u << t);
}

/* d = a >> n in lanes of bytes; d may be a. */
static void shr_bytes(struct irc *c, unsigned d, unsigned a, unsigned n, uint32_t mask)
{
    unsigned t = ir_tmp(c, true);

    splat32(c, t, mask * 0x01010101u);
    shift(c, IR_H, 2, d, a, n);
    op3(c, 0xdb, d, d, t);
    c->lock &= ~(1u << t);
}

/* The shifted value and the last bit shifted out. */
static bool shift_round(struct irc *c, const struct ir_op *o)
{
    static const uint16_t add[] = {0xfc, 0xfd, 0xfe, 0xd4};
    unsigned l = o->attr & 3, w = 8u << l, n = (unsigned)o->imm, a = ir_use(c, o->a[0]), t = ir_tmp(c, true), d;
    bool sign = o->op == IR_VRSARI;

    if (l == IR_B) {
        shr_bytes(c, t, a, n - 1, 1);
    } else {
        shift(c, l, 6, t, a, w - n);
        shift(c, l, 2, t, t, w - 1);
    }
    d = dst(c, 1u << a);
    if (sign && n == w)
        n--;
    if (n == w)
        zero(c, d);
    else if (sign && (l == IR_B || l == IR_D))
        sar_odd(c, l, d, a, n);
    else if (l == IR_B)
        shr_bytes(c, d, a, n, 0xffu >> n);
    else
        shift(c, l, sign ? 4 : 2, d, a, n);
    op3(c, add[l], d, d, t);
    made(c, d);
    return true;
}

/* Lanes S and D by the signed low byte u of another's: left by u, or right by 256 - u; the host shifts 0 in when the
 * count is too large. */
static bool shift_by_lanes(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, wide = l == IR_D, a, b, t, u, d;

    if (l < IR_S || (o->op == IR_VSALV && l == IR_D))
        return false;
    a = ir_use(c, o->a[0]);
    b = ir_use(c, o->a[1]);
    t = ir_tmp(c, true);
    u = ir_tmp(c, true);
    ones(c, t);
    shift(c, l, 2, t, t, wide ? 56 : 24);
    op3(c, 0xdb, u, b, t);
    op3(c, wide ? 0xfb : 0xfa, t, t, u);
    d = dst(c, 1u << a | 1u << b);
    ones(c, d);
    op3(c, wide ? 0xfb : 0xfa, t, t, d);                 /* 255 - u + 1 */
    ir_vex(c->b, 1, 2, wide, 0x47, XR(d), XR(a), XR(u)); /* vpsllv */
    if (o->op == IR_VSHLV) {
        ir_vex(c->b, 1, 2, wide, 0x45, XR(t), XR(a), XR(t)); /* vpsrlv */
        op3(c, 0xeb, d, d, t);
    } else {
        ir_vex(c->b, 1, 2, 0, 0x46, XR(t), XR(a), XR(t)); /* vpsravd */
        shift(c, IR_S, 6, u, u, 24);
        op3i(c, M3A | 0x4a, d, d, t, XR(u) << 4); /* vblendvps */
    }
    made(c, d);
    return true;
}

static bool mul_bytes(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), b = ir_use(c, o->a[1]), t = ir_tmp(c, true), u = ir_tmp(c, true), d;

    shift(c, IR_H, 2, t, a, 8);
    shift(c, IR_H, 2, u, b, 8);
    op3(c, 0xd5, t, t, u); /* odd bytes */
    shift(c, IR_H, 6, t, t, 8);
    splat32(c, u, 0xff00ff);
    d = dst(c, 0);
    op3(c, 0xd5, d, a, b);
    op3(c, 0xdb, d, d, u);
    op3(c, 0xeb, d, d, t);
    made(c, d);
    return true;
}

static bool shift_imm(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, w = 8u << l, n = (unsigned)o->imm, a, d, t;
    unsigned ext = o->op == IR_VSHLI ? 6 : o->op == IR_VSHRI ? 2 : 4;

    if (ext == 4 && n >= w)
        n = w - 1;
    if (ext == 4 && (l == IR_D || l == IR_B)) {
        if (!n)
            return false;
        a = ir_use(c, o->a[0]);
        d = dst(c, 1u << a);
        sar_odd(c, l, d, a, n);
        made(c, d);
        return true;
    }
    a = ir_use(c, o->a[0]);
    if (n >= w) {
        d = dst(c, 0);
        zero(c, d);
    } else if (l != IR_B) {
        d = dst(c, 0);
        shift(c, l, ext, d, a, n);
    } else {
        uint32_t m = (ext == 6 ? 0xffu << n : 0xffu >> n) & 0xff;

        t = ir_tmp(c, true);
        splat32(c, t, m * 0x01010101u);
        d = dst(c, 0);
        shift(c, IR_H, ext, d, a, n);
        op3(c, 0xdb, d, d, t);
    }
    made(c, d);
    return true;
}

/* --- Moves between lanes --- */
/* d = even (odd) bytes or halves of a in wider lanes, zero-extended. */
static void even_odd(struct irc *c, unsigned l, bool odd, unsigned d, unsigned a, unsigned mask)
{
    if (odd)
        shift(c, l + 1, 2, d, a, 8u << l);
    else
        op3(c, 0xdb, d, a, mask);
}

static bool unzip(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, a = ir_use(c, o->a[0]), b = ir_use(c, o->a[1]), d, t, m = XMM0;
    bool odd = o->op == IR_VUZP2;

    if (l == IR_S) { /* vshufps */
        d = dst(c, 0);
        ir_vex(c->b, 0, 1, 0, 0xc6, XR(d), XR(a), XR(b));
        jit_8(c->b, odd ? 0xdd : 0x88);
        made(c, d);
        return true;
    }
    if (!odd) {
        m = ir_tmp(c, true);
        splat32(c, m, l == IR_B ? 0xff00ff : 0xffff);
    }
    t = ir_tmp(c, true);
    even_odd(c, l, odd, t, b, m);
    d = dst(c, 0);
    even_odd(c, l, odd, d, a, m);
    op3(c, l == IR_B ? 0x67 : M38 | 0x2b, d, d, t); /* packuswb, packusdw */
    made(c, d);
    return true;
}

static bool transpose(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, w = 8u << l, a, b, d, t;
    bool second = o->op == IR_VTRN2;

    if (l == IR_B)
        return false;
    a = ir_use(c, o->a[0]);
    b = ir_use(c, o->a[1]);
    t = ir_tmp(c, true);
    d = dst(c, 0);
    shift(c, l + 1, second ? 2 : 6, t, second ? a : b, w);
    /* odd lanes from b's side */
    op3i(c, l == IR_S ? M3A | 0x02 : M3A | 0x0e, d, second ? t : a, second ? b : t, 0xaa);
    made(c, d);
    return true;
}

/* Lanes of 32 bits: the even ones of both, and the odd ones. */
static bool pair_words(struct irc *c, const struct ir_op *o)
{
    static const uint16_t op[] = {0xfe, M38 | 0x3d, M38 | 0x39, M38 | 0x3f, M38 | 0x3b};
    unsigned a = ir_use(c, o->a[0]), b = ir_use(c, o->a[1]), d, t = ir_tmp(c, true);

    ir_vex(c->b, 0, 1, 0, 0xc6, XR(t), XR(a), XR(b)); /* vshufps */
    jit_8(c->b, 0xdd);
    d = dst(c, 0);
    ir_vex(c->b, 0, 1, 0, 0xc6, XR(d), XR(a), XR(b));
    jit_8(c->b, 0x88);
    op3(c, op[o->op - IR_VPADD], d, d, t);
    made(c, d);
    return true;
}

/* Pairs of a as words whose upper byte is 0; the smaller of anything and 0 is. */
static void pair_half(struct irc *c, unsigned op, unsigned d, unsigned a, unsigned mask)
{
    shift(c, IR_H, 2, d, a, 8);
    op3(c, op, d, d, a);
    if (mask)
        op3(c, 0xdb, d, d, mask);
}

static bool pair(struct irc *c, const struct ir_op *o)
{
    static const uint8_t op[] = {0xfc, 0, 0, 0xde, 0xda};
    unsigned k = o->op - IR_VPADD, l = o->attr & 3, a, b, d, t, m = 0;

    if (l == IR_S)
        return pair_words(c, o);
    if (l == IR_D && o->op == IR_VPADD) {
        a = ir_use(c, o->a[0]);
        b = ir_use(c, o->a[1]);
        t = ir_tmp(c, true);
        op3(c, 0x6d, t, a, b);
        d = dst(c, 0);
        op3(c, 0x6c, d, a, b);
        op3(c, 0xd4, d, d, t);
        made(c, d);
        return true;
    }
    if (l != IR_B || !op[k])
        return false;
    a = ir_use(c, o->a[0]);
    b = ir_use(c, o->a[1]);
    if (o->op != IR_VPUMIN) {
        m = ir_tmp(c, true);
        splat32(c, m, 0xff00ff);
    }
    t = ir_tmp(c, true);
    pair_half(c, op[k], t, b, m);
    d = dst(c, 1u << a | 1u << b);
    if (a != b)
        pair_half(c, op[k], d, a, m);
    op3(c, 0x67, d, a != b ? d : t, t);
    made(c, d);
    return true;
}

static bool reverse(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, group = (2u << (o->attr >> 2 & 3)), size = 1u << l, a, d, t;
    uint64_t half[2] = {0, 0};

    for (unsigned i = 0; i < 16; i++) {
        unsigned g = i / group * group, in = i % group, from = g + (group / size - 1 - in / size) * size + in % size;

        half[i / 8] |= (uint64_t)from << 8 * (i % 8);
    }
    a = ir_use(c, o->a[0]);
    t = ir_tmp(c, true);
    const128(c, t, half[0], half[1]);
    d = dst(c, 0);
    op3(c, PSHUFB, d, a, t);
    made(c, d);
    return true;
}

static bool table(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), b = ir_use(c, o->a[1]), t = ir_tmp(c, true), d;

    splat32(c, t, 0x70707070);
    op3(c, 0xdc, t, t, b); /* paddusb: 16 and above get their top bit */
    d = dst(c, 0);
    op3(c, PSHUFB, d, a, t);
    made(c, d);
    return true;
}

static void extract(struct irc *c, unsigned l, unsigned g, unsigned x, unsigned n)
{
    static const uint8_t op[] = {0x14, 0x15, 0x16, 0x16};

    ir_vex(c->b, 1, 3, l == IR_D, op[l], XR(x), 0, g);
    jit_8(c->b, n);
}

static void insert(struct irc *c, unsigned l, unsigned d, unsigned a, unsigned g, unsigned n)
{
    if (l == IR_H)
        ir_vex(c->b, 1, 1, 0, 0xc4, XR(d), XR(a), g);
    else
        ir_vex(c->b, 1, 3, l == IR_D, l == IR_B ? 0x20 : 0x22, XR(d), XR(a), g);
    jit_8(c->b, n);
}

static void fp_shuffle(struct irc *c, unsigned d, unsigned low, unsigned high, unsigned which)
{
    ir_vex(c->b, 1, 1, 0, 0xc6, XR(d), XR(low), XR(high));
    jit_8(c->b, which);
}

static void broadcast(struct irc *c, unsigned l, unsigned d, unsigned a)
{
    static const uint8_t op[] = {0x78, 0x79, 0x58, 0x59};

    op2(c, M38 | op[l], d, a);
}

/* d = a with lane to & 15 := lane to >> 4 of b: vinsertps, vshufpd. */
static void insert_lane(struct irc *c, unsigned l, unsigned d, unsigned a, unsigned b, unsigned to)
{
    unsigned from = to >> 4;

    to &= 15;
    if (l == IR_S)
        op3i(c, M3A | 0x21, d, a, b, from << 6 | to << 4);
    else if (to)
        fp_shuffle(c, d, a, b, from << 1);
    else
        fp_shuffle(c, d, b, a, from | 2);
    made(c, d);
}

static bool lanes(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, a = ir_use(c, o->a[0]), b, d, g, n = (unsigned)o->imm;

    switch (o->op) {
    case IR_VDUP:
        d = dst(c, 0);
        ir_vex(c->b, 1, 1, l == IR_D, 0x6e, XR(d), 0, a);
        broadcast(c, l, d, d);
        break;
    case IR_VDUPL:
        d = dst(c, 0);
        if (l >= IR_S) { /* vpshufd */
            ir_vex(c->b, 1, 1, 0, 0x70, XR(d), 0, XR(a));
            jit_8(c->b, l == IR_D ? (n ? 0xee : 0x44) : n * 0x55);
            break;
        }
        if (n)
            shift_bytes_right(c, d, a, n << l);
        broadcast(c, l, d, n ? d : a);
        break;
    case IR_VINS:
        b = ir_use(c, o->a[1]);
        d = dst(c, 0);
        insert(c, l, d, a, b, n);
        break;
    case IR_VINSL:
        b = ir_use(c, o->a[1]);
        if (l >= IR_S) {
            insert_lane(c, l, dst(c, 0), a, b, n);
            return true;
        }
        g = ir_tmp(c, false);
        extract(c, l, g, b, n >> 4);
        d = dst(c, 0);
        insert(c, l, d, a, g, n & 15);
        break;
    case IR_VGETU:
        d = dst(c, 0);
        if (!n && l >= IR_S) /* vmovd, vmovq */
            ir_vex(c->b, 1, 1, l == IR_D, 0x7e, XR(a), 0, d);
        else
            extract(c, l, d, a, n);
        break;
    case IR_VGETS:
        d = dst(c, 0);
        extract(c, l, d, a, n);
        if (l < IR_S)
            jit_op_reg(c->b, JIT_RM8 | (o->t == IR_I64 ? (unsigned)JIT_W : 0), l == IR_B ? 0x0fbe : 0x0fbf, d, d);
        else if (l == IR_S && o->t == IR_I64)
            jit_op_reg(c->b, JIT_W, 0x63, d, d);
        break;
    default: /* VMSKB */
        d = dst(c, 0);
        ir_vex(c->b, 1, 1, 0, 0xd7, d, 0, XR(a));
        break;
    }
    made(c, d);
    return true;
}

/* --- Widths --- */
static void widen(struct irc *c, unsigned l, bool high, bool sgn, unsigned d, unsigned a)
{
    static const uint8_t op[] = {0x30, 0x33, 0x35};

    if (high) {
        shift_bytes_right(c, d, a, 8);
        a = d;
    }
    op2(c, M38 | (op[l] - (sgn ? 0x10u : 0)), d, a);
}

static bool widening(struct irc *c, const struct ir_op *o)
{
    static const uint16_t mul[] = {0xd5, M38 | 0x40, 0xf4};
    unsigned l = o->attr & 3, a = ir_use(c, o->a[0]), b, d, t;
    bool high = o->attr & 4;

    if (o->op == IR_VWIDENS || o->op == IR_VWIDENU) {
        d = dst(c, 0);
        widen(c, l, high, o->op == IR_VWIDENS, d, a);
    } else {
        bool s = o->op == IR_VMULLS;

        b = ir_use(c, o->a[1]);
        t = ir_tmp(c, true);
        widen(c, l, high, s, t, b);
        d = dst(c, 0);
        widen(c, l, high, s, d, a);
        op3(c, l == IR_S && s ? M38 | 0x28 : mul[l], d, d, t);
    }
    made(c, d);
    return true;
}

static bool narrowing(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, a, d, t;

    if (o->op == IR_VNARROWUU || (o->op != IR_VNARROW && l == IR_D))
        return false;
    a = ir_use(c, o->a[0]);
    t = ir_tmp(c, true);
    if (o->op == IR_VNARROW && l == IR_D) {
        d = dst(c, 0);
        op2(c, 0x70, d, a); /* vpshufd */
        jit_8(c->b, 8);
        ir_vex(c->b, 2, 1, 0, 0x7e, XR(d), 0, XR(d));
        made(c, d);
        return true;
    }
    if (o->op == IR_VNARROW) {
        splat32(c, t, l == IR_H ? 0xff00ff : 0xffff);
        op3(c, 0xdb, t, a, t);
        a = t;
    }
    d = dst(c, 1u << a);
    zero(c, d);
    if (o->op == IR_VNARROWSS)
        op3(c, l == IR_H ? 0x63 : 0x6b, d, a, d);
    else
        op3(c, l == IR_H ? 0x67 : M38 | 0x2b, d, a, d);
    made(c, d);
    return true;
}

/* --- Counting, sums, crypto --- */
static bool count_ones(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), lut = ir_tmp(c, true), m = ir_tmp(c, true), t = ir_tmp(c, true), d;

    const128(c, lut, UINT64_C(0x0302020102010100), UINT64_C(0x0403030203020201));
    splat32(c, m, 0x0f0f0f0f);
    shift(c, IR_H, 2, t, a, 4);
    op3(c, 0xdb, t, t, m);
    op3(c, PSHUFB, t, lut, t);
    op3(c, 0xdb, m, a, m);
    d = dst(c, 0);
    op3(c, PSHUFB, d, lut, m);
    op3(c, 0xfc, d, d, t);
    made(c, d);
    return true;
}

static bool sum_lanes(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, a, d, t, g;

    if (l == IR_D)
        return false;
    a = ir_use(c, o->a[0]);
    t = ir_tmp(c, true);
    d = dst(c, 1u << a);
    g = ir_tmp(c, false);
    if (l == IR_B) {
        zero(c, t);
        op3(c, 0xf6, d, a, t); /* psadbw */
        shift_bytes_right(c, t, d, 8);
        op3(c, 0xd4, d, d, t);
    } else {
        for (unsigned i = 0; i < 4u - l + (l == IR_S ? 0 : 0); i++)
            op3(c, l == IR_H ? M38 | 0x01 : M38 | 0x02, d, i ? d : a, i ? d : a);
    }
    extract(c, l, g, d, 0);
    ir_vex(c->b, 1, 1, 1, 0x6e, XR(d), 0, g);
    made(c, d);
    return true;
}

static bool crypto(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), t, d;

    if (o->op == IR_VCLMULL) {
        t = ir_use(c, o->a[1]);
        d = dst(c, 0);
        op3i(c, M3A | 0x44, d, a, t, o->attr & 1 ? 0x11 : 0);
        made(c, d);
        return true;
    }
    t = ir_tmp(c, true);
    zero(c, t);
    d = dst(c, 0);
    switch (o->op) {
    case IR_VAESENC:
        op3(c, M38 | 0xdd, d, a, t);
        break;
    case IR_VAESDEC:
        op3(c, M38 | 0xdf, d, a, t);
        break;
    case IR_VAESMC:
        op3(c, M38 | 0xdf, d, a, t);
        op3(c, M38 | 0xdc, d, d, t);
        break;
    default:
        op2(c, M38 | 0xdb, d, a);
        break;
    }
    made(c, d);
    return true;
}

/* --- FP lanes: S has no prefix, D has 66 --- */
static void fp3(struct irc *c, unsigned l, unsigned op, unsigned d, unsigned a, unsigned b)
{
    ir_vex(c->b, l == IR_D ? 1 : 0, 1, 0, op, XR(d), XR(a), XR(b));
}

/* Jumps when a lane of a or b is a NaN. */
static uint8_t *any_nan(struct irc *c, unsigned l, unsigned a, unsigned b)
{
    unsigned t = ir_tmp(c, true);

    fp3(c, l, 0xc2, t, a, b);
    jit_8(c->b, 3);
    op2(c, M38 | 0x17, t, t); /* vptest */
    c->lock &= ~(1u << t);
    return jit_jcc_fwd(c->b, JCC_NE);
}

static void cold_eval(struct irc *c, uint8_t *from, unsigned d, const unsigned *arg, unsigned n)
{
    struct ir_cold *k = ir_new_cold(c, COLD_EVAL);

    k->from = from;
    k->back = c->b->p;
    k->n = c->cur;
    k->dst = (uint8_t)d;
    for (unsigned i = 0; i < n; i++)
        k->reg[i] = (uint8_t)arg[i];
}

static bool fp_arith(struct irc *c, const struct ir_op *o)
{
    static const uint8_t op[] = {0x58, 0x5c, 0x59, 0x5e, 0x51};
    unsigned l = o->attr & 3, n = ir_op_nargs((enum ir_opcode)o->op), arg[2], d;
    uint32_t avoid = 0;

    ir_clobber_flags(c);
    for (unsigned i = 0; i < n; i++) {
        arg[i] = ir_use(c, o->a[i]);
        avoid |= 1u << arg[i];
    }
    d = dst(c, avoid);
    if (o->op == IR_VFPADD)
        ir_vex(c->b, l == IR_D ? 1 : 3, 1, 0, 0x7c, XR(d), XR(arg[0]), XR(arg[1]));
    else if (n == 2)
        fp3(c, l, op[o->op - IR_VFADD], d, arg[0], arg[1]);
    else
        fp3(c, l, op[o->op - IR_VFADD], d, XMM0, arg[0]);
    cold_eval(c, any_nan(c, l, d, d), d, arg, n);
    made(c, d);
    return true;
}

static bool fp_fma(struct irc *c, const struct ir_op *o)
{
    static const uint8_t op[] = {0xa8, 0xac, 0xaa, 0xae};
    unsigned l = o->attr & 3, arg[3], d;

    ir_clobber_flags(c);
    for (unsigned i = 0; i < 3; i++)
        arg[i] = ir_use(c, o->a[i]);
    d = dst(c, 1u << arg[0] | 1u << arg[1] | 1u << arg[2]);
    ir_mov(c, d, arg[0], IR_V128);
    ir_vex(c->b, 1, 2, l == IR_D, op[o->attr >> 2 & 3], XR(d), XR(arg[1]), XR(arg[2]));
    cold_eval(c, any_nan(c, l, d, d), d, arg, 3);
    made(c, d);
    return true;
}

static bool fp_minmax(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, arg[2], d, t;
    bool max = o->op == IR_VFMAX;
    uint8_t *from;

    ir_clobber_flags(c);
    arg[0] = ir_use(c, o->a[0]);
    arg[1] = ir_use(c, o->a[1]);
    d = dst(c, 1u << arg[0] | 1u << arg[1]);
    t = ir_tmp(c, true);
    from = any_nan(c, l, arg[0], arg[1]);
    fp3(c, l, max ? 0x5f : 0x5d, d, arg[0], arg[1]);
    fp3(c, l, max ? 0x5f : 0x5d, t, arg[1], arg[0]);
    fp3(c, l, max ? 0x54 : 0x56, d, d, t);
    cold_eval(c, from, d, arg, 2);
    made(c, d);
    return true;
}

/* Twice a lane is its magnitude; less one, 0 is the largest. */
static bool fp_small(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), b = ir_use(c, o->a[1]), t, u, k, d;

    ir_clobber_flags(c);
    t = ir_tmp(c, true);
    u = ir_tmp(c, true);
    k = ir_tmp(c, true);
    op3(c, 0xfe, t, a, a);
    op3(c, 0xfe, u, b, b);
    op3(c, 0x76, k, k, k);
    op3(c, 0xfe, t, t, k);
    op3(c, 0xfe, u, u, k);
    op3(c, M38 | 0x3b, t, t, u);
    shift(c, IR_S, 2, k, k, 2); /* 2^-63 twice, less one */
    op3(c, M38 | 0x3f, u, t, k);
    op3(c, 0x76, t, t, u);
    d = ir_dst(c, (ir_val)c->cur, 0);
    ir_vex(c->b, 0, 1, 0, 0x50, d, 0, XR(t)); /* vmovmskps */
    jit_op_reg(c->b, 0, 0x83, 6, d);
    jit_8(c->b, 15);
    made(c, d);
    return true;
}

static bool fp_sign(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), d = dst(c, 0), k = o->attr & 1 ? 0 : 1; /* D is 3, S is 2 */

    if (o->op == IR_VFNEG)
        ir_vex_m(c->b, 0, 1, 0, 0x57, XR(d), XR(a), KONST(k ? K_SIGN32 : K_SIGN64));
    else
        ir_vex_m(c->b, 0, 1, 0, 0x54, XR(d), XR(a), KONST(k ? K_ABS32 : K_ABS64));
    made(c, d);
    return true;
}

static bool fp_compare(struct irc *c, const struct ir_op *o)
{
    static const uint8_t quiet[] = {0x00, 0x11, 0x12, 0x03, 0x1e, 0x1d}, sig[] = {0x10, 0x01, 0x02, 0x13, 0x0e, 0x0d};
    unsigned cc = o->attr >> 4 & 7, a = ir_use(c, o->a[0]), b = ir_use(c, o->a[1]), d = dst(c, 0);

    fp3(c, o->attr & 3, 0xc2, d, a, b);
    jit_8(c->b, o->attr & 8 ? sig[cc] : quiet[cc]);
    made(c, d);
    return true;
}

/* Lanes S unsigned, D signed: one by one. */
static bool lanes_to_fp(struct irc *c, const struct ir_op *o)
{
    unsigned l = o->attr & 3, a, d, t, x, wide = l == IR_D;

    if (wide && o->attr & 8)
        return false;
    a = ir_use(c, o->a[0]);
    t = ir_tmp(c, false);
    x = ir_tmp(c, true);
    d = dst(c, 1u << a);
    zero(c, x);
    for (unsigned k = 0; k < (wide ? 2u : 4u); k++) {
        ir_vex(c->b, 1, 3, wide, 0x16, XR(a), 0, t); /* vpextr */
        jit_8(c->b, k);
        ir_vex(c->b, wide ? 3 : 2, 1, 1, 0x2a, k ? XR(x) : XR(d), XR(x), t); /* vcvtsi2s */
        if (!k)
            continue;
        if (wide)
            op3(c, 0x14, d, d, x); /* vunpcklpd */
        else
            op3i(c, M3A | 0x21, d, d, x, k << 4); /* vinsertps */
    }
    made(c, d);
    return true;
}

/* Doubles to signed integers toward zero; the smallest is what the host gives for what does not fit. */
static bool doubles_to_int(struct irc *c, const struct ir_op *o)
{
    unsigned a, d, t, x;

    ir_clobber_flags(c);
    a = ir_use(c, o->a[0]);
    t = ir_tmp(c, false);
    x = ir_tmp(c, true);
    d = dst(c, 1u << a);
    ir_vex(c->b, 3, 1, 1, 0x2c, t, 0, XR(a));
    ir_vex(c->b, 1, 1, 1, 0x6e, XR(d), 0, t);
    shift_bytes_right(c, x, a, 8);
    ir_vex(c->b, 3, 1, 1, 0x2c, t, 0, XR(x));
    ir_vex(c->b, 1, 3, 1, 0x22, XR(d), XR(d), t); /* vpinsrq */
    jit_8(c->b, 1);
    ir_vex_m(c->b, 1, 2, 0, 0x29, XR(x), XR(d), KONST(K_SIGN64)); /* vpcmpeqq */
    op2(c, M38 | 0x17, x, x);
    cold_eval(c, jit_jcc_fwd(c->b, JCC_NE), d, &a, 1);
    made(c, d);
    return true;
}

/* (a + b) >> 1 is (a & b) + ((a ^ b) >> 1); rounded up (a | b) - ((a ^ b) >> 1), or for some the host's average. */
static bool halving(struct irc *c, const struct ir_op *o)
{
    static const uint16_t add[] = {0xfc, 0xfd, 0xfe}, sub[] = {0xf8, 0xf9, 0xfa};
    unsigned l = o->attr & 3, a, b, d, t, u;
    bool sign = o->op == IR_VHADDS, up = o->attr & 4;

    if (l == IR_D)
        return false;
    a = ir_use(c, o->a[0]);
    b = ir_use(c, o->a[1]);
    if (!sign && up && l <= IR_H) {
        d = dst(c, 0);
        op3(c, l == IR_B ? 0xe0 : 0xe3, d, a, b); /* pavg */
        made(c, d);
        return true;
    }
    d = dst(c, 1u << a | 1u << b);
    t = ir_tmp(c, true);
    op3(c, 0xef, t, a, b);
    if (l != IR_B) {
        shift(c, l, sign ? 4 : 2, t, t, 1);
    } else if (sign) {
        op3(c, 0xef, d, a, b);
        sar_odd(c, l, t, d, 1);
    } else {
        shr_bytes(c, t, t, 1, 0x7f);
    }
    op3(c, up ? 0xeb : 0xdb, d, a, b);
    u = up ? sub[l] : add[l];
    op3(c, u, d, d, t);
    made(c, d);
    return true;
}

/* Nibbles by two tables. */
static bool reverse_bits(struct irc *c, const struct ir_op *o)
{
    unsigned a = ir_use(c, o->a[0]), lut = ir_tmp(c, true), m = ir_tmp(c, true), t = ir_tmp(c, true), d;

    splat32(c, m, 0x0f0f0f0f);
    shift(c, IR_H, 2, t, a, 4);
    op3(c, 0xdb, t, t, m);
    op3(c, 0xdb, m, a, m);
    const128(c, lut, UINT64_C(0x0e060a020c040800), UINT64_C(0x0f070b030d050901));
    op3(c, PSHUFB, t, lut, t);
    shift(c, IR_H, 6, lut, lut, 4);
    d = dst(c, 0);
    op3(c, PSHUFB, d, lut, m);
    op3(c, 0xeb, d, d, t);
    made(c, d);
    return true;
}

static bool fp_convert(struct irc *c, const struct ir_op *o)
{
    static const uint8_t mode[] = {0, 3, 1, 2, 0, 0, 0, 4};
    unsigned l = o->attr & 3, rm = o->attr >> 4 & 7, a, d, t;
    bool nan = c->env->nan == IR_NAN_DEFAULT;

    switch (o->op) {
    case IR_VFROUND:
        if (rm == IR_RNA)
            return false;
        break;
    case IR_VITOF:
        if (l == IR_D || o->attr & 8)
            return lanes_to_fp(c, o);
        break;
    case IR_VFTOI:
        if (l == IR_D && !(o->attr & 8) && rm == IR_RTZ)
            return doubles_to_int(c, o);
        if (l == IR_D || o->attr & 8 || rm != IR_RTZ)
            return false;
        break;
    }
    ir_clobber_flags(c);
    a = ir_use(c, o->a[0]);
    d = dst(c, 1u << a);
    switch (o->op) {
    case IR_VFROUND:
        op2(c, M3A | (l == IR_D ? 9 : 8), d, a);
        jit_8(c->b, mode[rm] | (o->attr & 8 ? 0u : 8u));
        if (nan)
            cold_eval(c, any_nan(c, l, d, d), d, &a, 1);
        break;
    case IR_VITOF:
        ir_vex(c->b, 0, 1, 0, 0x5b, XR(d), 0, XR(a));
        break;
    case IR_VFTOI:
        ir_vex(c->b, 2, 1, 0, 0x5b, XR(d), 0, XR(a)); /* vcvttps2dq: 0x80000000 where it does not fit */
        t = ir_tmp(c, true);
        ir_vex_m(c->b, 1, 1, 0, 0x76, XR(t), XR(d), KONST(K_SIGN32));
        op2(c, M38 | 0x17, t, t);
        cold_eval(c, jit_jcc_fwd(c->b, JCC_NE), d, &a, 1);
        break;
    case IR_VFCVTL:
        if (o->attr & 4)
            shift_bytes_right(c, d, a, 8);
        ir_vex(c->b, 0, 1, 0, 0x5a, XR(d), 0, XR(o->attr & 4 ? d : a));
        if (nan)
            cold_eval(c, any_nan(c, IR_D, d, d), d, &a, 1);
        break;
    default: /* VFCVTN */
        ir_vex(c->b, 1, 1, 0, 0x5a, XR(d), 0, XR(a));
        if (nan)
            cold_eval(c, any_nan(c, IR_S, d, d), d, &a, 1);
        break;
    }
    made(c, d);
    return true;
}

bool ir_code_vec(struct irc *c, const struct ir_op *o)
{
    unsigned a, b, d;

    if (one_insn(c, o))
        return true;
    switch (o->op) {
    case IR_VANDN ... IR_VLOW:
        return logic(c, o);
    case IR_VCMPGES ... IR_VTST:
        return compare(c, o);
    case IR_VNEG:
    case IR_VABS:
    case IR_VABDS:
    case IR_VABDU:
        return difference(c, o);
    case IR_VHADDS:
    case IR_VHADDU:
        return halving(c, o);
    case IR_VRBIT:
        return reverse_bits(c, o);
    case IR_VSHLI ... IR_VSARI:
        return shift_imm(c, o);
    case IR_VRSHRI:
    case IR_VRSARI:
        return shift_round(c, o);
    case IR_VSHLV:
    case IR_VSALV:
        return shift_by_lanes(c, o);
    case IR_VMUL:
        return (o->attr & 3) == IR_B && mul_bytes(c, o);
    case IR_VUZP1:
    case IR_VUZP2:
        return unzip(c, o);
    case IR_VTRN1:
    case IR_VTRN2:
        return transpose(c, o);
    case IR_VPADD ... IR_VPUMIN:
        return pair(c, o);
    case IR_VEXT:
        a = ir_use(c, o->a[0]);
        b = ir_use(c, o->a[1]);
        d = dst(c, 0);
        op3i(c, M3A | 0x0f, d, b, a, (unsigned)o->imm); /* palignr */
        made(c, d);
        return true;
    case IR_VREV:
        return reverse(c, o);
    case IR_VTBL:
        return table(c, o);
    case IR_VDUP ... IR_VMSKB:
        return lanes(c, o);
    case IR_VADDV:
        return sum_lanes(c, o);
    case IR_VWIDENS:
    case IR_VWIDENU:
    case IR_VMULLU:
    case IR_VMULLS:
        return widening(c, o);
    case IR_VNARROW ... IR_VNARROWUU:
        return narrowing(c, o);
    case IR_VCNT:
        return count_ones(c, o);
    case IR_VCLMULL ... IR_VAESIMC:
        return crypto(c, o);
    case IR_VFADD ... IR_VFSQRT:
    case IR_VFPADD:
        return fp_arith(c, o);
    case IR_VFMA:
        return fp_fma(c, o);
    case IR_VFMIN:
    case IR_VFMAX:
        return fp_minmax(c, o);
    case IR_VFSMALL:
        return fp_small(c, o);
    case IR_VFNEG:
    case IR_VFABS:
        return fp_sign(c, o);
    case IR_VFCMP:
        return fp_compare(c, o);
    case IR_VFTOI ... IR_VFCVTN:
        return fp_convert(c, o);
    default:
        return false;
    }
}
