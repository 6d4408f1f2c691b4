/* x86-64 guests: registers, system call convention, signal frames, auxiliary vector. After the System V ABI AMD64
 * supplement (appendix A) and struct rt_sigframe as Linux builds it. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/sysnr_tables.h"
#include "user/linux/x86_front.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ARCH_SET_GS = 0x1001, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS, NR_ARCH_PRCTL = 158 };
/* Offsets within the frame, which starts with the return address. */
enum { F_UC = 8, F_INFO = 312, F_SIZE = 440 };
enum { UC_LINK = 8, UC_SP = 16, UC_SS_FLAGS = 24, UC_SS_SIZE = 32, UC_MC = 40, UC_MASK = 296, UC_END = 304 };
enum {
    MC_RIP = 128,
    MC_FLAGS = 136,
    MC_CS = 144,
    MC_ERR = 152,
    MC_TRAP = 160,
    MC_OLDMASK = 168,
    MC_CR2 = 176,
    MC_FP = 184
};
enum { XS_MAGIC1 = 0x46505853, XS_MAGIC2 = 0x46505845, XS_SW = 464 };
enum { FLAGS_USER = X86_ARITH | X86_DF | X86_TF | X86_AC | X86_RF | X86_ID };

static const uint8_t mc_order[16] = {8,       9,       10,      11,      12,      13,      14,      15,
                                     X86_RDI, X86_RSI, X86_RBP, X86_RBX, X86_RDX, X86_RAX, X86_RCX, X86_RSP};

static struct lx_cpu *cpu_new(struct lx_rt *rt, struct err **errp)
{
    return lx_x86_new(rt, true, errp);
}

static void exec_state(struct lx_cpu *lc, uint64_t entry, uint64_t sp)
{
    struct x86_cpu *c = x86_lx(lc)->c;

    memset(c->regs, 0, sizeof c->regs);
    c->rip = entry;
    c->regs[X86_RSP] = sp;
    c->fx.ftw = 0;
    c->fx.fcw = 0x37f;
    c->fx.mxcsr = 0x1f80;
}

static uint64_t get(const struct lx_cpu *lc, enum lx_reg r)
{
    static const uint8_t arg[6] = {X86_RDI, X86_RSI, X86_RDX, 10, 8, 9};
    const struct x86_cpu *c = x86_lx(lc)->c;

    switch (r) {
    case LX_PC:
        return c->rip;
    case LX_SP:
        return c->regs[X86_RSP];
    case LX_TLS:
        return c->seg[X86_FS].base;
    case LX_SYSNO: /* Linux takes EAX */
        return (uint64_t)(int32_t)c->regs[X86_RAX];
    case LX_RET:
        return c->regs[X86_RAX];
    default:
        return c->regs[arg[r - LX_ARG0]];
    }
}

static void set(struct lx_cpu *lc, enum lx_reg r, uint64_t v)
{
    struct x86_cpu *c = x86_lx(lc)->c;

    switch (r) {
    case LX_PC:
        c->rip = v;
        break;
    case LX_SP:
        c->regs[X86_RSP] = v;
        break;
    case LX_TLS:
        c->seg[X86_FS].base = v;
        break;
    default:
        c->regs[X86_RAX] = v;
        break;
    }
}

static void sys_result(struct lx_cpu *lc, int64_t v)
{
    struct x86_cpu *c = x86_lx(lc)->c;

    c->regs[X86_RAX] = (uint64_t)v;
    c->regs[X86_RCX] = c->rip;
    c->regs[11] = c->rflags;
}

static void sys_restart(struct lx_cpu *lc)
{
    x86_lx(lc)->c->rip -= 2;
}

static bool sys_own(struct lx_cpu *lc, uint64_t nr, const uint64_t a[6], int64_t *ret)
{
    struct x86_cpu *c = x86_lx(lc)->c;

    if (nr != NR_ARCH_PRCTL)
        return false;
    *ret = 0;
    switch (a[0]) {
    case ARCH_SET_FS:
    case ARCH_SET_GS:
        if (a[1] >> 47)
            *ret = -EPERM;
        else
            c->seg[a[0] == ARCH_SET_FS ? X86_FS : X86_GS].base = a[1];
        break;
    case ARCH_GET_FS:
    case ARCH_GET_GS:
        if (!lx_put(a[1], &c->seg[a[0] == ARCH_GET_FS ? X86_FS : X86_GS].base, 8))
            *ret = -EFAULT;
        break;
    default:
        *ret = -EINVAL;
        break;
    }
    return true;
}

/* ---- signal frames ---- */

static uint64_t put_fpstate(struct x86_lx *x, uint64_t sp)
{
    unsigned n = lx_x86_xsave_size(x);
    uint8_t image[LX_X86_XSAVE_MAX] = {0};

    lx_x86_xsave_out(x, image);
    sp = (sp - n - 4) & ~UINT64_C(63);
    if (n > 512) {
        put_le32(image + XS_SW, XS_MAGIC1);
        put_le32(image + XS_SW + 4, n + 4);
        put_le64(image + XS_SW + 8, lx_x86_xsave_mask(x));
        put_le32(image + XS_SW + 16, n);
        put_le32(image + n, XS_MAGIC2);
    }
    return lx_put(sp, image, n + 4) ? sp : 0;
}

static void fill_context(struct x86_lx *x, const struct lx_sigframe *f, uint64_t fp, uint8_t *uc)
{
    struct x86_cpu *c = x->c;
    uint8_t *mc = uc + UC_MC;

    put_le64(uc, fp ? lx_x86_xsave_size(x) > 512 ? 7 : 6 : 6);
    put_le64(uc + UC_SP, f->alt_sp);
    put_le32(uc + UC_SS_FLAGS, f->alt_flags);
    put_le64(uc + UC_SS_SIZE, f->alt_size);
    for (unsigned i = 0; i < 16; i++)
        put_le64(mc + 8 * i, c->regs[mc_order[i]]);
    put_le64(mc + MC_RIP, c->rip);
    put_le64(mc + MC_FLAGS, c->rflags);
    put_le16(mc + MC_CS, 0x33);
    put_le16(mc + MC_CS + 6, 0x2b);
    put_le64(mc + MC_ERR, x->lx.fault.err);
    put_le64(mc + MC_TRAP, x->lx.fault.trap);
    put_le64(mc + MC_OLDMASK, f->mask);
    put_le64(mc + MC_CR2, x->lx.fault.trap == X86_PGF ? x->lx.fault.addr : 0);
    put_le64(mc + MC_FP, fp);
    put_le64(uc + UC_MASK, f->mask);
}

static bool frame_push(struct lx_cpu *lc, const struct lx_sigframe *f)
{
    struct x86_lx *x = x86_lx(lc);
    struct x86_cpu *c = x->c;
    uint8_t frame[F_SIZE] = {0};
    uint64_t sp = f->sp, fp;

    if (!f->restorer)
        return false;
    if (!f->on_alt)
        sp -= 128;
    fp = put_fpstate(x, sp);
    if (!fp)
        return false;
    sp = ((fp - F_SIZE) & ~UINT64_C(15)) - 8;
    put_le64(frame, f->restorer);
    fill_context(x, f, fp, frame + F_UC);
    lx_siginfo_out(frame + F_INFO, f->info, 8);
    if (!lx_put(sp, frame, sizeof frame))
        return false;
    c->regs[X86_RSP] = sp;
    c->regs[X86_RDI] = (uint64_t)f->sig;
    c->regs[X86_RSI] = sp + F_INFO;
    c->regs[X86_RDX] = sp + F_UC;
    c->regs[X86_RAX] = 0;
    c->rip = f->handler;
    c->rflags &= ~(uint64_t)(X86_DF | X86_RF | X86_TF);
    return true;
}

static bool get_fpstate(struct x86_lx *x, uint64_t at)
{
    uint8_t image[LX_X86_XSAVE_MAX] = {0};
    unsigned n = lx_x86_xsave_size(x);
    bool ext;

    if (!at)
        return true;
    if (!lx_get(image, at, 512))
        return false;
    ext = n > 512 && get_le32(image + XS_SW) == XS_MAGIC1 && get_le32(image + XS_SW + 16) >= n && lx_get(image, at, n);
    lx_x86_xsave_in(x, image, ext);
    return true;
}

static bool frame_pop(struct lx_cpu *lc, bool rt, struct lx_sigframe *f)
{
    struct x86_lx *x = x86_lx(lc);
    struct x86_cpu *c = x->c;
    uint8_t uc[UC_END];
    const uint8_t *mc = uc + UC_MC;

    if (!lx_get(uc, c->regs[X86_RSP], sizeof uc) || !get_fpstate(x, get_le64(mc + MC_FP)))
        return false;
    for (unsigned i = 0; i < 16; i++)
        c->regs[mc_order[i]] = get_le64(mc + 8 * i);
    c->rip = get_le64(mc + MC_RIP);
    c->rflags = (c->rflags & ~(uint64_t)FLAGS_USER) | (get_le64(mc + MC_FLAGS) & FLAGS_USER);
    f->mask = get_le64(uc + UC_MASK);
    f->alt_sp = get_le64(uc + UC_SP);
    f->alt_flags = get_le32(uc + UC_SS_FLAGS);
    f->alt_size = get_le64(uc + UC_SS_SIZE);
    return true;
}

static uint64_t least_sigstack(void)
{
    return lx_x86_sigstack(F_SIZE + 8 + 128);
}

static void hwcaps(uint64_t *hwcap, uint64_t *hwcap2)
{
    *hwcap = lx_x86_hwcap();
    *hwcap2 = 2; /* FSGSBASE */
}

static const char *xml(const char *annex)
{
    return lx_x86_gdb_xml(true);
}

static const struct lx_field stat_x86_64[] = {{LX_ST_DEV, 0, 8},
                                              {LX_ST_INO, 8, 8},
                                              {LX_ST_NLINK, 16, 8},
                                              {LX_ST_MODE, 24, 4},
                                              {LX_ST_UID, 28, 4},
                                              {LX_ST_GID, 32, 4},
                                              {LX_ST_RDEV, 40, 8},
                                              {LX_ST_SIZE, 48, 8},
                                              {LX_ST_BLKSIZE, 56, 8},
                                              {LX_ST_BLOCKS, 64, 8},
                                              {LX_ST_ATIME, 72, 8},
                                              {LX_ST_ATIME_NS, 80, 8},
                                              {LX_ST_MTIME, 88, 8},
                                              {LX_ST_MTIME_NS, 96, 8},
                                              {LX_ST_CTIME, 104, 8},
                                              {LX_ST_CTIME_NS, 112, 8},
                                              {0, 144, 0}};
static const char *const cross[] = {"amd64", "/usr/x86_64-linux-gnu", NULL};

static const struct lx_arch x86_64 = {.name = "x86_64",
                                      .cross = cross,
                                      .uname_machine = "x86_64",
                                      .platform = "x86_64",
                                      .elf_machine = EM_X86_64,
                                      .elf_class = ELFCLASS64,
                                      .word = 8,
                                      .packed_epoll = true,
                                      .tls_last = true,
                                      .host_vdso = true,
                                      .sysnr = lx_sysnr_x86_64,
                                      .stat = stat_x86_64,
                                      .front = &lx_x86_front,
                                      .cpu_select = lx_x86_select,
                                      .cpu_help = lx_x86_help,
                                      .hwcaps = hwcaps,
                                      .cpu_new = cpu_new,
                                      .cpu_clone = lx_x86_clone,
                                      .cpu_free = lx_x86_free,
                                      .run = lx_x86_run,
                                      .exec_state = exec_state,
                                      .get = get,
                                      .set = set,
                                      .sys_result = sys_result,
                                      .sys_restart = sys_restart,
                                      .sys_own = sys_own,
                                      .frame_push = frame_push,
                                      .frame_pop = frame_pop,
                                      .gdb_xml = xml,
                                      .gdb_get = lx_x86_gdb_get,
                                      .gdb_set = lx_x86_gdb_set,
                                      .gdb_regs = 57,
                                      .fp_get = lx_x86_fp_get,
                                      .fp_set = lx_x86_fp_set,
                                      .sigstack = least_sigstack};
LX_ARCH_REGISTER(x86_64)
