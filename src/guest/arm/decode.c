/* The A32 and T32 decoder: tables made from the .def files by tools/gen_arm.py, and what the forms make of the fields.
 */
#include "guest/arm/insn.h"
#include "guest/arm/xlat_int.h"

#include "guest/arm/tables_gen.h"

static const struct {
    const struct arm_row *rows;
    unsigned nr;
    const uint16_t *top, *list;
    unsigned shift;
} tables[ARM_NR_TABLES] = {[ARM_A32] = {arm_rows_a32, ARM_NR_A32, top_a32, list_a32, SHIFT_a32},
                           [ARM_T16] = {arm_rows_t16, ARM_NR_T16, top_t16, list_t16, SHIFT_t16},
                           [ARM_T32] = {arm_rows_t32, ARM_NR_T32, top_t32, list_t32, SHIFT_t32},
                           [ARM_VEC] = {arm_rows_vec, ARM_NR_VEC, top_vec, list_vec, SHIFT_vec}};

const struct arm_row *arm_table_rows(enum arm_table t, unsigned *nr)
{
    *nr = tables[t].nr;
    return tables[t].rows;
}

static const struct arm_row *find(enum arm_table t, uint32_t w)
{
    for (unsigned at = tables[t].top[w >> tables[t].shift]; tables[t].list[at] != 0xffff; at++) {
        const struct arm_row *r = &tables[t].rows[tables[t].list[at]];

        if ((w & r->mask) == r->value && (t == ARM_T16 || r->mask >> 28 || w >> 28 != 15))
            return r;
    }
    return NULL;
}

static int32_t sext(uint32_t v, unsigned bits)
{
    return (int32_t)(v << (32 - bits)) >> (32 - bits);
}

/* DecodeImmShift: amounts of 0 stand for 32, or RRX. */
static void imm_shift(struct arm_insn *in, unsigned type, unsigned imm5)
{
    in->op2 = ARM_OP_SHIFTED;
    in->shift = (uint8_t)type;
    in->amount = (uint8_t)(imm5 ? imm5 : type == ARM_SH_LSR || type == ARM_SH_ASR ? 32 : 0);
    if (type == ARM_SH_ROR && !imm5) {
        in->shift = ARM_SH_RRX;
        in->amount = 1;
    }
}

static uint32_t ror32(uint32_t v, unsigned n)
{
    return n ? v >> n | v << (32 - n) : v;
}

/* ARMExpandImm_C */
static void a32_imm(struct arm_insn *in)
{
    unsigned rot = in->mi >> 8 << 1;

    in->op2 = ARM_OP_IMM;
    in->imm = ror32(in->mi & 0xff, rot);
    in->carry = rot ? (uint8_t)(in->imm >> 31) : ARM_CARRY_KEPT;
}

/* ThumbExpandImm_C */
static void t32_imm(struct arm_insn *in)
{
    uint32_t imm12 = in->i << 11 | in->imm3 << 8 | in->imm8, b = in->imm8;

    in->op2 = ARM_OP_IMM;
    in->carry = ARM_CARRY_KEPT;
    if (imm12 >> 10) {
        in->imm = ror32(0x80 | (imm12 & 0x7f), imm12 >> 7);
        in->carry = (uint8_t)(in->imm >> 31);
        return;
    }
    in->imm = imm12 >> 8 == 0   ? b
              : imm12 >> 8 == 1 ? b * 0x00010001
              : imm12 >> 8 == 2 ? b * 0x01000100
                                : b * 0x01010101;
}

static void set_imm(struct arm_insn *in, uint32_t imm)
{
    in->op2 = ARM_OP_IMM;
    in->imm = imm;
    in->carry = ARM_CARRY_KEPT;
}

/* An offset that is added, without write-back. */
static void plain_offset(struct arm_insn *in)
{
    in->P = in->U = 1;
    in->W = 0;
}

static void multiple(struct arm_insn *in, bool load, bool before, bool up, bool wback)
{
    in->kind = load ? ARM_LDM : ARM_STM;
    in->P = before;
    in->U = up;
    in->W = wback;
}

/* Forms of 16-bit instructions that are shifts, or data processing of low registers. */
static void t16_dp(struct arm_insn *in, unsigned form)
{
    in->S = !in->it;
    switch (form) {
    case ARM_FORM_S_LSL0: /* MOVS: not in an IT block, but harmless there */
        imm_shift(in, ARM_SH_LSL, 0);
        break;
    case ARM_FORM_S_LSL:
    case ARM_FORM_S_LSR:
    case ARM_FORM_S_ASR:
        imm_shift(in, form == ARM_FORM_S_LSL ? ARM_SH_LSL : form == ARM_FORM_S_LSR ? ARM_SH_LSR : ARM_SH_ASR, in->imm5);
        in->kind = ARM_MOV;
        break;
    case ARM_FORM_S_SHR:
        in->shift = in->kind == ARM_LSL   ? ARM_SH_LSL
                    : in->kind == ARM_LSR ? ARM_SH_LSR
                    : in->kind == ARM_ASR ? ARM_SH_ASR
                                          : ARM_SH_ROR;
        in->kind = ARM_MOV;
        in->op2 = ARM_OP_SHIFTED_REG;
        in->Rm = in->Rd;
        break;
    case ARM_FORM_S_REG:
        imm_shift(in, ARM_SH_LSL, 0);
        break;
    case ARM_FORM_S_DN:
        imm_shift(in, ARM_SH_LSL, 0);
        in->Rn = in->Rd;
        break;
    case ARM_FORM_C_REG:
        imm_shift(in, ARM_SH_LSL, 0);
        in->S = 1;
        break;
    case ARM_FORM_S_NEG:
        set_imm(in, 0);
        break;
    case ARM_FORM_S_IMM3:
        set_imm(in, in->imm3);
        break;
    case ARM_FORM_S_IMM8:
        set_imm(in, in->imm8);
        in->Rn = in->Rd;
        break;
    case ARM_FORM_C_IMM8:
        set_imm(in, in->imm8);
        in->S = 1;
        break;
    case ARM_FORM_S_MUL:
        in->Rm = in->Rd;
        in->Ra = 15;
        break;
    default:
        assert(0);
        break;
    }
}

static void t16_other(struct arm_insn *in, unsigned form)
{
    switch (form) {
    case ARM_FORM_HIGH:
        imm_shift(in, ARM_SH_LSL, 0);
        in->Rd |= in->dn << 3;
        in->Rn = in->Rd;
        break;
    case ARM_FORM_HIGHC:
        imm_shift(in, ARM_SH_LSL, 0);
        in->Rn |= in->dn << 3;
        in->S = 1;
        break;
    case ARM_FORM_LIT8:
        set_imm(in, in->imm8 * 4);
        in->Rn = ARM_PC;
        plain_offset(in);
        break;
    case ARM_FORM_OFFR:
        imm_shift(in, ARM_SH_LSL, 0);
        plain_offset(in);
        break;
    case ARM_FORM_OFF5:
    case ARM_FORM_OFF5_2:
    case ARM_FORM_OFF5_4:
        set_imm(in, in->imm5 << (form == ARM_FORM_OFF5 ? 0 : form == ARM_FORM_OFF5_2 ? 1 : 2));
        plain_offset(in);
        break;
    case ARM_FORM_OFFSP:
        set_imm(in, in->imm8 * 4);
        in->Rn = ARM_SP;
        plain_offset(in);
        break;
    case ARM_FORM_ADR8:
        set_imm(in, in->imm8 * 4);
        break;
    case ARM_FORM_SPI8:
        set_imm(in, in->imm8 * 4);
        in->Rn = ARM_SP;
        break;
    case ARM_FORM_SPI7:
        set_imm(in, in->imm7 * 4);
        in->Rn = in->Rd = ARM_SP;
        break;
    case ARM_FORM_T_CB:
        in->imm = in->i << 6 | in->imm5 << 1;
        break;
    case ARM_FORM_PUSH:
        in->list = in->imm8 | in->M << 14;
        in->Rn = ARM_SP;
        multiple(in, false, true, false, true);
        break;
    case ARM_FORM_POP:
        in->list = in->imm8 | in->M << 15;
        in->Rn = ARM_SP;
        multiple(in, true, false, true, true);
        break;
    case ARM_FORM_T_STM:
        in->list = in->imm8;
        multiple(in, false, false, true, true);
        break;
    case ARM_FORM_T_LDM:
        in->list = in->imm8;
        multiple(in, true, false, true, !(in->imm8 >> in->Rn & 1));
        break;
    case ARM_FORM_T_B8:
        in->imm = (uint32_t)sext(in->imm8, 8) << 1;
        in->cond = (uint8_t)in->bc;
        break;
    case ARM_FORM_T_B11:
        in->imm = (uint32_t)sext(in->imm11, 11) << 1;
        break;
    default:
        t16_dp(in, form);
        break;
    }
}

static uint32_t t32_branch(const struct arm_insn *in)
{
    uint32_t i1 = !(in->J1 ^ in->sgn), i2 = !(in->J2 ^ in->sgn);

    return (uint32_t)sext(in->sgn << 24 | i1 << 23 | i2 << 22 | in->imm10 << 12 | in->imm11 << 1, 25);
}

static bool t32_form(struct arm_insn *in, unsigned form)
{
    uint32_t imm12 = in->i << 11 | in->imm3 << 8 | in->imm8, imm5 = in->imm3 << 2 | in->imm2;

    switch (form) {
    case ARM_FORM_T_IA:
    case ARM_FORM_T_DB:
        multiple(in, in->kind == ARM_LDM, form == ARM_FORM_T_DB, form == ARM_FORM_T_IA, in->W);
        return true;
    case ARM_FORM_T_IMM8D:
        set_imm(in, in->imm8 * 4);
        return in->P || in->W;
    case ARM_FORM_TSH:
        imm_shift(in, in->type, imm5);
        return true;
    case ARM_FORM_TMI:
        t32_imm(in);
        return true;
    case ARM_FORM_T_PKH:
        imm_shift(in, in->tb ? ARM_SH_ASR : ARM_SH_LSL, imm5);
        return true;
    case ARM_FORM_T_IMM12:
    case ARM_FORM_T_ADR:
        set_imm(in, imm12);
        return true;
    case ARM_FORM_T_ADRN:
        set_imm(in, -imm12);
        return true;
    case ARM_FORM_T_IMM16:
        set_imm(in, in->imm4 << 12 | imm12);
        return true;
    case ARM_FORM_T_SAT:
        imm_shift(in, in->sh ? ARM_SH_ASR : ARM_SH_LSL, imm5);
        return true;
    case ARM_FORM_T_BFX:
    case ARM_FORM_T_BFI:
        in->lsb = imm5;
        in->width += 1;
        return form == ARM_FORM_T_BFX ? imm5 + in->width <= 32 : in->msb >= imm5;
    case ARM_FORM_T_B20:
        in->imm = (uint32_t)sext(in->sgn << 20 | in->J2 << 19 | in->J1 << 18 | in->imm6 << 12 | in->imm11 << 1, 21);
        in->cond = (uint8_t)in->bc;
        return true;
    case ARM_FORM_T_B24:
        in->imm = t32_branch(in);
        return true;
    case ARM_FORM_T_BLX:
        in->imm = t32_branch(in);
        return !(in->imm11 & 1);
    case ARM_FORM_T_OFF12:
        set_imm(in, in->imm12);
        plain_offset(in);
        return true;
    case ARM_FORM_T_OFF8:
        set_imm(in, in->imm8);
        return (in->P || in->W) && in->Rn != ARM_PC;
    case ARM_FORM_T_OFFR:
        imm_shift(in, ARM_SH_LSL, in->imm2);
        plain_offset(in);
        return true;
    case ARM_FORM_T_LIT:
        set_imm(in, in->imm12);
        in->Rn = ARM_PC;
        in->P = 1;
        in->W = 0;
        return true;
    default:
        t16_other(in, form);
        return true;
    }
}

static void exclusive(struct arm_insn *in, unsigned form)
{
    in->log2 = form == ARM_FORM_E_B                            ? 0
               : form == ARM_FORM_E_H                          ? 1
               : form == ARM_FORM_E_D || form == ARM_FORM_E_TD ? 3
                                                               : 2;
    in->imm = form == ARM_FORM_E_WO ? in->imm8 * 4 : 0;
    if (form == ARM_FORM_E_D)
        in->Rt2 = in->Rt + 1;
}

static bool vec_form(struct arm_insn *in, unsigned form)
{
    switch (form) {
    case ARM_FORM_N_NO3:
        return in->size != 3;
    case ARM_FORM_N_12:
        return in->size == 1 || in->size == 2 || (in->row->value >> 20 & 3);
    case ARM_FORM_N_SH:
        return in->L || in->imm6 >> 3;
    default:
        return true;
    }
}

/* What the form makes of the fields; false: not allocated. */
static bool apply(struct arm_insn *in)
{
    unsigned form = in->row->form;

    switch (form) {
    case ARM_FORM_NONE:
        return true;
    case ARM_FORM_SH:
        imm_shift(in, in->type, in->imm5);
        return true;
    case ARM_FORM_SHR:
        in->op2 = ARM_OP_SHIFTED_REG;
        in->shift = (uint8_t)in->type;
        return true;
    case ARM_FORM_MI:
        a32_imm(in);
        return true;
    case ARM_FORM_A_BLX:
    case ARM_FORM_A_B:
        in->imm = (uint32_t)sext(in->imm24, 24) << 2 | in->H << 1;
        return true;
    case ARM_FORM_NOA:
        in->Ra = 15;
        return true;
    case ARM_FORM_E_D:
        if (in->Rt & 1)
            return false; /* fall through */
    case ARM_FORM_E_B:
    case ARM_FORM_E_H:
    case ARM_FORM_E_W:
    case ARM_FORM_E_WO:
    case ARM_FORM_E_TD:
        exclusive(in, form);
        return true;
    case ARM_FORM_IMM8:
    case ARM_FORM_IMM8D:
        set_imm(in, in->i4 << 4 | in->i0);
        in->Rt2 = in->Rt + 1;
        return form == ARM_FORM_IMM8 || !(in->Rt & 1);
    case ARM_FORM_RT2:
        imm_shift(in, ARM_SH_LSL, 0);
        in->Rt2 = in->Rt + 1;
        return !(in->Rt & 1);
    case ARM_FORM_ROFF:
        imm_shift(in, ARM_SH_LSL, 0);
        return true;
    case ARM_FORM_IMM16:
        set_imm(in, in->imm4 << 12 | in->imm12);
        return true;
    case ARM_FORM_PKH:
        imm_shift(in, in->tb ? ARM_SH_ASR : ARM_SH_LSL, in->imm5);
        return true;
    case ARM_FORM_SAT:
        imm_shift(in, in->sh ? ARM_SH_ASR : ARM_SH_LSL, in->imm5);
        return true;
    case ARM_FORM_BFX:
        in->width += 1;
        return in->lsb + in->width <= 32;
    case ARM_FORM_BFI:
        return in->msb >= in->lsb;
    case ARM_FORM_OFF12:
        set_imm(in, in->imm12);
        return true;
    case ARM_FORM_UNC:
    case ARM_FORM_N:
    case ARM_FORM_N_NO3:
    case ARM_FORM_N_12:
    case ARM_FORM_N_SWAP:
    case ARM_FORM_N_SH:
    case ARM_FORM_VS:
        return vec_form(in, form);
    default:
        return t32_form(in, form);
    }
}

/* The table a T32 word of 32 bits belongs to; *w becomes its A32 form where that is vec. */
static enum arm_table t32_table(uint32_t *w)
{
    if ((*w & 0xef000000) == 0xef000000) { /* Advanced SIMD data processing */
        *w = 0xf2000000 | (*w >> 28 & 1) << 24 | (*w & 0x00ffffff);
        return ARM_VEC;
    }
    if ((*w & 0xff100000) == 0xf9000000) {
        *w = 0xf4000000 | (*w & 0x00ffffff);
        return ARM_VEC;
    }
    if ((*w & 0xec000000) == 0xec000000 && (*w & 0xe00) == 0xa00)
        return ARM_VEC;
    return ARM_T32;
}

static enum arm_table a32_table(uint32_t w)
{
    if ((w & 0xfe000000) == 0xf2000000 || (w & 0xff100000) == 0xf4000000)
        return ARM_VEC;
    if ((w & 0x0e000000) == 0x0c000000 && (w & 0xe00) == 0xa00)
        return ARM_VEC;
    return (w & 0x0f000e00) == 0x0e000a00 ? ARM_VEC : ARM_A32;
}

bool arm_decode(struct arm_insn *in, uint32_t pc, bool thumb, unsigned it, const uint8_t *code, size_t n)
{
    enum arm_table t;

    memset(in, 0, sizeof *in);
    in->pc = pc;
    in->thumb = thumb;
    in->it = (uint8_t)it;
    in->cond = it ? (uint8_t)(it >> 4) : 14;
    if (thumb) {
        in->w = get_le16(code);
        in->len = in->w >> 11 > 28 ? 4 : 2;
        t = ARM_T16;
        if (in->len == 4) {
            if (n < 4) {
                in->len = 0;
                return false;
            }
            in->w = in->w << 16 | get_le16(code + 2);
            t = t32_table(&in->w);
        }
    } else {
        in->w = get_le32(code);
        in->len = 4;
        t = a32_table(in->w);
    }
    in->row = find(t, in->w);
    if (!in->row)
        return false;
    for (unsigned k = 0; k < in->row->nr; k++)
        in->field[in->row->f[k].field] = in->w >> in->row->f[k].at & ((1u << in->row->f[k].width) - 1);
    in->kind = in->row->kind;
    if (!thumb)
        in->cond = in->w >> 28 == 15 ? 14 : (uint8_t)(in->w >> 28);
    return apply(in);
}
