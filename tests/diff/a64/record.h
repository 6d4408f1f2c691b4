/* Records that a64diff and the AArch64 program `oracle` exchange: a state and a few instructions in, a state out. */
#ifndef TESTS_A64_RECORD_H
#define TESTS_A64_RECORD_H

#include <stdint.h>

enum { REC_INSNS = 12, REC_MEM = 512, REC_STRIDE = 64 };
#define REC_CODE UINT64_C(0x20000000) /* record i's code is at REC_CODE + i * REC_STRIDE */
#define REC_DATA UINT64_C(0x10001000) /* in the middle of the data window, at a page's start */
#define REC_MAP  (REC_DATA - 0x1000)  /* two pages mapped; what lies around is not */

struct rec_state {
    uint64_t x[31], sp, pc, nzcv, fpcr, fpsr;
    uint64_t v[64];
};
struct rec_in {
    uint32_t n, insn[REC_INSNS], pad;
    struct rec_state s;
    uint8_t mem[REC_MEM];
};
struct rec_out {
    uint64_t sig, addr; /* SIGILL at the record's end: sig 0 */
    struct rec_state s;
    uint8_t mem[REC_MEM];
};
#endif
