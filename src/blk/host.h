/* How a set's file nodes reach the host's file system: by the plain system calls, or through somebody else who may. A
 * tool that has shut itself in (cmd/shut) can open nothing; it asks the process it left outside.
 *
 * Every call answers -errno on failure and may be made from any thread. Descriptors are the caller's, close-on-exec. */
#ifndef BLK_HOST_H
#define BLK_HOST_H

#include "base/util.h"
#include <sys/types.h>

struct blk_set;

struct blk_host {
    int (*open)(void *opaque, const char *path, int flags, unsigned mode);
    /* Another description of the file behind fd, with these flags. */
    int (*reopen)(void *opaque, int fd, int flags);
    /* The type bits of st_mode of what lies at path. */
    int (*kind)(void *opaque, const char *path, mode_t *type);
    /* Makes an empty file from a path ending in XXXXXX, which becomes its name. */
    int (*temporary)(void *opaque, char *path);
    int (*unlink)(void *opaque, const char *path);
    /* Who holds a lock on the file behind fd; NULL = nobody that can be seen. Caller frees. */
    char *(*holder)(void *opaque, int fd);
    void *opaque;
};

/* h is borrowed for the life of the set; NULL = the system calls. */
void blk_set_host(struct blk_set *s, const struct blk_host *h);
int blk_host_open(struct blk_set *s, const char *path, int flags, unsigned mode);
int blk_host_reopen(struct blk_set *s, int fd, int flags);
int blk_host_kind(struct blk_set *s, const char *path, mode_t *type);
int blk_host_temporary(struct blk_set *s, char *path);
int blk_host_unlink(struct blk_set *s, const char *path);
char *blk_host_holder(struct blk_set *s, int fd);

#endif
