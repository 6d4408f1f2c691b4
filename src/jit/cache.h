/* The code cache: blocks found by guest place, direct links between them, invalidation. Knows no guest and no MMU.
 *
 * A block is known by (pc, place, mode): pc as the guest sees it, place = page number << 12 | offset in a number space
 * the owner chooses (system: RAM pages; user mode: the guest's own addresses), mode = the translation-mode bits.
 *
 * A block dies when a byte it was made from is written: its incoming links go back to their stubs, its gate is turned
 * by one store into a jump that leaves, and its memory is reused only when the whole cache is emptied with nobody
 * inside.
 *
 * Locks: everything here is called with cache.lock held unless it says otherwise. The lock is a leaf but for the arena.
 */
#ifndef JIT_CACHE_H
#define JIT_CACHE_H

#include "base/err.h"
#include "base/list.h"
#include "jit/arena.h"
#include "jit/block.h"
#include "jit/x64.h"

#include <pthread.h>
#include <stdio.h>

struct jit_block;
struct jit_dump;
enum { JIT_POLL_TARGET = 0xffff };
#define JIT_UNLINKED UINT32_MAX
/* A boot of Linux makes a quarter of a million blocks and a million links: every byte here is megabytes of the host's.
 * Offsets count from the host address of the block it leads from. */
struct jit_link {
    uint32_t from, to; /* blocks: places in order[]; to: JIT_UNLINKED while it goes to its stub */
    uint64_t target;
    uint32_t next, prev; /* in the incoming links of `to`: numbers, 0 = none */
    uint16_t at;         /* of the rel32 */
    uint16_t stub;       /* where it goes unlinked, or JIT_STUB_CALL; 0: no link, see JIT_LINK_CONT */
    uint16_t poll;       /* of the polling load, 0 = none */
    uint16_t inner;      /* as in struct jit_link_out */
    uint16_t poll_off;   /* a poll goes on at the block's pc + poll_off, or at the target: JIT_POLL_TARGET */
    uint16_t mode_or;
} __attribute__((packed, aligned(4)));
struct jit_span {          /* bytes of one page that a block depends on, first and last */
    struct jit_span *next; /* on its page */
    uint16_t first, last;
    uint8_t n; /* its place in the block's span[] */
    bool used;
};
enum {
    JIT_SPAN_OWN,
    JIT_SPAN_TAIL,
    JIT_SPAN_PEEK,
    JIT_SPANS
}; /* its own bytes, those on a second page, those it peeked at, in the page peek_by pages from its own */
struct jit_block {
    uint64_t pc, place; /* what a look-up reads comes first */
    struct jit_block *hnext;
    const uint8_t *host;     /* run address of the code; NULL: nothing translated here (interpret) */
    uint32_t mode, incoming; /* the first link here: a number, 0 = none */
    uint16_t entry, guest_len;
    uint16_t nr_links, nr_insn;
    uint32_t first_link;
    uint32_t index; /* its place in order[], when it has code */
    uint32_t len;
    bool dead;
    int32_t peek_by : 24;
    uint64_t tail_no; /* page its last bytes are on, when it runs over the end of the first */
    void *keep;       /* owned, one allocation: what the owner wants to remember; NULL */
    struct jit_span span[JIT_SPANS];
    uint16_t map[]; /* nr_insn + 1 pairs of host and guest offsets */
};
struct jit_page { /* a page that holds translated code */
    uint64_t no;
    uint64_t granules; /* 64-byte pieces some block was made from */
    struct jit_span *spans;
    struct jit_page *next;
};
enum { JIT_GATE_LEN = 2 };
enum {
    JIT_CACHE_HASH = 1 << 12 /* heads to begin with */,
    JIT_CACHE_PAGES = 1 << 14,
    JIT_LINK_CHUNK = 1 << 12,
    JIT_LINK_CHUNKS = 1 << 12
};
struct jit_cache {
    pthread_mutex_t lock;
    struct jit_arena arena;
    struct jit_block **hash; /* owned, hash_mask + 1 heads; grows with the blocks */
    uint32_t hash_mask, nr_hashed;
    struct jit_page **pages; /* owned, JIT_CACHE_PAGES heads */
    struct jit_link **links; /* owned: JIT_LINK_CHUNKS pieces of JIT_LINK_CHUNK, made one by one */
    uint32_t nr_links;
    struct jit_chunk *chunks; /* owned: memory of all blocks and links */
    struct jit_block **order; /* all blocks with code, by host address; none leaves but with all */
    uint32_t nr_order, cap_order;
    uint32_t *first;             /* owned, one per KiB of the arena: the first of them that starts there or later */
    size_t nr_first;             /* how many are known */
    _Atomic uint32_t generation; /* grows each time the whole cache is emptied */
    const uint8_t *leave;        /* run address a dead block jumps to, with leave_reg = its pc */
    unsigned leave_reg;
    const uint8_t *leave_call; /* instead, called: where it would return names the block (jit_cache_left); NULL: none */
    const uint8_t *call_out;   /* run address of the stub of links JIT_STUB_CALL */
    uint64_t *count;           /* owned, by order (jit/count.h); NULL: nobody counts */
    FILE *perf;                /* owned; NULL: nobody profiles */
    struct jit_dump *dump;     /* owned; the same */
    struct {
        uint64_t blocks, insns, bytes, flushes, invalidated;
    } stat;
};

/* size in bytes. The owner then emits its stubs at the arena's start, sets arena.used = arena.keep and `leave`. */
bool jit_cache_init(struct jit_cache *d, size_t size, struct err **errp);
bool jit_cache_init_private(struct jit_cache *d, size_t size, struct err **errp); /* its arena survives fork() */
void jit_cache_free(struct jit_cache *d);
/* Names code for perf from now on, in /tmp/perf-PID.map, where perf looks: blocks by the guest's pc. */
bool jit_cache_perf_map(struct jit_cache *d, struct err **errp);
/* The same with the code itself, in a jitdump file (jit/jitdump.h). */
bool jit_cache_jitdump(struct jit_cache *d, struct err **errp);
/* Names code that is no block, for either. */
void jit_cache_perf_name(struct jit_cache *d, const uint8_t *from, const uint8_t *to, const char *name);
struct jit_block *jit_cache_find(struct jit_cache *d, uint64_t pc, uint64_t place, unsigned mode);

/* One translation: begin gives the buffer, whose address modulo 16 follows from pc, and the number of link 0 (false:
 * the cache is full, empty it and start again); commit enters the block; out NULL: nothing was translated, remember
 * that the place is to be interpreted (it covers one guest byte). The owner then write-protects the page, and the
 * second one of a block that crosses. */
bool jit_cache_begin(struct jit_cache *d, uint64_t pc, struct jit_buf *b, uint32_t *first_link);
/* Between them: a block that jumps back to its own start would take fewer of the host's cache lines a little further
 * on. True: the buffer lies there now and is empty, the block is to be made again. */
bool jit_cache_place_loop(struct jit_cache *d, struct jit_buf *b, const struct jit_block_out *out, uint64_t pc);
struct jit_block *jit_cache_commit(struct jit_cache *d, uint64_t pc, uint64_t place, unsigned mode,
                                   const struct jit_block_out *out);

struct jit_link *jit_cache_link(struct jit_cache *d, uint32_t n);
/* Patches link n to jump to the block; nothing happens when it is linked already or either block is dead. */
void jit_cache_link_to(struct jit_cache *d, uint32_t n, struct jit_block *to);
/* The link whose CALL, or whose stub's, ends there; the caller has come out by it and keeps the cache from being
 * emptied until it has asked. */
uint32_t jit_cache_link_behind(struct jit_cache *d, const uint8_t *end);
/* The dead block whose leave_call ends there. */
const struct jit_block *jit_cache_left(struct jit_cache *d, const uint8_t *end);
/* Where the poll of one of the block's links goes on. */
static inline uint64_t jit_link_poll_pc(const struct jit_block *b, const struct jit_link *l)
{
    return l->poll_off == JIT_POLL_TARGET ? l->target : b->pc + l->poll_off;
}
/* Does the load at this run address poll for the block's link? */
static inline bool jit_link_polls_at(const struct jit_block *b, const struct jit_link *l, const uint8_t *rip)
{
    return l->poll && b->host + l->poll == rip;
}
/* Where tables and links from other pages enter: falls into host until the block dies. */
static inline const uint8_t *jit_block_gate(const struct jit_block *b)
{
    return b->host - JIT_GATE_LEN;
}

/* The block whose code holds the host address; NULL: none. */
struct jit_block *jit_cache_block_at(struct jit_cache *d, const uint8_t *host);
/* Number of the guest instruction whose code holds it. */
unsigned jit_block_insn_at(const struct jit_block *b, const uint8_t *host);
static inline uint64_t jit_block_pc(const struct jit_block *b, unsigned insn)
{
    return jit_off_place(b->pc, b->peek_by, jit_off_of(b->map[2 * insn + 1]));
}
static inline unsigned jit_block_mark(const struct jit_block *b, unsigned insn)
{
    return jit_mark_of(b->map[2 * insn + 1]);
}

/* Bytes [off, off + len) of page no were or will be written: kills the blocks made from them. True when no block is
 * left on the page. Takes the lock itself; any thread. */
bool jit_cache_written(struct jit_cache *d, uint64_t no, unsigned off, unsigned len);
/* The same with the lock held. */
bool jit_cache_written_held(struct jit_cache *d, uint64_t no, unsigned off, unsigned len);
/* Takes the block out of use: its place is translated anew. Code that runs in it goes on to its end. */
void jit_cache_kill(struct jit_cache *d, struct jit_block *b);
/* Every way from block to block leads to the runtime again, so that whoever is in one comes out. The caller holds the
 * lock. */
void jit_cache_unlink_all(struct jit_cache *d);
/* Empties all. The caller holds the lock and has seen to it that no thread runs translated code or keeps a block. */
void jit_cache_empty(struct jit_cache *d);

#endif
