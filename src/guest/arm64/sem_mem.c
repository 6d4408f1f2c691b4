/* Interpreter: loads and stores (Arm ARM C6.2, C7.2 for the SIMD structures), through a64_mem_ops.
 *
 * Exclusives are a remembered value and a compare-and-swap: a store exclusive succeeds when memory holds what was read,
 * also if it changed in between and changed back. */
#include "guest/arm64/sem.h"

#define SIZE(w) ((w) >> 30)
static const uint8_t zeros[16];

static bool rd(struct a64_cpu *c, uint64_t a, void *p, unsigned n)
{
    return c->mem->read(c, a, p, n, false);
}

static bool rd_int(struct a64_cpu *c, uint64_t a, unsigned n, uint64_t *v)
{
    uint8_t b[8] = {0};

    if (!rd(c, a, b, n))
        return false;
    *v = get_le64(b);
    return true;
}

static bool wr_int(struct a64_cpu *c, uint64_t a, unsigned n, uint64_t v)
{
    uint8_t b[8];

    put_le64(b, v);
    return c->mem->write(c, a, b, n);
}

static uint64_t sign(uint64_t v, unsigned bytes)
{
    unsigned s = 64 - 8 * bytes;

    return (uint64_t)((int64_t)(v << s) >> s);
}

/* One integer register: opc (bits 23..22) 0 store, 1 load, 2 sign to 64, 3 sign to 32. */
static enum a64_res one_int(struct a64_cpu *c, uint32_t w, uint64_t a)
{
    unsigned opc = a64_bits(w, 23, 22), n = 1u << SIZE(w);
    uint64_t v;

    if (!opc)
        return wr_int(c, a, n, a64_x(c, A64_RD(w))) ? A64_OK : A64_FAULT;
    if (!rd_int(c, a, n, &v))
        return A64_FAULT;
    if (opc >= 2)
        v = sign(v, n);
    a64_set_x(c, A64_RD(w), opc == 3 ? (uint32_t)v : v);
    return A64_OK;
}

static unsigned vec_log2(uint32_t w)
{
    return A64_BIT(w, 23) ? 4 : SIZE(w);
}

static enum a64_res one_vec(struct a64_cpu *c, uint32_t w, uint64_t a)
{
    unsigned n = 1u << vec_log2(w);
    union ir_vec v = {{0}};

    if (!A64_BIT(w, 22))
        return c->mem->write(c, a, &c->v[A64_RD(w)], n) ? A64_OK : A64_FAULT;
    if (!rd(c, a, &v, n))
        return A64_FAULT;
    c->v[A64_RD(w)] = v;
    return A64_OK;
}

static enum a64_res one(struct a64_cpu *c, uint32_t w, uint64_t a)
{
    return A64_BIT(w, 26) ? one_vec(c, w, a) : one_int(c, w, a);
}

enum a64_res sem_ldst_uimm(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned scale = A64_BIT(w, 26) ? vec_log2(w) : SIZE(w);

    return one(c, w, a64_xsp(c, A64_RN(w)) + ((uint64_t)a64_bits(w, 21, 10) << scale));
}

enum a64_res sem_ldst_simm(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned form = a64_bits(w, 11, 10); /* 0 unscaled, 1 post, 2 unprivileged, 3 pre */
    uint64_t base = a64_xsp(c, A64_RN(w)), moved = base + (uint64_t)a64_sbits(w, 20, 12);
    enum a64_res r = one(c, w, form == 1 ? base : moved);

    if (r == A64_OK && (form & 1))
        a64_set_xsp(c, A64_RN(w), moved);
    return r;
}

enum a64_res sem_ldst_reg(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned scale = A64_BIT(w, 26) ? vec_log2(w) : SIZE(w);
    uint64_t off = a64_extend(a64_x(c, A64_RM(w)), a64_bits(w, 15, 13), A64_BIT(w, 12) ? scale : 0);

    return one(c, w, a64_xsp(c, A64_RN(w)) + off);
}

enum a64_res sem_ldr_lit(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t a = c->pc + (uint64_t)a64_sbits(w, 23, 5) * 4, v;
    unsigned opc = w >> 30;
    union ir_vec vec = {{0}};

    if (A64_BIT(w, 26)) {
        if (!rd(c, a, &vec, 4u << opc))
            return A64_FAULT;
        c->v[A64_RD(w)] = vec;
        return A64_OK;
    }
    if (!rd_int(c, a, opc == 1 ? 8 : 4, &v))
        return A64_FAULT;
    a64_set_x(c, A64_RD(w), opc == 2 ? sign(v, 4) : v);
    return A64_OK;
}

/* Address of a pair and its write-back: mode in bits 24..23 (0 no-allocate, 1 post, 2 offset, 3 pre). */
static uint64_t pair_addr(struct a64_cpu *c, uint32_t w, unsigned n, uint64_t *moved)
{
    uint64_t base = a64_xsp(c, A64_RN(w));

    *moved = base + (uint64_t)a64_sbits(w, 21, 15) * n;
    return a64_bits(w, 24, 23) == 1 ? base : *moved;
}

enum a64_res sem_ldst_pair(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned opc = w >> 30, n = opc == 2 ? 8 : 4;
    uint64_t moved, a = pair_addr(c, w, n, &moved), v[2];
    uint8_t b[16];

    if (!A64_BIT(w, 22)) {
        if (n == 8) {
            put_le64(b, a64_x(c, A64_RD(w)));
            put_le64(b + 8, a64_x(c, A64_RA(w)));
        } else {
            put_le32(b, (uint32_t)a64_x(c, A64_RD(w)));
            put_le32(b + 4, (uint32_t)a64_x(c, A64_RA(w)));
        }
        if (!c->mem->write(c, a, b, 2 * n))
            return A64_FAULT;
    } else {
        if (!rd(c, a, b, 2 * n))
            return A64_FAULT;
        v[0] = n == 8 ? get_le64(b) : get_le32(b);
        v[1] = n == 8 ? get_le64(b + 8) : get_le32(b + 4);
        a64_set_x(c, A64_RD(w), opc == 1 ? sign(v[0], 4) : v[0]);
        a64_set_x(c, A64_RA(w), opc == 1 ? sign(v[1], 4) : v[1]);
    }
    if (A64_BIT(w, 23))
        a64_set_xsp(c, A64_RN(w), moved);
    return A64_OK;
}

enum a64_res sem_ldst_pairv(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned n = 4u << (w >> 30);
    uint64_t moved, a = pair_addr(c, w, n, &moved);
    uint8_t b[32];
    union ir_vec lo = {{0}}, hi = {{0}};

    if (!A64_BIT(w, 22)) {
        memcpy(b, &c->v[A64_RD(w)], n);
        memcpy(b + n, &c->v[A64_RA(w)], n);
        if (!c->mem->write(c, a, b, 2 * n))
            return A64_FAULT;
    } else {
        if (!rd(c, a, b, 2 * n))
            return A64_FAULT;
        memcpy(&lo, b, n);
        memcpy(&hi, b + n, n);
        c->v[A64_RD(w)] = lo;
        c->v[A64_RA(w)] = hi;
    }
    if (A64_BIT(w, 23))
        a64_set_xsp(c, A64_RN(w), moved);
    return A64_OK;
}

static enum a64_res misaligned(struct a64_cpu *c, uint64_t a)
{
    c->fault_addr = a;
    return A64_ALIGN;
}

enum a64_res sem_ldst_ord(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned n = 1u << SIZE(w);
    uint64_t a = a64_xsp(c, A64_RN(w)), v;

    if (a & (n - 1))
        return misaligned(c, a);
    if (kind == A64_STLR || kind == A64_STLLR) {
        __sync_synchronize();
        if (!wr_int(c, a, n, a64_x(c, A64_RD(w))))
            return A64_FAULT;
        __sync_synchronize();
        return A64_OK;
    }
    if (!rd_int(c, a, n, &v))
        return A64_FAULT;
    __sync_synchronize();
    a64_set_x(c, A64_RD(w), v);
    return A64_OK;
}

enum a64_res sem_excl_ld(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    bool pair = kind == A64_LDXP || kind == A64_LDAXP;
    unsigned n = 1u << SIZE(w);
    uint64_t a = a64_xsp(c, A64_RN(w));
    uint8_t b[16] = {0};

    if (a & (n * (pair ? 2 : 1) - 1))
        return misaligned(c, a);
    if (!rd(c, a, b, pair ? 2 * n : n))
        return A64_FAULT;
    __sync_synchronize();
    c->ex_addr = a;
    c->ex_val[0] = get_le64(b);
    c->ex_val[1] = get_le64(b + 8);
    if (pair && n == 4) {
        a64_set_x(c, A64_RD(w), get_le32(b));
        a64_set_x(c, A64_RA(w), get_le32(b + 4));
    } else {
        a64_set_x(c, A64_RD(w), c->ex_val[0]);
        if (pair)
            a64_set_x(c, A64_RA(w), c->ex_val[1]);
    }
    return A64_OK;
}

enum a64_res sem_excl_st(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    bool pair = kind == A64_STXP || kind == A64_STLXP, done = false;
    unsigned n = 1u << SIZE(w), all = pair ? 2 * n : n;
    uint64_t a = a64_xsp(c, A64_RN(w)), v[2] = {a64_x(c, A64_RD(w)), a64_x(c, A64_RA(w))}, old[2];

    if (c->ex_addr == a) { /* aligned, or it would not be armed */
        if (pair && n == 4)
            v[0] = (uint32_t)v[0] | v[1] << 32;
        memcpy(old, c->ex_val, sizeof old);
        if (!c->mem->cas(c, a, old, v, all, &done))
            return A64_FAULT;
    }
    c->ex_addr = ~UINT64_C(0);
    a64_set_x(c, A64_RM(w), !done);
    return A64_OK;
}

enum a64_res sem_cas(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned n = 1u << SIZE(w), s = 64 - 8 * n;
    uint64_t a = a64_xsp(c, A64_RN(w)), old = a64_x(c, A64_RM(w)) << s >> s, v = a64_x(c, A64_RD(w));
    bool done;

    if (a & (n - 1))
        return misaligned(c, a);
    if (!c->mem->cas(c, a, &old, &v, n, &done))
        return A64_FAULT;
    a64_set_x(c, A64_RM(w), old);
    return A64_OK;
}

enum a64_res sem_casp(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned s = A64_RM(w), t = A64_RD(w), n = A64_BIT(w, 30) ? 8 : 4;
    uint64_t a = a64_xsp(c, A64_RN(w));
    uint64_t old[2] = {a64_x(c, s), a64_x(c, s + 1)}, v[2] = {a64_x(c, t), a64_x(c, t + 1)};
    bool done;

    if (a & (2 * n - 1))
        return misaligned(c, a);
    if (n == 4) {
        old[0] = (uint32_t)old[0] | old[1] << 32;
        v[0] = (uint32_t)v[0] | v[1] << 32;
    }
    if (!c->mem->cas(c, a, old, v, 2 * n, &done))
        return A64_FAULT;
    a64_set_x(c, s, n == 4 ? (uint32_t)old[0] : old[0]);
    a64_set_x(c, s + 1, n == 4 ? old[0] >> 32 : old[1]);
    return A64_OK;
}

static uint64_t lse_new(unsigned kind, uint64_t old, uint64_t v, unsigned n)
{
    int64_t so = (int64_t)sign(old, n), sv = (int64_t)sign(v, n);

    switch (kind) {
    case A64_LDADD:
        return old + v;
    case A64_LDCLR:
        return old & ~v;
    case A64_LDEOR:
        return old ^ v;
    case A64_LDSET:
        return old | v;
    case A64_LDSMAX:
        return so > sv ? old : v;
    case A64_LDSMIN:
        return so < sv ? old : v;
    case A64_LDUMAX:
        return old > v ? old : v;
    case A64_LDUMIN:
        return old < v ? old : v;
    default:
        return v;
    }
}

enum a64_res sem_lse(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned n = 1u << SIZE(w), s = 64 - 8 * n;
    uint64_t a = a64_xsp(c, A64_RN(w)), v = a64_x(c, A64_RM(w)) << s >> s, old = 0;
    bool done = false;

    if (a & (n - 1))
        return misaligned(c, a);
    if (!rd_int(c, a, n, &old))
        return A64_FAULT;
    while (!done) {
        uint64_t nv = lse_new(kind, old, v, n);

        if (!c->mem->cas(c, a, &old, &nv, n, &done))
            return A64_FAULT;
    }
    a64_set_x(c, A64_RD(w), old);
    return A64_OK;
}

/* ---- SIMD structures ---- */
/* Bits 21 and 12 say how many registers a structure of the single and replicating forms has. */
static unsigned one_regs(uint32_t w)
{
    return 1 + A64_BIT(w, 21) + 2 * A64_BIT(w, 13);
}

static void post_index(struct a64_cpu *c, uint32_t w, unsigned bytes)
{
    unsigned m = A64_RM(w);

    if (A64_BIT(w, 23))
        a64_set_xsp(c, A64_RN(w), a64_xsp(c, A64_RN(w)) + (m == 31 ? bytes : c->x[m]));
}

static unsigned multi_regs(unsigned opcode)
{
    static const uint8_t regs[16] = {[0] = 4, [2] = 4, [4] = 3, [6] = 3, [7] = 1, [8] = 2, [10] = 2};

    return regs[opcode];
}

enum a64_res sem_vls_multi(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned opcode = a64_bits(w, 15, 12), es = 1u << a64_bits(w, 11, 10), regs = multi_regs(opcode);
    unsigned bytes = A64_BIT(w, 30) ? 16 : 8, t = A64_RD(w), at = 0;
    bool inter = opcode == 0 || opcode == 4 || opcode == 8;
    uint64_t a = a64_xsp(c, A64_RN(w));
    uint8_t buf[64];
    union ir_vec v[4];

    memset(v, 0, sizeof v);
    if (A64_BIT(w, 22)) {
        if (!rd(c, a, buf, regs * bytes))
            return A64_FAULT;
        for (unsigned i = 0; i < bytes; i += es)
            for (unsigned r = 0; r < regs; r++, at += es)
                memcpy(&v[r].b[i], inter ? buf + at : buf + r * bytes + i, es);
        for (unsigned r = 0; r < regs; r++)
            c->v[(t + r) & 31] = v[r];
    } else {
        for (unsigned i = 0; i < bytes; i += es)
            for (unsigned r = 0; r < regs; r++, at += es)
                memcpy(inter ? buf + at : buf + r * bytes + i, &c->v[(t + r) & 31].b[i], es);
        if (!c->mem->write(c, a, buf, regs * bytes))
            return A64_FAULT;
    }
    post_index(c, w, regs * bytes);
    return A64_OK;
}

enum a64_res sem_vls_one(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned op = a64_bits(w, 15, 14), regs = one_regs(w), t = A64_RD(w), es, index;
    unsigned qss = A64_BIT(w, 30) << 3 | a64_bits(w, 12, 10); /* Q:S:size */
    uint64_t a = a64_xsp(c, A64_RN(w));
    uint8_t buf[32];

    es = op < 2 ? 1u << op : qss & 1 ? 8 : 4;
    index = es == 8 ? qss >> 3 : qss >> op;
    if (A64_BIT(w, 22)) {
        if (!rd(c, a, buf, regs * es))
            return A64_FAULT;
        for (unsigned r = 0; r < regs; r++)
            memcpy(&c->v[(t + r) & 31].b[index * es], buf + r * es, es);
    } else {
        for (unsigned r = 0; r < regs; r++)
            memcpy(buf + r * es, &c->v[(t + r) & 31].b[index * es], es);
        if (!c->mem->write(c, a, buf, regs * es))
            return A64_FAULT;
    }
    post_index(c, w, regs * es);
    return A64_OK;
}

enum a64_res sem_vls_rep(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned regs = one_regs(w), es = 1u << a64_bits(w, 11, 10), bytes = A64_BIT(w, 30) ? 16 : 8, t = A64_RD(w);
    uint8_t buf[32];

    if (!rd(c, a64_xsp(c, A64_RN(w)), buf, regs * es))
        return A64_FAULT;
    for (unsigned r = 0; r < regs; r++) {
        union ir_vec *v = &c->v[(t + r) & 31];

        memset(v, 0, sizeof *v);
        for (unsigned i = 0; i < bytes; i += es)
            memcpy(&v->b[i], buf + r * es, es);
    }
    post_index(c, w, regs * es);
    return A64_OK;
}

/* Cache maintenance that programs may do (SCTLR_EL1.UCI, DZE set, as Linux does). */
enum a64_res sem_sys(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned op = a64_bits(w, 18, 5);
    uint64_t a = a64_x(c, A64_RD(w));

    switch (op) {
    case 3 << 11 | 7 << 7 | 4 << 3 | 1: /* DC ZVA: 64 bytes (DCZID_EL0) */
        a &= ~UINT64_C(63);
        for (unsigned i = 0; i < 64; i += 16)
            if (!c->mem->write(c, a + i, zeros, 16))
                return A64_FAULT;
        return A64_OK;
    case 3 << 11 | 7 << 7 | 5 << 3 | 1: /* IC IVAU */
        c->code_addr = a & ~UINT64_C(63);
        c->code_len = 64;
        return A64_ICACHE;
    case 3 << 11 | 7 << 7 | 10 << 3 | 1: /* DC CVAC, CVAU, CVAP, CIVAC */
    case 3 << 11 | 7 << 7 | 11 << 3 | 1:
    case 3 << 11 | 7 << 7 | 12 << 3 | 1:
    case 3 << 11 | 7 << 7 | 14 << 3 | 1:
        return rd(c, a & ~UINT64_C(63), &(uint8_t){0}, 1) ? A64_OK : A64_FAULT;
    default:
        return A64_UNDEF;
    }
}
