/* See ir_front.h. */
#include "user/linux/ir_front.h"

#include <stdlib.h>
#include <string.h>

struct lx_cpu *lx_ir_cpu_new(size_t size, const struct lx_cpu *from, struct err **errp)
{
    struct lx_ir_cpu *c = xnew(struct lx_ir_cpu);

    c->early = try_alloc_aligned(64, align_up(size, 64));
    if (!c->early) {
        free(c);
        err_set(errp, "no memory for a CPU");
        return NULL;
    }
    if (from) {
        memcpy(c->early, lx_ir(from)->state, size);
        c->pc = lx_ir(from)->pc;
    } else {
        memset(c->early, 0, size);
    }
    c->state = c->early;
    ir_ctx_init(c->state);
    if (from)
        c->state->mxcsr = lx_ir(from)->state->mxcsr;
    return &c->lx;
}

void lx_ir_cpu_free(struct lx_cpu *c)
{
    free(lx_ir(c)->early);
    free(c);
}

enum lx_stop lx_ir_run(struct lx_cpu *c)
{
    return lx_rt_run(c->rt);
}

bool lx_ir_stubs(struct lx_rt *rt, struct jit_buf *b, const struct ir_pin *pin, unsigned nr_pins, struct ir_stubs *out,
                 struct err **errp)
{
    struct ir_env env = {.pin = pin, .nr_pins = nr_pins};
    const char *lacks = ir_host_lacks();

    if (lacks)
        return err_set(errp, "the translator needs a host CPU with %s", lacks);
    ir_make_stubs(b, &env, out);
    rt->stub.enter = out->enter;
    rt->stub.exit_dispatch = out->exit_pc;
    rt->stub.exit_link = out->exit_link;
    rt->stub.exit_signal = out->exit_signal;
    rt->stub.exit_interp = rt->stub.exit_syscall = rt->stub.exit_trap = out->exit_code;
    rt->stub.jump = out->jump;
    rt->stub.ret_bottom = out->ret_bottom;
    return true;
}

void lx_ir_ctx_init(struct lx_rt_thread *t)
{
    struct lx_ir_cpu *c = lx_ir(t->cpu);
    struct ir_ctx *x = t->ctx;

    memcpy(x, c->early, t->rt->front->ctx_size);
    free(c->early);
    c->early = NULL;
    c->state = x;
    x->self = x;
    x->poll = (uintptr_t)&x->poll_ok;
    t->view = lx_ir_view(x);
}

int lx_ir_enter(struct lx_rt_thread *t, const uint8_t *target, unsigned *code)
{
    struct ir_ctx *x = t->ctx;

    x->enter_target = target;
    x->ss_top = t->ss_top;
    switch (((unsigned (*)(void))(uintptr_t)t->rt->stub.enter)()) {
    case IR_EXIT_TO_PC:
        return LX_EXIT_DISPATCH;
    case IR_EXIT_TO_LINK:
        return LX_EXIT_LINK;
    case IR_EXIT_BY_SIGNAL:
        return LX_EXIT_SIGNAL;
    default:
        *code = (unsigned)x->t1;
        return LX_EXIT_INTERP;
    }
}

int lx_ir_trap(struct lx_rt_thread *t, int sig, int code, uint64_t addr)
{
    t->cpu->fault = (struct lx_fault){.sig = sig, .code = code, .addr = addr};
    return LX_EXIT_TRAP;
}

uint64_t lx_ir_pc(const struct lx_rt_thread *t)
{
    return lx_ir(t->cpu)->pc;
}

void lx_ir_set_pc(struct lx_rt_thread *t, uint64_t pc)
{
    lx_ir(t->cpu)->pc = pc;
}

void lx_ir_jc_set(struct lx_rt_thread *t, uint64_t pc, const uint8_t *host)
{
    struct ir_jc *j = &((struct ir_ctx *)t->ctx)->jc[ir_jc_hash(pc)];

    j->host = host;
    j->pc = pc;
}

void lx_ir_jc_clear(struct lx_rt_thread *t)
{
    ir_jc_clear(t->ctx);
}

void lx_ir_fix(struct lx_rt_thread *t, const struct jit_block *b, unsigned insn)
{
    ir_fix(t->ctx, b ? jit_block_mark(b, insn) : 0, t->sig_eflags);
}
