/* -cpu MODEL[,+feature|-feature|feature=on|off|key=value]...: named models, their versions, and the options every model
 * takes. Table: models.def. Names, versions and option spellings are those people's scripts use; -v1 is what the plain
 * name means. Left out: vmx-* subfeatures, Hyper-V synthetic interrupts and timers (refused by name). */
#include "base/log.h"
#include "base/opts.h"
#include "guest/x86/cpuid_int.h"
#include <stdio.h>

#define INTEL "GenuineIntel"
#define AMD   "AuthenticAMD"
#define HYGON "HygonGenuine"

struct x86_model {
    const char *name, *parent, *alias, *note, *vendor;
    unsigned family, model;
    int stepping;
    uint32_t level, xlevel;
    uint8_t cache;
    const char *brand, *delta;
    bool version; /* a V row: identity comes from the parent */
};
static const struct x86_model models[] = {
#define M(n, p, v, f, m, s, l, x, c, b, d)                                                                             \
    {.name = (n),                                                                                                      \
     .parent = (p),                                                                                                    \
     .vendor = (v),                                                                                                    \
     .family = (f),                                                                                                    \
     .model = (m),                                                                                                     \
     .stepping = (s),                                                                                                  \
     .level = (l),                                                                                                     \
     .xlevel = (x),                                                                                                    \
     .cache = CACHE_##c,                                                                                               \
     .brand = (b),                                                                                                     \
     .delta = (d)},
#define V(n, p, s, a, no, b, d)                                                                                        \
    {.name = (n),                                                                                                      \
     .parent = (p),                                                                                                    \
     .stepping = (s),                                                                                                  \
     .alias = (a),                                                                                                     \
     .note = (no),                                                                                                     \
     .brand = (b),                                                                                                     \
     .delta = (d),                                                                                                     \
     .version = true},
#include "guest/x86/models.def"
#undef M
#undef V
};
/* Models that are not in the table: computed from what there is. */
static const struct x86_model model_max = {.name = "max", .brand = "everything the accelerator offers on this host"};
static const struct x86_model model_host = {.name = "host", .brand = "the host's own processor (needs KVM)"};
static const struct x86_model model_base = {.name = "base", .brand = "no features at all"};
static const struct x86_model *const specials[] = {&model_base, &model_host, &model_max};

/* True when name is the plain name plus "-v1". */
static bool is_v1(const struct x86_model *m, const char *name)
{
    size_t n = strlen(m->name);

    return !m->version && strncmp(name, m->name, n) == 0 && strcmp(name + n, "-v1") == 0;
}

static const struct x86_model *model_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        const struct x86_model *m = &models[i];

        if (strcmp(m->name, name) == 0 || (m->alias && strcmp(m->alias, name) == 0) || is_v1(m, name))
            return m;
    }
    for (size_t i = 0; i < ARRAY_LEN(specials); i++)
        if (strcmp(specials[i]->name, name) == 0)
            return specials[i];
    return NULL;
}

/* Applies a delta string: names add, "-name" removes. */
static void apply_delta(struct x86_features *f, const char *delta)
{
    char one[40];

    while (*(delta += strspn(delta, " "))) {
        size_t n = strcspn(delta, " ");
        bool off = *delta == '-';

        snprintf(one, sizeof one, "%.*s", (int)n - off, delta + off);
        if (!x86_features_set(f, one, !off))
            assert(!"models.def names known features");
        delta += n;
    }
}

enum { AMD_MIRROR = 0x0183f3ff }; /* bits of leaf 1 EDX that AMD repeats in 80000001h EDX */

static void model_build(const struct x86_model *m, struct x86_features *f)
{
    const struct x86_model *p = m->parent ? model_find(m->parent) : NULL;

    if (p)
        model_build(p, f);
    else
        f->w[X86_FW_80000001_EDX] = 0;
    apply_delta(f, m->delta);
    f->stepping = (uint32_t)m->stepping;
    snprintf(f->model_id, sizeof f->model_id, "%s", m->brand);
    if (m->version)
        return;
    snprintf(f->vendor, sizeof f->vendor, "%s", m->vendor);
    f->family = m->family;
    f->model = m->model;
    f->level = m->level;
    f->xlevel = m->xlevel;
    f->cache = m->cache;
}

/* ---- options ---- */

struct parse {
    struct x86_features *f;
    struct x86_features asked; /* bits the text switched on: they are reported even when the model is "max" */
    struct err **errp;
    uint32_t min_level, min_xlevel, phys_limit;
    bool enforce, check, host_phys_bits, level_set, xlevel_set, hv_any;
};

static bool opt_bool(struct parse *p, const char *key, const char *val, bool *out)
{
    if (str_to_bool(val, out))
        return true;
    return err_set(p->errp, "-cpu: %s takes on or off, not '%s'", key, val);
}

static bool opt_num(struct parse *p, const char *key, const char *val, uint64_t max, uint64_t *out)
{
    if (str_to_u64(val, out) && *out <= max)
        return true;
    return err_set(p->errp, "-cpu: %s=%s is not a number from 0 to %" PRIu64, key, val, max);
}

/* Switches with a bool of their own. */
static bool *bool_field(struct parse *p, const char *key)
{
    struct x86_features *f = p->f;
    static const char *const names[] = {"enforce",    "check",           "host-phys-bits", "pmu",
                                        "l3-cache",   "host-cache-info", "migratable",     "hv-relaxed",
                                        "hv-vapic",   "hv-time",         "hv-vpindex",     "hv-frequencies",
                                        "hv-runtime", "hv-reset",        "hv-passthrough"};
    bool *const fields[] = {&p->enforce,    &p->check,          &p->host_phys_bits, &f->pmu,      &f->l3_cache,
                            &f->host_cache, &f->migratable,     &f->hv_relaxed,     &f->hv_vapic, &f->hv_time,
                            &f->hv_vpindex, &f->hv_frequencies, &f->hv_runtime,     &f->hv_reset, &f->hv_passthrough};

    static_assert(ARRAY_LEN(names) == ARRAY_LEN(fields), "one field per name");
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (x86_name_eq(names[i], key))
            return fields[i];
    return NULL;
}

/* Switches accepted because nothing here depends on them. */
static bool is_noop_switch(const char *key)
{
    static const char *const names[] = {"x-intel-pt-auto-level",
                                        "x-force-features",
                                        "fill-mtrr-mask",
                                        "full-cpuid-auto-level",
                                        "tcg-cpuid",
                                        "legacy-cache",
                                        "lmce",
                                        "kvm-no-smi-migration",
                                        "hv-no-nonarch-coresharing",
                                        "kvm-pv-enforce-cpuid",
                                        "hotpluggable",
                                        "realized",
                                        "start-powered-off",
                                        "vmware-cpuid-freq",
                                        "start-in-tz",
                                        "x-migrate-smi-count",
                                        "hv-enforce-cpuid"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (x86_name_eq(names[i], key))
            return true;
    return false;
}

enum opt_result { OPT_NO /* not one of these */, OPT_OK, OPT_BAD };

static enum opt_result opt_number(struct parse *p, const char *key, const char *val)
{
    static const struct {
        const char *name;
        uint64_t max;
    } nums[] = {{"family", 270},
                {"model", 255},
                {"stepping", 15},
                {"level", 0x20},
                {"xlevel", UINT32_MAX},
                {"phys-bits", 52},
                {"tsc-frequency", INT64_MAX},
                {"hv-spinlocks", UINT32_MAX},
                {"min-level", 0x20},
                {"min-xlevel", UINT32_MAX},
                {"host-phys-bits-limit", 52}};
    struct x86_features *f = p->f;
    unsigned i;
    uint64_t v;

    for (i = 0; i < ARRAY_LEN(nums) && !x86_name_eq(nums[i].name, key); i++)
        ;
    if (i == ARRAY_LEN(nums))
        return OPT_NO;
    if (!opt_num(p, key, val, nums[i].max, &v))
        return OPT_BAD;
    switch (i) {
    case 0:
        f->family = (uint32_t)v;
        break;
    case 1:
        f->model = (uint32_t)v;
        break;
    case 2:
        f->stepping = (uint32_t)v;
        break;
    case 3:
        f->level = (uint32_t)v;
        p->level_set = true;
        break;
    case 4:
        f->xlevel = (uint32_t)v;
        p->xlevel_set = true;
        break;
    case 5:
        if (v < 32) {
            err_set(p->errp, "-cpu: phys-bits must be from 32 to 52, not %" PRIu64, v);
            return OPT_BAD;
        }
        f->phys_bits = (uint32_t)v;
        break;
    case 6:
        f->tsc_hz = v;
        break;
    case 7:
        f->hv_spinlocks = (uint32_t)v;
        p->hv_any = true;
        break;
    case 8:
        p->min_level = (uint32_t)v;
        break;
    case 9:
        p->min_xlevel = (uint32_t)v;
        break;
    default:
        p->phys_limit = (uint32_t)v;
        break;
    }
    return OPT_OK;
}

static enum opt_result opt_text(struct parse *p, const char *key, const char *val)
{
    struct x86_features *f = p->f;

    if (x86_name_eq(key, "vendor")) {
        if (strlen(val) != 12) {
            err_set(p->errp, "-cpu: vendor must have 12 characters, not '%s'", val);
            return OPT_BAD;
        }
        snprintf(f->vendor, sizeof f->vendor, "%s", val);
    } else if (x86_name_eq(key, "model-id")) {
        snprintf(f->model_id, sizeof f->model_id, "%s", val);
    } else if (x86_name_eq(key, "hv-vendor-id")) {
        if (strlen(val) > 12) {
            err_set(p->errp, "-cpu: hv-vendor-id has at most 12 characters");
            return OPT_BAD;
        }
        memset(f->hv_vendor, 0, sizeof f->hv_vendor);
        memcpy(f->hv_vendor, val, strlen(val));
    } else {
        return OPT_NO;
    }
    return OPT_OK;
}

static enum opt_result opt_switch(struct parse *p, const char *key, const char *val)
{
    bool *field = bool_field(p, key), kvm = x86_name_eq(key, "kvm"), on;

    if (!field && !kvm && !is_noop_switch(key))
        return OPT_NO;
    if (!opt_bool(p, key, val, &on))
        return OPT_BAD;
    if (field)
        *field = on;
    if (kvm)
        p->f->kvm_hidden = !on;
    if (on && field && (str_starts(key, "hv-") || str_starts(key, "hv_")))
        p->hv_any = true;
    return OPT_OK;
}

static void near_feature(const char *name, void *opaque)
{
    str_nearest_try(opaque, name);
}

static bool unknown_key(struct parse *p, const char *key)
{
    static const char *const keys[] = {"vendor",
                                       "model-id",
                                       "family",
                                       "model",
                                       "stepping",
                                       "level",
                                       "xlevel",
                                       "phys-bits",
                                       "host-phys-bits",
                                       "tsc-frequency",
                                       "enforce",
                                       "check",
                                       "kvm",
                                       "migratable",
                                       "l3-cache",
                                       "pmu",
                                       "hv-relaxed",
                                       "hv-spinlocks",
                                       "hv-vapic",
                                       "hv-time",
                                       "hv-vpindex",
                                       "hv-frequencies",
                                       "hv-runtime",
                                       "hv-reset",
                                       "hv-vendor-id",
                                       "host-cache-info"};
    struct str_nearest n;

    if (str_starts(key, "hv-") || str_starts(key, "hv_")) {
        static const char *const known[] = {"hv-synic",        "hv-stimer",          "hv-stimer-direct",
                                            "hv-crash",        "hv-reenlightenment", "hv-tlbflush",
                                            "hv-ipi",          "hv-evmcs",           "hv-avic",
                                            "hv-emsr-bitmap",  "hv-syndbg",          "hv-xmm-input",
                                            "hv-tlbflush-ext", "hv-tlbflush-direct", "hv-apicv"};

        for (size_t i = 0; i < ARRAY_LEN(known); i++)
            if (x86_name_eq(known[i], key))
                return err_set(p->errp, "-cpu: the enlightenment %s is not offered", key);
    }
    err_set(p->errp, "-cpu: unknown feature or option '%s'", key);
    str_nearest_init(&n, key);
    x86_feature_each(near_feature, &n);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        str_nearest_try(&n, keys[i]);
    if (n.best)
        err_hint(p->errp, "did you mean '%s'?", n.best);
    return false;
}

static bool set_feature(struct parse *p, const char *key, bool on)
{
    x86_features_set(&p->asked, key, on);
    return x86_features_set(p->f, key, on);
}

/* One key=value; bare words come as "on". */
static bool parse_pair(struct parse *p, const char *key, const char *val)
{
    enum opt_result r = opt_number(p, key, val);
    enum x86_fword w;
    unsigned bit;
    bool on;

    if (r == OPT_NO)
        r = opt_text(p, key, val);
    if (r == OPT_NO)
        r = opt_switch(p, key, val);
    if (r != OPT_NO)
        return r == OPT_OK;
    if (!x86_feature_find(key, &w, &bit))
        return unknown_key(p, key);
    return opt_bool(p, key, val, &on) && set_feature(p, key, on);
}

static bool parse_word(struct parse *p, const struct opt *o)
{
    if (o->bare && (*o->key == '+' || *o->key == '-'))
        return set_feature(p, o->key + 1, *o->key == '+') || unknown_key(p, o->key + 1);
    return parse_pair(p, o->key, o->val);
}

/* ---- what cannot be offered ---- */

static void mask_features(struct parse *p, const char *text, const struct x86_features *mask, bool quiet,
                          struct strbuf *missing)
{
    struct x86_features *f = p->f;

    for (unsigned w = 0; w < X86_FW_NR; w++) {
        uint32_t gone = f->w[w] & ~mask->w[w];

        if (w == X86_FW_80000001_EDX)
            gone &= ~(uint32_t)AMD_MIRROR; /* follows leaf 1 */
        f->w[w] &= ~gone;
        if (quiet)
            gone &= p->asked.w[w];
        for (unsigned b = 0; b < 32; b++) {
            const char *name = gone >> b & 1 ? x86_feature_name(w, b) : NULL;

            if (name)
                str_addf(missing, "%s%s", missing->len ? ", " : "", name);
        }
    }
}

static void raise_level(uint32_t *level, uint32_t least)
{
    if (*level < least)
        *level = least;
}

/* Leaves needed to show the features that are on; AMD's repeated bits; the address sizes. */
static void finish(struct parse *p, const struct x86_features *mask)
{
    struct x86_features *f = p->f;

    x86_features_close(f);
    raise_level(&f->level, p->min_level);
    raise_level(&f->xlevel, p->min_xlevel);
    if (!p->level_set) {
        if (f->w[X86_FW_7_EBX] | f->w[X86_FW_7_ECX] | f->w[X86_FW_7_EDX] | f->w[X86_FW_7_1_EAX])
            raise_level(&f->level, 7);
        if (f->w[X86_FW_6_EAX])
            raise_level(&f->level, 6);
        if (x86_has(f, X86_F_XSAVE))
            raise_level(&f->level, 13);
    }
    if (!p->xlevel_set) {
        if (f->w[X86_FW_80000001_EDX] | f->w[X86_FW_80000001_ECX])
            raise_level(&f->xlevel, 0x80000001);
        if (f->w[X86_FW_80000007_EDX] | f->w[X86_FW_80000008_EBX])
            raise_level(&f->xlevel, 0x80000008);
        if (f->w[X86_FW_8000000A_EDX])
            raise_level(&f->xlevel, 0x8000000a);
    }
    if (strcmp(f->vendor, AMD) == 0)
        f->w[X86_FW_80000001_EDX] =
            (f->w[X86_FW_80000001_EDX] & ~(uint32_t)AMD_MIRROR) | (f->w[X86_FW_1_EDX] & AMD_MIRROR);
    if (p->host_phys_bits && mask->phys_bits)
        f->phys_bits = p->phys_limit ? (uint32_t)min_u64(mask->phys_bits, p->phys_limit) : mask->phys_bits;
    if (!f->phys_bits)
        f->phys_bits = x86_has(f, X86_F_LM) ? 40 : f->w[X86_FW_1_EDX] & 1u << 17 ? 36 : 32;
    f->virt_bits = f->w[X86_FW_7_ECX] & 1u << 16 ? 57 : 48;
    f->hypervisor = f->w[X86_FW_1_ECX] >> 31;
    f->kvm_leaves = mask->kvm_leaves;
    if (f->hv_passthrough)
        f->hv_relaxed = f->hv_vapic = f->hv_time = f->hv_vpindex = f->hv_frequencies = f->hv_runtime = f->hv_reset =
            true;
    if (p->hv_any && !*f->hv_vendor)
        strcpy(f->hv_vendor, "Microsoft Hv");
}

static bool report_missing(struct parse *p, const char *name, struct strbuf *missing)
{
    if (!missing->len)
        return true;
    if (p->enforce) {
        err_set(p->errp, "CPU model '%s': not available here: %s", name, missing->s);
        err_hint(p->errp, "drop 'enforce', or switch these off with -feature");
        return false;
    }
    if (p->check)
        warn_report("CPU model '%s': not available here and left out: %s", name, missing->s);
    return true;
}

static void model_start(const struct x86_model *m, const struct x86_features *mask, struct x86_features *f)
{
    if (m == &model_max || m == &model_host) {
        *f = *mask;
        memset(f->hv_vendor, 0, sizeof f->hv_vendor);
        x86_features_set(f, "hypervisor", true);
        x86_features_set(f, "invtsc", false); /* would forbid moving to another host */
        x86_features_set(f, "ht", false);
    } else if (m != &model_base) {
        model_build(m, f);
        x86_features_set(f, "hypervisor", true);
    }
    f->l3_cache = f->migratable = true;
}

static bool unknown_model(const char *name, struct err **errp)
{
    struct str_nearest n;

    err_set(errp, "unable to find CPU model '%s'", name);
    str_nearest_init(&n, name);
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        str_nearest_try(&n, models[i].name);
        if (models[i].alias)
            str_nearest_try(&n, models[i].alias);
    }
    for (size_t i = 0; i < ARRAY_LEN(specials); i++)
        str_nearest_try(&n, specials[i]->name);
    if (n.best)
        err_hint(errp, "did you mean '%s'? '-cpu help' lists all", n.best);
    else
        err_hint(errp, "'-cpu help' lists all");
    return false;
}

static bool parse_opts(struct parse *p, const char *rest)
{
    struct opts *o = opts_parse(rest, NULL, p->errp);
    struct opt *it;
    bool ok = true;

    if (!o)
        return false;
    opts_each (it, o)
        if (ok)
            ok = parse_word(p, it);
    opts_free(o);
    return ok;
}

bool x86_cpu_parse_model(const char *text, const struct x86_features *mask, struct x86_features *out,
                         const struct x86_model **model, struct err **errp)
{
    size_t n = strcspn(text, ",");
    AUTOFREE char *name = xstrndup(text, n);
    const struct x86_model *m = model_find(name);
    struct strbuf missing CLEANUP(str_free) = {0};
    struct x86_features own;
    struct parse p = {.f = out, .errp = errp, .check = true};

    if (!m)
        return unknown_model(name, errp);
    if (m == &model_host && !mask) {
        err_set(errp, "CPU model 'host' requires KVM");
        err_hint(errp, "use -accel kvm, or -cpu max for all the translator offers");
        return false;
    }
    if (!mask) {
        x86_features_max(&own);
        mask = &own;
    }
    memset(out, 0, sizeof *out);
    model_start(m, mask, out);
    if (text[n] && !parse_opts(&p, text + n + 1))
        return false;
    mask_features(&p, name, mask, m == &model_max || m == &model_host, &missing);
    if (!report_missing(&p, name, &missing))
        return false;
    if (out->pmu)
        warn_report("-cpu: pmu=on: performance counters are not offered; the guest sees none");
    finish(&p, mask);
    if (model)
        *model = m;
    return true;
}

/* ---- lists ---- */

struct row {
    const char *name;
    char *desc; /* owned */
};

static int row_cmp(const void *a, const void *b)
{
    return strcmp(((const struct row *)a)->name, ((const struct row *)b)->name);
}

static void each_row(const struct x86_model *m, void (*fn)(const char *, const char *, void *), void *opaque)
{
    AUTOFREE char *v1 = NULL;

    if (!m->version) {
        AUTOFREE char *full = xasprintf("%s-v1", m->name);

        /* A plain row whose name already carries a version has no -v1 of its own. */
        if (strstr(m->name, "-v")) {
            fn(m->name, m->brand, opaque);
            return;
        }
        fn(m->name, "(alias of the first version)", opaque);
        fn(full, m->brand, opaque);
        return;
    }
    if (m->alias) {
        v1 = xasprintf("(alias of %s)", m->name);
        fn(m->alias, v1, opaque);
    }
    if (m->note) {
        AUTOFREE char *d = xasprintf("%s [%s]", m->brand, m->note);

        fn(m->name, d, opaque);
    } else {
        fn(m->name, m->brand, opaque);
    }
}

void x86_model_each(void (*fn)(const char *name, const char *desc, void *opaque), void *opaque)
{
    for (size_t i = 0; i < ARRAY_LEN(models); i++)
        each_row(&models[i], fn, opaque);
    for (size_t i = 0; i < ARRAY_LEN(specials); i++)
        fn(specials[i]->name, specials[i]->brand, opaque);
}

char *x86_model_alias_of(const char *name)
{
    const struct x86_model *m = model_find(name);

    if (!m || m == &model_max || m == &model_host || m == &model_base || is_v1(m, name))
        return NULL;
    if (m->version)
        return m->alias && strcmp(m->alias, name) == 0 ? xstrdup(m->name) : NULL;
    return strstr(m->name, "-v") ? NULL : xasprintf("%s-v1", m->name);
}

void x86_features_each(const struct x86_features *f, void (*fn)(const char *name, bool on, void *opaque), void *opaque)
{
    for (unsigned w = 0; w < X86_FW_NR; w++)
        for (unsigned b = 0; b < 32; b++)
            if (x86_feature_name(w, b))
                fn(x86_feature_name(w, b), f->w[w] >> b & 1, opaque);
}

void x86_model_missing(const char *name, const struct x86_features *mask, void (*fn)(const char *feature, void *opaque),
                       void *opaque)
{
    const struct x86_model *m = model_find(name);
    struct x86_features f = {0}, own;

    if (!m || m == &model_max || m == &model_host)
        return;
    if (!mask) {
        x86_features_max(&own);
        mask = &own;
    }
    model_start(m, mask, &f);
    for (unsigned w = 0; w < X86_FW_NR; w++)
        for (unsigned b = 0; b < 32; b++)
            if (f.w[w] & ~mask->w[w] & 1u << b && x86_feature_name(w, b))
                fn(x86_feature_name(w, b), opaque);
}

struct rows {
    struct row r[256];
    unsigned nr;
};

static void row_take(const char *name, const char *desc, void *opaque)
{
    struct rows *rs = opaque;

    if (rs->nr == ARRAY_LEN(rs->r))
        return;
    rs->r[rs->nr].name = xstrdup(name);
    rs->r[rs->nr++].desc = xstrdup(desc ? desc : "");
}

static void flag_line(const char *name, void *opaque)
{
    struct strbuf *b = opaque;
    const char *nl = b->s ? strrchr(b->s, '\n') : NULL;

    if (nl && strlen(nl) + strlen(name) > 76)
        str_add(b, "\n ");
    str_addf(b, " %s", name);
}

char *x86_model_help(void)
{
    struct strbuf b = {0};
    struct rows *rs = xnew(struct rows);

    x86_model_each(row_take, rs);
    qsort(rs->r, rs->nr, sizeof rs->r[0], row_cmp);
    str_add(&b, "Available CPUs:\n");
    for (unsigned i = 0; i < rs->nr; i++) {
        str_addf(&b, "x86 %-20s  %s\n", rs->r[i].name, rs->r[i].desc);
        free((char *)rs->r[i].name);
        free(rs->r[i].desc);
    }
    free(rs);
    str_add(&b, "\nRecognized CPUID flags:\n ");
    x86_feature_each(flag_line, &b);
    str_add(&b, "\n");
    return str_take(&b);
}
