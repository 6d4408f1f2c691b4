/* Host code for exits, links, calls of C functions, and what stands behind a block's main line. */
#include "jit/ir_int.h"

struct ir_cold *ir_new_cold(struct irc *c, enum cold_what what)
{
    struct ir_cold *k = &c->cold[c->nr_cold];

    if (c->nr_cold < IR_MAX_COLD)
        c->nr_cold++;
    else
        c->failed = true; /* the last entry swallows it */
    *k = (struct ir_cold){.what = what};
    return k;
}

static uint32_t offset(const struct irc *c)
{
    return (uint32_t)(c->b->p - c->b->start);
}

static uint32_t poll(struct irc *c)
{
    uint32_t at;

    jit_load(c->b, JR_RAX, GSX(poll));
    at = offset(c);
    jit_load(c->b, JR_RAX, JIT_BASE(JR_RAX, 0));
    return at;
}

static bool is_inner(const struct irc *c, uint64_t target)
{
    return c->nr_moved && target == c->s->pc;
}

/* The next link's number: links are numbered as they stand among the guest's instructions. */
static unsigned new_link(struct irc *c, uint64_t target, enum jit_link_kind kind)
{
    unsigned n = c->out->nr_links;
    struct jit_link_out *l = &c->out->link[n];

    if (n == JIT_BLOCK_MAX_LINKS) {
        c->failed = true;
        return 0;
    }
    c->out->nr_links++;
    *l = (struct jit_link_out){.target = target, .kind = kind, .poll_pc = target};
    if (is_inner(c, target))
        l->inner = c->loop_at;
    return n;
}

static void link_code(struct irc *c, unsigned n, unsigned cc)
{
    struct jit_link_out *l = &c->out->link[n];
    enum jit_link_kind kind = l->kind;
    struct ir_cold *k;
    unsigned at; /* a displacement may not lie in two words */

    at = ((uintptr_t)c->b->p + (kind == JIT_LINK_JCC ? 2 : 1)) % 8;
    jit_nops(c->b, at > 4 ? 8 - at : 0);
    if (kind == JIT_LINK_JCC) {
        jit_8(c->b, 0x0f);
        jit_8(c->b, 0x80 | cc);
    } else {
        jit_8(c->b, kind == JIT_LINK_CALL ? 0xe8 : 0xe9);
    }
    l->at = offset(c);
    jit_32(c->b, 0);
    k = ir_new_cold(c, COLD_LINKEXIT);
    k->from = c->b->p - 4;
    k->n = n;
}

static void link_to(struct irc *c, uint64_t target, enum jit_link_kind kind, unsigned cc)
{
    unsigned n = new_link(c, target, kind);

    if (c->failed)
        return;
    if (kind == JIT_LINK_JMP && target <= c->pc)
        c->out->link[n].poll = poll(c);
    link_code(c, n, cc);
}

static void link_if(struct irc *c, uint64_t target, unsigned cc)
{
    uint8_t *skip;

    if (c->nr_moved && !is_inner(c, target)) {
        skip = jit_jcc_fwd(c->b, cc ^ 1);
        ir_loop_leave(c);
        link_to(c, target, JIT_LINK_JMP, 0);
        jit_patch32(c->b, skip);
        return;
    }
    if (target > c->pc) {
        link_to(c, target, JIT_LINK_JCC, cc);
        return;
    }
    skip = jit_jcc8_fwd(c->b, cc ^ 1); /* a loop: not taken falls over the poll */
    link_to(c, target, JIT_LINK_JMP, 0);
    jit_patch8(c->b, skip);
}

/* Behind a call: RDX is where a return goes, and the host came here by its own stack. */
static void compare_return(struct irc *c, uint64_t ret)
{
    if ((int64_t)ret == (int32_t)ret) {
        jit_op_reg(c->b, JIT_W, 0x81, 7, JR_RDX);
        jit_32(c->b, (uint32_t)ret);
    } else {
        jit_mov_ri(c->b, JR_RAX, ret);
        jit_op_reg(c->b, JIT_W, 0x3b, JR_RDX, JR_RAX);
    }
}

static void continuation(struct irc *c, uint64_t ret)
{
    compare_return(c, ret);
    jit_jcc(c->b, JCC_NE, c->env->stubs->jump);
    link_to(c, ret, JIT_LINK_CONT, 0);
}

/* What is known of values and flags is void; constants are made again. */
static void forget_values(struct irc *c)
{
    for (unsigned r = 0; r < NR_REGS; r++) {
        ir_val v = c->reg[r];

        c->reg[r] = IR_NO;
        if (v != IR_NO && ir_is_const(c, v))
            c->v[v].loc = L_CONST;
        else if (v != IR_NO && ir_live(c, v))
            c->failed = true;
    }
    for (unsigned i = 0; i < c->nr_alias; i++) {
        ir_val v = c->alias[i];

        if (ir_is_const(c, v))
            c->v[v].loc = L_CONST;
        else if (ir_live(c, v))
            c->failed = true;
    }
    c->nr_alias = 0;
    c->failed |= c->spill_used || c->vspill_used;
    c->ef = c->gf = c->ef_logic = IR_NO;
    c->gf_saved = false;
}

/* Behind a call, when the block goes on there: as continuation(), without a link. The jump away stands so that the
 * cache can make it one for all who come (JIT_LINK_CONT without a stub): a block that died is not gone on with. */
static void goes_on(struct irc *c, uint64_t ret)
{
    unsigned n = c->out->nr_links, len = (int64_t)ret == (int32_t)ret ? 7 : ret <= UINT32_MAX ? 8 : 13;
    uint8_t *from;

    if (n == JIT_BLOCK_MAX_LINKS) {
        c->failed = true;
        return;
    }
    while (((uintptr_t)c->b->p + len) % 8 == 7)
        jit_8(c->b, 0x90);
    from = c->b->p;
    compare_return(c, ret);
    assert(c->b->p == from + len || !jit_ok(c->b));
    jit_jcc(c->b, JCC_NE, c->env->stubs->jump);
    c->out->nr_links++;
    c->out->link[n] = (struct jit_link_out){.at = offset(c) - 4, .target = ret, .poll_pc = ret, .kind = JIT_LINK_CONT};
}

/* A call polls by its push: a loop of calls without returns fills the shadow stack. */
static void call_link(struct irc *c, const struct ir_op *o)
{
    unsigned n = c->out->nr_links;

    if (!offset(c))
        jit_8(c->b, 0x90); /* a poll at offset 0 is none */
    link_to(c, (uint64_t)o->imm, JIT_LINK_CALL, 0);
    if (n < JIT_BLOCK_MAX_LINKS)
        c->out->link[n].poll = c->out->link[n].at - 1;
}

static void target_in_rdx(struct irc *c, ir_val v)
{
    if (c->v[v].loc == L_REG && c->v[v].reg == JR_RDX && !ir_live(c, v)) {
        c->lock |= 1u << JR_RDX;
        return;
    }
    ir_take(c, JR_RDX);
    ir_fetch(c, JR_RDX, v);
}

/* EAX = where the table of indirect targets may have the pc in RDX, and whether it has: Z. In line, so that the host
 * predicts each site by itself. *view.pc of a poll is stored. */
static void look_up(struct irc *c)
{
    jit_store(c->b, GSX(t0), JR_RDX);
    jit_mov_rr32(c->b, JR_RAX, JR_RDX);
    jit_8(c->b, 0x25); /* and eax, mask << 1 */
    jit_32(c->b, (IR_JC_SIZE - 1) << 1);
    jit_op_mem(c->b, JIT_W, 0x3b, JR_RDX, JIT_GSX(JR_RAX, 8, IRX(jc)), 0);
}

static void call_ind(struct irc *c)
{
    struct ir_cold *k;

    look_up(c);
    k = ir_new_cold(c, COLD_CALL);
    k->from = jit_jcc_fwd(c->b, JCC_NE);
    jit_op_mem(c->b, 0, 0xff, 2, JIT_GSX(JR_RAX, 8, IRX(jc) + 8), 0);
    k->back = c->b->p;
}

static void exit_ind(struct irc *c)
{
    uint8_t *miss;

    look_up(c);
    miss = jit_jcc8_fwd(c->b, JCC_NE);
    jit_load(c->b, JR_RCX, GSX(poll)); /* an indirect jump may close a loop */
    jit_load(c->b, JR_RCX, JIT_BASE(JR_RCX, 0));
    jit_jmp_mem(c->b, JIT_GSX(JR_RAX, 8, IRX(jc) + 8));
    jit_patch8(c->b, miss);
    jit_jmp(c->b, c->env->stubs->exit_pc);
}

static void exit_code(struct irc *c, unsigned code, uint64_t pc)
{
    jit_mov_ri(c->b, JR_RDX, pc);
    jit_mov_ri(c->b, JR_RAX, code);
    jit_jmp(c->b, c->env->stubs->exit_code);
}

/* Does nothing up to the next LABEL change EFLAGS, unless it leaves? */
static bool region_keeps_flags(const struct irc *c)
{
    for (unsigned i = c->cur + 1;; i++) {
        const struct ir_op *o = &c->s->op[i];

        switch (o->op) {
        case IR_LABEL:
            return true;
        case IR_NOP:
        case IR_INSN:
        case IR_CONST:
        case IR_GET:
        case IR_PUT:
        case IR_TRUNC:
        case IR_ZEXT:
        case IR_SEXT:
            break;
        case IR_LOAD:
        case IR_STORE:
            if (o->attr & (IR_MALIGN | IR_MSWAP | IR_MREL))
                return false;
            break;
        default:
            return ir_is_final(o->op);
        }
    }
}

static bool region_puts_flags(const struct irc *c)
{
    for (unsigned i = c->cur + 1; c->s->op[i].op != IR_LABEL; i++)
        if (c->s->op[i].op == IR_FL_PUT || (c->s->op[i].op == IR_CALL && c->s->op[i].attr != IR_CALL_PURE))
            return true;
    return false;
}

static void skip_if(struct irc *c, const struct ir_op *o)
{
    unsigned r;

    c->skip.ef = IR_NO;

    ir_clobber_flags(c);
    ir_commit_flags(c);
    ir_skip_begin(c);
    r = ir_use(c, o->a[0]);
    jit_op_reg(c->b, 0, 0x85, r, r);
    c->skip_from = jit_jcc_fwd(c->b, JCC_NE);
}

/* The condition by a register: a flags value that is not the guest's is wanted later. */
static void skip_by_reg(struct irc *c, unsigned cc)
{
    uint32_t lock = c->lock;
    unsigned r;

    c->lock |= 1u << JR_RAX; /* the flags go there */
    r = ir_tmp(c, false);
    c->lock = lock | 1u << r;
    jit_op_reg(c->b, JIT_RM8, 0x0f90 | cc, 0, r);
    ir_clobber_flags(c);
    ir_commit_flags(c);
    c->lock |= 1u << r;
    ir_skip_begin(c);
    jit_op_reg(c->b, JIT_RM8, 0x84, r, r);
    c->skip_from = jit_jcc_fwd(c->b, JCC_NE);
    c->skip.ef = IR_NO;
}

/* EFLAGS hold the condition's flags and keep them where they can, on both ways. */
static void skip_if_fl(struct irc *c, const struct ir_op *o)
{
    ir_val v = o->a[0];
    const struct irv *x = &c->v[v];
    unsigned cc = ir_flag_cc(c, v, o->attr);

    if (!region_keeps_flags(c)) {
        if (ir_live(c, v) && (v != c->gf || region_puts_flags(c))) {
            skip_by_reg(c, cc);
            return;
        }
        if (v == c->gf && (ir_live(c, v) || c->f.fl_live[c->cur])) {
            ir_save_flags(c);
            cc = ir_flag_cc(c, v, o->attr);
        }
    }
    ir_skip_begin(c);
    c->skip.ef = v;
    c->skip.gf = c->gf;
    c->skip.inv = x->inv;
    c->skip.saved = c->gf_saved;
    c->skip.loc = x->loc;
    c->skip.home = x->home;
    c->skip_from = jit_jcc_fwd(c->b, cc);
}

static void flags_as_at_skip(struct irc *c)
{
    struct irv *x = &c->v[c->skip.ef];

    c->ef = c->skip.ef;
    c->ef_logic = IR_NO;
    c->gf = c->skip.gf;
    c->gf_saved = c->skip.saved;
    x->inv = c->skip.inv;
    x->loc = c->skip.loc;
    x->home = c->skip.home;
    if (x->loc == L_HOME)
        ir_alias_add(c, c->ef);
}

static void label(struct irc *c)
{
    ir_val v = c->skip.ef;
    bool ended = ir_is_final(c->s->op[c->cur - 1].op), same;

    if (v != IR_NO && (ended || (c->ef == v && c->gf == c->skip.gf))) {
        if (!ended)
            ir_need_flags(c, v, c->skip.inv);
        jit_patch32(c->b, c->skip_from);
        ir_skip_end(c);
        flags_as_at_skip(c);
        return;
    }
    same = v != IR_NO && c->gf == v;
    ir_clobber_flags(c);
    ir_commit_flags(c);
    jit_patch32(c->b, c->skip_from);
    ir_skip_end(c);
    c->gf = IR_NO;
    if (same) { /* saved in front of the skip */
        c->v[v].loc = L_HOME;
        c->v[v].home = IRX(flags);
        ir_alias_add(c, v);
        c->gf = v;
        c->gf_saved = true;
    }
}

/* The flags are not wanted where the block goes on: they are stored on the way out only. */
static bool exit_if_fl_late(struct irc *c, const struct ir_op *o)
{
    struct irv *x = &c->v[c->gf];
    uint8_t *skip;
    unsigned cc;
    bool inv;

    if (o->dead || c->f.fl_live[c->cur] || c->gf == IR_NO || c->gf_saved || c->gf != o->a[0] || c->ef != c->gf ||
        x->loc != L_EFLAGS)
        return false;
    ir_take(c, JR_RAX);
    cc = ir_flag_cc(c, o->a[0], o->attr);
    if ((uint64_t)o->imm > c->pc) { /* no poll: out of the way of what goes on */
        struct ir_cold *k = ir_new_cold(c, COLD_EXIT);

        k->from = jit_jcc_fwd(c->b, cc);
        k->reg[0] = x->inv;
        k->n = new_link(c, (uint64_t)o->imm, JIT_LINK_JMP);
        return true;
    }
    skip = jit_jcc_fwd(c->b, cc ^ 1);
    inv = x->inv;
    ir_store_eflags(c);
    x->inv = inv;
    if (!is_inner(c, (uint64_t)o->imm))
        ir_loop_leave(c);
    link_to(c, (uint64_t)o->imm, JIT_LINK_JMP, 0);
    jit_patch32(c->b, skip);
    return true;
}

/* The flags are wanted only where the block goes on, and outlive the jump in EFLAGS: they are stored there, if at all.
 */
static bool exit_keeps_flags(const struct irc *c, const struct ir_op *o)
{
    return o->op == IR_EXIT_IF_FL && o->dead && o->a[1] == IR_NO && c->gf == o->a[0] && c->ef == c->gf &&
           c->v[c->gf].loc == L_EFLAGS;
}

/* Arguments go through the context: the stub loads them where C wants them. */
static void call(struct irc *c, const struct ir_op *o)
{
    bool state = o->attr & IR_CALL_STATE;
    unsigned r;

    ir_clobber_flags(c);
    if (state)
        ir_commit_flags(c);
    for (unsigned i = 0; i < 4; i++) {
        if (o->a[i] == IR_NO)
            continue;
        r = ir_use(c, o->a[i]);
        if (c->s->op[o->a[i]].t == IR_I32) {
            unsigned t = ir_tmp(c, false);

            jit_mov_rr32(c->b, t, r);
            r = t;
        }
        jit_store(c->b, IR_ARGX(i), r);
        c->lock = 0;
    }
    ir_evict_all(c, state);
    jit_mov_host(c->b, JR_RAX, o->imm2);
    jit_call(c->b, state ? c->env->stubs->call_state : c->env->stubs->call_pure);
    for (r = 0; r < NR_REGS; r++)
        c->reg[r] = IR_NO;
    if (state)
        c->gf = IR_NO;
    if (o->attr & IR_CALL_LEAVES) {
        struct ir_cold *k;

        jit_op_reg(c->b, JIT_W, 0x85, JR_RAX, JR_RAX);
        k = ir_new_cold(c, COLD_LEAVES);
        k->from = jit_jcc_fwd(c->b, JCC_NE);
        k->pc = c->pc;
    }
    if (o->t != IR_VOID) {
        c->lock = 1u << JR_RAX;
        ir_made(c, (ir_val)c->cur, JR_RAX);
    }
}

bool ir_code_flow(struct irc *c, const struct ir_op *o)
{
    if (o->op >= IR_CALL_ON && o->op <= IR_EXIT_CODE) {
        if (o->op == IR_EXIT_IF_FL && exit_if_fl_late(c, o))
            return true;
        if (!exit_keeps_flags(c, o))
            ir_commit_flags(c);
        ir_mark(c, 0);
    }
    switch (o->op) {
    case IR_SKIP_IF:
        skip_if(c, o);
        return true;
    case IR_SKIP_IF_FL:
        skip_if_fl(c, o);
        return true;
    case IR_LABEL:
        label(c);
        return true;
    case IR_CALL_ON:
        forget_values(c);
        call_link(c, o);
        goes_on(c, o->imm2);
        return true;
    case IR_CALL_ON_IND:
        target_in_rdx(c, o->a[0]);
        call_ind(c);
        forget_values(c);
        goes_on(c, o->imm2);
        return true;
    case IR_EXIT:
        if (!is_inner(c, (uint64_t)o->imm))
            ir_loop_leave(c);
        link_to(c, (uint64_t)o->imm, JIT_LINK_JMP, 0);
        return true;
    case IR_EXIT_IF:
        link_if(c, (uint64_t)o->imm, ir_code_cmp(c, o->attr, (enum ir_type)o->t, o->a[0], o->a[1]));
        return true;
    case IR_EXIT_IF_FL:
        if (o->a[1] != IR_NO) {
            link_if(c, (uint64_t)o->imm, ir_code_fcc(c, o->attr, o->a[1], o->a[2]));
            return true;
        }
        link_if(c, (uint64_t)o->imm, ir_flag_cc(c, o->a[0], o->attr));
        return true;
    case IR_EXIT_CALL:
        call_link(c, o);
        continuation(c, o->imm2);
        return true;
    case IR_EXIT_CALL_IND:
        target_in_rdx(c, o->a[0]);
        call_ind(c);
        continuation(c, o->imm2);
        return true;
    case IR_EXIT_RET:
        target_in_rdx(c, o->a[0]);
        jit_8(c->b, 0xc3);
        return true;
    case IR_EXIT_IND:
        target_in_rdx(c, o->a[0]);
        exit_ind(c);
        return true;
    case IR_EXIT_CODE:
        exit_code(c, o->attr, (uint64_t)o->imm);
        return true;
    case IR_CALL:
        call(c, o);
        return true;
    default:
        return false;
    }
}

/* The op done by ir_eval_op: operands and result pass through the context; the stub keeps every register. */
static void eval_desc(struct irc *c, const struct ir_op *o)
{
    uint32_t attr = o->attr;

    if (o->op == IR_FCMP && c->s->op[o->a[0]].t == IR_F64)
        attr |= 16;
    jit_store32_imm(c->b, GSX(eval), o->op | (uint32_t)o->t << 8 | attr << 16 | (uint32_t)c->env->nan << 24);
    if (o->imm == (int32_t)o->imm) {
        jit_op_mem(c->b, JIT_W, 0xc7, 0, GSX(eval.imm), 4);
        jit_32(c->b, (uint32_t)o->imm);
    } else {
        jit_store32_imm(c->b, GSX(eval.imm), (uint32_t)o->imm);
        jit_store32_imm(c->b, JIT_GS(IRX(eval.imm) + 4), (uint32_t)((uint64_t)o->imm >> 32));
    }
}

static void eval_arg(struct irc *c, unsigned i, unsigned r)
{
    if (r >= XMM0)
        ir_vex_m(c->b, 0, 1, 0, 0x11, r - XMM0, 0, IR_ARGX(i));
    else
        jit_store(c->b, IR_ARGX(i), r);
}

static void eval_result(struct irc *c, unsigned d, unsigned t)
{
    if (d >= XMM0)
        ir_vex_m(c->b, 0, 1, 0, 0x10, d - XMM0, 0, IR_ARGX(0));
    else if (t == IR_I64)
        jit_load(c->b, d, IR_ARGX(0));
    else
        jit_load32(c->b, d, IR_ARGX(0));
}

void ir_code_eval(struct irc *c, const struct ir_op *o)
{
    unsigned d, n = ir_op_nargs((enum ir_opcode)o->op);

    ir_clobber_flags(c);
    for (unsigned i = 0; i < n; i++)
        eval_arg(c, i, ir_use(c, o->a[i]));
    eval_desc(c, o);
    jit_call(c->b, c->env->stubs->eval);
    d = ir_dst(c, (ir_val)c->cur, 0);
    eval_result(c, d, o->t);
    ir_made(c, (ir_val)c->cur, d);
}

static void emit_one_cold(struct irc *c, struct ir_cold *k)
{
    const struct ir_op *o;

    switch (k->what) {
    case COLD_LINKEXIT:
        c->out->link[k->n].stub = offset(c);
        if (c->out->link[k->n].inner)
            ir_loop_leave(c);
        jit_mov_link(c->b, JR_RAX, c->env->first_link, k->n);
        jit_jmp(c->b, c->env->stubs->exit_link);
        break;
    case COLD_CODE:
        exit_code(c, k->n, k->pc);
        break;
    case COLD_LEAVES:
        jit_lea32(c->b, JR_RAX, JIT_BASE(JR_RAX, -1));
        jit_mov_ri(c->b, JR_RDX, k->pc);
        jit_jmp(c->b, c->env->stubs->exit_code);
        break;
    case COLD_CALL:
        jit_call(c->b, c->env->stubs->jump);
        jit_jmp(c->b, k->back + c->b->delta);
        break;
    case COLD_FLAGS:
        ir_load_flags(c, k->n);
        jit_jmp(c->b, k->back + c->b->delta);
        break;
    case COLD_EXIT:
        ir_store_flags_of(c, k->reg[0]);
        ir_loop_leave(c);
        link_code(c, k->n, 0);
        break;
    case COLD_CNAN:
        ir_vex_m(c->b, k->n == IR_F64 ? 3 : 2, 1, 0, 0x10, k->dst - XMM0, 0, k->n == IR_F64 ? GSX(nan64) : GSX(nan32));
        jit_jmp(c->b, k->back + c->b->delta);
        break;
    default: /* COLD_EVAL */
        o = &c->s->op[k->n];
        for (unsigned i = 0; i < ir_op_nargs((enum ir_opcode)o->op); i++)
            eval_arg(c, i, k->reg[i]);
        eval_desc(c, o);
        jit_call(c->b, c->env->stubs->eval);
        eval_result(c, k->dst, o->t);
        jit_jmp(c->b, k->back + c->b->delta);
        break;
    }
}

void ir_emit_cold(struct irc *c)
{
    for (unsigned i = 0; i < c->nr_cold && !c->failed; i++) {
        if (c->cold[i].from)
            jit_patch32(c->b, c->cold[i].from);
        emit_one_cold(c, &c->cold[i]);
    }
}
