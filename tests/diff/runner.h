/* What the differential testers of the IR guests have in common: options, running the program `oracle` of the guest's
 * architecture on a file of records, the table of rows. */
#ifndef TESTS_DIFF_RUNNER_H
#define TESTS_DIFF_RUNNER_H

#include "values.h"

#include <stdbool.h>
#include <stddef.h>

/* What the records of a run have met with, by what the oracle made of them: printed at the end. */
enum runner_sight {
    RUNNER_SEGV,
    RUNNER_BUS,
    RUNNER_OVER_END,   /* a fault of an access that began or ended on a mapped page */
    RUNNER_MISALIGNED, /* addresses no multiple of 8, and no fault */
    RUNNER_CROSSING,   /* addresses just below the page's end in the middle of what is mapped, and no fault */
    RUNNER_NAN,
    RUNNER_DENORMAL, /* results */
    RUNNER_INVALID,
    RUNNER_BY_ZERO,
    RUNNER_OVERFLOW,
    RUNNER_UNDERFLOW,
    RUNNER_INEXACT, /* flags that were set by the record */
    RUNNER_NEAREST,
    RUNNER_UP,
    RUNNER_DOWN,
    RUNNER_TO_ZERO, /* rounding modes of records that changed FP registers */
    RUNNER_SIGHTS
};

struct runner {
    uint64_t rng;
    const char *oracle;  /* the emulator believed */
    const char *engine;  /* the one tested; NULL: the tester itself */
    const char *program; /* `oracle` for the guest */
    const char *only, *table;
    const char *cpu; /* QEMU_CPU of the oracle; NULL: as it is */
    unsigned long count;
    bool stream, coverage, verbose;
    uint64_t runs, differ; /* as runner_row has summed them up */
    unsigned rows, none, wrong;
    unsigned long seen[RUNNER_SIGHTS];
};

/* --count --seed --row --table --oracle --engine --program --stream --coverage -v. False: something else was said, or
 * no program. */
bool runner_options(struct runner *r, int argc, char **argv);

/* The program under emu: in's n bytes in a file, m bytes from another to out. Its exit status; 77: emu is not there,
 * 128 and more: a signal. */
int runner_run(const struct runner *r, const char *emu, const void *in, size_t n, void *out, size_t m);

/* A result of 64 bits as one number or two, and a fault, noted in seen. lo, hi: what is mapped. */
void runner_see_fp(struct runner *r, uint64_t v);
void runner_see_fault(struct runner *r, uint64_t sig, uint64_t addr, uint64_t lo, uint64_t hi);

/* One row's outcome, printed when it is worth it or all are asked for. Rows named NONE... stand for words that are no
 * instruction and do not count. */
void runner_row(struct runner *r, const char *set, const char *name, unsigned long hits, unsigned long bad);
/* The totals. status: of the last program. Returns the tester's own exit status. */
int runner_end(const struct runner *r, int status);

/* Two faults at different addresses that are the same: an access that crosses into an unmapped page is reported where
 * it began or where the page does. */
static inline bool runner_same_fault(uint64_t sig, uint64_t addr, uint64_t sig2, uint64_t addr2)
{
    enum { SEGV = 11 };

    return sig && sig == sig2 && ((addr ^ addr2) >> 12 == 0 || sig == SEGV);
}

#endif
