/* x86diff [--count N | --total N] [--seed S] [--op NAME] [--mode 32|64] [--engine E] [--verbose]: every row of
 * insn.def, N random instances of each, on the host CPU and through one of our engines; registers, flags, vectors, x87,
 * memory and faults must agree. Prints a line per disagreement and the coverage of the table: which of the forms that
 * can be encoded (row, operand size, address size, register or memory, LOCK, repeat, vector length) have run, and why
 * others have not. --total spreads N instances over the rows. Exit status 1 when anything differed.
 *
 * Compared under what the manuals define: undefined flags (gen.c), x87 pointers, and the bytes an instruction leaves
 * unspecified are masked. Runs 64-bit or 32-bit (compatibility) user mode. proves: issue item 4 of the engine
 * (differential tester) */
#include "diff.h"

#include "base/bytes.h"
#include "guest/x86/ops.h"
#include <stdio.h>
#include <unistd.h>

enum { FORM_BITS = 24, ROW_SHIFT = 12, NR_REASONS = 16 };
struct forms {
    uint64_t can[1 << (FORM_BITS - 6)], ran[1 << (FORM_BITS - 6)];
    unsigned nr_can, nr_ran;
};

struct diff {
    struct forms forms;
    struct {
        const char *why;
        unsigned rows;
    } reason[NR_REASONS];
    uint64_t crossed;
    struct guest *g;
    struct rng rng;
    uint64_t runs, bad, faults, tries;
    unsigned rows_run, rows_skipped, rows_failed;
    int mode;
    bool verbose;
};

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

static bool pushes_many(const struct x86_insn *in)
{
    return strncmp(in->row->mnem, "pusha", 5) == 0 || strncmp(in->row->mnem, "popa", 4) == 0;
}

/* MASKMOVDQU, MASKMOVQ with a mask of zeros write nothing: whether the segment is checked then is the maker's choice
 * (SDM). MMn is the physical register n, the image is in the order of the stack. */
static bool masks_all(const struct x86_insn *in, const struct dregs *before)
{
    unsigned st = ((in->modrm & 7u) - (get_le16(before->xs + 2) >> 11 & 7u)) & 7;
    const uint8_t *mm = before->xs + 32 + 16 * st, *xmm = before->xs + 160 + 16 * (in->modrm & 7);
    const uint64_t tops = UINT64_C(0x8080808080808080);

    if (strcmp(in->row->mnem, "maskmovq") == 0)
        return !(get_le64(mm) & tops);
    return strcmp(in->row->mnem, "maskmovdqu") == 0 && !(in->rex & 1) && !((get_le64(xmm) | get_le64(xmm + 8)) & tops);
}

static bool is_fpu_env(const struct x86_insn *in)
{
    const char *m = in->row->mnem;

    return strcmp(m, "fnstenv") == 0 || strcmp(m, "fnsave") == 0 || strcmp(m, "fldenv") == 0 ||
           strcmp(m, "frstor") == 0;
}

static const char *first_difference(struct diff *d, const struct x86_insn *in, const struct dregs *before,
                                    struct dregs *a, struct dregs *b, char *buf, size_t n)
{
    uint64_t fmask = (X86_ARITH | X86_DF) & ~gen_undefined(in, before);
    static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

    if (in->op == X86_I_MOVSXD && in->opsz == 2 && a->vec == X86_PGF && b->vec < 0)
        return NULL; /* with 16 bits: SDM vol. 2 reads two bytes, AMD's processors read four */
    if (a->vec == X86_GP && b->vec == X86_VEC_SS &&
        (in->row->attr & (X86_A_SSE | X86_A_AVX) || in->op == X86_I_CMPXCHG16B))
        return NULL; /* misaligned and not canonical, by way of the stack segment: which is told is the maker's choice
                      */
    if (a->vec == X86_GP && b->vec < 0 && masks_all(in, before))
        return NULL;
    if (a->vec != b->vec) {
        snprintf(buf, n, "fault: cpu %d, ours %d", a->vec, b->vec);
        return buf;
    }
    if (a->vec == X86_PGF &&
        (a->cr2 < WIN_BASE || a->cr2 >= WIN_END + 0x1000)) /* what lies there is the host's affair */
        a->err = (a->err & ~1u) | (b->err & 1);
    if (a->vec == X86_PGF && pushes_many(in)) /* the order of its accesses is the processor's choice */
        return NULL;
    if (is_fpu_env(in)) { /* written in pieces of the processor's choice */
        a->cr2 &= ~UINT64_C(0xfff);
        b->cr2 &= ~UINT64_C(0xfff);
    }
    if (a->vec == X86_PGF && (a->err != b->err || a->cr2 != b->cr2)) {
        snprintf(buf, n, "#PF: cpu err %u cr2 %#" PRIx64 ", ours err %u cr2 %#" PRIx64, a->err, a->cr2, b->err, b->cr2);
        return buf;
    }
    for (unsigned i = 0; i < (d->mode == X86_MODE_64 ? 16 : 8); i++)
        if (d->mode == X86_MODE_64 ? a->gpr[i] != b->gpr[i] : (uint32_t)(a->gpr[i] ^ b->gpr[i])) {
            snprintf(buf, n, "%s: cpu %#" PRIx64 ", ours %#" PRIx64, name[i], a->gpr[i], b->gpr[i]);
            return buf;
        }
    if ((a->flags ^ b->flags) & fmask && a->vec < 0) {
        snprintf(buf, n, "flags: cpu %#" PRIx64 ", ours %#" PRIx64 " (of %#" PRIx64 ")", a->flags & fmask,
                 b->flags & fmask, fmask);
        return buf;
    }
    normalise(a);
    normalise(b);
    if (a->vec == X86_XM && get_le32(b->xs + 24) & 0x18) /* simd.c: PE beside an unmasked UE or OE */
        a->xs[24] |= b->xs[24] & 0x20;
    if (a->vec == X86_XM && strncmp(in->row->mnem + (in->row->mnem[0] == 'v'), "dpp", 3) == 0)
        memcpy(a->xs + 24, b->xs + 24, 1);                     /* simd.c: its steps fault one after the other */
    if (a->vec >= 0 && strcmp(in->row->mnem, "maskmovq") == 0) /* whether TOP is already 0 then */
        return NULL;
    if (memcmp(a->xs, b->xs, 416) == 0 && memcmp(a->xs + 576, b->xs + 576, XS_SIZE - 576) == 0)
        return wide_difference(a, b, buf, n);
    for (unsigned i = 0; i < XS_SIZE; i++)
        if (a->xs[i] != b->xs[i] && (i < 416 || i >= 576)) {
            unsigned at = i < 32 ? i & ~1u : i & ~15u;

            snprintf(buf, n,
                     "xsave image byte %u (from %u): cpu %016" PRIx64 "%016" PRIx64 ", ours %016" PRIx64 "%016" PRIx64,
                     i, at, get_le64(a->xs + at + 8), get_le64(a->xs + at), get_le64(b->xs + at + 8),
                     get_le64(b->xs + at));
            return buf;
        }
    return NULL;
}

static uint64_t operand_at(const struct x86_insn *in, const struct dregs *r)
{
    uint64_t a = (uint64_t)in->disp;

    if (in->base == X86_REG_RIP)
        a += CODE_AT + in->len;
    else if (in->base != X86_NO_REG)
        a += r->gpr[in->base & 15];
    if (in->index != X86_NO_REG)
        a += r->gpr[in->index & 15] * in->scale;
    return in->adsz == 4 ? (uint32_t)a : a;
}

static const char *memory_difference(const uint8_t *a, const uint8_t *b, const struct x86_insn *in, uint64_t lin,
                                     char *buf, size_t n)
{
    unsigned off = (unsigned)(lin - DATA_AT);

    if (memcmp(a, b, DATA_SIZE) == 0)
        return NULL;
    for (unsigned i = 0; i < DATA_SIZE; i++) {
        if (a[i] == b[i])
            continue;
        if (is_fpu_env(in) && i >= lin - DATA_AT + (in->opsz == 2 ? 6 : 12) &&
            i < lin - DATA_AT + (in->opsz == 2 ? 14 : 28))
            continue;
        if (gen_is_xstate(in) && i - off >= 5 && i - off < 24) /* FOP, FIP, FDP */
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
static bool one(struct diff *d, struct x86_insn *in, uint8_t *data, bool *failed)
{
    static uint8_t native_mem[DATA_SIZE], guest_mem[DATA_SIZE], native_tail[128];
    static struct dregs before, cpu, ours;
    uint8_t *win = (uint8_t *)(uintptr_t)DATA_AT, *tail = (uint8_t *)(uintptr_t)(WIN_END - 0x1000);
    const char *what;
    char buf[256];

    if (!gen_regs(&d->rng, in, d->mode, &before, data))
        return false;
    memcpy(win, data, DATA_SIZE);
    memset(tail, 0x5a, 0x1000);
    __asm__ volatile(""
                     :
                     : "r"(*(volatile uint8_t *)(uintptr_t)RO_AT)); /* present, or the fault would not say "right" */
    native_run(in, d->mode, &before, &cpu);
    memcpy(native_mem, win, DATA_SIZE);
    memcpy(native_tail, tail + 0x1000 - sizeof native_tail, sizeof native_tail);
    memcpy(win, data, DATA_SIZE);
    memset(tail, 0x5a, 0x1000);
    guest_run(d->g, in, &before, &ours);
    memcpy(guest_mem, win, DATA_SIZE);
    d->runs++;
    d->faults += cpu.vec >= 0;
    what = first_difference(d, in, &before, &cpu, &ours, buf, sizeof buf);
    if (!what && !(cpu.vec == X86_PGF && pushes_many(in)))
        what = memory_difference(native_mem, guest_mem, in, operand_at(in, &before), buf, sizeof buf);
    if (!what && !pushes_many(in) && memcmp(native_tail, tail + 0x1000 - sizeof native_tail, sizeof native_tail))
        what = "memory before the page that is not there";
    if (in->mem_op >= 0 && in->mem_size > 1)
        d->crossed += (operand_at(in, &before) & 4095) + in->mem_size > 4096;
    if (what) {
        if (!*failed || d->verbose)
            complain(d, in, &before, what);
        else
            d->bad++;
        *failed = true;
    }
    return true;
}

/* ---- coverage ---- */

static uint32_t form_of(const struct drow *row, const struct x86_insn *in)
{
    uint32_t f = (uint32_t)(row - drows);

    f = f << 2 | (in->opsz == 2 ? 0 : in->opsz == 4 ? 1 : 2);
    f = f << 1 | (in->mem_op >= 0);
    f = f << 1 | (in->mem_op >= 0 && in->adsize_pfx);
    f = f << 1 | in->lock;
    f = f << 2 | (in->rep == 0xf3 ? 1 : in->rep == 0xf2 ? 2 : 0);
    f = f << 2 | (in->evex_aaa ? 1 + in->evex_z : 0);
    f = f << 1 | in->evex_b;
    return f << 2 | (in->vl == 64 ? 3 : in->vl == 32 ? 2 : in->vl == 16);
}

static bool mark(uint64_t *set, uint32_t f)
{
    bool is_new = !(set[f / 64] >> (f % 64) & 1);

    set[f / 64] |= UINT64_C(1) << (f % 64);
    return is_new;
}

/* What can be encoded at all, found by trying. */
static void survey(struct diff *d, const struct drow *row)
{
    struct x86_insn in;

    for (unsigned t = 0; t < 1500; t++)
        if (gen_insn(&d->rng, row, d->mode, &in) && !gen_skip(&in) && guest_has(d->g, &in) &&
            (in.adsz > 2 || in.mem_op < 0)) /* 16-bit addresses do not reach the window */
            d->forms.nr_can += mark(d->forms.can, form_of(row, &in));
}

static void note_skip(struct diff *d, const char *why)
{
    for (unsigned i = 0; i < NR_REASONS; i++) {
        if (!d->reason[i].why)
            d->reason[i].why = why;
        if (strcmp(d->reason[i].why, why) == 0) {
            d->reason[i].rows++;
            return;
        }
    }
}

static void print_coverage(struct diff *d)
{
    unsigned shown = 0;

    printf("coverage: %u of %u rows, %u of %u forms run; %" PRIu64 " operands crossed a page\n", d->rows_run, nr_drows,
           d->forms.nr_ran, d->forms.nr_can, d->crossed);
    for (unsigned i = 0; i < NR_REASONS && d->reason[i].why; i++)
        printf("  rows not run: %3u, %s\n", d->reason[i].rows, d->reason[i].why);
    for (uint32_t f = 0; f < UINT32_C(1) << FORM_BITS && d->forms.nr_ran < d->forms.nr_can; f++)
        if ((d->forms.can[f / 64] & ~d->forms.ran[f / 64]) >> (f % 64) & 1 && (shown++ < 10 || d->verbose))
            printf("  form not run: %s %#x, opsz %u, %s%s%s%s%s%s vl %u\n", drows[f >> ROW_SHIFT].name,
                   drows[f >> ROW_SHIFT].opcode, 2u << (f >> 10 & 3), f >> 9 & 1 ? "memory" : "register",
                   f >> 8 & 1 ? ", address size" : "", f >> 7 & 1 ? ", lock" : "", f >> 5 & 3 ? ", repeat" : "",
                   f >> 3 & 3 ? (f >> 3 & 2 ? ", zeroing mask" : ", mask") : "",
                   f >> 2 & 1 ? ", broadcast or rounding" : "", f & 3 ? 8u << (f & 3) : 0);
}

static void run_row(struct diff *d, const struct drow *row, unsigned count)
{
    static uint8_t data[DATA_SIZE];
    struct x86_insn in;
    const char *skip = NULL;
    unsigned done = 0;
    bool failed = false;

    gen_fill(&d->rng, data, DATA_SIZE);
    survey(d, row);
    for (unsigned t = 0; done < count && t < count * 40 + 400; t++) {
        d->tries++;
        if (!gen_insn(&d->rng, row, d->mode, &in))
            continue;
        skip = gen_skip(&in);
        if (skip || !guest_has(d->g, &in))
            continue;
        if (!one(d, &in, data, &failed))
            continue;
        done++;
        mark(d->forms.can, form_of(row, &in)) ? d->forms.nr_can++ : 0;
        d->forms.nr_ran += mark(d->forms.ran, form_of(row, &in));
    }
    if (done)
        d->rows_run++;
    else
        d->rows_skipped++;
    d->rows_failed += failed;
    if (!done)
        note_skip(d, skip ? skip : "no instance in this mode, or not offered by this host");
    if (!done && d->verbose)
        printf("skip %s %#x: %s\n", row->name, row->opcode, skip ? skip : "no instance or no feature");
}

static const char *value(int argc, char **argv, int *i)
{
    return *i + 1 < argc ? argv[++*i] : "";
}

int main(int argc, char **argv)
{
    static struct diff d;
    uint64_t total = 0;
    unsigned count = 20;
    const char *only = NULL, *engine = "exec";
    int fd;

    d.rng.s = 1;
    d.mode = X86_MODE_64;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--count") == 0)
            count = (unsigned)strtoul(value(argc, argv, &i), NULL, 0);
        else if (strcmp(argv[i], "--total") == 0)
            total = strtoull(value(argc, argv, &i), NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0)
            d.rng.s = strtoull(value(argc, argv, &i), NULL, 0);
        else if (strcmp(argv[i], "--op") == 0)
            only = value(argc, argv, &i);
        else if (strcmp(argv[i], "--mode") == 0)
            d.mode = strcmp(value(argc, argv, &i), "32") ? X86_MODE_64 : X86_MODE_32;
        else if (strcmp(argv[i], "--engine") == 0)
            engine = value(argc, argv, &i);
        else if (strcmp(argv[i], "--no-read-only") == 0)
            gen_read_only = false;
        else if (strcmp(argv[i], "--verbose") == 0)
            d.verbose = true;
        else
            return fprintf(stderr,
                           "usage: x86diff [--count N | --total N] [--seed S] [--op NAME] [--mode 32|64] [--engine "
                           "exec|interp|tcg|kvm] [--no-read-only] [--verbose]\n"),
                   2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    d.g = guest_new(engine, d.mode, &fd);
    if (!d.g || !native_init(fd))
        return fprintf(stderr, "x86diff: cannot set up\n"), 2;
#ifdef __SANITIZE_ADDRESS__
    total /= 20; /* the same tests in a build that takes that much longer */
#endif
    if (!diff_wide())
        printf("no AVX-512 here (host or guest): its instructions and registers (zmm, k) are left out\n");
    if (total) /* a seventh of the rows has nothing to run */
        count = (unsigned)(total * 8 / 7 / nr_drows + 1);
    for (unsigned i = 0; i < nr_drows; i++)
        if (!only || strcmp(only, drows[i].name) == 0)
            run_row(&d, &drows[i], count);
    printf("rows: %u run, %u not run in user mode or not offered, %u with differences; %" PRIu64
           " instructions, %" PRIu64 " faulted on the CPU, %" PRIu64 " differences\n",
           d.rows_run, d.rows_skipped, d.rows_failed, d.runs, d.faults, d.bad);
    print_coverage(&d);
    fflush(stdout);
    _exit(d.bad ? 1 : 0); /* the guest is alive to the end: nothing is taken down */
}
