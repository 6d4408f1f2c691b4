/* Segmentation: descriptors, segment loads, logical to linear addresses, the stack pointer, the CPU's mode.
 *
 * After the Intel SDM vol. 3 chapters 3 and 5. */
#include "guest/x86/x86_int.h"

bool x86_desc_read(struct x86_cpu *c, uint16_t sel, struct x86_desc *d)
{
    uint64_t base = c->gdt.base;
    uint32_t limit = c->gdt.limit, off = sel & ~7u;
    uint64_t v;

    *d = (struct x86_desc){0};
    if (!(sel & ~3u))
        return false;
    if (sel & 4) {
        if (!(c->seg[X86_LDTR].flags & X86_SEG_P))
            return false;
        base = c->seg[X86_LDTR].base;
        limit = c->seg[X86_LDTR].limit;
    }
    if (off + 7 > limit)
        return false;
    d->at = base + off;
    v = x86_ld_sys(c, d->at, 8);
    d->lo = (uint32_t)v;
    d->hi = (uint32_t)(v >> 32);
    return true;
}

void x86_desc_mark(struct x86_cpu *c, struct x86_desc *d, uint32_t bits)
{
    if ((d->hi & bits) == bits)
        return;
    d->hi |= bits;
    x86_st_sys(c, d->at + 4, 4, d->hi);
}

void x86_desc_seg(const struct x86_desc *d, uint16_t sel, struct x86_seg *s)
{
    uint32_t limit = (d->lo & 0xffff) | (d->hi & 0xf0000);

    s->sel = sel;
    s->base = d->lo >> 16 | (d->hi & 0xff) << 16 | (d->hi & 0xff000000);
    s->limit = d->hi & X86_SEG_G ? limit << 12 | 0xfff : limit;
    s->flags = d->hi & 0xf0ff00;
}

void x86_seg_real(struct x86_cpu *c, int seg, uint16_t sel)
{
    struct x86_seg *s = &c->seg[seg];

    s->sel = sel;
    s->base = (uint32_t)sel << 4;
    if (seg == X86_CS) /* the limit and rights of the others survive a load ("unreal" mode) */
        s->flags = (s->flags & ~(X86_SEG_DB | X86_SEG_L)) | X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A;
}

void x86_seg_v86(struct x86_cpu *c, int seg, uint16_t sel)
{
    c->seg[seg] = (struct x86_seg){.sel = sel,
                                   .base = (uint32_t)sel << 4,
                                   .limit = 0xffff,
                                   .flags = X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A | 3u << X86_SEG_DPL_SHIFT};
}

static void load_null(struct x86_cpu *c, int seg, uint16_t sel)
{
    /* In 64-bit mode the base stays usable: a null FS or GS is written by the 64-bit base MSRs. */
    c->seg[seg] = (struct x86_seg){.sel = sel, .flags = (uint32_t)c->cpl << X86_SEG_DPL_SHIFT};
}

void x86_load_seg(struct x86_cpu *c, int seg, uint16_t sel)
{
    unsigned rpl = sel & 3, dpl;
    struct x86_desc d;

    if (!x86_pm(c)) {
        if (x86_v86(c))
            x86_seg_v86(c, seg, sel);
        else
            x86_seg_real(c, seg, sel);
        return;
    }
    if (!(sel & ~3u)) {
        if (seg == X86_SS && !(c->mode == X86_MODE_64 && c->cpl != 3 && rpl == c->cpl))
            x86_raise_err(c, X86_GP, 0);
        load_null(c, seg, sel);
        c->hooks.mode_changed ? c->hooks.mode_changed(c) : (void)0;
        return;
    }
    if (!x86_desc_read(c, sel, &d))
        x86_raise_err(c, X86_GP, sel & ~3u);
    dpl = x86_desc_dpl(d.hi);
    if (!(d.hi & X86_SEG_S))
        x86_raise_err(c, X86_GP, sel & ~3u);
    if (seg == X86_SS) {
        if (rpl != c->cpl || d.hi & X86_SEG_CODE || !(d.hi & X86_SEG_W) || dpl != c->cpl)
            x86_raise_err(c, X86_GP, sel & ~3u);
        if (!(d.hi & X86_SEG_P))
            x86_raise_err(c, X86_VEC_SS, sel & ~3u);
    } else {
        bool code = d.hi & X86_SEG_CODE;

        if (code && !(d.hi & X86_SEG_R))
            x86_raise_err(c, X86_GP, sel & ~3u);
        if ((!code || !(d.hi & X86_SEG_C)) && (rpl > dpl || c->cpl > dpl))
            x86_raise_err(c, X86_GP, sel & ~3u);
        if (!(d.hi & X86_SEG_P))
            x86_raise_err(c, X86_NP, sel & ~3u);
    }
    x86_desc_mark(c, &d, X86_SEG_A);
    x86_desc_seg(&d, sel, &c->seg[seg]);
    if (c->hooks.mode_changed)
        c->hooks.mode_changed(c);
}

/* System descriptors are 16 bytes in long mode. */
static void system_base(struct x86_cpu *c, const struct x86_desc *d, struct x86_seg *s)
{
    if (c->long_mode)
        s->base |= x86_ld_sys(c, d->at + 8, 4) << 32;
}

void x86_load_ldt(struct x86_cpu *c, uint16_t sel)
{
    struct x86_desc d;
    struct x86_seg s;

    if (!(sel & ~3u)) {
        c->seg[X86_LDTR] = (struct x86_seg){.sel = sel};
        return;
    }
    if (sel & 4 || !x86_desc_read(c, sel, &d) || (d.hi >> 8 & 0x1f) != 2)
        x86_raise_err(c, X86_GP, sel & ~3u);
    if (!(d.hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, sel & ~3u);
    x86_desc_seg(&d, sel, &s);
    system_base(c, &d, &s);
    c->seg[X86_LDTR] = s;
}

void x86_load_tr(struct x86_cpu *c, uint16_t sel)
{
    struct x86_desc d;
    struct x86_seg s;
    unsigned type;

    if (!(sel & ~3u) || sel & 4 || !x86_desc_read(c, sel, &d))
        x86_raise_err(c, X86_GP, sel & ~3u);
    type = d.hi >> 8 & 0x1f;
    if (type != 9 && (type != 1 || c->long_mode))
        x86_raise_err(c, X86_GP, sel & ~3u);
    if (!(d.hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, sel & ~3u);
    x86_desc_seg(&d, sel, &s);
    system_base(c, &d, &s);
    x86_desc_mark(c, &d, 2 << 8); /* busy */
    s.flags |= 2 << 8;
    c->seg[X86_TR] = s;
}

static NORETURN void bad_address(struct x86_cpu *c, int seg)
{
    x86_raise_err(c, seg == X86_SS ? X86_VEC_SS : X86_GP, 0);
}

static bool within(const struct x86_seg *s, uint32_t off, unsigned size)
{
    uint64_t last = (uint64_t)off + (size ? size - 1 : 0);

    if (!(s->flags & X86_SEG_CODE) && s->flags & X86_SEG_E && s->flags & X86_SEG_S) /* expand-down data */
        return off > s->limit && last <= (s->flags & X86_SEG_DB ? UINT32_MAX : 0xffff);
    return last <= s->limit;
}

uint64_t x86_seg_lin(struct x86_cpu *c, int seg, uint64_t off, unsigned size, enum x86_access a)
{
    const struct x86_seg *s = &c->seg[seg];

    if (c->mode == X86_MODE_64) {
        uint64_t lin = off + (seg == X86_FS || seg == X86_GS ? s->base : 0);

        if (unlikely(!x86_canonical(c, lin) || !x86_canonical(c, lin + (size ? size - 1 : 0))))
            bad_address(c, seg);
        return lin;
    }
    if (c->cr0 & X86_CR0_PE && !x86_v86(c)) {
        if (unlikely(!(s->flags & X86_SEG_P)))
            bad_address(c, seg);
        if (a == X86_WRITE && (s->flags & (X86_SEG_CODE | X86_SEG_W)) != X86_SEG_W)
            bad_address(c, seg);
        if (a == X86_READ && (s->flags & (X86_SEG_CODE | X86_SEG_R)) == X86_SEG_CODE)
            bad_address(c, seg);
    }
    if (unlikely(!within(s, (uint32_t)off, size)))
        bad_address(c, seg);
    return (uint32_t)(s->base + (uint32_t)off);
}

static uint64_t reg_of(const struct x86_cpu *c, unsigned r)
{
    return r == X86_NO_REG ? 0 : c->regs[r];
}

uint64_t x86_ea(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t a = (uint64_t)in->disp;

    if (in->base == X86_REG_RIP)
        a += c->rip + in->len;
    else
        a += reg_of(c, in->base);
    if (in->index != X86_NO_REG)
        a += c->regs[in->index] * in->scale;
    return in->adsz == 8 ? a : in->adsz == 4 ? (uint32_t)a : (uint16_t)a;
}

void x86_set_rsp(struct x86_cpu *c, uint64_t v)
{
    uint64_t *sp = &c->regs[X86_RSP];

    switch (x86_stack_size(c)) {
    case 8:
        *sp = v;
        break;
    case 4:
        *sp = (uint32_t)v;
        break;
    default:
        *sp = (*sp & ~UINT64_C(0xffff)) | (v & 0xffff);
    }
}

static uint64_t sp_of(const struct x86_cpu *c)
{
    unsigned n = x86_stack_size(c);
    uint64_t v = c->regs[X86_RSP];

    return n == 8 ? v : n == 4 ? (uint32_t)v : (uint16_t)v;
}

void x86_push(struct x86_cpu *c, unsigned size, uint64_t v)
{
    unsigned n = x86_stack_size(c);
    uint64_t sp = sp_of(c) - size;

    sp = n == 8 ? sp : n == 4 ? (uint32_t)sp : (uint16_t)sp;
    x86_st(c, x86_seg_lin(c, X86_SS, sp, size, X86_WRITE), size, v);
    x86_set_rsp(c, sp);
}

uint64_t x86_pop(struct x86_cpu *c, unsigned size)
{
    uint64_t sp = sp_of(c), v = x86_ld(c, x86_seg_lin(c, X86_SS, sp, size, X86_READ), size);

    x86_set_rsp(c, sp + size);
    return v;
}

void x86_update_mode(struct x86_cpu *c)
{
    const struct x86_seg *cs = &c->seg[X86_CS];

    c->long_mode = c->efer & X86_EFER_LMA;
    if (x86_real(c)) {
        c->cpl = 0;
        c->mode = cs->flags & X86_SEG_DB ? X86_MODE_32 : X86_MODE_16;
    } else if (x86_v86(c)) {
        c->cpl = 3;
        c->mode = X86_MODE_16;
    } else {
        c->mode = c->long_mode && cs->flags & X86_SEG_L ? X86_MODE_64
                  : cs->flags & X86_SEG_DB              ? X86_MODE_32
                                                        : X86_MODE_16;
    }
    if (c->hooks.mode_changed)
        c->hooks.mode_changed(c);
}
