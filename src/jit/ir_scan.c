/* Host code for SCAN: many iterations of a loop of a string function at once. It reads nothing but the page that has
 * the first byte of the guest's next access: what it skips would have been read without a fault. */
#include "jit/ir_int.h"

enum { PAGE_MASK = 4095, SEARCH_STEP = 128, COMPARE_STEP = 64, WIDE = 64, WIDE_STEP = 256 };
#define ONES UINT64_C(0x0101010101010101)
struct scan {
    unsigned a, b;    /* addresses */
    unsigned t, u;    /* bytes skipped; scratch */
    unsigned x, y, z; /* vectors; z is 0 */
    bool two;
    uint8_t *leave[8];
    unsigned nr_leave;
};

static void leave_if(struct irc *c, struct scan *s, unsigned cc)
{
    assert(s->nr_leave < ARRAY_LEN(s->leave));
    s->leave[s->nr_leave++] = jit_jcc_fwd(c->b, cc);
}

/* u = the place in its page of reg + t; leaves when fewer than step bytes of the page are left, or with fresh when the
 * page is another one than before. */
static void stay_in_page(struct irc *c, struct scan *s, unsigned reg, unsigned step, bool fresh)
{
    jit_lea32(c->b, s->u, JIT_SUM(reg, s->t));
    jit_op_reg(c->b, 0, 0x81, 4, s->u);
    jit_32(c->b, PAGE_MASK);
    if (fresh)
        leave_if(c, s, JCC_E);
    jit_op_reg(c->b, 0, 0x81, 7, s->u);
    jit_32(c->b, PAGE_MASK + 1 - step);
    leave_if(c, s, JCC_A);
}

static struct jit_mem at(unsigned reg, const struct scan *s, int32_t disp)
{
    return (struct jit_mem){(uint8_t)reg, (uint8_t)s->t, 1, false, disp};
}

/* 256 bits; register, register or memory. */
static void op3(struct irc *c, unsigned op, unsigned d, unsigned a, unsigned b)
{
    ir_vex(c->b, 1 | IR_VEX_L, 1, 0, op, d, a, b);
}

static void op3m(struct irc *c, unsigned op, unsigned d, unsigned a, struct jit_mem m)
{
    ir_vex_m(c->b, 1 | IR_VEX_L, 1, 0, op, d, a, m);
}

enum { VPMINUB = 0xda, VPCMPEQB = 0x74, VPMOVMSKB = 0xd7, VPXOR = 0xef };

static void load32(struct irc *c, unsigned d, struct jit_mem m)
{
    ir_vex_m(c->b, IR_VEX_L, 1, 0, 0x10, d, 0, m); /* vmovups */
}

/* Leaves when one of SEARCH_STEP bytes is 0. */
static void search(struct irc *c, struct scan *s)
{
    load32(c, s->x, at(s->a, s, 0));
    load32(c, s->y, at(s->a, s, 64));
    op3m(c, VPMINUB, s->x, s->x, at(s->a, s, 32));
    op3m(c, VPMINUB, s->y, s->y, at(s->a, s, 96));
    op3(c, VPMINUB, s->x, s->x, s->y);
    op3(c, VPCMPEQB, s->x, s->x, s->z);
    op3(c, VPMOVMSKB, s->u, 0, s->x);
    jit_op_reg(c->b, 0, 0x85, s->u, s->u);
    leave_if(c, s, JCC_NE);
    jit_op_reg(c->b, JIT_W, 0x81, 0, s->t);
    jit_32(c->b, SEARCH_STEP);
}

/* t = the words of 8 before the first of COMPARE_STEP bytes that is 0 or differs. */
static void compare(struct irc *c, struct scan *s)
{
    for (unsigned i = 0; i < 2; i++) { /* the smaller of a byte and its being equal: 0 where it ends */
        unsigned d = i ? s->z : s->x;

        load32(c, d, at(s->b, s, 32 * (int)i)); /* as the guest: the second first */
        op3m(c, VPCMPEQB, s->y, d, at(s->a, s, 32 * (int)i));
        op3(c, VPMINUB, d, d, s->y);
    }
    op3(c, VPXOR, s->y, s->y, s->y);
    op3(c, VPCMPEQB, s->x, s->x, s->y);
    op3(c, VPCMPEQB, s->z, s->z, s->y);
    op3(c, VPMOVMSKB, s->u, 0, s->z);
    op3(c, VPMOVMSKB, s->t, 0, s->x);
    jit_op_reg(c->b, JIT_W, 0xc1, 4, s->u); /* shl */
    jit_8(c->b, 32);
    jit_op_reg(c->b, JIT_W, 0x0b, s->t, s->u);
    jit_op_reg(c->b, JIT_W | JIT_F3, 0x0fbc, s->t, s->t); /* tzcnt: 64 of 0 */
    jit_op_reg(c->b, 0, 0x83, 4, s->t);
    jit_8(c->b, 0x78);
}

/* ---- with AVX-512 ----
 * Of the registers only AVX-512 has: they leave nothing in the upper halves that makes older instructions wait, and no
 * other code of the IR uses them. Comparing gains nothing by it. */
enum { ZMM_X = 16, ZMM_Y, K_FOUND = 1 };
enum { VPTESTNMB = 0x26, PP_66 = 1, PP_F3 = 2, PP_F2 = 3, L_512 = 2 };

bool ir_scan_wide(void) /* the first hosts with AVX-512, which have no VBMI2, lower their clock for it */
{
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2");
}

static void wide_reg(struct irc *c, unsigned pp, unsigned map, unsigned op, unsigned d, unsigned a, unsigned rm)
{
    jit_evex(c->b, 0, map, pp, L_512, d, a, rm);
    jit_8(c->b, op);
    jit_8(c->b, 0xc0 | (d & 7) << 3 | (rm & 7));
}

/* With the memory at reg + WIDE * n: a displacement of 8 bits counts in vectors. */
static void wide_mem(struct irc *c, unsigned pp, unsigned op, unsigned d, unsigned a, unsigned reg, int n)
{
    jit_evex(c->b, 0, 1, pp, L_512, d, a, reg);
    jit_8(c->b, op);
    jit_modrm_mem(c->b, d, JIT_BASE((uint8_t)reg, n));
}

static void wide_load(struct irc *c, unsigned d, unsigned reg, int n)
{
    wide_mem(c, 0, 0x10, d, 0, reg, n); /* vmovups */
}

static void alu32(struct irc *c, unsigned w, unsigned ext, unsigned reg, int32_t v)
{
    jit_op_reg(c->b, w, 0x81, ext, reg);
    jit_32(c->b, (uint32_t)v);
}

static void alu8(struct irc *c, unsigned ext, unsigned reg, int8_t v)
{
    jit_op_reg(c->b, JIT_W, 0x83, ext, reg);
    jit_8(c->b, (uint8_t)v);
}

/* u = the zeros among the WIDE bytes at t, a bit each. */
static void zeros(struct irc *c, const struct scan *s)
{
    wide_load(c, ZMM_X, s->t, 0);
    wide_reg(c, PP_F3, 2, VPTESTNMB, K_FOUND, ZMM_X, ZMM_X);
    ir_vex(c->b, PP_F2, 1, 1, 0x93, s->u, 0, K_FOUND); /* kmovq */
}

/* Goes on unless t is where a page begins. */
static uint8_t *at_page(struct irc *c, const struct scan *s)
{
    jit_op_reg(c->b, 0, 0xf7, 0, s->t); /* test */
    jit_32(c->b, PAGE_MASK);
    return jit_jcc_fwd(c->b, JCC_E);
}

/* t = the bytes before the first 0 or the end of the page, rounded down. t is an address meanwhile, of whole lines:
 * what lies in front of a is in its page, and a itself is read first, as a fault is to be there. */
static void wide_search(struct irc *c, const struct scan *s)
{
    uint8_t *found[2], *end[2], *few, *some, *round, *fine;

    jit_op_mem(c->b, 0, 0x0fb6, s->u, JIT_BASE((uint8_t)s->a, 0), 0);
    jit_mov_rr(c->b, s->t, s->a);
    alu8(c, 4, s->t, -WIDE);
    zeros(c, s);
    ir_vex(c->b, PP_F2, 2, 1, 0xf7, s->u, s->a, s->u);    /* shrx: not those before a */
    ir_vex(c->b, PP_66, 2, 1, 0xf7, s->u, s->a, s->u);    /* shlx */
    jit_op_reg(c->b, JIT_W | JIT_F3, 0x0fbc, s->u, s->u); /* tzcnt: carry of 0 */
    found[0] = jit_jcc_fwd(c->b, JCC_AE);
    alu8(c, 0, s->t, WIDE);
    end[0] = at_page(c, s);
    jit_mov_rr(c->b, s->u, s->t);
    alu32(c, JIT_W, 1, s->u, PAGE_MASK);
    alu32(c, JIT_W, 5, s->u, WIDE_STEP - 1);
    jit_op_reg(c->b, JIT_W, 0x3b, s->t, s->u);
    few = jit_jcc8_fwd(c->b, JCC_A);
    round = c->b->p;
    wide_load(c, ZMM_X, s->t, 0);
    wide_load(c, ZMM_Y, s->t, 2);
    wide_mem(c, PP_66, VPMINUB, ZMM_X, ZMM_X, s->t, 1);
    wide_mem(c, PP_66, VPMINUB, ZMM_Y, ZMM_Y, s->t, 3);
    wide_reg(c, PP_66, 1, VPMINUB, ZMM_X, ZMM_X, ZMM_Y);
    wide_reg(c, PP_F3, 2, VPTESTNMB, K_FOUND, ZMM_X, ZMM_X);
    ir_vex(c->b, 0, 1, 1, 0x98, K_FOUND, 0, K_FOUND); /* kortestq */
    some = jit_jcc8_fwd(c->b, JCC_NE);
    alu32(c, JIT_W, 0, s->t, WIDE_STEP);
    jit_op_reg(c->b, JIT_W, 0x3b, s->t, s->u);
    jit_jcc(c->b, JCC_BE, round + c->b->delta);
    jit_patch8(c->b, few);
    fine = c->b->p;
    end[1] = at_page(c, s);
    jit_patch8(c->b, some);
    zeros(c, s);
    jit_op_reg(c->b, JIT_W | JIT_F3, 0x0fbc, s->u, s->u);
    found[1] = jit_jcc_fwd(c->b, JCC_AE);
    alu8(c, 0, s->t, WIDE);
    jit_jmp(c->b, fine + c->b->delta);
    for (unsigned i = 0; i < 2; i++)
        jit_patch32(c->b, found[i]);
    jit_op_reg(c->b, JIT_W, 0x03, s->t, s->u);
    for (unsigned i = 0; i < 2; i++)
        jit_patch32(c->b, end[i]);
    jit_op_reg(c->b, JIT_W, 0x2b, s->t, s->a);
    alu8(c, 4, s->t, -32);
}

void ir_code_scan(struct irc *c, const struct ir_op *o)
{
    struct scan s = {.two = o->a[1] != IR_NO};
    unsigned step = s.two ? COMPARE_STEP : SEARCH_STEP;
    uint8_t *again;
    bool known = false, wide = !s.two && !c->env->narrow && ir_scan_wide();

    ir_clobber_flags(c);
    s.t = ir_tmp(c, false);
    if (s.two) { /* there are four registers: this one is needed no more when the others are found */
        const struct ir_op *of = &c->s->op[o->a[2]];

        known = of->op == IR_CONST && (uint64_t)of->imm == ONES;
        if (!known) {
            unsigned k;

            jit_mov_ri(c->b, s.t, ONES);
            k = ir_use(c, o->a[2]);
            jit_op_reg(c->b, JIT_W, 0x3b, s.t, k);
            c->lock &= ~(1u << k);
        }
        s.b = ir_use(c, o->a[1]);
    }
    s.a = ir_use(c, o->a[0]);
    s.u = ir_tmp(c, false);
    if (wide) {
        wide_search(c, &s);
        ir_made(c, (ir_val)c->cur, s.t);
        return;
    }
    s.x = ir_tmp(c, true) - XMM0;
    s.y = ir_tmp(c, true) - XMM0;
    s.z = ir_tmp(c, true) - XMM0;
    jit_mov_ri(c->b, s.t, 0); /* from here nothing may move a value */
    if (s.two) {
        if (!known)
            leave_if(c, &s, JCC_NE);
        stay_in_page(c, &s, s.b, step, false);
    }
    stay_in_page(c, &s, s.a, step, false);
    if (s.two) {
        compare(c, &s);
    } else {
        ir_vex(c->b, 1, 1, 0, 0xef, s.z, s.z, s.z);
        again = c->b->p;
        search(c, &s);
        stay_in_page(c, &s, s.a, step, true);
        jit_jmp(c->b, again + c->b->delta);
    }
    for (unsigned i = 0; i < s.nr_leave; i++)
        jit_patch32(c->b, s.leave[i]);
    ir_made(c, (ir_val)c->cur, s.t);
}
