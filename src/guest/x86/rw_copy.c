/* Rewriter: the same instruction with host registers, and the stack instructions. */
#include "guest/x86/ops.h"
#include "guest/x86/rw_int.h"
#include "guest/x86/simd_int.h"

static bool is_modrm_mem(const struct x86_insn *in)
{
    return in->has_modrm && (in->modrm >> 6) != 3;
}

/* System instructions of the 0F map that must never reach the host as they are. */
static bool forbidden_0f(const struct x86_insn *in, bool flat)
{
    unsigned op = in->opcode, reg = in->modrm >> 3 & 7;

    if (op <= 0x0b && op != 0x0d)
        return true;
    switch (op) {
    case 0x20 ... 0x23:
    case 0x30 ... 0x37:
    case 0xa2:
    case 0xaa:
        return true;
    case 0xae: /* register forms: fences pass, RDFSBASE family does not; memory forms: (V)LDMXCSR, (V)STMXCSR only */
        return is_modrm_mem(in) ? reg != 2 && reg != 3 : in->pp != 0;
    case 0xc7: /* CMPXCHG8B/16B, RDRAND, RDSEED; RDPID is refused elsewhere where it must be */
        return is_modrm_mem(in) ? reg != 1 : in->pp >= 2 && in->op != X86_I_RDPID;
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb: /* the register offset moves the address */
        return is_modrm_mem(in) && !flat;
    default:
        return false;
    }
}

static bool modes_allow(const struct rw *r, const struct x86_insn *in)
{
    uint32_t a = in->row->attr;
    unsigned m = r->env->mode;

    if (a & (X86_A_FPU | X86_A_MMX) && !(m & X86_RWM_FPU))
        return false;
    if (a & X86_A_SSE && !(m & X86_RWM_SSE))
        return false;
    if (a & X86_A_AVX512)
        return m & X86_RWM_AVX512;
    return !(a & X86_A_AVX) || m & X86_RWM_AVX;
}

static bool is_nop(const struct x86_insn *in)
{
    return (in->row->attr & X86_A_NOP_MEM) && !(in->map == X86_MAP_1 && in->opcode == 0x8d);
}

static bool is_lea(const struct x86_insn *in)
{
    return in->map == X86_MAP_1 && in->opcode == 0x8d && in->enc == X86_ENC_LEGACY;
}

static bool is_cld(const struct x86_insn *in)
{
    return in->map == X86_MAP_1 && in->opcode == 0xfc;
}

static bool is_spilled(const struct rw *r, int guest)
{
    return guest >= 0 && guest < 16 && rw_at(r, (unsigned)guest) & SPILLED;
}

static void note_spilled(const struct rw *r, struct rw_gprs *g)
{
    unsigned homes = 0;

    for (unsigned i = 0; i < 4; i++) {
        int n = i == 0 ? g->reg : i == 1 ? g->rm : i == 2 ? g->vvvv : g->opc;

        if (is_spilled(r, n))
            homes |= 1u << (n - 9);
    }
    g->spilled = (uint8_t)((homes & 1) + (homes >> 1 & 1) + (homes >> 2) + (g->high >= 0));
}

static bool find_operands(const struct x86_insn *in, struct rw_gprs *g)
{
    *g = (struct rw_gprs){.reg = -1, .rm = -1, .vvvv = -1, .opc = -1, .high = -1};
    for (unsigned i = 0; i < in->nr_ops; i++) {
        const struct x86_operand *o = &in->ops[i];
        bool w = o->acc & X86_ACC_W;

        switch (o->kind) {
        case X86_OP_MEM:
        case X86_OP_IMM:
        case X86_OP_XMM:
        case X86_OP_MM:
        case X86_OP_ST:
        case X86_OP_K:
        case X86_OP_NONE:
            continue;
        case X86_OP_GPR:
            break;
        default:
            return false;
        }
        if (o->high8) { /* AH..BH keep their place: encoded as they are */
            g->high8 = true;
            if (in->mem_op >= 0 && o->where == X86_IN_REG) {
                g->high = o->reg & 3;
                g->w_reg = w;
            }
            continue;
        }
        g->low8 |= o->size == 1 && !o->high8 && o->reg >= 4 && o->reg < 8 && o->where != X86_IN_NONE;
        switch (o->where) {
        case X86_IN_REG:
            g->reg = o->reg;
            g->w_reg = w;
            break;
        case X86_IN_RM:
            g->rm = o->reg;
            g->w_rm = w;
            break;
        case X86_IN_VVVV:
            g->vvvv = o->reg;
            g->w_vvvv = w;
            break;
        case X86_IN_OPC:
            g->opc = o->reg;
            g->w_opc = w;
            break;
        default:
            if (o->reg >= 8 ||
                o->reg == X86_RSP) /* implicit operands are RAX, RCX, RDX ... : they stand for themselves */
                return false;
        }
    }
    return true;
}

static bool find_gprs(const struct rw *r, const struct x86_insn *in, struct rw_gprs *g)
{
    bool fits = find_operands(in, g);

    note_spilled(r, g);
    return fits;
}

static bool high8_fits(const struct x86_insn *in, const struct rw_gprs *g)
{
    if (!g->high8)
        return true;
    if (in->mem_op >= 0)
        return in->nr_ops <= 2 + (in->ops[in->nr_ops - 1].kind == X86_OP_IMM) && g->high >= 0;
    if (g->low8)
        return false;
    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->ops[i].kind == X86_OP_GPR && !in->ops[i].high8 && in->ops[i].where != X86_IN_NONE &&
            rw_map(in->ops[i].reg) >= 8)
            return false;
    return true;
}

/* BT, BTS, BTR, BTC with a register offset: the operand lies (offset / size) elements away from the address. */
static bool is_bit_string(const struct rw *r, const struct x86_insn *in)
{
    return r->m64 && !r->flat && in->map == X86_MAP_0F && in->enc == X86_ENC_LEGACY && (in->opcode & 0xe7) == 0xa3 &&
           is_modrm_mem(in) && in->opsz >= 4 && in->adsz == 8 && rw_mem_ok(r, in);
}

static bool is_gather(const struct x86_insn *in)
{
    return in->row->attr & X86_A_VSIB;
}

/* Does it stand for itself to the last byte? Its registers are the host's own, and its address, if it forms one, needs
 * no check. */
static bool is_maskmov(const struct x86_insn *in) /* MASKMOVQ, MASKMOVDQU: implicit [rDI] */
{
    return in->enc == X86_ENC_LEGACY && in->map == X86_MAP_0F && in->opcode == 0xf7;
}

bool rw_find_as_it_is(const struct rw *r, const struct x86_insn *in, const struct rw_gprs *g)
{
    bool forms = is_modrm_mem(in);

    if (!r->m64 || g->spilled || in->rep == 0xf2 || in->seg_override || in->adsize_pfx || is_cld(in) || is_nop(in) ||
        g->reg == X86_RSP || g->rm == X86_RSP || g->vvvv == X86_RSP || g->opc == X86_RSP)
        return false;
    if (in->mem_op >= 0 && ((!forms && !is_maskmov(in)) || (!r->flat && !is_lea(in))))
        return false;
    if (forms && (in->base == X86_RSP || in->base == X86_REG_RIP || is_spilled(r, in->base)))
        return false;
    return !forms || is_gather(in) || !is_spilled(r, in->index);
}

bool rw_find_can_copy(const struct rw *r, const struct x86_insn *in, struct rw_gprs *g)
{
    bool fits = find_gprs(r, in, g);
    uint32_t a = in->row->attr;

    if (r->flat && in->op == X86_I_RDPID)
        a &= ~(uint32_t)X86_A_SYS;
    if (a & (X86_A_SYS | X86_A_PRIV | X86_A_IO | X86_A_STRING | X86_A_ENDS | X86_A_STACK))
        return false;
    if (!x86_insn_offered(r->env->feat, in) || !modes_allow(r, in))
        return false;
    if ((a & X86_A_NO64) &&
        !(in->map == X86_MAP_1 && ((in->opcode >= 0x40 && in->opcode < 0x50) || in->opcode == 0x82)))
        return false;
    if (in->lock && !(a & X86_A_LOCK))
        return false;
    if (is_cld(in) || is_nop(in))
        return true;
    if (in->row->flags_w & X86_DF || in->row->flags_r & X86_DF)
        return false;
    if (is_bit_string(r, in))
        return true;
    if (in->map == X86_MAP_0F && in->enc == X86_ENC_LEGACY && forbidden_0f(in, r->flat))
        return false;
    if (in->enc == X86_ENC_VEX && in->map == X86_MAP_0F && in->opcode == 0xf7 && in->pp == 1) /* VMASKMOVDQU */
        return false;
    if (in->enc == X86_ENC_VEX && in->map == X86_MAP_0F && in->opcode == 0x77 &&
        !r->m64) /* VZERO*: eight registers only */
        return false;
    if (is_maskmov(in))
        return r->flat && rw_find_as_it_is(r, in, g);
    if (in->map == X86_MAP_1 && in->opcode == 0xd7) /* XLAT */
        return false;
    if (!fits || !high8_fits(in, g))
        return false;
    if (is_gather(in)) /* many addresses: only where none is checked, and by its very bytes */
        return r->flat && rw_find_as_it_is(r, in, g);
    if (in->map == X86_MAP_1 && in->opcode == 0x8d)
        return in->adsz != 2;
    if (in->mem_op >= 0)
        return rw_mem_ok(r, in) && in->mem_size >= 1 && in->mem_size <= 64 && g->spilled <= 1;
    return g->spilled <= 2;
}

/* ---- emission ---- */

struct host_regs { /* host numbers of the fields; -1: the field is not a GPR */
    int reg, rm, vvvv, opc;
};

static int place(struct rw *r, int guest, bool load, unsigned *scratch, unsigned *nr, int *prev, unsigned *prev_home)
{
    unsigned m;

    if (guest < 0)
        return -1;
    m = rw_at(r, (unsigned)guest);
    if (!(m & SPILLED))
        return (int)m;
    for (unsigned i = 0; i < *nr; i++)
        if (prev_home[i] == m)
            return prev[i];
    prev[*nr] = (int)scratch[*nr];
    prev_home[*nr] = m;
    if (load)
        rw_load_home(r, scratch[*nr], m);
    return prev[(*nr)++];
}

static unsigned opcode_of(const struct x86_insn *in, const struct host_regs *h)
{
    if (in->map == X86_MAP_1 && in->opcode == 0x82)
        return 0x80;
    if (in->map == X86_MAP_1 && in->opcode >= 0xa0 && in->opcode <= 0xa3)
        return (unsigned[]){0x8a, 0x8b, 0x88, 0x89}[in->opcode - 0xa0];
    if (h->opc >= 0)
        return (in->opcode & 0xf8u) | ((unsigned)h->opc & 7);
    return in->opcode;
}

/* VEX.L of the instructions on masks says how many operands they have. */
static bool vex_l(const struct x86_insn *in)
{
    return in->row->attr & X86_A_AVX512 ? in->bytes[in->off_opcode - 1] & 4 : in->vl == 32;
}

/* The encoding up to and with the opcode; returns where it ends. */
static uint8_t *put_vex(const struct rw *r, uint8_t *p, const struct x86_insn *in, const struct host_regs *h,
                        unsigned xb, unsigned reg)
{
    unsigned v = h->vvvv >= 0 ? (unsigned)h->vvvv : 0;

    if (h->vvvv < 0)
        for (unsigned i = 0; i < in->nr_ops; i++)
            if (in->ops[i].where == X86_IN_VVVV)
                v = in->ops[i].reg;
    if (r->a32)
        *p++ = 0x67;
    *p++ = 0xc4;
    *p++ = (uint8_t)((reg & 8 ? 0u : 0x80u) | (xb & 2 ? 0u : 0x40u) | (xb & 1 ? 0u : 0x20u) | in->map);
    *p++ = (uint8_t)((x86_vex_w_host(in) ? 0x80u : 0u) | (~v & 15) << 3 | (vex_l(in) ? 4u : 0u) | in->pp);
    *p++ = in->opcode;
    return p;
}

/* What is no general register keeps its number; outside 64-bit mode the bits for more than eight are ignored, but the
 * host does not. */
static uint8_t *put_evex(const struct rw *r, uint8_t *p, const struct x86_insn *in, const struct host_regs *h, bool mem,
                         unsigned xb)
{
    const uint8_t *from = in->bytes + in->off_opcode - 4;
    uint8_t p0 = from[1], p1 = from[2], p2 = from[3];

    if (!r->m64) {
        p0 |= 0xf0;
        p1 = (uint8_t)((p1 & 0x7f) | (x86_vex_w_host(in) ? 0xc0 : 0x40));
        p2 |= 8;
    }
    if (mem)
        p0 = (uint8_t)((p0 & ~0x60) | (xb & 2 ? 0 : 0x40) | (xb & 1 ? 0 : 0x20));
    else if (h->rm >= 0)
        p0 = (uint8_t)((p0 & ~0x20) | 0x40 | (h->rm & 8 ? 0 : 0x20));
    if (h->reg >= 0)
        p0 = (uint8_t)((p0 & ~0x80) | 0x10 | (h->reg & 8 ? 0 : 0x80));
    if (r->a32)
        *p++ = 0x67;
    *p++ = 0x62;
    *p++ = p0;
    *p++ = p1;
    *p++ = p2;
    *p++ = in->opcode;
    return p;
}

static uint8_t *put_legacy(const struct rw *r, uint8_t *p, const struct x86_insn *in, const struct host_regs *h,
                           unsigned xb, unsigned reg, bool force)
{
    unsigned rex = (in->rex & 8u) | (reg & 8 ? 4u : 0u) | xb | (h->opc >= 8 ? 1u : 0u);

    if (r->a32)
        *p++ = 0x67;
    if (in->lock)
        *p++ = 0xf0;
    if (in->opsize_pfx || in->pp == 1)
        *p++ = 0x66;
    if (in->pp >= 2 || in->rep == 0xf3)
        *p++ = in->pp == 3 ? 0xf2 : 0xf3;
    if (rex || force)
        *p++ = (uint8_t)(0x40 | rex);
    if (in->map != X86_MAP_1)
        *p++ = 0x0f;
    if (in->map == X86_MAP_0F38)
        *p++ = 0x38;
    if (in->map == X86_MAP_0F3A)
        *p++ = 0x3a;
    *p++ = (uint8_t)opcode_of(in, h);
    return p;
}

static void emit_imm(struct rw *r, const struct x86_insn *in)
{
    unsigned tail = in->has_modrm ? in->off_modrm + 1u + in->has_sib + in->disp_len : in->off_opcode + 1u;

    if (tail >= in->len || (!in->has_modrm && in->map == X86_MAP_1 && in->opcode >= 0xa0 && in->opcode <= 0xa3))
        return;
    if (in->nr_ops && in->ops[in->nr_ops - 1].where == X86_IN_IS4) { /* bit 7 counts in 64-bit mode only */
        jit_8(r->b, (in->bytes[tail] & 15u) | (unsigned)in->ops[in->nr_ops - 1].reg << 4);
        return;
    }
    if (jit_room(r->b))
        for (unsigned i = tail; i < in->len; i++)
            *r->b->p++ = in->bytes[i];
}

/* The register number in modrm.reg when it is not a GPR: extension digit, XMM, MM ... */
static unsigned raw_reg(const struct x86_insn *in)
{
    return (in->modrm >> 3 & 7u) | (in->rex & 4 ? 8u : 0u);
}

static void emit(struct rw *r, const struct x86_insn *in, const struct host_regs *h, const struct jit_mem *m,
                 bool force)
{
    unsigned reg = h->reg >= 0 ? (unsigned)h->reg : in->has_modrm ? raw_reg(in) : 0;
    unsigned rm = h->rm >= 0 ? (unsigned)h->rm : (in->modrm & 7u) | (in->rex & 1 ? 8u : 0u);
    unsigned xb = m ? (m->index != JR_NONE && m->index & 8 ? 2u : 0u) | (m->base != JR_NONE && m->base & 8 ? 1u : 0u)
                  : rm & 8 ? 1u
                           : 0u;
    bool short_inc = in->map == X86_MAP_1 && (in->opcode & 0xf0) == 0x40 && in->enc == X86_ENC_LEGACY && !r->m64;
    uint8_t *p = r->b->p;

    if (short_inc) { /* 40..4F: INC and DEC have only the long form here */
        if (in->opsize_pfx)
            jit_8(r->b, 0x66);
        if (h->opc & 8)
            jit_8(r->b, 0x41);
        jit_8(r->b, 0xff);
        jit_8(r->b, 0xc0 | (in->opcode & 8) | ((unsigned)h->opc & 7));
        return;
    }
    if (!jit_room(r->b))
        return;
    if (m && m->gs)
        *p++ = 0x65;
    if (in->enc == X86_ENC_VEX)
        p = put_vex(r, p, in, h, xb, reg);
    else if (in->enc == X86_ENC_EVEX)
        p = put_evex(r, p, in, h, m, xb);
    else
        p = put_legacy(r, p, in, h, in->has_modrm || m ? xb : 0, reg, force);
    if (!m && in->has_modrm)
        *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    r->b->p = p;
    if (m && in->enc == X86_ENC_EVEX)
        jit_modrm_mem32(r->b, reg, *m); /* 8 bits would count elements */
    else if (m)
        jit_modrm_mem(r->b, reg, *m);
    emit_imm(r, in);
}

/* both: the other scratch register waits for its turn. */
static void write_back(struct rw *r, int guest, bool written, int host, bool both)
{
    unsigned m;

    if (guest < 0 || !written)
        return;
    m = rw_at(r, (unsigned)guest);
    if (m & SPILLED && both)
        jit_store(r->b, rw_home(r, m), (unsigned)host);
    else if (m & SPILLED)
        rw_store_home(r, m, (unsigned)host);
}

/* Instructions whose register form does to memory what it does to a register: nothing is implied, nothing locked. */
static bool takes_memory(const struct x86_insn *in)
{
    switch (in->op) {
    case X86_I_MOV:
    case X86_I_ADD ... X86_I_CMP:
    case X86_I_TEST:
    case X86_I_INC:
    case X86_I_DEC:
    case X86_I_NOT:
    case X86_I_NEG:
    case X86_I_ROL ... X86_I_SAR:
    case X86_I_IMUL:
    case X86_I_IMUL3:
    case X86_I_MOVZX:
    case X86_I_MOVSX:
    case X86_I_MOVSXD:
    case X86_I_SETCC:
    case X86_I_CMOVCC:
    case X86_I_POPCNT:
        return in->has_modrm && (in->modrm >> 6) == 3 && in->enc == X86_ENC_LEGACY;
    default:
        return false;
    }
}

/* Has it a twin with the operands' fields exchanged? `by` is what the opcodes differ in. */
static bool has_twin(const struct x86_insn *in, unsigned *by)
{
    *by = in->op == X86_I_TEST ? 0 : 2;
    if (in->map != X86_MAP_1)
        return false;
    return (in->opcode & 0xfe) == 0x84 || (in->opcode & 0xfc) == 0x88 || (in->opcode & 0xc4) == 0;
}

static const struct x86_operand *operand_in(const struct x86_insn *in, unsigned where)
{
    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->ops[i].where == where)
            return &in->ops[i];
    return &in->ops[0];
}

/* A spilled register as the memory operand it is: four bytes may be read, but as a result they clear the others. */
static bool in_its_home(const struct rw *r, const struct x86_insn *in, int guest, bool written, unsigned where)
{
    return is_spilled(r, guest) && (!written || operand_in(in, where)->size != 4);
}

/* A register form with a spilled register, which is used where it lies; another one goes through
 * tmp. */
static bool copy_in_home(struct rw *r, const struct x86_insn *in, const struct rw_gprs *g, unsigned tmp)
{
    unsigned by = 0;
    struct host_regs h = {-1, -1, -1, -1};
    struct x86_insn twin = *in;
    int mem = g->rm, other = g->reg;
    bool other_w = g->w_reg;
    struct jit_mem m;

    if (!takes_memory(in) || g->high8 || g->rm < 0 || g->rm == g->reg)
        return false;
    if (!in_its_home(r, in, g->rm, g->w_rm, X86_IN_RM)) {
        if (!in_its_home(r, in, g->reg, g->w_reg, X86_IN_REG) || !has_twin(in, &by))
            return false;
        mem = g->reg;
        other = g->rm;
        other_w = g->w_rm;
        twin.opcode ^= (uint8_t)by;
    }
    m = (mem == g->rm ? g->w_rm : g->w_reg) ? rw_home_to(r, rw_at(r, (unsigned)mem))
                                            : rw_home(r, rw_at(r, (unsigned)mem));
    if (other >= 0) {
        unsigned o = rw_at(r, (unsigned)other);

        h.reg = (int)(o & SPILLED ? tmp : o);
        if (o & SPILLED)
            rw_load_home(r, tmp, o);
        if (o & SPILLED && tmp == T1)
            r->t1 = 0;
    }
    emit(r, &twin, &h, &m, g->low8);
    write_back(r, other, other_w, h.reg, false);
    return true;
}

bool rw_reads_home(const struct rw *r, const struct x86_insn *in)
{
    const struct rw_gprs *g = rw_gprs(r, in);
    unsigned by;

    if (!takes_memory(in) || g->spilled != 1 || g->high8 || g->rm < 0 || g->rm == g->reg)
        return false;
    return is_spilled(r, g->rm) ? !g->w_rm : is_spilled(r, g->reg) && !g->w_reg && has_twin(in, &by);
}

static bool copy_lea(struct rw *r, const struct x86_insn *in)
{
    unsigned d = rw_at(r, in->ops[0].reg), dst = d & SPILLED || in->opsz == 2 ? T0 : d;

    if (!rw_ea(r, in, dst))
        return false;
    if (in->opsz == 2) {
        if (d & SPILLED)
            jit_op_mem(r->b, JIT_66, 0x89, T0, rw_home_to(r, d), 0);
        else
            jit_op_reg(r->b, JIT_66, 0x89, T0, d);
        return true;
    }
    if (in->opsz == 4 && in->adsz == 8)
        jit_mov_rr32(r->b, dst, dst);
    if (d & SPILLED)
        rw_store_home(r, d, dst);
    return true;
}

/* VEX.LZ.F3.0F38.W1 F7 /r: sarx dst, src, count */
static void sarx(struct jit_buf *b, unsigned dst, unsigned src, unsigned count)
{
    jit_8(b, 0xc4);
    jit_8(b, (dst & 8 ? 0u : 0x80u) | 0x40 | (src & 8 ? 0u : 0x20u) | 2);
    jit_8(b, 0x80 | (~count & 15) << 3 | 2);
    jit_8(b, 0xf7);
    jit_8(b, 0xc0 | (dst & 7) << 3 | (src & 7));
}

static bool bit_string(struct rw *r, const struct x86_insn *in)
{
    unsigned offset = rw_map(in->ops[1].reg), reg = offset, w = in->opsz == 8 ? JIT_W : 0;
    struct jit_buf *b = r->b;
    struct jit_mem m;

    if (offset & SPILLED) {
        rw_load_home(r, T1, offset);
        reg = T1;
    }
    /* T0 = the element's address: the sum goes through the context, since forming the address may take both scratches
     */
    if (!w) {
        jit_op_reg(b, JIT_W, 0x63, T1, reg); /* movsxd: the offset is signed */
        reg = T1;
    }
    jit_mov_ri(b, T0, w ? 6 : 5);
    sarx(b, T1, reg, T0);
    jit_lea(b, T1, (struct jit_mem){JR_NONE, T1, w ? 8 : 4, false, 0});
    jit_store(b, JIT_GS(X86_CTX(tmp)), T1);
    rw_address(r, in);
    jit_load(b, T1, JIT_GS(X86_CTX(tmp)));
    jit_lea(b, T0, JIT_SUM(T0, T1));
    m = rw_at_t0(r, in->opsz, in->opcode != 0xa3);
    jit_lea(b, T0, m);
    if (offset & SPILLED)
        rw_load_home(r, T1, offset);
    jit_pext_mem(b, T1, offset & SPILLED ? T1 : offset, JIT_GS(X86_CTX(bit_mask) + (w ? 8 : 0)));
    if (in->lock)
        jit_8(b, 0xf0);
    jit_op_mem(b, w, 0x0f00 | in->opcode, T1, JIT_BASE(T0, 0), 0);
    return true;
}

/* Is the register named there set as a whole, whatever it was? */
static bool sets(const struct x86_insn *in, unsigned where)
{
    const struct x86_operand *o = &in->ops[0];

    switch (in->op) {
    case X86_I_MOV:
    case X86_I_MOVZX:
    case X86_I_MOVSX:
    case X86_I_MOVSXD:
        return o->where == where && o->size >= 4;
    default:
        return false;
    }
}

/* Emits the instruction, its memory operand m if it has one. Spilled registers go through `first`, then the other
 * scratch register. */
static void copy_with(struct rw *r, const struct x86_insn *in, const struct rw_gprs *g, const struct jit_mem *m,
                      unsigned first)
{
    unsigned scratch[2] = {first, first == T0 ? T1 : T0}, nr = 0, homes[2];
    struct host_regs h;
    int prev[2];

    if (!m && copy_in_home(r, in, g, first))
        return;
    h.reg = place(r, g->reg, !sets(in, X86_IN_REG) || g->reg == g->rm, scratch, &nr, prev, homes);
    h.rm = place(r, g->rm, !sets(in, X86_IN_RM), scratch, &nr, prev, homes);
    h.vvvv = place(r, g->vvvv, true, scratch, &nr, prev, homes);
    h.opc = place(r, g->opc, !sets(in, X86_IN_OPC), scratch, &nr, prev, homes);
    if (g->high >= 0) {
        h.reg = (int)first;
        jit_rorx(r->b, first, (unsigned)g->high, 8);
    }
    if (nr > (first == T0))
        r->t1 = 0;
    emit(r, in, &h, m, g->low8);
    write_back(r, g->reg, g->w_reg, h.reg, nr > 1);
    write_back(r, g->rm, g->w_rm, h.rm, nr > 1);
    write_back(r, g->vvvv, g->w_vvvv, h.vvvv, nr > 1);
    write_back(r, g->opc, g->w_opc, h.opc, nr > 1);
    if (g->high >= 0 && g->w_reg)
        jit_rorx(r->b, (unsigned)g->high, first, 56);
}

/* The check of its memory operand, for one use. */
static struct jit_mem access_once(struct rw *r, const struct x86_insn *in, bool *t0_free)
{
    struct jit_mem m;

    r->a32 = false;
    r->once = true;
    m = rw_access(r, in, in->mem_size, in->ops[in->mem_op].acc & X86_ACC_W, t0_free);
    r->once = false;
    return m;
}

void rw_copy_by(struct rw *r, const struct x86_insn *in, unsigned tmp)
{
    copy_with(r, in, rw_gprs(r, in), NULL, tmp);
}

bool rw_copy(struct rw *r, const struct x86_insn *in)
{
    bool has_mem = in->mem_op >= 0, t0_free;
    unsigned first = r->loop ? T1 : T0;
    struct jit_mem m;

    if (in->found & RW_AS_IT_IS) {
        jit_bytes(r->b, in->bytes, in->len);
        return true;
    }
    if (is_cld(in) || is_nop(in))
        return true;
    if (is_bit_string(r, in)) {
        r->t1 = 0;
        return bit_string(r, in);
    }
    if (is_lea(in)) {
        if (in->index != X86_NO_REG && rw_map(in->index) & SPILLED)
            r->t1 = 0;
        return copy_lea(r, in);
    }
    if (has_mem) {
        m = access_once(r, in, &t0_free);
        if (rw_spilled(r, in))
            first = rw_scratch(r, &m, t0_free);
    }
    copy_with(r, in, rw_gprs(r, in), has_mem ? &m : NULL, first);
    return true;
}

/* Can it be emitted between a check and the access that was checked? One scratch register is free there. */
static bool goes_between(const struct rw *r, const struct x86_insn *in)
{
    return in->mem_op < 0 && !rw_is_sys(r, in) && !rw_is_string(r, in) && !rw_is_stack_op(r, in) &&
           !(in->row->attr & (X86_A_FPU | X86_A_MMX | X86_A_SSE | X86_A_AVX | X86_A_ENDS)) && rw_can_copy(r, in) &&
           rw_spilled(r, in) <= 1;
}

static bool plain_access(const struct rw *r, const struct x86_insn *in)
{
    return in->mem_op >= 0 && !is_nop(in) && !is_lea(in) && in->base != X86_REG_RIP && !rw_is_sys(r, in) &&
           !rw_is_string(r, in) && !rw_is_stack_op(r, in) && !is_bit_string(r, in) && !(in->row->attr & X86_A_ENDS) &&
           rw_can_copy(r, in);
}

/* An operation on registers whose flags somebody wants, then an access: ADD, MOV from memory, ADC. */
bool rw_pair(struct rw *r)
{
    const struct x86_insn *op = &r->in[r->cur], *in = op + 1;
    uint32_t used;
    struct jit_mem m;
    bool t0_free;

    if (r->flat || r->cur + 1 >= r->nr || (!r->wide && in->row->attr & X86_A_AVX512) || r->pending >= 0 ||
        r->live[r->cur] & X86_ARITH || !(r->live_after[r->cur] & X86_ARITH) || !plain_access(r, in) ||
        !goes_between(r, op))
        return false;
    used = (in->base < 16 ? 1u << in->base : 0) | (in->index < 16 ? 1u << in->index : 0);
    if (rw_writes(op) & used)
        return false;
    m = access_once(r, in, &t0_free);
    if (!t0_free) {
        jit_lea(r->b, T1, m);
        m = JIT_BASE(T1, 0);
        r->t1 = 0;
    }
    rw_copy(r, op);
    r->out->host_off[r->cur + 1] = (uint16_t)(r->b->p - r->b->start);
    copy_with(r, in, rw_gprs(r, in), &m, T0);
    return true;
}

/* ---- PUSH, POP, LEAVE ---- */

bool rw_find_stack_op(const struct rw *r, const struct x86_insn *in)
{
    unsigned reg = in->modrm >> 3 & 7;

    if (in->map != X86_MAP_1 || in->enc != X86_ENC_LEGACY || in->opsize_pfx || in->lock)
        return false;
    switch (in->opcode) {
    case 0x50 ... 0x5f:
    case 0x68:
    case 0x6a:
    case 0xc9:
        return true;
    case 0xff:
        return reg == 6 && (!is_modrm_mem(in) || rw_mem_ok(r, in));
    case 0x8f:
        return reg == 0 && !is_modrm_mem(in);
    default:
        return false;
    }
}

static void push_reg(struct rw *r, unsigned guest)
{
    unsigned src = rw_map(guest), s = r->m64 ? 8 : 4;
    bool free0;
    struct jit_mem m = rw_stack(r, HSP, -(int32_t)s, s, true, &free0);

    if (src & SPILLED) {
        unsigned t = rw_scratch(r, &m, free0);

        rw_load_home(r, t, src);
        src = t;
    }
    jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0x89, src, m, 0);
    rw_sp_add(r, -(int32_t)s);
}

static void push_imm(struct rw *r, int64_t v)
{
    unsigned s = r->m64 ? 8 : 4;
    bool free0;
    struct jit_mem m = rw_stack(r, HSP, -(int32_t)s, s, true, &free0);

    jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0xc7, 0, m, 4);
    jit_32(r->b, (uint32_t)v);
    rw_sp_add(r, -(int32_t)s);
}

static void push_mem(struct rw *r, const struct x86_insn *in)
{
    unsigned s = r->m64 ? 8 : 4, t;
    bool free0;
    struct jit_mem m = rw_access(r, in, s, false, &free0);

    rw_op_mem(r, r->m64 ? JIT_W : 0, 0x8b, T0, m, 0);
    jit_store(r->b, JIT_GS(X86_CTX(tmp)), T0);
    m = rw_stack(r, HSP, -(int32_t)s, s, true, &free0);
    t = rw_scratch(r, &m, free0);
    jit_load(r->b, t, JIT_GS(X86_CTX(tmp)));
    jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0x89, t, m, 0);
    rw_sp_add(r, -(int32_t)s);
}

static void pop_reg(struct rw *r, unsigned guest)
{
    unsigned d = rw_map(guest), s = r->m64 ? 8 : 4, dst = d & SPILLED ? T0 : d;
    bool free0;
    struct jit_mem m = rw_stack(r, HSP, 0, s, false, &free0);

    jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0x8b, dst, m, 0);
    if (d & SPILLED)
        rw_store_home(r, d, T0);
    if (d != HSP)
        rw_sp_add(r, (int32_t)s);
}

static void leave(struct rw *r)
{
    unsigned s = r->m64 ? 8 : 4;
    bool free0;
    struct jit_mem m = rw_stack(r, JR_RBP, 0, s, false, &free0);

    jit_op_mem(r->b, r->m64 ? JIT_W : 0, 0x8b, T0, m, 0);
    if (r->m64)
        jit_lea(r->b, HSP, JIT_BASE(JR_RBP, 8));
    else
        jit_lea32(r->b, HSP, JIT_BASE(JR_RBP, 4));
    jit_mov_rr(r->b, JR_RBP, T0);
}

static bool plain_legacy(const struct x86_insn *in)
{
    return in->map == X86_MAP_1 && in->enc == X86_ENC_LEGACY && !in->opsize_pfx && !in->lock;
}

static unsigned opc_reg(const struct x86_insn *in)
{
    return (in->opcode & 7u) | (in->rex & 1 ? 8u : 0u);
}

/* PUSH or POP of a register other than RSP. */
static bool in_run(const struct x86_insn *in, unsigned op)
{
    return plain_legacy(in) && (in->opcode & 0xf8) == op && opc_reg(in) != X86_RSP;
}

static void one_of_run(struct rw *r, struct jit_mem m, unsigned guest, bool pop)
{
    unsigned h = rw_map(guest), w = r->m64 ? JIT_W : 0;

    if (h & SPILLED) {
        if (!pop)
            rw_load_home(r, T0, h);
        jit_op_mem(r->b, w, pop ? 0x8b : 0x89, T0, m, 0);
        if (pop)
            rw_store_home(r, h, T0);
    } else {
        jit_op_mem(r->b, w, pop ? 0x8b : 0x89, h, m, 0);
    }
}

unsigned rw_stack_run(struct rw *r)
{
    const struct x86_insn *in = &r->in[r->cur];
    unsigned s = r->m64 ? 8 : 4, n = 0, op, total;
    bool pop, free0;
    struct jit_mem m;

    if (r->flat || r->env->mode & X86_RWM_SPLIT) /* each faults by itself */
        return 0;
    if (!plain_legacy(in) || (in->opcode & 0xf0) != 0x50)
        return 0;
    op = in->opcode & 0xf8;
    pop = op == 0x58;
    while (n < 7 && r->cur + n < r->nr && in_run(&in[n], op) && (r->pending < 0 || r->cur + n < r->make_at))
        n++;
    if (n < 2)
        return 0;
    total = n * s;
    m = rw_stack(r, HSP, pop ? 0 : -(int32_t)total, total, !pop, &free0);
    for (unsigned i = 0; i < n; i++) {
        struct jit_mem slot = m;

        slot.disp += (int32_t)(pop ? i * s : total - (i + 1) * s);
        one_of_run(r, slot, opc_reg(&in[i]), pop);
        r->out->host_off[r->cur + i] = r->out->host_off[r->cur];
    }
    rw_sp_add(r, (int32_t)(pop ? total : -total));
    return n;
}

bool rw_stack_op(struct rw *r, const struct x86_insn *in)
{
    unsigned low = opc_reg(in), rm = (in->modrm & 7u) | (in->rex & 1 ? 8u : 0u);

    switch (in->opcode) {
    case 0x50 ... 0x57:
        push_reg(r, low);
        return true;
    case 0x58 ... 0x5f:
        pop_reg(r, low);
        return true;
    case 0x68:
    case 0x6a:
        push_imm(r, (int64_t)in->imm);
        return true;
    case 0xc9:
        leave(r);
        return true;
    case 0x8f:
        pop_reg(r, rm);
        return true;
    default:
        if (is_modrm_mem(in))
            push_mem(r, in);
        else
            push_reg(r, rm);
        return true;
    }
}
