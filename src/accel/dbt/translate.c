/* Translating one block of the guest, the ids that page guards compare, and emptying the cache under running vCPUs. */
#include "accel/dbt/dbt_int.h"
#include "base/log.h"

#include <sched.h>
#include <stdatomic.h>

uint32_t dbt_pair_id(struct dbt *d, uint64_t lin, uint64_t no)
{
    uint64_t h = (lin ^ no << 20) * UINT64_C(0x9e3779b97f4a7c15);
    struct dbt_pair **at = &d->pairs[(h >> 40 ^ h >> 20) % DBT_PAIR_HASH], *p = *at;

    while (p && (p->lin != lin || p->no != no))
        p = p->next;
    if (!p) {
        p = xnew(struct dbt_pair);
        *p = (struct dbt_pair){.lin = lin, .no = no, .id = ++d->next_pair, .next = *at};
        *at = p;
    }
    return p->id;
}

void dbt_drop_pairs(struct dbt *d)
{
    for (unsigned i = 0; i < DBT_PAIR_HASH; i++)
        while (d->pairs[i]) {
            struct dbt_pair *p = d->pairs[i];

            d->pairs[i] = p->next;
            free(p);
        }
    d->next_pair = 0;
}

/* Any thread. */
bool dbt_code_written(void *opaque, struct mem_ram *m, uint64_t off, uint64_t len)
{
    struct dbt *d = opaque;

    return jit_cache_written(&d->cache, m->id + off / 4096, (unsigned)(off & 4095), (unsigned)len);
}

/* Does the instruction at pc run over the end of its page? */
static bool crosses(struct dbt_cpu *c, uint64_t pc, const struct dbt_xtlb *x)
{
    unsigned off = (unsigned)(pc & 4095), here = 4096 - off;
    struct x86_insn in;

    return here < X86_MAX_INSN && x86_decode(x->host + off, here, c->cpu->mode, &in) == X86_DECODE_MORE;
}

const struct dbt_xtlb *dbt_next_page(struct dbt_cpu *c, uint64_t pc)
{
    pc = (pc & ~UINT64_C(4095)) + 4096;
    return dbt_exec_page(c, c->cpu->mode == X86_MODE_64 ? pc : (uint32_t)pc);
}

bool dbt_translate(struct dbt_cpu *c, uint64_t pc, const struct dbt_xtlb *x, unsigned mode, struct jit_block **res)
{
    struct dbt *d = c->dbt;
    unsigned off = (unsigned)(pc & 4095);
    uint8_t joined[2 * X86_MAX_INSN];
    const struct dbt_xtlb *tail = NULL;
    struct jit_block_out out;
    struct jit_buf buf;
    bool ok;
    struct x86_rw_env env = {.stubs = &d->stubs,
                             .feat = &c->cpu->feat,
                             .mode = mode | d->mode_or,
                             .pc = pc,
                             .code = x->host + off,
                             .avail = 4096 - off,
                             .next_slot = &d->next_slot,
                             .hot = d->hot,
                             .no_loop = d->no_loop,
                             .tier2 = dbt_tier_is_hot(d, x->no << 12 | off),
                             .slots = c->cur->nr_slot_log < DBT_MANY_SLOTS,
                             .place = x->no << 12 | off,
                             .nr_slots = d->nr_slots,
                             .count = d->count,
                             .loops = !d->lockstep && !d->count && !d->no_link,
                             .calls = !d->count && !d->lockstep,
                             .smp = d->m->max_cpus > 1,
                             .vex = d->host_vec != X86_RWV_SSE,
                             .loop = __builtin_cpu_is("amd")};

    if (!jit_cache_begin(&d->cache, pc, &buf, &env.first_link))
        return false;
    *res = NULL;
    env.page_id = dbt_pair_id(d, pc & ~UINT64_C(4095), x->no);
    mem_ram_mark_code(x->ram, x->ram_off); /* before a byte is read: later writes are reported */
    if (crosses(c, pc, x)) {
        tail = dbt_next_page(c, pc); /* in another place of the small table: x stays */
        if (!tail)
            return true;
        mem_ram_mark_code(tail->ram, tail->ram_off);
        memcpy(joined, env.code, env.avail);
        memcpy(joined + env.avail, tail->host, X86_MAX_INSN);
        env.code = joined;
        env.avail += X86_MAX_INSN;
        env.tail_id = dbt_pair_id(d, (pc & ~UINT64_C(4095)) + 4096, tail->no);
    }
    ok = x86_rw_block(&buf, &env, &out);
    if (ok && jit_cache_place_loop(&d->cache, &buf, &out, pc))
        ok = x86_rw_block(&buf, &env, &out);
    if (!ok) {
        *res = jit_cache_commit(&d->cache, pc, x->no << 12 | off, mode, NULL);
    } else {
        out.tail_no = tail ? tail->no : 0;
        *res = jit_cache_commit(&d->cache, pc, x->no << 12 | off, mode, &out);
    }
    if (log_on(LOG_IN_ASM | LOG_OUT_ASM))
        dbt_show_block(*res, env.code, env.avail, c->cpu->mode);
    return true;
}

/* Called without the lock by the vCPU that found the cache full. Waits for the others to leave translated code, without
 * the lock, since they look up where they left. Page flags stay set: a write clears them by and by. */
void dbt_flush_cache(struct dbt_cpu *c)
{
    struct dbt *d = c->dbt;
    bool mine;

    pthread_mutex_lock(&d->cache.lock);
    mine = c->generation == d->cache.generation && !d->flushing;
    if (mine)
        d->flushing = true;
    pthread_mutex_unlock(&d->cache.lock);
    if (!mine) { /* another vCPU does it or has done it */
        while (d->flushing)
            sched_yield();
        return;
    }
    for (unsigned i = 0; i < d->m->nr_cpus && i < ARRAY_LEN(d->cpus); i++) {
        struct dbt_cpu *o = d->cpus[i];

        if (!o || o == c)
            continue;
        while (o->in_code) {
            o->cpu->vcpu.kick(&o->cpu->vcpu);
            sched_yield();
        }
    }
    pthread_mutex_lock(&d->cache.lock);
    jit_cache_empty(&d->cache);
    dbt_drop_pairs(d);
    memset(d->hot, 0, sizeof d->hot);
    memset(d->no_loop, 0, sizeof d->no_loop);
    dbt_tier_forget(d);
    d->flushing = false;
    pthread_mutex_unlock(&d->cache.lock);
}
