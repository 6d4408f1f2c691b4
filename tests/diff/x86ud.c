/* What is an instruction at all: the decoder against the host CPU, for every combination of an EVEX prefix, opcode and
 * ModRM that chance brings, and the VEX space of the opmask instructions. Bytes are run in a place where they can do no
 * harm; INT3 stands behind them, so where it is met tells the length. Whether a row's feature is offered does not
 * matter, but the host must have all of AVX-512 that the decoder knows, else there is nothing to compare. */
#include "diff.h"

#include "base/bytes.h"
#include "guest/x86/cpuid.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WINDOW = 4 << 20 };
struct gen {
    struct rng rng;
    int mode;
    bool verbose;
    uint64_t runs, accepted, bad;
};

static uint8_t *put_address(struct gen *g, uint8_t *p, uint8_t modrm)
{
    unsigned mod = modrm >> 6, rm = modrm & 7;
    bool sib5 = false;

    if (mod == 3)
        return p;
    if (rm == 4) {
        *p = (uint8_t)rnd(&g->rng);
        sib5 = (*p++ & 7) == 5;
    }
    if (mod == 1) {
        *p++ = (uint8_t)(rnd(&g->rng) & 7);
    } else if (mod == 2 || rm == 5 || sib5) { /* with RIP: in the data */
        put_le32(p, DATA_AT - CODE_AT + 0x800);
        p += 4;
    }
    return p;
}

/* Bits that make it no instruction at once are rarely set, so that the others count. */
static uint8_t mostly(struct gen *g, uint8_t b, uint8_t mask, uint8_t want)
{
    return rnd_below(&g->rng, 8) ? (uint8_t)((b & ~mask) | want) : b;
}

static unsigned make_evex(struct gen *g, uint8_t *b)
{
    uint8_t *p = b, modrm = (uint8_t)rnd(&g->rng), p0, p1, p2;

    if (!rnd_below(&g->rng, 64))
        *p++ =
            (uint8_t[]){0x66, 0xf3, 0xf2, 0xf0, 0x2e, 0x67, 0x48}[rnd_below(&g->rng, g->mode == X86_MODE_64 ? 7 : 5)];
    *p++ = 0x62;
    p0 = mostly(g, (uint8_t)rnd(&g->rng), 8, 0);
    p0 = mostly(g, p0, 4, 0);
    p0 = mostly(g, p0, 0x10, 0x10);
    if (g->mode != X86_MODE_64)
        p0 |= 0xc0;
    p1 = mostly(g, (uint8_t)rnd(&g->rng), 4, 4);
    if (rnd_below(&g->rng, 2))
        p1 |= 0x78;
    p2 = mostly(g, (uint8_t)rnd(&g->rng), 0x80, 0);
    p2 = mostly(g, p2, 0x08, 0x08);
    if (rnd_below(&g->rng, 2))
        p2 &= 0xef;
    if (rnd_below(&g->rng, 2))
        p2 &= 0xf8;
    *p++ = p0;
    *p++ = p1;
    *p++ = p2;
    *p++ = (uint8_t)rnd(&g->rng);
    *p++ = modrm;
    return (unsigned)(put_address(g, p, modrm) - b);
}

static unsigned make_opmask(struct gen *g, uint8_t *b)
{
    static const uint8_t ops[] = {0x41, 0x42, 0x44, 0x45, 0x46, 0x47, 0x4a, 0x4b, 0x90, 0x91, 0x92, 0x93, 0x98, 0x99};
    uint8_t *p = b, modrm = (uint8_t)rnd(&g->rng);
    bool shift = !rnd_below(&g->rng, 3);

    *p++ = 0xc4;
    *p++ =
        mostly(g, (uint8_t)((rnd(&g->rng) & 0xe0) | (shift ? 3 : 1)), 0xe0, 0xe0) | (g->mode == X86_MODE_64 ? 0 : 0xc0);
    *p++ = mostly(g, (uint8_t)rnd(&g->rng), 0x40, 0x40) | (rnd_below(&g->rng, 2) ? 0x78 : 0);
    *p++ = shift ? (uint8_t)(0x30 + rnd_below(&g->rng, 4)) : ops[rnd_below(&g->rng, ARRAY_LEN(ops))];
    *p++ = modrm;
    return (unsigned)(put_address(g, p, modrm) - b);
}

static void prepare(struct dregs *d)
{
    memset(d, 0, sizeof *d);
    for (unsigned i = 0; i < 16; i++)
        d->gpr[i] = DATA_AT + 0x800;
    d->flags = 0x202;
    put_le16(d->xs, 0x37f);
    put_le32(d->xs + 24, 0x1f80);
    put_le64(d->xs + 512, 7);
}

static void one(struct gen *g)
{
    static struct dregs before, after;
    struct x86_insn in;
    uint8_t b[16];
    unsigned n;
    bool ours, cpu;

    memset(b, 0xcc, sizeof b);
    n = rnd_below(&g->rng, 16) ? make_evex(g, b) : make_opmask(g, b);
    (void)n;
    prepare(&before);
    ours = x86_decode(b, sizeof b, g->mode, &in) == X86_DECODE_OK;
    if (ours && !(in.row->attr & X86_A_AVX512))
        return;
    native_run_code(b, sizeof b, g->mode, &before, &after);
    cpu = after.vec != X86_UD;
    g->runs++;
    g->accepted += ours;
    if (cpu == ours && (after.vec != X86_BP || after.rip == CODE_AT + in.len + 1u))
        return;
    g->bad++;
    if (g->bad < 60 || g->verbose) {
        char text[128] = "";

        if (ours)
            x86_format(&in, CODE_AT, text, sizeof text);
        printf("DIFF cpu %s (vec %d, at %" PRId64 "), ours %s len %u %s:", cpu ? "runs it" : "#UD", after.vec,
               (int64_t)(after.rip - CODE_AT), ours ? "runs it" : "#UD", in.len, text);
        for (unsigned i = 0; i < 12; i++)
            printf(" %02x", b[i]);
        printf("\n");
    }
}

static bool host_has_all(void)
{
    static const enum x86_feature_id need[] = {
        X86_F_AVX512F,    X86_F_AVX512DQ,        X86_F_AVX512BW,    X86_F_AVX512VL,   X86_F_AVX512CD,
        X86_F_AVX512IFMA, X86_F_AVX512VBMI,      X86_F_AVX512VBMI2, X86_F_AVX512VNNI, X86_F_AVX512BITALG,
        X86_F_AVX512BF16, X86_F_AVX512VPOPCNTDQ, X86_F_GFNI,        X86_F_VAES,       X86_F_VPCLMUL};
    struct x86_features f;

    x86_features_host(&f);
    for (unsigned i = 0; i < ARRAY_LEN(need); i++)
        if (!x86_has(&f, need[i]))
            return false;
    return true;
}

int main(int argc, char **argv)
{
    static struct gen g = {.rng = {1}, .mode = X86_MODE_64};
    uint64_t total = 1000000;
    int fd = memfd_create("x86ud", 0);

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--total") == 0)
            total = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0)
            g.rng.s = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--mode") == 0)
            g.mode = strcmp(argv[i + 1], "32") ? X86_MODE_64 : X86_MODE_32;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!host_has_all()) {
        printf("SKIPPED: this host does not have all of AVX-512 that the decoder knows\n");
        return 77;
    }
    if (fd < 0 || ftruncate(fd, WINDOW) || !native_init(fd))
        return fprintf(stderr, "x86ud: cannot set up\n"), 2;
    for (uint64_t i = 0; i < total; i++)
        one(&g);
    printf("%" PRIu64 " encodings, %" PRIu64 " of them instructions, %" PRIu64 " differences\n", g.runs, g.accepted,
           g.bad);
    fflush(stdout);
    _exit(g.bad ? 1 : 0);
}
