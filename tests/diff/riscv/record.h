/* Records that rvdiff and the RISC-V program `oracle` exchange: a state and a few instructions in, a state out.
 * x30 holds the address of mem's middle, x31 belongs to the oracle; no instruction writes either. */
#ifndef TESTS_RV_RECORD_H
#define TESTS_RV_RECORD_H

#include <stdint.h>

enum { REC_INSNS = 8, REC_MEM = 256 };
#define REC_CODE 0x20000000ul /* every record's code, in turn */
#define REC_DATA 0x10000000ul

struct rec {
    uint64_t x[32], f[32], fcsr;
    uint8_t mem[REC_MEM];
    uint32_t n, insn[REC_INSNS], pad;
};
#endif
