/* Host memory as objects: -object memory-backend-ram|file|memfd,id=...,size=... */
#ifndef HW_MEM_BACKEND_H
#define HW_MEM_BACKEND_H

#include "dev/machine.h"

/* Claims the memory of a ready memory-backend object for one user. NULL with *errp when it is no such object or taken.
 * The block is borrowed: it lives as long as the object. */
struct mem_ram *mem_backend_claim(struct obj *o, struct err **errp);
/* Makes one under /objects for a board's own RAM: plain, or in a file or folder `path` when not NULL. */
struct obj *mem_backend_new(struct machine *m, const char *id, uint64_t size, const char *path, bool prealloc,
                            bool merge, bool dump, struct err **errp);

#endif
