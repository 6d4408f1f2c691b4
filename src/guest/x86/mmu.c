/* Paging and guest memory: page walks, the interpreter's TLB, linear accesses.
 *
 * After the Intel SDM vol. 3 chapter 4. Page-table entries are updated with compare-and-swap, so that CPUs and the
 * guest's own locked accesses see each other. Paging-structure caches are not modelled beyond a small cache of host
 * pointers. */
#include "base/bytes.h"
#include "base/log.h"
#include "guest/x86/mmu_int.h"

/* ---- page tables ---- */

static void clear_pt_cache(struct x86_itlb *t)
{
    for (unsigned i = 0; i < PTC; i++)
        t->pt[i].page = EMPTY;
}

/* Host pointer of a page-table entry, or NULL when the tables are not in RAM. */
static void *pte_host(struct x86_cpu *c, gpa_t at, struct mem_ram **ram, uint64_t *off)
{
    unsigned n = (unsigned)(at >> 12) % PTC;
    struct x86_itlb *t = c->itlb;
    struct mem_section s;

    if (t->pt[n].page != (at & PMASK) || t->pt[n].smm != c->smm) {
        if (!mem_find(x86_as(c), at & PMASK, &s) || !s.host || s.readonly || s.start + s.len - (at & PMASK) < PAGE)
            return NULL;
        t->pt[n].page = at & PMASK;
        t->pt[n].host = s.host + ((at & PMASK) - s.start);
        t->pt[n].ram = s.ram;
        t->pt[n].ram_off = s.ram_off + ((at & PMASK) - s.start);
        t->pt[n].smm = c->smm;
    }
    *ram = t->pt[n].ram;
    *off = t->pt[n].ram_off + (at & 0xfff);
    return t->pt[n].host + (at & 0xfff);
}

struct walk {
    struct x86_cpu *c;
    uint64_t lin;
    enum x86_access a;
    bool user, write, debug; /* debug: looks only */
    bool us, rw, nx;
    uint32_t err;
};

static uint64_t pte_load(struct x86_cpu *c, gpa_t at, unsigned size)
{
    struct mem_ram *ram;
    uint64_t off, v = 0;
    void *h = pte_host(c, at, &ram, &off);

    if (h)
        return size == 8 ? __atomic_load_n((uint64_t *)h, __ATOMIC_RELAXED)
                         : __atomic_load_n((uint32_t *)h, __ATOMIC_RELAXED);
    mem_load(x86_as(c), at, size, &v);
    return v;
}

/* Sets bits in the entry if it still is `old`; false: it changed, walk again. */
static bool pte_set(struct x86_cpu *c, gpa_t at, unsigned size, uint64_t old, uint64_t bits)
{
    struct mem_ram *ram;
    uint64_t off;
    void *h = pte_host(c, at, &ram, &off);
    bool ok;

    if (!h) {
        mem_store(x86_as(c), at, size, old | bits);
        return true;
    }
    if (size == 8) {
        ok = __atomic_compare_exchange_n((uint64_t *)h, &old, old | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        uint32_t o = (uint32_t)old;

        ok = __atomic_compare_exchange_n((uint32_t *)h, &o, o | (uint32_t)bits, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED);
    }
    if (ok)
        mem_ram_written(ram, off, size);
    return ok;
}

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80, PTE_G = 0x100 };
#define PTE_NX (UINT64_C(1) << 63)

static uint64_t phys_mask(const struct x86_cpu *c)
{
    unsigned bits = c->feat.phys_bits ? c->feat.phys_bits : 40;

    return (UINT64_C(1) << bits) - 1;
}

static bool fault(struct walk *w, uint32_t bits)
{
    struct x86_cpu *c = w->c;

    w->err = bits | (w->write ? 2u : 0u) | (w->user ? 4u : 0u);
    if (w->a == X86_EXEC && (c->efer & X86_EFER_NXE || c->cr4 & X86_CR4_SMEP))
        w->err |= 16;
    return false;
}

/* What the accumulated rights and control bits allow; *pk: refused by a protection key. */
static bool allowed(struct walk *w, enum x86_access a, unsigned pkey, bool *pk)
{
    struct x86_cpu *c = w->c;
    bool write = a == X86_WRITE;

    *pk = false;
    if (a == X86_EXEC) {
        if (w->nx)
            return false;
        return w->user ? w->us : !(w->us && c->cr4 & X86_CR4_SMEP);
    }
    if (w->user && !w->us)
        return false;
    if (!w->user && w->us && c->cr4 & X86_CR4_SMAP && !(c->rflags & X86_AC && c->cpl != 3))
        return false;
    if (write && !w->rw && (w->user || c->cr0 & X86_CR0_WP))
        return false;
    if (w->us && c->cr4 & X86_CR4_PKE && c->long_mode) {
        unsigned k = c->pkru >> (2 * pkey) & 3;

        if (k & 1 || (write && k & 2 && (w->user || c->cr0 & X86_CR0_WP))) {
            *pk = true;
            return false;
        }
    }
    return true;
}

/* Permission check, accessed and dirty bits, and the result. -1: the entry changed under us. */
static int finish(struct walk *w, gpa_t at, unsigned size, uint64_t pte, uint64_t page, gpa_t base,
                  struct x86_xlat *out)
{
    struct x86_cpu *c = w->c;
    unsigned pkey = size == 8 && c->long_mode ? pte >> 59 & 15 : 0;
    uint64_t set = (pte & PTE_A ? 0 : PTE_A) | (w->write && !(pte & PTE_D) ? PTE_D : 0);
    bool pk;

    if (!w->debug && !allowed(w, w->a, pkey, &pk)) {
        fault(w, 1 | (pk ? 32u : 0u));
        return 0;
    }
    if (set && !w->debug && !pte_set(c, at, size, pte, set))
        return -1;
    pte |= set;
    out->page = page;
    out->gpa = (base + (w->lin & (page - 1))) & c->a20_mask;
    out->user = w->us;
    out->global = pte & PTE_G && c->cr4 & X86_CR4_PGE;
    out->pkey = (uint8_t)pkey;
    out->r = allowed(w, X86_READ, pkey, &pk);
    out->w = pte & PTE_D && allowed(w, X86_WRITE, pkey, &pk);
    out->x = allowed(w, X86_EXEC, pkey, &pk);
    return 1;
}

static int walk32(struct walk *w, struct x86_xlat *out)
{
    struct x86_cpu *c = w->c;
    gpa_t at = ((c->cr3 & UINT64_C(0xfffff000)) + (w->lin >> 22 & 0x3ff) * 4) & c->a20_mask;
    uint32_t e = (uint32_t)pte_load(c, at, 4);

    if (!(e & PTE_P))
        return fault(w, 0);
    w->us = e & PTE_U;
    w->rw = e & PTE_W;
    if (e & PTE_PS && c->cr4 & X86_CR4_PSE) {
        uint64_t base = (e & 0xffc00000) | (uint64_t)(e >> 13 & 0xff) << 32;

        if (e & 1u << 21)
            return fault(w, 1 | 8);
        return finish(w, at, 4, e, 4 << 20, base, out);
    }
    if (!(e & PTE_A) && !w->debug && !pte_set(c, at, 4, e, PTE_A))
        return -1;
    at = ((e & 0xfffff000) + (w->lin >> 12 & 0x3ff) * 4) & c->a20_mask;
    e = (uint32_t)pte_load(c, at, 4);
    if (!(e & PTE_P))
        return fault(w, 0);
    w->us &= !!(e & PTE_U);
    w->rw &= !!(e & PTE_W);
    return finish(w, at, 4, e, PAGE, e & 0xfffff000, out);
}

static int walk64(struct walk *w, struct x86_xlat *out)
{
    struct x86_cpu *c = w->c;
    uint64_t addr_mask = phys_mask(c) & PMASK, rsvd = ~phys_mask(c) & UINT64_C(0x000fffffffffffff), e;
    int level = !c->long_mode ? 3 : c->cr4 & X86_CR4_LA57 ? 5 : 4;
    gpa_t table = c->long_mode ? c->cr3 & addr_mask : c->cr3 & UINT64_C(0xffffffe0), at;

    w->us = w->rw = true;
    if (!(c->efer & X86_EFER_NXE))
        rsvd |= PTE_NX;
    for (;; level--) {
        unsigned shift = 12 + 9 * (unsigned)(level - 1);
        uint64_t page = UINT64_C(1) << shift;
        unsigned index = w->lin >> shift & (level == 3 && !c->long_mode ? 3 : 511);

        at = (table + index * 8) & c->a20_mask;
        e = pte_load(c, at, 8);
        if (!(e & PTE_P))
            return fault(w, 0);
        if (level == 3 && !c->long_mode) { /* PDPTE: no rights, no accessed bit */
            if (e & (rsvd | UINT64_C(0x1e6)))
                return fault(w, 1 | 8);
            table = e & addr_mask;
            continue;
        }
        if (e & rsvd || (!c->long_mode && e & UINT64_C(0x7ff0000000000000)))
            return fault(w, 1 | 8);
        w->us &= !!(e & PTE_U);
        w->rw &= !!(e & PTE_W);
        w->nx |= !!(e & PTE_NX) && c->efer & X86_EFER_NXE;
        if (level == 1)
            return finish(w, at, 8, e, PAGE, e & addr_mask, out);
        if (e & PTE_PS) {
            bool gb = c->feat.w[X86_FW_80000001_EDX] >> 26 & 1; /* pdpe1gb */

            if (level > 3 || (level == 3 && !gb) || (e & (page - 1) & ~UINT64_C(0x1fff)))
                return fault(w, 1 | 8);
            return finish(w, at, 8, e, page, e & addr_mask & ~(page - 1), out);
        }
        if (!(e & PTE_A) && !w->debug && !pte_set(c, at, 8, e, PTE_A))
            return -1;
        table = e & addr_mask;
    }
}

bool x86_walk(struct x86_cpu *c, uint64_t lin, enum x86_access a, bool user, struct x86_xlat *out, uint32_t *err)
{
    struct walk w;
    int r;

    if (!(c->cr0 & X86_CR0_PG)) {
        *out = (struct x86_xlat){
            .gpa = lin & UINT32_MAX & c->a20_mask, .page = UINT64_MAX, .r = true, .w = true, .x = true, .user = true};
        return true;
    }
    do {
        w = (struct walk){.c = c, .lin = lin, .a = a, .user = user, .write = a == X86_WRITE};
        r = c->cr4 & X86_CR4_PAE ? walk64(&w, out) : walk32(&w, out);
    } while (r < 0);
    *err = w.err;
    return r > 0;
}

bool x86_walk_debug(struct x86_cpu *c, uint64_t lin, struct x86_xlat *out)
{
    struct walk w = {.c = c, .lin = lin, .a = X86_READ, .debug = true};
    uint32_t err;

    if (!(c->cr0 & X86_CR0_PG))
        return x86_walk(c, lin, X86_READ, false, out, &err);
    return (c->cr4 & X86_CR4_PAE ? walk64(&w, out) : walk32(&w, out)) > 0;
}

/* ---- the TLB ---- */

static void flush_call(struct vcpu *v, void *arg)
{
    (void)arg;
    x86_tlb_flush(x86_cpu(v), true);
}

static void mem_changed(void *opaque)
{
    struct x86_cpu *c = opaque;

    if (vcpu_self() == &c->vcpu || !c->vcpu.created)
        x86_tlb_flush(c, true);
    else
        vcpu_call_async(&c->vcpu, flush_call, NULL);
}

bool x86_mmu_init(struct x86_cpu *c)
{
    c->itlb = try_alloc_aligned(64, sizeof *c->itlb);
    if (!c->itlb)
        return false;
    c->itlb->nr_log = ITLB_LOG + 1;
    x86_tlb_flush(c, true);
    mem_space_listen(c->vcpu.as, mem_changed, c);
    return true;
}

void x86_mmu_listen(struct x86_cpu *c, struct mem_space *as)
{
    mem_space_listen(as, mem_changed, c);
}

void x86_mmu_free(struct x86_cpu *c)
{
    mem_space_unlisten(c->vcpu.as, mem_changed, c);
    if (c->as_smm && c->as_smm != c->vcpu.as)
        mem_space_unlisten(c->as_smm, mem_changed, c);
    free(c->itlb);
    c->itlb = NULL;
}

static void flush_own(struct x86_itlb *t)
{
    t->epoch++;
    if (t->nr_log <= ITLB_LOG) {
        for (unsigned i = 0; i < t->nr_log; i++)
            t->log[i]->tag[0] = t->log[i]->tag[1] = t->log[i]->tag[2] = EMPTY;
    } else {
        for (unsigned i = 0; i < NR_IDX * ITLB; i++) {
            struct x86_itlb_entry *e = &t->e[i / ITLB][i % ITLB];

            e->tag[0] = e->tag[1] = e->tag[2] = EMPTY;
        }
    }
    t->nr_log = 0;
    memset(t->big, 0, sizeof t->big);
    t->huge = 0;
    clear_pt_cache(t);
}

void x86_tlb_flush(struct x86_cpu *c, bool globals_too)
{
    flush_own(c->itlb);
    if (c->hooks.flush_all)
        c->hooks.flush_all(c, globals_too);
}

void x86_tlb_flush_pcid(struct x86_cpu *c, unsigned pcid, bool keep)
{
    flush_own(c->itlb); /* our own TLB knows no PCIDs */
    if (!keep && c->hooks.flush_pcid)
        c->hooks.flush_pcid(c, pcid);
}

/* An entry came from a page larger than 4 KiB: invalidating any address of that page must drop it. */
static void note_large(struct x86_itlb *t, uint64_t lin, uint64_t page)
{
    if (page > 4 << 20)
        t->huge |= UINT64_C(1) << (lin >> 30 & 63);
    else if (page > PAGE)
        t->big[lin >> 28 & 15] |= UINT64_C(1) << (lin >> 22 & 63);
}

static bool maybe_large(const struct x86_itlb *t, uint64_t lin)
{
    return t->huge >> (lin >> 30 & 63) & 1 || t->big[lin >> 28 & 15] >> (lin >> 22 & 63) & 1;
}

void x86_tlb_flush_page(struct x86_cpu *c, uint64_t lin)
{
    struct x86_itlb *t = c->itlb;

    if (maybe_large(t, lin)) {
        flush_own(t);
    } else {
        t->epoch++;
        for (unsigned i = 0; i < NR_IDX; i++) {
            struct x86_itlb_entry *e = &t->e[i][(lin >> 12) % ITLB];

            e->tag[0] = e->tag[1] = e->tag[2] = EMPTY;
        }
    }
    if (c->hooks.flush_page)
        c->hooks.flush_page(c, lin);
}

/* ---- data breakpoints (SDM vol. 3, 18.2): pages that hold one stay out of the TLB, so that every access comes by here
 * ---- */
static unsigned watch_len(const struct x86_cpu *c, unsigned i)
{
    static const uint8_t len[4] = {1, 2, 8, 4};

    return len[c->dr[7] >> (18 + 4 * i) & 3];
}

void x86_watch(struct x86_cpu *c, uint64_t at, unsigned size, bool write, bool io)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned kind = c->dr[7] >> (16 + 4 * i) & 3, len = watch_len(c, i);
        uint64_t from = c->dr[i] & ~(uint64_t)(len - 1);

        if (!(c->dr[7] >> (2 * i) & 3) || kind == 0 || (kind == 2) != io || (kind == 1 && !write))
            continue;
        if (at < from + len && from < at + size)
            c->watch_hit |= 1u << i;
    }
}

static bool watched_page(const struct x86_cpu *c, uint64_t lin)
{
    for (unsigned i = 0; i < 4; i++)
        if (c->dr[7] >> (2 * i) & 3 && c->dr[7] >> (16 + 4 * i) & 1 && !((c->dr[i] ^ lin) & PMASK))
            return true;
    return false;
}

static struct x86_itlb_entry *fill_user(struct x86_cpu *c, uint64_t lin, bool user)
{
    struct x86_itlb_entry *e = &c->itlb->e[x86_tlb_index(c, user)][(lin >> 12) % ITLB];

    if (!x86_canonical(c, lin))
        x86_raise_err(c, X86_GP, 0);
    *e = (struct x86_itlb_entry){.ram = c->user_ram, .tag = {lin & PMASK, lin & PMASK, lin & PMASK}};
    return e;
}

/* Translates one byte's page with faults; fills the TLB when it is memory. *gpa is for the slow way. */
static struct x86_itlb_entry *fill(struct x86_cpu *c, uint64_t lin, enum x86_access a, bool user, gpa_t *gpa)
{
    struct x86_itlb_entry *e = &c->itlb->e[x86_tlb_index(c, user)][(lin >> 12) % ITLB];
    struct mem_section s;
    struct x86_xlat x;
    gpa_t page;
    uint32_t err;

    if (unlikely(c->user_ram != NULL))
        return fill_user(c, lin, user);
    if (c->long_mode && !x86_canonical(c, lin))
        x86_raise_err(c, X86_GP, 0);
    if (!x86_walk(c, lin, a, user, &x, &err))
        x86_raise_pf(c, lin, err);
    *gpa = x.gpa;
    page = x.gpa & PMASK;
    e->tag[0] = e->tag[1] = e->tag[2] = EMPTY;
    if (unlikely(c->dr[7] & 0xff) && a != X86_EXEC && watched_page(c, lin))
        return NULL;
    if (!mem_find(x86_as(c), page, &s) || !s.host || s.start + s.len - page < PAGE)
        return NULL;
    if (c->itlb->nr_log < ITLB_LOG)
        c->itlb->log[c->itlb->nr_log] = e;
    if (c->itlb->nr_log <= ITLB_LOG)
        c->itlb->nr_log++;
    note_large(c->itlb, lin, x.page == UINT64_MAX ? PAGE : x.page);
    e->ram = s.ram;
    e->ram_off = s.ram_off + (page - s.start);
    e->add = (uint64_t)(uintptr_t)(s.host + (page - s.start)) - (lin & PMASK);
    if (x.r)
        e->tag[X86_READ] = lin & PMASK;
    if (x.x)
        e->tag[X86_EXEC] = lin & PMASK;
    if (x.w && !s.readonly) {
        if (likely(!c->trial))
            e->tag[X86_WRITE] = lin & PMASK;
        else if (a == X86_WRITE)
            return e; /* not remembered: every write comes by here */
    }
    return e->tag[a] == (lin & PMASK) ? e : NULL;
}

static inline struct x86_itlb_entry *lookup(struct x86_cpu *c, uint64_t lin, enum x86_access a, bool user)
{
    struct x86_itlb_entry *e = &c->itlb->e[x86_tlb_index(c, user)][(lin >> 12) % ITLB];

    return likely(e->tag[a] == (lin & PMASK)) ? e : NULL;
}

static void check_alignment(struct x86_cpu *c, uint64_t lin, unsigned size)
{
    if (unlikely(c->rflags & X86_AC) && c->cpl == 3 && c->cr0 & X86_CR0_AM && lin & (size - 1))
        x86_raise_err(c, X86_VEC_AC, 0);
}

static uint64_t wrap(const struct x86_cpu *c, uint64_t lin)
{
    return c->long_mode ? lin : (uint32_t)lin;
}

/* One access within a page. */
static uint64_t load_in_page(struct x86_cpu *c, uint64_t lin, unsigned size, bool user)
{
    struct x86_itlb_entry *e = lookup(c, lin, X86_READ, user);
    gpa_t gpa;
    uint64_t v = 0;

    if (!e)
        e = fill(c, lin, X86_READ, user, &gpa);
    if (e)
        return get_le((const void *)(uintptr_t)(lin + e->add), size);
    if (unlikely(c->dr[7] & 0xff))
        x86_watch(c, lin, size, false, false);
    x86_trial_device(c);
    mem_load(x86_as(c), gpa, size, &v);
    return v;
}

static void written(struct x86_itlb_entry *e, uint64_t lin, unsigned size)
{
    uint8_t f = e->ram->page[e->ram_off / PAGE];

    if (unlikely(f & MEM_PAGE_CODE || (f & 3) != 3))
        mem_ram_written(e->ram, e->ram_off + (lin & 0xfff), size);
}

static void store_in_page(struct x86_cpu *c, uint64_t lin, unsigned size, uint64_t v, bool user)
{
    struct x86_itlb_entry *e = lookup(c, lin, X86_WRITE, user);
    gpa_t gpa;

    if (!e)
        e = fill(c, lin, X86_WRITE, user, &gpa);
    if (!e) {
        if (unlikely(c->dr[7] & 0xff))
            x86_watch(c, lin, size, true, false);
        x86_trial_device(c);
        mem_store(x86_as(c), gpa, size, v);
        return;
    }
    x86_trial_write(c, e, lin, size);
    put_le((void *)(uintptr_t)(lin + e->add), v, size);
    written(e, lin, size);
}

static void probe_write(struct x86_cpu *c, uint64_t lin, bool user)
{
    gpa_t gpa;

    if (!lookup(c, lin, X86_WRITE, user))
        fill(c, lin, X86_WRITE, user, &gpa);
    if (unlikely(c->user_ram != NULL)) /* only the page itself knows */
        __atomic_fetch_or((uint8_t *)(uintptr_t)lin, 0, __ATOMIC_RELAXED);
}

/* Of an access of size bytes; the fault of the second page names its first byte. */
static void probe_all(struct x86_cpu *c, uint64_t lin, unsigned size, bool user)
{
    uint64_t last = (lin + size - 1) & PMASK;

    probe_write(c, lin, user);
    if (last > lin)
        probe_write(c, wrap(c, last), user);
}

void x86_probe_write(struct x86_cpu *c, uint64_t lin, unsigned size)
{
    probe_all(c, lin, size, c->cpl == 3);
}

static uint64_t load(struct x86_cpu *c, uint64_t lin, unsigned size, bool user)
{
    unsigned first = PAGE - (unsigned)(lin & 0xfff);
    uint64_t v = 0;

    if (likely(size <= first))
        return load_in_page(c, lin, size, user);
    for (unsigned i = 0; i < size; i++)
        v |= load_in_page(c, wrap(c, lin + i), 1, user) << (8 * i);
    return v;
}

static void store(struct x86_cpu *c, uint64_t lin, unsigned size, uint64_t v, bool user)
{
    unsigned first = PAGE - (unsigned)(lin & 0xfff);

    if (likely(size <= first)) {
        store_in_page(c, lin, size, v, user);
        return;
    }
    probe_all(c, lin, size, user);
    for (unsigned i = 0; i < size; i++)
        store_in_page(c, wrap(c, lin + i), 1, v >> (8 * i) & 0xff, user);
}

uint64_t x86_ld(struct x86_cpu *c, uint64_t lin, unsigned size)
{
    check_alignment(c, lin, size);
    return load(c, lin, size, c->cpl == 3);
}

void x86_st(struct x86_cpu *c, uint64_t lin, unsigned size, uint64_t v)
{
    check_alignment(c, lin, size);
    store(c, lin, size, v, c->cpl == 3);
}

uint64_t x86_ld_sys(struct x86_cpu *c, uint64_t lin, unsigned size)
{
    return load(c, wrap(c, lin), size, false);
}

void x86_st_sys(struct x86_cpu *c, uint64_t lin, unsigned size, uint64_t v)
{
    store(c, wrap(c, lin), size, v, false);
}

/* memcpy, but bytes that are one operand move by one load and one store: the library's may store twice, over what
 * another CPU wrote in between. */
static void copy_whole(void *to, const void *from, unsigned n)
{
    typedef uint64_t pair __attribute__((vector_size(16), aligned(1), may_alias));

    if (n == 16)
        *(pair *)to = *(const pair *)from;
    else if (n == 8)
        put_le64(to, get_le64(from));
    else if (n == 4)
        put_le32(to, get_le32(from));
    else
        memcpy(to, from, n);
}

void x86_ld_bytes(struct x86_cpu *c, uint64_t lin, void *buf, unsigned n)
{
    uint8_t *p = buf;

    while (n) {
        unsigned left = PAGE - (unsigned)(lin & 0xfff), part = n < left ? n : left;
        struct x86_itlb_entry *e = lookup(c, lin, X86_READ, c->cpl == 3);
        gpa_t gpa;

        if (!e)
            e = fill(c, lin, X86_READ, c->cpl == 3, &gpa);
        if (e) {
            copy_whole(p, (const void *)(uintptr_t)(lin + e->add), part);
        } else {
            if (unlikely(c->dr[7] & 0xff))
                x86_watch(c, lin, part, false, false);
            x86_trial_device(c);
            mem_read(x86_as(c), gpa, p, part);
        }
        p += part;
        n -= part;
        lin = wrap(c, lin + part);
    }
}

void x86_st_bytes(struct x86_cpu *c, uint64_t lin, const void *buf, unsigned n)
{
    const uint8_t *p = buf;
    bool user = c->cpl == 3;

    if (!n)
        return;
    for (uint64_t at = lin & PMASK, last = (lin + n - 1) & PMASK; last != (lin & PMASK); at += PAGE) {
        probe_write(c, wrap(c, at < lin ? lin : at), user);
        if (at == last)
            break;
    }
    while (n) {
        unsigned left = PAGE - (unsigned)(lin & 0xfff), part = n < left ? n : left;
        struct x86_itlb_entry *e = lookup(c, lin, X86_WRITE, user);
        gpa_t gpa;

        if (!e)
            e = fill(c, lin, X86_WRITE, user, &gpa);
        if (e) {
            x86_trial_write(c, e, lin, part);
            copy_whole((void *)(uintptr_t)(lin + e->add), p, part);
            written(e, lin, part);
        } else {
            if (unlikely(c->dr[7] & 0xff))
                x86_watch(c, lin, part, true, false);
            x86_trial_device(c);
            mem_write(x86_as(c), gpa, p, part);
        }
        p += part;
        n -= part;
        lin = wrap(c, lin + part);
    }
}

void *x86_host(struct x86_cpu *c, uint64_t lin, unsigned n, enum x86_access a)
{
    bool user = c->cpl == 3;
    struct x86_itlb_entry *e;
    gpa_t gpa;

    if ((lin & 0xfff) + n > PAGE)
        return NULL;
    e = lookup(c, lin, a, user);
    if (!e)
        e = fill(c, lin, a, user, &gpa);
    if (!e)
        return NULL;
    if (a == X86_WRITE) {
        x86_trial_write(c, e, lin, n);
        mem_ram_written(e->ram, e->ram_off + (lin & 0xfff), n);
        if (e->ram->page[e->ram_off / PAGE] & MEM_PAGE_CODE)
            return NULL;
    }
    return (void *)(uintptr_t)(lin + e->add);
}

void *x86_rmw_slow(struct x86_cpu *c, uint64_t lin, unsigned size)
{
    bool user = c->cpl == 3;
    struct x86_itlb_entry *e;
    gpa_t gpa;

    check_alignment(c, lin, size);
    if ((lin & 0xfff) + size > PAGE) {
        probe_all(c, lin, size, user); /* a read-modify-write faults as a write */
        x86_split_lock(c);
        return NULL;
    }
    e = lookup(c, lin, X86_WRITE, user);
    if (!e)
        e = fill(c, lin, X86_WRITE, user, &gpa);
    if (e)
        x86_trial_write(c, e, lin, size);
    return e ? (void *)(uintptr_t)(lin + e->add) : NULL;
}

const uint8_t *x86_code_page(struct x86_cpu *c, uint64_t lin, struct mem_ram **ram, uint64_t *ram_off)
{
    bool user = c->cpl == 3;
    struct x86_itlb_entry *e = lookup(c, lin, X86_EXEC, user);
    gpa_t gpa;

    if (!e)
        e = fill(c, lin, X86_EXEC, user, &gpa);
    if (!e)
        return NULL;
    *ram = e->ram;
    *ram_off = e->ram_off;
    return (const uint8_t *)(uintptr_t)((lin & PMASK) + e->add);
}

unsigned x86_fetch(struct x86_cpu *c, uint64_t rip, uint8_t *buf, unsigned want)
{
    uint64_t lin = c->mode == X86_MODE_64 ? rip : (uint32_t)(c->seg[X86_CS].base + rip);
    unsigned got = 0;

    while (got < want) {
        unsigned left = PAGE - (unsigned)(lin & 0xfff), part = want - got < left ? want - got : left;
        struct x86_itlb_entry *e = lookup(c, lin, X86_EXEC, c->cpl == 3);
        gpa_t gpa;

        if (!e) {
            struct x86_xlat x;
            uint32_t err;

            if (got && ((c->long_mode && !x86_canonical(c, lin)) || !x86_walk(c, lin, X86_EXEC, c->cpl == 3, &x, &err)))
                return got;
            e = fill(c, lin, X86_EXEC, c->cpl == 3, &gpa);
        }
        if (!e)
            x86_trial_device(c);
        if (e)
            memcpy(buf + got, (const void *)(uintptr_t)(lin + e->add), part);
        else
            mem_read(x86_as(c), gpa, buf + got, part);
        got += part;
        lin = wrap(c, lin + part);
    }
    return got;
}
