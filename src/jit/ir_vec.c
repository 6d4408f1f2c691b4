/* Host code for scalar FP and vectors. What is not here goes through ir_eval_op. */
#include "jit/ir_int.h"

bool ir_code_fp(struct irc *c, const struct ir_op *o)
{
    switch (o->op) {
    case IR_FLOW:
    case IR_VCAST:
        ir_code_retype(c, o);
        return true;
    default:
        return false;
    }
}
bool ir_code_vec(struct irc *c, const struct ir_op *o)
{
    return false;
}
