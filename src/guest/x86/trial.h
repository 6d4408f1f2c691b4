/* Trials: the interpreter runs a few instructions with every write to memory logged, so that they can be undone and the
 * same instructions be run in another way and compared (accel/dbt/lockstep.c).
 *
 * A trial has no effect outside registers and RAM: it stops before port and device accesses and before instructions
 * whose effects lie elsewhere (model-specific and control registers, time, halting). Accessed and dirty bits in page
 * tables stay set. Registers are the caller's to save and put back. On the vCPU's thread, with nothing else writing
 * guest memory: one CPU, the machine lock held. */
#ifndef GUEST_X86_TRIAL_H
#define GUEST_X86_TRIAL_H

#include "guest/x86/state.h"

struct x86_trial;
enum x86_trial_end {
    X86_TRIAL_BOUND,  /* the bound was reached; the instruction at rip has not run */
    X86_TRIAL_LEFT,   /* the last instruction went elsewhere than to the next one */
    X86_TRIAL_FAULT,  /* the instruction at rip faults (nothing was delivered) */
    X86_TRIAL_DEVICE, /* it accesses something that is not memory */
    X86_TRIAL_OTHER,  /* it has effects elsewhere */
    X86_TRIAL_BIG     /* it writes more than the log holds */
};
struct x86_trial_bound {
    unsigned max; /* instructions */
    bool to_rip;  /* run until rip is reached, also through transfers ... */
    bool before;  /* ... at once, if it is there; else after one instruction at least */
    uint64_t rip;
    uint64_t rcx; /* a string instruction at rip with REP: run it until RCX is this */
};
/* Makes c->trial and so changes how the interpreter writes; for good. False: no memory. */
bool x86_trial_init(struct x86_cpu *c);
void x86_trial_free(struct x86_cpu *c);
/* Runs; *done = instructions executed wholly. The log starts anew. */
enum x86_trial_end x86_trial_run(struct x86_cpu *c, const struct x86_trial_bound *b, unsigned *done);
/* The attributes of the n instructions from rip on, together; all where that is not known. */
uint32_t x86_trial_attrs(struct x86_cpu *c, unsigned n);
/* Puts memory back to what it was before the trial, and keeps what the trial had made of it for x86_trial_differs. */
void x86_trial_undo(struct x86_cpu *c);
/* Puts memory back again, after something else has run. */
void x86_trial_restore(struct x86_cpu *c);
/* A byte the trial had written that is something else now: where, and both values. False: there is none. */
bool x86_trial_differs(struct x86_cpu *c, uint64_t *ram_off, uint8_t *want, uint8_t *have);
/* Arithmetic flags that the last trial left undefined. */
uint16_t x86_trial_undefined(const struct x86_cpu *c);
/* Did one of its instructions read flags that were undefined by then? Whatever follows may differ. */
bool x86_trial_tainted(const struct x86_cpu *c);
/* Writes of the last trial. */
unsigned x86_trial_writes(const struct x86_cpu *c);
/* The arithmetic flags an instruction leaves undefined (SDM vol. 1, appendix A). */
uint16_t x86_insn_undefined(const struct x86_insn *in);

#endif
