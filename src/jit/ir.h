/* The superblock IR: what the AArch64, Arm and RISC-V front ends emit and the x86-64 back end compiles. Knows no guest.
 *
 * A superblock is a list of ops with one entry, side exits, and no joins but SKIP_IF .. LABEL. Each op makes at most
 * one value, named by its index; values are typed and never change. Guest state lives in a context block (GS points at
 * it) and is read and written explicitly by byte offset. A front end declares which offsets the back end keeps in host
 * registers (pins); a pinned offset is always accessed with the full type of its class (I64, or V128), others always
 * with one offset and type per place (no partial overlaps).
 *
 * Precise state: every op marked M or X in ir.def, and CALL, may leave the block; then guest state is what the PUTs
 * before it in program order made it, and the guest pc is that of the last INSN marker. So an instruction does its
 * faulting accesses before its PUTs (or its PUTs are harmless when it is executed again).
 *
 * Flags: FLAGS values are Arm NZCV (C after a subtraction = no borrow). FL_PUT is cheap: the back end keeps host flags
 * where it can and materialises late. An exit whose target is known to overwrite NZCV before it reads it says so
 * (ir_flags_dead).
 *
 * Floating point: MXCSR holds the guest's rounding, flush bits and sticky exceptions while translated code runs.
 *
 * Emitting: ir_begin; per instruction ir_insn, then ops; ir_finish with the bytes covered. Overflow is sticky (full);
 * ask ir_room at instruction boundaries. A block must end with an exit that is not conditional. */
#ifndef JIT_IR_H
#define JIT_IR_H

#include "jit/block.h"
#include "jit/x64.h"

#include <stdatomic.h>
#include <stdio.h>

enum ir_opcode {
#define IR_OP(name, n, eff, doc) IR_##name,
#include "jit/ir.def"
#undef IR_OP
    IR_NR_OPS
};
enum ir_type { IR_VOID, IR_I32, IR_I64, IR_F32, IR_F64, IR_V128, IR_FLAGS };
enum ir_lane { IR_B, IR_H, IR_S, IR_D };
enum ir_cond { IR_EQ, IR_NE, IR_LTU, IR_GEU, IR_LEU, IR_GTU, IR_LTS, IR_GES, IR_LES, IR_GTS, IR_TSTZ, IR_TSTNZ };
/* TSTZ: (a & b) == 0 */
enum ir_fcond { IR_FEQ, IR_FLT, IR_FLE, IR_FUN /* unordered */, IR_FGT, IR_FGE };
enum ir_round { IR_RNE, IR_RTZ, IR_RDN, IR_RUP, IR_RNA /* nearest, ties away */, IR_RDYN = 7 /* MXCSR */ };
enum { IR_DIV0_ZERO = 0, IR_DIV0_ONES = 1 };
enum { IR_MM_NUM = 0, IR_MM_NAN = 1, IR_MM_RISCV = 2 /* FMIN, FMAX only: even a signalling NaN loses */ };
/* Memory operand byte. */
enum {
    IR_M8,
    IR_M16,
    IR_M32,
    IR_M64,
    IR_M128,
    IR_MSIZE = 7,
    IR_MSIGN = 8,    /* sign-extend what is loaded */
    IR_MSWAP = 16,   /* bytes in reverse order */
    IR_MREL = 32,    /* store: sequentially consistent with later loads (Arm STLR); atomics always are */
    IR_MATOMIC = 64, /* 16 bytes: one access (address aligned) */
    IR_MALIGN = 128  /* unaligned addresses leave with IR_CODE_ALIGN */
};
enum { IR_CODE_ALIGN = 255 }; /* exit code of IR_MALIGN */
enum {
    IR_CALL_PURE = 0,  /* the function sees no guest state; everything is kept */
    IR_CALL_STATE = 1, /* guest state is in the context before, and taken from it again after */
    IR_CALL_LEAVES = 2 /* with STATE: result I64 not 0 = leave with that code - 1, at the current instruction */
};
enum ir_nan {
    IR_NAN_DEFAULT /* RISC-V, Arm with DN: results are the positive quiet NaN */,
    IR_NAN_ARM /* operand order, quieted */
};

typedef uint16_t ir_val;
enum { IR_NO = 0xffff, IR_MAX_OPS = 4000 };
struct ir_op {
    uint8_t op, t, attr;
    uint8_t dead; /* exits: NZCV is dead there */
    ir_val a[4];
    ir_val gf; /* forwarded: the value that the guest's NZCV is before the op, IR_NO: not known */
    int64_t imm;
    uint64_t imm2;
};
enum { IR_KNOWN_SLOTS = 256 };
struct ir_known { /* see ir_opt.c */
    uint16_t gen;
    uint64_t slot[IR_KNOWN_SLOTS];
};
struct ir { /* zeroed before the first ir_begin */
    struct ir_op op[IR_MAX_OPS];
    unsigned nr;
    bool full;
    bool next_dead; /* see ir_flags_dead */
    uint64_t pc;    /* of the block */
    uint32_t guest_len;
    uint16_t peek_first, peek_last; /* see ir_peek; 0, 0: none */
    /* The owner's, which ir_begin keeps: blocks may go on behind calls (ir_call_on); ops are forwarded as they are
     * built, so that a GET of what is known makes none (nobody changes an op afterwards). */
    bool calls_on, forwards;
    bool put_since_skip;      /* and the rest of what forwarding knows: */
    ir_val flags, skip_flags; /* NZCV, IR_NO: not known; at the last SKIP */
    struct ir_known state, over;
};

/* --- Building --- */
void ir_begin(struct ir *s, uint64_t pc);
void ir_insn(struct ir *s, uint64_t pc);
/* guest_len: bytes the block was made from. False: it did not fit (try fewer instructions). */
bool ir_finish(struct ir *s, uint32_t guest_len);
/* True while another guest instruction of up to n ops fits. */
static inline bool ir_room(const struct ir *s, unsigned n)
{
    return s->nr + n < IR_MAX_OPS && !s->full;
}
ir_val ir_emit(struct ir *s, enum ir_opcode op, enum ir_type t, unsigned attr, ir_val a, ir_val b, ir_val c,
               int64_t imm);
static inline enum ir_type ir_type_of(const struct ir *s, ir_val v)
{
    return (enum ir_type)s->op[v].t;
}
/* The block depends on the bytes at guest addresses first to last too, which lie in its first page. */
void ir_peek(struct ir *s, uint64_t first, uint64_t last);
/* The next exit emitted goes where NZCV is dead. */
static inline void ir_flags_dead(struct ir *s)
{
    s->next_dead = true;
}

ir_val ir_const(struct ir *s, enum ir_type t, uint64_t v);
#define ir_c64(s, v) ir_const((s), IR_I64, (uint64_t)(v))
#define ir_c32(s, v) ir_const((s), IR_I32, (uint32_t)(v))
static inline ir_val ir_vconst(struct ir *s, uint64_t low, bool both)
{
    return ir_emit(s, IR_VCONST, IR_V128, both, IR_NO, IR_NO, IR_NO, (int64_t)low);
}
ir_val ir_get(struct ir *s, enum ir_type t, size_t off);
void ir_put(struct ir *s, size_t off, ir_val v);
/* Most ops: ir_un(s, IR_NOT, a) - t is a's type; ir_bin, ir_tri alike. With attr and imm: the _x forms. _t: with type
 * t. */
static inline ir_val ir_un(struct ir *s, enum ir_opcode op, ir_val a)
{
    return ir_emit(s, op, ir_type_of(s, a), 0, a, IR_NO, IR_NO, 0);
}
static inline ir_val ir_un_t(struct ir *s, enum ir_opcode op, enum ir_type t, ir_val a)
{
    return ir_emit(s, op, t, 0, a, IR_NO, IR_NO, 0);
}
static inline ir_val ir_un_x(struct ir *s, enum ir_opcode op, enum ir_type t, unsigned attr, ir_val a, int64_t imm)
{
    return ir_emit(s, op, t, attr, a, IR_NO, IR_NO, imm);
}
static inline ir_val ir_bin(struct ir *s, enum ir_opcode op, ir_val a, ir_val b)
{
    return ir_emit(s, op, ir_type_of(s, a), 0, a, b, IR_NO, 0);
}
static inline ir_val ir_bin_x(struct ir *s, enum ir_opcode op, enum ir_type t, unsigned attr, ir_val a, ir_val b,
                              int64_t imm)
{
    return ir_emit(s, op, t, attr, a, b, IR_NO, imm);
}
static inline ir_val ir_tri(struct ir *s, enum ir_opcode op, ir_val a, ir_val b, ir_val c)
{
    return ir_emit(s, op, ir_type_of(s, a), 0, a, b, c, 0);
}
static inline ir_val ir_tri_x(struct ir *s, enum ir_opcode op, enum ir_type t, unsigned attr, ir_val a, ir_val b,
                              ir_val c, int64_t imm)
{
    return ir_emit(s, op, t, attr, a, b, c, imm);
}
/* With a constant right side of a's type. */
static inline ir_val ir_bin_i(struct ir *s, enum ir_opcode op, ir_val a, uint64_t b)
{
    return ir_bin(s, op, a, ir_const(s, ir_type_of(s, a), b));
}
#define ir_trunc(s, a) ir_un_t((s), IR_TRUNC, IR_I32, (a))
#define ir_zext(s, a)  ir_un_t((s), IR_ZEXT, IR_I64, (a))
#define ir_sext(s, a)  ir_un_t((s), IR_SEXT, IR_I64, (a))
static inline ir_val ir_ubfx(struct ir *s, ir_val a, unsigned pos, unsigned len)
{
    return ir_un_x(s, IR_UBFX, ir_type_of(s, a), len, a, pos);
}
static inline ir_val ir_sbfx(struct ir *s, ir_val a, unsigned pos, unsigned len)
{
    return ir_un_x(s, IR_SBFX, ir_type_of(s, a), len, a, pos);
}
static inline ir_val ir_bfi(struct ir *s, ir_val a, ir_val b, unsigned pos, unsigned len)
{
    return ir_bin_x(s, IR_BFI, ir_type_of(s, a), len, a, b, pos);
}
static inline ir_val ir_cmp(struct ir *s, enum ir_cond cc, ir_val a, ir_val b)
{
    return ir_bin_x(s, IR_CMP, IR_I32, cc, a, b, 0);
}
static inline ir_val ir_select(struct ir *s, ir_val cond, ir_val a, ir_val b)
{
    return ir_tri_x(s, IR_SELECT, ir_type_of(s, a), 0, cond, a, b, 0);
}

/* Memory. t: I32, I64, F32, F64 or V128. */
static inline ir_val ir_load(struct ir *s, enum ir_type t, unsigned mop, ir_val addr, int64_t disp)
{
    return ir_un_x(s, IR_LOAD, t, mop, addr, disp);
}
static inline void ir_store(struct ir *s, unsigned mop, ir_val addr, int64_t disp, ir_val v)
{
    ir_bin_x(s, IR_STORE, ir_type_of(s, v), mop, addr, v, disp);
}
static inline ir_val ir_atomic(struct ir *s, enum ir_opcode op, enum ir_type t, unsigned mop, ir_val addr, ir_val v)
{
    return ir_bin_x(s, op, t, mop, addr, v, 0);
}
static inline ir_val ir_cas(struct ir *s, enum ir_type t, unsigned mop, ir_val addr, ir_val old, ir_val new_v)
{
    return ir_tri_x(s, IR_CAS, t, mop, addr, old, new_v, 0);
}
ir_val ir_cas_if(struct ir *s, unsigned mop, ir_val addr, ir_val cond, ir_val old, ir_val new_v);

/* Flags. */
static inline void ir_fl_put(struct ir *s, ir_val f)
{
    ir_emit(s, IR_FL_PUT, IR_VOID, 0, f, IR_NO, IR_NO, 0);
}
static inline ir_val ir_fl_get(struct ir *s)
{
    if (s->forwards && s->flags != IR_NO)
        return s->flags;
    return ir_emit(s, IR_FL_GET, IR_FLAGS, 0, IR_NO, IR_NO, IR_NO, 0);
}
/* op: FL_ADD .. FL_NZC, FL_FCMP, FL_BITS; absent arguments IR_NO. */
static inline ir_val ir_fl(struct ir *s, enum ir_opcode op, ir_val a, ir_val b, ir_val c)
{
    return ir_emit(s, op, IR_FLAGS, 0, a, b, c, 0);
}
static inline ir_val ir_fl_cond(struct ir *s, ir_val f, unsigned armcond)
{
    return ir_un_x(s, IR_FL_COND, IR_I32, armcond, f, 0);
}
static inline ir_val ir_fl_select(struct ir *s, ir_val f, unsigned armcond, ir_val a, ir_val b)
{
    return ir_tri_x(s, IR_FL_SELECT, ir_type_of(s, a), armcond, f, a, b, 0);
}
static inline ir_val ir_fl_ccmp(struct ir *s, ir_val f, unsigned armcond, bool add, ir_val a, ir_val b, unsigned nzcv)
{
    return ir_tri_x(s, IR_FL_CCMP, IR_FLAGS, armcond | (add ? 16u : 0u), f, a, b, nzcv);
}

/* The same, but f itself where it does not meet the condition. Not an addition with HI or LS. */
static inline ir_val ir_fl_cond_cmp(struct ir *s, ir_val f, unsigned armcond, bool add, ir_val a, ir_val b)
{
    return ir_tri_x(s, IR_FL_CCMP, IR_FLAGS, armcond | (add ? 48u : 32u), f, a, b, 0);
}

/* Control. */
static inline void ir_exit(struct ir *s, uint64_t pc)
{
    ir_emit(s, IR_EXIT, IR_VOID, 0, IR_NO, IR_NO, IR_NO, (int64_t)pc);
}
static inline void ir_exit_if(struct ir *s, enum ir_cond cc, ir_val a, ir_val b, uint64_t pc)
{
    ir_emit(s, IR_EXIT_IF, ir_type_of(s, a), cc, a, b, IR_NO, (int64_t)pc);
}
static inline void ir_exit_if_fl(struct ir *s, ir_val f, unsigned armcond, uint64_t pc)
{
    ir_emit(s, IR_EXIT_IF_FL, IR_VOID, armcond, f, IR_NO, IR_NO, (int64_t)pc);
}
void ir_exit_call(struct ir *s, uint64_t target, uint64_t ret);
void ir_exit_call_ind(struct ir *s, ir_val target, uint64_t ret);
/* The same, and the block goes on with what is at ret. */
void ir_call_on(struct ir *s, uint64_t target, uint64_t ret);
void ir_call_on_ind(struct ir *s, ir_val target, uint64_t ret);
static inline void ir_exit_ret(struct ir *s, ir_val target)
{
    ir_emit(s, IR_EXIT_RET, IR_VOID, 0, target, IR_NO, IR_NO, 0);
}
static inline void ir_exit_ind(struct ir *s, ir_val target)
{
    ir_emit(s, IR_EXIT_IND, IR_VOID, 0, target, IR_NO, IR_NO, 0);
}
/* The last op is a conditional exit to the block's start: what follows is behind the loop, better a block of its own.
 */
static inline bool ir_closed_loop(const struct ir *s)
{
    const struct ir_op *o = s->nr ? &s->op[s->nr - 1] : NULL;

    return o && (o->op == IR_EXIT_IF || o->op == IR_EXIT_IF_FL) && (uint64_t)o->imm == s->pc;
}
/* The runtime gets (code, pc); code < 200. */
static inline void ir_exit_code(struct ir *s, unsigned code, uint64_t pc)
{
    ir_emit(s, IR_EXIT_CODE, IR_VOID, code, IR_NO, IR_NO, IR_NO, (int64_t)pc);
}
static inline void ir_skip_if(struct ir *s, ir_val cond)
{
    ir_emit(s, IR_SKIP_IF, IR_VOID, 0, cond, IR_NO, IR_NO, 0);
}
static inline void ir_skip_if_fl(struct ir *s, ir_val f, unsigned armcond)
{
    ir_emit(s, IR_SKIP_IF_FL, IR_VOID, armcond, f, IR_NO, IR_NO, 0);
}
static inline void ir_label(struct ir *s)
{
    ir_emit(s, IR_LABEL, IR_VOID, 0, IR_NO, IR_NO, IR_NO, 0);
}
/* A C function uint64_t fn(void *ctx, uint64_t a, b, c, d), or one with fewer parameters. It runs with the guest's
 * MXCSR. t: the result's type, IR_VOID I32 I64. */
ir_val ir_call(struct ir *s, enum ir_type t, unsigned how, void *fn, ir_val a, ir_val b, ir_val c, ir_val d);

/* --- Looking and checking --- */
extern const char *const ir_op_names[IR_NR_OPS];
/* NULL: sound; else what is wrong (static text), *at its op. */
const char *ir_verify(const struct ir *s, unsigned *at);
void ir_print(const struct ir *s, FILE *f);

/* --- The context block: head of what GS points at. The front end's state follows it. --- */
union ir_vec {
    uint8_t b[16];
    uint16_t h[8];
    uint32_t s[4];
    uint64_t d[2];
    float f[4];
    double g[2];
};
enum {
    IR_JC_BITS = 12,
    IR_JC_SIZE = 1 << IR_JC_BITS,
    IR_SPILLS = 64,
    IR_VSPILLS = 32,
    IR_MAX_MOVED = 12, /* a multiple of 4 */
    IR_MOVED_NONE = 0x7f,
    IR_MOVED_PIN = 7, /* bit */
    IR_MOVED_VEC = 0x4000,
    IR_MOVED_ONE = 0x8000
};
struct ir_jc {
    uint64_t pc; /* empty: ~0 */
    const uint8_t *host;
};
struct ir_ctx {
    struct ir_ctx *self;
    _Atomic uintptr_t poll; /* &poll_ok, or an unmapped address to make the next poll fault */
    uint64_t poll_ok;
    uint64_t host_rsp, ss_rsp; /* the shadow stack pointer while outside */
    uint64_t ss_top;           /* where an empty shadow stack is */
    uint64_t t0, t1;           /* at exit: guest pc, detail (link number or code) */
    struct jit_outside out;    /* the owner's */
    const uint8_t *enter_target;
    uint32_t host_mxcsr, mxcsr; /* mxcsr: the guest's, while outside */
    uint64_t flags;             /* NZCV packed, see ir_nzcv_of; while outside always current */
    uint32_t nan32;             /* constants of translated code: ir_ctx_init */
    uint64_t nan64;
    uint64_t save_rsp, save_gpr[10];
    union ir_vec save_vec[16], konst[8];
    struct ir_op eval; /* op and immediates of an op done by ir_eval_op on arg[] */
    uint64_t spill[IR_SPILLS];
    union ir_vec vspill[IR_VSPILLS], arg[4];
    /* While a loop runs with other state in some pins (ir_loop.c): which, and what the pins held. Four moves a word, 0:
     * none; of each, lowest first, what the pin holds, the pin's offset, both / 8 from the end of this head, its class.
     */
    uint64_t moved[IR_MAX_MOVED / 4];
    union ir_vec moved_save[IR_MAX_MOVED];
    struct ir_jc jc[IR_JC_SIZE];
};
/* After IR_EXIT_BY_SIGNAL, unless translated code is entered again where it was left: puts the state where it belongs.
 * mark: jit_block_mark of where the signal came, eflags: the host's there. */
enum { IR_MARK_FLAGS = 1 /* NZCV are in EFLAGS, CF is C */, IR_MARK_FLAGS_INV = 2 /* CF is not C */ };
void ir_fix(struct ir_ctx *ctx, unsigned mark, uint64_t eflags);
/* Sets everything but the guest's part of the block. */
void ir_ctx_init(struct ir_ctx *ctx);
static inline unsigned ir_jc_hash(uint64_t pc)
{
    return (unsigned)(pc >> 1) & (IR_JC_SIZE - 1);
}
/* Every 64-bit number may be jumped to, so none stands for nothing: an empty place holds an address whose place is
 * another. */
static inline void ir_jc_clear(struct ir_ctx *ctx)
{
    for (uint64_t i = 0; i < IR_JC_SIZE; i++)
        ctx->jc[i].pc = (i ^ 1) << 1;
}
/* Packed flags: bit 15 N, 14 Z, 8 C (all in AH of LAHF), bit 0 V. */
static inline uint32_t ir_nzcv_of(uint64_t packed) /* in bits 31 to 28 */
{
    return (packed & 0x8000 ? 8u << 28 : 0) | (packed & 0x4000 ? 4u << 28 : 0) | (packed & 0x100 ? 2u << 28 : 0) |
           (packed & 1 ? 1u << 28 : 0);
}
static inline uint64_t ir_flags_of(uint32_t nzcv)
{
    return (nzcv >> 31 & 1) << 15 | (nzcv >> 30 & 1) << 14 | (nzcv >> 29 & 1) << 8 | (nzcv >> 28 & 1);
}

/* --- Compiling --- */
/* One pinned piece of guest state. reg: enum jit_reg (never RSP) for GPRs, 0-15 for vectors. At least RAX, RDX, RCX,
 * one more GPR and xmm12-15 stay free. */
struct ir_pin {
    uint32_t off;
    uint8_t reg;
    bool vec;
};
enum { IR_PIN_SLOTS = 128 };
struct ir_pin_map { /* which pin has an offset */
    const struct ir_pin *pin;
    unsigned nr;
    uint32_t regs;            /* pinned: GPRs in bits 0 to 15, vectors above */
    uint8_t at[IR_PIN_SLOTS]; /* number of a pin + 1, 0: none */
};
struct ir_stubs {               /* run addresses */
    const uint8_t *enter;       /* C: unsigned enter(void): GS = context; guest state in; jumps to enter_target; returns
                                   enum ir_why */
    const uint8_t *exit_code;   /* leaves: t0 = pc (in RDX), t1 = code (in RAX) */
    const uint8_t *exit_link;   /* RAX = link number */
    const uint8_t *exit_pc;     /* RDX = pc: no block known there */
    const uint8_t *exit_signal; /* entered from the signal handler */
    const uint8_t *jump;        /* RDX = pc: table of indirect targets */
    const uint8_t *ret_bottom;  /* what the lowest word of the shadow stack returns to */
    const uint8_t *call_pure, *call_state, *eval;
    struct ir_pin_map pins; /* of the environment they were made for */
};
enum ir_why { IR_EXIT_TO_PC, IR_EXIT_TO_LINK, IR_EXIT_WITH_CODE, IR_EXIT_BY_SIGNAL };
struct ir_env {
    const struct ir_pin *pin;
    unsigned nr_pins;
    bool loops;  /* the owner calls ir_fix: loops may move state between pins, flags may stay in EFLAGS over accesses */
    bool addr32; /* addresses are taken modulo 2^32 */
    bool narrow; /* no AVX-512 though the host has it */
    enum ir_nan nan;
    const struct ir_stubs *stubs;
    uint32_t first_link; /* number of link 0 in the cache */
};
/* NULL: this host can run compiled IR; else what it lacks. */
const char *ir_host_lacks(void);
/* Emits the shared stubs; run once per cache, into the arena's start. */
bool ir_make_stubs(struct jit_buf *b, const struct ir_env *env, struct ir_stubs *out);
/* Optimises s in place and compiles it. False: too big for the buffer or for out (halve the block). */
bool ir_compile(struct jit_buf *b, struct ir *s, const struct ir_env *env, struct jit_block_out *out);

/* --- Reference semantics --- */
/* One pure op (P or F) on 128-bit operands; scalars in the low bits; FLAGS as bits 31-28 of s[0]. Rounds and raises by
 * the thread's MXCSR. The back end calls it for ops it has no code for. */
void ir_eval_op(const struct ir_op *op, enum ir_nan nan, const union ir_vec *a, union ir_vec *r);

#endif
