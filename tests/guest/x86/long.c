/* Long mode: canonical addresses, segments, gates, privilege, system calls, four-level paging with NX, SMEP and SMAP.
 */
#include "trap.h"

static struct gate {
    u16 off0, sel, type, off1;
    u32 off2, zero;
} idt[256];
static u32 tss[32];
static u64 kstack[512], istack[512], ustack[512];
static u8 user_code[64] __attribute__((aligned(4096)));
static u8 area[8192] __attribute__((aligned(4096)));
static u64 pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096))),
    pt[512] __attribute__((aligned(4096)));
word farp[2];
enum { DESC = 8, SEL = DESC * 8, TSS_DESC = 10 };

static void set_gate(unsigned v, word off, u16 sel, u16 type)
{
    idt[v] = (struct gate){off, sel, type, off >> 16, off >> 32, 0};
}
static void setup(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) p = {sizeof idt - 1, (word)idt};
    unsigned i;

    for (i = 0; i < 256; i++)
        set_gate(i, (word)stubs + 16 * i, 0x18, i == 0x80 ? 0xee00 : (i >= 12 && i <= 14) || i == 8 ? 0x8e01 : 0x8e00);
    asm volatile("lidt %0" : : "m"(p));
    *(u64 *)&tss[1] = (word)(kstack + 500);
    *(u64 *)&tss[9] = (word)(istack + 500);
    tss[25] = 0x68 << 16;
    set_desc(TSS_DESC, (u32)(word)tss, 0x67, 0x89, 0);
    gdt[TSS_DESC + 1] = 0;
    asm volatile("ltr %w0" : : "r"(TSS_DESC * 8));
}
static void kernel_segs(void)
{
    asm volatile("movw %w0,%%ds; movw %w0,%%es; movw %w0,%%ss" : : "r"(0x10));
}
static u64 rdmsr(u32 n)
{
    u32 a, d;

    asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
    return a | (u64)d << 32;
}
static void wrmsr(u32 n, u64 v)
{
    asm volatile("wrmsr" : : "c"(n), "a"((u32)v), "d"((u32)(v >> 32)));
}
static void canonical(void)
{
    word v, i;
    static const u64 a[] = {0x800000000000, 0xffff7fffffffffff, 0x7fffffffffff,
                            0x7ffffffffff9, 0xffff800000000000, 0x8000000000000000};

    for (i = 0; i < 6; i++) {
        put("canon"), hex(a[i]);
        v = a[i];
        TRY("movq (%%rax),%%rcx", v), log_trap();
        v = a[i];
        TRY("movb %%al,(%%rax)", v), log_trap();
        v = a[i];
        TRY("jmp *%%rax", v), log_trap();
        v = a[i];
        TRY("call *%%rax", v), log_trap();
        v = a[i];
        TRY("pushq %%rax; ret", v), log_trap();
        v = a[i];
        TRY("movq %%rax,%%rsp; pushq %%rcx", v), log_trap();
        v = a[i];
        TRY("movq %%rax,%%rbp; movq (%%rbp),%%rcx", v), log_trap();
        v = a[i];
        TRY("movq %%rax,%%rcx; movq %%rcx,%%rdx; shrq $32,%%rdx; movl $0xc0000102,%%ecx; wrmsr", v), log_trap();
        v = a[i];
        TRY("movq $0,%%rcx; movq %%rax,%%rsi; movl %%ecx,%%fs; lodsb", v), log_trap();
        v = a[i];
        TRY("invlpg (%%rax)", v), log_trap();
        v = a[i];
        TRY("movaps 1(%%rax),%%xmm0", v), log_trap();
        nl();
    }
    put("align");
    v = (word)area + 1;
    TRY("movaps (%%rax),%%xmm0", v), log_trap();
    TRY("movups (%%rax),%%xmm0", v), log_trap();
    TRY("paddb (%%rax),%%xmm0", v), log_trap();
    TRY("movdqa %%xmm0,(%%rax)", v), log_trap();
    TRY("fxsave (%%rax)", v), log_trap();
    TRY("cmpxchg16b 7(%%rax)", v), log_trap();
    nl();
}
static void loads(void)
{
    u32 type, dpl, p, rpl, op;
    word v;

    for (type = 0; type < 32; type++)
        for (p = 0; p < 2; p++)
            for (dpl = 0; dpl < 4; dpl += 3)
                for (rpl = 0; rpl < 4; rpl += 3) {
                    put("load"), hex(type), hex(p), hex(dpl), hex(rpl);
                    for (op = 0; op < 8; op++) {
                        set_desc(DESC, 0x1000, 0x12345, type | dpl << 5 | p << 7, 4 + 8 * (dpl & 1));
                        gdt[DESC + 1] = 0;
                        v = SEL | rpl;
                        switch (op) {
                        case 0:
                            TRY("movl %%eax,%%es", v);
                            break;
                        case 1:
                            TRY("movl %%eax,%%ss; movl $0x10,%%ecx; movl %%ecx,%%ss", v);
                            break;
                        case 2:
                            TRY("movl %%eax,%%fs", v);
                            break;
                        case 3:
                            TRY("lldt %%ax", v);
                            asm volatile("lldt %w0" : : "r"(0));
                            break;
                        case 4:
                            TRY("movl $0xaaaa,%%ecx; lar %%eax,%%ecx; movl %%ecx,%%eax", v);
                            break;
                        case 5:
                            TRY("movl $0xaaaa,%%ecx; lsl %%eax,%%ecx; movl %%ecx,%%eax", v);
                            break;
                        case 6:
                            TRY("verr %%ax; movl $0,%%eax; setz %%al", v);
                            break;
                        case 7:
                            TRY("verw %%ax; movl $0,%%eax; setz %%al", v);
                            break;
                        }
                        kernel_segs();
                        log_trap();
                        if (op >= 4)
                            hex(v);
                    }
                    nl();
                }
    put("null");
    v = 0, TRY("movl %%eax,%%ss; movl $0x10,%%ecx; movl %%ecx,%%ss", v), log_trap();
    v = 3, TRY("movl %%eax,%%ss; movl $0x10,%%ecx; movl %%ecx,%%ss", v), log_trap();
    v = 3, TRY("movl %%eax,%%ds; movb area,%%cl; movl $0x10,%%ecx; movl %%ecx,%%ds", v), log_trap();
    nl();
}
/* Far transfers to 64-bit and compatibility code. */
asm(".globl land\nland: .byte 0xb8, 0x77, 0, 0, 0, 0x8c, 0xc9, 0xcd, 0x71\n"); /* mov eax,77h; mov ecx,cs; int 71h: the
                                                                                  same in both modes */
extern char land[];
static void far_transfers(void)
{
    u32 type, dpl, p, rpl, ld, op;
    word v;

    for (v = 0; v < 16; v++)
        ((u8 *)0x7000)[v] = land[v];
    for (type = 0; type < 32; type++)
        for (ld = 0; ld < 4; ld++)
            for (p = 0; p < 2; p++)
                for (dpl = 0; dpl < 4; dpl += 3)
                    for (rpl = 0; rpl < 4; rpl += 3) {
                        if (type < 16 && (ld || type == 9 || type == 11))
                            continue;
                        if (type >= 16 && type < 24 && ld)
                            continue;
                        if (type & 16)
                            set_desc(DESC, 0, 0xfffff, type | dpl << 5 | p << 7, 8 + ld * 2);
                        else
                            gdt[DESC] = 0x7000 | 0x18ull << 16 | (u64)(type | dpl << 5 | p << 7) << 40;
                        gdt[DESC + 1] = 0;
                        farp[0] = 0x7000 | (u64)(SEL | rpl) << 32;
                        put("far"), hex(type), hex(ld), hex(p), hex(dpl), hex(rpl);
                        for (op = 0; op < 4; op++) {
                            v = SEL | rpl;
                            switch (op) {
                            case 0:
                                TRY("ljmpl *farp", v);
                                break;
                            case 1:
                                TRY("lcalll *farp", v);
                                break;
                            case 2:
                                TRY("pushq %%rax; pushq $0x7000; lretq", v);
                                break;
                            case 3:
                                TRY("movq %%rsp,%%rcx; pushq $0x10; pushq %%rcx; pushfq; pushq %%rax; pushq $0x7000; "
                                    "iretq",
                                    v);
                                break;
                            }
                            kernel_segs();
                            log_trap();
                            if (trap_vec == 0x71)
                                hex(trap_ax), hex(trap_cs), hex(trap_ip);
                        }
                        nl();
                    }
}
static void gates(void)
{
    static const u16 sels[] = {0, 3, 8, 0x10, 0x18, 0x1b, 0x20, 0x28, 0x30, 0x33, 0x1f8, 0xc};
    u32 type, dpl, p, i;
    word v, sp;

    for (type = 0; type < 32; type++)
        for (p = 0; p < 2; p++)
            for (dpl = 0; dpl < 4; dpl += 3) {
                set_gate(0x70, (word)stubs + 0x70 * 16, 0x18, (type | dpl << 5 | p << 7) << 8);
                put("gate"), hex(type), hex(p), hex(dpl);
                TRY("int $0x70", v), log_trap(), hex(trap_flags & 0x7700), hex(trap_cs), hex(trap_ss);
                nl();
            }
    put("gatecs");
    for (i = 0; i < sizeof sels / 2; i++) {
        set_gate(0x70, (word)stubs + 0x70 * 16, sels[i], 0x8e00);
        TRY("int $0x70", v), log_trap();
    }
    nl();
    put("ist");
    set_gate(0x70, (word)stubs + 0x70 * 16, 0x18, 0x8e01);
    TRY("int $0x70", v), log_trap();
    set_gate(0x70, (word)stubs + 0x70 * 16, 0x18, 0x8e02);
    TRY("int $0x70", v), log_trap();
    *(u64 *)&tss[13] = 0x800000000000;
    set_gate(0x70, (word)stubs + 0x70 * 16, 0x18, 0x8e03);
    TRY("int $0x70", v), log_trap();
    set_gate(0x70, 0x800000000000, 0x18, 0x8e00);
    TRY("int $0x70", v), log_trap();
    set_gate(0x70, (word)stubs + 0x70 * 16, 0x18, 0x8e00);
    TRY("movq %%rsp,%%rax; subq $8,%%rsp; int $0x70", sp), log_trap(), hex(trap_sp & 15);
    nl();
}
static void user_run(const u8 *code, u32 n, u32 iopl, word cs)
{
    u32 i;
    word v = cs;

    for (i = 0; i < n; i++)
        user_code[i] = code[i];
    user_code[n] = 0xcd;
    user_code[n + 1] = 0x80;
    farp[1] = iopl << 12 | 2;
    TRY("pushq $0x2b; pushq $ustack + 4000; pushq farp+8; pushq %%rax; pushq $user_code; iretq", v);
    kernel_segs();
    log_trap();
    hex(trap_ip - (word)user_code), hex(trap_cs), hex(trap_flags & 0x27700), hex(trap_ss);
}
asm(".globl user_code, ustack, area\n");
static void privileged(void)
{
    static const u8 list[][10] = {
        {1, 0xf4},
        {1, 0xfa},
        {3, 0x0f, 0x20, 0xc0},
        {3, 0x0f, 0x22, 0xd8},
        {4, 0x44, 0x0f, 0x20, 0xc0},
        {3, 0x0f, 0x21, 0xf8},
        {2, 0x0f, 0x06},
        {2, 0x0f, 0x30},
        {2, 0x0f, 0x32},
        {2, 0x0f, 0x31},
        {3, 0x0f, 0x01, 0xf8},
        {3, 0x0f, 0x01, 0xca},
        {3, 0x0f, 0x01, 0xd0},
        {3, 0x0f, 0x01, 0xd1},
        {5, 0xf3, 0x48, 0x0f, 0xae, 0xc0},
        {3, 0x0f, 0x00, 0xc0},
        {3, 0x0f, 0x01, 0xe0},
        {2, 0x0f, 0x07},
        {3, 0x48, 0x0f, 0x07},
        {2, 0x0f, 0x35},
        {2, 0x0f, 0x34},
        {1, 0x06},
        {1, 0x27},
        {1, 0x60},
        {2, 0x0f, 0xaa},
        {1, 0xce},
        {2, 0xcd, 0x70},
        {2, 0xe4, 0x80},
        {1, 0x9c},
        {3, 0x6a, 0, 0x9d},
        {2, 0x48, 0xcf},
        {2, 0x48, 0xcb},
        {3, 0x8e, 0xd0, 0x90},
        {8, 0x48, 0xa1, 0, 0, 0, 0, 0, 0x80},
        {6, 0x66, 0x0f, 0x38, 0x82, 0x08, 0x90},
        {4, 0x0f, 0x01, 0x38, 0x90},
        {2, 0x0f, 0x0b},
        {1, 0xf1},
        {1, 0xcc},
        {4, 0xc4, 0xe1, 0x78, 0x77},
        {2, 0xd9, 0xd0},
    };
    u32 i, k;

    for (i = 0; i < sizeof list / 10; i++)
        for (k = 0; k < 2; k++) {
            put("cpl3"), hex(i), hex(list[i][1]), hex(list[i][2]), hex(k);
            user_run(list[i] + 1, list[i][0], 0, k ? 0x23 : 0x33);
            nl();
        }
}
/* SYSCALL and SYSRET: landing pads note what they see. */
word saw[6];
asm(".globl saw, sys_entry\nsys_entry: movq %rcx,saw; movq %r11,saw+8; movl %cs,%eax; movq %rax,saw+16; movl %ss,%eax; "
    "movq %rax,saw+24; pushfq; popq saw+32;"
    "movq trap_saved,%rsp; movq $0x1fe,trap_vec; jmp *trap_resume\n");
extern char sys_entry[];
static void syscalls(void)
{
    static const u8 code[] = {0x0f, 0x05};
    word v = 0, i;

    wrmsr(0xc0000081, 0x0023001800000000ull);
    wrmsr(0xc0000082, (word)sys_entry);
    wrmsr(0xc0000083, (word)sys_entry);
    wrmsr(0xc0000084, 0x40700);
    for (i = 0; i < 2; i++) {
        put("syscall");
        user_run(code, 2, 3, i ? 0x23 : 0x33);
        hex(saw[0] - (word)user_code), hex(saw[1] & 0x3ff00), hex(saw[2]), hex(saw[3]), hex(saw[4] & 0x3ff00);
        nl();
    }
    put("sysret");
    user_code[0] = 0xcd, user_code[1] = 0x80;
    TRY("movq $ustack + 4000,%%rsp; movq $user_code,%%rcx; movq $0x3202,%%r11; sysretq", v);
    kernel_segs();
    log_trap(), hex(trap_cs), hex(trap_ss), hex(trap_flags & 0xff00);
    TRY("movq $ustack + 4000,%%rsp; movq $user_code,%%rcx; movq $0x3202,%%r11; sysretl", v);
    kernel_segs();
    log_trap(), hex(trap_cs), hex(trap_ss), hex(trap_flags & 0xff00);
    TRY("movq $0x800000000000,%%rcx; movq $0x3202,%%r11; sysretq", v);
    log_trap();
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
    TRY("syscall", v), log_trap();
    TRY("sysretq", v), log_trap();
    nl();
    put("gs");
    wrmsr(0xc0000101, (word)area);
    wrmsr(0xc0000102, (word)area + 8);
    *(u64 *)area = 0x1111, *(u64 *)(area + 8) = 0x2222;
    TRY("movq %%gs:0,%%rax", v), log_trap(), hex(v);
    TRY("swapgs; movq %%gs:0,%%rax; swapgs", v), log_trap(), hex(v);
    TRY("movl $0x10,%%ecx; movl %%ecx,%%gs; movq %%gs:area,%%rax", v), log_trap(), hex(v);
    nl();
}
static word cr(int n)
{
    word v;

    if (n == 0)
        asm volatile("movq %%cr0,%0" : "=r"(v));
    else
        asm volatile("movq %%cr4,%0" : "=r"(v));
    return v;
}
static void paging(void)
{
    static const u8 ld[] = {0x8a, 0x04, 0x25, 0, 0, 0x40, 0x40}, st[] = {0x88, 0x04, 0x25, 0, 0, 0x40, 0x40};
    static const u8 jp[] = {0xb8, 0x10, 0, 0x40, 0x40, 0xff, 0xd0};
    u32 i, e, d, m;
    word v;
    u64 *pml4 = (u64 *)0x80000;

    /* 40400000h, in the second GiB, gets tables of its own. */
    for (i = 0; i < 512; i++)
        pd[i] = pt[i] = 0;
    ((u64 *)0x81000)[1] = (word)pd | 7;
    pd[2] = (word)pt | 7;
    area[0x10] = 0xc3;
    for (m = 0; m < 16; m++) { /* WP, SMEP, SMAP, AC */
        if (m & 8 && !(m & 4))
            continue;
        asm volatile("movq %0,%%cr0" : : "r"((cr(0) & ~0x10000ull) | (m & 1) << 16));
        *(u64 *)0x82000 = m & 14 ? 0x83 : 0x87; /* our own code must be the supervisor's under SMEP and SMAP */
        asm volatile("movq %0,%%cr3" : : "r"(pml4) : "memory");
        v = (cr(4) & ~0x300000ull) | (m >> 1 & 3) << 20;
        TRY("movq %%rax,%%cr4", v);
        if (trap_vec != NONE)
            continue;
        for (d = 0; d < 16; d++)
            for (e = 0; e < 16; e++) {
                if (((d & 8) && (e & 8)) || ((d & 7) != 7 && (e & 7) != 7))
                    continue;
                put("page"), hex(m), hex(d), hex(e);
                pd[2] = (word)pt | (d & 7) | (u64)(d >> 3) << 63;
                pt[0] = (word)area | (e & 7) | (u64)(e >> 3) << 63;
                asm volatile("movq %0,%%cr3" : : "r"(pml4) : "memory");
                v = m & 8 ? 0x40000 : 0;
                TRY("pushfq; orq %%rax,(%%rsp); popfq; movl $0x40400000,%%ecx; movb (%%rcx),%%al", v);
                asm volatile("pushfq; andq $~0x40000,(%%rsp); popfq" : : : "cc", "memory");
                log_trap();
                v = 0;
                TRY("movl $0x40400010,%%ecx; call *%%rcx", v), log_trap();
                hex(pd[2] & 0xfff), hex(pt[0] & 0xfff);
                v = m & 8 ? 0x40000 : 0;
                TRY("pushfq; orq %%rax,(%%rsp); popfq; movl $0x40400000,%%ecx; movb %%al,(%%rcx)", v);
                asm volatile("pushfq; andq $~0x40000,(%%rsp); popfq" : : : "cc", "memory");
                log_trap();
                hex(pd[2] & 0xfff), hex(pt[0] & 0xfff);
                if (!(m & 14)) {
                    user_run(ld, 7, 0, 0x33);
                    user_run(st, 7, 0, 0x33);
                    user_run(jp, 7, 0, 0x33);
                }
                nl();
            }
    }
    v = cr(4) & ~0x300000ull;
    TRY("movq %%rax,%%cr4", v);
    static const u64 bad[] = {0x0010000000000000, 0x0008000000000000, 0x80, 0x2000, 0x1000};
    for (i = 0; i < 5; i++) {
        put("rsvd"), hex(bad[i]);
        pd[2] = (word)pt | 7;
        pt[0] = (word)area | 7 | (i == 2 ? 0 : bad[i] & ~0x3000ull);
        asm volatile("movq %0,%%cr3" : : "r"(pml4) : "memory");
        TRY("movb 0x40400000,%%al", v), log_trap();
        pt[0] = (word)area | 7;
        pd[2] = 0x400000 | 0x87 | bad[i];
        asm volatile("movq %0,%%cr3" : : "r"(pml4) : "memory");
        TRY("movb 0x40400000,%%al", v), log_trap();
        nl();
    }
    put("control");
    v = cr(0) & ~0x80000000ull, TRY("movq %%rax,%%cr0", v), log_trap();
    v = cr(4) & ~0x20ull, TRY("movq %%rax,%%cr4", v), log_trap();
    v = cr(0) | 1ull << 32, TRY("movq %%rax,%%cr0", v), log_trap();
    v = cr(4) | 1ull << 40, TRY("movq %%rax,%%cr4", v), log_trap();
    v = 1ull << 60, TRY("movq %%rax,%%cr3", v), log_trap();
    v = 0x10, TRY("movq %%rax,%%cr8", v), log_trap();
    v = 0x5, TRY("movq %%rax,%%cr8; movq %%cr8,%%rax", v), log_trap(), hex(v);
    v = 1ull << 40, TRY("movq %%rax,%%dr7", v), log_trap();
    v = 0x101, TRY("movl $0xc0000080,%%ecx; xorl %%edx,%%edx; wrmsr", v), log_trap();
    v = 0x100101, TRY("movl $0xc0000080,%%ecx; xorl %%edx,%%edx; wrmsr", v), log_trap();
    nl();
}
void main(void)
{
    setup();
    put("long begin\n");
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x801);
    canonical();
    loads();
    far_transfers();
    gates();
    privileged();
    syscalls();
    paging();
    put("long end\n");
    outb(0xf4, 0);
}
