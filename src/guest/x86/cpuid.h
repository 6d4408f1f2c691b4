/* CPU models and their feature words: what CPUID answers, what gates instructions. */
#ifndef GUEST_X86_CPUID_H
#define GUEST_X86_CPUID_H

#include "base/err.h"

/* Feature words. */
enum x86_fword {
    X86_FW_1_EDX,
    X86_FW_1_ECX,
    X86_FW_7_EBX,
    X86_FW_7_ECX,
    X86_FW_7_EDX,
    X86_FW_7_1_EAX,
    X86_FW_80000001_EDX,
    X86_FW_80000001_ECX,
    X86_FW_80000007_EDX,
    X86_FW_80000008_EBX,
    X86_FW_D_1_EAX,
    X86_FW_6_EAX,
    X86_FW_8000000A_EDX,
    X86_FW_KVM_EAX /* 40000001h */,
    X86_FW_ARCH_CAP /* MSR 10ah */,
    X86_FW_CORE_CAP /* MSR cfh */,
    X86_FW_NR
};
/* Instruction gates: the `feature` column of insn.def; each names a bit of a word (table in cpuid.c). */
enum x86_feature_id {
    X86_F_BASE, /* always there */
    X86_F_FPU,
    X86_F_TSC,
    X86_F_MSR,
    X86_F_CX8,
    X86_F_SEP,
    X86_F_CMOV,
    X86_F_CLFSH,
    X86_F_MMX,
    X86_F_FXSR,
    X86_F_SSE,
    X86_F_SSE2,
    X86_F_SSE3,
    X86_F_PCLMUL,
    X86_F_MONITOR,
    X86_F_SSSE3,
    X86_F_FMA,
    X86_F_CX16,
    X86_F_SSE41,
    X86_F_SSE42,
    X86_F_MOVBE,
    X86_F_POPCNT,
    X86_F_AES,
    X86_F_XSAVE,
    X86_F_AVX,
    X86_F_F16C,
    X86_F_RDRAND,
    X86_F_FSGSBASE,
    X86_F_BMI1,
    X86_F_AVX2,
    X86_F_BMI2,
    X86_F_INVPCID,
    X86_F_RDSEED,
    X86_F_ADX,
    X86_F_SMAP,
    X86_F_CLFLUSHOPT,
    X86_F_CLWB,
    X86_F_SHA,
    X86_F_PKU,
    X86_F_RDPID,
    X86_F_GFNI,
    X86_F_VAES,
    X86_F_VPCLMUL,
    X86_F_SYSCALL,
    X86_F_RDTSCP,
    X86_F_LM,
    X86_F_LAHF_LM,
    X86_F_LZCNT /* abm */,
    X86_F_SSE4A,
    X86_F_PREFETCHW,
    X86_F_3DNOW,
    X86_F_XSAVEOPT,
    X86_F_XSAVEC,
    X86_F_XSAVES,
    X86_F_CLZERO,
    X86_F_AVX512F,
    X86_F_AVX512DQ,
    X86_F_AVX512BW,
    X86_F_AVX512VL,
    X86_F_AVX512CD,
    X86_F_AVX512IFMA,
    X86_F_AVX512VBMI,
    X86_F_AVX512VBMI2,
    X86_F_AVX512VNNI,
    X86_F_AVX512BITALG,
    X86_F_AVX512VPOPCNTDQ,
    X86_F_AVX512BF16,
    X86_F_FSRM,
    X86_F_XGETBV1,
    X86_F_SVM,
    X86_F_AVXVNNI,
    X86_F_MOVDIRI,
    X86_F_MOVDIR64B,
    X86_F_SERIALIZE,
    X86_F_CMPCCXADD,
    X86_F_HLE,
    X86_F_RTM,
    X86_F_NR
};
struct x86_features {
    uint32_t w[X86_FW_NR];
    char vendor[13];
    char model_id[49];
    uint32_t family, model, stepping, level, xlevel;
    uint32_t phys_bits, virt_bits;
    bool hypervisor;
    bool hv_relaxed, hv_vapic, hv_time; /* Hyper-V enlightenments */
    uint32_t hv_spinlocks;              /* 0 = off */
    bool kvm_hidden;
    bool hv_vpindex, hv_frequencies, hv_runtime, hv_reset, hv_passthrough;
    char hv_vendor[13];        /* "Microsoft Hv" unless hv-vendor-id says otherwise; empty = no hv_* given */
    bool kvm_leaves;           /* the accelerator is KVM: 40000000h says so */
    bool l3_cache, host_cache; /* show a third-level cache; pass the host's cache leaves */
    bool pmu, migratable;
    uint16_t xsave_at[10]; /* where XSAVE has a component, if not where Intel's processors do (x86_xsave_component); 0:
                              there */
    uint8_t cache;         /* private to cpuid.c: which cache shapes */
    uint64_t tsc_hz;       /* tsc-frequency=, 0 = the host's */
};
struct x86_model;
struct x86_cpu;
bool x86_has(const struct x86_features *f, enum x86_feature_id id);
/* Every feature the decoded instruction needs is there: its row's, for EVEX also AVX512F and, by length, AVX512VL. */
struct x86_insn;
bool x86_insn_offered(const struct x86_features *f, const struct x86_insn *in);
/* "MODEL[,+f|-f|f=on|off|key=value]...". What the translator (or the given mask) cannot offer is removed with one
 * warning that lists each feature; with `enforce` it is an error. host_mask NULL: what the translator implements here.
 */
bool x86_cpu_parse_model(const char *text, const struct x86_features *mask, struct x86_features *out,
                         const struct x86_model **model, struct err **errp);
/* The named feature of a set on or off by its -cpu spelling; false when there is no such feature. */
bool x86_features_set(struct x86_features *f, const char *name, bool on);
/* What the translator offers on this host ("max"). */
void x86_features_max(struct x86_features *out);
/* Everything this host's own CPUID shows (an accelerator that runs on it masks it further). */
void x86_features_host(struct x86_features *out);
enum { X86_XCR0_PKRU = 1 << 9 };
/* XCR0 bits (user state components) the features allow. */
uint64_t x86_xcr0_mask(const struct x86_features *f);
/* Size and standard offset of a state component for CPUID leaf 0xd and the XSAVE images; size 0 when it does not exist.
 */
void x86_xsave_component(const struct x86_features *f, unsigned i, uint32_t *size, uint32_t *off);
/* Makes the offsets the host's, whose own instructions can then be used. */
void x86_xsave_as_host(struct x86_features *f);
/* Bytes of an area that holds the components of mask. */
uint32_t x86_xsave_size(const struct x86_features *f, uint64_t mask, bool compacted);
/* CPUID instruction; topology and APIC ids come from the CPU. */
void x86_cpuid(struct x86_cpu *c, uint32_t leaf, uint32_t subleaf, uint32_t out[4] /* eax ebx ecx edx */);
/* `-cpu help` text; caller frees. */
char *x86_model_help(void);
void x86_model_each(void (*fn)(const char *name, const char *desc, void *opaque), void *opaque);
/* The versioned name a plain name or an alias stands for; NULL when name is no alias. Caller frees. */
char *x86_model_alias_of(const char *name);
/* Every named feature, and whether it is on. */
void x86_features_each(const struct x86_features *f, void (*fn)(const char *name, bool on, void *opaque), void *opaque);
/* The features a model asks for that mask (NULL: the translator) lacks. */
void x86_model_missing(const char *name, const struct x86_features *mask, void (*fn)(const char *feature, void *opaque),
                       void *opaque);

#endif
