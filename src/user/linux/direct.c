/* See direct.h. */
#include "user/linux/direct.h"
#include "user/linux/sysnr.h"
#include "user/linux/thread.h"

#include <errno.h>
#include <string.h>

uint16_t lx_direct[LX_DIRECT_NR];

/* With -L, names of files are looked up in a folder first. */
static bool as_it_is(const struct lx_sysrow *row)
{
    const char *const *prefix = (const char *const *)lx_proc.opt.prefix;

    return row->how64 == LX_HOW_RAW && row->host >= 0 && !(prefix && prefix[0] && strchr(row->spec, 'P'));
}

void lx_direct_start(void)
{
    if (lx_is32() || lx_proc.opt.strace || lx_proc.opt.gdb_port || lx_proc.opt.gdb_path || lx_proc.opt.trace ||
        lx_proc.opt.seccomp_fd)
        return;
    for (const struct lx_sysnr *n = lx_proc.arch->sysnr; n->nr != 0xffff; n++)
        if (n->nr < LX_DIRECT_NR && as_it_is(&lx_sysrows[n->id]))
            lx_direct[n->nr] = (uint16_t)(lx_sysrows[n->id].host + 1);
}

void lx_direct_off(void)
{
    for (unsigned i = 0; i < LX_DIRECT_NR; i++)
        lx_direct[i] = 0;
}

#define CTX(f)  ((int32_t)offsetof(struct ir_ctx, f))
#define GSAT(o) JIT_GS((int32_t)(o))

/* What a call and this stub change: all that C code does not keep, RDI to R11 among them. */
static bool lost(const struct ir_pin *p)
{
    return !p->vec && p->reg != JR_RBX && p->reg != JR_RBP && p->reg < JR_R12;
}

static bool asked_for(const struct lx_ir_call *c, uint32_t off)
{
    for (unsigned i = 0; i < 6; i++)
        if (c->arg[i] == off)
            return true;
    return c->nr == off;
}

static void save(struct jit_buf *b, const struct lx_ir_call *c, const struct ir_pin *pin, unsigned nr_pins)
{
    for (unsigned i = 0; i < nr_pins; i++)
        if (lost(&pin[i]) || asked_for(c, pin[i].off))
            jit_store(b, GSAT(pin[i].off), pin[i].reg);
}

static void restore(struct jit_buf *b, const struct ir_pin *pin, unsigned nr_pins)
{
    for (unsigned i = 0; i < nr_pins; i++)
        if (lost(&pin[i]))
            jit_load(b, pin[i].reg, GSAT(pin[i].off));
}

static void come_inside(struct jit_buf *b)
{
    jit_mov_ri(b, JR_RCX, 1);
    jit_op_mem(b, 0, 0x87, JR_RCX, JIT_GS(CTX(out.inside)), 0); /* xchg: a barrier */
}

static void cmp_mem32(struct jit_buf *b, int32_t ctx_at)
{
    jit_op_mem(b, 0, 0x83, 7, JIT_GS(ctx_at), 1);
    jit_8(b, 0);
}

void lx_ir_direct(struct lx_rt *rt, struct jit_buf *b, const struct ir_pin *pin, unsigned nr_pins,
                  const struct lx_ir_call *c, struct ir_stubs *out)
{
    static const uint8_t to[6] = {JR_RDI, JR_RSI, JR_RDX, JR_R10, JR_R8, JR_R9};
    const uint8_t *at = jit_here(b);
    uint8_t *large, *other, *held, *failed;

    jit_cmp_imm(b, JR_RAX, (int32_t)c->code);
    jit_jcc(b, JCC_NE, out->exit_code);
    jit_store(b, JIT_GS(CTX(t0)), JR_RDX);
    save(b, c, pin, nr_pins);
    jit_load(b, JR_RCX, GSAT(c->nr));
    jit_cmp_imm(b, JR_RCX, LX_DIRECT_NR);
    large = jit_jcc_fwd(b, JCC_AE);
    jit_mov_ri(b, JR_RAX, (uintptr_t)lx_direct);
    jit_op_mem(b, 0, 0x0fb7, JR_RAX, (struct jit_mem){JR_RAX, JR_RCX, 2, false, 0}, 0); /* movzx */
    jit_op_reg(b, 0, 0x83, 5, JR_RAX);                                                  /* sub eax, 1 */
    jit_8(b, 1);
    other = jit_jcc_fwd(b, JCC_B);
    for (unsigned i = 0; i < 6; i++)
        jit_load(b, to[i], GSAT(c->arg[i]));
    jit_store32_imm(b, JIT_GS(CTX(out.inside)), 0);
    rt->stub.call_begin = jit_here(b);
    cmp_mem32(b, CTX(out.hold));
    held = jit_jcc_fwd(b, JCC_NE);
    jit_8(b, 0x0f); /* syscall */
    jit_8(b, 0x05);
    rt->stub.call_end = jit_here(b);
    come_inside(b);
    jit_cmp_imm(b, JR_RAX, -EFAULT);
    failed = jit_jcc_fwd(b, JCC_E);
    jit_store(b, GSAT(c->ret), JR_RAX);
    restore(b, pin, nr_pins);
    jit_load(b, JR_RDX, JIT_GS(CTX(t0)));
    cmp_mem32(b, CTX(out.hold));
    jit_jcc(b, JCC_NE, out->exit_pc);
    jit_jmp(b, out->jump);
    jit_patch32(b, held);
    rt->stub.call_undo = jit_here(b);
    come_inside(b);
    held = jit_jmp_fwd(b);
    jit_patch32(b, failed);
    jit_store32_imm(b, JIT_GS(CTX(out.failed)), 1);
    jit_patch32(b, held);
    jit_patch32(b, large);
    jit_patch32(b, other);
    restore(b, pin, nr_pins);
    jit_load(b, JR_RDX, JIT_GS(CTX(t0)));
    jit_mov_ri(b, JR_RAX, c->code);
    jit_jmp(b, out->exit_code);
    out->exit_code = at;
}
