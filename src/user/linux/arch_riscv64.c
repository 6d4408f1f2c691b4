/* RISC-V (RV64GC) guests: the front end over guest/riscv, registers, system call convention, signal frames, auxiliary
 * vector. After the RISC-V ELF psABI and struct rt_sigframe as Linux builds it. */
#include "guest/riscv/riscv.h"
#include "user/linux/direct.h"
#include "user/linux/map.h"
#include "user/linux/sysnr_tables.h"
#include "user/linux/vdso.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { X_RA = 1, X_SP = 2, X_TP = 4, X_A0 = 10, X_A7 = 17 };
enum { NR_RT_SIGRETURN = 139, NR_FLUSH_ICACHE = 259 };
/* The frame: siginfo, ucontext. */
enum { F_INFO = 0, F_UC = 128, F_SIZE = F_UC + 176 + 784 };
enum {
    UC_SP = 16,
    UC_SS_FLAGS = 24,
    UC_SS_SIZE = 32,
    UC_MASK = 40,
    UC_PC = 176,
    UC_F = 176 + 256,
    UC_FCSR = UC_F + 256
};
enum { HWCAP = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 12 }; /* A C D F I M */

static struct ir_stubs stubs;     /* of the process's one translator */
static struct rv_decoder decoder; /* filled when it is made */
static struct ir *ir;             /* work space of translate, which runs under the cache's lock */

static struct rv_state *state_of(const struct lx_cpu *c)
{
    return (struct rv_state *)lx_ir(c)->state;
}

/* ---- front end ---- */

#define X_AT(n) offsetof(struct rv_state, x[n])
static bool make_stubs(struct lx_rt *rt, struct jit_buf *b, struct err **errp)
{
    static const struct lx_ir_call call = {
        RV_CODE_ECALL,
        X_AT(X_A7),
        {X_AT(X_A0), X_AT(X_A0 + 1), X_AT(X_A0 + 2), X_AT(X_A0 + 3), X_AT(X_A0 + 4), X_AT(X_A0 + 5)},
        X_AT(X_A0)};

    rv_decoder_init(&decoder);
    ir = xcalloc(1, sizeof *ir);
    ir->forwards = true;
    if (!lx_ir_stubs(rt, b, rv_pins, rv_nr_pins, &stubs, errp))
        return false;
    lx_ir_direct(rt, b, rv_pins, rv_nr_pins, &call, &stubs);
    return true;
}

static bool executable(uint64_t addr)
{
    int prot = lx_map_prot(addr);

    return prot >= 0 && prot & PROT_EXEC;
}

static unsigned mode_of(struct lx_rt_thread *t)
{
    return 0;
}

static bool translate(struct lx_rt_thread *t, uint64_t pc, unsigned mode, size_t avail, uint32_t first_link,
                      struct jit_buf *b, struct jit_block_out *out)
{
    struct ir_env env = {.loops = true,
                         .pin = rv_pins,
                         .nr_pins = rv_nr_pins,
                         .nan = IR_NAN_DEFAULT,
                         .stubs = &stubs,
                         .first_link = first_link};
    const uint8_t *code = (const uint8_t *)(uintptr_t)pc;
    uint64_t page_left = 4096 - (pc & 4095);
    unsigned max = t->rt->one_insn ? 1 : JIT_BLOCK_MAX_INSN;
    bool ok = false;

    if (avail > page_left)
        avail = page_left;
    while (max && !ok) {
        b->p = b->start;
        b->full = false;
        if (!rv_translate(&decoder, ir, pc, code, avail, executable(pc + page_left) ? code + avail : NULL, max))
            break;
        ok = ir_compile(b, ir, &env, out);
        max /= 2;
    }
    if (ok)
        out->tail_no = pc / 4096 + 1; /* where the last instruction may end */
    return ok;
}

static int enter(struct lx_rt_thread *t, const uint8_t *target)
{
    struct rv_state *s = t->ctx;
    unsigned code = 0;
    int why = lx_ir_enter(t, target, &code);

    if (why != LX_EXIT_INTERP)
        return why;
    switch (code) {
    case RV_CODE_ECALL:
        s->orig_a0 = s->x[X_A0];
        return LX_EXIT_SYSCALL;
    case RV_CODE_EBREAK:
        return lx_ir_trap(t, SIGTRAP, TRAP_BRKPT, s->ir.t0);
    case RV_CODE_FENCE_I:
        return LX_EXIT_DISPATCH;
    case IR_CODE_ALIGN: /* of an LR, SC or AMO, whose rs1 is the address */
        return lx_ir_trap(t, SIGBUS, BUS_ADRALN, s->x[get_le32((const uint8_t *)(uintptr_t)s->ir.t0) >> 15 & 31]);
    default:
        return lx_ir_trap(t, SIGILL, ILL_ILLOPC, s->ir.t0);
    }
}

/* The host does not say where a fault beyond its address space was, and calls one of its stack's registers a bus error:
 * the instruction says. */
static enum lx_stop run(struct lx_cpu *lc)
{
    enum lx_stop stop = lx_ir_run(lc);
    const struct rv_state *s = lc->rt->ctx;
    const uint8_t *p;
    uint32_t w;
    bool store;

    if (stop != LX_STOP_SIGNAL || lc->fault.code != SI_KERNEL)
        return stop;
    p = (const uint8_t *)(uintptr_t)lx_ir_pc(lc->rt);
    w = (*p & 3) == 3 ? get_le32(p) : rv_expand(get_le16(p));
    store = (w & 0x77) == 0x23; /* STORE, STORE-FP */
    lc->fault.sig = SIGSEGV;
    lc->fault.code = SEGV_MAPERR;
    lc->fault.addr = s->x[w >> 15 & 31];
    if (store)
        lc->fault.addr += (uint64_t)((int64_t)((int32_t)w >> 25 << 5) | (w >> 7 & 31));
    else if ((w & 0x77) == 0x03) /* LOAD, LOAD-FP */
        lc->fault.addr += (uint64_t)(int64_t)((int32_t)w >> 20);
    return stop;
}

/* Everything is translated: what comes here is an instruction to be run again, or one that cannot be fetched whole. */
static enum lx_stop step(struct lx_rt_thread *t)
{
    uint64_t pc = lx_ir_pc(t), next = (pc | 4095) + 1;

    if ((pc & 4095) == 4094 && (*(const uint16_t *)(uintptr_t)pc & 3) == 3 && !executable(next))
        return lx_raise(t->cpu, SIGSEGV, lx_map_prot(next) < 0 ? SEGV_MAPERR : SEGV_ACCERR, next);
    return LX_STOP_KICK;
}

static const uint8_t *jc_get(const struct lx_rt_thread *t, uint64_t pc)
{
    return lx_ir_jc_get(t->ctx, pc);
}

static const struct lx_front riscv_front = {.name = "riscv64",
                                            .ctx_size = sizeof(struct rv_state),
                                            .leave_reg = JR_RDX,
                                            .calls_poll = true,
                                            .stubs = make_stubs,
                                            .ctx_init = lx_ir_ctx_init,
                                            .mode = mode_of,
                                            .translate = translate,
                                            .enter = enter,
                                            .pc = lx_ir_pc,
                                            .set_pc = lx_ir_set_pc,
                                            .step = step,
                                            .resumes = true,
                                            .fix = lx_ir_fix,
                                            .jc_set = lx_ir_jc_set,
                                            .jc_get = jc_get,
                                            .jc_clear = lx_ir_jc_clear};

/* ---- the CPU ---- */

static bool cpu_select(const char *text, struct err **errp)
{
    const char *lacks = ir_host_lacks();

    if (lacks)
        return err_set(errp, "the translator needs a host CPU with %s", lacks);
    if (text && strcmp(text, "rv64") && strcmp(text, "max") && strcmp(text, "any"))
        return err_set(errp, "unknown CPU '%s' (known: rv64, max)", text);
    return true;
}

static char *cpu_help(void)
{
    return strdup("rv64\nmax\n");
}

static struct lx_cpu *cpu_new(struct lx_rt *rt, struct err **errp)
{
    struct lx_cpu *c = lx_ir_cpu_new(sizeof(struct rv_state), NULL, errp);

    if (c)
        rv_reset(state_of(c));
    return c;
}

static struct lx_cpu *cpu_clone(const struct lx_cpu *from)
{
    return lx_ir_cpu_new(sizeof(struct rv_state), from, NULL);
}

static void exec_state(struct lx_cpu *c, uint64_t entry, uint64_t sp)
{
    struct rv_state *s = state_of(c);

    memset(s->x, 0, sizeof s->x);
    memset(s->f, 0, sizeof s->f);
    rv_reset(s);
    s->x[X_SP] = sp;
    lx_ir(c)->pc = entry;
}

static uint64_t *reg(const struct lx_cpu *c, enum lx_reg r)
{
    struct rv_state *s = state_of(c);

    switch (r) {
    case LX_PC:
        return &lx_ir(c)->pc;
    case LX_SP:
        return &s->x[X_SP];
    case LX_TLS:
        return &s->x[X_TP];
    case LX_SYSNO:
        return &s->x[X_A7];
    case LX_RET:
        return &s->x[X_A0];
    default:
        return &s->x[X_A0 + (r - LX_ARG0)];
    }
}

static uint64_t get(const struct lx_cpu *c, enum lx_reg r)
{
    return *reg(c, r);
}

static void set(struct lx_cpu *c, enum lx_reg r, uint64_t v)
{
    *reg(c, r) = v;
}

static void sys_result(struct lx_cpu *c, int64_t v)
{
    state_of(c)->x[X_A0] = (uint64_t)v;
}

static void sys_restart(struct lx_cpu *c)
{
    lx_ir(c)->pc -= 4;
    state_of(c)->x[X_A0] = state_of(c)->orig_a0;
}

static bool sys_own(struct lx_cpu *c, uint64_t nr, const uint64_t a[6], int64_t *ret)
{
    if (nr != NR_FLUSH_ICACHE)
        return false;
    if (a[1] > a[0])
        lx_rt_code_changed(c->rt->rt, a[0], a[1] - a[0]);
    *ret = 0;
    return true;
}

/* ---- signal frames ---- */

static bool frame_push(struct lx_cpu *c, const struct lx_sigframe *f)
{
    struct rv_state *s = state_of(c);
    uint8_t frame[F_SIZE] = {0}, *uc = frame + F_UC;
    uint64_t sp = (f->sp - F_SIZE) & ~UINT64_C(15);

    lx_siginfo_out(frame + F_INFO, f->info, 8);
    put_le64(uc + UC_SP, f->alt_sp);
    put_le32(uc + UC_SS_FLAGS, f->alt_flags);
    put_le64(uc + UC_SS_SIZE, f->alt_size);
    put_le64(uc + UC_MASK, f->mask);
    put_le64(uc + UC_PC, lx_ir(c)->pc);
    for (unsigned i = 1; i < 32; i++)
        put_le64(uc + UC_PC + 8 * i, s->x[i]);
    for (unsigned i = 0; i < 32; i++)
        put_le64(uc + UC_F + 8 * i, s->f[i].d[0]);
    put_le32(uc + UC_FCSR, rv_get_fcsr(s));
    if (!lx_put(sp, frame, sizeof frame))
        return false;
    s->x[X_RA] = lx_tramp();
    s->x[X_SP] = sp;
    s->x[X_A0] = (uint64_t)f->sig;
    s->x[X_A0 + 1] = sp + F_INFO;
    s->x[X_A0 + 2] = sp + F_UC;
    lx_ir(c)->pc = f->handler;
    s->res_addr = UINT64_MAX;
    return true;
}

static bool frame_pop(struct lx_cpu *c, bool rt, struct lx_sigframe *f)
{
    struct rv_state *s = state_of(c);
    uint8_t uc[F_SIZE - F_UC];

    if (!lx_get(uc, s->x[X_SP] + F_UC, sizeof uc))
        return false;
    lx_ir(c)->pc = get_le64(uc + UC_PC);
    for (unsigned i = 1; i < 32; i++)
        s->x[i] = get_le64(uc + UC_PC + 8 * i);
    for (unsigned i = 0; i < 32; i++)
        s->f[i].d[0] = get_le64(uc + UC_F + 8 * i);
    rv_set_fcsr(s, get_le32(uc + UC_FCSR));
    f->mask = get_le64(uc + UC_MASK);
    f->alt_sp = get_le64(uc + UC_SP);
    f->alt_flags = get_le32(uc + UC_SS_FLAGS);
    f->alt_size = get_le64(uc + UC_SS_SIZE);
    s->res_addr = UINT64_MAX;
    return true;
}

static void tramp_fill(uint8_t page[4096])
{
    put_le32(page, NR_RT_SIGRETURN << 20 | 0x893); /* li a7, nr */
    put_le32(page + 4, 0x73);                      /* ecall */
}

static const struct lx_vdso_fn vdso_fn[] = {{"__vdso_rt_sigreturn", LX_VDSO_SIGRETURN},
                                            {"__vdso_gettimeofday", LX_VDSO_TIMEOFDAY},
                                            {"__vdso_clock_gettime", LX_VDSO_GETTIME},
                                            {"__vdso_clock_getres", LX_VDSO_GETRES},
                                            {"__vdso_getcpu", LX_VDSO_GETCPU},
                                            {"__vdso_flush_icache", LX_VDSO_FLUSH},
                                            {NULL, 0}};

static unsigned vdso_code(uint8_t out[32], unsigned call)
{
    if (call >= LX_VDSO_CALLS) {
        put_le32(out, 0x013);                                                                         /* nop */
        put_le32(out + 4, (call == LX_VDSO_FLUSH ? NR_FLUSH_ICACHE : NR_RT_SIGRETURN) << 20 | 0x893); /* li a7, nr */
    } else {
        put_le32(out, LX_VDSO_NR | 0x8b7);       /* lui a7, nr's upper part */
        put_le32(out + 4, call << 20 | 0x88893); /* addi a7, a7, call */
    }
    put_le32(out + 8, 0x73);    /* ecall */
    put_le32(out + 12, 0x8067); /* ret */
    return 16;
}

static const struct lx_vdso vdso = {.version = "LINUX_4.15", .fn = vdso_fn, .code = vdso_code};

static void cpuinfo(char *buf, size_t n, unsigned cpu)
{
    snprintf(buf, n, "processor\t: %u\nhart\t\t: %u\nisa\t\t: rv64imafdc_zicsr_zifencei_zba_zbb_zbs\nmmu\t\t: sv48\n\n",
             cpu, cpu);
}

/* f0..f31 and fcsr. */
static unsigned fp_get(struct lx_cpu *c, uint8_t *image)
{
    struct rv_state *s = state_of(c);

    for (unsigned i = 0; i < 32; i++)
        put_le64(image + 8 * i, s->f[i].d[0]);
    put_le64(image + 256, rv_get_fcsr(s));
    return 264;
}

static void fp_set(struct lx_cpu *c, uint8_t *image)
{
    struct rv_state *s = state_of(c);

    for (unsigned i = 0; i < 32; i++)
        s->f[i].d[0] = get_le64(image + 8 * i);
    rv_set_fcsr(s, get_le32(image + 256));
}

/* ---- the debugger: x0..x31, pc, f0..f31 ---- */

static const char *xml(const char *annex)
{
    return "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
           "<architecture>riscv:rv64</architecture><osabi>GNU/Linux</osabi></target>";
}

static uint64_t *gdb_reg(struct lx_cpu *c, unsigned n)
{
    struct rv_state *s = state_of(c);

    return n < 32 ? &s->x[n] : n == 32 ? &lx_ir(c)->pc : n < 65 ? &s->f[n - 33].d[0] : NULL;
}

static unsigned gdb_get(struct lx_cpu *c, unsigned n, uint8_t *buf)
{
    uint64_t *r = gdb_reg(c, n);

    if (!r)
        return 0;
    put_le64(buf, *r);
    return 8;
}

static unsigned gdb_set(struct lx_cpu *c, unsigned n, const uint8_t *buf)
{
    uint64_t *r = gdb_reg(c, n);

    if (!r)
        return 0;
    if (n)
        *r = get_le64(buf);
    return 8;
}

static const char *const cross[] = {"riscv64", "/usr/riscv64-linux-gnu", NULL};

static const struct lx_arch riscv64 = {.name = "riscv64",
                                       .cross = cross,
                                       .uname_machine = "riscv64",
                                       .elf_machine = EM_RISCV,
                                       .elf_class = ELFCLASS64,
                                       .word = 8,
                                       .no_restorer = true,
                                       .sysnr = lx_sysnr_generic64,
                                       .stat = lx_stat_generic64,
                                       .front = &riscv_front,
                                       .hwcap = HWCAP,
                                       .cpu_select = cpu_select,
                                       .cpu_help = cpu_help,
                                       .cpu_new = cpu_new,
                                       .cpu_clone = cpu_clone,
                                       .cpu_free = lx_ir_cpu_free,
                                       .run = run,
                                       .exec_state = exec_state,
                                       .get = get,
                                       .set = set,
                                       .sys_result = sys_result,
                                       .sys_restart = sys_restart,
                                       .sys_own = sys_own,
                                       .frame_push = frame_push,
                                       .frame_pop = frame_pop,
                                       .tramp_fill = tramp_fill,
                                       .vdso = &vdso,
                                       .elf_flags = EF_RISCV_RVC | EF_RISCV_FLOAT_ABI_DOUBLE,
                                       .cpuinfo = cpuinfo,
                                       .gdb_xml = xml,
                                       .gdb_get = gdb_get,
                                       .gdb_set = gdb_set,
                                       .gdb_regs = 33,
                                       .fp_get = fp_get,
                                       .fp_set = fp_set};
LX_ARCH_REGISTER(riscv64)
