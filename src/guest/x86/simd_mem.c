/* Vector instructions that touch memory element by element under a mask: VMASKMOVPS/PD, VPMASKMOVD/Q, VGATHER*,
 * VPGATHER*, MASKMOVQ, MASKMOVDQU, and of AVX-512 gathers, scatters and the memory operands of all that run with a mask
 * (Intel SDM vol. 2). Elements that are switched off are neither read nor written, and a gather or scatter that faults
 * keeps what it has done, with the mask bits of it clear, as the manual says. */
#include "base/bytes.h"
#include "guest/x86/simd_int.h"

static void zero_above(union x86_vreg *v, unsigned from)
{
    memset(v->b + from, 0, sizeof v->b - from);
}

static bool elem_on(const union x86_vreg *mask, unsigned i, unsigned size)
{
    return mask->b[i * size + size - 1] & 0x80;
}

static uint64_t addr_trunc(const struct x86_insn *in, uint64_t a)
{
    return in->adsz == 8 ? a : in->adsz == 4 ? (uint32_t)a : (uint16_t)a;
}

/* Register of the operand at a place in the encoding. */
static unsigned reg_at(const struct x86_insn *in, enum x86_where where)
{
    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->ops[i].where == where && (in->ops[i].kind == X86_OP_XMM || in->ops[i].kind == X86_OP_MM))
            return in->ops[i].reg;
    return 0;
}

static void maskmov_load(struct x86_cpu *c, const struct x86_insn *in, unsigned size)
{
    const union x86_vreg mask = c->v[reg_at(in, X86_IN_VVVV)];
    union x86_vreg res = {0};
    uint64_t ea = x86_ea(c, in);

    for (unsigned i = 0; i < in->vl / size; i++)
        if (elem_on(&mask, i, size))
            put_le(res.b + i * size,
                   x86_ld(c, x86_seg_lin(c, in->seg, addr_trunc(in, ea + i * size), size, X86_READ), size), size);
    c->v[reg_at(in, X86_IN_REG)] = res;
}

/* All elements are checked before the first is written, so that a fault leaves memory as it was. */
static void maskmov_store(struct x86_cpu *c, const struct x86_insn *in, unsigned size)
{
    const union x86_vreg *mask = &c->v[reg_at(in, X86_IN_VVVV)], *src = &c->v[reg_at(in, X86_IN_REG)];
    uint64_t ea = x86_ea(c, in), lin[8] = {0};

    for (unsigned i = 0; i < in->vl / size; i++) {
        if (!elem_on(mask, i, size))
            continue;
        lin[i] = x86_seg_lin(c, in->seg, addr_trunc(in, ea + i * size), size, X86_WRITE);
        x86_probe_write(c, lin[i], size);
    }
    for (unsigned i = 0; i < in->vl / size; i++)
        if (elem_on(mask, i, size))
            x86_st(c, lin[i], size, get_le(src->b + i * size, size));
}

static uint64_t vsib_addr(struct x86_cpu *c, const struct x86_insn *in, unsigned i, bool qword_index)
{
    const union x86_vreg *idx = &c->v[in->index & 31];
    int64_t x = qword_index ? (int64_t)idx->q[i] : (int32_t)idx->d[i];
    uint64_t base = in->base == X86_NO_REG ? 0 : c->regs[in->base & 15];

    return addr_trunc(in, base + (uint64_t)x * in->scale + (uint64_t)in->disp);
}

static void gather(struct x86_cpu *c, const struct x86_insn *in)
{
    unsigned size = x86_vex_w(in) ? 8 : 4, dst = reg_at(in, X86_IN_REG), mask = reg_at(in, X86_IN_VVVV);
    bool qidx = in->opcode & 1;
    unsigned nr = in->vl / (qidx && size == 4 ? 8 : size);

    if (dst == mask || dst == in->index || mask == in->index)
        x86_raise(c, X86_UD);
    for (unsigned i = 0; i < nr; i++) {
        if (elem_on(&c->v[mask], i, size)) {
            uint64_t lin = x86_seg_lin(c, in->seg, vsib_addr(c, in, i, qidx), size, X86_READ);

            put_le(c->v[dst].b + i * size, x86_ld(c, lin, size), size);
        }
        memset(c->v[mask].b + i * size, 0, size);
    }
    zero_above(&c->v[mask], 0);
    zero_above(&c->v[dst], nr * size);
}

/* Value of MMn: the mantissa of physical register n. */
static const uint8_t *mm_bytes(const struct x86_cpu *c, unsigned n)
{
    return c->fx.st[(n - (c->fx.fsw >> 11)) & 7];
}

static void maskmov_bytes(struct x86_cpu *c, const struct x86_insn *in)
{
    bool mm = !in->pp && in->enc == X86_ENC_LEGACY;
    unsigned src = reg_at(in, X86_IN_REG), mask = reg_at(in, X86_IN_RM), n = mm ? 8 : 16;
    uint8_t s[16], m[16];
    uint64_t di = addr_trunc(in, c->regs[X86_RDI]);

    memcpy(s, mm ? mm_bytes(c, src) : c->v[src].b, n);
    memcpy(m, mm ? mm_bytes(c, mask) : c->v[mask].b, n);
    for (unsigned i = 0; i < n; i++)
        if (m[i] & 0x80)
            x86_st(c, x86_seg_lin(c, in->seg, addr_trunc(in, di + i), 1, X86_WRITE), 1, s[i]);
    if (!mm)
        return;
    x86_x87_set_top(&c->fx, 0); /* what every use of an MMX register does */
    c->fx.ftw = 0xff;
}

/* ---- AVX-512 ---- */

uint64_t x86_simd_mask(const struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t all = in->mask_nr >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << in->mask_nr) - 1;

    return in->evex_aaa ? c->k[in->evex_aaa] & all : all;
}

/* Elements that the memory operand has, and which of them are enabled: what is broadcast serves several mask bits. */
static unsigned mem_elems(const struct x86_insn *in)
{
    return in->mem_size / in->mask_elem;
}

static uint64_t mem_mask(const struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t mask = x86_simd_mask(c, in), folded = mask;
    unsigned n = mem_elems(in);

    if (n >= in->mask_nr)
        return mask;
    for (unsigned at = n; at < in->mask_nr; at += n)
        folded |= mask >> at;
    return folded & ((UINT64_C(1) << n) - 1);
}

bool x86_simd_masked(const struct x86_cpu *c, const struct x86_insn *in)
{
    if (!in->evex_aaa || (in->row->attr & X86_A_NO_SUPPRESS && in->mem_op))
        return false;
    return (unsigned)__builtin_popcountll(mem_mask(c, in)) < mem_elems(in);
}

uint64_t x86_simd_address(struct x86_cpu *c, const struct x86_insn *in)
{
    uint64_t base = c->mode != X86_MODE_64 || in->seg == X86_FS || in->seg == X86_GS ? c->seg[in->seg].base : 0;
    uint64_t a = base + x86_ea(c, in);

    return c->mode == X86_MODE_64 ? a : (uint32_t)a;
}

/* The next enabled element: its number, its linear address and its place in the buffer. */
struct elem {
    uint64_t left, ea, lin;
    unsigned at, nr;
};

static struct elem elem_first(struct x86_cpu *c, const struct x86_insn *in)
{
    return (struct elem){.left = mem_mask(c, in), .ea = x86_ea(c, in)};
}

static bool elem_next(struct x86_cpu *c, const struct x86_insn *in, struct elem *e, enum x86_access a)
{
    unsigned place;

    if (!e->left)
        return false;
    place = in->row->attr & X86_A_COMPRESS ? e->nr : (unsigned)__builtin_ctzll(e->left);
    e->nr++;
    e->left &= e->left - 1;
    e->at = place * in->mask_elem;
    e->lin = x86_seg_lin(c, in->seg, addr_trunc(in, e->ea + e->at), in->mask_elem, a);
    return true;
}

void x86_simd_masked_load(struct x86_cpu *c, const struct x86_insn *in, uint8_t *buf)
{
    struct elem e = elem_first(c, in);

    while (elem_next(c, in, &e, X86_READ))
        x86_ld_bytes(c, e.lin, buf + e.at, in->mask_elem);
}

void x86_simd_masked_probe(struct x86_cpu *c, const struct x86_insn *in)
{
    struct elem e = elem_first(c, in);

    if (in->row->attr & X86_A_NO_SUPPRESS)
        x86_probe_write(c, x86_simd_lin(c, in, in->mem_size, X86_WRITE), in->mem_size);
    while (elem_next(c, in, &e, X86_WRITE))
        x86_probe_write(c, e.lin, in->mask_elem);
}

void x86_simd_masked_store(struct x86_cpu *c, const struct x86_insn *in, const uint8_t *buf)
{
    struct elem e = elem_first(c, in);

    x86_simd_masked_probe(c, in);
    while (elem_next(c, in, &e, X86_WRITE))
        x86_st_bytes(c, e.lin, buf + e.at, in->mask_elem);
}

/* One element after the other; the mask says at every moment what is left to do. */
static void evex_gather_scatter(struct x86_cpu *c, const struct x86_insn *in)
{
    bool scatter = in->mem_op == 0, qidx = in->opcode & 1;
    unsigned reg = reg_at(in, X86_IN_REG), size = in->mask_elem;
    uint64_t *k = &c->k[in->evex_aaa];

    for (unsigned i = 0; i < in->mask_nr; i++) {
        uint64_t lin;

        if (!(*k >> i & 1))
            continue;
        lin = x86_seg_lin(c, in->seg, vsib_addr(c, in, i, qidx), size, scatter ? X86_WRITE : X86_READ);
        if (scatter)
            x86_st(c, lin, size, get_le(c->v[reg].b + i * size, size));
        else
            put_le(c->v[reg].b + i * size, x86_ld(c, lin, size), size);
        *k &= ~(UINT64_C(1) << i);
        if (!scatter) /* if the next one faults; the manual leaves it open, processors do it */
            zero_above(&c->v[reg], in->vl);
    }
    *k = 0;
    if (!scatter)
        zero_above(&c->v[reg], in->mask_nr * size);
}

bool x86_simd_elementwise(struct x86_cpu *c, const struct x86_insn *in)
{
    if (in->map == X86_MAP_0F && in->opcode == 0xf7 && in->enc != X86_ENC_EVEX && in->pp < 2) {
        maskmov_bytes(c, in);
        return true;
    }
    if (in->enc == X86_ENC_EVEX && in->row->attr & X86_A_VSIB) {
        evex_gather_scatter(c, in);
        return true;
    }
    if (in->enc != X86_ENC_VEX || in->map != X86_MAP_0F38 || in->pp != 1)
        return false;
    switch (in->opcode) {
    case 0x2c:
    case 0x2d:
        maskmov_load(c, in, in->opcode & 1 ? 8 : 4);
        return true;
    case 0x2e:
    case 0x2f:
        maskmov_store(c, in, in->opcode & 1 ? 8 : 4);
        return true;
    case 0x8c:
        maskmov_load(c, in, x86_vex_w(in) ? 8 : 4);
        return true;
    case 0x8e:
        maskmov_store(c, in, x86_vex_w(in) ? 8 : 4);
        return true;
    case 0x90:
    case 0x91:
    case 0x92:
    case 0x93:
        gather(c, in);
        return true;
    default:
        return false;
    }
}
