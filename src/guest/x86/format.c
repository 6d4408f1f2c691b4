/* Intel-syntax text of a decoded instruction, close to what GNU objdump prints with -M intel.
 *
 * Left out: objdump's notes on redundant prefixes. */
#include "guest/x86/insn.h"
#include "guest/x86/ops.h"
#include <stdarg.h>
#include <stdio.h>

struct out {
    char *buf;
    size_t n, len;
};
static void PRINTF_FMT(2, 3) put(struct out *o, const char *fmt, ...)
{
    va_list ap;
    int k;

    if (o->len >= o->n)
        return;
    va_start(ap, fmt);
    k = vsnprintf(o->buf + o->len, o->n - o->len, fmt, ap);
    va_end(ap);
    if (k > 0)
        o->len = min_u64(o->n, o->len + (size_t)k);
}
static const char *const seg_names[8] = {"es", "cs", "ss", "ds", "fs", "gs", "?", "?"};

static void put_gpr(struct out *o, unsigned reg, unsigned size, bool high8)
{
    static const char *const low[8] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    static const char *const b8[8] = {"al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"};
    static const char *const h8[8] = {"", "", "", "", "ah", "ch", "dh", "bh"};

    if (reg >= 8)
        put(o, "r%u%s", reg, size == 8 ? "" : size == 4 ? "d" : size == 2 ? "w" : "b");
    else if (size == 1)
        put(o, "%s", high8 ? h8[reg] : b8[reg]);
    else
        put(o, "%s%s", size == 8 ? "r" : size == 4 ? "e" : "", low[reg]);
}
static const char *mem_ptr(unsigned size)
{
    switch (size) {
    case 1:
        return "BYTE PTR ";
    case 2:
        return "WORD PTR ";
    case 4:
        return "DWORD PTR ";
    case 6:
        return "FWORD PTR ";
    case 8:
        return "QWORD PTR ";
    case 10:
        return "TBYTE PTR ";
    case 16:
        return "XMMWORD PTR ";
    case 32:
        return "YMMWORD PTR ";
    case 64:
        return "ZMMWORD PTR ";
    default:
        return "";
    }
}
static void put_vec(struct out *o, unsigned reg, unsigned size)
{
    put(o, "%cmm%u", size == 64 ? 'z' : size == 32 ? 'y' : 'x', reg);
}
/* The index register of VSIB: half width when indices are narrower than elements. */
static unsigned vsib_size(const struct x86_insn *in)
{
    bool dword_index = !(in->opcode & 1), qword_elem = in->mem_size == 8;

    return !dword_index || !qword_elem ? in->vl : in->vl == 64 ? 32 : 16;
}
static void put_disp(struct out *o, int64_t disp, bool first, unsigned adsz)
{
    uint64_t mask = adsz == 8 ? ~UINT64_C(0) : (UINT64_C(1) << (adsz * 8)) - 1;

    if (first)
        put(o, "0x%" PRIx64, (uint64_t)disp & mask);
    else if (disp < 0)
        put(o, "-0x%" PRIx64, -(uint64_t)disp);
    else
        put(o, "+0x%" PRIx64, (uint64_t)disp);
}
static void put_mem(struct out *o, const struct x86_insn *in, const struct x86_operand *op, uint64_t pc)
{
    uint8_t base = op->reg != X86_NO_REG ? op->reg : in->base;
    uint8_t seg = op->reg == X86_RDI && (in->row->attr & X86_A_STRING) ? X86_ES : in->seg;
    bool bare = base == X86_NO_REG && in->index == X86_NO_REG;

    if (in->evex_b)
        put(o, "%s BCST ", op->size == 8 ? "QWORD" : "DWORD");
    else
        put(o, "%s", op->size == 16 && in->op == X86_I_CMPXCHG16B ? "XMMWORD PTR " : mem_ptr(op->size));
    if (in->seg_override || bare || (in->row->attr & X86_A_STRING))
        put(o, "%s:", seg_names[seg & 7]);
    if (bare) {
        put_disp(o, in->disp, true, in->adsz);
        return;
    }
    put(o, "[");
    if (base == X86_REG_RIP)
        put(o, "%s", in->adsz == 8 ? "rip" : "eip");
    else if (base != X86_NO_REG)
        put_gpr(o, base, in->adsz, false);
    if (op->reg == X86_NO_REG && in->index != X86_NO_REG) {
        put(o, "%s", base != X86_NO_REG ? "+" : "");
        if (in->row->attr & X86_A_VSIB)
            put_vec(o, in->index, vsib_size(in));
        else
            put_gpr(o, in->index, in->adsz, false);
        if (in->adsz != 2)
            put(o, "*%u", in->scale);
    }
    if (in->disp_len && op->reg == X86_NO_REG)
        put_disp(o, in->disp, false, in->adsz);
    put(o, "]");
    if (base == X86_REG_RIP)
        put(o, "        # 0x%" PRIx64, pc + in->len + (uint64_t)in->disp);
}
static void put_operand(struct out *o, const struct x86_insn *in, unsigned i, uint64_t pc)
{
    const struct x86_operand *op = &in->ops[i];

    switch (op->kind) {
    case X86_OP_GPR:
        put_gpr(o, op->reg, op->size, op->high8);
        break;
    case X86_OP_MEM:
        put_mem(o, in, op, pc);
        break;
    case X86_OP_IMM: {
        uint64_t v = i && in->ops[i - 1].kind == X86_OP_IMM ? in->imm2 : in->imm;
        unsigned s = in->ops[0].kind == X86_OP_GPR || in->ops[0].kind == X86_OP_MEM ? in->ops[0].size : 8;

        if (in->op == X86_I_PUSH)
            s = in->opsz;
        put(o, "0x%" PRIx64, s && s < 8 ? v & ((UINT64_C(1) << (s * 8)) - 1) : v);
        break;
    }
    case X86_OP_REL: {
        uint64_t t = pc + in->len + in->imm;

        put(o, "0x%" PRIx64, in->opsz == 8 ? t : in->opsz == 4 ? (uint32_t)t : (uint16_t)t);
        break;
    }
    case X86_OP_SEG:
        put(o, "%s", seg_names[op->reg & 7]);
        break;
    case X86_OP_CR:
        put(o, "cr%u", op->reg);
        break;
    case X86_OP_DR:
        put(o, "dr%u", op->reg);
        break;
    case X86_OP_XMM:
        put_vec(o, op->reg, op->size);
        break;
    case X86_OP_MM:
        put(o, "mm%u", op->reg);
        break;
    case X86_OP_ST:
        put(o, op->reg || op->where == X86_IN_RM ? "st(%u)" : "st", op->reg);
        break;
    case X86_OP_K:
        put(o, "k%u", op->reg);
        break;
    case X86_OP_FAR:
        put(o, "0x%" PRIx64 ":0x%" PRIx64, in->imm2, in->imm);
        break;
    }
}
/* What an EVEX prefix adds to an operand: the mask to the first, rounding to the last register, and how often an
 * element is repeated where the registers do not tell. */
static void put_evex(struct out *o, const struct x86_insn *in, unsigned i)
{
    static const char *const round[] = {"rn-sae", "rd-sae", "ru-sae", "rz-sae"};
    bool last = i + 1u == in->nr_ops || in->ops[i + 1].kind == X86_OP_IMM;

    if (i == 0 && in->evex_aaa)
        put(o, "{k%u}%s", in->evex_aaa, in->evex_z ? "{z}" : "");
    if (!in->evex_b || !last || in->ops[i].kind == X86_OP_IMM)
        return;
    if (in->mem_op < 0)
        put(o, "{%s}", in->row->attr & X86_A_ROUNDS ? round[in->evex_ll & 3] : "sae");
    else if (in->nr_ops - (in->imm_len != 0) == 2 &&
             (in->ops[0].kind == X86_OP_K || (in->vl < 64 && strncmp(in->row->mnem, "vcvt", 4) == 0)))
        put(o, "{1to%u}", in->mask_nr);
}
/* Names that depend on the operand or address size. */
static const char *sized_mnem(const struct x86_insn *in)
{
    unsigned i = in->opsz == 8 ? 2 : in->opsz == 4 ? 1 : 0, a = in->adsz == 8 ? 2 : in->adsz == 4 ? 1 : 0;
    static const char *const cbw[] = {"cbw", "cwde", "cdqe"}, *const cwd[] = {"cwd", "cdq", "cqo"},
                             *const jcxz[] = {"jcxz", "jecxz", "jrcxz"}, *const iret[] = {"iretw", "iretd", "iretq"};

    switch (in->op) {
    case X86_I_CBW:
        return cbw[i];
    case X86_I_CWD:
        return cwd[i];
    case X86_I_JCXZ:
        return jcxz[a];
    case X86_I_IRET:
        return iret[i];
    default:
        return in->row->mnem;
    }
}

char *x86_format(const struct x86_insn *in, uint64_t pc, char *buf, size_t n)
{
    struct out o = {.buf = buf, .n = n};

    if (n)
        buf[0] = 0;
    if (!in->row) {
        put(&o, "(bad)");
        return buf;
    }
    if (in->lock)
        put(&o, "lock ");
    if (in->rep && (in->row->attr & X86_A_REP)) {
        bool cond = in->op == X86_I_CMPS || in->op == X86_I_SCAS;

        put(&o, "%s ", in->rep == 0xf2 ? "repnz" : cond ? "repz" : "rep");
    }
    put(&o, "%s", sized_mnem(in));
    for (unsigned i = 0; i < in->nr_ops; i++) {
        put(&o, i ? "," : " ");
        put_operand(&o, in, i, pc);
        if (in->enc == X86_ENC_EVEX)
            put_evex(&o, in, i);
    }
    return buf;
}
