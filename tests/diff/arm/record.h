/* Records that armdiff and the Arm program `oracle` exchange: a state and a few instructions in, a state out. */
#ifndef TESTS_ARM_RECORD_H
#define TESTS_ARM_RECORD_H

#include <stdint.h>

enum { REC_BYTES = 52, REC_MEM = 512, REC_STRIDE = 64 };
#define REC_CODE 0x20000000u /* record i's code is at REC_CODE + i * REC_STRIDE; undefined instructions follow it */
#define REC_DATA 0x10001000u /* in the middle of the data window, at a page's start */
#define REC_MAP  (REC_DATA - 0x1000) /* two pages mapped; what lies around is not */
/* BOTH: as A32 UDF #0xde0, its first halfword as T32 UDF #0xf0. It ends every record's place. */
enum { REC_UDF_A32 = 0xe7f000f0u, REC_UDF_T32 = 0xde00, REC_UDF_BOTH = 0xe7f0def0u };
#define REC_TRAMPOLINE 0x3ffff000u
#define REC_IMAGE      0x60000000u /* the program's own 1 MiB: code, stacks (meson.build) */

struct rec_state {
    uint32_t r[15], pc, psr, fpscr; /* psr: N Z C V Q GE T */
    uint64_t d[32];
};
struct rec_in {
    uint32_t n;  /* bytes of code */
    uint32_t at; /* what the tester aimed at; 0: nothing */
    uint8_t code[REC_BYTES];
    struct rec_state s;
    uint8_t mem[REC_MEM];
};
struct rec_out {
    uint32_t sig, addr; /* SIGILL at the record's end: sig 0 */
    struct rec_state s;
    uint8_t mem[REC_MEM];
};
#endif
