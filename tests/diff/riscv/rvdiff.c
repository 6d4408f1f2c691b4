/* rvdiff --program ORACLE [--engine QEMU2] [--count N] [--seed S] [--row NAME] [--oracle QEMU] [--coverage] [-v]
 *
 * Every row of insn.def and every compressed form, N records of each: up to eight random instructions, the last of the
 * row in turn. Registers, fcsr and memory must come out of our translator (in this process, or with --engine through
 * the whole of user mode, then branches too) as they come out of the oracle, Debian's qemu-riscv64, running the program
 * `oracle` (oracle.c) on the same records. With --engine also what leaves a block, and faults. CZERO_*, which the
 * oracle's version does not know, is three other instructions there. CTZW runs alone: the oracle is wrong when the low
 * half is 0. Exit 1 when anything differed, 77 when the oracle is not installed. proves: user mode's exactness
 * (differential tester) */
#include "../runner.h"
#include "guest/riscv/riscv.h"
#include "jit/arena.h"
#include "record.h"

#include <asm/prctl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct runner run;
static uint64_t rnd(void)
{
    return val_rnd(&run.rng) >> 3;
}

static const struct {
    const char *name;
    uint32_t match, mask;
} rows[] = {
#define RV(name, match, mask) {#name, match, mask},
#include "guest/riscv/insn.def"
#undef RV
};
/* Compressed forms by quadrant and funct3, the last two of the arithmetic ones by more bits. */
static const char *const rvc[] = {
    "C.ADDI4SPN", "C.FLD",   "C.LW",   "C.LD",   "",       "C.FSD",  "C.SW",   "C.SD",     "C.ADDI",    "C.ADDIW",
    "C.LI",       "C.LUI",   "",       "C.J",    "C.BEQZ", "C.BNEZ", "C.SLLI", "C.FLDSP",  "C.LWSP",    "C.LDSP",
    "",           "C.FSDSP", "C.SWSP", "C.SDSP", "C.SRLI", "C.SRAI", "C.ANDI", "C.SUB",    "C.XOR",     "C.OR",
    "C.AND",      "C.SUBW",  "C.ADDW", "C.MV",   "C.ADD",  "C.JR",   "C.JALR", "C.EBREAK", "C.ADDI16SP"};
enum { RVC_J = 13, RVC_BEQZ, RVC_BNEZ, RVC_JR = 35, RVC_JALR, RVC_EBREAK, RVC_ADDI16SP };
enum { NR_ROWS = sizeof rows / sizeof rows[0], NR_RVC = sizeof rvc / sizeof rvc[0], NR_ALL = NR_ROWS + NR_RVC };
static unsigned long seen[NR_ALL], bad[NR_ALL];

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

static uint64_t fp_value(void)
{
    if (rnd() % 2)
        return val_fp(&run.rng, 64);
    return (rnd() % 16 ? UINT64_C(0xffffffff00000000) : 0) | val_fp(&run.rng, 32);
}

static bool named(unsigned i, const char *const *list, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        if (!strcmp(rows[i].name, list[k]))
            return true;
    return false;
}

/* Leaves a block, or is what the oracle does not know: stands where its record puts it, with --engine only. */
static bool special(unsigned i)
{
    static const char *const list[] = {"JALR", "ECALL", "EBREAK", "FENCE_I", "CZERO_EQZ", "CZERO_NEZ"};

    return named(i, list, ARRAY_LEN(list));
}

static bool is_branch(unsigned i)
{
    static const char *const br[] = {"JAL", "BEQ", "BNE", "BLT", "BGE", "BLTU", "BGEU"};

    return named(i, br, ARRAY_LEN(br));
}

/* Stands anywhere in a stream. */
static bool usable(unsigned i)
{
    static const char *const no[] = {"CTZW", "LR_W", "LR_D", "SC_W", "SC_D"};

    return !special(i) && !is_branch(i) && !named(i, no, ARRAY_LEN(no));
}

static bool is(unsigned i, const char *prefix)
{
    return !strncmp(rows[i].name, prefix, strlen(prefix));
}

/* An address in mem, up to `wide` and more bytes behind its beginning; with --engine now and then one at an end of what
 * is mapped, or anywhere: all faults. */
static uint64_t aim(unsigned wide)
{
    uint64_t k = rnd();

    if (!run.engine || k % 16)
        return REC_DATA + (wide ? rnd() % wide : 32 + (run.engine && k / 16 % 8 == 0 ? rnd() % 8 : 0));
    return k / 16 % 8 == 0 ? rnd() >> (8 + k % 40) : (k / 16 % 2 ? REC_MAP : REC_MAP + 0x2000) - rnd() % 200;
}

static uint32_t insn_of(unsigned i)
{
    unsigned major;
    uint32_t w;

    seen[i]++;
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

static uint32_t random_insn(void)
{
    unsigned i;

    do {
        i = (unsigned)rnd() % NR_ROWS;
    } while (!usable(i));
    return insn_of(i);
}

static unsigned rvc_row(uint16_t c)
{
    static const uint8_t arith[] = {27, 28, 29, 30, 31, 32, 0, 0};
    unsigned n = (c & 3u) << 3 | c >> 13;

    if (n == 12) /* quadrant 1 */
        return NR_ROWS + ((c >> 10 & 3) < 3 ? 24u + (c >> 10 & 3) : arith[(c >> 10 & 4) | (c >> 5 & 3)]);
    if (n == 11)
        return NR_ROWS + ((c >> 7 & 31) == 2 ? (unsigned)RVC_ADDI16SP : n);
    if (n == 20 && !(c >> 2 & 31))
        return NR_ROWS + (!(c >> 12 & 1) ? RVC_JR : c >> 7 & 31 ? RVC_JALR : RVC_EBREAK);
    return NR_ROWS + (n == 20 ? 33u + (c >> 12 & 1) : n);
}

static bool rvc_memory(unsigned row)
{
    return (row - NR_ROWS < 8 && row != NR_ROWS) || (row > NR_ROWS + 16 && row < NR_ROWS + 24);
}

/* A compressed instruction of the row that neither jumps nor writes the tester's registers; 0: none was found. */
static uint16_t rvc_of(unsigned row)
{
    for (unsigned k = 0; k < 100000; k++) {
        uint16_t c = (uint16_t)rnd();
        uint32_t w = (c & 3) == 3 ? 0 : rv_expand(c);
        unsigned major = w & 0x7f, rd = w >> 7 & 31;
        bool store = major == 0x23 || major == 0x27;

        if (!w || rvc_row(c) != row || major == 0x67 || major == 0x6f || major == 0x63 || major == 0x73)
            continue;
        if ((!store && rd >= 30) || (w >> 15 & 31) == 31 || (major == 0x33 && (w >> 20 & 31) == 31))
            continue;
        if ((store && (w >> 20 & 31) >= 30 && major == 0x23))
            continue;
        return c;
    }
    return 0;
}

/* A jump over the next compressed instruction, or a trap; 0: it is neither. Where a register is jumped to it is aimed.
 */
static uint16_t rvc_flow(struct rec *r, unsigned row, uint64_t pc)
{
    unsigned rs = 1 + (unsigned)rnd() % 29;

    switch (row - NR_ROWS) {
    case RVC_J:
        return 0xa011;
    case RVC_BEQZ:
        return (uint16_t)(0xc011 | rnd() % 8 << 7);
    case RVC_BNEZ:
        return (uint16_t)(0xe011 | rnd() % 8 << 7);
    case RVC_JR:
    case RVC_JALR:
        r->x[rs] = pc + 4 + rnd() % 2;
        return (uint16_t)(row - NR_ROWS == RVC_JR ? 0x8002 | rs << 7 : 0x9002 | rs << 7);
    case RVC_EBREAK:
        return 0x9002;
    default:
        return 0;
    }
}

/* One of the row in front, so that its address is what the record says, and another behind it. */
static bool rvc_pair(struct rec *r, unsigned row, uint64_t pc)
{
    unsigned other;
    uint16_t a = rvc_flow(r, row, pc), b = 0;

    if (a && !run.engine)
        return false;
    r->n = 1;
    if (!a)
        a = rvc_of(row);

    while (a && !b) {
        other = NR_ROWS + (unsigned)rnd() % NR_RVC;
        if (rvc[other - NR_ROWS][0] && !rvc_memory(other) && (other - NR_ROWS < RVC_J || other - NR_ROWS > RVC_BNEZ) &&
            (other - NR_ROWS < RVC_JR || other - NR_ROWS == RVC_ADDI16SP))
            b = rvc_of(other);
    }
    if (!a)
        return false;
    for (unsigned i = 8; i < 16 && rvc_memory(row); i++)
        r->x[i] = aim(128);
    if (rvc_memory(row))
        r->x[2] = aim(128);
    r->insn[0] = a | (uint32_t)b << 16;
    seen[row]++;
    return true;
}

static bool put_special(struct rec *r, unsigned row, uint64_t pc)
{
    uint32_t w = insn_of(row), imm = (uint32_t)rnd() & 0xfff;
    unsigned rs = 1 + (unsigned)rnd() % 29;

    if (is(row, "JALR")) { /* over the next instruction */
        r->n = 2;
        r->insn[0] = imm << 20 | rs << 15 | (w & 0xf80) | 0x67;
        r->insn[1] = random_insn();
        r->x[rs] = pc + 8 + rnd() % 2 - (uint64_t)((int64_t)(int32_t)(imm << 20) >> 20);
    } else if (is(row, "CZERO")) {
        r->n = 1;
        r->insn[0] = w;
        if (rnd() % 2)
            r->x[w >> 20 & 31] = 0;
    } else {
        r->insn[r->n - 1] = is(row, "FENCE_I") ? 0x100f : rows[row].match;
        if (is(row, "ECALL")) { /* no such system call */
            r->n = 2;
            r->insn[0] = 0x73;
            r->insn[1] = random_insn();
            r->x[17] = 5000 + (rnd() & 0xfff);
        }
    }
    return true;
}

/* The row's instruction in the places that are right for it. */
static bool put_row(struct rec *r, unsigned row, uint64_t pc)
{
    unsigned last = r->n - 1;

    if (row >= NR_ROWS)
        return rvc[row - NR_ROWS][0] && rvc_pair(r, row, pc);
    if ((special(row) || is_branch(row)) && !run.engine)
        return false;
    if (special(row))
        return put_special(r, row, pc);
    r->insn[last] = insn_of(row);
    if (is(row, "CTZW")) {
        r->n = 1;
        r->insn[0] = r->insn[last];
        r->x[r->insn[0] >> 15 & 31] |= 1u << rnd() % 32;
        return (r->insn[0] >> 15 & 31) != 0;
    }
    if (is(row, "SC_")) { /* armed by a load of the same size, or of another */
        r->n = r->n < 2 ? 2 : r->n;
        r->insn[r->n - 1] = r->insn[last];
        r->insn[r->n - 2] = 0x1000002f | (rnd() % 8 ? r->insn[last] & 0x7000 : 0x2000) | 30 << 15 | 5 << 7;
    }
    if (is_branch(row)) { /* over the next instruction */
        r->n = r->n < 2 ? 2 : r->n;
        r->insn[r->n - 2] =
            is(row, "JAL") ? (r->insn[last] & 0xf80) | 0x0080006f : (r->insn[last] & 0x01fff07f) | 8u << 7;
        r->insn[r->n - 1] = random_insn();
    }
    return true;
}

static bool make(struct rec *r, unsigned row, uint64_t pc)
{
    memset(r, 0, sizeof *r);
    for (unsigned i = 1; i < 30; i++)
        r->x[i] = value();
    r->x[30] = aim(0);
    for (unsigned i = 0; i < 32; i++)
        r->f[i] = fp_value();
    r->fcsr = (rnd() % 4) << 5 | (rnd() % 4 ? 0 : rnd() % 32);
    for (unsigned i = 0; i < REC_MEM; i++)
        r->mem[i] = (uint8_t)rnd();
    r->n = 1 + (uint32_t)rnd() % REC_INSNS;
    for (unsigned i = 0; i < r->n; i++)
        r->insn[i] = random_insn();
    return put_row(r, row, pc);
}

/* CZERO for an oracle that lacks it, through x31. */
static void substitute(struct rec *r)
{
    uint32_t w = r->insn[0], rs2 = w >> 20 & 31;

    if (r->n != 1 || (w & 0xfe00507f) != 0x0e005033)
        return;
    r->insn[0] = (w & 0x7000) == 0x5000 ? rs2 << 20 | 31 << 7 | 0x3033 : rs2 << 15 | 1 << 20 | 31 << 7 | 0x3013;
    r->insn[1] = 0x40000033 | 31 << 20 | 31 << 7;
    r->insn[2] = 0x7033 | 31 << 20 | (w & 0xf8f80);
    r->n = 3;
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
    r->ir = calloc(1, sizeof *r->ir);
    r->ir->forwards = true; /* as in user mode */
    r->mem =
        mmap((void *)REC_MAP, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    syscall(SYS_arch_prctl, ARCH_SET_GS, r->s);
    return r->mem != MAP_FAILED;
}

static bool run_ours(struct rig *r, struct rec *rec, uint64_t pc)
{
    static struct jit_block_out out;
    uint8_t *at = r->arena.w + 65536;
    struct jit_buf b = {at, at, at + 65536, r->arena.x - r->arena.w, false};
    struct rv_state *s = r->s;

    if (!rv_translate(&r->d, r->ir, pc, (const uint8_t *)rec->insn, 4 * rec->n, NULL, 4 * rec->n) ||
        !ir_compile(&b, r->ir, &r->env, &out))
        return false;
    for (unsigned i = 0; i < out.nr_links; i++)
        put_le32(at + out.link[i].at, out.link[i].stub - (out.link[i].at + 4));
    memcpy(s->x, rec->x, sizeof s->x);
    for (unsigned i = 0; i < 32; i++)
        s->f[i].d[0] = rec->f[i];
    rv_set_fcsr(s, (uint32_t)rec->fcsr);
    memset(r->mem, 0, 0x2000);
    memcpy(r->mem + (REC_DATA - REC_MAP), rec->mem, REC_MEM);
    s->ir.ss_rsp = s->ir.ss_top = (uintptr_t)(r->shadow + 4000);
    s->ir.enter_target = r->arena.x + 65536;
    if (((unsigned (*)(void))(uintptr_t)r->stubs.enter)() != IR_EXIT_TO_LINK)
        return false;
    memcpy(rec->x, s->x, sizeof s->x);
    for (unsigned i = 0; i < 32; i++)
        rec->f[i] = s->f[i].d[0];
    rec->fcsr = rv_get_fcsr(s);
    memcpy(rec->mem, r->mem + (REC_DATA - REC_MAP), REC_MEM);
    return true;
}

static bool same(const struct rec *in, const struct rec *want, const struct rec *got, const struct rv_decoder *d,
                 bool loud)
{
    bool fault = runner_same_fault(want->sig, want->addr, got->sig, got->addr);
    bool ok = !memcmp(want->x + 1, got->x + 1, 30 * 8) && !memcmp(want->f, got->f, sizeof want->f) &&
              want->fcsr == got->fcsr && (fault || !memcmp(want->mem, got->mem, REC_MEM)) && want->sig == got->sig &&
              want->pc == got->pc && (fault || want->addr == got->addr);

    if (ok || !loud)
        return ok;
    for (unsigned i = 0; i < in->n; i++)
        printf("  %08x %s\n", in->insn[i], rv_op_names[rv_decode(d, in->insn[i])]);
    for (unsigned i = 1; i < 31; i++)
        if (want->x[i] != got->x[i])
            printf("x%u: %016" PRIx64 ", oracle %016" PRIx64 ", was %016" PRIx64 "\n", i, got->x[i], want->x[i],
                   in->x[i]);
    for (unsigned i = 0; i < 32; i++)
        if (want->f[i] != got->f[i])
            printf("f%u: %016" PRIx64 ", oracle %016" PRIx64 ", was %016" PRIx64 "\n", i, got->f[i], want->f[i],
                   in->f[i]);
    if (want->fcsr != got->fcsr)
        printf("fcsr: %02" PRIx64 ", oracle %02" PRIx64 "\n", got->fcsr, want->fcsr);
    if (memcmp(want->mem, got->mem, REC_MEM))
        printf("memory differs\n");
    if (want->sig != got->sig || want->addr != got->addr || want->pc != got->pc)
        printf("signal %u at %" PRIx64 " pc %" PRId64 ", oracle %u at %" PRIx64 " pc %" PRId64 "\n", got->sig,
               got->addr, (int64_t)got->pc, want->sig, want->addr, (int64_t)want->pc);
    return false;
}

static void see(const struct rec *in, const struct rec *out)
{
    static const uint8_t flag[] = {RUNNER_INEXACT, RUNNER_UNDERFLOW, RUNNER_OVERFLOW, RUNNER_BY_ZERO, RUNNER_INVALID};
    static const uint8_t mode[] = {RUNNER_NEAREST, RUNNER_TO_ZERO, RUNNER_DOWN, RUNNER_UP};
    bool fp = false;

    for (unsigned i = 0; i < 32; i++) {
        fp |= in->f[i] != out->f[i];
        if (in->f[i] != out->f[i])
            runner_see_fp(&run, out->f[i]);
    }
    for (unsigned i = 0; i < 5; i++)
        run.seen[flag[i]] += out->fcsr >> i & ~in->fcsr >> i & 1;
    run.seen[mode[in->fcsr >> 5 & 3]] += fp;
    runner_see_fault(&run, out->sig, out->addr, REC_MAP, REC_MAP + 0x2000);
    run.seen[RUNNER_MISALIGNED] += !out->sig && in->x[30] & 7;
    run.seen[RUNNER_CROSSING] += !out->sig && in->x[30] <= REC_MAP + 0x1000 && in->x[30] + 192 > REC_MAP + 0x1000;
}

static int flush(struct rig *rig, struct rec *in, struct rec *want, struct rec *got, const uint16_t *row, unsigned n)
{
    int r;

    for (unsigned i = 0; i < n; i++) {
        got[i] = in[i];
        substitute(&got[i]);
    }
    r = runner_run(&run, run.oracle, got, n * sizeof *got, want, n * sizeof *want);
    if (!r && run.engine)
        r = runner_run(&run, run.engine, in, n * sizeof *in, got, n * sizeof *got);
    for (unsigned i = 0; i < n && !r; i++) {
        if (!run.engine) {
            got[i] = in[i];
            if (!run_ours(rig, &got[i], REC_CODE + (uint64_t)i * REC_STRIDE)) {
                printf("%s: not translated\n", row[i] < NR_ROWS ? rows[row[i]].name : rvc[row[i] - NR_ROWS]);
                bad[row[i]]++;
                continue;
            }
        }
        see(&in[i], &want[i]);
        if (!same(&in[i], &want[i], &got[i], &rig->d, bad[row[i]] < (run.verbose ? 20u : 2u)))
            bad[row[i]]++;
    }
    return r;
}

static int all_rows(struct rig *rig)
{
    enum { BATCH = 4000 };
    static struct rec in[BATCH], want[BATCH], got[BATCH];
    static uint16_t at[BATCH];
    unsigned n = 0;
    int r = 0;

    for (unsigned row = 0; row < NR_ALL && !r; row++) {
        if (run.only && strcmp(run.only, row < NR_ROWS ? rows[row].name : rvc[row - NR_ROWS]))
            continue;
        for (unsigned long k = 0; k < run.count && !r; k++) {
            if (!make(&in[n], row, REC_CODE + (uint64_t)n * REC_STRIDE))
                continue;
            at[n++] = (uint16_t)row;
            if (n == BATCH) {
                r = flush(rig, in, want, got, at, n);
                n = 0;
            }
        }
    }
    return r || !n ? r : flush(rig, in, want, got, at, n);
}

int main(int argc, char **argv)
{
    static struct rig rig;
    int r;

    run.oracle = "qemu-riscv64";
    if (!runner_options(&run, argc, argv) || !rig_up(&rig))
        return 2;
    r = all_rows(&rig);
    for (unsigned i = 0; i < NR_ALL; i++)
        if (i < NR_ROWS || rvc[i - NR_ROWS][0])
            runner_row(&run, "", i < NR_ROWS ? rows[i].name : rvc[i - NR_ROWS], seen[i], bad[i]);
    return runner_end(&run, r);
}
