/* Shared by the file calls of both word sizes. Private to user/linux. */
#ifndef USER_LINUX_SYS_FILE_H
#define USER_LINUX_SYS_FILE_H

#include "base/str.h"
#include "user/linux/thread.h"

#include <limits.h>
#include <sys/stat.h>

uint64_t lx_open_flags_in(uint64_t guest);
uint64_t lx_open_flags_out(uint64_t host);
int64_t lx_put_stat(uint64_t at, const struct stat *st, const struct lx_field *f);
/* readlink of /proc/<pid>/exe of this process or another emulated one: the length, or -1 when path is another. */
int64_t lx_proc_readlink(const char *path, char *buf, size_t n);
/* A path in a folder of /proc whose last part is one of those that must show the guest, as an absolute one; else path.
 */
const char *lx_proc_name(int dirfd, const char *path, char buf[PATH_MAX]);
static inline bool str_is_proc(const char *path)
{
    return str_starts(path, "/proc/");
}

#endif
