/* CPUID feature bits by name, the gates of insn.def, and what the translator and this host can offer.
 *
 * Names: features.def. The list of what the translator carries out is `offered` below: a bit belongs there once the
 * instruction or register it stands for works here. Vector extensions run on the host's units, so they are offered only
 * when the host has them too; AVX-512 only where the host has what Skylake began with, since our own code for its
 * registers takes that. Left out: virtualisation (VMX, SVM), the rest of AVX-512 (ER, PF, 4VNNIW, 4FMAPS, FP16), TSX,
 * MPX, SGX, speculation controls, PMU.
 */
#include "guest/x86/cpuid_int.h"
#include "guest/x86/insn.h"
#include <stdio.h>

const char *const x86_fword_name[X86_FW_NR] = {
    [X86_FW_1_EDX] = "CPUID.01H:EDX",
    [X86_FW_1_ECX] = "CPUID.01H:ECX",
    [X86_FW_7_EBX] = "CPUID.07H:EBX",
    [X86_FW_7_ECX] = "CPUID.07H:ECX",
    [X86_FW_7_EDX] = "CPUID.07H:EDX",
    [X86_FW_7_1_EAX] = "CPUID.07H.01H:EAX",
    [X86_FW_80000001_EDX] = "CPUID.80000001H:EDX",
    [X86_FW_80000001_ECX] = "CPUID.80000001H:ECX",
    [X86_FW_80000007_EDX] = "CPUID.80000007H:EDX",
    [X86_FW_80000008_EBX] = "CPUID.80000008H:EBX",
    [X86_FW_D_1_EAX] = "CPUID.0DH.01H:EAX",
    [X86_FW_6_EAX] = "CPUID.06H:EAX",
    [X86_FW_8000000A_EDX] = "CPUID.8000000AH:EDX",
    [X86_FW_KVM_EAX] = "CPUID.40000001H:EAX",
    [X86_FW_ARCH_CAP] = "MSR(10AH)",
    [X86_FW_CORE_CAP] = "MSR(CFH)",
};

static const struct feature {
    uint8_t word, bit;
    const char *name, *other;
} features[] = {
#define F(word, bit, name, other) {X86_FW_##word, bit, name, other},
#include "guest/x86/features.def"
#undef F
};

/* Gate of each feature id: a bit by name. */
static const char *const gates[X86_F_NR] = {
    [X86_F_FPU] = "fpu",
    [X86_F_TSC] = "tsc",
    [X86_F_MSR] = "msr",
    [X86_F_CX8] = "cx8",
    [X86_F_SEP] = "sep",
    [X86_F_CMOV] = "cmov",
    [X86_F_CLFSH] = "clflush",
    [X86_F_MMX] = "mmx",
    [X86_F_FXSR] = "fxsr",
    [X86_F_SSE] = "sse",
    [X86_F_SSE2] = "sse2",
    [X86_F_SSE3] = "pni",
    [X86_F_PCLMUL] = "pclmulqdq",
    [X86_F_MONITOR] = "monitor",
    [X86_F_SSSE3] = "ssse3",
    [X86_F_FMA] = "fma",
    [X86_F_CX16] = "cx16",
    [X86_F_SSE41] = "sse4.1",
    [X86_F_SSE42] = "sse4.2",
    [X86_F_MOVBE] = "movbe",
    [X86_F_POPCNT] = "popcnt",
    [X86_F_AES] = "aes",
    [X86_F_XSAVE] = "xsave",
    [X86_F_AVX] = "avx",
    [X86_F_F16C] = "f16c",
    [X86_F_RDRAND] = "rdrand",
    [X86_F_FSGSBASE] = "fsgsbase",
    [X86_F_BMI1] = "bmi1",
    [X86_F_AVX2] = "avx2",
    [X86_F_BMI2] = "bmi2",
    [X86_F_INVPCID] = "invpcid",
    [X86_F_RDSEED] = "rdseed",
    [X86_F_ADX] = "adx",
    [X86_F_SMAP] = "smap",
    [X86_F_CLFLUSHOPT] = "clflushopt",
    [X86_F_CLWB] = "clwb",
    [X86_F_SHA] = "sha-ni",
    [X86_F_PKU] = "pku",
    [X86_F_RDPID] = "rdpid",
    [X86_F_GFNI] = "gfni",
    [X86_F_VAES] = "vaes",
    [X86_F_VPCLMUL] = "vpclmulqdq",
    [X86_F_SYSCALL] = "syscall",
    [X86_F_RDTSCP] = "rdtscp",
    [X86_F_LM] = "lm",
    [X86_F_LAHF_LM] = "lahf-lm",
    [X86_F_LZCNT] = "abm",
    [X86_F_SSE4A] = "sse4a",
    [X86_F_PREFETCHW] = "3dnowprefetch",
    [X86_F_3DNOW] = "3dnow",
    [X86_F_XSAVEOPT] = "xsaveopt",
    [X86_F_XSAVEC] = "xsavec",
    [X86_F_XSAVES] = "xsaves",
    [X86_F_CLZERO] = "clzero",
    [X86_F_AVX512F] = "avx512f",
    [X86_F_AVX512DQ] = "avx512dq",
    [X86_F_AVX512BW] = "avx512bw",
    [X86_F_AVX512VL] = "avx512vl",
    [X86_F_AVX512CD] = "avx512cd",
    [X86_F_AVX512IFMA] = "avx512ifma",
    [X86_F_AVX512VBMI] = "avx512vbmi",
    [X86_F_AVX512VBMI2] = "avx512vbmi2",
    [X86_F_AVX512VNNI] = "avx512vnni",
    [X86_F_AVX512BITALG] = "avx512bitalg",
    [X86_F_AVX512VPOPCNTDQ] = "avx512-vpopcntdq",
    [X86_F_AVX512BF16] = "avx512-bf16",
    [X86_F_FSRM] = "fsrm",
    [X86_F_XGETBV1] = "xgetbv1",
    [X86_F_SVM] = "svm",
    [X86_F_AVXVNNI] = "avx-vnni",
    [X86_F_MOVDIRI] = "movdiri",
    [X86_F_MOVDIR64B] = "movdir64b",
    [X86_F_SERIALIZE] = "serialize",
    [X86_F_CMPCCXADD] = "cmpccxadd",
    [X86_F_HLE] = "hle",
    [X86_F_RTM] = "rtm",
};
/* Word and bit of each gate, resolved once before main and read-only afterwards. */
static struct {
    uint8_t word, bit;
} gate_bit[X86_F_NR];

static char canon(char c)
{
    return c == '_' ? '-' : c;
}

bool x86_name_eq(const char *a, const char *b)
{
    for (; *a && canon(*a) == canon(*b); a++, b++)
        ;
    return canon(*a) == canon(*b);
}

static bool other_has(const char *list, const char *name)
{
    while (*list) {
        size_t n = strcspn(list, "|");
        char one[32];

        snprintf(one, sizeof one, "%.*s", (int)n, list);
        if (x86_name_eq(one, name))
            return true;
        list += n + (list[n] == '|');
    }
    return false;
}

bool x86_feature_find(const char *name, enum x86_fword *w, unsigned *bit)
{
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        if (!x86_name_eq(features[i].name, name) && !other_has(features[i].other, name))
            continue;
        *w = features[i].word;
        *bit = features[i].bit;
        return true;
    }
    return false;
}

const char *x86_feature_name(enum x86_fword w, unsigned bit)
{
    for (size_t i = 0; i < ARRAY_LEN(features); i++)
        if (features[i].word == w && features[i].bit == bit)
            return features[i].name;
    return NULL;
}

void x86_feature_each(void (*fn)(const char *name, void *opaque), void *opaque)
{
    for (size_t i = 0; i < ARRAY_LEN(features); i++)
        fn(features[i].name, opaque);
}

static void CONSTRUCTOR gates_resolve(void)
{
    for (unsigned id = X86_F_BASE + 1; id < X86_F_NR; id++) {
        enum x86_fword w = 0;
        unsigned bit = 0;
        bool ok = gates[id] && x86_feature_find(gates[id], &w, &bit);

        assert(ok);
        gate_bit[id].word = (uint8_t)w;
        gate_bit[id].bit = (uint8_t)bit;
    }
}

bool x86_has(const struct x86_features *f, enum x86_feature_id id)
{
    if (id == X86_F_BASE)
        return true;
    assert(id < X86_F_NR);
    return f->w[gate_bit[id].word] >> gate_bit[id].bit & 1;
}

bool x86_insn_offered(const struct x86_features *f, const struct x86_insn *in)
{
    if (in->row->feature && !x86_has(f, in->row->feature))
        return false;
    return likely(!(in->row->attr & X86_A_AVX512)) ||
           (x86_has(f, X86_F_AVX512F) && (!(in->row->attr & X86_A_VL) || in->vl == 64 || x86_has(f, X86_F_AVX512VL)));
}

bool x86_features_set(struct x86_features *f, const char *name, bool on)
{
    enum x86_fword w;
    unsigned bit;

    if (!x86_feature_find(name, &w, &bit))
        return false;
    if (on)
        f->w[w] |= 1u << bit;
    else
        f->w[w] &= ~(1u << bit);
    return true;
}

/* Sets every name of a blank-separated list. */
static void set_list(struct x86_features *f, const char *list)
{
    char one[32];

    while (*(list += strspn(list, " "))) {
        size_t n = strcspn(list, " ");

        snprintf(one, sizeof one, "%.*s", (int)n, list);
        if (!x86_features_set(f, one, true))
            assert(!"feature lists of this file name known features");
        list += n;
    }
}

static bool has_name(const struct x86_features *f, const char *name)
{
    enum x86_fword w;
    unsigned bit;

    return x86_feature_find(name, &w, &bit) && (f->w[w] >> bit & 1);
}

/* Architecture extensions carried out by our own code, on any host. */
static const char offered_plain[] =
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush acpi mmx fxsr sse sse2 ss "
    "monitor cx16 pcid x2apic movbe popcnt tsc-deadline xsave rdrand hypervisor "
    "fsgsbase tsc-adjust bmi1 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb umip pku rdpid fsrm "
    "syscall nx pdpe1gb rdtscp lm mmxext fxsr-opt lahf-lm cmp-legacy cr8legacy abm misalignsse 3dnowprefetch osvw "
    "topoext "
    "invtsc clzero xsaveerptr wbnoinvd xsaveopt xsavec xgetbv1 xsaves arat";
/* Extensions that run on the host's vector units. */
static const char offered_host[] =
    "pni ssse3 sse4.1 sse4.2 pclmulqdq aes avx f16c fma avx2 sha-ni sse4a gfni vaes vpclmulqdq avx-vnni "
    "avx512f avx512dq avx512bw avx512vl avx512cd avx512ifma avx512vbmi avx512vbmi2 avx512vnni avx512bitalg "
    "avx512-vpopcntdq avx512-bf16";

static uint64_t host_xcr0(void)
{
    uint32_t a, b, c, d, lo, hi;

    x86_host_cpuid(1, 0, &a, &b, &c, &d);
    if (!(c & 1u << 27))
        return 3;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

void x86_features_host(struct x86_features *f)
{
    uint32_t r[4], a, b, c, d;
    uint64_t xcr0 = host_xcr0();

    memset(f, 0, sizeof *f);
    x86_host_cpuid(0, 0, &f->level, &r[0], &r[2], &r[1]);
    memcpy(f->vendor, r, 12);
    x86_host_cpuid(1, 0, &a, &b, &f->w[X86_FW_1_ECX], &f->w[X86_FW_1_EDX]);
    f->family = (a >> 8 & 15) + ((a >> 8 & 15) == 15 ? a >> 20 & 0xff : 0);
    f->model = (a >> 4 & 15) | ((a >> 8 & 15) == 15 || (a >> 8 & 15) == 6 ? (a >> 16 & 15) << 4 : 0);
    f->stepping = a & 15;
    if (f->level >= 6)
        x86_host_cpuid(6, 0, &f->w[X86_FW_6_EAX], &b, &c, &d);
    if (f->level >= 7) {
        x86_host_cpuid(7, 0, &a, &f->w[X86_FW_7_EBX], &f->w[X86_FW_7_ECX], &f->w[X86_FW_7_EDX]);
        if (a)
            x86_host_cpuid(7, 1, &f->w[X86_FW_7_1_EAX], &b, &c, &d);
    }
    if (f->level >= 13)
        x86_host_cpuid(13, 1, &f->w[X86_FW_D_1_EAX], &b, &c, &d);
    x86_host_cpuid(0x80000000, 0, &f->xlevel, &b, &c, &d);
    x86_host_cpuid(0x80000001, 0, &a, &b, &f->w[X86_FW_80000001_ECX], &f->w[X86_FW_80000001_EDX]);
    for (unsigned i = 0; i < 3 && f->xlevel >= 0x80000004; i++) {
        x86_host_cpuid(0x80000002 + i, 0, &r[0], &r[1], &r[2], &r[3]);
        memcpy(f->model_id + 16 * i, r, 16);
    }
    if (f->xlevel >= 0x80000008) {
        x86_host_cpuid(0x80000007, 0, &a, &b, &c, &f->w[X86_FW_80000007_EDX]);
        x86_host_cpuid(0x80000008, 0, &a, &f->w[X86_FW_80000008_EBX], &c, &d);
        f->phys_bits = a & 0xff;
        f->virt_bits = a >> 8 & 0xff;
    }
    if (f->xlevel >= 0x8000000a)
        x86_host_cpuid(0x8000000a, 0, &a, &b, &c, &f->w[X86_FW_8000000A_EDX]);
    if ((xcr0 & 6) != 6) /* the host's kernel does not switch the upper halves */
        x86_features_set(f, "avx", false);
    if ((xcr0 & 0xe6) != 0xe6)
        x86_features_set(f, "avx512f", false);
    f->l3_cache = f->migratable = true;
    x86_features_close(f);
}

/* What each group of extensions rests on: when the left is missing, the right ones cannot be shown. */
static const struct {
    const char *base, *deps;
} needs[] = {
    {"sse", "sse2"},
    {"sse2", "pni ssse3 sse4.1 sse4.2 pclmulqdq aes sha-ni sse4a gfni"},
    {"xsave", "avx xsaveopt xsavec xgetbv1 xsaves pku avx512f"},
    {"avx", "avx2 fma f16c xop fma4 vaes vpclmulqdq avx-vnni avx512f"},
    {"avx2", "avx512f avx-vnni"},
    {"avx512f",
     "avx512dq avx512bw avx512vl avx512cd avx512ifma avx512vbmi avx512vbmi2 avx512vnni avx512bitalg avx512-vpopcntdq "
     "avx512-bf16 avx512-vp2intersect avx512pf avx512er avx512-4vnniw avx512-4fmaps avx512-fp16"},
    {"svm", "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists pause-filter pfthreshold avic "
            "v-vmsave-vmload vgif svme-addr-chk"},
    {"arch-capabilities", "rdctl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no tsx-ctrl taa-no"},
    {"core-capability", "split-lock-detect"},
    {"lm", "pcid"},
};

void x86_features_close(struct x86_features *f)
{
    for (size_t i = 0; i < ARRAY_LEN(needs); i++) {
        const char *p = needs[i].deps;
        char one[32];

        if (has_name(f, needs[i].base))
            continue;
        while (*(p += strspn(p, " "))) {
            size_t n = strcspn(p, " ");

            snprintf(one, sizeof one, "%.*s", (int)n, p);
            x86_features_set(f, one, false);
            p += n;
        }
    }
}

void x86_features_max(struct x86_features *out)
{
    struct x86_features host, vec = {0};

    x86_features_host(&host);
    memset(out, 0, sizeof *out);
    set_list(out, offered_plain);
    set_list(&vec, offered_host);
    for (unsigned i = 0; i < X86_FW_NR; i++)
        out->w[i] |= vec.w[i] & host.w[i];
    if (!has_name(out, "avx512dq") || !has_name(out, "avx512bw") || !has_name(out, "avx512vl"))
        x86_features_set(out, "avx512f", false);
    strcpy(out->vendor, "AuthenticAMD");
    strcpy(out->model_id, "Lyrebird Virtual CPU version 1.0");
    out->family = 15;
    out->model = 107;
    out->stepping = 1;
    out->level = 13;
    out->xlevel = 0x8000001e;
    out->phys_bits = 40;
    out->virt_bits = 48;
    out->hypervisor = true;
    out->l3_cache = out->migratable = true;
    x86_features_close(out);
}

uint64_t x86_xcr0_mask(const struct x86_features *f)
{
    uint64_t m = 0;

    if (!x86_has(f, X86_F_XSAVE))
        return 0;
    m |= 3;
    if (x86_has(f, X86_F_AVX))
        m |= 4;
    if (x86_has(f, X86_F_AVX512F))
        m |= 0xe0;
    if (x86_has(f, X86_F_PKU))
        m |= 0x200;
    return m;
}

/* Components: x87, SSE, AVX, two of MPX, opmask, upper halves of ZMM0-15, ZMM16-31, PT, PKRU. Offsets are those of
 * Intel's processors; one layout lets images travel between models. */
void x86_xsave_component(const struct x86_features *f, unsigned i, uint32_t *size, uint32_t *off)
{
    static const struct {
        uint16_t size, off;
    } c[] = {{160, 0},   {256, 160},  {256, 576},   {64, 960}, {64, 1024},
             {64, 1088}, {512, 1152}, {1024, 1664}, {0, 0},    {8, 2688}};
    static_assert(ARRAY_LEN(c) == ARRAY_LEN(f->xsave_at), "a place for each");

    *size = i < ARRAY_LEN(c) ? c[i].size : 0;
    *off = i >= ARRAY_LEN(c) ? 0 : f->xsave_at[i] ? f->xsave_at[i] : c[i].off;
}

void x86_xsave_as_host(struct x86_features *f)
{
    uint32_t size, off, c, d;

    for (unsigned i = 2; i < ARRAY_LEN(f->xsave_at); i++) {
        x86_host_cpuid(0xd, i, &size, &off, &c, &d);
        f->xsave_at[i] = size ? (uint16_t)off : 0;
    }
}

uint32_t x86_xsave_size(const struct x86_features *f, uint64_t mask, bool compacted)
{
    uint32_t end = 576, size, off;

    for (unsigned i = 2; i < 10; i++) {
        if (!(mask >> i & 1))
            continue;
        x86_xsave_component(f, i, &size, &off);
        end = compacted ? end + size : (uint32_t)max_u64(end, off + size);
    }
    return end;
}
