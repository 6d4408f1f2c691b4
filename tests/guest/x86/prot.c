/* 32-bit protected mode: every descriptor type in every kind of load and transfer, segment limits, gates, privilege,
 * paging, tasks. */
#include "trap.h"

static u64 idt[256];
static u32 tss[64], tss2[64], tss3[64];
static u32 pd[1024] __attribute__((aligned(4096))), pt[1024] __attribute__((aligned(4096)));
static u8 user_code[64] __attribute__((aligned(4096)));
static u8 area[8192] __attribute__((aligned(4096)));
static u32 kstack[1024], ustack[1024];
enum { DESC = 8, SEL = DESC * 8, TSS_DESC = 9, GATE_CODE = 10, TSS2_DESC = 12, LDT_DESC = 14 };

static void set_gate(unsigned v, u32 off, u16 sel, u32 access)
{
    idt[v] = (off & 0xffff) | (u64)sel << 16 | (u64)access << 40 | (u64)(off >> 16) << 48;
}
static void lidt(void *base, u16 limit)
{
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) p = {limit, (u32)base};

    asm volatile("lidt %0" : : "m"(p));
}
static void setup(void)
{
    unsigned i;

    for (i = 0; i < 256; i++)
        set_gate(i, (u32)stubs + 16 * i, 8, i == 0x80 ? 0xee : 0x8e);
    lidt(idt, sizeof idt - 1);
    tss[1] = (u32)(kstack + 1000);
    tss[2] = 0x10;
    tss[25] = 0x68 << 16;
    set_desc(TSS_DESC, (u32)tss, 0xff, 0x89, 0);
    asm volatile("ltr %w0" : : "r"(TSS_DESC * 8));
}
static void kernel_segs(void)
{
    asm volatile("movw %w0,%%ds; movw %w0,%%es; movw %w0,%%fs; movw %w0,%%gs; movw %w0,%%ss" : : "r"(0x10));
}
static u32 farp[2];

static void try_load(const char *name, int op, u32 sel)
{
    u32 ax = sel, after = 0;

    switch (op) {
    case 0:
        TRY("movw %%ax,%%es; movw %%es,%%ax", ax);
        break;
    case 1:
        TRY("movw %%ax,%%ss; movw %%ss,%%ax; movl $0x10,%%ecx; movl %%ecx,%%ss", ax);
        break;
    case 2:
        TRY("movw %%ax,%%fs; movw %%fs,%%ax", ax);
        break;
    case 3:
        TRY("pushl %%eax; popl %%gs", ax);
        break;
    case 4:
        TRY("lldt %%ax; sldt %%eax", ax);
        asm volatile("lldt %w0" : : "r"(0));
        break;
    case 5:
        TRY("movl $0xaaaa,%%ecx; lar %%eax,%%ecx; movl %%ecx,%%eax; lahf", ax);
        after = ax;
        break;
    case 6:
        TRY("movl $0xaaaa,%%ecx; lsl %%eax,%%ecx; movl %%ecx,%%eax; jz 2f; movl $0xbbbb,%%eax; 2:", ax);
        after = ax;
        break;
    case 7:
        TRY("verr %%ax; movl $0,%%eax; setz %%al", ax);
        after = ax;
        break;
    case 8:
        TRY("verw %%ax; movl $0,%%eax; setz %%al", ax);
        after = ax;
        break;
    }
    kernel_segs();
    put(name);
    log_trap();
    if (trap_vec == NONE)
        hex(after);
}
static void descriptor_loads(void)
{
    static const char *const names[] = {" es", " ss", " fs", " gs", " lldt", " lar", " lsl", " verr", " verw"};
    u32 type, dpl, p, rpl, op;

    for (type = 0; type < 32; type++)
        for (p = 0; p < 2; p++)
            for (dpl = 0; dpl < 4; dpl += 3)
                for (rpl = 0; rpl < 4; rpl += 3) {
                    put("load");
                    hex(type);
                    hex(p);
                    hex(dpl);
                    hex(rpl);
                    for (op = 0; op < 9; op++) {
                        set_desc(DESC, 0x1000, 0x12345, type | dpl << 5 | p << 7, 4 + 8 * (dpl & 1));
                        try_load(names[op], op, SEL | rpl);
                        hex(gdt[DESC] >> 40 & 0x1f);
                    }
                    nl();
                }
    put("null");
    for (op = 0; op < 9; op++)
        try_load(names[op], op, 0), try_load(names[op], op, 3), try_load(names[op], op, 0x3f8),
            try_load(names[op], op, SEL | 4);
    nl();
}
/* Far jumps and calls to code and gates of every type that is not a task. */
extern char landing[], landing16[];
asm(".globl landing\nlanding: movl $0x77,%eax; movl %cs,%ecx; jmp *after_far\n");
u32 after_far;
#define FAR(insn, v)                                                                                                   \
    asm volatile(PUSHALL "movl $2f,after_far; " insn "; 2: shll $8,%%ecx; orl %%ecx,%%eax" POPALL : "+a"(v) : : CLOBBER)
static void far_transfers(void)
{
    u32 type, dpl, p, rpl, v;

    for (type = 0; type < 32; type++)
        ((u8 *)0x7000)[type] = landing[type];
    for (type = 0; type < 32; type++)
        for (p = 0; p < 2; p++)
            for (dpl = 0; dpl < 4; dpl += 3)
                for (rpl = 0; rpl < 4; rpl += 3) {
                    if (!(type & 16) && ((type & 7) == 1 || (type & 7) == 3 || type == 5))
                        continue;
                    if (type & 16)
                        set_desc(DESC, 0, 0xfffff, type | dpl << 5 | p << 7, 12);
                    else
                        gdt[DESC] = (0x7000u & 0xffff) | 8u << 16 | (u64)(type | dpl << 5 | p << 7) << 40 |
                                    (u64)(0x7000u >> 16) << 48;
                    farp[0] = 0x7000u;
                    farp[1] = SEL | rpl;
                    put("far");
                    hex(type), hex(p), hex(dpl), hex(rpl);
                    v = 1;
                    FAR("ljmp *farp_", v);
                    log_trap();
                    hex(v);
                    v = 2;
                    FAR("lcall *farp_", v);
                    log_trap();
                    hex(v);
                    v = 3;
                    FAR("pushl farp_+4; pushl farp_; lret", v);
                    log_trap();
                    hex(v);
                    v = 4;
                    FAR("pushfl; pushl farp_+4; pushl farp_; iretl", v);
                    log_trap();
                    hex(v);
                    nl();
                    asm volatile("ljmp $8,$1f; 1:");
                    kernel_segs();
                }
}
asm(".globl farp_\n.set farp_, farp\n");

/* Limits and rights: reads, writes at the edges of up and down segments. */
static void limits(void)
{
    static const u32 offs[] = {0,      1,      0xffd,  0xffe,  0xfff,   0x1000,     0x1001,     0x7ffe,    0x7fff,
                               0xfffc, 0xfffd, 0xfffe, 0xffff, 0x10000, 0xfffffffc, 0xfffffffd, 0xffffffff};
    u32 type, big, i, ax;

    for (type = 16; type < 32; type++)
        for (big = 0; big < 2; big++) {
            set_desc(DESC, (u32)area - 0x1000, 0xfff, type | 0x80, big * 4);
            put("limit"), hex(type), hex(big);
            ax = SEL;
            TRY("movw %%ax,%%fs", ax);
            log_trap();
            if (trap_vec != NONE) {
                nl();
                continue;
            }
            for (i = 0; i < sizeof offs / 4; i++) {
                if (type & 4 && !(type & 8) && offs[i] >= 0x3000)
                    continue;
                ax = offs[i];
                asm volatile("movw %w0,%%fs" : : "r"(SEL));
                TRY("movl %%fs:(%%eax),%%ecx", ax);
                log_trap();
                asm volatile("movw %w0,%%fs" : : "r"(SEL));
                ax = offs[i];
                TRY("movb %%fs:(%%eax),%%cl", ax);
                log_trap();
                asm volatile("movw %w0,%%fs" : : "r"(SEL));
                ax = offs[i];
                TRY("orw $0,%%fs:(%%eax)", ax);
                log_trap();
                asm volatile("movw %w0,%%fs" : : "r"(SEL));
            }
            nl();
            kernel_segs();
        }
}
/* INT through gates of every type. */
static void gates(void)
{
    u32 type, dpl, p, v;

    for (type = 0; type < 32; type++)
        for (p = 0; p < 2; p++)
            for (dpl = 0; dpl < 4; dpl += 3) {
                if (type == 5)
                    continue;
                set_gate(0x70, (u32)stubs + 0x70 * 16, 8, type | dpl << 5 | p << 7);
                if ((type & 15) == 6 || (type & 15) == 7) /* 16-bit: a stub in the low 64 KiB is not there */
                    continue;
                put("gate"), hex(type), hex(p), hex(dpl);
                v = 0;
                asm volatile("sti");
                TRY("int $0x70", v);
                log_trap();
                asm volatile("pushfl; popl %0; cli" : "=r"(v));
                hex(v & 0x200), hex(trap_flags & 0x7700), hex(trap_cs);
                nl();
            }
    set_gate(0x70, (u32)stubs + 0x70 * 16, 0x18 + 3, 0x8e);
    put("gatecs");
    static const u16 sels[] = {0, 3, 8, 9, 0xb, 0x10, 0x20, 0x23, 0x28, 0x3f8, 0xc};
    for (p = 0; p < sizeof sels / 2; p++) {
        set_gate(0x70, (u32)stubs + 0x70 * 16, sels[p], 0x8e);
        v = 0;
        TRY("int $0x70", v);
        log_trap();
    }
    nl();
    put("idtlimit");
    for (p = 0x70 * 8 - 2; p < 0x70 * 8 + 9; p++) {
        set_gate(0x70, (u32)stubs + 0x70 * 16, 8, 0x8e);
        lidt(idt, p);
        v = 0;
        TRY("int $0x70", v);
        log_trap();
    }
    lidt(idt, sizeof idt - 1);
    nl();
}
/* Runs bytes at CPL 3 until INT 80h or another trap. */
static void user_run(const u8 *code, u32 n, u32 iopl)
{
    u32 i, dummy = 0;

    for (i = 0; i < n; i++)
        user_code[i] = code[i];
    user_code[n] = 0xcd;
    user_code[n + 1] = 0x80;
    farp[0] = iopl << 12 | 2;
    TRY("pushl $0x2b; pushl $ustack_top; pushl farp_; pushl $0x23; pushl $user_code_; movl $0x2b,%%ecx; movl "
        "%%ecx,%%ds; movl %%ecx,%%es; iretl",
        dummy);
    kernel_segs();
    log_trap();
    hex(trap_ip - (u32)user_code), hex(trap_cs), hex(trap_flags & 0x27700);
}
asm(".globl user_code_, ustack_top\n.set user_code_, user_code\n.set ustack_top, ustack + 4000\n");
static void privileged(void)
{
    static const u8 list[][8] = {
        {1, 0xf4},
        {1, 0xfa},
        {1, 0xfb},
        {3, 0x0f, 0x20, 0xc0},
        {3, 0x0f, 0x22, 0xc0},
        {3, 0x0f, 0x20, 0xe0},
        {3, 0x0f, 0x21, 0xf8},
        {2, 0x0f, 0x06},
        {2, 0x0f, 0x08},
        {2, 0x0f, 0x09},
        {2, 0x0f, 0x30},
        {2, 0x0f, 0x32},
        {2, 0x0f, 0x31},
        {2, 0x0f, 0x33},
        {3, 0x0f, 0x00, 0xd0},
        {3, 0x0f, 0x00, 0xd8},
        {3, 0x0f, 0x01, 0xe0},
        {3, 0x0f, 0x01, 0xf0},
        {3, 0x0f, 0x00, 0xc0},
        {2, 0xe4, 0x80},
        {2, 0xe6, 0x80},
        {1, 0xec},
        {1, 0x6c},
        {1, 0x9c},
        {2, 0x9c, 0x9d},
        {7, 0x68, 0x02, 0x32, 0x00, 0x00, 0x9d, 0x9c},
        {1, 0x1e},
        {2, 0x16, 0x17},
        {2, 0xcd, 0x81},
        {2, 0xcd, 0x03},
        {1, 0xcc},
        {1, 0xce},
        {1, 0xf1},
        {2, 0x0f, 0x0b},
        {3, 0x0f, 0x01, 0xc8},
        {3, 0x0f, 0x01, 0xd9},
        {2, 0x0f, 0xaa},
        {2, 0x0f, 0x34},
        {2, 0x0f, 0x35},
        {2, 0x0f, 0x05},
        {2, 0x0f, 0x07},
        {1, 0xcb},
        {1, 0xcf},
        {7, 0xea, 0, 0, 0, 0, 0x08, 0},
        {2, 0xf0, 0x90},
        {3, 0xf0, 0x01, 0xc0},
        {1, 0xd6},
        {2, 0xd5, 0x00},
        {2, 0xd4, 0x00},
        {2, 0xf7, 0xf0},
        {3, 0x62, 0x00, 0x90},
        {3, 0x0f, 0x01, 0x38},
        {3, 0x8e, 0xc8, 0x90},
        {3, 0x0f, 0x01, 0xd0},
        {3, 0x0f, 0x01, 0xca},
    };
    u32 i, iopl;

    for (i = 0; i < sizeof list / 8; i++)
        for (iopl = 0; iopl < 4; iopl += 3) {
            put("cpl3"), hex(i), hex(list[i][1]), hex(list[i][2]), hex(iopl);
            user_run(list[i] + 1, list[i][0], iopl);
            nl();
        }
}
static void load_cr3(void *p)
{
    asm volatile("movl %0,%%cr3" : : "r"(p) : "memory");
}
static u32 cr0(void)
{
    u32 v;

    asm volatile("movl %%cr0,%0" : "=r"(v));
    return v;
}
static void set_cr0(u32 v)
{
    asm volatile("movl %0,%%cr0" : : "r"(v) : "memory");
}
/* Directory and table entry rights against reads, writes and fetches at both privileges, with WP clear and set. */
static void paging(void)
{
    static const u8 ld[] = {0xa1, 0, 0, 0, 0}, st[] = {0xa2, 0, 0, 0, 0};
    u32 i, e, d, wp, v, *page = (u32 *)0x400000;
    u8 code[8];

    for (i = 0; i < 1024; i++)
        pd[i] = i << 22 | 0x87;
    for (i = 0; i < 1024; i++)
        pt[i] = (u32)area | 7;
    asm volatile("movl %%cr4,%0" : "=r"(v));
    asm volatile("movl %0,%%cr4" : : "r"(v | 0x10));
    load_cr3(pd);
    set_cr0(cr0() | 0x80000000);
    area[0x10] = 0xc3;
    for (wp = 0; wp < 2; wp++) {
        set_cr0((cr0() & ~0x10000u) | wp << 16);
        for (d = 0; d < 8; d++)
            for (e = 0; e < 8; e++) {
                put("page"), hex(wp), hex(d), hex(e);
                pd[1] = (u32)pt | d;
                pt[0] = (u32)area | e;
                load_cr3(pd);
                v = 0;
                TRY("movl 0x400000,%%eax", v);
                log_trap();
                v = 0;
                TRY("movl $0x400010,%%ecx; call *%%ecx", v);
                log_trap();
                hex(pd[1] & 0xfff), hex(pt[0] & 0xfff);
                TRY("movl %%eax,0x400000", v);
                log_trap();
                hex(pd[1] & 0xfff), hex(pt[0] & 0xfff);
                for (i = 0; i < 5; i++)
                    code[i] = ld[i];
                code[3] = 0x40;
                user_run(code, 5, 0);
                for (i = 0; i < 5; i++)
                    code[i] = st[i];
                code[3] = 0x40;
                user_run(code, 5, 0);
                nl();
            }
    }
    put("cross");
    pd[1] = (u32)pt | 7;
    pt[0] = (u32)area | 7;
    pt[1] = 0;
    load_cr3(pd);
    TRY("movl %%eax,0x400ffe", v), log_trap();
    TRY("movl 0x400ffd,%%eax", v), log_trap();
    TRY("movl $0x400ffe,%%edi; movl $4,%%ecx; rep stosb; ", v), log_trap();
    pt[1] = (u32)area | 5;
    load_cr3(pd);
    TRY("movl %%eax,0x400ffe", v), log_trap();
    TRY("addl %%eax,0x400ffe", v), log_trap();
    TRY("lock xaddl %%eax,0x400ffe", v), log_trap();
    hex(pt[0] & 0xfff), hex(pt[1] & 0xfff);
    nl();
    set_cr0(cr0() & ~0x80010000u);
    (void)page;
}
static void tss_init(u32 *t, u32 eip)
{
    u32 i;

    for (i = 0; i < 64; i++)
        t[i] = 0;
    t[7] = 0x80000; /* cr3 unused */
    t[8] = eip;
    t[9] = 2;
    t[14] = (u32)(kstack + 500);
    t[18] = 0x10, t[19] = 8, t[20] = 0x10, t[21] = 0x10, t[22] = 0x10, t[23] = 0x10;
    t[25] = 0x68 << 16;
}
/* Task switches by jump, call, interrupt and back by IRET: the link, the busy bits, NT, TS and the saved state. */
extern char task_body[], task_ret[];
asm("task_body: pushfl; popl task_saw; movl %cr0,%eax; movl %eax,task_saw+4; str task_saw+8; iretl; movl "
    "$0x99,task_saw+12; iretl\n"
    "task_jmp: pushfl; popl task_saw; movl %cr0,%eax; movl %eax,task_saw+4; str task_saw+8; ljmp $0x48,$0\n");
u32 task_saw[4];
extern char task_jmp[];
static void log_task(void)
{
    hex(task_saw[0]), hex(task_saw[1] & 8), hex(task_saw[2]), hex(task_saw[3]);
    hex(gdt[TSS_DESC] >> 40 & 0xff), hex(gdt[TSS2_DESC] >> 40 & 0xff), hex(tss2[0]), hex(tss2[9]), hex(tss[9]);
    task_saw[0] = task_saw[1] = task_saw[2] = task_saw[3] = 0;
    asm volatile("clts");
}
static void tasks(void)
{
    u32 v = 0, type, p;

    tss_init(tss2, (u32)task_body);
    set_desc(TSS2_DESC, (u32)tss2, 0x67, 0x89, 0);
    put("task call");
    TRY("lcall $0x60,$0", v);
    log_trap();
    log_task();
    put(" again");
    TRY("lcall $0x60,$0", v);
    log_trap();
    log_task();
    nl();
    put("task jmp");
    tss_init(tss2, (u32)task_jmp);
    set_desc(TSS2_DESC, (u32)tss2, 0x67, 0x89, 0);
    TRY("ljmp $0x60,$0", v);
    log_trap();
    log_task();
    nl();
    put("task gate");
    tss_init(tss2, (u32)task_body);
    set_desc(TSS2_DESC, (u32)tss2, 0x67, 0x89, 0);
    idt[0x71] = (u64)0x60 << 16 | (u64)0x85 << 40;
    TRY("int $0x71", v);
    log_trap();
    log_task();
    nl();
    for (type = 0; type < 32; type++)
        for (p = 0; p < 2; p++) {
            if ((type & 0x17) == 1 && p)
                continue; /* available: would switch */
            set_desc(TSS2_DESC, (u32)tss2, 0x67, type | p << 7, 0);
            put("task bad"), hex(type), hex(p);
            if (!(type & 16) && (type & 7) != 4) {
                TRY("lcall $0x60,$0", v);
                log_trap();
                TRY("ljmp $0x60,$0", v);
                log_trap();
            }
            TRY("int $0x71", v);
            log_trap();
            nl();
        }
    static const u32 limits_[] = {0x20, 0x66, 0x67, 0x68};
    for (p = 0; p < 4; p++) {
        tss_init(tss2, (u32)task_body);
        set_desc(TSS2_DESC, (u32)tss2, limits_[p], 0x89, 0);
        put("task limit"), hex(limits_[p]);
        TRY("lcall $0x60,$0", v);
        log_trap();
        log_task();
        nl();
    }
    static const u8 fields[] = {18, 19, 20, 21, 24};
    static const u16 vals[] = {0, 3, 8, 0xb, 0x10, 0x13, 0x20, 0x23, 0x2b, 0x3f8};
    for (p = 0; p < sizeof fields; p++)
        for (type = 0; type < 10; type++) {
            asm volatile("clts");
            tss_init(tss2, (u32)task_body);
            tss2[fields[p]] = vals[type];
            set_desc(TSS2_DESC, (u32)tss2, 0x67, 0x89, 0);
            put("task field"), hex(fields[p]), hex(vals[type]);
            if (fields[p] == 18 || fields[p] == 21 || fields[p] == 24) {
                TRY("lcall $0x60,$0", v);
                log_trap();
                hex(gdt[TSS_DESC] >> 40 & 0xff), hex(gdt[TSS2_DESC] >> 40 & 0xff);
                set_desc(TSS_DESC, (u32)tss, 0xff, 0x89, 0);
                asm volatile("ltr %w0; pushfl; andl $~0x4000,(%%esp); popfl" : : "r"(TSS_DESC * 8));
            }
            nl();
        }
}
/* TF and breakpoints. */
static void debugging(void)
{
    u32 v = 0, d6;

    put("step");
    TRY("pushfl; orl $0x100,(%%esp); popfl; nop; nop", v);
    log_trap();
    asm volatile("movl %%dr6,%0" : "=r"(d6));
    hex(d6), hex(trap_flags & 0x10100), hex(*(u8 *)trap_ip);
    asm volatile("movl %0,%%dr6" : : "r"(0));
    TRY("pushfl; orl $0x100,(%%esp); popfl; movl %%ss,%%ecx; movl %%ecx,%%ss; nop; nop", v);
    log_trap();
    hex(*(u8 *)trap_ip);
    nl();
    put("exec bp");
    asm volatile("movl %0,%%dr6" : : "r"(0));
    asm volatile("movl %0,%%dr0; movl %1,%%dr7" : : "r"(landing), "r"(1));
    TRY("movl $2f,after_far; movl $landing,%%ecx; jmp *%%ecx; 2:", v);
    asm volatile("movl %0,%%dr7" : : "r"(0));
    log_trap();
    asm volatile("movl %%dr6,%0" : "=r"(d6));
    hex(d6), hex(trap_ip - (u32)landing), hex(trap_flags & 0x10000);
    nl();
    put("data bp");
    asm volatile("movl %0,%%dr6" : : "r"(0));
    asm volatile("movl %0,%%dr1; movl %1,%%dr7" : : "r"(area + 0x20), "r"(4 | 0xd << 20));
    TRY("movl %%eax,area_+0x22; nop; nop", v);
    log_trap();
    asm volatile("movl %%dr6,%0" : "=r"(d6));
    hex(d6);
    TRY("movl area_+0x20,%%eax; nop", v);
    log_trap();
    asm volatile("movl %0,%%dr7" : : "r"(4 | 0xf << 20));
    TRY("movl area_+0x20,%%eax; nop", v);
    log_trap();
    asm volatile("movl %0,%%dr7" : : "r"(0));
    nl();
    put("icebp");
    TRY(".byte 0xf1; nop", v);
    log_trap();
    hex(*(u8 *)trap_ip);
    TRY("int3", v);
    log_trap();
    hex(*(u8 *)trap_ip);
    TRY("movl $0x7fffffff,%%eax; incl %%eax; into; nop", v);
    log_trap();
    nl();
}
asm(".globl area_\n.set area_, area\n");
static void control(void)
{
    static const u32 c0[] = {0x80000001, 0x20000011, 0x60000011, 0x00000031, 0x80000010};
    static const u32 c4[] = {0x2000, 0x80, 0x20, 0x800, 0x100000, 0x80000000, 0x20000};
    u32 i, v;

    put("cr0");
    for (i = 1; i < 4; i++) {
        v = c0[i];
        TRY("movl %%eax,%%cr0; movl %%cr0,%%eax", v);
        log_trap();
        hex(v);
        set_cr0(0x11);
    }
    nl();
    put("misc");
    TRY("smsw %%eax", v), log_trap(), hex(v & 0xffff);
    v = 0;
    TRY("lmsw %%ax; smsw %%eax", v), log_trap(), hex(v & 0xffff);
    v = 9;
    TRY("lmsw %%ax; smsw %%eax", v), log_trap(), hex(v & 0xffff);
    TRY("clts; smsw %%eax", v), log_trap(), hex(v & 0xffff);
    v = 0x11;
    TRY("movl %%eax,%%cr0", v);
    TRY("movl %%cr1,%%eax", v), log_trap();
    TRY("movl %%dr4,%%eax", v), log_trap();
    TRY("movl $0x12345678,%%ecx; rdmsr", v), log_trap();
    TRY("movl $0x277,%%ecx; movl $2,%%eax; xorl %%edx,%%edx; wrmsr", v), log_trap();
    TRY("xorl %%eax,%%eax; divl %%eax", v), log_trap();
    (void)c4;
    nl();
}
/* Virtual-8086 mode: what is trapped at IOPL 0 and 3, with and without VME. */
static void v86(void)
{
    static const u8 list[][8] = {
        {1, 0xfa},
        {1, 0xfb},
        {1, 0x9c},
        {2, 0x9c, 0x9d},
        {3, 0x66, 0x9c, 0x90},
        {3, 0x66, 0x9d, 0x90},
        {2, 0xcd, 0x21},
        {2, 0xe4, 0xe3},
        {1, 0xf4},
        {3, 0x0f, 0x00, 0xc0},
        {3, 0x0f, 0x02, 0xc0},
        {2, 0x63, 0xc0},
        {3, 0x0f, 0x20, 0xc0},
        {1, 0xcc},
        {2, 0x0f, 0x0b},
        {5, 0xb8, 0x34, 0x12, 0x8e, 0xd8},
        {4, 0xa1, 0xff, 0xff, 0x90},
        {5, 0xbc, 1, 0, 0x50, 0x90},
        {4, 0x68, 0x02, 0x01, 0x9d},
        {5, 0xb0, 1, 0xe6, 0x81, 0x90},
        {3, 0x0f, 0x01, 0xe0},
        {2, 0xf0, 0x90},
        {4, 0xfa, 0x9c, 0x58, 0xfb},
    };
    u32 i, k, n, v = 0, *cr4p = farp;

    tss[25] = 0x88 << 16; /* the redirection bits of VME lie below the port bits: all to the IDT */
    for (i = 26; i < 34; i++)
        tss[i] = ~0u;
    for (k = 0; k < 4; k++) {
        asm volatile("movl %%cr4,%0" : "=r"(v));
        v = (v & ~1u) | k >> 1;
        asm volatile("movl %0,%%cr4" : : "r"(v));
        for (i = 0; i < sizeof list / 8; i++) {
            u8 *code = (u8 *)0x6000;

            for (n = 0; n < 16; n++)
                code[n] = 0x90;
            for (n = 0; n < list[i][0]; n++)
                code[n] = list[i][n + 1];
            code[16] = 0xcd, code[17] = 0x80;
            put("v86"), hex(k), hex(i), hex(list[i][1]);
            cr4p[0] = 0x20002 | (k & 1 ? 0x3000 : 0);
            TRY("pushl $0; pushl $0; pushl $0; pushl $0; pushl $0x500; pushl $0x800; pushl farp_; pushl $0x600; pushl "
                "$0; movl $0x5a5a,%%eax; iretl",
                v);
            kernel_segs();
            log_trap();
            hex(trap_ip), hex(trap_cs), hex(trap_flags & 0x1a7700), hex(trap_ax & 0xffff), hex(trap_ds);
            nl();
        }
    }
    asm volatile("movl %%cr4,%0; andl $~1,%0; movl %0,%%cr4" : "=r"(v));
}
void main(void)
{
    u32 v = 0;

    setup();
    put("prot begin\n");
    control();
    descriptor_loads();
    far_transfers();
    limits();
    gates();
    privileged();
    v86();
    debugging();
    paging();
    tasks();
    set_cr0(0x19);
    put("fpu");
    v = 0;
    TRY("bound %%eax,area_+0x100", v), log_trap();
    v = 5;
    TRY("bound %%eax,area_+0x100", v), log_trap();
    TRY("fnop", v), log_trap();
    TRY("clts; fnop", v), log_trap();
    v = 0x15;
    TRY("movl %%eax,%%cr0; fnop", v), log_trap();
    put("\nprot end\n");
    outb(0xf4, 0);
}
