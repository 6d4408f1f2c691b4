/* The log of a trial (trial.h): what each write was about to replace, in order, with room for what it left. */
#include "guest/x86/trial.h"
#include "guest/x86/mmu_int.h"
#include "guest/x86/ops.h"
#include "guest/x86/trial_int.h"

bool x86_trial_init(struct x86_cpu *c)
{
    struct x86_trial *t = try_alloc(1, sizeof *t);

    if (!t)
        return false;
    c->trial = t;
    x86_tlb_flush(c, true); /* what may be written without asking is forgotten */
    return true;
}

void x86_trial_free(struct x86_cpu *c)
{
    free(c->trial);
    c->trial = NULL;
}

void x86_trial_log(struct x86_cpu *c, struct mem_ram *ram, uint64_t off, unsigned size)
{
    struct x86_trial *t = c->trial;
    struct x86_trial_write *w = &t->write[t->nr];

    if (!t->on)
        return;
    if (t->nr == X86_TRIAL_WRITES || t->used + 2 * size > X86_TRIAL_BYTES)
        siglongjmp(*c->fault_jmp, X86_TRIAL_JMP + X86_TRIAL_BIG);
    *w = (struct x86_trial_write){.ram = ram, .off = off, .size = size, .at = t->used};
    memcpy(t->bytes + w->at, ram->host + off, size);
    t->used += 2 * size;
    t->nr++;
}

void x86_trial_stop_device(struct x86_cpu *c)
{
    if (c->trial->on)
        siglongjmp(*c->fault_jmp, X86_TRIAL_JMP + X86_TRIAL_DEVICE);
}

/* Writes of the undo go by the same ways as others: caches of code must hear of them. */
static void put_back(const struct x86_trial *t, const struct x86_trial_write *w)
{
    uint8_t *host = w->ram->host + w->off;

    if (!memcmp(host, t->bytes + w->at, w->size))
        return;
    memcpy(host, t->bytes + w->at, w->size);
    mem_ram_written(w->ram, w->off, w->size);
}

void x86_trial_undo(struct x86_cpu *c)
{
    struct x86_trial *t = c->trial;

    for (unsigned i = 0; i < t->nr; i++)
        memcpy(t->bytes + t->write[i].at + t->write[i].size, t->write[i].ram->host + t->write[i].off, t->write[i].size);
    x86_trial_restore(c);
}

void x86_trial_restore(struct x86_cpu *c)
{
    for (unsigned i = c->trial->nr; i-- > 0;)
        put_back(c->trial, &c->trial->write[i]);
}

bool x86_trial_differs(struct x86_cpu *c, uint64_t *ram_off, uint8_t *want, uint8_t *have)
{
    const struct x86_trial *t = c->trial;

    for (unsigned i = 0; i < t->nr; i++) {
        const struct x86_trial_write *w = &t->write[i];
        const uint8_t *host = w->ram->host + w->off, *after = t->bytes + w->at + w->size;

        if (!memcmp(host, after, w->size))
            continue;
        for (unsigned k = 0; k < w->size; k++)
            if (host[k] != after[k]) {
                *ram_off = w->off + k;
                *want = after[k];
                *have = host[k];
                return true;
            }
    }
    return false;
}

uint16_t x86_trial_undefined(const struct x86_cpu *c)
{
    return c->trial->undefined;
}

bool x86_trial_tainted(const struct x86_cpu *c)
{
    return c->trial->tainted;
}

unsigned x86_trial_writes(const struct x86_cpu *c)
{
    return c->trial->nr;
}

#define BOTH(op) [X86_I_##op] = X86_AF | X86_OF | X86_CF, [X86_I_##op##_CL] = X86_AF | X86_OF | X86_CF
#define TURN(op) [X86_I_##op] = X86_OF, [X86_I_##op##_CL] = X86_OF
#define LONG(op) [X86_I_##op] = X86_AF | X86_OF, [X86_I_##op##_CL] = X86_AF | X86_OF
#define PROD     X86_SF | X86_ZF | X86_AF | X86_PF
#define BITS     X86_OF | X86_SF | X86_AF | X86_PF
uint16_t x86_insn_undefined(const struct x86_insn *in)
{
    static const uint16_t t[X86_I_NR] = {
        [X86_I_AND] = X86_AF,
        [X86_I_OR] = X86_AF,
        [X86_I_XOR] = X86_AF,
        [X86_I_TEST] = X86_AF,
        BOTH(SHL),
        BOTH(SAL),
        BOTH(SHR),
        BOTH(SAR),
        TURN(ROL),
        TURN(ROR),
        TURN(RCL),
        TURN(RCR),
        LONG(SHLD),
        LONG(SHRD),
        [X86_I_MULB] = PROD,
        [X86_I_MUL] = PROD,
        [X86_I_IMULB] = PROD,
        [X86_I_IMUL1] = PROD,
        [X86_I_IMUL] = PROD,
        [X86_I_IMUL3] = PROD,
        [X86_I_DIVB] = X86_ARITH,
        [X86_I_DIV] = X86_ARITH,
        [X86_I_IDIVB] = X86_ARITH,
        [X86_I_IDIV] = X86_ARITH,
        [X86_I_BSF] = X86_ARITH & ~X86_ZF,
        [X86_I_BSR] = X86_ARITH & ~X86_ZF,
        [X86_I_BT] = BITS,
        [X86_I_BTS] = BITS,
        [X86_I_BTR] = BITS,
        [X86_I_BTC] = BITS,
        [X86_I_LZCNT] = BITS,
        [X86_I_TZCNT] = BITS,
        [X86_I_ANDN] = X86_AF | X86_PF,
        [X86_I_BLSR] = X86_AF | X86_PF,
        [X86_I_BLSI] = X86_AF | X86_PF,
        [X86_I_BLSMSK] = X86_AF | X86_PF,
        [X86_I_BEXTR] = X86_AF | X86_SF | X86_PF,
        [X86_I_BZHI] = X86_AF | X86_PF,
        [X86_I_AAM] = X86_OF | X86_AF | X86_CF,
        [X86_I_AAD] = X86_OF | X86_AF | X86_CF,
        [X86_I_DAA] = X86_OF,
        [X86_I_DAS] = X86_OF,
        [X86_I_AAA] = X86_OF | X86_SF | X86_ZF | X86_PF,
        [X86_I_AAS] = X86_OF | X86_SF | X86_ZF | X86_PF,
    };

    return t[in->op];
}
