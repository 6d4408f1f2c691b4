/* Makes random instances of the rows of insn.def: bytes first (the decoder then says what they mean), then registers
 * and memory that let the instruction do something interesting and keep its memory operand inside the window. */
#include "diff.h"

#include "base/bytes.h"
#include "guest/x86/insn_row.h"
#include "guest/x86/ops.h"
#include "guest/x86/trial.h"
#include <stdio.h>

#define ROW(N, v, x_, mp, p, opc, mr, c, a0, a1, a2, a3)                                                               \
    {.name = #N,                                                                                                       \
     .ops = {#a0, #a1, #a2, #a3},                                                                                      \
     .map = mp,                                                                                                        \
     .pp = p,                                                                                                          \
     .opcode = opc,                                                                                                    \
     .modrm = mr,                                                                                                      \
     .cond = c,                                                                                                        \
     .evex = x_,                                                                                                       \
     .enc = v},
#define OP(...)
#define E(N, mp, p, opc, mr, c, a0, a1, a2, a3, ac)         ROW(N, X86_ENC_LEGACY, 0, mp, p, opc, mr, c, a0, a1, a2, a3)
#define EF(N, mn, f, mp, p, opc, mr, c, a0, a1, a2, a3, ac) ROW(N, X86_ENC_LEGACY, 0, mp, p, opc, mr, c, a0, a1, a2, a3)
#define V(N, mp, p, opc, mr, c, a0, a1, a2, a3, ac)         ROW(N, X86_ENC_VEX, 0, mp, p, opc, mr, c, a0, a1, a2, a3)
#define X(N, F, mp, p, opc, mr, c, x_, a0, a1, a2, a3, ac)  ROW(N, X86_ENC_EVEX, x_, mp, p, opc, mr, c, a0, a1, a2, a3)
const struct drow drows[] = {
#include "guest/x86/insn.def"
};
const unsigned nr_drows = ARRAY_LEN(drows);
#undef g
#undef x

bool gen_read_only = true;

static int wide_known; /* 0: not asked yet, 1: no, 2: yes */

void diff_no_wide(void)
{
    wide_known = 1;
}

bool diff_wide(void)
{
    struct x86_features f;

    if (!wide_known) {
        x86_features_host(&f);
        wide_known = x86_has(&f, X86_F_AVX512F) && x86_has(&f, X86_F_AVX512BW) ? 2 : 1;
    }
    return wide_known == 2;
}

uint64_t rnd(struct rng *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

const char *wide_difference(const struct dregs *a, const struct dregs *b, char *buf, size_t n)
{
    if (!diff_wide())
        return NULL;
    for (unsigned i = 0; i < 8; i++)
        if (a->k[i] != b->k[i]) {
            snprintf(buf, n, "k%u: cpu %#" PRIx64 ", ours %#" PRIx64, i, a->k[i], b->k[i]);
            return buf;
        }
    for (unsigned i = 0; i < 32 * 64; i++) {
        unsigned reg = i / 64, at = i % 64;
        const uint8_t *x = reg < 16 ? a->upper[reg] - 32 : a->more[reg - 16];
        const uint8_t *y = reg < 16 ? b->upper[reg] - 32 : b->more[reg - 16];

        if ((reg >= 16 || at >= 32) && x[at] != y[at]) {
            at &= ~7u;
            snprintf(buf, n, "zmm%u byte %u: cpu %016" PRIx64 ", ours %016" PRIx64, reg, at, get_le64(x + at),
                     get_le64(y + at));
            return buf;
        }
    }
    return NULL;
}

static bool one_in(struct rng *r, unsigned n)
{
    return rnd_below(r, n) == 0;
}

/* ---- bytes ---- */

static bool has_z(const struct drow *row)
{
    for (unsigned i = 0; i < 4; i++)
        if (row->ops[i][0] == 'Z')
            return true;
    return false;
}

static uint8_t pick_modrm(struct rng *r, const struct drow *row)
{
    uint8_t m = (uint8_t)rnd(r);

    if (row->modrm & MR_EXACT)
        return (uint8_t)row->modrm;
    if (row->modrm & MR_MEM)
        while (m >= 0xc0)
            m = (uint8_t)rnd(r);
    else if ((row->modrm & MR_MOD3) || one_in(r, 2))
        m |= 0xc0;
    if (row->modrm & MR_REG)
        m = (uint8_t)((m & 0xc7) | (row->modrm & 7) << 3);
    return m;
}

/* One mandatory prefix out of the set, as its 0..3 number. */
static unsigned pick_pp(struct rng *r, int set)
{
    unsigned p;

    do
        p = (unsigned)rnd_below(r, 4);
    while (!(set >> p & 1));
    return p;
}

static uint8_t *put_legacy(struct rng *r, const struct drow *row, int mode, uint8_t *p)
{
    static const uint8_t pfx[] = {0, 0x66, 0xf3, 0xf2}, segs[] = {0x26, 0x2e, 0x36, 0x3e};
    unsigned pp = row->pp == ANY ? (one_in(r, 4) ? 1 : 0) : pick_pp(r, row->pp);

    if (one_in(r, 16))
        *p++ = 0x67;
    if (one_in(r, 24))
        *p++ = segs[rnd_below(r, ARRAY_LEN(segs))];
    if (one_in(r, 6) && pp == 0) /* the decoder refuses it where it is not allowed */
        *p++ = 0xf0;
    if (pp)
        *p++ = pfx[pp];
    if (mode == X86_MODE_64 && (row->cond & W1 || !one_in(r, 3))) {
        uint8_t rex = (uint8_t)(0x40 | rnd_below(r, 16));

        if (row->cond & W1)
            rex |= 8;
        if (row->cond & W0)
            rex &= (uint8_t)~8;
        if (row->cond & NB)
            rex &= (uint8_t)~1;
        *p++ = rex;
    }
    if (row->map != m1)
        *p++ = 0x0f;
    if (row->map == m38)
        *p++ = 0x38;
    else if (row->map == m3A)
        *p++ = 0x3a;
    *p++ = (uint8_t)(row->opcode + (has_z(row) ? rnd_below(r, 8) : 0));
    return p;
}

static bool names_vvvv(const struct drow *row)
{
    for (unsigned i = 0; i < 4; i++)
        if (row->ops[i][0] == 'H' || row->ops[i][0] == 'B' || strncmp(row->ops[i], "KH", 2) == 0)
            return true;
    return false;
}

static uint8_t *put_vex(struct rng *r, const struct drow *row, int mode, uint8_t *p)
{
    uint8_t w = row->cond & W0 ? 0 : row->cond & W1 ? 0x80 : (uint8_t)(rnd(r) & 0x80);
    uint8_t l = row->cond & L0 ? 0 : row->cond & L1 ? 4 : (uint8_t)(rnd(r) & 4);
    bool vvvv = names_vvvv(row);

    *p++ = 0xc4;
    *p++ = (uint8_t)((mode == X86_MODE_64 ? rnd(r) & 0xe0 : 0xe0) | row->map);
    *p++ = (uint8_t)(w | (vvvv ? rnd(r) & 0x78 : 0x78) | l | pick_pp(r, row->pp));
    *p++ = (uint8_t)row->opcode;
    return p;
}

/* ModRM comes behind it and may not fit: then this try makes none. */
static uint8_t *put_evex(struct rng *r, const struct drow *row, int mode, uint8_t *p)
{
    bool m64 = mode == X86_MODE_64, vsib = row->evex & BM && row->evex & KQ;
    uint8_t w = row->cond & W0 ? 0 : row->cond & W1 ? 0x80 : (uint8_t)(rnd(r) & 0x80);
    unsigned ll = row->cond & L0 ? 0 : row->cond & L2 ? 2 : row->cond & L1 ? 1 + rnd_below(r, 2) : rnd_below(r, 3);
    unsigned mask = row->evex & 15 && (row->evex & KQ || !one_in(r, 4)) ? (unsigned)rnd_below(r, 8) : 0;
    bool b = row->evex & (B4 | B8 | RC | SAE) && one_in(r, 3);

    if (b && row->evex & (RC | SAE) && one_in(r, 2))
        ll = (unsigned)rnd_below(r, 4);
    *p++ = 0x62;
    *p++ = (uint8_t)((m64 ? rnd(r) & 0xf0 : 0xf0) | row->map);
    *p++ = (uint8_t)(w | (names_vvvv(row) ? (m64 ? rnd(r) & 0x78 : 0x40 | (rnd(r) & 0x38)) : 0x78) | 4 |
                     pick_pp(r, row->pp));
    *p++ = (uint8_t)((mask && !(row->evex & NZ) && one_in(r, 2) ? 0x80 : 0) | ll << 5 | (b ? 0x10 : 0) |
                     (m64 && (names_vvvv(row) || vsib) ? rnd(r) & 8 : 8) | mask);
    *p++ = (uint8_t)row->opcode;
    return p;
}

bool gen_insn(struct rng *r, const struct drow *row, int mode, struct x86_insn *in)
{
    uint8_t b[32], *p = b;

    for (unsigned i = 0; i < sizeof b; i++)
        b[i] = (uint8_t)rnd(r);
    p = row->enc == X86_ENC_EVEX  ? put_evex(r, row, mode, p)
        : row->enc == X86_ENC_VEX ? put_vex(r, row, mode, p)
                                  : put_legacy(r, row, mode, p);
    if (row->modrm || row->ops[0][0] != '_')
        *p = pick_modrm(r, row); /* an immediate's first byte when there is no ModRM */
    return x86_decode(b, X86_MAX_INSN, mode, in) == X86_DECODE_OK && x86_row_index(in->row) == (unsigned)(row - drows);
}

/* ---- what is left out ---- */

bool gen_is_xstate(const struct x86_insn *in)
{
    return (strncmp(in->row->mnem, "xsave", 5) == 0 && in->row->mnem[5] != 's') ||
           strncmp(in->row->mnem, "fxsave", 6) == 0 || strncmp(in->row->mnem, "fxrstor", 7) == 0 ||
           (strncmp(in->row->mnem, "xrstor", 6) == 0 && in->row->mnem[6] != 's');
}

/* Its name is in the list of those that tell of the system. Asked for every try: remembered by row. */
static bool depends_on_system(const struct x86_row *row)
{
    static const char *const names[] = {
        "cpuid",    "rdtsc",    "rdtscp",    "rdrand",   "rdseed",     "rdpid",    "xgetbv",   "rdpkru",   "wrpkru",
        "syscall",  "sysenter", "int3",      "int1",     "into",       "int",      "ud0",      "ud1",      "ud2",
        "monitor",  "mwait",    "serialize", "clflush",  "clflushopt", "clwb",     "clzero",   "pause",    "xbegin",
        "xend",     "xabort",   "xtest",     "rdfsbase", "rdgsbase",   "wrfsbase", "wrgsbase", "swapgs",   "vmcall",
        "vmmcall",  "sldt",     "str",       "smsw",     "sgdt",       "sidt",     "lar",      "lsl",      "verr",
        "verw",     "sti",      "cli",       "hlt",      "popf",       "xsaves",   "xrstors",  "xsaves64", "xrstors64",
        "monitorx", "mwaitx",   "rdpru",     "endbr64",  "endbr32"};
    static uint8_t known[ARRAY_LEN(drows)]; /* 0 not asked yet, 1 no, 2 yes */
    uint8_t *k = &known[x86_row_index(row)];

    for (size_t i = 0; i < ARRAY_LEN(names) && !*k; i++)
        if (strcmp(row->mnem, names[i]) == 0)
            *k = 2;
    if (!*k)
        *k = 1;
    return *k == 2;
}

const char *gen_skip(const struct x86_insn *in)
{
    uint32_t at = in->row->attr;

    if (at & (X86_A_PRIV | X86_A_IO | X86_A_ENDS))
        return "privileged, I/O or control transfer";
    if (depends_on_system(in->row))
        return "its result depends on the system";
    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->ops[i].kind == X86_OP_SEG)
            return "segment register";
    if ((at & X86_A_SYS) && !(at & (X86_A_SSE | X86_A_AVX)) && !gen_is_xstate(in))
        return "system state";
    if (in->map == X86_MAP_0F && in->opcode == 0x0d && in->modrm >= 0xc0)
        return "PREFETCH with a register: makers differ";
    if (in->enc == X86_ENC_VEX && in->map == X86_MAP_0F3A && (in->opcode == 0x16 || in->opcode == 0x22) &&
        !(in->rex & 8) && in->bytes[in->off_opcode - 1] & 0x80)
        return "VPEXTRQ and VPINSRQ outside 64-bit mode: makers differ";
    if (in->seg == X86_FS || in->seg == X86_GS)
        return "FS and GS belong to the C library";
    return NULL;
}

uint64_t gen_undefined(const struct x86_insn *in, const struct dregs *before)
{
    (void)before;
    return x86_insn_undefined(in);
}

/* ---- registers and memory ---- */

static uint64_t int_value(struct rng *r)
{
    static const uint64_t edge[] = {
        0,         1,      2,          0x7f,       0x80,       0xff,      0x7fff,
        0x8000,    0xffff, 0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX, (uint64_t)INT64_MIN,
        UINT64_MAX};

    switch (rnd_below(r, 4)) {
    case 0:
        return edge[rnd_below(r, ARRAY_LEN(edge))];
    case 1:
        return rnd(r) >> rnd_below(r, 64);
    default:
        return rnd(r);
    }
}

static uint64_t f64_value(struct rng *r)
{
    static const uint64_t edge[] = {0,
                                    0x8000000000000000,
                                    0x3ff0000000000000,
                                    0xbff0000000000000,
                                    0x7ff0000000000000,
                                    0xfff0000000000000,
                                    0x7ff8000000000000,
                                    0x7ff0000000000001,
                                    1,
                                    0x000fffffffffffff,
                                    0x0010000000000000,
                                    0x7fefffffffffffff,
                                    0x4330000000000000,
                                    0x41dfffffffc00000,
                                    0x43e0000000000000};

    if (one_in(r, 3))
        return edge[rnd_below(r, ARRAY_LEN(edge))];
    return (rnd(r) & 0x800fffffffffffff) | (0x3c0 + rnd_below(r, 0x80)) << 52;
}

static uint32_t f32_value(struct rng *r)
{
    static const uint32_t edge[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000,
                                    0x7f800001, 1,          0x007fffff, 0x00800000, 0x7f7fffff, 0x4b000000, 0x4f000000};

    if (one_in(r, 3))
        return edge[rnd_below(r, ARRAY_LEN(edge))];
    return (uint32_t)((rnd(r) & 0x807fffff) | (0x60 + rnd_below(r, 0x40)) << 23);
}

void gen_fill(struct rng *r, uint8_t *b, unsigned n)
{
    unsigned kind = (unsigned)rnd_below(r, 3);

    for (unsigned i = 0; i + 8 <= n; i += 8) {
        if (kind == 0)
            put_le64(b + i, int_value(r));
        else if (kind == 1)
            put_le64(b + i, f64_value(r));
        else
            put_le64(b + i, f32_value(r) | (uint64_t)f32_value(r) << 32);
    }
}

static void f80_value(struct rng *r, uint8_t *b)
{
    static const uint16_t exps[] = {0, 0x8000, 0x3fff, 0xbfff, 0x7fff, 0xffff, 1, 0x7ffe, 0x403e, 0x3fbe};

    put_le64(b, one_in(r, 3) ? UINT64_C(1) << 63 : rnd(r) | (one_in(r, 8) ? 0 : UINT64_C(1) << 63));
    put_le16(b + 8, (uint16_t)(one_in(r, 3) ? exps[rnd_below(r, ARRAY_LEN(exps))] : 0x3fd0 + rnd_below(r, 0x60)));
}

static void fill_xs(struct rng *r, uint8_t *xs)
{
    uint16_t fsw = (uint16_t)(rnd_below(r, 8) << 11 | (rnd(r) & 0x4700));

    memset(xs, 0, XS_SIZE);
    put_le16(xs, (uint16_t)(0x40 | (one_in(r, 6) ? rnd(r) & 0x3f : 0x3f) | rnd_below(r, 16) << 8));
    if (one_in(r, 8)) { /* flags that stand already; pending when unmasked */
        fsw |= rnd(r) & 0x3f;
        if (fsw & ~get_le16(xs) & 0x3f)
            fsw |= 0x8080;
    }
    put_le16(xs + 2, fsw);
    xs[4] = (uint8_t)(one_in(r, 3) ? rnd(r) : 0xff);
    put_le32(xs + 24, (uint32_t)((one_in(r, 6) ? rnd(r) & 0x1f80 : 0x1f80) |
                                 (rnd(r) & 0xe040 & -(uint32_t)one_in(r, 2)) | (one_in(r, 8) ? rnd(r) & 0x3f : 0)));
    for (unsigned i = 0; i < 8; i++)
        f80_value(r, xs + 32 + 16 * i);
    gen_fill(r, xs + 160, 256);
    put_le64(xs + 512, 7);
    gen_fill(r, xs + 576, 256);
}

/* Masks of all kinds: most of them leave something out. */
static uint64_t mask_value(struct rng *r)
{
    switch (rnd_below(r, 6)) {
    case 0:
        return UINT64_MAX;
    case 1:
        return one_in(r, 2) ? 0 : rnd(r) << 32; /* none that counts for wide elements */
    case 2:
        return UINT64_C(1) << rnd_below(r, one_in(r, 2) ? 64 : 8);
    case 3:
        return rnd(r) & rnd(r) & rnd(r);
    default:
        return rnd(r);
    }
}

static void fill_wide(struct rng *r, struct dregs *d)
{
    if (!diff_wide())
        return;
    if (one_in(r, 2)) /* else the translator leaves the others in memory until they are used */
        gen_fill(r, d->upper[0], sizeof d->upper);
    gen_fill(r, d->more[0], sizeof d->more);
    for (unsigned i = 0; i < 8; i++)
        d->k[i] = mask_value(r);
}

static void put_vec32(struct dregs *d, unsigned reg, unsigned i, uint32_t v)
{
    put_le32(reg >= 16 ? d->more[reg - 16] + 4 * i
             : i < 4   ? d->xs + 160 + 16 * reg + 4 * i
             : i < 8   ? d->xs + 576 + 16 * reg + 4 * (i - 4)
                       : d->upper[reg] + 4 * (i - 8),
             v);
}

static void patch_disp(struct x86_insn *in, int64_t v)
{
    in->disp = v;
    put_le(in->bytes + in->off_disp, (uint64_t)v, in->disp_len);
}

/* Sets base and index so that the operand starts at `at`. False: this form cannot get there. */
static bool aim(struct rng *r, struct x86_insn *in, struct dregs *d, uint64_t at)
{
    bool vsib = in->row->attr & X86_A_VSIB;

    if (in->base == X86_REG_RIP) {
        patch_disp(in, (int64_t)at - (CODE_AT + in->len));
        return true;
    }
    if (in->index != X86_NO_REG && vsib) {
        for (unsigned i = 0; i < 16; i++) /* small indices, some negative, in either width */
            put_vec32(d, in->index, i,
                      in->opcode & 1 ? (i & 1 ? 0 : (uint32_t)rnd_below(r, 32)) : (uint32_t)rnd_below(r, 64) - 32);
    } else if (in->index != X86_NO_REG) {
        if (in->index == in->base)
            return false;
        d->gpr[in->index] = in->base == X86_NO_REG ? 0 : rnd_below(r, 512);
        at -= d->gpr[in->index] * in->scale;
    }
    if (in->base == X86_NO_REG) {
        if (!in->disp_len)
            return false;
        patch_disp(in, (int64_t)at);
        return in->disp_len >= 4;
    }
    d->gpr[in->base] = at - (uint64_t)in->disp;
    if (in->adsz == 4) {
        d->gpr[in->base] = (uint32_t)d->gpr[in->base] | (rnd(r) << 32);
        return !(in->index != X86_NO_REG && !vsib) || in->index != in->base;
    }
    return true;
}

static uint64_t pick_target(struct rng *r, const struct x86_insn *in)
{
    unsigned size = in->mem_size ? in->mem_size : 8;
    uint64_t at = DATA_AT + 0x800 + rnd_below(r, 0x800);

    if (one_in(r, in->evex_aaa ? 6 : 24)) /* runs into the page that is not there */
        return WIN_END - rnd_below(r, size + 8);
    if (gen_read_only && one_in(r, in->evex_aaa ? 6 : 24)) /* the page that may only be read */
        return RO_AT + 8 - rnd_below(r, size + 16);
    if (in->adsz == 8 && in->base < 16 && !(in->row->attr & X86_A_VSIB) && one_in(r, 64)) /* no address at all */
        return (rnd(r) & ~(UINT64_C(3) << 62)) | UINT64_C(1) << (62 + rnd_below(r, 2));
    if (one_in(r, 12)) /* crosses a page */
        return DATA_AT + 0x1000 - rnd_below(r, size + 1);
    if (!one_in(r, 4))
        at &= ~UINT64_C(63);
    return at;
}

/* An image that mostly is a good one. */
static bool place_xstate(struct rng *r, struct x86_insn *in, struct dregs *d, uint8_t *data)
{
    unsigned off = 0x800 + (unsigned)rnd_below(r, 8) * 64;
    uint8_t *b = data + off;

    d->gpr[X86_RAX] = rnd_below(r, 8);
    d->gpr[X86_RDX] = 0;
    if (in->base == X86_RAX || in->index == X86_RAX || in->base == X86_RDX || in->index == X86_RDX)
        return false;
    put_le16(b, (uint16_t)(0x37f & ~(unsigned)(rnd(r) & 0x300)));
    b[5] = 0;
    put_le16(b + 2, (uint16_t)(rnd(r) & 0x7f00));
    put_le32(b + 24, (uint32_t)(rnd(r) & 0xffff));
    for (unsigned i = 0; i < 8; i++) {
        f80_value(r, b + 32 + 16 * i);
        memset(b + 32 + 16 * i + 10, 0, 6);
    }
    memset(b + 512, 0, 64);
    put_le64(b + 512, rnd_below(r, one_in(r, 8) ? 16 : 8));
    if (in->row->mnem[1] == 'r' && one_in(r, 2))
        put_le64(b + 520, UINT64_C(1) << 63 | rnd_below(r, 8));
    if (one_in(r, 8))
        b[536 + rnd_below(r, 40)] = 1;
    return aim(r, in, d, DATA_AT + off + (one_in(r, 8) ? 8 : 0));
}

/* Where the memory operand lies. False: this form cannot get into the window. */
static bool place(struct rng *r, struct x86_insn *in, struct dregs *d)
{
    if (strcmp(in->row->mnem, "enter") == 0 || strcmp(in->row->mnem, "leave") == 0) {
        d->gpr[X86_RBP] = DATA_AT + 0x900 + rnd_below(r, 64);
        return true;
    }
    if (in->row->attr & X86_A_STRING) {
        d->gpr[X86_RSI] = DATA_AT + 0x800 + rnd_below(r, 0x400);
        d->gpr[X86_RDI] = DATA_AT + 0xa00 + rnd_below(r, 0x400);
        d->gpr[X86_RCX] = rnd_below(r, 9);
        if (one_in(r, 6)) /* faults half-way */
            d->gpr[X86_RDI] = (gen_read_only && one_in(r, 2) ? RO_AT : WIN_END) - rnd_below(r, 64);
        if (one_in(r, 8))
            d->gpr[X86_RSI] = WIN_END - rnd_below(r, 64);
        return true;
    }
    if (strcmp(in->row->mnem, "div") == 0 || strcmp(in->row->mnem, "idiv") == 0)
        d->gpr[X86_RDX] = one_in(r, 2) ? 0 : d->gpr[X86_RDX] >> rnd_below(r, 64);
    if (strstr(in->row->mnem, "maskmov") && in->opcode == 0xf7) {
        d->gpr[X86_RDI] = DATA_AT + 0x800;
        return true;
    }
    if (strcmp(in->row->mnem, "xlat") == 0 || strcmp(in->row->mnem, "xlatb") == 0) {
        d->gpr[X86_RBX] = DATA_AT + 0x800 + (in->adsz == 4 ? rnd(r) << 32 : 0);
        return in->adsz >= 4;
    }
    if (in->mem_op < 0 || (in->row->attr & X86_A_NOP_MEM && in->base == X86_NO_REG))
        return true;
    if (in->row->mnem[0] == 'b' && in->row->mnem[1] == 't' && in->ops[1].kind == X86_OP_GPR) {
        if (in->ops[1].reg == in->base || in->ops[1].reg == in->index)
            return false;
        d->gpr[in->ops[1].reg & 15] = rnd_below(r, 2048) - 1024;
        return aim(r, in, d, DATA_AT + 0x1000);
    }
    return aim(r, in, d, pick_target(r, in));
}

void gen_state(struct rng *r, struct dregs *d)
{
    memset(d, 0, sizeof *d);
    d->vec = -1;
    for (unsigned i = 0; i < 16; i++)
        d->gpr[i] = int_value(r);
    d->flags = 0x202 | (rnd(r) & X86_ARITH);
    fill_xs(r, d->xs);
    fill_wide(r, d);
}

bool gen_regs(struct rng *r, struct x86_insn *in, int mode, struct dregs *d, uint8_t *data)
{
    memset(d, 0, sizeof *d);
    d->vec = -1;
    for (unsigned i = 0; i < 16; i++)
        d->gpr[i] = int_value(r);
    d->gpr[X86_RSP] = DATA_AT + 0xc00 + (rnd(r) & 0x7f8);
    if (in->row->attr & X86_A_STACK && one_in(r, 10))
        d->gpr[X86_RSP] = (gen_read_only && one_in(r, 2) ? RO_AT : WIN_END) + 12 - rnd_below(r, 24);
    d->flags = 0x202 | (rnd(r) & (X86_ARITH | (in->row->attr & X86_A_STRING ? X86_DF : 0)));
    fill_xs(r, d->xs);
    fill_wide(r, d);
    for (unsigned i = 0; i < 4; i++) /* a part of it each time: enough to differ, quick to make */
        gen_fill(r, data + 0x800 + (rnd(r) & 0x7c0), 64);
    if (gen_is_xstate(in) ? !place_xstate(r, in, d, data) : !place(r, in, d))
        return false;
    if (mode == X86_MODE_64)
        return true;
    for (unsigned i = 0; i < 16; i++)
        d->gpr[i] = i < 8 ? (uint32_t)d->gpr[i] : 0;
    return in->adsz == 4 || in->mem_op < 0;
}
