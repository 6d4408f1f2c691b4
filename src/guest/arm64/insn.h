/* Decoding of A64: a word in, a row of insn.def out. Pure; fields are taken from the word where they are needed. */
#ifndef GUEST_ARM64_INSN_H
#define GUEST_ARM64_INSN_H

#include "guest/arm64/enum_gen.h"
#include "guest/arm64/state.h"

/* Attributes: conditions for a row to match beyond its pattern, and forms of the mnemonic. */
enum {
    A64_A_BITMASK = 1 << 0,  /* logical immediate must be valid */
    A64_A_BITFIELD = 1 << 1, /* N = sf; no sixth bit in immr, imms of W forms */
    A64_A_HW = 1 << 2,       /* W form: hw < 2 */
    A64_A_SHIFT6 = 1 << 3,   /* W form: amount < 32 */
    A64_A_NOROR = 1 << 4,    /* shift != 3 */
    A64_A_EXT4 = 1 << 5,     /* amount <= 4 */
    A64_A_EVEN = 1 << 6,     /* Rs, Rt even */
    A64_A_OPC3 = 1 << 7,     /* bits 31..30 != 3 */
    A64_A_OPT1 = 1 << 8,     /* option bit 1 set */
    A64_A_VSZ = 1 << 9,      /* opc bit 1 only with size 0 */
    A64_A_NO1D = 1 << 10,    /* not size 3 with Q 0 */
    A64_A_VONE = 1 << 11,    /* element and size fit */
    A64_A_FTYPE = 1 << 12,   /* type != 2 */
    A64_A_SCALE = 1 << 13,   /* W form: at most 32 fraction bits */
    A64_A_IMM5 = 1 << 14,    /* imm5 names a size; 64-bit only with Q */
    A64_A_MOVS = 1 << 15,    /* SMOV sizes */
    A64_A_MOVU = 1 << 16,    /* UMOV sizes */
    A64_A_EXTQ = 1 << 17,    /* index < 8 with Q 0 */
    A64_A_NO3 = 1 << 18,     /* size != 3 */
    A64_A_S12 = 1 << 19,     /* size 1 or 2 */
    A64_A_S3 = 1 << 20,      /* size 3 */
    A64_A_S0 = 1 << 21,      /* size 0 */
    A64_A_S01 = 1 << 22,     /* size 0 or 1 */
    A64_A_NO0 = 1 << 23,     /* size != 0 */
    A64_A_NO1DF = 1 << 24,   /* not sz 1 with Q 0 */
    A64_A_ACROSS = 1 << 25,  /* size 0, 1, or 2 with Q */
    A64_A_IMMH = 1 << 26,    /* immh != 0 */
    A64_A_NO1DH = 1 << 27,   /* immh bit 3 only with Q */
    A64_A_IMMH3 = 1 << 28,   /* immh bit 3 set */
    A64_A_IMMHN = 1 << 29,   /* immh bit 3 clear */
    A64_A_IMMHF = 1 << 30,   /* immh at least 2 */
};
#define A64_A_IDXD     (UINT64_C(1) << 31) /* not sz 1 with L 1 */
#define A64_A_FCMLAE   (UINT64_C(1) << 32)
#define A64_A_NO3L     (UINT64_C(1) << 33) /* bits 31..30 != 3 */
/* No conditions: */
#define A64_A_ENDS     (UINT64_C(1) << 40) /* ends a block */
#define A64_A_SZ       (UINT64_C(1) << 41) /* mnemonic takes b, h by size */
#define A64_A_SZS      (UINT64_C(1) << 42) /* ... b, h, w */
#define A64_A_LSE      (UINT64_C(1) << 43) /* mnemonic takes a, l by A, R (bits 23, 22) */
#define A64_A_LSEC     (UINT64_C(1) << 44) /* ... bits 22, 15 */
#define A64_A_LSEP     A64_A_LSEC
#define A64_A_TWO      (UINT64_C(1) << 45) /* mnemonic takes 2 with Q */
#define A64_A_CONDNAME (UINT64_C(1) << 46)
#define A64_A_PAIRLD   (UINT64_C(1) << 47)

typedef enum a64_res a64_sem_fn(struct a64_cpu *c, uint32_t w, unsigned kind);
struct a64_row {
    const char *name, *mnem, *fmt;
    uint64_t attr;
    a64_sem_fn *sem;
};
extern const struct a64_row a64_rows[A64_NR_ROW];

/* Number of the row, -1: not an instruction a program may run. */
int a64_decode(uint32_t w);
unsigned a64_kind_of(int row);
/* Fixed bits of a row, for tests that make encodings. */
void a64_row_bits(int row, uint32_t *mask, uint32_t *value);
/* Value of a logical immediate (bits 22..10 of w as in AND); false: reserved. */
bool a64_bitmask(unsigned n, unsigned immr, unsigned imms, bool is64, uint64_t *out);
/* Text without aliases, for logs; returns buf. */
char *a64_format(uint32_t w, uint64_t pc, char *buf, size_t n);

static inline unsigned a64_bits(uint32_t w, unsigned hi, unsigned lo)
{
    return w >> lo & ((2u << (hi - lo)) - 1);
}
static inline int64_t a64_sbits(uint32_t w, unsigned hi, unsigned lo)
{
    return (int64_t)((uint64_t)w << (63 - hi)) >> (63 - hi + lo);
}
#define A64_RD(w)     ((w)&31)
#define A64_RN(w)     ((w) >> 5 & 31)
#define A64_RM(w)     ((w) >> 16 & 31)
#define A64_RA(w)     ((w) >> 10 & 31)
#define A64_BIT(w, n) ((w) >> (n)&1)

#endif
