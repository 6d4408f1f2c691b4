/* Rewriter: addresses and checked accesses. */
#include "guest/x86/rw_int.h"

unsigned rw_map(unsigned g)
{
    if (g == X86_RSP)
        return HSP;
    if (g >= 9 && g <= 11)
        return SPILLED | (g - 9);
    return g;
}

/* Can the rewriter form this operand's address? */
bool rw_mem_ok(const struct rw *r, const struct x86_insn *in)
{
    unsigned m = r->env->mode;

    if (in->adsz == 2 || (in->seg == X86_FS && !(m & X86_RWM_FS)) || (in->seg == X86_GS && !(m & X86_RWM_GS)))
        return false;
    if (!r->m64 && in->seg == X86_CS)
        return false;
    if (!in->has_modrm || (in->modrm >> 6) == 3) /* moffs is handled, implicit operands are not */
        return in->base == X86_NO_REG && in->index == X86_NO_REG && in->map == X86_MAP_1 && in->opcode >= 0xa0 &&
               in->opcode <= 0xa3;
    return true;
}

/* dst = base + index * scale + disp; dst is T0 (or a register the address does not use), T1 may be clobbered. */
static void address(struct rw *r, const struct x86_insn *in, unsigned dst, bool wide)
{
    unsigned base = in->base, index = in->index;
    struct jit_mem m = {JR_NONE, JR_NONE, in->scale ? in->scale : 1, false, (int32_t)in->disp};

    if (base == X86_REG_RIP || (base == X86_NO_REG && index == X86_NO_REG)) {
        uint64_t a = (uint64_t)in->disp + (base == X86_REG_RIP ? rw_pc(r, r->cur) + in->len : 0);

        jit_mov_ri(r->b, dst, wide ? a : (uint32_t)a);
        return;
    }
    if (base != X86_NO_REG) {
        unsigned h = rw_at(r, base);

        if (h & SPILLED) {
            rw_load_home(r, T0, h);
            h = T0;
        }
        m.base = (uint8_t)h;
    }
    if (index != X86_NO_REG) {
        unsigned h = rw_at(r, index);

        if (h & SPILLED) {
            unsigned t = m.base == T0 ? T1 : T0;

            rw_load_home(r, t, h);
            h = t;
        }
        m.index = (uint8_t)h;
    }
    if (wide)
        jit_lea(r->b, dst, m);
    else
        jit_lea32(r->b, dst, m);
}

bool rw_ea(struct rw *r, const struct x86_insn *in, unsigned dst)
{
    if (in->adsz == 2)
        return false;
    address(r, in, dst, in->adsz == 8);
    return true;
}

struct cold *rw_new_cold(struct rw *r, enum cold_kind k)
{
    if (r->nr_cold == MAX_COLD) {
        r->failed = true;
        return &r->cold[MAX_COLD];
    }
    r->cold[r->nr_cold] = (struct cold){.kind = k, .pending = -1};
    return &r->cold[r->nr_cold++];
}

static unsigned mask_index(unsigned size)
{
    unsigned n = 0;

    while ((1u << n) < size)
        n++;
    return n;
}

/* Where other accesses of user code have none, those to the stack share a few, which stay in the first-level cache. No
 * fewer than that: the checks of a block (MAX_COLD at most) must differ, since spans go on using what lies in theirs.
 */
enum { STACK_SLOTS = 512 };
_Static_assert(STACK_SLOTS / 2 > MAX_COLD, "two checks of a block would share a slot");

/* What a check is for: one access; one that later ones rely on; several, of which one alone might be refused. */
enum span_kind { SPAN_NONE, SPAN_ONE, SPAN_WIDE };

/* Slots are handed out again after a while, but never one of a load to a store: the load fills it with pages that may
 * only be read. */
static unsigned new_slot(struct rw *r, bool write, unsigned of)
{
    return (*r->env->next_slot)++ % (of / 2) * 2 + write;
}

/* Accesses by addresses known here have slots of their own, by page: all of a page share one, which stays what it is.
 */
static unsigned page_slot(uint64_t address, bool write)
{
    uint64_t page = address >> 12;

    return X86_SITE_SLOTS + (unsigned)((page ^ page >> 9) % ((X86_SLOTS - X86_SITE_SLOTS) / 2)) * 2 + write;
}

/* dst = minus the page the access should be in: from the slot, or by the address in T0 from the TLB. */
static void page_for(struct rw *r, unsigned dst, bool probe, bool write, int32_t slot)
{
    if (!probe) {
        jit_load(r->b, dst, JIT_GS(slot));
        return;
    }
    x86_rw_tlb_index(r->b, dst, T0);
    jit_load(r->b, dst, JIT_GSX(dst, 8, write ? X86_CTX(tlb[0].w) : X86_CTX(tlb[0].r)));
}

/* With LOOP what is usual jumps nowhere: the host has places for a few thousand jumps that are taken. */
uint8_t *rw_leave_unless_zero(struct rw *r, struct jit_mem sum, bool sum_is_1)
{
    bool bare = sum.index == JR_NONE && sum.base == JR_RCX;
    struct jit_buf *b = r->b;
    uint8_t *at, *from;

    if (!r->env->loop) {
        if (!bare || sum.disp)
            jit_lea(b, JR_RCX, sum);
        at = jit_jrcxz_fwd(b);
        from = jit_jmp_fwd(b);
        jit_patch8(b, at);
        jit_mov_rr(b, JR_RCX, T1);
        return from;
    }
    sum.disp += !sum_is_1;
    if (!bare || sum.disp)
        jit_lea(b, JR_RCX, sum);
    at = jit_loop_fwd(b);
    jit_mov_rr(b, JR_RCX, T1);
    rw_hide_jmp(r);
    jit_patch8(b, at);
    return jit_jmp_fwd(b);
}

/* A check that keeps flags: RCX = bits of the offset that must be zero, in T1 its own value. The address is in T0, or
 * with c->make_t0 where. Aligned accesses of a power of two lie in one page with their first byte; of others the last
 * byte is looked at too. Where RCX becomes zero in the end, LOOP wants 1: an aligned address plus 1 gives that by
 * itself. Returns with RCX restored and still in T1. */
static void flagless(struct rw *r, struct cold *c, struct jit_mem where, unsigned size, bool probe, int32_t slot)
{
    bool two = size > 16 || (size & (size - 1));
    struct jit_mem bits = JIT_GS(X86_CTX(mask) + 8 * (int)(two ? 0 : mask_index(size))), last;
    bool one = r->env->loop && !two && size > 1 && where.disp < INT32_MAX;
    struct jit_buf *b = r->b;
    uint8_t *hit;

    jit_mov_rr(b, T1, JR_RCX);
    if (c->make_t0 && (probe || where.base == JR_RCX)) {
        jit_lea(b, T0, where);
        where = JIT_BASE(T0, 0);
        c->make_t0 = false;
    }
    page_for(r, JR_RCX, probe, c->write, slot);
    where.index = JR_RCX;
    if (r->known) {
        where.disp = -(int32_t)(r->known_at & 4095);
        c->from = rw_leave_unless_zero(r, where, false);
        c->rcx_in_t1 = true;
        return;
    }
    if (two && !c->make_t0) { /* T0 is taken */
        jit_store(b, JIT_GS(X86_CTX(check)), JR_RCX);
        last = where;
        last.disp += (int32_t)size - 1;
        jit_lea(b, JR_RCX, last);
        jit_pext_mem(b, JR_RCX, JR_RCX, bits);
        hit = jit_jrcxz_fwd(b);
        c->from2 = jit_jmp_fwd(b);
        jit_patch8(b, hit);
        jit_load(b, JR_RCX, JIT_GS(X86_CTX(check)));
    } else if (two) {
        last = where;
        last.disp += (int32_t)size - 1;
        jit_lea(b, T0, last);
        jit_pext_mem(b, T0, T0, bits);
    }
    where.disp += one;
    jit_lea(b, JR_RCX, where);
    jit_pext_mem(b, JR_RCX, JR_RCX, bits);
    c->from = rw_leave_unless_zero(
        r, two && c->make_t0 ? JIT_SUM(JR_RCX, T0) /* of 52 bits each */ : JIT_BASE(JR_RCX, 0), one);
    c->rcx_in_t1 = true;
}

static void check_flagless(struct rw *r, struct cold *c, struct jit_mem where, unsigned size, bool probe, int32_t slot)
{
    struct jit_buf *b = r->b;

    flagless(r, c, where, size, probe, slot);
    if (probe) {
        x86_rw_tlb_index(b, JR_RCX, T0);
        jit_load(b, JR_RCX, JIT_GSX(JR_RCX, 8, X86_CTX(tlb[0].add)));
        jit_op_reg(b, JIT_W, 0x87, JR_RCX, T1); /* xchg */
    } else {
        jit_load(b, T1, JIT_GS(slot + 8));
    }
}

/* A check by the TLB. bare: the address is where, and T0 may be used; else it is in T0. T1 = the addend. */
static void probe_tlb(struct rw *r, struct cold *c, bool bare, struct jit_mem where, unsigned size)
{
    unsigned at = bare ? T0 : T1;
    struct jit_mem sum = bare ? where : JIT_BASE(T0, 0);
    struct jit_buf *b = r->b;

    if (bare && where.disp)
        jit_lea(b, T0, where);
    x86_rw_tlb_offset(b, at, bare && !where.disp ? where.base : T0);
    jit_load(b, T1, JIT_GSX(at, 1, c->write ? X86_CTX(tlb[0].w) : X86_CTX(tlb[0].r)));
    sum.index = T1;
    jit_lea(b, T1, sum);
    jit_cmp_imm(b, T1, 4096 - (int)size);
    c->from = jit_jcc_fwd(b, JCC_A);
    if (!bare)
        x86_rw_tlb_offset(b, T1, T0);
    jit_load(b, T1, JIT_GSX(at, 1, X86_CTX(tlb[0].add)));
}

/* The check proper. where.base set: the address is where (a pinned register plus displacement) and T0 stays free; else
 * the address is in T0 already. Leaves the addend in T1. *add: set to where the context holds it from now on. */
static struct jit_mem check(struct rw *r, bool bare, struct jit_mem where, unsigned size, bool write,
                            enum span_kind span, int32_t *add)
{
    bool fast = r->env->tier2 || r->env->slots || !(r->env->mode & X86_RWM_USER), stack = bare && where.base == HSP;
    unsigned slot = r->known ? page_slot(r->known_at, write)
                             : new_slot(r, write, !fast && stack ? STACK_SLOTS : r->env->nr_slots),
             hot = x86_hot_bit(r->env->place + r->out->guest_off[r->cur]);
    struct jit_buf *b = r->b;
    int32_t at = X86_CTX(slot) + (int)(slot * sizeof(struct x86_slot));
    struct jit_mem sum = bare ? where : JIT_BASE(T0, 0);
    struct cold *c = rw_new_cold(r, COLD_MEM);
    bool probe = (!fast && !stack && !r->known) || (r->env->hot && r->env->hot[hot / 8] >> (hot & 7) & 1);

    c->write = write;
    c->keep_flags = rw_flags_live(r);
    c->pending = r->pending;
    c->moved = r->moved;
    c->make_t0 = bare;
    c->addr = where;
    c->info = x86_rw_info(slot, size, r->cur) | (span == SPAN_WIDE ? X86_RWI_SPAN : 0) |
              (span == SPAN_NONE && r->once && !write ? X86_RWI_LOAD : 0);
    if (c->keep_flags) {
        check_flagless(r, c, sum, size, probe, at);
    } else if (probe) {
        probe_tlb(r, c, bare, where, size);
    } else {
        jit_load(b, T1, JIT_GS(at));
        sum.index = T1;
        jit_lea(b, T1, sum);
        jit_cmp_imm(b, T1, 4096 - (int)size);
        c->from = jit_jcc_fwd(b, JCC_A);
        jit_load(b, T1, JIT_GS(at + 8));
    }
    c->op = jit_here(b);
    if (span != SPAN_NONE && probe)
        jit_store(b, JIT_GS(*add), T1);
    else
        *add = at + 8;
    if (bare) {
        where.index = T1;
        return where;
    }
    return JIT_SUM(T0, T1);
}

/* [base + disp] of 64-bit code, base pinned: behind a check made before, or with one made now. */
static struct jit_mem by_base(struct rw *r, unsigned base, int32_t disp, unsigned size, bool write)
{
    struct jit_mem m = JIT_BASE(base, disp);
    struct rw_span *s;
    int32_t add;

    if (r->env->mode & (X86_RWM_SPLIT | X86_RWM_ONE))
        return check(r, true, m, size, write, SPAN_NONE, &add);
    s = rw_span_find(r, base, disp, size, write);
    if (!s) {
        s = rw_span_new(r, base, disp, size, write);
        s->add = X86_CTX(span_add) + 8 * (int)(s - r->span);
        check(r, true, JIT_BASE(base, s->lo), (unsigned)(s->hi - s->lo), s->write,
              s->hi - s->lo != (int32_t)size || s->write != write || (base == HSP && size > 8) ? SPAN_WIDE
              : s->shared                                                                      ? SPAN_ONE
                                                                                               : SPAN_NONE,
              &s->add);
    } else if (r->t1 != s->add) {
        jit_load(r->b, T1, JIT_GS(s->add));
    }
    r->t1 = s->add;
    m.index = T1;
    return m;
}

struct jit_mem rw_stack(struct rw *r, unsigned base, int32_t disp, unsigned size, bool write, bool *t0_free)
{
    int32_t add;

    *t0_free = r->m64;
    if (r->flat) {
        *t0_free = true;
        return JIT_BASE(base, base == HSP ? disp + r->sp : disp);
    }
    if (r->m64)
        return by_base(r, base, disp, size, write);
    jit_lea32(r->b, T0, JIT_BASE(base, disp));
    return check(r, false, JIT_BASE(T0, 0), size, write, SPAN_NONE, &add);
}

struct jit_mem rw_at_reg(struct rw *r, unsigned reg, unsigned size, bool write)
{
    int32_t add;

    return check(r, true, JIT_BASE(reg, 0), size, write, SPAN_NONE, &add);
}

unsigned rw_scratch(struct rw *r, struct jit_mem *m, bool t0_free)
{
    if (t0_free)
        return T0;
    r->t1 = 0;
    if (r->a32)
        jit_lea32(r->b, T0, *m);
    else
        jit_lea(r->b, T0, *m);
    r->a32 = false;
    *m = JIT_BASE(T0, 0);
    return T1;
}

/* T0 = linear address of the memory operand; T1 is lost. */
void rw_address(struct rw *r, const struct x86_insn *in)
{
    if (in->has_modrm && (in->modrm >> 6) != 3)
        address(r, in, T0, in->adsz == 8);
    else
        jit_mov_ri(r->b, T0, r->m64 ? (uint64_t)in->disp : (uint32_t)in->disp);
    if (in->seg == X86_FS || in->seg == X86_GS) {
        jit_load(r->b, T1, JIT_GS(X86_CTX(seg_base) + 8 * in->seg));
        if (r->m64)
            jit_lea(r->b, T0, JIT_SUM(T0, T1));
        else
            jit_lea32(r->b, T0, JIT_SUM(T0, T1));
    }
}

struct jit_mem rw_at_t0(struct rw *r, unsigned size, bool write)
{
    int32_t add;

    return check(r, false, JIT_BASE(T0, 0), size, write, SPAN_NONE, &add);
}

static void note_known(struct rw *r, const struct x86_insn *in, unsigned size)
{
    uint64_t a = (uint64_t)in->disp + (in->base == X86_REG_RIP ? rw_pc(r, r->cur) + in->len : 0);

    r->known_at = a;
    r->known = r->m64 && in->adsz == 8 && (a & 4095) + size <= 4096 &&
               (in->base == X86_REG_RIP || (in->base == X86_NO_REG && in->index == X86_NO_REG));
}

struct jit_mem rw_access(struct rw *r, const struct x86_insn *in, unsigned size, bool write, bool *t0_free)
{
    bool based = in->seg == X86_FS || in->seg == X86_GS;
    unsigned base = in->base < 16 ? rw_map(in->base) : SPILLED;
    struct jit_mem m;

    if (r->flat)
        return rw_flat_access(r, in, t0_free);
    if (r->loop) {
        *t0_free = false;
        return rw_loop_access(r, in);
    }
    if (r->m64 && in->adsz == 8 && !based && in->index == X86_NO_REG && !(base & SPILLED)) {
        *t0_free = true;
        return by_base(r, base, (int32_t)in->disp, size, write);
    }
    *t0_free = false;
    r->t1 = 0;
    rw_address(r, in);
    if (!based)
        note_known(r, in, size);
    m = rw_at_t0(r, size, write);
    r->known = false;
    return m;
}

/* After the body: what the rare paths need. */
void rw_cold(struct rw *r)
{
    struct jit_buf *b = r->b;

    for (unsigned i = 0; i < r->nr_cold; i++) {
        struct cold *c = &r->cold[i];

        if (c->from)
            jit_patch32(b, c->from);
        if (c->from2)
            jit_patch32(b, c->from2);
        if (c->kind == COLD_OUT) {
            rw_keep_cold(r, c);
            continue;
        }
        if (c->kind >= COLD_ASIDE) {
            rw_leaf_cold(r, c);
            continue;
        }
        if (c->kind == COLD_LINK) {
            r->out->link[c->link].stub = (uint32_t)(b->p - b->start);
            if (r->out->link[c->link].inner)
                rw_keep_out(r);
            jit_call(b, r->env->stubs->exit_link);
            continue;
        }
        if (c->kind == COLD_CALL) {
            jit_mov_rr(b, JR_RCX, T1);
            if (!r->flat) {
                rw_exit_interp(r, rw_pc(r, c->info));
                continue;
            }
            jit_call(b, r->env->stubs->exit_dispatch);
            jit_jmp(b, c->op);
            continue;
        }
        if (c->rcx_in_t1)
            jit_mov_rr(b, JR_RCX, T1);
        if (c->kind == COLD_WIDE) {
            jit_call(b, r->env->stubs->load_wide);
            jit_jmp(b, c->op);
            continue;
        }
        if (c->kind == COLD_GUARD) {
            jit_mov_ri(b, T0, r->env->pc);
            jit_jmp(b, r->env->stubs->exit_dispatch);
            continue;
        }
        if (c->pending >= 0)
            rw_make_flags(r, (unsigned)c->pending, c->moved, T1);
        if (c->make_t0)
            jit_lea(b, T0, c->addr);
        jit_mov_ri(b, T1, c->info);
        if (c->keep_flags || c->pending >= 0)
            jit_call(b, c->write ? r->env->stubs->tlb_write : r->env->stubs->tlb_read);
        else
            jit_call(b, c->write ? r->env->stubs->tlb_write_lost : r->env->stubs->tlb_read_lost);
        jit_jmp(b, c->op);
        if (c->info & X86_RWI_SPAN) { /* where the stub returns to when the span crosses a page */
            unsigned insn = c->info >> 24 & (JIT_BLOCK_MAX_INSN - 1), n = r->out->nr_links;

            rw_link_jmp(r, rw_pc(r, insn), JIT_LINK_CONT, 0);
            if (n < JIT_BLOCK_MAX_LINKS)
                r->out->link[n].mode_or = X86_RWM_SPLIT;
        }
    }
}

uint32_t rw_poll(struct rw *r)
{
    uint32_t at;

    if (r->flat)
        return 0;
    r->t1 = 0;
    jit_load(r->b, T1, JIT_GS(X86_CTX(poll)));
    at = (uint32_t)(r->b->p - r->b->start);
    jit_load(r->b, T1, JIT_BASE(T1, 0));
    return at;
}

static const uint8_t nop[][5] = {
    {0}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}, {0x0f, 0x1f, 0x40, 0x00}, {0x0f, 0x1f, 0x44, 0x00, 0x00}};

static void put_nop(struct rw *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        jit_8(r->b, nop[n][i]);
}

/* A displacement that is patched while others run it must not straddle 8 bytes. */
static void align_link(struct rw *r, bool jcc)
{
    unsigned at = ((uintptr_t)r->b->p + (jcc ? 2 : 1)) % 8, n = at > 4 ? 8 - at : 0;
    uint8_t *to = jcc && r->join_at && r->join_insn == r->cur ? r->join_at : r->b->p;
    size_t len = (size_t)(r->b->p - to);

    put_nop(r, n);
    if (!len || !jit_ok(r->b))
        return;
    memmove(to + n, to, len);
    memcpy(to, nop[n], n);
    r->out->host_off[r->cur] = (uint16_t)(r->out->host_off[r->cur] + n);
}

struct jit_link_out *rw_new_link(struct rw *r, uint64_t target, enum jit_link_kind kind)
{
    unsigned n = r->out->nr_links;

    if (n == JIT_BLOCK_MAX_LINKS) {
        r->failed = true;
        return NULL;
    }
    r->out->nr_links++;
    r->out->link[n] = (struct jit_link_out){.target = target, .kind = kind, .poll_pc = target};
    return &r->out->link[n];
}

static void link_here(struct rw *r, struct jit_link_out *l)
{
    struct cold *c;

    l->at = (uint32_t)(r->b->p - r->b->start - 4);
    if (l->kind == JIT_LINK_CALL) {
        l->stub = JIT_STUB_CALL;
        return;
    }
    c = rw_new_cold(r, COLD_LINK);
    c->from = r->b->p - 4;
    c->link = (unsigned)(l - r->out->link);
}

void rw_goes_on(struct rw *r, uint64_t ret, const uint8_t *at, unsigned dead)
{
    struct jit_link_out *l = rw_new_link(r, ret, JIT_LINK_CONT);

    if (!l)
        return;
    l->at = (uint32_t)(at - r->b->start);
    l->mode_or = JIT_DEAD_BYTE | dead;
}

/* A patchable jump or call; unlinked it reaches the runtime by a cold stub, or by being a call. */
void rw_link_jmp(struct rw *r, uint64_t target, enum jit_link_kind kind, unsigned cc)
{
    struct jit_link_out *l = rw_new_link(r, target, kind);

    if (!l)
        return;
    if (kind == JIT_LINK_JMP && target <= rw_pc(r, r->cur)) /* a way back: where a loop can be interrupted */
        l->poll = rw_poll(r);
    align_link(r, kind == JIT_LINK_JCC);
    if (kind == JIT_LINK_JCC) {
        jit_8(r->b, 0x0f);
        jit_8(r->b, 0x80 | cc);
    } else {
        jit_8(r->b, kind == JIT_LINK_CALL ? 0xe8 : 0xe9);
    }
    jit_32(r->b, 0);
    link_here(r, l);
}
