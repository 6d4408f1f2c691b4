/* See jit/cache.h. */
#include "jit/cache.h"
#include "base/util.h"
#include "jit/count.h"
#include "jit/jitdump.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

static uint64_t mix(uint64_t v)
{
    v *= UINT64_C(0x9e3779b97f4a7c15);
    return v >> 40 ^ v >> 20;
}

static unsigned block_hash(uint64_t pc, uint64_t place, unsigned mode)
{
    return (unsigned)(mix(place ^ pc << 1 ^ (uint64_t)mode << 50) % JIT_CACHE_HASH);
}

struct jit_block *jit_cache_find(struct jit_cache *d, uint64_t pc, uint64_t place, unsigned mode)
{
    struct jit_block *b = d->hash[block_hash(pc, place, mode)];

    while (b && (b->pc != pc || b->place != place || b->mode != mode))
        b = b->hnext;
    return b;
}

struct jit_link *jit_cache_link(struct jit_cache *d, uint32_t n)
{
    return &d->links[n / JIT_LINK_CHUNK][n % JIT_LINK_CHUNK];
}

static struct jit_page *page_of(struct jit_cache *d, uint64_t no, bool make)
{
    struct jit_page **at = &d->pages[mix(no) % JIT_CACHE_PAGES], *p = *at;

    while (p && p->no != no)
        p = p->next;
    if (!p && make) {
        p = xnew(struct jit_page);
        p->no = no;
        p->next = *at;
        *at = p;
    }
    return p;
}

/* ---- links ---- */

static void patch(struct jit_cache *d, const uint8_t *at, const uint8_t *to)
{
    /* Aligned within 8 bytes (the rewriter saw to it): one store, seen whole by other CPUs. */
    __atomic_store_n((uint32_t *)(void *)jit_arena_writable(&d->arena, at), (uint32_t)(to - (at + 4)),
                     __ATOMIC_RELEASE);
}

void jit_cache_link_to(struct jit_cache *d, uint32_t n, struct jit_block *to)
{
    struct jit_link *l = jit_cache_link(d, n);
    const struct jit_block *from = d->order[l->from];
    const uint8_t *at = from->host + l->at;

    if (l->to != JIT_UNLINKED || from->dead || to->dead || !to->host)
        return;
    l->to = to->index;
    l->prev = 0;
    l->next = to->incoming;
    if (l->next)
        jit_cache_link(d, l->next)->prev = n;
    to->incoming = n;
    if (l->inner && from == to && !d->count)
        patch(d, at, to->host + l->inner);
    else
        patch(d, at, (from->pc ^ to->pc) < 4096 ? to->host + to->entry : jit_block_gate(to));
}

static void unlink_one(struct jit_cache *d, uint32_t n)
{
    struct jit_link *l = jit_cache_link(d, n);
    const struct jit_block *from = d->order[l->from];

    if (l->to == JIT_UNLINKED)
        return;
    if (l->prev)
        jit_cache_link(d, l->prev)->next = l->next;
    else
        d->order[l->to]->incoming = l->next;
    if (l->next)
        jit_cache_link(d, l->next)->prev = l->prev;
    l->to = JIT_UNLINKED;
    patch(d, from->host + l->at, from->host + l->stub);
}

/* ---- death ---- */

/* Before a block's code: LEAVE_LEN bytes that leave to the runtime with the block's pc, a byte of nothing, where blocks
 * count room for a jump, and a 2-byte NOP at an even address, the gate. Death makes the NOP a short jump to the first,
 * whole for every CPU that fetches it.
 *
 * Blocks start at any multiple of four (and 2): what AMD's Zen predicts jumps by are bits 2 and 3 of the addresses
 * jumped to before. With all blocks at multiples of 16 it could not tell one way there from another. */
enum { LEAVE_LEN = 15, STEP = 4 };
static unsigned before(const struct jit_cache *d)
{
    return LEAVE_LEN + 1 + (d->count ? JIT_COUNT_GATE : 0) + JIT_GATE_LEN;
}

/* What a block of len bytes takes. */
static size_t block_room(const struct jit_cache *d, size_t len)
{
    return len + before(d) + (d->count ? JIT_COUNT_LEN : 0);
}

static void put_gate(struct jit_cache *d, const struct jit_block *b)
{
    uint8_t *w = jit_arena_writable(&d->arena, b->host - before(d));
    struct jit_buf buf = {.start = w, .p = w, .end = w + LEAVE_LEN, .delta = d->arena.x - d->arena.w};

    jit_mov_ri(&buf, d->leave_reg, b->pc);
    jit_jmp(&buf, d->leave);
    put_le16(jit_arena_writable(&d->arena, jit_block_gate(b)), 0x9066);
}

static void shut_gate(struct jit_cache *d, const struct jit_block *b)
{
    uint16_t *w = (uint16_t *)(void *)jit_arena_writable(&d->arena, jit_block_gate(b));

    __atomic_store_n(w, (uint16_t)(0xeb | (0x100 - before(d)) << 8), __ATOMIC_RELEASE);
}

static void kill_block(struct jit_cache *d, struct jit_block *b)
{
    struct jit_block **at = &d->hash[block_hash(b->pc, b->place, b->mode)];

    while (*at != b)
        at = &(*at)->hnext;
    *at = b->hnext;
    b->dead = true;
    d->stat.invalidated++;
    while (b->incoming)
        unlink_one(d, b->incoming);
    for (uint32_t i = 0; i < b->nr_links; i++)
        unlink_one(d, b->first_link + i);
    if (b->host)
        shut_gate(d, b); /* jump tables may still name it */
}

void jit_cache_kill(struct jit_cache *d, struct jit_block *b)
{
    if (!b->dead)
        kill_block(d, b);
}

static uint64_t granules_of(unsigned first, unsigned last)
{
    return (~UINT64_C(0) << first / 64) & (~UINT64_C(0) >> (63 - last / 64));
}

static struct jit_block *block_of(struct jit_span *s)
{
    return container_of(s - s->n, struct jit_block, span[0]);
}

/* Kills what depends on [off, off + len) of the page; true when nothing is left. */
static bool invalidate(struct jit_cache *d, struct jit_page *p, unsigned off, unsigned len)
{
    struct jit_span **at = &p->spans, *s;
    uint64_t left = 0;

    while ((s = *at)) {
        struct jit_block *b = block_of(s);

        if (!b->dead && s->first < off + len && off <= s->last)
            kill_block(d, b);
        if (b->dead) { /* perhaps from another page, or through another span */
            *at = s->next;
            continue;
        }
        left |= granules_of(s->first, s->last);
        at = &s->next;
    }
    p->granules = left;
    return !left;
}

bool jit_cache_written_held(struct jit_cache *d, uint64_t no, unsigned off, unsigned len)
{
    struct jit_page *p = page_of(d, no, false);
    bool empty = true;
    uint64_t touched;

    if (p) {
        touched = granules_of(off, (unsigned)min_u64(off + len - 1, 4095));
        empty = !p->granules;
        if (p->granules & touched)
            empty = invalidate(d, p, off, len);
    }
    return empty;
}

bool jit_cache_written(struct jit_cache *d, uint64_t no, unsigned off, unsigned len)
{
    bool empty;

    pthread_mutex_lock(&d->lock);
    empty = jit_cache_written_held(d, no, off, len);
    pthread_mutex_unlock(&d->lock);
    return empty;
}

/* ---- birth ---- */

static void record_links(struct jit_cache *d, struct jit_block *b, const struct jit_block_out *o)
{
    b->first_link = d->nr_links;
    b->nr_links = (uint16_t)o->nr_links;
    for (unsigned i = 0; i < o->nr_links; i++) {
        const struct jit_link_out *r = &o->link[i];
        uint64_t off = r->poll_pc - b->pc;

        assert((!r->poll || r->poll_pc == r->target || off < JIT_POLL_TARGET) && r->mode_or <= UINT16_MAX);
        *jit_cache_link(d, d->nr_links++) =
            (struct jit_link){.from = b->index,
                              .to = JIT_UNLINKED,
                              .target = r->target,
                              .at = (uint16_t)r->at,
                              .stub = (uint16_t)r->stub,
                              .poll = (uint16_t)r->poll,
                              .inner = (uint16_t)r->inner,
                              .poll_off = r->poll_pc == r->target ? JIT_POLL_TARGET : (uint16_t)off,
                              .mode_or = (uint16_t)r->mode_or};
    }
}

/* Links are numbered in one run per block: skip to the next chunk when the rest of this one could be too small. */
static bool reserve_links(struct jit_cache *d)
{
    uint32_t left, chunk;

    if (!d->nr_links)
        d->nr_links = 1; /* no link has the number 0 */
    left = JIT_LINK_CHUNK - d->nr_links % JIT_LINK_CHUNK;
    if (left < JIT_BLOCK_MAX_LINKS)
        d->nr_links += left;
    chunk = d->nr_links / JIT_LINK_CHUNK;
    if (chunk >= JIT_LINK_CHUNKS)
        return false;
    if (!d->links[chunk])
        d->links[chunk] = xcalloc(JIT_LINK_CHUNK, sizeof(struct jit_link));
    return true;
}

/* Blocks are freed all at once: their memory needs no allocator's words between them. */
struct jit_chunk {
    struct jit_chunk *next;
    size_t used;
    uint8_t mem[];
};
enum { CHUNK_ROOM = (256 << 10) - sizeof(struct jit_chunk) };

static struct jit_block *new_block(struct jit_cache *d, unsigned nr_map)
{
    size_t size = align_up(sizeof(struct jit_block) + nr_map * 2 * sizeof(uint16_t), 8);
    struct jit_chunk *c = d->chunks;

    if (!c || CHUNK_ROOM - c->used < size) {
        c = xcalloc(1, sizeof *c + CHUNK_ROOM);
        c->next = d->chunks;
        d->chunks = c;
    }
    c->used += size;
    return (struct jit_block *)(void *)(c->mem + c->used - size);
}

static void append(struct jit_cache *d, struct jit_block *b)
{
    if (d->nr_order == d->cap_order) {
        d->cap_order = d->cap_order ? d->cap_order * 2 : 1024;
        d->order = xrealloc(d->order, d->cap_order * sizeof *d->order);
    }
    d->order[d->nr_order++] = b;
}

static void add_span(struct jit_cache *d, struct jit_block *b, unsigned n, uint64_t no, unsigned first, unsigned last)
{
    struct jit_page *p = page_of(d, no, true);

    b->span[n] = (struct jit_span){
        .next = p->spans, .first = (uint16_t)first, .last = (uint16_t)last, .n = (uint8_t)n, .used = true};
    p->spans = &b->span[n];
    p->granules |= granules_of(first, last);
}

static void enter_tables(struct jit_cache *d, struct jit_block *b, const struct jit_block_out *out)
{
    unsigned h = block_hash(b->pc, b->place, b->mode), first = (unsigned)(b->place & 4095);
    unsigned last = first + (unsigned)max_u64(b->guest_len, 1) - 1;

    b->hnext = d->hash[h];
    d->hash[h] = b;
    add_span(d, b, JIT_SPAN_OWN, b->place >> 12, first, (unsigned)min_u64(last, 4095));
    if (last > 4095)
        add_span(d, b, JIT_SPAN_TAIL, out->tail_no, 0, last - 4096);
    if (out && out->peek_last)
        add_span(d, b, JIT_SPAN_PEEK, b->place >> 12, out->peek_first, out->peek_last);
}

bool jit_cache_begin(struct jit_cache *d, struct jit_buf *b, uint32_t *first_link)
{
    uint8_t *w = d->arena.w + d->arena.used + before(d);

    if (!jit_arena_room(&d->arena, block_room(d, JIT_BLOCK_ROOM) + 8) || !reserve_links(d))
        return false;
    *first_link = d->nr_links;
    *b = (struct jit_buf){.start = w, .p = w, .end = w + JIT_BLOCK_ROOM, .delta = d->arena.x - d->arena.w};
    return true;
}

void jit_cache_begin_at(struct jit_cache *d, struct jit_buf *b, unsigned low)
{
    unsigned by = (unsigned)(low - (uintptr_t)b->start) & 7;

    jit_arena_take(&d->arena, by);
    b->start += by;
    b->p += by;
}

static size_t kib_of(const struct jit_cache *d, const uint8_t *host)
{
    return (size_t)(host - d->arena.x) >> 10;
}

static void keep_code(struct jit_cache *d, struct jit_block *b, const struct jit_block_out *out)
{
    b->index = d->nr_order;
    b->host = d->arena.x + d->arena.used + before(d);
    b->entry = (uint16_t)out->entry;
    b->len = out->len;
    b->guest_len = (uint16_t)out->guest_len;
    b->tail_no = out->tail_no;
    b->nr_insn = (uint16_t)out->nr_insn;
    for (unsigned i = 0; i <= out->nr_insn; i++) {
        b->map[2 * i] = out->host_off[i];
        b->map[2 * i + 1] = out->guest_off[i];
    }
    record_links(d, b, out);
    for (unsigned i = 0; i < out->nr_links; i++)
        patch(d, b->host + out->link[i].at, b->host + out->link[i].stub);
    put_gate(d, b);
    if (d->count)
        jit_count_block(d, b, b->host + b->len);
    jit_arena_take(&d->arena, align_up(block_room(d, out->len), STEP));
    while (d->nr_first <= kib_of(d, b->host))
        d->first[d->nr_first++] = d->nr_order;
    append(d, b);
    if (d->perf || d->dump) {
        char name[48];

        snprintf(name, sizeof name, "guest_%" PRIx64 "_m%x", b->pc, b->mode);
        jit_cache_perf_name(d, b->host, b->host + b->len, name);
    }
    d->stat.insns += out->nr_insn;
    d->stat.bytes += out->len;
}

bool jit_cache_perf_map(struct jit_cache *d, struct err **errp)
{
    char name[64];

    snprintf(name, sizeof name, "/tmp/perf-%ld.map", (long)getpid());
    d->perf = fopen(name, "we");
    if (!d->perf)
        return err_set_errno(errp, errno, "cannot write '%s' for perf", name);
    setvbuf(d->perf, NULL, _IOLBF, 0);
    return true;
}

bool jit_cache_jitdump(struct jit_cache *d, struct err **errp)
{
    d->dump = jit_dump_open(errp);
    return d->dump != NULL;
}

void jit_cache_perf_name(struct jit_cache *d, const uint8_t *from, const uint8_t *to, const char *name)
{
    if (d->perf)
        fprintf(d->perf, "%" PRIxPTR " %tx %s\n", (uintptr_t)from, to - from, name);
    if (d->dump)
        jit_dump_code(d->dump, from, jit_arena_writable(&d->arena, from), (size_t)(to - from), name);
}

struct jit_block *jit_cache_commit(struct jit_cache *d, uint64_t pc, uint64_t place, unsigned mode,
                                   const struct jit_block_out *out)
{
    struct jit_block *b = new_block(d, out ? out->nr_insn + 1 : 0);

    b->pc = pc;
    b->place = place;
    b->mode = mode;
    b->guest_len = 1;
    if (out)
        keep_code(d, b, out);
    d->stat.blocks++;
    enter_tables(d, b, out);
    return b;
}

struct jit_block *jit_cache_block_at(struct jit_cache *d, const uint8_t *host)
{
    size_t kib = kib_of(d, host);
    uint32_t i, end;

    if (host < d->arena.x || kib >= d->nr_first)
        i = end = d->nr_order; /* in the last block or in none */
    else
        i = end = d->first[kib];
    while (end < d->nr_order && d->order[end]->host <= host)
        end++;
    if (i)
        i--; /* it may reach into this KiB */
    for (; i < end; i++)
        if (host >= d->order[i]->host && host < d->order[i]->host + d->order[i]->len)
            return d->order[i];
    return NULL;
}

unsigned jit_block_insn_at(const struct jit_block *b, const uint8_t *host)
{
    unsigned i = 0;

    while (i + 1 < b->nr_insn && b->host + b->map[2 * (i + 1)] <= host)
        i++;
    return i;
}

/* ---- emptying ---- */

void jit_cache_empty(struct jit_cache *d)
{
    jit_count_log(d);
    for (unsigned i = 0; i < JIT_CACHE_HASH; i++)
        d->hash[i] = NULL;
    for (unsigned i = 0; i < JIT_CACHE_PAGES; i++) {
        while (d->pages[i]) {
            struct jit_page *p = d->pages[i];

            d->pages[i] = p->next;
            free(p);
        }
    }
    for (uint32_t i = 0; i < d->nr_order; i++)
        free(d->order[i]->keep);
    while (d->chunks) {
        struct jit_chunk *c = d->chunks;

        d->chunks = c->next;
        free(c);
    }
    d->nr_order = 0;
    d->nr_first = 0;
    d->nr_links = 0;
    jit_arena_reset(&d->arena);
    d->generation++;
    d->stat.flushes++;
}

static void init_tables(struct jit_cache *d)
{
    d->first = xcalloc((d->arena.size >> 10) + 1, sizeof *d->first);
    pthread_mutex_init(&d->lock, NULL);
    d->hash = xcalloc(JIT_CACHE_HASH, sizeof *d->hash);
    d->pages = xcalloc(JIT_CACHE_PAGES, sizeof *d->pages);
}

bool jit_cache_init(struct jit_cache *d, size_t size, struct err **errp)
{
    *d = (struct jit_cache){0};
    if (!jit_arena_init(&d->arena, size, errp))
        return false;
    init_tables(d);
    return true;
}

bool jit_cache_init_private(struct jit_cache *d, size_t size, struct err **errp)
{
    *d = (struct jit_cache){0};
    if (!jit_arena_init_private(&d->arena, size, errp))
        return false;
    init_tables(d);
    return true;
}

void jit_cache_free(struct jit_cache *d)
{
    jit_cache_empty(d);
    for (unsigned i = 0; i < JIT_LINK_CHUNKS; i++)
        free(d->links[i]);
    free(d->order);
    free(d->first);
    free(d->hash);
    free(d->pages);
    if (d->perf)
        fclose(d->perf);
    jit_dump_close(d->dump);
    jit_count_free(d);
    pthread_mutex_destroy(&d->lock);
    jit_arena_free(&d->arena);
}
