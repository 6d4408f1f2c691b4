/* See run.h.
 *
 * A thread is in translated code only between in_code = true and false in enter_code; everything else here runs as
 * ordinary C on the thread, with cache.lock taken for short pieces. view.out->inside lasts longer: where it was is
 * looked up before the cache may be emptied, but not while a stub makes a system call. A thread that is inside may wait
 * for the lock, so who has the lock waits for none.
 * Pages of the guest that are both writable and translated are in rt->watch: `prot` while the host's mapping has lost
 * its write permission. */
#include "user/linux/run.h"
#include "base/log.h"
#include "base/util.h"
#include "jit/count.h"
#include "user/linux/guard.h"
#include "user/linux/hot.h"
#include "user/linux/kept.h"
#include "user/linux/map.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { SS_SIZE = 256 * 1024, SS_GUARD = 8192, ALT_SIZE = 64 * 1024, STUB_ROOM = 32768, PAGE = 4096 };

_Thread_local struct lx_rt_thread *lx_rt_self;
_Thread_local sigjmp_buf *lx_guard;
_Thread_local struct lx_fault lx_guard_fault;

/* ---- writable pages with code ---- */

static struct lx_watch *watch_find(struct lx_rt *rt, uint64_t no)
{
    struct lx_watch *w = rt->watch[no % LX_WATCH_HEADS];

    while (w && w->no != no)
        w = w->next;
    return w;
}

/* Code is to be translated from the page: with the lock held. */
static void watch_page(struct lx_rt *rt, uint64_t no, int prot)
{
    struct lx_watch *w;

    if (!(prot & PROT_WRITE))
        return;
    w = watch_find(rt, no);
    if (!w) {
        w = xnew(struct lx_watch);
        w->no = no;
        w->next = rt->watch[no % LX_WATCH_HEADS];
        rt->watch[no % LX_WATCH_HEADS] = w;
    }
    if (w->prot)
        return;
    w->prot = true;
    rt->nr_watched++;
    mprotect((void *)(uintptr_t)(no * PAGE), PAGE, prot & ~PROT_WRITE & (PROT_READ | PROT_EXEC));
}

/* The page and what else shows it: before a byte is read, or a write between would never be seen. */
static void watch_code(struct lx_rt *rt, uint64_t no, int prot)
{
    uint64_t from = 0, at, to;

    watch_page(rt, no, prot);
    while (lx_map_alias(no * PAGE, (no + 1) * PAGE, &from, &at, &to))
        watch_page(rt, at / PAGE, lx_map_prot(at));
}

size_t lx_rt_reach(struct lx_rt *rt, uint64_t pc, bool watch)
{
    int prot = rt->alone ? -1 : lx_map_prot(pc);

    if (prot < 0 || (prot & (PROT_EXEC | PROT_WRITE)) != PROT_EXEC) /* what may be written is: not worth it */
        return 0;
    if (watch)
        watch_code(rt, pc / PAGE, prot);
    return PAGE - pc % PAGE;
}

/* True when the page had lost its write permission to us (or has just regained it): the access is to be repeated. */
static bool page_written(struct lx_rt *rt, uint64_t addr)
{
    uint64_t no = addr / PAGE, from = 0, at, to;
    struct lx_watch *w;
    bool ours;

    pthread_mutex_lock(&rt->cache.lock);
    w = watch_find(rt, no);
    ours = w && lx_map_prot(addr) & PROT_WRITE;
    if (ours && w->prot) {
        w->prot = false;
        w->writes++;
        rt->nr_watched--;
    }
    if (ours) { /* under the lock: whoever writes next, unseen, must find no block, and no new one may be made before */
        jit_cache_written_held(&rt->cache, no, 0, PAGE);
        while (lx_map_alias(no * PAGE, (no + 1) * PAGE, &from, &at, &to))
            jit_cache_written_held(&rt->cache, at / PAGE, 0, PAGE);
        mprotect((void *)(uintptr_t)(no * PAGE), PAGE, lx_map_prot(addr) & (PROT_READ | PROT_WRITE));
    }
    pthread_mutex_unlock(&rt->cache.lock);
    return ours;
}

bool lx_rt_written(struct lx_rt *rt, uint64_t addr, uint64_t len)
{
    bool any = false;

    if (!rt || !rt->nr_watched || !len)
        return false;
    if (len / PAGE > 65536) {
        for (unsigned i = 0; i < LX_WATCH_HEADS; i++)
            for (struct lx_watch *w = rt->watch[i]; w; w = w->next)
                if (w->prot && w->no >= addr / PAGE && w->no <= (addr + len - 1) / PAGE)
                    any |= page_written(rt, w->no * PAGE);
        return any;
    }
    for (uint64_t no = addr / PAGE; no <= (addr + len - 1) / PAGE; no++) {
        struct lx_watch *w;

        pthread_mutex_lock(&rt->cache.lock);
        w = watch_find(rt, no);
        pthread_mutex_unlock(&rt->cache.lock);
        if (w && w->prot)
            any |= page_written(rt, no * PAGE);
    }
    return any;
}

bool lx_rt_written_any(struct lx_rt *rt)
{
    return lx_rt_written(rt, 0, UINT64_C(1) << 47);
}

static void forget_page_held(struct lx_rt *rt, uint64_t no)
{
    struct lx_watch *w = watch_find(rt, no);

    jit_cache_written_held(&rt->cache, no, 0, PAGE);
    if (w && w->prot) {
        w->prot = false;
        rt->nr_watched--;
    }
}

void lx_rt_unmapped(struct lx_rt *rt, uint64_t addr, uint64_t len)
{
    uint64_t first = addr / PAGE, last = (addr + len - 1) / PAGE;

    if (!rt || !len || !rt->cache.stat.blocks)
        return;
    pthread_mutex_lock(&rt->cache.lock); /* throughout: pages go when the cache is emptied */
    if (last - first < 256) {
        for (uint64_t no = first; no <= last; no++)
            forget_page_held(rt, no);
    } else {
        for (unsigned i = 0; i < JIT_CACHE_PAGES; i++)
            for (struct jit_page *p = rt->cache.pages[i]; p; p = p->next)
                if (p->no >= first && p->no <= last)
                    forget_page_held(rt, p->no);
    }
    pthread_mutex_unlock(&rt->cache.lock);
}

void lx_rt_code_changed(struct lx_rt *rt, uint64_t addr, uint64_t len)
{
    lx_rt_unmapped(rt, addr, len);
}

/* ---- faults in our own code ---- */

bool lx_guarded(void (*fn)(void *), void *arg)
{
    sigjmp_buf jmp, *outer = lx_guard;

    while (sigsetjmp(jmp, 0)) {
        struct lx_rt_thread *t = lx_rt_self;

        lx_guard = outer;
        if (!t || lx_guard_fault.sig != SIGSEGV || !(lx_guard_fault.err & 2) ||
            !page_written(t->rt, lx_guard_fault.addr))
            return false;
        break;
    }
    lx_guard = &jmp;
    fn(arg);
    lx_guard = outer;
    return true;
}

struct copy {
    void *to;
    const void *from;
    size_t n;
};

static void do_copy(void *arg)
{
    struct copy *c = arg;
    void *to = c->to;
    const void *from = c->from;
    size_t n = c->n;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory"); /* guest addresses: 0 is one of them */
}

static bool user_range(uint64_t a, size_t n)
{
    return a < LX_TASK_MAX && n <= LX_TASK_MAX - a;
}

bool lx_get(void *to, uint64_t guest, size_t n)
{
    struct copy c = {to, (const void *)(uintptr_t)guest, n};

    return !n || (user_range(guest, n) && lx_guarded(do_copy, &c));
}

bool lx_put(uint64_t guest, const void *from, size_t n)
{
    struct copy c = {(void *)(uintptr_t)guest, from, n};

    return !n || (user_range(guest, n) && lx_guarded(do_copy, &c));
}

/* ---- translating ---- */

static void after_flush(struct lx_rt_thread *t)
{
    t->generation = t->rt->cache.generation;
    t->rt->front->jc_clear(t);
    if (t->view.ss_rsp)
        *t->view.ss_rsp = t->ss_top;
}

static struct lx_rt_thread *other_in_cache(struct lx_rt_thread *t)
{
    struct lx_rt_thread *o = t->rt->threads;

    while (o && (o == t || !o->view.out->inside))
        o = o->next;
    return o;
}

/* Nobody may be in translated code while it is thrown away. The lock is given back while the others are waited for,
 * since they need it to look up where they stand; rt->flushing keeps them from making, linking and entering code. */
static void empty_held(struct lx_rt_thread *t)
{
    struct lx_rt *rt = t->rt;
    struct lx_rt_thread *o;

    rt->flushing = true;
    rt->emptier = t;
    if (rt->front->steps_out)
        jit_cache_unlink_all(&rt->cache);
    for (o = rt->threads; o; o = o->next) /* those in a system call of a stub must not go on from there */
        if (o != t)
            lx_rt_kick(o);
    atomic_thread_fence(memory_order_seq_cst); /* they come back inside first, and look then */
    while ((o = other_in_cache(t))) {
        lx_rt_kick(o);
        pthread_mutex_unlock(&rt->cache.lock);
        sched_yield();
        pthread_mutex_lock(&rt->cache.lock);
    }
    jit_cache_empty(&rt->cache);
    rt->emptier = NULL;
    rt->flushing = false;
}

/* The lock, when the cache is not about to be emptied. */
static void lock_settled(struct lx_rt *rt)
{
    pthread_mutex_lock(&rt->cache.lock);
    while (rt->flushing) {
        pthread_mutex_unlock(&rt->cache.lock);
        sched_yield();
        pthread_mutex_lock(&rt->cache.lock);
    }
}

static void empty_cache(struct lx_rt_thread *t)
{
    struct lx_rt *rt = t->rt;

    lock_settled(rt);
    if (t->generation == rt->cache.generation)
        empty_held(t);
    pthread_mutex_unlock(&rt->cache.lock);
    after_flush(t);
}

struct xlat {
    struct lx_rt_thread *t;
    struct jit_block *b;
    uint64_t pc;
    unsigned mode;
    size_t avail;
    bool full;
};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note_made(struct lx_rt *rt, const struct jit_block_out *out, uint64_t ns)
{
    rt->made.ns += ns;
    rt->made.bytes += out->len;
    rt->made.blocks++;
    for (unsigned i = 0; i < out->nr_insn; i++) /* an instruction may have several pieces of code */
        rt->made.insns += !i || jit_off_of(out->guest_off[i]) != jit_off_of(out->guest_off[i - 1]);
}

void lx_rt_report(const struct lx_rt *rt)
{
    log_write(LOG_JIT,
              "translated %" PRIu64 " instructions in %" PRIu64 " blocks, %" PRIu64 " bytes of code, %" PRIu64 " ns",
              rt->made.insns, rt->made.blocks, rt->made.bytes, rt->made.ns);
}

void lx_rt_counts(struct lx_rt *rt)
{
    if (!rt->cache.count)
        return;
    pthread_mutex_lock(&rt->cache.lock);
    jit_count_log(&rt->cache);
    pthread_mutex_unlock(&rt->cache.lock);
}

static void translate(void *arg)
{
    struct xlat *x = arg;
    struct lx_rt *rt = x->t->rt;
    struct jit_rel rel[256];
    struct jit_block_out out;
    struct jit_buf buf;
    uint64_t start = log_on(LOG_JIT) ? now_ns() : 0;
    uint32_t first;
    bool ok, kept;

    if (!jit_cache_begin(&rt->cache, x->pc, &buf, &first)) {
        x->full = true;
        return;
    }
    kept = !lx_hot_block(rt, x->pc);
    if (kept && lx_kept_find(rt, x->pc, x->mode, x->avail, first, &buf, &out) &&
        (!jit_cache_place_loop(&rt->cache, &buf, &out, x->pc) ||
         lx_kept_find(rt, x->pc, x->mode, x->avail, first, &buf, &out))) {
        x->b = jit_cache_commit(&rt->cache, x->pc, x->pc, x->mode, &out);
        return;
    }
    buf.rel = rt->kept && kept ? rel : NULL;
    buf.max_rel = ARRAY_LEN(rel);
    ok = rt->front->translate(x->t, x->pc, x->mode, x->avail, first, &buf, &out);
    if (ok && jit_cache_place_loop(&rt->cache, &buf, &out, x->pc))
        ok = rt->front->translate(x->t, x->pc, x->mode, x->avail, first, &buf, &out);
    if (ok)
        out.tail_no = x->pc / PAGE + 1;
    x->b = jit_cache_commit(&rt->cache, x->pc, x->pc, x->mode, ok ? &out : NULL);
    if (log_on(LOG_IN_ASM | LOG_OUT_ASM))
        lx_rt_show(rt, x->b);
    if (ok && start)
        note_made(rt, &out, now_ns() - start);
    if (ok && kept)
        lx_kept_note(rt, x->b, &buf);
}

/* The block for pc; NULL: *fault is set (the bytes cannot be fetched), or with sig 0 the cache was full. */
static struct jit_block *make_block(struct lx_rt_thread *t, uint64_t pc, unsigned mode)
{
    struct xlat x = {.t = t, .pc = pc, .mode = mode};
    struct lx_fault *f = &t->cpu->fault;
    int prot = lx_map_prot(pc);

    *f = (struct lx_fault){0};
    if (prot < 0 || !(prot & PROT_EXEC)) {
        *f = (struct lx_fault){.sig = SIGSEGV,
                               .code = prot < 0 ? SEGV_MAPERR : SEGV_ACCERR,
                               .addr = pc,
                               .err = prot < 0 ? 0x14 : 0x15,
                               .trap = 14};
        return NULL;
    }
    x.avail = PAGE - (pc & (PAGE - 1));
    if (x.avail < 16 && (lx_map_prot(pc + x.avail) & (PROT_EXEC | PROT_WRITE)) == PROT_EXEC)
        x.avail += 16; /* an instruction may go on there */
    watch_code(t->rt, pc / PAGE, prot);
    t->rt->alone = false;
    if (!lx_guarded(translate, &x)) {
        t->rt->alone = true; /* perhaps it was what it reached for */
        if (!lx_guarded(translate, &x)) {
            *f = lx_guard_fault;
            return NULL;
        }
    }
    return x.b;
}

/* NULL: *fault is set. Another thread may empty the cache as soon as the lock is given back, and the block is gone:
 * *code is where its code starts, NULL when it has none. */
static struct jit_block *block_for(struct lx_rt_thread *t, uint64_t pc, const uint8_t **code)
{
    struct lx_rt *rt = t->rt;
    unsigned mode = rt->front->mode(t);
    struct jit_block *b;

    for (;;) {
        lock_settled(rt);
        if (t->generation != rt->cache.generation)
            after_flush(t);
        b = jit_cache_find(&rt->cache, pc, pc, mode);
        if (!b)
            b = make_block(t, pc, mode);
        if (b && b->host && !rt->no_link)
            rt->front->jc_set(t, pc, jit_block_gate(b));
        *code = b && b->host ? b->host + b->entry : NULL;
        pthread_mutex_unlock(&rt->cache.lock);
        if (b || t->cpu->fault.sig)
            return b;
        empty_cache(t);
    }
}

/* Link n, which leads to pc, has been come out of: the code there; NULL: ask the run loop. */
static const uint8_t *link_exit(struct lx_rt_thread *t, uint32_t n, uint64_t pc)
{
    struct lx_rt *rt = t->rt;
    uint32_t gen = t->generation;
    const uint8_t *code;
    struct jit_block *b;

    rt->front->set_pc(t, pc);
    if (rt->no_link)
        return NULL;
    b = block_for(t, pc, &code);
    if (!b)
        return NULL; /* the run loop meets the same and reports it */
    pthread_mutex_lock(&rt->cache.lock);
    if (gen == rt->cache.generation && gen == t->generation && !rt->flushing)
        jit_cache_link_to(&rt->cache, n, b);
    pthread_mutex_unlock(&rt->cache.lock);
    return !rt->single && !log_on(LOG_EXEC) ? code : NULL;
}

/* ---- into and out of translated code ---- */

static void leave_cache(struct lx_rt_thread *t)
{
    atomic_store_explicit(&t->view.out->inside, 0, memory_order_release);
}

/* 0: something wants the run loop first. It stays inside: what the exit means is still to be looked up. */
static int enter_code(struct lx_rt_thread *t, const uint8_t *target)
{
    int why = 0;

    atomic_store_explicit(&t->view.out->inside, 1, memory_order_relaxed);
    atomic_store_explicit(&t->in_code, true, memory_order_relaxed); /* only seen by handlers on this thread */
    atomic_thread_fence(memory_order_seq_cst);
    if (!t->rt->flushing && t->generation == t->rt->cache.generation && !t->kicked)
        why = t->rt->front->enter(t, target);
    atomic_store_explicit(&t->in_code, false, memory_order_relaxed);
    return why;
}

static bool in_ss_guard(const struct lx_rt_thread *t, int sig, uintptr_t at)
{
    return sig == SIGSEGV && t->ss && at >= (uintptr_t)t->ss && at < (uintptr_t)t->ss + SS_GUARD;
}

/* A full shadow stack is emptied and the push done again; no other register changes. Not by leaving: the way out may
 * push too, and is itself among the places where this happens. A push that is a poll leaves when it is to. */
static bool shadow_stack_full(const struct lx_rt_thread *t, int sig, const siginfo_t *info, greg_t *g)
{
    if (!in_ss_guard(t, sig, (uintptr_t)info->si_addr) || (t->kicked && t->rt->front->calls_poll))
        return false;
    g[REG_RSP] = (greg_t)t->ss_top;
    return true;
}

enum { TF = 0x100, DF = 0x400, RED_ZONE = 128, PUSHF = 0x9c, POPF = 0x9d, HOST_GP = 13 };

/* The first byte of the code of one of the guest's instructions. A trial: another thread may hold the lock for long. */
static bool at_instruction(struct jit_cache *d, const uint8_t *rip)
{
    const struct jit_block *b;
    bool at = false;

    if (!jit_arena_has(&d->arena, rip) || pthread_mutex_trylock(&d->lock))
        return false;
    b = jit_cache_block_at(d, rip);
    if (b)
        at = b->host + b->map[2 * jit_block_insn_at(b, rip)] == rip;
    pthread_mutex_unlock(&d->lock);
    return at;
}

/* In a host handler, for a thread that is to stop: leaves where the guest's state is complete, else has the host trap
 * again behind its next instruction. */
static void step_out(struct lx_rt_thread *t, greg_t *g)
{
    const uint8_t *rip = (const uint8_t *)(uintptr_t)g[REG_RIP];
    uint64_t *top = (uint64_t *)(uintptr_t)g[REG_RSP];

    if (t->stepped_pushf) /* not the guest's */
        *top &= ~(uint64_t)TF;
    t->stepping = t->stepped_pushf = false;
    g[REG_EFL] &= ~TF;
    if (!t->in_code)
        return;
    if (at_instruction(&t->rt->cache, rip)) {
        t->sig = SIGSEGV;
        t->sig_addr = LX_POLL_BAD;
        t->sig_rip = (uintptr_t)rip;
        t->sig_eflags = (uint64_t)g[REG_EFL];
        g[REG_RIP] = (greg_t)(uintptr_t)t->rt->stub.exit_signal;
        return;
    }
    if (jit_arena_has(&t->rt->cache.arena, rip)) {
        t->stepped_pushf = *rip == PUSHF;
        if (*rip == POPF)
            *top |= TF;
    }
    t->stepping = true;
    g[REG_EFL] |= TF;
}

static void leave_guarded(void)
{
    siglongjmp(*lx_guard, 1);
}

/* Guarded code is left when the handler has returned: the thread's signal mask, rounding and x87 are then what they
 * were. */
static void to_guard(greg_t *g)
{
    g[REG_RIP] = (greg_t)(uintptr_t)leave_guarded;
    g[REG_RSP] = ((g[REG_RSP] - RED_ZONE) & -16) - 8; /* as behind a call */
    g[REG_EFL] &= ~DF;
}

bool lx_rt_host_fault(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    struct lx_rt_thread *t = lx_rt_self;

    if (info->si_code <= 0)
        return false;
    if (t && t->stepping && sig == SIGTRAP) {
        step_out(t, g);
        return true;
    }
    if (t && t->in_code && jit_arena_has(&t->rt->cache.arena, (void *)(uintptr_t)g[REG_RIP])) {
        if (shadow_stack_full(t, sig, info, g))
            return true;
        if (t->rt->front->resumes && sig == SIGSEGV && (uint64_t)g[REG_ERR] & 2 &&
            (uintptr_t)info->si_addr < LX_TASK_MAX && page_written(t->rt, (uintptr_t)info->si_addr))
            return true;
        t->stepping = t->stepped_pushf = false;
        g[REG_EFL] &= ~TF;
        t->sig = sig;
        t->sig_code = info->si_code;
        t->sig_trap = (uint64_t)g[REG_TRAPNO];
        t->sig_err = (uint64_t)g[REG_ERR];
        t->sig_rip = (uintptr_t)g[REG_RIP];
        t->sig_addr = (uintptr_t)info->si_addr;
        t->sig_eflags = (uint64_t)g[REG_EFL];
        g[REG_RIP] = (greg_t)(uintptr_t)t->rt->stub.exit_signal;
        return true;
    }
    if (!lx_guard)
        return false;
    lx_guard_fault = (struct lx_fault){.sig = sig,
                                       .code = info->si_code,
                                       .addr = (uintptr_t)info->si_addr,
                                       .err = (uint64_t)g[REG_ERR],
                                       .trap = (uint64_t)g[REG_TRAPNO]};
    to_guard(g);
    return true;
}

struct step {
    struct lx_rt_thread *t;
    enum lx_stop stop;
};

static void do_step(void *arg)
{
    struct step *s = arg;

    s->stop = s->t->rt->front->step(s->t);
}

static enum lx_stop step_one(struct lx_rt_thread *t)
{
    struct step s = {t, LX_STOP_KICK};

    for (;;) {
        uint64_t pc = t->rt->front->pc(t);

        if (lx_guarded(do_step, &s))
            return s.stop;
        t->rt->front->set_pc(t, pc);
        if (lx_guard_fault.sig == SIGSEGV && lx_guard_fault.err & 2 && page_written(t->rt, lx_guard_fault.addr) &&
            ++t->same_fault < 64)
            continue;
        t->same_fault = 0;
        t->cpu->fault = lx_guard_fault;
        return LX_STOP_SIGNAL;
    }
}

static void set_poll(struct lx_rt_thread *t, bool stop)
{
    *t->view.poll = stop ? LX_POLL_BAD : t->view.poll_ok;
    t->view.out->hold = stop;
    if (t->rt->front->kick)
        t->rt->front->kick(t, stop);
}

/* A load that polls, or the stub's: where the guest stands. */
static void poll_exit(struct lx_rt_thread *t)
{
    const uint8_t *rip = (const uint8_t *)t->sig_rip;
    struct jit_cache *d = &t->rt->cache;
    uint64_t pc = *t->view.pc;
    struct jit_block *b;

    set_poll(t, false);
    pthread_mutex_lock(&d->lock);
    b = jit_cache_block_at(d, rip);
    if (b && t->rt->front->poll_restarts)
        pc = jit_block_pc(b, jit_block_insn_at(b, rip));
    for (uint32_t i = 0; b && i < b->nr_links; i++)
        if (jit_link_polls_at(b, jit_cache_link(d, b->first_link + i), rip))
            pc = jit_link_poll_pc(b, jit_cache_link(d, b->first_link + i));
    t->rt->front->set_pc(t, pc);
    if (t->rt->front->fix)
        t->rt->front->fix(t, b, b ? jit_block_insn_at(b, rip) : 0);
    pthread_mutex_unlock(&d->lock);
    leave_cache(t);
}

/* After LX_EXIT_SIGNAL. LX_STOP_KICK: go on at pc. */
static enum lx_stop signal_exit(struct lx_rt_thread *t)
{
    const uint8_t *rip = (const uint8_t *)t->sig_rip;
    struct jit_cache *d = &t->rt->cache;
    struct jit_block *b;

    if (t->sig == SIGSEGV && t->sig_addr == LX_POLL_BAD && *t->view.poll == LX_POLL_BAD) {
        poll_exit(t);
        return LX_STOP_KICK;
    }
    if (in_ss_guard(t, t->sig, t->sig_addr)) {
        *t->view.ss_rsp = t->ss_top;
        poll_exit(t);
        return LX_STOP_KICK;
    }
    pthread_mutex_lock(&d->lock);
    b = jit_cache_block_at(d, rip);
    if (b) {
        unsigned i = jit_block_insn_at(b, rip);

        t->rt->front->set_pc(t, jit_block_pc(b, i));
        if (t->sig == SIGFPE)
            t->sig_addr = jit_block_pc(b, i); /* not where its translation lies */
        if (t->rt->front->fix)
            t->rt->front->fix(t, b, i);
    }
    pthread_mutex_unlock(&d->lock);
    leave_cache(t);
    if (!b)
        warn_report("translator: unexpected signal %d at host address %p", t->sig, (const void *)rip);
    if (t->sig == SIGSEGV && t->sig_err & 2 && t->sig_addr < LX_TASK_MAX && page_written(t->rt, t->sig_addr))
        return step_one(t);
    if (!t->rt->front->resumes && t->sig_trap == HOST_GP) /* the guest's may be #SS: RSP is no stack pointer here */
        return step_one(t);
    if (t->sig == SIGSEGV && t->sig_code == SEGV_ACCERR && lx_map_prot(t->sig_addr) < 0)
        t->sig_code = SEGV_MAPERR; /* a guard of ours */
    t->cpu->fault = (struct lx_fault){
        .sig = t->sig, .code = t->sig_code, .addr = t->sig_addr, .err = t->sig_err, .trap = t->sig_trap};
    return LX_STOP_SIGNAL;
}

/* What is known by the place of a call is what the others say at once. With links gone when the cache is emptied, it
 * is asked for before that may be. */
static int name_exit(struct lx_rt_thread *t, int why)
{
    struct jit_cache *d = &t->rt->cache;
    const uint8_t *end = (const uint8_t *)(uintptr_t)*t->view.link;
    const struct jit_link *l;

    if (why != LX_EXIT_LINK_AT && why != LX_EXIT_LEAVE)
        return why;
    pthread_mutex_lock(&d->lock);
    if (why == LX_EXIT_LINK_AT) {
        *t->view.link = jit_cache_link_behind(d, end);
        l = jit_cache_link(d, (uint32_t)*t->view.link);
        why = l->mode_or == JIT_HOT ? LX_EXIT_HOT : LX_EXIT_LINK;
        if (why == LX_EXIT_HOT)
            lx_hot_note(t->rt, d->order[l->from], l->target, *t->view.pc, l->inner);
    } else {
        *t->view.pc = jit_cache_left(d, end)->pc;
        why = LX_EXIT_DISPATCH;
    }
    pthread_mutex_unlock(&d->lock);
    return why;
}

/* One stay in translated code from a block's entry. */
static enum lx_stop run_block(struct lx_rt_thread *t, const uint8_t *target)
{
    const struct lx_front *f = t->rt->front;

    for (;;) {
        int why = name_exit(t, enter_code(t, target));
        uint64_t to = 0;

        if (why == LX_EXIT_SIGNAL)
            return signal_exit(t);
        if (why == LX_EXIT_LINK) /* links go when the cache is emptied */
            to = jit_cache_link(&t->rt->cache, (uint32_t)*t->view.link)->target;
        leave_cache(t);
        switch (why) {
        case LX_EXIT_INTERP:
            f->set_pc(t, *t->view.pc);
            return step_one(t);
        case LX_EXIT_DISPATCH:
            f->set_pc(t, *t->view.pc);
            return LX_STOP_KICK;
        case LX_EXIT_HOT:
            f->set_pc(t, *t->view.hot_pc);
            return LX_STOP_KICK;
        case LX_EXIT_LINK:
            target = link_exit(t, (uint32_t)*t->view.link, to);
            if (!target)
                return LX_STOP_KICK;
            break;
        case LX_EXIT_SYSCALL:
            f->set_pc(t, *t->view.pc);
            return LX_STOP_SYSCALL;
        case LX_EXIT_TRAP:
            f->set_pc(t, *t->view.pc);
            return LX_STOP_SIGNAL;
        default:
            return LX_STOP_KICK;
        }
    }
}

enum lx_stop lx_rt_run(struct lx_rt_thread *t)
{
    const struct lx_front *f = t->rt->front;
    const uint8_t *code = NULL;

    /* Most often behind a system call. Code that is dead or of before a flush is not stayed in: the second look is the
     * cache's. */
    if (f->jc_get && !t->kicked && t->generation == t->rt->cache.generation && !log_on(LOG_EXEC)) {
        code = f->jc_get(t, f->pc(t));
        if (code) {
            enum lx_stop stop = run_block(t, code);

            if (stop != LX_STOP_KICK || t->rt->single)
                return stop;
        }
    }
    for (;;) {
        enum lx_stop stop;

        if (t->kicked) {
            t->kicked = false;
            set_poll(t, false);
            return LX_STOP_KICK;
        }
        if (!block_for(t, t->rt->front->pc(t), &code))
            return LX_STOP_SIGNAL;
        if (log_on(LOG_EXEC))
            log_write(LOG_EXEC, "%016" PRIx64, t->rt->front->pc(t));
        stop = code ? run_block(t, code) : step_one(t);
        if (stop != LX_STOP_KICK || t->rt->single)
            return stop;
    }
}

void lx_rt_single(struct lx_rt_thread *t)
{
    if (t->rt->single)
        return;
    t->rt->one_insn = t->rt->no_link = t->rt->single = true;
    t->rt->kept = NULL; /* what is kept has longer blocks; it stays mapped until the process ends */
    empty_cache(t);
}

void lx_rt_kick(struct lx_rt_thread *t)
{
    t->kicked = true;
    set_poll(t, true);
}

void lx_rt_interrupt(struct lx_rt_thread *t, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    const uint8_t *rip = (const uint8_t *)(uintptr_t)g[REG_RIP];

    lx_rt_kick(t);
    if (rip >= t->rt->stub.call_begin && rip < t->rt->stub.call_end)
        g[REG_RIP] = (greg_t)(uintptr_t)t->rt->stub.call_undo;
    else if (t->rt->front->steps_out && t == lx_rt_self)
        step_out(t, g);
}

/* ---- life ---- */

struct lx_rt *lx_rt_new(const struct lx_front *f, size_t cache_size, struct err **errp)
{
    struct lx_rt *rt = xnew(struct lx_rt);
    struct jit_arena *a = &rt->cache.arena;
    struct jit_buf b;

    rt->front = f;
    if (!jit_cache_init_private(&rt->cache, cache_size, errp)) {
        free(rt);
        return NULL;
    }
    b = (struct jit_buf){.start = a->w, .p = a->w, .end = a->w + STUB_ROOM, .delta = a->x - a->w};
    if (!f->stubs(rt, &b, errp) || !jit_ok(&b)) {
        if (!jit_ok(&b))
            err_set(errp, "translator: its shared code does not fit");
        jit_cache_free(&rt->cache);
        free(rt);
        return NULL;
    }
    rt->cache.leave = rt->stub.exit_dispatch;
    rt->cache.leave_reg = f->leave_reg;
    rt->cache.leave_call = rt->stub.exit_leave;
    rt->cache.call_out = rt->stub.exit_call;
    a->used = a->keep = align_up((uint64_t)(b.p - b.start), 64);
    return rt;
}

static bool make_shadow_stack(struct lx_rt_thread *t)
{
    t->ss = mmap(NULL, SS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (t->ss == MAP_FAILED)
        return false;
    mprotect(t->ss, SS_GUARD, PROT_NONE);
    /* At the top what predicts nothing: a host return to the lookup. */
    t->ss_top = (uint64_t)(uintptr_t)(t->ss + SS_SIZE - 4096);
    *(uint64_t *)(uintptr_t)t->ss_top =
        (uint64_t)(uintptr_t)(t->rt->stub.ret_bottom ? t->rt->stub.ret_bottom : t->rt->stub.jump);
    *t->view.ss_rsp = t->ss_top;
    return true;
}

/* Zeros that take no memory before they are used: of an x86 context most is tables that user mode leaves alone. */
static void *new_ctx(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void free_ctx(struct lx_rt_thread *t)
{
    if (t->ctx)
        munmap(t->ctx, t->rt->front->ctx_size);
}

bool lx_rt_thread_new(struct lx_rt *rt, struct lx_cpu *cpu, struct err **errp)
{
    struct lx_rt_thread *t = xnew(struct lx_rt_thread);

    t->rt = rt;
    t->cpu = cpu;
    cpu->rt = t;
    t->ctx = new_ctx(rt->front->ctx_size);
    t->altstack = try_alloc(1, ALT_SIZE);
    if (!t->ctx || !t->altstack)
        goto fail;
    rt->front->ctx_init(t);
    if (t->view.ss_rsp && !make_shadow_stack(t))
        goto fail;
    pthread_mutex_lock(&rt->cache.lock);
    t->generation = rt->cache.generation;
    t->next = rt->threads;
    rt->threads = t;
    pthread_mutex_unlock(&rt->cache.lock);
    rt->front->jc_clear(t);
    return true;
fail:
    free_ctx(t);
    free(t->altstack);
    free(t);
    cpu->rt = NULL;
    return err_set(errp, "translator: no memory for a thread");
}

void lx_rt_thread_start(struct lx_rt_thread *t)
{
    stack_t ss = {.ss_size = ALT_SIZE, .ss_sp = t->altstack};

    sigaltstack(&ss, NULL);
    lx_rt_self = t;
    __asm__ volatile("wrgsbase %0" ::"r"(t->ctx));
}

void lx_rt_thread_free(struct lx_rt_thread *t)
{
    struct lx_rt_thread **at;

    pthread_mutex_lock(&t->rt->cache.lock);
    for (at = &t->rt->threads; *at && *at != t; at = &(*at)->next)
        ;
    if (*at)
        *at = t->next;
    pthread_mutex_unlock(&t->rt->cache.lock);
    if (lx_rt_self == t) {
        stack_t off = {.ss_flags = SS_DISABLE};

        sigaltstack(&off, NULL);
        lx_rt_self = NULL;
    }
    if (t->ss)
        munmap(t->ss, SS_SIZE);
    free_ctx(t);
    free(t->altstack);
    free(t->front_data);
    free(t);
}

void lx_rt_thread_killed(struct lx_rt_thread *t, int id)
{
    struct lx_rt *rt = t->rt;

    t->view.out->inside = 0;
    t->in_code = false;
    if (rt->cache.lock.__data.__owner != id) {
        if (rt->emptier != t)
            return;
        pthread_mutex_lock(&rt->cache.lock);
    }
    empty_held(t); /* whatever it was changing */
    pthread_mutex_unlock(&rt->cache.lock);
}

bool lx_rt_after_fork(struct lx_rt *rt, struct lx_rt_thread *self, struct err **errp)
{
    rt->threads = self;
    self->next = NULL;
    rt->flushing = false;
    rt->emptier = NULL;
    lx_kept_forked(rt);
    return true;
}
