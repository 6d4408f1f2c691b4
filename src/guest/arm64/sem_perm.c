/* Interpreter: Advanced SIMD that moves elements: copies, permutations, tables, immediates; AES and SHA (Arm ARM C7.2).
 */
#include "guest/arm64/sem.h"
#include "guest/arm64/vec.h"

static unsigned imm5_log2(uint32_t w)
{
    return (unsigned)__builtin_ctz(a64_bits(w, 20, 16));
}

enum a64_res sem_dup(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = imm5_log2(w), n = a64_lanes(w, l);
    uint64_t v = A64_BIT(w, 11) ? a64_x(c, A64_RN(w)) : a64_el(&c->v[A64_RN(w)], a64_bits(w, 20, 16) >> (l + 1), l);
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++)
        a64_set_el(&r, i, l, v);
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_umov(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = imm5_log2(w);
    uint64_t v = a64_el(&c->v[A64_RN(w)], a64_bits(w, 20, 16) >> (l + 1), l);

    if (kind == A64_SMOV)
        v = A64_BIT(w, 30) ? a64_sx(v, l) : (uint32_t)a64_sx(v, l);
    a64_set_x(c, A64_RD(w), v);
    return A64_OK;
}

enum a64_res sem_ins(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = imm5_log2(w), to = a64_bits(w, 20, 16) >> (l + 1);
    uint64_t v = A64_BIT(w, 29) ? a64_el(&c->v[A64_RN(w)], a64_bits(w, 14, 11) >> l, l) : a64_x(c, A64_RN(w));

    a64_set_el(&c->v[A64_RD(w)], to, l, v);
    return A64_OK;
}

enum a64_res sem_permute(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned l = a64_bits(w, 23, 22), n = a64_lanes(w, l), part = A64_BIT(w, 14);
    const union ir_vec *a = &c->v[A64_RN(w)], *b = &c->v[A64_RM(w)];
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        uint64_t v;

        if (kind == A64_UZP1 || kind == A64_UZP2)
            v = a64_el(i < n / 2 ? a : b, 2 * i % n + part, l);
        else if (kind == A64_TRN1 || kind == A64_TRN2)
            v = a64_el(i & 1 ? b : a, (i & ~1u) + part, l);
        else
            v = a64_el(i & 1 ? b : a, i / 2 + part * n / 2, l);
        a64_set_el(&r, i, l, v);
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_ext(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned n = a64_lanes(w, 0), at = a64_bits(w, 14, 11);
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++, at++)
        r.b[i] = at < n ? c->v[A64_RN(w)].b[at] : c->v[A64_RM(w)].b[at - n];
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

enum a64_res sem_tbl(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned n = a64_lanes(w, 0), size = 16 * (a64_bits(w, 14, 13) + 1);
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < n; i++) {
        unsigned at = c->v[A64_RM(w)].b[i];

        if (at < size)
            r.b[i] = c->v[(A64_RN(w) + at / 16) & 31].b[at % 16];
        else if (kind == A64_TBX)
            r.b[i] = c->v[A64_RD(w)].b[i];
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

/* AdvSIMDExpandImm. */
uint64_t a64_vimm(uint32_t w)
{
    unsigned imm8 = a64_bits(w, 18, 16) << 5 | a64_bits(w, 9, 5), cmode = a64_bits(w, 15, 12), op = A64_BIT(w, 29);
    uint64_t v = imm8;

    if (cmode < 8) {
        v <<= 8 * (cmode >> 1);
        v |= v << 32;
    } else if (cmode < 12) {
        v <<= 8 * (cmode >> 1 & 1);
        v *= UINT64_C(0x0001000100010001);
    } else if (cmode < 14) {
        v = cmode & 1 ? v << 16 | 0xffff : v << 8 | 0xff;
        v |= v << 32;
    } else if (cmode == 14) {
        if (!op)
            return v * UINT64_C(0x0101010101010101);
        v = 0;
        for (int i = 0; i < 8; i++)
            v |= imm8 >> i & 1 ? UINT64_C(0xff) << 8 * i : 0;
    } else if (op) {
        v = a64_fp_imm(imm8, 3);
    } else if (A64_BIT(w, 11)) {
        v = a64_fp_imm(imm8, 1) * UINT64_C(0x0001000100010001);
    } else {
        v = a64_fp_imm(imm8, 2);
        v |= v << 32;
    }
    return v;
}

enum a64_res sem_vimm(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t v = a64_vimm(w);
    union ir_vec r = {{0}};

    for (unsigned i = 0; i < (A64_BIT(w, 30) ? 2u : 1u); i++) {
        uint64_t d = c->v[A64_RD(w)].d[i];

        switch (kind) {
        case A64_ORR:
            r.d[i] = d | v;
            break;
        case A64_BIC:
            r.d[i] = d & ~v;
            break;
        case A64_MVNI:
            r.d[i] = ~v;
            break;
        default:
            r.d[i] = v;
            break;
        }
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

/* ---- AES (FIPS 197) ---- */
static uint8_t xtime(uint8_t a)
{
    return (uint8_t)(a << 1 ^ (a >> 7) * 0x1b);
}

static uint8_t gmul(uint8_t a, unsigned b)
{
    uint8_t r = 0;

    for (; b; b >>= 1, a = xtime(a))
        if (b & 1)
            r ^= a;
    return r;
}

static uint8_t inverse(uint8_t a) /* a^254 */
{
    uint8_t r = 1, p = a;

    for (int i = 1; i < 8; i++) {
        p = gmul(p, p);
        r = gmul(r, p);
    }
    return r;
}

static uint8_t rot8(uint8_t a, int n)
{
    return (uint8_t)(a << n | a >> (8 - n));
}

static uint8_t sub_byte(uint8_t a)
{
    a = inverse(a);
    return a ^ rot8(a, 1) ^ rot8(a, 2) ^ rot8(a, 3) ^ rot8(a, 4) ^ 0x63;
}

static uint8_t inv_sub_byte(uint8_t a)
{
    a ^= 0x63;
    return inverse(rot8(a, 1) ^ rot8(a, 3) ^ rot8(a, 6));
}

static void mix(union ir_vec *v, unsigned m0, unsigned m1, unsigned m2, unsigned m3)
{
    for (int i = 0; i < 16; i += 4) {
        uint8_t a[4];

        memcpy(a, v->b + i, 4);
        for (int j = 0; j < 4; j++)
            v->b[i + j] =
                gmul(a[j], m0) ^ gmul(a[(j + 1) & 3], m1) ^ gmul(a[(j + 2) & 3], m2) ^ gmul(a[(j + 3) & 3], m3);
    }
}

enum a64_res sem_aes(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    union ir_vec s = c->v[A64_RN(w)], r;

    if (kind == A64_AESMC) {
        mix(&s, 2, 3, 1, 1);
        r = s;
    } else if (kind == A64_AESIMC) {
        mix(&s, 14, 11, 13, 9);
        r = s;
    } else {
        s.d[0] ^= c->v[A64_RD(w)].d[0];
        s.d[1] ^= c->v[A64_RD(w)].d[1];
        for (int i = 0; i < 16; i++) /* column i / 4, row i % 4 */
            r.b[i] =
                kind == A64_AESE ? sub_byte(s.b[(i + 4 * (i & 3)) & 15]) : inv_sub_byte(s.b[(i - 4 * (i & 3)) & 15]);
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}

/* ---- SHA-1 and SHA-256 (FIPS 180-4) ---- */
static uint32_t rol(uint32_t v, int n)
{
    return v << n | v >> (32 - n);
}

static uint32_t ror(uint32_t v, int n)
{
    return v >> n | v << (32 - n);
}

static void sha1_rounds(union ir_vec *x, uint32_t y, const union ir_vec *wk, unsigned kind)
{
    for (int i = 0; i < 4; i++) {
        uint32_t b = x->s[1], cc = x->s[2], d = x->s[3], f;

        if (kind == A64_SHA1C)
            f = (b & cc) | (~b & d);
        else if (kind == A64_SHA1P)
            f = b ^ cc ^ d;
        else
            f = (b & cc) | (b & d) | (cc & d);
        y += rol(x->s[0], 5) + f + wk->s[i];
        f = y; /* rotate (y:x) by 32 bits */
        y = d;
        x->s[3] = cc;
        x->s[2] = rol(b, 30);
        x->s[1] = x->s[0];
        x->s[0] = f;
    }
}

static void sha256_rounds(union ir_vec *x, union ir_vec *y, const union ir_vec *wk)
{
    for (int i = 0; i < 4; i++) {
        uint32_t a = x->s[0], b = x->s[1], cc = x->s[2], d = x->s[3];
        uint32_t e = y->s[0], f = y->s[1], g = y->s[2], h = y->s[3];
        uint32_t t1 = h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + wk->s[i];
        uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & cc) ^ (b & cc));

        *y = (union ir_vec){.s = {d + t1, e, f, g}};
        *x = (union ir_vec){.s = {t1 + t2, a, b, cc}};
    }
}

static uint32_t sigma0(uint32_t v)
{
    return ror(v, 7) ^ ror(v, 18) ^ v >> 3;
}

static uint32_t sigma1(uint32_t v)
{
    return ror(v, 17) ^ ror(v, 19) ^ v >> 10;
}

enum a64_res sem_sha(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    const union ir_vec n = c->v[A64_RN(w)], m = c->v[A64_RM(w)];
    union ir_vec d = c->v[A64_RD(w)], r = d, y;

    switch (kind) {
    case A64_SHA1H:
        r = (union ir_vec){.s = {rol(n.s[0], 30)}};
        break;
    case A64_SHA1SU0:
        r.d[0] = d.d[1] ^ d.d[0] ^ m.d[0];
        r.d[1] = n.d[0] ^ d.d[1] ^ m.d[1];
        break;
    case A64_SHA1SU1:
        for (int i = 0; i < 3; i++)
            r.s[i] = rol(d.s[i] ^ n.s[i + 1], 1);
        r.s[3] = rol(d.s[3] ^ r.s[0], 1);
        break;
    case A64_SHA256H:
        y = n;
        sha256_rounds(&r, &y, &m);
        break;
    case A64_SHA256H2:
        y = d;
        r = n;
        sha256_rounds(&r, &y, &m);
        r = y;
        break;
    case A64_SHA256SU0:
        for (int i = 0; i < 4; i++)
            r.s[i] = d.s[i] + sigma0(i < 3 ? d.s[i + 1] : n.s[0]);
        break;
    case A64_SHA256SU1:
        for (int i = 0; i < 4; i++)
            r.s[i] = d.s[i] + (i < 3 ? n.s[i + 1] : m.s[0]) + sigma1(i < 2 ? m.s[i + 2] : r.s[i - 2]);
        break;
    default:
        sha1_rounds(&r, n.s[0], &m, kind);
        break;
    }
    c->v[A64_RD(w)] = r;
    return A64_OK;
}
