/* What a fuzz target offers and may use. Targets run under clang's libFuzzer or, without it, under main.c. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include "base/util.h"

/* Once, before the first input and its time limit. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
/* Inputs a target can make itself, for a corpus to begin with: the i-th into buf, its length; 0 = there are no more. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t max);

extern int fuzz_err; /* the target's: where its findings are told */

/* Takes bytes off the front of an input; zeros when it is used up. */
struct bytes {
    const uint8_t *p;
    size_t left;
};
static inline uint8_t take8(struct bytes *b)
{
    if (!b->left)
        return 0;
    b->left--;
    return *b->p++;
}
static inline uint32_t take16(struct bytes *b)
{
    uint32_t lo = take8(b);

    return lo | (uint32_t)take8(b) << 8;
}
static inline uint32_t take32(struct bytes *b)
{
    uint32_t lo = take16(b);

    return lo | take16(b) << 16;
}

#endif
