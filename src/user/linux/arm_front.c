/* The A32 and T32 translator as a front end of the user-mode runtime. A pc of the runtime is one of guest/arm: bit 0
 * says T32. There is no interpreter: everything is translated, and what leaves translated code is a system call or a
 * fault. */
#include "user/linux/arm_front.h"
#include "base/util.h"
#include "guest/arm/insn.h"
#include "guest/arm/xlat.h"
#include "user/linux/map.h"

#include <signal.h>
#include <sys/mman.h>

static struct ir_stubs stubs; /* one translator per process */

static struct arm_cpu *ctx_of(const struct lx_rt_thread *t)
{
    return t->ctx;
}

static bool make_stubs(struct lx_rt *rt, struct jit_buf *b, struct err **errp)
{
    return lx_ir_stubs(rt, b, arm_pins, arm_nr_pins, &stubs, errp);
}

static unsigned mode_of(struct lx_rt_thread *t)
{
    return arm_mode(ctx_of(t));
}

static bool executable(uint64_t at)
{
    int prot = lx_map_prot(at);

    return prot >= 0 && prot & PROT_EXEC;
}

static bool translate(struct lx_rt_thread *t, uint64_t pc, unsigned mode, size_t avail, uint32_t first_link,
                      struct jit_buf *b, struct jit_block_out *out)
{
    struct ir_env env = {.loops = true,
                         .pin = arm_pins,
                         .nr_pins = arm_nr_pins,
                         .addr32 = true,
                         .nan = IR_NAN_ARM,
                         .stubs = &stubs,
                         .first_link = first_link};
    struct ir *s = t->front_data;
    uint64_t at = pc & ~UINT64_C(1), page_left = 4096 - (at & 4095);
    const uint8_t *code = (const uint8_t *)(uintptr_t)at;
    unsigned max = t->rt->one_insn ? 1 : JIT_BLOCK_MAX_INSN - 1;
    struct jit_buf start = *b;
    bool ok = false;

    if (!s)
        s = t->front_data = try_alloc(1, sizeof *s);
    for (; s && max && !ok; max /= 2) {
        *b = start;
        if (!arm_translate(s, pc, mode, code, page_left, executable(at + page_left) ? code + page_left : NULL, max))
            break;
        ok = ir_compile(b, s, &env, out);
    }
    if (s && !ok) { /* does not fit the compiler: shown as what it is not, rather than tried for ever */
        *b = start;
        ir_begin(s, pc);
        ir_insn(s, pc);
        ir_exit_code(s, ARM_EXIT_UNDEF, pc);
        ok = ir_finish(s, pc & 1 ? 2 : 4) && ir_compile(b, s, &env, out);
    }
    if (ok)
        out->tail_no = pc / 4096 + 1; /* where the last instruction may end */
    return ok;
}

/* What an exclusive or ordered access addressed that was not aligned. */
static uint64_t excl_address(const struct arm_cpu *c, uint64_t pc)
{
    struct arm_insn in;

    arm_decode(&in, (uint32_t)pc & ~1u, pc & 1, c->it, (const uint8_t *)(uintptr_t)(pc & ~UINT64_C(1)), 4);
    return (uint32_t)(c->a.x[in.Rn] + in.imm);
}

/* The undefined instructions Linux takes as breakpoints (debuggers put them). */
static bool break_word(uint64_t pc)
{
    const uint8_t *p = (const uint8_t *)(uintptr_t)(pc & ~UINT64_C(1));

    if (!(pc & 1))
        return (get_le32(p) & 0x0fffffff) == 0x07f001f0;
    return get_le16(p) == 0xde01 || (get_le16(p) == 0xf7f0 && get_le16(p + 2) == 0xa000);
}

static int enter(struct lx_rt_thread *t, const uint8_t *target)
{
    struct arm_cpu *c = ctx_of(t);
    unsigned code = 0;
    int why = lx_ir_enter(t, target, &code);
    uint64_t pc = c->a.jit.t0;

    if (why != LX_EXIT_INTERP)
        return why;
    switch (code) {
    case ARM_EXIT_SVC:
        return LX_EXIT_SYSCALL;
    case ARM_EXIT_MODE:
        ir_jc_clear(&c->a.jit);
        c->a.jit.ss_rsp = t->ss_top;
        return LX_EXIT_DISPATCH;
    case ARM_EXIT_BKPT:
        return lx_ir_trap(t, SIGTRAP, TRAP_BRKPT, pc & ~UINT64_C(1));
    case ARM_EXIT_FETCH:
        return lx_ir_trap(t, SIGSEGV, lx_map_prot((pc | 4095) + 1) < 0 ? SEGV_MAPERR : SEGV_ACCERR, (pc | 4095) + 1);
    case IR_CODE_ALIGN:
        return lx_ir_trap(t, SIGBUS, BUS_ADRALN, excl_address(c, pc));
    default:
        if (break_word(pc))
            return lx_ir_trap(t, SIGTRAP, TRAP_BRKPT, pc & ~UINT64_C(1));
        return lx_ir_trap(t, SIGILL, ILL_ILLOPC, pc & ~UINT64_C(1));
    }
}

static uint64_t get_pc(const struct lx_rt_thread *t)
{
    return ctx_of(t)->a.pc;
}

static void set_pc(struct lx_rt_thread *t, uint64_t pc)
{
    ctx_of(t)->a.pc = pc;
}

/* Comes here: an instruction to be run again. */
static enum lx_stop step(struct lx_rt_thread *t)
{
    return LX_STOP_KICK;
}

/* ITSTATE is not kept while a block runs. */
static void fix(struct lx_rt_thread *t, const struct jit_block *b, unsigned insn)
{
    unsigned it = b ? b->mode >> 8 : 0;

    lx_ir_fix(t, b, insn);
    if (!b || !(b->pc & 1) || get_pc(t) != jit_block_pc(b, insn)) /* or at an exit already */
        return;
    for (unsigned k = 0; k < insn; k++) {
        uint64_t pc = jit_block_pc(b, k);

        if (pc != jit_block_pc(b, k + 1)) /* an instruction may have several pieces of code */
            it = arm_it_behind((uint32_t)pc & ~1u, it, (const uint8_t *)(uintptr_t)(pc & ~UINT64_C(1)));
    }
    ctx_of(t)->it = it;
}

/* Blocks that begin within an IT block are only found by their mode. */
static void jc_set(struct lx_rt_thread *t, uint64_t pc, const uint8_t *host)
{
    if (!ctx_of(t)->it)
        lx_ir_jc_set(t, pc, host);
}

const struct lx_front lx_arm_front = {.name = "arm",
                                      .ctx_size = sizeof(struct arm_cpu),
                                      .leave_reg = JR_RDX,
                                      .calls_poll = true,
                                      .stubs = make_stubs,
                                      .ctx_init = lx_ir_ctx_init,
                                      .mode = mode_of,
                                      .translate = translate,
                                      .enter = enter,
                                      .pc = get_pc,
                                      .set_pc = set_pc,
                                      .step = step,
                                      .pc_bits = 1,
                                      .resumes = true,
                                      .jc_set = jc_set,
                                      .jc_clear = lx_ir_jc_clear,
                                      .fix = fix};

struct lx_cpu *lx_arm_new(struct lx_rt *rt, struct err **errp)
{
    struct lx_cpu *c = lx_ir_cpu_new(sizeof(struct arm_cpu), NULL, errp);

    if (c)
        arm_reset(arm_lx(c));
    return c;
}

struct lx_cpu *lx_arm_clone(const struct lx_cpu *from)
{
    struct lx_cpu *c = lx_ir_cpu_new(sizeof(struct arm_cpu), from, NULL);

    if (c) {
        arm_lx(c)->a.jit.flags = arm_lx(from)->a.jit.flags;
        arm_lx(c)->a.ex_addr = UINT64_MAX;
    }
    return c;
}
