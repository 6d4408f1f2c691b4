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

static struct jit_block **head_of(struct jit_cache *d, uint64_t pc, uint64_t place, unsigned mode)
{
    return &d->hash[mix(place ^ pc << 1 ^ (uint64_t)mode << 50) & d->hash_mask];
}

static struct jit_block **head_of_block(struct jit_cache *d, const struct jit_block *b)
{
    return head_of(d, b->pc, b->place, b->mode);
}

/* Small programs stay with a table that a few pages hold. */
static void grow_hash(struct jit_cache *d)
{
    uint32_t old_mask = d->hash_mask;
    struct jit_block **old = d->hash;

    d->hash_mask = old_mask * 2 + 1;
    d->hash = xcalloc((size_t)d->hash_mask + 1, sizeof *d->hash);
    for (uint32_t i = 0; i <= old_mask; i++)
        while (old[i]) {
            struct jit_block *b = old[i], **at = head_of_block(d, b);

            old[i] = b->hnext;
            b->hnext = *at;
            *at = b;
        }
    free(old);
}

struct jit_block *jit_cache_find(struct jit_cache *d, uint64_t pc, uint64_t place, unsigned mode)
{
    struct jit_block *b = *head_of(d, pc, place, mode);

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

/* Where the link goes while it leads to no block. */
static const uint8_t *unlinked(const struct jit_cache *d, const struct jit_block *from, const struct jit_link *l)
{
    return l->stub == JIT_STUB_CALL ? d->call_out : from->host + l->stub;
}

uint32_t jit_cache_link_behind(struct jit_cache *d, const uint8_t *end)
{
    const struct jit_block *b = jit_cache_block_at(d, end - 1);
    size_t off = (size_t)(end - b->host), from = 0; /* of the stub that begins last before it */
    uint32_t found = 0;

    for (uint32_t n = b->first_link; n < b->first_link + b->nr_links; n++) {
        const struct jit_link *l = jit_cache_link(d, n);

        if (l->stub == JIT_STUB_CALL ? off == l->at + 4u : l->stub < off && l->stub > from) {
            found = n;
            from = l->stub == JIT_STUB_CALL ? off : l->stub;
        }
    }
    assert(found);
    return found;
}

void jit_cache_link_to(struct jit_cache *d, uint32_t n, struct jit_block *to)
{
    struct jit_link *l = jit_cache_link(d, n);
    const struct jit_block *from = d->order[l->from];
    const uint8_t *at = from->host + l->at;

    if (l->to != JIT_UNLINKED || from->dead || to->dead || !to->host)
        return;
    /* Only its stub makes the state what it is where a block is entered, and be it to be counted. */
    if (l->inner && (d->count || from != to))
        return;
    l->to = to->index;
    l->prev = 0;
    l->next = to->incoming;
    if (l->next)
        jit_cache_link(d, l->next)->prev = n;
    to->incoming = n;
    if (l->inner)
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
    patch(d, from->host + l->at, unlinked(d, from, l));
}

/* ---- death ---- */

/* Before a block's code: bytes that leave to the runtime, saying which block it was (LEAVE_LEN: by its pc; CALL_LEN:
 * by where a CALL stands), a byte of nothing, where blocks count room for a jump, and a 2-byte NOP at an even address,
 * the gate. Death makes the NOP a short jump to the first, whole for every CPU that fetches it.
 *
 * What AMD's Zen predicts jumps by are bits 2 and 3 of the addresses jumped to before. With all blocks at multiples of
 * 16 it could not tell one way there from another: here those bits follow from the guest's pc. */
enum { LEAVE_LEN = 15, CALL_LEN = 5, STEP = 4, LOOP_MAX = 256 };
static unsigned before(const struct jit_cache *d)
{
    return (d->leave_call ? CALL_LEN : LEAVE_LEN) + 1 + (d->count ? JIT_COUNT_GATE : 0) + JIT_GATE_LEN;
}

/* What a block of len bytes takes. */
static size_t block_room(const struct jit_cache *d, size_t len)
{
    return len + before(d) + (d->count ? JIT_COUNT_LEN : 0);
}

static void put_gate(struct jit_cache *d, const struct jit_block *b)
{
    uint8_t *w = jit_arena_writable(&d->arena, b->host - before(d));
    struct jit_buf buf = {
        .start = w, .p = w, .end = w + LEAVE_LEN + JIT_MAX_INSN /* jit_room */, .delta = d->arena.x - d->arena.w};

    if (d->leave_call) {
        jit_call(&buf, d->leave_call);
    } else {
        jit_mov_ri(&buf, d->leave_reg, b->pc);
        jit_jmp(&buf, d->leave);
        assert(buf.p <= w + LEAVE_LEN);
    }
    put_le16(jit_arena_writable(&d->arena, jit_block_gate(b)), 0x9066);
}

static void shut_gate(struct jit_cache *d, const struct jit_block *b)
{
    uint16_t *w = (uint16_t *)(void *)jit_arena_writable(&d->arena, jit_block_gate(b));

    __atomic_store_n(w, (uint16_t)(0xeb | (0x100 - before(d)) << 8), __ATOMIC_RELEASE);
}

/* JNE rel32 becomes NOP, JMP rel32 with the same displacement: one store. Or the byte that was named. */
static void leave_behind_call(struct jit_cache *d, const struct jit_block *b, const struct jit_link *l)
{
    uint8_t *w = jit_arena_writable(&d->arena, b->host + l->at);

    if (l->mode_or)
        __atomic_store_n(w, (uint8_t)l->mode_or, __ATOMIC_RELEASE);
    else
        __atomic_store_n((uint16_t *)(void *)(w - 2), (uint16_t)0xe990, __ATOMIC_RELEASE);
}

static void kill_block(struct jit_cache *d, struct jit_block *b)
{
    struct jit_block **at = head_of_block(d, b);

    while (*at != b)
        at = &(*at)->hnext;
    *at = b->hnext;
    d->nr_hashed--;
    b->dead = true;
    d->stat.invalidated++;
    while (b->incoming)
        unlink_one(d, b->incoming);
    for (uint32_t i = 0; i < b->nr_links; i++)
        if (jit_cache_link(d, b->first_link + i)->stub)
            unlink_one(d, b->first_link + i);
        else
            leave_behind_call(d, b, jit_cache_link(d, b->first_link + i));
    if (b->host)
        shut_gate(d, b); /* jump tables may still name it */
}

void jit_cache_unlink_all(struct jit_cache *d)
{
    for (uint32_t i = 0; i < d->nr_order; i++)
        for (uint32_t k = 0; k < d->order[i]->nr_links; k++)
            unlink_one(d, d->order[i]->first_link + k);
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

/* Blocks and links are freed all at once: their memory needs no allocator's words between them. */
struct jit_chunk {
    struct jit_chunk *next;
    size_t size, used;
    bool mapped;
};
enum { CHUNK_SMALL = 512 << 10, CHUNK_LARGE = 2 << 20 };

/* The first is small. Who fills it will need much more: large pages are cleared in a tenth of the time. */
static struct jit_chunk *new_chunk(struct jit_cache *d)
{
    size_t size = d->chunks ? CHUNK_LARGE : CHUNK_SMALL;
    struct jit_chunk *c = jit_map_zeros(size);
    bool mapped = c;

    if (!c)
        c = xcalloc(1, size);
    *c = (struct jit_chunk){.next = d->chunks, .size = size, .used = sizeof *c, .mapped = mapped};
    d->chunks = c;
    return c;
}

static void free_chunks(struct jit_cache *d)
{
    while (d->chunks) {
        struct jit_chunk *c = d->chunks;

        d->chunks = c->next;
        if (c->mapped)
            jit_unmap(c, c->size);
        else
            free(c);
    }
}

static void *take(struct jit_cache *d, size_t size) /* zeroed */
{
    struct jit_chunk *c = d->chunks;

    size = align_up(size, 8);
    if (!c || c->size - c->used < size)
        c = new_chunk(d);
    c->used += size;
    return (uint8_t *)c + c->used - size;
}

static struct jit_block *new_block(struct jit_cache *d, unsigned nr_map)
{
    return take(d, sizeof(struct jit_block) + nr_map * 2 * sizeof(uint16_t));
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
        d->links[chunk] = take(d, JIT_LINK_CHUNK * sizeof(struct jit_link));
    return true;
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
    struct jit_block **at;
    unsigned first = (unsigned)(b->place & 4095);
    unsigned last = first + (unsigned)max_u64(b->guest_len, 1) - 1;

    if (d->nr_hashed++ > d->hash_mask)
        grow_hash(d);
    at = head_of_block(d, b);
    b->hnext = *at;
    *at = b;
    add_span(d, b, JIT_SPAN_OWN, b->place >> 12, first, (unsigned)min_u64(last, 4095));
    if (last > 4095)
        add_span(d, b, JIT_SPAN_TAIL, out->tail_no, 0, last - 4096);
    if (out && out->peek_last)
        add_span(d, b, JIT_SPAN_PEEK, (b->place >> 12) + (uint64_t)(int64_t)out->peek_by, out->peek_first,
                 out->peek_last);
}

/* Bits 2 and 3 of where the code for pc goes: targets near each other differ. */
static unsigned low_bits(uint64_t pc)
{
    return (unsigned)(pc ^ pc >> 2 ^ pc >> 4) & 0xc;
}

bool jit_cache_begin(struct jit_cache *d, uint64_t pc, struct jit_buf *b, uint32_t *first_link)
{
    size_t gap = (low_bits(pc) - d->arena.used) & 0xf;
    uint8_t *w;

    if (!jit_arena_room(&d->arena, gap + block_room(d, JIT_BLOCK_ROOM)) || !reserve_links(d))
        return false;
    jit_arena_take(&d->arena, gap);
    w = d->arena.w + d->arena.used + before(d);
    *first_link = d->nr_links;
    *b = (struct jit_buf){.start = w, .p = w, .end = w + JIT_BLOCK_ROOM, .delta = d->arena.x - d->arena.w};
    return true;
}

/* Where the block jumps back to its own start, the bytes from there to behind the longest such jump; else 0. */
static size_t loop_of(const struct jit_block_out *o, uint64_t pc, size_t *from)
{
    size_t end = 0;

    *from = o->entry;
    for (unsigned i = 0; i < o->nr_links; i++) {
        const struct jit_link_out *l = &o->link[i];

        if (l->target == pc && (l->kind == JIT_LINK_JCC || l->kind == JIT_LINK_JMP) && l->at + 4 > end) {
            end = l->at + 4;
            *from = l->inner ? l->inner : o->entry;
        }
    }
    return end > *from ? end - *from : 0;
}

bool jit_cache_place_loop(struct jit_cache *d, struct jit_buf *b, const struct jit_block_out *o, uint64_t pc)
{
    size_t from, len = loop_of(o, pc, &from), best = 0, fewest = SIZE_MAX;
    uintptr_t at = (uintptr_t)(b->start + b->delta) + from;

    if (!len || len > LOOP_MAX || d->count)
        return false;
    for (size_t gap = 0; gap < 64; gap += 16) {
        size_t lines = ((at + gap) % 64 + len + 63) / 64;

        if (lines < fewest) {
            fewest = lines;
            best = gap;
        }
    }
    if (!best || !jit_arena_room(&d->arena, best + block_room(d, JIT_BLOCK_ROOM)))
        return false;
    jit_arena_take(&d->arena, best);
    b->start += best;
    b->end += best;
    b->p = b->start;
    b->nr_rel = 0;
    return true;
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
    b->peek_by = out->peek_by;
    b->nr_insn = (uint16_t)out->nr_insn;
    for (unsigned i = 0; i <= out->nr_insn; i++) {
        b->map[2 * i] = out->host_off[i];
        b->map[2 * i + 1] = out->guest_off[i];
    }
    record_links(d, b, out);
    for (unsigned i = 0; i < out->nr_links; i++)
        if (out->link[i].stub && out->link[i].mode_or != JIT_HOT)
            patch(d, b->host + out->link[i].at, unlinked(d, b, jit_cache_link(d, b->first_link + i)));
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

const struct jit_block *jit_cache_left(struct jit_cache *d, const uint8_t *end)
{
    return jit_cache_block_at(d, end - CALL_LEN + before(d));
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
    memset(d->hash, 0, ((size_t)d->hash_mask + 1) * sizeof *d->hash);
    d->nr_hashed = 0;
    for (unsigned i = 0; i < JIT_CACHE_PAGES; i++) {
        while (d->pages[i]) {
            struct jit_page *p = d->pages[i];

            d->pages[i] = p->next;
            free(p);
        }
    }
    for (uint32_t i = 0; i < d->nr_order; i++)
        free(d->order[i]->keep);
    free_chunks(d);
    memset(d->links, 0, (d->nr_links / JIT_LINK_CHUNK + 1) * sizeof *d->links);
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
    d->links = xcalloc(JIT_LINK_CHUNKS + 1, sizeof *d->links);
    d->hash_mask = JIT_CACHE_HASH - 1;
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
    free(d->order);
    free(d->links);
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
