/* Number tables of single architectures; the shared one is in arch.h. */
#ifndef USER_LINUX_SYSNR_TABLES_H
#define USER_LINUX_SYSNR_TABLES_H

#include "user/linux/arch.h"

extern const struct lx_sysnr lx_sysnr_x86_64[], lx_sysnr_i386[], lx_sysnr_arm[];

#endif
