/* Inside the translating accelerator: code cache, contexts, stubs. x86 guests on x86-64 hosts.
 *
 * Locks: the code cache's guards the block tables, links, page pairs and the arena. It is taken on vCPU threads outside
 * translated code and may be taken with the machine lock held (a device's DMA hits a code page), never the other way
 * round. */
#ifndef ACCEL_DBT_DBT_INT_H
#define ACCEL_DBT_DBT_INT_H

#include "accel/accel.h"
#include "guest/x86/ops.h"
#include "guest/x86/rw.h"
#include "guest/x86/state.h"
#include "jit/cache.h"
#include "jit/count.h"

struct dbt_pair { /* (linear page, physical page): the ids that guards compare */
    uint64_t lin, no;
    uint32_t id;
    struct dbt_pair *next;
};
enum { DBT_PAIR_HASH = 1 << 14, DBT_CTX = 16, DBT_XTLB = 256 };

struct dbt_lockstep;
struct dbt_tier;
struct strbuf;
struct dbt {
    struct machine *m;
    struct jit_cache cache; /* places: RAM page number << 12 | offset */
    struct x86_stubs stubs;
    struct dbt_pair **pairs; /* owned, DBT_PAIR_HASH heads */
    uint32_t next_pair;
    uint32_t next_slot;
    uint8_t hot[X86_HOT_BITS / 8];     /* see x86_rw_env; forgotten when the cache is emptied */
    uint8_t no_loop[X86_HOT_BITS / 8]; /* the same */
    _Atomic bool flushing;
    enum x86_rw_vec host_vec;
    bool count;
    unsigned mode_or, no_link;     /* mode_or: X86_RWM_ bits of every block */
    uint32_t tlb_size, nr_slots;   /* at most; X86_TLB_SIZE and X86_SITE_SLOTS, or fewer for tests */
    struct dbt_lockstep *lockstep; /* owned; NULL: translated code is not compared */
    struct dbt_tier *_Atomic tier; /* owned; NULL: its thread does not run */
    bool tier_on, tier_first;      /* find what is hot; take everything for hot */
    struct dbt_cpu *cpus[1024];
};
enum dbt_exit {
    DBT_EXIT_INTERP = 1,
    DBT_EXIT_DISPATCH,
    DBT_EXIT_LINK,
    DBT_EXIT_LEAVE,
    DBT_EXIT_SLOW,
    DBT_EXIT_SIGNAL,
    DBT_EXIT_RET,
    DBT_EXIT_NO_LOOP
};

struct dbt_xtlb {
    uint64_t lin; /* page, or no canonical address: empty */
    uint64_t no;  /* physical page number */
    const uint8_t *host;
    struct mem_ram *ram;
    uint64_t ram_off;
};
struct dbt_cpu {
    struct dbt *dbt;
    struct x86_cpu *cpu;
    struct x86_ctx *ctx[DBT_CTX]; /* owned; allocated when first needed */
    struct {
        uint64_t key, cr3;
        uint64_t used; /* for least-recently-used replacement; 0: never */
    } tag[DBT_CTX];    /* what each context is for, apart from the contexts: a search touches two cache lines */
    struct dbt_xtlb xtlb[DBT_CTX][DBT_XTLB];
    struct x86_ctx *_Atomic cur; /* what GS holds */
    unsigned cur_n;
    bool stale[DBT_CTX];
    bool switch_ctx;
    const struct clk_fast *host_clock; /* NULL: RDTSC is interpreted */
    bool missed;                       /* translated code left because it did not find rip's block */
    uint64_t clock;                    /* for least-recently-used contexts */
    uint8_t *ss;                       /* shadow stack mapping, owned */
    uint64_t ss_top;
    uint64_t last_cr3[2], last_key[2]; /* by privilege: the shadow stack is dropped when they change */
    uint32_t generation;
    _Atomic bool in_code, kicked;
    uint32_t hot_since[1024]; /* by slot: when its misses ran over last; host TSC / 256 */
    pthread_t thread;         /* that runs it */
    _Atomic uintptr_t sample; /* where the thread was when last asked, in translated code; 0: not asked, elsewhere */
    int sig;
    uintptr_t sig_rip, sig_addr;
    void *altstack;
    struct {
        uint64_t hot, enters, interp, slow, fills, links, dispatch, polls, flushes, signals;
        uint32_t by_op[X86_I_NR]; /* interpreted instructions */
    } stat;
};
/* A site is hot when its slot misses 256 times within that many cycles of the host's TSC: some 0.5 ms. */
enum { DBT_HOT_TIME = 1500000 };
/* A program that has filled so many slots is too large for them: what is translated from then on probes the TLB, until
 * it turns out to be hot. */
enum { DBT_MANY_SLOTS = 2048 };
enum { DBT_SS_SIZE = 256 * 1024 };
/* In a slot or the TLB: not canonical, nor near anything that is. */
#define DBT_EMPTY    (UINT64_C(1) << 51)
/* A load from here faults: the way to stop code at its next poll. */
#define DBT_POLL_BAD ((uintptr_t)0xfff8)

/* dbt.c */
struct jit_block *dbt_block_for(struct dbt_cpu *c, uint64_t pc, unsigned mode, const uint8_t **code);
enum dbt_ran {
    DBT_RAN_NOTHING, /* something wants the loop first */
    DBT_RAN,         /* rip is where to go on */
    DBT_RAN_INTERP,  /* the instruction at rip is to be interpreted */
    DBT_RAN_SPLIT    /* lockstep: the code at rip is to be run as X86_RWM_SPLIT */
};
/* Runs translated code at target, until something needs the loop. */
enum dbt_ran dbt_run_at(struct dbt_cpu *c, struct x86_ctx *x, unsigned mode, const uint8_t *target);
/* lockstep.c */
bool dbt_lockstep_init(struct dbt *d, uint64_t sample, struct err **errp);
bool dbt_lockstep_cpu(struct dbt_cpu *c, struct err **errp);
/* Runs a block at rip by both ways. *interp: the instruction at rip is to be interpreted. False: they differ, and it
 * was said how. */
bool dbt_lockstep_run(struct dbt_cpu *c, bool *interp);
void dbt_lockstep_info(const struct dbt *d, struct strbuf *s);
/* stubs.c */
bool dbt_make_stubs(struct dbt *d, struct err **errp);
/* translate.c; with the cache's lock held unless it says otherwise */
/* False: the cache is full. *res NULL: interpret this time (the next page cannot be fetched from). */
bool dbt_translate(struct dbt_cpu *c, uint64_t pc, const struct dbt_xtlb *x, unsigned mode, struct jit_block **res);
const struct dbt_xtlb *dbt_next_page(struct dbt_cpu *c, uint64_t pc); /* the page after pc's, as dbt_exec_page */
uint32_t dbt_pair_id(struct dbt *d, uint64_t lin, uint64_t no);
void dbt_drop_pairs(struct dbt *d);
bool dbt_code_written(void *opaque, struct mem_ram *m, uint64_t off, uint64_t len); /* takes the lock */
/* -d in_asm, -d out_asm (show.c): code and avail as it was translated from, mode as the decoder's. */
void dbt_show_block(const struct jit_block *b, const uint8_t *code, size_t avail, int mode);
void dbt_flush_cache(struct dbt_cpu *c); /* takes the lock */
/* ctx.c */
unsigned dbt_mode(const struct dbt_cpu *c);
bool dbt_flat(const struct x86_cpu *c);
bool dbt_canonical(const struct x86_cpu *c, uint64_t lin);
struct x86_ctx *dbt_pick_ctx(struct dbt_cpu *c, unsigned mode);
void dbt_ctx_flush(struct dbt_cpu *c, unsigned n);
void dbt_clear_jumps(struct x86_ctx *x);
bool dbt_ctx_fill(struct dbt_cpu *c, uint64_t lin, bool write);
/* A load of up to 64 bytes over the end of a page: reads it into the context; *add leads from lin to there. False: one
 * of the pages cannot be read as plain memory. */
bool dbt_ctx_bounce(struct dbt_cpu *c, uint64_t lin, unsigned size, uint64_t *add);
static inline struct x86_tlb_entry *dbt_tlb_entry(struct x86_ctx *x, uint64_t lin)
{
    return &x->tlb[(lin & x->tlb_mask) >> 12];
}
/* Executable page behind lin; NULL: fetch faults or it is not memory. */
const struct dbt_xtlb *dbt_exec_page(struct dbt_cpu *c, uint64_t lin);
void dbt_page_is_code(void *opaque, struct mem_ram *ram, uint64_t off); /* drops cached write permission everywhere */
void dbt_hooks(struct dbt_cpu *c);
void dbt_ss_reset(struct dbt_cpu *c);
/* tier.c */
bool dbt_tier_start(struct dbt *d, struct err **errp);
void dbt_tier_stop(struct dbt *d);
/* Is the block at this place to be made for speed? Until the next dbt_tier_forget. With the cache's lock. */
bool dbt_tier_is_hot(const struct dbt *d, uint64_t place);
void dbt_tier_forget(struct dbt *d);
void dbt_tier_lock(struct dbt *d); /* meanwhile it looks at no vCPU */
void dbt_tier_unlock(struct dbt *d);
void dbt_tier_info(const struct dbt *d, struct strbuf *s);
/* fault.c */
/* Asks a vCPU's thread where it is. By default it is ignored, so that one who gets it late takes no harm. */
#define DBT_SIG_WHERE SIGURG
bool dbt_install_signals(struct err **errp);
void dbt_thread_signals(struct dbt_cpu *c);
extern _Thread_local struct dbt_cpu *dbt_self;

#endif
