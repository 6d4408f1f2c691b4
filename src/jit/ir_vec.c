/* Host code for vectors. What is not here goes through ir_eval_op. */
#include "jit/ir_int.h"

bool ir_code_vec(struct irc *c, const struct ir_op *o)
{
    return false;
}
