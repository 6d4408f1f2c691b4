/* The translating accelerator ("tcg" to the command line): the loop that runs a vCPU on translated code.
 *
 * Real mode, non-flat segments, single-step, debug registers, DF = 1 and interrupt shadows are left to the interpreter.
 */
#include "accel/dbt/dbt_int.h"
#include "accel/icount.h"
#include "base/log.h"
#include "base/str.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

typedef int enter_fn(void);

static bool must_interp(const struct x86_cpu *c)
{
    return !dbt_flat(c) || c->rflags & (X86_TF | X86_DF | X86_VM | X86_RF) || c->int_shadow || c->dr[7] & 0xff ||
           c->a20_mask != ~UINT64_C(0) || (c->rflags & X86_AC && c->cpl == 3 && c->cr0 & X86_CR0_AM);
}

/* ---- into and out of translated code ---- */

/* 0: something wants the loop first. in_code stays set either way: what the caller still has to look up in the cache
 * must be there. resume: the present instruction is half done, so nothing may keep it from going on. */
static int enter(struct dbt_cpu *c, struct x86_ctx *x, const uint8_t *target, bool resume)
{
    struct x86_cpu *cpu = c->cpu;
    int why;

    if (!cpu->x87_live)
        x86_x87_load(cpu);
    x->seg_base[X86_FS] = cpu->seg[X86_FS].base;
    x->seg_base[X86_GS] = cpu->seg[X86_GS].base;
    x->flags = (uint32_t)(cpu->rflags & 0xff) << 8 | (cpu->rflags >> 11 & 1);
    x->if_flag = cpu->rflags & X86_IF;
    x->sys_flags = cpu->rflags & ~(uint64_t)(X86_ARITH | X86_IF | 2);
    if (c->host_clock) {
        x->tsc_neg_base = -c->host_clock->base_tsc;
        x->tsc_mult = c->host_clock->mult;
        x->tsc_add = (uint64_t)(c->host_clock->base + cpu->tsc_offset);
    }
    x->enter_target = target;
    if (!resume) /* a kick that this undoes is seen below */
        atomic_store_explicit(&x->jc_mask, X86_JC_MASK, memory_order_relaxed);
    c->in_code = true;
    if (!resume &&
        (c->dbt->flushing || c->generation != c->dbt->cache.generation || cpu->vcpu.exit_request || c->kicked))
        return 0;
    c->stat.enters++;
    why = ((enter_fn *)(uintptr_t)c->dbt->stubs.enter)();
    cpu->rflags = x->sys_flags | x->if_flag | 2 | (x->flags >> 8 & 0xd5) | (x->flags & 1) << 11;
    return why;
}

static void after_flush(struct dbt_cpu *c)
{
    pthread_mutex_lock(&c->dbt->cache.lock);
    c->generation = c->dbt->cache.generation;
    pthread_mutex_unlock(&c->dbt->cache.lock);
    for (unsigned i = 0; i < DBT_CTX && c->ctx[i]; i++)
        dbt_clear_jumps(c->ctx[i]);
    dbt_ss_reset(c);
}

/* Lets the guards of the context pass for a block found at pc. False: it goes on to another page than the one it was
 * made from. */
static bool open_guards(struct dbt_cpu *c, uint64_t pc, const struct dbt_xtlb *x, const struct jit_block *b)
{
    struct dbt *d = c->dbt;
    struct x86_ctx *ctx = c->cur;

    ctx->islot[(pc >> 12) % X86_ISLOTS] = -(uint64_t)dbt_pair_id(d, pc & ~UINT64_C(4095), x->no);
    if ((pc & 4095) + b->guest_len > 4096) {
        const struct dbt_xtlb *tail = dbt_next_page(c, pc);

        if (!tail || tail->no != b->tail_no)
            return false;
        ctx->islot[((pc >> 12) + 1) % X86_ISLOTS] = -(uint64_t)dbt_pair_id(d, (pc & ~UINT64_C(4095)) + 4096, tail->no);
    }
    return true;
}

/* The block for rip in the present context, translated if need be; NULL: interpret. Another vCPU may empty the cache as
 * soon as the lock is given back, and the block is gone: *code, if asked for, is where its code starts, or NULL; who
 * enters it looks at the generation first. */
struct jit_block *dbt_block_for(struct dbt_cpu *c, uint64_t pc, unsigned mode, const uint8_t **code)
{
    const struct dbt_xtlb *x = dbt_exec_page(c, pc);
    struct dbt *d = c->dbt;
    struct jit_block *b;
    bool room;

    if (code)
        *code = NULL;
    if (!x || !pc)
        return NULL;
    for (;;) {
        pthread_mutex_lock(&d->cache.lock);
        if (c->generation != d->cache.generation) {
            pthread_mutex_unlock(&d->cache.lock);
            after_flush(c);
            continue;
        }
        b = jit_cache_find(&d->cache, pc, x->no << 12 | (pc & 4095), mode);
        room = b || dbt_translate(c, pc, x, mode, &b);
        if (b && b->host && !open_guards(c, pc, x, b))
            b = NULL;
        if (b && b->host && !d->no_link && !(mode & (X86_RWM_SPLIT | X86_RWM_LOOP))) {
            c->cur->jc_host[x86_jc(pc)] = jit_block_gate(b);
            c->cur->jc_neg[x86_jc(pc)] = -pc;
        }
        if (code && b && b->host)
            *code = b->host + b->entry;
        pthread_mutex_unlock(&d->cache.lock);
        if (room)
            return b;
        dbt_flush_cache(c);
        after_flush(c);
    }
}

/* Links, so that the loop need not be asked again. With links off it must be, but for a variant of the code, which
 * only a link names: where that starts, or NULL. */
static const uint8_t *link_exit(struct dbt_cpu *c, const uint8_t *behind, unsigned mode)
{
    struct dbt *d = c->dbt;
    uint32_t n;
    uint32_t gen = c->generation;
    const uint8_t *code;
    struct jit_block *b;
    unsigned variant;

    c->stat.links++;
    pthread_mutex_lock(&d->cache.lock);
    n = jit_cache_link_behind(&d->cache, behind);
    c->cpu->rip = jit_cache_link(&d->cache, n)->target;
    variant = jit_cache_link(&d->cache, n)->mode_or;
    pthread_mutex_unlock(&d->cache.lock);
    c->in_code = false;
    if (d->no_link && !variant)
        return NULL;
    b = dbt_block_for(c, c->cpu->rip, mode | variant, &code);
    if (d->no_link)
        return code;
    pthread_mutex_lock(&d->cache.lock);
    if (b && gen == d->cache.generation && gen == c->generation)
        jit_cache_link_to(&d->cache, n, b);
    pthread_mutex_unlock(&d->cache.lock);
    return NULL;
}

/* The guest pc of a host address inside a block. */
static bool guest_pc(struct dbt_cpu *c, const uint8_t *host, uint64_t *pc)
{
    struct jit_block *b;

    pthread_mutex_lock(&c->dbt->cache.lock);
    b = jit_cache_block_at(&c->dbt->cache, host);
    if (b)
        *pc = jit_block_pc(b, jit_block_insn_at(b, host));
    pthread_mutex_unlock(&c->dbt->cache.lock);
    return b != NULL;
}

/* A slot has missed 256 times. When that took little time the site gets a probe of the TLB instead: its block is made
 * again. With the cache's lock held. */
static void hot_site(struct dbt_cpu *c, struct jit_block *b, uint32_t info)
{
    uint32_t *since = &c->hot_since[info % ARRAY_LEN(c->hot_since)];
    uint32_t now = (uint32_t)(__builtin_ia32_rdtsc() >> 8);
    unsigned insn = info >> 24 & (JIT_BLOCK_MAX_INSN - 1);
    unsigned bit = x86_hot_bit(b->place + b->map[2 * insn + 1]);
    bool often = now - *since < DBT_HOT_TIME >> 8;

    *since = now;
    if (!often || b->dead || c->dbt->hot[bit / 8] >> (bit & 7) & 1)
        return;
    c->dbt->hot[bit / 8] |= (uint8_t)(1 << (bit & 7));
    c->stat.hot++;
    jit_cache_kill(&c->dbt->cache, b);
}

/* The loop at pc is not worth a variant: its block is made again without. */
static void no_loop(struct dbt_cpu *c, uint64_t pc, unsigned mode)
{
    const struct dbt_xtlb *x = dbt_exec_page(c, pc);
    uint64_t place = x ? x->no << 12 | (pc & 4095) : 0;
    struct jit_block *b;
    unsigned bit;

    if (!x)
        return;
    bit = x86_loop_bit(place, x->host + (pc & 4095), 4096 - (pc & 4095));
    pthread_mutex_lock(&c->dbt->cache.lock);
    c->dbt->no_loop[bit / 8] |= (uint8_t)(1 << (bit & 7));
    b = jit_cache_find(&c->dbt->cache, pc, place, mode);
    if (b && !b->dead)
        jit_cache_kill(&c->dbt->cache, b);
    pthread_mutex_unlock(&c->dbt->cache.lock);
}

/* A check in code at ret was left: sets rip to its instruction's. */
static void at_check(struct dbt_cpu *c, const uint8_t *ret, uint32_t info)
{
    struct jit_block *b;

    pthread_mutex_lock(&c->dbt->cache.lock);
    b = jit_cache_block_at(&c->dbt->cache, ret);
    if (b)
        c->cpu->rip = jit_block_pc(b, info >> 24 & (JIT_BLOCK_MAX_INSN - 1));
    if (b && info & X86_RWI_HOT)
        hot_site(c, b, info);
    pthread_mutex_unlock(&c->dbt->cache.lock);
}

/* A TLB stub gave up: fill and go on right behind the check, or interpret the instruction. */
static const uint8_t *slow_exit(struct dbt_cpu *c, unsigned mode)
{
    const struct dbt *d = c->dbt;
    struct x86_ctx *x = c->cur;
    const uint8_t *ret = *(const uint8_t **)(uintptr_t)x->ss_rsp;
    uint32_t info = (uint32_t)x->t1, slot = info % X86_SLOTS, size = info >> 16 & 0xff;
    uint64_t lin = x->t0;
    const uint8_t *stub = ret + (int32_t)get_le32(ret - 4); /* what the call just before it names */
    bool write = stub == d->stubs.tlb_write || stub == d->stubs.tlb_write_lost;
    bool filled = size && (lin & 4095) + size <= 4096 && dbt_ctx_fill(c, lin, write);
    bool bounced = !filled && info & X86_RWI_LOAD && dbt_ctx_bounce(c, lin, size, &x->t1);
    const uint8_t *code;

    x->ss_rsp += 8;
    c->stat.slow++;
    if ((!filled && !bounced) || info & X86_RWI_HOT) /* else nothing need be known of the block */
        at_check(c, ret, info);
    if (bounced)
        return ret;
    if (!filled) {
        if (!(info & X86_RWI_SPAN) || !size || (lin & 4095) + size > 4096)
            return NULL;
        c->in_code = false; /* other accesses of the span may be fine */
        dbt_block_for(c, c->cpu->rip, mode | X86_RWM_SPLIT, &code);
        return code;
    }
    if (x->nr_slot_log < ARRAY_LEN(x->slot_log) - 1)
        x->slot_log[x->nr_slot_log++] = (uint16_t)slot;
    x->slot[slot].add = dbt_tlb_entry(x, lin)->add;
    x->slot[slot].neg_page = -(lin & ~UINT64_C(4095));
    atomic_thread_fence(memory_order_seq_cst); /* see dbt_page_is_code */
    if (write && dbt_tlb_entry(x, lin)->w == DBT_EMPTY)
        x->slot[slot].neg_page = DBT_EMPTY;
    x->t1 = x->slot[slot].add;
    return ret;
}

/* Overflow starts the shadow stack anew; the push or call is repeated. */
static bool shadow_stack_full(struct dbt_cpu *c)
{
    if (c->sig != SIGSEGV || c->sig_addr < (uintptr_t)c->ss || c->sig_addr >= (uintptr_t)c->ss + 8192)
        return false;
    c->cur->ss_rsp = c->ss_top;
    return true;
}

/* A poll, or a fault of the guest's own instruction (true: interpret it, at rip). */
static bool signal_exit(struct dbt_cpu *c)
{
    struct x86_ctx *x = c->cur;
    const uint8_t *rip = (const uint8_t *)c->sig_rip;
    uint64_t pc;

    c->stat.signals++;
    if (c->sig == SIGSEGV && c->sig_addr == DBT_POLL_BAD) {
        struct jit_block *b;

        c->stat.polls++;
        x->poll = (uintptr_t)&x->poll_ok;
        pthread_mutex_lock(&c->dbt->cache.lock);
        b = jit_cache_block_at(&c->dbt->cache, rip);
        pc = x->t0; /* the jump stub polls with the target in T0 */
        if (b)      /* unless a link says otherwise, the instruction starts again */
            pc = jit_block_pc(b, jit_block_insn_at(b, rip));
        for (uint32_t i = 0; b && i < b->nr_links; i++)
            if (jit_link_polls_at(b, jit_cache_link(&c->dbt->cache, b->first_link + i), rip))
                pc = jit_link_poll_pc(b, jit_cache_link(&c->dbt->cache, b->first_link + i));
        pthread_mutex_unlock(&c->dbt->cache.lock);
        c->cpu->rip = pc;
        if (!b) /* RCX was borrowed there */
            c->cpu->regs[X86_RCX] = x->save_rcx;
        return false;
    }
    if (!guest_pc(c, rip, &pc))
        warn_report("translator: unexpected signal %d at host address %p", c->sig, (const void *)rip);
    else
        c->cpu->rip = pc;
    return true;
}

static void interp_one(struct dbt_cpu *c)
{
    c->stat.interp++;
    x86_interp_one(c->cpu);
    c->stat.by_op[c->cpu->last_op]++;
}

/* -d exec: one line per block, which is one instruction then. */
static void trace_block(const struct x86_cpu *c, const uint8_t *code, size_t avail)
{
    struct x86_insn in;
    char text[96] = "?";

    if (x86_decode(code, avail, c->mode, &in) == X86_DECODE_OK)
        x86_format(&in, c->rip, text, sizeof text);
    log_write(LOG_EXEC,
              "%04x:%016" PRIx64 " %-40s ax=%" PRIx64 " bx=%" PRIx64 " cx=%" PRIx64 " dx=%" PRIx64 " si=%" PRIx64
              " di=%" PRIx64 " sp=%" PRIx64 " bp=%" PRIx64 " f=%" PRIx64,
              c->seg[X86_CS].sel, c->rip, text, c->regs[0], c->regs[3], c->regs[1], c->regs[2], c->regs[6], c->regs[7],
              c->regs[4], c->regs[5], c->rflags);
}

/* Where code for rip starts; NULL: interpret. The context's jump table answers most questions without a lock, but not
 * the same one twice: its guard may be what sent us here (`missed`). */
static const uint8_t *code_for(struct dbt_cpu *c, struct x86_ctx *x, unsigned mode)
{
    uint64_t pc = c->cpu->rip;
    const uint8_t *code;

    if (x->jc_neg[x86_jc(pc)] == -pc && !c->missed && c->generation == c->dbt->cache.generation && !c->dbt->no_link)
        return x->jc_host[x86_jc(pc)];
    dbt_block_for(c, pc, mode, &code);
    if (!code)
        return NULL;
    if (log_on(LOG_EXEC))
        trace_block(c->cpu, dbt_exec_page(c, pc)->host + (pc & 4095), 4096 - (pc & 4095));
    return code;
}

/* An indirect branch to an address that is none has left translated code: the CPU faults at the branch, before it has
 * done anything. Makes rip and RSP those before it. */
static void undo_branch(struct dbt_cpu *c, uint64_t pc)
{
    const struct dbt_xtlb *x = dbt_exec_page(c, pc);
    struct x86_cpu *cpu = c->cpu;
    struct x86_insn in;

    if (!x || x86_decode(x->host + (pc & 4095), 4096 - (pc & 4095), cpu->mode, &in) != X86_DECODE_OK)
        return; /* it ran over the end of its page: the fault names the target */
    cpu->rip = pc;
    if (in.op == X86_I_RET)
        cpu->regs[X86_RSP] -= 8 + (in.opcode == 0xc2 ? in.imm & 0xffff : 0);
}

enum dbt_ran dbt_run_at(struct dbt_cpu *c, struct x86_ctx *x, unsigned mode, const uint8_t *target)
{
    struct x86_cpu *cpu = c->cpu;
    bool resume = false, again = false;
    const uint8_t *mid = NULL; /* target is behind a check, whose info this is */
    uint32_t info = 0;
    int why = 0;

    x->wide_away = 1; /* a block, where that is looked at; later targets may lie behind that */
    while (target) {
        why = enter(c, x, target, resume);
        if (!why && mid)
            at_check(c, mid, info);
        mid = NULL;
        resume = why == DBT_EXIT_SIGNAL && shadow_stack_full(c);
        if (resume) {
            target = (const uint8_t *)c->sig_rip;
            continue;
        }
        target = NULL;
        /* What the exit means is looked up while in_code keeps the cache from being emptied. */
        switch (why) {
        case DBT_EXIT_INTERP:
            cpu->rip = x->t0;
            break;
        case DBT_EXIT_DISPATCH:
            cpu->rip = x->t0;
            c->missed = true;
            c->stat.dispatch++;
            again = !dbt_canonical(cpu, cpu->rip);
            if (again)
                undo_branch(c, x->t1);
            break;
        case DBT_EXIT_LINK:
            target = link_exit(c, (const uint8_t *)x->t1, mode);
            if (target && c->dbt->lockstep)
                return DBT_RAN_SPLIT;
            break;
        case DBT_EXIT_LEAVE:
            pthread_mutex_lock(&c->dbt->cache.lock);
            cpu->rip = jit_cache_left(&c->dbt->cache, (const uint8_t *)x->t1)->pc;
            pthread_mutex_unlock(&c->dbt->cache.lock);
            c->missed = true;
            c->stat.dispatch++;
            break;
        case DBT_EXIT_SLOW:
            info = (uint32_t)x->t1 & ~X86_RWI_HOT;
            target = slow_exit(c, mode);
            mid = c->in_code ? target : NULL;
            if (target && !c->in_code && c->dbt->lockstep)
                return DBT_RAN_SPLIT;
            break;
        case DBT_EXIT_NO_LOOP:
            cpu->rip = x->t0;
            no_loop(c, cpu->rip, mode);
            break;
        case DBT_EXIT_RET:
            cpu->rip = x->t0;
            again = cpu->regs[X86_RSP] & 7 || !dbt_ctx_fill(c, cpu->regs[X86_RSP], false);
            target = again ? NULL : c->dbt->stubs.ret;
            break;
        case DBT_EXIT_SIGNAL:
            again = signal_exit(c);
            break;
        default:
            break;
        }
        c->in_code = mid != NULL; /* rip is not known yet */
    }
    if (!why)
        return DBT_RAN_NOTHING;
    return why == DBT_EXIT_INTERP || why == DBT_EXIT_SLOW || again ? DBT_RAN_INTERP : DBT_RAN;
}

/* Runs translated code from rip. */
static void run_code(struct dbt_cpu *c)
{
    unsigned mode = dbt_mode(c);
    struct x86_ctx *x = dbt_pick_ctx(c, mode);
    const uint8_t *target = x ? code_for(c, x, mode) : NULL;

    c->missed = false;
    if (!target || dbt_run_at(c, x, mode, target) == DBT_RAN_INTERP)
        interp_one(c);
}

/* The same in lockstep mode. */
static bool run_lockstep(struct dbt_cpu *c)
{
    bool interp, ok = dbt_lockstep_run(c, &interp);

    if (interp)
        interp_one(c);
    return ok;
}

static void set_poll(struct dbt_cpu *c, bool stop)
{
    struct x86_ctx *x = c->cur;

    if (!x)
        return;
    x->poll = stop ? DBT_POLL_BAD : (uintptr_t)&x->poll_ok;
    /* Indirect jumps miss, until enter() makes the mask again. The vCPU that fills the entry just now is not in code,
     * and sees `kicked` before it is. */
    if (stop)
        x86_jc_stop(x, c->dbt->stubs.exit_dispatch);
}

/* Once, when the first vCPU runs: the program may fork before. */
static void start_tier(struct dbt *d)
{
    struct err *e = NULL;

    pthread_mutex_lock(&d->cache.lock);
    if (d->tier_on && !d->tier && !dbt_tier_start(d, &e)) {
        d->tier_on = false;
        err_report(e);
    }
    pthread_mutex_unlock(&d->cache.lock);
}

static enum vcpu_exit run(struct vcpu *v)
{
    struct x86_cpu *cpu = x86_cpu(v);
    struct dbt_cpu *c = cpu->dbt;

    if (!c->altstack) {
        dbt_thread_signals(c);
        if (cpu->port.tsc_hz == NS_PER_SEC && !c->dbt->lockstep)
            c->host_clock = clk_fast(v->m->run->virt);
    }
    start_tier(c->dbt);
    if (c->cur)
        __builtin_ia32_wrgsbase64((uint64_t)(uintptr_t)c->cur);
    for (;;) {
        if (c->kicked) {
            c->kicked = false;
            set_poll(c, false);
        }
        if (v->exit_request)
            return VCPU_EXIT_KICKED;
        if (v->pins && !cpu->int_shadow)
            x86_service_pins(cpu);
        if (v->halted)
            return VCPU_EXIT_HALTED;
        if (cpu->shutdown)
            return VCPU_EXIT_SHUTDOWN;
        if (must_interp(cpu)) {
            enum vcpu_exit e = x86_interp_run(cpu, cpu->mode == X86_MODE_16 ? 1000 : 1);

            c->stat.interp++;
            if (e != VCPU_EXIT_KICKED)
                return e;
            continue;
        }
        if (unlikely(c->dbt->lockstep)) {
            if (!run_lockstep(c))
                return VCPU_EXIT_ERROR;
            continue;
        }
        run_code(c);
    }
}

static void kick(struct vcpu *v)
{
    struct dbt_cpu *c = x86_cpu(v)->dbt;

    c->kicked = true;
    set_poll(c, true);
}

/* ---- life ---- */

static bool probe(const char *arch, struct err **errp)
{
    if (strcmp(arch, "x86_64") && strcmp(arch, "i386"))
        return err_set(errp, "the translator has no front end for %s guests yet", arch);
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("bmi2")) {
        err_set(errp, "the translator needs a host CPU with BMI2");
        err_hint(errp, "Use -accel interp on this host.");
        return false;
    }
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
        err_set(errp, "the translator needs FSGSBASE, which this host's kernel does not offer");
        err_hint(errp, "Use -accel interp on this host.");
        return false;
    }
    return true;
}

/* count=on|off|blocks. */
static bool count_option(struct opts *o, bool *insns, bool *blocks, struct err **errp)
{
    const char *v = opts_peek(o, "count");

    *blocks = v && !strcmp(v, "blocks");
    if (!*blocks)
        return opts_bool(o, "count", insns, errp);
    opts_get(o, "count");
    return true;
}

/* hot-tier=auto|off|first. */
static bool tier_option(struct opts *o, struct dbt *d, struct err **errp)
{
    const char *v = opts_get(o, "hot-tier");

    d->tier_on = !v || !strcmp(v, "auto");
    d->tier_first = v && !strcmp(v, "first");
    if (!d->tier_on && !d->tier_first && strcmp(v, "off"))
        return err_set(errp, "accel tcg: hot-tier=%s: it is auto, off or first", v);
    return true;
}

static bool init(struct machine *m, struct opts *o, struct err **errp)
{
    uint64_t mib = 256, sample = 0, tlb = X86_TLB_SIZE, slots = X86_SLOTS;
    bool one = false, lockstep = false, links = true, count = false, perfmap = false, exact = false;
    bool jitdump = false, blocks = false;
    struct dbt *d;

    if (!opts_u64(o, "tb-size", &mib, errp) || !opts_bool(o, "one-insn-per-tb", &one, errp) ||
        !opts_bool(o, "lockstep", &lockstep, errp) || !count_option(o, &count, &blocks, errp) ||
        !opts_u64(o, "lockstep-sample", &sample, errp) || !opts_u64(o, "tlb-size", &tlb, errp) ||
        !opts_u64(o, "slots", &slots, errp) || !opts_bool(o, "links", &links, errp) ||
        !opts_bool(o, "perfmap", &perfmap, errp) || !opts_bool(o, "jitdump", &jitdump, errp) ||
        !opts_bool(o, "exact-flags", &exact, errp))
        return false;
    if (opts_get(o, "thread") && strcmp(opts_peek(o, "thread"), "multi"))
        return err_set(errp, "accel tcg: thread=%s: every virtual CPU has its own thread here (thread=multi)",
                       opts_peek(o, "thread"));
    if (mib < 4 || mib > 1024)
        return err_set(errp, "accel tcg: tb-size=%" PRIu64 " is out of range (4 to 1024 MiB)", mib);
    if (tlb < 4 || tlb > X86_TLB_SIZE || tlb & (tlb - 1))
        return err_set(errp, "accel tcg: tlb-size=%" PRIu64 " is no power of two from 4 to %d", tlb, X86_TLB_SIZE);
    if (slots < 512 || slots > X86_SLOTS || slots & (slots - 1))
        return err_set(errp, "accel tcg: slots=%" PRIu64 " is no power of two from 512 to %d", slots, X86_SLOTS);
    d = xnew(struct dbt);
    if (!tier_option(o, d, errp)) {
        free(d);
        return false;
    }
    d->m = m;
    d->count = count;
    d->tlb_size = (uint32_t)tlb;
    d->nr_slots = (uint32_t)min_u64(slots, X86_SITE_SLOTS);
    d->no_link = log_on(LOG_EXEC) || lockstep || !links;
    d->mode_or = (one || log_on(LOG_EXEC) ? X86_RWM_ONE : 0) | (exact ? X86_RWM_FLAGS : 0);
    d->host_vec = x86_rw_host_vec();
    /* perf takes names only for memory that no file is behind */
    if (!(perfmap ? jit_cache_init_private : jit_cache_init)(&d->cache, mib << 20, errp)) {
        free(d);
        return false;
    }
    d->pairs = xcalloc(DBT_PAIR_HASH, sizeof *d->pairs);
    if ((blocks && !jit_cache_count(&d->cache, errp)) || (perfmap && !jit_cache_perf_map(&d->cache, errp)) ||
        (jitdump && !jit_cache_jitdump(&d->cache, errp)) || !dbt_install_signals(errp) ||
        (lockstep && !dbt_lockstep_init(d, sample, errp))) {
        jit_cache_free(&d->cache);
        free(d->pairs);
        free(d);
        return false;
    }
    m->accel_data = d;
    mem_add_code_hook(m->mem_sys, dbt_code_written, d);
    mem_add_mark_hook(m->mem_sys, dbt_page_is_code, d);
    return true;
}

static bool vcpu_init_dbt(struct vcpu *v, struct err **errp)
{
    struct dbt *d = v->m->accel_data;
    struct dbt_cpu *c = try_alloc_aligned(64, sizeof *c);

    if (!c || v->index >= ARRAY_LEN(d->cpus)) {
        free(c);
        return err_set(errp, "translator: no memory for CPU %u", v->index);
    }
    if (!d->stubs.enter && !dbt_make_stubs(d, errp)) { /* not before it is known how many CPUs there may be */
        free(c);
        return false;
    }
    c->dbt = d;
    c->cpu = x86_cpu(v);
    c->ss = mmap(NULL, DBT_SS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->ss == MAP_FAILED) {
        free(c);
        return err_set(errp, "translator: no memory for CPU %u", v->index);
    }
    mprotect(c->ss, 8192, PROT_NONE);
    c->ss_top = (uint64_t)(uintptr_t)(c->ss + DBT_SS_SIZE - 4096);
    *(uint64_t *)(uintptr_t)c->ss_top = (uint64_t)(uintptr_t)d->stubs.ret_bottom;
    memset(c->last_cr3, 0xff, sizeof c->last_cr3);
    if (d->lockstep && !dbt_lockstep_cpu(c, errp)) {
        munmap(c->ss, DBT_SS_SIZE);
        free(c);
        return false;
    }
    d->cpus[v->index] = c;
    c->cpu->dbt = c;
    dbt_hooks(c);
    v->run = run;
    v->kick = kick;
    return !v->m->icount || icount_vcpu(v, errp);
}

static bool any_cpu(const struct dbt *d)
{
    for (unsigned i = 0; i < ARRAY_LEN(d->cpus); i++)
        if (d->cpus[i])
            return true;
    return false;
}

static void vcpu_free(struct vcpu *v)
{
    struct dbt_cpu *c = x86_cpu(v)->dbt;

    dbt_tier_lock(c->dbt);
    c->dbt->cpus[v->index] = NULL;
    dbt_tier_unlock(c->dbt);
    if (!any_cpu(c->dbt))
        dbt_tier_stop(c->dbt);
    for (unsigned i = 0; i < DBT_CTX; i++)
        free(c->ctx[i]);
    munmap(c->ss, DBT_SS_SIZE);
    free(c->altstack);
    free(c);
}

/* Which instructions left translated code most often. */
static void info_ops(struct strbuf *s, const struct dbt_cpu *c)
{
    uint32_t n[X86_I_NR];

    memcpy(n, c->stat.by_op, sizeof n);
    str_addf(s, "  interpreted:");
    for (unsigned k = 0; k < 24; k++) {
        unsigned best = 0;

        for (unsigned i = 1; i < X86_I_NR; i++)
            if (n[i] > n[best])
                best = i;
        if (!n[best])
            break;
        str_addf(s, " %s %" PRIu32, x86_op_name(best), n[best]);
        n[best] = 0;
    }
    str_addf(s, "\n");
}

/* The blocks entered most. */
static void info_blocks(struct strbuf *s, struct dbt *d)
{
    const struct jit_block *top[16];
    unsigned n = jit_count_top(&d->cache, top, ARRAY_LEN(top));

    for (unsigned i = 0; i < n && jit_count_of(&d->cache, top[i]); i++)
        str_addf(s, "%s block at %016" PRIx64 ", mode %x, %u instructions: entered %" PRIu64 " times\n",
                 i ? " " : "Entered most:\n ", top[i]->pc, top[i]->mode, top[i]->nr_insn,
                 jit_count_of(&d->cache, top[i]));
}

/* By all CPUs; a block left early counts as a whole. */
static uint64_t executed(const struct dbt *d)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < ARRAY_LEN(d->cpus); i++) {
        const struct dbt_cpu *c = d->cpus[i];

        for (unsigned k = 0; c && k < DBT_CTX && c->ctx[k]; k++)
            n += c->ctx[k]->insns;
        n += c ? c->cpu->insn_count : 0;
    }
    return n;
}

static char *info(struct machine *m)
{
    struct dbt *d = m->accel_data;
    struct strbuf s = {0};

    pthread_mutex_lock(&d->cache.lock);
    str_addf(&s,
             "Translation cache:\n  %" PRIu64 " blocks, %" PRIu64 " guest instructions, %.1f host bytes each\n"
             "  %zu of %zu MiB used, emptied %" PRIu64 " times, %" PRIu64 " blocks invalidated\n",
             d->cache.stat.blocks, d->cache.stat.insns,
             d->cache.stat.insns ? (double)d->cache.stat.bytes / (double)d->cache.stat.insns : 0.0,
             d->cache.arena.used >> 20, d->cache.arena.size >> 20, d->cache.stat.flushes, d->cache.stat.invalidated);
    info_blocks(&s, d);
    pthread_mutex_unlock(&d->cache.lock);
    for (unsigned i = 0; i < m->nr_cpus && i < ARRAY_LEN(d->cpus); i++) {
        struct dbt_cpu *c = d->cpus[i];

        if (c)
            str_addf(&s,
                     "CPU %u: sites that probe %" PRIu64 ", entered %" PRIu64 ", interpreted %" PRIu64
                     ", TLB exits %" PRIu64 " (filled %" PRIu64 "), dispatched %" PRIu64 ", linked %" PRIu64
                     ", polls %" PRIu64 ", signals %" PRIu64 ", contexts emptied %" PRIu64 "\n",
                     i, c->stat.hot, c->stat.enters, c->stat.interp, c->stat.slow, c->stat.fills, c->stat.dispatch,
                     c->stat.links, c->stat.polls, c->stat.signals, c->stat.flushes);
        if (c)
            info_ops(&s, c);
    }
    if (m->icount) {
        char *text = icount_info(m);

        str_add(&s, text);
        free(text);
    }
    if (d->count)
        str_addf(&s, "%" PRIu64 " instructions executed\n", executed(d));
    dbt_tier_info(d, &s);
    if (d->lockstep)
        dbt_lockstep_info(d, &s);
    return str_take(&s);
}

static void ended(struct machine *m)
{
    struct dbt *d = m->accel_data;

    pthread_mutex_lock(&d->cache.lock);
    jit_count_log(&d->cache);
    pthread_mutex_unlock(&d->cache.lock);
}

static const char *const aliases[] = {"dbt", NULL};
static const char *const keys[] = {"tb-size",     "thread",   "one-insn-per-tb", "lockstep", "lockstep-sample",
                                   "links",       "tlb-size", "slots",           "count",    "perfmap",
                                   "exact-flags", "jitdump",  "hot-tier",        NULL};
static const struct accel_class dbt_class = {.name = "tcg",
                                             .aliases = aliases,
                                             .desc = "translator",
                                             .keys = keys,
                                             .probe = probe,
                                             .init = init,
                                             .vcpu_init = vcpu_init_dbt,
                                             .vcpu_free = vcpu_free,
                                             .info = info,
                                             .ended = ended};
ACCEL_REGISTER(dbt_class)
