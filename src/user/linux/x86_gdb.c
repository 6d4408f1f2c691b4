/* x86 guests for the debugger: GDB's amd64 and i386 register files, with AVX and AVX-512 where the CPU has them.
 *
 * Numbers follow the description (lx_x86_gdb_xml): general registers, pc, flags, segments, x87, XMM, MXCSR, the number
 * of the system call, then halves above XMM and YMM, masks, and the parts of ZMM16 to 31, as the features of GDB's own
 * descriptions name them. */
#include "base/bytes.h"
#include "base/str.h"
#include "user/linux/x86_front.h"

#include <string.h>

enum { FLAGS_SET = X86_ARITH | X86_DF | X86_ID | X86_AC };

static const uint8_t order64[16] = {X86_RAX, X86_RBX, X86_RCX, X86_RDX, X86_RSI, X86_RDI, X86_RBP, X86_RSP,
                                    8,       9,       10,      11,      12,      13,      14,      15};
static const uint8_t segs[6] = {X86_CS, X86_SS, X86_DS, X86_ES, X86_FS, X86_GS};

/* ---- the vector registers beyond XMM ---- */

/* In the order of their numbers; n: how many there are of it, of 16 or 8 for those that 32-bit code has fewer of. */
static const struct piece {
    const char *name, *type;
    uint8_t first, bytes, off; /* of v[first ..] */
    bool avx512;
} pieces[] = {{"ymm%uh", "uint128", 0, 16, 16, false}, {"k%u", "uint64", 0, 8, 0, true},
              {"zmm%uh", "v2ui128", 0, 32, 32, true},  {"xmm%u", "vec128", 16, 16, 0, true},
              {"ymm%uh", "uint128", 16, 16, 16, true}, {"zmm%uh", "v2ui128", 16, 32, 32, true}};
enum { PIECE_K = 1 };

static unsigned nr_of(bool m64, const struct piece *p)
{
    uint64_t need = p->avx512 ? 0xe0 : 4;

    if ((lx_x86_xcr0() & need) != need || (p->first && !m64))
        return 0;
    return m64 && p != &pieces[PIECE_K] ? 16 : 8;
}

/* Where register n, counted from the first of these, lies; NULL: there is none. */
static uint8_t *wide_reg(const struct x86_lx *x, unsigned n, unsigned *bytes)
{
    for (size_t i = 0; i < ARRAY_LEN(pieces); n -= nr_of(x->m64, &pieces[i]), i++) {
        if (n >= nr_of(x->m64, &pieces[i]))
            continue;
        *bytes = pieces[i].bytes;
        return i == PIECE_K ? (uint8_t *)&x->c->k[n] : x->c->v[pieces[i].first + n].b + pieces[i].off;
    }
    return NULL;
}

/* ---- the description ---- */

static void put_regs(struct strbuf *s, const char *names, unsigned bits, const char *type)
{
    while (*names) {
        size_t n = strcspn(names, " ");

        str_addf(s, "<reg name=\"%.*s\" bitsize=\"%u\" type=\"%s\"/>", (int)n, names, bits, type);
        names += n + (names[n] == ' ');
    }
}

static void put_flags(struct strbuf *s, const char *id, const char *names) /* by bit, '-' for none */
{
    str_addf(s, "<flags id=\"%s\" size=\"4\">", id);
    for (unsigned bit = 0; *names; bit++) {
        size_t n = strcspn(names, " ");

        if (*names != '-')
            str_addf(s, "<field name=\"%.*s\" start=\"%u\" end=\"%u\"/>", (int)n, names, bit, bit);
        names += n + (names[n] == ' ');
    }
    str_addf(s, "</flags>");
}

static void put_pieces(struct strbuf *s, bool m64, bool avx512)
{
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++)
        for (unsigned n = 0; pieces[i].avx512 == avx512 && n < nr_of(m64, &pieces[i]); n++) {
            char name[16];

            snprintf(name, sizeof name, pieces[i].name, pieces[i].first + n);
            put_regs(s, name, 8 * pieces[i].bytes, pieces[i].type);
        }
}

static const char vec128[] =
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
    "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
    "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
    "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
    "<field name=\"uint128\" type=\"uint128\"/></union>";

static void put_core(struct strbuf *s, bool m64)
{
    unsigned w = m64 ? 64 : 32;

    str_addf(s, "<feature name=\"org.gnu.gdb.i386.core\">");
    put_flags(s, "i386_eflags", "CF - PF - AF - ZF SF TF IF DF OF - - NT - RF VM AC VIF VIP ID");
    put_regs(s, m64 ? "rax rbx rcx rdx rsi rdi" : "eax ecx edx ebx", w, "int");
    if (m64) {
        put_regs(s, "rbp rsp", w, "data_ptr");
        put_regs(s, "r8 r9 r10 r11 r12 r13 r14 r15", w, "int");
        put_regs(s, "rip", w, "code_ptr");
    } else {
        put_regs(s, "esp ebp", w, "data_ptr");
        put_regs(s, "esi edi", w, "int");
        put_regs(s, "eip", w, "code_ptr");
    }
    put_regs(s, "eflags", 32, "i386_eflags");
    put_regs(s, "cs ss ds es fs gs", 32, "int");
    put_regs(s, "st0 st1 st2 st3 st4 st5 st6 st7", 80, "i387_ext");
    put_regs(s, "fctrl fstat ftag fiseg fioff foseg fooff fop", 32, "int");
    str_addf(s, "</feature>");
}

const char *lx_x86_gdb_xml(bool m64)
{
    static char *made; /* all CPUs of a process are alike */
    struct strbuf s = {0};

    if (made)
        return made;
    str_addf(&s,
             "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
             "<architecture>%s</architecture><osabi>GNU/Linux</osabi>",
             m64 ? "i386:x86-64" : "i386");
    put_core(&s, m64);
    str_addf(&s, "<feature name=\"org.gnu.gdb.i386.sse\">%s", vec128);
    put_flags(&s, "i386_mxcsr", "IE DE ZE OE UE PE DAZ IM DM ZM OM UM PM - - FZ");
    put_regs(&s, "xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7", 128, "vec128");
    if (m64)
        put_regs(&s, "xmm8 xmm9 xmm10 xmm11 xmm12 xmm13 xmm14 xmm15", 128, "vec128");
    put_regs(&s, "mxcsr", 32, "i386_mxcsr");
    str_addf(&s, "</feature><feature name=\"org.gnu.gdb.i386.linux\">");
    put_regs(&s, m64 ? "orig_rax" : "orig_eax", m64 ? 64 : 32, "int");
    str_addf(&s, "</feature>");
    if (lx_x86_xcr0() & 4) {
        str_addf(&s, "<feature name=\"org.gnu.gdb.i386.avx\">");
        put_pieces(&s, m64, false);
        str_addf(&s, "</feature>");
    }
    if (lx_x86_xcr0() & 0xe0) {
        str_addf(&s,
                 "<feature name=\"org.gnu.gdb.i386.avx512\">%s<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>",
                 vec128);
        put_pieces(&s, m64, true);
        str_addf(&s, "</feature>");
    }
    str_addf(&s, "</target>");
    made = str_take(&s);
    return made;
}

/* ---- registers by number ---- */

/* A general register, or the pc, by GDB's number; NULL = another kind. Flags come right after the pc. */
static uint64_t *main_reg(struct x86_lx *x, unsigned n)
{
    unsigned nr = x->m64 ? 16 : 8;

    if (n < nr)
        return &x->c->regs[x->m64 ? order64[n] : n];
    return n == nr ? &x->c->rip : NULL;
}

unsigned lx_x86_gdb_get(struct lx_cpu *lc, unsigned n, uint8_t *buf)
{
    struct x86_lx *x = x86_lx(lc);
    unsigned nr = x->m64 ? 16 : 8, w = x->m64 ? 8 : 4, vec = nr + 24;
    uint64_t *m = main_reg(x, n);
    uint32_t v = 0;

    if (m) {
        put_le(buf, *m, w);
        return w;
    }
    if (n >= nr + 8 && n < nr + 16) {
        x86_x87_sync(x->c);
        memcpy(buf, x->c->fx.st[n - nr - 8], 10);
        return 10;
    }
    if (n >= vec && n < vec + nr) {
        memcpy(buf, x->c->v[n - vec].b, 16);
        return 16;
    }
    if (n > vec + nr + 1) {
        uint8_t *r = wide_reg(x, n - vec - nr - 2, &w);

        if (r)
            memcpy(buf, r, w);
        return r ? w : 0;
    }
    if (n == vec + nr + 1) { /* of the system call */
        put_le(buf, x->orig, w);
        return w;
    }
    if (n == nr + 1)
        v = (uint32_t)x->c->rflags;
    else if (n < nr + 8)
        v = x->c->seg[segs[n - nr - 2]].sel;
    else if (n == nr + 16)
        v = x->c->fx.fcw;
    else if (n == nr + 17)
        v = x->c->fx.fsw;
    else if (n == vec + nr)
        v = x->c->fx.mxcsr;
    put_le32(buf, v);
    return 4;
}

unsigned lx_x86_gdb_set(struct lx_cpu *lc, unsigned n, const uint8_t *buf)
{
    struct x86_lx *x = x86_lx(lc);
    unsigned nr = x->m64 ? 16 : 8, w = x->m64 ? 8 : 4, vec = nr + 24;
    uint64_t *m = main_reg(x, n);

    if (m) {
        *m = get_le(buf, w);
        return w;
    }
    if (n >= vec && n < vec + nr) {
        memcpy(x->c->v[n - vec].b, buf, 16);
        return 16;
    }
    if (n > vec + nr + 1) {
        uint8_t *r = wide_reg(x, n - vec - nr - 2, &w);

        if (r)
            memcpy(r, buf, w);
        if (r && x->c->xcr0 & 0xe0)
            x86_note_upper(x->c);
        return r ? w : 0;
    }
    if (n == nr + 1)
        x->c->rflags = (x->c->rflags & ~(uint64_t)FLAGS_SET) | (get_le32(buf) & FLAGS_SET);
    return n >= nr + 8 && n < nr + 16 ? 10 : n <= vec + nr ? 4 : w;
}
