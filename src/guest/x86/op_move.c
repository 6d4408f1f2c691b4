/* Moves, stack, flags and near transfers of control (SDM vol. 2). */
#include "guest/x86/interp_int.h"

/* ---- moves ---- */
#define MOV(bits, s)                                                                                                   \
    static void mov##bits(struct x86_cpu *c, const struct x86_insn *in)                                                \
    {                                                                                                                  \
        x86_wr(c, in, 0, s, x86_rd(c, in, 1, s));                                                                      \
    }                                                                                                                  \
    static void movzx##bits(struct x86_cpu *c, const struct x86_insn *in)                                              \
    {                                                                                                                  \
        x86_gpr_set(c, in->ops[0].reg, s, in->ops[1].size == 1 ? x86_rd(c, in, 1, 1) : x86_rd(c, in, 1, 2));           \
    }                                                                                                                  \
    static void movsx##bits(struct x86_cpu *c, const struct x86_insn *in)                                              \
    {                                                                                                                  \
        x86_gpr_set(c, in->ops[0].reg, s,                                                                              \
                    (uint64_t)(in->ops[1].size == 1 ? (int64_t)(int8_t)x86_rd(c, in, 1, 1)                             \
                                                    : (int64_t)(int16_t)x86_rd(c, in, 1, 2)));                         \
    }                                                                                                                  \
    static void lea##bits(struct x86_cpu *c, const struct x86_insn *in)                                                \
    {                                                                                                                  \
        x86_gpr_set(c, in->ops[0].reg, s, x86_ea_in(c, in));                                                           \
    }
MOV(8, 1)
MOV(16, 2)
MOV(32, 4)
MOV(64, 8)
static void movsxd(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = in->ops[1].size == 2 ? x86_rd(c, in, 1, 2) : (uint64_t)(int64_t)(int32_t)x86_rd(c, in, 1, 4);

    x86_gpr_set(c, in->ops[0].reg, in->ops[0].size, v);
}
static void mov_nt(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_wr(c, in, 0, in->ops[0].size, x86_gpr(c, &in->ops[1]));
}
static uint64_t swap(uint64_t v, unsigned size)
{
    return size == 2   ? __builtin_bswap16((uint16_t)v)
           : size == 4 ? __builtin_bswap32((uint32_t)v)
                       : __builtin_bswap64(v);
}
static void bswap(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size, reg = in->ops[0].reg;

    x86_gpr_set(c, reg, s, s == 2 ? 0 : swap(c->regs[reg], s)); /* 16 bits: undefined; CPUs give 0 */
}
static void movbe(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size;

    x86_wr(c, in, 0, s, swap(x86_rd(c, in, 1, s), s));
}
static void cbw(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_gpr_set(c, X86_RAX, in->opsz, (uint64_t)sext64(c->regs[X86_RAX], in->opsz * 4));
}
static void cwd(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_gpr_set(c, X86_RDX, in->opsz, c->regs[X86_RAX] >> (in->opsz * 8 - 1) & 1 ? ~UINT64_C(0) : 0);
}
static void xlat(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t ea = c->regs[X86_RBX] + (uint8_t)c->regs[X86_RAX];

    ea &= x86_mask(in->adsz);
    x86_gpr_set(c, X86_RAX, 1, x86_rd_lin(c, x86_lin(c, in->seg, ea, 1, X86_READ), 1));
}
static void cmov(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->ops[0].size;
    uint64_t v = x86_rd(c, in, 1, s); /* read, and faults, in any case */

    x86_gpr_set(c, in->ops[0].reg, s, x86_cond(c->rflags, in->opcode) ? v : c->regs[in->ops[0].reg]);
}
static void setcc(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_wr(c, in, 0, 1, x86_cond(c->rflags, in->opcode));
}
static void nop(struct x86_cpu *c, const struct x86_insn *in)
{
}
static void fence(struct x86_cpu *c, const struct x86_insn *in)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
/* Nothing behind it begins before all ahead of it is over: what orders RDTSC. */
static void load_fence(struct x86_cpu *c, const struct x86_insn *in)
{
    __builtin_ia32_lfence();
}
static void pause_hint(struct x86_cpu *c, const struct x86_insn *in)
{
    __builtin_ia32_pause();
}

/* ---- stack ---- */
static void push(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->opsz;

    x86_push_in(c, s, x86_rd(c, in, 0, s));
}
static void push64(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_push_in(c, 8, x86_rd(c, in, 0, 8));
}
static void pop(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->opsz;
    uint64_t v = x86_top(c, s), sp = c->regs[X86_RSP];

    x86_sp_set(c, x86_sp_after(c, -(int64_t)s));
    if (in->ops[0].kind == X86_OP_GPR) {
        x86_gpr_set(c, in->ops[0].reg, s, v);
        return;
    }
    {
        uint64_t ea = x86_ea_in(c, in), new_sp = c->regs[X86_RSP]; /* an address based on rSP uses the popped value */

        c->regs[X86_RSP] = sp;
        x86_wr_lin(c, x86_lin(c, in->seg, ea, s, X86_WRITE), s, v);
        c->regs[X86_RSP] = new_sp;
    }
}
static void pusha(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->opsz;
    uint64_t sp = x86_sp_after(c, 8 * (int64_t)s);
    uint8_t buf[32];

    for (int i = 0; i < 8; i++)
        put_le(buf + (7 - i) * s, c->regs[i], s);
    x86_st_bytes(c, x86_seg_lin(c, X86_SS, sp, 8 * s, X86_WRITE), buf, 8 * s);
    x86_sp_set(c, sp);
}
static void popa(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->opsz;
    uint8_t buf[32];

    x86_ld_bytes(c, x86_seg_lin(c, X86_SS, x86_sp_after(c, 0), 8 * s, X86_READ), buf, 8 * s);
    x86_sp_set(c, x86_sp_after(c, -8 * (int64_t)s));
    for (int i = 0; i < 8; i++)
        if (i != X86_RSP)
            x86_gpr_set(c, i, s, get_le(buf + (7 - i) * s, s));
}
/* VM86 with IOPL below 3: allowed only through VME, and then IF is VIF. */
static bool uses_vif(struct x86_cpu *c, const struct x86_insn *in)
{
    if (!(c->rflags & X86_VM) || x86_iopl(c) == 3)
        return false;
    if (!(c->cr4 & X86_CR4_VME) || in->opsz != 2)
        x86_raise_err(c, X86_GP, 0);
    return true;
}
static void pushf(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v = c->rflags & ~(uint64_t)(X86_RF | X86_VM);

    if (uses_vif(c, in))
        v = (v & ~(uint64_t)X86_IF) | X86_IOPL | (c->rflags & X86_VIF ? X86_IF : 0);
    x86_push_in(c, in->opsz, v);
}
static void popf(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t v, mask = X86_ARITH | X86_TF | X86_DF | X86_NT | X86_AC | X86_ID;
    bool vif = uses_vif(c, in);

    v = x86_top(c, in->opsz);
    if (vif) {
        if (v & X86_TF || (v & X86_IF && c->rflags & X86_VIP))
            x86_raise_err(c, X86_GP, 0);
        x86_flags_set(c, X86_VIF, v & X86_IF ? X86_VIF : 0);
    } else if (!(c->rflags & X86_VM)) {
        if (c->cpl == 0)
            mask |= X86_IOPL | X86_IF;
        else if (c->cpl <= x86_iopl(c))
            mask |= X86_IF;
    } else {
        mask |= X86_IF;
    }
    if (in->opsz == 2)
        mask &= 0xffff;
    x86_sp_set(c, x86_sp_after(c, -(int64_t)in->opsz));
    x86_set_rflags(c, v, mask);
}
static void enter(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->opsz, level = in->imm2 & 31;
    uint64_t frame, sp = x86_sp_after(c, s), bp = c->regs[X86_RBP];

    x86_wr_lin(c, x86_lin(c, X86_SS, sp, s, X86_WRITE), s, bp);
    frame = sp;
    for (unsigned i = 1; i < level; i++) {
        uint64_t from = c->mode == X86_MODE_64   ? bp - i * s
                        : x86_stack_size(c) == 4 ? (uint32_t)(bp - i * s)
                                                 : (uint16_t)(bp - i * s);
        uint64_t v = x86_rd_lin(c, x86_lin(c, X86_SS, from, s, X86_READ), s);

        sp = x86_sp_after(c, (int64_t)s * (i + 1));
        x86_wr_lin(c, x86_lin(c, X86_SS, sp, s, X86_WRITE), s, v);
    }
    if (level) {
        sp = x86_sp_after(c, (int64_t)s * (level + 1));
        x86_wr_lin(c, x86_lin(c, X86_SS, sp, s, X86_WRITE), s, frame);
    }
    sp = x86_sp_after(c, (int64_t)s * (level ? level + 1 : 1) + (uint16_t)in->imm);
    x86_lin(c, X86_SS, sp, s, X86_WRITE);
    x86_gpr_set(c, X86_RBP, s, frame);
    x86_sp_set(c, sp);
}
static void leave(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->opsz;
    uint64_t bp = c->regs[X86_RBP], v;

    bp = c->mode == X86_MODE_64 ? bp : x86_stack_size(c) == 4 ? (uint32_t)bp : (uint16_t)bp;
    v = x86_rd_lin(c, x86_lin(c, X86_SS, bp, s, X86_READ), s);
    x86_sp_set(c, bp + s);
    x86_gpr_set(c, X86_RBP, s, v);
}

/* ---- flags ---- */
static void lahf(struct x86_cpu *c, const struct x86_insn *in)
{
    if (c->mode == X86_MODE_64 && !x86_has(&c->feat, X86_F_LAHF_LM))
        x86_raise(c, X86_UD);
    c->regs[X86_RAX] = (c->regs[X86_RAX] & ~UINT64_C(0xff00)) | (c->rflags & 0xd5) << 8 | 0x200;
}
static void sahf(struct x86_cpu *c, const struct x86_insn *in)
{
    if (c->mode == X86_MODE_64 && !x86_has(&c->feat, X86_F_LAHF_LM))
        x86_raise(c, X86_UD);
    x86_flags_set(c, 0xd5, c->regs[X86_RAX] >> 8);
}
static void cmc(struct x86_cpu *c, const struct x86_insn *in)
{
    c->rflags ^= X86_CF;
}
static void clc(struct x86_cpu *c, const struct x86_insn *in)
{
    c->rflags &= ~(uint64_t)X86_CF;
}
static void stc(struct x86_cpu *c, const struct x86_insn *in)
{
    c->rflags |= X86_CF;
}
static void cld(struct x86_cpu *c, const struct x86_insn *in)
{
    c->rflags &= ~(uint64_t)X86_DF;
}
static void std(struct x86_cpu *c, const struct x86_insn *in)
{
    c->rflags |= X86_DF;
}

/* ---- near transfers ---- */
void x86_jump(struct x86_cpu *c, uint64_t to)
{
    if (c->mode == X86_MODE_64) {
        if (!x86_canonical(c, to))
            x86_raise_err(c, X86_GP, 0);
    } else if (unlikely((uint32_t)to > c->seg[X86_CS].limit)) {
        x86_raise_err(c, X86_GP, 0);
    }
    c->next_rip = to;
}
static inline void jump_rel(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_jump(c, x86_rip_mask(in, c->rip + in->len + in->imm));
}
static void jcc(struct x86_cpu *c, const struct x86_insn *in)
{
    if (x86_cond(c->rflags, in->opcode))
        jump_rel(c, in);
}
static void jmp(struct x86_cpu *c, const struct x86_insn *in)
{
    jump_rel(c, in);
}
static void jmp_ind(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_jump(c, x86_rd(c, in, 0, in->opsz));
}
/* The target is checked before the return address is written. */
static void call_to(struct x86_cpu *c, const struct x86_insn *in, uint64_t to)
{
    uint64_t back = c->next_rip;

    x86_jump(c, to);
    x86_push_in(c, in->opsz, back);
}
static void call(struct x86_cpu *c, const struct x86_insn *in)
{
    call_to(c, in, x86_rip_mask(in, c->rip + in->len + in->imm));
}
static void call_ind(struct x86_cpu *c, const struct x86_insn *in)
{
    call_to(c, in, x86_rd(c, in, 0, in->opsz));
}
static void ret(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned s = in->opsz;

    x86_jump(c, x86_top(c, s));
    x86_sp_set(c, x86_sp_after(c, -(int64_t)(s + (in->nr_ops ? (uint16_t)in->imm : 0))));
}
static void loop(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t n = (c->regs[X86_RCX] - 1) & x86_mask(in->adsz);
    bool go = n && (in->op == X86_I_LOOP || (in->op == X86_I_LOOPE) == !!(c->rflags & X86_ZF));

    if (go)
        jump_rel(c, in);
    x86_gpr_set(c, X86_RCX, in->adsz, n);
}
static void jcxz(struct x86_cpu *c, const struct x86_insn *in)
{
    if (!(c->regs[X86_RCX] & x86_mask(in->adsz)))
        jump_rel(c, in);
}

const struct x86_handler x86_ops_move[X86_I_NR] = {
    [X86_I_MOV] = BY_SIZE(mov),
    [X86_I_MOVZX] = BY_SIZE(movzx),
    [X86_I_MOVSX] = BY_SIZE(movsx),
    [X86_I_MOVSXD] = ALL_SIZES(movsxd),
    [X86_I_LEA] = BY_SIZE(lea),
    [X86_I_MOVNTI] = ALL_SIZES(mov_nt),
    [X86_I_MOVDIRI] = ALL_SIZES(mov_nt),
    [X86_I_BSWAP] = ALL_SIZES(bswap),
    [X86_I_MOVBE] = ALL_SIZES(movbe),
    [X86_I_CBW] = ALL_SIZES(cbw),
    [X86_I_CWD] = ALL_SIZES(cwd),
    [X86_I_XLAT] = ALL_SIZES(xlat),
    [X86_I_CMOVCC] = ALL_SIZES(cmov),
    [X86_I_SETCC] = ALL_SIZES(setcc),
    [X86_I_NOP] = ALL_SIZES(nop),
    [X86_I_PAUSE] = ALL_SIZES(pause_hint),
    [X86_I_ENDBR64] = ALL_SIZES(nop),
    [X86_I_ENDBR32] = ALL_SIZES(nop),
    [X86_I_PREFETCH] = ALL_SIZES(nop),
    [X86_I_PREFETCHW] = ALL_SIZES(nop),
    [X86_I_PREFETCHNTA] = ALL_SIZES(nop),
    [X86_I_PREFETCHT0] = ALL_SIZES(nop),
    [X86_I_PREFETCHT1] = ALL_SIZES(nop),
    [X86_I_PREFETCHT2] = ALL_SIZES(nop),
    [X86_I_LFENCE] = ALL_SIZES(load_fence),
    [X86_I_MFENCE] = ALL_SIZES(fence),
    [X86_I_SFENCE] = ALL_SIZES(fence),
    [X86_I_PUSH] = {{push, push, push, push64}},
    [X86_I_POP] = ALL_SIZES(pop),
    [X86_I_PUSHA] = ALL_SIZES(pusha),
    [X86_I_POPA] = ALL_SIZES(popa),
    [X86_I_PUSHF] = ALL_SIZES(pushf),
    [X86_I_POPF] = ALL_SIZES(popf),
    [X86_I_ENTER] = ALL_SIZES(enter),
    [X86_I_LEAVE] = ALL_SIZES(leave),
    [X86_I_LAHF] = ALL_SIZES(lahf),
    [X86_I_SAHF] = ALL_SIZES(sahf),
    [X86_I_CMC] = ALL_SIZES(cmc),
    [X86_I_CLC] = ALL_SIZES(clc),
    [X86_I_STC] = ALL_SIZES(stc),
    [X86_I_CLD] = ALL_SIZES(cld),
    [X86_I_STD] = ALL_SIZES(std),
    [X86_I_JCC] = ALL_SIZES(jcc),
    [X86_I_JMP] = ALL_SIZES(jmp),
    [X86_I_JMP_IND] = ALL_SIZES(jmp_ind),
    [X86_I_CALL] = ALL_SIZES(call),
    [X86_I_CALL_IND] = ALL_SIZES(call_ind),
    [X86_I_RET] = ALL_SIZES(ret),
    [X86_I_LOOP] = ALL_SIZES(loop),
    [X86_I_LOOPE] = ALL_SIZES(loop),
    [X86_I_LOOPNE] = ALL_SIZES(loop),
    [X86_I_JCXZ] = ALL_SIZES(jcxz),
};
