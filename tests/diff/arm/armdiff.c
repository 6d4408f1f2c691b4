/* armdiff --program ORACLE --engine QEMU2 [--count N] [--seed S] [--row NAME] [--table a32|t16|t32|vec] [--oracle QEMU]
 * [--stream]
 *         [--coverage] [-v]
 *
 * Every row of a32.def, t16.def, t32.def and vec.def (those of vec in both sets), N random instances of each:
 * registers, N Z C V Q GE, FPSCR, vectors, memory, faults and their addresses must come out of a second user-mode
 * translator (ours) as they come out of the oracle, Debian's qemu-arm. Both run the program `oracle` (oracle.c) on the
 * same records. T32 instances are put into an IT block now and then. --stream: each record is several instructions that
 * share registers, the last of the row in turn: what blocks do to flags, copies and dead values; in T32 with IT blocks
 * between them. What is covered is printed at the end. Exit 1 when anything differed, 77
 * when the oracle is not installed. proves: user mode's exactness (differential tester) */
#include "record.h"

#include "../runner.h"
#include "guest/arm/xlat_int.h"

#include <signal.h>
#include <stdio.h>

enum { SETS = 5 }; /* a32, t16, t32, vec in A32, vec in T32 */
static const enum arm_table table_of[SETS] = {ARM_A32, ARM_T16, ARM_T32, ARM_VEC, ARM_VEC};
static const char *const set_name[SETS] = {"a32", "t16", "t32", "vec", "vec"};
struct diff {
    struct runner; /* first */
    unsigned nr, cap;
    struct rec_in *in;
    struct rec_out *ours, *theirs;
    struct where {
        uint8_t set;
        uint16_t row;
        bool two; /* the instruction of the row is not alone */
    } * row;
    uint32_t *hits[SETS], *bad[SETS];
};

/* ---- values worth trying ---- */
static uint32_t int_value(struct diff *d)
{
    static const uint32_t pick[] = {0,          1,          2,          0x7f,      0x80,       0xff,       0x7fff,
                                    0x8000,     0xffff,     0x10000,    INT32_MAX, 0x80000000, UINT32_MAX, 0xfffffffe,
                                    0x7fff7fff, 0x80008000, 0x80018001, 31,        32,         33};
    uint64_t r = val_rnd(&d->rng);

    switch (r & 7) {
    case 0:
    case 1:
        return pick[r / 8 % ARRAY_LEN(pick)];
    case 2:
        return r >> 3 & 0x7f;
    case 3:
        return (uint32_t)val_rnd(&d->rng) >> (r >> 3 & 31);
    default:
        return (uint32_t)val_rnd(&d->rng);
    }
}

static uint64_t vec_value(struct diff *d)
{
    unsigned how = (unsigned)(val_rnd(&d->rng) % 6), bits = how < 2 ? 32 : how == 2 ? 64 : 16;
    uint64_t v = 0;

    if (how > 3)
        return how == 4 ? (uint64_t)int_value(d) << 32 | int_value(d) : val_rnd(&d->rng);
    for (unsigned at = 0; at < 64; at += bits)
        v |= val_fp(&d->rng, bits) << at;
    return v;
}

static uint32_t fpscr_value(struct diff *d)
{
    uint64_t r = val_rnd(&d->rng);
    uint32_t v = (uint32_t)(r >> 32 & 15) << 28 | (r >> 40 & 7 ? 0 : (uint32_t)(r >> 44) & ARM_FPSCR_FPSR);

    if (r & 3) /* as programs have it, or another rounding mode */
        return v | (r & 12 ? 0 : (uint32_t)(r >> 8 & 3) << 22);
    return v | ((uint32_t)(r >> 8) & ARM_FPSCR_FPCR);
}

/* ---- instructions ---- */
static bool is_gen(const struct arm_insn *i, const char *names)
{
    const char *n = i->row->name;
    size_t len = strcspn(n, "_");

    for (const char *p = names; *p; p += strcspn(p, " "), p += *p == ' ')
        if (strcspn(p, " ") == len && !strncmp(p, n, len))
            return true;
    return false;
}

/* The fields that name core registers. */
static uint32_t core_regs(const struct arm_insn *i, bool *pc, bool *sp)
{
    static const uint8_t field[] = {ARM_F_Rd, ARM_F_Rn,  ARM_F_Rm, ARM_F_Ra, ARM_F_Rs,
                                    ARM_F_Rt, ARM_F_Rt2, ARM_F_Rl, ARM_F_Rh};
    uint32_t mask = 0;

    *pc = *sp = false;
    for (unsigned k = 0; k < i->row->nr; k++)
        for (unsigned f = 0; f < ARRAY_LEN(field); f++)
            if (i->row->f[k].field == field[f]) {
                unsigned r = i->field[field[f]];

                mask |= 1u << r;
                *pc |= r == 15;
                *sp |= r == 13;
            }
    return mask;
}

static bool has(const struct arm_insn *i, unsigned field)
{
    for (unsigned k = 0; k < i->row->nr; k++)
        if (i->row->f[k].field == field)
            return true;
    return false;
}

#define LOADS_STORES "LDR LDRB LDRH LDRSB LDRSH STR STRB STRH"
static bool bad_access(const struct arm_insn *i)
{
    bool wback = !i->P || i->W, load = i->row->name[0] == 'L';

    if (is_gen(i, LOADS_STORES)) {
        if (i->Rt == 15 || (i->op2 != ARM_OP_IMM && (i->Rm == 15 || (wback && i->Rm == i->Rn))))
            return true;
        if (i->thumb && i->len == 4 && (i->Rt == 13 || (i->op2 != ARM_OP_IMM && i->Rm == 13)))
            return true;
        return wback && (i->Rn == 15 || i->Rn == i->Rt);
    }
    if (is_gen(i, "LDRD STRD")) {
        if (i->Rt2 >= 14 || i->Rt == 15 || (i->thumb && (i->Rt == 13 || i->Rt2 == 13 || (load && i->Rt == i->Rt2))))
            return true;
        if (!i->P && i->W && !i->thumb)
            return true;
        if (i->op2 != ARM_OP_IMM && (i->Rm == 15 || i->Rm == i->Rt || i->Rm == i->Rt2 || (wback && i->Rm == i->Rn)))
            return true;
        if (i->Rn == 15 && i->imm & 3)
            return true;
        return wback && (i->Rn == 15 || i->Rn == i->Rt || i->Rn == i->Rt2);
    }
    if (is_gen(i, "LDM STM PUSH POP")) {
        bool ld = i->kind == ARM_LDM;

        if (!i->list || i->Rn == 15 || i->list >> 15)
            return true;
        if (i->W && i->list >> i->Rn & 1 && i->Rn != 13 + 3)
            return ld || i->list & ((1u << i->Rn) - 1) || i->thumb;
        if (i->thumb && i->len == 4)
            return i->list >> 13 & 1 || !(i->list & (i->list - 1));
        return false;
    }
    if (is_gen(i, "SWP"))
        return i->Rn == i->Rt || i->Rn == i->Rm || i->Rn == 15 || i->Rt == 15 || i->Rm == 15;
    if (is_gen(i, "LDREX LDAEX LDA STL"))
        return i->Rn == 15 || i->Rt >= 14 || i->Rt2 >= 14 || (i->log2 == 3 && i->Rt == i->Rt2) ||
               (i->thumb && (i->Rt == 13 || i->Rt2 == 13));
    if (is_gen(i, "STREX STLEX"))
        return i->Rn == 15 || i->Rt >= 14 || i->Rt2 >= 14 || i->Rd == 15 || i->Rd == i->Rn || i->Rd == i->Rt ||
               (i->log2 == 3 && i->Rd == i->Rt2) || (i->thumb && (i->Rt == 13 || i->Rt2 == 13 || i->Rd == 13));
    return false;
}

static bool bad_vector(const struct arm_insn *i)
{
    unsigned d = i->D << 4 | i->Vd, n = i->N << 4 | i->Vn, m = i->M << 4 | i->Vm;

    if (is_gen(i, "VLDM VSTM")) {
        unsigned regs = i->sz ? i->imm8 / 2 : i->imm8, from = i->sz ? d : i->Vd << 1 | i->D;

        return !regs || from + regs > 32 || regs > 16 || (i->sz && i->imm8 & 1) || i->Rn == 15 || i->P == i->U ||
               (i->P && !i->W);
    }
    if (is_gen(i, "VLDR VSTR"))
        return i->Rn == 15 && i->thumb;
    if (!strncmp(i->row->name, "VLD", 3) || !strncmp(i->row->name, "VST", 3)) {
        unsigned count = (unsigned)i->row->name[3] - '0', kind = i->row->value >> 8 & 15, inc = 1;
        char form = i->row->name[5];

        if (i->Rn == 15 || i->Rm == i->Rn)
            return true;
        if (form == 'M')
            return d + (kind == 2 || kind == 0 || kind == 3 ? 3u
                        : kind == 4 || kind == 6            ? 2u
                        : kind == 1                         ? 6u
                        : kind == 5                         ? 4u
                        : kind == 7                         ? 0u
                        : kind == 9                         ? 2u
                                                            : 1u) >
                   31;
        if (form == 'R')
            inc = i->T + 1;
        else
            inc = (i->size == 1 && i->ia & 2) || (i->size == 2 && i->ia & 4) ? 2 : 1;
        return d + (form == 'R' && count == 1 ? i->T : (count - 1) * inc) > 31;
    }
    if (is_gen(i, "VTBL"))
        return n + i->tlen + 1 > 32;
    if (is_gen(i, "VTRN VUZP VZIP VSWP"))
        return d == m;
    if (!strcmp(i->row->name, "VMOV_RR"))
        return (!i->sz && (i->Vm << 1 | i->M) == 31) || (i->L && i->Rt == i->Rt2);
    if (!strcmp(i->row->name, "VCVT_X"))
        return (i->imm4 << 1 | i->i) > (i->sx ? 32u : 16u);
    if (!strcmp(i->row->name, "VMSR") || !strcmp(i->row->name, "VMRS"))
        return i->reg != 1 || (i->kind == ARM_VMSR && i->Rt == 15);
    return false;
}

/* Encodings whose outcome the architecture leaves open, and what this tester cannot see. */
static bool unsuitable(const struct arm_insn *i)
{
    bool pc, sp, dp = has(i, ARM_F_Rd) && !has(i, ARM_F_Rt);

    core_regs(i, &pc, &sp);
    if (is_gen(i, "NONE IT")) /* IT: make_it_block */
        return true;
    if (is_gen(i, "BL B CBZ CBNZ SVC BKPT CPS SETEND UDF HINT PLD PLI"))
        return !strncmp(i->row->name, "PLD_R", 5) && !i->thumb && (i->w & 15) == 15;
    if (is_gen(i, "BX BXJ BLX MRC MCR MRS"))
        return pc || (sp && i->thumb);
    if (is_gen(i, "TBB"))
        return pc || sp || i->Rn == i->Rm;
    if (!i->thumb && i->cond == 15)
        return true;
    if (bad_access(i) || bad_vector(i))
        return true;
    if (is_gen(i, LOADS_STORES " LDRD STRD LDM STM VLDR VSTR"))
        return false;
    if (pc && !(i->kind == ARM_VMRS && i->Rt == 15) && strncmp(i->row->name, "VLD", 3) &&
        strncmp(i->row->name, "VST", 3)) {
        if (i->thumb || !dp || i->Rd == 15 || i->op2 == ARM_OP_SHIFTED_REG || has(i, ARM_F_Ra) || has(i, ARM_F_Rh))
            return true;
        if (!is_gen(i, "AND EOR SUB RSB ADD ADC SBC RSC TST TEQ CMP CMN ORR MOV BIC MVN"))
            return true;
    }
    if (sp && i->thumb && i->len == 4 && i->row->name[0] != 'V')
        return true;
    if (has(i, ARM_F_Rh))
        return i->Rh == i->Rl;
    if (is_gen(i, "CRC32"))
        return i->sz == 3 || (!i->thumb && i->cond != 14);
    if (is_gen(i, "MUL") && i->thumb && i->len == 2)
        return false;
    if (is_gen(i, "MSR"))
        return !i->mask || i->mask & 3;
    return false;
}

/* A word of vec.def as T32. */
static uint32_t vec_t32(uint32_t w)
{
    if ((w & 0xfe000000) == 0xf2000000)
        return 0xef000000 | (w >> 24 & 1) << 28 | (w & 0x00ffffff);
    if ((w & 0xff100000) == 0xf4000000)
        return 0xf9000000 | (w & 0x00ffffff);
    return w;
}

/* The bytes of a row's word in a set; their number. */
static unsigned put_word(unsigned set, uint32_t w, uint8_t *p)
{
    if (set == 0 || set == 3) {
        put_le32(p, w);
        return 4;
    }
    if (set == 1) {
        put_le16(p, (uint16_t)w);
        return 2;
    }
    if (set == 4)
        w = vec_t32(w);
    put_le16(p, (uint16_t)(w >> 16));
    put_le16(p + 2, (uint16_t)w);
    return 4;
}

/* In A32 mostly "always". */
static uint32_t with_cond(struct diff *d, unsigned set, const struct arm_row *r, uint32_t w)
{
    bool has_cond = false;

    for (unsigned k = 0; k < r->nr; k++)
        has_cond |= r->f[k].field == ARM_F_cnd;
    if (!has_cond)
        return w;
    if (set == 4 || w >> 28 == 15 || val_rnd(&d->rng) % 4)
        return (w & 0x0fffffff) | 0xe0000000;
    return w;
}

/* What the tables leave open because nothing comes of it: hints, hashes, names of registers that a program has. */
static uint32_t dress(struct diff *d, unsigned set, const struct arm_row *r, uint32_t w)
{
    static const uint32_t cp15[] = {0x000d0040, 0x000d0060, 0x0007008a, 0x000700aa, 0x00070085}; /* 2nd: only read */
    static const struct dressing {
        const char *name;
        uint8_t sets; /* 1 << set */
        uint32_t ones, any;
    } list[] = {{"PLD_I", 1, 0xf000, 0x00cf0fff},
                {"PLI_I", 1, 0xf000, 0x008f0fff},
                {"PLD_R", 1, 0xf000, 0x00cf0fef},
                {"PLI_R", 1, 0xf000, 0x008f0fef},
                {"BKPT", 1, 0xe0000000, 0x000fff0f},
                {"BKPT", 2, 0, 0xff},
                {"UDF", 1, 0xe0000000, 0x000fff0f},
                {"UDF", 2, 0, 0xff},
                {"UDF", 4, 0, 0x00000fff},
                {"HINT", 1, 0xf000, 3},
                {"HINT", 2, 0, 0x30},
                {"HINT", 4, 0x000f0000, 3},
                {"CPS", 1, 0x000801c0, 1u << 18},
                {"CPS", 2, 7, 0x10},
                {"SETEND", 2, 0x10, 0},
                {"BX", 1, 0x000fff00, 0},
                {"BXJ", 1, 0x000fff00, 0},
                {"BLX", 1, 0x000fff00, 0},
                {"TBB", 4, 0xf000, 0}};
    static const uint32_t linux_break[] = {0x100, 1, 0x07f02000}; /* undefined instructions that are breakpoints */
    uint64_t k = val_rnd(&d->rng);
    bool is_udf = !strcmp(r->name, "UDF");

    for (unsigned i = 0; i < ARRAY_LEN(list); i++)
        if (list[i].sets & 1u << set && !strcmp(list[i].name, r->name))
            return w | list[i].ones | (is_udf && !(k >> 60) ? linux_break[set] : (uint32_t)k & list[i].any);
    if (!strcmp(r->name, "SVC"))
        return set == 0 ? w & 0xff000000 : w & 0xff00;
    if (!strcmp(r->name, "MCR") || !strcmp(r->name, "MRC"))
        return (w & 0xff10ff10) | cp15[r->name[1] == 'R' ? k & 1 : k & 2 ? 0 : 2 + (k >> 8) % 3];
    return w;
}

/* A branch's word with a target behind the record's code, where undefined instructions are. */
static uint32_t near(struct diff *d, unsigned set, const struct arm_row *r, uint32_t w, uint32_t pc)
{
    uint32_t by = (pc & ~(REC_STRIDE - 1u)) + 56 - pc;

    if (set == 0 && (!strcmp(r->name, "B") || !strcmp(r->name, "BL")))
        return (w & 0xff000000) | ((by - 8) / 4 + (uint32_t)(val_rnd(&d->rng) & 1));
    if (set == 2 && (!strcmp(r->name, "B") || !strcmp(r->name, "BL")))
        return (w & 0xf800d000) | 0x2800 | ((by - 4) / 2 + (uint32_t)(val_rnd(&d->rng) % 3));
    if (set == 2 && !strcmp(r->name, "B_C"))
        return (w & 0xfbc0d000) | ((by - 4) / 2 + (uint32_t)(val_rnd(&d->rng) % 3));
    if (set == 0 && !strcmp(r->name, "BLX_I")) /* to the word that is undefined in the other set too */
        return 0xfa000000 | (by - 4) / 4;
    if (set == 2 && !strcmp(r->name, "BLX_I"))
        return 0xf000e800 | (by + (pc & 3)) / 2;
    return w;
}

/* few: the registers are among eight. */
static bool make_insn(struct diff *d, unsigned set, int row, unsigned it, uint32_t pc, bool few, struct arm_insn *in,
                      uint8_t *code)
{
    unsigned nr, len;
    const struct arm_row *r = &arm_table_rows(table_of[set], &nr)[row];
    uint32_t all = set == 1 ? 0xffff : UINT32_MAX, fields = 0;

    for (unsigned k = 0; k < r->nr; k++)
        fields |= ((1u << r->f[k].width) - 1) << r->f[k].at;

    for (int tries = 0; tries < (few ? 40 : 20000); tries++) {
        uint32_t w = r->value | r->ones | ((uint32_t)val_rnd(&d->rng) & fields & all);

        for (unsigned k = 0; few && k < r->nr; k++)
            if (r->f[k].width == 4 &&
                (r->name[0] != 'V' || r->f[k].field == ARM_F_Vd || r->f[k].field == ARM_F_Vn ||
                 r->f[k].field == ARM_F_Vm) &&
                r->f[k].field != ARM_F_mask && r->f[k].field != ARM_F_opt && r->f[k].field != ARM_F_cnd)
                w &= ~(8u << r->f[k].at);
        w = near(d, set, r, dress(d, set, r, with_cond(d, set, r, w)), pc);
        if (set == 2 && r->gen == gen_bits) /* the register is named twice */
            w |= (w & 15) << 16;
        len = put_word(set, w, code);
        if (!arm_decode(in, pc, set != 0 && set != 3, it, code, len) || in->row != r || unsuitable(in))
            continue;
        if (is_gen(in, "B BL CBZ CBNZ")) { /* to somewhere behind the record's code */
            uint32_t to = pc + (in->thumb ? 4 : 8) + in->imm;

            if (to < (pc & ~(REC_STRIDE - 1u)) + 56 || to >= (pc & ~(REC_STRIDE - 1u)) + (in->thumb ? 62 : 64))
                continue;
        }
        return true;
    }
    return false;
}

/* Registers that address memory point near the data window; sometimes misaligned, sometimes far out. */
static void aim(struct diff *d, const struct arm_insn *i, struct rec_in *in)
{
    uint64_t k = val_rnd(&d->rng);
    bool vec = i->row->name[0] == 'V', strict = is_gen(i, "LDREX LDAEX STREX STLEX SWP LDA STL");
    bool aligned = (strict && k >> 40 & 7) || is_gen(i, "LDRD STRD LDM STM PUSH POP VLDR VSTR VLDM VSTM") ||
                   (vec && i->row->name[4] != 'M');
    uint32_t p = REC_DATA - 64 + (uint32_t)(val_rnd(&d->rng) & 0x7f);

    if (!has(i, ARM_F_Rn) && !is_gen(i, "STM LDM PUSH POP") && !is_gen(i, LOADS_STORES))
        return;
    if (!bad_access(i) &&
        !(is_gen(i,
                 LOADS_STORES " LDRD STRD LDM STM PUSH POP LDREX LDAEX STREX STLEX SWP LDA STL VLDR VSTR VLDM VSTM") ||
          !strncmp(i->row->name, "VLD", 3) || !strncmp(i->row->name, "VST", 3)))
        return;
    if (!(k & 63))
        p = 0x90000000 + ((uint32_t)val_rnd(&d->rng) & 0xfffffff);
    else if ((k & 63) < 4) /* over an end of what is mapped */
        p = (k & 1 ? REC_MAP : REC_MAP + 0x2000) - (uint32_t)(k >> 8 & 31);
    if (aligned)
        p &= ~31u;
    if (has(i, ARM_F_Rm) && i->op2 != ARM_OP_IMM && i->Rm != 15 && !vec)
        in->s.r[i->Rm % 15] = (uint32_t)(k >> 20 & 15) & (aligned ? ~7u : ~0u);
    else if (i->op2 == ARM_OP_IMM && i->P && (k >> 30 & 1 || (aligned && i->imm & 3)))
        p -= i->U ? i->imm : -i->imm;
    if (aligned && i->Rn == 15)
        return;
    if (is_gen(i, "LDREX STREX"))
        p -= i->imm;
    if (vec && has(i, ARM_F_imm8) && is_gen(i, "VLDR VSTR") && k >> 30 & 1)
        p -= i->U ? i->imm8 * 4 : -i->imm8 * 4;
    if (i->Rn != 15)
        in->s.r[i->Rn] = in->at = p;
}

/* An IT instruction for n instructions that follow; returns ITSTATE of the first. */
static unsigned make_it(struct diff *d, unsigned n, uint8_t *code)
{
    unsigned cond = (unsigned)(val_rnd(&d->rng) % 14), mask = 1u << (4 - n), it;

    for (unsigned k = 1; k < n; k++) /* bit 4 - k: the condition's low bit for instruction k */
        mask |= ((unsigned)val_rnd(&d->rng) & 1) << (4 - k);
    it = cond << 4 | mask;
    put_le16(code, (uint16_t)(0xbf00 | it));
    return it;
}

#define NEVER_IN_IT "CBZ CBNZ CRC32 VSEL VMAXNM VMINNM UDF BKPT SETEND CPS"
/* May it stand in an IT block with others behind it, or in a stream? */
static bool computes(const struct arm_insn *i)
{
    return !is_gen(i, "B BL BX BXJ BLX TBB SVC BKPT UDF IT MRC MCR CBZ CBNZ LDR LDRB LDRH LDRSB LDRSH STR STRB STRH "
                      "LDRD STRD LDM STM PUSH POP SWP LDREX "
                      "LDAEX STREX STLEX "
                      "LDA STL VLDR VSTR VLDM VSTM VMSR CLREX") &&
           strncmp(i->row->name, "VLD", 3) && strncmp(i->row->name, "VST", 3);
}

static bool make_stream(struct diff *d, unsigned set, int row, struct rec_in *in, uint32_t pc)
{
    bool thumb = set != 0 && set != 3;
    struct arm_insn i;
    unsigned it = 0, left = 0, tries = 0;

    in->n = 0;
    while (in->n < 40 && ++tries < 200) {
        unsigned other, nr, before = in->n, it_before = it;
        bool last = in->n >= 34;
        int r;

        if (thumb && !left && val_rnd(&d->rng) % 4 == 0 && !last) {
            left = 1 + (unsigned)(val_rnd(&d->rng) % 3);
            it = make_it(d, left, in->code + in->n);
            in->n += 2;
        }
        other = last                   ? set
                : thumb                ? (val_rnd(&d->rng) % 8 ? 1 + (unsigned)(val_rnd(&d->rng) & 1) : 4)
                : val_rnd(&d->rng) % 8 ? 0
                                       : 3;
        arm_table_rows(table_of[other], &nr);
        r = last ? row : (int)(val_rnd(&d->rng) % nr);
        if (!make_insn(d, other, r, it, pc + in->n, true, &i, in->code + in->n) || !computes(&i)) {
            if (last)
                return false;
            if (before != in->n) { /* take the IT back */
                in->n = before;
                it = it_before;
                left = 0;
            }
            continue;
        }
        in->n += i.len;
        if (left) {
            left--;
            it = arm_it_next(it);
        }
        if (last)
            return !left;
    }
    return false;
}

/* Where registers that are jumped to point: behind the record's code, in either set. */
static void aim_jump(struct diff *d, const struct arm_insn *i, struct rec_in *in, uint32_t pc)
{
    uint32_t home = pc & ~(REC_STRIDE - 1u);
    uint64_t k = val_rnd(&d->rng);

    if (has(i, ARM_F_Rm) && is_gen(i, "BX BXJ BLX")) {
        in->s.r[i->Rm] = k & 1 ? home + 60 + (k >> 1 & 1) : home + 56 + i->thumb;
    } else if (is_gen(i, "TBB")) {
        uint32_t at = (uint32_t)(k >> 8 & 63), index = (uint32_t)(k >> 16 & 31);
        uint32_t by = (home + 56 + (uint32_t)(k >> 32) % 3 * 2 - pc - 4) / 2;

        in->s.r[i->Rn] = REC_DATA - 64 + at;
        in->s.r[i->Rm] = index;
        at += REC_MEM / 2 - 64 + (index << i->H);
        in->mem[at] = (uint8_t)by;
        if (i->H)
            in->mem[at + 1] = 0;
    }
}

/* IT and the instructions it makes conditional. */
static bool make_it_block(struct diff *d, struct rec_in *in, uint32_t pc)
{
    unsigned n = 1 + (unsigned)(val_rnd(&d->rng) & 3), it = make_it(d, n, in->code), nr, tries = 0;
    struct arm_insn i;

    in->n = 2;
    while (n) {
        unsigned set = 1 + (unsigned)(val_rnd(&d->rng) & 1);

        if (++tries > 200)
            return false;
        arm_table_rows(table_of[set], &nr);
        if (!make_insn(d, set, (int)(val_rnd(&d->rng) % nr), it, pc + in->n, true, &i, in->code + in->n) ||
            !computes(&i) || is_gen(&i, NEVER_IN_IT) || !strcmp(i.row->name, "B_C"))
            continue;
        in->n += i.len;
        it = arm_it_next(it);
        n--;
    }
    return true;
}

/* MCR before MRC, so that there is something to read. */
static void write_before(const struct arm_insn *i, struct rec_in *in)
{
    uint32_t w = 0xee0d0f50 | (i->Rt + 1) % 13 << 12;
    uint8_t last[4];

    memcpy(last, in->code, 4);
    if (i->thumb)
        w = w >> 16 | w << 16;
    put_le32(in->code, w);
    memcpy(in->code + 4, last, 4);
    in->n = 8;
}

static bool make(struct diff *d, unsigned set, int row)
{
    struct rec_in *in = &d->in[d->nr];
    uint32_t pc = REC_CODE + d->nr * REC_STRIDE;
    bool thumb = set != 0 && set != 3;
    struct arm_insn i;
    unsigned it = 0, at = 0, nr;

    memset(in, 0, sizeof *in);
    in->s.psr =
        (uint32_t)(val_rnd(&d->rng) & 31) << 27 | (uint32_t)(val_rnd(&d->rng) & 15) << 16 | (thumb ? ARM_PSR_T : 0);
    memset(&i, 0, sizeof i);
    i.row = &arm_table_rows(table_of[set], &nr)[row];
    if (!strcmp(i.row->name, "IT")) {
        if (!make_it_block(d, in, pc))
            return make(d, set, row);
    } else {
        if (!d->stream && thumb && val_rnd(&d->rng) % 4 == 0) {
            it = make_it(d, 1, in->code);
            at = 2;
        }
        if (!make_insn(d, set, row, it, pc + at, false, &i, in->code + at))
            return false;
        if (it && (is_gen(&i, NEVER_IN_IT) || i.row->mask >> 28 == 15 || !strcmp(i.row->name, "B_C")))
            return make(d, set, row);
        in->n = at + i.len;
    }
    for (unsigned k = 0; k < 15; k++)
        in->s.r[k] = int_value(d);
    for (unsigned k = 0; k < 32; k++)
        in->s.d[k] = vec_value(d);
    for (unsigned k = 0; k < REC_MEM; k += 8)
        put_le64(in->mem + k, vec_value(d));
    in->s.fpscr = fpscr_value(d);
    if (in->s.r[13] - REC_IMAGE < 0x100000) /* not on the program's own signal stack */
        in->s.r[13] |= 0x80000000;
    aim(d, &i, in);
    aim_jump(d, &i, in, pc + at);
    if (is_gen(&i, "SVC")) /* no such system call */
        in->s.r[7] = 5000 + (uint32_t)(val_rnd(&d->rng) & 0xfff);
    if (is_gen(&i, "MRC") && !at)
        write_before(&i, in);
    if (is_gen(&i, "STREX STLEX") &&
        val_rnd(&d->rng) % 4) { /* armed by the load exclusive of the same size and address */
        static const uint32_t ld[4] = {0x01d00f9f, 0x01f00f9f, 0x01900f9f, 0x01b00f9f};
        uint32_t w = 0xe0000000 | ld[i.log2] | i.Rn << 16;
        uint8_t last[4];

        if (!thumb && !i.imm) {
            memcpy(last, in->code, 4);
            put_le32(in->code, w | ((i.Rn + 2) % 12 & ~1u) << 12);
            memcpy(in->code + 4, last, 4);
            in->n = 8;
        }
    }
    if (d->stream && i.len && computes(&i) && !make_stream(d, set, row, in, pc))
        return make(d, set, row);
    d->row[d->nr++] = (struct where){(uint8_t)set, (uint16_t)row, d->stream};
    return true;
}

/* ---- running ---- */
static int run_program(struct diff *d, const char *emu, struct rec_out *out)
{
    return runner_run((struct runner *)d, emu, d->in, d->nr * sizeof *d->in, out, d->nr * sizeof *out);
}

static void say(const struct diff *d, unsigned i, const struct rec_out *a, const struct rec_out *b)
{
    const struct rec_in *in = &d->in[i];
    unsigned nr;

    printf("%s %s:", set_name[d->row[i].set], arm_table_rows(table_of[d->row[i].set], &nr)[d->row[i].row].name);
    for (unsigned k = 0; k < in->n; k += 2)
        printf(" %04x", get_le16(in->code + k));
    printf("  psr %08x fpscr %08x\n", in->s.psr, in->s.fpscr);
    if (a->sig != b->sig || a->addr != b->addr)
        printf("   signal %u at %x, oracle %u at %x\n", a->sig, a->addr, b->sig, b->addr);
    if (a->s.pc != b->s.pc)
        printf("   pc %x, oracle %x\n", a->s.pc, b->s.pc);
    if (a->s.psr != b->s.psr)
        printf("   psr %08x, oracle %08x\n", a->s.psr, b->s.psr);
    if (a->s.fpscr != b->s.fpscr)
        printf("   fpscr %08x, oracle %08x\n", a->s.fpscr, b->s.fpscr);
    for (int k = 0; k < 15; k++)
        if (a->s.r[k] != b->s.r[k])
            printf("   r%d %08x, oracle %08x, was %08x\n", k, a->s.r[k], b->s.r[k], in->s.r[k]);
    for (int k = 0; k < 32; k++)
        if (a->s.d[k] != b->s.d[k])
            printf("   d%d %016" PRIx64 ", oracle %016" PRIx64 ", was %016" PRIx64 "\n", k, a->s.d[k], b->s.d[k],
                   in->s.d[k]);
    if (memcmp(a->mem, b->mem, REC_MEM))
        printf("   memory differs\n");
    if (d->verbose) {
        for (int k = 0; k < 15; k++)
            printf(" r%d %08x", k, in->s.r[k]);
        for (int k = 0; k < 32; k++)
            printf("%s d%d %016" PRIx64, k % 4 ? "" : "\n  ", k, in->s.d[k]);
        printf("\n");
    }
}

/* A misaligned access to nothing: Linux tries to repair it and meets the missing page; the oracle says SIGBUS before.
 */
static void settle_wild(const struct rec_out *a, struct rec_out *b)
{
    if (a->sig == SIGSEGV && b->sig == SIGBUS && a->addr & 3 && (a->addr ^ b->addr) >> 12 == 0)
        b->sig = SIGSEGV;
}

/* Parts of an access that crosses into an unmapped page may be done. */
static bool same(const struct rec_out *a, const struct rec_out *b)
{
    struct rec_out x = *a, y = *b;

    if (runner_same_fault(x.sig, x.addr, y.sig, y.addr))
        x.addr = y.addr = 0;
    if (x.sig == SIGSEGV && x.sig == y.sig) {
        memset(x.mem, 0, sizeof x.mem);
        memset(y.mem, 0, sizeof y.mem);
    }
    return !memcmp(&x, &y, sizeof x);
}

/* The registers a multiple load that faulted has read already are not defined. */
static void settle(const struct arm_row *r, struct rec_out *a, struct rec_out *b)
{
    bool multi = !strncmp(r->name, "LDM", 3) || !strncmp(r->name, "VLD", 3) || !strncmp(r->name, "POP", 3);

    if (a->sig == SIGSEGV && b->sig == SIGSEGV && multi) {
        memcpy(a->s.r, b->s.r, sizeof a->s.r);
        memcpy(a->s.d, b->s.d, sizeof a->s.d);
    }
    /* LEN and STRIDE of short vectors and FZ16 are not kept here. */
    if (!strcmp(r->name, "VMSR"))
        b->s.fpscr &= ~0x003f0000u;
    /* The translator's one known difference: the host detects tininess after rounding. */
    if (a->s.fpscr & A64_FPSR_IXC)
        a->s.fpscr |= b->s.fpscr & A64_FPSR_UFC;
}

static void see(struct diff *d, const struct rec_in *in, const struct rec_out *out)
{
    static const uint8_t flag[] = {RUNNER_INVALID, RUNNER_BY_ZERO, RUNNER_OVERFLOW, RUNNER_UNDERFLOW, RUNNER_INEXACT};
    bool fp = false;

    for (unsigned i = 0; i < 32; i++) {
        fp |= in->s.d[i] != out->s.d[i];
        if (in->s.d[i] != out->s.d[i])
            runner_see_fp((struct runner *)d, out->s.d[i]);
    }
    for (unsigned i = 0; i < 5; i++)
        d->seen[flag[i]] += out->s.fpscr >> i & ~in->s.fpscr >> i & 1;
    d->seen[RUNNER_NEAREST + (in->s.fpscr >> 22 & 3)] += fp;
    runner_see_fault((struct runner *)d, out->sig, out->addr, REC_MAP, REC_MAP + 0x2000);
    d->seen[RUNNER_MISALIGNED] += !out->sig && in->at && in->at & 7;
    d->seen[RUNNER_CROSSING] += !out->sig && in->at < REC_DATA && in->at + 4 > REC_DATA;
}

static int flush_batch(struct diff *d)
{
    int r;

    if (!d->nr)
        return 0;
    r = run_program(d, d->oracle, d->theirs);
    if (!r)
        r = run_program(d, d->engine, d->ours);
    if (r)
        return r;
    for (unsigned i = 0; i < d->nr; i++) {
        const struct where *w = &d->row[i];
        unsigned nr;

        d->hits[w->set][w->row]++;
        see(d, &d->in[i], &d->theirs[i]);
        settle(&arm_table_rows(table_of[w->set], &nr)[w->row], &d->ours[i], &d->theirs[i]);
        settle_wild(&d->ours[i], &d->theirs[i]);
        if (same(&d->ours[i], &d->theirs[i]))
            continue;
        if (d->bad[w->set][w->row]++ < (d->verbose ? 20u : 2u))
            say(d, i, &d->ours[i], &d->theirs[i]);
    }
    d->nr = 0;
    return 0;
}

static int finish(struct diff *d, int r)
{
    static const char *const title[SETS] = {"a32 ", "t16 ", "t32 ", "vec ", "vec (T32) "};

    for (unsigned set = 0; set < SETS; set++) {
        unsigned nr;
        const struct arm_row *t = arm_table_rows(table_of[set], &nr);

        for (unsigned i = 0; i < nr; i++)
            runner_row((struct runner *)d, title[set], t[i].name, d->hits[set][i], d->bad[set][i]);
    }
    return runner_end((struct runner *)d, r);
}

static int all_rows(struct diff *d, unsigned long count)
{
    int r = 0;

    for (unsigned set = 0; set < SETS && !r; set++) {
        unsigned nr;
        const struct arm_row *t = arm_table_rows(table_of[set], &nr);

        if (d->table && strcmp(d->table, set_name[set]))
            continue;
        for (unsigned row = 0; row < nr && !r; row++) {
            if (d->only && strcmp(d->only, t[row].name))
                continue;
            for (unsigned long k = 0; k < count && !r; k++) {
                if (!make(d, set, (int)row))
                    break;
                if (d->nr == d->cap)
                    r = flush_batch(d);
            }
        }
    }
    return r ? r : flush_batch(d);
}

int main(int argc, char **argv)
{
    struct diff d = {.oracle = "qemu-arm", .cap = 20000};
    int r;

    if (!runner_options((struct runner *)&d, argc, argv) || !d.engine)
        return 2;
    d.in = calloc(d.cap, sizeof *d.in);
    d.ours = calloc(d.cap, sizeof *d.ours);
    d.theirs = calloc(d.cap, sizeof *d.theirs);
    d.row = calloc(d.cap, sizeof *d.row);
    for (unsigned set = 0; set < SETS; set++) {
        d.hits[set] = calloc(1024, sizeof *d.hits[0]);
        d.bad[set] = calloc(1024, sizeof *d.bad[0]);
    }
    r = finish(&d, all_rows(&d, d.count));
    free(d.in);
    free(d.ours);
    free(d.theirs);
    free(d.row);
    for (unsigned set = 0; set < SETS; set++) {
        free(d.hits[set]);
        free(d.bad[set]);
    }
    return r;
}
