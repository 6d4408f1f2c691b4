/* LX_SYS_<name> for every system call in syscalls.def, in its order. */
#ifndef USER_LINUX_SYSNR_H
#define USER_LINUX_SYSNR_H

#define SYS(name, host, spec, how64, how32) LX_SYS_##name,
enum lx_sys_id {
#include "user/linux/syscalls.def"
    LX_SYS_NR
};
#undef SYS

#endif
