/* The differential tester: one instruction on the bare host CPU and through our own executors, everything compared. */
#ifndef TESTS_DIFF_H
#define TESTS_DIFF_H

#include "guest/x86/state.h"

/* One window of memory lies at the same linear address for the host's run and the guest's: code first, then data. The
 * page behind it is unmapped for both; the page behind the data may only be read. */
enum {
    WIN_BASE = 0x10000000,
    WIN_SIZE = 2 << 20,
    CODE_AT = WIN_BASE + 0x8000,
    DATA_AT = WIN_BASE + 0x10000,
    DATA_SIZE = 0x2000,
    RO_AT = DATA_AT + DATA_SIZE,
    WIN_END = WIN_BASE + WIN_SIZE,
    XS_SIZE = 832
};
/* Where a page of the window lies in its file, and in the guest's memory: two pages are exchanged, so that what goes on
 * into the next page with the last one's translation is seen. */
static inline uint64_t win_frame(uint64_t at)
{
    return at == DATA_AT ? DATA_AT + 0x1000 : at == DATA_AT + 0x1000 ? DATA_AT : at;
}

/* Registers before or after. xs is a standard XSAVE image (x87, SSE, AVX); what AVX-512 adds follows, compared where
 * the host has it. */
struct dregs {
    uint8_t xs[1024] __attribute__((aligned(64)));
    uint8_t upper[16][32], more[16][64]; /* bits 511:256 of ZMM0 to 15; ZMM16 to 31 */
    uint64_t k[8];
    uint64_t gpr[16], flags;
    int vec;      /* -1 = no fault */
    uint32_t err; /* #PF error code, low three bits */
    uint64_t cr2; /* #PF */
    uint64_t rip; /* of a fault */
};

/* ---- native.c ---- */
bool native_init(int memfd);
/* Runs the instruction's bytes once with the registers of before, in 64-bit or 32-bit code; results to out. */
void native_run(const struct x86_insn *in, int mode, const struct dregs *before, struct dregs *out);
/* The same for len bytes of code (at most 0x800), which run off their end. */
void native_run_code(const uint8_t *code, unsigned len, int mode, const struct dregs *before, struct dregs *out);

/* ---- guest.c ---- */
struct guest;
/* A CPU in user mode. engine: "exec" (x86_exec on the decoded record), or an accelerator as -accel names it: "interp",
 * "tcg,hot-tier=off", "kvm". *fd is the memory file of the window. NULL with a message on standard error when it cannot
 * be had. */
struct guest *guest_new(const char *engine, int mode, int *fd);
void guest_run(struct guest *g, const struct x86_insn *in, const struct dregs *before, struct dregs *after);
/* The same for code, with an accelerator. */
void guest_run_code(struct guest *g, const uint8_t *code, unsigned len, const struct dregs *before,
                    struct dregs *after);
bool guest_has(const struct guest *g, const struct x86_insn *in);

/* ---- gen.c ---- */
struct drow {
    const char *name; /* OP name */
    const char *ops[4];
    int map, pp, opcode, modrm, cond, evex;
    enum x86_enc enc;
};
extern const struct drow drows[];
extern const unsigned nr_drows;
struct rng {
    uint64_t s;
};
uint64_t rnd(struct rng *r);
static inline uint64_t rnd_below(struct rng *r, uint64_t n)
{
    return rnd(r) % n;
}
/* The host has AVX-512, whose registers then are part of the state; where not, the programs say so. */
bool diff_wide(void);
/* Not compared: the guest does not have it. Before native_init. */
void diff_no_wide(void);
/* What differs of it, or NULL. */
const char *wide_difference(const struct dregs *a, const struct dregs *b, char *buf, size_t n);
extern bool gen_read_only; /* aim at the page that may only be read, too */
/* Bytes of a random instance of the row, decoded; false when this try did not make one. */
bool gen_insn(struct rng *r, const struct drow *row, int mode, struct x86_insn *in);
/* Random registers and memory that suit the instruction; patches displacements in in->bytes. False: pick another. */
bool gen_regs(struct rng *r, struct x86_insn *in, int mode, struct dregs *regs, uint8_t *data);
/* Random bytes in the shape of integers, doubles or floats. */
void gen_fill(struct rng *r, uint8_t *b, unsigned n);
/* Why the row is not run in user mode, or NULL. */
const char *gen_skip(const struct x86_insn *in);
/* FXSAVE, XSAVE and their kin, as far as they run in user mode. */
bool gen_is_xstate(const struct x86_insn *in);
/* Registers of every kind at random, without regard to an instruction. */
void gen_state(struct rng *r, struct dregs *regs);
/* RFLAGS bits the manuals leave undefined after the instruction. */
uint64_t gen_undefined(const struct x86_insn *in, const struct dregs *before);

#endif
