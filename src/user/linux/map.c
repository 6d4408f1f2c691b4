/* See map.h. A sorted array of disjoint ranges; neighbours that agree are one. */
#include "user/linux/map.h"
#include "base/util.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct lx_map *maps; /* owned */
static size_t nr_maps, cap_maps;
static bool files_run;

void lx_map_lock(void)
{
    pthread_mutex_lock(&lock);
}

void lx_map_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

/* Index of the first range that ends above addr. */
static size_t first_above(uint64_t addr)
{
    size_t lo = 0, hi = nr_maps;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (maps[mid].end > addr)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static void insert_at(size_t i, struct lx_map m)
{
    if (nr_maps == cap_maps) {
        cap_maps = cap_maps ? cap_maps * 2 : 256;
        maps = xrealloc(maps, cap_maps * sizeof *maps);
    }
    memmove(&maps[i + 1], &maps[i], (nr_maps - i) * sizeof *maps);
    maps[i] = m;
    nr_maps++;
}

static void remove_at(size_t i, size_t n)
{
    if (n)
        memmove(&maps[i], &maps[i + n], (nr_maps - i - n) * sizeof *maps);
    nr_maps -= n;
}

/* Makes addr a border between ranges. */
static void split(uint64_t addr)
{
    size_t i = first_above(addr);

    if (i < nr_maps && maps[i].start < addr) {
        struct lx_map low = maps[i];

        low.end = addr;
        maps[i].off += maps[i].ino ? addr - low.start : 0;
        maps[i].start = addr;
        insert_at(i, low);
    }
}

static bool alike(const struct lx_map *a, const struct lx_map *b)
{
    return a->end == b->start && a->prot == b->prot && a->shared == b->shared && a->note == b->note &&
           a->ino == b->ino && a->dev == b->dev && (!a->ino || a->off + (a->end - a->start) == b->off);
}

/* Joins ranges from index lo - 1 to hi where they agree. */
static void join(size_t lo, size_t hi)
{
    for (size_t i = lo ? lo - 1 : 0; i + 1 < nr_maps && i <= hi;) {
        if (alike(&maps[i], &maps[i + 1])) {
            maps[i].end = maps[i + 1].end;
            remove_at(i + 1, 1);
        } else {
            i++;
        }
    }
}

static size_t clear(uint64_t start, uint64_t end)
{
    size_t i, n = 0;

    split(start);
    split(end);
    i = first_above(start);
    while (i + n < nr_maps && maps[i + n].start < end)
        n++;
    remove_at(i, n);
    return i;
}

int lx_map_prot(uint64_t addr)
{
    int r = -1;
    size_t i;

    lx_map_lock();
    i = first_above(addr);
    if (i < nr_maps && maps[i].start <= addr)
        r = maps[i].prot;
    lx_map_unlock();
    return r;
}

bool lx_map_next(uint64_t addr, struct lx_map *out)
{
    size_t i;
    bool ok;

    lx_map_lock();
    i = first_above(addr);
    ok = i < nr_maps;
    if (ok)
        *out = maps[i];
    lx_map_unlock();
    return ok;
}

void lx_map_add(uint64_t start, uint64_t end, int prot, bool shared, enum lx_map_note note)
{
    size_t i;

    if (start >= end)
        return;
    lx_map_lock();
    i = clear(start, end);
    insert_at(i, (struct lx_map){.start = start, .end = end, .prot = prot, .shared = shared, .note = (uint8_t)note});
    join(i, i + 1);
    lx_map_unlock();
}

void lx_map_set_file(uint64_t start, uint64_t end, uint64_t dev, uint64_t ino, uint64_t off)
{
    size_t first, i;

    lx_map_lock();
    split(start);
    split(end);
    first = first_above(start);
    for (i = first; i < nr_maps && maps[i].start < end; i++) {
        maps[i].dev = dev;
        maps[i].ino = ino;
        maps[i].off = off + (maps[i].start - start);
        files_run |= maps[i].prot & PROT_EXEC;
    }
    join(first, i);
    lx_map_unlock();
}

bool lx_map_alias(uint64_t start, uint64_t end, uint64_t *from, uint64_t *at, uint64_t *to)
{
    bool found = false;
    size_t i;

    lx_map_lock();
    i = first_above(start);
    if (i < nr_maps && maps[i].start <= start && maps[i].ino) {
        const struct lx_map *m = &maps[i];
        uint64_t lo = m->off + (start - m->start), hi = lo + (min_u64(end, m->end) - start);

        for (size_t j = first_above(*from); j < nr_maps && !found; j++) {
            const struct lx_map *o = &maps[j];
            uint64_t a = max_u64(lo, o->off), b = min_u64(hi, o->off + (o->end - o->start));

            if (j == i || o->ino != m->ino || o->dev != m->dev || a >= b)
                continue;
            *at = o->start + (a - o->off);
            *to = o->start + (b - o->off);
            *from = o->end;
            found = true;
        }
    }
    lx_map_unlock();
    return found;
}

bool lx_map_files_run(void)
{
    bool r;

    lx_map_lock();
    r = files_run;
    lx_map_unlock();
    return r;
}

void lx_map_del(uint64_t start, uint64_t end)
{
    if (start >= end)
        return;
    lx_map_lock();
    clear(start, end);
    lx_map_unlock();
}

void lx_map_protect(uint64_t start, uint64_t end, int prot)
{
    size_t first, i;

    if (start >= end)
        return;
    lx_map_lock();
    split(start);
    split(end);
    first = first_above(start);
    for (i = first; i < nr_maps && maps[i].start < end; i++) {
        maps[i].prot = prot;
        files_run |= maps[i].ino && prot & PROT_EXEC;
    }
    join(first, i);
    lx_map_unlock();
}

uint64_t lx_map_hole(uint64_t lo, uint64_t hi, uint64_t len, uint64_t align)
{
    uint64_t top = hi, found = 0;

    lx_map_lock();
    for (size_t i = first_above(hi ? hi - 1 : 0) + 1; i-- > 0 && !found;) {
        uint64_t below = i < nr_maps && maps[i].end <= top ? maps[i].end : 0, at;

        if (i < nr_maps && maps[i].start >= top)
            continue;
        if (i < nr_maps && maps[i].end > top) { /* spans the top */
            top = maps[i].start;
            continue;
        }
        below = max_u64(below, lo);
        if (top >= len) {
            at = (top - len) & ~(align - 1);
            if (at >= below && at >= lo)
                found = at;
        }
        if (i < nr_maps)
            top = maps[i].start;
    }
    if (!found && top > lo && top - lo >= len) {
        uint64_t at = (top - len) & ~(align - 1);

        if (at >= lo && (!nr_maps || maps[0].start >= at + len))
            found = at;
    }
    lx_map_unlock();
    return found;
}
