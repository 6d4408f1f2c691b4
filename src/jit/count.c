/* See jit/count.h. */
#include "jit/count.h"
#include "base/log.h"
#include "jit/cache.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>

/* One counter for each 64 bytes of code: no block takes less (jit_count_block is called for each of them). */
static size_t nr_counters(const struct jit_cache *d)
{
    return d->arena.size / JIT_COUNT_LEN;
}

bool jit_cache_count(struct jit_cache *d, struct err **errp)
{
    size_t size = nr_counters(d) * sizeof *d->count;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uintptr_t code = (uintptr_t)d->arena.x, low, high;

    assert(!d->nr_order);
    if (p == MAP_FAILED)
        return err_set_errno(errp, errno, "translator: no memory to count blocks in");
    low = (uintptr_t)min_u64(code, (uintptr_t)p);
    high = (uintptr_t)max_u64(code + d->arena.size, (uintptr_t)p + size);
    if (high - low > INT32_MAX) {
        munmap(p, size);
        return err_set(errp, "translator: no memory near its code to count blocks in");
    }
    d->count = p;
    return true;
}

void jit_count_free(struct jit_cache *d)
{
    if (d->count)
        munmap(d->count, nr_counters(d) * sizeof *d->count);
}

/* mov reg, [n]; mov [n], reg: relative to the instruction's end. */
static void move(struct jit_buf *b, unsigned opcode, unsigned reg, const uint64_t *n)
{
    jit_8(b, 0x48 | (reg & 8) >> 1);
    jit_8(b, opcode);
    jit_8(b, (reg & 7) << 3 | 5);
    jit_32(b, (uint32_t)((uintptr_t)n - (uintptr_t)(jit_here(b) + 4)));
}

static void count_and_go(struct jit_cache *d, struct jit_buf *b, uint64_t *n, const uint8_t *to)
{
    move(b, 0x8b, d->leave_reg, n);
    jit_lea(b, d->leave_reg, JIT_BASE(d->leave_reg, 1));
    move(b, 0x89, d->leave_reg, n);
    jit_jmp(b, to);
}

void jit_count_block(struct jit_cache *d, struct jit_block *b, const uint8_t *behind)
{
    uint8_t *w = jit_arena_writable(&d->arena, behind), *gate = jit_arena_writable(&d->arena, jit_block_gate(b));
    uint8_t *far = gate - JIT_COUNT_GATE;
    struct jit_buf buf = {.start = w, .p = w, .end = w + JIT_COUNT_LEN, .delta = d->arena.x - d->arena.w};
    struct jit_buf at_gate = {.start = far, .p = far, .end = gate, .delta = buf.delta};

    assert(b->index < nr_counters(d));
    jit_jmp(&at_gate, jit_here(&buf)); /* too far for the gate itself */
    put_le16(gate, (uint16_t)(0xeb | (0x100 - JIT_COUNT_GATE - JIT_GATE_LEN) << 8));
    count_and_go(d, &buf, &d->count[b->index], b->host);
    if (b->host + UINT16_MAX >= jit_here(&buf)) { /* else it is entered uncounted from its own page */
        const uint8_t *entry = b->host + b->entry;

        b->entry = (uint16_t)(jit_here(&buf) - b->host);
        count_and_go(d, &buf, &d->count[b->index], entry);
    }
    assert(jit_ok(&buf) && jit_ok(&at_gate));
}

uint64_t jit_count_of(const struct jit_cache *d, const struct jit_block *b)
{
    return d->count && b->host ? d->count[b->index] : 0;
}

unsigned jit_count_top(struct jit_cache *d, const struct jit_block **top, unsigned n)
{
    unsigned have = 0;

    for (uint32_t i = 0; d->count && i < d->nr_order; i++) {
        const struct jit_block *b = d->order[i];
        unsigned k = have < n ? have++ : n;

        for (; k && d->count[i] > d->count[top[k - 1]->index]; k--)
            if (k < n)
                top[k] = top[k - 1];
        if (k < n)
            top[k] = b;
    }
    return have;
}

void jit_count_log(struct jit_cache *d)
{
    for (uint32_t i = 0; d->count && i < d->nr_order; i++) {
        if (d->count[i] && log_on(LOG_OUT_ASM))
            log_write(LOG_OUT_ASM, "COUNT: block at %016" PRIx64 ", entered %" PRIu64 " times, at %p", d->order[i]->pc,
                      d->count[i], (const void *)d->order[i]->host);
        d->count[i] = 0;
    }
}
