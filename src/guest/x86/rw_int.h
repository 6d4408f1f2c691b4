/* Inside the rewriter: state of one block being translated. */
#ifndef GUEST_X86_RW_INT_H
#define GUEST_X86_RW_INT_H

#include "guest/x86/rw.h"

enum { T0 = JR_R10, T1 = JR_R11, HSP = JR_R9 /* guest RSP */ };
enum { SPILLED = 0x40 }; /* in the register map: guest R9..R11, home index in the low bits */

/* What an instruction is for the rewriter, found out once when it is decoded: x86_insn.found. */
enum {
    RW_SYS = 1,        /* rw_is_sys */
    RW_ENDS = 2,       /* transfers control, not SYS */
    RW_COND = 4,       /* Jcc, LOOP, JRCXZ: the block goes on behind it */
    RW_STACK_OP = 8,   /* rw_is_stack_op */
    RW_STRING = 16,    /* rw_is_string */
    RW_FLAT_OP = 32,   /* rw_is_flat_op */
    RW_CAN_COPY = 64,  /* rw_can_copy */
    RW_AS_IT_IS = 128, /* and that by its very bytes */
    RW_PLAIN = RW_STACK_OP | RW_STRING | RW_FLAT_OP | RW_CAN_COPY
};

enum cold_kind {
    COLD_MEM,
    COLD_LINK,
    COLD_GUARD,
    COLD_WIDE,
    COLD_CALL, /* to what the jump table lacks */
    COLD_OUT,  /* rw_keep.c: by the jump at link */
    /* rw_leaf.c; info: the call, link: the jump, write: it jumps */
    COLD_ASIDE, /* a leaf is left */
    COLD_OTHER, /* a call by pointer goes elsewhere; write: it has no leaf */
    COLD_JUMP,  /* so does a jump */
    COLD_HOT    /* often */
};
struct cold {
    enum cold_kind kind;
    uint8_t *from, *from2; /* rel32s to bind; NULL = none */
    uint8_t *op;           /* where to go on */
    uint32_t info;
    bool write, keep_flags, rcx_in_t1, make_t0;
    int pending; /* instruction whose flags are to be made here; -1: none */
    int32_t moved;
    struct jit_mem addr; /* make_t0: T0 = address */
    unsigned link;
};
enum { MAX_COLD = 200 };

/* Bytes [lo, hi) off a pinned base register that one check has covered. */
struct rw_span {
    bool valid, write;
    bool shared;  /* later accesses rely on it */
    uint8_t base; /* host register */
    int32_t lo, hi;
    int32_t add; /* where the context holds the addend */
};
/* rw_loop.c: accesses of a loop that move alike, by their place relative to the registers as a round begins. */
struct rw_group {
    uint8_t base, index, scale; /* guest registers, as decoded */
    bool write;
    bool checked;                 /* each access has a check of its own: its page changes often ... */
    bool anyhow;                  /* ... or nobody knows when */
    int64_t lo, hi;               /* a position in the address space, without registers */
    int64_t by_base, by_index;    /* change per round, of base and of index * scale */
    bool base_stays, index_stays; /* nothing writes it */
};
enum rw_folded { RW_NOTHING, RW_BASE, RW_INDEX, RW_ADDRESS };
struct rw_loop {
    struct rw_group group[X86_LOOP_GROUPS];
    unsigned nr;
    uint8_t of[JIT_BLOCK_MAX_INSN]; /* group of each access */
    bool write, spilled;
    unsigned nr_cold;
    struct {
        uint8_t *from, *back;
        unsigned insn;
    } cold[JIT_BLOCK_MAX_INSN]; /* checks of the body */
};
/* GPR operands named by a field of the encoding; -1 = none. */
struct rw_gprs {
    int8_t reg, rm, vvvv, opc;
    int8_t high;      /* beside a memory operand, whose prefix leaves no place for AH..BH: the register they are in */
    uint8_t spilled;  /* how many of them live in the context */
    bool high8, low8; /* byte registers AH..BH; SPL..DIL */
    bool w_reg, w_rm, w_vvvv, w_opc;
};
struct rw {
    struct jit_buf *b;
    const struct x86_rw_env *env;
    struct jit_block_out *out;
    struct x86_insn *in; /* decoded block */
    unsigned nr, cur;
    unsigned nr_cold;
    bool m64, failed;
    bool no_leaf; /* they were too much */
    bool flat;    /* X86_RWM_FLAT */
    bool once;    /* the operand asked for is used once, with nothing near it */
    bool known;   /* the address asked for is a constant, known_at in its page and no access over the end of it */
    uint16_t known_at;
    uint8_t *away;    /* a jump to stubs->ret_miss that nobody falls into; NULL: none yet */
    uint8_t *join_at; /* rw_join; NULL: none */
    unsigned join_insn;
    bool polled;            /* for the next instruction, a jump back */
    int32_t sp;             /* flat: HSP is guest RSP - sp (rw_sp_settle) */
    bool keeps;             /* flat: R10 and R11 are in the host's (rw_keep.c) ... */
    unsigned keeps_to;      /* ... up to the jump back, this instruction; 0: no such loop */
    uint32_t keeps_at;      /* where that leads */
    uint32_t keeps_written; /* those of them to be stored behind it, a bit each */
    bool t1_zero;           /* flat: T1 is 0 (rw_home.c) */
    bool wide;              /* code that comes here has what ctx->wide_away is about in the host's registers */
    bool a32;               /* flat: the operand rw_access returned is to be used with an address-size prefix */
    /* rw_defer.c: the instruction whose flags are not made yet, or -1; the one before which they must be; what RSP has
     * moved since. */
    int pending, pending_next;
    unsigned make_at;
    int32_t moved;
    struct rw_span span[X86_SPANS];
    unsigned next_span;
    struct rw_loop *loop; /* its body is emitted: only T1 is free; NULL: none */
    /* T1 holds the addend that lies there in the context; 0: something else. by_base uses and sets it; whatever else
     * takes T1 clears it. */
    int32_t t1;

    /* From here on nothing is cleared: what is in use is as many as nr and nr_cold say. */
    uint16_t live[JIT_BLOCK_MAX_INSN]; /* arithmetic flags live before each instruction */
    uint16_t live_after[JIT_BLOCK_MAX_INSN];
    uint8_t how[JIT_BLOCK_MAX_INSN]; /* of those put off: how their flags are made */
    struct rw_gprs gprs[JIT_BLOCK_MAX_INSN + 1];
    struct x86_insn insn[JIT_BLOCK_MAX_INSN + 1];
    struct cold cold[MAX_COLD + 1]; /* the last one swallows what does not fit */
};

/* rw_mem.c */
/* Emits the check of an access of size bytes by the current instruction's memory operand and returns the host operand.
 * With *t0_free set on return T0 may be used by the caller after the check. */
struct jit_mem rw_access(struct rw *r, const struct x86_insn *in, unsigned size, bool write, bool *t0_free);
/* The same for [base + disp] on the stack, base a host register. */
struct jit_mem rw_stack(struct rw *r, unsigned base, int32_t disp, unsigned size, bool write, bool *t0_free);
/* A scratch register beside the host operand *m, which is reduced to one register where it must be. */
unsigned rw_scratch(struct rw *r, struct jit_mem *m, bool t0_free);
/* T0 = effective address (without segment base), for LEA; false when the form is not handled. */
bool rw_ea(struct rw *r, const struct x86_insn *in, unsigned dst);
void rw_address(struct rw *r, const struct x86_insn *in); /* T0 = linear address of the memory operand; T1 is lost */
struct jit_mem rw_at_t0(struct rw *r, unsigned size, bool write); /* the same for [T0] */
/* The same for [reg], reg a pinned register of 64-bit code; T1 holds the addend afterwards. */
struct jit_mem rw_at_reg(struct rw *r, unsigned reg, unsigned size, bool write);
bool rw_mem_ok(const struct rw *r, const struct x86_insn *in);
unsigned rw_map(unsigned guest_reg);
/* The code depends on bytes [first, last] of the block's page beyond its own. */
void rw_note_peek(struct rw *r, unsigned first, unsigned last);
void rw_cold(struct rw *r);
/* Leaves for *from where sum is not zero, by way of RCX, which T1 holds: it is the guest's again where that goes on.
 * sum_is_1: a sum that is 1 instead. */
uint8_t *rw_leave_unless_zero(struct rw *r, struct jit_mem sum, bool sum_is_1);
struct cold *rw_new_cold(struct rw *r, enum cold_kind k);

/* Before the current instruction: where it is one of AVX-512, what that needs is brought into the host's registers,
 * unless code that comes here has done so. */
void rw_wide(struct rw *r);

/* rw_home.c: guest R9 to R11, mapped as rw_map says. */
void rw_load_home(struct rw *r, unsigned dst, unsigned mapped);
void rw_store_home(struct rw *r, unsigned mapped, unsigned src); /* in user mode T1 is lost */
struct jit_mem rw_home(const struct rw *r, unsigned mapped);     /* the place itself, to be read */
struct jit_mem rw_home_to(struct rw *r, unsigned mapped);        /* to be written, too: as rw_store_home */
void rw_home_begin(struct rw *r);                                /* user mode, at the beginning of each instruction */

/* rw_keep.c */
void rw_keep_find(struct rw *r);  /* does the decoded block begin with such a loop? Instructions are classified so */
void rw_keep_begin(struct rw *r); /* before the first instruction: into the host's registers */
void rw_keep_out(struct rw *r);   /* and back */
void rw_keep_jcc(struct rw *r, const struct x86_insn *in);
void rw_keep_cold(struct rw *r, const struct cold *c);
/* Where a guest's register is. */
static inline unsigned rw_at(const struct rw *r, unsigned guest)
{
    return r->keeps && (guest == 10 || guest == 11) ? guest : rw_map(guest);
}

/* rw_flat_flow.c: RSP moves by so much. In 64-bit code of user mode a run of pushes and pops, and the call or return at
 * its end, moves HSP once, behind the last; what it still lacks is in the mark of each instruction, for faults. */
void rw_sp_add(struct rw *r, int32_t by);
void rw_sp_mark(struct rw *r);   /* at the beginning of each instruction */
void rw_sp_settle(struct rw *r); /* at its end */

/* rw_flat.c: user mode, where guest addresses are host addresses. */
/* The operand itself, as rw_access gives it back; r->a32 says whether it needs the prefix. */
struct jit_mem rw_flat_access(struct rw *r, const struct x86_insn *in, bool *t0_free);
/* Instructions that only user mode rewrites (string instructions, PUSHF, SYSCALL ...). */
static inline bool rw_is_flat_op(const struct rw *r, const struct x86_insn *in)
{
    return in->found & RW_FLAT_OP;
}
bool rw_find_flat_op(const struct rw *r, const struct x86_insn *in);
bool rw_flat_op(struct rw *r, const struct x86_insn *in);
/* rw_flat_flow.c: calls, returns, indirect jumps; the block ends. False: not one of them, or left to the interpreter.
 */
bool rw_flat_flow(struct rw *r, const struct x86_insn *in, bool *go_on);
void rw_jump_t0(struct rw *r); /* to T0, T1 = RCX: by the jump table */
/* jit_op_mem on an operand from rw_access. */
void rw_op_mem(struct rw *r, unsigned flags, unsigned opcode, unsigned reg, struct jit_mem m, unsigned imm_len);

/* rw_leaf.c */
void rw_take_leaf(struct rw *r); /* behind the call just decoded, where its function is one: decoded, too */
/* Jumps and the return of a leaf, of which the block goes on behind the call. */
void rw_leaf_flow(struct rw *r, const struct x86_insn *in);
void rw_leaf_cold(struct rw *r, const struct cold *c);
/* x86_rw_env.way, where it is asked. */
uint64_t rw_way(const struct rw *r, uint64_t pc, bool *count);
/* Counts for the jump `at` of the call `call` (or itself), where T1 = RCX: falls through with that in its place. */
struct cold *rw_count_way(struct rw *r, unsigned call, unsigned at);

/* rw_flow.c */
bool rw_is_jcc(const struct x86_insn *in); /* one that rw_flow handles */
/* Instructions that transfer control; true when it was handled (the block ends unless *go_on). */
bool rw_flow(struct rw *r, const struct x86_insn *in, bool *go_on);
void rw_exit_interp(struct rw *r, uint64_t pc);
/* Loads that fault when the vCPU is wanted; returns the offset of the second. Without a link that names it, the fault
 * restarts the present instruction. User mode has none: it steps to the start of an instruction. */
uint32_t rw_poll(struct rw *r);
/* What can be said of a conditional jump that follows, before the current instruction makes its flags. */
void rw_before_jcc(struct rw *r);
/* From here on to the jump of instruction `insn` code may be moved by a few bytes. */
static inline void rw_join(struct rw *r, unsigned insn)
{
    r->join_at = r->b->p;
    r->join_insn = insn;
}
/* RCX = sum, and where that is not zero a jump to what is patched in at the returned place, 127 bytes away at most. RCX
 * is lost, flags are not touched. LOOP falls through on the usual side, which spares the host a taken branch. */
uint8_t *rw_unless_zero(struct rw *r, struct jit_mem sum);
struct jit_mem rw_t0_less(struct rw *r, uint64_t v); /* the sum T0 - v, by way of RCX where that is large */
/* Looks T0 up in the context's jump table: falls through with T1 = its index when it is there; returns the miss, where
 * T1 is RCX. That waits in a register: the way through memory is longer than all the rest where a loop keeps something
 * in RCX. It is a poll, too: while the vCPU is wanted, the mask leads to an entry that holds nothing. */
uint8_t *rw_look_up(struct rw *r);
/* A call behind which blocks go on; does this block, at the current instruction? */
bool rw_is_call(const struct rw *r, const struct x86_insn *in);
bool rw_calls_on(const struct rw *r, const struct x86_insn *in);
/* The JMP rel32 that follows is the end of a NOP: nobody falls into it, and that costs less than to jump over it. */
void rw_hide_jmp(struct rw *r);
/* What a return to `ret` comes to, with T0 = where the guest returns, T1 = its RCX: the next block; with go_on, the
 * code that follows. */
void rw_continuation(struct rw *r, uint64_t ret, bool go_on);
struct jit_link_out *rw_new_link(struct rw *r, uint64_t target, enum jit_link_kind kind); /* NULL: too many */
/* cc: the condition for JIT_LINK_JCC. */
void rw_link_jmp(struct rw *r, uint64_t target, enum jit_link_kind kind, unsigned cc);
/* The block goes on here, behind a call to which ret is where it returns: when it dies the byte `at` becomes `dead`. */
void rw_goes_on(struct rw *r, uint64_t ret, const uint8_t *at, unsigned dead);

void rw_classify(const struct rw *r, struct x86_insn *in, struct rw_gprs *g); /* in->found, *g */
uint32_t rw_flags_written(const struct x86_insn *in);                         /* for certain */

/* rw_copy.c */
static inline const struct rw_gprs *rw_gprs(const struct rw *r, const struct x86_insn *in)
{
    return &r->gprs[in - r->in];
}
static inline unsigned rw_spilled(const struct rw *r, const struct x86_insn *in) /* GPR operands in the context */
{
    return rw_gprs(r, in)->spilled;
}
static inline bool rw_can_copy(const struct rw *r, const struct x86_insn *in)
{
    return in->found & RW_CAN_COPY;
}
bool rw_find_can_copy(const struct rw *r, const struct x86_insn *in, struct rw_gprs *g);       /* fills in *g */
bool rw_find_as_it_is(const struct rw *r, const struct x86_insn *in, const struct rw_gprs *g); /* one that can */
bool rw_copy(struct rw *r, const struct x86_insn *in);
bool rw_reads_home(const struct rw *r, const struct x86_insn *in);      /* one register, as a memory operand */
void rw_copy_by(struct rw *r, const struct x86_insn *in, unsigned tmp); /* one without memory; only T0 or T1 is free */
bool rw_stack_op(struct rw *r, const struct x86_insn *in);
static inline bool rw_is_stack_op(const struct rw *r, const struct x86_insn *in)
{
    return in->found & RW_STACK_OP;
}
bool rw_find_stack_op(const struct rw *r, const struct x86_insn *in);
/* Emits the current instruction and the next behind the latter's check, where only what lies between needs the flags.
 * False: this is no such pair. */
bool rw_pair(struct rw *r);
/* Emits a run of register pushes or pops behind one check. Returns how many instructions it took, 0 = no run here. */
unsigned rw_stack_run(struct rw *r);

/* rw_span.c */
/* The span that covers an access; NULL = none. */
struct rw_span *rw_span_find(struct rw *r, unsigned base, int32_t disp, unsigned size, bool write);
/* A span for this access and those that follow it; the caller checks it and gives it a slot of its own. */
struct rw_span *rw_span_new(struct rw *r, unsigned base, int32_t disp, unsigned size, bool write);
void rw_span_after(struct rw *r, const struct x86_insn *in); /* what the emitted instruction does to the spans */
void rw_span_forget(struct rw *r);                           /* no check made so far holds from here on */

uint32_t rw_writes(const struct x86_insn *in); /* GPRs it may write, as a bit mask */
/* Constant change of RSP by the instruction; false: it may change otherwise (or not at all: *by is 0). */
bool rw_rsp_change(const struct x86_insn *in, int32_t *by);

/* rw_loop.c */
/* Is the block up to the jump `last` a loop that can do without checks? The block has been decoded and its liveness is
 * known. */
bool rw_loop_find(const struct rw *r, unsigned last, struct rw_loop *l);
void rw_loop_cut(struct rw *r);   /* leaves of the decoded block what belongs to the loop */
void rw_loop_block(struct rw *r); /* emits the variant X86_RWM_LOOP behind the guard */
struct jit_mem rw_loop_access(struct rw *r, const struct x86_insn *in); /* rw_access in its body */

/* rw_defer.c */
/* Is the current instruction one whose flags are better made later? pending_next and make_at say so then. True: it need
 * not be emitted at all now. */
bool rw_defer(struct rw *r);
/* Emits what makes the flags of instruction i, by way of tmp (T0 or T1; the other is kept). */
void rw_make_flags(struct rw *r, unsigned i, int32_t moved, unsigned tmp);
void rw_pending_flags(struct rw *r); /* makes them now if they are pending */

/* rw_string.c */
static inline bool rw_is_string(const struct rw *r, const struct x86_insn *in)
{
    return in->found & RW_STRING;
}
bool rw_find_string(const struct rw *r, const struct x86_insn *in);
void rw_string(struct rw *r, const struct x86_insn *in);

/* rw_sys.c: the same for common system instructions; rw_sys false: leave it to the interpreter. */
static inline bool rw_is_sys(const struct rw *r, const struct x86_insn *in)
{
    return in->found & RW_SYS;
}
bool rw_find_sys(const struct rw *r, const struct x86_insn *in);
bool rw_sys(struct rw *r, const struct x86_insn *in);

static inline uint64_t rw_pc(const struct rw *r, unsigned i)
{
    return jit_off_place(r->env->pc, r->out->peek_by, jit_off_of(r->out->guest_off[i]));
}
static inline bool rw_has_leaf(const struct rw *r)
{
    return r->flat && r->out->peek_last;
}
/* An instruction of a leaf (x86_rw_env.reach), its return included? */
static inline bool rw_of_leaf(const struct rw *r, unsigned i)
{
    return i < r->nr && r->out->guest_off[i] & JIT_OFF_PEEK;
}
/* Are there flags in the host's register that must not be lost? */
static inline bool rw_flags_live(const struct rw *r)
{
    return r->pending < 0 && r->live[r->cur] & X86_ARITH;
}

#endif
