/* Raising and delivering exceptions and interrupts.
 *
 * After the Intel SDM vol. 3 chapter 6 and the AMD APM vol. 2 chapter 8. A fault while one is delivered becomes a
 * double fault by table 6-5; a third ends in shutdown. */
#include "base/log.h"
#include "guest/x86/x86_int.h"

static NORETURN void leave(struct x86_cpu *c)
{
    assert(c->fault_jmp);
    siglongjmp(*c->fault_jmp, 1);
}

void x86_raise(struct x86_cpu *c, int vec)
{
    c->exc.vec = (uint8_t)vec;
    c->exc.has_err = false;
    c->exc.err = 0;
    leave(c);
}

void x86_raise_err(struct x86_cpu *c, int vec, uint32_t err)
{
    c->exc.vec = (uint8_t)vec;
    c->exc.has_err = true;
    c->exc.err = err;
    leave(c);
}

void x86_raise_pf(struct x86_cpu *c, uint64_t lin, uint32_t err)
{
    c->exc.cr2 = lin;
    x86_raise_err(c, X86_PGF, err);
}

/* One event on its way to a handler. */
struct event {
    int vec;
    bool has_err, is_int, ext;
    uint32_t err;
    uint64_t ret; /* rip to push */
};

static uint32_t err_of(const struct event *e, uint32_t sel_or_vec, bool idt)
{
    return (sel_or_vec & ~3u) | (idt ? 2u : 0u) | (e->ext || !e->is_int ? 1u : 0u);
}

static bool is_fault(const struct event *e)
{
    return !e->is_int && !e->ext && e->vec != X86_DB && e->vec != X86_BP && e->vec != X86_VEC_OF &&
           e->vec != X86_VEC_NMI;
}

static void deliver_real(struct x86_cpu *c, const struct event *e)
{
    uint32_t at = (uint32_t)e->vec * 4, v;

    if (at + 3 > c->idt.limit)
        x86_raise(c, X86_GP);
    v = (uint32_t)x86_ld_sys(c, c->idt.base + at, 4);
    x86_push(c, 2, c->rflags & 0xffff);
    x86_push(c, 2, c->seg[X86_CS].sel);
    x86_push(c, 2, e->ret);
    c->rflags &= ~(uint64_t)(X86_IF | X86_TF | X86_AC | X86_RF);
    x86_seg_real(c, X86_CS, (uint16_t)(v >> 16));
    c->rip = v & 0xffff;
    x86_update_mode(c);
}

/* ---- long mode ---- */

static uint64_t tss64_stack(struct x86_cpu *c, unsigned off, const struct event *e)
{
    uint64_t sp;

    if (off + 7 > c->seg[X86_TR].limit)
        x86_raise_err(c, X86_TS, err_of(e, c->seg[X86_TR].sel, false));
    sp = x86_ld_sys(c, c->seg[X86_TR].base + off, 8);
    if (!x86_canonical(c, sp))
        x86_raise_err(c, X86_VEC_SS, 0);
    return sp;
}

static void push_to(struct x86_cpu *c, uint64_t *sp, unsigned size, uint64_t v, bool user, uint64_t base, uint32_t mask)
{
    *sp -= size;
    if (mask)
        *sp = (*sp & ~(uint64_t)mask) | (*sp & mask);
    if (user)
        x86_st(c, base + *sp, size, v);
    else
        x86_st_sys(c, base + *sp, size, v);
}

static void deliver_long(struct x86_cpu *c, const struct event *e)
{
    uint64_t at = c->idt.base + (uint64_t)e->vec * 16, lo, off, sp, flags = c->rflags;
    uint32_t vec_err = err_of(e, (uint32_t)e->vec << 3, true), gate;
    unsigned type, ist, dpl, cpl = c->cpl;
    struct x86_desc d;
    struct x86_seg cs;
    uint16_t sel;

    if ((uint32_t)e->vec * 16 + 15 > c->idt.limit)
        x86_raise_err(c, X86_GP, vec_err);
    lo = x86_ld_sys(c, at, 8);
    gate = (uint32_t)(lo >> 32);
    type = gate >> 8 & 0x1f;
    if (type != 0xe && type != 0xf)
        x86_raise_err(c, X86_GP, vec_err);
    if (e->is_int && x86_desc_dpl(gate) < cpl)
        x86_raise_err(c, X86_GP, vec_err);
    if (!(gate & X86_SEG_P))
        x86_raise_err(c, X86_NP, vec_err);
    off = (lo & 0xffff) | (gate & 0xffff0000) | x86_ld_sys(c, at + 8, 4) << 32;
    sel = (uint16_t)(lo >> 16);
    ist = gate & 7;
    if (!x86_desc_read(c, sel, &d))
        x86_raise_err(c, X86_GP, err_of(e, sel & ~3u, false));
    dpl = x86_desc_dpl(d.hi);
    if ((d.hi & (X86_SEG_S | X86_SEG_CODE)) != (X86_SEG_S | X86_SEG_CODE) || dpl > cpl)
        x86_raise_err(c, X86_GP, err_of(e, sel & ~3u, false));
    if (!(d.hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, err_of(e, sel & ~3u, false));
    if (!(d.hi & X86_SEG_L) || d.hi & X86_SEG_DB)
        x86_raise_err(c, X86_GP, err_of(e, sel & ~3u, false));
    if (d.hi & X86_SEG_C)
        dpl = cpl;
    if (ist)
        sp = tss64_stack(c, 36 + (ist - 1) * 8, e);
    else if (dpl < cpl)
        sp = tss64_stack(c, 4 + dpl * 8, e);
    else
        sp = c->regs[X86_RSP];
    sp &= ~UINT64_C(15);
    if (is_fault(e))
        flags |= X86_RF;
    push_to(c, &sp, 8, c->seg[X86_SS].sel, dpl == 3, 0, 0);
    push_to(c, &sp, 8, c->regs[X86_RSP], dpl == 3, 0, 0);
    push_to(c, &sp, 8, flags, dpl == 3, 0, 0);
    push_to(c, &sp, 8, c->seg[X86_CS].sel, dpl == 3, 0, 0);
    push_to(c, &sp, 8, e->ret, dpl == 3, 0, 0);
    if (e->has_err)
        push_to(c, &sp, 8, e->err, dpl == 3, 0, 0);
    x86_desc_mark(c, &d, X86_SEG_A);
    x86_desc_seg(&d, (uint16_t)((sel & ~3u) | dpl), &cs);
    c->seg[X86_CS] = cs;
    if (dpl < cpl)
        c->seg[X86_SS] = (struct x86_seg){.sel = (uint16_t)dpl, .flags = dpl << X86_SEG_DPL_SHIFT};
    c->cpl = (uint8_t)dpl;
    c->regs[X86_RSP] = sp;
    c->rip = off;
    c->rflags &= ~(uint64_t)(X86_TF | X86_NT | X86_VM | X86_RF);
    if (type == 0xe)
        c->rflags &= ~(uint64_t)X86_IF;
    x86_update_mode(c);
}

/* ---- 16- and 32-bit protected mode ---- */

struct stack {
    struct x86_seg ss;
    uint64_t sp;
    uint32_t mask;
    bool user;
};

static void stack_push(struct x86_cpu *c, struct stack *s, unsigned size, uint32_t v)
{
    uint32_t sp = ((uint32_t)s->sp - size) & s->mask;

    s->sp = (s->sp & ~(uint64_t)s->mask) | sp;
    if (s->user)
        x86_st(c, (uint32_t)(s->ss.base + sp), size, v);
    else
        x86_st_sys(c, (uint32_t)(s->ss.base + sp), size, v);
}

static void same_stack(struct x86_cpu *c, struct stack *s)
{
    s->ss = c->seg[X86_SS];
    s->sp = c->regs[X86_RSP];
    s->mask = s->ss.flags & X86_SEG_DB ? UINT32_MAX : 0xffff;
    s->user = c->cpl == 3;
}

static void inner_stack(struct x86_cpu *c, unsigned dpl, struct stack *s, const struct event *e)
{
    const struct x86_seg *tr = &c->seg[X86_TR];
    bool wide = tr->flags >> 8 & 8;
    uint32_t off = wide ? 4 + dpl * 8 : 2 + dpl * 4, ts = err_of(e, tr->sel, false);
    struct x86_desc d;
    uint16_t sel;

    if (off + (wide ? 5u : 3u) > tr->limit)
        x86_raise_err(c, X86_TS, ts);
    s->sp = x86_ld_sys(c, tr->base + off, wide ? 4 : 2);
    sel = (uint16_t)x86_ld_sys(c, tr->base + off + (wide ? 4 : 2), 2);
    ts = err_of(e, sel & ~3u, false);
    if (!x86_desc_read(c, sel, &d) || (sel & 3u) != dpl || x86_desc_dpl(d.hi) != dpl ||
        (d.hi & (X86_SEG_S | X86_SEG_CODE | X86_SEG_W)) != (X86_SEG_S | X86_SEG_W))
        x86_raise_err(c, X86_TS, ts);
    if (!(d.hi & X86_SEG_P))
        x86_raise_err(c, X86_VEC_SS, ts);
    x86_desc_mark(c, &d, X86_SEG_A);
    x86_desc_seg(&d, sel, &s->ss);
    s->mask = d.hi & X86_SEG_DB ? UINT32_MAX : 0xffff;
    s->user = false;
}

static void deliver_task(struct x86_cpu *c, const struct event *e, uint16_t sel)
{
    x86_task_switch(c, sel, X86_TASK_GATE, e->ret, e->has_err, e->err);
}

static void push_frame(struct x86_cpu *c, const struct event *e, struct stack *s, unsigned n, bool changed, bool v86)
{
    uint32_t flags = (uint32_t)c->rflags | (is_fault(e) ? X86_RF : 0);

    if (v86) {
        stack_push(c, s, n, c->seg[X86_GS].sel);
        stack_push(c, s, n, c->seg[X86_FS].sel);
        stack_push(c, s, n, c->seg[X86_DS].sel);
        stack_push(c, s, n, c->seg[X86_ES].sel);
    }
    if (changed) {
        stack_push(c, s, n, c->seg[X86_SS].sel);
        stack_push(c, s, n, (uint32_t)c->regs[X86_RSP]);
    }
    stack_push(c, s, n, flags);
    stack_push(c, s, n, c->seg[X86_CS].sel);
    stack_push(c, s, n, (uint32_t)e->ret);
    if (e->has_err)
        stack_push(c, s, n, e->err);
}

static void deliver_prot(struct x86_cpu *c, const struct event *e)
{
    uint32_t vec_err = err_of(e, (uint32_t)e->vec << 3, true), lo, gate, off;
    unsigned type, dpl, cpl = c->cpl, n;
    bool v86 = x86_v86(c), changed;
    struct stack s;
    struct x86_desc d;
    uint16_t sel;

    if ((uint32_t)e->vec * 8 + 7 > c->idt.limit)
        x86_raise_err(c, X86_GP, vec_err);
    lo = (uint32_t)x86_ld_sys(c, c->idt.base + (uint32_t)e->vec * 8, 4);
    gate = (uint32_t)x86_ld_sys(c, c->idt.base + (uint32_t)e->vec * 8 + 4, 4);
    type = gate >> 8 & 0x1f;
    if (type != 5 && (type & ~9u) != 6) /* task gate; 16- or 32-bit interrupt or trap gate */
        x86_raise_err(c, X86_GP, vec_err);
    if (e->is_int && x86_desc_dpl(gate) < cpl)
        x86_raise_err(c, X86_GP, vec_err);
    if (!(gate & X86_SEG_P))
        x86_raise_err(c, X86_NP, vec_err);
    sel = (uint16_t)(lo >> 16);
    if (type == 5) {
        deliver_task(c, e, sel);
        return;
    }
    n = type & 8 ? 4 : 2;
    off = n == 4 ? (lo & 0xffff) | (gate & 0xffff0000) : lo & 0xffff;
    if (!x86_desc_read(c, sel, &d))
        x86_raise_err(c, X86_GP, err_of(e, sel & ~3u, false));
    dpl = x86_desc_dpl(d.hi);
    if ((d.hi & (X86_SEG_S | X86_SEG_CODE)) != (X86_SEG_S | X86_SEG_CODE) || dpl > cpl)
        x86_raise_err(c, X86_GP, err_of(e, sel & ~3u, false));
    if (!(d.hi & X86_SEG_P))
        x86_raise_err(c, X86_NP, err_of(e, sel & ~3u, false));
    if (d.hi & X86_SEG_C)
        dpl = cpl;
    if (v86 && dpl)
        x86_raise_err(c, X86_GP, err_of(e, sel & ~3u, false));
    changed = dpl < cpl;
    if (changed)
        inner_stack(c, dpl, &s, e);
    else
        same_stack(c, &s);
    push_frame(c, e, &s, n, changed, v86);
    x86_desc_mark(c, &d, X86_SEG_A);
    if (v86)
        for (int i = 0; i < 6; i++)
            if (i == X86_ES || i == X86_DS || i == X86_FS || i == X86_GS)
                c->seg[i] = (struct x86_seg){0};
    x86_desc_seg(&d, (uint16_t)((sel & ~3u) | dpl), &c->seg[X86_CS]);
    if (changed)
        c->seg[X86_SS] = s.ss;
    c->regs[X86_RSP] = changed ? (uint32_t)s.sp : s.sp;
    c->cpl = (uint8_t)dpl;
    c->rip = off;
    c->rflags &= ~(uint64_t)(X86_TF | X86_NT | X86_VM | X86_RF);
    if (!(type & 1))
        c->rflags &= ~(uint64_t)X86_IF;
    x86_update_mode(c);
}

/* ---- the guarded top ---- */

static void deliver_once(struct x86_cpu *c, const struct event *e)
{
    if (e->vec == X86_PGF && !e->is_int && !e->ext)
        c->cr2 = c->exc.cr2;
    if (x86_real(c))
        deliver_real(c, e);
    else if (c->long_mode)
        deliver_long(c, e);
    else
        deliver_prot(c, e);
}

static bool contributory(int vec)
{
    return vec == X86_DE || (vec >= X86_TS && vec <= X86_GP);
}

/* The event to deliver after `first` failed with c->exc. False: shutdown. */
static bool combine(struct x86_cpu *c, const struct event *first, struct event *next)
{
    int v1 = first->vec, v2 = c->exc.vec;
    bool exception = !first->is_int && !first->ext;

    if (exception && v1 == X86_VEC_DF)
        return false;
    *next = (struct event){.vec = v2, .has_err = c->exc.has_err, .err = c->exc.err, .ret = c->rip};
    if (exception && ((contributory(v1) && contributory(v2)) || (v1 == X86_PGF && (v2 == X86_PGF || contributory(v2)))))
        *next = (struct event){.vec = X86_VEC_DF, .has_err = !x86_real(c), .ret = c->rip};
    return true;
}

static void log_event(struct x86_cpu *c, const struct event *e)
{
    log_write(LOG_INT,
              "%s %02x err=%04x rip=%04x:%016" PRIx64 " cpl=%d rsp=%016" PRIx64 " cr2=%016" PRIx64 " rax=%" PRIx64,
              e->ext      ? "interrupt"
              : e->is_int ? "int"
                          : "exception",
              e->vec, e->err, c->seg[X86_CS].sel, c->rip, c->cpl, c->regs[X86_RSP],
              e->vec == X86_PGF ? c->exc.cr2 : c->cr2, c->regs[X86_RAX]);
}

static void note_event(struct x86_cpu *c, const struct event *e)
{
    uint64_t h = c->trace->hash ^ c->insn_count ^ (uint64_t)e->vec << 56 ^ c->rip << 8 ^ c->rflags;

    for (unsigned i = 0; i < 16; i++)
        h = (h ^ c->regs[i]) * UINT64_C(0x100000001b3) ^ h >> 29;
    c->trace->hash = h;
    c->trace->events++;
}

static void deliver(struct x86_cpu *c, struct event e)
{
    sigjmp_buf *outer = c->fault_jmp, here;
    struct event cur = e; /* changed only before sigsetjmp or read back from *cp */
    struct event *volatile cp = &cur;

    if (c->trace)
        note_event(c, &cur);
    for (;;) {
        if (log_on(LOG_INT))
            log_event(c, cp);
        if (!sigsetjmp(here, 0)) {
            c->fault_jmp = &here;
            c->injecting = cp->vec;
            deliver_once(c, cp);
            break;
        }
        if (!combine(c, cp, cp)) {
            log_at(LOG_INT, "triple fault at %04x:%016" PRIx64, c->seg[X86_CS].sel, c->rip);
            c->shutdown = true;
            break;
        }
    }
    c->injecting = -1;
    c->fault_jmp = outer;
}

void x86_deliver(struct x86_cpu *c, int vec, bool has_err, uint32_t err, bool is_int, bool ext, uint64_t next_rip)
{
    deliver(c,
            (struct event){.vec = vec, .has_err = has_err, .err = err, .is_int = is_int, .ext = ext, .ret = next_rip});
}

void x86_deliver_fault(struct x86_cpu *c)
{
    bool has_err = c->exc.has_err && !x86_real(c);

    deliver(c, (struct event){.vec = c->exc.vec, .has_err = has_err, .err = c->exc.err, .ret = c->rip});
}
