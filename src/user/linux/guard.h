/* Running C code that may fault on guest memory. */
#ifndef USER_LINUX_GUARD_H
#define USER_LINUX_GUARD_H

#include "user/linux/arch.h"

#include <setjmp.h>

/* Calls fn(arg); false: it faulted (lx_guard_fault says how) and was left in the middle, unless the fault was only ours
 * (a page watched for code), in which case it was called again. fn must hold nothing that leaving it would leak. */
bool lx_guarded(void (*fn)(void *), void *arg);
extern _Thread_local struct lx_fault lx_guard_fault;
extern _Thread_local sigjmp_buf *lx_guard; /* set while guarded code runs */
/* For the handler of the host's SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP: true when the signal was settled
 * (guarded code is left when the handler returns); false: it is no fault of translated or guarded code. */
bool lx_rt_host_fault(int sig, siginfo_t *info, void *ucontext);

#endif
