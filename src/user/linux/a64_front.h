/* AArch64 programs: the CPU as user mode holds it, and the translator's front end. */
#ifndef USER_LINUX_A64_FRONT_H
#define USER_LINUX_A64_FRONT_H

#include "guest/arm64/xlat.h"
#include "user/linux/run.h"

/* c is the runtime's context once there is one (borrowed), before that `own`. */
struct a64_lx {
    struct lx_cpu lx; /* first */
    struct a64_cpu *c;
    struct a64_cpu *own; /* owned; NULL once the context has taken the state */
    uint64_t orig_x0;    /* of the last system call */
};
static inline struct a64_lx *a64_lx(const struct lx_cpu *c)
{
    return (struct a64_lx *)(uintptr_t)c;
}
extern const struct lx_front lx_a64_front;
struct lx_cpu *lx_a64_new(struct lx_rt *rt, struct err **errp);
struct lx_cpu *lx_a64_clone(const struct lx_cpu *from);
void lx_a64_free(struct lx_cpu *c);

#endif
