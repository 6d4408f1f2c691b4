/* String instructions (SDM vol. 2: MOVS CMPS STOS LODS SCAS INS OUTS and REP).
 *
 * A REP runs in bursts: one page of host memory at a time where both sides are plain memory and DF is clear, else
 * single elements up to a bound. An unfinished burst leaves rIP at the instruction with rCX, rSI and rDI advanced, so
 * that interrupts are taken between bursts exactly as between iterations. Each element's registers change only after
 * its accesses are done. */
#include "guest/x86/interp_int.h"

enum { BURST = 1024 };

struct str {
    struct x86_cpu *c;
    const struct x86_insn *in;
    unsigned size, adsz;
    int64_t step;
};
static inline uint64_t reg(const struct str *s, unsigned r)
{
    return s->c->regs[r] & x86_mask(s->adsz);
}
static inline void advance(const struct str *s, unsigned r, int64_t by)
{
    x86_gpr_set(s->c, r, s->adsz, s->c->regs[r] + (uint64_t)by);
}
static inline uint64_t src(const struct str *s, unsigned bytes)
{
    return x86_lin(s->c, s->in->seg, reg(s, X86_RSI), bytes, X86_READ);
}
static inline uint64_t dst(const struct str *s, unsigned bytes, enum x86_access a)
{
    return x86_lin(s->c, X86_ES, reg(s, X86_RDI), bytes, a);
}
static uint64_t acc(const struct str *s)
{
    return s->c->regs[X86_RAX] & x86_mask(s->size);
}
static void cmp_flags(struct x86_cpu *c, uint64_t a, uint64_t b, unsigned size)
{
    unsigned sh = 64 - 8 * size;
    uint16_t f;

    /* Compared at the top of 64 bits; AF and PF come from a byte compare of the low bytes. */
    __asm__("cmp %2,%1; lahf; seto %%al" : "=&a"(f) : "r"(a << sh), "r"(b << sh) : "cc");
    x86_flags_set(c, X86_CF | X86_ZF | X86_SF | X86_OF, x86_host_flags(f));
    __asm__("cmpb %2,%1; lahf" : "=&a"(f) : "q"((uint8_t)a), "q"((uint8_t)b) : "cc");
    x86_flags_set(c, X86_AF | X86_PF, x86_host_flags(f));
}

/* One element of each kind. */
static void one(const struct str *s)
{
    struct x86_cpu *c = s->c;
    unsigned n = s->size;
    uint64_t v;

    switch (s->in->op) {
    case X86_I_MOVS:
        v = x86_rd_lin(c, src(s, n), n);
        x86_wr_lin(c, dst(s, n, X86_WRITE), n, v);
        advance(s, X86_RSI, s->step);
        advance(s, X86_RDI, s->step);
        break;
    case X86_I_STOS:
        x86_wr_lin(c, dst(s, n, X86_WRITE), n, acc(s));
        advance(s, X86_RDI, s->step);
        break;
    case X86_I_LODS:
        v = x86_rd_lin(c, src(s, n), n);
        x86_gpr_set(c, X86_RAX, n, v);
        advance(s, X86_RSI, s->step);
        break;
    case X86_I_CMPS: {
        uint64_t b;

        v = x86_rd_lin(c, src(s, n), n);
        b = x86_rd_lin(c, dst(s, n, X86_READ), n);
        advance(s, X86_RSI, s->step);
        advance(s, X86_RDI, s->step);
        cmp_flags(c, v, b, n);
        break;
    }
    case X86_I_SCAS:
        v = x86_rd_lin(c, dst(s, n, X86_READ), n);
        advance(s, X86_RDI, s->step);
        cmp_flags(c, acc(s), v, n);
        break;
    case X86_I_INS: {
        uint64_t lin = dst(s, n, X86_WRITE);

        x86_rmw_ptr(c, lin, n); /* page faults come before the port is read */
        x86_wr_lin(c, lin, n, x86_io_in(c, (uint16_t)c->regs[X86_RDX], n));
        advance(s, X86_RDI, s->step);
        break;
    }
    default: /* OUTS */
        v = x86_rd_lin(c, src(s, n), n);
        x86_io_out(c, (uint16_t)c->regs[X86_RDX], n, (uint32_t)v);
        advance(s, X86_RSI, s->step);
        break;
    }
}
static uint64_t page_left(uint64_t lin)
{
    return PAGE - (lin & (PAGE - 1));
}
/* The bytes that one memcpy or memset may do now: whole elements within the pages, the segment and the address size. */
static uint64_t chunk(const struct str *s, uint64_t count, bool both)
{
    uint64_t n = min_u64(count, UINT64_C(1) << 20) * s->size, room = x86_mask(s->adsz);
    uint64_t off = reg(s, X86_RDI);

    n = min_u64(n, page_left(x86_lin(s->c, X86_ES, off, s->size, X86_WRITE)));
    if (room - off < n)
        return 0;
    if (both) {
        off = reg(s, X86_RSI);
        n = min_u64(n, page_left(x86_lin(s->c, s->in->seg, off, s->size, X86_READ)));
        if (room - off < n)
            return 0;
    }
    return n - n % s->size;
}
static void fill(void *to, const struct str *s, uint64_t n)
{
    uint64_t v = s->c->regs[X86_RAX];

    if (s->size == 1) {
        memset(to, (uint8_t)v, n);
        return;
    }
    for (uint64_t i = 0; i < n; i += s->size)
        put_le((uint8_t *)to + i, v, s->size);
}
/* Copies forward element by element in effect: an overlap that a byte-wise copy would repeat is left to the slow way.
 */
static bool copy(uint8_t *to, const uint8_t *from, uint64_t n)
{
    if (to > from && (uint64_t)(to - from) < n)
        return false;
    memmove(to, from, n);
    return true;
}
/* MOVS or STOS over plain memory; false when single elements must be done. */
static bool bulk(const struct str *s, uint64_t count)
{
    struct x86_cpu *c = s->c;
    bool movs = s->in->op == X86_I_MOVS;
    uint64_t n = chunk(s, count, movs), lin;
    const void *from = NULL;
    void *to;

    if (n < 2 * s->size)
        return false;
    lin = dst(s, n, X86_WRITE);
    if (movs && !(from = x86_host(c, src(s, n), n, X86_READ)))
        return false;
    to = x86_rmw_ptr(c, lin, n);
    if (!to)
        return false;
    if (movs && !copy(to, from, n))
        return false;
    if (!movs)
        fill(to, s, n);
    x86_rmw_done(c, lin, n);
    if (movs)
        advance(s, X86_RSI, (int64_t)n);
    advance(s, X86_RDI, (int64_t)n);
    advance(s, X86_RCX, -(int64_t)(n / s->size));
    return true;
}
static bool ends_early(const struct str *s)
{
    if (s->in->op != X86_I_CMPS && s->in->op != X86_I_SCAS)
        return false;
    return (s->in->rep == 0xf3) != !!(s->c->rflags & X86_ZF);
}
static void repeat(const struct str *s)
{
    struct x86_cpu *c = s->c;
    bool big = s->step > 0 && (s->in->op == X86_I_MOVS || s->in->op == X86_I_STOS) && !(c->rflags & X86_TF);
    unsigned left = c->rflags & X86_TF ? 1 : BURST;

    while (reg(s, X86_RCX)) {
        if (!left--) {
            c->next_rip = c->rip; /* go on here after interrupts were looked at */
            c->insn_count--;      /* a REP is one instruction, however often it is looked away from */
            return;
        }
        if (big && bulk(s, reg(s, X86_RCX))) {
            left = left > 64 ? left - 64 : 0;
            continue;
        }
        one(s);
        advance(s, X86_RCX, -1);
        if (ends_early(s))
            return;
        if (unlikely(c->vcpu.exit_request || (c->vcpu.pins && (c->rflags & X86_IF || c->vcpu.pins != X86_PIN_INTR))))
            left = 0;
    }
}
static void string(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned size = in->mem_size;
    struct str s = {
        .c = c, .in = in, .size = size, .adsz = in->adsz, .step = c->rflags & X86_DF ? -(int64_t)size : (int64_t)size};

    if (in->row->attr & X86_A_IO)
        x86_check_io(c, (uint16_t)c->regs[X86_RDX], size);
    if (in->rep)
        repeat(&s);
    else
        one(&s);
}

const struct x86_handler x86_ops_string[X86_I_NR] = {
    [X86_I_MOVS] = ALL_SIZES(string), [X86_I_CMPS] = ALL_SIZES(string), [X86_I_STOS] = ALL_SIZES(string),
    [X86_I_LODS] = ALL_SIZES(string), [X86_I_SCAS] = ALL_SIZES(string), [X86_I_INS] = ALL_SIZES(string),
    [X86_I_OUTS] = ALL_SIZES(string),
};
