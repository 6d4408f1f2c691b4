/* The guests' system call numbers. */
#include "user/linux/sysnr.h"
#include "user/linux/arch.h"
#include "user/linux/sysnr_tables.h"

#define N(nr, name) {nr, LX_SYS_##name},
const struct lx_sysnr lx_sysnr_generic64[] = {
#include "user/linux/sysnr_generic64.def"
    {0xffff, 0}};
const struct lx_sysnr lx_sysnr_x86_64[] = {
#include "user/linux/sysnr_x86_64.def"
    {0xffff, 0}};
const struct lx_sysnr lx_sysnr_i386[] = {
#include "user/linux/sysnr_i386.def"
    {0xffff, 0}};
const struct lx_sysnr lx_sysnr_arm[] = {
#include "user/linux/sysnr_arm.def"
    {0xffff, 0}};
