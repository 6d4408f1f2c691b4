/* CPU models, -cpu options and CPUID leaves.
 * proves: F-CPU-03, F-CPU-04, F-CPU-05, F-CPU-08, F-ACC-15, S005, S032, S033, S034, S036 */
#include "unit.h"

#include "guest/x86/cpuid_int.h"
#include "guest/x86/state.h"
#include <string.h>

static struct x86_features everything(void)
{
    struct x86_features f = {0};

    memset(f.w, 0xff, sizeof f.w);
    return f;
}

static struct x86_features parse(const char *text)
{
    struct x86_features all = everything(), f;
    struct err *e = NULL;

    if (!x86_cpu_parse_model(text, &all, &f, NULL, &e))
        fail_msg("%s: %s", text, e->msg);
    return f;
}

/* Signature (leaf 1 EAX order) and feature words that the processors of these names report. */
static void named_models_show_the_words_of_their_processors(void **state)
{
    static const struct {
        const char *name, *vendor;
        unsigned family, model, stepping;
        uint32_t edx1, ecx1, ebx7, edx81, ecx81;
    } t[] = {
        {"n270", "GenuineIntel", 6, 28, 2, 0x0fc9fbfd, 0x80400209, 0, 0x00100000, 1},
        {"Conroe", "GenuineIntel", 6, 15, 3, 0x078bfbfd, 0x80000201, 0, 0x20100800, 1},
        {"Skylake-Client", "GenuineIntel", 6, 94, 3, 0x078bfbfd, 0xf7fa3203, 0x001c0fb9, 0x28100800, 0x121},
        {"Skylake-Client-noTSX-IBRS", "GenuineIntel", 6, 94, 3, 0x078bfbfd, 0xf7fa3203, 0x001c07a9, 0x28100800, 0x121},
        {"Icelake-Server-v4", "GenuineIntel", 6, 106, 0, 0x078bfbfd, 0xf7fa3203, 0xf1bf07a9, 0x2c100800, 0x121},
        {"EPYC-Milan-v1", "AuthenticAMD", 25, 1, 1, 0x078bfbfd, 0xf6da320b, 0x219c07a9, 0x2fd3fbfd, 0x00c003f5},
        {"Opteron_G3", "AuthenticAMD", 16, 2, 3, 0x078bfbfd, 0x80802009, 0, 0x2993fbfd, 0xe5},
        {"486", "GenuineIntel", 4, 8, 0, 0x00000009, 0x80000000, 0, 0, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        struct x86_features f = parse(t[i].name);

        assert_string_equal(f.vendor, t[i].vendor);
        assert_int_equal(f.family, t[i].family);
        assert_int_equal(f.model, t[i].model);
        assert_int_equal(f.stepping, t[i].stepping);
        assert_int_equal(f.w[X86_FW_1_EDX], t[i].edx1);
        assert_int_equal(f.w[X86_FW_1_ECX], t[i].ecx1);
        assert_int_equal(f.w[X86_FW_7_EBX], t[i].ebx7);
        assert_int_equal(f.w[X86_FW_80000001_EDX], t[i].edx81);
        assert_int_equal(f.w[X86_FW_80000001_ECX], t[i].ecx81);
    }
}

static void features_go_on_and_off_in_every_spelling(void **state)
{
    struct x86_features f = parse("qemu64,+ssse3,sse4_1=on,-sse3,+sse4.2,abm,hypervisor=off");

    assert_true(x86_has(&f, X86_F_SSSE3));
    assert_true(x86_has(&f, X86_F_SSE41));
    assert_true(x86_has(&f, X86_F_SSE42));
    assert_true(x86_has(&f, X86_F_LZCNT));
    assert_false(x86_has(&f, X86_F_SSE3));
    assert_false(f.hypervisor);
}

static void options_reach_their_fields(void **state)
{
    struct x86_features f = parse("Nehalem,vendor=AuthenticAMD,model-id=a b,family=25,stepping=7,phys-bits=42,level=5,"
                                  "hv_relaxed,hv_spinlocks=0x1fff,hv_vapic,hv_time,kvm=off,tsc-frequency=2000000000");

    assert_string_equal(f.vendor, "AuthenticAMD");
    assert_string_equal(f.model_id, "a b");
    assert_int_equal(f.family, 25);
    assert_int_equal(f.stepping, 7);
    assert_int_equal(f.phys_bits, 42);
    assert_int_equal(f.level, 5);
    assert_true(f.hv_relaxed && f.hv_vapic && f.hv_time && f.kvm_hidden);
    assert_int_equal(f.hv_spinlocks, 0x1fff);
    assert_string_equal(f.hv_vendor, "Microsoft Hv");
    assert_int_equal(f.tsc_hz, 2000000000);
}

static void refuses(const char *text, const char *msg, const char *hint)
{
    struct x86_features all = everything(), f;
    struct err *e = NULL;

    assert_false(x86_cpu_parse_model(text, strncmp(text, "host", 4) ? &all : NULL, &f, NULL, &e));
    assert_non_null(strstr(e->msg, msg));
    if (hint)
        assert_non_null(strstr(e->hint, hint));
    err_free(e);
}

static void mistakes_are_named_with_the_nearest_word(void **state)
{
    refuses("Skylake-Cleint", "Skylake-Cleint", "Skylake-Client");
    refuses("qemu64,+sse5", "sse5", "sse");
    refuses("qemu64,sse4_1=maybe", "on or off", NULL);
    refuses("qemu64,vendor=me", "12 characters", NULL);
    refuses("qemu64,phys-bits=12", "phys-bits", NULL);
    refuses("qemu64,hv-evmcs", "not offered", NULL);
    refuses("host", "requires KVM", "max");
}

static void missing_features_are_masked_or_enforced(void **state)
{
    struct x86_features all = everything(), f;
    struct err *e = NULL;

    x86_features_set(&all, "avx", false);
    x86_features_set(&all, "hle", false);
    assert_false(x86_cpu_parse_model("Haswell,enforce", &all, &f, NULL, &e));
    assert_non_null(strstr(e->msg, "avx"));
    assert_non_null(strstr(e->msg, "hle"));
    err_free(e);
    assert_true(x86_cpu_parse_model("Haswell,check=off", &all, &f, NULL, NULL));
    assert_false(x86_has(&f, X86_F_AVX));
    assert_false(x86_has(&f, X86_F_AVX2)); /* rests on AVX */
    assert_true(x86_has(&f, X86_F_BMI2));
}

static void max_offers_what_the_translator_has_and_names_itself(void **state)
{
    struct x86_features f, host;

    x86_features_host(&host);
    assert_true(x86_cpu_parse_model("max", NULL, &f, NULL, NULL));
    assert_true(x86_has(&f, X86_F_SSE2) && x86_has(&f, X86_F_LM));
    assert_int_equal(x86_has(&f, X86_F_AVX2), x86_has(&host, X86_F_AVX2));
    assert_false(x86_has(&f, X86_F_SVM));
}

static const char *const avx512[] = {"avx512f",    "avx512dq",     "avx512bw",         "avx512vl",
                                     "avx512cd",   "avx512ifma",   "avx512vbmi",       "avx512vbmi2",
                                     "avx512vnni", "avx512bitalg", "avx512-vpopcntdq", "avx512-bf16"};
static const char *const not_avx512[] = {"avx512pf",      "avx512er",    "avx512-4vnniw",
                                         "avx512-4fmaps", "avx512-fp16", "avx512-vp2intersect"};

static bool shows(const struct x86_features *f, const char *name)
{
    enum x86_fword w;
    unsigned bit;

    assert_true(x86_feature_find(name, &w, &bit));
    return f->w[w] >> bit & 1;
}

static void avx512_is_offered_as_far_as_the_host_has_it(void **state)
{
    struct x86_features f, host;
    bool has;

    x86_features_host(&host);
    has = shows(&host, "avx512f") && shows(&host, "avx512dq") && shows(&host, "avx512bw") && shows(&host, "avx512vl");
    assert_true(x86_cpu_parse_model("max", NULL, &f, NULL, NULL));
    for (size_t i = 0; i < ARRAY_LEN(avx512); i++)
        assert_int_equal(shows(&f, avx512[i]), has && shows(&host, avx512[i]));
    for (size_t i = 0; i < ARRAY_LEN(not_avx512); i++)
        assert_false(shows(&f, not_avx512[i]));
    assert_int_equal(x86_xcr0_mask(&f) & 0xe0, has ? 0xe0 : 0);
    assert_true(x86_cpu_parse_model("max,-avx512f", NULL, &f, NULL, NULL));
    for (size_t i = 0; i < ARRAY_LEN(avx512); i++)
        assert_false(shows(&f, avx512[i]));
    assert_int_equal(x86_xcr0_mask(&f) & 0xe0, 0);
}

static void xsave_areas_can_lie_as_the_hosts(void **state)
{
    struct x86_features f = everything();
    uint32_t size, off, r[4];

    memset(f.xsave_at, 0, sizeof f.xsave_at);
    x86_xsave_component(&f, 5, &size, &off);
    assert_int_equal(off, 1088);
    x86_xsave_as_host(&f);
    for (unsigned i = 2; i < 10; i++) {
        x86_host_cpuid(0xd, i, &r[0], &r[1], &r[2], &r[3]);
        x86_xsave_component(&f, i, &size, &off);
        if (r[0]) {
            assert_int_equal(size, r[0]);
            assert_int_equal(off, r[1]);
        }
    }
}

static struct x86_cpu *cpu_with(const char *model)
{
    static struct x86_cpu c;

    memset(&c, 0, sizeof c);
    c.feat = parse(model);
    c.topo.sockets = c.topo.dies = c.topo.cores = c.topo.threads = 1;
    c.mode = X86_MODE_64;
    return &c;
}

static void leaf_1_carries_signature_and_live_bits(void **state)
{
    struct x86_cpu *c = cpu_with("EPYC-Milan,+pku");
    uint32_t r[4];

    x86_cpuid(c, 1, 0, r);
    assert_int_equal(r[0], 0x00a00f11);
    assert_false(r[2] & 1 << 27);
    c->cr4 |= X86_CR4_OSXSAVE | X86_CR4_PKE;
    c->port.apic_id = 5;
    x86_cpuid(c, 1, 0, r);
    assert_true(r[2] & 1 << 27);
    assert_int_equal(r[1] >> 24, 5);
    x86_cpuid(c, 7, 0, r);
    assert_true(r[2] & 1 << 4);
}

static void topology_leaves_agree(void **state)
{
    struct x86_cpu *c = cpu_with("EPYC,+topoext");
    uint32_t r[4];

    c->topo.cores = 3;
    c->topo.threads = 2;
    c->port.apic_id = 3;
    x86_cpuid(c, 1, 0, r);
    assert_int_equal(r[1] >> 16 & 0xff, 8); /* ids of a package */
    assert_true(r[3] & 1 << 28);
    x86_cpuid(c, 0xb, 0, r);
    assert_int_equal(r[0], 1);
    assert_int_equal(r[1], 2);
    assert_int_equal(r[3], 3);
    x86_cpuid(c, 0xb, 1, r);
    assert_int_equal(r[0], 3);
    assert_int_equal(r[1], 6);
    x86_cpuid(c, 0xb, 2, r);
    assert_int_equal(r[1], 0);
    x86_cpuid(c, 0x8000001e, 0, r);
    assert_int_equal(r[1], 1 | 1 << 8); /* core 1, 2 threads */
    x86_cpuid(c, 0x80000008, 0, r);
    assert_int_equal(r[2], 5 | 3 << 12);
}

static void xsave_leaf_gives_standard_and_compacted_sizes(void **state)
{
    struct x86_cpu *c = cpu_with("Skylake-Server-v5,-pku");
    uint32_t r[4];

    c->xcr0 = 7;
    x86_cpuid(c, 0xd, 0, r);
    assert_int_equal(r[0], 0xe7);
    assert_int_equal(r[1], 576 + 256);
    assert_int_equal(r[2], 2688);
    x86_cpuid(c, 0xd, 1, r);
    assert_int_equal(r[1], 832);
    x86_cpuid(c, 0xd, 5, r);
    assert_int_equal(r[0], 64);
    assert_int_equal(r[1], 1088);
}

static void hypervisor_leaves_follow_the_options(void **state)
{
    struct x86_cpu *c = cpu_with("qemu64");
    uint32_t r[4];

    x86_cpuid(c, 0x40000000, 0, r);
    assert_memory_equal(r + 1, "LyrebirdVMM\0", 12);
    c = cpu_with("qemu64,hv_relaxed,hv_spinlocks=0x1fff,hv_vapic,hv_time");
    x86_cpuid(c, 0x40000000, 0, r);
    assert_memory_equal(r + 1, "Microsoft Hv", 12);
    x86_cpuid(c, 0x40000003, 0, r);
    assert_true(r[0] & 1 << 1 && r[0] & 1 << 4 && r[0] & 1 << 9);
    x86_cpuid(c, 0x40000004, 0, r);
    assert_int_equal(r[1], 0x1fff);
    c = cpu_with("qemu64,-hypervisor");
    x86_cpuid(c, 0x40000000, 0, r);
    assert_int_equal(r[0] | r[1], 0);
}

static void leaves_beyond_the_last_follow_the_vendor(void **state)
{
    uint32_t r[4], last[4];

    x86_cpuid(cpu_with("qemu64"), 0x1000, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    x86_cpuid(cpu_with("Skylake-Client"), 0x1000, 0, r);
    x86_cpuid(cpu_with("Skylake-Client"), 13, 0, last);
    assert_memory_equal(r, last, sizeof r);
}

static void help_lists_every_model_and_flag(void **state)
{
    char *h = x86_model_help();

    assert_non_null(strstr(h, "x86 Skylake-Client-v1"));
    assert_non_null(strstr(h, "x86 Haswell-noTSX-IBRS"));
    assert_non_null(strstr(h, "x86 max "));
    assert_non_null(strstr(h, " tsc-deadline"));
    free(h);
}

UNIT_MAIN(cmocka_unit_test(named_models_show_the_words_of_their_processors),
          cmocka_unit_test(features_go_on_and_off_in_every_spelling), cmocka_unit_test(options_reach_their_fields),
          cmocka_unit_test(mistakes_are_named_with_the_nearest_word),
          cmocka_unit_test(missing_features_are_masked_or_enforced),
          cmocka_unit_test(max_offers_what_the_translator_has_and_names_itself),
          cmocka_unit_test(avx512_is_offered_as_far_as_the_host_has_it),
          cmocka_unit_test(xsave_areas_can_lie_as_the_hosts), cmocka_unit_test(leaf_1_carries_signature_and_live_bits),
          cmocka_unit_test(topology_leaves_agree), cmocka_unit_test(xsave_leaf_gives_standard_and_compacted_sizes),
          cmocka_unit_test(hypervisor_leaves_follow_the_options),
          cmocka_unit_test(leaves_beyond_the_last_follow_the_vendor), cmocka_unit_test(help_lists_every_model_and_flag))
