/* Lockstep (-accel tcg,lockstep=on): each block is first run by the interpreter as a trial, memory and registers are
 * put back, the translated block runs, and what both made of registers and memory is compared. The first difference is
 * reported with the block, and the machine stops.
 *
 * Where translated code leaves in the middle of a block (a miss, a poll, an instruction for the interpreter) the trial
 * is made again up to there. Device accesses, interrupts and the delivery of faults happen once, outside the
 * comparison.
 *
 * Blocks that look at flags which an instruction before has left undefined may differ and are
 * counted. Not compared: arithmetic flags that the code from there on overwrites before it reads them (counted; those
 * in the frame of a fault apart), the instruction and data pointers of the x87, accessed and dirty bits, the shadow of
 * STI. Links, guards and in-line RDTSC are off, so that each block ends where it ends. One CPU only: others would see
 * what is undone. Costs: about a microsecond a block, some 20 to 50 times the translator alone. With lockstep-sample=N
 * a block that has been compared 256 times is compared one time in N from then on. */
#include "accel/dbt/dbt_int.h"
#include "base/err.h"
#include "base/str.h"
#include "guest/x86/trial.h"

enum { TRIES = 6, LOOK = 200 };
enum { FLOATS = X86_A_FPU | X86_A_MMX | X86_A_SSE | X86_A_AVX | X86_A_SYS };

/* What trials and translated code may change of a CPU, by pieces; the vector and x87 registers only where the block has
 * instructions that could. */
#define PIECE(from, to)                                                                                                \
    {                                                                                                                  \
        offsetof(struct x86_cpu, from), offsetof(struct x86_cpu, to) - offsetof(struct x86_cpu, from)                  \
    }
static const struct {
    size_t at, len;
} pieces[] = {PIECE(regs, mtrr_deftype), PIECE(pkru, fx), PIECE(fx, v), PIECE(v, v[16]), PIECE(v[16], wide)};
enum { CORE = 2, NARROW = 4, KNOWN = 4096, OFTEN = 256 };

struct dbt_lockstep {
    struct x86_cpu before, interp, jit; /* only the pieces of each are used */
    unsigned nr_pieces;
    uint64_t sample;         /* 0: every time */
    uint16_t count[1 << 16]; /* comparisons by a hash of the block's address, up to OFTEN */
    uint64_t turn;
    bool split;
    struct {
        uint64_t pc, cr3, killed;
        uint32_t flags;
        bool dead;
    } known[KNOWN]; /* answers of is_dead; a change of code makes them void */
    uint64_t split_rip;
    struct {
        uint64_t blocks, insns, writes, again, none, big, dead, dead_fault, skipped, tainted;
    } n;
};
bool dbt_lockstep_init(struct dbt *d, uint64_t sample, struct err **errp)
{
    d->lockstep = try_alloc_aligned(64, sizeof *d->lockstep);
    if (!d->lockstep)
        return err_set(errp, "accel tcg: no memory for lockstep");
    d->lockstep->sample = sample;
    return true;
}

bool dbt_lockstep_cpu(struct dbt_cpu *c, struct err **errp)
{
    if (c->cpu->vcpu.index)
        return err_set(errp, "accel tcg: lockstep=on needs a machine with one CPU: others would see what is undone");
    return x86_trial_init(c->cpu) ? true : err_set(errp, "accel tcg: no memory for lockstep");
}

static void save(const struct dbt_lockstep *l, struct x86_cpu *to, struct x86_cpu *c)
{
    if (l->nr_pieces > CORE)
        x86_x87_sync(c);
    for (unsigned i = 0; i < l->nr_pieces; i++)
        memcpy((uint8_t *)to + pieces[i].at, (uint8_t *)c + pieces[i].at, pieces[i].len);
}

static void load(const struct dbt_lockstep *l, struct x86_cpu *c)
{
    const struct x86_cpu *from = &l->before;
    bool same = c->mode == from->mode && c->cpl == from->cpl;

    for (unsigned i = 0; i < l->nr_pieces; i++)
        memcpy((uint8_t *)c + pieces[i].at, (const uint8_t *)from + pieces[i].at, pieces[i].len);
    if (l->nr_pieces > NARROW)
        x86_note_upper(c);
    if (!same)
        x86_update_mode(c);
}

/* ---- flags nobody will read ---- */

/* System instructions behind which a block goes on. */
static bool translated_sys(const struct x86_insn *in)
{
    static const uint16_t ops[] = {X86_I_CLI, X86_I_STI, X86_I_POPF, X86_I_SWAPGS, X86_I_STAC, X86_I_CLAC};

    for (size_t i = 0; i < ARRAY_LEN(ops); i++)
        if (in->op == ops[i])
            return true;
    return false;
}

/* Are all of these flags written before they are read on every way on from pc? As far as a few instructions tell. */
static bool dead(struct dbt_cpu *c, uint64_t pc, uint32_t flags, unsigned *budget)
{
    uint64_t mask = c->cpu->mode == X86_MODE_64 ? UINT64_MAX : UINT32_MAX;

    while (flags && (*budget)--) {
        const struct dbt_xtlb *x = dbt_exec_page(c, pc);
        unsigned off = (unsigned)(pc & 4095), n = 4096 - off;
        uint8_t joined[2 * X86_MAX_INSN];
        const uint8_t *code;
        struct x86_insn in;

        if (!x)
            return false;
        code = x->host + off;
        if (n < X86_MAX_INSN) { /* on to the next page, if there is one */
            const struct dbt_xtlb *tail;

            memcpy(joined, code, n);
            code = joined;
            tail = dbt_next_page(c, pc);
            if (tail)
                memcpy(joined + n, tail->host, X86_MAX_INSN);
            n += tail ? X86_MAX_INSN : 0;
        }
        if (x86_decode(code, n, c->cpu->mode, &in) != X86_DECODE_OK)
            return false;
        if (in.row->flags_r & flags)
            return false;
        flags &= ~(uint32_t)in.row->flags_w;
        if (!flags)
            return true;
        if (in.row->attr & X86_A_SYS && !translated_sys(&in))
            return false;
        pc = (pc + in.len) & mask;
        if (in.op == X86_I_JMP || in.op == X86_I_CALL)
            pc = (pc + in.imm) & mask;
        else if (in.op == X86_I_JCC || in.op == X86_I_LOOP || in.op == X86_I_LOOPE || in.op == X86_I_LOOPNE ||
                 in.op == X86_I_JCXZ) {
            if (!dead(c, (pc + in.imm) & mask, flags, budget))
                return false;
        } else if (in.row->attr & X86_A_ENDS && !translated_sys(&in))
            return false;
    }
    return !flags;
}

static bool is_dead(struct dbt_cpu *c, uint64_t pc, uint32_t flags)
{
    struct dbt_lockstep *l = c->dbt->lockstep;
    uint64_t killed = c->dbt->cache.stat.invalidated, i = (pc ^ pc >> 12) % KNOWN;
    unsigned budget = LOOK;

    if (l->known[i].pc != pc || l->known[i].cr3 != c->cpu->cr3 || l->known[i].killed != killed ||
        l->known[i].flags != flags) {
        l->known[i].pc = pc;
        l->known[i].cr3 = c->cpu->cr3;
        l->known[i].killed = killed;
        l->known[i].flags = flags;
        l->known[i].dead = dead(c, pc, flags, &budget);
    }
    return l->known[i].dead;
}

/* ---- comparing ---- */

static void cmp64(struct strbuf *s, const char *what, uint64_t a, uint64_t b)
{
    if (a != b)
        str_addf(s, "  %-8s interpreter %016" PRIx64 ", translated %016" PRIx64 "\n", what, a, b);
}

static void cmp_bytes(struct strbuf *s, const char *what, unsigned n, const void *a, const void *b, unsigned size)
{
    if (!memcmp(a, b, size))
        return;
    str_addf(s, "  %s%u: interpreter", what, n);
    for (unsigned i = size; i-- > 0;)
        str_addf(s, "%s%02x", i % 8 == 7 || i == size - 1 ? " " : "", ((const uint8_t *)a)[i]);
    str_addf(s, ", translated");
    for (unsigned i = size; i-- > 0;)
        str_addf(s, "%s%02x", i % 8 == 7 || i == size - 1 ? " " : "", ((const uint8_t *)b)[i]);
    str_addf(s, "\n");
}

static void cmp_fpu(struct strbuf *s, const struct x86_cpu *a, const struct x86_cpu *b, bool wide)
{
    cmp64(s, "fcw", a->fx.fcw, b->fx.fcw);
    cmp64(s, "fsw", a->fx.fsw, b->fx.fsw);
    cmp64(s, "ftw", a->fx.ftw, b->fx.ftw);
    cmp64(s, "mxcsr", a->fx.mxcsr, b->fx.mxcsr);
    for (unsigned i = 0; i < 8; i++)
        cmp_bytes(s, "st", i, a->fx.st[i], b->fx.st[i], 10);
    for (unsigned i = 0; i < (wide ? 32 : 16); i++)
        cmp_bytes(s, wide ? "zmm" : "ymm", i, a->v[i].b, b->v[i].b, wide ? 64 : 32);
    for (unsigned i = 0; wide && i < 8; i++)
        cmp_bytes(s, "k", i, &a->k[i], &b->k[i], 8);
}

static void cmp_sys(struct strbuf *s, const struct x86_cpu *a, const struct x86_cpu *b)
{
    for (unsigned i = 0; i < X86_NR_SEG; i++)
        if (a->seg[i].sel != b->seg[i].sel || a->seg[i].base != b->seg[i].base || a->seg[i].limit != b->seg[i].limit ||
            a->seg[i].flags != b->seg[i].flags)
            str_addf(
                s, "  segment %u: interpreter %x base %" PRIx64 " flags %x, translated %x base %" PRIx64 " flags %x\n",
                i, a->seg[i].sel, a->seg[i].base, a->seg[i].flags, b->seg[i].sel, b->seg[i].base, b->seg[i].flags);
    cmp64(s, "cr0", a->cr0, b->cr0);
    cmp64(s, "cr2", a->cr2, b->cr2);
    cmp64(s, "cr3", a->cr3, b->cr3);
    cmp64(s, "cr4", a->cr4, b->cr4);
    cmp64(s, "efer", a->efer, b->efer);
    cmp64(s, "kgsbase", a->kernel_gs_base, b->kernel_gs_base);
    cmp64(s, "pkru", a->pkru, b->pkru);
    cmp64(s, "cpl", a->cpl, b->cpl);
    cmp64(s, "mode", a->mode, b->mode);
}

/* Adds what differs to s. */
static void compare(struct dbt_cpu *c, struct strbuf *s, bool fault)
{
    static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    struct dbt_lockstep *l = c->dbt->lockstep;
    const struct x86_cpu *a = &l->interp, *b = &l->jit;
    uint64_t differ = a->rflags ^ b->rflags, off;
    uint8_t want, have;

    for (unsigned i = 0; i < 16; i++)
        cmp64(s, name[i], a->regs[i], b->regs[i]);
    cmp64(s, "rip", a->rip, b->rip);
    differ &= ~(uint64_t)x86_trial_undefined(c->cpu);
    if (differ && !(differ & ~(uint64_t)X86_ARITH) && is_dead(c, b->rip, (uint32_t)differ)) {
        l->n.dead++;
        l->n.dead_fault += fault;
    } else if (differ) {
        cmp64(s, "rflags", a->rflags, b->rflags);
    }
    if (l->nr_pieces > CORE)
        cmp_fpu(s, a, b, l->nr_pieces > NARROW);
    cmp_sys(s, a, b);
    if (x86_trial_differs(c->cpu, &off, &want, &have))
        str_addf(s, "  memory at RAM offset %#" PRIx64 ": interpreter %02x, translated %02x\n", off, want, have);
}

static bool same(const struct dbt_lockstep *l)
{
    for (unsigned i = 0; i < l->nr_pieces; i++)
        if (memcmp((const uint8_t *)&l->interp + pieces[i].at, (const uint8_t *)&l->jit + pieces[i].at, pieces[i].len))
            return false;
    return true;
}

/* ---- reporting ---- */

static void dump(struct dbt_cpu *c, struct strbuf *s, const struct jit_block *b)
{
    const struct x86_cpu *r = &c->dbt->lockstep->before;
    const struct dbt_xtlb *x = dbt_exec_page(c, r->rip);
    unsigned off = (unsigned)(r->rip & 4095), at = 0;

    for (unsigned i = 0; x && i < b->nr_insn && off + at < 4096; i++) {
        struct x86_insn in;
        char text[96];

        if (x86_decode(x->host + off + at, 4096 - off - at, r->mode, &in) != X86_DECODE_OK)
            break;
        str_addf(s, "    %016" PRIx64 "  %s\n", r->rip + at, x86_format(&in, r->rip + at, text, sizeof text));
        at += in.len;
    }
    str_addf(s, "  before:");
    for (unsigned i = 0; i < 16; i++)
        str_addf(s, " %016" PRIx64 "%s", r->regs[i], i % 4 == 3 ? "\n         " : "");
    str_addf(s, " rflags %" PRIx64 " cr3 %" PRIx64 " cpl %u\n", r->rflags, r->cr3, r->cpl);
}

static void report(struct dbt_cpu *c, const struct jit_block *b, const char *what, enum x86_trial_end end,
                   unsigned done)
{
    static const char *const ends[] = {"at the bound", "left the block",     "fault",
                                       "device",       "system instruction", "too big"};
    struct dbt_lockstep *l = c->dbt->lockstep;
    struct strbuf s = {0};
    char *text;

    str_addf(&s,
             "lockstep: block at %" PRIx64 " after %" PRIu64
             " blocks that agree (interpreter: %u of %u instructions, %s)\n",
             l->before.rip, l->n.blocks, done, b->nr_insn, ends[end]);
    dump(c, &s, b);
    str_addf(&s, "%s", what);
    text = str_take(&s);
    warn_report("%s", text);
    free(text);
}

/* ---- one block ---- */

/* The interpreter's side, up to bound; memory and registers are as before afterwards. */
static enum x86_trial_end trial(struct dbt_cpu *c, const struct x86_trial_bound *bound, unsigned *done)
{
    struct dbt_lockstep *l = c->dbt->lockstep;
    enum x86_trial_end end = x86_trial_run(c->cpu, bound, done);

    save(l, &l->interp, c->cpu);
    x86_trial_undo(c->cpu);
    load(l, c->cpu);
    return end;
}

static struct jit_block *find(struct dbt_cpu *c, unsigned *mode, struct x86_ctx **x)
{
    struct dbt_lockstep *l = c->dbt->lockstep;
    struct jit_block *b;

    *mode = dbt_mode(c);
    *x = dbt_pick_ctx(c, *mode);
    if (l->split && l->split_rip == c->cpu->rip)
        *mode |= X86_RWM_SPLIT;
    b = *x ? dbt_block_for(c, c->cpu->rip, *mode, NULL) : NULL;
    return b && b->host ? b : NULL;
}

/* Has the trial stopped where translated code did? */
static bool met(const struct dbt_lockstep *l, enum x86_trial_end end, const struct x86_trial_bound *b, bool before)
{
    bool stands = end == X86_TRIAL_FAULT || end == X86_TRIAL_DEVICE || end == X86_TRIAL_OTHER;

    if (l->interp.rip != l->jit.rip)
        return false;
    return stands ? before : b->to_rip || !before;
}

/* Has this block been compared often enough to be let through this time? */
static bool skip(struct dbt_lockstep *l, uint64_t pc)
{
    uint16_t *n = &l->count[(pc ^ pc >> 16) & 0xffff];

    if (!l->sample || l->split)
        return false;
    if (*n < OFTEN) {
        ++*n;
        return false;
    }
    return ++l->turn % l->sample != 0;
}

bool dbt_lockstep_run(struct dbt_cpu *c, bool *interp)
{
    struct dbt_lockstep *l = c->dbt->lockstep;
    struct x86_trial_bound bound = {0};
    struct strbuf s = {0};
    struct jit_block *b;
    enum x86_trial_end end;
    enum dbt_ran ran;
    struct x86_ctx *x;
    unsigned mode, done = 0;
    uint64_t killed;
    bool before, tainted = false;
    RUN_LOCK_SCOPE(c->cpu->vcpu.m->run);

    *interp = true;
    b = find(c, &mode, &x);
    if (!b) {
        l->n.none++;
        return true;
    }
    if (skip(l, c->cpu->rip)) {
        l->n.skipped++;
        ran = dbt_run_at(c, x, mode, b->host + b->entry);
        l->split = ran == DBT_RAN_SPLIT;
        l->split_rip = c->cpu->rip;
        *interp = ran == DBT_RAN_INTERP;
        return true;
    }
    l->nr_pieces = !(x86_trial_attrs(c->cpu, b->nr_insn) & FLOATS) ? CORE : c->cpu->wide ? ARRAY_LEN(pieces) : NARROW;
    save(l, &l->before, c->cpu);
    for (unsigned i = 0;; i++) {
        bound.max = b->nr_insn;
        killed = c->dbt->cache.stat.invalidated;
        end = trial(c, &bound, &done);
        if (killed != c->dbt->cache.stat.invalidated || c->switch_ctx)
            b = find(c, &mode, &x); /* what the trial and its undoing wrote was code, or it went through other modes */
        if (!b) {
            l->n.none++;
            return true;
        }
        ran = dbt_run_at(c, x, mode, b->host + b->entry);
        save(l, &l->jit, c->cpu);
        before = ran != DBT_RAN;
        s.len = 0;
        if (end == X86_TRIAL_BIG)
            break;
        if (met(l, end, &bound, before)) {
            if (!same(l) || x86_trial_writes(c->cpu))
                compare(c, &s, end == X86_TRIAL_FAULT);
            if (!s.len)
                break;
        } else {
            str_addf(&s, "  rip      interpreter %016" PRIx64 ", translated %016" PRIx64 " (%u)\n", l->interp.rip,
                     l->jit.rip, (unsigned)ran);
        }
        tainted |= x86_trial_tainted(c->cpu);
        if (i == TRIES && tainted) { /* undefined flags were looked at: this CPU and the interpreter need not agree */
            l->n.tainted++;
            break;
        }
        if (i == TRIES) {
            report(c, b, s.s, end, done);
            str_free(&s);
            return false;
        }
        /* Stopped elsewhere, or memory changed meanwhile: again, to where it stopped. A poll may stand before or after.
         * Once as at first: a block that jumps into its own middle passes there more often than it stops. */
        l->n.again++;
        bound = (struct x86_trial_bound){
            .to_rip = i != 2, .before = before != (i & 1 && i > 1), .rip = l->jit.rip, .rcx = l->jit.regs[X86_RCX]};
        x86_trial_restore(c->cpu);
        load(l, c->cpu);
        b = find(c, &mode, &x);
        if (!b) {
            l->n.none++;
            return true;
        }
    }
    l->split = ran == DBT_RAN_SPLIT;
    l->split_rip = c->cpu->rip;
    l->n.blocks++;
    l->n.insns += done;
    l->n.writes += x86_trial_writes(c->cpu);
    l->n.big += end == X86_TRIAL_BIG;
    *interp = ran == DBT_RAN_INTERP;
    str_free(&s);
    return true;
}

void dbt_lockstep_info(const struct dbt *d, struct strbuf *s)
{
    const struct dbt_lockstep *l = d->lockstep;

    str_addf(s,
             "Lockstep: %" PRIu64 " blocks agree, %" PRIu64 " instructions, %" PRIu64 " writes; run again %" PRIu64
             ", hung on undefined flags %" PRIu64 ", not compared %" PRIu64 ", without code %" PRIu64
             ", too big %" PRIu64 "; dead flags that differ %" PRIu64 ", %" PRIu64 " at faults\n",
             l->n.blocks, l->n.insns, l->n.writes, l->n.again, l->n.tainted, l->n.skipped, l->n.none, l->n.big,
             l->n.dead, l->n.dead_fault);
}
