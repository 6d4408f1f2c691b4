/* For tests of the IR front ends: does what they emit compile? Nothing is run. */
#ifndef TESTS_UNIT_IR_RIG_H
#define TESTS_UNIT_IR_RIG_H

#include "jit/arena.h"
#include "jit/ir.h"

struct ir_rig {
    struct jit_arena arena;
    struct ir_stubs stubs;
    struct ir_env env;
    struct ir *s;
    struct jit_block_out *out;
    uint64_t rng;
};

static inline void ir_rig_up(struct ir_rig *r, const struct ir_pin *pin, unsigned nr_pins)
{
    struct jit_buf b;

    *r = (struct ir_rig){.rng = 88172645463325252u};
    assert_true(jit_arena_init(&r->arena, 1 << 20, NULL));
    r->env = (struct ir_env){.loops = true, .pin = pin, .nr_pins = nr_pins, .stubs = &r->stubs, .nan = IR_NAN_ARM};
    b = (struct jit_buf){r->arena.w, r->arena.w, r->arena.w + 65536, r->arena.x - r->arena.w, false};
    assert_true(ir_make_stubs(&b, &r->env, &r->stubs));
    r->s = calloc(1, sizeof *r->s);
    r->out = malloc(sizeof *r->out);
}

static inline void ir_rig_down(struct ir_rig *r)
{
    free(r->s);
    free(r->out);
    jit_arena_free(&r->arena);
}

static inline bool ir_rig_compiles(struct ir_rig *r)
{
    uint8_t *at = r->arena.w + 65536;
    struct jit_buf b = {at, at, at + 65536, r->arena.x - r->arena.w, false};

    return ir_compile(&b, r->s, &r->env, r->out);
}

static inline uint64_t ir_rig_rnd(struct ir_rig *r)
{
    r->rng ^= r->rng << 13;
    r->rng ^= r->rng >> 7;
    r->rng ^= r->rng << 17;
    return r->rng;
}

#endif
