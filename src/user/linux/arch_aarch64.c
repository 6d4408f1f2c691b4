/* AArch64 guests: registers, system call convention, signal frames, auxiliary vector. After the AArch64 ABI of Linux:
 * asm-generic system calls in X8, struct rt_sigframe with fpsimd_context. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/a64_front.h"
#include "user/linux/sysnr_tables.h"
#include "user/linux/vdso.h"

#include <elf.h>
#include <stdio.h>

/* Offsets within the frame: siginfo, ucontext (whose machine context is 16-aligned), and its reserved part. */
enum { F_UC = 128, UC_SP = 16, UC_SS_FLAGS = 24, UC_SS_SIZE = 32, UC_MASK = 40, UC_MC = 176 };
enum { MC_FAULT = 0, MC_REGS = 8, MC_SP = 256, MC_PC = 264, MC_PSTATE = 272, MC_EXT = 288, MC_EXT_SIZE = 4096 };
enum { FP_MAGIC = 0x46508001, FP_SIZE = 528, ESR_MAGIC = 0x45535201, ESR_SIZE = 16 };
enum { F_SIZE = F_UC + UC_MC + MC_EXT + MC_EXT_SIZE, EXT_USED = FP_SIZE + ESR_SIZE + 16 };

static void exec_state(struct lx_cpu *lc, uint64_t entry, uint64_t sp)
{
    struct a64_cpu *c = a64_lx(lc)->c;

    a64_reset(c, c->mem, c->owner);
    c->pc = entry;
    c->sp = sp;
}

static uint64_t get(const struct lx_cpu *lc, enum lx_reg r)
{
    const struct a64_cpu *c = a64_lx(lc)->c;

    switch (r) {
    case LX_PC:
        return c->pc;
    case LX_SP:
        return c->sp;
    case LX_TLS:
        return c->tpidr;
    case LX_SYSNO:
        return c->x[8];
    case LX_RET:
        return c->x[0];
    default:
        return c->x[r - LX_ARG0];
    }
}

static void set(struct lx_cpu *lc, enum lx_reg r, uint64_t v)
{
    struct a64_cpu *c = a64_lx(lc)->c;

    switch (r) {
    case LX_PC:
        c->pc = v;
        break;
    case LX_SP:
        c->sp = v;
        break;
    case LX_TLS:
        c->tpidr = v;
        break;
    case LX_SYSNO:
        c->x[8] = v;
        break;
    case LX_RET:
        c->x[0] = v;
        break;
    default:
        c->x[r - LX_ARG0] = v;
        break;
    }
}

static enum lx_stop run(struct lx_cpu *lc)
{
    enum lx_stop stop = lx_rt_run(lc->rt);

    /* The host does not say where a fault beyond its address space was: the interpreter does. */
    if (stop == LX_STOP_SIGNAL && lc->fault.code == SI_KERNEL)
        stop = lx_a64_front.step(lc->rt);
    if (stop == LX_STOP_SYSCALL)
        a64_lx(lc)->orig_x0 = a64_lx(lc)->c->x[0];
    return stop;
}

static void sys_result(struct lx_cpu *lc, int64_t v)
{
    a64_lx(lc)->c->x[0] = (uint64_t)v;
}

static void sys_restart(struct lx_cpu *lc)
{
    struct a64_lx *l = a64_lx(lc);

    l->c->pc -= 4;
    l->c->x[0] = l->orig_x0;
}

/* ---- signal frames ---- */
static void put_ext(const struct a64_cpu *c, const struct lx_fault *fault, uint8_t *ext)
{
    put_le32(ext, FP_MAGIC);
    put_le32(ext + 4, FP_SIZE);
    put_le32(ext + 8, a64_fpsr(c));
    put_le32(ext + 12, c->fpcr);
    memcpy(ext + 16, c->v, sizeof c->v);
    if (fault->sig != SIGSEGV && fault->sig != SIGBUS)
        return;
    put_le32(ext + FP_SIZE, ESR_MAGIC);
    put_le32(ext + FP_SIZE + 4, ESR_SIZE);
    /* A data abort from EL0: translation or permission fault, and whether it was a write. */
    put_le64(ext + FP_SIZE + 8, UINT64_C(0x92000000) | (fault->err & 2 ? 0x40u : 0) | (fault->err & 1 ? 0x0fu : 0x07u));
}

static bool frame_push(struct lx_cpu *lc, const struct lx_sigframe *f)
{
    struct a64_cpu *c = a64_lx(lc)->c;
    uint8_t frame[F_UC + UC_MC + MC_EXT + EXT_USED] = {0}, record[16], *uc = frame + F_UC, *mc = uc + UC_MC;
    uint64_t rec = (f->sp - 16) & ~UINT64_C(15), sp = rec - F_SIZE;

    put_le64(record, c->x[29]);
    put_le64(record + 8, c->x[30]);
    lx_siginfo_out(frame, f->info, 8);
    put_le64(uc + UC_SP, f->alt_sp);
    put_le32(uc + UC_SS_FLAGS, f->alt_flags);
    put_le64(uc + UC_SS_SIZE, f->alt_size);
    put_le64(uc + UC_MASK, f->mask);
    put_le64(mc + MC_FAULT, lc->fault.sig == SIGSEGV || lc->fault.sig == SIGBUS ? lc->fault.addr : 0);
    for (unsigned i = 0; i < 31; i++)
        put_le64(mc + MC_REGS + 8 * i, c->x[i]);
    put_le64(mc + MC_SP, c->sp);
    put_le64(mc + MC_PC, c->pc);
    put_le64(mc + MC_PSTATE, a64_nzcv(c));
    put_ext(c, &lc->fault, mc + MC_EXT);
    if (!lx_put(rec, record, sizeof record) || !lx_put(sp, frame, sizeof frame))
        return false;
    c->x[0] = (uint64_t)f->sig;
    if (f->sa_flags & SA_SIGINFO) {
        c->x[1] = sp;
        c->x[2] = sp + F_UC;
    }
    c->sp = sp;
    c->x[29] = rec;
    c->x[30] = f->restorer ? f->restorer : lx_tramp();
    c->pc = f->handler;
    return true;
}

/* Walks the records of the reserved part for the FP state. */
static bool get_ext(struct a64_cpu *c, const uint8_t *ext)
{
    for (unsigned at = 0; at + 16 <= MC_EXT_SIZE;) {
        uint32_t magic = get_le32(ext + at), size = get_le32(ext + at + 4);

        if (!magic)
            return true;
        if (size < 16 || size > MC_EXT_SIZE - at)
            return false;
        if (magic == FP_MAGIC) {
            if (size != FP_SIZE)
                return false;
            a64_set_fpcr(c, get_le32(ext + at + 12));
            a64_set_fpsr(c, get_le32(ext + at + 8));
            memcpy(c->v, ext + at + 16, sizeof c->v);
        }
        at += size;
    }
    return true;
}

static bool frame_pop(struct lx_cpu *lc, bool rt, struct lx_sigframe *f)
{
    struct a64_cpu *c = a64_lx(lc)->c;
    uint8_t frame[F_SIZE];
    const uint8_t *uc = frame + F_UC, *mc = uc + UC_MC;
    bool special = a64_fp_special(c->fpcr);

    if (!rt || (c->sp & 15) || !lx_get(frame, c->sp, sizeof frame) || !get_ext(c, mc + MC_EXT))
        return false;
    for (unsigned i = 0; i < 31; i++)
        c->x[i] = get_le64(mc + MC_REGS + 8 * i);
    c->sp = get_le64(mc + MC_SP);
    c->pc = get_le64(mc + MC_PC);
    a64_set_nzcv(c, (uint32_t)get_le64(mc + MC_PSTATE) & 0xf0000000);
    c->ex_addr = ~UINT64_C(0);
    f->mask = get_le64(uc + UC_MASK);
    f->alt_sp = get_le64(uc + UC_SP);
    f->alt_flags = get_le32(uc + UC_SS_FLAGS);
    f->alt_size = get_le64(uc + UC_SS_SIZE);
    if (special != a64_fp_special(c->fpcr)) { /* blocks of the other mode must not be predicted */
        ir_jc_clear(&c->jit);
        c->jit.ss_rsp = lc->rt->ss_top;
    }
    return true;
}

static void tramp_fill(uint8_t page[4096])
{
    put_le32(page, 0xd2801168);     /* mov x8, #139: rt_sigreturn */
    put_le32(page + 4, 0xd4000001); /* svc #0 */
}

static const struct lx_vdso_fn vdso_fn[] = {{"__kernel_rt_sigreturn", LX_VDSO_SIGRETURN},
                                            {"__kernel_gettimeofday", LX_VDSO_TIMEOFDAY},
                                            {"__kernel_clock_gettime", LX_VDSO_GETTIME},
                                            {"__kernel_clock_getres", LX_VDSO_GETRES},
                                            {NULL, 0}};

static unsigned vdso_code(uint8_t out[32], unsigned call)
{
    put_le32(out, 0x52800008 | (call == LX_VDSO_SIGRETURN ? 139 : LX_VDSO_NR + call) << 5); /* mov w8, #nr */
    put_le32(out + 4, 0xd4000001);                                                          /* svc #0 */
    put_le32(out + 8, 0xd65f03c0);                                                          /* ret */
    return 12;
}

static const struct lx_vdso vdso = {.version = "LINUX_2.6.39", .fn = vdso_fn, .code = vdso_code};

/* ---- what the program is told ---- */
static void hwcaps(uint64_t *hwcap, uint64_t *hwcap2)
{
    /* FP ASIMD AES PMULL SHA1 SHA2 CRC32 ATOMICS FPHP ASIMDHP CPUID ASIMDRDM JSCVT FCMA LRCPC ASIMDDP */
    *hwcap = 1u << 0 | 1u << 1 | 0xffu << 3 | 0x1fu << 11 | 1u << 20;
    *hwcap2 = 1u << 8; /* FRINT */
}

static void cpuinfo(char *buf, size_t n, unsigned cpu)
{
    snprintf(
        buf, n,
        "processor\t: %u\nBogoMIPS\t: 2000.00\n"
        "Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc "
        "asimddp frint\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n",
        cpu);
}

/* MODEL[,FEATURE=off ...] of features this CPU does not have. */
static bool cpu_select(const char *text, struct err **errp)
{
    static const char *const lacks[] = {"sve", "sme", "pauth", "pauth-impdef", "mte", "bti"};
    const char *p = text;

    if (!text)
        return true;
    if (strcspn(text, ",") != 3 || (strncmp(text, "max", 3) && strncmp(text, "any", 3)))
        return err_set(errp, "no CPU model '%.*s'; there is: max", (int)strcspn(text, ","), text);
    for (p += 3; *p; p += strcspn(p, ",")) {
        size_t n = strcspn(++p, "=,"), i = 0;

        while (i < ARRAY_LEN(lacks) && (strlen(lacks[i]) != n || strncmp(lacks[i], p, n)))
            i++;
        if (i == ARRAY_LEN(lacks) || (strncmp(p + n, "=off", 4) && strncmp(p + n, "=false", 6)))
            return err_set(errp, "CPU property '%.*s' cannot be set so", (int)strcspn(p, ","), p);
    }
    return true;
}

static char *cpu_help(void)
{
    return xstrdup(
        "Available CPUs:\n  max  Armv8.0 with CRC32, LSE, RDM, DotProd, FP16, JSCVT, FCMA, LRCPC, FRINTTS\n");
}

static const char *xml(const char *annex)
{
    return "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
           "<architecture>aarch64</architecture><osabi>GNU/Linux</osabi></target>";
}

/* X0-X30, SP, PC, CPSR, V0-V31, FPSR, FPCR: gdb's built-in numbering. */
static unsigned gdb_get(struct lx_cpu *lc, unsigned n, uint8_t *buf)
{
    const struct a64_cpu *c = a64_lx(lc)->c;

    if (n < 33) {
        put_le64(buf, n < 31 ? c->x[n] : n == 31 ? c->sp : c->pc);
        return 8;
    }
    if (n >= 34 && n < 66) {
        memcpy(buf, &c->v[n - 34], 16);
        return 16;
    }
    if (n > 67)
        return 0;
    put_le32(buf, n == 33 ? a64_nzcv(c) : n == 66 ? a64_fpsr(c) : c->fpcr);
    return 4;
}

static unsigned gdb_set(struct lx_cpu *lc, unsigned n, const uint8_t *buf)
{
    struct a64_cpu *c = a64_lx(lc)->c;

    if (n < 33) {
        *(n < 31 ? &c->x[n] : n == 31 ? &c->sp : &c->pc) = get_le64(buf);
        return 8;
    }
    if (n >= 34 && n < 66) {
        memcpy(&c->v[n - 34], buf, 16);
        return 16;
    }
    if (n > 67)
        return 0;
    if (n == 33)
        a64_set_nzcv(c, get_le32(buf) & 0xf0000000);
    else if (n == 66)
        a64_set_fpsr(c, get_le32(buf));
    return 4;
}

/* struct user_fpsimd_state: V0-V31, FPSR, FPCR, two words of nothing. */
static unsigned fp_get(struct lx_cpu *lc, uint8_t *image)
{
    const struct a64_cpu *c = a64_lx(lc)->c;

    memcpy(image, c->v, 512);
    put_le32(image + 512, a64_fpsr(c));
    put_le32(image + 516, c->fpcr);
    put_le64(image + 520, 0);
    return 528;
}

static void fp_set(struct lx_cpu *lc, uint8_t *image)
{
    struct a64_cpu *c = a64_lx(lc)->c;

    memcpy(c->v, image, 512);
    a64_set_fpsr(c, get_le32(image + 512));
    a64_set_fpcr(c, get_le32(image + 516));
}

static const char *const cross[] = {"arm64", "/usr/aarch64-linux-gnu", NULL};

static const struct lx_arch aarch64 = {.name = "aarch64",
                                       .cross = cross,
                                       .uname_machine = "aarch64",
                                       .platform = "aarch64",
                                       .elf_machine = EM_AARCH64,
                                       .elf_class = ELFCLASS64,
                                       .word = 8,
                                       .o_direct = 0200000,
                                       .o_directory = 040000,
                                       .o_nofollow = 0100000,
                                       .o_largefile = 0400000,
                                       .sysnr = lx_sysnr_generic64,
                                       .stat = lx_stat_generic64,
                                       .front = &lx_a64_front,
                                       .tramp_fill = tramp_fill,
                                       .vdso = &vdso,
                                       .cpu_select = cpu_select,
                                       .cpu_help = cpu_help,
                                       .hwcaps = hwcaps,
                                       .cpu_new = lx_a64_new,
                                       .cpu_clone = lx_a64_clone,
                                       .cpu_free = lx_a64_free,
                                       .run = run,
                                       .exec_state = exec_state,
                                       .get = get,
                                       .set = set,
                                       .sys_result = sys_result,
                                       .sys_restart = sys_restart,
                                       .frame_push = frame_push,
                                       .frame_pop = frame_pop,
                                       .cpuinfo = cpuinfo,
                                       .gdb_xml = xml,
                                       .gdb_get = gdb_get,
                                       .gdb_set = gdb_set,
                                       .gdb_regs = 68,
                                       .fp_get = fp_get,
                                       .fp_set = fp_set};
LX_ARCH_REGISTER(aarch64)
