/* Where jumps go most often, found out while they run: for front ends whose blocks count (x86_rw_env.way, JIT_HOT).
 *
 * A jump by pointer is translated first as one that may go anywhere and counts itself. Hot, its block is made again for
 * the place it just went to, with the function there as part of it where that is a small one; what goes elsewhere is
 * counted then. What changes its mind too often is made once more, for any place (a conditional jump: for the last),
 * and counts no longer.
 *
 * All with the cache's lock held. */
#ifndef USER_LINUX_HOT_H
#define USER_LINUX_HOT_H

#include "user/linux/run.h"

/* Where the jump at pc goes most often, 0: unknown; *count: is that to be found out (still)? */
uint64_t lx_hot_way(const struct lx_rt *rt, uint64_t pc, bool *count);
/* The jump at pc, in the block, went to `to` as often as makes it hot, or as often elsewhere than it was made for. */
void lx_hot_note(struct lx_rt *rt, struct jit_block *b, uint64_t pc, uint64_t to, bool conditional);
/* Is the block at pc made for what was noted? Such are not kept on disk. */
bool lx_hot_block(const struct lx_rt *rt, uint64_t pc);

#endif
