/* i386 guests: registers, system call convention (INT 80h), TLS descriptors, signal frames. After the System V ABI i386
 * supplement and the frames Linux builds for 32-bit programs. A 64-bit kernel's view: no vDSO, so no SYSENTER. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/syscalls.h"
#include "user/linux/sysnr_tables.h"
#include "user/linux/vdso.h"
#include "user/linux/x86_front.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    NR_SIGRETURN = 119,
    NR_MODIFY_LDT = 123,
    NR_RT_SIGRETURN = 173,
    NR_SET_THREAD_AREA = 243,
    NR_GET_THREAD_AREA = 244
};
enum { TLS_FIRST = 12, TLS_NR = 3 }; /* GDT entries of a 64-bit kernel's 32-bit programs */
/* struct sigcontext: gs fs es ds di si bp sp bx dx cx ax trapno err ip cs flags sp_at_signal ss fpstate oldmask cr2 */
enum { SC_SIZE = 88 };
/* Plain frame: return address, sig, sigcontext, fpstate (unused), extramask, retcode. */
enum { P_SC = 8, P_EXTRA = P_SC + SC_SIZE + 624, P_CODE = P_EXTRA + 4, P_SIZE = P_CODE + 8 };
/* rt frame: return address, sig, pinfo, puc, siginfo, ucontext {flags, link, stack 12, sigcontext, mask 8}, retcode. */
enum {
    R_PINFO = 8,
    R_PUC = 12,
    R_INFO = 16,
    R_UC = 144,
    U_SP = 8,
    U_SS = 12,
    U_SIZE = 16,
    U_SC = 20,
    U_MASK = U_SC + SC_SIZE,
    U_END = U_MASK + 8,
    R_CODE = R_UC + U_END,
    R_SIZE = R_CODE + 8
};
enum { FP_SIZE = 112, XS_MAGIC1 = 0x46505853, XS_MAGIC2 = 0x46505845, XS_SW = 464 };
enum { FLAGS_USER = X86_ARITH | X86_DF | X86_TF | X86_AC | X86_RF | X86_ID };
enum { TRAMP_PLAIN = 0, TRAMP_RT = 16 };

static struct lx_cpu *cpu_new(struct lx_rt *rt, struct err **errp)
{
    return lx_x86_new(rt, false, errp);
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
    static const uint8_t arg[6] = {X86_RBX, X86_RCX, X86_RDX, X86_RSI, X86_RDI, X86_RBP};
    const struct x86_cpu *c = x86_lx(lc)->c;

    switch (r) {
    case LX_PC:
        return (uint32_t)c->rip;
    case LX_SP:
        return (uint32_t)c->regs[X86_RSP];
    case LX_TLS:
        return c->seg[X86_GS].base;
    case LX_SYSNO:
    case LX_RET:
        return (uint32_t)c->regs[X86_RAX];
    default:
        return (uint32_t)c->regs[arg[r - LX_ARG0]];
    }
}

/* ---- TLS: three descriptors, loaded through segment registers ---- */

static uint32_t desc_base(const uint8_t *d)
{
    return get_le32(d + 4);
}

/* Bytes of struct user_desc are kept as given: entry, base, limit, flags. */
static int64_t set_thread_area(struct x86_lx *x, uint64_t at)
{
    uint8_t d[16];
    uint32_t n;

    if (!lx_get(d, at, sizeof d))
        return -EFAULT;
    n = get_le32(d);
    if (n == UINT32_MAX) {
        for (n = 0; n < TLS_NR && (get_le32(x->gdt_tls[n] + 4) || get_le32(x->gdt_tls[n] + 8)); n++)
            ;
        if (n == TLS_NR)
            return -ESRCH;
        n += TLS_FIRST;
        if (!lx_put(at, &n, 4))
            return -EFAULT;
        put_le32(d, n);
    }
    if (n < TLS_FIRST || n >= TLS_FIRST + TLS_NR)
        return -EINVAL;
    memcpy(x->gdt_tls[n - TLS_FIRST], d, sizeof d);
    x->gdt[n] = lx_x86_descriptor(desc_base(d), 0xf2);
    for (int s = 0; s < 6; s++)
        if (s != X86_CS && x->c->seg[s].sel >> 3 == n)
            x->c->seg[s].base = desc_base(d);
    return 0;
}

static int64_t get_thread_area(struct x86_lx *x, uint64_t at)
{
    uint32_t n;
    uint8_t d[16];

    if (!lx_get(&n, at, 4))
        return -EFAULT;
    if (n < TLS_FIRST || n >= TLS_FIRST + TLS_NR)
        return -EINVAL;
    memcpy(d, x->gdt_tls[n - TLS_FIRST], sizeof d);
    put_le32(d, n);
    return lx_put(at, d, sizeof d) ? 0 : -EFAULT;
}

/* A segment register from a signal frame; the interpreter's MOV and POP read x->gdt. */
static void load_segment(struct x86_lx *x, int s, uint16_t sel)
{
    struct x86_seg *seg = &x->c->seg[s];
    unsigned n = sel >> 3;

    if (n >= TLS_FIRST && n < TLS_FIRST + TLS_NR && !(sel & 4)) {
        seg->base = desc_base(x->gdt_tls[n - TLS_FIRST]);
    } else if ((sel & ~3) == 0 || (sel | 3) == 0x2b) {
        seg->base = 0;
    } else {
        return;
    }
    seg->sel = sel;
}

static void set(struct lx_cpu *lc, enum lx_reg r, uint64_t v)
{
    struct x86_lx *x = x86_lx(lc);

    switch (r) {
    case LX_PC:
        x->c->rip = (uint32_t)v;
        break;
    case LX_SP:
        x->c->regs[X86_RSP] = (uint32_t)v;
        break;
    case LX_TLS: /* clone: a struct user_desc */
        set_thread_area(x, v);
        break;
    default:
        x->c->regs[X86_RAX] = (uint32_t)v;
        break;
    }
}

static void sys_result(struct lx_cpu *lc, int64_t v)
{
    x86_lx(lc)->c->regs[X86_RAX] = (uint32_t)v;
}

static void sys_restart(struct lx_cpu *lc)
{
    x86_lx(lc)->c->rip -= 2;
}

static bool sys_own(struct lx_cpu *lc, uint64_t nr, const uint64_t a[6], int64_t *ret)
{
    struct x86_lx *x = x86_lx(lc);

    switch (nr) {
    case NR_SET_THREAD_AREA:
        *ret = set_thread_area(x, a[0]);
        return true;
    case NR_GET_THREAD_AREA:
        *ret = get_thread_area(x, a[0]);
        return true;
    case NR_MODIFY_LDT:
        *ret = -ENOSYS;
        return true;
    default:
        return false;
    }
}

/* ---- signal frames ---- */

static void tramp_fill(uint8_t page[4096])
{
    static const uint8_t plain[] = {0x58, 0xb8, NR_SIGRETURN, 0, 0, 0, 0xcd, 0x80}; /* pop eax; mov eax; int 80h */
    static const uint8_t rt[] = {0xb8, NR_RT_SIGRETURN, 0, 0, 0, 0xcd, 0x80};

    memcpy(page + TRAMP_PLAIN, plain, sizeof plain);
    memcpy(page + TRAMP_RT, rt, sizeof rt);
}

static const struct lx_vdso_fn vdso_fn[] = {
    {"__kernel_vsyscall", LX_VDSO_VSYSCALL},   {"__vdso_gettimeofday", LX_VDSO_TIMEOFDAY},
    {"__vdso_clock_gettime", LX_VDSO_GETTIME}, {"__vdso_clock_gettime64", LX_VDSO_GETTIME64},
    {"__vdso_clock_getres", LX_VDSO_GETRES},   {"__vdso_time", LX_VDSO_TIME},
    {"__vdso_getcpu", LX_VDSO_GETCPU},         {NULL, 0}};

static unsigned vdso_code(uint8_t out[32], unsigned call)
{
    /* push ebx; mov ebx, [esp + 8]; mov ecx, [esp + 12]; mov eax, nr; int 80h; pop ebx; ret */
    static const uint8_t code[] = {0x53, 0x8b, 0x5c, 0x24, 8, 0x8b, 0x4c, 0x24, 12,
                                   0xb8, 0,    0,    0,    0, 0xcd, 0x80, 0x5b, 0xc3};

    if (call == LX_VDSO_VSYSCALL) {
        out[0] = 0xcd;
        out[1] = 0x80;
        out[2] = 0xc3;
        return 3;
    }
    memcpy(out, code, sizeof code);
    put_le32(out + 10, LX_VDSO_NR + call);
    return sizeof code;
}

static const struct lx_vdso vdso = {.version = "LINUX_2.6", .fn = vdso_fn, .code = vdso_code};

/* FSAVE image and behind it the FXSAVE (XSAVE) image, as the kernel gives to 32-bit programs. */
static uint64_t put_fpstate(struct x86_lx *x, uint64_t sp)
{
    uint8_t image[FP_SIZE + LX_X86_XSAVE_MAX] = {0}, *fx = image + FP_SIZE;
    unsigned n = lx_x86_xsave_size(x);
    const struct x86_fx *f = &x->c->fx;
    uint32_t tag = 0;

    lx_x86_xsave_out(x, fx);
    sp = ((sp - n - 4) & ~UINT64_C(63)) - FP_SIZE;
    put_le32(image, 0xffff0000u | f->fcw);
    put_le32(image + 4, 0xffff0000u | f->fsw);
    for (unsigned i = 0; i < 8; i++)
        tag |= (f->ftw >> i & 1 ? 0u : 3u) << (2 * i);
    put_le32(image + 8, 0xffff0000u | tag);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + 28 + 10 * i, f->st[i], 10);
    put_le16(image + 108, f->fsw);
    put_le16(image + 110, n > 512 ? 0 : 0); /* magic: an FXSAVE image follows */
    if (n > 512) {
        put_le32(fx + XS_SW, XS_MAGIC1);
        put_le32(fx + XS_SW + 4, n + 4 + FP_SIZE);
        put_le64(fx + XS_SW + 8, lx_x86_xsave_mask(x));
        put_le32(fx + XS_SW + 16, n);
        put_le32(fx + n, XS_MAGIC2);
    }
    return lx_put(sp, image, FP_SIZE + n + 4) ? sp : 0;
}

static void fill_sc(struct x86_lx *x, const struct lx_sigframe *f, uint64_t fp, uint8_t *sc)
{
    static const uint8_t order[8] = {X86_RDI, X86_RSI, X86_RBP, X86_RSP, X86_RBX, X86_RDX, X86_RCX, X86_RAX};
    struct x86_cpu *c = x->c;

    put_le32(sc, c->seg[X86_GS].sel);
    put_le32(sc + 4, c->seg[X86_FS].sel);
    put_le32(sc + 8, 0x2b);
    put_le32(sc + 12, 0x2b);
    for (unsigned i = 0; i < 8; i++)
        put_le32(sc + 16 + 4 * i, (uint32_t)c->regs[order[i]]);
    put_le32(sc + 48, (uint32_t)x->lx.fault.trap);
    put_le32(sc + 52, (uint32_t)x->lx.fault.err);
    put_le32(sc + 56, (uint32_t)c->rip);
    put_le32(sc + 60, 0x23);
    put_le32(sc + 64, (uint32_t)c->rflags);
    put_le32(sc + 68, (uint32_t)c->regs[X86_RSP]);
    put_le32(sc + 72, 0x2b);
    put_le32(sc + 76, (uint32_t)fp);
    put_le32(sc + 80, (uint32_t)f->mask);
    put_le32(sc + 84, x->lx.fault.trap == X86_PGF ? (uint32_t)x->lx.fault.addr : 0);
}

static uint32_t restorer(const struct lx_sigframe *f, unsigned tramp)
{
    return f->restorer ? (uint32_t)f->restorer : (uint32_t)lx_tramp() + tramp;
}

static uint64_t push_plain(struct x86_lx *x, const struct lx_sigframe *f, uint64_t fp)
{
    uint64_t sp = ((fp - P_SIZE + 4) & ~UINT64_C(15)) - 4;
    uint8_t fr[P_SIZE] = {0};

    put_le32(fr, restorer(f, TRAMP_PLAIN));
    put_le32(fr + 4, (uint32_t)f->sig);
    fill_sc(x, f, fp, fr + P_SC);
    put_le32(fr + P_EXTRA, (uint32_t)(f->mask >> 32));
    return lx_put(sp, fr, sizeof fr) ? sp : 0;
}

static uint64_t push_rt(struct x86_lx *x, const struct lx_sigframe *f, uint64_t fp)
{
    uint64_t sp = ((fp - R_SIZE + 4) & ~UINT64_C(15)) - 4;
    uint8_t fr[R_SIZE] = {0}, *uc = fr + R_UC;

    put_le32(fr, restorer(f, TRAMP_RT));
    put_le32(fr + 4, (uint32_t)f->sig);
    put_le32(fr + R_PINFO, (uint32_t)(sp + R_INFO));
    put_le32(fr + R_PUC, (uint32_t)(sp + R_UC));
    lx_siginfo_out(fr + R_INFO, f->info, 4);
    put_le32(uc, lx_x86_xsave_size(x) > 512 ? 1 : 0);
    put_le32(uc + U_SP, (uint32_t)f->alt_sp);
    put_le32(uc + U_SS, f->alt_flags);
    put_le32(uc + U_SIZE, (uint32_t)f->alt_size);
    fill_sc(x, f, fp, uc + U_SC);
    put_le64(uc + U_MASK, f->mask);
    return lx_put(sp, fr, sizeof fr) ? sp : 0;
}

static bool frame_push(struct lx_cpu *lc, const struct lx_sigframe *f)
{
    struct x86_lx *x = x86_lx(lc);
    struct x86_cpu *c = x->c;
    bool rt = f->sa_flags & LX_SA_SIGINFO;
    uint64_t fp = put_fpstate(x, f->sp), sp;

    sp = !fp ? 0 : rt ? push_rt(x, f, fp) : push_plain(x, f, fp);
    if (!sp)
        return false;
    c->regs[X86_RSP] = sp;
    c->regs[X86_RAX] = (uint64_t)f->sig;
    c->regs[X86_RDX] = rt ? sp + R_INFO : 0;
    c->regs[X86_RCX] = rt ? sp + R_UC : 0;
    c->rip = (uint32_t)f->handler;
    c->rflags &= ~(uint64_t)(X86_DF | X86_RF | X86_TF);
    return true;
}

static bool get_sc(struct x86_lx *x, const uint8_t *sc)
{
    static const uint8_t order[8] = {X86_RDI, X86_RSI, X86_RBP, X86_RSP, X86_RBX, X86_RDX, X86_RCX, X86_RAX};
    uint8_t image[LX_X86_XSAVE_MAX] = {0};
    unsigned n = lx_x86_xsave_size(x);
    struct x86_cpu *c = x->c;
    uint32_t fp = get_le32(sc + 76);
    bool ext;

    if (fp) {
        if (!lx_get(image, fp + FP_SIZE, 512))
            return false;
        ext = n > 512 && get_le32(image + XS_SW) == XS_MAGIC1 && get_le32(image + XS_SW + 16) >= n &&
              lx_get(image, fp + FP_SIZE, n);
        lx_x86_xsave_in(x, image, ext);
    }
    for (unsigned i = 0; i < 8; i++)
        c->regs[order[i]] = get_le32(sc + 16 + 4 * i);
    load_segment(x, X86_GS, get_le16(sc));
    load_segment(x, X86_FS, get_le16(sc + 4));
    c->rip = get_le32(sc + 56);
    c->rflags = (c->rflags & ~(uint64_t)FLAGS_USER) | (get_le32(sc + 64) & FLAGS_USER);
    return true;
}

/* rt: sp is behind the return address. Plain: behind the signal number too (the trampoline popped it). */
static bool frame_pop(struct lx_cpu *lc, bool rt, struct lx_sigframe *f)
{
    struct x86_lx *x = x86_lx(lc);
    uint8_t fr[R_SIZE];
    uint64_t sp = (uint32_t)x->c->regs[X86_RSP];

    if (!rt) {
        uint32_t extra;

        if (!lx_get(fr, sp - 8, P_SC + SC_SIZE) || !lx_get(&extra, sp - 8 + P_EXTRA, 4))
            return false;
        f->mask = get_le32(fr + P_SC + 80) | (uint64_t)extra << 32;
        return get_sc(x, fr + P_SC);
    }
    if (!lx_get(fr, sp - 4, R_CODE))
        return false;
    f->mask = get_le64(fr + R_UC + U_MASK);
    f->alt_sp = get_le32(fr + R_UC + U_SP);
    f->alt_flags = get_le32(fr + R_UC + U_SS);
    f->alt_size = get_le32(fr + R_UC + U_SIZE);
    return get_sc(x, fr + R_UC + U_SC);
}

static uint64_t least_sigstack(void)
{
    return lx_x86_sigstack(R_SIZE + FP_SIZE + 4);
}

static void hwcaps(uint64_t *hwcap, uint64_t *hwcap2)
{
    *hwcap = lx_x86_hwcap();
    *hwcap2 = 0;
}

static const char *xml(const char *annex)
{
    return lx_x86_gdb_xml(false);
}

static const struct lx_field stat64_i386[] = {{LX_ST_DEV, 0, 8},       {LX_ST_INO32, 12, 4},    {LX_ST_MODE, 16, 4},
                                              {LX_ST_NLINK, 20, 4},    {LX_ST_UID, 24, 4},      {LX_ST_GID, 28, 4},
                                              {LX_ST_RDEV, 32, 8},     {LX_ST_SIZE, 44, 8},     {LX_ST_BLKSIZE, 52, 4},
                                              {LX_ST_BLOCKS, 56, 8},   {LX_ST_ATIME, 64, 4},    {LX_ST_ATIME_NS, 68, 4},
                                              {LX_ST_MTIME, 72, 4},    {LX_ST_MTIME_NS, 76, 4}, {LX_ST_CTIME, 80, 4},
                                              {LX_ST_CTIME_NS, 84, 4}, {LX_ST_INO, 88, 8},      {0, 96, 0}};
static const char *const cross[] = {"i386", "/usr/i686-linux-gnu", "/usr/i386-linux-gnu", NULL};

static const struct lx_arch i386 = {.name = "i386",
                                    .cross = cross,
                                    .uname_machine = "i686",
                                    .platform = "i686",
                                    .elf_machine = EM_386,
                                    .elf_class = ELFCLASS32,
                                    .word = 4,
                                    .packed_epoll = true,
                                    .sysnr = lx_sysnr_i386,
                                    .stat = lx_stat_32,
                                    .stat64 = stat64_i386,
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
                                    .tramp_fill = tramp_fill,
                                    .vdso = &vdso,
                                    .gdb_xml = xml,
                                    .gdb_get = lx_x86_gdb_get,
                                    .gdb_set = lx_x86_gdb_set,
                                    .gdb_regs = 41,
                                    .fp_get = lx_x86_fp_get,
                                    .fp_set = lx_x86_fp_set,
                                    .sigstack = least_sigstack};
LX_ARCH_REGISTER(i386)
