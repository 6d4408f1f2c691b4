/* The same for Q35. */
#define FUZZ_Q35
#include "state_test.c"
