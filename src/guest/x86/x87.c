/* x87 parts that do not run as the instruction itself: the environment images of FSTENV/FSAVE in their four layouts,
 * instruction and data pointers, and moving the registers between c->fx and the host thread's unit.
 * Intel SDM vol. 1, 8.1; images: figures 8-9 to 8-12. Between instructions the registers stand in c->fx.st, ST(0)
 * first. */
#include "base/bytes.h"
#include "guest/x86/simd_int.h"

enum { FSW_ES = 0x80, FSW_B = 0x8000, EXC = 0x3f };

void x86_x87_summary(struct x86_fx *fx)
{
    fx->fsw &= (uint16_t) ~(FSW_ES | FSW_B);
    if (fx->fsw & ~fx->fcw & EXC)
        fx->fsw |= FSW_ES | FSW_B;
}

void x86_x87_set_top(struct x86_fx *fx, unsigned top)
{
    unsigned by = (top - (fx->fsw >> 11)) & 7;
    uint8_t st[8][16];

    if (by) {
        memcpy(st, fx->st, sizeof st);
        for (unsigned i = 0; i < 8; i++)
            memcpy(fx->st[i], st[(i + by) & 7], 16);
    }
    fx->fsw = (uint16_t)((fx->fsw & ~0x3800) | top << 11);
}

void x86_x87_init(struct x86_fx *fx)
{
    x86_x87_set_top(fx, 0);
    fx->fcw = 0x37f;
    fx->fsw = 0;
    fx->ftw = 0;
    fx->fop = 0;
    fx->fip = fx->fdp = 0;
}

void x86_fpu_init(struct x86_cpu *c)
{
    memset(&c->fx, 0, sizeof c->fx);
    c->fx.fcw = 0x40;
    c->fx.ftw = 0xff; /* tag word 5555h: all zero, none empty */
    c->fx.mxcsr = 0x1f80;
    c->fx.mxcsr_mask = 0xffff | (c->feat.w[X86_FW_80000001_ECX] >> 7 & 1) << 17;
    c->x87_live = false;
}

/* ---- pointers ---- */

bool x86_x87_nowait(const struct x86_insn *in)
{
    unsigned reg = in->modrm >> 3 & 7;
    bool mem = in->modrm < 0xc0;

    switch (in->opcode) {
    case 0xd9:
        return mem && reg >= 6; /* FNSTENV FNSTCW */
    case 0xdb:
        return !mem && in->modrm >= 0xe0 && in->modrm <= 0xe4; /* FNENI FNDISI FNCLEX FNINIT FNSETPM */
    case 0xdd:
        return mem && reg >= 6; /* FNSAVE FNSTSW */
    case 0xdf:
        return in->modrm == 0xe0; /* FNSTSW AX */
    default:
        return false;
    }
}

static bool is_control(const struct x86_insn *in)
{
    unsigned reg = in->modrm >> 3 & 7;

    if (x86_x87_nowait(in))
        return true;
    return in->modrm < 0xc0 && ((in->opcode == 0xd9 && (reg == 4 || reg == 5)) || (in->opcode == 0xdd && reg == 4));
}

void x86_x87_note(struct x86_cpu *c, const struct x86_insn *in)
{
    bool wide = c->mode == X86_MODE_64;

    if (in->opcode == 0xdb && in->modrm == 0xe3) {
        x86_x87_init(&c->fx); /* FNINIT clears the pointers too */
        return;
    }
    if (is_control(in))
        return;
    c->fx.fop = (uint16_t)((in->opcode & 7) << 8 | in->modrm);
    c->fx.fip = wide ? c->rip : (uint32_t)c->rip | (uint64_t)c->seg[X86_CS].sel << 32;
    if (in->mem_op >= 0) {
        uint64_t ea = x86_ea(c, in);

        c->fx.fdp = wide ? ea : (uint32_t)ea | (uint64_t)c->seg[in->seg].sel << 32;
    }
}

/* ---- tag word ---- */

static unsigned tag_of(const uint8_t *st)
{
    unsigned exp = get_le16(st + 8) & 0x7fff;
    uint64_t man = get_le64(st);

    if (exp == 0)
        return man ? 2 : 1;
    return exp == 0x7fff || !(man >> 63) ? 2 : 0;
}

static uint16_t full_tag(const struct x86_fx *fx)
{
    unsigned top = fx->fsw >> 11 & 7, w = 0;

    for (unsigned i = 0; i < 8; i++)
        w |= (fx->ftw >> i & 1 ? tag_of(fx->st[(i - top) & 7]) : 3) << (2 * i);
    return (uint16_t)w;
}

static uint8_t short_tag(uint16_t full)
{
    unsigned t = 0;

    for (unsigned i = 0; i < 8; i++)
        t |= ((full >> (2 * i) & 3) != 3) << i;
    return (uint8_t)t;
}

/* ---- environment images ---- */

static bool real_form(const struct x86_cpu *c)
{
    return !(c->cr0 & X86_CR0_PE) || (c->rflags & X86_VM);
}

/* Where an offset with its selector lies in real-address mode. */
static uint32_t real_addr(uint64_t ptr)
{
    return (uint32_t)ptr + ((uint32_t)(ptr >> 32 & 0xffff) << 4);
}

static unsigned env_put(const struct x86_cpu *c, const struct x86_insn *in, uint8_t *b)
{
    const struct x86_fx *fx = &c->fx;
    unsigned step = in->opsz == 2 ? 2 : 4;
    uint32_t ip = (uint32_t)fx->fip, dp = (uint32_t)fx->fdp;
    uint16_t cs = (uint16_t)(fx->fip >> 32), ds = (uint16_t)(fx->fdp >> 32);

    memset(b, 0, 28);
    if (step == 4)
        for (unsigned i = 0; i < 7; i++)
            put_le32(b + 4 * i, 0xffff0000);
    put_le16(b, fx->fcw);
    put_le16(b + step, fx->fsw);
    put_le16(b + 2 * step, full_tag(fx));
    if (c->mode == X86_MODE_64)
        cs = ds = 0;
    if (real_form(c)) {
        ip = real_addr(fx->fip);
        dp = real_addr(fx->fdp);
        put_le16(b + 3 * step, (uint16_t)ip);
        put_le16(b + 5 * step, (uint16_t)dp);
        if (step == 2) {
            put_le16(b + 8, (uint16_t)((ip >> 16 & 15) << 12 | (fx->fop & 0x7ff)));
            put_le16(b + 12, (uint16_t)((dp >> 16 & 15) << 12));
        } else {
            put_le32(b + 16, (ip >> 16) << 12 | (fx->fop & 0x7ff));
            put_le32(b + 24, (dp >> 16) << 12);
        }
    } else if (step == 2) {
        put_le16(b + 6, (uint16_t)ip);
        put_le16(b + 8, cs);
        put_le16(b + 10, (uint16_t)dp);
        put_le16(b + 12, ds);
    } else {
        put_le32(b + 12, ip);
        put_le32(b + 16, cs | (uint32_t)(fx->fop & 0x7ff) << 16);
        put_le32(b + 20, dp);
        put_le16(b + 24, ds);
    }
    return 7 * step;
}

static unsigned env_get(struct x86_cpu *c, const struct x86_insn *in, const uint8_t *b)
{
    struct x86_fx *fx = &c->fx;
    unsigned step = in->opsz == 2 ? 2 : 4;

    fx->fcw = (get_le16(b) & 0x1f7f) | 0x40;
    x86_x87_set_top(fx, get_le16(b + step) >> 11 & 7);
    fx->fsw = get_le16(b + step);
    fx->ftw = short_tag(get_le16(b + 2 * step));
    if (real_form(c)) {
        uint32_t hi_ip = step == 2 ? get_le16(b + 8) >> 12 : get_le32(b + 16) >> 12;
        uint32_t hi_dp = step == 2 ? get_le16(b + 12) >> 12 : get_le32(b + 24) >> 12;

        fx->fip = get_le16(b + 3 * step) | (hi_ip & 0xffff) << 16;
        fx->fdp = get_le16(b + 5 * step) | (hi_dp & 0xffff) << 16;
        fx->fop = get_le16(b + 4 * step) & 0x7ff;
    } else if (step == 2) {
        fx->fip = get_le16(b + 6) | (uint64_t)get_le16(b + 8) << 32;
        fx->fdp = get_le16(b + 10) | (uint64_t)get_le16(b + 12) << 32;
    } else {
        fx->fip = get_le32(b + 12) | (uint64_t)get_le16(b + 16) << 32;
        fx->fop = get_le16(b + 18) & 0x7ff;
        fx->fdp = get_le32(b + 20) | (uint64_t)get_le16(b + 24) << 32;
    }
    x86_x87_summary(fx);
    return 7 * step;
}

static void store_env(struct x86_cpu *c, const struct x86_insn *in, bool regs)
{
    uint8_t b[28 + 80];
    unsigned n = env_put(c, in, b);

    if (regs) {
        for (unsigned i = 0; i < 8; i++)
            memcpy(b + n + 10 * i, c->fx.st[i], 10);
        n += 80;
    }
    x86_st_bytes(c, x86_simd_lin(c, in, n, X86_WRITE), b, n);
    if (regs) {
        x86_x87_init(&c->fx);
    } else {
        c->fx.fcw |= EXC;
        x86_x87_summary(&c->fx);
    }
}

static void load_env(struct x86_cpu *c, const struct x86_insn *in, bool regs)
{
    uint8_t b[28 + 80];
    unsigned n = (in->opsz == 2 ? 14 : 28) + (regs ? 80 : 0);

    x86_ld_bytes(c, x86_simd_lin(c, in, n, X86_READ), b, n);
    n = env_get(c, in, b);
    for (unsigned i = 0; regs && i < 8; i++) {
        memset(c->fx.st[i], 0, 16);
        memcpy(c->fx.st[i], b + n + 10 * i, 10);
    }
}

bool x86_x87_env(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned reg = in->modrm >> 3 & 7;

    if (in->map != X86_MAP_1 || in->enc != X86_ENC_LEGACY || in->modrm >= 0xc0 ||
        (in->opcode != 0xd9 && in->opcode != 0xdd))
        return false;
    if (reg == 4)
        load_env(c, in, in->opcode == 0xdd);
    else if (reg == 6)
        store_env(c, in, in->opcode == 0xdd);
    else
        return false;
    return true;
}

/* ---- the host thread's unit ---- */

void x86_x87_sync(struct x86_cpu *c)
{
    struct x86_fx fx;

    if (!c->x87_live)
        return;
    __asm__ volatile("fxsave64 %0\n\tfninit" : "=m"(fx));
    c->fx.fcw = fx.fcw;
    c->fx.fsw = fx.fsw;
    c->fx.ftw = fx.ftw;
    memcpy(c->fx.st, fx.st, sizeof fx.st);
    c->x87_live = false;
}

void x86_x87_load(struct x86_cpu *c)
{
    struct x86_fx fx;

    if (c->x87_live)
        return;
    /* The rest of the image is this thread's own, so that only the x87 part changes. */
    __asm__ volatile("fxsave64 %0" : "=m"(fx));
    fx.fcw = c->fx.fcw;
    fx.fsw = c->fx.fsw;
    fx.ftw = c->fx.ftw;
    memcpy(fx.st, c->fx.st, sizeof fx.st);
    __asm__ volatile("fxrstor64 %0" : : "m"(fx));
    c->x87_live = true;
}
