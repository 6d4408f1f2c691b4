/* The code cache: blocks by physical place, links between them, invalidation. All with dbt.lock held unless noted.
 *
 * A block dies when a byte it was made from is written: its incoming links are turned back to their stubs, its entries
 * and the continuations behind its calls are overwritten by jumps that leave, and the memory is reused only when the
 * whole cache is emptied with every vCPU outside. */
#include "accel/dbt/dbt_int.h"
#include "base/log.h"

#include <sched.h>
#include <stdatomic.h>

static uint64_t mix(uint64_t v)
{
    v *= UINT64_C(0x9e3779b97f4a7c15);
    return v >> 40 ^ v >> 20;
}

static unsigned block_hash(uint64_t pc, uint64_t pa, unsigned mode)
{
    return (unsigned)(mix(pa ^ pc << 1 ^ (uint64_t)mode << 50) % DBT_HASH);
}

struct dbt_block *dbt_find(struct dbt *d, uint64_t pc, uint64_t pa, unsigned mode)
{
    struct dbt_block *b = d->hash[block_hash(pc, pa, mode)];

    while (b && (b->pc != pc || b->pa != pa || b->mode != mode))
        b = b->hnext;
    return b;
}

struct dbt_link *dbt_link_get(struct dbt *d, uint32_t n)
{
    return &d->links[n / DBT_LINK_CHUNK][n % DBT_LINK_CHUNK];
}

static struct dbt_page *page_of(struct dbt *d, uint64_t no, bool make)
{
    struct dbt_page **at = &d->pages[mix(no) % DBT_PAGE_HASH], *p = *at;

    while (p && p->no != no)
        p = p->next;
    if (!p && make) {
        p = xnew(struct dbt_page);
        p->no = no;
        p->next = *at;
        *at = p;
    }
    return p;
}

uint32_t dbt_pair_id(struct dbt *d, uint64_t lin, uint64_t no)
{
    struct dbt_pair **at = &d->pairs[mix(lin ^ no << 20) % DBT_PAGE_HASH], *p = *at;

    while (p && (p->lin != lin || p->no != no))
        p = p->next;
    if (!p) {
        p = xnew(struct dbt_pair);
        *p = (struct dbt_pair){.lin = lin, .no = no, .id = ++d->next_pair, .next = *at};
        *at = p;
    }
    return p->id;
}

/* ---- links ---- */

static void patch(struct dbt *d, const uint8_t *at, const uint8_t *to)
{
    /* Aligned within 8 bytes (the rewriter saw to it): one store, seen whole by other CPUs. */
    __atomic_store_n((uint32_t *)(void *)jit_arena_writable(&d->arena, at), (uint32_t)(to - (at + 4)),
                     __ATOMIC_RELEASE);
}

void dbt_link_to(struct dbt *d, struct dbt_link *l, struct dbt_block *to)
{
    bool same_page = (l->from->pc ^ to->pc) < 4096;

    if (l->to || l->from->dead || to->dead || !to->host)
        return;
    l->to = to;
    list_add(&to->incoming, &l->in);
    patch(d, l->at, same_page ? to->host + to->entry : to->host);
}

static void unlink_one(struct dbt *d, struct dbt_link *l)
{
    if (!l->to)
        return;
    list_del(&l->in);
    l->to = NULL;
    patch(d, l->at, l->stub);
}

/* ---- death ---- */

/* Makes the code at run address `at` leave to the runtime with T0 = pc. Needs room for 15 bytes there. */
static void overwrite(struct dbt *d, const uint8_t *at, uint64_t pc)
{
    uint8_t *w = jit_arena_writable(&d->arena, at);
    struct jit_buf b = {.start = w, .p = w, .end = w + 16, .delta = d->arena.x - d->arena.w};

    jit_mov_ri(&b, JR_R10, pc);
    jit_jmp(&b, d->stubs.exit_dispatch);
}

static void kill_block(struct dbt *d, struct dbt_block *b)
{
    struct dbt_block **at = &d->hash[block_hash(b->pc, b->pa, b->mode)];

    while (*at != b)
        at = &(*at)->hnext;
    *at = b->hnext;
    b->dead = true;
    d->stat.invalidated++;
    while (!list_empty(&b->incoming))
        unlink_one(d, list_first(&b->incoming, struct dbt_link, in));
    for (uint32_t i = 0; i < b->nr_links; i++)
        unlink_one(d, dbt_link_get(d, b->first_link + i));
    if (b->host) {
        overwrite(d, b->host, b->pc); /* the guarded entry: jump tables may still name it */
        if (b->entry)
            overwrite(d, b->host + b->entry, b->pc);
    }
}

/* Kills what overlaps [off, off + len) of the page; true when nothing is left. */
static bool invalidate(struct dbt *d, struct dbt_page *p, unsigned off, unsigned len)
{
    struct dbt_block **at = &p->blocks, *b;
    uint64_t left = 0;

    while ((b = *at)) {
        unsigned first = (unsigned)(b->pa & 4095), last = first + (b->guest_len ? b->guest_len : 1) - 1;

        if (first < off + len && off <= last) {
            *at = b->pnext;
            kill_block(d, b);
            continue;
        }
        left |= (~UINT64_C(0) << first / 64) & (~UINT64_C(0) >> (63 - min_u64(last, 4095) / 64));
        at = &b->pnext;
    }
    p->granules = left;
    return !left;
}

/* Any thread. */
bool dbt_code_written(void *opaque, struct mem_ram *m, uint64_t off, uint64_t len)
{
    struct dbt *d = opaque;
    struct dbt_page *p;
    bool empty = true;
    unsigned in = (unsigned)(off & 4095);
    uint64_t touched;

    pthread_mutex_lock(&d->lock);
    p = page_of(d, m->id + off / 4096, false);
    if (p) {
        touched = (~UINT64_C(0) << in / 64) & (~UINT64_C(0) >> (63 - min_u64(in + len - 1, 4095) / 64));
        empty = !p->granules;
        if (p->granules & touched)
            empty = invalidate(d, p, in, (unsigned)len);
    }
    pthread_mutex_unlock(&d->lock);
    return empty;
}

/* ---- birth ---- */

static bool record_links(struct dbt *d, struct dbt_block *b, const struct x86_rw_out *o)
{
    b->first_link = d->nr_links;
    b->nr_links = o->nr_links;
    for (unsigned i = 0; i < o->nr_links; i++) {
        struct dbt_link *l = dbt_link_get(d, d->nr_links++);
        const struct x86_rw_link *r = &o->link[i];

        *l = (struct dbt_link){.from = b,
                               .at = b->host + r->at,
                               .stub = b->host + r->stub,
                               .target = r->target,
                               .poll_pc = r->poll_pc,
                               .poll = r->poll ? b->host + r->poll : NULL,
                               .cont = r->kind == X86_LINK_CONT};
        list_init(&l->in);
    }
    return true;
}

/* Links are numbered in one run per block: skip to the next chunk when the rest of this one could be too small. */
static bool reserve_links(struct dbt *d)
{
    uint32_t left = DBT_LINK_CHUNK - d->nr_links % DBT_LINK_CHUNK, chunk;

    if (left < X86_RW_MAX_LINKS)
        d->nr_links += left;
    chunk = d->nr_links / DBT_LINK_CHUNK;
    if (chunk >= DBT_LINK_CHUNKS)
        return false;
    if (!d->links[chunk])
        d->links[chunk] = xcalloc(DBT_LINK_CHUNK, sizeof(struct dbt_link));
    return true;
}

static void add_order(struct dbt *d, struct dbt_block *b)
{
    if (d->nr_order == d->cap_order) {
        d->cap_order = d->cap_order ? d->cap_order * 2 : 1024;
        d->order = xrealloc(d->order, d->cap_order * sizeof(struct dbt_block *));
    }
    d->order[d->nr_order++] = b;
}

static void enter_tables(struct dbt *d, struct dbt_block *b, const struct dbt_xtlb *x)
{
    unsigned h = block_hash(b->pc, b->pa, b->mode), first = (unsigned)(b->pa & 4095);
    struct dbt_page *p = page_of(d, x->no, true);

    b->hnext = d->hash[h];
    d->hash[h] = b;
    b->pnext = p->blocks;
    p->blocks = b;
    p->granules |= (~UINT64_C(0) << first / 64) &
                   (~UINT64_C(0) >> (63 - min_u64(first + max_u64(b->guest_len, 1) - 1, 4095) / 64));
    mem_ram_mark_code(x->ram, x->ram_off);
}

struct dbt_block *dbt_translate(struct dbt_cpu *c, uint64_t pc, const struct dbt_xtlb *x, unsigned mode)
{
    struct dbt *d = c->dbt;
    unsigned off = (unsigned)(pc & 4095);
    struct dbt_block *b;
    struct x86_rw_out out;
    struct jit_buf buf;
    struct x86_rw_env env = {.stubs = &d->stubs,
                             .feat = &c->cpu->feat,
                             .mode = mode | d->one_insn,
                             .pc = pc,
                             .code = x->host + off,
                             .avail = 4096 - off,
                             .next_slot = &d->next_slot,
                             .fast_pext = d->fast_pext,
                             .vex = d->host_avx};

    if (!jit_arena_room(&d->arena, X86_RW_ROOM) || !reserve_links(d))
        return NULL;
    env.first_link = d->nr_links;
    env.page_id = dbt_pair_id(d, pc & ~UINT64_C(4095), x->no);
    buf = (struct jit_buf){.start = d->arena.w + d->arena.used,
                           .p = d->arena.w + d->arena.used,
                           .end = d->arena.w + d->arena.used + X86_RW_ROOM,
                           .delta = d->arena.x - d->arena.w};
    b = xnew(struct dbt_block);
    list_init(&b->incoming);
    b->pc = pc;
    b->pa = x->no << 12 | off;
    b->mode = mode;
    if (x86_rw_block(&buf, &env, &out)) {
        b->host = d->arena.x + d->arena.used;
        b->entry = out.entry;
        b->len = out.len;
        b->guest_len = out.guest_len;
        b->nr_insn = (uint16_t)out.nr_insn;
        b->map = xcalloc(out.nr_insn + 1, 2 * sizeof *b->map);
        for (unsigned i = 0; i <= out.nr_insn; i++) {
            b->map[2 * i] = out.host_off[i];
            b->map[2 * i + 1] = out.guest_off[i];
        }
        record_links(d, b, &out);
        for (unsigned i = 0; i < out.nr_links; i++)
            patch(d, b->host + out.link[i].at, b->host + out.link[i].stub);
        d->arena.used += align_up(out.len, 16);
        add_order(d, b);
        d->stat.insns += out.nr_insn;
        d->stat.bytes += out.len;
    } else {
        b->guest_len = 1;
    }
    d->stat.blocks++;
    enter_tables(d, b, x);
    return b;
}

struct dbt_block *dbt_block_at(struct dbt *d, const uint8_t *host)
{
    uint32_t lo = 0, hi = d->nr_order;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (host < d->order[mid]->host)
            hi = mid;
        else if (host >= d->order[mid]->host + d->order[mid]->len)
            lo = mid + 1;
        else
            return d->order[mid];
    }
    return NULL;
}

unsigned dbt_insn_at(const struct dbt_block *b, const uint8_t *host)
{
    unsigned i = 0;

    while (i + 1 < b->nr_insn && b->host + b->map[2 * (i + 1)] <= host)
        i++;
    return i;
}

/* ---- emptying ---- */

static void drop_everything(struct dbt *d)
{
    for (unsigned i = 0; i < DBT_HASH; i++)
        d->hash[i] = NULL;
    for (unsigned i = 0; i < DBT_PAGE_HASH; i++) {
        while (d->pages[i]) {
            struct dbt_page *p = d->pages[i];

            d->pages[i] = p->next;
            while (p->blocks) {
                struct dbt_block *b = p->blocks;

                p->blocks = b->pnext;
                if (!b->host) {
                    free(b->map);
                    free(b);
                }
            }
            free(p);
        }
        while (d->pairs[i]) {
            struct dbt_pair *p = d->pairs[i];

            d->pairs[i] = p->next;
            free(p);
        }
    }
    for (uint32_t i = 0; i < d->nr_order; i++) {
        free(d->order[i]->map);
        free(d->order[i]);
    }
    d->nr_order = 0;
    d->nr_links = 0;
    d->next_pair = 0;
    jit_arena_reset(&d->arena);
    d->generation++;
    d->stat.flushes++;
}

/* Called without the lock by the vCPU that found the cache full. Page flags stay set: a write clears them by and by. */
void dbt_flush_cache(struct dbt_cpu *c)
{
    struct dbt *d = c->dbt;

    pthread_mutex_lock(&d->lock);
    if (c->generation != d->generation) { /* another vCPU did it meanwhile */
        pthread_mutex_unlock(&d->lock);
        return;
    }
    d->flushing = true;
    for (unsigned i = 0; i < d->m->nr_cpus && i < ARRAY_LEN(d->cpus); i++) {
        struct dbt_cpu *o = d->cpus[i];

        if (!o || o == c)
            continue;
        while (o->in_code) {
            o->cpu->vcpu.kick(&o->cpu->vcpu);
            sched_yield();
        }
    }
    drop_everything(d);
    d->flushing = false;
    pthread_mutex_unlock(&d->lock);
}

void dbt_cache_free(struct dbt *d)
{
    drop_everything(d);
    for (unsigned i = 0; i < DBT_LINK_CHUNKS; i++)
        free(d->links[i]);
    free(d->order);
    free(d->hash);
    free(d->pages);
    free(d->pairs);
    jit_arena_free(&d->arena);
}
