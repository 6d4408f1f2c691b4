/* Accessed and dirty bits under races: CPU 1 stores to a page over and over and forgets its translation in between, CPU
 * 0 takes the page's entry away, cleans it or points it elsewhere by locked operations. Intel SDM vol. 3, 4.8
 * and 4.10.4: the CPU that walks sets the bits by a locked operation on an entry that is still present, so no store may
 * be missed by the dirty bit, and no entry may come back. Each line tells how often, and what was wrong. */
#include "trap.h"

enum { P = 1, W = 2, ACC = 0x20, DIRTY = 0x40, ROUNDS = 4000, LEAST = 40, VA = 0x40000000 };
static struct gate {
    u16 off0, sel, type, off1;
    u32 off2, zero;
} idt[256];
static u64 pt[512] __attribute__((aligned(4096)));
static volatile u64 frame[2][512] __attribute__((aligned(4096)));
static u64 ap_stack[512];
static volatile u32 asked, answered, here, hasty;
static volatile u64 stores, faults;
void ap_main(void);
extern char ap_boot[], ap_boot_end[];

asm(".text; .code16; ap_boot: cli; lgdtl %cs:(1f - ap_boot); movl %cr0,%eax; orl $1,%eax; movl %eax,%cr0; ljmpl "
    "$8,$ap32;"
    "1: .word 0x38 - 1; .long gdt; ap_boot_end:"
    ".code32; ap32: movw $0x10,%ax; movw %ax,%ds; movw %ax,%es; movw %ax,%ss; movl %cr4,%eax; orl $0x620,%eax; movl "
    "%eax,%cr4;"
    "movl $0x80000,%eax; movl %eax,%cr3; movl $0xc0000080,%ecx; rdmsr; orl $0x901,%eax; wrmsr;"
    "movl %cr0,%eax; orl $0x80010000,%eax; movl %eax,%cr0; ljmp $0x18,$ap64;"
    ".code64; ap64: movq $ap_stack+4096,%rsp; call ap_main; 2: hlt; jmp 2b");

static void load_idt(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) p = {sizeof idt - 1, (word)idt};

    asm volatile("lidt %0" : : "m"(p));
}
static void setup(void)
{
    unsigned i;

    for (i = 0; i < 256; i++) {
        word off = (word)stubs + 16 * i;

        idt[i] = (struct gate){off, 0x18, 0x8e00, off >> 16, off >> 32, 0};
    }
    load_idt();
    *(u64 *)0x83000 = (word)pt | 7; /* the tables of start.S: 1 GiB on */
    asm volatile("movq %%cr3,%%rax; movq %%rax,%%cr3" : : : "rax", "memory");
}
static u64 tsc(void)
{
    u32 a, d;

    asm volatile("lfence; rdtsc" : "=a"(a), "=d"(d));
    return a | (u64)d << 32;
}
static void start_other(void)
{
    volatile u32 *icr = (u32 *)0xfee00300;
    unsigned i;
    u64 t;

    for (i = 0; ap_boot + i < ap_boot_end; i++)
        ((volatile char *)0x8000)[i] = ap_boot[i];
    *(volatile u32 *)0xfee000f0 = 0x1ff;
    *icr = 0xc4500; /* INIT to all others */
    for (t = tsc(); tsc() - t < 10000000;)
        ;
    *icr = 0xc4608; /* start at 8000h */
    for (t = tsc(); tsc() - t < 1000000;)
        ;
    if (!here)
        *icr = 0xc4608;
    while (!here)
        ;
}
/* CPU 1: stores, forgets what it knows of the page, tells that it has. */
void ap_main(void)
{
    unsigned n = 0;

    load_idt();
    here = 1;
    for (;;) {
        word v = VA;
        u32 want = asked;

        asm volatile("invlpg (%0)" : : "r"(v) : "memory");
        answered = want;
        do {
            v = VA; /* a trap leaves something else in RAX */
            TRY("addq $1,(%%rax)", v);
            if (trap_vec == 14)
                faults++;
            else
                stores++;
        } while (!hasty && ++n % 4 && asked == want);
    }
}
/* Until CPU 1 has dropped its translation. */
static void shoot(void)
{
    u32 n = ++asked;

    while (answered != n)
        asm volatile("pause");
}
static u64 swap(u64 v)
{
    return __atomic_exchange_n(&pt[0], v, __ATOMIC_SEQ_CST);
}
static u64 entry(unsigned f)
{
    return (word)frame[f] | P | W;
}
static void idle(unsigned r)
{
    for (r = r * 2654435761u >> 24; r--;)
        asm volatile("pause");
}
static u32 dirty, clean, retried, lost, back, stray;
static u64 until;

static int more(unsigned r)
{
    if (!r) {
        dirty = clean = retried = lost = back = stray = 0;
        until = tsc() + 600000000ull;
    }
    return r < ROUNDS && (tsc() < until || dirty < LEAST);
}
/* The entry `old` was in force while the page's content went from a to b. */
static void judge(u64 old, u64 a, u64 b)
{
    if (old & DIRTY)
        dirty++;
    else
        clean++;
    if (a != b && (old & (DIRTY | ACC)) != (DIRTY | ACC))
        lost++;
}
static void tell(const char *name, unsigned rounds)
{
    put(name), put(": rounds"), hex(rounds), put(" dirty"), hex(dirty), put(" clean"), hex(clean), put(" retried"),
        hex(retried);
    put("; lost"), hex(lost), put(" back"), hex(back), put(" stray"), hex(stray), nl();
}
/* Taken away: what was stored before is dirty, and the entry stays away. */
static void taken_away(void)
{
    unsigned r;

    for (r = 0; more(r); r++) {
        u64 before = frame[0][0], old;

        swap(entry(0));
        idle(r);
        old = swap(0);
        shoot();
        judge(old, before, frame[0][0]);
        before = frame[0][0];
        back += pt[0] != 0;
        idle(r * 7);
        back += pt[0] != 0;
        stray += frame[0][0] != before;
    }
    tell("taken away", r);
}
/* Cleaned by CMPXCHG: what is stored once CPU 1 has heard of it makes it dirty again. */
static void cleaned(void)
{
    unsigned r;

    for (r = 0; more(r); r++) {
        u64 before, old;

        swap(entry(0));
        idle(r * 3);
        old = pt[0];
        while (!__atomic_compare_exchange_n(&pt[0], &old, old & ~(u64)(DIRTY | ACC), 0, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST))
            retried++;
        shoot();
        before = frame[0][0];
        idle(r);
        old = swap(0);
        shoot();
        judge(old, before, frame[0][0]);
        back += pt[0] != 0;
    }
    tell("cleaned", r);
}
/* Pointed at another page: stores go there, and nothing brings the old address back. */
static void moved(void)
{
    unsigned r;

    swap(entry(0));
    shoot();
    for (r = 0; more(r); r++) {
        unsigned from = r & 1, to = !from;
        u64 before = frame[from][0], old;

        idle(r);
        old = swap(entry(to));
        shoot();
        back += (pt[0] & ~(u64)0xfff) != (word)frame[to];
        judge(old, before, frame[from][0]);
        before = frame[from][0];
        idle(r * 5);
        stray += frame[from][0] != before;
        swap(entry(to)); /* clean, to start the next round from */
        shoot();
        stray += frame[from][0] != before;
    }
    swap(0);
    shoot();
    tell("moved", r);
}
/* As fast as it goes, nobody waits: each exchange must find what the one before left, with no more than A and D set. */
static void exchanged(const char *name, u64 a, u64 b)
{
    unsigned r, i;

    swap(a);
    hasty = 1;
    for (r = 0; r % 64 || (r < 4000000 && (r ? tsc() < until : more(0))); r++) {
        u64 was = r & 1 ? b : a, old = swap(r & 1 ? a : b);

        back += (old & ~(u64)(was ? ACC | DIRTY : 0)) != was;
        clean += !(old & ACC);
        dirty += old >> 6 & 1;
        for (i = r * 2654435761u >> 27; i--;) /* no PAUSE: it gives the other the host's processor */
            asm volatile("");
    }
    hasty = 0;
    swap(0);
    shoot();
    tell(name, r);
}
void main(void)
{
    put("dirty begin\n");
    setup();
    start_other();
    taken_away();
    cleaned();
    moved();
    exchanged("there and gone", entry(0), 0);
    exchanged("here and there", entry(0), entry(1));
    put("stores"), hex(stores), put(" found"), hex(frame[0][0]), hex(frame[1][0]), put(" faults"), hex(faults), nl();
    put("sum "), put(stores == frame[0][0] + frame[1][0] ? "right" : "wrong"), nl();
    put("dirty end\n");
    outb(0xf4, 0);
}
