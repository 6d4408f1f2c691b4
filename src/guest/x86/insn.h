/* A decoded x86 instruction: what the interpreter executes and the rewriter re-encodes.
 *
 * The decoder is pure: bytes and mode in, record out. Rows come from insn.def (operand codes as in the Intel SDM vol.
 * 2, appendix A: E G M R I J O, V W H L U P Q N, S C D, X Y, registers by name; KG KH KU KE: mask registers in reg,
 * vvvv, rm, or memory; sizes b w d q v z y p dq x ss sd ps pd). Everything the rewriter needs to substitute registers
 * or the memory operand is recorded by position. */
#ifndef GUEST_X86_INSN_H
#define GUEST_X86_INSN_H

#include "base/util.h"

enum { X86_MAX_INSN = 15, X86_NO_REG = 0xff, X86_REG_RIP = 0x10 };
enum { X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI };
enum { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_LDTR, X86_TR, X86_NR_SEG };

/* How the bytes are encoded. */
enum x86_enc { X86_ENC_LEGACY, X86_ENC_VEX, X86_ENC_EVEX };
/* Opcode maps. */
enum x86_map { X86_MAP_1, X86_MAP_0F, X86_MAP_0F38, X86_MAP_0F3A };

enum x86_opkind {
    X86_OP_NONE,
    X86_OP_GPR, /* reg = 0..15; size 1 without REX: 4..7 are AH CH DH BH (high8 set) */
    X86_OP_MEM, /* the ModRM (or moffs, or string) memory operand */
    X86_OP_IMM,
    X86_OP_REL, /* branch displacement, in imm */
    X86_OP_SEG,
    X86_OP_CR,
    X86_OP_DR,
    X86_OP_XMM, /* size 16/32/64 says xmm, ymm, zmm */
    X86_OP_MM,
    X86_OP_ST,
    X86_OP_K,
    X86_OP_FAR /* ptr16:16/32 */
};
struct x86_operand {
    uint8_t kind;  /* enum x86_opkind */
    uint8_t reg;   /* number with REX/VEX extension applied */
    uint8_t size;  /* bytes accessed; 0 where it has none (LEA) or varies (FXSAVE: see mem_size) */
    uint8_t high8; /* AH..BH */
    uint8_t where; /* enum x86_where: which field of the encoding names it */
    uint8_t acc;   /* X86_ACC_R / W / RW */
};
enum x86_where {
    X86_IN_NONE /* implicit */,
    X86_IN_REG /* modrm.reg */,
    X86_IN_RM,
    X86_IN_VVVV,
    X86_IN_OPC /* low opcode bits */,
    X86_IN_IS4
};
enum { X86_ACC_R = 1, X86_ACC_W = 2, X86_ACC_RW = 3 };

/* Bits of x86_row.attr. */
enum {
    X86_A_LOCK = 1 << 0,   /* LOCK allowed with a memory destination */
    X86_A_ENDS = 1 << 1,   /* ends a block: any transfer of control */
    X86_A_STACK = 1 << 2,  /* 64-bit operand size by default; uses rSP */
    X86_A_PRIV = 1 << 3,   /* CPL 0 only */
    X86_A_SYS = 1 << 4,    /* touches system state: interpreter only */
    X86_A_IO = 1 << 5,     /* port access */
    X86_A_STRING = 1 << 6, /* MOVS CMPS STOS LODS SCAS INS OUTS */
    X86_A_REP = 1 << 7,    /* F3/F2 mean repeat */
    X86_A_NO64 = 1 << 8,   /* #UD in 64-bit mode */
    X86_A_ONLY64 = 1 << 9,
    X86_A_FPU = 1 << 10, /* x87: CR0.EM/TS checks, #MF */
    X86_A_MMX = 1 << 11,
    X86_A_SSE = 1 << 12, /* legacy SSE: CR4.OSFXSR, CR0.EM/TS; 16-byte operands must be aligned unless UNALIGNED */
    X86_A_AVX = 1 << 13, /* VEX/EVEX: XCR0 checks */
    X86_A_UNALIGNED = 1 << 14,
    X86_A_NOMEM = 1 << 15,    /* register form only (mod 3), else #UD */
    X86_A_MEMONLY = 1 << 16,  /* memory form only */
    X86_A_NT_DEF64 = 1 << 17, /* near branch: 64-bit operand size forced in long mode */
    X86_A_COND = 1 << 18,     /* Jcc SETcc CMOVcc: condition = opcode & 15 */
    X86_A_VSIB = 1 << 19,
    X86_A_NOP_MEM = 1 << 20,     /* has a ModRM memory form that is not accessed (LEA, NOP Ev, PREFETCH) */
    X86_A_ALIGNED = 1 << 21,     /* #GP when a VEX memory operand is unaligned (MOVAPS, MOVNTPS ...) */
    X86_A_VEX128 = 1 << 22,      /* VEX.L must be 0 */
    X86_A_VEX256 = 1 << 23,      /* VEX.L must be 1 */
    X86_A_AVX512 = 1 << 24,      /* EVEX or opmask: XCR0 must have E6h set (beside AVX) */
    X86_A_VL = 1 << 25,          /* needs AVX512VL as well when vl is below 64: x86_insn_offered */
    X86_A_SCALAR = 1 << 26,      /* EVEX: one element, one mask bit */
    X86_A_COMPRESS = 1 << 27,    /* EVEX: enabled elements stand one behind the other in memory (compress, expand) */
    X86_A_NO_SUPPRESS = 1 << 28, /* EVEX: its whole memory operand must be there, whatever the mask */
    X86_A_ROUNDS = 1 << 29,      /* EVEX.b with registers only: L'L is the rounding mode (else just SAE) */
};
/* RFLAGS bits read and written (arithmetic flags only: CF PF AF ZF SF OF, and DF). */
enum {
    X86_CF = 0x1,
    X86_PF = 0x4,
    X86_AF = 0x10,
    X86_ZF = 0x40,
    X86_SF = 0x80,
    X86_TF = 0x100,
    X86_IF = 0x200,
    X86_DF = 0x400,
    X86_OF = 0x800,
    X86_IOPL = 0x3000,
    X86_NT = 0x4000,
    X86_RF = 0x10000,
    X86_VM = 0x20000,
    X86_AC = 0x40000,
    X86_VIF = 0x80000,
    X86_VIP = 0x100000,
    X86_ID = 0x200000,
    X86_ARITH = 0x8d5
};

/* One row of insn.def. */
struct x86_row {
    const char *mnem;
    uint16_t op;     /* enum x86_op */
    uint8_t feature; /* enum x86_feature_id (cpuid.h): #UD when the model lacks it */
    uint32_t attr;
    uint16_t flags_r; /* arithmetic flags it may read ... */
    uint16_t flags_w; /* ... and writes or leaves undefined (for shifts by CL: may write, also in flags_r) */
    uint16_t gpr_r,
        gpr_w; /* implicit registers as bit masks (RAX = bit 0), beyond the operands; string ops: RSI, RDI, RCX */
};

struct x86_insn {
    const struct x86_row *row;
    uint16_t op; /* row->op */
    uint8_t len;
    uint8_t enc, map, opcode;
    uint8_t pp;  /* mandatory prefix: 0, 1 = 66, 2 = F3, 3 = F2; legacy: as consumed by the opcode */
    uint8_t rex; /* 0, or 0x40 | WRXB; VEX: the equivalent bits */
    uint8_t rep; /* 0, 0xf3 or 0xf2 present and meaning a repeat (or XACQUIRE/BND, ignored) */
    bool lock, opsize_pfx, adsize_pfx, has_modrm, has_sib;
    uint8_t opsz; /* 2, 4, 8: effective operand size */
    uint8_t adsz; /* 2, 4, 8: effective address size */
    uint8_t seg;  /* segment of the memory operand (default or override) */
    bool seg_override;
    uint8_t modrm;
    uint8_t base, index, scale; /* X86_NO_REG when absent; base may be X86_REG_RIP; scale 1 2 4 8 */
    int64_t disp;               /* sign-extended; moffs: the whole offset */
    uint64_t imm;               /* sign-extended as the opcode says */
    uint64_t imm2;              /* second immediate: ENTER level, far selector, is4 byte */
    uint8_t vl;                 /* vector length in bytes: 16, 32, 64; 0 for others */
    uint8_t nr_ops;
    struct x86_operand ops[5];
    int8_t mem_op;     /* index in ops of the memory operand, -1 = none */
    uint16_t mem_size; /* bytes the memory operand covers (512 for FXSAVE, vl for vectors, element size for strings and
                          broadcasts), whatever a mask leaves out of them */
    /* EVEX only (SDM vol. 2, 2.7). ops[].reg of vectors is 0..31 and disp is scaled by N already, though disp_len is 1.
     * evex_b: a memory operand of one element is broadcast, or (registers) rounding is embedded or SAE: vl is 64 then.
     * The four bytes 62 P0 P1 P2 end before off_opcode. */
    uint8_t evex_aaa; /* the mask register, 0 = none */
    uint8_t evex_z;   /* 1: what is masked off becomes zero, else it stays */
    uint8_t evex_b;
    uint8_t evex_ll;   /* L'L as it stands: vector length, or the rounding mode */
    uint8_t mask_elem; /* bytes that one mask bit counts for, of memory where there is a memory operand, else of the
                          wider register; memory of fewer elements than mask_nr is repeated (broadcasts); 0: no mask */
    uint8_t mask_nr;   /* bits of the mask that count; 0: takes no mask */
    /* Byte positions within the instruction. */
    uint8_t off_opcode, off_modrm, off_disp, disp_len, off_imm, imm_len;
    uint8_t bytes[X86_MAX_INSN + 1];
    uint32_t found; /* 0: what a user of the record makes of it */
};

/* Mode bits the decoder needs. */
enum { X86_MODE_16, X86_MODE_32, X86_MODE_64 };
enum x86_decode_result {
    X86_DECODE_OK,
    X86_DECODE_UD,   /* not an instruction: #UD; len is set */
    X86_DECODE_MORE, /* avail bytes did not suffice: fetch more (page end) */
    X86_DECODE_LONG, /* over 15 bytes: #GP */
};
/* avail may exceed 15. Never reads past code + avail. */
enum x86_decode_result x86_decode(const uint8_t *code, size_t avail, int mode, struct x86_insn *in);
/* Intel-syntax text, for -d in_asm and the monitor; pc for branch targets. Returns buf. */
char *x86_format(const struct x86_insn *in, uint64_t pc, char *buf, size_t n);

#endif
