/* The user-mode runtime: runs guest code from the code cache (jit/cache.h) for any front end that makes jit blocks.
 *
 * A front end (the x86 rewriter; each IR guest) brings its own context (what GS points to), its own stubs and its own
 * host-register convention. The runtime owns the cache, the threads, links, shadow stacks, host signals, code that
 * changes, and stopping. Blocks: pc is the guest address, place is the same address, mode is the front end's.
 *
 * Stubs a front end emits once, at the start of the arena (names as blocks use them):
 *   enter     C: int enter(void): loads guest state, jumps to the context's enter target
 *   exits     save all guest state in the context or CPU, return from enter with an enum lx_exit
 *   jump      guest pc -> host code by the context's jump table, else the dispatch exit
 *   ret_miss  the same when a return was not predicted by the shadow stack
 * The host's RSP is the shadow stack while translated code runs, of host return addresses; or the front end runs on the
 * ordinary stack and sets view.ss_rsp NULL (signals arrive on an alternate stack anyway).
 *
 * Host signals in translated code: the handler notes signal, host rip and address, and resumes at stubs.exit_signal
 * with all host registers as they were; enter returns LX_EXIT_SIGNAL and the runtime finds the guest instruction by the
 * block's map. Guest state must be complete at the start of every instruction that can fault, or front.fix repairs it.
 *
 * Stopping: lx_rt_kick makes *view.poll LX_POLL_BAD; loads that poll fault; the link's poll_pc (or, in a stub,
 * *view.pc) is where the guest stands. Where calls_poll says so a push on the full shadow stack is such a load. With
 * steps_out there are no such loads in blocks: the handler of the signal that wants the thread has the host trap after
 * each instruction until one of the guest's begins (lx_rt_interrupt). Other threads, which want it when the cache is
 * full, take the links away.
 *
 * System calls the kernel takes as they are may be made by a stub (direct.h) between two blocks; *view.out.
 *
 * Code that changes: a page from which code was translated loses PROT_WRITE on the host (the guest's view keeps it). A
 * write faults, the runtime kills the page's blocks and gives the right back. Pages that are written again and again
 * are run one block at a time with their bytes compared (LX_MODE_CHECK is not seen by front ends).
 */
#ifndef USER_LINUX_RUN_H
#define USER_LINUX_RUN_H

#include "jit/cache.h"
#include "user/linux/arch.h"

enum lx_exit {
    LX_EXIT_INTERP = 1, /* *view.pc: the front end's `step` executes one instruction there */
    LX_EXIT_DISPATCH,   /* *view.pc: find or make its block */
    LX_EXIT_LINK,       /* *view.link: number of the link to resolve and patch */
    LX_EXIT_LINK_AT,    /* the same, *view.link: where its call, or its stub's, would return */
    LX_EXIT_LEAVE,      /* *view.link: where a call before a dead block would return */
    LX_EXIT_HOT,        /* the same for a JIT_HOT: *view.pc: where the jump went, *view.hot_pc: where to go on */
    LX_EXIT_SIGNAL,     /* from stubs.exit_signal */
    LX_EXIT_SYSCALL,    /* *view.pc: behind the system call instruction */
    LX_EXIT_TRAP        /* *view.pc: at the instruction; cpu->fault was filled by a front end's helper */
};
/* In the kernel's half, where no guest stumbles: near zero it would be the member of an object at NULL. */
#define LX_POLL_BAD ((uintptr_t)0xffff800000f0f0f8)

/* Where the runtime finds its fields in a front end's context. */
struct lx_view {
    _Atomic uintptr_t *poll; /* what polls load through */
    uintptr_t poll_ok;       /* its value when nothing is wanted */
    uint64_t *pc, *link;     /* set by exits */
    uint64_t *hot_pc;        /* set before a JIT_HOT: where to go on; NULL: the front end has none */
    uint64_t *ss_rsp;        /* NULL: no shadow stack */
    struct jit_outside *out;
};
struct lx_rt_thread {
    struct lx_rt *rt;
    struct lx_cpu *cpu;
    void *ctx;           /* owned; front.ctx_size bytes, 64-byte aligned, zeroed */
    struct lx_view view; /* filled by front.ctx_init */
    uint8_t *ss;         /* owned */
    uint64_t ss_top;
    uint32_t generation;
    _Atomic bool in_code, kicked;
    bool stepping, stepped_pushf; /* on the way to where it can stop */
    int sig, sig_code;
    uint64_t sig_trap, sig_err;
    uint64_t sig_eflags;
    uintptr_t sig_rip, sig_addr;
    void *altstack;   /* owned */
    void *front_data; /* owned: what the front end keeps per thread, one allocation */
    unsigned same_fault;
    struct lx_rt_thread *next; /* in rt->threads */
};
struct lx_front {
    const char *name;
    size_t ctx_size;
    unsigned leave_reg; /* host register that holds the pc when a dead block jumps to `dispatch` */
    bool calls_poll;    /* a push on the full shadow stack is a poll: goes on at the link's poll_pc, or at *view.pc */
    /* Emits the stubs into b and fills rt->stub. */
    bool (*stubs)(struct lx_rt *rt, struct jit_buf *b, struct err **errp);
    /* Fills t->view and what the context needs from the start. */
    void (*ctx_init)(struct lx_rt_thread *t);
    unsigned (*mode)(struct lx_rt_thread *t); /* translation-mode bits of the CPU as it is */
    /* Translates the block at pc from at most avail bytes (they end at a page end; all readable). first_link: number of
     * link 0. False: the first instruction is not translated (step executes it). */
    bool (*translate)(struct lx_rt_thread *t, uint64_t pc, unsigned mode, size_t avail, uint32_t first_link,
                      struct jit_buf *b, struct jit_block_out *out);
    /* Enters translated code at target with the CPU's state; on return the CPU's state is complete but for pc. */
    int (*enter)(struct lx_rt_thread *t, const uint8_t *target);
    uint64_t (*pc)(const struct lx_rt_thread *t);
    void (*set_pc)(struct lx_rt_thread *t, uint64_t pc);
    /* Executes one instruction at pc, in C. LX_STOP_KICK: done, go on. */
    enum lx_stop (*step)(struct lx_rt_thread *t);
    void (*jc_set)(struct lx_rt_thread *t, uint64_t pc, const uint8_t *host);
    const uint8_t *(*jc_get)(const struct lx_rt_thread *t, uint64_t pc); /* NULL: not there. Optional */
    void (*jc_clear)(struct lx_rt_thread *t);
    /* Optional. Beside the poll pointer: makes translated code stop at its next chance, or lets it run again. May be
     * called from signal handlers and other threads. */
    void (*kick)(struct lx_rt_thread *t, bool stop);
    /* Optional. After LX_EXIT_SIGNAL: repairs state for a fault inside instruction `insn` of the block. */
    void (*fix)(struct lx_rt_thread *t, const struct jit_block *b, unsigned insn);
    uint64_t pc_bits; /* bits of a pc that are no part of the address (Arm: bit 0 says T32) */
    bool resumes; /* no interpreter: a store into a page with code is done again as it is; its bytes count from the next
                     block */
    bool steps_out;     /* blocks have no polls: state is complete, but for fix, where an instruction's code starts */
    bool poll_restarts; /* a poll that no link names restarts its instruction; else *view.pc says where to go on */
};
struct lx_rt_stubs {
    const uint8_t *enter, *exit_interp, *exit_dispatch, *exit_link, *exit_signal, *exit_syscall, *exit_trap, *jump,
        *ret_miss, *ret_bottom; /* ret_bottom: what the lowest shadow-stack word returns to; NULL: jump */
    /* A system call that a stub makes (direct.h): a signal taken from begin up to end goes on at undo. NULL: none. */
    const uint8_t *call_begin, *call_end, *call_undo;
    const uint8_t *exit_call, *exit_leave; /* jit_cache's call_out and leave_call; NULL: none */
    const void *front;                     /* the front end's own */
};
enum { LX_WATCH_HEADS = 1024 };
struct lx_watch {
    uint64_t no; /* page */
    bool prot;   /* its write permission is taken */
    unsigned writes;
    struct lx_watch *next;
};
struct lx_rt {
    const struct lx_front *front;
    struct jit_cache cache;
    struct lx_rt_stubs stub;
    struct lx_rt_thread *threads;           /* under cache.lock */
    struct lx_watch *watch[LX_WATCH_HEADS]; /* writable pages with code, under cache.lock */
    _Atomic unsigned nr_watched;
    bool one_insn, no_link;
    bool single;                  /* lx_rt_run comes back after each block (a debugger looks) */
    _Atomic bool flushing;        /* the cache is about to be emptied, by: */
    bool alone;                   /* under cache.lock: the block being made reaches for no other code */
    struct lx_rt_thread *emptier; /* under cache.lock; NULL: nobody */
    struct lx_way *ways;          /* hot.h; owned; under cache.lock */
    struct lx_kept *kept;         /* owned; translations on disk (kept.h); NULL: none */
    struct {
        uint64_t ns, insns, bytes, blocks;
    } made; /* with -d jit, under cache.lock: what was translated */
};

/* The process's translator. cache_size in bytes. */
struct lx_rt *lx_rt_new(const struct lx_front *f, size_t cache_size, struct err **errp);
/* A CPU's part; on the thread that creates the CPU. */
bool lx_rt_thread_new(struct lx_rt *rt, struct lx_cpu *cpu, struct err **errp);
void lx_rt_thread_free(struct lx_rt_thread *t);
/* Its host thread was ended from outside, wherever it was. id: what it was to the C library's locks. On another. */
void lx_rt_thread_killed(struct lx_rt_thread *t, int id);
/* On the thread that will run it, once: GS, alternate stack. */
void lx_rt_thread_start(struct lx_rt_thread *t);
/* Runs until a system call, a guest fault or a kick. An architecture's run() usually is just this. */
enum lx_stop lx_rt_run(struct lx_rt_thread *t);
/* -d jit: writes what rt->made holds to the log. */
void lx_rt_report(const struct lx_rt *rt);
/* Into the log at the end: how often each block was entered, where that was counted. Takes the cache's lock. */
void lx_rt_counts(struct lx_rt *rt);
/* Into the log (-d in_asm, out_asm): a block just made. show.c; only where guest memory may be read (lx_guarded). */
void lx_rt_show(const struct lx_rt *rt, const struct jit_block *b);
/* While a block is made: how many bytes at pc, all on its page, it may be made from beyond its own; 0: none. With
 * `watch` they are watched from then on. Reading them may fault, and then the block is made without such. */
size_t lx_rt_reach(struct lx_rt *rt, uint64_t pc, bool watch);
/* From now on every instruction is a block of its own and lx_rt_run comes back after each; on the thread itself. */
void lx_rt_single(struct lx_rt_thread *t);
/* Makes it stop at its next poll; any thread. */
void lx_rt_kick(struct lx_rt_thread *t);
/* Makes the thread that the host's handler runs on stop soon. context: the handler's. */
void lx_rt_interrupt(struct lx_rt_thread *t, void *context);
/* The guest's mapping changed: [addr, addr + len) was unmapped, replaced or had its rights changed: forgets code. */
void lx_rt_unmapped(struct lx_rt *rt, uint64_t addr, uint64_t len);
/* Code bytes were changed by other means than a store (icache flush calls are safe to ignore otherwise). */
void lx_rt_code_changed(struct lx_rt *rt, uint64_t addr, uint64_t len);
/* The guest (or the kernel for it) is about to write there: true when a page had been watched and is writable again. */
bool lx_rt_written(struct lx_rt *rt, uint64_t addr, uint64_t len);
bool lx_rt_written_any(struct lx_rt *rt);
extern _Thread_local struct lx_rt_thread *lx_rt_self;
/* In the child after fork: takes the cache out of the parent's reach and forgets the other threads. */
bool lx_rt_after_fork(struct lx_rt *rt, struct lx_rt_thread *self, struct err **errp);

#endif
