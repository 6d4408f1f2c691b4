/* What a translator front end hands to the code cache: one block of host code, its patchable exits, and its map from
 * host to guest positions. Shared by the x86 rewriter and the IR back end; knows no guest.
 *
 * Rules every front end keeps:
 * - The guarded entry is at offset 0; `entry` is where links from the same guest page arrive (0 when there is no
 * guard). The cache puts a gate before it and the way out of a dead block behind it.
 * - The rel32 of a link lies within 8 aligned bytes, so that one store patches it under running CPUs. Unlinked it goes
 * to `stub`, code of the block that leaves to the runtime naming the link by its number or, by being a CALL, its place.
 * - Loads that poll (`poll`) read through a pointer the runtime invalidates to stop the vCPU; the fault resumes at
 *   poll_pc, so they stand where guest state is complete.
 * - Guest state is complete at host_off[i] for every i. */
#ifndef JIT_BLOCK_H
#define JIT_BLOCK_H

#include "base/bytes.h"

enum {
    JIT_BLOCK_MAX_INSN = 64,  /* what front ends aim at */
    JIT_BLOCK_TOP_INSN = 128, /* a loop that closes a little later may have as many */
    JIT_BLOCK_MAX_LINKS = 80,
    JIT_BLOCK_ROOM = 64 * 1024 - 1 /* most bytes one block can take: offsets fit 16 bits, below JIT_STUB_CALL */
};

/* An entry of guest_off: where an instruction lies in its block, and three bits of the front end's for its own use
 * after a fault there. */
enum { JIT_OFF_BITS = 13 };
/* What is added to the offset of an instruction that lies in the page the block peeked at: it counts from there. */
enum { JIT_OFF_PEEK = 1 << 12 };
static inline unsigned jit_off_of(uint16_t v)
{
    return v & ((1u << JIT_OFF_BITS) - 1);
}
static inline unsigned jit_mark_of(uint16_t v)
{
    return v >> JIT_OFF_BITS;
}
/* The place of an instruction with the offset `off` in a block at pc that peeked so many pages from its own. */
static inline uint64_t jit_off_place(uint64_t pc, int32_t peek_by, unsigned off)
{
    return off & JIT_OFF_PEEK ? (pc & ~UINT64_C(4095)) + (uint64_t)(int64_t)peek_by * 4096 + (off & 4095) : pc + off;
}
static inline uint16_t jit_marked(uint16_t v, unsigned mark)
{
    return (uint16_t)(jit_off_of(v) | mark << JIT_OFF_BITS);
}

/* A JIT_LINK_CONT without a stub is no link: the block goes on behind a call, and death makes what leaves when
 * something else came leave always. `at` is the rel32 of a JNE, whose two-byte opcode lies within 8 aligned bytes; or,
 * with mode_or JIT_DEAD_BYTE | value, of a byte that becomes that value. */
enum { JIT_DEAD_BYTE = 0x100 };
/* One with mode_or JIT_HOT is no link either: its stub is called when a jump that the code counts has gone often enough
 * where it was not made for; `target` is where that jump lies, `inner` 1 where it is a conditional one. */
enum { JIT_HOT = 0x8000 };
/* The stub of a link that is a CALL: one for all (jit_cache.call_out), which finds its place by where it would return.
 * A stub of the block ends with a CALL for that reason. */
enum { JIT_STUB_CALL = 0xffff };
enum jit_link_kind { JIT_LINK_JMP, JIT_LINK_CALL, JIT_LINK_CONT /* runs after a return */, JIT_LINK_JCC };
struct jit_link_out {
    uint32_t at;   /* offset of the rel32 field from the block's start */
    uint32_t stub; /* offset of the unlinked target (its exit stub); 0: see JIT_LINK_CONT; JIT_STUB_CALL: the cache's */
    uint32_t poll; /* offset of the polling load, 0 = none */
    uint64_t target;
    uint64_t poll_pc; /* where to go on after a poll: the target, or before a call the call itself */
    enum jit_link_kind kind;
    uint32_t inner;   /* a link to the block itself goes to this offset, not to its entry; 0: to its entry */
    unsigned mode_or; /* mode bits of the target beyond those of the CPU: a variant of its code */
};
/* In the context of a runtime whose stubs make system calls by themselves; zero at first. Such a call is no stay in
 * translated code: `inside` is 0 while it lasts. */
struct jit_outside {
    _Atomic uint32_t inside; /* in translated code, or about to look up where it left it: the cache is not emptied */
    _Atomic uint32_t hold;   /* the runtime is wanted: no call may begin, and behind one it is left for */
    uint32_t failed;         /* left because the kernel could not reach memory that we may have protected */
};
struct jit_block_out {
    uint32_t entry; /* offset of the unguarded entry */
    uint32_t len;   /* host bytes */
    uint32_t guest_len;
    uint64_t tail_no;               /* number of the second page, when the guest bytes run over the end of the first */
    uint16_t peek_first, peek_last; /* more bytes that the code depends on; 0, 0: none */
    int32_t peek_by;                /* in the page so many behind the first */
    uint32_t end_poll;              /* offset of a polling load that restarts the last instruction, 0 = none */
    unsigned nr_insn, nr_links;
    uint16_t host_off[JIT_BLOCK_TOP_INSN + 1];  /* start of each guest instruction's code; the last: the end */
    uint16_t guest_off[JIT_BLOCK_TOP_INSN + 1]; /* jit_off_of; above it the front end's mark (jit_mark_of) */
    struct jit_link_out link[JIT_BLOCK_MAX_LINKS];
};

#endif
