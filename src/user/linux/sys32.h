/* Shared by the calls of 32-bit guests. Private to user/linux. */
#ifndef USER_LINUX_SYS32_H
#define USER_LINUX_SYS32_H

#include <stdint.h>
#include <sys/uio.h>

/* n vectors of two words, widened; NULL with *e set. Caller frees. */
struct iovec *lx_get_iov32(uint64_t at, uint64_t n, int *e);

#endif
