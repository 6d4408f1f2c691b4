/* Host code for SCAN: many iterations of a loop of a string function at once. It reads nothing but the page whose first
 * byte, or a later one, the guest's next access is at: what it skips would have been read without a fault. */
#include "jit/ir_int.h"

enum { PAGE_MASK = 4095, SEARCH_STEP = 128, COMPARE_STEP = 64 };
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

void ir_code_scan(struct irc *c, const struct ir_op *o)
{
    struct scan s = {.two = o->a[1] != IR_NO};
    unsigned step = s.two ? COMPARE_STEP : SEARCH_STEP;
    uint8_t *again;
    bool known = false;

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
