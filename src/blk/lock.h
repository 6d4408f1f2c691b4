/* Locks on host files that several programs open. See lock.c for the layout. */
#ifndef BLK_LOCK_H
#define BLK_LOCK_H

#include "base/err.h"
#include "base/str.h"

/* What this open file description holds, as permission bits. */
struct blk_lock {
    unsigned taken, unshared;
};
bool blk_lock_supported(int fd);
/* Moves to perm/shared (BLK_PERM_ bits); on refusal nothing changed. filename is for the message. */
bool blk_lock_apply(struct blk_lock *l, int fd, unsigned perm, unsigned shared, const char *filename,
                    struct err **errp);
/* "process 12 (name, machine 'x')" of somebody holding a lock on the file, or NULL; caller frees. */
char *blk_lock_holder(int fd);

#endif
