/* The log behind trial.h. Private to guest/x86. */
#ifndef GUEST_X86_TRIAL_INT_H
#define GUEST_X86_TRIAL_INT_H

#include "guest/x86/trial.h"

enum { X86_TRIAL_WRITES = 1 << 16, X86_TRIAL_BYTES = 4 << 20 };
enum { X86_TRIAL_JMP = 16 }; /* jumps to fault_jmp with this plus an end; 1 is a fault */
struct x86_trial_write {
    struct mem_ram *ram; /* borrowed: alive as long as the trial */
    uint64_t off;
    uint32_t size, at; /* in bytes[]: what was there, then what the trial left there */
};
struct x86_trial {
    bool on;
    bool tainted;       /* an instruction read some of them */
    uint16_t undefined; /* arithmetic flags that no instruction since has defined */
    unsigned nr;
    uint32_t used;
    struct x86_trial_write write[X86_TRIAL_WRITES];
    uint8_t bytes[X86_TRIAL_BYTES];
};

#endif
