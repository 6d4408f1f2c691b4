/* a64diff [--count N] [--seed S] [--row NAME] [--oracle QEMU] [--engine QEMU2] [--program ORACLE] [--stream]
 * [--coverage]
 *         [-v]
 *
 * --stream: each record is a dozen instructions that share eight registers, without accesses and branches, the last of
 * the row in turn: what blocks do to flags, copies and dead values.
 * Every row of insn.def, N random instances of each: registers, NZCV, FPSR, vectors, memory, faults and their addresses
 * must come out of our interpreter (or, with --engine, of a second user-mode translator) as they come out of the
 * oracle, Debian's qemu-aarch64. Both run the program `oracle` (oracle.c) on the same records. Exit 1 when anything
 * differed, 77 when the oracle is not installed. proves: user mode's exactness (differential tester) */
#include "record.h"

#include "../runner.h"
#include "guest/arm64/cpu.h"
#include "guest/arm64/insn.h"

#include <signal.h>
#include <stdio.h>

struct diff {
    struct runner; /* first */
    unsigned nr, cap;
    struct rec_in *in;
    struct rec_out *ours, *theirs;
    int *row;
    uint32_t *hits, *bad;
};

/* ---- values worth trying ---- */
static uint64_t int_value(struct diff *d)
{
    static const uint64_t pick[] = {0,
                                    1,
                                    2,
                                    0x7f,
                                    0x80,
                                    0xff,
                                    0x7fff,
                                    0x8000,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    INT64_MAX,
                                    (uint64_t)INT64_MIN,
                                    UINT64_MAX,
                                    UINT64_MAX - 1};
    uint64_t r = val_rnd(&d->rng);

    switch (r & 7) {
    case 0:
    case 1:
        return pick[r / 8 % ARRAY_LEN(pick)];
    case 2:
        return r >> 3 & 0x7f;
    case 3:
        return val_rnd(&d->rng) >> (r >> 3 & 63);
    default:
        return val_rnd(&d->rng);
    }
}

static void vec_value(struct diff *d, uint64_t v[2])
{
    unsigned how = (unsigned)(val_rnd(&d->rng) % 5), bits = how == 0 ? 64 : how == 1 ? 32 : 16;

    for (int i = 0; i < 2; i++) {
        v[i] = 0;
        if (how > 2)
            v[i] = how == 3 ? int_value(d) : val_rnd(&d->rng);
        else
            for (unsigned at = 0; at < 64; at += bits)
                v[i] |= val_fp(&d->rng, bits) << at;
    }
}

static uint64_t fpcr_value(struct diff *d)
{
    static const uint32_t bits[] = {A64_FPCR_FZ, A64_FPCR_DN, A64_FPCR_AHP, A64_FPCR_FZ16};
    uint64_t r = val_rnd(&d->rng), v = 0;

    if (r & 3) /* as programs have it, or another rounding mode */
        return r & 12 ? 0 : (r >> 8 & 3) << 22;
    for (unsigned i = 0; i < ARRAY_LEN(bits); i++)
        v |= r >> (16 + i) & 1 ? bits[i] : 0;
    return v | (r >> 8 & 3) << 22;
}

/* ---- instructions ---- */
static bool has(const struct a64_row *r, const char *what)
{
    return strstr(r->fmt, what) != NULL;
}

/* Encodings whose outcome the architecture leaves open, and what this tester cannot see. */
static bool unsuitable(const struct a64_row *r, uint32_t w)
{
    unsigned t = A64_RD(w), n = A64_RN(w), t2 = A64_RA(w), s = A64_RM(w);
    bool pair = strstr(r->mnem, "p") && (has(r, "Rt2") || has(r, "Xt2") || has(r, "LVt2"));
    bool wb = has(r, "!") || has(r, "],");
    bool load = r->mnem[0] == 'l', vec = has(r, "LVt") || has(r, "SVt");

    if (!strcmp(r->name, "HLT"))
        return a64_bits(w, 20, 5) == 0xf000; /* the oracle's own calls */
    if (!strcmp(r->name, "SYS"))
        return t == 31; /* an address nothing is mapped at: the oracle does not look */
    if (pair && load && t == t2)
        return true;
    if (wb && !vec && (t == n || (pair && t2 == n)) && n != 31)
        return true;
    if (!strncmp(r->name, "STXR", 4) || !strncmp(r->name, "STLXR", 5) || !strncmp(r->name, "STXP", 4) ||
        !strncmp(r->name, "STLXP", 5))
        return s == t || s == n || ((w >> 21 & 1) && s == t2);
    if (has(r, "Rmx") && s == n)
        return true;
    if ((has(r, "vlist") || has(r, "vone")) && A64_BIT(w, 23) && s == n)
        return true;
    return false;
}

/* The load exclusive that arms the monitor for a store exclusive. */
static uint32_t partner(uint32_t w)
{
    uint32_t ld = (w | 1u << 22) & ~(1u << 15) & ~(31u << 16);
    unsigned n = A64_RN(w), a = (n + 1) % 30, b = (n + 2) % 30;

    return (ld & ~(31u << 10) & ~31u) | b << 10 | a | 31u << 16;
}

static bool far_target(const struct a64_row *r, uint32_t w, uint64_t pc, const struct diff *d)
{
    int64_t off = has(r, "rel26")   ? a64_sbits(w, 25, 0)
                  : has(r, "rel19") ? a64_sbits(w, 23, 5)
                  : has(r, "rel14") ? a64_sbits(w, 18, 5)
                                    : 1 << 25;
    uint64_t t = pc + (uint64_t)off * 4;

    return (off >= 2 && off < 15) || t < REC_CODE || t > REC_CODE + (uint64_t)(d->cap + 1) * REC_STRIDE + 0x10000;
}

static bool is_row(const struct a64_row *r, const char *name)
{
    return !strcmp(r->name, name);
}

/* System registers and operations that a program has and that say the same everywhere: not the identification (each
 * translator's own), the clock, and DC ZVA (the oracle's block is larger than ours). */
static uint32_t system_word(struct diff *d, const struct a64_row *r, uint32_t w)
{
    static const uint16_t reg[] = {A64_REG_NZCV, A64_REG_FPCR, A64_REG_FPSR, A64_REG_TPIDR};
    static const uint16_t op[] = {A64_SYSREG(1, 3, 7, 5, 1), A64_SYSREG(1, 3, 7, 10, 1), A64_SYSREG(1, 3, 7, 11, 1),
                                  A64_SYSREG(1, 3, 7, 14, 1)}; /* IC IVAU; DC CVAC, CVAU, CIVAC */
    bool sys = is_row(r, "SYS");

    if (!sys && !is_row(r, "MRS") && !is_row(r, "MSR"))
        return w;
    return (w & ~(0xffffu << 5)) | (uint32_t)(sys ? op : reg)[val_rnd(&d->rng) % 4] << 5;
}

/* MSR and MRS of one register, one after the other. */
static void pair_up(struct diff *d, struct rec_in *in)
{
    uint32_t w = in->insn[0], other = (uint32_t)val_rnd(&d->rng) % 30, reg = a64_bits(w, 20, 5);
    bool read = w >> 21 & 1;
    unsigned from = read ? other : A64_RD(w);

    in->insn[!read] = (w & ~31u & ~(1u << 21)) | (read ? 0 : 1u << 21) | other;
    in->insn[read] = w;
    in->n = 2;
    if (from < 31 && (reg == A64_REG_FPCR || reg == A64_REG_FPSR)) /* the oracle keeps bits that AArch32 has */
        in->s.x[from] &= reg == A64_REG_FPCR ? A64_FPCR_ALL : A64_FPSR_ALL;
}

static bool make_insn(struct diff *d, int row, uint64_t pc, uint32_t *out)
{
    const struct a64_row *r = &a64_rows[row];
    uint32_t mask, value;

    a64_row_bits(row, &mask, &value);
    for (int tries = 0; tries < 20000; tries++) {
        uint32_t w = value | ((uint32_t)val_rnd(&d->rng) & ~mask);

        if (has(r, "lit")) /* near enough to hit the code, far enough to miss it sometimes */
            w = val_rnd(&d->rng) & 3 ? (w & ~(0x7ffffu << 5)) | ((uint32_t)val_rnd(&d->rng) & 7) << 5 : w;
        if (val_rnd(&d->rng) & 1 || has(r, "rel14")) { /* a target behind the record's end: undefined there */
            unsigned lo = has(r, "rel26") ? 0 : 5, hi = has(r, "rel26") ? 25 : has(r, "rel19") ? 23 : 18;

            if (has(r, "rel26") || has(r, "rel19") || has(r, "rel14"))
                w = (w & ~((2u << hi) - (1u << lo))) | (2 + (uint32_t)val_rnd(&d->rng) % 13) << lo;
        }
        w = system_word(d, r, w);
        if (a64_decode(w) != row || unsuitable(r, w))
            continue;
        if ((has(r, "rel26") || has(r, "rel19") || has(r, "rel14")) && !far_target(r, w, pc, d))
            continue;
        *out = w;
        return true;
    }
    return false;
}

/* Registers that address memory point near the data window; sometimes misaligned, sometimes far out. */
static void aim(struct diff *d, const struct a64_row *r, struct rec_in *in, uint32_t w)
{
    unsigned n = A64_RN(w), m = A64_RM(w);
    uint64_t p = REC_DATA - 64 + (val_rnd(&d->rng) & (val_rnd(&d->rng) & 1 ? 0x70 : 0x7f)), k = val_rnd(&d->rng);

    if (!has(r, "[Xn") && !has(r, "vlist") && !has(r, "vone") && strcmp(r->name, "BR") && strcmp(r->name, "BLR") &&
        strcmp(r->name, "RET"))
        return;
    if (!(k & 63)) /* the top byte stays clear: we do not ignore it */
        p = val_rnd(&d->rng) >> (8 + (k >> 8 & 31));
    else if ((k & 63) < 4 && !is_row(r, "BR") && !is_row(r, "BLR") &&
             !is_row(r, "RET")) /* over an end of what is mapped */
        p = (k & 1 ? REC_MAP : REC_MAP + 0x2000) - (k >> 8 & 31);
    if (has(r, "s9"))
        p -= (uint64_t)a64_sbits(w, 20, 12) & ~(k >> 16 & 1 ? UINT64_C(0) : UINT64_MAX);
    if (has(r, "u12") || has(r, "uv12"))
        p -= (uint64_t)a64_bits(w, 21, 10) << (has(r, "uv12") && A64_BIT(w, 23) ? 4 : w >> 30);
    if (has(r, "i7"))
        p -= (uint64_t)a64_sbits(w, 21, 15) * (has(r, "LVt") ? 4u << (w >> 30) : w >> 31 ? 8 : 4);
    if (has(r, "Rmx") && m != 31) {
        uint64_t off = k >> 20 & 15;

        in->s.x[m] = k & 0x100000000 ? off : -off;
    }
    if (!strncmp(r->fmt, "Ws,", 3) || !strcmp(r->name, "LDAPR"))
        p &= ~UINT64_C(15);                     /* where it is not aligned the oracle knows no fault */
    if (r->name[0] == 'B' || r->name[0] == 'R') /* BR BLR RET: the same */
        p &= ~UINT64_C(3);
    if (n == 31)
        in->s.sp = p;
    else
        in->s.x[n] = p;
    if (!strncmp(r->name, "CAS", 3) && (k >> 40 & 1) && m != 31 && m != n) /* let it match */
        in->s.x[m] = get_le64(in->mem + REC_MEM / 2 + (int64_t)(p - REC_DATA) % (REC_MEM / 2));
}

/* A row whose instructions only compute. */
static bool computes(const struct a64_row *r)
{
    return !has(r, "[Xn") && !has(r, "vlist") && !has(r, "vone") && !has(r, "lit") && !(r->attr & A64_A_ENDS) &&
           strcmp(r->name, "FJCVTZS") && strcmp(r->mnem, "fcvtzs") && strcmp(r->mnem, "fcvtzu") &&
           strcmp(r->name, "SYS") && strcmp(r->name, "MRS") && strcmp(r->name, "MSR");
}

/* One with its registers among eight. */
static bool make_close(struct diff *d, int row, uint32_t *out)
{
    uint32_t mask, value, keep = 0x18u | 0x18u << 5 | 0x18u << 16, w;

    a64_row_bits(row, &mask, &value);
    for (int tries = 0; tries < 100; tries++) {
        if (!make_insn(d, row, 0, &w))
            return false;
        w &= ~keep | mask;
        if (a64_decode(w) == row && !unsuitable(&a64_rows[row], w)) {
            *out = w;
            return true;
        }
    }
    return false;
}

/* Puts random computing instructions before the record's one. */
static void make_stream(struct diff *d, struct rec_in *in, int row)
{
    if (!computes(&a64_rows[row]) || !make_close(d, row, &in->insn[REC_INSNS - 1]))
        return;
    for (in->n = 0; in->n < REC_INSNS - 1;) {
        int other = (int)(val_rnd(&d->rng) % (val_rnd(&d->rng) & 1 ? 90 : A64_NR_ROW)); /* half of them integer ones */

        if (computes(&a64_rows[other]) && make_close(d, other, &in->insn[in->n]))
            in->n++;
    }
    in->n = REC_INSNS;
}

static bool make(struct diff *d, int row)
{
    struct rec_in *in = &d->in[d->nr];
    const struct a64_row *r = &a64_rows[row];
    uint64_t pc = REC_CODE + (uint64_t)d->nr * REC_STRIDE;

    if (is_row(r, "SVC") && !d->engine) /* the interpreter knows no kernel */
        return false;
    memset(in, 0, sizeof *in);
    in->n = 1;
    if (!make_insn(d, row, pc, &in->insn[0]))
        return false;
    for (unsigned i = 0; i < 31; i++)
        in->s.x[i] = int_value(d);
    in->s.sp = REC_DATA;
    for (unsigned i = 0; i < 32; i++)
        vec_value(d, &in->s.v[2 * i]);
    for (unsigned i = 0; i < REC_MEM; i += 16)
        vec_value(d, (uint64_t *)(in->mem + i));
    in->s.nzcv = (val_rnd(&d->rng) & 15) << 28;
    in->s.fpcr = fpcr_value(d);
    in->s.fpsr = val_rnd(&d->rng) & 7 ? 0 : val_rnd(&d->rng) & A64_FPSR_ALL;
    aim(d, r, in, in->insn[0]);
    if (is_row(r, "SYS") && A64_RD(in->insn[0]) != 31)
        in->s.x[A64_RD(in->insn[0])] = REC_DATA - 64 + (val_rnd(&d->rng) & 0x7f);
    if (is_row(r, "SVC")) /* no such system call */
        in->s.x[8] = 5000 + (val_rnd(&d->rng) & 0xfff);
    if (is_row(r, "MRS") || is_row(r, "MSR"))
        pair_up(d, in);
    if (!strncmp(r->fmt, "Ws,", 3) && (val_rnd(&d->rng) & 3)) {
        in->insn[1] = in->insn[0];
        in->insn[0] = partner(in->insn[1]);
        in->n = 2;
    }
    if (d->stream)
        make_stream(d, in, row);
    d->row[d->nr++] = row;
    return true;
}

/* ---- our interpreter ---- */
static struct {
    const struct rec_in *in;
    uint64_t pc;
    uint8_t *data; /* two pages: REC_MAP */
    const uint8_t *code;
    size_t code_len;
} host; /* the one address space of the interpreter's guest */

static uint8_t *place(uint64_t a, unsigned n)
{
    return a >= REC_MAP && a + n <= REC_MAP + 0x2000 && a + n > a ? host.data + (a - REC_MAP) : NULL;
}

/* First byte that is not mapped. */
static bool fail_at(struct a64_cpu *c, uint64_t a, unsigned n)
{
    c->fault_addr = a < REC_MAP && a + n > REC_MAP ? a : a < REC_MAP + 0x2000 && a >= REC_MAP ? REC_MAP + 0x2000 : a;
    return false;
}

static bool t_read(struct a64_cpu *c, uint64_t a, void *buf, unsigned n, bool exec)
{
    const uint8_t *p = exec ? NULL : place(a, n);

    if (!p && a >= REC_CODE && a + n <= REC_CODE + host.code_len && a + n > a)
        p = host.code + (a - REC_CODE);
    if (!p)
        return fail_at(c, a, n);
    memcpy(buf, p, n);
    return true;
}

static bool t_write(struct a64_cpu *c, uint64_t a, const void *buf, unsigned n)
{
    uint8_t *p = place(a, n);

    if (!p)
        return fail_at(c, a, n);
    memcpy(p, buf, n);
    return true;
}

static bool t_cas(struct a64_cpu *c, uint64_t a, void *old, const void *new_v, unsigned n, bool *done)
{
    uint8_t *p = place(a, n);

    if (!p)
        return fail_at(c, a, n);
    *done = !memcmp(p, old, n);
    memcpy(old, p, n);
    if (*done)
        memcpy(p, new_v, n);
    return true;
}
static const struct a64_mem_ops t_ops = {t_read, t_write, t_cas};

static void interpret(struct a64_cpu *c, const struct rec_in *in, struct rec_out *o, uint64_t pc)
{
    static const uint8_t sig[] = {
        [A64_UNDEF] = SIGILL, [A64_FAULT] = SIGSEGV, [A64_ALIGN] = SIGBUS, [A64_DO_BRK] = SIGTRAP};
    enum a64_res r = A64_OK;
    uint64_t end = pc + 4 * in->n;

    a64_reset(c, &t_ops, NULL);
    memcpy(c->x, in->s.x, sizeof c->x);
    c->sp = in->s.sp;
    c->pc = pc;
    a64_set_nzcv(c, (uint32_t)in->s.nzcv);
    a64_set_fpcr(c, (uint32_t)in->s.fpcr);
    a64_set_fpsr(c, (uint32_t)in->s.fpsr);
    memcpy(c->v, in->s.v, sizeof c->v);
    memset(host.data, 0, 0x2000);
    memcpy(host.data + (REC_DATA - REC_MEM / 2 - REC_MAP), in->mem, REC_MEM);
    while (r == A64_OK && c->pc != end) {
        r = a64_step(c);
        if (r == A64_ICACHE) /* nothing is kept here that could be stale */
            r = A64_OK;
    }
    memset(o, 0, sizeof *o);
    o->sig = sig[r];
    o->addr = r == A64_FAULT || r == A64_ALIGN ? c->fault_addr : 0;
    memcpy(o->s.x, c->x, sizeof c->x);
    o->s.sp = c->sp;
    o->s.pc = c->pc;
    o->s.nzcv = a64_nzcv(c);
    o->s.fpcr = c->fpcr;
    o->s.fpsr = a64_fpsr(c);
    memcpy(o->s.v, c->v, sizeof c->v);
    memcpy(o->mem, host.data + (REC_DATA - REC_MEM / 2 - REC_MAP), REC_MEM);
}

static void run_ours(struct diff *d)
{
    struct a64_cpu *c = aligned_alloc(64, (sizeof *c + 63) & ~(size_t)63);
    uint8_t *code = calloc(d->nr + 1, REC_STRIDE);

    memset(c, 0, sizeof *c);
    for (unsigned i = 0; i < d->nr; i++)
        memcpy(code + (size_t)i * REC_STRIDE, d->in[i].insn, 4 * d->in[i].n);
    host.code = code;
    host.code_len = (((size_t)d->nr + 1) * REC_STRIDE + 4095) & ~(size_t)4095;
    code = realloc(code, host.code_len);
    memset(code + ((size_t)d->nr + 1) * REC_STRIDE, 0, host.code_len - ((size_t)d->nr + 1) * REC_STRIDE);
    host.code = code;
    for (unsigned i = 0; i < d->nr; i++)
        interpret(c, &d->in[i], &d->ours[i], REC_CODE + (uint64_t)i * REC_STRIDE);
    free(code);
    free(c);
}

/* ---- the others ---- */
static int run_program(struct diff *d, const char *emu, struct rec_out *out)
{
    return runner_run((struct runner *)d, emu, d->in, d->nr * sizeof *d->in, out, d->nr * sizeof *out);
}

static void say(const struct diff *d, unsigned i, const struct rec_out *a, const struct rec_out *b)
{
    char text[128];
    const struct rec_in *in = &d->in[i];
    uint64_t pc = REC_CODE + (uint64_t)i * REC_STRIDE;
    uint32_t w = in->insn[in->n - 1];
    unsigned n = A64_RN(w), m = A64_RM(w), ra = A64_RA(w), rd = A64_RD(w);

    for (unsigned k = 0; k + 1 < in->n; k++)
        printf("   then %08x %s\n", in->insn[k], a64_format(in->insn[k], pc + 4 * k, text, sizeof text));
    printf("%s: %08x %s\n", a64_rows[d->row[i]].name, w, a64_format(w, pc, text, sizeof text));
    if (a->sig != b->sig || a->addr != b->addr)
        printf("   signal %d at %" PRIx64 ", oracle %d at %" PRIx64 "\n", (int)a->sig, a->addr, (int)b->sig, b->addr);
    if (a->s.pc != b->s.pc)
        printf("   pc %" PRIx64 ", oracle %" PRIx64 "\n", a->s.pc, b->s.pc);
    if (a->s.nzcv != b->s.nzcv)
        printf("   nzcv %" PRIx64 ", oracle %" PRIx64 "\n", a->s.nzcv >> 28, b->s.nzcv >> 28);
    if (a->s.fpsr != b->s.fpsr || a->s.fpcr != b->s.fpcr)
        printf("   fpsr %" PRIx64 ", oracle %" PRIx64 "; fpcr was %" PRIx64 "\n", a->s.fpsr, b->s.fpsr, in->s.fpcr);
    for (int k = 0; k < 32; k++) {
        uint64_t x = k < 31 ? a->s.x[k] : a->s.sp, y = k < 31 ? b->s.x[k] : b->s.sp;

        if (x != y)
            printf("   x%d %016" PRIx64 ", oracle %016" PRIx64 "\n", k, x, y);
        if (a->s.v[2 * k] != b->s.v[2 * k] || a->s.v[2 * k + 1] != b->s.v[2 * k + 1])
            printf("   v%d %016" PRIx64 "%016" PRIx64 ", oracle %016" PRIx64 "%016" PRIx64 "\n", k, a->s.v[2 * k + 1],
                   a->s.v[2 * k], b->s.v[2 * k + 1], b->s.v[2 * k]);
    }
    if (memcmp(a->mem, b->mem, REC_MEM))
        printf("   memory differs\n");
    printf("   before: n v%u %016" PRIx64 "%016" PRIx64 " x %" PRIx64 "; m v%u %016" PRIx64 "%016" PRIx64 " x %" PRIx64
           "; d v%u %016" PRIx64 "%016" PRIx64 "; a v%u %016" PRIx64 "; nzcv %" PRIx64 " fpcr %" PRIx64 "\n",
           n, in->s.v[2 * n + 1], in->s.v[2 * n], n < 31 ? in->s.x[n] : in->s.sp, m, in->s.v[2 * m + 1], in->s.v[2 * m],
           m < 31 ? in->s.x[m] : 0, rd, in->s.v[2 * rd + 1], in->s.v[2 * rd], ra, in->s.v[2 * ra], in->s.nzcv >> 28,
           in->s.fpcr);
}

static bool same(const struct rec_out *a, const struct rec_out *b)
{
    struct rec_out x = *a, y = *b;

    if (runner_same_fault(x.sig, x.addr, y.sig, y.addr))
        x.addr = y.addr = 0;
    if (x.sig == SIGSEGV && x.sig == y.sig) { /* parts of a crossing access may have been written */
        memset(x.mem, 0, sizeof x.mem);
        memset(y.mem, 0, sizeof y.mem);
    }
    return !memcmp(&x, &y, sizeof x);
}

/* The oracle (7.2) is wrong here by the manual's pseudocode, see docs/guest_arm64.md. */
static bool oracle_errs(const struct a64_row *r, uint32_t w, const struct rec_in *in)
{
    if (!strcmp(r->name, "FJCVTZS")) /* Z below 1 and beyond the range */
        return (in->s.v[2 * A64_RN(w)] >> 52 & 0x7ff) - 1023 >= 31;
    return (!strcmp(r->name, "FCVTZS_SI") || !strcmp(r->name, "FCVTZU_SI")) && a64_bits(w, 22, 20) == 1;
}

/* The registers a load of several that faulted would have written are not defined. */
static void settle(const struct a64_row *r, uint32_t w, struct rec_out *a, const struct rec_out *b)
{
    if (a->sig != SIGSEGV || b->sig != SIGSEGV || r->mnem[0] != 'l')
        return;
    if (has(r, "LVt") || has(r, "vlist") || has(r, "vone"))
        memcpy(a->s.v, b->s.v, sizeof a->s.v);
    else if (has(r, "Rt2") || has(r, "Xt2"))
        for (unsigned t = A64_RD(w), k = 0; k < 2; k++, t = A64_RA(w))
            if (t != 31 && t != A64_RN(w))
                a->s.x[t] = b->s.x[t];
}

static void see(struct diff *d, const struct rec_in *in, const struct rec_out *out)
{
    static const uint8_t flag[] = {RUNNER_INVALID, RUNNER_BY_ZERO, RUNNER_OVERFLOW, RUNNER_UNDERFLOW, RUNNER_INEXACT};
    uint64_t p = in->s.x[A64_RN(in->insn[in->n - 1]) % 31];
    bool fp = false, near = !out->sig && p - REC_MAP < 0x2000;

    for (unsigned i = 0; i < 64; i++) {
        fp |= in->s.v[i] != out->s.v[i];
        if (in->s.v[i] != out->s.v[i])
            runner_see_fp((struct runner *)d, out->s.v[i]);
    }
    for (unsigned i = 0; i < 5; i++)
        d->seen[flag[i]] += out->s.fpsr >> i & ~in->s.fpsr >> i & 1;
    d->seen[RUNNER_NEAREST + (in->s.fpcr >> 22 & 3)] += fp;
    runner_see_fault((struct runner *)d, out->sig, out->addr, REC_MAP, REC_MAP + 0x2000);
    d->seen[RUNNER_MISALIGNED] += near && p & 7;
    d->seen[RUNNER_CROSSING] += near && p < REC_DATA && p + 4 > REC_DATA;
}

static int flush_batch(struct diff *d)
{
    int r;

    if (!d->nr)
        return 0;
    r = run_program(d, d->oracle, d->theirs);
    if (!r && d->engine)
        r = run_program(d, d->engine, d->ours);
    else
        run_ours(d);
    if (r)
        return r;
    for (unsigned i = 0; i < d->nr; i++) {
        d->hits[d->row[i]]++;
        see(d, &d->in[i], &d->theirs[i]);
        settle(&a64_rows[d->row[i]], d->in[i].insn[d->in[i].n - 1], &d->ours[i], &d->theirs[i]);
        /* The translator's one known difference: the host detects tininess after rounding. */
        if (d->engine && d->ours[i].s.fpsr & A64_FPSR_IXC)
            d->ours[i].s.fpsr |= d->theirs[i].s.fpsr & A64_FPSR_UFC;
        if (same(&d->ours[i], &d->theirs[i]) ||
            (d->in[i].n == 1 && oracle_errs(&a64_rows[d->row[i]], d->in[i].insn[0], &d->in[i])))
            continue;
        if (d->bad[d->row[i]]++ < (d->verbose ? 20u : 2u))
            say(d, i, &d->ours[i], &d->theirs[i]);
    }
    d->nr = 0;
    return 0;
}

static int finish(struct diff *d, int r)
{
    for (int i = 0; i < A64_NR_ROW; i++)
        runner_row((struct runner *)d, "", a64_rows[i].name, d->hits[i], d->bad[i]);
    return runner_end((struct runner *)d, r);
}

int main(int argc, char **argv)
{
    /* Without SVE: its part of a signal frame would win over the one we edit. */
    struct diff d = {.oracle = "qemu-aarch64", .cpu = "max,sve=off,sme=off,pauth=off", .cap = 20000};
    int r = 0;

    if (!runner_options((struct runner *)&d, argc, argv))
        return 2;
    d.in = calloc(d.cap, sizeof *d.in);
    d.ours = calloc(d.cap, sizeof *d.ours);
    d.theirs = calloc(d.cap, sizeof *d.theirs);
    d.row = calloc(d.cap, sizeof *d.row);
    d.hits = calloc(A64_NR_ROW, sizeof *d.hits);
    d.bad = calloc(A64_NR_ROW, sizeof *d.bad);
    host.data = aligned_alloc(4096, 0x2000);
    for (int row = 0; row < A64_NR_ROW && !r; row++) {
        if (d.only && strcmp(d.only, a64_rows[row].name) && strcmp(d.only, a64_rows[row].mnem))
            continue;
        for (unsigned long k = 0; k < d.count && !r; k++) {
            if (!make(&d, row))
                break;
            if (d.nr == d.cap)
                r = flush_batch(&d);
        }
    }
    if (!r)
        r = flush_batch(&d);
    r = finish(&d, r);
    free(d.in);
    free(d.ours);
    free(d.theirs);
    free(d.row);
    free(d.hits);
    free(d.bad);
    free(host.data);
    return r;
}
