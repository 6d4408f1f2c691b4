/* Shared by the parts of the IR compiler: passes, allocation, code. */
#ifndef JIT_IR_INT_H
#define JIT_IR_INT_H

#include "jit/ir.h"

extern const char ir_op_effect[IR_NR_OPS]; /* the letter of ir.def */
unsigned ir_op_nargs(enum ir_opcode op);
static inline bool ir_is_vec(unsigned t)
{
    return t == IR_F32 || t == IR_F64 || t == IR_V128;
}

/* ir_opt.c. Folding, forwarding of guest state, removal of what is not seen. Ops become NOP, never move. */
struct ir_flow {
    uint16_t (*next)[4]; /* next op that uses the argument's value again, 0xffff = none */
    uint16_t *first;     /* first use of the op's value, 0xffff = none */
    bool *fl_live;       /* the guest's NZCV is read after this op before it is replaced; not at INSN, CONST and NOP */
    bool closes;         /* an exit goes to the block's start */
    uint16_t *put;       /* the PUTs that are left, the last first; before: room for the passes */
    unsigned nr_puts;
    bool *all_flags;
    uint16_t *live; /* the ops that are left, in order: live[first_live] to live[nr - 1] */
    unsigned first_live;
};
/* Simplifies op n, the last so far, whose arguments are; returns the value that stands for it, mostly its own. */
ir_val ir_forward(struct ir *s, unsigned n);
void ir_forward_begin(struct ir *s);
/* What is known about pieces of guest state, found by their offset. A piece that takes another's place makes it
 * forgotten, which is always safe; so is forgetting all, by a new generation. A slot is one word: the offset in its
 * upper half, then the generation, then forward: the value, backward: the type it is replaced with. */
static inline uint64_t *ir_known_slot(struct ir_known *k, int64_t off)
{
    return &k->slot[off >> 3 & (IR_KNOWN_SLOTS - 1)];
}
static inline uint64_t ir_known_key(const struct ir_known *k, int64_t off)
{
    return (uint64_t)off << 16 | k->gen;
}
static inline void ir_known_learn(struct ir_known *k, int64_t off, unsigned v)
{
    *ir_known_slot(k, off) = ir_known_key(k, off) << 16 | v;
}
static inline unsigned ir_known_look(struct ir_known *k, int64_t off) /* IR_NO: nothing */
{
    uint64_t x = *ir_known_slot(k, off);

    return x >> 16 == ir_known_key(k, off) ? (uint16_t)x : IR_NO;
}
void ir_optimise(struct ir *s, struct ir_flow *f); /* fills f */
static inline bool ir_is_final(unsigned op)
{
    return op == IR_EXIT || (op >= IR_EXIT_CALL && op <= IR_EXIT_CODE);
}
/* It has at most one argument, its first. */
static inline bool ir_one_arg(const struct ir_op *o)
{
    uint64_t all;

    memcpy(&all, o->a, sizeof all);
    return all >> 16 == UINT64_MAX >> 16;
}
static inline bool ir_two_args(const struct ir_op *o) /* at most, the first ones */
{
    uint64_t all;

    memcpy(&all, o->a, sizeof all);
    return all >> 32 == UINT64_MAX >> 32;
}
static inline bool ir_has_args(const struct ir_op *o)
{
    uint64_t all;

    memcpy(&all, o->a, sizeof all);
    return all != UINT64_MAX;
}
static inline bool ir_is_call_on(unsigned op)
{
    return op == IR_CALL_ON || op == IR_CALL_ON_IND;
}
static inline bool ir_is_skip(unsigned op)
{
    return op == IR_SKIP_IF || op == IR_SKIP_IF_FL;
}
static inline bool ir_is_link(unsigned op)
{
    return op == IR_EXIT || op == IR_EXIT_IF || op == IR_EXIT_IF_FL;
}

/* An F32 or F64 whose register holds zeros above it (ir_fp.c). */
bool ir_zero_above(const struct ir *s, ir_val v);

/* Registers: 0-15 the host's GPRs, 16-31 XMM. */
enum { XMM0 = 16, NR_REGS = 32 };
enum loc {
    L_NONE,
    L_REG /* a temporary of its own */,
    L_PIN /* the same as a pinned register */,
    L_SPILL,
    L_CONST,
    L_HOME /* the same as context memory */,
    L_EFLAGS
};
struct irv {
    uint8_t loc, reg, inv; /* inv, L_EFLAGS: CF is not C */
    int8_t spill;          /* slot that holds it too, -1 = none */
    uint16_t next;         /* next use */
    int32_t home;
    int32_t also; /* L_REG: context memory holds it too, 0 = none */
};
enum cold_what { COLD_LINKEXIT, COLD_CODE, COLD_LEAVES, COLD_EVAL, COLD_CNAN, COLD_CALL, COLD_FLAGS, COLD_EXIT };
struct ir_cold {
    enum cold_what what;
    uint8_t *from, *back; /* rel32 to bind; where to go on */
    uint32_t n;           /* link, code, op, packed flags */
    uint64_t pc;
    uint8_t reg[4], dst; /* COLD_EXIT: reg[0] says that CF is not C */
};
enum { IR_MAX_COLD = 400, IR_MAX_PINS = 32 };
struct irc {
    struct jit_buf *b;
    struct ir *s;
    const struct ir_env *env;
    struct jit_block_out *out;
    uint16_t reg[NR_REGS]; /* value in a temporary; IR_NO = free */
    uint32_t pinned;       /* mask */
    uint32_t lock;         /* registers the current op is using */
    uint32_t zero;         /* mask of the temporary that is known to be zero (ir_zero), 0: none */
    uint64_t spill_used, vspill_used;
    const struct ir_pin_map *pins;
    unsigned cur;  /* op */
    unsigned pair; /* 1: the next op is made by the same host instruction */
    unsigned nr_alias;
    ir_val ef_logic; /* EFLAGS are those of a logic instruction that made this value */
    uint64_t pc;     /* guest instruction */
    ir_val ef;       /* FLAGS value in EFLAGS, IR_NO = none */
    ir_val gf;       /* FLAGS value that is the guest's, IR_NO = what the context holds */
    bool gf_saved;   /* the context holds gf */
    uint8_t *skip_from;
    struct { /* at SKIP_IF_FL; ef IR_NO: flags were saved */
        ir_val ef, gf;
        bool inv, saved;
        uint8_t loc;
        int32_t home;
    } skip;
    unsigned mark; /* of the current piece of host code */
    unsigned nr_cold;
    bool failed;
    unsigned nr_moved; /* ir_loop.c */
    uint32_t loop_at;  /* offset of the loop's start behind the moves; 0: none */
    /* One piece of memory, by number of ops: */
    struct ir_flow f;
    struct irv *v;
    int16_t *hint;        /* pinned register the value should be made in, -1 = none */
    struct ir_cold *cold; /* IR_MAX_COLD and one that swallows what does not fit */
    /* Up to here zero at the beginning; what follows is counted above. */
    ir_val alias[256]; /* values that are the same as a pin or home */
    struct {
        struct ir_pin pin;
        uint32_t off; /* what the pin's register holds in the loop; 0: nothing */
        bool put;     /* and is changed there */
    } moved[IR_MAX_MOVED];
    struct ir_env loop_env;
    struct ir_pin_map loop_pins;
    struct ir_pin loop_pin[IR_MAX_PINS];
};
#define IRX(f)     ((int32_t)offsetof(struct ir_ctx, f))
#define GSX(f)     JIT_GS(IRX(f))
#define IR_ARGX(n) JIT_GS(IRX(arg) + 16 * (int)(n))

/* ir_alloc.c */
static inline bool ir_live(const struct irc *c, ir_val v) /* used after the current op */
{
    unsigned at = c->cur + c->pair;

    for (unsigned i = 0; i < 4; i++)
        if (c->s->op[at].a[i] == v)
            return c->f.next[at][i] != IR_NO;
    return c->v[v].next != IR_NO;
}
static inline bool ir_is_const(const struct irc *c, ir_val v)
{
    return c->s->op[v].op == IR_CONST;
}
static inline bool ir_const32(const struct irc *c, ir_val v) /* usable as a sign-extended imm32 */
{
    const struct ir_op *o = &c->s->op[v];

    return o->op == IR_CONST && (o->t == IR_I32 || o->imm == (int32_t)o->imm);
}
/* The value in a register (of its class), locked until the op ends. The register must not be written. */
unsigned ir_use(struct irc *c, ir_val v);
/* A free register of the class, locked. */
unsigned ir_tmp(struct irc *c, bool vec);
/* JIT_GS(off) for a store of register src between two ops, by a temporary that is zero if one is free: Zen 4 hands the
 * value to a load that follows at once, which it does not where both addresses are a number alone (8 cycles). */
struct jit_mem ir_store_place(struct irc *c, unsigned src, int32_t off);
/* That register, freed and locked. */
void ir_take(struct irc *c, unsigned reg);
/* Where the result of the current op is to be made: pin, or a temporary. It may be the register of an argument that
 * is not used again, unless it is in mask `avoid`. */
unsigned ir_dst(struct irc *c, ir_val v, uint32_t avoid);
/* The value v has been made in reg (a locked temporary or a pin given by ir_dst). */
void ir_made(struct irc *c, ir_val v, unsigned reg);
/* The op is done: frees what is not used again, unlocks. */
void ir_consume(struct irc *c, unsigned op);
/* The value copied into a given register, wherever it is. */
void ir_fetch(struct irc *c, unsigned r, ir_val v);
/* A copy in a writable temporary (the value's own when it dies here). */
unsigned ir_own(struct irc *c, ir_val v);
void ir_put_state(struct irc *c, const struct ir_op *o);
/* Every live temporary to its spill slot (before a call). with_state: also what aliases guest state. */
void ir_evict_all(struct irc *c, bool with_state);
void ir_alias_add(struct irc *c, ir_val v);
void ir_pins_map(const struct ir_env *env, struct ir_pin_map *m);
void ir_pins_init(struct irc *c);
int ir_pin_of(const struct irc *c, int64_t off); /* register; -1: none */
void ir_skip_begin(struct irc *c);
void ir_skip_end(struct irc *c);
void ir_mov(struct irc *c, unsigned dst, unsigned src, enum ir_type t);
void ir_load_home(struct irc *c, unsigned reg, enum ir_type t, int32_t off);
void ir_store_home(struct irc *c, unsigned reg, enum ir_type t, int32_t off);
/* Home or spill memory of a value not in a register; false: it has none. */
bool ir_mem_of(const struct irc *c, ir_val v, struct jit_mem *m);

/* Flags: to be called before any instruction that changes EFLAGS. */
void ir_clobber_flags(struct irc *c);
/* Brings FLAGS v into EFLAGS; inv: 0 CF = C, 1 CF = !C, 2 as it is. */
void ir_need_flags(struct irc *c, ir_val v, unsigned inv);
void ir_commit_flags(struct irc *c); /* the guest's, to the context, if they are wanted */
void ir_save_flags(struct irc *c);   /* always */
/* Before a memory op: they can be had when it faults. */
void ir_flags_for_fault(struct irc *c, const struct ir_op *o);
/* Host code from here on has the mark (IR_MARK_..., 0). */
void ir_mark(struct irc *c, unsigned mark);
/* RAX (the caller's) and the context := the guest's flags, which are in EFLAGS. */
void ir_store_eflags(struct irc *c);
void ir_store_flags_of(struct irc *c, bool inv); /* the same in cold code; inv: CF is not C */
/* EFLAGS now hold v. */
void ir_made_flags(struct irc *c, ir_val v, bool inv);
/* EFLAGS := a packed word. RAX is the caller's. */
void ir_load_flags(struct irc *c, uint32_t packed);
/* Host condition for an Arm condition on FLAGS v, which is brought into EFLAGS. */
unsigned ir_flag_cc(struct irc *c, ir_val v, unsigned armcond);

/* Code: true when the op was one of theirs. */
bool ir_code_int(struct irc *c, const struct ir_op *o);
bool ir_code_mem(struct irc *c, const struct ir_op *o);
/* Two stores of 16 bytes side by side by one of 32: the op and the one behind it. */
bool ir_stores_join(const struct irc *c, unsigned n);
void ir_code_stores(struct irc *c, const struct ir_op *o);
void ir_code_scan(struct irc *c, const struct ir_op *o); /* ir_scan.c */
bool ir_scan_wide(void);                                 /* the host has what it takes for SCAN by 64 bytes */
bool ir_code_flow(struct irc *c, const struct ir_op *o);
bool ir_code_flags(struct irc *c, const struct ir_op *o);
bool ir_code_vec(struct irc *c, const struct ir_op *o);
bool ir_code_fp(struct irc *c, const struct ir_op *o);
void ir_code_eval(struct irc *c, const struct ir_op *o); /* any pure op, by ir_eval_op */
void ir_emit_cold(struct irc *c);
struct ir_cold *ir_new_cold(struct irc *c, enum cold_what what);

/* ir_loop.c */
/* Decides whether the block is a loop worth moving state for, and changes c->env. */
void ir_loop_plan(struct irc *c);
void ir_loop_enter(struct irc *c); /* in front of the first op */
void ir_loop_leave(struct irc *c); /* the pins as they were; flags are kept */

/* Host condition for an Arm condition on the outcome of an FP comparison of a and b. */
unsigned ir_code_fcc(struct irc *c, unsigned armcond, ir_val a, ir_val b);

/* ir_alu.c */
unsigned ir_code_cmp(struct irc *c, unsigned cc, enum ir_type t, ir_val a, ir_val b); /* returns the host condition */
void ir_code_setcc(struct irc *c, unsigned cc);                                       /* the current op's I32 */
void ir_code_select(struct irc *c, unsigned cc, ir_val yes, ir_val no);
void ir_code_retype(struct irc *c, const struct ir_op *o);

/* VEX encodings: pp 0 1=66 2=F3 3=F2, with IR_VEX_L 256 bits (stubs clear the upper halves); map 1=0F 2=0F38 3=0F3A. */
enum { IR_VEX_L = 4 };
void ir_vex(struct jit_buf *b, unsigned pp, unsigned map, unsigned w, unsigned op, unsigned reg, unsigned vvvv,
            unsigned rm);
void ir_vex_m(struct jit_buf *b, unsigned pp, unsigned map, unsigned w, unsigned op, unsigned reg, unsigned vvvv,
              struct jit_mem m);

#endif
