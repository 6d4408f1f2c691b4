/* 32-bit Arm guests (EABI): registers, system call convention, the kernel's helper page, signal frames, auxiliary
 * vector. After the Arm EABI of Linux: number in R7, arguments from R0, 64-bit ones in even pairs, calls of Arm's own
 * from 0xf0000; and Documentation/arm/kernel_user_helpers of the kernel. Not here: the old ABI (numbers in the SVC),
 * big-endian programs. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/arm_front.h"
#include "user/linux/sysnr_tables.h"
#include "user/linux/vdso.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>

enum { NR_BREAKPOINT = 0xf0001, NR_CACHEFLUSH, NR_USR26, NR_USR32, NR_SET_TLS, NR_GET_TLS };
enum { NR_SIGRETURN = 119, NR_RT_SIGRETURN = 173 };
/* struct ucontext: flags, link, stack (12), sigcontext, mask (8 of 128 bytes), coprocessor space; behind it in the
 * frame retcode. */
enum { UC_SP = 8, UC_SS_FLAGS = 12, UC_SS_SIZE = 16, UC_SC = 20, UC_MASK = 104, UC_REGSPACE = 232, UC_SIZE = 744 };
/* struct sigcontext */
enum { SC_TRAP = 0, SC_ERR = 4, SC_OLDMASK = 8, SC_R0 = 12, SC_PC = 72, SC_CPSR = 76, SC_FAULT = 80 };
enum { FRAME = UC_SIZE + 16, RT_INFO = 128, PLAIN_FLAGS = 0x5ac3c35a };
/* struct vfp_sigframe */
enum { VFP_MAGIC = 0x56465001, VFP_SIZE = 288, VFP_REGS = 8, VFP_FPSCR = 264, VFP_EXC = 272, FPEXC_EN = 0x40000000 };
enum { TRAMP_PLAIN = 0, TRAMP_RT = 8 };
enum { HELPERS = 0xffff0000 };

static void exec_state(struct lx_cpu *lc, uint64_t entry, uint64_t sp)
{
    struct arm_cpu *c = arm_lx(lc);

    arm_reset(c);
    c->a.pc = entry;
    c->a.x[ARM_SP] = sp;
}

static uint64_t get(const struct lx_cpu *lc, enum lx_reg r)
{
    const struct arm_cpu *c = arm_lx(lc);

    switch (r) {
    case LX_PC:
        return c->a.pc & ~UINT64_C(1);
    case LX_SP:
        return c->a.x[ARM_SP];
    case LX_TLS:
        return c->a.tpidrro;
    case LX_SYSNO:
        return c->a.x[7];
    case LX_RET:
        return c->a.x[0];
    default:
        return c->a.x[r - LX_ARG0];
    }
}

static void set(struct lx_cpu *lc, enum lx_reg r, uint64_t v)
{
    struct arm_cpu *c = arm_lx(lc);

    v = (uint32_t)v;
    switch (r) {
    case LX_PC:
        c->a.pc = (v & ~UINT64_C(1)) | (c->a.pc & 1);
        break;
    case LX_SP:
        c->a.x[ARM_SP] = v;
        break;
    case LX_TLS:
        c->a.tpidrro = v;
        break;
    case LX_SYSNO:
        c->a.x[7] = v;
        break;
    case LX_RET:
        c->a.x[0] = v;
        break;
    default:
        c->a.x[r - LX_ARG0] = v;
        break;
    }
}

static enum lx_stop run(struct lx_cpu *lc)
{
    enum lx_stop stop = lx_rt_run(lc->rt);

    if (stop == LX_STOP_SYSCALL)
        arm_lx(lc)->orig_r0 = (uint32_t)arm_lx(lc)->a.x[0];
    return stop;
}

static void sys_result(struct lx_cpu *lc, int64_t v)
{
    arm_lx(lc)->a.x[0] = (uint32_t)v;
}

static void sys_restart(struct lx_cpu *lc)
{
    struct arm_cpu *c = arm_lx(lc);

    c->a.pc -= c->a.pc & 1 ? 2 : 4;
    c->a.x[0] = c->orig_r0;
}

static bool sys_own(struct lx_cpu *lc, uint64_t nr, const uint64_t a[6], int64_t *ret)
{
    struct arm_cpu *c = arm_lx(lc);

    *ret = 0;
    switch (nr) {
    case NR_CACHEFLUSH:
        if (a[1] > a[0])
            lx_rt_code_changed(lc->rt->rt, a[0], a[1] - a[0]);
        return true;
    case NR_SET_TLS:
        c->a.tpidrro = (uint32_t)a[0];
        return true;
    case NR_GET_TLS:
        *ret = (int64_t)c->a.tpidrro;
        return true;
    case NR_BREAKPOINT:
    case NR_USR26:
    case NR_USR32:
        *ret = -ENOSYS;
        return true;
    default:
        return false;
    }
}

/* ---- signal frames ---- */
static void put_vfp(const struct arm_cpu *c, uint8_t *p)
{
    put_le32(p, VFP_MAGIC);
    put_le32(p + 4, VFP_SIZE);
    memcpy(p + VFP_REGS, c->a.v, 256);
    put_le32(p + VFP_FPSCR, arm_fpscr(c));
    put_le32(p + VFP_EXC, FPEXC_EN);
}

static void put_context(struct lx_cpu *lc, const struct lx_sigframe *f, bool rt, uint8_t *uc)
{
    const struct arm_cpu *c = arm_lx(lc);
    uint8_t *sc = uc + UC_SC;
    bool memory = lc->fault.sig == SIGSEGV || lc->fault.sig == SIGBUS;

    put_le32(uc, rt ? 0 : PLAIN_FLAGS);
    if (rt) {
        put_le32(uc + UC_SP, (uint32_t)f->alt_sp);
        put_le32(uc + UC_SS_FLAGS, f->alt_flags);
        put_le32(uc + UC_SS_SIZE, (uint32_t)f->alt_size);
    }
    if (memory) { /* a data abort: translation or permission fault, bit 11 for a write */
        put_le32(sc + SC_TRAP, 14);
        put_le32(sc + SC_ERR, (lc->fault.err & 2 ? 0x800u : 0) | (lc->fault.err & 1 ? 0x0fu : 0x07u));
        put_le32(sc + SC_FAULT, (uint32_t)lc->fault.addr);
    }
    put_le32(sc + SC_OLDMASK, (uint32_t)f->mask);
    for (unsigned i = 0; i < 15; i++)
        put_le32(sc + SC_R0 + 4 * i, (uint32_t)c->a.x[i]);
    put_le32(sc + SC_PC, (uint32_t)c->a.pc & ~1u);
    put_le32(sc + SC_CPSR, arm_psr(c));
    put_le64(uc + UC_MASK, f->mask);
    put_vfp(c, uc + UC_REGSPACE);
}

static bool frame_push(struct lx_cpu *lc, const struct lx_sigframe *f)
{
    struct arm_cpu *c = arm_lx(lc);
    bool rt = f->sa_flags & SA_SIGINFO;
    uint8_t frame[RT_INFO + FRAME] = {0}, *at = rt ? frame : frame + RT_INFO;
    uint64_t size = rt ? RT_INFO + FRAME : FRAME, sp = (f->sp - size) & ~UINT64_C(7);

    if (rt)
        lx_siginfo_out(frame, f->info, 4);
    put_context(lc, f, rt, frame + RT_INFO);
    if (!lx_put(sp, at, size))
        return false;
    c->a.x[0] = (uint64_t)f->sig;
    if (rt) {
        c->a.x[1] = sp;
        c->a.x[2] = sp + RT_INFO;
    }
    c->a.x[ARM_SP] = sp;
    c->a.x[ARM_LR] = f->restorer ? (uint32_t)f->restorer : (uint32_t)lx_tramp() + (rt ? TRAMP_RT : TRAMP_PLAIN);
    c->a.pc = (uint32_t)f->handler;
    c->it = 0;
    return true;
}

static bool get_vfp(struct arm_cpu *c, const uint8_t *p)
{
    if (get_le32(p) != VFP_MAGIC)
        return !get_le32(p);
    if (get_le32(p + 4) != VFP_SIZE)
        return false;
    memcpy(c->a.v, p + VFP_REGS, 256);
    arm_set_fpscr(c, get_le32(p + VFP_FPSCR));
    return true;
}

static bool frame_pop(struct lx_cpu *lc, bool rt, struct lx_sigframe *f)
{
    struct arm_cpu *c = arm_lx(lc);
    uint8_t uc[UC_SIZE], *sc = uc + UC_SC;
    unsigned mode = arm_mode(c) & A64_MODE_FP;

    if (c->a.x[ARM_SP] & 7 || !lx_get(uc, c->a.x[ARM_SP] + (rt ? RT_INFO : 0), sizeof uc) ||
        !get_vfp(c, uc + UC_REGSPACE))
        return false;
    for (unsigned i = 0; i < 15; i++)
        c->a.x[i] = get_le32(sc + SC_R0 + 4 * i);
    c->a.pc = get_le32(sc + SC_PC) & ~1u;
    arm_set_psr(c, get_le32(sc + SC_CPSR));
    c->a.ex_addr = UINT64_MAX;
    f->mask = get_le64(uc + UC_MASK);
    if (rt) {
        f->alt_sp = get_le32(uc + UC_SP);
        f->alt_flags = get_le32(uc + UC_SS_FLAGS);
        f->alt_size = get_le32(uc + UC_SS_SIZE);
    }
    if (mode != (arm_mode(c) & A64_MODE_FP)) { /* blocks of the other mode must not be predicted */
        ir_jc_clear(&c->a.jit);
        c->a.jit.ss_rsp = lc->rt->ss_top;
    }
    return true;
}

static void tramp_fill(uint8_t page[4096])
{
    put_le32(page + TRAMP_PLAIN, 0xe3a07000 | NR_SIGRETURN); /* mov r7, #nr */
    put_le32(page + TRAMP_PLAIN + 4, 0xef000000);            /* svc #0 */
    put_le32(page + TRAMP_RT, 0xe3a07000 | NR_RT_SIGRETURN);
    put_le32(page + TRAMP_RT + 4, 0xef000000);
}

static const struct lx_vdso_fn vdso_fn[] = {{"__vdso_gettimeofday", LX_VDSO_TIMEOFDAY},
                                            {"__vdso_clock_gettime", LX_VDSO_GETTIME},
                                            {"__vdso_clock_gettime64", LX_VDSO_GETTIME64},
                                            {"__vdso_clock_getres", LX_VDSO_GETRES},
                                            {NULL, 0}};

static unsigned vdso_code(uint8_t out[32], unsigned call)
{
    unsigned nr = LX_VDSO_NR + call;

    put_le32(out, 0xe52d7004);                                         /* push {r7} */
    put_le32(out + 4, 0xe3007000 | (nr & 0xf000) << 4 | (nr & 0xfff)); /* movw r7, #nr */
    put_le32(out + 8, 0xef000000);                                     /* svc #0 */
    put_le32(out + 12, 0xe49d7004);                                    /* pop {r7} */
    put_le32(out + 16, 0xe12fff1e);                                    /* bx lr */
    return 20;
}

static const struct lx_vdso vdso = {.version = "LINUX_2.6", .fn = vdso_fn, .code = vdso_code};

/* The functions the kernel offers at fixed addresses, in A32 code of our own. */
static void helper_fill(uint8_t page[4096])
{
    static const struct {
        uint16_t at;
        uint32_t code[16];
    } fn[] = {
        /* int cmpxchg64(const int64_t *old, const int64_t *new, int64_t *ptr): 0 and C set when new was stored */
        {0xf60,
         {0xe92d00f0,   /* push {r4, r5, r6, r7} */
          0xe1c040d0,   /* ldrd r4, [r0] */
          0xe1c160d0,   /* ldrd r6, [r1] */
          0xf57ff05b,   /* dmb ish */
          0xe1b20f9f,   /* ldrexd r0, [r2] */
          0xe0200004,   /* eor r0, r0, r4 */
          0xe0211005,   /* eor r1, r1, r5 */
          0xe1903001,   /* orrs r3, r0, r1 */
          0x1a000002,   /* bne 30 <f60+0x30> */
          0xe1a23f96,   /* strexd r3, r6, [r2] */
          0xe3530000,   /* cmp r3, #0 */
          0x1afffff7,   /* bne 10 <f60+0x10> */
          0xf57ff05b,   /* dmb ish */
          0xe2730000,   /* rsbs r0, r3, #0 */
          0xe8bd00f0,   /* pop {r4, r5, r6, r7} */
          0xe12fff1e}}, /* bx lr */
        /* void memory_barrier(void) */
        {0xfa0,
         {0xf57ff05b,   /* dmb ish */
          0xe12fff1e}}, /* bx lr */
        /* int cmpxchg(int old, int new, int *ptr): the same */
        {0xfc0,
         {0xf57ff05b,   /* dmb ish */
          0xe1923f9f,   /* ldrex r3, [r2] */
          0xe0533000,   /* subs r3, r3, r0 */
          0x01823f91,   /* strexeq r3, r1, [r2] */
          0x03530001,   /* cmpeq r3, #1 */
          0x0afffffa,   /* beq 64 <fc0+0x4> */
          0xe2730000,   /* rsbs r0, r3, #0 */
          0xeaffffef}}, /* b 40 <fa0> */
        /* void *get_tls(void) */
        {0xfe0,
         {0xee1d0f70,   /* mrc 15, 0, r0, cr13, cr0, {3} */
          0xe12fff1e}}, /* bx lr */
    };

    for (unsigned i = 0; i < ARRAY_LEN(fn); i++)
        for (unsigned k = 0; k < ARRAY_LEN(fn[i].code) && fn[i].code[k]; k++)
            put_le32(page + fn[i].at + 4 * k, fn[i].code[k]);
    put_le32(page + 0xffc, 5); /* how many 32-byte slots are used */
}

/* ---- what the program is told ---- */
static void hwcaps(uint64_t *hwcap, uint64_t *hwcap2)
{
    /* SWP HALF THUMB FAST_MULT VFP EDSP NEON VFPv3 TLS VFPv4 IDIVA IDIVT VFPD32 LPAE */
    *hwcap = 0x7u | 1u << 4 | 3u << 6 | 3u << 12 | 0x3fu << 15;
    *hwcap2 = 0x1f; /* AES PMULL SHA1 SHA2 CRC32 */
}

static void cpuinfo(char *buf, size_t n, unsigned cpu)
{
    snprintf(
        buf, n,
        "processor\t: %u\nmodel name\t: ARMv7 Processor rev 1 (v7l)\nBogoMIPS\t: 2000.00\n"
        "Features\t: swp half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae aes pmull sha1 sha2 "
        "crc32\n"
        "CPU implementer\t: 0x00\nCPU architecture: 7\nCPU variant\t: 0x0\nCPU part\t: 0x000\nCPU revision\t: 1\n\n",
        cpu);
}

static bool cpu_select(const char *text, struct err **errp)
{
    const char *lacks = ir_host_lacks();

    if (lacks)
        return err_set(errp, "the translator needs a host CPU with %s", lacks);
    if (text && strcmp(text, "max") && strcmp(text, "any"))
        return err_set(errp, "no CPU model '%.*s'; there is: max", (int)strcspn(text, ","), text);
    return true;
}

static char *cpu_help(void)
{
    return xstrdup(
        "Available CPUs:\n  max  Armv7-A with VFPv4, Advanced SIMD, divide; of Armv8 CRC32, AES, SHA, load-acquire\n");
}

static const char *xml(const char *annex)
{
#define R4(a, b, c, d)                                                                                                 \
    "<reg name=\"" a "\" bitsize=\"32\"/><reg name=\"" b "\" bitsize=\"32\"/><reg name=\"" c "\" bitsize=\"32\"/>"     \
    "<reg name=\"" d "\" bitsize=\"32\"/>"
#define D1(n)                      "<reg name=\"d" n "\" bitsize=\"64\" type=\"ieee_double\"/>"
#define D8(a, b, c, d, e, f, g, h) D1(a) D1(b) D1(c) D1(d) D1(e) D1(f) D1(g) D1(h)
    return "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
           "<architecture>arm</architecture><osabi>GNU/Linux</osabi><feature name=\"org.gnu.gdb.arm.core\">" R4(
               "r0", "r1", "r2", "r3") R4("r4", "r5", "r6", "r7")
               R4("r8", "r9", "r10",
                  "r11") "<reg name=\"r12\" bitsize=\"32\"/><reg name=\"sp\" bitsize=\"32\" type=\"data_ptr\"/><reg "
                         "name=\"lr\" bitsize=\"32\"/>"
                         "<reg name=\"pc\" bitsize=\"32\" type=\"code_ptr\"/><reg name=\"cpsr\" "
                         "bitsize=\"32\"/></feature>"
                         "<feature name=\"org.gnu.gdb.arm.vfp\">" D8("0", "1", "2", "3", "4", "5", "6", "7")
                             D8("8", "9", "10", "11", "12", "13", "14", "15") D8("16", "17", "18", "19", "20", "21",
                                                                                 "22", "23")
                                 D8("24", "25", "26", "27", "28", "29", "30",
                                    "31") "<reg name=\"fpscr\" bitsize=\"32\" type=\"int\" group=\"float\"/></feature>"
                                          "<feature name=\"org.gnu.gdb.arm.neon\"></feature></target>";
#undef R4
#undef D1
#undef D8
}

enum { GDB_PC = 15, GDB_CPSR, GDB_D0, GDB_FPSCR = GDB_D0 + 32, GDB_NR };

static unsigned gdb_get(struct lx_cpu *lc, unsigned n, uint8_t *buf)
{
    const struct arm_cpu *c = arm_lx(lc);

    if (n >= GDB_NR)
        return 0;
    if (n >= GDB_D0 && n < GDB_FPSCR) {
        put_le64(buf, c->a.v[(n - GDB_D0) >> 1].d[(n - GDB_D0) & 1]);
        return 8;
    }
    put_le32(buf, n < GDB_PC      ? (uint32_t)c->a.x[n]
                  : n == GDB_PC   ? (uint32_t)c->a.pc & ~1u
                  : n == GDB_CPSR ? arm_psr(c)
                                  : arm_fpscr(c));
    return 4;
}

static unsigned gdb_set(struct lx_cpu *lc, unsigned n, const uint8_t *buf)
{
    struct arm_cpu *c = arm_lx(lc);

    if (n >= GDB_NR)
        return 0;
    if (n >= GDB_D0 && n < GDB_FPSCR) {
        c->a.v[(n - GDB_D0) >> 1].d[(n - GDB_D0) & 1] = get_le64(buf);
        return 8;
    }
    if (n < GDB_PC)
        c->a.x[n] = get_le32(buf);
    else if (n == GDB_PC)
        set(lc, LX_PC, get_le32(buf));
    else if (n == GDB_CPSR)
        arm_set_psr(c, get_le32(buf));
    else
        arm_set_fpscr(c, get_le32(buf));
    return 4;
}

/* D0-D31 and FPSCR. */
static unsigned fp_get(struct lx_cpu *lc, uint8_t *image)
{
    const struct arm_cpu *c = arm_lx(lc);

    memcpy(image, c->a.v, 256);
    put_le32(image + 256, arm_fpscr(c));
    return 260;
}

static void fp_set(struct lx_cpu *lc, uint8_t *image)
{
    struct arm_cpu *c = arm_lx(lc);

    memcpy(c->a.v, image, 256);
    arm_set_fpscr(c, get_le32(image + 256));
}

static const struct lx_field stat64_arm[] = {{LX_ST_DEV, 0, 8},       {LX_ST_INO32, 12, 4},    {LX_ST_MODE, 16, 4},
                                             {LX_ST_NLINK, 20, 4},    {LX_ST_UID, 24, 4},      {LX_ST_GID, 28, 4},
                                             {LX_ST_RDEV, 32, 8},     {LX_ST_SIZE, 48, 8},     {LX_ST_BLKSIZE, 56, 4},
                                             {LX_ST_BLOCKS, 64, 8},   {LX_ST_ATIME, 72, 4},    {LX_ST_ATIME_NS, 76, 4},
                                             {LX_ST_MTIME, 80, 4},    {LX_ST_MTIME_NS, 84, 4}, {LX_ST_CTIME, 88, 4},
                                             {LX_ST_CTIME_NS, 92, 4}, {LX_ST_INO, 96, 8},      {0, 104, 0}};
static const char *const cross[] = {"armhf", "/usr/arm-linux-gnueabihf", "/usr/arm-linux-gnueabi", NULL};

static const struct lx_arch arm = {.name = "arm",
                                   .cross = cross,
                                   .uname_machine = "armv7l",
                                   .platform = "v7l",
                                   .elf_machine = EM_ARM,
                                   .elf_class = ELFCLASS32,
                                   .word = 4,
                                   .pair_align = true,
                                   .o_direct = 0200000,
                                   .o_directory = 040000,
                                   .o_nofollow = 0100000,
                                   .o_largefile = 0400000,
                                   .task_end = HELPERS,
                                   .helper_fill = helper_fill,
                                   .sysnr = lx_sysnr_arm,
                                   .stat = lx_stat_32,
                                   .stat64 = stat64_arm,
                                   .front = &lx_arm_front,
                                   .tramp_fill = tramp_fill,
                                   .vdso = &vdso,
                                   .elf_flags = EF_ARM_EABI_VER5,
                                   .cpu_select = cpu_select,
                                   .cpu_help = cpu_help,
                                   .hwcaps = hwcaps,
                                   .cpu_new = lx_arm_new,
                                   .cpu_clone = lx_arm_clone,
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
                                   .cpuinfo = cpuinfo,
                                   .gdb_xml = xml,
                                   .gdb_get = gdb_get,
                                   .gdb_set = gdb_set,
                                   .gdb_regs = GDB_NR,
                                   .fp_get = fp_get,
                                   .fp_set = fp_set};
LX_ARCH_REGISTER(arm)
