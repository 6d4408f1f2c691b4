/* RISC-V integer instructions to IR. */
#include "guest/riscv/emit_int.h"

/* What compilers use most; the rest is context memory. */
const struct ir_pin rv_pins[] = {
    {RV_X(1), JR_RBX, false},  {RV_X(2), JR_RBP, false},  {RV_X(8), JR_R12, false}, {RV_X(9), JR_R13, false},
    {RV_X(10), JR_RDI, false}, {RV_X(11), JR_RSI, false}, {RV_X(12), JR_R8, false}, {RV_X(13), JR_R9, false},
    {RV_X(14), JR_R10, false}, {RV_X(15), JR_R14, false}, {RV_X(5), JR_R15, false}, {RV_F(10), 0, true},
    {RV_F(11), 1, true},       {RV_F(12), 2, true},       {RV_F(13), 3, true},      {RV_F(14), 4, true},
    {RV_F(15), 5, true},       {RV_F(0), 6, true},        {RV_F(1), 7, true},       {RV_F(8), 8, true},
    {RV_F(9), 9, true},        {RV_F(2), 10, true},       {RV_F(3), 11, true},
};
const unsigned rv_nr_pins = ARRAY_LEN(rv_pins);

static ir_val rs1(struct rv_emit *e)
{
    return rv_get(e, RV_RS1(e));
}
static ir_val rs2(struct rv_emit *e)
{
    return rv_get(e, RV_RS2(e));
}
static ir_val rs1w(struct rv_emit *e)
{
    return ir_trunc(e->s, rs1(e));
}
static ir_val rs2w(struct rv_emit *e)
{
    return ir_trunc(e->s, rs2(e));
}
static ir_val imm(struct rv_emit *e)
{
    return ir_c64(e->s, rv_imm_i(e));
}
static unsigned shamt(const struct rv_emit *e)
{
    return e->in >> 20 & 63;
}
static void put_bool(struct rv_emit *e, ir_val b)
{
    rv_put(e, ir_zext(e->s, b));
}
static void put_w(struct rv_emit *e, ir_val w)
{
    rv_put(e, ir_sext(e->s, w));
}
static void illegal(struct rv_emit *e)
{
    ir_exit_code(e->s, RV_CODE_ILLEGAL, e->pc);
    e->end = true;
}

/* --- Control --- */
static void jal(struct rv_emit *e)
{
    uint32_t i = e->in;
    uint64_t off =
        (uint64_t)((int64_t)(int32_t)(i & 0x80000000) >> 11 | (i & 0xff000) | (i >> 20 & 1) << 11 | (i >> 20 & 0x7fe));
    uint64_t to = e->pc + off;

    rv_put(e, ir_c64(e->s, e->next));
    if (RV_RD(e) == 1 || RV_RD(e) == 5)
        ir_exit_call(e->s, to, e->next);
    else
        ir_exit(e->s, to);
    e->end = true;
}

static bool is_link(unsigned r)
{
    return r == 1 || r == 5;
}

static void jalr(struct rv_emit *e)
{
    unsigned rd = RV_RD(e), r = RV_RS1(e);
    ir_val to;

    e->end = true;
    if (r && r == e->const_reg) { /* AUIPC + JALR: a far direct jump */
        uint64_t t = (e->const_val + (uint64_t)rv_imm_i(e)) & ~UINT64_C(1);

        rv_put(e, ir_c64(e->s, e->next));
        if (is_link(rd))
            ir_exit_call(e->s, t, e->next);
        else
            ir_exit(e->s, t);
        return;
    }
    to = ir_bin_i(e->s, IR_AND, ir_bin(e->s, IR_ADD, rs1(e), imm(e)), ~UINT64_C(1));
    rv_put(e, ir_c64(e->s, e->next));
    if (is_link(rd))
        ir_exit_call_ind(e->s, to, e->next);
    else if (is_link(r))
        ir_exit_ret(e->s, to);
    else
        ir_exit_ind(e->s, to);
}

static void branch(struct rv_emit *e)
{
    static const uint8_t cc[] = {IR_EQ, IR_NE, IR_LTS, IR_GES, IR_LTU, IR_GEU};
    uint32_t i = e->in;
    int64_t off = (int64_t)(int32_t)(i & 0x80000000) >> 19 | (i >> 7 & 1) << 11 | (i >> 20 & 0x7e0) | (i >> 7 & 0x1e);

    ir_exit_if(e->s, (enum ir_cond)cc[e->op - RV_BEQ], rs1(e), rs2(e), e->pc + (uint64_t)off);
}

/* --- Memory --- */
static void load(struct rv_emit *e)
{
    static const uint8_t mop[] = {
        IR_M8 | IR_MSIGN, IR_M16 | IR_MSIGN, IR_M32 | IR_MSIGN, IR_M64, IR_M8, IR_M16, IR_M32};

    rv_put(e, ir_load(e->s, IR_I64, mop[e->op - RV_LB], rs1(e), rv_imm_i(e)));
}

static void store(struct rv_emit *e)
{
    ir_store(e->s, (unsigned)(e->op - RV_SB), rs1(e), rv_imm_s(e), rs2(e));
}

static void load_reserved(struct rv_emit *e)
{
    ir_val a = rs1(e), v = ir_load(e->s, IR_I64, (e->op == RV_LR_W ? IR_M32 | IR_MSIGN : IR_M64) | IR_MALIGN, a, 0);

    ir_put(e->s, offsetof(struct rv_state, res_addr), a);
    ir_put(e->s, offsetof(struct rv_state, res_val), v);
    rv_put(e, v);
}

static void store_conditional(struct rv_emit *e)
{
    ir_val a = rs1(e), held = ir_cmp(e->s, IR_EQ, ir_get(e->s, IR_I64, offsetof(struct rv_state, res_addr)), a);
    ir_val ok = ir_cas_if(e->s, (e->op == RV_SC_W ? IR_M32 : IR_M64) | IR_MALIGN, a, held,
                          ir_get(e->s, IR_I64, offsetof(struct rv_state, res_val)), rs2(e));

    ir_put(e->s, offsetof(struct rv_state, res_addr), ir_c64(e->s, UINT64_MAX));
    put_bool(e, ir_bin_i(e->s, IR_XOR, ok, 1));
}

static void amo(struct rv_emit *e)
{
    static const uint8_t op[] = {IR_XCHG,       IR_FETCH_ADD,  IR_FETCH_XOR,  IR_FETCH_AND, IR_FETCH_OR,
                                 IR_FETCH_SMIN, IR_FETCH_SMAX, IR_FETCH_UMIN, IR_FETCH_UMAX};
    unsigned k = e->op - RV_AMOSWAP_W;
    ir_val v =
        ir_atomic(e->s, (enum ir_opcode)op[k / 2], IR_I64, (k & 1 ? IR_M64 : IR_M32) | IR_MALIGN, rs1(e), rs2(e));

    if (RV_RD(e))
        rv_put(e, k & 1 ? v : ir_sext(e->s, ir_trunc(e->s, v)));
}

/* --- Arithmetic --- */
static void op_imm(struct rv_emit *e)
{
    static const uint8_t op[] = {[RV_ADDI - RV_ADDI] = IR_ADD,
                                 [RV_XORI - RV_ADDI] = IR_XOR,
                                 [RV_ORI - RV_ADDI] = IR_OR,
                                 [RV_ANDI - RV_ADDI] = IR_AND};

    if (e->op == RV_SLTI || e->op == RV_SLTIU)
        put_bool(e, ir_cmp(e->s, e->op == RV_SLTI ? IR_LTS : IR_LTU, rs1(e), imm(e)));
    else
        rv_put(e, ir_bin(e->s, (enum ir_opcode)op[e->op - RV_ADDI], rs1(e), imm(e)));
}

static enum ir_opcode binary_op(enum rv_op op)
{
    switch (op) {
    case RV_ADD:
    case RV_ADDW:
    case RV_ADDIW:
        return IR_ADD;
    case RV_SUB:
    case RV_SUBW:
        return IR_SUB;
    case RV_SLL:
    case RV_SLLW:
    case RV_SLLI:
    case RV_SLLIW:
        return IR_SHL;
    case RV_SRL:
    case RV_SRLW:
    case RV_SRLI:
    case RV_SRLIW:
        return IR_SHR;
    case RV_SRA:
    case RV_SRAW:
    case RV_SRAI:
    case RV_SRAIW:
        return IR_SAR;
    case RV_ROR:
    case RV_RORW:
    case RV_RORI:
    case RV_RORIW:
        return IR_ROR;
    case RV_XOR:
        return IR_XOR;
    case RV_OR:
        return IR_OR;
    case RV_AND:
        return IR_AND;
    case RV_ANDN:
        return IR_ANDN;
    case RV_MUL:
    case RV_MULW:
        return IR_MUL;
    case RV_MULH:
        return IR_MULHS;
    case RV_MULHU:
        return IR_MULHU;
    case RV_MULHSU:
        return IR_MULHSU;
    default:
        return IR_NOP;
    }
}

static enum ir_opcode divide_op(enum rv_op op)
{
    switch (op) {
    case RV_DIV:
    case RV_DIVW:
        return IR_DIVS;
    case RV_DIVU:
    case RV_DIVUW:
        return IR_DIVU;
    case RV_REM:
    case RV_REMW:
        return IR_REMS;
    default:
        return IR_REMU;
    }
}

static enum ir_opcode unary_op(enum rv_op op)
{
    switch (op) {
    case RV_CLZ:
    case RV_CLZW:
        return IR_CLZ;
    case RV_CTZ:
    case RV_CTZW:
        return IR_CTZ;
    case RV_CPOP:
    case RV_CPOPW:
        return IR_POPCNT;
    case RV_ORC_B:
        return IR_ORCB;
    default:
        return IR_BSWAP;
    }
}

static void minmax(struct rv_emit *e)
{
    ir_val a = rs1(e), b = rs2(e);
    enum ir_cond cc = e->op == RV_MAX ? IR_GTS : e->op == RV_MAXU ? IR_GTU : e->op == RV_MIN ? IR_LTS : IR_LTU;

    rv_put(e, ir_select(e->s, ir_cmp(e->s, cc, a, b), a, b));
}

static void sh_add(struct rv_emit *e, unsigned n, bool uw)
{
    ir_val a = uw ? ir_zext(e->s, rs1w(e)) : rs1(e);

    rv_put(e, ir_bin(e->s, IR_ADD, rs2(e), n ? ir_bin_i(e->s, IR_SHL, a, n) : a));
}

/* Zbs; n: the bit number. */
static void single_bit(struct rv_emit *e, ir_val n)
{
    ir_val one = ir_bin(e->s, IR_SHL, ir_c64(e->s, 1), n), a = rs1(e);

    switch (e->op) {
    case RV_BCLR:
    case RV_BCLRI:
        rv_put(e, ir_bin(e->s, IR_ANDN, a, one));
        break;
    case RV_BINV:
    case RV_BINVI:
        rv_put(e, ir_bin(e->s, IR_XOR, a, one));
        break;
    case RV_BSET:
    case RV_BSETI:
        rv_put(e, ir_bin(e->s, IR_OR, a, one));
        break;
    default:
        rv_put(e, ir_bin_i(e->s, IR_AND, ir_bin(e->s, IR_SHR, a, n), 1));
        break;
    }
}

static void rotate_left(struct rv_emit *e)
{
    ir_val n = ir_un(e->s, IR_NEG, rs2(e));

    if (e->op == RV_ROL)
        rv_put(e, ir_bin(e->s, IR_ROR, rs1(e), n));
    else
        put_w(e, ir_bin(e->s, IR_ROR, rs1w(e), n));
}

static bool bitmanip(struct rv_emit *e)
{
    switch (e->op) {
    case RV_ADD_UW:
        sh_add(e, 0, true);
        return true;
    case RV_SH1ADD ... RV_SH3ADD:
        sh_add(e, e->op - RV_SH1ADD + 1u, false);
        return true;
    case RV_SH1ADD_UW ... RV_SH3ADD_UW:
        sh_add(e, e->op - RV_SH1ADD_UW + 1u, true);
        return true;
    case RV_SLLI_UW:
        rv_put(e, ir_bin_i(e->s, IR_SHL, ir_zext(e->s, rs1w(e)), shamt(e)));
        return true;
    case RV_ORN:
        rv_put(e, ir_bin(e->s, IR_OR, rs1(e), ir_un(e->s, IR_NOT, rs2(e))));
        return true;
    case RV_XNOR:
        rv_put(e, ir_un(e->s, IR_NOT, ir_bin(e->s, IR_XOR, rs1(e), rs2(e))));
        return true;
    case RV_SEXT_B:
        rv_put(e, ir_sbfx(e->s, rs1(e), 0, 8));
        return true;
    case RV_SEXT_H:
        rv_put(e, ir_sbfx(e->s, rs1(e), 0, 16));
        return true;
    case RV_ZEXT_H:
        rv_put(e, ir_ubfx(e->s, rs1(e), 0, 16));
        return true;
    case RV_CLZ ... RV_CPOP:
    case RV_ORC_B:
    case RV_REV8:
        rv_put(e, ir_un(e->s, unary_op(e->op), rs1(e)));
        return true;
    case RV_CLZW ... RV_CPOPW:
        put_bool(e, ir_un(e->s, unary_op(e->op), rs1w(e)));
        return true;
    case RV_MAX ... RV_MINU:
        minmax(e);
        return true;
    case RV_ROL:
    case RV_ROLW:
        rotate_left(e);
        return true;
    case RV_BCLR:
    case RV_BEXT:
    case RV_BINV:
    case RV_BSET:
        single_bit(e, rs2(e));
        return true;
    case RV_BCLRI:
    case RV_BEXTI:
    case RV_BINVI:
    case RV_BSETI:
        single_bit(e, ir_c64(e->s, shamt(e)));
        return true;
    case RV_CZERO_EQZ:
    case RV_CZERO_NEZ:
        rv_put(e, ir_select(e->s, ir_cmp(e->s, e->op == RV_CZERO_EQZ ? IR_EQ : IR_NE, rs2(e), ir_c64(e->s, 0)),
                            ir_c64(e->s, 0), rs1(e)));
        return true;
    default:
        return false;
    }
}

static void arithmetic(struct rv_emit *e)
{
    switch (e->op) {
    case RV_ADDI ... RV_ANDI:
        op_imm(e);
        break;
    case RV_SLLI ... RV_SRAI:
    case RV_RORI:
        rv_put(e, ir_bin_i(e->s, binary_op(e->op), rs1(e), shamt(e)));
        break;
    case RV_SLT:
    case RV_SLTU:
        put_bool(e, ir_cmp(e->s, e->op == RV_SLT ? IR_LTS : IR_LTU, rs1(e), rs2(e)));
        break;
    case RV_ADDIW:
        put_w(e, ir_bin_i(e->s, IR_ADD, rs1w(e), (uint64_t)rv_imm_i(e)));
        break;
    case RV_SLLIW ... RV_SRAIW:
    case RV_RORIW:
        put_w(e, ir_bin_i(e->s, binary_op(e->op), rs1w(e), shamt(e) & 31));
        break;
    case RV_ADDW ... RV_SRAW:
    case RV_MULW:
    case RV_RORW:
        put_w(e, ir_bin(e->s, binary_op(e->op), rs1w(e), rs2w(e)));
        break;
    case RV_DIV ... RV_REMU:
        rv_put(e, ir_bin_x(e->s, divide_op(e->op), IR_I64, IR_DIV0_ONES, rs1(e), rs2(e), 0));
        break;
    case RV_DIVW ... RV_REMUW:
        put_w(e, ir_bin_x(e->s, divide_op(e->op), IR_I32, IR_DIV0_ONES, rs1w(e), rs2w(e), 0));
        break;
    default:
        if (bitmanip(e))
            break;
        if (binary_op(e->op) == IR_NOP)
            illegal(e);
        else
            rv_put(e, ir_bin(e->s, binary_op(e->op), rs1(e), rs2(e)));
        break;
    }
}

static void fence(struct rv_emit *e)
{
    unsigned pred = e->in >> 24 & 15, succ = e->in >> 20 & 15;
    bool tso = e->in >> 28 == 8;

    ir_emit(e->s, IR_FENCE, IR_VOID, !tso && pred & 5 && succ & 10 ? 2 : 0, IR_NO, IR_NO, IR_NO, 0);
}

static void upper(struct rv_emit *e)
{
    uint64_t v = (uint64_t)(int64_t)(int32_t)(e->in & 0xfffff000) + (e->op == RV_AUIPC ? e->pc : 0);

    rv_put(e, ir_c64(e->s, v));
    e->const_reg = RV_RD(e);
    e->const_val = v;
}

static void emit(struct rv_emit *e)
{
    switch (e->op) {
    case RV_ILLEGAL:
        illegal(e);
        break;
    case RV_LUI:
    case RV_AUIPC:
        upper(e);
        return;
    case RV_JAL:
        jal(e);
        break;
    case RV_JALR:
        jalr(e);
        break;
    case RV_BEQ ... RV_BGEU:
        branch(e);
        break;
    case RV_LB ... RV_LWU:
        load(e);
        break;
    case RV_SB ... RV_SD:
        store(e);
        break;
    case RV_FENCE:
        fence(e);
        break;
    case RV_FENCE_I:
        ir_exit_code(e->s, RV_CODE_FENCE_I, e->next);
        e->end = true;
        break;
    case RV_ECALL:
        ir_exit_code(e->s, RV_CODE_ECALL, e->next);
        e->end = true;
        break;
    case RV_EBREAK:
        ir_exit_code(e->s, RV_CODE_EBREAK, e->pc);
        e->end = true;
        break;
    case RV_CSRRW ... RV_CSRRCI:
        if (!rv_emit_csr(e))
            illegal(e);
        break;
    case RV_LR_W:
    case RV_LR_D:
        load_reserved(e);
        break;
    case RV_SC_W:
    case RV_SC_D:
        store_conditional(e);
        break;
    case RV_AMOSWAP_W ... RV_AMOMAXU_D:
        amo(e);
        break;
    case RV_FLW ... RV_FCVT_F_LU:
        if (!rv_emit_fp(e))
            illegal(e);
        break;
    default:
        arithmetic(e);
        break;
    }
    e->const_reg = 0;
}

/* The instruction at offset at; its length, 0 = not all of it is there. */
static unsigned fetch(const uint8_t *code, size_t avail, const uint8_t *spill2, size_t at, uint32_t *insn)
{
    uint32_t lo;

    if (at + 2 > avail)
        return 0;
    lo = get_le16(code + at);
    if ((lo & 3) != 3) {
        *insn = rv_expand((uint16_t)lo);
        return 2;
    }
    if (at + 4 <= avail)
        *insn = get_le32(code + at);
    else if (spill2)
        *insn = lo | (uint32_t)get_le16(spill2) << 16;
    else
        return 0;
    return 4;
}

/* Does straight code from `at` on come to a branch back to the block's start soon? */
static bool closes_soon(const uint8_t *code, size_t at, size_t avail)
{
    for (unsigned n = 0; n < 56 && at + 4 <= avail; n++) {
        uint32_t i = get_le32(code + at);

        if ((i & 0x7f) == 0x63 && (int64_t)at + ((int64_t)(int32_t)(i & 0x80000000) >> 19 | (i >> 7 & 1) << 11 |
                                                 (i >> 20 & 0x7e0) | (i >> 7 & 0x1e)) ==
                                      0)
            return true;
        if ((i & 0x6f) == 0x67 || (i & 0x7f) == 0x6f || (i & 0xe003) == 0xa001 || (i & 0xf07f) == 0x8002)
            return false; /* JALR, JAL, C.J, C.JR */
        at += (i & 3) == 3 ? 4 : 2;
    }
    return false;
}

bool rv_translate(const struct rv_decoder *d, struct ir *ir, uint64_t pc, const uint8_t *code, size_t avail,
                  const uint8_t *spill2, unsigned max)
{
    struct rv_emit e = {.s = ir};
    size_t at = 0;
    unsigned n = 0, len;

    ir_begin(ir, pc);
    while (n < max && !e.end && ir_room(ir, 64) && at < avail) {
        len = fetch(code, avail, spill2, at, &e.in);
        if (!len)
            break;
        e.pc = pc + at;
        e.next = e.pc + len;
        e.op = rv_decode(d, e.in);
        ir_insn(ir, e.pc);
        emit(&e);
        at += len;
        n++;
        if (ir_closed_loop(ir))
            break;
        if (n == max && n == JIT_BLOCK_MAX_INSN && !e.end && closes_soon(code, at, avail))
            max = JIT_BLOCK_TOP_INSN;
    }
    if (!n)
        return false;
    if (!e.end)
        ir_exit(ir, pc + at);
    return ir_finish(ir, (uint32_t)at);
}
