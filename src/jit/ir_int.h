/* Shared by the parts of the IR: passes, allocation, code. */
#ifndef JIT_IR_INT_H
#define JIT_IR_INT_H

#include "jit/ir.h"

extern const char ir_op_effect[IR_NR_OPS]; /* the letter of ir.def */
unsigned ir_op_nargs(enum ir_opcode op);

#endif
