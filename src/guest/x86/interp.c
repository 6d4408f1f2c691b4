/* The interpreter: cached decoded blocks, the checks common to all instructions, the run loop, interrupt pins.
 *
 * A block is a run of decoded instructions from one page of memory, found by physical address and mode. Pages that
 * blocks were read from carry MEM_PAGE_CODE; a write to one bumps its generation, and a block whose generation is old
 * is compared with memory before it is used again. Each CPU has its own blocks; only the generations are shared.
 * Instructions that cross a page or come from device memory are decoded each time. */
#include "base/log.h"
#include "guest/x86/interp_int.h"
#include "guest/x86/trial_int.h"

#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BLOCK_INSNS = 32, JUMPS = 4096, HASH = 1 << 15, ARENA = 48 << 20, MAX_RAMS = 64 };

struct entry {
    x86_fn *fn;
    struct x86_insn in;
};
struct block {
    uint64_t key; /* page number in the RAM number space << 14 | offset << 2 | mode */
    _Atomic uint32_t *gen_at;
    uint32_t gen;
    uint16_t nr, bytes;
    const uint8_t *host; /* where the bytes are */
    struct entry e[];
};
/* Write generations of the pages of each RAM block, shared by the CPUs of a machine. */
struct x86_codepages {
    unsigned users;
    pthread_mutex_t split; /* held by a read-modify-write across two pages */
    unsigned nr;
    struct {
        struct mem_ram *ram;
        uint64_t id;
        _Atomic uint32_t *gen;
    } r[MAX_RAMS];
};
struct jump { /* where a block was last found, by linear address */
    uint64_t lin, epoch;
    struct block *b;
};
struct x86_icache {
    struct x86_codepages *pages;
    struct jump jump[2][JUMPS]; /* by CPL 3 */
    struct block *hash[HASH];
    struct entry single; /* an instruction that is not cached */
    size_t used;
    uint8_t arena[ARENA] __attribute__((aligned(64)));
};

/* ---- code pages ---- */
static bool code_written(void *opaque, struct mem_ram *m, uint64_t off, uint64_t len)
{
    struct x86_codepages *p = opaque;

    for (unsigned i = 0; i < p->nr; i++)
        if (p->r[i].ram == m)
            atomic_fetch_add(&p->r[i].gen[off / PAGE], 1);
    return true;
}
/* NULL when there are too many RAM blocks: code from there is not cached. */
static _Atomic uint32_t *page_gen(struct x86_codepages *p, struct mem_ram *ram, uint64_t off)
{
    for (unsigned i = 0; i < p->nr; i++)
        if (p->r[i].ram == ram && p->r[i].id == ram->id)
            return &p->r[i].gen[off / PAGE];
    return NULL;
}
static _Atomic uint32_t *page_gen_new(struct x86_cpu *c, struct mem_ram *ram, uint64_t off)
{
    struct x86_codepages *p = c->icache->pages;
    _Atomic uint32_t *g = page_gen(p, ram, off);

    if (g)
        return g;
    {
        RUN_LOCK_SCOPE(c->vcpu.m->run);
        g = page_gen(p, ram, off);
        if (g || p->nr == MAX_RAMS)
            return g;
        g = try_alloc(ram->size / PAGE, sizeof *g);
        if (!g)
            return NULL;
        p->r[p->nr].ram = ram;
        p->r[p->nr].id = ram->id;
        p->r[p->nr].gen = g;
        atomic_thread_fence(memory_order_seq_cst);
        p->nr++;
    }
    return &g[off / PAGE];
}
bool x86_interp_init(struct x86_cpu *c)
{
    struct machine *m = c->vcpu.m;

    c->icache = try_alloc_aligned(64, sizeof *c->icache);
    if (!c->icache)
        return false;
    for (unsigned i = 0; i < m->nr_cpus; i++)
        if (m->cpus[i] != &c->vcpu && x86_cpu(m->cpus[i])->icache)
            c->icache->pages = x86_cpu(m->cpus[i])->icache->pages;
    if (!c->icache->pages) {
        c->icache->pages = xnew(struct x86_codepages);
        pthread_mutex_init(&c->icache->pages->split, NULL);
        mem_add_code_hook(m->mem_sys, code_written, c->icache->pages);
        syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    }
    c->icache->pages->users++;
    return true;
}

/* ---- what an instruction needs to run at all ---- */
void x86_check_insn(struct x86_cpu *c, const struct x86_insn *in)
{
    uint32_t at = in->row->attr;

    if (in->row->feature && !x86_has(&c->feat, in->row->feature))
        x86_raise(c, X86_UD);
    if (unlikely(at & X86_A_AVX512) && !x86_insn_offered(&c->feat, in))
        x86_raise(c, X86_UD);
    if (in->enc != X86_ENC_LEGACY && !x86_pm(c))
        x86_raise(c, X86_UD);
    if (at & X86_A_AVX) {
        if (!(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & 6) != 6)
            x86_raise(c, X86_UD);
    } else if (at & X86_A_SSE) {
        if (c->cr0 & X86_CR0_EM || !(c->cr4 & X86_CR4_OSFXSR))
            x86_raise(c, X86_UD);
    } else if (at & X86_A_MMX) {
        if (c->cr0 & X86_CR0_EM)
            x86_raise(c, X86_UD);
    } else if (at & X86_A_FPU) {
        if (in->op == X86_I_FWAIT ? (c->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS)
                                  : c->cr0 & (X86_CR0_EM | X86_CR0_TS))
            x86_raise(c, X86_NM);
        return;
    }
    if (at & (X86_A_AVX | X86_A_SSE | X86_A_MMX) && c->cr0 & X86_CR0_TS)
        x86_raise(c, X86_NM);
    if (at & X86_A_AVX512 && c->xcr0 & 0xe0)
        x86_note_upper(c);
    if (at & X86_A_PRIV && c->cpl) {
        if (in->op == X86_I_MONITOR || in->op == X86_I_MWAIT || in->op == X86_I_STAC || in->op == X86_I_CLAC)
            x86_raise(c, X86_UD);
        x86_raise_err(c, X86_GP, 0);
    }
}
static void run_simd(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_check_insn(c, in);
    x86_simd_check(c, in);
    if (!x86_simd_exec(c, in))
        x86_raise(c, X86_UD);
}
static void run_undefined(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_raise(c, X86_UD);
}
static void run_too_long(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_raise_err(c, X86_GP, 0);
}
static x86_fn *handler_of(const struct x86_insn *in)
{
    static const struct x86_handler *const tables[] = {x86_ops_alu, x86_ops_bits, x86_ops_move, x86_ops_string,
                                                       x86_ops_sys};
    unsigned size = in->nr_ops ? in->ops[0].size : in->opsz, n = size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0;

    if (in->op == X86_I_PUSH)
        n = in->opsz == 8 ? 3 : 0;
    for (unsigned i = 0; i < ARRAY_LEN(tables); i++)
        if (tables[i][in->op].f[n])
            return tables[i][in->op].f[n];
    return NULL;
}
static void run_checked(struct x86_cpu *c, const struct x86_insn *in)
{
    x86_check_insn(c, in);
    handler_of(in)(c, in);
}
static x86_fn *choose(struct x86_cpu *c, const struct x86_insn *in)
{
    uint32_t at = in->row->attr;
    x86_fn *fn = handler_of(in);

    if (!fn)
        return at & (X86_A_FPU | X86_A_MMX | X86_A_SSE | X86_A_AVX) ? run_simd : run_undefined;
    if (at & (X86_A_PRIV | X86_A_FPU | X86_A_MMX | X86_A_SSE | X86_A_AVX) || in->enc != X86_ENC_LEGACY ||
        !x86_insn_offered(&c->feat, in))
        return run_checked;
    return fn;
}
static inline uint64_t rip_after(const struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t n = c->rip + in->len;

    return c->mode == X86_MODE_64   ? n
           : c->mode == X86_MODE_32 ? (uint32_t)n
           : c->rip > 0xffff        ? (uint32_t)n
                                    : (uint16_t)n;
}
void x86_exec(struct x86_cpu *c, const struct x86_insn *in)
{
    c->next_rip = rip_after(c, in);
    choose(c, in)(c, in);
    c->rip = c->next_rip;
}

/* ---- blocks ---- */
static void settle(struct x86_cpu *c, struct entry *e, enum x86_decode_result r)
{
    e->fn = r == X86_DECODE_OK ? choose(c, &e->in) : r == X86_DECODE_LONG ? run_too_long : run_undefined;
}
static bool ends_block(const struct entry *e)
{
    return !e->in.row || e->in.row->attr & (X86_A_ENDS | X86_A_IO) || e->fn == run_undefined || e->fn == run_too_long;
}
/* Decodes from bytes of one page; 0 instructions: the first one crosses its end. From a copy: another processor may be
 * writing them, and what is decoded must be what in.bytes says, by which still_valid knows it again. */
static void decode_block(struct x86_cpu *c, struct block *b, const uint8_t *p, unsigned left)
{
    while (b->nr < BLOCK_INSNS && left) {
        struct entry *e = &b->e[b->nr];
        uint8_t bytes[16];
        unsigned n = left < sizeof bytes ? left : sizeof bytes;
        enum x86_decode_result r;

        memcpy(bytes, p, n);
        r = x86_decode(bytes, n, c->mode, &e->in);

        if (r == X86_DECODE_MORE)
            return;
        settle(c, e, r);
        if (r != X86_DECODE_OK && !e->in.len)
            e->in.len = 1;
        b->nr++;
        b->bytes += e->in.len;
        p += e->in.len;
        left -= e->in.len;
        if (ends_block(e))
            return;
    }
}
static struct block *arena_room(struct x86_icache *ic)
{
    size_t want = sizeof(struct block) + BLOCK_INSNS * sizeof(struct entry);

    if (ARENA - ic->used < want) {
        memset(ic->hash, 0, sizeof ic->hash);
        memset(ic->jump, 0, sizeof ic->jump);
        ic->used = 0;
    }
    return (struct block *)(ic->arena + ic->used);
}
/* Before bytes of the page are read: the generation they are of, or an older one. The generation comes first: who
 * writes makes a new one and then clears the mark, unless one was set in between. Who writes looks for the mark right
 * behind its store, and may do so before anybody else sees the store; a new mark waits for those. */
static uint32_t begin_reading(_Atomic uint32_t *gen_at, struct mem_ram *ram, uint64_t page_off)
{
    uint32_t gen = atomic_load(gen_at);

    if (mem_ram_mark_code(ram, page_off))
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
    return gen;
}
static struct block *make_block(struct x86_cpu *c, uint64_t key, const uint8_t *host, struct mem_ram *ram,
                                uint64_t page_off, unsigned off)
{
    struct x86_icache *ic = c->icache;
    _Atomic uint32_t *gen = page_gen_new(c, ram, page_off);
    struct block *b;

    if (!gen)
        return NULL;
    b = arena_room(ic);
    memset(b, 0, sizeof *b);
    b->key = key;
    b->gen_at = gen;
    b->host = host + off;
    b->gen = begin_reading(gen, ram, page_off);
    decode_block(c, b, b->host, PAGE - off);
    if (!b->nr)
        return NULL;
    ic->used += (sizeof *b + b->nr * sizeof b->e[0] + 63) & ~(size_t)63;
    ic->hash[(key ^ key >> 14) % HASH] = b;
    return b;
}
/* Was the page written but these bytes not? */
static bool still_valid(struct block *b, struct mem_ram *ram, uint64_t page_off)
{
    const uint8_t *p = b->host;
    uint32_t gen;

    if (b->gen == atomic_load_explicit(b->gen_at, memory_order_relaxed))
        return true;
    gen = begin_reading(b->gen_at, ram, page_off);
    for (unsigned i = 0; i < b->nr; i++) {
        if (memcmp(p, b->e[i].in.bytes, b->e[i].in.len))
            return false;
        p += b->e[i].in.len;
    }
    b->gen = gen;
    return true;
}
static struct block *look_up_block(struct x86_cpu *c, uint64_t lin)
{
    struct x86_icache *ic = c->icache;
    uint64_t page_off, key;
    unsigned off = lin & (PAGE - 1);
    const uint8_t *host;
    struct mem_ram *ram;
    struct block *b;

    host = x86_code_page(c, lin, &ram, &page_off);
    if (!host)
        return NULL;
    key = (ram->id + page_off / PAGE) << 14 | off << 2 | c->mode;
    b = ic->hash[(key ^ key >> 14) % HASH];
    if (b && b->key == key && still_valid(b, ram, page_off))
        return b;
    return make_block(c, key, host, ram, page_off, off);
}
static inline struct block *find_block(struct x86_cpu *c)
{
    uint64_t lin = c->mode == X86_MODE_64 ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);
    struct jump *j = &c->icache->jump[c->cpl == 3][(lin ^ lin >> 12) % JUMPS];
    struct block *b = j->b;

    if (likely(b && j->lin == lin && j->epoch == c->itlb->epoch && (b->key & 3) == c->mode &&
               b->gen == atomic_load_explicit(b->gen_at, memory_order_relaxed)))
        return b;
    b = look_up_block(c, lin);
    *j = (struct jump){.lin = lin, .epoch = c->itlb->epoch, .b = b};
    return b;
}
/* The instruction at rip, read through fetches. */
static struct entry *fetch_single(struct x86_cpu *c)
{
    struct entry *e = &c->icache->single;
    uint8_t buf[X86_MAX_INSN];
    unsigned n = x86_fetch(c, c->rip, buf, X86_MAX_INSN);
    enum x86_decode_result r = x86_decode(buf, n, c->mode, &e->in);

    if (r == X86_DECODE_MORE) { /* the next page cannot be read: fault there */
        x86_fetch(c, c->rip + n, buf, 1);
        r = X86_DECODE_UD;
    }
    settle(c, e, r);
    return e;
}

/* ---- tracing and debugging ---- */
static void trace_insn(struct x86_cpu *c, const struct x86_insn *in)
{
    char text[96];

    x86_format(in, c->rip, text, sizeof text);
    log_write(LOG_EXEC,
              "%04x:%016" PRIx64 " %-40s ax=%" PRIx64 " bx=%" PRIx64 " cx=%" PRIx64 " dx=%" PRIx64 " si=%" PRIx64
              " di=%" PRIx64 " sp=%" PRIx64 " bp=%" PRIx64 " f=%" PRIx64,
              c->seg[X86_CS].sel, c->rip, text, c->regs[0], c->regs[3], c->regs[1], c->regs[2], c->regs[6], c->regs[7],
              c->regs[4], c->regs[5], c->rflags);
}
/* Instruction breakpoints of DR0..DR3 (SDM vol. 3, 18.2): a fault before the instruction, held off by RF. */
static void check_breakpoints(struct x86_cpu *c)
{
    uint64_t lin = c->mode == X86_MODE_64 ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);

    if (c->rflags & X86_RF)
        return;
    for (unsigned i = 0; i < 4; i++)
        if (c->dr[7] >> (2 * i) & 3 && !(c->dr[7] >> (16 + 4 * i) & 3) && c->dr[i] == lin) {
            c->dr[6] |= 1u << i;
            x86_raise(c, X86_DB);
        }
}
static bool must_single_step(const struct x86_cpu *c)
{
    return c->rflags & (X86_TF | X86_RF) || c->dr[7] & 0xff || log_on(LOG_EXEC);
}

/* ---- running ---- */
void x86_split_lock(struct x86_cpu *c)
{
    if (!c->split)
        pthread_mutex_lock(&c->icache->pages->split);
    c->split = true;
}
static void split_unlock(struct x86_cpu *c)
{
    c->split = false;
    pthread_mutex_unlock(&c->icache->pages->split);
}
static inline void run_entry(struct x86_cpu *c, const struct entry *e)
{
    c->next_rip = rip_after(c, &e->in);
    e->fn(c, &e->in);
    if (unlikely(c->split))
        split_unlock(c);
    c->rip = c->next_rip;
    c->insn_count++;
}
/* These clear TF on their way: the handler is not stepped into. */
static bool enters_handler(unsigned op)
{
    return op == X86_I_INT || op == X86_I_INT3 || op == X86_I_INTO || op == X86_I_INT1 || op == X86_I_SYSCALL ||
           op == X86_I_SYSENTER;
}
/* One instruction with everything that may surround it. */
static void step(struct x86_cpu *c)
{
    uint64_t tf = c->rflags & X86_TF;
    const struct entry *e;
    struct block *b;

    if (unlikely(c->dr[7] & 0xff))
        check_breakpoints(c);
    b = find_block(c);
    e = b ? &b->e[0] : fetch_single(c);
    if (log_on(LOG_EXEC) && e->in.row)
        trace_insn(c, &e->in);
    c->rflags &= ~(uint64_t)X86_RF;
    c->watch_hit = 0;
    c->last_op = e->in.op;
    run_entry(c, e);
    if (unlikely(c->watch_hit)) {
        c->dr[6] |= c->watch_hit;
        c->watch_hit = 0;
        x86_deliver(c, X86_DB, false, 0, false, false, c->rip);
        return;
    }
    if (tf && c->int_shadow != 2 && !enters_handler(e->in.op)) {
        c->dr[6] |= 1 << 14;
        x86_deliver(c, X86_DB, false, 0, false, false, c->rip);
    }
}
/* Runs a cached block until it ends, something calls for attention, or its bytes change. */
static void run_block(struct x86_cpu *c, const struct block *b, unsigned max)
{
    const struct entry *e = b->e, *end = e + (b->nr < max ? b->nr : max);

    for (;;) {
        run_entry(c, e);
        if (++e == end || unlikely(c->vcpu.pins | c->vcpu.exit_request | c->int_shadow))
            return;
        if (unlikely(b->gen != atomic_load_explicit(b->gen_at, memory_order_relaxed)))
            return;
        if (unlikely(e[-1].in.rep && e[-1].in.row->attr & X86_A_REP))
            return; /* an unfinished burst starts over at the same address */
    }
}
static void deliver_fault(struct x86_cpu *c)
{
    if (c->split)
        split_unlock(c);
    x86_deliver_fault(c);
}
void x86_interp_one(struct x86_cpu *c)
{
    sigjmp_buf jb, *volatile outer = c->fault_jmp;

    c->fault_jmp = &jb;
    c->int_shadow = 0;
    if (!sigsetjmp(jb, 0))
        step(c);
    else
        deliver_fault(c);
    c->fault_jmp = outer;
}
enum vcpu_exit x86_interp_run(struct x86_cpu *c, uint64_t max)
{
    volatile uint64_t stop = c->insn_count + max < max ? UINT64_MAX : c->insn_count + max;
    sigjmp_buf jb, *volatile outer = c->fault_jmp;

    if (sigsetjmp(jb, 0)) {
        deliver_fault(c);
        c->insn_count++;
    }
    for (;;) {
        uint8_t shadow = c->int_shadow;

        c->fault_jmp = &jb;
        if (unlikely(c->vcpu.exit_request))
            break;
        if (unlikely(c->vcpu.pins) && !shadow)
            x86_service_pins(c);
        if (unlikely(c->vcpu.halted || c->shutdown || c->insn_count >= stop))
            break;
        c->int_shadow = 0;
        if (unlikely(shadow || must_single_step(c))) {
            step(c);
        } else {
            struct block *b = find_block(c);
            uint64_t left = stop - c->insn_count;

            if (likely(b))
                run_block(c, b, left < BLOCK_INSNS ? (unsigned)left : BLOCK_INSNS);
            else
                run_entry(c, fetch_single(c));
        }
    }
    c->fault_jmp = outer;
    return c->shutdown ? VCPU_EXIT_SHUTDOWN : c->vcpu.halted ? VCPU_EXIT_HALTED : VCPU_EXIT_KICKED;
}

/* ---- trials (trial.h) ---- */
/* Does it do more than change registers and memory? */
static bool acts_elsewhere(const struct entry *e)
{
    static const uint16_t fine[] = {X86_I_CLI,      X86_I_STI,      X86_I_POPF,      X86_I_SWAPGS, X86_I_STAC,
                                    X86_I_CLAC,     X86_I_SYSCALL,  X86_I_SYSRET,    X86_I_IRET,   X86_I_RDFSBASE,
                                    X86_I_RDGSBASE, X86_I_WRFSBASE, X86_I_WRGSBASE,  X86_I_FXSAVE, X86_I_FXRSTOR,
                                    X86_I_XSAVE,    X86_I_XRSTOR,   X86_I_XSAVEOPT,  X86_I_XSAVEC, X86_I_UD2,
                                    X86_I_CLFLUSH,  X86_I_CLWB,     X86_I_CLFLUSHOPT};

    if (!e->in.row || !(e->in.row->attr & (X86_A_SYS | X86_A_IO)))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(fine); i++)
        if (e->in.op == fine[i])
            return false;
    return true;
}
/* Repeats at a time until RCX is what the bound says, or to the end. */
static void try_rep(struct x86_cpu *c, const struct entry *e, const struct x86_trial_bound *b)
{
    uint64_t at = c->rip, mask = x86_mask(e->in.adsz), rcx = c->regs[X86_RCX];
    bool part = b->to_rip && b->before && b->rip == at && (rcx & mask) > (b->rcx & mask);

    if (part)
        c->regs[X86_RCX] = (rcx & mask) - (b->rcx & mask);
    do
        run_entry(c, e);
    while (c->rip == at && c->regs[X86_RCX] & mask);
    if (!part)
        return;
    if (!(c->regs[X86_RCX] & mask))
        c->regs[X86_RCX] = b->rcx;
    c->rip = at;
}
static bool at_bound(const struct x86_cpu *c, const struct entry *e, const struct x86_trial_bound *b, unsigned n)
{
    if (n >= b->max)
        return true;
    if (!b->to_rip || c->rip != b->rip || (!b->before && !n))
        return false;
    return !(b->before && e->in.row && e->in.rep && e->in.row->attr & X86_A_STRING && c->regs[X86_RCX] != b->rcx);
}
uint32_t x86_trial_attrs(struct x86_cpu *c, unsigned nr)
{
    sigjmp_buf jb, *volatile outer = c->fault_jmp;
    uint64_t rip = c->rip;
    volatile unsigned left = nr;
    volatile uint32_t at = 0;

    c->fault_jmp = &jb;
    c->trial->on = true;
    while (left) {
        struct block *b = sigsetjmp(jb, 0) ? NULL : find_block(c);

        for (unsigned k = 0; b && k < b->nr && left; k++, left--)
            at |= b->e[k].in.row ? b->e[k].in.row->attr : ~UINT32_C(0);
        if (!b) { /* an instruction that is not cached: not known */
            at = ~UINT32_C(0);
            break;
        }
        c->rip += b->bytes;
    }
    c->rip = rip;
    c->trial->on = false;
    c->fault_jmp = outer;
    return at;
}
enum x86_trial_end x86_trial_run(struct x86_cpu *c, const struct x86_trial_bound *b, unsigned *done)
{
    volatile enum x86_trial_end end = X86_TRIAL_BOUND;
    sigjmp_buf jb, *volatile outer = c->fault_jmp;
    volatile unsigned n = 0;
    int why;

    c->trial->nr = 0;
    c->trial->used = 0;
    c->trial->undefined = 0;
    c->trial->tainted = false;
    c->trial->on = true;
    c->fault_jmp = &jb;
    why = sigsetjmp(jb, 0);
    while (!why) {
        const struct entry *e, *last;
        struct block *blk;
        bool left = false;

        if (n >= b->max || (n && b->to_rip && !b->before && c->rip == b->rip))
            goto out; /* the fetch of what comes next may fault already */
        blk = find_block(c);
        e = blk ? blk->e : fetch_single(c);
        last = e + (blk ? blk->nr : 1);
        for (; e < last && !left; e++) {
            uint64_t next = rip_after(c, &e->in);

            if (at_bound(c, e, b, n))
                goto out;
            if (acts_elsewhere(e)) {
                end = X86_TRIAL_OTHER;
                goto out;
            }
            c->int_shadow = 0;
            if (e->in.row && e->in.rep && e->in.row->attr & X86_A_STRING && e->in.row->attr & X86_A_REP)
                try_rep(c, e, b);
            else
                run_entry(c, e);
            left = c->rip != next;
            n++;
            if (e->in.row)
                c->trial->tainted |= (c->trial->undefined & e->in.row->flags_r) != 0;
            if (e->in.row)
                c->trial->undefined = (uint16_t)((c->trial->undefined & (~e->in.row->flags_w | e->in.row->flags_r)) |
                                                 x86_insn_undefined(&e->in));
            if (blk && blk->gen != atomic_load_explicit(blk->gen_at, memory_order_relaxed))
                break;
        }
        if (left && !b->to_rip) {
            end = X86_TRIAL_LEFT;
            goto out;
        }
    }
    end = why >= X86_TRIAL_JMP ? (enum x86_trial_end)(why - X86_TRIAL_JMP) : X86_TRIAL_FAULT;
out:
    if (c->split)
        split_unlock(c);
    c->trial->on = false;
    c->fault_jmp = outer;
    *done = n;
    return end;
}

/* ---- pins ---- */
static bool pin_taken(struct x86_cpu *c, uint32_t pin)
{
    return atomic_fetch_and(&c->vcpu.pins, ~pin) & pin;
}
static void take_vector(struct x86_cpu *c, int vec)
{
    c->vcpu.halted = false;
    x86_deliver(c, vec, false, 0, false, vec != X86_VEC_NMI, c->rip);
}
static void take_init(struct x86_cpu *c)
{
    bool wait = !c->port.bsp;

    x86_reset_cpu(c, true);
    if (c->port.apic)
        c->port.apic_init_reset(c->port.apic);
    c->vcpu.halted = wait;
    c->wait_sipi = wait;
}
static void take_sipi(struct x86_cpu *c)
{
    uint8_t v = c->port.sipi_vector;

    if (!c->wait_sipi)
        return;
    c->wait_sipi = false;
    c->vcpu.halted = false;
    x86_seg_real(c, X86_CS, (uint16_t)(v << 8));
    c->rip = 0;
    x86_update_mode(c);
}
static int ack_interrupt(struct x86_cpu *c)
{
    if (c->port.apic)
        return c->port.intr_ack(c->port.apic);
    return c->port.pic_ack ? c->port.pic_ack(c->port.pic) : -1;
}
static bool take_interrupt(struct x86_cpu *c)
{
    int vec = ack_interrupt(c);

    if (vec < 0)
        return false;
    take_vector(c, vec);
    return true;
}
bool x86_service_pins(struct x86_cpu *c)
{
    uint32_t pins = c->vcpu.pins;

    if (pins & X86_PIN_FLUSH && pin_taken(c, X86_PIN_FLUSH))
        x86_tlb_flush(c, true);
    if (pins & X86_PIN_A20 && pin_taken(c, X86_PIN_A20)) {
        c->a20_mask = c->port.a20 ? ~UINT64_C(0) : ~(UINT64_C(1) << 20);
        x86_tlb_flush(c, true);
    }
    if (pins & X86_PIN_INIT && !c->smm && pin_taken(c, X86_PIN_INIT)) {
        take_init(c);
        return true;
    }
    if (pins & X86_PIN_SIPI && pin_taken(c, X86_PIN_SIPI)) {
        take_sipi(c);
        return true;
    }
    if (c->wait_sipi)
        return false;
    if (pins & X86_PIN_SMI && !c->smm && pin_taken(c, X86_PIN_SMI)) {
        x86_enter_smm(c);
        c->vcpu.halted = false;
        return true;
    }
    if (pins & X86_PIN_NMI && !c->nmi_blocked && pin_taken(c, X86_PIN_NMI)) {
        take_vector(c, X86_VEC_NMI);
        c->nmi_blocked = true;
        return true;
    }
    if (pins & X86_PIN_MCE && c->cr4 & X86_CR4_MCE && pin_taken(c, X86_PIN_MCE)) {
        c->vcpu.halted = false;
        x86_deliver(c, X86_MC, false, 0, false, false, c->rip);
        return true;
    }
    return pins & X86_PIN_INTR && c->rflags & X86_IF && take_interrupt(c);
}
