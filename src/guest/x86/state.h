/* Everything an x86 CPU is. Shared by the interpreter, the rewriter, KVM and the monitor.
 *
 * Owned by the vCPU's thread; others look only while it is stopped. While translated code runs, pinned registers,
 * vector registers and flags live in the host's; accel/dbt writes them back here before any code outside it looks. */
#ifndef GUEST_X86_STATE_H
#define GUEST_X86_STATE_H

#include "cpu/x86.h"
#include "guest/x86/cpuid.h"
#include "guest/x86/insn.h"
#include "obj/state.h"
#include <setjmp.h>

enum x86_vec {
    X86_DE = 0,
    X86_DB = 1,
    X86_VEC_NMI = 2,
    X86_BP = 3,
    X86_VEC_OF = 4,
    X86_BR = 5,
    X86_UD = 6,
    X86_NM = 7,
    X86_VEC_DF = 8,
    X86_TS = 10,
    X86_NP = 11,
    X86_VEC_SS = 12,
    X86_GP = 13,
    X86_PGF = 14,
    X86_MF = 16,
    X86_VEC_AC = 17,
    X86_MC = 18,
    X86_XM = 19
};
enum {
    X86_CR0_PE = 1u << 0,
    X86_CR0_MP = 1u << 1,
    X86_CR0_EM = 1u << 2,
    X86_CR0_TS = 1u << 3,
    X86_CR0_ET = 1u << 4,
    X86_CR0_NE = 1u << 5,
    X86_CR0_WP = 1u << 16,
    X86_CR0_AM = 1u << 18,
    X86_CR0_NW = 1u << 29,
    X86_CR0_CD = 1u << 30,
    X86_CR0_PG = 1u << 31
};
enum {
    X86_CR4_VME = 1 << 0,
    X86_CR4_PVI = 1 << 1,
    X86_CR4_TSD = 1 << 2,
    X86_CR4_DE = 1 << 3,
    X86_CR4_PSE = 1 << 4,
    X86_CR4_PAE = 1 << 5,
    X86_CR4_MCE = 1 << 6,
    X86_CR4_PGE = 1 << 7,
    X86_CR4_PCE = 1 << 8,
    X86_CR4_OSFXSR = 1 << 9,
    X86_CR4_OSXMMEXCPT = 1 << 10,
    X86_CR4_UMIP = 1 << 11,
    X86_CR4_LA57 = 1 << 12,
    X86_CR4_FSGSBASE = 1 << 16,
    X86_CR4_PCIDE = 1 << 17,
    X86_CR4_OSXSAVE = 1 << 18,
    X86_CR4_SMEP = 1 << 20,
    X86_CR4_SMAP = 1 << 21,
    X86_CR4_PKE = 1 << 22
};
enum {
    X86_EFER_SCE = 1 << 0,
    X86_EFER_LME = 1 << 8,
    X86_EFER_LMA = 1 << 10,
    X86_EFER_NXE = 1 << 11,
    X86_EFER_FFXSR = 1 << 14
};

struct x86_seg {
    uint16_t sel;
    uint64_t base;
    uint32_t limit; /* in bytes, scaled */
    uint32_t flags; /* descriptor bits 8..23 at their place in the high dword: type, S, DPL, P, AVL, L, D/B, G */
};
enum {
    X86_SEG_A = 1 << 8,
    X86_SEG_W = 1 << 9 /* data */,
    X86_SEG_R = 1 << 9 /* code */,
    X86_SEG_E = 1 << 10,
    X86_SEG_C = 1 << 10,
    X86_SEG_CODE = 1 << 11,
    X86_SEG_S = 1 << 12,
    X86_SEG_DPL_SHIFT = 13,
    X86_SEG_P = 1 << 15,
    X86_SEG_L = 1 << 21,
    X86_SEG_DB = 1 << 22,
    X86_SEG_G = 1 << 23
};

union x86_vreg { /* zmm, ymm and xmm are its low bytes */
    uint8_t b[64];
    uint32_t d[16];
    uint64_t q[8];
} __attribute__((aligned(64)));

/* x87 and MXCSR in the 512-byte FXSAVE64 layout (SDM vol. 1, 10.5); XMM registers are in v[], not here. */
struct x86_fx {
    uint16_t fcw, fsw;
    uint8_t ftw, rsvd1; /* abridged tag: bit set = register in use, by physical register */
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16]; /* ST(0) first; 10 bytes used */
    uint8_t xmm_unused[256];
    uint8_t pad[96];
} __attribute__((aligned(64)));

struct x86_cpu;
/* Translators cache translations of their own; the CPU core reports what makes them stale. NULL entries are allowed. */
struct x86_mmu_hooks {
    void (*flush_all)(struct x86_cpu *c,
                      bool globals_too); /* CR3 write without PCID keeps globals; CR0/CR4/EFER changes do not */
    void (*flush_page)(struct x86_cpu *c, uint64_t lin);  /* INVLPG */
    void (*flush_pcid)(struct x86_cpu *c, unsigned pcid); /* CR3 write that does not preserve its PCID */
    void (*mode_changed)(struct x86_cpu *c); /* CR3, CPL, paging or protection mode changed: pick a context */
};

/* Interrupts and exceptions so far, and a hash over when, where and in which state each came. */
struct x86_trace {
    uint64_t events, hash;
};
struct x86_cpu {
    struct vcpu vcpu; /* first */
    struct x86_port port;

    uint64_t regs[16]; /* RAX RCX RDX RBX RSP RBP RSI RDI R8..R15 */
    uint64_t rip;
    uint64_t rflags; /* always complete, bit 1 set */
    struct x86_seg seg[X86_NR_SEG];
    struct {
        uint64_t base;
        uint32_t limit;
    } gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8_unused, xcr0;
    uint64_t dr[8];
    uint64_t efer, star, lstar, cstar, fmask, kernel_gs_base, tsc_aux, pat;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t mtrr_deftype, mtrr_fixed[11], mtrr_base[16], mtrr_mask[16];
    uint64_t misc_enable, mcg_status, mcg_ctl, mce_banks[4 * 10], spec_ctrl, xss, feature_control, debugctl;
    struct {
        uint64_t guest_os_id, hypercall, ref_tsc, vp_assist;
    } hv; /* Hyper-V MSRs, hv.c */
    int64_t tsc_offset, tsc_adjust;
    uint32_t pkru;
    uint32_t smbase;
    bool smm, nmi_blocked, shutdown;
    bool wait_sipi;     /* an application processor after INIT */
    uint8_t int_shadow; /* 1: STI, 2: MOV SS / POP SS; holds off interrupts (and #DB for 2) for one instruction */
    uint8_t cpl;        /* current privilege level: SS.DPL, 0 in real mode, 3 in VM86 */
    uint8_t mode;       /* X86_MODE_16/32/64 of CS, kept in step by x86_update_mode */
    bool long_mode;     /* EFER.LMA */
    struct x86_fx fx;   /* x87 (unless x87_live) and mxcsr */
    union x86_vreg v[32];
    uint64_t k[8];
    /* AVX-512, for translated code. wide: an instruction of it has run, so blocks may have more of them; stays on.
     * upper: something of v[0..15] above bit 255 may be nonzero; who writes there sets it (x86_note_upper), only
     * translated code clears it. */
    uint32_t wide, upper;
    bool x87_live; /* x87 registers are in the host thread's unit: x86_x87_sync() brings them here */

    /* Memory. */
    struct mem_space *as_smm; /* view in SMM; vcpu.as otherwise */
    struct x86_mmu_hooks hooks;
    struct x86_itlb *itlb;    /* the interpreter's own TLB, private to mmu.c */
    uint64_t a20_mask;        /* ~0 or ~(1 << 20) */
    struct mem_ram *user_ram; /* user mode: linear addresses are the host's, no page tables; see user.h */

    /* Exceptions leave the interpreter through here. */
    sigjmp_buf *fault_jmp; /* set while guest code is being executed */
    struct {
        uint8_t vec;
        bool has_err, soft;
        uint32_t err;
        uint64_t cr2;
    } exc;         /* the fault being raised */
    int injecting; /* vector whose delivery is in progress, -1 = none: for double faults */

    const struct x86_model *model;
    struct x86_features feat; /* what CPUID shows: model, +/- features, masked by the accelerator */
    struct x86_topology {
        unsigned sockets, dies, cores, threads;
    } topo;
    void *dbt;                          /* accel/dbt's per-CPU state */
    struct x86_simd *simd;              /* simd.c's code and buffers, made on first use; x86_simd_free releases it */
    struct x86_trace *trace;            /* borrowed; NULL: events are not noted */
    struct x86_trial *trial;            /* lockstep (trial.h): writes are logged while one runs; NULL: never */
    bool split;                         /* interpreter: holds the lock of accesses that cross a page */
    uint8_t watch_hit;                  /* data breakpoints met by the current instruction, as DR6 bits */
    uint64_t next_rip;                  /* interpreter: address after the instruction; transfers of control change it */
    struct x86_icache *icache;          /* interpreter: decoded blocks, private to interp.c */
    uint64_t insn_count;                /* executed by the interpreter */
    uint64_t saved_tsc_hz, saved_cpuid; /* save.c: what a saved machine had */
    uint16_t last_op;                   /* enum x86_op x86_interp_one executed last */
};
static inline struct x86_cpu *x86_cpu(struct vcpu *c)
{
    return (struct x86_cpu *)c;
}
static inline void x86_note_upper(struct x86_cpu *c)
{
    c->wide = c->upper = 1;
}
static inline struct mem_space *x86_as(struct x86_cpu *c)
{
    return c->smm ? c->as_smm : c->vcpu.as;
}

/* Creation: model with features applied ("Skylake-Client,-avx2,+x2apic" is parsed by x86_cpu_parse_model in cpuid.h).
 */
struct x86_cpu *x86_cpu_new(struct machine *m, struct err **errp);
extern const struct vcpu_arch x86_64_arch;
extern const struct state_desc x86_cpu_state; /* save.c */

/* ---- interp.c ---- */
/* Runs up to max instructions from rip, delivering exceptions and interrupts; returns early on halt, kick or shutdown.
 */
enum vcpu_exit x86_interp_run(struct x86_cpu *c, uint64_t max);
/* Executes exactly one instruction (or one REP iteration burst) at rip with all checks; exceptions are delivered. */
void x86_interp_one(struct x86_cpu *c);
/* Executes an already decoded instruction; rip is advanced. Called with fault_jmp set. */
void x86_exec(struct x86_cpu *c, const struct x86_insn *in);
/* Takes pending INIT, SIPI, SMI, NMI, interrupt in priority order when allowed. True when the flow was changed. */
bool x86_service_pins(struct x86_cpu *c);

/* ---- except.c ---- */
NORETURN void x86_raise(struct x86_cpu *c, int vec); /* fault without error code */
NORETURN void x86_raise_err(struct x86_cpu *c, int vec, uint32_t err);
NORETURN void x86_raise_pf(struct x86_cpu *c, uint64_t lin, uint32_t err);
/* Delivers through IDT (or IVT); double and triple faults are resolved here. is_int: INT n; ext: external interrupt. */
void x86_deliver(struct x86_cpu *c, int vec, bool has_err, uint32_t err, bool is_int, bool ext, uint64_t next_rip);
/* Delivers c->exc (after a siglongjmp to fault_jmp). */
void x86_deliver_fault(struct x86_cpu *c);

/* ---- mmu.c ---- */
enum x86_access { X86_READ, X86_WRITE, X86_EXEC };
struct x86_xlat {
    gpa_t gpa;     /* of the byte asked for */
    uint64_t page; /* size of the mapping: 4 KiB, 2 MiB, 4 MiB, 1 GiB (2^64 with paging off) */
    bool r, w, x;  /* what this privilege may do without a further walk; w only when the D bit is set */
    bool user, global;
    uint8_t pkey;
};
/* Walks the page tables for CPL/implicit-supervisor `user` access, setting A (and D for writes). False: *err is the #PF
 * error code. No side effects on registers. No machine lock needed. */
bool x86_walk(struct x86_cpu *c, uint64_t lin, enum x86_access a, bool user, struct x86_xlat *out, uint32_t *err);
/* Linear accesses with the checks of the current mode; fault through x86_raise_pf. user: CPL 3 rights. */
uint64_t x86_ld(struct x86_cpu *c, uint64_t lin, unsigned size); /* 1 2 4 8 */
void x86_st(struct x86_cpu *c, uint64_t lin, unsigned size, uint64_t val);
void x86_ld_bytes(struct x86_cpu *c, uint64_t lin, void *buf, unsigned n);
void x86_st_bytes(struct x86_cpu *c, uint64_t lin, const void *buf, unsigned n); /* probes both pages before writing */
void x86_probe_write(struct x86_cpu *c, uint64_t lin, unsigned size);            /* the faults that this would have */
uint64_t x86_ld_sys(struct x86_cpu *c, uint64_t lin, unsigned size); /* as supervisor: descriptors, TSS, IDT */
void x86_st_sys(struct x86_cpu *c, uint64_t lin, unsigned size, uint64_t val);
/* Host pointer for n bytes at lin when they lie in one page of plain RAM with the right rights, else NULL; faults are
 * raised. */
void *x86_host(struct x86_cpu *c, uint64_t lin, unsigned n, enum x86_access a);
/* Fetches up to 15 bytes of code at rip (CS base added); stops at a page that cannot be read after at least one byte;
 * faults when the first byte cannot be fetched. Returns the count. */
unsigned x86_fetch(struct x86_cpu *c, uint64_t rip, uint8_t *buf, unsigned want);
void x86_tlb_flush(struct x86_cpu *c, bool globals_too); /* ours and, through the hook, the translator's */
void x86_tlb_flush_page(struct x86_cpu *c, uint64_t lin);

/* ---- seg.c / sys.c ---- */
uint64_t x86_seg_lin(struct x86_cpu *c, int seg, uint64_t off, unsigned size,
                     enum x86_access a); /* checks limits, rights, canonicality */
uint64_t x86_ea(struct x86_cpu *c,
                const struct x86_insn *in); /* effective address of the memory operand, before the segment */
void x86_update_mode(
    struct x86_cpu *c); /* recomputes mode, cpl, long_mode after CS, CR0, EFER, EFLAGS.VM changed; calls the hook */
void x86_set_cr0(struct x86_cpu *c, uint64_t v);
void x86_set_cr3(struct x86_cpu *c, uint64_t v);
void x86_set_cr4(struct x86_cpu *c, uint64_t v);
bool x86_rdmsr(struct x86_cpu *c, uint32_t msr, uint64_t *v); /* false: #GP */
bool x86_wrmsr(struct x86_cpu *c, uint32_t msr, uint64_t v);
/* MSRs 40000000h to 400000ffh, for x86_rdmsr and x86_wrmsr (hv.c); false: #GP. */
bool x86_hv_rdmsr(struct x86_cpu *c, uint32_t msr, uint64_t *v);
bool x86_hv_wrmsr(struct x86_cpu *c, uint32_t msr, uint64_t v);
uint64_t x86_tsc(struct x86_cpu *c);
void x86_set_rflags(struct x86_cpu *c, uint64_t v, uint64_t mask); /* POPF/IRET rules are the caller's */
void x86_reset_cpu(struct x86_cpu *c, bool init /* INIT keeps caches, FPU, MSRs */);

/* ---- simd.c: x87, MMX, SSE, AVX by running the instruction itself on the host ---- */
/* Raises #UD, #NM or a waiting #MF when the control registers do not let the instruction run. Call before
 * x86_simd_exec. */
void x86_simd_check(struct x86_cpu *c, const struct x86_insn *in);
void x86_simd_free(struct x86_cpu *c);
/* Executes a decoded vector or x87 instruction (attr FPU, MMX, SSE or AVX) whose #UD/#NM checks have passed. Registers
 * and memory are updated; SIMD and x87 exceptions are raised. rip is not advanced. False: not one of its instructions.
 */
bool x86_simd_exec(struct x86_cpu *c, const struct x86_insn *in);
/* FXSAVE/FXRSTOR/XSAVE/XSAVEOPT/XSAVEC/XRSTOR images at lin, with all checks. */
void x86_xsave(struct x86_cpu *c, const struct x86_insn *in, uint64_t lin);
void x86_xrstor(struct x86_cpu *c, const struct x86_insn *in, uint64_t lin);
void x86_x87_sync(struct x86_cpu *c); /* host unit -> c->fx, x87_live = false */
void x86_x87_load(struct x86_cpu *c); /* c->fx -> host unit, x87_live = true */
void x86_fpu_init(struct x86_cpu *c); /* power-up state */

#endif
