/* Memory blocks: pages that hold something, in runs.
 *
 * Record: 'M', length of a block's name, name, its bytes (8): pages that follow are of this block. 'P', first page (8),
 * pages (4), checksum (8) of the data seeded with the page number, data. 'Z', first page (8), pages (8): zero. A page
 * may come more than once, the last one counts; one that never comes is zero. Read-only host mappings are left out:
 * they are the same file on both sides. */
#include "base/bytes.h"
#include "state/state_int.h"

bool state_page_is_zero(const void *page)
{
    const uint64_t *q = page, *end = q + STATE_PAGE / 8;
    uint64_t any = q[0] | q[STATE_PAGE / 8 - 1];

    for (; !any && q < end; q += 16) {
        any = q[0] | q[1] | q[2] | q[3] | q[4] | q[5] | q[6] | q[7];
        any |= q[8] | q[9] | q[10] | q[11] | q[12] | q[13] | q[14] | q[15];
    }
    return !any;
}

/* ---- writing ---- */

struct put {
    struct state_writer *w;
    struct err **errp;
    bool ok;
};

static bool put_run(struct put *p, const struct mem_ram *r, uint64_t first, uint32_t nr)
{
    const uint8_t *data = r->host + first * STATE_PAGE;
    size_t n = (size_t)nr * STATE_PAGE;
    uint8_t h[1 + 8 + 4 + 8] = {STATE_T_PAGES};

    put_le64(h + 1, first);
    put_le32(h + 9, nr);
    put_le64(h + 13, state_sum(first, data, n));
    return state_put(p->w, h, sizeof h, p->errp) && state_put(p->w, data, n, p->errp);
}

static bool put_block_head(struct put *p, const struct mem_ram *r)
{
    uint8_t h[2] = {STATE_T_MEMORY}, size[8];
    size_t n = strlen(r->name);

    if (n > STATE_MAX_NAME)
        return err_set(p->errp, "the name of memory block '%s' is too long", r->name);
    h[1] = (uint8_t)n;
    put_le64(size, r->size);
    return state_put(p->w, h, sizeof h, p->errp) && state_put(p->w, r->name, n, p->errp) &&
           state_put(p->w, size, sizeof size, p->errp);
}

static void put_block(struct mem_ram *r, void *opaque)
{
    struct put *p = opaque;
    uint64_t pages = r->size / STATE_PAGE, i = 0;

    if (!p->ok || r->host_ro)
        return;
    p->ok = put_block_head(p, r);
    while (p->ok && i < pages) {
        uint32_t nr = 0;

        while (nr < STATE_RUN_PAGES && i + nr < pages && !state_page_is_zero(r->host + (i + nr) * STATE_PAGE))
            nr++;
        if (nr)
            p->ok = put_run(p, r, i, nr);
        i += nr ? nr : 1;
    }
}

bool state_put_memory(struct state_writer *w, struct machine *m, struct err **errp)
{
    struct put p = {w, errp, true};

    mem_ram_each(m->mem_sys, put_block, &p);
    return p.ok;
}

/* ---- reading ---- */

struct block {
    struct mem_ram *ram; /* borrowed */
    uint64_t pages;
    uint8_t *came; /* owned: bit per page */
    bool named;
};
struct state_memory {
    struct block *v; /* owned */
    unsigned nr;
    struct block *at; /* pages belong to */
};

static void count(struct mem_ram *r, void *opaque)
{
    ++*(unsigned *)opaque;
}

static void add(struct mem_ram *r, void *opaque)
{
    struct state_memory *t = opaque;

    if (!r->host_ro)
        t->v[t->nr++] = (struct block){.ram = r, .pages = r->size / STATE_PAGE};
}

struct state_memory *state_memory_new(struct machine *m, struct err **errp)
{
    struct state_memory *t = xnew(struct state_memory);
    unsigned nr = 0;

    mem_ram_each(m->mem_sys, count, &nr);
    t->v = xcalloc(nr + 1, sizeof *t->v);
    mem_ram_each(m->mem_sys, add, t);
    for (unsigned i = 0; i < t->nr; i++)
        if (!(t->v[i].came = try_alloc(t->v[i].pages / 8 + 1, 1))) {
            err_set(errp, "no memory to restore '%s'", t->v[i].ram->name);
            state_memory_free(t);
            return NULL;
        }
    return t;
}

void state_memory_free(struct state_memory *t)
{
    if (!t)
        return;
    for (unsigned i = 0; i < t->nr; i++)
        free(t->v[i].came);
    free(t->v);
    free(t);
}

static bool get_head(struct state_reader *r, struct state_memory *t, struct err **errp)
{
    char name[STATE_MAX_NAME + 1];
    uint8_t n, b[8];
    struct block *k = NULL;

    if (!state_get(r, &n, 1, errp) || !state_get(r, name, n, errp) || !state_get(r, b, 8, errp))
        return false;
    name[n] = 0;
    for (unsigned i = 0; i < t->nr; i++)
        if (!strcmp(t->v[i].ram->name, name))
            k = &t->v[i];
    if (!k)
        return err_set(errp, "the saved machine has a memory block '%s' that this one has not", name);
    if (k->ram->size != get_le64(b))
        return err_set(errp, "memory block '%s' has %" PRIu64 " KiB in the saved machine and %" PRIu64 " KiB here",
                       name, get_le64(b) >> 10, k->ram->size >> 10);
    k->named = true;
    t->at = k;
    return true;
}

static bool range_ok(const struct block *k, uint64_t first, uint64_t nr, struct err **errp)
{
    return (k && nr && first < k->pages && nr <= k->pages - first) ||
           err_set(errp, "the saved state is damaged: pages %" PRIu64 " to %" PRIu64 " of '%s'", first, first + nr,
                   k ? k->ram->name : "no block");
}

static void mark(struct block *k, uint64_t first, uint64_t nr)
{
    for (uint64_t i = first; i < first + nr; i++)
        k->came[i / 8] |= (uint8_t)(1u << (i & 7));
}

static void clear(struct block *k, uint64_t page)
{
    uint8_t *p = k->ram->host + page * STATE_PAGE;

    if (state_page_is_zero(p))
        return;
    memset(p, 0, STATE_PAGE);
    mem_ram_written(k->ram, page * STATE_PAGE, STATE_PAGE);
}

static bool get_pages(struct state_reader *r, struct state_memory *t, struct err **errp)
{
    struct block *k = t->at;
    uint8_t h[20];
    uint64_t first;
    uint32_t nr;

    if (!state_get(r, h, sizeof h, errp))
        return false;
    first = get_le64(h);
    nr = get_le32(h + 8);
    if (nr > STATE_RUN_PAGES)
        return err_set(errp, "the saved state is damaged: a run of %u pages", nr);
    if (!range_ok(k, first, nr, errp))
        return false;
    if (!state_get(r, k->ram->host + first * STATE_PAGE, (size_t)nr * STATE_PAGE, errp))
        return false;
    mem_ram_written(k->ram, first * STATE_PAGE, (uint64_t)nr * STATE_PAGE);
    if (get_le64(h + 12) != state_sum(first, k->ram->host + first * STATE_PAGE, (size_t)nr * STATE_PAGE))
        return err_set(errp, "the saved state is damaged: the checksum of page %" PRIu64 " of '%s' is wrong", first,
                       k->ram->name);
    mark(k, first, nr);
    return true;
}

static bool get_zeroes(struct state_reader *r, struct state_memory *t, struct err **errp)
{
    uint8_t h[16];
    uint64_t first, nr;

    if (!state_get(r, h, sizeof h, errp))
        return false;
    first = get_le64(h);
    nr = get_le64(h + 8);
    if (!range_ok(t->at, first, nr, errp))
        return false;
    for (uint64_t i = first; i < first + nr; i++)
        clear(t->at, i);
    mark(t->at, first, nr);
    return true;
}

bool state_get_memory(struct state_reader *r, struct state_memory *t, enum state_tag tag, struct err **errp)
{
    switch (tag) {
    case STATE_T_MEMORY:
        return get_head(r, t, errp);
    case STATE_T_PAGES:
        return get_pages(r, t, errp);
    default:
        return get_zeroes(r, t, errp);
    }
}

bool state_memory_end(struct state_memory *t, struct err **errp)
{
    for (unsigned b = 0; b < t->nr; b++) {
        struct block *k = &t->v[b];

        if (!k->named)
            return err_set(errp, "the saved machine has no memory block '%s'", k->ram->name);
        for (uint64_t i = 0; i < k->pages; i++)
            if (!(k->came[i / 8] >> (i & 7) & 1))
                clear(k, i);
    }
    return true;
}
