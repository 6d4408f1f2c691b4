/* The x86 rewriter as a front end of the user-mode runtime: its stubs, how state moves between CPU and registers, and
 * the rare instructions.
 *
 * Registers as in guest/x86/rw.h; RFLAGS (arithmetic flags, DF, ID) stays the host's and is saved whole. */
#include "user/linux/x86_front.h"
#include "guest/x86/ops.h"
#include "user/linux/direct.h"
#include "user/linux/hot.h"
#include "user/linux/thread.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { T0 = JR_R10, T1 = JR_R11, HSP = JR_R9 };
enum { HOST_FLAGS = X86_ARITH | X86_DF | X86_ID | X86_AC };
#define CPU(f) ((int32_t)offsetof(struct x86_cpu, f))

static struct x86_features selected;
static enum x86_rw_vec host_vec;
static bool native_xsave;
static struct x86_stubs stubs;

/* ---- stubs ---- */

static const uint8_t *make_enter(struct jit_buf *b)
{
    const uint8_t *at = jit_here(b);

    x86_rw_enter_frame(b, host_vec);
    jit_load(b, JR_RSP, JIT_GS(X86_CTX(ss_rsp)));
    jit_load32(b, T1, JIT_GS(X86_CTX(flags)));
    jit_push(b, T1);
    jit_8(b, 0x9d); /* popfq */
    x86_rw_load_pinned(b);
    jit_load(b, T0, JIT_GS(X86_CTX(t0)));
    jit_load(b, T1, JIT_GS(X86_CTX(t1)));
    jit_jmp_mem(b, JIT_GS(X86_CTX(enter_target)));
    return at;
}

/* The common way out: T0, T1 saved by the caller of this piece, the reason in T1. */
static const uint8_t *make_exit(struct jit_buf *b)
{
    const uint8_t *at = jit_here(b);
    uint8_t *aligned;

    jit_store(b, JIT_GS(X86_CTX(ss_rsp)), JR_RSP);
    jit_8(b, 0x9c); /* pushfq */
    jit_pop(b, T0);
    jit_store32(b, JIT_GS(X86_CTX(flags)), T0);
    jit_8(b, 0xfc); /* cld */
    jit_op_reg(b, 0, 0xf7, 0, T0);
    jit_32(b, X86_AC); /* alignment checks are not for our own code */
    aligned = jit_jcc_fwd(b, JCC_E);
    jit_8(b, 0x6a); /* push */
    jit_8(b, 2);
    jit_8(b, 0x9d); /* popfq */
    jit_patch32(b, aligned);
    jit_load(b, T0, JIT_GS(X86_CTX(cpu)));
    x86_rw_store_pinned(b);
    x86_rw_leave_frame(b, host_vec);
    return at;
}

static const uint8_t *make_reason(struct jit_buf *b, const uint8_t *out, enum lx_exit why)
{
    const uint8_t *at = jit_here(b);

    jit_store(b, JIT_GS(X86_CTX(t0)), T0);
    jit_store(b, JIT_GS(X86_CTX(t1)), T1);
    jit_mov_ri(b, T1, why);
    jit_jmp(b, out);
    return at;
}

/* T0 = pc. Looks in the context's jump table without touching flags. A kick makes the index 0 and entry 0 invalid. */
static const uint8_t *make_jump(struct jit_buf *b, const uint8_t *dispatch)
{
    const uint8_t *at = jit_here(b);
    uint8_t *hit;

    jit_store(b, JIT_GS(X86_CTX(save_rcx)), JR_RCX);
    x86_rw_jc(b);
    jit_load(b, JR_RCX, JIT_GSX(T1, 8, X86_CTX(jc_neg)));
    jit_lea(b, JR_RCX, JIT_SUM(JR_RCX, T0));
    hit = jit_jrcxz_fwd(b);
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(save_rcx)));
    jit_jmp(b, dispatch);
    jit_patch8(b, hit);
    jit_load(b, JR_RCX, JIT_GS(X86_CTX(save_rcx)));
    jit_jmp_mem(b, JIT_GSX(T1, 8, X86_CTX(jc_host)));
    return at;
}

static void come_inside(struct jit_buf *b)
{
    jit_mov_ri(b, JR_RCX, 1);
    jit_op_mem(b, 0, 0x87, JR_RCX, JIT_GS(X86_CTX(out.inside)), 0); /* xchg: a barrier */
}

/* SYSCALL of 64-bit code, T0 = the pc behind it, see direct.h: most registers are where the host's kernel wants them.
 * Keeps flags. RCX and R11 become what SYSCALL makes of them. */
static const uint8_t *make_syscall(struct lx_rt_stubs *s, struct jit_buf *b)
{
    static const uint8_t shrx[] = {0xc4, 0xe2, 0xa3, 0xf7, 0xc8}; /* rcx = rax >> r11 */
    const uint8_t *at = jit_here(b);
    uint8_t *go, *large, *other, *failed, *held;

    jit_store(b, JIT_GS(X86_CTX(t0)), T0);
    jit_store(b, JIT_GS(X86_CTX(save_rax)), JR_RAX);
    jit_mov_ri(b, T1, LX_DIRECT_SHIFT);
    for (unsigned i = 0; i < ARRAY_LEN(shrx); i++)
        jit_8(b, shrx[i]);
    go = jit_jrcxz_fwd(b);
    large = jit_jmp_fwd(b);
    jit_patch8(b, go);
    jit_mov_ri(b, T1, (uintptr_t)lx_direct);
    jit_op_mem(b, 0, 0x0fb7, JR_RCX, (struct jit_mem){T1, JR_RAX, 2, false, 0}, 0); /* movzx */
    go = jit_jrcxz_fwd(b);
    jit_store(b, JIT_GS(X86_CTX(tmp)), HSP);
    jit_load(b, JR_R9, JIT_GS(X86_CTX(home[0])));
    jit_load(b, JR_R10, JIT_GS(X86_CTX(home[1])));
    jit_store32_imm(b, JIT_GS(X86_CTX(out.inside)), 0);
    other = jit_jmp8_fwd(b);
    jit_patch8(b, go);
    held = jit_jmp_fwd(b);
    jit_patch8(b, other);
    other = held;
    s->call_begin = jit_here(b);
    jit_load32(b, JR_RCX, JIT_GS(X86_CTX(out.hold)));
    go = jit_jrcxz_fwd(b);
    held = jit_jmp_fwd(b);
    jit_patch8(b, go);
    jit_8(b, 0x0f); /* syscall */
    jit_8(b, 0x05);
    s->call_end = jit_here(b);
    jit_store(b, JIT_GS(X86_CTX(home[2])), T1); /* RFLAGS */
    jit_load(b, HSP, JIT_GS(X86_CTX(tmp)));
    jit_load(b, T0, JIT_GS(X86_CTX(t0)));
    come_inside(b);
    jit_lea(b, JR_RCX, JIT_BASE(JR_RAX, EFAULT));
    failed = jit_jrcxz_fwd(b);
    x86_rw_jc(b); /* a hold makes every jump miss */
    jit_load(b, JR_RCX, JIT_GSX(T1, 8, X86_CTX(jc_neg)));
    jit_lea(b, JR_RCX, JIT_SUM(JR_RCX, T0));
    go = jit_jrcxz_fwd(b);
    jit_mov_rr(b, JR_RCX, T0);
    jit_jmp(b, s->exit_dispatch);
    jit_patch8(b, go);
    jit_mov_rr(b, JR_RCX, T0);
    jit_jmp_mem(b, JIT_GSX(T1, 8, X86_CTX(jc_host)));
    jit_patch32(b, held);
    s->call_undo = jit_here(b);
    jit_load(b, HSP, JIT_GS(X86_CTX(tmp)));
    jit_load(b, T0, JIT_GS(X86_CTX(t0)));
    come_inside(b);
    held = jit_jmp8_fwd(b);
    jit_patch8(b, failed);
    jit_store32_imm(b, JIT_GS(X86_CTX(out.failed)), 1);
    jit_patch8(b, held);
    jit_load(b, JR_RAX, JIT_GS(X86_CTX(save_rax)));
    jit_patch32(b, large);
    jit_patch32(b, other);
    jit_mov_rr(b, JR_RCX, T0);
    jit_jmp(b, s->exit_syscall);
    return at;
}

static bool make_stubs(struct lx_rt *rt, struct jit_buf *b, struct err **errp)
{
    struct lx_rt_stubs *s = &rt->stub;
    const uint8_t *out, *link;

    s->enter = make_enter(b);
    out = make_exit(b);
    s->exit_interp = make_reason(b, out, LX_EXIT_INTERP);
    s->exit_dispatch = make_reason(b, out, LX_EXIT_DISPATCH);
    link = make_reason(b, out, LX_EXIT_LINK_AT);
    s->exit_link = x86_rw_called_stub(b, link, false);
    s->exit_call = x86_rw_called_stub(b, link, true);
    s->exit_leave = x86_rw_called_stub(b, make_reason(b, out, LX_EXIT_LEAVE), false);
    s->exit_signal = make_reason(b, out, LX_EXIT_SIGNAL);
    s->exit_syscall = make_reason(b, out, LX_EXIT_SYSCALL);
    s->jump = make_jump(b, s->exit_dispatch);
    if (!lx_is32())
        s->exit_syscall = make_syscall(s, b);
    s->ret_miss = x86_rw_ret_miss_stub(b, s->jump);
    s->ret_bottom = x86_rw_ret_bottom_stub(b, s->jump); /* RCX is in its place */
    stubs = (struct x86_stubs){.enter = s->enter,
                               .exit_interp = s->exit_interp,
                               .exit_dispatch = s->exit_dispatch,
                               .exit_link = s->exit_link,
                               .exit_call = s->exit_call,
                               .exit_leave = s->exit_leave,
                               .exit_signal = s->exit_signal,
                               .exit_syscall = s->exit_syscall,
                               .jump = s->jump,
                               .ret_miss = s->ret_miss};
    return true;
}

/* ---- the runtime's questions ---- */

static void ctx_init(struct lx_rt_thread *t)
{
    struct x86_ctx *x = t->ctx;

    x->cpu = x86_lx(t->cpu)->c;
    x->jc_mask = x->jc_mask_hit = X86_JC_MASK;
    x->poll = (uintptr_t)&x->poll_ok;
    t->view = (struct lx_view){.poll = &x->poll,
                               .poll_ok = (uintptr_t)&x->poll_ok,
                               .pc = &x->t0,
                               .link = &x->t1,
                               .hot_pc = &x->branch_pc,
                               .ss_rsp = &x->ss_rsp,
                               .out = &x->out};
}

static unsigned mode_of(struct lx_rt_thread *t)
{
    return (x86_lx(t->cpu)->m64 ? X86_RWM_64 : 0u) | X86_RWM_USER | X86_RWM_FPU | X86_RWM_SSE |
           (host_vec != X86_RWV_SSE ? X86_RWM_AVX : 0u) |
           (x86_lx(t->cpu)->c->wide && (x86_lx(t->cpu)->c->xcr0 & 0xe0) ? X86_RWM_AVX512 : 0u) | X86_RWM_FS |
           X86_RWM_GS | X86_RWM_FLAT | (t->rt->one_insn ? X86_RWM_ONE : 0u);
}

static size_t reach(void *arg, uint64_t pc, bool watch)
{
    return lx_rt_reach(arg, pc, watch);
}

static uint64_t way(void *arg, uint64_t pc, bool *count)
{
    return lx_hot_way(arg, pc, count);
}

static bool translate(struct lx_rt_thread *t, uint64_t pc, unsigned mode, size_t avail, uint32_t first_link,
                      struct jit_buf *b, struct jit_block_out *out)
{
    uint32_t no_slots = 0;
    struct x86_rw_env env = {.stubs = &stubs,
                             .calls = true,
                             .feat = &x86_lx(t->cpu)->c->feat,
                             .mode = mode,
                             .pc = pc,
                             .code = (const uint8_t *)(uintptr_t)pc,
                             .avail = avail,
                             .first_link = first_link,
                             .next_slot = &no_slots,
                             .vex = host_vec != X86_RWV_SSE,
                             .loop = __builtin_cpu_is("amd"),
                             .native_xsave = native_xsave,
                             .reach = reach,
                             .way = t->rt->no_link ? NULL : way,
                             .arg = t->rt};

    return x86_rw_block(b, &env, out);
}

static void fix(struct lx_rt_thread *t, const struct jit_block *b, unsigned insn)
{
    const struct x86_ctx *x = t->ctx;
    uint64_t *regs = x86_lx(t->cpu)->c->regs;

    if (b && jit_block_mark(b, insn) == X86_RW_KEEPS) {
        regs[10] = x->t0;
        regs[11] = x->t1;
    } else if (b)
        regs[X86_RSP] += (uint64_t)(int64_t)x86_rw_sp_of(jit_block_mark(b, insn));
}

static int enter(struct lx_rt_thread *t, const uint8_t *target)
{
    struct x86_cpu *c = x86_lx(t->cpu)->c;
    struct x86_ctx *x = t->ctx;
    int why;

    if (!c->x87_live)
        x86_x87_load(c);
    if (unlikely(c->wide != x86_lx(t->cpu)->wide)) {
        /* Blocks made from here on have AVX-512, and nothing leads to those made before, which have not. */
        x86_lx(t->cpu)->wide = c->wide;
        x86_jc_clear(x);
        x->ss_rsp = t->ss_top;
    }
    x->seg_base[X86_FS] = c->seg[X86_FS].base;
    x->seg_base[X86_GS] = c->seg[X86_GS].base;
    x->flags = (uint32_t)(c->rflags & HOST_FLAGS) | X86_IF | 2;
    x->wide_away = !c->wide;
    x->enter_target = target;
    why = ((int (*)(void))(uintptr_t)t->rt->stub.enter)();
    c->rflags = (c->rflags & ~(uint64_t)HOST_FLAGS) | (x->flags & HOST_FLAGS);
    return why;
}

static uint64_t get_pc(const struct lx_rt_thread *t)
{
    return x86_lx(t->cpu)->c->rip;
}

static void set_pc(struct lx_rt_thread *t, uint64_t pc)
{
    x86_lx(t->cpu)->c->rip = pc;
}

static void kick(struct lx_rt_thread *t, bool stop)
{
    struct x86_ctx *x = t->ctx;

    if (stop)
        x86_jc_stop(x, stubs.exit_dispatch);
    else
        x->jc_mask = X86_JC_MASK;
}

static void jc_set(struct lx_rt_thread *t, uint64_t pc, const uint8_t *host)
{
    struct x86_ctx *x = t->ctx;

    x->jc_host[x86_jc(pc)] = host;
    x->jc_neg[x86_jc(pc)] = -pc;
}

static const uint8_t *jc_get(const struct lx_rt_thread *t, uint64_t pc)
{
    const struct x86_ctx *x = t->ctx;

    return x->jc_neg[x86_jc(pc)] == -pc ? x->jc_host[x86_jc(pc)] : NULL;
}

static void jc_clear(struct lx_rt_thread *t)
{
    x86_jc_clear(t->ctx);
}

/* ---- rare instructions ---- */

static void raise_exception(struct x86_lx *x, int vec)
{
    struct lx_fault *f = &x->lx.fault;
    uint64_t pc = x->c->rip;

    *f = (struct lx_fault){.trap = (uint64_t)vec, .err = x->c->exc.err, .addr = pc};
    switch (vec) {
    case X86_DE:
        f->sig = SIGFPE;
        f->code = FPE_INTDIV;
        break;
    case X86_DB:
    case X86_BP:
        f->sig = SIGTRAP;
        f->code = vec == X86_DB ? TRAP_TRACE : SI_KERNEL;
        f->addr = vec == X86_DB ? pc : 0;
        break;
    case X86_UD:
        f->sig = SIGILL;
        f->code = ILL_ILLOPN;
        break;
    case X86_MF:
    case X86_XM:
        f->sig = SIGFPE;
        f->code = FPE_FLTINV;
        break;
    case X86_VEC_AC:
        f->sig = SIGBUS;
        f->code = BUS_ADRALN;
        f->addr = 0;
        break;
    default:
        f->sig = vec == X86_VEC_SS ? SIGBUS : SIGSEGV;
        f->code = SI_KERNEL;
        f->addr = 0;
        break;
    }
}

/* CPUID as the selected model has it; topology and caches are one processor's. */
static void cpuid(struct x86_cpu *c)
{
    uint32_t out[4];

    x86_cpuid(c, (uint32_t)c->regs[X86_RAX], (uint32_t)c->regs[X86_RCX], out);
    c->regs[X86_RAX] = out[0];
    c->regs[X86_RBX] = out[1];
    c->regs[X86_RCX] = out[2];
    c->regs[X86_RDX] = out[3];
}

static enum lx_stop software_int(struct x86_lx *x, unsigned op, uint64_t imm, unsigned len)
{
    if (op == X86_I_INT && imm == 0x80) {
        x->c->rip += len;
        return LX_STOP_SYSCALL;
    }
    if (op == X86_I_INT3 || (op == X86_I_INT && imm == 3)) {
        x->c->rip += len;
        raise_exception(x, X86_BP);
        return LX_STOP_SIGNAL;
    }
    x->c->exc.err = (uint32_t)imm * 8 + 2;
    raise_exception(x, X86_GP);
    return LX_STOP_SIGNAL;
}

static enum lx_stop step(struct lx_rt_thread *t)
{
    struct x86_lx *x = x86_lx(t->cpu);
    struct x86_cpu *c = x->c;
    uint64_t imm = 0;
    unsigned len = 0, op;
    int vec;

    op = x86_user_peek(c, &imm, &len);
    c->exc.err = 0;
    switch (op) {
    case X86_I_CPUID:
        cpuid(c);
        c->rip += len;
        return LX_STOP_KICK;
    case X86_I_INT:
    case X86_I_INT3:
        return software_int(x, op, imm, len);
    case X86_I_SYSCALL:
        if (x->m64) {
            c->rip += len;
            return LX_STOP_SYSCALL;
        }
        break;
    case X86_I_XGETBV:
        if (c->regs[X86_RCX] == 1)
            c->regs[X86_RAX] = c->xcr0;
        break;
    default:
        break;
    }
    if (!x->m64)
        c->rip = (uint32_t)c->rip;
    x86_x87_sync(c); /* a fault leaves the instruction in the middle: the state is in memory then */
    vec = x86_user_step(c);
    if (vec < 0)
        return LX_STOP_KICK;
    raise_exception(x, vec);
    return LX_STOP_SIGNAL;
}

const struct lx_front lx_x86_front = {.name = "x86",
                                      .ctx_size = sizeof(struct x86_ctx),
                                      .leave_reg = T0,
                                      .stubs = make_stubs,
                                      .ctx_init = ctx_init,
                                      .mode = mode_of,
                                      .translate = translate,
                                      .enter = enter,
                                      .fix = fix,
                                      .pc = get_pc,
                                      .set_pc = set_pc,
                                      .step = step,
                                      .jc_set = jc_set,
                                      .jc_get = jc_get,
                                      .jc_clear = jc_clear,
                                      .kick = kick,
                                      .steps_out = true,
                                      .poll_restarts = true};

/* ---- the CPU ---- */

static uint64_t host_xcr0(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a | (uint64_t)d << 32;
}

bool lx_x86_select(const char *text, struct err **errp)
{
    const struct x86_model *model;

    __builtin_cpu_init();
    if (!__builtin_cpu_supports("bmi2"))
        return err_set(errp, "the translator needs a host CPU with BMI2");
    host_vec = x86_rw_host_vec();
    if (!text || !strcmp(text, "max") || !strcmp(text, "host"))
        x86_features_max(&selected);
    else if (!x86_cpu_parse_model(text, NULL, &selected, &model, errp))
        return false;
    selected.hypervisor = false;
    if (!(host_xcr0() & X86_XCR0_PKRU)) /* memory has the host kernel's keys or none */
        x86_features_set(&selected, "pku", false);
    x86_xsave_as_host(&selected);
    native_xsave = x86_user_xcr0(&selected) == host_xcr0();
    return true;
}

char *lx_x86_help(void)
{
    return x86_model_help();
}

uint64_t lx_x86_xcr0(void)
{
    return x86_user_xcr0(&selected);
}

uint64_t lx_x86_hwcap(void)
{
    return selected.w[X86_FW_1_EDX];
}

uint64_t lx_x86_descriptor(uint32_t base, unsigned access)
{
    return 0xffff | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 | UINT64_C(0xcf) << 48 |
           (uint64_t)(base >> 24) << 56;
}

static struct lx_cpu *wrap(struct x86_cpu *c, bool m64)
{
    struct x86_lx *x = xnew(struct x86_lx);

    x->c = c;
    x->m64 = m64;
    x->gdt[4] = lx_x86_descriptor(0, 0xfa);
    x->gdt[5] = lx_x86_descriptor(0, 0xf2);
    c->gdt.base = (uintptr_t)x->gdt;
    c->gdt.limit = sizeof x->gdt - 1;
    return &x->lx;
}

struct lx_cpu *lx_x86_new(struct lx_rt *rt, bool m64, struct err **errp)
{
    struct x86_cpu *c = x86_user_new(&selected, m64);

    if (!c) {
        err_set(errp, "no memory for a CPU");
        return NULL;
    }
    return wrap(c, m64);
}

struct lx_cpu *lx_x86_clone(const struct lx_cpu *from)
{
    struct x86_lx *o = x86_lx(from), *x;
    struct x86_cpu *c = x86_user_new(&o->c->feat, o->m64);

    if (!c)
        return NULL;
    x86_x87_sync(o->c);
    x = x86_lx(wrap(c, o->m64));
    memcpy(c->regs, o->c->regs, sizeof c->regs);
    memcpy(c->seg, o->c->seg, sizeof c->seg);
    memcpy(c->v, o->c->v, sizeof c->v);
    memcpy(c->k, o->c->k, sizeof c->k);
    c->wide = o->c->wide;
    c->upper = o->c->upper;
    memcpy(x->gdt_tls, o->gdt_tls, sizeof x->gdt_tls);
    memcpy(x->gdt, o->gdt, sizeof x->gdt);
    c->rip = o->c->rip;
    c->rflags = o->c->rflags;
    c->fx = o->c->fx;
    return &x->lx;
}

void lx_x86_free(struct lx_cpu *c)
{
    x86_user_free(x86_lx(c)->c);
    free(c);
}

enum lx_stop lx_x86_run(struct lx_cpu *c)
{
    return lx_rt_run(c->rt);
}

/* ---- XSAVE images, standard format (SDM vol. 1, 13.4) ---- */

enum { XS_XCR0 = 464, XS_HEADER = 512, C_YMM = 2, C_K = 5, C_ZMM_HI = 6, C_HI16 = 7, AVX = 4, AVX512 = 0xe0 };

uint64_t lx_x86_xsave_mask(const struct x86_lx *x)
{
    return x->c->xcr0 & (3 | AVX | AVX512);
}

unsigned lx_x86_xsave_size(const struct x86_lx *x)
{
    return x->c->xcr0 & AVX ? x86_xsave_size(&x->c->feat, lx_x86_xsave_mask(x), false) : 512;
}

static uint8_t *part(const struct x86_lx *x, uint8_t *image, unsigned component)
{
    uint32_t size, off;

    x86_xsave_component(&x->c->feat, component, &size, &off);
    return image + off;
}

void lx_x86_xsave_out(struct x86_lx *x, uint8_t *image)
{
    struct x86_cpu *c = x->c;
    uint8_t *hi = part(x, image, C_ZMM_HI), *ymm = part(x, image, C_YMM);
    bool wide = c->wide && c->xcr0 & AVX512;

    x86_x87_sync(c);
    memset(image, 0, lx_x86_xsave_size(x));
    memcpy(image, &c->fx, 160);
    put_le32(image + 28, 0xffff);
    for (unsigned i = 0; i < 16; i++)
        memcpy(image + 160 + 16 * i, c->v[i].b, 16);
    if (!(c->xcr0 & AVX))
        return;
    put_le64(image + XS_HEADER, 7 | (wide ? AVX512 : 0u));
    for (unsigned i = 0; i < 16; i++)
        memcpy(ymm + 16 * i, c->v[i].b + 16, 16);
    if (!wide)
        return;
    memcpy(part(x, image, C_K), c->k, 64);
    for (unsigned i = 0; i < 16; i++)
        memcpy(hi + 32 * i, c->v[i].b + 32, 32);
    memcpy(part(x, image, C_HI16), c->v + 16, 1024);
}

static void wide_in(struct x86_lx *x, uint8_t *image, uint64_t have)
{
    static uint8_t zero[1024];
    struct x86_cpu *c = x->c;
    const uint8_t *hi = have & 1 << C_ZMM_HI ? part(x, image, C_ZMM_HI) : zero;

    if (have & AVX512)
        x86_note_upper(c);
    else if (!c->wide)
        return; /* it was never anything but zero */
    memcpy(c->k, have & 1 << C_K ? part(x, image, C_K) : zero, 64);
    for (unsigned i = 0; i < 16; i++)
        memcpy(c->v[i].b + 32, hi + (hi == zero ? 0 : 32 * i), 32);
    memcpy(c->v + 16, have & 1 << C_HI16 ? part(x, image, C_HI16) : zero, 1024);
}

void lx_x86_xsave_in(struct x86_lx *x, uint8_t *image, bool extended)
{
    struct x86_cpu *c = x->c;
    uint64_t have = extended && c->xcr0 & AVX ? get_le64(image + XS_HEADER) & c->xcr0 : 3;
    const uint8_t *ymm = part(x, image, C_YMM);

    x86_x87_sync(c);
    memcpy(&c->fx, image, 160);
    c->fx.mxcsr &= 0xffff;
    for (unsigned i = 0; i < 16; i++) {
        memcpy(c->v[i].b, image + 160 + 16 * i, 16);
        if (have & AVX)
            memcpy(c->v[i].b + 16, ymm + 16 * i, 16);
        else
            memset(c->v[i].b + 16, 0, 16);
    }
    if (c->xcr0 & AVX512)
        wide_in(x, image, have);
}

uint64_t lx_x86_sigstack(unsigned frame)
{
    uint64_t mask = lx_x86_xcr0() & (3 | AVX | AVX512);

    return align_up(frame + 15 + 63 + 4 + (mask & AVX ? x86_xsave_size(&selected, mask, false) : 512u), 16);
}

/* With XCR0 where debuggers look for it, in the bytes software may use. */
unsigned lx_x86_fp_get(struct lx_cpu *lc, uint8_t *image)
{
    struct x86_lx *x = x86_lx(lc);

    lx_x86_xsave_out(x, image);
    put_le64(image + XS_XCR0, lx_x86_xsave_mask(x));
    return lx_x86_xsave_size(x);
}

void lx_x86_fp_set(struct lx_cpu *lc, uint8_t *image)
{
    lx_x86_xsave_in(x86_lx(lc), image, true);
}
