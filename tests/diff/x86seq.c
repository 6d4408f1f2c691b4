/* x86seq [--count N] [--seed S] [--engine interp|tcg] [--mode 32|64] [--max K] [--walk 1]: runs of up to K random
 * instructions with forward jumps, calls that come back and a small loop, on the bare CPU and through an engine; all
 * state must agree at the end, or at the first fault, whose address must agree too. What single instructions cannot
 * show: flags that live across others, checks that several accesses share, pushes and pops that are put together, what
 * is left undone when one of them faults.
 *
 * Pointers stay in registers that the run does not write; an instruction that reads flags the manuals leave undefined
 * is not put behind one that leaves them so. A run that differs is made as short as it goes before it is printed.
 *
 * In 64-bit mode some runs walk: hundreds of rounds in which pointers move by constants, or are computed anew, over
 * pages of which the last may only be read. --walk makes all of them so. */
#include "diff.h"

#include "base/bytes.h"
#include <stdio.h>
#include <unistd.h>

enum { MAX_ITEMS = 40, RUN_BYTES = 0x600 };
enum item_kind { PLAIN, JUMP, LOOP, CALL };
struct item {
    struct x86_insn in;
    enum item_kind kind;
    unsigned over; /* JUMP: how many items it may skip; CALL: what the function does, or AGAIN */
    uint8_t op[2]; /* JUMP: opcode, without displacement */
    uint8_t op_len;
    uint64_t target; /* RIP-relative: address of the operand */
};
struct seq {
    struct guest *g;
    struct rng rng;
    int mode;
    unsigned max;
    bool all_walk, walk;
    unsigned rounds;
    uint64_t bad, runs, insns, faults;
    struct item item[MAX_ITEMS];
    unsigned nr;
    struct dregs before;
    uint8_t data[DATA_SIZE];
    uint64_t undefined; /* flags that may differ at the end */
    struct dregs cpu, ours;
    char what[256];
};

/* RBX RBP RSI R9 R13 point to data, R14 and RDI are small and index, R15 counts rounds; RSP is for pushes and pops. */
static bool is_pointer(int mode, unsigned reg)
{
    return reg == X86_RBX || reg == X86_RBP || reg == X86_RSI || (mode == X86_MODE_64 && (reg == 9 || reg == 13));
}

static uint32_t kept(int mode)
{
    return 1u << X86_RBX | 1u << X86_RBP | 1u << X86_RSI | 1u << X86_RDI | 1u << X86_RSP |
           (mode == X86_MODE_64 ? 0xe200u : 0);
}

static bool writes_kept(const struct seq *s, const struct x86_insn *in)
{
    bool stack = in->row->attr & X86_A_STACK;

    for (unsigned i = 0; i < in->nr_ops; i++) {
        const struct x86_operand *o = &in->ops[i];
        unsigned reg = o->high8 ? (o->reg & 3u) : o->reg;

        if (o->kind == X86_OP_GPR && o->acc & X86_ACC_W && kept(s->mode) >> reg & 1)
            return true;
    }
    return in->row->gpr_w & kept(s->mode) & ~(stack ? 1u << X86_RSP : 0);
}

static bool address_ok(struct seq *s, struct x86_insn *in, struct item *it)
{
    unsigned index = s->mode == X86_MODE_64 ? 14 : X86_RDI;

    if (in->mem_op < 0 && !(in->row->attr & X86_A_NOP_MEM))
        return true;
    if (!in->has_modrm || in->row->attr & X86_A_VSIB || in->adsz != (s->mode == X86_MODE_64 ? 8 : 4))
        return false;
    if (in->mem_op < 0)
        return true;
    if (in->base == X86_REG_RIP) {
        it->target = DATA_AT + 0x800 + rnd_below(&s->rng, 0xc00);
        return true;
    }
    if (in->base == X86_NO_REG || !is_pointer(s->mode, in->base) || (in->index != X86_NO_REG && in->index != index))
        return false;
    if (in->disp_len >= 4) {
        in->disp = (int64_t)rnd_below(&s->rng, 0x600) - 0x300;
        put_le(in->bytes + in->off_disp, (uint64_t)in->disp, in->disp_len);
    }
    return true;
}

/* EVEX.X counts for nothing where ModRM names a general register. With it, AMD's Zen 4 reads RSP as it was before the
 * pushes and pops that came right before. */
static bool reads_stale_rsp(const struct x86_insn *in)
{
    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->enc == X86_ENC_EVEX && in->ops[i].kind == X86_OP_GPR && in->ops[i].where == X86_IN_RM)
            return in->ops[i].reg == X86_RSP && in->rex & 2;
    return false;
}

static bool usable(struct seq *s, struct x86_insn *in, struct item *it, uint64_t undefined)
{
    static const char *const no[] = {"enter",  "leave",    "pushf",      "ldmxcsr",     "fldcw", "fldenv",   "frstor",
                                     "fnsave", "fnstenv",  "emms",       "pusha",       "popa",  "vzeroall", "xlat",
                                     "xlatb",  "maskmovq", "maskmovdqu", "vmaskmovdqu", "rdpru", "bt",       "bts",
                                     "btr",    "btc",      "lahf",       "dpps",        "dppd",  "vdpps",    "vdppd"};

    if (gen_skip(in) || reads_stale_rsp(in) || gen_is_xstate(in) || !guest_has(s->g, in) ||
        in->row->attr & X86_A_STRING)
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(no); i++)
        if (strcmp(in->row->mnem, no[i]) == 0 && (no[i][0] != 'b' || in->ops[1].kind == X86_OP_GPR))
            return false;
    return !writes_kept(s, in) && !(in->row->flags_r & undefined) && address_ok(s, in, it);
}

static bool pick_plain(struct seq *s, struct item *it, uint64_t undefined)
{
    for (unsigned t = 0; t < 4000; t++) {
        /* plain arithmetic and moves come first in the table: half of all */
        const struct drow *row = &drows[rnd_below(&s->rng, rnd_below(&s->rng, 2) ? nr_drows : nr_drows / 6)];

        *it = (struct item){.kind = PLAIN};
        if (gen_insn(&s->rng, row, s->mode, &it->in) && usable(s, &it->in, it, undefined))
            return true;
    }
    return false;
}

static void pick_jump(struct seq *s, struct item *it, uint64_t undefined)
{
    static const uint16_t reads[8] = {X86_OF, X86_CF, X86_ZF,          X86_CF | X86_ZF,
                                      X86_SF, X86_PF, X86_SF | X86_OF, X86_ZF | X86_SF | X86_OF};
    unsigned cc = (unsigned)rnd_below(&s->rng, 16);

    *it = (struct item){.kind = JUMP, .over = 1 + (unsigned)rnd_below(&s->rng, 3)};
    if (reads[cc >> 1] & undefined || rnd_below(&s->rng, 6) == 0) {
        it->op[0] = rnd_below(&s->rng, 3) ? 0xe9 : 0xe8; /* jmp, call */
        it->op_len = 1;
    } else {
        it->op[0] = 0x0f;
        it->op[1] = (uint8_t)(0x80 | cc);
        it->op_len = 2;
    }
}

/* What functions do that are called, and come back: with flags, without, with the stack. AGAIN: the one before. */
static const struct {
    uint8_t len, b[8];
} bodies[] = {{0, ""},
              {2, "\x50\x58"},                  /* push rax; pop rax */
              {2, "\x01\xd0"},                  /* add eax, edx */
              {3, "\x8d\x40\x07"},              /* lea eax, [rax+7] */
              {2, "\x85\xc0"},                  /* test eax, eax */
              {4, "\x50\x52\x59\x58"},          /* push rax; push rdx; pop rcx; pop rax */
              {6, "\x8b\x04\x24\x33\x04\x24"}}; /* mov eax, [rsp]; xor eax, [rsp] */
enum { AGAIN = 100 };

static unsigned length_of(const struct item *it)
{
    if (it->kind == CALL) /* jmp over the function; the function; ret; call */
        return it->over == AGAIN ? 5 : 5 + bodies[it->over].len + 1u + 5;
    return it->kind == PLAIN ? it->in.len : it->kind == JUMP ? it->op_len + 4u : 10;
}

/* *fn: where the function begins that was laid out last, 0: none. */
static void lay_call(const struct item *it, uint8_t *b, unsigned at, unsigned *fn)
{
    uint8_t *p = b + at;

    if (it->over == AGAIN && !*fn) {
        memcpy(p, "\x0f\x1f\x44\x00\x00", 5); /* its function was taken away: nop */
        return;
    }
    if (it->over != AGAIN) {
        unsigned n = bodies[it->over].len;

        *p++ = 0xe9;
        put_le32(p, n + 1);
        p += 4;
        *fn = (unsigned)(p - b);
        memcpy(p, bodies[it->over].b, n);
        p += n;
        *p++ = 0xc3;
    }
    *p++ = 0xe8;
    put_le32(p, *fn - (unsigned)(p + 4 - b));
}

/* The bytes of all items, displacements put right. */
static unsigned lay_out(struct seq *s, uint8_t *b)
{
    unsigned at[MAX_ITEMS + 1], pos = 0, fn = 0, last = s->nr && s->item[s->nr - 1].kind == LOOP ? s->nr - 1 : s->nr;

    for (unsigned i = 0; i < s->nr; i++) {
        at[i] = pos;
        pos += length_of(&s->item[i]);
    }
    at[s->nr] = pos;
    for (unsigned i = 0; i < s->nr; i++) {
        struct item *it = &s->item[i];
        uint8_t *p = b + at[i];

        if (it->kind == PLAIN) {
            if (it->target)
                put_le32(it->in.bytes + it->in.off_disp, (uint32_t)(it->target - (CODE_AT + at[i + 1])));
            memcpy(p, it->in.bytes, it->in.len);
        } else if (it->kind == CALL) {
            lay_call(it, b, at[i], &fn);
        } else if (it->kind == JUMP) {
            unsigned to = i + 1 + it->over;

            memcpy(p, it->op, it->op_len);
            put_le32(p + it->op_len, at[to < last ? to : last] - at[i + 1]);
        } else { /* sub r15d, 1; jnz start */
            memcpy(p, "\x41\x83\xef\x01\x0f\x85", 6);
            put_le32(p + 6, -(uint32_t)at[i + 1]);
        }
    }
    return pos;
}

static void put_item(struct seq *s, const uint8_t *bytes, unsigned len)
{
    unsigned at = (unsigned)rnd_below(&s->rng, s->nr + 1);

    if (s->nr + 2 > MAX_ITEMS)
        return;
    memmove(&s->item[at + 1], &s->item[at], (s->nr - at) * sizeof s->item[0]);
    s->nr++;
    s->item[at] = (struct item){.kind = PLAIN};
    if (x86_decode(bytes, len, s->mode, &s->item[at].in) != X86_DECODE_OK)
        abort();
}

/* reg += by, in one of the ways there are. */
static void move_by(struct seq *s, unsigned reg, int32_t by)
{
    uint8_t rex = (uint8_t)(0x48 | reg >> 3), low = reg & 7, b[8] = {rex, 0x81, (uint8_t)(0xc0 | low)};

    switch (rnd_below(&s->rng, 6)) {
    case 0: /* sub */
        b[2] |= 0x28;
        put_le32(b + 3, (uint32_t)-by);
        break;
    case 1: /* 32 bits of it */
        b[0] &= 0xf7;
        put_le32(b + 3, (uint32_t)by);
        break;
    case 2: /* lea */
        b[0] |= (uint8_t)(reg >> 3 << 2);
        b[1] = 0x8d;
        b[2] = (uint8_t)(0x80 | low << 3 | low);
        put_le32(b + 3, (uint32_t)by);
        break;
    case 3:
        if (by == 1 || by == -1) { /* inc, dec */
            uint8_t c[3] = {rex, 0xff, (uint8_t)(0xc0 | (by < 0) << 3 | low)};

            put_item(s, c, sizeof c);
            return;
        }
        /* fall through */
    default: /* add */
        put_le32(b + 3, (uint32_t)by);
        break;
    }
    put_item(s, b, 7);
}

/* Pointers that walk, and stay in the data and the page behind it. */
static void add_moves(struct seq *s)
{
    static const uint8_t ptr[] = {X86_RBX, X86_RBP, X86_RSI, 13, 9};
    struct dregs *d = &s->before;
    bool index = rnd_below(&s->rng, 3) == 0;

    for (unsigned i = 0; i < ARRAY_LEN(ptr); i++) {
        int32_t from = 0x900 + (int32_t)rnd_below(&s->rng, 0x1c00), to = 0x900 + (int32_t)rnd_below(&s->rng, 0x1c00);
        int32_t by = (to - from) / (int32_t)s->rounds, step = 1 << rnd_below(&s->rng, 7);

        if (by >= step || by <= -step)
            by = rnd_below(&s->rng, 3) ? by < 0 ? -step : step : by;
        d->gpr[ptr[i]] = (uint64_t)(DATA_AT + from) & (rnd_below(&s->rng, 3) ? ~UINT64_C(31) : ~UINT64_C(0));
        if (i && rnd_below(&s->rng, 10) == 0) { /* computed: mov from another, and what moves that one */
            uint8_t b[3] = {0x48, 0x89, (uint8_t)(0xc0 | ptr[0] << 3 | (ptr[i] & 7))};

            b[0] |= (uint8_t)(ptr[i] >> 3);
            put_item(s, b, sizeof b);
        } else if (by && rnd_below(&s->rng, 4)) {
            int32_t half = rnd_below(&s->rng, 3) ? 0 : by / 2;

            move_by(s, ptr[i], by - half);
            if (half)
                move_by(s, ptr[i], half);
        } else if (s->rounds <= 40 && rnd_below(&s->rng, 2)) { /* there and back */
            move_by(s, ptr[i], 16);
            move_by(s, ptr[i], -16);
        }
    }
    if (index && s->rounds <= 120)
        move_by(s, 14, rnd_below(&s->rng, 2) ? 1 : -1);
}

static void make(struct seq *s)
{
    uint64_t undefined = 0;
    unsigned n = s->walk ? 1 + (unsigned)rnd_below(&s->rng, 5) : 2 + (unsigned)rnd_below(&s->rng, s->max - 2),
             shadow = 0; /* items some jump may skip */
    bool loop = s->walk || (s->mode == X86_MODE_64 && rnd_below(&s->rng, 3) == 0);

    for (s->nr = 0; s->nr < n; s->nr++) {
        struct item *it = &s->item[s->nr];

        if (rnd_below(&s->rng, s->walk ? 12 : 6) == 0) {
            pick_jump(s, it, undefined);
            shadow = shadow > it->over ? shadow : it->over + 1;
        } else if (rnd_below(&s->rng, 8) == 0) {
            *it = (struct item){
                .kind = CALL, .over = rnd_below(&s->rng, 2) ? AGAIN : (unsigned)rnd_below(&s->rng, ARRAY_LEN(bodies))};
        } else if (pick_plain(s, it, undefined)) {
            uint64_t u = gen_undefined(&it->in, &s->before);

            if (!shadow && !(it->in.row->flags_r & it->in.row->flags_w)) /* shifts by CL may leave flags alone */
                undefined &= ~(uint64_t)it->in.row->flags_w;
            undefined |= u;
        } else {
            break;
        }
        shadow -= shadow > 0;
    }
    if (s->walk)
        add_moves(s);
    if (loop && s->nr < MAX_ITEMS) {
        s->item[s->nr++] = (struct item){.kind = LOOP};
        undefined = 0;
    }
    s->undefined = undefined;
}

static void make_state(struct seq *s)
{
    struct dregs *d = &s->before;

    gen_state(&s->rng, d);
    gen_fill(&s->rng, s->data, DATA_SIZE);
    for (unsigned i = 0; i < 16; i++)
        if (is_pointer(s->mode, i))
            d->gpr[i] = (DATA_AT + (rnd_below(&s->rng, 3) ? 0x900 : 0xfc0) + rnd_below(&s->rng, 0x80)) &
                        ~(rnd_below(&s->rng, 3) ? 63ull : 0);
    if (rnd_below(&s->rng, 8) == 0) /* a walk puts it elsewhere */
        d->gpr[X86_RBX] = WIN_END - rnd_below(&s->rng, 48);
    d->gpr[X86_RDI] = rnd_below(&s->rng, 32);
    d->gpr[14] = rnd_below(&s->rng, 32);
    s->walk = s->mode == X86_MODE_64 && (s->all_walk || rnd_below(&s->rng, 8) == 0);
    s->rounds = 1 + (unsigned)rnd_below(&s->rng, s->walk ? rnd_below(&s->rng, 2) ? 400 : 40 : 3);
    d->gpr[15] = s->rounds;
    d->gpr[X86_RSP] = DATA_AT + 0x1400 + (rnd(&s->rng) & 0x3f8);
    if (rnd_below(&s->rng, 3)) { /* mostly nothing unmasked: the run should get to its end */
        put_le32(d->xs + 24, 0x1f80 | (get_le32(d->xs + 24) & 0xe040));
        put_le16(d->xs, get_le16(d->xs) | 0x3f);
        put_le16(d->xs + 2, get_le16(d->xs + 2) & 0x7f00);
    }
    for (unsigned i = 0; i < 16 && s->mode != X86_MODE_64; i++)
        d->gpr[i] = i < 8 ? (uint32_t)d->gpr[i] : 0;
}

/* ---- comparing ---- */

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
    memset(r->xs + 5, 0, 19);
    memset(r->xs + 28, 0, 4);
    for (unsigned i = 0; i < 8; i++)
        memset(r->xs + 32 + 16 * i + 10, 0, 6);
}

static bool registers_differ(struct seq *s)
{
    struct dregs *a = &s->cpu, *b = &s->ours;
    uint64_t fmask = X86_ARITH & ~s->undefined;

    if (a->vec != b->vec && !(a->vec == X86_GP && b->vec == X86_VEC_SS)) {
        snprintf(s->what, sizeof s->what, "fault: cpu %d at +%" PRIu64 ", ours %d at +%" PRIu64, a->vec,
                 a->vec < 0 ? 0 : a->rip - CODE_AT, b->vec, b->vec < 0 ? 0 : b->rip - CODE_AT);
        return true;
    }
    if (a->vec >= 0 && (a->rip != b->rip || (a->vec == X86_PGF && a->cr2 != b->cr2))) {
        snprintf(s->what, sizeof s->what,
                 "fault %d: cpu at +%#" PRIx64 " cr2 %#" PRIx64 ", ours at +%#" PRIx64 " cr2 %#" PRIx64, a->vec,
                 a->rip - CODE_AT, a->cr2, b->rip - CODE_AT, b->cr2);
        return true;
    }
    for (unsigned i = 0; i < (s->mode == X86_MODE_64 ? 16u : 8u); i++)
        if (s->mode == X86_MODE_64 ? a->gpr[i] != b->gpr[i] : (uint32_t)(a->gpr[i] ^ b->gpr[i])) {
            snprintf(s->what, sizeof s->what, "register %u: cpu %#" PRIx64 ", ours %#" PRIx64, i, a->gpr[i], b->gpr[i]);
            return true;
        }
    if ((a->flags ^ b->flags) & fmask && a->vec < 0) {
        snprintf(s->what, sizeof s->what, "flags: cpu %#" PRIx64 ", ours %#" PRIx64, a->flags & fmask,
                 b->flags & fmask);
        return true;
    }
    if (a->vec == X86_XM) /* what stands beside the fault is compared by x86diff */
        return false;
    normalise(a);
    normalise(b);
    for (unsigned i = 0; i < XS_SIZE; i++)
        if (a->xs[i] != b->xs[i] && (i < 416 || i >= 576)) {
            unsigned at = i < 32 ? i & ~1u : i & ~15u;

            snprintf(s->what, sizeof s->what,
                     "xsave image byte %u: cpu %016" PRIx64 "%016" PRIx64 ", ours %016" PRIx64 "%016" PRIx64, i,
                     get_le64(a->xs + at + 8), get_le64(a->xs + at), get_le64(b->xs + at + 8), get_le64(b->xs + at));
            return true;
        }
    return wide_difference(a, b, s->what, sizeof s->what);
}

/* Runs what is laid out on both; true when they differ. */
static bool differs(struct seq *s)
{
    static uint8_t native_mem[DATA_SIZE], code[RUN_BYTES];
    uint8_t *win = (uint8_t *)(uintptr_t)DATA_AT, *tail = (uint8_t *)(uintptr_t)(WIN_END - 0x1000);
    unsigned len = lay_out(s, code);

    memcpy(win, s->data, DATA_SIZE);
    memset(tail, 0x5a, 0x1000);
    native_run_code(code, len, s->mode, &s->before, &s->cpu);
    memcpy(native_mem, win, DATA_SIZE);
    memcpy(win, s->data, DATA_SIZE);
    memset(tail, 0x5a, 0x1000);
    guest_run_code(s->g, code, len, &s->before, &s->ours);
    if (registers_differ(s))
        return true;
    for (unsigned i = 0; i < DATA_SIZE && memcmp(native_mem, win, DATA_SIZE); i++)
        if (native_mem[i] != win[i]) {
            snprintf(s->what, sizeof s->what, "memory at data+%#x: cpu %02x, ours %02x", i, native_mem[i], win[i]);
            return true;
        }
    return false;
}

static void print_run(struct seq *s)
{
    static uint8_t code[RUN_BYTES];
    unsigned len = lay_out(s, code);
    struct x86_insn in;
    char text[128];

    printf("DIFF %s\n", s->what);
    for (unsigned at = 0; at < len && x86_decode(code + at, len - at, s->mode, &in) == X86_DECODE_OK; at += in.len)
        printf("  +%#-4x %s\n", at, x86_format(&in, CODE_AT + at, text, sizeof text));
    printf("  flags %#" PRIx64 " mxcsr %#x fcw %#x fsw %#x;", s->before.flags, get_le32(s->before.xs + 24),
           get_le16(s->before.xs), get_le16(s->before.xs + 2));
    for (unsigned i = 0; i < 16; i++)
        printf(" %" PRIx64, s->before.gpr[i]);
    printf("\n");
}

/* Takes out items as long as the difference stays. */
static void shorten(struct seq *s)
{
    static struct item keep[MAX_ITEMS];
    uint64_t undefined = s->undefined;
    unsigned nr;

    for (bool again = true; again;) {
        again = false;
        for (unsigned i = 0; i < s->nr && s->nr > 1; i++) {
            memcpy(keep, s->item, sizeof keep);
            nr = s->nr;
            memmove(&s->item[i], &s->item[i + 1], (s->nr - i - 1) * sizeof s->item[0]);
            s->nr--;
            s->undefined = X86_ARITH; /* which are undefined now is not known */
            if (differs(s)) {
                again = true;
                break;
            }
            memcpy(s->item, keep, sizeof keep);
            s->nr = nr;
            s->undefined = undefined;
        }
    }
    differs(s);
}

static void one_run(struct seq *s)
{
    make_state(s);
    make(s);
    s->runs++;
    s->insns += s->nr;
    if (differs(s)) {
        s->bad++;
        if (s->bad <= 20) {
            shorten(s);
            print_run(s);
        }
    }
    s->faults += s->cpu.vec >= 0;
}

int main(int argc, char **argv)
{
    static struct seq s;
    unsigned long count = 2000;
    const char *engine = "tcg";
    int fd;

    s.rng.s = 1;
    s.mode = X86_MODE_64;
    s.max = 14;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--count") == 0)
            count = strtoul(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0)
            s.rng.s = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--engine") == 0)
            engine = argv[i + 1];
        else if (strcmp(argv[i], "--mode") == 0)
            s.mode = strcmp(argv[i + 1], "32") ? X86_MODE_64 : X86_MODE_32;
        else if (strcmp(argv[i], "--walk") == 0)
            s.all_walk = strtoul(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--max") == 0)
            s.max = (unsigned)strtoul(argv[i + 1], NULL, 0);
        else
            return fprintf(stderr, "usage: x86seq [--count N] [--seed S] [--engine interp|tcg] [--mode 32|64] [--max "
                                   "K] [--walk 1]\n"),
                   2;
    }
    if (s.max < 3 || s.max > MAX_ITEMS - 2)
        return fprintf(stderr, "x86seq: --max is 3 to %d\n", MAX_ITEMS - 2), 2;
#ifdef __SANITIZE_ADDRESS__
    count /= 20;
#endif
    setvbuf(stdout, NULL, _IOLBF, 0);
    s.g = guest_new(engine, s.mode, &fd);
    if (!s.g || !native_init(fd))
        return fprintf(stderr, "x86seq: cannot set up\n"), 2;
    if (!diff_wide())
        printf("no AVX-512 here (host or guest): its instructions and registers (zmm, k) are left out\n");
    for (unsigned long i = 0; i < count; i++)
        one_run(&s);
    printf("x86seq: %" PRIu64 " runs of %" PRIu64 " instructions with %s, %" PRIu64 " ended in a fault, %" PRIu64
           " differ\n",
           s.runs, s.insns, engine, s.faults, s.bad);
    fflush(stdout);
    _exit(s.bad ? 1 : 0);
}
