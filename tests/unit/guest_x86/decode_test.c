/* The decoder against objdump on random instruction bytes, and what the rewriter relies on, on chosen ones.
 * proves: F-ACC-02 */
#include "unit.h"

#include "guest/x86/insn.h"
#include "guest/x86/ops.h"
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NR_SLOTS = 12000, SLOT = 32 };
struct stream {
    uint8_t b[NR_SLOTS][SLOT];
};
static uint64_t rnd_state;
static uint64_t rnd(void)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    return rnd_state ^= rnd_state << 17;
}
static bool is_prefix(uint8_t b, int mode)
{
    return b == 0x66 || b == 0x67 || b == 0xf0 || b == 0xf2 || b == 0xf3 || (b & 0xe7) == 0x26 || b == 0x64 ||
           b == 0x65 || (mode == X86_MODE_64 && (b & 0xf0) == 0x40) || b == 0x62 /* EVEX */ || b == 0x8f /* XOP */;
}
/* One instruction: some prefixes, a map, then noise; the rest of the slot is NOPs so that objdump finds the next slot.
 */
static void fill_slot(uint8_t *b, int mode)
{
    static const uint8_t pf[] = {0x66, 0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x64, 0x65, 0x36};
    unsigned p = 0, kind = rnd() % 8;

    memset(b, 0x90, SLOT);
    for (int k = 0; k < 15; k++)
        b[k] = rnd();
    if (kind >= 6) {
        b[p++] = 0x62;
        b[p++] = (mode != X86_MODE_64 ? 0xf0 : rnd() & 0xf0) | (rnd() % 3 + 1);
        b[p++] = (rnd() & 0x83) | 4 | (rnd() & 1 ? 0x78 : mode == X86_MODE_64 ? rnd() & 0x78 : 0x40 | (rnd() & 0x38));
        b[p] = rnd() & 1 ? 8 | (rnd() & 0x60) : mode == X86_MODE_64 ? rnd() : rnd() | 8;
        return;
    }
    if (kind >= 4) { /* VEX */
        bool three = kind == 5;

        b[p++] = three ? 0xc4 : 0xc5;
        if (three)
            b[p++] = (mode != X86_MODE_64 ? 0xc0 : rnd() & 0xe0) | (rnd() % 3 + 1);
        b[p] = (rnd() & 0x87) | (rnd() & 1 ? 0x78 : rnd() & 0x78);
        if (!three && mode != X86_MODE_64)
            b[p] |= 0xc0;
        return;
    }
    while (rnd() % 3 == 0 && p < 3)
        b[p++] = pf[rnd() % sizeof pf];
    if (mode == X86_MODE_64 && rnd() % 2)
        b[p++] = 0x40 | (rnd() & 15);
    if (kind >= 1)
        b[p++] = 0x0f;
    if (kind >= 2)
        b[p++] = kind == 2 ? 0x38 : 0x3a;
    if (kind == 0) {
        do
            b[p] = rnd();
        while (is_prefix(b[p], mode));
    }
}
/* Prefixes objdump prints as words of their own. */
static const char *skip_prefix_words(const char *t)
{
    static const char *const words[] = {"cs",     "ss",      "ds",       "es",       "fs",    "gs",  "data16",
                                        "data32", "addr32",  "addr16",   "repz",     "repnz", "rep", "bnd",
                                        "lock",   "notrack", "xacquire", "xrelease", "{evex}"};
    for (;;) {
        size_t n = strcspn(t, " ");
        bool hit = !strncmp(t, "rex", 3);

        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
            hit |= strlen(words[i]) == n && !strncmp(t, words[i], n);
        if (!hit || !t[n])
            return t;
        t += n;
        while (*t == ' ')
            t++;
    }
}
/* Forms objdump does not know or reads as AMD's: aliases of x87 instructions, SALC, 66-prefixed near branches in 64-bit
 * mode, 0F 0D and MPX hints, WBNOINVD. */
static bool known_difference(const struct x86_insn *in, int mode)
{
    switch (in->op) {
    case X86_I_FCOM:
    case X86_I_FCOMP:
    case X86_I_FXCH:
    case X86_I_FSTP:
    case X86_I_SALC:
    case X86_I_NOP:
    case X86_I_WBINVD:
    case X86_I_FWAIT:
    case X86_I_BSF:
    case X86_I_BSR:
        return true;
    }
    if (in->enc == X86_ENC_VEX && mode != X86_MODE_64 && (in->bytes[0] == 0xc4 && in->bytes[2] & 0x40) == 0)
        return true; /* vvvv[3] is ignored by CPUs outside 64-bit mode */
    return in->map == X86_MAP_0F && in->opcode == 0xae && in->modrm >= 0xc0;
}
/* The whole text of an EVEX instruction. objdump writes some immediates into the name (VCMPNEQPS, VPCLMULHQHDQ) and
 * shows lengths that have no meaning (VMOVSD); which broadcasts say {1toN} is its choice. */
static bool same_text(const struct x86_insn *in, const char *ours, const char *theirs)
{
    if (in->enc != X86_ENC_EVEX || strstr(ours, "cmp") || strstr(ours, "vpclmul") || strstr(ours, "vmovs") ||
        strstr(ours, "rip") || strstr(ours, "eip") || strstr(theirs, "riz") || strstr(theirs, "eiz"))
        return true;
    while (*ours) {
        if (strncmp(ours, "{1to", 4) == 0)
            ours = strchr(ours, '}') + 1;
        if (strncmp(theirs, "{1to", 4) == 0)
            theirs = strchr(theirs, '}') + 1;
        if (isspace((unsigned char)*theirs)) {
            theirs++;
            continue;
        }
        if (isspace((unsigned char)*ours)) {
            ours++;
            continue;
        }
        if (*ours++ != *theirs++)
            return false;
    }
    return !*theirs || isspace((unsigned char)*theirs);
}
static unsigned hex_bytes(const char **p)
{
    unsigned n = 0;

    while (isspace((unsigned char)**p))
        ++*p;
    while (isxdigit((unsigned char)(*p)[0]) && isxdigit((unsigned char)(*p)[1]) && (*p)[2] == ' ') {
        n++;
        *p += 3;
    }
    while (isspace((unsigned char)**p))
        ++*p;
    return n;
}
static void compare(struct stream *s, int mode)
{
    static const char *const names[] = {"i8086", "i386", "x86-64"};
    char path[] = "/tmp/x86-decode-XXXXXX", cmd[256], line[512];
    int fd = mkstemp(path);
    unsigned same = 0, bad = 0;
    FILE *f;

    assert_true(fd >= 0);
    assert_true(write(fd, s, sizeof *s) == (ssize_t)sizeof *s);
    close(fd);
    snprintf(cmd, sizeof cmd, "objdump -D -b binary -m i386 -M intel,%s --insn-width=16 %s", names[mode], path);
    f = popen(cmd, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        const char *p = strchr(line, ':');
        unsigned long at;
        struct x86_insn in;
        char text[200];
        unsigned len;

        if (!p || p == line || !isxdigit((unsigned char)p[-1]) || sscanf(line, "%lx", &at) != 1 || at % SLOT ||
            at / SLOT >= NR_SLOTS)
            continue;
        p++;
        len = hex_bytes(&p);
        if (strstr(p, "(bad)") || strstr(p, "-bad}") || x86_decode(s->b[at / SLOT], SLOT, mode, &in) != X86_DECODE_OK ||
            known_difference(&in, mode))
            continue;
        if (in.opsize_pfx && (in.row->attr & X86_A_NT_DEF64) && mode == X86_MODE_64)
            continue;
        x86_format(&in, at, text, sizeof text);
        p = skip_prefix_words(p);
        if (len == in.len &&
            (!strncmp(skip_prefix_words(text), p, 3) || in.row->op == X86_I_XCHG || in.row->attr & X86_A_AVX) &&
            same_text(&in, text, p)) {
            same++;
        } else {
            bad++;
            print_message("mode %d: length %u, objdump %u: %s | %s", mode, in.len, len, text, p);
        }
    }
    pclose(f);
    unlink(path);
    assert_true(same > NR_SLOTS / 8);
    assert_int_equal(bad, 0);
}
static void test_mode(int mode)
{
    struct stream *s = malloc(sizeof *s);

    if (access("/usr/bin/objdump", X_OK)) {
        print_message("SKIPPED: objdump is not installed (package binutils)\n");
        free(s);
        skip();
    }
    rnd_state = 0x9e3779b97f4a7c15u + mode;
    for (unsigned i = 0; i < NR_SLOTS; i++)
        fill_slot(s->b[i], mode);
    compare(s, mode);
    free(s);
}
static void lengths_agree_with_objdump_in_64_bit_mode(void **st)
{
    test_mode(X86_MODE_64);
}
static void lengths_agree_with_objdump_in_32_bit_mode(void **st)
{
    test_mode(X86_MODE_32);
}
static void lengths_agree_with_objdump_in_16_bit_mode(void **st)
{
    test_mode(X86_MODE_16);
}

#define DECODE(in, mode, ...)                                                                                          \
    do {                                                                                                               \
        static const uint8_t code_[] = {__VA_ARGS__};                                                                  \
        assert_int_equal(x86_decode(code_, sizeof code_, mode, &(in)), X86_DECODE_OK);                                 \
        assert_int_equal((in).len, sizeof code_);                                                                      \
    } while (0)

static void operands_say_where_they_are_encoded(void **st)
{
    struct x86_insn in;

    DECODE(in, X86_MODE_64, 0x4c, 0x01, 0x84, 0x8b, 0x78, 0x56, 0x34, 0x12); /* add [rbx+rcx*4+0x12345678],r8 */
    assert_int_equal(in.mem_op, 0);
    assert_int_equal(in.ops[0].acc, X86_ACC_RW);
    assert_int_equal(in.ops[0].size, 8);
    assert_int_equal(in.ops[1].reg, 8);
    assert_int_equal(in.ops[1].where, X86_IN_REG);
    assert_int_equal(in.base, X86_RBX);
    assert_int_equal(in.index, X86_RCX);
    assert_int_equal(in.scale, 4);
    assert_int_equal(in.off_disp, 4);
    assert_int_equal(in.disp_len, 4);
    assert_int_equal(in.disp, 0x12345678);
    assert_int_equal(in.row->flags_w, X86_ARITH);
    DECODE(in, X86_MODE_64, 0xc4, 0xe3, 0x5d, 0x4a, 0xd3, 0x60); /* vblendvps ymm2,ymm4,ymm3,ymm6 */
    assert_int_equal(in.vl, 32);
    assert_int_equal(in.ops[0].reg, 2);
    assert_int_equal(in.ops[0].acc, X86_ACC_W);
    assert_int_equal(in.ops[1].reg, 4);
    assert_int_equal(in.ops[1].where, X86_IN_VVVV);
    assert_int_equal(in.ops[2].reg, 3);
    assert_int_equal(in.ops[3].reg, 6);
    assert_int_equal(in.ops[3].where, X86_IN_IS4);
    DECODE(in, X86_MODE_64, 0x88, 0xe1); /* mov cl,ah */
    assert_int_equal(in.ops[1].high8, 1);
    DECODE(in, X86_MODE_64, 0x40, 0x88, 0xe1); /* mov cl,spl */
    assert_int_equal(in.ops[1].high8, 0);
}
static void implicit_registers_and_flags_are_listed(void **st)
{
    struct x86_insn in;

    DECODE(in, X86_MODE_64, 0xf7, 0xe1); /* mul ecx */
    assert_int_equal(in.row->gpr_r, 1);
    assert_int_equal(in.row->gpr_w, 5);
    DECODE(in, X86_MODE_64, 0xd3, 0xe0); /* shl eax,cl: flags may stay */
    assert_int_equal(in.row->gpr_r & 2, 2);
    assert_int_equal(in.row->flags_r, X86_ARITH);
    DECODE(in, X86_MODE_64, 0xc1, 0xe0, 0x05);
    assert_int_equal(in.row->flags_r, 0);
    DECODE(in, X86_MODE_64, 0xc1, 0xe0, 0x20); /* masked count 0 */
    assert_int_equal(in.row->flags_r, X86_ARITH);
    DECODE(in, X86_MODE_64, 0x77, 0x10); /* ja */
    assert_int_equal(in.row->flags_r, X86_CF | X86_ZF);
    DECODE(in, X86_MODE_64, 0xf3, 0x65, 0xa4); /* rep movsb es:[rdi],gs:[rsi] */
    assert_int_equal(in.mem_op, 1);
    assert_int_equal(in.seg, X86_GS);
    assert_int_equal(in.base, X86_RSI);
    assert_int_equal(in.row->gpr_w, 1 << X86_RCX | 1 << X86_RSI | 1 << X86_RDI);
    DECODE(in, X86_MODE_64, 0x0f, 0xc7, 0x0e); /* cmpxchg8b */
    assert_int_equal(in.mem_size, 8);
    DECODE(in, X86_MODE_64, 0x0f, 0xae, 0x06);
    assert_int_equal(in.mem_size, 512);
}
static void limits_and_prefix_rules(void **st)
{
    static const uint8_t lock_reg[] = {0xf0, 0x01, 0xc0},
                         longest[16] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                        0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90};
    static const uint8_t lock_mem[] = {0xf0, 0x01, 0x00}, cut[] = {0x48, 0x8b, 0x05, 1, 2};
    struct x86_insn in;

    assert_int_equal(x86_decode(lock_reg, 3, X86_MODE_64, &in), X86_DECODE_UD);
    assert_int_equal(x86_decode(lock_mem, 3, X86_MODE_64, &in), X86_DECODE_OK);
    assert_int_equal(x86_decode(longest, 16, X86_MODE_64, &in), X86_DECODE_LONG);
    assert_int_equal(x86_decode(longest + 1, 15, X86_MODE_64, &in), X86_DECODE_OK);
    assert_int_equal(x86_decode(cut, sizeof cut, X86_MODE_64, &in), X86_DECODE_MORE);
}
static void evex_fields_say_what_the_mask_and_memory_are(void **st)
{
    struct x86_insn in;

    DECODE(in, X86_MODE_64, 0x62, 0xf1, 0x6c, 0x48, 0x58, 0x48, 0x01); /* vaddps zmm1,zmm2,[rax+0x40] */
    assert_int_equal(in.disp, 0x40);
    assert_int_equal(in.disp_len, 1);
    assert_int_equal(in.mem_size, 64);
    assert_int_equal(in.off_opcode, 4);
    assert_int_equal(in.mask_nr, 16);
    assert_int_equal(in.ops[0].acc, X86_ACC_W);
    DECODE(in, X86_MODE_64, 0x62, 0xf1, 0x6c, 0xdb, 0x58, 0x48, 0x01); /* vaddps zmm1{k3}{z},zmm2,[rax+4]{1to16} */
    assert_int_equal(in.disp, 4);
    assert_int_equal(in.mem_size, 4);
    assert_int_equal(in.mask_elem, 4);
    assert_int_equal(in.evex_aaa, 3);
    assert_int_equal(in.evex_z, 1);
    assert_int_equal(in.evex_b, 1);
    DECODE(in, X86_MODE_64, 0x62, 0x01, 0x0c, 0x47, 0x58, 0xfd); /* vaddps zmm31{k7},zmm30,zmm29 */
    assert_int_equal(in.ops[0].reg, 31);
    assert_int_equal(in.ops[1].reg, 30);
    assert_int_equal(in.ops[2].reg, 29);
    assert_int_equal(in.ops[0].acc, X86_ACC_RW);
    DECODE(in, X86_MODE_64, 0x62, 0x01, 0x95, 0x50, 0x58, 0xf4); /* vaddpd zmm30,zmm29,zmm28{ru-sae} */
    assert_int_equal(in.vl, 64);
    assert_int_equal(in.evex_ll, 2);
    assert_int_equal(in.evex_b, 1);
    DECODE(in, X86_MODE_64, 0x62, 0xf1, 0x6d, 0x18, 0xfe, 0xcb); /* vpaddd with EVEX.b and registers: no meaning */
    assert_int_equal(in.vl, 16);
    assert_int_equal(in.evex_b, 0);
    DECODE(in, X86_MODE_64, 0x62, 0xb2, 0x7d, 0x41, 0x92, 0x4c, 0xb8,
           0x10); /* vgatherdps zmm1{k1},[rax+zmm31*4+0x40] */
    assert_int_equal(in.index, 31);
    assert_int_equal(in.disp, 0x40);
    assert_int_equal(in.mask_elem, 4);
    assert_int_equal(in.mask_nr, 16);
    DECODE(in, X86_MODE_64, 0x62, 0xf2, 0x7d, 0x41, 0xa3, 0x5c, 0x98, 0x01); /* vscatterqps [rax+zmm19*4+4]{k1},ymm3 */
    assert_int_equal(in.ops[1].size, 32);
    assert_int_equal(in.mask_nr, 8);
    DECODE(in, X86_MODE_64, 0x62, 0xf1, 0x7c, 0x49, 0x5a, 0x48, 0x01); /* vcvtps2pd zmm1{k1},[rax+0x20] */
    assert_int_equal(in.mask_nr, 8);
    assert_int_equal(in.mask_elem, 4);
    DECODE(in, X86_MODE_64, 0x62, 0xf2, 0x7e, 0x49, 0x32, 0x48, 0x01); /* vpmovqb [rax+8]{k1},zmm1 */
    assert_int_equal(in.mask_nr, 8);
    assert_int_equal(in.mask_elem, 1);
    DECODE(in, X86_MODE_64, 0x62, 0xf2, 0x7d, 0x49, 0x1a, 0x48, 0x01); /* vbroadcastf32x4 zmm1{k1},[rax+0x10] */
    assert_int_equal(in.mask_nr, 16);
    assert_int_equal(in.mask_elem, 4);
    assert_int_equal(in.mem_size, 16);
    DECODE(in, X86_MODE_64, 0x62, 0xf1, 0x6e, 0x09, 0x58, 0x48, 0x01); /* vaddss xmm1{k1},xmm2,[rax+4] */
    assert_int_equal(in.mask_nr, 1);
    assert_int_equal(in.row->attr & (X86_A_SCALAR | X86_A_VL), X86_A_SCALAR);
    DECODE(in, X86_MODE_64, 0x62, 0xf2, 0x7d, 0x49, 0x63, 0x48, 0x01); /* vpcompressb [rax+1]{k1},zmm1 */
    assert_int_equal(in.disp, 1);
    assert_int_equal(in.mem_size, 64);
    assert_true(in.row->attr & X86_A_COMPRESS);
    DECODE(in, X86_MODE_64, 0xc4, 0xe1, 0xed, 0x41, 0xcb); /* kandd k1,k2,k3 */
    assert_int_equal(in.ops[1].kind, X86_OP_K);
    assert_int_equal(in.ops[1].where, X86_IN_VVVV);
    assert_int_equal(in.ops[1].reg, 2);
    assert_true(in.row->attr & X86_A_AVX512);
}
static void what_evex_must_not_say(void **st)
{
    static const struct {
        uint8_t b[8], mode;
        enum x86_decode_result r;
    } t[] = {
        {{0x62, 0xf1, 0x6c, 0xc8, 0x58, 0xcb}, X86_MODE_64, X86_DECODE_UD}, /* vaddps: z without a mask */
        {{0x62, 0xf1, 0x7c, 0xc9, 0x11, 0x08}, X86_MODE_64, X86_DECODE_UD}, /* vmovups [rax]{k1}{z} */
        {{0x62, 0xf1, 0x7c, 0xc8, 0x2b, 0x08}, X86_MODE_64, X86_DECODE_UD}, /* vmovntps [rax]{z}: takes no mask, but */
        {{0x62, 0xf1, 0x7c, 0x88, 0x2f, 0xca}, X86_MODE_64, X86_DECODE_OK}, /* vcomiss: z has no meaning */
        {{0x62, 0xf1, 0x7c, 0x09, 0x2f, 0xca}, X86_MODE_64, X86_DECODE_UD}, /* vcomiss: a mask */
        {{0x62, 0xf1, 0x6c, 0xc9, 0xc2, 0xdb, 0}, X86_MODE_64, X86_DECODE_UD}, /* vcmpps k3{k1}{z} */
        {{0x62, 0x71, 0x6c, 0x49, 0xc2, 0xdb, 0}, X86_MODE_64, X86_DECODE_UD}, /* vcmpps: mask register 11 */
        {{0x62, 0xf1, 0x6c, 0x68, 0x58, 0xcb}, X86_MODE_64, X86_DECODE_UD},    /* vaddps: L'L = 3 */
        {{0x62, 0xf1, 0x6c, 0x78, 0x58, 0xcb}, X86_MODE_64, X86_DECODE_OK},    /* vaddps: rounding to zero */
        {{0x62, 0xf1, 0x7c, 0x58, 0x10, 0x08}, X86_MODE_64, X86_DECODE_UD},    /* vmovups: broadcast */
        {{0x62, 0xf1, 0x7c, 0x18, 0x10, 0xca}, X86_MODE_64, X86_DECODE_UD},    /* vmovups: rounding */
        {{0x62, 0xf1, 0x6c, 0x48, 0x10, 0x08}, X86_MODE_64, X86_DECODE_UD},    /* vmovups: vvvv */
        {{0x62, 0xf1, 0x7c, 0x40, 0x10, 0x08}, X86_MODE_64, X86_DECODE_UD},    /* vmovups: V' */
        {{0x62, 0xf9, 0x6c, 0x48, 0x58, 0xcb}, X86_MODE_64, X86_DECODE_UD},    /* reserved bit of P0 */
        {{0x62, 0xf1, 0x68, 0x48, 0x58, 0xcb}, X86_MODE_64, X86_DECODE_UD},    /* fixed bit of P1 */
        {{0x66, 0x62, 0xf1, 0x6c, 0x48, 0x58, 0xcb}, X86_MODE_64, X86_DECODE_UD},
        {{0x48, 0x62, 0xf1, 0x6c, 0x48, 0x58, 0xcb}, X86_MODE_64, X86_DECODE_UD},
        {{0x62, 0xf5, 0x6c, 0x48, 0x58, 0xcb}, X86_MODE_64, X86_DECODE_UD},       /* vaddph */
        {{0x62, 0xf2, 0x7d, 0x48, 0xc8, 0xca}, X86_MODE_64, X86_DECODE_UD},       /* vexp2ps */
        {{0x62, 0xf2, 0x6f, 0x48, 0x68, 0xcb}, X86_MODE_64, X86_DECODE_UD},       /* vp2intersectd */
        {{0x62, 0xf2, 0x7d, 0x48, 0x92, 0x0c, 0x90}, X86_MODE_64, X86_DECODE_UD}, /* vgatherdps without a mask */
        {{0x62, 0xf2, 0x7d, 0x49, 0x92, 0x0c, 0x88}, X86_MODE_64, X86_DECODE_UD}, /* ... into its index */
        {{0x62, 0xf2, 0x7d, 0x49, 0x92, 0x0c, 0x90}, X86_MODE_64, X86_DECODE_OK},
        {{0x62, 0xf2, 0x7d, 0x49, 0x92, 0x08}, X86_MODE_64, X86_DECODE_UD},       /* ... without SIB */
        {{0x62, 0xf2, 0x7d, 0xc9, 0x92, 0x0c, 0x90}, X86_MODE_64, X86_DECODE_UD}, /* ... with z */
        {{0x62, 0xf2, 0x7d, 0x49, 0xa2, 0x0c, 0x88}, X86_MODE_64, X86_DECODE_OK}, /* vscatterdps of its index */
        {{0x62, 0xf2, 0x7d, 0x08, 0x16, 0xca}, X86_MODE_64, X86_DECODE_UD},       /* vpermps of 128 bits */
        {{0x62, 0xf2, 0x7d, 0x28, 0x1b, 0x08}, X86_MODE_64, X86_DECODE_UD},       /* vbroadcastf32x8 into 256 bits */
        {{0x62, 0xf2, 0x7d, 0x48, 0x1a, 0xca}, X86_MODE_64, X86_DECODE_UD},       /* vbroadcastf32x4 of a register */
        {{0x62, 0xf2, 0xfe, 0xa8, 0x39, 0xe5}, X86_MODE_64, X86_DECODE_UD},       /* vpmovq2m k4{z},ymm5 */
        {{0xc4, 0xe1, 0xe9, 0x41, 0xcb}, X86_MODE_64, X86_DECODE_UD},             /* kandd with L = 0 */
        {{0xc4, 0xe1, 0x78, 0x91, 0xcb}, X86_MODE_64, X86_DECODE_UD},             /* kmovw store to a register */
        {{0x62, 0xf1, 0x6c, 0x48, 0x58, 0xcb}, X86_MODE_32, X86_DECODE_OK},
        {{0x62, 0xf1, 0x3c, 0x48, 0x10, 0xcb}, X86_MODE_32, X86_DECODE_UD}, /* vmovups: vvvv[3] counts */
        {{0x62, 0x71, 0x6c, 0x48, 0x58, 0xcb}, X86_MODE_32, X86_DECODE_OK}, /* bound esi,[ecx+0x6c] */
    };
    struct x86_insn in;

    for (unsigned i = 0; i < sizeof t / sizeof t[0]; i++)
        if (x86_decode(t[i].b, sizeof t[i].b, t[i].mode, &in) != t[i].r)
            fail_msg("case %u: %02x %02x %02x %02x %02x %02x", i, t[i].b[0], t[i].b[1], t[i].b[2], t[i].b[3], t[i].b[4],
                     t[i].b[5]);
    assert_int_equal(in.op, X86_I_BOUND);
    assert_int_equal(x86_decode(t[0].b, 3, X86_MODE_64, &in), X86_DECODE_MORE);
    assert_int_equal(x86_decode(t[8].b, 5, X86_MODE_64, &in), X86_DECODE_MORE);
}
UNIT_MAIN(cmocka_unit_test(lengths_agree_with_objdump_in_64_bit_mode),
          cmocka_unit_test(lengths_agree_with_objdump_in_32_bit_mode),
          cmocka_unit_test(lengths_agree_with_objdump_in_16_bit_mode),
          cmocka_unit_test(operands_say_where_they_are_encoded),
          cmocka_unit_test(implicit_registers_and_flags_are_listed), cmocka_unit_test(limits_and_prefix_rules),
          cmocka_unit_test(evex_fields_say_what_the_mask_and_memory_are), cmocka_unit_test(what_evex_must_not_say))
