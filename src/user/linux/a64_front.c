/* The A64 translator as a front end of the user-mode runtime: contexts, reasons to leave translated code, and the
 * interpreter's access to memory (which is the process's own). */
#include "user/linux/a64_front.h"
#include "user/linux/direct.h"
#include "user/linux/map.h"

#include <signal.h>
#include <stdatomic.h>

static struct ir_stubs stubs; /* one translator per process */

static struct a64_cpu *ctx_of(const struct lx_rt_thread *t)
{
    return t->ctx;
}

static struct ir_env env_of(uint32_t first_link)
{
    return (struct ir_env){.loops = true,
                           .pin = a64_pins,
                           .nr_pins = a64_nr_pins,
                           .nan = IR_NAN_ARM,
                           .stubs = &stubs,
                           .first_link = first_link};
}

#define X_AT(n) offsetof(struct a64_cpu, x[n])
static bool make_stubs(struct lx_rt *rt, struct jit_buf *b, struct err **errp)
{
    static const struct lx_ir_call call = {
        A64_EXIT_SVC, X_AT(8), {X_AT(0), X_AT(1), X_AT(2), X_AT(3), X_AT(4), X_AT(5)}, X_AT(0)};
    struct ir_env env = env_of(0);

    if (!ir_make_stubs(b, &env, &stubs))
        return err_set(errp, "translator: no room for its shared code");
    lx_ir_direct(rt, b, a64_pins, a64_nr_pins, &call, &stubs);
    rt->stub = (struct lx_rt_stubs){.call_begin = rt->stub.call_begin,
                                    .call_end = rt->stub.call_end,
                                    .call_undo = rt->stub.call_undo,
                                    .enter = stubs.enter,
                                    .exit_interp = stubs.exit_code,
                                    .exit_dispatch = stubs.exit_pc,
                                    .exit_link = stubs.exit_link,
                                    .exit_signal = stubs.exit_signal,
                                    .exit_syscall = stubs.exit_code,
                                    .exit_trap = stubs.exit_code,
                                    .jump = stubs.jump,
                                    .ret_bottom = stubs.ret_bottom,
                                    .front = &stubs};
    return true;
}

/* ---- memory for the interpreter; faults are caught around it (lx_guarded) ---- */
static bool reachable(struct a64_cpu *c, uint64_t a, unsigned n)
{
    if (a < LX_TASK_MAX && n <= LX_TASK_MAX - a)
        return true;
    c->fault_addr = a;
    return false;
}

static bool mem_read(struct a64_cpu *c, uint64_t a, void *buf, unsigned n, bool exec)
{
    const void *p = (const void *)(uintptr_t)a;

    if (!reachable(c, a, n))
        return false;
    switch (n) { /* one access each: others may watch */
    case 2:
        memcpy(buf, p, 2);
        break;
    case 4:
        memcpy(buf, p, 4);
        break;
    case 8:
        memcpy(buf, p, 8);
        break;
    default:
        memcpy(buf, p, n);
        break;
    }
    return true;
}

static bool mem_write(struct a64_cpu *c, uint64_t a, const void *buf, unsigned n)
{
    void *p = (void *)(uintptr_t)a;

    if (!reachable(c, a, n))
        return false;
    switch (n) {
    case 2:
        memcpy(p, buf, 2);
        break;
    case 4:
        memcpy(p, buf, 4);
        break;
    case 8:
        memcpy(p, buf, 8);
        break;
    default:
        memcpy(p, buf, n);
        break;
    }
    return true;
}

static bool cas16(void *p, uint64_t old[2], const uint64_t v[2])
{
    bool done;

    __asm__ volatile("lock cmpxchg16b %1\n\tsete %0"
                     : "=q"(done), "+m"(*(char(*)[16])p), "+a"(old[0]), "+d"(old[1])
                     : "b"(v[0]), "c"(v[1])
                     : "memory", "cc");
    return done;
}

#define CAS(type)                                                                                                      \
    *done = __atomic_compare_exchange_n((type *)p, (type *)old, *(const type *)new_v, false, __ATOMIC_SEQ_CST,         \
                                        __ATOMIC_SEQ_CST)

static bool mem_cas(struct a64_cpu *c, uint64_t a, void *old, const void *new_v, unsigned n, bool *done)
{
    void *p = (void *)(uintptr_t)a;

    if (!reachable(c, a, n))
        return false;
    switch (n) {
    case 1:
        CAS(uint8_t);
        break;
    case 2:
        CAS(uint16_t);
        break;
    case 4:
        CAS(uint32_t);
        break;
    case 8:
        CAS(uint64_t);
        break;
    default:
        *done = cas16(p, old, new_v);
        break;
    }
    return true;
}
static const struct a64_mem_ops mem_ops = {mem_read, mem_write, mem_cas};

/* ---- the runtime's questions ---- */
static void ctx_init(struct lx_rt_thread *t)
{
    struct a64_lx *l = a64_lx(t->cpu);
    struct a64_cpu *c = t->ctx;

    memcpy(c, l->own, sizeof *c);
    ir_ctx_init(&c->jit);
    c->jit.flags = l->own->jit.flags;
    c->jit.mxcsr = l->own->jit.mxcsr;
    free(l->own);
    l->own = NULL;
    l->c = c;
    t->view = lx_ir_view(&c->jit);
}

static unsigned mode_of(struct lx_rt_thread *t)
{
    return a64_fp_special(ctx_of(t)->fpcr) ? A64_MODE_FP : 0;
}

static bool translate(struct lx_rt_thread *t, uint64_t pc, unsigned mode, size_t avail, uint32_t first_link,
                      struct jit_buf *b, struct jit_block_out *out)
{
    struct ir_env env = env_of(first_link);
    struct ir *s = t->front_data;
    size_t room = 4096 - (pc & 4095);
    struct jit_buf start = *b;

    if (!s)
        s = t->front_data = try_alloc(1, sizeof *s);
    if (!s)
        return false;
    s->calls_on = !t->rt->no_link && !t->rt->one_insn;
    s->forwards = true;
    if (avail > room)
        avail = room;
    for (unsigned max = t->rt->one_insn ? 1 : JIT_BLOCK_MAX_INSN - 1; max; max /= 2) {
        *b = start;
        if (!a64_translate(s, pc, mode, (const uint8_t *)(uintptr_t)pc, avail, max))
            return false;
        if (ir_compile(b, s, &env, out))
            return true;
    }
    return false;
}

static int enter(struct lx_rt_thread *t, const uint8_t *target)
{
    struct a64_cpu *c = ctx_of(t);

    c->jit.enter_target = target;
    c->jit.ss_top = t->ss_top;
    switch (((unsigned (*)(void))(uintptr_t)stubs.enter)()) {
    case IR_EXIT_TO_PC:
        return LX_EXIT_DISPATCH;
    case IR_EXIT_TO_LINK:
        return LX_EXIT_LINK;
    case IR_EXIT_BY_SIGNAL:
        return LX_EXIT_SIGNAL;
    default:
        break;
    }
    switch (c->jit.t1) {
    case A64_EXIT_SVC:
        return LX_EXIT_SYSCALL;
    case A64_EXIT_MODE:
        ir_jc_clear(&c->jit);
        c->jit.ss_rsp = t->ss_top;
        return LX_EXIT_DISPATCH;
    default:
        return LX_EXIT_INTERP; /* A64_EXIT_STEP, and IR_CODE_ALIGN: the interpreter says what is wrong */
    }
}

static uint64_t get_pc(const struct lx_rt_thread *t)
{
    return ctx_of(t)->pc;
}

static void set_pc(struct lx_rt_thread *t, uint64_t pc)
{
    ctx_of(t)->pc = pc;
}

static enum lx_stop step(struct lx_rt_thread *t)
{
    struct a64_cpu *c = ctx_of(t);
    unsigned mode = mode_of(t);

    switch (a64_step(c)) {
    case A64_OK:
    case A64_ICACHE:
        if (mode != mode_of(t)) {
            ir_jc_clear(&c->jit);
            c->jit.ss_rsp = t->ss_top;
        }
        return LX_STOP_KICK;
    case A64_DO_SVC:
        return LX_STOP_SYSCALL;
    case A64_DO_BRK:
        return lx_raise(t->cpu, SIGTRAP, TRAP_BRKPT, c->pc);
    case A64_ALIGN:
        return lx_raise(t->cpu, SIGBUS, BUS_ADRALN, c->fault_addr);
    case A64_FAULT:
        return lx_raise(t->cpu, SIGSEGV, SEGV_MAPERR, c->fault_addr);
    default:
        return lx_raise(t->cpu, SIGILL, ILL_ILLOPC, c->pc);
    }
}

static void jc_set(struct lx_rt_thread *t, uint64_t pc, const uint8_t *host)
{
    ctx_of(t)->jit.jc[ir_jc_hash(pc)] = (struct ir_jc){pc, host};
}

static const uint8_t *jc_get(const struct lx_rt_thread *t, uint64_t pc)
{
    return mode_of((struct lx_rt_thread *)t) ? NULL : lx_ir_jc_get(&ctx_of(t)->jit, pc);
}

static void jc_clear(struct lx_rt_thread *t)
{
    ir_jc_clear(&ctx_of(t)->jit);
}

const struct lx_front lx_a64_front = {.name = "arm64",
                                      .ctx_size = sizeof(struct a64_cpu),
                                      .leave_reg = JR_RDX,
                                      .calls_poll = true,
                                      .stubs = make_stubs,
                                      .ctx_init = ctx_init,
                                      .mode = mode_of,
                                      .translate = translate,
                                      .enter = enter,
                                      .pc = get_pc,
                                      .set_pc = set_pc,
                                      .step = step,
                                      .jc_set = jc_set,
                                      .jc_get = jc_get,
                                      .jc_clear = jc_clear,
                                      .fix = lx_ir_fix};

/* ---- the CPU ---- */
static struct a64_lx *new_cpu(void)
{
    struct a64_lx *l = try_alloc(1, sizeof *l);

    if (l)
        l->own = l->c = try_alloc_aligned(64, sizeof *l->own);
    if (!l || !l->own) {
        free(l);
        return NULL;
    }
    memset(l->own, 0, sizeof *l->own);
    a64_reset(l->own, &mem_ops, l);
    return l;
}

struct lx_cpu *lx_a64_new(struct lx_rt *rt, struct err **errp)
{
    const char *lacks = ir_host_lacks();
    struct a64_lx *l;

    if (lacks) {
        err_set(errp, "the translator needs a host CPU with %s", lacks);
        return NULL;
    }
    l = new_cpu();
    if (!l) {
        err_set(errp, "no memory for a CPU");
        return NULL;
    }
    return &l->lx;
}

struct lx_cpu *lx_a64_clone(const struct lx_cpu *from)
{
    const struct a64_cpu *o = a64_lx(from)->c;
    struct a64_lx *l = new_cpu();
    struct a64_cpu *c;

    if (!l)
        return NULL;
    c = l->c;
    memcpy(c->x, o->x, sizeof *c - offsetof(struct a64_cpu, x));
    c->jit.flags = o->jit.flags;
    c->jit.mxcsr = o->jit.mxcsr;
    c->ex_addr = ~UINT64_C(0);
    c->mem = &mem_ops;
    c->owner = l;
    return &l->lx;
}

void lx_a64_free(struct lx_cpu *c)
{
    free(a64_lx(c)->own);
    free(c);
}
