/* What a call comes back to, when the callee has changed it: the code behind the call is rewritten, by its own address
 * or by another; its page is mapped elsewhere, with INVLPG, with CR3 loaded anew, with and without PCIDs; or it may no
 * longer use the x87. Intel SDM vol. 3, 4.10.4 and 11.6; vol. 1, 8.1.3. Each is tried cold, and behind thousands of
 * calls that changed nothing. */
#include "trap.h"

enum { PAGE = 4096, VA = 0x40000000, WARM = 3000, ROUNDS = 40 };
static struct gate {
    u16 off0, sel, type, off1;
    u32 off2, zero;
} idt[256];
static u64 pt[512] __attribute__((aligned(4096)));
static volatile u8 page[2][PAGE] __attribute__((aligned(4096)));

static void setup(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) p = {sizeof idt - 1, (word)idt};
    unsigned i;

    for (i = 0; i < 256; i++) {
        word off = (word)stubs + 16 * i;

        idt[i] = (struct gate){off, 0x18, 0x8e00, off >> 16, off >> 32, 0};
    }
    asm volatile("lidt %0" : : "m"(p));
    *(u64 *)0x83000 = (word)pt | 7; /* the tables of start.S: 1 GiB on */
}
static void invlpg(void)
{
    asm volatile("invlpg %0" : : "m"(*(u8 *)VA) : "memory");
}
static void map(unsigned n)
{
    pt[0] = (word)page[n] | 7;
}

/* At VA: call VA+40h, or call [r15]; mov eax, n; ret. At VA+40h: jmp [r15]. With x87: FNOP before MOV. */
enum kind { DIRECT, INDIRECT, X87 };
static unsigned imm_at(enum kind k) /* offset of n */
{
    return k == DIRECT ? 6 : k == INDIRECT ? 4 : 8;
}
static void put_code(volatile u8 *p, enum kind k, u32 n)
{
    unsigned at = 0;

    if (k == INDIRECT) {
        p[at++] = 0x41, p[at++] = 0xff, p[at++] = 0x17;
    } else {
        p[at++] = 0xe8, p[at++] = 0x3b, p[at++] = 0, p[at++] = 0, p[at++] = 0;
    }
    if (k == X87)
        p[at++] = 0xd9, p[at++] = 0xd0;
    p[at++] = 0xb8, p[at++] = n, p[at++] = 0, p[at++] = 0, p[at++] = 0, p[at++] = 0xc3;
    p[0x40] = 0x41, p[0x41] = 0xff, p[0x42] = 0x27;
}
typedef void callee_fn(void);
static u64 run(callee_fn *f)
{
    u64 v;

    asm volatile("movq %1,%%r15; call *%2"
                 : "=a"(v)
                 : "r"(&f), "r"((u64)VA)
                 : "r15", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    return v;
}

static enum kind kind;
static volatile unsigned turn; /* what the next call makes of it: 0 or 1 */
static void nothing(void)
{
}
static void write_here(void)
{
    ((volatile u8 *)VA)[imm_at(kind)] = 0x11 + turn;
}
static void write_there(void)
{
    page[0][imm_at(kind)] = 0x11 + turn;
}
static void remap_page(void)
{
    map(turn);
    invlpg();
}
static void remap_cr3(void)
{
    map(turn);
    asm volatile("movq %%cr3,%%rax; movq %%rax,%%cr3" : : : "rax", "memory");
}
static void take_x87(void)
{
    asm volatile("movq %%cr0,%%rax; btsq $3,%%rax; movq %%rax,%%cr0" : : : "rax", "memory", "cc");
}

/* f changes what is behind the call to what `turn` says. */
static void changes(const char *name, enum kind k, callee_fn *f)
{
    unsigned i, n, bad = 0, cold;

    kind = k;
    for (cold = 0; cold < 2; cold++)
        for (i = 0; i < ROUNDS; i++) {
            map(0);
            invlpg();
            put_code(page[0], k, 0x11);
            put_code(page[1], k, 0x12);
            for (n = 0; n < (cold ? 3 : i < 2 ? WARM * 20 : WARM / 10); n++)
                bad += run(nothing) != 0x11;
            for (n = 1; n < 3; n++) { /* there and back */
                turn = n & 1;
                bad += run(f) != 0x11 + turn;
                bad += run(nothing) != 0x11 + turn;
            }
        }
    put(name), put(k == DIRECT ? " direct" : " indirect"), hex(bad), nl();
}

static void x87(void)
{
    unsigned i, n, bad = 0;
    word v = 0;

    map(0);
    invlpg();
    put_code(page[0], X87, 0x11);
    for (i = 0; i < ROUNDS; i++) {
        asm volatile("clts");
        for (n = 0; n < (i < 2 ? WARM * 20 : WARM / 10); n++)
            bad += run(nothing) != 0x11;
        TRY("subq $16,%%rsp; movq $take_x87,(%%rsp); movq %%rsp,%%r15; movl $0x40000000,%%eax; call *%%rax; "
            "addq $16,%%rsp",
            v);
        bad += trap_vec != 7 || trap_ip != VA + 5;
    }
    asm volatile("clts");
    put("x87"), hex(bad), nl();
}

/* Each of these goes on behind the call with its own pointer, which the ones it called had in another page. */
asm(".text; .balign 64; 3: jmp 2f;"
    "tour: pushq %rbx; movq %rdi,%rbx; movq (%rbx),%rax; addq 8(%rbx),%rax; xorq $4096,%rdi; decq %rsi; js 3b;"
    "pushq %rax; call tour; popq %rcx; addq %rcx,%rax; 2: addq 8(%rbx),%rax; popq %rbx; ret");
u64 tour(volatile u64 *p, u64 n);
static volatile u64 two[1024] __attribute__((aligned(8192)));
static void pointers(void)
{
    volatile u64 *p = (volatile u64 *)(VA + 0x10000);
    unsigned i, bad = 0;

    pt[16] = (word)&two[512] | 7; /* the other way round: the host's addresses do not go along with the guest's */
    pt[17] = (word)&two[0] | 7;
    p[0] = 1, p[1] = 0x10, p[512] = 0x100, p[513] = 0x1000;
    for (i = 0; i < WARM; i++)
        bad += tour(p, i % 8) != (i % 8 / 2 + 1) * 0x21 + (i % 8 + 1) / 2 * 0x2100;
    put("pointers"), hex(bad), nl();
}

void main(void)
{
    unsigned k;
    word v;

    setup();
    put("calls begin\n");
    for (k = DIRECT; k <= INDIRECT; k++) {
        changes("written", k, write_here);
        changes("written elsewhere", k, write_there);
        changes("mapped, invlpg", k, remap_page);
        changes("mapped, cr3", k, remap_cr3);
    }
    asm volatile("movq %%cr4,%0" : "=r"(v));
    v |= 0x20000; /* PCIDE */
    TRY("movq %%rax,%%cr4", v);
    put("pcid"), log_trap(), nl();
    for (k = DIRECT; k <= INDIRECT; k++) {
        changes("mapped, invlpg", k, remap_page);
        changes("mapped, cr3", k, remap_cr3);
    }
    x87();
    pointers();
    put("calls end\n");
    outb(0xf4, 0);
}
