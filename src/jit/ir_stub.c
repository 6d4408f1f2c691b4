/* The hand-made code every block relies on: entry, exits, indirect jumps, calls into C. */
#include "jit/ir_int.h"

static const uint8_t saved[] = {JR_RBX, JR_RBP, JR_R12, JR_R13, JR_R14, JR_R15};

static void mov_pins(struct jit_buf *b, const struct ir_env *env, bool store)
{
    for (unsigned i = 0; i < env->nr_pins; i++) {
        const struct ir_pin *p = &env->pin[i];

        if (p->vec)
            ir_vex_m(b, 0, 1, 0, store ? 0x11 : 0x10, p->reg, 0, JIT_GS((int32_t)p->off));
        else
            jit_op_mem(b, JIT_W, store ? 0x89 : 0x8b, p->reg, JIT_GS((int32_t)p->off), 0);
    }
}

/* C code has the older vector instructions, which wait for the upper halves that stores of 32 bytes left. */
static void vzeroupper(struct jit_buf *b)
{
    jit_8(b, 0xc5);
    jit_8(b, 0xf8);
    jit_8(b, 0x77);
}

static const uint8_t *make_enter(struct jit_buf *b, const struct ir_env *env)
{
    const uint8_t *at = jit_here(b);

    for (unsigned i = 0; i < ARRAY_LEN(saved); i++)
        jit_push(b, saved[i]);
    jit_op_mem(b, 0, 0x0fae, 3, GSX(host_mxcsr), 0); /* stmxcsr */
    jit_store(b, GSX(host_rsp), JR_RSP);
    jit_op_mem(b, 0, 0x0fae, 2, GSX(mxcsr), 0); /* ldmxcsr */
    mov_pins(b, env, false);
    jit_load(b, JR_RSP, GSX(ss_rsp));
    jit_jmp_mem(b, GSX(enter_target));
    return at;
}

static const uint8_t *make_exit(struct jit_buf *b, const struct ir_env *env) /* EAX = reason */
{
    const uint8_t *at = jit_here(b);

    vzeroupper(b);
    jit_store(b, GSX(ss_rsp), JR_RSP);
    mov_pins(b, env, true);
    jit_op_mem(b, 0, 0x0fae, 3, GSX(mxcsr), 0);
    jit_op_mem(b, 0, 0x0fae, 2, GSX(host_mxcsr), 0);
    jit_load(b, JR_RSP, GSX(host_rsp));
    for (unsigned i = ARRAY_LEN(saved); i-- > 0;)
        jit_pop(b, saved[i]);
    jit_8(b, 0xc3);
    return at;
}

static const uint8_t *make_reason(struct jit_buf *b, const uint8_t *exit, unsigned why, bool t0, bool t1)
{
    const uint8_t *at = jit_here(b);

    if (t0)
        jit_store(b, GSX(t0), JR_RDX);
    if (t1)
        jit_store(b, GSX(t1), JR_RAX);
    jit_mov_ri(b, JR_RAX, why);
    jit_jmp(b, exit);
    return at;
}

static const uint8_t *make_jump(struct jit_buf *b, const uint8_t *miss_to)
{
    const uint8_t *at = jit_here(b);
    uint8_t *miss;

    jit_mov_rr32(b, JR_RAX, JR_RDX);
    jit_op_reg(b, 0, 0x81, 4, JR_RAX);
    jit_32(b, (IR_JC_SIZE - 1) << 1);
    jit_op_mem(b, JIT_W, 0x3b, JR_RDX, JIT_GSX(JR_RAX, 8, IRX(jc)), 0);
    miss = jit_jcc8_fwd(b, JCC_NE);
    jit_store(b, GSX(t0), JR_RDX);
    jit_load(b, JR_RCX, GSX(poll));
    jit_load(b, JR_RCX, JIT_BASE(JR_RCX, 0));
    jit_jmp_mem(b, JIT_GSX(JR_RAX, 8, IRX(jc) + 8));
    jit_patch8(b, miss);
    jit_jmp(b, miss_to);
    return at;
}

/* The shadow stack was empty: its lowest word, which led here, stays. */
static const uint8_t *make_ret_bottom(struct jit_buf *b, const uint8_t *jump)
{
    const uint8_t *at = jit_here(b);

    jit_lea(b, JR_RSP, JIT_BASE(JR_RSP, -8));
    jit_jmp(b, jump);
    return at;
}

/* Runs the function in RAX on the ordinary stack. */
static void call_c(struct jit_buf *b)
{
    vzeroupper(b);
    jit_store(b, GSX(save_rsp), JR_RSP);
    jit_load(b, JR_RSP, GSX(host_rsp));
    jit_op_reg(b, JIT_W, 0x83, 4, JR_RSP); /* and rsp, -16 */
    jit_8(b, 0xf0);
    jit_op_reg(b, 0, 0xff, 2, JR_RAX); /* call rax */
    jit_load(b, JR_RSP, GSX(save_rsp));
}

/* RAX = function, arguments in the context. Result in RAX; all else but the pins is lost. */
static const uint8_t *make_call(struct jit_buf *b, const struct ir_env *env, bool state)
{
    static const uint8_t arg[] = {JR_RSI, JR_RDX, JR_RCX, JR_R8};
    const uint8_t *at = jit_here(b);

    mov_pins(b, env, true);
    if (state)
        jit_op_mem(b, 0, 0x0fae, 3, GSX(mxcsr), 0);
    jit_load(b, JR_RDI, GSX(self));
    for (unsigned i = 0; i < ARRAY_LEN(arg); i++)
        jit_load(b, arg[i], IR_ARGX(i));
    call_c(b);
    if (state)
        jit_op_mem(b, 0, 0x0fae, 2, GSX(mxcsr), 0);
    mov_pins(b, env, false);
    jit_8(b, 0xc3);
    return at;
}

static uint64_t eval_c(struct ir_ctx *ctx)
{
    union ir_vec r = {.d = {0, 0}};

    ir_eval_op(&ctx->eval, (enum ir_nan)ctx->eval.dead, ctx->arg, &r);
    ctx->arg[0] = r;
    return 0;
}

/* Keeps all registers. */
static const uint8_t *make_eval(struct jit_buf *b)
{
    static const uint8_t gpr[] = {JR_RAX, JR_RCX, JR_RDX, JR_RSI, JR_RDI, JR_R8, JR_R9, JR_R10, JR_R11};
    const uint8_t *at = jit_here(b);

    for (unsigned i = 0; i < ARRAY_LEN(gpr); i++)
        jit_store(b, JIT_GS(IRX(save_gpr) + 8 * (int)i), gpr[i]);
    for (unsigned i = 0; i < 16; i++)
        ir_vex_m(b, 0, 1, 0, 0x11, i, 0, JIT_GS(IRX(save_vec) + 16 * (int)i));
    jit_load(b, JR_RDI, GSX(self));
    jit_mov_ri(b, JR_RAX, (uintptr_t)eval_c);
    call_c(b);
    for (unsigned i = 0; i < ARRAY_LEN(gpr); i++)
        jit_load(b, gpr[i], JIT_GS(IRX(save_gpr) + 8 * (int)i));
    for (unsigned i = 0; i < 16; i++)
        ir_vex_m(b, 0, 1, 0, 0x10, i, 0, JIT_GS(IRX(save_vec) + 16 * (int)i));
    jit_8(b, 0xc3);
    return at;
}

bool ir_make_stubs(struct jit_buf *b, const struct ir_env *env, struct ir_stubs *out)
{
    const uint8_t *exit;

    ir_pins_map(env, &out->pins);
    out->enter = make_enter(b, env);
    exit = make_exit(b, env);
    out->exit_code = make_reason(b, exit, IR_EXIT_WITH_CODE, true, true);
    out->exit_link = make_reason(b, exit, IR_EXIT_TO_LINK, false, true);
    out->exit_pc = make_reason(b, exit, IR_EXIT_TO_PC, true, false);
    out->exit_signal = make_reason(b, exit, IR_EXIT_BY_SIGNAL, false, false);
    out->jump = make_jump(b, out->exit_pc);
    out->ret_bottom = make_ret_bottom(b, out->jump);
    out->call_pure = make_call(b, env, false);
    out->call_state = make_call(b, env, true);
    out->eval = make_eval(b);
    return jit_ok(b);
}

void ir_ctx_init(struct ir_ctx *ctx)
{
    ctx->self = ctx;
    memset(&ctx->out, 0, sizeof ctx->out);
    ctx->poll_ok = 0;
    atomic_store(&ctx->poll, (uintptr_t)&ctx->poll_ok);
    ctx->nan32 = 0x7fc00000;
    ctx->nan64 = UINT64_C(0x7ff8000000000000);
    ctx->mxcsr = 0x1f80;
    ctx->konst[0] = (union ir_vec){.d = {UINT64_C(1) << 63, UINT64_C(1) << 63}};
    ctx->konst[1] = (union ir_vec){.s = {0x80000000, 0x80000000, 0x80000000, 0x80000000}};
    ctx->konst[2] = (union ir_vec){.d = {INT64_MAX, INT64_MAX}};
    ctx->konst[3] = (union ir_vec){.s = {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}};
    ctx->konst[4] = (union ir_vec){.s = {0, UINT32_MAX, 0, 0}}; /* what boxes a float */
    /* CRC-32, bits reversed: x^96 by the polynomial without the last term, and the polynomial. */
    ctx->konst[5] = (union ir_vec){.d = {UINT64_C(0xb4e5b025f7011641), UINT64_C(0x1db710641)}};
    ir_jc_clear(ctx);
}

const char *ir_host_lacks(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2"))
        return "AVX2";
    if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2"))
        return "BMI2";
    if (!__builtin_cpu_supports("fma"))
        return "FMA";
    if (!__builtin_cpu_supports("aes") || !__builtin_cpu_supports("pclmul"))
        return "AES and PCLMULQDQ";
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt") ? NULL : "SSE4.2";
}
