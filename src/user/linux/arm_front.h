/* 32-bit Arm programs: the CPU as user mode holds it, and the translator's front end. */
#ifndef USER_LINUX_ARM_FRONT_H
#define USER_LINUX_ARM_FRONT_H

#include "guest/arm/state.h"
#include "user/linux/ir_front.h"

static inline struct arm_cpu *arm_lx(const struct lx_cpu *c)
{
    return (struct arm_cpu *)(void *)lx_ir(c)->state;
}
extern const struct lx_front lx_arm_front;
struct lx_cpu *lx_arm_new(struct lx_rt *rt, struct err **errp);
struct lx_cpu *lx_arm_clone(const struct lx_cpu *from);

#endif
