/* Shared by features.c, models.c and cpuid.c: names of feature bits and cache shapes. */
#ifndef GUEST_X86_CPUID_INT_H
#define GUEST_X86_CPUID_INT_H

#include "base/str.h"
#include "guest/x86/cpuid.h"

/* Cache shapes of the models; the table is in cpuid.c. */
enum { CACHE_LEGACY, CACHE_ZEN, CACHE_ZEN2, CACHE_ZEN3 };

/* Where a word comes from in CPUID, for messages. */
extern const char *const x86_fword_name[X86_FW_NR]; /* "CPUID.01H:EDX" */

/* The host's CPUID. */
static inline void x86_host_cpuid(uint32_t leaf, uint32_t sub, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(sub));
}

/* Finds a feature by any spelling. False when no bit has that name. */
bool x86_feature_find(const char *name, enum x86_fword *w, unsigned *bit);
/* Usual spelling of a bit, NULL when it has none. */
const char *x86_feature_name(enum x86_fword w, unsigned bit);
/* Walks names in table order. */
void x86_feature_each(void (*fn)(const char *name, void *opaque), void *opaque);
/* True when two spellings are equal with '_' taken as '-'. */
bool x86_name_eq(const char *a, const char *b);
/* Bits a feature needs beside its own are dropped when the base went: AVX without XSAVE and the like. */
void x86_features_close(struct x86_features *f);

#endif
