/* The debugger's stub. */
#include "user/linux/gdb.h"

void lx_gdb_start(struct lx_thread *t)
{
}

void lx_gdb_before_run(struct lx_thread *t)
{
}

bool lx_gdb_fault(struct lx_thread *t)
{
    return false;
}
