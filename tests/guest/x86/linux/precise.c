/* precise: what a program sees of a fault or trap in the middle of its code: every register, the flags, the address,
 * how far memory had come. Snippets fault on purpose; a signal handler prints the state the kernel saved. The lines are
 * the same on every processor that has what "-cpu max" has, so a guest's output is compared with the bare CPU's, line
 * by line.
 *
 * Also: string instructions that fault half-way and go on (the counts are computed here), single-stepping, debug
 * registers by ptrace, and loops that keep every register busy while timer signals come. */
#define _GNU_SOURCE
#include "t.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* At BASE: code, stack, data that may be written, a page that may not be touched, a page that may only be read. */
enum {
    PAGE = 4096,
    BASE = 0x10000000,
    CODE = BASE,
    STACK = BASE + 0x2000,
    DATA = BASE + 0x4000,
    NONE = BASE + 0x5000,
    RO = BASE + 0x7000
};

struct regs {
    uint64_t r[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8..r15 */
    uint64_t flags;
};
struct regs snip_in, snip_out;
uint64_t snip_rsp;
void snip_run(void *code);
extern char snip_back[];

/* Loads every register from snip_in, jumps to the code, which ends with a jump to snip_done. */
__asm__(".text\n.globl snip_run, snip_done, snip_back\n"
        "snip_run: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, snip_rsp; push %rdi; push snip_in+128; popfq\n"
        "mov snip_in+0, %rax; mov snip_in+8, %rcx; mov snip_in+16, %rdx; mov snip_in+24, %rbx\n"
        "mov snip_in+40, %rbp; mov snip_in+48, %rsi; mov snip_in+64, %r8; mov snip_in+72, %r9\n"
        "mov snip_in+80, %r10; mov snip_in+88, %r11; mov snip_in+96, %r12; mov snip_in+104, %r13\n"
        "mov snip_in+112, %r14; mov snip_in+120, %r15; pop %rdi; mov %rdi, snip_to\n"
        "mov snip_in+56, %rdi; mov snip_in+32, %rsp; jmp *snip_to\n"
        "snip_done: mov %rax, snip_out; mov %rcx, snip_out+8; mov %rdx, snip_out+16; mov %rbx, snip_out+24\n"
        "mov %rsp, snip_out+32; mov %rbp, snip_out+40; mov %rsi, snip_out+48; mov %rdi, snip_out+56\n"
        "mov %r8, snip_out+64; mov %r9, snip_out+72; mov %r10, snip_out+80; mov %r11, snip_out+88\n"
        "mov %r12, snip_out+96; mov %r13, snip_out+104; mov %r14, snip_out+112; mov %r15, snip_out+120\n"
        "mov snip_rsp, %rsp; pushfq; pop snip_out+128\n"
        "snip_back: mov snip_rsp, %rsp; cld; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
        ".comm snip_to, 8\n");

/* rdi: the last 4 bytes of DATA, NONE follows. rsi: RO. rbx: DATA. rsp: the middle of STACK. rdx: NONE. r8:
 * noncanonical. */
#define SNIPS(X)                                                                                                       \
    X("add %rax,%rcx; mov 8(%rdi),%r12; xor %ecx,%ecx")                                                                \
    X("sub %rax,%rcx; mov %r9,(%rsi); add $1,%rax; adc $0,%rcx")                                                       \
    X("stc; inc %rax; movb $1,(%rsi); cmp %rax,%rcx")                                                                  \
    X("cmp %rax,%rcx; mov 8(%rdi),%r13; test %eax,%eax")                                                               \
    X("add %r10,%r11; mov 8(%rdi),%r10; add %r10,%r11; adc %r9,%r9")                                                   \
    X("add %r9,%r10; mov %rdi,%r11; add $1,%r9; mov 8(%r11),%r11; xor %r9d,%r9d")                                      \
    X("imul %rcx,%rax; mov %al,4(%rdi); xor %eax,%eax")                                                                \
    X("shl $3,%rcx; mov (%rdi),%rcx; shr %rcx")                                                                        \
    X("push %rax; push %rcx; pop 8(%rdi)")                                                                             \
    X("push %rax; push %rcx; push %r9; mov 8(%rdi),%rax; pop %rax; pop %rax; pop %rax")                                \
    X("push %rax; pop (%rsi)")                                                                                         \
    X("push 8(%rdi)")                                                                                                  \
    X("push %rcx; push (%rdi)")                                                                                        \
    X("call *8(%rdi)")                                                                                                 \
    X("jmp *8(%rdi)")                                                                                                  \
    X("lea 4100(%rdi),%rsp; push %rax")                                                                                \
    X("lea 4100(%rdi),%rsp; call 1f; 1: nop")                                                                          \
    X("lea 4100(%rdi),%rsp; call *%rbx")                                                                               \
    X("lea 4(%rdi),%rsp; ret")                                                                                         \
    X("lea 4(%rdi),%rsp; pop %rcx")                                                                                    \
    X("lea -4(%rdi),%rsp; pop %rax; pop %rcx")                                                                         \
    X("lea 4(%rdi),%rsp; popfq")                                                                                       \
    X("lea 4100(%rdi),%rsp; pushfq")                                                                                   \
    X("lea 4(%rdi),%rbp; leave")                                                                                       \
    X("lea 4100(%rdi),%rsp; enter $32,$0")                                                                             \
    X("lea 4(%rdi),%rsp; pop %rsp")                                                                                    \
    X("xchg %rax,(%rsi)")                                                                                              \
    X("xchg %rax,(%rdi)")                                                                                              \
    X("lock cmpxchg %rcx,(%rsi)")                                                                                      \
    X("cmpxchg %rcx,(%rdi)")                                                                                           \
    X("cmpxchg8b (%rdi)")                                                                                              \
    X("lock cmpxchg16b (%rsi)")                                                                                        \
    X("xadd %rax,(%rsi)")                                                                                              \
    X("lock xadd %rax,(%rdi)")                                                                                         \
    X("add %rax,(%rsi); mov %rax,%rcx")                                                                                \
    X("stc; adc %rax,(%rdi)")                                                                                          \
    X("stc; sbbl $0,(%rsi)")                                                                                           \
    X("shlq %cl,(%rsi)")                                                                                               \
    X("rclq $2,(%rdi)")                                                                                                \
    X("negq (%rsi)")                                                                                                   \
    X("notq (%rdi)")                                                                                                   \
    X("incl (%rsi); incl %eax")                                                                                        \
    X("mov $32768,%ecx; bts %rcx,(%rbx)")                                                                              \
    X("shld $4,%rax,(%rsi)")                                                                                           \
    X("cmp %eax,%eax; cmovnz 8(%rdi),%rax")                                                                            \
    X("cmp %eax,%eax; cmovnz 8(%rdi),%eax")                                                                            \
    X("stc; setc (%rsi)")                                                                                              \
    X("movsq")                                                                                                         \
    X("xchg %rsi,%rdi; movsl; movsl")                                                                                  \
    X("add $4,%rdi; stosb")                                                                                            \
    X("mov %rdi,%rsi; lodsq")                                                                                          \
    X("mov %rbx,%rsi; cmpsq")                                                                                          \
    X("xchg %rsi,%rdi; cmpsq")                                                                                         \
    X("add $4,%rdi; scasb")                                                                                            \
    X("std; mov %rdx,%rsi; mov %rbx,%rdi; movsb")                                                                      \
    X("lea 4(%rdi),%rbx; xor %eax,%eax; xlatb")                                                                        \
    X("mov (%rdi),%rax")                                                                                               \
    X("mov %rax,(%rdi)")                                                                                               \
    X("mov %rcx,2(%rdi)")                                                                                              \
    X("movdqu %xmm0,(%rdi)")                                                                                           \
    X("movdqu -8(%rdi),%xmm1")                                                                                         \
    X("vmovdqu %ymm0,-20(%rdi)")                                                                                       \
    X("vaddps -20(%rdi),%ymm0,%ymm1")                                                                                  \
    X("movaps 1(%rbx),%xmm0")                                                                                          \
    X("movaps %xmm0,1(%rsi)")                                                                                          \
    X("paddb 1(%rbx),%xmm0")                                                                                           \
    X("fldt (%rdi)")                                                                                                   \
    X("fld1; fstpt (%rdi)")                                                                                            \
    X("fld1; fldl 8(%rdi); faddp")                                                                                     \
    X("fstpl (%rsi)")                                                                                                  \
    X("fistpll (%rsi)")                                                                                                \
    X("fnstenv (%rsi)")                                                                                                \
    X("lea -508(%rdi),%rdi; and $-16,%rdi; add $16,%rdi; fxsave (%rdi)")                                               \
    X("ldmxcsr 4(%rdi)")                                                                                               \
    X("stmxcsr (%rsi)")                                                                                                \
    X("vpcmpeqd %ymm2,%ymm2,%ymm2; vpxor %ymm3,%ymm3,%ymm3; lea -12(%rdi),%rdi; vmovdqu index(%rip),%ymm3; "           \
      "vpgatherdd %ymm2,(%rdi,%ymm3,4),%ymm1")                                                                         \
    X("vmovdqu lanes(%rip),%ymm2; vmaskmovps (%rdi),%ymm2,%ymm1; vmaskmovps %ymm1,%ymm2,(%rdi)")                       \
    X("vmovdqu lanes(%rip),%ymm2; vmaskmovps %ymm1,%ymm2,4(%rdi)")                                                     \
    X("vmovdqu lanes(%rip),%xmm2; vpmaskmovd (%rsi),%xmm2,%xmm1; vpmaskmovd %xmm1,%xmm2,(%rsi)")                       \
    X("xor %ecx,%ecx; xor %edx,%edx; div %rcx")                                                                        \
    X("mov $-1,%rdx; mov $2,%ecx; div %rcx")                                                                           \
    X("mov $1,%eax; xor %edx,%edx; shl $63,%rax; cqo; mov $-1,%rcx; idiv %rcx")                                        \
    X("add %rax,%rcx; xor %r10d,%r10d; divb %r10b; add %rax,%rcx")                                                     \
    X("ud2")                                                                                                           \
    X("int3")                                                                                                          \
    X("int $3")                                                                                                        \
    X("int $0x81")                                                                                                     \
    X("hlt")                                                                                                           \
    X("cli")                                                                                                           \
    X("in $0x80,%al")                                                                                                  \
    X("rdmsr")                                                                                                         \
    X("mov %cr0,%rax")                                                                                                 \
    X(".byte 0xf0,0x48,0x01,0xc1")                                                                                     \
    X(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")                         \
    X("mov (%r8),%rax")                                                                                                \
    X("mov %rax,(%r8)")                                                                                                \
    X("mov %r8,%rsp; push %rax")                                                                                       \
    X("mov %r8,%rbp; mov (%rbp),%rax")                                                                                 \
    X("jmp *%r8")                                                                                                      \
    X("push %r8; ret")                                                                                                 \
    X("call *%r8")                                                                                                     \
    X("jmp *%rdx")                                                                                                     \
    X("call *%rdx")                                                                                                    \
    X("push %rdx; ret")                                                                                                \
    X("push %rdx; ret $16")                                                                                            \
    X("jmp *%rbx")                                                                                                     \
    X("movw $0x05eb,-2(%rdx); lea -1(%rdx),%rcx; jmp *%rcx")                                                           \
    X("mov $7,%ecx; 1: add (%rbx),%rax; adc %rax,%r9; add $1000,%rbx; loop 1b")                                        \
    X("mov $7,%ecx; 1: mov %rax,(%rbx); lea 900(%rbx),%rbx; dec %ecx; jnz 1b")                                         \
    X("mov 8(%rdi),%rdi")                                                                                              \
    X("movzbl 4(%rdi),%edi")                                                                                           \
    X("mov (%rbx),%rax; mov 8(%rbx),%rcx; mov 4(%rdi),%rax")                                                           \
    X("mov %rax,(%rbx); mov %rcx,8(%rbx); mov %rax,(%rsi)")                                                            \
    X("movbe 4(%rdi),%rcx")                                                                                            \
    X("prefetcht0 8(%rdi); nopl 8(%rdi); lea 8(%rdi),%rax")                                                            \
    X("pushq $0x40d5; popfq; add %rax,(%rsi)")                                                                         \
    X("pushfq; orl $0x40000,(%rsp); popfq; mov 1(%rbx),%rax")                                                          \
    X("pushfq; orl $0x40000,(%rsp); popfq; mov 8(%rbx),%rax; mov %rax,16(%rbx); mov %ax,33(%rbx)")                     \
    X("pushq $0; fldcw zero_div(%rip); fld1; fldz; fdivrp; add %rax,%rcx; fwait")                                      \
    X("fldcw zero_div(%rip); fldz; fld1; fdivp; mov %rax,(%rbx); fldz")                                                \
    X("ldmxcsr all_on(%rip); xorps %xmm1,%xmm1; divps %xmm1,%xmm0")                                                    \
    X("ldmxcsr all_on(%rip); cvttsd2si big(%rip),%eax")                                                                \
    X("xor %eax,%eax; mov %rsp,%rbp; 1: push %rax; inc %eax; jmp 1b")

#define DEFINE(code) "1: .quad 2f; .section .snips,\"ax\"; 2: " code "; jmp snip_done; .section .table,\"a\"\n"
__asm__(".section .snips,\"ax\"\n.balign 16\nindex: .long 0,1,2,3,4,5,6,7\nlanes: .long -1,0,0,0,0,0,0,0\n"
        "zero_div: .word 0x37b\nall_on: .long 0\nbig: .double 1e30\n"
        ".section .table,\"a\"\n.globl snip_table\nsnip_table:\n" SNIPS(DEFINE) ".text\n");
#define TEXT(code) code,
static const char *const snip_text[] = {SNIPS(TEXT)};
extern void *const snip_table[];

/* ---- the handler ---- */

static struct regs seen;
static int seen_sig, seen_code, seen_trap, seen_err;
static uint64_t seen_rip, seen_addr, seen_cr2;
static uint8_t seen_ymm[4][32];
static volatile bool armed;

static void get_regs(const ucontext_t *uc, struct regs *r)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

    for (int i = 0; i < 16; i++)
        r->r[i] = (uint64_t)uc->uc_mcontext.gregs[order[i]];
    r->flags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
}

static void on_fault(int sig, siginfo_t *si, void *ucv)
{
    ucontext_t *uc = ucv;
    const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;

    if (!armed) {
        signal(sig, SIG_DFL);
        return;
    }
    armed = false;
    get_regs(uc, &seen);
    seen_sig = sig;
    seen_code = si->si_code;
    seen_addr = (uint64_t)(uintptr_t)si->si_addr;
    seen_rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    seen_trap = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    seen_err = (int)uc->uc_mcontext.gregs[REG_ERR];
    seen_cr2 = seen_trap == 14 ? (uint64_t)uc->uc_mcontext.gregs[REG_CR2] : 0;
    for (int i = 0; fp && i < 4; i++) {
        memcpy(seen_ymm[i], fp + 160 + 16 * i, 16);
        memcpy(seen_ymm[i] + 16, fp + 576 + 16 * i, 16);
    }
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)snip_back;
    uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)0x40500;
}

static void handle(void (*fn)(int, siginfo_t *, void *))
{
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    static uint8_t stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction sa = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigaltstack(&ss, NULL);
    for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++)
        t_must(sigaction(sigs[i], &sa, NULL) == 0);
}

static uint32_t sum(const uint8_t *p, size_t n)
{
    uint32_t h = 2166136261u;

    while (n--)
        h = (h ^ *p++) * 16777619u;
    return h;
}

static void fill(void)
{
    for (unsigned i = 0; i < PAGE; i++) {
        ((uint8_t *)(uintptr_t)DATA)[i] = (uint8_t)(i * 7 + 1);
        ((uint8_t *)(uintptr_t)STACK)[i] = (uint8_t)(i * 5 + 3);
    }
}

static void one_snip(unsigned i)
{
    static const uint64_t ymm[8]
        __attribute__((aligned(32))) = {0x3ff0000000000000, 0x4000000040000000, 3, 4, 5, 6, 7, 8};

    fill();
    for (unsigned k = 0; k < 16; k++)
        snip_in.r[k] = 0x1111111111111111u * k + 0x0f0e0d0c0b0a0900u;
    snip_in.r[1] = 0x8877665544332211u;
    snip_in.r[2] = NONE;
    snip_in.r[3] = DATA + 0x40;
    snip_in.r[4] = STACK + 0x800;
    snip_in.r[5] = DATA + 0x80;
    snip_in.r[6] = RO + 0x40;
    snip_in.r[7] = NONE - 4;
    snip_in.r[8] = 0x8000000000000000u;
    snip_in.flags = 0x202;
    seen_sig = 0;
    __asm__ volatile("fninit; vmovdqu %0, %%ymm0; vmovdqu %0, %%ymm1" : : "m"(ymm) : "xmm0", "xmm1");
    armed = true;
    snip_run(snip_table[i]);
    __asm__ volatile("fninit; vzeroupper; ldmxcsr %0" : : "m"((uint32_t){0x1f80}));
    armed = false;
    printf("%u [%s]", i, snip_text[i]);
    if (seen_sig)
        printf(" signal %d code %d addr %llx trap %d err %x cr2 %llx rip +%lld", seen_sig, seen_code,
               (unsigned long long)seen_addr, seen_trap, (unsigned)seen_err, (unsigned long long)seen_cr2,
               seen_rip - (uint64_t)(uintptr_t)snip_table[i] < 256
                   ? (long long)(seen_rip - (uint64_t)(uintptr_t)snip_table[i])
                   : (long long)seen_rip);
    else
        seen = snip_out;
    printf(" flags %llx", (unsigned long long)seen.flags);
    for (unsigned k = 0; k < 16; k++)
        printf(" %llx", (unsigned long long)seen.r[k]);
    if (seen_sig)
        printf(" ymm %08x %08x %08x", sum(seen_ymm[0], 32), sum(seen_ymm[1], 32), sum(seen_ymm[2], 32));
    printf(" mem %08x %08x\n", sum((uint8_t *)(uintptr_t)DATA, PAGE), sum((uint8_t *)(uintptr_t)STACK, PAGE));
}

/* ---- string instructions that fault and go on ---- */

static struct regs first_fault;
static unsigned nr_faults;
static uint64_t fault_addr;
static uint8_t *fault_page;

static void on_string_fault(int sig, siginfo_t *si, void *ucv)
{
    if (!armed || ++nr_faults > 4) {
        signal(sig, SIG_DFL);
        return;
    }
    if (nr_faults == 1) {
        get_regs(ucv, &first_fault);
        fault_addr = (uint64_t)(uintptr_t)si->si_addr;
    }
    mprotect(fault_page, PAGE, PROT_READ | PROT_WRITE);
}

struct string_case {
    const char *name;
    void *code;
    bool src, dst;
    int size;
};
#define STRINGS(X)                                                                                                     \
    X(movs, "rep movs", 1, 1)                                                                                          \
    X(stos, "rep stos", 0, 1)                                                                                          \
    X(lods, "rep lods", 1, 0)                                                                                          \
    X(cmps, "repe cmps", 1, 1)                                                                                         \
    X(scas, "repne scas", 0, 1)
#define STRING_CODE(n, insn, s, d)                                                                                     \
    __asm__(".text\n" #n "_b: " insn "b; jmp snip_done\n" #n "_w: " insn "w; jmp snip_done\n" #n "_l: " insn           \
            "l; jmp snip_done\n" #n "_q: " insn "q; jmp snip_done\n");                                                 \
    extern char n##_b[], n##_w[], n##_l[], n##_q[];
STRINGS(STRING_CODE)
#define STRING_ROW(n, insn, s, d)                                                                                      \
    {insn "b", n##_b, s, d, 1}, {insn "w", n##_w, s, d, 2}, {insn "l", n##_l, s, d, 4}, {insn "q", n##_q, s, d, 8},
static const struct string_case strings[] = {STRINGS(STRING_ROW)};

/* The operand that faults starts `before` bytes on this side of the page that is not there. */
static bool one_string(const struct string_case *c, bool fault_src, bool down, unsigned before, uint8_t *good)
{
    enum { COUNT = 24 };
    uint8_t *page = (uint8_t *)(uintptr_t)NONE, *at;
    uint64_t first, step = (uint64_t)(int64_t)(down ? -c->size : c->size), want_addr, n = 0;
    bool ok;

    memset(good, 7, PAGE);
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    memset(page - PAGE, 7, 2 * PAGE);
    if (down)
        memset(page + PAGE, 7, PAGE);
    mprotect(page, PAGE, PROT_NONE);
    at = down ? page + PAGE + before : page - before;
    memset(&snip_in, 0, sizeof snip_in);
    snip_in.r[0] = strstr(c->name, "scas") ? 0x0101010101010101 : 0x0707070707070707;
    snip_in.r[1] = COUNT;
    snip_in.r[4] = STACK + 0x800;
    snip_in.r[6] = (uint64_t)(uintptr_t)(fault_src ? at : good + 1024);
    snip_in.r[7] = (uint64_t)(uintptr_t)(fault_src ? good + 1024 : at);
    snip_in.flags = 0x202 | (down ? 0x400 : 0);
    first = (uint64_t)(uintptr_t)at;
    for (; n < COUNT; n++) { /* which element touches the page */
        uint64_t lo = first + n * step, hi = lo + (uint64_t)c->size - 1;

        if (hi >= NONE && lo < NONE + PAGE)
            break;
    }
    want_addr = first + n * step < NONE ? NONE : first + n * step;
    nr_faults = 0;
    fault_page = page;
    armed = true;
    snip_run(c->code);
    armed = false;
    if (n == COUNT)
        return nr_faults == 0;
    ok = nr_faults == 1 && fault_addr == want_addr && first_fault.r[1] == COUNT - n;
    ok &= !c->src || first_fault.r[6] == snip_in.r[6] + n * step;
    ok &= !c->dst || first_fault.r[7] == snip_in.r[7] + n * step;
    ok &= snip_out.r[1] == 0 && (!c->src || snip_out.r[6] == snip_in.r[6] + COUNT * step);
    ok &= !c->dst || snip_out.r[7] == snip_in.r[7] + COUNT * step;
    if (!ok)
        printf("     %s%s%s before %u: %u faults, addr %llx (want %llx), rcx %llx (want %llx) rsi %llx rdi %llx; end "
               "rcx %llx\n",
               c->name, fault_src ? " source" : "", down ? " down" : "", before, nr_faults,
               (unsigned long long)fault_addr, (unsigned long long)want_addr, (unsigned long long)first_fault.r[1],
               (unsigned long long)(COUNT - n), (unsigned long long)first_fault.r[6],
               (unsigned long long)first_fault.r[7], (unsigned long long)snip_out.r[1]);
    return ok;
}

static void string_faults(void)
{
    static uint8_t good[PAGE];

    handle(on_string_fault);
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        unsigned bad = 0, runs = 0;

        for (unsigned k = 0; k < 4; k++)
            for (unsigned before = 1; before < 64; before++) {
                if (k & 1 ? !strings[i].src : !strings[i].dst)
                    continue;
                bad += !one_string(&strings[i], k & 1, k & 2, before, good);
                runs++;
            }
        claim(!bad, strings[i].name, "%u of %u faults half-way were not exact", bad, runs);
    }
    t_must(mprotect((void *)(uintptr_t)NONE, PAGE, PROT_NONE) == 0);
}

/* ---- single-stepping ---- */

__asm__(
    ".text\nstepped: pushfq; orl $0x100,(%rsp); popfq\n"
    "nop; add $1,%eax; mov %rax,(%rbx); mov (%rbx),%rcx; jmp 1f; ud2; 1: call 2f; xor %edx,%edx; jmp 3f\n"
    "2: push %rbp; pop %rbp; ret\n"
    "3: mov $3,%ecx; mov %rbx,%rdi; rep stosb; mov %ss,%eax; mov %eax,%ss; nop; nop; mov $2,%ecx; 4: loop 4b\n"
    "cmp %eax,%eax; jnz 5f; je 5f; ud2; 5: lock addl $1,(%rbx); movdqu (%rbx),%xmm0; fld1; fstp %st; pushfq; pop %r12\n"
    "std; cld; nopl (%rbx); mov $1,%ecx; rep lodsb; pushfq; andl $~0x100,(%rsp); popfq; nop; jmp snip_done\n");
extern char stepped[];
static unsigned nr_steps;
static uint32_t step_at[256];

static void on_step(int sig, siginfo_t *si, void *ucv)
{
    ucontext_t *uc = ucv;

    if (sig != SIGTRAP || !armed) {
        signal(sig, SIG_DFL);
        return;
    }
    (void)si;
    if (nr_steps < 256)
        step_at[nr_steps++] = (uint32_t)((uint64_t)uc->uc_mcontext.gregs[REG_RIP] - (uint64_t)(uintptr_t)stepped);
}

static void single_steps(void)
{
    handle(on_step);
    memset(&snip_in, 0, sizeof snip_in);
    snip_in.r[3] = DATA;
    snip_in.r[4] = STACK + 0x800;
    snip_in.r[6] = DATA;
    snip_in.flags = 0x202;
    armed = true;
    snip_run(stepped);
    armed = false;
    printf("steps:");
    for (unsigned i = 0; i < nr_steps; i++)
        printf(" %u", step_at[i]);
    printf(" r12 %llx\n", (unsigned long long)snip_out.r[12]);
}

/* ---- debug registers ---- */

static volatile uint64_t watched[4];
__attribute__((noinline)) static void step_one(void)
{
    __asm__ volatile("");
}
__attribute__((noinline)) static void victim(void)
{
    uint64_t v;

    step_one();
    watched[0] = 1;
    v = watched[1];
    watched[2] = v + 5;
    __asm__ volatile("movq $0, %%rax; movq %%rax, 4+%0; nop" : "=m"(watched[2]) : : "rax", "memory");
    step_one();
}

static void debug_registers(void)
{
    pid_t kid = fork();
    int status, stops = 0;

    t_must(kid >= 0);
    if (!kid) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        victim();
        _exit(7);
    }
    t_must(waitpid(kid, &status, 0) == kid && WIFSTOPPED(status));
#define DR(n) offsetof(struct user, u_debugreg[n])
    ptrace(PTRACE_POKEUSER, kid, DR(0), (void *)(uintptr_t)step_one);
    ptrace(PTRACE_POKEUSER, kid, DR(1), (void *)&watched[0]);
    ptrace(PTRACE_POKEUSER, kid, DR(2), (void *)&watched[1]);
    ptrace(PTRACE_POKEUSER, kid, DR(3), (void *)&watched[2]);
    /* 0: execute; 1: write 8; 2: read or write 4; 3: write 4 */
    t_must(ptrace(PTRACE_POKEUSER, kid, DR(7), (void *)(0x155ul | 0x9ul << 20 | 0xful << 24 | 0xdul << 28)) == 0);
    ptrace(PTRACE_CONT, kid, NULL, NULL);
    while (waitpid(kid, &status, 0) == kid && WIFSTOPPED(status) && stops++ < 20) {
        struct user_regs_struct r;
        long dr6 = ptrace(PTRACE_PEEKUSER, kid, DR(6), NULL);

        ptrace(PTRACE_GETREGS, kid, NULL, &r);
        printf("debug: signal %d dr6 %lx at %+lld\n", WSTOPSIG(status), (unsigned long)dr6 & 0xe00f,
               (long long)r.rip - (long long)(uintptr_t)victim);
        ptrace(PTRACE_POKEUSER, kid, DR(6), NULL);
        ptrace(PTRACE_CONT, kid, NULL, NULL);
    }
    printf("debug: %d stops, status %x\n", stops, (unsigned)status);
}

/* ---- every register busy, signals coming ---- */

static volatile unsigned alarms;
static void on_alarm(int sig)
{
    (void)sig;
    alarms++;
    __asm__ volatile("fninit; fldpi; fstp %%st; vpcmpeqd %%ymm0,%%ymm0,%%ymm0; vmovdqa %%ymm0,%%ymm7; std; cld"
                     :
                     :
                     : "xmm0", "xmm7", "cc");
}

__asm__(".text\nbusy: fld1; fldpi; mov $3000000,%ecx; vpxor %ymm7,%ymm7,%ymm7; vpcmpeqd %ymm6,%ymm6,%ymm6; clc\n"
        "1: lea (%rax,%rbx),%rax; lea 7(%rbx,%rdx,2),%rbx; lea 1(%rdx),%rdx; adc %rsi,%rdi; lea (%rsi,%r8),%rsi; lea "
        "3(%r8),%r8\n"
        "lea (%r9,%r10),%r9; lea 5(%r10),%r10; lea (%r11,%r12),%r11; lea 11(%r12),%r12; lea (%r13,%r14),%r13\n"
        "lea 13(%r14),%r14; lea (%r15,%rbp),%r15; lea 17(%rbp),%rbp; vpsubd %ymm6,%ymm7,%ymm7; fadd %st(0),%st(1); "
        "fxch; fxch\n"
        "mov %rax,(%rsp); dec %ecx; jnz 1b\n"
        "vmovd %xmm7,%ecx; fstp %st; fstpl -8(%rsp); mov -8(%rsp),%rdx; jmp snip_done\n");
extern char busy[];

static void interrupted(void)
{
    struct regs quiet;
    struct itimerval it = {{0, 700}, {0, 700}}, off = {{0, 0}, {0, 0}};
    unsigned bad = 0;

    signal(SIGALRM, on_alarm);
    for (int i = 0; i < 6; i++) {
        for (unsigned k = 0; k < 16; k++)
            snip_in.r[k] = k * 0x123456789abcdef;
        snip_in.r[4] = STACK + 0x800;
        snip_in.flags = 0x202;
        if (i)
            setitimer(ITIMER_REAL, &it, NULL);
        snip_run(busy);
        setitimer(ITIMER_REAL, &off, NULL);
        if (!i)
            quiet = snip_out;
        else
            bad += memcmp(&quiet, &snip_out, sizeof quiet) != 0;
    }
    claim(!bad, "all registers through timer signals", "%u of 5 runs differ", bad);
    claim(alarms > 5, "timer signals came", "%s", alarms > 5 ? "more than 5" : "hardly any");
}

/* Addresses that are none: what stands for "nothing here" in a table of the translator's must not be taken for one. */
static sigjmp_buf out_of_it;
static volatile int none_code;

static void on_none(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    none_code = sig == SIGSEGV ? si->si_code : -sig;
    siglongjmp(out_of_it, 1);
}

static void touch_none(uint64_t a, unsigned how)
{
    switch (how) {
    case 0:
        __asm__ volatile("mov (%0), %%rax" : : "r"(a) : "rax", "memory");
        break;
    case 1:
        __asm__ volatile("movl $5, (%0)" : : "r"(a) : "memory");
        break;
    case 2:
        __asm__ volatile("jmp *%0" : : "r"(a) : "memory");
        break;
    case 3:
        __asm__ volatile("sub $128, %%rsp; call *%0" : : "r"(a) : "memory");
        break;
    case 4:
        __asm__ volatile("push %0; ret" : : "r"(a) : "memory");
        break;
    case 5:
        __asm__ volatile("mov %%rsp, %%rbx; lea 4096(%0), %%rsp; push %%rax; mov %%rbx, %%rsp"
                         :
                         : "r"(a)
                         : "rbx", "memory");
        break;
    default:
        __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; pop %%rax; mov %%rbx, %%rsp"
                         :
                         : "r"(a)
                         : "rax", "rbx", "memory");
    }
}

static int code_of_none(uint64_t a, unsigned how)
{
    none_code = 0;
    if (!sigsetjmp(out_of_it, 1))
        touch_none(a, how);
    return none_code;
}

static void no_addresses(void)
{
    unsigned bad = 0, n = 0;
    volatile uint64_t there[2] = {0};
    uint64_t first = 0;

    handle(on_none);
    for (unsigned round = 0; round < 30; round++)
        for (unsigned bit = 47; bit < 64; bit++)
            for (unsigned k = 0; k < 14; k++) {
                uint64_t a = -(UINT64_C(1) << bit);
                int code;

                if (k < 7)
                    a = -a;
                else if (bit == 47 || bit == 63)
                    a = UINT64_C(3) << 61;
                code = code_of_none(a, k % 7);
                there[round & 1]++; /* what a table held before */
                n++;
                if (code != SI_KERNEL && !(k % 7 >= 5 && code == -SIGBUS) && !bad++)
                    first = a;
            }
    claim(!bad, "addresses that are none", "%u of %u faulted otherwise, the first %llx", bad, n,
          (unsigned long long)first);
    handle(on_fault);
}

int main(void)
{
    uint8_t *p = mmap((void *)(uintptr_t)BASE, 10 * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    t_must(p == (uint8_t *)(uintptr_t)BASE);
    memset(p, 0x11, 10 * PAGE);
    t_must(mprotect(p, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    t_must(mprotect((void *)(uintptr_t)NONE, PAGE, PROT_NONE) == 0);
    t_must(mprotect((void *)(uintptr_t)RO, PAGE, PROT_READ) == 0);
    handle(on_fault);
    for (unsigned round = 0; round < 3; round++) /* once interpreted, perhaps, then translated */
        for (unsigned i = 0; i < sizeof snip_text / sizeof *snip_text; i++)
            one_snip(i);
    string_faults();
    single_steps();
    debug_registers();
    interrupted();
    no_addresses();
    return t_end();
}
