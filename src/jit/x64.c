/* Encoding of host instructions. */
#include "jit/x64.h"

/* Pieces of one instruction, written without looking at the end: jit_room has been asked. */
static inline uint8_t *put_32(uint8_t *p, uint32_t v)
{
    put_le32(p, v);
    return p + 4;
}

static inline uint8_t *put_opcode(uint8_t *p, unsigned op)
{
    if (op > 0xffff)
        *p++ = (uint8_t)(op >> 16);
    if (op > 0xff)
        *p++ = (uint8_t)(op >> 8);
    *p++ = (uint8_t)op;
    return p;
}

static inline uint8_t *put_prefixes(uint8_t *p, unsigned flags)
{
    if (likely(!(flags & (JIT_66 | JIT_F3 | JIT_F2))))
        return p;
    if (flags & JIT_66)
        *p++ = 0x66;
    if (flags & JIT_F3)
        *p++ = 0xf3;
    if (flags & JIT_F2)
        *p++ = 0xf2;
    return p;
}

static inline uint8_t *put_modrm_mem_as(uint8_t *p, unsigned reg, struct jit_mem m, bool disp8)
{
    unsigned r = (reg & 7) << 3, ss = m.scale == 8 ? 0xc0 : m.scale == 4 ? 0x80 : m.scale == 2 ? 0x40 : 0;
    unsigned index = m.index == JR_NONE ? 4u << 3 : (m.index & 7u) << 3, mod;

    assert(m.index != JR_RSP); /* that encoding means no index */
    if (m.base == JR_NONE) {   /* SIB without base: absolute or index * scale + disp32 */
        *p++ = (uint8_t)(r | 4);
        *p++ = (uint8_t)(ss | index | 5);
        return put_32(p, (uint32_t)m.disp);
    }
    mod = !m.disp && (m.base & 7) != JR_RBP ? 0 : !m.disp || (disp8 && m.disp == (int8_t)m.disp) ? 0x40 : 0x80;
    if (m.index != JR_NONE || (m.base & 7) == JR_RSP) {
        *p++ = (uint8_t)(mod | r | 4);
        *p++ = (uint8_t)(ss | index | (m.base & 7u));
    } else {
        *p++ = (uint8_t)(mod | r | (m.base & 7u));
    }
    if (mod == 0x40)
        *p++ = (uint8_t)m.disp;
    else if (mod == 0x80)
        p = put_32(p, (uint32_t)m.disp);
    return p;
}

static inline uint8_t *put_modrm_mem(uint8_t *p, unsigned reg, struct jit_mem m)
{
    return put_modrm_mem_as(p, reg, m, true);
}

static inline bool is_high(unsigned reg) /* R8 to R15; not JR_NONE */
{
    return (reg & 0x88) == 8;
}

void jit_modrm_mem(struct jit_buf *b, unsigned reg, struct jit_mem m)
{
    if (jit_room(b))
        b->p = put_modrm_mem(b->p, reg, m);
}

void jit_modrm_mem32(struct jit_buf *b, unsigned reg, struct jit_mem m)
{
    if (jit_room(b))
        b->p = put_modrm_mem_as(b->p, reg, m, false);
}

static inline void op_mem(struct jit_buf *b, unsigned flags, unsigned op, unsigned reg, struct jit_mem m)
{
    unsigned rex =
        (flags & JIT_W ? 8u : 0u) | (reg & 8 ? 4u : 0u) | (is_high(m.index) ? 2u : 0u) | (is_high(m.base) ? 1u : 0u);
    uint8_t *p = b->p;

    if (!jit_room(b))
        return;
    if (m.gs)
        *p++ = 0x65;
    p = put_prefixes(p, flags);
    if (rex || (flags & JIT_B8 && reg >= 4))
        *p++ = (uint8_t)(0x40 | rex);
    b->p = put_modrm_mem(put_opcode(p, op), reg, m);
}

void jit_op_mem(struct jit_buf *b, unsigned flags, unsigned op, unsigned reg, struct jit_mem m, unsigned imm_len)
{
    (void)imm_len; /* no RIP-relative forms here, so the length of what follows does not matter */
    op_mem(b, flags, op, reg, m);
}

static inline void op_reg(struct jit_buf *b, unsigned flags, unsigned op, unsigned reg, unsigned rm)
{
    unsigned rex = (flags & JIT_W ? 8u : 0u) | (reg & 8 ? 4u : 0u) | (rm & 8 ? 1u : 0u);
    uint8_t *p = b->p;

    if (!jit_room(b))
        return;
    p = put_prefixes(p, flags);
    if (rex || (flags & JIT_B8 && reg >= 4) || (flags & JIT_RM8 && rm >= 4))
        *p++ = (uint8_t)(0x40 | rex);
    p = put_opcode(p, op);
    *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    b->p = p;
}

void jit_op_reg(struct jit_buf *b, unsigned flags, unsigned op, unsigned reg, unsigned rm)
{
    op_reg(b, flags, op, reg, rm);
}

void jit_mov_rr(struct jit_buf *b, unsigned dst, unsigned src)
{
    op_reg(b, JIT_W, 0x89, src, dst);
}

void jit_mov_rr32(struct jit_buf *b, unsigned dst, unsigned src)
{
    op_reg(b, 0, 0x89, src, dst);
}

void jit_load(struct jit_buf *b, unsigned dst, struct jit_mem m)
{
    op_mem(b, JIT_W, 0x8b, dst, m);
}

void jit_store(struct jit_buf *b, struct jit_mem m, unsigned src)
{
    op_mem(b, JIT_W, 0x89, src, m);
}

void jit_load32(struct jit_buf *b, unsigned dst, struct jit_mem m)
{
    op_mem(b, 0, 0x8b, dst, m);
}

void jit_store32(struct jit_buf *b, struct jit_mem m, unsigned src)
{
    op_mem(b, 0, 0x89, src, m);
}

void jit_lea(struct jit_buf *b, unsigned dst, struct jit_mem m)
{
    op_mem(b, JIT_W, 0x8d, dst, m);
}

void jit_lea32(struct jit_buf *b, unsigned dst, struct jit_mem m)
{
    op_mem(b, 0, 0x8d, dst, m);
}

void jit_mov_ri(struct jit_buf *b, unsigned dst, uint64_t v)
{
    if (v <= UINT32_MAX) {
        uint8_t *p = b->p;

        if (!jit_room(b))
            return;
        if (dst & 8)
            *p++ = 0x41;
        *p++ = (uint8_t)(0xb8 | (dst & 7));
        b->p = put_32(p, (uint32_t)v);
    } else if ((int64_t)v == (int32_t)v) {
        jit_op_reg(b, JIT_W, 0xc7, 0, dst);
        jit_32(b, (uint32_t)v);
    } else {
        jit_8(b, dst & 8 ? 0x49 : 0x48);
        jit_8(b, 0xb8 | (dst & 7));
        jit_64(b, v);
    }
}

/* The last len bytes were such a place. */
static void note_rel(struct jit_buf *b, enum jit_rel_kind kind, unsigned len, uint32_t n)
{
    if (!b->rel || b->full)
        return;
    if (b->nr_rel == b->max_rel) {
        b->rel_lost = true;
        return;
    }
    b->rel[b->nr_rel++] = (struct jit_rel){(uint16_t)(b->p - b->start - len), (uint8_t)kind, n};
}

void jit_mov_link(struct jit_buf *b, unsigned dst, uint32_t first, uint32_t n)
{
    jit_mov_ri(b, dst, first + n);
    note_rel(b, JIT_REL_LINK, 4, n);
}

void jit_mov_host(struct jit_buf *b, unsigned dst, uint64_t addr)
{
    jit_8(b, dst & 8 ? 0x49 : 0x48);
    jit_8(b, 0xb8 | (dst & 7));
    jit_64(b, addr);
    note_rel(b, JIT_REL_HOST, 8, 0);
}

void jit_store8_imm(struct jit_buf *b, struct jit_mem m, unsigned v)
{
    jit_op_mem(b, 0, 0xc6, 0, m, 1);
    jit_8(b, v);
}

void jit_store32_imm(struct jit_buf *b, struct jit_mem m, uint32_t v)
{
    jit_op_mem(b, 0, 0xc7, 0, m, 4);
    jit_32(b, v);
}

void jit_cmp_imm(struct jit_buf *b, unsigned reg, int32_t v)
{
    bool small = v == (int8_t)v;

    jit_op_reg(b, JIT_W, small ? 0x83 : 0x81, 7, reg);
    if (small)
        jit_8(b, (uint8_t)v);
    else
        jit_32(b, (uint32_t)v);
}

/* VEX.LZ.F2.0F3A.W1 F0 /r ib */
void jit_rorx(struct jit_buf *b, unsigned dst, unsigned src, unsigned count)
{
    jit_8(b, 0xc4);
    jit_8(b, (dst & 8 ? 0u : 0x80u) | 0x40 | (src & 8 ? 0u : 0x20u) | 3);
    jit_8(b, 0xfb); /* W1, F2 */
    jit_8(b, 0xf0);
    jit_8(b, 0xc0 | (dst & 7) << 3 | (src & 7));
    jit_8(b, count);
}

/* VEX.LZ.F3.0F38.W1 F5 /r: PEXT dst, src, mask. */
void jit_pext_mem(struct jit_buf *b, unsigned dst, unsigned src, struct jit_mem m)
{
    if (m.gs)
        jit_8(b, 0x65);
    jit_8(b, 0xc4);
    jit_8(b, (dst & 8 ? 0u : 0x80u) | (m.index != JR_NONE && m.index & 8 ? 0u : 0x40u) |
                 (m.base != JR_NONE && m.base & 8 ? 0u : 0x20u) | 2);
    jit_8(b, 0x80 | (~src & 15) << 3 | 2);
    jit_8(b, 0xf5);
    jit_modrm_mem(b, dst, m);
}

void jit_evex(struct jit_buf *b, unsigned w, unsigned map, unsigned pp, unsigned l, unsigned reg, unsigned vvvv,
              unsigned rm)
{
    jit_8(b, 0x62);
    jit_8(b, (reg & 8 ? 0u : 0x80u) | (rm & 16 ? 0u : 0x40u) | (rm & 8 ? 0u : 0x20u) | (reg & 16 ? 0u : 0x10u) | map);
    jit_8(b, (w ? 0x80u : 0) | (~vvvv & 15u) << 3 | 4 | pp);
    jit_8(b, l << 5 | (vvvv & 16 ? 0u : 8u));
}

void jit_nops(struct jit_buf *b, unsigned n)
{
    static const uint8_t nop[8][JIT_MAX_INSN] = {
        {0},
        {0x90},
        {0x66, 0x90},
        {0x0f, 0x1f, 0x00},
        {0x0f, 0x1f, 0x40, 0x00},
        {0x0f, 0x1f, 0x44, 0x00, 0x00},
        {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
        {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},
    };

    jit_bytes(b, nop[n], n);
}

void jit_push(struct jit_buf *b, unsigned r)
{
    if (r & 8)
        jit_8(b, 0x41);
    jit_8(b, 0x50 | (r & 7));
}

void jit_pop(struct jit_buf *b, unsigned r)
{
    if (r & 8)
        jit_8(b, 0x41);
    jit_8(b, 0x58 | (r & 7));
}

void jit_push_mem(struct jit_buf *b, struct jit_mem m)
{
    jit_op_mem(b, 0, 0xff, 6, m, 0);
}

static void rel32(struct jit_buf *b, const void *target)
{
    const uint8_t *to = target, *start = b->start + b->delta;

    jit_32(b, (uint32_t)(to - (jit_here(b) + 4)));
    if (to < start || to >= b->end + b->delta)
        note_rel(b, JIT_REL_CODE, 4, 0);
}

void jit_jmp(struct jit_buf *b, const void *target)
{
    jit_8(b, 0xe9);
    rel32(b, target);
}

void jit_call(struct jit_buf *b, const void *target)
{
    jit_8(b, 0xe8);
    rel32(b, target);
}

void jit_jcc(struct jit_buf *b, unsigned cc, const void *target)
{
    jit_8(b, 0x0f);
    jit_8(b, 0x80 | cc);
    rel32(b, target);
}

void jit_jmp_mem(struct jit_buf *b, struct jit_mem m)
{
    jit_op_mem(b, 0, 0xff, 4, m, 0);
}

void jit_jmp_reg(struct jit_buf *b, unsigned r)
{
    jit_op_reg(b, 0, 0xff, 4, r);
}

uint8_t *jit_jmp_fwd(struct jit_buf *b)
{
    jit_8(b, 0xe9);
    jit_32(b, 0);
    return b->p - 4;
}

uint8_t *jit_jcc_fwd(struct jit_buf *b, unsigned cc)
{
    jit_8(b, 0x0f);
    jit_8(b, 0x80 | cc);
    jit_32(b, 0);
    return b->p - 4;
}

uint8_t *jit_jcc8_fwd(struct jit_buf *b, unsigned cc)
{
    jit_8(b, 0x70 | cc);
    jit_8(b, 0);
    return b->p - 1;
}

uint8_t *jit_loop_fwd(struct jit_buf *b)
{
    jit_8(b, 0xe2);
    jit_8(b, 0);
    return b->p - 1;
}

uint8_t *jit_jmp8_fwd(struct jit_buf *b)
{
    jit_8(b, 0xeb);
    jit_8(b, 0);
    return b->p - 1;
}

uint8_t *jit_jrcxz_fwd(struct jit_buf *b)
{
    jit_8(b, 0xe3);
    jit_8(b, 0);
    return b->p - 1;
}

void jit_patch32(struct jit_buf *b, uint8_t *at)
{
    if (jit_ok(b))
        put_le32(at, (uint32_t)(b->p - (at + 4)));
}

void jit_patch8(struct jit_buf *b, uint8_t *at)
{
    ptrdiff_t d = b->p - (at + 1);

    if (!jit_ok(b))
        return;
    assert(d >= 0 && d <= 127);
    *at = (uint8_t)d;
}
