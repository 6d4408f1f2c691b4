/* Records that rvdiff and the RISC-V program `oracle` exchange: a state and a few instructions in, the same out. x30
 * holds an address in mem, or one that faults; no instruction writes x30 or x31. */
#ifndef TESTS_RV_RECORD_H
#define TESTS_RV_RECORD_H

#include <stdint.h>

enum { REC_INSNS = 8, REC_MEM = 256, REC_STRIDE = 64 };
#define REC_CODE 0x20000000ul /* record i's code is at REC_CODE + i * REC_STRIDE; undefined instructions follow it */
#define REC_MAP  0x10000000ul /* two pages mapped; what lies around is not */
#define REC_DATA (REC_MAP + 0x1000 - REC_MEM / 2) /* mem: half of it in each page */

struct rec {
    uint64_t x[32], f[32], fcsr;
    uint8_t mem[REC_MEM];
    uint32_t n, insn[REC_INSNS], sig; /* out: SIGILL at the record's end is sig 0 */
    uint64_t addr, pc;                /* out: of a fault; where it ended, from the end of the code */
};
#endif
