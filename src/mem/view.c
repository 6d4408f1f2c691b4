/* Flattening: from a tree of overlapping regions to disjoint sections by priority. */
#include "mem/mem_int.h"

static uint64_t last_of(uint64_t start, uint64_t size)
{
    return size == UINT64_MAX || start + (size - 1) < start ? UINT64_MAX : start + (size - 1);
}

static void insert_at(struct mem_view *v, unsigned at, const struct mem_section *s)
{
    if (v->nr == v->cap) {
        v->cap = v->cap ? v->cap * 2 : 32;
        v->s = xrealloc(v->s, v->cap * sizeof *v->s);
    }
    memmove(v->s + at + 1, v->s + at, (v->nr - at) * sizeof *v->s);
    v->s[at] = *s;
    v->nr++;
}

/* Adds the part [first, last] of leaf r, whose offset 0 would lie at base (modulo 2^64). */
static void add_part(struct mem_view *v, unsigned at, struct mem_region *r, uint64_t base, uint64_t first,
                     uint64_t last)
{
    struct mem_section s = {.start = first, .len = last - first + 1, .region = r, .region_off = first - base};

    if (r->kind != MEM_IO && !(r->kind == MEM_ROMD && !r->romd)) {
        s.ram = r->ram;
        s.ram_off = s.region_off;
        s.host = r->ram->host + s.ram_off;
        s.readonly = r->readonly || r->kind == MEM_ROM || r->kind == MEM_ROMD;
        s.dirty_log = r->dirty_log;
    }
    insert_at(v, at, &s);
}

/* Fills the gaps of the view within [first, last]: what is there already has higher priority. */
static void add_leaf(struct mem_view *v, struct mem_region *r, uint64_t base, uint64_t first, uint64_t last,
                     bool readonly)
{
    unsigned i = 0;

    for (;;) {
        uint64_t s_last;

        while (i < v->nr && v->s[i].start + (v->s[i].len - 1) < first)
            i++;
        if (i == v->nr || v->s[i].start > last) {
            add_part(v, i, r, base, first, last);
            v->s[i].readonly |= readonly;
            return;
        }
        if (v->s[i].start > first) {
            add_part(v, i, r, base, first, v->s[i].start - 1);
            v->s[i].readonly |= readonly;
            i++;
        }
        s_last = v->s[i].start + (v->s[i].len - 1);
        if (s_last >= last)
            return;
        first = s_last + 1;
    }
}

/* Renders r with its offset 0 at base, clipped to [first, last]. */
static void render(struct mem_view *v, struct mem_region *r, uint64_t base, uint64_t first, uint64_t last, bool ro,
                   int depth)
{
    uint64_t r_last = last_of(base, r->size);
    struct mem_region *sub;

    if (!r->enabled || !r->size || depth > 32)
        return;
    if (base <= r_last) { /* an alias may place offset 0 below zero: then only the clip counts */
        first = max_u64(first, base);
        last = min_u64(last, r_last);
    }
    if (first > last)
        return;
    ro |= r->readonly;
    switch (r->kind) {
    case MEM_ALIAS:
        render(v, r->target, base - r->target_off, first, last, ro, depth + 1);
        break;
    case MEM_CONTAINER:
        list_each (sub, &r->subs, sib)
            render(v, sub, base + sub->addr, first, last, ro, depth + 1);
        break;
    default:
        add_leaf(v, r, base, first, last, ro);
    }
}

/* Neighbours that continue each other become one section. */
static void merge(struct mem_view *v)
{
    unsigned n = 0;

    for (unsigned i = 0; i < v->nr; i++) {
        struct mem_section *p = n ? &v->s[n - 1] : NULL, *s = &v->s[i];

        if (p && p->region == s->region && p->start + p->len == s->start && p->region_off + p->len == s->region_off &&
            p->readonly == s->readonly)
            p->len += s->len;
        else
            v->s[n++] = *s;
    }
    v->nr = n;
}

struct mem_view *mem_view_build(struct mem_region *root)
{
    struct mem_view *v = xnew(struct mem_view);

    render(v, root, 0, 0, UINT64_MAX, false, 0);
    merge(v);
    return v;
}

void mem_view_free(struct mem_view *v)
{
    if (v)
        free(v->s);
    free(v);
}

bool mem_view_equal(const struct mem_view *a, const struct mem_view *b)
{
    if (a->nr != b->nr)
        return false;
    for (unsigned i = 0; i < a->nr; i++) {
        const struct mem_section *x = &a->s[i], *y = &b->s[i];

        if (x->start != y->start || x->len != y->len || x->region != y->region || x->region_off != y->region_off ||
            x->host != y->host || x->readonly != y->readonly || x->dirty_log != y->dirty_log)
            return false;
    }
    return true;
}

const struct mem_section *mem_view_find(const struct mem_view *v, gpa_t addr)
{
    unsigned lo = 0, hi = v->nr;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (addr < v->s[mid].start)
            hi = mid;
        else if (addr - v->s[mid].start >= v->s[mid].len)
            lo = mid + 1;
        else
            return &v->s[mid];
    }
    return NULL;
}
