/* The x86 CPU as an object: creation, reset, what the neutral vCPU, the monitor and the debugger ask of it.
 *
 * Reset values after the Intel SDM vol. 3 table 9-1. Register numbers for the debugger are those of GDB's amd64 layout.
 */
#include "base/log.h"
#include "base/str.h"
#include "guest/x86/x86_int.h"

#include <stdio.h>

/* ---- reset ---- */
static struct x86_seg reset_data(void)
{
    return (struct x86_seg){.limit = 0xffff, .flags = X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A};
}
static void reset_msrs(struct x86_cpu *c)
{
    c->star = c->lstar = c->cstar = c->fmask = c->kernel_gs_base = c->tsc_aux = 0;
    c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
    c->pat = UINT64_C(0x0007040600070406);
    c->mtrr_deftype = 0;
    memset(c->mtrr_fixed, 0, sizeof c->mtrr_fixed);
    memset(c->mtrr_base, 0, sizeof c->mtrr_base);
    memset(c->mtrr_mask, 0, sizeof c->mtrr_mask);
    memset(c->mce_banks, 0, sizeof c->mce_banks);
    c->misc_enable = 1; /* fast strings */
    c->mcg_status = c->mcg_ctl = 0;
    c->spec_ctrl = c->xss = c->debugctl = 0;
    c->feature_control = 0;
    c->tsc_offset = 0;
    c->tsc_offset = -(int64_t)c->port.tsc_now(&c->vcpu); /* the guest's counter starts at 0 */
    c->tsc_adjust = 0;
    c->smbase = 0x30000;
}
/* The view of memory in SMM exists once the board has said what it is. */
static void find_smram(struct x86_cpu *c)
{
    struct machine *m = c->vcpu.m;

    if (!c->port.smram_root || c->as_smm != c->vcpu.as)
        return;
    c->as_smm = mem_space_new(m->mem_sys, "cpu-smm", c->port.smram_root);
    x86_mmu_listen(c, c->as_smm);
}
void x86_reset_cpu(struct x86_cpu *c, bool init)
{
    uint32_t id[4] = {0};

    memset(c->regs, 0, sizeof c->regs);
    for (int i = 0; i < 6; i++)
        c->seg[i] = reset_data();
    c->seg[X86_CS] = (struct x86_seg){.sel = 0xf000,
                                      .base = 0xffff0000,
                                      .limit = 0xffff,
                                      .flags = X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_R | X86_SEG_A};
    c->seg[X86_LDTR] = (struct x86_seg){.limit = 0xffff, .flags = X86_SEG_P | 2 << 8};
    c->seg[X86_TR] = (struct x86_seg){.limit = 0xffff, .flags = X86_SEG_P | 11 << 8};
    c->gdt.base = c->idt.base = 0;
    c->gdt.limit = c->idt.limit = 0xffff;
    c->rip = 0xfff0;
    c->rflags = 2;
    c->cr0 = (init ? c->cr0 & (X86_CR0_CD | X86_CR0_NW) : (uint64_t)(X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
    c->cr2 = c->cr3 = c->cr4 = 0;
    c->efer = 0;
    memset(c->dr, 0, sizeof c->dr);
    c->dr[6] = 0xffff0ff0;
    c->dr[7] = 0x400;
    c->smm = c->nmi_blocked = c->shutdown = false;
    c->int_shadow = 0;
    c->injecting = -1;
    c->a20_mask = c->port.a20 ? ~UINT64_C(0) : ~(UINT64_C(1) << 20);
    if (!init) {
        find_smram(c);
        reset_msrs(c);
        c->xcr0 = 1;
        c->pkru = 0;
        memset(c->k, 0, sizeof c->k);
        x86_fpu_init(c);
        c->vcpu.halted = c->wait_sipi = !c->port.bsp;
    }
    x86_cpuid(c, 1, 0, id);
    c->regs[X86_RDX] = id[0];
    x86_tlb_flush(c, true);
    x86_update_mode(c);
}
static void arch_reset(struct vcpu *v)
{
    x86_reset_cpu(x86_cpu(v), false);
}

/* ---- what the vCPU thread asks ---- */
static bool arch_has_work(struct vcpu *v)
{
    struct x86_cpu *c = x86_cpu(v);
    uint32_t pins = v->pins;

    if (pins & (X86_PIN_INIT | X86_PIN_SIPI | X86_PIN_FLUSH | X86_PIN_A20))
        return true;
    if (c->wait_sipi)
        return false;
    return pins & (X86_PIN_NMI | X86_PIN_SMI | X86_PIN_MCE) || (pins & X86_PIN_INTR && c->rflags & X86_IF);
}
static uint64_t arch_pc(struct vcpu *v)
{
    struct x86_cpu *c = x86_cpu(v);

    return c->mode == X86_MODE_64 ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);
}
static uint64_t tsc_now(struct vcpu *v)
{
    struct x86_cpu *c = x86_cpu(v);

    return (uint64_t)((__extension__(unsigned __int128)(uint64_t) clk_now(v->m->run->virt) * c->port.tsc_hz) /
                      (uint64_t)NS_PER_SEC) +
           (uint64_t)c->tsc_offset;
}
static struct x86_port *arch_port(struct vcpu *v)
{
    return &x86_cpu(v)->port;
}

/* ---- registers in readable form ---- */
static void dump_segs(struct x86_cpu *c, struct strbuf *s)
{
    static const char *const names[X86_NR_SEG] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};

    for (int i = 0; i < X86_NR_SEG; i++)
        str_addf(s, "%-4s %04x  base %016" PRIx64 "  limit %08x  attr %06x dpl %u%s\n", names[i], c->seg[i].sel,
                 c->seg[i].base, c->seg[i].limit, c->seg[i].flags, c->seg[i].flags >> 13 & 3,
                 c->seg[i].flags & X86_SEG_P ? "" : " (not present)");
    str_addf(s, "gdt        base %016" PRIx64 "  limit %08x\nidt        base %016" PRIx64 "  limit %08x\n", c->gdt.base,
             c->gdt.limit, c->idt.base, c->idt.limit);
}
static void dump_zmm(const struct x86_cpu *c, struct strbuf *s)
{
    for (int i = 0; i < 8; i++)
        str_addf(s, "k%d  %016" PRIx64 "%s", i, c->k[i], i % 4 == 3 ? "\n" : "  ");
    for (int i = 0; i < 32; i++) {
        str_addf(s, "zmm%-2d ", i);
        for (int q = 8; q-- > 0;)
            str_addf(s, "%016" PRIx64 "%s", c->v[i].q[q], q ? "" : "\n");
    }
}
static char *arch_dump(struct vcpu *v, unsigned flags)
{
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char bits[] = "c.p.a.zstido..n";
    static const char *const modes[] = {"16-bit", "32-bit", "64-bit"};
    struct x86_cpu *c = x86_cpu(v);
    struct strbuf s = {0};

    str_addf(&s, "CPU %u  %s code, privilege %u%s%s\n", v->index, modes[c->mode], c->cpl,
             c->smm ? ", system management mode" : "", v->halted ? ", halted" : "");
    for (int i = 0; i < 16; i++)
        str_addf(&s, "%-3s %016" PRIx64 "%s", names[i], c->regs[i], i % 4 == 3 ? "\n" : "  ");
    str_addf(&s, "rip %016" PRIx64 "  rflags %08" PRIx64 " [", c->rip, c->rflags);
    for (int i = 0; i < 15; i++)
        if (bits[i] != '.' && c->rflags >> i & 1)
            str_addf(&s, "%c", bits[i] - 32);
    str_addf(&s, "]\n");
    dump_segs(c, &s);
    str_addf(&s, "cr0 %08" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "  cr4 %08" PRIx64 "  efer %04" PRIx64 "\n",
             c->cr0, c->cr2, c->cr3, c->cr4, c->efer);
    str_addf(&s,
             "dr0 %016" PRIx64 "  dr1 %016" PRIx64 "  dr2 %016" PRIx64 "  dr3 %016" PRIx64 "\ndr6 %08" PRIx64
             "  dr7 %08" PRIx64 "\n",
             c->dr[0], c->dr[1], c->dr[2], c->dr[3], c->dr[6], c->dr[7]);
    if (flags & 1) {
        x86_x87_sync(c);
        str_addf(&s, "fcw %04x  fsw %04x  ftw %02x  mxcsr %08x\n", c->fx.fcw, c->fx.fsw, c->fx.ftw, c->fx.mxcsr);
        for (int i = 0; i < 16; i++)
            str_addf(&s, "xmm%-2d %016" PRIx64 "%016" PRIx64 "%s", i, c->v[i].q[1], c->v[i].q[0], i % 2 ? "\n" : "  ");
        if (c->xcr0 & 0xe0)
            dump_zmm(c, &s);
    }
    return str_take(&s);
}

/* ---- the debugger ---- */
static bool arch_translate(struct vcpu *v, uint64_t va, gpa_t *pa)
{
    struct x86_cpu *c = x86_cpu(v);
    struct x86_xlat x;

    if (!x86_walk_debug(c, va, &x))
        return false;
    *pa = x.gpa;
    return true;
}
enum { GDB_RIP = 16, GDB_FLAGS, GDB_CS, GDB_ST0 = 24, GDB_FCTRL = 32, GDB_XMM0 = 40, GDB_MXCSR = 56, GDB_NR };
static const uint8_t gdb_gpr[16] = {X86_RAX, X86_RBX, X86_RCX, X86_RDX, X86_RSI, X86_RDI, X86_RBP, X86_RSP,
                                    8,       9,       10,      11,      12,      13,      14,      15};
static const uint8_t gdb_seg[6] = {X86_CS, X86_SS, X86_DS, X86_ES, X86_FS, X86_GS};
static unsigned get_bytes(uint8_t *buf, const void *p, unsigned n)
{
    memcpy(buf, p, n);
    return n;
}
static uint32_t gdb_fctrl(const struct x86_cpu *c, unsigned i)
{
    switch (i) {
    case 0:
        return c->fx.fcw;
    case 1:
        return c->fx.fsw;
    case 2:
        return c->fx.ftw;
    case 4:
        return (uint32_t)c->fx.fip;
    case 6:
        return (uint32_t)c->fx.fdp;
    case 7:
        return c->fx.fop;
    default:
        return 0;
    }
}
static unsigned arch_gdb_read(struct vcpu *v, unsigned reg, uint8_t *buf)
{
    struct x86_cpu *c = x86_cpu(v);
    uint32_t w;

    if (reg < 16)
        return get_bytes(buf, &c->regs[gdb_gpr[reg]], 8);
    if (reg == GDB_RIP)
        return get_bytes(buf, &c->rip, 8);
    if (reg >= GDB_NR)
        return 0;
    if (reg >= GDB_XMM0 && reg < GDB_MXCSR)
        return get_bytes(buf, &c->v[reg - GDB_XMM0], 16);
    x86_x87_sync(c);
    if (reg >= GDB_ST0 && reg < GDB_FCTRL)
        return get_bytes(buf, c->fx.st[reg - GDB_ST0], 10);
    w = reg == GDB_FLAGS   ? (uint32_t)c->rflags
        : reg < GDB_ST0    ? c->seg[gdb_seg[reg - GDB_CS]].sel
        : reg == GDB_MXCSR ? c->fx.mxcsr
                           : gdb_fctrl(c, reg - GDB_FCTRL);
    return get_bytes(buf, &w, 4);
}
static unsigned arch_gdb_write(struct vcpu *v, unsigned reg, const uint8_t *buf)
{
    struct x86_cpu *c = x86_cpu(v);

    if (reg < 16) {
        memcpy(&c->regs[gdb_gpr[reg]], buf, 8);
        return 8;
    }
    if (reg == GDB_RIP) {
        memcpy(&c->rip, buf, 8);
        return 8;
    }
    if (reg >= GDB_XMM0 && reg < GDB_MXCSR) {
        memcpy(&c->v[reg - GDB_XMM0], buf, 16);
        return 16;
    }
    if (reg >= GDB_NR)
        return 0;
    if (reg == GDB_FLAGS) {
        uint32_t f;

        memcpy(&f, buf, 4);
        x86_set_rflags(c, f, X86_ARITH | X86_TF | X86_DF | X86_IF | X86_AC | X86_ID | X86_RF);
    }
    return reg >= GDB_ST0 && reg < GDB_FCTRL ? 10 : 4; /* the rest cannot be changed from outside */
}
const struct vcpu_arch x86_64_arch = {
    .name = "x86_64",
    .reset = arch_reset,
    .has_work = arch_has_work,
    .pc = arch_pc,
    .dump = arch_dump,
    .debug_translate = arch_translate,
    .gdb_read = arch_gdb_read,
    .gdb_write = arch_gdb_write,
    .gdb_target_xml = "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
                      "<architecture>i386:x86-64</architecture></target>",
    .x86_port = arch_port,
    .state = &x86_cpu_state,
};

/* ---- creation ---- */
struct x86_cpu *x86_cpu_new(struct machine *m, struct err **errp)
{
    struct x86_cpu *c = try_alloc_aligned(64, sizeof *c);

    if (!c) {
        err_set(errp, "no memory for a CPU");
        return NULL;
    }
    memset(c, 0, sizeof *c);
    vcpu_init(&c->vcpu, m, &x86_64_arch);
    c->as_smm = c->vcpu.as;
    c->port.tsc_hz = UINT64_C(1000000000);
    c->port.tsc_now = tsc_now;
    c->port.a20 = true;
    c->a20_mask = ~UINT64_C(0);
    c->injecting = -1;
    c->topo.sockets = c->topo.dies = c->topo.cores = c->topo.threads = 1;
    if (!x86_mmu_init(c) || !x86_interp_init(c)) {
        err_set(errp, "no memory for the tables of a CPU");
        return NULL;
    }
    return c;
}
