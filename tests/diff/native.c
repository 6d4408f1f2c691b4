/* Runs one instruction on the bare host CPU with given registers, in user mode, and catches its fault.
 * The control block stands at a fixed low address, so that the entry and exit code can reach it without any register.
 */
#include "diff.h"

#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

/* Where AVX-512 lies in a standard XSAVE image of this processor. */
static unsigned k_at, upper_at, more_at;

enum { CTL_AT = 0x20000000 };
struct ctl {
    struct dregs in, out;
    uint64_t host_rsp, stack[64];
    struct {
        uint32_t ip;
        uint16_t cs;
    } __attribute__((packed)) far32; /* where 32-bit code begins */
};
static struct ctl *const ctl = (struct ctl *)(uintptr_t)CTL_AT;
static sigjmp_buf back;
static volatile bool armed; /* the host's run is on: a fault outside it is our own bug */
static struct sigaction earlier[32];
static uint8_t *thunk, *thunk32; /* where the entry codes stand: in the window, before CODE_AT */
enum { CS32 = 0x23, CS64 = 0x33, DS32 = 0x2b, EXIT64 = CODE_AT + 0x1000 };

/* The image of a signal's frame; parts in their initial state are not written. */
static void take_image(const uint8_t *xs)
{
    uint64_t bv;

    memcpy(ctl->out.xs, xs, XS_SIZE);
    memcpy(&bv, xs + 512, 8);
    if (!diff_wide())
        return;
    if (bv & 1 << 5)
        memcpy(ctl->out.k, xs + k_at, sizeof ctl->out.k);
    if (bv & 1 << 6)
        memcpy(ctl->out.upper, xs + upper_at, sizeof ctl->out.upper);
    if (bv & 1 << 7)
        memcpy(ctl->out.more, xs + more_at, sizeof ctl->out.more);
}

static void on_fault(int sig, siginfo_t *si, void *ucv)
{
    ucontext_t *uc = ucv;
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

    if (!armed) { /* the engine's own, or a bug */
        if (earlier[sig].sa_sigaction && earlier[sig].sa_flags & SA_SIGINFO)
            earlier[sig].sa_sigaction(sig, si, ucv);
        else
            signal(sig, SIG_DFL);
        return;
    }
    for (unsigned i = 0; i < 16; i++)
        ctl->out.gpr[i] = (uint64_t)uc->uc_mcontext.gregs[order[i]];
    ctl->out.flags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
    ctl->out.rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    ctl->out.vec = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    ctl->out.err = (uint32_t)uc->uc_mcontext.gregs[REG_ERR] & 7;
    ctl->out.cr2 = (uint64_t)(uintptr_t)si->si_addr;
    if (uc->uc_mcontext.fpregs)
        take_image((const uint8_t *)uc->uc_mcontext.fpregs);
    siglongjmp(back, 1);
}

static uint8_t *abs_op(uint8_t *p, const char *op, unsigned n, unsigned reg, const void *at)
{
    uint32_t a = (uint32_t)(uintptr_t)at;

    memcpy(p, op, n);
    p += n;
    *p++ = (uint8_t)(4 | (reg & 7) << 3);
    *p++ = 0x25;
    memcpy(p, &a, 4);
    return p + 4;
}

static uint8_t *move_gpr(uint8_t *p, bool load, unsigned reg, const void *at)
{
    char op[2] = {reg >= 8 ? 0x4c : 0x48, (char)(load ? 0x8b : 0x89)};

    return abs_op(p, op, 2, reg, at);
}

/* ZMM and K registers in or out: VINSERTI64X4 and VEXTRACTI64X4 for the upper halves, VMOVUPS, KMOVQ. */
static uint8_t *move_wide(uint8_t *p, bool load, struct dregs *d)
{
    if (!diff_wide())
        return p;
    for (unsigned i = 0; i < 16; i++) {
        uint8_t ins[6] = {0x62, i & 8 ? 0x73 : 0xf3, 0, 0, load ? 0x3a : 0x3b};

        ins[2] = load ? (uint8_t)(0x85 | (~i & 15) << 3) : 0xfd;
        ins[3] = 0x48;
        p = abs_op(p, (char *)ins, 5, i, d->upper[i]);
        *p++ = 1;
    }
    for (unsigned i = 0; i < 16; i++) {
        uint8_t ins[6] = {0x62, i & 8 ? 0x61 : 0xe1, 0x7c, 0x48, load ? 0x10 : 0x11};

        p = abs_op(p, (char *)ins, 5, i, d->more[i]);
    }
    for (unsigned i = 0; i < 8; i++)
        p = abs_op(p, load ? "\xc4\xe1\xf8\x90" : "\xc4\xe1\xf8\x91", 4, i, &d->k[i]);
    return p;
}

static uint8_t *bytes(uint8_t *p, const char *b, unsigned n)
{
    memcpy(p, b, n);
    return p + n;
}

/* Entry: load everything, fall into CODE_AT, or jump there into a 32-bit code segment. */
static uint8_t *build_entry(bool m32)
{
    uint8_t b[1024], *p = b;

    p = bytes(p, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57", 10);
    p = move_gpr(p, false, 4, &ctl->host_rsp);
    p = bytes(p, "\xb8\x07\0\0\0\x31\xd2", 7);       /* mov eax,7; xor edx,edx */
    p = abs_op(p, "\x48\x0f\xae", 3, 5, ctl->in.xs); /* xrstor64 */
    p = move_wide(p, true, &ctl->in);
    p = bytes(p, "\x48\xc7\xc4", 3);
    {
        uint32_t top = (uint32_t)(uintptr_t)&ctl->stack[60];

        memcpy(p, &top, 4);
        p += 4;
    }
    p = abs_op(p, "\xff", 1, 6, &ctl->in.flags);
    p = bytes(p, "\x9d", 1);
    for (unsigned i = 0; i < 16; i++)
        p = move_gpr(p, true, i, &ctl->in.gpr[i]);
    if (m32)
        p = abs_op(p, "\xff", 1, 5, &ctl->far32); /* ljmp m16:32 */
    {
        uint8_t *at = (uint8_t *)(uintptr_t)(CODE_AT - (m32 ? 0x800 : 0)) - (p - b);

        memcpy(at, b, (size_t)(p - b));
        return at;
    }
}

/* Exit: stands right behind the instruction. */
static unsigned build_exit(uint8_t *b)
{
    uint8_t *p = b;
    uint32_t top = (uint32_t)(uintptr_t)&ctl->stack[60];

    for (unsigned i = 0; i < 16; i++)
        p = move_gpr(p, false, i, &ctl->out.gpr[i]);
    p = bytes(p, "\x48\xc7\xc4", 3);
    memcpy(p, &top, 4);
    p += 4;
    p = bytes(p, "\x9c", 1);
    p = abs_op(p, "\x8f", 1, 0, &ctl->out.flags);
    p = bytes(p, "\xfc\xb8\x07\0\0\0\x31\xd2", 8);
    p = abs_op(p, "\x48\x0f\xae", 3, 4, ctl->out.xs); /* xsave64 */
    p = move_wide(p, false, &ctl->out);
    p = bytes(p, "\xdb\xe3\xc5\xf8\x77", 5); /* fninit, vzeroupper */
    p = move_gpr(p, true, 4, &ctl->host_rsp);
    p = bytes(p, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3", 11);
    return (unsigned)(p - b);
}

bool native_init(int memfd)
{
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    stack_t ss = {.ss_size = 1 << 16};
    unsigned a, c, d;
    void *p = mmap((void *)(uintptr_t)WIN_BASE, WIN_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_SHARED | MAP_FIXED_NOREPLACE, memfd, 0);
    void *q = mmap((void *)(uintptr_t)CTL_AT, sizeof *ctl, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    ss.ss_sp = malloc(ss.ss_size);
    for (uint64_t at = DATA_AT; at < DATA_AT + 0x2000 && p != MAP_FAILED; at += 0x1000)
        p = mmap((void *)(uintptr_t)at, 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_FIXED, memfd,
                 (off_t)(win_frame(at) - WIN_BASE));
    if (p == MAP_FAILED || q == MAP_FAILED || !ss.ss_sp || sigaltstack(&ss, NULL) ||
        mprotect((void *)(uintptr_t)RO_AT, 0x1000, PROT_READ))
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(sigs); i++)
        sigaction(sigs[i], &sa, &earlier[sigs[i]]);
    ctl->far32.ip = CODE_AT;
    ctl->far32.cs = CS32;
    if (diff_wide()) {
        __cpuid_count(0xd, 5, a, k_at, c, d);
        __cpuid_count(0xd, 6, a, upper_at, c, d);
        __cpuid_count(0xd, 7, a, more_at, c, d);
    }
    thunk = build_entry(false);
    thunk32 = build_entry(true);
    build_exit((uint8_t *)(uintptr_t)EXIT64);
    return true;
}

void native_run(const struct x86_insn *in, int mode, const struct dregs *before, struct dregs *out)
{
    native_run_code(in->bytes, in->len, mode, before, out);
}

void native_run_code(const uint8_t *code, unsigned len, int mode, const struct dregs *before, struct dregs *out)
{
    uint8_t *at = (uint8_t *)(uintptr_t)CODE_AT;
    uint32_t mxcsr, exit64 = EXIT64;
    uint16_t cs64 = CS64;

    memcpy(at, code, len);
    if (mode == X86_MODE_64) {
        build_exit(at + len);
    } else { /* ljmp 33h:exit */
        at[len] = 0xea;
        memcpy(at + len + 1, &exit64, 4);
        memcpy(at + len + 5, &cs64, 2);
        __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(DS32));
    }
    memcpy(&ctl->in, before, sizeof *before);
    memset(&ctl->out, 0, sizeof ctl->out);
    ctl->out.vec = -1;
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    armed = true;
    if (sigsetjmp(back, 0) == 0)
        ((void (*)(void))(uintptr_t)(mode == X86_MODE_64 ? thunk : thunk32))();
    armed = false;
    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
    memcpy(out, &ctl->out, sizeof *out);
}
