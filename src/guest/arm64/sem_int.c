/* Interpreter: integer instructions, branches and exceptions (Arm ARM C6.2). */
#include "guest/arm64/sem.h"

#define SF(w) ((w) >> 31)

static inline uint64_t trunc_sf(uint32_t w, uint64_t v)
{
    return SF(w) ? v : (uint32_t)v;
}

uint64_t a64_extend(uint64_t v, unsigned option, unsigned shift)
{
    switch (option) {
    case 0:
        v = (uint8_t)v;
        break;
    case 1:
        v = (uint16_t)v;
        break;
    case 2:
        v = (uint32_t)v;
        break;
    case 4:
        v = (uint64_t)(int8_t)v;
        break;
    case 5:
        v = (uint64_t)(int16_t)v;
        break;
    case 6:
        v = (uint64_t)(int32_t)v;
        break;
    default:
        break;
    }
    return v << shift;
}

bool a64_cond(uint32_t nzcv, unsigned cond)
{
    bool n = nzcv >> 31, z = nzcv >> 30 & 1, c = nzcv >> 29 & 1, v = nzcv >> 28 & 1, r;

    switch (cond >> 1) {
    case 0:
        r = z;
        break;
    case 1:
        r = c;
        break;
    case 2:
        r = n;
        break;
    case 3:
        r = v;
        break;
    case 4:
        r = c && !z;
        break;
    case 5:
        r = n == v;
        break;
    case 6:
        r = n == v && !z;
        break;
    default:
        return true;
    }
    return r != (cond & 1);
}

/* a + b + carry of the width of w; flags in bits 31 to 28 of *nzcv. */
static uint64_t add_carry(uint32_t w, uint64_t a, uint64_t b, unsigned carry, uint32_t *nzcv)
{
    uint64_t r, c, v;

    if (SF(w)) {
        r = a + b + carry;
        c = carry ? r <= a : r < a;
        v = (~(a ^ b) & (a ^ r)) >> 63;
        *nzcv = (uint32_t)(r >> 63) << 31;
    } else {
        uint64_t wide = (uint64_t)(uint32_t)a + (uint32_t)b + carry;

        r = (uint32_t)wide;
        c = wide >> 32;
        v = (~(a ^ b) & (a ^ r)) >> 31 & 1;
        *nzcv = (uint32_t)(r >> 31) << 31;
    }
    *nzcv |= (uint32_t)(r == 0) << 30 | (uint32_t)c << 29 | (uint32_t)v << 28;
    return r;
}

static uint64_t add_sub(struct a64_cpu *c, uint32_t w, uint64_t a, uint64_t b)
{
    bool sub = A64_BIT(w, 30), flags = A64_BIT(w, 29);
    uint32_t nzcv;
    uint64_t r = add_carry(w, a, sub ? ~b : b, sub, &nzcv);

    if (flags)
        a64_set_nzcv(c, nzcv);
    return r;
}

enum a64_res sem_adr(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t imm = (uint64_t)a64_sbits(w, 23, 5) << 2 | a64_bits(w, 30, 29);

    a64_set_x(c, A64_RD(w), kind == A64_ADR ? c->pc + imm : (c->pc & ~UINT64_C(0xfff)) + (imm << 12));
    return A64_OK;
}

enum a64_res sem_addsub_imm(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t imm = (uint64_t)a64_bits(w, 21, 10) << (A64_BIT(w, 22) ? 12 : 0);
    uint64_t r = add_sub(c, w, a64_xsp(c, A64_RN(w)), imm);

    if (A64_BIT(w, 29))
        a64_set_x(c, A64_RD(w), r);
    else
        a64_set_xsp(c, A64_RD(w), r);
    return A64_OK;
}

static void logic(struct a64_cpu *c, uint32_t w, uint64_t b, bool rd_sp)
{
    uint64_t a = a64_x(c, A64_RN(w)), r;

    switch (a64_bits(w, 30, 29)) {
    case 0:
    case 3:
        r = a & b;
        break;
    case 1:
        r = a | b;
        break;
    default:
        r = a ^ b;
        break;
    }
    r = trunc_sf(w, r);
    if (a64_bits(w, 30, 29) == 3)
        a64_set_nzcv(c, (uint32_t)(SF(w) ? r >> 63 : r >> 31) << 31 | (uint32_t)(r == 0) << 30);
    if (rd_sp && a64_bits(w, 30, 29) != 3)
        a64_set_xsp(c, A64_RD(w), r);
    else
        a64_set_x(c, A64_RD(w), r);
}

enum a64_res sem_logic_imm(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t imm = 0;

    a64_bitmask(A64_BIT(w, 22), a64_bits(w, 21, 16), a64_bits(w, 15, 10), SF(w), &imm);
    logic(c, w, imm, true);
    return A64_OK;
}

enum a64_res sem_movw(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned shift = 16 * a64_bits(w, 22, 21);
    uint64_t imm = (uint64_t)a64_bits(w, 20, 5) << shift, v;

    switch (kind) {
    case A64_MOVZ:
        v = imm;
        break;
    case A64_MOVN:
        v = ~imm;
        break;
    default:
        v = (a64_x(c, A64_RD(w)) & ~(UINT64_C(0xffff) << shift)) | imm;
        break;
    }
    a64_set_x(c, A64_RD(w), trunc_sf(w, v));
    return A64_OK;
}

enum a64_res sem_bitfield(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned r = a64_bits(w, 21, 16), s = a64_bits(w, 15, 10), width = SF(w) ? 64 : 32, len, pos;
    uint64_t src = a64_x(c, A64_RN(w)), mask, v, dst = a64_x(c, A64_RD(w));

    if (s >= r) { /* extract s..r to the bottom */
        len = s - r + 1;
        pos = 0;
        src >>= r;
    } else { /* insert s..0 at width - r */
        len = s + 1;
        pos = width - r;
    }
    mask = len == 64 ? ~UINT64_C(0) : (UINT64_C(1) << len) - 1;
    v = src & mask;
    if (kind == A64_SBFM && v >> (len - 1) & 1)
        v |= ~mask;
    v <<= pos;
    if (kind == A64_BFM)
        v = (dst & ~(mask << pos)) | v;
    a64_set_x(c, A64_RD(w), trunc_sf(w, v));
    return A64_OK;
}

enum a64_res sem_extr(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned n = a64_bits(w, 15, 10);
    uint64_t hi = a64_x(c, A64_RN(w)), lo = a64_x(c, A64_RM(w));

    if (SF(w))
        lo = n ? lo >> n | hi << (64 - n) : lo;
    else
        lo = (uint32_t)(((hi << 32) | (uint32_t)lo) >> n);
    a64_set_x(c, A64_RD(w), lo);
    return A64_OK;
}

static uint64_t shifted(struct a64_cpu *c, uint32_t w)
{
    unsigned n = a64_bits(w, 15, 10);
    uint64_t v = trunc_sf(w, a64_x(c, A64_RM(w)));

    switch (a64_bits(w, 23, 22)) {
    case 0:
        v <<= n;
        break;
    case 1:
        v >>= n;
        break;
    case 2:
        v = SF(w) ? (uint64_t)((int64_t)v >> n) : (uint64_t)((int32_t)v >> n);
        break;
    default:
        if (n)
            v = SF(w) ? v >> n | v << (64 - n) : v >> n | v << (32 - n);
        break;
    }
    return trunc_sf(w, v);
}

enum a64_res sem_logic_reg(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t b = shifted(c, w);

    logic(c, w, A64_BIT(w, 21) ? ~b : b, false);
    return A64_OK;
}

enum a64_res sem_addsub_reg(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    a64_set_x(c, A64_RD(w), add_sub(c, w, a64_x(c, A64_RN(w)), shifted(c, w)));
    return A64_OK;
}

enum a64_res sem_addsub_ext(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t b = a64_extend(a64_x(c, A64_RM(w)), a64_bits(w, 15, 13), a64_bits(w, 12, 10));
    uint64_t r = add_sub(c, w, a64_xsp(c, A64_RN(w)), b);

    if (A64_BIT(w, 29))
        a64_set_x(c, A64_RD(w), r);
    else
        a64_set_xsp(c, A64_RD(w), r);
    return A64_OK;
}

enum a64_res sem_adc(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t a = a64_x(c, A64_RN(w)), b = a64_x(c, A64_RM(w));
    uint32_t nzcv;
    uint64_t r = add_carry(w, a, A64_BIT(w, 30) ? ~b : b, a64_nzcv(c) >> 29 & 1, &nzcv);

    if (A64_BIT(w, 29))
        a64_set_nzcv(c, nzcv);
    a64_set_x(c, A64_RD(w), r);
    return A64_OK;
}

enum a64_res sem_ccmp(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint32_t nzcv = (w & 15) << 28;
    uint64_t b = A64_BIT(w, 11) ? A64_RM(w) : a64_x(c, A64_RM(w));

    if (a64_cond(a64_nzcv(c), a64_bits(w, 15, 12)))
        add_carry(w, a64_x(c, A64_RN(w)), A64_BIT(w, 30) ? ~b : b, A64_BIT(w, 30), &nzcv);
    a64_set_nzcv(c, nzcv);
    return A64_OK;
}

enum a64_res sem_csel(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t v;

    if (a64_cond(a64_nzcv(c), a64_bits(w, 15, 12))) {
        v = a64_x(c, A64_RN(w));
    } else {
        v = a64_x(c, A64_RM(w));
        if (A64_BIT(w, 30))
            v = ~v;
        v += A64_BIT(w, 10);
    }
    a64_set_x(c, A64_RD(w), trunc_sf(w, v));
    return A64_OK;
}

static uint64_t divide(uint32_t w, uint64_t a, uint64_t b, bool sign)
{
    if (!sign) {
        a = trunc_sf(w, a);
        b = trunc_sf(w, b);
        return b ? a / b : 0;
    }
    if (SF(w))
        return !b ? 0 : (int64_t)b == -1 ? -a : (uint64_t)((int64_t)a / (int64_t)b);
    return !(int32_t)b ? 0 : (int32_t)b == -1 ? (uint32_t) - (uint32_t)a : (uint32_t)((int32_t)a / (int32_t)b);
}

enum a64_res sem_dp2(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t a = trunc_sf(w, a64_x(c, A64_RN(w))), b = a64_x(c, A64_RM(w)), v;
    unsigned n = b & (SF(w) ? 63 : 31);

    switch (kind) {
    case A64_UDIV:
        v = divide(w, a, b, false);
        break;
    case A64_SDIV:
        v = divide(w, a, b, true);
        break;
    case A64_LSLV:
        v = a << n;
        break;
    case A64_LSRV:
        v = a >> n;
        break;
    case A64_ASRV:
        v = SF(w) ? (uint64_t)((int64_t)a >> n) : (uint64_t)((int32_t)a >> n);
        break;
    default:
        v = !n ? a : a >> n | a << ((SF(w) ? 64 : 32) - n);
        break;
    }
    a64_set_x(c, A64_RD(w), trunc_sf(w, v));
    return A64_OK;
}

enum a64_res sem_crc32(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint32_t poly = A64_BIT(w, 12) ? 0x82f63b78 : 0xedb88320, crc = (uint32_t)a64_x(c, A64_RN(w));
    uint64_t v = a64_x(c, A64_RM(w));

    for (unsigned n = 1u << a64_bits(w, 11, 10); n--; v >>= 8) {
        crc ^= (uint8_t)v;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? poly : 0);
    }
    a64_set_x(c, A64_RD(w), crc);
    return A64_OK;
}

static uint64_t bit_reverse(uint64_t v)
{
    uint64_t r = 0;

    for (int i = 0; i < 64; i++)
        r |= (v >> i & 1) << (63 - i);
    return r;
}

enum a64_res sem_dp1(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t a = trunc_sf(w, a64_x(c, A64_RN(w))), v;
    unsigned width = SF(w) ? 64 : 32;

    switch (kind) {
    case A64_RBIT:
        v = bit_reverse(a) >> (64 - width);
        break;
    case A64_REV16:
        v = (a & UINT64_C(0x00ff00ff00ff00ff)) << 8 | (a >> 8 & UINT64_C(0x00ff00ff00ff00ff));
        break;
    case A64_REV32:
        v = (uint64_t)__builtin_bswap32((uint32_t)(a >> 32)) << 32 | __builtin_bswap32((uint32_t)a);
        break;
    case A64_REV:
        v = SF(w) ? __builtin_bswap64(a) : __builtin_bswap32((uint32_t)a);
        break;
    case A64_CLS:
        a = SF(w) ? a ^ (uint64_t)((int64_t)a >> 63) : (uint32_t)(a ^ (uint64_t)((int32_t)a >> 31)); /* fall through */
    default:
        v = a ? (uint64_t)__builtin_clzll(a) - (64 - width) : width;
        v -= kind == A64_CLS;
        break;
    }
    a64_set_x(c, A64_RD(w), trunc_sf(w, v));
    return A64_OK;
}

enum a64_res sem_dp3(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t n = a64_x(c, A64_RN(w)), m = a64_x(c, A64_RM(w)), a = a64_x(c, A64_RA(w)), v;

    switch (kind) {
    case A64_MADD:
        v = a + n * m;
        break;
    case A64_MSUB:
        v = a - n * m;
        break;
    case A64_SMADDL:
        v = a + (uint64_t)((int64_t)(int32_t)n * (int32_t)m);
        break;
    case A64_SMSUBL:
        v = a - (uint64_t)((int64_t)(int32_t)n * (int32_t)m);
        break;
    case A64_UMADDL:
        v = a + (uint64_t)(uint32_t)n * (uint32_t)m;
        break;
    case A64_UMSUBL:
        v = a - (uint64_t)(uint32_t)n * (uint32_t)m;
        break;
    case A64_SMULH:
        v = (uint64_t)((__int128)(int64_t)n * (int64_t)m >> 64);
        break;
    default:
        v = (uint64_t)((unsigned __int128)n * m >> 64);
        break;
    }
    a64_set_x(c, A64_RD(w), trunc_sf(w, v));
    return A64_OK;
}

enum a64_res sem_branch(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    if (kind == A64_BL)
        c->x[30] = c->pc + 4;
    c->npc = c->pc + (uint64_t)a64_sbits(w, 25, 0) * 4;
    return A64_OK;
}

enum a64_res sem_bcond(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    if (a64_cond(a64_nzcv(c), w & 15))
        c->npc = c->pc + (uint64_t)a64_sbits(w, 23, 5) * 4;
    return A64_OK;
}

enum a64_res sem_cbz(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    if ((trunc_sf(w, a64_x(c, A64_RD(w))) == 0) == (kind == A64_CBZ))
        c->npc = c->pc + (uint64_t)a64_sbits(w, 23, 5) * 4;
    return A64_OK;
}

enum a64_res sem_tbz(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    unsigned bit = (w >> 31) << 5 | a64_bits(w, 23, 19);

    if ((a64_x(c, A64_RD(w)) >> bit & 1) == (kind == A64_TBNZ))
        c->npc = c->pc + (uint64_t)a64_sbits(w, 18, 5) * 4;
    return A64_OK;
}

enum a64_res sem_br(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t target = a64_x(c, A64_RN(w));

    if (kind == A64_BLR)
        c->x[30] = c->pc + 4;
    c->npc = target;
    return A64_OK;
}

enum a64_res sem_exc(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    return kind == A64_SVC ? A64_DO_SVC : kind == A64_BRK ? A64_DO_BRK : A64_UNDEF;
}

enum a64_res sem_nop(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    return A64_OK;
}

enum a64_res sem_barrier(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    if (kind == A64_CLREX)
        c->ex_addr = ~UINT64_C(0);
    else
        __sync_synchronize();
    return A64_OK;
}
