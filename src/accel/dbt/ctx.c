/* Address-space contexts: what one vCPU has learnt about one CR3 and privilege class, kept while others run.
 *
 * A context is exact for its key as long as no flush was reported; flushes mark contexts stale and the work is done
 * when one is used again. Slots and TLB entries are logged as they are filled, so that emptying costs what filling did.
 */
#include "accel/dbt/dbt_int.h"

#include <stdatomic.h>
#include <sys/mman.h>

enum { PAGE = 4096, TLB_FIRST = 2048 /* entries, until more are wanted */ };
#define EMPTY DBT_EMPTY

static bool spans_all(const struct x86_seg *s)
{
    return s->limit == UINT32_MAX && (s->flags & (X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_E | X86_SEG_W)) ==
                                         (X86_SEG_P | X86_SEG_S | X86_SEG_W);
}

/* 32-bit code is translated only with flat CS, SS, DS and ES. */
bool dbt_flat(const struct x86_cpu *c)
{
    const struct x86_seg *cs = &c->seg[X86_CS];

    if (c->mode == X86_MODE_64)
        return true;
    if (c->mode != X86_MODE_32 || cs->base || cs->limit != UINT32_MAX)
        return false;
    return spans_all(&c->seg[X86_DS]) && !c->seg[X86_DS].base && spans_all(&c->seg[X86_SS]) && !c->seg[X86_SS].base &&
           c->seg[X86_SS].flags & X86_SEG_DB && spans_all(&c->seg[X86_ES]) && !c->seg[X86_ES].base;
}

unsigned dbt_mode(const struct dbt_cpu *d)
{
    const struct x86_cpu *c = d->cpu;
    unsigned m = c->mode == X86_MODE_64 ? X86_RWM_64 | X86_RWM_FS | X86_RWM_GS : 0;

    if (!m) {
        m |= spans_all(&c->seg[X86_FS]) ? X86_RWM_FS : 0;
        m |= spans_all(&c->seg[X86_GS]) ? X86_RWM_GS : 0;
    }

    if (c->cpl == 3)
        m |= X86_RWM_USER;
    if (d->host_clock && (!c->cpl || !(c->cr4 & X86_CR4_TSD)))
        m |= X86_RWM_TSC;
    if (!(c->cr0 & (X86_CR0_TS | X86_CR0_EM))) {
        m |= X86_RWM_FPU;
        if (c->cr4 & X86_CR4_OSFXSR)
            m |= X86_RWM_SSE;
        if (c->cr4 & X86_CR4_OSXSAVE && (c->xcr0 & 6) == 6)
            m |= X86_RWM_AVX | (c->wide && (c->xcr0 & 0xe0) == 0xe0 ? X86_RWM_AVX512 : 0u);
    }
    return m;
}

/* Everything but CR3 that the permission of an access or the meaning of a pc depends on. */
static uint64_t ctx_key(const struct x86_cpu *c, unsigned mode)
{
    uint64_t k = mode;

    k |= (uint64_t) !!(c->cr0 & X86_CR0_PG) << 16 | (uint64_t) !!(c->cr0 & X86_CR0_WP) << 17;
    k |= (uint64_t) !!(c->cr4 & X86_CR4_PAE) << 18 | (uint64_t) !!(c->cr4 & X86_CR4_PSE) << 19;
    k |= (uint64_t) !!(c->cr4 & X86_CR4_SMEP) << 20 | (uint64_t) !!(c->cr4 & X86_CR4_SMAP) << 21;
    k |= (uint64_t) !!(c->cr4 & X86_CR4_PKE) << 22 | (uint64_t) !!(c->cr4 & X86_CR4_LA57) << 23;
    k |= (uint64_t) !!(c->efer & X86_EFER_NXE) << 24 | (uint64_t)c->long_mode << 25 | (uint64_t)c->smm << 26;
    if (c->cr4 & X86_CR4_SMAP && c->cpl != 3 && c->rflags & X86_AC)
        k |= UINT64_C(1) << 27;
    if (c->cr4 & X86_CR4_PKE)
        k |= (uint64_t)c->pkru << 32;
    return k;
}

static void empty_tlb(struct x86_ctx *x)
{
    bool all = x->nr_tlb_log >= ARRAY_LEN(x->tlb_log);
    unsigned n = all ? x86_tlb_nr(x) : x->nr_tlb_log;

    for (unsigned i = 0; i < n; i++) {
        struct x86_tlb_entry *e = &x->tlb[all ? i : x->tlb_log[i]];

        e->r = e->w = EMPTY;
    }
    x->nr_tlb_log = 0;
}

/* From here on the TLB has its first n entries. */
static void set_tlb(struct x86_ctx *x, uint32_t n)
{
    x->tlb_mask = (uint64_t)(n - 1) * PAGE;
    x->tlb_offset = x->tlb_mask >> X86_TLB_SHIFT;
    x->tlb_evicted = 0;
}

/* Gives it n entries instead of fewer. What may be read stays known; what may be written does not, since another CPU
 * could be looking for just that entry (forget_writes). */
static void grow_tlb(struct x86_ctx *x, uint32_t n)
{
    uint32_t old = x86_tlb_nr(x);

    set_tlb(x, n);
    x->nr_tlb_log = ARRAY_LEN(x->tlb_log); /* entries move: all are to be emptied */
    for (uint32_t i = old; i < n; i++)
        x->tlb[i].r = x->tlb[i].w = EMPTY;
    for (uint32_t i = 0; i < old; i++) {
        struct x86_tlb_entry *from = &x->tlb[i], *to = from->r == EMPTY ? from : dbt_tlb_entry(x, -from->r);

        from->w = EMPTY;
        if (to == from)
            continue;
        to->add = from->add;
        to->r = from->r;
        from->r = EMPTY;
    }
}

static void empty(struct x86_ctx *x)
{
    x->ret_slot.neg_page = EMPTY;
    if (x->nr_slot_log >= ARRAY_LEN(x->slot_log) - 1) {
        for (unsigned i = 0; i < X86_SLOTS; i++)
            x->slot[i].neg_page = EMPTY;
    } else {
        for (unsigned i = 0; i < x->nr_slot_log; i++)
            x->slot[x->slot_log[i]].neg_page = EMPTY;
    }
    empty_tlb(x);
    x->nr_slot_log = 0;
    memset(x->seen, 0, sizeof x->seen);
    memset(x->wrote, 0, sizeof x->wrote);
    memset(x->big, 0, sizeof x->big);
    x->huge = 0;
    memset(x->islot, 0, sizeof x->islot);
}

void dbt_clear_jumps(struct x86_ctx *x)
{
    x86_jc_clear(x);
    memset(x->islot, 0, sizeof x->islot);
}

void dbt_ctx_flush(struct dbt_cpu *c, unsigned n)
{
    empty(c->ctx[n]);
    for (unsigned i = 0; i < DBT_XTLB; i++)
        c->xtlb[n][i].lin = EMPTY;
    c->stale[n] = false;
    c->stat.flushes++;
}

static uint32_t first_size(const struct dbt *d)
{
    return (uint32_t)min_u64(d->tlb_size, TLB_FIRST);
}

static struct x86_ctx *ctx_new(struct dbt_cpu *c)
{
    struct x86_ctx *x = try_alloc_aligned(64, sizeof *x);

    if (!x)
        return NULL;
    x->cpu = c->cpu;
    x->poll_ok = 0;
    x->poll = (uintptr_t)&x->poll_ok;
    x->jc_mask = x->jc_mask_hit = X86_JC_MASK;
    for (unsigned i = 0; i < ARRAY_LEN(x->mask); i++)
        x->mask[i] = ~UINT64_C(0xfff) | ((UINT64_C(1) << i) - 1);
    x->page_mask = PAGE - 1;
    x->bit_mask[0] = 31;
    x->bit_mask[1] = 63;
    for (unsigned i = 0; i < ARRAY_LEN(x->count_mask); i++)
        x->count_mask[i] = 0x1fff & ~((UINT64_C(1) << i) - 1);
    set_tlb(x, first_size(c->dbt));
    x->nr_tlb_log = ARRAY_LEN(x->tlb_log); /* everything is to be emptied once */
    x->nr_slot_log = ARRAY_LEN(x->slot_log);
    return x;
}

void dbt_ss_reset(struct dbt_cpu *c)
{
    for (unsigned i = 0; i < DBT_CTX; i++)
        if (c->ctx[i])
            c->ctx[i]->ss_rsp = c->ss_top;
}

/* The part of a key that says what code means, not what data may be accessed. */
static uint64_t code_key(uint64_t key)
{
    return key & UINT32_MAX & ~(UINT64_C(1) << 27);
}

/* The context for the CPU's present state, emptied if it went stale; NULL when memory is short. */
struct x86_ctx *dbt_pick_ctx(struct dbt_cpu *c, unsigned mode)
{
    uint64_t key = ctx_key(c->cpu, mode), cr3 = c->cpu->cr0 & X86_CR0_PG ? c->cpu->cr3 & ~(UINT64_C(1) << 63) : 0;
    struct x86_ctx *old = c->cur, *x;
    unsigned n = 0, user = (mode & X86_RWM_USER) != 0;

    if (old && !c->switch_ctx && c->tag[c->cur_n].key == key && c->tag[c->cur_n].cr3 == cr3) {
        n = c->cur_n;
        goto found;
    }
    for (n = 0; n < DBT_CTX && c->tag[n].used; n++)
        if (c->tag[n].key == key && c->tag[n].cr3 == cr3)
            goto found;
    if (n == DBT_CTX) {
        n = 0;
        for (unsigned i = 1; i < DBT_CTX; i++)
            if (c->tag[i].used < c->tag[n].used)
                n = i;
    } else if (!c->ctx[n] && !(c->ctx[n] = ctx_new(c))) {
        return NULL;
    }
    c->tag[n].key = key;
    c->tag[n].cr3 = cr3;
    dbt_clear_jumps(c->ctx[n]);
    empty_tlb(c->ctx[n]);
    set_tlb(c->ctx[n], first_size(c->dbt));
    c->stale[n] = true;
found:
    x = c->ctx[n];
    if (c->stale[n])
        dbt_ctx_flush(c, n);
    if (x != old) {
        x->ss_rsp = old ? old->ss_rsp : c->ss_top;
        c->tag[n].used = ++c->clock;
        c->cur_n = n;
        c->cur = x;
        __builtin_ia32_wrgsbase64((uint64_t)(uintptr_t)x);
    }
    /* Another address space, or a mode whose code is different: what returns there goes on without a guard, so that
     * predictions made there must not run here. */
    if (c->last_cr3[user] != cr3 || c->last_key[user] != code_key(key)) {
        c->last_cr3[user] = cr3;
        c->last_key[user] = code_key(key);
        dbt_ss_reset(c);
    }
    c->switch_ctx = false;
    return x;
}

/* Sets of pages, with false positives: what keeps a flush of one page from looking through all that was filled. */
static unsigned page_hash(uint64_t page)
{
    return (unsigned)((page >> 12) * UINT64_C(0x9e3779b97f4a7c15) >> 51);
}

static void set_add(uint64_t *set, uint64_t page)
{
    unsigned h = page_hash(page);

    set[h / 64] |= UINT64_C(1) << h % 64;
}

static bool set_has(const uint64_t *set, uint64_t page)
{
    unsigned h = page_hash(page);

    return set[h / 64] >> h % 64 & 1;
}

bool dbt_canonical(const struct x86_cpu *c, uint64_t lin)
{
    unsigned up = c->cr4 & X86_CR4_LA57 ? 7 : 16;

    return !c->long_mode || (uint64_t)((int64_t)(lin << up) >> up) == lin;
}

/* Finds the memory behind lin for one kind of access. False: fault, or not plain memory. */
static bool resolve(struct dbt_cpu *c, uint64_t lin, enum x86_access a, struct mem_section *s, struct x86_xlat *xl)
{
    uint32_t err;

    if (!dbt_canonical(c->cpu, lin))
        return false;
    if (!x86_walk(c->cpu, lin, a, c->cpu->cpl == 3, xl, &err))
        return false;
    return mem_find(x86_as(c->cpu), xl->gpa & ~(gpa_t)(PAGE - 1), s) && s->host &&
           s->start + s->len - (xl->gpa & ~(gpa_t)(PAGE - 1)) >= PAGE;
}

/* Invalidating any address of a large page must drop all its 4 KiB pieces: remember where there are such pieces. */
static void note_large(struct x86_ctx *x, uint64_t lin, uint64_t page)
{
    if (page == UINT64_MAX || page <= PAGE)
        return;
    if (page > 4 << 20)
        x->huge |= UINT64_C(1) << (lin >> 30 & 63);
    else
        x->big[lin >> 28 & 15] |= UINT64_C(1) << (lin >> 22 & 63);
}

static bool maybe_large(const struct x86_ctx *x, uint64_t lin)
{
    return x->huge >> (lin >> 30 & 63) & 1 || x->big[lin >> 28 & 15] >> (lin >> 22 & 63) & 1;
}

/* The entry for lin, to be filled. A program that keeps throwing out pages it uses is given a larger TLB. */
static struct x86_tlb_entry *new_entry(struct dbt_cpu *c, struct x86_ctx *x, uint64_t lin)
{
    struct x86_tlb_entry *e = dbt_tlb_entry(x, lin);
    uint64_t page = lin & ~(uint64_t)(PAGE - 1);
    uint32_t n;

    if ((e->r == EMPTY || e->r == -page) && (e->w == EMPTY || e->w == -page))
        return e;
    n = x86_tlb_nr(x);
    if (++x->tlb_evicted < n / 4 || n >= c->dbt->tlb_size)
        return e;
    grow_tlb(x, (uint32_t)min_u64(c->dbt->tlb_size, 4 * (uint64_t)n));
    return dbt_tlb_entry(x, lin);
}

bool dbt_ctx_fill(struct dbt_cpu *c, uint64_t lin, bool write)
{
    struct x86_ctx *x = c->cur;
    uint64_t page = lin & ~(uint64_t)(PAGE - 1);
    struct x86_tlb_entry *e;
    struct mem_section s;
    struct x86_xlat xl;
    uint64_t off, ram_off;
    bool w;

    if (!resolve(c, lin, write ? X86_WRITE : X86_READ, &s, &xl))
        return false;
    note_large(x, lin, xl.page);
    off = (xl.gpa & ~(gpa_t)(PAGE - 1)) - s.start;
    ram_off = s.ram_off + off;
    w = xl.w && !s.readonly && !s.dirty_log;
    e = new_entry(c, x, lin);
    e->r = e->w = EMPTY;
    if (x->nr_tlb_log < ARRAY_LEN(x->tlb_log))
        x->tlb_log[x->nr_tlb_log++] = (uint16_t)(e - x->tlb);
    e->add = (uint64_t)(uintptr_t)(s.host + off) - page;
    set_add(x->seen, page);
    if (xl.r)
        e->r = -page;
    if (w) {
        set_add(x->wrote, (uint64_t)(uintptr_t)(s.host + off)); /* before the flag: who sees that looks here */
        e->w = -page;
        if (!(s.ram->page[ram_off / PAGE] & MEM_PAGE_WCACHE))
            atomic_fetch_or(&s.ram->page[ram_off / PAGE], MEM_PAGE_WCACHE);
        atomic_thread_fence(memory_order_seq_cst);
        if (s.ram->page[ram_off / PAGE] & MEM_PAGE_CODE)
            e->w = EMPTY;
        else
            mem_ram_written(s.ram, ram_off, 1); /* dirty from now on: stores will not say so one by one */
    }
    c->stat.fills++;
    return (write ? e->w : e->r) == -page;
}

/* The byte at lin of a page that may be read; NULL: a fault, or no plain memory. */
static const uint8_t *readable(struct dbt_cpu *c, uint64_t lin)
{
    const struct x86_tlb_entry *e = dbt_tlb_entry(c->cur, lin);

    if (e->r != -(lin & ~(uint64_t)(PAGE - 1)) && !dbt_ctx_fill(c, lin, false))
        return NULL;
    e = dbt_tlb_entry(c->cur, lin); /* there may be more entries now */
    return (const uint8_t *)(uintptr_t)(lin + e->add);
}

bool dbt_ctx_bounce(struct dbt_cpu *c, uint64_t lin, unsigned size, uint64_t *add)
{
    uint8_t *to = c->cur->bounce + (lin & 63); /* as misaligned as it was */
    unsigned first = PAGE - (unsigned)(lin & (PAGE - 1));
    const uint8_t *p;

    if (size > 64 || first >= size || !(p = readable(c, lin)))
        return false;
    memcpy(to, p, first);
    if (!(p = readable(c, lin + first)))
        return false;
    memcpy(to + first, p, size - first);
    *add = (uint64_t)(uintptr_t)to - lin;
    return true;
}

const struct dbt_xtlb *dbt_exec_page(struct dbt_cpu *c, uint64_t lin)
{
    uint64_t page = lin & ~(uint64_t)(PAGE - 1), off;
    struct dbt_xtlb *e = &c->xtlb[c->cur_n][(lin >> 12) % DBT_XTLB];
    struct mem_section s;
    struct x86_xlat xl;

    if (e->lin == page)
        return e;
    if (!resolve(c, lin, X86_EXEC, &s, &xl) || !s.ram)
        return NULL;
    note_large(c->cur, lin, xl.page);
    off = (xl.gpa & ~(gpa_t)(PAGE - 1)) - s.start;
    e->host = s.host + off;
    e->ram = s.ram;
    e->ram_off = s.ram_off + off;
    e->no = s.ram->id + e->ram_off / PAGE;
    e->lin = page;
    return e;
}

/* Drops what one context remembers of permission to write the page at host. Only logged places hold anything. */
static void forget_writes(struct x86_ctx *x, uint64_t host)
{
    unsigned nr = x->nr_tlb_log;
    bool all = nr >= ARRAY_LEN(x->tlb_log);

    if (!set_has(x->wrote, host))
        return;
    for (unsigned i = 0; i < (all ? x86_tlb_nr(x) : nr); i++) {
        struct x86_tlb_entry *e = &x->tlb[all ? i : x->tlb_log[i]];

        if (e->w != EMPTY && e->add - e->w == host)
            e->w = EMPTY;
    }
    atomic_thread_fence(memory_order_seq_cst);
    nr = x->nr_slot_log;
    all = nr >= ARRAY_LEN(x->slot_log) - 1;
    for (unsigned i = 0; i < (all ? X86_SLOTS : nr); i++) {
        struct x86_slot *s = &x->slot[all ? i : x->slot_log[i]];

        if (s->neg_page != EMPTY && s->add - s->neg_page == host)
            s->neg_page = EMPTY;
    }
    x->loop_go = 0; /* after the TLB: see rw_loop.c */
}

/* Other CPUs may fill slots meanwhile: whoever fills one for stores writes it, then looks whether the TLB entry it came
 * from is still there; here the entry goes first, then the slots are looked through. One of the two sees the other. */
void dbt_page_is_code(void *opaque, struct mem_ram *ram, uint64_t off)
{
    struct dbt *d = opaque;
    uint64_t host = (uint64_t)(uintptr_t)(ram->host + align_down(off, PAGE));

    for (unsigned i = 0; i < d->m->nr_cpus && i < ARRAY_LEN(d->cpus); i++)
        for (unsigned k = 0; d->cpus[i] && k < DBT_CTX && d->cpus[i]->ctx[k]; k++)
            forget_writes(d->cpus[i]->ctx[k], host);
}

/* ---- what the CPU core reports ---- */

static struct dbt_cpu *of(struct x86_cpu *c)
{
    return c->dbt;
}

static void flush_all(struct x86_cpu *cpu, bool globals_too)
{
    struct dbt_cpu *c = of(cpu);

    (void)globals_too;
    for (unsigned i = 0; i < DBT_CTX; i++)
        c->stale[i] = true;
    c->switch_ctx = true;
    dbt_ss_reset(c);
}

static void flush_page(struct x86_cpu *cpu, uint64_t lin)
{
    struct dbt_cpu *c = of(cpu);
    uint64_t page = lin & ~(uint64_t)(PAGE - 1);
    unsigned n = (unsigned)(lin >> 12);

    for (unsigned i = 0; i < DBT_CTX && c->ctx[i]; i++) {
        struct x86_ctx *x = c->ctx[i];
        struct x86_tlb_entry *e;
        unsigned nr = x->nr_slot_log;

        if (c->stale[i])
            continue;
        x->islot[n % X86_ISLOTS] = 0;
        c->xtlb[i][n % DBT_XTLB].lin = EMPTY;
        if (!set_has(x->seen, page) && !maybe_large(x, lin))
            continue;
        if (nr >= ARRAY_LEN(x->slot_log) - 1 || maybe_large(x, lin)) {
            c->stale[i] = true;
            continue;
        }
        e = dbt_tlb_entry(x, lin);
        e->r = e->w = EMPTY;
        x->ret_slot.neg_page = EMPTY;
        for (unsigned k = 0; k < nr; k++)
            if (x->slot[x->slot_log[k]].neg_page == -page)
                x->slot[x->slot_log[k]].neg_page = EMPTY;
    }
    c->switch_ctx = true;
    dbt_ss_reset(c);
}

static void flush_pcid(struct x86_cpu *cpu, unsigned pcid)
{
    struct dbt_cpu *c = of(cpu);

    for (unsigned i = 0; i < DBT_CTX && c->ctx[i]; i++)
        if ((c->tag[i].cr3 & 0xfff) == pcid)
            c->stale[i] = true;
    c->switch_ctx = true;
    dbt_ss_reset(c);
}

static void mode_changed(struct x86_cpu *cpu)
{
    of(cpu)->switch_ctx = true;
}

void dbt_hooks(struct dbt_cpu *c)
{
    c->cpu->hooks = (struct x86_mmu_hooks){
        .flush_all = flush_all, .flush_page = flush_page, .flush_pcid = flush_pcid, .mode_changed = mode_changed};
}
