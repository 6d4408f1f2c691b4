/* x86diff [--count N] [--seed S] [--op NAME] [--verbose]: every row of insn.def, N random instances of each, on the host CPU and
 * through the interpreter; registers, flags, vectors, x87, memory and faults must agree. Prints a line per disagreement and
 * the coverage of the table. Exit status 1 when anything differed.
 *
 * Compared under what the manuals define: undefined flags (gen.c), x87 pointers, and the bytes an instruction leaves
 * unspecified are masked. Runs 64-bit user mode. proves: issue item 4 of the engine (differential tester) */
#include "diff.h"

#include "base/bytes.h"
#include "cpu/cpu.h"
#include "dev/machine.h"
#include "guest/x86/ops.h"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PT_AT = WIN_BASE + WIN_SIZE, RAM_SIZE = 4 << 20 };

struct diff {
    struct machine *m;
    struct x86_cpu *c;
    struct mem_region ram;
    struct mem_ram *block;
    struct rng rng;
    uint64_t runs, bad, faults, tries;
    unsigned rows_run, rows_skipped, rows_failed;
    uint32_t mxcsr_mask;
    bool verbose;
};

/* ---- the guest side ---- */

static void put_pte(struct diff *d, uint64_t at, uint64_t val)
{
    put_le64(d->block->host + (at - WIN_BASE), val);
}

/* Long mode, user level; the window is mapped 1:1 by 4 KiB pages, everything else is not. */
static void build_tables(struct diff *d)
{
    uint64_t pml4 = PT_AT, pdpt = PT_AT + 0x1000, pd = PT_AT + 0x2000, pt = PT_AT + 0x3000;

    put_pte(d, pml4, pdpt | 7);
    put_pte(d, pdpt, pd | 7);
    put_pte(d, pd + (WIN_BASE >> 21) * 8, pt | 7);
    for (unsigned i = 0; i < 512; i++)
        put_pte(d, pt + i * 8, (WIN_BASE + i * 0x1000) | 0x67);
}

static void set_seg(struct x86_cpu *c, int s, uint16_t sel, uint32_t flags)
{
    c->seg[s] = (struct x86_seg){.sel = sel, .base = 0, .limit = UINT32_MAX, .flags = flags};
}

static void enter_user_mode(struct diff *d)
{
    struct x86_cpu *c = d->c;
    uint32_t data = X86_SEG_P | X86_SEG_S | 3u << X86_SEG_DPL_SHIFT | X86_SEG_W | X86_SEG_A | X86_SEG_G | X86_SEG_DB;

    c->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    c->cr3 = PT_AT;
    c->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    c->xcr0 = 7;
    set_seg(c, X86_CS, 0x33, X86_SEG_P | X86_SEG_S | 3u << X86_SEG_DPL_SHIFT | X86_SEG_CODE | X86_SEG_R | X86_SEG_A | X86_SEG_G | X86_SEG_L);
    set_seg(c, X86_SS, 0x2b, data);
    for (int s = X86_DS; s <= X86_GS; s++)
        set_seg(c, s, 0, data);
    set_seg(c, X86_ES, 0, data);
    c->rflags = 0x202;
    x86_update_mode(c);
}

static void regs_to_cpu(struct diff *d, const struct dregs *r)
{
    struct x86_cpu *c = d->c;

    memcpy(c->regs, r->gpr, sizeof c->regs);
    c->rflags = r->flags;
    c->rip = CODE_AT;
    memcpy(&c->fx, r->xs, 160);
    c->fx.mxcsr_mask = d->mxcsr_mask;
    for (unsigned i = 0; i < 16; i++) {
        memset(c->v[i].b, 0, 64);
        memcpy(c->v[i].b, r->xs + 160 + 16 * i, 16);
        memcpy(c->v[i].b + 16, r->xs + 576 + 16 * i, 16);
    }
}

static void cpu_to_regs(struct diff *d, struct dregs *r)
{
    struct x86_cpu *c = d->c;

    memset(r, 0, sizeof *r);
    if (c->x87_live)
        x86_x87_sync(c);
    memcpy(r->gpr, c->regs, sizeof r->gpr);
    r->flags = c->rflags;
    r->vec = -1;
    memcpy(r->xs, &c->fx, 160);
    put_le64(r->xs + 512, 7);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(r->xs + 160 + 16 * i, c->v[i].b, 16);
        memcpy(r->xs + 576 + 16 * i, c->v[i].b + 16, 16);
    }
}

static void guest_run(struct diff *d, const struct x86_insn *in, const struct dregs *before, struct dregs *after)
{
    struct x86_cpu *c = d->c;
    sigjmp_buf jmp;
    volatile int vec = -1;

    regs_to_cpu(d, before);
    c->fault_jmp = &jmp;
    if (sigsetjmp(jmp, 0) == 0)
        x86_exec(c, in);
    else
        vec = c->exc.vec;
    c->fault_jmp = NULL;
    cpu_to_regs(d, after);
    after->vec = vec;
    if (vec == X86_PGF) {
        after->err = c->exc.err & 7;
        after->cr2 = c->exc.cr2;
    }
}

/* ---- comparing ---- */

/* Native images: parts in their initial state may be stale; the pointers differ by design. */
static void normalise(struct dregs *r)
{
    uint64_t bv = get_le64(r->xs + 512);

    if (!(bv & 1)) {
        memset(r->xs, 0, 24);
        put_le16(r->xs, 0x37f);
        memset(r->xs + 32, 0, 128);
    }
    if (!(bv & 2))
        memset(r->xs + 160, 0, 256);
    if (!(bv & 4))
        memset(r->xs + 576, 0, 256);
    memset(r->xs + 5, 0, 19); /* FOP, FIP, FDP */
    memset(r->xs + 28, 0, 4);
    for (unsigned i = 0; i < 8; i++)
        memset(r->xs + 32 + 16 * i + 10, 0, 6);
}

static bool is_fpu_env(const struct x86_insn *in)
{
    const char *m = in->row->mnem;

    return strcmp(m, "fnstenv") == 0 || strcmp(m, "fnsave") == 0 || strcmp(m, "fldenv") == 0 || strcmp(m, "frstor") == 0;
}

static const char *first_difference(struct diff *d, const struct x86_insn *in, const struct dregs *before, struct dregs *a,
                                    struct dregs *b, char *buf, size_t n)
{
    uint64_t fmask = (X86_ARITH | X86_DF) & ~gen_undefined(in, before);
    static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

    if (a->vec != b->vec) {
        snprintf(buf, n, "fault: cpu %d, ours %d", a->vec, b->vec);
        return buf;
    }
    if (is_fpu_env(in)) { /* written in pieces of the processor's choice */
        a->cr2 &= ~UINT64_C(0xfff);
        b->cr2 &= ~UINT64_C(0xfff);
    }
    if (a->vec == X86_PGF && (a->err != b->err || a->cr2 != b->cr2)) {
        snprintf(buf, n, "#PF: cpu err %u cr2 %#" PRIx64 ", ours err %u cr2 %#" PRIx64, a->err, a->cr2, b->err, b->cr2);
        return buf;
    }
    for (unsigned i = 0; i < 16; i++)
        if (a->gpr[i] != b->gpr[i]) {
            snprintf(buf, n, "%s: cpu %#" PRIx64 ", ours %#" PRIx64, name[i], a->gpr[i], b->gpr[i]);
            return buf;
        }
    if ((a->flags ^ b->flags) & fmask && a->vec < 0) {
        snprintf(buf, n, "flags: cpu %#" PRIx64 ", ours %#" PRIx64 " (of %#" PRIx64 ")", a->flags & fmask, b->flags & fmask, fmask);
        return buf;
    }
    normalise(a);
    normalise(b);
    if (a->vec == X86_XM && get_le32(b->xs + 24) & 0x18) /* simd.c: PE beside an unmasked UE or OE */
        a->xs[24] |= b->xs[24] & 0x20;
    if (a->vec == X86_XM && strncmp(in->row->mnem + (in->row->mnem[0] == 'v'), "dpp", 3) == 0)
        memcpy(a->xs + 24, b->xs + 24, 1); /* simd.c: its steps fault one after the other */
    for (unsigned i = 0; i < XS_SIZE; i++)
        if (a->xs[i] != b->xs[i] && (i < 416 || i >= 576)) {
            unsigned at = i < 32 ? i & ~1u : i & ~15u;

            snprintf(buf, n, "xsave image byte %u (from %u): cpu %016" PRIx64 "%016" PRIx64 ", ours %016" PRIx64 "%016" PRIx64, i, at,
                     get_le64(a->xs + at + 8), get_le64(a->xs + at), get_le64(b->xs + at + 8), get_le64(b->xs + at));
            return buf;
        }
    return NULL;
}

static const char *memory_difference(const uint8_t *a, const uint8_t *b, const struct x86_insn *in, uint64_t lin, char *buf, size_t n)
{
    for (unsigned i = 0; i < DATA_SIZE; i++) {
        if (a[i] == b[i])
            continue;
        if (is_fpu_env(in) && i >= lin - DATA_AT + (in->opsz == 2 ? 6 : 12) && i < lin - DATA_AT + (in->opsz == 2 ? 14 : 28))
            continue;
        snprintf(buf, n, "memory at data+%#x: cpu %02x, ours %02x", i, a[i], b[i]);
        return buf;
    }
    return NULL;
}

static void complain(struct diff *d, const struct x86_insn *in, const struct dregs *before, const char *what)
{
    char text[128];

    d->bad++;
    printf("DIFF %s:", x86_format(in, CODE_AT, text, sizeof text));
    for (unsigned i = 0; i < in->len; i++)
        printf(" %02x", in->bytes[i]);
    printf(" | %s | mxcsr %x fcw %x fsw %x flags %" PRIx64 "\n", what, get_le32(before->xs + 24), get_le16(before->xs),
           get_le16(before->xs + 2), before->flags);
}

/* One instance. False when it could not be made. */
static bool one(struct diff *d, const struct drow *row, struct x86_insn *in, bool *failed)
{
    static uint8_t data[DATA_SIZE], native_mem[DATA_SIZE], guest_mem[DATA_SIZE];
    static struct dregs before, cpu, ours;
    uint8_t *win = (uint8_t *)(uintptr_t)DATA_AT, *tail = (uint8_t *)(uintptr_t)(WIN_END - 0x1000);
    const char *what;
    char buf[256];

    if (!gen_regs(&d->rng, in, &before, data))
        return false;
    memcpy(win, data, DATA_SIZE);
    memset(tail, 0x5a, 0x1000);
    native_run(in->bytes, in->len, &before, &cpu);
    memcpy(native_mem, win, DATA_SIZE);
    memcpy(win, data, DATA_SIZE);
    memset(tail, 0x5a, 0x1000);
    guest_run(d, in, &before, &ours);
    memcpy(guest_mem, win, DATA_SIZE);
    d->runs++;
    d->faults += cpu.vec >= 0;
    what = first_difference(d, in, &before, &cpu, &ours, buf, sizeof buf);
    if (!what)
        what = memory_difference(native_mem, guest_mem, in, d->c->fx.fdp, buf, sizeof buf);
    if (what) {
        if (!*failed || d->verbose)
            complain(d, in, &before, what);
        else
            d->bad++;
        *failed = true;
    }
    return true;
}

static void run_row(struct diff *d, const struct drow *row, unsigned count)
{
    struct x86_insn in;
    const char *skip = NULL;
    unsigned done = 0;
    bool failed = false;

    for (unsigned t = 0; done < count && t < count * 40 + 400; t++) {
        d->tries++;
        if (!gen_insn(&d->rng, row, &in))
            continue;
        skip = gen_skip(&in);
        if (skip || !x86_has(&d->c->feat, in.row->feature))
            continue;
        done += one(d, row, &in, &failed);
    }
    if (done)
        d->rows_run++;
    else
        d->rows_skipped++;
    d->rows_failed += failed;
    if (!done && d->verbose)
        printf("skip %s %#x: %s\n", row->name, row->opcode, skip ? skip : "no instance or no feature");
}

/* ---- set-up ---- */

static bool set_up(struct diff *d)
{
    struct err *e = NULL;
    struct run *run = run_new();
    struct x86_features host;
    int fd;

    d->m = machine_new(run);
    fd = memfd_create("x86diff", 0);
    if (fd < 0 || ftruncate(fd, RAM_SIZE))
        return false;
    d->block = mem_ram_new_fd(d->m->mem_sys, "diff.ram", RAM_SIZE, fd, 0, true, false, &e);
    if (!d->block) {
        err_report(e);
        return false;
    }
    mem_region_init_ram_from(&d->ram, d->m->mem_sys, "diff.ram", d->block);
    mem_region_add(&d->m->sysmem, WIN_BASE, &d->ram);
    if (!native_init(fd)) {
        fprintf(stderr, "x86diff: cannot share guest memory with the host's run\n");
        return false;
    }
    d->c = x86_cpu_new(d->m, &e);
    if (!d->c) {
        err_report(e);
        return false;
    }
    x86_features_max(&d->c->feat);
    x86_features_host(&host);
    d->mxcsr_mask = 0xffff | (host.w[X86_FW_80000001_ECX] >> 7 & 1) << 17;
    build_tables(d);
    enter_user_mode(d);
    return true;
}

static const char *value(int argc, char **argv, int *i)
{
    return *i + 1 < argc ? argv[++*i] : "";
}

int main(int argc, char **argv)
{
    static struct diff d;
    unsigned count = 20;
    const char *only = NULL;

    d.rng.s = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--count") == 0)
            count = (unsigned)strtoul(value(argc, argv, &i), NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0)
            d.rng.s = strtoull(value(argc, argv, &i), NULL, 0);
        else if (strcmp(argv[i], "--op") == 0)
            only = value(argc, argv, &i);
        else if (strcmp(argv[i], "--verbose") == 0)
            d.verbose = true;
        else
            return fprintf(stderr, "usage: x86diff [--count N] [--seed S] [--op NAME] [--verbose]\n"), 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!set_up(&d))
        return 2;
    for (unsigned i = 0; i < nr_drows; i++)
        if (!only || strcmp(only, drows[i].name) == 0)
            run_row(&d, &drows[i], count);
    printf("rows: %u run, %u not run in user mode or not offered, %u with differences; %" PRIu64 " instructions, %" PRIu64
           " faulted on the CPU, %" PRIu64 " differences\n",
           d.rows_run, d.rows_skipped, d.rows_failed, d.runs, d.faults, d.bad);
    return d.bad ? 1 : 0;
}
