/* FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS, LDMXCSR, STMXCSR.
 * Intel SDM vol. 1, 10.5 and chapter 13; AMD APM vol. 2, 11.4 (FFXSR). Supervisor state components: none exist here, so
 * XSAVES differs from XSAVEC by its privilege only. A component counts as in its initial state by its contents. */
#include "base/bytes.h"
#include "guest/x86/simd_int.h"

enum { FXIMAGE = 512, HEADER = 64, IMAGE_MAX = 4096, COMPACT = 63 };
enum { C_X87 = 0, C_SSE = 1, C_AVX = 2, C_K = 5, C_ZMM_HI = 6, C_HI16 = 7, C_PKRU = 9, C_NR = 10 };
enum { FORM_XSAVE, FORM_OPT, FORM_C };

static void gp(struct x86_cpu *c)
{
    x86_raise_err(c, X86_GP, 0);
}

static unsigned nr_vec(const struct x86_cpu *c)
{
    return c->mode == X86_MODE_64 ? 16 : 8;
}

/* ---- legacy region ---- */

static void put_x87(const struct x86_cpu *c, bool wide, uint8_t *b)
{
    const struct x86_fx *fx = &c->fx;

    put_le16(b, fx->fcw);
    put_le16(b + 2, fx->fsw);
    b[4] = fx->ftw;
    b[5] = 0;
    put_le16(b + 6, fx->fop);
    put_le64(b + 8, wide || c->mode != X86_MODE_64 ? fx->fip : (uint32_t)fx->fip);
    put_le64(b + 16, wide || c->mode != X86_MODE_64 ? fx->fdp : (uint32_t)fx->fdp);
    memset(b + 32, 0, 128);
    for (unsigned i = 0; i < 8; i++)
        memcpy(b + 32 + 16 * i, fx->st[i], 10);
}

static void get_x87(struct x86_cpu *c, bool wide, const uint8_t *b)
{
    struct x86_fx *fx = &c->fx;

    fx->fcw = (get_le16(b) & 0x1f7f) | 0x40;
    fx->fsw = get_le16(b + 2);
    fx->ftw = b[4];
    fx->fop = get_le16(b + 6) & 0x7ff;
    fx->fip = wide ? get_le64(b + 8) : get_le64(b + 8) & 0xffffffffffff;
    fx->fdp = wide ? get_le64(b + 16) : get_le64(b + 16) & 0xffffffffffff;
    memset(fx->st, 0, sizeof fx->st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(fx->st[i], b + 32 + 16 * i, 10);
    x86_x87_summary(fx);
}

static void put_mxcsr(const struct x86_cpu *c, uint8_t *b)
{
    put_le32(b + 24, c->fx.mxcsr);
    put_le32(b + 28, c->fx.mxcsr_mask);
}

static void set_mxcsr(struct x86_cpu *c, uint32_t v)
{
    if (v & ~c->fx.mxcsr_mask)
        gp(c);
    c->fx.mxcsr = v;
}

/* AMD's fast form: at CPL 0 of 64-bit mode EFER.FFXSR leaves the XMM registers out. */
static bool skip_xmm(const struct x86_cpu *c)
{
    return (c->efer & X86_EFER_FFXSR) && c->cpl == 0 && c->mode == X86_MODE_64;
}

static void fxsave(struct x86_cpu *c, bool wide, uint64_t lin)
{
    uint8_t b[FXIMAGE];
    unsigned n = 160;

    put_x87(c, wide, b);
    put_mxcsr(c, b);
    if (!skip_xmm(c)) {
        for (unsigned i = 0; i < nr_vec(c); i++)
            memcpy(b + 160 + 16 * i, c->v[i].b, 16);
        n += 16 * nr_vec(c);
    }
    x86_probe_write(c, lin, 1); /* the CPU checks both ends of the image, though it writes less */
    x86_probe_write(c, lin + FXIMAGE - 1, 1);
    x86_st_bytes(c, lin, b, n);
}

static void fxrstor(struct x86_cpu *c, bool wide, uint64_t lin)
{
    uint8_t b[FXIMAGE];

    x86_ld_bytes(c, lin, b, sizeof b);
    set_mxcsr(c, get_le32(b + 24));
    get_x87(c, wide, b);
    for (unsigned i = 0; !skip_xmm(c) && i < nr_vec(c); i++)
        memcpy(c->v[i].b, b + 160 + 16 * i, 16);
}

/* ---- components ---- */

static bool is_zero(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint64_t any = 0;

    for (; n >= 8; n -= 8, b += 8)
        any |= get_le64(b);
    while (n)
        any |= b[--n];
    return !any;
}

static bool x87_initial(const struct x86_fx *fx)
{
    return fx->fcw == 0x37f && !fx->fsw && !fx->ftw && !fx->fop && !fx->fip && !fx->fdp &&
           is_zero(fx->st, sizeof fx->st);
}

/* One part of every vector register up to nr. */
static bool vec_zero(const struct x86_cpu *c, unsigned first, unsigned nr, unsigned off, unsigned n)
{
    for (unsigned i = first; i < first + nr; i++)
        if (!is_zero(c->v[i].b + off, n))
            return false;
    return true;
}

static uint64_t in_use(const struct x86_cpu *c)
{
    uint64_t m = 0;

    m |= (uint64_t)!x87_initial(&c->fx) << C_X87;
    m |= (uint64_t)!vec_zero(c, 0, nr_vec(c), 0, 16) << C_SSE;
    m |= (uint64_t)!vec_zero(c, 0, nr_vec(c), 16, 16) << C_AVX;
    m |= (uint64_t)!is_zero(c->k, sizeof c->k) << C_K;
    m |= (uint64_t)(c->upper && !vec_zero(c, 0, nr_vec(c), 32, 32)) << C_ZMM_HI;
    m |= (uint64_t)(c->mode == X86_MODE_64 && !vec_zero(c, 16, 16, 0, 64)) << C_HI16;
    m |= (uint64_t) !!c->pkru << C_PKRU;
    return m;
}

/* Copies registers first.. to or from the image, n bytes from byte off of each. */
static void move_vec(struct x86_cpu *c, unsigned first, unsigned nr, unsigned off, unsigned n, uint8_t *b, bool load)
{
    for (unsigned i = 0; i < nr; i++) {
        if (load)
            memcpy(c->v[first + i].b + off, b + i * n, n);
        else
            memcpy(b + i * n, c->v[first + i].b + off, n);
    }
}

/* One component between the CPU and its place in an image; b is the image, at the component's offset. */
static void move_component(struct x86_cpu *c, unsigned i, uint8_t *b, uint32_t at, bool wide, bool load)
{
    switch (i) {
    case C_X87:
        if (load)
            get_x87(c, wide, b);
        else
            put_x87(c, wide, b);
        break;
    case C_SSE:
        move_vec(c, 0, nr_vec(c), 0, 16, b + 160, load);
        break;
    case C_AVX:
        move_vec(c, 0, nr_vec(c), 16, 16, b + at, load);
        break;
    case C_K:
        if (load)
            memcpy(c->k, b + at, 64);
        else
            memcpy(b + at, c->k, 64);
        break;
    case C_ZMM_HI:
        move_vec(c, 0, nr_vec(c), 32, 32, b + at, load);
        break;
    case C_HI16:
        if (c->mode == X86_MODE_64)
            move_vec(c, 16, 16, 0, 64, b + at, load);
        break;
    case C_PKRU:
        if (load) {
            c->pkru = get_le32(b + at);
            x86_tlb_flush(c, true);
        } else {
            put_le64(b + at, c->pkru);
        }
        break;
    default:
        break;
    }
}

static void init_component(struct x86_cpu *c, unsigned i)
{
    static const uint8_t zero[1024];

    if (i == C_X87) {
        x86_x87_init(&c->fx);
        memset(c->fx.st, 0, sizeof c->fx.st);
    } else if (i == C_SSE) {
        for (unsigned r = 0; r < nr_vec(c); r++)
            memset(c->v[r].b, 0, 16);
    } else {
        move_component(c, i, (uint8_t *)zero, 0, false, true);
    }
}

/* Offset of component i in an image that is standard (comp = 0) or compacted over the components of comp. */
static uint32_t component_at(const struct x86_cpu *c, unsigned i, uint64_t comp)
{
    uint32_t size, off, at = FXIMAGE + HEADER;

    x86_xsave_component(&c->feat, i, &size, &off);
    if (!comp)
        return off;
    for (unsigned k = 2; k < i; k++)
        if (comp >> k & 1) {
            x86_xsave_component(&c->feat, k, &size, &off);
            at += size;
        }
    return at;
}

static uint64_t requested(const struct x86_cpu *c)
{
    return (c->xcr0 | c->xss) & ((uint64_t)(uint32_t)c->regs[X86_RDX] << 32 | (uint32_t)c->regs[X86_RAX]);
}

/* Bytes are written part by part: an image must keep what the instruction does not own. */
static void xsave(struct x86_cpu *c, uint64_t lin, bool wide, int form)
{
    uint64_t rfbm = requested(c), bv = rfbm & in_use(c), comp = form == FORM_C ? rfbm | UINT64_C(1) << COMPACT : 0, old;
    uint8_t b[IMAGE_MAX], hdr[16];

    /* Find out that all can be written before the first byte is. */
    x86_ld_bytes(c, lin, b, x86_xsave_size(&c->feat, rfbm, form == FORM_C));
    old = get_le64(b + FXIMAGE);
    if (form == FORM_C && c->fx.mxcsr != 0x1f80)
        bv |= rfbm & 1 << C_SSE;
    for (unsigned i = 0; i < C_NR; i++)
        if (rfbm >> i & 1 && (form == FORM_XSAVE || bv >> i & 1))
            move_component(c, i, b, component_at(c, i, comp), wide, false);
    if (form == FORM_C ? bv & 1 << C_SSE : rfbm & (1 << C_SSE | 1 << C_AVX))
        put_mxcsr(c, b);
    put_le64(hdr, form == FORM_C ? bv : (old & ~rfbm) | bv);
    put_le64(hdr + 8, comp);
    memcpy(b + FXIMAGE, hdr, form == FORM_C ? 16 : 8);
    x86_st_bytes(c, lin, b, x86_xsave_size(&c->feat, rfbm, form == FORM_C));
}

static void header_check(struct x86_cpu *c, const uint8_t *h, uint64_t *bv, uint64_t *comp, bool need_compact)
{
    uint64_t xcr0 = c->xcr0 | (need_compact ? c->xss : 0);

    *bv = get_le64(h);
    *comp = get_le64(h + 8);
    if (*comp >> COMPACT) {
        uint64_t m = *comp & ~(UINT64_C(1) << COMPACT);

        if ((m & ~xcr0) || (*bv & ~m) || !is_zero(h + 16, 48) || !(c->feat.w[X86_FW_D_1_EAX] & 2))
            gp(c);
    } else if (need_compact || (*bv & ~xcr0) || !is_zero(h + 8, 16)) {
        gp(c);
    }
}

static void xrstor(struct x86_cpu *c, uint64_t lin, bool wide, bool need_compact)
{
    uint64_t rfbm = requested(c), bv, comp;
    uint8_t b[IMAGE_MAX];

    x86_ld_bytes(c, lin, b, FXIMAGE + HEADER);
    header_check(c, b + FXIMAGE, &bv, &comp, need_compact);
    x86_ld_bytes(c, lin, b, x86_xsave_size(&c->feat, comp ? comp & ~(UINT64_C(1) << COMPACT) : rfbm & bv, comp != 0));
    if (comp ? rfbm & bv & 1 << C_SSE : rfbm & (1 << C_SSE | 1 << C_AVX))
        set_mxcsr(c, get_le32(b + 24));
    else if (comp && rfbm & 1 << C_SSE)
        c->fx.mxcsr = 0x1f80;
    for (unsigned i = 0; i < C_NR; i++) {
        if (!(rfbm >> i & 1))
            continue;
        if (bv >> i & 1 && i == C_ZMM_HI)
            x86_note_upper(c);
        if (bv >> i & 1 && (i == C_K || i == C_HI16))
            c->wide = 1;
        if (bv >> i & 1)
            move_component(c, i, b, component_at(c, i, comp), wide, true);
        else
            init_component(c, i);
    }
}

/* ---- entry ---- */

static void check_enabled(struct x86_cpu *c, const struct x86_insn *in, bool legacy, uint64_t lin)
{
    if (legacy ? c->cr0 & X86_CR0_EM : !(c->cr4 & X86_CR4_OSXSAVE))
        x86_raise(c, X86_UD);
    if (c->cr0 & X86_CR0_TS)
        x86_raise(c, X86_NM);
    if (lin & (legacy ? 15 : 63))
        gp(c);
    if (c->x87_live)
        x86_x87_sync(c);
}

void x86_xsave(struct x86_cpu *c, const struct x86_insn *in, uint64_t lin)
{
    unsigned reg = in->modrm >> 3 & 7;
    bool wide = in->rex & 8, legacy = in->opcode == 0xae && reg == 0;

    check_enabled(c, in, legacy, lin);
    if (legacy) {
        fxsave(c, wide, lin);
        return;
    }
    if (in->opcode == 0xc7 && reg == 5 && c->cpl != 0) /* XSAVES */
        gp(c);
    xsave(c, lin, wide, in->opcode == 0xc7 ? FORM_C : reg == 6 ? FORM_OPT : FORM_XSAVE);
}

void x86_xrstor(struct x86_cpu *c, const struct x86_insn *in, uint64_t lin)
{
    unsigned reg = in->modrm >> 3 & 7;
    bool wide = in->rex & 8, legacy = in->opcode == 0xae && reg == 1;

    check_enabled(c, in, legacy, lin);
    if (legacy) {
        fxrstor(c, wide, lin);
        return;
    }
    if (in->opcode == 0xc7 && c->cpl != 0) /* XRSTORS */
        gp(c);
    xrstor(c, lin, wide, in->opcode == 0xc7);
}

static void exec_mxcsr(struct x86_cpu *c, const struct x86_insn *in, bool load)
{
    uint64_t lin = x86_simd_lin(c, in, 4, load ? X86_READ : X86_WRITE);

    if (load)
        set_mxcsr(c, (uint32_t)x86_ld(c, lin, 4));
    else
        x86_st(c, lin, 4, c->fx.mxcsr);
}

bool x86_xstate_exec(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned reg = in->modrm >> 3 & 7;

    if (in->map != X86_MAP_0F || !in->has_modrm || in->modrm >= 0xc0 || in->pp || in->enc == X86_ENC_EVEX)
        return false;
    if (in->opcode == 0xae && (reg == 2 || reg == 3)) {
        exec_mxcsr(c, in, reg == 2);
        return true;
    }
    if (in->enc != X86_ENC_LEGACY)
        return false;
    if ((in->opcode == 0xae && (reg == 0 || reg == 4 || reg == 6)) || (in->opcode == 0xc7 && (reg == 4 || reg == 5))) {
        x86_xsave(c, in, x86_simd_lin(c, in, reg == 0 ? FXIMAGE : FXIMAGE + HEADER, X86_WRITE));
        return true;
    }
    if ((in->opcode == 0xae && (reg == 1 || reg == 5)) || (in->opcode == 0xc7 && reg == 3)) {
        x86_xrstor(c, in, x86_simd_lin(c, in, reg == 1 ? FXIMAGE : FXIMAGE + HEADER, X86_READ));
        return true;
    }
    return false;
}
