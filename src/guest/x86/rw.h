/* The x86 rewriter: guest instructions re-encoded with host registers, for x86-64 hosts.
 *
 * Register assignment (system mode): RAX RBX RCX RDX RBP RSI RDI R8 R12-R15 stand for themselves, guest RSP lives in
 * host R9, guest R9 R10 R11 in the context (GS-relative), host R10 = T0 and R11 = T1 are scratch, host RSP is the
 * shadow stack of host return addresses: what a guest RET returns to compares the guest's with its own. RFLAGS, vector,
 * x87 and MXCSR state are the host's own. Anything the rewriter does not take ends the block with an exit to the
 * interpreter for that one instruction.
 *
 * A memory access uses a site slot {minus page, addend} of the context; a miss calls a stub that probes the context's
 * TLB and refills the slot, else leaves to the runtime. Sites that keep missing probe the TLB themselves. Guest state
 * is complete in host registers at every instruction boundary. */
#ifndef GUEST_X86_RW_H
#define GUEST_X86_RW_H

#include "guest/x86/cpuid.h"
#include "guest/x86/insn.h"
#include "jit/block.h"
#include "jit/x64.h"

enum {
    X86_TLB_SIZE = 32768,
    X86_SLOTS = 8192,
    X86_SITE_SLOTS = 7168,
    X86_SPANS = 4,
    X86_JC_SIZE = 16384,
    X86_ISLOTS = 8192
};
enum { X86_LOOPS = 256, X86_LOOP_GROUPS = 8, X86_WAYS = 1024 };

struct x86_slot {      /* the page a site used last */
    uint64_t neg_page; /* minus the linear page address; empty: far from every address */
    uint64_t add;      /* host address minus linear address */
};
struct x86_tlb_entry {
    uint64_t r, w; /* minus the page that may be read, that may be written; empty: far from every address */
    uint64_t add;  /* host address minus linear address */
    uint64_t unused;
};
/* What a loop without checks has brought, by a hash of its place (rw_loop.c). rounds - rest were done by the last
 * entry; skip: back edges until the next; strikes: entries in a row that brought few rounds; credit: how many more
 * pages this entry may go to; given_up: how often it was not worth it. */
struct x86_loop {
    uint32_t rounds, rest, skip, strikes, credit, given_up;
};
enum { X86_TLB_SHIFT = 12 - 5 }; /* an address shifted by this and masked is the offset of its entry */
/* What GS points at while translated code runs: one per vCPU, address space and privilege class. */
struct x86_ctx {
    struct x86_cpu *cpu;
    uint64_t home[3];       /* guest R9 R10 R11 */
    _Atomic uintptr_t poll; /* &poll_ok, or an unmapped address to make the next poll fault */
    uint64_t poll_ok;
    uint64_t seg_base[6]; /* ES CS SS DS FS GS */
    uint64_t host_rsp, ss_rsp;
    uint64_t save_rax, save_rcx, save_rdx, tmp, tmp2, check, tmp_flags, add_rsi;
    uint64_t if_flag, sys_flags; /* RFLAGS.IF; RFLAGS without it, the arithmetic flags and bit 1 */
    uint64_t t0, t1;             /* at exit, and reloaded on entry */
    const uint8_t *enter_target;
    struct jit_outside out; /* user mode's */
    uint64_t insns;         /* instructions of the blocks entered, where env.count is set */
    uint64_t branch_pc;     /* the last return; user mode: where to go on behind a hot jump (JIT_HOT) */
    uint64_t wide_away;     /* 1: k and v[16..31] are in x86_cpu, 0: in the host's registers (x86_rw_enter_frame) */
    uint32_t flags;         /* arithmetic flags at exit and entry */
    uint32_t host_mxcsr;
    _Atomic uint64_t jc_mask;                 /* the bits of a pc that index the jump table; 0: look at none */
    uint64_t jc_mask_hit;                     /* the same, for a pc that was found */
    uint64_t tsc_neg_base, tsc_mult, tsc_add; /* guest TSC = (host TSC + neg_base) * mult / 2^64 + add */
    uint64_t page_mask;                       /* the offset in a page */
    uint64_t bit_mask[2];                     /* 31, 63 */
    uint64_t count_mask[4];                   /* by log2 of the element: turns a distance up to a page into elements */
    uint64_t mask[13];                        /* for flag-free checks: page bits | (2^n - 1) */
    uint64_t tlb_mask;                        /* the bits of an address that index the TLB */
    uint64_t tlb_offset;                      /* the same, as bits of an offset in it */
    uint64_t span_add[X86_SPANS];             /* addends of the spans of a block that probes the TLB for them */
    uint64_t loop_add[X86_LOOP_GROUPS]; /* of the loop that runs with few checks: addends, registers that it leaves
                                           alone added */
    uint64_t loop_neg[X86_LOOP_GROUPS]; /* minus the guest's page, where there is a check */
    _Atomic uint32_t loop_go;           /* such a loop with stores may go on: cleared by dbt_page_is_code */
    struct x86_loop loop[X86_LOOPS];
    uint64_t islot[X86_ISLOTS]; /* minus the page id validated for (hash of linear page); 0 = none */
    uint32_t way[X86_WAYS];     /* user mode: counted by jumps, by a hash of their places (x86_rw_env.way) */
    uint8_t miss[X86_SLOTS];    /* counted by the stubs; one that runs over is reported with X86_RWI_HOT */
    struct x86_slot ret_slot __attribute__((aligned(64))); /* of all 64-bit returns */
    struct x86_slot slot[X86_SLOTS]; /* of sites; behind X86_SITE_SLOTS: of pages known when they were translated */
    uint64_t jc_neg[X86_JC_SIZE] __attribute__((aligned(64))); /* jump table: minus the guest pc ... */
    const uint8_t *jc_host[X86_JC_SIZE];
    struct x86_tlb_entry tlb[X86_TLB_SIZE] __attribute__((aligned(64))); /* as many as tlb_mask says are in use */
    /* Runtime's part, not touched by code. */
    uint32_t tlb_evicted; /* entries that others took the place of, since the TLB has its size */
    uint8_t bounce[128] __attribute__((aligned(64))); /* what a load over the end of a page reads */
    uint64_t big[16], huge;         /* hashed 4 MiB and 1 GiB areas filled from pages larger than 4 KiB */
    uint64_t seen[128], wrote[128]; /* hashes of the linear pages filled, of the host pages filled for writing */
    uint32_t nr_slot_log, nr_tlb_log;
    uint16_t slot_log[4096], tlb_log[4096];
};
/* Where the jump table keeps pc: by x86_rw_jc in code. Functions start at multiples of 16, the cases of a switch
 * anywhere: nine times pc has both in the bits that count. */
enum { X86_JC_MASK = (X86_JC_SIZE - 1) << 4, X86_JC_NOT_0 = 16 /* an address whose place is not the first */ };
static inline unsigned x86_jc(uint64_t pc)
{
    return (unsigned)(pc * 9 & X86_JC_MASK) >> 4;
}
/* Empties it. Every 64-bit number may be jumped to, so none stands for nothing: an empty place holds an address whose
 * place is another: 0, and in the first, which is that one's, X86_JC_NOT_0. */
static inline void x86_jc_clear(struct x86_ctx *x)
{
    memset(x->jc_neg, 0, sizeof x->jc_neg);
    x->jc_neg[0] = -(uint64_t)X86_JC_NOT_0;
}
/* Lets every jump miss, whoever runs here: all look at the first place, where an address leads to the way out (a stub's
 * exit_dispatch). Until jc_mask has its value again. */
static inline void x86_jc_stop(struct x86_ctx *x, const uint8_t *exit_dispatch)
{
    x->jc_mask = 0;
    __atomic_store_n(&x->jc_host[0], exit_dispatch, __ATOMIC_RELAXED);
    __atomic_store_n(&x->jc_neg[0], -(uint64_t)X86_JC_NOT_0, __ATOMIC_RELEASE);
}
static inline uint32_t x86_tlb_nr(const struct x86_ctx *x) /* entries in use */
{
    return (uint32_t)(x->tlb_mask >> 12) + 1;
}
#define X86_CTX(f) ((int32_t)offsetof(struct x86_ctx, f))

/* Mode bits of a block; two blocks of one pc with different modes are different code. */
enum {
    X86_RWM_64 = 1,   /* 64-bit code, else flat 32-bit */
    X86_RWM_USER = 2, /* CPL 3 */
    X86_RWM_FPU = 4,  /* x87/MMX allowed: CR0.TS = EM = 0 */
    X86_RWM_SSE = 8,  /* and CR4.OSFXSR */
    X86_RWM_AVX = 16, /* and CR4.OSXSAVE with XCR0 AVX */
    X86_RWM_ONE = 32, /* one instruction per block */
    X86_RWM_FS = 64,
    X86_RWM_GS = 128,      /* the segment spans all memory (always in 64-bit code) */
    X86_RWM_TSC = 512,     /* RDTSC and RDTSCP are allowed and the context says how to make the value */
    X86_RWM_SPLIT = 1024,  /* each access is checked by itself */
    X86_RWM_FLAGS = 2048,  /* flags are kept for the frames of faults and interrupts, too, where no code reads them */
    X86_RWM_LOOP = 4096,   /* a loop without checks (rw_loop.c); only links lead to it */
    X86_RWM_AVX512 = 8192, /* and XCR0 5 to 7, of a CPU that is `wide`: EVEX and mask registers */
    X86_RWM_FLAT = 256,    /* user mode: a guest address is a host address, faults are the host's; no checks */
};

struct x86_stubs {                        /* run addresses */
    const uint8_t *enter;                 /* C: int enter(void): loads guest state, jumps to ctx->enter_target */
    const uint8_t *exit_interp;           /* T0 = pc: interpret one instruction there */
    const uint8_t *exit_dispatch;         /* T0 = pc: find or make its block; T1 = the indirect branch that led there */
    const uint8_t *exit_link, *exit_call; /* called by a link's stub, by a link that is a CALL: resolve and patch it */
    const uint8_t *exit_leave;            /* called before a dead block */
    const uint8_t *exit_no_loop;          /* T0 = pc: the block there needs no variant X86_RWM_LOOP */
    const uint8_t *exit_signal;           /* entered from the signal handler: rip is known to the runtime */
    const uint8_t *jump;                  /* T0 = pc: look it up in the context's table, flags kept */
    const uint8_t *ret;                   /* 64-bit, T0 = pc of a RET: does it */
    const uint8_t *exit_ret;              /* T0 = pc of a RET whose stack the TLB does not know */
    const uint8_t *ret_miss;              /* T0 = where a return goes that the shadow stack did not predict, T1 = RCX */
    const uint8_t *ret_bottom;            /* what the lowest word of the shadow stack returns to, the same way */
    const uint8_t *tlb_read, *tlb_write;  /* T0 = address, T1 = info: returns with T1 = addend, or leaves */
    const uint8_t *tlb_read_lost, *tlb_write_lost; /* the same where nobody needs the flags */
    const uint8_t *load_wide;                      /* what is away is brought here; T0 is lost */
    const uint8_t *exit_syscall;                   /* FLAT: T0 = address behind a system call instruction */
};
/* R11 = x86_jc of R10, or 0 while jumps are to miss; no flags. */
void x86_rw_jc(struct jit_buf *b);
/* Pieces of a runtime's entry and exit, T0 = the x86_cpu between them. enter_frame saves what C wants kept, loads
 * vectors, MXCSR and the homes of R9 to R11; load_pinned the other registers but RSP, the shadow stack, and flags.
 * leave_frame undoes enter_frame and returns T1 to C; RAX is lost before. vec: what vectors the host has. AVX-512's
 * masks and registers 16 to 31 move only where ctx->wide_away says so: set to 1, it leaves them until code needs them
 * (load_wide_stub), and to 0, has them loaded at once; once they are, every way out stores them, and code goes on where
 * it was left with the word as it was. FLAT code loads nothing. */
enum x86_rw_vec { X86_RWV_SSE, X86_RWV_AVX, X86_RWV_AVX512 };
enum x86_rw_vec x86_rw_host_vec(void);
void x86_rw_enter_frame(struct jit_buf *b, enum x86_rw_vec vec);
void x86_rw_load_pinned(struct jit_buf *b);
void x86_rw_store_pinned(struct jit_buf *b);
void x86_rw_leave_frame(struct jit_buf *b, enum x86_rw_vec vec);
/* dst = where the TLB's entry of an address lies in it, in bytes (flags are lost); or in units of 8 bytes, flags kept.
 */
void x86_rw_tlb_offset(struct jit_buf *b, unsigned dst, unsigned address);
void x86_rw_tlb_index(struct jit_buf *b, unsigned dst, unsigned address);
/* exit_link and exit_leave, exit_call: to `exit` with T1 = where they would return. The call is undone, but for that of
 * exit_call, which is the guest's. */
const uint8_t *x86_rw_called_stub(struct jit_buf *b, const uint8_t *exit, bool keep);
/* The stubs that know only the context; they return their run address. The poll of the first faults with the pc in T0
 * and ctx->t0 and the guest's RCX in ctx->save_rcx. */
const uint8_t *x86_rw_jump_stub(struct jit_buf *b, const uint8_t *dispatch);
const uint8_t *x86_rw_ret_stub(struct jit_buf *b, const uint8_t *exit_ret);
const uint8_t *x86_rw_ret_miss_stub(struct jit_buf *b, const uint8_t *jump);
const uint8_t *x86_rw_ret_bottom_stub(struct jit_buf *b, const uint8_t *ret_miss); /* the word stays */
const uint8_t *x86_rw_load_wide_stub(struct jit_buf *b);
struct x86_rw_env {
    const struct x86_stubs *stubs;
    const struct x86_features *feat;
    unsigned mode;
    uint64_t pc;         /* guest address (CS base is 0) */
    const uint8_t *code; /* avail bytes of guest code at pc, within one page */
    size_t avail;
    uint32_t first_link;    /* global number of link 0 */
    uint32_t *next_slot;    /* counter for slot assignment */
    uint32_t nr_slots;      /* X86_SITE_SLOTS, or fewer to see them collide; 512 at least, a block's sites differ */
    const uint8_t *hot;     /* one bit per hash of an instruction's place: it misses its slot too often for one */
    const uint8_t *no_loop; /* one bit per hash of a block's place: it has no variant X86_RWM_LOOP */
    uint64_t place;         /* of the first instruction */
    bool tier2;             /* known to run much: slots for all its accesses, and more code in a row */
    bool slots;       /* slots for all accesses else, too; without, those of user code but to the stack probe the TLB */
    uint64_t page_id; /* guard: id of (linear page, physical page) */
    uint64_t tail_id; /* the same for the next page when code runs on there: one instruction that crosses; else 0 */
    bool vex;         /* host has AVX */
    bool loop;        /* the host's LOOP is as fast as its other branches */
    bool count;       /* blocks add up their instructions in ctx->insns */
    bool loops;       /* blocks of the second tier may have variants X86_RWM_LOOP, but for those of no_loop */
    bool calls;       /* blocks go on behind calls */
    bool smp;         /* there are or may be other vCPUs */
    bool native_xsave; /* FLAT: the guest's XCR0 is the host's */
    /* FLAT: how many bytes at pc, all on its page, a block may be made from beyond its own; 0: none. NULL: nowhere.
     * What is read before it was asked with `watch` may have changed since. */
    size_t (*reach)(void *arg, uint64_t pc, bool watch);
    /* FLAT: where the indirect jump or call at pc, or the conditional jump of a function made part of its caller's
     * block, goes most often; 0: not known. *count: its code is to count when it goes elsewhere, and to leave by a
     * JIT_HOT after X86_WAY_HOT times, with T0 = where it went. NULL: never known, nothing is counted. */
    uint64_t (*way)(void *arg, uint64_t pc, bool *count);
    void *arg; /* of both */
};
/* FLAT: what the guest's RSP has moved since the host's register for it did, [-24, 24] bytes in steps of 8, is the mark
 * of each instruction that begins so; or, X86_RW_KEEPS, that R10 and R11 are in T0 and T1. */
enum { X86_RW_KEEPS = 4 };
static inline unsigned x86_rw_mark_of(int32_t sp)
{
    return (unsigned)(sp / 8) & 7;
}
static inline int32_t x86_rw_sp_of(unsigned mark)
{
    return mark == X86_RW_KEEPS ? 0 : 8 * ((int32_t)(mark ^ 4) - 4);
}

/* Translates one block. False: the first instruction is not rewritable (or cannot be decoded): interpret it. */
bool x86_rw_block(struct jit_buf *b, const struct x86_rw_env *env, struct jit_block_out *out);
/* Packing of T1 when a TLB stub is called. With X86_RWI_SPAN set an access that crosses a page returns 5 bytes behind
 * the usual place, registers untouched but for T1. */
#define X86_RWI_SPAN (UINT32_C(1) << 31)
#define X86_RWI_LOAD (UINT32_C(1) << 15) /* one load that uses the addend once: what it reads may lie anywhere */
#define X86_RWI_HOT  (UINT32_C(1) << 30) /* set by the stub: the slot has missed 256 times since it was last set */
enum { X86_HOT_BITS = 1 << 17, X86_WAY_HOT = 2048 };
/* Bit of env->hot for an instruction. */
static inline unsigned x86_hot_bit(uint64_t place)
{
    return (unsigned)(place * UINT64_C(0x9e3779b97f4a7c15) >> 47);
}
/* Bit of env->no_loop for a block: of its place and how its code begins. */
static inline unsigned x86_loop_bit(uint64_t place, const uint8_t *code, size_t avail)
{
    return x86_hot_bit(place ^ (avail < 8 ? 0 : get_le64(code) * UINT64_C(0xd6e8feb86659fd93)));
}
static inline uint32_t x86_rw_info(unsigned slot, unsigned size, unsigned insn)
{
    return slot | (size < 256 ? size : 0) << 16 | insn << 24; /* size 0 stands for 256 and more: always slow */
}

#endif
