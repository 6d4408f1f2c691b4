/* Locks on host files that several programs open. See lock.c for the layout. */
#ifndef BLK_LOCK_H
#define BLK_LOCK_H

#include "base/err.h"
#include "base/str.h"

struct blk_set;

/* What this open file description holds, as permission bits. */
struct blk_lock {
    unsigned taken, unshared;
};
bool blk_lock_supported(int fd);
/* Moves to perm/shared (BLK_PERM_ bits); on refusal nothing changed. filename is for the message. */
bool blk_lock_apply(struct blk_set *s, struct blk_lock *l, int fd, unsigned perm, unsigned shared, const char *filename,
                    struct err **errp);
/* "process 12 (name, machine 'x')" of somebody holding a lock on the file behind fd, but for descriptor own_fd of
 * process own_pid; NULL = nobody seen. Caller frees. */
char *blk_lock_holder(int fd, int own_pid, int own_fd);

#endif
