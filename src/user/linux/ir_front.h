/* What the guests of the superblock IR (jit/ir.h) have in common as front ends of the user-mode runtime (run.h).
 *
 * The context of a thread is the guest's state structure, whose head is struct ir_ctx: GS points at it. A CPU that has
 * no thread yet keeps its state in a structure of its own (`early`), which ctx_init moves into the context. */
#ifndef USER_LINUX_IR_FRONT_H
#define USER_LINUX_IR_FRONT_H

#include "jit/ir.h"
#include "user/linux/run.h"

struct lx_ir_cpu {
    struct lx_cpu lx;
    struct ir_ctx *state; /* the thread's context, or early */
    void *early;          /* owned; NULL once there is a thread */
    uint64_t pc;
};
static inline struct lx_ir_cpu *lx_ir(const struct lx_cpu *c)
{
    return (struct lx_ir_cpu *)c;
}

/* A CPU with state of size bytes, zeroed, its ir_ctx set up. from: copy the guest's state from there (NULL: none). */
struct lx_cpu *lx_ir_cpu_new(size_t size, const struct lx_cpu *from, struct err **errp);
void lx_ir_cpu_free(struct lx_cpu *c);
enum lx_stop lx_ir_run(struct lx_cpu *c);

/* Members of struct lx_front, or parts of them. */
bool lx_ir_stubs(struct lx_rt *rt, struct jit_buf *b, const struct ir_pin *pin, unsigned nr_pins, struct ir_stubs *out,
                 struct err **errp);
void lx_ir_ctx_init(struct lx_rt_thread *t);
/* Enters; an exit with a code is *code, and LX_EXIT_INTERP is returned for it: the guest's enter makes of it what it
 * is. */
int lx_ir_enter(struct lx_rt_thread *t, const uint8_t *target, unsigned *code);
/* Fills the fault and gives LX_EXIT_TRAP: for the guest's enter. */
int lx_ir_trap(struct lx_rt_thread *t, int sig, int code, uint64_t addr);
uint64_t lx_ir_pc(const struct lx_rt_thread *t);
void lx_ir_set_pc(struct lx_rt_thread *t, uint64_t pc);
void lx_ir_jc_set(struct lx_rt_thread *t, uint64_t pc, const uint8_t *host);
/* What the runtime may touch of a context. */
static inline struct lx_view lx_ir_view(struct ir_ctx *x)
{
    return (struct lx_view){.poll = &x->poll,
                            .poll_ok = (uintptr_t)&x->poll_ok,
                            .pc = &x->t0,
                            .link = &x->t1,
                            .ss_rsp = &x->ss_rsp,
                            .out = &x->out};
}
static inline const uint8_t *lx_ir_jc_get(const struct ir_ctx *x, uint64_t pc)
{
    const struct ir_jc *j = &x->jc[ir_jc_hash(pc)];

    return j->pc == pc ? j->host : NULL;
}
void lx_ir_jc_clear(struct lx_rt_thread *t);
/* .fix: needed by fronts whose ir_env has `loops`. */
void lx_ir_fix(struct lx_rt_thread *t, const struct jit_block *b, unsigned insn);

#endif
