/* Text of an A64 instruction for logs: the canonical mnemonic, never an alias, and its operands. */
#include "guest/arm64/cpu.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const cond_name[16] = {"eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc",
                                          "hi", "ls", "ge", "lt", "gt", "le", "al", "nv"};

struct out {
    char *p;
    size_t n;
};
__attribute__((format(printf, 2, 3))) static void put(struct out *o, const char *fmt, ...)
{
    va_list ap;
    int k;

    va_start(ap, fmt);
    k = vsnprintf(o->p, o->n, fmt, ap);
    va_end(ap);
    if (k > 0 && (size_t)k < o->n) {
        o->p += k;
        o->n -= (size_t)k;
    }
}

static void put_mnem(struct out *o, const struct a64_row *r, uint32_t w)
{
    static const char *const bhw[] = {"b", "h", "w", ""};
    uint64_t at = r->attr;

    put(o, "%s", r->mnem);
    if (at & A64_A_TWO && A64_BIT(w, 30))
        put(o, "2");
    if (at & A64_A_LSE)
        put(o, "%s%s", A64_BIT(w, 23) ? "a" : "", A64_BIT(w, 22) ? "l" : "");
    if (at & A64_A_LSEC)
        put(o, "%s%s", A64_BIT(w, 22) ? "a" : "", A64_BIT(w, 15) ? "l" : "");
    if (at & A64_A_SZ && w >> 30 < 2)
        put(o, "%s", bhw[w >> 30]);
    if (at & A64_A_SZS)
        put(o, "%s", bhw[w >> 30]);
    if (at & A64_A_CONDNAME)
        put(o, ".%s", cond_name[w & 15]);
}

static void put_gpr(struct out *o, bool x, unsigned r, bool sp)
{
    if (r == 31)
        put(o, "%s", sp ? (x ? "sp" : "wsp") : x ? "xzr" : "wzr");
    else
        put(o, "%c%u", x ? 'x' : 'w', r);
}

/* A register word: R X W V F, then d n m a t s t2, then s for SP. False: not one. */
static bool put_reg(struct out *o, const char *s, uint32_t w)
{
    static const char ftype[4] = {'s', 'd', '?', 'h'};
    unsigned r;
    bool x, sp = s[0] && s[1] && s[2] == 's';

    if (!strchr("RXWVF", s[0]) || !s[1] || !strchr("dnmats", s[1]))
        return false;
    if (!strcmp(s + 1, "t2"))
        r = A64_RA(w);
    else if (s[2] && strcmp(s + 2, "s"))
        return false;
    else
        r = strchr("dt", s[1]) ? A64_RD(w) : s[1] == 'n' ? A64_RN(w) : s[1] == 'a' ? A64_RA(w) : A64_RM(w);
    x = s[0] == 'X' || (s[0] == 'R' && w >> 31);
    if (s[0] == 'V')
        put(o, "v%u", r);
    else if (s[0] == 'F')
        put(o, "%c%u", ftype[a64_bits(w, 23, 22)], r);
    else
        put_gpr(o, x, r, sp);
    return true;
}

static void put_shift(struct out *o, uint32_t w)
{
    static const char *const name[4] = {"lsl", "lsr", "asr", "ror"};
    unsigned n = a64_bits(w, 15, 10);

    if (n || a64_bits(w, 23, 22))
        put(o, ", %s #%u", name[a64_bits(w, 23, 22)], n);
}

static void put_extend(struct out *o, uint32_t w)
{
    static const char *const name[8] = {"uxtb", "uxth", "uxtw", "uxtx", "sxtb", "sxth", "sxtw", "sxtx"};
    unsigned opt = a64_bits(w, 15, 13), n = a64_bits(w, 12, 10);

    put_gpr(o, (opt & 3) == 3, A64_RM(w), false);
    put(o, ", %s", name[opt]);
    if (n)
        put(o, " #%u", n);
}

/* Words that are not plain registers. */
static void put_word(struct out *o, const char *s, uint32_t w, uint64_t pc)
{
    static const struct {
        const char *word;
        uint8_t hi, lo, is_rel;
    } field[] = {{"imm5", 20, 16, 0},   {"imm16", 20, 5, 0}, {"immr", 21, 16, 0}, {"imms", 15, 10, 0},
                 {"nzcv", 3, 0, 0},     {"imm4", 14, 11, 0}, {"rel26", 25, 0, 1}, {"rel19", 23, 5, 1},
                 {"rel14", 18, 5, 1},   {"lit", 23, 5, 1},   {"prf", 4, 0, 0},    {"hint", 11, 5, 0},
                 {"barrier", 11, 8, 0}, {"s9", 20, 12, 2},   {"u12", 21, 10, 0}};
    uint64_t v = 0;

    for (size_t i = 0; i < ARRAY_LEN(field); i++)
        if (!strcmp(s, field[i].word)) {
            if (field[i].is_rel == 1)
                put(o, "0x%" PRIx64, pc + (uint64_t)a64_sbits(w, field[i].hi, field[i].lo) * 4);
            else if (field[i].is_rel)
                put(o, "#%d", (int)a64_sbits(w, field[i].hi, field[i].lo));
            else
                put(o, "#0x%x", a64_bits(w, field[i].hi, field[i].lo));
            return;
        }
    if (!strcmp(s, "imm12")) {
        put(o, "#0x%x%s", a64_bits(w, 21, 10), A64_BIT(w, 22) ? ", lsl #12" : "");
    } else if (!strcmp(s, "movw")) {
        put(o, "#0x%x", a64_bits(w, 20, 5));
        if (a64_bits(w, 22, 21))
            put(o, ", lsl #%u", 16 * a64_bits(w, 22, 21));
    } else if (!strcmp(s, "bitmask")) {
        a64_bitmask(A64_BIT(w, 22), a64_bits(w, 21, 16), a64_bits(w, 15, 10), w >> 31, &v);
        put(o, "#0x%" PRIx64, v);
    } else if (!strcmp(s, "adr") || !strcmp(s, "adrp")) {
        v = (uint64_t)a64_sbits(w, 23, 5) << 2 | a64_bits(w, 30, 29);
        put(o, "0x%" PRIx64, s[3] ? (pc & ~UINT64_C(0xfff)) + (v << 12) : pc + v);
    } else if (!strcmp(s, "cond")) {
        put(o, "%s", cond_name[a64_bits(w, 15, 12)]);
    } else if (!strcmp(s, "bit")) {
        put(o, "#%u", w >> 31 << 5 | a64_bits(w, 23, 19));
    } else if (!strcmp(s, "zero")) {
        put(o, "#0.0");
    } else if (!strcmp(s, "sysreg") || !strcmp(s, "sys")) {
        put(o, "s%u_%u_c%u_c%u_%u", a64_bits(w, 20, 19), a64_bits(w, 18, 16), a64_bits(w, 15, 12), a64_bits(w, 11, 8),
            a64_bits(w, 7, 5));
    } else { /* memory and vector forms: the registers they name */
        put(o, "{%s: %u, %u, %u}", s, A64_RD(w), A64_RN(w), A64_RM(w));
    }
}

char *a64_format(uint32_t w, uint64_t pc, char *buf, size_t n)
{
    struct out o = {buf, n};
    int row = a64_decode(w);
    const char *p;
    bool first = true;

    if (row < 0) {
        put(&o, ".inst 0x%08x", w);
        return buf;
    }
    put_mnem(&o, &a64_rows[row], w);
    for (p = a64_rows[row].fmt; *p;) {
        char word[16];
        size_t len = strcspn(p, ",");

        snprintf(word, sizeof word, "%.*s", (int)len, p);
        if (!strcmp(word, "shift")) {
            put_shift(&o, w);
        } else {
            put(&o, first ? " " : ", ");
            if (!strcmp(word, "extend"))
                put_extend(&o, w);
            else if (!put_reg(&o, word, w))
                put_word(&o, word, w, pc);
        }
        first = false;
        p += len + (p[len] == ',');
    }
    return buf;
}
