/* Names of all instructions (X86_I_ADD ...), from insn.def, in its order. */
#ifndef GUEST_X86_OPS_H
#define GUEST_X86_OPS_H

#define OP(name, mnem, feat, attr, fr, fw, gr, gw) X86_I_##name,
#define E(...)
#define EF(...)
#define V(...)
#define X(...)
enum x86_op {
    X86_I_NONE,
#include "guest/x86/insn.def"
    X86_I_NR
};

/* Rows of the table, for coverage counts: 0 <= i < x86_nr_rows(). */
struct x86_row;
unsigned x86_nr_rows(void);
unsigned x86_row_index(const struct x86_row *row);
const char *x86_op_name(unsigned op); /* mnemonic of an enum x86_op; "?" when out of range */

#endif
