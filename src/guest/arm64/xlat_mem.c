/* Emitting IR: loads and stores. Accesses come before register writes, so a fault leaves the instruction unexecuted. */
#include "guest/arm64/sem.h"
#include "guest/arm64/xlat_int.h"

#define SIZE(w) ((w) >> 30)

static unsigned vec_log2(uint32_t w)
{
    return A64_BIT(w, 23) ? 4 : SIZE(w);
}

static void one_int(struct a64_xlat *x, uint32_t w, ir_val a, int64_t disp)
{
    struct ir *s = x->s;
    unsigned opc = a64_bits(w, 23, 22), mop = SIZE(w);

    if (!opc)
        ir_store(s, mop, a, disp, mop == 3 ? get_x(x, A64_RD(w)) : get_t(x, IR_I32, A64_RD(w)));
    else if (opc == 3)
        put_x(x, A64_RD(w), ir_load(s, IR_I32, mop | IR_MSIGN, a, disp));
    else
        put_x(x, A64_RD(w), ir_load(s, IR_I64, mop | (opc == 2 ? IR_MSIGN : 0), a, disp));
}

static void one(struct a64_xlat *x, uint32_t w, ir_val a, int64_t disp)
{
    if (!A64_BIT(w, 26))
        one_int(x, w, a, disp);
    else if (A64_BIT(w, 22))
        put_v(x, A64_RD(w), ir_load(x->s, IR_V128, vec_log2(w), a, disp));
    else
        ir_store(x->s, vec_log2(w), a, disp, get_v(x, A64_RD(w)));
}

static void gen_simm(struct a64_xlat *x, uint32_t w)
{
    unsigned form = a64_bits(w, 11, 10);
    int64_t imm = a64_sbits(w, 20, 12);
    ir_val a = get_xsp(x, A64_RN(w));

    one(x, w, a, form == 1 ? 0 : imm);
    if (form & 1)
        put_xsp(x, A64_RN(w), ir_bin_i(x->s, IR_ADD, a, (uint64_t)imm));
}

static void gen_reg(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned scale = A64_BIT(w, 12) ? (A64_BIT(w, 26) ? vec_log2(w) : SIZE(w)) : 0, option = a64_bits(w, 15, 13);
    ir_val m = get_x(x, A64_RM(w));

    if (option == 2)
        m = ir_ubfx(s, m, 0, 32);
    else if (option == 6)
        m = ir_sbfx(s, m, 0, 32);
    if (scale)
        m = ir_bin_i(s, IR_SHL, m, scale);
    one(x, w, ir_bin(s, IR_ADD, get_xsp(x, A64_RN(w)), m), 0);
}

static void gen_lit(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned opc = w >> 30;
    ir_val a = ir_c64(s, x->pc + (uint64_t)a64_sbits(w, 23, 5) * 4);

    if (A64_BIT(w, 26))
        put_v(x, A64_RD(w), ir_load(s, IR_V128, 2 + opc, a, 0));
    else
        put_x(x, A64_RD(w), ir_load(s, IR_I64, opc == 1 ? IR_M64 : opc == 2 ? IR_M32 | IR_MSIGN : IR_M32, a, 0));
}

/* LDP STP of all kinds: two accesses of 1 << mop bytes. */
static void gen_pair(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    bool vec = A64_BIT(w, 26);
    unsigned opc = w >> 30, mop = vec ? 2 + opc : opc == 2 ? IR_M64 : IR_M32, t = A64_RD(w), t2 = A64_RA(w);
    int64_t imm = a64_sbits(w, 21, 15) * (1 << mop), d = a64_bits(w, 24, 23) == 1 ? 0 : imm, d2 = d + (1 << mop);
    ir_val a = get_xsp(x, A64_RN(w)), lo, hi;

    if (A64_BIT(w, 22)) {
        unsigned how = mop | (!vec && opc == 1 ? IR_MSIGN : 0);

        lo = ir_load(s, vec ? IR_V128 : IR_I64, how, a, d);
        hi = ir_load(s, vec ? IR_V128 : IR_I64, how, a, d2);
        if (vec) {
            put_v(x, t, lo);
            put_v(x, t2, hi);
        } else {
            put_x(x, t, lo);
            put_x(x, t2, hi);
        }
    } else {
        enum ir_type it = mop == IR_M64 ? IR_I64 : IR_I32;

        lo = vec ? get_v(x, t) : get_t(x, it, t);
        hi = vec ? get_v(x, t2) : get_t(x, it, t2);
        ir_store(s, mop, a, d, lo);
        ir_store(s, mop, a, d2, hi);
    }
    if (A64_BIT(w, 23))
        put_xsp(x, A64_RN(w), ir_bin_i(s, IR_ADD, a, (uint64_t)imm));
}

/* ---- ordered, exclusive, atomic ---- */
static void gen_ord(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned mop = SIZE(w) | (SIZE(w) ? IR_MALIGN : 0);
    ir_val a = get_xsp(x, A64_RN(w));

    if (kind == A64_STLR || kind == A64_STLLR)
        ir_store(s, mop | IR_MREL, a, 0, SIZE(w) == 3 ? get_x(x, A64_RD(w)) : get_t(x, IR_I32, A64_RD(w)));
    else
        put_x(x, A64_RD(w), ir_load(s, IR_I64, mop, a, 0));
}

static ir_val pair_of(struct a64_xlat *x, unsigned lo, unsigned hi) /* V128 of two registers */
{
    struct ir *s = x->s;
    ir_val v = ir_un_x(s, IR_VDUP, IR_V128, IR_D, get_x(x, lo), 0);

    return ir_bin_x(s, IR_VINS, IR_V128, IR_D, v, get_x(x, hi), 1);
}

static ir_val pair_of32(struct a64_xlat *x, unsigned lo, unsigned hi) /* I64 of two W registers */
{
    return ir_bfi(x->s, get_x(x, lo), get_x(x, hi), 32, 32);
}

static void put_pair(struct a64_xlat *x, ir_val v, unsigned lo, unsigned hi)
{
    struct ir *s = x->s;

    if (ir_type_of(s, v) == IR_V128) {
        put_x(x, lo, ir_un_x(s, IR_VGETU, IR_I64, IR_D, v, 0));
        put_x(x, hi, ir_un_x(s, IR_VGETU, IR_I64, IR_D, v, 1));
    } else {
        put_x(x, lo, ir_ubfx(s, v, 0, 32));
        put_x(x, hi, ir_ubfx(s, v, 32, 32));
    }
}

static void gen_excl_ld(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    bool pair = kind == A64_LDXP || kind == A64_LDAXP;
    ir_val a = get_xsp(x, A64_RN(w)), v;

    if (pair && SIZE(w) == 3) {
        v = ir_load(s, IR_V128, IR_M128 | IR_MATOMIC | IR_MALIGN, a, 0);
        ir_put(s, C_OFF(ex_val[0]), ir_un_x(s, IR_VGETU, IR_I64, IR_D, v, 0));
        ir_put(s, C_OFF(ex_val[1]), ir_un_x(s, IR_VGETU, IR_I64, IR_D, v, 1));
    } else {
        unsigned mop = pair ? IR_M64 : SIZE(w);

        v = ir_load(s, IR_I64, mop | (mop ? IR_MALIGN : 0), a, 0);
        ir_put(s, C_OFF(ex_val[0]), v);
    }
    ir_put(s, C_OFF(ex_addr), a);
    if (pair)
        put_pair(x, v, A64_RD(w), A64_RA(w));
    else
        put_x(x, A64_RD(w), v);
}

static void gen_excl_st(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    bool pair = kind == A64_STXP || kind == A64_STLXP;
    unsigned mop = SIZE(w);
    ir_val a = get_xsp(x, A64_RN(w)), cond, old = ir_get(s, IR_I64, C_OFF(ex_val[0])), v, done;

    cond = ir_cmp(s, IR_EQ, a, ir_get(s, IR_I64, C_OFF(ex_addr)));
    if (pair && mop == 3) {
        v = pair_of(x, A64_RD(w), A64_RA(w));
        old = ir_un_x(s, IR_VDUP, IR_V128, IR_D, old, 0);
        old = ir_bin_x(s, IR_VINS, IR_V128, IR_D, old, ir_get(s, IR_I64, C_OFF(ex_val[1])), 1);
        mop = IR_M128;
    } else if (pair) {
        v = pair_of32(x, A64_RD(w), A64_RA(w));
        mop = IR_M64;
    } else {
        v = get_x(x, A64_RD(w));
    }
    if (mop < IR_M64) {
        old = ir_trunc(s, old);
        v = ir_trunc(s, v);
    }
    done = ir_cas_if(s, mop, a, cond, old, v); /* what a load exclusive armed is aligned */
    ir_put(s, C_OFF(ex_addr), ir_c64(s, UINT64_MAX));
    put_x(x, A64_RM(w), ir_bin_i(s, IR_XOR, done, 1));
}

static void gen_cas(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned mop = SIZE(w);
    enum ir_type t = mop == 3 ? IR_I64 : IR_I32;
    ir_val a = get_xsp(x, A64_RN(w));

    put_x(x, A64_RM(w), ir_cas(s, t, mop | (mop ? IR_MALIGN : 0), a, get_t(x, t, A64_RM(w)), get_t(x, t, A64_RD(w))));
}

static void gen_casp(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned o = A64_RM(w), t = A64_RD(w);
    ir_val a = get_xsp(x, A64_RN(w)), v;

    if (A64_BIT(w, 30))
        v = ir_cas(s, IR_V128, IR_M128 | IR_MALIGN, a, pair_of(x, o, o + 1), pair_of(x, t, t + 1));
    else
        v = ir_cas(s, IR_I64, IR_M64 | IR_MALIGN, a, pair_of32(x, o, o + 1), pair_of32(x, t, t + 1));
    put_pair(x, v, o, o + 1);
}

static void gen_lse(struct a64_xlat *x, unsigned kind, uint32_t w)
{
    struct ir *s = x->s;
    unsigned mop = SIZE(w);
    enum ir_type t = mop == 3 ? IR_I64 : IR_I32;
    ir_val a = get_xsp(x, A64_RN(w)), v = get_t(x, t, A64_RM(w));
    enum ir_opcode op;

    switch (kind) {
    case A64_LDADD:
        op = IR_FETCH_ADD;
        break;
    case A64_LDCLR:
        op = IR_FETCH_AND;
        v = ir_un(s, IR_NOT, v);
        break;
    case A64_LDEOR:
        op = IR_FETCH_XOR;
        break;
    case A64_LDSET:
        op = IR_FETCH_OR;
        break;
    case A64_LDSMAX:
        op = IR_FETCH_SMAX;
        break;
    case A64_LDSMIN:
        op = IR_FETCH_SMIN;
        break;
    case A64_LDUMAX:
        op = IR_FETCH_UMAX;
        break;
    case A64_LDUMIN:
        op = IR_FETCH_UMIN;
        break;
    default:
        op = IR_XCHG;
        break;
    }
    put_x(x, A64_RD(w), ir_atomic(s, op, t, mop | (mop ? IR_MALIGN : 0), a, v));
}

/* ---- SIMD structures ---- */
static void post_index(struct a64_xlat *x, uint32_t w, ir_val a, unsigned bytes)
{
    unsigned m = A64_RM(w);

    if (A64_BIT(w, 23))
        put_xsp(x, A64_RN(w), m == 31 ? ir_bin_i(x->s, IR_ADD, a, bytes) : ir_bin(x->s, IR_ADD, a, get_x(x, m)));
}

static ir_val vbin(struct a64_xlat *x, enum ir_opcode op, unsigned lane, ir_val a, ir_val b)
{
    return ir_bin_x(x->s, op, IR_V128, lane, a, b, 0);
}

/* tmp[] <-> registers, for structures the IR has no permutation for. */
static uint64_t help_split(void *ctx, uint64_t w64)
{
    struct a64_cpu *c = ctx;
    uint32_t w = (uint32_t)w64;
    unsigned es = 1u << a64_bits(w, 11, 10), bytes = A64_BIT(w, 30) ? 16 : 8, regs = a64_bits(w, 15, 12) == 4 ? 3 : 4;
    const uint8_t *from = c->tmp[0].b;

    for (unsigned r = 0; r < regs; r++)
        memset(&c->v[(A64_RD(w) + r) & 31], 0, 16);
    for (unsigned i = 0; i < bytes; i += es)
        for (unsigned r = 0; r < regs; r++, from += es)
            memcpy(&c->v[(A64_RD(w) + r) & 31].b[i], from, es);
    return 0;
}

static uint64_t help_merge(void *ctx, uint64_t w64)
{
    struct a64_cpu *c = ctx;
    uint32_t w = (uint32_t)w64;
    unsigned es = 1u << a64_bits(w, 11, 10), bytes = A64_BIT(w, 30) ? 16 : 8, regs = a64_bits(w, 15, 12) == 4 ? 3 : 4;
    uint8_t *to = c->tmp[0].b;

    for (unsigned i = 0; i < bytes; i += es)
        for (unsigned r = 0; r < regs; r++, to += es)
            memcpy(to, &c->v[(A64_RD(w) + r) & 31].b[i], es);
    return 0;
}

/* Pieces of 16 bytes, the last of 8 when total is odd in them. */
static unsigned piece(unsigned at, unsigned total)
{
    return total - at >= 16 ? IR_M128 : IR_M64;
}

static void multi_by_helper(struct a64_xlat *x, uint32_t w, ir_val a, unsigned total)
{
    struct ir *s = x->s;

    if (A64_BIT(w, 22)) {
        ir_val v[4];

        for (unsigned i = 0; i < total; i += 16)
            v[i / 16] = ir_load(s, IR_V128, piece(i, total), a, i);
        for (unsigned i = 0; i < total; i += 16)
            ir_put(s, C_OFF(tmp) + i, v[i / 16]);
        ir_call(s, IR_VOID, IR_CALL_STATE, (void *)help_split, ir_c64(s, w), IR_NO, IR_NO, IR_NO);
    } else {
        ir_call(s, IR_VOID, IR_CALL_STATE, (void *)help_merge, ir_c64(s, w), IR_NO, IR_NO, IR_NO);
        for (unsigned i = 0; i < total; i += 16)
            ir_store(s, piece(i, total), a, i, ir_get(s, IR_V128, C_OFF(tmp) + i));
    }
}

/* LD2 ST2 of any size, LD4 ST4 of whole registers. */
static void multi_zip(struct a64_xlat *x, uint32_t w, ir_val a, unsigned regs)
{
    struct ir *s = x->s;
    unsigned l = a64_bits(w, 11, 10), t = A64_RD(w);
    ir_val m[4] = {IR_NO, IR_NO, IR_NO, IR_NO}, r[4] = {IR_NO, IR_NO, IR_NO, IR_NO};

    if (A64_BIT(w, 22) && !A64_BIT(w, 30)) {
        m[0] = ir_load(s, IR_V128, IR_M128, a, 0);
        for (unsigned i = 0; i < 2; i++)
            r[i] = ir_un(s, IR_VLOW, vbin(x, i ? IR_VUZP2 : IR_VUZP1, l, m[0], m[0]));
    } else if (A64_BIT(w, 22)) {
        for (unsigned i = 0; i < regs; i++)
            m[i] = ir_load(s, IR_V128, IR_M128, a, 16 * i);
        for (unsigned i = 0; i < 2; i++)
            r[i] = vbin(x, i ? IR_VUZP2 : IR_VUZP1, l, m[0], m[1]);
        if (regs == 4) {
            ir_val even = r[0], odd = r[1], even2 = vbin(x, IR_VUZP1, l, m[2], m[3]),
                   odd2 = vbin(x, IR_VUZP2, l, m[2], m[3]);

            r[0] = vbin(x, IR_VUZP1, l, even, even2);
            r[2] = vbin(x, IR_VUZP2, l, even, even2);
            r[1] = vbin(x, IR_VUZP1, l, odd, odd2);
            r[3] = vbin(x, IR_VUZP2, l, odd, odd2);
        }
    }
    if (A64_BIT(w, 22)) {
        for (unsigned i = 0; i < regs; i++)
            put_v(x, (t + i) & 31, r[i]);
        return;
    }
    for (unsigned i = 0; i < regs; i++)
        r[i] = get_v(x, (t + i) & 31);
    if (regs == 4) {
        ir_val e0 = vbin(x, IR_VZIP1, l, r[0], r[2]), e1 = vbin(x, IR_VZIP2, l, r[0], r[2]),
               o0 = vbin(x, IR_VZIP1, l, r[1], r[3]), o1 = vbin(x, IR_VZIP2, l, r[1], r[3]);

        m[0] = vbin(x, IR_VZIP1, l, e0, o0);
        m[1] = vbin(x, IR_VZIP2, l, e0, o0);
        m[2] = vbin(x, IR_VZIP1, l, e1, o1);
        m[3] = vbin(x, IR_VZIP2, l, e1, o1);
    } else {
        m[0] = vbin(x, IR_VZIP1, l, r[0], r[1]);
        m[1] = vbin(x, IR_VZIP2, l, r[0], r[1]);
        if (!A64_BIT(w, 30))
            regs = 1;
    }
    for (unsigned i = 0; i < regs; i++)
        ir_store(s, IR_M128, a, 16 * i, m[i]);
}

static void gen_multi(struct a64_xlat *x, uint32_t w)
{
    static const uint8_t count[16] = {[0] = 4, [2] = 4, [4] = 3, [6] = 3, [7] = 1, [8] = 2, [10] = 2};
    struct ir *s = x->s;
    unsigned opcode = a64_bits(w, 15, 12), regs = count[opcode], bytes = A64_BIT(w, 30) ? 16 : 8, t = A64_RD(w);
    ir_val a = get_xsp(x, A64_RN(w)), v[4];

    if (opcode == 4 || (opcode == 0 && bytes == 8)) {
        multi_by_helper(x, w, a, regs * bytes);
    } else if (opcode == 0 || opcode == 8) {
        multi_zip(x, w, a, regs);
    } else if (A64_BIT(w, 22)) {
        for (unsigned i = 0; i < regs; i++)
            v[i] = ir_load(s, IR_V128, bytes == 16 ? IR_M128 : IR_M64, a, bytes * i);
        for (unsigned i = 0; i < regs; i++)
            put_v(x, (t + i) & 31, v[i]);
    } else {
        for (unsigned i = 0; i < regs; i++)
            ir_store(s, bytes == 16 ? IR_M128 : IR_M64, a, bytes * i, get_v(x, (t + i) & 31));
    }
    post_index(x, w, a, regs * bytes);
}

static void gen_one(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned op = a64_bits(w, 15, 14), regs = 1 + A64_BIT(w, 21) + 2 * A64_BIT(w, 13), t = A64_RD(w);
    unsigned qss = A64_BIT(w, 30) << 3 | a64_bits(w, 12, 10), l = op < 2 ? op : qss & 1 ? 3 : 2;
    unsigned index = l == 3 ? qss >> 3 : qss >> op;
    ir_val a = get_xsp(x, A64_RN(w)), v[4];

    if (A64_BIT(w, 22)) {
        for (unsigned i = 0; i < regs; i++)
            v[i] = ir_load(s, IR_I64, l, a, (int64_t)i << l);
        for (unsigned i = 0; i < regs; i++)
            put_v(x, (t + i) & 31,
                  ir_bin_x(s, IR_VINS, IR_V128, l, get_v(x, (t + i) & 31), l == 3 ? v[i] : ir_trunc(s, v[i]), index));
    } else {
        for (unsigned i = 0; i < regs; i++)
            ir_store(s, l, a, (int64_t)i << l,
                     ir_un_x(s, IR_VGETU, l == 3 ? IR_I64 : IR_I32, l, get_v(x, (t + i) & 31), index));
    }
    post_index(x, w, a, regs << l);
}

static void gen_rep(struct a64_xlat *x, uint32_t w)
{
    struct ir *s = x->s;
    unsigned regs = 1 + A64_BIT(w, 21) + 2 * A64_BIT(w, 13), l = a64_bits(w, 11, 10), t = A64_RD(w);
    ir_val a = get_xsp(x, A64_RN(w)), v[4];

    for (unsigned i = 0; i < regs; i++)
        v[i] = ir_load(s, l == 3 ? IR_I64 : IR_I32, l, a, (int64_t)i << l);
    for (unsigned i = 0; i < regs; i++) {
        ir_val d = ir_un_x(s, IR_VDUP, IR_V128, l, v[i], 0);

        put_v(x, (t + i) & 31, A64_BIT(w, 30) ? d : ir_un(s, IR_VLOW, d));
    }
    post_index(x, w, a, regs << l);
}

bool xlat_mem(struct a64_xlat *x, const struct a64_row *r, unsigned kind, uint32_t w)
{
    a64_sem_fn *g = r->sem;

    if (g == sem_ldst_uimm)
        one(x, w, get_xsp(x, A64_RN(w)), (int64_t)a64_bits(w, 21, 10) << (A64_BIT(w, 26) ? vec_log2(w) : SIZE(w)));
    else if (g == sem_ldst_simm)
        gen_simm(x, w);
    else if (g == sem_ldst_reg)
        gen_reg(x, w);
    else if (g == sem_ldst_pair || g == sem_ldst_pairv)
        gen_pair(x, w);
    else if (g == sem_ldr_lit)
        gen_lit(x, w);
    else if (g == sem_ldst_ord)
        gen_ord(x, kind, w);
    else if (g == sem_excl_ld)
        gen_excl_ld(x, kind, w);
    else if (g == sem_excl_st)
        gen_excl_st(x, kind, w);
    else if (g == sem_cas)
        gen_cas(x, w);
    else if (g == sem_casp)
        gen_casp(x, w);
    else if (g == sem_lse)
        gen_lse(x, kind, w);
    else if (g == sem_vls_multi)
        gen_multi(x, w);
    else if (g == sem_vls_one)
        gen_one(x, w);
    else if (g == sem_vls_rep)
        gen_rep(x, w);
    else
        return false;
    return true;
}
