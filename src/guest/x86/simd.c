/* Vector, MMX and x87 instructions carried out by the host's own units.
 *
 * For each instruction a small host routine (thunk) is built once and cached: it loads the guest's vector registers
 * that the instruction names into the host registers of the same numbers, runs the same opcode with its memory operand
 * replaced by a buffer and its general registers by RAX (modrm.reg) and RCX (modrm.rm), and stores what was written to
 * an output area. The results reach the CPU state only after memory was written and no exception is due, so a fault
 * leaves the destination as it was. Vector register numbers are kept, so nothing but ModRM, REX and the address is
 * re-encoded.
 *
 * MXCSR: the guest's rounding and flush bits with every exception masked and the flags clear; an exception flag that
 * the guest has unmasked afterwards becomes #XM (#UD without CR4.OSXMMEXCPT). x87 and MMX: the image in c->fx is loaded
 * with FXRSTOR and stored with FXSAVE around the instruction; an unmasked x87 exception thereby waits in FSW.ES as on
 * silicon.
 *
 * Code memory (jit/arena.h) is dropped whole when full.
 * AVX-512: thunks of EVEX and opmask instructions load and store ZMM and K registers, with EVEX moves, the others go on
 * as they did. What a mask leaves out of memory is neither read into the buffer nor written from it (simd_mem.c); the
 * instruction itself runs with the guest's mask on the whole buffer.
 *
 * References: Intel SDM vol. 1 ch. 8 to 11, vol. 2, vol. 3 ch. 13. Left out: whether PE stands beside an unmasked UE or
 * OE (it is taken from the masked result); which flags stand when a step of DPPS or DPPD faults before the others. */
#include "base/bytes.h"
#include "guest/x86/simd_int.h"
#include "jit/arena.h"
#include <stddef.h>

enum { ARENA_SIZE = 1 << 20, THUNK_MAX = 320, TABLE_BITS = 13, TABLE_SIZE = 1 << TABLE_BITS, KEY_LEN = 24 };
enum {
    MXCSR_FLAGS = 0x3f,
    MXCSR_MASKS = 0x1f80,
    MXCSR_UM = 0x800,
    MXCSR_FTZ = 0x8000,
    MXCSR_PRE = 7 /* IE DE ZE: found before the operation */
};
/* What a thunk does around its instruction. */
enum { T_FPU = 1, T_SSE = 2, T_FLAGS_IN = 4, T_FLAGS_OUT = 8, T_MEM = 16, T_WIDE = 32 /* ZMM and K registers */ };

/* Operands of one execution; thunks address it through RDI. */
struct simd_ctx {
    union x86_vreg out[2];
    uint8_t mem[128];
    struct x86_fx fx;
    uint64_t gpr[3]; /* RAX RCX RDX of the thunk */
    uint64_t flags;
    uint64_t k_out;
    union x86_vreg *v; /* the CPU's; its k[] follow */
    uint32_t mxcsr_in, mxcsr_out, mxcsr_host;
};

/* Everything that makes two thunks differ; its bytes are the key of the cache. */
struct recipe {
    uint8_t code[12]; /* the instruction as it runs on the host, zeros behind it */
    uint32_t in;      /* vector registers to load, by number */
    uint8_t len, what /* T_* */;
    uint8_t k_in;  /* mask registers to load */
    uint8_t k_out; /* 8 and a mask register to store, or 0 */
    uint8_t out[2], nr_out, zero;
};
static_assert(sizeof(struct recipe) == KEY_LEN, "no holes");
struct thunk {
    uint8_t key[KEY_LEN];
    uint32_t off; /* in the arena, + 1; 0 = empty slot */
};

struct x86_simd {
    struct simd_ctx ctx;
    struct jit_arena arena;
    unsigned nr;
    bool avx; /* the host has YMM registers */
    bool zmm; /* ... and ZMM registers */
    bool kq;  /* mask registers of 64 bits, not of 16 */
    struct thunk table[TABLE_SIZE];
};

/* ---- arena ---- */

static struct x86_simd *simd_new(struct err **errp)
{
    struct x86_simd *s = try_alloc_aligned(64, sizeof *s);
    struct x86_features host;

    if (!s) {
        err_set(errp, "no memory for the vector unit");
        return NULL;
    }
    if (!jit_arena_init(&s->arena, ARENA_SIZE, errp)) {
        free(s);
        return NULL;
    }
    x86_features_host(&host);
    s->avx = x86_has(&host, X86_F_AVX);
    s->zmm = x86_has(&host, X86_F_AVX512F);
    s->kq = x86_has(&host, X86_F_AVX512BW);
    return s;
}

static struct x86_simd *simd_get(struct x86_cpu *c)
{
    struct err *e = NULL;

    if (likely(c->simd))
        return c->simd;
    c->simd = simd_new(&e);
    if (!c->simd) {
        err_report(e);
        x86_raise(c, X86_UD);
    }
    return c->simd;
}

void x86_simd_free(struct x86_cpu *c)
{
    struct x86_simd *s = c->simd;

    if (!s)
        return;
    jit_arena_free(&s->arena);
    free(s);
    c->simd = NULL;
}

/* ---- thunk assembly ---- */

struct out {
    uint8_t *p;
};

static void e8(struct out *o, unsigned b)
{
    *o->p++ = (uint8_t)b;
}

static void e_bytes(struct out *o, const void *b, size_t n)
{
    memcpy(o->p, b, n);
    o->p += n;
}

static void e32(struct out *o, uint32_t v)
{
    put_le32(o->p, v);
    o->p += 4;
}

/* op is the opcode bytes, reg goes to ModRM.reg, the operand is [base + disp32]. */
static void e_mem(struct out *o, const char *op, size_t n, unsigned reg, unsigned base, size_t disp)
{
    e_bytes(o, op, n);
    e8(o, 0x80 | (reg & 7) << 3 | base);
    e32(o, (uint32_t)disp);
}
enum { H_RAX, H_RCX, H_RDX, H_RSI = 6, H_RDI = 7 };
#define CTX(field)                    offsetof(struct simd_ctx, field)
#define E_MEM(o, op, reg, base, disp) e_mem(o, op, sizeof(op) - 1, reg, base, disp)

static void e_vec(struct out *o, bool avx, bool store, unsigned n, unsigned base, size_t disp)
{
    if (avx) { /* VMOVUPS ymm */
        e8(o, 0xc4);
        e8(o, n >= 8 ? 0x61 : 0xe1);
        e8(o, 0x7c);
    } else { /* MOVUPS xmm */
        if (n >= 8)
            e8(o, 0x44);
        e8(o, 0x0f);
    }
    e8(o, store ? 0x11 : 0x10);
    e8(o, 0x80 | (n & 7) << 3 | base);
    e32(o, (uint32_t)disp);
}

/* VMOVUPS zmm. */
static void e_zmm(struct out *o, bool store, unsigned n, unsigned base, size_t disp)
{
    e8(o, 0x62);
    e8(o, (n & 8 ? 0 : 0x80) | 0x60 | (n & 16 ? 0 : 0x10) | 1);
    e_bytes(o, "\x7c\x48", 2);
    e8(o, store ? 0x11 : 0x10);
    e8(o, 0x80 | (n & 7) << 3 | base);
    e32(o, (uint32_t)disp);
}

/* KMOVQ, or KMOVW where there is no more. */
static void e_k(struct out *o, bool kq, bool store, unsigned n, unsigned base, size_t disp)
{
    e_bytes(o, kq ? "\xc4\xe1\xf8" : "\xc4\xe1\x78", 3);
    e8(o, store ? 0x91 : 0x90);
    e8(o, 0x80 | n << 3 | base);
    e32(o, (uint32_t)disp);
}

/* The CPU's vector registers are at RAX. */
static void load_vectors(const struct x86_simd *s, const struct recipe *r, struct out *o)
{
    enum { K_OFF = offsetof(struct x86_cpu, k) - offsetof(struct x86_cpu, v) };

    if (!(r->what & T_WIDE)) {
        for (unsigned n = 0; n < 16; n++)
            if (r->in >> n & 1)
                e_vec(o, s->avx, false, n, H_RAX, n * sizeof(union x86_vreg));
        return;
    }
    for (unsigned n = 0; n < 32; n++)
        if (r->in >> n & 1)
            e_zmm(o, false, n, H_RAX, n * sizeof(union x86_vreg));
    for (unsigned n = 0; n < 8; n++)
        if (r->k_in >> n & 1)
            e_k(o, s->kq, false, n, H_RAX, K_OFF + n * 8);
}

static void store_vectors(const struct x86_simd *s, const struct recipe *r, struct out *o)
{
    for (unsigned i = 0; i < r->nr_out; i++)
        if (r->what & T_WIDE)
            e_zmm(o, true, r->out[i], H_RDI, CTX(out) + i * sizeof(union x86_vreg));
        else
            e_vec(o, s->avx, true, r->out[i], H_RDI, CTX(out) + i * sizeof(union x86_vreg));
    if (r->k_out)
        e_k(o, s->kq, true, r->k_out & 7, H_RDI, CTX(k_out));
}

static size_t thunk_build(const struct x86_simd *s, const struct recipe *r, uint8_t *at)
{
    struct out o = {at};

    if (r->what & T_FPU)
        E_MEM(&o, "\x48\x0f\xae", 1, H_RDI, CTX(fx)); /* FXRSTOR64 */
    else
        E_MEM(&o, "\x0f\xae", 2, H_RDI, CTX(mxcsr_in)); /* LDMXCSR */
    E_MEM(&o, "\x48\x8b", H_RAX, H_RDI, CTX(v));
    load_vectors(s, r, &o);
    if (r->what & T_FLAGS_IN) {
        E_MEM(&o, "\xff", 6, H_RDI, CTX(flags)); /* PUSH */
        e8(&o, 0x9d);                            /* POPFQ */
    }
    if (r->what & T_MEM)
        E_MEM(&o, "\x48\x8d", H_RSI, H_RDI, CTX(mem)); /* LEA */
    E_MEM(&o, "\x48\x8b", H_RAX, H_RDI, CTX(gpr[0]));
    E_MEM(&o, "\x48\x8b", H_RCX, H_RDI, CTX(gpr[1]));
    E_MEM(&o, "\x48\x8b", H_RDX, H_RDI, CTX(gpr[2]));
    e_bytes(&o, r->code, r->len);
    if (r->what & T_FLAGS_OUT) {
        e8(&o, 0x9c);                            /* PUSHFQ */
        E_MEM(&o, "\x8f", 0, H_RDI, CTX(flags)); /* POP */
    }
    E_MEM(&o, "\x48\x89", H_RAX, H_RDI, CTX(gpr[0]));
    E_MEM(&o, "\x48\x89", H_RCX, H_RDI, CTX(gpr[1]));
    store_vectors(s, r, &o);
    if (r->what & T_FPU) {
        E_MEM(&o, "\x48\x0f\xae", 0, H_RDI, CTX(fx)); /* FXSAVE64 */
        e_bytes(&o, "\xdb\xe3", 2);                   /* FNINIT */
    }
    E_MEM(&o, "\x0f\xae", 3, H_RDI, CTX(mxcsr_out));  /* STMXCSR */
    E_MEM(&o, "\x0f\xae", 2, H_RDI, CTX(mxcsr_host)); /* LDMXCSR */
    if (s->avx)
        e_bytes(&o, "\xc5\xf8\x77", 3); /* VZEROUPPER */
    e8(&o, 0xc3);
    return (size_t)(o.p - at);
}

static uint32_t key_hash(const uint8_t *key)
{
    uint64_t h = 0x9e3779b97f4a7c15;

    for (unsigned i = 0; i < KEY_LEN; i += 8)
        h = (h ^ get_le64(key + i)) * 0xff51afd7ed558ccd, h ^= h >> 29;
    return (uint32_t)(h >> 20) & (TABLE_SIZE - 1);
}

static const uint8_t *thunk_find(struct x86_simd *s, const struct recipe *r)
{
    const uint8_t *key = (const uint8_t *)r;
    uint32_t i;

    for (i = key_hash(key); s->table[i].off; i = (i + 1) & (TABLE_SIZE - 1))
        if (memcmp(s->table[i].key, key, KEY_LEN) == 0)
            return s->arena.x + s->table[i].off - 1;
    if (!jit_arena_room(&s->arena, THUNK_MAX) || s->nr > TABLE_SIZE * 3 / 4) {
        memset(s->table, 0, sizeof s->table);
        jit_arena_reset(&s->arena);
        s->nr = 0;
        i = key_hash(key);
    }
    memcpy(s->table[i].key, key, KEY_LEN);
    s->table[i].off = (uint32_t)s->arena.used + 1;
    s->nr++;
    s->arena.used += align_up(thunk_build(s, r, s->arena.w + s->arena.used), 16);
    return s->arena.x + s->table[i].off - 1;
}

/* ---- from the decoded instruction to a recipe ---- */

/* What the host instruction's fields become. */
struct fields {
    uint8_t reg, rm, vvvv; /* numbers; up to 15, EVEX up to 31 */
    bool mem;
};

static void take_vector(struct recipe *r, unsigned reg, unsigned acc)
{
    if (reg > 31)
        return;
    r->in |= 1u << reg; /* also for what is written: legacy forms keep the upper parts */
    if (!(acc & X86_ACC_W))
        return;
    for (unsigned i = 0; i < r->nr_out; i++)
        if (r->out[i] == reg)
            return;
    if (r->nr_out < 2)
        r->out[r->nr_out++] = (uint8_t)reg;
}

static void take_mask(struct recipe *r, unsigned reg, unsigned acc)
{
    r->k_in |= (uint8_t)(1u << (reg & 7));
    if (acc & X86_ACC_W)
        r->k_out = (uint8_t)(8 | (reg & 7));
}

/* XMM0 where it is not written in the encoding. */
static void take_implicit(struct recipe *r, const struct x86_insn *in)
{
    if (in->enc == X86_ENC_LEGACY && in->map == X86_MAP_0F38 &&
        ((in->pp == 1 && (in->opcode == 0x10 || in->opcode == 0x14 || in->opcode == 0x15)) ||
         (in->pp == 0 && in->opcode == 0xcb)))
        take_vector(r, 0, X86_ACC_R);
    if (in->map == X86_MAP_0F3A && (in->opcode == 0x60 || in->opcode == 0x62)) /* PCMPxSTRM */
        take_vector(r, 0, X86_ACC_W);
}

static struct fields take_operands(struct recipe *r, const struct x86_insn *in)
{
    struct fields f = {.reg = in->modrm >> 3 & 7, .rm = in->modrm & 7, .mem = in->has_modrm && in->modrm < 0xc0};

    for (unsigned i = 0; i < in->nr_ops; i++) {
        const struct x86_operand *op = &in->ops[i];
        unsigned n = op->reg;

        if (op->kind == X86_OP_XMM)
            take_vector(r, n, op->acc);
        else if (op->kind == X86_OP_GPR)
            n = op->where == X86_IN_REG ? H_RAX : H_RCX;
        else if (op->kind == X86_OP_K)
            take_mask(r, n, op->acc);
        else if (op->kind == X86_OP_MM || op->kind == X86_OP_ST)
            n &= 7;
        else
            continue;
        if (op->where == X86_IN_REG)
            f.reg = (uint8_t)n;
        else if (op->where == X86_IN_RM)
            f.rm = (uint8_t)n;
        else if (op->where == X86_IN_VVVV)
            f.vvvv = (uint8_t)n;
    }
    take_implicit(r, in);
    if (in->evex_aaa)
        take_mask(r, in->evex_aaa, X86_ACC_R);
    return f;
}

static void encode_legacy(struct out *o, const struct x86_insn *in, const struct fields *f)
{
    static const uint8_t prefix[] = {0, 0x66, 0xf3, 0xf2};
    unsigned rex = (in->rex & 8) | (f->reg >> 3) << 2 | (f->mem ? 0 : f->rm >> 3);

    if (in->pp)
        e8(o, prefix[in->pp & 3]);
    if (rex)
        e8(o, 0x40 | rex);
    if (in->map != X86_MAP_1)
        e8(o, 0x0f);
    if (in->map == X86_MAP_0F38)
        e8(o, 0x38);
    else if (in->map == X86_MAP_0F3A)
        e8(o, 0x3a);
    e8(o, in->opcode);
}

bool x86_vex_w(const struct x86_insn *in)
{
    unsigned at = in->off_opcode;

    if (in->enc == X86_ENC_EVEX)
        return in->bytes[at - 2] & 0x80;
    return in->enc == X86_ENC_VEX && at >= 3 && in->bytes[at - 3] == 0xc4 && in->bytes[at - 1] & 0x80;
}

static bool evex_w_host(const struct x86_insn *in)
{
    bool size = (in->map == X86_MAP_0F3A && (in->opcode == 0x16 || in->opcode == 0x22)) ||
                (in->map == X86_MAP_0F && (in->opcode == 0x2a || in->opcode == 0x6e ||
                                           (in->opcode == 0x7e && in->pp == 1) || (in->opcode == 0x7b && in->pp >= 2)));

    for (unsigned i = 0; i < in->nr_ops; i++)
        size |= in->ops[i].kind == X86_OP_GPR;
    return size ? in->rex & 8 : x86_vex_w(in);
}

bool x86_vex_w_host(const struct x86_insn *in)
{
    static const struct {
        uint8_t map, opcode;
    } general[] = {{X86_MAP_0F, 0x2a},   {X86_MAP_0F, 0x2c},   {X86_MAP_0F, 0x2d},  {X86_MAP_0F, 0x92},
                   {X86_MAP_0F, 0x93},   {X86_MAP_0F, 0x6e},   {X86_MAP_0F, 0x7e},  {X86_MAP_0F3A, 0x16},
                   {X86_MAP_0F3A, 0x22}, {X86_MAP_0F3A, 0x60}, {X86_MAP_0F3A, 0x61}};

    if (in->enc == X86_ENC_EVEX)
        return evex_w_host(in);
    if (!(in->row->attr & X86_A_AVX)) /* BMI: general operands only */
        return in->rex & 8;
    for (size_t i = 0; i < ARRAY_LEN(general); i++)
        if (general[i].map == in->map && general[i].opcode == in->opcode)
            return in->rex & 8;
    return x86_vex_w(in);
}

static void encode_vex(struct out *o, const struct x86_insn *in, const struct fields *f)
{
    e8(o, 0xc4);
    e8(o, (f->reg & 8 ? 0 : 0x80) | 0x40 | (!f->mem && f->rm & 8 ? 0 : 0x20) | in->map);
    e8(o, (x86_vex_w_host(in) ? 0x80 : 0) | (~f->vvvv & 15) << 3 | (in->vl == 32 ? 4 : 0) | in->pp);
    e8(o, in->opcode);
}

static void encode_evex(struct out *o, const struct x86_insn *in, const struct fields *f)
{
    unsigned rm = f->mem ? 0 : f->rm;

    e8(o, 0x62);
    e8(o, (f->reg & 8 ? 0 : 0x80) | (rm & 16 ? 0 : 0x40) | (rm & 8 ? 0 : 0x20) | (f->reg & 16 ? 0 : 0x10) | in->map);
    e8(o, (x86_vex_w_host(in) ? 0x80 : 0) | (~f->vvvv & 15) << 3 | 4 | in->pp);
    e8(o, in->evex_z << 7 | in->evex_ll << 5 | in->evex_b << 4 | (f->vvvv & 16 ? 0 : 8) | in->evex_aaa);
    e8(o, in->opcode);
}

/* Immediate bytes; a register in bits 7:4 has been bounded by the decoder. */
static void encode_imm(struct out *o, const struct x86_insn *in)
{
    uint8_t imm[8];
    unsigned n = in->imm_len <= sizeof imm ? in->imm_len : 0;

    memcpy(imm, in->bytes + in->off_imm, n);
    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->ops[i].where == X86_IN_IS4 && n)
            imm[0] = (uint8_t)((imm[0] & 15) | in->ops[i].reg << 4);
    e_bytes(o, imm, n);
}

static bool names_mm(const struct x86_insn *in)
{
    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->ops[i].kind == X86_OP_MM)
            return true;
    return false;
}

static bool is_fpu_insn(const struct x86_insn *in)
{
    return in->row->attr & (X86_A_FPU | X86_A_MMX) || names_mm(in);
}

static bool recipe_make(const struct x86_simd *s, const struct x86_insn *in, struct recipe *r)
{
    bool wide = in->row->attr & X86_A_AVX512;
    struct out o = {r->code};
    struct fields f;

    static_assert(X86_MAP_0F == 1 && X86_MAP_0F38 == 2 && X86_MAP_0F3A == 3, "VEX.mmmmm is the map number");
    memset(r, 0, sizeof *r);
    if (wide && !s->zmm)
        return false;
    f = take_operands(r, in);
    if (in->enc == X86_ENC_EVEX)
        encode_evex(&o, in, &f);
    else if (in->enc == X86_ENC_VEX)
        encode_vex(&o, in, &f);
    else
        encode_legacy(&o, in, &f);
    if (in->has_modrm)
        e8(&o, f.mem ? (f.reg & 7) << 3 | H_RSI : 0xc0 | (f.reg & 7) << 3 | (f.rm & 7));
    encode_imm(&o, in);
    r->len = (uint8_t)(o.p - r->code);
    assert(r->len <= sizeof r->code);
    r->what = (wide ? T_WIDE : 0) | (f.mem ? T_MEM : 0) | (is_fpu_insn(in) ? T_FPU : 0) |
              (in->row->attr & (X86_A_SSE | X86_A_AVX) ? T_SSE : 0) | (in->row->flags_r & X86_ARITH ? T_FLAGS_IN : 0) |
              (in->row->flags_w & X86_ARITH ? T_FLAGS_OUT : 0);
    return true;
}

/* ---- checks before execution ---- */

static void check_pending_x87(struct x86_cpu *c)
{
    if (c->x87_live)
        x86_x87_sync(c);
    if (!(c->fx.fsw & ~c->fx.fcw & 0x3f))
        return;
    if (c->cr0 & X86_CR0_NE)
        x86_raise(c, X86_MF);
    if (c->port.ferr)
        c->port.ferr(c->port.ferr_opaque, 1);
}

static void check_fpu(struct x86_cpu *c, const struct x86_insn *in)
{
    bool wait = in->map == X86_MAP_1 && in->opcode == 0x9b;

    if (wait ? (c->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS) : (c->cr0 & (X86_CR0_EM | X86_CR0_TS)))
        x86_raise(c, X86_NM);
    if (!x86_x87_nowait(in))
        check_pending_x87(c);
}

static void check_avx(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t need = in->row->attr & X86_A_AVX512 ? 0xe6 : 6;

    if (!(c->cr0 & X86_CR0_PE) || (c->rflags & X86_VM) || !(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & need) != need)
        x86_raise(c, X86_UD);
    if (c->cr0 & X86_CR0_TS)
        x86_raise(c, X86_NM);
}

void x86_simd_check(struct x86_cpu *c, const struct x86_insn *in)
{
    uint32_t attr = in->row->attr;
    bool mm = (attr & (X86_A_MMX | X86_A_SSE)) == X86_A_MMX; /* conversions: only with a register operand */

    if (attr & X86_A_FPU) {
        check_fpu(c, in);
        return;
    }
    if (attr & X86_A_AVX) {
        check_avx(c, in);
        return;
    }
    if (!(attr & (X86_A_MMX | X86_A_SSE)))
        return;
    if ((c->cr0 & X86_CR0_EM) || ((attr & X86_A_SSE) && !(c->cr4 & X86_CR4_OSFXSR)))
        x86_raise(c, X86_UD);
    if (c->cr0 & X86_CR0_TS)
        x86_raise(c, X86_NM);
    if (mm || names_mm(in))
        check_pending_x87(c);
}

/* ---- execution ---- */

uint64_t x86_simd_lin(struct x86_cpu *c, const struct x86_insn *in, unsigned size, enum x86_access a)
{
    return x86_seg_lin(c, in->seg, x86_ea(c, in), size, a);
}

/* The memory operand of an aligned form must be aligned: #GP. */
static void check_aligned(struct x86_cpu *c, const struct x86_insn *in, uint64_t lin, unsigned size)
{
    uint32_t attr = in->row->attr;
    bool want = in->enc == X86_ENC_LEGACY ? (attr & X86_A_SSE) && size == 16 && !(attr & X86_A_UNALIGNED)
                                          : attr & X86_A_ALIGNED;

    if (in->row->feature == X86_F_SHA) /* processors differ; the lenient ones are right for every program */
        return;
    if (want && (attr & X86_A_ALIGNED || !(c->fx.mxcsr & 1u << 17 /* MM */)) && lin % size)
        x86_raise_err(c, X86_GP, 0);
}

struct mem_use {
    uint64_t lin;
    unsigned size;
    unsigned acc; /* 0 = no memory operand */
    bool masked;  /* element by element; lin has no meaning */
};

static struct mem_use mem_begin_use(struct x86_cpu *c, const struct x86_insn *in)
{
    struct simd_ctx *x = &c->simd->ctx;
    struct mem_use m = {0};

    if (in->mem_op < 0 || (in->row->attr & X86_A_NOP_MEM))
        return m;
    m.acc = in->ops[in->mem_op].acc;
    m.size = in->mem_size ? in->mem_size : in->ops[in->mem_op].size;
    assert(m.size && m.size <= sizeof x->mem);
    if (unlikely(in->evex_aaa) && x86_simd_masked(c, in)) {
        m.masked = true;
        if (in->row->attr & X86_A_ALIGNED && x86_simd_mask(c, in))
            check_aligned(c, in, x86_simd_address(c, in), m.size);
        if (m.acc & X86_ACC_R)
            x86_simd_masked_load(c, in, x->mem);
        return m;
    }
    m.lin = x86_simd_lin(c, in, m.size, m.acc & X86_ACC_W ? X86_WRITE : X86_READ);
    check_aligned(c, in, m.lin, m.size);
    if (m.acc & X86_ACC_R)
        x86_ld_bytes(c, m.lin, x->mem, m.size);
    return m;
}

static void use_probe(struct x86_cpu *c, const struct x86_insn *in, const struct mem_use *m)
{
    if (m->masked)
        x86_simd_masked_probe(c, in);
    else
        x86_probe_write(c, m->lin, m->size);
}

static void use_store(struct x86_cpu *c, const struct x86_insn *in, const struct mem_use *m)
{
    if (m->masked)
        x86_simd_masked_store(c, in, c->simd->ctx.mem);
    else
        x86_st_bytes(c, m->lin, c->simd->ctx.mem, m->size);
}

static bool is_str_cmp(const struct x86_insn *in, bool explicit_len)
{
    unsigned op = in->opcode;

    return in->map == X86_MAP_0F3A && in->pp == 1 && (op & 0xfc) == 0x60 && (!explicit_len || op < 0x62);
}

static void gprs_in(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t *g = c->simd->ctx.gpr;

    g[0] = c->regs[X86_RAX]; /* FNSTSW AX, PCMPESTRx */
    g[1] = c->regs[X86_RCX];
    g[2] = c->regs[X86_RDX];
    for (unsigned i = 0; i < in->nr_ops; i++) {
        if (in->ops[i].kind != X86_OP_GPR)
            continue;
        if (in->ops[i].where == X86_IN_REG)
            g[0] = c->regs[in->ops[i].reg & 15];
        else if (in->ops[i].where == X86_IN_RM)
            g[1] = c->regs[in->ops[i].reg & 15];
    }
}

static void gprs_out(struct x86_cpu *c, const struct x86_insn *in)
{
    const uint64_t *g = c->simd->ctx.gpr;

    if (is_str_cmp(in, false) && (in->opcode & 1))
        c->regs[X86_RCX] = g[1];
    if (in->map == X86_MAP_1 && in->opcode == 0xdf && in->modrm == 0xe0)
        c->regs[X86_RAX] = g[0];
    for (unsigned i = 0; i < in->nr_ops; i++) {
        const struct x86_operand *op = &in->ops[i];

        if (op->kind != X86_OP_GPR || !(op->acc & X86_ACC_W))
            continue;
        if (op->where == X86_IN_REG)
            c->regs[op->reg & 15] = g[0];
        else if (op->where == X86_IN_RM)
            c->regs[op->reg & 15] = g[1];
    }
}

/* Size of the floating-point results of an instruction that can underflow; 0 for all others. */
static unsigned underflow_size(const struct x86_insn *in)
{
    unsigned op = in->opcode, lo = op & 15;

    if (in->map == X86_MAP_0F38 && op >= 0x90 && op < 0xc0)
        return lo >= 6 ? (x86_vex_w(in) ? 8 : 4) : 0; /* FMA */
    if (in->map == X86_MAP_0F38 && in->enc == X86_ENC_EVEX && (op == 0x2c || op == 0x2d))
        return x86_vex_w(in) ? 8 : 4; /* VSCALEF */
    if (in->map == X86_MAP_0F3A)
        return op == 0x40 ? 4 : op == 0x41 ? 8 : op == 0x1d ? 2 : 0;
    if (in->map != X86_MAP_0F)
        return 0;
    switch (op) {
    case 0x58:
    case 0x59:
    case 0x5c:
    case 0x5e:
        return in->pp & 1 ? 8 : 4;
    case 0x5a:
        return in->pp & 1 ? 4 : 0; /* to single */
    case 0x7c:
    case 0x7d:
    case 0xd0:
        return in->pp == 1 ? 8 : 4;
    default:
        return 0;
    }
}

static bool any_denormal(const uint8_t *b, unsigned n, unsigned size)
{
    static const uint64_t exp[] = {[2] = 0x7c00, [4] = 0x7f800000, [8] = 0x7ff0000000000000};
    static const uint64_t man[] = {[2] = 0x3ff, [4] = 0x7fffff, [8] = 0xfffffffffffff};

    for (unsigned i = 0; i + size <= n; i += size) {
        uint64_t v = get_le(b + i, size);

        if (!(v & exp[size]) && (v & man[size]))
            return true;
    }
    return false;
}

/* EVEX: only what the mask lets be computed. */
static bool evex_denormal(const struct x86_cpu *c, const struct x86_insn *in, const uint8_t *b, unsigned size)
{
    uint64_t mask = x86_simd_mask(c, in);

    for (unsigned i = 0; i < in->mask_nr; i++)
        if (mask >> i & 1 && any_denormal(b + i * size, size, size))
            return true;
    return false;
}

/* DPPS and DPPD, one 16-byte lane: is a product or a sum on the way to the result tiny? */
static bool dot_denormal(const uint8_t *a, const uint8_t *b, unsigned imm, unsigned size, uint32_t mxcsr)
{
    uint64_t keep[2];
    uint32_t host;
    uint8_t step[48];

    for (unsigned i = 0; i < 2; i++)
        keep[i] = size == 8 ? -(uint64_t)(imm >> (4 + i) & 1)
                            : (uint32_t) - (imm >> (4 + 2 * i) & 1) | (uint64_t) - (imm >> (5 + 2 * i) & 1) << 32;
    __asm__ volatile("stmxcsr %0" : "=m"(host));
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    if (size == 8)
        __asm__ volatile(
            "movups (%1), %%xmm0\n\tmovups (%2), %%xmm1\n\tmulpd %%xmm1, %%xmm0\n\tmovups (%3), %%xmm1\n\t"
            "andps %%xmm1, %%xmm0\n\tmovups %%xmm0, (%0)\n\thaddpd %%xmm0, %%xmm0\n\tmovups %%xmm0, 16(%0)\n\t"
            "movups %%xmm0, 32(%0)"
            :
            : "r"(step), "r"(a), "r"(b), "r"(keep)
            : "xmm0", "xmm1", "memory");
    else
        __asm__ volatile(
            "movups (%1), %%xmm0\n\tmovups (%2), %%xmm1\n\tmulps %%xmm1, %%xmm0\n\tmovups (%3), %%xmm1\n\t"
            "andps %%xmm1, %%xmm0\n\tmovups %%xmm0, (%0)\n\thaddps %%xmm0, %%xmm0\n\tmovups %%xmm0, 16(%0)\n\t"
            "haddps %%xmm0, %%xmm0\n\tmovups %%xmm0, 32(%0)"
            :
            : "r"(step), "r"(a), "r"(b), "r"(keep)
            : "xmm0", "xmm1", "memory");
    __asm__ volatile("ldmxcsr %0" : : "m"(host));
    return any_denormal(step, sizeof step, size);
}

static bool dot_underflows(const struct x86_cpu *c, const struct x86_insn *in, unsigned size)
{
    const struct x86_operand *src = &in->ops[in->nr_ops - 2];
    const uint8_t *a = c->v[in->ops[in->nr_ops - 3].reg & 15].b;
    const uint8_t *b = in->mem_op >= 0 ? c->simd->ctx.mem : c->v[src->reg & 15].b;
    uint32_t mxcsr = c->simd->ctx.mxcsr_in & ~MXCSR_FTZ;

    for (unsigned at = 0; at < in->vl; at += 16)
        if (dot_denormal(a + at, b + at, (unsigned)in->imm, size, mxcsr))
            return true;
    return false;
}

/* With underflow unmasked a tiny result counts even when it is exact, which the masked run does not report. */
static uint32_t exact_underflow(struct x86_cpu *c, const struct x86_insn *in, const struct recipe *r)
{
    unsigned size = underflow_size(in);
    bool scalar = in->map == X86_MAP_0F ? in->pp >= 2 && (in->opcode & 0xf0) == 0x50
                                        : in->map == X86_MAP_0F38 && in->opcode & 1 && (in->opcode & 15) > 8;
    const struct simd_ctx *x = &c->simd->ctx;
    unsigned n = scalar ? size : in->vl;

    if (likely(c->fx.mxcsr & 0x800) || !size)
        return 0;
    if (in->enc == X86_ENC_EVEX) {
        if (in->evex_b && in->mem_op < 0) /* no exceptions */
            return 0;
        return evex_denormal(c, in, r->nr_out ? x->out[0].b : x->mem, size) ? 0x10 : 0;
    }
    if (in->map == X86_MAP_0F3A && in->opcode != 0x1d)
        return dot_underflows(c, in, size) ? 0x10 : 0;
    if (in->map == X86_MAP_0F && in->opcode == 0x5a && !scalar)
        n /= 2;
    if (!r->nr_out)
        return any_denormal(x->mem, in->mem_size, size) ? 0x10 : 0;
    return any_denormal(x->out[0].b, n, size) ? 0x10 : 0;
}

/* Using MMX registers makes TOP 0 and marks all in use. */
static void mmx_enter(struct x86_fx *fx)
{
    x86_x87_set_top(fx, 0);
    fx->ftw = 0xff;
}

/* #XM when a flag arose that the guest has unmasked: the flags of that stage are set and nothing else changes. */
static void check_simd_exception(struct x86_cpu *c, const struct x86_insn *in, const struct recipe *r)
{
    uint32_t flags = (c->simd->ctx.mxcsr_out & MXCSR_FLAGS) | exact_underflow(c, in, r);
    uint32_t unmasked = flags & ~(c->fx.mxcsr >> 7) & MXCSR_FLAGS;

    if (likely(!unmasked))
        return;
    if (names_mm(in))
        mmx_enter(&c->fx); /* processors enter MMX state before they find the exception */
    c->fx.mxcsr |= unmasked & MXCSR_PRE ? flags & MXCSR_PRE : flags;
    x86_raise(c, c->cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD);
}

static uint32_t host_mxcsr(void)
{
    uint32_t v;

    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}

enum { FX_X87_BYTES = offsetof(struct x86_fx, xmm_unused), EXC_MASKS = 0x3f };

/* VREDUCE that may fault: its result may be tiny, which is no underflow. */
static bool is_reduce(const struct x86_insn *in)
{
    return in->enc == X86_ENC_EVEX && in->map == X86_MAP_0F3A && (in->opcode & 0xfe) == 0x56 &&
           !(in->evex_b && in->mem_op < 0);
}

static void run_thunk(struct x86_cpu *c, const struct x86_insn *in, const struct recipe *r, bool frozen)
{
    struct simd_ctx *x = &c->simd->ctx;
    void (*fn)(struct simd_ctx *) = (void (*)(struct simd_ctx *))(uintptr_t)thunk_find(c->simd, r);

    x->v = c->v;
    x->k_out = 0;
    x->mxcsr_in = (c->fx.mxcsr & 0xffff & ~(uint32_t)MXCSR_FLAGS) | MXCSR_MASKS;
    if (unlikely(r->what & T_WIDE) && is_reduce(in) &&
        !(c->fx.mxcsr & MXCSR_UM)) /* FTZ counts only while underflow is masked */
        x->mxcsr_in &= ~(uint32_t)MXCSR_FTZ;
    x->mxcsr_host = host_mxcsr();
    x->flags = c->rflags & X86_ARITH;
    if (r->what & T_FPU) {
        memcpy(&x->fx, &c->fx, FX_X87_BYTES);
        x->fx.mxcsr = x->mxcsr_in;
        if (frozen) /* CR0.NE = 0: FERR# is up and the processor goes on as if IGNNE# were; the host must not trap */
            x->fx.fcw |= EXC_MASKS;
    }
    fn(x);
    if (frozen && r->what & T_FPU) {
        x->fx.fcw = (uint16_t)((x->fx.fcw & ~EXC_MASKS) | (c->fx.fcw & EXC_MASKS));
        x86_x87_summary(&x->fx);
    }
}

static void commit(struct x86_cpu *c, const struct x86_insn *in, const struct recipe *r)
{
    struct simd_ctx *x = &c->simd->ctx;
    uint32_t fw = in->row->flags_w & X86_ARITH;
    size_t width = r->what & T_WIDE ? 64 : c->simd->avx ? 32 : 16;

    if (r->k_out)
        c->k[r->k_out & 7] = x->k_out;
    for (unsigned i = 0; i < r->nr_out; i++) {
        memcpy(&c->v[r->out[i]], &x->out[i], width);
        if (in->enc != X86_ENC_LEGACY)
            memset(c->v[r->out[i]].b + width, 0, sizeof(union x86_vreg) - width);
    }
    gprs_out(c, in);
    if (fw)
        c->rflags = (c->rflags & ~(uint64_t)fw) | (x->flags & fw);
    if (r->what & T_FPU) {
        c->fx.fcw = x->fx.fcw;
        c->fx.fsw = x->fx.fsw;
        c->fx.ftw = x->fx.ftw;
        memcpy(c->fx.st, x->fx.st, sizeof c->fx.st);
        if (in->row->attr & X86_A_FPU)
            x86_x87_note(c, in);
    }
    if (r->what & T_SSE)
        c->fx.mxcsr |= x->mxcsr_out & MXCSR_FLAGS;
}

/* VZEROUPPER and VZEROALL: eight registers outside 64-bit mode. */
static bool exec_vzero(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned from = in->vl == 32 ? 0 : 16;

    if (in->enc != X86_ENC_VEX || in->map != X86_MAP_0F || in->opcode != 0x77)
        return false;
    for (unsigned n = 0; n < (c->mode == X86_MODE_64 ? 16 : 8); n++)
        memset(c->v[n].b + from, 0, sizeof(union x86_vreg) - from);
    return true;
}

static bool exec_special(struct x86_cpu *c, const struct x86_insn *in)
{
    if (in->map == X86_MAP_1 && in->opcode == 0x9b) /* FWAIT: the check has done its work */
        return true;
    return exec_vzero(c, in) || x86_x87_env(c, in) || x86_simd_elementwise(c, in);
}

/* An unmasked exception other than precision keeps an x87 store from its memory. */
static bool x87_store_failed(const struct x86_cpu *c, const struct x86_insn *in)
{
    const struct x86_fx *fx = &c->simd->ctx.fx;

    return in->row->attr & X86_A_FPU && !x86_x87_nowait(in) && fx->fsw & ~fx->fcw & 0x1f;
}

bool x86_simd_exec(struct x86_cpu *c, const struct x86_insn *in)
{
    struct recipe r;
    struct mem_use m;

    if (x86_xstate_exec(c, in))
        return true;
    if (!(in->row->attr & (X86_A_FPU | X86_A_MMX | X86_A_SSE | X86_A_AVX)))
        return false;
    if (c->x87_live && is_fpu_insn(in))
        x86_x87_sync(c);
    if (exec_special(c, in))
        return true;
    if (!recipe_make(simd_get(c), in, &r))
        return false;
    m = mem_begin_use(c, in);
    gprs_in(c, in);
    run_thunk(c, in, &r, (c->fx.fsw & ~c->fx.fcw & EXC_MASKS) && !x86_x87_nowait(in));
    if (m.acc & X86_ACC_W && c->simd->ctx.mxcsr_out & MXCSR_FLAGS) /* VCVTPS2PH: #PF comes before #XM */
        use_probe(c, in, &m);
    if (r.what & T_SSE)
        check_simd_exception(c, in, &r);
    if (m.acc & X86_ACC_W && x87_store_failed(c, in))
        use_probe(c, in, &m);
    else if (m.acc & X86_ACC_W)
        use_store(c, in, &m);
    commit(c, in, &r);
    return true;
}
