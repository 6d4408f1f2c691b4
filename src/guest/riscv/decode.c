/* Decoding: table rows by major opcode; expansion of compressed instructions (RV64C, chapter 16). */
#include "guest/riscv/riscv.h"

static const struct {
    uint32_t match, mask;
} rows[RV_NR_OPS] = {
#define RV(name, match, mask) [RV_##name] = {match, mask},
#include "guest/riscv/insn.def"
#undef RV
};
const char *const rv_op_names[RV_NR_OPS] = {
    [RV_ILLEGAL] = "illegal",
#define RV(name, match, mask) [RV_##name] = #name,
#include "guest/riscv/insn.def"
#undef RV
};
static_assert(RV_NR_OPS <= 256, "rows are numbered in a byte");

void rv_decoder_init(struct rv_decoder *d)
{
    memset(d, 0, sizeof *d);
    for (unsigned i = 1; i < RV_NR_OPS; i++) {
        unsigned k = rows[i].match >> 2 & 31;

        assert(d->nr[k] < ARRAY_LEN(d->row[k]));
        d->row[k][d->nr[k]++] = (uint8_t)i;
    }
}

enum rv_op rv_decode(const struct rv_decoder *d, uint32_t insn)
{
    unsigned k = insn >> 2 & 31;

    if ((insn & 3) != 3)
        return RV_ILLEGAL;
    for (unsigned i = 0; i < d->nr[k]; i++)
        if ((insn & rows[d->row[k][i]].mask) == rows[d->row[k][i]].match)
            return (enum rv_op)d->row[k][i];
    return RV_ILLEGAL;
}

/* --- Compressed --- */
static uint32_t bits(uint32_t v, unsigned hi, unsigned lo)
{
    return v >> lo & ((1u << (hi - lo + 1)) - 1);
}
static uint32_t sext(uint32_t v, unsigned n)
{
    return (uint32_t)((int32_t)(v << (32 - n)) >> (32 - n));
}
static uint32_t enc_i(uint32_t op, unsigned rd, unsigned rs1, uint32_t imm)
{
    return op | rd << 7 | rs1 << 15 | imm << 20;
}
static uint32_t enc_s(uint32_t op, unsigned rs1, unsigned rs2, uint32_t imm)
{
    return op | (imm & 31) << 7 | rs1 << 15 | rs2 << 20 | (imm >> 5) << 25;
}
static uint32_t enc_r(uint32_t op, unsigned rd, unsigned rs1, unsigned rs2)
{
    return op | rd << 7 | rs1 << 15 | rs2 << 20;
}

static uint32_t imm_j(uint16_t c)
{
    return sext(bits(c, 12, 12) << 11 | bits(c, 11, 11) << 4 | bits(c, 10, 9) << 8 | bits(c, 8, 8) << 10 |
                    bits(c, 7, 7) << 6 | bits(c, 6, 6) << 7 | bits(c, 5, 3) << 1 | bits(c, 2, 2) << 5,
                12);
}
static uint32_t imm_b(uint16_t c)
{
    return sext(
        bits(c, 12, 12) << 8 | bits(c, 11, 10) << 3 | bits(c, 6, 5) << 6 | bits(c, 4, 3) << 1 | bits(c, 2, 2) << 5, 9);
}
static uint32_t enc_j(unsigned rd, uint32_t v)
{
    return 0x6f | rd << 7 | (v >> 20 & 1) << 31 | (v >> 1 & 0x3ff) << 21 | (v >> 11 & 1) << 20 | (v >> 12 & 0xff) << 12;
}
static uint32_t enc_b(uint32_t op, unsigned rs1, uint32_t v)
{
    return op | rs1 << 15 | (v >> 12 & 1) << 31 | (v >> 5 & 0x3f) << 25 | (v >> 1 & 15) << 8 | (v >> 11 & 1) << 7;
}

static uint32_t quadrant0(uint16_t c)
{
    unsigned rd = 8 + bits(c, 4, 2), rs1 = 8 + bits(c, 9, 7);
    uint32_t d = bits(c, 12, 10) << 3 | bits(c, 6, 5) << 6;
    uint32_t w = bits(c, 12, 10) << 3 | bits(c, 6, 6) << 2 | bits(c, 5, 5) << 6;
    uint32_t addi4 = bits(c, 12, 11) << 4 | bits(c, 10, 7) << 6 | bits(c, 6, 6) << 2 | bits(c, 5, 5) << 3;

    switch (c >> 13) {
    case 0:
        return addi4 ? enc_i(0x13, rd, 2, addi4) : 0;
    case 1:
        return enc_i(0x3007, rd, rs1, d);
    case 2:
        return enc_i(0x2003, rd, rs1, w);
    case 3:
        return enc_i(0x3003, rd, rs1, d);
    case 5:
        return enc_s(0x3027, rs1, rd, d);
    case 6:
        return enc_s(0x2023, rs1, rd, w);
    case 7:
        return enc_s(0x3023, rs1, rd, d);
    default:
        return 0;
    }
}

static uint32_t arith1(uint16_t c)
{
    static const uint32_t op[8] = {0x40000033, 0x4033, 0x6033, 0x7033, 0x4000003b, 0x3b, 0, 0};
    unsigned rd = 8 + bits(c, 9, 7), sh = bits(c, 12, 12) << 5 | bits(c, 6, 2);
    uint32_t o;

    switch (bits(c, 11, 10)) {
    case 0:
        return enc_i(0x5013, rd, rd, sh);
    case 1:
        return enc_i(0x40005013, rd, rd, sh);
    case 2:
        return enc_i(0x7013, rd, rd, sext(sh, 6));
    default:
        o = op[bits(c, 12, 12) << 2 | bits(c, 6, 5)];
        return o ? enc_r(o, rd, rd, 8 + bits(c, 4, 2)) : 0;
    }
}

static uint32_t quadrant1(uint16_t c)
{
    unsigned rd = bits(c, 11, 7);
    uint32_t imm = sext(bits(c, 12, 12) << 5 | bits(c, 6, 2), 6);
    uint32_t sp = sext(
        bits(c, 12, 12) << 9 | bits(c, 6, 6) << 4 | bits(c, 5, 5) << 6 | bits(c, 4, 3) << 7 | bits(c, 2, 2) << 5, 10);

    switch (c >> 13) {
    case 0:
        return enc_i(0x13, rd, rd, imm);
    case 1:
        return rd ? enc_i(0x1b, rd, rd, imm) : 0;
    case 2:
        return enc_i(0x13, rd, 0, imm);
    case 3:
        if (rd == 2)
            return sp ? enc_i(0x13, 2, 2, sp) : 0;
        return imm ? 0x37 | rd << 7 | imm << 12 : 0;
    case 4:
        return arith1(c);
    case 5:
        return enc_j(0, imm_j(c));
    default:
        return enc_b(c >> 13 == 6 ? 0x63 : 0x1063, 8 + bits(c, 9, 7), imm_b(c));
    }
}

static uint32_t jump2(uint16_t c)
{
    unsigned rd = bits(c, 11, 7), rs2 = bits(c, 6, 2);

    if (!bits(c, 12, 12)) {
        if (rs2)
            return enc_r(0x33, rd, 0, rs2);
        return rd ? enc_i(0x67, 0, rd, 0) : 0;
    }
    if (rs2)
        return enc_r(0x33, rd, rd, rs2);
    return rd ? enc_i(0x67, 1, rd, 0) : 0x100073;
}

static uint32_t quadrant2(uint16_t c)
{
    unsigned rd = bits(c, 11, 7), rs2 = bits(c, 6, 2);
    uint32_t ld = bits(c, 12, 12) << 5 | bits(c, 6, 5) << 3 | bits(c, 4, 2) << 6;
    uint32_t lw = bits(c, 12, 12) << 5 | bits(c, 6, 4) << 2 | bits(c, 3, 2) << 6;
    uint32_t sd = bits(c, 12, 10) << 3 | bits(c, 9, 7) << 6, sw = bits(c, 12, 9) << 2 | bits(c, 8, 7) << 6;

    switch (c >> 13) {
    case 0:
        return enc_i(0x1013, rd, rd, bits(c, 12, 12) << 5 | bits(c, 6, 2));
    case 1:
        return enc_i(0x3007, rd, 2, ld);
    case 2:
        return rd ? enc_i(0x2003, rd, 2, lw) : 0;
    case 3:
        return rd ? enc_i(0x3003, rd, 2, ld) : 0;
    case 4:
        return jump2(c);
    case 5:
        return enc_s(0x3027, 2, rs2, sd);
    case 6:
        return enc_s(0x2023, 2, rs2, sw);
    default:
        return enc_s(0x3023, 2, rs2, sd);
    }
}

uint32_t rv_expand(uint16_t c)
{
    switch (c & 3) {
    case 0:
        return quadrant0(c);
    case 1:
        return quadrant1(c);
    case 2:
        return quadrant2(c);
    default:
        return 0;
    }
}
