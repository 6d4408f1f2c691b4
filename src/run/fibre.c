/* Fibres: one heap object and one guarded stack each, switched by a few instructions.
 *
 * x86-64 (System V ABI): a switch saves the six callee-saved registers, the SSE control word and the x87 control word
 * on the old stack and loads them from the new one. Other hosts use ucontext, which is slower but the same contract.
 * Below each stack lies an inaccessible page, so running over it faults instead of corrupting a neighbour. Ended
 * fibres keep their stack in a small per-thread cache. Under AddressSanitizer every switch is announced to it.
 *
 * The current fibre is a thread-local variable: the one piece of state that belongs to the thread, not to a machine.
 * It is read through functions that are never inlined, because a fibre may be resumed by another thread. */
#include "run/fibre.h"
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define FIBRE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBRE_ASAN 1
#endif
#endif
#ifdef FIBRE_ASAN
#include <sanitizer/common_interface_defs.h>
enum { STACK_SIZE = 1024 * 1024 };
#else
enum { STACK_SIZE = 256 * 1024 };
#endif
enum { CACHE_MAX = 64 };

struct fibre {
    fibre_fn *fn; /* NULL: idle in the cache */
    void *opaque;
    struct fibre *caller; /* borrowed: who resumed us; valid while running */
    struct fibre *next_free;
    void *stack; /* owned mapping, guard page first; NULL for a thread's own stack */
    size_t map_len;
    struct list wait_link; /* in a fibre_mutex's waiters */
    struct ev_bh wake;
    bool ended;
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t ctx;
#endif
#ifdef FIBRE_ASAN
    void *fake;
    const void *bottom;
    size_t bottom_len;
#endif
};

/* What one thread knows about its fibres. */
struct fibre_thread {
    struct fibre root; /* stands for the thread's own stack */
    struct fibre *current;
    struct fibre *free;
    unsigned nr_free;
};
static __thread struct fibre_thread *this_thread;
static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

static void fibre_destroy(struct fibre *f)
{
    munmap(f->stack, f->map_len);
    free(f);
}

static void thread_gone(void *p)
{
    struct fibre_thread *t = p;

    while (t->free) {
        struct fibre *f = t->free;

        t->free = f->next_free;
        fibre_destroy(f);
    }
    free(t);
    this_thread = NULL;
}

static void thread_key_make(void)
{
    pthread_key_create(&thread_key, thread_gone);
}

static struct fibre_thread __attribute__((noinline)) * thread_get(void)
{
    if (!this_thread) {
        this_thread = xnew(struct fibre_thread);
        this_thread->current = &this_thread->root;
        pthread_once(&thread_once, thread_key_make);
        pthread_setspecific(thread_key, this_thread);
    }
    __asm__ volatile("" ::: "memory");
    return this_thread;
}

#if defined(__x86_64__)
/* void fibre_switch(void **save_sp, void *load_sp) */
void fibre_switch_asm(void **save_sp, void *load_sp) __asm__("lyrebird_fibre_switch");
__asm__(".text\n"
        ".p2align 4\n"
        ".type lyrebird_fibre_switch, @function\n"
        "lyrebird_fibre_switch:\n"
        "    endbr64\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    subq $8, %rsp\n"
        "    stmxcsr (%rsp)\n"
        "    fnstcw 4(%rsp)\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    ldmxcsr (%rsp)\n"
        "    fldcw 4(%rsp)\n"
        "    addq $8, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size lyrebird_fibre_switch, .-lyrebird_fibre_switch\n");
#endif

/* Leaves `from` and continues `to`; returns when somebody switches back. last: from will never run again. */
static void fibre_switch(struct fibre_thread *t, struct fibre *from, struct fibre *to, bool last)
{
    t->current = to;
#ifdef FIBRE_ASAN
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake, to->bottom, to->bottom_len);
#endif
#if defined(__x86_64__)
    fibre_switch_asm(&from->sp, to->sp);
#else
    swapcontext(&from->ctx, &to->ctx);
#endif
#ifdef FIBRE_ASAN
    {
        const void *bottom;
        size_t len;
        struct fibre *prev;

        __sanitizer_finish_switch_fiber(from->fake, &bottom, &len);
        /* Resumed by a thread's own stack: learn its bounds, needed to switch back to it. */
        prev = from->caller;
        if (prev && !prev->stack) {
            prev->bottom = bottom;
            prev->bottom_len = len;
        }
    }
#else
    (void)last;
#endif
}

/* First and only frame of every fibre: runs one function after another, going idle between them. */
static void NORETURN fibre_main(struct fibre *f)
{
#ifdef FIBRE_ASAN
    const void *bottom;
    size_t len;

    __sanitizer_finish_switch_fiber(NULL, &bottom, &len);
    if (!f->caller->stack) {
        f->caller->bottom = bottom;
        f->caller->bottom_len = len;
    }
#endif
    for (;;) {
        struct fibre *caller;

        f->fn(f->opaque);
        f->ended = true;
        caller = f->caller;
        fibre_switch(thread_get(), f, caller, false);
    }
}

#if defined(__x86_64__)
static void NORETURN __attribute__((noinline)) fibre_entry(void)
{
    fibre_main(thread_get()->current);
}
static void fibre_prepare(struct fibre *f, uint8_t *low, size_t len)
{
    uint64_t *sp = (uint64_t *)(low + len);
    uint32_t mxcsr;
    uint16_t fcw;

    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(fcw));
    *--sp = 0; /* keeps the stack at 8 modulo 16 on entry, and ends backtraces */
    *--sp = (uint64_t)(uintptr_t)fibre_entry;
    for (int i = 0; i < 6; i++)
        *--sp = 0;
    *--sp = (uint64_t)fcw << 32 | mxcsr;
    f->sp = sp;
}
#else
static void fibre_entry(unsigned lo, unsigned hi)
{
    fibre_main((struct fibre *)((uintptr_t)lo | (uintptr_t)((uint64_t)hi << 32)));
}
static void fibre_prepare(struct fibre *f, uint8_t *low, size_t len)
{
    uint64_t p = (uintptr_t)f;

    getcontext(&f->ctx);
    f->ctx.uc_stack.ss_sp = low;
    f->ctx.uc_stack.ss_size = len;
    f->ctx.uc_link = NULL;
    makecontext(&f->ctx, (void (*)(void))fibre_entry, 2, (unsigned)p, (unsigned)(p >> 32));
}
#endif

static struct fibre *fibre_create(void)
{
    struct fibre *f = xnew(struct fibre);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *m;

    f->map_len = STACK_SIZE + page;
    m = mmap(NULL, f->map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) {
        free(f);
        return NULL;
    }
    mprotect(m, page, PROT_NONE);
    f->stack = m;
#ifdef FIBRE_ASAN
    f->bottom = m + page;
    f->bottom_len = STACK_SIZE;
#endif
    fibre_prepare(f, m + page, STACK_SIZE);
    return f;
}

struct fibre *fibre_new(fibre_fn *fn, void *opaque)
{
    struct fibre_thread *t = thread_get();
    struct fibre *f = t->free;

    if (f) {
        t->free = f->next_free;
        t->nr_free--;
    } else {
        f = fibre_create();
        if (!f)
            abort(); /* as xmalloc: no memory for a small fixed allocation of ours */
    }
    f->fn = fn;
    f->opaque = opaque;
    f->ended = false;
    f->caller = NULL;
    list_init(&f->wait_link);
    list_init(&f->wake.link);
    f->wake.scheduled = false;
    return f;
}

void fibre_resume(struct fibre *f)
{
    struct fibre_thread *t = thread_get();
    struct fibre *me = t->current;

    assert(!f->caller && "a fibre is resumed by one party at a time");
    f->caller = me;
    fibre_switch(t, me, f, false);
    t = thread_get(); /* `me` may continue on another thread */
    if (!f->ended)
        return;
    f->caller = NULL;
    f->fn = NULL;
    if (t->nr_free < CACHE_MAX) {
        f->next_free = t->free;
        t->free = f;
        t->nr_free++;
    } else {
        fibre_destroy(f);
    }
}

void fibre_yield(void)
{
    struct fibre_thread *t = thread_get();
    struct fibre *me = t->current, *to = me->caller;

    assert(me->stack && "fibre_yield outside a fibre");
    me->caller = NULL;
    fibre_switch(t, me, to, false);
}

struct fibre *fibre_self(void)
{
    struct fibre *f = thread_get()->current;

    return f->stack ? f : NULL;
}

static void fibre_run_new(void *opaque)
{
    fibre_resume(opaque);
}

void fibre_start(struct ev_loop *l, fibre_fn *fn, void *opaque)
{
    ev_call(l, fibre_run_new, fibre_new(fn, opaque));
}

static void fibre_run_woken(void *opaque)
{
    fibre_resume(opaque);
}

void fibre_wake(struct ev_loop *l, struct fibre *f)
{
    ev_bh_init(&f->wake, l, fibre_run_woken, f);
    ev_bh_schedule(&f->wake);
}

void fibre_mutex_init(struct fibre_mutex *m)
{
    list_init(&m->waiters);
    m->owner = NULL;
    m->locked = false;
    m->guard = 0;
}

static void guard_take(struct fibre_mutex *m)
{
    while (__atomic_exchange_n(&m->guard, 1, __ATOMIC_ACQUIRE))
        ;
}

static void guard_drop(struct fibre_mutex *m)
{
    __atomic_store_n(&m->guard, 0, __ATOMIC_RELEASE);
}

void fibre_mutex_lock(struct fibre_mutex *m)
{
    struct fibre *me = fibre_self();

    guard_take(m);
    if (!m->locked) {
        m->locked = true;
        m->owner = me;
        guard_drop(m);
        return;
    }
    assert(me && m->owner != me);
    list_add(&m->waiters, &me->wait_link);
    guard_drop(m);
    fibre_yield(); /* the unlocker hands the mutex over before it resumes us */
}

/* Hands over to the first waiter, which runs at once, on this thread, until it yields: fibres of one mutex share a
 * loop (see the header), so nothing runs in parallel. */
void fibre_mutex_unlock(struct fibre_mutex *m)
{
    struct fibre *f;

    guard_take(m);
    f = list_first(&m->waiters, struct fibre, wait_link);
    if (!f) {
        m->locked = false;
        m->owner = NULL;
        guard_drop(m);
        return;
    }
    list_del(&f->wait_link);
    m->owner = f;
    guard_drop(m);
    fibre_resume(f);
}
