/* Emitting IR: the block loop with conditions and IT blocks, access to registers, flow and system instructions. Integer
 * instructions are in xlat_int.c, loads and stores in xlat_mem.c, VFP and Advanced SIMD in xlat_vfp.c and xlat_simd.c.
 */
#include "base/util.h"
#include "guest/arm/xlat_int.h"

enum { OPS_PER_INSN = 300 }; /* most ops one instruction emits */

#define PIN(r, host)                                                                                                   \
    {                                                                                                                  \
        offsetof(struct arm_cpu, a.x) + 8 * (r), host, false                                                           \
    }
#define PINV(r, host)                                                                                                  \
    {                                                                                                                  \
        offsetof(struct arm_cpu, a.v) + 16 * (r), host, true                                                           \
    }
/* Four general and five vector registers stay free: divisions and instructions with two results (VUZP) need them. */
const struct ir_pin arm_pins[] = {PIN(13, JR_RBX), PIN(11, JR_RBP), PIN(14, JR_R12), PIN(0, JR_RSI), PIN(1, JR_RDI),
                                  PIN(2, JR_R8),   PIN(3, JR_R9),   PIN(4, JR_R10),  PIN(5, JR_R11), PIN(6, JR_R13),
                                  PIN(7, JR_R14),  PINV(0, 0),      PINV(1, 1),      PINV(2, 2),     PINV(3, 3),
                                  PINV(4, 4),      PINV(8, 5),      PINV(9, 6),      PINV(10, 7),    PINV(11, 8),
                                  PINV(12, 9),     PINV(13, 10)};
const unsigned arm_nr_pins = ARRAY_LEN(arm_pins);

/* ---- registers ---- */
void put_r(struct arm_xlat *x, unsigned r, ir_val v)
{
    struct ir *s = x->s;

    if (x->select)
        v = ir_fl_select(s, ir_fl_get(s), x->select_cond, v, ir_trunc(s, ir_get(s, IR_I64, AX_OFF(r))));
    ir_put(s, AX_OFF(r), ir_zext(s, v));
}

enum { IT_UNKNOWN = 256 };
/* ITSTATE where the code leaves. It is in the state only at exits: where something faults arm_it_at finds it again. */
void exit_it(struct arm_xlat *x, unsigned it)
{
    if (it == x->it_put)
        return;
    ir_put(x->s, AC_OFF(it), ir_c32(x->s, it));
    x->it_put = x->skipping ? IT_UNKNOWN : it; /* the block may go on: behind a side exit, or having skipped this */
}

/* Every exit that is not to the next instruction leaves an IT block. */
static void leave_it(struct arm_xlat *x, const struct arm_insn *i)
{
    exit_it(x, 0);
}

void put_pc_alu(struct arm_xlat *x, const struct arm_insn *i, ir_val v)
{
    struct ir *s = x->s;

    leave_it(x, i);
    if (i->thumb)
        ir_exit_ind(s, ir_zext(s, ir_bin_i(s, IR_OR, v, 1)));
    else
        put_pc_bx(x, v, i->kind == ARM_MOV && i->op2 == ARM_OP_SHIFTED && i->Rm == ARM_LR);
    x->ended = true;
}

void put_pc_bx(struct arm_xlat *x, ir_val v, bool ret)
{
    ir_val to = ir_zext(x->s, v);

    exit_it(x, 0);
    if (ret)
        ir_exit_ret(x->s, to);
    else
        ir_exit_ind(x->s, to);
    x->ended = true;
}

void put_alu(struct arm_xlat *x, const struct arm_insn *i, unsigned r, ir_val v)
{
    if (r == ARM_PC)
        put_pc_alu(x, i, v);
    else
        put_r(x, r, v);
}

bool leave(struct arm_xlat *x, const struct arm_insn *i, unsigned code)
{
    exit_it(x, i->it);
    ir_exit_code(x->s, code, (uint64_t)i->pc | i->thumb);
    x->ended = true;
    return true;
}

ir_val call1(struct arm_xlat *x, enum ir_type t, void *fn, ir_val a, ir_val b, ir_val c)
{
    return ir_call(x->s, t, IR_CALL_PURE, fn, a, b, c, IR_NO);
}

/* ---- flow ---- */
/* Neither reads the flags nor goes elsewhere. */
static bool harmless(const struct arm_insn *i)
{
    arm_gen_fn *g = i->row->gen;

    return g == gen_movw || g == gen_extend || g == gen_bfx || g == gen_bfi || g == gen_bits || g == gen_adr ||
           g == gen_mul || g == gen_ldrd || g == gen_pkh;
}

enum { FLAG_NZ = 1, FLAG_C = 2, FLAG_V = 4, FLAG_ALL = 7 };

static unsigned cond_reads(unsigned cond)
{
    static const uint8_t reads[] = {FLAG_NZ,          FLAG_C,           FLAG_NZ,          FLAG_V,
                                    FLAG_C | FLAG_NZ, FLAG_NZ | FLAG_V, FLAG_NZ | FLAG_V, 0};

    return reads[cond >> 1 & 7];
}

/* What a data-processing instruction reads, and sets. */
static unsigned dp_reads(const struct arm_insn *i)
{
    return i->kind == ARM_ADC || i->kind == ARM_SBC || i->kind == ARM_RSC || i->shift == ARM_SH_RRX ? FLAG_C : 0;
}

static unsigned dp_sets(const struct arm_insn *i)
{
    switch (i->kind) {
    case ARM_CMP:
    case ARM_CMN:
        return FLAG_ALL;
    case ARM_TST:
    case ARM_TEQ:
        return FLAG_NZ;
    case ARM_ADD:
    case ARM_SUB:
    case ARM_RSB:
    case ARM_ADC:
    case ARM_SBC:
    case ARM_RSC:
        return i->S ? FLAG_ALL : 0;
    default:
        return !i->S ? 0 : i->op2 == ARM_OP_SHIFTED && i->amount ? FLAG_NZ | FLAG_C : FLAG_NZ;
    }
}

/* Does the code at target write what is live of NZCV before anything reads it? Looks some instructions ahead within the
 * bytes at hand. */
static bool look_ahead(struct arm_xlat *x, uint32_t target, unsigned it, unsigned far, unsigned live)
{
    struct arm_insn i;

    for (; far && live; far--, target += i.len) {
        unsigned now = it;

        if (target < x->start || target + 4 > x->start + x->avail ||
            !arm_decode(&i, target, x->thumb, now, x->code + (target - x->start), 4))
            return false;
        x->seen_first = min_u64(x->seen_first, target);
        x->seen_last = max_u64(x->seen_last, target + i.len - 1);
        it = arm_it_next(now);
        if (i.cond != 14 && cond_reads(i.cond) & live)
            return false;
        if (i.row->gen == gen_it) {
            it = i.itbits;
        } else if (i.row->gen == gen_branch && (i.kind == ARM_B || (i.kind == ARM_BL && i.cond == 14))) {
            uint32_t to = arm_pc_read(&i) + i.imm;

            if (i.cond == 14)
                target = to - i.len;
            else if (far < 3 || !look_ahead(x, to, 0, far / 3, live))
                return false;
        } else if (i.row->gen == gen_cbz) {
            if (far < 3 || !look_ahead(x, arm_pc_read(&i) + i.imm, 0, far / 3, live))
                return false;
        } else if (i.row->gen == gen_dp) {
            if (dp_reads(&i) & live)
                return false;
            if (i.cond == 14)
                live &= ~dp_sets(&i);
            if (live && i.Rd == ARM_PC && dp_sets(&i) == 0)
                return false;
        } else if (i.row->gen == gen_ldm ? i.list >> ARM_PC : i.row->gen == gen_ldst ? i.Rt == ARM_PC : !harmless(&i)) {
            return false;
        }
    }
    return !live;
}

static bool flags_dead_from(struct arm_xlat *x, uint32_t target, unsigned it)
{
    x->seen_first = UINT64_MAX;
    x->seen_last = 0;
    if (!look_ahead(x, target, it, target <= x->pc ? 40 : 16, FLAG_ALL))
        return false;
    ir_peek(x->s, x->seen_first, x->seen_last);
    return true;
}

static bool flags_dead_at(struct arm_xlat *x, uint32_t target)
{
    return flags_dead_from(x, target, 0);
}

/* Under IT (a block that ends within its reach) an ADD sets nothing. */
static void exit_to(struct arm_xlat *x, uint32_t target, bool thumb)
{
    if (thumb == x->thumb && flags_dead_from(x, target, x->it))
        ir_flags_dead(x->s);
    ir_exit(x->s, (uint64_t)target | thumb);
    x->ended = true;
}

static bool branch_link(struct arm_xlat *x, const struct arm_insn *i, uint32_t target, bool thumb)
{
    struct ir *s = x->s;

    if (i->cond != 14)
        ir_exit_if_fl(s, ir_fl_get(s), i->cond ^ 1, arm_next(i));
    ir_put(s, AX_OFF(ARM_LR), ir_c64(s, arm_next(i)));
    if (thumb == x->thumb && flags_dead_at(x, target))
        ir_flags_dead(s);
    ir_exit_call(s, (uint64_t)target | thumb, arm_next(i));
    x->ended = true;
    return true;
}

bool gen_branch(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    uint32_t target = arm_pc_read(i) + i->imm;

    leave_it(x, i);
    if (i->kind == ARM_BLX)
        return branch_link(x, i, i->thumb ? target & ~3u : target, !i->thumb);
    if (i->kind == ARM_BL)
        return branch_link(x, i, target, i->thumb);
    if (i->cond != 14) {
        if (flags_dead_at(x, target))
            ir_flags_dead(s);
        ir_exit_if_fl(s, ir_fl_get(s), i->cond, (uint64_t)target | i->thumb);
    } else if (target > i->pc && target + 4 <= x->start + x->avail) { /* goes on there */
        x->pc = target;
        x->jumped = true;
    } else {
        exit_to(x, target, i->thumb);
    }
    return true;
}

bool gen_cbz(struct arm_xlat *x, const struct arm_insn *i)
{
    uint32_t target = arm_pc_read(i) + i->imm;

    if (i->it)
        return false;
    leave_it(x, i); /* the block may have begun within one */
    if (flags_dead_at(x, target))
        ir_flags_dead(x->s);
    ir_exit_if(x->s, i->kind == ARM_CBZ ? IR_EQ : IR_NE, get_r(x, i, i->Rn), ir_c32(x->s, 0), (uint64_t)target | 1);
    return true;
}

bool gen_bx(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val v = get_r(x, i, i->Rm);

    leave_it(x, i);
    if (i->kind == ARM_BLX) {
        ir_put(s, AX_OFF(ARM_LR), ir_c64(s, arm_next(i)));
        ir_exit_call_ind(s, ir_zext(s, v), arm_next(i));
        x->ended = true;
    } else {
        put_pc_bx(x, v, i->Rm == ARM_LR);
    }
    return true;
}

bool gen_tbb(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val base = i->Rn == ARM_PC ? ir_c64(s, arm_pc_read(i)) : get_a(x, i, i->Rn), index = get_a(x, i, i->Rm), v;

    if (i->H)
        index = ir_bin_i(s, IR_SHL, index, 1);
    v = ir_load(s, IR_I32, i->H ? IR_M16 : IR_M8, ir_bin(s, IR_ADD, base, index), 0);
    leave_it(x, i);
    v = ir_bin_i(s, IR_ADD, ir_bin_i(s, IR_SHL, v, 1), arm_pc_read(i) | 1);
    ir_exit_ind(s, ir_zext(s, v));
    x->ended = true;
    return true;
}

bool gen_it(struct arm_xlat *x, const struct arm_insn *i)
{
    if (i->it || i->itbits >> 4 == 15)
        return false;
    x->it = i->itbits;
    return true;
}

/* ---- system ---- */
bool gen_undef(struct arm_xlat *x, const struct arm_insn *i)
{
    return false;
}

bool gen_nop(struct arm_xlat *x, const struct arm_insn *i)
{
    return true;
}

bool gen_bkpt(struct arm_xlat *x, const struct arm_insn *i)
{
    return leave(x, i, ARM_EXIT_BKPT);
}

bool gen_svc(struct arm_xlat *x, const struct arm_insn *i)
{
    exit_it(x, arm_it_next(i->it));
    ir_exit_code(x->s, ARM_EXIT_SVC, arm_next(i));
    x->ended = true;
    return true;
}

static void fence(struct arm_xlat *x, unsigned opt)
{
    ir_emit(x->s, IR_FENCE, IR_VOID, (opt & 3) == 1 ? 0 : (opt & 3) == 2 ? 1 : 2, IR_NO, IR_NO, IR_NO, 0);
}

bool gen_barrier(struct arm_xlat *x, const struct arm_insn *i)
{
    if (i->kind == ARM_CLREX)
        ir_put(x->s, AC_OFF(a.ex_addr), ir_c64(x->s, UINT64_MAX));
    else if (i->kind != ARM_ISB)
        fence(x, i->opt);
    return true;
}

/* What programs may reach of CP15: the thread registers and the old barriers. */
bool gen_cp15(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    unsigned reg = i->opc1 << 12 | i->CRn << 8 | i->CRm << 4 | i->opc2;

    if (i->kind == ARM_MRC) {
        if ((reg != 0x0d03 && reg != 0x0d02) || i->Rt == ARM_PC)
            return false;
        put_r(x, i->Rt, ir_trunc(s, ir_get(s, IR_I64, reg == 0x0d03 ? AC_OFF(a.tpidrro) : AC_OFF(a.tpidr))));
        return true;
    }
    switch (reg) {
    case 0x0d02:
        ir_put(s, AC_OFF(a.tpidr), ir_zext(s, get_r(x, i, i->Rt)));
        return true;
    case 0x07a4: /* CP15DSB */
    case 0x07a5: /* CP15DMB */
        fence(x, 0);
        return true;
    case 0x0754: /* CP15ISB */
        return true;
    default:
        return false;
    }
}

bool gen_mrs(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val v = ir_un_t(s, IR_FL_TO_BITS, IR_I32, ir_fl_get(s));

    if (i->Rd == ARM_PC)
        return false;
    v = ir_bin(s, IR_OR, v, ir_bin_i(s, IR_SHL, ir_get(s, IR_I32, AC_OFF(q)), 27));
    v = ir_bin(s, IR_OR, v, ir_bin_i(s, IR_SHL, ir_get(s, IR_I32, AC_OFF(ge)), 16));
    put_r(x, i->Rd, ir_bin_i(s, IR_OR, v, ARM_PSR_USR));
    return true;
}

/* Programs can write the flags (mask bit 3) and GE (bit 2); the rest is ignored. */
bool gen_msr(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val v = i->row->form == ARM_FORM_MI ? ir_c32(s, i->imm) : get_r(x, i, i->Rn);

    if (i->mask & 8) {
        ir_fl_put(s, ir_fl(s, IR_FL_BITS, v, IR_NO, IR_NO));
        ir_put(s, AC_OFF(q), ir_ubfx(s, v, 27, 1));
    }
    if (i->mask & 4)
        ir_put(s, AC_OFF(ge), ir_ubfx(s, v, 16, 4));
    return true;
}

/* ---- the block ---- */
static bool own_condition(const struct arm_insn *i)
{
    return i->row->gen == gen_branch || i->row->gen == gen_it || i->row->gen == gen_nop || i->row->gen == gen_cbz;
}

/* Writes core registers (not PC) and nothing else, faults nowhere. */
static bool only_core(const struct arm_insn *i)
{
    arm_gen_fn *g = i->row->gen;

    if (g == gen_dp)
        return !i->S && i->Rd != ARM_PC && i->kind != ARM_TST && i->kind != ARM_TEQ && i->kind != ARM_CMP &&
               i->kind != ARM_CMN;
    return (g == gen_movw || g == gen_bits || g == gen_extend || g == gen_bfx || g == gen_bfi || g == gen_adr ||
            g == gen_pkh || g == gen_div || (g == gen_mul && !i->S));
}

/* May leave the block by itself, not by a fault. */
static bool leaves_itself(const struct arm_insn *i)
{
    arm_gen_fn *g = i->row->gen;

    return g == gen_ldrex || g == gen_ldst_ord || g == gen_swp || g == gen_vmsr;
}

/* CMP and CMN under a condition: the flags of the comparison, or those that are there. */
static bool cond_compare(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    ir_val b;

    if (i->row->gen != gen_dp || (i->kind != ARM_CMP && (i->kind != ARM_CMN || i->cond >> 1 == 4)))
        return false;
    b = operand2(x, i, NULL);
    ir_fl_put(s, ir_fl_cond_cmp(s, ir_fl_get(s), i->cond, i->kind == ARM_CMN, get_r(x, i, i->Rn), b));
    return true;
}

static void undefined(struct arm_xlat *x, const struct arm_insn *i)
{
    leave(x, i, i->len ? ARM_EXIT_UNDEF : ARM_EXIT_FETCH);
}

static void emit(struct arm_xlat *x, const struct arm_insn *i)
{
    struct ir *s = x->s;
    bool skip = i->cond < 14 && !own_condition(i);

    if (i->it && leaves_itself(i)) {
        exit_it(x, i->it);
        x->it_put = i->it;
    }
    x->select = skip && only_core(i);
    x->select_cond = i->cond;
    if (skip && cond_compare(x, i))
        return;
    x->skipping = skip && !x->select;
    if (x->skipping)
        ir_skip_if_fl(s, ir_fl_get(s), i->cond ^ 1);
    if (!i->row->gen(x, i))
        undefined(x, i);
    if (skip && !x->select) {
        ir_label(s);
        x->ended = false;
        x->fpflags = IR_NO;
    }
    x->select = false;
}

/* One instruction. False: not a byte of it is there. */
static bool one(struct arm_xlat *x)
{
    uint32_t off = x->pc - x->start;
    uint8_t both[4];
    const uint8_t *p = x->code + off;
    size_t n = x->avail - off;
    struct arm_insn i;
    unsigned it = x->it;

    if (n < 4 && x->more) { /* at most 4 bytes are looked at */
        memcpy(both, p, n);
        memcpy(both + n, x->more, 4 - n);
        p = both;
        n = 4;
    }
    ir_insn(x->s, (uint64_t)x->pc | x->thumb);
    x->jumped = false;
    if (!arm_decode(&i, x->pc, x->thumb, it, p, n)) {
        undefined(x, &i);
        x->pc += i.len ? i.len : 2;
        return true;
    }
    x->it = arm_it_next(it);
    emit(x, &i);
    if (!x->jumped)
        x->pc = i.pc + i.len;
    return true;
}

bool arm_translate(struct ir *s, uint64_t pc, unsigned mode, const uint8_t *code, size_t avail, const uint8_t *more,
                   unsigned max)
{
    bool thumb = pc & 1;
    uint32_t at = (uint32_t)pc & (thumb ? ~1u : ~3u), end = at;
    struct arm_xlat x = {.s = s,
                         .pc = at,
                         .start = at,
                         .code = code - ((uint32_t)(pc & ~UINT64_C(1)) - at),
                         .avail = avail,
                         .more = more,
                         .thumb = thumb,
                         .fp_special = mode & A64_MODE_FP,
                         .it = mode >> 8,
                         .it_put = mode >> 8,
                         .fpflags = IR_NO};
    unsigned n = 0, unit = thumb ? 2 : 4;

    if (avail < unit)
        return false;
    ir_begin(s, (uint64_t)at | thumb);
    while (!x.ended) {
        if (n == max || !ir_room(s, OPS_PER_INSN) || x.pc + unit > at + avail) {
            exit_it(&x, x.it);
            exit_to(&x, x.pc, thumb);
            break;
        }
        one(&x);
        if (!x.jumped && x.pc > end)
            end = x.pc;
        n++;
        if (ir_closed_loop(s))
            max = n;
    }
    return ir_finish(s, end > at + avail ? (uint32_t)avail : end - at);
}

unsigned arm_it_behind(uint32_t pc, unsigned it, const uint8_t *code)
{
    struct arm_insn i;

    arm_decode(&i, pc, true, it, code, 4);
    return i.row && i.row->gen == gen_it ? i.itbits : arm_it_next(it);
}
