/* Assembler for x86-64 hosts: bytes into a bounded buffer. Encodings after the Intel SDM vol. 2.
 *
 * The buffer is the writable view; `delta` turns a write position into the address the code runs at. Overflow is sticky
 * and checked once at the end (jit_ok), so emitters need no error paths. */
#ifndef JIT_X64_H
#define JIT_X64_H

#include "base/bytes.h"

enum jit_reg {
    JR_RAX,
    JR_RCX,
    JR_RDX,
    JR_RBX,
    JR_RSP,
    JR_RBP,
    JR_RSI,
    JR_RDI,
    JR_R8,
    JR_R9,
    JR_R10,
    JR_R11,
    JR_R12,
    JR_R13,
    JR_R14,
    JR_R15,
    JR_NONE = 0xff
};

/* A place in a buffer whose bytes depend on where the code or this program lies. */
enum jit_rel_kind {
    JIT_REL_CODE, /* rel32 to a target outside of the buffer */
    JIT_REL_LINK, /* imm32: number of the block's first link plus n */
    JIT_REL_HOST  /* imm64: an address in this program */
};
struct jit_rel {
    uint16_t at; /* offset from the buffer's start */
    uint8_t kind;
    uint32_t n;
};
struct jit_buf {
    uint8_t *start, *p, *end;
    ptrdiff_t delta; /* run address - write address */
    bool full;
    struct jit_rel *rel; /* borrowed: where such places are noted; NULL: they are not */
    unsigned nr_rel, max_rel;
    bool rel_lost; /* there were more than max_rel */
};
static inline bool jit_ok(const struct jit_buf *b)
{
    return !b->full;
}
static inline uint8_t *jit_here(const struct jit_buf *b) /* run address of the next byte */
{
    return b->p + b->delta;
}
enum { JIT_MAX_INSN = 16 }; /* bytes of an instruction, and those that jit_bytes writes at a time */
/* Is there room for another instruction? */
static inline bool jit_room(struct jit_buf *b)
{
    if (likely(b->end - b->p >= JIT_MAX_INSN))
        return true;
    b->full = true;
    return false;
}
/* The first n of the JIT_MAX_INSN bytes at from. */
static inline void jit_bytes(struct jit_buf *b, const uint8_t *from, unsigned n)
{
    if (jit_room(b)) {
        memcpy(b->p, from, JIT_MAX_INSN);
        b->p += n;
    }
}
static inline void jit_8(struct jit_buf *b, unsigned v)
{
    if (likely(b->p < b->end))
        *b->p++ = (uint8_t)v;
    else
        b->full = true;
}
static inline void jit_32(struct jit_buf *b, uint32_t v)
{
    if (likely(b->end - b->p >= 4)) {
        put_le32(b->p, v);
        b->p += 4;
    } else {
        b->full = true;
    }
}
static inline void jit_64(struct jit_buf *b, uint64_t v)
{
    jit_32(b, (uint32_t)v);
    jit_32(b, (uint32_t)(v >> 32));
}

/* A memory operand. base JR_NONE: absolute disp32 (sign-extended); gs: GS-relative. */
struct jit_mem {
    uint8_t base, index, scale; /* registers or JR_NONE; scale 1 2 4 8 */
    bool gs;
    int32_t disp;
};
#define JIT_GS(d)        ((struct jit_mem){JR_NONE, JR_NONE, 1, true, (int32_t)(d)})
#define JIT_BASE(r, d)   ((struct jit_mem){(r), JR_NONE, 1, false, (int32_t)(d)})
#define JIT_SUM(r, i)    ((struct jit_mem){(r), (i), 1, false, 0})
#define JIT_GSX(i, s, d) ((struct jit_mem){JR_NONE, (i), (s), true, (int32_t)(d)})

/* Operation flags. */
enum {
    JIT_W = 1,
    JIT_66 = 2,
    JIT_F3 = 4,
    JIT_F2 = 8,
    JIT_B8 = 16 /* byte register in reg: force REX for SPL..DIL */,
    JIT_RM8 = 32 /* byte register in rm */
};
/* opcode: 0x8b, 0x0fb6, 0x0f38xx (three bytes) ... */
void jit_op_mem(struct jit_buf *b, unsigned flags, unsigned opcode, unsigned reg, struct jit_mem m, unsigned imm_len);
void jit_op_reg(struct jit_buf *b, unsigned flags, unsigned opcode, unsigned reg, unsigned rm);
/* ModRM, SIB and displacement for a memory operand; reg is the low 3 bits. */
void jit_modrm_mem(struct jit_buf *b, unsigned reg, struct jit_mem m);
void jit_modrm_mem32(struct jit_buf *b, unsigned reg, struct jit_mem m); /* its displacement never in 8 bits */

void jit_mov_rr(struct jit_buf *b, unsigned dst, unsigned src); /* 64-bit */
void jit_mov_rr32(struct jit_buf *b, unsigned dst, unsigned src);
void jit_load(struct jit_buf *b, unsigned dst, struct jit_mem m); /* 64-bit */
void jit_store(struct jit_buf *b, struct jit_mem m, unsigned src);
void jit_load32(struct jit_buf *b, unsigned dst, struct jit_mem m);
void jit_store32(struct jit_buf *b, struct jit_mem m, unsigned src);
void jit_lea(struct jit_buf *b, unsigned dst, struct jit_mem m); /* 64-bit */
void jit_lea32(struct jit_buf *b, unsigned dst, struct jit_mem m);
void jit_mov_ri(struct jit_buf *b, unsigned dst, uint64_t v);                   /* shortest form, flags kept */
void jit_mov_link(struct jit_buf *b, unsigned dst, uint32_t first, uint32_t n); /* dst = first + n, a link's number */
void jit_mov_host(struct jit_buf *b, unsigned dst, uint64_t addr);              /* an address in this program */
void jit_store8_imm(struct jit_buf *b, struct jit_mem m, unsigned v);
void jit_store32_imm(struct jit_buf *b, struct jit_mem m, uint32_t v);
void jit_cmp_imm(struct jit_buf *b, unsigned reg, int32_t v);                          /* 64-bit */
void jit_rorx(struct jit_buf *b, unsigned dst, unsigned src, unsigned count);          /* 64-bit, BMI2: keeps flags */
void jit_pext_mem(struct jit_buf *b, unsigned dst, unsigned src, struct jit_mem mask); /* 64-bit, BMI2 */
/* An EVEX prefix without mask: w is JIT_W or 0, l 0, 1, 2 for 128, 256, 512 bits; reg, vvvv (0: none) and rm of 0 to
 * 31, rm the base below 16 of a memory operand without index. Opcode and ModRM follow. */
void jit_evex(struct jit_buf *b, unsigned w, unsigned map, unsigned pp, unsigned l, unsigned reg, unsigned vvvv,
              unsigned rm);
void jit_nops(struct jit_buf *b, unsigned n); /* n < 8 bytes, one instruction */
void jit_push(struct jit_buf *b, unsigned r);
void jit_pop(struct jit_buf *b, unsigned r);
void jit_push_mem(struct jit_buf *b, struct jit_mem m);
/* Transfers to a known run address within 2 GiB. */
void jit_jmp(struct jit_buf *b, const void *target);
void jit_call(struct jit_buf *b, const void *target);
void jit_jcc(struct jit_buf *b, unsigned cc, const void *target);
void jit_jmp_mem(struct jit_buf *b, struct jit_mem m);
void jit_jmp_reg(struct jit_buf *b, unsigned r);
/* Forward references: the call returns the place of the displacement, jit_patch* binds it to here. */
uint8_t *jit_jmp_fwd(struct jit_buf *b);              /* rel32 */
uint8_t *jit_jcc_fwd(struct jit_buf *b, unsigned cc); /* rel32 */
uint8_t *jit_jcc8_fwd(struct jit_buf *b, unsigned cc);
uint8_t *jit_jrcxz_fwd(struct jit_buf *b); /* rel8 */
uint8_t *jit_jmp8_fwd(struct jit_buf *b);
uint8_t *jit_loop_fwd(struct jit_buf *b); /* rel8; jumps unless RCX is 1, and leaves RCX - 1 */
void jit_patch32(struct jit_buf *b, uint8_t *at);
void jit_patch8(struct jit_buf *b, uint8_t *at);
enum {
    JCC_O,
    JCC_NO,
    JCC_B,
    JCC_AE,
    JCC_E,
    JCC_NE,
    JCC_BE,
    JCC_A,
    JCC_S,
    JCC_NS,
    JCC_P,
    JCC_NP,
    JCC_L,
    JCC_GE,
    JCC_LE,
    JCC_G
};

#endif
