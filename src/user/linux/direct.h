/* System calls that translated code makes by itself: those the kernel takes as they are (RAW in syscalls.def).
 *
 * A front end's stub looks the guest's number up in lx_direct, puts the arguments where the host's kernel wants them,
 * leaves the code cache (view.out->inside), looks whether it is held, and enters the kernel; behind it, it comes back
 * inside, and goes on at the next block unless it is held by then. Everything else is lx_syscall's: other numbers,
 * strace, filters, tracers, debuggers, and what a signal kept from being made (lx_rt_stubs.call_begin). A result of
 * -EFAULT is lx_syscall's, too (view.out->failed): the kernel could not write a page that is watched for code. */
#ifndef USER_LINUX_DIRECT_H
#define USER_LINUX_DIRECT_H

#include "user/linux/ir_front.h"

enum { LX_DIRECT_SHIFT = 9, LX_DIRECT_NR = 1 << LX_DIRECT_SHIFT };
extern uint16_t lx_direct[LX_DIRECT_NR]; /* by the guest's number: the host's + 1; 0: not one of them */

/* Before the program runs: fills the table, where nothing wants to see every call. */
void lx_direct_start(void);
/* From now on something does; stays so. May be called from signal handlers. */
void lx_direct_off(void);

/* The stub of a guest of the IR, in front of out->exit_code, which it takes the place of. Offsets in its state; what
 * ret names is in memory or in a pin that C code does not keep. */
struct lx_ir_call {
    unsigned code; /* of the exit that asks for a call; t0 is the pc behind it */
    uint32_t nr, arg[6], ret;
};
void lx_ir_direct(struct lx_rt *rt, struct jit_buf *b, const struct ir_pin *pin, unsigned nr_pins,
                  const struct lx_ir_call *c, struct ir_stubs *out);

#endif
