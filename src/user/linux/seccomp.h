/* Seccomp of the guest: filters over its own system call numbers. Private to user/linux. */
#ifndef USER_LINUX_SECCOMP_H
#define USER_LINUX_SECCOMP_H

#include "user/linux/thread.h"

/* Before a system call of a thread with t->secc set: true when it is to be made; else *ret is its result (or
 * -LX_NORESULT), or the thread or process has ended. */
bool lx_seccomp_allows(struct lx_thread *t, uint64_t nr, const uint64_t a[6], int64_t *ret);
/* For a program about to be executed: a file descriptor that carries the filters, -1 when there are none, else
 * -errno - 1. lx_seccomp_take reads and closes it in the new one; false: it is not what was written. */
int lx_seccomp_carry(const struct lx_thread *t);
bool lx_seccomp_take(struct lx_thread *t, int fd);
/* prctl(PR_SET_SECCOMP, mode, prog). */
int64_t lx_seccomp_prctl(struct lx_thread *t, uint64_t mode, uint64_t prog);

#endif
