/* rvdiff: random RISC-V instructions, translated by us and run by an oracle (qemu-riscv64 and the program `oracle`).
 * rvdiff ORACLE-COMMAND... [--count N] [--seed S] [--only NAME]: exits 1 at the first difference, which it prints. */
#include "guest/riscv/riscv.h"
#include "jit/arena.h"
#include "record.h"

#include <asm/prctl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t seed = 1;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull >> 3;
}

static const struct {
    const char *name;
    uint32_t match, mask;
} rows[] = {
#define RV(name, match, mask) {#name, match, mask},
#include "guest/riscv/insn.def"
#undef RV
};
static const char *only;
static uint64_t seen[RV_NR_OPS];

static uint64_t value(void)
{
    static const uint64_t odd[] = {0,         1,          2,         UINT64_MAX, INT64_MAX, UINT64_C(1) << 63,
                                   INT32_MAX, 0x80000000, 0xffffffff};

    switch (rnd() % 6) {
    case 0:
        return odd[rnd() % ARRAY_LEN(odd)];
    case 1:
        return (uint64_t)(int64_t)(int8_t)rnd();
    case 2:
        return (uint64_t)(int64_t)(int32_t)rnd();
    default:
        return (rnd() << 3 ^ rnd()) >> rnd() % 64;
    }
}

static uint32_t float32(void)
{
    static const uint32_t odd[] = {0,          0x80000000, 0x3f800000, 0x7f800000, 0xff800000, 0x7fc00000,
                                   0x7f800001, 0xffc12345, 1,          0x7fffff,   0x800000,   0x7f7fffff,
                                   0x4f000000, 0xcf000000, 0x5f000000, 0x3f000000, 0x40200000};

    return rnd() % 3 == 0   ? odd[rnd() % ARRAY_LEN(odd)]
           : rnd() % 3 == 0 ? (uint32_t)rnd()
                            : 0x3c000000 + (uint32_t)rnd() % 0x10000000;
}

static uint64_t fp_value(void)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   UINT64_C(1) << 63,
                                   0x3ff0000000000000,
                                   0x7ff0000000000000,
                                   0xfff0000000000000,
                                   0x7ff8000000000000,
                                   0x7ff0000000000001,
                                   0xfff8000000012345,
                                   0xfffffffffffff,
                                   0x10000000000000,
                                   0x7fefffffffffffff,
                                   0x41e0000000000000,
                                   0xc1e0000000000000,
                                   0x43e0000000000000,
                                   0xc3e0000000000000,
                                   0x3fe0000000000000,
                                   0x4004000000000000,
                                   0x41dfffffffc00000};

    switch (rnd() % 6) {
    case 0:
        return odd[rnd() % ARRAY_LEN(odd)];
    case 1:
        return rnd() << 3 ^ rnd();
    case 2:
        return 0x3ff0000000000000 + ((rnd() << 3 ^ rnd()) & 0x10fffffffffffff) - (rnd() % 2 << 54);
    default:
        return (rnd() % 16 ? UINT64_C(0xffffffff00000000) : 0) | float32();
    }
}

/* Not in random streams: what leaves the line, or the oracle's version does not know. */
static bool usable(unsigned i)
{
    const char *n = rows[i].name;
    static const char *const no[] = {
        "JAL",  "JALR", "BEQ",   "BNE",    "BLT",       "BGE",
        "BLTU", "BGEU", "ECALL", "EBREAK", "FENCE_I",   "CTZW" /* wrong in qemu 7.2 when the low half is 0 */,
        "LR_W", "LR_D", "SC_W",  "SC_D",   "CZERO_EQZ", "CZERO_NEZ"};

    for (unsigned k = 0; k < ARRAY_LEN(no); k++)
        if (!strcmp(n, no[k]))
            return false;
    return !only || strstr(n, only) == n;
}

static bool is(unsigned i, const char *prefix)
{
    return !strncmp(rows[i].name, prefix, strlen(prefix));
}

static uint32_t random_insn(void)
{
    unsigned i, major;
    uint32_t w;

    do {
        i = (unsigned)rnd() % ARRAY_LEN(rows);
    } while (!usable(i));
    seen[i + 1]++;
    w = ((uint32_t)rnd() & ~rows[i].mask) | rows[i].match;
    major = w & 0x7f;
    for (unsigned sh = 15; sh <= 20; sh += 5) /* x31 is not the record's */
        if ((rows[i].mask >> sh & 31) == 0 && (w >> sh & 31) == 31 && major != 0x37 && major != 0x17)
            w &= ~(2u << sh);
    w = (w & ~(31u << 7)) | (uint32_t)(rnd() % 30) << 7; /* rd: never x30, x31 */
    if (is(i, "CSR")) {
        static const uint32_t frm[] = {0, 1, 2, 3};

        if (rnd() % 2)
            return (w & 0xfffff) | 1 << 20; /* fflags */
        if (rnd() % 4 == 0)
            return (w & 0xfff) | 0x2000 | 3u << 20;                   /* csrr rd, fcsr */
        return 0x5073 | (w & 0xf80) | frm[rnd() % 4] << 15 | 2 << 20; /* csrrwi rd, frm, n */
    }
    if (major == 0x03 || major == 0x07) /* loads */
        return (w & 0x0000707f) | (w & 0xf80) | 30 << 15 | (uint32_t)(rnd() % 192 & 0xff) << 20;
    if (major == 0x23 || major == 0x27) { /* stores */
        uint32_t at = (uint32_t)rnd() % 192;

        return (w & 0x01f0707f) | 30 << 15 | (at & 31) << 7 | (at >> 5) << 25;
    }
    if (major == 0x2f) /* atomics: aligned at x30 */
        return (w & ~(31u << 15)) | 30 << 15;
    if ((major == 0x43 || major == 0x47 || major == 0x4b || major == 0x4f || major == 0x53) &&
        !(rows[i].mask & 0x7000)) {
        static const uint32_t rm[] = {0, 1, 2, 3, 7, 7, 7, 7};
        bool to_int = rows[i].match >> 28 == 0xc;

        w = (w & ~0x7000u) | (to_int && rnd() % 4 == 0 ? 4u : rm[rnd() % 8]) << 12;
    }
    return w;
}

static void random_record(struct rec *r)
{
    memset(r, 0, sizeof *r);
    for (unsigned i = 1; i < 30; i++)
        r->x[i] = value();
    r->x[30] = REC_DATA + 32;
    for (unsigned i = 0; i < 32; i++)
        r->f[i] = fp_value();
    r->fcsr = (rnd() % 4) << 5 | (rnd() % 4 ? 0 : rnd() % 32);
    for (unsigned i = 0; i < REC_MEM; i++)
        r->mem[i] = (uint8_t)rnd();
    r->n = 1 + (uint32_t)rnd() % REC_INSNS;
    for (unsigned i = 0; i < r->n; i++)
        r->insn[i] = random_insn();
}

/* --- Ours --- */
struct rig {
    struct jit_arena arena;
    struct ir_stubs stubs;
    struct ir_env env;
    struct rv_state *s;
    struct rv_decoder d;
    uint64_t *shadow;
    struct ir *ir;
    uint8_t *mem;
};

static bool rig_up(struct rig *r)
{
    struct jit_buf b;
    struct err *err = NULL;

    if (ir_host_lacks() || !jit_arena_init(&r->arena, 1 << 20, &err))
        return false;
    r->env = (struct ir_env){.pin = rv_pins, .nr_pins = rv_nr_pins, .stubs = &r->stubs, .nan = IR_NAN_DEFAULT};
    b = (struct jit_buf){r->arena.w, r->arena.w, r->arena.w + 65536, r->arena.x - r->arena.w, false};
    ir_make_stubs(&b, &r->env, &r->stubs);
    r->s = aligned_alloc(64, align_up(sizeof *r->s, 64));
    memset(r->s, 0, sizeof *r->s);
    ir_ctx_init(&r->s->ir);
    rv_reset(r->s);
    rv_decoder_init(&r->d);
    r->shadow = calloc(4096, 8);
    r->ir = malloc(sizeof *r->ir);
    r->mem =
        mmap((void *)REC_DATA, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    syscall(SYS_arch_prctl, ARCH_SET_GS, r->s);
    return r->mem != MAP_FAILED;
}

static bool run_ours(struct rig *r, struct rec *rec)
{
    static struct jit_block_out out;
    uint8_t *at = r->arena.w + 65536;
    struct jit_buf b = {at, at, at + 65536, r->arena.x - r->arena.w, false};
    struct rv_state *s = r->s;

    if (!rv_translate(&r->d, r->ir, REC_CODE, (const uint8_t *)rec->insn, 4 * rec->n, NULL, rec->n) ||
        !ir_compile(&b, r->ir, &r->env, &out))
        return false;
    for (unsigned i = 0; i < out.nr_links; i++)
        put_le32(at + out.link[i].at, out.link[i].stub - (out.link[i].at + 4));
    memcpy(s->x, rec->x, sizeof s->x);
    for (unsigned i = 0; i < 32; i++)
        s->f[i].d[0] = rec->f[i];
    rv_set_fcsr(s, (uint32_t)rec->fcsr);
    memcpy(r->mem, rec->mem, REC_MEM);
    s->ir.ss_rsp = s->ir.ss_top = (uintptr_t)(r->shadow + 4000);
    s->ir.enter_target = r->arena.x + 65536;
    if (((unsigned (*)(void))(uintptr_t)r->stubs.enter)() != IR_EXIT_TO_LINK)
        return false;
    memcpy(rec->x, s->x, sizeof s->x);
    for (unsigned i = 0; i < 32; i++)
        rec->f[i] = s->f[i].d[0];
    rec->fcsr = rv_get_fcsr(s);
    memcpy(rec->mem, r->mem, REC_MEM);
    return true;
}

static bool same(const struct rec *in, const struct rec *want, const struct rec *got, const struct rv_decoder *d)
{
    bool ok = true;

    for (unsigned i = 1; i < 31; i++)
        if (want->x[i] != got->x[i]) {
            printf("x%u: %016" PRIx64 ", oracle %016" PRIx64 "\n", i, got->x[i], want->x[i]);
            ok = false;
        }
    for (unsigned i = 0; i < 32; i++)
        if (want->f[i] != got->f[i]) {
            printf("f%u: %016" PRIx64 ", oracle %016" PRIx64 "\n", i, got->f[i], want->f[i]);
            ok = false;
        }
    if (want->fcsr != got->fcsr) {
        printf("fcsr: %02" PRIx64 ", oracle %02" PRIx64 "\n", got->fcsr, want->fcsr);
        ok = false;
    }
    if (memcmp(want->mem, got->mem, REC_MEM)) {
        printf("memory differs\n");
        ok = false;
    }
    for (unsigned i = 0; !ok && i < in->n; i++)
        printf("  %08x %s\n", in->insn[i], rv_op_names[rv_decode(d, in->insn[i])]);
    return ok;
}

static bool run_oracle(char **argv, struct rec *in, struct rec *out, unsigned n)
{
    char a[] = "/tmp/rvdiff-in-XXXXXX", b[] = "/tmp/rvdiff-out-XXXXXX";
    int fa = mkstemp(a), fb = mkstemp(b), status = 0;
    pid_t pid;
    bool ok;

    ok = write(fa, in, n * sizeof *in) == (ssize_t)(n * sizeof *in);
    lseek(fa, 0, SEEK_SET);
    pid = fork();
    if (!pid) {
        dup2(fa, 0);
        dup2(fb, 1);
        execvp(argv[0], argv);
        _exit(127);
    }
    waitpid(pid, &status, 0);
    ok = ok && pread(fb, out, n * sizeof *out, 0) == (ssize_t)(n * sizeof *out);
    if (!ok)
        printf("the oracle failed (status %x)\n", status);
    close(fa);
    close(fb);
    unlink(a);
    unlink(b);
    return ok;
}

int main(int argc, char **argv)
{
    enum { BATCH = 4000 };
    static struct rig rig;
    static struct rec in[BATCH], want[BATCH];
    uint64_t count = 10000, done = 0;
    char *cmd[16] = {0};
    unsigned n = 0;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--count") && i + 1 < argc)
            count = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 0) * 7919 + 1;
        else if (!strcmp(argv[i], "--only") && i + 1 < argc)
            only = argv[++i];
        else if (n < ARRAY_LEN(cmd) - 1)
            cmd[n++] = argv[i];
    }
    if (!n || !rig_up(&rig)) {
        fprintf(stderr, "usage: rvdiff ORACLE-COMMAND... [--count N] [--seed S] [--only NAME]\n");
        return 2;
    }
    while (done < count) {
        for (unsigned i = 0; i < BATCH; i++)
            random_record(&in[i]);
        if (!run_oracle(cmd, in, want, BATCH))
            return 2;
        for (unsigned i = 0; i < BATCH; i++) {
            struct rec got = in[i];

            if (!run_ours(&rig, &got)) {
                printf("not translated\n");
                return 1;
            }
            if (!same(&in[i], &want[i], &got, &rig.d))
                return 1;
            done += in[i].n;
        }
    }
    printf("%" PRIu64 " instructions agree\n", done);
    return 0;
}
