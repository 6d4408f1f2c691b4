/* What the test images share: log to the debug port, recorded traps, descriptors. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word; /* of the mode */

word trap_vec, trap_err, trap_ip, trap_cs, trap_flags, trap_sp, trap_ss, trap_ax, trap_cr2, trap_ds, trap_saved,
    trap_resume;
extern u64 gdt[];
extern char stubs[];

static inline void outb(u16 port, u8 v)
{
    asm volatile("outb %0,%1" : : "a"(v), "Nd"(port));
}
static void put(const char *s)
{
    while (*s)
        outb(0x402, *s++);
}
static void hex(word v)
{
    int i, on = 0;

    outb(0x402, ' ');
    for (i = sizeof(v) * 8 - 4; i >= 0; i -= 4)
        if (on || v >> i & 15 || !i) {
            on = 1;
            outb(0x402, "0123456789abcdef"[v >> i & 15]);
        }
}
static void nl(void)
{
    outb(0x402, '\n');
}
enum { NONE = 0x1ff };
/* The trap of the last TRY; flags of the frame without the ones an undefined result may change. */
static void log_trap(void)
{
    if (trap_vec == NONE) {
        put(" ok");
        return;
    }
    put(" #");
    hex(trap_vec);
    hex(trap_err);
    if (trap_vec == 14)
        hex(trap_cr2);
}
#ifdef LONG
#define PUSHALL                                                                                                        \
    "pushq %%rbx; pushq %%rbp; pushq %%r12; pushq %%r13; pushq %%r14; pushq %%r15; movq %%rsp, trap_saved; movq $1f, " \
    "trap_resume; "
#define POPALL                                                                                                         \
    "; movq $0x1ff, trap_vec; 1: movq trap_saved, %%rsp; popq %%r15; popq %%r14; popq %%r13; popq %%r12; popq %%rbp; " \
    "popq %%rbx; cld"
#define CLOBBER "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc"
#else
#define PUSHALL "pushl %%ebx; pushl %%ebp; pushl %%esi; pushl %%edi; movl %%esp, trap_saved; movl $1f, trap_resume; "
#define POPALL  "; movl $0x1ff, trap_vec; 1: movl trap_saved, %%esp; popl %%edi; popl %%esi; popl %%ebp; popl %%ebx; cld"
#define CLOBBER "ecx", "edx", "memory", "cc"
#endif
/* Runs INSN with ax in and out; a trap resumes behind it. */
#define TRY(INSN, ax) ({ asm volatile(PUSHALL INSN POPALL : "+a"(ax) : : CLOBBER); })

static void set_desc(unsigned i, u32 base, u32 limit, u32 access, u32 flags)
{
    gdt[i] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(access & 0xff) << 40 |
             (u64)(limit >> 16 & 15) << 48 | (u64)(flags & 15) << 52 | (u64)(base >> 24) << 56;
}
