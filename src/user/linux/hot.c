/* See hot.h. */
#include "user/linux/hot.h"
#include "base/util.h"

#include <stdlib.h>
#include <time.h>

enum { WAYS = 4096, NEAR = 4 /* places one may be found in */, CHANGES = 4, SETTLED_MS = 20 };

/* Of a jump, or, with `block`, of a block that begins there. */
struct lx_way {
    uint64_t pc, to; /* to 0 and no more changes: anywhere */
    uint64_t ms;     /* when it was last hot */
    bool used, block;
    uint8_t changes;
};

static struct lx_way *find(const struct lx_rt *rt, uint64_t pc, bool block, bool make)
{
    size_t at = pc * UINT64_C(0x9e3779b97f4a7c15) >> 40;

    for (unsigned i = 0; rt->ways && i < NEAR; i++) {
        struct lx_way *w = &rt->ways[(at + i) % WAYS];

        if (!w->used && make) {
            *w = (struct lx_way){.pc = pc, .used = true, .block = block};
            return w;
        }
        if (w->used && w->pc == pc && w->block == block)
            return w;
    }
    return NULL;
}

uint64_t lx_hot_way(const struct lx_rt *rt, uint64_t pc, bool *count)
{
    const struct lx_way *w = find(rt, pc, false, false);

    *count = !w || w->changes < CHANGES;
    return w ? w->to : 0;
}

bool lx_hot_block(const struct lx_rt *rt, uint64_t pc)
{
    return find(rt, pc, true, false);
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void lx_hot_note(struct lx_rt *rt, struct jit_block *b, uint64_t pc, uint64_t to, bool conditional)
{
    uint64_t now = now_ms(), before;
    bool again = lx_hot_block(rt, b->pc);
    struct lx_way *w;

    if (!rt->ways)
        rt->ways = xcalloc(WAYS, sizeof *rt->ways);
    w = find(rt, pc, false, true);
    if (!w || w->changes == CHANGES || !find(rt, b->pc, true, true))
        return;
    before = w->ms;
    w->ms = now;
    if (w->to && w->to != to && now - before > SETTLED_MS) /* seldom enough elsewhere */
        return;
    if (w->to != to)
        w->changes++;
    else if (again) /* it was of no use */
        w->changes = CHANGES;
    w->to = w->changes == CHANGES && !conditional ? 0 : to;
    jit_cache_kill(&rt->cache, b);
}
