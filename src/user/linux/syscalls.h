/* The handlers named by syscalls.def, and what they share. Private to user/linux. */
#ifndef USER_LINUX_SYSCALLS_H
#define USER_LINUX_SYSCALLS_H

#include "user/linux/thread.h"

enum { SA_RESTORER_HOST = 0x04000000 };
#define SS_AUTODISARM_BIT (1u << 31)

#define LX_FN_RAW(n)
#define LX_FN_OWN(n) int64_t lx_sys_##n(struct lx_thread *t, const uint64_t *a);
#define LX_FN_W32(n) int64_t lx_sys32_##n(struct lx_thread *t, const uint64_t *a);
#define LX_FN_NO(n)
#define LX_FN_OTHER(n)
#define LX_ONCE_OWN_OWN(n)
#define SYS(name, host, spec, how64, how32) LX_FN_##how64(name) LX_FN_##how32(name)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wredundant-decls"
#include "user/linux/syscalls.def"
#pragma GCC diagnostic pop
#undef SYS

/* signal.c */
int64_t lx_set_action(struct lx_thread *t, int sig, const struct lx_action *new, struct lx_action *old);
int64_t lx_change_mask(struct lx_thread *t, int how, const uint64_t *set, uint64_t *old);
int64_t lx_do_sigreturn(struct lx_thread *t, bool rt);
int64_t lx_suspend(struct lx_thread *t, uint64_t mask);
void lx_siginfo_in(siginfo_t *out, const uint8_t in[128], unsigned word);

#endif
