/* Rewriter: one check for several accesses near each other (64-bit code).
 *
 * Accesses of a block by one base register with constant displacements mostly lie in one page. The first of them looks
 * ahead, is checked for the whole span from the lowest byte to the highest, and the others only load the addend again.
 * Stack accesses are all checked as stores; elsewhere a span that starts with a load is checked as a store where one is
 * sure to follow, else it takes loads only, since a page may be readable only. A span that runs over the end of a page
 * fails its check although each access may be fine: the code goes on in a variant of the block that merges nothing
 * (X86_RWM_SPLIT). */
#include "guest/x86/ops.h"
#include "guest/x86/rw_int.h"

enum { MAX_SPAN = 248 /* bytes: fits the size field of a check */ };

static bool is_mem(const struct x86_insn *in)
{
    return in->mem_op >= 0 && in->has_modrm && (in->modrm >> 6) != 3;
}

bool rw_rsp_change(const struct x86_insn *in, int32_t *by)
{
    unsigned digit = in->modrm >> 3 & 7;
    bool on_rsp = in->has_modrm && (in->modrm >> 6) == 3 && (in->modrm & 7) == 4 && !(in->rex & 1);

    *by = 0;
    if (in->enc != X86_ENC_LEGACY || in->map != X86_MAP_1 || in->opsize_pfx)
        return false;
    switch (in->opcode) {
    case 0x50 ... 0x57:
    case 0x68:
    case 0x6a:
        *by = -8;
        return true;
    case 0x58 ... 0x5b:
    case 0x5d ... 0x5f:
        *by = 8;
        return true;
    case 0x5c: /* POP RSP; POP R12 */
        *by = 8;
        return in->rex & 1;
    case 0x81:
    case 0x83:
        if (!on_rsp || in->opsz != 8 || (digit != 0 && digit != 5))
            return false;
        *by = (int32_t)(digit ? -(int64_t)in->imm : (int64_t)in->imm);
        return true;
    case 0x8d:
        if (in->opsz != 8 || in->base != X86_RSP || in->index != X86_NO_REG || in->ops[0].reg != X86_RSP)
            return false;
        *by = (int32_t)in->disp;
        return true;
    default:
        return false;
    }
}

uint32_t rw_writes(const struct x86_insn *in)
{
    uint32_t m = in->row->gpr_w;

    for (unsigned i = 0; i < in->nr_ops; i++)
        if (in->ops[i].kind == X86_OP_GPR && in->ops[i].acc & X86_ACC_W)
            m |= 1u << (in->ops[i].high8 ? in->ops[i].reg & 3 : in->ops[i].reg);
    if (in->row->attr & X86_A_STACK)
        m |= 1u << X86_RSP;
    if (in->row->attr & X86_A_STRING)
        m |= 1u << X86_RSI | 1u << X86_RDI | 1u << X86_RCX | 1u << X86_RAX;
    return m;
}

/* The bytes relative to base that the instruction accesses; 0 = none this way. */
static unsigned accesses(const struct rw *r, const struct x86_insn *in, unsigned base, int32_t *disp, bool *write)
{
    if (base == X86_RSP && in->enc == X86_ENC_LEGACY && in->map == X86_MAP_1 && !in->opsize_pfx) {
        *write = (in->opcode & 0xf8) == 0x50 || in->opcode == 0xe8 || in->opcode == 0x68 || in->opcode == 0x6a;
        *disp = *write ? -8 : 0;
        if (*write || (in->opcode & 0xf8) == 0x58 || in->opcode == 0xc3)
            return 8;
    }
    if (!is_mem(in) || in->base != base || in->index != X86_NO_REG || in->adsz != 8 || in->seg == X86_FS ||
        in->seg == X86_GS || in->row->attr & X86_A_NOP_MEM)
        return 0;
    *disp = (int32_t)in->disp;
    *write = in->ops[in->mem_op].acc & X86_ACC_W;
    return in->mem_size <= 64 ? in->mem_size : 0;
}

/* Grows the span by what follows, up to what moves the base, leaves the block, or would make it too long. */
static void look_ahead(const struct rw *r, struct rw_span *s, unsigned guest)
{
    int32_t delta = 0;

    for (unsigned i = r->cur; i < r->nr; i++) {
        const struct x86_insn *in = &r->in[i];
        int32_t disp, by, lo, hi;
        bool write;
        unsigned n = rw_is_sys(r, in) ? 0 : accesses(r, in, guest, &disp, &write);

        lo = n ? (int32_t)min_i64(s->lo, disp + delta) : s->lo;
        hi = n ? (int32_t)max_i64(s->hi, disp + delta + (int32_t)n) : s->hi;
        if (n && (s->write || !write) && (int64_t)hi - lo <= MAX_SPAN) {
            s->lo = lo;
            s->hi = hi;
            s->shared |= i > r->cur;
        }
        if (in->found & RW_ENDS && !(in->found & RW_COND)) /* a call: rw_span_forget */
            return;
        if (!(rw_writes(in) >> guest & 1))
            continue;
        if (guest != X86_RSP || rw_is_sys(r, in) || !rw_rsp_change(in, &by) || by > 4096 || by < -4096)
            return;
        delta += by;
        if (delta > 65536 || delta < -65536)
            return;
    }
}

/* Is [base + disp] loaded only to be stored to, there or near it, with no way out of the block between? */
static bool store_follows(const struct rw *r, unsigned guest, int32_t disp)
{
    for (unsigned i = r->cur + 1; i < r->nr; i++) {
        const struct x86_insn *in = &r->in[i];
        int32_t at;
        bool write;

        if (in->found & RW_ENDS || rw_is_sys(r, in))
            return false;
        if (accesses(r, in, guest, &at, &write) && write && at - (int64_t)disp < MAX_SPAN / 2 &&
            (int64_t)disp - at < MAX_SPAN / 2)
            return true;
        if (rw_writes(in) >> guest & 1)
            return false;
    }
    return false;
}

struct rw_span *rw_span_find(struct rw *r, unsigned base, int32_t disp, unsigned size, bool write)
{
    for (unsigned i = 0; i < ARRAY_LEN(r->span); i++) {
        struct rw_span *s = &r->span[i];

        if (s->valid && s->base == base && disp >= s->lo && disp + (int64_t)size <= s->hi && (s->write || !write))
            return s;
    }
    return NULL;
}

struct rw_span *rw_span_new(struct rw *r, unsigned base, int32_t disp, unsigned size, bool write)
{
    unsigned guest = base == JR_R9 ? X86_RSP : base;
    struct rw_span *s = &r->span[r->next_span++ % ARRAY_LEN(r->span)];

    *s = (struct rw_span){.valid = true,
                          .write = write || guest == X86_RSP || store_follows(r, guest, disp),
                          .base = (uint8_t)base,
                          .lo = disp,
                          .hi = disp + (int32_t)size};
    look_ahead(r, s, guest);
    s->valid = s->shared;
    if (!s->shared)
        s->write = write;
    return s;
}

static bool any_valid(const struct rw *r)
{
    bool any = false;

    for (unsigned i = 0; i < ARRAY_LEN(r->span); i++)
        any |= r->span[i].valid;
    return any;
}

void rw_span_forget(struct rw *r)
{
    for (unsigned i = 0; i < ARRAY_LEN(r->span); i++)
        r->span[i].valid = false;
    r->t1 = 0;
}

void rw_span_after(struct rw *r, const struct x86_insn *in)
{
    uint32_t w;
    int32_t by;

    if (!any_valid(r))
        return;
    w = rw_writes(in);
    for (unsigned i = 0; i < ARRAY_LEN(r->span); i++) {
        struct rw_span *s = &r->span[i];
        unsigned guest = s->base == JR_R9 ? X86_RSP : s->base;

        if (!s->valid || !(w >> guest & 1))
            continue;
        if (guest == X86_RSP && !rw_is_sys(r, in) && rw_rsp_change(in, &by) && by <= 4096 && by >= -4096) {
            s->lo -= by;
            s->hi -= by;
        } else {
            s->valid = false;
        }
    }
}
