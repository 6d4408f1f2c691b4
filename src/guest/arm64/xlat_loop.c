/* Emitting IR: loops of the C library's string functions, seen by their words. In front of the first instruction of an
 * iteration the iterations that will find nothing are skipped (IR_SCAN): the pointer moves
 * on, and what else they write is written again by the one that follows. */
#include "guest/arm64/xlat_int.h"

static uint32_t word(const struct a64_xlat *x, unsigned n)
{
    uint64_t at = x->pc - x->start + 4 * n;

    return at + 4 <= x->avail ? get_le32(x->code + at) : 0;
}

/* LDP Qa, Qb, [Xn, #32]!; UMINP Vd, Va, Vb; UMINP Vd, Vd, Vd; CMEQ Vd.8B, Vd, #0; FMOV Xt, Dd; CBZ Xt, LDP */
static bool is_search(const struct a64_xlat *x, uint32_t w)
{
    uint32_t a = A64_RD(w), b = A64_RA(w), d, t;

    if ((w & 0xffff8000) != 0xadc10000)
        return false;
    d = A64_RD(word(x, 1));
    t = A64_RD(word(x, 4));
    return A64_RN(w) != A64_SP && a != b && t != A64_ZR && t != A64_RN(w) &&
           word(x, 1) == (0x6e20ac00 | b << 16 | a << 5 | d) && word(x, 2) == (0x6e20ac00 | d << 16 | d << 5 | d) &&
           word(x, 3) == (0x0e209800 | d << 5 | d) && word(x, 4) == (0x9e660000 | d << 5 | t) &&
           word(x, 5) == (0xb4ffff60 | t);
}

/* LDR Xb, [Xn, Xm]; LDR Xa, [Xn], #8; SUB Xd, Xa, Xk; ORR Xe, Xa, #0x7f7f7f7f7f7f7f7f; BICS Xd, Xd, Xe;
 * CCMP Xa, Xb, #0, EQ; B.EQ LDR: Xk is to be 0x0101010101010101. */
static bool is_compare(const struct a64_xlat *x, uint32_t w)
{
    uint32_t b = A64_RD(w), n = A64_RN(w), m = A64_RM(w), a, d, k, e, made;

    if ((w & 0xffe0fc00) != 0xf8606800)
        return false;
    a = A64_RD(word(x, 1));
    d = A64_RD(word(x, 2));
    k = A64_RM(word(x, 2));
    e = A64_RD(word(x, 3));
    made = 1u << a | 1u << b | 1u << d | 1u << e;
    return n != A64_SP && !(made >> 31) && __builtin_popcount(made) == 4 && !(made & (1u << n | 1u << m | 1u << k)) &&
           n != m && word(x, 1) == (0xf8408400 | n << 5 | a) && word(x, 2) == (0xcb000000 | k << 16 | a << 5 | d) &&
           word(x, 3) == (0xb200d800 | a << 5 | e) && word(x, 4) == (0xea200000 | e << 16 | d << 5 | d) &&
           word(x, 5) == (0xfa400000 | b << 16 | a << 5) && word(x, 6) == 0x54ffff40;
}

void xlat_loop(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned n = A64_RN(w);
    ir_val p, skip;

    if (x->pc == x->start && is_search(x, w)) { /* one that was not entered is not yet worth it */
        p = get_x(x, n);
        skip = ir_emit(s, IR_SCAN, IR_I64, 0, ir_bin_i(s, IR_ADD, p, 32), IR_NO, IR_NO, 0);
        ir_peek(s, x->pc, x->pc + 4 * 6 - 1);
    } else if (is_compare(x, w)) {
        ir_val q;

        p = get_x(x, n);
        q = ir_bin(s, IR_ADD, p, get_x(x, A64_RM(w)));

        skip = ir_emit(s, IR_SCAN, IR_I64, 1, p, q, get_x(x, A64_RM(word(x, 2))), 0);
        ir_peek(s, x->pc, x->pc + 4 * 7 - 1);
    } else {
        return;
    }
    put_x(x, n, ir_bin(s, IR_ADD, p, skip));
}
