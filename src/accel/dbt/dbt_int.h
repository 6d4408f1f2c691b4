/* Inside the translating accelerator: code cache, contexts, stubs. x86 guests on x86-64 hosts.
 *
 * Locks: dbt.lock guards the block tables, links and the arena. It is taken on vCPU threads outside translated code and
 * may be taken with the machine lock held (a device's DMA hits a code page), never the other way round. */
#ifndef ACCEL_DBT_DBT_INT_H
#define ACCEL_DBT_DBT_INT_H

#include "accel/accel.h"
#include "guest/x86/rw.h"
#include "guest/x86/state.h"
#include "jit/arena.h"

struct dbt_block;
struct dbt_link {
    struct dbt_block *from, *to; /* to: NULL while unlinked */
    const uint8_t *at;           /* run address of the rel32 */
    const uint8_t *stub;         /* where it goes unlinked */
    const uint8_t *poll;         /* NULL = none */
    uint64_t target, poll_pc;
    struct list in; /* in to->incoming */
    bool cont;      /* runs after a return: left alone by relinking rules, redirected when the block dies */
};
struct dbt_block {
    uint64_t pc;
    uint64_t pa; /* page number in the RAM number space << 12 | offset */
    unsigned mode;
    uint32_t guest_len;
    const uint8_t *host; /* run address of the guarded entry; NULL: interpret the first instruction */
    uint32_t entry, len;
    uint32_t first_link, nr_links;
    uint16_t nr_insn;
    bool dead;
    uint16_t *map; /* owned: nr_insn + 1 pairs of host and guest offsets */
    struct dbt_block *hnext, *pnext;
    struct list incoming;
};
struct dbt_page { /* a physical page that holds translated code */
    uint64_t no;
    uint64_t granules; /* 64-byte pieces some block was made from */
    struct dbt_block *blocks;
    struct dbt_page *next;
};
struct dbt_pair { /* (linear page, physical page): the ids that guards compare */
    uint64_t lin, no;
    uint32_t id;
    struct dbt_pair *next;
};
enum {
    DBT_HASH = 1 << 16,
    DBT_PAGE_HASH = 1 << 14,
    DBT_LINK_CHUNK = 1 << 12,
    DBT_LINK_CHUNKS = 1 << 12,
    DBT_CTX = 16,
    DBT_XTLB = 256
};

struct dbt {
    struct machine *m;
    pthread_mutex_t lock;
    struct jit_arena arena;
    struct x86_stubs stubs;
    struct dbt_block **hash; /* DBT_HASH heads */
    struct dbt_page **pages; /* DBT_PAGE_HASH heads */
    struct dbt_pair **pairs; /* DBT_PAGE_HASH heads */
    uint32_t next_pair;
    struct dbt_link *links[DBT_LINK_CHUNKS];
    uint32_t nr_links;
    struct dbt_block **order; /* all blocks with code, by host address */
    uint32_t nr_order, cap_order;
    uint32_t next_slot;
    _Atomic uint32_t generation; /* grows with each flush of the whole cache */
    _Atomic bool flushing;
    bool host_avx, fast_pext;
    unsigned one_insn, no_link;
    struct {
        uint64_t blocks, insns, bytes, flushes, invalidated;
    } stat;
    struct dbt_cpu *cpus[1024];
};
enum dbt_exit { DBT_EXIT_INTERP = 1, DBT_EXIT_DISPATCH, DBT_EXIT_LINK, DBT_EXIT_SLOW, DBT_EXIT_SIGNAL };

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
    struct dbt_xtlb xtlb[DBT_CTX][DBT_XTLB];
    struct x86_ctx *_Atomic cur; /* what GS holds */
    unsigned cur_n;
    bool stale[DBT_CTX];
    bool switch_ctx;
    uint64_t clock; /* for least-recently-used contexts */
    uint8_t *ss;    /* shadow stack mapping, owned */
    uint64_t ss_top;
    uint64_t last_cr3[2]; /* by privilege: the shadow stack is dropped when it changes */
    uint32_t generation;
    _Atomic bool in_code, kicked;
    int sig;
    uintptr_t sig_rip, sig_addr;
    void *altstack;
    struct {
        uint64_t enters, interp, slow, fills, links, dispatch, polls, flushes, signals;
    } stat;
};
enum { DBT_SS_SIZE = 256 * 1024 };
/* A load from here faults: the way to stop code at its next poll. */
#define DBT_POLL_BAD ((uintptr_t)0xfff8)

/* stubs.c */
bool dbt_make_stubs(struct dbt *d, struct err **errp);
/* cache.c: with d->lock held. */
struct dbt_block *dbt_find(struct dbt *d, uint64_t pc, uint64_t pa, unsigned mode);
struct dbt_block *dbt_translate(struct dbt_cpu *c, uint64_t pc, const struct dbt_xtlb *x, unsigned mode);
struct dbt_link *dbt_link_get(struct dbt *d, uint32_t n);
void dbt_link_to(struct dbt *d, struct dbt_link *l, struct dbt_block *to);
uint32_t dbt_pair_id(struct dbt *d, uint64_t lin, uint64_t no);
struct dbt_block *dbt_block_at(struct dbt *d, const uint8_t *host);
unsigned dbt_insn_at(const struct dbt_block *b, const uint8_t *host);
bool dbt_code_written(void *opaque, struct mem_ram *m, uint64_t off, uint64_t len); /* takes the lock */
void dbt_flush_cache(struct dbt_cpu *c);
void dbt_cache_free(struct dbt *d);
/* ctx.c */
unsigned dbt_mode(const struct x86_cpu *c);
bool dbt_flat(const struct x86_cpu *c);
struct x86_ctx *dbt_pick_ctx(struct dbt_cpu *c, unsigned mode);
void dbt_ctx_flush(struct dbt_cpu *c, unsigned n);
void dbt_clear_jumps(struct x86_ctx *x);
bool dbt_ctx_fill(struct dbt_cpu *c, uint64_t lin, bool write);
/* Executable page behind lin; NULL: fetch faults or it is not memory. */
const struct dbt_xtlb *dbt_exec_page(struct dbt_cpu *c, uint64_t lin);
void dbt_page_is_code(void *opaque, struct mem_ram *ram, uint64_t off); /* drops cached write permission everywhere */
void dbt_hooks(struct dbt_cpu *c);
void dbt_ss_reset(struct dbt_cpu *c);
/* fault.c */
bool dbt_install_signals(struct err **errp);
void dbt_thread_signals(struct dbt_cpu *c);
extern _Thread_local struct dbt_cpu *dbt_self;

#endif
