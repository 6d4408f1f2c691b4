/* Counting how often each block is entered, where somebody asked for it (jit_cache_count): every way into a block leads
 * over a piece of code behind it that adds one to the block's counter. Flags and all registers but the one that a dead
 * block's gate may change are kept. A block that begins with a guard counts when its gate is entered, whatever the
 * guard says then. Virtual CPUs that enter one block at the same time may lose a count: nothing is locked. */
#ifndef JIT_COUNT_H
#define JIT_COUNT_H

#include "base/err.h"

struct jit_cache;
struct jit_block;
enum { JIT_COUNT_LEN = 64, JIT_COUNT_GATE = 6 }; /* bytes behind a block that counts, and before its gate */

/* From now on; before the first block. Loops inside a block are not linked to its inside. False: there is no room near
 * the code. */
bool jit_cache_count(struct jit_cache *d, struct err **errp);
/* Writes the pieces behind the block at `behind` (run address) and leads its gate and entry there. For the cache. */
void jit_count_block(struct jit_cache *d, struct jit_block *b, const uint8_t *behind);
/* The n blocks entered most, the first one most; how many there are. With the lock held. */
unsigned jit_count_top(struct jit_cache *d, const struct jit_block **top, unsigned n);
uint64_t jit_count_of(const struct jit_cache *d, const struct jit_block *b);
/* A line "COUNT: ..." in the log (-d out_asm) for each block entered; all start anew. With the lock held. */
void jit_count_log(struct jit_cache *d);
void jit_count_free(struct jit_cache *d); /* for the cache */

#endif
