/* The A64 decoder: tables made from insn.def by tools/gen_a64.py, and the conditions the patterns cannot say. */
#include "guest/arm64/insn.h"
#include "guest/arm64/sem.h"

#include "guest/arm64/tables_gen.h"

#define BITMASK  A64_A_BITMASK
#define BITFIELD A64_A_BITFIELD
#define HW       A64_A_HW
#define SHIFT6   A64_A_SHIFT6
#define NOROR    A64_A_NOROR
#define EXT4     A64_A_EXT4
#define EVEN     A64_A_EVEN
#define OPC3     A64_A_OPC3
#define OPT1     A64_A_OPT1
#define VSZ      A64_A_VSZ
#define NO1D     A64_A_NO1D
#define VONE     A64_A_VONE
#define FTYPE    A64_A_FTYPE
#define SCALE    A64_A_SCALE
#define IMM5     A64_A_IMM5
#define MOVS     A64_A_MOVS
#define MOVU     A64_A_MOVU
#define EXTQ     A64_A_EXTQ
#define NO3      A64_A_NO3
#define S12      A64_A_S12
#define S3       A64_A_S3
#define S0       A64_A_S0
#define S01      A64_A_S01
#define NO0      A64_A_NO0
#define NO1DF    A64_A_NO1DF
#define ACROSS   A64_A_ACROSS
#define IMMH     A64_A_IMMH
#define NO1DH    A64_A_NO1DH
#define IMMH3    A64_A_IMMH3
#define IMMHN    A64_A_IMMHN
#define IMMHF    A64_A_IMMHF
#define IDXD     A64_A_IDXD
#define FCMLAE   A64_A_FCMLAE
#define NO3L     A64_A_NO3L
#define ENDS     A64_A_ENDS
#define SZ       A64_A_SZ
#define SZS      A64_A_SZS
#define LSE      A64_A_LSE
#define LSEC     A64_A_LSEC
#define LSEP     A64_A_LSEP
#define TWO      A64_A_TWO
#define CONDNAME A64_A_CONDNAME
#define PAIRLD   A64_A_PAIRLD

const struct a64_row a64_rows[A64_NR_ROW] = {
#define I(op, mnem, enc, fmt, attr, group) {#op, mnem, fmt, attr, sem_##group},
#include "guest/arm64/insn.def"
};

bool a64_bitmask(unsigned n, unsigned immr, unsigned imms, bool is64, uint64_t *out)
{
    unsigned len, size, s, r;
    uint64_t v;

    if (n && !is64)
        return false;
    len = n << 6 | (~imms & 63);
    if (len < 2) /* element sizes are 2 to 64 bits */
        return false;
    size = 1u << (31 - (unsigned)__builtin_clz(len));
    s = imms & (size - 1);
    r = immr & (size - 1);
    if (s == size - 1)
        return false;
    v = (UINT64_C(2) << s) - 1;
    if (r)
        v = v >> r | v << (size - r);
    if (size < 64)
        v &= (UINT64_C(1) << size) - 1;
    for (; size < 64; size *= 2)
        v |= v << size;
    *out = is64 ? v : (uint32_t)v;
    return true;
}

static bool int_allowed(uint32_t w, uint64_t at)
{
    bool sf = w >> 31;
    uint64_t imm;

    if ((at & BITMASK) && !a64_bitmask(A64_BIT(w, 22), a64_bits(w, 21, 16), a64_bits(w, 15, 10), sf, &imm))
        return false;
    if ((at & BITFIELD) && (A64_BIT(w, 22) != sf || (!sf && (w & 0x208000))))
        return false;
    if ((at & HW) && !sf && A64_BIT(w, 22))
        return false;
    if ((at & SHIFT6) && !sf && A64_BIT(w, 15))
        return false;
    if ((at & NOROR) && a64_bits(w, 23, 22) == 3)
        return false;
    if ((at & EXT4) && a64_bits(w, 12, 10) > 4)
        return false;
    if ((at & EVEN) && (w & 0x10001))
        return false;
    if ((at & (OPC3 | NO3L)) && w >> 30 == 3)
        return false;
    if ((at & OPT1) && !A64_BIT(w, 14))
        return false;
    if ((at & VSZ) && A64_BIT(w, 23) && w >> 30)
        return false;
    return true;
}

static bool imm5_allowed(uint32_t w, uint64_t at)
{
    unsigned imm5 = a64_bits(w, 20, 16), q = A64_BIT(w, 30), low;

    if (!(imm5 & 15))
        return false;
    low = imm5 & -imm5;
    if (at & MOVS)
        return low <= (q ? 4u : 2u);
    if (at & MOVU)
        return q ? low == 8 : low <= 4;
    return low != 8 || q;
}

static bool one_allowed(uint32_t w)
{
    unsigned op = a64_bits(w, 15, 14), size = a64_bits(w, 11, 10);

    switch (op) {
    case 0:
        return true;
    case 1:
        return !(size & 1);
    case 2:
        return size == 0 || (size == 1 && !A64_BIT(w, 12));
    default:
        return false;
    }
}

static bool size_allowed(unsigned size, bool q, uint64_t at)
{
    return !((at & NO1D) && size == 3 && !q) && !((at & NO3) && size == 3) &&
           !((at & S12) && (size == 0 || size == 3)) && !((at & S3) && size != 3) && !((at & S0) && size) &&
           !((at & S01) && size > 1) && !((at & NO0) && !size) && !((at & ACROSS) && (size == 3 || (size == 2 && !q)));
}

static bool vec_allowed(uint32_t w, uint64_t at)
{
    bool q = A64_BIT(w, 30);
    unsigned immh = a64_bits(w, 22, 19);
    /* Structures have their size elsewhere. */
    unsigned size = (w & 0x3a000000) == 0x08000000 ? a64_bits(w, 11, 10) : a64_bits(w, 23, 22);

    if (!size_allowed(size, q, at))
        return false;
    if ((at & VONE) && !one_allowed(w))
        return false;
    if ((at & FTYPE) && size == 2)
        return false;
    if ((at & SCALE) && !(w >> 31) && !A64_BIT(w, 15))
        return false;
    if ((at & (IMM5 | MOVS | MOVU)) && !imm5_allowed(w, at))
        return false;
    if ((at & EXTQ) && !q && A64_BIT(w, 14))
        return false;
    if ((at & NO1DF) && A64_BIT(w, 22) && !q)
        return false;
    if (((at & IMMH) && !immh) || ((at & NO1DH) && (immh & 8) && !q) || ((at & IMMH3) && !(immh & 8)) ||
        ((at & IMMHN) && (immh & 8)) || ((at & IMMHF) && immh < 2))
        return false;
    if ((at & IDXD) && A64_BIT(w, 22) && A64_BIT(w, 21))
        return false;
    if ((at & FCMLAE) && !(size == 1 ? !(A64_BIT(w, 11) && !q) : size == 2 && q && !A64_BIT(w, 21)))
        return false;
    return true;
}

#define INT_CONDITIONS                                                                                                 \
    (BITMASK | BITFIELD | HW | SHIFT6 | NOROR | EXT4 | EVEN | OPC3 | OPT1 | VSZ | NO3L) /* the others: vec_allowed */
#define CONDITIONS ((UINT64_C(1) << 34) - 1)

/* Out of line: most rows have none, and the way without them is short then. */
static __attribute__((noinline)) bool allowed(uint32_t w, uint64_t at)
{
    return (!(at & INT_CONDITIONS) || int_allowed(w, at)) &&
           (!(at & CONDITIONS & ~(uint64_t)INT_CONDITIONS) || vec_allowed(w, at));
}

int a64_decode(uint32_t w)
{
    unsigned at = by_top[w >> 21];

    if (at & 0x8000)
        at = by_low[(at & 0x7fff) * 64 + (w >> 10 & 63)];
    for (; cand_list[at] != 0xffff; at++) {
        unsigned row = cand_list[at];

        if ((w & row_mask[row]) == row_value[row] &&
            (!(a64_rows[row].attr & CONDITIONS) || allowed(w, a64_rows[row].attr)))
            return (int)row;
    }
    return -1;
}

unsigned a64_kind_of(int row)
{
    return row_kind[row];
}

void a64_row_bits(int row, uint32_t *mask, uint32_t *value)
{
    *mask = row_mask[row];
    *value = row_value[row];
}
