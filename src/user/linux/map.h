/* The guest's address space: which ranges it has mapped, with the rights it asked for (the host's may lack write
 * permission where code is watched). Thread-safe; a lock of its own that nothing else is taken under. */
#ifndef USER_LINUX_MAP_H
#define USER_LINUX_MAP_H

#include "base/err.h"

#define LX_TASK_MAX (UINT64_C(1) << 47)
struct lx_map {
    uint64_t start, end;
    int prot;               /* PROT_*, as the guest sees it */
    bool shared;            /* MAP_SHARED */
    uint8_t note;           /* enum lx_map_note */
    uint64_t dev, ino, off; /* shared: the file and where in it; ino 0: none that could be mapped elsewhere too */
};
enum lx_map_note { LX_MAP_PLAIN, LX_MAP_STACK, LX_MAP_HEAP, LX_MAP_VDSO, LX_MAP_TRAMP };

/* PROT_* at the address, -1: nothing is mapped there. Safe in signal handlers only when no map call runs. */
int lx_map_prot(uint64_t addr);
/* The mapping at addr or the next one above; false: none. */
bool lx_map_next(uint64_t addr, struct lx_map *out);
void lx_map_add(uint64_t start, uint64_t end, int prot, bool shared,
                enum lx_map_note note); /* replaces what was there */
/* What lies there is this part of this file, which other mappings may show as well. */
void lx_map_set_file(uint64_t start, uint64_t end, uint64_t dev, uint64_t ino, uint64_t off);
/* The next range that shows the same bytes of a file as [start, end), or a part of them, above *from, which is 0 at
 * first and is moved behind it; only the mapping at start is looked at. False: there is none. */
bool lx_map_alias(uint64_t start, uint64_t end, uint64_t *from, uint64_t *at, uint64_t *to);
/* Has a mapping that lx_map_set_file has named ever been executable? */
bool lx_map_files_run(void);
void lx_map_del(uint64_t start, uint64_t end);
void lx_map_protect(uint64_t start, uint64_t end, int prot);
/* A free range of len bytes within [lo, hi), searched downwards from hi; 0: none. */
uint64_t lx_map_hole(uint64_t lo, uint64_t hi, uint64_t len, uint64_t align);
void lx_map_lock(void); /* around fork */
void lx_map_unlock(void);

#endif
