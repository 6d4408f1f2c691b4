/* Shared by the file calls of both word sizes. Private to user/linux. */
#ifndef USER_LINUX_SYS_FILE_H
#define USER_LINUX_SYS_FILE_H

#include "base/str.h"
#include "user/linux/thread.h"

#include <sys/stat.h>

uint64_t lx_open_flags_in(uint64_t guest);
uint64_t lx_open_flags_out(uint64_t host);
int64_t lx_put_stat(uint64_t at, const struct stat *st, const struct lx_field *f);
/* readlink of /proc/self/exe: the length, or -1 when path is another. */
int64_t lx_proc_readlink(const char *path, char *buf, size_t n);
static inline bool str_is_proc(const char *path)
{
    return str_starts(path, "/proc/");
}
static inline bool is_own_exe(const char *path)
{
    char c;

    return lx_proc_readlink(path, &c, 1) >= 0;
}

#endif
