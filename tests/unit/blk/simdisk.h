/* A host file in memory that remembers every write since it was made, for cutting the power at any point.
 * Registered as protocol "sim"; the file of id N is opened as driver=sim,filename=N. */
#ifndef TESTS_UNIT_BLK_SIMDISK_H
#define TESTS_UNIT_BLK_SIMDISK_H

#include "blk/node.h"

enum sim_op { SIM_WRITE, SIM_ZERO, SIM_TRUNCATE, SIM_FLUSH };
struct sim_entry {
    enum sim_op op;
    uint64_t off, len;
    uint8_t *data; /* owned */
    uint64_t seq;  /* its place among the entries of all disks that record */
};
enum { SIM_PAGE = 1 << 16, SIM_PAGES = 4096 };
struct sim {
    uint8_t *bytes; /* owned */
    uint64_t size, cap;
    struct sim_entry *log; /* owned */
    size_t nr, cap_log;
    bool recording;
    long fail_after; /* the n-th write, flush or truncate from now fails with fail_errno; -1 = never */
    bool fail_for_ever;
    int fail_errno;
    long fail_read_after;    /* the same for reads, by -EIO; -1 = never */
    bool touched[SIM_PAGES]; /* changed since the last sim_sync */
};
enum { NR_SIMS = 8 };
extern struct sim sims[NR_SIMS];
extern uint64_t sim_clock; /* entries recorded so far, by all */
extern bool sim_no_pause;  /* requests never suspend */
extern uint64_t sim_max;   /* no disk grows beyond */
void sim_reset(struct sim *s);
void sim_apply(struct sim *s, const struct sim_entry *e);
void sim_copy(struct sim *dst, const struct sim *src); /* bytes only */
/* The same, for a pair that was alike after the last sim_sync (or sim_copy) of the two: copies what either changed. */
void sim_sync(struct sim *dst, struct sim *src);

#endif
