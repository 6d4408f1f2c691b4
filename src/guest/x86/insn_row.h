/* The words in which insn.def says what a row's encoding is: for those who include the table, the decoder and the tests
 * that make instructions from it. Short names: nothing else may include this. */
#ifndef GUEST_X86_INSN_ROW_H
#define GUEST_X86_INSN_ROW_H

#include "guest/x86/insn.h"

/* Constraints of a row. */
enum {
    W0 = 1,
    W1 = 2,
    L0 = 4,
    L1 = 8,
    O16 = 16,
    O32 = 32,
    O64 = 64,
    NB = 128,
    IM0 = 256,
    F2 = 512,
    M64 = 1024,
    NO64M = 2048,
    L2 = 4096
};
/* The evex column of insn_evex.def. */
enum {
    M1 = 1,
    M2 = 2,
    M4 = 4,
    M8 = 8,
    B4 = 0x10,
    B8 = 0x20,
    RC = 0x40,
    SAE = 0x80,
    KQ = 0x100,
    NF = 0x200,
    SC = 0x400,
    CE = 0x800,
    NZ = 0x1000,
    BM = 0x2000,
    PT = 0x4000
};
enum { MR_REG = 0x10, MR_MEM = 0x20, MR_MOD3 = 0x40, MR_EXACT = 0x8000 };
#define g(n) (MR_REG | (n))
#define MEM  MR_MEM
#define REG  MR_MOD3
#define x(b) (MR_EXACT | (b))
enum { NP = 1, P66 = 2, PF3 = 4, PF2 = 8, ANY = 15, N66 = 3, PS = 12 };
enum { m1 = X86_MAP_1, m0F = X86_MAP_0F, m38 = X86_MAP_0F38, m3A = X86_MAP_0F3A };

#endif
