/* Bit tests, scans, counts, BMI, decimal adjustment, CRC32 (SDM vol. 2). */
#include "guest/x86/interp_int.h"

/* ---- BT BTS BTR BTC ---- */
enum bt_kind { BT_TEST, BT_SET, BT_RESET, BT_COMPLEMENT };
static uint64_t bt_apply(enum bt_kind k, uint64_t v, uint64_t bit)
{
    return k == BT_SET ? v | bit : k == BT_RESET ? v & ~bit : k == BT_COMPLEMENT ? v ^ bit : v;
}
#define BT_RMW(T)                                                                                                      \
    do {                                                                                                               \
        T *p_ = p, a_ = __atomic_load_n(p_, __ATOMIC_SEQ_CST);                                                         \
                                                                                                                       \
        if (lock)                                                                                                      \
            while (!__atomic_compare_exchange_n(p_, &a_, (T)bt_apply(k, a_, bit), false, __ATOMIC_SEQ_CST,             \
                                                __ATOMIC_SEQ_CST))                                                     \
                ;                                                                                                      \
        else                                                                                                           \
            *p_ = (T)bt_apply(k, a_, bit);                                                                             \
        return a_;                                                                                                     \
    } while (0)
static uint64_t bt_host(void *p, unsigned size, enum bt_kind k, uint64_t bit, bool lock)
{
    if (size == 2)
        BT_RMW(uint16_t);
    else if (size == 4)
        BT_RMW(uint32_t);
    else
        BT_RMW(uint64_t);
}
static uint64_t bt_memory(struct x86_cpu *c, const struct x86_insn *in, unsigned size, int64_t index, enum bt_kind k)
{
    uint64_t ea = x86_ea_in(c, in), bit = UINT64_C(1) << (index & (8 * size - 1)), lin, old;
    void *p;

    if (in->ops[1].kind == X86_OP_GPR) /* the register may address any bit of memory */
        ea += (uint64_t)((index >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * size);
    ea = in->adsz == 8 ? ea : in->adsz == 4 ? (uint32_t)ea : (uint16_t)ea;
    lin = x86_lin(c, in->seg, ea, size, k == BT_TEST ? X86_READ : X86_WRITE);
    if (k == BT_TEST)
        return x86_rd_lin(c, lin, size);
    p = x86_rmw_ptr(c, lin, size);
    if (!p) {
        old = x86_ld(c, lin, size);
        x86_st(c, lin, size, bt_apply(k, old, bit));
        return old;
    }
    old = bt_host(p, size, k, bit, in->lock);
    x86_rmw_done(c, lin, size);
    return old;
}
static void bt(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned size = in->ops[0].size;
    int64_t index = in->ops[1].kind == X86_OP_GPR ? sext64(x86_gpr(c, &in->ops[1]), size * 8) : (int64_t)in->imm;
    enum bt_kind k = in->op == X86_I_BTS   ? BT_SET
                     : in->op == X86_I_BTR ? BT_RESET
                     : in->op == X86_I_BTC ? BT_COMPLEMENT
                                           : BT_TEST;
    unsigned n = index & (8 * size - 1);
    uint64_t old;

    if (in->ops[0].kind == X86_OP_GPR) {
        old = c->regs[in->ops[0].reg];
        if (k != BT_TEST)
            x86_gpr_set(c, in->ops[0].reg, size, bt_apply(k, old, UINT64_C(1) << n));
    } else {
        old = bt_memory(c, in, size, index, k);
    }
    x86_flags_set(c, X86_CF, old >> n & 1);
}

/* ---- scans and counts ---- */
static void scan(struct x86_cpu *c, const struct x86_insn *in, bool reverse)
{
    unsigned size = in->ops[0].size;
    uint64_t v = x86_rd(c, in, 1, size);

    x86_flags_set(c, X86_ZF, v ? 0 : X86_ZF);
    if (v)
        x86_gpr_set(c, in->ops[0].reg, size, reverse ? 63 - __builtin_clzll(v) : __builtin_ctzll(v));
}
static void bsf(struct x86_cpu *c, const struct x86_insn *in)
{
    scan(c, in, false);
}
static void bsr(struct x86_cpu *c, const struct x86_insn *in)
{
    scan(c, in, true);
}
static void count(struct x86_cpu *c, const struct x86_insn *in, bool leading)
{
    unsigned size = in->ops[0].size, n;
    uint64_t v = x86_rd(c, in, 1, size);

    if (!v)
        n = size * 8;
    else
        n = leading ? __builtin_clzll(v) - (64 - size * 8) : __builtin_ctzll(v);
    x86_gpr_set(c, in->ops[0].reg, size, n);
    x86_flags_set(c, X86_CF | X86_ZF, (v ? 0 : X86_CF) | (n ? 0 : X86_ZF));
}
static void tzcnt(struct x86_cpu *c, const struct x86_insn *in)
{
    if (x86_has(&c->feat, X86_F_BMI1))
        count(c, in, false);
    else
        scan(c, in, false);
}
static void lzcnt(struct x86_cpu *c, const struct x86_insn *in)
{
    if (x86_has(&c->feat, X86_F_LZCNT))
        count(c, in, true);
    else
        scan(c, in, true);
}
static void popcnt(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned size = in->ops[0].size;
    uint64_t v = x86_rd(c, in, 1, size);

    x86_gpr_set(c, in->ops[0].reg, size, __builtin_popcountll(v));
    x86_flags_set(c, X86_ARITH, v ? 0 : X86_ZF);
}

/* ---- BMI ---- */
static uint64_t szp(uint64_t r, unsigned size)
{
    return ((r & x86_mask(size)) ? 0 : X86_ZF) | (r >> (size * 8 - 1) & 1 ? X86_SF : 0);
}
static void set_bmi(struct x86_cpu *c, const struct x86_insn *in, uint64_t r, bool cf)
{
    unsigned size = in->ops[0].size;

    x86_gpr_set(c, in->ops[0].reg, size, r);
    x86_flags_set(c, X86_ZF | X86_SF | X86_OF | X86_CF, szp(r, size) | (cf ? X86_CF : 0));
}
static void andn(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size;

    set_bmi(c, in, ~x86_rd(c, in, 1, s) & x86_rd(c, in, 2, s), false);
}
static void blsr(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = x86_rd(c, in, 1, in->ops[0].size);

    set_bmi(c, in, v & (v - 1), !v);
}
static void blsmsk(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = x86_rd(c, in, 1, in->ops[0].size);

    set_bmi(c, in, v ^ (v - 1), !v);
}
static void blsi(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = x86_rd(c, in, 1, in->ops[0].size);

    set_bmi(c, in, v & -v, v);
}
static void bzhi(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size, n = (uint8_t)x86_rd(c, in, 2, 1);
    uint64_t v = x86_rd(c, in, 1, s);

    set_bmi(c, in, n < s * 8 ? v & ((UINT64_C(1) << n) - 1) : v, n >= s * 8);
}
static void bextr(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size, ctl = (uint16_t)x86_rd(c, in, 2, 2), start = ctl & 0xff, len = ctl >> 8;
    uint64_t v = x86_rd(c, in, 1, s);

    v = start < 64 ? v >> start : 0;
    if (len < 64)
        v &= (UINT64_C(1) << len) - 1;
    x86_gpr_set(c, in->ops[0].reg, s, v);
    x86_flags_set(c, X86_ZF | X86_OF | X86_CF, v ? 0 : X86_ZF);
}
static void pext(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size, k = 0;
    uint64_t v = x86_rd(c, in, 1, s), m = x86_rd(c, in, 2, s), r = 0;

    for (; m; m &= m - 1, k++)
        r |= (v >> __builtin_ctzll(m) & 1) << k;
    x86_gpr_set(c, in->ops[0].reg, s, r);
}
static void pdep(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size, k = 0;
    uint64_t v = x86_rd(c, in, 1, s), m = x86_rd(c, in, 2, s), r = 0;

    for (; m; m &= m - 1, k++)
        r |= (v >> k & 1) << __builtin_ctzll(m);
    x86_gpr_set(c, in->ops[0].reg, s, r);
}
static void shiftx(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size, n = x86_rd(c, in, 2, 1) & (s == 8 ? 63 : 31);
    uint64_t v = x86_rd(c, in, 1, s);

    if (in->op == X86_I_SHLX)
        v <<= n;
    else if (in->op == X86_I_SHRX)
        v >>= n;
    else
        v = (uint64_t)(sext64(v, s * 8) >> n);
    x86_gpr_set(c, in->ops[0].reg, s, v);
}
static void rorx(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size, w = s * 8, n = in->imm & (w - 1);
    uint64_t v = x86_rd(c, in, 1, s);

    x86_gpr_set(c, in->ops[0].reg, s, n ? v >> n | v << (w - n) : v);
}

/* CRC-32C, bit by bit over each byte (polynomial 11EDC6F41H, reflected). */
static void crc32(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[1].size;
    uint64_t v = x86_rd(c, in, 1, s);
    uint32_t crc = (uint32_t)c->regs[in->ops[0].reg];

    for (unsigned i = 0; i < s; i++) {
        crc ^= (uint8_t)(v >> (8 * i));
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    c->regs[in->ops[0].reg] = crc;
}

/* ---- decimal adjustment (32-bit and 16-bit modes only) ---- */
static uint64_t parity_flag(uint8_t v)
{
    return __builtin_parity(v) ? 0 : X86_PF;
}
static void set_al_flags(struct x86_cpu *c, uint8_t al, uint64_t cf_af)
{
    x86_gpr_set(c, X86_RAX, 1, al);
    x86_flags_set(c, X86_ARITH & ~X86_OF, (al ? 0 : X86_ZF) | (al & 0x80 ? X86_SF : 0) | parity_flag(al) | cf_af);
}
static void daa_das(struct x86_cpu *c, const struct x86_insn *in)
{
    uint8_t old = (uint8_t)c->regs[X86_RAX], al = old;
    bool sub = in->op == X86_I_DAS, cf = c->rflags & X86_CF, out = cf;
    uint64_t f = 0;

    if ((al & 15) > 9 || c->rflags & X86_AF) {
        if (sub)
            out |= al < 6;
        al = sub ? al - 6 : al + 6;
        f = X86_AF;
    }
    if (old > 0x99 || cf) {
        al = sub ? al - 0x60 : al + 0x60;
        out = true;
    } else if (!sub) {
        out = false;
    }
    set_al_flags(c, al, f | (out ? X86_CF : 0));
}
static void aaa_aas(struct x86_cpu *c, const struct x86_insn *in)
{
    uint16_t ax = (uint16_t)c->regs[X86_RAX];
    uint64_t f = 0;

    if ((ax & 15) > 9 || c->rflags & X86_AF) {
        ax = in->op == X86_I_AAA ? ax + 0x106 : ax - 0x106;
        f = X86_AF | X86_CF;
    }
    x86_gpr_set(c, X86_RAX, 2, ax & 0xff0f);
    x86_flags_set(c, X86_AF | X86_CF, f);
}
static void aam(struct x86_cpu *c, const struct x86_insn *in)
{
    uint8_t al = (uint8_t)c->regs[X86_RAX], d = (uint8_t)in->imm;

    if (!d)
        x86_raise(c, X86_DE);
    x86_gpr_set(c, X86_RAX, 2, al % d | (unsigned)(al / d) << 8);
    set_al_flags(c, al % d, 0);
}
static void aad(struct x86_cpu *c, const struct x86_insn *in)
{
    uint16_t ax = (uint16_t)c->regs[X86_RAX];
    uint8_t al = (uint8_t)(ax + (ax >> 8) * (uint8_t)in->imm);

    x86_gpr_set(c, X86_RAX, 2, al);
    set_al_flags(c, al, 0);
}
static void salc(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_gpr_set(c, X86_RAX, 1, c->rflags & X86_CF ? 0xff : 0);
}

const struct x86_handler x86_ops_bits[X86_I_NR] = {
    [X86_I_BT] = ALL_SIZES(bt),       [X86_I_BTS] = ALL_SIZES(bt),      [X86_I_BTR] = ALL_SIZES(bt),
    [X86_I_BTC] = ALL_SIZES(bt),      [X86_I_BSF] = ALL_SIZES(bsf),     [X86_I_BSR] = ALL_SIZES(bsr),
    [X86_I_TZCNT] = ALL_SIZES(tzcnt), [X86_I_LZCNT] = ALL_SIZES(lzcnt), [X86_I_POPCNT] = ALL_SIZES(popcnt),
    [X86_I_ANDN] = ALL_SIZES(andn),   [X86_I_BLSR] = ALL_SIZES(blsr),   [X86_I_BLSMSK] = ALL_SIZES(blsmsk),
    [X86_I_BLSI] = ALL_SIZES(blsi),   [X86_I_BZHI] = ALL_SIZES(bzhi),   [X86_I_BEXTR] = ALL_SIZES(bextr),
    [X86_I_PEXT] = ALL_SIZES(pext),   [X86_I_PDEP] = ALL_SIZES(pdep),   [X86_I_SHLX] = ALL_SIZES(shiftx),
    [X86_I_SHRX] = ALL_SIZES(shiftx), [X86_I_SARX] = ALL_SIZES(shiftx), [X86_I_RORX] = ALL_SIZES(rorx),
    [X86_I_CRC32] = ALL_SIZES(crc32), [X86_I_DAA] = ALL_SIZES(daa_das), [X86_I_DAS] = ALL_SIZES(daa_das),
    [X86_I_AAA] = ALL_SIZES(aaa_aas), [X86_I_AAS] = ALL_SIZES(aaa_aas), [X86_I_AAM] = ALL_SIZES(aam),
    [X86_I_AAD] = ALL_SIZES(aad),     [X86_I_SALC] = ALL_SIZES(salc),
};
