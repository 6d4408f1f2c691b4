/* Interrupts that wait while something opens the door to them, and the shadows of STI, MOV SS and POP SS: Intel SDM
 * vol. 3, 6.8.1 and 6.8.3; vol. 2 at STI, MOV, POP. Each line: what was tried, and where the trap found the CPU,
 * counted from the start of the sequence. An interrupt is made to wait by sending one to oneself through the local APIC
 * with IF clear. */
#include "trap.h"

#ifdef LONG
static struct gate {
    u16 off0, sel, type, off1;
    u32 off2, zero;
} idt[256];
#define A(long_, short_) long_
enum { CODE = 0x18 };
#else
static struct gate {
    u16 off0, sel, type, off1;
} idt[256];
#define A(long_, short_) short_
enum { CODE = 8 };
#endif
enum { VEC = 0x40, SPURIOUS = 0xff };
static word begin; /* of the sequence */
static u32 spare[64];

static void setup(void)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) p = {sizeof idt - 1, (word)idt};
    unsigned i;

    for (i = 0; i < 256; i++) {
        word off = (word)stubs + 16 * i;
#ifdef LONG
        idt[i] = (struct gate){off, CODE, 0x8e00, off >> 16, off >> 32, 0};
#else
        idt[i] = (struct gate){off, CODE, 0x8e00, off >> 16};
#endif
    }
    asm volatile("lidt %0" : : "m"(p));
}
static volatile u32 *apic(unsigned reg)
{
    return (volatile u32 *)(word)(0xfee00000 + reg);
}
static int waits(void)
{
    return *apic(0x200 + 0x10 * (VEC / 32)) >> (VEC % 32) & 1; /* IRR */
}
static void raise_self(void)
{
    *apic(0x300) = 0x40000 | VEC; /* fixed, to self */
    while (!waits())
        ;
}
static void settle(void) /* takes what still waits, ends what was taken */
{
    word v = 0;

    TRY("sti; nop; nop; nop; cli", v);
    *apic(0xb0) = 0;
}
static void where(const char *name)
{
    put(name), log_trap();
    if (trap_vec != NONE) {
        put(" at"), hex(trap_ip - begin), put(trap_flags & 0x200 ? " if" : " -");
        if (trap_vec == VEC)
            *apic(0xb0) = 0;
    } else if (waits()) {
        put(" waits");
        settle();
    }
    nl();
}
/* A sequence with one interrupt waiting and IF clear; v is what ax holds. */
#define WAITING(NAME, INSN, AX)                                                                                        \
    do {                                                                                                               \
        word v = (AX);                                                                                                 \
                                                                                                                       \
        asm volatile("cli");                                                                                           \
        raise_self();                                                                                                  \
        TRY("movl $3f,begin; 3: " INSN, v);                                                                            \
        asm volatile("cli");                                                                                           \
        where(NAME);                                                                                                   \
    } while (0)
#define QUIET(NAME, INSN, AX)                                                                                          \
    do {                                                                                                               \
        word v = (AX);                                                                                                 \
                                                                                                                       \
        TRY("movl $3f,begin; 3: " INSN, v);                                                                            \
        asm volatile("cli; pushf; " A("andq $~0x100,(%%rsp)", "andl $~0x100,(%%esp)") "; popf" : : : "cc", "memory");  \
        where(NAME);                                                                                                   \
    } while (0)
#define PUSH "push " A("%%rax", "%%eax") "; "

#define TPR A("(%%rdx)", "(%%edx)")

static void waiting(void)
{
    WAITING("sti", "sti; nop; nop; nop", 0);
    WAITING("sti cli", "sti; cli; nop; nop", 0);
    WAITING("sti hlt", "sti; hlt; nop; nop", 0);
    WAITING("sti sti", "sti; sti; nop; nop", 0);
    WAITING("sti inc", "sti; inc %%eax; inc %%eax", 0);
    WAITING("sti load", "sti; movl spare,%%ecx; nop; nop", 0);
    WAITING("sti store", "sti; movl %%ecx,spare; nop; nop", 0);
    WAITING("sti jmp", "sti; jmp 4f; nop; 4: nop; nop", 0);
    WAITING("sti jcc", "cmp %%eax,%%eax; sti; je 4f; nop; 4: nop; nop", 0);
    WAITING("sti call", "sti; call 4f; nop; 4: nop; nop; pop " A("%%rcx", "%%ecx"), 0);
    WAITING("sti ret", "push $4f; sti; ret; nop; 4: nop; nop", 0);
    WAITING("sti push", "sti; " PUSH "nop; pop " A("%%rcx", "%%ecx"), 0);
    WAITING("sti pushf", "sti; pushf; nop; pop " A("%%rcx", "%%ecx"), 0);
    WAITING("sti cpuid", "sti; cpuid; nop; nop", 0);
    WAITING("sti out", "sti; outb %%al,$0x80; nop; nop", 0);
    WAITING("sti ud2", "sti; ud2; nop", 0);
    WAITING("sti int3", "sti; int3; nop", 0);
    WAITING("popf", PUSH "popf; nop; nop", 0x202);
    WAITING("popf cli", PUSH "popf; cli; nop", 0x202);
    WAITING("popf none", PUSH "popf; nop; nop", 0x2);
    WAITING("sti again", "sti; cli; sti; cli; sti; nop; nop", 0);
    WAITING("sti cli popf", PUSH "sti; cli; popf; nop", 0x202);
    WAITING("mov ss", "movw %%ax,%%ss; nop; sti; nop; nop", 0x10);
#ifdef LONG
    WAITING("iret",
            "movq %%rsp,%%rcx; pushq $0x10; pushq %%rcx; pushq %%rax; pushq $0x18; pushq $4f; iretq; 4: nop; nop",
            0x202);
    WAITING("iret none",
            "movq %%rsp,%%rcx; pushq $0x10; pushq %%rcx; pushq %%rax; pushq $0x18; pushq $4f; iretq; 4: nop; nop", 2);
    WAITING("cr8", "movl $15,%%ecx; movq %%rcx,%%cr8; sti; nop; nop; movq %%rax,%%cr8; nop; nop", 0);
    WAITING("cr8 cli", "movl $15,%%ecx; movq %%rcx,%%cr8; sti; nop; cli; movq %%rax,%%cr8; nop; nop", 0);
#else
    WAITING("iret", "pushl %%eax; pushl $8; pushl $4f; iretl; 4: nop; nop", 0x202);
    WAITING("iret none", "pushl %%eax; pushl $8; pushl $4f; iretl; 4: nop; nop", 2);
#endif
    WAITING("tpr",
            "movl $0xfee00080,%%edx; movl $0xf0," TPR "; sti; nop; nop; movl %%eax," TPR "; movl " TPR ",%%ecx; nop",
            0);
    WAITING("tpr cli", "movl $0xfee00080,%%edx; movl $0xf0," TPR "; sti; nop; cli; movl %%eax," TPR "; nop; nop", 0);
}
/* Single-step: STI does not hold it off, MOV SS and POP SS do. */
static void stepping(void)
{
    QUIET("tf", PUSH "popf; nop; nop; nop", 0x102);
    QUIET("tf sti", "push $0x102; popf; sti; nop; nop", 0x10);
    QUIET("tf mov ss", "push $0x102; popf; movw %%ax,%%ss; nop; nop", 0x10);
    QUIET("tf mov ss mov ss", "push $0x102; popf; movw %%ax,%%ss; mov %%ecx,%%ecx; movw %%ax,%%ss; nop", 0x10);
    QUIET("tf mov ss ud2", "push $0x102; popf; movw %%ax,%%ss; ud2; nop", 0x10);
    QUIET("tf mov ds", "push $0x102; popf; movw %%ax,%%ds; nop; nop", 0x10);
    QUIET("tf mov ss jmp", "push $0x102; popf; movw %%ax,%%ss; jmp 4f; nop; 4: nop; nop", 0x10);
#ifndef LONG
    QUIET("tf pop ss", "push $0x10; push $0x102; popf; pop %%ss; nop; nop", 0x10);
    QUIET("tf pop ss pop", "push $0x10; push $0x10; push $0x102; popf; pop %%ss; pop %%ecx; nop", 0x10);
    QUIET("tf pop ds", "push $0x10; push $0x102; popf; pop %%ds; nop; nop", 0x10);
#endif
    /* #DB comes before the interrupt that waits, and its gate shuts that out. */
    WAITING("tf if", PUSH "popf; nop; nop; nop", 0x302);
    asm volatile("pushf; " A("andq $~0x100,(%%rsp)", "andl $~0x100,(%%esp)") "; popf" : : : "cc", "memory");
    settle();
}
/* Interrupts out of nowhere while the CPU loads SS over and over, or opens the door for one instruction: none may be
 * taken at the instruction that follows. The handler's frame says where it was. */
static void storm(const char *name, word first, word forbidden, word last, void (*loop)(void))
{
    unsigned taken = 0, bad = 0, outside = 0;

    *apic(0x3e0) = 0xb; /* divide by 1 */
    *apic(0x320) = VEC; /* one shot; each interrupt is asked for anew */
    while (taken < 600) {
        word v = 0;

        *apic(0x380) = 2000 + taken % 97 * 131;
        asm volatile(PUSHALL "call *%1" POPALL : "+a"(v) : "b"(loop) : CLOBBER);
        asm volatile("cli");
        taken++;
        bad += trap_vec != VEC || trap_ip == forbidden;
        outside += trap_ip < first || trap_ip >= last;
        *apic(0xb0) = 0;
    }
    *apic(0x320) = 0x10000;
    put(name), hex(taken), put(" taken,"), hex(bad), put(" in the shadow,"), hex(outside), put(" elsewhere\n");
}
#define LOOP(NAME, OPEN, BODY)                                                                                         \
    extern char NAME##_first[], NAME##_bad[], NAME##_last[];                                                           \
    asm(".text; " #NAME ": movl $0x10,%eax; " OPEN "; " #NAME "_first: " BODY "; jmp " #NAME "_first; " #NAME          \
        "_last: ");                                                                                                    \
    void NAME(void)
LOOP(mov_ss, "sti; nop", "nop; movw %ax,%ss; mov_ss_bad: incl %ecx; incl %edx");
LOOP(sti_cli, "cli", "nop; sti; sti_cli_bad: incl %ecx; incl %edx; cli");
LOOP(sti_nothing, "cli", "nop; sti; sti_nothing_bad: incl %ecx; cli; incl %edx"); /* taken at the CLI at best */
#ifndef LONG
LOOP(pop_ss, "sti; nop", "pushl %eax; popl %ss; pop_ss_bad: incl %ecx; incl %edx");
#endif
#define STORM(NAME) storm(#NAME, (word)NAME##_first, (word)NAME##_bad, (word)NAME##_last, NAME)

void main(void)
{
    put("shadow begin\n");
    setup();
    asm volatile("outb %b0,$0x21; outb %b0,$0xa1" : : "a"(0xff));
    *apic(0xf0) = 0x100 | SPURIOUS;
    *apic(0x80) = 0;
    waiting();
    stepping();
    STORM(mov_ss);
    STORM(sti_cli);
    STORM(sti_nothing);
#ifndef LONG
    STORM(pop_ss);
#endif
    put("shadow end\n");
    outb(0xf4, 0);
}
